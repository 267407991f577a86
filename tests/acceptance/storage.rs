//! The journal when the disk is not what it should be, and what a crash leaves owed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::push::{Does, Phone, Service};
use crate::support::{Home, http, until};
use crate::{PUSH, QUIET, add_phone, code, kinds, metric, movement, pair, phones, post, try_code};

/// One rule leads to another by an event of our own.
const CHAIN: &str = r#"
rules:
  - name: first link
    when: { type: netatmo.smoke }
    do:
      - emit: { type: house.smoke }
  - name: second link
    when: { type: house.smoke }
    do:
      - push: { to: [ana], title: "Smoke" }
"#;

#[test]
fn without_a_journal_phones_are_told_all_the_same() {
    let (home, service) = (Home::new(PUSH), Service::start());
    home.write("rules/chain.yaml", CHAIN);
    let phone = Phone::new(format!("http://{}/ana", service.at), 1);
    add_phone(&home, "ana", &phone);
    let server = home.start();
    assert_eq!(http::get(server.admin, "/readyz").status, 200);
    // Nobody can begin a segment where a file stands in the folder's place, not even root.
    let (journal, away) = (home.path("data/journal"), home.path("data/away"));
    std::fs::rename(&journal, &away).unwrap();
    std::fs::write(&journal, "").unwrap();
    for n in 0..3 {
        assert_eq!(post(&server, &movement(n)).status, 200);
        assert_eq!(post(&server, &movement(n)).status, 200, "a repeat");
    }
    let pushes = service.wait("/ana", 4);
    let mut titles: Vec<_> = pushes
        .iter()
        .map(|push| phone.open(&push.body)["notification"]["title"].as_str().unwrap().to_string())
        .collect();
    titles.sort();
    assert_eq!(titles, ["Moved: cam0", "Moved: cam1", "Moved: cam2", "portero.journal.failed"]);
    let smoke = br#"{"event_type":"smoke","push_type":"NSD-smoke","event_id":"s1","sub_type":1,"device_id":"d","home_id":"h"}"#;
    assert_eq!(post(&server, smoke).status, 200);
    let chained = phone.open(&service.wait("/ana", 5)[4].body);
    assert_eq!(chained["notification"]["title"], "Smoke");
    let ready = http::get(server.admin, "/readyz");
    assert_eq!((ready.status, ready.text().contains("journal")), (503, true));
    assert_eq!(metric(&server, "portero_journal_writable"), 0.0);
    assert_eq!(metric(&server, "portero_unjournaled_total"), 5.0);
    assert_eq!(home.run(&["health"]).status.code(), Some(1));

    std::fs::remove_file(&journal).unwrap();
    std::fs::rename(&away, &journal).unwrap();
    until("ready again", || (http::get(server.admin, "/readyz").status == 200).then_some(()));
    post(&server, &movement(0));
    post(&server, &movement(9));
    assert_eq!(kinds(&home).len(), 1, "a repeat of what was told from memory is one");
    service.wait("/ana", 6);
    let (code, log) = server.terminate();
    assert_eq!(code, Some(0));
    assert_eq!(log.matches("routed from memory").count(), 1, "{log}");
    assert_eq!(service.seen("/ana").len(), 6);
}

/// A small file system of its own, if this machine lets us have one.
struct Tiny(PathBuf);

impl Tiny {
    fn mount(at: &Path) -> Option<Tiny> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Tiny(at.to_path_buf()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_heals_when_there_is_room_again() {
    let home = Home::new(QUIET);
    let Some(_tiny) = Tiny::mount(&home.path("data")) else {
        // Not root: the test above covers all but the real thing.
        return println!("no file system can be mounted here");
    };
    let server = home.start();
    assert_eq!(post(&server, &movement(0)).status, 200);
    // It tries whether there is room for a reserve, and gives back what that took.
    let reserve = home.path("data/journal/reserve.new");
    until("no reserve", || (!reserve.exists()).then_some(()));
    let full = home.path("data/full");
    let error = std::fs::write(&full, vec![0; 4 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    for n in 1..40 {
        assert_eq!(post(&server, &movement(n)).status, 200);
    }
    assert_eq!(http::get(server.admin, "/readyz").status, 503);
    std::fs::remove_file(&full).unwrap();
    until("ready again", || (http::get(server.admin, "/readyz").status == 200).then_some(()));
    for _ in 0..2 {
        (100..140).for_each(|n| assert_eq!(post(&server, &movement(n)).status, 200));
    }
    let after = |home: &Home| {
        let events = home.events(&["--type", "netatmo.*"]);
        let cameras = events.iter().map(|e| e["data"]["camera_id"].as_str().unwrap().to_string());
        let mut cameras: Vec<_> = cameras.collect();
        cameras.sort();
        let all = cameras.len();
        cameras.dedup();
        assert_eq!(cameras.len(), all, "each is there once");
        // Some of the small ones may have found room in a last page.
        cameras.iter().filter(|camera| camera.len() == "cam100".len()).count()
    };
    assert_eq!(after(&home), 40);
    server.kill();
    let server = home.start();
    (100..140).for_each(|n| assert_eq!(post(&server, &movement(n)).status, 200));
    assert_eq!(after(&home), 40, "the index came back too");
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn what_is_owed_is_sent_after_a_crash_and_what_has_expired_is_not() {
    let rules = r#"
rules:
  - name: long
    when: { type: netatmo.movement }
    do:
      - push: { to: [ana], title: "long", ttl: 300s, tag: "long-{{ event.data.camera_id }}" }
  - name: short
    when: { type: netatmo.movement }
    do:
      - push: { to: [ben], title: "short", ttl: 1s }
"#;
    let (home, service) = (Home::new(rules), Service::start());
    service.tell("/ana", &[Does::Hangs]);
    service.tell("/ben", &[Does::Hangs]);
    let [ana, ben] = ["ana", "ben"].map(|name| {
        let phone = Phone::new(format!("http://{}/{name}", service.at), name.as_bytes()[0]);
        add_phone(&home, name, &phone);
        phone
    });
    let server = home.start();
    post(&server, &movement(1));
    let (first, _) = (service.wait("/ana", 1), service.wait("/ben", 1));
    server.kill();
    service.tell("/ana", &[Does::Answers(201, "")]);
    service.tell("/ben", &[Does::Answers(201, "")]);
    // The short one's second passes before the next start.
    let short_lived = tokio::time::Instant::now();
    until("a second and a bit", || (short_lived.elapsed().as_millis() > 1_200).then_some(()));
    let server = home.start();
    let again = service.wait("/ana", 2);
    let story = until("settled", || {
        let output = home.run(&["explain", "last"]);
        let text = String::from_utf8(output.stdout).unwrap();
        (text.contains("taken by") && text.contains("expired")).then_some(text)
    });
    assert!(story.contains("do[0] of short"), "{story}");
    assert_eq!(service.seen("/ben").len(), 1, "expired while we were away");
    let [old, new] = [&first[0], &again[1]].map(|seen| ana.open(&seen.body));
    assert_eq!(old["notification"]["tag"], "long-cam1");
    assert_eq!(old, new, "the phone can replace the one by the other");
    assert_eq!(first[0].header("topic"), again[1].header("topic"));
    assert_eq!(server.terminate().0, Some(0));
    assert_eq!(service.seen("/ana").len(), 2);
    // A third start owes nothing.
    home.start().terminate();
    assert_eq!((service.seen("/ana").len(), service.seen("/ben").len()), (2, 1));
    drop(ben);
}

#[test]
fn a_stop_waits_for_no_service_that_hangs() {
    let (home, service) = (Home::new(PUSH), Service::start());
    let phone = Phone::new(format!("http://{}/ana", service.at), 1);
    add_phone(&home, "ana", &phone);
    service.tell("/ana", &[Does::Hangs]);
    let server = home.start();
    post(&server, &movement(1));
    service.wait("/ana", 1);
    let start = tokio::time::Instant::now();
    let (code, log) = server.terminate();
    assert!(code == Some(0) && log.contains("owed=1"), "{log}");
    assert!(start.elapsed().as_secs() < 8, "{:?}", start.elapsed());
    service.tell("/ana", &[Does::Answers(201, "")]);
    let _server = home.start();
    let both = service.wait("/ana", 2);
    assert_eq!(phone.open(&both[0].body), phone.open(&both[1].body));
}

#[test]
fn the_command_line_works_after_a_crash() {
    let home = Home::new(QUIET);
    let server = home.start();
    pair(&home, &server, "ana");
    // It leaves the word where it could be reached, and somebody else may be there now.
    server.kill();
    assert!(home.path("data/control.json").exists());
    assert_eq!(phones(&home).len(), 1);
    let code = code(&home, "ben");
    let server = home.start();
    assert_eq!(try_code(&server, &code).status, 200);
    assert_eq!(phones(&home).len(), 2);
}

#[test]
fn data_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new(QUIET);
    let server = home.start();
    post(&server, &movement(1));
    let mode = |name: &str| home.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data/journal"), 0o700);
    for name in ["control.json", "vapid.pk8", "rules.json"] {
        assert_eq!(mode(&format!("data/{name}")), 0o600, "{name}");
    }
    for entry in std::fs::read_dir(home.path("data/journal")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    server.terminate();
    assert!(!home.path("data/control.json").exists());
}
