//! The attribute index: what was true of exactly that object, so that a listing spares the HEAD.
//!
//! COS lists keys, entity tags, sizes and times, but no metadata. A record holds what a HEAD said, or what this mount wrote, of one (key, entity
//! tag, Last-Modified). A self-copy keeps the entity tag, so the time is part of it; a PUT does not answer its Last-Modified, so a record of our own write
//! holds the answer's `Date` and fits a listing within two seconds of it. Two self-copies in one second look alike, so what a HEAD said within two
//! seconds of the Last-Modified is not used: the object is asked for once more, later. In memory only, and bounded: the oldest unused records go.
//!
//! Most objects carry no more than their attributes and a Content-Type. Of those a record tells, with the class that a listing shows, everything that
//! HEAD would, so that a rename spares that, too. Of what carries more it does not: that is not worth its memory.

use std::{
    num::NonZeroUsize,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use parking_lot::Mutex;

use crate::store::{self, ETag, Head, Key, Meta, ObjectVersion, Stored};

use crate::vfs::{Result, Vfs, meta, tree::Facts};

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
    /// Its Content-Type, where it carries no more than that and its attributes.
    plain: Option<Box<str>>,
    /// Whether `facts.modified` is the Last-Modified to the second, or a `Date` near it.
    exact: bool,
    /// Whether nothing can have changed since that a listing would not show.
    settled: bool,
}

/// Whether the object can no longer change within the second of its Last-Modified, by the clock of COS.
fn is_settled(head: &Head) -> bool {
    head.date.duration_since(head.last_modified).is_ok_and(|age| age > DATE_SLACK)
}

impl Index {
    /// An index that takes about `memory` bytes.
    pub(super) fn new(memory: u64) -> Self {
        let records = usize::try_from(memory / RECORD_SIZE).unwrap_or(usize::MAX).max(16);
        Self { records: Mutex::new(LruCache::new(NonZeroUsize::new(records).unwrap_or(NonZeroUsize::MIN))) }
    }

    /// What is known of a listed object.
    pub(super) fn find(&self, version: &ObjectVersion, modified: SystemTime) -> Option<Facts> {
        Some(self.record(version, modified)?.facts)
    }

    fn record(&self, version: &ObjectVersion, modified: SystemTime) -> Option<Record> {
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
        Some(record.clone())
    }

    fn insert(&self, record: Record) {
        if let Some(origin) = &record.facts.origin {
            self.records.lock().put((origin.key.clone(), origin.etag.clone()), record);
        }
    }
}

impl Vfs {
    /// Notes what a HEAD said. If that is not yet [`is_settled`], it is asked for again.
    pub(super) fn index_read(&self, facts: &Facts, head: &Head) {
        let plain = self.plain(facts, &head.meta);
        self.index.insert(Record { facts: facts.clone(), plain, exact: true, settled: is_settled(head) });
    }

    /// Notes what this mount made, and with what. `facts.modified` is its Last-Modified, if that is known, or else the answer's `Date`.
    pub(super) fn index_made(&self, facts: &Facts, meta: &Meta, stored: &Stored, exact: bool) {
        // Encrypted as the bucket says, it stays so whatever the bucket says later.
        let plain = if stored.sse.is_none() { self.plain(facts, meta) } else { None };
        self.index.insert(Record { facts: facts.clone(), plain, exact, settled: true });
    }

    /// What is known of a listed object, and everything that its copy is to be given.
    pub(super) fn find_whole(&self, listed: &store::Listed) -> Option<(Facts, Meta)> {
        let record = self.index.record(&listed.version, listed.last_modified)?;
        let mut meta = self.rebuilt(&record.facts, &record.plain?).ok()?;
        meta.class.clone_from(&listed.class);
        Some((record.facts, meta))
    }

    /// The Content-Type of an object, if it and the attributes are all that it carries.
    fn plain(&self, facts: &Facts, meta: &Meta) -> Option<Box<str>> {
        let content_type = meta.content_type.as_deref()?;
        let shown = Meta { token: None, acl: None, tags: None, class: None, ..meta.clone() };
        (self.rebuilt(facts, content_type).ok()? == shown).then(|| content_type.into())
    }

    /// What an object carries of which nothing is known but this.
    fn rebuilt(&self, facts: &Facts, content_type: &str) -> Result<Meta> {
        let mut meta = Meta { content_type: Some(content_type.to_owned()), ..Meta::default() };
        self.write_attributes(&facts.attributes, facts.kind, &mut meta)?;
        meta.user.extend(facts.attributes.mtime.into_iter().flat_map(|mtime| meta::times(mtime, self.config.posix)));
        Ok(meta)
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

    fn note(index: &Index, facts: &Facts, exact: bool, settled: bool) {
        index.insert(Record { facts: facts.clone(), plain: None, exact, settled });
    }

    #[test]
    fn a_record_fits_its_own_object_only() {
        let index = Index::new(1 << 20);
        let known = facts("a", at(100));
        note(&index, &known, true, true);
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
        note(&index, &known, true, false);
        assert!(index.find(&version, at(100)).is_none());
        note(&index, &known, true, true);
        assert!(index.find(&version, at(100)).is_some());
    }

    #[test]
    fn the_first_listing_gives_an_own_write_its_time() {
        let index = Index::new(1 << 20);
        let known = facts("a", at(100));
        note(&index, &known, false, true);
        let version = known.origin.unwrap();
        assert!(index.find(&version, at(103)).is_none());
        assert_eq!(index.find(&version, at(102)).unwrap().modified, at(102));
        assert!(index.find(&version, at(101)).is_none(), "from then on it is exact");
    }
}
