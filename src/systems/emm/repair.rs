//! Reads JSON that is not quite JSON, as the vendor's own samples and source print it: commas
//! missing or too many, closers in the wrong order, and a writer that lost one key so that
//! everything after it pairs wrongly. Strict JSON never comes here, and what can go wrong with
//! single texts and numbers was mended before, by [`crate::systems::json`]. Pure; says what it
//! mended.

use std::fmt;

use serde_json::{Map, Value};

use crate::systems::json::Mends;

/// The deepest nesting that is read; notifications have four levels.
const DEPTH_MAX: usize = 32;

/// A longer text is not repaired: a thousand notifications, far more than an EMM keeps for a user.
const BYTES_MAX: usize = 1024 * 1024;

/// A text with more faults is not what anybody meant: ten in each of a thousand notifications.
const FAULTS_MAX: usize = 10_000;

/// From this depth on an object that the end of the text cut off is left out instead of being
/// believed: the outermost object is 0, the list of notifications 1, a notification 2.
const BELIEVED_DEPTH: usize = 2;

/// The keys of an `active_alarm` in the order in which the vendor's code writes them. Where a key
/// is lost, these say what is a key and what is a value.
const ALARM_KEYS: [&str; 20] = [
    "id",
    "alarm_id",
    "cleared",
    "active_time",
    "active_duration",
    "msg_id",
    "reset_msg_id",
    "source_gateway_id",
    "source_gateway_name",
    "name",
    "identifier",
    "recipient_id",
    "recipient_name",
    "active_text",
    "reset_text",
    "priority",
    "send_resets",
    "total_messages",
    "total_messages_sent",
    "total_messages_read",
];

/// What was mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fixes {
    /// Commas were put in or taken out.
    pub commas: bool,
    /// Closers were put in the right order, added or dropped.
    pub closers: bool,
    /// An alarm's keys and values were paired anew.
    pub realigned: bool,
    /// Control characters or bare words stood where a text belongs.
    pub texts: bool,
    /// Numbers that cannot be kept became `null`.
    pub numbers: bool,
    /// The text ends early: what was cut off is left out.
    pub cut: bool,
    /// How many faults of commas, closers and words were met so far.
    faults: usize,
}

impl Fixes {
    /// Notes faults of commas; none if there are too many by now.
    fn commas(&mut self, faults: usize) -> Option<()> {
        self.commas |= faults > 0;
        self.count(faults)
    }

    /// The same for closers.
    fn closers(&mut self, faults: usize) -> Option<()> {
        self.closers |= faults > 0;
        self.count(faults)
    }

    fn count(&mut self, faults: usize) -> Option<()> {
        self.faults = self.faults.saturating_add(faults);
        (self.faults <= FAULTS_MAX).then_some(())
    }
}

impl fmt::Display for Fixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.commas, "commas"),
            (self.closers, "closers"),
            (self.realigned, "keys"),
            (self.texts, "texts"),
            (self.numbers, "numbers"),
            (self.cut, "cut off"),
        ];
        let named: Vec<_> = all.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        f.write_str(&named.join(", "))
    }
}

impl From<Mends> for Fixes {
    fn from(Mends { commas, texts, numbers }: Mends) -> Fixes {
        Fixes { commas, texts, numbers, ..Fixes::default() }
    }
}

/// The value that was meant, if that can be told. Several values in a row become a list. The text
/// and what was mended in it so far are as [`crate::systems::json::mend`] left them. The time and
/// the memory that it takes grow with the length, which is bounded, and with nothing else.
pub fn repair(text: &str, mends: Mends) -> Option<(Value, Fixes)> {
    if text.len() > BYTES_MAX {
        return None;
    }
    let mut fixes = Fixes::from(mends);
    let tokens = tokens(text, &mut fixes)?;
    let mut reader = Reader { tokens: tokens.into_iter().peekable(), fixes };
    let mut values = Vec::new();
    loop {
        match reader.tokens.next() {
            None => break,
            Some(Token::Open(kind)) => values.extend(reader.container(kind, 0)?),
            Some(Token::Close) => reader.fixes.closers(1)?,
            Some(Token::Comma) => reader.fixes.commas(1)?,
            // Words alone are a message for people.
            Some(Token::Scalar(_) | Token::Colon) => return None,
        }
    }
    let value = if values.len() == 1 { values.pop()? } else { Value::Array(values) };
    let is_something = text.contains(['{', '[']);
    is_something.then_some((value, reader.fixes))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Object,
    List,
}

#[derive(Debug, PartialEq)]
enum Token {
    Open(Kind),
    /// Of which kind does not matter: it closes what is open.
    Close,
    Comma,
    Colon,
    Scalar(Value),
}

fn tokens(text: &str, fixes: &mut Fixes) -> Option<Vec<Token>> {
    let (bytes, mut at, mut found, mut open) = (text.as_bytes(), 0, Vec::new(), Vec::new());
    while let Some(byte) = bytes.get(at) {
        let token = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'{' => Token::Open(Kind::Object),
            b'[' => Token::Open(Kind::List),
            b'}' | b']' => Token::Close,
            b',' => Token::Comma,
            b':' => Token::Colon,
            b'"' => {
                let Some(end) = end_of_text(bytes, at + 1) else {
                    fixes.cut = true;
                    return Some(found);
                };
                found.push(Token::Scalar(serde_json::from_str(text.get(at..end)?).ok()?));
                at = end;
                continue;
            }
            _ => {
                let end = end_of_word(bytes, at);
                found.push(Token::Scalar(bare(text.get(at..end)?, fixes)?));
                at = end;
                continue;
            }
        };
        match token {
            Token::Open(kind) => open.push(kind),
            Token::Close => {
                let wanted = if *byte == b'}' { Kind::Object } else { Kind::List };
                fixes.closers(usize::from(open.pop() != Some(wanted)))?;
            }
            _ => {}
        }
        found.push(token);
        at += 1;
    }
    Some(found)
}

/// Behind the closing quote of a text whose first byte is at `at`.
fn end_of_text(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn end_of_word(bytes: &[u8], at: usize) -> usize {
    let ends = |byte: &u8| b" \t\r\n{}[],:\"".contains(byte);
    bytes[at..].iter().position(ends).map_or(bytes.len(), |length| at + length)
}

/// A number, `true`, `false`, `null`, or a word that lost its quotes (`"tone": A`).
fn bare(word: &str, fixes: &mut Fixes) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(word) {
        return Some(value);
    }
    fixes.texts = true;
    fixes.count(1)?;
    let is_word = word.chars().all(|c| c.is_alphanumeric() || "_-+./*".contains(c));
    is_word.then(|| Value::from(word))
}

struct Reader {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    fixes: Fixes,
}

/// What stands between an opener and its closer.
#[derive(Debug)]
enum Piece {
    Value(Value),
    Comma,
    Colon,
}

impl Reader {
    /// The rest of a container. Outer none: it cannot be understood. Inner none: it was cut off.
    #[allow(clippy::option_option)]
    fn container(&mut self, kind: Kind, depth: usize) -> Option<Option<Value>> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let mut pieces = Vec::new();
        loop {
            match self.tokens.next() {
                Some(Token::Close) => break,
                Some(Token::Comma) => pieces.push(Piece::Comma),
                Some(Token::Colon) => pieces.push(Piece::Colon),
                Some(Token::Scalar(value)) => pieces.push(Piece::Value(value)),
                Some(Token::Open(kind)) => {
                    pieces.extend(self.container(kind, depth + 1)?.map(Piece::Value));
                }
                None => {
                    self.fixes.closers(1)?;
                    if depth >= BELIEVED_DEPTH {
                        self.fixes.cut = true;
                        return Some(None);
                    }
                    break;
                }
            }
        }
        let value = match kind {
            Kind::List => self.list(pieces)?,
            Kind::Object => self.object(pieces)?,
        };
        Some(Some(value))
    }

    fn list(&mut self, pieces: Vec<Piece>) -> Option<Value> {
        let (mut values, mut commas) = (Vec::new(), 0_usize);
        for piece in pieces {
            match piece {
                Piece::Value(value) => values.push(value),
                Piece::Comma => commas += 1,
                Piece::Colon => return None,
            }
        }
        self.fixes.commas((commas + 1).abs_diff(values.len().max(1)))?;
        Some(Value::Array(values))
    }

    fn object(&mut self, pieces: Vec<Piece>) -> Option<Value> {
        let mut mended = self.fixes;
        if let Some(fields) = pairs(&pieces, &mut mended) {
            self.fixes = mended;
            self.fixes.count(0)?;
            return Some(Value::Object(fields));
        }
        let fields = realigned(pieces)?;
        self.fixes.realigned = true;
        self.fixes.count(1)?;
        Some(Value::Object(fields))
    }
}

/// `"key": value` again and again, with any number of commas between.
fn pairs(pieces: &[Piece], fixes: &mut Fixes) -> Option<Map<String, Value>> {
    let (mut fields, mut rest, mut is_first) = (Map::new(), pieces, true);
    loop {
        let commas = rest.iter().take_while(|piece| matches!(piece, Piece::Comma)).count();
        rest = &rest[commas..];
        fixes.commas(commas.abs_diff(usize::from(!is_first && !rest.is_empty())))?;
        is_first = false;
        match rest {
            [] => return Some(fields),
            [Piece::Value(Value::String(key)), Piece::Colon, Piece::Value(value), after @ ..] => {
                fields.insert(key.clone(), value.clone());
                rest = after;
            }
            // The text ends behind a key.
            [Piece::Value(Value::String(_)), after @ ..]
                if fixes.cut && after.len() <= 1 && !matches!(after, [Piece::Value(_)]) =>
            {
                return Some(fields);
            }
            _ => return None,
        }
    }
}

/// The scalars in order, without regard to what stands between them: a known key and its value,
/// or a number alone before `recipient_name`, which is the recipient whose key was lost.
fn realigned(pieces: Vec<Piece>) -> Option<Map<String, Value>> {
    let mut scalars = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Value(Value::Object(_) | Value::Array(_)) => return None,
            Piece::Value(value) => scalars.push(value),
            Piece::Comma | Piece::Colon => {}
        }
    }
    let (mut fields, mut rest) = (Map::new(), scalars.as_slice());
    while let [first, after @ ..] = rest {
        match (first, after) {
            (Value::String(key), [value, after @ ..]) if ALARM_KEYS.contains(&key.trim()) => {
                fields.insert(key.trim().to_string(), value.clone());
                rest = after;
            }
            (Value::Number(recipient), [Value::String(next), ..]) if next == "recipient_name" => {
                fields.insert("recipient_id".into(), Value::Number(recipient.clone()));
                rest = after;
            }
            _ => return None,
        }
    }
    fields.contains_key("id").then_some(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn repair(text: &str) -> Option<(Value, Fixes)> {
        let (text, mends) = crate::systems::json::mend(text.as_bytes());
        super::repair(&text, mends)
    }

    fn mend(text: &str) -> (Value, String) {
        let (value, fixes) = repair(text).unwrap_or_else(|| panic!("not repaired: {text}"));
        (value, fixes.to_string())
    }

    #[test]
    fn commas_and_closers_as_the_vendor_prints_them() {
        let (value, fixes) = mend("{\"notifications\": [{\"a\": 1} {\"a\": \"} {\"} {\"a\": 3}}]");
        assert_eq!(value, json!({ "notifications": [{ "a": 1 }, { "a": "} {" }, { "a": 3 }] }));
        assert_eq!(fixes, "commas, closers");
        let (value, fixes) = mend("{\"status_time\": 1 \"next\": [1, 2,], \"last\": true,}");
        assert_eq!(value, json!({ "status_time": 1, "next": [1, 2], "last": true }));
        assert_eq!(fixes, "commas");
        assert_eq!(mend("{\"id\": 1}, {\"id\": 2}").0, json!([{ "id": 1 }, { "id": 2 }]));
        assert_eq!(mend("{\"tone\": A, \"m\": \"two\nlines \\q\"}").1, "texts");
        let (value, fixes) = mend("{\"id\": 1 \"text\": \"\\ud83d \\\" \\q\", \"n\": 1e400}");
        assert_eq!(value, json!({ "id": 1, "text": "\u{fffd} \" \\q", "n": null }));
        assert_eq!(fixes, "commas, texts, numbers");
    }

    #[test]
    fn sound_json_needs_nothing() {
        let (value, fixes) = mend("{\"a\": [1, {\"b\": null}], \"c\": {}, \"d\": []}");
        assert_eq!(value, json!({ "a": [1, { "b": null }], "c": {}, "d": [] }));
        assert_eq!(fixes, "");
    }

    #[test]
    fn an_alarm_whose_writer_lost_a_key_is_paired_anew() {
        let text = r#"{"id":7,"identifier":"X",42:"recipient_name","System":"active_text","priority":"reset_text","rst":"priority",false:"send_resets",true:"total_messages",0:"total_messages_sent",0:"total_messages_read",0}"#;
        let (value, fixes) = mend(text);
        assert_eq!(fixes, "keys");
        assert_eq!(
            value,
            json!({ "id": 7, "identifier": "X", "recipient_id": 42, "recipient_name": "System",
                "active_text": "priority", "reset_text": "rst", "priority": false,
                "send_resets": true, "total_messages": 0, "total_messages_sent": 0,
                "total_messages_read": 0 })
        );
    }

    #[test]
    fn what_was_cut_off_is_not_believed() {
        let text = r#"{"notifications":[{"type":"a","notification":{"id":1}},{"type":"b","notification":{"id":2"#;
        let (value, fixes) = mend(text);
        assert_eq!(
            value,
            json!({ "notifications": [{ "type": "a", "notification": { "id": 1 } }] })
        );
        assert!(fixes.contains("cut off"), "{fixes}");
        assert!(mend("{\"notifications\": [{\"id\": 1}").1.contains("closers"));
    }

    #[test]
    fn what_is_too_long_or_too_broken_is_given_up() {
        for piece in ["\"", "} {", "[", "{\"a\":1}", "{},", "x ", ",", "{\"a\" \"b\"}", "{{\"a\":"]
        {
            for length in [200_000, BYTES_MAX - 100, BYTES_MAX + 1] {
                let text = format!("{{\"notifications\":[{}", piece.repeat(length / piece.len()));
                let entries = |value: &Value| value["notifications"].as_array().map(Vec::len);
                let given = repair(&text).and_then(|(value, _)| entries(&value));
                assert!(given.is_none_or(|entries| entries <= FAULTS_MAX * 2 || piece == "{},"));
            }
        }
        let entry = r#"{"id":7,"identifier":"X",42:"recipient_name","System":"priority",false}"#;
        let many = format!("[{}]", vec![entry; 1_000].join(" "));
        assert_eq!(repair(&many).unwrap().0.as_array().unwrap().len(), 1_000);
    }

    #[test]
    fn nonsense_stays_nonsense() {
        for text in ["", "{{}}", "{1:2}", "[1:2]", "a b: c", &"[".repeat(1000), "{\"a\" 1}", ":"] {
            assert_eq!(repair(text), None, "{text}");
        }
    }
}
