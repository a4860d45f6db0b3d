//! The context that travels as the first argument of every call that may wait: who asks, how long to wait without progress, how urgent.
//!
//! The deadline is one *without progress*: whoever finishes a request on behalf of the call says [`Ctx::progressed`], and the time starts anew.
//! Bytes say [`Ctx::moved`], and count only as a flow: what trickles below [`SLOWEST`] moves no deadline, or a server that sends a byte now and then
//! would keep a program waiting for ever. So a rename of a million objects is fine and a black hole is not. Clones share the same deadline.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::support::Clock;

/// Bytes a second below which a transfer counts as standing still.
pub const SLOWEST: u64 = 16 << 10;

/// How urgent a call is: limits serve the first before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A program waits for the answer.
    Demand,
    /// Dirty bytes on their way out; a program may wait for memory because of them.
    WriteOut,
    /// Asked for ahead of need.
    Prefetch,
    /// Nobody waits: recovery, clean-up.
    Background,
}

/// Nothing moved for as long as the caller was ready to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no progress for {} s", .0.as_secs())]
pub struct NoProgress(pub Duration);

/// Who asks, until when, how urgent.
#[derive(Debug, Clone)]
pub struct Ctx {
    /// The thread id of the program that asks; 0 for this process itself.
    pub pid: u32,
    /// The user that asks.
    pub uid: u32,
    /// The group of the program that asks, where it is known: what it creates belongs to it.
    pub gid: Option<u32>,
    /// How urgent the call is.
    pub urgency: Urgency,
    /// Whether its requests may take the places that are kept for operations of very many of them.
    pub in_bulk: bool,
    patience: Duration,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Progress {
    clock: Arc<dyn Clock>,
    start: Instant,
    /// Milliseconds after `start` at which something last moved.
    last: AtomicU64,
    /// Bytes since then.
    bytes: AtomicU64,
    /// Attempts since then that stood still.
    setbacks: AtomicU32,
    /// Attempts that the store told to slow down.
    throttled: AtomicU32,
}

impl Progress {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.clock.now().duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn mark(&self, at: u64) {
        self.last.store(at, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.setbacks.store(0, Ordering::Relaxed);
    }
}

impl Ctx {
    /// A context for the program `pid` of user `uid`, which waits `patience` without progress.
    pub fn new(clock: Arc<dyn Clock>, patience: Duration, pid: u32, uid: u32) -> Self {
        let start = clock.now();
        Self {
            pid,
            uid,
            gid: None,
            urgency: Urgency::Demand,
            in_bulk: false,
            patience,
            progress: Arc::new(Progress {
                clock,
                start,
                last: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                setbacks: AtomicU32::new(0),
                throttled: AtomicU32::new(0),
            }),
        }
    }

    /// A context of this process's own, for work that no program waits for.
    pub fn background(clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Self { urgency: Urgency::Background, ..Self::new(clock, patience, 0, 0) }
    }

    /// The same call, with another urgency and the same deadline.
    pub fn with_urgency(&self, urgency: Urgency) -> Self {
        Self { urgency, ..self.clone() }
    }

    /// The same call, whose requests are very many.
    pub fn in_bulk(&self) -> Self {
        Self { in_bulk: true, ..self.clone() }
    }

    /// A context with the same caller and patience whose deadline is its own: for work that outlives this call.
    pub fn detached(&self, urgency: Urgency) -> Self {
        Self { urgency, gid: self.gid, ..Self::new(Arc::clone(&self.progress.clock), self.patience, self.pid, self.uid) }
    }

    /// The clock the deadline runs on.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.progress.clock
    }

    /// How long the caller waits without progress.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Something moved: the deadline starts anew.
    pub fn progressed(&self) {
        self.progress.mark(self.progress.elapsed());
    }

    /// Bytes moved: the deadline starts anew if, since it last did, they flowed at [`SLOWEST`] or faster.
    pub fn moved(&self, bytes: u64) {
        let elapsed = self.progress.elapsed();
        let since = elapsed.saturating_sub(self.progress.last.load(Ordering::Relaxed));
        let moved = self.progress.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if moved.saturating_mul(1000) >= since.saturating_mul(SLOWEST) {
            self.progress.mark(elapsed);
        }
    }

    /// This call waits for `other`: what moved there last has moved here. Says whether that was later than what had moved here.
    pub fn follow(&self, other: &Self) -> bool {
        let moved = other.progress.start + Duration::from_millis(other.progress.last.load(Ordering::Relaxed));
        let moved = u64::try_from(moved.saturating_duration_since(self.progress.start).as_millis()).unwrap_or(u64::MAX);
        let later = moved > self.progress.last.load(Ordering::Relaxed);
        if later {
            self.progress.mark(moved);
        }
        later
    }

    /// So much time went by on the caller's own side, which waited for nothing: the deadline is that much later.
    pub fn excuse(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let last = self.progress.last.load(Ordering::Relaxed).saturating_add(time).min(self.progress.elapsed());
        self.progress.last.store(last, Ordering::Relaxed);
    }

    /// An attempt on behalf of the call stood still and was given up.
    pub fn set_back(&self) {
        self.progress.setbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// How many attempts in a row stood still.
    pub fn setbacks(&self) -> u32 {
        self.progress.setbacks.load(Ordering::Relaxed)
    }

    /// The store told an attempt on behalf of the call to slow down.
    pub fn slow_down(&self) {
        self.progress.throttled.fetch_add(1, Ordering::Relaxed);
    }

    /// How many attempts the store told to slow down.
    pub fn slowed_down(&self) -> u32 {
        self.progress.throttled.load(Ordering::Relaxed)
    }

    /// The instant at which the call gives up, unless something moves before.
    pub fn deadline(&self) -> Instant {
        self.progress.start + Duration::from_millis(self.progress.last.load(Ordering::Relaxed)) + self.patience
    }

    /// What is left until the deadline; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(self.progress.clock.now())
    }

    /// Runs `future` until it ends or nothing has moved for the caller's patience.
    ///
    /// # Errors
    /// [`NoProgress`] at the deadline; `future` is then dropped.
    pub async fn bounded<T>(&self, future: impl Future<Output = T>) -> Result<T, NoProgress> {
        let mut future = std::pin::pin!(future);
        loop {
            let left = self.remaining();
            if left.is_zero() {
                return Err(NoProgress(self.patience));
            }
            tokio::select! {
                biased;
                done = &mut future => return Ok(done),
                () = self.progress.clock.sleep(left) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    fn cx(patience: u64) -> Ctx {
        Ctx::new(Arc::new(SystemClock), Duration::from_secs(patience), 1, 0)
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline() {
        let cx = cx(90);
        let start = cx.clock().now();
        assert_eq!(cx.bounded(std::future::pending::<()>()).await, Err(NoProgress(Duration::from_secs(90))));
        assert_eq!(cx.clock().now() - start, Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_moves_the_deadline_for_all_clones() {
        let cx = cx(10);
        let mover = cx.with_urgency(Urgency::WriteOut);
        let work = async {
            for _ in 0..10 {
                mover.clock().sleep(Duration::from_secs(9)).await;
                mover.progressed();
            }
            7
        };
        assert_eq!(cx.bounded(work).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_moves_no_deadline_and_a_flow_does() {
        for (bytes, ends) in [(1 << 10, true), (8 << 10, true), (20 << 10, false)] {
            let cx = cx(10);
            let transfer = async {
                for _ in 0..60 {
                    cx.clock().sleep(Duration::from_secs(1)).await;
                    cx.moved(bytes);
                }
            };
            assert_eq!(cx.bounded(transfer).await.is_err(), ends, "{bytes} bytes a second");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_makes_good_for_a_pause_but_hoards_nothing() {
        let cx = cx(10);
        cx.moved(1 << 30);
        cx.clock().sleep(Duration::from_secs(9)).await;
        cx.moved(100 << 10);
        assert!(cx.remaining() <= Duration::from_secs(1), "100 KiB in nine seconds, whatever came before");
        cx.moved(100 << 10);
        assert_eq!(cx.remaining(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_caller_did_itself_is_not_waiting() {
        let cx = cx(10);
        cx.clock().sleep(Duration::from_secs(8)).await;
        cx.excuse(Duration::from_secs(5));
        assert_eq!(cx.remaining(), Duration::from_secs(7));
        cx.excuse(Duration::from_secs(500));
        assert_eq!(cx.remaining(), Duration::from_secs(10), "never more than all of it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_another_call_waits_from_when_that_last_moved() {
        let first = cx(10);
        first.clock().sleep(Duration::from_secs(8)).await;
        let second = cx(10);
        first.clock().sleep(Duration::from_secs(1)).await;
        first.progressed();
        first.clock().sleep(Duration::from_secs(7)).await;
        assert!(second.follow(&first));
        assert_eq!(second.remaining(), Duration::from_secs(3));
        assert!(!second.follow(&first), "nothing has moved since");
    }
}
