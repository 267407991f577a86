//! Outgoing webhooks: what a rule tells another program, signed as the Standard Webhooks
//! specification says, so that its receiver can check who sent it and drop what comes twice. It
//! hears nothing.

mod client;
pub mod sign;

use url::Url;

use super::link::Link;
use crate::command::{Arg, Kind, Repeat, Spec};
use crate::secret::Secret;

/// One `[webhook.<name>]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to post.
    pub url: Url,
    /// The key of the signatures: `whsec_` and base64, or any text.
    pub secret: Option<Secret>,
}

/// What a receiver can be told.
pub static COMMANDS: &[Spec] = &[Spec {
    name: "post",
    about: "Posts JSON, signed",
    args: &[
        Arg {
            name: "type",
            kind: Kind::Text,
            required: false,
            about: "what it is, with dots; portero.rule if not given",
        },
        Arg { name: "data", kind: Kind::Json, required: false, about: "an object of your own" },
    ],
    // The receiver drops what it has had, by its id.
    repeat: Repeat::Better,
    opens: false,
}];

/// Runs until Portero stops.
pub async fn run(config: Config, link: Link) {
    client::run(config, link).await;
}
