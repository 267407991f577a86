//! Steps that tell a system something: `- emm: { to: ["12"], text: Smoke }`. At load all that is
//! fixed is held against the system's table of commands, so that a typing mistake has a line and a
//! column; what comes from the event is filled in and checked when the rule fires ([`fill`]). It
//! knows no system, only the table that the house brings.

mod fill;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::compile::{Template, template};
use super::expr::Text;
use super::{House, System};
use crate::command::{Arg, Kind, Mistake, Spec, find};
use crate::node::{Cursor, Key, Problem, SourceFile, Value, nearest};

/// The longest a command may wait to be sent: a day later it surprises whoever is there.
const TTL_MAX: Duration = Duration::from_secs(86_400);

/// How a step of one kind of system is written.
#[derive(Debug)]
pub(super) struct Word {
    /// The step's key, and the beginning of the system's sources.
    pub system: &'static str,
    /// The key that says which one is meant.
    pub which: &'static str,
    /// What is meant if there is no `call`.
    call: Option<&'static str>,
}

/// All kinds of systems.
pub(super) const WORDS: [Word; 6] = [
    Word { system: "fibaro", which: "intercom", call: None },
    Word { system: "indigo", which: "server", call: None },
    Word { system: "emm", which: "site", call: Some("send") },
    Word { system: "netatmo", which: "account", call: None },
    Word { system: "vms", which: "site", call: None },
    Word { system: "webhook", which: "to", call: Some("post") },
];

/// One command as a rule writes it.
#[derive(Debug)]
pub(super) struct Tell {
    /// `emm/block`.
    pub to: Box<str>,
    word: &'static Word,
    spec: &'static Spec,
    ttl: Duration,
    /// In the order of the file; fixed ones in their proper type.
    args: Vec<(&'static Arg, Template)>,
}

impl Tell {
    /// The command's name.
    pub fn call(&self) -> &'static str {
        self.spec.name
    }

    /// An argument's value, if it is known before any event.
    pub fn fixed_arg(&self, name: &str) -> Option<Json> {
        self.args.iter().find(|(arg, _)| arg.name == name)?.1.fixed()
    }

    /// The texts among its arguments.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.args.iter().map(|(_, template)| template)
    }

    /// Checks everything that does not depend on an event; all problems are noted.
    pub fn compile(house: &House, word: &'static Word, at: Cursor<'_>) -> Option<Tell> {
        let entries = at.named()?;
        let system = configured(house, word, at)?;
        let name = name(word, system, at);
        let ttl = at.get("ttl").map(|at| at.duration(Duration::from_secs(1), TTL_MAX));
        let spec = spec(word, system, at)?;
        let own = [word.which, "call", "ttl"];
        let given = entries.into_iter().filter(|(key, _)| !own.contains(&key.name.as_str()));
        let args: Vec<_> = given.map(|given| argument(word, spec, at, given)).collect();
        let complete = complete(spec, &args, at);
        let args: Option<Vec<_>> = args.into_iter().collect();
        Some(Tell {
            to: format!("{}/{}", word.system, name?).into(),
            word,
            spec,
            ttl: ttl.unwrap_or_else(|| Some(spec.ttl()))?,
            args: args.filter(|_| complete)?,
        })
    }
}

/// The house's systems of this kind; a problem if it has none.
pub(super) fn configured<'h>(house: &'h House, word: &Word, at: Cursor<'_>) -> Option<&'h System> {
    let system = house.systems.get(word.system).filter(|system| !system.names.is_empty());
    if system.is_none() {
        let message = format!("the config has no {} to tell", word.system);
        at.wrong_help(message, format!("add `[{}.<name>]` to portero.toml", word.system));
    }
    system
}

/// Which one is meant. It may be left out where there is only one.
fn name<'h>(word: &Word, system: &'h System, at: Cursor<'_>) -> Option<&'h str> {
    if let Some(given) = at.get(word.which) {
        return named(word, system, given);
    }
    let mut names = system.names.iter();
    if let (Some(only), None) = (names.next(), names.next()) {
        return Some(only);
    }
    at.wrong_help(format!("`{}` is missing", word.which), listed(word, system));
    None
}

/// The system of this name; a problem if there is none.
pub(super) fn named<'h>(word: &Word, system: &'h System, at: Cursor<'_>) -> Option<&'h str> {
    let name = at.loose_text()?;
    let found = system.names.get(name);
    if name.contains("{{") {
        at.wrong_help("a template cannot say which one", "write one step for each, behind an `if`");
    } else if found.is_none() {
        let message = format!("no {} is called `{name}`", word.system);
        match nearest(name, system.names.iter().map(String::as_str)) {
            Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
            None => at.wrong_help(message, listed(word, system)),
        }
    }
    found.map(String::as_str)
}

fn listed(word: &Word, system: &System) -> String {
    let names: Vec<&str> = system.names.iter().map(String::as_str).collect();
    format!("the config's {}: {}", word.system, names.join(", "))
}

fn spec(word: &Word, system: &System, at: Cursor<'_>) -> Option<&'static Spec> {
    let usual = word.call.and_then(|usual| find(system.commands, usual).ok());
    let spec = match (at.get("call"), usual) {
        (Some(call), _) => called(system.commands, call)?,
        (None, Some(spec)) => spec,
        (None, None) => {
            at.wrong_help("`call` is missing", commands(system.commands));
            return None;
        }
    };
    let secret = |arg: &&Arg| arg.required && matches!(arg.kind, Kind::Secret);
    if let Some(arg) = spec.args.iter().find(secret) {
        refuse_secret(at, spec, at.get("call").unwrap_or(at).range(), arg);
        return None;
    }
    Some(spec)
}

/// The command of this name; a problem if there is none.
pub(super) fn called(table: &'static [Spec], at: Cursor<'_>) -> Option<&'static Spec> {
    let call = at.text()?;
    let found = table.iter().find(|spec| spec.name == call);
    if found.is_none() {
        let message = format!("there is no command `{call}`");
        match nearest(call, table.iter().map(|spec| spec.name)) {
            Some(near) => at.wrong_help(message, format!("did you mean `{near}`?")),
            None => at.wrong_help(message, commands(table)),
        }
    }
    found
}

/// Refuses a secret at `place`. A problem shows its line, perhaps in a log: what the step gives as
/// secrets is blotted out in it.
fn refuse_secret(step: Cursor<'_>, spec: &Spec, place: Range<usize>, arg: &Arg) {
    let file = step.reader().file();
    let mut text = file.text.to_string().into_bytes();
    for secret in spec.args.iter().filter(|arg| matches!(arg.kind, Kind::Secret)) {
        let given = step.get(secret.name).map_or(0..0, |given| given.node().range.clone());
        let bytes = text.get_mut(given).into_iter().flatten();
        bytes.filter(|byte| !b"\r\n".contains(byte)).for_each(|byte| *byte = b'*');
    }
    let shown = SourceFile::new(Arc::clone(&file.path), String::from_utf8_lossy(&text));
    let message = format!("`{}` is a secret, and secrets do not belong into rule files", arg.name);
    let problem = Problem::error(&shown, place, message);
    step.reader().push(problem.help("use the command line"));
}

fn argument(
    word: &Word,
    spec: &'static Spec,
    step: Cursor<'_>,
    (key, at): (&Key, Cursor<'_>),
) -> Option<(&'static Arg, Template)> {
    let Some(arg) = spec.args.iter().find(|arg| arg.name == key.name) else {
        let keys: Vec<&str> =
            spec.args.iter().map(|arg| arg.name).chain([word.which, "call", "ttl"]).collect();
        let message = format!("`{}` takes no `{}`", spec.name, key.name);
        let help = match nearest(&key.name, keys.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", keys.join(", ")),
        };
        at.reader().wrong_help(key.range.clone(), message, help);
        return None;
    };
    if matches!(arg.kind, Kind::Secret) {
        refuse_secret(step, spec, at.range(), arg);
        return None;
    }
    let template = written(arg.kind, at)?;
    let shape = match &template {
        Template::Map(_) => matches!(arg.kind, Kind::Json),
        Template::List(_) => matches!(arg.kind, Kind::Json | Kind::Texts),
        Template::Fixed(_) | Template::Text(_) => true,
    };
    if !shape {
        at.wrong(format!("`{}` must be {}", arg.name, arg.kind.wanted()));
        return None;
    }
    match template.fixed() {
        None | Some(Json::Null) => Some((arg, template)),
        Some(value) => match checked(arg, value) {
            Ok(value) => Some((arg, Template::Fixed(value))),
            Err(why) => {
                at.wrong(why);
                None
            }
        },
    }
}

/// The value in its proper type; why not, in words. Nobody to tell is a mistake, too.
fn checked(arg: &'static Arg, value: Json) -> Result<Json, String> {
    let value = arg.check(value).map_err(|mistake| mistake.to_string())?;
    if matches!(arg.kind, Kind::Texts) && value.as_array().is_some_and(Vec::is_empty) {
        return Err(format!("`{}` is empty", arg.name));
    }
    Ok(value)
}

/// The value as it stands in the file: where a text is wanted, `007` stays what it is.
fn written(kind: Kind, at: Cursor<'_>) -> Option<Template> {
    match (&at.node().value, kind) {
        (
            Value::Bool(_) | Value::Int(_) | Value::Float(_),
            Kind::Text | Kind::Texts | Kind::Word(_),
        ) => at.loose_text().map(|text| Template::Text(Text::literal(text))),
        (Value::List(_), Kind::Texts) => {
            let item = |at: Cursor<'_>| match at.node().value {
                Value::List(_) | Value::Map(_) | Value::Null => at.mismatch("a text"),
                _ => written(Kind::Text, at),
            };
            let all: Vec<_> = at.list()?.into_iter().map(item).collect();
            all.into_iter().collect::<Option<Vec<_>>>().map(Template::List)
        }
        _ => template(at),
    }
}

/// Whether all that must be given is given.
fn complete(
    spec: &'static Spec,
    args: &[Option<(&'static Arg, Template)>],
    at: Cursor<'_>,
) -> bool {
    // What is given and wrong has its own problem.
    let mut complete = true;
    for arg in spec.args.iter().filter(|arg| arg.required) {
        if at.get(arg.name).is_some_and(|given| !given.is_null()) {
            continue;
        }
        let (call, name, about) = (spec.name, arg.name, arg.about);
        at.wrong(Mistake::Missing { call, name, about }.to_string());
        complete = false;
    }
    complete && args.iter().all(Option::is_some)
}

fn commands(table: &'static [Spec]) -> String {
    let names: Vec<&str> = table.iter().map(|spec| spec.name).collect();
    format!("commands: {}", names.join(", "))
}

#[cfg(test)]
pub(super) mod tests;
