//! What a simulated EMM answers to each call of the vendor's document.

use std::collections::BTreeMap;
use std::sync::Mutex;

use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::bodies;
use super::world::World;
use super::{PREFIX, Received, USERNAME, lock};

/// The vendor's columns; anything else is refused.
const COLUMNS: [&str; 7] =
    ["name", "MQ.Priority", "MQ.QueueTM", "I.Status", "MQ.ThreadID", "MQ.FromUserID", "MQ.Msg"];

/// What came of a call, before it is printed.
enum Answer {
    Json(Value),
    Text(String),
    Html,
    Status(u16),
    Throttled(u64),
    Cut,
    /// The connection ends after this.
    CutAfter(String),
    Never,
}

type Params = BTreeMap<String, String>;

struct Asked<'a> {
    method: &'a Method,
    /// Below `/api/`.
    path: Vec<&'a str>,
    params: Params,
    token: Option<&'a str>,
}

/// Answers one request.
pub(super) async fn answer(
    request: HttpRequest,
    body: Bytes,
    world: Data<Mutex<World>>,
) -> HttpResponse {
    let prefix = format!("{PREFIX}/api/");
    let Some(path) = request.path().strip_prefix(&prefix) else {
        return HttpResponse::NotFound().finish();
    };
    let header = request.headers().get("Authorization").and_then(|value| value.to_str().ok());
    let asked = Asked {
        method: request.method(),
        path: path.split('/').collect(),
        params: params(&request, &body),
        token: header.and_then(|value| value.strip_prefix("Bearer ")),
    };
    let (answer, turn) = {
        let mut world = lock(&world);
        world.turn += 1;
        (decide(&mut world, &asked), world.turn)
    };
    print(answer, turn).await
}

fn params(request: &HttpRequest, body: &[u8]) -> Params {
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    let mut params: Params = query.into_owned().collect();
    let is_json = request
        .headers()
        .get("Content-Type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(fields) if is_json => {
            params.extend(fields.into_iter().map(|(name, value)| (name, plain(&value))));
        }
        _ => params.extend(url::form_urlencoded::parse(body).into_owned()),
    }
    params
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

async fn print(answer: Answer, turn: usize) -> HttpResponse {
    let page = "<!DOCTYPE html><html><body><form>Please log in</form></body></html>";
    let html = "text/html; charset=utf-8";
    match answer {
        Answer::Json(value) => HttpResponse::Ok().json(value),
        Answer::Text(text) => HttpResponse::Ok().content_type("application/json").body(text),
        Answer::Html => HttpResponse::Ok().content_type(html).body(page),
        Answer::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            let mut response = HttpResponse::build(status);
            // The document does not say what such bodies hold.
            match turn % 3 {
                0 => response.finish(),
                1 => response.content_type(html).body("<h1>No</h1>"),
                _ => response.json(json!({ "error": { "description": "no" } })),
            }
        }
        Answer::Throttled(after) => HttpResponse::TooManyRequests()
            .insert_header(("Retry-After", after.to_string()))
            .finish(),
        Answer::Cut => {
            let cut = Err::<Bytes, _>(std::io::Error::other("cut on purpose"));
            HttpResponse::Ok().streaming(stream::iter([cut]))
        }
        Answer::CutAfter(part) => {
            let part = stream::once(async move { Ok(Bytes::from(part)) });
            let cut = stream::once(async {
                // What was said so far is on its way then.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut on purpose"))
            });
            HttpResponse::Ok().streaming(part.chain(cut).boxed_local())
        }
        Answer::Never => std::future::pending().await,
    }
}

/// Takes one off a count.
fn once(count: &mut u32) -> bool {
    let is = *count > 0;
    *count = count.saturating_sub(1);
    is
}

fn decide(world: &mut World, asked: &Asked<'_>) -> Answer {
    let options = &mut world.options;
    if options.half_open {
        return Answer::Never;
    }
    if once(&mut options.drop_calls) {
        return Answer::Cut;
    }
    if let Some(after) = options.throttle {
        return Answer::Throttled(after);
    }
    if options.html || asked.params.get("f").is_none_or(|f| f != "json") {
        return Answer::Html;
    }
    if asked.path == ["tokens", "generatetoken"] {
        return log_in(world, asked);
    }
    world.live_sessions();
    let is_known = asked.token.is_some_and(|token| world.sessions.contains_key(token));
    let is_command = asked.method == Method::POST && asked.path.first() != Some(&"tokens");
    if !is_known || world.options.forbidden || (is_command && world.options.read_only) {
        return Answer::Status(403);
    }
    if once(&mut world.options.errors) {
        let api = asked.path.last().copied().unwrap_or_default();
        return Answer::Json(json!({ "error": { "api": api, "description": "database is busy" } }));
    }
    if asked.params.contains_key("offset") && !asked.params.contains_key("limit") {
        return Answer::Status(400);
    }
    if is_command {
        record(world, asked);
    }
    route(world, asked)
}

fn log_in(world: &mut World, asked: &Asked<'_>) -> Answer {
    if asked.method != Method::POST {
        return Answer::Html;
    }
    world.logins += 1;
    let error = |why: &str| {
        Answer::Json(json!({ "error": { "api": "generatetoken", "description": why } }))
    };
    let is = |name: &str, wanted: &str| asked.params.get(name).is_some_and(|got| got == wanted);
    if !is("username", USERNAME) || !is("password", &world.password) {
        return error("Invalid username or password");
    }
    match world.log_in() {
        Some(token) => Answer::Json(json!({ "token": token })),
        None => error("Max API Sessions exceeded"),
    }
}

fn record(world: &mut World, asked: &Asked<'_>) {
    let call = format!("{} {}", asked.method, asked.path.join("/"));
    let known = |name: &str| !["f", "Password", "auth"].contains(&name);
    let mut params = Map::new();
    for (name, value) in asked.params.iter().filter(|(name, _)| known(name)) {
        let value = match (name.as_str(), serde_json::from_str(value)) {
            ("event" | "contact" | "settings", Ok(value)) => value,
            _ => Value::from(value.as_str()),
        };
        params.insert(name.clone(), value);
    }
    world.received.push(Received { call, params });
}

fn route(world: &mut World, asked: &Asked<'_>) -> Answer {
    let is_get = asked.method == Method::GET;
    match asked.path.as_slice() {
        ["tokens", "releaseToken"] => {
            asked.token.map(|token| world.sessions.remove(token));
            Answer::Json(json!({}))
        }
        ["settings", "webpush"] => Answer::Json(json!({ "vapid_publickey": vapid() })),
        ["recipients", rest @ ..] => recipients(world, asked, rest),
        ["users"] => Answer::Json(json!({ "offset": 0, "count": 1, "total": 1,
            "users": [{ "id": 1, "name": USERNAME }] })),
        ["users", _, "changes"] => changes(world),
        ["users", _, "password"] => {
            let new = asked.params.get("Password").filter(|new| !new.is_empty()).cloned();
            let status = i32::from(new.is_some());
            world.password = new.unwrap_or_else(|| world.password.clone());
            Answer::Json(json!({ "status": status }))
        }
        ["users", _, "webpush", what] => webpush(world, asked, what),
        ["users", _, "events"] if is_get => inbox(world, asked),
        ["users", _, "events", "send"] if !is_get => send(world, asked),
        ["users", _, "events", id, rest @ ..] => event(world, id, rest),
        ["alarms", "active", rest @ ..] => alarms(world, asked, rest),
        ["contacts", rest @ ..] => contacts(world, asked, rest),
        ["user", _] if world.options.plural_user_only => Answer::Status(404),
        ["user" | "users", _] => properties(world, asked),
        _ => Answer::Status(404),
    }
}

/// A key in its DER envelope, as the document says.
fn vapid() -> String {
    let mut der = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01".to_vec();
    der.extend(b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04");
    der.extend([9; 64]);
    STANDARD.encode(der)
}

fn changes(world: &mut World) -> Answer {
    world.polls += 1;
    let last = world.last_poll.replace(Instant::now());
    let is_fast = |least| last.is_some_and(|last: Instant| last.elapsed() < least);
    if world.options.pace_least.is_some_and(is_fast) {
        return Answer::Throttled(1);
    }
    if once(&mut world.options.refuse_changes) {
        return Answer::Status(403);
    }
    let mut list = std::mem::take(&mut world.changes);
    if once(&mut world.options.throttle_changes) {
        return Answer::Throttled(0);
    }
    if once(&mut world.options.cut_changes) {
        return Answer::Cut;
    }
    if once(&mut world.options.garbage_changes) {
        return Answer::Text("{\"notifications\":[{\"type\" \u{1}:: gateway ???".into());
    }
    if world.options.duplicates {
        list = list.into_iter().flat_map(|entry| [entry.clone(), entry]).collect();
    }
    if world.options.reorder {
        list.reverse();
    }
    let (form, literal) = (world.options.form, world.options.literal_alarms);
    let mut text = bodies::changes(&list, form, literal, world.polls);
    if !list.is_empty() && once(&mut world.options.cut_bodies) {
        text.truncate(text.trim_end().len().saturating_sub(2));
        return Answer::CutAfter(text);
    }
    Answer::Text(text)
}

fn webpush(world: &mut World, asked: &Asked<'_>, what: &str) -> Answer {
    match what {
        "subscribe" if asked.params.contains_key("endpoint") => {
            world.subscribe(true);
            Answer::Json(json!({ "status": 1 }))
        }
        "subscribe" => {
            let mut answer = json!({ "status": i32::from(world.subscribed.is_some()) });
            if let Some(since) = world.subscribed {
                answer["time"] = since.into();
            }
            Answer::Json(answer)
        }
        "unsubscribe" => {
            world.subscribe(false);
            Answer::Json(json!({ "status": 1 }))
        }
        _ => Answer::Status(404),
    }
}

fn send(world: &mut World, asked: &Asked<'_>) -> Answer {
    let event = asked.params.get("event").filter(|_| !world.options.flat_only);
    let fields: Map<String, Value> = match event {
        Some(event) => match serde_json::from_str(event) {
            Ok(fields) => fields,
            Err(_) => return Answer::Status(400),
        },
        None => {
            let own = asked.params.iter().filter(|(name, _)| *name != "f");
            own.map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
        }
    };
    const FIELDS: [&str; 5] = ["text", "priority", "tone", "recipients", "reply_message_id"];
    let is_known = fields.keys().all(|name| FIELDS.contains(&name.as_str()));
    let to = fields.get("recipients").map(plain).unwrap_or_default();
    let are_known = to
        .split(',')
        .filter(|id| !id.is_empty())
        .all(|id| world.recipients.iter().any(|(known, _)| id.trim().parse() == Ok(*known)));
    if !is_known || !are_known || !fields.contains_key("text") {
        return Answer::Status(400);
    }
    if once(&mut world.options.cut_sends) {
        return Answer::Cut;
    }
    Answer::Json(json!({ "message_id": world.number() }))
}

/// A page of a list, as every list is answered.
fn page(asked: &Asked<'_>, name: &str, all: Vec<Value>) -> Result<Value, Answer> {
    let column = asked.params.get("orderby").map(|by| by.trim_end_matches(" DESC"));
    if column.is_some_and(|column| !COLUMNS.contains(&column)) {
        return Err(Answer::Status(400));
    }
    let number = |name: &str| asked.params.get(name).and_then(|text| text.parse::<usize>().ok());
    let (offset, total) = (number("offset").unwrap_or(0), all.len());
    let limit = number("limit").unwrap_or(total);
    let page: Vec<Value> = all.into_iter().skip(offset).take(limit).collect();
    Ok(json!({ "offset": offset, "count": page.len(), "total": total, name: page }))
}

fn printed(world: &World, list: Result<Value, Answer>) -> Answer {
    match list {
        Ok(list) if world.options.sloppy_lists => Answer::Text(bodies::sloppy(&list.to_string())),
        Ok(list) => Answer::Json(list),
        Err(answer) => answer,
    }
}

fn inbox(world: &mut World, asked: &Asked<'_>) -> Answer {
    let mut rows: Vec<usize> = (0..world.inbox.len()).collect();
    if asked.params.get("orderby").is_some_and(|by| by.ends_with("DESC")) {
        rows.reverse();
    }
    let list = rows.into_iter().map(|at| row(world, at)).collect();
    printed(world, page(asked, "events", list))
}

fn row(world: &World, at: usize) -> Value {
    let row = &world.inbox[at];
    let status = if world.options.status_words {
        Value::from(if row.status >= 5 { "complete" } else { "in progress" })
    } else {
        row.status.into()
    };
    // Flags in lists come in all forms that the document shows.
    let priority = match row.id % 3 {
        0 => Value::from(row.priority),
        1 => i32::from(row.priority).into(),
        _ => row.priority.to_string().into(),
    };
    json!({ "id": row.id, "message_id": row.message_id, "queue_time": row.queued,
        "message": row.text, "status": status, "status_text": "text", "status_time": row.queued,
        "current_cycle": row.cycle, "priority": priority, "thread_id": row.message_id,
        "from_user_id": 0, "from_gateway_id": 1, "from_address": "card" })
}

fn event(world: &mut World, id: &str, rest: &[&str]) -> Answer {
    let Some(at) = world.inbox.iter().position(|row| id.parse() == Ok(row.id)) else {
        return Answer::Status(400);
    };
    let id = world.inbox[at].id;
    let status = match rest {
        [] => {
            let mut found = row(world, at);
            found["subevents"] = json!([{ "id": 1, "status": 3, "queue_time": 1 }]);
            return Answer::Json(found);
        }
        ["read"] => 5,
        ["accept"] => 7,
        ["cancel"] => 8,
        ["escalate"] => 6,
        ["delete"] => 10,
        _ => return Answer::Status(404),
    };
    world.inbox[at].status = status;
    match status {
        6 => world.inbox[at].cycle += 1,
        8 => {
            let message = world.inbox[at].message_id;
            let alarm = world.alarms.iter().find(|(_, alarm)| alarm.msg_id == message);
            if let Some(alarm) = alarm.map(|(id, _)| *id) {
                world.clear(alarm);
            }
        }
        10 => drop(world.inbox.remove(at)),
        _ => {}
    }
    Answer::Json(json!({ "id": id, "status": status }))
}

fn alarms(world: &mut World, asked: &Asked<'_>, rest: &[&str]) -> Answer {
    let (now, duration) = (world.now(), world.options.duration);
    world.looks += usize::from(rest.is_empty());
    let one = |id: &i64, alarm: &super::world::Active| {
        json!({ "id": id, "alarm-name ": alarm.name, "activation-text": alarm.text,
            "reset-text": format!("{} is over", alarm.name), "status": 2,
            "duration": duration.unwrap_or(now - alarm.since), "recipient": 15, "priority": 1 })
    };
    match rest {
        [] if world.options.alarm_list.is_some() => {
            Answer::Text(world.options.alarm_list.clone().unwrap_or_default())
        }
        [] => {
            let list = world.alarms.iter().map(|(id, alarm)| one(id, alarm)).collect();
            printed(world, page(asked, "alarms", list))
        }
        [id] => match id.parse().ok().and_then(|id: i64| Some((id, world.alarms.get(&id)?))) {
            Some((id, alarm)) => Answer::Json(one(&id, alarm)),
            None => Answer::Status(400),
        },
        [id, "cancel"] => {
            let id: i64 = id.parse().unwrap_or_default();
            let status = if world.clear(id) { "success" } else { "fail" };
            Answer::Json(json!({ "id": id, "status": status }))
        }
        _ => Answer::Status(404),
    }
}

fn recipients(world: &mut World, asked: &Asked<'_>, rest: &[&str]) -> Answer {
    let one = |(id, name): &(i64, &str)| json!({ "id": id, "name": name, "type": 1 });
    match rest {
        [] => {
            let list = world.recipients.iter().filter(|(_, name)| matches(asked, name));
            page(asked, "recipients", list.map(one).collect())
                .map_or_else(|answer| answer, Answer::Json)
        }
        [id] => {
            let found = world.recipients.iter().find(|(known, _)| id.parse() == Ok(*known));
            found.map_or(Answer::Status(400), |found| Answer::Json(one(found)))
        }
        _ => Answer::Status(404),
    }
}

/// Whether a name fits `filterValue`, in which `*` at the end stands for anything.
fn matches(asked: &Asked<'_>, name: &str) -> bool {
    let Some(wanted) = asked.params.get("filterValue") else { return true };
    let (wanted, name) = (wanted.to_lowercase(), name.to_lowercase());
    match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == wanted,
    }
}

fn contacts(world: &mut World, asked: &Asked<'_>, rest: &[&str]) -> Answer {
    let one = |id: i64, fields: &Map<String, Value>| {
        let mut fields = fields.clone();
        fields.insert("id".into(), id.into());
        Value::Object(fields)
    };
    let id = rest.first().and_then(|id| id.parse::<i64>().ok());
    match (rest, id.and_then(|id| Some((id, world.contacts.get_mut(&id)?)))) {
        ([], _) => {
            let name =
                |fields: &Map<String, Value>| plain(fields.get("name").unwrap_or(&Value::Null));
            let found = world.contacts.iter().filter(|(_, fields)| matches(asked, &name(fields)));
            page(asked, "contacts", found.map(|(id, fields)| one(*id, fields)).collect())
                .map_or_else(|answer| answer, Answer::Json)
        }
        (_, None) => Answer::Status(400),
        ([_, "delete"], Some((1, _))) => {
            let users = json!([{ "name": "Lift alarm" }]);
            Answer::Json(json!({ "id": 1, "status": "in-use", "in-use": users }))
        }
        ([_, "delete"], Some((id, _))) => {
            world.contacts.remove(&id);
            Answer::Json(json!({ "id": id, "status": "success" }))
        }
        ([_], Some((id, fields))) => {
            let new = asked.params.get("contact").map(|new| serde_json::from_str(new));
            match new {
                None => {}
                Some(Ok(new)) => fields.extend::<Map<String, Value>>(new),
                Some(Err(_)) => return Answer::Status(400),
            }
            Answer::Json(one(id, fields))
        }
        _ => Answer::Status(404),
    }
}

fn properties(world: &mut World, asked: &Asked<'_>) -> Answer {
    if let Some(settings) = asked.params.get("settings") {
        match serde_json::from_str::<Map<String, Value>>(settings) {
            Ok(settings) => world.properties.extend(settings),
            Err(_) => return Answer::Status(400),
        }
    }
    Answer::Json(Value::Object(world.properties.clone()))
}
