//! The kernel's requests, one method each: decoded, given to `vfs` through [`Dispatch`], encoded.
//!
//! A WRITE's data is copied once, from the session's buffer into [`Bytes`]; a READ's goes out as the slice that `data` holds.
//!
//! What is not here is answered so that the kernel does the next best thing. ENOSYS makes it remember "never ask again":
//! access(2) is its own business (`default_permissions`). Locks are not negotiated and therefore kept by the kernel.

use std::{ffi::OsStr, fs::File, future::Future, io, path::Path, sync::Arc, time::SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use crate::fuse::again::{Again, Asked};
use crate::fuse::convert;
use crate::fuse::dirents::{Page, Room, Style};
use crate::fuse::dispatch::{self, Dispatch};
use crate::fuse::errno::errno;
use crate::fuse::failures::Failures;
use crate::fuse::reply;
use crate::support::{Ctx, Pool};
use crate::vfs::{Error, Fh, Ino, Owner, Result, SetAttr, StatFs, Vfs};

/// Most bytes of one WRITE; the kernel cuts it to `fs.fuse.max_pages_limit`, 1 MiB by default.
const MAX_WRITE: u32 = 1 << 20;
/// Most bytes of write buffers that wait to be used again: two parts, which is what an answer frees at a time.
const BUFFERS: usize = 16 << 20;
/// Most requests of the kernel's own (readahead, write-out) at once.
const MAX_BACKGROUND: u16 = 64;

/// What is asked of the kernel, each where it offers it. Not here on purpose: WRITEBACK_CACHE (writes out of order, and the kernel would own size
/// and mtime), POSIX_LOCKS and FLOCK_LOCKS, and what fuser 0.18 accepts but cannot serve (HANDLE_KILLPRIV_V2, SETXATTR_EXT, ALLOW_IDMAP,
/// OVER_IO_URING, HAS_RESEND).
const WANTED: [(InitFlags, &str); 8] = [
    (InitFlags::FUSE_DO_READDIRPLUS, "READDIRPLUS"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "READDIRPLUS_AUTO"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "PARALLEL_DIROPS"),
    (InitFlags::FUSE_ASYNC_DIO, "ASYNC_DIO"),
    (InitFlags::FUSE_ATOMIC_O_TRUNC, "ATOMIC_O_TRUNC"),
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "DIRECT_IO_ALLOW_MMAP"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "CACHE_SYMLINKS"),
    (InitFlags::FUSE_ABORT_ERROR, "ABORT_ERROR"),
];

/// The file system as fuser sees it.
#[derive(Debug)]
pub(super) struct Front {
    vfs: Arc<Vfs>,
    dispatch: Dispatch,
    failures: Arc<Failures>,
    again: Arc<Again>,
    /// What is written is copied into these.
    buffers: Arc<Pool>,
    /// The session's descriptor once more, for answers that fuser cannot encode.
    device: Arc<File>,
}

/// Asks the kernel for all of [`WANTED`] that it offers.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for (flag, name) in WANTED {
        if config.add_capabilities(flag).is_err() {
            tracing::info!("this kernel has no FUSE_{name}");
        }
    }
    // These fail only for values out of range, and then the kernel's own stay.
    config.set_max_write(MAX_WRITE).ok();
    config.set_max_background(MAX_BACKGROUND).ok();
}

impl Front {
    pub(super) fn new(vfs: Arc<Vfs>, dispatch: Dispatch, failures: Arc<Failures>, device: File) -> Self {
        Self { vfs, dispatch, failures, again: Arc::default(), buffers: Pool::new(BUFFERS), device: Arc::new(device) }
    }

    fn run<R, T, F>(
        &self,
        operation: &'static str,
        (request, ino): (&Request, INodeNo),
        reply: R,
        work: impl FnOnce(Arc<Vfs>, Ctx) -> F,
        answer: impl FnOnce(R, Result<T>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let request = dispatch::Request { operation, ino: ino.0, pid: request.pid(), uid: request.uid(), gid: request.gid() };
        let (vfs, failures) = (Arc::clone(&self.vfs), Arc::clone(&self.failures));
        let logged = move |reply, result: Result<T>| {
            if let Err(error) = &result {
                failures.note(request, error, || vfs.key_of(Ino(request.ino)));
            }
            answer(reply, result);
        };
        self.dispatch.run(request, reply, |cx| work(Arc::clone(&self.vfs), cx), logged);
    }

    /// Both kinds of READDIR: the entries are gathered in a [`Page`], which sends itself; fuser's object answers errors.
    fn list<R: Room + Refusable>(&self, style: Style, (request, ino): (&Request, INodeNo), fh: FileHandle, offset: u64, mut reply: R) {
        let mut page = Page::new(style, reply.measure());
        let (device, unique) = (Arc::clone(&self.device), request.unique());
        let work = |vfs: Arc<Vfs>, cx| async move {
            vfs.readdir(&cx, Fh(fh.0), offset, style == Style::Plus, &mut page).await?;
            Ok(page)
        };
        let answer = move |reply: R, result: Result<Page>| match result {
            Ok(page) => {
                if let Err(error) = page.send(unique, &device) {
                    tracing::debug!(%error, "the kernel did not take a listing");
                }
            }
            Err(error) => reply.refuse(errno(&error)),
        };
        let operation = if style == Style::Plus { "readdirplus" } else { "readdir" };
        self.run(operation, (request, ino), reply, work, answer);
    }
}

/// The part of both directory replies that is used: saying no.
trait Refusable: Send + 'static {
    fn refuse(self, errno: Errno);
}

impl Refusable for ReplyDirectory {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Refusable for ReplyDirectoryPlus {
    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Filesystem for Front {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn destroy(&mut self) {
        self.failures.sum_up();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        let (again, asked) = (Arc::clone(&self.again), Asked::name(request.pid(), parent.0, &name));
        let work = |vfs: Arc<Vfs>, cx| async move { again.unless_failed(&cx, asked, vfs.lookup(&cx, Ino(parent.0), &name)).await };
        self.run("lookup", (request, parent), reply, work, reply::lookup);
    }

    // BATCH_FORGET arrives here one by one: the type of its items is private in fuser 0.18.
    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.vfs.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.getattr(&cx, Ino(ino.0), fh.map(|fh| Fh(fh.0))).await };
        self.run("getattr", (request, ino), reply, work, reply::attr);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        // The kernel sends a ctime only when it keeps times itself (WRITEBACK_CACHE); here it is the time of the change.
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.setattr(&cx, Ino(ino.0), fh.map(|fh| Fh(fh.0)), change).await };
        self.run("setattr", (request, ino), reply, work, reply::attr);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.readlink(&cx, Ino(ino.0)).await };
        self.run("readlink", (request, ino), reply, work, reply::bytes);
    }

    // The kernel has applied the umask to every mode that follows: FUSE_DONT_MASK is not asked for.

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.mknod(&cx, Ino(parent.0), &name, mode, rdev).await };
        self.run("mknod", (request, parent), reply, work, reply::entry);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.mkdir(&cx, Ino(parent.0), &name, mode & 0o7777).await };
        self.run("mkdir", (request, parent), reply, work, reply::entry);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.unlink(&cx, Ino(parent.0), &name).await };
        self.run("unlink", (request, parent), reply, work, reply::empty);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.rmdir(&cx, Ino(parent.0), &name).await };
        self.run("rmdir", (request, parent), reply, work, reply::empty);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target) = (name.to_owned(), target.as_os_str().to_owned());
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.symlink(&cx, Ino(parent.0), &name, &target).await };
        self.run("symlink", (request, parent), reply, work, reply::entry);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        let work = |vfs: Arc<Vfs>, cx| async move {
            let mode = convert::rename_mode(flags).ok_or(Error::Invalid("unknown flags of renameat2(2)"))?;
            vfs.rename(&cx, (Ino(parent.0), &name), (Ino(new_parent.0), &new_name), mode).await
        };
        self.run("rename", (request, parent), reply, work, reply::empty);
    }

    fn link(&self, request: &Request, ino: INodeNo, _new_parent: INodeNo, _new_name: &OsStr, reply: ReplyEntry) {
        let work = |_, _| async { Err(Error::NotPermitted("an object has one name: no hard links")) };
        self.run("link", (request, ino), reply, work, reply::entry);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.open(&cx, Ino(ino.0), convert::open_flags(flags.0)).await };
        self.run("open", (request, ino), reply, work, reply::opened);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, flags: i32, reply: ReplyCreate) {
        let name = name.to_owned();
        let work =
            |vfs: Arc<Vfs>, cx| async move { vfs.create(&cx, Ino(parent.0), &name, mode & 0o7777, convert::open_flags(flags)).await };
        self.run("create", (request, parent), reply, work, reply::created);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = Asked::bytes(request.pid(), ino.0, offset..offset.saturating_add(u64::from(size)));
        let again = Arc::clone(&self.again);
        let work = |vfs: Arc<Vfs>, cx| async move { again.unless_failed(&cx, asked, vfs.read(&cx, Fh(fh.0), offset, size)).await };
        self.run("read", (request, ino), reply, work, reply::slices);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = self.buffers.copy(data);
        let from_page_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let owner = lock_owner.map(|owner| Owner(owner.0));
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.write(&cx, Fh(fh.0), offset, bytes, from_page_cache, owner).await };
        self.run("write", (request, ino), reply, work, reply::written);
    }

    fn flush(&self, request: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.flush(&cx, Fh(fh.0), Owner(lock_owner.0)).await };
        self.run("flush", (request, ino), reply, work, reply::empty);
    }

    fn fsync(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.fsync(&cx, Fh(fh.0)).await };
        self.run("fsync", (request, ino), reply, work, reply::empty);
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let work = |vfs: Arc<Vfs>, _| async move {
            vfs.release(Fh(fh.0));
            Ok(())
        };
        self.run("release", (request, ino), reply, work, reply::empty);
    }

    fn fallocate(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let work = |vfs: Arc<Vfs>, cx| async move {
            let space = convert::space(mode).ok_or(Error::Unsupported)?;
            vfs.allocate(&cx, Fh(fh.0), offset..offset.saturating_add(length), space).await
        };
        self.run("fallocate", (request, ino), reply, work, reply::empty);
    }

    fn lseek(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let work = |vfs: Arc<Vfs>, _| async move {
            let hole = convert::seeks_hole(whence).ok_or(Error::Invalid("an unknown way of lseek(2)"))?;
            vfs.seek(Fh(fh.0), u64::try_from(offset).map_err(|_| Error::NoData)?, hole)
        };
        self.run("lseek", (request, ino), reply, work, reply::offset);
    }

    // The kernel's newer form of it, with a 64-bit answer, is not known to fuser 0.18: the kernel is told ENOSYS and takes this one.
    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let work =
            |vfs: Arc<Vfs>, cx| async move { vfs.copy_range(&cx, (Fh(fh_in.0), offset_in), (Fh(fh_out.0), offset_out), length).await };
        self.run("copy_file_range", (request, ino_in), reply, work, reply::written);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.opendir(&cx, Ino(ino.0)).await };
        self.run("opendir", (request, ino), reply, work, reply::opened_directory);
    }

    fn readdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(Style::Plain, (request, ino), fh, offset, reply);
    }

    fn readdirplus(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list(Style::Plus, (request, ino), fh, offset, reply);
    }

    fn releasedir(&self, request: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let work = |vfs: Arc<Vfs>, _| async move {
            vfs.releasedir(Fh(fh.0));
            Ok(())
        };
        self.run("releasedir", (request, ino), reply, work, reply::empty);
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.fsyncdir(&cx, Fh(fh.0)).await };
        self.run("fsyncdir", (request, ino), reply, work, reply::empty);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let StatFs { block_size, blocks, free, files, name_max } = self.vfs.statfs();
        reply.statfs(blocks, free, free, files, files, block_size, name_max, block_size);
    }

    fn setxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let (name, value) = (name.to_owned(), Bytes::copy_from_slice(value));
        let work = |vfs: Arc<Vfs>, cx| async move {
            let how = convert::set_xattr(flags).ok_or(Error::Invalid("unknown flags of setxattr(2)"))?;
            vfs.setxattr(&cx, Ino(ino.0), &name, &value, how).await
        };
        self.run("setxattr", (request, ino), reply, work, reply::empty);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.getxattr(&cx, Ino(ino.0), &name).await };
        self.run("getxattr", (request, ino), reply, work, move |reply, result| reply::sized(reply, size, result));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let work = |vfs: Arc<Vfs>, cx| async move {
            let names = vfs.listxattr(&cx, Ino(ino.0)).await?;
            Ok(names.into_iter().flat_map(|name| name.into_bytes().into_iter().chain([0])).collect::<Bytes>())
        };
        self.run("listxattr", (request, ino), reply, work, move |reply, result| reply::sized(reply, size, result));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let work = |vfs: Arc<Vfs>, cx| async move { vfs.removexattr(&cx, Ino(ino.0), &name).await };
        self.run("removexattr", (request, ino), reply, work, reply::empty);
    }

    // What the kernel does better without us; see the top of this file.

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _request: &Request, _ino: INodeNo, _block_size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
