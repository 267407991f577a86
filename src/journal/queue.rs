//! What waits for the writer: one buffer of frames that callers fill and the writer takes whole.
//!
//! Callers encode outside of the lock, so holding it costs one copy. The order of calls is the
//! order of [`Queue::push`].

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::AppendError;
use super::frame::{self, CALL_BYTES_MAX};
use crate::record::Record;

/// Above this many waiting bytes, `append` waits: a batch of this size is written in a few
/// milliseconds, and larger ones gain nothing.
pub const QUEUE_BYTES_SOFT: usize = 4 << 20;
/// Above this many waiting bytes, `submit`, which cannot wait, is refused. A batch is never larger
/// than this and one call.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Buffers above this size are given back when they are empty, so that one burst does not keep
/// its memory.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// As [`BUFFER_BYTES_KEPT`], for each thread's encoding buffer.
const SCRATCH_BYTES_KEPT: usize = 64 << 10;

/// What the writer answers: where the call's first frame is.
pub(super) type Answer = Result<u64, AppendError>;

/// One call in a batch.
pub(super) struct Call {
    /// How many frames are its; none for a barrier.
    pub frames: usize,
    /// Where its caller waits.
    pub answer: oneshot::Sender<Answer>,
}

/// Everything that one sync makes durable.
#[derive(Default)]
pub(super) struct Batch {
    /// The frames of all calls, without places yet.
    pub bytes: Vec<u8>,
    /// The records in the frames, for those who follow the journal.
    pub records: Vec<Record>,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

impl Batch {
    /// Takes out the calls of which `goes` says so, and hands them back; the others stay in their
    /// order, and barriers stay.
    pub fn take_out(&mut self, goes: impl Fn(&[Record]) -> bool) -> Vec<Call> {
        let mut first = 0;
        let gone = |call: &Call| {
            let records = &self.records[first..first + call.frames];
            first += call.frames;
            !records.is_empty() && goes(records)
        };
        let gone: Vec<bool> = self.calls.iter().map(gone).collect();
        let mut taken = Vec::new();
        if !gone.contains(&true) {
            return taken;
        }
        let all = std::mem::take(self);
        let (mut lengths, mut records) = (frame::lengths(&all.bytes), all.records.into_iter());
        let mut at = 0;
        for (call, is_gone) in all.calls.into_iter().zip(gone) {
            let start = at;
            at += lengths.by_ref().take(call.frames).sum::<usize>();
            let own = records.by_ref().take(call.frames);
            if is_gone {
                own.for_each(drop);
                taken.push(call);
            } else {
                self.records.extend(own);
                self.bytes.extend_from_slice(&all.bytes[start..at]);
                self.calls.push(call);
            }
        }
        taken
    }

    /// Empties it for the next use.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.calls.clear();
        if self.bytes.capacity() > BUFFER_BYTES_KEPT {
            *self = Batch::default();
        }
    }
}

/// The writer's inbox.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// `waiting.batch.bytes.len()`, to be looked at without the lock.
    bytes: AtomicUsize,
    /// Wakes the writer.
    pub work: Notify,
    /// Wakes callers that wait for room.
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    batch: Batch,
    is_closed: bool,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing is left half done under the lock, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one call's records, all or none. Returns where the answer will be, and each frame's
    /// length.
    pub fn push(
        &self,
        records: Vec<Record>,
    ) -> Result<(oneshot::Receiver<Answer>, Vec<usize>), AppendError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let last = records.len().saturating_sub(1);
            let put = |(i, record)| frame::put(scratch, record, i < last);
            let lengths: Vec<usize> = records.iter().enumerate().map(put).collect();
            let pushed = self.push_frames(scratch, records);
            if scratch.capacity() > SCRATCH_BYTES_KEPT {
                *scratch = Vec::new();
            }
            pushed.map(|answer| (answer, lengths))
        })
    }

    fn push_frames(
        &self,
        frames: &[u8],
        records: Vec<Record>,
    ) -> Result<oneshot::Receiver<Answer>, AppendError> {
        if frames.len() > CALL_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: frames.len() });
        }
        let (answer, answered) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(AppendError::Closed);
        }
        let batch = &mut waiting.batch;
        if batch.bytes.len() > QUEUE_BYTES_MAX {
            return Err(AppendError::Busy);
        }
        batch.bytes.extend_from_slice(frames);
        batch.calls.push(Call { frames: records.len(), answer });
        batch.records.extend(records);
        self.bytes.store(batch.bytes.len(), Ordering::Release);
        let is_first = batch.calls.len() == 1;
        drop(waiting);
        if is_first {
            self.work.notify_one();
        }
        Ok(answered)
    }

    /// Waits while more is queued than one sync should carry.
    pub async fn room(&self) {
        while self.bytes.load(Ordering::Acquire) >= QUEUE_BYTES_SOFT {
            let room = self.room.notified();
            if self.bytes.load(Ordering::Acquire) >= QUEUE_BYTES_SOFT {
                room.await;
            }
        }
    }

    /// Swaps all that waits into `batch`, which must be empty. Says whether there was anything.
    pub fn take(&self, batch: &mut Batch) -> bool {
        let mut waiting = self.lock();
        if waiting.batch.calls.is_empty() {
            return false;
        }
        std::mem::swap(&mut waiting.batch, batch);
        let was = self.bytes.swap(0, Ordering::AcqRel);
        drop(waiting);
        if was >= QUEUE_BYTES_SOFT {
            self.room.notify_waiters();
        }
        true
    }

    /// Takes no more; what waits is still written.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    /// Whether nothing waits and nothing will come.
    pub fn is_done(&self) -> bool {
        let waiting = self.lock();
        waiting.is_closed && waiting.batch.calls.is_empty()
    }
}
