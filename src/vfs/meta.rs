//! POSIX attributes as COSFS keeps them with an object: user metadata, read and written.
//!
//! | header `x-cos-meta-…` | holds |
//! |---|---|
//! | `mode` | `st_mode` with its type bits, decimal |
//! | `uid`, `gid` | decimal |
//! | `mtime` | whole seconds since 1970, decimal |
//! | `xattr` | percent-encoded JSON object: name → Base64 value |
//! | `cosmount-rdev` | ours: a device node's numbers, decimal, as Linux packs them |
//! | `cosmount-mtime` | ours: `<seconds>.<nanoseconds>`; believed only beside an `mtime` of the same seconds, so that another tool's change counts |
//!
//! COSFS reads a number with a `.` or `-` in it as 0, so fractions and years before 1970 go into our own header only. What an object does not
//! carry stays `None`: an edit then adds nothing that nobody asked for. (Source: COSFS, read 2026-11.)

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::store::{Capabilities, CommitToken, Head, Meta};

use crate::vfs::{Error, FileKind, Posix, Result};

/// `S_IFMT` and its values (stat(2)).
const TYPE_BITS: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// The Content-Type of directory markers.
pub(super) const DIRECTORY_TYPE: &str = "application/x-directory";
/// The Content-Type of files without a known suffix, and of symlinks.
pub(super) const PLAIN_TYPE: &str = "application/octet-stream";

const MODE: &str = "mode";
const UID: &str = "uid";
const GID: &str = "gid";
const MTIME: &str = "mtime";
const XATTR: &str = "xattr";
const EXACT_MTIME: &str = "cosmount-mtime";
const RDEV: &str = "cosmount-rdev";

/// The attributes that an object carries itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// What the object says it is; `None`: a file, or a directory where the key says so.
    pub(super) kind: Option<FileKind>,
    /// Permission bits.
    pub(super) mode: Option<u32>,
    /// Owner.
    pub(super) uid: Option<u32>,
    /// Group.
    pub(super) gid: Option<u32>,
    /// A device node's numbers, as Linux packs them.
    pub(super) rdev: Option<u32>,
    /// Last change of the bytes.
    pub(super) mtime: Option<SystemTime>,
    /// Extended attributes by their full name.
    pub(super) xattrs: BTreeMap<String, Bytes>,
}

impl Attributes {
    /// What HEAD shows. A damaged number counts as missing; a damaged xattr header shows none.
    pub(super) fn of(head: &Head) -> Self {
        let user = &head.meta.user;
        let number = |name: &str| user.get(name).and_then(|text| text.trim().parse::<u32>().ok());
        let mode = number(MODE).or_else(|| number("permissions"));
        let kind = match mode.map_or(0, |mode| mode & TYPE_BITS) {
            0 if head.meta.content_type.as_deref() == Some(DIRECTORY_TYPE) || head.version.key.as_str().ends_with('/') => {
                Some(FileKind::Directory)
            }
            0 => None,
            REGULAR => Some(FileKind::File),
            DIRECTORY => Some(FileKind::Directory),
            SYMLINK => Some(FileKind::Symlink),
            other => Some(FileKind::Special(other)),
        };
        Self {
            kind,
            mode: mode.map(|mode| mode & !TYPE_BITS),
            uid: number(UID).or_else(|| number("owner")),
            gid: number(GID).or_else(|| number("group")),
            rdev: number(RDEV),
            mtime: read_mtime(user),
            xattrs: user.get(XATTR).and_then(|text| read_xattrs(text)).unwrap_or_default(),
        }
    }

    /// Puts these attributes, but the times, into the metadata of a new object in place of what it held of them; `kind` is what the object is.
    ///
    /// # Errors
    /// [`Error::AttributesFull`] when all user metadata together, times and token included, is more than COS keeps.
    pub(super) fn write(&self, kind: FileKind, posix: Posix, limits: &Capabilities, meta: &mut Meta) -> Result<()> {
        for name in [MTIME, EXACT_MTIME] {
            meta.user.remove(name);
        }
        if posix == Posix::Full {
            let number = |value: Option<u32>| value.map(|value| value.to_string());
            set(meta, MODE, number(self.mode.map(|mode| mode | type_bits(kind))));
            set(meta, UID, number(self.uid));
            set(meta, GID, number(self.gid));
            set(meta, RDEV, number(self.rdev));
            set(meta, XATTR, (!self.xattrs.is_empty()).then(|| xattr_header(&self.xattrs)));
        }
        const PREFIX: usize = "x-cos-meta-".len();
        const TIMES: usize = 2 * PREFIX + MTIME.len() + EXACT_MTIME.len() + 2 * 20 + 10;
        const TOKEN: usize = PREFIX + CommitToken::HEADER.len() + 32;
        let used: usize = meta.user.iter().map(|(name, value)| PREFIX + name.len() + value.len()).sum();
        if used + TIMES + TOKEN > limits.largest_user_meta { Err(Error::AttributesFull) } else { Ok(()) }
    }
}

/// The user metadata that keeps `mtime`.
pub(super) fn times(mtime: SystemTime, posix: Posix) -> Vec<(String, String)> {
    if posix == Posix::None {
        return Vec::new();
    }
    let (seconds, nanos) = match mtime.duration_since(UNIX_EPOCH) {
        Ok(since) => (i128::from(since.as_secs()), since.subsec_nanos()),
        Err(error) => {
            // Before 1970: seconds round down, so that the nanoseconds count upwards.
            let before = error.duration();
            let fraction = before.subsec_nanos();
            if fraction == 0 { (-i128::from(before.as_secs()), 0) } else { (-i128::from(before.as_secs()) - 1, 1_000_000_000 - fraction) }
        }
    };
    let mut headers = vec![(MTIME.to_owned(), seconds.max(0).to_string())];
    if nanos != 0 || seconds < 0 {
        headers.push((EXACT_MTIME.to_owned(), format!("{seconds}.{nanos:09}")));
    }
    headers
}

/// Whether a zero-byte object may be a directory's marker of a form that only a listing tells: no attributes, no slash, a Content-Type.
pub(super) fn may_be_directory(head: &Head) -> bool {
    head.version.size == 0
        && head.meta.content_type.is_some()
        && [MODE, UID, GID, MTIME, "permissions", "owner", "group"].iter().all(|name| !head.meta.user.contains_key(*name))
}

/// The Content-Type of a file of that name.
pub(super) fn content_type(name: &str) -> String {
    mime_guess::from_path(name).first_raw().unwrap_or(PLAIN_TYPE).to_owned()
}

fn set(meta: &mut Meta, name: &str, value: Option<String>) {
    match value {
        Some(value) => {
            meta.user.insert(name.to_owned(), value);
        }
        None => {
            meta.user.remove(name);
        }
    }
}

fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => REGULAR,
        FileKind::Directory => DIRECTORY,
        FileKind::Symlink => SYMLINK,
        FileKind::Special(bits) => bits & TYPE_BITS,
    }
}

fn read_mtime(user: &BTreeMap<String, String>) -> Option<SystemTime> {
    let seconds: u64 = user.get(MTIME)?.trim().parse().ok()?;
    let exact = || {
        let (whole, nanos) = user.get(EXACT_MTIME)?.split_once('.')?;
        let whole: i64 = whole.parse().ok()?;
        let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
        if u64::try_from(whole.max(0)).ok()? != seconds {
            return None;
        }
        let magnitude = Duration::from_secs(whole.unsigned_abs());
        let base = if whole < 0 { UNIX_EPOCH.checked_sub(magnitude)? } else { UNIX_EPOCH.checked_add(magnitude)? };
        base.checked_add(Duration::new(0, nanos))
    };
    exact().or_else(|| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
}

fn read_xattrs(header: &str) -> Option<BTreeMap<String, Bytes>> {
    let json = percent_decode_str(header).decode_utf8().ok()?;
    let encoded: BTreeMap<String, String> = serde_json::from_str(&json).ok()?;
    encoded.into_iter().map(|(name, value)| Some((name, Bytes::from(BASE64.decode(value).ok()?)))).collect()
}

fn xattr_header(xattrs: &BTreeMap<String, Bytes>) -> String {
    let encoded: serde_json::Map<String, serde_json::Value> =
        xattrs.iter().map(|(name, value)| (name.clone(), BASE64.encode(value).into())).collect();
    utf8_percent_encode(&serde_json::Value::from(encoded).to_string(), NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ETag, Key, ObjectVersion};

    fn head(key: &str, size: u64, user: &[(&str, &str)]) -> Head {
        Head {
            version: ObjectVersion { key: Key::new(key), etag: ETag::new("e"), size, version_id: None },
            last_modified: UNIX_EPOCH,
            crc64: None,
            meta: Meta { user: user.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(), ..Meta::default() },
            archived: false,
            date: UNIX_EPOCH,
        }
    }

    #[test]
    fn reads_what_cosfs_writes() {
        let attributes = Attributes::of(&head("x", 3, &[("mode", "33188"), ("uid", "1000"), ("gid", "100"), ("mtime", "1700000000")]));
        assert_eq!(attributes.kind, Some(FileKind::File));
        assert_eq!((attributes.mode, attributes.uid, attributes.gid), (Some(0o644), Some(1000), Some(100)));
        assert_eq!(attributes.mtime, Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
        assert_eq!(Attributes::of(&head("l", 3, &[("mode", "41471")])).kind, Some(FileKind::Symlink));
        assert_eq!(Attributes::of(&head("d/", 0, &[("mode", "16877")])).kind, Some(FileKind::Directory));
        assert_eq!(Attributes::of(&head("d/", 0, &[])).kind, Some(FileKind::Directory));
        assert_eq!(Attributes::of(&head("f", 0, &[])), Attributes::default());
        assert_eq!(Attributes::of(&head("p", 0, &[("mode", "4516")])).kind, Some(FileKind::Special(0o010_000)));
    }

    #[test]
    fn damaged_numbers_count_as_missing() {
        let attributes =
            Attributes::of(&head("x", 3, &[("mode", "rw"), ("uid", "-1"), ("mtime", "99999999999999999999"), ("xattr", "%7Bx")]));
        assert_eq!(attributes, Attributes::default());
        assert_eq!(read_mtime(&BTreeMap::from([("mtime".to_owned(), u64::MAX.to_string())])), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let attributes = Attributes {
            kind: Some(FileKind::File),
            mode: Some(0o4755),
            uid: Some(7),
            gid: None,
            rdev: Some(259),
            mtime: None,
            xattrs: BTreeMap::from([("user.\u{fc}".to_owned(), Bytes::from_static(b"\0\r\n\xff"))]),
        };
        let mut object = head("x", 1, &[("mtime", "5"), ("cosmount-mtime", "5.1"), ("gid", "9"), ("color", "red")]);
        attributes.write(FileKind::File, Posix::Full, &Capabilities::cos(), &mut object.meta).unwrap();
        assert_eq!(Attributes::of(&object), attributes);
        assert_eq!(object.meta.user.get("color").map(String::as_str), Some("red"), "what others put there stays");
        assert!(object.meta.user.values().all(|value| value.bytes().all(|byte| byte.is_ascii_graphic())));
    }

    #[test]
    fn times_keep_their_nanoseconds_and_years_before_1970() {
        for (seconds, nanos) in [(0i64, 0u32), (1_700_000_000, 123_456_789), (5, 1), (-1, 0), (-2, 750_000_000), (-1, 999_999_999)] {
            let base = if seconds < 0 {
                UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs())
            } else {
                UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
            };
            let time = base + Duration::new(0, nanos);
            let user: BTreeMap<_, _> = times(time, Posix::Full).into_iter().collect();
            assert_eq!(read_mtime(&user), Some(time), "{user:?}");
            assert!(user["mtime"].bytes().all(|byte| byte.is_ascii_digit()), "COSFS reads digits only");
        }
        let mut user: BTreeMap<_, _> = times(UNIX_EPOCH + Duration::new(9, 5), Posix::Full).into_iter().collect();
        user.insert("mtime".to_owned(), "10".to_owned());
        assert_eq!(read_mtime(&user), Some(UNIX_EPOCH + Duration::from_secs(10)), "another tool's change counts");
    }

    #[test]
    fn too_many_attributes_are_refused_before_anything_changes() {
        let mut attributes = Attributes::default();
        attributes.xattrs.insert("user.big".to_owned(), Bytes::from(vec![0; 1600]));
        let result = attributes.write(FileKind::File, Posix::Full, &Capabilities::cos(), &mut Meta::default());
        assert!(matches!(result, Err(Error::AttributesFull)));
    }

    #[test]
    fn content_types_follow_the_suffix() {
        assert_eq!(content_type("a.html"), "text/html");
        assert_eq!(content_type("photo.JPG"), "image/jpeg");
        assert_eq!(content_type("Makefile"), PLAIN_TYPE);
    }
}
