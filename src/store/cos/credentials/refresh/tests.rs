//! An hour in a millisecond: tokens that end, sources that are slow, away or late.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use super::*;
use crate::support::SystemClock;

/// The time of day follows the test's clock.
#[derive(Debug)]
struct TestClock(Instant);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        SystemClock.sleep(duration)
    }

    fn chance(&self, bytes: &mut [u8]) {
        SystemClock.chance(bytes);
    }
}

/// A source that does what a test says.
#[derive(Debug)]
struct Told {
    clock: Arc<TestClock>,
    pace: Pace,
    born: SystemTime,
    life: Option<Duration>,
    takes: Mutex<Duration>,
    away: AtomicBool,
    /// Which ones are handed out.
    number: AtomicU64,
    /// Others each time, or the same until the test says otherwise.
    always_new: bool,
    fetches: AtomicU64,
}

/// The source is the provider's, and the test's too.
#[derive(Debug)]
struct Shared(Arc<Told>);

#[async_trait]
impl Source for Shared {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        let told = &self.0;
        told.fetches.fetch_add(1, SeqCst);
        let number = if told.always_new { told.number.fetch_add(1, SeqCst) + 1 } else { told.number.load(SeqCst) };
        let takes = *told.takes.lock();
        told.clock.sleep(takes).await;
        if told.away.load(SeqCst) {
            return Err(NoCredentials::away("away"));
        }
        // The same ones end when they always did.
        let from = if told.always_new { told.clock.wall() } else { told.born };
        let expires = told.life.map(|life| from + life);
        Ok(Credentials::new(format!("id-{number}"), "k").until(expires))
    }

    fn pace(&self) -> Pace {
        self.0.pace
    }
}

fn told(pace: Pace, life: Option<u64>, always_new: bool) -> (Arc<Told>, Arc<Refreshing>) {
    let clock = TestClock::new();
    let told = Arc::new(Told {
        clock: Arc::clone(&clock),
        pace,
        born: clock.wall(),
        life: life.map(Duration::from_secs),
        takes: Mutex::new(Duration::from_millis(20)),
        away: AtomicBool::new(false),
        number: AtomicU64::new(0),
        always_new,
        fetches: AtomicU64::new(0),
    });
    let provider = Arc::new(Refreshing::new(Box::new(Shared(Arc::clone(&told))), clock));
    (told, provider)
}

impl Told {
    fn fetches(&self) -> u64 {
        self.fetches.load(SeqCst)
    }

    async fn after(&self, millis: u64) {
        self.clock.sleep(Duration::from_millis(millis)).await;
    }
}

async fn id(provider: &Refreshing) -> String {
    provider.credentials().await.unwrap().id().to_owned()
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_others_while_the_old_ones_work() {
    let (source, provider) = told(Pace::Ends, Some(3600), true);
    assert_eq!(id(&provider).await, "id-1");
    *source.takes.lock() = Duration::from_secs(20);
    source.after(3_100_000).await;
    let start = source.clock.now();
    assert_eq!((id(&provider).await, id(&provider).await), ("id-1".to_owned(), "id-1".to_owned()));
    assert_eq!(source.clock.now(), start);
    source.after(20_001).await;
    assert_eq!((id(&provider).await.as_str(), source.fetches()), ("id-2", 2));
}

#[tokio::test(start_paused = true)]
async fn those_who_come_together_fetch_once() {
    let (source, provider) = told(Pace::Ends, Some(3600), true);
    let all = futures_util::future::join_all((0..100).map(|_| id(&provider))).await;
    assert!(all.iter().all(|id| id == "id-1"));
    // One that goes away takes nothing with it.
    source.after(4_000_000).await;
    assert!(tokio::time::timeout(Duration::from_millis(5), provider.credentials()).await.is_err());
    source.after(30).await;
    let start = source.clock.now();
    assert_eq!((id(&provider).await.as_str(), source.fetches()), ("id-2", 2));
    assert_eq!(source.clock.now(), start);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_five_seconds_are_replaced_once_each_and_never_seen_ended() {
    let (source, provider) = told(Pace::Ends, Some(5), true);
    let users = (0..8).map(|n| {
        let (source, provider) = (Arc::clone(&source), Arc::clone(&provider));
        async move {
            for _ in 0..1200 {
                let credentials = provider.credentials().await.unwrap();
                assert!(credentials.expires.unwrap() > source.clock.wall());
                source.after(90 + n).await;
            }
        }
    });
    futures_util::future::join_all(users).await;
    // A fifth of their life is left when they are replaced, and up to a quarter of that more.
    assert!((22..=34).contains(&source.fetches()), "{}", source.fetches());
}

#[tokio::test(start_paused = true)]
async fn many_mounts_do_not_ask_at_once() {
    let mut begun = Vec::new();
    for _ in 0..50 {
        let (source, provider) = told(Pace::Ends, Some(3600), true);
        id(&provider).await;
        let state = provider.inner.state.lock();
        let Due::From(due) = state.held.as_ref().unwrap().due else { panic!("not due") };
        begun.push((source.clock.wall() + Duration::from_secs(3600)).duration_since(due).unwrap().as_secs());
    }
    begun.sort_unstable();
    assert!(begun[0] >= 600 && begun[49] <= 750 && begun[49] - begun[0] > 50, "{begun:?}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_is_not_seen_while_the_old_ones_are_valid() {
    let (source, provider) = told(Pace::Ends, Some(300), true);
    id(&provider).await;
    source.after(230_000).await;
    source.away.store(true, SeqCst);
    for _ in 0..60 {
        assert_eq!(id(&provider).await, "id-1");
        source.after(500).await;
    }
    assert!((6..20).contains(&source.fetches()), "{}", source.fetches());
    source.away.store(false, SeqCst);
    source.after(4_000).await;
    id(&provider).await;
    source.after(100).await;
    assert_ne!(id(&provider).await, "id-1");
}

#[tokio::test(start_paused = true)]
async fn when_the_old_ones_have_ended_requests_wait_and_it_heals() {
    let (source, provider) = told(Pace::Ends, Some(10), true);
    id(&provider).await;
    source.away.store(true, SeqCst);
    source.after(11_000).await;
    for _ in 0..10 {
        let why = provider.credentials().await.unwrap_err();
        assert!(why.may_pass());
    }
    source.away.store(false, SeqCst);
    let start = source.clock.now();
    assert_ne!(id(&provider).await, "id-1");
    assert!(source.clock.now() - start <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn what_changed_in_a_file_is_seen_within_a_second_of_use() {
    let (source, provider) = told(Pace::Any, None, false);
    assert_eq!(id(&provider).await, "id-0");
    for _ in 0..1000 {
        id(&provider).await;
        source.after(10).await;
    }
    assert!((8..=12).contains(&source.fetches()), "{}", source.fetches());
    source.number.store(1, SeqCst);
    source.after(1000).await;
    id(&provider).await;
    source.after(100).await;
    assert_eq!(id(&provider).await, "id-1");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_answered_by_a_look_that_began_after_it() {
    let (source, provider) = told(Pace::Any, None, false);
    let old = provider.credentials().await.unwrap();
    source.after(2_000).await;
    // This use starts a look that reads the old ones and takes its time; then they change, and COS refuses.
    *source.takes.lock() = Duration::from_millis(200);
    provider.credentials().await.unwrap();
    source.after(50).await;
    source.number.store(1, SeqCst);
    let refusals = (0..10).map(|_| provider.refresh(&old, Refused::Denied));
    let answers = futures_util::future::join_all(refusals).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap()));
    assert_eq!((id(&provider).await.as_str(), source.fetches()), ("id-1", 3));
    assert!(provider.refresh(&old, Refused::Ended).await.unwrap(), "others are there already");
    assert_eq!(source.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn denials_do_not_become_a_storm_of_questions() {
    let (source, provider) = told(Pace::Ends, Some(3600), false);
    let held = provider.credentials().await.unwrap();
    for _ in 0..600 {
        assert!(!provider.refresh(&held, Refused::Denied).await.unwrap());
        source.after(100).await;
    }
    assert!((5..=7).contains(&source.fetches()), "{}", source.fetches());
    let (source, provider) = told(Pace::Never, None, true);
    let held = provider.credentials().await.unwrap();
    assert!(!provider.refresh(&held, Refused::Ended).await.unwrap());
    assert_eq!((id(&provider).await.as_str(), source.fetches()), ("id-1", 1));
}

#[tokio::test(start_paused = true)]
async fn what_cos_calls_ended_is_fetched_once_and_at_most_each_second() {
    let (source, provider) = told(Pace::Ends, Some(3600), true);
    for _ in 0..5 {
        let held = provider.credentials().await.unwrap();
        let start = source.clock.now();
        let all = futures_util::future::join_all((0..20).map(|_| provider.refresh(&held, Refused::Ended))).await;
        assert!(all.into_iter().all(|answer| answer.unwrap()));
        assert!(source.clock.now() - start <= Duration::from_millis(1100));
    }
    assert_eq!(source.fetches(), 6);
    source.away.store(true, SeqCst);
    let held = provider.credentials().await.unwrap();
    assert!(provider.refresh(&held, Refused::Ended).await.unwrap_err().may_pass());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_does_not_make_good_ones_bad() {
    let (source, provider) = told(Pace::Ends, Some(0), false);
    for _ in 0..100 {
        assert_eq!(id(&provider).await, "id-0");
        source.after(100).await;
    }
    assert!(source.fetches() <= 4, "{}", source.fetches());
}
