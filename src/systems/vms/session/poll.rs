//! The part of the session that asks by itself: what is due when, and what an answer means.

use std::collections::BTreeSet;
use std::time::Duration;

use super::calls::Page;
use super::{Now, Output, Pending, Purpose, Session, Task, asked_wait, refused};
use crate::systems::http::{ANSWER_WITHIN, Answer, Ask, Fault};
use crate::systems::link::{News, mended};
use crate::systems::vms::Config;
use crate::systems::vms::wire::ask::IDS_MAX;
use crate::systems::vms::wire::refusal::is_page;
use crate::systems::vms::wire::{self, Bad};

/// Something is asked at least this often, so that a connection that went dead is noticed within
/// a minute: this, the wait for an answer, and a little.
const ASK_EVERY: Duration = Duration::from_secs(40);
/// Nothing is asked more often, whatever the config says.
const ASK_EVERY_LEAST: Duration = Duration::from_millis(100);
/// How often all intercoms of the account are listed to find new ones: a page or two a minute.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// Pages of intercoms that are asked for at most; at 15 to a page, far more than any account has.
const LIST_PAGES_MAX: u32 = 100;
/// Pages of calls that are asked for to catch up, at most: 250 calls.
const CALLS_PAGES_MAX: u32 = 10;
/// A token that is refused right after its login is not cured by another login.
const TOKEN_REFUSED_WAIT: Duration = Duration::from_secs(5 * 60);
/// A list of calls that was never seen counts as not offered after so many refusals in a row,
/// which is some ten seconds: one may come from a server that is just starting.
const NOT_OFFERED_AFTER: u32 = 5;

/// What is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    poll: Duration,
    poll_calls: Duration,
    lists: bool,
    list_due: Duration,
    /// Whether the list of all intercoms was refused when last asked for.
    list_absent: bool,
    shows_due: Duration,
    calls_due: Duration,
    /// When all intercoms, and when the calls, were last answered for. A failure makes a gap of
    /// intercoms, whose changes have no age; calls have their own.
    pub(super) shows_good: Option<Now>,
    calls_good: Option<Now>,
    /// Whether every answer of this round was a list.
    round_whole: bool,
    /// Whether this round follows a gap.
    round_gap: bool,
    in_round: bool,
}

impl Schedule {
    pub(super) fn new(config: &Config) -> Schedule {
        Schedule {
            poll: config.poll.max(ASK_EVERY_LEAST),
            poll_calls: config.poll_calls.clamp(ASK_EVERY_LEAST, ASK_EVERY),
            lists: config.intercoms.is_empty(),
            list_due: Duration::ZERO,
            list_absent: false,
            shows_due: Duration::ZERO,
            calls_due: Duration::ZERO,
            shows_good: None,
            calls_good: None,
            round_whole: true,
            round_gap: true,
            in_round: false,
        }
    }

    /// The intercoms are to be asked for at once: a command changed one.
    pub(super) fn shows_now(&mut self) {
        self.shows_due = Duration::ZERO;
    }

    /// The calls are to be asked for at once: the connection is in doubt.
    pub(super) fn calls_now(&mut self) {
        self.calls_due = Duration::ZERO;
    }
}

/// Whether so much time lies between two answers that something may have been missed; the machine
/// may have slept, which only one of the clocks sees.
fn is_gap(last: Option<Now>, every: Duration, now: Now) -> bool {
    let most = every.saturating_mul(3) + ANSWER_WITHIN;
    last.is_none_or(|last| {
        let wall = now.wall.duration_since(last.wall).unsigned_abs();
        now.run.saturating_sub(last.run) > most || wall > most
    })
}

impl Session {
    /// Asks what is due of what is not being asked. Calls go first: a ring is news for seconds.
    pub(super) fn pump(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.is_logging_in() {
            return;
        }
        if self.kept.token.is_none() {
            if now.run >= self.login_lane.hold_until() {
                self.login(now, out);
            }
            return;
        }
        if now.run >= self.next_calls() {
            let page = self.more_calls.take().unwrap_or_else(|| {
                self.schedule.calls_due = now.run.saturating_add(self.schedule.poll_calls);
                1
            });
            self.ask_task(Task::Calls(page), now, out);
        }
        if now.run < self.next_house() {
            return;
        }
        self.plan(now);
        while let Some(task) = self.todo.pop_front() {
            if task != Task::Shows(Vec::new()) {
                return self.ask_task(task, now, out);
            }
            let news = self.round_step(now);
            tell(news, out);
        }
    }

    fn ask_task(&mut self, task: Task, now: Now, out: &mut Vec<Output>) {
        let mut ask = self.question(&task);
        ask.bearer = self.kept.token.clone();
        let (purpose, began) = (Purpose::Poll(task), Some(now.run));
        self.ask(Pending { purpose, ask, redirects: 0, began }, out);
    }

    /// When calls are to be asked for; never while they are.
    pub(super) fn next_calls(&self) -> Duration {
        if self.is_asking(true) {
            return Duration::MAX;
        }
        let due = self.more_calls.map_or(self.schedule.calls_due, |_| Duration::ZERO);
        due.max(self.calls_lane.hold_until())
    }

    /// The same for intercoms.
    pub(super) fn next_house(&self) -> Duration {
        if self.is_asking(false) {
            return Duration::MAX;
        }
        let due = if self.todo.is_empty() { self.schedule.shows_due } else { Duration::ZERO };
        due.max(self.house_lane.hold_until())
    }

    /// A new round over all intercoms, if the last one is over.
    fn plan(&mut self, now: Now) {
        let schedule = &mut self.schedule;
        let is_due = |due: Duration| now.run >= due;
        if !is_due(schedule.shows_due) || schedule.in_round {
            return;
        }
        schedule.shows_due = now.run.saturating_add(schedule.poll);
        schedule.in_round = true;
        schedule.round_whole = true;
        schedule.round_gap = is_gap(schedule.shows_good, schedule.poll, now);
        if schedule.lists && is_due(schedule.list_due) {
            schedule.list_due = now.run.saturating_add(LIST_EVERY);
            self.listed.clear();
            self.todo.push_back(Task::List(1));
        } else {
            self.plan_shows();
        }
    }

    /// Calls are asked for from the first page again.
    pub(super) fn restart_calls(&mut self) {
        self.more_calls = None;
        self.calls.restart();
        self.schedule.calls_now();
    }

    /// Intercoms are asked for anew, all of them.
    pub(super) fn restart_house(&mut self) {
        self.todo.clear();
        self.schedule.in_round = false;
        (self.schedule.list_due, self.schedule.shows_due) = (Duration::ZERO, Duration::ZERO);
    }

    /// A question for each batch of intercoms; an empty one, if there are none, ends the round.
    fn plan_shows(&mut self) {
        let ids: Vec<u64> = self.wanted().into_iter().collect();
        if ids.is_empty() {
            self.todo.push_back(Task::Shows(Vec::new()));
        }
        self.todo.extend(ids.chunks(IDS_MAX).map(|ids| Task::Shows(ids.to_vec())));
    }

    /// The intercoms to ask for: those the config names, else all that are listed or known. One
    /// that was known and is not listed is asked for once more, since a page may shift under us.
    fn wanted(&self) -> BTreeSet<u64> {
        if self.schedule.lists {
            return self.listed.union(&self.house.ids()).copied().collect();
        }
        self.config.intercoms.iter().copied().collect()
    }

    fn question(&self, task: &Task) -> Ask {
        match task {
            Task::List(page) => self.asker.list(*page),
            Task::Shows(ids) => self.asker.shows(ids),
            Task::Calls(page) => self.asker.calls(*page),
        }
    }

    pub(super) fn poll_answered(
        &mut self,
        task: Task,
        ask: &Ask,
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let answer = match got {
            Ok(answer) => answer,
            Err(fault) => {
                return self.poll_failed(&task, (fault.to_string(), true), None, now, out);
            }
        };
        match answer.status {
            200..=299 => {
                let understood = match &task {
                    Task::List(page) => self.list_answered(*page, &answer, now, out),
                    Task::Shows(ids) => self.shows_answered(ids, &answer, now, out),
                    Task::Calls(page) => self.calls_answered(*page, &answer, now, out),
                };
                match understood {
                    Ok(()) => self.token_is_new &= !self.is_of_this_token(ask),
                    Err(bad) => self.not_understood(&task, bad, now, out),
                }
            }
            401 => self.token_refused(&task, ask, now, out),
            403 | 404 if self.is_not_offered(&task) => {
                self.not_offered(&task, &answer, now, out);
            }
            status => {
                // What says that it is busy or broken may be so for everything.
                let is_grave = matches!(status, 419 | 429 | 500..);
                let why = format!("asked for {}, {}", name(&task), refused(&answer));
                self.poll_failed(&task, (why, is_grave), asked_wait(&answer), now, out);
            }
        }
    }

    /// The token is refused: one that was good has expired, and a login brings another. One that a
    /// login has just brought is not cured by the next login. Calls decide whether it is so: if
    /// they are answered, it is not the token.
    fn token_refused(&mut self, task: &Task, ask: &Ask, now: Now, out: &mut Vec<Output>) {
        let is_current = self.is_of_this_token(ask);
        if is_current && (task.is_calls() || self.calls_absent) {
            let is_new = self.token_is_new;
            self.drop_token(out);
            self.restart_calls();
            self.restart_house();
            if is_new {
                let why = "the token of a new login was refused".to_string();
                self.login_failed(why, Some(TOKEN_REFUSED_WAIT), now, out);
            }
        } else if task.is_calls() {
            self.restart_calls();
        } else {
            self.restart_house();
            if is_current {
                let why = "asked for intercoms, the token is refused";
                self.house_lane.failed(why, false, None, now.run);
                self.schedule.calls_now();
                self.go_down(now, out);
            }
        }
    }

    /// Whether a refusal of this means that there is no such thing here.
    fn is_not_offered(&self, task: &Task) -> bool {
        match task {
            Task::List(_) => true,
            Task::Shows(_) => false,
            Task::Calls(_) => {
                let is_enough = self.calls_lane.failures() + 1 >= NOT_OFFERED_AFTER;
                !self.calls.is_learned() && (self.calls_absent || is_enough)
            }
        }
    }

    /// This account may not ask for calls, or this VMS has no such list: the rest goes on, and a
    /// question in a while finds out if that changes.
    fn not_offered(&mut self, task: &Task, answer: &Answer, now: Now, out: &mut Vec<Output>) {
        let absent =
            if task.is_calls() { &mut self.calls_absent } else { &mut self.schedule.list_absent };
        if !std::mem::replace(absent, true) {
            let reason = format!("asked for {}, {}", name(task), refused(answer));
            complain(Some(Bad { reason, raw: answer.body.clone() }), out);
        }
        self.works(task, now, out);
        match task {
            Task::Calls(_) => {
                self.restart_calls();
                self.schedule.calls_due = now.run.saturating_add(ASK_EVERY);
            }
            Task::List(_) | Task::Shows(_) => self.plan_shows(),
        }
    }

    fn list_answered(
        &mut self,
        page: u32,
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Bad> {
        let list = wire::intercoms(&answer.body)?;
        mended(&self.source, list.mends);
        self.schedule.list_absent = false;
        self.works(&Task::List(page), now, out);
        complain(list.bad, out);
        self.listed.extend(list.items.iter().map(|intercom| intercom.id));
        if list.more && page < LIST_PAGES_MAX {
            self.todo.push_front(Task::List(page + 1));
        } else {
            self.plan_shows();
        }
        Ok(())
    }

    fn shows_answered(
        &mut self,
        ids: &[u64],
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Bad> {
        let list = wire::intercoms(&answer.body)?;
        mended(&self.source, list.mends);
        self.works(&Task::Shows(Vec::new()), now, out);
        let whole = list.bad.is_none();
        complain(list.bad, out);
        let last = self.schedule.shows_good;
        let gap = self.schedule.round_gap || is_gap(last, self.schedule.poll, now);
        let told = self.told(last.is_none(), gap, answer, now);
        let news = self.house.hear(ids, list.items, whole, &told);
        tell(news, out);
        let news = self.round_step(now);
        tell(news, out);
        Ok(())
    }

    /// One batch is done; the last one ends the round.
    fn round_step(&mut self, now: Now) -> News {
        if !self.todo.is_empty() {
            return News::default();
        }
        self.schedule.in_round = false;
        if !self.schedule.round_whole {
            return News::default();
        }
        self.schedule.shows_good = Some(now);
        let wanted = self.wanted();
        self.house.round_ended(&wanted)
    }

    fn calls_answered(
        &mut self,
        page: u32,
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Bad> {
        let list = wire::calls(&answer.body)?;
        mended(&self.source, list.mends);
        self.calls_absent = false;
        self.works(&Task::Calls(page), now, out);
        complain(list.bad, out);
        let last = self.schedule.calls_good;
        let gap = is_gap(last, self.schedule.poll_calls, now);
        let told = self.told(last.is_none(), gap, answer, now);
        let more = list.more && page < CALLS_PAGES_MAX;
        let named: &[u64] = &self.config.intercoms;
        let wanted = |id: u64| named.is_empty() || named.contains(&id);
        match self.calls.hear(list.items, more, wanted, &self.house, &told) {
            Page::More => self.more_calls = Some(page + 1),
            Page::Read { news, bad } => {
                self.schedule.calls_good = Some(now);
                tell(news, out);
                bad.into_iter().for_each(|bad| complain(Some(bad), out));
            }
        }
        Ok(())
    }

    /// An answer that is no list. A page where a list should be is not the VMS but something in
    /// between; anything else is kept, and asked for again in its time.
    fn not_understood(&mut self, task: &Task, bad: Bad, now: Now, out: &mut Vec<Output>) {
        let is_grave = is_page(&bad.raw) || self.up != Some(true);
        let why = format!("asked for {}, {}", name(task), bad.reason);
        complain(Some(Bad { reason: why.clone(), raw: bad.raw }), out);
        if is_grave || task.is_calls() {
            return self.poll_failed(task, (why, is_grave), None, now, out);
        }
        self.schedule.round_whole = false;
        if let Task::List(_) = task {
            self.schedule.list_due = Duration::ZERO;
            self.plan_shows();
        } else {
            self.schedule.shows_good = None;
            // The round was not whole, so its end tells nothing.
            self.round_step(now);
        }
    }
}

fn name(task: &Task) -> &'static str {
    match task {
        Task::List(_) => "the list of intercoms",
        Task::Shows(_) => "intercoms",
        Task::Calls(_) => "calls",
    }
}

fn tell(news: News, out: &mut Vec<Output>) {
    if !news.is_empty() {
        out.push(Output::Tell(news));
    }
}

fn complain(bad: Option<Bad>, out: &mut Vec<Output>) {
    if let Some(Bad { reason, raw }) = bad {
        out.push(Output::Bad { reason, raw });
    }
}
