//! Feeds durable batches to the index. It is in no hurry: the intake remembers the ids that the
//! index lacks, and what a crash keeps from it is folded again at the next start.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::index::{Fold, Index};
use crate::intake::Intake;
use crate::journal::Entry;
use crate::record::Position;

/// How long events may wait for the index: the more are written together, the less each costs.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// How many may wait. As many are read again after a crash, before the server is ready: some
/// hundredths of a second.
const IDS_MAX: usize = 8_192;

/// How often the index is made durable; what it lacks after a power cut is folded again.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// The index's only writer.
pub struct Indexer {
    index: Arc<Index>,
    intake: Intake,
    /// Where the index ended at the start.
    from: Position,
    /// Not written yet.
    fold: Fold,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Works,
    /// The last write failed; the next one waits for its time.
    Fails,
    /// sled answers some damage with a panic. What was to be written is lost, so nothing that
    /// comes later may be written: the next start begins where this ended.
    Broken,
}

impl Indexer {
    /// Writes to `index`; `intake` may then forget the ids.
    pub fn new(index: Arc<Index>, intake: Intake) -> Indexer {
        let from = index.cursor().unwrap_or_default();
        Indexer { index, intake, from, fold: Fold::default(), state: State::Works }
    }

    /// Runs until stopped or the journal ends, and then writes what is left.
    pub async fn run(
        mut self,
        mut batches: mpsc::UnboundedReceiver<Arc<[Entry]>>,
        stopping: CancellationToken,
    ) {
        let (mut write, mut flush) = (interval(WRITE_EVERY), interval(FLUSH_EVERY));
        loop {
            tokio::select! { biased; // The clocks first: batches may come without a pause.
                _ = flush.tick() => self.write(true).await,
                _ = write.tick() => self.write(false).await,
                batch = batches.recv() => {
                    let Some(batch) = batch else { break };
                    if self.state == State::Broken {
                        continue;
                    }
                    self.fold.add(&batch, self.from);
                    if self.fold.ids().len() >= IDS_MAX && self.state == State::Works {
                        self.write(false).await;
                    }
                }
                () = stopping.cancelled() => break,
            }
        }
        self.write(true).await;
    }

    async fn write(&mut self, flushes: bool) {
        if self.state == State::Broken || (self.fold.is_empty() && !flushes) {
            return;
        }
        let (index, intake) = (self.index.clone(), self.intake.clone());
        let fold = std::mem::take(&mut self.fold);
        let work = move || {
            let written = index.write(&fold).and_then(|()| match flushes {
                true => index.flush(),
                false => Ok(()),
            });
            if written.is_ok() {
                intake.indexed(fold.ids());
            }
            (fold, written)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((_, Ok(()))) => self.state = State::Works,
            Ok((fold, Err(error))) => {
                tracing::error!(%error, "the index cannot be written; trying again");
                (self.fold, self.state) = (fold, State::Fails);
            }
            Err(_) => {
                tracing::error!("the index is broken; it is mended at the next start");
                self.state = State::Broken;
            }
        }
    }
}
