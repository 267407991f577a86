//! FIBARO Intercom: JSON-RPC 2.0 over a WebSocket. Facts: `protocols/fibaro.md` of the project's
//! notes, after the vendor's API page.

pub mod commands;
pub mod mirror;
pub mod names;
pub mod session;
pub mod wire;

use std::collections::BTreeMap;

use url::Url;

use super::Certificate;
use super::link::Link;
use crate::secret::Secret;
pub use commands::{COMMANDS, TRUST_CERTIFICATE};

/// One `[fibaro.<name>]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `wss://192.168.0.19:8081/wsock`.
    pub url: Url,
    /// A user of the intercom's own list.
    pub user: String,
    /// Its password.
    pub pass: Option<Secret>,
    /// How its certificate is judged.
    pub certificate: Certificate,
    /// Method and signal names that differ from the default table, by our name for them.
    pub names: BTreeMap<String, String>,
}

/// Runs until Portero stops.
pub async fn run(_config: Config, link: Link) {
    link.stopping.cancelled().await;
}
