//! What reaches nobody: dead letters and sending them again; and drills, which tell beforehand.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::http;
use crate::support::push::{Does, Phone, Service};
use crate::support::{Home, Server, until, within};
use crate::{add_phone, call, metric, movement, pair, phones, post};

const RULES: &str = r#"
rules:
  - name: moved
    when: { type: netatmo.movement }
    do: [ push: { to: ana, title: "Moved: {{ event.data.camera_id }}", ttl: 1s } ]
  - name: alarm
    when: { type: netatmo.human }
    lane: alarm
    do: [ push: { to: ben, title: "Somebody", ttl: 1h } ]
"#;

const HUMAN: &[u8] = br#"{"event_type":"human","push_type":"NOC-human","event_id":"h1","camera_id":"cam1","home_id":"h1"}"#;

fn phone(service: &Service, name: &str, seed: u8) -> Phone {
    Phone::new(format!("http://{}/{name}", service.at), seed)
}

fn dead(home: &Home) -> Vec<Value> {
    let output = home.run(&["dead", "list"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn until_dead(home: &Home, count: usize) -> Vec<Value> {
    until(&format!("{count} dead letters"), || Some(dead(home)).filter(|all| all.len() == count))
}

fn run(home: &Home, args: &[&str]) -> (bool, String) {
    let output = home.run(args);
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_expires_is_a_dead_letter_over_a_crash_and_can_be_sent_again() {
    let (home, service) = (Home::new(RULES), Service::start());
    let ana = phone(&service, "ana", 1);
    add_phone(&home, "ana", &ana);
    let server = home.start();
    assert_eq!(metric(&server, "portero_dead_letters"), 0.0);
    assert_eq!(
        run(&home, &["dead", "resend", "--all"]),
        (true, "there are no dead letters\n".into())
    );
    service.tell("/ana", &[Does::Answers(500, "")]);
    post(&server, &movement(1));
    let letter = until_dead(&home, 1).remove(0);
    assert_eq!((&letter["outcome"], &letter["person"]), (&json!("expired"), &json!("ana")));
    assert_eq!((&letter["title"], &letter["rule"]), (&json!("Moved: cam1"), &json!("moved")));
    assert!(letter["why"].as_str().unwrap().contains("500"), "{letter}");
    assert_eq!(metric(&server, "portero_dead_letters"), 1.0);

    server.kill();
    assert_eq!(dead(&home), std::slice::from_ref(&letter), "without a server");
    let server = home.start();
    assert_eq!(dead(&home), std::slice::from_ref(&letter));

    // By a button of the page, twice at once: it is sent once.
    service.tell("/ana", &[Does::Answers(201, "")]);
    let before = service.seen("/ana").len();
    let cookie = pair(&home, &server, "ben");
    assert_eq!(http::get(server.listen, "/api/dead").status, 401);
    let listed = call(&server, "GET", "/api/dead", &cookie, "").json();
    assert_eq!(listed["dead"], json!([letter]));
    let path = format!("/api/dead/{}/resend", letter["id"].as_str().unwrap());
    let answer = call(&server, "POST", &path, &cookie, "{}");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(call(&server, "POST", &path, &cookie, "{}").status, 404);
    assert_eq!(dead(&home).len(), 0);
    let sent = service.wait("/ana", before + 1);
    assert_eq!(ana.open(&sent[before].body)["notification"]["title"], "Moved: cam1");
    let event = home.events(&["--type", "portero.resend"]).remove(0);
    assert_eq!((&event["subject"], &event["trust"]), (&json!("ben"), &json!("human")));
    assert_eq!(event["data"]["action"], letter["id"]);
    assert_eq!(metric(&server, "portero_dead_letters"), 0.0);
    server.kill();
    let _server = home.start();
    assert_eq!((dead(&home).len(), service.seen("/ana").len()), (0, before + 1));
}

#[test]
fn a_phone_that_is_gone_is_not_sent_to_again_but_the_persons_others_are() {
    let (home, service) = (Home::new(RULES), Service::start());
    add_phone(&home, "ben", &phone(&service, "old", 1));
    let _server = home.start();
    service.tell("/old", &[Does::Answers(410, "")]);
    post(&_server, HUMAN);
    let letter = until_dead(&home, 1).remove(0);
    assert_eq!((&letter["outcome"], &letter["lane"]), (&json!("gone"), &json!("alarm")));
    let id = letter["id"].as_str().unwrap();
    let (ok, text) = run(&home, &["dead", "resend", id]);
    assert!(!ok && text.contains("is gone, and ben has no other phone"), "{text}");
    assert_eq!(dead(&home).len(), 1);
    assert_eq!(service.seen("/old").len(), 1);

    let new = phone(&service, "new", 2);
    add_phone(&home, "ben", &new);
    let (ok, text) = run(&home, &["dead", "resend", id]);
    assert!(ok && text.contains("sent again"), "{text}");
    let sent = service.wait("/new", 1);
    assert_eq!(new.open(&sent[0].body)["notification"]["title"], "Somebody");
    // As long as the first time.
    let ttl: u32 = sent[0].header("ttl").parse().unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");
    assert_eq!(dead(&home).len(), 0);
    let (ok, text) = run(&home, &["dead", "resend", id]);
    assert!(!ok && text.contains("no such dead letter"), "{text}");
}

#[test]
fn an_alarm_for_a_person_without_a_phone_can_be_sent_when_there_is_one() {
    let (home, service) = (Home::new(RULES), Service::start());
    let server = home.start();
    post(&server, HUMAN);
    let letter = until_dead(&home, 1).remove(0);
    assert_eq!((&letter["person"], &letter["title"]), (&json!("ben"), &json!("Somebody")));
    assert_eq!((&letter["why"], &letter["lane"]), (&json!("ben has no phone"), &json!("alarm")));
    until("counted", || (metric(&server, "portero_dead_letters") == 1.0).then_some(()));
    let id = letter["id"].as_str().unwrap();
    let (ok, text) = run(&home, &["dead", "resend", id]);
    assert!(!ok && text.contains("ben has no phone yet"), "{text}");

    server.kill();
    let _server = home.start();
    let new = phone(&service, "new", 2);
    add_phone(&home, "ben", &new);
    let (ok, text) = run(&home, &["dead", "resend", id]);
    assert!(ok && text.contains("sent again"), "{text}");
    let sent = service.wait("/new", 1);
    assert_eq!(new.open(&sent[0].body)["notification"]["title"], "Somebody");
    assert_eq!(dead(&home).len(), 0);
}

/// What the phone's service worker says when it has shown what came.
fn show(server: &Server, phone: &Phone, body: &[u8]) {
    let portero = phone.open(body)["portero"].clone();
    let receipt =
        json!({ "action": portero["action"], "token": portero["token"], "what": "shown" });
    let headers = [("Content-Type", "application/json")];
    let body = receipt.to_string();
    let answer = http::ask(server.listen, "POST", "/api/receipt", &headers, body.as_bytes());
    assert_eq!(answer.status, 204, "{}", answer.text());
}

#[test]
fn a_drill_says_of_every_phone_whether_it_was_shown() {
    let (home, service) = (Home::new(RULES), Service::start());
    let ana = phone(&service, "ana", 1);
    add_phone(&home, "ana", &ana);
    let server = home.start();
    assert!(!run(&home, &["drill", "--person", "carl"]).0);

    // Nobody reports: taken, but not shown.
    let (ok, text) = run(&home, &["drill", "--wait", "1"]);
    assert!(!ok && text.contains("not shown within 1 s"), "{text}");
    let drill = home.command(&["drill", "--person", "ana", "--wait", "20"]).spawn().unwrap();
    let sent = service.wait("/ana", 2);
    let payload = ana.open(&sent[1].body);
    assert_eq!(payload["notification"]["title"], "This is a drill");
    assert_eq!(sent[1].header("urgency"), "high");
    show(&server, &ana, &sent[1].body);
    let output = drill.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(
        text.starts_with("ana, ")
            && text.contains("accepted after")
            && text.contains("shown after"),
        "{text}"
    );

    // The page remembers, over a crash; a drill that fails is no dead letter.
    let last = phones(&home)[0]["drill"].clone();
    assert!(last["shown_after_s"].as_f64().is_some_and(|s| s < 20.0), "{last}");
    let (_, text) = run(&home, &["phone", "list"]);
    assert!(text.contains("last drill: shown after"), "{text}");
    server.kill();
    let _server = home.start();
    assert_eq!(phones(&home)[0]["drill"], last);
    let event = home.events(&["--type", "portero.drill"]).remove(1);
    assert_eq!((&event["subject"], &event["test"]), (&json!("ana"), &json!(true)), "{event}");

    service.tell("/ana", &[Does::Answers(410, "")]);
    let (ok, text) = run(&home, &["drill", "--wait", "20"]);
    assert!(!ok && text.contains("not delivered: "), "{text}");
    let (ok, text) = run(&home, &["drill", "--wait", "20"]);
    assert!(!ok && text.contains("notifications are off"), "{text}");
    within(Duration::from_secs(1), "no dead letter", || dead(&home).is_empty().then_some(()));
}
