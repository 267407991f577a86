//! The part of the session that asks by itself: what is due when, and what an answer means.

use std::collections::BTreeSet;
use std::time::Duration;

use super::calls::Page;
use super::{Now, Output, Pending, Purpose, Session, Task, asked_wait, refused};
use crate::systems::http::{ANSWER_WITHIN, Answer, Ask, Fault};
use crate::systems::vms::Config;
use crate::systems::vms::wire::ask::IDS_MAX;
use crate::systems::vms::wire::refusal::is_page;
use crate::systems::vms::wire::{self, Bad};

/// Something is asked at least this often, so that a connection that went dead is noticed within
/// a minute: this, the wait for an answer, and a little.
const ASK_EVERY: Duration = Duration::from_secs(40);
/// Nothing is asked more often, whatever the config says.
const ASK_EVERY_LEAST: Duration = Duration::from_millis(100);
/// How often all intercoms of the account are listed to find new ones.
const LIST_EVERY: Duration = Duration::from_secs(10 * 60);
/// Pages of intercoms that are asked for at most; at 15 to a page, far more than any account has.
const LIST_PAGES_MAX: u32 = 100;
/// Pages of calls that are asked for to catch up, at most: 250 calls.
const CALLS_PAGES_MAX: u32 = 10;
/// A token that is refused right after its login is not cured by another login.
const TOKEN_REFUSED_WAIT: Duration = Duration::from_secs(5 * 60);
/// A list that is not offered is asked for again after this time.
const NOT_OFFERED_WAIT: Duration = Duration::from_secs(5 * 60);
/// 403 and the like are for people to mend.
const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// What is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    poll: Duration,
    poll_calls: Duration,
    lists: bool,
    list_due: Duration,
    shows_due: Duration,
    calls_due: Duration,
    /// When all intercoms, and when the calls, were last answered for.
    shows_good: Option<Now>,
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
            shows_due: Duration::ZERO,
            calls_due: Duration::ZERO,
            shows_good: None,
            calls_good: None,
            round_whole: true,
            round_gap: true,
            in_round: false,
        }
    }

    /// The connection broke: everything is asked anew, and what changed meanwhile is caught up.
    pub(super) fn gap(&mut self) {
        (self.shows_good, self.calls_good, self.in_round) = (None, None, false);
        (self.list_due, self.shows_due, self.calls_due) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    }

    pub(super) fn next(&self) -> Duration {
        self.calls_due.min(self.shows_due)
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
    /// Asks the next question, if none is under way and one is due.
    pub(super) fn pump(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.is_asking() || now.run < self.hold_until {
            return;
        }
        let Some(token) = self.kept.token.clone() else { return self.login(now, out) };
        self.plan(now);
        while let Some(task) = self.todo.pop_front() {
            if task == Task::Shows(Vec::new()) {
                self.round_step(now, out);
                continue;
            }
            let ask = self.question(&task).bearer(&token);
            let (purpose, began) = (Purpose::Poll(task), Some(now.run));
            return self.ask(Pending { purpose, ask, redirects: 0, began }, out);
        }
    }

    /// Puts what is due in line. Calls go first: a ring is news for seconds.
    fn plan(&mut self, now: Now) {
        let schedule = &mut self.schedule;
        let is_due = |due: Duration| now.run >= due;
        if is_due(schedule.shows_due) && !schedule.in_round {
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
        let has_calls = self.todo.iter().any(|task| matches!(task, Task::Calls(_)));
        if is_due(self.schedule.calls_due) && !has_calls {
            self.schedule.calls_due = now.run.saturating_add(self.schedule.poll_calls);
            self.todo.push_front(Task::Calls(1));
        }
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
        got: Result<Answer, Fault>,
        now: Now,
        out: &mut Vec<Output>,
    ) {
        let answer = match got {
            Ok(answer) => answer,
            Err(fault) => return self.fail(fault.to_string(), None, now, out),
        };
        match answer.status {
            200..=299 => {
                let understood = match &task {
                    Task::List(page) => self.list_answered(*page, &answer, out),
                    Task::Shows(ids) => self.shows_answered(ids, &answer, now, out),
                    Task::Calls(page) => self.calls_answered(*page, &answer, now, out),
                };
                if let Err(bad) = understood {
                    self.not_understood(&task, bad, now, out);
                }
            }
            401 => self.token_refused(now, out),
            403 | 404 if !matches!(task, Task::Shows(_)) => {
                self.not_offered(&task, &answer, now, out);
            }
            status => {
                let wait = asked_wait(&answer);
                let own = (!matches!(status, 419 | 429 | 500..)).then_some(REFUSED_WAIT);
                let why = format!("asked for {}, {}", name(&task), refused(&answer));
                self.fail(why, wait.or(own), now, out);
            }
        }
    }

    /// The token is refused: one that was good has expired, and a login brings another. One that a
    /// login has just brought is not cured by the next login.
    fn token_refused(&mut self, now: Now, out: &mut Vec<Output>) {
        let is_new = self.token_is_new;
        self.drop_token(out);
        self.schedule.in_round = false;
        self.todo.clear();
        self.calls.restart();
        (self.schedule.shows_due, self.schedule.calls_due) = (Duration::ZERO, Duration::ZERO);
        if is_new {
            let why = "the token of a new login was refused".to_string();
            self.fail(why, Some(TOKEN_REFUSED_WAIT), now, out);
        }
    }

    /// This account may not ask for calls, or this VMS has no such list: the rest goes on.
    fn not_offered(&mut self, task: &Task, answer: &Answer, now: Now, out: &mut Vec<Output>) {
        let reason = format!("asked for {}, {}", name(task), refused(answer));
        complain(Some(Bad { reason, raw: answer.body.clone() }), out);
        self.works(out);
        match task {
            Task::Calls(_) => {
                self.calls.restart();
                self.schedule.calls_due = now.run.saturating_add(NOT_OFFERED_WAIT);
            }
            Task::List(_) | Task::Shows(_) => self.plan_shows(),
        }
    }

    fn list_answered(
        &mut self,
        page: u32,
        answer: &Answer,
        out: &mut Vec<Output>,
    ) -> Result<(), Bad> {
        let list = wire::intercoms(&answer.body)?;
        self.works(out);
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
        self.works(out);
        let whole = list.bad.is_none();
        complain(list.bad, out);
        let told = self.told(self.schedule.round_gap, now);
        let news = self.house.hear(ids, list.items, whole, &told);
        tell(news, out);
        self.round_step(now, out);
        Ok(())
    }

    /// One batch is done; the last one ends the round.
    fn round_step(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.todo.iter().any(|task| !matches!(task, Task::Calls(_))) {
            return;
        }
        self.schedule.in_round = false;
        if !self.schedule.round_whole {
            return;
        }
        self.schedule.shows_good = Some(now);
        let wanted = self.wanted();
        tell(self.house.round_ended(&wanted), out);
    }

    fn calls_answered(
        &mut self,
        page: u32,
        answer: &Answer,
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), Bad> {
        let list = wire::calls(&answer.body)?;
        self.works(out);
        complain(list.bad, out);
        let gap = is_gap(self.schedule.calls_good, self.schedule.poll_calls, now);
        let told = self.told(gap, now);
        let more = list.more && page < CALLS_PAGES_MAX;
        let named: &[u64] = &self.config.intercoms;
        let wanted = |id: u64| named.is_empty() || named.contains(&id);
        match self.calls.hear(list.items, more, wanted, &self.house, &told) {
            Page::More => self.todo.push_front(Task::Calls(page + 1)),
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
        let is_page = is_page(&bad.raw);
        let why = format!("asked for {}, {}", name(task), bad.reason);
        complain(Some(Bad { reason: why.clone(), raw: bad.raw }), out);
        match task {
            Task::Calls(_) => {
                self.calls.restart();
                self.schedule.calls_good = None;
            }
            Task::List(_) => {
                self.schedule.list_due = Duration::ZERO;
                self.schedule.round_whole = false;
                self.plan_shows();
            }
            Task::Shows(_) => {
                self.schedule.round_whole = false;
                self.schedule.shows_good = None;
                self.round_step(now, out);
            }
        }
        if is_page || self.up != Some(true) {
            self.fail(why, None, now, out);
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

fn tell(news: crate::systems::link::News, out: &mut Vec<Output>) {
    if !news.is_empty() {
        out.push(Output::Tell(news));
    }
}

fn complain(bad: Option<Bad>, out: &mut Vec<Output>) {
    if let Some(Bad { reason, raw }) = bad {
        out.push(Output::Bad { reason, raw });
    }
}
