//! `do` steps, from the tree to what can be planned: names checked, texts and conditions
//! compiled, each step with its path. What is compiled here cannot fail on content later, only on
//! an event's values.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::House;
use super::expr::{Condition, Text};
use super::ladder::{self, Ladder};
use super::open::{self, Open, PushButton};
use super::pattern::Matcher;
use super::schedule::Schedule;
use super::tell::{Tell, WORDS, Word};
use super::types;
use super::wait::{For, Mode, Span, Wait};
use crate::action::{Lane, Urgency};
use crate::node::{Cursor, Key, Node, SourceFile, Table, Value, nearest};

/// How long a push service may hold a notification if the rule does not say: long enough for a
/// phone that is off for the night's first half, short enough that the news is still news.
pub(super) const TTL_DEFAULT: Duration = Duration::from_secs(4 * 3600);
/// Push services keep a message for four weeks at most (RFC 8030 leaves it to them).
const TTL_MAX: Duration = Duration::from_secs(28 * 86_400);
/// Steps in one list, and nesting of `if` in `if`: more is a program, not a rule.
const STEPS_MAX: usize = 100;

/// A rule, ready to decide.
#[derive(Debug)]
pub(super) struct Rule {
    pub name: Arc<str>,
    pub file: SourceFile,
    /// The bytes of its name.
    pub range: Range<usize>,
    pub matchers: Vec<Matcher>,
    /// The alternatives of its `when` that are times.
    pub schedules: Vec<Schedule>,
    pub condition: Option<Condition>,
    pub cooldown: Option<Cooldown>,
    pub lane: Lane,
    pub steps: Vec<Step>,
    /// The first digits of the hash of what it says, wherever it stands and however it is laid out.
    pub stamp: String,
    pub wait: Option<For>,
    pub mode: Mode,
}

/// `cooldown: { every, key }`.
#[derive(Debug)]
pub(super) struct Cooldown {
    pub every: Duration,
    pub key: Text,
}

/// A step and where it stands: `do[1].then[0]`.
#[derive(Debug)]
pub(super) struct Step {
    pub path: Box<str>,
    pub act: Act,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Act {
    Push(Box<Push>),
    Set(Vec<(Text, Template)>),
    Emit(Box<Emit>),
    Tell(Box<Tell>),
    Wait(Box<Wait>),
    Escalate(Box<Ladder>),
    Open(Box<Open>),
    If { condition: Condition, then: Vec<Step>, otherwise: Vec<Step> },
    Stop,
}

#[derive(Debug)]
pub(super) struct Push {
    pub to: Vec<Recipient>,
    pub title: Text,
    pub body: Option<Text>,
    pub image: Option<Text>,
    pub url: Option<Text>,
    pub tag: Option<Text>,
    pub urgency: Urgency,
    pub ttl: Duration,
    /// It is sent in quiet hours, too: `quiet: ignore`.
    pub wakes: bool,
    pub buttons: Vec<PushButton>,
}

/// Whom a push is for.
#[derive(Debug)]
pub(super) enum Recipient {
    /// A name that the config knows, unfolded to persons.
    People(Vec<Arc<str>>),
    /// A template that becomes such a name.
    Computed(Text),
}

#[derive(Debug)]
pub(super) struct Emit {
    pub kind: Box<str>,
    pub subject: Option<Text>,
    pub data: Vec<(Box<str>, Template)>,
    /// The bytes of its type, to point at.
    pub range: Range<usize>,
}

/// A value that may hold expressions.
#[derive(Debug)]
pub(super) enum Template {
    Fixed(Json),
    Text(Text),
    List(Vec<Template>),
    Map(Vec<(Box<str>, Template)>),
}

/// What steps are compiled in.
pub(super) struct Scope<'h> {
    pub house: &'h House,
}

/// A list of steps.
pub(super) fn steps(scope: &Scope<'_>, at: Cursor<'_>, path: &str) -> Option<Vec<Step>> {
    let items = at.list_or_one();
    if items.len() > STEPS_MAX {
        at.wrong(format!("more than {STEPS_MAX} steps"));
        return None;
    }
    let numbered = items.into_iter().enumerate();
    let all: Vec<Option<Step>> =
        numbered.map(|(i, item)| step(scope, item, format!("{path}[{i}]"))).collect();
    let last = all.iter().flatten().position(|step| step.ends_rule());
    if let (Some(last), true) = (last, all.iter().all(Option::is_some))
        && let Some(after) = at.list_or_one().get(last + 1)
    {
        let help = "`stop` before it ends the rule";
        after.wrong_help("this step is never reached", help);
    }
    all.into_iter().collect()
}

impl Step {
    /// Whether no step after it is ever come to.
    fn ends_rule(&self) -> bool {
        let any = |steps: &[Step]| steps.iter().any(Step::ends_rule);
        match &self.act {
            Act::Stop => true,
            Act::If { then, otherwise, .. } => any(then) && any(otherwise),
            _ => false,
        }
    }
}

fn step(scope: &Scope<'_>, at: Cursor<'_>, path: String) -> Option<Step> {
    if matches!(&at.node().value, Value::Text(word, _) if word == "stop") {
        return Some(Step { path: path.into(), act: Act::Stop });
    }
    if !matches!(at.node().value, Value::Map(_)) {
        let help = "a step looks like `- push: { to: [family], title: \"…\" }`";
        at.wrong_help(format!("this is {}, not a step", at.node().value.kind()), help);
        return None;
    }
    let act = act(scope, at, at.table()?, &path, 0);
    Some(Step { path: path.into(), act: act? })
}

/// What a step does; `others` keys of `table` have been read already.
pub(super) fn act(
    scope: &Scope<'_>,
    at: Cursor<'_>,
    mut table: Table<'_>,
    path: &str,
    others: usize,
) -> Option<Act> {
    let push = table.optional("push").map(|at| push(scope, at).map(Box::new).map(Act::Push));
    let set = table.optional("set").map(|at| set(at).map(Act::Set));
    let emit = table.optional("emit").map(|at| emit(at).map(Box::new).map(Act::Emit));
    let open = table.optional("open");
    let open = open.map(|at| Open::compile(scope.house, at).map(Box::new).map(Act::Open));
    let told: Vec<Option<Act>> = WORDS
        .iter()
        .filter_map(|word| Some((word, table.optional(word.system)?)))
        .map(|(word, at)| tell(scope, word, at))
        .collect();
    let wait = table.optional("wait").map(|at| wait(scope, at).map(Box::new).map(Act::Wait));
    let ladder = table.optional("escalate");
    let ladder = ladder.map(|at| ladder::ladder(scope, at, path).map(Box::new).map(Act::Escalate));
    let stop = table.optional("stop").map(stop);
    let choice = choice(scope, at, &mut table, path);
    let is_empty = table.len() == others;
    table.done_with(step_advice);
    let one = [push, set, emit, open, wait, ladder, stop, choice].into_iter().flatten();
    let mut acts = one.chain(told);
    let act = acts.next();
    if acts.next().is_some() {
        at.wrong_help("one step does one thing", "begin each with its own `-`");
        return None;
    }
    if act.is_none() && is_empty {
        at.wrong("this step is empty");
    }
    act?
}

/// `if` with `then` and `else`.
#[allow(clippy::option_option)] // Given or not, right or wrong.
fn choice(
    scope: &Scope<'_>,
    at: Cursor<'_>,
    table: &mut Table<'_>,
    path: &str,
) -> Option<Option<Act>> {
    let condition = table.optional("if").map(Condition::compile);
    let mut branch = |name: &'static str| {
        let found = table.optional(name)?;
        Some(steps(scope, found, &format!("{path}.{name}")))
    };
    match (condition, branch("then"), branch("else")) {
        (None, None, None) => None,
        (Some(condition), Some(then), otherwise) => Some(condition.and_then(|condition| {
            let otherwise = otherwise.map_or(Some(Vec::new()), |steps| steps)?;
            Some(Act::If { condition, then: then?, otherwise })
        })),
        (Some(_), None, _) => {
            at.wrong("`then` is missing");
            Some(None)
        }
        (None, ..) => {
            at.wrong("`then` and `else` need an `if` beside them");
            Some(None)
        }
    }
}

fn tell(scope: &Scope<'_>, word: &'static Word, at: Cursor<'_>) -> Option<Act> {
    let tell = Tell::compile(scope.house, word, at)?;
    open::no_way_past(scope.house, &tell, at)?;
    Some(Act::Tell(Box::new(tell)))
}

fn step_advice(key: &str) -> Option<String> {
    ["notify", "service", "action", "alert", "message"]
        .contains(&key)
        .then(|| "a notification is sent with `push: { to: [family], title: \"…\" }`".to_string())
}

/// `- wait: 5m`, or `- wait: { for: 5m, until: { … }, late: 1h }`.
fn wait(scope: &Scope<'_>, at: Cursor<'_>) -> Option<Wait> {
    if !matches!(at.node().value, Value::Map(_)) {
        return Some(Wait { span: Span::read(at)?, until: Vec::new() });
    }
    let mut table = at.table()?;
    let span = table.required("for").and_then(Span::read);
    let until = table.optional("until").map(|at| super::file::ends(at, scope.house));
    let late = table.optional("late").map(Span::late);
    table.done();
    let mut span = span?;
    if let Some(late) = late {
        span.late = Some(late?);
    }
    Some(Wait { span, until: until.unwrap_or(Some(Vec::new()))? })
}

/// `- stop`, `- stop: true`, or with a text that says why.
fn stop(at: Cursor<'_>) -> Option<Act> {
    match &at.node().value {
        Value::Null | Value::Bool(true) | Value::Text(..) => Some(Act::Stop),
        _ => at.mismatch("a text that says why, or nothing"),
    }
}

fn push(scope: &Scope<'_>, at: Cursor<'_>) -> Option<Push> {
    let mut table = at.table()?;
    let to = table.required("to").and_then(|at| recipients(scope, at));
    let title = table.required("title").and_then(Text::compile);
    let mut text = |name| table.optional(name).map(Text::compile);
    let (body, image, url, tag) = (text("body"), text("image"), text("url"), text("tag"));
    let urgency = table.optional("urgency").map(|at| {
        let words = [Urgency::VeryLow, Urgency::Low, Urgency::Normal, Urgency::High];
        at.one_of(&words.map(|urgency| (urgency.as_str(), urgency)))
    });
    let ttl = table.optional("ttl").map(|at| at.duration(Duration::from_secs(1), TTL_MAX));
    let quiet = table.optional("quiet").map(|at| at.one_of(&[("ignore", true), ("hold", false)]));
    let buttons = table.optional("buttons").map(|at| open::buttons(scope.house, at));
    table.done_with(|key| {
        (key == "actions").then(|| "write `buttons: [ { title: Open, open: front } ]`".to_string())
    });
    let sound = |given: Option<Option<Text>>| match given {
        None => Some(None),
        Some(text) => text.map(Some),
    };
    Some(Push {
        to: to?,
        title: title?,
        body: sound(body)?,
        image: sound(image)?,
        url: sound(url)?,
        tag: sound(tag)?,
        urgency: urgency.unwrap_or(Some(Urgency::Normal))?,
        ttl: ttl.unwrap_or(Some(TTL_DEFAULT))?,
        wakes: quiet.unwrap_or(Some(false))?,
        buttons: buttons.unwrap_or(Some(Vec::new()))?,
    })
}

fn recipients(scope: &Scope<'_>, at: Cursor<'_>) -> Option<Vec<Recipient>> {
    let items = at.list_or_one();
    if items.is_empty() {
        at.wrong_help("`to` is empty: nobody is told", "name a person or a group");
        return None;
    }
    let all: Vec<_> = items.into_iter().map(|item| recipient(scope, item)).collect();
    all.into_iter().collect()
}

fn recipient(scope: &Scope<'_>, at: Cursor<'_>) -> Option<Recipient> {
    let text = Text::compile(at)?;
    let Some(name) = text.as_literal() else { return Some(Recipient::Computed(text)) };
    if let Some(people) = scope.house.members(name) {
        return Some(Recipient::People(people));
    }
    unknown_person(scope.house, at, name);
    None
}

/// Notes that nobody goes by this name.
pub(super) fn unknown_person(house: &House, at: Cursor<'_>, name: &str) {
    let known = || house.people.iter().chain(house.groups.keys()).map(String::as_str);
    let message = format!("nobody is called `{name}`");
    match nearest(name, known()) {
        Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
        None if known().next().is_none() => {
            at.wrong_help(message, "add `[people.…]` and `[groups]` to portero.toml");
        }
        None => {
            let all: Vec<&str> = known().collect();
            at.wrong_help(message, format!("people and groups: {}", all.join(", ")));
        }
    }
}

fn set(at: Cursor<'_>) -> Option<Vec<(Text, Template)>> {
    let entries = at.named()?;
    if entries.is_empty() {
        at.wrong("`set` sets nothing");
        return None;
    }
    let entry = |(key, value): (&Key, Cursor<'_>)| {
        // A path may itself be a template, so it is read like a text that stands where the key is.
        let node =
            Node { range: key.range.clone(), value: Value::Text(key.name.clone(), key.style) };
        let path = Text::compile(at.reader().at(&node));
        let value = template(value);
        let path = path?;
        if types::owner(path.beginning()).is_some() {
            let message = format!("only the system itself sets `{}`", key.name);
            let help = "choose a path of your own: `house/mode`";
            at.reader().wrong_help(key.range.clone(), message, help.to_string());
            return None;
        }
        Some((path, value?))
    };
    let all: Vec<_> = entries.into_iter().map(entry).collect();
    all.into_iter().collect()
}

fn emit(at: Cursor<'_>) -> Option<Emit> {
    let mut table = at.table()?;
    let kind = table.required("type").and_then(|at| emit_type(at).map(|kind| (kind, at.range())));
    let subject = table.optional("subject").map(Text::compile);
    let data = table.optional("data").map(|at| {
        let fields = at
            .named()?
            .into_iter()
            .map(|(key, value)| template(value).map(|value| (Box::from(key.name.as_str()), value)));
        let all: Vec<_> = fields.collect();
        all.into_iter().collect::<Option<Vec<_>>>()
    });
    table.done();
    let (kind, range) = kind?;
    let subject = match subject {
        None => None,
        Some(text) => Some(text?),
    };
    Some(Emit { kind, subject, data: data.unwrap_or(Some(Vec::new()))?, range })
}

fn emit_type(at: Cursor<'_>) -> Option<Box<str>> {
    let kind = at.text()?;
    if let Some(reserved) = types::RESERVED.iter().find(|begin| kind.starts_with(**begin)) {
        let message = format!("only their own system makes events of type `{reserved}*`");
        at.wrong_help(message, "choose a word of your own: `house.left`");
        return None;
    }
    let word = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        !part.is_empty() && part.chars().all(plain)
    };
    if !kind.contains('.') || !kind.split('.').all(word) {
        at.wrong_help(
            format!("`{kind}` is no event type"),
            "write small words with dots: `house.left`",
        );
        return None;
    }
    Some(kind.into())
}

impl Template {
    /// The value, if it holds no expression.
    pub fn fixed(&self) -> Option<Json> {
        match self {
            Template::Fixed(json) => Some(json.clone()),
            Template::Text(text) => text.as_literal().map(Json::from),
            Template::List(items) => items.iter().map(Template::fixed).collect(),
            Template::Map(entries) => {
                let field =
                    |(name, value): &(Box<str>, Template)| Some((name.to_string(), value.fixed()?));
                entries.iter().map(field).collect::<Option<_>>().map(Json::Object)
            }
        }
    }
}

/// A value that may hold expressions.
pub(super) fn template(at: Cursor<'_>) -> Option<Template> {
    match &at.node().value {
        Value::List(_) => {
            let all: Vec<_> = at.list()?.into_iter().map(template).collect();
            all.into_iter().collect::<Option<Vec<_>>>().map(Template::List)
        }
        Value::Map(_) => {
            let all: Vec<_> = at
                .named()?
                .into_iter()
                .map(|(key, value)| Some((key.name.as_str().into(), template(value)?)))
                .collect();
            all.into_iter().collect::<Option<Vec<_>>>().map(Template::Map)
        }
        Value::Text(..) => Text::compile(at).map(Template::Text),
        _ => Some(Template::Fixed(super::file::json(at.node()))),
    }
}
