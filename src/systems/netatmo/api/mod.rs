//! Netatmo's cloud: OAuth, the webhook's registration, what happened while nobody listened, names
//! and states, and commands. Facts: `protocols/netatmo.md` of the project's notes.

use url::Url;

use crate::command::Spec;
use crate::secret::Secret;
use crate::systems::link::Link;

pub mod sim;

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

/// What Netatmo's cloud can be told.
pub static COMMANDS: &[Spec] = &[];

/// Runs until Portero stops.
pub async fn run(_config: Config, link: Link) {
    link.stopping.cancelled().await;
}
