//! The simulated VMS's bad manners: which request meets which, and what becomes of its answer.

use serde_json::{Value, json};

use super::world::{Received, Said};

/// One bad manner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// The connection ends in the middle of the answer, after the request was carried out.
    Drop,
    /// The connection stays, and no answer comes; the request is not carried out.
    HalfOpen,
    /// 401, and every token is void.
    Expired,
    /// 419 where no login is.
    PageExpired,
    /// 422 with a field.
    Invalid,
    /// 422 whose `errors` is a plain text.
    InvalidPlain,
    /// 404.
    NotFound,
    /// 429 with `Retry-After` of this many seconds.
    Throttle(u32),
    /// 503 with `Retry-After` of this many seconds.
    Maintenance(u32),
    /// 500 with an HTML page.
    ErrorPage,
    /// 200 with an HTML page.
    LoginPage,
    /// 200 with bytes that are no JSON.
    Garbage,
    /// 200 with JSON of the wrong shape.
    WrongShape,
    /// Items without ids and of wrong types among the good ones.
    WrongTypes,
    /// Every item twice.
    Duplicates,
    /// Items in the opposite order.
    Reversed,
    /// `{data: […]}` where a bare array should be.
    Wrapped,
    /// Everything but `id` is null.
    Nulls,
    /// Times in other forms: offsets, empty texts, seconds.
    OddTimes,
    /// 301 to the same path with a question mark more.
    Moved,
    /// This redirect to this path, after the request was carried out; to itself if it is empty.
    ActsAndMoves(u16, &'static str),
}

/// What is planned.
#[derive(Debug, Default)]
pub(super) struct Plan(Vec<(Mischief, &'static str, usize)>);

/// An answer on its way out.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub cut: bool,
}

const JSON: &str = "application/json";
const PAGE: &str = "text/html; charset=UTF-8";

impl Plan {
    pub(super) fn add(&mut self, mischief: Mischief, place: &'static str, times: usize) {
        self.0.push((mischief, place, times));
    }

    /// The mischief for this request, if one is planned.
    pub(super) fn take(&mut self, path: &str) -> Option<Mischief> {
        let met = |(_, place, times): &&mut (_, &str, usize)| *times > 0 && path.contains(*place);
        let (mischief, _, times) = self.0.iter_mut().find(met)?;
        *times -= 1;
        Some(*mischief)
    }
}

impl Mischief {
    /// What is answered instead of carrying the request out.
    pub(super) fn instead(self, asked: &Received) -> Option<Answer> {
        let wait = |seconds: u32| vec![("retry-after", seconds.to_string())];
        Some(match self {
            Mischief::PageExpired => Answer::page(419, "Page Expired"),
            Mischief::Invalid => {
                Answer::json(422, &json!({ "message": "m", "errors": { "intercom": ["no such"] } }))
            }
            Mischief::InvalidPlain => {
                Answer::json(422, &json!({ "message": "m", "errors": "no such intercom" }))
            }
            Mischief::NotFound => Answer::json(404, &json!({ "message": "Not Found" })),
            Mischief::Throttle(seconds) => Answer {
                headers: wait(seconds),
                ..Answer::json(429, &json!({ "message": "Too Many Attempts." }))
            },
            Mischief::Maintenance(seconds) => Answer {
                headers: wait(seconds),
                ..Answer::json(503, &json!({ "message": "Service Unavailable" }))
            },
            Mischief::ErrorPage => Answer::page(500, "Server Error"),
            Mischief::LoginPage => Answer::page(200, "Sign in to this network"),
            Mischief::Garbage => {
                Answer { body: b"[{\"id\":1,\xff\xfe".to_vec(), ..Answer::json(200, &Value::Null) }
            }
            Mischief::WrongShape => Answer::json(200, &json!({ "data": "none", "id": [] })),
            Mischief::Moved if !asked.path.ends_with('/') => Answer {
                headers: vec![("location", moved(asked))],
                ..Answer::page(301, "Moved Permanently")
            },
            _ => return None,
        })
    }

    /// What becomes of a good answer.
    pub(super) fn spoil(self, mut answer: Answer) -> Answer {
        if self == Mischief::Drop {
            answer.cut = true;
            return answer;
        }
        if let Mischief::ActsAndMoves(status, to) = self {
            let headers = vec![("location", to.to_string())];
            return Answer { headers, ..Answer::page(status, "Redirecting") };
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return answer };
        if answer.status != 200 {
            return answer;
        }
        let is_page = body.is_object();
        let list = if is_page { body.get_mut("data") } else { Some(&mut body) };
        let Some(Value::Array(items)) = list else { return answer };
        self.spoil_items(items);
        if self == Mischief::Wrapped && !is_page {
            body = json!({ "data": body });
        }
        answer.body = body.to_string().into_bytes();
        answer
    }

    fn spoil_items(self, items: &mut Vec<Value>) {
        match self {
            Mischief::WrongTypes => {
                items.insert(0, json!({ "title": "no id", "status": "ring" }));
                items.push(json!(null));
                items.push(json!({ "id": {}, "is_online": "perhaps" }));
            }
            Mischief::Duplicates => items.extend(items.clone()),
            Mischief::Reversed => items.reverse(),
            Mischief::Nulls => items.iter_mut().for_each(nothing_but_id),
            Mischief::OddTimes => items.iter_mut().for_each(odd_times),
            _ => {}
        }
    }
}

/// The same address, said to be another.
fn moved(asked: &Received) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(&asked.query).append_pair("moved", "1");
    format!("{}?{}", asked.path, query.finish())
}

fn nothing_but_id(item: &mut Value) {
    let Some(fields) = item.as_object_mut() else { return };
    for (name, value) in fields.iter_mut().filter(|(name, _)| *name != "id" && *name != "status") {
        // An absent field and a null one mean the same.
        *value = if name == "timetable" { json!({}) } else { Value::Null };
    }
}

fn odd_times(item: &mut Value) {
    let Some(fields) = item.as_object_mut() else { return };
    if let Some(Value::String(at)) = fields.get("created_at").cloned()
        && at.len() == 19
    {
        // The same moment five hours to the east would need a sum; UTC by another name does not.
        fields.insert("created_at".into(), format!("{}+00:00", at.replace(' ', "T")).into());
    }
    for name in ["updated_at", "started_at"] {
        if fields.get(name).is_some_and(Value::is_null) {
            fields.insert(name.into(), "".into());
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Laravel prints errors as pages to whoever does not ask for JSON.
    pub(super) fn from(said: Said, accept: Option<&String>) -> Answer {
        let wants_json = accept.is_some_and(|accept| accept.contains("json"));
        if said.status >= 400 && !wants_json {
            return Answer::page(said.status, "Error");
        }
        Answer::json(said.status, &said.body)
    }

    fn json(status: u16, body: &Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        Answer { status, content_type: JSON, headers: Vec::new(), body, cut: false }
    }

    fn page(status: u16, title: &str) -> Answer {
        let body = format!("<!DOCTYPE html><html><head><title>{title}</title></head></html>");
        Answer {
            status,
            content_type: PAGE,
            headers: Vec::new(),
            body: body.into_bytes(),
            cut: false,
        }
    }
}
