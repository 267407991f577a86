//! The part of the session that reads answers to its own questions.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    BUSY_WAIT, Due, GAP_AGAIN, GAP_EVERY, HOMES_EVERY, Now, Output, Past, Purpose, STATUS_EVERY,
    Session, THROTTLED_MOST,
};
use crate::event::{EventId, Heard, Trust};
use crate::systems::http::{Answer, Fault};
use crate::systems::link;
use crate::systems::netatmo;
use crate::systems::netatmo::api::gap::{Fact, Next};
use crate::systems::netatmo::api::homes::Told;
use crate::systems::netatmo::api::oauth::Failed;
use crate::systems::netatmo::api::wire::{self, About, Read, Refusal};

/// A ring in the history is the one heard live if it is no further away in time.
const SAME_RING_S: i64 = 60;

impl Session {
    pub(super) fn take_answer(
        &mut self,
        purpose: Purpose,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        if got.is_ok() {
            out.push(Output::Alive);
        }
        match purpose {
            Purpose::Renew => self.renewed(got, now, out),
            Purpose::Consent(number) => self.consented(number, got, now, out),
            Purpose::Order(job) => self.order_answered(*job, got, now, out),
            Purpose::Register => self.register_answered(&got, now, out),
            poll => self.poll_answered(poll, got, now, out),
        }
    }

    /// What an answer says; mended, if it had to be.
    pub(super) fn read(&self, answer: &Answer) -> Read {
        let (read, mends) = wire::read(answer);
        link::mended(&self.source, mends);
        read
    }

    /// A pair of tokens, or in words why there is none. Nothing of such an answer is kept.
    fn pair(
        &mut self,
        got: Result<Answer, Fault>,
        by_person: bool,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), (String, Option<Refusal>)> {
        let answer = got.map_err(|fault| (fault.to_string(), None))?;
        let strange = |session: &Self, why: String, out: &mut Vec<Output>| {
            session.bad(format!("the answer for tokens is not understood: {why}"), &[], out);
            (format!("Netatmo's answer is not understood: {why}"), None)
        };
        match self.read(&answer) {
            Read::Good(fields) => match wire::token(&fields) {
                Ok(token) => {
                    self.oauth.accept(token, by_person, now);
                    // Written before anything is asked with it.
                    out.push(Output::Keep(self.oauth.kept().clone()));
                    Ok(())
                }
                Err(why) => {
                    // The refresh token of before is dead: the next renewal needs this one.
                    if let Some(refresh) = wire::refresh(&fields).filter(|_| !by_person) {
                        self.oauth.rotated(refresh);
                        out.push(Output::Keep(self.oauth.kept().clone()));
                    }
                    Err(strange(self, why.to_string(), out))
                }
            },
            Read::Refused(refusal) => {
                // An error is a word or a sentence of Netatmo's; a token in it is left out.
                let said = refusal.to_string();
                let said = if self.holds_secret(said.as_bytes()) {
                    format!("Netatmo refused it with HTTP {}", refusal.status)
                } else {
                    said
                };
                Err((said, Some(refusal)))
            }
            Read::Strange(why) => Err(strange(self, why, out)),
        }
    }

    fn renewed(&mut self, got: Result<Answer, Fault>, now: Now, out: &mut Vec<Output>) {
        let Err((why, refusal)) = self.pair(got, false, now, out) else { return };
        if self.oauth.failed(refusal.as_ref(), now) == Failed::Later {
            // While the old token lives, nothing is lost yet.
            if self.oauth.access(now).is_none() {
                let why = format!("no new token: {why}");
                self.release_jobs(&why, out);
                self.fails(why, now, out);
            }
        }
    }

    fn consented(
        &mut self,
        number: u64,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let done = self.pair(got, true, now, out).map_err(|(why, _)| why);
        if done.is_ok() {
            // Everything anew: it may be another user.
            self.homes_due = now.run;
            self.hold_until = Duration::ZERO;
            self.registration.doubt(now);
        }
        out.push(Output::Consented(number, done));
    }

    fn register_answered(&mut self, got: &Result<Answer, Fault>, now: Now, out: &mut Vec<Output>) {
        let read = got.as_ref().ok().map(|answer| self.read(answer));
        if let (Ok(answer), Some(Read::Strange(why))) = (got, &read) {
            self.bad(format!("the answer to the registration: {why}"), &answer.body, out);
        }
        if let Some(Read::Refused(refusal)) = &read {
            match refusal.about() {
                About::Token => self.oauth.access_refused(now),
                About::Scope => self.scope_missing(now, out),
                _ => {}
            }
        }
        if let Some(failure) = self.registration.answered(read.as_ref(), now) {
            self.tell_webhook_failed(&failure, now, out);
        }
    }

    fn poll_answered(
        &mut self,
        purpose: Purpose,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let answer = match got {
            Ok(answer) => answer,
            Err(fault) => return self.wait(None, fault.to_string(), now, out),
        };
        match self.read(&answer) {
            Read::Good(fields) => {
                self.throttled.reset();
                let understood = match &purpose {
                    Purpose::Homes => self.hear_homes(&fields, now, out),
                    Purpose::Status(home) => self.hear_status(home, &fields, now, out),
                    Purpose::Events => self.hear_events(&fields, now, out),
                    _ => true,
                };
                if understood {
                    return self.works(out);
                }
                self.bad("an answer has not what was asked for".into(), &answer.body, out);
                self.put_off(&purpose, now);
            }
            Read::Refused(refusal) => self.poll_refused(&purpose, &refusal, &answer, now, out),
            Read::Strange(why) => {
                self.bad(why.clone(), &answer.body, out);
                self.wait(answer.retry_after, why, now, out);
            }
        }
    }

    fn poll_refused(
        &mut self,
        purpose: &Purpose,
        refusal: &Refusal,
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        match refusal.about() {
            About::Token => self.oauth.access_refused(now),
            About::Busy => self.hold(BUSY_WAIT, now),
            About::Throttled => self.throttle(refusal, now),
            About::Scope => {
                self.scope_missing(now, out);
                self.put_off(purpose, now);
            }
            _ if refusal.status >= 500 => {
                self.wait(refusal.retry_after, refusal.to_string(), now, out);
            }
            _ => {
                self.bad(refusal.to_string(), &answer.body, out);
                self.put_off(purpose, now);
            }
        }
    }

    /// Too many calls: everything that can wait does so for minutes.
    pub(super) fn throttle(&mut self, refusal: &Refusal, now: Now) {
        let asked = refusal.retry_after.unwrap_or_default().min(THROTTLED_MOST);
        let wait = self.throttled.next_wait().max(asked);
        tracing::warn!(source = self.source, ?wait, "Netatmo says too many calls");
        self.hold(wait, now);
    }

    fn hold(&mut self, wait: Duration, now: Now) {
        self.hold_until = self.hold_until.max(now.run.saturating_add(wait));
    }

    /// The cloud does not work: waits, and begins anew.
    pub(super) fn wait(
        &mut self,
        asked: Option<Duration>,
        why: String,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let asked = asked.unwrap_or_default().min(THROTTLED_MOST);
        let wait = self.backoff.next_wait().max(asked);
        self.hold(wait, now);
        self.fails(why, now, out);
    }

    /// This question alone makes no sense to the cloud, or its answer none to us: next time.
    fn put_off(&mut self, purpose: &Purpose, now: Now) {
        let (status, gap) = (self.every(STATUS_EVERY), self.every(GAP_EVERY));
        match purpose {
            Purpose::Homes => {
                // Nothing else can be asked before.
                let is_learned = self.homes.is_learned();
                let wait = if is_learned { HOMES_EVERY } else { self.backoff.next_wait() };
                self.homes_due = now.run.saturating_add(wait);
            }
            Purpose::Status(home) => {
                if let Some(due) = self.due.get_mut(home) {
                    due.status = now.run.saturating_add(status);
                }
            }
            Purpose::Events => {
                let home = self.round.take().map(|round| round.home);
                if let Some(due) = home.and_then(|home| self.due.get_mut(&home)) {
                    due.gap = now.run.saturating_add(gap);
                }
            }
            _ => {}
        }
    }

    pub(super) fn hear_homes(
        &mut self,
        fields: &Map<String, Value>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(news) = self.homes.hear_homes(fields) else { return false };
        if !news.is_empty() {
            out.push(Output::Tell(news));
        }
        let names = self.homes.names();
        let mut all = names.clone();
        all.extend(self.owner.clone());
        let hears = netatmo::Config { names: all, ..netatmo::Config::default() };
        self.hears = netatmo::session::Session::new(&self.config.name, &hears);
        out.push(Output::Names(names));
        self.homes_at = Some(now.run);
        self.homes_due = now.run.saturating_add(HOMES_EVERY);
        let fresh = Due { status: now.run, gap: now.run, asked: None, stale: true };
        let old = std::mem::take(&mut self.due);
        let due = |id: &String| (id.clone(), old.get(id).copied().unwrap_or(fresh));
        self.due = self.homes.ids().map(due).collect();
        true
    }

    pub(super) fn hear_status(
        &mut self,
        home: &str,
        fields: &Map<String, Value>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> bool {
        let gap = self.due.get(home).is_none_or(|due| due.stale);
        let told = Told { trust: self.trust, at: now.wall, gap };
        let Some((news, strangers)) = self.homes.hear_status(home, fields, told) else {
            return false;
        };
        if strangers {
            self.homes_soon(now);
        }
        if !news.is_empty() {
            out.push(Output::Tell(news));
        }
        let status = now.run.saturating_add(self.every(STATUS_EVERY));
        if let Some(due) = self.due.get_mut(home) {
            (due.status, due.asked, due.stale) = (status, Some(now.run), false);
        }
        true
    }

    fn hear_events(
        &mut self,
        fields: &Map<String, Value>,
        now: Now,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(events) = wire::events(fields) else { return false };
        let Some(round) = &mut self.round else { return true };
        let mark = self.marks.get(&round.home);
        if round.page(events, mark, &self.homes) == Next::Page {
            return true;
        }
        let Some(round) = self.round.take() else { return true };
        let home = round.home.clone();
        let mut mark = self.marks.remove(&home);
        let found = round.end(&mut mark, self.since, now.wall);
        self.marks.extend(mark.map(|mark| (home.clone(), mark)));
        let next = if found.unsettled { GAP_AGAIN } else { self.every(GAP_EVERY) };
        if let Some(due) = self.due.get_mut(&home) {
            due.gap = now.run.saturating_add(next);
        }
        let past = found.facts.into_iter().flat_map(|fact| self.past(fact, now)).collect();
        out.push(Output::Found(past, self.marks.clone()));
        true
    }

    /// A fact of the history as the events that its webhook would have made.
    fn past(&self, fact: Fact, now: Now) -> Vec<Past> {
        let trust = self.trust.min(Trust::Authentic);
        let body = Value::Object(fact.frame).to_string();
        let heard = self.hears.caught_up(body.as_bytes(), &fact.raw, trust, now.wall);
        let mut alike: Vec<EventId> = Vec::new();
        for frame in fact.alike {
            alike.extend(self.ids(frame.clone(), now));
            if frame.contains_key("session_id") {
                let mut frame = frame;
                frame.remove("session_id");
                alike.extend(self.ids(frame, now));
            }
        }
        let live = heard.into_iter().filter(|heard| !self.was_live(heard));
        // A person's own id tells several of one event apart, in every form.
        live.map(|heard| Past { heard, alike: alike.clone() }).collect()
    }

    /// Whether a webhook told of this part of a call, whose session the history does not name.
    fn was_live(&self, heard: &Heard) -> bool {
        let event = &heard.event;
        let own = |name: &str| event.data.get(name).and_then(Value::as_str);
        self.calls.iter().filter(|call| call.kind == event.kind).any(|call| {
            match (&call.event_id, own("event_id")) {
                (Some(heard), Some(told)) => {
                    let part = call.subevent_id.as_deref().zip(own("subevent_id"));
                    heard == told && part.is_none_or(|(heard, told)| heard == told)
                }
                // An offer names nothing but the bell.
                (None, _) => {
                    let same = call.device_id.as_deref() == own("device_id");
                    let told = event.time.unwrap_or(event.received);
                    same && call.at.duration_since(told).abs().as_secs() <= SAME_RING_S
                }
                _ => false,
            }
        })
    }
}

impl Session {
    fn ids(&self, frame: Map<String, Value>, now: Now) -> Vec<EventId> {
        self.hears.ids(Value::Object(frame).to_string().as_bytes(), now.wall)
    }
}
