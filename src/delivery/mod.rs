//! Delivery: every action that must reach a phone or a system, until it is settled. Each has its own
//! lane, so that one that hangs, throttles or refuses never delays another.
//!
//! * Every action taken ends in exactly one `Settled` record, or stays owed: what is unsettled at
//!   a stop is handed in again as [`Setup::owed`] after the restart (at least once, until its
//!   deadline).
//! * Commands to systems ([`commands`]) have a lane for each system, by the rules of [`orders`].
//! * Doors ([`doors`]) open at once or not at all, past every lane.
//! * The journal is not touched from here: outcomes go out through [`Setup::settle`].
//! * An idle lane costs its subscription and nothing else; there is one task for all lanes, and
//!   one for each attempt on its way.

pub mod attempt;
pub mod push;
pub mod lane;
pub mod desk;
pub mod orders;
pub mod commands;
pub mod doors;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::desk::{Answer, Desk};
use self::lane::Start;
use self::push::{Transport, Verdict};
use crate::action::{Action, PhoneId};
use crate::alert::AlertId;
use crate::clock::Clock;
use crate::record::{PhoneChange, Record, Subscription};

/// The longest sleep between two looks at the wall clock: it may be set, and a sleeping machine
/// does not count.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Takes the records that delivery makes. Must not block; called from delivery's own task.
pub type Settle = Box<dyn Fn(Vec<Record>) + Send + Sync>;

/// What delivery starts with.
pub struct Setup {
    /// Phones that can be pushed to.
    pub phones: Vec<(PhoneId, Subscription)>,
    /// Actions that were decided and not settled, oldest first.
    pub owed: Vec<Action>,
    /// Alerts that somebody has in hand: nothing of them is sent.
    pub held: Vec<AlertId>,
    /// Who calls the push services.
    pub push: Arc<dyn Transport>,
    /// The wall clock.
    pub clock: Clock,
    /// Where outcomes go.
    pub settle: Settle,
}

/// Delivery, as everybody else sees it. Clones speak to the same lanes; when the last one is
/// dropped, delivery stops at once, and what is unsettled stays owed.
#[derive(Clone)]
pub struct Handle(Arc<Guard>);

struct Guard {
    shared: Arc<Shared>,
    /// Ends the task without waiting for answers.
    abort: CancellationToken,
    /// The task has ended.
    ended: CancellationToken,
}

struct Shared {
    desk: Mutex<Desk>,
    /// Something changed at the desk.
    changed: Notify,
    clock: Clock,
}

/// Starts delivery; must be called within a Tokio runtime.
pub fn start(setup: Setup) -> Handle {
    let Setup { phones, owed, held, push, clock, settle } = setup;
    let mut desk = Desk::default();
    held.iter().for_each(|alert| desk.hold(*alert));
    let now = clock.now();
    for (id, subscription) in phones {
        desk.subscribe(&id, subscription, now);
    }
    desk.act(&owed, now);
    let shared = Arc::new(Shared { desk: Mutex::new(desk), changed: Notify::new(), clock });
    let (abort, ended) = (CancellationToken::new(), CancellationToken::new());
    let runner = Runner { shared: shared.clone(), push, settle, sends: JoinSet::new() };
    let (stop, done) = (abort.clone(), ended.clone().drop_guard());
    tokio::spawn(async move {
        stop.run_until_cancelled(runner.run()).await;
        drop(done);
    });
    Handle(Arc::new(Guard { shared, abort, ended }))
}

impl Handle {
    /// Takes decided actions; those that are not pushes are somebody else's and are ignored.
    /// Never waits: each lane has its own limit ([`lane::WAITING_MAX`]).
    pub fn act(&self, actions: Vec<Action>) {
        self.at_desk(|desk, now| desk.act(&actions, now));
    }

    /// From now on nothing of this alert leaves. What is held is ended by [`Handle::withdraw`].
    pub fn hold(&self, alert: AlertId) {
        self.at_desk(|desk, _| desk.hold(alert));
    }

    /// It was not acknowledged after all: what is held goes on.
    pub fn release(&self, alert: AlertId) {
        self.at_desk(|desk, now| desk.release(alert, now));
    }

    /// Ends all that this alert still wanted to tell.
    pub fn withdraw(&self, alert: AlertId, why: &str) {
        self.at_desk(|desk, now| desk.withdraw(alert, why, now));
    }

    /// Keeps subscriptions current.
    pub fn phone(&self, change: &PhoneChange) {
        self.at_desk(|desk, now| desk.phone(change, now));
    }

    /// Begins no further attempts, waits at most `grace` for those on their way, and stops.
    /// Returns how many actions stay owed: handed in again after the restart, they are sent then.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.at_desk(|desk, _| desk.close());
        let _ = tokio::time::timeout(grace, self.0.ended.cancelled()).await;
        self.0.abort.cancel();
        self.0.ended.cancelled().await;
        self.0.shared.desk().unsettled()
    }

    fn at_desk(&self, with: impl FnOnce(&mut Desk, Timestamp)) {
        let shared = &self.0.shared;
        with(&mut shared.desk(), shared.clock.now());
        shared.changed.notify_one();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.abort.cancel();
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one task behind all lanes.
struct Runner {
    shared: Arc<Shared>,
    push: Arc<dyn Transport>,
    settle: Settle,
    sends: JoinSet<Answer>,
}

impl Runner {
    async fn run(mut self) {
        loop {
            let now = self.shared.clock.now();
            let turn = self.shared.desk().turn(now);
            self.report(turn.records);
            turn.starts.into_iter().for_each(|start| self.send(start));
            if turn.closed && self.sends.is_empty() {
                return;
            }
            let sleep = turn.wake.map_or(LOOK_EVERY, |wake| until(wake, now).min(LOOK_EVERY));
            // Answers first: they free slots for what the other two bring.
            tokio::select! {
                biased;
                Some(answer) = self.sends.join_next() => self.take(answer),
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(sleep), if turn.wake.is_some() => {}
            }
        }
    }

    fn send(&mut self, start: Start) {
        let push = self.push.clone();
        self.sends.spawn(async move {
            let Start { to, request, number, cut } = start;
            let (action, phone) = (request.action, request.phone.clone());
            let attempt = AssertUnwindSafe(push.send(&to, request)).catch_unwind();
            let verdict = match cut.run_until_cancelled(attempt).await {
                Some(attempt) => {
                    attempt.unwrap_or_else(|_| Verdict::retry("the sender failed (a bug)"))
                }
                None => Verdict::retry("acknowledged meanwhile"),
            };
            log(&phone, &to.host(), number, &verdict);
            Answer { phone, action, verdict }
        });
    }

    fn take(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        // The task catches its own panics and is only cancelled together with this one.
        let Ok(answer) = answer else { return };
        let label = answer.verdict.label();
        metrics::counter!("portero_push_attempts_total", "answer" => label).increment(1);
        self.shared.desk().answered(answer, self.shared.clock.now());
    }

    fn report(&self, records: Vec<Record>) {
        for record in &records {
            if let Record::Settled(settled) = record {
                let outcome = settled.outcome.label();
                metrics::counter!("portero_push_total", "outcome" => outcome).increment(1);
            }
        }
        if !records.is_empty() {
            (self.settle)(records);
        }
    }
}

/// From `now` until `moment`; nothing if it has passed.
fn until(moment: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(moment.duration_since(now)).unwrap_or_default()
}

/// One line per attempt. Only the host: whoever knows the whole endpoint can use up its quota.
fn log(phone: &PhoneId, host: &str, attempt: u32, verdict: &Verdict) {
    match verdict {
        Verdict::Done => tracing::debug!(%phone, host, attempt, "push taken"),
        Verdict::TooBig => tracing::warn!(%phone, host, attempt, "push too big, shortened"),
        Verdict::Retry { why, .. } => tracing::warn!(%phone, host, attempt, why, "push not taken"),
        Verdict::Gone { why } => tracing::warn!(%phone, host, attempt, why, "subscription ended"),
        Verdict::Refused { why } => tracing::error!(%phone, host, attempt, why, "push refused"),
    }
}

#[cfg(test)]
mod tests;
