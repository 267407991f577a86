//! Commands made into requests, and answers into how they went. Pure: sends nothing, and knows
//! nothing of sessions and tokens.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::recipients::{self, Recipient, Unclear};
use super::wire::{self, Problem, Status};
use crate::command::Command;
use crate::systems::http::Fault;
use crate::systems::link::Reply;

/// The most characters of a message. The EMM's own limit is not known; pagers show far less.
const TEXT_CHARS_MAX: usize = 4000;

/// Entries of a list when nobody says how many.
const LIMIT: i64 = 100;

/// One request below `/api/`. No `Debug`: its form may hold a password.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// `users/self/events`.
    pub path: String,
    /// Beside `f=json`.
    pub query: Vec<(&'static str, String)>,
    /// The body; empty for none.
    pub form: Vec<(String, String)>,
}

/// How to do a command.
#[derive(Clone, PartialEq)]
pub struct Plan {
    /// What to ask.
    pub request: Request,
    /// What to ask instead if it says 404, for a path that the document spells in two ways.
    pub on_404: Option<&'static str>,
    /// What to send instead if it says 400: the message's fields flat in the form.
    pub on_400: Option<Vec<(String, String)>>,
    /// How to read the answer.
    pub reads: Reads,
}

/// How to read an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Whatever it is, it is the answer.
    Any,
    /// `{"id":…, "status":…}`: a number or a word.
    Status,
    /// `{"status": 1}` is success, 0 is not.
    One,
    /// `{"status": 0 or 1}`, where both are answers.
    State,
    /// The server's Web Push key.
    Key,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoPlan {
    /// It cannot be done like this.
    Refused(String),
    /// A name is not in the list of recipients that we have.
    Unknown(String),
}

/// Reads arguments that were checked against the table.
struct Args<'a>(&'a Map<String, Value>);

impl Args<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(wire::text)
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    fn id(&self) -> i64 {
        self.int("id").unwrap_or_default()
    }

    /// `offset` is useless without `limit`, so both are always sent.
    fn list(&self) -> Vec<(&'static str, String)> {
        let offset = self.int("offset").unwrap_or(0);
        let limit = self.int("limit").unwrap_or(LIMIT);
        let mut query = vec![("offset", offset.to_string()), ("limit", limit.to_string())];
        if let Some(value) = self.text("value") {
            query.push(("filterField", self.text("field").unwrap_or_else(|| "name".into())));
            query.push(("filterValue", value));
        }
        query.extend(self.text("orderby").map(|by| ("orderby", by)));
        query
    }
}

/// How to do a command. `secrets` are arguments that are nowhere else.
pub fn plan(
    command: &Command,
    secrets: &Map<String, Value>,
    known: &[Recipient],
    is_flat: bool,
) -> Result<Plan, NoPlan> {
    let args = Args(&command.args);
    let secret = |name: &str| secrets.get(name).and_then(wire::text).unwrap_or_default();
    let event = |what: &str| format!("users/self/events/{}/{what}", args.id());
    let user = || args.int("id").map_or("user/self".to_string(), |id| format!("user/{id}"));
    let own_on_404 = args.int("id").is_none().then_some("users/self");
    Ok(match command.call.as_str() {
        "send" => return send(&args, known, is_flat),
        "inbox" => {
            let mut query = args.list();
            if !query.iter().any(|(name, _)| *name == "orderby") {
                query.push(("orderby", "MQ.QueueTM DESC".into()));
            }
            get("users/self/events", query)
        }
        "event" => get(&format!("users/self/events/{}", args.id()), Vec::new()),
        "read" | "accept" | "cancel" | "escalate" | "delete" => {
            post(&event(&command.call), Vec::new(), Reads::Status)
        }
        "active_alarms" => get("alarms/active", args.list()),
        "alarm" => get(&format!("alarms/active/{}", args.id()), Vec::new()),
        "cancel_alarm" => {
            post(&format!("alarms/active/{}/cancel", args.id()), Vec::new(), Reads::Status)
        }
        "recipients" => get("recipients", args.list()),
        "recipient" => get(&format!("recipients/{}", args.id()), Vec::new()),
        "contacts" => get("contacts", args.list()),
        "contact" => get(&format!("contacts/{}", args.id()), Vec::new()),
        "contact.edit" => {
            let form = vec![("contact".into(), object(&args, "fields")?)];
            post(&format!("contacts/{}", args.id()), form, Reads::Any)
        }
        "contact.delete" => {
            post(&format!("contacts/{}/delete", args.id()), Vec::new(), Reads::Status)
        }
        "users" => get("users", args.list()),
        "user" => Plan { on_404: own_on_404, ..get(&user(), Vec::new()) },
        "user.set" => {
            let form = vec![("settings".into(), object(&args, "settings")?)];
            Plan { on_404: own_on_404, ..post(&user(), form, Reads::Any) }
        }
        "password" => {
            let form = vec![("Password".into(), secret("password"))];
            post("users/self/password", form, Reads::One)
        }
        "settings" => Plan { reads: Reads::Key, ..get("settings/webpush", Vec::new()) },
        "webpush" => {
            Plan { reads: Reads::State, ..get("users/self/webpush/subscribe", Vec::new()) }
        }
        "webpush.subscribe" => {
            let text = |name: &str| (name.to_string(), args.text(name).unwrap_or_default());
            let form = vec![text("endpoint"), text("p256dh"), ("auth".into(), secret("auth"))];
            post("users/self/webpush/subscribe", form, Reads::One)
        }
        "webpush.unsubscribe" => post("users/self/webpush/unsubscribe", Vec::new(), Reads::State),
        other => return Err(NoPlan::Refused(format!("an EMM has no command `{other}`"))),
    })
}

fn get(path: &str, query: Vec<(&'static str, String)>) -> Plan {
    let request = Request { method: Method::GET, path: path.into(), query, form: Vec::new() };
    Plan { request, on_404: None, on_400: None, reads: Reads::Any }
}

fn post(path: &str, form: Vec<(String, String)>, reads: Reads) -> Plan {
    let request = Request { method: Method::POST, path: path.into(), query: Vec::new(), form };
    Plan { request, on_404: None, on_400: None, reads }
}

fn object(args: &Args<'_>, name: &str) -> Result<String, NoPlan> {
    match args.0.get(name) {
        Some(fields @ Value::Object(_)) => Ok(fields.to_string()),
        // Templates make texts.
        Some(Value::String(text)) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => {
            Ok(text.clone())
        }
        _ => Err(NoPlan::Refused(format!("`{name}` must be an object of fields and values"))),
    }
}

fn send(args: &Args<'_>, known: &[Recipient], is_flat: bool) -> Result<Plan, NoPlan> {
    let text = args.text("text").unwrap_or_default();
    let length = text.chars().count();
    if text.trim().is_empty() || length > TEXT_CHARS_MAX {
        let why = format!("`text` must have 1 to {TEXT_CHARS_MAX} characters; it has {length}");
        return Err(NoPlan::Refused(why));
    }
    let reply = args.int("reply_to");
    let to = args.0.get("to").and_then(Value::as_array);
    let to: Vec<String> = to.into_iter().flatten().filter_map(wire::text).collect();
    if to.is_empty() && reply.is_none() {
        return Err(NoPlan::Refused("`send` needs `to`: recipients by name or number".into()));
    }
    let ids = recipients::resolve(&to, known).map_err(|unclear| match unclear {
        Unclear::Nobody(why) => NoPlan::Unknown(why),
        Unclear::Several(why) => NoPlan::Refused(why),
    })?;
    let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
    let priority = i32::from(args.0.get("priority") == Some(&Value::Bool(true)));
    let mut fields = Map::new();
    fields.insert("text".into(), text.into());
    fields.insert("priority".into(), priority.into());
    fields.extend(args.text("tone").map(|tone| ("tone".into(), tone.into())));
    fields.insert("recipients".into(), ids.join(",").into());
    fields.extend(reply.map(|reply| ("reply_message_id".into(), reply.into())));
    let flat: Vec<(String, String)> =
        fields.iter().filter_map(|(name, v)| Some((name.clone(), wire::text(v)?))).collect();
    let event = vec![("event".to_string(), Value::Object(fields).to_string())];
    let path = "users/self/events/send";
    if is_flat {
        return Ok(post(path, flat, Reads::Any));
    }
    Ok(Plan { on_400: Some(flat), ..post(path, event, Reads::Any) })
}

/// What an answer means for a command; tokens and second tries were dealt with.
pub fn reply(reads: Reads, answer: Result<&Value, &Problem>) -> Reply {
    let value = match answer {
        Ok(value) => value,
        Err(problem) => return failed(problem),
    };
    let status = value.get("status").and_then(Status::read);
    let no = |why: &str| Reply::Refused(format!("the EMM says: {why}"));
    match (reads, status) {
        (Reads::Key, _) => Reply::Done(with_point(value)),
        (Reads::One, Some(Status::Code(0))) => no("error (status 0)"),
        (Reads::Status, Some(Status::Code(0))) => no("error_send (status 0)"),
        (Reads::Status | Reads::One, Some(Status::Word(word))) => match word.as_str() {
            "fail" | "failed" | "error" => no(&word),
            "in_use" => no(&format!("in use by {}", users_of(value))),
            _ => Reply::Done(value.clone()),
        },
        (Reads::Status, Some(status)) => {
            let mut value = value.clone();
            if let Value::Object(fields) = &mut value {
                fields.insert("status_name".into(), status.name().into());
            }
            Reply::Done(value)
        }
        _ => Reply::Done(value.clone()),
    }
}

fn users_of(value: &Value) -> String {
    let list = value.get("in_use").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(|user| user.get("name")?.as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn failed(problem: &Problem) -> Reply {
    let why = problem.to_string();
    match problem {
        Problem::Token(_) | Problem::Said(_) | Problem::Status(400..=499, _) => Reply::Refused(why),
        // Turned away at the door: nothing was done, and it may go another time.
        Problem::Throttled | Problem::Sessions(_) | Problem::Status(503, _) => Reply::Unsent(why),
        Problem::Html | Problem::Status(..) | Problem::NotJson(_) => Reply::Unknown(why),
    }
}

/// What a missing answer means for a command.
pub fn unanswered(fault: &Fault) -> Reply {
    match fault {
        Fault::Unsent(why) => Reply::Unsent(why.clone()),
        Fault::Unknown(why) => Reply::Unknown(why.clone()),
    }
}

/// The Web Push key also as browsers want it: the vendor sends it inside a DER envelope, whose
/// last 65 bytes it is, or bare.
fn with_point(value: &Value) -> Value {
    let mut value = value.clone();
    let point = value.get("vapid_publickey").and_then(Value::as_str).and_then(point);
    if let (Value::Object(fields), Some(point)) = (&mut value, point) {
        fields.insert("point".into(), point.into());
    }
    value
}

fn point(key: &str) -> Option<String> {
    /// An uncompressed point on P-256.
    const POINT_BYTES: usize = 65;
    let key: String = key.chars().filter(|c| !c.is_whitespace()).collect();
    let der = STANDARD
        .decode(&key)
        .or_else(|_| URL_SAFE.decode(&key))
        .or_else(|_| URL_SAFE_NO_PAD.decode(&key))
        .ok()?;
    let point = &der[der.len().checked_sub(POINT_BYTES)?..];
    (point[0] == 4).then(|| URL_SAFE_NO_PAD.encode(point))
}

/// The commands that change what the inbox holds.
pub fn touches_inbox(call: &str) -> bool {
    ["read", "accept", "delete"].contains(&call)
}

/// The commands that change whether `/changes` speaks.
pub fn touches_push(call: &str) -> bool {
    call.starts_with("webpush.")
}

/// The question for one page of the recipients.
pub fn recipients_page(offset: i64, limit: i64) -> Request {
    list_page("recipients", offset, limit)
}

/// The question for one page of a list.
pub fn list_page(path: &str, offset: i64, limit: i64) -> Request {
    let args = json!({ "offset": offset, "limit": limit });
    let query = args.as_object().map(|args| Args(args).list()).unwrap_or_default();
    get(path, query).request
}

#[cfg(test)]
mod tests {
    use super::super::COMMANDS;
    use super::*;
    use crate::command::{Kind, Repeat, find};
    use crate::event::Trust;

    fn order(call: &str, args: Value) -> Command {
        let args = find(COMMANDS, call).unwrap().check(args.as_object().unwrap().clone()).unwrap();
        let (to, repeat, trust) = ("emm/block".into(), Repeat::Harmless, Trust::Human);
        Command { to, call: call.into(), args, repeat, trust }
    }

    fn planned(call: &str, args: Value) -> Result<Plan, NoPlan> {
        let secrets = json!({ "password": "new", "auth": "s" });
        let known = [Recipient { id: 12, name: "Guard".into() }];
        plan(&order(call, args), secrets.as_object().unwrap(), &known, false)
    }

    fn shown(call: &str, args: Value) -> String {
        let request = planned(call, args).unwrap_or_else(|e| panic!("{e:?}")).request;
        let pairs = |list: Vec<String>| list.join("&");
        let query = request.query.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let form = request.form.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} {}?{} {}", request.method, request.path, pairs(query), pairs(form))
    }

    #[test]
    fn every_command_has_a_request() {
        // What opens is the driver's own.
        for spec in COMMANDS.iter().filter(|spec| !spec.opens) {
            let given = spec.args.iter().filter(|arg| arg.required).map(|arg| {
                let value = match arg.kind {
                    Kind::Int(..) => json!(7),
                    Kind::Json => json!({ "x": "y" }),
                    _ => json!("x"),
                };
                (arg.name.to_string(), value)
            });
            let mut args: Map<String, Value> = given.collect();
            if spec.name == "send" {
                args.insert("to".into(), json!(["1"]));
            }
            assert!(planned(spec.name, Value::Object(args)).is_ok(), "{}", spec.name);
        }
    }

    #[test]
    fn requests_are_spelt_as_documented() {
        let text = json!({ "text": "Fire", "to": ["guard", 15], "priority": true, "tone": "B", "reply_to": 5 });
        insta::assert_snapshot!(shown("send", text), @r#"POST users/self/events/send? event={"priority":1,"recipients":"12,15","reply_message_id":5,"text":"Fire","tone":"B"}"#);
        insta::assert_snapshot!(shown("escalate", json!({ "id": 3 })), @"POST users/self/events/3/escalate? ");
        insta::assert_snapshot!(shown("contacts", json!({ "value": "clint*" })), @"GET contacts?offset=0&limit=100&filterField=name&filterValue=clint* ");
        insta::assert_snapshot!(shown("contact.edit", json!({ "id": 3, "fields": { "name": "x" } })), @r#"POST contacts/3? contact={"name":"x"}"#);
        insta::assert_snapshot!(shown("user", json!({})), @"GET user/self? ");
        insta::assert_snapshot!(shown("password", json!({ "password": "x" })), @"POST users/self/password? Password=new");
        insta::assert_snapshot!(shown("inbox", json!({ "limit": 5 })), @"GET users/self/events?offset=0&limit=5&orderby=MQ.QueueTM DESC ");
        let plan = planned("send", json!({ "text": "x", "to": "1" })).ok().unwrap();
        assert_eq!(plan.on_400.unwrap().len(), 3);
        let refused = planned("send", json!({ "text": "x" })).err().unwrap();
        assert!(matches!(refused, NoPlan::Refused(why) if why.contains("`to`")));
        assert!(planned("send", json!({ "text": " ", "to": "1" })).is_err());
        let unknown = planned("send", json!({ "text": "x", "to": "Gard" })).err().unwrap();
        assert!(matches!(unknown, NoPlan::Unknown(why) if why.contains("`Guard`")));
    }

    #[test]
    fn answers_say_how_it_went() {
        let done = |reads, value: Value| match reply(reads, Ok(&value)) {
            Reply::Done(value) => value.to_string(),
            other => format!("{other:?}"),
        };
        insta::assert_snapshot!(done(Reads::Status, json!({ "id": 1, "status": 5 })), @r#"{"id":1,"status":5,"status_name":"read"}"#);
        insta::assert_snapshot!(done(Reads::Status, json!({ "id": 1, "status": 0 })), @r#"Refused("the EMM says: error_send (status 0)")"#);
        insta::assert_snapshot!(done(Reads::Status, json!({ "status": "fail" })), @r#"Refused("the EMM says: fail")"#);
        insta::assert_snapshot!(done(Reads::Status, json!({ "status": "in-use", "in_use": [{ "name": "Lift" }] })), @r#"Refused("the EMM says: in use by Lift")"#);
        insta::assert_snapshot!(done(Reads::One, json!({ "status": "0" })), @r#"Refused("the EMM says: error (status 0)")"#);
        insta::assert_snapshot!(done(Reads::State, json!({ "status": 0 })), @r#"{"status":0}"#);
        assert!(matches!(failed(&Problem::Status(500, String::new())), Reply::Unknown(_)));
        assert!(matches!(failed(&Problem::Status(307, String::new())), Reply::Unknown(_)));
        assert!(matches!(failed(&Problem::Status(503, String::new())), Reply::Unsent(_)));
        assert!(matches!(failed(&Problem::Status(400, String::new())), Reply::Refused(_)));
        assert!(matches!(failed(&Problem::Throttled), Reply::Unsent(_)));
    }

    #[test]
    fn the_key_comes_out_of_its_envelope() {
        let mut der = vec![7; 26];
        der.push(4);
        der.extend([9; 64]);
        let bare = URL_SAFE_NO_PAD.encode(&der[26..]);
        for key in [STANDARD.encode(&der), URL_SAFE_NO_PAD.encode(&der), bare.clone()] {
            assert_eq!(point(&key).as_ref(), Some(&bare));
        }
        assert_eq!(point("AAAA"), None);
    }
}
