//! Answers that say no: Laravel's JSON in its shapes, or an HTML page where a header was missing
//! or a proxy spoke. Pure; what is shown is short and in one line.

use std::fmt;

use serde_json::Value;

use crate::systems::json;

/// The most characters of a vendor's words that are shown.
const WORDS_CHARS_MAX: usize = 200;
/// The most fields that are named.
const FIELDS_MAX: usize = 8;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What it says as a whole; empty if nothing.
    pub message: String,
    /// What is wrong with which field.
    pub fields: Vec<(String, String)>,
}

/// Reads an answer whose status says no.
pub fn refusal(status: u16, body: &[u8]) -> Refusal {
    let mut refusal = Refusal { status, message: String::new(), fields: Vec::new() };
    match json::value(body) {
        Ok((answer, _)) => refusal.read(&answer),
        Err(_) if is_page(body) => refusal.message = page(body),
        Err(_) => {}
    }
    refusal
}

/// Whether these bytes are an HTML page.
pub fn is_page(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<')
}

/// A page's title is all that is worth showing.
fn page(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    match title {
        Some((title, _)) => format!("an HTML page, {}", one_line(title)),
        None => "an HTML page".into(),
    }
}

fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

/// The first text in a value: a list of complaints names the worst first.
fn first_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(one_line(text)),
        Value::Array(items) => items.iter().find_map(first_text),
        Value::Object(fields) => fields.values().find_map(first_text),
        _ => None,
    }
}

// === impl Refusal ===

impl Refusal {
    /// Whether this field was complained about.
    pub fn is_about(&self, field: &str) -> bool {
        self.fields.iter().any(|(name, _)| name == field)
    }

    fn read(&mut self, answer: &Value) {
        self.message = answer.get("message").and_then(first_text).unwrap_or_default();
        match answer.get("errors").or_else(|| answer.get("error")) {
            Some(Value::Object(fields)) => {
                let named = fields.iter().take(FIELDS_MAX);
                let named = named.map(|(name, why)| {
                    (one_line(name), first_text(why).unwrap_or_else(|| "wrong".into()))
                });
                self.fields = named.collect();
            }
            // A plain text says more than the message, which is the same for every error.
            Some(other) => {
                if let Some(text) = first_text(other) {
                    self.message = text;
                }
            }
            None => {}
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if self.fields.is_empty() && !self.message.is_empty() {
            return write!(f, ": {}", self.message);
        }
        for (at, (name, why)) in self.fields.iter().enumerate() {
            let between = if at == 0 { ": " } else { "; " };
            write!(f, "{between}`{name}` {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, shown: &str) {
        assert_eq!(refusal(422, body.as_bytes()).to_string(), shown, "{body}");
    }

    #[test]
    fn a_refusal_names_the_field_or_says_what_it_can() {
        let both = r#"{"message":"The given data was invalid.","errors":{"ids":
            ["The ids\u000a field is required.","x"],"captcha":"wanted"}}"#;
        // serde_json keeps keys in order of the alphabet.
        check(both, "422: `captcha` wanted; `ids` The ids field is required.");
        assert!(refusal(422, both.as_bytes()).is_about("captcha"));
        check(r#"{"message":"m","errors":"too long"}"#, "422: too long");
        check(r#"{"message":"Unauthenticated."}"#, "422: Unauthenticated.");
        check(r#"{"error":{"a":[]}}"#, "422: `a` wrong");
        check("", "422");
        check("[1]", "422");
        check("plain words", "422");
        check("<!DOCTYPE html><title>Page\n Expired</title>", "422: an HTML page, Page Expired");
        check("<html>", "422: an HTML page");
    }
}
