//! Records as bytes: `kind: u8`, `json_len: u32` little-endian, the JSON, then the rest as bytes (an
//! event's raw body, forgotten segments' ids). Kinds and field names are on disk: they may be added
//! to, never changed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Body, Keys, Quarantined, Record};
use crate::event::{Event, EventId};

/// A journal's payload could not be read as a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its own lengths say.
    #[error("the record is cut short")]
    Short,
    /// Written by a newer Portero.
    #[error("unknown kind of record {0}; was it written by a newer version?")]
    Kind(u8),
    /// The JSON part is not what its kind says.
    #[error("kind {kind}: {source}")]
    Json {
        /// Which kind.
        kind: u8,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

const SEEN: u8 = 1;
const DECIDED: u8 = 2;
const SETTLED: u8 = 3;
const RECEIPT: u8 = 4;
const PHONE: u8 = 5;
const QUARANTINED: u8 = 6;
const CHECKPOINT: u8 = 7;
const KEYS: u8 = 8;
const KNOWN: u8 = 9;
const BODY: u8 = 10;
const BODY_READ: u8 = 11;

/// `kind` and `json_len`.
const HEAD_BYTES: usize = 5;

impl Record {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Seen(event) => put(out, SEEN, &**event, |out| out.extend(&event.raw)),
            Record::Decided(decided) => put(out, DECIDED, &**decided, |_| {}),
            Record::Settled(settled) => put(out, SETTLED, settled, |_| {}),
            Record::Receipt(receipt) => put(out, RECEIPT, receipt, |_| {}),
            Record::Phone(change) => put(out, PHONE, change, |_| {}),
            Record::Quarantined(kept) => put(out, QUARANTINED, kept, |out| out.extend(&kept.raw)),
            Record::Checkpoint(checkpoint) => put(out, CHECKPOINT, checkpoint, |_| {}),
            Record::Keys(keys) => put(out, KEYS, keys, |out| {
                keys.ids.iter().for_each(|id| out.extend(id.0));
            }),
            Record::Known(known) => put(out, KNOWN, &**known, |_| {}),
            Record::Body(body) => put(out, BODY, body, |out| out.extend(&body.raw)),
            Record::BodyRead(read) => put(out, BODY_READ, read, |_| {}),
        }
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let (kind, json, rest) = split(bytes)?;
        Ok(match kind {
            SEEN => {
                let mut event: Event = read(kind, json)?;
                event.raw = rest.to_vec();
                Record::Seen(Arc::new(event))
            }
            DECIDED => Record::Decided(Arc::new(read(kind, json)?)),
            SETTLED => Record::Settled(read(kind, json)?),
            RECEIPT => Record::Receipt(read(kind, json)?),
            PHONE => Record::Phone(read(kind, json)?),
            QUARANTINED => {
                let mut kept: Quarantined = read(kind, json)?;
                kept.raw = rest.to_vec();
                Record::Quarantined(kept)
            }
            CHECKPOINT => Record::Checkpoint(read(kind, json)?),
            KEYS => {
                let mut keys: Keys = read(kind, json)?;
                let (ids, odd) = rest.as_chunks::<16>();
                if !odd.is_empty() {
                    return Err(RecordError::Short);
                }
                keys.ids = ids.iter().map(|id| EventId(*id)).collect();
                Record::Keys(keys)
            }
            KNOWN => Record::Known(Arc::new(read(kind, json)?)),
            BODY => {
                let mut body: Body = read(kind, json)?;
                body.raw = rest.to_vec();
                Record::Body(body)
            }
            BODY_READ => Record::BodyRead(read(kind, json)?),
            other => return Err(RecordError::Kind(other)),
        })
    }
}

fn put<T: Serialize>(out: &mut Vec<u8>, kind: u8, value: &T, rest: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([kind, 0, 0, 0, 0]);
    serde_json::to_writer(&mut *out, value).expect("records serialise into memory");
    let json = u32::try_from(out.len() - start - HEAD_BYTES).expect("a record is below 4 GiB");
    out[start + 1..start + HEAD_BYTES].copy_from_slice(&json.to_le_bytes());
    rest(out);
}

fn split(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), RecordError> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(RecordError::Short)?;
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let (json, rest) = rest.split_at_checked(len).ok_or(RecordError::Short)?;
    Ok((head[0], json, rest))
}

fn read<'a, T: Deserialize<'a>>(kind: u8, json: &'a [u8]) -> Result<T, RecordError> {
    serde_json::from_slice(json).map_err(|source| RecordError::Json { kind, source })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn raw_bytes_survive_beside_the_json() {
        let kept = Quarantined {
            source: "netatmo/home".into(),
            reason: "bad signature".into(),
            received: Timestamp::UNIX_EPOCH,
            raw: vec![0, 255, b'{'],
        };
        let mut bytes = Vec::new();
        Record::Quarantined(kept.clone()).encode(&mut bytes);
        match Record::decode(&bytes).unwrap() {
            Record::Quarantined(read) => assert_eq!(read, kept),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ids_survive_as_bytes() {
        let ids = vec![EventId([1; 16]), EventId([2; 16])];
        let keys = Keys { received: Timestamp::UNIX_EPOCH, ids };
        let mut bytes = Vec::new();
        Record::Keys(keys.clone()).encode(&mut bytes);
        match Record::decode(&bytes).unwrap() {
            Record::Keys(read) => assert_eq!(read, keys),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        assert!(matches!(Record::decode(&[]), Err(RecordError::Short)));
        assert!(matches!(Record::decode(&[1, 9, 0, 0, 0, b'{']), Err(RecordError::Short)));
        assert!(matches!(Record::decode(&[99, 0, 0, 0, 0]), Err(RecordError::Kind(99))));
        assert!(matches!(
            Record::decode(&[3, 2, 0, 0, 0, b'{', b'}']),
            Err(RecordError::Json { .. })
        ));
    }
}
