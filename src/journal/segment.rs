//! One segment file: its name, and a walk over its frames that survives any damage.
//!
//! A segment holds the positions from its base up to the next segment's base; bytes beyond that
//! belong to appends that failed and do not count.
//!
//! Reads only; what the records mean is the reader's business.

use std::io;
use std::sync::Arc;

use super::frame::{HEAD_BYTES, Head};
use super::{Damage, Flaw};
use crate::disk::{Disk, DiskFile};
use crate::record::Position;

/// How much a walk reads at a time: about a hundred records, and little enough to hold for long.
const CHUNK_BYTES: usize = 64 << 10;
/// How far a walk jumps where the disk does not give its bytes: a page.
const PAGE_BYTES: u64 = 4096;

/// A segment's file name: the position of its first byte, so that names sort as positions do.
pub(super) fn file_name(base: u64) -> String {
    format!("{base:020}.log")
}

/// The base in a segment's file name; none if the file is not a segment.
fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    if is_ours { digits.parse().ok() } else { None }
}

/// The bases of all segments, oldest first.
pub(super) fn list(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut bases: Vec<u64> = disk.list()?.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// How far a segment's content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// Up to here, and all of it was acknowledged: what does not read is damage.
    Known(u64),
    /// As far as the file goes. What does not read is damage if a later frame proves that it was
    /// acknowledged, and an unfinished write otherwise.
    FileEnd,
}

/// What a walk meets next.
#[derive(Debug)]
pub(super) enum Step {
    /// A good frame; its payload is at [`Scan::payload`] until the next step.
    Frame {
        /// Where it starts.
        position: u64,
        /// Its head.
        head: Head,
    },
    /// Bytes that were acknowledged and do not read; the walk goes on behind them.
    Damaged(Damage),
    /// The end, for now.
    End,
}

/// A walk over one segment's frames.
pub(super) struct Scan {
    file: Arc<dyn DiskFile>,
    base: u64,
    at: u64,
    /// All before this position was acknowledged, by the flags of frames met so far.
    proven: u64,
    window: Vec<u8>,
    window_at: u64,
    payload: std::ops::Range<usize>,
    chunk: usize,
    /// Whether it was said that the file's length cannot be read.
    is_named: bool,
}

impl Scan {
    /// Starts at position `from` in the segment of that base.
    pub fn new(file: Arc<dyn DiskFile>, base: u64, from: u64) -> Scan {
        let at = from.max(base);
        Scan {
            file,
            base,
            at,
            proven: base,
            window: Vec::new(),
            window_at: at,
            payload: 0..0,
            chunk: CHUNK_BYTES,
            is_named: false,
        }
    }

    /// Reads about this much at a time.
    pub fn with_chunk(self, chunk: usize) -> Scan {
        Scan { chunk, ..self }
    }

    /// Where the next step looks.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The payload of the frame met last.
    pub fn payload(&self) -> &[u8] {
        self.window.get(self.payload.clone()).unwrap_or_default()
    }

    /// Goes on to the next frame, the end of the next damage, or the end.
    pub fn step(&mut self, limit: Limit) -> Step {
        let end = match self.end(limit) {
            Ok(end) => end,
            // Named once; then it is the end until the file answers again.
            Err(error) if !std::mem::replace(&mut self.is_named, true) => {
                return self.lost(self.at, Flaw::Unreadable(error.to_string()));
            }
            Err(_) => return Step::End,
        };
        if self.at >= end {
            self.forget(limit);
            return Step::End;
        }
        match self.frame(self.at, end) {
            Ok(head) => self.found(head),
            Err(flaw) => self.flawed(flaw, end, limit),
        }
    }

    fn end(&self, limit: Limit) -> io::Result<u64> {
        match limit {
            Limit::Known(end) => Ok(end),
            Limit::FileEnd => Ok(self.base + self.file.size()?),
        }
    }

    /// Drops what was read, for it may change: the writer takes back what failed.
    fn forget(&mut self, limit: Limit) {
        if limit == Limit::FileEnd {
            self.window = Vec::new();
        }
        self.payload = 0..0;
    }

    fn found(&mut self, head: Head) -> Step {
        let position = self.at;
        if head.seals {
            self.proven = self.proven.max(position);
        }
        self.at += head.frame_bytes() as u64;
        Step::Frame { position, head }
    }

    fn flawed(&mut self, flaw: Flaw, end: u64, limit: Limit) -> Step {
        let start = self.at;
        let is_proven = match limit {
            Limit::Known(_) => true,
            Limit::FileEnd => self.proven > start || self.prove(start, end),
        };
        if !is_proven {
            self.forget(limit);
            return Step::End;
        }
        let behind = self.behind(start, end);
        let next = self.next_head(behind, end);
        self.lost(next.unwrap_or(end), flaw)
    }

    /// Names the bytes up to `end` as damaged and goes on behind them.
    fn lost(&mut self, end: u64, why: Flaw) -> Step {
        let start = self.at;
        self.at = end;
        self.payload = 0..0;
        Step::Damaged(Damage {
            segment: Position(self.base),
            position: Position(start),
            offset: start - self.base,
            bytes: end - start,
            why,
        })
    }

    /// The first place where another frame may start behind a flaw at `at`: behind the frame
    /// there if its head is good.
    fn behind(&mut self, at: u64, end: u64) -> u64 {
        match self.head(at, end) {
            Ok(Some(head)) if at + head.frame_bytes() as u64 <= end => {
                at + head.frame_bytes() as u64
            }
            _ => at + 1,
        }
    }

    /// Looks for a good frame behind `at` that seals what is before it.
    fn prove(&mut self, at: u64, end: u64) -> bool {
        let mut look = self.behind(at, end);
        while let Some(found) = self.next_head(look, end) {
            match self.frame(found, end) {
                Ok(head) if head.seals => {
                    self.proven = found;
                    return true;
                }
                _ => look = self.behind(found, end),
            }
        }
        false
    }

    /// The first position from `from` on where a whole frame's head stands.
    fn next_head(&mut self, from: u64, end: u64) -> Option<u64> {
        // A file that was cut short has nothing to look at behind its end.
        let size = self.file.size().unwrap_or(u64::MAX - self.base);
        let end = end.min(self.base + size);
        let mut at = from;
        while at < end {
            match self.head(at, end) {
                Ok(Some(head)) if at + head.frame_bytes() as u64 <= end => return Some(at),
                Ok(_) => at += 1,
                Err(_) => at = (at / PAGE_BYTES + 1) * PAGE_BYTES,
            }
        }
        None
    }

    fn head(&mut self, at: u64, end: u64) -> io::Result<Option<Head>> {
        if end - at < HEAD_BYTES as u64 {
            return Ok(None);
        }
        let bytes = self.load(at, HEAD_BYTES, end)?;
        let range = bytes.unwrap_or(0..0);
        Ok(self.window[range].first_chunk().and_then(|head| Head::parse(head, at)))
    }

    /// The frame at `at`, checked whole; its payload becomes [`Scan::payload`].
    fn frame(&mut self, at: u64, end: u64) -> Result<Head, Flaw> {
        let unreadable = |error: io::Error| Flaw::Unreadable(error.to_string());
        let head = self.head(at, end).map_err(unreadable)?.ok_or(Flaw::Head)?;
        if at + head.frame_bytes() as u64 > end {
            return Err(Flaw::Missing);
        }
        let range = self.load(at, head.frame_bytes(), end).map_err(unreadable)?;
        let range = range.ok_or(Flaw::Missing)?;
        self.payload = range.start + HEAD_BYTES..range.end;
        if head.fits(self.payload()) { Ok(head) } else { Err(Flaw::Payload) }
    }

    /// Where in the window the `len` bytes at `at` are, after reading them if need be; none if the
    /// file ends before.
    fn load(
        &mut self,
        at: u64,
        len: usize,
        end: u64,
    ) -> io::Result<Option<std::ops::Range<usize>>> {
        let is_here =
            at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !is_here {
            let rest = usize::try_from(end - at).unwrap_or(usize::MAX);
            let wish = len.max(self.chunk).min(rest).max(len);
            // A bad page further on must not take the good bytes before it along.
            self.fill(at, wish).or_else(|_| self.fill(at, len))?;
        }
        let start = (at - self.window_at) as usize;
        Ok((start + len <= self.window.len()).then_some(start..start + len))
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.window_at = at;
        if self.window.capacity() > 4 * len.max(self.chunk) {
            self.window = Vec::new();
        }
        self.window.resize(len, 0);
        let got = self.file.read_at(at - self.base, &mut self.window);
        self.window.truncate(*got.as_ref().unwrap_or(&0));
        got.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_twenty_digits_and_the_ending_name_a_segment() {
        assert_eq!(base_of(&file_name(u64::MAX)), Some(u64::MAX));
        assert_eq!(base_of("00000000000000000016.log"), Some(16));
        for other in ["16.log", "00000000000000000016.tmp", "+0000000000000000016.log", "db"] {
            assert_eq!(base_of(other), None, "{other}");
        }
    }
}
