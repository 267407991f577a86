//! Reading: entries in order, damage by name, following what is still being written.
//!
//! Works beside the writer in its own process (up to what is durable) and from other processes
//! (up to what is in the files). It blocks on the disk and never changes it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frame::Head;
use super::segment::{self, Limit, Scan, Step, file_name};
use super::{Damage, Entry, Flaw, Shared, lock};
use crate::disk::{Access, Disk};
use crate::record::{Position, Record};

/// Read-ahead for a single record: most are shorter.
const ONE_BYTES: usize = 4 << 10;

/// Where each segment in a directory starts, oldest first.
pub fn segments_in(disk: &dyn Disk) -> io::Result<Vec<Position>> {
    Ok(segment::list(disk)?.into_iter().map(Position).collect())
}

/// The entries in a directory from `from` on (or from the oldest kept), read only, while another
/// process may write. At the end it gives `None`, and goes on when asked again after more was
/// written. What it gives last may not be durable yet.
pub fn read_dir(disk: Arc<dyn Disk>, from: Position) -> Reader {
    Reader::new(Source::Directory(disk), from)
}

/// Entries of the journal in order. Damaged bytes are named once, as an error, and skipped.
pub struct Reader {
    source: Source,
    /// Where it stands.
    at: u64,
    until: u64,
    here: Option<Here>,
    chunk: Option<usize>,
    /// The place of a fault that was named and could not be skipped: named once, not for ever.
    named: Option<u64>,
}

enum Source {
    /// Beside the writer.
    Live(Arc<Shared>),
    /// From outside.
    Directory(Arc<dyn Disk>),
}

/// The segment it stands in.
struct Here {
    base: u64,
    scan: Scan,
    limit: Limit,
}

impl Reader {
    pub(super) fn live(shared: Arc<Shared>, from: Position) -> Reader {
        Reader::new(Source::Live(shared), from)
    }

    fn new(source: Source, from: Position) -> Reader {
        let (here, chunk, named) = (None, None, None);
        Reader { source, at: from.0, until: u64::MAX, here, chunk, named }
    }

    /// Stops before the first entry at or after `end`.
    pub fn until(self, end: Position) -> Reader {
        Reader { until: end.0, ..self }
    }

    /// For one record only.
    pub(super) fn one(self) -> Reader {
        Reader { chunk: Some(ONE_BYTES), ..self }
    }

    /// Where the next entry is looked for.
    pub fn position(&self) -> Position {
        Position(self.at)
    }

    fn disk(&self) -> &Arc<dyn Disk> {
        match &self.source {
            Source::Live(shared) => &shared.disk,
            Source::Directory(disk) => disk,
        }
    }

    /// The segment to read in, how far it goes, and whether another one follows: the one it
    /// stands in until that is read to its end, the oldest one if it stands before all.
    fn locate(&self) -> io::Result<Option<(u64, Limit, bool)>> {
        let here = self.here.as_ref().map(|here| here.base);
        let find = |bases: &[u64], last: Limit| {
            let by_place = || bases.partition_point(|base| *base <= self.at).saturating_sub(1);
            let here = here.and_then(|here| bases.binary_search(&here).ok());
            let mut i = here.unwrap_or_else(by_place);
            // From outside one may have read on into what failed: the next base decides.
            if here.is_some() && bases.get(i + 1).is_some_and(|next| self.at >= *next) {
                i += 1;
            }
            let next = bases.get(i + 1).copied();
            Some((*bases.get(i)?, next.map_or(last, Limit::Known), next.is_some()))
        };
        match &self.source {
            Source::Live(shared) => {
                let bases = lock(&shared.bases);
                // Read under the lock: a new segment is in the list before anything in it is
                // durable, so without a next one all that is durable is in this one.
                let end = shared.durable.load(Ordering::Acquire);
                Ok(find(&bases, Limit::Known(end)))
            }
            Source::Directory(disk) => Ok(find(&segment::list(&**disk)?, Limit::FileEnd)),
        }
    }

    /// Finds the segment again: at the start, at a segment's end, and to see whether more came.
    /// Says whether there is anything to read.
    fn turn(&mut self) -> Result<bool, Damage> {
        let located = match self.locate() {
            Ok(located) => located,
            Err(error) => return self.fault(self.at, &error).map(|()| false),
        };
        let Some((base, limit, is_closed)) = located else { return Ok(false) };
        if let Some(here) = self.here.as_mut().filter(|here| here.base == base) {
            let has_more = here.limit != limit;
            here.limit = limit;
            return Ok(has_more);
        }
        if self.here.take().is_some() {
            self.at = base;
        }
        if !is_closed && limit == Limit::Known(self.at.max(base)) {
            // Nothing in it counts yet: its file may still be replaced.
            return Ok(false);
        }
        self.enter(base, limit, is_closed)
    }

    fn enter(&mut self, base: u64, limit: Limit, is_closed: bool) -> Result<bool, Damage> {
        match self.disk().open(&file_name(base), Access::Read) {
            Ok(file) => {
                let mut scan = Scan::new(file, base, self.at);
                if let Some(chunk) = self.chunk {
                    scan = scan.with_chunk(chunk);
                }
                self.at = scan.position();
                self.here = Some(Here { base, scan, limit });
                Ok(true)
            }
            // Removed by retention between looking and opening: look again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.is_gone(base) => {
                self.turn()
            }
            Err(error) => match limit {
                Limit::Known(end) if is_closed => Err(self.skip(base, end, &error)),
                _ => self.fault(base, &error).map(|()| false),
            },
        }
    }

    fn is_gone(&self, base: u64) -> bool {
        matches!(self.locate(), Ok(Some((now, ..))) if now != base)
    }

    /// Names a whole segment as unreadable and goes on behind it.
    fn skip(&mut self, base: u64, end: u64, error: &io::Error) -> Damage {
        let start = self.at.max(base);
        self.at = end;
        damage(base, start, end - start, Flaw::Unreadable(error.to_string()))
    }

    /// Names a fault that cannot be skipped, once.
    fn fault(&mut self, base: u64, error: &io::Error) -> Result<(), Damage> {
        if self.named.replace(self.at) == Some(self.at) {
            return Ok(());
        }
        Err(damage(base, self.at.max(base), 0, Flaw::Unreadable(error.to_string())))
    }

    fn entry(&self, position: u64, head: Head, payload: &[u8], base: u64) -> Result<Entry, Damage> {
        let next = position + head.frame_bytes() as u64;
        match Record::decode(payload) {
            Ok(record) => Ok(Entry { position: Position(position), next: Position(next), record }),
            Err(error) => {
                Err(damage(base, position, next - position, Flaw::Record(error.to_string())))
            }
        }
    }
}

fn damage(base: u64, position: u64, bytes: u64, why: Flaw) -> Damage {
    let (segment, offset) = (Position(base), position - base);
    Damage { segment, position: Position(position), offset, bytes, why }
}

impl Iterator for Reader {
    type Item = Result<Entry, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.until {
            let Some(here) = &mut self.here else {
                match self.turn() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(damage) => return Some(Err(damage)),
                }
            };
            let step = here.scan.step(here.limit);
            match step {
                Step::Frame { position, .. } if position >= self.until => return None,
                Step::Frame { position, head } => {
                    self.at = here.scan.position();
                    if head.len > 0 {
                        let here = self.here.as_ref()?;
                        return Some(self.entry(position, head, here.scan.payload(), here.base));
                    }
                }
                Step::Damaged(damage) => {
                    self.at = here.scan.position();
                    return Some(Err(damage));
                }
                Step::End => match self.turn() {
                    Ok(true) => {}
                    Ok(false) => {
                        // A file without anything good may be replaced: open it anew next time.
                        self.here.take_if(|here| here.base == self.at);
                        return None;
                    }
                    Err(damage) => return Some(Err(damage)),
                },
            }
        }
        None
    }
}
