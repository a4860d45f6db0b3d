//! Buckets, objects and uploads: what the emulator holds, in memory and, if asked, on disk.
//!
//! Memory is the truth while the server runs; every change is on disk before it is visible, so what a client was told survives `kill -9`.
//! One lock guards all of it. It is never held while bytes are received or sent: contents are immutable and shared.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::archive::Restore;
use super::clock;
use super::content::Content;
use super::disk::Disk;
use super::error::{Failure, Outcome};
use super::fault::Faults;
use super::meta::Meta;
use super::versions::{Deleted, Found, Marker, Stamp, Version, VersionId, Versioning};

/// An object: immutable; a change puts another in its place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Object {
    #[serde(skip)]
    pub(super) content: Content,
    /// Without quotes.
    pub(super) etag: String,
    /// None on objects that came without, such as seeded ones that shall have none.
    pub(super) crc: Option<u64>,
    /// Seconds since 1970.
    pub(super) modified: u64,
    pub(super) appendable: bool,
    pub(super) meta: Meta,
    /// The files of its content; empty in memory.
    pub(super) files: Vec<String>,
    /// Which version it is; the store sets it.
    #[serde(default)]
    pub(super) stamp: Stamp,
    /// The last restore that was asked for, if it is archived.
    #[serde(default)]
    pub(super) restore: Option<Restore>,
}

/// A part of an upload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    #[serde(skip)]
    pub(super) content: Content,
    pub(super) etag: String,
    pub(super) crc: u64,
    pub(super) modified: u64,
    pub(super) files: Vec<String>,
}

/// An unfinished multipart upload; its metadata were fixed when it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) initiated: u64,
    pub(super) meta: Meta,
    #[serde(skip)]
    pub(super) parts: BTreeMap<u32, Part>,
}

/// Objects by key, in byte order.
pub(super) type Objects = BTreeMap<Box<[u8]>, Arc<Object>>;
/// Uploads by key and id.
pub(super) type Uploads = BTreeMap<(Vec<u8>, String), Upload>;

/// A bucket and everything in it. What a key's versions are is in `versions.rs`.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) config: BucketConfig,
    /// What each key shows.
    pub(super) objects: Objects,
    /// What keys showed before, and their delete markers; oldest first, none empty.
    pub(super) older: BTreeMap<Box<[u8]>, Vec<Version>>,
    pub(super) uploads: Uploads,
    /// What keys held before they changed, oldest first; kept only while a stale listing may be asked for.
    past: VecDeque<Change>,
}

/// When a key changed, and what it held before.
type Change = (Instant, Box<[u8]>, Option<Arc<Object>>);

/// What is configured on a bucket.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct BucketConfig {
    pub(super) region: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) multi_az: bool,
    #[serde(default)]
    pub(super) versioning: Versioning,
    pub(super) acl: Acl,
    pub(super) tags: Vec<(String, String)>,
    /// Other settings as they were put, by subresource.
    pub(super) documents: BTreeMap<String, String>,
}

/// Changes remembered for stale listings at most.
const MAX_PAST: usize = 200_000;

impl Bucket {
    pub(super) fn new(config: BucketConfig) -> Self {
        Self { config, ..Self::default() }
    }

    fn remember(&mut self, faults: &Faults, key: &[u8], before: Option<Arc<Object>>) {
        if faults.stale.load(Ordering::SeqCst) {
            if self.past.len() >= MAX_PAST {
                self.past.pop_front();
            }
            self.past.push_back((clock::instant(), key.into(), before));
        } else {
            self.past.clear();
        }
    }

    /// The bucket as it was so long ago, as far as that is remembered.
    pub(super) fn view(&self, age: Option<Duration>) -> View<'_> {
        let mut past = BTreeMap::new();
        if let Some(age) = age {
            let now = clock::instant();
            for (_, key, before) in self.past.iter().rev().take_while(|(at, ..)| now - *at < age) {
                past.insert(&**key, before.as_ref());
            }
        }
        View { objects: &self.objects, past }
    }
}

/// Objects in key order, with the past laid over the present.
#[derive(Debug)]
pub(super) struct View<'a> {
    objects: &'a Objects,
    past: BTreeMap<&'a [u8], Option<&'a Arc<Object>>>,
}

impl<'a> View<'a> {
    /// The first object at or after a bound.
    pub(super) fn first<'b>(&'b self, mut from: Bound<&'b [u8]>) -> Option<(&'a [u8], &'a Object)> {
        loop {
            let now = self.objects.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(key, object)| (&**key, &**object));
            let then = if self.past.is_empty() { None } else { self.past.range::<[u8], _>((from, Bound::Unbounded)).next() };
            match (now, then) {
                (now, None) => return now,
                (Some((key, object)), Some((past, _))) if key < *past => return Some((key, object)),
                (_, Some((key, Some(object)))) => return Some((key, object)),
                (_, Some((key, None))) => from = Bound::Excluded(key),
            }
        }
    }
}

/// All buckets.
#[derive(Debug)]
pub(super) struct Store {
    disk: Option<Disk>,
    faults: Arc<Faults>,
    /// The stamp of the newest version.
    stamped: AtomicU64,
    buckets: RwLock<BTreeMap<String, Bucket>>,
}

impl Store {
    /// Loads what the disk holds.
    pub(super) fn open(disk: Option<Disk>, faults: Arc<Faults>) -> std::io::Result<Self> {
        let buckets = disk.as_ref().map(Disk::load).transpose()?.unwrap_or_default();
        let stacks = buckets.values().flat_map(|bucket: &Bucket| bucket.older.values().flatten().map(|version| version.stamp().made));
        let shown = buckets.values().flat_map(|bucket| bucket.objects.values().map(|object| object.stamp.made));
        let stamped = AtomicU64::new(stacks.chain(shown).max().unwrap_or(0));
        Ok(Self { disk, faults, stamped, buckets: RwLock::new(buckets) })
    }

    /// Looks at all buckets.
    pub(super) fn all<T>(&self, look: impl FnOnce(&BTreeMap<String, Bucket>) -> T) -> T {
        look(&self.buckets.read())
    }

    /// Looks at one bucket.
    pub(super) fn bucket<T>(&self, name: &str, look: impl FnOnce(&Bucket) -> Outcome<T>) -> Outcome<T> {
        look(self.buckets.read().get(name).ok_or_else(Failure::no_such_bucket)?)
    }

    /// What a key shows, or the version that is named.
    pub(super) fn object(&self, bucket: &str, key: &[u8], id: Option<VersionId>) -> Outcome<Found> {
        self.bucket(bucket, |bucket| bucket.find(key, id))
    }

    pub(super) fn create_bucket(&self, name: &str, config: BucketConfig, limit: usize) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        if buckets.contains_key(name) {
            return Err(Failure::new(409, "BucketAlreadyOwnedByYou", "The bucket exists and is yours."));
        }
        if buckets.len() >= limit {
            return Err(Failure::new(400, "TooManyBuckets", format!("The account may have {limit} buckets.")));
        }
        if let Some(disk) = &self.disk {
            disk.put_bucket(name, &config).map_err(|e| Failure::internal(&e))?;
        }
        buckets.insert(name.to_owned(), Bucket::new(config));
        Ok(())
    }

    pub(super) fn delete_bucket(&self, name: &str) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get(name).ok_or_else(Failure::no_such_bucket)?;
        if !bucket.objects.is_empty() || !bucket.older.is_empty() || !bucket.uploads.is_empty() {
            return Err(Failure::new(409, "BucketNotEmpty", "The bucket holds objects, versions, delete markers or unfinished uploads."));
        }
        if let Some(disk) = &self.disk {
            disk.delete_bucket(name).map_err(|e| Failure::internal(&e))?;
        }
        buckets.remove(name);
        Ok(())
    }

    pub(super) fn configure(&self, name: &str, change: impl FnOnce(&mut BucketConfig)) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        let mut config = bucket.config.clone();
        change(&mut config);
        if let Some(disk) = &self.disk {
            disk.put_bucket(name, &config).map_err(|e| Failure::internal(&e))?;
        }
        bucket.config = config;
        Ok(())
    }

    /// Puts bytes on the disk before the object or part that will own them exists.
    pub(super) fn stage(&self, content: &Content) -> Outcome<Vec<String>> {
        match &self.disk {
            Some(disk) if content.len() > 0 => Ok(vec![disk.write(content).map_err(|e| Failure::internal(&e))?]),
            _ => Ok(Vec::new()),
        }
    }

    /// Gives up what was staged.
    pub(super) fn unstage(&self, files: &[String]) {
        if let Some(disk) = &self.disk {
            disk.remove(files);
        }
    }

    /// Makes an object what its key shows, if `check` agrees to what is there now. The object's files are removed if not.
    pub(super) fn put(&self, name: &str, key: &[u8], object: Object, check: impl FnOnce(&Bucket) -> Outcome<()>) -> Outcome<Found> {
        let mut buckets = self.buckets.write();
        let files = object.files.clone();
        let put = || {
            let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
            check(bucket)?;
            self.insert(name, bucket, key, object)
        };
        put().inspect_err(|_| self.unstage(&files))
    }

    fn insert(&self, name: &str, bucket: &mut Bucket, key: &[u8], object: Object) -> Outcome<Found> {
        let object = Arc::new(Object { stamp: self.stamp(bucket), ..object });
        self.push(name, bucket, key, Version::Object(Arc::clone(&object)))?;
        Ok(Found { version: bucket.told(object.stamp), object })
    }

    /// Puts a version on top of its key, on disk first.
    fn push(&self, name: &str, bucket: &mut Bucket, key: &[u8], version: Version) -> Outcome<()> {
        if let Some(disk) = &self.disk {
            disk.put_version(name, key, &version).map_err(|e| Failure::internal(&e))?;
        }
        let before = bucket.objects.get(key).cloned();
        let replaced = bucket.push(key, version);
        self.changed(bucket, key, before, replaced.as_ref());
        Ok(())
    }

    /// The next version's stamp. The caller holds the lock, so no two are the same.
    fn stamp(&self, bucket: &Bucket) -> Stamp {
        let made = clock::unix_micros().max(self.stamped.load(Ordering::Relaxed) + 1);
        self.stamped.store(made, Ordering::Relaxed);
        Stamp { made, null: bucket.config.versioning != Versioning::Enabled }
    }

    /// Forgets the bytes of what is gone, and remembers for stale listings what a key showed, if it shows something else now.
    fn changed(&self, bucket: &mut Bucket, key: &[u8], before: Option<Arc<Object>>, gone: Option<&Version>) {
        self.unstage(gone.map_or(&[], Version::files));
        let now = bucket.objects.get(key);
        if before.as_ref().map(Arc::as_ptr) != now.map(Arc::as_ptr) {
            bucket.remember(&self.faults, key, before);
        }
    }

    /// Replaces an object by a changed form of itself, which stays the same version.
    pub(super) fn update(
        &self,
        name: &str,
        key: &[u8],
        id: Option<VersionId>,
        change: impl FnOnce(&Object) -> Outcome<Object>,
    ) -> Outcome<Found> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        let before = bucket.find(key, id)?;
        let object = Arc::new(Object { stamp: before.stamp, ..change(&before)? });
        if let Some(disk) = &self.disk {
            disk.put_version(name, key, &Version::Object(Arc::clone(&object))).map_err(|e| Failure::internal(&e))?;
        }
        let before = bucket.objects.get(key).cloned();
        bucket.replace(key, &object);
        self.changed(bucket, key, before, None);
        Ok(Found { version: bucket.told(object.stamp), object })
    }

    /// Deletes what a key shows, under a marker where versions are kept; or the version that is named, for good.
    pub(super) fn delete(&self, name: &str, key: &[u8], id: Option<VersionId>) -> Outcome<Deleted> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        if id.is_none() && bucket.config.versioning != Versioning::Never {
            let existed = bucket.objects.contains_key(key);
            let stamp = self.stamp(bucket);
            self.push(name, bucket, key, Version::Marker(Marker { stamp, modified: clock::unix_now() }))?;
            return Ok(Deleted { existed, marker: Some(stamp.id()) });
        }
        let named = bucket.stack(key).find(|version| id.is_none_or(|id| id.names(version.stamp())));
        let Some(version) = named else { return Ok(Deleted::default()) };
        if let Some(disk) = &self.disk {
            disk.delete_version(name, key, version.stamp()).map_err(|e| Failure::internal(&e))?;
        }
        let before = bucket.objects.get(key).cloned();
        bucket.take(key, version.stamp());
        self.changed(bucket, key, before, Some(&version));
        let marker = matches!(version, Version::Marker(_)).then(|| version.stamp().id());
        Ok(Deleted { existed: true, marker })
    }

    pub(super) fn begin_upload(&self, name: &str, key: &[u8], id: &str, upload: Upload) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        if let Some(disk) = &self.disk {
            disk.put_upload(name, key, id, &upload).map_err(|e| Failure::internal(&e))?;
        }
        bucket.uploads.insert((key.to_vec(), id.to_owned()), upload);
        Ok(())
    }

    /// Looks at one upload.
    pub(super) fn upload<T>(&self, name: &str, key: &[u8], id: &str, look: impl FnOnce(&Upload) -> Outcome<T>) -> Outcome<T> {
        self.bucket(name, |bucket| look(bucket.uploads.get(&(key.to_vec(), id.to_owned())).ok_or_else(Failure::no_such_upload)?))
    }

    pub(super) fn put_part(&self, name: &str, key: &[u8], id: &str, number: u32, part: Part) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        let upload = buckets.get_mut(name).and_then(|bucket| bucket.uploads.get_mut(&(key.to_vec(), id.to_owned())));
        let Some(upload) = upload else {
            self.unstage(&part.files);
            return Err(Failure::no_such_upload());
        };
        if let Some(disk) = &self.disk {
            disk.put_part(name, id, number, &part).map_err(|e| Failure::internal(&e))?;
        }
        if let Some(before) = upload.parts.insert(number, part) {
            self.unstage(&before.files);
        }
        Ok(())
    }

    /// Turns an upload into the object that `build` makes of it.
    pub(super) fn complete(
        &self,
        name: &str,
        key: &[u8],
        id: &str,
        build: impl FnOnce(&Bucket, &Upload) -> Outcome<Object>,
    ) -> Outcome<Found> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        let at = (key.to_vec(), id.to_owned());
        let upload = bucket.uploads.get(&at).ok_or_else(Failure::no_such_upload)?;
        let object = build(bucket, upload)?;
        let found = self.insert(name, bucket, key, object)?;
        self.forget_upload(name, bucket, &at, &found.files)?;
        Ok(found)
    }

    pub(super) fn abort(&self, name: &str, key: &[u8], id: &str) -> Outcome<()> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        self.forget_upload(name, bucket, &(key.to_vec(), id.to_owned()), &[])
    }

    fn forget_upload(&self, name: &str, bucket: &mut Bucket, at: &(Vec<u8>, String), kept: &[String]) -> Outcome<()> {
        let upload = bucket.uploads.remove(at).ok_or_else(Failure::no_such_upload)?;
        if let Some(disk) = &self.disk {
            disk.delete_upload(name, &at.1, upload.parts.keys().copied()).map_err(|e| Failure::internal(&e))?;
            let files: Vec<String> = upload.parts.into_values().flat_map(|part| part.files).filter(|file| !kept.contains(file)).collect();
            disk.remove(&files);
        }
        Ok(())
    }
}
