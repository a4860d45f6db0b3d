//! The attribute index: what was true of exactly that object, so that a listing spares the HEAD.
//!
//! COS lists keys, entity tags, sizes and times, but no metadata. A record holds what a HEAD said, or what this mount wrote, of one (key, entity
//! tag, Last-Modified). A self-copy keeps the entity tag, so the time is part of it; a PUT does not answer its Last-Modified, so a record of our own write
//! holds the answer's `Date` and fits a listing within two seconds of it. Two self-copies in one second look alike, so what a HEAD said within two
//! seconds of the Last-Modified is not used: the object is asked for once more, later. In memory only, and bounded: the oldest unused records go.

use std::{
    num::NonZeroUsize,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::store::{ETag, Head, Key, ObjectVersion};

use crate::vfs::tree::Facts;

/// About what a record takes, in bytes.
const RECORD_SIZE: u64 = 512;
/// How far a write's `Date` may be from its Last-Modified; and how long after that the object may change again without showing it.
const DATE_SLACK: Duration = Duration::from_secs(2);

/// The records of a mount.
#[derive(Debug)]
pub(super) struct Index {
    /// Guards nothing else.
    records: Mutex<LruCache<(Key, ETag), Record>>,
}

#[derive(Debug, Clone)]
struct Record {
    facts: Facts,
    /// Whether `facts.modified` is the Last-Modified to the second, or a `Date` near it.
    exact: bool,
    /// Whether nothing can have changed since that a listing would not show.
    settled: bool,
}

/// Whether the object can no longer change within the second of its Last-Modified, by the clock of COS.
pub(super) fn is_settled(head: &Head) -> bool {
    head.date.duration_since(head.last_modified).is_ok_and(|age| age > DATE_SLACK)
}

impl Index {
    /// An index that takes about `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        let records = usize::try_from(memory / RECORD_SIZE).unwrap_or(usize::MAX).max(16);
        Self { records: Mutex::new(LruCache::new(NonZeroUsize::new(records).unwrap_or(NonZeroUsize::MIN))) }
    }

    /// Notes what a HEAD said, and whether that [`is_settled`].
    pub(super) fn note_read(&self, facts: &Facts, settled: bool) {
        self.insert(facts, true, settled);
    }

    /// Notes what a copy made; its Last-Modified is exact.
    pub(super) fn note(&self, facts: &Facts) {
        self.insert(facts, true, true);
    }

    /// Notes what a PUT made; `facts.modified` is the answer's `Date`.
    pub(super) fn note_own(&self, facts: &Facts) {
        self.insert(facts, false, true);
    }

    /// What is known of a listed object.
    pub(super) fn find(&self, version: &ObjectVersion, modified: SystemTime) -> Option<Facts> {
        let mut records = self.records.lock();
        let record = records.get_mut(&(version.key.clone(), version.etag.clone()))?;
        let apart = modified.duration_since(record.facts.modified).unwrap_or_else(|error| error.duration());
        let fits = apart == Duration::ZERO || (!record.exact && apart <= DATE_SLACK);
        let same_size = record.facts.origin.as_ref().is_some_and(|origin| origin.size == version.size);
        if !fits || !same_size || !record.settled {
            return None;
        }
        record.facts.modified = modified;
        record.exact = true;
        Some(record.facts.clone())
    }

    fn insert(&self, facts: &Facts, exact: bool, settled: bool) {
        if let Some(origin) = &facts.origin {
            let record = Record { facts: facts.clone(), exact, settled };
            self.records.lock().put((origin.key.clone(), origin.etag.clone()), record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{FileKind, meta::Attributes};

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn facts(etag: &str, modified: SystemTime) -> Facts {
        let origin = ObjectVersion { key: Key::new("k"), etag: ETag::new(etag), size: 3, version_id: None };
        Facts { kind: FileKind::File, attributes: Attributes::default(), origin: Some(origin), modified }
    }

    #[test]
    fn a_record_fits_its_own_object_only() {
        let index = Index::new(1 << 20);
        let known = facts("a", at(100));
        index.note(&known);
        let version = known.origin.unwrap();
        assert!(index.find(&version, at(100)).is_some());
        assert!(index.find(&version, at(101)).is_none(), "a self-copy keeps the tag and not the time");
        assert!(index.find(&ObjectVersion { etag: ETag::new("b"), ..version.clone() }, at(100)).is_none());
        assert!(index.find(&ObjectVersion { size: 4, ..version }, at(100)).is_none());
    }

    #[test]
    fn what_was_read_in_the_second_of_a_change_is_asked_for_again() {
        let index = Index::new(1 << 20);
        let known = facts("a", at(100));
        let version = known.origin.clone().unwrap();
        index.note_read(&known, false);
        assert!(index.find(&version, at(100)).is_none());
        index.note_read(&known, true);
        assert!(index.find(&version, at(100)).is_some());
    }

    #[test]
    fn the_first_listing_gives_an_own_write_its_time() {
        let index = Index::new(1 << 20);
        let known = facts("a", at(100));
        index.note_own(&known);
        let version = known.origin.unwrap();
        assert!(index.find(&version, at(103)).is_none());
        assert_eq!(index.find(&version, at(102)).unwrap().modified, at(102));
        assert!(index.find(&version, at(101)).is_none(), "from then on it is exact");
    }
}
