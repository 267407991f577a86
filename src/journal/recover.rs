//! Opening: what is in the directory, where it ends, and the newest checkpoint.
//!
//! Cuts off an unfinished write at the end of the newest segment; changes nothing else. The writer
//! goes on in a new segment, never in a file found here: after a sync that failed in an earlier
//! process the system may show bytes that are not on the disk and that no later sync writes.

use std::sync::Arc;

use super::segment::{self, Limit, Scan, Step, file_name};
use super::{Damage, JournalError};
use crate::disk::{Access, Disk};
use crate::record::{Checkpoint, Position, Record};

/// The first byte of a checkpoint's payload, see [`Record::encode`].
const CHECKPOINT_KIND: u8 = 7;

/// What opening found.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The oldest position kept.
    pub first: Position,
    /// Behind the last record, where the next one goes.
    pub end: Position,
    /// The newest checkpoint and where it is.
    pub checkpoint: Option<(Position, Checkpoint)>,
    /// Damage in what was read: the newest segments, back to the checkpoint.
    pub damage: Vec<Damage>,
    /// Bytes of an unfinished write that were cut off; nobody was told that they were durable.
    pub torn_bytes: u64,
}

/// What the writer needs to go on.
pub(super) struct Found {
    pub opened: Opened,
    pub bases: Vec<u64>,
}

/// What a look at one segment gave.
struct Look {
    /// Behind the last record of the last whole call.
    end: u64,
    /// Behind that and the marks that follow it.
    good: u64,
    checkpoint: Option<(Position, Checkpoint)>,
    damage: Vec<Damage>,
}

/// Looks at the newest segment, mends its end, and searches backwards for a checkpoint.
pub(super) async fn recover(disk: &Arc<dyn Disk>) -> Result<Found, JournalError> {
    let bases = segment::list(&**disk).map_err(JournalError::List)?;
    let Some(&base) = bases.last() else { return Ok(empty()) };
    let error = |source| JournalError::Segment { name: file_name(base), source };
    let file = disk.open(&file_name(base), Access::Append).map_err(error)?;
    let size = file.size().map_err(error)?;
    let mut look = look(Scan::new(Arc::clone(&file), base, base), Limit::FileEnd);
    let torn_bytes = (base + size).saturating_sub(look.good);
    if torn_bytes > 0 {
        file.truncate(look.good - base).map_err(error)?;
    }
    // After a kill the bytes may be in the page cache only: what is read now must stay.
    file.sync().await.map_err(error)?;
    disk.sync_directory().await.map_err(JournalError::List)?;
    for pair in bases.windows(2).rev() {
        if look.checkpoint.is_some() {
            break;
        }
        let older = look_back(disk, pair[0], pair[1])?;
        look.checkpoint = older.checkpoint;
        look.damage.splice(0..0, older.damage);
    }
    let opened = Opened {
        first: Position(bases[0]),
        end: Position(look.end),
        checkpoint: look.checkpoint,
        damage: look.damage,
        torn_bytes,
    };
    Ok(Found { opened, bases })
}

fn empty() -> Found {
    let opened = Opened {
        first: Position(0),
        end: Position(0),
        checkpoint: None,
        damage: Vec::new(),
        torn_bytes: 0,
    };
    Found { opened, bases: Vec::new() }
}

fn look_back(disk: &Arc<dyn Disk>, base: u64, end: u64) -> Result<Look, JournalError> {
    let error = |source| JournalError::Segment { name: file_name(base), source };
    let file = disk.open(&file_name(base), Access::Read).map_err(error)?;
    Ok(look(Scan::new(file, base, base), Limit::Known(end)))
}

fn look(mut scan: Scan, limit: Limit) -> Look {
    let start = scan.position();
    let mut look = Look { end: start, good: start, checkpoint: None, damage: Vec::new() };
    loop {
        match scan.step(limit) {
            Step::End => return look,
            Step::Damaged(damage) => {
                // Damage is what was acknowledged: its place is taken.
                look.end = scan.position();
                look.good = look.end;
                look.damage.push(damage);
            }
            Step::Frame { position, head } => {
                if head.len == 0 {
                    look.good = scan.position();
                } else if !head.more {
                    look.end = scan.position();
                    look.good = look.end;
                } else if head.seals {
                    // The call before it lost its end to damage.
                    look.end = look.end.max(position);
                    look.good = look.good.max(position);
                }
                look.checkpoint = checkpoint(position, scan.payload()).or(look.checkpoint);
            }
        }
    }
}

fn checkpoint(position: u64, payload: &[u8]) -> Option<(Position, Checkpoint)> {
    if payload.first() != Some(&CHECKPOINT_KIND) {
        return None;
    }
    match Record::decode(payload) {
        Ok(Record::Checkpoint(checkpoint)) => Some((Position(position), checkpoint)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[test]
    fn a_checkpoint_is_known_by_its_first_byte() {
        let truth = RawValue::from_string("{}".into()).unwrap();
        let mut bytes = Vec::new();
        Record::Checkpoint(Checkpoint { as_of: Position(9), truth }).encode(&mut bytes);
        let (at, found) = checkpoint(12, &bytes).unwrap();
        assert_eq!((at, found.as_of), (Position(12), Position(9)));
    }
}
