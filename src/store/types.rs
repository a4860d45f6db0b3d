//! The nouns of the store: keys, versions, metadata, payloads, parts. Parsed at the edge, so nothing below looks again.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt,
    ops::Range,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::store::{Error, Kind, Operation, Result, checksum::Crc64};

/// The full key of an object: 1–850 bytes of UTF-8, ordered by bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Takes any text; whether the store takes it too is said by its answer.
    pub fn new(key: impl AsRef<str>) -> Self {
        Self(key.as_ref().into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A bucket's full name, `<name>-<APPID>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

impl BucketName {
    /// Checks the characters and the APPID.
    ///
    /// # Errors
    /// A sentence that says what a bucket name looks like.
    pub fn parse(name: &str) -> std::result::Result<Self, String> {
        let refuse =
            || format!("{name:?} is not a bucket name: expected <name>-<APPID> of a-z, 0-9 and -, such as examplebucket-1250000000");
        let (user, appid) = name.rsplit_once('-').ok_or_else(refuse)?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = !user.is_empty()
            && name.chars().all(plain)
            && !user.starts_with('-')
            && !user.ends_with('-')
            && !appid.is_empty()
            && appid.chars().all(|c| c.is_ascii_digit());
        if good { Ok(Self(name.to_owned())) } else { Err(refuse()) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of the account's list of buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketInfo {
    /// Full name.
    pub name: BucketName,
    /// Region it lies in.
    pub region: String,
    /// When it was made, as the store writes it.
    pub created: String,
}

/// An entity tag without its quotes. Opaque.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Takes a tag as it came, quoted or not.
    pub fn new(tag: &str) -> Self {
        Self(tag.trim().trim_matches('"').into())
    }

    /// The tag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag as headers and XML want it.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The store's name for one version of an object in a versioned bucket. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub Arc<str>);

/// Which bytes exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectVersion {
    /// The object's key.
    pub key: Key,
    /// Its entity tag.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
    /// Its version, where the bucket keeps them.
    pub version_id: Option<VersionId>,
}

impl ObjectVersion {
    /// Whether both are the same bytes under the same key. (A HEAD may lack the version id that a listing cannot give.)
    pub fn same_bytes(&self, other: &Self) -> bool {
        self.key == other.key && self.etag == other.etag && self.size == other.size
    }
}

/// The random mark by which the outcome of a write is known: user metadata `cosmount-commit`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CommitToken(Arc<str>);

impl CommitToken {
    /// The user-metadata suffix that carries it.
    pub const HEADER: &'static str = "cosmount-commit";

    /// A new token from 16 random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        use fmt::Write as _;
        let hex = bytes.iter().fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Self(hex.into())
    }

    /// A token as an object carries it.
    pub fn parse(text: &str) -> Self {
        Self(text.into())
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Everything a new object must be given. What is not here, the object will not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Expires`, as stored.
    pub expires: Option<String>,
    /// User metadata by lower-case suffix (what follows `x-cos-meta-`), without the commit token. Values are header-safe.
    pub user: BTreeMap<String, String>,
    /// Storage class, upper case; `None` is the bucket's default.
    pub class: Option<String>,
    /// Server-side encryption; `None` is the bucket's default.
    pub sse: Option<Sse>,
    /// Grants of its own; `None` inherits the bucket's.
    pub acl: Option<Acl>,
    /// Tags; `None` on a copy keeps the source's.
    pub tags: Option<Tags>,
    /// Marks the write, so that its outcome can be settled.
    pub token: Option<CommitToken>,
}

/// Server-side encryption of an object. (SSE-C comes with its option.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// `AES256` with keys of COS.
    Cos,
    /// `cos/kms`, with the key's id where one was named.
    Kms(Option<String>),
    /// A customer's key, which we do not have: such an object can neither be read nor written.
    Customer,
}

/// An object's own grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl {
    /// The owner's id.
    pub owner: String,
    /// Who may do what.
    pub grants: Vec<Grant>,
}

/// One line of an [`Acl`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// A user's id (`qcs::cam::uin/…`) or a group's URI.
    pub grantee: String,
    /// `READ`, `WRITE`, `READ_ACP`, `WRITE_ACP` or `FULL_CONTROL`.
    pub permission: String,
}

/// An object's tags, in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(pub Vec<(String, String)>);

/// What HEAD says of an object.
#[derive(Debug, Clone)]
pub struct Head {
    /// Which bytes it has.
    pub version: ObjectVersion,
    /// When it was last written, to the second.
    pub last_modified: SystemTime,
    /// CRC-64/XZ of the whole object, where the store knows it.
    pub crc64: Option<u64>,
    /// Everything it carries; `acl` and `tags` are not shown by HEAD and stay `None`.
    pub meta: Meta,
    /// Archived and not restored: its bytes cannot be read now.
    pub archived: bool,
    /// The answer's `Date`.
    pub date: SystemTime,
}

/// What a finished write made.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Which bytes are there now.
    pub version: ObjectVersion,
    /// CRC-64/XZ of the whole object, where the store told.
    pub crc64: Option<u64>,
    /// `Last-Modified`, where the answer had it (copies).
    pub last_modified: Option<SystemTime>,
    /// Its encryption, as the answer says it: that of the bucket, where none was asked for.
    pub sse: Option<Sse>,
    /// The answer's `Date`.
    pub date: SystemTime,
}

/// What a write expects to find under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaces {
    /// Nothing: sent with forbid-overwrite where the bucket honours it; [`Kind::Exists`] otherwise.
    Absent,
    /// This version. COS has no compare-and-swap: it is looked at before a repeat, and by the caller before the first try.
    Version(ObjectVersion),
    /// Whatever is there.
    Anything,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Keys begin with this.
    pub prefix: String,
    /// Fold keys at the first `/` after the prefix into common prefixes.
    pub delimited: bool,
    /// Begin behind this key or common prefix.
    pub after: Option<Key>,
    /// At most so many entries; `None` is a full page.
    pub limit: Option<u16>,
}

/// A page of a listing. Objects and prefixes are each in byte order.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Objects.
    pub objects: Vec<Listed>,
    /// Common prefixes, ending in `/`.
    pub prefixes: Vec<Key>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Key>,
    /// How many keys of this page are no UTF-8, or longer than any key, and cannot be named.
    pub hidden: usize,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Which bytes it has.
    pub version: ObjectVersion,
    /// When it was last written, to the second.
    pub last_modified: SystemTime,
    /// Storage class, upper case.
    pub class: Option<String>,
}

/// The store's name for an upload. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub Arc<str>);

/// An open upload of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The key it will become.
    pub key: Key,
    /// Its name.
    pub id: UploadId,
    /// The token it was opened with.
    pub token: Option<CommitToken>,
}

/// An open upload of anybody's, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The key it will become.
    pub key: Key,
    /// Its name.
    pub id: UploadId,
    /// When it was opened, as the store writes it.
    pub initiated: String,
}

/// A part's number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(pub u32);

/// A part that the store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: PartNumber,
    /// Its entity tag.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
    /// CRC-64/XZ of its bytes, where the store told.
    pub crc64: Option<u64>,
}

/// The bytes of a request, repeatable and of known length; no whole object need be in memory.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    segments: Vec<Segment>,
    len: u64,
    /// Shared by all clones: what is known of these bytes from sending them.
    sent: Arc<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// How far any attempt has come.
    furthest: AtomicU64,
    /// CRC-64/XZ of all of it, once an attempt has come to the end.
    crc64: OnceLock<u64>,
}

/// A piece of a [`Payload`].
#[derive(Debug, Clone)]
pub enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// So many zero bytes, made as they are sent.
    Zeros(u64),
    /// Bytes that are read as they are sent.
    Source(Arc<dyn Source>, Range<u64>),
}

/// Something bytes can be read from while they are sent: a staged file.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Exactly the bytes of `range`, or an error.
    async fn read(&self, range: Range<u64>) -> std::io::Result<Bytes>;
}

impl Segment {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Source(_, range) => range.end - range.start,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Payload {
    /// A payload of these pieces, in order.
    pub fn new(segments: Vec<Segment>) -> Self {
        let len = segments.iter().map(Segment::len).sum();
        Self { segments, len, sent: Arc::default() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its pieces, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// CRC-64/XZ of all of it; known once it has been sent to its end.
    pub fn crc64(&self) -> Option<u64> {
        self.sent.crc64.get().copied()
    }

    /// An attempt has sent its first `bytes`. Says whether no attempt had come so far: sending the same bytes again is no progress.
    pub(super) fn note_sent(&self, bytes: u64) -> bool {
        self.sent.furthest.fetch_max(bytes, Ordering::Relaxed) < bytes
    }

    /// An attempt has sent all of it, and this was its checksum.
    pub(super) fn note_crc64(&self, crc64: u64) {
        self.sent.crc64.get_or_init(|| crc64);
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new(vec![Segment::Bytes(bytes)])
    }
}

/// The bytes of an answer, as they arrive. Ends with `None` only when every byte asked for has come.
pub struct Body {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
    left: u64,
    check: Option<Check>,
}

/// A checksum on its way.
struct Check {
    so_far: Crc64,
    expected: u64,
}

impl Body {
    /// A body of `len` bytes from `stream`; too few or too many of them are [`Kind::Corrupt`].
    pub fn new(len: u64, stream: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), left: len, check: None }
    }

    /// The same body, whose CRC-64/XZ must be `expected`. Looked at before its last bytes are handed up.
    #[must_use]
    pub fn checked(mut self, expected: u64) -> Self {
        self.check = Some(Check { so_far: Crc64::new(), expected });
        self
    }

    /// What the body's checksum must be, for a wrapper that goes on with the check itself. Before the first [`Body::next`] only.
    pub(super) fn take_check(&mut self) -> Option<u64> {
        self.check.take().map(|check| check.expected)
    }

    /// The same body, of which `look` sees every step.
    #[must_use]
    pub(super) fn inspect(self, look: impl FnMut(&Result<Bytes>) + Send + 'static) -> Self {
        Self { stream: Box::pin(self.stream.inspect(look)), ..self }
    }

    /// The same body with a fault at byte `at`: another value there, or an end.
    #[must_use]
    pub(super) fn spoiled(self, at: u64, flip: Option<u8>) -> Self {
        let mut from = 0;
        let cut = || Error::new(Kind::Unavailable, Operation::Get.name(), "the connection was cut");
        let spoil = move |step: Result<Bytes>| {
            let bytes = step?;
            let start = from;
            from += bytes.len() as u64;
            let Some(index) = at.checked_sub(start).and_then(|index| usize::try_from(index).ok()).filter(|index| *index < bytes.len())
            else {
                return if at < start && flip.is_none() { Err(cut()) } else { Ok(bytes) };
            };
            match flip {
                None if index == 0 => Err(cut()),
                None => Ok(bytes.slice(..index)),
                Some(flip) => {
                    let mut wrong = bytes.to_vec();
                    wrong[index] ^= flip;
                    Ok(wrong.into())
                }
            }
        };
        let at_end = flip.is_none().then(|| Err(cut()));
        Self { stream: Box::pin(self.stream.map(spoil).chain(futures_util::stream::iter(at_end))), ..self }
    }

    /// The same body, once its first bytes are here.
    ///
    /// # Errors
    /// They did not come.
    pub(super) async fn begun(mut self) -> Result<Self> {
        let first = self.stream.next().await.transpose()?;
        Ok(Self { stream: Box::pin(futures_util::stream::iter(first.map(Ok)).chain(self.stream)), ..self })
    }

    /// How many bytes are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes; `None` at the end. After an error the body is of no use.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        let corrupt = |message: String| Some(Err(Error::new(Kind::Corrupt, Operation::Get.name(), message)));
        let bytes = match self.stream.next().await {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Some(Err(error)),
            None if self.left == 0 => return None,
            None => return corrupt(format!("the answer ends {} bytes early", self.left)),
        };
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return corrupt("the answer is longer than the range asked for".to_owned());
        };
        self.left = left;
        if let Some(check) = &mut self.check {
            check.so_far.update(&bytes);
            if left == 0 && check.so_far.value() != check.expected {
                return corrupt("the object's bytes do not have the object's checksum".to_owned());
            }
        }
        Some(Ok(bytes))
    }

    /// All bytes at once. For small ranges only.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn collect(mut self) -> Result<Bytes> {
        let Some(first) = self.next().await.transpose()? else { return Ok(Bytes::new()) };
        if self.left == 0 {
            return Ok(first);
        }
        let mut all = Vec::from(first);
        while let Some(bytes) = self.next().await.transpose()? {
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}
