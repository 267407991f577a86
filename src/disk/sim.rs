//! A directory in memory that fails as real disks do: power cuts that keep some of what was not
//! synced, torn and short writes, full disks, failing syncs. The same seed fails the same way.
//!
//! It is for tests and the simulation; nothing in it is ever stored.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Access, Disk, DiskFile, Owner, Syncing};

/// What survives or not survives a power cut as one: a disk's smallest write.
const SECTOR_BYTES: usize = 512;

/// What goes wrong from now on. All off at first.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Bytes until the disk is full; endless if none. Cutting and removing files gives bytes back.
    pub space: Option<u64>,
    /// How many of the next syncs (of files or the directory) fail. What a failed sync should
    /// have written is gone for good although it still reads well, as on Linux.
    pub failing_syncs: u32,
    /// How many of the next appends fail with an input/output error.
    pub failing_appends: u32,
    /// Appends take only a part of what they are offered, and say so.
    pub short_writes: bool,
    /// Appends take only a part of what they are offered, and say they took all.
    pub lying_writes: bool,
    /// Files list and open, but their bytes cannot be read.
    pub unreadable: bool,
    /// Syncs answer well and do nothing: a planted bug that every test of durability must see.
    pub idle_syncs: bool,
}

/// A directory in memory. Clones are the same directory.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    random: u64,
    /// Names as they read now, and as they would be after a power cut.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    nodes: Vec<Node>,
    faults: Faults,
    syncs: u64,
    /// After [`SimDisk::crash`]: whoever still holds this disk gets errors only.
    off: bool,
}

/// A file's bytes, whatever its name.
#[derive(Default, Clone)]
struct Node {
    /// As it reads.
    now: Vec<u8>,
    /// What surely survives.
    durable: Vec<u8>,
    /// The first byte that changed since the last sync.
    dirty: Option<usize>,
}

impl SimDisk {
    /// An empty directory; `seed` decides all its accidents.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(World { random: seed, ..World::default() })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.world().faults);
    }

    /// How many syncs were asked for so far, files and directory together.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Cuts the power. What was synced is on the disk that is handed back, and of the rest
    /// anything, torn at any byte; this one only answers with errors from now on. The new disk
    /// is healthy.
    pub fn crash(&self) -> SimDisk {
        let mut world = self.world();
        world.off = true;
        let mut after = World { random: world.roll(), ..World::default() };
        let all = world.names.keys().chain(world.durable_names.keys()).cloned();
        let all: std::collections::BTreeSet<String> = all.collect();
        for name in all {
            let (now, durable) = (world.names.get(&name), world.durable_names.get(&name));
            let (now, durable) = (now.copied(), durable.copied());
            let node = if world.below(2) == 0 { now } else { durable };
            if let Some(node) = node {
                let bytes = world.survivor(node);
                after.names.insert(name, after.nodes.len());
                after.nodes.push(Node { now: bytes.clone(), durable: bytes, dirty: None });
            }
        }
        after.durable_names = after.names.clone();
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// The bytes of a file as they read now; none if there is no such file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.world();
        world.names.get(name).map(|node| world.nodes[*node].now.clone())
    }

    /// Rewrites a file behind everybody's back, as rot does; it stays that way over crashes.
    pub fn rot(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        if let Some(node) = world.names.get(name).copied() {
            let node = &mut world.nodes[node];
            change(&mut node.now);
            node.durable = node.now.clone();
            node.dirty = None;
        }
    }
}

impl World {
    /// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough for accidents.
    fn roll(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which must not be 0.
    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn alive(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// What one file holds after a power cut.
    fn survivor(&mut self, node: usize) -> Vec<u8> {
        let Node { now, durable, dirty } = self.nodes[node].clone();
        let Some(dirty) = dirty else { return durable };
        match self.below(4) {
            0 => durable,
            1 => spliced(&durable, &now, dirty),
            2 => {
                let kept = dirty + self.below(now.len().saturating_sub(dirty) + 1);
                spliced(&durable, &now[..kept.min(now.len())], dirty)
            }
            _ => {
                let whole = spliced(&durable, &now, dirty);
                self.shuffled(&durable, whole, dirty)
            }
        }
    }

    /// The sectors of `whole` from `dirty` on, some of them never written: writes reach a disk in
    /// any order.
    fn shuffled(&mut self, durable: &[u8], mut whole: Vec<u8>, dirty: usize) -> Vec<u8> {
        let mut at = dirty;
        while at < whole.len() {
            let end = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(whole.len());
            if self.below(2) == 0 {
                for (i, byte) in whole[at..end].iter_mut().enumerate() {
                    *byte = durable.get(at + i).copied().unwrap_or(0);
                }
            }
            at = end;
        }
        whole
    }

    fn append(&mut self, node: usize, bytes: &[u8]) -> io::Result<usize> {
        self.alive()?;
        if self.faults.failing_appends > 0 {
            self.faults.failing_appends -= 1;
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        let mut take = bytes.len();
        if let Some(space) = &mut self.faults.space {
            if *space == 0 && take > 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            take = take.min(usize::try_from(*space).unwrap_or(take));
            *space -= take as u64;
        }
        if (self.faults.short_writes || self.faults.lying_writes) && take > 1 {
            take = 1 + self.below(take);
        }
        let lies = self.faults.lying_writes;
        let node = &mut self.nodes[node];
        node.dirty = Some(node.dirty.unwrap_or(usize::MAX).min(node.now.len()));
        node.now.extend_from_slice(&bytes[..take]);
        Ok(if lies { bytes.len() } else { take })
    }

    /// A file lost its name: others may have its bytes.
    fn free(&mut self, node: usize) {
        let freed = self.nodes[node].now.len() as u64;
        if let Some(space) = &mut self.faults.space {
            *space += freed;
        }
    }

    /// Whether the sync that just ended did its work.
    fn sync_outcome(&mut self) -> io::Result<bool> {
        self.alive()?;
        self.syncs += 1;
        if self.faults.failing_syncs > 0 {
            self.faults.failing_syncs -= 1;
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        Ok(!self.faults.idle_syncs)
    }

    fn sync_file(&mut self, index: usize, size: usize) -> io::Result<()> {
        let outcome = self.sync_outcome();
        let node = &mut self.nodes[index];
        let Some(dirty) = node.dirty else { return outcome.map(|_| ()) };
        let size = size.min(node.now.len());
        if let Ok(true) = outcome {
            node.durable = spliced(&node.durable, &node.now[..size], dirty.min(size));
            node.dirty = (node.now.len() > size).then_some(size);
        }
        if outcome.is_err() {
            // The pages count as clean now, although nobody wrote them.
            node.dirty = None;
        }
        outcome.map(|_| ())
    }

    /// How long the next sync takes: long enough that crashes fall into it.
    fn sync_takes(&mut self) -> Duration {
        Duration::from_micros(100 + self.roll() % 5_000)
    }
}

/// `old` up to `from` (zeros where it is shorter), then `new` from there on.
fn spliced(old: &[u8], new: &[u8], from: usize) -> Vec<u8> {
    let mut bytes = old[..from.min(old.len())].to_vec();
    bytes.resize(from, 0);
    bytes.extend_from_slice(new.get(from..).unwrap_or_default());
    bytes
}

impl Disk for SimDisk {
    fn run(&self, owner: Owner) -> io::Result<()> {
        drop(tokio::spawn(owner));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let world = self.world();
        world.alive()?;
        Ok(world.names.keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.alive()?;
        let node = match (world.names.get(name).copied(), access) {
            (Some(_), Access::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(node), _) => node,
            (None, Access::Create) if world.faults.space == Some(0) => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            (None, Access::Create) => {
                world.nodes.push(Node::default());
                let node = world.nodes.len() - 1;
                world.names.insert(name.into(), node);
                node
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), node }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        world.alive()?;
        let node = world.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        world.free(node);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        world.alive()?;
        let node = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(replaced) = world.names.insert(to.into(), node) {
            world.free(replaced);
        }
        Ok(())
    }

    fn sync_directory(&self) -> Syncing {
        let disk = self.clone();
        Box::pin(async move {
            let takes = disk.world().sync_takes();
            tokio::time::sleep(takes).await;
            let mut world = disk.world();
            if world.sync_outcome()? {
                world.durable_names = world.names.clone();
            }
            Ok(())
        })
    }
}

struct SimFile {
    disk: SimDisk,
    node: usize,
}

impl DiskFile for SimFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.world().append(self.node, bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let world = self.disk.world();
        world.alive()?;
        if world.faults.unreadable {
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = world.nodes[self.node].now.get(offset..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn size(&self) -> io::Result<u64> {
        let world = self.disk.world();
        world.alive()?;
        Ok(world.nodes[self.node].now.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.alive()?;
        let node = &mut world.nodes[self.node];
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len >= node.now.len() {
            return Ok(());
        }
        let freed = (node.now.len() - len) as u64;
        node.now.truncate(len);
        node.dirty = Some(node.dirty.unwrap_or(usize::MAX).min(len));
        if let Some(space) = &mut world.faults.space {
            *space += freed;
        }
        Ok(())
    }

    fn sync(&self) -> Syncing {
        let (disk, node) = (self.disk.clone(), self.node);
        Box::pin(async move {
            let (takes, size) = {
                let mut world = disk.world();
                (world.sync_takes(), world.nodes[node].now.len())
            };
            tokio::time::sleep(takes).await;
            disk.world().sync_file(node, size)
        })
    }
}
