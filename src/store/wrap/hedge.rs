//! Asks twice for what is late: of a demand GET whose first byte has not come when nearly all others have theirs, a second is made, and the first
//! answer wins.
//!
//! 1. *When.* Times to the first byte are kept by size of the range, newer ones weighing more. Late is what takes half as long again as all but the
//!    slowest [`TAIL`] in a hundred; never less than [`FLOOR`]. (Two, not one: where just one answer in a hundred is slow, the hundredth part lies on the
//!    edge between both kinds.)
//! 2. *How much.* Each GET earns [`TAIL`] hundredths of a second request, and no more than [`MOST`] are saved up: the requests added are at most that
//!    part, whatever the network does.
//! 3. *Never in trouble.* Not while the store is throttling or does not answer: more requests are what it needs least.
//! 4. *What it costs* is a connection: HTTP/1.1 has no other way to take a request back than to close it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::health::Health;
use crate::store::{Body, Result};
use crate::support::{Counter, Ctx, Urgency};

/// Of a hundred GETs so many may be asked for twice.
const TAIL: u64 = 2;
/// A second request, in what GETs earn.
const PRICE: u64 = 100;
/// Second requests that can be saved up.
const MOST: u64 = 8;
/// What comes within this time is never late.
const FLOOR: Duration = Duration::from_millis(20);
/// So many times must be known before anything is called late.
const KNOWN: u32 = 200;
/// At so many, all weigh half: older ones fade.
const FADE: u32 = 4000;
/// Sizes of ranges are told apart up to 64 KiB, 256 KiB, 1 MiB, 4 MiB, and above.
const SIZES: usize = 5;
/// Four for each doubling, from a microsecond to an hour.
const BUCKETS: usize = 128;

/// Second requests for one bucket's GETs.
#[derive(Debug)]
pub(super) struct Hedge {
    health: Arc<Health>,
    asked: Arc<Counter>,
    won: Arc<Counter>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In hundredths of a request.
    saved: u64,
    times: [Times; SIZES],
}

/// Times to the first byte, counted by their logarithm.
#[derive(Debug)]
struct Times {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Hedge {
    pub(super) fn new(health: Arc<Health>, asked: Arc<Counter>, won: Arc<Counter>) -> Self {
        let times = std::array::from_fn(|_| Times { counts: [0; BUCKETS], total: 0 });
        Self { health, asked, won, state: Mutex::new(State { saved: 0, times }) }
    }

    /// The answer of `get`, or of a second call of it if the first is late.
    pub(super) async fn first<F: Future<Output = Result<Body>>>(&self, cx: &Ctx, len: u64, get: impl Fn() -> F) -> Result<Body> {
        if cx.urgency != Urgency::Demand {
            return get().await;
        }
        let begun = async || get().await?.begun().await;
        let late = self.state.lock().earn(len);
        let start = cx.clock().now();
        let first = begun();
        tokio::pin!(first);
        let answer = match late {
            None => first.await,
            Some(late) => tokio::select! {
                biased;
                answer = &mut first => answer,
                () = cx.clock().sleep(late) => {
                    if self.may() {
                        self.asked.add(1);
                        let second = begun();
                        tokio::pin!(second);
                        // Whoever fails leaves the word to the other.
                        tokio::select! {
                            answer = &mut first => match answer { Ok(body) => Ok(body), Err(error) => second.await.map_err(|_| error) },
                            answer = &mut second => match answer {
                                Ok(body) => {
                                    self.won.add(1);
                                    Ok(body)
                                }
                                Err(_) => first.await,
                            },
                        }
                    } else {
                        first.await
                    }
                }
            },
        };
        if answer.is_ok() {
            // Of a first request that was overtaken nobody knows how long it would have taken: at least so long, and that is late.
            self.state.lock().times[size_of(len)].note(cx.clock().now().duration_since(start));
        }
        answer
    }

    fn may(&self) -> bool {
        if !self.health.is_calm() {
            return false;
        }
        let mut state = self.state.lock();
        let left = state.saved.checked_sub(PRICE);
        state.saved = left.unwrap_or(state.saved);
        left.is_some()
    }
}

impl State {
    /// A GET is made: when is it late?
    fn earn(&mut self, len: u64) -> Option<Duration> {
        self.saved = (self.saved + TAIL).min(MOST * PRICE);
        self.times[size_of(len)].late()
    }
}

impl Times {
    fn note(&mut self, time: Duration) {
        if let Some(count) = self.counts.get_mut(bucket_of(time)) {
            *count += 1;
            self.total += 1;
        }
        if self.total >= FADE {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    fn late(&self) -> Option<Duration> {
        if self.total < KNOWN {
            return None;
        }
        let mut slower = u64::from(self.total) * TAIL / 100;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            match slower.checked_sub(u64::from(*count)) {
                Some(left) => slower = left,
                None => return Some((upper_end(bucket) * 3 / 2).max(FLOOR)),
            }
        }
        Some(FLOOR)
    }
}

fn size_of(len: u64) -> usize {
    const SMALLEST: u64 = 64 << 10;
    let quadruplings = len.div_ceil(SMALLEST).next_power_of_two().ilog2().div_ceil(2);
    usize::try_from(quadruplings).unwrap_or(SIZES).min(SIZES - 1)
}

/// Microseconds by their two leading bits behind the first.
fn bucket_of(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(4);
    let log = micros.ilog2();
    usize::try_from(u64::from(log) * 4 + (micros >> (log - 2)) % 4).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Where the next bucket begins.
fn upper_end(bucket: usize) -> Duration {
    let next = bucket as u64 + 1;
    Duration::from_micros((4 + next % 4) << (next / 4).saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use futures_util::stream;

    use super::*;
    use crate::store::{Error, Kind, Operation};
    use crate::support::{Clock, Metrics, SystemClock};

    const FAST: Duration = Duration::from_millis(10);
    const SLOW: Duration = Duration::from_secs(2);

    struct Fixture {
        hedge: Hedge,
        cx: Ctx,
        asked: AtomicU64,
    }

    fn fixture() -> Fixture {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::default();
        let hedge = Hedge::new(Health::new(Arc::clone(&clock)), metrics.counter("asked"), metrics.counter("won"));
        Fixture { hedge, cx: Ctx::new(clock, Duration::from_secs(90), 1, 1), asked: AtomicU64::new(0) }
    }

    impl Fixture {
        /// A GET of which every `slow`th request takes long, and how long it took.
        async fn get(&self, cx: &Ctx, slow: u64) -> Duration {
            let start = cx.clock().now();
            let get = || async {
                let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
                cx.clock().sleep(if number.is_multiple_of(slow) { SLOW } else { FAST }).await;
                Ok(Body::new(1, stream::iter([Ok(Bytes::from_static(b"x"))])))
            };
            let body = self.hedge.first(cx, 1, get).await.unwrap();
            assert_eq!(body.collect().await.unwrap(), "x");
            cx.clock().now() - start
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_answer_in_a_hundred_is_cut_short_at_two_percent_of_requests() {
        let fixture = fixture();
        const GETS: u64 = 10_000;
        let mut longest = Vec::new();
        for _ in 0..GETS {
            longest.push(fixture.get(&fixture.cx, 101).await);
        }
        let asked = fixture.asked.load(Ordering::Relaxed);
        assert!(asked <= GETS * 102 / 100, "{asked}");
        longest.drain(..500);
        longest.sort_unstable();
        let place = longest.len() - longest.len() / 1000;
        assert!(longest[place] < Duration::from_millis(100), "{:?}", longest[place]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_allowance_holds_when_every_answer_is_suddenly_slow() {
        let fixture = fixture();
        for _ in 0..1000 {
            fixture.get(&fixture.cx, u64::MAX).await;
        }
        let before = fixture.asked.load(Ordering::Relaxed);
        assert_eq!(before, 1000);
        for _ in 0..100 {
            fixture.get(&fixture.cx, 1).await;
        }
        assert!(fixture.asked.load(Ordering::Relaxed) - before <= 100 + MOST + TAIL);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_asked_for_once_and_so_is_everything_in_trouble() {
        let fixture = fixture();
        for _ in 0..1000 {
            fixture.get(&fixture.cx, u64::MAX).await;
        }
        let ahead = fixture.cx.with_urgency(Urgency::Prefetch);
        fixture.get(&ahead, 1).await;
        let throttled = Error::new(Kind::Throttled, "GET Object", "SlowDown");
        fixture.hedge.health.ended(Operation::Get, fixture.cx.clock().now(), Some(&throttled));
        fixture.get(&fixture.cx, 1).await;
        assert_eq!(fixture.asked.load(Ordering::Relaxed), 1002);
        fixture.cx.clock().sleep(Duration::from_secs(10)).await;
        fixture.get(&fixture.cx, 1).await;
        assert_eq!(fixture.asked.load(Ordering::Relaxed), 1004);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_that_fails_does_no_harm() {
        let fixture = fixture();
        for _ in 0..1000 {
            fixture.get(&fixture.cx, u64::MAX).await;
        }
        let asked = AtomicU64::new(0);
        let get = || async {
            if asked.fetch_add(1, Ordering::Relaxed) > 0 {
                return Err(Error::new(Kind::Unavailable, "GET Object", "reset"));
            }
            fixture.cx.clock().sleep(SLOW).await;
            Ok(Body::new(1, stream::iter([Ok(Bytes::from_static(b"x"))])))
        };
        fixture.hedge.first(&fixture.cx, 1, get).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn buckets_ascend_and_hold_what_they_say() {
        let mut last = 0;
        for micros in (4..2_000_000).step_by(97) {
            let bucket = bucket_of(Duration::from_micros(micros));
            assert!(bucket >= last && Duration::from_micros(micros) < upper_end(bucket), "{micros} in {bucket}");
            assert!(upper_end(bucket) <= Duration::from_micros(micros) * 13 / 10 + Duration::from_micros(1));
            last = bucket;
        }
    }

    #[test]
    fn ranges_of_like_size_are_kept_together() {
        let sizes = [1, 64 << 10, (64 << 10) + 1, 256 << 10, 1 << 20, 4 << 20, 5 << 20, 1 << 40].map(size_of);
        assert_eq!(sizes, [0, 0, 1, 1, 2, 3, 4, 4]);
    }
}
