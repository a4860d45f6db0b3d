//! Directory entries as the kernel wants them, encoded and sent by ourselves.
//!
//! fuser 0.18 puts one number into an entry's nodeid, its attributes and its `d_ino`, and has no "unknown" type, so it cannot say "here is a
//! name, ask if you want to know more": nodeid 0, a `d_ino`, DT_UNKNOWN. That is what most entries of a listing are here. So [`Page`] encodes
//! the answer (`struct fuse_dirent` and `fuse_direntplus` of the kernel's `include/uapi/linux/fuse.h`, 7.45) and writes it to a duplicate of
//! the session's descriptor. fuser's own reply object is dropped afterwards; the EIO it then sends finds no request any more and is refused with
//! ENOENT (measured). When ours could not be sent, that EIO is the answer.
//!
//! fuser keeps the size of the kernel's buffer to itself; [`Room`] asks its reply object by filling it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, RequestId};

use crate::fuse::convert::{self, BLOCK_SIZE};
use crate::vfs::{Attr, DirEntry, DirSink, Entry, Ino, Pushed};

/// `struct fuse_out_header`: length, error, the request's id.
const HEADER: usize = 16;
/// `struct fuse_dirent` without its name.
const DIRENT: usize = 24;
/// `struct fuse_entry_out`.
const ENTRY_OUT: usize = 128;
/// `FUSE_DIRENT_ALIGN`.
const ALIGN: usize = 8;

/// Which of the two answers is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// READDIR: names, numbers and types.
    Plain,
    /// READDIRPLUS: before each name what LOOKUP would have answered, or zeros.
    Plus,
}

/// One answer in the making.
#[derive(Debug)]
pub(super) struct Page {
    style: Style,
    /// Most bytes behind the header.
    room: usize,
    /// Header and entries.
    bytes: Vec<u8>,
}

impl Page {
    pub(super) fn new(style: Style, room: usize) -> Self {
        Self { style, room, bytes: vec![0; HEADER] }
    }

    /// Sends the answer to request `unique`: one write, as the kernel asks.
    pub(super) fn send(mut self, unique: RequestId, mut device: &File) -> io::Result<()> {
        let length = u32::try_from(self.bytes.len()).map_err(io::Error::other)?;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..HEADER].copy_from_slice(&unique.0.to_ne_bytes());
        match device.write(&self.bytes)? {
            all if all == self.bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    /// `struct fuse_entry_out`; all zeros means "by name only".
    fn entry_out(&mut self, entry: Option<&Entry>) {
        let Some(Entry { attr, ttl }) = entry else {
            self.bytes.resize(self.bytes.len() + ENTRY_OUT, 0);
            return;
        };
        self.u64(attr.ino.0); // nodeid
        self.u64(0); // generation
        self.u64(ttl.as_secs()); // of the name
        self.u64(ttl.as_secs()); // of the attributes
        self.u32(ttl.subsec_nanos());
        self.u32(ttl.subsec_nanos());
        self.attr(attr);
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let times = [attr.atime, attr.mtime, attr.ctime].map(convert::seconds);
        self.u64(attr.ino.0);
        self.u64(attr.size);
        self.u64(convert::sectors(attr.size));
        for (secs, _) in times {
            self.u64(secs.cast_unsigned());
        }
        for (_, nanos) in times {
            self.u32(nanos);
        }
        self.u32(convert::type_bits(attr.kind) | (attr.mode & 0o7777));
        self.u32(attr.nlink);
        self.u32(attr.uid);
        self.u32(attr.gid);
        self.u32(attr.rdev);
        self.u32(BLOCK_SIZE);
        self.u32(0); // flags
    }

    fn dirent(&mut self, ino: Ino, next: u64, kind: u32, name: &[u8], name_length: u32) {
        self.u64(ino.0);
        self.u64(next);
        self.u32(name_length);
        self.u32(kind);
        self.bytes.extend_from_slice(name);
        let padded = HEADER + (self.bytes.len() - HEADER).next_multiple_of(ALIGN);
        self.bytes.resize(padded, 0);
    }
}

impl DirSink for Page {
    fn push(&mut self, entry: &DirEntry<'_>) -> Pushed {
        let name = entry.name.as_bytes();
        let before = match self.style {
            Style::Plain => 0,
            Style::Plus => ENTRY_OUT,
        };
        let size = (before + DIRENT + name.len()).next_multiple_of(ALIGN);
        let Ok(name_length) = u32::try_from(name.len()) else { return Pushed::Full };
        if self.bytes.len() - HEADER + size > self.room {
            return Pushed::Full;
        }
        if self.style == Style::Plus {
            self.entry_out(entry.entry.as_ref());
        }
        let kind = entry.entry.map(|entry| entry.attr.kind).or(entry.kind);
        // DT_* is the type bits shifted; 0 is DT_UNKNOWN.
        self.dirent(entry.ino, entry.next, kind.map_or(0, convert::type_bits) >> 12, name, name_length);
        Pushed::Taken
    }
}

/// A fuser reply object that knows how much the kernel takes.
pub(super) trait Room {
    /// Bytes of an entry before its name.
    const BEFORE_NAME: usize;

    /// Puts an entry with that name into the object's own buffer; whether it was full.
    fn is_full_for(&mut self, name: &OsStr) -> bool;

    /// How many bytes of entries the kernel takes, at most 255 too few: the buffer is filled with ever smaller entries until nothing fits. The
    /// object is of no use for anything but an error afterwards.
    fn measure(&mut self) -> usize {
        static FILLER: [u8; LARGEST] = [b'x'; LARGEST];
        const LARGEST: usize = 1 << 15;
        const SMALLEST: usize = 1 << 8;
        let (mut room, mut piece) = (0, LARGEST);
        while piece >= SMALLEST {
            if self.is_full_for(OsStr::from_bytes(&FILLER[..piece - Self::BEFORE_NAME])) {
                piece /= 2;
            } else {
                room += piece;
            }
        }
        room
    }
}

impl Room for ReplyDirectory {
    const BEFORE_NAME: usize = DIRENT;

    fn is_full_for(&mut self, name: &OsStr) -> bool {
        self.add(INodeNo::ROOT, 0, FileType::RegularFile, name)
    }
}

impl Room for ReplyDirectoryPlus {
    const BEFORE_NAME: usize = ENTRY_OUT + DIRENT;

    fn is_full_for(&mut self, name: &OsStr) -> bool {
        let attr = FileAttr {
            ino: INodeNo::ROOT,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 0,
            flags: 0,
        };
        self.add(INodeNo::ROOT, 0, name, &Duration::ZERO, &attr, Generation(0))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Seek},
        time::SystemTime,
    };

    use super::*;
    use crate::vfs::FileKind;

    fn attr() -> Attr {
        Attr {
            ino: Ino(0x1122_3344_5566_7788),
            kind: FileKind::Symlink,
            nlink: 1,
            mode: 0o4751,
            uid: 1000,
            gid: 1001,
            rdev: 259,
            size: 1025,
            atime: UNIX_EPOCH - Duration::from_millis(500),
            mtime: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
            ctime: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        }
    }

    fn named(name: &str, entry: Option<Entry>, kind: Option<FileKind>) -> DirEntry<'_> {
        DirEntry { name: OsStr::new(name), ino: Ino(42), kind, next: 9, entry }
    }

    /// Little-endian numbers at fixed places, written down from `fuse.h` and not from the code above.
    fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
        bytes[at..at + width].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_entry_with_attributes_is_a_fuse_direntplus() {
        let mut page = Page::new(Style::Plus, 4096);
        let entry = Entry { attr: attr(), ttl: Duration::new(5, 7) };
        assert_eq!(page.push(&named("link", Some(entry), None)), Pushed::Taken);
        let bytes = &page.bytes[HEADER..];
        assert_eq!(bytes.len(), 160, "128 + 24 + 4, padded to 8");
        let expected = [
            ("nodeid", 0, 8, 0x1122_3344_5566_7788),
            ("generation", 8, 8, 0),
            ("entry_valid", 16, 8, 5),
            ("attr_valid", 24, 8, 5),
            ("entry_valid_nsec", 32, 4, 7),
            ("attr_valid_nsec", 36, 4, 7),
            ("attr.ino", 40, 8, 0x1122_3344_5566_7788),
            ("attr.size", 48, 8, 1025),
            ("attr.blocks", 56, 8, 3),
            ("attr.atime", 64, 8, u64::MAX),
            ("attr.mtime", 72, 8, 1_700_000_000),
            ("attr.ctime", 80, 8, 5),
            ("attr.atimensec", 88, 4, 500_000_000),
            ("attr.mtimensec", 92, 4, 123_456_789),
            ("attr.ctimensec", 96, 4, 0),
            ("attr.mode", 100, 4, 0o12_4751),
            ("attr.nlink", 104, 4, 1),
            ("attr.uid", 108, 4, 1000),
            ("attr.gid", 112, 4, 1001),
            ("attr.rdev", 116, 4, 259),
            ("attr.blksize", 120, 4, 1 << 20),
            ("attr.flags", 124, 4, 0),
            ("dirent.ino", 128, 8, 42),
            ("dirent.off", 136, 8, 9),
            ("dirent.namelen", 144, 4, 4),
            ("dirent.type", 148, 4, 10),
        ];
        for (field, at, width, value) in expected {
            assert_eq!(number(bytes, at, width), value, "{field}");
        }
        assert_eq!(&bytes[152..], b"link\0\0\0\0");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_entry_by_name_only_has_nodeid_zero_and_its_number() {
        let mut page = Page::new(Style::Plus, 4096);
        assert_eq!(page.push(&named("12345678", None, None)), Pushed::Taken);
        let bytes = &page.bytes[HEADER..];
        assert!(bytes[..128].iter().all(|byte| *byte == 0));
        assert_eq!((number(bytes, 128, 8), number(bytes, 144, 4), number(bytes, 148, 4)), (42, 8, 0), "d_ino, length, DT_UNKNOWN");
        assert_eq!(bytes.len(), 160, "a name of 8 needs no padding");
        let mut plain = Page::new(Style::Plain, 4096);
        assert_eq!(plain.push(&named("123456789", None, Some(FileKind::Directory))), Pushed::Taken);
        let bytes = &plain.bytes[HEADER..];
        assert_eq!((bytes.len(), number(bytes, 0, 8), number(bytes, 8, 8), number(bytes, 20, 4)), (40, 42, 9, 4));
    }

    #[test]
    fn full_means_not_in_it() {
        let mut page = Page::new(Style::Plus, 320);
        for (name, pushed) in [("a", Pushed::Taken), ("b", Pushed::Taken), ("c", Pushed::Full)] {
            assert_eq!(page.push(&named(name, None, None)), pushed);
        }
        assert_eq!(page.bytes.len(), HEADER + 320);
    }

    #[test]
    fn the_header_carries_length_and_request() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = fs::OpenOptions::new().create_new(true).read(true).write(true).open(dir.path().join("device")).unwrap();
        Page::new(Style::Plain, 4096).send(RequestId(0xabcd), &file).unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [16u32.to_ne_bytes(), 0u32.to_ne_bytes(), 0xabcdu32.to_ne_bytes(), [0; 4]].concat());
    }

    /// fuser's buffers in miniature: `ll/reply.rs`, `EntListBuf::push`.
    struct Buffer<const BEFORE: usize> {
        size: usize,
        used: usize,
    }

    impl<const BEFORE: usize> Room for Buffer<BEFORE> {
        const BEFORE_NAME: usize = BEFORE;

        fn is_full_for(&mut self, name: &OsStr) -> bool {
            let entry = (BEFORE + name.len()).next_multiple_of(8);
            let full = self.used + entry > self.size;
            self.used += if full { 0 } else { entry };
            full
        }
    }

    #[test]
    fn the_room_is_measured_to_255_bytes() {
        for size in [4096, 4097, 5000, 32 << 10, (32 << 10) + 255, 1 << 20] {
            for room in [Buffer::<DIRENT> { size, used: 0 }.measure(), Buffer::<{ ENTRY_OUT + DIRENT }> { size, used: 0 }.measure()] {
                assert!(room <= size && size - room < 256, "{room} of {size}");
            }
        }
    }
}
