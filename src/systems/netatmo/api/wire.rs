//! What goes over the line to Netatmo's cloud: answers read, requests made. Tolerant, and pure: a
//! field of another type than written is left out, never guessed.
//!
//! Nothing here is quoted from an answer that may hold a token.

use std::fmt;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};
use url::Url;

use crate::secret::Secret;
use crate::systems::http::{self, Answer, Ask, Content};
use crate::systems::json::{self, Mends};

/// Homes of one account that are looked at; a person has a few.
pub const HOMES_MAX: usize = 32;
/// Things of one kind in one home that are looked at.
pub const THINGS_MAX: usize = 1_000;
/// The most characters of what an error says that are shown.
const SAID_CHARS_MAX: usize = 200;
/// How long a token is thought to live if its answer does not say: what Netatmo's answers say.
const TOKEN_LIVES_S: i64 = 10_800;
/// The limits of what an answer may say about it: a minute, and a month.
const TOKEN_LIVES_S_LIMITS: [i64; 2] = [60, 30 * 86_400];
/// What we ask people to allow.
pub const SCOPES: &str = "read_camera write_camera read_presence write_presence \
    read_smokedetector read_carbonmonoxidedetector read_doorbell read_mx write_mx";

/// An answer, as far as its shape tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Read {
    /// An object without an error.
    Good(Map<String, Value>),
    /// Netatmo says no.
    Refused(Refusal),
    /// Neither: a web page, nothing, another kind of JSON. Says which.
    Strange(String),
}

/// Netatmo's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// Netatmo's number for it.
    pub code: Option<i64>,
    /// What it says: a word (`invalid_grant`) or a sentence.
    pub said: String,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
}

/// What a refusal is about, as far as it matters to what is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The access token is missing, wrong or over.
    Token,
    /// The refresh token or the code is dead: only a person can help.
    Grant,
    /// Another call of this user is under way: certainly not done.
    Busy,
    /// Too many calls.
    Throttled,
    /// The token was not given for this.
    Scope,
    /// Nothing is to be changed: as good as done.
    Nothing,
    /// Anything else.
    Other,
}

/// A pair of tokens.
#[derive(Debug, Clone)]
pub struct Token {
    /// For calls.
    pub access: Secret,
    /// For the next pair, if it is a new one.
    pub refresh: Option<Secret>,
    /// How long the access token lives.
    pub lives: Duration,
    /// What it was given for; empty if the answer does not say.
    pub scopes: Vec<String>,
}

/// Reads any answer, and says what was mended in it: a pair of tokens that is not read is lost.
pub fn read(answer: &Answer) -> (Read, Mends) {
    match json::value(&answer.body) {
        Ok((value, mends)) => (meant(answer, Some(value)), mends),
        Err(_) => (meant(answer, None), Mends::default()),
    }
}

fn meant(answer: &Answer, value: Option<Value>) -> Read {
    let status = answer.status;
    // A redirect is nobody's word, whatever stands in it, and many servers act before they send it.
    if (300..=399).contains(&status) {
        return Read::Strange(strange(answer));
    }
    let value = match value {
        Some(value) => value,
        // These say enough by themselves; what stands before Netatmo says them with a web page.
        None if [404, 410, 429].contains(&status) => return Read::Refused(Refusal::bare(answer)),
        None => return Read::Strange(strange(answer)),
    };
    let Value::Object(fields) = value else { return Read::Strange(strange(answer)) };
    if let Some(refusal) = refusal(answer, &fields) {
        return Read::Refused(refusal);
    }
    match status {
        200..=299 => Read::Good(fields),
        400..=499 => Read::Refused(Refusal::bare(answer)),
        _ => Read::Strange(strange(answer)),
    }
}

/// What an answer is that is none, without a word of it.
fn strange(answer: &Answer) -> String {
    let body = answer.body.trim_ascii();
    let what = if body.is_empty() {
        "nothing"
    } else if body.starts_with(b"<") {
        "a web page"
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        "JSON of another kind"
    } else {
        "no JSON"
    };
    format!("HTTP {} with {what} ({} bytes)", answer.status, answer.body.len())
}

fn refusal(answer: &Answer, fields: &Map<String, Value>) -> Option<Refusal> {
    let mut refusal = Refusal::bare(answer);
    match fields.get("error")? {
        Value::Object(error) => {
            refusal.code = error.get("code").and_then(whole);
            if let Some(said) = error.get("message").and_then(Value::as_str) {
                refusal.said = printable(said);
            }
        }
        Value::String(word) => refusal.said = printable(word),
        Value::Number(code) => refusal.code = code.as_i64(),
        Value::Null => return None,
        Value::Bool(_) | Value::Array(_) => {}
    }
    Some(refusal)
}

impl Refusal {
    fn bare(answer: &Answer) -> Refusal {
        let (status, retry_after) = (answer.status, answer.retry_after);
        Refusal { status, code: None, said: String::new(), retry_after }
    }

    /// What it is about. The status alone says little: 403 is throttling as well as a bad token.
    pub fn about(&self) -> About {
        match (self.code, self.said.as_str()) {
            (Some(1..=3), _) | (None, "invalid_token" | "access_token_expired") => About::Token,
            (Some(30), _) | (None, "invalid_grant") => About::Grant,
            (Some(11), _) => About::Busy,
            (Some(26), _) | (None, "too_many_connections") => About::Throttled,
            (Some(13), _) => About::Scope,
            (Some(7), _) => About::Nothing,
            (None, _) if self.status == 429 => About::Throttled,
            (None, _) if self.status == 401 => About::Token,
            _ => About::Other,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "Netatmo refused it with code {code} ({})", meaning(code))?,
            None => write!(f, "Netatmo refused it with HTTP {}", self.status)?,
        }
        if self.said.is_empty() { Ok(()) } else { write!(f, ": {}", self.said) }
    }
}

/// What Netatmo's numbers mean.
pub fn meaning(code: i64) -> &'static str {
    match code {
        1 => "no access token",
        2 => "invalid access token",
        3 => "access token expired",
        5 => "the app is deactivated",
        6 => "unreachable",
        7 => "nothing to change",
        9 => "no such device",
        10 | 21 | 22 | 25 => "wrong argument",
        11 => "another call is under way",
        13 => "not allowed by the consent's scopes",
        23 => "it is so already",
        26 => "too many calls",
        30 => "invalid refresh token",
        31 => "no such method",
        _ => "undocumented",
    }
}

/// A text of theirs on one line of ours.
fn printable(text: &str) -> String {
    let kept = text.chars().take(SAID_CHARS_MAX);
    kept.map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The pair of tokens in an answer that was read.
pub fn token(fields: &Map<String, Value>) -> Result<Token, &'static str> {
    let text =
        |name| fields.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    let access = text("access_token").ok_or("it has no access token")?;
    let access = http::token(access).ok_or("its access token is none that a header can carry")?;
    let lives = ["expires_in", "expire_in"].iter().find_map(|name| whole(fields.get(*name)?));
    let [least, most] = TOKEN_LIVES_S_LIMITS;
    let lives = lives.unwrap_or(TOKEN_LIVES_S).clamp(least, most);
    let scopes = match fields.get("scope") {
        Some(Value::String(scopes)) => scopes.split_whitespace().map(String::from).collect(),
        Some(Value::Array(scopes)) => {
            scopes.iter().filter_map(|scope| scope.as_str().map(String::from)).collect()
        }
        _ => Vec::new(),
    };
    Ok(Token {
        access,
        refresh: refresh(fields),
        lives: Duration::from_secs(lives.unsigned_abs()),
        scopes,
    })
}

/// The refresh token of an answer. It goes into a form, which carries anything, but is no longer
/// than its letters.
pub fn refresh(fields: &Map<String, Value>) -> Option<Secret> {
    let text = fields.get("refresh_token").and_then(Value::as_str).map(str::trim);
    text.filter(|text| !text.is_empty()).map(Secret::new)
}

/// The homes of a `homesdata` answer; none if it is not one.
pub fn homes(fields: &Map<String, Value>) -> Option<Vec<&Map<String, Value>>> {
    let homes = fields.get("body")?.get("homes")?.as_array()?;
    Some(homes.iter().filter_map(thing).take(HOMES_MAX).collect())
}

/// The home of a `homestatus` answer.
pub fn status(fields: &Map<String, Value>) -> Option<&Map<String, Value>> {
    fields.get("body")?.get("home")?.as_object()
}

/// The events of a `getevents` answer, as they come: the newest first.
pub fn events(fields: &Map<String, Value>) -> Option<&Vec<Value>> {
    let body = fields.get("body")?;
    let home = body.get("home").unwrap_or(body);
    home.get("events").or_else(|| home.get("events_list"))?.as_array()
}

/// The things of one kind in a home: those that have an id.
pub fn things<'a>(
    home: &'a Map<String, Value>,
    kind: &str,
) -> impl Iterator<Item = &'a Map<String, Value>> {
    let things = home.get(kind).and_then(Value::as_array);
    things.into_iter().flatten().filter_map(thing).take(THINGS_MAX)
}

fn thing(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object().filter(|thing| thing.get("id").and_then(id).is_some())
}

/// Errors about single modules inside a good answer: codes and ids.
pub fn errors(fields: &Map<String, Value>) -> Vec<(i64, Option<String>)> {
    let inner = fields.get("body").and_then(|body| body.get("errors"));
    let all = inner.or_else(|| fields.get("errors")).and_then(Value::as_array);
    let all = all.into_iter().flatten().take(THINGS_MAX);
    all.map(|error| {
        let code = error.get("code").and_then(whole).unwrap_or(-1);
        (code, error.get("id").and_then(id))
    })
    .collect()
}

/// An id: a text that is not empty, or a number.
pub fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number, also where it is written as a text or with a point.
pub fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|n| n as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Makes requests.
#[derive(Debug, Clone)]
pub struct Asker {
    /// `https://api.netatmo.com`.
    pub base: Url,
}

impl Asker {
    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// A call with form fields, which Netatmo takes for every method but `setstate`.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Ask {
        let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Ask::new(Method::POST, self.at(path)).with(Content::Form(fields.collect()))
    }

    /// Asks for a pair of tokens.
    pub fn token(&self, app: (&str, &Secret), grant: Grant<'_>) -> Ask {
        let (id, secret) = app;
        let mut fields = vec![("client_id", id), ("client_secret", secret.expose())];
        match grant {
            Grant::Refresh(token) => {
                fields.extend([("grant_type", "refresh_token"), ("refresh_token", token.expose())])
            }
            Grant::Code { code, redirect } => fields.extend([
                ("grant_type", "authorization_code"),
                ("code", code.expose()),
                ("redirect_uri", redirect),
                ("scope", SCOPES),
            ]),
        }
        self.form("oauth2/token", &fields)
    }

    /// Sets something of one module.
    pub fn set_state(&self, home: &str, module: Value) -> Ask {
        let body = json!({ "home": { "id": home, "modules": [module] } });
        Ask::new(Method::POST, self.at("api/setstate")).with(Content::Json(body))
    }

    /// Asks for events of a home, the newest, or those before one.
    pub fn events(&self, home: &str, size: u64, before: Option<&str>) -> Ask {
        let size = size.to_string();
        let mut fields = vec![("home_id", home), ("size", size.as_str())];
        fields.extend(before.map(|id| ("event_id", id)));
        self.form("api/getevents", &fields)
    }

    /// The newer way to register: its list, or with an address another entry.
    pub fn webhooks(&self, method: Method, url: Option<&str>) -> Ask {
        let ask = Ask::new(method, self.at("webhooks/v1"));
        match url {
            Some(url) => ask.with(Content::Json(json!({ "url": url }))),
            None => ask,
        }
    }
}

/// What tokens are given for.
#[derive(Debug, Clone, Copy)]
pub enum Grant<'a> {
    /// The last pair.
    Refresh(&'a Secret),
    /// A person's consent.
    Code {
        /// What Netatmo's page gave.
        code: &'a Secret,
        /// The address it was given for.
        redirect: &'a str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            content_type: String::new(),
            retry_after: None,
            date: None,
            location: None,
            body: body.into(),
        }
    }

    fn about(status: u16, body: &str) -> Option<About> {
        match read(&answer(status, body)).0 {
            Read::Refused(refusal) => Some(refusal.about()),
            _ => None,
        }
    }

    #[test]
    fn an_error_is_judged_by_its_code_before_its_status() {
        let table = [
            (403, r#"{"error":{"code":26,"message":"User usage reached"}}"#, About::Throttled),
            (403, r#"{"error":{"code":"3","message":"Access token expired"}}"#, About::Token),
            (403, r#"{"error":{"code":13,"message":"no scope"}}"#, About::Scope),
            (429, r#"{"error":{"code":11,"message":"concurrency"}}"#, About::Busy),
            (429, "<html>slow down</html>", About::Throttled),
            (400, r#"{"error":"invalid_grant"}"#, About::Grant),
            (400, r#"{"error":{"code":30}}"#, About::Grant),
            (401, "{}", About::Token),
            (406, r#"{"error":{"code":7,"message":"Nothing to drop"}}"#, About::Nothing),
            (400, r#"{"error":{"code":21,"message":"Invalid url"}}"#, About::Other),
            (200, r#"{"error":{"code":9}}"#, About::Other),
        ];
        for (status, body, expected) in table {
            assert_eq!(about(status, body), Some(expected), "{status} {body}");
        }
        let expired = r#"{"error":{"code":3}}"#;
        let strange = [
            (502, "<html>"),
            (200, ""),
            (200, "[]"),
            (403, "Forbidden"),
            // Whoever redirects may have done it: that is no refusal.
            (302, expired),
            (307, r#"{"status":"ok"}"#),
            (308, ""),
        ];
        for (status, body) in strange {
            assert!(matches!(read(&answer(status, body)).0, Read::Strange(_)), "{status} {body}");
        }
    }

    #[test]
    fn a_token_is_read_in_both_spellings() {
        let read =
            |text: &str| token(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap());
        let first = read(
            r#"{"access_token":"a","refresh_token":"r","expires_in":10800,"scope":["x","y"]}"#,
        );
        let first = first.unwrap();
        assert_eq!((first.lives.as_secs(), first.scopes.len()), (10_800, 2));
        let second = read(r#"{"access_token":"a","expire_in":"60","scope":"x y z"}"#).unwrap();
        assert_eq!((second.lives.as_secs(), second.scopes.len()), (60, 3));
        assert!(second.refresh.is_none());
        assert_eq!(read(r#"{"access_token":""}"#).unwrap_err(), "it has no access token");
        let odd = read(r#"{"access_token":"a\nb","refresh_token":"r"}"#).unwrap_err();
        assert_eq!(odd, "its access token is none that a header can carry");
        let trimmed = read(r#"{"access_token":"a\n","refresh_token":"r\n"}"#).unwrap();
        assert_eq!((trimmed.access.expose(), trimmed.refresh.unwrap().expose().len()), ("a", 1));
    }

    #[test]
    fn a_new_pair_is_not_lost_for_a_number_or_a_comma_beside_it() {
        for beside in [r#""time_exec":1e400"#, r#""expires_in":10800,"#] {
            let body = format!(r#"{{"access_token":"a","refresh_token":"r",{beside}}}"#);
            let (Read::Good(fields), mends) = read(&answer(200, &body)) else { panic!("{body}") };
            assert!(mends.any() && token(&fields).unwrap().refresh.is_some(), "{body}");
        }
    }

    #[test]
    fn nothing_of_a_strange_answer_is_quoted() {
        let (Read::Strange(why), _) = read(&answer(200, r#"["secret-token"]"#)) else { panic!() };
        assert_eq!(why, "HTTP 200 with JSON of another kind (16 bytes)");
    }
}
