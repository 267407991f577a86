//! What only the whole set of rules shows: a rule that another one keeps every event from, a rule
//! that can never match, rules that feed each other in a circle. It looks at compiled rules and
//! decides nothing.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::compile::{Act, Emit, Rule, Step, Template};
use super::expr::Text;
use super::pattern::{Field, Has, Matcher, Wanted, has};
use super::types;
use crate::node::{Problem, Problems};

/// Looks at all rules together, in file order.
pub(super) fn lint(rules: &[Rule], problems: &mut Problems) {
    rules.iter().for_each(|rule| impossible(rule, problems));
    unreachable(rules, problems);
    circles(rules, problems);
}

/// A type and a source that never come together.
fn impossible(rule: &Rule, problems: &mut Problems) {
    for matcher in &rule.matchers {
        let (Some(kinds), Some(sources)) =
            (matcher.wanted(&Field::Type), matcher.wanted(&Field::Source))
        else {
            continue;
        };
        let any = kinds.iter().any(|kind| sources.iter().any(|source| can_come(kind, source)));
        if any {
            continue;
        }
        let (kind, source) = (&kinds[0], &sources[0]);
        let message =
            format!("`{}` can never match: `{kind}` does not come from `{source}`", rule.name);
        problems.push(Problem::error(&rule.file, rule.range.clone(), message));
    }
}

/// Whether a source may send this type: `netatmo.ring` comes from `netatmo/…`, a rule's own types
/// come from `portero`.
fn can_come(kind: &Wanted, source: &Wanted) -> bool {
    let (Wanted::Text(kind) | Wanted::Prefix(kind)) = kind else { return false };
    let Some((system, _)) = kind.split_once('.') else { return true };
    let reserved = types::RESERVED.iter().any(|begin| *begin == format!("{system}."));
    let from =
        if reserved && system != "portero" { format!("{system}/") } else { "portero".into() };
    match source {
        Wanted::Text(source) => source.starts_with(&from),
        Wanted::Prefix(prefix) => from.starts_with(&**prefix) || prefix.starts_with(&from),
        Wanted::Plain(_) | Wanted::Nothing => false,
    }
}

/// Rules behind an unconditional `stop` that takes every event they want.
fn unreachable(rules: &[Rule], problems: &mut Problems) {
    // A rule that waits first stops nothing.
    let always =
        |rule: &Rule| rule.condition.is_none() && rule.cooldown.is_none() && rule.wait.is_none();
    let stops = |rule: &(usize, &Rule)| {
        always(rule.1) && at_once(&rule.1.steps).any(|step| matches!(step.act, Act::Stop))
    };
    let mut told = HashSet::new();
    for (i, stopper) in rules.iter().enumerate().filter(stops) {
        for later in &rules[i + 1..] {
            let covered =
                |wanted: &Matcher| stopper.matchers.iter().any(|mine| mine.covers(wanted));
            let by_time = !later.schedules.is_empty();
            if !by_time && later.matchers.iter().all(covered) && told.insert(&later.name) {
                let message = format!("`{}` is never reached", later.name);
                let place = stopper.file.place(stopper.range.start);
                let help = format!("`{}` at {place} stops every event before it", stopper.name);
                let problem = Problem::error(&later.file, later.range.clone(), message);
                problems.push(problem.help(help));
            }
        }
    }
}

/// The steps before the first wait.
fn at_once(steps: &[Step]) -> impl Iterator<Item = &Step> {
    steps.iter().take_while(|step| !matches!(step.act, Act::Wait(_)))
}

/// How surely one thing follows from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sure {
    No,
    Perhaps,
    Yes,
}

/// An `emit` and whether its rule reaches it whenever it fires.
struct Made<'r> {
    rule: usize,
    emit: &'r Emit,
    sure: Sure,
}

/// Rules that set themselves off: a problem if nothing ever ends it, a warning otherwise.
fn circles(rules: &[Rule], problems: &mut Problems) {
    let mut made = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        collect(i, &rule.steps, Sure::Yes, &mut made);
    }
    if made.is_empty() {
        return;
    }
    let by_type = ByType::new(rules);
    let mut sure: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut perhaps = sure.clone();
    for emit in &made {
        for to in by_type.candidates(&emit.emit.kind) {
            let rule = &rules[to];
            let held = rule.condition.is_some() || rule.cooldown.is_some();
            let here = if held { Sure::Perhaps } else { Sure::Yes };
            let fits = rule.matchers.iter().map(|matcher| fits(matcher, emit.emit)).max();
            match fits.unwrap_or(Sure::No).min(here).min(emit.sure) {
                Sure::No => {}
                Sure::Perhaps => perhaps[emit.rule].push(to),
                Sure::Yes => {
                    sure[emit.rule].push(to);
                    perhaps[emit.rule].push(to);
                }
            }
        }
    }
    let mut told = HashSet::new();
    for (edges, endless) in [(&sure, true), (&perhaps, false)] {
        for circle in find_circles(edges) {
            if circle.iter().all(|rule| told.insert(*rule)) {
                problems.push(circle_problem(rules, &made, &circle, endless));
            }
        }
    }
}

fn circle_problem(rules: &[Rule], made: &[Made<'_>], circle: &[usize], endless: bool) -> Problem {
    let first = &rules[circle[0]];
    let names: Vec<String> = circle
        .iter()
        .chain(circle.first())
        .map(|rule| format!("`{}`", rules[*rule].name))
        .collect();
    let range = made.iter().find(|made| made.rule == circle[0]).map(|made| &made.emit.range);
    let range = range.unwrap_or(&first.range).clone();
    let way = names.join(" → ");
    if endless {
        let message = format!("these rules set each other off without end: {way}");
        Problem::error(&first.file, range, message).help("an `if` or a `cooldown` can end it")
    } else {
        let message = format!("these rules can set each other off: {way}");
        Problem::warning(&first.file, range, message)
    }
}

fn collect<'r>(rule: usize, steps: &'r [Step], sure: Sure, made: &mut Vec<Made<'r>>) {
    for step in steps {
        match &step.act {
            Act::Emit(emit) => made.push(Made { rule, emit, sure }),
            Act::If { then, otherwise, .. } => {
                collect(rule, then, Sure::Perhaps, made);
                collect(rule, otherwise, Sure::Perhaps, made);
            }
            Act::Stop => return,
            Act::Escalate(ladder) => {
                for rung in &ladder.rungs {
                    collect(rule, std::slice::from_ref(&rung.step), Sure::Perhaps, made);
                }
            }
            Act::Push(_) | Act::Set(_) | Act::Tell(_) | Act::Wait(_) | Act::Open(_) => {}
        }
    }
}

/// Rules by the exact types they wait for, so that ten thousand emitting rules are no square.
pub(super) struct ByType<'r> {
    exact: HashMap<&'r str, Vec<usize>>,
    open: Vec<usize>,
}

impl<'r> ByType<'r> {
    pub fn new(rules: &'r [Rule]) -> ByType<'r> {
        let mut by_type = ByType { exact: HashMap::new(), open: Vec::new() };
        for (i, rule) in rules.iter().enumerate() {
            for matcher in &rule.matchers {
                let kinds = matcher.wanted(&Field::Type).unwrap_or(&[]);
                let exact = |kind: &'r Wanted| match kind {
                    Wanted::Text(text) => Some(&**text),
                    _ => None,
                };
                let texts: Vec<&str> = kinds.iter().filter_map(exact).collect();
                if texts.len() < kinds.len() || kinds.is_empty() {
                    by_type.open.push(i);
                }
                for text in texts {
                    by_type.exact.entry(text).or_default().push(i);
                }
            }
        }
        by_type
    }

    pub fn candidates(&self, kind: &str) -> impl Iterator<Item = usize> {
        let mut all: Vec<usize> = self.exact.get(kind).into_iter().flatten().copied().collect();
        all.extend(&self.open);
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }
}

/// Whether an emitted event is one that a matcher accepts.
pub(super) fn fits(matcher: &Matcher, emit: &Emit) -> Sure {
    let one = |(field, wanted): &(Field, Vec<Wanted>)| {
        let accepts = |has: Has<'_>| {
            let any = wanted.iter().any(|wanted| wanted.accepts(has));
            if any { Sure::Yes } else { Sure::No }
        };
        match field {
            Field::Type => accepts(Has::Text(&emit.kind)),
            Field::Source => accepts(Has::Text("portero")),
            Field::Subject => match emit.subject.as_ref().map(Text::as_literal) {
                None => accepts(Has::Nothing),
                Some(Some(text)) => accepts(Has::Text(text)),
                Some(None) => Sure::Perhaps,
            },
            Field::Data(names) => data_fits(names, &emit.data, &accepts),
        }
    };
    matcher.pairs.iter().map(one).min().unwrap_or(Sure::Yes)
}

fn data_fits(
    names: &[Box<str>],
    data: &[(Box<str>, Template)],
    accepts: &impl Fn(Has<'_>) -> Sure,
) -> Sure {
    let Some((first, rest)) = names.split_first() else { return Sure::No };
    let Some((_, template)) = data.iter().find(|(name, _)| name == first) else {
        return accepts(Has::Nothing);
    };
    match template {
        Template::Text(text) => match text.as_literal() {
            Some(text) if rest.is_empty() => accepts(Has::Text(text)),
            Some(_) => accepts(Has::Nothing),
            None => Sure::Perhaps,
        },
        Template::Fixed(json) => {
            let found = rest.iter().try_fold(json, |json: &Json, name| json.get(&**name));
            accepts(found.map_or(Has::Nothing, has))
        }
        Template::Map(fields) if !rest.is_empty() => data_fits(rest, fields, accepts),
        Template::Map(_) | Template::List(_) => accepts(Has::Many),
    }
}

/// One circle for each edge that leads back to a rule still on the way, walked without recursion.
fn find_circles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut circles = Vec::new();
    let mut done = vec![false; edges.len()];
    for start in 0..edges.len() {
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((node, next)) = way.last_mut().map(|last| {
            last.1 += 1;
            (last.0, last.1 - 1)
        }) {
            let Some(to) = edges[node].get(next).copied().filter(|_| !done[node]) else {
                done[node] = true;
                way.pop();
                continue;
            };
            if let Some(at) = way.iter().position(|(on_way, _)| *on_way == to) {
                circles.push(way[at..].iter().map(|(rule, _)| *rule).collect());
            } else if !done[to] {
                way.push((to, 0));
            }
        }
    }
    circles
}
