//! Buckets, objects and uploads: what the emulator holds, in memory and, if asked, on disk.
//!
//! Memory is the truth while the server runs; every change is on disk before it is visible, so what a client was told survives `kill -9`.
//! One lock guards all of it. It is never held while bytes are received or sent: contents are immutable and shared.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::clock;
use super::content::Content;
use super::disk::Disk;
use super::error::{Failure, Outcome};
use super::fault::Faults;
use super::meta::Meta;

/// An object: immutable; a change puts another in its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// A bucket and everything in it.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) config: BucketConfig,
    pub(super) objects: Objects,
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
    buckets: RwLock<BTreeMap<String, Bucket>>,
}

impl Store {
    /// Loads what the disk holds.
    pub(super) fn open(disk: Option<Disk>, faults: Arc<Faults>) -> std::io::Result<Self> {
        let buckets = disk.as_ref().map(Disk::load).transpose()?.unwrap_or_default();
        Ok(Self { disk, faults, buckets: RwLock::new(buckets) })
    }

    /// Looks at all buckets.
    pub(super) fn all<T>(&self, look: impl FnOnce(&BTreeMap<String, Bucket>) -> T) -> T {
        look(&self.buckets.read())
    }

    /// Looks at one bucket.
    pub(super) fn bucket<T>(&self, name: &str, look: impl FnOnce(&Bucket) -> Outcome<T>) -> Outcome<T> {
        look(self.buckets.read().get(name).ok_or_else(Failure::no_such_bucket)?)
    }

    /// One object.
    pub(super) fn object(&self, bucket: &str, key: &[u8]) -> Outcome<Arc<Object>> {
        self.bucket(bucket, |bucket| bucket.objects.get(key).cloned().ok_or_else(Failure::no_such_key))
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
        if !bucket.objects.is_empty() || !bucket.uploads.is_empty() {
            return Err(Failure::new(409, "BucketNotEmpty", "The bucket holds objects or unfinished uploads."));
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

    /// Makes an object visible if `check` agrees to what is there now. The object's files are removed if not.
    pub(super) fn put(
        &self,
        name: &str,
        key: &[u8],
        object: Object,
        check: impl FnOnce(Option<&Object>) -> Outcome<()>,
    ) -> Outcome<Arc<Object>> {
        let mut buckets = self.buckets.write();
        let object = Arc::new(object);
        let put = || {
            let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
            check(bucket.objects.get(key).map(|o| &**o))?;
            self.insert(name, bucket, key, Arc::clone(&object))
        };
        put().inspect_err(|_| self.unstage(&object.files))?;
        Ok(object)
    }

    fn insert(&self, name: &str, bucket: &mut Bucket, key: &[u8], object: Arc<Object>) -> Outcome<()> {
        if let Some(disk) = &self.disk {
            disk.put_object(name, key, &object).map_err(|e| Failure::internal(&e))?;
        }
        let kept = Arc::clone(&object);
        let before = bucket.objects.insert(key.into(), object);
        if let Some(before) = &before {
            let dropped: Vec<String> = before.files.iter().filter(|file| !kept.files.contains(file)).cloned().collect();
            self.unstage(&dropped);
        }
        bucket.remember(&self.faults, key, before);
        Ok(())
    }

    /// Replaces an object by a changed form of itself.
    pub(super) fn update(&self, name: &str, key: &[u8], change: impl FnOnce(&Object) -> Outcome<Object>) -> Outcome<Arc<Object>> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        let object = Arc::new(change(bucket.objects.get(key).ok_or_else(Failure::no_such_key)?)?);
        self.insert(name, bucket, key, Arc::clone(&object))?;
        Ok(object)
    }

    /// Removes an object; false if there was none.
    pub(super) fn delete(&self, name: &str, key: &[u8]) -> Outcome<bool> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        if !bucket.objects.contains_key(key) {
            return Ok(false);
        }
        if let Some(disk) = &self.disk {
            disk.delete_object(name, key).map_err(|e| Failure::internal(&e))?;
        }
        if let Some(before) = bucket.objects.remove(key) {
            self.unstage(&before.files);
            bucket.remember(&self.faults, key, Some(before));
        }
        Ok(true)
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
    ) -> Outcome<Arc<Object>> {
        let mut buckets = self.buckets.write();
        let bucket = buckets.get_mut(name).ok_or_else(Failure::no_such_bucket)?;
        let at = (key.to_vec(), id.to_owned());
        let upload = bucket.uploads.get(&at).ok_or_else(Failure::no_such_upload)?;
        let object = Arc::new(build(bucket, upload)?);
        self.insert(name, bucket, key, Arc::clone(&object))?;
        self.forget_upload(name, bucket, &at, &object.files)?;
        Ok(object)
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
