//! Sectors of object versions that were fetched or committed: what need not be asked of the bucket again.
//!
//! A *block* is an aligned 1 MiB slice of a version, the unit of the index; its *sectors* of 16 KiB (the last of an object may be shorter) are the
//! units of validity. A block holds runs of sectors. By D1 a sector never changes, so nothing here can be stale: it can only be missing.
//!
//! [`Memory`] is the only tier so far; one on disk answers the same question behind it.

mod flight;
mod memory;

use sha2::{Digest, Sha256};

use crate::store::{BucketName, ObjectVersion};

pub(crate) use flight::Flight;
pub(crate) use memory::{Found, Memory};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 16 << 10;

/// Names an object version in 16 bytes: a cryptographic hash of bucket, key, ETag and size, so that two versions never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tag([u8; 16]);

impl Tag {
    /// The tag of `version` in `bucket`.
    pub(crate) fn new(bucket: &BucketName, version: &ObjectVersion) -> Self {
        let mut hash = Sha256::new();
        for field in [bucket.as_str(), version.key.as_str(), version.etag.as_str()] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        hash.update(version.size.to_le_bytes());
        let digest = hash.finalize();
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        Self(tag)
    }

    #[cfg(test)]
    fn of(tag: [u8; 16]) -> Self {
        Self(tag)
    }
}

/// Names a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockKey {
    pub(crate) tag: Tag,
    pub(crate) index: u64,
}
