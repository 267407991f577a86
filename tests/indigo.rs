//! Indigo as a whole: patches against dictdiffer's own, snapshots against any order of events,
//! transcripts into the session, and the client against a simulator with bad manners.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use house::{Run, TestHouse};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use portero::clock::Clock;
use portero::event::Trust;
use portero::systems::Certificate;
use portero::systems::indigo::diff::{diff, to_json};
use portero::systems::indigo::patch::{Patch, same};
use portero::systems::indigo::reconcile::{Step, replay, settle};
use portero::systems::indigo::session::{Closed, Output, Session};
use portero::systems::indigo::sim::{Sim, dim, measure, set, turn};
use portero::systems::indigo::{COMMANDS, Config, Feed, Moment, run, types};
use portero::systems::link::Reply;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

#[path = "support/link.rs"]
mod house;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/indigo");
const PAGE: &str = include_str!("../docs/events.md");

const DIMMER: i64 = 1_508_839_119;
const LOCK: i64 = 1_508_839_120;
const PORCH: i64 = 1_508_839_121;
const SENSOR: i64 = 1_508_839_123;
const HOUSE_STATUS: i64 = 345_633_244;

// === Patches ===

/// Every case is exact here, or refused where dictdiffer cannot say what it means.
fn check_cases(text: &str) -> usize {
    for (number, line) in text.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (old, new) = (&case["old"], &case["new"]);
        let has_empty_key = old.get("").is_some() || new.get("").is_some();
        let place = || format!("line {}: {line}", number + 1);
        let applied = Patch::read(&case["patch"]).and_then(|patch| patch.apply(old));
        match applied {
            Ok(applied) => {
                assert!(!applied.surprised, "{}", place());
                // Where dictdiffer cannot say it, a wrong result may come out, as in Python.
                let exact = case["exact"] == true;
                assert!(!exact || same(&applied.object, new), "{}", place());
            }
            Err(why) => assert!(has_empty_key, "{why}: {}", place()),
        }
        // Our own differences are as good, and survive being written.
        let ours = to_json(&diff(old, new, same));
        if !has_empty_key {
            let applied = Patch::read(&ours).unwrap().apply(old).unwrap();
            assert!(same(&applied.object, new), "{ours} of {}", place());
            assert_eq!(ours.as_array().unwrap().len(), case["patch"].as_array().unwrap().len());
        }
    }
    text.lines().count()
}

#[test]
fn dictdiffer_and_we_agree() {
    let kept = fs::read_to_string(format!("{FIXTURES}/dictdiffer.jsonl")).unwrap();
    assert!(check_cases(&kept) >= 300);
    // Fresh ones, by tests/dictdiffer/run.sh.
    if let Ok(path) = std::env::var("DICTDIFFER_CASES") {
        println!("{} fresh cases", check_cases(&fs::read_to_string(path).unwrap()));
    }
}

proptest! {
    /// Whatever happens between asking and answering, and whatever of it the snapshot shows: the
    /// result is the truth, or a doubt that asks again.
    #[test]
    fn a_snapshot_from_any_moment_leads_to_the_truth(
        values in prop::collection::vec((0..4_i64, 0..4_i64, prop::collection::vec(0..3_i64, 0..3)), 2..8),
        asked in 0_usize..8,
        taken in 0_usize..8,
    ) {
        let states: Vec<Value> = values
            .iter()
            .enumerate()
            .map(|(at, (x, y, list))| json!({ "x": x, "s": { "y.ui": y }, "list": list, "lastChanged": at }))
            .collect();
        let asked = asked.min(states.len() - 1);
        let taken = taken.clamp(asked, states.len() - 1);
        let steps: Vec<Step> = states[asked..]
            .windows(2)
            .map(|pair| Step::Patched(diff(&pair[0], &pair[1], same)))
            .collect();
        let settled = settle(Some(&states[taken]), &steps);
        prop_assert!(!settled.doubtful);
        let ended = replay(&settled, &steps);
        prop_assert_eq!(ended.as_ref(), states.last());
    }

    /// No bytes upset a session, and it goes on.
    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}", feed in 0_usize..7) {
        let (mut session, now) = session();
        let feed = Feed::ALL[feed];
        session.opened(feed, now);
        let outputs = session.frame(feed, &text, now);
        let kept = outputs.iter().any(|output| matches!(output, Output::Bad(..)));
        prop_assert!(kept || serde_json::from_str::<Value>(&text).is_ok());
    }
}

// === Transcripts ===

fn session() -> (Session, Moment) {
    let at: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
    let config = Config {
        url: "ws://192.168.0.5:8176".parse().unwrap(),
        api_key: None,
        key_in_query: false,
        certificate: Certificate::System,
        time_zone: TimeZone::get("Europe/Paris").unwrap(),
        feeds: Feed::ALL.to_vec(),
        refresh: Duration::from_secs(4 * 3600),
    };
    let session = Session::new("indigo/house", &config, Trust::Fresh, &[], at);
    (session, Moment { at, up: Duration::ZERO })
}

fn feed_named(name: &str) -> Feed {
    Feed::ALL.into_iter().find(|feed| feed.as_str() == name).unwrap()
}

/// One line of a transcript: what happens, and what the session does then.
fn step(session: &mut Session, now: &mut Moment, line: &Value) -> Vec<Output> {
    let feed = || feed_named(line["feed"].as_str().unwrap());
    match line["in"].as_str().unwrap() {
        "open" => session.opened(feed(), *now),
        "close" => session.closed(feed(), Closed::Because("gone".into())),
        "text" => session.frame(feed(), line["text"].as_str().unwrap(), *now),
        "frame" => session.frame(feed(), &line["frame"].to_string(), *now),
        "wait" => {
            let mut outputs = Vec::new();
            for _ in 0..line["seconds"].as_u64().unwrap() {
                now.up += Duration::from_secs(1);
                now.at += Duration::from_secs(1);
                outputs.extend(session.tick(*now));
            }
            outputs
        }
        other => panic!("{other}"),
    }
}

/// An output in one line.
fn lines(output: Output) -> Vec<String> {
    match output {
        Output::Send(_, text) => {
            let ask: Value = serde_json::from_str(&text).unwrap();
            let object = ask.get("objectId").map(|id| format!(" {id}")).unwrap_or_default();
            vec![format!(
                "ask {}{object} ({})",
                ask["objectType"].as_str().unwrap(),
                ask["id"].as_str().unwrap()
            )]
        }
        Output::Tell(news) => {
            let known = news.known.into_iter().map(|change| {
                let path = change.path.trim_start_matches("indigo/house/").to_string();
                let to = serde_json::to_value(&change.to).unwrap();
                let how =
                    to.as_object().map_or("gone".into(), |to| to.keys().next().unwrap().clone());
                format!("known {path}: {how}")
            });
            let events = news.events.into_iter().map(|heard| {
                let event = heard.event;
                let caught_up = if event.marks.caught_up { " (caught up)" } else { "" };
                let data = Value::Object(event.data);
                format!("event {}{caught_up} {data}", event.kind)
            });
            known.chain(events).collect()
        }
        Output::Bad(why, _) => vec![format!("bad {why}")],
        Output::Link(..) => Vec::new(),
        other => vec![format!("{other:?}")],
    }
}

/// Plays a transcript; with `BLESS` set, writes down what happened instead of comparing it.
fn play(path: &std::path::Path) {
    let (mut session, mut now) = session();
    let mut happened: Vec<String> = Vec::new();
    let mut blessed = String::new();
    for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        if let Some(expect) = line.get("out") {
            let happened = json!(std::mem::take(&mut happened));
            blessed += &format!("{}\n", json!({ "out": happened }));
            let is_right = std::env::var_os("BLESS").is_some() || happened == *expect;
            assert!(is_right, "{}:{}: {happened:#}", path.display(), number + 1);
        } else {
            let outputs = step(&mut session, &mut now, &line);
            happened.extend(outputs.into_iter().flat_map(lines));
            blessed += &format!("{line}\n");
        }
    }
    assert!(happened.is_empty(), "{}: nobody looked at {happened:?}", path.display());
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, blessed).unwrap();
    }
}

#[test]
fn transcripts_lead_where_they_say() {
    let files = fs::read_dir(format!("{FIXTURES}/transcripts")).unwrap();
    let played = files.map(|file| play(&file.unwrap().path())).count();
    assert!(played >= 4);
}

// === The page that people read ===

#[test]
fn every_type_is_documented() {
    for kind in types() {
        let (start, what) = kind.rsplit_once('.').unwrap();
        let grouped = PAGE.contains(&format!("`{start}.added`, `.changed`, `.deleted`"));
        let alone = PAGE.contains(&format!("`{kind}`"));
        assert!(alone || (grouped && ["added", "changed", "deleted"].contains(&what)), "{kind}");
    }
}

// === The client against a server with bad manners ===

struct Scene {
    house: TestHouse,
    sim: Sim,
    run: Run,
    driver: tokio::task::JoinHandle<()>,
}

impl Scene {
    async fn start() -> Scene {
        let sim = Sim::start(Clock::system()).await.unwrap();
        let house = TestHouse::new().await;
        let (run, driver) = Scene::drive(&house, &sim);
        let scene = Scene { house, sim, run, driver };
        scene.until_exact().await;
        scene
    }

    fn drive(house: &TestHouse, sim: &Sim) -> (Run, tokio::task::JoinHandle<()>) {
        let (link, handle) = house.link("indigo/house");
        (handle, tokio::spawn(run(sim.config().unwrap(), link)))
    }

    /// Waits until everything known is as the simulator has it, and every feed is connected.
    async fn until_exact(&self) {
        self.house
            .until("the mirror to be exact", |house| {
                let known = house.states("indigo/house");
                let up = known.get("indigo/house/link").is_some_and(|link| link["up"] == true);
                (up && self.wrong(&known).is_none()).then_some(())
            })
            .await;
    }

    /// Where what is known differs from the truth.
    fn wrong(&self, known: &BTreeMap<String, Value>) -> Option<String> {
        let objects = Feed::ALL.into_iter().filter(|feed| *feed != Feed::Log);
        for feed in objects {
            let prefix = format!("indigo/house/{}/", feed.as_str());
            let truth = self.sim.truth(feed);
            let is_wrong =
                |(id, object): &(&i64, &Value)| known.get(&format!("{prefix}{id}")) != Some(object);
            if let Some((id, _)) = truth.iter().find(is_wrong) {
                return Some(format!("{prefix}{id}"));
            }
            let ids =
                known.iter().filter(|(path, value)| path.starts_with(&prefix) && value.is_object());
            if ids.count() != truth.len() {
                return Some(format!("{prefix}: too many"));
            }
        }
        None
    }

    async fn stop(self) -> (TestHouse, Sim) {
        self.run.stopping.cancel();
        tokio::time::timeout(Duration::from_secs(5), self.driver).await.unwrap().unwrap();
        (self.house, self.sim)
    }

    async fn order(&self, call: &str, args: Value) -> Reply {
        let args = args.as_object().unwrap().clone();
        let args = portero::command::find(COMMANDS, call).unwrap().check(args).unwrap();
        self.run.order("indigo/house", call, args.into()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_and_the_first_start_tells_nothing() {
    let scene = Scene::start().await;
    assert_eq!(scene.house.events().len(), 0);
    scene.sim.change(Feed::Device, SENSOR, |sensor| measure(sensor, 58));
    let event = scene.house.event("indigo.device.changed", 1).await;
    assert_eq!(event.data["states"], json!({ "sensorValue": 58, "sensorValue.ui": "58 lux" }));
    assert_eq!(
        (event.trust, event.subject.as_deref()),
        (Trust::Fresh, Some("Kitchen Light Level"))
    );
    assert_eq!(event.data["folder"], "Hall");
    scene.sim.change(Feed::Variable, HOUSE_STATUS, |v| set(v, &["value"], "away".into()));
    let event = scene.house.event("indigo.variable.changed", 1).await;
    assert_eq!((&event.data["value"], &event.data["old_value"]), (&json!("away"), &json!("home")));
    assert_eq!(scene.house.state("indigo/house/variable/house_status"), Some(json!("away")));
    for feed in [Feed::Action, Feed::Schedule, Feed::Trigger, Feed::Page] {
        let object = json!({ "id": 5, "name": "Five", "class": feed.object_type(), "folderId": 0 });
        scene.sim.add(feed, object);
        scene.house.event(&format!("indigo.{}.added", feed.as_str()), 1).await;
        scene.sim.change(feed, 5, |object| set(object, &["name"], "Six".into()));
        scene.house.event(&format!("indigo.{}.changed", feed.as_str()), 1).await;
        scene.sim.delete(feed, 5);
        let gone = scene.house.event(&format!("indigo.{}.deleted", feed.as_str()), 1).await;
        assert_eq!(gone.data["name"], "Six");
    }
    scene.sim.log("Z-Wave", 3, "low battery");
    let event = scene.house.event("indigo.log", 1).await;
    assert_eq!(
        (&event.data["level"], &event.data["message"]),
        (&json!("warning"), &json!("low battery"))
    );
    scene.until_exact().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_catches_up_and_repeats_nothing() {
    let scene = Scene::start().await;
    scene.sim.log("Test", 0, "before");
    scene.house.event("indigo.log", 1).await;
    let (house, sim) = scene.stop().await;
    sim.change(Feed::Device, PORCH, |porch| turn(porch, true));
    sim.delete(Feed::Action, 94_914_464);
    sim.log("Test", 0, "meanwhile");
    let (run, driver) = Scene::drive(&house, &sim);
    let scene = Scene { house, sim, run, driver };
    let event = scene.house.event("indigo.device.changed", 1).await;
    assert!(event.marks.caught_up && event.trust == Trust::Authentic);
    scene.house.event("indigo.action.deleted", 1).await;
    let log = scene.house.event("indigo.log", 2).await;
    assert!(log.marks.caught_up && log.data["message"] == "meanwhile");
    scene.until_exact().await;
    assert_eq!(scene.house.events().len(), 4);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_object_is_known_by_its_sum_and_told_once() {
    let scene = Scene::start().await;
    let huge = |c: &str| {
        json!({ "id": 5, "name": "Plan", "class": "indigo.ControlPage",
        "folderId": 0, "notes": c.repeat(300 * 1024) })
    };
    scene.sim.add(Feed::Page, huge("x"));
    scene.house.event("indigo.page.added", 1).await;
    let known = scene.house.state("indigo/house/page/5").unwrap();
    assert_eq!(scene.house.state("indigo/house/page/Plan"), Some(known.clone()));
    assert_eq!(known["name"], "Plan");
    assert!(known["bytes_left_out"].as_u64().unwrap() > 300 * 1024 && known["sha256"].is_string());
    // A restart finds it as it was, and the next one finds it changed.
    let (house, sim) = scene.stop().await;
    let restarted = |house: TestHouse, sim: Sim| async move {
        let round = |house: &TestHouse| {
            let marker = house.state("indigo/house/feed/page")?;
            marker["round"].as_u64()
        };
        let before = round(&house);
        let (run, driver) = Scene::drive(&house, &sim);
        house.until("a comparison", |house| (round(house) > before).then_some(())).await;
        Scene { house, sim, run, driver }
    };
    let scene = restarted(house, sim).await;
    let (house, sim) = scene.stop().await;
    assert_eq!(house.events().len(), 1, "the same is told once");
    sim.change(Feed::Page, 5, |page| set(page, &["notes"], "y".repeat(300 * 1024).into()));
    let scene = restarted(house, sim).await;
    let event = scene.house.event("indigo.page.changed", 1).await;
    assert_eq!(event.data["changed"][0]["path"], "sha256");
    assert_ne!(scene.house.state("indigo/house/page/5"), Some(known));
    // Live again, a change is told by what changed, and a small object is there whole.
    scene.sim.change(Feed::Page, 5, |page| set(page, &["notes"], "z".into()));
    let event = scene.house.event("indigo.page.changed", 2).await;
    assert_eq!(event.data["changed"][0]["path"], "notes");
    scene.until_exact().await;
    assert_eq!(scene.house.events().len(), 3);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_manners_are_survived_and_the_mirror_is_exact_afterwards() {
    let scene = Scene::start().await;
    let manners: [fn(&mut portero::systems::indigo::sim::Mischief); 6] = [
        |m| m.lose = 1,
        |m| m.duplicate = 1,
        |m| m.reorder = 1,
        |m| m.no_id = 1,
        |m| m.empty = 1,
        |m| m.garbage = 2,
    ];
    for (round, bad) in manners.into_iter().enumerate() {
        scene.sim.misbehave(bad);
        for step in 0..4 {
            let level = (round as i64 * 10 + step) % 100;
            scene.sim.change(Feed::Device, DIMMER, |dimmer| dim(dimmer, level));
            scene.sim.change(Feed::Device, DIMMER, |d| {
                set(d, &["ledStates"], json!(vec![true; step as usize]))
            });
        }
        scene.sim.misbehave(|m| *m = Default::default());
        scene.sim.change(Feed::Device, DIMMER, |dimmer| dim(dimmer, 99 - round as i64));
        scene.until_exact().await;
    }
    assert!(!scene.house.bad().is_empty(), "rubbish is kept");
    for feed in Feed::ALL {
        scene.sim.say_text(feed, "{\"message\":\"dance\"}");
        scene.sim.say_text(feed, "[1, 2");
        scene.sim.say_binary(feed, &[0, 159, 146, 150]);
    }
    scene.sim.change(Feed::Device, PORCH, |porch| turn(porch, true));
    scene.until_exact().await;
    let questions = scene.sim.questions();
    assert!(questions < 120, "no storm of questions: {questions}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_feeds_come_back_and_tell_what_was_missed() {
    let scene = Scene::start().await;
    for slow in [Duration::ZERO, Duration::from_millis(300)] {
        scene.sim.misbehave(|m| (m.slow_refresh, m.stale_refresh) = (slow, true));
        Feed::ALL.into_iter().for_each(|feed| scene.sim.cut(feed));
        scene.sim.change(Feed::Device, PORCH, |porch| turn(porch, slow.is_zero()));
        scene
            .house
            .until("new connections", |_| (scene.sim.listeners(Feed::Device) > 0).then_some(()))
            .await;
        // While the list is on its way: it is older than this.
        scene.sim.change(Feed::Device, LOCK, |lock| turn(lock, !slow.is_zero()));
        scene.sim.add(Feed::Device, json!({ "id": 9, "name": "New", "class": "indigo.Device" }));
        scene.until_exact().await;
        scene.sim.delete(Feed::Device, 9);
        scene.until_exact().await;
    }
    let events = scene.house.events_of("indigo.device.changed");
    assert!(events.iter().any(|event| event.marks.caught_up), "{events:?}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_said_and_a_missing_feed_is_no_trouble() {
    let sim = Sim::start(Clock::system()).await.unwrap();
    sim.misbehave(|m| m.refuse = Some(401));
    let house = TestHouse::new().await;
    let (run, driver) = Scene::drive(&house, &sim);
    let scene = Scene { house, sim, run, driver };
    let is_told = |house: &TestHouse| {
        let link = house.state("indigo/house/link")?;
        link["why"].as_str()?.contains("the API key is refused: HTTP 401").then_some(())
    };
    scene.house.until("the link to say why not", is_told).await;
    let reply = scene.order("device.turnOn", json!({ "object": PORCH })).await;
    assert!(matches!(reply, Reply::Unsent(why) if why.contains("not connected")));
    scene.sim.misbehave(|m| (m.refuse, m.absent) = (None, Some(Feed::Trigger)));
    let up = |house: &TestHouse| house.state("indigo/house/link").filter(|link| link["up"] == true);
    scene.house.until("the link to be up", up).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_arrive_and_say_how_it_went() {
    let scene = Scene::start().await;
    let done = scene
        .order("dimmer.setBrightness", json!({ "object": "Insteon Dimmer", "value": 30 }))
        .await;
    assert!(matches!(done, Reply::Done(_)), "{done:?}");
    assert_eq!(scene.sim.truth(Feed::Device)[&DIMMER]["brightness"], 30);
    let done =
        scene.order("variable.updateValue", json!({ "object": "house_status", "value": 7 })).await;
    assert!(matches!(done, Reply::Done(_)), "{done:?}");
    assert_eq!(scene.sim.truth(Feed::Variable)[&HOUSE_STATUS]["value"], "7");
    let done = scene.order("device.unlock", json!({ "object": LOCK })).await;
    assert!(matches!(done, Reply::Done(_)), "{done:?}");
    scene.order("log", json!({ "text": "hello" })).await;
    scene.house.event("indigo.log", 1).await;
    let refused = scene.order("device.turnOff", json!({ "object": LOCK })).await;
    assert!(matches!(&refused, Reply::Refused(why) if why.contains("lock")), "{refused:?}");
    let refused = scene.order("actionGroup.execute", json!({ "object": "Movie Nigth" })).await;
    assert!(matches!(&refused, Reply::Refused(why) if why.contains("Movie Night")), "{refused:?}");
    scene.until_exact().await;
    // A server without commands over HTTP: the feed takes them, and a change says that it did.
    scene.sim.misbehave(|m| m.no_http = Some(404));
    let done = scene.order("device.toggle", json!({ "object": PORCH })).await;
    assert_eq!(done, Reply::Done(json!({ "via": "feed" })));
    let unsent = scene.order("plugin.restart", json!({ "pluginId": "com.example" })).await;
    assert!(matches!(unsent, Reply::Unsent(_)), "{unsent:?}");
    assert_eq!(scene.sim.commands().len(), 5);
    scene.until_exact().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_reaches_the_server() {
    let scene = Scene::start().await;
    for spec in COMMANDS {
        let mut args = Map::new();
        for arg in spec.args {
            use portero::command::Kind;
            let value = match (arg.name, arg.kind) {
                ("object", _) if spec.name.starts_with("variable.") => json!("guests"),
                ("object", _) if spec.name.starts_with("actionGroup.") => json!("All Off"),
                ("object", _) if spec.name.starts_with("schedule.") => json!("Porch at dusk"),
                ("object", _) if spec.name.starts_with("trigger.") => json!("Webhook"),
                ("object" | "deviceId", _) => json!("Porch Light"),
                ("schedule", _) => json!([1, 2]),
                (_, Kind::Text) => json!("text"),
                (_, Kind::Flag) => json!(true),
                (_, Kind::Word(words)) => json!(words[0]),
                (_, Kind::Json) => json!({ "a": 1 }),
                _ => json!(1),
            };
            args.insert(arg.name.into(), value);
        }
        let reply = scene.order(spec.name, args.into()).await;
        assert!(matches!(reply, Reply::Done(_)), "{}: {reply:?}", spec.name);
    }
    assert_eq!(scene.sim.commands().len(), COMMANDS.len());
    scene.until_exact().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_goes_on_until_told_to_stop() {
    let scene = Scene::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let story = scene.sim.spawn_story(Duration::from_millis(5), stop.clone());
    scene.house.event("indigo.device.changed", 5).await;
    scene.house.event("indigo.variable.changed", 2).await;
    scene.house.event("indigo.log", 1).await;
    stop.cancel();
    story.await.unwrap();
    scene.until_exact().await;
    scene.stop().await;
}
