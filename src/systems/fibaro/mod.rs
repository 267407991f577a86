//! FIBARO Intercom: JSON-RPC 2.0 over a WebSocket. Facts: the vendor's API page, corrected by what
//! public clients found on real devices. Here: the config, and what runs.

pub mod client;
pub mod commands;
pub mod mirror;
pub mod names;
pub mod session;
pub mod sim;
pub mod wire;

use std::collections::BTreeMap;

use url::Url;

use super::Certificate;
use super::link::Link;
use super::tls::{self, Fingerprint};
use crate::secret::Secret;
pub use commands::{COMMANDS, TRUST_CERTIFICATE};

/// What an intercom's signals, and its certificate, become.
pub const TYPES: &[&str] = &[
    "fibaro.relay",
    "fibaro.button",
    "fibaro.day_night",
    "fibaro.proximity",
    "fibaro.certificate_changed",
];

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
pub async fn run(config: Config, link: Link) {
    for key in names::unknown_keys(&config.names) {
        let source = &link.source;
        tracing::warn!(source, key, "`names` has a key that names nothing; see docs/fibaro.md");
    }
    client::run(config, link).await;
}

/// A certificate's SHA-256 as people copy it, with or without `sha256:` before it.
pub fn fingerprint(text: &str) -> Option<Fingerprint> {
    tls::parse(text).or_else(|| tls::parse(&format!("sha256:{}", text.trim())))
}
