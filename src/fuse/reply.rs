//! Results of `vfs` become replies of fuser: one function per kind of answer, each sending exactly one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyWrite, ReplyXattr,
};

use crate::fuse::convert::{file_attr, fopen_flags};
use crate::fuse::errno::errno;
use crate::vfs::{Attr, Entry, Fh, FileKind, Ino, Lookup, Opened, Result};

/// An inode number means one file as long as the kernel knows it (V1), so generations are never needed.
const GENERATION: Generation = Generation(0);

pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn entry(reply: ReplyEntry, result: Result<Entry>) {
    match result {
        Ok(Entry { attr, ttl }) => reply.entry(&ttl, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

/// As [`entry`]; a name that is not there and may be believed to be so is an entry with nodeid 0.
pub(super) fn lookup(reply: ReplyEntry, result: Result<Lookup>) {
    match result {
        Ok(Lookup::Found(found)) => entry(reply, Ok(found)),
        Ok(Lookup::Absent(Duration::ZERO)) => reply.error(Errno::ENOENT),
        Ok(Lookup::Absent(ttl)) => reply.entry(&ttl, &file_attr(&nobody()), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn attr(reply: ReplyAttr, result: Result<Entry>) {
    match result {
        Ok(Entry { attr, ttl }) => reply.attr(&ttl, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn opened(reply: ReplyOpen, result: Result<Opened>) {
    match result {
        Ok(opened) => reply.opened(FileHandle(opened.fh.0), fopen_flags(&opened)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// No FOPEN_CACHE_DIR: a listing that the kernel serves itself sends no READDIRPLUS, and `ls -l` would become a LOOKUP a name.
pub(super) fn opened_directory(reply: ReplyOpen, result: Result<Fh>) {
    match result {
        Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn created(reply: ReplyCreate, result: Result<(Entry, Opened)>) {
    match result {
        Ok((Entry { attr, ttl }, opened)) => {
            reply.created(&ttl, &file_attr(&attr), GENERATION, FileHandle(opened.fh.0), fopen_flags(&opened));
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// One slice goes out as it is; several are joined, which is the one copy a read costs.
pub(super) fn slices(reply: ReplyData, result: Result<Vec<Bytes>>) {
    match result.as_deref() {
        Ok([]) => reply.data(&[]),
        Ok([only]) => reply.data(only),
        Ok(several) => reply.data(&join(several)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn bytes(reply: ReplyData, result: Result<Bytes>) {
    match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn written(reply: ReplyWrite, result: Result<u32>) {
    match result {
        Ok(count) => reply.written(count),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn offset(reply: ReplyLseek, result: Result<u64>) {
    match result.map(i64::try_from) {
        Ok(Ok(offset)) => reply.offset(offset),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(error) => reply.error(errno(&error)),
    }
}

/// A value, or its size when the program's buffer has none.
pub(super) fn sized(reply: ReplyXattr, room: u32, result: Result<Bytes>) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if room == 0 => reply.size(length),
            Ok(length) if length <= room => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
        Err(error) => reply.error(errno(&error)),
    }
}

fn join(slices: &[Bytes]) -> BytesMut {
    let mut joined = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
    for slice in slices {
        joined.extend_from_slice(slice);
    }
    joined
}

/// The attributes beside a nodeid of 0, which nobody looks at.
fn nobody() -> Attr {
    let epoch = std::time::UNIX_EPOCH;
    Attr {
        ino: Ino(0),
        kind: FileKind::File,
        nlink: 1,
        mode: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
    }
}
