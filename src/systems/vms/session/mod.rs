//! A VMS account as a state machine without I/O: answers, orders and moments go in; questions,
//! news and replies come out. Calls, intercoms and orders are asked for side by side: neither a
//! bell nor a door must wait for a list.

mod calls;
mod house;
mod lane;
mod login;
mod order;
mod poll;
#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use self::calls::Calls;
use self::house::House;
use self::lane::Lane;
pub use self::login::Kept;
use self::order::Job;
use super::Config;
use super::wire::ask::{Asker, redirected};
use super::wire::refusal::{Refusal, refusal};
use crate::command::Command;
use crate::event::{Event, Trust};
use crate::systems::http::{Answer, Ask, Fault};
use crate::systems::link::{self, News, Reply};

/// The shortest wait that a server can ask for.
const WAIT_LEAST: Duration = Duration::from_secs(1);
/// The most that calls wait after failures in a row: a bell that is heard a minute late is not
/// heard, and one small question in ten seconds hammers nobody.
const CALLS_WAIT_MOST: Duration = Duration::from_secs(10);
/// The most that logins and lists wait after failures in a row.
const WAIT_MOST: Duration = Duration::from_secs(60);
/// The longest `Retry-After` that is obeyed: a wrong one must not silence the bell for a day.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(15 * 60);
/// A poll that fails sooner is asked once more at once: the server has just closed a connection
/// that lay idle, which is no reason to call it down. One that fails later met something worse.
const RETRY_WITHIN: Duration = Duration::from_secs(1);
/// Redirects followed for one question; one leads from http to https, another to a new host name.
const REDIRECTS_MAX: u8 = 3;

/// The moment: by the wall clock, and by one that never jumps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Now {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since the start.
    pub run: Duration,
}

/// What the session wants done.
#[derive(Debug)]
pub enum Output {
    /// Ask this, and hand the answer to [`Session::answered`] with this number.
    Ask(u64, Ask),
    /// Tell these news.
    Tell(News),
    /// Keep what was not understood.
    Bad {
        /// Why.
        reason: String,
        /// The bytes.
        raw: Vec<u8>,
    },
    /// An order's reply, by the order's number.
    Reply(u64, Reply),
    /// The connection works, or does not and why.
    Up(bool, String),
    /// The system gave a sign of life.
    Alive,
    /// This must survive a restart.
    Keep(Kept),
}

/// What a question was for.
#[derive(Debug)]
enum Purpose {
    Login,
    Poll(Task),
    /// Boxed: it holds the whole question, to ask it again.
    Order(Box<Job>),
}

/// One question of the session's own.
#[derive(Debug, Clone, PartialEq)]
enum Task {
    /// A page of all intercoms.
    List(u32),
    /// A batch of intercoms.
    Shows(Vec<u64>),
    /// A page of the calls.
    Calls(u32),
}

impl Task {
    fn is_calls(&self) -> bool {
        matches!(self, Task::Calls(_))
    }
}

/// A question under way.
#[derive(Debug)]
struct Pending {
    purpose: Purpose,
    ask: Ask,
    redirects: u8,
    /// When it was asked; none if this is the second try of a poll.
    began: Option<Duration>,
}

/// What is true while one answer is looked at.
#[derive(Debug, Clone)]
struct Told {
    source: String,
    trust: Trust,
    received: Timestamp,
    /// The moment by the server's clock, if its answer said.
    server: Option<Timestamp>,
    /// Whether this is the first answer of its kind in this run.
    first: bool,
    /// Whether something may have happened unheard since the last answer of this kind.
    gap: bool,
}

/// The session of one `[vms.<name>]`.
#[derive(Debug)]
pub struct Session {
    source: String,
    trust: Trust,
    config: Config,
    asker: Asker,
    kept: Kept,
    /// Whether a login has just brought the token, and it was good for nothing yet.
    token_is_new: bool,
    house: House,
    calls: Calls,
    schedule: poll::Schedule,
    /// Questions about intercoms that are to be asked next.
    todo: VecDeque<Task>,
    /// The page of calls that is to be asked for next, after an earlier one.
    more_calls: Option<u32>,
    /// Ids found by listing, where the config names none.
    listed: BTreeSet<u64>,
    pending: BTreeMap<u64, Pending>,
    next_ask: u64,
    /// Orders that wait for a login under way.
    parked: Vec<Job>,
    /// How logins fare,
    login_lane: Lane,
    /// and calls,
    calls_lane: Lane,
    /// and intercoms.
    house_lane: Lane,
    /// Whether this VMS, or this account, has no list of calls as far as we know.
    calls_absent: bool,
    /// None before the first answer.
    up: Option<bool>,
    /// Why nobody is there who could be told to do something.
    cut: Option<String>,
}

impl Session {
    /// A session that goes on from what was `known` and `kept`.
    pub fn new(
        source: &str,
        trust: Trust,
        config: Config,
        kept: Kept,
        known: &[(String, Value)],
        seed: u64,
    ) -> Session {
        let asker = Asker {
            base: config.url.clone(),
            uuid: kept.uuid.clone(),
            client: config.client.clone(),
        };
        let kept = kept.of(&config);
        Session {
            source: source.to_string(),
            trust,
            schedule: poll::Schedule::new(&config),
            asker,
            kept,
            token_is_new: false,
            house: House::new(source, known),
            calls: Calls::new(source, known),
            todo: VecDeque::new(),
            more_calls: None,
            listed: BTreeSet::new(),
            pending: BTreeMap::new(),
            next_ask: 0,
            parked: Vec::new(),
            login_lane: Lane::new(WAIT_MOST, seed),
            calls_lane: Lane::new(CALLS_WAIT_MOST, seed.wrapping_add(1)),
            house_lane: Lane::new(WAIT_MOST, seed.wrapping_add(2)),
            calls_absent: false,
            up: None,
            cut: Some("not asked yet".into()),
            config,
        }
    }

    /// Time went by: asks what is due.
    pub fn tick(&mut self, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        self.give_up_parked(now, &mut out);
        self.pump(now, &mut out);
        out
    }

    /// When [`Session::tick`] wants to be called at the latest.
    pub fn next_tick(&self) -> Duration {
        let parked = self.parked.iter().map(Job::parked_until).min();
        let own = if self.is_logging_in() {
            Duration::MAX
        } else if self.kept.token.is_none() {
            self.login_lane.hold_until()
        } else {
            self.next_calls().min(self.next_house())
        };
        parked.map_or(own, |parked| parked.min(own))
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

    /// The answer to a question, or the reason why none came.
    pub fn answered(&mut self, id: u64, got: Result<Answer, Fault>, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        let Some(pending) = self.pending.remove(&id) else { return out };
        if let Ok(answer) = &got
            && let Some(location) = moved(answer)
            && self.follow(&pending, location, now, &mut out)
        {
            return out;
        }
        if got.is_err() && self.may_retry(&pending, now) {
            self.ask(Pending { began: None, ..pending }, &mut out);
            return out;
        }
        match pending.purpose {
            Purpose::Login => self.login_answered(got, now, &mut out),
            Purpose::Poll(task) => self.poll_answered(task, &pending.ask, got, now, &mut out),
            Purpose::Order(job) => self.order_answered(*job, pending.ask, got, now, &mut out),
        }
        self.pump(now, &mut out);
        out
    }

    /// Portero stops. The session at the VMS stays open for the next start, since sessions are
    /// few; only if its token could not be kept is it ended, by the question that comes back.
    pub fn stop(&mut self, is_kept: bool) -> Option<Ask> {
        let token = self.kept.token.as_ref().filter(|_| !is_kept)?;
        Some(self.asker.logout().bearer(token))
    }

    /// Whether this poll is worth another try at once.
    fn may_retry(&self, pending: &Pending, now: Now) -> bool {
        let is_soon = |began: Duration| now.run.saturating_sub(began) < RETRY_WITHIN;
        let is_poll = matches!(pending.purpose, Purpose::Poll(_));
        is_poll && self.up == Some(true) && pending.began.is_some_and(is_soon)
    }

    /// Asks the same elsewhere, with the same method and body; but never what opens a door or
    /// changes anything: many servers act first and redirect after, and it may lead to another door.
    fn follow(&mut self, pending: &Pending, to: &str, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(url) = redirected(&pending.ask.url, to) else { return false };
        if pending.redirects == REDIRECTS_MAX {
            return false;
        }
        let purpose = match &pending.purpose {
            Purpose::Login => Purpose::Login,
            Purpose::Poll(task) => Purpose::Poll(task.clone()),
            Purpose::Order(job) if job.only_asks() && job.may_repeat(now) => {
                Purpose::Order(job.clone())
            }
            Purpose::Order(_) => return false,
        };
        let ask = Ask { url, ..pending.ask.clone() };
        let redirects = pending.redirects + 1;
        self.ask(Pending { purpose, ask, redirects, began: pending.began }, out);
        true
    }

    fn ask(&mut self, pending: Pending, out: &mut Vec<Output>) {
        self.next_ask += 1;
        out.push(Output::Ask(self.next_ask, pending.ask.clone()));
        self.pending.insert(self.next_ask, pending);
    }

    fn is_logging_in(&self) -> bool {
        self.pending.values().any(|pending| matches!(pending.purpose, Purpose::Login))
    }

    /// Whether calls, or intercoms, are being asked for.
    fn is_asking(&self, calls: bool) -> bool {
        let is_it = |pending: &Pending| matches!(&pending.purpose, Purpose::Poll(task) if task.is_calls() == calls);
        self.pending.values().any(is_it)
    }

    /// Whether this is how the token in use is asked with.
    fn is_of_this_token(&self, ask: &Ask) -> bool {
        let token = self.kept.token.as_ref().map(|token| token.expose());
        token.is_some() && token == ask.bearer.as_ref().map(|token| token.expose())
    }

    /// No login, so nothing can be asked for; orders that wait for it are not done.
    fn login_failed(
        &mut self,
        why: String,
        wait: Option<Duration>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        self.login_lane.failed(&why, true, wait, now.run);
        self.release_parked(&why, out);
        self.cut = Some(why);
        self.go_down(now, out);
    }

    /// Calls or intercoms could not be had: that is tried anew, and the rest goes on. It cuts us
    /// off if it is `grave` and nothing else tells whether anybody is there.
    fn poll_failed(
        &mut self,
        task: &Task,
        failure: (String, bool),
        wait: Option<Duration>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let (why, is_grave) = failure;
        let decides = task.is_calls() || self.calls_absent;
        if decides {
            self.cut = is_grave.then(|| why.clone());
        }
        if task.is_calls() {
            self.calls_lane.failed(&why, is_grave, wait, now.run);
            self.restart_calls();
        } else {
            self.house_lane.failed(&why, is_grave && decides, wait, now.run);
            self.restart_house();
            self.schedule.shows_good = None;
        }
        self.go_down(now, out);
    }

    /// Says so if the link is down.
    fn go_down(&mut self, now: Now, out: &mut Vec<Output>) {
        if let Some(why) = self.trouble(now)
            && self.up != Some(false)
        {
            out.push(Output::Up(false, why));
            self.up = Some(false);
            // Whatever question found it out, intercoms may have changed unheard.
            self.schedule.shows_good = None;
        }
    }

    fn trouble(&self, now: Now) -> Option<String> {
        let lanes = [&self.login_lane, &self.calls_lane, &self.house_lane];
        lanes.into_iter().find_map(|lane| lane.trouble(now.run)).map(String::from)
    }

    /// An answer to this question that was understood.
    fn works(&mut self, task: &Task, now: Now, out: &mut Vec<Output>) {
        let lane = if task.is_calls() { &mut self.calls_lane } else { &mut self.house_lane };
        lane.worked();
        self.cut = None;
        out.push(Output::Alive);
        self.go_down(now, out);
        if self.up != Some(true) && self.trouble(now).is_none() {
            self.up = Some(true);
            out.push(Output::Up(true, String::new()));
        }
    }

    fn told(&self, first: bool, gap: bool, answer: &Answer, now: Now) -> Told {
        Told {
            source: self.source.clone(),
            trust: self.trust,
            received: now.wall,
            server: answer.date,
            first,
            gap,
        }
    }
}

impl Told {
    fn event(&self, kind: &str, unique: &[&str], caught_up: bool) -> Event {
        link::event(&self.source, kind, unique, self.trust, caught_up, self.received)
    }
}

/// Where an answer leads that says "the same, but there". A 303 is none: it asks for another
/// method.
fn moved(answer: &Answer) -> Option<&str> {
    matches!(answer.status, 301 | 302 | 307 | 308).then_some(answer.location.as_deref())?
}

/// How long an answer asks to wait, if it does.
fn asked_wait(answer: &Answer) -> Option<Duration> {
    let is_busy = matches!(answer.status, 429 | 503);
    let wait = answer.retry_after.filter(|_| is_busy)?;
    Some(wait.clamp(WAIT_LEAST, RETRY_AFTER_MOST))
}

fn refused(answer: &Answer) -> Refusal {
    refusal(answer.status, &answer.body)
}
