//! The EMM driver against its simulator over real loopback sockets: what is heard under every
//! misbehaviour, what can be commanded, and that nothing is lost or told twice.

use std::time::Duration;

use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::Certificate;
use portero::systems::emm::sim::{Form, Options, PASSWORD, Sim, USERNAME};
use portero::systems::emm::{self, Config};
use portero::systems::link::Reply;
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

#[path = "emm/faults.rs"]
mod faults;
#[path = "support/link.rs"]
mod link;

use link::{Run, TestHouse};

const SOURCE: &str = "emm/block";

/// Far below what a real EMM should be asked, so that tests are short.
const POLL: Duration = Duration::from_millis(100);

/// A simulator, a house, and a driver between them.
struct World {
    sim: Sim,
    house: TestHouse,
    run: Run,
    driver: JoinHandle<()>,
}

impl World {
    async fn new() -> World {
        World::with(|_| {}).await
    }

    /// Connected, with the first poll done, so that what follows is fresh.
    async fn with(options: impl FnOnce(&mut Options)) -> World {
        let sim = Sim::start().unwrap();
        sim.set(options);
        let house = TestHouse::new().await;
        let (run, driver) = start(&sim, &house);
        let world = World { sim, house, run, driver };
        world.settled().await;
        world
    }

    /// Waits until the inbox was looked at and `/changes` polled once more from now on.
    async fn settled(&self) {
        let polls = self.sim.polls();
        let settled = |house: &TestHouse| {
            let is_up = house.state("emm/block/link").is_some_and(|link| link["up"] == true);
            (is_up && house.state("emm/block/inbox").is_some() && self.sim.polls() > polls + 1)
                .then_some(())
        };
        self.house.until("a poll", settled).await;
    }

    async fn order(&self, call: &str, args: Value) -> Reply {
        self.run.order(SOURCE, call, args).await
    }

    async fn done(&self, call: &str, args: Value) -> Value {
        match self.order(call, args).await {
            Reply::Done(value) => value,
            other => panic!("{call}: {other:?}"),
        }
    }

    async fn refused(&self, call: &str, args: Value) -> String {
        match self.order(call, args).await {
            Reply::Refused(why) => why,
            other => panic!("{call}: {other:?}"),
        }
    }

    /// Waits until our mirror of the alarms is the truth.
    async fn same_alarms(&self) {
        let same = |house: &TestHouse| {
            let known = house.states("emm/block/alarm");
            let known: Vec<_> =
                known.values().map(|v| (v["id"].as_i64(), v["name"].clone())).collect();
            let truth = self.sim.active();
            let truth: Vec<_> = truth.into_iter().map(|(id, n)| (Some(id), n.into())).collect();
            (known == truth).then_some(())
        };
        self.house.until("the alarms to be the same", same).await;
    }

    /// Waits until both lists were looked at once more, after a poll that failed.
    async fn looked(&self) {
        let looks = self.sim.looks();
        self.sim.set(|options| options.cut_changes = 1);
        self.house.until("a look", |_| (self.sim.looks() > looks).then_some(())).await;
        self.settled().await;
    }

    /// How many alarms were told to be active, and how many to be over.
    fn alarms_told(&self) -> (usize, usize) {
        let count = |kind| self.house.events_of(kind).len();
        (count("emm.active_alarm"), count("emm.alarm_cleared"))
    }

    /// Each message of the inbox was told exactly once.
    fn each_message_once(&self) {
        let events = self.house.events_of("emm.user_event");
        let mut told: Vec<_> = events.iter().map(|e| e.data["id"].as_i64().unwrap()).collect();
        told.sort_unstable();
        let truth: Vec<_> = self.sim.inbox().iter().map(|(id, _)| *id).collect();
        assert_eq!(told, truth);
    }

    async fn stop(self) -> (Sim, TestHouse) {
        self.run.stopping.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(3), self.driver).await;
        ended.expect("it stops promptly").unwrap();
        (self.sim, self.house)
    }
}

fn start(sim: &Sim, house: &TestHouse) -> (Run, JoinHandle<()>) {
    // Failing to install means that another test already has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config {
        url: sim.url(),
        username: USERNAME.into(),
        password: Some(Secret::new(PASSWORD)),
        certificate: Certificate::System,
        poll: POLL,
        flat_send: false,
    };
    let (link, run) = house.link(SOURCE);
    (run, tokio::spawn(emm::run(config, link)))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_message_is_heard_once_also_over_a_restart() {
    let world = World::new().await;
    let (first, second) = (world.sim.page("Fire door open", true), world.sim.page("Lift", false));
    world.house.event("emm.user_event", 2).await;
    world.sim.read(first, 7);
    let event = world.house.event("emm.message_read", 1).await;
    assert_eq!(event.subject, Some(first.to_string()));
    assert_eq!(event.data["status_name"], "acknowledge");
    assert_eq!((event.trust, event.marks.is_plain()), (Trust::Fresh, true));
    assert_eq!(
        event.data["message_id"],
        world.house.events_of("emm.user_event")[0].data["message_id"]
    );

    let (sim, house) = world.stop().await;
    sim.read(second, 5);
    let (run, driver) = start(&sim, &house);
    let event = house.event("emm.message_read", 2).await;
    assert_eq!((event.subject.clone(), event.marks.caught_up), (Some(second.to_string()), true));
    let world = World { sim, house, run, driver };
    world.looked().await;
    assert_eq!(world.house.events_of("emm.message_read").len(), 2);
    assert_eq!(world.house.state("emm/block/inbox").unwrap()["unread"], 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_are_heard_live_with_state() {
    let world = World::new().await;
    let id = world.sim.page("Fire door open", true);
    let event = world.house.event("emm.user_event", 1).await;
    assert_eq!((event.trust, event.marks.is_plain()), (Trust::Fresh, true));
    assert_eq!(event.subject, Some(id.to_string()));
    assert_eq!(event.data["message"], "Fire door open");
    assert_eq!(event.data["priority"], true);
    assert!(event.time.is_some() && !event.raw.is_empty());

    let id = world.sim.raise("Lift 2", "stuck");
    let event = world.house.event("emm.active_alarm", 1).await;
    assert_eq!(
        (event.subject.clone(), &event.data["name"]),
        (Some(id.to_string()), &json!("Lift 2"))
    );
    assert_eq!(event.data["active_text"], "stuck");
    let state = world.house.state(&format!("emm/block/alarm/{id}")).unwrap();
    assert_eq!((&state["name"], &state["recipient_id"]), (&json!("Lift 2"), &json!(15)));

    world.sim.clear(id);
    let event = world.house.event("emm.alarm_cleared", 1).await;
    assert_eq!((event.data["cleared"].clone(), event.trust), (json!(true), Trust::Fresh));
    assert_eq!(world.house.state(&format!("emm/block/alarm/{id}")), None);

    world.sim.unknown();
    let event = world.house.event("emm.unknown", 1).await;
    assert_eq!(event.data["notification_type"], "gateway_status");
    let (sim, house) = world.stop().await;
    assert_eq!(sim.sessions(), 0, "the session is released");
    assert_eq!(house.bad().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_as_the_vendor_prints_them_lose_nothing() {
    let world = World::with(|options| {
        options.literal_alarms = true;
        options.sloppy_lists = true;
        options.status_words = true;
    })
    .await;
    let mut active = Vec::new();
    for (n, form) in [Form::Valid, Form::NoCommas, Form::AsPrinted].into_iter().enumerate() {
        world.sim.set(|options| options.form = form);
        world.sim.page("one", false);
        active.push(world.sim.raise("Lift", "text: \"{[,]}\" } {"));
        world.sim.page("three", true);
        world.house.event("emm.user_event", 2 * (n + 1)).await;
        let event = world.house.event("emm.active_alarm", n + 1).await;
        assert_eq!(event.data["recipient_id"], 15);
        assert_eq!(event.data["recipient_name"], "Nurses");
        assert_eq!(event.data["active_text"], "text: \"{[,]}\" } {");
        assert_eq!(event.data["send_resets"], true);
    }
    world.sim.clear(active[1]);
    world.house.event("emm.alarm_cleared", 1).await;
    world.same_alarms().await;
    world.each_message_once();
    assert_eq!(world.house.events_of("emm.unparsed").len(), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_answer_that_is_lost_is_found_again() {
    let world = World::new().await;
    let old = world.sim.raise("Old", "was heard live");
    world.house.event("emm.active_alarm", 1).await;
    for round in 0..3 {
        world.sim.set(|options| options.cut_changes = 1);
        world.sim.page("lost on the way", false);
        world.sim.raise("New", "lost on the way");
        world.house.event("emm.user_event", round + 1).await;
        world.same_alarms().await;
    }
    world.sim.set(|options| options.cut_changes = 1);
    world.sim.clear(old);
    let cleared = world.house.event("emm.alarm_cleared", 1).await;
    assert!(cleared.marks.caught_up);
    assert_eq!(cleared.data["name"], "Old");
    world.settled().await;
    let lost = world.house.events_of("emm.user_event");
    assert!(lost.iter().all(|e| e.marks.caught_up && e.trust < Trust::Fresh));
    assert_eq!(world.house.events_of("emm.active_alarm").len(), 4);
    world.same_alarms().await;
    world.each_message_once();

    // Heard live again, and what was lost is not told a second time.
    world.sim.page("live", false);
    assert!(world.house.event("emm.user_event", 4).await.marks.is_plain());
    world.each_message_once();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_cut_body_is_told_at_once() {
    let world = World::new().await;
    world.sim.set(|options| options.cut_bodies = 1);
    let id = world.sim.raise("Boiler", "too hot");
    let alarm = world.house.event("emm.active_alarm", 1).await;
    assert_eq!((&alarm.data["id"], alarm.marks.caught_up), (&json!(id), false));
    let cut = world.house.event("emm.unparsed", 1).await;
    assert_eq!(cut.data["error"], "the body ends early");
    world.settled().await;
    world.same_alarms().await;
    assert_eq!(world.house.events_of("emm.active_alarm").len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_kept_told_and_looked_for_elsewhere() {
    let world = World::new().await;
    world.sim.set(|options| options.garbage_changes = 1);
    let id = world.sim.raise("Boiler", "too hot");
    let event = world.house.event("emm.unparsed", 1).await;
    assert!(event.data["text"].as_str().unwrap().contains("notifications"));
    let alarm = world.house.event("emm.active_alarm", 1).await;
    assert!(alarm.marks.caught_up);
    assert_eq!(alarm.data["id"], id);
    assert_eq!(world.house.bad().len(), 1);
    world.same_alarms().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_and_disorder_change_nothing() {
    let world = World::with(|options| options.duplicates = true).await;
    let id = world.sim.raise("Lift", "stuck");
    world.sim.page("x", false);
    world.house.event("emm.user_event", 1).await;
    world.sim.clear(id);
    world.house.event("emm.alarm_cleared", 1).await;
    world.sim.set(|options| options.reorder = true);
    // Raised and ended within one poll, told the wrong way round.
    let short = world.sim.raise("Short", "for a moment");
    world.sim.clear(short);
    world.sim.raise("Stays", "on");
    world.house.event("emm.alarm_cleared", 2).await;
    world.house.event("emm.active_alarm", 3).await;
    world.settled().await;
    world.same_alarms().await;
    assert_eq!(world.house.events_of("emm.active_alarm").len(), 3);
    assert_eq!(world.house.events_of("emm.alarm_cleared").len(), 2);
    world.each_message_once();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_costs_one_login() {
    let world = World::new().await;
    assert_eq!(world.sim.logins(), 1);
    world.sim.expire_tokens();
    world.sim.page("after", false);
    world.house.event("emm.user_event", 1).await;
    assert_eq!(world.sim.logins(), 2);
    // A command that meets an expired token goes again with the next one.
    world.sim.expire_tokens();
    let sent = world.done("send", json!({ "text": "hello", "to": ["12"] })).await;
    assert!(sent["message_id"].is_i64());
    assert_eq!(world.sim.received().len(), 1);
    assert_eq!((world.sim.logins(), world.sim.sessions()), (3, 1));
    // What is not allowed is no reason to log in.
    world.sim.set(|options| options.read_only = true);
    let why = world.refused("read", json!({ "id": 1 })).await;
    assert!(why.contains("not allowed"), "{why}");
    assert_eq!((world.sim.logins(), world.sim.sessions()), (3, 1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_session_is_not_hammered() {
    let world = World::new().await;
    world.sim.set(|options| options.forbidden = true);
    let is_down =
        |house: &TestHouse| house.state("emm/block/link").filter(|link| link["up"] == false);
    let link = world.house.until("the link to be down", is_down).await;
    assert!(link["why"].as_str().unwrap().contains("right after login"), "{link}");
    assert_eq!(world.sim.logins(), 2);
    let reply = world.order("send", json!({ "text": "x", "to": ["12"] })).await;
    assert!(matches!(reply, Reply::Unsent(why) if why.contains("not connected")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_session_behind_and_loses_nothing() {
    let world = World::with(|options| options.sessions_max = Some(1)).await;
    let raised = world.sim.raise("Lift", "stuck");
    world.house.event("emm.active_alarm", 1).await;
    world.driver.abort();
    let _ = world.driver.await;
    // Meanwhile: what another reader would have drained, and an end.
    world.sim.page("while away", false);
    world.sim.clear(raised);
    let (run, driver) = start(&world.sim, &world.house);
    let world = World { run, driver, ..world };
    let message = world.house.event("emm.user_event", 1).await;
    assert!(message.marks.caught_up, "it happened while nobody listened");
    world.house.event("emm.alarm_cleared", 1).await;
    world.settled().await;
    assert_eq!((world.sim.logins(), world.sim.sessions()), (1, 1), "the same session goes on");
    assert_eq!(world.house.events_of("emm.active_alarm").len(), 1);
    let (sim, house) = world.stop().await;
    assert_eq!(sim.sessions(), 0);

    // No session is free: said, and not tried again at once.
    let other = Sim::start().unwrap();
    other.set(|options| options.sessions_max = Some(0));
    let (run, driver) = start(&other, &house);
    let world = World { sim: other, house, run, driver };
    let is_full = |house: &TestHouse| {
        let link = house.state("emm/block/link")?;
        link["why"].as_str().filter(|why| why.contains("no session is free")).map(String::from)
    };
    world.house.until("the limit to be said", is_full).await;
    assert_eq!(world.sim.logins(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_kept_and_not_read_is_read_at_the_next_start() {
    let sim = Sim::start().unwrap();
    let house = TestHouse::new().await;
    let (link, _) = house.link(SOURCE);
    let body = br#"{"notifications":[{"type":"active_alarm","notification":{"id":1,"alarm_id":1,"cleared":false,"active_time":1700000000,"msg_id":4,"name":"Gas","active_text":"gas"}}]}"#;
    link.intake.keep_body(SOURCE, body).await;
    drop(link);
    let (run, driver) = start(&sim, &house);
    let world = World { sim, house, run, driver };
    let event = world.house.event("emm.active_alarm", 1).await;
    assert!(event.marks.caught_up);
    assert_eq!(event.data["name"], "Gas");
    world.settled().await;
    let (_, house) = world.stop().await;
    assert_eq!(house.link(SOURCE).0.unread, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_silences_changes_alarms_once_and_nothing_is_missed() {
    let world = World::new().await;
    world.done("webpush.subscribe", json!({ "endpoint": "https://x", "p256dh": "k" })).await;
    let event = world.house.event("emm.changes_silenced", 1).await;
    assert_eq!(event.subject.as_deref(), Some(USERNAME));
    world.sim.page("only in the inbox", false);
    world.sim.raise("Only listed", "x");
    assert!(world.house.event("emm.user_event", 1).await.marks.caught_up);
    assert!(world.house.event("emm.active_alarm", 1).await.marks.caught_up);
    assert_eq!(world.house.state("emm/block/changes").unwrap()["silenced"], true);
    world.run.stopping.cancel();
    let _ = world.driver.await;

    let (run, driver) = start(&world.sim, &world.house);
    let world = World { run, driver, ..world };
    world.sim.page("again", false);
    world.house.event("emm.user_event", 2).await;
    assert_eq!(world.house.events_of("emm.changes_silenced").len(), 1);
    world.sim.subscribe(false);
    let speaks = |house: &TestHouse| {
        house.state("emm/block/changes").filter(|changes| changes["silenced"] == false)
    };
    world.house.until("the end of the silence", speaks).await;
    world.settled().await;
    world.sim.page("live", false);
    assert!(world.house.event("emm.user_event", 3).await.marks.is_plain());
    world.each_message_once();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_back_from_pages_throttling_errors_and_drops() {
    let world = World::new().await;
    let is = |up: bool| {
        move |house: &TestHouse| house.state("emm/block/link").filter(|link| link["up"] == up)
    };
    world.sim.set(|options| options.html = true);
    world.house.until("down by pages", is(false)).await;
    world.sim.page("behind a page", false);
    world.sim.set(|options| options.html = false);
    world.house.event("emm.user_event", 1).await;
    world.house.until("up again", is(true)).await;

    world.sim.set(|options| options.drop_calls = 2);
    world.house.until("down by drops", is(false)).await;
    world.sim.page("after drops", false);
    world.house.event("emm.user_event", 2).await;

    world.sim.set(|options| options.errors = 1);
    world.house.until("up after errors", is(true)).await;
    world.sim.page("after errors", false);
    world.house.event("emm.user_event", 3).await;

    world.sim.set(|options| options.pace_least = Some(Duration::from_millis(150)));
    world.sim.page("slowly", false);
    world.house.event("emm.user_event", 4).await;
    world.settled().await;
    world.each_message_once();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_emm_is_found_and_nothing_is_lost() {
    let world = World::new().await;
    world.sim.set(|options| options.half_open = true);
    world.sim.page("while it hangs", false);
    let sending = world.order("send", json!({ "text": "x", "to": ["12"] })).await;
    assert!(matches!(sending, Reply::Unknown(_)), "{sending:?}");
    let is_down =
        |house: &TestHouse| house.state("emm/block/link").filter(|link| link["up"] == false);
    world.house.until("the dead connection to be found", is_down).await;
    let reply = world.order("send", json!({ "text": "x", "to": ["12"] })).await;
    assert!(matches!(reply, Reply::Unsent(_) | Reply::Unknown(_)), "{reply:?}");
    world.sim.set(|options| options.half_open = false);
    world.house.event("emm.user_event", 1).await;
    world.each_message_once();
    // It ends promptly even if the EMM hangs again.
    world.sim.set(|options| options.half_open = true);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_sent_to_names_and_numbers() {
    let world = World::new().await;
    let args = json!({ "text": "Fire in {B}", "to": ["night guard", "15"], "priority": true, "tone": "C", "reply_to": 7 });
    world.done("send", args).await;
    let sent = &world.sim.received()[0];
    assert_eq!(sent.call, "POST users/self/events/send");
    let event = json!({ "text": "Fire in {B}", "priority": 1, "tone": "C", "recipients": "12,15", "reply_message_id": 7 });
    assert_eq!(sent.params["event"], event);

    let why = world.refused("send", json!({ "text": "x", "to": ["Nurse"] })).await;
    assert!(why.contains("did you mean `Nurses`"), "{why}");
    let why = world.refused("send", json!({ "text": "x", "to": ["twin"] })).await;
    assert!(why.contains("17, 18"), "{why}");
    assert_eq!(world.sim.received().len(), 1, "what is unclear is not sent");

    // An EMM that wants the fields flat: found out once, then known.
    world.sim.set(|options| options.flat_only = true);
    for _ in 0..2 {
        world.done("send", json!({ "text": "flat", "to": ["Nurses"] })).await;
    }
    let received = world.sim.received();
    assert_eq!(received.len(), 1 + 2 + 1);
    assert_eq!(received[3].params["recipients"], "15");
    let why = world.refused("send", json!({ "text": "x", "to": ["99"] })).await;
    assert!(why.contains("HTTP 400"), "{why}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_command_reaches_the_emm() {
    let world = World::with(|options| options.plural_user_only = true).await;
    let id = world.sim.page("to be read", false);
    world.house.event("emm.user_event", 1).await;
    let one = json!({ "id": id });
    assert_eq!(world.done("inbox", json!({})).await["total"], 1);
    assert_eq!(world.done("event", one.clone()).await["message"], "to be read");
    for (call, status) in [
        ("read", "read"),
        ("accept", "acknowledge"),
        ("escalate", "force_escalate"),
        ("cancel", "cancel_alarm"),
    ] {
        assert_eq!(world.done(call, one.clone()).await["status_name"], status);
    }
    let unread =
        |house: &TestHouse| house.state("emm/block/inbox").filter(|inbox| inbox["unread"] == 0);
    world.house.until("nothing to be unread", unread).await;
    world.done("delete", one).await;
    assert_eq!(world.sim.inbox(), []);

    let alarm = world.sim.raise("Lift", "stuck");
    world.house.event("emm.active_alarm", 1).await;
    let listed = world.done("active_alarms", json!({})).await;
    assert_eq!(listed["alarms"][0]["alarm_name"], "Lift");
    assert_eq!(world.done("alarm", json!({ "id": alarm })).await["activation_text"], "stuck");
    world.done("cancel_alarm", json!({ "id": alarm })).await;
    world.house.event("emm.alarm_cleared", 1).await;
    assert!(world.refused("cancel_alarm", json!({ "id": alarm })).await.contains("fail"));

    assert_eq!(world.done("recipients", json!({ "value": "n*" })).await["count"], 2);
    assert_eq!(world.done("recipient", json!({ "id": 15 })).await["name"], "Nurses");
    assert_eq!(world.done("contacts", json!({ "value": "clint*" })).await["count"], 1);
    let edit = json!({ "id": 2, "fields": { "phone": "777" } });
    assert_eq!(world.done("contact.edit", edit).await["phone"], "777");
    assert_eq!(world.done("contact", json!({ "id": 2 })).await["name"], "Damian");
    assert!(world.refused("contact.delete", json!({ "id": 1 })).await.contains("Lift alarm"));
    assert_eq!(world.done("contact.delete", json!({ "id": 2 })).await["status"], "success");
    assert_eq!(world.done("users", json!({})).await["total"], 1);
    assert_eq!(world.done("user", json!({})).await["language"], "en");
    let set = json!({ "settings": { "language": "fr" } });
    assert_eq!(world.done("user.set", set).await["language"], "fr");
    assert!(world.done("settings", json!({})).await["point"].as_str().unwrap().starts_with("BA"));
    assert_eq!(world.done("webpush", json!({})).await["status"], 0);
    assert_eq!(world.done("webpush.unsubscribe", json!({})).await["status"], 1);

    let mut secrets = Map::new();
    secrets.insert("password".into(), "a new password".into());
    let changed = world.run.secret_order(SOURCE, "password", json!({}), secrets).await;
    assert!(matches!(changed, Reply::Done(_)), "{changed:?}");
    // The session logs in with the new one from now on.
    world.sim.expire_tokens();
    world.sim.page("after the change", false);
    world.house.event("emm.user_event", 2).await;
    let known = serde_json::to_string(&world.house.states(SOURCE)).unwrap();
    assert!(!known.contains("password"), "{known}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emm_that_is_not_there_refuses_nothing_for_good() {
    let sim = Sim::start().unwrap();
    let house = TestHouse::new().await;
    sim.stop().await;
    let (run, driver) = start(&sim, &house);
    let world = World { sim, house, run, driver };
    let is_down =
        |house: &TestHouse| house.state("emm/block/link").filter(|link| link["up"] == false);
    world.house.until("the failure to be said", is_down).await;
    let reply = world.order("send", json!({ "text": "x", "to": ["1"] })).await;
    assert!(matches!(reply, Reply::Unsent(_)), "{reply:?}");
    world.stop().await;
}
