//! One session with an EMM, sans I/O: answers, orders and the moment go in; requests, news and
//! replies come out. Owns the token, when to ask what, and what is known. Sends nothing itself.
//!
//! The poll of `/changes` drains: what it answers is never answered again. So whenever an answer
//! may have been lost, the inbox and the list of active alarms are compared with what was told.

mod doing;
mod hearing;
mod login;
mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value};
use url::Url;

use super::Config;
use super::alarms::Alarms;
use super::inbox::{Mark, Unread};
use super::orders::Request;
use super::recipients::Recipient;
use super::wire::{self, Problem};
use crate::command::Command;
use crate::event::{EventId, Trust};
use crate::secret::Secret;
use crate::systems::backoff::Backoff;
use crate::systems::http::{Answer, Ask, Content, Fault};
use crate::systems::link::{News, Reply, UnreadBody};
use doing::Pending;
pub use login::Kept;
use look::Look;

/// Waits after a failure: short first, since an EMM restarts in seconds.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How often the subscription is looked at, which is also the sign of life between rare polls:
/// with the limit for one answer, a dead peer is found within a minute.
const CHECK_EVERY: Duration = Duration::from_secs(45);

/// How often inbox and alarms are compared although nothing failed: finds silent losses.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// When a part of such a look was refused.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Beyond two polls and this, what a poll brings is old news.
const LATE_SLACK: Duration = Duration::from_secs(15);

/// Pages for people in a row after which the token is taken for dead.
const PAGES_IN_A_ROW_MAX: u32 = 3;

impl Input {
    /// How many bytes of an answer there are to read.
    pub fn bytes(&self) -> usize {
        match self {
            Input::Answer { answer: Ok(answer), .. } | Input::Cut { answer, .. } => {
                answer.body.len()
            }
            Input::Unread(body) => body.raw.len(),
            _ => 0,
        }
    }
}

/// Now, on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall clock, for what is told.
    pub wall: Timestamp,
    /// Since the start, for waits: nobody turns it back.
    pub since: Duration,
}

/// What goes in.
#[derive(Debug)]
pub enum Input {
    /// Something to do; `n` names it in [`Output::Reply`].
    Order {
        /// Its name.
        n: u64,
        /// What to do.
        command: Command,
        /// Its secret arguments.
        secrets: Map<String, Value>,
        /// After it, it must not be sent.
        deadline: Timestamp,
    },
    /// What became of a call.
    Answer {
        /// Which.
        call: u64,
        /// The answer, or why there is none.
        answer: Result<Answer, Fault>,
        /// The name under which the body was kept, if it was.
        kept: Option<EventId>,
    },
    /// What came of the answer to a call that drains, whose rest the connection cut off.
    Cut {
        /// Which.
        call: u64,
        /// What came.
        answer: Answer,
        /// What ended it.
        fault: Fault,
        /// The name under which the body was kept, if it was.
        kept: Option<EventId>,
    },
    /// A body that was kept by an earlier run and not read.
    Unread(UnreadBody),
    /// Time went by.
    Tick,
    /// Portero stops; a second time: do not wait for anything any more.
    Stop,
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// To be asked.
    Call(Call),
    /// To be told.
    Tell(News),
    /// Not understood.
    Bad(String, Vec<u8>),
    /// For the log: understood, but only with good will.
    Mended(String),
    /// How an order went.
    Reply(u64, Reply),
    /// To be kept over a restart, or forgotten.
    Keep(Option<Kept>),
    /// The session works, or does not and why.
    Up(bool, String),
}

/// A request.
#[derive(Debug)]
pub struct Call {
    /// Names it in [`Input::Answer`].
    pub id: u64,
    /// The request.
    pub ask: Ask,
    /// What it answers is gone afterwards: the body is to be kept before it is read.
    pub drains: bool,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Login,
    Release,
    Subscription,
    Changes,
    Inbox,
    /// The inbox's newest page, for what was read meanwhile.
    Unread,
    Alarms,
    Recipients,
    Order(u64),
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Not connected until then.
    Out {
        until: Duration,
        why: String,
    },
    LoggingIn,
    In,
}

/// When to ask what next.
#[derive(Debug, Default)]
struct Due {
    check: Duration,
    changes: Duration,
    look: Duration,
    unread: Duration,
}

/// One session.
pub struct Session {
    source: String,
    trust: Trust,
    config: Config,
    password: Option<Secret>,
    token: Option<Secret>,
    /// Counts tokens, to know which one a refused call carried.
    generation: u64,
    /// The token was not made just now, so a refusal may mean that it has expired.
    may_relogin: bool,
    /// The question whose refusal led to this token; until it is answered, another refusal of it
    /// means that it was not the token.
    refused_for: Option<What>,
    /// Something was answered with this token.
    has_worked: bool,
    /// How often in a row it is not known whether the old token was released.
    release_faults: u32,
    phase: Phase,
    due: Due,
    /// Something may have been lost: the inbox's mark stands still until it was looked through.
    gap: bool,
    /// Since when `/changes` is silent.
    silenced: Option<String>,
    look: Option<Look>,
    last_changes: Option<Duration>,
    /// `/changes` was turned away since it last worked.
    was_throttled: bool,
    calls: BTreeMap<u64, (What, u64)>,
    next_call: u64,
    trouble: Backoff,
    refused: Backoff,
    pages_in_a_row: u32,
    alarms: Alarms,
    /// The count of ends that the state has.
    told_ends: u64,
    /// Why the last list of alarms proved nothing: said once.
    list_flaw: Option<&'static str>,
    mark: Option<Mark>,
    unread: Unread,
    /// What the state has of them.
    told_unread: Option<Unread>,
    orders: BTreeMap<u64, Pending>,
    recipients: Vec<Recipient>,
    recipients_since: Option<Duration>,
    recipients_next: Vec<Recipient>,
    is_flat: bool,
    is_stopping: bool,
    out: Vec<Output>,
}

/// What a session begins with.
pub struct Setup {
    /// `emm/<name>`.
    pub source: String,
    /// The config.
    pub config: Config,
    /// How far live news is vouched for.
    pub trust: Trust,
    /// State as of the last run.
    pub known: Vec<(String, Value)>,
    /// The session of the last run.
    pub kept: Option<Kept>,
    /// For the spread of waits.
    pub seed: u64,
}

impl Session {
    /// A session that has not begun; the first tick begins it.
    pub fn new(setup: Setup) -> Session {
        let Setup { source, config, trust, known, kept, seed } = setup;
        let at = |path: &str| {
            let path = format!("{source}/{path}");
            known.iter().find(|(known, _)| *known == path).map(|(_, value)| value)
        };
        let below = format!("{source}/alarm/");
        let alarms = known.iter().filter(|(path, _)| path.starts_with(&below));
        let token = kept.and_then(|kept| kept.token_for(&config));
        let ends = at("alarms").and_then(|v| v.get("ended")?.as_u64()).unwrap_or(0);
        Session {
            alarms: Alarms::restore(alarms.map(|(_, value)| value.clone()), ends),
            told_ends: ends,
            list_flaw: None,
            mark: at("inbox").and_then(Mark::restore),
            unread: at("inbox").map(Unread::restore).unwrap_or_default(),
            told_unread: None,
            silenced: at("changes")
                .filter(|v| v["silenced"] == true)
                .and_then(|v| Some(v.get("since")?.as_str()?.to_string())),
            password: config.password.clone(),
            token,
            generation: 0,
            may_relogin: true,
            refused_for: None,
            has_worked: false,
            release_faults: 0,
            phase: Phase::Out { until: Duration::ZERO, why: "not yet connected".into() },
            due: Due::default(),
            gap: true,
            look: None,
            last_changes: None,
            was_throttled: false,
            calls: BTreeMap::new(),
            next_call: 0,
            trouble: Backoff::new(RETRY.0, RETRY.1, seed),
            refused: Backoff::new(login::RETRY.0, login::RETRY.1, seed),
            pages_in_a_row: 0,
            orders: BTreeMap::new(),
            recipients: Vec::new(),
            recipients_since: None,
            recipients_next: Vec::new(),
            is_flat: config.flat_send,
            is_stopping: false,
            out: Vec::new(),
            source,
            trust,
            config,
        }
    }

    /// Takes one input; what follows, in order.
    pub fn handle(&mut self, input: Input, now: Moment) -> Vec<Output> {
        match input {
            Input::Order { n, command, secrets, deadline } => {
                self.ordered(n, command, secrets, deadline);
            }
            Input::Answer { call, answer, kept } => {
                if let Some((what, generation)) = self.calls.remove(&call) {
                    self.answered(what, generation, answer, kept, now);
                }
            }
            Input::Cut { call, answer, fault, kept } => {
                if let Some((what, _)) = self.calls.remove(&call) {
                    self.cut_short(what, &answer, kept, now);
                    self.fail(now, fault.to_string());
                }
            }
            Input::Unread(body) => self.unread_body(&body, now),
            Input::Tick => {}
            Input::Stop => self.stop(),
        }
        self.go_on(now);
        std::mem::take(&mut self.out)
    }

    /// When to tick next at the latest.
    pub fn wake(&self) -> Option<Duration> {
        if self.is_stopping {
            return None;
        }
        match &self.phase {
            Phase::Out { until, .. } => Some(*until),
            Phase::LoggingIn => None,
            Phase::In if self.is_busy() => None,
            Phase::In => {
                let changes = self.silenced.is_none().then_some(self.due.changes);
                let unread = self.unread.is_watched(self.due.unread).then_some(self.due.unread);
                let both = changes.into_iter().chain(unread).min().unwrap_or(Duration::MAX);
                Some(self.due.check.min(self.due.look).min(both))
            }
        }
    }

    /// Whether all is said and done after [`Input::Stop`].
    pub fn is_done(&self) -> bool {
        self.is_stopping && self.calls.is_empty() && self.token.is_none()
    }

    /// How many orders are under way.
    pub fn orders(&self) -> usize {
        self.orders.len()
    }

    fn go_on(&mut self, now: Moment) {
        if self.is_stopping {
            // What drains or acts is waited for: its answer would be lost with the session.
            if self.calls.is_empty() {
                self.release();
            }
            return;
        }
        if matches!(&self.phase, Phase::Out { until, .. } if *until <= now.since) {
            if self.token.is_some() { self.phase = Phase::In } else { self.log_in(now) }
        }
        if self.phase == Phase::In && !self.is_busy() {
            self.next_question(now);
        }
        self.dispatch(now);
    }

    /// One question of our own at a time: their order matters.
    fn is_busy(&self) -> bool {
        let own = |what: &What| {
            use What::{Alarms, Changes, Inbox, Subscription, Unread};
            matches!(what, Subscription | Changes | Inbox | Unread | Alarms)
        };
        self.calls.values().any(|(what, _)| own(what))
    }

    fn next_question(&mut self, now: Moment) {
        if let Some((what, request)) = self.look_page() {
            self.ask(what, &request);
        } else if self.due.check <= now.since {
            self.due.check = now.since + self.check_every();
            self.ask(What::Subscription, &question("users/self/webpush/subscribe"));
        } else if self.silenced.is_none() && self.due.changes <= now.since {
            self.due.changes = now.since + self.config.poll;
            self.ask(What::Changes, &question("users/self/changes"));
        } else if self.due.look <= now.since {
            self.due.look = now.since + self.look_every();
            self.look = Some(Look::default());
            self.next_question(now);
        } else if self.due.unread <= now.since && self.unread.is_watched(now.since) {
            self.due.unread = now.since + self.config.poll;
            self.ask_unread();
        }
    }

    fn check_every(&self) -> Duration {
        if self.silenced.is_some() { self.config.poll.min(CHECK_EVERY) } else { CHECK_EVERY }
    }

    fn look_every(&self) -> Duration {
        if self.silenced.is_some() { self.config.poll } else { LOOK_EVERY }
    }

    fn ask(&mut self, what: What, request: &Request) {
        let mut ask = Ask::new(request.method.clone(), address(&self.config.url, request));
        if !request.form.is_empty() || request.method == Method::POST {
            ask.content = Content::Form(request.form.clone());
        }
        if what != What::Login {
            ask.bearer = self.token.clone();
        }
        let id = self.next_call;
        self.next_call += 1;
        self.calls.insert(id, (what, self.generation));
        self.out.push(Output::Call(Call { id, ask, drains: what == What::Changes }));
    }

    fn answered(
        &mut self,
        what: What,
        generation: u64,
        answer: Result<Answer, Fault>,
        kept: Option<EventId>,
        now: Moment,
    ) {
        match what {
            What::Login => self.logged_in(answer, now),
            What::Release => self.released(answer, now),
            What::Order(n) => self.done(n, generation, answer, now),
            What::Recipients => self.recipients_heard(answer, now),
            What::Subscription | What::Changes | What::Inbox | What::Unread | What::Alarms => {
                self.own_answer(what, generation, answer, kept, now);
            }
        }
    }

    fn own_answer(
        &mut self,
        what: What,
        generation: u64,
        answer: Result<Answer, Fault>,
        kept: Option<EventId>,
        now: Moment,
    ) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(fault) => return self.fail(now, fault.to_string()),
        };
        match wire::answer(answer.status, &answer.content_type, &answer.body) {
            Ok(read) => {
                self.works(what);
                self.heard(what, read, &answer.body, kept, now);
            }
            Err(problem @ Problem::Token(_)) => {
                self.gap |= what == What::Changes;
                if generation != self.generation {
                    return;
                }
                let is_look = matches!(what, What::Inbox | What::Unread | What::Alarms);
                if is_look && self.has_worked && !self.may_relogin {
                    return self.skip(what, &problem, &answer, now);
                }
                self.token_refused(what, &problem.to_string(), now);
            }
            Err(problem) => self.problem(what, &problem, &answer, kept, now),
        }
    }

    fn works(&mut self, what: What) {
        if self.refused_for.is_none_or(|refused| refused == what) {
            (self.may_relogin, self.refused_for) = (true, None);
            self.release_faults = 0;
            self.refused.reset();
        }
        self.has_worked = true;
        self.pages_in_a_row = 0;
        self.trouble.reset();
        self.out.push(Output::Up(true, String::new()));
    }

    /// It does not work now; what was told may have been lost.
    fn fail(&mut self, now: Moment, why: String) {
        let wait = self.trouble.next_wait();
        self.out_for(now, wait, why);
    }

    fn out_for(&mut self, now: Moment, wait: Duration, why: String) {
        let why = self.without_token(&why);
        self.gap = true;
        self.look = None;
        (self.due.check, self.due.look) = (Duration::ZERO, Duration::ZERO);
        self.out.push(Output::Up(false, why.clone()));
        self.give_up_waiting(&why);
        self.phase = Phase::Out { until: now.since + wait, why };
    }

    /// A server may quote what it was sent.
    fn without_token(&self, why: &str) -> String {
        let secrets = [&self.token, &self.password];
        let secrets = secrets.into_iter().flatten().filter(|secret| !secret.expose().is_empty());
        secrets.fold(why.to_string(), |why, secret| why.replace(secret.expose(), "(hidden)"))
    }
}

/// A GET without parameters.
fn question(path: &str) -> Request {
    Request { method: Method::GET, path: path.into(), query: Vec::new(), form: Vec::new() }
}

/// A POST without parameters.
fn act(path: &str) -> Request {
    Request { method: Method::POST, ..question(path) }
}

/// Below whatever prefix the EMM is served; `f=json` is always in the query, or a page for people
/// comes back.
fn address(base: &Url, request: &Request) -> Url {
    let mut url = base.clone();
    url.set_fragment(None);
    url.set_path(&format!("{}/api/{}", base.path().trim_end_matches('/'), request.path));
    url.query_pairs_mut().clear().append_pair("f", "json").extend_pairs(&request.query);
    url
}
