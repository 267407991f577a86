//! The systems Portero listens to and commands, one module each, with the same rooms: `mod` the
//! config and the table of commands, `wire` the vendor's words, `session` the state machine
//! without I/O, `client` the thin loop that runs it, `sim` a simulator. None of them knows the
//! rules, the journal or each other: all they have is a [`link::Link`].

pub mod link;
pub mod json;
pub mod backoff;
pub mod tls;
pub mod certificate;
pub mod socket;
pub mod http;
pub mod netatmo;
pub mod fibaro;
pub mod indigo;
pub mod emm;
pub mod vms;
pub mod webhook;

use serde::Deserialize;

/// How a server's certificate is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub enum Certificate {
    /// By the authorities that this machine trusts.
    #[default]
    System,
    /// The first one seen is remembered by its SHA-256; another one later is refused and alarms.
    PinFirst,
    /// Only the one with this SHA-256 over its DER form.
    Pin([u8; 32]),
    /// Any: then nobody vouches for what is heard.
    Insecure,
}
