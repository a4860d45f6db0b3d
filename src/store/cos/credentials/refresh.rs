//! When a source is asked, by whom, and what happens meanwhile.
//!
//! 1. *Ahead of the end.* Credentials that end are replaced while they still work: a part of their life before its end, and a random part of that
//!    more, so that a thousand mounts do not ask at once. The request that finds them due starts a **fetch**, a task of its own, and is signed with
//!    the old ones; nobody waits. Nothing is asked while nothing is requested.
//! 2. *One fetch at a time.* Whoever needs its outcome waits for the one that is under way; a caller that goes away ends nothing.
//! 3. *A source that is down.* The old ones serve as long as they are valid. The source is asked again after a time that doubles up to
//!    [`LONGEST_PAUSE`]. When they have ended, requests wait for the next fetch, and fail as *unavailable*, which is repeated by whoever repeats.
//! 4. *Refused by COS.* What has ended is fetched at once. A mere denial may be about them too (keys that were exchanged in a file), so the source
//!    is asked, unless that costs something and was done a moment ago. A fetch that was under way when the refusal came may have looked before the
//!    change, so it does not count.
//! 5. *Clocks.* Ends are told in the source's time and compared with this host's. Credentials that seem to have ended when they come are used all
//!    the same: COS decides, and the clock is put right by its answer.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::watch, time::Instant};

use crate::store::cos::credentials::{Credentials, NoCredentials, Pace, Provider, Refused, Source};
use crate::support::{Clock, TaskGroup};

/// Credentials are replaced at most this long before their end, and a quarter of it more.
const LEAD: Duration = Duration::from_secs(600);

/// Of a shorter life this part is left: of half an hour six minutes, of five seconds one.
const LEAD_PART: u32 = 5;

/// How often a source is looked at where that costs nothing.
const LOOK: Duration = Duration::from_secs(1);

/// How soon after a fetch another one may follow that a refusal caused: of what has ended, and of a mere denial.
const AFTER_END: Duration = Duration::from_secs(1);
const AFTER_DENIAL: Duration = Duration::from_secs(10);

/// How long a source that does not answer is left alone: first, and at most. Short, so that it heals soon.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How long credentials that seem to have ended when they came are used before the source is asked again.
const DOUBTFUL: Duration = Duration::from_secs(5);

/// A provider that asks a source.
#[derive(Debug)]
pub(super) struct Refreshing {
    inner: Arc<Inner>,
    /// The fetch under way, if there is one.
    tasks: TaskGroup,
}

#[derive(Debug)]
struct Inner {
    source: Box<dyn Source>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// How many fetches have ended.
    ended: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    held: Option<Held>,
    /// How many fetches have begun. Invariant: this many have ended, or one more than that.
    begun: u64,
    ended: u64,
    /// Why the last fetch failed, if it did.
    failure: Option<NoCredentials>,
    failures: u32,
    /// When the last fetch ended.
    asked: Option<Instant>,
    /// No fetch begins before.
    not_before: Instant,
}

/// What is signed with.
#[derive(Debug)]
struct Held {
    credentials: Arc<Credentials>,
    /// From when on others are looked for.
    due: Due,
    /// When they stop to be used. Not known, not at all, or doubted: `None`.
    ends: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Never,
    /// As soon as [`State::not_before`] permits it.
    Always,
    From(SystemTime),
}

impl Refreshing {
    pub(super) fn new(source: Box<dyn Source>, clock: Arc<dyn Clock>) -> Self {
        let state = State { held: None, begun: 0, ended: 0, failure: None, failures: 0, asked: None, not_before: clock.now() };
        let inner = Inner { source, clock, state: Mutex::new(state), ended: watch::Sender::new(0) };
        Self { inner: Arc::new(inner), tasks: TaskGroup::new(Handle::current()) }
    }

    /// Begins a fetch unless one is under way.
    fn begin(&self, state: &mut State) {
        if state.begun > state.ended {
            return;
        }
        state.begun += 1;
        let wait = state.not_before.saturating_duration_since(self.inner.clock.now());
        let fetch = Fetch(Arc::clone(&self.inner));
        self.tasks.spawn(async move {
            if !wait.is_zero() {
                fetch.0.clock.sleep(wait).await;
            }
            let answer = fetch.0.source.fetch().await;
            fetch.0.take(answer);
        });
    }
}

/// A fetch under way: however it ends, those who wait for it are told.
struct Fetch(Arc<Inner>);

impl Drop for Fetch {
    fn drop(&mut self) {
        let ended = {
            let mut state = self.0.state.lock();
            state.ended = state.begun;
            state.ended
        };
        self.0.ended.send_replace(ended);
    }
}

impl Inner {
    /// Takes what a source answered.
    fn take(&self, answer: Result<Credentials, NoCredentials>) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let mut state = self.state.lock();
        state.asked = Some(now);
        match answer {
            Err(why) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(8)).min(LONGEST_PAUSE);
                state.not_before = now + pause / 2 + self.part_of(pause / 2);
                if state.failures == 0 && state.held.is_some() {
                    tracing::warn!(%why, "credentials cannot be looked up; the ones at hand are used as long as they are valid");
                }
                state.failures = state.failures.saturating_add(1);
                state.failure = Some(why);
            }
            Ok(found) => {
                if state.failures > 0 && state.held.is_some() {
                    tracing::info!("credentials can be looked up again");
                }
                (state.failures, state.failure) = (0, None);
                let held = state.held.take();
                let known = held.as_ref().filter(|held| held.credentials.same(&found)).map(|held| Arc::clone(&held.credentials));
                let is_new = known.is_none();
                if is_new && held.is_some() {
                    tracing::info!(source = found.origin(), "credentials were replaced");
                }
                let credentials = known.unwrap_or_else(|| Arc::new(found));
                let (next, pause) = self.plan(&credentials, wall, is_new);
                state.not_before = now + pause;
                state.held = Some(Held { credentials, ..next });
            }
        }
    }

    /// When credentials that came now are to be replaced, and how long the source is left alone.
    fn plan(&self, credentials: &Arc<Credentials>, wall: SystemTime, is_new: bool) -> (Held, Duration) {
        let held = |due, ends| Held { credentials: Arc::clone(credentials), due, ends };
        match (self.source.pace(), credentials.expires) {
            (Pace::Never, _) => (held(Due::Never, None), Duration::ZERO),
            (Pace::Any, ends) => (held(Due::Always, ends.filter(|ends| *ends > wall)), LOOK),
            // A source that says nothing of an end tells of another one only when it is asked.
            (Pace::Ends, None) => (held(Due::Never, None), Duration::ZERO),
            (Pace::Ends, Some(ends)) => match ends.duration_since(wall) {
                Ok(left) if !left.is_zero() => {
                    let lead = (left / LEAD_PART).min(LEAD);
                    let from = ends - lead - self.part_of(lead / 4);
                    // The same again: the source has no others yet.
                    let pause = if is_new { Duration::ZERO } else { (left / 4).clamp(FIRST_PAUSE, LEAD / 10) };
                    (held(if is_new { Due::From(from) } else { Due::Always }, Some(ends)), pause)
                }
                _ => (held(Due::Always, None), DOUBTFUL),
            },
        }
    }

    fn part_of(&self, time: Duration) -> Duration {
        Duration::from_nanos(self.clock.below(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl State {
    fn holds(&self, credentials: &Arc<Credentials>) -> bool {
        self.held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.credentials, credentials))
    }

    /// What the last fetch came to, for those who have nothing else.
    fn outcome(&self) -> NoCredentials {
        self.failure.clone().unwrap_or_else(|| NoCredentials::away("looking up the credentials was given up"))
    }
}

#[async_trait]
impl Provider for Refreshing {
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials> {
        let mut waited_for = None;
        loop {
            let mut ended = {
                let (now, wall) = (self.inner.clock.now(), self.inner.clock.wall());
                let mut state = self.inner.state.lock();
                if let Some(held) = &state.held
                    && held.ends.is_none_or(|ends| wall < ends)
                {
                    let credentials = Arc::clone(&held.credentials);
                    let due = match held.due {
                        Due::Never => false,
                        Due::Always => true,
                        Due::From(time) => wall >= time,
                    };
                    if due && now >= state.not_before {
                        self.begin(&mut state);
                    }
                    return Ok(credentials);
                }
                // Nothing to sign with. The fetch under way, or the next one, decides; not one more.
                let number = *waited_for.get_or_insert(if state.begun > state.ended { state.begun } else { state.begun + 1 });
                if state.ended >= number {
                    return Err(state.outcome());
                }
                let ended = self.inner.ended.subscribe();
                self.begin(&mut state);
                ended
            };
            // Its sender is ours.
            ended.changed().await.ok();
        }
    }

    async fn refresh(&self, refused: &Arc<Credentials>, how: Refused) -> Result<bool, NoCredentials> {
        let mut waits_for = None;
        loop {
            let mut ended = {
                let mut state = self.inner.state.lock();
                if !state.holds(refused) {
                    return Ok(true);
                }
                if let Some(number) = waits_for
                    && state.ended >= number
                {
                    return if state.failure.is_some() { Err(state.outcome()) } else { Ok(false) };
                }
                let now = self.inner.clock.now();
                let since = state.asked.map_or(Duration::MAX, |asked| now.saturating_duration_since(asked));
                let next = match (self.inner.source.pace(), how) {
                    (Pace::Never, _) => return Ok(false),
                    (Pace::Any, _) => now,
                    (Pace::Ends, Refused::Ended) => now + AFTER_END.saturating_sub(since),
                    (Pace::Ends, Refused::Denied) if waits_for.is_none() && since < AFTER_DENIAL => return Ok(false),
                    (Pace::Ends, Refused::Denied) => now,
                };
                waits_for.get_or_insert(state.begun + 1);
                if state.begun == state.ended {
                    state.not_before = next;
                }
                let ended = self.inner.ended.subscribe();
                self.begin(&mut state);
                ended
            };
            ended.changed().await.ok();
        }
    }
}

#[cfg(test)]
mod tests;
