//! The intercom's words: JSON-RPC 2.0 objects, one a text frame, in and out. Owns what a frame
//! means, whatever types its fields have; knows nothing of what was asked before. Pure.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::systems::json::{self, Mends};

/// The most messages in one frame: a JSON-RPC batch, which no intercom is known to send.
const BATCH_MAX: usize = 64;

/// The most characters of an intercom's error text that are passed on.
const ERROR_CHARS_MAX: usize = 200;

/// An expiry above this is a moment (milliseconds since 1970), below it a span: 1e11 ms is March
/// 1973 as a moment and three years as a span.
const EPOCH_ABOVE_MS: f64 = 1e11;

/// How long a token is taken to live if the intercom says nothing that can be read.
const TOKEN_LIVES_MS: u64 = 900_000;

/// The longest life of a token that is believed: beyond it nothing changes for us, and sums with
/// it cannot overflow.
const TOKEN_LIVES_MS_MAX: f64 = 86_400_000.0;

/// JSON-RPC 2.0, section 5.1: the method does not exist.
const METHOD_NOT_FOUND: i64 = -32601;

/// Fields whose values nobody may see.
const HIDDEN: [&[u8]; 3] = [b"\"token\"", b"\"pass\"", b"\"pin\""];

/// What stands in their place.
const HIDDEN_MARK: &[u8] = b"(hidden)";

/// One message from the intercom.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The answer to a request.
    Reply {
        /// The request's id; none if it is missing or none of ours.
        id: Option<u64>,
        /// What it answered. Success is a `result` of any value, mostly the number 0, without an
        /// `error`.
        result: Result<Value, RpcError>,
    },
    /// Something happened.
    Signal {
        /// The name on the wire.
        method: String,
        /// Its parameters; empty if there are none or they are no object.
        params: Map<String, Value>,
    },
    /// It cannot be understood, and why.
    Bad(&'static str),
}

/// A JSON-RPC error, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RpcError {
    /// Its number, if it is one.
    pub code: Option<i64>,
    /// Its text, cut.
    pub message: String,
    /// The name in its data: `InvalidToken`.
    pub name: String,
    /// Whether it is none: there was a reply, with neither `result` nor `error`.
    pub is_silent: bool,
}

/// A token and how long it lives.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// From the moment it was given.
    pub lives_ms: u64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(hidden, lives {} ms)", self.lives_ms)
    }
}

/// A request as it goes over the wire.
pub fn request(id: u64, method: &str, params: &Map<String, Value>) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

/// Reads a frame, and says what was mended in it. Never fails: what is not understood is said to
/// be so.
pub fn read(frame: &[u8]) -> (Vec<Incoming>, Mends) {
    let Ok((value, mends)) = json::value(frame) else {
        return (vec![Incoming::Bad("not JSON")], Mends::default());
    };
    let messages = match value {
        Value::Array(batch) if batch.is_empty() => vec![Incoming::Bad("an empty batch")],
        Value::Array(batch) if batch.len() > BATCH_MAX => {
            vec![Incoming::Bad("a batch of too many messages")]
        }
        Value::Array(batch) => batch.into_iter().map(message).collect(),
        one => vec![message(one)],
    };
    (messages, mends)
}

fn message(value: Value) -> Incoming {
    let Value::Object(mut fields) = value else { return Incoming::Bad("not a JSON object") };
    match fields.remove("method") {
        Some(Value::String(method)) => {
            let params = match fields.remove("params") {
                Some(Value::Object(params)) => params,
                _ => Map::new(),
            };
            return Incoming::Signal { method, params };
        }
        Some(Value::Null) | None => {}
        Some(_) => return Incoming::Bad("its `method` is no text"),
    }
    let id = fields.get("id").and_then(whole).and_then(|id| u64::try_from(id).ok());
    match fields.remove("error") {
        Some(Value::Null) | None => {}
        Some(error) => return Incoming::Reply { id, result: Err(RpcError::read(error)) },
    }
    match fields.remove("result") {
        Some(result) => Incoming::Reply { id, result: Ok(result) },
        None if fields.contains_key("id") => {
            Incoming::Reply { id, result: Err(RpcError::silent()) }
        }
        None => Incoming::Bad("neither a reply nor a signal"),
    }
}

impl RpcError {
    fn read(error: Value) -> RpcError {
        let Value::Object(mut fields) = error else {
            return RpcError { message: shown(&error), ..RpcError::default() };
        };
        let name = match fields.remove("data") {
            Some(Value::Object(data)) => data.get("name").map(shown).unwrap_or_default(),
            Some(Value::String(name)) => cut(&name),
            _ => String::new(),
        };
        let code = fields.get("code").and_then(whole);
        let message = fields.get("message").map(shown).unwrap_or_default();
        RpcError { code, message, name, is_silent: false }
    }

    /// Of a reply that says nothing.
    fn silent() -> RpcError {
        let message = "the intercom answered neither result nor error".to_string();
        RpcError { message, is_silent: true, ..RpcError::default() }
    }

    /// Whether the token was not accepted, in either of the two forms seen: then nothing was done.
    pub fn is_token_trouble(&self) -> bool {
        self.message == "Expired" || self.name == "InvalidToken"
    }

    /// Whether the intercom has no such method.
    pub fn is_missing_method(&self) -> bool {
        self.code == Some(METHOD_NOT_FOUND)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.message.is_empty() { "an error without a text" } else { &self.message };
        f.write_str(text)?;
        if !self.name.is_empty() && self.name != self.message {
            write!(f, ", {}", self.name)?;
        }
        match self.code {
            Some(code) => write!(f, " ({code})"),
            None => Ok(()),
        }
    }
}

/// A value as a short text.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => cut(text),
        other => cut(&other.to_string()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(ERROR_CHARS_MAX).collect()
}

/// The token in the result of a login or a refresh.
pub fn token(result: &Value, now: Timestamp) -> Option<Token> {
    let text = result.get("token").map(shown_whole).filter(|text| !text.is_empty())?;
    let lives_ms = result.get("exp_time").and_then(number).map_or(TOKEN_LIVES_MS, |expiry| {
        let span = match expiry > EPOCH_ABOVE_MS {
            true => expiry - now.as_millisecond() as f64,
            false => expiry,
        };
        // A moment that has passed says that the intercom's clock is wrong, not the token.
        if span > 0.0 { span.min(TOKEN_LIVES_MS_MAX) as u64 } else { TOKEN_LIVES_MS }
    });
    Some(Token { text, lives_ms })
}

fn shown_whole(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// Whether a relay is open: `is_open` on the wire, `opened` in the vendor's document, `state` in
/// old firmware.
pub fn is_open(fields: &Map<String, Value>) -> Option<bool> {
    ["is_open", "opened", "state"].iter().find_map(|name| fields.get(*name).and_then(flag))
}

/// A whole number, also from a text.
pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let exact = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15);
            number.as_i64().or_else(|| exact.map(|n| n as i64))
        }
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|n| n.is_finite())
}

/// True or false, also from 1 and 0 and from texts.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => number.as_f64().map(|n| n != 0.0),
        Value::String(text) => match text.trim() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A text, also from a number; empty if it is neither.
pub fn text(value: Option<&Value>) -> String {
    value.map(shown).unwrap_or_default()
}

/// The frame without the values of tokens, passwords and PINs, also if it is no whole JSON.
pub fn without_secrets(frame: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(frame.len());
    let mut rest = frame;
    while let Some(first) = rest.first() {
        match HIDDEN.iter().find(|name| rest.starts_with(name)) {
            Some(name) => {
                clean.extend_from_slice(name);
                rest = hide_value(&rest[name.len()..], &mut clean);
            }
            None => {
                clean.push(*first);
                rest = &rest[1..];
            }
        }
    }
    clean
}

/// Takes `: value` off the front, whatever the value's type; what follows it.
fn hide_value<'a>(rest: &'a [u8], clean: &mut Vec<u8>) -> &'a [u8] {
    let gap = rest.iter().take_while(|b| b.is_ascii_whitespace() || **b == b':').count();
    let (before, value) = rest.split_at(gap);
    if !before.contains(&b':') {
        return rest;
    }
    clean.extend_from_slice(before);
    let Some((b'"', inside)) = value.split_first() else {
        let end = value.iter().position(|b| matches!(b, b',' | b'}' | b']'));
        clean.extend_from_slice(b"\"(hidden)\"");
        return &value[end.unwrap_or(value.len())..];
    };
    clean.push(b'"');
    clean.extend_from_slice(HIDDEN_MARK);
    let mut end = 0;
    while end < inside.len() && inside[end] != b'"' {
        end += if inside[end] == b'\\' { 2 } else { 1 };
    }
    &inside[end.min(inside.len())..]
}

/// The bytes with every occurrence of a secret hidden.
pub fn replaced(bytes: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        if !secret.is_empty() && rest.starts_with(secret) {
            clean.extend_from_slice(HIDDEN_MARK);
            rest = &rest[secret.len()..];
        } else {
            clean.push(*first);
            rest = &rest[1..];
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(frame: &str) -> Incoming {
        let mut read = read(frame.as_bytes()).0;
        assert_eq!(read.len(), 1);
        read.remove(0)
    }

    fn failed(frame: &str) -> RpcError {
        match one(frame) {
            Incoming::Reply { result: Err(error), .. } => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reply_succeeds_if_it_has_no_error() {
        let ok = |id, result| Incoming::Reply { id, result: Ok(result) };
        assert_eq!(one(r#"{"jsonrpc":"2.0","id":7,"result":0}"#), ok(Some(7), json!(0)));
        assert_eq!(one(r#"{"id":"7","result":null,"error":null}"#), ok(Some(7), Value::Null));
        for silent in [r#"{"id":7}"#, r#"{"id":7,"error":null}"#, r#"{"id":7,"results":0}"#] {
            assert!(failed(silent).is_silent, "{silent}");
        }
        assert_eq!(one(r#"{"id":[],"result":false}"#), ok(None, json!(false)));
        assert_eq!(one("{}"), Incoming::Bad("neither a reply nor a signal"));
    }

    #[test]
    fn errors_are_read_whatever_their_types() {
        let expired = failed(r#"{"id":1,"error":{"code":"-7","message":"Expired"}}"#);
        assert!(expired.is_token_trouble() && expired.code == Some(-7));
        let data = r#"{"id":1,"error":{"code":1.5,"message":3,"data":{"name":"InvalidToken"}}}"#;
        assert!(failed(data).is_token_trouble());
        assert_eq!(failed(data).to_string(), "3, InvalidToken");
        assert!(failed(r#"{"id":1,"error":{"code":-32601,"data":[1]}}"#).is_missing_method());
        assert!(failed(r#"{"id":1,"error":{"code":"-32601"}}"#).is_missing_method());
        assert_eq!(failed(r#"{"id":1,"error":"no"}"#).to_string(), "no");
        assert_eq!(failed(r#"{"id":1,"error":true}"#).to_string(), "true");
        assert_eq!(failed(r#"{"id":1,"error":{}}"#).to_string(), "an error without a text");
        let long = format!(r#"{{"id":1,"error":"{}"}}"#, "x".repeat(9999));
        assert_eq!(failed(&long).message.len(), ERROR_CHARS_MAX);
    }

    #[test]
    fn an_expiry_is_a_span_or_a_moment_a_text_or_a_number() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let lives = |expiry: Value| token(&json!({ "token": "t", "exp_time": expiry }), now);
        let ms = |expiry| lives(expiry).unwrap().lives_ms;
        assert_eq!(ms(json!("900000")), 900_000);
        assert_eq!(ms(json!(60000)), 60_000);
        assert_eq!(ms(json!("1790000060000")), 60_000);
        assert_eq!(ms(json!(1_790_000_060_000_u64)), 60_000);
        for odd in [json!(null), json!("soon"), json!(-5), json!(0), json!("1500000000000")] {
            assert_eq!(ms(odd), TOKEN_LIVES_MS);
        }
        assert_eq!(ms(json!(9e10)), 86_400_000);
        assert_eq!(token(&json!({ "token": "" }), now), None);
        assert_eq!(token(&json!(0), now), None);
        assert!(!format!("{:?}", lives(json!(1))).contains("\"t\""));
    }

    #[test]
    fn the_relays_field_has_three_names() {
        let open = |value: Value| is_open(value.as_object().unwrap());
        assert_eq!(open(json!({ "is_open": true, "state": false })), Some(true));
        assert_eq!(open(json!({ "opened": "false" })), Some(false));
        assert_eq!(open(json!({ "state": 1 })), Some(true));
        assert_eq!(open(json!({ "is_open": null })), None);
    }

    #[test]
    fn secrets_are_hidden_even_in_half_a_frame() {
        let hidden = |frame: &str| String::from_utf8(without_secrets(frame.as_bytes())).unwrap();
        assert_eq!(hidden(r#"{"token" : "a\"b","id":1}"#), r#"{"token" : "(hidden)","id":1}"#);
        assert_eq!(hidden(r#"{"result":{"token":"abc"#), r#"{"result":{"token":"(hidden)"#);
        assert_eq!(hidden(r#"[{"pin":1234},{"pass":"x"}]"#), {
            r#"[{"pin":"(hidden)"},{"pass":"(hidden)"}]"#
        });
        assert_eq!(hidden(r#"{"name":"token"}"#), r#"{"name":"token"}"#);
        assert_eq!(hidden(r#"{"token":"a\"#), r#"{"token":"(hidden)"#);
    }

    #[test]
    fn batches_and_nonsense() {
        assert_eq!(read(br#"[{"id":1},{"method":"x"}]"#).0.len(), 2);
        let (mended, mends) = read(br#"{"method":"x","params":{"user":"\ud83d","n":1e400}}"#);
        assert!(matches!(mended[0], Incoming::Signal { .. }) && mends.any());
        for odd in ["", "null", "1", "[]", "[1]", "{", "\u{feff}{}", r#"{"method":5}"#, "\0\u{1}"] {
            assert!(matches!(one(odd), Incoming::Bad(_)), "{odd}");
        }
        assert!(matches!(&read(&[0xff, 0xfe]).0[..], [Incoming::Bad(_)]));
        let deep = "[".repeat(5000);
        assert!(matches!(one(&deep), Incoming::Bad("not JSON")));
    }
}
