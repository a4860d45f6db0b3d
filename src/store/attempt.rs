//! One attempt of a call, as both ends of `store` see it: `wrap/retry.rs` numbers it and may give it up, `http.rs` sees whether anything moves on it.
//!
//! It goes with the task, not through the calls: what lies between the two need not know of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::support::{Clock, Ctx};

tokio::task_local! {
    static CURRENT: Attempt;
}

/// One attempt; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// Its number among those of its call, from 1.
    pub(super) number: u32,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    clock: Arc<dyn Clock>,
    start: Instant,
    /// When something last moved, in milliseconds after one before `start`; 0: never.
    moved: AtomicU64,
}

impl Attempt {
    pub(super) fn new(cx: &Ctx, number: u32) -> Self {
        let clock = Arc::clone(cx.clock());
        Self { number, life: Arc::new(Life { start: clock.now(), clock, moved: AtomicU64::new(0) }) }
    }

    /// The one that this task is at.
    pub(super) fn current(cx: &Ctx) -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_else(|_| Self::new(cx, 1))
    }

    /// Makes the requests of this attempt.
    pub(super) async fn run<T>(&self, requests: impl Future<Output = T>) -> T {
        CURRENT.scope(self.clone(), requests).await
    }

    /// Something moved on its connection.
    pub(super) fn moved(&self) {
        let elapsed = self.life.clock.now().duration_since(self.life.start).as_millis();
        self.life.moved.store(u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// Whether anything has moved since then.
    pub(super) fn has_moved_since(&self, then: Instant) -> bool {
        let moved = self.life.moved.load(Ordering::Relaxed);
        moved > 0 && self.life.start + Duration::from_millis(moved) > then
    }
}
