//! The face of a disk: a flat directory of files by safe names.
//!
//! Three rules hold for every implementation:
//! 1. *Names.* ASCII letters, digits, `-`, `_` and `.`, not beginning with a dot, at most 128. So no name made of an object's key can point
//!    elsewhere, and the implementation may keep dot files of its own beside them.
//! 2. *Durability.* [`DiskFile::sync`] makes the file's bytes durable and, the first time, its name. [`Disk::replace`] makes both durable
//!    before it returns. A removal becomes durable with the next of these: after a crash a removed file may be back.
//! 3. *Waiting.* No operation touches the disk on the thread that first polls it, so a FUSE thread may poll. A future that is dropped may
//!    still have its effect.

use std::{fmt::Debug, io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

/// A flat directory of files.
#[async_trait]
pub trait Disk: Debug + Send + Sync {
    /// Makes a new, empty file that only we can read. `AlreadyExists` if the name is taken.
    async fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing. `NotFound` if there is none.
    async fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes the name; what has the file open keeps it. `NotFound` if there is none.
    async fn remove(&self, name: &str) -> io::Result<()>;

    /// All names, sorted.
    async fn list(&self) -> io::Result<Vec<String>>;

    /// Bytes that could still be written.
    async fn free_space(&self) -> io::Result<u64>;

    /// Puts a file of these bytes under the name, instead of what was there: at any crash the old one or the new one is found, never part of
    /// one. Durable when it returns.
    async fn replace(&self, name: &str, bytes: Bytes) -> io::Result<()>;
}

/// One open file. Offsets are absolute; there is no position.
#[async_trait]
#[expect(clippy::len_without_is_empty, reason = "a file is no collection, and its size may be waited for")]
pub trait DiskFile: Debug + Send + Sync {
    /// Writes all of `bytes` at `offset`; a gap before it reads as zeros. After an error any part of it may have been written.
    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// The bytes of `range`. A range past the end is `UnexpectedEof`, not a short answer.
    async fn read_at(&self, range: Range<u64>) -> io::Result<Bytes>;

    /// Makes everything written so far durable. After an error nothing is known of it, and a repeat proves nothing: write it elsewhere.
    async fn sync(&self) -> io::Result<()>;

    /// The file's size.
    async fn len(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    async fn set_len(&self, size: u64) -> io::Result<()>;

    /// Gives back the space of `range`, where the file system can. Afterwards the range reads as its old bytes or as zeros.
    async fn punch(&self, range: Range<u64>) -> io::Result<()>;
}

/// Refuses a name that is not safe (rule 1).
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let safe = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(safe) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a safe file name")));
    }
    Ok(())
}

/// The length of `range` as memory is counted.
pub(super) fn length(range: &Range<u64>) -> io::Result<usize> {
    let length = range.end.checked_sub(range.start).ok_or(io::ErrorKind::InvalidInput)?;
    usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{HostDisk, SimDisk};

    #[test]
    fn names_that_could_point_elsewhere_are_refused() {
        for name in ["a", "journal", "0f-3_x.part", &"n".repeat(128)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".lock", "a/b", "a\0", "ä", "a b", "a\n", &"n".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    /// What every disk does alike.
    async fn contract(disk: Arc<dyn Disk>) {
        let kind = |error: io::Error| error.kind();
        assert_eq!(disk.open("a").await.map(drop).map_err(kind), Err(io::ErrorKind::NotFound));
        assert_eq!(disk.remove("a").await.map_err(kind), Err(io::ErrorKind::NotFound));
        let file = disk.create("a").await.unwrap();
        assert_eq!(disk.create("a").await.map(drop).map_err(kind), Err(io::ErrorKind::AlreadyExists));
        file.write_at(4, Bytes::from_static(b"efgh")).await.unwrap();
        file.write_at(1, Bytes::from_static(b"b")).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 8);
        assert_eq!(file.read_at(0..8).await.unwrap(), &b"\0b\0\0efgh"[..]);
        assert_eq!(file.read_at(3..3).await.unwrap(), &b""[..]);
        assert_eq!(file.read_at(5..9).await.map_err(kind), Err(io::ErrorKind::UnexpectedEof));
        file.set_len(6).await.unwrap();
        file.set_len(7).await.unwrap();
        assert_eq!(disk.open("a").await.unwrap().read_at(4..7).await.unwrap(), &b"ef\0"[..]);
        file.punch(0..5).await.unwrap();
        assert_eq!(file.read_at(5..7).await.unwrap(), &b"f\0"[..]);
        assert_eq!(file.len().await.unwrap(), 7);
        file.sync().await.unwrap();

        disk.replace("a", Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 7, "who has the old file open keeps it");
        assert_eq!(disk.open("a").await.unwrap().read_at(0..3).await.unwrap(), &b"new"[..]);
        disk.replace("b", Bytes::new()).await.unwrap();
        assert_eq!(disk.list().await.unwrap(), ["a", "b"]);
        disk.remove("a").await.unwrap();
        assert_eq!(disk.list().await.unwrap(), ["b"]);
        assert!(disk.free_space().await.unwrap() > 0);
        assert_eq!(disk.create("../a").await.map(drop).map_err(kind), Err(io::ErrorKind::InvalidInput));
    }

    #[tokio::test]
    async fn a_real_directory_keeps_the_contract() {
        let directory = tempfile::tempdir().unwrap();
        contract(HostDisk::open(directory.path()).unwrap()).await;
    }

    #[tokio::test]
    async fn a_simulated_disk_keeps_the_contract() {
        contract(Arc::new(SimDisk::new())).await;
    }
}
