//! What a rule file says, taken from the tree and checked for everything that one rule by itself
//! can get wrong. The language: `when`, `if`, `cooldown`, `lane`, `do`; see `docs/rules.md`.

use std::time::Duration;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::House;
use super::compile::{Cooldown, Rule, Scope, Step, steps};
use super::expr::{Condition, Text};
use super::pattern::{Field, Matcher, Plain, Wanted};
use super::schedule::{self, Schedule};
use super::types;
use super::wait::{Ends, For, Mode, Span};
use crate::action::Lane;
use crate::node::{Cursor, Node, Table, Value, nearest};

/// Cooldowns are for people's patience; a year is beyond any.
const COOLDOWN_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Alternatives in one `when`, and values in one of its lists.
const ALTERNATIVES_MAX: usize = 1000;

/// Beginnings of types that somebody may have meant.
const PREFIXES: [&str; 7] =
    ["netatmo.*", "portero.*", "fibaro.*", "indigo.*", "emm.*", "vms.*", "hook.*"];

/// Rules and tests of one file.
pub(super) struct Parsed<'r> {
    pub rules: Vec<Rule>,
    pub tests: Option<Cursor<'r>>,
}

/// Takes a file apart.
pub(super) fn parse<'r>(root: Cursor<'r>, house: &House) -> Parsed<'r> {
    let mut parsed = Parsed { rules: Vec::new(), tests: None };
    if root.is_null() {
        return parsed;
    }
    let Some(mut table) = root.table() else { return parsed };
    if let Some(rules) = table.optional("rules").filter(|rules| !rules.is_null()) {
        let items = rules.list().unwrap_or_default();
        parsed.rules = items.into_iter().filter_map(|item| rule(item, house)).collect();
    }
    parsed.tests = table.optional("tests").filter(|tests| !tests.is_null());
    table.done_with(|key| {
        ["when", "do", "if", "name"].contains(&key).then(|| {
            "a file has `rules:`, a list; each rule begins with `- name:` below it".to_string()
        })
    });
    parsed
}

fn rule(at: Cursor<'_>, house: &House) -> Option<Rule> {
    let mut table = at.table()?;
    let name = table.required("name");
    let name = name.and_then(|at| name_text(at).map(|text| (text, at.range())));
    let when = table.required("when").and_then(|at| triggers(at, house));
    let condition = table.optional("if").map(Condition::compile);
    let cooldown = table.optional("cooldown").map(cooldown);
    let lane = table.optional("lane").map(lane);
    let wait = table.optional("for").map(Span::read);
    let unless = table.optional("unless").map(|at| (at, ends(at, house)));
    let mode = table.optional("mode").map(|at| at.one_of(&Mode::WORDS));
    let scope = Scope { house };
    let steps = table.required("do").and_then(|at| rule_steps(&scope, at));
    table.done_with(rule_advice);
    let (name, range) = name?;
    let (matchers, schedules) = when?;
    let wait = match (sound(wait)?, unless) {
        (Some(span), unless) => {
            Some(For { span, unless: sound(unless.map(|(_, ends)| ends))?.unwrap_or_default() })
        }
        (None, None) => None,
        (None, Some((at, _))) => {
            at.wrong_help("`unless` needs a `for` beside it", "add `for: 10m`");
            return None;
        }
    };
    Some(Rule {
        name: name.into(),
        file: at.reader().file().clone(),
        range,
        matchers,
        schedules,
        condition: sound(condition)?,
        cooldown: sound(cooldown)?,
        lane: sound(lane)?.unwrap_or_default(),
        steps: steps?,
        stamp: stamp(at.node()),
        wait,
        mode: sound(mode)?.unwrap_or_default(),
    })
}

fn rule_advice(key: &str) -> Option<String> {
    // Other systems' words for the same things.
    let meant = match key {
        "condition" | "conditions" => "if",
        "trigger" | "triggers" | "on" => "when",
        "action" | "actions" | "then" | "steps" => "do",
        "alias" | "id" => "name",
        _ => return None,
    };
    Some(format!("here it is called `{meant}`"))
}

/// The first digits of the hash of what a rule says: comments and layout do not count.
fn stamp(node: &Node) -> String {
    let said = json(node).to_string();
    let full: [u8; 32] = Sha256::digest(said.as_bytes()).into();
    full[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` if it was given and is wrong.
#[allow(clippy::option_option)] // Given or not, right or wrong: four cases are meant.
fn sound<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    match given {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn name_text(at: Cursor<'_>) -> Option<&str> {
    let name = at.loose_text()?.trim();
    if name.is_empty() {
        at.wrong("a rule's name is empty");
        return None;
    }
    Some(name)
}

fn lane(at: Cursor<'_>) -> Option<Lane> {
    at.one_of(&[("alarm", Lane::Alarm), ("normal", Lane::Normal)])
}

fn rule_steps(scope: &Scope<'_>, at: Cursor<'_>) -> Option<Vec<Step>> {
    let steps = steps(scope, at, "do")?;
    if steps.is_empty() {
        at.wrong_help("`do` is empty: the rule does nothing", "add a step such as `- push: …`");
    }
    Some(steps)
}

fn cooldown(at: Cursor<'_>) -> Option<Cooldown> {
    let least = Duration::from_secs(1);
    if !matches!(at.node().value, Value::Map(_)) {
        let every = at.duration(least, COOLDOWN_MAX)?;
        return Some(Cooldown { every, key: Text::literal("") });
    }
    let mut table = at.table()?;
    let every = table.required("every").and_then(|at| at.duration(least, COOLDOWN_MAX));
    let key = table.optional("key").map_or(Some(Text::literal("")), Text::compile);
    table.done();
    Some(Cooldown { every: every?, key: key? })
}

/// The alternatives of a `when`: events and times.
fn triggers(at: Cursor<'_>, house: &House) -> Option<(Vec<Matcher>, Vec<Schedule>)> {
    if let Value::List(items) = &at.node().value
        && (items.is_empty() || items.len() > ALTERNATIVES_MAX)
    {
        let message = if items.is_empty() {
            "`when` is an empty list: the rule can never match".to_string()
        } else {
            format!("`when` has more than {ALTERNATIVES_MAX} alternatives")
        };
        at.wrong(message);
        return None;
    }
    let (timed, heard): (Vec<_>, Vec<_>) =
        at.list_or_one().into_iter().partition(|one| schedule::is_schedule(*one));
    let schedules: Vec<_> = timed.into_iter().map(|one| schedule::read(one, house)).collect();
    let matchers: Vec<_> = heard.into_iter().map(|one| matcher(one, house)).collect();
    let schedules: Option<Vec<_>> = schedules.into_iter().collect();
    Some((matchers.into_iter().collect::<Option<_>>()?, schedules?.into_iter().flatten().collect()))
}

/// What ends a wait: `unless`, `until`. Its values may be templates about the event that the wait
/// began with.
pub(super) fn ends(at: Cursor<'_>, house: &House) -> Option<Vec<Ends>> {
    let all: Vec<_> = at.list_or_one().into_iter().map(|one| end(one, house)).collect();
    if all.is_empty() {
        at.wrong("this is an empty list: nothing ends the wait");
    }
    all.into_iter().collect()
}

fn end(at: Cursor<'_>, house: &House) -> Option<Ends> {
    let mut computed = Vec::new();
    let matcher = matcher_with(at, house, Some(&mut computed))?;
    if matcher.pairs.is_empty() {
        at.wrong_help("at least one value must be fixed", "add `type: …`");
        return None;
    }
    Some(Ends { matcher, computed })
}

fn matcher(at: Cursor<'_>, house: &House) -> Option<Matcher> {
    matcher_with(at, house, None)
}

/// A matcher; values that are templates go to `computed`, if there may be any.
fn matcher_with(
    at: Cursor<'_>,
    house: &House,
    mut computed: Option<&mut Vec<(Field, Text)>>,
) -> Option<Matcher> {
    let mut table = at.table()?;
    let mut pairs = Vec::new();
    let mut sound = true;
    let mut any_computed = false;
    let mut add = |field: Field, at: Cursor<'_>| {
        if let (Some(computed), true) = (computed.as_mut(), is_template(at.node())) {
            any_computed = true;
            match Text::compile(at) {
                Some(text) => computed.push((field, text)),
                None => sound = false,
            }
            return;
        }
        match values(&field, at) {
            Some(wanted) => pairs.push((field, wanted)),
            None => sound = false,
        }
    };
    let kind = table.optional("type");
    let source = table.optional("source");
    let subject = table.optional("subject");
    let data = table.optional("data");
    for (field, at) in [(Field::Type, kind), (Field::Source, source), (Field::Subject, subject)] {
        if let Some(at) = at {
            add(field, at);
        }
    }
    if let Some(data) = data {
        data_fields(data, &mut Vec::new(), &mut add);
    }
    // `data.person: Ana` is the same as `data: { person: Ana }`.
    let dotted = dotted_fields(&mut table, at, &mut add);
    table.done_with(|key| data_advice(key, &dotted));
    if let (Some(source), Some((_, wanted))) =
        (source, pairs.iter().find(|(field, _)| *field == Field::Source))
    {
        check_sources(source, wanted, house);
    }
    if pairs.is_empty() && !any_computed && sound {
        at.wrong_help("`when` is empty", "for every event write `type: \"*\"`");
        return None;
    }
    sound.then_some(Matcher { pairs })
}

fn is_template(node: &Node) -> bool {
    matches!(&node.value, Value::Text(text, _) if text.contains("{{") || text.contains("{%"))
}

fn data_advice(key: &str, known: &[&str]) -> Option<String> {
    if known.contains(&key) {
        return None;
    }
    let near = nearest(key, ["type", "source", "subject", "data"]);
    Some(match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("an event's own fields are matched as `data: {{ {key}: … }}`"),
    })
}

fn dotted_fields<'r>(
    table: &mut Table<'r>,
    at: Cursor<'r>,
    add: &mut impl FnMut(Field, Cursor<'r>),
) -> Vec<&'r str> {
    let mut dotted = Vec::new();
    for (key, value) in at.named().unwrap_or_default() {
        let Some(path) = key.name.strip_prefix("data.") else { continue };
        table.allow(&key.name);
        dotted.push(key.name.as_str());
        add(Field::Data(path.split('.').map(Into::into).collect()), value);
    }
    dotted
}

fn data_fields<'r>(
    at: Cursor<'r>,
    names: &mut Vec<Box<str>>,
    add: &mut impl FnMut(Field, Cursor<'r>),
) {
    for (key, value) in at.named().unwrap_or_default() {
        names.push(key.name.as_str().into());
        if matches!(value.node().value, Value::Map(_)) {
            data_fields(value, names, add);
        } else {
            add(Field::Data(names.clone()), value);
        }
        names.pop();
    }
}

fn values(field: &Field, at: Cursor<'_>) -> Option<Vec<Wanted>> {
    let items = at.list_or_one();
    if items.is_empty() || items.len() > ALTERNATIVES_MAX {
        let message = match items.len() {
            0 => format!("`{field}` is an empty list: the rule can never match"),
            _ => format!("`{field}` has more than {ALTERNATIVES_MAX} values"),
        };
        at.wrong(message);
        return None;
    }
    let all: Vec<_> = items.into_iter().map(|item| value(field, item)).collect();
    all.into_iter().collect()
}

fn value(field: &Field, at: Cursor<'_>) -> Option<Wanted> {
    if !matches!(field, Field::Data(_)) {
        let text = at.loose_text()?;
        return text_value(field, text, at);
    }
    match &at.node().value {
        Value::Null => Some(Wanted::Nothing),
        Value::Bool(flag) => Some(Wanted::Plain(Plain::Bool(*flag))),
        Value::Int(number) => Some(Wanted::Plain(Plain::Int(*number))),
        Value::Float(number) => Some(Wanted::Plain(Plain::float(*number))),
        Value::Text(text, _) => text_value(field, text, at),
        Value::List(_) | Value::Map(_) => at.mismatch("a value or a list of values"),
    }
}

fn text_value(field: &Field, text: &str, at: Cursor<'_>) -> Option<Wanted> {
    if text.contains("{{") || text.contains("{%") {
        let help = "compare with `if:` instead";
        at.wrong_help("`when` compares with fixed values, not with templates", help);
        return None;
    }
    let prefix = text.strip_suffix('*').filter(|_| matches!(field, Field::Type | Field::Source));
    match prefix {
        Some(prefix) if prefix.contains('*') => {
            at.wrong("only the end may be left open with `*`");
            None
        }
        Some(prefix) => Some(Wanted::Prefix(prefix.into())),
        None => Some(Wanted::Text(text.into())),
    }
}

fn check_sources(at: Cursor<'_>, wanted: &[Wanted], house: &House) {
    let known = || house.sources.iter().map(String::as_str).chain(["portero"]);
    for (item, wanted) in at.list_or_one().into_iter().zip(wanted) {
        let found = match wanted {
            Wanted::Prefix(prefix) => known().any(|source| source.starts_with(&**prefix)),
            Wanted::Text(text) => known().any(|source| *source == **text),
            Wanted::Plain(_) | Wanted::Nothing => true,
        };
        if found {
            continue;
        }
        let message = format!("the source `{wanted}` is not in the config");
        match nearest(&wanted.to_string(), known()) {
            Some(near) => item.wrong_help(message, format!("did you mean `{near}`?")),
            None => {
                let list: Vec<&str> = known().collect();
                item.wrong_help(message, format!("known sources: {}", list.join(", ")));
            }
        }
    }
}

/// Checks the types in `when` against what exists and what rules emit. It needs all files first.
pub(super) fn check_types(at: Cursor<'_>, emitted: &[&str]) {
    let matchers = [at.get("when"), at.get("unless")];
    for one in matchers.into_iter().flatten().flat_map(|at| at.list_or_one()) {
        check_matcher_types(one, emitted);
    }
    at.get("do").into_iter().for_each(|steps| check_step_types(steps, emitted));
}

/// The same for what the steps wait for.
fn check_step_types(at: Cursor<'_>, emitted: &[&str]) {
    for step in at.list_or_one() {
        let until = step.get("wait").and_then(|w| w.get("until"));
        let ladder = step.get("escalate").and_then(|ladder| ladder.get("until"));
        let ends = until.into_iter().chain(ladder).flat_map(|ends| ends.list_or_one());
        ends.for_each(|one| check_matcher_types(one, emitted));
        for branch in ["then", "else"].into_iter().filter_map(|name| step.get(name)) {
            check_step_types(branch, emitted);
        }
    }
}

fn check_matcher_types(one: Cursor<'_>, emitted: &[&str]) {
    for item in one.get("type").into_iter().flat_map(|kinds| kinds.list_or_one()) {
        let Value::Text(text, _) = &item.node().value else { continue };
        check_type(item, text, emitted);
    }
}

/// Notes a type that nobody makes.
pub(super) fn check_type(at: Cursor<'_>, text: &str, emitted: &[&str]) {
    let prefix = text.strip_suffix('*');
    let known = match prefix {
        Some(prefix) => {
            types::is_known(prefix, true) || emitted.iter().any(|kind| kind.starts_with(prefix))
        }
        None => types::is_known(text, false) || emitted.contains(&text),
    };
    if known || text.contains("{{") {
        return;
    }
    let message = format!("no event has the type `{text}`");
    let mut all: Vec<&str> = types::all().collect();
    all.extend(emitted);
    let near = match prefix {
        Some(_) => nearest(text, PREFIXES),
        None => nearest(text, all),
    };
    match near {
        Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
        None => at.wrong_help(message, "a type of your own is made by another rule's `emit`"),
    }
}

/// A value as it stands in the file, without templates.
pub(super) fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Text(text, _) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, node)| (key.name.clone(), json(node))).collect())
        }
    }
}
