//! The VMS.

use std::collections::BTreeSet;

use portero::clock::Clock;
use portero::systems::vms::sim::{LOGIN, Mischief, PASSWORD, Sim};
use portero::systems::vms::{COMMANDS, TYPES};
use serde_json::{Value, json};
use url::Url;

use super::front::Front;
use super::{Estate, NOTES, PATIENCE, sample};
use crate::support::within;

fn section(sim: &Sim) -> String {
    section_at(&sim.url())
}

fn section_at(url: &Url) -> String {
    format!(
        "[vms.block]\nurl = \"{url}\"\nlogin = \"{LOGIN}\"\npassword = \"{PASSWORD}\"\n\
         poll = \"200ms\"\npoll_calls = \"200ms\"\n"
    )
}

/// Waits until every intercom is known as it is, to the last field.
fn until_exact(estate: &Estate, sim: &Sim) {
    within(PATIENCE, "the mirror", || {
        let truth = sim.truth();
        let known = estate.state("vms/block/intercom");
        let same = |(id, fields): (&u64, &serde_json::Map<String, Value>)| {
            known.get(&format!("vms/block/intercom/{id}")) == Some(&Value::Object(fields.clone()))
        };
        (known.len() == truth.len() && truth.iter().all(same)).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_an_intercom_and_every_call_reaches_a_rule() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let ids: Vec<String> = sim.truth().keys().map(u64::to_string).collect();
    let named = format!("intercoms = [{}, 999]\n", ids.join(", "));
    let estate = Estate::start(&(section(&sim) + &named));
    estate.until_up("vms/block");
    let intercom = *sim.truth().keys().next().unwrap();
    estate.until_value(&format!("vms/block/intercom/{intercom}"), |known| !known.is_null());
    sim.set(intercom, "is_online", false);
    estate.until_told("vms.intercom.offline");
    sim.set(intercom, "is_online", true);
    estate.until_told("vms.intercom.online");
    sim.set(intercom, "is_enabled", false);
    estate.until_told("vms.intercom.disabled");
    sim.set(intercom, "is_enabled", true);
    estate.until_told("vms.intercom.enabled");
    sim.set(intercom, "title", "Back door");
    estate.until_told("vms.intercom.renamed");
    sim.add(999, "New gate");
    estate.until_told("vms.intercom.appeared");
    sim.remove(999);
    estate.until_told("vms.intercom.gone");
    let call = sim.ring(intercom);
    estate.until_told("vms.ring");
    sim.step(call, "answered");
    estate.until_told("vms.call.answered");
    sim.step(call, "ended");
    estate.until_told("vms.call.ended");
    let call = sim.ring(intercom);
    estate.until_events("vms.ring", 2);
    sim.step(call, "missed");
    estate.until_told("vms.call.missed");
    let told: BTreeSet<String> = estate.state("told").keys().cloned().collect();
    let missing = |kind: &&&str| !told.contains(&format!("told/{kind}"));
    let missing: Vec<_> = TYPES.iter().filter(missing).collect();
    // That one needs a certificate; it is told below.
    assert_eq!(missing, [&"vms.certificate_changed"]);
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_opens_once_and_only_where_it_may() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("vms/block");
    let ids: Vec<u64> = sim.truth().keys().copied().collect();
    estate.until_value(&format!("vms/block/intercom/{}", ids[1]), |known| !known.is_null());
    sim.set(ids[1], "is_open_door_app", false);
    estate.until_value(&format!("vms/block/intercom/{}", ids[1]), |intercom| {
        intercom["is_open_door_app"] == false
    });
    estate.done("vms/block", "open_door", json!({ "intercom": ids[0] }));
    assert_eq!(sim.opened(), [ids[0]]);
    let answer = estate.tell("vms/block", "open_door", json!({ "intercom": ids[1] }));
    assert_eq!(answer["outcome"], "refused", "{answer}");
    // It arrives, and the answer is lost: nobody knows, and nobody tries again.
    sim.misbehave(Mischief::Drop, "open-door", 1);
    let answer = estate.tell("vms/block", "open_door", json!({ "intercom": ids[0] }));
    assert_eq!(answer["outcome"], "unknown", "{answer}");
    assert_eq!(sim.opened(), [ids[0], ids[0]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_vms() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let front = Front::start(sim.url().port().unwrap()).await;
    let url = format!("https://localhost:{}", front.port).parse().unwrap();
    let section = section_at(&url) + "certificate = \"pin-first\"\n";
    let estate = Estate::start(&section);
    estate.until_up("vms/block");
    until_exact(&estate, &sim);
    let call = sim.ring(181);
    estate.until_told("vms.ring");
    let given = json!({ "intercom": "180", "title": "Street door", "enabled": false, "id": call,
        "timetable": { "days": [], "intervals": [] } });
    let call = format!("GET /api/v1/intercom/calls/{call}");
    for spec in COMMANDS {
        let end = match spec.name {
            "open_door" => "POST /api/v1/intercom/180/open-door",
            "rename" | "enable" | "timetable" => "PATCH /api/v1/intercom/180",
            "intercoms" => "GET /api/v1/intercom",
            "calls" => "GET /api/v1/intercom/calls",
            "call" => &call,
            "events" => "GET /api/v1/intercom/events",
            "trust_certificate" => {
                let fingerprint = front.change_certificate();
                // An open connection goes on being trusted; a new one is looked at.
                sim.stop().await;
                let _sim = sim.restart().await.unwrap();
                estate.until_told("vms.certificate_changed");
                estate.done("vms/block", spec.name, json!({ "fingerprint": fingerprint }));
                estate.until_up("vms/block");
                continue;
            }
            other => panic!("{other} is new: give it here"),
        };
        let count = || {
            let received = sim.received();
            received.iter().filter(|r| format!("{} {}", r.method, r.path) == end).count()
        };
        let before = count();
        estate.done("vms/block", spec.name, sample(spec, &given));
        let came = count() - before;
        let is_polled = matches!(spec.name, "intercoms" | "calls" | "call");
        assert!(came == 1 || (is_polled && came > 0), "{}: {came}", spec.name);
    }
    let door = &sim.truth()[&180];
    assert_eq!((&door["title"], &door["is_enabled"]), (&json!("Street door"), &json!(false)));
    assert_eq!(door["timetable"], json!({ "days": [], "intervals": [] }));
    assert_eq!(sim.opened(), [180]);
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_opens_the_door_where_somebody_rings() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let rules = format!(
        "{NOTES}  - name: porter
    when: {{ type: vms.ring }}
    do:
      - vms: {{ site: block, call: open_door, intercom: \"{{{{ event.subject }}}}\", ttl: 5s }}
"
    );
    let estate = Estate::start_with(&section(&sim), &rules);
    estate.until_up("vms/block");
    until_exact(&estate, &sim);
    sim.ring(181);
    within(PATIENCE, "the door", || (sim.opened() == [181]).then_some(()));
    // Who rang while nobody listened may have gone long ago.
    let mut estate = estate;
    estate.stop();
    sim.ring_since(180, jiff::SignedDuration::from_mins(5));
    estate.go_on();
    let rings = estate.until_events("vms.ring", 2);
    assert_eq!(rings[1]["caughtup"], true, "{rings:?}");
    until_exact(&estate, &sim);
    assert_eq!(sim.opened(), [181]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mischief_is_survived_with_every_ring_told_once() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let mut estate = Estate::start(&section(&sim));
    estate.until_up("vms/block");
    until_exact(&estate, &sim);
    let mischiefs = [
        Mischief::Drop,
        Mischief::Expired,
        Mischief::PageExpired,
        Mischief::Throttle(1),
        Mischief::Maintenance(1),
        Mischief::ErrorPage,
        Mischief::LoginPage,
        Mischief::Garbage,
        Mischief::WrongShape,
        Mischief::WrongTypes,
        Mischief::Duplicates,
        Mischief::Reversed,
        Mischief::Wrapped,
        Mischief::Nulls,
        Mischief::OddTimes,
        Mischief::Moved,
    ];
    for (n, mischief) in mischiefs.into_iter().enumerate() {
        let times = if mischief == Mischief::Expired { 1 } else { 3 };
        sim.misbehave(mischief, "/intercom", times);
        let call = sim.ring(180);
        sim.set(181, "title", format!("Garage {n}"));
        let rings = estate.until_events("vms.ring", n + 1);
        assert_eq!(rings.len(), n + 1, "{mischief:?}");
        sim.step(call, "answered");
        estate.until_events("vms.call.answered", n + 1);
        sim.behave();
        until_exact(&estate, &sim);
    }
    assert_eq!(estate.events("vms.intercom.gone").len(), 0);
    let rings = mischiefs.len();
    // A crash tells nothing twice and misses nothing.
    estate.crash();
    sim.ring(181);
    estate.until_events("vms.ring", rings + 1);
    until_exact(&estate, &sim);
    assert_eq!(estate.events("vms.ring").len(), rings + 1);
    // The session is kept, so that logins do not add up.
    assert_eq!((sim.sessions(), sim.count("POST", "/token")), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_vms_is_found_within_a_minute() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    let estate = Estate::start(&section(&sim));
    estate.until_up("vms/block");
    until_exact(&estate, &sim);
    sim.misbehave(Mischief::HalfOpen, "/api", usize::MAX);
    sim.set(180, "title", "Not heard");
    estate.until_down("vms/block");
    sim.behave();
    estate.until_up("vms/block");
    until_exact(&estate, &sim);
}
