//! What a simulated bucket holds: plain data, no waiting. Every method is one request's whole effect, or none of it.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::store::{
    Capabilities, CommitToken, ETag, Error, Head, Key, Kind, ListRequest, Listed, Meta, ObjectVersion, Operation, Page, Part, PartNumber,
    Replaces, Result, Tags, Upload, UploadId, VersionId, Versioning,
    checksum::{Crc64, combine},
};

/// Bytes as a list of shared slices, so that a part copy of a gigabyte copies nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pieces: Vec<Bytes>,
    len: u64,
}

impl Content {
    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len() as u64;
            self.pieces.push(bytes);
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The pieces of `range`, which lies within the content.
    pub(super) fn slice(&self, range: &Range<u64>) -> Self {
        let mut slice = Self::default();
        let mut at = 0;
        for piece in &self.pieces {
            let end = at + piece.len() as u64;
            let (from, to) = (range.start.max(at), range.end.min(end));
            if from < to {
                let cut = |offset: u64| usize::try_from(offset - at).expect("an offset within a piece in memory");
                slice.push(piece.slice(cut(from)..cut(to)));
            }
            at = end;
        }
        slice
    }

    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    fn crc64(&self) -> u64 {
        let mut crc = Crc64::new();
        self.pieces.iter().for_each(|piece| crc.update(piece));
        crc.value()
    }

    pub(super) fn etag(&self) -> ETag {
        let mut md5 = Md5::new();
        self.pieces.iter().for_each(|piece| md5.update(piece));
        ETag::new(&hex(&md5.finalize()))
    }
}

/// One object as it lies in the bucket.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) version: ObjectVersion,
    pub(super) content: Content,
    pub(super) meta: Meta,
    pub(super) crc64: Option<u64>,
    pub(super) last_modified: SystemTime,
}

impl Object {
    pub(super) fn archived(&self) -> bool {
        matches!(self.meta.class.as_deref(), Some("ARCHIVE" | "DEEP_ARCHIVE"))
    }

    pub(super) fn head(&self, date: SystemTime) -> Head {
        Head {
            version: self.version.clone(),
            last_modified: self.last_modified,
            crc64: self.crc64,
            meta: Meta { acl: None, tags: None, ..self.meta.clone() },
            archived: self.archived(),
            date,
        }
    }
}

#[derive(Debug)]
struct OpenedUpload {
    key: Key,
    meta: Meta,
    initiated: SystemTime,
    parts: BTreeMap<PartNumber, (Part, Content)>,
}

/// The bucket's whole state.
#[derive(Debug)]
pub(super) struct State {
    capabilities: Capabilities,
    objects: BTreeMap<Key, Object>,
    /// Replaced and deleted versions, where the bucket keeps them.
    older: BTreeMap<(Key, VersionId), Object>,
    uploads: BTreeMap<UploadId, OpenedUpload>,
    /// What lists show while they are frozen: an older state of `objects`.
    listed: Option<BTreeMap<Key, Object>>,
    /// Keys under retention.
    locked: std::collections::BTreeSet<Key>,
    /// Numbers for what must be unique: upload ids, version ids, entity tags that are no checksum.
    serial: u64,
}

impl State {
    pub(super) fn new(capabilities: Capabilities) -> Self {
        Self {
            capabilities,
            objects: BTreeMap::new(),
            older: BTreeMap::new(),
            uploads: BTreeMap::new(),
            listed: None,
            locked: std::collections::BTreeSet::new(),
            serial: 0,
        }
    }

    pub(super) fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.older.is_empty() && self.uploads.is_empty()
    }

    pub(super) fn freeze_lists(&mut self, freeze: bool) {
        self.listed = freeze.then(|| self.objects.clone());
    }

    pub(super) fn lock(&mut self, key: Key) {
        self.locked.insert(key);
    }

    /// The object under `key`, for `operation`.
    pub(super) fn found(&self, operation: Operation, key: &Key) -> Result<&Object> {
        self.objects.get(key).ok_or_else(|| refuse(operation, key, Kind::NotFound, 404, "NoSuchKey", "there is no such object"))
    }

    /// The object of exactly `version`, readable.
    pub(super) fn pinned(&self, operation: Operation, version: &ObjectVersion) -> Result<&Object> {
        let key = &version.key;
        let current = self.objects.get(key);
        let object = match &version.version_id {
            Some(id) if current.is_none_or(|object| object.version.version_id.as_ref() != Some(id)) => self
                .older
                .get(&(key.clone(), id.clone()))
                .ok_or_else(|| refuse(operation, key, Kind::NotFound, 404, "NoSuchVersion", "there is no such version"))?,
            _ => self.found(operation, key)?,
        };
        if object.version.etag != version.etag {
            return Err(refuse(operation, key, Kind::Precondition, 412, "PreconditionFailed", "the key holds another version"));
        }
        if object.archived() {
            return Err(refuse(operation, key, Kind::Archived, 403, "InvalidObjectState", "the object is archived"));
        }
        Ok(object)
    }

    /// The bytes of `range` of exactly `version`.
    pub(super) fn read(&self, operation: Operation, version: &ObjectVersion, range: &Range<u64>) -> Result<Content> {
        let object = self.pinned(operation, version)?;
        if range.start >= range.end || range.end > object.content.len() {
            return Err(refuse(operation, &version.key, Kind::Invalid, 416, "InvalidRange", "the range is empty or past the end"));
        }
        Ok(object.content.slice(range))
    }

    pub(super) fn list(&self, request: &ListRequest) -> Page {
        let objects = self.listed.as_ref().unwrap_or(&self.objects);
        let limit = usize::from(request.limit.unwrap_or(1000)).clamp(1, 1000);
        let prefix = request.prefix.as_str();
        let fold = |key: &str| {
            let end = key.get(prefix.len()..)?.find('/').filter(|_| request.delimited)?;
            Some(key[..=prefix.len() + end].to_owned())
        };
        let mut page = Page::default();
        let mut last: Option<Key> = None;
        // A common prefix given as `after` skips all that it folds.
        let mut from = match &request.after {
            Some(after) if fold(after.as_str()).as_deref() == Some(after.as_str()) => Bound::Included(past(after.as_str())),
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str().to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        while let Some((key, object)) = objects.range::<str, _>((from.as_ref().map(String::as_str), Bound::Unbounded)).next() {
            if !key.as_str().starts_with(prefix) {
                // Before the prefix only if `after` was; the bounds above rule that out.
                break;
            }
            if page.objects.len() + page.prefixes.len() == limit {
                page.next = last;
                return page;
            }
            if let Some(common) = fold(key.as_str()) {
                from = Bound::Included(past(&common));
                let common = Key::new(common);
                page.prefixes.push(common.clone());
                last = Some(common);
            } else {
                from = Bound::Excluded(key.as_str().to_owned());
                page.objects.push(Listed {
                    version: ObjectVersion { version_id: None, ..object.version.clone() },
                    last_modified: object.last_modified,
                    class: object.meta.class.clone(),
                });
                last = Some(key.clone());
            }
        }
        page
    }

    /// Makes `content` the object under `key`, or refuses.
    pub(super) fn put(
        &mut self,
        operation: Operation,
        key: &Key,
        meta: Meta,
        content: Content,
        replaces: &Replaces,
        now: SystemTime,
    ) -> Result<Object> {
        self.check_key(operation, key)?;
        self.check_meta(operation, key, &meta)?;
        let largest = if operation == Operation::Put { self.capabilities.largest_put } else { self.capabilities.largest_copy };
        if content.len() > largest {
            return Err(refuse(operation, key, Kind::TooLarge, 400, "EntityTooLarge", "more bytes than one request may carry"));
        }
        self.check_absent(operation, key, replaces)?;
        let (etag, crc64) = (content.etag(), Some(content.crc64()));
        Ok(self.store(key, etag, meta, content, crc64, now))
    }

    /// Makes an object as somebody else would: without our token.
    pub(super) fn put_foreign(&mut self, key: &Key, meta: Meta, content: Content, now: SystemTime) -> Object {
        let (etag, crc64) = (content.etag(), Some(content.crc64()));
        self.store(key, etag, meta, content, crc64, now)
    }

    pub(super) fn copy(
        &mut self,
        source: &ObjectVersion,
        to: &Key,
        mut meta: Meta,
        replaces: &Replaces,
        now: SystemTime,
    ) -> Result<Object> {
        let from = self.pinned(Operation::Copy, source)?.clone();
        meta.tags = meta.tags.or(from.meta.tags);
        self.put(Operation::Copy, to, meta, from.content, replaces, now)
    }

    pub(super) fn delete(&mut self, operation: Operation, key: &Key) -> Result<()> {
        if self.locked.contains(key) {
            return Err(refuse(operation, key, Kind::Locked, 409, "ObjectLocked", "the object is under retention"));
        }
        if let Some(object) = self.objects.remove(key) {
            self.keep(object);
        }
        Ok(())
    }

    pub(super) fn create_upload(&mut self, key: &Key, meta: Meta, now: SystemTime) -> Result<Upload> {
        self.check_key(Operation::CreateUpload, key)?;
        self.check_meta(Operation::CreateUpload, key, &meta)?;
        self.serial += 1;
        let id = UploadId(format!("upload-{:08}", self.serial).into());
        let token = meta.token.clone();
        self.uploads.insert(id.clone(), OpenedUpload { key: key.clone(), meta, initiated: now, parts: BTreeMap::new() });
        Ok(Upload { key: key.clone(), id, token })
    }

    pub(super) fn upload_part(&mut self, operation: Operation, upload: &Upload, number: PartNumber, content: Content) -> Result<Part> {
        let Capabilities { largest_part, most_parts, .. } = self.capabilities;
        let open = self.upload(operation, upload)?;
        if number.0 == 0 || number.0 > most_parts {
            return Err(refuse(operation, &upload.key, Kind::Invalid, 400, "InvalidArgument", "part numbers go from 1 to 10000"));
        }
        if content.len() > largest_part {
            return Err(refuse(operation, &upload.key, Kind::TooLarge, 400, "EntityTooLarge", "more bytes than a part may have"));
        }
        // The answer to a part copy tells no checksum.
        let crc64 = (operation == Operation::UploadPart).then(|| content.crc64());
        let part = Part { number, etag: content.etag(), size: content.len(), crc64 };
        open.parts.insert(number, (part.clone(), content));
        Ok(part)
    }

    pub(super) fn complete_upload(&mut self, upload: &Upload, parts: &[Part], replaces: &Replaces, now: SystemTime) -> Result<Object> {
        let operation = Operation::CompleteUpload;
        let smallest = self.capabilities.smallest_part;
        let bad = |code, message: &str| Err(refuse(operation, &upload.key, Kind::Invalid, 400, code, message));
        let open = self.upload(operation, upload)?;
        if parts.is_empty() {
            return bad("MalformedXML", "an upload is completed with at least one part");
        }
        let mut content = Content::default();
        let mut crc64 = Some(0);
        for (number, part) in (1..).zip(parts) {
            let Some((ours, bytes)) = open.parts.get(&part.number) else { return bad("InvalidPart", "there is no such part") };
            if part.number != PartNumber(number) || ours.etag != part.etag {
                return bad("InvalidPart", "parts are 1..N without gaps, each with its own entity tag");
            }
            if ours.size < smallest && usize::try_from(number) != Ok(parts.len()) {
                return bad("EntityTooSmall", "a part that is not the last is below the minimum");
            }
            bytes.pieces.iter().for_each(|piece| content.push(piece.clone()));
            crc64 = crc64.zip(ours.crc64).map(|(so_far, next)| combine(so_far, next, ours.size));
        }
        self.check_absent(operation, &upload.key, replaces)?;
        let open = self.uploads.remove(&upload.id).expect("found above, under the same lock");
        self.serial += 1;
        let etag = ETag::new(&format!("{:032x}-{}", self.serial, parts.len()));
        Ok(self.store(&upload.key, etag, open.meta, content, crc64, now))
    }

    pub(super) fn abort_upload(&mut self, upload: &Upload) {
        self.uploads.remove(&upload.id);
    }

    /// Open uploads: key, id, token and when they were opened.
    pub(super) fn uploads(&self) -> impl Iterator<Item = (&Key, &UploadId, Option<&CommitToken>, SystemTime)> {
        self.uploads.iter().map(|(id, open)| (&open.key, id, open.meta.token.as_ref(), open.initiated))
    }

    pub(super) fn parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        match self.uploads.get(&upload.id) {
            // A list shows no checksums.
            Some(open) => Ok(open.parts.values().map(|(part, _)| Part { crc64: None, ..part.clone() }).collect()),
            None => Err(no_such_upload(Operation::ListParts, &upload.key)),
        }
    }

    pub(super) fn set_acl_and_tags(&mut self, key: &Key, acl: crate::store::Acl, tags: Tags) {
        if let Some(object) = self.objects.get_mut(key) {
            object.meta.acl = Some(acl);
            object.meta.tags = Some(tags);
        }
    }

    fn upload(&mut self, operation: Operation, upload: &Upload) -> Result<&mut OpenedUpload> {
        self.uploads.get_mut(&upload.id).filter(|open| open.key == upload.key).ok_or_else(|| no_such_upload(operation, &upload.key))
    }

    fn store(&mut self, key: &Key, etag: ETag, meta: Meta, content: Content, crc64: Option<u64>, now: SystemTime) -> Object {
        self.serial += 1;
        let version_id = match self.capabilities.versioning {
            // While suspended the version is called `null`, which pins nothing.
            Versioning::Never | Versioning::Suspended => None,
            Versioning::Enabled => Some(VersionId(format!("version-{:08}", self.serial).into())),
        };
        let version = ObjectVersion { key: key.clone(), etag, size: content.len(), version_id };
        let object = Object { version, content, meta, crc64, last_modified: now };
        if let Some(old) = self.objects.insert(key.clone(), object.clone()) {
            self.keep(old);
        }
        object
    }

    /// An object that lost its key lives on under its version id, if it has one of its own.
    fn keep(&mut self, object: Object) {
        if let Some(id) = object.version.version_id.clone() {
            self.older.insert((object.version.key.clone(), id), object);
        }
    }

    fn check_key(&self, operation: Operation, key: &Key) -> Result<()> {
        let text = key.as_str();
        if text.len() > self.capabilities.longest_key {
            return Err(refuse(operation, key, Kind::KeyTooLong, 400, "KeyTooLong", "the key is longer than 850 bytes"));
        }
        if text.is_empty() || text.starts_with(['/', '\\']) || text.contains(['\u{18}', '\u{19}', '\u{1a}', '\u{1b}']) {
            return Err(refuse(operation, key, Kind::Invalid, 400, "InvalidObjectName", "no object can have this key"));
        }
        Ok(())
    }

    fn check_meta(&self, operation: Operation, key: &Key, meta: &Meta) -> Result<()> {
        let bad = |message: &str| Err(refuse(operation, key, Kind::Invalid, 400, "InvalidArgument", message));
        let Some(token) = &meta.token else { return bad("a write without a commit token cannot be settled") };
        let mut bytes = CommitToken::HEADER.len() + token.as_str().len();
        for (name, value) in &meta.user {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || !name.bytes().all(plain) || !value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                return bad("user metadata is a lower-case suffix without _ and a header-safe value");
            }
            bytes += name.len() + value.len();
        }
        if bytes > self.capabilities.largest_user_meta { bad("more than 2 KB of user metadata") } else { Ok(()) }
    }

    fn check_absent(&self, operation: Operation, key: &Key, replaces: &Replaces) -> Result<()> {
        let asked = *replaces == Replaces::Absent && self.capabilities.forbid_overwrite;
        if asked && self.capabilities.versioning == Versioning::Never && self.objects.contains_key(key) {
            return Err(refuse(operation, key, Kind::Exists, 409, "FileAlreadyExists", "the key exists"));
        }
        Ok(())
    }
}

pub(super) fn refuse(operation: Operation, key: &Key, kind: Kind, status: u16, code: &str, message: &str) -> Error {
    Error::new(kind, operation.name(), message).on(key).answered(status, Some(code.to_owned()), Some("simulated".to_owned()))
}

fn no_such_upload(operation: Operation, key: &Key) -> Error {
    refuse(operation, key, Kind::NoSuchUpload, 404, "NoSuchUpload", "the upload is completed, aborted or never was")
}

/// The least key behind every key that begins with `common`, which ends in `/`.
fn past(common: &str) -> String {
    let stem = common.strip_suffix('/').unwrap_or(common);
    // `0` is the byte after `/`.
    format!("{stem}0")
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Zero bytes for every content that needs them.
pub(super) fn zeros(len: u64) -> impl Iterator<Item = Bytes> {
    const PIECE: usize = 1 << 20;
    static ZEROS: std::sync::LazyLock<Arc<[u8]>> = std::sync::LazyLock::new(|| vec![0; PIECE].into());
    let piece = Bytes::from_owner(Arc::clone(&ZEROS));
    let whole = usize::try_from(len / PIECE as u64).unwrap_or(usize::MAX);
    let rest = usize::try_from(len % PIECE as u64).expect("below the size of a piece");
    std::iter::repeat_n(piece.clone(), whole).chain((rest > 0).then(|| piece.slice(..rest)))
}
