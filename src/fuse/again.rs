//! What the kernel asks twice, so that no system call waits twice.
//!
//! When a page that was read ahead has not come, the kernel asks for it once more, alone, on behalf of the same program; when a name could not be
//! revalidated, it is looked up (`filemap_fault`, `fuse_dentry_revalidate`; kernel 6.18, measured). Each of both would wait for `--io-timeout`. So
//! what has just failed for lack of progress fails the second time at once. Only once: a program that tries again is served as any other.

use std::{
    collections::VecDeque,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{Ctx, NoProgress};
use crate::vfs::{Error, Result};

/// How soon the kernel asks again.
const SOON: Duration = Duration::from_millis(500);
/// Failures remembered at most.
const MOST: usize = 256;

/// What failed lately.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// Whether there is anything in the list: an everyday request takes no lock.
    any: AtomicBool,
    failures: Mutex<VecDeque<(Instant, Asked)>>,
}

/// What was asked, and for which thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pid: u32,
    ino: u64,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Bytes(Range<u64>),
    /// By its hash.
    Name(u64),
}

impl Asked {
    pub(super) fn bytes(pid: u32, ino: u64, range: Range<u64>) -> Self {
        Self { pid, ino, what: What::Bytes(range) }
    }

    pub(super) fn name(pid: u32, parent: u64, name: &std::ffi::OsStr) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self { pid, ino: parent, what: What::Name(hasher.finish()) }
    }

    /// Whether this is what was asked before, or a part of it.
    fn repeats(&self, before: &Self) -> bool {
        let same = match (&self.what, &before.what) {
            (What::Bytes(now), What::Bytes(before)) => before.start <= now.start && now.start < before.end,
            (now, before) => now == before,
        };
        same && self.pid == before.pid && self.ino == before.ino
    }
}

impl Again {
    /// Does `work`, unless it has just failed.
    pub(super) async fn unless_failed<T>(&self, cx: &Ctx, asked: Asked, work: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = cx.clock().now();
        if self.any.load(Ordering::Relaxed) && self.take(&asked, begun) {
            return Err(NoProgress(cx.patience()).into());
        }
        let result = work.await;
        if let Err(Error::TimedOut(_) | Error::Io(_)) = &result {
            let now = cx.clock().now();
            // What failed soon may fail soon again, and may as well not.
            if now.duration_since(begun) >= cx.patience() / 2 {
                self.note(asked, now);
            }
        }
        result
    }

    fn take(&self, asked: &Asked, now: Instant) -> bool {
        let mut failures = self.failures.lock();
        failures.retain(|(at, _)| now.saturating_duration_since(*at) < SOON);
        let place = failures.iter().position(|(_, before)| asked.repeats(before));
        if let Some(place) = place {
            failures.remove(place);
        }
        self.any.store(!failures.is_empty(), Ordering::Relaxed);
        place.is_some()
    }

    fn note(&self, asked: Asked, now: Instant) {
        let mut failures = self.failures.lock();
        if failures.len() >= MOST {
            failures.pop_front();
        }
        failures.push_back((now, asked));
        self.any.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, sync::Arc};

    use super::*;
    use crate::support::{Clock, SystemClock};

    const PATIENCE: Duration = Duration::from_secs(90);

    /// Whether the request was answered at once.
    async fn at_once(again: &Again, asked: Asked, fails_after: Duration) -> bool {
        let cx = Ctx::new(Arc::new(SystemClock), PATIENCE, 1, 1);
        let start = cx.clock().now();
        let work = async {
            cx.clock().sleep(fails_after).await;
            Err::<(), _>(NoProgress(PATIENCE).into())
        };
        again.unless_failed(&cx, asked, work).await.unwrap_err();
        cx.clock().now() == start
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_request_fails_at_once_and_the_third_waits() {
        let again = Again::default();
        for (first, second) in [
            (Asked::bytes(7, 1, 0..1 << 17), Asked::bytes(7, 1, 4096..8192)),
            (Asked::name(7, 1, OsStr::new("a")), Asked::name(7, 1, OsStr::new("a"))),
        ] {
            assert!(!at_once(&again, first, PATIENCE).await);
            assert!(at_once(&again, second.clone(), PATIENCE).await);
            assert!(!at_once(&again, second, PATIENCE).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_other_places_and_later_ones_wait() {
        let again = Again::default();
        let first = || Asked::bytes(7, 1, 0..1 << 17);
        for other in [Asked::bytes(8, 1, 0..4096), Asked::bytes(7, 2, 0..4096), Asked::bytes(7, 1, 1 << 17..1 << 18)] {
            at_once(&again, first(), PATIENCE).await;
            assert!(!at_once(&again, other, PATIENCE).await);
        }
        at_once(&again, first(), PATIENCE).await;
        SystemClock.sleep(SOON).await;
        assert!(!at_once(&again, first(), PATIENCE).await);
        at_once(&again, Asked::name(7, 1, OsStr::new("b")), Duration::from_secs(1)).await;
        assert!(!at_once(&again, Asked::name(7, 1, OsStr::new("b")), PATIENCE).await, "it did not wait in vain");
    }
}
