//! How many requests are in flight: at most so many, the most urgent first, fewer when the store asks for fewer.
//!
//! A request waits in the queue of its urgency. A free place goes to the most urgent queue, but every eighth to the least urgent that waits, so
//! that nobody starves. A throttling answer halves the number of places, once a second at most (those in flight together are refused
//! together); after that each four rounds of successes give one place back. A GET keeps its place until its body is read or dropped.
//!
//! What comes in bulk, as the copies of a directory rename, makes it twice as many in all, waits in a queue of its own, and leaves each place that
//! comes free to whoever asks for one thing; those never have more than the ordinary number, so bulk has as many at least.

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
    /// Invariant: requests in flight, each with a [`Place`]; and those of them in bulk.
    taken: usize,
    bulk: usize,
    /// Ordinary ones at once.
    allowed: usize,
    /// Who waits, by urgency; and in bulk.
    waiting: [VecDeque<oneshot::Sender<Place>>; 4],
    waiting_in_bulk: VecDeque<oneshot::Sender<Place>>,
    turn: u32,
    /// Successes since a place was last given back or taken.
    successes: usize,
    lowered: Option<Instant>,
}

/// A request's place; free again when dropped.
#[derive(Debug)]
struct Place {
    places: Option<Arc<Places>>,
    in_bulk: bool,
}

impl Places {
    pub(in crate::store) fn new(most: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        let most = most.max(1);
        let state = State {
            taken: 0,
            bulk: 0,
            allowed: most,
            waiting: std::array::from_fn(|_| VecDeque::new()),
            waiting_in_bulk: VecDeque::new(),
            turn: 0,
            successes: 0,
            lowered: None,
        };
        Arc::new(Self { clock, most, state: Mutex::new(state) })
    }

    /// Waits for a place. (Dropping the future gives up the wait, or the place if it has just come.)
    async fn take(self: &Arc<Self>, urgency: Urgency, in_bulk: bool) -> Place {
        let waiter = {
            let mut state = self.state.lock();
            // Whoever is less urgent waits behind whoever waits; whoever is more urgent goes first by its queue.
            let first = if in_bulk { state.waiting_in_bulk.is_empty() } else { state.waiting.iter().all(VecDeque::is_empty) };
            if first && state.has_room(in_bulk) {
                state.count(in_bulk);
                return Place { places: Some(Arc::clone(self)), in_bulk };
            }
            let (sender, waiter) = oneshot::channel();
            if in_bulk { &mut state.waiting_in_bulk } else { &mut state.waiting[rank(urgency)] }.push_back(sender);
            waiter
        };
        waiter.await.expect("the queue outlives its waiters: they hold its Arc")
    }

    fn free(self: &Arc<Self>, in_bulk: bool) {
        let mut state = self.state.lock();
        state.discount(in_bulk);
        self.hand_out(&mut state);
    }

    fn hand_out(self: &Arc<Self>, state: &mut State) {
        for in_bulk in [false, true] {
            while state.has_room(in_bulk)
                && let Some(waiter) = if in_bulk { state.waiting_in_bulk.pop_front() } else { state.next() }
            {
                state.count(in_bulk);
                if let Err(mut unwanted) = waiter.send(Place { places: Some(Arc::clone(self)), in_bulk }) {
                    // The waiter has gone. Its place must not come back by drop: the lock is held.
                    unwanted.places = None;
                    state.discount(in_bulk);
                }
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
    fn has_room(&self, in_bulk: bool) -> bool {
        self.taken < 2 * self.allowed && (in_bulk || self.taken - self.bulk < self.allowed)
    }

    fn count(&mut self, in_bulk: bool) {
        self.taken += 1;
        self.bulk += usize::from(in_bulk);
    }

    fn discount(&mut self, in_bulk: bool) {
        self.taken -= 1;
        self.bulk -= usize::from(in_bulk);
    }

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
        if let Some(places) = self.places.take() {
            places.free(self.in_bulk);
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
        let place = cx.bounded(self.places.take(cx.urgency, cx.in_bulk)).await;
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
        let first = places.take(Urgency::Prefetch, false).await;
        let mut prefetch = Box::pin(places.take(Urgency::Prefetch, false));
        let mut demand = Box::pin(places.take(Urgency::Demand, false));
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
        let mut held = places.take(Urgency::Demand, false).await;
        let mut background = Box::pin(places.take(Urgency::Background, false));
        for turn in 0.. {
            assert!(turn < 2 * FAIR_TURN, "background never had a turn");
            let mut demand = Box::pin(places.take(Urgency::Demand, false));
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
        let held = places.take(Urgency::Demand, false).await;
        let mut gone = Box::pin(places.take(Urgency::Demand, false));
        assert!(now(&mut gone).await.is_none());
        let mut granted = Box::pin(places.take(Urgency::Prefetch, false));
        assert!(now(&mut granted).await.is_none());
        drop(gone);
        drop(held);
        // Granted, but never looked at.
        drop(granted);
        let _next = places.take(Urgency::Background, false).await;
        assert_eq!(places.state.lock().taken, 1);
    }

    #[tokio::test]
    async fn bulk_has_as_many_places_again_and_goes_last() {
        let places = places(2);
        let mut bulk = Vec::new();
        for _ in 0..4 {
            bulk.push(places.take(Urgency::Demand, true).await);
        }
        let mut more = Box::pin(places.take(Urgency::Demand, true));
        let mut single = Box::pin(places.take(Urgency::Background, false));
        assert!(now(&mut more).await.is_none() && now(&mut single).await.is_none(), "twice as many in all");
        bulk.pop();
        assert!(now(&mut more).await.is_none());
        let first = now(&mut single).await.unwrap();
        let mut second = Box::pin(places.take(Urgency::Demand, false));
        assert!(now(&mut second).await.is_none());
        bulk.pop();
        let second = now(&mut second).await.unwrap();
        let mut third = Box::pin(places.take(Urgency::Demand, false));
        assert!(now(&mut third).await.is_none());
        bulk.clear();
        assert!(now(&mut third).await.is_none(), "single ones never have more than the ordinary number");
        let more = now(&mut more).await.unwrap();
        drop((first, second, more));
        drop(now(&mut third).await.unwrap());
        let state = places.state.lock();
        assert_eq!((state.taken, state.bulk), (0, 0));
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
