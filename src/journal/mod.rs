//! The journal: the one truth, kept as checksummed frames in append-only segments.
//!
//! [`Journal::append`] returns when its records would survive a power cut. One writer task owns
//! the files; it writes whatever queued while its last sync ran as one batch with one sync.
//! [`Journal::subscribe`] hands out what became durable, [`Journal::read`] what is on disk. A
//! damaged place is named and skipped, never passed over in silence.
//!
//! Some of the disk's space is kept for alarms. When the disk is full, ordinary records are refused
//! and alarms are written on.
//!
//! It knows of its records only what keeping them takes: how old they are, which ids must outlive
//! them, and where the newest checkpoint is. Which are about alarms it is told, see
//! [`Journal::set_judge`].

mod config;
mod error;
mod frame;
mod queue;
mod reader;
mod recover;
mod reserve;
mod retain;
mod segment;
mod writer;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

pub use config::{Config, RESERVE_BYTES};
pub use error::{AppendError, Damage, Flaw, JournalError};
pub use frame::CALL_BYTES_MAX;
pub use queue::{QUEUE_BYTES_MAX, QUEUE_BYTES_SOFT};
pub use reader::{Reader, read_dir, segments_in};
pub use recover::Opened;
pub use retain::Retained;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::record::{Class, Position, Record};

/// Says what claim the records of one call have on the space that is kept for alarms.
pub type Judge = Arc<dyn Fn(&[Record]) -> Class + Send + Sync>;

/// One record and where it is.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it starts.
    pub position: Position,
    /// Where to read on behind it; as a cursor: everything before it is done.
    pub next: Position,
    /// The record.
    pub record: Record,
}

/// A handle to the journal; clones are the same journal. When the last one is dropped the writer
/// writes what waits and ends.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    /// Ends the writer when the last handle goes.
    _closer: Arc<Closer>,
}

/// What the handles, the writer and the readers share.
struct Shared {
    disk: Arc<dyn Disk>,
    config: Config,
    clock: Clock,
    queue: queue::Queue,
    /// The bases of all segments, oldest first.
    bases: Mutex<Vec<u64>>,
    /// Everything before this position is acknowledged.
    durable: AtomicU64,
    is_writable: AtomicBool,
    /// Whether alarms only are written, and how many bytes are kept for them.
    is_full: AtomicBool,
    reserve: AtomicU64,
    judge: Mutex<Option<Judge>>,
    /// Who wants how much of the reserve.
    wishes: Mutex<Vec<(u64, oneshot::Sender<bool>)>>,
    followers: Mutex<Vec<mpsc::UnboundedSender<Arc<[Entry]>>>>,
    rolled: watch::Sender<Position>,
    /// Whether the writer has ended.
    ended: watch::Sender<bool>,
    /// What is known about the oldest segment's age; see [`retain`].
    oldest: Mutex<Option<retain::Age>>,
}

impl Shared {
    /// The judge, or one that takes everything for an alarm: nobody has said yet what is none.
    fn judge(&self) -> Judge {
        lock(&self.judge).clone().unwrap_or_else(|| Arc::new(|_: &[Record]| Class::Alarm))
    }
}

struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

/// Takes a lock whose holders leave nothing half done, so that a panic of one does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens the journal in `disk`'s directory, an empty one if nothing is there, and starts its
    /// writer. An unfinished write at the end is cut off. Only one process
    /// may do so at a time; who holds the directory is the caller's business.
    ///
    /// Reads the newest segment, and older ones only until it meets a checkpoint.
    pub async fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        clock: Clock,
    ) -> Result<(Journal, Opened), JournalError> {
        let found = recover::recover(&disk).await?;
        let (rolled, _) = watch::channel(Position(found.bases.last().copied().unwrap_or(0)));
        let shared = Arc::new(Shared {
            disk,
            config,
            clock,
            queue: queue::Queue::default(),
            bases: Mutex::new(found.bases),
            durable: AtomicU64::new(found.opened.end.0),
            is_writable: AtomicBool::new(true),
            is_full: AtomicBool::new(false),
            reserve: AtomicU64::new(0),
            judge: Mutex::default(),
            wishes: Mutex::default(),
            followers: Mutex::default(),
            rolled,
            ended: watch::channel(false).0,
            oldest: Mutex::default(),
        });
        let writer = writer::Writer::new(Arc::clone(&shared));
        let disk = Arc::clone(&shared.disk);
        disk.run(Box::pin(writer.run())).map_err(JournalError::Writer)?;
        let closer = Arc::new(Closer(Arc::clone(&shared)));
        Ok((Journal { shared, _closer: closer }, found.opened))
    }

    /// Writes the records, one behind the other and all or none, and returns their positions once
    /// they would survive a power cut. Waits while too much is queued.
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<Position>, AppendError> {
        self.shared.queue.room().await;
        self.submit(records).await
    }

    /// As [`Journal::append`], but takes its place in the order now, when called, and does not
    /// wait for room: [`AppendError::Busy`] above [`QUEUE_BYTES_MAX`].
    pub fn submit(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Vec<Position>, AppendError>> + Send + 'static + use<> {
        let queued = self.shared.queue.push(records);
        async move {
            let (answer, lengths) = queued?;
            let mut at = answer.await.unwrap_or(Err(AppendError::Closed))?;
            let step = |length: usize| {
                let position = Position(at);
                at += length as u64;
                position
            };
            Ok(lengths.into_iter().map(step).collect())
        }
    }

    /// Returns when everything submitted before is durable, or has failed.
    pub async fn barrier(&self) -> Result<(), AppendError> {
        self.submit(Vec::new()).await.map(|_| ())
    }

    /// Takes no more appends, writes what waits, and returns when the files are let go. Without
    /// it the same happens some time after the last handle was dropped.
    pub async fn close(&self) {
        self.shared.queue.close();
        // The sender lives as long as this handle, so there is always an answer.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Every batch that becomes durable from now on, in order, before its appenders hear of it.
    /// To join it with the past: subscribe, then read to the end, then skip what was read.
    ///
    /// The channel is unbounded: what is in it is in the journal, so a follower that cannot keep
    /// up should drop it and read.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Arc<[Entry]>> {
        let (to, from) = mpsc::unbounded_channel();
        lock(&self.shared.followers).push(to);
        from
    }

    /// The durable entries from `from` on (or from the oldest kept). At the end it gives `None`,
    /// and goes on when asked again after more was written.
    pub fn read(&self, from: Position) -> Reader {
        Reader::live(Arc::clone(&self.shared), from)
    }

    /// The entry at exactly this position; none if it is not kept or nothing starts there.
    pub fn read_one(&self, position: Position) -> Result<Option<Entry>, Damage> {
        if position >= self.end() || position < self.first() {
            return Ok(None);
        }
        let mut reader = self.read(position).one();
        let entry = reader.next().transpose()?;
        Ok(entry.filter(|entry| entry.position == position))
    }

    /// Where each segment starts, oldest first. With [`Journal::read`] and [`Reader::until`] one
    /// can go through the journal from its newest part back.
    pub fn segments(&self) -> Vec<Position> {
        lock(&self.shared.bases).iter().copied().map(Position).collect()
    }

    /// The oldest position kept.
    pub fn first(&self) -> Position {
        let first = lock(&self.shared.bases).first().copied();
        Position(first.unwrap_or_else(|| self.end().0))
    }

    /// Everything before this position is durable.
    pub fn end(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    /// Whether the last write worked, and whatever comes is written. If not, the writer keeps
    /// trying.
    pub fn is_writable(&self) -> bool {
        self.shared.is_writable.load(Ordering::Acquire)
    }

    /// Whether the disk is full and what is left of it is for alarms.
    pub fn is_full(&self) -> bool {
        self.shared.is_full.load(Ordering::Acquire)
    }

    /// How many bytes are kept for alarms; see [`Config::reserve_bytes`].
    pub fn reserve(&self) -> u64 {
        self.shared.reserve.load(Ordering::Acquire)
    }

    /// Gives up so many bytes of what is kept for alarms, for something without which there is no
    /// start, and alarms of before a crash would not be told. Whether it did: half of all is for
    /// alarms alone.
    pub async fn make_room(&self, bytes: u64) -> bool {
        let (answer, given) = oneshot::channel();
        lock(&self.shared.wishes).push((bytes, answer));
        self.shared.queue.work.notify_one();
        !*self.shared.ended.borrow() && given.await.unwrap_or(false)
    }

    /// From now on this says which calls may have the space that is kept for alarms. Until the
    /// first one everything may. Asked on a full disk only, by the writer.
    pub fn set_judge(&self, judge: impl Fn(&[Record]) -> Class + Send + Sync + 'static) {
        *lock(&self.shared.judge) = Some(Arc::new(judge));
    }

    /// The newest segment's base; changes when a segment is full, which is the moment to write a
    /// checkpoint and then to [`Journal::retain`].
    pub fn segments_rolled(&self) -> watch::Receiver<Position> {
        self.shared.rolled.subscribe()
    }

    /// Forgets the oldest segments that are older than [`Config::keep`] or beyond
    /// [`Config::keep_bytes`], as far as they end at or before `safe`, the newest checkpoint's
    /// `as_of`. Event ids that must still count as duplicates are appended as
    /// [`Record::Keys`] first.
    pub async fn retain(&self, safe: Position) -> Result<Retained, JournalError> {
        retain::retain(self, safe).await
    }
}
