//! A webhook's bytes as a tree whose field names are spelt one way. Reads any JSON object; knows
//! field names, not their meaning.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::fields::{FIELDS_MAX, Fields};
use super::names;
use crate::systems::json::{self, Mends};

/// Why a body is no webhook. Its text becomes `data.error` of `netatmo.unparsable`.
#[derive(Debug, thiserror::Error)]
pub enum Unparsable {
    /// Netatmo has been seen to send these.
    #[error("the body is empty")]
    Empty,
    /// Not UTF-8; says where.
    #[error("the body is not JSON: {0}")]
    NotText(std::str::Utf8Error),
    /// Not JSON; says what and where.
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// JSON, but a list, a text, a number.
    #[error("the body is {0}, not a JSON object")]
    NotObject(&'static str),
    /// More fields than any webhook has.
    #[error("the body has more than {FIELDS_MAX} fields")]
    TooManyFields,
}

impl Unparsable {
    /// One word for `data.reason`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Unparsable::Empty => "empty",
            Unparsable::NotText(_) | Unparsable::NotJson(_) => "not_json",
            Unparsable::NotObject(_) => "not_object",
            Unparsable::TooManyFields => "too_many_fields",
        }
    }
}

/// The body's fields, every name spelt as in [`names::field`], at every depth. Where one field
/// stands there in two spellings, ours wins. A body that is no JSON is mended if it can be: one
/// bad byte must not cost an alarm.
pub fn fields(body: &[u8]) -> Result<(Fields<'_>, Mends), Unparsable> {
    match strict(body) {
        Ok(fields) => Ok((fields, Mends::default())),
        Err(why @ (Unparsable::NotText(_) | Unparsable::NotJson(_))) => mended(body).ok_or(why),
        Err(why) => Err(why),
    }
}

#[cold]
fn mended(body: &[u8]) -> Option<(Fields<'static>, Mends)> {
    let (text, mends) = json::mend(body);
    let fields = if mends.any() { strict(text.as_bytes()).ok()? } else { return None };
    Some((fields.into_owned(), mends))
}

fn strict(body: &[u8]) -> Result<Fields<'_>, Unparsable> {
    let body = json::without_bom(body).trim_ascii();
    // Once for the whole body is faster than for each text in it.
    let body = std::str::from_utf8(body).map_err(Unparsable::NotText)?;
    match body.bytes().next() {
        None => return Err(Unparsable::Empty),
        Some(b'{') => {}
        Some(_) => {
            let Tree(value) = serde_json::from_str(body).map_err(Unparsable::NotJson)?;
            return Err(Unparsable::NotObject(what(&value)));
        }
    }
    let Top(fields) = serde_json::from_str(body).map_err(Unparsable::NotJson)?;
    fields.ok_or(Unparsable::TooManyFields)
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::String(_) => "a text",
        Value::Number(_) => "a number",
        _ => "a single word",
    }
}

/// The outermost object; none if it has too many fields.
struct Top<'de>(Option<Fields<'de>>);

impl<'de> Deserialize<'de> for Top<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Top<'de>, D::Error> {
        from.deserialize_map(TopReader).map(Top)
    }
}

struct TopReader;

impl<'de> Visitor<'de> for TopReader {
    type Value = Option<Fields<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let (mut fields, mut fits) = (Fields::new(), true);
        while let Some(Key(spelt)) = from.next_key()? {
            let Tree(value) = from.next_value()?;
            let name = names::field(spelt.clone());
            fits &= fields.len() < FIELDS_MAX;
            // Past the limit the rest is read only to know whether it is JSON.
            if fits && (name == spelt || fields.get(&name).is_none()) {
                fields.put(name, value);
            }
        }
        Ok(fits.then_some(fields))
    }
}

/// A JSON value with its field names normalised while it is read.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tree, D::Error> {
        from.deserialize_any(Reader).map(Tree)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, bool: bool) -> Result<Value, E> {
        Ok(bool.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Tree(value)) = from.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(Key(spelt)) = from.next_key()? {
            let Tree(value) = from.next_value()?;
            let name = names::field(spelt.clone());
            if name == spelt || !fields.contains_key(&*name) {
                fields.insert(name.into_owned(), value);
            }
        }
        Ok(Value::Object(fields))
    }
}

/// A field name, borrowed from the body unless it has escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Key<'de>, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(name))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(name.to_owned()))
            }
        }
        from.deserialize_str(Read).map(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> String {
        match fields(body.as_bytes()) {
            Ok((fields, mends)) if mends.any() => {
                format!("{mends}: {}", Value::Object(fields.into_map()))
            }
            Ok((fields, _)) => Value::Object(fields.into_map()).to_string(),
            Err(why) => format!("{}: {why}", why.as_str()),
        }
    }

    #[test]
    fn names_are_normalised_at_every_depth() {
        let body = r#"{"userid":"u","persons":[{"isKnown":true,"id":"p"}],"n":[1,-2,0.5,null]}"#;
        insta::assert_snapshot!(read(body), @r#"{"n":[1,-2,0.5,null],"persons":[{"id":"p","is_known":true}],"user_id":"u"}"#);
    }

    #[test]
    fn our_own_spelling_wins_wherever_it_stands() {
        assert_eq!(read(r#"{"user_id":"a","userid":"b"}"#), r#"{"user_id":"a"}"#);
        assert_eq!(read(r#"{"userid":"b","user_id":"a"}"#), r#"{"user_id":"a"}"#);
    }

    #[test]
    fn slashes_and_letters_arrive_unescaped() {
        assert_eq!(
            read(r#"{"\u0075rl":"https:\/\/x","m":"d\u00e9j\u00e0"}"#),
            r#"{"m":"déjà","url":"https://x"}"#
        );
    }

    #[test]
    fn one_bad_byte_or_number_costs_nothing_else() {
        let (fields, mends) = fields(b"{\"eventType\":\"smoke\",\"message\":\"caf\xe9\"}").unwrap();
        assert_eq!(
            (fields.text("event_type"), mends.to_string().as_str()),
            (Some("smoke"), "texts")
        );
        insta::assert_snapshot!(read(r#"{"message":"\ud83d","timestamp":1e400,}"#), @r#"commas, texts, numbers: {"message":"�","timestamp":null}"#);
    }

    #[test]
    fn what_is_no_object_is_named() {
        insta::assert_snapshot!(read(" \n"), @"empty: the body is empty");
        insta::assert_snapshot!(read("\u{feff}"), @"empty: the body is empty");
        let many: String = (0..129).map(|n| format!("\"f{n}\":1,")).collect();
        insta::assert_snapshot!(read(&format!("{{{many}\"x\":1}}")), @"too_many_fields: the body has more than 128 fields");
        insta::assert_snapshot!(read("[1]"), @"not_object: the body is a list, not a JSON object");
        insta::assert_snapshot!(read("{\"a\": }"), @"not_json: the body is not JSON: expected value at line 1 column 7");
        insta::assert_snapshot!(read("{} x"), @"not_json: the body is not JSON: trailing characters at line 1 column 4");
        let broken = fields(b"{\"a\":\"caf\xe9\"").unwrap_err().to_string();
        insta::assert_snapshot!(broken, @"the body is not JSON: invalid utf-8 sequence of 1 bytes from index 9");
        assert!(read(&"[".repeat(100_000)).contains("recursion limit exceeded"));
    }
}
