//! Time in the emulator: the system's clock, and bandwidth as time.
//!
//! The emulator is a program of its own that happens to live in the tests' process, so it does not share their virtual clock: what a client
//! measures is real time. A skewed clock is a matter of one request (see [`fault`](super::fault)) and is added by the caller.

#![expect(clippy::disallowed_methods, reason = "the emulator stands for a remote host, whose clock no test can move")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Seconds since 1970: what `Date`, `Last-Modified` and signatures are made of.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Microseconds since 1970: what version ids are made of.
pub(super) fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970: when restores are done.
pub(super) fn unix_millis() -> u64 {
    unix_micros() / 1000
}

/// A moment for measuring.
pub(super) fn instant() -> Instant {
    Instant::now()
}

/// Waits.
pub(super) fn sleep(duration: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(duration)
}

/// Waits until a moment.
pub(super) fn sleep_until(moment: Instant) -> tokio::time::Sleep {
    tokio::time::sleep_until(moment.into())
}

/// A link of so many bytes a second: each piece books its time on it and waits until that time is over.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: u64,
    free_at: Mutex<Instant>,
}

impl Pacer {
    /// A link of `rate` bytes a second, at least one.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), free_at: Mutex::new(instant()) }
    }

    /// How much to send in one piece: a fiftieth of a second's worth, so that shares are fair and answers flow.
    pub(super) fn piece(&self) -> usize {
        usize::try_from(self.rate / 50).unwrap_or(usize::MAX).clamp(1, 1 << 20)
    }

    /// Books `bytes` and says when they have passed.
    pub(super) fn book(&self, bytes: usize) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut free_at = self.free_at.lock();
        *free_at = (*free_at).max(instant()) + cost;
        *free_at
    }
}
