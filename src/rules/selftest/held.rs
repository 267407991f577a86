//! Pushes of a rule test that are held for quiet hours: which wait, and when each goes. As in the
//! house, a newer one with the same tag takes the place of one that still waits.

use jiff::Timestamp;

use crate::action::{Action, Lane, Message, Task};

/// What is held in one test.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: Vec<(Timestamp, Action)>,
    /// What became of them, in a line each.
    story: Vec<(Timestamp, String)>,
}

impl Held {
    /// Looks at a push; whether it is held.
    pub fn take(&mut self, action: &Action, now: Timestamp) -> bool {
        let Some((to, message)) = push(action) else { return false };
        if action.lane == Lane::Normal && message.tag.is_some() {
            let is_replaced = |(_, older): &mut (Timestamp, Action)| {
                push(older).is_some_and(|(other, held)| other == to && held.tag == message.tag)
            };
            for (_, older) in self.waiting.extract_if(.., is_replaced) {
                self.story.push((now, line(&older, "is replaced by a newer one")));
            }
        }
        let Some(until) = action.not_before.filter(|until| *until > now) else { return false };
        self.waiting.push((until, action.clone()));
        true
    }

    /// When the next one goes.
    pub fn next(&self) -> Option<Timestamp> {
        self.waiting.iter().map(|(until, _)| *until).min()
    }

    /// Those that go now.
    pub fn let_go(&mut self, now: Timestamp) -> Vec<Action> {
        let gone = self.waiting.extract_if(.., |(until, _)| *until <= now);
        let gone: Vec<Action> = gone.map(|(_, action)| action).collect();
        self.story.extend(gone.iter().map(|action| (now, line(action, "is held no longer"))));
        gone
    }

    /// Those that still wait: for whom, and what.
    pub fn pushes(&self) -> impl Iterator<Item = (&str, &Message)> {
        self.waiting.iter().filter_map(|(_, action)| push(action))
    }

    /// What became of them, the earliest first.
    pub fn story(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.story.iter().map(|(at, line)| (*at, line.as_str()))
    }
}

fn push(action: &Action) -> Option<(&str, &Message)> {
    match &action.task {
        Task::Push { phone, message } => Some((phone.0.as_str(), message)),
        Task::Emit(_) | Task::Command(_) | Task::Open(_) => None,
    }
}

fn line(action: &Action, what: &str) -> String {
    let Some((to, message)) = push(action) else { return String::new() };
    format!("push to {to}: {:?} {what}", message.title)
}
