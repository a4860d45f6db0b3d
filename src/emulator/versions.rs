//! Versions of a key: their ids, delete markers, and the stack they lie in.
//!
//! What a key shows is in [`Bucket::objects`], as if there were no versions. What it showed before lies in [`Bucket::older`], oldest first,
//! and so do all its delete markers. Together they are the key's stack, with three rules:
//!
//! 1. The shown object is newer than everything in `older`. A key that shows nothing has a marker on top of `older`, or nothing there.
//! 2. One version at most is the *null version*: made before versioning was enabled, or while it is suspended. A new one replaces it.
//! 3. A version keeps the moment it was made, and no two of a server are made at the same one: it is the order of the stack, and the id.
//!
//! Source: COS API, PUT Bucket versioning (document 436/19889), GET Bucket Object versions (436/35521), DELETE Object (436/7743), read
//! 2026-11.

use std::ops::{Bound, Deref};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::error::{Failure, Outcome};
use super::state::{Bucket, Object};

/// Whether a bucket keeps versions. Once enabled it can only be suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// It was never enabled.
    #[default]
    Never,
    /// What is replaced or deleted stays.
    Enabled,
    /// New objects and delete markers are the null version; older versions stay.
    Suspended,
}

/// Which version an object or a marker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Microseconds since 1970.
    pub(super) made: u64,
    /// The null version.
    pub(super) null: bool,
}

impl Default for Stamp {
    /// Of an object that was not put yet, or that a directory without versions holds.
    fn default() -> Self {
        Self { made: 0, null: true }
    }
}

impl Stamp {
    /// Unpadded Base64 of the decimal number 2^64 - microseconds, as in the published samples.
    pub(super) fn id(self) -> String {
        if self.null { "null".to_owned() } else { STANDARD_NO_PAD.encode(self.made.wrapping_neg().to_string()) }
    }

    /// The id that names it.
    pub(super) fn named(self) -> VersionId {
        if self.null { VersionId::Null } else { VersionId::Made(self.made) }
    }
}

/// A version id as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VersionId {
    Null,
    Made(u64),
    /// No version's id.
    Nonsense,
}

impl VersionId {
    /// None for an empty id, which names nothing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let made = || String::from_utf8(STANDARD_NO_PAD.decode(text).ok()?).ok()?.parse::<u64>().ok();
        match text {
            "" => None,
            "null" => Some(Self::Null),
            _ => Some(made().map_or(Self::Nonsense, |number| Self::Made(number.wrapping_neg()))),
        }
    }

    pub(super) fn names(self, stamp: Stamp) -> bool {
        self == stamp.named()
    }
}

/// What a DELETE leaves on top of a key. Its record has nothing else, so a broken object's is not taken for one.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    pub(super) stamp: Stamp,
    /// Seconds since 1970.
    pub(super) modified: u64,
}

/// One layer of a key's stack.
#[derive(Clone, Debug)]
pub(super) enum Version {
    Object(Arc<Object>),
    Marker(Marker),
}

impl Version {
    pub(super) fn stamp(&self) -> Stamp {
        match self {
            Self::Object(object) => object.stamp,
            Self::Marker(marker) => marker.stamp,
        }
    }

    /// The files of its bytes.
    pub(super) fn files(&self) -> &[String] {
        match self {
            Self::Object(object) => &object.files,
            Self::Marker(_) => &[],
        }
    }
}

/// An object, and the version id that its answers tell.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) object: Arc<Object>,
    /// None where versioning was never enabled.
    pub(super) version: Option<String>,
}

impl Deref for Found {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}

/// What a DELETE did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Deleted {
    /// Something was shown or named, and is no more.
    pub(super) existed: bool,
    /// The marker that was made, or removed by its id.
    pub(super) marker: Option<String>,
}

impl Bucket {
    /// What answers say of a version: nothing where versioning was never enabled.
    pub(super) fn told(&self, stamp: Stamp) -> Option<String> {
        (self.config.versioning != Versioning::Never).then(|| stamp.id())
    }

    /// Holds `x-cos-forbid-overwrite` against what is there. Where versioning was ever enabled it has no effect.
    pub(super) fn check_absent(&self, key: &[u8]) -> Outcome<()> {
        let counts = self.config.versioning == Versioning::Never;
        if counts && self.objects.contains_key(key) { Err(Failure::already_exists()) } else { Ok(()) }
    }

    /// The object that a key shows, or the version that is named.
    pub(super) fn find(&self, key: &[u8], id: Option<VersionId>) -> Outcome<Found> {
        let version = match id {
            None => self.stack(key).next().ok_or_else(Failure::no_such_key)?,
            Some(id) => self.stack(key).find(|version| id.names(version.stamp())).ok_or_else(Failure::no_such_version)?,
        };
        match version {
            Version::Object(object) => Ok(Found { version: self.told(object.stamp), object }),
            Version::Marker(marker) => {
                let failure = if id.is_none() { Failure::no_such_key() } else { Failure::marker() };
                Err(failure.with_header("x-cos-delete-marker", "true").with_header("x-cos-version-id", &marker.stamp.id()))
            }
        }
    }

    /// All versions of a key, newest first.
    pub(super) fn stack(&self, key: &[u8]) -> impl Iterator<Item = Version> {
        let shown = self.objects.get(key).map(|object| Version::Object(Arc::clone(object)));
        shown.into_iter().chain(self.older.get(key).into_iter().flatten().rev().cloned())
    }

    /// The first key from here that has any version.
    pub(super) fn next_key(&self, from: Bound<&[u8]>) -> Option<&[u8]> {
        let shown = self.objects.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(key, _)| &**key);
        let older = self.older.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(key, _)| &**key);
        match (shown, older) {
            (Some(shown), Some(older)) => Some(shown.min(older)),
            (shown, older) => shown.or(older),
        }
    }

    /// Puts a new version on top of a key. A null version replaces the one there was, which is returned.
    pub(super) fn push(&mut self, key: &[u8], version: Version) -> Option<Version> {
        let stamp = version.stamp();
        let shown = match &version {
            Version::Object(object) => self.objects.insert(key.into(), Arc::clone(object)),
            Version::Marker(_) => self.objects.remove(key),
        };
        let (replaced, kept) =
            if stamp.null && shown.as_ref().is_some_and(|shown| shown.stamp.null) { (shown, None) } else { (None, shown) };
        let mut gone = replaced.map(Version::Object);
        let marker = matches!(version, Version::Marker(_)).then_some(version);
        if kept.is_some() || marker.is_some() || self.older.contains_key(key) {
            let older = self.older.entry(key.into()).or_default();
            if stamp.null {
                gone = gone.or(older.extract_if(.., |version| version.stamp().null).next());
            }
            older.extend(kept.map(Version::Object).into_iter().chain(marker));
            if older.is_empty() {
                self.older.remove(key);
            }
        }
        gone
    }

    /// Takes a version out of a key's stack; what lies below it shows if it was on top.
    pub(super) fn take(&mut self, key: &[u8], stamp: Stamp) -> Option<Version> {
        let gone = if self.objects.get(key).is_some_and(|shown| shown.stamp == stamp) {
            self.objects.remove(key).map(Version::Object)
        } else {
            self.older.get_mut(key)?.extract_if(.., |version| version.stamp() == stamp).next()
        };
        self.show_top(key);
        gone
    }

    /// Restores rule 1 after a version went, and keeps no empty list.
    fn show_top(&mut self, key: &[u8]) {
        let shows = self.objects.contains_key(key);
        let Some(older) = self.older.get_mut(key) else { return };
        if !shows && let Some(Version::Object(object)) = older.pop_if(|top| matches!(top, Version::Object(_))) {
            self.objects.insert(key.into(), object);
        }
        if older.is_empty() {
            self.older.remove(key);
        }
    }

    /// Puts a changed form of a version in its place.
    pub(super) fn replace(&mut self, key: &[u8], object: &Arc<Object>) {
        let older = self.older.get_mut(key).into_iter().flatten().filter_map(|version| match version {
            Version::Object(older) => Some(older),
            Version::Marker(_) => None,
        });
        for version in self.objects.get_mut(key).into_iter().chain(older).filter(|version| version.stamp == object.stamp) {
            *version = Arc::clone(object);
        }
    }

    /// Makes a key's stack of its versions, in any order.
    pub(super) fn load(&mut self, key: &[u8], mut versions: Vec<Version>) {
        versions.sort_unstable_by_key(|version| version.stamp().made);
        self.older.insert(key.into(), versions);
        self.show_top(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_those_of_the_samples() {
        let stamp = Stamp { made: 1_586_511_395_051_528, null: false };
        assert_eq!(stamp.id(), "MTg0NDUxNTc1NjIzMTQ1MDAwODg");
        assert_eq!(VersionId::parse(&stamp.id()), Some(VersionId::Made(stamp.made)));
        assert_eq!((VersionId::parse(""), VersionId::parse("null")), (None, Some(VersionId::Null)));
        for text in ["x", "eHg", "MTg0NDUxNTc1NjIzMTQ1MDAwODg="] {
            assert_eq!(VersionId::parse(text), Some(VersionId::Nonsense), "{text}");
        }
    }

    /// What happens to one key.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Put {
            null: bool,
            marker: bool,
        },
        /// The version so far from the top.
        Take(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = (any::<bool>(), any::<bool>()).prop_map(|(null, marker)| Step::Put { null, marker });
        prop::collection::vec(prop_oneof![put, (0..4_usize).prop_map(Step::Take)], 1..40)
    }

    proptest! {
        /// The stack is a list, newest first, of which the shown object is the head if that is no marker.
        #[test]
        fn stack_is_a_list(steps in steps()) {
            let mut bucket = Bucket::default();
            let mut model: Vec<(Stamp, bool)> = Vec::new();
            for (made, step) in (1..).zip(steps) {
                match step {
                    Step::Put { null, marker } => {
                        let stamp = Stamp { made, null };
                        let version = if marker {
                            Version::Marker(Marker { stamp, modified: 0 })
                        } else {
                            Version::Object(Arc::new(Object { stamp, ..Object::default() }))
                        };
                        let found = bucket.push(b"k", version);
                        let gone = model.iter().position(|(stamp, _)| null && stamp.null).map(|at| model.remove(at).0);
                        prop_assert_eq!(found.map(|version| version.stamp()), gone);
                        model.insert(0, (stamp, marker));
                    }
                    Step::Take(at) => {
                        let stamp = model.get(at).map_or(Stamp { made: 0, null: false }, |(stamp, _)| *stamp);
                        let gone = bucket.take(b"k", stamp);
                        prop_assert_eq!(gone.map(|version| version.stamp()), model.get(at).map(|(stamp, _)| *stamp));
                        if at < model.len() {
                            model.remove(at);
                        }
                    }
                }
                let stack: Vec<_> = bucket.stack(b"k").map(|v| (v.stamp(), matches!(v, Version::Marker(_)))).collect();
                prop_assert_eq!(&stack, &model);
                prop_assert!(bucket.older.values().all(|older| !older.is_empty()));
                let top = model.first().filter(|(_, marker)| !marker).map(|(stamp, _)| *stamp);
                prop_assert_eq!(bucket.objects.get(&b"k"[..]).map(|object| object.stamp), top);
                prop_assert_eq!(bucket.next_key(Bound::Unbounded).is_some(), !model.is_empty());
                let mut loaded = Bucket::default();
                let mut versions: Vec<Version> = bucket.stack(b"k").collect();
                let turn = versions.len() / 2;
                versions.rotate_left(turn);
                loaded.load(b"k", versions);
                let stamps = |bucket: &Bucket| bucket.stack(b"k").map(|version| version.stamp()).collect::<Vec<_>>();
                prop_assert_eq!((stamps(&loaded), loaded.objects.len()), (stamps(&bucket), bucket.objects.len()));
            }
        }
    }
}
