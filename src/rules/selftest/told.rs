//! What a test expects a system to be told: `emm: { to: "12", text: "Smoke*" }`. Only what is
//! named is compared. It takes the expectation apart and compares; it runs nothing.

use std::fmt;

use serde_json::Value as Json;

use super::case::{Count, Known, fits, times};
use crate::command::{Arg, Command, Spec, find};
use crate::node::{Cursor, Key, Value, nearest};
use crate::rules::file::json;
use crate::rules::tell::{Word, called, configured, named};

/// A command that a test looks for.
#[derive(Debug)]
pub(in crate::rules) struct CommandWanted {
    system: &'static str,
    /// `emm/block`; any of the kind if not said.
    to: Option<String>,
    call: Option<&'static Spec>,
    args: Vec<(String, Wanted)>,
    table: &'static [Spec],
}

/// An argument's value as the test has it.
#[derive(Debug)]
struct Wanted {
    json: Json,
    /// The texts it may mean, as they are written.
    texts: Vec<String>,
}

impl CommandWanted {
    /// Any command to a kind of system.
    pub fn any(word: &Word) -> CommandWanted {
        CommandWanted { system: word.system, to: None, call: None, args: Vec::new(), table: &[] }
    }

    pub fn fits(&self, command: &Command) -> bool {
        let system = command.to.split('/').next() == Some(self.system);
        let to = self.to.as_ref().is_none_or(|to| *to == command.to);
        let call = self.call.is_none_or(|spec| spec.name == command.call);
        system && to && call && self.args.iter().all(|arg| self.fits_arg(arg, command))
    }

    fn fits_arg(&self, (name, wanted): &(String, Wanted), command: &Command) -> bool {
        let arg = find(self.table, &command.call).and_then(|spec| spec.arg(name)).ok();
        arg.is_some_and(|arg| wanted.fits(arg, command.args.get(name).unwrap_or(&Json::Null)))
    }
}

impl Wanted {
    fn new(at: Cursor<'_>) -> Wanted {
        let text = |at: Cursor<'_>| match at.node().value {
            Value::Null | Value::List(_) | Value::Map(_) => None,
            _ => at.loose_text().map(str::to_string),
        };
        let texts = at.list_or_one().into_iter().filter_map(text).collect();
        Wanted { json: json(at.node()), texts }
    }

    fn fits(&self, arg: &Arg, has: &Json) -> bool {
        let all = || self.texts.len() == self.json.as_array().map_or(1, Vec::len);
        match has {
            Json::String(has) if !self.json.is_array() => {
                all() && self.texts.iter().all(|wanted| fits(wanted, has))
            }
            // Each of them is there; others may be, too.
            Json::Array(items) if all() => self.texts.iter().all(|wanted| {
                items.iter().any(|has| has.as_str().is_some_and(|has| fits(wanted, has)))
            }),
            Json::Null => self.json.is_null(),
            has => arg.check(self.json.clone()).is_ok_and(|wanted| wanted == *has),
        }
    }
}

impl fmt::Display for CommandWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command to {}", self.to.as_deref().unwrap_or(self.system))?;
        if let Some(spec) = self.call {
            write!(f, " to {}", spec.name)?;
        }
        self.args.iter().try_for_each(|(name, wanted)| write!(f, " with {name} {}", wanted.json))
    }
}

/// Takes one expectation apart.
pub(super) fn wanted(
    word: &'static Word,
    at: Cursor<'_>,
    known: &Known<'_>,
) -> Option<(CommandWanted, Count)> {
    let entries = at.named()?;
    let system = configured(known.house, word, at)?;
    let mut wanted = CommandWanted { table: system.commands, ..CommandWanted::any(word) };
    if let Some(which) = at.get(word.which) {
        wanted.to = Some(format!("{}/{}", word.system, named(word, system, which)?));
    }
    if let Some(call) = at.get("call") {
        wanted.call = Some(called(system.commands, call)?);
    }
    let count = times(at.get("times"));
    let own = [word.which, "call", "times"];
    for (key, at) in entries.into_iter().filter(|(key, _)| !own.contains(&key.name.as_str())) {
        check(&wanted, key, at)?;
        wanted.args.push((key.name.clone(), Wanted::new(at)));
    }
    Some((wanted, count))
}

/// Whether there is such an argument, in the command or, if none is named, in any.
fn check(wanted: &CommandWanted, key: &Key, at: Cursor<'_>) -> Option<()> {
    let specs =
        || wanted.table.iter().filter(|spec| wanted.call.is_none_or(|c| c.name == spec.name));
    let args = || specs().flat_map(|spec| spec.args.iter());
    if args().any(|arg| arg.name == key.name) {
        return Some(());
    }
    let what = wanted.call.map_or(wanted.system, |spec| spec.name);
    let message = format!("`{what}` takes no `{}`", key.name);
    let own = ["call", "times"];
    match nearest(&key.name, args().map(|arg| arg.name).chain(own)) {
        Some(near) => {
            let help = format!("did you mean `{near}`?");
            at.reader().wrong_help(key.range.clone(), message, help);
        }
        None => at.reader().wrong(key.range.clone(), message),
    }
    None
}
