//! JSON from systems that now and then write what is none: one bad byte or number must not cost
//! all that stands around it. Strict first; only what fails is mended, in one pass, and read
//! strictly again. Knows no system's words. Pure; says what it mended, never the content.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

/// Words that Python and JavaScript write for numbers that JSON does not have.
const NO_NUMBERS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// What was mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mends {
    /// Commas before a closer were left out.
    pub commas: bool,
    /// Bytes that are no UTF-8 and half characters became U+FFFD; control characters, and
    /// backslashes that escape nothing, stand for themselves.
    pub texts: bool,
    /// `NaN`, infinities, and numbers too large to be kept (`1e400`) became `null`.
    pub numbers: bool,
}

impl Mends {
    /// Whether anything was.
    pub fn any(self) -> bool {
        self != Mends::default()
    }

    /// These and those.
    pub fn and(self, other: Mends) -> Mends {
        Mends {
            commas: self.commas || other.commas,
            texts: self.texts || other.texts,
            numbers: self.numbers || other.numbers,
        }
    }
}

impl fmt::Display for Mends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.commas, "commas"), (self.texts, "texts"), (self.numbers, "numbers")];
        let named: Vec<_> = all.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
        f.write_str(&named.join(", "))
    }
}

/// The value of these bytes, and what had to be mended. The error is that of the strict reader:
/// what it says may quote the content.
pub fn value(bytes: &[u8]) -> Result<(Value, Mends), serde_json::Error> {
    let bytes = without_bom(bytes);
    let strict = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok((value, Mends::default())),
        Err(error) => error,
    };
    let (text, mends) = mend(bytes);
    match mends.any().then(|| serde_json::from_str(&text)) {
        Some(Ok(value)) => Ok((value, mends)),
        _ => Err(strict),
    }
}

/// The bytes without a byte order mark, which says nothing in UTF-8.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The text that was meant, as far as that can be told without knowing what it is about; borrowed
/// if there was nothing to mend. JSON comes out as it is. The time it takes grows with the length
/// and with nothing else.
pub fn mend(bytes: &[u8]) -> (Cow<'_, str>, Mends) {
    let text = String::from_utf8_lossy(bytes);
    let mends = Mends { texts: matches!(text, Cow::Owned(_)), ..Mends::default() };
    let mut mender =
        Mender { text: &text, clean: String::new(), copied: 0, comma: None, mends, quoted: false };
    let mut at = 0;
    while at < text.len() {
        at = if mender.quoted { mender.in_text(at) } else { mender.outside(at) };
    }
    let Mender { mut clean, copied, mends, .. } = mender;
    if copied == 0 {
        return (text, mends);
    }
    clean.push_str(&text[copied..]);
    (Cow::Owned(clean), mends)
}

struct Mender<'t> {
    text: &'t str,
    clean: String,
    /// Up to here the text is in `clean`.
    copied: usize,
    /// Where a comma stands, while only white space came after it.
    comma: Option<usize>,
    mends: Mends,
    quoted: bool,
}

impl Mender<'_> {
    /// Puts `instead` in the place of the bytes from `from` to `to`, both borders of characters.
    fn replace(&mut self, from: usize, to: usize, instead: &str) {
        self.clean.push_str(&self.text[self.copied..from]);
        self.clean.push_str(instead);
        self.copied = to;
    }

    /// Takes what begins at `at`, outside of texts; where the next begins.
    fn outside(&mut self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\n' => return at + 1,
            b',' => {
                self.comma = Some(at);
                return at + 1;
            }
            b'}' | b']' => {
                if let Some(comma) = self.comma {
                    self.replace(comma, comma + 1, "");
                    self.mends.commas = true;
                }
            }
            b'"' => self.quoted = true,
            first if is_of_word(&first) => {
                let length = bytes[at..].iter().position(|byte| !is_of_word(byte));
                let end = length.map_or(bytes.len(), |length| at + length);
                if is_no_number(&self.text[at..end]) {
                    self.replace(at, end, "null");
                    self.mends.numbers = true;
                }
                self.comma = None;
                return end;
            }
            _ => {}
        }
        self.comma = None;
        at + 1
    }

    /// Takes what begins at `at`, in a text.
    fn in_text(&mut self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        match bytes[at] {
            b'"' => self.quoted = false,
            b'\\' => return self.escape(at),
            control @ 0..0x20 => {
                self.replace(at, at + 1, &format!("\\u{control:04x}"));
                self.mends.texts = true;
            }
            _ => {}
        }
        at + 1
    }

    fn escape(&mut self, at: usize) -> usize {
        let rest = &self.text.as_bytes()[at..];
        let half = match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => return at + 2,
            Some(b'u') => unit(rest),
            _ => None,
        };
        match half {
            None => {
                self.replace(at, at + 1, "\\\\");
                self.mends.texts = true;
                at + 1
            }
            Some(0xd800..=0xdbff) if matches!(unit(&rest[6..]), Some(0xdc00..=0xdfff)) => at + 12,
            Some(0xd800..=0xdfff) => {
                self.replace(at, at + 6, "\\ufffd");
                self.mends.texts = true;
                at + 6
            }
            Some(_) => at + 6,
        }
    }
}

fn is_of_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-._".contains(byte)
}

fn is_no_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_number = digits.starts_with(|first: char| first.is_ascii_digit());
    let is_too_large = || word.parse::<f64>().is_ok_and(f64::is_infinite);
    NO_NUMBERS.contains(&word) || is_number && is_too_large()
}

/// The number of an escape `\u1234` at the beginning of these bytes.
fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mended(bytes: &[u8]) -> (Value, String) {
        let (value, mends) = value(bytes).unwrap_or_else(|error| panic!("{error}"));
        (value, mends.to_string())
    }

    #[test]
    fn a_bad_text_or_number_costs_nothing_around_it() {
        let check = |bytes: &[u8], expect: Value, what: &str| {
            assert_eq!(mended(bytes), (expect, what.into()));
        };
        check(b"{\"a\":\"caf\xe9\",\"b\":1}", json!({"a": "caf\u{fffd}", "b": 1}), "texts");
        check(
            br#"["\ud83d","\ude00x","\ud83d\ud83d\ude00"]"#,
            json!(["\u{fffd}", "\u{fffd}x", "\u{fffd}\u{1f600}"]),
            "texts",
        );
        check(b"[\"two\nlines \\q \\u12\"]", json!(["two\nlines \\q \\u12"]), "texts");
        check(
            b"[1e400,-1E+999,1e-400,NaN,-Infinity,Infinity]",
            json!([null, null, 0.0, null, null, null]),
            "numbers",
        );
        check(
            br#"{"a":[1,2 , ],"b":"NaN 1e400 ,]",}"#,
            json!({"a": [1, 2], "b": "NaN 1e400 ,]"}),
            "commas",
        );
        check("\u{feff}{\"a\":NaN,}".as_bytes(), json!({ "a": null }), "commas, numbers");
        let long = format!("[{}]", "9".repeat(400));
        check(long.as_bytes(), json!([null]), "numbers");
    }

    #[test]
    fn json_stays_as_it_is() {
        for text in [
            r#"{"a":"\ud83d\ude00 \\ud83d \" é","b":[1,-2.5e3,null,true],"c":{}}"#,
            "[\n1 , 2\t]",
            "\"\\\\\"",
            "",
        ] {
            assert!(matches!(mend(text.as_bytes()), (Cow::Borrowed(_), mends) if !mends.any()));
        }
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in ["", "{", "{NaN", "[1 2]", "nan", "[\"a", "[\"a\\", "{\"a\" 1,}", "\u{feff}"] {
            assert!(value(text.as_bytes()).is_err(), "{text}");
        }
        assert!(value(b"\xff\xfe").is_err());
        assert!(value("[".repeat(5000).as_bytes()).is_err());
    }
}
