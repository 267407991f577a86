use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::json;

use super::*;
use crate::command::Repeat;
use crate::event::Event;
use crate::record::{Becomes, KnownChange};
use crate::systems::Certificate;

/// A session with hands to play the server's part.
struct Play {
    session: Session,
    now: Moment,
    events: Vec<Event>,
    known: Vec<KnownChange>,
    sent: Vec<(Feed, Value)>,
    other: Vec<Output>,
}

fn config() -> Config {
    Config {
        url: "ws://127.0.0.1:8176".parse().unwrap(),
        api_key: None,
        key_in_query: false,
        certificate: Certificate::System,
        time_zone: TimeZone::get("Europe/Paris").unwrap(),
        feeds: Feed::ALL.to_vec(),
        refresh: Duration::from_secs(4 * 3600),
    }
}

fn device(id: i64, on: bool) -> Value {
    json!({"id": id, "name": format!("Lamp {id}"), "class": "indigo.RelayDevice", "folderId": 3,
        "states": {"onOffState": on, "onOffState.ui": if on { "on" } else { "off" }}})
}

fn variable(id: i64, name: &str, value: &str) -> Value {
    json!({"id": id, "name": name, "class": "indigo.Variable", "folderId": 0, "value": value})
}

/// A patch that turns a [`device`].
fn turned(id: i64, from: bool) -> Value {
    let ui = |on| if on { "on" } else { "off" };
    json!({"message": "patch", "objectType": "indigo.Device", "objectId": id, "patch": [
        ["change", "states.onOffState", [from, !from]],
        ["change", ["states", "onOffState.ui"], [ui(from), ui(!from)]],
    ]})
}

impl Play {
    fn new(known: &[(String, Value)]) -> Play {
        let start: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let session = Session::new("indigo/house", &config(), Trust::Fresh, known, start);
        let now = Moment { at: start, up: Duration::ZERO };
        let (events, known, sent, other) = Default::default();
        Play { session, now, events, known, sent, other }
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(feed, text) => {
                    self.sent.push((feed, serde_json::from_str(&text).unwrap()));
                }
                Output::Tell(news) => {
                    self.known.extend(news.known);
                    self.events.extend(news.events.into_iter().map(|heard| heard.event));
                }
                Output::Link(..) => {}
                other => self.other.push(other),
            }
        }
    }

    fn open(&mut self, feed: Feed) {
        let outputs = self.session.opened(feed, self.now);
        self.take(outputs);
    }

    fn hear(&mut self, feed: Feed, message: Value) {
        let outputs = self.session.frame(feed, &message.to_string(), self.now);
        self.take(outputs);
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.up += Duration::from_secs(1);
            self.now.at += Duration::from_secs(1);
            let outputs = self.session.tick(self.now);
            self.take(outputs);
        }
    }

    /// The questions since the last call that have an answer other than folders.
    fn asked(&mut self) -> Vec<Value> {
        let all = std::mem::take(&mut self.sent).into_iter().map(|(_, message)| message);
        let is_folders = |m: &Value| m["objectType"].as_str().unwrap().ends_with(".Folder");
        let (folders, rest): (Vec<_>, Vec<_>) = all.partition(is_folders);
        for folder in folders {
            let kind = &folder["objectType"];
            let feed = Feed::ALL.into_iter().find(|feed| {
                kind.as_str().unwrap().trim_end_matches(".Folder") == feed.object_type()
            });
            let list = json!([{"id": 3, "class": "indigo.Folder", "name": "Hall"}]);
            let answer =
                json!({"message": "refresh", "id": folder["id"], "objectType": kind, "list": list});
            self.hear(feed.unwrap(), answer);
        }
        rest
    }

    /// Answers the one open question for the list.
    fn list(&mut self, feed: Feed, list: Value) {
        let asked = self.asked();
        let [question] = asked.as_slice() else { panic!("one question, not {asked:?}") };
        let (id, kind) = (&question["id"], &question["objectType"]);
        self.hear(feed, json!({"message": "refresh", "id": id, "objectType": kind, "list": list}));
    }

    fn kinds(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.kind.as_str()).collect()
    }

    fn object(&self, feed: Feed, id: i64) -> Option<&Value> {
        self.session.objects(feed).unwrap().get(&id)
    }

    /// What is known, as the next run gets it.
    fn known(&self) -> Vec<(String, Value)> {
        let mut map = serde_json::Map::new();
        for change in &self.known {
            match &change.to {
                Becomes::Is(value) => drop(map.insert(change.path.clone(), value.clone())),
                Becomes::Fields { set, gone } => {
                    let object = map[&change.path].as_object_mut().unwrap();
                    object.extend(set.clone());
                    gone.iter().for_each(|name| drop(object.remove(name)));
                }
                Becomes::SameAs(_) => {}
                Becomes::Gone => drop(map.remove(&change.path)),
            }
        }
        map.into_iter().collect()
    }
}

/// A session that has heard of a lamp that is off.
fn started() -> Play {
    let mut play = Play::new(&[]);
    play.open(Feed::Device);
    play.list(Feed::Device, json!([device(1, false)]));
    play
}

#[test]
fn the_first_start_ever_tells_nothing_and_knows_everything() {
    let play = started();
    assert!(play.events.is_empty(), "{:?}", play.kinds());
    let known: Vec<_> = play.known.iter().map(|change| change.path.as_str()).collect();
    let expect = ["folder/device/3", "device/1", "device/Lamp 1", "feed/device"];
    assert_eq!(known, expect.map(|path| format!("indigo/house/{path}")));
}

#[test]
fn a_live_change_is_fresh_and_complete() {
    let mut play = started();
    play.hear(Feed::Device, turned(1, false));
    let [event] = play.events.as_slice() else { panic!("{:?}", play.kinds()) };
    assert_eq!(event.kind, "indigo.device.changed");
    assert!(event.trust == Trust::Fresh && event.marks.is_plain());
    assert_eq!(event.data["folder"], "Hall");
    assert_eq!(event.data["states"], json!({"onOffState": true, "onOffState.ui": "on"}));
    assert_eq!(play.object(Feed::Device, 1), Some(&device(1, true)));
    // The same frame again changes nothing, and is checked.
    play.hear(Feed::Device, turned(1, false));
    assert_eq!(play.events.len(), 1);
}

#[test]
fn patches_before_the_snapshot_wait_for_it() {
    for snapshot_is_newer in [false, true] {
        let mut play = started();
        let outputs = play.session.closed(Feed::Device, Closed::Because("drop".into()));
        play.take(outputs);
        play.open(Feed::Device);
        play.hear(Feed::Device, turned(1, false));
        assert!(play.events.is_empty());
        play.list(Feed::Device, json!([device(1, snapshot_is_newer)]));
        assert_eq!(play.object(Feed::Device, 1), Some(&device(1, true)));
        let [event] = play.events.as_slice() else { panic!("{:?}", play.kinds()) };
        assert_eq!(event.marks.caught_up, snapshot_is_newer);
        assert!(play.asked().is_empty());
    }
}

#[test]
fn after_a_gap_what_changed_is_caught_up() {
    let mut play = started();
    let outputs = play.session.closed(Feed::Device, Closed::Because("drop".into()));
    play.take(outputs);
    play.open(Feed::Device);
    play.list(Feed::Device, json!([device(1, true), device(2, false)]));
    let kinds = ["indigo.device.changed", "indigo.device.added"];
    assert_eq!(play.kinds(), kinds);
    assert!(play.events.iter().all(|e| e.marks.caught_up && e.trust == Trust::Authentic));
}

#[test]
fn after_a_restart_too_and_the_same_comparison_gives_the_same_ids() {
    let first = started();
    let run = || {
        let mut play = Play::new(&first.known());
        play.now.at += Duration::from_secs(60);
        play.open(Feed::Device);
        play.list(Feed::Device, json!([device(2, true)]));
        play
    };
    let (play, again) = (run(), run());
    assert_eq!(play.kinds(), ["indigo.device.deleted", "indigo.device.added"]);
    let ids = |play: &Play| play.events.iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(ids(&play), ids(&again));
    let expect = json!([device(2, true)]);
    let known = play.known();
    let devices: Vec<_> = known.iter().filter(|(p, _)| p.contains("/device/2")).collect();
    assert_eq!(devices[0].1, expect[0]);
}

#[test]
fn what_does_not_apply_refreshes_that_object() {
    let mut play = started();
    let patch = json!([["remove", "states", [["nothing", 1]]]]);
    let message =
        json!({"message": "patch", "objectType": "indigo.Device", "objectId": 1, "patch": patch});
    play.hear(Feed::Device, message);
    let asked = play.asked();
    assert_eq!((asked.len(), &asked[0]["objectId"]), (1, &json!(1)));
    let answer = json!({"message": "refresh", "id": asked[0]["id"], "objectType": "indigo.Device",
        "objectDict": device(1, true)});
    play.hear(Feed::Device, answer);
    assert_eq!(play.object(Feed::Device, 1), Some(&device(1, true)));
    assert!(play.events[0].marks.caught_up);
}

#[test]
fn a_lost_patch_is_noticed_by_the_next() {
    let mut play = started();
    play.hear(Feed::Device, turned(1, true));
    assert_eq!(play.asked()[0]["objectId"], 1);
}

#[test]
fn patches_without_id_or_list_refresh_all_and_make_no_storm() {
    let mut play = started();
    for odd in [json!({"patch": []}), json!({"objectId": 1, "patch": {}})] {
        let mut message = odd;
        message["message"] = "patch".into();
        message["objectType"] = "indigo.Device".into();
        (0..100).for_each(|_| play.hear(Feed::Device, message.clone()));
    }
    let asked = play.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].get("objectId"), None);
}

#[test]
fn silent_drift_is_found_every_four_hours() {
    let mut play = started();
    play.asked();
    for _ in 0..4 * 3600 / 20 {
        play.pass(20);
        if play.sent.iter().any(|(_, m)| m["objectType"] == "indigo.Device") {
            return play.list(Feed::Device, json!([device(1, true)]));
        }
        play.asked();
    }
    panic!("never asked");
}

#[test]
fn an_unanswered_question_ends_the_connection() {
    let mut play = started();
    play.asked();
    play.pass(60);
    let closed = play.other.iter().any(|o| matches!(o, Output::Close(Feed::Device, _)));
    assert!(closed, "{:?}", play.other);
}

#[test]
fn bad_input_is_kept_and_ends_nothing() {
    let mut play = started();
    for text in ["{", "[]", "{\"message\":\"dance\"}", "\"\u{0}\""] {
        let outputs = play.session.frame(Feed::Device, text, play.now);
        play.take(outputs);
    }
    let outputs = play.session.binary(Feed::Device, &[0, 255], play.now);
    play.take(outputs);
    assert_eq!(play.other.iter().filter(|o| matches!(o, Output::Bad(..))).count(), 5);
    play.asked();
    play.hear(Feed::Device, turned(1, false));
    assert_eq!(play.kinds(), ["indigo.device.changed"]);
}

#[test]
fn variables_have_values() {
    let mut play = Play::new(&[]);
    play.open(Feed::Variable);
    play.list(Feed::Variable, json!([variable(7, "mode", "home")]));
    let patch = json!([["change", "value", ["home", "away"]]]);
    let message =
        json!({"message": "patch", "objectType": "indigo.Variable", "objectId": 7, "patch": patch});
    play.hear(Feed::Variable, message);
    let data = &play.events[0].data;
    assert_eq!((&data["value"], &data["old_value"]), (&json!("away"), &json!("home")));
    let path = "indigo/house/variable/mode".to_string();
    assert!(play.known().contains(&(path, json!("away"))));
}

/// Orders something of a house with a lamp, a lock and a variable.
fn order(call: &str, args: Value) -> Output {
    let mut play = Play::new(&[]);
    play.open(Feed::Device);
    let mut lock = device(2, true);
    lock["subType"] = "Lock".into();
    play.list(Feed::Device, json!([device(1, false), lock]));
    let args = args.as_object().unwrap().clone();
    let args = find(commands::COMMANDS, call).unwrap().check(args).unwrap();
    let (to, trust) = ("indigo/house".to_string(), Trust::Human);
    let command = Command { to, call: call.into(), args, repeat: Repeat::Never, trust };
    play.session.order(1, &command, Timestamp::MAX, play.now).remove(0)
}

#[test]
fn orders_name_objects() {
    let Output::Post(1, message) = order("device.turnOn", json!({"object": "Lamp 1"})) else {
        panic!("not posted")
    };
    assert_eq!(
        (&message["message"], &message["objectId"]),
        (&json!("indigo.device.turnOn"), &json!(1))
    );
    let refused = order("device.turnOn", json!({"object": "Lamp 3"}));
    let why = "there is no device `Lamp 3`; did you mean `Lamp 1`?".to_string();
    assert_eq!(refused, Output::Reply(1, Reply::Refused(why)));
    assert!(matches!(order("device.unlock", json!({"object": "Lamp 2"})), Output::Post(..)));
    for call in ["device.turnOff", "device.toggle"] {
        let refused = order(call, json!({"object": 2}));
        assert!(matches!(refused, Output::Reply(1, Reply::Refused(_))), "{call}");
    }
    // Variables were never listed: only an id will do.
    let refused = order("variable.updateValue", json!({"object": "mode", "value": "x"}));
    assert!(matches!(refused, Output::Reply(1, Reply::Refused(_))));
    let posted = order("variable.updateValue", json!({"object": "7", "value": "x"}));
    assert!(matches!(posted, Output::Post(..)));
}

#[test]
fn nothing_is_sent_while_not_connected_or_too_late() {
    let mut play = Play::new(&[]);
    let (to, trust) = ("indigo/house".to_string(), Trust::Human);
    let args = json!({"object": "1"}).as_object().unwrap().clone();
    let command = Command { to, call: "device.turnOn".into(), args, repeat: Repeat::Never, trust };
    let outputs = play.session.order(1, &command, Timestamp::MAX, play.now);
    let why = "not connected: device-feed: not yet".to_string();
    assert_eq!(outputs, [Output::Reply(1, Reply::Unsent(why))]);
    play.open(Feed::Device);
    let outputs = play.session.order(1, &command, play.now.at, play.now);
    assert!(matches!(outputs.as_slice(), [Output::Reply(1, Reply::Unsent(_))]));
}

#[test]
fn the_link_is_up_when_every_feed_that_there_is_is_open() {
    let mut play = Play::new(&[]);
    for feed in Feed::ALL {
        let last = match feed {
            Feed::Page => play.session.closed(feed, Closed::Absent),
            _ => play.session.opened(feed, play.now),
        };
        let is_up = feed == Feed::Log;
        assert!(matches!(last.last(), Some(Output::Link(up, _)) if *up == is_up), "{feed:?}");
    }
    let down = play.session.closed(Feed::Action, Closed::Because("HTTP 401".into()));
    assert_eq!(down, [Output::Link(false, "action-feed: HTTP 401".into())]);
}

impl Play {
    /// Answers the one open question for the list by a text; whether the link is up then, if it
    /// is said.
    fn list_text(&mut self, feed: Feed, list: &str) -> Vec<(bool, String)> {
        let asked = self.asked();
        let [question] = asked.as_slice() else { panic!("one question, not {asked:?}") };
        let (id, kind) = (&question["id"], &question["objectType"]);
        let text =
            format!(r#"{{"message":"refresh","id":{id},"objectType":{kind},"list":[{list}]}}"#);
        let outputs = self.session.frame(feed, &text, self.now);
        let link = |output: &Output| match output {
            Output::Link(up, why) => Some((*up, why.clone())),
            _ => None,
        };
        let said = outputs.iter().filter_map(link).collect();
        self.take(outputs);
        said
    }
}

/// A session with the device feed alone.
fn of_devices(known: &[(String, Value)]) -> Play {
    let start: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
    let config = Config { feeds: vec![Feed::Device], ..config() };
    let session = Session::new("indigo/house", &config, Trust::Fresh, known, start);
    Play { session, ..Play::new(known) }
}

#[test]
fn half_a_character_or_a_huge_number_in_one_object_deafens_nothing() {
    let mut play = started();
    let odd = r#"{"message":"patch","objectType":"indigo.Device","objectId":1,"patch":
        [["change","name",["Lamp 1","\ud83d"]],["change","states.onOffState",[false,1e400]]]}"#;
    let outputs = play.session.frame(Feed::Device, odd, play.now);
    play.take(outputs);
    assert_eq!(play.object(Feed::Device, 1).unwrap()["name"], "\u{fffd}");
    assert!(play.asked().is_empty() && play.other.is_empty());
}

#[test]
fn without_a_readable_list_changes_are_heard_and_the_link_says_why() {
    let mut first = of_devices(&[]);
    first.open(Feed::Device);
    first.list(Feed::Device, json!([device(1, false), device(2, false)]));
    let mut play = of_devices(&first.known());
    play.open(Feed::Device);
    // This one waits for the list, and is heard although none comes.
    play.hear(Feed::Device, turned(1, false));
    let said = play.list_text(Feed::Device, r#"{"id":1,"name":}"#);
    let why = "device-feed: its list cannot be read, no JSON: line 1, column 98; only changes are \
        heard";
    assert_eq!(said, [(false, why.into())]);
    assert_eq!(play.kinds(), ["indigo.device.changed"]);
    play.hear(Feed::Device, turned(2, false));
    assert_eq!(play.kinds().len(), 2);
    assert_eq!(play.events[1].trust, Trust::Fresh);
    // One that nobody knew is asked for.
    play.hear(Feed::Device, turned(7, false));
    let asked = play.asked();
    assert_eq!((asked.len(), &asked[0]["objectId"]), (1, &json!(7)));
    let id = &asked[0]["id"];
    let one = json!({"message": "refresh", "id": id, "objectDict": device(7, true)});
    play.hear(Feed::Device, one);
    play.other.clear();
    play.pass(9);
    assert!(play.asked().is_empty(), "not at once");
    play.pass(1);
    assert_eq!(play.list_text(Feed::Device, "{]"), [(false, play.session.why_down())]);
    for _ in 0..2 {
        play.pass(10);
        play.hear(Feed::Device, turned(1, true));
        play.hear(Feed::Device, turned(1, false));
    }
    let list = [1, 2, 7].map(|id| device(id, true).to_string()).join(",");
    assert_eq!(play.list_text(Feed::Device, &list), [(true, String::new())]);
    assert!(!play.other.iter().any(|output| matches!(output, Output::Close(..))));
}

#[test]
fn a_list_that_ends_each_connection_is_left_alone_and_changes_are_heard() {
    let mut first = of_devices(&[]);
    first.open(Feed::Device);
    first.list(Feed::Device, json!([device(1, false)]));
    let mut play = of_devices(&first.known());
    for _ in 0..2 {
        play.open(Feed::Device);
        assert_eq!(play.asked().len(), 1);
        play.session.closed(Feed::Device, Closed::Because("not UTF-8".into()));
    }
    play.open(Feed::Device);
    assert!(play.asked().is_empty());
    play.hear(Feed::Device, turned(1, false));
    assert_eq!(play.kinds(), ["indigo.device.changed"]);
    let why = "device-feed: connections end while its list is awaited; only changes are heard";
    assert_eq!(play.session.link(), Output::Link(false, why.into()));
    play.pass(10);
    play.list(Feed::Device, json!([device(1, true)]));
    assert_eq!(play.session.link(), Output::Link(true, String::new()));
}
