//! Says once of each failed operation what failed, on what, and what COS answered.
//!
//! The place to log is where an operation is answered: errors come up to here with all that is known, and nobody below logs what it returns. What a
//! program's own mistakes and everyday questions answer (no such file, not empty) is no failure and is told at `debug` only.
//!
//! What the kernel could not read ahead it asks for once more when the program wants it: two requests, one failure ([`TWIN`]).
//!
//! A storm must not drown the log: of failures of one sort (operation, errno, COS's code) [`MOST`] are told in a [`WINDOW`], and at its end how many
//! were left out.

use std::{collections::HashMap, sync::Arc, time::Duration};

use nix::errno::Errno;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use crate::fuse::dispatch::Request;
use crate::fuse::errno::{errno, is_trouble};
use crate::support::Clock;
use crate::vfs::Error;

/// Failures of one sort that are told within a window.
const MOST: u64 = 5;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);
/// A failed read that is repeated for the same program within this is the same failure.
const TWIN: Duration = Duration::from_millis(100);
/// Sorts that are told apart; codes come from a server, which may make up many.
const SORTS: usize = 64;

/// The failures of one mount.
#[derive(Debug)]
pub(super) struct Failures {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    recent: Mutex<HashMap<Sort, Burst>>,
    /// The last failed read: inode, process, when.
    read: Mutex<Option<(u64, u32, Instant)>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sort {
    operation: &'static str,
    errno: &'static str,
    code: Option<String>,
}

/// A window and what came in it.
#[derive(Debug, Clone, Copy)]
struct Burst {
    since: Instant,
    count: u64,
}

impl Burst {
    fn left_out(self) -> u64 {
        self.count.saturating_sub(MOST)
    }
}

impl Failures {
    pub(super) fn new(runtime: Handle, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { runtime, clock, recent: Mutex::default(), read: Mutex::default() })
    }

    /// Tells of a request that is answered with `error`; `key` is what its inode stands for.
    pub(super) fn note(self: &Arc<Self>, request: Request, error: &Error, key: impl FnOnce() -> Option<String>) {
        let Request { operation, ino, pid, uid, .. } = request;
        let answer = errno(error);
        let errno = name(answer.code());
        if !is_trouble(answer) {
            tracing::debug!(operation, ino, pid, uid, errno, "{error}");
            return;
        }
        let refusal = error.refusal();
        let code = refusal.and_then(|refusal| refusal.code);
        if operation == "read" && self.is_twin(ino, pid) {
            return;
        }
        if !self.is_told(Sort { operation, errno, code: code.map(str::to_owned) }) {
            return;
        }
        let key = refusal.map(|refusal| refusal.target.to_owned()).filter(|target| !target.is_empty()).or_else(key);
        let (status, request_id) = (refusal.and_then(|refusal| refusal.status), refusal.and_then(|refusal| refusal.request_id));
        let tries = refusal.map(|refusal| refusal.tries);
        tracing::warn!(operation, key, errno, code, status, request = request_id, tries, ino, pid, uid, "{error}");
    }

    /// Whether this is the second of two reads that fail as one.
    fn is_twin(&self, ino: u64, pid: u32) -> bool {
        let now = self.clock.now();
        let mut last = self.read.lock();
        match last.take() {
            Some((before, by, when)) if (before, by) == (ino, pid) && now - when < TWIN => true,
            _ => {
                *last = Some((ino, pid, now));
                false
            }
        }
    }

    /// Counts a failure and says whether it is one to tell.
    fn is_told(self: &Arc<Self>, sort: Sort) -> bool {
        let now = self.clock.now();
        let mut recent = self.recent.lock();
        recent.retain(|_, burst| burst.left_out() > 0 || now - burst.since < WINDOW);
        let sort = if recent.len() < SORTS { sort } else { Sort { code: None, ..sort } };
        let burst = recent.entry(sort.clone()).or_insert(Burst { since: now, count: 0 });
        burst.count += 1;
        if burst.left_out() == 1 {
            let failures = Arc::clone(self);
            let rest = (burst.since + WINDOW).saturating_duration_since(now);
            self.runtime.spawn(async move {
                failures.clock.sleep(rest).await;
                let ended = failures.recent.lock().remove(&sort);
                if let Some(burst) = ended {
                    tell(&sort, burst);
                }
            });
        }
        burst.left_out() == 0
    }

    /// Tells at the end what was left out and not told yet.
    pub(super) fn sum_up(&self) {
        let recent = std::mem::take(&mut *self.recent.lock());
        for (sort, burst) in recent {
            tell(&sort, burst);
        }
    }
}

fn tell(sort: &Sort, burst: Burst) {
    let left_out = burst.left_out();
    if left_out > 0 {
        let Sort { operation, errno, code } = sort;
        tracing::warn!(operation, errno, code, left_out, "more failures like those above, in {} s", WINDOW.as_secs());
    }
}

fn name(errno: i32) -> &'static str {
    match Errno::from_raw(errno) {
        Errno::EIO => "EIO",
        Errno::ETIMEDOUT => "ETIMEDOUT",
        Errno::EACCES => "EACCES",
        Errno::EDQUOT => "EDQUOT",
        Errno::ENOSPC => "ENOSPC",
        Errno::ESTALE => "ESTALE",
        Errno::EBUSY => "EBUSY",
        Errno::ENOENT => "ENOENT",
        other => other.desc(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    fn sort(code: &str) -> Sort {
        Sort { operation: "read", errno: "EIO", code: Some(code.to_owned()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_counted_and_summed_up() {
        let failures = Failures::new(Handle::current(), Arc::new(SystemClock));
        let told = (0..1000).filter(|_| failures.is_told(sort("InternalError"))).count();
        assert_eq!(told as u64, MOST);
        assert_eq!(failures.recent.lock()[&sort("InternalError")].left_out(), 995);
        assert!(failures.is_told(sort("SlowDown")), "another sort is told");
        SystemClock.sleep(WINDOW + Duration::from_secs(1)).await;
        assert!(!failures.recent.lock().contains_key(&sort("InternalError")), "the window's end sums up");
        assert!(failures.is_told(sort("InternalError")), "and the next one is told again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_fails_twice_as_one_is_one() {
        let failures = Failures::new(Handle::current(), Arc::new(SystemClock));
        assert!(!failures.is_twin(1, 2) && failures.is_twin(1, 2));
        assert!(!failures.is_twin(1, 2), "the next pair is another failure");
        assert!(!failures.is_twin(1, 3) && !failures.is_twin(2, 3));
        SystemClock.sleep(TWIN).await;
        assert!(!failures.is_twin(2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_codes_do_not_fill_memory() {
        let failures = Failures::new(Handle::current(), Arc::new(SystemClock));
        for n in 0..1000 {
            failures.is_told(sort(&format!("Code{n}")));
        }
        assert!(failures.recent.lock().len() <= SORTS + 1);
    }
}
