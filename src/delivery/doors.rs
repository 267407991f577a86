//! Doors, opened: from a durable decision to the driver of the system, at most once, and what
//! became of it. Whether a door may open is [`crate::doors::admit`]'s to say, and it is asked here
//! once more, right before the command leaves. A door waits for nothing: neither for other
//! commands to its system nor for a connection. Nothing is ever sent a second time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::action::{Action, ActionId, Outcome};
use crate::clock::{Clock, Doubt};
use crate::door::{Door, Doors as House, Opening};
use crate::doors::admit::{At, Memory, Why, admit};
use crate::doors::tell::{self, Step, opening};
use crate::event::Event;
use crate::record::{Becomes, Decided, Known, Position, Record, Settled};
use crate::systems::link::{Order, Reply};

/// A driver that says nothing about an order for so long has lost it. Longer than its own timeouts
/// for one request, log-in included.
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// How long the driver's answer is still waited for when the door has said itself that it opened.
const LATE_REPLY_WITHIN: Duration = Duration::from_secs(2);
/// A relay says that it opened within moments, if it says so at all.
const READ_BACK_WITHIN: Duration = Duration::from_secs(5);
/// After a restart its system has to be connected and asked first.
const LOOK_BACK_WITHIN: Duration = Duration::from_secs(15);
/// What was commanded longer ago than this is history; no relay stays open for so long.
const LOOK_BACK_FOR: Duration = Duration::from_secs(60);
/// A door that reports open this long after a command of ours does so because of it.
const OURS_WITHIN: Duration = Duration::from_secs(10);

/// Takes what is to be journalled: an event, and before a restart may forget it, how an action
/// ended. Must not block.
pub type Report = Box<dyn Fn(Event, Option<Settled>) + Send + Sync>;

/// What doors start with.
pub struct Setup {
    /// The doors of the config.
    pub doors: Arc<House>,
    /// Each system's driver.
    pub drivers: HashMap<String, mpsc::Sender<Order>>,
    /// Decided and not settled before the start.
    pub owed: Vec<Action>,
    /// Commanded in an earlier run, and when; their doors have not said that they opened.
    pub commanded: Vec<(Action, Timestamp)>,
    /// When each door opened in earlier runs, oldest first.
    pub opened: BTreeMap<String, VecDeque<Timestamp>>,
    /// Where the journal ended at the start: what was seen before it opens nothing.
    pub since: Position,
    /// Both clocks.
    pub clock: Clock,
    /// Where events and outcomes go.
    pub report: Report,
}

/// How an opening ended, for whoever waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The last step.
    pub step: Step,
    /// Why, if it is not simply open.
    pub why: String,
}

/// Doors, as everybody else sees them. Cheap to clone.
#[derive(Clone)]
pub struct Doors(Arc<Shared>);

struct Shared {
    house: Arc<House>,
    drivers: HashMap<String, mpsc::Sender<Order>>,
    since: Position,
    clock: Clock,
    report: Report,
    /// Doors by the path of the state that says whether they are open.
    paths: HashMap<String, String>,
    /// Short lock, never held across an await.
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, Lane>,
    /// Who waits for an answer.
    asked: HashMap<ActionId, oneshot::Sender<Ended>>,
    closed: bool,
}

/// One door.
#[derive(Default)]
struct Lane {
    memory: Memory,
    /// When it was last told to open, by the clock that nobody sets.
    last: Option<Duration>,
    /// The last command's moment, and where its door's own signal is awaited.
    pulse: Option<(Timestamp, watch::Sender<bool>)>,
}

/// A command that left, or is about to.
struct Pulse {
    action: Action,
    wish: Opening,
    door: Door,
    reply: oneshot::Receiver<Reply>,
    signal: watch::Receiver<bool>,
}

// === impl Doors ===

impl Doors {
    /// Starts. What was decided before and has no outcome may have opened or not: that is said,
    /// and it is never sent again.
    pub fn start(setup: Setup) -> Doors {
        let Setup { doors, drivers, owed, commanded, mut opened, since, clock, report } = setup;
        let (now, steady) = (clock.now(), clock.steady());
        for wish in owed.iter().filter_map(opening) {
            opened.entry(wish.door.clone()).or_default().push_back(now);
        }
        let lane = |(door, opened): (String, VecDeque<Timestamp>)| {
            let is_ours = |at: &Timestamp| now.duration_since(*at) < signed(OURS_WITHIN);
            let last = opened.back().filter(|at| is_ours(at)).map(|_| steady);
            let memory = Memory::restore(opened, now, steady);
            (door, Lane { memory, last, pulse: None })
        };
        let lanes = opened.into_iter().map(lane).collect();
        let path = |door: &Door| Some((door.state_path()?, door.name.clone()));
        let paths = doors.all.values().filter_map(path).collect();
        let shared = Shared {
            house: doors,
            drivers,
            since,
            clock,
            report,
            paths,
            state: Mutex::new(State { lanes, ..State::default() }),
            tasks: Mutex::default(),
        };
        let doors = Doors(Arc::new(shared));
        for action in owed {
            if let Some(wish) = opening(&action).cloned() {
                let since_receipt = wish.received;
                let why = "Portero was stopped before the answer came".to_string();
                doors.0.tell(&action, &wish, Step::Unknown, Some(Outcome::Unknown { why }));
                doors.look_back(action, wish, Step::Unknown, since_receipt);
            }
        }
        for (action, at) in commanded {
            let is_young = now.duration_since(at) < signed(LOOK_BACK_FOR);
            if let Some(wish) = opening(&action).filter(|_| is_young).cloned() {
                doors.look_back(action, wish, Step::Commanded, at);
            }
        }
        doors
    }

    /// A door that was told to open in an earlier run may still say that it did.
    fn look_back(&self, action: Action, wish: Opening, step: Step, sent: Timestamp) {
        let Some(door) = self.0.house.get(&wish.door).filter(|door| door.state_path().is_some())
        else {
            return;
        };
        let (heard, signal) = watch::channel(false);
        self.0.state().lanes.entry(door.name.clone()).or_default().pulse = Some((sent, heard));
        let shared = self.0.clone();
        lock(&self.0.tasks).spawn(async move {
            shared.read_back(&action, &wish, (step, ""), signal, LOOK_BACK_WITHIN).await;
        });
    }

    /// The doors of the config.
    pub fn house(&self) -> &House {
        &self.0.house
    }

    /// Opens what a durable decision opens.
    pub fn act(&self, decided: &Decided) {
        for action in &decided.actions {
            if let Some(wish) = opening(action) {
                // What came before the start has waited nobody knows how long.
                let known_age = decided.seen >= self.0.since;
                self.open(action, wish, known_age);
            }
        }
    }

    /// Refuses what a decision opens that is not durable: after a crash nobody would know of it.
    pub fn act_unjournaled(&self, decided: &Decided) {
        for action in &decided.actions {
            if let Some(wish) = opening(action) {
                self.0.refuse(action, wish, &Why::NoJournal);
            }
        }
    }

    /// Says who waits for an opening that is about to be decided.
    pub fn expect(&self, action: ActionId) -> oneshot::Receiver<Ended> {
        let (answer, receiver) = oneshot::channel();
        self.0.state().asked.insert(action, answer);
        receiver
    }

    /// Nobody waits for it any more.
    pub fn forget(&self, action: ActionId) {
        self.0.state().asked.remove(&action);
    }

    /// Looks at a durable record: a door that says it is open confirms a command of ours, or was
    /// opened by somebody else.
    pub fn observe(&self, record: &Record) {
        if self.0.paths.is_empty() {
            return;
        }
        match record {
            Record::Known(known) => self.0.known(known),
            Record::Seen(event) => self.0.signal(event),
            _ => {}
        }
    }

    /// Opens nothing more, and waits at most `grace` for answers. What has none by then stays
    /// owed, and is said to be unknown at the next start.
    pub async fn close(&self, grace: Duration) {
        self.0.state().closed = true;
        let mut tasks = std::mem::take(&mut *lock(&self.0.tasks));
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(grace, all).await;
    }

    fn open(&self, action: &Action, wish: &Opening, known_age: bool) {
        match self.0.admit(action, wish, known_age) {
            Err(why) => self.0.refuse(action, wish, &why),
            Ok(pulse) => {
                let shared = self.0.clone();
                let mut tasks = lock(&self.0.tasks);
                while tasks.try_join_next().is_some() {}
                tasks.spawn(shared.follow(pulse));
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The check and the sending are one step: nothing comes between them.
    fn admit(&self, action: &Action, wish: &Opening, known_age: bool) -> Result<Pulse, Why> {
        let door = self.house.get(&wish.door).ok_or(Why::NoDoor)?;
        let mut state = self.state();
        if state.closed {
            return Err(Why::Stopping);
        }
        let age = if known_age { self.clock.age(wish.received) } else { Err(Doubt::Before) };
        let (now, steady) = (self.clock.now(), self.clock.steady());
        let lane = state.lanes.entry(wish.door.clone()).or_default();
        let left = admit(door, wish, &At { now, steady, age }, &lane.memory)?;
        let (reply, answer) = oneshot::channel();
        let order = Order {
            id: action.id,
            command: door.command(wish.for_ms, wish.trust),
            secrets: Map::new(),
            deadline: now + left,
            reply,
        };
        lane.memory.sent(door, steady);
        lane.last = Some(steady);
        let (heard, signal) = watch::channel(false);
        lane.pulse = Some((now, heard));
        tracing::info!(door = wish.door, rule = action.rule, "a door is told to open");
        self.send(door, order);
        let (action, wish) = (action.clone(), wish.clone());
        Ok(Pulse { action, wish, door: door.clone(), reply: answer, signal })
    }

    fn send(&self, door: &Door, order: Order) {
        let unsent = |order: Order, why: &str| {
            // The receiver is ours and waits.
            let _ = order.reply.send(Reply::Unsent(why.into()));
        };
        match self.drivers.get(&door.system()) {
            None => unsent(order, "the config has no such system any more"),
            Some(driver) => {
                if let Err(error) = driver.try_send(order) {
                    unsent(error.into_inner(), "its driver is busy or has ended");
                }
            }
        }
    }

    /// Waits for the answer, then for the door's own word.
    async fn follow(self: Arc<Self>, pulse: Pulse) {
        let Pulse { action, wish, door, reply, mut signal } = pulse;
        let reply = answered(reply, &mut signal).await;
        if let Some(lane) = self.state().lanes.get_mut(&wish.door) {
            lane.memory.ended();
            if matches!(reply, Reply::Refused(_) | Reply::Unsent(_) | Reply::Later { .. }) {
                lane.last = None;
            }
        }
        let (step, outcome) = match reply {
            Reply::Done(_) => (Step::Commanded, Outcome::Done),
            Reply::Refused(why) => (Step::Refused, Outcome::Refused { why }),
            Reply::Unknown(why) => (Step::Unknown, Outcome::Unknown { why }),
            Reply::Unsent(why) | Reply::Later { why, .. } => {
                (Step::Refused, Outcome::Refused { why: format!("it was not sent: {why}") })
            }
        };
        let can_confirm =
            matches!(step, Step::Commanded | Step::Unknown) && door.state_path().is_some();
        if !can_confirm {
            self.end(&action, &wish, step, outcome);
            return;
        }
        let why = outcome.why().to_string();
        self.tell(&action, &wish, step, Some(outcome));
        self.read_back(&action, &wish, (step, &why), signal, READ_BACK_WITHIN).await;
    }

    /// Waits for the door's own word after `step`, which had this reason.
    async fn read_back(
        &self,
        action: &Action,
        wish: &Opening,
        (step, why): (Step, &str),
        mut signal: watch::Receiver<bool>,
        within: Duration,
    ) {
        let heard = tokio::time::timeout(within, signal.wait_for(|open| *open)).await;
        if matches!(heard, Ok(Ok(_))) {
            self.tell(action, wish, Step::Confirmed, None);
            self.answer(action, Step::Confirmed, String::new());
        } else if step == Step::Commanded {
            let why = "the door's own signal did not come";
            self.tell_why(action, wish, Step::Unconfirmed, why, None);
            self.answer(action, Step::Unconfirmed, why.into());
        } else {
            self.answer(action, step, why.into());
        }
    }

    fn refuse(&self, action: &Action, wish: &Opening, why: &Why) {
        tracing::warn!(door = wish.door, rule = action.rule, %why, "a door stays shut");
        let refused = why.word();
        metrics::counter!("portero_doors_refused_total", "why" => refused).increment(1);
        self.end(action, wish, Step::Refused, Outcome::Refused { why: why.to_string() });
    }

    /// The last step: told, settled and answered.
    fn end(&self, action: &Action, wish: &Opening, step: Step, outcome: Outcome) {
        let why = outcome.why().to_string();
        self.tell(action, wish, step, Some(outcome));
        self.answer(action, step, why);
    }

    fn tell(&self, action: &Action, wish: &Opening, step: Step, outcome: Option<Outcome>) {
        let why = outcome.as_ref().map_or("", Outcome::why).to_string();
        self.tell_why(action, wish, step, &why, outcome);
    }

    fn tell_why(
        &self,
        action: &Action,
        wish: &Opening,
        step: Step,
        why: &str,
        outcome: Option<Outcome>,
    ) {
        // Names of doors come from the config: there are few.
        let (door, word) = (wish.door.clone(), step.word());
        metrics::counter!("portero_doors_total", "door" => door, "outcome" => word).increment(1);
        let now = self.clock.now();
        let since = self.clock.age(wish.received).ok();
        let event = tell::step(step, action, wish, why, since, now);
        let settled = outcome.map(|outcome| {
            let sent = !matches!(outcome, Outcome::Refused { .. });
            Settled::new(action.id, outcome, u32::from(sent), now)
        });
        (self.report)(event, settled);
    }

    fn answer(&self, action: &Action, step: Step, why: String) {
        if let Some(asked) = self.state().asked.remove(&action.id) {
            // The asker may have gone.
            let _ = asked.send(Ended { step, why });
        }
    }

    fn known(&self, known: &Known) {
        for change in &known.changes {
            let Some(door) = self.paths.get(&change.path).filter(|_| is_open(&change.to)) else {
                continue;
            };
            let state = self.state();
            let pulse = state.lanes.get(door).and_then(|lane| lane.pulse.as_ref());
            if let Some((_, heard)) = pulse.filter(|(sent, _)| known.at >= *sent) {
                heard.send_replace(true);
            }
        }
    }

    fn signal(&self, event: &Event) {
        if event.kind != "fibaro.relay" || event.data.get("open") != Some(&Value::Bool(true)) {
            return;
        }
        let Some(relay) = event.subject.as_deref() else { return };
        let Some(door) = self.paths.get(&format!("{}/relay/{relay}", event.source)) else { return };
        let now = self.clock.steady();
        let last = self.state().lanes.get(door).and_then(|lane| lane.last);
        if last.is_some_and(|last| now.saturating_sub(last) < OURS_WITHIN) {
            return;
        }
        (self.report)(tell::opened_elsewhere(door, event, self.clock.now()), None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The driver's word. A door that has said itself that it opened needs none.
async fn answered(
    mut reply: oneshot::Receiver<Reply>,
    signal: &mut watch::Receiver<bool>,
) -> Reply {
    let opened = async {
        if signal.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let said = tokio::select! { biased;
        said = &mut reply => Some(said),
        () = opened => tokio::time::timeout(LATE_REPLY_WITHIN, reply).await.ok(),
        () = tokio::time::sleep(REPLY_WITHIN) => return Reply::Unknown("its driver says nothing".into()),
    };
    let opened = *signal.borrow();
    match said {
        Some(Ok(Reply::Unknown(_)) | Err(_)) | None if opened => Reply::Done(Value::Null),
        Some(Ok(reply)) => reply,
        Some(Err(_)) | None => Reply::Unknown("its driver lost it".into()),
    }
}

fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

fn is_open(to: &Becomes) -> bool {
    let open = match to {
        Becomes::Is(value) => value.get("open"),
        Becomes::Fields { set, .. } => set.get("open"),
        Becomes::SameAs(_) | Becomes::Gone => None,
    };
    open == Some(&Value::Bool(true))
}

/// A panic while holding one of these locks leaves plain collections behind that are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
