mod history;

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::command::{Repeat, find};
use crate::systems::http::Content;
use crate::systems::netatmo::api::{COMMANDS, TYPES};

const START: Timestamp = Timestamp::constant(1_795_082_400, 0);
const HOME: &str = "5e8d0c1a2b3c4d5e6f700001";
const LOCK: &str = "aabbcc-1002-111111111111";
const SOURCE: &str = "netatmo/home";

const HOMES: &str = include_str!("../../../../../fixtures/netatmo_api/homesdata.json");
const STATUS: &str = include_str!("../../../../../fixtures/netatmo_api/homestatus.json");
const FINE: &str = r#"{"status":"ok","time_exec":0.02}"#;
const EMPTY: &str = r#"{"status":"ok","body":{"home":{"id":"h","events":[]}}}"#;

fn config(refresh: Option<&str>) -> Config {
    Config {
        name: "home".into(),
        client_id: "app".into(),
        client_secret: Some(Secret::new("client-secret")),
        refresh_token: refresh.map(Secret::new),
        api: "https://api.netatmo.com".parse().unwrap(),
        public_url: "https://door.example.org".parse().unwrap(),
    }
}

/// A session and a cloud that answers each path with what was laid there, and notes the rest.
struct Play {
    session: Session,
    now: Now,
    answers: BTreeMap<&'static str, VecDeque<Result<Answer, Fault>>>,
    asked: Vec<Ask>,
    said: Vec<Output>,
    tokens: u32,
}

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

impl Play {
    fn new(refresh: Option<&str>) -> Play {
        Play::after(refresh, Earlier::default(), &[])
    }

    fn after(refresh: Option<&str>, earlier: Earlier, known: &[(String, Value)]) -> Play {
        let now = Now { wall: START, run: Duration::ZERO };
        let session = Session::new(SOURCE, Trust::Fresh, config(refresh), earlier, known, now, 7);
        let (asked, said, answers) = (Vec::new(), Vec::new(), BTreeMap::new());
        Play { session, now, answers, asked, said, tokens: 0 }
    }

    /// What the next question to this path is answered.
    fn lay(&mut self, path: &'static str, status: u16, body: &str) {
        self.answers.entry(path).or_default().push_back(Ok(answer(status, body)));
    }

    fn usual(&mut self, path: &str) -> Result<Answer, Fault> {
        if let Some(laid) = self.answers.get_mut(path).and_then(VecDeque::pop_front) {
            return laid;
        }
        let body = match path {
            "/oauth2/token" => {
                self.tokens += 1;
                json!({ "access_token": format!("access-{}", self.tokens),
                    "refresh_token": format!("refresh-{}", self.tokens),
                    "expire_in": "10800", "scope": "read_camera" })
                .to_string()
            }
            "/api/homesdata" => HOMES.into(),
            "/api/homestatus" => STATUS.into(),
            "/api/getevents" => EMPTY.into(),
            _ => FINE.into(),
        };
        Ok(answer(200, &body))
    }

    /// Lets this long go by; every question is answered at once.
    fn run(&mut self, time: Duration) {
        let end = self.now.run + time;
        let outputs = self.session.tick(self.now);
        self.settle(outputs);
        loop {
            let next = self.session.next_tick(self.now);
            if next > end {
                break;
            }
            let step = next.saturating_sub(self.now.run).max(Duration::from_millis(1));
            self.pass(step);
            let outputs = self.session.tick(self.now);
            self.settle(outputs);
        }
        self.pass(end.saturating_sub(self.now.run));
    }

    fn pass(&mut self, step: Duration) {
        self.now = Now { wall: self.now.wall + step, run: self.now.run + step };
    }

    fn settle(&mut self, outputs: Vec<Output>) {
        let mut todo: VecDeque<Output> = outputs.into();
        while let Some(output) = todo.pop_front() {
            match output {
                Output::Ask(id, ask) => {
                    let got = self.usual(ask.url.path());
                    self.asked.push(ask);
                    todo.extend(self.session.answered(id, got, self.now));
                }
                Output::Keep(kept) => {
                    self.session.written(true, self.now);
                    self.said.push(Output::Keep(kept));
                }
                other => self.said.push(other),
            }
        }
    }

    fn paths(&self) -> Vec<&str> {
        self.asked.iter().map(|ask| ask.url.path()).collect()
    }

    fn count(&self, path: &str) -> usize {
        self.paths().into_iter().filter(|asked| *asked == path).count()
    }

    /// Everything told, as events; caught-up ones are marked with a `*`.
    fn events(&self) -> Vec<String> {
        let told = self.said.iter().flat_map(|output| match output {
            Output::Tell(news) => news.events.clone(),
            Output::Found(past, _) => past.iter().map(|past| past.heard.clone()).collect(),
            _ => Vec::new(),
        });
        told.map(|Heard { event, .. }| {
            let mark = if event.marks.caught_up { "*" } else { "" };
            format!("{}{mark} {}", event.kind, event.subject.unwrap_or_default())
        })
        .collect()
    }

    fn order(&mut self, call: &str, args: Value) -> Reply {
        self.begin(call, args);
        let reply = self.said.iter().rposition(|output| matches!(output, Output::Reply(..)));
        match self.said.remove(reply.expect("a reply")) {
            Output::Reply(_, reply) => reply,
            _ => unreachable!(),
        }
    }

    fn begin(&mut self, call: &str, args: Value) {
        let Value::Object(args) = args else { panic!("an object") };
        let args = find(COMMANDS, call).unwrap().check(args).unwrap();
        let command = Command {
            to: SOURCE.into(),
            call: call.into(),
            args,
            repeat: Repeat::Harmless,
            trust: Trust::Human,
        };
        let deadline = self.now.wall + Duration::from_secs(60);
        let outputs = self.session.order(1, &command, deadline, self.now);
        self.settle(outputs);
    }

    fn last_content(&self) -> Value {
        match &self.asked.last().unwrap().content {
            Content::Json(value) => value.clone(),
            Content::Form(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
                .collect(),
            Content::None | Content::Raw(..) => Value::Null,
        }
    }

    fn state(&self) -> BTreeMap<String, Value> {
        let mut state = BTreeMap::new();
        for output in &self.said {
            let Output::Tell(news) = output else { continue };
            for change in &news.known {
                match &change.to {
                    crate::record::Becomes::Is(value) => {
                        state.insert(change.path.clone(), value.clone());
                    }
                    crate::record::Becomes::SameAs(other) => {
                        state.insert(change.path.clone(), Value::from(format!("= {other}")));
                    }
                    crate::record::Becomes::Fields { set, gone } => {
                        let fields = state.get_mut(&change.path).unwrap().as_object_mut().unwrap();
                        fields.extend(set.clone());
                        gone.iter().for_each(|name| drop(fields.remove(name)));
                    }
                    crate::record::Becomes::Gone => drop(state.remove(&change.path)),
                }
            }
        }
        state
    }
}

fn started() -> Play {
    let mut play = Play::new(Some("first"));
    play.run(Duration::from_secs(1));
    play.session.activated(play.now);
    play.asked.clear();
    play
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_start_gets_a_token_the_homes_the_webhook_and_the_state() {
    let mut play = Play::new(Some("first"));
    play.run(Duration::from_secs(1));
    let paths = ["/oauth2/token", "/api/homesdata", "/api/addwebhook", "/api/homestatus"];
    assert_eq!(play.paths()[..4], paths);
    assert_eq!(play.paths()[4..], ["/api/getevents"]);
    // The pair is kept before anything is asked with it; the first token is not sent again.
    let kept = play.said.iter().position(|output| matches!(output, Output::Keep(_)));
    let told = play.said.iter().position(|output| matches!(output, Output::Names(_)));
    assert!(kept.is_some() && kept < told);
    assert!(play.said.iter().any(|output| matches!(output, Output::Up(true, _))));
    let state = play.state();
    let tag = &state["netatmo/home/module/70:ee:50:aa:01:01"];
    assert_eq!((&tag["status"], &tag["category"]), (&json!("closed"), &json!("window")));
    assert_eq!(
        state["netatmo/home/module/Fenêtre cuisine"],
        "= netatmo/home/module/70:ee:50:aa:01:01"
    );
    assert_eq!(state["netatmo/home/person/Benoît"].as_str().map(|name| &name[..2]), Some("= "));
    assert_eq!(state["netatmo/home/room/2313120001"]["name"], "Küche");
    assert_eq!(state["netatmo/home/home/5e8d0c1a2b3c4d5e6f700001"]["timezone"], "Europe/Paris");
    assert_eq!(state["netatmo/home/module/70:ee:50:aa:00:04"]["reachable"], false);
    assert!(!format!("{state:?}").contains("vpn"));
    assert_eq!(state["netatmo/home/webhook"]["registered"], true);
    assert_eq!(state["netatmo/home/webhook"]["active"], false);
    assert_eq!(play.events(), Vec::<String>::new());
}

#[test]
fn calls_stay_far_below_what_is_allowed() {
    let mut play = started();
    play.run(60 * MINUTE);
    assert_eq!(play.count("/api/homestatus"), 12);
    assert_eq!(play.count("/api/getevents"), 6);
    play.run(23 * 60 * MINUTE + MINUTE);
    assert_eq!(play.count("/api/addwebhook"), 1);
    assert_eq!(play.count("/oauth2/token"), 8);
}

#[test]
fn a_dead_grant_asks_a_person_once_and_nobody_else() {
    let mut play = Play::new(Some("first"));
    play.lay("/oauth2/token", 400, r#"{"error":"invalid_grant"}"#);
    play.run(24 * 60 * MINUTE);
    assert_eq!(play.paths(), ["/oauth2/token"]);
    assert_eq!(play.events(), ["netatmo.consent_needed netatmo/home"]);
    let refused = play.order("homes", json!({}));
    assert!(
        matches!(refused, Reply::Unsent(why) if why.contains("consent") || why.contains("let"))
    );
    // A person comes.
    let outputs = play.session.consent(5, Secret::new("the-code"), play.now);
    play.settle(outputs);
    play.run(Duration::from_secs(1));
    assert!(play.said.iter().any(|output| matches!(output, Output::Consented(5, Ok(())))));
    assert_eq!(play.paths()[1..3], ["/oauth2/token", "/api/homesdata"]);
    assert!(play.said.iter().any(|output| matches!(output, Output::Up(true, _))));
    let Content::Form(form) = &play.asked[1].content else { panic!() };
    let redirect = form.iter().find(|(name, _)| name == "redirect_uri").unwrap();
    assert_eq!(redirect.1, "https://door.example.org/oauth/netatmo/home");
}

#[test]
fn without_any_token_a_person_is_asked_and_after_a_restart_it_is_the_same_event() {
    let id = |play: &Play| {
        play.said.iter().find_map(|output| match output {
            Output::Tell(news) => news.events.first().map(|heard| heard.event.id),
            _ => None,
        })
    };
    let mut play = Play::new(None);
    play.run(MINUTE);
    assert_eq!(play.events(), ["netatmo.consent_needed netatmo/home"]);
    assert!(play.asked.is_empty());
    let kept = play.session.oauth.kept().clone();
    let earlier = Earlier { kept: Some(kept), ..Earlier::default() };
    let mut again = Play::after(None, earlier, &[]);
    again.pass(60 * MINUTE);
    again.run(MINUTE);
    assert_eq!(id(&again), id(&play));
}

#[test]
fn a_pair_that_cannot_be_written_is_used_and_tried_again() {
    let mut play = Play::new(Some("first"));
    let outputs = play.session.tick(play.now);
    let [.., Output::Ask(id, _)] = &outputs[..] else { panic!("{outputs:?}") };
    let got = play.usual("/oauth2/token");
    let outputs = play.session.answered(*id, got, play.now);
    assert!(matches!(outputs[1], Output::Keep(_)));
    play.session.written(false, play.now);
    play.settle(outputs.into_iter().filter(|output| !matches!(output, Output::Keep(_))).collect());
    play.session.written(false, play.now);
    play.said.clear();
    play.run(MINUTE);
    assert!(play.said.iter().any(|output| matches!(output, Output::Keep(_))));
    assert!(play.count("/api/homestatus") > 0);
}

#[test]
fn an_expired_token_is_renewed_once_and_the_call_made_again() {
    let mut play = started();
    play.lay("/api/setstate", 403, r#"{"error":{"code":3,"message":"Access token expired"}}"#);
    let reply = play.order("unlock", json!({ "module": LOCK }));
    assert_eq!(reply, Reply::Done(json!({ "status": "ok" })));
    assert_eq!(play.paths()[..3], ["/api/setstate", "/oauth2/token", "/api/setstate"]);
    let wrong = r#"{"error":{"code":2,"message":"Invalid access token"}}"#;
    play.lay("/api/setstate", 403, wrong);
    play.lay("/api/setstate", 403, wrong);
    let reply = play.order("unlock", json!({ "module": LOCK }));
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
}

#[test]
fn a_lock_is_opened_at_most_once() {
    let mut play = started();
    let reply = play.order("unlock", json!({ "module": "front" }));
    // A bell and a lock are called so: the lock is meant.
    assert_eq!(reply, Reply::Done(json!({ "status": "ok" })));
    let sent = play.asked.iter().find(|ask| ask.url.path() == "/api/setstate").unwrap();
    let Content::Json(sent) = &sent.content else { panic!() };
    let module = json!({ "id": LOCK, "bridge": "00:03:50:aa:bb:cc", "lock": false });
    assert_eq!(*sent, json!({ "home": { "id": HOME, "modules": [module] } }));
    type Check = fn(&Reply) -> bool;
    let cases: [(Result<Answer, Fault>, Check); 11] = [
        (Ok(answer(429, r#"{"error":{"code":11}}"#)), |r| matches!(r, Reply::Refused(_))),
        (Err(Fault::Unknown("cut".into())), |r| matches!(r, Reply::Unknown(_))),
        (Err(Fault::Unsent("no route".into())), |r| matches!(r, Reply::Unsent(_))),
        (Ok(answer(200, "<html>")), |r| matches!(r, Reply::Unknown(_))),
        (Ok(answer(502, "")), |r| matches!(r, Reply::Unknown(_))),
        (Ok(answer(307, "")), |r| matches!(r, Reply::Unknown(_))),
        (Ok(answer(302, r#"{"error":{"code":3}}"#)), |r| matches!(r, Reply::Unknown(_))),
        (Ok(answer(403, "Forbidden")), |r| matches!(r, Reply::Unknown(_))),
        (Ok(answer(403, r#"{"error":{"code":26}}"#)), |r| matches!(r, Reply::Refused(_))),
        (
            Ok(answer(200, r#"{"body":{"errors":[{"code":6,"id":"x"}]}}"#)),
            |r| matches!(r, Reply::Refused(why) if why.contains("unreachable")),
        ),
        (Ok(answer(403, r#"{"error":{"code":13}}"#)), |r| matches!(r, Reply::Refused(_))),
    ];
    for (got, is_right) in cases {
        let before = play.count("/api/setstate");
        let shown = format!("{got:?}");
        play.answers.entry("/api/setstate").or_default().push_back(got);
        let reply = play.order("unlock", json!({ "module": LOCK }));
        assert!(is_right(&reply), "{shown}: {reply:?}");
        play.run(MINUTE);
        assert_eq!(play.count("/api/setstate"), before + 1, "{shown}");
    }
    assert!(play.events().contains(&"netatmo.consent_needed netatmo/home".to_string()));
}

#[test]
fn a_call_that_met_another_is_made_again_a_second_later() {
    let mut play = started();
    play.lay("/api/setstate", 429, r#"{"error":{"code":11,"message":"concurrency"}}"#);
    play.begin("staircase_light", json!({ "module": "Stairs" }));
    assert_eq!(play.count("/api/setstate"), 1);
    play.run(Duration::from_secs(2));
    assert_eq!(play.count("/api/setstate"), 2);
    assert!(play.said.iter().any(|o| matches!(o, Output::Reply(1, Reply::Done(_)))));
}

#[test]
fn after_too_many_calls_an_order_waits_a_minute_and_a_door_does_not() {
    let mut play = started();
    play.lay("/api/setstate", 403, r#"{"error":{"code":26,"message":"User usage reached"}}"#);
    let light = || json!({ "module": "Stairs" });
    for second in 0..59 {
        let reply = play.order("staircase_light", light());
        assert!(matches!(reply, Reply::Unsent(_)), "{second}: {reply:?}");
        play.run(Duration::from_secs(1));
    }
    assert_eq!(play.count("/api/setstate"), 1);
    assert!(matches!(play.order("unlock", json!({ "module": LOCK })), Reply::Done(_)));
    play.run(Duration::from_secs(1));
    assert!(matches!(play.order("staircase_light", light()), Reply::Done(_)));
}

#[test]
fn orders_name_things_as_people_do() {
    let mut play = started();
    play.order("floodlight", json!({ "module": "einfahrt süd", "mode": "on" }));
    let sent = play.asked.iter().find(|ask| ask.url.path() == "/api/setstate").unwrap();
    let Content::Json(sent) = &sent.content else { panic!() };
    assert_eq!(sent["home"]["modules"][0]["floodlight"], "on");
    // The state is looked at soon after.
    play.run(Duration::from_secs(2));
    assert_eq!(play.asked.last().unwrap().url.path(), "/api/homestatus");
    play.order("persons_home", json!({ "persons": ["Ana", "Benoît"] }));
    let sent = play.last_content();
    assert_eq!(sent["home_id"], HOME);
    assert!(sent["person_ids"].as_str().unwrap().starts_with(r#"["e2bf7000-"#));
    play.order("persons_away", json!({}));
    assert_eq!(play.last_content(), json!({ "home_id": HOME }));
    play.lay("/api/setstate", 200, r#"{"body":{"errors":[{"code":23,"id":"x"}]}}"#);
    let reply = play.order("staircase_light", json!({ "module": "Stairs" }));
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    let unknown = play.order("monitoring", json!({ "module": "Cellar", "on": true }));
    assert!(matches!(unknown, Reply::Refused(why) if why.contains("Welcome salon")));
    let Reply::Done(homes) = play.order("homes", json!({})) else { panic!() };
    assert_eq!(homes["homes"][0]["name"], "Maison Lefèvre");
    let Reply::Done(status) = play.order("status", json!({})) else { panic!() };
    assert!(!status.to_string().contains("vpn_url"));
    let Reply::Done(_) = play.order("events", json!({ "size": 3 })) else { panic!() };
    assert_eq!(play.last_content()["size"], "3");
}

#[test]
fn throttling_lets_polls_wait_and_sends_orders_back() {
    let mut play = started();
    play.lay("/api/setstate", 429, r#"{"error":{"code":26,"message":"User usage reached"}}"#);
    let reply = play.order("monitoring", json!({ "module": "Welcome salon", "on": false }));
    assert!(matches!(reply, Reply::Unsent(_)), "{reply:?}");
    play.asked.clear();
    play.run(2 * MINUTE);
    assert!(play.asked.is_empty(), "{:?}", play.paths());
    play.run(60 * MINUTE);
    assert!(play.count("/api/homestatus") > 0);
}

#[test]
fn modules_that_go_and_tags_that_move_are_told() {
    let mut play = started();
    let changed = STATUS
        .replace(r#"{"code":6,"id":"70:ee:50:aa:00:04"}"#, r#"{"code":6,"id":"70:ee:50:aa:00:02"}"#)
        .replace(r#""status":"closed""#, r#""status":"open""#);
    play.lay("/api/homestatus", 200, &changed);
    play.run(6 * MINUTE);
    let told: Vec<String> =
        play.events().into_iter().filter(|event| !event.contains("webhook_failed")).collect();
    assert_eq!(
        told,
        ["netatmo.module_unreachable 70:ee:50:aa:00:02", "netatmo.tag_status 70:ee:50:aa:01:01"]
    );
    // A restart finds the same state as it was: nothing. Another one: caught up.
    let known: Vec<(String, Value)> = play.state().into_iter().collect();
    let earlier =
        || Earlier { kept: Some(play.session.oauth.kept().clone()), ..Earlier::default() };
    let mut same = Play::after(Some("first"), earlier(), &known);
    same.lay("/api/homestatus", 200, &changed);
    same.run(Duration::from_secs(1));
    assert_eq!(same.events(), Vec::<String>::new());
    let mut other = Play::after(Some("first"), earlier(), &known);
    other.run(Duration::from_secs(1));
    let told = other.events();
    assert!(told.contains(&"netatmo.tag_status* 70:ee:50:aa:01:01".to_string()), "{told:?}");
    assert!(told.contains(&"netatmo.module_reachable* 70:ee:50:aa:00:02".to_string()), "{told:?}");
}

#[test]
fn whatever_comes_it_goes_on_and_no_token_is_shown() {
    let mut play = started();
    let echo = r#"["access-1", "refresh-1"]"#;
    for body in ["", "<html>", "[]", "null", "{\"body\":7}", "\u{fffd}", echo] {
        for path in ["/api/homestatus", "/api/getevents"] {
            play.lay(path, 200, body);
        }
    }
    play.lay("/oauth2/token", 200, r#"{"access_token":7,"refresh_token":"leak-me"}"#);
    play.run(12 * 60 * MINUTE);
    let shown = format!("{:?}", play.said);
    for secret in ["access-1", "refresh-1", "leak-me", "client-secret", "first\""] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let bad = play.said.iter().filter(|output| matches!(output, Output::Bad { .. })).count();
    assert!(bad >= 15, "{bad}");
    let raw = play.said.iter().any(|output| match output {
        Output::Bad { raw, .. } => String::from_utf8_lossy(raw).contains("access-1"),
        _ => false,
    });
    assert!(!raw);
    assert_eq!(play.session.up, Some(true));
}

#[test]
fn every_error_of_the_vendors_is_survived() {
    let errors = include_str!("../../../../../fixtures/netatmo_api/errors.json");
    let errors: Vec<Value> = serde_json::from_str(errors).unwrap();
    for error in errors {
        let (status, body) = (error["status"].as_u64().unwrap() as u16, error["body"].to_string());
        for path in ["/api/homesdata", "/api/addwebhook", "/api/homestatus", "/api/getevents"] {
            let mut play = Play::new(Some("first"));
            play.lay(path, status, &body);
            play.run(12 * 60 * MINUTE);
            assert!(play.count(path) > 1, "{path} {body}");
            assert_eq!(play.session.up, Some(true), "{path} {body}");
            let known = |event: &String| {
                TYPES.iter().any(|kind| event.split([' ', '*']).next() == Some(kind))
            };
            assert!(play.events().iter().all(known), "{:?}", play.events());
        }
    }
}
