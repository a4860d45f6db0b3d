//! What all calls know together of how a bucket does, so that each need not find out by itself.
//!
//! In an outage a thousand callers that each try again on their own are a storm, and one that pauses for long sleeps on when all is well again.
//! So after [`TRIP`] failures in a row without one success, requests of that kind stop: one caller in each [`PROBE`] makes its own request for
//! all, and the first that is answered lets everybody go on at once.
//!
//! 1. *Two kinds.* Reading and writing are throttled apart, and refused apart (a full account): each has a [`Lane`] of its own.
//! 2. *What hangs at the end.* A request that was swallowed is not answered when the network is back. When a lane comes back that had been
//!    silent, attempts begun before on which nothing moves are given up a moment later ([`Health::overtaken`]) and made anew. An upload on a slow
//!    line is none of these: the answer to somebody's small request must not make it begin again.
//! 3. *Old news.* An attempt that began before the last success says nothing about now when it fails.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::store::{Error, Kind, Operation, Result, attempt::Attempt};
use crate::support::{Clock, Ctx, NoProgress, Urgency};

/// Failures in a row that stop a lane. One that took long counts for [`STALL`] of them: it has said more.
const TRIP: u32 = 6;
const STALL: u32 = 3;
/// A failure behind this time is a stall.
const LONG: Duration = Duration::from_secs(1);

/// Between requests while a lane is stopped.
const PROBE: Duration = Duration::from_secs(1);

/// How long attempts from before a return have to show that they live.
const GRACE: Duration = Duration::from_millis(500);
/// What moved so shortly before a return lives: shorter than any outage in which something is swallowed without being noticed.
const LIVELY: Duration = Duration::from_secs(2);

/// How long after a throttling answer the store is asked for nothing twice.
const CALM: Duration = Duration::from_secs(10);

/// How one bucket does.
#[derive(Debug)]
pub(super) struct Health {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// A lane has come back.
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    lanes: [Lane; 2],
    /// How often a silent lane has come back.
    returns: u64,
    throttled: Option<Instant>,
}

#[derive(Debug, Default)]
struct Lane {
    /// What failures since the last success add up to.
    failures: u32,
    /// Whether the last of them was no answer at all.
    silent: bool,
    succeeded: Option<Instant>,
    next_probe: Option<Instant>,
    /// What the last failure said.
    said: String,
}

impl Lane {
    fn is_stopped(&self) -> bool {
        self.failures >= TRIP
    }
}

impl Health {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default(), returned: Notify::new() })
    }

    /// Waits until a request may be made.
    ///
    /// # Errors
    /// Nobody was answered until the deadline; or the request is one ahead of need, which is simply not made.
    pub(super) async fn admit(&self, cx: &Ctx, operation: Operation) -> Result<()> {
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            let wait = {
                let mut state = self.state.lock();
                let lane = &mut state.lanes[lane_of(operation)];
                if !lane.is_stopped() {
                    return Ok(());
                }
                let now = self.clock.now();
                match lane.next_probe.map(|at| at.saturating_duration_since(now)).filter(|wait| !wait.is_zero()) {
                    Some(wait) => wait,
                    None => {
                        lane.next_probe = Some(now + PROBE);
                        return Ok(());
                    }
                }
            };
            let said = || self.state.lock().lanes[lane_of(operation)].said.clone();
            if cx.urgency == Urgency::Prefetch {
                return Err(Error::new(Kind::Unavailable, operation.name(), format!("not asked for during an outage: {}", said())));
            }
            let waited = cx.bounded(async {
                tokio::select! {
                    () = returned => {}
                    () = self.clock.sleep(wait) => {}
                }
            });
            waited.await.map_err(|NoProgress(patience)| {
                let message = format!("nobody was answered for {} s: {}", patience.as_secs(), said());
                Error::new(Kind::NoProgress, operation.name(), message)
            })?;
        }
    }

    /// An attempt that began then has ended.
    pub(super) fn ended(&self, operation: Operation, began: Instant, failure: Option<&Error>) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        let failure = failure.filter(|error| matches!(error.kind(), Kind::Throttled | Kind::Unavailable | Kind::NoProgress));
        if failure.is_some_and(|error| error.kind() == Kind::Throttled) {
            state.throttled = Some(now);
        }
        let lane = &mut state.lanes[lane_of(operation)];
        let Some(error) = failure else {
            let (stopped, silent) = (lane.is_stopped(), lane.silent);
            *lane = Lane { succeeded: Some(now), ..Lane::default() };
            if stopped {
                state.returns += u64::from(silent);
                drop(state);
                tracing::info!(operation = operation.name(), "the store answers again");
                self.returned.notify_waiters();
            }
            return;
        };
        if lane.succeeded.is_some_and(|at| began < at) {
            return;
        }
        let stopped = lane.is_stopped();
        lane.failures += if now.duration_since(began) >= LONG { STALL } else { 1 };
        lane.silent = error.status().is_none();
        lane.said = error.to_string();
        if !stopped && lane.is_stopped() {
            lane.next_probe = Some(now + PROBE);
            tracing::warn!(%error, "the store does not answer; it is asked once a second until it does");
        }
    }

    /// Whether the lane of `operation` is stopped.
    pub(super) fn is_stopped(&self, operation: Operation) -> bool {
        self.state.lock().lanes[lane_of(operation)].is_stopped()
    }

    /// Sleeps; not longer than until a lane comes back.
    pub(super) async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.returned.notified() => {}
            () = self.clock.sleep(time) => {}
        }
    }

    /// Completes when `attempt`, which begins now, hangs although the store is back (2).
    pub(super) async fn overtaken(&self, attempt: &Attempt) {
        let mut begun = self.state.lock().returns;
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            let returns = self.state.lock().returns;
            if returns > begun {
                let now = self.clock.now();
                // Not all at once.
                let nanos = u64::try_from(GRACE.as_nanos()).unwrap_or(u64::MAX);
                self.clock.sleep(GRACE + Duration::from_nanos(self.clock.below(nanos))).await;
                if !attempt.has_moved_since(now.checked_sub(LIVELY).unwrap_or(now)) {
                    return;
                }
                begun = returns;
            } else {
                returned.await;
            }
        }
    }

    /// Whether the store may be asked for more than is needed: no outage, no throttling lately.
    pub(super) fn is_calm(&self) -> bool {
        let state = self.state.lock();
        let quiet = state.throttled.is_none_or(|at| self.clock.now().saturating_duration_since(at) >= CALM);
        quiet && state.lanes.iter().all(|lane| lane.failures < STALL)
    }
}

/// Reading or writing.
fn lane_of(operation: Operation) -> usize {
    usize::from(matches!(
        operation,
        Operation::CreateBucket
            | Operation::DeleteBucket
            | Operation::Put
            | Operation::Copy
            | Operation::Delete
            | Operation::DeleteMany
            | Operation::CreateUpload
            | Operation::UploadPart
            | Operation::CopyPart
            | Operation::CompleteUpload
            | Operation::AbortUpload
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    const PATIENCE: Duration = Duration::from_secs(90);

    fn fixture() -> (Arc<Health>, Ctx) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        (Health::new(Arc::clone(&clock)), Ctx::new(clock, PATIENCE, 1, 1))
    }

    fn refused() -> Error {
        Error::new(Kind::Unavailable, "GET Object", "connection refused")
    }

    fn stop(health: &Health) {
        for _ in 0..TRIP {
            health.ended(Operation::Get, health.clock.now(), Some(&refused()));
        }
    }

    /// How many of a hundred callers made a request within `time`, each trying again at once when it is refused.
    async fn requests(health: &Arc<Health>, cx: &Ctx, operation: Operation, time: Duration) -> usize {
        let made = Arc::new(Mutex::new(0));
        let callers = (0..100).map(|_| {
            let (health, cx, made) = (Arc::clone(health), cx.clone(), Arc::clone(&made));
            tokio::spawn(async move {
                while health.admit(&cx, operation).await.is_ok() {
                    *made.lock() += 1;
                    cx.clock().sleep(Duration::from_millis(5)).await;
                    health.ended(operation, cx.clock().now(), Some(&refused()));
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        health.clock.sleep(time).await;
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        *made.lock()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_ask_once_a_second() {
        let (health, cx) = fixture();
        stop(&health);
        let made = requests(&health, &cx, Operation::Get, Duration::from_secs(60)).await;
        assert!((58..=61).contains(&made), "{made}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_kind_that_is_refused_does_not_stop_the_other() {
        let (health, cx) = fixture();
        stop(&health);
        let start = health.clock.now();
        health.admit(&cx, Operation::Put).await.unwrap();
        assert_eq!(health.clock.now(), start);
        assert!(health.is_stopped(Operation::Head) && !health.is_stopped(Operation::Put));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_wakes_everybody() {
        let (health, cx) = fixture();
        stop(&health);
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let (health, cx) = (Arc::clone(&health), cx.clone());
                tokio::spawn(async move { health.admit(&cx, Operation::List).await })
            })
            .collect();
        health.clock.sleep(Duration::from_millis(10)).await;
        let start = health.clock.now();
        health.ended(Operation::Get, start, None);
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert_eq!(health.clock.now(), start);
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_given_up_when_the_store_is_back_and_not_before() {
        let (health, cx) = fixture();
        let attempt = Attempt::new(&cx, 1);
        let hanging = health.overtaken(&attempt);
        tokio::pin!(hanging);
        let soon = |time| tokio::time::timeout(time, std::future::pending::<()>());
        tokio::select! { () = &mut hanging => panic!("nothing has happened"), _ = soon(Duration::from_secs(60)) => {} }
        health.ended(Operation::Get, health.clock.now(), None);
        tokio::select! { () = &mut hanging => panic!("others were answered in good times"), _ = soon(Duration::from_secs(60)) => {} }
        stop(&health);
        tokio::select! { () = &mut hanging => panic!("nobody is answered"), _ = soon(Duration::from_secs(60)) => {} }
        let back = health.clock.now();
        health.ended(Operation::Get, back, None);
        hanging.await;
        assert!(health.clock.now() - back <= 2 * GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_given_up_when_the_store_is_back() {
        let (health, cx) = fixture();
        let attempt = Attempt::new(&cx, 1);
        let overtaken = health.overtaken(&attempt);
        tokio::pin!(overtaken);
        let soon = |time| tokio::time::timeout(time, std::future::pending::<()>());
        tokio::select! { biased; () = &mut overtaken => panic!("nothing has happened"), _ = soon(Duration::from_secs(5)) => {} }
        attempt.moved();
        stop(&health);
        health.ended(Operation::Head, health.clock.now(), None);
        tokio::select! { () = &mut overtaken => panic!("it was moving"), _ = soon(Duration::from_secs(60)) => {} }
        stop(&health);
        health.ended(Operation::Head, health.clock.now(), None);
        overtaken.await;
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_before_the_last_success_are_old_news() {
        let (health, _) = fixture();
        let before = health.clock.now();
        health.clock.sleep(Duration::from_secs(10)).await;
        health.ended(Operation::Get, health.clock.now(), None);
        for _ in 0..100 {
            health.ended(Operation::Get, before, Some(&refused()));
        }
        assert!(!health.is_stopped(Operation::Get));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline_and_what_is_ahead_of_need_does_not_wait() {
        let (health, cx) = fixture();
        stop(&health);
        health.ended(Operation::Get, health.clock.now(), Some(&refused()));
        let ahead = health.admit(&cx.with_urgency(Urgency::Prefetch), Operation::Get).await.unwrap_err();
        assert_eq!(ahead.kind(), Kind::Unavailable);
        let start = health.clock.now();
        let busy = tokio::spawn({
            let health = Arc::clone(&health);
            async move { requests(&health, &Ctx::new(Arc::clone(&health.clock), 2 * PATIENCE, 1, 1), Operation::Get, 2 * PATIENCE).await }
        });
        health.clock.sleep(Duration::from_millis(1)).await;
        let late = loop {
            match health.admit(&cx, Operation::Get).await {
                Ok(()) => health.ended(Operation::Get, health.clock.now(), Some(&refused())),
                Err(late) => break late,
            }
        };
        assert_eq!(late.kind(), Kind::NoProgress);
        assert!(late.to_string().contains("connection refused"), "{late}");
        assert!(health.clock.now() - start <= PATIENCE + Duration::from_secs(1));
        busy.abort();
    }
}
