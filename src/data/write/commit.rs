//! Makes what is dirty the object.
//!
//! The difficulties
//! 1. *One at a time, shared.* A call waits for its turn; what it wanted sent may then be clean, or a commit that began after it arrived may have
//!    failed, which is its answer, too. A waiting call's deadline moves as the running commit's does.
//! 2. *A commit outlives its caller.* It runs as a task: a caller that is dropped changes nothing.
//! 3. *Somebody else's writes.* COS has no compare-and-swap. HEAD immediately before the last request is the strongest there is; what carries a
//!    token of ours is no stranger's.
//! 4. *Lost answers.* If the last request may have happened, the next commit begins by asking for its token and, if it is there, takes it as done.
//! 5. *Failure loses nothing.* The map of extents is only touched after success; what was in memory is spilled at once.
//! 6. *Ranges of other objects* are copied from the version that was referred to. If that has gone meanwhile, what this file refers to may have moved along
//!    (`lent.rs`): then the commit begins anew.
//! 7. *Readers during the switch.* The object is replaced a moment before the base is. A reader that is told 412 in between waits for the commit
//!    and looks again (`file.rs`).

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot};

use super::{
    Content, Piece, StagedFile, State, Where, ZEROS,
    extents::Snapshot,
    plan::{self, BASE, How, Plan, Planned, Span},
    upload::{self, Assembly, Attempted, OpenUpload, Refused},
    zeros,
};
use crate::data::{Committed, Defect, Error, Result, Target, cache::Tag, read::Origin};

use crate::store::{self, Kind, Meta, ObjectVersion, Outcome, Part, PartNumber, Replaces, Stored};

use crate::support::{Ctx, Urgency};

/// Holes up to this length enter the cache with the bytes around them.
const SMALL_HOLE: u64 = 64 << 10;
/// The number of the object of zeros among those that are copied from, and the first of the others.
const ZEROS_OBJECT: usize = BASE + 1;
const OTHERS: usize = ZEROS_OBJECT + 1;
/// Part copies of one object at once: they cost this host nothing.
const COPIES_AT_ONCE: usize = 32;
/// How often a commit begins anew because what it copied from has moved.
const TRIES: usize = 4;

/// A last request whose answer was lost.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) target: Target,
    pub(super) meta: Meta,
    /// What was written up to this generation is in it.
    pub(super) generation: u64,
    pub(super) size: u64,
    /// What it has from the base before.
    pub(super) clean: Vec<Range<u64>>,
}

/// What a commit is about to have made; kept until its outcome is known.
pub(super) struct Attempt {
    pub(super) target: Target,
    pub(super) meta: Meta,
    pub(super) snapshot: Snapshot<Arc<StagedFile>>,
    pub(super) origin: Option<Arc<Origin>>,
}

/// A commit that runs.
struct Running(Arc<Content>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.lock().running = None;
    }
}

impl Content {
    /// See [`crate::data::File::commit`].
    pub(crate) async fn commit(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Option<Committed>> {
        let arrived = self.state.lock().begun;
        let turn = self.turn(cx).await?;
        {
            let state = self.state.lock();
            if !state.is_dirty() {
                return Ok(None);
            }
            if let Some((_, error)) = state.failure.as_ref().filter(|(number, _)| *number > arrived) {
                return Err(error.again());
            }
        }
        let (tell, told) = oneshot::channel();
        let (content, cx) = (Arc::clone(self), cx.with_urgency(Urgency::WriteOut));
        self.room.tasks.spawn(async move {
            let result = content.run_commit(&cx, target).await;
            // Whoever asked may be gone; then the next one is told.
            if let Err(Ok(made)) = tell.send(result) {
                content.state.lock().untold = made;
            }
            drop(turn);
        });
        told.await.unwrap_or_else(|_| Err(self.given_up()))
    }

    /// One commit, by whoever has the turn.
    pub(super) async fn run_commit(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Option<Committed>> {
        let _working = self.room.relief.begin();
        let (number, stage, target) = {
            let mut state = self.state.lock();
            state.begun += 1;
            state.running = Some(cx.clone());
            (state.begun, state.stage.clone(), state.informed(target))
        };
        let running = Running(Arc::clone(self));
        let result = self.make(cx, target).await;
        drop(running);
        {
            let mut state = self.state.lock();
            match &result {
                Ok(_) => {
                    state.failure = None;
                    state.untold = None;
                }
                Err(error) => {
                    state.failure = Some((number, error.again()));
                    state.stage = state.stage.take().or(stage);
                }
            }
        }
        if result.is_err()
            && self.room.staging.is_some()
            && let Err(error) = self.spill(u64::MAX).await
        {
            tracing::warn!(%error, "what could not be committed stays in memory");
        }
        result
    }

    async fn make(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Option<Committed>> {
        self.room.commits.add(1);
        self.settle(cx).await?;
        let (target, dirty, untold) = {
            let state = self.state.lock();
            (state.informed(target), state.extents.is_dirty(), state.untold.clone())
        };
        if !dirty {
            let Some(made) = untold else { return Ok(None) };
            return self.bring_up_to_date(cx, &target, made).await.map(Some);
        }
        let mut made = self.send(cx, &target).await;
        if matches!(made, Err(Error::Exists))
            && let Some(ours) = self.own_late(cx, &target.key).await?
        {
            made = self.send(cx, &Target { replaces: Replaces::Version(ours), ..target.clone() }).await;
        }
        let replaces = target.replaces;
        if self.state.lock().orphan {
            return Ok(None);
        }
        // The base was replaced under us: for a commit that is a conflict, unless it was told not to care.
        made.map_err(|error| if matches!(error, Error::Stale) && replaces != Replaces::Anything { Error::Conflict } else { error })
    }

    async fn send(self: &Arc<Self>, cx: &Ctx, target: &Target) -> Result<Option<Committed>> {
        match self.finish_stream(cx, target).await {
            Ok(None) => self.gather(cx, target.clone()).await.map(Some),
            made => made,
        }
    }

    /// What stands in the way of a new object, if an attempt of ours made it: one that was given up and landed late, or was found damaged.
    async fn own_late(&self, cx: &Ctx, key: &store::Key) -> Result<Option<ObjectVersion>> {
        match self.bucket.head(cx, key).await {
            Ok(head) if self.is_ours(&head) => Ok(Some(head.version)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn is_ours(&self, head: &store::Head) -> bool {
        head.meta.token.as_ref().is_some_and(|token| self.state.lock().ours.contains(token))
    }

    /// Sends a file that was not streamed.
    async fn gather(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Committed> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            match self.try_gather(cx, target.clone()).await {
                Err((Error::SourceGone, tags)) if tries > 0 && self.refers_elsewhere(cx, &tags).await? => self.room.forget_zeros().await,
                made => return made.map_err(|(error, _)| error),
            }
        }
    }

    /// One try; with its error the versions it would have copied from.
    async fn try_gather(self: &Arc<Self>, cx: &Ctx, target: Target) -> std::result::Result<Committed, (Error, Vec<Tag>)> {
        let (mut snapshot, origin) = self.snapshot();
        // Seeded defect: the differential tester must find that the last extent is not sent.
        if self.room.has_defect(Defect::LastExtentDroppedAtFlush) {
            snapshot
                .pieces
                .iter_mut()
                .rev()
                .filter(|piece| matches!(piece.place, Where::Memory(_)))
                .take(1)
                .for_each(|p| p.place = Where::Hole);
        }
        let meta = self.room.marked(&target.carried(true));
        let zeros = self.room.zeros_for(cx, &self.bucket, &snapshot.pieces).await;
        let (spans, sources) = spans(&snapshot.pieces, origin.as_ref(), zeros.as_ref());
        let plan = plan::plan(&spans, self.limits());
        let attempt = Attempt { target, meta, snapshot, origin };
        let made = match (self.whole(&attempt.snapshot), plan) {
            (Some(source), _) => self.copy(cx, &attempt, &source).await,
            (None, Some(Plan::Put)) => self.put(cx, &attempt).await,
            (None, Some(Plan::Upload(parts))) => self.upload(cx, &attempt, &sources, &parts).await,
            (None, None) => Err(Error::TooLarge.into()),
        };
        match made {
            Ok(stored) => Ok(self.succeeded(attempt, stored)),
            Err(refused) => {
                let tags = sources.iter().skip(ZEROS_OBJECT).flatten().map(|origin| origin.tag).collect();
                Err((self.failed(&attempt, refused), tags))
            }
        }
    }

    /// The object that the file is to be a copy of, if it is all of it and one request copies it.
    fn whole(&self, snapshot: &Snapshot<Arc<StagedFile>>) -> Option<Arc<Origin>> {
        let [Piece { place: Where::Elsewhere(origin, 0), .. }] = &snapshot.pieces[..] else { return None };
        let size = origin.version.size;
        (size == snapshot.size && size <= self.bucket.capabilities().largest_copy).then(|| Arc::clone(origin))
    }

    async fn copy(&self, cx: &Ctx, attempt: &Attempt, source: &Arc<Origin>) -> Attempted {
        let Attempt { target, meta, snapshot, .. } = attempt;
        self.check_unchanged(cx, target, &snapshot.pieces).await?;
        let stored = self.bucket.copy(cx, &source.version, &target.key, meta, &target.replaces).await.map_err(|error| {
            let outcome = error.outcome();
            Refused { error: upload::copy_failed(error, false), outcome }
        })?;
        upload::check_size(&stored, snapshot.size)?;
        Ok(stored)
    }

    async fn put(&self, cx: &Ctx, attempt: &Attempt) -> Attempted {
        let Attempt { target, meta, snapshot, origin } = attempt;
        let assembly = Assembly::new(&self.room, cx, origin.as_ref(), &snapshot.pieces, &(0..snapshot.size))?;
        self.check_unchanged(cx, target, &snapshot.pieces).await?;
        assembly.put(&self.room, cx, &self.bucket, &target.key, meta, &target.replaces).await
    }

    async fn upload(&self, cx: &Ctx, attempt: &Attempt, sources: &[Option<Arc<Origin>>], planned: &[Planned]) -> Attempted {
        let Attempt { target, meta, snapshot, origin } = attempt;
        let upload = OpenUpload::open(&self.room, cx, &self.bucket, &target.key, meta.clone()).await?;
        let senders = Semaphore::new(self.room.parts_at_once());
        let parts = stream::iter(planned.iter().cloned().zip(1..)).map(|(part, number)| {
            let (upload, senders) = (&upload, &senders);
            async move {
                if let How::Copy(source, _) = part.how {
                    let source = sources.get(source).and_then(Option::as_ref);
                    return upload.make(cx, PartNumber(number), &part, source, Err(Error::Stale)).await;
                }
                // It is never closed.
                let _turn = senders.acquire().await;
                let assembly = Assembly::new(&self.room, cx, origin.as_ref(), &snapshot.pieces, &part.range);
                upload.make(cx, PartNumber(number), &part, None, assembly).await
            }
        });
        let parts = parts.buffered(COPIES_AT_ONCE).try_collect::<Vec<Part>>().await?;
        self.check_unchanged(cx, target, &snapshot.pieces).await?;
        upload.complete(cx, &parts, &target.replaces).await
    }

    /// The file as it is now. Later spills go to another staged file: the commit reads this one.
    pub(super) fn snapshot(&self) -> (Snapshot<Arc<StagedFile>>, Option<Arc<Origin>>) {
        let mut state = self.state.lock();
        let snapshot = state.extents.snapshot();
        state.stage = None;
        (snapshot, state.origin.clone())
    }

    /// Looks, immediately before the last request, whether the key still holds what is to be replaced (difficulty 3). Before that, what other
    /// files refer to of it is secured, unless the new object, which is made of `pieces`, has it in the same place.
    pub(super) async fn check_unchanged(&self, cx: &Ctx, target: &Target, pieces: &[Piece<Arc<StagedFile>>]) -> Result<()> {
        let origin = {
            let state = self.state.lock();
            if state.orphan {
                return Err(Error::Stale);
            }
            state.origin.clone()
        };
        if let Some(origin) = &origin {
            self.room.secure_lent(cx, origin, &base_ranges(pieces)).await?;
        }
        let expected = match &target.replaces {
            Replaces::Version(expected) => Some(expected),
            // The write itself cannot be made to fail here.
            Replaces::Absent if !self.bucket.capabilities().forbid_overwrite => None,
            Replaces::Absent | Replaces::Anything => return Ok(()),
        };
        match (self.bucket.head(cx, &target.key).await, expected) {
            (Ok(head), Some(expected)) if head.version.etag == expected.etag => Ok(()),
            (Ok(head), _) if self.is_ours(&head) => Ok(()),
            (Ok(_), None) => Err(Error::Exists),
            (Ok(_), Some(_)) => Err(Error::Conflict),
            (Err(error), None) if error.kind() == Kind::NotFound => Ok(()),
            (Err(error), Some(_)) if error.kind() == Kind::NotFound => Err(Error::Conflict),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Finds out what became of a last request whose answer was lost (difficulty 4).
    async fn settle(&self, cx: &Ctx) -> Result<()> {
        let Some(unsettled) = self.state.lock().unsettled.take() else { return Ok(()) };
        let head = match self.bucket.head(cx, &unsettled.target.key).await {
            Ok(head) => head,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => {
                self.state.lock().unsettled = Some(unsettled);
                return Err(error.into());
            }
        };
        if head.meta.token != unsettled.meta.token || head.version.size != unsettled.size {
            return Ok(());
        }
        let stored = Stored {
            version: head.version,
            crc64: head.crc64,
            last_modified: Some(head.last_modified),
            sse: head.meta.sse,
            date: head.date,
        };
        let Unsettled { meta, generation, size, clean, .. } = unsettled;
        self.state.lock().settle_stream(meta.token.as_ref());
        self.switch(&stored.version, generation, size, &clean, &[]);
        self.state.lock().untold = Some(Committed { stored, meta, last_modified: None });
        Ok(())
    }

    /// Remembers what a failed attempt may have left.
    pub(super) fn failed(&self, attempt: &Attempt, Refused { error, outcome }: Refused) -> Error {
        let mut state = self.state.lock();
        state.ours.extend(attempt.meta.token.clone());
        if outcome == Outcome::Unknown {
            let Attempt { target, meta, snapshot, .. } = attempt;
            let clean = base_ranges(&snapshot.pieces);
            let (generation, size) = (snapshot.generation, snapshot.size);
            state.unsettled = Some(Unsettled { target: target.clone(), meta: meta.clone(), generation, size, clean });
        }
        error
    }

    /// The attempt is the object now.
    pub(super) fn succeeded(&self, attempt: Attempt, stored: Stored) -> Committed {
        let Attempt { meta, snapshot, .. } = attempt;
        let clean = base_ranges(&snapshot.pieces);
        self.switch(&stored.version, snapshot.generation, snapshot.size, &clean, &snapshot.pieces);
        Committed { stored, meta, last_modified: None }
    }

    /// Makes `version` the base and gives the cache what it has of it: clean ranges of the old base, and what was written.
    fn switch(&self, version: &ObjectVersion, generation: u64, size: u64, clean: &[Range<u64>], written: &[Piece<Arc<StagedFile>>]) {
        let origin = Origin::new(Arc::clone(&self.bucket), version.clone());
        let tag = origin.tag;
        // First those who refer to the old base: who is told that it is gone looks which one this file has.
        let old = self.state.lock().origin.clone();
        if let Some(old) = &old {
            self.room.carry_lent(old.tag, &origin, clean);
        }
        {
            let mut state = self.state.lock();
            state.extents.committed(generation, size);
            state.ours.clear();
            state.origin = Some(origin);
        }
        self.give_back();
        let blocks = &self.room.blocks;
        if let Some(old) = old {
            blocks.memory.carry(old.tag, tag, size, clean);
        }
        for (at, bytes) in written_runs(written) {
            blocks.keep(tag, size, at, &bytes);
        }
    }

    /// Waits for the commit that runs, and finds out what became of the last one (difficulty 6).
    pub(crate) async fn catch_up(&self, cx: &Ctx) -> Result<()> {
        let _turn = self.turn(cx).await?;
        self.settle(cx).await
    }

    /// Waits until no other commit runs (difficulty 1).
    pub(super) async fn turn(&self, cx: &Ctx) -> Result<OwnedMutexGuard<()>> {
        let mut turn = std::pin::pin!(Arc::clone(&self.commits).lock_owned());
        loop {
            match cx.bounded(&mut turn).await {
                Ok(turn) => return Ok(turn),
                Err(late) => {
                    let moves = self.state.lock().running.as_ref().is_some_and(|running| cx.follow(running));
                    if !moves {
                        return Err(late.into());
                    }
                }
            }
        }
    }

    fn given_up(&self) -> Error {
        Error::Store(store::Error::new(Kind::Unavailable, "commit", "the mount is going down"))
    }
}

impl State {
    /// `target`, replacing what the base is where the caller does not know that yet.
    fn informed(&self, target: Target) -> Target {
        let replaces = self.untold.as_ref().map(|made| Replaces::Version(made.stored.version.clone()));
        Target { replaces: replaces.unwrap_or(target.replaces), ..target }
    }
}

/// What `pieces` are to the planner, and the objects that its plan will name: the base, the object of zeros, others.
fn spans(
    pieces: &[Piece<Arc<StagedFile>>],
    base: Option<&Arc<Origin>>,
    zeros: Option<&Arc<Origin>>,
) -> (Vec<(Range<u64>, Span)>, Vec<Option<Arc<Origin>>>) {
    let mut sources: Vec<Option<Arc<Origin>>> = vec![base.cloned(), zeros.cloned()];
    let mut spans = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let span = match &piece.place {
            Where::Base => Span::Of(BASE, piece.range.start),
            Where::Hole if let Some(zeros) = zeros => {
                spans.extend(zeros::repeats(piece.range.clone(), zeros).map(|range| (range, Span::Of(ZEROS_OBJECT, 0))));
                continue;
            }
            Where::Elsewhere(origin, from) => {
                let is_it = |source: &Option<Arc<Origin>>| source.as_ref().is_some_and(|source| source.tag == origin.tag);
                let known = sources.iter().skip(OTHERS).position(is_it).map(|at| at + OTHERS);
                let source = known.unwrap_or(sources.len());
                if known.is_none() {
                    sources.push(Some(Arc::clone(origin)));
                }
                Span::Of(source, *from)
            }
            _ => Span::Ours,
        };
        spans.push((piece.range.clone(), span));
    }
    (spans, sources)
}

fn base_ranges(pieces: &[Piece<Arc<StagedFile>>]) -> Vec<Range<u64>> {
    pieces.iter().filter(|piece| matches!(piece.place, Where::Base)).map(|piece| piece.range.clone()).collect()
}

/// The unbroken runs of bytes that are in memory, with small holes between them.
fn written_runs(pieces: &[Piece<Arc<StagedFile>>]) -> Vec<(u64, Vec<Bytes>)> {
    let mut runs: Vec<(u64, Vec<Bytes>)> = Vec::new();
    let mut end = None;
    for piece in pieces {
        let bytes = match &piece.place {
            Where::Memory(held) => held.bytes.clone(),
            Where::Hole if piece.range.end - piece.range.start <= SMALL_HOLE => {
                Bytes::from_static(&ZEROS).slice(..usize::try_from(piece.range.end - piece.range.start).unwrap_or(0))
            }
            _ => continue,
        };
        match runs.last_mut().filter(|_| end == Some(piece.range.start)) {
            Some((_, run)) => run.push(bytes),
            None => runs.push((piece.range.start, vec![bytes])),
        }
        end = Some(piece.range.end);
    }
    runs
}

impl Target {
    /// What the object carries: with its times, or without.
    pub(super) fn carried(&self, times: bool) -> Meta {
        let mut meta = self.meta.clone();
        if times {
            meta.user.extend(self.times.iter().cloned());
        }
        meta
    }
}

/// Makes an object of `source` under `to` on the server. See [`crate::data::Data::copy_object`].
pub(crate) async fn copy_object(
    room: &Arc<super::Room>,
    cx: &Ctx,
    bucket: &Arc<dyn store::Bucket>,
    source: &ObjectVersion,
    to: &store::Key,
    meta: &Meta,
    replaces: &Replaces,
) -> Result<Stored> {
    let meta = if meta.token.is_some() { meta.clone() } else { room.marked(meta) };
    copy_marked(room, cx, bucket, source, to, meta, replaces).await.map_err(|refused| refused.error)
}

/// The same with metadata that has its token.
pub(super) async fn copy_marked(
    room: &Arc<super::Room>,
    cx: &Ctx,
    bucket: &Arc<dyn store::Bucket>,
    source: &ObjectVersion,
    to: &store::Key,
    meta: Meta,
    replaces: &Replaces,
) -> Attempted {
    let capabilities = bucket.capabilities();
    if source.size <= capabilities.largest_copy {
        return Ok(bucket.copy(cx, source, to, &meta, replaces).await?);
    }
    let limits = plan::Limits::new(capabilities, room.config.part_size.bytes());
    let whole = [(0..source.size, Span::Of(BASE, 0))];
    let Some(Plan::Upload(planned)) = plan::plan(&whole, limits) else { return Err(Error::TooLarge.into()) };
    let upload = OpenUpload::open(room, cx, bucket, to, meta).await?;
    let origin = Origin::new(Arc::clone(bucket), source.clone());
    let parts = stream::iter(planned.into_iter().zip(1..)).map(|(part, number)| {
        debug_assert_ne!(part.how, How::Send, "all of it is there");
        let (upload, origin) = (&upload, &origin);
        async move { upload.make(cx, PartNumber(number), &part, Some(origin), Err(Error::Stale)).await }
    });
    let parts = parts.buffered(COPIES_AT_ONCE).try_collect::<Vec<Part>>().await?;
    upload.complete(cx, &parts, replaces).await
}
