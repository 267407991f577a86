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

mod compile;
mod explain;
mod expr;
mod file;
mod known;
mod lint;
mod memory;
mod names;
mod open;
mod pattern;
mod quick;
mod reach;
mod scene;
pub mod selftest;
mod steps;
mod tell;
pub mod types;

pub use explain::explain;
pub use known::{KNOWN_MAX, KnownMap};
pub use memory::{COOLDOWNS_MAX, Cooldown, Memory, STATES_MAX, StateEntry};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::action::Urgency;
use crate::command::Spec;
use crate::door::Doors;
use crate::event::{Event, Trust};
use crate::node::{Problem, Problems, Reader, SourceFile};
use crate::record::{CooldownStart, Decided, Looked, NotSent, NotSentReason, Position, Verdict};
use compile::{Act, Cooldown as CooldownRule, Rule, Step};
use expr::Refused;
use pattern::Index;
use scene::Scene;

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
    index: Index,
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
        let known = selftest::Known { house, rules: &names };
        let tests = tests.into_iter().flat_map(|at| selftest::cases(at, &known)).collect();
        let mut problems = Problems::default();
        check_names(&rules, &mut problems);
        check_all_types(&readers, &rules);
        lint::lint(&rules, &mut problems);
        reach::check(&rules, house, &mut problems);
        readers.into_iter().for_each(|reader| problems.extend(reader.into_problems()));
        problems.sort();
        if problems.has_errors() {
            return Err(problems);
        }
        let index = Index::new(rules.iter().map(|rule| &*rule.matchers));
        Ok(RuleSet {
            rules,
            index,
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

    /// What the rules make of an event at `now`.
    pub fn decide(
        &self,
        event: &Arc<Event>,
        seen: Position,
        memory: &Memory,
        now: Timestamp,
    ) -> Decided {
        let mut decided = Decided {
            event: event.id,
            seen,
            at: now,
            rules: self.version.clone(),
            looked: Vec::new(),
            sets: Vec::new(),
            actions: Vec::new(),
        };
        let found = self
            .index
            .find(event, |rule, which| &self.rules[rule as usize].matchers[which as usize]);
        if found.is_empty() {
            return decided;
        }
        let scene = Scene::new(event, memory, now, &self.house.time_zone);
        let mut stopped_by: Option<&str> = None;
        for rule in found {
            let rule = &self.rules[rule as usize];
            if let Some(stopper) = stopped_by {
                let why = format!("rule `{stopper}` said stop");
                decided.looked.push(looked(rule, Verdict::Stopped, why));
                continue;
            }
            if self.look(rule, &scene, memory, &mut decided) {
                stopped_by = Some(&rule.name);
            }
        }
        decided
    }

    /// One rule looks at the event; whether it said `stop`.
    fn look(
        &self,
        rule: &Rule,
        scene: &Arc<Scene>,
        memory: &Memory,
        decided: &mut Decided,
    ) -> bool {
        scene.begin();
        let refused = rule.condition.as_ref().and_then(|condition| condition.check(scene).err());
        let (verdict, why) = match refused {
            None => (Verdict::Fired, String::new()),
            Some(Refused::False(why)) => (Verdict::Condition, why),
            Some(Refused::Error(why)) => (Verdict::ConditionError, why),
        };
        if verdict != Verdict::Fired {
            decided.looked.push(looked(rule, verdict, why));
            return false;
        }
        let mut answer = looked(rule, Verdict::Fired, String::new());
        let key =
            rule.cooldown.as_ref().and_then(|cooldown| cooldown_key(cooldown, scene, &mut answer));
        let plan = steps::plan(rule, scene, memory, &self.house);
        let severity = plan.severity.unwrap_or(Urgency::VeryLow);
        if let (Some(cooldown), Some(key)) = (&rule.cooldown, key) {
            let running = memory.cooldown(&rule.name, &key, scene.now());
            if let Some(running) = running.filter(|running| severity <= running.severity) {
                let why = cooling_why(scene, running, &key);
                decided.looked.push(looked(rule, Verdict::Cooldown, why));
                return false;
            }
            let until = scene.now().checked_add(cooldown.every).unwrap_or(Timestamp::MAX);
            answer.cooldown = Some(CooldownStart { key, severity, until });
        }
        answer.not_sent.extend(plan.not_sent);
        decided.looked.push(answer);
        decided.sets.extend(plan.sets);
        decided.actions.extend(plan.actions);
        plan.stopped
    }
}

fn looked(rule: &Rule, verdict: Verdict, why: String) -> Looked {
    let rule = rule.name.to_string();
    Looked { rule, verdict, why, not_sent: Vec::new(), cooldown: None }
}

/// The rendered key. A key that cannot be rendered is noted, and the rule fires without cooling
/// down: better told twice than not at all.
fn cooldown_key(
    cooldown: &CooldownRule,
    scene: &Arc<Scene>,
    answer: &mut Looked,
) -> Option<String> {
    match cooldown.key.render(scene) {
        Ok(mut key) => {
            expr::cut(&mut key, steps::NAME_BYTES_MAX);
            Some(key)
        }
        Err(detail) => {
            let reason = NotSentReason::TemplateError;
            answer.not_sent.push(NotSent { step: "cooldown.key".to_string(), reason, detail });
            None
        }
    }
}

fn cooling_why(scene: &Scene, running: &Cooldown, key: &str) -> String {
    let until = explain::clock(running.until, scene.now(), scene.zone());
    match key {
        "" => format!("cooling down until {until}"),
        key => format!("cooling down until {until} (key {key})"),
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

fn check_all_types(readers: &[Reader], rules: &[Rule]) {
    let mut emitted = Vec::new();
    rules.iter().for_each(|rule| emitted_types(&rule.steps, &mut emitted));
    for reader in readers {
        let rules = reader.yaml().and_then(|root| root.get("rules"));
        for rule in rules.into_iter().flat_map(|rules| rules.items()) {
            file::check_types(rule, &emitted);
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
            Act::Push(_) | Act::Set(_) | Act::Tell(_) | Act::Open(_) | Act::Stop => {}
        }
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
