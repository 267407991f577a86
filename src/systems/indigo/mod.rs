//! Indigo home control: seven WebSocket feeds and HTTP commands. Facts: `protocols/indigo.md` of
//! the project's notes, after Indigo's own documentation.

pub mod patch;
pub mod diff;
pub mod wire;
pub mod stand_in;
pub mod mirror;
pub mod reconcile;
pub mod requests;
pub mod sync;
pub mod local_time;
pub mod news;
pub mod log;
pub mod commands;
pub mod orders;
pub mod session;
pub mod client;
pub mod sim;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use url::Url;

use super::Certificate;
use super::link::Link;
use crate::secret::Secret;

pub use commands::COMMANDS;
pub use news::types;

/// One `[indigo.<name>]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `ws://192.168.0.5:8176`.
    pub url: Url,
    /// An API key or local secret.
    pub api_key: Option<Secret>,
    /// Send the key as `?api-key=` instead of in a header.
    pub key_in_query: bool,
    /// How its certificate is judged, if the address is `wss://`.
    pub certificate: Certificate,
    /// The server's own zone: its timestamps name none.
    pub time_zone: TimeZone,
    /// Which feeds to listen to.
    pub feeds: Vec<Feed>,
    /// How often everything is fetched anew, against silent drift.
    pub refresh: Duration,
}

/// A feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feed {
    /// Devices.
    Device,
    /// Variables.
    Variable,
    /// Action groups.
    Action,
    /// Schedules.
    Schedule,
    /// Triggers.
    Trigger,
    /// Control pages.
    Page,
    /// The event log.
    Log,
}

impl Feed {
    /// All seven.
    pub const ALL: [Feed; 7] = [
        Feed::Device,
        Feed::Variable,
        Feed::Action,
        Feed::Schedule,
        Feed::Trigger,
        Feed::Page,
        Feed::Log,
    ];

    /// The word in the config, in event types, in paths and in the feed's address.
    pub fn as_str(self) -> &'static str {
        match self {
            Feed::Device => "device",
            Feed::Variable => "variable",
            Feed::Action => "action",
            Feed::Schedule => "schedule",
            Feed::Trigger => "trigger",
            Feed::Page => "page",
            Feed::Log => "log",
        }
    }
}

/// Now, by two clocks: one that people read and that may be set, and one that only goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub at: Timestamp,
    /// Since the driver's start.
    pub up: Duration,
}

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    client::run(config, link).await;
}
