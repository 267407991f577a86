//! A command's arguments when its rule fires: filled in from the event, then checked. A message
//! that can still be understood is never lost over a part of it; any other command is told exactly
//! as it was meant or not at all. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{Tell, checked};
use crate::command::{Arg, Command, Kind, Mistake, OPENING_AGE_MAX, Repeat, opening_refusal};
use crate::record::{NotSent, NotSentReason};
use crate::rules::compile::Template;
use crate::rules::scene::Scene;
use crate::rules::steps::{later, within};

/// The most bytes of a command's arguments as JSON: they are journalled, and some texts come from
/// events. A message of several texts, each as long as texts may get, fits.
const ARGS_BYTES_MAX: usize = 128 << 10;

/// What a step came to.
pub(in crate::rules) struct Filled {
    /// The command and when it is too late for it; nothing if it must not be told.
    pub command: Option<(Command, Timestamp)>,
    /// What could not be as it was written, and why.
    pub notes: Vec<NotSent>,
}

impl Tell {
    /// Fills the step in for the event that its rule fires for.
    pub fn fill(&self, step: &str, rule: &str, scene: &Arc<Scene>) -> Filled {
        let mut filling = Filling { tell: self, step, rule, scene, notes: Vec::new(), lost: false };
        let args = filling.arguments();
        let command = args.and_then(|args| filling.command(args));
        Filled { command, notes: filling.notes }
    }
}

struct Filling<'a> {
    tell: &'a Tell,
    step: &'a str,
    rule: &'a str,
    scene: &'a Arc<Scene>,
    notes: Vec<NotSent>,
    /// Whether the command cannot be told.
    lost: bool,
}

impl Filling<'_> {
    /// A message is better told in part than not at all.
    fn is_message(&self) -> bool {
        self.tell.spec.repeat == Repeat::Better
    }

    fn note(&mut self, name: &str, reason: NotSentReason, detail: String) {
        let step = match name {
            "" => self.step.to_string(),
            name => format!("{}.{}.{name}", self.step, self.tell.word.system),
        };
        self.notes.push(NotSent::new(step, reason, detail));
    }

    fn arguments(&mut self) -> Option<Map<String, Json>> {
        let tell = self.tell;
        let mut args = Map::new();
        for (arg, template) in &tell.args {
            if let Some(value) = self.argument(arg, template) {
                args.insert(arg.name.to_string(), value);
            }
        }
        for arg in tell.spec.args.iter().filter(|arg| arg.required) {
            if args.contains_key(arg.name) {
                continue;
            }
            if self.is_message() && matches!(arg.kind, Kind::Text) {
                let detail = format!("`{}` is missing; the rule's name is sent instead", arg.name);
                self.note(arg.name, NotSentReason::BadArgument, detail);
                args.insert(arg.name.to_string(), self.rule.into());
            } else if !self.lost {
                let (call, name, about) = (tell.spec.name, arg.name, arg.about);
                let detail = Mistake::Missing { call, name, about }.to_string();
                self.note("", NotSentReason::BadArgument, detail);
                self.lost = true;
            }
        }
        match within(Json::Object(args), ARGS_BYTES_MAX) {
            Ok(Json::Object(args)) => Some(args).filter(|_| !self.lost),
            Ok(_) => None,
            Err(why) => {
                self.note("", NotSentReason::BadArgument, why);
                None
            }
        }
    }

    fn argument(&mut self, arg: &'static Arg, template: &Template) -> Option<Json> {
        if let (Template::List(items), Kind::Texts) = (template, arg.kind) {
            let texts = items.iter().filter_map(|item| self.texts(arg, item)).flatten().collect();
            return self.sound(arg, checked(arg, Json::Array(texts)));
        }
        match template.value(self.scene) {
            Ok(Json::Null) => None,
            Ok(value) => self.sound(arg, checked(arg, value)),
            Err(why) => self.without(arg, NotSentReason::TemplateError, why),
        }
    }

    /// The texts that one item of a list stands for. One that cannot be rendered does not keep a
    /// message from the others.
    fn texts(&mut self, arg: &'static Arg, item: &Template) -> Option<Vec<Json>> {
        let (reason, why) = match item.value(self.scene) {
            Ok(Json::Null) => return None,
            Ok(value) => match arg.check(value) {
                Ok(Json::Array(texts)) => return Some(texts),
                Ok(_) => return None,
                Err(mistake) => (NotSentReason::BadArgument, mistake.to_string()),
            },
            Err(why) => (NotSentReason::TemplateError, why),
        };
        self.left_out(arg, reason, &why, self.is_message());
        None
    }

    fn sound(&mut self, arg: &Arg, value: Result<Json, String>) -> Option<Json> {
        value.map_or_else(|why| self.without(arg, NotSentReason::BadArgument, why), Some)
    }

    /// Goes on without an argument, if that can be.
    fn without(&mut self, arg: &Arg, reason: NotSentReason, why: String) -> Option<Json> {
        let spared = !arg.required || matches!(arg.kind, Kind::Text);
        self.left_out(arg, reason, &why, self.is_message() && spared);
        None
    }

    fn left_out(&mut self, arg: &Arg, reason: NotSentReason, why: &str, spared: bool) {
        let then = if spared { "sent without it" } else { "not sent" };
        self.note(arg.name, reason, format!("{why}; {then}"));
        self.lost |= !spared;
    }

    fn command(&mut self, args: Map<String, Json>) -> Option<(Command, Timestamp)> {
        let (spec, event, now) = (self.tell.spec, self.scene.event(), self.scene.now());
        // Asked last: the state that the arguments read counts, too.
        let trust = self.scene.trust();
        let mut deadline = later(now, self.tell.ttl);
        if spec.opens {
            if let Some(why) = opening_refusal(trust, event.marks, event.received, now) {
                self.note("", NotSentReason::NotTrusted, why);
                return None;
            }
            let late = event.received.checked_add(OPENING_AGE_MAX).unwrap_or(Timestamp::MAX);
            deadline = deadline.min(late);
        }
        let (to, call) = (self.tell.to.to_string(), spec.name.to_string());
        Some((Command { to, call, args, repeat: spec.repeat, trust }, deadline))
    }
}
