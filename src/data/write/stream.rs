//! Sends full parts of a file while it is still being written.
//!
//! A file streams while it was told what to become ([`crate::data::File::stream_to`]) and all that is dirty follows the end of its base: a new file, one
//! truncated to nothing, or an append. Parts are cut from the front as soon as more than a part is there without a gap; those of the base are
//! copied on the server. A part answered is freed: its bytes are in COS, in an upload that only a commit (or the file's end) closes.
//!
//! The difficulties
//! 1. *What was sent cannot be had back.* Writing or cutting below [`Stream::cut`], or reading what was freed, is [`Error::Streaming`]; the caller
//!    commits, after which the bytes are in the base. Cutting to nothing discards the upload instead.
//! 2. *A part that fails* stops the cutting, not the writing. Its bytes are still here; the commit sends it again under its number.
//! 3. *Ten thousand parts.* Near the end of the numbers the upload is completed by the stream itself and the next one begins with copies of what
//!    is there: any size streams in little memory, at the price of a shorter object that others can see for a while.
//! 4. *Metadata is fixed when the upload is opened.* What changed since is one self-copy within the commit. Times that nobody set are not sent:
//!    the object's Last-Modified is its mtime.
//! 5. *The upload is gone* (aborted or expired by others). Parts that were answered were in it alone: they are lost, the commit says so loudly
//!    and goes on saying so; only cutting the file to nothing makes it whole again.

use std::{collections::HashMap, ops::Range, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{
    Content, State, Where,
    commit::{self, Attempt, Unsettled},
    pace::Lane,
    plan::{BASE, How, Limits, Planned},
    upload::{Assembly, OpenUpload},
};
use crate::data::{Committed, Error, Result, Target};

use crate::store::{CommitToken, Kind, Meta, Outcome, Part, PartNumber, Replaces};

use crate::support::{Ctx, Share, Urgency};

/// The state of a file's stream, under the file's lock.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What the file is to become; `None`: nothing more is cut.
    target: Option<Target>,
    phase: Phase,
    /// Parts by number, from 1. Invariant: they tile `0..cut`.
    parts: Vec<Going>,
    /// What lies below belongs to parts and must not change.
    cut: u64,
    /// From `cut` to here there is no gap, as far as anybody looked.
    covered: u64,
    in_flight: usize,
    /// From this index on parts belong to a commit that did not end well: the last of them may be too short to have others behind it.
    tail: Option<usize>,
    /// Memory is short: the next part may be any length that COS takes.
    hurry: bool,
    /// Why cutting has stopped.
    failed: Option<Error>,
    /// Tells the parts of one upload from those of the next.
    upload_number: u64,
    /// The steps that run, by number: whoever waits for them sees by their contexts whether they move.
    under_way: HashMap<u64, Ctx>,
    steps: u64,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Opening,
    Open(Arc<OpenUpload>),
    /// Difficulty 5.
    Lost(Error),
}

#[derive(Debug)]
struct Going {
    planned: Planned,
    answered: Option<Part>,
}

/// What to do next, found under the lock and done outside it.
enum Next {
    Nothing,
    Open(Box<Target>, u64),
    Send(Arc<OpenUpload>, Place, Lane),
    Continue(Box<Target>),
}

/// A part of one of the uploads that a file had.
#[derive(Debug, Clone, Copy)]
struct Place {
    upload_number: u64,
    index: usize,
    /// Of the bytes in it.
    generation: u64,
}

impl Stream {
    /// Whether nothing of it is on its way: a stream that flows is not spilled.
    pub(super) fn is_still(&self) -> bool {
        self.in_flight == 0 && !matches!(self.phase, Phase::Opening)
    }

    /// Notes a step that begins, and gives it a number.
    fn note_step(&mut self, cx: Ctx) -> u64 {
        self.steps += 1;
        self.under_way.insert(self.steps, cx);
        self.steps
    }

    /// Forgets the upload, which is aborted when its last part in flight has ended.
    fn discard(&mut self) {
        let (target, upload_number, steps) = (self.target.take(), self.upload_number + 1, self.steps);
        *self = Self { target, upload_number, steps, ..Self::default() };
    }
}

impl State {
    /// Whether bytes from `at` on may be changed.
    ///
    /// # Errors
    /// [`Error::Streaming`]: commit first.
    pub(crate) fn check_unsent(&self, at: u64) -> Result<()> {
        if at < self.stream.cut { Err(Error::Streaming) } else { Ok(()) }
    }

    /// The file is being cut to `size`.
    ///
    /// # Errors
    /// [`Error::Streaming`]: commit first.
    pub(crate) fn check_cut(&mut self, size: u64) -> Result<()> {
        if size == 0 && self.running.is_none() {
            self.stream.discard();
        }
        self.check_unsent(size)?;
        self.stream.covered = self.stream.covered.min(size);
        Ok(())
    }

    /// Drops the upload: the file has no name any more.
    pub(crate) fn discard_stream(&mut self) {
        self.stream.discard();
    }
}

impl Content {
    /// See [`crate::data::File::stream_to`].
    pub(crate) fn stream_to(&self, target: Option<Target>) {
        self.state.lock().stream.target = target;
    }

    /// Sends what is full. Called after every write and every answer; costs little when there is nothing to do.
    pub(crate) fn pump(self: &Arc<Self>, cx: &Ctx) {
        loop {
            match self.next_part() {
                Next::Nothing => return,
                Next::Open(target, upload_number) => {
                    self.go(cx, move |content, cx| async move { content.open_upload(&cx, &target, upload_number).await });
                }
                Next::Send(upload, place, lane) => {
                    self.go(cx, move |content, cx| async move { content.send_part(&cx, upload, place, Some(lane)).await });
                }
                Next::Continue(target) => self.go(cx, move |content, cx| async move { content.continue_stream(&cx, *target).await }),
            }
        }
    }

    /// Runs a step of the stream as a task, which writers may wait for, and looks for the next one.
    fn go<F: Future<Output = ()> + Send>(self: &Arc<Self>, cx: &Ctx, step: impl FnOnce(Arc<Self>, Ctx) -> F + Send + 'static) {
        let (content, cx, working) = (Arc::clone(self), cx.detached(Urgency::WriteOut), self.room.relief.begin());
        let number = self.state.lock().stream.note_step(cx.clone());
        self.room.tasks.spawn(async move {
            step(Arc::clone(&content), cx.clone()).await;
            content.state.lock().stream.under_way.remove(&number);
            content.pump(&cx);
            drop(working);
        });
    }

    /// Memory is short and nothing else frees any: sends what there is, though it is less than a part should be.
    pub(super) fn hurry(self: &Arc<Self>, cx: &Ctx) {
        self.state.lock().stream.hurry = true;
        self.pump(cx);
        // What it found nothing for must not shorten a part later.
        let mut state = self.state.lock();
        state.stream.hurry = matches!(state.stream.phase, Phase::Opening);
    }

    fn next_part(&self) -> Next {
        let limits = self.limits();
        let dirty = self.room.budget.share(Share::Dirty);
        let spare = (limits.most / 20).max(u32::try_from(dirty / limits.largest + 1).unwrap_or(u32::MAX)).min(limits.most / 2);
        let mut state = self.state.lock();
        // A base that may change when an outcome is settled is none to stream over.
        let may = !state.orphan && state.running.is_none() && state.unsettled.is_none() && state.stream.failed.is_none();
        let State { extents, stream, origin, .. } = &mut *state;
        let Some(target) = stream.target.as_ref().filter(|_| may) else { return Next::Nothing };
        let number = u32::try_from(stream.parts.len()).unwrap_or(u32::MAX) + 1;
        if let Phase::Idle = stream.phase {
            if !extents.only_appended() || (1..limits.smallest).contains(&extents.base_reach()) {
                return Next::Nothing;
            }
            stream.covered = stream.covered.max(extents.base_reach());
        }
        let from = if matches!(stream.phase, Phase::Idle) { extents.base_reach() } else { stream.cut };
        let mut size = limits.part_size(number, dirty / 4);
        if stream.covered <= from + size {
            stream.covered = extents.covered_to(stream.covered.max(from));
        }
        // A file that ends with its first part may still be one PUT.
        let least = from + size + u64::from(!matches!(stream.phase, Phase::Open(_)));
        if stream.covered < least {
            let there = stream.covered - from;
            if !stream.hurry || there < limits.smallest {
                return Next::Nothing;
            }
            size = there;
        }
        match &stream.phase {
            Phase::Idle => {
                // The base is about to be copied as it is.
                stream.cut = from;
                stream.phase = Phase::Opening;
                Next::Open(Box::new(target.clone()), stream.upload_number)
            }
            Phase::Opening | Phase::Lost(_) => Next::Nothing,
            // What is dirty now must fit the numbers that are left.
            Phase::Open(_) if number > limits.most - spare => {
                // Difficulty 3. Marked as failed, so that nothing is cut until the continuation has the turn.
                let target = Box::new(target.clone());
                stream.failed = Some(Error::Streaming);
                Next::Continue(target)
            }
            Phase::Open(upload) => {
                let Some(lane) = self.room.pace.lane(stream.in_flight) else { return Next::Nothing };
                debug_assert!(origin.is_none() || stream.cut >= extents.base_reach(), "the base was planned when the upload was opened");
                let planned = Planned { range: from..from + size, how: How::Send };
                stream.parts.push(Going { planned, answered: None });
                stream.cut = from + size;
                stream.in_flight += 1;
                stream.hurry = false;
                let (upload_number, index, generation) = (stream.upload_number, stream.parts.len() - 1, extents.generation());
                Next::Send(Arc::clone(upload), Place { upload_number, index, generation }, lane)
            }
        }
    }

    async fn open_upload(self: &Arc<Self>, cx: &Ctx, target: &Target, upload_number: u64) {
        let meta = self.room.marked(&target.carried(target.times_set));
        let opened = OpenUpload::open(&self.room, cx, &self.bucket, &target.key, meta).await;
        let largest = self.bucket.capabilities().largest_part;
        let copies = {
            let mut state = self.state.lock();
            let stream = &mut state.stream;
            match opened {
                // Discarded meanwhile; dropping the upload aborts it. Whoever waits is told all the same.
                _ if stream.upload_number != upload_number => None,
                Ok(upload) => {
                    for range in halves(0..stream.cut, largest) {
                        stream.parts.push(Going { planned: Planned { how: How::Copy(BASE, range.start), range }, answered: None });
                    }
                    stream.in_flight += stream.parts.len();
                    stream.phase = Phase::Open(Arc::clone(&upload));
                    Some((upload, stream.parts.len()))
                }
                Err(error) => {
                    (stream.phase, stream.cut) = (Phase::Idle, 0);
                    stream.failed = Some(error);
                    None
                }
            }
        };
        self.settled.notify_waiters();
        if let Some((upload, copies)) = copies {
            for index in 0..copies {
                // What is copied has no generation.
                let (upload, place) = (Arc::clone(&upload), Place { upload_number, index, generation: 0 });
                self.go(cx, move |content, cx| async move { content.send_part(&cx, upload, place, None).await });
            }
        }
    }

    /// Sends or copies a part of the stream and frees it.
    async fn send_part(&self, cx: &Ctx, upload: Arc<OpenUpload>, place: Place, lane: Option<Lane>) {
        let made = self.make_part(cx, &upload, place).await;
        let throttled = cx.slowed_down() > 0;
        if let Some(lane) = lane.filter(|_| throttled || made.is_ok()) {
            lane.answered(cx.clock().now(), made.as_ref().map_or(0, |part| part.size), throttled);
        }
        {
            let mut state = self.state.lock();
            if state.stream.upload_number == place.upload_number {
                state.stream.in_flight -= 1;
                match made {
                    Ok(part) => state.answered(place, part, self.smallest_part()),
                    Err(error) => state.stream.failed = Some(error),
                }
            }
        }
        self.settled.notify_waiters();
    }

    async fn make_part(&self, cx: &Ctx, upload: &Arc<OpenUpload>, place: Place) -> Result<Part> {
        let Place { upload_number, index, .. } = place;
        let (planned, pieces, origin) = {
            let state = self.state.lock();
            let going = state.stream.parts.get(index).filter(|_| state.stream.upload_number == upload_number);
            let planned = going.ok_or(Error::Streaming)?.planned.clone();
            let pieces = state.extents.pieces(planned.range.clone());
            (planned, pieces, state.origin.clone())
        };
        let assembly = Assembly::new(&self.room, cx, None, &pieces, &planned.range);
        drop(pieces);
        let number = PartNumber(u32::try_from(index).unwrap_or(u32::MAX - 1) + 1);
        upload.make(cx, number, &planned, origin.as_ref(), assembly).await
    }

    /// Completes the upload near the end of the part numbers; the stream goes on with copies of what is there (difficulty 3).
    async fn continue_stream(self: &Arc<Self>, cx: &Ctx, target: Target) {
        let Ok(turn) = self.turn(cx).await else { return };
        let due = matches!(self.state.lock().stream.failed, Some(Error::Streaming));
        if due {
            match self.run_commit(cx, target).await {
                Ok(made) => self.state.lock().untold = made,
                Err(error) => tracing::warn!(%error, "a stream cannot be continued; its file gathers until it is committed"),
            }
        }
        drop(turn);
    }

    /// Completes the stream within a commit. `None`: there is no open upload.
    pub(super) async fn finish_stream(self: &Arc<Self>, cx: &Ctx, target: &Target) -> Result<Option<Committed>> {
        self.wait_until(cx, |stream| !matches!(stream.phase, Phase::Opening)).await?;
        if self.state.lock().stream.tail.is_some() {
            self.wait_until(cx, Stream::is_still).await?;
            self.take_back();
        }
        let (upload, attempt) = {
            let mut state = self.state.lock();
            state.stream.failed = None;
            let upload = match &state.stream.phase {
                Phase::Open(upload) => Arc::clone(upload),
                Phase::Lost(error) => return Err(error.again()),
                Phase::Idle | Phase::Opening => return Ok(None),
            };
            if upload.upload.key != target.key {
                // Parts cannot change their object: the caller commits under the old name before it renames.
                return Err(Error::Streaming);
            }
            // What is in memory is taken part by part: the range below `size` cannot change while it is cut.
            let mut snapshot = state.extents.snapshot();
            snapshot.pieces.retain(|piece| matches!(piece.place, Where::Base));
            state.stage = None;
            state.stream.tail = Some(state.stream.parts.len());
            let range = state.stream.cut..snapshot.size;
            state.plan_rest(range, self.limits());
            let attempt = Attempt { target: target.clone(), meta: upload.meta.clone(), snapshot, origin: None };
            (upload, attempt)
        };
        let generation = attempt.snapshot.generation;
        if let Err(late) = self.send_tail(cx, &upload, generation).await {
            self.state.lock().stream.failed = Some(Error::Streaming);
            return Err(late);
        }
        if let Err(error) = self.send_rest(cx, &upload, generation).await {
            self.take_back();
            return Err(self.lost(&upload, error));
        }
        let completed = match self.check_unchanged(cx, target, &attempt.snapshot.pieces).await {
            Ok(()) => upload.complete(cx, &self.answers(), &target.replaces).await,
            Err(error) => Err(error.into()),
        };
        let stored = match completed {
            Ok(stored) => stored,
            Err(refused) => {
                let error = self.failed(&attempt, refused);
                self.take_back();
                return Err(self.lost(&upload, error));
            }
        };
        self.state.lock().stream.discard();
        let committed = self.succeeded(attempt, stored);
        self.bring_up_to_date(cx, target, committed).await.map(Some)
    }

    /// Waits for what is on its way until `there`. An answer is progress, and so is what moves of a part; a part that fails is none.
    async fn wait_until(&self, cx: &Ctx, there: impl Fn(&Stream) -> bool) -> Result<()> {
        let mut seen = self.answers().len();
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if there(&self.state.lock().stream) {
                return Ok(());
            }
            let late = cx.bounded(settled).await.err();
            let answered = self.answers().len();
            if answered > seen {
                cx.progressed();
            }
            let moves = self.state.lock().stream.under_way.values().any(|part| cx.follow(part));
            if let Some(late) = late.filter(|_| !moves && cx.remaining().is_zero()) {
                return Err(late.into());
            }
            seen = answered;
        }
    }

    /// Sends the tail of a commit at the stream's pace and waits until nothing is on its way. The first parts of it go beside those before them:
    /// waiting for these would cost a close(2) one more round trip. Ends early if a part fails.
    async fn send_tail(self: &Arc<Self>, cx: &Ctx, upload: &Arc<OpenUpload>, generation: u64) -> Result<()> {
        let mut next = self.state.lock().stream.tail.unwrap_or(usize::MAX);
        loop {
            let (left, busy, sending) = {
                let mut state = self.state.lock();
                let stream = &mut state.stream;
                let left = next < stream.parts.len() && stream.failed.is_none();
                let lane = if left { self.room.pace.lane(stream.in_flight) } else { None };
                let busy = stream.in_flight;
                stream.in_flight += usize::from(lane.is_some());
                (left, busy, lane.map(|lane| (Place { upload_number: stream.upload_number, index: next, generation }, lane)))
            };
            match sending {
                Some((place, lane)) => {
                    let upload = Arc::clone(upload);
                    self.go(cx, move |content, cx| async move { content.send_part(&cx, upload, place, Some(lane)).await });
                    next += 1;
                }
                None if left => self.wait_until(cx, |stream| stream.in_flight < busy).await?,
                None => return self.wait_until(cx, Stream::is_still).await,
            }
        }
    }

    /// Sends every part that has no answer yet: those that failed, and what was behind them.
    async fn send_rest(&self, cx: &Ctx, upload: &Arc<OpenUpload>, generation: u64) -> Result<()> {
        let missing: Vec<Place> = {
            let state = self.state.lock();
            let upload_number = state.stream.upload_number;
            let unanswered =
                |(index, going): (usize, &Going)| going.answered.is_none().then_some(Place { upload_number, index, generation });
            state.stream.parts.iter().enumerate().filter_map(unanswered).collect()
        };
        let parts = stream::iter(missing).map(|place| async move { (place, self.make_part(cx, upload, place).await) });
        let mut parts = std::pin::pin!(parts.buffer_unordered(self.room.parts_at_once()));
        while let Some((place, made)) = parts.next().await {
            let part = made?;
            self.state.lock().answered(place, part, self.smallest_part());
        }
        Ok(())
    }

    /// A commit failed: the parts it added behind the last answered one are cut anew by the next, which may have more behind them. The last
    /// of them may be shorter than COS allows in the middle; its bytes are still here, so it is cut anew, too.
    fn take_back(&self) {
        let smallest = self.smallest_part();
        let mut state = self.state.lock();
        let stream = &mut state.stream;
        let first_new = stream.tail.take().unwrap_or(usize::MAX);
        while stream.parts.len() > first_new
            && stream
                .parts
                .last()
                .is_some_and(|going| going.answered.is_none() || going.planned.range.end - going.planned.range.start < smallest)
        {
            stream.parts.pop();
        }
        stream.cut = stream.parts.last().map_or(0, |going| going.planned.range.end);
        stream.failed = Some(Error::Streaming);
    }

    /// Says loudly what is lost if the upload is gone (difficulty 5).
    fn lost(&self, upload: &OpenUpload, error: Error) -> Error {
        let Error::Store(cause) = &error else { return error };
        if cause.kind() != Kind::NoSuchUpload {
            return error;
        }
        upload.over();
        let mut state = self.state.lock();
        let of = |going: &Going| going.answered.as_ref().filter(|_| going.planned.how == How::Send).map_or(0, |part| part.size);
        let bytes: u64 = state.stream.parts.iter().map(of).sum();
        tracing::error!(key = %upload.upload.key, bytes, "the store has dropped an upload that was still open: these bytes are lost");
        if bytes == 0 {
            // All of it is still here: gathered by the next commit.
            state.stream.discard();
        } else {
            state.stream.phase = Phase::Lost(error.again());
        }
        error
    }

    fn smallest_part(&self) -> u64 {
        self.bucket.capabilities().smallest_part
    }

    fn answers(&self) -> Vec<Part> {
        self.state.lock().stream.parts.iter().filter_map(|going| going.answered.clone()).collect()
    }

    /// One self-copy if metadata changed since the object was begun; one HEAD if its time is to be its mtime (difficulty 4). If either fails, the
    /// bytes are committed all the same: the next commit does this again.
    pub(super) async fn bring_up_to_date(&self, cx: &Ctx, target: &Target, made: Committed) -> Result<Committed> {
        let done = match self.try_bring_up_to_date(cx, target, &made).await {
            // Replaced by somebody else since: it has been there.
            Err(Error::Stale) => Ok(made.clone()),
            done => done,
        };
        if done.is_err() {
            self.state.lock().untold = Some(made);
        }
        done
    }

    async fn try_bring_up_to_date(&self, cx: &Ctx, target: &Target, made: &Committed) -> Result<Committed> {
        let has_times = target.times.iter().any(|(name, _)| made.meta.user.contains_key(name));
        let wanted = target.carried(target.times_set || has_times);
        if wanted != (Meta { token: None, ..made.meta.clone() }) {
            let meta = self.room.marked(&target.carried(true));
            let base = &made.stored.version;
            let whole = 0..base.size;
            let replaces = Replaces::Version(base.clone());
            let copied = commit::copy_marked(&self.room, cx, &self.bucket, base, &target.key, meta.clone(), &replaces).await;
            let stored = copied.map_err(|refused| {
                if refused.outcome == Outcome::Unknown {
                    // No generation is written by it: only the base changes.
                    let (generation, size, clean) = (0, base.size, vec![whole.clone()]);
                    self.state.lock().unsettled = Some(Unsettled { target: target.clone(), meta: meta.clone(), generation, size, clean });
                }
                refused.error
            })?;
            self.rebase(stored.version.clone());
            self.room.carry(&self.bucket, base, &stored.version, &[whole]);
            return Ok(Committed { stored, meta, last_modified: None });
        }
        if has_times || target.times_set || target.times.is_empty() {
            return Ok(made.clone());
        }
        let head = self.bucket.head(cx, &target.key).await?;
        Ok(Committed { last_modified: Some(head.last_modified), ..made.clone() })
    }
}

impl State {
    /// The outcome of a write was settled: if it was the stream's, its upload is complete.
    pub(super) fn settle_stream(&mut self, token: Option<&CommitToken>) {
        if let Phase::Open(upload) = &self.stream.phase
            && upload.meta.token.as_ref() == token
        {
            upload.over();
            self.stream.discard();
        }
    }

    /// Adds parts for `range`, what a commit still has to send.
    fn plan_rest(&mut self, range: Range<u64>, limits: Limits) {
        let numbers = u64::from(limits.most).saturating_sub(self.stream.parts.len() as u64).max(1);
        let len = range.end - range.start.min(range.end);
        // The numbers that are left must do, a hole can be of any size; and some must be left, should this commit fail and more be written.
        let part = limits.first.max(len.div_ceil((numbers / 8).max(1))).min(limits.largest).max(len.div_ceil(numbers));
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + part);
            self.stream.parts.push(Going { planned: Planned { range: at..end, how: How::Send }, answered: None });
            at = end;
        }
        self.stream.cut = self.stream.cut.max(range.end);
    }

    /// The store has the part at `index`: its bytes may go. Those of a part too short for the middle stay until the commit has succeeded.
    fn answered(&mut self, place: Place, part: Part, smallest: u64) {
        let Some(going) = self.stream.parts.get_mut(place.index) else { return };
        going.answered = Some(part);
        let Planned { range, how } = going.planned.clone();
        if how == How::Send && range.end - range.start >= smallest {
            self.extents.sent(range, place.generation);
        }
    }
}

/// Cuts `range` into equal pieces of at most `most` bytes.
fn halves(range: Range<u64>, most: u64) -> Vec<Range<u64>> {
    let len = range.end - range.start;
    let pieces = len.div_ceil(most).max(1);
    let step = len.div_ceil(pieces).max(1);
    (0..pieces).map(|n| range.start + n * step..range.end.min(range.start + (n + 1) * step)).filter(|piece| !piece.is_empty()).collect()
}
