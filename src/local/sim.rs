//! A simulated disk for tests: it loses at a crash what was not synced, and is full or broken on demand.
//!
//! [`SimDisk::crash`] forgets every unsynced write and name; [`SimDisk::crash_torn`] keeps a part of them, by a seed: whole writes in any
//! combination and pieces of writes in units of a sector, as a drive without power does. Files open at a crash answer EIO from then on.
//! Every operation gives way to other tasks once, as a real disk does.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, check_name, length};

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Disk::create`].
    Create,
    /// [`Disk::open`].
    Open,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::replace`].
    Replace,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::set_len`] and [`DiskFile::punch`].
    Resize,
    /// [`DiskFile::sync`].
    Sync,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, usize>,
    /// The names as a crash would leave them.
    durable_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    failing: BTreeSet<Operation>,
    capacity: Option<u64>,
    /// Counts crashes, so that a handle knows whether it has outlived one.
    epoch: u64,
    syncs: u64,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// What a crash may lose, oldest first.
    unsynced: Vec<Change>,
    /// Whether a sync has made its name durable.
    named: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Bytes),
    Size(usize),
}

/// A drive writes these whole or not at all.
const SECTOR: usize = 512;

impl SimDisk {
    /// An empty disk without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails: everything that was not synced is gone.
    pub fn crash(&self) {
        self.state.lock().crash(|_| 0);
    }

    /// The power fails: of what was not synced, parts remain, chosen by `seed`.
    pub fn crash_torn(&self, seed: u64) {
        let mut chance = seed;
        self.state.lock().crash(move |choices| {
            // SplitMix64: any seed, also 0, gives a good sequence.
            chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (chance ^ (chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % choices
        });
    }

    /// From now on the disk holds this many bytes, `None`: any number. A write that does not fit fails after what fits.
    pub fn limit(&self, capacity: Option<u64>) {
        self.state.lock().capacity = capacity;
    }

    /// From now on `operation` fails with EIO, before it has any effect.
    pub fn fail(&self, operation: Operation) {
        self.state.lock().failing.insert(operation);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.state.lock().failing.clear();
    }

    /// How many syncs of files there were.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// The bytes of a file as a reader sees them now.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(name).map(|file| state.files[*file].bytes.clone())
    }

    /// Puts these bytes there, durably: damage, or an old file.
    pub fn plant(&self, name: &str, bytes: Vec<u8>) {
        self.state.lock().put(name, bytes);
    }

    async fn turn(&self, operation: Operation) -> io::Result<()> {
        tokio::task::yield_now().await;
        if self.state.lock().failing.contains(&operation) { Err(Errno::EIO.into()) } else { Ok(()) }
    }

    fn handle(&self, file: usize) -> Arc<dyn DiskFile> {
        let epoch = self.state.lock().epoch;
        Arc::new(SimFile { disk: self.clone(), file, epoch })
    }
}

impl State {
    fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.push(Content { durable: bytes.clone(), bytes, named: true, ..Content::default() });
        self.names.insert(name.to_owned(), self.files.len() - 1);
        self.durable_names.clone_from(&self.names);
    }

    /// Bytes that can still be written.
    fn room(&self) -> u64 {
        self.capacity.unwrap_or(1 << 40).saturating_sub(self.used())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].bytes.len() as u64).sum()
    }

    /// `choose(n)` says which of n outcomes happens; 0 is always the loss.
    fn crash(&mut self, mut choose: impl FnMut(u64) -> u64) {
        self.epoch += 1;
        let keep_names = choose(2) == 1;
        if !keep_names {
            self.names.clone_from(&self.durable_names);
        }
        for file in &mut self.files {
            for change in std::mem::take(&mut file.unsynced) {
                match change {
                    Change::Size(size) if choose(2) == 1 => file.durable.resize(size, 0),
                    Change::Size(_) => {}
                    Change::Write(at, bytes) => {
                        // None of it, all of it, or each sector by itself.
                        let fate = choose(3);
                        for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                            if fate == 1 || (fate == 2 && choose(2) == 1) {
                                apply(&mut file.durable, &Change::Write(at + number * SECTOR, Bytes::copy_from_slice(sector)));
                            }
                        }
                    }
                }
            }
            file.bytes.clone_from(&file.durable);
        }
        self.durable_names.clone_from(&self.names);
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Size(size) => bytes.resize(*size, 0),
        Change::Write(at, new) => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
    }
}

#[async_trait]
impl Disk for SimDisk {
    async fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        self.turn(Operation::Create).await?;
        let file = {
            let mut state = self.state.lock();
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Content::default());
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            file
        };
        Ok(self.handle(file))
    }

    async fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        self.turn(Operation::Open).await?;
        let file = self.state.lock().names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(file))
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.turn(Operation::Remove).await?;
        self.state.lock().names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        tokio::task::yield_now().await;
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    async fn free_space(&self) -> io::Result<u64> {
        tokio::task::yield_now().await;
        Ok(self.state.lock().room())
    }

    async fn replace(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        check_name(name)?;
        self.turn(Operation::Replace).await?;
        let mut state = self.state.lock();
        if bytes.len() as u64 > state.room() {
            return Err(Errno::ENOSPC.into());
        }
        state.put(name, bytes.to_vec());
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    epoch: u64,
}

impl SimFile {
    /// Takes a turn at the disk, then gives `work` the state, if this handle has not outlived a crash.
    async fn with<T>(&self, operation: Operation, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.disk.turn(operation).await?;
        let mut state = self.disk.state.lock();
        if state.epoch != self.epoch {
            return Err(Errno::EIO.into());
        }
        work(&mut state)
    }

    fn change(&self, state: &mut State, change: Change) {
        let content = &mut state.files[self.file];
        apply(&mut content.bytes, &change);
        content.unsynced.push(change);
    }

    /// How long the file can be.
    fn longest(&self, state: &State) -> u64 {
        (state.files[self.file].bytes.len() as u64).saturating_add(state.room())
    }
}

#[async_trait]
impl DiskFile for SimFile {
    async fn write_at(&self, offset: u64, mut bytes: Bytes) -> io::Result<()> {
        let at = length(&(0..offset))?;
        self.with(Operation::Write, |state| {
            let fits = self.longest(state).saturating_sub(offset);
            let whole = bytes.len() as u64 <= fits;
            bytes.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
            if !bytes.is_empty() {
                self.change(state, Change::Write(at, bytes));
            }
            if whole { Ok(()) } else { Err(Errno::ENOSPC.into()) }
        })
        .await
    }

    async fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let (start, end) = (length(&(0..range.start))?, length(&(0..range.end))?);
        self.with(Operation::Read, |state| {
            let bytes = state.files[self.file].bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Bytes::copy_from_slice(bytes))
        })
        .await
    }

    async fn sync(&self) -> io::Result<()> {
        self.with(Operation::Sync, |state| {
            state.syncs += 1;
            let content = &mut state.files[self.file];
            content.durable.clone_from(&content.bytes);
            content.unsynced.clear();
            if !std::mem::replace(&mut content.named, true) {
                state.durable_names.clone_from(&state.names);
            }
            Ok(())
        })
        .await
    }

    async fn len(&self) -> io::Result<u64> {
        self.with(Operation::Read, |state| Ok(state.files[self.file].bytes.len() as u64)).await
    }

    async fn set_len(&self, size: u64) -> io::Result<()> {
        let end = length(&(0..size))?;
        self.with(Operation::Resize, |state| {
            if size > self.longest(state) {
                return Err(Errno::ENOSPC.into());
            }
            self.change(state, Change::Size(end));
            Ok(())
        })
        .await
    }

    async fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let (start, end) = (length(&(0..range.start))?, length(&(0..range.end))?);
        self.with(Operation::Resize, |state| {
            let end = end.min(state.files[self.file].bytes.len());
            let zeros = Bytes::from(vec![0; end.saturating_sub(start)]);
            self.change(state, Change::Write(start.min(end), zeros));
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn disk_with_unsynced_bytes() -> (SimDisk, Arc<dyn DiskFile>) {
        let disk = SimDisk::new();
        let file = disk.create("a").await.unwrap();
        file.write_at(0, Bytes::from_static(b"safe")).await.unwrap();
        file.sync().await.unwrap();
        file.write_at(4, vec![b'x'; 4 * SECTOR].into()).await.unwrap();
        (disk, file)
    }

    #[tokio::test]
    async fn a_crash_loses_what_was_not_synced() {
        let (disk, file) = disk_with_unsynced_bytes().await;
        disk.create("unsynced").await.unwrap();
        disk.remove("a").await.unwrap();
        disk.crash();
        assert_eq!(disk.list().await.unwrap(), ["a"]);
        assert_eq!(disk.bytes("a").unwrap(), b"safe");
        assert!(file.read_at(0..1).await.is_err(), "handles do not outlive a crash");
    }

    #[tokio::test]
    async fn a_torn_crash_keeps_any_part() {
        let mut sizes = BTreeSet::new();
        for seed in 0..64 {
            let (disk, _) = disk_with_unsynced_bytes().await;
            disk.crash_torn(seed);
            let bytes = disk.bytes("a").unwrap();
            assert!(bytes.starts_with(b"safe"));
            sizes.insert(bytes.iter().filter(|byte| **byte == b'x').count() / SECTOR);
        }
        assert_eq!(sizes, (0..=4).collect());
    }

    #[tokio::test]
    async fn it_fails_and_fills_on_demand() {
        let (disk, file) = disk_with_unsynced_bytes().await;
        disk.fail(Operation::Sync);
        assert!(file.sync().await.is_err());
        disk.heal();
        file.sync().await.unwrap();
        disk.limit(Some(file.len().await.unwrap() + 1));
        assert_eq!(disk.free_space().await.unwrap(), 1);
        let end = file.len().await.unwrap();
        assert_eq!(file.write_at(end, Bytes::from_static(b"ab")).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(0, Bytes::from_static(b"ab")).await.unwrap();
    }
}
