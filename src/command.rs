//! What a system can be told: each system publishes a table of its commands, and rule files, the
//! API and the command line are checked against the same table. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Marks, Trust};
use crate::node::nearest;

/// A command that opens something acts on news at most this old, counted from its receipt. As
/// long as a person waits at a door who has just rung.
pub const OPENING_AGE_MAX: SignedDuration = SignedDuration::from_secs(10);

/// One thing to tell one system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Which system: `indigo/house`.
    pub to: String,
    /// The command's name in that system's table.
    pub call: String,
    /// Its arguments as [`Spec::check`] returned them; never secrets.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
    /// What a crash or a lost answer means for it.
    pub repeat: Repeat,
    /// The least trust of what led to it.
    pub trust: Trust,
}

/// Whether a command may be sent again when nobody knows if it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// At most once: then it ends as unknown.
    Never,
    /// It sets something to a value or only asks; a second time changes nothing.
    Harmless,
    /// At least once: a message twice is better than none.
    Better,
}

/// One line of a system's table.
#[derive(Debug)]
pub struct Spec {
    /// `send`, `relay.open`.
    pub name: &'static str,
    /// One line for the documentation and the command line's help.
    pub about: &'static str,
    /// What may be given.
    pub args: &'static [Arg],
    /// See [`Repeat`].
    pub repeat: Repeat,
    /// Whether it can let somebody in; see [`opening_refusal`].
    pub opens: bool,
}

/// One argument.
#[derive(Debug)]
pub struct Arg {
    /// Its key.
    pub name: &'static str,
    /// What it must be.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// One line, with its unit.
    pub about: &'static str,
}

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A text; numbers become one.
    Text,
    /// A whole number within these limits, both included.
    Int(i64, i64),
    /// Any finite number.
    Number,
    /// True or false.
    Flag,
    /// A span of time within these limits: `3s`, or a number of milliseconds. Becomes milliseconds.
    Millis(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One text or a list of them. Becomes a list.
    Texts,
    /// Anything, as the system takes it.
    Json,
    /// A text that must not be kept: never in a rule file, in the journal or in a log.
    Secret,
}

/// Why a command cannot be given like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// The system's table has no such command.
    #[error("there is no command `{call}`{}", did_you_mean(.near))]
    Unknown {
        /// What was asked for.
        call: String,
        /// The closest name.
        near: Option<&'static str>,
    },
    /// The command has no such argument.
    #[error("`{call}` takes no `{name}`{}", did_you_mean(.near))]
    Surplus {
        /// The command.
        call: &'static str,
        /// What was given.
        name: String,
        /// The closest name.
        near: Option<&'static str>,
    },
    /// An argument is not there.
    #[error("`{call}` needs `{name}`: {about}")]
    Missing {
        /// The command.
        call: &'static str,
        /// The argument.
        name: &'static str,
        /// What it is.
        about: &'static str,
    },
    /// An argument is not what it must be.
    #[error("`{name}` must be {wanted}")]
    Wrong {
        /// The argument.
        name: &'static str,
        /// What it must be.
        wanted: String,
    },
}

fn did_you_mean(near: &Option<&'static str>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// The command of this name in a table.
pub fn find(table: &'static [Spec], call: &str) -> Result<&'static Spec, Mistake> {
    let found = table.iter().find(|spec| spec.name == call);
    found.ok_or_else(|| {
        let near = nearest(call, table.iter().map(|spec| spec.name));
        let near = near.and_then(|near| table.iter().map(|s| s.name).find(|name| *name == near));
        Mistake::Unknown { call: call.to_string(), near }
    })
}

impl Spec {
    /// The argument of this name.
    pub fn arg(&'static self, name: &str) -> Result<&'static Arg, Mistake> {
        self.args.iter().find(|arg| arg.name == name).ok_or_else(|| {
            let near = nearest(name, self.args.iter().map(|arg| arg.name));
            let near = near.and_then(|near| self.args.iter().map(|a| a.name).find(|n| *n == near));
            Mistake::Surplus { call: self.name, name: name.to_string(), near }
        })
    }

    /// Checks all arguments and gives them their proper types; `null` counts as not given.
    pub fn check(&'static self, given: Map<String, Value>) -> Result<Map<String, Value>, Mistake> {
        let mut args = Map::new();
        for (name, value) in given {
            let arg = self.arg(&name)?;
            if !value.is_null() {
                args.insert(name, arg.check(value)?);
            }
        }
        match self.args.iter().find(|arg| arg.required && !args.contains_key(arg.name)) {
            Some(Arg { name, about, .. }) => Err(Mistake::Missing { call: self.name, name, about }),
            None => Ok(args),
        }
    }

    /// How long it is worth sending, unless somebody says otherwise.
    pub fn ttl(&self) -> Duration {
        match self.repeat {
            // A message is news for an hour; anything else is about now.
            Repeat::Better => Duration::from_secs(3600),
            Repeat::Never | Repeat::Harmless => Duration::from_secs(60),
        }
    }
}

impl Arg {
    /// The value in its proper type. Texts that hold a number count as one, since templates make
    /// texts.
    pub fn check(&self, value: Value) -> Result<Value, Mistake> {
        let wrong = || Mistake::Wrong { name: self.name, wanted: self.kind.wanted() };
        let checked = match self.kind {
            Kind::Text | Kind::Secret => text(value).map(Value::from),
            Kind::Int(least, most) => {
                whole(&value).filter(|n| (least..=most).contains(n)).map(Value::from)
            }
            Kind::Number => number(&value),
            Kind::Flag => flag(&value).map(Value::from),
            Kind::Millis(least, most) => {
                millis(&value).filter(|ms| (least..=most).contains(ms)).map(Value::from)
            }
            Kind::Word(words) => {
                text(value).filter(|word| words.contains(&word.as_str())).map(Value::from)
            }
            Kind::Texts => match value {
                Value::Array(items) => {
                    items.into_iter().map(|v| text(v).map(Value::from)).collect()
                }
                one => text(one).map(|one| Value::Array(vec![one.into()])),
            },
            Kind::Json => Some(value),
        };
        checked.ok_or_else(wrong)
    }
}

impl Kind {
    /// What it must be, in words.
    pub fn wanted(self) -> String {
        match self {
            Kind::Text | Kind::Secret => "a text".into(),
            Kind::Int(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Number => "a number".into(),
            Kind::Flag => "true or false".into(),
            Kind::Millis(least, most) => {
                format!("a time from {least} ms to {most} ms, such as `3s`")
            }
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Texts => "a text or a list of texts".into(),
            Kind::Json => "a value".into(),
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn number(value: &Value) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let text = text.trim();
            let whole = text.parse::<i64>().ok().map(Value::from);
            whole.or_else(|| {
                serde_json::Number::from_f64(text.parse::<f64>().ok()?).map(Value::Number)
            })
        }
        _ => None,
    }
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" => Some(true),
            "false" | "off" | "no" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn millis(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| {
                let span: SignedDuration = text.parse().ok()?;
                u64::try_from(span.as_millis()).ok()
            })
        }
        _ => None,
    }
}

/// Why an opening command must not follow from this, if it must not: it is for live news only,
/// young, and vouched for.
pub fn opening_refusal(
    trust: Trust,
    marks: Marks,
    received: Timestamp,
    now: Timestamp,
) -> Option<String> {
    let age = now.duration_since(received);
    if !marks.is_plain() {
        return Some("the event is caught up, replayed or a test".into());
    }
    if trust < Trust::Fresh {
        return Some(format!("it opens something, and what led to it is only {trust}, not fresh"));
    }
    if age > OPENING_AGE_MAX || age < SignedDuration::ZERO {
        let (age, most) = (age.as_secs(), OPENING_AGE_MAX.as_secs());
        return Some(format!("it opens something, and the news is {age} s old, at most {most} s"));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    static TABLE: [Spec; 1] = [Spec {
        name: "relay.open",
        about: "Opens",
        args: &[
            Arg { name: "relay", kind: Kind::Int(0, 1), required: true, about: "which" },
            Arg { name: "time", kind: Kind::Millis(250, 30_000), required: false, about: "ms" },
            Arg { name: "to", kind: Kind::Texts, required: false, about: "whom" },
        ],
        repeat: Repeat::Never,
        opens: true,
    }];

    fn check(given: Value) -> Result<Value, String> {
        let Value::Object(given) = given else { panic!("an object") };
        let checked = find(&TABLE, "relay.open").unwrap().check(given);
        checked.map(Value::Object).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn arguments_get_their_types() {
        let good = check(json!({ "relay": "1", "time": "3s", "to": 12 }));
        assert_eq!(good.unwrap(), json!({ "relay": 1, "time": 3000, "to": ["12"] }));
        assert_eq!(check(json!({ "relay": 0, "time": null })).unwrap(), json!({ "relay": 0 }));
    }

    #[test]
    fn mistakes_name_what_is_wrong() {
        assert_eq!(check(json!({})).unwrap_err(), "`relay.open` needs `relay`: which");
        let wrong = check(json!({ "relay": 2 })).unwrap_err();
        assert_eq!(wrong, "`relay` must be a whole number from 0 to 1");
        let wrong = check(json!({ "relay": 0, "time": "31s" })).unwrap_err();
        assert_eq!(wrong, "`time` must be a time from 250 ms to 30000 ms, such as `3s`");
        let wrong = check(json!({ "rely": 0 })).unwrap_err();
        assert_eq!(wrong, "`relay.open` takes no `rely`; did you mean `relay`?");
        let wrong = find(&TABLE, "relay.opn").unwrap_err().to_string();
        assert_eq!(wrong, "there is no command `relay.opn`; did you mean `relay.open`?");
    }

    #[test]
    fn nothing_opens_for_old_doubtful_or_marked_news() {
        let at: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let (plain, later) = (Marks::default(), at + SignedDuration::from_secs(11));
        assert_eq!(opening_refusal(Trust::Fresh, plain, at, at), None);
        assert!(opening_refusal(Trust::Authentic, plain, at, at).is_some());
        assert!(opening_refusal(Trust::Human, plain, at, later).is_some());
        // A clock that went back is a doubt about the age.
        assert!(opening_refusal(Trust::Fresh, plain, later, at).is_some());
        let test = Marks { test: true, ..plain };
        assert!(opening_refusal(Trust::Human, test, at, at).is_some());
    }
}
