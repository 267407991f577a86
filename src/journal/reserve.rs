//! Space for alarms: a file beside the segments that is worth nothing but the bytes it takes. When
//! the disk is full it is cut, a little at a time, so that others who fill the same disk find no
//! more of it than the next write needs. When there is space again it grows back.
//!
//! Only the writer works on it, in steps between two batches.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::writer::append_all;
use crate::disk::{Access, Disk, DiskFile};

/// The file. It gets this name when all of it is there, so a shorter one was cut.
const NAME: &str = "reserve";
/// What it is called until then.
const NEW: &str = "reserve.new";

/// How often it is looked at, and how long after a failure it is tried again: often enough for
/// somebody who has just made space and waits, seldom enough for a flash card.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Written and synced between two batches: an event never waits for more than this.
const STEP_BYTES: u64 = 1 << 20;

/// Cut at a time, beside what the write itself needs: a file system hands out pages, and a new
/// segment needs a name, too.
const CUT_BYTES: u64 = 64 << 10;

/// The space that is kept.
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    /// How large it should be.
    bytes: u64,
    /// How much of it can be given.
    left: u64,
    /// The disk is full: what is left of it is for alarms only.
    is_full: bool,
    growth: Option<Growth>,
    /// When to look or to go on; none if nobody wants a reserve.
    due: Option<Instant>,
    /// Whether it was said that there is none.
    is_missed: bool,
}

/// A file that grows.
struct Growth {
    file: Arc<dyn DiskFile>,
    is_new: bool,
    /// How long it was.
    from: u64,
    /// How long it is.
    len: u64,
}

impl Reserve {
    /// Looks what an earlier run left.
    pub fn open(disk: Arc<dyn Disk>, bytes: u64) -> Reserve {
        // Begun and not finished; usually there is none.
        let _ = disk.remove(NEW);
        let due = (bytes > 0).then(Instant::now);
        let mut reserve =
            Reserve { disk, bytes, left: 0, is_full: false, growth: None, due, is_missed: false };
        match reserve.size() {
            Ok(size) if size < bytes => (reserve.left, reserve.is_full) = (size, true),
            Ok(_) => reserve.left = bytes,
            // None yet, or one that cannot be used: tried as soon as it is due.
            Err(_) => {}
        }
        reserve
    }

    /// Whether only alarms may be written.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// How much can still be given.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// What only alarms may have of it: the rest is also for what frees space and for what became
    /// of actions, which a flood of ordinary ones would use up.
    pub fn alarms_alone(&self) -> u64 {
        self.bytes / 2
    }

    /// When there is something to do here.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The disk is full. From now on only alarms are written, if there is anything to keep for
    /// them.
    pub fn declare_full(&mut self) {
        if self.left > 0 && !self.is_full {
            self.is_full = true;
            self.due = Some(Instant::now() + LOOK_EVERY);
        }
    }

    /// Lets go of what it grew by and had not yet; whether that was anything.
    pub fn stop_growing(&mut self) -> bool {
        let Some(growth) = self.growth.take() else { return false };
        self.due = Some(Instant::now() + LOOK_EVERY);
        if growth.is_new {
            drop(growth.file); // A file that is open keeps its bytes.
            let _ = self.disk.remove(NEW);
        } else if growth.file.truncate(growth.from).is_err() {
            return false;
        }
        growth.len > growth.from
    }

    /// Gives up as much as a write of so many bytes needs, but leaves `floor`; whether it had any.
    pub async fn give(&mut self, bytes: u64, floor: u64) -> bool {
        if self.left <= floor {
            return false;
        }
        let left = self.left.saturating_sub(bytes.max(CUT_BYTES)).max(floor);
        let cut = self.disk.open(NAME, Access::Append).and_then(|file| {
            file.truncate(left)?;
            Ok(file)
        });
        self.declare_full();
        match cut {
            Ok(file) => {
                self.left = left;
                // Some file systems hand out what was freed only after a sync; others do not care.
                let _ = file.sync().await;
                true
            }
            Err(error) => {
                tracing::error!(%error, "the space that is kept for alarms cannot be given");
                self.left = 0;
                false
            }
        }
    }

    /// One step, when it is due. Whether the disk was full and is not any more.
    pub async fn tend(&mut self) -> bool {
        match self.step().await {
            Ok(was_full) => was_full,
            Err(error) => {
                self.stop_growing();
                self.due = Some(Instant::now() + LOOK_EVERY);
                if !self.is_full && !std::mem::replace(&mut self.is_missed, true) {
                    tracing::warn!(%error, bytes = self.bytes, "no space can be kept for alarms");
                }
                false
            }
        }
    }

    async fn step(&mut self) -> io::Result<bool> {
        let Some(mut growth) = self.growth.take() else {
            self.look()?;
            return Ok(false);
        };
        // Half as much again must be free, or the next event would fill the disk once more.
        let goal = self.bytes + self.bytes / 2;
        let more = STEP_BYTES.min(goal.saturating_sub(growth.len));
        let grown = grow(&growth, more).await;
        growth.len += more;
        let is_done = growth.len >= goal;
        let growth = self.growth.insert(growth);
        grown?;
        if !is_done {
            return Ok(false);
        }
        growth.file.truncate(self.bytes)?;
        growth.file.sync().await?;
        if growth.is_new {
            self.disk.rename(NEW, NAME)?;
        }
        self.growth = None;
        self.left = self.bytes;
        self.due = Some(Instant::now() + LOOK_EVERY);
        self.disk.sync_directory().await?;
        if std::mem::take(&mut self.is_missed) {
            tracing::info!(bytes = self.bytes, "space is kept for alarms again");
        }
        Ok(std::mem::take(&mut self.is_full))
    }

    /// Is all of it there? If not it begins to grow.
    fn look(&mut self) -> io::Result<()> {
        let size = match self.size() {
            Ok(size) if size == self.bytes && !self.is_full => {
                self.left = size;
                self.due = Some(Instant::now() + LOOK_EVERY);
                return Ok(());
            }
            Ok(size) => Some(size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        self.left = self.left.min(size.unwrap_or(0));
        let (name, access) = match size {
            Some(_) => (NAME, Access::Append),
            None => (NEW, Access::Create),
        };
        if size.is_none() {
            let _ = self.disk.remove(NEW);
        }
        let file = self.disk.open(name, access)?;
        // It may be longer than what counts: it grew when the power went.
        file.truncate(self.left)?;
        let (from, is_new) = (self.left, size.is_none());
        self.growth = Some(Growth { file, is_new, from, len: from });
        self.due = Some(Instant::now());
        Ok(())
    }

    /// Its size, after cutting off what is too much of it.
    fn size(&self) -> io::Result<u64> {
        let file = self.disk.open(NAME, Access::Append)?;
        let size = file.size()?;
        if size > self.bytes {
            file.truncate(self.bytes)?;
        }
        Ok(size.min(self.bytes))
    }
}

/// Adds bytes and makes them durable.
async fn grow(growth: &Growth, more: u64) -> io::Result<()> {
    append_all(&*growth.file, &noise(growth.len, more))?;
    if growth.file.size()? != growth.len + more {
        return Err(io::Error::other("wrong length"));
    }
    growth.file.sync().await
}

/// Bytes without any order, for a file system that compresses would keep no space with others.
fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed;
    let word = |_| {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(word).collect();
    noise.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
    noise
}
