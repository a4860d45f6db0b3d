//! Dirty bytes that memory has no room for, on this host's disk.
//!
//! One sparse file for each [`crate::data::File`] that had to spill (and one more while a commit reads the first), under a random name; bytes lie at their own
//! offset. This is overflow, not durability: nothing is synced, and after a crash nobody looks for these files. (The journal that makes staged
//! bytes survive comes with write-back.) A file is removed when the last extent that lies in it is gone.
//!
//! The difficulties
//! 1. *Ten thousand dirty files* must not hold ten thousand descriptors: a few are kept open, the rest are opened when needed.
//! 2. *A full disk or limit* is the writer's [`Error::NoRoom`], known before any byte counts as staged. Space that was taken is given back with
//!    the file: what is overwritten in memory keeps its place for when it is spilled again.
//! 3. *A dropped write may still happen.* Spills run in tasks of their own, one per file at a time, and never write where a running commit reads.

use std::{
    collections::BTreeMap,
    io,
    num::NonZeroUsize,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::data::{Error, Result};

use crate::local::{Disk, DiskFile};

use crate::store::Source;

use crate::support::{ByteSize, Clock, TaskGroup};

/// Descriptors kept open.
const OPEN: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// How long a full disk is believed to stay full.
const FULL_FOR: Duration = Duration::from_secs(1);

/// The staging of a mount.
#[derive(Debug)]
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
    limit: u64,
    clock: Arc<dyn Clock>,
    tasks: Arc<TaskGroup>,
    /// Bytes that staged files take.
    used: AtomicU64,
    /// When the disk last said that it is full.
    full: Mutex<Option<Instant>>,
    /// Difficulty 1.
    open: Mutex<LruCache<Arc<str>, Arc<dyn DiskFile>>>,
}

/// A staged file; removed when dropped.
#[derive(Debug)]
pub(crate) struct StagedFile {
    staging: Arc<Staging>,
    name: Arc<str>,
    /// What has been written, by start; the ends. Invariant: ranges neither overlap nor touch.
    taken: Mutex<BTreeMap<u64, u64>>,
}

impl PartialEq for StagedFile {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Staging {
    pub(crate) fn new(disk: Arc<dyn Disk>, limit: ByteSize, clock: Arc<dyn Clock>, tasks: Arc<TaskGroup>) -> Arc<Self> {
        let limit = limit.bytes();
        let (used, full, open) = (AtomicU64::new(0), Mutex::new(None), Mutex::new(LruCache::new(OPEN)));
        Arc::new(Self { disk, limit, clock, tasks, used, full, open })
    }

    /// Whether it may take more.
    pub(crate) fn has_room(&self) -> bool {
        let believed_full = self.full.lock().is_some_and(|since| self.clock.now().duration_since(since) < FULL_FOR);
        !believed_full && self.used.load(Ordering::Relaxed) < self.limit
    }

    /// Bytes it may still take, as far as the limit goes.
    pub(crate) fn left(&self) -> u64 {
        if self.has_room() { self.limit.saturating_sub(self.used.load(Ordering::Relaxed)) } else { 0 }
    }

    /// A new, empty file.
    pub(crate) async fn create(self: &Arc<Self>) -> Result<Arc<StagedFile>> {
        use std::fmt::Write as _;
        let mut chance = [0; 16];
        self.clock.chance(&mut chance);
        let mut name = String::from("spill-");
        for byte in chance {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        let name: Arc<str> = name.into();
        // Before the file is there, so that a future dropped in between leaves nothing behind.
        let staged = Arc::new(StagedFile { staging: Arc::clone(self), name: Arc::clone(&name), taken: Mutex::default() });
        let file = self.disk.create(&name).await.map_err(|error| self.refused(error))?;
        self.open.lock().put(name, file);
        Ok(staged)
    }

    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn refused(&self, error: io::Error) -> Error {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            *self.full.lock() = Some(self.clock.now());
            return Error::NoRoom;
        }
        Error::Staging(error)
    }
}

impl StagedFile {
    /// Writes bytes at their offset.
    pub(crate) async fn write(&self, at: u64, bytes: Bytes) -> Result<()> {
        let range = at..at + bytes.len() as u64;
        let more = {
            let mut taken = self.taken.lock();
            let more = (range.end - range.start) - overlap(&taken, &range);
            if !self.staging.take(more) {
                return Err(Error::NoRoom);
            }
            add(&mut taken, range);
            more
        };
        let written = async { self.file().await?.write_at(at, bytes).await };
        match written.await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, bytes = more, "a spill failed");
                Err(self.staging.refused(error))
            }
        }
    }

    async fn file(&self) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.staging.open.lock().get(&self.name) {
            return Ok(Arc::clone(file));
        }
        let file = self.staging.disk.open(&self.name).await?;
        self.staging.open.lock().put(Arc::clone(&self.name), Arc::clone(&file));
        Ok(file)
    }
}

#[async_trait]
impl Source for StagedFile {
    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        self.file().await?.read_at(range).await
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let bytes = self.taken.get_mut().iter().map(|(start, end)| end - start).sum();
        self.staging.used.fetch_sub(bytes, Ordering::Relaxed);
        self.staging.open.lock().pop(&self.name);
        let (staging, name) = (Arc::clone(&self.staging), Arc::clone(&self.name));
        self.staging.tasks.spawn(async move {
            match staging.disk.remove(&name).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, name = &*name, "a staged file could not be removed"),
            }
        });
    }
}

/// Bytes of `range` that are in `taken`.
fn overlap(taken: &BTreeMap<u64, u64>, range: &Range<u64>) -> u64 {
    let ranges = taken.range(..range.end).rev().take_while(|(_, end)| **end > range.start);
    ranges.map(|(start, end)| (*end).min(range.end) - (*start).max(range.start)).sum()
}

/// Adds `range` to `taken`.
fn add(taken: &mut BTreeMap<u64, u64>, mut range: Range<u64>) {
    while let Some((&start, &end)) = taken.range(..=range.end).next_back().filter(|(_, end)| **end >= range.start) {
        taken.remove(&start);
        range = range.start.min(start)..range.end.max(end);
    }
    taken.insert(range.start, range.end);
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn taken_space_is_counted_once(ranges in prop::collection::vec((0..200u64, 1..40u64), 1..30)) {
            let mut taken = BTreeMap::new();
            let mut model = [false; 256];
            for (start, len) in ranges {
                let range = start..start + len;
                let here = range.clone().filter(|at| model[*at as usize]).count() as u64;
                prop_assert_eq!(overlap(&taken, &range), here);
                range.clone().for_each(|at| model[at as usize] = true);
                add(&mut taken, range);
                let sum: u64 = taken.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(sum, model.iter().filter(|taken| **taken).count() as u64);
            }
        }
    }
}
