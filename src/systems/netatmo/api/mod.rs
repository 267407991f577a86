//! Netatmo's cloud: OAuth, the webhook's registration, what happened while nobody listened, names
//! and states, and commands. Facts: `protocols/netatmo.md` of the project's notes.
//!
//! [`wire`] reads and makes what goes over the line; [`oauth`], [`registration`], [`gap`] and
//! [`homes`] each hold one thing that changes; [`session`] decides what is asked and what an answer
//! means; `client` does it. [`Cloud`] is how the web speaks to all that.

pub mod wire;
pub mod oauth;
pub mod registration;
pub mod gap;
pub mod homes;
pub mod session;
pub mod sim;
mod client;
mod cloud;
mod commands;

use url::Url;

use crate::secret::Secret;
use crate::systems::link::Link;

pub use self::cloud::{CallHeard, Cloud, CloudInbox, Names};
pub use self::commands::COMMANDS;

/// The cloud's part of `[netatmo.<name>]`; without a client id there are webhooks only.
#[derive(Debug, Clone)]
pub struct Config {
    /// The user's name for the account.
    pub name: String,
    /// The app's client id.
    pub client_id: String,
    /// The app's client secret.
    pub client_secret: Option<Secret>,
    /// The first refresh token; a later one that was kept takes its place.
    pub refresh_token: Option<Secret>,
    /// `https://api.netatmo.com`.
    pub api: Url,
    /// Where the page is served; webhooks come to `hooks/netatmo/<name>` below it.
    pub public_url: Url,
}

impl Config {
    /// Where a person consents, and where Netatmo's page sends them back to.
    pub fn consent_url(&self) -> String {
        let base = self.public_url.as_str().trim_end_matches('/');
        format!("{base}/oauth/netatmo/{}", self.name)
    }

    /// Netatmo's page that asks a person; `state` comes back with the answer.
    pub fn authorize_url(&self, state: &str) -> Url {
        let mut url = self.api.clone();
        url.set_path(&format!("{}/oauth2/authorize", self.api.path().trim_end_matches('/')));
        url.query_pairs_mut()
            .append_pair("client_id", &self.client_id)
            .append_pair("redirect_uri", &self.consent_url())
            .append_pair("scope", wire::SCOPES)
            .append_pair("state", state)
            .append_pair("response_type", "code");
        url
    }
}

/// Every event type that the cloud makes beside those of webhooks; `docs/events.md` describes each.
pub const TYPES: &[&str] = &[
    "netatmo.consent_needed",
    "netatmo.webhook_failed",
    "netatmo.module_unreachable",
    "netatmo.module_reachable",
    "netatmo.tag_status",
];

/// Runs until Portero stops.
pub async fn run(config: Config, inbox: CloudInbox, link: Link) {
    client::run(config, inbox, link).await;
}
