//! The session played by hand: what leaves, what is told and what is answered.

use serde_json::json;

use super::*;

struct Play {
    session: Session,
    now: Moment,
    out: Vec<Output>,
}

impl Play {
    fn new() -> Play {
        Play::knowing(&[])
    }

    fn knowing(known: &[(String, Value)]) -> Play {
        let setup = Setup {
            source: "fibaro/gate".into(),
            trust: Trust::Fresh,
            user: "portero".into(),
            pass: Secret::new("open sesame"),
            names: Names::new(&BTreeMap::new()),
            boot: 1,
        };
        let at = "2026-11-21T10:00:00Z".parse().unwrap();
        let now = Moment { at, up: Duration::from_secs(1) };
        Play { session: Session::new(setup, known), now, out: Vec::new() }
    }

    /// Connected and logged in, with the relays' states answered.
    fn ready() -> Play {
        let mut play = Play::new();
        play.input(Input::Connected);
        assert_eq!(play.sent()[0]["method"], "com.fibaro.intercom.account.login");
        play.login(1);
        for asked in play.sent() {
            let id = asked["id"].as_u64().unwrap();
            play.hear(json!({ "id": id, "result": { "opened": false } }));
        }
        play.out.clear();
        play
    }

    fn login(&mut self, id: u64) {
        let token = format!("token-{id}");
        self.hear(json!({ "id": id, "result": { "token": token, "exp_time": "900000" } }));
    }

    fn input(&mut self, input: Input<'_>) {
        let out = self.session.handle(input, self.now);
        self.out.extend(out);
    }

    fn hear(&mut self, frame: Value) {
        self.input(Input::Frame(frame.to_string().as_bytes()));
    }

    fn wait(&mut self, ms: u64) {
        self.now.up += Duration::from_millis(ms);
        self.now.at += jiff::SignedDuration::from_millis(i64::try_from(ms).unwrap());
        self.input(Input::Tick);
    }

    fn order(&mut self, ticket: u64, call: &str, args: Value) {
        let deadline = self.now.at + jiff::SignedDuration::from_secs(60);
        let Value::Object(args) = args else { panic!("an object") };
        let call = call.to_string();
        self.input(Input::Order(Ask { ticket, call, args, secrets: Map::new(), deadline }));
    }

    fn open(&mut self, ticket: u64) {
        self.order(ticket, "relay.open", json!({ "relay": 0 }));
    }

    /// Takes out what was sent.
    fn sent(&mut self) -> Vec<Value> {
        let is_send = |output: &Output| matches!(output, Output::Send(_));
        let (sent, rest) = std::mem::take(&mut self.out).into_iter().partition(is_send);
        self.out = rest;
        let read = |output: &Output| match output {
            Output::Send(text) => serde_json::from_str(text.expose()).unwrap(),
            _ => unreachable!(),
        };
        let sent: Vec<Output> = sent;
        sent.iter().map(read).collect()
    }

    /// The ids of what was sent by this method's last word.
    fn ids(&mut self, method: &str) -> Vec<u64> {
        let of = |frame: &Value| frame["method"].as_str().unwrap().ends_with(method);
        self.sent().iter().filter(|f| of(f)).map(|f| f["id"].as_u64().unwrap()).collect()
    }

    /// Takes out the answers.
    fn answers(&mut self) -> Vec<(u64, Reply)> {
        let mut answers = Vec::new();
        self.out.retain_mut(|output| match output {
            Output::Answer(ticket, reply) => {
                answers.push((*ticket, reply.clone()));
                false
            }
            _ => true,
        });
        answers
    }

    fn answer(&mut self) -> Reply {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0).1
    }

    fn is_down(&self) -> Option<bool> {
        self.out.iter().find_map(|output| match output {
            Output::Down { slow, .. } => Some(*slow),
            _ => None,
        })
    }
}

fn token_errors() -> [Value; 2] {
    [
        json!({ "code": -32000, "message": "Expired" }),
        json!({ "code": 401, "message": "no", "data": { "name": "InvalidToken" } }),
    ]
}

#[test]
fn a_signal_may_come_before_the_reply_and_zero_is_success() {
    let mut play = Play::ready();
    play.open(7);
    let sent = play.sent().remove(0);
    assert_eq!(sent["params"], json!({ "relay": 0, "token": "token-1" }));
    let params = json!({ "relay": 0, "is_open": true, "method": "WS_API", "user": "portero" });
    play.hear(json!({ "method": "com.fibaro.intercom.relay.stateChanged", "params": params }));
    assert!(play.answers().is_empty(), "a signal is no reply");
    play.hear(json!({ "jsonrpc": "2.0", "id": sent["id"].to_string(), "result": 0 }));
    assert_eq!(play.answer(), Reply::Done(json!(0)));
    let Some(Output::News(news)) = play.out.first() else { panic!("{:?}", play.out) };
    assert_eq!(news.events[0].event.kind, "fibaro.relay");
    assert_eq!(news.known[0].path, "fibaro/gate/relay/0");
    // The same reply once more is nobody's.
    play.out.clear();
    play.hear(json!({ "id": sent["id"], "result": 0 }));
    assert!(play.out.is_empty());
}

#[test]
fn a_reply_that_says_nothing_is_no_success() {
    let why = "the intercom answered neither result nor error";
    for reply in [json!({ "jsonrpc": "2.0" }), json!({ "error": null })] {
        for call in ["relay.open", "relay.state"] {
            let mut play = Play::ready();
            play.order(7, call, json!({ "relay": 0 }));
            let mut reply = reply.clone();
            reply["id"] = play.sent()[0]["id"].clone();
            play.hear(reply);
            assert_eq!(play.answer(), Reply::Unknown(why.into()));
            assert!(matches!(play.out[..], [Output::Bad(..)]), "{:?}", play.out);
        }
    }
    for result in [json!(0), json!(null), json!(false), json!({})] {
        let mut play = Play::ready();
        play.open(7);
        let id = play.ids("relay.open")[0];
        play.hear(json!({ "id": id, "result": result, "error": null }));
        assert!(matches!(play.answer(), Reply::Done(_)), "{result}");
    }
}

#[test]
fn a_void_token_is_renewed_on_the_same_socket_and_a_young_command_leaves_once_more() {
    for error in token_errors() {
        let mut play = Play::ready();
        play.open(7);
        let first = play.ids("relay.open")[0];
        play.wait(500);
        play.hear(json!({ "id": first, "error": error }));
        let login = play.ids("login")[0];
        play.login(login);
        let again = play.sent();
        let again: Vec<_> =
            again.iter().filter(|f| f["method"].as_str().unwrap().ends_with("open")).collect();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0]["params"]["token"], format!("token-{login}"));
        // A second refusal is the end of it.
        play.hear(json!({ "id": again[0]["id"], "error": error }));
        assert!(matches!(play.answer(), Reply::Refused(_)));
        assert!(play.ids("relay.open").is_empty());
    }
}

#[test]
fn an_opening_command_that_has_become_old_does_not_leave_again_and_others_do() {
    let mut play = Play::ready();
    play.open(7);
    play.order(8, "day_night.mode", json!({}));
    let sent = play.sent();
    play.wait(2_000);
    for frame in &sent {
        play.hear(json!({ "id": frame["id"], "error": token_errors()[0] }));
    }
    let login = play.ids("login");
    assert_eq!(login.len(), 1, "one login for both");
    play.login(login[0]);
    assert!(matches!(play.answer(), Reply::Refused(why) if why.contains("not sent again")));
    let again = play.sent();
    assert!(again.iter().all(|f| !f["method"].as_str().unwrap().ends_with("relay.open")));
    assert!(again.iter().any(|f| f["method"].as_str().unwrap().ends_with("getMode")));
}

#[test]
fn a_refusal_after_the_relay_was_heard_to_open_is_not_tried_again() {
    let mut play = Play::ready();
    play.open(7);
    let id = play.ids("relay.open")[0];
    let params = json!({ "relay": 0, "is_open": true, "method": "WS_API", "user": "portero" });
    play.hear(json!({ "method": "com.fibaro.intercom.relay.stateChanged", "params": params }));
    play.hear(json!({ "id": id, "error": token_errors()[0] }));
    assert!(matches!(play.answer(), Reply::Refused(_)));
    assert!(play.ids("relay.open").is_empty());
}

#[test]
fn what_was_sent_and_not_answered_is_unknown_and_what_was_not_sent_is_unsent() {
    let mut play = Play::new();
    play.open(1);
    assert!(matches!(play.answer(), Reply::Unsent(why) if why.contains("not connected")));
    let mut play = Play::ready();
    play.open(2);
    play.input(Input::Closed("cut"));
    assert!(matches!(play.answer(), Reply::Unknown(_)));
    assert_eq!(play.is_down(), Some(false));
    // While logging in again, a command waits, and is told if that leads to nothing.
    play.sent();
    play.input(Input::Connected);
    play.open(3);
    assert!(play.ids("relay.open").is_empty());
    play.wait(1_999);
    assert!(play.answers().is_empty());
    play.wait(1);
    assert!(matches!(play.answer(), Reply::Unsent(_)));
    assert!(play.ids("relay.open").is_empty());
}

#[test]
fn no_answer_in_time_is_unknown_and_raises_doubt_about_the_socket() {
    let mut play = Play::ready();
    play.open(7);
    play.sent();
    play.wait(9_999);
    assert!(play.answers().is_empty());
    play.wait(1);
    assert!(matches!(play.answer(), Reply::Unknown(_)));
    assert_eq!(play.ids("refreshToken").len(), 1);
    play.wait(10_000);
    assert_eq!(play.is_down(), Some(false));
}

#[test]
fn a_half_open_socket_is_found_within_a_minute_and_nothing_that_opens_is_written_into_it() {
    let mut play = Play::ready();
    let began = play.now.up;
    while play.is_down().is_none() {
        let due = play.session.due().unwrap();
        play.wait(u64::try_from((due - play.now.up).as_millis()).unwrap());
        assert!(play.now.up - began < Duration::from_secs(60));
    }
    let mut play = Play::ready();
    play.wait(6_000);
    play.open(7);
    let sent = play.sent();
    assert_eq!(sent.len(), 1);
    assert!(sent[0]["method"].as_str().unwrap().ends_with("refreshToken"));
    play.wait(2_000);
    assert!(matches!(play.answer(), Reply::Unsent(_)));
    // With a sign of life it leaves.
    let mut play = Play::ready();
    play.wait(6_000);
    play.open(7);
    let refresh = play.ids("refreshToken")[0];
    play.login(refresh);
    assert_eq!(play.ids("relay.open").len(), 1);
}

#[test]
fn a_token_is_renewed_at_half_its_life_and_not_too_eagerly() {
    let mut play = Play::new();
    play.input(Input::Connected);
    let login = play.ids("login")[0];
    play.hear(json!({ "id": login, "result": { "token": "abcdef", "exp_time": 20_000 } }));
    for id in play.ids("getState") {
        play.hear(json!({ "id": id, "error": { "code": -32601 } }));
    }
    play.wait(9_999);
    assert!(play.sent().is_empty());
    play.wait(1);
    let refresh = play.sent().remove(0);
    assert_eq!(refresh["params"]["token"], "abcdef");
    // An answer without a token leaves the old one in force.
    play.hear(json!({ "id": refresh["id"], "result": 0 }));
    play.wait(9_999);
    assert!(play.sent().is_empty());
    play.wait(1);
    let refresh = play.sent().remove(0);
    assert_eq!(refresh["params"]["token"], "abcdef");
    play.login(refresh["id"].as_u64().unwrap());
    play.wait(39_999);
    assert!(play.sent().is_empty(), "a long life: only the sign of life after 40 s");
    play.wait(1);
    assert_eq!(play.ids("refreshToken").len(), 1);
}

#[test]
fn an_intercom_without_refresh_is_logged_in_to_again() {
    let mut play = Play::ready();
    play.wait(40_000);
    let refresh = play.ids("refreshToken")[0];
    play.hear(json!({ "id": refresh, "error": { "code": -32601, "message": "Method not found" } }));
    let login = play.ids("login")[0];
    play.login(login);
    play.sent();
    play.wait(40_000);
    assert_eq!(play.ids("login").len(), 1);
}

#[test]
fn a_wrong_password_is_tried_slowly() {
    let mut play = Play::new();
    play.input(Input::Connected);
    play.hear(json!({ "id": 1, "error": { "code": 1, "message": "bad open sesame" } }));
    assert_eq!(play.is_down(), Some(true));
    let shown = format!("{:?}", play.out);
    assert!(!shown.contains("sesame"), "{shown}");
}

#[test]
fn a_method_that_is_missing_is_refused_and_costs_no_connection() {
    let mut play = Play::ready();
    play.order(7, "day_night.luminosity", json!({}));
    let id = play.ids("getLuminosity")[0];
    play.hear(json!({ "id": id, "error": { "code": -32601, "message": "Method not found" } }));
    assert!(matches!(play.answer(), Reply::Refused(why) if why.contains("lacks")));
    assert_eq!(play.is_down(), None);
    // The relays' state is not asked for again once it is known to be lacking.
    let mut play = Play::new();
    play.input(Input::Connected);
    play.sent();
    play.login(1);
    for id in play.ids("getState") {
        play.hear(json!({ "id": id, "error": { "code": -32601 } }));
    }
    play.input(Input::Closed("cut"));
    play.input(Input::Connected);
    let login = play.ids("login")[0];
    play.login(login);
    assert!(play.sent().is_empty());
}

#[test]
fn what_changed_during_a_gap_is_caught_up() {
    let known = [
        ("fibaro/gate/relay/0".to_string(), json!({ "open": true, "method": "BLE", "user": "a" })),
        ("fibaro/gate/relay/1".to_string(), json!({ "open": false, "method": "", "user": "" })),
    ];
    let mut play = Play::knowing(&known);
    play.input(Input::Connected);
    play.sent();
    play.login(1);
    for id in play.ids("getState") {
        play.hear(json!({ "id": id, "result": { "is_open": "false" } }));
    }
    let told: Vec<&News> = play
        .out
        .iter()
        .filter_map(|output| match output {
            Output::News(news) => Some(news),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1, "relay 1 is as it was");
    let event = &told[0].events[0].event;
    assert!(event.marks.caught_up && event.trust == Trust::Authentic);
    assert_eq!(event.subject.as_deref(), Some("0"));
}

#[test]
fn a_state_asked_before_a_signal_does_not_undo_it() {
    let mut play = Play::new();
    play.input(Input::Connected);
    play.sent();
    play.login(1);
    let ids = play.ids("getState");
    let params = json!({ "relay": 0, "is_open": true, "method": "BLE", "user": "ana" });
    play.hear(json!({ "method": "com.fibaro.intercom.relay.stateChanged", "params": params }));
    play.out.clear();
    play.hear(json!({ "id": ids[0], "result": { "opened": false } }));
    assert!(play.out.is_empty());
}

#[test]
fn what_is_not_understood_is_kept_without_secrets_and_nothing_ends() {
    let mut play = Play::ready();
    for frame in [
        r#"{"jsonrpc":"2.0","result":{"token":"token-1"#,
        "not json token-1 open sesame",
        r#"{"jsonrpc":"2.0","method":"com.fibaro.intercom.unheard.of","params":{"pin":"1234"}}"#,
        r#"{"jsonrpc":"2.0","id":999,"result":0}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#,
        r#"{"jsonrpc":"2.0","method":"com.fibaro.intercom.relay.stateChanged","params":[]}"#,
    ] {
        play.out.clear();
        play.input(Input::Frame(frame.as_bytes()));
        let [Output::Bad(_, raw)] = &play.out[..] else { panic!("{frame}: {:?}", play.out) };
        let raw = String::from_utf8_lossy(raw);
        for secret in ["token-1", "sesame", "1234"] {
            assert!(!raw.contains(secret), "{raw}");
        }
    }
    play.out.clear();
    play.input(Input::Odd("a binary frame", &[0, 1, 2]));
    assert!(matches!(&play.out[..], [Output::Bad("a binary frame", _)]));
    play.open(7);
    assert_eq!(play.ids("relay.open").len(), 1);
}

#[test]
fn it_logs_out_after_what_is_under_way() {
    let mut play = Play::ready();
    play.open(7);
    let open = play.ids("relay.open")[0];
    play.input(Input::Stop);
    let logout = play.ids("logout")[0];
    play.open(8);
    assert!(matches!(play.answer(), Reply::Unsent(_)));
    play.hear(json!({ "id": logout, "result": 0 }));
    assert_eq!(play.is_down(), None);
    play.hear(json!({ "id": open, "result": 0 }));
    assert_eq!(play.answer(), Reply::Done(json!(0)));
    assert_eq!(play.is_down(), Some(false));
}

#[test]
fn a_flood_of_orders_is_turned_away() {
    let mut play = Play::ready();
    for ticket in 0..100 {
        play.order(ticket, "relay.state", json!({ "relay": 0 }));
    }
    assert_eq!(play.ids("getState").len(), 64);
    assert_eq!(play.answers().len(), 36);
}

#[test]
fn an_order_past_its_deadline_is_not_sent() {
    let mut play = Play::ready();
    let deadline = play.now.at - jiff::SignedDuration::from_millis(1);
    let args = Map::from_iter([("relay".to_string(), json!(0))]);
    let (call, secrets) = ("relay.open".to_string(), Map::new());
    play.input(Input::Order(Ask { ticket: 1, call, args, secrets, deadline }));
    assert!(matches!(play.answer(), Reply::Unsent(_)));
    assert!(play.sent().is_empty());
}

#[test]
fn a_dead_socket_does_not_teach_that_relays_cannot_be_asked() {
    let mut play = Play::new();
    play.input(Input::Connected);
    play.login(1);
    assert_eq!(play.ids("getState").len(), 2);
    play.wait(10_000);
    play.input(Input::Closed("no answer to a token refresh"));
    play.sent();
    play.input(Input::Connected);
    let login = play.ids("login")[0];
    play.login(login);
    assert_eq!(play.ids("getState").len(), 2);
}
