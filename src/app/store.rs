//! What lies beside the journal: our keys, the lock that keeps a second server away, and how the
//! command line finds the running one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{StartError, cannot, system};
use crate::delivery::push::vapid::VapidKeys;
use crate::disk::OsDisk;
use crate::secret::{Secret, fingerprint, hex};

/// Our keys, made at first start and kept with the data.
pub(super) struct Keys {
    pub vapid: Arc<VapidKeys>,
    pub receipt: Secret,
}

impl Keys {
    pub(super) fn load_or_make(store: &Path) -> Result<Keys, StartError> {
        let path = store.join("vapid.pk8");
        let (vapid, bytes) = match std::fs::read(&path) {
            Ok(bytes) => (cannot!(VapidKeys::from_pkcs8(&bytes), "{}", path.display())?, bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (keys, bytes) = cannot!(VapidKeys::generate(), "cannot make VAPID keys")?;
                cannot!(crate::files::replace(&path, &bytes), "cannot write {}", path.display())?;
                (keys, bytes)
            }
            Err(error) => cannot!(Err(error), "cannot read {}", path.display())?,
        };
        // One file to back up: the receipts' key follows from the VAPID key.
        let receipt = Secret::new(fingerprint(&format!("portero receipts {}", hex(&bytes))));
        Ok(Keys { vapid: Arc::new(vapid), receipt })
    }
}

/// The public key of the VAPID keys that are there already; empty before the first start.
pub fn vapid_public_key(store: &Path) -> String {
    let keys = std::fs::read(store.join("vapid.pk8")).ok();
    let keys = keys.and_then(|bytes| VapidKeys::from_pkcs8(&bytes).ok());
    keys.map_or(String::new(), |keys| keys.public_key().to_string())
}

/// How the command line reaches the running server: readable by the owner only.
#[derive(Serialize, Deserialize)]
pub struct Control {
    /// The admin address.
    pub admin: SocketAddr,
    /// Opens the control calls.
    pub token: String,
}

impl Control {
    /// The running server's, if there is one.
    pub fn read(store: &Path) -> Option<Control> {
        serde_json::from_slice(&std::fs::read(store.join("control.json")).ok()?).ok()
    }

    pub(super) fn write(&self, store: &Path) -> std::io::Result<()> {
        crate::files::replace(&store.join("control.json"), &serde_json::to_vec(self)?)
    }

    pub(super) fn remove(store: &Path) {
        // The file is useless without the server; a leftover is overwritten at the next start.
        let _ = std::fs::remove_file(store.join("control.json"));
    }
}

/// Only one process may write the data; the system lets go of the lock when it dies.
pub struct StoreLock(#[expect(dead_code, reason = "held, not read")] std::fs::File);

impl StoreLock {
    /// Whether a process works on the data right now.
    pub fn is_held(store: &Path) -> bool {
        // No file, no process; one that cannot be read belongs to somebody else's server.
        match std::fs::File::open(store.join("lock")) {
            Ok(file) => file.try_lock_shared().is_err(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Takes the lock, making the data folder if it is missing.
    pub fn take(store: &Path) -> Result<StoreLock, StartError> {
        cannot!(OsDisk::create(store), "cannot make {}", store.display())?;
        let path = store.join("lock");
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let file = cannot!(file, "cannot open {}", path.display())?;
        match file.try_lock() {
            Ok(()) => Ok(StoreLock(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(store.into())),
            Err(std::fs::TryLockError::Error(error)) => {
                cannot!(Err(error), "cannot lock {}", path.display())
            }
        }
    }
}
