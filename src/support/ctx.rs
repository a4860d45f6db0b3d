//! The context that travels as the first argument of every call that may wait: who asks, how long to wait without progress, how urgent.
//!
//! The deadline is one *without progress*: whoever moves a byte or finishes a request on behalf of the call says [`Ctx::progressed`], and the
//! time starts anew. So a rename of a million objects is fine and a black hole is not. Clones share the same deadline.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::support::Clock;

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
    patience: Duration,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Progress {
    clock: Arc<dyn Clock>,
    start: Instant,
    /// Milliseconds after `start` at which something last moved.
    last: AtomicU64,
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
            patience,
            progress: Arc::new(Progress { clock, start, last: AtomicU64::new(0) }),
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
        let elapsed = self.progress.clock.now().duration_since(self.progress.start);
        self.progress.last.store(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
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
}
