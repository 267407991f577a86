//! What one kind of question does to the others when it fails, and what a gap makes of news.

use super::*;

#[test]
fn a_ring_after_a_failure_is_live_if_the_servers_clock_proves_it() {
    let mut play = begun();
    play.wait(5);
    // A connection that lay idle may have been closed just then: once more, at once.
    play.got("/calls", Err(Fault::Unknown("closed".into())));
    assert_eq!(play.downs(), [""; 0]);
    play.got("/calls", Err(Fault::Unknown("closed".into())));
    assert_eq!(play.downs(), ["no answer: closed"]);
    play.wait(2);
    let ring = call(2, "ring", "2026-11-21 12:00:06");
    play.answer("/calls", 200, calls(std::slice::from_ref(&ring)));
    let events = play.events();
    assert_eq!((events[0].kind.as_str(), events[0].trust), ("vms.ring", Trust::Fresh));
    // Found by a restart, the same ring is caught up, under the same id.
    let first = begun();
    let mut again = Play::again(&[180], first.known, first.kept, "2026-11-21T12:00:08Z");
    again.answer("/calls", 200, calls(&[ring]));
    let found = again.events();
    assert!(found[0].marks.caught_up);
    assert_eq!(found[0].id, events[0].id);
}

#[test]
fn without_the_servers_clock_no_ring_is_live() {
    let mut play = begun();
    play.wait(5);
    let (id, _) = play.asks.pop_front().unwrap();
    let body = calls(&[call(2, "ring", "2026-11-21 12:00:04")]).to_string().into_bytes();
    let content_type = "application/json".into();
    let answer =
        Answer { status: 200, content_type, retry_after: None, date: None, location: None, body };
    let outputs = play.session.answered(id, Ok(answer), play.now);
    play.take(outputs);
    assert_eq!(play.kinds(), ["vms.ring caught up"]);
}

#[test]
fn after_a_long_gap_steps_of_calls_are_caught_up_and_so_is_what_intercoms_did() {
    let mut play = begun();
    play.wait(30);
    play.answer("/calls", 500, json!(null));
    play.answer("/shows", 500, json!(null));
    play.wait(60);
    let mut ended = call(3, "ended", "2026-11-21 12:00:40");
    ended["ended_at"] = "2026-11-21 12:01:28".into();
    let missed = call(2, "missed", "2026-11-21 12:00:30");
    play.answer("/calls", 200, calls(&[ended, missed]));
    play.answer("/shows", 200, json!([home(false)]));
    let expected =
        ["vms.call.missed caught up", "vms.call.ended caught up", "vms.intercom.offline caught up"];
    assert_eq!(play.kinds(), expected);
}

#[test]
fn one_refusal_or_failure_of_calls_makes_nobody_deaf() {
    for status in [301, 400, 403, 404, 409, 419, 422, 429, 500, 503] {
        let mut play = begun();
        play.wait(5);
        play.answer("/calls", status, json!({ "message": "no" }));
        if status == 301 {
            // Followed once, and that leads nowhere.
            play.answer("/there", 404, json!(null));
        }
        // A busy server says itself how long to wait.
        play.wait(if status == 429 { 7 } else { 1 });
        let ring = call(2, "ring", &play.now.wall.strftime("%F %T").to_string());
        play.answer("/calls", 200, calls(&[ring]));
        assert_eq!(play.kinds(), ["vms.ring"], "{status}");
    }
}

#[test]
fn calls_that_go_on_being_refused_are_asked_for_and_shown_after_a_minute() {
    let mut play = begun();
    let mut asked = 0;
    for _ in 0..80 {
        play.wait(1);
        let Some((_, ask)) = play.asks.front() else { continue };
        match ask.url.path().ends_with("/calls") {
            true => {
                asked += 1;
                play.answer("/calls", 404, json!({ "message": "gone" }));
            }
            false => drop(play.answer("/shows", 200, json!([home(true)]))),
        }
        if play.now.run < Duration::from_secs(65) {
            assert_eq!(play.downs(), [""; 0], "{:?}", play.now.run);
        }
    }
    assert_eq!(play.downs(), ["asked for calls, 404: gone"]);
    assert!((7..=20).contains(&asked), "{asked}");
    // A door opens all the same: somebody answers.
    play.order(1, "open_door", json!({ "intercom": "Home" }));
    play.asks.retain(|(_, ask)| ask.url.path().ends_with("/open-door"));
    play.answer_bytes("/open-door", 204, b"");
    assert_eq!(play.replies(), [(1, Reply::Done(Value::Null))]);
}

#[test]
fn calls_that_never_were_are_not_offered_after_several_refusals() {
    let mut play = Play::new(&[180]);
    play.answer("/token", 200, json!({ "access_token": "T1" }));
    play.answer("/calls", 403, json!({ "message": "no" }));
    play.answer("/shows", 200, json!([home(true)]));
    let mut refused = 1;
    while play.now.run < Duration::from_secs(29) {
        play.wait(1);
        if !play.asks.is_empty() {
            play.answer("/calls", 403, json!({ "message": "no" }));
            refused += 1;
        }
    }
    assert_eq!((refused, play.downs().len()), (5, 0));
    let bad = play.said.iter().filter(|o| matches!(o, Output::Bad { .. })).count();
    assert_eq!(bad, 1);
    play.wait(1);
    play.answer("/shows", 200, json!([home(true)]));
    // They are asked for now and then, and heard as soon as they are there.
    play.wait(29);
    play.answer("/calls", 200, calls(&[]));
    play.wait(5);
    play.asks.retain(|(_, ask)| ask.url.path().ends_with("/calls"));
    play.answer("/calls", 200, calls(&[]));
}

#[test]
fn a_list_that_fails_or_hangs_holds_up_no_ring() {
    for answer in
        [None, Some(301), Some(400), Some(401), Some(404), Some(409), Some(429), Some(500)]
    {
        let mut play = begun();
        play.wait(30);
        play.answer("/calls", 200, calls(&[]));
        match answer {
            // It hangs.
            None => drop(play.asks.pop_front()),
            Some(status) => drop(play.answer("/shows", status, json!({ "message": "no" }))),
        }
        if answer == Some(301) {
            play.answer("/there", 404, json!(null));
        }
        if answer == Some(401) {
            // Calls say at once whether it is the token.
            play.answer("/calls", 200, calls(&[]));
        }
        play.wait(5);
        let ring = call(2, "ring", "2026-11-21 12:00:33");
        play.answer("/calls", 200, calls(&[ring]));
        assert_eq!(play.downs(), [""; 0], "{answer:?}");
        assert_eq!(play.kinds(), ["vms.ring"], "{answer:?}");
    }
}

#[test]
fn a_list_that_goes_on_failing_is_shown_after_a_minute() {
    let mut play = begun();
    for _ in 0..110 {
        play.wait(1);
        while let Some((_, ask)) = play.asks.front() {
            match ask.url.path().ends_with("/calls") {
                true => play.answer("/calls", 200, calls(&[])),
                false => play.answer("/shows", 500, json!({ "message": "broken" })),
            };
        }
        assert!(play.now.run > Duration::from_secs(89) || play.downs().is_empty());
    }
    assert_eq!(play.downs(), ["asked for intercoms, 500: broken"]);
}

#[test]
fn a_token_refused_for_two_questions_is_replaced_once() {
    let mut play = begun();
    play.wait(30);
    play.answer("/calls", 401, json!(null));
    play.answer("/shows", 401, json!(null));
    play.answer("/token", 200, json!({ "access_token": "T2" }));
    for path in ["/calls", "/shows"] {
        let body = if path == "/calls" { calls(&[]) } else { json!([home(true)]) };
        assert_eq!(play.answer(path, 200, body).bearer.unwrap().expose(), "T2");
    }
    assert!(play.asks.is_empty() && play.downs().is_empty());
}

#[test]
fn one_bad_byte_or_number_in_one_call_hides_no_ring() {
    let listed: [&[u8]; 4] = [
        b"{\"id\":1,\"status\":\"missed\",\"note\":\"caf\xe9\"}",
        br#"{"id":1,"status":"missed","note":"\ud83d"}"#,
        br#"{"id":1,"status":"missed","note":NaN}"#,
        br#"{"id":1,"status":"missed","note":1e400,}"#,
    ];
    for odd in listed {
        let mut play = begun();
        play.wait(5);
        let ring = call(2, "ring", "2026-11-21 12:00:04").to_string();
        let body = [b"{\"data\":[", ring.as_bytes(), b",", odd, b"]}"].concat();
        play.answer_bytes("/calls", 200, &body);
        assert!(!play.said.iter().any(|output| matches!(output, Output::Bad { .. })));
        assert_eq!(play.kinds(), ["vms.ring"], "{}", String::from_utf8_lossy(odd));
    }
}

#[test]
fn a_token_that_cannot_be_sent_is_no_login_and_is_not_gone_on_with() {
    let mut play = Play::new(&[180]);
    play.answer(
        "/token",
        200,
        json!({ "access_token": "T\u{e9}", "user": { "access_token_id": 7 } }),
    );
    assert_eq!(play.downs(), ["the login brought no token that can be sent"]);
    assert!(play.said.iter().any(|o| matches!(o, Output::Bad { raw, .. } if raw.is_empty())));
    assert_eq!(play.kept.sessions, ["7"]);
    play.wait(5);
    play.answer("/token", 200, json!({ "access_token": "T2\n" }));
    assert_eq!(play.answer("/calls", 200, calls(&[])).bearer.unwrap().expose(), "T2");
    // One of an earlier run.
    let kept = Kept { token: Some(Secret::new("a\nb")), ..play.kept };
    let again = Play::again(&[180], BTreeMap::new(), kept, NOON);
    assert_eq!(again.asks[0].1.url.path(), "/api/v1/token");
}
