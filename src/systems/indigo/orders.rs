//! Commands on their way: over HTTP, whose answer says how it went; over the feed only where HTTP
//! certainly did not take it. A feed answers errors and nothing else. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Feed, Moment, wire};
use crate::systems::json;
use crate::systems::link::Reply;

/// Commands on their way at the same time, at most.
const PENDING_MAX: usize = 256;
/// As long as an error on the feed, or the change that was asked for, may take.
const FEED_WITHIN: Duration = Duration::from_secs(5);

/// Commands on their way, by the number that the caller gave them.
#[derive(Debug, Default)]
pub struct Orders {
    pending: BTreeMap<u64, Pending>,
}

/// One of them.
#[derive(Debug)]
struct Pending {
    id: String,
    /// Which feed takes it, and whom it is about; plugins are commanded over HTTP only.
    feed: Option<Feed>,
    object: Option<i64>,
    message: Map<String, Value>,
    deadline: Timestamp,
    /// Set once it went over the feed.
    until: Option<Duration>,
}

/// What came of asking over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// An answer, with its status and body.
    Answer(u16, Vec<u8>),
    /// The request never left.
    Unsent(String),
    /// It may have arrived.
    Unknown(String),
}

/// What to do next with a command.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// That is how it went.
    Reply(Reply),
    /// Send this over that feed.
    Send(Feed, String),
}

/// What an answer means.
#[derive(Debug, PartialEq)]
enum Meaning {
    /// That is how it went.
    Reply(Reply),
    /// This server takes no commands over HTTP.
    NoSuchService(String),
}

// === impl Orders ===

impl Orders {
    /// A command is about to go over HTTP. An error if too many are on their way.
    pub fn begin(
        &mut self,
        order: u64,
        feed: Option<Feed>,
        message: Map<String, Value>,
        deadline: Timestamp,
    ) -> Result<(), Reply> {
        if self.pending.len() >= PENDING_MAX {
            return Err(Reply::Unsent("too many commands are on their way".into()));
        }
        let id = message.get("id").and_then(Value::as_str).unwrap_or_default().to_string();
        let object = message.get("objectId").and_then(Value::as_i64);
        let pending = Pending { id, feed, object, message, deadline, until: None };
        self.pending.insert(order, pending);
        Ok(())
    }

    /// What came of asking over HTTP. `is_up` says whether a feed is connected.
    pub fn asked(
        &mut self,
        order: u64,
        asked: Asked,
        is_up: impl Fn(Feed) -> bool,
        now: Moment,
    ) -> Option<Next> {
        let pending = self.pending.get_mut(&order)?;
        let why = match asked {
            Asked::Unknown(why) => return self.end(order, Reply::Unknown(why)),
            Asked::Unsent(why) => why,
            Asked::Answer(status, body) => match meaning(status, &body) {
                Meaning::Reply(reply) => return self.end(order, reply),
                Meaning::NoSuchService(why) => why,
            },
        };
        match pending.feed.filter(|feed| is_up(*feed)) {
            Some(feed) if now.at < pending.deadline => {
                pending.until = Some(now.up + FEED_WITHIN);
                Some(Next::Send(feed, Value::Object(pending.message.clone()).to_string()))
            }
            _ => self.end(order, Reply::Unsent(why)),
        }
    }

    /// An error on a feed. The order that it ends.
    pub fn failed(&mut self, id: &str, why: &str) -> Option<(u64, Reply)> {
        let (order, _) = self.pending.iter().find(|(_, pending)| pending.id == id)?;
        let order = *order;
        self.pending.remove(&order);
        Some((order, Reply::Refused(why.to_string())))
    }

    /// An object changed: commands for it that went over the feed were done.
    pub fn changed(&mut self, feed: Feed, object: i64) -> Vec<(u64, Reply)> {
        let done = Reply::Done(json!({ "via": "feed" }));
        self.finish(done, |pending| pending.feed == Some(feed) && pending.object == Some(object))
    }

    /// A feed is gone: what went over it may have arrived.
    pub fn closed(&mut self, feed: Feed) -> Vec<(u64, Reply)> {
        let lost = Reply::Unknown("sent over the feed, which then ended".into());
        self.finish(lost, |pending| pending.feed == Some(feed))
    }

    /// Commands over the feed whose time is over.
    pub fn tick(&mut self, now: Moment) -> Vec<(u64, Reply)> {
        let silent = Reply::Unknown(
            "sent over the feed, which answers only errors; none came, and no change either".into(),
        );
        self.finish(silent, |pending| pending.until.is_some_and(|until| until <= now.up))
    }

    fn finish(&mut self, reply: Reply, which: impl Fn(&Pending) -> bool) -> Vec<(u64, Reply)> {
        let over = self.pending.iter().filter(|(_, p)| p.until.is_some() && which(p));
        let over: Vec<u64> = over.map(|(order, _)| *order).collect();
        over.iter().for_each(|order| drop(self.pending.remove(order)));
        over.into_iter().map(|order| (order, reply.clone())).collect()
    }

    fn end(&mut self, order: u64, reply: Reply) -> Option<Next> {
        self.pending.remove(&order).map(|_| Next::Reply(reply))
    }
}

/// What an answer of `/v2/api/command` means. What a success looks like is not documented, so it
/// is any 2xx with JSON that is no error.
fn meaning(status: u16, body: &[u8]) -> Meaning {
    let json = json::value(body).ok().map(|(value, _)| value);
    let complaint = match &json {
        Some(Value::Object(fields)) if fields.contains_key("error") => {
            Some(wire::complaint(fields))
        }
        _ => None,
    };
    let empty = body.iter().all(u8::is_ascii_whitespace);
    Meaning::Reply(match (status, complaint, json) {
        (200..=299, None, Some(json)) => Reply::Done(json),
        (200..=299, None, None) if empty => Reply::Done(Value::Null),
        (200..=299, None, None) => Reply::Unknown("the answer is no JSON".into()),
        // It is not followed, and many servers act first and redirect after.
        (300..=399, _, _) => Reply::Unknown(format!("it leads elsewhere: HTTP {status}")),
        (401 | 403, _, _) => Reply::Refused(format!("the API key is refused: HTTP {status}")),
        (_, Some(why), _) => Reply::Refused(why),
        (404 | 405 | 501, None, _) => {
            return Meaning::NoSuchService(format!("no commands over HTTP here: HTTP {status}"));
        }
        (429, None, _) => Reply::Unsent("too many requests: HTTP 429".into()),
        (400..=499, None, _) => Reply::Refused(format!("HTTP {status}")),
        _ => Reply::Unknown(format!("HTTP {status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { at: Timestamp::UNIX_EPOCH, up: Duration::from_secs(seconds) }
    }

    fn begun() -> Orders {
        let mut orders = Orders::default();
        let message = json!({"id": "c1", "objectId": 7});
        let message = message.as_object().unwrap().clone();
        orders.begin(1, Some(Feed::Device), message, Timestamp::MAX).unwrap();
        orders
    }

    fn answer(status: u16, body: &str) -> Asked {
        Asked::Answer(status, body.as_bytes().to_vec())
    }

    fn check(asked: Asked, expect: Reply) {
        let next = begun().asked(1, asked, |_| false, at(0));
        assert_eq!(next, Some(Next::Reply(expect)));
    }

    #[test]
    fn answers_say_how_it_went() {
        check(answer(200, r#"{"x":1}"#), Reply::Done(json!({"x": 1})));
        check(answer(200, ""), Reply::Done(Value::Null));
        check(answer(200, "<html>"), Reply::Unknown("the answer is no JSON".into()));
        let wrong = r#"{"error":"bad","validationErrors":{"value":"must be strings"}}"#;
        check(answer(400, wrong), Reply::Refused("bad; value: must be strings".into()));
        check(answer(200, wrong), Reply::Refused("bad; value: must be strings".into()));
        check(
            answer(404, r#"{"error":"no such object"}"#),
            Reply::Refused("no such object".into()),
        );
        check(answer(401, ""), Reply::Refused("the API key is refused: HTTP 401".into()));
        check(answer(502, "<html>"), Reply::Unknown("HTTP 502".into()));
        for body in ["", r#"{"error":"moved"}"#, "{}"] {
            let moved = Reply::Unknown("it leads elsewhere: HTTP 307".into());
            check(answer(307, body), moved);
        }
        check(Asked::Unknown("late".into()), Reply::Unknown("late".into()));
        check(Asked::Unsent("refused".into()), Reply::Unsent("refused".into()));
    }

    #[test]
    fn the_feed_takes_what_http_certainly_did_not() {
        for asked in [answer(404, "<html>"), answer(501, ""), Asked::Unsent("refused".into())] {
            let mut orders = begun();
            let next = orders.asked(1, asked, |_| true, at(0));
            assert!(matches!(next, Some(Next::Send(Feed::Device, _))));
            assert_eq!(orders.changed(Feed::Device, 8), []);
            let done = Reply::Done(json!({"via": "feed"}));
            assert_eq!(orders.changed(Feed::Device, 7), [(1, done)]);
        }
    }

    #[test]
    fn a_silent_feed_leaves_it_unknown() {
        let mut orders = begun();
        orders.asked(1, answer(404, ""), |_| true, at(0));
        assert_eq!(orders.tick(at(4)), []);
        assert!(matches!(orders.tick(at(5)).as_slice(), [(1, Reply::Unknown(_))]));
        let mut orders = begun();
        orders.asked(1, answer(404, ""), |_| true, at(0));
        assert_eq!(orders.failed("c1", "no"), Some((1, Reply::Refused("no".into()))));
        assert_eq!(orders.failed("c1", "no"), None);
    }
}
