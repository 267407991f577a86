//! An account at Netatmo's cloud as a state machine without I/O: answers, orders, consents and
//! moments go in; questions, news and replies come out. One question is under way at any time,
//! since Netatmo refuses a user's second one; orders go before everything that can wait.

mod answers;
mod orders;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use self::orders::Job;
use super::Config;
use super::cloud::{CallHeard, Names};
use super::gap::{Marks, Round};
use super::homes::Homes;
use super::oauth::{Kept, OAuth};
use super::registration::Registration;
use super::wire::{Asker, Grant};
use crate::command::Command;
use crate::event::{EventId, Heard, Trust};
use crate::secret::Secret;
use crate::systems::backoff::Backoff;
use crate::systems::http::{Answer, Ask, Fault};
use crate::systems::link::{News, Reply};
use crate::systems::netatmo;

/// Failures in a row wait from one second up to a minute.
const WAIT_LEAST: Duration = Duration::from_secs(1);
/// See [`WAIT_LEAST`].
const WAIT_MOST: Duration = Duration::from_secs(60);
/// "Too many calls": minutes, up to an hour.
const THROTTLED_LEAST: Duration = Duration::from_secs(5 * 60);
/// See [`THROTTLED_LEAST`].
const THROTTLED_MOST: Duration = Duration::from_secs(60 * 60);
/// "Another call is under way": somebody else's, of the same user.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Names and modules change seldom.
const HOMES_EVERY: Duration = Duration::from_secs(4 * 3600);
/// A module that nobody knows makes the homes be asked for, but not over and over.
const HOMES_SOON: Duration = Duration::from_secs(10 * 60);
/// States may be as old as this: with the history, 18 calls an hour for each home of 500 allowed.
const STATUS_EVERY: Duration = Duration::from_secs(5 * 60);
/// After something moved, until the cloud knows of it.
const STATUS_AFTER: Duration = Duration::from_secs(2);
/// States are asked for no more often, whatever moves: a quarter of the calls allowed.
const STATUS_APART: Duration = Duration::from_secs(30);
/// A webhook is delivered once or never: what was lost is found so late.
const GAP_EVERY: Duration = Duration::from_secs(10 * 60);
/// Facts too young to be told are looked at again after so long.
const GAP_AGAIN: Duration = Duration::from_secs(16);
/// Homes asked that often; with more, each is asked less often.
const HOMES_OFTEN: u32 = 8;
/// Longer silence of all webhooks is a doubt.
const SILENCE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// The moment: by the wall clock, and by one that never jumps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since the start.
    pub run: Duration,
}

/// An event of the cloud's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// The event.
    pub heard: Heard,
    /// Ids under which a webhook may have told of it.
    pub alike: Vec<EventId>,
}

/// What the session wants done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Ask this, and hand the answer to [`Session::answered`] with this number.
    Ask(u64, Ask),
    /// Tell these news.
    Tell(News),
    /// Tell these, unless a webhook has told them; then keep the marks.
    Found(Vec<Past>, Marks),
    /// Keep what was not understood.
    Bad {
        /// Why.
        reason: String,
        /// The bytes, if they may be kept.
        raw: Vec<u8>,
    },
    /// An order's reply, by the order's number.
    Reply(u64, Reply),
    /// How a consent went, by its number.
    Consented(u64, Result<(), String>),
    /// The connection works, or does not and why.
    Up(bool, String),
    /// The cloud gave a sign of life.
    Alive,
    /// This must lie in its file before anything after it is done; the caller says by
    /// [`Session::written`] whether it does.
    Keep(Kept),
    /// What things are called.
    Names(Names),
}

/// What a question was for.
#[derive(Debug)]
enum Purpose {
    Renew,
    /// A person's consent, by its number.
    Consent(u64),
    Order(Box<Job>),
    Register,
    Homes,
    Status(String),
    /// A page of the round.
    Events,
}

/// When a home is asked for what.
#[derive(Debug, Clone, Copy)]
struct Due {
    status: Duration,
    gap: Duration,
    /// When its state came last.
    asked: Option<Duration>,
    /// Whether its next state may tell of something that happened unheard.
    stale: bool,
}

/// The session of one `[netatmo.<name>]`.
#[derive(Debug)]
pub struct Session {
    source: String,
    trust: Trust,
    config: Config,
    asker: Asker,
    oauth: OAuth,
    registration: Registration,
    homes: Homes,
    marks: Marks,
    round: Option<Round>,
    /// Makes events of the history as webhooks are made into events.
    hears: netatmo::session::Session,
    /// The owner's names, which stand over Netatmo's.
    owner: Names,
    calls: Vec<CallHeard>,
    pending: Option<(u64, Purpose)>,
    next_ask: u64,
    consents: VecDeque<(u64, Secret)>,
    jobs: VecDeque<Job>,
    /// Until when no order is sent that can wait, and why.
    orders_hold: Option<(Duration, String)>,
    homes_due: Duration,
    homes_at: Option<Duration>,
    due: BTreeMap<String, Due>,
    /// No poll is asked before.
    hold_until: Duration,
    backoff: Backoff,
    throttled: Backoff,
    up: Option<bool>,
    why: String,
    /// What was told of the webhook last.
    webhook: Value,
    /// The need for consent that was told last.
    asked: Option<(String, Timestamp)>,
    /// Since when webhooks can come.
    since: Timestamp,
    heard: Option<Timestamp>,
    doubted_at: Timestamp,
}

/// What a session goes on from.
#[derive(Debug, Default)]
pub struct Earlier {
    /// The tokens.
    pub kept: Option<Kept>,
    /// What is known of the history.
    pub marks: Marks,
    /// The owner's names.
    pub names: Names,
}

impl Session {
    /// A session that goes on from what was `known` and kept.
    pub fn new(
        source: &str,
        trust: Trust,
        config: Config,
        earlier: Earlier,
        known: &[(String, Value)],
        now: Now,
        seed: u64,
    ) -> Session {
        let given = config.refresh_token.as_ref();
        let owner = earlier.names;
        let hears = netatmo::Config { names: owner.clone(), ..netatmo::Config::default() };
        let webhook = known.iter().find(|(path, _)| *path == format!("{source}/webhook"));
        Session {
            oauth: OAuth::new(given, earlier.kept, now, seed),
            registration: Registration::new(&config.name, &config.public_url, &config.api, seed),
            homes: Homes::new(source, known),
            marks: earlier.marks,
            round: None,
            hears: netatmo::session::Session::new(&config.name, &hears),
            owner,
            calls: Vec::new(),
            pending: None,
            next_ask: 0,
            consents: VecDeque::new(),
            jobs: VecDeque::new(),
            orders_hold: None,
            homes_due: Duration::ZERO,
            homes_at: None,
            due: BTreeMap::new(),
            hold_until: Duration::ZERO,
            backoff: Backoff::new(WAIT_LEAST, WAIT_MOST, seed ^ 3),
            throttled: Backoff::new(THROTTLED_LEAST, THROTTLED_MOST, seed ^ 4),
            up: None,
            why: "not asked yet".into(),
            webhook: webhook.map(|(_, value)| value.clone()).unwrap_or_default(),
            asked: None,
            since: now.wall,
            heard: None,
            doubted_at: now.wall,
            asker: Asker { base: config.api.clone() },
            source: source.to_string(),
            trust,
            config,
        }
    }

    /// Time went by: asks what is due.
    pub fn tick(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.pump(now, &mut out);
        out
    }

    /// When [`Session::tick`] wants to be called at the latest.
    pub fn next_tick(&self, now: Now) -> Duration {
        let orders = self.jobs.iter().map(|job| job.next(now)).min().unwrap_or(Duration::MAX);
        let proof = self.registration.due();
        let asleep = orders.min(self.oauth.write_due());
        if self.pending.is_some() {
            return asleep;
        }
        if self.oauth.access(now).is_none() {
            return asleep.min(self.oauth.due(now));
        }
        let homes = self.due.values().map(|due| due.status.min(due.gap)).min();
        let polls = homes.unwrap_or(Duration::MAX).min(self.homes_due);
        let polls = if self.round.is_some() { Duration::ZERO } else { polls };
        let polls = polls.max(self.hold_until);
        // Also one whose moment came just now, between the last look and this one.
        let ready = self.jobs.iter().map(|job| job.not_before).min().unwrap_or(Duration::MAX);
        asleep.min(ready).min(self.oauth.due(now)).min(proof).min(polls)
    }

    /// An order with a number of the caller's; it is answered by [`Output::Reply`] in any case.
    pub fn order(
        &mut self,
        number: u64,
        command: &Command,
        deadline: Timestamp,
        now: Now,
    ) -> Vec<Output> {
        let mut out = Vec::new();
        self.take_order(number, command, deadline, now, &mut out);
        self.pump(now, &mut out);
        out
    }

    /// A person's consent; answered by [`Output::Consented`].
    pub fn consent(&mut self, number: u64, code: Secret, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.consents.push_back((number, code));
        self.pump(now, &mut out);
        out
    }

    /// Netatmo has called the webhook to say that it will.
    pub fn activated(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.registration.heard(now);
        self.pump(now, &mut out);
        out
    }

    /// Something points at a ban: looks for what was missed.
    pub fn doubt(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.doubted(now);
        self.pump(now, &mut out);
        out
    }

    fn doubted(&mut self, now: Now) {
        self.doubted_at = now.wall;
        self.registration.doubt(now);
        self.due.values_mut().for_each(|due| due.gap = now.run);
    }

    /// Modules or homes are not what they were.
    pub fn changed(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.homes_soon(now);
        self.pump(now, &mut out);
        out
    }

    /// Something is not as it was.
    pub fn moved(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.status_soon(STATUS_AFTER, now);
        self.pump(now, &mut out);
        out
    }

    /// States are asked for again, but not over and over.
    fn status_soon(&mut self, after: Duration, now: Now) {
        for due in self.due.values_mut() {
            let soon = due.asked.map_or(now.run, |at| at.saturating_add(STATUS_APART));
            due.status = due.status.min(soon.max(now.run.saturating_add(after)));
        }
    }

    fn homes_soon(&mut self, now: Now) {
        let soon = self.homes_at.map_or(now.run, |at| at.saturating_add(HOMES_SOON));
        self.homes_due = self.homes_due.min(soon.max(now.run));
    }

    /// What webhooks told, for telling it apart from what they did not.
    pub fn webhooks(&mut self, heard: Option<Timestamp>, calls: Vec<CallHeard>) {
        self.heard = heard;
        self.calls = calls;
    }

    /// Whether what was to be kept lies in its file.
    pub fn written(&mut self, is_written: bool, now: Now) {
        self.oauth.written(is_written, now);
    }

    /// Why the webhook is not registered at all, if it is not.
    pub fn unregistered(&self) -> Option<&'static str> {
        self.registration.useless()
    }

    /// Portero stops: what becomes of orders.
    pub fn stop(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.release_jobs("Portero stops", &mut out);
        if let Some((_, Purpose::Order(job))) = self.pending.take() {
            out.push(job.unknown("Portero stopped before an answer came"));
        }
        out
    }

    /// The answer to a question, or the reason why none came.
    pub fn answered(&mut self, id: u64, got: Result<Answer, Fault>, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        let Some((_, purpose)) = self.pending.take_if(|(pending, _)| *pending == id) else {
            return out;
        };
        self.take_answer(purpose, got, now, &mut out);
        self.pump(now, &mut out);
        out
    }

    /// Asks the next thing, if none is under way.
    fn pump(&mut self, now: Now, out: &mut Vec<Output>) {
        self.expire_jobs(now, out);
        if now.run >= self.oauth.write_due() {
            out.push(Output::Keep(self.oauth.kept().clone()));
        }
        self.look_for_silence(now);
        if let Some(failure) = self.registration.tick(now) {
            self.tell_webhook_failed(&failure, now, out);
        }
        self.tell_webhook(out);
        self.tell_consent(now, out);
        if self.pending.is_some() {
            return;
        }
        if let Some((purpose, ask)) = self.next_question(now) {
            self.next_ask += 1;
            out.push(Output::Ask(self.next_ask, ask));
            self.pending = Some((self.next_ask, purpose));
        }
    }

    fn next_question(&mut self, now: Now) -> Option<(Purpose, Ask)> {
        let secret = self.config.client_secret.clone()?;
        let client_id = self.config.client_id.clone();
        let app = (client_id.as_str(), &secret);
        if let Some((number, code)) = self.consents.pop_front() {
            let redirect = self.config.consent_url();
            let grant = Grant::Code { code: &code, redirect: &redirect };
            return Some((Purpose::Consent(number), self.asker.token(app, grant)));
        }
        let token = self.oauth.access(now).cloned();
        if let Some(token) = &token
            && let Some(job) = self.next_job(now)
        {
            let ask = job.ask.clone().bearer(token);
            return Some((Purpose::Order(Box::new(job)), ask));
        }
        if let Some(refresh) = self.oauth.renewal(now) {
            return Some((Purpose::Renew, self.asker.token(app, Grant::Refresh(refresh))));
        }
        let (purpose, ask) = self.next_poll(now).filter(|_| token.is_some())?;
        Some((purpose, ask.bearer(&token?)))
    }

    /// The first look at the homes comes first; then the registration, so that nothing falls
    /// between it and the look at the history.
    fn next_poll(&mut self, now: Now) -> Option<(Purpose, Ask)> {
        let holds = now.run < self.hold_until;
        if now.run >= self.homes_due && !holds {
            return Some((Purpose::Homes, self.asker.form("api/homesdata", &[])));
        }
        if self.homes.is_learned()
            && self.oauth.access(now).is_some()
            && let Some(ask) = self.registration.ask(&self.asker, now)
        {
            return Some((Purpose::Register, ask));
        }
        if holds {
            return None;
        }
        if let Some(round) = &self.round {
            let ask =
                self.asker.events(&round.home, super::gap::PAGE_SIZE, round.before.as_deref());
            return Some((Purpose::Events, ask));
        }
        let status = self.due.iter().find(|(_, due)| now.run >= due.status);
        if let Some(home) = status.map(|(home, _)| home.clone()) {
            let ask = self.asker.form("api/homestatus", &[("home_id", &home)]);
            return Some((Purpose::Status(home), ask));
        }
        let gap = self.due.iter().find(|(_, due)| now.run >= due.gap);
        let round = Round::new(gap.map(|(home, _)| home.clone())?);
        let ask = self.asker.events(&round.home, super::gap::PAGE_SIZE, None);
        self.round = Some(round);
        Some((Purpose::Events, ask))
    }

    /// How often a home is asked, by how often one of few would be.
    fn every(&self, period: Duration) -> Duration {
        let homes = u32::try_from(self.due.len()).unwrap_or(u32::MAX);
        period.saturating_mul(homes.div_ceil(HOMES_OFTEN).max(1))
    }

    fn look_for_silence(&mut self, now: Now) {
        let last = self.heard.unwrap_or(self.since).max(self.doubted_at);
        if now.wall.duration_since(last) > SILENCE {
            self.doubted(now);
        }
    }

    /// Secrets that must be in nothing that is shown.
    fn holds_secret(&self, text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        let given = [&self.config.client_secret, &self.config.refresh_token];
        let mut all = self.oauth.secrets().chain(given.into_iter().flatten());
        all.any(|secret| !secret.expose().is_empty() && text.contains(secret.expose()))
    }
}
