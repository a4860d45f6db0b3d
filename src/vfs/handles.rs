//! Open files and open directories: what a handle is, and the table of them.
//!
//! An inode has one [`OpenFile`], shared by all its handles, as long as it has any or holds bytes that are not committed. A handle holds what the
//! read path needs, so that a read touches its shard here and nothing else of this room.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::data::{File, Reader};

use crate::store::Meta;

use crate::vfs::{Error, Fh, Ino, Owner, Result, aside::Helper, dir::DirectoryHandle};

/// What all handles of one inode share. Guarded by the lock of the names.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// The bytes.
    pub(super) file: Arc<File>,
    /// What the object carries, to be given again to its successor; `None` until an open for writing asked, or while there is no object.
    pub(super) meta: Option<Arc<Meta>>,
    /// Handles that may write.
    pub(super) writers: u32,
    /// The epoch in which attributes were changed that the object does not have yet.
    pub(super) changed: Option<u64>,
    /// O_EXCL was asked for and is decided by the first commit.
    pub(super) exclusive: bool,
    /// The bytes may leave while they are being written.
    pub(super) streaming: bool,
    /// The object that keeps the bytes since this mount replaced or removed the file's own.
    pub(super) helper: Option<Helper>,
    /// A commit was begun: COS may have an object of which nobody told us.
    pub(super) attempted: bool,
    /// The task that commits what those who wrote have left, by the epoch in which it began.
    pub(super) behind: Option<u64>,
    /// When the first of the changes was made that COS does not have.
    pub(super) since: Option<SystemTime>,
    /// Why it does not, if it was asked to.
    pub(super) refused: Option<Refused>,
}

/// What became of the last try to send a file's changes.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) error: Error,
    /// When it is tried again without being asked for.
    pub(super) next: Option<Instant>,
}

/// One handle of a file.
#[derive(Debug)]
pub(super) struct FileHandle {
    pub(super) ino: Ino,
    pub(super) file: Arc<File>,
    pub(super) reader: Reader,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    /// The process, or thread, that opened it.
    pub(super) opener: u32,
    /// Guards nothing but itself.
    pub(super) writers: Mutex<Writers>,
}

/// Who has written through a handle and has not closed it since: the close that each of them makes is the one that commits.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// Direct writes say whose they are.
    processes: HashSet<Owner>,
    /// The page cache does not, and of a writer whose close failed nobody else will come.
    anybody: bool,
}

/// What a close is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Commit: it is a writer's, or there may be a writer of whom nothing else would come.
    Commits,
    /// As that, but nothing was ever written that is not committed, or nothing at all.
    Unwritten,
    /// Leave it to those who wrote.
    Others,
}

impl Writers {
    /// A write of `owner`, or of the page cache.
    pub(super) fn wrote(&mut self, owner: Option<Owner>) {
        match owner {
            Some(owner) => drop(self.processes.insert(owner)),
            None => self.anybody = true,
        }
    }

    /// What the close of `owner` is to do. It is no writer from then on.
    pub(super) fn close(&mut self, owner: Owner) -> Closing {
        if self.processes.remove(&owner) || self.anybody {
            Closing::Commits
        } else if self.processes.is_empty() {
            Closing::Unwritten
        } else {
            Closing::Others
        }
    }

    /// A close did not get the bytes into COS: whoever closes next tries again, and is told.
    pub(super) fn failed(&mut self) {
        self.anybody = true;
    }
}

#[derive(Debug, Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Directory(Arc<DirectoryHandle>),
}

const SHARDS: usize = 16;

/// All handles of a mount.
#[derive(Debug, Default)]
pub(super) struct Handles {
    next: AtomicU64,
    /// Each guards its own handles.
    shards: [Mutex<HashMap<u64, Handle>>; SHARDS],
}

impl Handles {
    /// Adds a handle of a file.
    pub(super) fn add_file(&self, handle: FileHandle) -> Fh {
        self.add(Handle::File(Arc::new(handle)))
    }

    /// Adds a handle of a directory.
    pub(super) fn add_directory(&self, handle: DirectoryHandle) -> Fh {
        self.add(Handle::Directory(Arc::new(handle)))
    }

    /// The file behind a handle.
    pub(super) fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match self.shard(fh).lock().get(&fh.0) {
            Some(Handle::File(handle)) => Ok(Arc::clone(handle)),
            _ => Err(Error::BadHandle),
        }
    }

    /// The directory behind a handle.
    pub(super) fn directory(&self, fh: Fh) -> Result<Arc<DirectoryHandle>> {
        match self.shard(fh).lock().get(&fh.0) {
            Some(Handle::Directory(handle)) => Ok(Arc::clone(handle)),
            _ => Err(Error::BadHandle),
        }
    }

    /// Takes a handle of a file out of the table.
    pub(super) fn remove_file(&self, fh: Fh) -> Option<Arc<FileHandle>> {
        match self.shard(fh).lock().remove(&fh.0)? {
            Handle::File(handle) => Some(handle),
            Handle::Directory(_) => None,
        }
    }

    /// Takes a handle of a directory out of the table.
    pub(super) fn remove_directory(&self, fh: Fh) -> Option<Arc<DirectoryHandle>> {
        match self.shard(fh).lock().remove(&fh.0)? {
            Handle::Directory(handle) => Some(handle),
            Handle::File(_) => None,
        }
    }

    fn add(&self, handle: Handle) -> Fh {
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        self.shard(fh).lock().insert(fh.0, handle);
        fh
    }

    fn shard(&self, fh: Fh) -> &Mutex<HashMap<u64, Handle>> {
        // The remainder is below SHARDS.
        &self.shards[usize::try_from(fh.0 % SHARDS as u64).unwrap_or(0)]
    }
}
