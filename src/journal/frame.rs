//! One record on disk: a head of 12 bytes, then the record's own bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | payload length, and two flags in the top bits (little-endian, as all) |
//! | 4..8 | CRC-32 of the payload |
//! | 8..12 | CRC-32 of the frame's position and the eight bytes before: the head's own check |
//!
//! The head's check holds for one position only. So a reader that lost its way finds the next
//! frame by looking at 12 bytes per step, and neither old blocks of the disk nor bytes that a
//! stranger put into a webhook's body pass for a frame.
//!
//! Pure: bytes in, bytes out.

use crate::record::Record;

/// Bytes before the payload.
pub(super) const HEAD_BYTES: usize = 12;

/// The most bytes that the records of one call may take. A checkpoint of a large estate has a few
/// megabytes; a length above this is damage.
pub const CALL_BYTES_MAX: usize = 32 << 20;

/// Everything before this frame was durable when it was written: it is the first of its batch.
const SEALS: u32 = 1 << 31;
/// The next frame belongs to the same call.
const MORE: u32 = 1 << 30;
const FLAGS: u32 = SEALS | MORE;

/// A frame's head whose check is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Payload bytes; 0 for a mark, which holds no record and only seals.
    pub len: usize,
    /// Everything before was durable when this was written.
    pub seals: bool,
    /// The call goes on in the next frame.
    pub more: bool,
    crc: u32,
}

impl Head {
    /// Reads a head; none if it is not the head of a frame at `position`.
    pub fn parse(bytes: &[u8; HEAD_BYTES], position: u64) -> Option<Head> {
        let word = word(bytes, 0);
        let len = (word & !FLAGS) as usize;
        if len > CALL_BYTES_MAX || check(bytes, position) != self::word(bytes, 8) {
            return None;
        }
        let (seals, more) = (word & SEALS != 0, word & MORE != 0);
        Some(Head { len, seals, more, crc: self::word(bytes, 4) })
    }

    /// Whether `payload` is what was written.
    pub fn fits(&self, payload: &[u8]) -> bool {
        crc32fast::hash(payload) == self.crc
    }

    /// Head and payload together.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.len
    }
}

/// Appends a record as a frame that has no place yet; [`place`] gives it one. Returns the frame's
/// length.
pub(super) fn put(out: &mut Vec<u8>, record: &Record, more: bool) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    record.encode(out);
    let (head, payload) = out[start..].split_at_mut(HEAD_BYTES);
    // A longer one is refused by the caller before it is written, so the cut never shows.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX) & !FLAGS;
    let flag = if more { MORE } else { 0 };
    head[..4].copy_from_slice(&(len | flag).to_le_bytes());
    head[4..8].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    out.len() - start
}

/// Gives every frame in `frames` its position, the first one `position`; the first one seals what
/// is before it.
pub(super) fn place(frames: &mut [u8], position: u64) {
    let mut at = 0;
    while let Some(head) = frames[at..].first_chunk_mut::<HEAD_BYTES>() {
        if at == 0 {
            head[3] |= (SEALS >> 24) as u8;
        }
        let check = check(head, position + at as u64);
        head[8..].copy_from_slice(&check.to_le_bytes());
        at += HEAD_BYTES + (word(head, 0) & !FLAGS) as usize;
    }
}

/// The lengths of the frames in `frames`, which [`put`] made.
pub(super) fn lengths(frames: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head = frames.get(at..)?.first_chunk::<HEAD_BYTES>()?;
        let length = HEAD_BYTES + (word(head, 0) & !FLAGS) as usize;
        at += length;
        Some(length)
    })
}

/// A frame without a record. Written after a sync when no batch follows at once, it proves that
/// all before it was acknowledged.
pub(super) fn mark(position: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    place(&mut head, position);
    head
}

fn word(bytes: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn check(head: &[u8; HEAD_BYTES], position: u64) -> u32 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&position.to_le_bytes());
    bytes[8..].copy_from_slice(&head[..8]);
    crc32fast::hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Quarantined, Record};
    use jiff::Timestamp;

    fn record(raw: &[u8]) -> Record {
        Record::Quarantined(Quarantined {
            source: "hook/x".into(),
            reason: "test".into(),
            received: Timestamp::UNIX_EPOCH,
            raw: raw.to_vec(),
        })
    }

    fn head(frames: &[u8], at: usize, position: u64) -> Option<Head> {
        Head::parse(frames[at..].first_chunk().unwrap(), position)
    }

    #[test]
    fn frames_know_their_place_and_their_call() {
        let mut frames = Vec::new();
        let first = put(&mut frames, &record(b"one"), true);
        put(&mut frames, &record(b"two"), false);
        place(&mut frames, 1000);
        let one = head(&frames, 0, 1000).unwrap();
        let two = head(&frames, first, 1000 + first as u64).unwrap();
        assert!((one.seals, one.more) == (true, true) && (two.seals, two.more) == (false, false));
        assert!(one.fits(&frames[HEAD_BYTES..first]));
        assert!(!one.fits(&frames[HEAD_BYTES..first - 1]));
        assert_eq!(head(&frames, 0, 1001), None);
        assert_eq!(lengths(&frames).collect::<Vec<_>>(), [first, frames.len() - first]);
    }

    #[test]
    fn every_flipped_bit_of_a_head_shows() {
        let mut frames = Vec::new();
        put(&mut frames, &record(b"one"), false);
        place(&mut frames, 7);
        for bit in 0..HEAD_BYTES * 8 {
            frames[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(head(&frames, 0, 7), None, "bit {bit}");
            frames[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(head(&frames, 0, 7).is_some());
    }

    #[test]
    fn a_mark_seals_and_holds_nothing() {
        let mark = Head::parse(&mark(5), 5).unwrap();
        assert!((mark.len, mark.seals, mark.more) == (0, true, false) && mark.fits(&[]));
        // A run of zeros, as a lost block reads, is no frame.
        assert_eq!(Head::parse(&[0; HEAD_BYTES], 0), None);
    }
}
