//! Names: inodes, dentries, attributes, handles and the POSIX rules over objects.
//!
//! Guarantees: V1 (an inode number means one file as long as the kernel knows it or it is open), V2, V3 (name ↔ key is one-to-one under a prefix),
//! V4 (a failed operation leaves the tree as before), V5, V6 (no object that an open handle here needs is destroyed), V7 (only a complete
//! answer of COS means absent). This room knows no blocks and no parts.

mod aside;
mod attr;
mod claims;
mod commit;
mod copy;
mod create;
mod dir;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handles;
mod index;
mod io;
mod keymap;
mod lookup;
mod meta;
mod open;
mod pages;
mod pending;
mod recover;
mod remove;
mod rename;
#[cfg(test)]
mod tests;
mod tree;
mod unsent;
mod xattr;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use crate::data::Data;

use crate::local::Ledger;

use crate::store::{Bucket, CommitToken, Key};

use crate::support::{Budget, Clock, Ctx, Metrics, Reservation, Share, TaskGroup};

use aside::Helper;
use claims::Claims;
use handles::{Handles, OpenFile};
use index::Index;
use keymap::{KeyMap, Name, RESERVED};
use meta::Attributes;
use pending::Pending;
use tree::{Facts, Tree};
use unsent::Told;

pub use error::{Error, Refusal, Why};
pub use pending::{PendingCounts, Refused};
pub use recover::recover;
pub use unsent::Unsent;

/// What a file-system operation returns.
pub type Result<T> = std::result::Result<T, Error>;

/// An inode number. The kernel's nodeid and `st_ino` are the same number here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
}

/// One open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fh(pub u64);

/// The process that a write or a flush comes from, as the kernel tells processes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u64);

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket or a device node. The `S_IFMT` bits.
    Special(u32),
}

/// What stat(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// How many names it has: 0 once its name was removed while it is open, else 1. A directory has 1 and not 2, because 2 means "no subdirectories"
    /// to fts(3) and old find(1).
    pub nlink: u32,
    /// Permission bits and setuid, setgid, sticky; no type bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A device node's numbers, as Linux packs them; else 0.
    pub rdev: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last access: in memory only.
    pub atime: SystemTime,
    /// Last change of the bytes.
    pub mtime: SystemTime,
    /// Last change of the inode.
    pub ctime: SystemTime,
}

/// An answer that names an inode; giving it to the kernel raises the inode's lookup count by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The inode's attributes.
    pub attr: Attr,
    /// How long the kernel may believe the name and the attributes.
    pub ttl: Duration,
}

/// The answer to lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The name is there.
    Found(Entry),
    /// The name is not there, and the kernel may believe that for so long (zero: not at all).
    Absent(Duration),
}

/// How a file is opened; what the flags of open(2) come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// O_APPEND.
    pub append: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// O_EXCL (with O_CREAT).
    pub exclusive: bool,
}

/// An open file as the kernel is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub fh: Fh,
    /// FOPEN_DIRECT_IO: reads and writes bypass the page cache.
    pub direct_io: bool,
    /// FOPEN_KEEP_CACHE: the kernel's pages are of this version.
    pub keep_cache: bool,
    /// FOPEN_NOFLUSH: close(2) need not ask us.
    pub no_flush: bool,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// This time.
    To(SystemTime),
}

/// What setattr is to change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the bytes.
    pub mtime: Option<SetTime>,
}

/// How a rename treats what is at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// RENAME_NOREPLACE: fails if it exists.
    NoReplace,
    /// RENAME_EXCHANGE: refused, COS cannot.
    Exchange,
}

/// How setxattr treats what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetXattr {
    /// Creates or replaces.
    Any,
    /// XATTR_CREATE.
    Create,
    /// XATTR_REPLACE.
    Replace,
}

/// What fallocate(2) does with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Sees to it that there is room; nothing to do here but to extend the file.
    Reserve {
        /// The size stays (FALLOC_FL_KEEP_SIZE).
        keep_size: bool,
    },
    /// Makes it read as zeros (FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE).
    Zero {
        /// The size stays.
        keep_size: bool,
    },
}

/// What statfs(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Block size that the counts are in.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// A directory entry on its way to the kernel.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a OsStr,
    /// The inode's number (for `d_ino`; never 0).
    pub ino: Ino,
    /// What it is, where that is known.
    pub kind: Option<FileKind>,
    /// Where readdir goes on behind it.
    pub next: u64,
    /// Attributes, where they are known exactly; taking such an entry raises the lookup count.
    pub entry: Option<Entry>,
}

/// Whether a [`DirSink`] took an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the reply.
    Taken,
    /// The reply is full; the entry is not in it.
    Full,
}

/// Where readdir puts entries.
pub trait DirSink: Send {
    /// Offers one entry.
    fn push(&mut self, entry: &DirEntry<'_>) -> Pushed;
}

/// Tells the kernel of what it did not ask for. Enqueues, never waits.
pub trait Notify: Debug + Send + Sync {
    /// The name may mean something else now: a remote change, or an inode we want back.
    fn entry(&self, parent: Ino, name: &OsStr);

    /// Pages and attributes of the inode are out of date.
    fn inode(&self, ino: Ino);
}

/// When open(2) asks COS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Always.
    Open,
    /// Not within the metadata TTL.
    Ttl,
    /// Always, and nothing is believed for any time.
    Strict,
}

/// Which POSIX metadata is read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posix {
    /// All that COSFS keeps, and nanoseconds.
    Full,
    /// The modification time only.
    Mtime,
    /// None.
    None,
}

/// What an edit, chmod or rename carries over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preserve {
    /// All that HEAD shows.
    Headers,
    /// The object's ACL and tags, too.
    Full,
}

/// What becomes of a commit whose base somebody else replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// ESTALE; the bytes are kept.
    Fail,
    /// The bytes go beside, as `name.conflict-HOST-TIME`.
    KeepBoth,
    /// The bytes go over it.
    LastWriter,
}

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Config {
    /// Key prefix of the root: empty, or ending in `/`.
    pub prefix: String,
    /// Names this mount among others (helper objects, conflict copies): host and start time.
    pub mount_id: String,
    /// Nothing may be changed.
    pub read_only: bool,
    /// Owner of what has none of its own.
    pub uid: u32,
    /// Group of what has none of its own.
    pub gid: u32,
    /// Permissions of files that have none of their own.
    pub file_mode: u32,
    /// Permissions of directories that have none of their own.
    pub dir_mode: u32,
    /// When open asks COS.
    pub consistency: Consistency,
    /// How old names and attributes may be.
    pub metadata_ttl: Duration,
    /// How old absences may be.
    pub negative_ttl: Duration,
    /// Which metadata is kept.
    pub posix: Posix,
    /// What is carried over.
    pub preserve: Preserve,
    /// What a conflict does.
    pub on_conflict: OnConflict,
    /// Whether O_EXCL is decided at open, by an empty object, or by the first commit.
    pub exclusive_at_open: bool,
    /// Most objects of one directory rename.
    pub rename_limit: usize,
    /// Reads bypass the page cache.
    pub direct_io: bool,
    /// Keys that are no names: escaped, or else hidden.
    pub escape_unspellable: bool,
    /// A defect built in on purpose, which the differential tester has to find. Never set by the command line.
    pub defect: Option<Defect>,
}

/// Defects that can be built in, to see that the tests find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A renamed name is still found under its old name.
    StaleDentryAfterRename,
    /// A file that replaced another shows the other's size.
    WrongSizeAfterRenameOver,
    /// An entry that is created while its directory is listed is not found afterwards.
    EntryCreatedDuringListingLost,
}

/// What stopping left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Files whose changes are not in COS.
    pub files: usize,
    /// Their dirty bytes.
    pub bytes: u64,
    /// Removals and changes of attributes that the ledger has: the next mount sends them.
    pub noted: usize,
}

/// Prefix of the keys of a mount's objects of zeros.
pub fn zeros_prefix(prefix: &str, mount_id: &str) -> String {
    format!("{prefix}{RESERVED}/zeros/{mount_id}/")
}

/// The file system of one mount. One method per operation, named as POSIX names it, each in the file of its kind; all may be dropped at any await.
#[derive(Debug)]
pub struct Vfs {
    config: Config,
    bucket: Arc<dyn Bucket>,
    data: Arc<Data>,
    /// Where helper objects and renames are noted that a crash would leave behind.
    ledger: Option<Arc<Ledger>>,
    notify: Arc<dyn Notify>,
    clock: Arc<dyn Clock>,
    tasks: Arc<TaskGroup>,
    keys: KeyMap,
    handles: Handles,
    index: Index,
    /// What inodes, listings and the index may take, set aside for good so that cached blocks do not count on it.
    _memory: Option<Reservation>,
    /// Set once, by [`Vfs::drain`]: nothing is changed any more.
    stopping: AtomicBool,
    /// Wakes whoever sleeps until another try.
    stopped: tokio::sync::Notify,
    /// Wakes whoever waits for a claim, or for a name that is being asked for.
    released: tokio::sync::Notify,
    /// Wakes the task that deletes: somebody waits for it.
    hurry: tokio::sync::Notify,
    /// What was told of late of changes that could not be sent.
    told: Told,
    /// Guards inodes, open files and claims together, so that an operation tells all of them at once. Never held while waiting.
    names: Mutex<Names>,
}

/// What the lock of a [`Vfs`] guards.
#[derive(Debug)]
struct Names {
    tree: Tree,
    /// Files that have handles, or bytes that are not committed.
    open: HashMap<Ino, OpenFile>,
    claims: Claims,
    /// Objects that keep what files still refer to though their own source is gone.
    helpers: Vec<Helper>,
    /// Names that COS is being asked for, and on whose behalf.
    asking: HashMap<(Ino, Name), Ctx>,
    /// What programs were told is done and COS does not have.
    pending: Pending,
}

impl Vfs {
    /// Makes the file system over an open bucket. Asks nothing yet.
    #[expect(clippy::too_many_arguments, reason = "the rooms below, handed in by the one place that builds them")]
    pub fn new(
        config: Config,
        bucket: Arc<dyn Bucket>,
        data: Arc<Data>,
        ledger: Option<Arc<Ledger>>,
        notify: Arc<dyn Notify>,
        budget: Budget,
        clock: Arc<dyn Clock>,
        tasks: Arc<TaskGroup>,
        _metrics: &Metrics,
    ) -> Arc<Self> {
        let memory = budget.share(Share::Names);
        let root = Facts { kind: FileKind::Directory, attributes: Attributes::default(), origin: None, modified: clock.wall() };
        let seed = format!("{}/{}", bucket.name().as_str(), config.prefix);
        let tree = Tree::new(&seed, memory * 3 / 4, root, clock.now());
        Arc::new(Self {
            keys: KeyMap::new(&config.prefix, config.escape_unspellable),
            handles: Handles::default(),
            index: Index::new(memory / 4),
            _memory: budget.try_reserve(Share::Names, memory),
            stopping: AtomicBool::new(false),
            released: tokio::sync::Notify::new(),
            hurry: tokio::sync::Notify::new(),
            told: Told::default(),
            stopped: tokio::sync::Notify::new(),
            names: Mutex::new(Names {
                tree,
                open: HashMap::new(),
                claims: Claims::default(),
                helpers: Vec::new(),
                asking: HashMap::new(),
                pending: Pending::default(),
            }),
            config,
            bucket,
            data,
            ledger,
            notify,
            clock,
            tasks,
        })
    }

    /// The kernel gives back `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.names.lock().tree.forget(ino, count);
    }

    /// The file system's size: as good as endless.
    pub fn statfs(&self) -> StatFs {
        StatFs { block_size: 4096, blocks: 1 << 40, free: 1 << 40, files: 1 << 40, name_max: 255 }
    }

    /// Refuses new changes, commits what is dirty, and says what could not be.
    pub async fn drain(self: &Arc<Self>, cx: &Ctx) -> Left {
        self.refuse_changes();
        let dirty = self.names.lock().uncommitted();
        stream::iter(dirty)
            .for_each_concurrent(DRAINED_AT_ONCE, |ino| async move {
                if let Err(error) = self.commit(cx, ino).await {
                    self.tell_unsent(ino, &error);
                }
            })
            .await;
        if let Err(error) = self.settle(cx, Ino::ROOT).await {
            tracing::warn!("removals or attributes of the last moment are not in COS yet: {error}");
        }
        self.left()
    }

    /// The key that an inode stands for, as a person would look for it; for the log.
    pub fn key_of(&self, ino: Ino) -> Option<String> {
        let key = self.names.lock().key(&self.keys, ino).ok()?;
        Some(format!("cos://{}/{key}", self.bucket.name()))
    }

    /// From here on nothing is changed any more.
    pub fn refuse_changes(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stopped.notify_waiters();
    }

    /// What is not in COS at this moment.
    pub fn left(&self) -> Left {
        let (files, PendingCounts { deletes, attributes, .. }) = {
            let names = self.names.lock();
            (names.uncommitted().len(), names.pending.counts())
        };
        Left { files, bytes: if files == 0 { 0 } else { self.data.dirty_bytes() }, noted: deletes + attributes }
    }

    /// Refuses what would change something where nothing may be changed.
    fn may_change(&self) -> Result<()> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        if self.stopping.load(Ordering::Relaxed) { Err(Error::Stopping) } else { Ok(()) }
    }

    /// Runs `work` to its end even if the caller is dropped: for what takes several requests and must not stop between them.
    async fn whole<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.tasks.spawn(async move {
            // Nobody listens any more if the caller was dropped; the work is done all the same.
            drop(tell.send(work.await));
        });
        told.await.unwrap_or_else(|_| Err(Error::Io("the operation was cut off: the mount is being stopped, or it panicked".into())))
    }

    /// A mark for a new object, by which an unknown outcome is settled.
    fn token(&self) -> CommitToken {
        let mut bytes = [0; 16];
        self.clock.chance(&mut bytes);
        CommitToken::from_bytes(bytes)
    }
}

impl Names {
    /// The prefix of the keys below the directory `ino`; [`Error::Stale`] if it has no name any longer.
    fn directory_key(&self, keys: &KeyMap, ino: Ino) -> Result<String> {
        let node = self.tree.node(ino).ok_or(Error::Stale)?;
        if !node.is_directory() {
            return Err(Error::NotADirectory);
        }
        keys.directory(self.tree.path(ino).ok_or(Error::NotFound)?.iter())
    }

    /// The key that the object of `ino` has, or will have: of a directory that of its marker.
    fn key(&self, keys: &KeyMap, ino: Ino) -> Result<Key> {
        let node = self.tree.node(ino).ok_or(Error::Stale)?;
        if node.is_directory() {
            let marker = self.directory_key(keys, ino)?;
            // Other tools keep a directory under a key without the slash; it stays where it is.
            let stem = marker.trim_end_matches('/');
            let old_form = node.facts.origin.as_ref().filter(|origin| origin.key.as_str() == stem);
            return Ok(old_form.map_or_else(|| Key::new(&marker), |origin| origin.key.clone()));
        }
        let (parent, name) = node.dentry().ok_or(Error::Stale)?;
        keys.child(&self.directory_key(keys, parent)?, name)
    }
}

/// Files that [`Vfs::drain`] commits at once.
const DRAINED_AT_ONCE: usize = 16;
