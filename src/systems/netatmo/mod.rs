//! Netatmo Security: signed webhooks, which become `netatmo.*` events (listed in
//! `docs/events.md`). Everything here but [`sim`] is pure: bytes, trust and the moment go in,
//! events come out; HTTP, the journal and duplicates are the caller's.
//!
//! A body's way: [`signature`] says how far it can be trusted, [`wire`] reads it, [`normalise`]
//! gives it one shape, [`identity`] names the fact it reports, [`session`] ties them together with
//! the little that must be remembered of a call ([`calls`]). [`story`] makes such bodies up.

pub mod api;
pub mod signature;
pub mod names;
pub mod fields;
pub mod wire;
pub mod normalise;
pub mod identity;
pub mod calls;
pub mod session;
pub mod story;
pub mod sim;
pub mod health;

use std::collections::BTreeMap;

use crate::secret::Secret;

/// One `[netatmo.<name>]`, as far as webhooks are concerned.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The app's client secret: the key of the webhooks' signatures.
    pub client_secret: Option<Secret>,
    /// What to do about signatures.
    pub signature: Signature,
    /// The owner's names for persons, modules, devices, rooms and homes, by their ids: a webhook
    /// carries ids and hardly any names.
    pub names: BTreeMap<String, String>,
    /// The cloud API, if it is used.
    pub api: Option<api::Config>,
}

/// How strictly webhooks must be signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Signature {
    /// Only a good signature is heard.
    #[default]
    Require,
    /// A missing signature makes the event unverified (a relay may drop the header); a bad one is
    /// refused.
    IfPresent,
    /// Signatures are not looked at; every event is unverified.
    Off,
}

/// Every `netatmo.*` event type there is; `docs/events.md` describes each.
pub fn types() -> &'static [&'static str] {
    &names::TYPES
}
