//! How many requests are in flight: at most so many, the most urgent first, fewer when the store asks for fewer.
//!
//! A request waits in the queue of its urgency. A free place goes to the most urgent queue, but every eighth to the least urgent that waits, so
//! that nobody starves. A throttling answer halves the number of places, once a second at most (those in flight together are refused
//! together); after that each four rounds of successes give one place back. A GET keeps its place until its body is read or dropped.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{around_bucket, around_imports, around_service};
use crate::store::Kind;
use crate::support::{Clock, Urgency};

around_imports!();

/// Throttling answers within this time after one are the same event.
const ONE_EVENT: Duration = Duration::from_secs(1);

/// Which turn goes to the least urgent.
const FAIR_TURN: u32 = 8;

/// Limits a service, or one of its buckets.
#[derive(Debug)]
pub(in crate::store) struct Limit<T: ?Sized> {
    inner: Arc<T>,
    places: Arc<Places>,
}

/// The places of all buckets of a service.
#[derive(Debug)]
pub(in crate::store) struct Places {
    clock: Arc<dyn Clock>,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Invariant: requests in flight, each with a [`Place`].
    taken: usize,
    allowed: usize,
    /// Who waits, by urgency.
    waiting: [VecDeque<oneshot::Sender<Place>>; 4],
    turn: u32,
    /// Successes since a place was last given back or taken.
    successes: usize,
    lowered: Option<Instant>,
}

/// A request's place; free again when dropped.
#[derive(Debug)]
struct Place(Option<Arc<Places>>);

impl Places {
    pub(in crate::store) fn new(most: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let most = most.max(1);
        let waiting = std::array::from_fn(|_| VecDeque::new());
        Arc::new(Self { clock, most, state: Mutex::new(State { taken: 0, allowed: most, waiting, turn: 0, successes: 0, lowered: None }) })
    }

    /// Waits for a place. (Dropping the future gives up the wait, or the place if it has just come.)
    async fn take(self: &Arc<Self>, urgency: Urgency) -> Place {
        let waiter = {
            let mut state = self.state.lock();
            // Whoever is less urgent waits behind whoever waits; whoever is more urgent goes first by its queue.
            if state.taken < state.allowed && state.waiting.iter().all(VecDeque::is_empty) {
                state.taken += 1;
                return Place(Some(Arc::clone(self)));
            }
            let (sender, waiter) = oneshot::channel();
            state.waiting[rank(urgency)].push_back(sender);
            waiter
        };
        waiter.await.expect("the queue outlives its waiters: they hold its Arc")
    }

    fn free(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.taken -= 1;
        self.hand_out(&mut state);
    }

    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while state.taken < state.allowed {
            let Some(waiter) = state.next() else { return };
            state.taken += 1;
            if let Err(mut unwanted) = waiter.send(Place(Some(Arc::clone(self)))) {
                // The waiter has gone. Its place must not come back by drop: the lock is held.
                unwanted.0 = None;
                state.taken -= 1;
            }
        }
    }

    fn answered(self: &Arc<Self>, cx: &Ctx, error: Option<Kind>) {
        if error == Some(Kind::Throttled) {
            cx.slow_down();
        }
        let mut state = self.state.lock();
        match error {
            Some(Kind::Throttled) => {
                let now = self.clock.now();
                if state.lowered.is_none_or(|at| now.duration_since(at) >= ONE_EVENT) {
                    (state.lowered, state.successes) = (Some(now), 0);
                    state.allowed = (state.allowed / 2).max(1);
                    tracing::info!(allowed = state.allowed, "the store asks for fewer requests");
                }
            }
            None if state.allowed < self.most => {
                state.successes += 1;
                if state.successes >= 4 * state.allowed {
                    (state.allowed, state.successes) = (state.allowed + 1, 0);
                    self.hand_out(&mut state);
                }
            }
            _ => {}
        }
    }
}

impl State {
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        self.turn = (self.turn + 1) % FAIR_TURN;
        let fair = self.turn == 0;
        let mut queues: Vec<_> = self.waiting.iter_mut().collect();
        if fair {
            queues.reverse();
        }
        queues.into_iter().find_map(VecDeque::pop_front)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.free();
        }
    }
}

fn rank(urgency: Urgency) -> usize {
    match urgency {
        Urgency::Demand => 0,
        Urgency::WriteOut => 1,
        Urgency::Prefetch => 2,
        Urgency::Background => 3,
    }
}

impl<T: ?Sized> Limit<T> {
    pub(in crate::store) fn new(inner: Arc<T>, places: Arc<Places>) -> Self {
        Self { inner, places }
    }

    async fn place(&self, cx: &Ctx, operation: Operation) -> Result<Place> {
        let place = cx.bounded(self.places.take(cx.urgency)).await;
        place.map_err(|late| Error::new(Kind::NoProgress, operation.name(), format!("it did not get its turn: {late}")))
    }

    async fn around<R>(&self, cx: &Ctx, operation: Operation, _bytes: u64, request: impl Future<Output = Result<R>>) -> Result<R> {
        let _place = self.place(cx, operation).await?;
        let answer = request.await;
        self.places.answered(cx, answer.as_ref().err().map(Error::kind));
        answer
    }

    async fn body(&self, cx: &Ctx, request: impl Future<Output = Result<Body>>) -> Result<Body> {
        let place = self.place(cx, Operation::Get).await?;
        let answer = request.await;
        self.places.answered(cx, answer.as_ref().err().map(Error::kind));
        Ok(answer?.inspect(move |_| {
            // The place goes with the stream.
            let _held = &place;
        }))
    }
}

impl Limit<dyn Service> {
    fn wrap(&self, bucket: Arc<dyn Bucket>) -> Arc<dyn Bucket> {
        Arc::new(Limit::<dyn Bucket>::new(bucket, Arc::clone(&self.places)))
    }
}

around_bucket!(Limit<dyn Bucket>);
around_service!(Limit<dyn Service>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    fn places(most: usize) -> Arc<Places> {
        Places::new(most, Arc::new(SystemClock))
    }

    /// Whether `wait` gets its place now.
    async fn now<F: Future<Output = Place>>(wait: &mut std::pin::Pin<Box<F>>) -> Option<Place> {
        tokio::select! { biased; place = wait.as_mut() => Some(place), () = std::future::ready(()) => None }
    }

    #[tokio::test]
    async fn demand_goes_before_what_came_earlier() {
        let places = places(1);
        let first = places.take(Urgency::Prefetch).await;
        let mut prefetch = Box::pin(places.take(Urgency::Prefetch));
        let mut demand = Box::pin(places.take(Urgency::Demand));
        assert!(now(&mut prefetch).await.is_none() && now(&mut demand).await.is_none());
        drop(first);
        assert!(now(&mut prefetch).await.is_none());
        let second = now(&mut demand).await.unwrap();
        drop(second);
        assert!(now(&mut prefetch).await.is_some());
    }

    #[tokio::test]
    async fn nobody_starves() {
        let places = places(1);
        let mut held = places.take(Urgency::Demand).await;
        let mut background = Box::pin(places.take(Urgency::Background));
        for turn in 0.. {
            assert!(turn < 2 * FAIR_TURN, "background never had a turn");
            let mut demand = Box::pin(places.take(Urgency::Demand));
            assert!(now(&mut background).await.is_none() && now(&mut demand).await.is_none());
            drop(held);
            if now(&mut background).await.is_some() {
                break;
            }
            held = now(&mut demand).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_waiter_that_goes_takes_no_place_with_it() {
        let places = places(1);
        let held = places.take(Urgency::Demand).await;
        let mut gone = Box::pin(places.take(Urgency::Demand));
        assert!(now(&mut gone).await.is_none());
        let mut granted = Box::pin(places.take(Urgency::Prefetch));
        assert!(now(&mut granted).await.is_none());
        drop(gone);
        drop(held);
        // Granted, but never looked at.
        drop(granted);
        let _next = places.take(Urgency::Background).await;
        assert_eq!(places.state.lock().taken, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_halves_once_and_recovers_slowly() {
        let places = places(64);
        let cx = Ctx::new(Arc::new(SystemClock), ONE_EVENT, 0, 0);
        for _ in 0..10 {
            places.answered(&cx, Some(Kind::Throttled));
        }
        assert_eq!((places.state.lock().allowed, cx.slowed_down()), (32, 10));
        tokio::time::advance(ONE_EVENT).await;
        places.answered(&cx, Some(Kind::Throttled));
        assert_eq!(places.state.lock().allowed, 16);
        for _ in 0..64 {
            places.answered(&cx, None);
        }
        assert_eq!(places.state.lock().allowed, 17);
        for _ in 0..100_000 {
            places.answered(&cx, None);
        }
        assert_eq!(places.state.lock().allowed, 64);
    }
}
