//! What an EMM answers, as values: any status and any bytes in, a tidy value or the problem out.
//! Strict JSON first, then [`json`], then [`repair`]. Knows how the vendor writes numbers, flags, times and
//! states, not what they mean.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::repair::{self, Fixes};
use crate::systems::json;

/// The most characters of a server's own words that go into a reason.
const SAID_CHARS_MAX: usize = 200;

/// Above it an epoch is in milliseconds: as seconds it would be the year 5138.
const SECONDS_MAX: i64 = 100_000_000_000;

/// What a body says.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// Its value, with keys tidied; `null` if it is empty.
    pub value: Value,
    /// What had to be mended; none if it was JSON.
    pub fixes: Option<Fixes>,
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The token is not, or no longer, valid.
    Token(String),
    /// The licence allows no more sessions.
    Sessions(String),
    /// An `error` inside 200: the server did not do it.
    Said(String),
    /// A page for people: `f=json` was lost, or a login page.
    Html,
    /// We ask too often.
    Throttled,
    /// Another status, and what the body says.
    Status(u16, String),
    /// Not JSON, even with good will.
    NotJson(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Token(why) => write!(f, "the token is refused: {why}"),
            Problem::Sessions(why) => write!(f, "no session is free: {why}"),
            Problem::Said(why) => write!(f, "the EMM says: {why}"),
            Problem::Html => f.write_str("it answers with a page instead of JSON"),
            Problem::Throttled => f.write_str("asked too often (HTTP 429)"),
            Problem::Status(status, said) if said.is_empty() => write!(f, "HTTP {status}"),
            Problem::Status(status, said) => write!(f, "HTTP {status}: {said}"),
            Problem::NotJson(why) => write!(f, "the answer is not JSON: {why}"),
        }
    }
}

/// Reads an answer. A 200 is success only if no `error` is inside.
pub fn answer(status: u16, content_type: &str, body: &[u8]) -> Result<Read, Problem> {
    match status {
        200..=299 => {}
        401 | 403 => return Err(Problem::Token(format!("HTTP {status}"))),
        429 => return Err(Problem::Throttled),
        _ => return Err(Problem::Status(status, said(content_type, body))),
    }
    if is_page(content_type, body) {
        return Err(Problem::Html);
    }
    let read = body_value(body).map_err(Problem::NotJson)?;
    match error_in(&read.value) {
        Some(why) => Err(told(why)),
        None => Ok(read),
    }
}

/// Whether a body is a page for people.
pub fn is_page(content_type: &str, body: &[u8]) -> bool {
    content_type == "text/html" || body.trim_ascii_start().starts_with(b"<")
}

/// Whether a drained body says that nothing happened, told without reading it.
pub fn is_nothing(body: &[u8]) -> bool {
    let dense: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let empty: [&[u8]; 5] = [b"", b"{}", b"[]", b"null", b"{\"notifications\":[]}"];
    empty.contains(&dense.as_slice())
}

/// A body's value: strict, else mended, else why not. Never panics, whatever the bytes are.
pub fn body_value(body: &[u8]) -> Result<Read, String> {
    let body = json::without_bom(body).trim_ascii();
    if body.is_empty() {
        return Ok(Read { value: Value::Null, fixes: None });
    }
    let why = match json::value(body) {
        Ok((value, mends)) => {
            let fixes = mends.any().then(|| mends.into());
            return Ok(Read { value: tidy(value), fixes });
        }
        Err(why) => why,
    };
    let (text, mends) = json::mend(body);
    let (value, fixes) = repair::repair(&text, mends).ok_or_else(|| why.to_string())?;
    Ok(Read { value: tidy(value), fixes: Some(fixes) })
}

/// The value with keys as we write them: trimmed, `_` for `-`. Where both spellings stand, ours
/// wins.
fn tidy(value: Value) -> Value {
    match value {
        Value::Array(list) => list.into_iter().map(tidy).collect(),
        Value::Object(fields) => {
            let mut tidied = Map::new();
            for (key, value) in fields {
                let name = key.trim().replace('-', "_");
                if name == key || !tidied.contains_key(&name) {
                    tidied.insert(name, tidy(value));
                }
            }
            Value::Object(tidied)
        }
        other => other,
    }
}

fn error_in(value: &Value) -> Option<String> {
    let error = value.get("error")?;
    let words = match error {
        Value::Null | Value::Bool(false) => return None,
        Value::String(words) => words.clone(),
        Value::Object(fields) => {
            let words = ["description", "reason", "message"].iter().find_map(|k| fields.get(*k));
            words.and_then(Value::as_str).unwrap_or("no reason given").to_string()
        }
        other => other.to_string(),
    };
    Some(short(&words))
}

fn told(why: String) -> Problem {
    let words = why.to_lowercase();
    let has = |any: &[&str]| any.iter().any(|word| words.contains(word));
    if has(&["session", "licen"]) && has(&["max", "limit", "exceed", "too many", "licen"]) {
        Problem::Sessions(why)
    } else if has(&["token", "session", "unauthori", "not logged in"]) {
        Problem::Token(why)
    } else {
        Problem::Said(why)
    }
}

/// What the body of a failure says, if it says anything in words.
fn said(content_type: &str, body: &[u8]) -> String {
    if is_page(content_type, body) {
        return String::new();
    }
    match body_value(body) {
        Ok(Read { value: Value::Null, .. }) => String::new(),
        Ok(read) => error_in(&read.value).unwrap_or_else(|| short(&read.value.to_string())),
        Err(_) => short(&String::from_utf8_lossy(body)),
    }
}

fn short(words: &str) -> String {
    let words: String = words.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect();
    words.trim().to_string()
}

/// A whole number, also as a text.
pub fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            let float = number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15)?;
            Some(float as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A flag as `true`, `1`, `"true"`, `"1"`, `"yes"`.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => number.as_i64().map(|n| n != 0),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Seconds since 1970, from seconds or milliseconds; 0 and less mean that there is none.
pub fn epoch(value: &Value) -> Option<i64> {
    let number = int(value).filter(|n| *n > 0)?;
    Some(if number > SECONDS_MAX { number / 1000 } else { number })
}

/// The moment, see [`epoch`].
pub fn time(value: &Value) -> Option<Timestamp> {
    Timestamp::from_second(epoch(value)?).ok()
}

/// A text; numbers become one.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// What the vendor says of how far a message is: a number of its list, or a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// A number, known or not.
    Code(i64),
    /// A word, in small letters.
    Word(String),
}

/// The vendor's numbers in words; an enumeration of C++, so the last two count on from 8.
const STATUSES: [&str; 11] = [
    "error_send",
    "queued",
    "dispatched",
    "sent",
    "received",
    "read",
    "force_escalate",
    "acknowledge",
    "cancel_alarm",
    "replied",
    "queued_delete",
];

/// From this number on a message counts as read.
const READ_FROM: i64 = 5;

impl Status {
    /// A number, a number as text, or a word.
    pub fn read(value: &Value) -> Option<Status> {
        int(value).map(Status::Code).or_else(|| {
            let word = value.as_str()?.trim().to_lowercase().replace([' ', '-'], "_");
            (!word.is_empty()).then_some(Status::Word(word))
        })
    }

    /// In words; `unknown` for a number that nobody has documented.
    pub fn name(&self) -> &str {
        match self {
            Status::Code(code) => {
                usize::try_from(*code).ok().and_then(|n| STATUSES.get(n)).unwrap_or(&"unknown")
            }
            Status::Word(word) => word,
        }
    }

    /// Whether a message in this state was looked at by its receiver.
    pub fn is_read(&self) -> bool {
        match self {
            Status::Code(code) => *code >= READ_FROM,
            Status::Word(word) => {
                ["read", "complete", "acknowledge", "replied"].contains(&word.as_str())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(status: u16, content_type: &str, body: &str) -> String {
        answer(status, content_type, body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn an_error_may_hide_in_any_answer() {
        let json = "application/json";
        insta::assert_snapshot!(problem(403, json, ""), @"the token is refused: HTTP 403");
        insta::assert_snapshot!(problem(200, "text/html", "hello"), @"it answers with a page instead of JSON");
        insta::assert_snapshot!(problem(200, json, " <html>"), @"it answers with a page instead of JSON");
        insta::assert_snapshot!(problem(400, "text/html", "<h1>Bad</h1>"), @"HTTP 400");
        insta::assert_snapshot!(problem(400, json, r#"{"error":{"description":"no text"}}"#), @"HTTP 400: no text");
        insta::assert_snapshot!(problem(500, "", "oops"), @"HTTP 500: oops");
        insta::assert_snapshot!(problem(429, "", ""), @"asked too often (HTTP 429)");
        let said = |why: &str| {
            problem(200, json, &json!({ "error": { "api": "x", "description": why } }).to_string())
        };
        insta::assert_snapshot!(said("Max API Sessions exceeded"), @"no session is free: Max API Sessions exceeded");
        insta::assert_snapshot!(said("Invalid token"), @"the token is refused: Invalid token");
        insta::assert_snapshot!(said("Unknown user"), @"the EMM says: Unknown user");
        insta::assert_snapshot!(problem(200, json, "{{"), @"the answer is not JSON: key must be a string at line 1 column 2");
        assert_eq!(answer(200, json, b"").unwrap().value, Value::Null);
    }

    #[test]
    fn keys_are_tidied_and_values_read_in_every_form() {
        let read = body_value(b"\xef\xbb\xbf{\"alarm-name \":\"a\",\"alarm_name\":\"b\"}").unwrap();
        assert_eq!(read.value, json!({ "alarm_name": "b" }));
        for yes in [json!(true), json!(1), json!("true"), json!("1")] {
            assert_eq!(flag(&yes), Some(true));
        }
        assert_eq!(epoch(&json!(1_664_924_064)), epoch(&json!("1664924064000")));
        assert_eq!(time(&json!(0)), None);
        assert_eq!(Status::read(&json!("5")), Some(Status::Code(5)));
        assert_eq!(Status::read(&json!("in progress")).unwrap().name(), "in_progress");
        assert_eq!(Status::Code(10).name(), "queued_delete");
        assert_eq!(Status::Code(11).name(), "unknown");
        assert!(Status::Code(9).is_read() && !Status::Code(4).is_read());
    }

    #[test]
    fn a_text_in_another_alphabet_costs_nothing_else() {
        let read = body_value(b"{\"message\":\"caf\xe9\",\"id\":1}").unwrap();
        assert_eq!(read.value["id"], 1);
        assert_eq!(read.fixes.unwrap().to_string(), "texts");
    }

    #[test]
    fn nothing_is_told_without_reading() {
        for body in ["", "{ }", "[]", " null\n", "{\"notifications\": [ ]}"] {
            assert!(is_nothing(body.as_bytes()), "{body}");
        }
        assert!(!is_nothing(b"{\"notifications\":[{}]}"));
    }
}
