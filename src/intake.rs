//! The one way in for events: duplicates are dropped here, and [`Intake::take`] returns only when
//! the event would survive a power cut. When the journal cannot be written, events go on from
//! memory, so that a full disk silences nobody. What nobody vouches for is kept apart and never
//! routed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc};

use crate::clock::Clock;
use crate::event::{Event, EventId, Heard, own_event};
use crate::index::Index;
use crate::journal::{AppendError, Journal};
use crate::record::{Body, BodyRead, Known, Quarantined, Record, Settled};

/// Events accepted but not yet decided, at most. Above it new ones wait at the door: a flood slows
/// its sender down instead of filling the memory. About 64 MB of ordinary events.
const UNDECIDED_MAX: usize = 16_384;

/// Quarantined messages kept in memory for the page.
const QUARANTINE_KEPT_MAX: usize = 256;

/// Bytes kept of one quarantined message; a Netatmo body is below 2 KiB.
pub const QUARANTINE_BYTES_MAX: usize = 4 * 1024;

/// Quarantined messages written to the journal a minute, so that a flood of forgeries cannot push
/// history out of it; all of them are counted.
const QUARANTINE_JOURNALED_PER_MINUTE_MAX: u32 = 30;

/// Ids that an event without journal keeps in memory as duplicates, at most: a full disk that
/// lasts must not eat the memory too.
const UNJOURNALED_KEPT_MAX: usize = 100_000;

/// The way in. Cheap to clone.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

struct Shared {
    journal: Journal,
    index: Arc<Index>,
    clock: Clock,
    /// Ids accepted and not yet in the index; short lock, never held across an await.
    recent: Mutex<HashMap<EventId, ()>>,
    /// Ids that never reached the journal, oldest first.
    unjournaled: Mutex<VecDeque<EventId>>,
    quarantine: Mutex<Quarantine>,
    undecided: AtomicUsize,
    room: Notify,
    /// When each source last gave a sign of life.
    alive: Mutex<HashMap<String, Timestamp>>,
    /// Where events go that the journal could not take.
    direct: mpsc::Sender<Direct>,
    /// Whether the journal refused the last events; its failure is announced once.
    failing: AtomicBool,
}

/// What is kept of messages that nobody vouches for.
#[derive(Debug, Default)]
struct Quarantine {
    kept: VecDeque<Quarantined>,
    counts: HashMap<String, u64>,
    minute: i64,
    journaled: u32,
}

/// What goes on from memory because the journal could not take it.
#[derive(Debug, Clone)]
pub enum Direct {
    /// An event, to be routed now.
    Event(Arc<Event>),
    /// What a system told about itself.
    Known(Arc<Known>),
}

/// What became of one call of [`Intake::take`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Journaled now.
    pub new: usize,
    /// Known already; nothing happens.
    pub duplicates: usize,
    /// Routed from memory because the journal could not be written.
    pub unjournaled: usize,
}

// === impl Intake ===

impl Intake {
    /// An intake onto `journal`; what it cannot write goes to `direct`.
    pub fn new(
        journal: Journal,
        index: Arc<Index>,
        clock: Clock,
        direct: mpsc::Sender<Direct>,
    ) -> Intake {
        Intake(Arc::new(Shared {
            journal,
            index,
            clock,
            recent: Mutex::default(),
            unjournaled: Mutex::default(),
            quarantine: Mutex::default(),
            undecided: AtomicUsize::new(0),
            room: Notify::new(),
            alive: Mutex::default(),
            direct,
            failing: AtomicBool::new(false),
        }))
    }

    /// The clock that stamps what comes in.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Takes events in. Returns when each is durable, was so before, or goes on from memory.
    pub async fn take(&self, heard: Vec<Heard>) -> Taken {
        self.report(None, heard).await
    }

    /// Takes in what a system tells about itself, and events; rules that look at these events see
    /// that state. Returns as [`Intake::take`] does.
    pub async fn report(&self, known: Option<Known>, heard: Vec<Heard>) -> Taken {
        self.wait_for_room().await;
        heard.iter().for_each(|heard| self.contact(&heard.event.source));
        let known = known.filter(|known| !known.changes.is_empty()).map(Arc::new);
        let offered = heard.len();
        let new: Vec<Arc<Event>> =
            heard.into_iter().filter(|h| self.claim(h)).map(|h| Arc::new(h.event)).collect();
        let duplicates = offered - new.len();
        if duplicates > 0 {
            metrics::counter!("portero_duplicates_total").increment(duplicates as u64);
        }
        if new.is_empty() && known.is_none() {
            // The first copy may still be on its way to the disk; a copy is vouched for no sooner.
            let _ = self.0.journal.barrier().await;
            return Taken { duplicates, ..Taken::default() };
        }
        self.accepted(new.len());
        let events = new.iter().map(|event| Record::Seen(event.clone()));
        let records = known.iter().cloned().map(Record::Known).chain(events).collect();
        match self.0.journal.append(records).await {
            Ok(_) => {
                // On a full disk alarms are written and all else is not: that is one failure.
                if self.0.journal.is_writable() {
                    self.0.failing.store(false, Ordering::Relaxed);
                }
                Taken { new: new.len(), duplicates, unjournaled: 0 }
            }
            Err(error) => {
                metrics::counter!("portero_unjournaled_total").increment(new.len() as u64);
                if let Some(known) = known {
                    self.send_direct(Direct::Known(known)).await;
                }
                let unjournaled = self.go_direct(new).await;
                // Said once: a full disk must not be filled with complaints about it.
                if !self.0.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "events are routed from memory until it can be written");
                    self.accepted(1);
                    self.go_direct(vec![Arc::new(self.journal_failed(&error))]).await;
                }
                Taken { new: 0, duplicates, unjournaled }
            }
        }
    }

    /// Takes in an event of Portero's own that tells how an action ended, together with that end:
    /// after a crash either both are known, or the action is still owed. In the order of the calls;
    /// nobody waits for it. An event that was told before is not told again.
    pub fn conclude(&self, event: Event, settled: Option<Settled>) {
        let heard = Heard::from(event);
        let event = self.claim(&heard).then(|| Arc::new(heard.event));
        let seen = event.iter().cloned().map(Record::Seen);
        let records: Vec<Record> = seen.chain(settled.map(Record::Settled)).collect();
        self.accepted(usize::from(event.is_some()));
        let written = self.0.journal.submit(records);
        let intake = self.clone();
        tokio::spawn(async move {
            if let (Err(error), Some(event)) = (written.await, event) {
                tracing::error!(%error, kind = event.kind, "an event goes on from memory");
                intake.go_direct(vec![event]).await;
            }
        });
    }

    /// A source gave a sign of life: an event, an answered question.
    pub fn contact(&self, source: &str) {
        let now = self.0.clock.now();
        let mut alive = lock(&self.0.alive);
        match alive.get_mut(source) {
            Some(last) => *last = now.max(*last),
            None => drop(alive.insert(source.to_string(), now)),
        }
    }

    /// When a source last gave a sign of life since the start.
    pub fn last_contact(&self, source: &str) -> Option<Timestamp> {
        lock(&self.0.alive).get(source).copied()
    }

    /// Keeps what a system gave and will not give again, durably if the journal can be written.
    /// After a crash it is handed to the system's driver again, until [`Intake::body_read`].
    pub async fn keep_body(&self, source: &str, raw: &[u8]) -> EventId {
        let received = self.0.clock.now();
        let sum = crate::secret::hex(&crate::event::digest128([&*String::from_utf8_lossy(raw)]));
        let id = EventId::derive([source, &received.to_string(), &sum]);
        let body = Body { id, source: source.to_string(), received, raw: raw.to_vec() };
        if let Err(error) = self.0.journal.append(vec![Record::Body(body)]).await {
            tracing::error!(%error, source, "a body is not durable; it is read all the same");
        }
        id
    }

    /// All that a body told is in the journal. Forgotten in a crash, it is only read twice.
    pub fn body_read(&self, body: EventId) {
        let at = self.0.clock.now();
        drop(self.0.journal.submit(vec![Record::BodyRead(BodyRead { body, at })]));
    }

    /// An event of Portero's own, such as `portero.rules.rejected`; see [`own_event`]. `unique` tells
    /// one occasion from the next.
    pub fn own_event(&self, kind: &str, unique: &str, data: Map<String, Value>) -> Event {
        own_event(kind, unique, data, self.0.clock.now())
    }

    fn journal_failed(&self, error: &AppendError) -> Event {
        let mut data = Map::new();
        data.insert("error".into(), error.to_string().into());
        self.own_event("portero.journal.failed", &self.0.clock.now().to_string(), data)
    }

    /// Keeps a message apart: in memory for the page, in the journal as far as the rate allows.
    pub fn quarantine(&self, mut message: Quarantined) {
        message.raw.truncate(QUARANTINE_BYTES_MAX);
        metrics::counter!("portero_quarantined_total", "source" => message.source.clone())
            .increment(1);
        let journaled = {
            let mut quarantine = lock(&self.0.quarantine);
            *quarantine.counts.entry(message.source.clone()).or_default() += 1;
            if quarantine.kept.len() == QUARANTINE_KEPT_MAX {
                quarantine.kept.pop_front();
            }
            quarantine.kept.push_back(message.clone());
            quarantine.may_journal(message.received)
        };
        if journaled {
            // Nobody waits for it: it is a copy for later, and its loss costs no promise.
            drop(self.0.journal.submit(vec![Record::Quarantined(message)]));
        }
    }

    /// The kept messages, newest first.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        lock(&self.0.quarantine).kept.iter().rev().cloned().collect()
    }

    /// How many messages of `source` were quarantined since start.
    pub fn quarantined_of(&self, source: &str) -> u64 {
        lock(&self.0.quarantine).counts.get(source).copied().unwrap_or(0)
    }

    /// So many events more wait for the rules: those taken here, and those that rules emit, which
    /// the router journals itself.
    pub fn accepted(&self, events: usize) {
        self.0.undecided.fetch_add(events, Ordering::Relaxed);
    }

    /// The router has decided `events` more.
    pub fn decided(&self, events: usize) {
        let room = &self.0.undecided;
        let before = room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(events)))
            .unwrap_or(0);
        if before >= UNDECIDED_MAX {
            self.0.room.notify_waiters();
        }
    }

    /// The index now holds these ids, so memory need not.
    pub fn indexed<'a>(&self, ids: impl Iterator<Item = &'a EventId>) {
        let mut recent = lock(&self.0.recent);
        for id in ids {
            recent.remove(id);
        }
        // A burst leaves a large table behind; give it back once it is over.
        if recent.is_empty() && recent.capacity() > UNDECIDED_MAX {
            recent.shrink_to_fit();
        }
    }

    /// Whether an event of this id was taken before.
    pub fn knows(&self, id: EventId) -> bool {
        lock(&self.0.recent).contains_key(&id) || matches!(self.0.index.seen(id), Ok(Some(_)))
    }

    /// Whether this is the first time the fact is heard; if so it is claimed.
    fn claim(&self, heard: &Heard) -> bool {
        // An index that cannot be read must not swallow events: better twice than never.
        let known = |id: &EventId| matches!(self.0.index.seen(*id), Ok(Some(_)));
        {
            let mut recent = lock(&self.0.recent);
            let also = heard.also.is_some_and(|id| recent.contains_key(&id));
            if also || recent.insert(heard.event.id, ()).is_some() {
                return false;
            }
        }
        if known(&heard.event.id) || heard.also.as_ref().is_some_and(known) {
            lock(&self.0.recent).remove(&heard.event.id);
            return false;
        }
        true
    }

    async fn go_direct(&self, events: Vec<Arc<Event>>) -> usize {
        let count = events.len();
        for event in events {
            self.remember_unjournaled(event.id);
            self.send_direct(Direct::Event(event)).await;
        }
        count
    }

    async fn send_direct(&self, direct: Direct) {
        if self.0.direct.send(direct).await.is_err() {
            tracing::error!("the router is gone; an event was lost");
        }
    }

    /// The index will never see these ids, so they would stay in memory for ever.
    fn remember_unjournaled(&self, id: EventId) {
        let mut kept = lock(&self.0.unjournaled);
        kept.push_back(id);
        if kept.len() > UNJOURNALED_KEPT_MAX
            && let Some(oldest) = kept.pop_front()
        {
            lock(&self.0.recent).remove(&oldest);
        }
    }

    async fn wait_for_room(&self) {
        while self.0.undecided.load(Ordering::Relaxed) >= UNDECIDED_MAX {
            let room = self.0.room.notified();
            if self.0.undecided.load(Ordering::Relaxed) < UNDECIDED_MAX {
                return;
            }
            room.await;
        }
    }
}

// === impl Quarantine ===

impl Quarantine {
    fn may_journal(&mut self, now: Timestamp) -> bool {
        let minute = now.as_second() / 60;
        if minute != self.minute {
            (self.minute, self.journaled) = (minute, 0);
        }
        self.journaled += 1;
        self.journaled <= QUARANTINE_JOURNALED_PER_MINUTE_MAX
    }
}

/// A panic while holding one of these locks leaves plain collections behind that are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
