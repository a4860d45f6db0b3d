//! One handle's way of reading.

use std::ops::Range;

use parking_lot::Mutex;

use super::window::Window;

/// The pattern of one handle's reads.
#[derive(Debug, Default)]
pub struct Reader {
    window: Mutex<Window>,
}

impl Reader {
    /// Notes a read and says what to ask for ahead of it, up to `end`.
    pub(crate) fn note(&self, read: &Range<u64>, end: u64, largest: u64) -> Option<Range<u64>> {
        self.window.lock().note(read, end, largest)
    }
}
