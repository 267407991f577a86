//! What the simulated intercom is and answers: its users, relays, sensors and tokens, by the
//! vendor's page as corrected by what real devices do. No sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::names::Names;
use super::super::wire;
use crate::secret::random_name;

/// How long a relay stays open if nobody says otherwise.
const OPEN_MS: u64 = 3_000;

/// The form of `exp_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// A span in milliseconds as a text: what a real device sent.
    TextSpan,
    /// The same as a number.
    NumberSpan,
    /// Milliseconds since 1970 as a text.
    TextMoment,
    /// The same as a number.
    NumberMoment,
}

/// The form of the answer to a token that is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// `message` is `Expired`.
    Expired,
    /// `data.name` is `InvalidToken`.
    InvalidToken,
}

/// How the intercom behaves.
#[derive(Debug, Clone)]
pub struct Manners {
    /// See [`Expiry`].
    pub expiry: Expiry,
    /// How long a token lives.
    pub token_lives: Duration,
    /// See [`TokenError`].
    pub token_error: TokenError,
    /// Whether a relay's signal comes before the reply to who opened it.
    pub signal_first: bool,
    /// Every frame comes twice.
    pub twice: bool,
    /// Every other reply comes later than the one after it.
    pub reorder: bool,
    /// Ids come back as texts.
    pub text_ids: bool,
    /// Methods, by our name, that it answers with -32601.
    pub lacks: BTreeSet<&'static str>,
    /// Methods, by our name, that it does and never answers.
    pub mute: BTreeSet<&'static str>,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            expiry: Expiry::TextSpan,
            token_lives: Duration::from_secs(900),
            token_error: TokenError::Expired,
            signal_first: true,
            twice: false,
            reorder: false,
            text_ids: false,
            lacks: BTreeSet::new(),
            mute: BTreeSet::new(),
        }
    }
}

/// One relay as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Relay {
    /// Whether it is open.
    pub open: bool,
    /// How often it was opened: what a door's promise is measured by.
    pub openings: u64,
    /// How long it stays open by itself, in milliseconds.
    pub timeout_ms: u64,
}

/// One user of the intercom's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub name: String,
    /// Password.
    pub pass: String,
    /// PIN.
    pub pin: String,
    /// Whether an administrator.
    pub is_admin: bool,
    /// Unique id.
    pub uuid: String,
}

/// The intercom as it is.
#[derive(Debug, Clone)]
pub struct House {
    /// See [`Manners`].
    pub manners: Manners,
    /// Both relays.
    pub relays: [Relay; 2],
    /// All users.
    pub users: Vec<User>,
    /// Numbers and words that can be set, by the vendor's names, `video` among them.
    pub settings: Map<String, Value>,
    /// What was asked, in order: our name for the method and the parameters.
    pub received: Vec<(String, Value)>,
    names: Names,
    tokens: BTreeMap<String, (String, Instant)>,
}

/// What follows from a frame.
#[derive(Debug, Default)]
pub struct Answer {
    /// Goes to who asked.
    pub reply: Option<Value>,
    /// Go to everybody who is logged in.
    pub signals: Vec<Value>,
    /// A relay opened, and closes by itself after so many milliseconds.
    pub opened: Option<(usize, u64)>,
    /// Who asked is logged in with this token from now on.
    pub token: Option<String>,
}

/// Code and text of a JSON-RPC error.
type Fault = (i64, &'static str);

const INVALID: Fault = (-32602, "Invalid params");
const FORBIDDEN: Fault = (-32001, "Forbidden");

impl House {
    /// An intercom with one administrator.
    pub fn new(user: &str, pass: &str, names: Names) -> House {
        let relay = Relay { timeout_ms: OPEN_MS, ..Relay::default() };
        let admin = User {
            name: user.into(),
            pass: pass.into(),
            pin: "1234".into(),
            is_admin: true,
            uuid: String::new(),
        };
        let settings = json!({
            "mode": "auto", "high_threshold": 20, "low_threshold": 4, "luminosity": 120,
            "sensitivity": "MEDIUM", "timeout": 5000,
            "video": { "hdr": true, "dewarping": false, "framerate": 50 },
        });
        House {
            manners: Manners::default(),
            relays: [relay; 2],
            users: vec![admin],
            settings: object(settings),
            received: Vec::new(),
            names,
            tokens: BTreeMap::new(),
        }
    }

    /// Answers one text frame.
    pub fn answer(&mut self, frame: &str, at: Timestamp, now: Instant) -> Answer {
        let Ok(Value::Object(asked)) = serde_json::from_str(frame) else {
            let error = json!({ "code": -32700, "message": "Parse error" });
            let reply = json!({ "jsonrpc": "2.0", "id": null, "error": error });
            return Answer { reply: Some(reply), ..Answer::default() };
        };
        let id = asked.get("id").cloned().unwrap_or(Value::Null);
        let id = if self.manners.text_ids { wire::text(Some(&id)).into() } else { id };
        let params = asked.get("params").cloned().map(object).unwrap_or_default();
        let key = asked.get("method").and_then(Value::as_str).and_then(|m| self.names.key(m));
        let key = key.filter(|key| !self.manners.lacks.contains(key) && !key.starts_with("signal"));
        let Some(key) = key else {
            let error = json!({ "code": -32601, "message": "Method not found" });
            return reply(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
        };
        self.received.push((key.to_string(), Value::Object(params.clone())));
        let mut answer = Answer::default();
        let result = match key {
            "account.login" => self.login(&params, at, now, &mut answer),
            _ => match self.user_of(&params, now) {
                Some(user) => self.call(key, &user, &params, at, now, &mut answer),
                None => {
                    let error = self.token_error();
                    return reply(json!({ "jsonrpc": "2.0", "id": id, "error": error }));
                }
            },
        };
        let shown = match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err((code, message)) => {
                let error = json!({ "code": code, "message": message });
                json!({ "jsonrpc": "2.0", "id": id, "error": error })
            }
        };
        answer.reply = (!self.manners.mute.contains(key)).then_some(shown);
        answer
    }

    /// Whether this token is good.
    pub fn is_live(&self, token: &str, now: Instant) -> bool {
        self.tokens.get(token).is_some_and(|(_, until)| *until > now)
    }

    /// Voids every token.
    pub fn expire_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Opens or closes a relay; the signal that says so.
    pub fn turn(&mut self, relay: usize, open: bool, method: &str, user: &str) -> Option<Value> {
        let it = self.relays.get_mut(relay)?;
        it.open = open;
        it.openings += u64::from(open);
        let params = json!({ "relay": relay, "is_open": open, "method": method, "user": user });
        Some(self.signal("signal.relay", params))
    }

    /// A signal by our name for it.
    pub fn signal(&self, key: &str, params: Value) -> Value {
        let method = self.names.method(key).unwrap_or(key);
        json!({ "jsonrpc": "2.0", "method": method, "params": params })
    }

    fn token_error(&self) -> Value {
        match self.manners.token_error {
            TokenError::Expired => json!({ "code": -32000, "message": "Expired" }),
            TokenError::InvalidToken => json!({
                "code": -32000, "message": "Unauthorized", "data": { "name": "InvalidToken" },
            }),
        }
    }

    fn user_of(&self, params: &Map<String, Value>, now: Instant) -> Option<User> {
        let token = params.get("token")?.as_str()?;
        let (name, until) = self.tokens.get(token)?;
        self.users.iter().find(|user| user.name == *name && *until > now).cloned()
    }

    fn login(
        &mut self,
        params: &Map<String, Value>,
        at: Timestamp,
        now: Instant,
        answer: &mut Answer,
    ) -> Result<Value, Fault> {
        let (user, pass) = (wire::text(params.get("user")), wire::text(params.get("pass")));
        let known = |u: &&User| u.name == user && u.pass == pass && !u.pass.is_empty();
        let user = self.users.iter().find(known).ok_or((-32002, "Invalid user or password"))?;
        Ok(self.new_token(&user.name.clone(), at, now, answer))
    }

    fn new_token(&mut self, user: &str, at: Timestamp, now: Instant, answer: &mut Answer) -> Value {
        let (token, lives) = (random_name(), self.manners.token_lives);
        self.tokens.insert(token.clone(), (user.to_string(), now + lives));
        answer.token = Some(token.clone());
        let span = i64::try_from(lives.as_millis()).unwrap_or(i64::MAX);
        let moment = at.as_millisecond().saturating_add(span);
        let exp_time = match self.manners.expiry {
            Expiry::TextSpan => json!(span.to_string()),
            Expiry::NumberSpan => json!(span),
            Expiry::TextMoment => json!(moment.to_string()),
            Expiry::NumberMoment => json!(moment),
        };
        json!({ "token": token, "exp_time": exp_time })
    }

    fn call(
        &mut self,
        key: &str,
        user: &User,
        params: &Map<String, Value>,
        at: Timestamp,
        now: Instant,
        answer: &mut Answer,
    ) -> Result<Value, Fault> {
        let sets = key.contains(".set") || matches!(key, "users.add" | "users.remove");
        if sets && !user.is_admin {
            return Err(FORBIDDEN);
        }
        match key {
            "account.logout" => {
                self.tokens.remove(&wire::text(params.get("token")));
                Ok(json!(0))
            }
            "account.refresh" => {
                self.tokens.remove(&wire::text(params.get("token")));
                Ok(self.new_token(&user.name, at, now, answer))
            }
            "relay.open" => self.open(user, params, answer),
            "relay.state" => Ok(json!({ "opened": self.relays[relay(params)?].open })),
            "relay.timeout" => Ok(json!({ "timeout": self.relays[relay(params)?].timeout_ms })),
            "relay.set_timeout" => {
                let relay = relay(params)?;
                self.relays[relay].timeout_ms = open_ms(params)?.ok_or(INVALID)?;
                Ok(json!(0))
            }
            "video.set" => self.set("video", Value::Object(without_token(params))),
            _ if key.starts_with("users.") => self.user(key, params),
            _ => self.setting(key, params),
        }
    }

    fn open(
        &mut self,
        user: &User,
        params: &Map<String, Value>,
        answer: &mut Answer,
    ) -> Result<Value, Fault> {
        let relay = relay(params)?;
        let ms = open_ms(params)?.unwrap_or(self.relays[relay].timeout_ms);
        answer.signals.extend(self.turn(relay, true, "WS_API", &user.name));
        answer.opened = Some((relay, ms));
        Ok(json!(0))
    }

    fn user(&mut self, key: &str, params: &Map<String, Value>) -> Result<Value, Fault> {
        let name = wire::text(params.get("user"));
        let text = |field: &str| params.get(field).map(|value| wire::text(Some(value)));
        let at = self.users.iter().position(|user| user.name == name);
        match (key, at) {
            ("users.list", _) => Ok(self.users.iter().map(shown).collect()),
            ("users.add", None) => {
                let is_admin = params.get("is_admin").and_then(wire::flag).ok_or(INVALID)?;
                let (pass, pin) = (text("pass").ok_or(INVALID)?, text("pin").ok_or(INVALID)?);
                let uuid = text("uuid").unwrap_or_default();
                self.users.push(User { name, pass, pin, is_admin, uuid });
                Ok(json!(0))
            }
            ("users.remove", Some(at)) => {
                self.users.remove(at);
                Ok(json!(0))
            }
            ("users.change", Some(at)) => {
                let user = &mut self.users[at];
                user.pass = text("pass").unwrap_or_else(|| user.pass.clone());
                user.pin = text("pin").unwrap_or_else(|| user.pin.clone());
                user.uuid = text("uuid").unwrap_or_else(|| user.uuid.clone());
                user.is_admin =
                    params.get("is_admin").and_then(wire::flag).unwrap_or(user.is_admin);
                Ok(json!(0))
            }
            _ => Err(INVALID),
        }
    }

    /// Gets or sets one of the sensors' settings: `day_night.set_mode`, `proximity.timeout`.
    fn setting(&mut self, key: &str, params: &Map<String, Value>) -> Result<Value, Fault> {
        let name = key.split_once('.').map_or(key, |(_, name)| name);
        if let Some(name) = name.strip_prefix("set_") {
            let value = params.get(name).cloned().ok_or(INVALID)?;
            return self.set(name, value);
        }
        let value = self.settings.get(name).cloned().ok_or(INVALID)?;
        Ok(Value::Object(Map::from_iter([(name.to_string(), value)])))
    }

    fn set(&mut self, name: &str, value: Value) -> Result<Value, Fault> {
        self.settings.insert(name.into(), value);
        Ok(json!(0))
    }
}

fn reply(reply: Value) -> Answer {
    Answer { reply: Some(reply), ..Answer::default() }
}

fn relay(params: &Map<String, Value>) -> Result<usize, Fault> {
    let number = params.get("relay").and_then(Value::as_u64).filter(|n| *n < 2);
    number.and_then(|n| usize::try_from(n).ok()).ok_or(INVALID)
}

fn open_ms(params: &Map<String, Value>) -> Result<Option<u64>, Fault> {
    let Some(ms) = params.get("timeout") else { return Ok(None) };
    ms.as_u64().filter(|ms| (250..=30_000).contains(ms)).map(Some).ok_or(INVALID)
}

fn shown(user: &User) -> Value {
    json!({
        "user": user.name, "pin": user.pin, "is_admin": user.is_admin,
        "avatar_uri": "", "uuid": user.uuid, "confirmed": true,
    })
}

fn without_token(params: &Map<String, Value>) -> Map<String, Value> {
    let mut params = params.clone();
    params.remove("token");
    params
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
