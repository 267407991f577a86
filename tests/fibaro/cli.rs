//! `portero fibaro …` at a terminal, with and without a running server.

use std::io::Write as _;
use std::process::Output;

use portero::systems::fibaro::sim::{PASS, Sim, USER};
use portero::systems::tls;
use serde_json::{Value, json};

use super::support::{Home, within};

fn home(sim: &Sim) -> Home {
    let home = Home::new("rules: []");
    let section = format!(
        "[fibaro.gate]\nurl = \"{}\"\nuser = \"{USER}\"\npass = \"{PASS}\"\n[people.ana]",
        sim.url()
    );
    home.configure("[people.ana]", &section);
    home
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installer_at_the_terminal() {
    let sim = Sim::start().await.unwrap();
    let home = home(&sim);
    let fibaro = |args: &[&str]| told(&home.run(&[&["fibaro"], args].concat()));
    assert_eq!(fibaro(&[]), (Some(0), "gate\n".into(), String::new()));
    let (code, list, _) = fibaro(&["gate"]);
    assert_eq!(code, Some(0));
    assert!(list.contains("\nrelay.open relay=… [timeout=…]\n"), "{list}");
    let (code, _, error) = fibaro(&["gat"]);
    assert!(code == Some(1) && error.contains("did you mean `gate`?"), "{error}");
    let (code, _, error) = fibaro(&["gate", "relay.open", "relay=0"]);
    assert!(code == Some(1) && error.contains("no portero runs"), "{error}");

    let server = home.start();
    within(std::time::Duration::from_secs(20), "a login", || (sim.logged_in() > 0).then_some(()));
    assert_eq!(fibaro(&["gate", "relay.open", "relay=1", "timeout=3s"]).0, Some(0));
    assert_eq!(sim.truth().relays[1].openings, 1);
    let (code, mode, _) = fibaro(&["gate", "day_night.mode"]);
    assert_eq!(code, Some(0));
    assert_eq!(serde_json::from_str::<Value>(&mode).unwrap(), json!({ "mode": "auto" }));
    let (code, _, error) = fibaro(&["gate", "relay.open", "relay=2"]);
    assert!(code == Some(1) && error.contains("from 0 to 1"), "{error}");
    sim.behave(|manners| manners.lacks = ["day_night.luminosity"].into());
    let (code, _, error) = fibaro(&["gate", "day_night.luminosity"]);
    assert!(code == Some(1) && error.contains("this intercom lacks it"), "{error}");

    // Secrets come from a file, or by standard input; they are in no log and no journal.
    let (code, _, error) = fibaro(&["gate", "users.add", "user=ana", "pass=", "pin=4711"]);
    assert!(code == Some(1) && error.contains("pin=@env:NAME") && !error.contains("4711"));
    home.write("pin", "4711\n");
    home.write("pass", "a word for ana\n");
    let given = ["pin", "pass"].map(|name| format!("{name}=@file:{}", home.path(name).display()));
    let added = fibaro(&["gate", "users.add", "user=ana", &given[0], &given[1]]);
    assert_eq!((added.0, added.1.trim()), (Some(0), "0"), "{}", added.2);
    let ana = sim.truth().users[1].clone();
    assert_eq!((ana.pin.as_str(), ana.pass.as_str()), ("4711", "a word for ana"));
    let (code, users, _) = fibaro(&["gate", "users.list"]);
    assert!(code == Some(0) && users.contains("ana") && !users.contains("4711"), "{users}");
    let (_, log) = server.terminate();
    assert!(!log.contains("a word for ana") && !log.contains(PASS));
    for entry in std::fs::read_dir(home.path("data/journal")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in ["a word for ana", "\"4711\"", PASS] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} is in the journal");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_asked_for_and_a_certificate_is_trusted_while_nothing_runs() {
    let sim = Sim::start().await.unwrap();
    let home = home(&sim);
    let server = home.start();
    within(std::time::Duration::from_secs(20), "a login", || (sim.logged_in() > 0).then_some(()));
    let mut asked = home
        .command(&["fibaro", "gate", "users.change", "user=portero", "pin=?"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    asked.stdin.take().unwrap().write_all(b"8642\n").unwrap();
    assert_eq!(asked.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(sim.truth().users[0].pin, "8642");
    server.terminate();

    let fingerprint = tls::show(&sim.change_certificate().unwrap());
    let given = format!("fingerprint={fingerprint}");
    let (code, shown, error) = told(&home.run(&["fibaro", "gate", "trust", &given]));
    assert!(code == Some(0) && shown.contains(&fingerprint), "{error}");
    let server = home.start();
    within(std::time::Duration::from_secs(20), "a login", || (sim.logged_in() > 0).then_some(()));
    server.terminate();
}
