//! The rule engine: rule files to a [`RuleSet`], one event to one [`Decided`]. Pure: no clock, no
//! randomness, no I/O, no waiting; the same event, memory and moment give the same decision.
//!
//! All rules see the state as it was before the event; what a rule sets is visible from the next
//! event on, so that the order of rules never matters except for `stop`.
//!
//! A **cooldown** begins provisionally with the decision, is moved to the moment of the first
//! delivery, and is lifted if every notification of that firing fails; a firing with no
//! notification counts from the decision. A firing more urgent than the one that began the
//! cooldown goes through.
//!
//! A rule that waits (`for`, `wait`) leaves a timer in the memory; when it is due, or the event it
//! waits for comes, the rule goes on about the event that it began with.

mod acks;
mod alerts;
mod class;
mod compile;
mod engine;
mod explain;
mod expr;
mod file;
mod known;
mod ladder;
mod lint;
mod made;
mod memory;
mod names;
mod open;
mod pattern;
mod quick;
mod reach;
mod quiet;
mod scene;
mod schedule;
pub mod selftest;
mod steps;
mod tell;
mod timers;
pub mod types;
mod vouch;
mod wait;

pub use alerts::{ALERTS_MAX, Alert, Alerts, Reached, Told};
pub use explain::explain;
pub use known::{KNOWN_MAX, KnownMap};
pub use memory::{COOLDOWNS_MAX, Cooldown, Memory, STATES_MAX, StateEntry};
pub use quiet::Quiet;
pub use schedule::Place;
pub use timers::{QUEUED_MAX, TIMERS_MAX, Timers};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::command::Spec;
use crate::door::Doors;
use crate::event::Trust;
use crate::node::{Problem, Problems, Reader, SourceFile};
use compile::{Act, Rule, Step};
use pattern::{Field, Index, Matcher, Wanted};

/// The most rules in one set: ten times what an estate with an intercom per door needs.
pub const RULES_MAX: usize = 100_000;

/// The names that the config declares and rules may use.
#[derive(Debug, Clone)]
pub struct House {
    /// People who can be told.
    pub people: BTreeSet<String>,
    /// Groups and their people.
    pub groups: BTreeMap<String, Vec<String>>,
    /// Where events come from: `netatmo/home`. `portero` need not be listed.
    pub sources: BTreeSet<String>,
    /// Systems that can be told something, by their word: `emm`.
    pub systems: BTreeMap<String, System>,
    /// Doors, and who may open them.
    pub doors: Arc<Doors>,
    /// How far the live events of each source can be vouched for, where that is not what its kind
    /// of system promises.
    pub trust: BTreeMap<String, Trust>,
    /// Where the house is: `between`, `now()` and all shown times are on this clock.
    pub time_zone: TimeZone,
    /// Where on earth, for sunrise and sunset.
    pub place: Option<Place>,
    /// When people want to be left alone.
    pub quiet: BTreeMap<String, Quiet>,
}

/// A kind of system that the house has.
#[derive(Debug, Clone, Default)]
pub struct System {
    /// What the config calls each one: `block` for `[emm.block]`.
    pub names: BTreeSet<String>,
    /// What each can be told.
    pub commands: &'static [Spec],
}

impl System {
    /// Systems by their word, from sources such as `emm/block` and what each can be told.
    pub fn group(
        sources: impl IntoIterator<Item = (String, &'static [Spec])>,
    ) -> BTreeMap<String, System> {
        let mut systems: BTreeMap<String, System> = BTreeMap::new();
        for (source, commands) in sources {
            let Some((word, name)) = source.split_once('/') else { continue };
            let system = systems.entry(word.to_string()).or_default();
            system.names.insert(name.to_string());
            system.commands = commands;
        }
        systems
    }
}

impl Default for House {
    fn default() -> House {
        House {
            people: BTreeSet::new(),
            groups: BTreeMap::new(),
            sources: BTreeSet::new(),
            systems: BTreeMap::new(),
            doors: Arc::default(),
            trust: BTreeMap::new(),
            time_zone: TimeZone::UTC,
            place: None,
            quiet: BTreeMap::new(),
        }
    }
}

impl House {
    /// The people behind a name: one person, or a group's. A group may share a person's name;
    /// then the group is meant.
    pub fn members(&self, name: &str) -> Option<Vec<Arc<str>>> {
        if let Some(people) = self.groups.get(name) {
            return Some(people.iter().map(|person| Arc::from(person.as_str())).collect());
        }
        self.people.contains(name).then(|| vec![Arc::from(name)])
    }
}

/// A set of rules that belong together: one generation of the rule folder.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    by_name: HashMap<Arc<str>, usize>,
    index: Index,
    /// What may end a wait of each rule, in the rules' order.
    end_matchers: Vec<Vec<Matcher>>,
    ends: Index,
    house: House,
    files: Vec<SourceFile>,
    version: String,
    tests: Vec<selftest::Case>,
    warnings: Problems,
}

impl RuleSet {
    /// Reads all files of a rule folder; all their problems, if one makes them unusable.
    pub fn load(mut files: Vec<SourceFile>, house: &House) -> Result<RuleSet, Problems> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let version = version(&files);
        let readers: Vec<Reader> = files.iter().cloned().map(Reader::new).collect();
        let mut rules = Vec::new();
        let mut tests = Vec::new();
        for root in readers.iter().filter_map(Reader::yaml) {
            let parsed = file::parse(root, house);
            rules.extend(parsed.rules);
            tests.extend(parsed.tests);
        }
        let names: Vec<&str> = rules.iter().map(|rule| &*rule.name).collect();
        let emitted = emitted(&rules);
        let ends = rules.iter().flat_map(Rule::ends).map(|ends| &ends.matcher);
        let awaited = rules.iter().flat_map(|rule| &rule.matchers).chain(ends);
        let awaited: Vec<&Wanted> =
            awaited.flat_map(|matcher| matcher.wanted(&Field::Type).unwrap_or(&[])).collect();
        let awaited = &awaited;
        let known = selftest::Known { house, rules: &names, emitted: &emitted, awaited };
        let tests = tests.into_iter().flat_map(|at| selftest::cases(at, &known)).collect();
        let mut problems = Problems::default();
        check_names(&rules, &mut problems);
        check_all_types(&readers, &emitted);
        lint::lint(&rules, house, &mut problems);
        reach::check(&rules, house, &mut problems);
        readers.into_iter().for_each(|reader| problems.extend(reader.into_problems()));
        problems.sort();
        if problems.has_errors() {
            return Err(problems);
        }
        let index = Index::new(rules.iter().map(|rule| &*rule.matchers));
        let ends = |rule: &Rule| rule.ends().map(|ends| ends.matcher.clone()).collect();
        let end_matchers: Vec<Vec<Matcher>> = rules.iter().map(ends).collect();
        let ends = Index::new(end_matchers.iter().map(Vec::as_slice));
        let by_name = rules.iter().enumerate().map(|(i, rule)| (rule.name.clone(), i)).collect();
        Ok(RuleSet {
            rules,
            by_name,
            index,
            end_matchers,
            ends,
            house: house.clone(),
            files,
            version,
            tests,
            warnings: problems,
        })
    }

    /// The first twelve digits of the files' hash.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What somebody should look at although the rules can be used.
    pub fn warnings(&self) -> &Problems {
        &self.warnings
    }

    /// The rules' names, in file order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.name)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How many tests stand beside the rules.
    pub fn tests(&self) -> usize {
        self.tests.len()
    }

    /// The names it was loaded with.
    pub fn house(&self) -> &House {
        &self.house
    }

    /// The files it was loaded from, sorted by name.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The rule of this name.
    fn rule(&self, name: &str) -> Option<&Rule> {
        self.by_name.get(name).map(|at| &self.rules[*at])
    }

    /// The first digits of the hash of what a rule says; none if there is no such rule.
    pub fn stamp(&self, name: &str) -> Option<&str> {
        self.rule(name).map(|rule| rule.stamp.as_str())
    }
}

fn version(files: &[SourceFile]) -> String {
    let mut hash = Sha256::new();
    for file in files {
        for part in [&file.path, &file.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    let full: [u8; 32] = hash.finalize().into();
    full[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_names(rules: &[Rule], problems: &mut Problems) {
    let mut first: HashMap<&str, &Rule> = HashMap::new();
    for rule in rules {
        if let Some(other) = first.get(&*rule.name) {
            let message = format!("the rule `{}` exists already", rule.name);
            let place = other.file.place(other.range.start);
            let problem = Problem::error(&rule.file, rule.range.clone(), message);
            problems.push(problem.help(format!("the other one is at {place}")));
        } else {
            first.insert(&rule.name, rule);
        }
    }
    if let Some(rule) = rules.get(RULES_MAX) {
        let message = format!("there are more than {RULES_MAX} rules");
        problems.push(Problem::error(&rule.file, rule.range.clone(), message));
    }
}

/// The types that rules emit.
fn emitted(rules: &[Rule]) -> Vec<&str> {
    let mut emitted = Vec::new();
    rules.iter().for_each(|rule| emitted_types(&rule.steps, &mut emitted));
    emitted
}

fn check_all_types(readers: &[Reader], emitted: &[&str]) {
    for reader in readers {
        let rules = reader.yaml().and_then(|root| root.get("rules"));
        for rule in rules.into_iter().flat_map(|rules| rules.items()) {
            file::check_types(rule, emitted);
        }
    }
}

fn emitted_types<'r>(steps: &'r [Step], found: &mut Vec<&'r str>) {
    for step in steps {
        match &step.act {
            Act::Emit(emit) => found.push(&emit.kind),
            Act::If { then, otherwise, .. } => {
                emitted_types(then, found);
                emitted_types(otherwise, found);
            }
            Act::Escalate(ladder) => {
                ladder
                    .rungs
                    .iter()
                    .for_each(|r| emitted_types(std::slice::from_ref(&r.step), found));
            }
            Act::Push(_) | Act::Set(_) | Act::Tell(_) | Act::Wait(_) | Act::Open(_) | Act::Stop => {
            }
        }
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
