//! Bytes: the content of open files; blocks in, parts out, memory bounded.
//!
//! One [`File`] per open inode, shared by its handles; one [`Reader`] per handle. A read runs `file → extents → reader → cache → fetch → store`, a
//! write stops at the extents, and a commit runs `file → plan → upload → store`.
//!
//! Guarantees: D1 (a sector is a function of bucket, key, ETag and index), D1b, D2 (a read sees every acknowledged write), D3 (an acknowledged byte leaves one
//! place only when it is in the next), D4 (one upload per file, commits in order), D5 (memory within the budget, every wait ends), D7.
//! This room knows no inode numbers and no paths.

mod error;

use std::{ops::Range, sync::Arc, time::SystemTime};

use bytes::Bytes;

use crate::local::Disk;

use crate::store::{Bucket, Key, Meta, ObjectVersion, Replaces, Stored};

use crate::support::{Budget, ByteSize, Clock, Ctx, Metrics, TaskGroup};

pub use error::Error;

/// What a call of this room returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Config {
    /// Size of the first parts of an upload; below it a file is one PUT.
    pub part_size: ByteSize,
    /// Parts of one file in flight at once.
    pub parallel_parts: usize,
    /// Most bytes a sequential reader's window asks ahead.
    pub largest_window: ByteSize,
    /// Most bytes that staging may hold.
    pub staging_limit: ByteSize,
}

/// The data of one mount: its block cache, its memory, its staging.
#[derive(Debug)]
pub struct Data {}

impl Data {
    /// Makes the room. Without `staging` nothing is spilled: a writer that finds no memory gets [`Error::NoRoom`].
    pub fn new(
        config: Config,
        budget: Budget,
        staging: Option<Arc<dyn Disk>>,
        clock: Arc<dyn Clock>,
        tasks: Arc<TaskGroup>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        unimplemented!("the data room")
    }

    /// The content of an inode that is being opened: of `base`, or nothing yet.
    pub fn open(self: &Arc<Self>, bucket: Arc<dyn Bucket>, base: Option<ObjectVersion>) -> Arc<File> {
        unimplemented!("the data room")
    }

    /// Gives the cached blocks of `old` in `clean` to `new`, which took these ranges from it unchanged (rename, self-copy).
    pub fn carry(&self, old: &ObjectVersion, new: &ObjectVersion, clean: &[Range<u64>]) {
        unimplemented!("the data room")
    }

    /// Makes an object of `source` under `to` on the server, whatever its size: one copy, or part copies above the limit of one.
    /// `on_upload` is told the id of an upload before any part of it is sent (for the journal).
    pub async fn copy_object(
        &self,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        source: &ObjectVersion,
        to: &Key,
        meta: &Meta,
        replaces: &Replaces,
    ) -> Result<Stored> {
        unimplemented!("the data room")
    }

    /// Bytes of files that are dirty now, in memory and staging together.
    pub fn dirty_bytes(&self) -> u64 {
        unimplemented!("the data room")
    }
}

/// Where a write lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At this offset.
    Offset(u64),
    /// At the end of the file, whatever it is when the write is done (O_APPEND).
    End,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where it landed.
    pub offset: u64,
    /// The file's size after it.
    pub size: u64,
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
    /// Set when the object carries no times: its Last-Modified.
    pub last_modified: Option<SystemTime>,
}

/// The pattern of one handle's reads.
#[derive(Debug)]
pub struct Reader {}

/// The bytes of one open file.
#[derive(Debug)]
pub struct File {}

/// While it lives, writes to the file wait.
#[derive(Debug)]
pub struct Frozen {}

impl File {
    /// A pattern of reads of its own, for a new handle.
    pub fn reader(&self) -> Reader {
        unimplemented!("the data room")
    }

    /// The size a program sees now.
    pub fn size(&self) -> u64 {
        unimplemented!("the data room")
    }

    /// Whether a commit would send anything.
    pub fn is_dirty(&self) -> bool {
        unimplemented!("the data room")
    }

    /// The version its clean bytes come from; `None` while nothing of it was ever committed.
    pub fn base(&self) -> Option<ObjectVersion> {
        unimplemented!("the data room")
    }

    /// The bytes of `range`, clipped to the file, as slices in order. Sees every acknowledged write.
    pub async fn read(self: &Arc<Self>, cx: &Ctx, reader: &Reader, range: Range<u64>) -> Result<Vec<Bytes>> {
        unimplemented!("the data room")
    }

    /// Takes the bytes: they are in memory or staging when it returns.
    pub async fn write(self: &Arc<Self>, cx: &Ctx, at: At, bytes: Bytes) -> Result<Written> {
        unimplemented!("the data room")
    }

    /// Cuts or extends (with a hole) to `size`; sent by the next commit.
    pub async fn truncate(self: &Arc<Self>, cx: &Ctx, size: u64) -> Result<()> {
        unimplemented!("the data room")
    }

    /// A sequential write from the start of a new or truncated file may leave as parts while it is being written; they become `target`.
    /// The last call counts; `None` (a second handle, a reader, a rename under way) makes the file gather from now on.
    pub fn stream_to(&self, target: Option<Target>) {
        unimplemented!("the data room")
    }

    /// Makes the file's bytes as they are at this call the object `target`. `None`: nothing was dirty (metadata alone is not sent). Calls that
    /// arrive during a commit share the next one. On an error the file stays dirty and no byte is lost.
    pub async fn commit(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Option<Committed>> {
        unimplemented!("the data room")
    }

    /// Shuts the gate: returns when no write is under way; later ones wait until the guard is dropped.
    pub async fn freeze(self: &Arc<Self>, cx: &Ctx) -> Result<Frozen> {
        unimplemented!("the data room")
    }

    /// The same bytes are under another key or version now (rename, self-copy, put aside): clean bytes come from `version` from here on.
    pub fn rebase(&self, version: ObjectVersion) {
        unimplemented!("the data room")
    }

    /// Fetches what only the base has into memory or staging, so that the base may go. [`Error::NoRoom`] if it does not fit.
    pub async fn localise(self: &Arc<Self>, cx: &Ctx) -> Result<()> {
        unimplemented!("the data room")
    }

    /// Whether no byte of the base is needed any longer.
    pub fn is_local(&self) -> bool {
        unimplemented!("the data room")
    }

    /// The name is gone: nothing will be committed any more, an open upload is aborted. The bytes stay readable and writable.
    pub fn orphan(&self) {
        unimplemented!("the data room")
    }
}
