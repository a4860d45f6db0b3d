//! Objects of zeros, of which long holes are copied.
//!
//! COS has no holes. A short one is sent as zeros, which are made as they go; for more than a few parts of it the mount keeps an object of zeros,
//! `PREFIX/.cosmount/zeros/<mount id>/<size>`, and a hole is part copies of that. The first has the size of a part and is sent; larger ones, for holes
//! that would take too many parts, are made of copies of it. They go at the end of the mount or, after a crash, at the next: each is in the ledger before it is
//! made. Without a ledger, or where one cannot be made, holes are sent.

use std::{ops::Range, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Piece, Room, StagedFile, Where,
    plan::{BASE, How, Planned},
    upload::{OpenUpload, Refused},
};
use crate::data::{Error, Result, read::Origin};

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{Bucket, Key, Meta, Part, PartNumber, Payload, Replaces, Segment, Stored};

use crate::support::Ctx;

/// Holes of fewer parts than this are sent.
const WORTH: u64 = 4;
/// A larger object is made for holes of more copies than this.
const MANY_COPIES: u64 = 1000;
/// Copies at once.
const COPIES_AT_ONCE: usize = 32;

/// An object of zeros.
#[derive(Debug)]
pub(super) struct Zeros {
    pub(super) origin: Arc<Origin>,
    noted: Entry,
}

impl Room {
    /// An object of zeros for the holes among `pieces`, if it pays to copy them. Made when it is first needed.
    pub(super) async fn zeros_for(
        self: &Arc<Self>,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        pieces: &[Piece<Arc<StagedFile>>],
    ) -> Option<Arc<Origin>> {
        let (Some(prefix), Some(ledger)) = (&self.config.zeros, &self.ledger) else { return None };
        let capabilities = bucket.capabilities();
        let first = self.config.part_size.bytes().clamp(capabilities.smallest_part, capabilities.largest_part / 2);
        let holes: u64 = pieces.iter().map(|piece| hole(piece, first)).sum();
        if holes < WORTH * first {
            return None;
        }
        let wanted = (holes / MANY_COPIES).next_multiple_of(first).clamp(first, capabilities.largest_part / first * first);
        let mut zeros = self.zeros.lock().await;
        if let Some(there) = zeros.iter().find(|there| there.origin.version.size >= wanted && there.origin.bucket.name() == bucket.name()) {
            return Some(Arc::clone(&there.origin));
        }
        for size in [first, wanted] {
            let source = zeros.iter().find(|there| there.origin.bucket.name() == bucket.name()).map(|there| Arc::clone(&there.origin));
            if source.as_ref().is_some_and(|source| source.version.size >= size) {
                continue;
            }
            let key = Key::new(format!("{prefix}{size}"));
            let noted = Ledger::note_if(Some(ledger), Leftover::Helper { key: key.as_str().to_owned() }).await?;
            match self.make_zeros(cx, bucket, &key, size, source.as_ref()).await {
                Ok(stored) => zeros.push(Zeros { origin: Origin::new(Arc::clone(bucket), stored.version), noted }),
                Err(error) => {
                    // It may be there all the same: its entry stays for the next mount.
                    tracing::warn!(%error, %key, "holes are sent as zeros, because no object of zeros could be made to copy them from");
                    return None;
                }
            }
        }
        zeros.last().map(|zeros| Arc::clone(&zeros.origin))
    }

    async fn make_zeros(
        self: &Arc<Self>,
        cx: &Ctx,
        bucket: &Arc<dyn Bucket>,
        key: &Key,
        size: u64,
        source: Option<&Arc<Origin>>,
    ) -> Result<Stored> {
        let meta = self.marked(&Meta::default());
        let Some(source) = source else {
            let payload = Payload::new(vec![Segment::Zeros(size)]);
            return Ok(bucket.put(cx, key, &meta, payload, &Replaces::Anything).await?);
        };
        let upload = OpenUpload::open(self, cx, bucket, key, meta).await?;
        let copies = repeats(0..size, source).zip(1..).map(|(range, number)| {
            let (upload, part) = (&upload, Planned { range, how: How::Copy(BASE, 0) });
            async move { upload.make(cx, PartNumber(number), &part, Some(source), Err(Error::Stale)).await }
        });
        let parts: Vec<Part> = stream::iter(copies).buffered(COPIES_AT_ONCE).try_collect().await?;
        upload.complete(cx, &parts, &Replaces::Anything).await.map_err(|Refused { error, .. }| error)
    }

    /// Somebody has removed an object of zeros: the next hole has a new one.
    pub(super) async fn forget_zeros(&self) {
        self.zeros.lock().await.clear();
    }

    /// Removes all objects of zeros.
    pub(crate) async fn let_go(&self, cx: &Ctx) {
        for Zeros { origin, noted } in std::mem::take(&mut *self.zeros.lock().await) {
            match origin.bucket.delete(cx, &origin.version.key, Some(&origin.version)).await {
                Ok(()) => noted.settled(),
                Err(error) => tracing::warn!(%error, key = %origin.version.key, "a helper object stays behind; the next mount tries again"),
            }
        }
    }
}

/// Ranges of about equal length that tile `range`, each no longer than `zeros`.
pub(super) fn repeats(range: Range<u64>, zeros: &Origin) -> impl Iterator<Item = Range<u64>> + Send + use<> {
    let len = range.end - range.start;
    let count = len.div_ceil(zeros.version.size);
    let at = move |n: u64| range.start + u64::try_from(u128::from(len) * u128::from(n) / u128::from(count.max(1))).unwrap_or(len);
    (0..count).map(move |n| at(n)..at(n + 1))
}

/// Bytes of a hole that is worth copying.
fn hole(piece: &Piece<Arc<StagedFile>>, least: u64) -> u64 {
    let len = piece.range.end - piece.range.start;
    if matches!(piece.place, Where::Hole) && len >= least { len } else { 0 }
}
