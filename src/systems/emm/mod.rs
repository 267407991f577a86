//! Infinity Fusion EMM, a paging system: REST with a session. Facts: `protocols/emm.md` of the
//! project's notes, after the vendor's API page.

mod alarms;
mod client;
mod commands;
mod inbox;
mod list;
pub mod notification;
mod orders;
mod recipients;
pub mod repair;
pub mod session;
pub mod sim;
pub mod wire;

use std::time::Duration;

use url::Url;

use super::Certificate;
use super::link::Link;
use crate::secret::Secret;

pub use commands::COMMANDS;

/// Every `emm.*` event type there is; `docs/events.md` describes each.
pub const TYPES: &[&str] = &[
    "emm.user_event",
    "emm.message_read",
    "emm.active_alarm",
    "emm.alarm_cleared",
    "emm.unknown",
    "emm.unparsed",
    "emm.changes_silenced",
    "emm.certificate_changed",
];

/// One `[emm.<name>]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://emm.example.org:50443/Fusion`, with whatever path it is served under.
    pub url: Url,
    /// A user of its own for Portero.
    pub username: String,
    /// Its password.
    pub password: Option<Secret>,
    /// How its certificate is judged.
    pub certificate: Certificate,
    /// How often `/changes` is drained; the vendor asks for at least 30 s.
    pub poll: Duration,
    /// Send a message's fields flat in the form instead of as one `event` parameter.
    pub flat_send: bool,
}

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    client::run(config, link).await;
}
