//! Time and chance behind one door, so that a test can run an hour in a millisecond and a seed repeats a failure.
//!
//! [`SystemClock`] sleeps through tokio and therefore follows tokio's paused clock in tests; a simulated clock is another implementation.

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// Where the program asks for time, sleep and chance.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Monotonic time, for deadlines and ages.
    fn now(&self) -> Instant;

    /// The host's idea of the time of day, for signatures and file times.
    fn wall(&self) -> SystemTime;

    /// Completes after `duration`. Must be called within a tokio runtime.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Fills `bytes` with chance: jitter, tokens, salts. Never used for keys of a cipher.
    fn chance(&self, bytes: &mut [u8]);

    /// A random number from 0 up to, not including, `bound`; 0 for a bound of 0.
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.chance(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(bound).unwrap_or(0)
    }
}

/// The machine's own clock and entropy.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door that everybody else goes through")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door that everybody else goes through")]
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn chance(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("getrandom(2) fails only where the kernel has no entropy source at all");
    }
}
