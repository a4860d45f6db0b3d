//! Between the kernel's words and those of `vfs`: attributes, times, flags. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, RenameFlags, TimeOrNow};
use nix::libc;

use crate::vfs::{Attr, FileKind, OpenFlags, Opened, RenameMode, SetTime, SetXattr, Space};

/// What stat(2) shows as the best size of a read or write. cat(1) and cp(1) follow it, and a whole cache block per request is what is cheapest
/// here (measured: cat 3.9 → 4.7 GB/s).
pub(super) const BLOCK_SIZE: u32 = 1 << 20;

/// Attributes as fuser takes them.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: sectors(attr.size),
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// How many 512-byte units du(1) is told of.
pub(super) fn sectors(size: u64) -> u64 {
    size.div_ceil(512)
}

/// The `S_IFMT` bits of a kind.
pub(super) fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Special(bits) => bits & libc::S_IFMT,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match type_bits(kind) {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// Seconds (negative before 1970) and nanoseconds, as the kernel takes a time.
pub(super) fn seconds(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            match before.subsec_nanos() {
                0 => (whole, 0),
                nanos => (whole.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// A time that setattr asks for.
///
/// fuser 0.18 turns the kernel's (seconds, nanoseconds) before 1970 into `EPOCH - (seconds + nanoseconds)`, where the nanoseconds count
/// forwards. Both are still there in what it hands over, so the time that was meant can be had back.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To(match time.duration_since(UNIX_EPOCH) {
            Ok(_) => time,
            Err(before) => {
                let before = before.duration();
                let whole = UNIX_EPOCH.checked_sub(Duration::from_secs(before.as_secs()));
                whole.and_then(|t| t.checked_add(Duration::from_nanos(before.subsec_nanos().into()))).unwrap_or(time)
            }
        }),
    }
}

/// The flags of open(2) and creat(2), of which the kernel sends those that matter here.
pub(super) fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access == libc::O_WRONLY || access == libc::O_RDWR,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

/// How the kernel is to treat an open file.
pub(super) fn fopen_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_NOFLUSH, opened.no_flush);
    flags
}

/// The flags of renameat2(2). `None` for a combination nobody here knows.
pub(super) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    match flags {
        none if none.is_empty() => Some(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// Whether lseek(2) looks for a hole, or for data. `None`: for neither, which the kernel does itself.
pub(super) fn seeks_hole(whence: i32) -> Option<bool> {
    match whence {
        libc::SEEK_HOLE => Some(true),
        libc::SEEK_DATA => Some(false),
        _ => None,
    }
}

/// The mode of fallocate(2). `None` for what is not done here: moving what lies behind the range.
pub(super) fn space(mode: i32) -> Option<Space> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Some(Space::Reserve { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE => Some(Space::Zero { keep_size: true }),
        libc::FALLOC_FL_ZERO_RANGE => Some(Space::Zero { keep_size }),
        _ => None,
    }
}

/// The flags of setxattr(2). `None` for a combination nobody here knows.
pub(super) fn set_xattr(flags: i32) -> Option<SetXattr> {
    match flags {
        0 => Some(SetXattr::Any),
        libc::XATTR_CREATE => Some(SetXattr::Create),
        libc::XATTR_REPLACE => Some(SetXattr::Replace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of the kernel's pair (its `time.rs`).
    fn as_fuser_reads(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs.unsigned_abs(), nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
        }
    }

    #[test]
    fn every_time_comes_back_as_it_was_set() {
        for pair in [(0, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-1, 999_999_999), (-2, 500_000_000), (-86_400, 250), (4_102_444_800, 7)] {
            let SetTime::To(time) = set_time(TimeOrNow::SpecificTime(as_fuser_reads(pair.0, pair.1))) else { panic!("not now") };
            assert_eq!(seconds(time), pair);
        }
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
    }

    #[test]
    fn access_modes() {
        let modes = [
            (libc::O_RDONLY, true, false),
            (libc::O_WRONLY, false, true),
            (libc::O_RDWR | libc::O_APPEND | libc::O_TRUNC | libc::O_EXCL, true, true),
        ];
        for (flags, read, write) in modes {
            let rest = flags & libc::O_APPEND != 0;
            assert_eq!(open_flags(flags), OpenFlags { read, write, append: rest, truncate: rest, exclusive: rest });
        }
    }

    #[test]
    fn kinds_keep_their_type_bits() {
        for bits in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK] {
            assert_eq!(type_bits(FileKind::Special(bits | 0o644)), bits);
        }
        assert_eq!(file_type(FileKind::Special(libc::S_IFSOCK)), FileType::Socket);
        assert_eq!(file_type(FileKind::Special(0)), FileType::RegularFile, "a type no kernel knows must not become an I/O error");
    }

    #[test]
    fn unknown_flag_combinations_are_refused() {
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(rename_mode(RenameFlags::empty()), Some(RenameMode::Replace));
        assert_eq!(set_xattr(libc::XATTR_CREATE | libc::XATTR_REPLACE), None);
    }
}
