//! What must be remembered of a call while it lasts: the frames that end one name no module, and a
//! missed call should say whether its ring was heard. A bounded memory, keyed by session; the
//! moment is an input. Losing it (a restart) costs a name, never an event.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::event::Trust;

use super::names::Role;

/// A ring nobody answers is over when its offer has not been repeated for so long.
const SILENCE_MS: i64 = 15_000;
/// No call lasts longer in the eyes of the open clients.
const CALL_MS_MAX: i64 = 180_000;
/// Frames of a call still arrive after its end.
const REMEMBERED_MS: i64 = 60_000;
/// Calls kept at a time: far more doors than one home has, and a flood of sessions costs no more.
const CALLS_MAX: usize = 64;

/// The calls of one home system.
#[derive(Debug, Default)]
pub struct Calls(BTreeMap<String, Call>);

/// What frames of one call tell each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The outdoor unit.
    pub module_id: Option<String>,
    /// Its name, if a frame gave one.
    pub module_name: Option<String>,
    /// The door bell or the bridge.
    pub device_id: Option<String>,
    /// Whether the ring itself was heard.
    pub rang: bool,
}

/// One call, as far as heard. Moments are milliseconds since 1970.
#[derive(Debug, Clone)]
struct Call {
    facts: Facts,
    /// The trust of the frames it was made from.
    trust: Trust,
    opened: i64,
    heard: i64,
    answered: bool,
    closed: Option<i64>,
}

impl Calls {
    /// Notes a frame and returns what is known of its call, this frame included. What a frame of
    /// less trust said never completes one of more, nor changes what is remembered of it.
    pub fn hear(
        &mut self,
        session: &str,
        role: Role,
        frame: Facts,
        trust: Trust,
        now: Timestamp,
    ) -> Facts {
        let now = now.as_millisecond();
        self.0.retain(|_, call| now <= call.forgotten_at());
        match self.0.get_mut(session) {
            Some(call) if call.trust == trust => call.note(role, frame, now),
            Some(call) if call.trust > trust => call.clone().note(role, frame, now),
            _ => {
                let mut call = Call::open(trust, now);
                let facts = call.note(role, frame, now);
                self.make_room(session);
                self.0.insert(session.to_owned(), call);
                facts
            }
        }
    }

    /// Drops the call that has been silent longest, if a new one would be one too many.
    fn make_room(&mut self, session: &str) {
        if self.0.len() < CALLS_MAX || self.0.contains_key(session) {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, call)| call.heard).map(|(id, _)| id.clone());
        oldest.and_then(|id| self.0.remove(&id));
    }
}

impl Call {
    fn open(trust: Trust, now: i64) -> Call {
        let facts = Facts::default();
        Call { facts, trust, opened: now, heard: now, answered: false, closed: None }
    }

    /// Adds what a frame says, and returns all that is known then.
    fn note(&mut self, role: Role, frame: Facts, now: i64) -> Facts {
        let facts = &mut self.facts;
        facts.module_id = frame.module_id.or(facts.module_id.take());
        facts.module_name = frame.module_name.or(facts.module_name.take());
        facts.device_id = frame.device_id.or(facts.device_id.take());
        facts.rang |= role == Role::Ring;
        self.heard = now;
        match role {
            Role::Answered => self.answered = true,
            Role::Missed | Role::Ended => self.closed = self.closed.or(Some(now)),
            _ => {}
        }
        self.facts.clone()
    }

    fn forgotten_at(&self) -> i64 {
        let cap = self.opened + CALL_MS_MAX;
        let silent = if self.answered { cap } else { cap.min(self.heard + SILENCE_MS) };
        self.closed.unwrap_or(silent) + REMEMBERED_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + s).unwrap()
    }

    fn module(id: &str) -> Facts {
        Facts { module_id: Some(id.into()), ..Facts::default() }
    }

    fn ended(calls: &mut Calls, s: i64) -> Facts {
        calls.hear("s1", Role::Ended, Facts::default(), Trust::Authentic, at(s))
    }

    #[test]
    fn the_end_of_a_call_knows_the_module_of_its_offer() {
        let mut calls = Calls::default();
        calls.hear("s1", Role::Ring, module("door"), Trust::Authentic, at(0));
        for s in [30, 31, 32, 33, 34, 35] {
            assert_eq!(ended(&mut calls, s), Facts { rang: true, ..module("door") });
        }
    }

    #[test]
    fn a_call_is_forgotten_a_minute_after_its_end() {
        // (answered, last second it is known): silence, or the longest call, then a minute.
        for (answered, last) in [(false, 15 + 60), (true, 180 + 60)] {
            for (s, known) in [(last, true), (last + 1, false)] {
                let mut calls = Calls::default();
                calls.hear("s1", Role::Ring, module("door"), Trust::Authentic, at(0));
                if answered {
                    let none = Facts::default();
                    calls.hear("s1", Role::Answered, none, Trust::Authentic, at(0));
                }
                assert_eq!(ended(&mut calls, s).rang, known, "answered {answered}, after {s} s");
            }
        }
    }

    #[test]
    fn less_trust_never_completes_more() {
        let mut calls = Calls::default();
        calls.hear("s1", Role::Ring, module("forged"), Trust::Unverified, at(0));
        assert_eq!(ended(&mut calls, 1), Facts::default());
        calls.hear("s1", Role::Ring, module("forged"), Trust::Unverified, at(2));
        assert_eq!(ended(&mut calls, 3).module_id, None);
    }

    #[test]
    fn a_flood_of_sessions_costs_no_more_than_the_limit() {
        let mut calls = Calls::default();
        for n in 0..1_000 {
            calls.hear(&n.to_string(), Role::Ring, module("m"), Trust::Authentic, at(n / 100));
        }
        assert_eq!(calls.0.len(), CALLS_MAX);
        assert!(calls.0.contains_key("999"));
    }
}
