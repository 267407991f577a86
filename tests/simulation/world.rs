//! The house itself: one loop over everything that can happen next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use portero::action::{Action, ActionId, Outcome, PhoneId, Task};
use portero::alert::{AlertId, ack_event};
use portero::delivery::desk::{Answer, Desk};
use portero::delivery::push::Verdict;
use portero::door::{Door, Doors, Opener, Rate};
use portero::doors::{At, Memory, admit};
use portero::event::{Event, EventId, Marks, Trust};
use portero::ledger::Ledger;
use portero::node::SourceFile;
use portero::record::{
    Decided, PhoneChange, Position, Receipt, Record, Settled, Shown, Subscription,
};
use portero::rules::{House, RuleSet};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Map, json};

use super::far::{Planted, Pulse, Sent, Store};

const RULES: &str = r#"
rules:
  - name: smoke
    when: { type: netatmo.smoke }
    lane: alarm
    do:
      - escalate:
          - { after: 0s, push: { to: ana, title: SMOKE, ttl: 5m } }
          - { after: 20s, not_shown: 8s, push: { to: ben, title: SMOKE, ttl: 5m } }
          - { after: 40s, repeat: { every: 15s, times: 3 }, push: { to: family, title: SMOKE, ttl: 5m } }
  - name: left open
    when: { type: netatmo.tag_open }
    for: 12s
    unless: { type: netatmo.tag_small_move, subject: "{{ event.subject }}" }
    do: [ { emit: { type: house.open } } ]
  - name: bell
    when: { type: fibaro.button }
    mode: queued
    do:
      - open: front
      - wait: { for: 6s, until: { type: netatmo.tag_small_move } }
      - set: { house/bell: "{{ event.subject }}" }
  - name: known face
    when: { type: netatmo.person }
    do: [ { open: back } ]
"#;

/// Events of one run, and how long they take to come.
const EVENTS: usize = 14;
const SPAN_MS: u64 = 60_000;
/// When all is over: the escalation, its pushes' ends.
const END_MS: u64 = 900_000;
const SYNC_MS_MAX: u64 = 60;
const CRASHES_MAX: u64 = 4;
pub(super) const MAX_AGE: Duration = Duration::from_secs(5);

pub struct World {
    rng: TestRng,
    planted: Planted,
    rules: RuleSet,
    doors: Doors,
    pub(super) now: Timestamp,
    start: Timestamp,
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    desk: Desk,
    door: BTreeMap<String, Memory>,
    /// Pulses whose answer is awaited.
    asked: Vec<(Timestamp, Action)>,
    flights: Vec<(Timestamp, PhoneId, ActionId, Verdict)>,
    dead: BTreeSet<PhoneId>,
    /// What is still to come from outside; repeated until it is taken.
    to_come: Vec<(Timestamp, Event)>,
    /// Acknowledgements on their way, which a crash takes with it.
    said: BTreeSet<ActionId>,
    crashes: Vec<Timestamp>,
    crash_after_ack: bool,
    boot: Timestamp,
    /// When each event was accepted.
    pub accepted: BTreeMap<EventId, Timestamp>,
    pub(super) pulses: Vec<Pulse>,
    pub(super) sent: Vec<Sent>,
    pub(super) acked: BTreeMap<AlertId, Timestamp>,
    pub trace: Vec<String>,
}

impl World {
    pub fn new(seed: u64, planted: Planted) -> World {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let start: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let mut to_come = Vec::new();
        for number in 0..EVENTS {
            let at = start + Duration::from_millis(rng.next_u64() % SPAN_MS);
            to_come.push((at, outside(&mut rng, number)));
        }
        let crashes = (0..rng.next_u64() % CRASHES_MAX)
            .map(|_| start + Duration::from_millis(rng.next_u64() % (2 * SPAN_MS)))
            .collect();
        let crash_after_ack = rng.next_u64().is_multiple_of(2);
        let dead = ["a1", "b1"].into_iter().filter(|_| rng.next_u64().is_multiple_of(4));
        let dead = dead.map(|id| PhoneId(id.into())).collect();
        let mut world = World::bare(rng, planted, start);
        (world.to_come, world.crashes) = (to_come, crashes);
        (world.dead, world.crash_after_ack) = (dead, crash_after_ack);
        world
    }

    fn bare(rng: TestRng, planted: Planted, start: Timestamp) -> World {
        let doors = doors();
        let house = House {
            people: ["ana", "ben"].map(String::from).into(),
            groups: [("family".to_string(), vec!["ana".to_string(), "ben".to_string()])].into(),
            sources: ["netatmo/home", "fibaro/gate"].map(String::from).into(),
            doors: Arc::new(doors.clone()),
            time_zone: TimeZone::UTC,
            ..House::default()
        };
        let rules = RuleSet::load(vec![SourceFile::new("rules.yaml", RULES)], &house);
        let rules = rules.unwrap_or_else(|wrong| panic!("{}", wrong.render()));
        let mut world = World {
            rng,
            planted,
            rules,
            doors,
            now: start,
            start,
            store: Store::default(),
            ledger: Ledger::default(),
            desk: Desk::default(),
            door: BTreeMap::new(),
            asked: Vec::new(),
            flights: Vec::new(),
            dead: BTreeSet::new(),
            to_come: Vec::new(),
            said: BTreeSet::new(),
            crashes: Vec::new(),
            crash_after_ack: false,
            boot: start,
            accepted: BTreeMap::new(),
            pulses: Vec::new(),
            sent: Vec::new(),
            acked: BTreeMap::new(),
            trace: Vec::new(),
        };
        world.pair();
        world
    }

    /// The same events at the moments at which they were accepted, without any crash.
    pub fn calm_of(other: &World) -> World {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut world = World::bare(rng, Planted::None, other.start);
        world.dead = other.dead.clone();
        for record in &other.store.durable {
            let Record::Seen(event) = record else { continue };
            let Some(at) = other.accepted.get(&event.id) else { continue };
            if event.source != "portero" {
                world.to_come.push((*at, (**event).clone()));
            }
        }
        world.run();
        world
    }

    fn pair(&mut self) {
        for (person, id) in [("ana", "a1"), ("ben", "b1")] {
            let (id, at) = (PhoneId(id.into()), self.start);
            let (person, name) = (person.to_string(), String::new());
            let (session, code) = (None, None);
            let added = PhoneChange::Added { id: id.clone(), person, name, session, code, at };
            let text = String::new;
            let subscription = Subscription {
                endpoint: id.0.clone(),
                p256dh: text(),
                auth: text(),
                vapid: text(),
            };
            let subscribed = PhoneChange::Subscribed { id, subscription, at };
            for change in [added, subscribed] {
                self.ledger.apply(&Record::Phone(change.clone()));
                self.desk.phone(&change, self.now);
                self.store.durable.push(Record::Phone(change));
            }
        }
    }

    pub fn run(&mut self) {
        let end = self.start + Duration::from_millis(END_MS);
        while self.now < end {
            self.step();
            let next = self.next_moment().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_millis(1)).min(end);
        }
    }

    fn next_moment(&self) -> Option<Timestamp> {
        let timers = self.ledger.memory.timers().next_due();
        let flights = self.flights.iter().map(|flight| flight.0);
        let asked = self.asked.iter().map(|asked| asked.0);
        let outside = self.to_come.iter().map(|(at, _)| *at);
        let crashes = self.crashes.iter().copied();
        let all = flights.chain(asked).chain(outside).chain(crashes);
        let later = all.filter(|at| *at > self.now).min();
        // The desk has a clock of its own; a quarter of a second is fine enough for it.
        let tick = Some(self.now + Duration::from_millis(250));
        [later, self.store.wake(), timers, tick].into_iter().flatten().min()
    }

    fn step(&mut self) {
        if let Some(at) = self.crashes.iter().position(|at| *at <= self.now) {
            self.crashes.remove(at);
            self.crash();
        }
        self.arrive();
        self.answers();
        self.due();
        while let Some((index, record)) = self.store.next(self.now) {
            if self.durable(index, &record) {
                return;
            }
        }
        self.deliver();
    }

    fn note(&mut self, text: impl Into<String>) {
        let ms = self.now.as_millisecond() - self.start.as_millisecond();
        self.trace.push(format!("{ms:>7} {}", text.into()));
    }

    fn submit(&mut self, record: Record) {
        let ready = self.now + Duration::from_millis(self.rng.next_u64() % SYNC_MS_MAX);
        self.store.submit(record, ready);
    }

    /// Whoever sends is told when it is durable, and sends again until then.
    fn arrive(&mut self) {
        let now = self.now;
        let (mut come, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.to_come).into_iter().partition(|(at, _)| *at <= now);
        self.to_come = later;
        come.sort_by_key(|(at, event)| (*at, event.id));
        for (_, mut event) in come {
            if self.accepted.contains_key(&event.id) {
                continue;
            }
            event.received = now;
            self.note(format!("comes {} {:?}", event.kind, event.subject));
            let again = now + Duration::from_millis(2 * SYNC_MS_MAX);
            self.to_come.push((again, event.clone()));
            self.submit(Record::Seen(Arc::new(event)));
        }
    }

    /// A record is durable; whether the house crashed right after it.
    fn durable(&mut self, index: usize, record: &Record) -> bool {
        match record {
            Record::Seen(event) => {
                // Said twice, it is one event.
                if self.accepted.contains_key(&event.id) {
                    return false;
                }
                self.accepted.insert(event.id, self.now);
                self.note(format!("accepts {}", event.kind));
                if event.kind == "netatmo.smoke" && std::mem::take(&mut self.crash_after_ack) {
                    self.crash();
                    return true;
                }
                self.decide(index, event);
            }
            Record::Decided(decided) => self.act(decided),
            other => self.ledger.apply(other),
        }
        false
    }

    fn decide(&mut self, index: usize, event: &Arc<Event>) {
        let seen = Position(index as u64 + 1);
        let decided = self.rules.decide(event, seen, &self.ledger.memory, self.now);
        for looked in &decided.looked {
            self.note(format!("  {}: {}", looked.rule, looked.verdict.as_str()));
        }
        for acked in &decided.acked {
            self.acked.entry(acked.alert).or_insert(self.now);
            self.desk.hold(acked.alert);
        }
        let decided = Arc::new(decided);
        let record = Record::Decided(decided.clone());
        self.ledger.apply(&record);
        self.submit(record);
        if self.planted == Planted::SendsBeforeDurable {
            self.open_doors(&decided, false);
        }
        for action in &decided.actions {
            if let Task::Emit(event) = &action.task {
                self.submit(Record::Seen(Arc::new((**event).clone())));
            }
        }
    }

    fn act(&mut self, decided: &Arc<Decided>) {
        for acked in &decided.acked {
            self.desk.withdraw(acked.alert, "acknowledged", self.now);
        }
        self.desk.act(&decided.actions, self.now);
        if self.planted != Planted::SendsBeforeDurable {
            self.open_doors(decided, true);
        }
    }

    fn open_doors(&mut self, decided: &Decided, durable: bool) {
        for action in &decided.actions {
            if let Task::Open(_) = &action.task {
                self.pulse(action, durable);
            }
        }
    }

    fn pulse(&mut self, action: &Action, durable: bool) {
        let Task::Open(wish) = &action.task else { return };
        let door = self.doors.get(&wish.door).unwrap().clone();
        let steady = Duration::try_from(self.now.duration_since(self.start)).unwrap();
        // What was received before this start is of an unknown age.
        let age = Duration::try_from(self.now.duration_since(wish.received)).unwrap_or_default();
        let known = wish.received >= self.boot || self.planted == Planted::ResumesPulse;
        let at = At { now: self.now, steady, age: Ok(age) };
        let memory = self.door.entry(door.name.clone()).or_default();
        let admitted = if known { admit(&door, wish, &at, memory).is_ok() } else { false };
        if !admitted {
            self.note(format!("  {} stays shut", door.name));
            return self.settle(action.id, Outcome::Refused { why: "no".into() });
        }
        memory.sent(&door, steady);
        self.note(format!("  {} opens", door.name));
        let (received, trust, at) = (wish.received, wish.trust, self.now);
        self.pulses.push(Pulse { intent: action.id, at, received, trust, durable });
        let answer = self.now + Duration::from_millis(20 + self.rng.next_u64() % 400);
        self.asked.push((answer, action.clone()));
        // Crashes are aimed around pulses, too.
        if self.rng.next_u64().is_multiple_of(4) && self.crashes.len() < 3 {
            self.crashes.push(self.now + Duration::from_millis(self.rng.next_u64() % 100));
        }
    }

    fn settle(&mut self, action: ActionId, outcome: Outcome) {
        let settled = Settled::new(action, outcome, 1, self.now);
        self.submit(Record::Settled(settled));
    }

    /// Answers of the intercom and of the push services.
    fn answers(&mut self) {
        let now = self.now;
        let (came, wait): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.asked).into_iter().partition(|(at, _)| *at <= now);
        self.asked = wait;
        for (_, action) in came {
            let Task::Open(wish) = &action.task else { continue };
            self.door.entry(wish.door.clone()).or_default().ended();
            let lost = self.rng.next_u64().is_multiple_of(4);
            let unknown = Outcome::Unknown { why: "no answer".into() };
            self.settle(action.id, if lost { unknown } else { Outcome::Done });
        }
        let (came, wait): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.0 <= now);
        self.flights = wait;
        for (_, phone, action, verdict) in came {
            let taken = matches!(verdict, Verdict::Done);
            self.desk.answered(Answer { phone: phone.clone(), action, verdict }, now);
            if taken && !self.rng.next_u64().is_multiple_of(3) {
                let at = now;
                let what = Shown::Shown;
                self.submit(Record::Receipt(Receipt { action, phone: phone.clone(), what, at }));
                self.perhaps_acknowledge(action, &phone);
            }
        }
    }

    /// Somebody who sees it may say that they have it.
    fn perhaps_acknowledge(&mut self, action: ActionId, phone: &PhoneId) {
        let Some(alert) = self.ledger.memory.alerts().of(action) else { return };
        if !self.rng.next_u64().is_multiple_of(3) || !self.said.insert(action) {
            return;
        }
        self.desk.hold(alert);
        let event = ack_event(&[alert], &phone.0, "phone", Some(&phone.0), self.now);
        self.note("somebody has it");
        self.to_come.push((self.now, event));
    }

    fn due(&mut self) {
        let due: Vec<Event> = self
            .ledger
            .memory
            .timers()
            .due(self.now)
            .map(|timer| timer.due_event(self.now))
            .filter(|event| !self.accepted.contains_key(&event.id))
            .collect();
        for event in due {
            if self.to_come.iter().all(|(_, other)| other.id != event.id) {
                self.to_come.push((self.now, event));
            }
        }
    }

    /// What the lanes want to send, and what has ended in them.
    fn deliver(&mut self) {
        let turn = self.desk.turn(self.now);
        for start in turn.starts {
            let (phone, action) = (start.request.phone.clone(), start.request.action);
            let alert = self.ledger.owed.get(&action).and_then(|action| action.alert);
            self.sent.push(Sent { alert, at: self.now });
            let verdict = match self.rng.next_u64() % 5 {
                _ if self.dead.contains(&phone) => Verdict::retry("it is dead"),
                0 => Verdict::retry("503"),
                _ => Verdict::Done,
            };
            let at = self.now + Duration::from_millis(10 + self.rng.next_u64() % 2000);
            self.flights.push((at, phone, action, verdict));
        }
        for record in turn.records {
            self.submit(record);
        }
    }

    /// The power goes, and comes back.
    fn crash(&mut self) {
        self.note("CRASH");
        self.store.crash();
        self.flights.clear();
        self.asked.clear();
        self.door.clear();
        self.boot = self.now;
        let mut ledger = Ledger::default();
        let mut undecided: Vec<(usize, Arc<Event>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, record) in self.store.durable.iter().enumerate() {
            if let Record::Seen(event) = record
                && seen.insert(event.id)
            {
                undecided.push((index, event.clone()));
            }
            ledger.apply(record);
        }
        undecided.retain(|(index, _)| ledger.awaits_decision(Position(*index as u64 + 1)));
        if self.planted == Planted::ForgetsTimers {
            let mut kept = serde_json::to_value(&ledger.memory).unwrap();
            kept["timers"] = json!({});
            ledger.memory = serde_json::from_value(kept).unwrap();
        }
        self.ledger = ledger;
        let held = self.ledger.acknowledged(undecided.iter().map(|(_, event)| &**event));
        self.restart(&held);
        for (index, event) in undecided {
            self.decide(index, &event);
        }
    }

    /// What is owed is sent again; a door never is.
    fn restart(&mut self, held: &[AlertId]) {
        self.desk = Desk::default();
        held.iter().for_each(|alert| self.desk.hold(*alert));
        for (id, phone) in &self.ledger.phones {
            if let Some(subscription) = phone.subscription.clone() {
                self.desk.subscribe(id, subscription, self.now);
            }
        }
        let alerts = self.ledger.memory.alerts().iter();
        let acked: Vec<AlertId> =
            alerts.filter(|(_, alert)| alert.acked.is_some()).map(|(id, _)| id).collect();
        acked.into_iter().for_each(|alert| self.desk.withdraw(alert, "acknowledged", self.now));
        let owed: Vec<Action> = self.ledger.owed.values().cloned().collect();
        self.desk.act(&owed, self.now);
        for action in owed.iter().filter(|action| matches!(action.task, Task::Open(_))) {
            match self.planted {
                Planted::ResumesPulse => self.pulse(action, true),
                _ => self.settle(action.id, Outcome::Unknown { why: "stopped".into() }),
            }
        }
    }
}

/// The front door opens for what is fresh, the back door for what is authentic.
fn doors() -> Doors {
    let door = |name: &str, relay, requires| Door {
        name: name.into(),
        title: None,
        by: Opener::Fibaro { intercom: "gate".into(), relay },
        requires,
        max_age: MAX_AGE,
        max_rate: Rate { times: 4, per: Duration::from_secs(60) },
    };
    let doors = [door("front", 0, Trust::Fresh), door("back", 1, Trust::Authentic)];
    let all = doors.into_iter().map(|door| (door.name.clone(), door)).collect();
    Doors { all, ..Doors::default() }
}

/// Something that happens outside.
fn outside(rng: &mut TestRng, number: usize) -> Event {
    let kinds = [
        ("netatmo.smoke", "netatmo/home", Trust::Authentic),
        ("netatmo.tag_open", "netatmo/home", Trust::Authentic),
        ("netatmo.tag_small_move", "netatmo/home", Trust::Authentic),
        ("fibaro.button", "fibaro/gate", Trust::Fresh),
        ("netatmo.person", "netatmo/home", Trust::Authentic),
    ];
    let (kind, source, trust) = kinds[(rng.next_u64() % kinds.len() as u64) as usize];
    let caught_up = rng.next_u64().is_multiple_of(6);
    Event {
        id: EventId::derive([kind, &number.to_string()]),
        source: source.into(),
        kind: kind.into(),
        subject: Some(format!("w{}", rng.next_u64() % 3)),
        time: None,
        received: Timestamp::UNIX_EPOCH,
        trust: if caught_up { trust.min(Trust::Authentic) } else { trust },
        marks: Marks { caught_up, ..Marks::default() },
        hops: 0,
        data: Map::new(),
        raw: Vec::new(),
    }
}
