//! A webhook's fields in one shape: which event it is, its ids as texts, its numbers with their
//! words, pictures and persons where rules look for them. Pure; keeps no memory and makes no ids.
//!
//! Nothing here fails: a field of the wrong type is left out, never guessed, and the raw body
//! stays with the event.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::fields::{FIELDS_MAX, Fields};
use super::names::{self, CALL_ENDED, Kind, RING, RTC, Role, UNKNOWN};
use super::wire::{self, Unparsable};
use crate::systems::json::Mends;

/// The most persons one body makes events for; each event keeps the raw body, so this bounds what
/// one body can cost. A camera sees a handful of faces at a time.
pub const PERSONS_MAX: usize = 32;

/// One webhook, understood.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// What it reports.
    pub kind: Kind,
    /// Its fields, without what belongs to one person.
    pub data: Fields<'a>,
    /// Fields of each person, for kinds that are about persons. Empty: one event without.
    pub persons: Vec<Fields<'a>>,
    /// When it happened, if the body says so; webhooks seldom do.
    pub time: Option<Timestamp>,
    /// What was mended to read it.
    pub mends: Mends,
}

/// Reads a body.
pub fn frame(body: &[u8]) -> Result<Frame<'_>, Unparsable> {
    let (mut data, mends) = wire::fields(body)?;
    unfold_extra_params(&mut data);
    keep_usable(&mut data);
    unfold_objects(&mut data);
    let kind = kind(&mut data);
    sub_type(kind, &mut data);
    let persons = if kind.role == Role::Persons { persons(&mut data) } else { Vec::new() };
    let time = data.get("timestamp").or_else(|| data.get("time")).and_then(moment);
    Ok(Frame { kind, data, persons, time, mends })
}

/// Some bodies carry their payload in `extra_params`, an object or one written as a text; what
/// stands there is more exact than what stands around it.
fn unfold_extra_params(data: &mut Fields<'_>) {
    let inner = match data.take("extra_params") {
        Some(Value::Object(inner)) => inner,
        Some(Value::String(text)) => match wire::fields(text.as_bytes()) {
            Ok((inner, _)) => inner.into_map(),
            Err(_) => return data.put("extra_params", text),
        },
        Some(other) => return data.put("extra_params", other),
        None => return,
    };
    let said = inner.into_iter().filter(|(_, value)| !value.is_null());
    data.put_all(said.take(FIELDS_MAX));
}

/// Drops nulls, and ids and names of events that are no texts.
fn keep_usable(fields: &mut Fields<'_>) {
    fields.retain(|name, value| {
        if name.ends_with("_id") || name == "id" {
            as_id(value)
        } else if matches!(name, "event_type" | "push_type") {
            value.as_str().is_some_and(|text| !text.trim_ascii().is_empty())
        } else {
            !value.is_null()
        }
    });
}

/// Makes an id a text; false if it is none.
fn as_id(value: &mut Value) -> bool {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
    is_id(value)
}

fn is_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| !id.is_empty())
}

/// Brings to the top what rules look for and some bodies keep in objects.
fn unfold_objects(data: &mut Fields<'_>) {
    if let Some(Value::Object(mut user)) = data.take("user") {
        // Its e-mail address is nobody's business here; the raw body has it.
        data.put_new("user_id", user.remove("id").filter(is_id));
    }
    if let Some(Value::Object(home)) = data.get("home") {
        let found = home_facts(data, home);
        found.into_iter().for_each(|(name, value)| data.put_new(name, value));
    }
    for picture in ["snapshot", "vignette"] {
        unfold_picture(data, picture);
    }
    let camera = data.get("camera_id").cloned();
    data.put_new("device_id", camera);
}

/// Ids and names that `home` knows about what the body is about.
fn home_facts(data: &Fields<'_>, home: &Map<String, Value>) -> [(&'static str, Option<Value>); 4] {
    [
        ("home_id", home.get("id").filter(|id| is_id(id)).cloned()),
        ("home_name", home.get("name").filter(|name| name.is_string()).cloned()),
        ("module_name", name_in(home.get("modules"), data.text("module_id"))),
        ("room_name", name_in(home.get("rooms"), data.text("room_id"))),
    ]
}

/// The name of the thing with this id in a list of `{id, name}`.
fn name_in(list: Option<&Value>, id: Option<&str>) -> Option<Value> {
    let id = id?;
    let mut things = list?.as_array()?.iter().filter_map(Value::as_object);
    let thing = things.find(|thing| thing.get("id").and_then(Value::as_str) == Some(id))?;
    thing.get("name").filter(|name| name.is_string()).cloned()
}

/// `snapshot: {id, key, url}` as `snapshot_id`, `snapshot_key`, `snapshot_url`; a picture that
/// is a file on the camera has a `filename` instead of a `url`.
fn unfold_picture(data: &mut Fields<'_>, picture: &str) {
    match data.take(picture) {
        Some(Value::Object(mut parts)) => {
            for part in ["url", "id", "key", "filename"] {
                let value = parts.remove(part).filter(Value::is_string);
                data.put_new(format!("{picture}_{part}"), value);
            }
        }
        Some(Value::String(place)) => {
            let part = if place.starts_with("http") { "url" } else { "filename" };
            data.put_new(format!("{picture}_{part}"), Some(place.into()));
        }
        _ => {}
    }
}

/// A field's text in small letters.
fn lower<'a>(data: &'a Fields<'_>, name: &str) -> Option<Cow<'a, str>> {
    let text = data.text(name)?.trim_ascii();
    let plain = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if plain { text.into() } else { text.to_ascii_lowercase().into() })
}

/// Which event it is. `push_type` is `<product>-<event>` or the event alone, `event_type` may be
/// missing, and they may disagree: then the one that the tables know counts, `event_type` first.
fn kind(data: &mut Fields<'_>) -> Kind {
    let pushed = lower(data, "push_type").unwrap_or_default();
    let (product, pushed) = pushed.split_once('-').unwrap_or(("", &pushed));
    let said = lower(data, "event_type").unwrap_or(pushed.into());
    let kind = names::kind(&said).or_else(|| names::kind(pushed));
    // Our spelling of it, where that is not what the body has.
    let event_type = (data.text("event_type") != Some(&*said)).then(|| said.to_string());
    let nameless = said.is_empty();
    // As sent: products are written in mixed case.
    let product = data.text("push_type").and_then(|push| push.trim_ascii().get(..product.len()));
    let product = product.filter(|product| !product.is_empty()).map(Value::from);
    data.put_new("product", product);
    if let Some(event_type) = event_type.filter(|_| !nameless) {
        data.put("event_type", event_type);
    }
    let signal = nameless || kind.is_some_and(|kind| kind.role == Role::Rtc);
    let kind = if signal { signalled(data) } else { None }.or(kind);
    if kind.is_some_and(|kind| kind.role == Role::Ring) {
        data.put("via", if signal { "rtc" } else { "incoming_call" });
    }
    if kind.is_none() {
        let event = data.text("event_type").unwrap_or_default().to_owned();
        data.put("event", event);
    }
    kind.unwrap_or(UNKNOWN)
}

/// What a WebRTC frame says by its `data.type`; takes out the module it names and drops the rest,
/// which is for video clients. None if it is no such frame.
fn signalled(data: &mut Fields<'_>) -> Option<Kind> {
    let signal = data.get("data")?.get("type")?.as_str()?.to_ascii_lowercase();
    let Some(Value::Object(mut inner)) = data.take("data") else { return None };
    if let Some(Value::Object(mut session)) = inner.remove("session_description") {
        data.put_new("module_id", session.remove("module_id").filter(is_id));
        let name = name_in(session.get("modules"), data.text("module_id"));
        data.put_new("module_name", name);
    }
    data.put("rtc_type", signal.as_str());
    Some(match signal.as_str() {
        "offer" => RING,
        "terminate" | "rescind" => {
            data.put("reason", signal);
            CALL_ENDED
        }
        _ => RTC,
    })
}

/// `sub_type` as a number where it is one, and its word as `sub_type_name`.
fn sub_type(kind: Kind, data: &mut Fields<'_>) {
    if kind.vendor == "ftp" {
        // Its message is a code, `ftp-0`, not a text in the user's language.
        let code = data.text("message").and_then(|code| code.trim_ascii().strip_prefix("ftp-"));
        let code = code.and_then(|code| code.parse::<i64>().ok()).map(Value::from);
        data.put_new("sub_type", code);
    }
    let Some(value) = data.take("sub_type") else { return };
    let number = match &value {
        Value::String(text) => text.trim_ascii().parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => return,
    };
    let word = match (number, value.as_str()) {
        (Some(number), _) => word(kind, number),
        (None, Some(text)) => Some(text.to_ascii_lowercase()),
        (None, None) => None,
    };
    if let Some(word) = word {
        data.put("sub_type_name", word);
    }
    data.put("sub_type", number.map_or(value, Value::from));
}

/// The word of a kind that has words; `unknown` for a number that the tables do not have.
fn word(kind: Kind, number: i64) -> Option<String> {
    let known = kind.words.iter().find(|(n, _)| *n == number);
    let word = known.map_or("unknown", |(_, word)| word);
    (!kind.words.is_empty()).then(|| word.to_owned())
}

/// Takes the persons out of a body, each as the fields of its own event.
fn persons<'a>(data: &mut Fields<'a>) -> Vec<Fields<'a>> {
    let list = match data.take("persons") {
        Some(Value::Array(list)) => list,
        Some(one @ (Value::Object(_) | Value::String(_))) => vec![one],
        _ => Vec::new(),
    };
    let left_out = list.len().saturating_sub(PERSONS_MAX);
    if left_out > 0 {
        data.put("persons_left_out", left_out);
    }
    list.into_iter().take(PERSONS_MAX).filter_map(person).collect()
}

fn person<'a>(value: Value) -> Option<Fields<'a>> {
    let mut given = Fields::new();
    match value {
        Value::Object(all) => given.put_all(all.into_iter().take(FIELDS_MAX)),
        Value::String(id) => given.put("id", id),
        _ => return None,
    };
    keep_usable(&mut given);
    let id = given.take("id");
    given.put_new("person_id", id);
    for name in ["name", "pseudo"] {
        let name = given.take(name).filter(Value::is_string);
        given.put_new("person", name);
    }
    if let Some(known) = given.take("is_known").and_then(|known| as_bool(&known)) {
        given.put("is_known", known);
    }
    if let Some(Value::Object(mut face)) = given.take("face") {
        for (part, name) in [("id", "face_id"), ("key", "face_key"), ("url", "face_url")] {
            given.put_new(name, face.remove(part).filter(Value::is_string));
        }
    }
    Some(given)
}

fn as_bool(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(bool) => Some(*bool),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        Value::String(text) => text.trim_ascii().to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

/// Seconds or milliseconds since 1970, or a date as RFC 3339 writes it.
fn moment(value: &Value) -> Option<Timestamp> {
    // Between 2001 and 2286 the two differ in their number of digits.
    const MS_MIN: i64 = 1_000_000_000_000;
    const S_MIN: i64 = 1_000_000_000;
    let number = match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|s| s as i64)),
        Value::String(text) => match text.trim_ascii().parse::<i64>() {
            Ok(number) => Some(number),
            Err(_) => return text.trim_ascii().parse().ok(),
        },
        _ => None,
    }?;
    match number {
        MS_MIN.. => Timestamp::from_millisecond(number).ok(),
        S_MIN.. => Timestamp::from_second(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Frame<'_> {
        frame(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_event_is_the_one_that_the_tables_know() {
        let table = [
            (r#""push_type":"NSD-smoke""#, "netatmo.smoke"),
            (r#""event_type":"smoke""#, "netatmo.smoke"),
            (r#""push_type":"smoke","event_type":" Smoke ""#, "netatmo.smoke"),
            (r#""push_type":"NOC-human","event_type":"movement""#, "netatmo.movement"),
            (r#""push_type":"NOC-human","event_type":"brand_new""#, "netatmo.human"),
            (r#""push_type":"home_event_changed","event_type":"schedule""#, "netatmo.schedule"),
            (r#""push_type":"home_event_changed","event_type":"x""#, "netatmo.home_event_changed"),
            (r#""push_type":"NDB-","event_type":"""#, "netatmo.unknown"),
            (r#""push_type":"NDB-rtc""#, "netatmo.rtc"),
            (r#""push_type":"NDB-rtc","data":{"type":"Offer"}"#, "netatmo.ring"),
            (r#""data":{"type":"rescind"}"#, "netatmo.call_ended"),
            (r#""push_type":"NACamera-movement","data":{"type":"offer"}"#, "netatmo.movement"),
        ];
        for (fields, kind) in table {
            assert_eq!(read(&format!("{{{fields}}}")).kind.name, kind, "{fields}");
        }
    }

    #[test]
    fn extra_params_count_unless_they_are_null() {
        let body =
            r#"{"device_id":"a","home_id":"h","extra_params":{"device_id":"b","home_id":null}}"#;
        let data = read(body).data;
        assert_eq!((data.text("device_id"), data.text("home_id")), (Some("b"), Some("h")));
    }

    #[test]
    fn a_number_without_a_word_is_unknown_and_one_without_words_has_none() {
        let word = |body| read(body).data.text("sub_type_name").map(String::from);
        assert_eq!(word(r#"{"event_type":"smoke","sub_type":7}"#).as_deref(), Some("unknown"));
        assert_eq!(word(r#"{"event_type":"smoke","sub_type":"1"}"#).as_deref(), Some("detected"));
        assert_eq!(
            word(r#"{"event_type":"light_mode","sub_type":"Auto"}"#).as_deref(),
            Some("auto")
        );
        assert_eq!(word(r#"{"event_type":"movement","sub_type":7}"#), None);
        assert_eq!(word(r#"{"event_type":"smoke"}"#), None);
    }

    #[test]
    fn a_moment_is_read_in_seconds_milliseconds_or_words() {
        let time = |text: &str| {
            read(&format!(r#"{{"timestamp":{text}}}"#)).time.map(|time| time.to_string())
        };
        let noon = Some("2026-11-20T12:00:00Z".to_owned());
        for text in ["1795176000", "1795176000000", "1795176000.0", r#""1795176000""#] {
            assert_eq!(time(text), noon, "{text}");
        }
        assert_eq!(time(r#""2026-11-20T13:00:00+01:00""#), noon);
        for text in ["0", "-1", "1e300", "true", r#""noon""#, "99999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
