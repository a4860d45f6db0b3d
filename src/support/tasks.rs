//! Tasks with an owner: every one spawned here is joined, or aborted, by the group that spawned it.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinSet};

use crate::support::Clock;

/// Owns a set of tasks on one runtime. Dropping the group aborts what still runs.
#[derive(Debug)]
pub struct TaskGroup {
    runtime: Handle,
    /// Ended tasks are reaped at each spawn, so the set holds what runs and little more.
    tasks: Mutex<JoinSet<()>>,
}

impl TaskGroup {
    /// A group whose tasks run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tasks: Mutex::new(JoinSet::new()) }
    }

    /// Starts `future`. A panic in it ends that task alone and is logged when it is reaped.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            log_panic(&ended);
        }
        tasks.spawn_on(future, &self.runtime);
    }

    /// How many tasks have not been reaped.
    pub fn len(&self) -> usize {
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            log_panic(&ended);
        }
        tasks.len()
    }

    /// Whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all tasks have ended, at most `limit`, then aborts the rest. Returns how many were aborted.
    pub async fn join(&self, clock: &Arc<dyn Clock>, limit: Duration) -> usize {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let drain = async {
            while let Some(ended) = tasks.join_next().await {
                log_panic(&ended);
            }
        };
        tokio::select! {
            () = drain => {}
            () = clock.sleep(limit) => {}
        }
        let left = tasks.len();
        tasks.shutdown().await;
        left
    }
}

fn log_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a background task panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn join_waits_and_then_aborts() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let group = TaskGroup::new(Handle::current());
        for seconds in [1, 5, 100] {
            let clock = Arc::clone(&clock);
            group.spawn(async move { clock.sleep(Duration::from_secs(seconds)).await });
        }
        assert_eq!(group.join(&clock, Duration::from_secs(10)).await, 1);
        assert!(group.is_empty());
    }
}
