//! Names: inodes, dentries, attributes, handles and the POSIX rules over objects.
//!
//! Guarantees: V1 (an inode number means one file as long as the kernel knows it or it is open), V2, V3 (name ↔ key is one-to-one under a prefix),
//! V4 (a failed operation leaves the tree as before), V5, V6 (no object that an open handle here needs is destroyed), V7 (only a complete
//! answer of COS means absent). This room knows no blocks and no parts.

mod error;
mod keymap;
mod meta;

use std::{
    ffi::OsStr,
    fmt::Debug,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::data::Data;

use crate::store::Bucket;

use crate::support::{Budget, Clock, Ctx, Metrics, TaskGroup};

pub use error::Error;

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
    /// Something only another tool can have stored: a device, a socket, a pipe. The `S_IFMT` bits.
    Special(u32),
}

/// What stat(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits and setuid, setgid, sticky; no type bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
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
}

/// What stopping left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Files whose changes are not in COS.
    pub files: usize,
    /// Their dirty bytes.
    pub bytes: u64,
}

/// The file system of one mount.
#[derive(Debug)]
pub struct Vfs {}

/// One method per operation, named as POSIX names it. All may be dropped at any await.
impl Vfs {
    /// Makes the file system over an open bucket. Asks nothing yet.
    pub fn new(
        config: Config,
        bucket: Arc<dyn Bucket>,
        data: Arc<Data>,
        notify: Arc<dyn Notify>,
        budget: Budget,
        clock: Arc<dyn Clock>,
        tasks: Arc<TaskGroup>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        unimplemented!("the vfs room")
    }

    /// Finds a name.
    pub async fn lookup(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<Lookup> {
        unimplemented!("the vfs room")
    }

    /// The kernel gives back `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        unimplemented!("the vfs room")
    }

    /// Attributes, and how long they may be believed.
    pub async fn getattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, fh: Option<Fh>) -> Result<Entry> {
        unimplemented!("the vfs room")
    }

    /// Changes attributes.
    pub async fn setattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, fh: Option<Fh>, change: SetAttr) -> Result<Entry> {
        unimplemented!("the vfs room")
    }

    /// Opens a file.
    pub async fn open(self: &Arc<Self>, cx: &Ctx, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        unimplemented!("the vfs room")
    }

    /// Creates a file, or opens it if it is there and `flags` do not exclude that. `mode` has the umask applied.
    pub async fn create(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32, flags: OpenFlags) -> Result<(Entry, Opened)> {
        unimplemented!("the vfs room")
    }

    /// The bytes at `offset`, fewer at the end of the file, as slices in order.
    pub async fn read(self: &Arc<Self>, cx: &Ctx, fh: Fh, offset: u64, size: u32) -> Result<Vec<Bytes>> {
        unimplemented!("the vfs room")
    }

    /// Writes; returns how many bytes. `owner` is `None` for pages of a mapping or of the page cache (`from_page_cache`), which land at their own
    /// offset whatever the flags.
    pub async fn write(
        self: &Arc<Self>,
        cx: &Ctx,
        fh: Fh,
        offset: u64,
        bytes: Bytes,
        from_page_cache: bool,
        owner: Option<Owner>,
    ) -> Result<u32> {
        unimplemented!("the vfs room")
    }

    /// close(2) of one duplicate of the handle.
    pub async fn flush(self: &Arc<Self>, cx: &Ctx, fh: Fh, owner: Owner) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Returns when the file's bytes and attributes are in COS.
    pub async fn fsync(self: &Arc<Self>, cx: &Ctx, fh: Fh) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// The last duplicate of the handle is gone. Never fails; what is still dirty is committed behind it.
    pub fn release(self: &Arc<Self>, fh: Fh) {
        unimplemented!("the vfs room")
    }

    /// Opens a directory.
    pub async fn opendir(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Fh> {
        unimplemented!("the vfs room")
    }

    /// Entries behind `offset` (0: the beginning), until the sink is full or the directory ends. With `plus`, entries carry attributes where they are known.
    pub async fn readdir(self: &Arc<Self>, cx: &Ctx, fh: Fh, offset: u64, plus: bool, sink: &mut dyn DirSink) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: Fh) {
        unimplemented!("the vfs room")
    }

    /// Returns when every create, unlink and rename in the directory is in COS.
    pub async fn fsyncdir(self: &Arc<Self>, cx: &Ctx, fh: Fh) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Makes a directory. `mode` has the umask applied.
    pub async fn mkdir(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32) -> Result<Entry> {
        unimplemented!("the vfs room")
    }

    /// Makes a regular file without opening it; other kinds are refused. `mode` has the umask applied and holds the type bits.
    pub async fn mknod(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32) -> Result<Entry> {
        unimplemented!("the vfs room")
    }

    /// Makes a symbolic link.
    pub async fn symlink(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        unimplemented!("the vfs room")
    }

    /// A symbolic link's target.
    pub async fn readlink(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Bytes> {
        unimplemented!("the vfs room")
    }

    /// Removes a file's name.
    pub async fn unlink(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Removes an empty directory.
    pub async fn rmdir(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Moves a name.
    pub async fn rename(self: &Arc<Self>, cx: &Ctx, from: (Ino, &OsStr), to: (Ino, &OsStr), mode: RenameMode) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// The file system's size.
    pub fn statfs(&self) -> StatFs {
        unimplemented!("the vfs room")
    }

    /// One extended attribute.
    pub async fn getxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr) -> Result<Bytes> {
        unimplemented!("the vfs room")
    }

    /// Names of the extended attributes.
    pub async fn listxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Vec<String>> {
        unimplemented!("the vfs room")
    }

    /// Sets an extended attribute.
    pub async fn setxattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr, value: &[u8], how: SetXattr) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Removes an extended attribute.
    pub async fn removexattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, name: &OsStr) -> Result<()> {
        unimplemented!("the vfs room")
    }

    /// Refuses new changes, commits what is dirty, and says what could not be.
    pub async fn drain(self: &Arc<Self>, cx: &Ctx) -> Left {
        unimplemented!("the vfs room")
    }
}
