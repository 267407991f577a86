//! Any bytes as a rule file: they load or are refused with places, and what loads can decide.

use std::sync::Arc;

use jiff::Timestamp;
use portero::command::{Arg, Kind, Repeat, Spec};
use portero::event::{Event, EventId, Marks, Trust};
use portero::node::SourceFile;
use portero::record::Position;
use portero::rules::{House, Memory, RuleSet, System, selftest};

pub fn check(bytes: &[u8]) {
    let Ok(file) = SourceFile::from_bytes("fuzz.yaml", bytes) else { return };
    match RuleSet::load(vec![file], &house()) {
        Ok(rules) => decide(&rules),
        Err(problems) => {
            assert!(problems.has_errors(), "refused without a reason");
            assert!(!problems.render().is_empty());
        }
    }
}

/// One command with an argument of each kind.
static COMMANDS: [Spec; 1] = [Spec {
    name: "send",
    about: "",
    args: &[
        arg("to", Kind::Texts),
        arg("text", Kind::Text),
        arg("relay", Kind::Int(0, 1)),
        arg("duration", Kind::Number),
        arg("priority", Kind::Flag),
        arg("timeout", Kind::Millis(250, 30_000)),
        arg("mode", Kind::Word(&["day", "night"])),
        arg("message", Kind::Json),
        arg("pin", Kind::Secret),
    ],
    repeat: Repeat::Better,
    opens: true,
}];

const fn arg(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, required: false, about: "" }
}

fn system(name: &str) -> System {
    System { names: [name.to_string()].into(), commands: &COMMANDS }
}

fn house() -> House {
    let people = ["ana", "ben"].map(String::from);
    let groups = [("family".to_string(), people.to_vec())];
    House {
        people: people.into(),
        groups: groups.into(),
        sources: ["netatmo/home".to_string()].into(),
        systems: [("emm".to_string(), system("block")), ("fibaro".to_string(), system("gate"))]
            .into(),
        ..House::default()
    }
}

fn decide(rules: &RuleSet) {
    let event = Arc::new(Event {
        id: EventId([7; 16]),
        source: "netatmo/home".into(),
        kind: "netatmo.ring".into(),
        subject: Some("bell".into()),
        time: None,
        received: Timestamp::UNIX_EPOCH,
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: serde_json::Map::new(),
        raw: Vec::new(),
    });
    let mut memory = Memory::new();
    let decided = rules.decide(&event, Position(1), &memory, Timestamp::UNIX_EPOCH);
    memory.apply_decided(&decided, decided.at);
    let again = rules.decide(&event, Position(1), &Memory::new(), Timestamp::UNIX_EPOCH);
    assert_eq!(decided, again, "the same question has one answer");
    selftest::run(rules, &|_| Err("there are no fixtures here".into()));
}
