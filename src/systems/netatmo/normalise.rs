//! A webhook's fields in one shape: which event it is, its ids as texts, its numbers with their
//! words, pictures and persons where rules look for them. Pure; keeps no memory and makes no ids.
//!
//! Nothing here fails: a field of the wrong type is left out, never guessed, and the raw body
//! stays with the event.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::names::{self, CALL_ENDED, Kind, RING, RTC, Role, UNKNOWN};
use super::wire::{self, Unparsable};

/// Normalised fields by their names.
pub type Fields = Map<String, Value>;

/// The most persons one body makes events for; each event keeps the raw body, so this bounds what
/// one body can cost. A camera sees a handful of faces at a time.
pub const PERSONS_MAX: usize = 32;

/// One webhook, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What it reports.
    pub kind: Kind,
    /// Its fields, without what belongs to one person.
    pub data: Fields,
    /// Fields of each person, for kinds that are about persons. Empty: one event without.
    pub persons: Vec<Fields>,
    /// When it happened, if the body says so; webhooks seldom do.
    pub time: Option<Timestamp>,
}

/// Reads a body.
pub fn frame(body: &[u8]) -> Result<Frame, Unparsable> {
    let mut data = wire::fields(body)?;
    unfold_extra_params(&mut data);
    keep_usable(&mut data);
    unfold_objects(&mut data);
    let kind = kind(&mut data);
    sub_type(kind, &mut data);
    let persons = if kind.role == Role::Persons { persons(&mut data) } else { Vec::new() };
    let time = data.get("timestamp").or_else(|| data.get("time")).and_then(moment);
    Ok(Frame { kind, data, persons, time })
}

/// A field's text.
pub fn text<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn put_new(fields: &mut Fields, name: impl Into<String>, value: Option<Value>) {
    if let Some(value) = value.filter(|value| !value.is_null()) {
        fields.entry(name).or_insert(value);
    }
}

/// Some bodies carry their payload in `extra_params`, an object or one written as a text; what
/// stands there is more exact than what stands around it.
fn unfold_extra_params(data: &mut Fields) {
    match data.remove("extra_params") {
        Some(Value::Object(inner)) => data.extend(inner),
        Some(Value::String(text)) => match wire::fields(text.as_bytes()) {
            Ok(inner) => data.extend(inner),
            Err(_) => drop(data.insert("extra_params".into(), text.into())),
        },
        Some(other) => drop(data.insert("extra_params".into(), other)),
        None => {}
    }
}

/// Drops nulls, and ids and names of events that are no texts.
fn keep_usable(fields: &mut Fields) {
    fields.retain(|name, value| {
        if name.ends_with("_id") || name == "id" {
            as_id(value)
        } else if matches!(name.as_str(), "event_type" | "push_type") {
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
    value.as_str().is_some_and(|id| !id.is_empty())
}

/// Brings to the top what rules look for and some bodies keep in objects.
fn unfold_objects(data: &mut Fields) {
    if let Some(Value::Object(user)) = data.remove("user") {
        // Its e-mail address is nobody's business here; the raw body has it.
        put_new(data, "user_id", user.get("id").cloned());
    }
    if let Some(Value::Object(home)) = data.get("home") {
        let found = home_facts(data, home);
        found.into_iter().for_each(|(name, value)| put_new(data, name, value));
    }
    for picture in ["snapshot", "vignette"] {
        unfold_picture(data, picture);
    }
    let camera = data.get("camera_id").cloned();
    put_new(data, "device_id", camera);
}

/// Ids and names that `home` knows about what the body is about.
fn home_facts(data: &Fields, home: &Fields) -> [(&'static str, Option<Value>); 4] {
    let id = home.get("id").cloned().filter(|id| id.as_str().is_some_and(|id| !id.is_empty()));
    [
        ("home_id", id),
        ("home_name", home.get("name").filter(|name| name.is_string()).cloned()),
        ("module_name", name_in(home.get("modules"), text(data, "module_id"))),
        ("room_name", name_in(home.get("rooms"), text(data, "room_id"))),
    ]
}

/// The name of the thing with this id in a list of `{id, name}`.
fn name_in(list: Option<&Value>, id: Option<&str>) -> Option<Value> {
    let id = id?;
    let mut things = list?.as_array()?.iter().filter_map(Value::as_object);
    let thing = things.find(|thing| text(thing, "id") == Some(id))?;
    thing.get("name").filter(|name| name.is_string()).cloned()
}

/// `snapshot: {id, key, url}` as `snapshot_id`, `snapshot_key`, `snapshot_url`; a picture that
/// is a file on the camera has a `filename` instead of a `url`.
fn unfold_picture(data: &mut Fields, picture: &str) {
    match data.remove(picture) {
        Some(Value::Object(mut parts)) => {
            for part in ["url", "id", "key", "filename"] {
                let value = parts.remove(part).filter(Value::is_string);
                put_new(data, format!("{picture}_{part}"), value);
            }
        }
        Some(Value::String(place)) => {
            let part = if place.starts_with("http") { "url" } else { "filename" };
            put_new(data, format!("{picture}_{part}"), Some(place.into()));
        }
        _ => {}
    }
}

/// Which event it is. `push_type` is `<product>-<event>` or the event alone, `event_type` may be
/// missing, and they may disagree: then the one that the tables know counts, `event_type` first.
fn kind(data: &mut Fields) -> Kind {
    let lower = |name| text(data, name).map(|text| text.trim_ascii().to_ascii_lowercase());
    let pushed = lower("push_type").unwrap_or_default();
    let pushed = pushed.split_once('-').map_or(pushed.as_str(), |(_, event)| event);
    let said = lower("event_type").unwrap_or_else(|| pushed.to_owned());
    let kind = names::kind(&said).or_else(|| names::kind(pushed));
    if let Some((product, _)) = text(data, "push_type").and_then(|push| push.split_once('-')) {
        let product = Value::from(product.trim_ascii());
        data.insert("product".into(), product);
    }
    let signal = matches!(kind, Some(RTC)) || said.is_empty();
    let kind = if signal { signalled(data) } else { None }.or(kind);
    if kind.is_none() {
        data.insert("event".into(), said.clone().into());
    }
    if !said.is_empty() {
        data.insert("event_type".into(), said.into());
    }
    if kind == Some(RING) {
        let via = if signal { "rtc" } else { "incoming_call" };
        data.insert("via".into(), via.into());
    }
    kind.unwrap_or(UNKNOWN)
}

/// What a WebRTC frame says by its `data.type`; takes out the module it names and drops the rest,
/// which is for video clients. None if it is no such frame.
fn signalled(data: &mut Fields) -> Option<Kind> {
    let signal = data.get("data")?.get("type")?.as_str()?.to_ascii_lowercase();
    let Some(Value::Object(mut inner)) = data.remove("data") else { return None };
    if let Some(Value::Object(mut session)) = inner.remove("session_description") {
        put_new(data, "module_id", session.remove("module_id").filter(Value::is_string));
        let name = name_in(session.get("modules"), text(data, "module_id"));
        put_new(data, "module_name", name);
    }
    data.insert("rtc_type".into(), signal.as_str().into());
    Some(match signal.as_str() {
        "offer" => RING,
        "terminate" | "rescind" => {
            data.insert("reason".into(), signal.into());
            CALL_ENDED
        }
        _ => RTC,
    })
}

/// `sub_type` as a number where it is one, and its word as `sub_type_name`.
fn sub_type(kind: Kind, data: &mut Fields) {
    if kind.vendor == "ftp" {
        // Its message is a code, `ftp-0`, not a text in the user's language.
        let code = text(data, "message").and_then(|code| code.trim_ascii().strip_prefix("ftp-"));
        let code = code.and_then(|code| code.parse::<i64>().ok()).map(Value::from);
        put_new(data, "sub_type", code);
    }
    let Some(value) = data.remove("sub_type") else { return };
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
        data.insert("sub_type_name".into(), word.into());
    }
    data.insert("sub_type".into(), number.map_or(value, Value::from));
}

/// The word of a kind that has words; `unknown` for a number that the tables do not have.
fn word(kind: Kind, number: i64) -> Option<String> {
    let known = kind.words.iter().find(|(n, _)| *n == number);
    let word = known.map_or("unknown", |(_, word)| word);
    (!kind.words.is_empty()).then(|| word.to_owned())
}

/// Takes the persons out of a body, each as the fields of its own event.
fn persons(data: &mut Fields) -> Vec<Fields> {
    let list = match data.remove("persons") {
        Some(Value::Array(list)) => list,
        Some(one @ (Value::Object(_) | Value::String(_))) => vec![one],
        _ => Vec::new(),
    };
    let mut persons: Vec<Fields> = list.into_iter().filter_map(person).collect();
    if persons.len() > PERSONS_MAX {
        data.insert("persons_left_out".into(), (persons.len() - PERSONS_MAX).into());
        persons.truncate(PERSONS_MAX);
    }
    persons
}

fn person(value: Value) -> Option<Fields> {
    let mut given = match value {
        Value::Object(given) => given,
        Value::String(id) => Fields::from_iter([("id".to_owned(), Value::String(id))]),
        _ => return None,
    };
    keep_usable(&mut given);
    let mut person = Fields::new();
    put_new(&mut person, "person_id", given.remove("id"));
    for name in ["name", "pseudo"] {
        put_new(&mut person, "person", given.remove(name).filter(Value::is_string));
    }
    if let Some(known) = given.remove("is_known").and_then(|known| as_bool(&known)) {
        person.insert("is_known".into(), known.into());
    }
    if let Some(Value::Object(mut face)) = given.remove("face") {
        for part in ["id", "key", "url"] {
            put_new(&mut person, format!("face_{part}"), face.remove(part));
        }
    }
    given.into_iter().for_each(|(name, value)| put_new(&mut person, name, Some(value)));
    Some(person)
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
