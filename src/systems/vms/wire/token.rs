//! What a login brings: a token, or the news that too many sessions are open. Pure.

use std::fmt;

use serde_json::Value;

use super::text;
use crate::secret::Secret;
use crate::systems::http;
use crate::systems::json::{self, Mends};

/// A session that was opened for us.
#[derive(Clone)]
pub struct Token {
    /// The bearer token.
    pub token: Secret,
    /// The session's id, by which it can be ended at the next login.
    pub session: Option<String>,
    /// What was mended to read it.
    pub mends: Mends,
}

/// The sessions of an account that has no room for another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Full {
    /// Their ids as sent, in the order sent.
    pub sessions: Vec<Value>,
    /// How many are allowed, if it says so.
    pub limit: Option<u64>,
}

/// Names by which a session's id goes in a list of sessions.
const ID_NAMES: [&str; 3] = ["id", "session_id", "access_token_id"];

/// Reads the answer to a login that went well; nothing if there is no token in it, or none that
/// can be sent.
pub fn token(bytes: &[u8]) -> Option<Token> {
    let (answer, mends) = json::value(bytes).ok()?;
    let token = http::token(answer.get("access_token")?.as_str()?)?;
    Some(Token { token, session: session(&answer), mends })
}

/// The session that a login opened, whatever its token is.
pub fn opened(bytes: &[u8]) -> Option<String> {
    json::value(bytes).ok().and_then(|(answer, _)| session(&answer))
}

fn session(answer: &Value) -> Option<String> {
    text(answer.get("user")?.get("access_token_id")?)
}

/// Reads the answer 419 in both its shapes: an object with `sessions`, or the bare array.
pub fn full(bytes: &[u8]) -> Full {
    let Ok((answer, _)) = json::value(bytes) else { return Full::default() };
    let limit = answer.get("sessions_limit").and_then(super::number);
    let listed = match &answer {
        Value::Array(listed) => listed,
        other => match other.get("sessions") {
            Some(Value::Array(listed)) => listed,
            _ => return Full { sessions: Vec::new(), limit },
        },
    };
    Full { sessions: listed.iter().filter_map(session_id).collect(), limit }
}

fn session_id(session: &Value) -> Option<Value> {
    let id = match session {
        Value::Object(fields) => ID_NAMES.iter().find_map(|name| fields.get(*name))?,
        bare => bare,
    };
    text(id).map(|_| id.clone())
}

/// The token stays unseen.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(session {:?})", self.session)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_login_brings_a_token_and_the_session_it_belongs_to() {
        let answer = json!({ "access_token": "T0k", "user": { "id": 1, "access_token_id": 77 } });
        let token = token(answer.to_string().as_bytes()).unwrap();
        assert_eq!((token.token.expose(), token.session.as_deref()), ("T0k", Some("77")));
        assert!(!format!("{token:?}").contains("T0k"));
        assert!(super::token(br#"{"access_token":""}"#).is_none());
        let odd = br#"{"access_token":"a\nb","user":{"access_token_id":78}}"#;
        assert!(super::token(odd).is_none() && opened(odd).as_deref() == Some("78"));
        assert!(super::token(b"<html>").is_none());
    }

    #[test]
    fn open_sessions_come_in_two_shapes() {
        let object = br#"{"sessions":[{"id":7},{"id":"8"}],"sessions_limit":2}"#;
        let expected = Full { sessions: vec![json!(7), json!("8")], limit: Some(2) };
        assert_eq!(full(object), expected);
        let bare = full(br#"[{"id":7,"client":"web"},{"session_id":"8"},{}]"#);
        assert_eq!(bare, Full { sessions: vec![json!(7), json!("8")], limit: None });
        assert_eq!(full(b"Page Expired"), Full::default());
    }
}
