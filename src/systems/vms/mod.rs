//! aipix VMS: a video system with the block's intercoms, REST with a token. Facts:
//! `protocols/vms.md` of the project's notes, after the vendor's pages and its own SDKs.
//!
//! Intercoms and calls are polled: the VMS tells nobody that somebody rings but phones, by the
//! push services of their makers. [`wire`] reads and makes what goes over the line, [`session`]
//! decides what is asked and what an answer means, `client` does it.

pub mod wire;
pub mod session;
pub mod sim;
mod client;
mod commands;

use std::time::Duration;

use url::Url;

use super::Certificate;
use super::link::Link;
use crate::secret::Secret;

/// One `[vms.<name>]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://vms.example.org`.
    pub url: Url,
    /// The user's login.
    pub login: String,
    /// Its password.
    pub password: Option<Secret>,
    /// How its certificate is judged.
    pub certificate: Certificate,
    /// Which intercoms; all that the account has, if none are named.
    pub intercoms: Vec<u64>,
    /// How often intercoms are asked for.
    pub poll: Duration,
    /// How often calls are asked for: a ring is news for seconds.
    pub poll_calls: Duration,
    /// The value of `X-Client`, on which the vendor's pages and its SDKs disagree.
    pub client: String,
}

pub use self::commands::COMMANDS;

/// Every `vms.*` event type there is; `docs/events.md` describes each.
pub const TYPES: &[&str] = &[
    "vms.ring",
    "vms.call.answered",
    "vms.call.ended",
    "vms.call.missed",
    "vms.intercom.online",
    "vms.intercom.offline",
    "vms.intercom.enabled",
    "vms.intercom.disabled",
    "vms.intercom.renamed",
    "vms.intercom.appeared",
    "vms.intercom.gone",
    "vms.certificate_changed",
];

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    client::run(config, link).await;
}
