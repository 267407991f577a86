//! Commands to systems, from durable decisions to the drivers and back into the journal: one task
//! for each system, so that none waits for another. When to send is [`super::orders`]' to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::orders::{Queue, Turn};
use super::{LOOK_EVERY, Settle, until};
use crate::action::{Action, ActionId, Outcome, Task};
use crate::alert::AlertId;
use crate::clock::Clock;
use crate::command::Repeat;
use crate::record::{Record, Settled};
use crate::systems::link::{Order, Reply};

/// A driver that says nothing about an order for so long has lost it. Longer than any of their
/// own timeouts together.
const REPLY_WITHIN: Duration = Duration::from_secs(45);

/// Commands, as everybody else sees them. Cheap to clone.
#[derive(Clone)]
pub struct Commands(Arc<Shared>);

struct Shared {
    systems: HashMap<String, mpsc::UnboundedSender<Action>>,
    /// Alerts that somebody has in hand, and who.
    held: Mutex<HashMap<AlertId, Option<String>>>,
    /// Who waits for an answer, and secrets that only memory holds.
    asked: Mutex<HashMap<ActionId, Asked>>,
    clock: Clock,
    settle: Settle,
    withdrawn: Notify,
    closing: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
}

struct Asked {
    secrets: Map<String, Value>,
    answer: oneshot::Sender<(Outcome, Value)>,
}

/// What commands start with.
pub struct Setup {
    /// Each system's driver.
    pub drivers: HashMap<String, mpsc::Sender<Order>>,
    /// Decided and not settled before the start.
    pub owed: Vec<Action>,
    /// Alerts that somebody has in hand: nothing of them is sent.
    pub held: Vec<AlertId>,
    /// The wall clock.
    pub clock: Clock,
    /// Where outcomes go.
    pub settle: Settle,
}

// === impl Commands ===

impl Commands {
    /// Starts a task for each system; must be called within a Tokio runtime.
    pub fn start(setup: Setup) -> Commands {
        let Setup { drivers, owed, held, clock, settle } = setup;
        let mut systems = HashMap::new();
        let mut inboxes = Vec::new();
        for (source, driver) in drivers {
            let (sender, inbox) = mpsc::unbounded_channel();
            systems.insert(source.clone(), sender);
            inboxes.push((source, driver, inbox));
        }
        let commands = Commands(Arc::new(Shared {
            systems,
            held: Mutex::new(held.into_iter().map(|alert| (alert, None)).collect()),
            asked: Mutex::default(),
            clock,
            settle,
            withdrawn: Notify::new(),
            closing: CancellationToken::new(),
            tasks: Mutex::default(),
        }));
        let mut owed_by_source: HashMap<String, Vec<Action>> = HashMap::new();
        for action in owed {
            match &action.task {
                Task::Command(command) if commands.0.systems.contains_key(&command.to) => {
                    owed_by_source.entry(command.to.clone()).or_default().push(action);
                }
                Task::Command(_) => commands.no_such_system(&action),
                Task::Push { .. } | Task::Emit(_) | Task::Open(_) => {}
            }
        }
        for (source, driver, inbox) in inboxes {
            let owed = owed_by_source.remove(&source).unwrap_or_default();
            let lane = Lane { shared: commands.0.clone(), driver, queue: Queue::default() };
            lock(&commands.0.tasks).spawn(lane.run(owed, inbox));
        }
        commands
    }

    /// Carries out durable commands.
    pub fn act(&self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            let Task::Command(command) = &action.task else { continue };
            let Some(system) = self.0.systems.get(&command.to) else {
                self.no_such_system(&action);
                continue;
            };
            if let Err(mpsc::error::SendError(action)) = system.send(action) {
                // Portero stops. What may be sent only once ends here, the rest is owed.
                let now = self.0.clock.now();
                let mut closed = Queue::default();
                closed.close(now);
                if let Some(settled) = closed.push(action, now) {
                    self.0.end(settled, Value::Null);
                }
            }
        }
    }

    /// Carries out commands whose decision could not be written: those that a repetition cannot
    /// harm, and no others.
    pub fn act_unjournaled(&self, actions: impl IntoIterator<Item = Action>) {
        let (safe, unsafe_): (Vec<_>, Vec<_>) = actions
            .into_iter()
            .partition(|a| !matches!(&a.task, Task::Command(c) if c.repeat == Repeat::Never));
        for action in unsafe_ {
            let why = "the journal cannot be written; it is done at most once or not at all";
            tracing::error!(rule = action.rule, why, "a command is refused");
            let outcome = Outcome::Refused { why: why.into() };
            self.0.end(settled(&action, outcome, self.0.clock.now()), Value::Null);
        }
        self.act(safe);
    }

    /// Says who waits for a command that is about to be decided, and what only memory may hold of
    /// it.
    pub fn expect(
        &self,
        action: ActionId,
        secrets: Map<String, Value>,
    ) -> oneshot::Receiver<(Outcome, Value)> {
        let (answer, receiver) = oneshot::channel();
        lock(&self.0.asked).insert(action, Asked { secrets, answer });
        receiver
    }

    /// From now on nothing of this alert is sent. What is held is ended by
    /// [`Commands::withdraw`].
    pub fn hold(&self, alert: AlertId) {
        lock(&self.0.held).entry(alert).or_default();
    }

    /// It was not acknowledged after all: what is held goes on, unless it has ended meanwhile.
    pub fn release(&self, alert: AlertId) {
        let mut held = lock(&self.0.held);
        if held.get(&alert) == Some(&None) {
            held.remove(&alert);
        }
    }

    /// Ends all that this alert still wanted to tell.
    pub fn withdraw(&self, alert: AlertId, why: &str) {
        lock(&self.0.held).insert(alert, Some(why.to_owned()));
        self.0.withdrawn.notify_waiters();
    }

    /// Nobody waits for it any more.
    pub fn forget(&self, action: ActionId) {
        lock(&self.0.asked).remove(&action);
    }

    /// Sends nothing more and waits at most `grace` for what is on its way.
    pub async fn close(&self, grace: Duration) {
        self.0.closing.cancel();
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(grace, all).await;
    }

    fn no_such_system(&self, action: &Action) {
        let outcome = Outcome::Refused { why: "the config has no such system any more".into() };
        self.0.end(settled(action, outcome, self.0.clock.now()), Value::Null);
    }
}

impl Shared {
    fn end(&self, settled: Settled, value: Value) {
        let outcome = settled.outcome.label();
        metrics::counter!("portero_commands_total", "outcome" => outcome).increment(1);
        if let Some(asked) = lock(&self.asked).remove(&settled.action) {
            // The asker may have gone.
            let _ = asked.answer.send((settled.outcome.clone(), value));
        }
        (self.settle)(vec![Record::Settled(settled)]);
    }

    fn secrets(&self, action: &ActionId) -> Map<String, Value> {
        lock(&self.asked).get(action).map(|asked| asked.secrets.clone()).unwrap_or_default()
    }
}

fn settled(action: &Action, outcome: Outcome, at: jiff::Timestamp) -> Settled {
    Settled::new(action.id, outcome, 0, at)
}

/// One system's commands.
struct Lane {
    shared: Arc<Shared>,
    driver: mpsc::Sender<Order>,
    queue: Queue,
}

impl Lane {
    async fn run(mut self, owed: Vec<Action>, mut inbox: mpsc::UnboundedReceiver<Action>) {
        let now = self.shared.clock.now();
        let ended: Vec<Settled> =
            owed.into_iter().filter_map(|action| self.queue.push_owed(action, now)).collect();
        ended.into_iter().for_each(|settled| self.shared.end(settled, Value::Null));
        let mut replies = JoinSet::new();
        loop {
            let now = self.shared.clock.now();
            self.withdraw(now);
            let (ended, turn) = self.queue.turn(now);
            ended.into_iter().for_each(|settled| self.shared.end(settled, Value::Null));
            let sleep = match turn {
                Turn::Send(action) if self.is_held(&action) => continue,
                Turn::Send(action) => {
                    let (id, reply) = (action.id, self.send(*action));
                    replies.spawn(async move { (id, answer(reply).await) });
                    continue;
                }
                Turn::Wait(wake) => until(wake, now).min(LOOK_EVERY),
                Turn::Idle => LOOK_EVERY,
            };
            let closed = self.shared.closing.is_cancelled();
            if closed && !self.queue.is_busy() {
                return self.leave(inbox);
            }
            tokio::select! {
                biased;
                Some(Ok((id, reply))) = replies.join_next() => self.answered(id, reply),
                () = self.shared.closing.cancelled(), if !closed => self.close(),
                Some(action) = inbox.recv() => {
                    if let Some(settled) = self.queue.push(action, self.shared.clock.now()) {
                        self.shared.end(settled, Value::Null);
                    }
                }
                () = self.shared.withdrawn.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn answered(&mut self, action: ActionId, reply: Reply) {
        let ended = self.queue.answered(action, reply, self.shared.clock.now());
        if let Some((settled, value)) = ended {
            self.shared.end(settled, value);
        }
    }

    /// Ends what waits for alerts that somebody has in hand.
    fn withdraw(&mut self, now: Timestamp) {
        let gone: Vec<(AlertId, String)> = lock(&self.shared.held)
            .iter()
            .filter_map(|(alert, why)| Some((*alert, why.clone()?)))
            .collect();
        for (alert, why) in gone {
            let ended = self.queue.withdraw(alert, &why, now);
            ended.into_iter().for_each(|settled| self.shared.end(settled, Value::Null));
        }
    }

    /// Whether the command that is about to leave must not: somebody has its alert in hand.
    fn is_held(&mut self, action: &Action) -> bool {
        let held = action.alert.and_then(|alert| lock(&self.shared.held).get(&alert).cloned());
        let now = self.shared.clock.now();
        match held {
            None => return false,
            Some(Some(why)) => {
                if let Some(settled) = self.queue.stopped(action.id, &why, now) {
                    self.shared.end(settled, Value::Null);
                }
            }
            Some(None) => {
                let waits = Reply::Unsent("somebody is acknowledging the alert".into());
                self.answered(action.id, waits);
            }
        }
        true
    }

    fn close(&mut self) {
        let ended = self.queue.close(self.shared.clock.now());
        ended.into_iter().for_each(|settled| self.shared.end(settled, Value::Null));
    }

    /// Nothing is on its way; what still waits for its turn has none.
    fn leave(mut self, mut inbox: mpsc::UnboundedReceiver<Action>) {
        inbox.close();
        self.close();
        while let Ok(action) = inbox.try_recv() {
            if let Some(settled) = self.queue.push(action, self.shared.clock.now()) {
                self.shared.end(settled, Value::Null);
            }
        }
    }

    fn send(&self, action: Action) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        let Task::Command(command) = action.task else { return receiver };
        tracing::debug!(to = command.to, call = command.call, "a command leaves");
        let order = Order {
            id: action.id,
            command: *command,
            secrets: self.shared.secrets(&action.id),
            deadline: action.deadline,
            reply: sender,
        };
        if let Err(error) = self.driver.try_send(order) {
            let order = error.into_inner();
            let _ = order.reply.send(Reply::Unsent("its driver is busy or has ended".into()));
        }
        receiver
    }
}

/// What the driver says of an order; it must never take longer than [`REPLY_WITHIN`].
async fn answer(reply: oneshot::Receiver<Reply>) -> Reply {
    match tokio::time::timeout(REPLY_WITHIN, reply).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) => Reply::Unknown("its driver lost it".into()),
        Err(_) => Reply::Unknown("its driver says nothing".into()),
    }
}

/// A panic while holding one of these locks leaves plain collections behind that are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
