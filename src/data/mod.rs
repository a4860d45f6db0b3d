//! Bytes: the content of open files; blocks in, parts out, memory bounded.
//!
//! One [`File`] per open inode, shared by its handles; one [`Reader`] per handle. A read runs `file → extents → reader → cache → fetch → store`, a
//! write stops at the extents, and a commit runs `file → plan → upload → store`.
//!
//! Guarantees: D1 (a sector is a function of bucket, key, ETag and index), D1b, D2 (a read sees every acknowledged write), D3 (an acknowledged byte leaves one
//! place only when it is in the next), D4 (one upload per file, commits in order), D5 (memory within the budget, every wait ends), D7.
//! This room knows no inode numbers and no paths.

mod cache;
mod error;
mod file;
mod read;
mod write;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc, time::SystemTime};

use crate::local::{Disk, Ledger};

use crate::store::{Bucket, Key, Meta, ObjectVersion, Replaces, Stored};

use crate::support::{Budget, ByteSize, Clock, Ctx, Metrics, TaskGroup};

pub use error::Error;
pub use file::{At, File, Frozen, HeldBytes, Written};
pub use read::Reader;
pub use write::Referred;

/// What a call of this room returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Config {
    /// Size of the first parts of an upload; below it a file is one PUT.
    pub part_size: ByteSize,
    /// Parts in flight at first; streams find out how many are best.
    pub parallel_parts: usize,
    /// Most parts of all streams in flight.
    pub most_parallel_parts: usize,
    /// Most bytes a sequential reader's window asks ahead.
    pub largest_window: ByteSize,
    /// Most bytes that staging may hold.
    pub staging_limit: ByteSize,
    /// Prefix of the keys of objects of zeros, of which long holes are copied; `None`: all are sent.
    pub zeros: Option<String>,
    /// A defect that the differential tester is to find; `None` but in its tests.
    pub(crate) defect: Option<Defect>,
}

/// Defects built in to prove that the differential tester finds such things. Set in debug builds only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A file cut and extended again shows what the base had there.
    OldBytesInHole,
    /// A commit sends zeros for the last extent in memory.
    LastExtentDroppedAtFlush,
    /// An O_APPEND write behind a cut of the base goes nowhere.
    AppendLostAfterTruncate,
}

impl Default for Config {
    /// The defaults of the command line.
    fn default() -> Self {
        Self {
            part_size: ByteSize::mib(8),
            parallel_parts: 8,
            most_parallel_parts: 64,
            largest_window: ByteSize::mib(32),
            staging_limit: ByteSize::gib(10),
            zeros: None,
            defect: None,
        }
    }
}

/// The data of one mount: its block cache, its memory, its staging.
#[derive(Debug)]
pub struct Data {
    room: Arc<write::Room>,
}

impl Data {
    /// Makes the room. Without `staging` nothing is spilled: a writer that finds no memory gets [`Error::NoRoom`]. Uploads are noted in the
    /// `ledger`, or left behind by a crash.
    pub fn new(
        config: Config,
        budget: Budget,
        staging: Option<Arc<dyn Disk>>,
        ledger: Option<Arc<Ledger>>,
        clock: Arc<dyn Clock>,
        tasks: Arc<TaskGroup>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        Arc::new(Self { room: write::Room::new(config, budget, staging, ledger, clock, tasks, metrics) })
    }

    /// The content of an inode that is being opened: of `base`, or nothing yet.
    pub fn open(self: &Arc<Self>, bucket: Arc<dyn Bucket>, base: Option<ObjectVersion>) -> Arc<File> {
        File::new(self.room.open(bucket, base))
    }

    /// Gives the cached blocks of `old` in `clean` to `new`, which took these ranges from it unchanged (rename, self-copy). Both are of `bucket`.
    pub fn carry(&self, bucket: &Arc<dyn Bucket>, old: &ObjectVersion, new: &ObjectVersion, clean: &[Range<u64>]) {
        self.room.carry(bucket, old, new, clean);
    }

    /// Makes an object of `source` under `to` on the server, whatever its size: one copy, or part copies above the limit of one.
    /// It carries `meta`, with a token of its own unless `meta` has one.
    pub async fn copy_object(
        &self,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        source: &ObjectVersion,
        to: &Key,
        meta: &Meta,
        replaces: &Replaces,
    ) -> Result<Stored> {
        write::copy_object(&self.room, cx, bucket, source, to, meta, replaces).await
    }

    /// Removes helper objects of this room: no more files are committed. The last call of a mount.
    pub async fn let_go(&self, cx: &Ctx) {
        self.room.let_go(cx).await;
    }

    /// Bytes of `version` that files refer to whose copy of them is not committed.
    pub fn lent_bytes(&self, bucket: &Arc<dyn Bucket>, version: &ObjectVersion) -> u64 {
        self.room.lent_bytes(cache::Tag::new(bucket.name(), version))
    }

    /// Fetches into memory or staging what files refer to of `version`, so that it may go. [`Error::NoRoom`] if it does not fit.
    pub async fn secure_lent(&self, cx: &Ctx, bucket: &Arc<dyn Bucket>, version: &ObjectVersion) -> Result<()> {
        let origin = read::Origin::new(Arc::clone(bucket), version.clone());
        self.room.secure_lent(cx, &origin, &[]).await
    }

    /// Bytes of files that are dirty now, in memory and staging together.
    pub fn dirty_bytes(&self) -> u64 {
        self.room.dirty_bytes()
    }
}

/// What a commit is to make. Given anew with every commit, because names and attributes change between them.
#[derive(Debug, Clone)]
pub struct Target {
    /// The key.
    pub key: Key,
    /// What must be there before.
    pub replaces: Replaces,
    /// Everything the object carries but its times. The commit adds a token of its own.
    pub meta: Meta,
    /// User metadata that holds the file's times.
    pub times: Vec<(String, String)>,
    /// Whether a program set these times. If not, a stream sends none, and its Last-Modified is its mtime.
    pub times_set: bool,
}

/// What a commit made.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The object as it is now; also the file's new base.
    pub stored: Stored,
    /// What it carries now, times and token included.
    pub meta: Meta,
    /// Set when a stream's object carries no times: its Last-Modified.
    pub last_modified: Option<SystemTime>,
}
