//! Redirects: what only asks may follow them, what acts never does.

use super::*;

fn redirect(status: u16, location: Option<&str>) -> Answer {
    Answer {
        status,
        content_type: "text/html".into(),
        retry_after: None,
        date: None,
        location: location.map(String::from),
        body: b"<html>".to_vec(),
    }
}

#[test]
fn what_opens_a_door_is_never_sent_along_a_redirect() {
    let places = ["", "/there?token=s", "/api/v1/intercom/181/open-door", "https://a.example/x"];
    for status in [300, 301, 302, 303, 304, 305, 307, 308, 399] {
        for to in places {
            let mut play = begun();
            play.order(1, "open_door", json!({ "intercom": "Home" }));
            play.got("/intercom/180/open-door", Ok(redirect(status, Some(to))));
            assert!(play.asks.is_empty(), "{status} {to}: {:?}", play.asks);
            let replies = play.replies();
            let [(1, Reply::Unknown(why))] = replies.as_slice() else { panic!("{replies:?}") };
            assert!(why.contains("put its new address into `url`"), "{why}");
            assert!(!why.contains("token"), "{why}");
        }
    }
}

#[test]
fn a_redirected_opening_says_where_it_was_led() {
    for (to, said) in [
        (Some("https://new.example/vms?a=b"), " to https://new.example/vms"),
        (Some("/elsewhere"), " to https://vms.example.org/elsewhere"),
        (Some("http://["), ""),
        (None, ""),
    ] {
        let mut play = begun();
        play.order(1, "open_door", json!({ "intercom": "180" }));
        play.got("/open-door", Ok(redirect(302, to)));
        let why =
            format!("302: the VMS answered with a redirect{said}; put its new address into `url`");
        assert_eq!(play.replies(), [(1, Reply::Unknown(why))]);
    }
}

#[test]
fn what_changes_an_intercom_is_not_sent_along_either_and_what_only_asks_is() {
    let mut play = begun();
    play.order(1, "rename", json!({ "intercom": "180", "title": "Gate" }));
    play.got("/intercom/180", Ok(redirect(308, Some("/api/v1/intercom/181"))));
    assert!(play.asks.is_empty());
    assert!(matches!(play.replies().as_slice(), [(1, Reply::Unknown(_))]));
    play.order(2, "intercoms", json!({}));
    play.got("/intercom", Ok(redirect(308, Some("/there"))));
    play.answer("/there", 200, json!([]));
    assert_eq!(play.replies(), [(2, Reply::Done(json!([])))]);
    // One that leads to another host is not followed with the token, and nothing was done.
    play.order(3, "intercoms", json!({}));
    play.got("/intercom", Ok(redirect(301, Some("https://a.example/"))));
    assert!(play.asks.is_empty());
    assert!(matches!(play.replies().as_slice(), [(3, Reply::Refused(_))]));
}
