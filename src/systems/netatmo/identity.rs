//! Which fact a webhook reports, as an [`EventId`]: the same fact heard again must get the same
//! id, another fact another one. Pure.
//!
//! `event_id` alone will not do: somebody seen, their ring and the missed call share one. What a
//! body carries decides among four classes:
//!
//! | the body has | its id is made from | heard again |
//! |---|---|---|
//! | a ring or the end of a call, with `session_id` | the session | never, however late |
//! | `event_id`, `subevent_id` or `session_id` | those, the kind, the device and module, `sub_type`, `rtc_type`, the person | never, however late |
//! | none of those, but a timestamp | all its fields | never, however late |
//! | nothing of its own: `webhook_activation`, `topology_changed`, most `light_mode` | all its fields and the minute | not within the minute, nor across its edge |
//!
//! "All its fields" leaves out `message` (in the user's language) and how the event is named.

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::event::EventId;

use super::fields::Fields;
use super::names::Role;
use super::normalise::Frame;

/// How long a body that carries nothing of its own counts as the same fact. A sender that repeats
/// itself does so within seconds; the next daily activation is hours away.
pub const BUCKET_S: i64 = 60;

/// The name of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The event's id.
    pub id: EventId,
    /// The id it would have had a bucket earlier, for facts known only by their time: if either
    /// is known, the fact is.
    pub also: Option<EventId>,
}

impl Identity {
    fn lasting<'a>(parts: impl IntoIterator<Item = &'a str>) -> Identity {
        Identity { id: EventId::derive(parts), also: None }
    }

    /// For what carries nothing of its own.
    fn passing(source: &str, name: &str, person: &str, content: &str, now: Timestamp) -> Identity {
        let bucket = now.as_second().div_euclid(BUCKET_S);
        let id = |bucket: i64| {
            let bucket = bucket.to_string();
            EventId::derive(["netatmo-passing", source, name, person, content, &bucket])
        };
        Identity { id: id(bucket), also: Some(id(bucket - 1)) }
    }
}

/// Names the fact that `frame` reports about `person`.
pub fn of(
    source: &str,
    frame: &Frame<'_>,
    person: Option<&Fields<'_>>,
    now: Timestamp,
) -> Identity {
    let get = |name| frame.data.text(name).unwrap_or_default();
    let (event, subevent, session) = (get("event_id"), get("subevent_id"), get("session_id"));
    match (frame.kind.role, session.is_empty(), event.is_empty()) {
        (Role::Ring, false, _) => return Identity::lasting(["netatmo-ring", source, session]),
        (Role::Ring, true, false) => {
            return Identity::lasting(["netatmo-ring-event", source, event, subevent]);
        }
        (Role::Ended, false, _) => {
            return Identity::lasting(["netatmo-call-ended", source, session]);
        }
        _ => {}
    }
    let person = person.map(who).unwrap_or_else(|| get("person_id").to_owned());
    let name = frame.kind.name;
    if [event, subevent, session].iter().any(|own| !own.is_empty()) {
        let sub_type = frame.data.get("sub_type").map(Value::to_string).unwrap_or_default();
        let (what, signal) = (get("event_type"), get("rtc_type"));
        let (device, module) = (get("device_id"), get("module_id"));
        return Identity::lasting([
            source, name, what, event, subevent, session, device, module, &sub_type, signal,
            &person,
        ]);
    }
    let content = content(&frame.data);
    match frame.time {
        Some(_) => Identity::lasting(["netatmo-stamped", source, name, &person, &content]),
        None => Identity::passing(source, name, &person, &content, now),
    }
}

/// Names a body that could not be read: by its bytes and the minute.
pub fn of_bytes(source: &str, name: &str, body: &[u8], now: Timestamp) -> Identity {
    let digest: [u8; 32] = Sha256::digest(body).into();
    let (high, low) = digest.split_at(16);
    let number = |half: &[u8]| half.iter().fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
    let content = format!("{:032x}{:032x}", number(high), number(low));
    Identity::passing(source, name, "", &content, now)
}

/// What tells one person of a body from the others.
fn who(person: &Fields<'_>) -> String {
    let own = ["person_id", "face_id", "face_url"].into_iter().find_map(|name| person.text(name));
    own.map_or_else(|| content(person), String::from)
}

/// All fields in the order of their names, whatever the body's.
fn content(data: &Fields<'_>) -> String {
    let named_apart = |name: &str| matches!(name, "message" | "push_type" | "product");
    let kept = data.sorted().into_iter().filter(|(name, _)| !named_apart(name));
    kept.fold(String::new(), |mut all, (name, value)| {
        all.push_str(name);
        all.push('=');
        all.push_str(&value.to_string());
        all.push('\n');
        all
    })
}
