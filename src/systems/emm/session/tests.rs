//! A session against answers by hand, without sockets: tokens, lists and what follows.

use serde_json::json;

use super::*;
use crate::secret::Secret;
use crate::systems::Certificate;

const EMPTY: &str = r#"{"offset":0,"count":0,"total":0,"events":[]}"#;

/// As a status: 200, and the connection ends with what is answered.
const CUT: u16 = 1;

/// An EMM by hand: what it answers by the end of the path, and what it was asked.
struct Desk {
    session: Session,
    now: Moment,
    /// Answers by the end of the path; otherwise a good and empty one.
    answers: Vec<(&'static str, u16, String)>,
    asked: Vec<String>,
    open: Vec<Output>,
    told: Vec<crate::event::Event>,
    known: BTreeMap<String, Value>,
    bad: Vec<String>,
    logins: u32,
    /// Sessions that are open in the EMM.
    tokens: Vec<String>,
    most_tokens: usize,
}

fn setup(known: Vec<(String, Value)>) -> Setup {
    let config = Config {
        url: "https://emm.example.org/Fusion".parse().unwrap(),
        username: "portero".into(),
        password: Some(Secret::new("a password")),
        certificate: Certificate::System,
        poll: Duration::from_secs(30),
        flat_send: false,
    };
    Setup { source: "emm/block".into(), config, trust: Trust::Fresh, known, kept: None, seed: 1 }
}

impl Desk {
    fn new() -> Desk {
        let wall = Timestamp::from_second(1_800_000_000).unwrap();
        let mut desk = Desk {
            session: Session::new(setup(Vec::new())),
            now: Moment { wall, since: Duration::ZERO },
            answers: Vec::new(),
            asked: Vec::new(),
            open: Vec::new(),
            told: Vec::new(),
            known: BTreeMap::new(),
            bad: Vec::new(),
            logins: 0,
            tokens: Vec::new(),
            most_tokens: 0,
        };
        desk.input(Input::Tick);
        desk.run(60);
        desk
    }

    fn input(&mut self, input: Input) {
        let outputs = self.session.handle(input, self.now);
        self.open.extend(outputs);
        while !self.open.is_empty() {
            match self.open.remove(0) {
                Output::Call(call) => self.call(call),
                Output::Tell(news) => self.tell(news),
                Output::Bad(why, _) => self.bad.push(why),
                _ => {}
            }
        }
    }

    fn tell(&mut self, news: News) {
        for change in news.known {
            match change.to {
                crate::record::Becomes::Is(value) => drop(self.known.insert(change.path, value)),
                _ => drop(self.known.remove(&change.path)),
            }
        }
        for heard in news.events {
            // As the intake does it.
            if self.told.iter().all(|known| known.id != heard.event.id) {
                self.told.push(heard.event);
            }
        }
    }

    fn call(&mut self, call: Call) {
        let path = call.ask.url.path().to_string();
        self.asked.push(path.clone());
        let given = self.answers.iter().position(|(end, ..)| path.ends_with(end));
        let (status, body) = match given.map(|at| self.answers.remove(at)) {
            Some((_, status, body)) => (status, body),
            None => (200, self.usual(&path, call.ask.bearer.as_ref())),
        };
        let body = body.into_bytes();
        let answer = Answer {
            status,
            content_type: "application/json".into(),
            retry_after: None,
            date: None,
            location: None,
            body,
        };
        let (call, kept, fault) = (call.id, None, Fault::Unknown("cut".into()));
        let input = match status {
            0 => Input::Answer { call, answer: Err(fault), kept },
            CUT => Input::Cut { call, answer: Answer { status: 200, ..answer }, fault, kept },
            _ => Input::Answer { call, answer: Ok(answer), kept },
        };
        let outputs = self.session.handle(input, self.now);
        self.open.extend(outputs);
    }

    fn usual(&mut self, path: &str, token: Option<&Secret>) -> String {
        if path.ends_with("generatetoken") {
            self.logins += 1;
            self.tokens.push(format!("T{}", self.logins));
            self.most_tokens = self.most_tokens.max(self.tokens.len());
            return json!({ "token": self.tokens.last() }).to_string();
        }
        if path.ends_with("releaseToken") {
            self.tokens.retain(|known| token.is_none_or(|token| token.expose() != known));
        }
        if path.ends_with("events") { EMPTY.into() } else { "{}".into() }
    }

    /// Time goes by, second by second.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.since += Duration::from_secs(1);
            self.now.wall += Duration::from_secs(1);
            if self.session.wake().is_some_and(|at| at <= self.now.since) {
                self.input(Input::Tick);
            }
        }
    }

    fn answer(&mut self, end: &'static str, status: u16, body: impl ToString) {
        self.answers.push((end, status, body.to_string()));
    }

    /// The next list of alarms, looked at now.
    fn look(&mut self, body: impl ToString) {
        self.answer("alarms/active", 200, body);
        self.session.due.look = self.now.since;
        self.run(1);
        assert!(self.answers.is_empty(), "{:?}", self.answers);
    }

    fn raise(&mut self, id: i64) {
        let alarm = json!({ "id": id, "cleared": false, "active_time": 1_800_000_000, "msg_id": id,
            "name": "Lift" });
        let body = json!({ "notifications": [{ "type": "active_alarm", "notification": alarm }] });
        self.answer("changes", 200, body);
        self.session.due.changes = self.now.since;
        self.run(1);
    }

    fn kinds(&self) -> Vec<&str> {
        self.told.iter().map(|event| event.kind.as_str()).collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.kinds().into_iter().filter(|told| *told == kind).count()
    }
}

fn alarms(ids: &[i64], duration: i64) -> String {
    let list: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "duration": duration })).collect();
    json!({ "offset": 0, "count": ids.len(), "total": ids.len(), "alarms": list }).to_string()
}

#[test]
fn one_odd_list_ends_no_alarm() {
    for odd in [
        r#"{"offset":0,"count":0,"total":3,"alarms":[]}"#,
        r#"{"offset":0,"count":3,"total":3}"#,
        r#"{"offset":0,"count":3,"total":3,"alarms":null}"#,
        r#"{"offset":0,"count":3,"total":3,"alarms":[null,{},5]}"#,
        r#"{"offset":0,"count":2,"total":2,"alarms":[{"id":2},{"id":2}]}"#,
        "{}",
        "null",
        "",
    ] {
        let mut desk = Desk::new();
        (1..=3).for_each(|id| desk.raise(id));
        for _ in 0..3 {
            desk.look(odd);
            // Looked at again, and not only after ten minutes.
            assert!(desk.session.due.look <= desk.now.since + LOOK_AGAIN, "{odd}");
        }
        assert_eq!(desk.count("emm.alarm_cleared"), 0, "{odd}");
        assert!(desk.known.contains_key("emm/block/alarm/1"), "{odd}");
        desk.look(alarms(&[1, 2, 3], 90));
        assert_eq!(desk.kinds(), ["emm.active_alarm"; 3], "{odd}");
        desk.look(alarms(&[1, 2], 90));
        assert_eq!(desk.count("emm.alarm_cleared"), 1, "{odd}");
        desk.look(alarms(&[], 0));
        assert_eq!(desk.count("emm.alarm_cleared"), 3, "{odd}");
    }
}

#[test]
fn an_empty_list_without_a_number_is_asked_for_again() {
    for empty in ["[]", r#"{"alarms":[]}"#] {
        let mut desk = Desk::new();
        desk.raise(1);
        desk.look(empty);
        assert_eq!(desk.count("emm.alarm_cleared"), 0, "{empty}");
        // Back at the second look.
        desk.answer("alarms/active", 200, alarms(&[1], 20));
        desk.run(12);
        assert!(desk.answers.is_empty());
        desk.look(empty);
        assert_eq!(desk.count("emm.alarm_cleared"), 0, "{empty}");
        desk.answer("alarms/active", 200, empty);
        desk.run(12);
        assert_eq!(desk.count("emm.alarm_cleared"), 1, "{empty}");
    }
}

#[test]
fn what_is_active_after_a_false_end_is_told_again_each_time() {
    let mut desk = Desk::new();
    desk.raise(1);
    for n in 1..4 {
        desk.look(alarms(&[], 0));
        assert_eq!(desk.count("emm.alarm_cleared"), n);
        // The same beginning each time, by its duration.
        let duration = desk.now.since.as_secs() as i64 - 30;
        desk.look(alarms(&[1], duration));
        assert_eq!(desk.count("emm.active_alarm"), n + 1);
        assert!(desk.known.contains_key("emm/block/alarm/1"));
        assert_eq!(desk.known["emm/block/alarms"]["ended"], n);
        // A restart in between forgets nothing of it.
        let known = desk.known.clone().into_iter().collect();
        desk.session = Session::new(setup(known));
        desk.run(1);
    }
}

#[test]
fn a_duration_that_stands_still_is_nothing_new() {
    let mut desk = Desk::new();
    desk.raise(1);
    for _ in 0..5 {
        desk.run(300);
        desk.look(alarms(&[1], 5));
        desk.answers.clear();
        desk.answer("alarms/active", 200, alarms(&[1], 5));
        desk.run(12);
        desk.answers.clear();
    }
    assert_eq!(desk.kinds(), ["emm.active_alarm"]);
}

#[test]
fn a_refused_token_is_released_before_another_is_asked_for() {
    let mut desk = Desk::new();
    assert_eq!((desk.logins, desk.tokens.len()), (1, 1));
    for n in 0..10 {
        match n % 2 {
            0 => desk.answer("changes", 403, ""),
            _ => desk.answer("changes", 200, json!({ "error": { "description": "bad token" } })),
        }
        desk.session.due.changes = desk.now.since;
        desk.run(6);
        assert!(desk.answers.is_empty());
        assert_eq!((desk.logins, desk.tokens.len()), (n + 2, 1));
    }
    assert_eq!(desk.most_tokens, 1);
    // What was refused is asked again at once.
    let last = desk.asked.iter().rposition(|path| path.ends_with("generatetoken")).unwrap();
    assert!(desk.asked[last..].iter().any(|path| path.ends_with("changes")));
}

#[test]
fn a_release_without_answer_forgets_no_session() {
    let mut desk = Desk::new();
    desk.answer("changes", 403, "");
    desk.answer("releaseToken", 0, "");
    desk.session.due.changes = desk.now.since;
    desk.run(60);
    // The token was good all the same.
    assert_eq!((desk.logins, desk.tokens.len()), (1, 1));
    // If it never answers, that is no reason to stay away.
    for _ in 0..3 {
        desk.answer("changes", 403, "");
        desk.answer("releaseToken", 0, "");
    }
    desk.session.due.changes = desk.now.since;
    desk.run(120);
    assert_eq!((desk.logins, desk.most_tokens), (2, 2));
    assert_eq!(desk.session.phase, Phase::In);
}

#[test]
fn what_only_one_question_is_refused_is_no_reason_to_log_in_again_and_again() {
    let mut desk = Desk::new();
    for _ in 0..200 {
        desk.answer("users/self/events", 403, "");
    }
    desk.session.due.look = desk.now.since;
    desk.run(600);
    assert_eq!((desk.logins, desk.session.phase.clone()), (2, Phase::In));
    desk.raise(1);
    assert_eq!(desk.kinds(), ["emm.active_alarm"]);

    let mut desk = Desk::new();
    for _ in 0..200 {
        desk.answer("changes", 403, "");
    }
    desk.run(600);
    assert!(matches!(desk.session.phase, Phase::Out { .. }));
    assert!(desk.logins < 10, "{}", desk.logins);
    assert_eq!(desk.most_tokens, 1);
}

#[test]
fn after_a_429_the_lists_are_compared_once_polls_work_again() {
    let mut desk = Desk::new();
    desk.run(60);
    desk.answer("changes", 429, "");
    desk.session.due.changes = desk.now.since;
    desk.run(1);
    assert!(desk.session.gap);
    desk.asked.clear();
    desk.run(90);
    let polled = desk.asked.iter().rposition(|path| path.ends_with("changes")).unwrap();
    assert!(desk.asked.iter().skip(polled - 1).any(|path| path.ends_with("alarms/active")));
    // Twice: while polls are turned away, and when they work again.
    assert_eq!(desk.asked.iter().filter(|path| path.ends_with("alarms/active")).count(), 2);
}

#[test]
fn an_odd_inbox_moves_no_mark() {
    let mut desk = Desk::new();
    let entry = |id: i64| json!({ "id": id, "queue_time": 1_700_000_000 + id, "message": "x" });
    let list = |ids: &[i64]| {
        let list: Vec<Value> = ids.iter().map(|id| entry(*id)).collect();
        json!({ "offset": 0, "count": ids.len(), "total": ids.len(), "events": list })
    };
    desk.answer("users/self/events", 200, list(&[1]));
    desk.look(alarms(&[], 0));
    let told = desk.told.len();
    // Message 2 was lost, the list is odd, and message 3 is heard live.
    desk.answer("users/self/events", 200, json!({ "count": 0, "total": 2, "events": [] }));
    desk.session.gap = true;
    desk.look(alarms(&[], 0));
    let live = json!({ "notifications": [{ "type": "user_event", "notification": entry(3) }] });
    desk.answer("changes", 200, live);
    desk.session.due.changes = desk.now.since;
    desk.run(1);
    desk.answer("users/self/events", 200, list(&[3, 2, 1]));
    desk.look(alarms(&[], 0));
    let subjects: Vec<_> = desk.told[told..].iter().map(|e| e.subject.clone().unwrap()).collect();
    assert_eq!(subjects, ["3", "2"]);
}

#[test]
fn a_token_that_cannot_be_sent_is_no_login_and_is_not_gone_on_with() {
    let mut desk = Desk::new();
    desk.bad.clear();
    desk.answer("users/self/changes", 403, "");
    desk.answer("tokens/generatetoken", 200, r#"{"token":"a\nb"}"#);
    desk.answer("tokens/generatetoken", 200, r#"{"token":" T9\n"}"#);
    desk.run(200);
    assert_eq!(desk.bad, ["login: the token is none that a header can carry"]);
    assert_eq!(desk.session.token.as_ref().unwrap().expose(), "T9");
    let kept = |text: &str| {
        let of = crate::secret::fingerprint("https://emm.example.org/Fusion portero");
        let kept = serde_json::from_value(json!({ "token": text, "of": of })).unwrap();
        Session::new(Setup { kept: Some(kept), ..setup(Vec::new()) }).token
    };
    assert_eq!(kept("T1\n").unwrap().expose(), "T1");
    assert!(kept("a\nb").is_none());
}

#[test]
fn a_body_of_broken_entries_is_a_few_events_and_good_ones_among_them_are_told() {
    let good = r#"{"type":"active_alarm","notification":{"id":7,"name":"Lift"}}"#;
    let odd = r#"{"type":"brand_new","notification":{}}"#;
    for (filler, unparsed, unknown) in [("{}", 6, 0), (odd, 1, 50)] {
        let mut desk = Desk::new();
        desk.bad.clear();
        let entries = vec![filler; 20_000].join(",");
        let body = format!(r#"{{"notifications":[{entries},{good},{entries}]}}"#);
        desk.answer("users/self/changes", 200, body);
        desk.run(31);
        let count = |kind: &str| desk.told.iter().filter(|event| event.kind == kind).count();
        assert_eq!((count("emm.unparsed"), count("emm.active_alarm")), (unparsed, 1), "{filler}");
        assert_eq!((count("emm.unknown"), desk.bad.len()), (unknown, unparsed), "{filler}");
        let rest = desk.bad.last().unwrap();
        assert!(rest.ends_with("more of its entries cannot be read"), "{rest}");
    }
}

#[test]
fn what_came_of_a_cut_body_is_told_and_the_rest_looked_for() {
    let mut desk = Desk::new();
    desk.bad.clear();
    let looks = |desk: &Desk| desk.asked.iter().filter(|path| path.ends_with("active")).count();
    let before = looks(&desk);
    let entry = r#"{"type":"active_alarm","notification":{"id":7,"name":"Lift"}}"#;
    desk.answer("users/self/changes", CUT, format!(r#"{{"notifications":[{entry},{{"type":"#));
    desk.answer("alarms/active", 200, r#"{"count":1,"total":1,"alarms":[{"id":7}]}"#);
    desk.run(40);
    let told: Vec<(&str, bool)> =
        desk.told.iter().map(|event| (event.kind.as_str(), event.marks.caught_up)).collect();
    assert_eq!(told, [("emm.unparsed", false), ("emm.active_alarm", false)]);
    assert_eq!(desk.told[0].data["error"], "the body ends early");
    assert_eq!(desk.bad, ["/changes: the body ends early"]);
    assert!(looks(&desk) > before);
    // Nothing of it came: as if there were no answer.
    let mut desk = Desk::new();
    desk.bad.clear();
    desk.answer("users/self/changes", CUT, "");
    desk.run(40);
    assert!(desk.told.is_empty() && desk.bad.is_empty());
}
