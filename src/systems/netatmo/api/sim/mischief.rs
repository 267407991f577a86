//! The simulated cloud's bad manners: which request meets which, and what becomes of its answer.
//! Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{Asked, Said};

/// One bad manner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// The connection ends before anything is done.
    Drop,
    /// It is carried out, and the connection ends before the answer.
    LostAnswer,
    /// The connection stays, and no answer comes; nothing is carried out.
    HalfOpen,
    /// It is carried out, and the answer takes this long.
    Slow(Duration),
    /// The access token has expired just now.
    Expired,
    /// Both tokens are void from now on.
    Revoked,
    /// 429, code 26.
    Throttled,
    /// 403, code 26: the older way to say it.
    ThrottledAs403,
    /// 429, code 11: two calls at once.
    Concurrent,
    /// 403, code 13: a scope is missing.
    Forbidden,
    /// 500 with a page for people.
    ErrorPage,
    /// 200 with a page for people.
    Html,
    /// 200 without a body.
    Empty,
    /// 200 with bytes that are no JSON.
    Garbage,
    /// 200 with this error inside.
    ErrorInside(i64),
    /// 200 with JSON of another shape.
    WrongShape,
    /// Items of wrong types and without ids among the good ones.
    WrongTypes,
    /// 404.
    Missing,
    /// `getevents` does not care where the page should begin.
    SamePage,
    /// Every item twice.
    Duplicates,
    /// Items in the opposite order.
    Reversed,
}

/// What is planned.
#[derive(Debug, Default)]
pub(super) struct Plan(Vec<(Mischief, &'static str, usize)>);

const PAGE: &str = "text/html; charset=UTF-8";
const JSON: &str = "application/json; charset=utf-8";

impl Plan {
    pub fn add(&mut self, mischief: Mischief, place: &'static str, times: usize) {
        self.0.push((mischief, place, times));
    }

    /// The mischief for this request, if one is planned.
    pub fn take(&mut self, path: &str) -> Option<Mischief> {
        let met = |(_, place, times): &&mut (_, &str, usize)| *times > 0 && path.contains(*place);
        let (mischief, _, times) = self.0.iter_mut().find(met)?;
        *times -= 1;
        Some(*mischief)
    }
}

impl Mischief {
    /// What is answered instead of carrying the request out.
    pub(super) fn instead(self, asked: &Asked) -> Option<Said> {
        let page = |status, text: &str| {
            Said::raw(status, PAGE, format!("<!DOCTYPE html><h1>{text}</h1>").into_bytes())
        };
        Some(match self {
            Mischief::Drop => Said { cut: true, ..Said::raw(200, JSON, Vec::new()) },
            Mischief::Throttled => Said::error(429, 26, "User usage reached (1600)"),
            Mischief::ThrottledAs403 => Said::error(403, 26, "User usage reached (1600)"),
            Mischief::Concurrent => {
                Said::error(429, 11, "Failed to enter concurrency limited section")
            }
            Mischief::Forbidden => {
                Said::error(403, 13, "Application does not have the good scope rights")
            }
            Mischief::ErrorPage => page(500, "Internal Server Error"),
            Mischief::Html => page(200, "Sign in to this network"),
            Mischief::Empty => Said::raw(200, JSON, Vec::new()),
            Mischief::Garbage => Said::raw(200, JSON, b"{\"body\":{\"home\":\xff\xfe".to_vec()),
            Mischief::ErrorInside(code) => {
                let of = asked.json["home"]["modules"][0]["id"].clone();
                let error = json!({ "code": code, "id": of });
                Said::json(200, &json!({ "status": "ok", "body": { "errors": [error] } }))
            }
            Mischief::WrongShape => Said::json(200, &json!({ "status": 7, "body": [1, "two"] })),
            Mischief::Missing => Said::raw(404, PAGE, b"<h1>Not Found</h1>".to_vec()),
            _ => return None,
        })
    }

    /// What becomes of a good answer.
    pub(super) fn spoil(self, mut said: Said) -> Said {
        if self == Mischief::LostAnswer {
            said.cut = true;
            return said;
        }
        let Ok(mut body) = serde_json::from_slice::<Value>(&said.body) else { return said };
        for place in ["/body/homes", "/body/homes/0/modules", "/body/homes/0/persons"]
            .into_iter()
            .chain(["/body/home/modules", "/body/home/persons", "/body/home/events"])
        {
            if let Some(Value::Array(items)) = body.pointer_mut(place) {
                self.spoil_items(items);
            }
        }
        if said.status == 200 {
            said.body = body.to_string().into_bytes();
        }
        said
    }

    fn spoil_items(self, items: &mut Vec<Value>) {
        match self {
            Mischief::WrongTypes => {
                items.push(json!({ "type": 7, "time": "soon", "name": [] }));
                items.push(json!(null));
                items.push(json!({ "id": {}, "type": "NOC", "time": -1, "subevents": "none" }));
                items.push(json!("text"));
            }
            Mischief::Duplicates => items.extend(items.clone()),
            Mischief::Reversed => items.reverse(),
            _ => {}
        }
    }
}
