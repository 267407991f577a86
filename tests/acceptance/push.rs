//! Pushes, as a push service sees them; and phones, as the command line sees them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::push::{Does, Phone, Service};
use crate::support::{Home, until};
use crate::{PUSH, QUIET, add_phone, call, movement, pair, phones, post, try_add_phone};

/// A phone of ana's for each of these names, all at this service.
fn phones_at(home: &Home, service: &Service, names: &[&str]) -> Vec<Phone> {
    let add = |(n, name): (usize, &&str)| {
        let seed = u8::try_from(n + 1).unwrap();
        let phone = Phone::new(format!("http://{}/{name}", service.at), seed);
        add_phone(home, "ana", &phone);
        phone
    };
    names.iter().enumerate().map(add).collect()
}

/// How the phone at this endpoint's path is doing, found by the order of adding.
fn failing(home: &Home) -> Vec<String> {
    let mut list = phones(home);
    list.sort_by_key(|phone| phone["added"].as_str().unwrap().to_string());
    list.iter().map(|phone| phone["failing"].as_str().unwrap_or_default().to_string()).collect()
}

#[test]
fn a_push_carries_what_the_standards_ask_for() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let phones = phones_at(&home, &service, &["one"]);
    let server = home.start();
    post(&server, &movement(1));
    let push = service.wait("/one", 1).remove(0);
    assert!(push.header(":line").starts_with("POST /one "), "{push:?}");
    for (name, value) in [
        ("urgency", "high"),
        ("content-encoding", "aes128gcm"),
        ("content-type", "application/octet-stream"),
        ("encryption", ""),
        ("crypto-key", ""),
    ] {
        assert_eq!(push.header(name), value, "{name}");
    }
    let ttl: u32 = push.header("ttl").parse().unwrap();
    assert!((50..=60).contains(&ttl), "{ttl}");
    let topic = push.header("topic");
    let is_base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert!(!topic.is_empty() && topic.len() <= 32 && topic.chars().all(is_base64url), "{topic}");
    let (token, key) = push.header("authorization").split_once(", k=").unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(key).unwrap().len(), 65);
    let claims = token.strip_prefix("vapid t=").unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!(claims["aud"], format!("http://{}", service.at));
    assert!(claims["sub"].as_str().unwrap().starts_with("mailto:"));
    assert!(push.body.len() <= 4096);
    let payload = phones[0].open(&push.body);
    assert_eq!(payload["notification"]["title"], "Moved: cam1");
    assert_eq!(payload["web_push"], 8030);
}

#[test]
fn one_bad_phone_delays_no_other() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let names = ["hangs", "fails", "throttles", "edge", "redirects", "forbids", "good"];
    phones_at(&home, &service, &names);
    let dead = Phone::new("http://127.0.0.1:9/refused", 99);
    add_phone(&home, "ben", &dead);
    service.tell("/hangs", &[Does::Hangs]);
    service.tell("/fails", &[Does::Answers(500, ""), Does::Answers(201, "")]);
    service.tell("/throttles", &[Does::Answers(429, "Retry-After: 3600\r\n")]);
    service.tell("/edge", &[Does::Answers(406, ""), Does::Answers(201, "")]);
    let leads_on = "Location: /elsewhere\r\n";
    service.tell("/redirects", &[Does::Answers(307, leads_on)]);
    service.tell("/forbids", &[Does::Answers(403, "")]);
    let server = home.start();
    (0..5).for_each(|n| drop(post(&server, &movement(n))));
    service.wait("/good", 5);
    service.wait("/fails", 6);
    service.wait("/edge", 6);
    service.wait("/redirects", 2);
    assert!(service.seen("/elsewhere").is_empty(), "an endpoint must not lead elsewhere");
    // Told to wait an hour, nothing more comes there: what was on its way, no repeat.
    assert!(service.seen("/throttles").len() <= 5);
    assert_eq!(phones(&home).iter().filter(|phone| phone["subscribed"] == true).count(), 8);
}

#[test]
fn only_gone_ends_a_subscription() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let names = ["gone", "notfound", "forbids", "bad"];
    phones_at(&home, &service, &names);
    for (name, status) in names.iter().zip([410, 404, 403, 400]) {
        service.tell(&format!("/{name}"), &[Does::Answers(status, "")]);
    }
    let server = home.start();
    post(&server, &movement(1));
    let subscribed = until("two subscriptions end", || {
        let mut list = phones(&home);
        list.sort_by_key(|phone| phone["added"].as_str().unwrap().to_string());
        let subscribed: Vec<_> = list.iter().map(|phone| phone["subscribed"] == true).collect();
        (subscribed.iter().filter(|is| **is).count() <= 2).then_some(subscribed)
    });
    assert_eq!(subscribed, [false, false, true, true]);
    let reasons = until("said", || {
        let reasons = failing(&home);
        (!reasons[3].is_empty()).then_some(reasons)
    });
    assert!(reasons[0].contains("410") && reasons[1].contains("404"), "{reasons:?}");
    assert!(reasons[3].contains("400"), "{reasons:?}");
    // And it stays so over a restart.
    server.terminate();
    let server = home.start();
    post(&server, &movement(2));
    service.wait("/forbids", 2);
    assert_eq!((service.seen("/gone").len(), service.seen("/notfound").len()), (1, 1));
}

#[test]
fn phones_come_and_go_with_and_without_a_server() {
    let home = Home::new(PUSH);
    let service = Service::start();
    let phone = |seed: u8| Phone::new(format!("http://{}/p{seed}", service.at), seed);
    let check = |home: &Home, seed: u8| {
        let id = add_phone(home, "ana", &phone(seed));
        let text = String::from_utf8(home.run(&["phone", "list"]).stdout).unwrap();
        assert!(text.contains(&id) && text.contains("127.0.0.1"), "{text}");
        assert!(!text.contains(&format!("/p{seed}")), "the endpoint is the phone's secret");
        id
    };
    let offline = check(&home, 1);
    let server = home.start();
    let online = check(&home, 2);
    post(&server, &movement(1));
    service.wait("/p1", 1);
    service.wait("/p2", 1);
    assert!(home.run(&["phone", "remove", &offline]).status.success());
    let settled = "portero_push_total{outcome=\"delivered\"}";
    until("both are told", || (crate::metric(&server, settled) >= 2.0).then_some(()));
    post(&server, &movement(2));
    service.wait("/p2", 2);
    server.terminate();
    assert!(home.run(&["phone", "remove", &online]).status.success());
    assert_eq!(phones(&home), Vec::<Value>::new());
    assert_eq!(home.run(&["phone", "remove", &online]).status.code(), Some(1));
    assert_eq!(home.run(&["phone", "remove", "../../x"]).status.code(), Some(1));
    assert_eq!(service.seen("/p1").len(), 1);
}

#[test]
fn endpoints_into_the_house_are_refused() {
    let home = Home::new(QUIET);
    home.configure("allow_insecure_endpoints = true", "");
    let check = |running: bool| {
        for endpoint in [
            "http://push.example.org/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:10.0.0.1]/x",
            "https://0x7f.1/x",
            "https://169.254.169.254/latest/meta-data",
            "https://localhost/x",
            "https://gateway.local/x",
            "https://user:pass@push.example.org/x",
            "file:///etc/passwd",
            "not a url",
        ] {
            let subscription = Phone::new(endpoint, 1).subscription();
            let output = try_add_phone(&home, "ana", &subscription);
            assert_eq!(output.status.code(), Some(1), "{endpoint}, running: {running}");
        }
        let good = Phone::new("https://push.example.org/x", 1);
        for broken in [json!({}), json!({ "endpoint": "https://push.example.org/x" }), json!([])] {
            assert_eq!(try_add_phone(&home, "ana", &broken).status.code(), Some(1));
        }
        let mut bad_key = good.subscription();
        bad_key["keys"]["p256dh"] = "AAAA".into();
        assert_eq!(try_add_phone(&home, "ana", &bad_key).status.code(), Some(1));
        let stranger = try_add_phone(&home, "carl", &good.subscription());
        assert_eq!(stranger.status.code(), Some(1));
        let said = String::from_utf8(stranger.stderr).unwrap();
        assert!(said.contains("`carl`") && said.contains("ana"), "{said}");
        add_phone(&home, "ana", &good);
    };
    check(false);
    let server = home.start();
    check(true);
    let cookie = pair(&home, &server, "ana");
    for endpoint in ["http://push.example.org/x", "https://10.0.0.1/x", "https://nas/x"] {
        let body = Phone::new(endpoint, 1).subscription().to_string();
        assert_eq!(call(&server, "POST", "/api/subscription", &cookie, &body).status, 400);
    }
    let body = Phone::new("https://push.example.org/y", 1).subscription().to_string();
    assert_eq!(call(&server, "POST", "/api/subscription", &cookie, &body).status, 204);
    assert_eq!(call(&server, "GET", "/api/me", &cookie, "").json()["subscribed"], true);
}

#[test]
fn a_subscription_for_another_key_is_pointed_out() {
    let home = Home::new(QUIET);
    let mut subscription = Phone::new("http://127.0.0.1:9/x", 1).subscription();
    subscription["vapid"] =
        "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs"
            .into();
    assert!(try_add_phone(&home, "ana", &subscription).status.success());
    let _server = home.start();
    assert_eq!(phones(&home)[0]["vapid_changed"], true);
}
