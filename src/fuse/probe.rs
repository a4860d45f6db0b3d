//! A file system of one directory in memory that writes down what the kernel asks: for tests of the kernel's own behaviour, through the same
//! negotiation, listing and notification code as the real one.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;

use crate::fuse::convert::file_attr;
use crate::fuse::dirents::{Page, Room, Style};
use crate::fuse::{Access, KernelNotify, Serving};
use crate::vfs::{Attr, DirEntry, DirSink, Entry, FileKind, Ino, Pushed};

/// What the tests see of the file system.
#[derive(Debug)]
pub(crate) struct Seen {
    log: Mutex<Vec<String>>,
    /// Name → inode number and bytes. A name that begins with `link` is a symbolic link to its bytes.
    files: Mutex<BTreeMap<String, (u64, Vec<u8>)>>,
    /// References the kernel holds.
    lookups: Mutex<HashMap<u64, u64>>,
    ttl: Duration,
}

impl Seen {
    pub(crate) fn new(ttl: Duration) -> Arc<Self> {
        Arc::new(Self { log: Mutex::default(), files: Mutex::default(), lookups: Mutex::default(), ttl })
    }

    pub(crate) fn add(&self, name: &str, bytes: &[u8]) -> Ino {
        let mut files = self.files.lock();
        let ino = 2 + files.len() as u64;
        files.insert(name.to_owned(), (ino, bytes.to_vec()));
        Ino(ino)
    }

    /// What was asked since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock())
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        self.files.lock()[name].1.clone()
    }

    /// Inodes the kernel knows, without the root.
    pub(crate) fn known(&self) -> usize {
        self.lookups.lock().values().filter(|count| **count > 0).count()
    }

    fn note(&self, what: String) {
        self.log.lock().push(what);
    }

    fn attr(ino: u64, name: &str, size: usize) -> Attr {
        let (kind, mode) = match (ino, name.starts_with("link")) {
            (1, _) => (FileKind::Directory, 0o755),
            (_, true) => (FileKind::Symlink, 0o777),
            _ => (FileKind::File, 0o644),
        };
        Attr {
            ino: Ino(ino),
            kind,
            nlink: 1,
            mode,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: size as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
        }
    }

    fn by_ino(&self, ino: u64) -> Option<Attr> {
        if ino == 1 {
            return Some(Self::attr(1, "", 0));
        }
        let files = self.files.lock();
        files.iter().find(|(_, file)| file.0 == ino).map(|(name, file)| Self::attr(ino, name, file.1.len()))
    }

    fn with_bytes<T>(&self, ino: u64, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut files = self.files.lock();
        change(&mut files.values_mut().find(|file| file.0 == ino).unwrap().1)
    }
}

/// Serves it.
pub(crate) fn serve(seen: &Arc<Seen>, device: OwnedFd, notify: &KernelNotify) -> io::Result<Serving> {
    let own = File::from(device.as_fd().try_clone_to_owned()?);
    super::serve_with(Probe { seen: Arc::clone(seen), device: own }, device, Access::AsMounted, notify)
}

struct Probe {
    seen: Arc<Seen>,
    device: File,
}

impl Probe {
    fn list(&self, style: Style, unique: fuser::RequestId, offset: u64, mut reply: impl Room) {
        let mut page = Page::new(style, reply.measure());
        let files = self.seen.files.lock();
        for (index, (name, (ino, bytes))) in files.iter().enumerate().skip(usize::try_from(offset).unwrap()) {
            // Every second entry goes out by name only.
            let known = index % 2 == 0 && style == Style::Plus;
            let entry = known.then(|| Entry { attr: Seen::attr(*ino, name, bytes.len()), ttl: self.seen.ttl });
            let item = DirEntry { name: OsStr::new(name), ino: Ino(*ino), kind: None, next: index as u64 + 1, entry };
            if page.push(&item) == Pushed::Full {
                break;
            }
            if known {
                *self.seen.lookups.lock().entry(*ino).or_default() += 1;
            }
        }
        page.send(unique, &self.device).unwrap();
    }
}

impl Filesystem for Probe {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        super::ops::negotiate(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_str().unwrap();
        self.seen.note(format!("lookup {name}"));
        let found = self.seen.files.lock().get(name).map(|(ino, bytes)| Seen::attr(*ino, name, bytes.len()));
        if let Some(attr) = &found {
            *self.seen.lookups.lock().entry(attr.ino.0).or_default() += 1;
        }
        let ttl = self.seen.ttl;
        let answer = match found {
            Some(attr) => crate::vfs::Lookup::Found(Entry { attr, ttl }),
            None => crate::vfs::Lookup::Absent(ttl),
        };
        super::reply::lookup(reply, Ok(answer));
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        *self.seen.lookups.lock().get_mut(&ino.0).unwrap() -= count;
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.seen.by_ino(ino.0) {
            Some(attr) => reply.attr(&self.seen.ttl, &file_attr(&attr)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.seen.note(format!("setattr size {size:?}"));
        if let Some(size) = size {
            self.seen.with_bytes(ino.0, |bytes| bytes.resize(usize::try_from(size).unwrap(), 0));
        }
        reply.attr(&self.seen.ttl, &file_attr(&self.seen.by_ino(ino.0).unwrap()));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.seen.note("readlink".to_owned());
        reply.data(&self.seen.with_bytes(ino.0, |bytes| bytes.clone()));
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = super::convert::open_flags(flags.0).truncate;
        self.seen.note(format!("open truncate {truncate}"));
        if truncate {
            self.seen.with_bytes(ino.0, Vec::clear);
        }
        reply.opened(FileHandle(ino.0), FopenFlags::empty());
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let name = name.to_str().unwrap();
        self.seen.note(format!("create {name}"));
        let ino = self.seen.add(name, b"");
        *self.seen.lookups.lock().entry(ino.0).or_default() += 1;
        reply.created(&self.seen.ttl, &file_attr(&Seen::attr(ino.0, name, 0)), Generation(0), FileHandle(ino.0), FopenFlags::empty());
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let all = self.seen.with_bytes(ino.0, |bytes| bytes.clone());
        let from = usize::try_from(offset).unwrap().min(all.len());
        let to = (from + size as usize).min(all.len());
        reply.data(&all[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.seen.note(format!("write cached {} owner {}", flags.contains(WriteFlags::FUSE_WRITE_CACHE), owner.is_some()));
        let offset = usize::try_from(offset).unwrap();
        self.seen.with_bytes(ino.0, |bytes| {
            let end = bytes.len().max(offset + data.len());
            bytes.resize(end, 0);
            bytes[offset..offset + data.len()].copy_from_slice(data);
        });
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.seen.note("flush".to_owned());
        reply.ok();
    }

    fn release(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.seen.note("release".to_owned());
        reply.ok();
    }

    fn readdir(&self, request: &Request, _: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(Style::Plain, request.unique(), offset, reply);
    }

    fn readdirplus(&self, request: &Request, _: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list(Style::Plus, request.unique(), offset, reply);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}
