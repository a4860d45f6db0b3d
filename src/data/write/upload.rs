//! Sends bytes: assembles payloads from pieces, sends and copies parts, and checks that the whole is what was meant.
//!
//! A payload holds little more memory than the file does: dirty bytes are slices, staged bytes are read as they are sent, a little at a time,
//! zeros are made. Ranges of the base are read *before* the request: one that waits in its middle for another holds the place that the other
//! needs, and stands still in the eyes of whoever watches it. Only a part that has more of the base than fits is read as it is sent. What all
//! that needs is reserved from the commit share.
//!
//! An [`OpenUpload`] that is dropped before it was completed is aborted: by a failed commit, a discarded stream, a file that went away. What
//! a crash leaves open the next mount aborts: every upload is in the ledger before its first part. (Only one whose opening was not answered
//! yet can be missing there, and that one holds no bytes.)

use std::{
    fmt, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::{
    Held, Piece, Room, StagedFile, Where,
    plan::{BASE, How, Planned},
};
use crate::data::{
    Error, Result,
    read::{Blocks, Origin},
};

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{self, Bucket, Kind, Meta, Outcome, Part, PartNumber, Payload, Segment, Source, Stored, Upload};

use crate::support::{Ctx, Reservation, Share};

/// Memory that a payload which is not in memory takes while it passes.
const IN_PASSING: u64 = 1 << 20;
/// Patience of an abort.
const ABORT_WITHIN: Duration = Duration::from_secs(90);

/// A last request that failed, and whether it may have happened all the same.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: Error,
    pub(super) outcome: Outcome,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, outcome: Outcome::NotDone }
    }
}

impl From<store::Error> for Refused {
    fn from(error: store::Error) -> Self {
        Self { outcome: error.outcome(), error: error.into() }
    }
}

/// What a request that makes an object returns.
pub(super) type Attempted = std::result::Result<Stored, Refused>;

/// A payload to be and what keeps its memory counted.
#[derive(Debug)]
pub(super) struct Assembly {
    segments: Vec<Segment>,
    /// Which segments are ranges of the base, or of other objects.
    remote: Vec<(usize, Arc<Remote>, Range<u64>)>,
    /// Held until the payload is sent.
    #[expect(dead_code, reason = "what matters is when it is dropped")]
    held: Vec<Held>,
    /// Why a range of an object could not be read, which the store cannot pass on.
    failed: Arc<Mutex<Option<Error>>>,
    /// Bytes that are neither in memory nor zeros.
    elsewhere: u64,
}

/// A payload that may be sent, and the memory it takes.
struct Ready {
    payload: Payload,
    _hold: Reservation,
}

/// Reads the base, or another object, as it is sent, through the cache.
struct Remote {
    blocks: Arc<Blocks>,
    cx: Ctx,
    origin: Arc<Origin>,
    is_base: bool,
    failed: Arc<Mutex<Option<Error>>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("version", &self.origin.version).finish_non_exhaustive()
    }
}

impl Remote {
    async fn slices(&self, range: Range<u64>) -> Result<Vec<Bytes>> {
        self.blocks.read(&self.cx, &self.origin, range).await.map_err(|error| gone(error, self.is_base))
    }
}

/// That a version is gone means another thing for the base than for an object that is copied from.
fn gone(error: Error, is_base: bool) -> Error {
    if matches!(error, Error::Stale) && !is_base { Error::SourceGone } else { error }
}

#[async_trait]
impl Source for Remote {
    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self.slices(range).await {
            Ok(slices) => Ok(joined(slices)),
            Err(error) => {
                let told = io::Error::other(error.to_string());
                *self.failed.lock() = Some(error);
                Err(told)
            }
        }
    }
}

fn joined(mut slices: Vec<Bytes>) -> Bytes {
    if slices.len() == 1 {
        return slices.remove(0);
    }
    let mut all = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
    slices.iter().for_each(|slice| all.extend_from_slice(slice));
    all.freeze()
}

impl Assembly {
    /// The bytes of `range` out of `pieces`, which cover it.
    ///
    /// # Errors
    /// [`Error::Streaming`] if part of it is only in an open upload.
    pub(super) fn new(
        room: &Room,
        cx: &Ctx,
        origin: Option<&Arc<Origin>>,
        pieces: &[Piece<Arc<StagedFile>>],
        range: &Range<u64>,
    ) -> Result<Self> {
        let failed = Arc::default();
        let object = |origin: &Arc<Origin>, is_base| {
            let (blocks, origin, failed) = (Arc::clone(&room.blocks), Arc::clone(origin), Arc::clone(&failed));
            Arc::new(Remote { blocks, cx: cx.clone(), origin, is_base, failed })
        };
        let base = origin.map(|origin| object(origin, true));
        let (mut segments, mut held_all, mut remote, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut of_object = |segments: &[Segment], object: Arc<Remote>, part: Range<u64>| {
            elsewhere += part.end - part.start;
            remote.push((segments.len(), Arc::clone(&object), part.clone()));
            Segment::Source(object, part)
        };
        let mut staged = 0;
        let first = pieces.partition_point(|piece| piece.range.end <= range.start);
        for piece in pieces[first..].iter().take_while(|piece| piece.range.start < range.end) {
            let part = piece.range.start.max(range.start)..piece.range.end.min(range.end);
            let len = part.end - part.start;
            segments.push(match (&piece.place, &base) {
                (Where::Memory(held), _) => {
                    let at = |offset: u64| usize::try_from(offset - piece.range.start).unwrap_or(usize::MAX);
                    held_all.push(held.clone());
                    Segment::Bytes(held.bytes.slice(at(part.start)..at(part.end)))
                }
                (Where::Staged(file), _) => {
                    staged += len;
                    Segment::Source(Arc::clone(file) as Arc<dyn Source>, part)
                }
                (Where::Base, Some(base)) => of_object(&segments, Arc::clone(base), part),
                (Where::Elsewhere(origin, from), _) => {
                    let from = from + (part.start - piece.range.start);
                    of_object(&segments, object(origin, false), from..from + len)
                }
                (Where::Hole, _) => Segment::Zeros(len),
                (Where::Sent, _) | (Where::Base, None) => return Err(Error::Streaming),
            });
        }
        Ok(Self { segments, remote, held: held_all, failed, elsewhere: elsewhere + staged })
    }

    /// Has what the request must not wait for.
    async fn ready(&mut self, room: &Room, cx: &Ctx) -> Result<Ready> {
        let of_objects = self.remote.iter().map(|(_, _, range)| range.end - range.start).sum();
        let fits = of_objects <= room.budget.share(Share::Commit) / 2;
        let read = if fits { of_objects } else { 0 };
        let hold = room.budget.reserve(cx, Share::Commit, read + (self.elsewhere - read).min(IN_PASSING)).await?;
        if fits {
            for (index, object, range) in self.remote.drain(..) {
                let slices = object.slices(range).await?;
                cx.progressed();
                // A copy: slices would keep whole blocks that the cache no longer counts.
                if let Some(segment) = self.segments.get_mut(index) {
                    *segment = Segment::Bytes(slices.concat().into());
                }
            }
        }
        Ok(Ready { payload: Payload::new(std::mem::take(&mut self.segments)), _hold: hold })
    }

    /// Makes an object of it.
    pub(super) async fn put(
        mut self,
        room: &Room,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        key: &store::Key,
        meta: &Meta,
        replaces: &store::Replaces,
    ) -> Attempted {
        let ready = self.ready(room, cx).await?;
        let size = ready.payload.len();
        let stored = bucket.put(cx, key, meta, ready.payload.clone(), replaces).await.map_err(|error| {
            let outcome = error.outcome();
            Refused { error: self.reason(error), outcome }
        })?;
        check_size(&stored, size)?;
        Ok(stored)
    }

    /// Sends it as a part.
    pub(super) async fn send(
        mut self,
        room: &Room,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        upload: &Upload,
        number: PartNumber,
    ) -> Result<Part> {
        let ready = self.ready(room, cx).await?;
        let part = bucket.upload_part(cx, upload, number, ready.payload.clone()).await.map_err(|error| self.reason(error))?;
        cx.progressed();
        Ok(part)
    }

    /// Why sending failed, if an object was the reason that it was to read.
    fn reason(&self, error: store::Error) -> Error {
        let of_object = if error.kind() == Kind::Source { self.failed.lock().take() } else { None };
        of_object.unwrap_or_else(|| error.into())
    }
}

/// An upload that is aborted when dropped, unless it was completed.
#[derive(Debug)]
pub(super) struct OpenUpload {
    pub(super) upload: Upload,
    /// Everything the object will carry.
    pub(super) meta: Meta,
    room: Arc<Room>,
    bucket: Arc<dyn Bucket>,
    over: AtomicBool,
    /// Its entry in the ledger.
    noted: Mutex<Option<Entry>>,
}

impl OpenUpload {
    /// Opens an upload whose object will carry `meta`, which has a token.
    pub(super) async fn open(room: &Arc<Room>, cx: &Ctx, bucket: &Arc<dyn Bucket>, key: &store::Key, meta: Meta) -> Result<Arc<Self>> {
        let upload = bucket.create_upload(cx, key, &meta).await?;
        let (over, noted) = (AtomicBool::new(false), Mutex::new(None));
        let open = Arc::new(Self { upload, meta, room: Arc::clone(room), bucket: Arc::clone(bucket), over, noted });
        let leftover = Leftover::Upload { key: key.as_str().to_owned(), id: open.upload.id.0.to_string() };
        let entry = Ledger::note_if(room.ledger.as_ref(), leftover).await;
        *open.noted.lock() = entry;
        Ok(open)
    }

    /// Makes the part `planned` of that number; where it is a copy, from `origin`.
    pub(super) async fn make(
        &self,
        cx: &Ctx,
        number: PartNumber,
        planned: &Planned,
        origin: Option<&Arc<Origin>>,
        assembly: Result<Assembly>,
    ) -> Result<Part> {
        let part = match (planned.how, origin) {
            (How::Copy(source, from), Some(origin)) => {
                let range = from..from + (planned.range.end - planned.range.start);
                let copied = self.bucket.copy_part(cx, &self.upload, number, &origin.version, range).await;
                let part = copied.map_err(|error| copy_failed(error, source == BASE))?;
                cx.progressed();
                part
            }
            _ => assembly?.send(&self.room, cx, &self.bucket, &self.upload, number).await?,
        };
        Ok(Part { size: planned.range.end - planned.range.start, ..part })
    }

    /// Makes the object of `parts`, which are all of it.
    pub(super) async fn complete(&self, cx: &Ctx, parts: &[Part], replaces: &store::Replaces) -> Attempted {
        let stored = self.bucket.complete_upload(cx, &self.upload, parts, replaces).await?;
        self.over();
        check_whole(&stored, parts)?;
        Ok(stored)
    }

    /// The store has no such upload any more.
    pub(super) fn over(&self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(entry) = self.noted.lock().take() {
            entry.settled();
        }
    }
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        if *self.over.get_mut() {
            return;
        }
        let (bucket, upload, noted) = (Arc::clone(&self.bucket), self.upload.clone(), self.noted.get_mut().take());
        let cx = Ctx::background(Arc::clone(&self.room.clock), ABORT_WITHIN);
        self.room.tasks.spawn(async move {
            match (bucket.abort_upload(&cx, &upload).await, noted) {
                (Ok(()), Some(entry)) => entry.settled(),
                (Ok(()), None) => {}
                (Err(error), _) => tracing::warn!(%error, upload = &*upload.id.0, "an upload was left open; the next mount tries again"),
            }
        });
    }
}

/// Why a copy on the server failed: a source that is gone was replaced, as far as the file is concerned.
pub(super) fn copy_failed(error: store::Error, is_base: bool) -> Error {
    let error = if error.kind() == Kind::NotFound { Error::Stale } else { error.into() };
    gone(error, is_base)
}

/// Compares what the store says of the whole with what it said of the parts: by checksum where it told all of them, by size anyway.
fn check_whole(stored: &Stored, parts: &[Part]) -> Result<()> {
    check_size(stored, parts.iter().map(|part| part.size).sum())?;
    let combined = parts.iter().try_fold(0, |sum, part| Some(store::combine_crc64(sum, part.crc64?, part.size)));
    match (combined, stored.crc64) {
        (Some(meant), Some(made)) if meant != made => Err(corrupt("the object's checksum is not that of its parts", stored)),
        _ => Ok(()),
    }
}

pub(super) fn check_size(stored: &Stored, size: u64) -> Result<()> {
    if stored.version.size == size { Ok(()) } else { Err(corrupt("the object has another size than was sent", stored)) }
}

fn corrupt(message: &str, stored: &Stored) -> Error {
    tracing::error!(key = %stored.version.key, message, "the object is damaged; what was written is kept here and will be sent again");
    Error::Store(store::Error::new(Kind::Corrupt, "Complete Multipart Upload", message).on(&stored.version.key))
}
