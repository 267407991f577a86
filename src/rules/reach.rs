//! Whether a door can be reached by news that it does not take: for each `open` the least trust
//! with which its rule can fire, along every way by which news come there. A way leads from a
//! source over a rule, over what that rule emits or sets, to the next rule, and at last to the
//! door; and what a door that opened then tells is news, too. The door looks again when it comes to it; here a mistake is found before it matters.

use std::collections::HashMap;

use super::House;
use super::compile::{Act, Emit, Recipient, Rule, Step, Template};
use super::expr::Text;
use super::known::is_link;
use super::lint::ByType;
use super::made::{self, Made, Sure};
use super::names::Read;
use super::open::Open;
use super::pattern::{Field, Has, Matcher};
use super::types;
use super::vouch::{best, state_trust};
use super::wait::Ends;
use crate::event::Trust;
use crate::node::{Problem, Problems};
use crate::timer::SCHEDULE_EVENT;

/// Longer ways are shown by their end.
const WAY_MAX: usize = 12;

/// Notes every door that can be reached by news that it does not take.
pub(super) fn check(rules: &[Rule], house: &House, problems: &mut Problems) {
    let mut looked: Vec<Outline<'_>> = rules.iter().map(Outline::of).collect();
    let any = looked.iter().any(|rule| rule.sinks.iter().any(|s| matches!(s.what, What::Open(_))));
    if !any {
        return;
    }
    let stops = stoppers(rules, &looked);
    for (outline, before) in looked.iter_mut().zip(stops) {
        outline.sinks.iter_mut().for_each(|sink| sink.reads += before.len());
        outline.reads.splice(0..0, before);
    }
    let mut reach = Reach::new(rules, looked, house);
    reach.settle();
    for (at, rule) in rules.iter().enumerate() {
        for sink in &reach.rules[at].sinks {
            let What::Open(open) = sink.what else { continue };
            let Some(door) = house.doors.get(&open.door) else { continue };
            let (least, cause) = reach.least(at, sink.reads);
            if least >= door.requires {
                continue;
            }
            let (name, requires) = (&door.name, door.requires);
            let message = format!(
                "`{}` can open `{name}` for news that is only {least}; the door requires {requires}",
                rule.name
            );
            let way = reach.way(at, cause, 0);
            let help = format!("the way there: {way} → door `{name}`");
            problems.push(Problem::error(&rule.file, open.range.clone(), message).help(help));
        }
    }
}

/// For each rule what decides whether a rule before it stops the event: that it did not is an input,
/// too.
fn stoppers<'r>(rules: &'r [Rule], looked: &[Outline<'r>]) -> Vec<Vec<Input<'r>>> {
    let all: Vec<usize> = (0..rules.len()).filter(|at| rules[*at].may_stop()).collect();
    let meet = |one: &Rule, two: &Rule| {
        one.matchers.iter().any(|one| two.matchers.iter().any(|two| one.meets(two)))
    };
    let before = |at: usize| {
        let earlier = all.iter().filter(move |stopper| **stopper < at);
        let met = earlier.filter(|stopper| meet(&rules[**stopper], &rules[at]));
        met.flat_map(|stopper| looked[*stopper].reads.iter().copied()).collect()
    };
    (0..rules.len()).map(before).collect()
}

/// What matters here of one rule.
struct Outline<'r> {
    /// What lowers its trust on the way, in that order.
    reads: Vec<Input<'r>>,
    sinks: Vec<Sink<'r>>,
}

/// What a rule lets in after the event that it looks at.
#[derive(Clone, Copy)]
enum Input<'r> {
    /// A state that it reads.
    State(&'r Read),
    /// An event that ends its wait before the time.
    Until(&'r [Ends]),
}

/// Something that a rule passes its trust on to.
struct Sink<'r> {
    what: What<'r>,
    /// How many of the rule's reads come before it.
    reads: usize,
}

enum What<'r> {
    Open(&'r Open),
    Emit(&'r Emit),
    Set(&'r Text),
}

/// Why the trust is no more than it is.
#[derive(Debug, Clone, PartialEq)]
enum Cause {
    /// It is not lowered by anything.
    Nothing,
    /// This type from this source.
    Heard(String, String),
    /// What one of [`Reach::emitters`] makes.
    Emitted(usize),
    /// The state of a system, and how far it is vouched for.
    System(String, Trust),
    /// A variable that one of [`Reach::setters`] sets.
    Set(usize),
}

/// Who sets a variable: a rule, or a system after a rule opened its door.
enum Path<'r> {
    Set(&'r Text),
    Told { open: &'r Open, path: String },
}

/// Somebody who sets a variable.
struct Setter<'r> {
    rule: usize,
    reads: usize,
    path: Path<'r>,
    /// The least trust with which it does, as far as is known by now.
    least: Trust,
}

/// Somebody who makes an event, and who may look at it.
struct Emitter<'r> {
    rule: usize,
    reads: usize,
    made: Made<'r>,
    to: Vec<usize>,
    /// The least trust with which it does, as far as is known by now.
    least: Trust,
}

/// What an input may have come from.
#[derive(Default)]
struct From {
    system: Option<(Trust, String)>,
    setters: Vec<usize>,
    heard: Option<(Trust, Cause)>,
    emitters: Vec<usize>,
}

struct Reach<'r> {
    all: &'r [Rule],
    house: &'r House,
    rules: Vec<Outline<'r>>,
    /// For each rule the least trust of the events that it looks at, and why.
    events: Vec<(Trust, Cause)>,
    /// For each rule where its reads come from.
    froms: Vec<Vec<From>>,
    emitters: Vec<Emitter<'r>>,
    setters: Vec<Setter<'r>>,
}

impl<'r> Outline<'r> {
    fn of(rule: &'r Rule) -> Outline<'r> {
        let mut outline = Outline { reads: Vec::new(), sinks: Vec::new() };
        outline.states(rule.condition.iter().flat_map(|condition| condition.reads()));
        outline.states(rule.cooldown.iter().flat_map(|cooldown| cooldown.key.reads()));
        let unless = rule.wait.iter().flat_map(|wait| &wait.unless);
        let computed = unless.flat_map(|ends| &ends.computed);
        computed.for_each(|(_, text)| outline.text(text));
        outline.steps(&rule.steps);
        outline
    }

    fn steps(&mut self, steps: &'r [Step]) {
        for step in steps {
            match &step.act {
                Act::Push(push) => {
                    for to in &push.to {
                        if let Recipient::Computed(text) = to {
                            self.text(text);
                        }
                    }
                    let texts = [&push.body, &push.image, &push.url, &push.tag];
                    texts.into_iter().flatten().for_each(|text| self.text(text));
                    self.text(&push.title);
                    push.buttons.iter().for_each(|button| self.text(&button.title));
                }
                Act::Set(entries) => {
                    for (path, value) in entries {
                        self.text(path);
                        self.template(value);
                        self.sink(What::Set(path));
                    }
                }
                Act::Emit(emit) => {
                    emit.subject.iter().for_each(|text| self.text(text));
                    emit.data.iter().for_each(|(_, value)| self.template(value));
                    self.sink(What::Emit(emit));
                }
                Act::Tell(tell) => tell.templates().for_each(|value| self.template(value)),
                Act::Open(open) => self.sink(What::Open(open)),
                Act::If { condition, then, otherwise } => {
                    self.states(condition.reads());
                    self.steps(then);
                    self.steps(otherwise);
                }
                Act::Wait(wait) => {
                    let ends = wait.until.iter().flat_map(|ends| &ends.computed);
                    ends.for_each(|(_, text)| self.text(text));
                    self.reads.push(Input::Until(&wait.until));
                }
                Act::Escalate(ladder) => {
                    let rungs = ladder.rungs.iter();
                    rungs.for_each(|rung| self.steps(std::slice::from_ref(&rung.step)));
                }
                Act::Stop => {}
            }
        }
    }

    fn sink(&mut self, what: What<'r>) {
        self.sinks.push(Sink { what, reads: self.reads.len() });
    }

    fn states(&mut self, reads: impl IntoIterator<Item = &'r Read>) {
        self.reads.extend(reads.into_iter().map(Input::State));
    }

    fn text(&mut self, text: &'r Text) {
        self.states(text.reads());
    }

    fn template(&mut self, template: &'r Template) {
        match template {
            Template::Fixed(_) => {}
            Template::Text(text) => self.text(text),
            Template::List(items) => items.iter().for_each(|item| self.template(item)),
            Template::Map(fields) => fields.iter().for_each(|(_, value)| self.template(value)),
        }
    }
}

impl<'r> Reach<'r> {
    fn new(all: &'r [Rule], rules: Vec<Outline<'r>>, house: &'r House) -> Reach<'r> {
        let by_type = ByType::new(all);
        let (mut emitters, mut setters) = (Vec::new(), Vec::new());
        for (rule, outline) in rules.iter().enumerate() {
            for Sink { what, reads } in &outline.sinks {
                let (reads, least) = (*reads, Trust::Human);
                let made = match what {
                    What::Emit(emit) => vec![Made::Emit(emit)],
                    What::Open(open) => made::of_open(open, house),
                    What::Set(_) => Vec::new(),
                };
                for made in made {
                    let hears =
                        |to: &usize| all[*to].matchers.iter().any(|m| made.fits(m) > Sure::No);
                    let to = by_type.candidates(made.kind()).filter(hears).collect();
                    emitters.push(Emitter { rule, reads, made, to, least });
                }
                let told = |open| made::state_of_open(open, house).map(|path| (open, path));
                let path = match what {
                    What::Set(path) => Some(Path::Set(path)),
                    What::Open(open) => told(*open).map(|(open, path)| Path::Told { open, path }),
                    What::Emit(_) => None,
                };
                setters.extend(path.map(|path| Setter { rule, reads, path, least }));
            }
        }
        let sources = Sources::of(house);
        let events = all.iter().map(|rule| sources.of_rule(rule)).collect();
        let variables = Variables::of(&setters);
        let froms = |outline: &Outline<'r>| {
            let from = |input: &Input<'r>| match input {
                Input::State(read) => variables.from(read, house),
                Input::Until(ends) => sources.until(ends, &emitters),
            };
            outline.reads.iter().map(from).collect()
        };
        let froms = rules.iter().map(froms).collect();
        Reach { all, house, rules, events, froms, emitters, setters }
    }

    /// Lets trust flow down until nothing changes. It ends: each turn lowers something, and there
    /// are four steps down.
    fn settle(&mut self) {
        loop {
            let mut changed = false;
            for at in 0..self.emitters.len() {
                let Emitter { rule, reads, made, .. } = self.emitters[at];
                let least = made.trust(self.least(rule, reads).0, self.house);
                changed |= least < self.emitters[at].least;
                self.emitters[at].least = least;
                for to in &self.emitters[at].to {
                    if least < self.events[*to].0 {
                        self.events[*to] = (least, Cause::Emitted(at));
                        changed = true;
                    }
                }
            }
            for at in 0..self.setters.len() {
                let Setter { rule, reads, ref path, .. } = self.setters[at];
                let (least, _) = self.least(rule, reads);
                let least = match path {
                    Path::Set(_) => least,
                    Path::Told { open, .. } => made::trust_of_open(open, self.house, least),
                };
                changed |= least < self.setters[at].least;
                self.setters[at].least = least;
            }
            if !changed {
                return;
            }
        }
    }

    /// The least trust that a rule has after so many reads, and why.
    fn least(&self, rule: usize, reads: usize) -> (Trust, Cause) {
        let mut least = self.events[rule].clone();
        for from in &self.froms[rule][..reads] {
            if let Some((trust, source)) = from.system.as_ref().filter(|(t, _)| *t < least.0) {
                least = (*trust, Cause::System(source.clone(), *trust));
            }
            for at in &from.setters {
                if self.setters[*at].least < least.0 {
                    least = (self.setters[*at].least, Cause::Set(*at));
                }
            }
            if let Some(heard) = from.heard.as_ref().filter(|heard| heard.0 < least.0) {
                least = heard.clone();
            }
            for at in &from.emitters {
                if self.emitters[*at].least < least.0 {
                    least = (self.emitters[*at].least, Cause::Emitted(*at));
                }
            }
        }
        least
    }

    /// The way to a rule, in words.
    fn way(&self, rule: usize, cause: Cause, steps: usize) -> String {
        let name = &self.all[rule].name;
        if steps > WAY_MAX {
            return format!("… → `{name}`");
        }
        let before = |rule, reads| self.way(rule, self.least(rule, reads).1, steps + 1);
        match cause {
            Cause::Nothing => format!("`{name}`"),
            Cause::Heard(source, kind) => {
                let trust = best(self.house, &source, &kind);
                format!("{kind} from {source} ({trust}) → `{name}`")
            }
            Cause::Emitted(at) => {
                let Emitter { rule, reads, made, .. } = &self.emitters[at];
                format!("{} → {} → `{name}`", before(*rule, *reads), made.words())
            }
            Cause::System(source, trust) => {
                format!("the state of {source} ({trust}) → `{name}`")
            }
            Cause::Set(at) => {
                let Setter { rule, reads, path, .. } = &self.setters[at];
                format!("{} → {} → `{name}`", before(*rule, *reads), path.words())
            }
        }
    }
}

impl Path<'_> {
    fn words(&self) -> String {
        match self {
            Path::Set(path) => match path.as_literal() {
                Some(path) => format!("the state {path}"),
                None => format!("the state {}…", path.beginning()),
            },
            Path::Told { open, path } => format!("door `{}` → the state {path}", open.door),
        }
    }
}

/// Who sets which variable.
struct Variables<'s> {
    exact: HashMap<&'s str, Vec<usize>>,
    /// Paths that are templates, by what they begin with.
    open: Vec<(&'s str, usize)>,
    count: usize,
}

impl<'s> Variables<'s> {
    fn of(setters: &'s [Setter<'_>]) -> Variables<'s> {
        let (mut exact, mut open) = (HashMap::<_, Vec<usize>>::new(), Vec::new());
        for (at, setter) in setters.iter().enumerate() {
            let text = match &setter.path {
                Path::Told { path, .. } => Err(path.as_str()),
                Path::Set(text) => text.as_literal().map_or(Ok(text.beginning()), Err),
            };
            match text {
                Err(path) => exact.entry(path).or_default().push(at),
                Ok(begin) => open.push((begin, at)),
            }
        }
        Variables { exact, open, count: setters.len() }
    }

    fn from(&self, read: &Read, house: &House) -> From {
        let systems = house.sources.iter().filter(|source| match read {
            Read::Computed => true,
            Read::Path(path) => {
                path.strip_prefix(source.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        });
        let trust = |source: &String| match read {
            Read::Path(path) if is_link(path) => Trust::Unverified,
            _ => state_trust(house, source),
        };
        let system = systems.map(|source| (trust(source), source.clone())).min();
        let setters = match read {
            Read::Computed => (0..self.count).collect(),
            Read::Path(path) => {
                let exact = self.exact.get(&**path).into_iter().flatten().copied();
                let open = self.open.iter().filter(|(begin, _)| path.starts_with(begin));
                exact.chain(open.map(|(_, at)| *at)).collect()
            }
        };
        From { system, setters, ..From::default() }
    }
}

/// Everything that can be heard: source, type, best trust; the least first.
struct Sources(Vec<(String, String, Trust)>);

impl Sources {
    fn of(house: &House) -> Sources {
        let mut all = Vec::new();
        let own = [("portero".to_string(), "portero.")];
        let systems = house.sources.iter().filter_map(|source| {
            let system = source.split('/').next()?;
            let begin =
                types::RESERVED.iter().find(|begin| begin.strip_suffix('.') == Some(system))?;
            Some((source.clone(), *begin))
        });
        for (source, begin) in systems.chain(own) {
            for kind in types::all().filter(|kind| kind.starts_with(begin)) {
                all.push((source.clone(), kind.to_string(), best(house, &source, kind)));
            }
        }
        // Whoever calls us there, nobody vouches for.
        all.push(("hook/…".into(), "hook.…".into(), Trust::Unverified));
        all.sort_by_key(|(_, _, trust)| *trust);
        Sources(all)
    }

    /// The least of what a rule looks at. A time trigger is our own, and no person.
    fn of_rule(&self, rule: &Rule) -> (Trust, Cause) {
        let heard = self.least(&rule.matchers);
        if rule.schedules.is_empty() || heard.0 <= Trust::Fresh {
            return heard;
        }
        (Trust::Fresh, Cause::Heard("portero".into(), SCHEDULE_EVENT.into()))
    }

    /// What may end a wait before its time.
    fn until(&self, ends: &[Ends], emitters: &[Emitter<'_>]) -> From {
        let fits_one = |emitter: &Emitter<'_>| {
            ends.iter().any(|end| emitter.made.fits(&end.matcher) > Sure::No)
        };
        let numbered = emitters.iter().enumerate();
        From {
            heard: Some(self.least(ends.iter().map(|end| &end.matcher))),
            emitters: numbered.filter(|(_, e)| fits_one(e)).map(|(at, _)| at).collect(),
            ..From::default()
        }
    }

    fn least<'m>(&self, matchers: impl IntoIterator<Item = &'m Matcher>) -> (Trust, Cause) {
        let matchers: Vec<&Matcher> = matchers.into_iter().collect();
        let heard = self
            .0
            .iter()
            .find(|(source, kind, _)| matchers.iter().any(|matcher| hears(matcher, source, kind)));
        heard.map_or((Trust::Human, Cause::Nothing), |(source, kind, trust)| {
            (*trust, Cause::Heard(source.clone(), kind.clone()))
        })
    }
}

fn hears(matcher: &Matcher, source: &str, kind: &str) -> bool {
    let wants = |field: Field, has: &str| {
        let fits = |wanted: &super::pattern::Wanted| match has.strip_suffix('…') {
            // All that begins like this.
            Some(begin) => {
                wanted.to_string().starts_with(begin) || wanted.accepts(Has::Text(begin))
            }
            None => wanted.accepts(Has::Text(has)),
        };
        matcher.wanted(&field).is_none_or(|all| all.iter().any(fits))
    };
    wants(Field::Type, kind) && wants(Field::Source, source)
}
