//! The file seam: one directory of append-only files, as the journal needs it. [`OsDisk`] is the
//! real one; [`SimDisk`] keeps everything in memory and fails as real disks do.
//!
//! Nothing here knows what the bytes mean.

mod sim;

use std::fs::{self, File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

pub use sim::{Faults, SimDisk};

/// A sync under way. It ends when the bytes would survive a power cut, or with the reason why
/// they might not.
pub type Syncing = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only; the file must exist.
    Read,
    /// Reading and appending; the file must exist.
    Append,
    /// As [`Access::Append`], for a new file: one that exists already is an error.
    Create,
}

/// A task that appends and syncs.
pub type Owner = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One directory.
pub trait Disk: Send + Sync {
    /// Runs the task that appends to its files where its waits for the disk hold up no other one.
    fn run(&self, owner: Owner) -> io::Result<()>;
    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file. The name of a new one survives a power cut only after
    /// [`Disk::sync_directory`].
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes a file; it may come back after a power cut until [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, taking the place of one that has it; as a new name, it survives
    /// a power cut only after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes new and removed names survive a power cut.
    fn sync_directory(&self) -> Syncing;
}

/// One open file. Appends, truncations and syncs come from one owner, reads from anywhere.
pub trait DiskFile: Send + Sync {
    /// Adds bytes at the end and says how many it took, which may be fewer than offered.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Reads up to the buffer's length; fewer bytes mean that the file ends there.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// How long it is now.
    fn size(&self) -> io::Result<u64>;
    /// Cuts it to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes everything appended so far survive a power cut. May hold up the thread it is on.
    fn sync(&self) -> Syncing;
}

/// A directory of the machine's own file system.
#[derive(Debug, Clone)]
pub struct OsDisk {
    path: PathBuf,
}

impl OsDisk {
    /// A directory for writing, made if it is missing, readable by its owner only: what is in it
    /// tells who came home when.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<OsDisk> {
        let path = path.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(OsDisk { path })
    }

    /// A directory that is there already, to be looked at.
    pub fn existing(path: impl Into<PathBuf>) -> OsDisk {
        OsDisk { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for OsDisk {
    /// On a thread of its own: to hand every sync to another thread and back would cost more than
    /// the rest of a commit.
    fn run(&self, owner: Owner) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("journal".into());
        thread.spawn(move || runtime.block_on(owner)).map(drop)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is no UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).append(access != Access::Read);
        options.create_new(access == Access::Create).mode(0o600);
        let file = options.open(self.path.join(name))?;
        Ok(Arc::new(OsFile { file: Arc::new(file) }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync_directory(&self) -> Syncing {
        let path = self.path.clone();
        blocking(move || File::open(path)?.sync_all())
    }
}

struct OsFile {
    file: Arc<File>,
}

impl DiskFile for OsFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.file).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < into.len() {
            match self.file.read_at(&mut into[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> Syncing {
        let file = Arc::clone(&self.file);
        // fdatasync: it writes the length too, and spares the journal of the file system the
        // change of the times.
        Box::pin(async move { file.sync_data() })
    }
}

/// Whether a call would have gone well with more space on the disk.
pub fn wants_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Runs a call that waits for the disk where it holds up no other task.
fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Syncing {
    Box::pin(async move {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_real_file_appends_reads_and_cuts() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::create(folder.path().join("a/b")).unwrap();
        let file = disk.open("x", Access::Create).unwrap();
        assert!(disk.open("x", Access::Create).is_err());
        assert_eq!(file.append(b"hello").unwrap(), 5);
        file.sync().await.unwrap();
        disk.sync_directory().await.unwrap();
        let mut read = [0; 9];
        assert_eq!(file.read_at(1, &mut read).unwrap(), 4);
        assert_eq!(&read[..4], b"ello");
        file.truncate(2).unwrap();
        file.append(b"y").unwrap();
        assert_eq!(file.size().unwrap(), 3);
        assert_eq!(disk.list().unwrap(), ["x"]);
        disk.rename("x", "y").unwrap();
        assert!(disk.open("x", Access::Append).is_err());
        disk.remove("y").unwrap();
        assert!(disk.open("y", Access::Append).is_err());
    }
}
