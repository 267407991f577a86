//! What only the whole set of rules shows: a rule that another one keeps every event from, a rule
//! that can never match, rules that feed each other in a circle. It looks at compiled rules and
//! decides nothing.

use std::collections::{HashMap, HashSet};

use super::House;
use super::compile::{Act, Rule, Step};
use super::made::{self, Made, Sure};
use super::pattern::{Field, Matcher, Wanted};
use super::types;
use crate::node::{Problem, Problems};

/// Looks at all rules together, in file order.
pub(super) fn lint(rules: &[Rule], house: &House, problems: &mut Problems) {
    rules.iter().for_each(|rule| impossible(rule, problems));
    unreachable(rules, problems);
    circles(rules, house, problems);
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
    let stops = |rule: &(usize, &Rule)| always(rule.1) && always_stops(&rule.1.steps);
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

/// Whether these steps say `stop` whatever is true, before anything waits.
fn always_stops(steps: &[Step]) -> bool {
    for step in steps {
        match &step.act {
            Act::Stop => return true,
            Act::Wait(_) => return false,
            Act::If { then, otherwise, .. } => {
                if always_stops(then) && always_stops(otherwise) {
                    return true;
                }
                if may_wait(then) || may_wait(otherwise) {
                    return false;
                }
            }
            _ => {}
        }
    }
    false
}

fn may_wait(steps: &[Step]) -> bool {
    steps.iter().any(|step| match &step.act {
        Act::Wait(_) => true,
        Act::If { then, otherwise, .. } => may_wait(then) || may_wait(otherwise),
        _ => false,
    })
}

/// What a rule's step makes, and whether the rule reaches it whenever it fires.
struct Maker<'r> {
    rule: usize,
    made: Made<'r>,
    sure: Sure,
}

/// Rules that set themselves off: a problem if nothing ever ends it, a warning otherwise.
fn circles(rules: &[Rule], house: &House, problems: &mut Problems) {
    let mut made = Vec::new();
    for (rule, one) in rules.iter().enumerate() {
        collect(house, &one.steps, Sure::Yes, &mut |what, sure| {
            made.push(Maker { rule, made: what, sure });
        });
    }
    if made.is_empty() {
        return;
    }
    let by_type = ByType::new(rules);
    let mut sure: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut perhaps = sure.clone();
    for maker in &made {
        for to in by_type.candidates(maker.made.kind()) {
            let rule = &rules[to];
            let held = rule.condition.is_some() || rule.cooldown.is_some();
            let here = if held { Sure::Perhaps } else { Sure::Yes };
            let fits = rule.matchers.iter().map(|matcher| maker.made.fits(matcher)).max();
            match fits.unwrap_or(Sure::No).min(here).min(maker.sure) {
                Sure::No => {}
                Sure::Perhaps => perhaps[maker.rule].push(to),
                Sure::Yes => {
                    sure[maker.rule].push(to);
                    perhaps[maker.rule].push(to);
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

fn circle_problem(rules: &[Rule], made: &[Maker<'_>], circle: &[usize], endless: bool) -> Problem {
    let first = &rules[circle[0]];
    let names: Vec<String> = circle
        .iter()
        .chain(circle.first())
        .map(|rule| format!("`{}`", rules[*rule].name))
        .collect();
    let next = &rules[circle.get(1).copied().unwrap_or(circle[0])];
    let leads_on =
        |made: &Made<'_>| next.matchers.iter().any(|matcher| made.fits(matcher) > Sure::No);
    let step = made.iter().find(|maker| maker.rule == circle[0] && leads_on(&maker.made));
    let range = step.map_or(&first.range, |maker| maker.made.range()).clone();
    let way = names.join(" → ");
    if endless {
        let message = format!("these rules set each other off without end: {way}");
        Problem::error(&first.file, range, message).help("an `if` or a `cooldown` can end it")
    } else {
        let message = format!("these rules can set each other off: {way}");
        Problem::warning(&first.file, range, message)
    }
}

/// Hands out all that steps make, and how surely they are come to.
fn collect<'r>(
    house: &'r House,
    steps: &'r [Step],
    sure: Sure,
    take: &mut impl FnMut(Made<'r>, Sure),
) {
    for step in steps {
        match &step.act {
            Act::Emit(emit) => take(Made::Emit(emit), sure),
            Act::Open(open) => {
                made::of_open(open, house).into_iter().for_each(|made| take(made, sure));
            }
            Act::If { then, otherwise, .. } => {
                collect(house, then, Sure::Perhaps, take);
                collect(house, otherwise, Sure::Perhaps, take);
            }
            Act::Stop => return,
            Act::Escalate(ladder) => {
                for rung in &ladder.rungs {
                    collect(house, std::slice::from_ref(&rung.step), Sure::Perhaps, take);
                }
            }
            Act::Push(_) | Act::Set(_) | Act::Tell(_) | Act::Wait(_) => {}
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
