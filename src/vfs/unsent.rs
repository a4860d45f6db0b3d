//! Says which changes could not be sent when no program waits for the answer: behind a close, and at the end.
//!
//! A file is named once, not at each of its repetitions, and an outage that meets ten thousand of them does not fill the log: [`MOST`] are named in a
//! [`WINDOW`], and the next that is says how many were left out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::vfs::{Error, Ino, Vfs};

/// Files that are named within a window.
const MOST: u64 = 20;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

/// What was told of late.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// When the window began, and what came in it.
    window: Mutex<Option<(Instant, u64)>>,
}

impl Unsent {
    /// Counts a file. If it is to be named: how many before it were not.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        let (since, count, left_out) = match *window {
            Some((since, count)) if now - since < WINDOW => (since, count, 0),
            Some((_, count)) => (now, 0, count.saturating_sub(MOST)),
            None => (now, 0, 0),
        };
        *window = Some((since, count + 1));
        (count < MOST).then_some(left_out)
    }
}

impl Vfs {
    /// Tells of a file whose changes could not be sent.
    pub(super) fn tell_unsent(&self, ino: Ino, error: &Error) {
        let key = self.key_of(ino);
        match self.unsent.admit(self.clock.now()) {
            Some(0) => tracing::error!(key, ino = ino.0, "not in COS yet: {error}"),
            Some(left_out) => tracing::error!(key, ino = ino.0, left_out, "not in COS yet, as others before it: {error}"),
            None => tracing::debug!(key, ino = ino.0, "not in COS yet: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Clock, SystemClock};

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_many_files_names_some() {
        let unsent = Unsent::default();
        let told = (0..10_000).filter(|_| unsent.admit(Instant::now()).is_some()).count();
        assert_eq!(told as u64, MOST);
        SystemClock.sleep(WINDOW).await;
        assert_eq!(unsent.admit(Instant::now()), Some(10_000 - MOST));
        assert_eq!(unsent.admit(Instant::now()), Some(0));
    }
}
