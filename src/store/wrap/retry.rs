//! Repeats what may be repeated, and settles what nobody knows.
//!
//! Three difficulties:
//! 1. An answer may be lost after the effect. What only reads, and parts of an upload that nobody else sees, are simply repeated. A PUT, copy,
//!    complete or DELETE acts on whatever the key holds *now*, so after a lost answer HEAD is asked first ([`Retry::settle`]): our token is
//!    there: done; what was to be replaced is there still: repeat; neither: somebody else wrote last, a conflict. The window between that
//!    HEAD and the repeated request remains; COS has no compare-and-swap.
//! 2. A body that is cut goes on at the missing byte, pinned to its ETag. Its checksum spans the attempts. A whole object of up to
//!    [`VERIFIED`] is gathered and checked before any byte of it is handed up, so a wrong byte costs a repetition, not an error.
//! 3. All of it must end: at the context's deadline, which moves only for bytes and answers that are news. Between attempts one waits a random
//!    part of a time that doubles, so that a thousand callers do not come back at once.
//! 4. It must begin again as soon as it can. In an outage callers do not try one by one but together ([`Health`]): the first that is answered ends
//!    the waiting of all, and what hangs from before is given up.
//!
//! Repeated: `Throttled`, `Unavailable`, and `Corrupt` a few times; what was put right since ([`Error::is_renewed`]) at once, twice at most.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;

use super::{health::Health, hedge::Hedge};
use crate::store::{
    Acl, Body, Bucket, BucketInfo, BucketName, Capabilities, CommitToken, Error, Head, Key, Kind, ListRequest, Meta, ObjectVersion,
    OpenUpload, Operation, Outcome, Page, Part, PartNumber, Payload, Replaces, Result, Service, Stored, Tags, Upload, attempt::Attempt,
    checksum::combine,
};
use crate::support::{Clock, Counter, Ctx, Urgency};

/// The first wait is up to this, the next up to twice this, and so on up to [`LONGEST_WAIT`]: five seconds after its end no outage is felt any more,
/// not even one of a single operation, of which nobody else has news.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// With less time left no other attempt is made.
const LAST_MOMENT: Duration = Duration::from_millis(20);

/// How often in a row an answer that is not what was asked for is asked for again.
const CORRUPT: u32 = 3;

/// How often a request is signed anew.
const RENEWALS: u32 = 2;

/// Up to which size a whole object is checked before it is handed up.
const VERIFIED: u64 = 1 << 20;

/// How many keys are looked at together after a lost multi-delete.
const LOOKS: usize = 16;

/// How far the clock of a `Date` and that of a `Last-Modified` may be apart, with their seconds cut off.
const BLUR: Duration = Duration::from_secs(3);

/// Retries for a service, or for one of its buckets.
#[derive(Debug)]
pub(in crate::store) struct Retry<T: ?Sized> {
    inner: Arc<T>,
    /// What is known of the way to it.
    health: Arc<Health>,
    hedge: Option<Hedge>,
    setup: Setup,
}

/// How buckets are retried.
#[derive(Debug, Clone)]
pub(in crate::store) struct Setup {
    pub(in crate::store) clock: Arc<dyn Clock>,
    /// Counts GETs that were asked for twice, and of these the second that were first; `None`: none are.
    pub(in crate::store) hedged: Option<(Arc<Counter>, Arc<Counter>)>,
}

impl<T: ?Sized> Retry<T> {
    pub(in crate::store) fn new(inner: Arc<T>, setup: Setup) -> Self {
        let health = Health::new(Arc::clone(&setup.clock));
        let hedge = setup.hedged.clone().map(|(asked, won)| Hedge::new(Arc::clone(&health), asked, won));
        Self { inner, health, hedge, setup }
    }

    fn course<'a>(&'a self, cx: &'a Ctx, operation: Operation, target: &'a str) -> Course<'a> {
        Course::new(cx, &self.health, operation, target)
    }
}

/// One call on its way through its attempts.
struct Course<'a> {
    cx: &'a Ctx,
    health: &'a Health,
    operation: Operation,
    /// What it is about, for errors that nobody has named.
    target: &'a str,
    tries: u32,
    /// Failures so far.
    streak: u32,
    corrupt: u32,
    renewals: u32,
    last: Option<Error>,
}

impl<'a> Course<'a> {
    fn new(cx: &'a Ctx, health: &'a Health, operation: Operation, target: &'a str) -> Self {
        Self { cx, health, operation, target, tries: 0, streak: 0, corrupt: 0, renewals: 0, last: None }
    }

    /// One attempt, cut at the deadline, or when others are answered and this one hangs.
    async fn attempt<T>(&mut self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.health.admit(self.cx, self.operation).await?;
        self.tries += 1;
        let began = self.cx.clock().now();
        let attempt = self.cx.bounded(async {
            let attempt = Attempt::new(self.cx, self.tries);
            tokio::select! {
                biased;
                done = attempt.run(call) => done,
                () = self.health.overtaken(&attempt) => Err(self.lost(Kind::Unavailable, "it hung while the store answered others".to_owned())),
            }
        });
        let result = match attempt.await {
            Ok(done) => done,
            Err(late) => Err(self.lost(Kind::NoProgress, late.to_string())),
        };
        self.health.ended(self.operation, began, result.as_ref().err());
        // Of a GET only bytes count: one that is cut behind every head would else be tried for ever.
        if result.is_ok() && self.operation != Operation::Get {
            self.cx.progressed();
        }
        result
    }

    /// The error of an attempt that was left to itself.
    fn lost(&self, kind: Kind, message: String) -> Error {
        let error = Error::new(kind, self.operation.name(), message);
        if self.operation.repeats_freely() { error } else { error.unknown() }
    }

    /// After a failure: waits until it is time for another attempt.
    ///
    /// # Errors
    /// The failure, if it is not one to repeat or time is up.
    async fn pause(&mut self, error: Error) -> Result<()> {
        if error.is_renewed() && self.renewals < RENEWALS {
            self.renewals += 1;
            self.last = Some(error);
            return Ok(());
        }
        self.corrupt += u32::from(error.kind() == Kind::Corrupt);
        let repeat = match error.kind() {
            Kind::Throttled => true,
            // What was asked for ahead of need is not asked for in an outage.
            Kind::Unavailable => self.cx.urgency != Urgency::Prefetch || !self.health.is_stopped(self.operation),
            Kind::Corrupt => self.corrupt <= CORRUPT,
            _ => false,
        };
        let left = self.cx.remaining();
        if !repeat || left < LAST_MOMENT {
            return Err(self.give_up(error));
        }
        let most = FIRST_WAIT.saturating_mul(1 << self.streak.min(16)).min(LONGEST_WAIT);
        self.streak += 1;
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        // Whoever has waited so long shall not have missed the end of it by the length of a pause.
        let wait = Duration::from_nanos(self.cx.clock().below(nanos)).min(left / 4 * 3);
        tracing::debug!(%error, tries = self.tries, ?wait, "trying again");
        self.last = Some(error);
        self.health.pause(wait).await;
        Ok(())
    }

    /// What the caller is told: the failure that said something, rather than that time is up.
    fn give_up(&mut self, error: Error) -> Error {
        let error = match self.last.take() {
            Some(last) if error.kind() == Kind::NoProgress => {
                if error.outcome() == Outcome::Unknown {
                    last.unknown()
                } else {
                    last
                }
            }
            _ => error,
        };
        error.or_at(self.target).after(self.tries)
    }
}

/// What a write leaves, if it happened.
struct Made<'a> {
    operation: Operation,
    key: &'a Key,
    token: Option<&'a CommitToken>,
    size: u64,
}

/// What HEAD says after a lost answer.
enum Settled {
    /// Our token is there, with the right bytes.
    Ours(Box<Head>),
    /// Our token is there, with wrong bytes.
    Spoiled(ObjectVersion),
    /// What was there before is there.
    Before,
    /// Something else is there, or nothing where something was.
    Foreign,
}

impl Retry<dyn Bucket> {
    /// Repeats a call that does no harm twice.
    async fn freely<T, F: Future<Output = Result<T>>>(
        &self,
        cx: &Ctx,
        operation: Operation,
        target: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T> {
        let mut course = self.course(cx, operation, target);
        loop {
            match course.attempt(call()).await {
                Ok(done) => return Ok(done),
                Err(error) => course.pause(error).await?,
            }
        }
    }

    /// Makes an object, once.
    async fn write<F: Future<Output = Result<Stored>>>(
        &self,
        cx: &Ctx,
        made: Made<'_>,
        crc64: impl Fn() -> Option<u64>,
        replaces: &Replaces,
        mut call: impl FnMut(Replaces) -> F,
    ) -> Result<Stored> {
        let mut course = self.course(cx, made.operation, made.key.as_str());
        let mut replaces = replaces.clone();
        let mut lost = false;
        loop {
            let error = match course.attempt(call(replaces.clone())).await {
                Ok(stored) => return Ok(stored),
                Err(error) => error,
            };
            let unknown = error.outcome() == Outcome::Unknown;
            lost |= unknown;
            let gone = error.kind() == Kind::NoSuchUpload;
            let refused = error.kind() == Kind::Exists;
            // At the deadline there is no time left to settle anything.
            if error.kind() == Kind::NoProgress || !(unknown || gone || refused) {
                course.pause(error).await?;
                continue;
            }
            let settled = self.settle(cx, &made, crc64(), &replaces).await;
            match settled.map_err(|late| course.give_up(late).unknown())? {
                Settled::Ours(head) => {
                    self.arrives(made.operation, cx);
                    return Ok(stored_by(*head));
                }
                // An upload that is gone and left nothing: there is nothing to repeat.
                Settled::Before if gone => return Err(course.give_up(if lost { error.unknown() } else { error })),
                Settled::Before => {
                    // Refused for an object that is not there: two writers met.
                    let again = if refused { Error::new(Kind::Unavailable, made.operation.name(), error.to_string()) } else { error };
                    course.pause(again.on(made.key)).await?;
                }
                Settled::Spoiled(version) => {
                    let wrong = Error::new(Kind::Corrupt, made.operation.name(), "the object has other bytes than were sent").on(made.key);
                    if made.operation == Operation::CompleteUpload {
                        return Err(course.give_up(wrong));
                    }
                    replaces = Replaces::Version(version);
                    course.pause(wrong).await?;
                }
                Settled::Foreign if gone && !lost => return Err(course.give_up(error)),
                Settled::Foreign if made.token.is_none() => return Err(course.give_up(error)),
                // A copy that may have been made and overwritten is no plain refusal, which a rename would answer by overwriting in turn.
                Settled::Foreign if replaces == Replaces::Absent && !(lost && made.operation == Operation::Copy) => {
                    let taken = Error::new(Kind::Exists, made.operation.name(), "the object is there, and it is not ours").on(made.key);
                    return Err(course.give_up(if refused { error } else { taken }));
                }
                Settled::Foreign => {
                    let other =
                        Error::new(Kind::Conflict, made.operation.name(), "somebody else has written or deleted the object meanwhile");
                    return Err(course.give_up(other.on(made.key)));
                }
            }
        }
    }

    /// A request whose answer was lost has done its work: that is an answer, too.
    fn arrives(&self, operation: Operation, cx: &Ctx) {
        self.health.ended(operation, cx.clock().now(), None);
    }

    /// Finds out what became of a write.
    async fn settle(&self, cx: &Ctx, made: &Made<'_>, crc64: Option<u64>, replaces: &Replaces) -> Result<Settled> {
        let head = self.look(cx, made.key).await?;
        if let Some(head) = &head
            && made.token.is_some()
            && head.meta.token.as_ref() == made.token
        {
            let right = head.version.size == made.size && head.crc64.zip(crc64).is_none_or(|(theirs, ours)| theirs == ours);
            return Ok(if right { Settled::Ours(Box::new(head.clone())) } else { Settled::Spoiled(head.version.clone()) });
        }
        Ok(match (replaces, head) {
            (Replaces::Anything, _) | (Replaces::Absent, None) => Settled::Before,
            (Replaces::Version(old), Some(head)) if old.same_bytes(&head.version) => Settled::Before,
            _ => Settled::Foreign,
        })
    }

    /// What is under a key; `None` only where the store says so.
    async fn look(&self, cx: &Ctx, key: &Key) -> Result<Option<Head>> {
        match self.head(cx, key).await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A GET, repeated until its head is here.
    async fn fetch(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body> {
        let len = range.end.saturating_sub(range.start);
        let mut course = self.course(cx, Operation::Get, version.key.as_str());
        loop {
            let mut body = match course.attempt(self.inner.get(cx, version, range.clone())).await {
                Ok(body) => body,
                Err(error) => {
                    course.pause(error).await?;
                    continue;
                }
            };
            let check = body.take_check();
            let body = Body::new(len, self.resumed(cx, version, range.clone(), body));
            let Some(crc64) = check else { return Ok(body) };
            let mut body = body.checked(crc64);
            if len > VERIFIED {
                return Ok(body);
            }
            let mut pieces = Vec::new();
            let broken = loop {
                match body.next().await {
                    Some(Ok(bytes)) => pieces.push(Ok(bytes)),
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            };
            match broken {
                None => return Ok(Body::new(len, stream::iter(pieces))),
                Some(error) => course.pause(error.on(&version.key)).await?,
            }
        }
    }

    /// The bytes of `range`, from `body` and, when that breaks off, from further requests.
    fn resumed(
        &self,
        cx: &Ctx,
        version: &ObjectVersion,
        range: Range<u64>,
        body: Body,
    ) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let whole = Resumed {
            inner: Arc::clone(&self.inner),
            health: Arc::clone(&self.health),
            cx: cx.clone(),
            version: version.clone(),
            left: range,
            body: Some(body),
            given: cx.clock().now(),
        };
        stream::unfold(Some(whole), |state| async {
            let mut state = state?;
            match state.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// After a lost multi-delete: deletes what is still the version that was to go, one by one.
    async fn finish_deletes(&self, cx: &Ctx, versions: &[ObjectVersion], start: Instant) -> Result<Vec<(Key, Error)>> {
        let one = |gone: ObjectVersion| async move {
            let Some(head) = self.look(cx, &gone.key).await? else { return Ok(None) };
            if is_another(&head, &gone, cx.clock().now().duration_since(start)) {
                return Ok(None);
            }
            match self.delete(cx, &gone.key, Some(&gone)).await {
                Ok(()) => Ok(None),
                Err(error) => Ok(Some((gone.key, error))),
            }
        };
        let mut looks = stream::iter(versions.iter().cloned().map(one)).buffer_unordered(LOOKS);
        let mut refused = Vec::new();
        while let Some(result) = looks.next().await {
            refused.extend(result?);
        }
        Ok(refused)
    }
}

/// Whether what is there is not `gone`, which was to be deleted `ago`: other bytes, or the same ones written since then, as far as the store's clock tells.
fn is_another(head: &Head, gone: &ObjectVersion, ago: Duration) -> bool {
    // Counted to now, not to when the answer was lost: it may have taken a while until the store could be asked.
    let since = head.date.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    !head.version.same_bytes(gone) || head.last_modified > since + BLUR
}

fn stored_by(head: Head) -> Stored {
    Stored { version: head.version, crc64: head.crc64, last_modified: Some(head.last_modified), sse: head.meta.sse, date: head.date }
}

/// A body over several requests.
struct Resumed {
    inner: Arc<dyn Bucket>,
    health: Arc<Health>,
    cx: Ctx,
    version: ObjectVersion,
    /// What has not come yet.
    left: Range<u64>,
    body: Option<Body>,
    /// When the reader was last given something.
    given: Instant,
}

impl Resumed {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        // What the reader did since it had the last bytes is not waiting.
        self.cx.excuse(self.cx.clock().now().duration_since(self.given));
        let mut course = Course::new(&self.cx, &self.health, Operation::Get, self.version.key.as_str());
        loop {
            let error = match &mut self.body {
                Some(body) => match self.cx.bounded(body.next()).await {
                    Ok(Some(Ok(bytes))) => {
                        self.left.start += bytes.len() as u64;
                        self.given = self.cx.clock().now();
                        return Ok(Some(bytes));
                    }
                    Ok(Some(Err(error))) => error,
                    Ok(None) => Error::new(Kind::Corrupt, Operation::Get.name(), "the answer ends early"),
                    Err(late) => Error::new(Kind::NoProgress, Operation::Get.name(), late.to_string()),
                },
                None => match course.attempt(self.inner.get(&self.cx, &self.version, self.left.clone())).await {
                    Ok(mut body) => {
                        // Whoever reads the whole checks the whole.
                        let _of_the_rest = body.take_check();
                        self.body = Some(body);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.body = None;
            course.pause(error.on(&self.version.key)).await?;
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Bucket for Retry<dyn Bucket> {
    fn name(&self) -> &BucketName {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, cx: &Ctx, key: &Key) -> Result<Head> {
        self.freely(cx, Operation::Head, key.as_str(), || self.inner.head(cx, key)).await
    }

    async fn get(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body> {
        let len = range.end.saturating_sub(range.start);
        match &self.hedge {
            Some(hedge) => hedge.first(cx, len, || self.fetch(cx, version, range.clone())).await,
            None => self.fetch(cx, version, range).await,
        }
    }

    async fn list(&self, cx: &Ctx, request: &ListRequest) -> Result<Page> {
        self.freely(cx, Operation::List, &request.prefix, || self.inner.list(cx, request)).await
    }

    async fn acl(&self, cx: &Ctx, key: &Key) -> Result<Acl> {
        self.freely(cx, Operation::Acl, key.as_str(), || self.inner.acl(cx, key)).await
    }

    async fn tags(&self, cx: &Ctx, key: &Key) -> Result<Tags> {
        self.freely(cx, Operation::Tags, key.as_str(), || self.inner.tags(cx, key)).await
    }

    async fn put(&self, cx: &Ctx, key: &Key, meta: &Meta, payload: Payload, replaces: &Replaces) -> Result<Stored> {
        let made = Made { operation: Operation::Put, key, token: meta.token.as_ref(), size: payload.len() };
        let put = |replaces: Replaces| {
            let payload = payload.clone();
            async move { self.inner.put(cx, key, meta, payload, &replaces).await }
        };
        self.write(cx, made, || payload.crc64(), replaces, put).await
    }

    async fn copy(&self, cx: &Ctx, source: &ObjectVersion, to: &Key, meta: &Meta, replaces: &Replaces) -> Result<Stored> {
        let made = Made { operation: Operation::Copy, key: to, token: meta.token.as_ref(), size: source.size };
        let copy = |replaces: Replaces| async move { self.inner.copy(cx, source, to, meta, &replaces).await };
        self.write(cx, made, || None, replaces, copy).await
    }

    async fn delete(&self, cx: &Ctx, key: &Key, expected: Option<&ObjectVersion>) -> Result<()> {
        let start = cx.clock().now();
        let mut course = self.course(cx, Operation::Delete, key.as_str());
        loop {
            let error = match course.attempt(self.inner.delete(cx, key, expected)).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.outcome() == Outcome::Unknown && error.kind() != Kind::NoProgress {
                let there = self.look(cx, key).await.map_err(|late| course.give_up(late).unknown())?;
                match (there, expected) {
                    // Gone, or something newer stands there, which is not what was to go.
                    (None, _) => {
                        self.arrives(Operation::Delete, cx);
                        return Ok(());
                    }
                    (Some(head), Some(gone)) if is_another(&head, gone, cx.clock().now().duration_since(start)) => return Ok(()),
                    _ => {}
                }
            }
            course.pause(error).await?;
        }
    }

    async fn delete_many(&self, cx: &Ctx, versions: &[ObjectVersion]) -> Result<Vec<(Key, Error)>> {
        let start = cx.clock().now();
        let mut course = self.course(cx, Operation::DeleteMany, self.name().as_str());
        loop {
            match course.attempt(self.inner.delete_many(cx, versions)).await {
                Ok(refused) => return Ok(refused),
                Err(error) if error.outcome() == Outcome::Unknown && error.kind() != Kind::NoProgress => {
                    return self.finish_deletes(cx, versions, start).await.map_err(Error::unknown);
                }
                Err(error) => course.pause(error).await?,
            }
        }
    }

    async fn create_upload(&self, cx: &Ctx, key: &Key, meta: &Meta) -> Result<Upload> {
        self.freely(cx, Operation::CreateUpload, key.as_str(), || self.inner.create_upload(cx, key, meta)).await
    }

    async fn upload_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, payload: Payload) -> Result<Part> {
        self.freely(cx, Operation::UploadPart, upload.key.as_str(), || self.inner.upload_part(cx, upload, number, payload.clone())).await
    }

    async fn copy_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, source: &ObjectVersion, range: Range<u64>) -> Result<Part> {
        self.freely(cx, Operation::CopyPart, upload.key.as_str(), || self.inner.copy_part(cx, upload, number, source, range.clone())).await
    }

    async fn complete_upload(&self, cx: &Ctx, upload: &Upload, parts: &[Part], replaces: &Replaces) -> Result<Stored> {
        let (size, crc64) = parts.iter().fold((0, Some(0)), |(size, crc64), part| {
            (size + part.size, crc64.zip(part.crc64).map(|(so_far, next)| combine(so_far, next, part.size)))
        });
        let made = Made { operation: Operation::CompleteUpload, key: &upload.key, token: upload.token.as_ref(), size };
        let complete = |replaces: Replaces| async move { self.inner.complete_upload(cx, upload, parts, &replaces).await };
        let stored = self.write(cx, made, || crc64, replaces, complete).await?;
        if stored.crc64.is_some() && crc64.is_some() {
            return Ok(stored);
        }
        // A status sent before the work was done could not carry the checksum; the object can. And where a part's checksum is not known, as a
        // copied one's, the size is all there is to check; the answer does not tell it.
        match self.look(cx, &upload.key).await {
            Ok(Some(head)) if head.version.etag == stored.version.etag => {
                if head.version.size != size || head.crc64.zip(crc64).is_some_and(|(theirs, ours)| theirs != ours) {
                    let wrong = "the object has not the size or the checksum of its parts";
                    return Err(Error::new(Kind::Corrupt, Operation::CompleteUpload.name(), wrong).on(&upload.key).unknown());
                }
                Ok(stored_by(head))
            }
            // Done is done; whoever wrote since, or why it cannot be looked at, is another matter.
            _ => Ok(stored),
        }
    }

    async fn abort_upload(&self, cx: &Ctx, upload: &Upload) -> Result<()> {
        self.freely(cx, Operation::AbortUpload, upload.key.as_str(), || self.inner.abort_upload(cx, upload)).await
    }

    async fn list_uploads(&self, cx: &Ctx, prefix: &str) -> Result<Vec<OpenUpload>> {
        self.freely(cx, Operation::ListUploads, prefix, || self.inner.list_uploads(cx, prefix)).await
    }

    async fn list_parts(&self, cx: &Ctx, upload: &Upload) -> Result<Vec<Part>> {
        self.freely(cx, Operation::ListParts, upload.key.as_str(), || self.inner.list_parts(cx, upload)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Service for Retry<dyn Service> {
    async fn buckets(&self, cx: &Ctx) -> Result<Vec<BucketInfo>> {
        let mut course = self.course(cx, Operation::ListBuckets, "the account");
        loop {
            match course.attempt(self.inner.buckets(cx)).await {
                Ok(buckets) => return Ok(buckets),
                Err(error) => course.pause(error).await?,
            }
        }
    }

    async fn open(&self, cx: &Ctx, name: &BucketName) -> Result<Arc<dyn Bucket>> {
        let mut course = self.course(cx, Operation::HeadBucket, name.as_str());
        loop {
            match course.attempt(self.inner.open(cx, name)).await {
                Ok(bucket) => return Ok(Arc::new(Retry::<dyn Bucket>::new(bucket, self.setup.clone()))),
                Err(error) => course.pause(error).await?,
            }
        }
    }

    async fn create_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
        let mut course = self.course(cx, Operation::CreateBucket, name.as_str());
        let mut lost = false;
        loop {
            match course.attempt(self.inner.create_bucket(cx, name)).await {
                Ok(()) => return Ok(()),
                // Our own earlier attempt made it.
                Err(error) if lost && error.code() == Some("BucketAlreadyOwnedByYou") => return Ok(()),
                Err(error) => {
                    lost |= error.outcome() == Outcome::Unknown;
                    course.pause(error).await?;
                }
            }
        }
    }

    async fn delete_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
        let mut course = self.course(cx, Operation::DeleteBucket, name.as_str());
        let mut lost = false;
        loop {
            match course.attempt(self.inner.delete_bucket(cx, name)).await {
                Ok(()) => return Ok(()),
                Err(error) if lost && error.kind() == Kind::NoSuchBucket => return Ok(()),
                Err(error) => {
                    lost |= error.outcome() == Outcome::Unknown;
                    course.pause(error).await?;
                }
            }
        }
    }
}
