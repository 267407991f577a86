//! What a decision costs: one event against 1, 100 and 10 000 rules that all wait for its type
//! and differ in one field, and the parts of one decision.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use portero::action::PhoneId;
use portero::event::{Event, EventId, Marks, Trust};
use portero::node::SourceFile;
use portero::record::Position;
use portero::rules::{House, Memory, RuleSet};

fn house() -> House {
    House {
        people: ["ana".to_string()].into(),
        sources: ["netatmo/home".to_string()].into(),
        ..House::default()
    }
}

fn rules(count: usize, more: &str) -> RuleSet {
    let mut text = String::from("rules:\n");
    for i in 0..count {
        text.push_str(&format!(
            "  - name: rule {i}\n    when: {{ type: netatmo.ring, subject: bell-{i} }}\n{more}    \
             do:\n      - push: {{ to: ana, title: \"Ring at {{{{ event.data.home_name }}}}\" }}\n"
        ));
    }
    RuleSet::load(vec![SourceFile::new("rules/a.yaml", text)], &house()).expect("good rules")
}

fn ring(subject: &str) -> Arc<Event> {
    let data = serde_json::json!({ "home_name": "Home", "is_known": true, "n": 5 });
    Arc::new(Event {
        id: EventId::derive(["ring", subject]),
        source: "netatmo/home".into(),
        kind: "netatmo.ring".into(),
        subject: Some(subject.into()),
        time: None,
        received: Timestamp::UNIX_EPOCH,
        trust: Trust::Authentic,
        marks: Marks::default(),
        hops: 0,
        data: data.as_object().cloned().unwrap_or_default(),
        raw: Vec::new(),
    })
}

fn decide(c: &mut Criterion) {
    let mut memory = Memory::new();
    memory.set_phone("ana", PhoneId("a1".into()));
    let event = ring("bell-0");
    let mut group = c.benchmark_group("decide");
    for count in [1, 100, 10_000] {
        let rules = rules(count, "    if: event.data.n > 3 and event.data.is_known\n");
        group.bench_with_input(BenchmarkId::new("rules", count), &rules, |b, rules| {
            b.iter(|| rules.decide(&event, Position(1), &memory, Timestamp::UNIX_EPOCH));
        });
    }
    let plain = rules(1, "");
    group.bench_function("no condition", |b| {
        b.iter(|| plain.decide(&event, Position(1), &memory, Timestamp::UNIX_EPOCH));
    });
    let refused = rules(1, "    if: event.data.n > 30\n");
    group.bench_function("condition is false", |b| {
        b.iter(|| refused.decide(&event, Position(1), &memory, Timestamp::UNIX_EPOCH));
    });
    let other = ring("no such bell");
    group.bench_function("nobody looks", |b| {
        b.iter(|| plain.decide(&other, Position(1), &memory, Timestamp::UNIX_EPOCH));
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    group.bench_function("1000 rules", |b| {
        b.iter(|| rules(1000, "    if: event.data.n > 3 and event.data.is_known\n"));
    });
    group.finish();
}

criterion_group!(benches, decide, load);
criterion_main!(benches);
