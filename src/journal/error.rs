//! What can go wrong at the journal's border, in words for the one who must act.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::disk::wants_space;
use crate::record::Position;

/// Why records were not made durable. None of them is acknowledged; after
/// [`AppendError::Sync`] they may still be found after a restart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. The next append tries again.
    #[error("the journal's disk is full")]
    DiskFull,
    /// The disk is full, and this is nothing that the rest of its space is kept for.
    #[error("the journal's disk is full; what is left of it is kept for alarms")]
    KeptForAlarms,
    /// The bytes could not be written. The next append tries again.
    #[error("the journal cannot be written: {0}")]
    Write(#[source] Arc<io::Error>),
    /// The bytes were written, but the disk does not say that they would survive.
    #[error("the journal cannot be synced: {0}")]
    Sync(#[source] Arc<io::Error>),
    /// One call may have [`super::CALL_BYTES_MAX`].
    #[error("{bytes} bytes at once are more than the journal takes")]
    TooLarge {
        /// How many there were.
        bytes: usize,
    },
    /// More waits to be written than [`super::QUEUE_BYTES_MAX`].
    #[error("too much waits to be written to the journal")]
    Busy,
    /// The writer has ended.
    #[error("the journal is closed")]
    Closed,
}

impl AppendError {
    /// A failed write, told apart from a full disk.
    pub(super) fn write(error: io::Error) -> AppendError {
        match wants_space(&error) {
            true => AppendError::DiskFull,
            false => AppendError::Write(Arc::new(error)),
        }
    }

    /// A failed sync.
    pub(super) fn sync(error: io::Error) -> AppendError {
        AppendError::Sync(Arc::new(error))
    }

    /// Whether it would have gone well with more space. Some file systems find out only when they
    /// sync.
    pub(super) fn wants_space(&self) -> bool {
        match self {
            AppendError::DiskFull => true,
            AppendError::Sync(error) => wants_space(error),
            _ => false,
        }
    }
}

/// The journal could not be opened or cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory cannot be listed.
    #[error("the journal's directory cannot be read: {0}")]
    List(#[source] io::Error),
    /// One of its files cannot be used.
    #[error("{name}: {source}")]
    Segment {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The task that writes cannot be started.
    #[error("the journal's writer cannot be started: {0}")]
    Writer(#[source] io::Error),
    /// Ids could not be carried forward, so nothing was removed.
    #[error("ids could not be carried forward: {0}")]
    Carry(#[from] AppendError),
}

/// Bytes of the journal that were acknowledged and cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's base.
    pub segment: Position,
    /// Where the damage begins.
    pub position: Position,
    /// The same within the file.
    pub offset: u64,
    /// How many bytes are skipped.
    pub bytes: u64,
    /// What is wrong with them.
    pub why: Flaw,
}

/// What is wrong with damaged bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No frame starts where one should.
    #[error("no frame starts here")]
    Head,
    /// A frame's payload does not have its checksum.
    #[error("wrong checksum")]
    Payload,
    /// The file, or a whole segment, ends before it should.
    #[error("bytes are missing")]
    Missing,
    /// The disk does not give the bytes.
    #[error("unreadable: {0}")]
    Unreadable(String),
    /// The checksum is right, but the record is not one that this version knows.
    #[error("not a record: {0}")]
    Record(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = super::segment::file_name(self.segment.0);
        write!(f, "{name}: {} bytes from offset {} on: {}", self.bytes, self.offset, self.why)
    }
}

impl std::error::Error for Damage {}
