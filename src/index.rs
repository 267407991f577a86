//! The index: which ids were seen and decided and where, state variables, phones. A fold of the
//! journal with a cursor, kept in sled.
//!
//! It is never the truth: it may be behind, damaged or deleted, and is then folded again. Nothing
//! waits for it that must be durable. All calls block on the disk.

mod phones;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sled::{Db, Tree};

use crate::action::PhoneId;
use crate::event::{EventId, Trust};
use crate::journal::{Damage, Entry, Flaw, Journal};
use crate::ledger::Phone;
use crate::record::{PhoneChange, Position, Record, StateSet};

/// Memory for pages. Lookups touch one page each and the system caches the file as well, so
/// little is enough, and an idle process stays small.
const CACHE_BYTES: u64 = 2 << 20;
/// Entries folded at once while catching up: large enough that a `Seen` and its `Decided` mostly
/// meet and become one write, small enough to hold in memory.
const ENTRIES_PER_BATCH: usize = 4096;
/// After so many ids others may use the processor: webhooks must not wait for the index.
const IDS_PER_TURN: usize = 16;

const CURSOR: &[u8] = b"cursor";

/// The index.
#[derive(Clone)]
pub struct Index {
    db: Db,
    /// Event id to [`Places`].
    ids: Tree,
    /// Path to [`StateRow`].
    state: Tree,
    /// Phone to [`Phone`].
    phones: Tree,
    meta: Tree,
    path: PathBuf,
}

/// In what condition the index was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As it was left.
    Kept,
    /// There was none; it is empty now.
    Missing,
    /// It could not be opened; it was moved away and is empty now.
    Damaged {
        /// Why it could not be opened.
        why: String,
        /// Where it was moved to.
        moved_to: PathBuf,
    },
}

/// The index cannot be used. It may be deleted: it is made from the journal again.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Another process has it open.
    #[error("{}: another process uses it", path.display())]
    Busy {
        /// The index.
        path: PathBuf,
    },
    /// A file or folder of it cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store failed.
    #[error("index: {0}")]
    Store(#[from] sled::Error),
    /// A value is not what this version writes.
    #[error("index: {0}")]
    Value(#[from] serde_json::Error),
}

/// A state variable as the rules last set it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateRow {
    /// Its value.
    pub value: Value,
    /// The least trust of what led to it.
    pub trust: Trust,
    /// The record that set it.
    pub position: Position,
}

/// What [`Index::catch_up`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaughtUp {
    /// How many entries were folded in.
    pub entries: u64,
    /// Why the index was emptied first, if it was.
    pub rebuilt: Option<&'static str>,
    /// Some records before the journal's first one were never folded in: state and phones need
    /// [`Index::restore`] from the newest checkpoint.
    pub is_partial: bool,
    /// Damage met in the journal.
    pub damage: Vec<Damage>,
}

/// Entries on their way into the index, of which only what it keeps is held: some 50 bytes for an
/// event. The more of them are written at once, the less each costs: mostly a `Seen` meets its
/// `Decided`, a state its next value, and a page is changed once for all its ids.
#[derive(Debug, Default)]
pub struct Fold {
    ids: BTreeMap<EventId, Places>,
    /// Ids whose `Seen` record goes, and the `Keys` record where they are seen from now on.
    carried: Vec<(EventId, Position)>,
    states: BTreeMap<String, StateRow>,
    phones: Vec<PhoneChange>,
    /// Everything before is folded in; none while nothing is.
    end: Option<Position>,
}

/// Where an event's records are; 16 bytes on disk, each position plus one so that 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Places {
    seen: Option<Position>,
    decided: Option<Position>,
}

impl Places {
    fn bytes(self) -> [u8; 16] {
        let number = |place: Option<Position>| place.map_or(0, |Position(at)| at + 1);
        let (seen, decided) = (number(self.seen), number(self.decided));
        (u128::from(seen) << 64 | u128::from(decided)).to_be_bytes()
    }

    /// None for a value that is no two positions, as for one that is not there.
    fn read(bytes: &[u8]) -> Places {
        let both = bytes.try_into().map_or(0, u128::from_be_bytes);
        let place = |number: u64| number.checked_sub(1).map(Position);
        Places { seen: place((both >> 64) as u64), decided: place(both as u64) }
    }
}

impl Index {
    /// Opens the index in that folder, an empty one if there is none or it is damaged.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Index, Condition), IndexError> {
        let path = path.into();
        let is_there = path.exists();
        let why = match Index::load(&path) {
            Ok(index) if is_there => return Ok((index, Condition::Kept)),
            Ok(index) => return Ok((index, Condition::Missing)),
            Err(error) if is_busy(&error) => return Err(IndexError::Busy { path }),
            // Nothing is wrong with it, and a new one would need more.
            Err(error) if is_full(&error) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        let moved_to = path.with_extension("damaged");
        let io = |source| IndexError::Io { path: path.clone(), source };
        // Only the newest one is kept.
        let is_folder = moved_to.is_dir();
        let old =
            if is_folder { fs::remove_dir_all(&moved_to) } else { fs::remove_file(&moved_to) };
        match old {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        fs::rename(&path, &moved_to).map_err(io)?;
        tracing::warn!(%why, moved_to = %moved_to.display(), "the index is damaged; making it anew");
        Ok((Index::load(&path)?, Condition::Damaged { why, moved_to }))
    }

    /// An empty index that takes no space where the journal is, and is gone when it is dropped: sled
    /// keeps it below `/dev/shm`.
    pub fn aside() -> Result<Index, IndexError> {
        Ok(Index::with(sled::Config::new().temporary(true))?)
    }

    fn load(path: &Path) -> Result<Index, sled::Error> {
        Index::with(sled::Config::new().path(path))
    }

    fn with(config: sled::Config) -> Result<Index, sled::Error> {
        let path = config.get_path();
        let config = config.cache_capacity(CACHE_BYTES);
        let config = config.mode(sled::Mode::LowSpace).flush_every_ms(None);
        let load = || {
            let db = config.open()?;
            let tree = |name: &str| db.open_tree(name);
            let (ids, state, phones) = (tree("ids")?, tree("state")?, tree("phones")?);
            let meta = tree("meta")?;
            Ok(Index { db, ids, state, phones, meta, path: path.clone() })
        };
        // sled answers some damage with a panic.
        catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(sled::Error::ReportableBug(text.unwrap_or("panicked").into()))
        })
    }

    /// Everything before this position is folded in.
    pub fn cursor(&self) -> Result<Position, IndexError> {
        let bytes = self.meta.get(CURSOR)?;
        let number = bytes.and_then(|bytes| bytes.as_ref().try_into().ok());
        Ok(Position(number.map_or(0, u64::from_be_bytes)))
    }

    /// Folds entries in, which must be in order. Those before the cursor are known and skipped.
    pub fn apply(&self, entries: &[Entry]) -> Result<(), IndexError> {
        let mut fold = Fold::default();
        fold.add(entries, self.cursor()?);
        self.write(&fold)
    }

    /// Writes what was folded; the fold must go on where the index ends.
    pub fn write(&self, fold: &Fold) -> Result<(), IndexError> {
        let Some(end) = fold.end else { return Ok(()) };
        // One by one in order of the keys, so that neighbours meet their page while it is in the
        // cache: sled's own batch would shuffle them.
        for (n, (EventId(id), places)) in fold.ids.iter().enumerate() {
            self.ids.insert(id, &places.bytes())?;
            if n % IDS_PER_TURN == 0 {
                std::thread::yield_now();
            }
        }
        for (id, seen) in &fold.carried {
            let carried = Places { seen: Some(*seen), ..self.places(*id)? };
            self.ids.insert(id.0, &carried.bytes())?;
        }
        for (id, seen) in &fold.carried {
            let carried = Places { seen: Some(*seen), ..self.places(*id)? };
            self.ids.insert(id.0, &carried.bytes())?;
        }
        for (path, row) in &fold.states {
            self.set_state(path, row)?;
        }
        for change in &fold.phones {
            self.change_phone(change)?;
        }
        // Last: folding the same entries twice gives the same, leaving some out does not.
        self.set_cursor(end)
    }

    fn set_cursor(&self, Position(to): Position) -> Result<(), IndexError> {
        self.meta.insert(CURSOR, &to.to_be_bytes())?;
        Ok(())
    }

    fn set_state(&self, path: &str, row: &StateRow) -> Result<(), IndexError> {
        if row.value.is_null() {
            self.state.remove(path)?;
        } else {
            self.state.insert(path, serde_json::to_vec(row)?)?;
        }
        Ok(())
    }

    fn places(&self, id: EventId) -> Result<Places, IndexError> {
        Ok(self.ids.get(id.0)?.map_or(Places::default(), |bytes| Places::read(&bytes)))
    }

    /// Where the event was taken, or where its id was carried to; none if it is new or forgotten.
    pub fn seen(&self, id: EventId) -> Result<Option<Position>, IndexError> {
        Ok(self.places(id)?.seen)
    }

    /// Where it was decided.
    pub fn decided(&self, id: EventId) -> Result<Option<Position>, IndexError> {
        Ok(self.places(id)?.decided)
    }

    /// A state variable.
    pub fn state(&self, path: &str) -> Result<Option<StateRow>, IndexError> {
        Ok(self.state.get(path)?.map(|bytes| serde_json::from_slice(&bytes)).transpose()?)
    }

    /// All state variables, by path.
    pub fn states(&self) -> Result<Vec<(String, StateRow)>, IndexError> {
        let row = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (path, row) = item?;
            Ok((String::from_utf8_lossy(&path).into_owned(), serde_json::from_slice(&row)?))
        };
        self.state.iter().map(row).collect()
    }

    /// Makes what was folded in survive a power cut, so that less is folded again.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        // sled 0.34 stops at `sync_file_range`, which does not reach the disk's own cache.
        let path = self.path.join("db");
        let synced = File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|source| IndexError::Io { path, source })
    }

    /// Folds in what the journal has more, or all of it if the cursor cannot be right.
    pub fn catch_up(&self, journal: &Journal) -> Result<CaughtUp, IndexError> {
        let (first, cursor) = (journal.first(), self.cursor()?);
        let mut done = CaughtUp { is_partial: cursor < first, ..CaughtUp::default() };
        done.rebuilt = doubt(journal, cursor);
        if done.rebuilt.is_some() {
            self.clear()?;
            done.is_partial = first > Position(0);
        }
        let mut reader = journal.read(self.cursor()?.max(first));
        loop {
            let mut entries = Vec::new();
            let damaged = done.damage.len();
            for item in reader.by_ref().take(ENTRIES_PER_BATCH) {
                match item {
                    Ok(entry) => entries.push(entry),
                    Err(damage) => done.damage.push(damage),
                }
            }
            self.apply(&entries)?;
            done.entries += entries.len() as u64;
            if entries.len() + done.damage.len() - damaged < ENTRIES_PER_BATCH {
                return Ok(done);
            }
        }
    }

    /// Empties it.
    fn clear(&self) -> Result<(), IndexError> {
        self.set_cursor(Position(0))?;
        for tree in [&self.ids, &self.state, &self.phones] {
            tree.clear()?;
        }
        Ok(())
    }

    /// Replaces all state variables and phones by what a checkpoint says, for an index that could
    /// not fold the records before it.
    pub fn restore(
        &self,
        states: impl IntoIterator<Item = (String, StateRow)>,
        phones: impl IntoIterator<Item = (PhoneId, Phone)>,
    ) -> Result<(), IndexError> {
        self.state.clear()?;
        self.phones.clear()?;
        for (path, row) in states {
            self.state.insert(path, serde_json::to_vec(&row)?)?;
        }
        for (id, row) in phones {
            self.put_phone(&id, &row)?;
        }
        Ok(())
    }

    /// Forgets ids whose records were before `first`, the journal's first position now, and
    /// which were not carried forward. Returns how many. Reads through all ids.
    pub fn forget_before(&self, first: Position) -> Result<usize, IndexError> {
        let mut removed = 0;
        for item in self.ids.iter() {
            let (id, places) = item?;
            if Places::read(&places).seen < Some(first) {
                self.ids.remove(id)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

// === impl Fold ===

impl Fold {
    /// Adds entries, which must be in order; those before `from` are left out.
    pub fn add(&mut self, entries: &[Entry], from: Position) {
        let known = entries.partition_point(|entry| entry.position < from);
        entries[known..].iter().for_each(|entry| self.add_one(entry));
    }

    /// The ids in it.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &EventId> {
        self.ids.keys()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.end.is_none()
    }

    fn add_one(&mut self, entry: &Entry) {
        let here = entry.position;
        match &entry.record {
            Record::Seen(event) => {
                self.ids.insert(event.id, Places { seen: Some(here), decided: None });
            }
            Record::Decided(decided) => {
                let places = Places { seen: Some(decided.seen), decided: Some(here) };
                self.ids.insert(decided.event, places);
                for StateSet { path, value, trust } in &decided.sets {
                    let row = StateRow { value: value.clone(), trust: *trust, position: here };
                    self.states.insert(path.clone(), row);
                }
            }
            Record::Keys(keys) => self.carried.extend(keys.ids.iter().map(|id| (*id, here))),
            Record::Phone(change) => self.phones.push(change.clone()),
            Record::Settled(_)
            | Record::Receipt(_)
            | Record::Quarantined(_)
            | Record::Known(_)
            | Record::Body(_)
            | Record::BodyRead(_)
            | Record::Checkpoint(_) => {}
        }
        self.end = Some(entry.next);
    }
}

/// Why that cursor cannot have been made with this journal, if so.
fn doubt(journal: &Journal, cursor: Position) -> Option<&'static str> {
    if cursor > journal.end() {
        return Some("it is ahead of the journal");
    }
    if cursor < journal.first() || cursor == journal.end() {
        return None;
    }
    match journal.read(cursor).next() {
        Some(Err(damage)) if damage.position == cursor && damage.why == Flaw::Head => {
            Some("no record starts at its cursor")
        }
        _ => None,
    }
}

impl IndexError {
    /// Whether it would go well with more space on the disk.
    pub fn wants_space(&self) -> bool {
        match self {
            IndexError::Store(error) => is_full(error),
            IndexError::Io { source, .. } => crate::disk::wants_space(source),
            IndexError::Busy { .. } | IndexError::Value(_) => false,
        }
    }
}

fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if crate::disk::wants_space(error))
}

fn is_busy(error: &sled::Error) -> bool {
    // sled 0.34 has no kind of its own for this.
    matches!(error, sled::Error::Io(error) if error.to_string().contains("acquire lock"))
}

#[cfg(test)]
mod tests;
