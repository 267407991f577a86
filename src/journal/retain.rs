//! Forgetting: whole old segments go, the ids that must still count as duplicates stay.

use std::time::Duration;

use jiff::Timestamp;

use super::segment::file_name;
use super::{Journal, JournalError, lock};
use crate::event::EventId;
use crate::record::{Keys, PhoneChange, Position, Record};

/// Ids in one [`Record::Keys`]: 64 kB, a usual write.
const IDS_PER_RECORD: usize = 4096;
/// Entries read before other tasks get their turn: about a millisecond.
const ENTRIES_PER_TURN: usize = 256;

/// What a clean-up did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    /// How many segments were removed.
    pub segments: usize,
    /// How many bytes they had.
    pub bytes: u64,
    /// How many ids were carried forward.
    pub ids: usize,
    /// How many damaged places the removed segments had; ids in them are forgotten.
    pub damaged: usize,
    /// The oldest position kept now.
    pub first: Position,
}

/// How old the segment with that base is: when its newest record was received, if it says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age {
    base: u64,
    newest: Option<Timestamp>,
}

/// What one segment holds that matters when it goes.
#[derive(Default)]
struct Content {
    newest: Option<Timestamp>,
    ids: Vec<(Timestamp, EventId)>,
    damaged: usize,
}

/// See [`Journal::retain`].
pub(super) async fn retain(journal: &Journal, safe: Position) -> Result<Retained, JournalError> {
    let mut done = Retained::default();
    while let Some((base, end)) = candidate(journal, safe) {
        let is_beyond = journal.end().0.saturating_sub(base) > journal.shared.config.keep_bytes;
        if !is_beyond && known_young(journal, base) {
            break;
        }
        let content = read(journal, base, end).await;
        *lock(&journal.shared.oldest) = Some(Age { base, newest: content.newest });
        if !is_beyond && known_young(journal, base) {
            break;
        }
        done.ids += carry(journal, content.ids).await?;
        remove(journal, base).await?;
        done.segments += 1;
        done.bytes += end - base;
        done.damaged += content.damaged;
    }
    done.first = journal.first();
    Ok(done)
}

/// The oldest segment, if it is not the newest and ends at or before `safe`.
fn candidate(journal: &Journal, safe: Position) -> Option<(u64, u64)> {
    let bases = lock(&journal.shared.bases);
    match bases[..] {
        [base, end, ..] if end <= safe.0 => Some((base, end)),
        _ => None,
    }
}

/// Whether the segment is known to be too young to go.
fn known_young(journal: &Journal, base: u64) -> bool {
    let age = lock(&journal.shared.oldest).filter(|age| age.base == base);
    let newest = age.and_then(|age| age.newest);
    newest.is_some_and(|newest| newest >= before(journal, journal.shared.config.keep))
}

/// The moment that long ago.
fn before(journal: &Journal, long: Duration) -> Timestamp {
    journal.shared.clock.now().checked_sub(long).unwrap_or(Timestamp::MIN)
}

async fn read(journal: &Journal, base: u64, end: u64) -> Content {
    let cutoff = before(journal, journal.shared.config.duplicates_for);
    let mut content = Content::default();
    let reader = journal.read(Position(base)).until(Position(end));
    for (i, item) in reader.enumerate() {
        match item {
            Ok(entry) => content.add(&entry.record, cutoff),
            Err(_) => content.damaged += 1,
        }
        if i % ENTRIES_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    content
}

impl Content {
    fn add(&mut self, record: &Record, cutoff: Timestamp) {
        self.newest = self.newest.max(moment(record));
        match record {
            Record::Seen(event) if event.received >= cutoff => {
                self.ids.push((event.received, event.id));
            }
            Record::Keys(keys) if keys.received >= cutoff => {
                self.ids.extend(keys.ids.iter().map(|id| (keys.received, *id)));
            }
            _ => {}
        }
    }
}

/// When a record came about. Keys are older than the segment they are in, and a checkpoint does
/// not say.
fn moment(record: &Record) -> Option<Timestamp> {
    match record {
        Record::Seen(event) => Some(event.received),
        Record::Quarantined(kept) => Some(kept.received),
        Record::Decided(decided) => Some(decided.at),
        Record::Settled(settled) => Some(settled.at),
        Record::Receipt(receipt) => Some(receipt.at),
        Record::Known(known) => Some(known.at),
        Record::Body(body) => Some(body.received),
        Record::BodyRead(read) => Some(read.at),
        Record::Phone(change) => match change {
            PhoneChange::Invited { expires, .. } => Some(*expires),
            PhoneChange::Added { at, .. }
            | PhoneChange::Subscribed { at, .. }
            | PhoneChange::Unsubscribed { at, .. }
            | PhoneChange::Alive { at, .. }
            | PhoneChange::Removed { at, .. } => Some(*at),
        },
        Record::Checkpoint(_) | Record::Keys(_) => None,
    }
}

/// Appends the ids anew, oldest first so that each record's ids end at about the same time.
async fn carry(
    journal: &Journal,
    mut ids: Vec<(Timestamp, EventId)>,
) -> Result<usize, JournalError> {
    ids.sort_unstable();
    for chunk in ids.chunks(IDS_PER_RECORD) {
        let received = chunk.last().map(|(received, _)| *received).unwrap_or_default();
        let ids = chunk.iter().map(|(_, id)| *id).collect();
        journal.append(vec![Record::Keys(Keys { received, ids })]).await?;
    }
    Ok(ids.len())
}

async fn remove(journal: &Journal, base: u64) -> Result<(), JournalError> {
    let disk = &journal.shared.disk;
    let error = |source| JournalError::Segment { name: file_name(base), source };
    disk.remove(&file_name(base)).map_err(error)?;
    lock(&journal.shared.bases).retain(|other| *other != base);
    // One at a time, so that no power cut brings back an older one without a younger.
    disk.sync_directory().await.map_err(error)
}
