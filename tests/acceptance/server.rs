//! Starting, stopping, and being used wrongly.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Home, Netatmo, http, until};
use crate::{PUSH, QUIET, api, kinds, movement, pair, post};

#[test]
fn what_was_answered_200_before_sigterm_is_journaled_and_decided() {
    let home = Home::new(QUIET);
    let server = home.start();
    let (to, answered, stop) = (server.listen, AtomicUsize::new(0), AtomicBool::new(false));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut netatmo = Netatmo::connect(to).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    match netatmo.post(&movement(next.fetch_add(1, Ordering::Relaxed))) {
                        Ok(200) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Ok(other) => panic!("answered {other}"),
                        // Closed after the last answer: connect again until nobody listens.
                        Err(_) => match Netatmo::connect(to) {
                            Ok(again) => netatmo = again,
                            Err(_) => return,
                        },
                    }
                }
            });
        }
        until("some load", || (answered.load(Ordering::Relaxed) > 200).then_some(()));
        let (code, log) = server.terminate();
        assert_eq!(code, Some(0), "{log}");
        stop.store(true, Ordering::Relaxed);
    });
    let journaled = kinds(&home).len();
    let answered = answered.load(Ordering::Relaxed);
    assert!(journaled >= answered, "{answered} answered, {journaled} journaled");
    let explained = String::from_utf8(home.run(&["explain", "last"]).stdout).unwrap();
    assert!(explained.contains("Decided at"), "{explained}");
}

#[test]
fn open_pages_and_idle_connections_do_not_hold_up_the_stop() {
    let home = Home::new(PUSH);
    let server = home.start();
    let cookie = pair(&home, &server, "ana");
    let mut open = api::stream(&server, &cookie);
    let idle = http::open(server.listen).unwrap();
    let mut kept = Netatmo::connect(server.listen).unwrap();
    assert_eq!(kept.post(&movement(1)).unwrap(), 200);
    let start = tokio::time::Instant::now();
    assert_eq!(server.terminate().0, Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(!api::next(&mut open, "event: never"));
    drop(idle);
    let server = home.start();
    assert_eq!(post(&server, &movement(1)).status, 200);
    assert_eq!(kinds(&home).len(), 1);
}

#[test]
fn two_servers_never_share_data_and_say_so() {
    let home = Home::new(QUIET);
    let server = home.start();
    let second = home.run(&["run"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(
        (second.status.code(), said.contains("in use by another")),
        (Some(1), true),
        "{said}"
    );
    // The first one is none the worse for it, and still reached by the command line.
    assert_eq!(post(&server, &movement(1)).status, 200);
    assert!(home.run(&["phone", "list"]).status.success());
}

#[test]
fn an_address_in_use_is_named() {
    let home = Home::new(QUIET);
    let server = home.start();
    let other = Home::new(QUIET);
    other.configure("listen = \"127.0.0.1:0\"", &format!("listen = \"{}\"", server.listen));
    let output = other.run(&["run"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&server.listen.to_string()) && said.contains("in use"), "{said}");
    assert!(!other.path("data/control.json").exists());
}

#[test]
fn wrong_use_has_its_own_code() {
    let home = Home::new(QUIET);
    for args in [&["dance"][..], &["run", "--fast"], &["phone"], &["explain"], &["pair"], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portero"));
        let output = command.args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    std::fs::remove_file(home.path("portero.toml")).unwrap();
    for args in [&["run"][..], &["check"], &["events"], &["pair", "ana"]] {
        let output = home.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {said}");
        assert!(said.contains("portero init"), "{said}");
    }
}

#[test]
fn a_missing_secret_is_named_and_nothing_starts() {
    for missing in ["{ env = \"PORTERO_TEST_NOT_THERE\" }", "{ file = \"not-there\" }"] {
        let home = Home::new(QUIET);
        home.configure(&format!("\"{}\"", crate::support::SECRET), missing);
        let output = home.run(&["run"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.to_lowercase().contains("not") && said.contains("missing"), "{said}");
        assert_eq!(home.run(&["check"]).status.code(), Some(0), "check needs no secrets");
    }
}

#[test]
fn no_complaint_about_the_config_shows_a_secret() {
    for line in [
        "home = { client_secret = \"s3cr3t\", signatur = \"off\" }",
        "home.client_secret = \"s3cr3t",
        "home.client_secret = 's3cr3t' x",
    ] {
        let home = Home::new(QUIET);
        home.write("portero.toml", &format!("[netatmo]\n{line}\n"));
        for command in ["check", "run"] {
            let output = home.run(&[command]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(said.contains("portero.toml:2:") && !said.contains("s3cr3t"), "{said}");
        }
    }
}

#[test]
fn events_are_followed_as_they_come() {
    let home = Home::new(QUIET);
    let server = home.start();
    post(&server, &movement(1));
    let mut follow = home.command(&["events", "--follow"]);
    let mut child = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        let event: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        event["data"]["camera_id"].as_str().unwrap().to_string()
    };
    assert_eq!(next(), "cam1");
    post(&server, &movement(2));
    assert_eq!(next(), "cam2");
    server.terminate();
    let server = home.start();
    post(&server, &movement(3));
    assert_eq!(next(), "cam3");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn health_and_metrics_are_on_the_admin_address_only() {
    let home = Home::new(QUIET);
    let server = home.start();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http::get(server.admin, path).status, 200, "{path}");
        assert_eq!(http::get(server.listen, path).status, 404, "{path}");
    }
    post(&server, &movement(1));
    let text = http::get(server.admin, "/metrics").text();
    for name in ["portero_webhook_seconds_count 1", "portero_journal_writable 1"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn a_stranger_in_the_data_folder_is_not_followed() {
    let home = Home::new(QUIET);
    let elsewhere = home.path("elsewhere");
    std::fs::write(&elsewhere, "mine").unwrap();
    std::fs::create_dir_all(home.path("data")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.path("data/.control.json.new")).unwrap();
    let _server = home.start();
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
    assert!(home.path("data/control.json").symlink_metadata().unwrap().is_file());
}
