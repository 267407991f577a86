//! Housekeeping of the journal while Portero runs: checkpoints, and old segments that may go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::index::Index;
use crate::journal::Journal;
use crate::record::Position;
use crate::router::Message;

/// How often a checkpoint is written and old segments are looked for, beside every new segment.
const KEEP_HOUSE_EVERY: Duration = Duration::from_secs(3600);
/// A checkpoint is written when so many times its own size was written since the last one.
const CHECKPOINT_SHARE: u64 = 4;

/// The last checkpoint.
#[derive(Default)]
struct Last {
    /// What it covers.
    as_of: Option<Position>,
    /// Its end in the journal, and how much was written with it.
    end: Position,
    bytes: u64,
}

/// Writes checkpoints, and lets old segments go once a checkpoint stands for them.
pub(super) async fn keep_house(
    journal: Journal,
    index: Arc<Index>,
    router: mpsc::Sender<Message>,
    stopping: CancellationToken,
) {
    let mut first = journal.first();
    let mut rolled = journal.segments_rolled();
    let mut last = Last::default();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            changed = rolled.changed() => {
                if changed.is_err() {
                    return;
                }
                // A checkpoint as large as a segment would bring about the next one by itself.
                if last.is_recent(&journal) {
                    continue;
                }
            }
            () = tokio::time::sleep(KEEP_HOUSE_EVERY) => {}
        }
        // What a full disk has left is not for checkpoints, and one is enough to forget by.
        let spared = journal.is_full() && last.as_of.is_some();
        if !spared && !last.write(&journal, &router).await {
            continue;
        }
        let Some(as_of) = last.as_of else { continue };
        match journal.retain(as_of).await {
            Ok(retained) if retained.first > first => {
                first = retained.first;
                tracing::info!(%first, "old segments were forgotten");
                if let Err(error) = index.forget_before(first) {
                    tracing::error!(%error, "the index cannot forget");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "old segments cannot be removed"),
        }
    }
}

impl Last {
    fn is_recent(&self, journal: &Journal) -> bool {
        journal.end().0.saturating_sub(self.end.0) < CHECKPOINT_SHARE * self.bytes
    }

    /// Has the next one written; whether it was.
    async fn write(&mut self, journal: &Journal, router: &mpsc::Sender<Message>) -> bool {
        let before = journal.end();
        let (reply, answer) = oneshot::channel();
        if router.send(Message::Checkpoint(reply)).await.is_err() {
            return false;
        }
        let answer = answer.await;
        self.end = journal.end();
        self.bytes = self.end.0.saturating_sub(before.0);
        let Ok(Some(as_of)) = answer else { return false };
        self.as_of = Some(as_of);
        true
    }
}
