//! EMM.

use std::time::Duration;

use portero::systems::emm::sim::{Form, Options, PASSWORD, Sim, USERNAME};
use portero::systems::emm::{COMMANDS, TYPES};
use serde_json::{Value, json};
use url::Url;

use super::front::Front;
use super::{Estate, NOTES, PATIENCE};
use crate::support::within;

fn section(url: &Url, more: &str) -> String {
    format!(
        "[emm.block]\nurl = \"{url}\"\nusername = \"{USERNAME}\"\npassword = \"{PASSWORD}\"\n\
         poll = \"200ms\"\n{more}\n"
    )
}

/// A simulator and a house that has talked with it.
fn connected() -> (Sim, Estate) {
    let sim = Sim::start().unwrap();
    let estate = Estate::start(&section(&sim.url(), ""));
    settled(&estate, &sim);
    (sim, estate)
}

/// Behind a certificate of its own.
async fn connected_by_tls() -> (Sim, Front, Estate) {
    let sim = Sim::start().unwrap();
    let front = Front::start(sim.url().port().unwrap()).await;
    let mut url = sim.url();
    url.set_scheme("https").unwrap();
    url.set_host(Some("localhost")).unwrap();
    url.set_port(Some(front.port)).unwrap();
    let estate = Estate::start(&section(&url, "certificate = \"pin-first\""));
    settled(&estate, &sim);
    (sim, front, estate)
}

/// Waits until the inbox was looked at and `/changes` is polled: what follows is live.
fn settled(estate: &Estate, sim: &Sim) {
    estate.until_up("emm/block");
    estate.until_value("emm/block/inbox", |inbox| !inbox.is_null());
    let polls = sim.polls();
    within(PATIENCE, "a poll", || (sim.polls() > polls + 1).then_some(()));
}

/// Waits until what is known is what the EMM has, and checks that each message was told once.
fn until_exact(estate: &Estate, sim: &Sim) {
    within(PATIENCE, "the mirror", || {
        let known = estate.state("emm/block");
        let alarms = known.iter().filter(|(path, _)| path.starts_with("emm/block/alarm/"));
        let mut alarms: Vec<(i64, String)> = alarms
            .map(|(_, alarm)| {
                let name = alarm["name"].as_str().unwrap_or_default();
                (alarm["id"].as_i64().unwrap_or_default(), name.to_string())
            })
            .collect();
        alarms.sort();
        let newest = sim.inbox().last().map_or(0, |(id, _)| *id);
        let is_read = known.get("emm/block/inbox").is_some_and(|i| i["newest_id"] == newest);
        (alarms == sim.active() && is_read && told(estate) == ids(sim)).then_some(())
    });
}

fn told(estate: &Estate) -> Vec<i64> {
    let events = estate.events("emm.user_event");
    let mut told: Vec<_> = events.iter().map(|e| e["data"]["id"].as_i64().unwrap()).collect();
    told.sort_unstable();
    told
}

fn ids(sim: &Sim) -> Vec<i64> {
    sim.inbox().into_iter().map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_event_reaches_a_rule() {
    let (sim, front, estate) = connected_by_tls().await;
    for kind in TYPES {
        match *kind {
            "emm.user_event" => drop(sim.page("Delivery", false)),
            "emm.message_read" => sim.read(sim.inbox()[0].0, 5),
            "emm.active_alarm" => drop(sim.raise("Lift 2", "stuck")),
            "emm.alarm_cleared" => sim.clear(sim.active()[0].0),
            "emm.unknown" => sim.unknown(),
            "emm.unparsed" => sim.set(|options| options.garbage_changes = 1),
            "emm.changes_silenced" => {
                let push = json!({ "endpoint": "https://x", "p256dh": "k", "auth": "s" });
                estate.done("emm/block", "webpush.subscribe", push);
            }
            "emm.certificate_changed" => drop(front.change_certificate()),
            other => panic!("{other} is new: make it happen here"),
        }
        estate.until_told(kind);
    }
    for (kind, live) in [("emm.user_event", "fresh"), ("emm.active_alarm", "fresh")] {
        let event = &estate.events(kind)[0];
        assert_eq!((&event["trust"], event.get("caughtup")), (&json!(live), None), "{event}");
    }
}

/// Whether a result shows that the command arrived.
type Shows = Box<dyn Fn(&Value) -> bool>;

/// A bad manner, and its name.
type Misdeed = (&'static str, fn(&mut Options));

/// Arguments of every command, and whether the result shows that it arrived.
fn example(call: &str, id: i64, alarm: i64) -> (Value, Shows) {
    let is = |name: &'static str, wanted: Value| -> Shows {
        Box::new(move |result: &Value| result[name] == wanted)
    };
    match call {
        "send" => {
            let to = json!({ "text": "Hello", "to": ["night guard", "15"], "priority": true });
            (to, Box::new(|result| result["message_id"].is_i64()))
        }
        "inbox" => (json!({}), is("total", json!(1))),
        "event" => (json!({ "id": id }), is("message", json!("to be read"))),
        "read" => (json!({ "id": id }), is("status_name", json!("read"))),
        "accept" => (json!({ "id": id }), is("status_name", json!("acknowledge"))),
        "cancel" => (json!({ "id": id }), is("status_name", json!("cancel_alarm"))),
        "escalate" => (json!({ "id": id }), is("status_name", json!("force_escalate"))),
        "delete" => (json!({ "id": id }), is("id", json!(id))),
        "active_alarms" => (json!({}), is("total", json!(1))),
        "alarm" => (json!({ "id": alarm }), is("activation_text", json!("stuck"))),
        "cancel_alarm" => (json!({ "id": alarm }), is("id", json!(alarm))),
        "recipients" => (json!({ "value": "n*" }), is("count", json!(2))),
        "recipient" => (json!({ "id": 15 }), is("name", json!("Nurses"))),
        "contacts" => (json!({ "value": "clint*" }), is("count", json!(1))),
        "contact" => (json!({ "id": 2 }), is("name", json!("Damian"))),
        "contact.edit" => {
            (json!({ "id": 2, "fields": { "phone": "777" } }), is("phone", json!("777")))
        }
        "contact.delete" => (json!({ "id": 2 }), is("status", json!("success"))),
        "users" => (json!({}), is("total", json!(1))),
        "user" => (json!({}), is("name", json!("Portero"))),
        "user.set" => (json!({ "settings": { "language": "fr" } }), is("language", json!("fr"))),
        "password" => (json!({ "password": "another one" }), is("status", json!(1))),
        "settings" => (json!({}), Box::new(|result| result["point"].is_string())),
        "webpush" => (json!({}), is("status", json!(0))),
        "webpush.subscribe" => {
            let push = json!({ "endpoint": "https://x", "p256dh": "k", "auth": "s" });
            (push, is("status", json!(1)))
        }
        "webpush.unsubscribe" => (json!({}), is("status", json!(1))),
        other => panic!("{other} is new: give it here"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_emm() {
    let (sim, front, estate) = connected_by_tls().await;
    let (id, alarm) = (sim.page("to be read", false), sim.raise("Lift", "stuck"));
    estate.until_events("emm.active_alarm", 1);
    for spec in COMMANDS {
        if spec.name == "trust_certificate" {
            let fingerprint = front.change_certificate();
            estate.until_told("emm.certificate_changed");
            estate.until_down("emm/block");
            estate.done("emm/block", spec.name, json!({ "fingerprint": fingerprint }));
            estate.until_up("emm/block");
            continue;
        }
        let before = sim.received().len();
        let (args, arrived) = example(spec.name, id, alarm);
        let result = estate.done("emm/block", spec.name, args);
        assert!(arrived(&result), "{}: {result}", spec.name);
        let received = sim.received()[before..].to_vec();
        let (asks, acts) = (received.is_empty(), received.len() == 1);
        assert!(acts || asks, "{} came {} times", spec.name, received.len());
    }
    let calls: Vec<String> = sim.received().into_iter().map(|received| received.call).collect();
    assert_eq!(calls.len(), 13, "{calls:#?}");
    assert_eq!((sim.inbox().len(), sim.active().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_sends_messages_and_cancels_alarms() {
    let sim = Sim::start().unwrap();
    let rules = format!(
        "{NOTES}  - name: lift
    when: {{ type: emm.active_alarm }}
    do:
      - emm:
          site: block
          to: [\"Night guard\", \"15\"]
          text: \"{{{{ event.data.name }}}}: {{{{ event.data.active_text }}}}\"
          priority: true
      - emm: {{ call: cancel_alarm, id: \"{{{{ event.data.id }}}}\" }}
"
    );
    let estate = Estate::start_with(&section(&sim.url(), ""), &rules);
    settled(&estate, &sim);
    let alarm = sim.raise("Lift 2", "stuck");
    let (send, cancel) = within(PATIENCE, "both commands", || {
        let received = sim.received();
        let find = |call: &str| received.iter().find(|r| r.call == call).cloned();
        let cancel = format!("POST alarms/active/{alarm}/cancel");
        Some((find("POST users/self/events/send")?, find(&cancel)?))
    });
    let event = json!({ "text": "Lift 2: stuck", "priority": 1, "recipients": "12,15" });
    assert_eq!(send.params["event"], event);
    assert_eq!(cancel.params.get("event"), None);
    estate.until_told("emm.alarm_cleared");
    until_exact(&estate, &sim);
    assert_eq!(sim.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_told_twice_whatever_the_emm_does() {
    let (sim, estate) = connected();
    let misdeeds: [Misdeed; 12] = [
        ("drained and cut", |o| o.cut_changes = 1),
        ("drained into garbage", |o| o.garbage_changes = 1),
        ("cut before anything", |o| o.drop_calls = 2),
        ("errors", |o| o.errors = 2),
        ("everything twice", |o| o.duplicates = true),
        ("last first", |o| o.reorder = true),
        ("twice and last first", |o| (o.duplicates, o.reorder) = (true, true)),
        ("as printed", |o| o.form = Form::AsPrinted),
        ("without commas", |o| (o.form, o.sloppy_lists) = (Form::NoCommas, true)),
        ("alarms as printed", |o| (o.literal_alarms, o.status_words) = (true, true)),
        ("throttled by pace", |o| o.pace_least = Some(Duration::from_millis(350))),
        ("sessions that die", |o| o.token_life = Some(Duration::from_millis(700))),
    ];
    for (what, misdeed) in misdeeds {
        sim.set(misdeed);
        let ends = sim.raise(what, "begins and ends");
        sim.page(what, true);
        sim.raise(&format!("{what} stays"), "stays");
        sim.clear(ends);
        sim.page(&format!("{what} again"), false);
        until_exact(&estate, &sim);
        // Also what comes when it has become itself again.
        sim.set(|options| *options = Options::default());
        sim.page(&format!("after: {what}"), false);
        until_exact(&estate, &sim);
    }
    assert_eq!(sim.active().len(), misdeeds.len());
    assert_eq!(estate.events("emm.unparsed").len(), 1);
    assert!(estate.metric("portero_quarantined_total") >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_pages_throttling_and_silence_are_survived() {
    let (sim, estate) = connected();
    sim.expire_tokens();
    sim.page("after a token expired", false);
    until_exact(&estate, &sim);
    assert_eq!(sim.logins(), 2);
    for (misdeed, why) in [
        ((|o| o.html = true) as fn(&mut Options), "a page for people"),
        (|o| o.half_open = true, "half open"),
    ] {
        sim.set(misdeed);
        sim.page(why, false);
        sim.raise(why, "while nobody answers");
        estate.until_down("emm/block");
        sim.set(|options| *options = Options::default());
        until_exact(&estate, &sim);
        estate.until_up("emm/block");
        assert!(sim.sessions() <= 1, "{}", sim.sessions());
    }
    sim.set(|options| options.throttle = Some(1));
    sim.page("throttled", false);
    let polls = sim.polls();
    let answer = estate.post(&json!({ "to": "emm/block", "call": "settings", "ttl": "2s" }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(answer.json()["outcome"], "done", "{}", answer.text());
    assert_eq!(sim.polls(), polls, "nothing is drained by what is turned away");
    sim.set(|options| options.throttle = None);
    until_exact(&estate, &sim);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_crashes_lose_nothing_and_leave_no_session() {
    let (sim, mut estate) = connected();
    sim.set(|options| options.sessions_max = Some(1));
    for round in 0..4 {
        for n in 0..5 {
            sim.page(&format!("{round}.{n}"), n == 0);
        }
        let ends = sim.raise(&format!("ends {round}"), "x");
        sim.raise(&format!("stays {round}"), "x");
        // Drained: from here on the only copy is Portero's, read or not.
        within(PATIENCE, "the drain", || (sim.waiting() == 0).then_some(()));
        estate.crash();
        sim.clear(ends);
        sim.page(&format!("{round}: after the crash"), false);
        until_exact(&estate, &sim);
    }
    // What a kill cuts off on its way is gone: of an alarm that was over before the next look, only
    // the end may be told. Every other one is told from its beginning, and none is told twice.
    let named = |kind: &str| {
        let events = estate.events(kind).into_iter();
        let mut names: Vec<String> =
            events.map(|event| event["data"]["name"].as_str().unwrap().to_string()).collect();
        names.sort();
        names
    };
    let all = |what: &str| (0..4).map(|round| format!("{what} {round}")).collect::<Vec<_>>();
    let (over, stays): (Vec<String>, Vec<String>) =
        named("emm.active_alarm").into_iter().partition(|name| name.starts_with("ends"));
    assert_eq!((named("emm.alarm_cleared"), stays), (all("ends"), all("stays")));
    assert!(over.is_sorted_by(|a, b| a < b), "{over:?}");
    estate.stop();
    assert_eq!(sim.sessions(), 0);
    // What happens while Portero is away is told, and never as fresh.
    let away = sim.page("while away", true);
    estate.go_on();
    until_exact(&estate, &sim);
    let events = estate.events("emm.user_event");
    let event = events.iter().find(|event| event["data"]["id"] == away).unwrap();
    assert_eq!((&event["caughtup"], &event["trust"]), (&json!(true), &json!("authentic")));
}
