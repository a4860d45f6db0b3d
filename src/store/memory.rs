//! A simulated bucket: the semantics of COS in memory, deterministic, with hooks for tests of every room above.
//!
//! What it keeps to: key and metadata limits, exact paging (a page may end at a common prefix; going on behind one skips it), entity tags that
//! are the MD5 of a PUT but unique for a completed upload, part numbers, part minimum and part tags at complete, pinned reads and copies,
//! forbid-overwrite (without effect where versioning was ever enabled), versions that stay readable by their id, checksums that a part copy
//! loses. A write without a commit token is refused, because nothing could settle it. There is no compare-and-swap: as in COS,
//! [`Replaces::Version`] is somebody else's duty.
//!
//! What a test can do to it: give it latency ([`MemoryBucket::set_latency`]), hold requests back ([`MemoryBucket::hold`]), make the next
//! request of a kind fail with or without its effect ([`MemoryBucket::fail_next`]), cut or spoil the next body, freeze lists, write as
//! somebody else ([`MemoryBucket::put_foreign`]), look at what is there, and count requests.

mod state;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store::{
    Acl, Body, Bucket, BucketInfo, BucketName, Capabilities, ETag, Error, Head, Key, Kind, ListRequest, Meta, ObjectVersion, OpenUpload,
    Operation, Page, Part, PartNumber, Payload, Replaces, Result, Segment, Service, Stored, Tags, Upload,
};
use crate::support::{Clock, Ctx};

use state::{Content, Object, State, refuse, zeros};

/// Bytes handed up at once, as from a socket.
const PIECE: u64 = 256 << 10;

/// What a failing request leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, and the caller is told so.
    Refused,
    /// Nothing, but the caller cannot know.
    LostBefore,
    /// Its whole effect: only the answer was lost.
    LostAfter,
}

/// What happens to the next body that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoil {
    /// The connection ends after so many bytes.
    Cut(u64),
    /// So many bytes come, then nothing.
    Stall(u64),
}

/// A simulated bucket.
pub struct MemoryBucket {
    name: BucketName,
    capabilities: Capabilities,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    hooks: Mutex<Hooks>,
    requests: BTreeMap<Operation, AtomicU64>,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

#[derive(Debug, Default)]
struct Hooks {
    latency: Duration,
    latency_of: BTreeMap<Operation, Duration>,
    faults: VecDeque<(Operation, Kind, Effect)>,
    bodies: VecDeque<Spoil>,
    held: BTreeMap<Operation, watch::Receiver<()>>,
}

/// Holds the requests of one operation back until it is dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "what matters is when it is dropped")] watch::Sender<()>);

impl MemoryBucket {
    /// An empty bucket that can what an ordinary COS bucket can.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let name = BucketName::parse("memory-1250000000").expect("a well-formed name");
        Self::with(name, Capabilities::cos(), clock)
    }

    /// An empty bucket of that name and those capabilities: smaller parts, versions, no forbid-overwrite.
    pub fn with(name: BucketName, capabilities: Capabilities, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: Mutex::new(State::new(capabilities.clone())),
            capabilities,
            clock,
            hooks: Mutex::default(),
            requests: Operation::ALL.into_iter().map(|operation| (operation, AtomicU64::new(0))).collect(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        })
    }

    /// How long every request takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.hooks.lock().latency = latency;
    }

    /// How long requests of `operation` take from now on.
    pub fn set_latency_of(&self, operation: Operation, latency: Duration) {
        self.hooks.lock().latency_of.insert(operation, latency);
    }

    /// Makes the next request of `operation` fail with `kind`; calls queue up.
    pub fn fail_next(&self, operation: Operation, kind: Kind, effect: Effect) {
        self.hooks.lock().faults.push_back((operation, kind, effect));
    }

    /// How many faults have not been met yet.
    pub fn faults_left(&self) -> usize {
        self.hooks.lock().faults.len()
    }

    /// Forgets the faults that have not been met.
    pub fn clear_faults(&self) {
        self.hooks.lock().faults.clear();
    }

    /// Makes the next body read end with an error after `bytes`; calls queue up.
    pub fn cut_next_body(&self, bytes: u64) {
        self.hooks.lock().bodies.push_back(Spoil::Cut(bytes));
    }

    /// Makes the next body read stall for ever after `bytes`; calls queue up.
    pub fn stall_next_body(&self, bytes: u64) {
        self.hooks.lock().bodies.push_back(Spoil::Stall(bytes));
    }

    /// Requests of `operation` wait, before they have any effect, until the hold is dropped.
    pub fn hold(&self, operation: Operation) -> Hold {
        let (hold, held) = watch::channel(());
        self.hooks.lock().held.insert(operation, held);
        Hold(hold)
    }

    /// Lists go on showing what is there now, whatever happens, until they are thawed.
    pub fn freeze_lists(&self, freeze: bool) {
        self.state.lock().freeze_lists(freeze);
    }

    /// Puts a key under retention: it cannot be deleted.
    pub fn lock(&self, key: &Key) {
        self.state.lock().lock(key.clone());
    }

    /// How many requests of `operation` have been made.
    pub fn requests(&self, operation: Operation) -> u64 {
        self.requests[&operation].load(Ordering::Relaxed)
    }

    /// How many requests have been made in all.
    pub fn all_requests(&self) -> u64 {
        self.requests.values().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Bytes handed up by [`Bucket::get`] so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes taken by [`Bucket::put`] and [`Bucket::upload_part`] so far.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Sets all counters to zero.
    pub fn reset_counters(&self) {
        let all = self.requests.values().chain([&self.bytes_read, &self.bytes_written]);
        all.for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// Writes as somebody else, without metadata: no request is counted, no fault met.
    pub fn put_foreign(&self, key: &Key, bytes: impl Into<Bytes>) -> ObjectVersion {
        self.put_foreign_with(key, bytes, Meta::default())
    }

    /// Writes as somebody else, with metadata; an access list, tags and a class go here, too.
    pub fn put_foreign_with(&self, key: &Key, bytes: impl Into<Bytes>, meta: Meta) -> ObjectVersion {
        let mut content = Content::default();
        content.push(bytes.into());
        self.state.lock().put_foreign(key, meta, content, self.date()).version
    }

    /// Deletes as somebody else.
    pub fn delete_foreign(&self, key: &Key) {
        self.state.lock().delete(Operation::Delete, key).expect("a key that is not locked");
    }

    /// Sets an object's access list and tags as somebody else.
    pub fn set_acl_and_tags(&self, key: &Key, acl: Acl, tags: Tags) {
        self.state.lock().set_acl_and_tags(key, acl, tags);
    }

    /// An object's bytes, without a request.
    pub fn peek(&self, key: &Key) -> Option<Vec<u8>> {
        self.state.lock().object(key).map(|object| object.content.to_vec())
    }

    /// What HEAD would say, without a request; with access list and tags.
    pub fn peek_head(&self, key: &Key) -> Option<Head> {
        let state = self.state.lock();
        state.object(key).map(|object| Head { meta: object.meta.clone(), ..object.head(self.date()) })
    }

    /// Every key, without a request.
    pub fn keys(&self) -> Vec<Key> {
        self.state.lock().keys()
    }

    /// Every open upload, without a request.
    pub fn open_uploads(&self) -> Vec<Upload> {
        let state = self.state.lock();
        state.uploads().map(|(key, id, token, _)| Upload { key: key.clone(), id: id.clone(), token: token.cloned() }).collect()
    }

    /// The time of an answer, to the second as headers have it.
    fn date(&self) -> SystemTime {
        let since = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
    }

    /// One request: counted, delayed, and failed if a fault waits for it; else, or before that, `effect`.
    async fn request<T>(&self, cx: &Ctx, operation: Operation, target: &str, effect: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.requests[&operation].fetch_add(1, Ordering::Relaxed);
        let (latency, held) = {
            let hooks = self.hooks.lock();
            let latency = hooks.latency_of.get(&operation).copied().unwrap_or(hooks.latency);
            (latency, hooks.held.get(&operation).cloned())
        };
        let travel = async {
            if let Some(mut held) = held {
                // Ends, with an error, when the sender is dropped.
                let _ = held.changed().await;
            }
            if !latency.is_zero() {
                self.clock.sleep(latency).await;
            }
        };
        let waited = cx.bounded(travel).await;
        waited.map_err(|late| Error::new(Kind::NoProgress, operation.name(), late.to_string()).at(target))?;
        let fault = {
            let mut hooks = self.hooks.lock();
            let at = hooks.faults.iter().position(|fault| fault.0 == operation);
            at.and_then(|at| hooks.faults.remove(at))
        };
        let Some((_, kind, left)) = fault else {
            // An answer is progress, whatever it says; a fault is none.
            cx.progressed();
            return effect(&mut self.state.lock());
        };
        let error = Error::new(kind, operation.name(), "a fault was asked for").at(target);
        match left {
            Effect::Refused => Err(error),
            Effect::LostBefore => Err(error.unknown()),
            Effect::LostAfter => {
                effect(&mut self.state.lock())?;
                Err(error.unknown())
            }
        }
    }

    /// Reads a payload as it would be sent.
    async fn receive(&self, operation: Operation, key: &Key, payload: &Payload) -> Result<Content> {
        let mut content = Content::default();
        for segment in payload.segments() {
            match segment {
                Segment::Bytes(bytes) => content.push(bytes.clone()),
                Segment::Zeros(len) => zeros(*len).for_each(|piece| content.push(piece)),
                Segment::Source(source, range) => {
                    let mut at = range.start;
                    while at < range.end {
                        let end = range.end.min(at + PIECE);
                        let read = source.read(at..end).await;
                        let bytes = read.map_err(|error| Error::new(Kind::Source, operation.name(), error.to_string()).on(key))?;
                        if bytes.len() as u64 != end - at {
                            return Err(Error::new(Kind::Source, operation.name(), "the source gave another number of bytes").on(key));
                        }
                        content.push(bytes);
                        at = end;
                    }
                }
            }
        }
        self.bytes_written.fetch_add(content.len(), Ordering::Relaxed);
        Ok(content)
    }

    fn stored(&self, object: Object, copied: bool) -> Stored {
        Stored {
            version: object.version,
            crc64: object.crc64,
            last_modified: copied.then_some(object.last_modified),
            sse: object.meta.sse,
            date: self.date(),
        }
    }
}

impl fmt::Debug for MemoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBucket").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Bucket for MemoryBucket {
    fn name(&self) -> &BucketName {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn head(&self, cx: &Ctx, key: &Key) -> Result<Head> {
        let operation = Operation::Head;
        self.request(cx, operation, key.as_str(), |state| state.found(operation, key).map(|object| object.head(self.date()))).await
    }

    async fn get(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body> {
        let operation = Operation::Get;
        let content = self.request(cx, operation, version.key.as_str(), |state| state.read(operation, version, &range)).await?;
        let spoil = self.hooks.lock().bodies.pop_front();
        let sent = match spoil {
            Some(Spoil::Cut(bytes) | Spoil::Stall(bytes)) => content.slice(&(0..bytes.min(content.len()))),
            None => content,
        };
        self.bytes_read.fetch_add(sent.len(), Ordering::Relaxed);
        let pieces: Vec<Bytes> = sent.pieces().iter().flat_map(small).collect();
        let (cx, key) = (cx.clone(), version.key.clone());
        let steps = stream::unfold(pieces.into_iter(), move |mut pieces| {
            let (cx, key) = (cx.clone(), key.clone());
            async move {
                if let Some(piece) = pieces.next() {
                    cx.progressed();
                    return Some((Ok(piece), pieces));
                }
                let error = match spoil? {
                    Spoil::Cut(_) => Error::new(Kind::Unavailable, operation.name(), "the connection was cut"),
                    Spoil::Stall(_) => {
                        let late = cx.bounded(std::future::pending::<()>()).await.expect_err("it never ends");
                        Error::new(Kind::NoProgress, operation.name(), late.to_string())
                    }
                };
                Some((Err(error.on(&key)), pieces))
            }
        });
        Ok(Body::new(range.end - range.start, steps))
    }

    async fn list(&self, cx: &Ctx, request: &ListRequest) -> Result<Page> {
        self.request(cx, Operation::List, &request.prefix, |state| Ok(state.list(request))).await
    }

    async fn acl(&self, cx: &Ctx, key: &Key) -> Result<Acl> {
        let operation = Operation::Acl;
        let found = |state: &mut State| state.found(operation, key).map(|object| object.meta.acl.clone());
        let acl = self.request(cx, operation, key.as_str(), found).await?;
        Ok(acl.unwrap_or_else(|| Acl { owner: "qcs::cam::uin/1250000000:uin/1250000000".to_owned(), grants: Vec::new() }))
    }

    async fn tags(&self, cx: &Ctx, key: &Key) -> Result<Tags> {
        let operation = Operation::Tags;
        let found = |state: &mut State| state.found(operation, key).map(|object| object.meta.tags.clone());
        Ok(self.request(cx, operation, key.as_str(), found).await?.unwrap_or_default())
    }

    async fn put(&self, cx: &Ctx, key: &Key, meta: &Meta, payload: Payload, replaces: &Replaces) -> Result<Stored> {
        let operation = Operation::Put;
        let content = self.receive(operation, key, &payload).await?;
        let put = |state: &mut State| state.put(operation, key, meta.clone(), content, replaces, self.date());
        Ok(self.stored(self.request(cx, operation, key.as_str(), put).await?, false))
    }

    async fn copy(&self, cx: &Ctx, source: &ObjectVersion, to: &Key, meta: &Meta, replaces: &Replaces) -> Result<Stored> {
        let copy = |state: &mut State| state.copy(source, to, meta.clone(), replaces, self.date());
        Ok(self.stored(self.request(cx, Operation::Copy, to.as_str(), copy).await?, true))
    }

    async fn delete(&self, cx: &Ctx, key: &Key, _expected: Option<&ObjectVersion>) -> Result<()> {
        let operation = Operation::Delete;
        self.request(cx, operation, key.as_str(), |state| state.delete(operation, key)).await
    }

    async fn delete_many(&self, cx: &Ctx, versions: &[ObjectVersion]) -> Result<Vec<(Key, Error)>> {
        let operation = Operation::DeleteMany;
        let most = self.capabilities.delete_batch;
        self.request(cx, operation, self.name.as_str(), |state| match versions {
            [] => Err(Error::new(Kind::Invalid, operation.name(), "no keys")),
            [first, ..] if versions.len() > most => {
                Err(refuse(operation, &first.key, Kind::Invalid, 400, "MalformedXML", "more than 1,000 keys"))
            }
            _ => Ok(versions.iter().filter_map(|gone| Some((gone.key.clone(), state.delete(operation, &gone.key).err()?))).collect()),
        })
        .await
    }

    async fn create_upload(&self, cx: &Ctx, key: &Key, meta: &Meta) -> Result<Upload> {
        let create = |state: &mut State| state.create_upload(key, meta.clone(), self.date());
        self.request(cx, Operation::CreateUpload, key.as_str(), create).await
    }

    async fn upload_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, payload: Payload) -> Result<Part> {
        let operation = Operation::UploadPart;
        let content = self.receive(operation, &upload.key, &payload).await?;
        let send = |state: &mut State| state.upload_part(operation, upload, number, content);
        self.request(cx, operation, upload.key.as_str(), send).await
    }

    async fn copy_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, source: &ObjectVersion, range: Range<u64>) -> Result<Part> {
        let operation = Operation::CopyPart;
        let copy = |state: &mut State| {
            let content = state.read(operation, source, &range)?;
            state.upload_part(operation, upload, number, content)
        };
        self.request(cx, operation, upload.key.as_str(), copy).await
    }

    async fn complete_upload(&self, cx: &Ctx, upload: &Upload, parts: &[Part], replaces: &Replaces) -> Result<Stored> {
        let complete = |state: &mut State| state.complete_upload(upload, parts, replaces, self.date());
        Ok(self.stored(self.request(cx, Operation::CompleteUpload, upload.key.as_str(), complete).await?, false))
    }

    async fn abort_upload(&self, cx: &Ctx, upload: &Upload) -> Result<()> {
        let abort = |state: &mut State| {
            state.abort_upload(upload);
            Ok(())
        };
        self.request(cx, Operation::AbortUpload, upload.key.as_str(), abort).await
    }

    async fn list_uploads(&self, cx: &Ctx, prefix: &str) -> Result<Vec<OpenUpload>> {
        let list = |state: &mut State| {
            let below = state.uploads().filter(|(key, ..)| key.as_str().starts_with(prefix));
            let line = |(key, id, _, at): (&Key, &_, _, SystemTime)| OpenUpload {
                key: key.clone(),
                id: Clone::clone(id),
                initiated: httpdate::fmt_http_date(at),
            };
            Ok(below.map(line).collect())
        };
        self.request(cx, Operation::ListUploads, prefix, list).await
    }

    async fn list_parts(&self, cx: &Ctx, upload: &Upload) -> Result<Vec<Part>> {
        self.request(cx, Operation::ListParts, upload.key.as_str(), |state| state.parts(upload)).await
    }
}

/// A piece as a socket would deliver it.
fn small(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    let step = usize::try_from(PIECE).expect("a small constant");
    let piece = piece.clone();
    (0..piece.len()).step_by(step).map(move |at| piece.slice(at..piece.len().min(at + step)))
}

/// A simulated account.
#[derive(Debug)]
pub struct MemoryService {
    clock: Arc<dyn Clock>,
    buckets: Mutex<BTreeMap<BucketName, Arc<MemoryBucket>>>,
}

impl MemoryService {
    /// An account without buckets.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, buckets: Mutex::default() })
    }

    /// The bucket of that name, for its hooks.
    pub fn bucket(&self, name: &BucketName) -> Option<Arc<MemoryBucket>> {
        self.buckets.lock().get(name).map(Arc::clone)
    }

    /// Adds a bucket made elsewhere.
    pub fn add(&self, bucket: Arc<MemoryBucket>) {
        self.buckets.lock().insert(bucket.name.clone(), bucket);
    }
}

#[async_trait]
impl Service for MemoryService {
    async fn buckets(&self, _cx: &Ctx) -> Result<Vec<BucketInfo>> {
        let buckets = self.buckets.lock();
        let line = |name: &BucketName| BucketInfo {
            name: name.clone(),
            region: "ap-memory".to_owned(),
            created: "2026-11-20T00:00:00Z".to_owned(),
        };
        Ok(buckets.keys().map(line).collect())
    }

    async fn open(&self, _cx: &Ctx, name: &BucketName) -> Result<Arc<dyn Bucket>> {
        match self.bucket(name) {
            Some(bucket) => Ok(bucket),
            None => Err(Error::new(Kind::NoSuchBucket, Operation::HeadBucket.name(), "there is no such bucket").at(name.as_str())),
        }
    }

    async fn create_bucket(&self, _cx: &Ctx, name: &BucketName) -> Result<()> {
        let mut buckets = self.buckets.lock();
        if buckets.contains_key(name) {
            return Err(Error::new(Kind::Exists, Operation::CreateBucket.name(), "the bucket exists").at(name.as_str()));
        }
        buckets.insert(name.clone(), MemoryBucket::with(name.clone(), Capabilities::cos(), Arc::clone(&self.clock)));
        Ok(())
    }

    async fn delete_bucket(&self, _cx: &Ctx, name: &BucketName) -> Result<()> {
        let operation = Operation::DeleteBucket.name();
        let mut buckets = self.buckets.lock();
        let Some(bucket) = buckets.get(name) else {
            return Err(Error::new(Kind::NoSuchBucket, operation, "there is no such bucket").at(name.as_str()));
        };
        if !bucket.state.lock().is_empty() {
            return Err(Error::new(Kind::NotEmpty, operation, "the bucket is not empty").at(name.as_str()));
        }
        buckets.remove(name);
        Ok(())
    }
}

/// The entity tag that a PUT of `bytes` gets, for tests that expect one.
pub fn etag_of(bytes: &[u8]) -> ETag {
    let mut content = Content::default();
    content.push(Bytes::copy_from_slice(bytes));
    content.etag()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CommitToken, Outcome};
    use crate::support::SystemClock;

    fn meta() -> Meta {
        Meta { token: Some(CommitToken::from_bytes([7; 16])), ..Meta::default() }
    }

    fn setting() -> (Arc<MemoryBucket>, Ctx) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        (MemoryBucket::new(Arc::clone(&clock)), Ctx::new(clock, Duration::from_secs(5), 1, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_leaves_its_effect_and_says_unknown() {
        let (bucket, cx) = setting();
        let key = Key::new("a");
        bucket.fail_next(Operation::Put, Kind::Unavailable, Effect::LostAfter);
        let error = bucket.put(&cx, &key, &meta(), Bytes::from_static(b"x").into(), &Replaces::Absent).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (Kind::Unavailable, Outcome::Unknown));
        assert_eq!(bucket.peek(&key).unwrap(), b"x");
        let error = bucket.put(&cx, &key, &meta(), Bytes::from_static(b"y").into(), &Replaces::Absent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!((bucket.requests(Operation::Put), bucket.bytes_written()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn held_requests_wait_and_give_up_at_the_deadline() {
        let (bucket, cx) = setting();
        bucket.put_foreign(&Key::new("a"), "x");
        let hold = bucket.hold(Operation::Head);
        assert_eq!(bucket.head(&cx, &Key::new("a")).await.unwrap_err().kind(), Kind::NoProgress);
        drop(hold);
        let cx = cx.detached(crate::support::Urgency::Demand);
        assert_eq!(bucket.head(&cx, &Key::new("a")).await.unwrap().version.size, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_ends_at_a_common_prefix_and_goes_on_behind_it() {
        let (bucket, cx) = setting();
        for key in ["d/", "d/a/1", "d/a/2", "d/b", "d/c/1", "d0"] {
            bucket.put_foreign(&Key::new(key), "x");
        }
        let mut request = ListRequest { prefix: "d/".to_owned(), delimited: true, after: None, limit: Some(2) };
        let page = bucket.list(&cx, &request).await.unwrap();
        assert_eq!((page.objects.len(), page.prefixes, page.next.clone()), (1, vec![Key::new("d/a/")], Some(Key::new("d/a/"))));
        request.after = page.next;
        let page = bucket.list(&cx, &request).await.unwrap();
        assert_eq!(page.objects.iter().map(|o| o.version.key.as_str()).collect::<Vec<_>>(), ["d/b"]);
        assert_eq!((page.prefixes, page.next), (vec![Key::new("d/c/")], None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_version_is_read_by_its_id_where_the_bucket_keeps_them() {
        let (_, cx) = setting();
        let capabilities = Capabilities { versioning: crate::store::Versioning::Enabled, ..Capabilities::cos() };
        let bucket = MemoryBucket::with(BucketName::parse("v-1").unwrap(), capabilities, Arc::clone(cx.clock()));
        let old = bucket.put_foreign(&Key::new("a"), "old");
        bucket.put_foreign(&Key::new("a"), "new");
        assert_eq!(bucket.get(&cx, &old, 0..3).await.unwrap().collect().await.unwrap(), "old");
        let unpinned = ObjectVersion { version_id: None, ..old };
        assert_eq!(bucket.get(&cx, &unpinned, 0..3).await.unwrap_err().kind(), Kind::Precondition);
    }
}
