//! The page's API and the admin address, as somebody sees them who was not invited.

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use portero::clock::Clock;
use portero::disk::OsDisk;
use portero::journal::{self, Journal};
use portero::record::{PhoneChange, Record};
use portero::secret::fingerprint;
use serde_json::{Value, json};

use crate::support::push::{Phone, Service};
use crate::support::{Home, Server, http};
use crate::{PUSH, QUIET, add_phone, call, code, movement, pair, phones, post, try_code};

const ROUTES: [(&str, &str); 12] = [
    ("GET", "/api/me"),
    ("POST", "/api/alive"),
    ("POST", "/api/subscription"),
    ("DELETE", "/api/subscription"),
    ("POST", "/api/test"),
    ("GET", "/api/timeline"),
    ("GET", "/api/timeline?before=5"),
    ("GET", "/api/stream"),
    ("GET", "/api/status"),
    ("GET", "/api/phones"),
    ("DELETE", "/api/phones/0123456789abcdef"),
    ("POST", "/api/logout"),
];

#[test]
fn without_a_session_nobody_sees_anything() {
    let home = Home::new(QUIET);
    let server = home.start();
    let session = pair(&home, &server, "ana");
    let forged = format!("portero={}", "0".repeat(64));
    let fingerprint = format!("portero={}", fingerprint(session.split_once('=').unwrap().1));
    for (method, path) in ROUTES {
        for cookie in ["", "portero=", "other=1", &forged, &fingerprint] {
            let answer = call(&server, method, path, cookie, "{}");
            assert_eq!(answer.status, 401, "{method} {path} with {cookie}");
            assert!(answer.json()["error"].is_string(), "{}", answer.text());
        }
    }
    // The session of a phone that logged out, or was removed, is worth nothing.
    let other = pair(&home, &server, "ana");
    assert_eq!(call(&server, "POST", "/api/logout", &other, "").status, 204);
    assert_eq!(call(&server, "GET", "/api/me", &other, "").status, 401);
    let id = phones(&home)[0]["id"].as_str().unwrap().to_string();
    home.run(&["phone", "remove", &id]);
    assert_eq!(call(&server, "GET", "/api/me", &session, "").status, 401);
}

#[test]
fn a_code_pairs_one_phone_once() {
    let home = Home::new(QUIET);
    let offline = code(&home, "ana");
    let server = home.start();
    assert_eq!(try_code(&server, &offline.to_lowercase()).status, 200);
    assert_eq!(try_code(&server, &offline).status, 403);
    assert_eq!(home.run(&["pair", "carl"]).status.code(), Some(1));
    // Many at once, one gets it.
    let online = code(&home, "ben");
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> =
            (0..8).map(|_| scope.spawn(|| try_code(&server, &online).status)).collect();
        tries.into_iter().map(|t| t.join().unwrap()).filter(|status| *status == 200).count()
    });
    assert_eq!((won, phones(&home).len()), (1, 2));
    server.kill();
    let server = home.start();
    assert_eq!(try_code(&server, &online).status, 403, "used up for good");
}

#[test]
fn a_code_expires() {
    let home = Home::new(QUIET);
    let invited = |code: &str, expires: &str| {
        let (person, expires) = ("ana".to_string(), expires.parse().unwrap());
        Record::Phone(PhoneChange::Invited { person, code: fingerprint(code), expires })
    };
    let records = vec![
        invited("0000000001", "2020-01-01T00:00:00Z"),
        invited("0000000002", "2099-01-01T00:00:00Z"),
    ];
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let disk = OsDisk::create(home.path("data/journal")).unwrap();
        let config = journal::Config::default();
        let (journal, _) = Journal::open(Arc::new(disk), config, Clock::system()).await.unwrap();
        journal.append(records).await.unwrap();
        journal.close().await;
    });
    let server = home.start();
    assert_eq!(try_code(&server, "0000000001").status, 403);
    assert_eq!(try_code(&server, "0000000002").status, 200);
}

#[test]
fn guessing_codes_is_slow() {
    let home = Home::new(QUIET);
    let server = home.start();
    let statuses: Vec<_> = (0..60).map(|n| try_code(&server, &format!("{n:010}")).status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 403 | 429)), "{statuses:?}");
    // Twenty a minute, and the minute may have turned.
    assert!(statuses.iter().filter(|status| **status == 403).count() <= 40, "{statuses:?}");
}

#[test]
fn the_cookie_is_out_of_reach_for_scripts_and_other_sites() {
    for (url, secure) in [("https://home.example.org", true), ("http://localhost:8080", false)] {
        let home = Home::new(QUIET);
        home.configure("workers = 2", &format!("workers = 2\npublic_url = \"{url}\""));
        let server = home.start();
        let cookie = try_code(&server, &code(&home, "ana")).header("set-cookie").to_string();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        assert!(cookie.contains("Path=/") && cookie.contains("Secure") == secure, "{cookie}");
    }
}

#[test]
fn other_sites_and_other_people_are_kept_out() {
    let home = Home::new(QUIET);
    let server = home.start();
    let [ana, ben] = ["ana", "ben"].map(|person| pair(&home, &server, person));
    let id = |cookie: &str| {
        call(&server, "GET", "/api/me", cookie, "").json()["phone"].as_str().unwrap().to_string()
    };
    let remove = |cookie: &str, id: &str| {
        call(&server, "DELETE", &format!("/api/phones/{id}"), cookie, "").status
    };
    assert_eq!(remove(&ana, &id(&ben)), 403);
    assert_eq!(remove(&ana, "nobody"), 404);
    for site in ["cross-site", "same-site"] {
        for (method, path) in ROUTES {
            let headers = [("Cookie", &*ana), ("Sec-Fetch-Site", site)];
            let answer = http::ask(server.listen, method, path, &headers, b"");
            assert_eq!(answer.status, 403, "{method} {path} from {site}");
        }
    }
    // A form of another site's cannot carry JSON.
    let headers = [("Content-Type", "text/plain")];
    let body = json!({ "code": code(&home, "ben") }).to_string();
    assert_eq!(
        http::ask(server.listen, "POST", "/api/pair", &headers, body.as_bytes()).status,
        400
    );
    let second = pair(&home, &server, "ana");
    assert_eq!(remove(&ana, &id(&second)), 204);
    assert_eq!(phones(&home).len(), 2);
}

#[test]
fn nonsense_is_refused_as_json() {
    let home = Home::new(QUIET);
    let server = home.start();
    let ana = pair(&home, &server, "ana");
    let huge = format!("{{\"code\":\"{}\"}}", "a".repeat(1_000_000));
    let deep = "[".repeat(10_000);
    for (method, path, body) in [
        ("POST", "/api/pair", ""),
        ("POST", "/api/pair", "{"),
        ("POST", "/api/pair", "{}"),
        ("POST", "/api/pair", &huge),
        ("POST", "/api/pair", &deep),
        ("POST", "/api/receipt", "[]"),
        ("POST", "/api/receipt", r#"{"action":"x","token":"y","what":"shown"}"#),
        ("POST", "/api/subscription", r#"{"endpoint":5}"#),
        ("POST", "/api/subscription", r#"{"endpoint":"x","keys":{"p256dh":"x","auth":"y"}}"#),
        ("GET", "/api/timeline?before=x", ""),
        ("GET", "/api/timeline?before=-1", ""),
        ("GET", "/api/timeline?before=99999999999999999999999", ""),
        ("GET", "/api/nothing", ""),
        ("PUT", "/api/me", ""),
    ] {
        let answer = call(&server, method, path, &ana, body);
        assert!((400..500).contains(&answer.status), "{method} {path}: {}", answer.status);
        assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.text());
    }
    let far = call(&server, "GET", "/api/timeline?before=18446744073709551615", &ana, "");
    assert_eq!(far.status, 200);
}

#[test]
fn a_receipt_needs_its_token() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let phone = Phone::new(format!("http://{}/ana", service.at), 1);
    add_phone(&home, "ana", &phone);
    let server = home.start();
    (0..2).for_each(|n| drop(post(&server, &movement(n))));
    let seen = service.wait("/ana", 2);
    let [one, two] = [&seen[0], &seen[1]].map(|seen| phone.open(&seen.body)["portero"].clone());
    let receipt = |action: &Value, token: &Value| {
        let body = json!({ "action": action, "token": token, "what": "shown" }).to_string();
        call(&server, "POST", "/api/receipt", "", &body).status
    };
    assert_eq!(receipt(&one["action"], &two["token"]), 403);
    assert_eq!(receipt(&one["action"], &"".into()), 403);
    assert_eq!(receipt(&one["action"], &"é".repeat(4000).into()), 403);
    assert_eq!(phones(&home)[0]["last_shown"], Value::Null);
    assert_eq!(receipt(&one["action"], &one["token"]), 204);
    // Answered, it is in the journal.
    server.kill();
    let server = home.start();
    assert!(phones(&home)[0]["last_shown"].is_string());
    let receipt = |portero: &Value| {
        let body =
            json!({ "action": portero["action"], "token": portero["token"], "what": "shown" });
        call(&server, "POST", "/api/receipt", "", &body.to_string()).status
    };
    // Said again, it is taken and nothing is written.
    assert_eq!(receipt(&one), 204);
    let id = phones(&home)[0]["id"].as_str().unwrap().to_string();
    assert!(home.run(&["phone", "remove", &id]).status.success());
    assert_eq!(receipt(&two), 403);
}

#[test]
fn the_pages_files_are_all_that_is_served() {
    let home = Home::new(QUIET);
    let server = home.start();
    for path in [
        "/../ui.rs",
        "/..%2fui.rs",
        "/%2e%2e/ui.rs",
        "/..%5cui.rs",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/....//....//etc/passwd",
        "/index.html%00.js",
        "/data/vapid.pk8",
        "/portero.toml",
        "/.",
        "/..",
        "/metrics",
        "/control/phones",
    ] {
        assert_eq!(http::get(server.listen, path).status, 404, "{path}");
    }
    let page = http::get(server.listen, "/");
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("set-cookie"), "", "only the demo lets anybody in");
    assert_eq!(http::ask(server.listen, "POST", "/", &[], b"").status, 405);
    let me = http::get(server.listen, "/api/me");
    assert_eq!(me.header("cache-control"), "no-store");
    assert_eq!(me.header("x-content-type-options"), "nosniff");
}

#[test]
fn control_needs_the_token_that_lies_with_the_data() {
    let home = Home::new(QUIET);
    let server = home.start();
    for (method, path) in
        [("POST", "pair"), ("GET", "phones"), ("POST", "phones"), ("DELETE", "phones/x")]
    {
        for token in ["", "Bearer ", "Bearer 0", "Basic x"] {
            let headers = [("Authorization", token), ("Content-Type", "application/json")];
            let body = json!({ "person": "ana", "name": "", "subscription": Phone::new("http://127.0.0.1/x", 1).subscription()["keys"] });
            let mut body = body;
            body["subscription"]["endpoint"] = "http://127.0.0.1/x".into();
            let path = format!("/control/{path}");
            let answer =
                http::ask(server.admin, method, &path, &headers, body.to_string().as_bytes());
            assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
        }
    }
    assert!(phones(&home).is_empty());
    let control: Value =
        serde_json::from_slice(&std::fs::read(home.path("data/control.json")).unwrap()).unwrap();
    let bearer = format!("Bearer {}", control["token"].as_str().unwrap());
    let headers = [("Authorization", &*bearer)];
    assert_eq!(http::ask(server.admin, "GET", "/control/phones", &headers, b"").status, 200);
    // Its header does not open the public address.
    assert_eq!(http::ask(server.listen, "GET", "/control/phones", &headers, b"").status, 404);
}

/// A page's stream: its connection, after the greeting.
pub fn stream(server: &Server, cookie: &str) -> BufReader<std::net::TcpStream> {
    let mut stream = http::open(server.listen).unwrap();
    write!(stream, "GET /api/stream HTTP/1.1\r\nHost: t\r\nCookie: {cookie}\r\n\r\n").unwrap();
    let mut stream = BufReader::new(stream);
    assert_eq!(http::read_head(&mut stream).unwrap().0, 200);
    next(&mut stream, "event: hello");
    stream
}

/// Reads until a line that begins so; false if the stream ends before.
pub fn next(stream: &mut BufReader<std::net::TcpStream>, wanted: &str) -> bool {
    for line in stream.lines() {
        match line {
            Ok(line) if line.starts_with(wanted) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

#[test]
fn the_stream_tells_what_happens_and_ends_with_the_phone() {
    let home = Home::new(QUIET);
    let server = home.start();
    let ana = pair(&home, &server, "ana");
    let mut open = stream(&server, &ana);
    post(&server, &movement(1));
    assert!(next(&mut open, "event: item"));
    assert_eq!(call(&server, "POST", "/api/logout", &ana, "").status, 204);
    post(&server, &movement(2));
    assert!(!next(&mut open, "event: never"), "the stream of a removed phone ends");
}

#[test]
fn nothing_secret_is_logged() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let phone = Phone::new(format!("http://{}/a-very-secret-path", service.at), 7);
    let bad = Phone::new("http://127.0.0.1:9/another-secret-path", 8);
    add_phone(&home, "ana", &phone);
    add_phone(&home, "ana", &bad);
    let server = home.start();
    let code = code(&home, "ben");
    let cookie = try_code(&server, &code).header("set-cookie").to_string();
    let cookie = cookie.split(';').next().unwrap().split_once('=').unwrap().1;
    try_code(&server, "WRONG-C0DE5");
    post(&server, &movement(1));
    crate::post_signed(&server, &movement(2), Some("00"));
    service.wait("/a-very-secret-path", 1);
    let control = std::fs::read_to_string(home.path("data/control.json")).unwrap();
    let control: Value = serde_json::from_str(&control).unwrap();
    let keys = phone.subscription();
    let (_, log) = server.terminate();
    assert!(log.contains("paired") && log.contains("push not taken"), "{log}");
    for (what, secret) in [
        ("client secret", crate::support::SECRET),
        ("endpoint", "secret-path"),
        ("cookie", cookie),
        ("code", &code),
        ("wrong code", "C0DE5"),
        ("control token", control["token"].as_str().unwrap()),
        ("phone's key", keys["keys"]["auth"].as_str().unwrap()),
        ("vapid token", "vapid t="),
    ] {
        assert!(!log.contains(secret), "the {what} is in the log:\n{log}");
    }
}
