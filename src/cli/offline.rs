//! Working on the data while no server runs: the same journal, the same fold, the same checks.

use std::sync::Arc;

use anyhow::Context;

use crate::app::{Folded, StoreLock};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::{Disk, OsDisk};
use crate::journal::{Journal, read_dir, segments_in};
use crate::ledger::Ledger;
use crate::phones::{Ask, plan};
use crate::record::{Checkpoint, Position, Record};

/// The data, locked.
pub struct Offline {
    /// What is true now.
    pub ledger: Ledger,
    journal: Journal,
    clock: Clock,
    _lock: StoreLock,
}

impl Offline {
    /// Locks and folds the data; fails if a server works on it.
    pub async fn open(config: &Config) -> anyhow::Result<Offline> {
        let lock = StoreLock::take(&config.store.path)?;
        let folder = config.store.path.join("journal");
        let disk =
            OsDisk::create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let clock = Clock::system();
        let (journal, opened) =
            Journal::open(Arc::new(disk), config.store.journal.clone(), clock.clone()).await?;
        let read = |from| journal.read(from);
        let folded = Folded::fold(opened.checkpoint.as_ref(), &journal.segments(), read);
        let ledger = folded.ledger;
        Ok(Offline { ledger, journal, clock, _lock: lock })
    }

    /// Changes the list of phones; durable when it returns.
    pub async fn ask(&mut self, ask: Ask) -> anyhow::Result<()> {
        let changes = plan(ask, &self.ledger, self.clock.now())?;
        let records: Vec<Record> = changes.into_iter().map(Record::Phone).collect();
        if !records.is_empty() {
            self.journal.append(records.clone()).await?;
        }
        records.iter().for_each(|record| self.ledger.apply(record));
        Ok(())
    }
}

/// What is true now by the journal alone, without locking it: also while a server runs.
pub fn look(config: &Config) -> anyhow::Result<Ledger> {
    let folder = config.store.path.join("journal");
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::existing(&folder));
    if !folder.is_dir() {
        return Ok(Ledger::default());
    }
    let segments =
        segments_in(&*disk).with_context(|| format!("cannot read {}", folder.display()))?;
    let checkpoint = newest_checkpoint(&disk, &segments);
    let read = |from| read_dir(disk.clone(), from);
    Ok(Folded::fold(checkpoint.as_ref(), &segments, read).ledger)
}

fn newest_checkpoint(
    disk: &Arc<dyn Disk>,
    segments: &[Position],
) -> Option<(Position, Checkpoint)> {
    let mut end = Position(u64::MAX);
    for from in segments.iter().rev() {
        // Damage is reported by whoever reads for its contents.
        let entries = read_dir(disk.clone(), *from).until(end).flatten();
        let newest = entries.filter_map(|entry| match entry.record {
            Record::Checkpoint(checkpoint) => Some((entry.position, checkpoint)),
            _ => None,
        });
        if let Some(found) = newest.last() {
            return Some(found);
        }
        end = *from;
    }
    None
}
