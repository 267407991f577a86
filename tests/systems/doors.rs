//! Doors through the real binary: what opens and how often, counted by the far side; and all that
//! must not.

use std::time::Duration;

use portero::clock::Clock;
use portero::secret::Secret;
use portero::systems::fibaro::sim::Sim;
use portero::systems::vms::sim::{LOGIN, Mischief, PASSWORD, Sim as Vms};
use serde_json::{Value, json};

use super::Estate;
use super::support::{Netatmo, http, within};

/// A bell that opens the gate, and signed webhooks that open what takes them.
const RULES: &str = r#"
rules:
  - name: the bell opens
    when: { type: fibaro.button, data: { button: 1 } }
    do: [ { open: { door: front, for: 300ms } } ]
  - name: a known face opens the side door
    when: { type: netatmo.person }
    do: [ { open: { door: side } } ]
"#;

/// The same for a block with a VMS.
const LOBBY: &str = r#"
rules:
  - name: the lobby opens to whoever rings
    when: { type: vms.ring }
    do: [ { open: lobby } ]
"#;

fn section(sim: &Sim) -> String {
    format!(
        "[fibaro.gate]\nurl = \"{}\"\nuser = \"portero\"\npass = \"open sesame\"\n\
         [doors.front]\ntitle = \"Front gate\"\nfibaro = {{ intercom = \"gate\", relay = 0 }}\n\
         [doors.side]\nfibaro = {{ relay = 1 }}\nrequires = \"authentic\"\n",
        sim.url()
    )
}

async fn gate(sim: &Sim) -> Estate {
    let estate = Estate::start_with(&section(sim), RULES);
    estate.until_up("fibaro/gate");
    estate
}

fn opened(sim: &Sim, relay: usize) -> u64 {
    sim.truth().relays[relay].openings
}

/// All events about doors, as words.
fn steps(estate: &Estate) -> Vec<String> {
    let events = estate.home.events(&[]);
    let kind = |event: &Value| event["type"].as_str().map(str::to_string);
    let doors = events.iter().filter_map(kind);
    doors.filter_map(|kind| kind.strip_prefix("portero.door.").map(str::to_string)).collect()
}

fn until_steps(estate: &Estate, wanted: &[&str]) {
    let mut last = Vec::new();
    within(super::PATIENCE, &format!("{wanted:?}"), || {
        last = steps(estate);
        (last == wanted).then_some(())
    });
}

fn open(estate: &Estate, door: &str) -> (bool, String) {
    let output = estate.home.run(&["open", door]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_opens_once_for_one_bell_and_is_read_back() {
    let sim = Sim::start().await.unwrap();
    let estate = gate(&sim).await;
    sim.ring(1);
    let told = estate.until_events("portero.door.confirmed", 1);
    assert_eq!(opened(&sim, 0), 1);
    let (data, subject) = (&told[0]["data"], &told[0]["subject"]);
    assert_eq!(
        (subject, &data["by"], &data["rule"]),
        (&json!("front"), &json!("rule"), &json!("the bell opens"))
    );
    assert!(data["ms"].as_u64().unwrap() < 10_000, "{data}");
    assert_eq!(data["event"], estate.events("fibaro.button")[0]["id"]);
    until_steps(&estate, &["commanded", "confirmed"]);
    let timed = sim.received("relay.open");
    assert_eq!(timed[0]["timeout"], 300, "{timed:?}");
    assert_eq!(estate.metric("portero_doors_total{door=\"front\",outcome=\"confirmed\"}"), 1.0);
    // A person at the gate's own keypad is somebody else.
    let again = Duration::from_secs(11);
    tokio::time::sleep(again).await;
    sim.turn(0, true, "PIN-ENTERED", "ben");
    let told = estate.until_events("portero.door.opened_elsewhere", 1);
    assert_eq!(told[0]["data"]["user"], "ben");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_opens_and_is_told_how_it_went() {
    let sim = Sim::start().await.unwrap();
    let estate = gate(&sim).await;
    assert_eq!(open(&estate, "front"), (true, "confirmed\n".into()));
    assert_eq!(opened(&sim, 0), 1);
    until_steps(&estate, &["pressed", "commanded", "confirmed"]);
    let (done, text) = open(&estate, "frnt");
    assert!(!done && text.contains("did you mean `front`?"), "{text}");
    // The system's own command would go past the door's rules.
    let ask = json!({ "to": "fibaro/gate", "call": "relay.open", "args": { "relay": 0 } });
    let answer = estate.post(&ask);
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("portero open front"), "{}", answer.text());
    sim.behave(|manners| {
        manners.mute.insert("relay.open");
    });
    // The answer never comes, but the relay says itself that it opened.
    assert_eq!(open(&estate, "side"), (true, "confirmed\n".into()));
    assert_eq!((opened(&sim, 0), opened(&sim, 1)), (1, 1));
    let list = estate.home.run(&["open"]);
    assert_eq!(String::from_utf8(list.stdout).unwrap(), "front\tFront gate\nside\tside\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_for_a_webhook_unless_the_door_chose_to() {
    let sim = Sim::start().await.unwrap();
    let estate = gate(&sim).await;
    let mut netatmo = Netatmo::connect(estate.server().listen).unwrap();
    let body = |id: &str| {
        json!({ "user_id": "u", "home_id": "h1", "camera_id": "70:ee:50:00:00:01", "event_id": id,
                "event_type": "person", "push_type": "NACamera-person",
                "persons": [{ "id": "p1", "is_known": true }] })
        .to_string()
    };
    assert_eq!(netatmo.post(body("e1").as_bytes()).unwrap(), 200);
    until_steps(&estate, &["commanded", "confirmed"]);
    assert_eq!((opened(&sim, 0), opened(&sim, 1)), (0, 1));
    // Caught and sent again, it is the same fact.
    assert_eq!(netatmo.post(body("e1").as_bytes()).unwrap(), 200);
    // A rule for the other door is refused before it is in force.
    let bad = RULES.replace("door: side", "door: front");
    estate.home.write("rules/rules.yaml", &bad);
    estate.until_events("portero.rules.rejected", 1);
    let check = estate.home.run(&["check"]);
    let text = String::from_utf8(check.stderr).unwrap() + &String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("netatmo.person from netatmo/home (authentic)"), "{text}");
    assert_eq!((opened(&sim, 0), opened(&sim, 1)), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_caught_up_or_too_often_stays_shut_and_is_told() {
    let sim = Sim::start().await.unwrap();
    let sections = section(&sim).replace("relay = 0 }", "relay = 0 }\nmax_rate = \"2/min\"");
    let estate = Estate::start_with(&sections, RULES);
    estate.until_up("fibaro/gate");
    for count in 1..=2 {
        sim.ring(1);
        estate.until_events("portero.door.confirmed", count);
    }
    sim.ring(1);
    let told = estate.until_events("portero.door.refused", 1);
    assert!(told[0]["data"]["why"].as_str().unwrap().contains("at most 2/min"), "{told:?}");
    assert_eq!(opened(&sim, 0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_intercom_is_away_a_door_is_refused_at_once_and_never_later() {
    let sim = Sim::start().await.unwrap();
    let mut estate = gate(&sim).await;
    sim.go_away(true);
    estate.until_down("fibaro/gate");
    let (done, text) = open(&estate, "front");
    assert!(!done && text.contains("refused"), "{text}");
    sim.go_away(false);
    estate.until_up("fibaro/gate");
    estate.restart();
    estate.until_up("fibaro/gate");
    assert_eq!(opened(&sim, 0), 0);
    until_steps(&estate, &["pressed", "refused"]);
}

/// What a stopped process did not read is new by its own stamp, and nobody knows how old it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_bell_that_waited_while_portero_stood_still_opens_nothing() {
    /// Above what counts as load.
    const STANDS_STILL: Duration = Duration::from_secs(4);
    /// Above the time for which doubt goes on after that.
    const DRAINS: Duration = Duration::from_secs(3);
    let sim = Sim::start().await.unwrap();
    let estate = gate(&sim).await;
    estate.server().signal("-STOP");
    sim.ring(1);
    tokio::time::sleep(STANDS_STILL).await;
    estate.server().signal("-CONT");
    let told = estate.until_events("portero.door.refused", 1);
    let why = told[0]["data"]["why"].as_str().unwrap();
    assert!(why.contains("stood still"), "{why}");
    assert_eq!(opened(&sim, 0), 0);
    tokio::time::sleep(DRAINS).await;
    estate.until_up("fibaro/gate");
    sim.ring(1);
    estate.until_events("portero.door.confirmed", 1);
    assert_eq!((opened(&sim, 0), steps(&estate)[0].as_str()), (1, "refused"));
}

/// A process that dies with a pulse on its way knows nothing of it afterwards: says so, and does
/// not try again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_around_the_pulse_it_is_unknown_and_never_sent_again() {
    let sim = Sim::start().await.unwrap();
    let mut estate = gate(&sim).await;
    // The answer never comes, so that there is always an intent without an outcome.
    sim.behave(|manners| {
        manners.mute.insert("relay.open");
    });
    for round in 0..10u64 {
        let (before, intents) = (opened(&sim, 0), estate.events("fibaro.button").len());
        sim.ring(1);
        // From right after the bell is durable to well after the pulse has left.
        within(super::PATIENCE, "the bell", || {
            (estate.events("fibaro.button").len() > intents).then_some(())
        });
        tokio::time::sleep(Duration::from_millis(round * 12)).await;
        estate.crash();
        let unknown = usize::try_from(round).unwrap() + 1;
        within(super::PATIENCE, "what became of it", || {
            let steps = steps(&estate);
            let ended = steps.iter().filter(|step| ["unknown", "refused"].contains(&step.as_str()));
            (ended.count() == unknown).then_some(())
        });
        estate.until_up("fibaro/gate");
        let pulses = opened(&sim, 0) - before;
        assert!(pulses <= 1, "round {round}: {pulses} pulses for one bell");
    }
    let total = opened(&sim, 0);
    estate.restart();
    estate.until_up("fibaro/gate");
    assert_eq!(opened(&sim, 0), total);
    // The relay may say afterwards that it opened; that is ours, and nobody else's.
    let known = ["unknown", "refused", "confirmed"];
    assert!(steps(&estate).iter().all(|step| known.contains(&step.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_the_answer_of_a_pulse_on_its_way() {
    let sim = Sim::start().await.unwrap();
    let mut estate = gate(&sim).await;
    sim.ring(1);
    estate.until_events("portero.door.commanded", 1);
    let log = estate.stop();
    assert!(!log.contains("ERROR"), "{log}");
    estate.go_on();
    estate.until_up("fibaro/gate");
    assert_eq!(opened(&sim, 0), 1);
    assert_eq!(estate.events("portero.door.unknown"), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercom_of_a_vms_opens_once_and_stays_commanded() {
    let sim = Vms::start(Clock::system()).await.unwrap();
    let intercom = *sim.truth().keys().next().unwrap();
    let sections = format!(
        "[vms.block]\nurl = \"{}\"\nlogin = \"{LOGIN}\"\npassword = \"{PASSWORD}\"\n\
         poll = \"200ms\"\npoll_calls = \"200ms\"\n\
         [doors.lobby]\nvms = {{ intercom = {intercom} }}\n",
        sim.url()
    );
    let estate = Estate::start_with(&sections, LOBBY);
    estate.until_up("vms/block");
    estate.until_value(&format!("vms/block/intercom/{intercom}"), |known| !known.is_null());
    sim.ring(intercom);
    until_steps(&estate, &["commanded"]);
    assert_eq!(sim.opened(), [intercom]);
    // It arrives, and the answer is lost: nobody knows, and nobody tries again.
    sim.misbehave(Mischief::Drop, "open-door", 1);
    let (done, text) = open(&estate, "lobby");
    assert!(!done && text.contains("unknown"), "{text}");
    assert_eq!(sim.opened(), [intercom, intercom]);
    // A ring that is told of late is none.
    sim.ring_since(intercom, jiff::SignedDuration::from_mins(2));
    estate.until_events("vms.ring", 2);
    within(super::PATIENCE, "the refusal", || {
        (steps(&estate).last().is_some_and(|last| last == "refused")).then_some(())
    });
    assert_eq!(sim.opened().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_control_token_opens_from_the_terminal() {
    let sim = Sim::start().await.unwrap();
    let estate = gate(&sim).await;
    let headers = [("authorization", "Bearer wrong"), ("content-type", "application/json")];
    let path = "/control/doors/front/open";
    let answer = http::ask(estate.server().admin, "POST", path, &headers, b"null");
    assert_eq!(answer.status, 403);
    for path in ["/api/doors", "/api/doors/front/ask", "/api/doors/front/open"] {
        let method = if path == "/api/doors" { "GET" } else { "POST" };
        let headers = [("content-type", "application/json")];
        let answer = http::ask(estate.server().listen, method, path, &headers, b"{\"token\":\"\"}");
        assert_eq!(answer.status, 401, "{path}");
    }
    assert_eq!(opened(&sim, 0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_netatmo_opens_by_the_clouds_word() {
    use portero::systems::netatmo::api::sim::{CLIENT_ID, REFRESH_TOKEN, Sim as Cloud, ids};
    let sim = Cloud::start_with(Clock::system(), Secret::new(super::support::SECRET)).unwrap();
    let sections = format!(
        "client_id = \"{CLIENT_ID}\"\nrefresh_token = \"{REFRESH_TOKEN}\"\napi = \"{}\"\n\
         [doors.street]\nnetatmo = {{ module = \"{}\" }}\n",
        sim.url(),
        ids::LOCK,
    );
    let estate = Estate::start_with(&sections, "rules: []\n");
    sim.deliver_to(estate.server().listen);
    estate.until_up("netatmo/home");
    estate.until_value(&format!("netatmo/home/module/{}", ids::LOCK), |known| !known.is_null());
    assert_eq!(open(&estate, "street"), (true, "commanded\n".into()));
    let unlocks = sim.commands();
    let unlocks = unlocks.iter().filter(|c| c.body["home"]["modules"][0].get("lock").is_some());
    assert_eq!(unlocks.count(), 1);
    until_steps(&estate, &["pressed", "commanded"]);
}
