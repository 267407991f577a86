//! The way back after a stop: the journal folded into what is true now, and the index brought up to
//! it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::{StartError, cannot, system};
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::OsDisk;
use crate::event::Event;
use crate::index::{Condition, Index, IndexError, StateRow};
use crate::journal::{Entry, Journal, Reader};
use crate::ledger::Ledger;
use crate::record::{Checkpoint, Position, Record};
use crate::web::timeline::Latest;

/// Given to an index that finds the disk full, as often as it helps: it writes half a megabyte at a
/// time.
const INDEX_ROOM_BYTES: u64 = 1 << 20;

/// What the journal says at start.
pub(super) struct Recovered {
    pub journal: Journal,
    pub ledger: Ledger,
    pub applied: Position,
    pub undecided: Vec<(Position, Arc<Event>)>,
    pub latest: Latest,
}

pub(super) async fn recover(config: &Config, clock: &Clock) -> Result<Recovered, StartError> {
    let folder = config.store.path.join("journal");
    let disk = cannot!(OsDisk::create(&folder), "cannot make {}", folder.display())?;
    let opened = Journal::open(Arc::new(disk), config.store.journal.clone(), clock.clone()).await;
    let (journal, opened) = cannot!(opened, "cannot open the journal in {}", folder.display())?;
    for damage in &opened.damage {
        tracing::error!(%damage, "the journal is damaged; the rest of it is used");
    }
    let folded =
        Folded::fold(opened.checkpoint.as_ref(), &journal.segments(), |from| journal.read(from));
    Ok(Recovered {
        journal,
        applied: opened.end,
        ledger: folded.ledger,
        undecided: folded.undecided.into(),
        latest: folded.latest,
    })
}

/// The index, with everything in it that the journal holds. On a full disk it gets what it needs
/// of the space that is kept for alarms: what was not delivered before a crash must go on.
pub(super) async fn open_index(
    path: &Path,
    journal: &Journal,
    ledger: &Ledger,
) -> Result<Index, StartError> {
    loop {
        match caught_up(path, journal, ledger) {
            Err(error) if error.wants_space() && journal.make_room(INDEX_ROOM_BYTES).await => {}
            Err(error) if error.wants_space() => {
                tracing::error!(%error, "the index is built anew outside the full disk");
                let done = Index::aside().and_then(|index| catch_up(index, journal, ledger));
                return cannot!(done, "cannot open an index anywhere");
            }
            done => return cannot!(done, "cannot open the index"),
        }
    }
}

fn caught_up(path: &Path, journal: &Journal, ledger: &Ledger) -> Result<Index, IndexError> {
    let (index, condition) = Index::open(path)?;
    if let Condition::Damaged { why, moved_to } = condition {
        let moved_to = moved_to.display();
        tracing::warn!(why, %moved_to, "the index is damaged; it is built anew from the journal");
    }
    catch_up(index, journal, ledger)
}

fn catch_up(index: Index, journal: &Journal, ledger: &Ledger) -> Result<Index, IndexError> {
    let done = index.catch_up(journal)?;
    if let Some(why) = done.rebuilt {
        tracing::info!(why, entries = done.entries, "the index was built anew");
    }
    if done.is_partial {
        index.restore(state_rows(ledger), ledger.phones.clone())?;
    }
    Ok(index)
}

/// State as the checkpoint has it, for an index that is younger than the oldest segment.
fn state_rows(ledger: &Ledger) -> impl Iterator<Item = (String, StateRow)> {
    ledger.memory.states().iter().map(|(path, entry)| {
        let position = Position::default();
        (path.clone(), StateRow { value: entry.value.clone(), trust: entry.trust, position })
    })
}

/// The journal since its newest checkpoint, folded.
pub struct Folded {
    /// What is true now.
    pub ledger: Ledger,
    /// Events that wait for the rules.
    pub undecided: VecDeque<(Position, Arc<Event>)>,
    /// The latest events for the page.
    pub latest: Latest,
}

impl Folded {
    /// Folds the journal from its newest checkpoint on; `read` reads it from a position.
    pub fn fold(
        checkpoint: Option<&(Position, Checkpoint)>,
        segments: &[Position],
        read: impl FnOnce(Position) -> Reader,
    ) -> Folded {
        let first = segments.first().copied().unwrap_or_default();
        let (ledger, as_of) = start_of(checkpoint, first);
        // The page wants some history even right after a checkpoint.
        let from = as_of.min(segments.last().copied().unwrap_or(as_of));
        let mut folded = Folded { ledger, undecided: VecDeque::new(), latest: Latest::default() };
        for entry in read(from) {
            match entry {
                Ok(entry) => folded.entry(&entry, as_of),
                Err(damage) => tracing::error!(%damage, "the journal is damaged here"),
            }
        }
        folded
    }

    fn entry(&mut self, entry: &Entry, as_of: Position) {
        self.latest.apply(entry);
        if entry.position < as_of && !matches!(entry.record, Record::Seen(_)) {
            return;
        }
        if let Record::Seen(event) = &entry.record
            && entry.position >= as_of
        {
            self.ledger.seen(event);
        }
        match &entry.record {
            Record::Seen(event) if self.ledger.awaits_decision(entry.position) => {
                self.undecided.push_back((entry.position, event.clone()));
            }
            Record::Seen(_) => {}
            other => self.ledger.apply(other),
        }
        let ledger = &self.ledger;
        while self.undecided.front().is_some_and(|(at, _)| !ledger.awaits_decision(*at)) {
            self.undecided.pop_front();
        }
    }
}

fn start_of(checkpoint: Option<&(Position, Checkpoint)>, first: Position) -> (Ledger, Position) {
    let Some((at, checkpoint)) = checkpoint else { return (Ledger::default(), first) };
    match Ledger::from_checkpoint(checkpoint) {
        Ok(ledger) => (ledger, checkpoint.as_of),
        Err(error) => {
            tracing::error!(%at, %error, "the checkpoint cannot be read; reading everything");
            (Ledger::default(), first)
        }
    }
}
