//! The one task that writes: it takes all that queued while its last sync ran, appends it in one
//! piece, syncs once, tells the followers, then the callers.
//!
//! When a write fails, the file is brought back to its last good length and the next batch tries
//! again. When a sync fails, nobody knows what the file holds: it is left behind and the next
//! batch begins a new segment at the same position, which ends the old one there.
//!
//! When the disk is full, ordinary calls are refused, and alarms get what the [`Reserve`] gives.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::frame;
use super::queue::Batch;
use super::reserve::Reserve;
use super::segment::file_name;
use super::{AppendError, Entry, Shared, lock};
use crate::disk::{Access, DiskFile};
use crate::record::{Class, Position, Record};

/// How often an idle writer that could not write tries again, so that readiness comes back
/// without traffic.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// A pause after which the end is sealed: under load the next batch does so for nothing.
const SEAL_AFTER: Duration = Duration::from_millis(20);

/// The segment that is written to.
struct Active {
    base: u64,
    file: Arc<dyn DiskFile>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// None before the first append, and after a file could not be trusted any more.
    active: Option<Active>,
    /// Where the next frame goes: behind the last good byte of the active segment.
    tail: u64,
    /// Whether a frame on disk proves that everything before the tail was acknowledged.
    is_sealed: bool,
    batch: Batch,
    reserve: Reserve,
}

/// What an idle writer does when nothing comes.
#[derive(Clone, Copy)]
enum Pause {
    Seal,
    Probe,
    Nothing,
}

impl Writer {
    pub fn new(shared: Arc<Shared>) -> Writer {
        let tail = shared.durable.load(Ordering::Acquire);
        let reserve = Reserve::open(Arc::clone(&shared.disk), shared.config.reserve_bytes);
        let batch = Batch::default();
        let writer = Writer { shared, active: None, tail, is_sealed: true, batch, reserve };
        writer.show_reserve();
        writer
    }

    /// Writes until all handles are gone and nothing waits.
    pub async fn run(mut self) {
        loop {
            self.grant().await;
            if self.shared.queue.take(&mut self.batch) {
                self.commit().await;
            } else if self.shared.queue.is_done() {
                self.seal();
                self.reserve.stop_growing();
                drop(self.active.take());
                self.shared.ended.send_replace(true);
                // Behind it, so that whoever still asks sees the one or the other.
                lock(&self.shared.wishes).clear();
                return;
            } else if !self.must_tend() {
                self.idle().await;
            }
            // Between any two batches, or a flood would keep it from ever being there.
            if self.must_tend() {
                self.tend().await;
            }
        }
    }

    /// Gives of the reserve to whoever asked for it.
    async fn grant(&mut self) {
        let wishes = std::mem::take(&mut *lock(&self.shared.wishes));
        for (bytes, answer) in wishes {
            let floor = self.reserve.alarms_alone();
            let given = self.reserve.stop_growing() || self.reserve.give(bytes, floor).await;
            self.show_reserve();
            // Whoever asked may have gone.
            let _ = answer.send(given);
        }
    }

    fn must_tend(&self) -> bool {
        self.reserve.due().is_some_and(|due| due <= Instant::now())
    }

    async fn tend(&mut self) {
        let has_room = self.reserve.tend().await;
        self.show_reserve();
        if has_room {
            tracing::warn!("the journal's disk has room again; everything is written");
            self.probe().await;
        }
    }

    async fn idle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let is_writable = shared.is_writable.load(Ordering::Acquire);
        let (pause, after) = match (is_writable || self.reserve.is_full(), self.is_sealed) {
            (false, _) => (Pause::Probe, Some(PROBE_EVERY)),
            (true, false) => (Pause::Seal, Some(SEAL_AFTER)),
            (true, true) => (Pause::Nothing, None),
        };
        let after = after.map(|after| Instant::now() + after);
        tokio::select! {
            biased; // A waiting batch seals too, and is the better probe.
            () = shared.queue.work.notified() => {}
            () = until(after) => match pause {
                Pause::Seal => self.seal(),
                Pause::Probe => self.probe().await,
                Pause::Nothing => {}
            },
            () = until(self.reserve.due()) => {}
        }
    }

    /// Makes one batch durable and answers its callers.
    async fn commit(&mut self) {
        if self.reserve.is_full() {
            let alone = self.reserve.left() <= self.reserve.alarms_alone();
            let least = if alone { Class::Alarm } else { Class::Keeping };
            self.refuse_below(least, &AppendError::KeptForAlarms);
        }
        let start = match self.write_all().await {
            Ok(start) => start,
            Err(error) => {
                self.set_writable(false);
                let calls = self.batch.calls.drain(..);
                // A caller that has gone away does not want to know.
                calls.for_each(|call| drop(call.answer.send(Err(error.clone()))));
                return self.batch.clear();
            }
        };
        if !self.batch.bytes.is_empty() {
            self.set_writable(!self.reserve.is_full());
            self.shared.durable.store(self.tail, Ordering::Release);
            self.publish(start);
        }
        self.answer(start);
        self.batch.clear();
    }

    /// Writes the batch, or as much of it as there is room for; returns where it starts.
    async fn write_all(&mut self) -> Result<u64, AppendError> {
        loop {
            match self.write().await {
                Err(error) if error.wants_space() => {
                    let goes_on = self.make_room(&error).await;
                    self.show_reserve();
                    if !goes_on {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Does without what matters least: first what the reserve grows by, then the ordinary calls of
    /// the batch, then a part of the reserve. Whether another try is worth it.
    async fn make_room(&mut self, error: &AppendError) -> bool {
        if self.reserve.stop_growing() {
            return true;
        }
        self.reserve.declare_full();
        if self.refuse_below(Class::Keeping, error) {
            return true;
        }
        let bytes = self.batch.bytes.len() as u64;
        let floor = if self.has_keeping() { self.reserve.alarms_alone() } else { 0 };
        // A checkpoint that is too large for its part would take all of that for nothing.
        let is_enough = floor == 0 || floor + bytes <= self.reserve.left();
        (is_enough && self.reserve.give(bytes, floor).await)
            || self.refuse_below(Class::Alarm, error)
    }

    /// Whether the batch holds anything that is not about alarms.
    fn has_keeping(&self) -> bool {
        let class = self.shared.judge();
        let mut rest = self.batch.records.as_slice();
        self.batch.calls.iter().any(|call| {
            let records;
            (records, rest) = rest.split_at(call.frames);
            !records.is_empty() && class(records) < Class::Alarm
        })
    }

    /// Answers the calls of the batch that have less of a claim; whether there were any.
    fn refuse_below(&mut self, least: Class, error: &AppendError) -> bool {
        let class = self.shared.judge();
        let refused = self.batch.take_out(|records: &[Record]| class(records) < least);
        if refused.is_empty() {
            return false;
        }
        self.set_writable(false);
        refused.into_iter().for_each(|call| drop(call.answer.send(Err(error.clone()))));
        true
    }

    /// Appends and syncs the batch; returns where it starts.
    async fn write(&mut self) -> Result<u64, AppendError> {
        if self.batch.bytes.is_empty() {
            return Ok(self.tail); // Barriers only: everything before them is settled.
        }
        let file = self.segment().await?;
        let start = self.tail;
        frame::place(&mut self.batch.bytes, start);
        let bytes = std::mem::take(&mut self.batch.bytes);
        let written = self.put(&file, &bytes);
        self.batch.bytes = bytes;
        written.map_err(AppendError::write)?;
        if let Err(error) = file.sync().await {
            self.distrust(start);
            return Err(AppendError::sync(error));
        }
        self.is_sealed = false;
        Ok(start)
    }

    /// Appends all bytes at the tail, or leaves the file as it was.
    fn put(&mut self, file: &Arc<dyn DiskFile>, bytes: &[u8]) -> io::Result<()> {
        let Some(base) = self.active.as_ref().map(|active| active.base) else {
            return Err(io::Error::other("no segment"));
        };
        let end = self.tail + bytes.len() as u64;
        let result = append_all(&**file, bytes).and_then(|()| {
            // A disk that lies about what it took, or somebody else who writes here, shows now.
            if base + file.size()? == end { Ok(()) } else { Err(io::Error::other("wrong length")) }
        });
        match result {
            Ok(()) => self.tail = end,
            Err(_) if file.truncate(self.tail - base).is_ok() => {}
            Err(_) => self.distrust(self.tail),
        }
        result
    }

    /// Leaves the active segment behind; the next one begins at the last durable position. What
    /// is at or behind `good` failed.
    fn distrust(&mut self, good: u64) {
        if let Some(active) = self.active.take() {
            // For readers of the directory, until the next segment's base says the same.
            let _ = active.file.truncate(good - active.base);
        }
        self.is_sealed = true;
    }

    /// The file to write to, a new one if there is none or it is full.
    async fn segment(&mut self) -> Result<Arc<dyn DiskFile>, AppendError> {
        match &self.active {
            Some(active) if self.tail - active.base < self.shared.config.segment_bytes => {
                return Ok(Arc::clone(&active.file));
            }
            _ => {}
        }
        let base = self.shared.durable.load(Ordering::Acquire);
        let file = self.create(base).await.map_err(AppendError::write)?;
        let known = {
            let mut bases = lock(&self.shared.bases);
            let known = bases.last() == Some(&base);
            if !known {
                bases.push(base);
            }
            known
        };
        self.tail = base;
        self.active = Some(Active { base, file: Arc::clone(&file) });
        if !known {
            self.shared.rolled.send_replace(Position(base));
        }
        Ok(file)
    }

    async fn create(&self, base: u64) -> io::Result<Arc<dyn DiskFile>> {
        let (disk, name) = (&self.shared.disk, file_name(base));
        // One of that name holds nothing that was acknowledged: its first batch failed.
        match disk.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&name, Access::Create)?;
        disk.sync_directory().await?;
        Ok(file)
    }

    /// Hands the batch to those who follow.
    fn publish(&mut self, start: u64) {
        let mut followers = lock(&self.shared.followers);
        followers.retain(|follower| !follower.is_closed());
        if followers.is_empty() {
            return;
        }
        let mut at = start;
        let lengths = frame::lengths(&self.batch.bytes);
        let entry = |(length, record)| {
            let position = Position(at);
            at += length as u64;
            Entry { position, next: Position(at), record }
        };
        let entries: Arc<[Entry]> = lengths.zip(self.batch.records.drain(..)).map(entry).collect();
        for follower in followers.iter() {
            let _ = follower.send(Arc::clone(&entries));
        }
    }

    fn answer(&mut self, start: u64) {
        let mut lengths = frame::lengths(&self.batch.bytes);
        let mut at = start;
        for call in self.batch.calls.drain(..) {
            let _ = call.answer.send(Ok(at));
            at += lengths.by_ref().take(call.frames).sum::<usize>() as u64;
        }
    }

    /// Before a pause: leaves a mark that proves that all before it was acknowledged. It is not
    /// synced; without it nothing is lost but that proof.
    fn seal(&mut self) {
        let file = self.active.as_ref().map(|active| Arc::clone(&active.file));
        let Some(file) = file.filter(|_| !self.is_sealed) else { return };
        self.is_sealed = true;
        let _ = self.put(&file, &frame::mark(self.tail));
    }

    /// Tries whether the disk takes bytes again.
    async fn probe(&mut self) {
        let Ok(file) = self.segment().await else { return };
        let start = self.tail;
        if self.put(&file, &frame::mark(start)).is_err() {
            return;
        }
        match file.sync().await {
            Ok(()) => self.set_writable(!self.reserve.is_full()),
            Err(_) => self.distrust(start),
        }
    }

    /// Tells the others how much space is kept, and that a full disk takes alarms only.
    fn show_reserve(&self) {
        let is_full = self.reserve.is_full();
        self.shared.reserve.store(self.reserve.left(), Ordering::Release);
        if is_full && !self.shared.is_full.swap(is_full, Ordering::AcqRel) {
            tracing::error!("the journal's disk is full; what is left of it is kept for alarms");
            self.set_writable(false);
        }
        self.shared.is_full.store(is_full, Ordering::Release);
    }

    fn set_writable(&self, is_writable: bool) {
        let was = self.shared.is_writable.swap(is_writable, Ordering::AcqRel);
        match (was, is_writable) {
            (true, false) => tracing::error!("the journal cannot be written"),
            (false, true) => tracing::warn!("the journal can be written again"),
            _ => {}
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Appends all bytes, or some of them and says why not the others.
pub(super) fn append_all(file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let took = file.append(rest)?;
        if took == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = &rest[took.min(rest.len())..];
    }
    Ok(())
}
