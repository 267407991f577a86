//! The one task that writes: it takes all that queued while its last sync ran, appends it in one
//! piece, syncs once, tells the followers, then the callers.
//!
//! When a write fails, the file is brought back to its last good length and the next batch tries
//! again. When a sync fails, nobody knows what the file holds: it is left behind and the next
//! batch begins a new segment at the same position, which ends the old one there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::frame;
use super::queue::Batch;
use super::segment::file_name;
use super::{AppendError, Entry, Shared, lock};
use crate::disk::{Access, DiskFile};
use crate::record::Position;

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
}

impl Writer {
    pub fn new(shared: Arc<Shared>) -> Writer {
        let tail = shared.durable.load(Ordering::Acquire);
        Writer { shared, active: None, tail, is_sealed: true, batch: Batch::default() }
    }

    /// Writes until all handles are gone and nothing waits.
    pub async fn run(mut self) {
        loop {
            if self.shared.queue.take(&mut self.batch) {
                self.commit().await;
            } else if self.shared.queue.is_done() {
                self.seal();
                drop(self.active.take());
                self.shared.ended.send_replace(true);
                return;
            } else {
                self.idle().await;
            }
        }
    }

    async fn idle(&mut self) {
        let shared = Arc::clone(&self.shared);
        let work = shared.queue.work.notified();
        match (shared.is_writable.load(Ordering::Acquire), self.is_sealed) {
            (true, true) => work.await,
            (true, false) => tokio::select! {
                biased; // A waiting batch seals too.
                () = work => {}
                () = tokio::time::sleep(SEAL_AFTER) => self.seal(),
            },
            (false, _) => tokio::select! {
                biased; // A waiting batch is the better probe.
                () = work => {}
                () = tokio::time::sleep(PROBE_EVERY) => self.probe().await,
            },
        }
    }

    /// Makes one batch durable and answers its callers.
    async fn commit(&mut self) {
        let start = match self.write().await {
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
            self.set_writable(true);
            self.shared.durable.store(self.tail, Ordering::Release);
            self.publish(start);
        }
        self.answer(start);
        self.batch.clear();
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
            Ok(()) => self.set_writable(true),
            Err(_) => self.distrust(start),
        }
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

fn append_all(file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
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
