//! aipix VMS: a video system with the block's intercoms, REST with a token. Facts:
//! `protocols/vms.md` of the project's notes, after the vendor's pages and its own SDKs.

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

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    client::run(config, link).await;
}
