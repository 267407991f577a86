use std::sync::mpsc as events;

use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::action::{Lane as ActionLane, Task};
use crate::door::{By, Opener, Rate};
use crate::event::{EventId, Marks, Trust};
use crate::record::KnownChange;

const RELAY: &str = "fibaro/gate/relay/0";

struct Scene {
    doors: Doors,
    clock: Clock,
    driver: mpsc::Receiver<Order>,
    told: events::Receiver<(Event, Option<Settled>)>,
}

fn start() -> Timestamp {
    "2026-11-20T10:00:00Z".parse().unwrap()
}

fn house() -> House {
    let front = Door {
        name: "front".into(),
        title: None,
        by: Opener::Fibaro { intercom: "gate".into(), relay: 0 },
        requires: Trust::Fresh,
        max_age: Duration::from_secs(10),
        max_rate: Rate::default(),
    };
    let by = Opener::Vms { site: "block".into(), intercom: "180".into() };
    let lobby = Door { name: "lobby".into(), by, ..front.clone() };
    let all = [front, lobby].map(|door| (door.name.clone(), door));
    House { all: all.into(), ..House::default() }
}

fn scene(owed: Vec<Action>) -> Scene {
    let clock = Clock::manual(start());
    clock.now();
    let (orders, driver) = mpsc::channel(4);
    let (tell, told) = events::channel();
    let drivers = ["fibaro/gate", "vms/block"].map(|to| (to.to_string(), orders.clone()));
    let doors = Doors::start(Setup {
        opened: Default::default(),
        commanded: Vec::new(),
        doors: Arc::new(house()),
        drivers: drivers.into(),
        owed,
        since: Position(100),
        clock: clock.clone(),
        report: Box::new(move |event, settled| tell.send((event, settled)).unwrap()),
    });
    Scene { doors, clock, driver, told }
}

fn action(door: &str, number: u8) -> Action {
    let wish = Opening {
        door: door.into(),
        for_ms: Some(3000),
        trust: Trust::Fresh,
        marks: Marks::default(),
        received: start(),
        time: None,
        by: By::Rule,
        event: Some(EventId([number; 16])),
        hops: 0,
    };
    Action {
        id: ActionId([number; 16]),
        rule: "bell".into(),
        step: "do[0]".into(),
        deadline: start() + SignedDuration::from_secs(10),
        not_before: None,
        lane: ActionLane::Normal,
        alert: None,
        task: Task::Open(Box::new(wish)),
    }
}

fn decided(seen: u64, actions: Vec<Action>) -> Decided {
    Decided {
        event: EventId([1; 16]),
        seen: Position(seen),
        at: start(),
        actions,
        ..Decided::default()
    }
}

fn says_open(at: Timestamp) -> Record {
    let to = Becomes::Is(json!({ "open": true, "method": "WS_API" }));
    let changes = vec![KnownChange { path: RELAY.into(), to }];
    Record::Known(Arc::new(Known {
        source: "fibaro/gate".into(),
        trust: Trust::Fresh,
        at,
        changes,
    }))
}

fn signal(number: u8, open: bool) -> Record {
    let data = json!({ "open": open, "relay": 0, "method": "PIN-ENTERED", "user": "ana" });
    Record::Seen(Arc::new(Event {
        id: EventId([number; 16]),
        source: "fibaro/gate".into(),
        kind: "fibaro.relay".into(),
        subject: Some("0".into()),
        time: None,
        received: start(),
        trust: Trust::Fresh,
        marks: Marks::default(),
        hops: 0,
        data: serde_json::from_value(data).unwrap(),
        raw: Vec::new(),
    }))
}

impl Scene {
    /// Type and reason of what was told, and how the action was settled.
    async fn told(&mut self) -> (String, String, Option<&'static str>) {
        for _ in 0..1000 {
            if let Ok((event, settled)) = self.told.try_recv() {
                let why = event.data.get("why").and_then(|why| why.as_str()).unwrap_or_default();
                let kind = event.kind.strip_prefix(tell::PREFIX).unwrap().to_string();
                return (kind, why.into(), settled.map(|settled| settled.outcome.label()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing was told");
    }

    async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        for _ in 0..count {
            kinds.push(self.told().await.0);
        }
        assert!(self.told.try_recv().is_err());
        kinds
    }
}

#[tokio::test(start_paused = true)]
async fn a_door_is_told_once_and_confirmed_by_its_own_signal() {
    let mut scene = scene(Vec::new());
    scene.doors.act(&decided(100, vec![action("front", 1)]));
    let order = scene.driver.recv().await.unwrap();
    assert_eq!(order.command.call, "relay.open");
    assert_eq!(
        serde_json::Value::Object(order.command.args),
        json!({ "relay": 0, "timeout": 3000 })
    );
    assert_eq!(order.deadline, start() + SignedDuration::from_secs(10));
    // The signal may come before the answer does.
    scene.doors.observe(&says_open(start()));
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(scene.told().await, ("commanded".into(), String::new(), Some("done")));
    assert_eq!(scene.told().await, ("confirmed".into(), String::new(), None));
    assert!(scene.driver.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_made_up_for_by_the_signal() {
    for drops in [true, false] {
        let mut scene = scene(Vec::new());
        scene.doors.act(&decided(100, vec![action("front", 1)]));
        let order = scene.driver.recv().await.unwrap();
        scene.doors.observe(&says_open(start()));
        let kept = (!drops).then_some(order);
        assert_eq!(scene.kinds(2).await, ["commanded", "confirmed"]);
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_signal_it_is_unconfirmed_and_an_old_signal_is_none() {
    let mut scene = scene(Vec::new());
    scene.doors.act(&decided(100, vec![action("front", 1)]));
    let order = scene.driver.recv().await.unwrap();
    scene.doors.observe(&says_open(start() - SignedDuration::from_secs(1)));
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(scene.kinds(2).await, ["commanded", "unconfirmed"]);
}

#[tokio::test(start_paused = true)]
async fn a_door_that_cannot_be_read_back_stays_commanded() {
    let mut scene = scene(Vec::new());
    let answer = scene.doors.expect(ActionId([1; 16]));
    scene.doors.act(&decided(100, vec![action("lobby", 1)]));
    let order = scene.driver.recv().await.unwrap();
    assert_eq!(serde_json::Value::Object(order.command.args), json!({ "intercom": "180" }));
    order.reply.send(Reply::Done(Value::Null)).unwrap();
    assert_eq!(answer.await.unwrap(), Ended { step: Step::Commanded, why: String::new() });
    assert_eq!(scene.kinds(1).await, ["commanded"]);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_driver_says_nothing_is_sent_again() {
    for (reply, kind, outcome) in [
        (Some(Reply::Unknown("cut".into())), "unknown", "unknown"),
        (Some(Reply::Refused("no".into())), "refused", "refused"),
        (Some(Reply::Unsent("not connected".into())), "refused", "refused"),
        (None, "unknown", "unknown"),
    ] {
        let mut scene = scene(Vec::new());
        scene.doors.act(&decided(100, vec![action("lobby", 1)]));
        let order = scene.driver.recv().await.unwrap();
        match reply {
            Some(reply) => order.reply.send(reply).unwrap(),
            None => drop(order),
        }
        let (told, _, settled) = scene.told().await;
        assert_eq!((told.as_str(), settled), (kind, Some(outcome)));
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(scene.driver.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_wish_while_one_is_on_its_way_is_refused() {
    let mut scene = scene(Vec::new());
    scene.doors.act(&decided(100, vec![action("front", 1), action("front", 2)]));
    let (kind, why, _) = scene.told().await;
    assert_eq!((kind.as_str(), why.as_str()), ("refused", "it is already on its way"));
    let _order = scene.driver.recv().await.unwrap();
    assert!(scene.driver.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn what_is_old_doubtful_or_not_durable_never_leaves() {
    let mut scene = scene(Vec::new());
    // Seen before the start.
    scene.doors.act(&decided(99, vec![action("front", 1)]));
    assert!(scene.told().await.1.contains("before Portero started"));
    // Not durable.
    scene.doors.act_unjournaled(&decided(100, vec![action("front", 2)]));
    assert!(scene.told().await.1.contains("journal"));
    // Old.
    scene.clock.set(start() + SignedDuration::from_secs(11));
    scene.doors.act(&decided(100, vec![action("front", 3)]));
    assert_eq!(scene.told().await.1, "the news is 11s old, and the door takes it for 10s");
    // The clock goes back to where the news looks young.
    scene.clock.jump(start() + SignedDuration::from_secs(1));
    scene.doors.act(&decided(100, vec![action("front", 4)]));
    assert!(scene.told().await.1.contains("clock was set"));
    scene.doors.close(Duration::from_secs(1)).await;
    scene.doors.act(&decided(100, vec![action("front", 5)]));
    assert_eq!(scene.told().await.1, "Portero stops");
    assert!(scene.driver.try_recv().is_err());
}

/// Opens the lobby for news that is read now.
fn act_on_news(scene: &Scene, number: u8) {
    let mut action = action("lobby", number);
    let Task::Open(wish) = &mut action.task else { panic!("an opening") };
    wish.received = scene.clock.now();
    scene.doors.act(&decided(100, vec![action]));
}

#[tokio::test(start_paused = true)]
async fn news_that_waited_while_portero_stood_still_opens_nothing() {
    let mut scene = scene(Vec::new());
    let later = |seconds| start() + SignedDuration::from_secs(seconds);
    scene.clock.beat();
    // Somebody rings, and Portero reads it 20 seconds later: before a beat, after it, and a second
    // after that.
    scene.clock.set(later(20));
    act_on_news(&scene, 1);
    scene.clock.beat();
    act_on_news(&scene, 2);
    scene.clock.set(later(21));
    scene.clock.beat();
    act_on_news(&scene, 3);
    for _ in 0..3 {
        let (kind, why, settled) = scene.told().await;
        assert_eq!((kind.as_str(), settled), ("refused", Some("refused")));
        assert!(why.contains("stood still"), "{why}");
    }
    assert!(scene.driver.try_recv().is_err());
    // Then all that lay there is read, and news is new again.
    scene.clock.set(later(23));
    scene.clock.beat();
    act_on_news(&scene, 4);
    assert_eq!(scene.driver.recv().await.unwrap().command.call, "open_door");
}

#[tokio::test(start_paused = true)]
async fn an_intent_without_an_outcome_is_unknown_and_never_sent() {
    let mut scene = scene(vec![action("front", 1), action("gone", 2)]);
    for _ in 0..2 {
        let (kind, _, settled) = scene.told().await;
        assert_eq!((kind.as_str(), settled), ("unknown", Some("unknown")));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(scene.driver.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_door_that_opens_without_us_is_told() {
    let mut scene = scene(Vec::new());
    scene.doors.observe(&signal(7, false));
    scene.doors.observe(&signal(8, true));
    assert_eq!(scene.told().await.0, "opened_elsewhere");
    scene.doors.act(&decided(100, vec![action("front", 1)]));
    scene.driver.recv().await.unwrap().reply.send(Reply::Done(Value::Null)).unwrap();
    scene.doors.observe(&says_open(start()));
    scene.doors.observe(&signal(9, true));
    assert_eq!(scene.kinds(2).await, ["commanded", "confirmed"]);
    scene.clock.set(start() + SignedDuration::from_secs(10));
    scene.doors.observe(&signal(10, true));
    assert_eq!(scene.kinds(1).await, ["opened_elsewhere"]);
}
