mod failing;
mod moments;
mod moved;

use std::collections::VecDeque;

use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::command::{Command, Repeat};
use crate::secret::Secret;
use crate::systems::Certificate;

const SOURCE: &str = "vms/block";
const NOON: &str = "2026-11-21T12:00:00Z";

fn config(intercoms: &[u64]) -> Config {
    Config {
        url: "https://vms.example.org".parse().unwrap(),
        login: "ana".into(),
        password: Some(Secret::new("pass")),
        certificate: Certificate::System,
        intercoms: intercoms.to_vec(),
        poll: Duration::from_secs(30),
        poll_calls: Duration::from_secs(5),
        client: "web".into(),
    }
}

/// A session and what it has said, played by hand.
struct Play {
    session: Session,
    now: Now,
    asks: VecDeque<(u64, Ask)>,
    said: Vec<Output>,
    known: BTreeMap<String, Value>,
    kept: Kept,
}

impl Play {
    fn new(intercoms: &[u64]) -> Play {
        Play::again(intercoms, BTreeMap::new(), Kept::new("u".into()), NOON)
    }

    fn again(intercoms: &[u64], known: BTreeMap<String, Value>, kept: Kept, at: &str) -> Play {
        let listed: Vec<_> = known.clone().into_iter().collect();
        let session =
            Session::new(SOURCE, Trust::Fresh, config(intercoms), kept.clone(), &listed, 7);
        let now = Now { wall: at.parse().unwrap(), run: Duration::ZERO };
        let (asks, said) = (VecDeque::new(), Vec::new());
        let mut play = Play { session, now, asks, said, known, kept };
        play.wait(0);
        play
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Ask(id, ask) => self.asks.push_back((id, ask)),
                Output::Keep(kept) => self.kept = kept,
                Output::Tell(news) => {
                    news.known.iter().for_each(|change| self.know(change));
                    self.said.push(Output::Tell(news));
                }
                other => self.said.push(other),
            }
        }
    }

    fn know(&mut self, change: &crate::record::KnownChange) {
        use crate::record::Becomes;
        match &change.to {
            Becomes::Is(value) => drop(self.known.insert(change.path.clone(), value.clone())),
            Becomes::Gone => drop(self.known.remove(&change.path)),
            Becomes::SameAs(_) => {}
            Becomes::Fields { set, gone } => {
                let fields = self.known.get_mut(&change.path).unwrap().as_object_mut().unwrap();
                fields.extend(set.clone());
                gone.iter().for_each(|name| drop(fields.remove(name)));
            }
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now.run += Duration::from_secs(seconds);
        self.now.wall += SignedDuration::from_secs(i64::try_from(seconds).unwrap());
        let outputs = self.session.tick(self.now);
        self.take(outputs);
    }

    /// Answers the oldest question for this path.
    fn answer(&mut self, path: &str, status: u16, body: Value) -> Ask {
        self.answer_bytes(path, status, body.to_string().as_bytes())
    }

    fn answer_bytes(&mut self, path: &str, status: u16, body: &[u8]) -> Ask {
        let answer = Answer {
            status,
            content_type: "application/json".into(),
            retry_after: (status == 429).then_some(Duration::from_secs(7)),
            date: Some(self.now.wall),
            location: (status == 301).then(|| "https://vms.example.org/there".into()),
            body: body.to_vec(),
        };
        self.got(path, Ok(answer))
    }

    fn got(&mut self, path: &str, got: Result<Answer, Fault>) -> Ask {
        let at = self.asks.iter().position(|(_, ask)| ask.url.path().ends_with(path));
        let at = at.unwrap_or_else(|| panic!("asked {:?}, not {path}", self.asks));
        let (id, ask) = self.asks.remove(at).unwrap();
        let outputs = self.session.answered(id, got, self.now);
        self.take(outputs);
        ask
    }

    /// Logs in and answers the first round: calls, then intercoms.
    fn begin(&mut self, calls: Value, intercoms: Value) {
        let token = json!({ "access_token": "T1", "user": { "access_token_id": 71 } });
        self.answer("/token", 200, token);
        self.answer("/calls", 200, calls);
        self.answer("/shows", 200, intercoms);
    }

    fn events(&mut self) -> Vec<Event> {
        let said = std::mem::take(&mut self.said);
        let told = said.into_iter().filter_map(|output| match output {
            Output::Tell(news) => Some(news.events),
            _ => None,
        });
        told.flatten().map(|heard| heard.event).collect()
    }

    fn kinds(&mut self) -> Vec<String> {
        let mark = |event: &Event| if event.marks.caught_up { " caught up" } else { "" };
        self.events().iter().map(|event| format!("{}{}", event.kind, mark(event))).collect()
    }

    fn downs(&self) -> Vec<&str> {
        let down = |output: &'_ Output| matches!(output, Output::Up(false, _));
        let said = self.said.iter().filter(|output| down(output));
        said.map(|o| if let Output::Up(_, why) = o { why.as_str() } else { "" }).collect()
    }

    fn order(&mut self, number: u64, call: &str, args: Value) {
        let Value::Object(args) = args else { panic!("an object") };
        let (to, trust, repeat) = (SOURCE.into(), Trust::Human, Repeat::Never);
        let command = Command { to, call: call.into(), args, repeat, trust };
        let deadline = self.now.wall + SignedDuration::from_secs(60);
        let outputs = self.session.order(number, &command, deadline, self.now);
        self.take(outputs);
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        let said = std::mem::take(&mut self.said);
        let reply = |output| match output {
            Output::Reply(number, reply) => Some((number, reply)),
            _ => None,
        };
        said.into_iter().filter_map(reply).collect()
    }
}

fn home(online: bool) -> Value {
    json!({ "id": 180, "title": "Home", "is_online": online, "is_enabled": true, "address": "A" })
}

fn call(id: u64, status: &str, created_at: &str) -> Value {
    json!({ "id": id, "status": status, "created_at": created_at, "intercom": { "id": 180 } })
}

fn calls(calls: &[Value]) -> Value {
    json!({ "data": calls })
}

fn begun() -> Play {
    let mut play = Play::new(&[180]);
    play.begin(calls(&[call(1, "missed", "2026-11-21 09:00:00")]), json!([home(true)]));
    play
}

#[test]
fn the_first_start_ever_learns_and_says_nothing() {
    let mut play = begun();
    assert_eq!(play.kinds(), [""; 0]);
    assert_eq!(play.known["vms/block/intercom/180"], home(true));
    assert_eq!(play.known["vms/block/intercoms"], json!({ "count": 1, "online": 1 }));
    assert_eq!(play.known["vms/block/calls"]["1"]["status"], "missed");
    assert_eq!(play.kept.sessions, ["71"]);
    assert!(play.asks.is_empty());
}

#[test]
fn edges_of_an_intercom_are_events() {
    let mut play = begun();
    play.wait(30);
    play.answer("/calls", 200, calls(&[]));
    let mut changed = home(false);
    changed["is_enabled"] = false.into();
    changed["title"] = "Gate".into();
    play.answer("/shows", 200, json!([changed, home(true), { "id": 99 }]));
    let events = play.events();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["vms.intercom.offline", "vms.intercom.disabled", "vms.intercom.renamed"]);
    let renamed = &events[2];
    assert_eq!(renamed.subject.as_deref(), Some("180"));
    assert_eq!(
        (&renamed.data["title"], &renamed.data["old_title"]),
        (&json!("Gate"), &json!("Home"))
    );
    assert_eq!((renamed.trust, renamed.data["address"].as_str()), (Trust::Fresh, Some("A")));
    // Null says nothing; then it is on again, and then gone.
    for (seconds, answer, expected) in [
        (30, json!([{ "id": 180, "is_online": null, "title": null }]), vec![]),
        (
            30,
            json!([home(true)]),
            vec!["vms.intercom.online", "vms.intercom.enabled", "vms.intercom.renamed"],
        ),
        // Once is an accident, twice in a row is not.
        (30, json!([]), vec![]),
        (30, json!([home(true)]), vec![]),
        (30, json!([]), vec![]),
        (30, json!([]), vec!["vms.intercom.gone"]),
        (30, json!([{ "id": 180 }]), vec!["vms.intercom.appeared"]),
    ] {
        play.wait(seconds);
        play.answer("/calls", 200, calls(&[]));
        play.answer("/shows", 200, answer);
        assert_eq!(play.kinds(), expected);
    }
}

#[test]
fn a_call_goes_its_way_once() {
    let mut play = begun();
    let mut step = |status: &str| {
        play.wait(5);
        play.answer("/calls", 200, calls(&[call(2, status, "2026-11-21 12:00:03")]));
        if play.asks.front().is_some() {
            play.answer("/shows", 200, json!([home(true)]));
        }
        play.events()
    };
    let ring = step("ring").remove(0);
    assert_eq!((ring.kind.as_str(), ring.trust), ("vms.ring", Trust::Fresh));
    assert_eq!(ring.subject.as_deref(), Some("180"));
    assert_eq!((&ring.data["call_id"], &ring.data["title"]), (&json!("2"), &json!("Home")));
    assert_eq!(ring.time, Some("2026-11-21T12:00:03Z".parse().unwrap()));
    assert_eq!(step("ring"), []);
    let answered = step("answered").remove(0);
    assert_eq!(
        (answered.kind.as_str(), &answered.data["rang"]),
        ("vms.call.answered", &json!(true))
    );
    assert_eq!(step("ring"), [], "a cache that lags");
    assert_eq!(step("ended")[0].kind, "vms.call.ended");
    assert_eq!(step("ended"), []);
}

#[test]
fn an_old_ring_is_caught_up_and_never_fresh() {
    let mut play = begun();
    play.wait(5);
    let listed = [
        call(3, "ring", "2026-11-21 11:59:00"),
        call(4, "ring", ""),
        call(5, "ring", "2026-11-21 12:00:04"),
        call(6, "ring", "2026-11-21 13:00:04"),
        call(7, "missed", "2026-11-21 08:00:00"),
    ];
    play.answer("/calls", 200, calls(&listed));
    let events = play.events();
    let told: Vec<_> =
        events.iter().map(|e| (e.data["call_id"].as_str().unwrap(), e.trust)).collect();
    let (old, fresh) = (Trust::Authentic, Trust::Fresh);
    assert_eq!(told, [("3", old), ("4", old), ("5", fresh), ("6", old), ("7", old)]);
    assert!(events.iter().all(|event| event.marks.caught_up == (event.trust == old)));
}

#[test]
fn a_restart_goes_on_with_its_token_and_tells_what_changed() {
    let first = begun();
    let mut play = Play::again(&[180], first.known, first.kept, "2026-11-21T13:00:00Z");
    let listed =
        [call(2, "missed", "2026-11-21 12:30:00"), call(1, "missed", "2026-11-21 09:00:00")];
    let ask = play.answer("/calls", 200, calls(&listed));
    assert_eq!(ask.bearer.unwrap().expose(), "T1");
    play.answer("/shows", 200, json!([home(false)]));
    assert_eq!(play.kinds(), ["vms.call.missed caught up", "vms.intercom.offline caught up"]);
    // Another account's token is not used.
    let mut other =
        Play::again(&[180], play.known, Kept { account: "x".into(), ..play.kept }, NOON);
    assert!(other.answer("/token", 500, json!(null)).bearer.is_none());
}

#[test]
fn a_refused_token_is_replaced_once() {
    let mut play = begun();
    play.wait(5);
    play.answer("/calls", 401, json!({ "message": "Unauthenticated." }));
    play.answer("/token", 200, json!({ "access_token": "T2", "user": { "access_token_id": 72 } }));
    let ask = play.answer("/calls", 401, json!(null));
    assert_eq!(ask.bearer.unwrap().expose(), "T2");
    assert_eq!(play.downs(), ["the token of a new login was refused"]);
    // What was asked for beside it changes nothing.
    play.answer("/shows", 401, json!(null));
    play.wait(120);
    assert!(play.asks.is_empty());
    play.wait(200);
    assert_eq!(play.asks.front().unwrap().1.url.path(), "/api/v1/token");
}

#[test]
fn a_full_account_gives_up_only_what_is_ours() {
    let mut play = begun();
    play.wait(5);
    play.answer("/calls", 401, json!(null));
    play.answer("/token", 419, json!([{ "id": 5 }, { "id": 71 }]));
    let Some((_, ask)) = play.asks.front() else { panic!("a second login") };
    let crate::systems::http::Content::Json(body) = &ask.content else { panic!("{ask:?}") };
    assert_eq!(body["session_id"], 71);
    play.answer("/token", 419, json!({ "sessions": [{ "id": 5 }], "sessions_limit": 1 }));
    assert!(play.downs()[0].contains("no room for another session: 1 of 1"), "{:?}", play.downs());
    play.wait(60);
    assert!(play.asks.is_empty());
}

#[test]
fn a_captcha_and_a_bad_password_wait_long() {
    for (answer, why) in [
        (json!({ "errors": { "captcha": ["wanted"] } }), "captcha"),
        (json!({ "errors": { "login": ["These credentials"] } }), "422: `login` These credentials"),
    ] {
        let mut play = Play::new(&[180]);
        play.answer("/token", 422, answer);
        assert!(play.downs()[0].contains(why), "{:?}", play.downs());
        play.wait(200);
        assert!(play.asks.is_empty());
    }
}

#[test]
fn busy_servers_are_left_alone_as_long_as_they_ask() {
    let mut play = begun();
    play.wait(5);
    play.answer("/calls", 429, json!({ "message": "Too Many Attempts." }));
    assert_eq!(play.downs(), ["asked for calls, 429: Too Many Attempts."]);
    play.wait(6);
    assert!(play.asks.is_empty());
    assert_eq!(play.session.next_tick(), Duration::from_secs(12));
    play.wait(1);
    assert_eq!(play.asks.len(), 1);
}

#[test]
fn a_redirect_keeps_method_and_body() {
    let mut play = Play::new(&[180]);
    let first = play.answer("/token", 301, json!(null));
    let (_, again) = play.asks.front().unwrap();
    assert_eq!((&again.method, again.url.path()), (&first.method, "/there"));
    assert!(matches!(again.content, crate::systems::http::Content::Json(_)));
}

#[test]
fn garbage_is_kept_and_stops_nothing() {
    let mut play = begun();
    play.wait(30);
    play.answer_bytes("/calls", 200, b"\xff\xfe");
    play.answer_bytes("/shows", 200, b"{\"data\":7}");
    let bad = play.said.iter().filter(|o| matches!(o, Output::Bad { .. })).count();
    assert_eq!((bad, play.downs().len()), (2, 0));
    play.wait(30);
    play.answer("/calls", 200, calls(&[]));
    // Nothing is gone because of an item that could not be read.
    play.answer("/shows", 200, json!([{ "title": "no id" }]));
    assert_eq!(play.kinds(), [""; 0]);
    // A page instead of a list: something stands between.
    play.wait(5);
    play.answer_bytes("/calls", 200, b"<html>");
    assert_eq!(play.downs().len(), 1);
}

#[test]
fn many_intercoms_are_asked_for_in_batches_of_25() {
    let ids: Vec<u64> = (1..=60).collect();
    let mut play = Play::new(&ids);
    play.answer("/token", 200, json!({ "access_token": "T1" }));
    play.answer("/calls", 200, calls(&[]));
    for size in [25, 25, 10] {
        let ask = play.answer("/shows", 200, json!([]));
        assert_eq!(ask.url.query_pairs().filter(|(name, _)| name == "ids[]").count(), size);
    }
    assert!(play.asks.is_empty());
}

#[test]
fn new_intercoms_are_looked_for_each_minute() {
    let mut play = Play::new(&[]);
    play.answer("/token", 200, json!({ "access_token": "T1" }));
    play.answer("/calls", 200, calls(&[]));
    play.answer("/intercom", 200, json!({ "data": [{ "id": 180 }] }));
    play.answer("/shows", 200, json!([home(true)]));
    play.wait(30);
    play.answer("/calls", 200, calls(&[]));
    play.answer("/shows", 200, json!([home(true)]));
    play.wait(30);
    play.answer("/calls", 200, calls(&[]));
    play.answer("/intercom", 200, json!({ "data": [{ "id": 180 }, { "id": 181 }] }));
    play.answer("/shows", 200, json!([home(true), { "id": 181 }]));
    assert_eq!(play.kinds(), ["vms.intercom.appeared"]);
}

#[test]
fn without_ids_all_pages_are_listed_first() {
    let mut play = Play::new(&[]);
    play.answer("/token", 200, json!({ "access_token": "T1" }));
    play.answer("/calls", 200, calls(&[]));
    let page = json!({ "data": [{ "id": 1 }], "meta": { "current_page": 1, "last_page": 2 } });
    play.answer("/intercom", 200, page);
    play.answer("/intercom", 200, json!({ "data": [{ "id": 2 }] }));
    let ask = play.answer("/shows", 200, json!([{ "id": 1 }, { "id": 2 }]));
    assert_eq!(ask.url.query_pairs().count(), 2);
    assert_eq!(play.known["vms/block/intercoms"]["count"], 2);
}

#[test]
fn calls_are_caught_up_over_pages_until_a_known_one() {
    let first = begun();
    let mut play = Play::again(&[180], first.known, first.kept, "2026-11-21T13:00:00Z");
    let new = |id| call(id, "missed", "2026-11-21 12:30:00");
    let more = json!({ "current_page": 1, "last_page": 9 });
    play.answer("/calls", 200, json!({ "data": [new(9), new(8)], "meta": more }));
    let old = call(1, "missed", "2026-11-21 09:00:00");
    let ask = play.answer("/calls", 200, json!({ "data": [new(7), old], "meta": more }));
    assert!(ask.url.query().unwrap().starts_with("page=2"));
    assert_eq!(play.kinds().len(), 3);
}

#[test]
fn a_door_opens_where_it_may() {
    let mut play = begun();
    play.order(1, "open_door", json!({ "intercom": "home" }));
    let ask = play.answer_bytes("/intercom/180/open-door", 204, b"");
    assert_eq!((ask.method.as_str(), ask.bearer.unwrap().expose()), ("POST", "T1"));
    play.order(2, "open_door", json!({ "intercom": "Nowhere" }));
    play.order(3, "open_door", json!({ "intercom": "180" }));
    play.answer("/open-door", 404, json!({ "message": "no" }));
    play.order(4, "open_door", json!({ "intercom": "180" }));
    play.got("/open-door", Err(Fault::Unknown("late".into())));
    let refused = |why: &str| Reply::Refused(why.into());
    assert_eq!(
        play.replies(),
        [
            (1, Reply::Done(Value::Null)),
            (2, refused("there is no intercom `Nowhere`")),
            (3, refused("404: no; it is not this account's, or not confirmed")),
            (4, Reply::Unknown("late".into())),
        ]
    );
    play.asks.clear();
}

#[test]
fn only_the_systems_own_success_counts_as_an_open_door() {
    let mut play = begun();
    let pages: [(&[u8], &str); 3] = [
        (
            b"<html><title>Sign in</title>",
            "200: an HTML page, Sign in, which is not the VMS's answer",
        ),
        (b"OK", "200, which is not the VMS's answer"),
        (b"{\"ok\":", "200, which is not the VMS's answer"),
    ];
    for (body, why) in pages {
        play.order(1, "open_door", json!({ "intercom": "Home" }));
        play.answer_bytes("/open-door", 200, body);
        assert_eq!(play.replies(), [(1, Reply::Unknown(why.into()))]);
    }
    play.order(1, "open_door", json!({ "intercom": "Home" }));
    play.answer("/open-door", 200, json!({ "error": "the panel does not answer" }));
    let refused = Reply::Refused("200: the panel does not answer".into());
    assert_eq!(play.replies(), [(1, refused)]);
    for body in [&b""[..], b"\n", b"null", b"{}", b"{\"error\":null,\"errors\":[]}", b"true"] {
        play.order(1, "open_door", json!({ "intercom": "Home" }));
        play.answer_bytes("/open-door", 200, body);
        assert!(matches!(play.replies().as_slice(), [(1, Reply::Done(_))]), "{body:?}");
    }
}

#[test]
fn a_door_stays_shut_where_apps_may_not_open_it() {
    for (field, why) in [
        ("is_open_door_app", "apps may not open the door of `Home`"),
        ("is_online", "`Home` is offline"),
    ] {
        let mut play = Play::new(&[180]);
        let mut shut = home(true);
        shut[field] = false.into();
        play.begin(calls(&[]), json!([shut]));
        play.order(1, "open_door", json!({ "intercom": "180" }));
        assert!(play.asks.is_empty());
        assert_eq!(play.replies(), [(1, Reply::Refused(why.into()))]);
    }
}

#[test]
fn a_door_is_asked_again_only_for_a_refused_token_and_only_at_once() {
    let token = |n| json!({ "access_token": format!("T{n}") });
    let mut play = begun();
    play.order(1, "open_door", json!({ "intercom": "180" }));
    play.answer("/open-door", 401, json!(null));
    play.answer("/token", 200, token(2));
    let ask = play.answer("/open-door", 401, json!({ "message": "no" }));
    assert_eq!(ask.bearer.unwrap().expose(), "T2");
    assert_eq!(play.replies(), [(1, Reply::Refused("401: no".into()))]);
    play.answer("/token", 200, token(3));
    // The login takes too long: nobody stands there any more.
    let mut play = begun();
    play.order(1, "open_door", json!({ "intercom": "180" }));
    play.answer("/open-door", 401, json!({ "message": "no" }));
    assert_eq!(play.session.next_tick(), Duration::from_secs(2));
    play.wait(2);
    assert_eq!(play.replies(), [(1, Reply::Refused("401: no".into()))]);
    play.answer("/token", 200, token(2));
    assert!(play.asks.iter().all(|(_, ask)| !ask.url.path().contains("open-door")));
}

#[test]
fn orders_are_answered_while_there_is_no_connection() {
    let mut play = Play::new(&[180]);
    play.got("/token", Err(Fault::Unsent("refused".into())));
    play.said.clear();
    play.order(1, "intercoms", json!({}));
    assert_eq!(play.replies(), [(1, Reply::Unsent("not connected: not sent: refused".into()))]);
}

#[test]
fn settings_change_by_patch_and_are_seen_at_once() {
    let mut play = begun();
    play.order(1, "enable", json!({ "intercom": "Home", "enabled": false }));
    let ask = play.answer("/intercom/180", 200, json!({ "id": 180 }));
    let crate::systems::http::Content::Json(body) = &ask.content else { panic!("{ask:?}") };
    assert_eq!((ask.method.as_str(), body), ("PATCH", &json!({ "is_enabled": false })));
    play.answer("/shows", 200, json!([home(true)]));
    play.order(2, "rename", json!({ "intercom": "Home", "title": "" }));
    play.answer("/intercom/180", 422, json!({ "errors": { "title": ["required"] } }));
    play.order(3, "call", json!({ "id": "../x" }));
    let replies = play.replies();
    assert_eq!(replies[0], (1, Reply::Done(json!({ "id": 180 }))));
    assert_eq!(replies[1], (2, Reply::Refused("422: `title` required".into())));
    assert_eq!(replies[2], (3, Reply::Refused("a call's id is a number".into())));
}
