//! The one task that decides. It reads the journal's durable batches in order, asks the rules
//! about every event, writes what they decided back as one record, and hands durable decisions to
//! delivery. It owns the ledger; everybody else sees a [`View`] of it.

mod backlog;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use backlog::Backlog;
use backlog::Work;
pub use view::View;

use crate::action::{Action, ActionId, Outcome, Task};
use crate::alert::AlertId;
use crate::builtin;
use crate::clock::Clock;
use crate::delivery;
use crate::delivery::commands::Commands;
use crate::delivery::doors::Doors;
use crate::doors;
use crate::event::Event;
use crate::event::Heard;
use crate::intake::{Direct, Intake};
use crate::journal::{AppendError, Entry, Journal};
use crate::ledger::Ledger;
use crate::phones::{Ask, Denied, plan};
use crate::record::{Class, Decided, KnownChange, Position, Receipt, Record, Settled};
use crate::rules::RuleSet;
use crate::telemetry;
use crate::timer::{GONE_EVENT, SCHEDULE_SET_EVENT, Timer};
use crate::waits::Waits;

/// Events decided, or decisions acted upon, before the router looks whether something more urgent
/// has come: a few milliseconds' work.
const WORK_MAX: usize = 64;
/// Decisions in one append: bounds what one torn write can cost and what one batch holds.
const RECORDS_PER_APPEND_MAX: usize = 512;

/// Everything the router may be asked.
pub enum Message {
    /// Change the list of phones; answered when durable.
    Phone(Ask, oneshot::Sender<Result<(), Denied>>),
    /// A phone reported what became of a notification; answered when durable.
    Receipt(Receipt, oneshot::Sender<Result<(), Denied>>),
    /// Decide by these rules from now on.
    Rules(Arc<RuleSet>),
    /// Somebody acknowledges: which alerts that is. Nothing of them leaves from now on.
    Ack(Ack, oneshot::Sender<Vec<AlertId>>),
    /// It was not taken in: these alerts go on.
    Unack(Vec<AlertId>),
    /// Write a checkpoint; answered with the position that it covers when it is durable.
    Checkpoint(oneshot::Sender<Option<Position>>),
    /// Decide what is durable by now, then answer and stop.
    Drain(oneshot::Sender<()>),
}

/// What somebody acknowledges.
#[derive(Debug, Clone, Copy)]
pub enum Ack {
    /// Everything that is open.
    All,
    /// This alert.
    Alert(AlertId),
    /// The alert that this notification belongs to.
    Told(ActionId),
}

/// What the router is made of; `app` fills it.
pub struct Router {
    /// The fold so far: all durable records are in it.
    pub ledger: Ledger,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// Where decisions go.
    pub journal: Journal,
    /// Where durable actions go.
    pub delivery: delivery::Handle,
    /// Where commands to systems go.
    pub commands: Commands,
    /// Where openings go.
    pub doors: Doors,
    /// Where events that never reached the journal's index are counted off.
    pub intake: Intake,
    /// Stamps decisions.
    pub clock: Clock,
    /// Shows the ledger to others.
    pub view: watch::Sender<Arc<View>>,
    /// The end of what has been folded in.
    pub applied: Position,
    /// What is to be done; starts empty.
    pub backlog: Backlog,
}

/// Where the router's work comes from.
pub struct Inbox {
    /// Durable batches.
    pub entries: mpsc::UnboundedReceiver<Arc<[Entry]>>,
    /// Events that the journal could not take.
    pub direct: mpsc::Receiver<Direct>,
    /// Questions and changes.
    pub messages: mpsc::Receiver<Message>,
}

// === impl Router ===

impl Router {
    /// Decides what waits from before the start, then runs until drained.
    pub async fn run(mut self, undecided: Vec<(Position, Arc<Event>)>, mut inbox: Inbox) {
        self.intake.accepted(undecided.len());
        for (position, event) in undecided {
            let is_urgent = self.rules.is_about_alarm(&event);
            self.backlog.decide(position, event, is_urgent);
        }
        self.show();
        let mut is_begun = false;
        let mut waits = Waits::after_start(&self.ledger, Instant::now());
        loop {
            // What was heard before the start may have set what the rules wait for.
            if !is_begun && self.backlog.is_empty() {
                self.rules_in_force("start");
                is_begun = true;
            }
            let sleep = waits.sleep(&self.ledger, self.clock.now(), Instant::now());
            // Messages first: they are few, and a flood of events must not shut people out.
            tokio::select! { biased;
                Some(message) = inbox.messages.recv() => {
                    if let Some(drained) = self.message(message) {
                        self.drain(&mut inbox).await;
                        let _ = drained.send(());
                        return;
                    }
                }
                Some(direct) = inbox.direct.recv() => self.unjournaled(&direct),
                Some(batch) = inbox.entries.recv() => self.batch(&batch),
                () = tokio::time::sleep(sleep) => {
                    let due = waits.due(&self.ledger, self.clock.now(), Instant::now());
                    self.take_own(due);
                }
                // Little at a time: what comes meanwhile may be more urgent.
                () = tokio::task::yield_now(), if !self.backlog.is_empty() => self.work(),
                else => return,
            }
        }
    }

    /// Folds a durable batch in, and takes notice of what is to be done about it.
    fn batch(&mut self, batch: &[Entry]) {
        let mut changed = false;
        for entry in batch {
            self.doors.observe(&entry.record);
            match &entry.record {
                Record::Seen(event) => {
                    changed |= self.ledger.seen(event);
                    let is_urgent = self.rules.is_about_alarm(event);
                    self.backlog.decide(entry.position, event.clone(), is_urgent);
                }
                Record::Decided(decided) => {
                    self.backlog.act(decided.clone());
                    changed |= !decided.alerts.is_empty() || !decided.acked.is_empty();
                    changed |= !decided.resent.is_empty() || decided.has_letters();
                }
                Record::Phone(change) => {
                    self.ledger.apply(&entry.record);
                    self.delivery.phone(change);
                    changed = true;
                }
                other => {
                    self.ledger.apply(other);
                    changed |= match other {
                        Record::Settled(_) | Record::Receipt(_) => true,
                        Record::Known(known) => known.changes.iter().any(is_link),
                        _ => false,
                    };
                }
            }
            self.applied = entry.next;
        }
        if changed {
            self.show();
        }
    }

    /// Does some of what waits; what it decides is written back as soon as possible.
    fn work(&mut self) {
        let mut records = Vec::new();
        let mut seen = 0;
        for _ in 0..WORK_MAX {
            match self.backlog.pop() {
                Some(Work::Decide(position, event, is_ahead)) => {
                    seen += 1;
                    self.decide(position, &event, is_ahead, &mut records);
                }
                Some(Work::Act(decided)) => self.act(&decided),
                None => break,
            }
        }
        self.write(records);
        if seen > 0 {
            self.intake.decided(seen);
        }
    }

    /// Asks the rules about one event, unless that was done before the last stop.
    fn decide(
        &mut self,
        position: Position,
        event: &Arc<Event>,
        is_ahead: bool,
        records: &mut Vec<Record>,
    ) {
        if !self.ledger.awaits_decision(position) {
            return;
        }
        let decided = self.ask_rules(position, event);
        let decided = Arc::new(Decided { ahead: is_ahead, ..decided });
        telemetry::decided(&decided);
        // From here on nothing of them leaves; they end when this is durable.
        decided.acked.iter().for_each(|acked| self.hold(acked.alert));
        let record = Record::Decided(decided.clone());
        self.ledger.apply(&record);
        records.push(record);
        for action in &decided.actions {
            if let Task::Emit(event) = &action.task {
                self.intake.accepted(1);
                records.push(Record::Seen(Arc::new((**event).clone())));
                records.push(Record::Settled(Settled::new(
                    action.id,
                    Outcome::Delivered,
                    1,
                    decided.at,
                )));
            }
        }
    }

    fn ask_rules(&self, position: Position, event: &Arc<Event>) -> Decided {
        let now = self.clock.now();
        if let Some(decided) = builtin::decide(event, position, now) {
            return decided;
        }
        let (memory, house) = (&self.ledger.memory, self.rules.house());
        let mut decided = self.rules.decide(event, position, memory, now);
        doors::announce(event, &mut decided, &house.doors, memory, now);
        decided
    }

    /// Rules came into force: waits of those that are no more end, and what the new ones wait for
    /// begins. In this order: together they are one append.
    fn rules_in_force(&self, version: &str) {
        let rules = self.rules.clone();
        self.journal.set_judge(move |records| rules.class(records));
        let unique = format!("{version} {}", self.clock.now());
        let own = [self.end_gone(&unique), self.set_schedules(&unique)];
        self.take_own(own.into_iter().flatten().collect());
    }

    /// Waits of rules that are no more, or say something else now, end; and that is said.
    fn end_gone(&self, unique: &str) -> Option<Event> {
        let timers = self.ledger.memory.timers().iter();
        let is_gone = |timer: &&Timer| self.rules.stamp(&timer.rule) != Some(&*timer.stamp);
        let gone: Vec<&Timer> = timers.filter(is_gone).collect();
        if gone.is_empty() {
            return None;
        }
        let rules: BTreeSet<&str> = gone.iter().map(|timer| timer.rule.as_str()).collect();
        // That a time trigger begins anew is nobody's loss.
        let waits = gone.iter().filter(|timer| !timer.at.is_schedule()).count();
        if waits > 0 {
            tracing::warn!(?rules, waits, "rules that waited were removed or changed");
        }
        let mut data = Map::new();
        let ids: Vec<String> = gone.iter().map(|timer| timer.id.to_string()).collect();
        data.insert("rules".into(), json!(rules));
        data.insert("timers".into(), json!(ids));
        Some(self.intake.own_event(GONE_EVENT, unique, data))
    }

    /// Time triggers of rules that came into force, and of which nothing waits yet, are set.
    fn set_schedules(&self, unique: &str) -> Option<Event> {
        let rules = self.rules.unscheduled(&self.ledger.memory);
        if rules.is_empty() {
            return None;
        }
        let mut data = Map::new();
        data.insert("rules".into(), json!(rules));
        Some(self.intake.own_event(SCHEDULE_SET_EVENT, unique, data))
    }

    /// Events of our own go the way of all others: through the journal.
    fn take_own(&self, events: Vec<Event>) {
        if !events.is_empty() {
            let (intake, heard) = (self.intake.clone(), events.into_iter().map(Heard::from));
            let heard: Vec<Heard> = heard.collect();
            tokio::spawn(async move { intake.take(heard).await });
        }
    }

    /// Writes decisions; if the journal refuses, people are told all the same.
    fn write(&self, records: Vec<Record>) {
        for chunk in chunks(records, |group| self.rules.class(group)) {
            let decisions: Vec<Arc<Decided>> = chunk.iter().filter_map(with_actions).collect();
            let written = self.journal.submit(chunk);
            if decisions.is_empty() {
                continue; // Nothing to act upon, whether it is durable or not.
            }
            let (delivery, intake) = (self.delivery.clone(), self.intake.clone());
            let (commands, doors) = (self.commands.clone(), self.doors.clone());
            tokio::spawn(async move {
                if let Err(error) = written.await {
                    tracing::error!(%error, "decisions are not durable; acting from memory");
                    for decided in &decisions {
                        delivery.act(pushes(decided));
                        commands.act_unjournaled(orders(decided));
                        doors.act_unjournaled(decided);
                    }
                    let emitted: Vec<Heard> = decisions.iter().flat_map(|d| emits(d)).collect();
                    // They were counted, but no batch will bring them; taking counts them anew.
                    intake.decided(emitted.len());
                    if !emitted.is_empty() {
                        intake.take(emitted).await;
                    }
                }
            });
        }
    }

    /// A decision is durable: now it may be acted upon.
    fn act(&self, decided: &Decided) {
        self.withdraw(decided);
        if !decided.actions.is_empty() {
            self.doors.act(decided);
            self.delivery.act(pushes(decided));
            self.commands.act(orders(decided));
        }
    }

    fn hold(&self, alert: AlertId) {
        self.delivery.hold(alert);
        self.commands.hold(alert);
    }

    /// Ends what acknowledged alerts still wanted to tell.
    fn withdraw(&self, decided: &Decided) {
        for acked in &decided.acked {
            let why = format!("{} has it in hand ({})", acked.by, acked.via);
            self.delivery.withdraw(acked.alert, &why);
            self.commands.withdraw(acked.alert, &why);
        }
    }

    /// Which alerts are meant, if they are not in hand already; from now on nothing of them leaves.
    fn acknowledge(&self, what: &Ack) -> Vec<AlertId> {
        let alerts = self.ledger.memory.alerts();
        let open: Vec<AlertId> =
            alerts.iter().filter(|(_, alert)| alert.acked.is_none()).map(|(id, _)| id).collect();
        let named = match what {
            Ack::All => return open.into_iter().inspect(|id| self.hold(*id)).collect(),
            Ack::Alert(id) => Some(*id),
            Ack::Told(action) => alerts.of(*action),
        };
        let meant = named.filter(|id| open.contains(id));
        meant.into_iter().inspect(|id| self.hold(*id)).collect()
    }

    /// Takes what has no place in the journal. Nothing of it survives a restart, but phones are
    /// told now.
    fn unjournaled(&mut self, direct: &Direct) {
        match direct {
            Direct::Event(event) => self.route_unjournaled(event),
            Direct::Known(known) => self.ledger.memory.apply_known(known),
        }
    }

    fn route_unjournaled(&mut self, event: &Arc<Event>) {
        let decided = self.ask_rules(Position::default(), event);
        telemetry::decided(&decided);
        self.ledger.memory.apply_decided(&decided, decided.at);
        self.withdraw(&decided);
        self.intake.decided(1);
        let emitted: Vec<Heard> = emits(&decided).collect();
        if !emitted.is_empty() {
            let intake = self.intake.clone();
            tokio::spawn(async move { intake.take(emitted).await });
        }
        self.delivery.act(pushes(&decided));
        self.commands.act_unjournaled(orders(&decided));
        self.doors.act_unjournaled(&decided);
    }

    /// Answers one message; a wish to drain is handed back.
    fn message(&mut self, message: Message) -> Option<oneshot::Sender<()>> {
        match message {
            Message::Phone(ask, reply) => self.phone(ask, reply),
            Message::Receipt(receipt, reply) => {
                answer_when_durable(self.journal.submit(vec![Record::Receipt(receipt)]), reply);
            }
            Message::Rules(rules) => {
                self.rules = rules;
                let version = self.rules.version().to_string();
                self.rules_in_force(&version);
            }
            Message::Ack(what, reply) => drop(reply.send(self.acknowledge(&what))),
            Message::Unack(alerts) => alerts.into_iter().for_each(|alert| {
                self.delivery.release(alert);
                self.commands.release(alert);
            }),
            Message::Checkpoint(reply) => self.checkpoint(reply),
            Message::Drain(reply) => return Some(reply),
        }
        None
    }

    fn phone(&mut self, ask: Ask, reply: oneshot::Sender<Result<(), Denied>>) {
        let changes = match plan(ask, &self.ledger, self.clock.now()) {
            Ok(changes) => changes,
            Err(denied) => {
                // The asker may have gone; nothing was changed.
                let _ = reply.send(Err(denied));
                return;
            }
        };
        let records: Vec<Record> = changes.into_iter().map(Record::Phone).collect();
        // Applied now, so that a code cannot be used twice while the disk is busy.
        records.iter().for_each(|record| self.ledger.apply(record));
        self.show();
        if records.is_empty() {
            let _ = reply.send(Ok(()));
        } else {
            answer_when_durable(self.journal.submit(records), reply);
        }
    }

    fn checkpoint(&self, reply: oneshot::Sender<Option<Position>>) {
        // What was not decided yet is read again after a restart.
        let as_of = self.backlog.oldest().map_or(self.applied, |oldest| oldest.min(self.applied));
        let written = match self.ledger.checkpoint(as_of) {
            Ok(checkpoint) => self.journal.submit(vec![Record::Checkpoint(checkpoint)]),
            Err(error) => {
                tracing::error!(%error, "no checkpoint could be written; old segments stay");
                let _ = reply.send(None);
                return;
            }
        };
        tokio::spawn(async move {
            let _ = reply.send(written.await.is_ok().then_some(as_of));
        });
    }

    /// Everything accepted is decided and durable before this returns.
    async fn drain(&mut self, inbox: &mut Inbox) {
        loop {
            while let Ok(direct) = inbox.direct.try_recv() {
                self.unjournaled(&direct);
            }
            let mut any = false;
            while let Ok(batch) = inbox.entries.try_recv() {
                self.batch(&batch);
            }
            while !self.backlog.is_empty() {
                any = true;
                self.work();
            }
            // Decisions may emit events, which come back as batches: until none do.
            let durable = self.journal.barrier().await;
            if !any || durable.is_err() {
                return;
            }
        }
    }

    fn show(&self) {
        self.view.send_replace(Arc::new(View::of(&self.ledger)));
    }
}

/// Whoever asked may have gone.
fn answer_when_durable(
    written: impl Future<Output = Result<Vec<Position>, AppendError>> + Send + 'static,
    reply: oneshot::Sender<Result<(), Denied>>,
) {
    tokio::spawn(async move {
        let result = written.await.map(drop);
        let _ = reply.send(result.map_err(|error| Denied::Journal(error.to_string())));
    });
}

fn is_link(change: &KnownChange) -> bool {
    change.path.ends_with("/link")
}

fn pushes(decided: &Decided) -> Vec<Action> {
    let pushes = decided.actions.iter().filter(|a| matches!(a.task, Task::Push { .. }));
    pushes.cloned().collect()
}

fn orders(decided: &Decided) -> Vec<Action> {
    let orders = decided.actions.iter().filter(|a| matches!(a.task, Task::Command(_)));
    orders.cloned().collect()
}

fn emits(decided: &Decided) -> impl Iterator<Item = Heard> {
    decided.actions.iter().filter_map(|action| match &action.task {
        Task::Emit(event) => Some(Heard::from((**event).clone())),
        Task::Push { .. } | Task::Command(_) | Task::Open(_) => None,
    })
}

fn with_actions(record: &Record) -> Option<Arc<Decided>> {
    match record {
        Record::Decided(decided) if !decided.actions.is_empty() => Some(decided.clone()),
        _ => None,
    }
}

/// Cuts decisions into appends: never between a decision and what it emits, and always between one
/// about an alarm and another, which a full disk must not take along.
fn chunks(records: Vec<Record>, class: impl Fn(&[Record]) -> Class) -> Vec<Vec<Record>> {
    let mut groups: Vec<Vec<Record>> = Vec::new();
    for record in records {
        match groups.last_mut() {
            Some(group) if !matches!(record, Record::Decided(_)) => group.push(record),
            _ => groups.push(vec![record]),
        }
    }
    let mut chunks: Vec<(Class, Vec<Record>)> = Vec::new();
    for group in groups {
        let own = class(&group);
        match chunks.last_mut() {
            Some((class, chunk)) if *class == own && chunk.len() < RECORDS_PER_APPEND_MAX => {
                chunk.extend(group);
            }
            _ => chunks.push((own, group)),
        }
    }
    chunks.into_iter().map(|(_, chunk)| chunk).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    /// What is about an alarm here is known by its number.
    fn decided(number: u64) -> Record {
        Record::Decided(Arc::new(Decided { seen: Position(number), ..Decided::default() }))
    }

    fn class(group: &[Record]) -> Class {
        match &group[0] {
            Record::Decided(decided) if decided.seen.0 >= 100 => Class::Alarm,
            _ => Class::Ordinary,
        }
    }

    #[test]
    fn decisions_are_cut_in_order_and_a_full_disk_takes_no_alarm_along() {
        let settled = |n: u8| {
            let id = ActionId([n; 16]);
            Record::Settled(Settled::new(id, Outcome::Delivered, 1, Timestamp::UNIX_EPOCH))
        };
        let records =
            vec![decided(1), settled(1), decided(2), decided(100), settled(2), decided(3)];
        let cut = chunks(records, class);
        let lengths: Vec<usize> = cut.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3, 2, 1]);
        let seen = cut.iter().flatten().filter_map(|record| match record {
            Record::Decided(decided) => Some(decided.seen.0),
            _ => None,
        });
        assert_eq!(seen.collect::<Vec<_>>(), [1, 2, 100, 3]);
        let many: Vec<Record> = (0..1_200).map(|_| decided(1)).collect();
        assert_eq!(chunks(many, class).len(), 1_200usize.div_ceil(RECORDS_PER_APPEND_MAX));
    }
}
