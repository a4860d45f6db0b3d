//! The face of one open file: reads over extents and base, writes through the gate.
//!
//! The difficulties
//! 1. *The base moves under a reader.* An own commit, rename or self-copy replaces the object a moment before (or after) the file learns of it; a
//!    fetch of the old version is then told 412. Such a read waits for the commit that runs, settles one whose answer was lost, and looks again;
//!    only if the base is still the same was it somebody else ([`Error::Stale`]).
//! 2. *Appends from several handles* land one behind the other: the offset is taken and the bytes inserted under one hold of the lock.
//! 3. *Freezing.* Writers share the gate, also while they wait for memory; memory is freed by commits and spills, which never take the gate.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::{
    Committed, Defect, Error, Reader, Result, Target,
    cache::BLOCK,
    read::Origin,
    write::{Content, Held, Piece, Referred, StagedFile, Where, ZEROS},
};

use crate::store::{ObjectVersion, Source};

use crate::support::Ctx;

/// Where a write lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At this offset.
    Offset(u64),
    /// At the end of the file, whatever it is when the write is done (O_APPEND).
    End,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where it landed.
    pub offset: u64,
    /// The file's size after it.
    pub size: u64,
}

/// Where the bytes of a file are that are not committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBytes {
    /// Bytes in memory.
    pub memory: u64,
    /// Bytes in staging.
    pub staged: u64,
    /// Bytes that have left as parts of an upload that is still open.
    pub uploaded: u64,
}

/// The bytes of one open file.
#[derive(Debug)]
pub struct File {
    content: Arc<Content>,
    /// Writers share it, a freeze shuts it.
    gate: Arc<RwLock<()>>,
}

/// While it lives, writes to the file wait.
#[derive(Debug)]
pub struct Frozen {
    _shut: OwnedRwLockWriteGuard<()>,
}

impl File {
    pub(super) fn new(content: Arc<Content>) -> Arc<Self> {
        Arc::new(Self { content, gate: Arc::default() })
    }

    /// A pattern of reads of its own, for a new handle.
    pub fn reader(&self) -> Reader {
        Reader::default()
    }

    /// The size a program sees now.
    pub fn size(&self) -> u64 {
        self.content.state.lock().extents.size()
    }

    /// Whether a commit would send anything.
    pub fn is_dirty(&self) -> bool {
        self.content.is_dirty()
    }

    /// Its bytes in memory and staging that are not committed.
    pub fn dirty_bytes(&self) -> u64 {
        self.content.state.lock().extents.dirty_bytes()
    }

    /// Where those bytes are that no commit has taken yet.
    pub fn held(&self) -> HeldBytes {
        let state = self.content.state.lock();
        let (memory, dirty) = (state.extents.memory(), state.extents.dirty_bytes());
        HeldBytes { memory, staged: dirty - memory, uploaded: state.extents.uploaded() }
    }

    /// The version its clean bytes come from; `None` while nothing of it was ever committed.
    pub fn base(&self) -> Option<ObjectVersion> {
        self.content.state.lock().origin.as_ref().map(|origin| origin.version.clone())
    }

    /// The bytes of `range`, clipped to the file, as slices in order. Sees every acknowledged write.
    pub async fn read(self: &Arc<Self>, cx: &Ctx, reader: &Reader, range: Range<u64>) -> Result<Vec<Bytes>> {
        let range = range.start..range.end.min(self.size());
        let mut ahead = self.note(reader, &range);
        loop {
            let (pieces, origin) = self.pieces(range.clone());
            if let (Some(ahead), Some(origin)) = (ahead.take(), &origin) {
                self.content.room.blocks.ahead(cx, origin, ahead);
            }
            match self.read_pieces(cx, &pieces, origin.as_ref()).await {
                Err(Error::Stale) if self.has_moved(cx, origin.as_ref()).await? => {}
                Err(Error::SourceGone) if self.refers_elsewhere(cx, &pieces).await? => {}
                done => return done,
            }
        }
    }

    /// Takes the bytes: they are in memory or staging when it returns. `bytes` must be a buffer of its own: what it holds is counted by its length.
    pub async fn write(self: &Arc<Self>, cx: &Ctx, at: At, bytes: Bytes) -> Result<Written> {
        let room = &self.content.room;
        let _pass = cx.bounded(self.gate.read()).await?;
        let len = bytes.len() as u64;
        let reservation = room.reserve(cx, len).await?;
        let written = {
            let mut state = self.content.state.lock();
            let offset = match at {
                At::Offset(offset) => offset,
                At::End => state.extents.size(),
            };
            self.check_size(offset.saturating_add(len))?;
            state.check_unsent(offset)?;
            // Seeded defect: the differential tester must find that an append behind a cut is lost.
            let lost = at == At::End && room.has_defect(Defect::AppendLostAfterTruncate) && state.extents.was_cut();
            if !lost {
                state.extents.insert(offset, Held::new(bytes, reservation));
            }
            Written { offset, size: state.extents.size() }
        };
        self.content.pump(cx);
        Ok(written)
    }

    /// Cuts or extends (with a hole) to `size`; sent by the next commit.
    pub async fn truncate(self: &Arc<Self>, cx: &Ctx, size: u64) -> Result<()> {
        self.check_size(size)?;
        let _pass = cx.bounded(self.gate.read()).await?;
        let mut state = self.content.state.lock();
        state.check_cut(size)?;
        state.extents.truncate(size, self.content.room.has_defect(Defect::OldBytesInHole));
        Ok(())
    }

    /// Makes what is at `at` here the bytes of `source` in `range`, which lies within it, as far as that goes without reading them. They must be different
    /// files of one bucket, and nobody may remove the source's object meanwhile.
    pub async fn refer(self: &Arc<Self>, cx: &Ctx, at: u64, source: &Arc<Self>, range: Range<u64>) -> Result<Referred> {
        self.check_size(at.saturating_add(range.end - range.start))?;
        let _pass = cx.bounded(self.gate.read()).await?;
        self.content.refer(cx, at, &source.content, range).await
    }

    /// Makes `range` a hole, also behind the end of the file, which grows then.
    pub async fn punch(self: &Arc<Self>, cx: &Ctx, range: Range<u64>) -> Result<()> {
        self.check_size(range.end)?;
        let _pass = cx.bounded(self.gate.read()).await?;
        let mut state = self.content.state.lock();
        state.check_unsent(range.start)?;
        state.extents.hole(range);
        Ok(())
    }

    /// Where the first data, or the first hole, at or after `from` begins; `None` behind the last data. A hole is what was not written here, as long as it is
    /// not in COS, which stores zeros.
    pub fn seek(&self, from: u64, hole: bool) -> Option<u64> {
        let state = self.content.state.lock();
        let size = state.extents.size();
        if from >= size {
            return None;
        }
        let pieces = state.extents.pieces(from..size);
        let found = pieces.iter().find(|piece| matches!(piece.place, Where::Hole) == hole).map(|piece| piece.range.start);
        // There is a hole at the end of every file.
        found.or(hole.then_some(size))
    }

    /// A sequential write from the start of a new or truncated file may leave as parts while it is being written; they become `target`.
    /// The last call counts; `None` (a second handle, a reader, a rename under way) makes the file gather from now on.
    pub fn stream_to(&self, target: Option<Target>) {
        self.content.stream_to(target);
    }

    /// Makes the file's bytes as they are at this call the object `target`. `None`: nothing was dirty (metadata alone is not sent), or another
    /// call's commit has just sent it. Calls that arrive during a commit share the next one. On an error the file stays dirty and no byte is
    /// lost. Runs to its end even if the returned future is dropped.
    ///
    /// # Errors
    /// [`Error::Streaming`]: parts have left for another key than the target's; commit to that first.
    pub async fn commit(self: &Arc<Self>, cx: &Ctx, target: Target) -> Result<Option<Committed>> {
        self.content.commit(cx, target).await
    }

    /// Returns when no commit is under way: after [`File::orphan`] nothing of this file appears in the bucket any more.
    pub async fn quiet(&self, cx: &Ctx) -> Result<()> {
        self.content.quiet(cx).await
    }

    /// Shuts the gate: returns when no write is under way; later ones wait until the guard is dropped.
    pub async fn freeze(self: &Arc<Self>, cx: &Ctx) -> Result<Frozen> {
        let shut = cx.bounded(Arc::clone(&self.gate).write_owned()).await?;
        Ok(Frozen { _shut: shut })
    }

    /// The same bytes are under another key or version now (rename, self-copy, put aside): clean bytes come from `version` from here on.
    pub fn rebase(&self, version: ObjectVersion) {
        self.content.rebase(version);
    }

    /// Fetches what only the base has into memory or staging, so that the base may go. [`Error::NoRoom`] if it does not fit.
    pub async fn localise(self: &Arc<Self>, cx: &Ctx) -> Result<()> {
        let needed: u64 = self.base_pieces().iter().map(|range| range.end - range.start).sum();
        if needed > self.content.room.could_take() {
            return Err(Error::NoRoom);
        }
        while let Some(range) = self.base_pieces().into_iter().next() {
            let end = range.end.min((range.start / BLOCK + 1) * BLOCK);
            self.localise_range(cx, range.start..end).await?;
        }
        Ok(())
    }

    /// Whether no byte of the base is needed any longer.
    pub fn is_local(&self) -> bool {
        self.base_pieces().is_empty()
    }

    /// The name is gone: nothing will be committed any more, an open upload is aborted. The bytes stay readable and writable, but for those
    /// that have left with that upload ([`Error::Stale`]). A last request already on its way may still land: see [`File::quiet`].
    pub fn orphan(&self) {
        let mut state = self.content.state.lock();
        state.orphan = true;
        state.discard_stream();
    }

    fn note(&self, reader: &Reader, range: &Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        let reach = self.content.state.lock().extents.base_reach();
        reader.note(range, reach, self.content.room.blocks.largest_window()).filter(|ahead| ahead.end <= reach)
    }

    fn pieces(&self, range: Range<u64>) -> (Vec<Piece<Arc<StagedFile>>>, Option<Arc<Origin>>) {
        let state = self.content.state.lock();
        (state.extents.pieces(range), state.origin.clone())
    }

    async fn read_pieces(&self, cx: &Ctx, pieces: &[Piece<Arc<StagedFile>>], origin: Option<&Arc<Origin>>) -> Result<Vec<Bytes>> {
        let mut bytes = Vec::with_capacity(pieces.len());
        for Piece { range, place } in pieces {
            match place {
                Where::Memory(held) => bytes.push(held.bytes.clone()),
                Where::Staged(file) => bytes.push(file.read(range.clone()).await?),
                Where::Hole => bytes.extend(zeros(range.end - range.start)),
                Where::Base => {
                    let origin = origin.ok_or(Error::Stale)?;
                    bytes.extend(self.content.room.blocks.read(cx, origin, range.clone()).await?);
                }
                Where::Elsewhere(origin, from) => {
                    let range = *from..*from + (range.end - range.start);
                    let read = self.content.room.blocks.read(cx, origin, range).await;
                    bytes.extend(read.map_err(|error| if matches!(error, Error::Stale) { Error::SourceGone } else { error })?);
                }
                Where::Sent if self.content.state.lock().orphan => return Err(Error::Stale),
                Where::Sent => return Err(Error::Streaming),
            }
        }
        Ok(bytes)
    }

    /// Whether the base has been replaced since `origin` was it, by this mount (difficulty 1).
    async fn has_moved(&self, cx: &Ctx, origin: Option<&Arc<Origin>>) -> Result<bool> {
        let Some(origin) = origin else { return Ok(false) };
        let moved = || self.content.state.lock().origin.as_ref().is_none_or(|now| !Arc::ptr_eq(now, origin));
        if moved() {
            return Ok(true);
        }
        self.content.catch_up(cx).await?;
        Ok(moved())
    }

    /// Whether what `pieces` took from other objects is somewhere else by now.
    async fn refers_elsewhere(&self, cx: &Ctx, pieces: &[Piece<Arc<StagedFile>>]) -> Result<bool> {
        let tags = pieces.iter().filter_map(|piece| if let Where::Elsewhere(origin, _) = &piece.place { Some(origin.tag) } else { None });
        let tags: Vec<_> = tags.collect();
        self.content.refers_elsewhere(cx, &tags).await
    }

    async fn localise_range(self: &Arc<Self>, cx: &Ctx, range: Range<u64>) -> Result<()> {
        let origin = self.content.state.lock().origin.clone();
        let Some(origin) = origin else { return Ok(()) };
        let slices = match self.content.room.blocks.read(cx, &origin, range.clone()).await {
            Err(Error::Stale) if self.has_moved(cx, Some(&origin)).await? => return Ok(()),
            read => read?,
        };
        let reservation = self.content.room.reserve(cx, range.end - range.start).await?;
        // A buffer of its own: slices of the cache would be counted twice.
        let held = Held::new(slices.concat().into(), reservation);
        let mut state = self.content.state.lock();
        if state.origin.as_ref().is_some_and(|now| Arc::ptr_eq(now, &origin)) {
            state.extents.fill(range.start, &held);
        }
        Ok(())
    }

    /// The ranges that only the base has.
    fn base_pieces(&self) -> Vec<Range<u64>> {
        let (pieces, _) = self.pieces(0..u64::MAX);
        pieces.into_iter().filter(|piece| matches!(piece.place, Where::Base)).map(|piece| piece.range).collect()
    }

    fn check_size(&self, size: u64) -> Result<()> {
        let capabilities = self.content.bucket.capabilities();
        let most = capabilities.largest_part.saturating_mul(u64::from(capabilities.most_parts));
        if size > most { Err(Error::TooLarge) } else { Ok(()) }
    }
}

/// `len` zero bytes, none of them stored.
fn zeros(len: u64) -> impl Iterator<Item = Bytes> {
    let step = ZEROS.len() as u64;
    (0..len.div_ceil(step)).map(move |n| {
        let part = usize::try_from(step.min(len - n * step)).unwrap_or(0);
        Bytes::from_static(&ZEROS[..part])
    })
}
