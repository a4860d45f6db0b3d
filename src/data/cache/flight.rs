//! A run of sectors on its way from the bucket: one fetch, any number of waiters.
//!
//! Whoever claimed it fills it from front to back; waiters are woken as bytes arrive and take them from here, not from the cache, which may have
//! dropped them already. A flight that was given up fails all who wait. Dropping a waiter changes nothing.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::BlockKey;
use crate::data::Error;

use crate::support::Ctx;

/// A run of sectors of one block that is being fetched.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) key: BlockKey,
    /// Offsets within the block.
    pub(crate) range: Range<u32>,
    arrived: Mutex<Arrived>,
    moved: Notify,
}

#[derive(Debug)]
struct Arrived {
    /// Consecutive from the start of the range.
    pieces: Vec<Bytes>,
    /// End of the last piece.
    upto: u32,
    failed: Option<Error>,
}

impl Flight {
    pub(super) fn new(key: BlockKey, range: Range<u32>) -> Arc<Self> {
        let arrived = Arrived { pieces: Vec::new(), upto: range.start, failed: None };
        Arc::new(Self { key, range, arrived: Mutex::new(arrived), moved: Notify::new() })
    }

    /// Where the next bytes go.
    pub(crate) fn upto(&self) -> u32 {
        self.arrived.lock().upto
    }

    /// Takes the next bytes.
    pub(super) fn deliver(&self, bytes: Bytes) {
        let mut arrived = self.arrived.lock();
        arrived.upto += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        arrived.pieces.push(bytes);
        drop(arrived);
        self.moved.notify_waiters();
    }

    /// Nothing more comes. Without effect on a flight that is complete.
    pub(super) fn fail(&self, error: &Error) {
        let mut arrived = self.arrived.lock();
        if arrived.upto < self.range.end && arrived.failed.is_none() {
            arrived.failed = Some(error.again());
        }
        drop(arrived);
        self.moved.notify_waiters();
    }

    /// Waits for the bytes of `range`, which lies within the flight's. What arrives is progress for `cx`, whoever asked for it.
    ///
    /// # Errors
    /// Why the fetch failed.
    pub(crate) async fn bytes(&self, cx: &Ctx, range: Range<u32>) -> Result<Vec<Bytes>, Error> {
        let mut seen = self.upto();
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let arrived = self.arrived.lock();
                if arrived.upto >= range.end {
                    return Ok(cut(&arrived.pieces, self.range.start, &range));
                }
                if let Some(error) = &arrived.failed {
                    return Err(error.again());
                }
                if arrived.upto > seen {
                    cx.moved(u64::from(arrived.upto - seen));
                    seen = arrived.upto;
                }
            }
            cx.bounded(moved).await?;
        }
    }
}

/// The slices of `pieces`, which begin at `start`, that make up `range`.
fn cut(pieces: &[Bytes], start: u32, range: &Range<u32>) -> Vec<Bytes> {
    let mut at = start as usize;
    let (from, to) = (range.start as usize, range.end as usize);
    let mut slices = Vec::new();
    for piece in pieces {
        let end = at + piece.len();
        if end > from && at < to {
            slices.push(piece.slice(from.max(at) - at..to.min(end) - at));
        }
        at = end;
    }
    slices
}
