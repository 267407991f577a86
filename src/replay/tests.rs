use serde_json::{Map, json};

use super::*;
use crate::action::PhoneId;
use crate::alert::ack_event;
use crate::event::{Marks, Trust};
use crate::node::SourceFile;
use crate::rules::House;

/// A house that decides as the router does, and the journal that it leaves.
struct Then {
    rules: RuleSet,
    ledger: Ledger,
    journal: Vec<(Position, Record)>,
    next: u64,
    now: Timestamp,
}

fn house() -> House {
    House {
        people: ["ana".to_string(), "ben".to_string()].into(),
        sources: ["netatmo/home".to_string()].into(),
        ..House::default()
    }
}

fn rules(text: &str) -> RuleSet {
    let files = vec![SourceFile::new("rules/a.yaml", text)];
    RuleSet::load(files, &house()).unwrap_or_else(|problems| panic!("{}", problems.render()))
}

fn event(kind: &str, number: u32, at: Timestamp) -> Event {
    Event {
        id: EventId::derive([kind, &number.to_string()]),
        source: "netatmo/home".into(),
        kind: kind.into(),
        subject: Some("cam".into()),
        time: None,
        received: at,
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: Map::from_iter([("number".to_string(), json!(number))]),
        raw: Vec::new(),
    }
}

impl Then {
    fn new(text: &str) -> Then {
        let mut ledger = Ledger::default();
        for person in ["ana", "ben"] {
            ledger.memory.set_phone(person, PhoneId(person.into()));
        }
        let now = "2026-11-20T10:00:00Z".parse().unwrap();
        Then { rules: rules(text), ledger, journal: Vec::new(), next: 1, now }
    }

    fn write(&mut self, record: Record) -> Position {
        let position = Position(self.next);
        self.next += 1;
        if !matches!(record, Record::Seen(_)) {
            self.ledger.apply(&record);
        }
        self.journal.push((position, record));
        position
    }

    fn take(&mut self, event: Event) -> Decided {
        let event = Arc::new(event);
        let seen = self.write(Record::Seen(event.clone()));
        let decided = builtin::decide(&event, seen, self.now)
            .unwrap_or_else(|| self.rules.decide(&event, seen, &self.ledger.memory, self.now));
        self.write(Record::Decided(Arc::new(decided.clone())));
        for action in &decided.actions {
            let outcome = Outcome::Delivered;
            let settled = Settled::new(action.id, outcome, 1, self.now);
            self.write(Record::Settled(settled));
            if let Task::Emit(event) = &action.task {
                self.take((**event).clone());
            }
        }
        decided
    }

    fn happen(&mut self, kind: &str, number: u32) -> Decided {
        self.take(event(kind, number, self.now))
    }

    /// Time passes; waits that are over are told a little late.
    fn pass(&mut self, seconds: i64) {
        self.now += jiff::SignedDuration::from_secs(seconds);
        let next = |then: &Then| {
            let timers = then.ledger.memory.timers();
            timers.due(then.now).next().map(|timer| timer.due_event(then.now))
        };
        while let Some(due) = next(self) {
            self.take(due);
        }
    }

    fn replay(&self, text: &str) -> (Coverage, Differences) {
        let rules = rules(text);
        let mut start = Ledger::default();
        for person in ["ana", "ben"] {
            start.memory.set_phone(person, PhoneId(person.into()));
        }
        let mut replay = Replay::new(&rules, start, Position(1), Timestamp::MAX);
        for (position, record) in &self.journal {
            replay.record(*position, record.clone());
        }
        replay.finish()
    }
}

const RULES: &str = r#"
rules:
  - name: bell
    when: { type: netatmo.ring }
    cooldown: 1m
    do:
      - push: { to: ana, title: "Ring {{ event.data.number }}" }
      - emit: { type: house.rang, data: { number: "{{ event.data.number }}" } }
  - name: rang
    when: { type: house.rang }
    do: [ set: { house/rang: "{{ event.data.number }}" } ]
  - name: left open
    when: { type: netatmo.human }
    for: 10m
    unless: { type: netatmo.animal }
    do: [ push: { to: ben, title: "Window" } ]
  - name: smoke
    when: { type: netatmo.smoke }
    do:
      - escalate:
          - { after: 0s, push: { to: ana, title: "Smoke" } }
          - { after: 1m, push: { to: ben, title: "Smoke, still" } }
"#;

fn day(text: &str) -> Then {
    let mut then = Then::new(text);
    then.happen("netatmo.ring", 1);
    then.pass(10);
    then.happen("netatmo.ring", 2);
    then.happen("netatmo.human", 1);
    then.pass(601);
    then.happen("netatmo.ring", 3);
    then.happen("netatmo.human", 2);
    then.pass(120);
    then.happen("netatmo.animal", 1);
    let smoke = then.happen("netatmo.smoke", 1);
    then.pass(30);
    then.take(ack_event(&[smoke.alerts[0].id], "ana", "phone", Some("ana"), then.now));
    then.pass(1000);
    then.happen("netatmo.ring", 4);
    then
}

#[test]
fn the_same_rules_differ_in_nothing() {
    let (coverage, differences) = day(RULES).replay(RULES);
    assert_eq!(differences.events, []);
    assert_eq!((coverage.events, coverage.decided), (9, 9));
    // Three emitted events and one wait.
    assert_eq!((coverage.made_by_rules, coverage.assumed_delivered), (4, 0));
    assert_eq!(differences.rules["bell"], Fired { before: 3, now: 3 });
    assert_eq!(differences.rules["left open"], Fired { before: 1, now: 1 });
}

#[test]
fn a_condition_loses_firings_and_all_that_followed() {
    let changed = RULES.replace("cooldown: 1m", "cooldown: 1m\n    if: event.data.number != 3");
    let (_, differences) = day(RULES).replay(&changed);
    assert_eq!(differences.rules["bell"], Fired { before: 3, now: 2 });
    assert_eq!(differences.rules["rang"], Fired { before: 3, now: 2 });
    let [ring, rang] = &differences.events[..] else { panic!("{differences:?}") };
    assert_eq!((&*ring.rules[0].before, &*ring.rules[0].now), ("fired", "condition"));
    assert!(ring.rules[0].why.contains("event.data.number"), "{}", ring.rules[0].why);
    assert_eq!(ring.lost.len(), 2);
    assert_eq!(rang.lost, [r#"set house/rang to 3"#]);
}

#[test]
fn a_shorter_cooldown_gains_firings_and_their_followers_without_reading_them_twice() {
    let (coverage, differences) = day(RULES).replay(&RULES.replace("cooldown: 1m", "cooldown: 5s"));
    assert_eq!(differences.rules["bell"], Fired { before: 3, now: 4 });
    assert_eq!(differences.rules["rang"], Fired { before: 3, now: 4 });
    assert_eq!(differences.events[0].gained[1], r#"push to ana: "Ring 2" (normal)"#);
    assert_eq!(differences.events[0].rules[0].before, "cooldown");
    assert_eq!(differences.count, 2);
    assert_eq!(coverage.assumed_delivered, 1);
}

#[test]
fn waits_end_at_their_own_moment() {
    // Ten minutes passed only once; one minute passed twice before the window was closed.
    let (_, differences) = day(RULES).replay(&RULES.replace("for: 10m", "for: 1m"));
    assert_eq!(differences.rules["left open"], Fired { before: 1, now: 2 });
    let kinds: Vec<&str> = differences.events.iter().map(|d| d.kind.as_str()).collect();
    assert!(kinds.contains(&DUE_EVENT), "{kinds:?}");
    let first: Timestamp = "2026-11-20T10:01:10Z".parse().unwrap();
    assert!(differences.events.iter().any(|d| d.kind == DUE_EVENT && d.at == first));
}

#[test]
fn an_acknowledgement_ends_what_another_rule_raised_for_the_same_event() {
    let renamed = RULES.replace("name: smoke", "name: fire");
    let (_, differences) = day(RULES).replay(&renamed);
    assert_eq!(differences.rules["fire"], Fired { before: 0, now: 1 });
    let still = |effects: &[String]| effects.iter().any(|effect| effect.contains("still"));
    assert!(!differences.events.iter().any(|d| still(&d.gained)), "{:?}", differences.events);
    let eager = RULES.replace("after: 1m", "after: 10s");
    let (_, differences) = day(RULES).replay(&eager);
    assert!(differences.events.iter().any(|d| still(&d.gained)), "{:?}", differences.events);
}

#[test]
fn rules_that_feed_each_other_come_to_an_end() {
    let text = r#"
rules:
  - name: loop
    when: { type: [netatmo.ring, house.rang] }
    if: true
    do: [ emit: { type: house.rang } ]
"#;
    let (_, differences) = day(RULES).replay(text);
    let fired = differences.rules["loop"];
    assert_eq!((fired.before, fired.now > 4), (0, true));
}

proptest::proptest! {
    #[test]
    fn whatever_happens_the_same_rules_differ_in_nothing(
        steps in proptest::collection::vec((0usize..5, 0i64..900), 1..40),
    ) {
        let mut then = Then::new(RULES);
        let mut alerts = Vec::new();
        for (number, (what, pause)) in steps.into_iter().enumerate() {
            then.pass(pause);
            let kind = ["netatmo.ring", "netatmo.human", "netatmo.animal", "netatmo.smoke"].get(what);
            match kind {
                Some(kind) => {
                    let decided = then.happen(kind, u32::try_from(number).unwrap());
                    alerts.extend(decided.alerts.iter().map(|alert| alert.id));
                }
                None => {
                    let ack = ack_event(&alerts, "ana", "page", None, then.now);
                    then.take(ack);
                }
            }
        }
        let (coverage, differences) = then.replay(RULES);
        proptest::prop_assert_eq!(differences.events, []);
        proptest::prop_assert_eq!((coverage.assumed_delivered, coverage.cut_off), (0, 0));
        let fired = |text: &str| then.replay(text).1.rules;
        let other = fired(&RULES.replace("cooldown: 1m", "cooldown: 5s"));
        for (rule, count) in &differences.rules {
            proptest::prop_assert_eq!(other[rule].before, count.before);
            proptest::prop_assert!(other[rule].now >= count.now);
        }
    }
}
