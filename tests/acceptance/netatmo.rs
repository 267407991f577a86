//! Netatmo's webhooks: every kind, every fault, every repeat, and senders who mean no good.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use portero::event::{Heard, Trust};
use portero::systems::netatmo;
use portero::systems::netatmo::session::Session;

use crate::support::{self, Home, Server, http, until, within};
use crate::{PUSH, QUIET, kinds, metric, movement, pair, post, post_signed};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/netatmo");

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FIXTURES}/{name}.json")).unwrap()
}

#[test]
fn every_fixture_is_answered_200_and_becomes_its_event() {
    let home = Home::new(QUIET);
    let server = home.start();
    // What each body reports, by the session alone: (body, type, subject) and the fact's id.
    let mut facts = BTreeMap::new();
    for entry in std::fs::read_dir(FIXTURES).unwrap() {
        let body = std::fs::read(entry.unwrap().path()).unwrap();
        assert_eq!(post(&server, &body).status, 200);
        let session = Session::new("home", &netatmo::Config::default());
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        for Heard { event, .. } in session.webhook(&body, Trust::Authentic, now) {
            let raw = String::from_utf8(body.clone()).unwrap();
            facts.insert((raw, event.kind, event.subject), event.id);
        }
    }
    let mut told = BTreeSet::new();
    for event in home.events(&["--type", "netatmo.*"]) {
        let text = |field: &str| event[field].as_str().map(String::from);
        let key = (text("raw").unwrap_or_default(), text("type").unwrap(), text("subject"));
        let id = facts.get(&key).unwrap_or_else(|| panic!("not what the body says: {event}"));
        assert!(told.insert(*id), "told twice: {event}");
        assert_eq!(text("specversion").as_deref(), Some("1.0"));
        assert_eq!(text("source").as_deref(), Some("netatmo/home"));
        assert_eq!(text("trust").as_deref(), Some("authentic"));
    }
    let missing: Vec<_> = facts.iter().filter(|(_, id)| !told.contains(*id)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Everything that must not be routed, and why it is not.
fn forgeries() -> Vec<(Vec<u8>, Option<String>, &'static str)> {
    let good = movement(1);
    let wrong = |signature: &str| Some(signature.to_string());
    let (missing, malformed, unfit) = ("missing", "64 hexadecimal digits", "does not fit");
    vec![
        (good.clone(), None, missing),
        (good.clone(), wrong(""), malformed),
        (good.clone(), wrong("not hexadecimal"), malformed),
        (good.clone(), wrong(&support::sign(b"another body")), unfit),
        (good.clone(), wrong(&support::sign(&good)[1..]), malformed),
        (good.clone(), wrong(&format!("{}00", support::sign(&good))), malformed),
        (Vec::new(), None, missing),
        (b"\xff\xfe\x00 garbage".to_vec(), None, missing),
        (vec![b'['; 60_000], wrong("00"), malformed),
        (vec![b'x'; 1_000_000], wrong("00"), "too large"),
    ]
}

#[test]
fn what_nobody_vouches_for_is_answered_200_kept_apart_and_never_routed() {
    let home = Home::new(QUIET);
    let server = home.start();
    let cookie = pair(&home, &server, "ana");
    let forgeries = forgeries();
    for (body, signature, _) in &forgeries {
        assert_eq!(post_signed(&server, body, signature.as_deref()).status, 200);
    }
    let count = forgeries.len();
    let kept = until("quarantined", || {
        Some(home.events(&["--quarantined"])).filter(|kept| kept.len() == count)
    });
    for (kept, (.., why)) in kept.iter().zip(&forgeries) {
        assert!(kept["reason"].as_str().unwrap().contains(why), "{why}: {kept}");
    }
    let line = r#"portero_quarantined_total{source="netatmo/home"}"#;
    assert_eq!(metric(&server, line), count as f64);
    let status = crate::call(&server, "GET", "/api/status", &cookie, "").json();
    assert_eq!(status["quarantine"].as_array().unwrap().len(), count);
    let sources = status["sources"].as_array().unwrap();
    let source = sources.iter().find(|source| source["source"] == "netatmo/home").unwrap();
    assert_eq!((&source["quarantined"], &source["count"]), (&count.into(), &0.into()));
    assert_eq!(kinds(&home), Vec::<String>::new());
    // The same body, signed well, is not taken for a repeat.
    assert_eq!(post(&server, &movement(1)).status, 200);
    assert_eq!(kinds(&home), ["netatmo.movement"]);
}

#[test]
fn signed_garbage_is_kept_as_an_event() {
    let home = Home::new(QUIET);
    let server = home.start();
    for body in [&b""[..], b"null", b"[1,2]", b"\x00\xff\xfe", b"{\"push_type\":", &[b'['; 9_000]] {
        assert_eq!(post(&server, body).status, 200);
    }
    assert_eq!(kinds(&home), ["netatmo.unparsable"; 6]);
    let upper = support::sign(&movement(1)).to_uppercase();
    assert_eq!(post_signed(&server, &movement(1), Some(&upper)).status, 200);
}

#[test]
fn the_config_says_how_strict_signatures_are() {
    for (mode, unsigned, forged) in [("if-present", 1, 0), ("off", 1, 1)] {
        let home = Home::new(QUIET);
        home.configure("[people.ana]", &format!("signature = \"{mode}\"\n[people.ana]"));
        let server = home.start();
        post_signed(&server, &movement(1), None);
        post_signed(&server, &movement(2), Some("00"));
        post(&server, &movement(3));
        let events = home.events(&["--type", "netatmo.*"]);
        assert_eq!(events.len(), unsigned + forged + 1, "{mode}");
        assert_eq!(events[0]["trust"], "unverified", "{mode}");
        let last = if mode == "off" { "unverified" } else { "authentic" };
        assert_eq!(events.last().unwrap()["trust"], last, "{mode}");
    }
}

#[test]
fn a_fact_counts_once_however_often_and_however_late_it_is_told() {
    let home = Home::new(QUIET);
    let call = r#"{"event_type":"incoming_call","push_type":"NDB-incoming_call","session_id":"s1","event_id":"v1","device_id":"d1","home_id":"h1"}"#;
    let frame = |kind: &str| {
        format!(
            r#"{{"push_type":"NDB-rtc","session_id":"s1","data":{{"type":"{kind}"}},"device_id":"d1","home_id":"h1"}}"#
        )
    };
    let mut bodies = vec![movement(1), movement(1), frame("offer").into_bytes()];
    bodies.extend(std::iter::repeat_n(frame("offer").into_bytes(), 5));
    bodies.push(call.into());
    bodies.extend(std::iter::repeat_n(frame("terminate").into_bytes(), 6));
    let post_all = |server: &Server| {
        bodies.iter().for_each(|body| assert_eq!(post(server, body).status, 200));
    };
    let once = ["netatmo.movement", "netatmo.ring", "netatmo.call_ended"];
    let server = home.start();
    post_all(&server);
    assert_eq!(kinds(&home), once);
    assert_eq!(metric(&server, "portero_duplicates_total"), bodies.len() as f64 - 3.0);
    server.terminate();
    let server = home.start();
    post_all(&server);
    assert_eq!(kinds(&home), once, "after a restart");
    server.kill();
    std::fs::remove_dir_all(home.path("data/index")).unwrap();
    let server = home.start();
    post_all(&server);
    assert_eq!(kinds(&home), once, "without an index");
    server.kill();
    std::fs::write(home.path("data/index/db"), "no database").unwrap();
    let server = home.start();
    post_all(&server);
    assert_eq!(kinds(&home), once, "with a damaged index");
}

#[test]
fn the_same_body_from_many_at_once_counts_once() {
    let home = Home::new(QUIET);
    let server = home.start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (0..50).for_each(|n| assert_eq!(post(&server, &movement(n)).status, 200))
            });
        }
    });
    assert_eq!(kinds(&home).len(), 50);
}

#[test]
fn only_the_right_address_and_method_is_a_webhook() {
    let home = Home::new(QUIET);
    let server = home.start();
    let ask = |method: &str, path: &str| http::ask(server.listen, method, path, &[], b"").status;
    for path in ["/hooks/netatmo/other", "/hooks/netatmo/", "/hooks/netatmo/home/x", "/hooks"] {
        let status = ask("POST", path);
        assert!(matches!(status, 404 | 405), "{path}: {status}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        assert_eq!(ask(method, "/hooks/netatmo/home"), 405, "{method}");
    }
    assert_eq!(http::get(server.admin, "/hooks/netatmo/home").status, 404);
}

#[test]
fn a_body_that_lies_about_itself_is_answered_200() {
    let home = Home::new(QUIET);
    let server = home.start();
    let head = "POST /hooks/netatmo/home HTTP/1.1\r\nHost: t\r\n";
    let chunk = format!("ffff\r\n{}\r\n", "y".repeat(65_535)).repeat(16);
    for (request, why) in [
        (format!("{head}Content-Length: 5000000000\r\n\r\nabc"), "too large"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"), "too large"),
    ] {
        assert_eq!(http::raw(server.listen, request.as_bytes()).unwrap().status, 200, "{why}");
    }
    // One that says more than it sends, and hangs up.
    let mut stream = http::open(server.listen).unwrap();
    write!(stream, "{head}Content-Length: 100\r\n\r\nabc").unwrap();
    drop(stream);
    until("all three are kept apart", || {
        Some(home.events(&["--quarantined"])).filter(|kept| kept.len() == 3)
    });
    // A good one may come in pieces.
    let (body, signature) = (movement(1), support::sign(&movement(1)));
    let (left, right) = std::str::from_utf8(&body).unwrap().split_at(9);
    let chunks = format!("9\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n", right.len());
    let head = format!("{head}X-NETATMO-SECRET: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(http::raw(server.listen, (head + &chunks).as_bytes()).unwrap().status, 200);
    assert_eq!(kinds(&home), ["netatmo.movement"]);
}

#[test]
fn slow_senders_and_idle_connections_shut_nobody_out() {
    let home = Home::new(PUSH);
    let server = home.start();
    let before = server.memory_kib();
    let open = |text: &'static str| {
        let mut stream = http::open(server.listen).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let body = "POST /hooks/netatmo/home HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{";
    let head = "POST /hooks/netatmo/home HTTP/1.1\r\nHost: t\r\nX-A: ";
    let slow: Vec<TcpStream> = (0..250).map(|_| open(body)).collect();
    let held: Vec<TcpStream> = (0..250).flat_map(|_| [open(head), open("")]).collect();
    for n in 0..20 {
        assert_eq!(post(&server, &movement(n)).status, 200);
    }
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB for 750 connections");
    // The slow ones are answered in the end, and are no reason to fear a ban.
    for stream in slow {
        assert_eq!(http::read(&mut BufReader::new(stream)).unwrap().status, 200);
    }
    for stream in held {
        let answer = http::read(&mut BufReader::new(stream));
        assert!(answer.is_err() || answer.unwrap().status == 408);
    }
    assert!(home.events(&["--type", "portero.*"]).is_empty());
    assert_eq!(kinds(&home).len(), 20);
}

#[test]
fn a_wrong_secret_is_noticed() {
    let home = Home::new(PUSH);
    let server = home.start();
    (0..6).for_each(|n| drop(post_signed(&server, &movement(n), Some("00"))));
    until("said", || {
        let said = home.events(&["--type", "portero.*"]);
        let kinds: Vec<_> = said.iter().map(|event| event["type"].clone()).collect();
        (kinds == ["portero.netatmo.bad_signatures"]).then_some(())
    });
}

#[test]
fn a_flood_of_forgeries_does_not_fill_the_disk() {
    let home = Home::new(QUIET);
    let server = home.start();
    let mut netatmo = support::Netatmo::connect(server.listen).unwrap();
    for n in 0..2_000 {
        let status = netatmo.post_signed(&movement(n), Some("00")).unwrap();
        assert_eq!(status, 200);
    }
    let kept = home.events(&["--quarantined"]).len();
    // Thirty a minute, and the minute may have turned.
    assert!(kept <= 60, "{kept}");
    assert_eq!(metric(&server, "portero_quarantined_total"), 2_000.0);
}

#[test]
fn few_allowed_files_do_not_keep_the_journal_from_being_written() {
    let home = Home::new(QUIET);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""]);
    command.arg(env!("CARGO_BIN_EXE_portero")).args(["run", "--config"]);
    command.arg(home.path("portero.toml")).env("NO_COLOR", "1").env_remove("RUST_LOG");
    let server = home.start_by(command);
    let idle: Vec<TcpStream> = (0..400).map(|_| http::open(server.listen).unwrap()).collect();
    let answer = within(Duration::from_secs(25), "answered", || {
        Some(post(&server, &movement(1))).filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.status, 200);
    drop(idle);
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0));
    assert!(!log.contains("Too many open files"), "{log}");
}

#[test]
fn the_example_fixture_of_a_ring_reads_well() {
    let home = Home::new(QUIET);
    let server = home.start();
    post(&server, &fixture("incoming_call"));
    let ring = home.events(&["-n", "1"]).remove(0);
    assert_eq!(
        (ring["type"].as_str(), ring["data"]["via"].as_str()),
        (Some("netatmo.ring"), Some("incoming_call"))
    );
    assert!(ring["data"]["snapshot_url"].as_str().unwrap().starts_with("https://"), "{ring}");
}
