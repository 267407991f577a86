//! The Netatmo side as a whole: every fixture through signature and session, the list of types in
//! the code against the one people read, and what must hold for any body.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use jiff::Timestamp;
use portero::event::Heard;
use portero::event::Trust;
use portero::secret::Secret;
use portero::systems::netatmo::session::Session;
use portero::systems::netatmo::{Config, Signature, names, signature, types};
use proptest::prelude::*;
use serde_json::{Map, Value};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/netatmo");
const PAGE: &str = include_str!("../docs/events.md");

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn config() -> Config {
    Config {
        client_secret: Some(Secret::new("an app's secret")),
        signature: Signature::Require,
        ..Config::default()
    }
}

fn session() -> Session {
    Session::new("home", &config())
}

/// Every fixture by name, sorted.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let paths = fs::read_dir(FIXTURES).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &std::path::Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut all: Vec<_> = paths.map(|path| (name(&path), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("{FIXTURES}/{name}.json")).unwrap()
}

fn hear(body: &[u8]) -> Vec<Heard> {
    session().webhook(body, Trust::Authentic, now())
}

#[test]
fn every_fixture_becomes_what_it_says() {
    let (config, secret) = (config(), Secret::new("an app's secret"));
    let mut table = String::new();
    for (name, body) in fixtures() {
        let header = signature::sign(&secret, &body);
        let trust = signature::verify(&config, Some(header.as_bytes()), &body).unwrap();
        for Heard { event, also } in session().webhook(&body, trust, now()) {
            assert_eq!(event.raw, body, "{name}");
            assert_eq!(event.source, "netatmo/home");
            let told_by = if also.is_some() { "told apart by time" } else { "unique" };
            let subject = event.subject.as_deref().unwrap_or("-");
            let time = event.time.map(|time| format!(", at {time}")).unwrap_or_default();
            writeln!(table, "{name}: {} {subject}", event.kind).unwrap();
            writeln!(table, "  {} {told_by}, {}{time}", event.id, event.trust).unwrap();
            for (field, value) in &event.data {
                writeln!(table, "  {field}: {value}").unwrap();
            }
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn the_page_of_events_lists_exactly_the_types_there_are() {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `netatmo."));
    let listed: Vec<String> =
        rows.filter_map(|row| Some(format!("netatmo.{}", row.split_once('`')?.0))).collect();
    // First the webhooks' types, then those that only the cloud makes.
    let all: Vec<&str> =
        types().iter().chain(portero::systems::netatmo::api::TYPES).copied().collect();
    assert_eq!(listed, all);
}

#[test]
fn the_page_of_events_lists_every_word_there_is() {
    for kind in names::KINDS {
        let start = format!("| `{}` |", kind.name);
        let row = PAGE.lines().find(|line| line.starts_with(&start)).unwrap();
        for (number, word) in kind.words {
            assert!(row.contains(&format!("{number} `{word}`")), "{row}: {number} {word}");
        }
    }
}

#[test]
fn every_type_has_a_fixture() {
    let made = fixtures().into_iter().flat_map(|(_, body)| hear(&body));
    let made: BTreeSet<String> = made.map(|heard| heard.event.kind).collect();
    assert_eq!(made, types().iter().map(|name| name.to_string()).collect());
}

#[test]
fn a_visit_is_three_facts_although_they_share_one_event_id() {
    let visit = ["human_before_ring", "incoming_call", "missed_call"].map(fixture);
    let events = visit.map(|body| hear(&body).remove(0).event);
    assert_eq!(events[0].data["event_id"], events[1].data["event_id"]);
    assert_eq!(events[0].data["event_id"], events[2].data["event_id"]);
    let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn a_call_is_one_ring_and_one_end_however_often_it_is_told() {
    let session = session();
    let told = ["rtc_offer"; 3].into_iter().chain(["rtc_terminate"; 6]);
    let heard: Vec<_> =
        told.flat_map(|name| session.webhook(&fixture(name), Trust::Authentic, now())).collect();
    let facts: BTreeSet<_> = heard.iter().map(|heard| heard.event.id).collect();
    assert_eq!(facts.len(), 2);
    let end = &heard.last().unwrap().event;
    assert_eq!(end.kind, "netatmo.call_ended");
    assert_eq!(end.data["module_id"], "aabbcc-0000-111111111111");
    assert_eq!(end.subject.as_deref(), Some("aabbcc-0000-111111111111"));
}

#[test]
fn a_missed_call_says_whether_its_ring_was_heard() {
    let session = session();
    let hear =
        |name: &str| session.webhook(&fixture(name), Trust::Authentic, now()).remove(0).event;
    assert_eq!(hear("missed_call").data["rang"], false);
    hear("rtc_offer_doorbell");
    assert_eq!(hear("missed_call").data["rang"], true);
}

#[test]
fn the_persons_of_one_picture_are_told_apart() {
    let heard = hear(&fixture("persons_two"));
    assert_eq!(heard.len(), 2);
    assert_ne!(heard[0].event.id, heard[1].event.id);
    assert_eq!(heard[0].event.data["snapshot_url"], heard[1].event.data["snapshot_url"]);
}

#[test]
fn one_body_cannot_make_more_events_than_the_limit() {
    let persons: Vec<Value> = (0..1_000).map(|n| Value::from(format!("p{n}"))).collect();
    let body = serde_json::json!({ "push_type": "NACamera-person", "persons": persons });
    let heard = hear(body.to_string().as_bytes());
    assert_eq!(heard.len(), 32);
    assert_eq!(heard[31].event.data["persons_left_out"], 968);
}

// === What must hold for any body

const WORDS: [&str; 40] = [
    "event_type",
    "eventtype",
    "push_type",
    "event_id",
    "session_id",
    "device_id",
    "module_id",
    "home_id",
    "persons",
    "person_id",
    "id",
    "is_known",
    "face",
    "data",
    "type",
    "offer",
    "terminate",
    "sub_type",
    "snapshot",
    "vignette",
    "url",
    "filename",
    "extra_params",
    "home",
    "user",
    "rooms",
    "modules",
    "name",
    "timestamp",
    "message",
    "NDB-rtc",
    "NSD-smoke",
    "NACamera-person",
    "rtc",
    "ftp",
    "ftp-3",
    "-",
    "1",
    "1790000000",
    "session_description",
];

/// Any JSON, its fields and texts often ones that Netatmo uses.
fn any_json() -> impl Strategy<Value = Value> {
    let word = || prop_oneof![prop::sample::select(&WORDS[..]).prop_map(String::from), ".{0,12}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..10)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A seeded die.
struct Luck(u64);

impl Luck {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % n
    }
}

/// Writes `value` with its fields in another order, other blanks and other spellings.
fn disguise(value: &Value, luck: &mut Luck, out: &mut String) {
    let blank = [" ", "\n", "\t", ""][luck.below(4)];
    out.push_str(blank);
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            (1..fields.len()).rev().for_each(|i| fields.swap(i, luck.below(i + 1)));
            out.push('{');
            for (i, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                out.push_str(&Value::from(respell(name, luck.below(3))).to_string());
                out.push(':');
                disguise(value, luck, out);
            }
            out.push('}');
        }
        Value::Array(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                disguise(value, luck, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
    out.push_str(blank);
}

/// Another spelling of a field, where there is one.
fn respell(name: &str, how: usize) -> String {
    let other = match how {
        0 => return name.to_owned(),
        1 => name.replace('_', ""),
        _ => camel(name),
    };
    if names::field(other.as_str().into()) == name { other } else { name.to_owned() }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
}

/// What two tellings of one fact must share.
fn essence(heard: Vec<Heard>) -> Vec<impl PartialEq + std::fmt::Debug> {
    let essence = |heard: Heard| (heard.event.kind, heard.event.id, heard.also, heard.event.data);
    heard.into_iter().map(essence).collect()
}

proptest! {
    #[test]
    fn no_bytes_can_stop_it(body in prop::collection::vec(any::<u8>(), 0..300), s in any::<i32>()) {
        let now = Timestamp::from_second(s.into()).unwrap();
        prop_assert!(!session().webhook(&body, Trust::Unverified, now).is_empty());
    }

    #[test]
    fn no_json_can_stop_it_and_it_answers_twice_the_same(body in any_json()) {
        let body = body.to_string();
        let (first, again) = (hear(body.as_bytes()), hear(body.as_bytes()));
        prop_assert!(!first.is_empty());
        for heard in &first {
            prop_assert!(types().contains(&heard.event.kind.as_str()));
        }
        prop_assert_eq!(first, again);
    }
}

proptest! {
    // Each case walks all fixtures.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn order_blanks_and_spelling_change_neither_type_nor_id(seed in any::<u64>()) {
        let mut luck = Luck(seed);
        for (name, body) in fixtures() {
            let Ok(fields) = serde_json::from_slice::<Map<_, _>>(&body) else { continue };
            // Fixtures that are spelt oddly themselves are set right first.
            let fields = fields.into_iter();
            let fields = fields.map(|(name, value)| (names::field(name.into()).into_owned(), value));
            let mut other = String::new();
            disguise(&Value::Object(fields.collect()), &mut luck, &mut other);
            prop_assert_eq!(essence(hear(&body)), essence(hear(other.as_bytes())), "{}", name);
        }
    }

    #[test]
    fn a_fact_keeps_its_id_however_late_it_is_told_again(days in 1..400i64) {
        let later = Timestamp::from_second(now().as_second() + days * 86_400).unwrap();
        for (name, body) in fixtures() {
            let again = session().webhook(&body, Trust::Authentic, later);
            for (first, again) in hear(&body).into_iter().zip(again) {
                let same = first.event.id == again.event.id;
                prop_assert_eq!(same, first.also.is_none(), "{}", name);
            }
        }
    }
}
