//! A house in virtual time: the very functions that production calls (rules, ledger, lanes, doors'
//! admission) over a store that takes time and forgets at a crash, phones that die and an intercom
//! that drops. A seed makes everything: the same seed gives the same trace.
//!
//! `SEEDS=5000 cargo test --test simulation` runs more of them, `SEED=42` that one with its trace.

mod checks;
mod far;
mod world;

use std::collections::BTreeMap;

use far::Planted;
use world::World;

/// So many in every `cargo test`.
const SEEDS: u64 = 60;

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    }
}

/// Runs one seed; what is wrong with it.
fn run(seed: u64, planted: Planted) -> Vec<String> {
    let mut world = World::new(seed, planted);
    world.run();
    world.wrong()
}

#[test]
fn whatever_happens_the_promises_hold() {
    for seed in seeds() {
        let mut world = World::new(seed, Planted::None);
        world.run();
        if std::env::var("SEED").is_ok() {
            println!("{}", world.trace.join("\n"));
        }
        let wrong = world.wrong();
        let trace = world.trace.join("\n");
        assert!(wrong.is_empty(), "SEED={seed}\n{trace}\n\n{}", wrong.join("\n"));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in seeds().take(5) {
        let traces = [(); 2].map(|()| {
            let mut world = World::new(seed, Planted::None);
            world.run();
            world.trace
        });
        assert_eq!(traces[0], traces[1], "SEED={seed}");
    }
}

/// A house that never crashes makes the same decisions.
#[test]
fn crashes_change_no_decision() {
    for seed in seeds() {
        let mut crashed = World::new(seed, Planted::None);
        crashed.run();
        let calm = World::calm_of(&crashed);
        let (one, other) = (crashed.fired(), calm.fired());
        let trace = crashed.trace.join("\n");
        assert_eq!(one, other, "SEED={seed}\n{trace}\n--- calm\n{}", calm.trace.join("\n"));
    }
}

/// Each planted fault is found, or the invariants would be worth nothing.
#[test]
fn planted_faults_are_found() {
    let mut found = BTreeMap::new();
    for planted in [Planted::SendsBeforeDurable, Planted::ResumesPulse, Planted::ForgetsTimers] {
        let red = (0..200).find(|seed| !run(*seed, planted).is_empty());
        found.insert(format!("{planted:?}"), red);
    }
    assert!(found.values().all(Option::is_some), "{found:?}");
}
