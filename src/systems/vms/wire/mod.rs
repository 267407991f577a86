//! The words of aipix VMS: bytes of an answer into intercoms, calls, tokens and refusals, and what
//! is asked. Pure and tolerant: whatever lacks an id is reported, everything else may be absent.

pub mod ask;
pub mod refusal;
pub mod time;
pub mod token;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::systems::json::{self, Mends};

/// Fields of an intercom that are true or false; anything else in their place is left out.
const FLAGS: [&str; 3] = ["is_online", "is_enabled", "is_open_door_app"];
/// Fields of an intercom that are texts.
const TEXTS: [&str; 3] = ["title", "address", "status"];
/// The most bytes of one item that are kept beside an event.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// One intercom as listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Intercom {
    /// The only field that is always there.
    pub id: u64,
    /// The whole object, with flags and texts in their proper types.
    pub fields: Map<String, Value>,
    /// Its bytes as they came.
    pub raw: Vec<u8>,
}

/// One call as listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Its id; a number so far.
    pub id: String,
    /// How far it has come.
    pub status: Status,
    /// When it began to ring.
    pub created_at: Option<Timestamp>,
    /// When it was answered.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// At which intercom.
    pub intercom: Option<u64>,
    /// That intercom's title, as told here.
    pub title: Option<String>,
    /// That intercom's address, as told here.
    pub address: Option<String>,
    /// Its bytes as they came.
    pub raw: Vec<u8>,
}

/// How far a call has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It rings and nobody has answered.
    Ring,
    /// Somebody talks.
    Answered,
    /// It is over, and was answered.
    Ended,
    /// It is over, and nobody answered.
    Missed,
    /// A word that is in no document.
    Other(String),
}

/// One list, or one page of it.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T> {
    /// What could be read, in the order sent.
    pub items: Vec<T>,
    /// Items that could not be read: why, and the bytes of the first.
    pub bad: Option<Bad>,
    /// Whether there is another page after this one.
    pub more: bool,
    /// What was mended to read it.
    pub mends: Mends,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// In words, without the content.
    pub reason: String,
    /// The bytes.
    pub raw: Vec<u8>,
}

/// A page of a list, as Laravel prints it in its two forms.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    current_page: Value,
    #[serde(default)]
    last_page: Value,
    #[serde(default)]
    next_page_url: Value,
    #[serde(default)]
    meta: Value,
    #[serde(default)]
    links: Value,
}

/// Reads a list of intercoms: a bare array, or a page.
pub fn intercoms(bytes: &[u8]) -> Result<List<Intercom>, Bad> {
    list(bytes, intercom)
}

/// Reads a list of calls: a page, or a bare array.
pub fn calls(bytes: &[u8]) -> Result<List<Call>, Bad> {
    list(bytes, call)
}

/// Reads the fields of an item, whose bytes are the text.
type Reader<T> = fn(Map<String, Value>, &str) -> Result<T, &'static str>;

fn list<T>(bytes: &[u8], read: Reader<T>) -> Result<List<T>, Bad> {
    let bytes = json::without_bom(bytes);
    let reason = match split(bytes) {
        Ok(page) => return Ok(items(page, Mends::default(), read)),
        Err(reason) => reason,
    };
    let (text, mends) = json::mend(bytes);
    match mends.any().then(|| split(text.as_bytes())) {
        Some(Ok(page)) => Ok(items(page, mends, read)),
        _ => Err(Bad { reason, raw: bytes.to_vec() }),
    }
}

fn items<T>((raw, more): (Vec<&RawValue>, bool), mends: Mends, read: Reader<T>) -> List<T> {
    let mut list = List { items: Vec::with_capacity(raw.len()), bad: None, more, mends };
    for item in raw {
        let fields = match json::value(item.get().as_bytes()) {
            Ok((Value::Object(fields), mends)) => {
                list.mends = list.mends.and(mends);
                Ok(fields)
            }
            _ => Err("an item is no object"),
        };
        match fields.and_then(|fields| read(fields, item.get())) {
            Ok(item) => list.items.push(item),
            Err(reason) => {
                let raw = capped(item.get());
                list.bad.get_or_insert(Bad { reason: reason.into(), raw });
            }
        }
    }
    list
}

/// The items' bytes, and whether there are more pages.
fn split(bytes: &[u8]) -> Result<(Vec<&RawValue>, bool), String> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        let items = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        return Ok((items, false));
    }
    let page: Page = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
    let more = page.more();
    Ok((page.data, more))
}

/// Where it is wrong; serde's own words may quote the content.
fn wrong(error: &serde_json::Error) -> String {
    let what = if error.is_data() { "not a list" } else { "not JSON" };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

fn intercom(mut fields: Map<String, Value>, text: &str) -> Result<Intercom, &'static str> {
    let id = fields.get("id").and_then(number).ok_or("an intercom without id")?;
    fields.insert("id".into(), id.into());
    for name in FLAGS {
        tidy(&mut fields, name, |value| flag(value).map(Value::from));
    }
    for name in TEXTS {
        tidy(&mut fields, name, |value| self::text(value).map(Value::from));
    }
    Ok(Intercom { id, fields, raw: capped(text) })
}

fn call(fields: Map<String, Value>, text: &str) -> Result<Call, &'static str> {
    let id = fields.get("id").and_then(self::text).filter(|id| !id.is_empty());
    let id = id.ok_or("a call without id")?;
    let status = fields.get("status").and_then(Value::as_str).ok_or("a call without status")?;
    let at = |name: &str| fields.get(name).and_then(time::moment);
    let place = fields.get("intercom");
    let told = |name: &str| place.and_then(|place| place.get(name)).and_then(self::text);
    Ok(Call {
        id,
        status: Status::new(status),
        created_at: at("created_at"),
        started_at: at("started_at"),
        ended_at: at("ended_at"),
        intercom: place.and_then(|place| number(place.get("id").unwrap_or(place))),
        title: told("title"),
        address: told("address"),
        raw: capped(text),
    })
}

/// Gives a field its proper type; what cannot have it is as good as absent.
fn tidy(fields: &mut Map<String, Value>, name: &str, proper: fn(&Value) -> Option<Value>) {
    let Some(value) = fields.get_mut(name) else { return };
    match proper(value) {
        Some(proper) => *value = proper,
        None => drop(fields.remove(name)),
    }
}

/// A whole number, also in quotes.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A text; numbers become one.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// PHP's ideas of true and false.
fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_u64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.as_str() {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn capped(text: &str) -> Vec<u8> {
    text.as_bytes()[..text.len().min(RAW_BYTES_MAX)].to_vec()
}

// === impl Page ===

impl Page<'_> {
    /// Whether another page follows, by whichever of Laravel's signs is there.
    fn more(&self) -> bool {
        let last = number(&self.last_page).or_else(|| number(self.meta.get("last_page")?));
        let this = number(&self.current_page).or_else(|| number(self.meta.get("current_page")?));
        match (this, last) {
            (Some(this), Some(last)) => this < last,
            _ => {
                let next = self.links.get("next").unwrap_or(&Value::Null);
                [&self.next_page_url, next].iter().any(|url| url.is_string())
            }
        }
    }
}

// === impl Intercom ===

impl Intercom {
    /// A flag or text that is there.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }
}

// === impl Status ===

impl Status {
    /// The status of this word.
    pub fn new(word: &str) -> Status {
        match word {
            "ring" => Status::Ring,
            "answered" => Status::Answered,
            "ended" => Status::Ended,
            "missed" => Status::Missed,
            other => Status::Other(other.to_string()),
        }
    }

    /// The vendor's word.
    pub fn as_str(&self) -> &str {
        match self {
            Status::Ring => "ring",
            Status::Answered => "answered",
            Status::Ended => "ended",
            Status::Missed => "missed",
            Status::Other(word) => word,
        }
    }

    /// Calls go forward only; an answer from a cache that lags must not make them ring again.
    pub fn rank(&self) -> u8 {
        match self {
            Status::Ring | Status::Other(_) => 0,
            Status::Answered => 1,
            Status::Ended | Status::Missed => 2,
        }
    }
}

#[cfg(test)]
mod tests;
