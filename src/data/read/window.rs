//! What a reader asks for ahead: nothing while it jumps, twice as much each time while it goes on.
//!
//! The kernel's own read-ahead splits what a program reads into requests of 128 KiB to 1 MiB and may let them overtake one another, so a read
//! that begins a little beside the end of the last one still goes on. The first read of a handle asks for nothing ahead: most small files end
//! there, and a header is often all that is wanted.
//!
//! Pure. Guarantees: no byte is asked for twice in one run; never more than `largest` ahead.

use std::ops::Range;

/// The window's first size.
const FIRST: u64 = 256 << 10;
/// How far beside the expected offset a read may begin and still go on.
const SLACK: u64 = 1 << 20;

/// The pattern of one handle's reads.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// End of the furthest read of this run; `None` before the first.
    next: Option<u64>,
    /// What has been asked for ends here.
    asked: u64,
    size: u64,
}

impl Window {
    /// Notes a read and says what to ask for ahead of it, up to `end`.
    pub(super) fn note(&mut self, read: &Range<u64>, end: u64, largest: u64) -> Option<Range<u64>> {
        let goes_on = self.next.is_some_and(|next| read.start <= next + SLACK && read.end + SLACK > next && read.start + SLACK >= next);
        if !goes_on {
            *self = Self { next: Some(read.end), asked: read.end, size: FIRST.min(largest) };
            return None;
        }
        let next = self.next.map_or(read.end, |next| next.max(read.end));
        if self.next == Some(next) {
            // A second look at the same place asks for nothing new.
            return None;
        }
        self.next = Some(next);
        let from = self.asked.max(next);
        if from - next > self.size / 2 {
            return None;
        }
        let ahead = from..end.min(next + self.size);
        if ahead.is_empty() {
            return None;
        }
        self.asked = ahead.end;
        self.size = (self.size * 2).min(largest);
        Some(ahead)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    const LARGEST: u64 = 32 << 20;

    #[test]
    fn a_sequential_reader_gets_a_growing_window_without_gap_or_overlap() {
        let mut window = Window::default();
        let (size, step) = (1u64 << 30, 128 << 10);
        let mut asked = 2 * step;
        let mut requests = 0;
        for at in (0..size).step_by(step as usize) {
            if let Some(ahead) = window.note(&(at..at + step), size, LARGEST) {
                assert!(ahead.start == asked.max(at + step) && ahead.end <= at + step + LARGEST, "{ahead:?} after {asked}");
                asked = ahead.end;
                requests += 1;
            }
        }
        assert_eq!(asked, size);
        assert!(requests < 90, "{requests}");
    }

    #[test]
    fn a_random_reader_asks_for_nothing_ahead() {
        let mut window = Window::default();
        for n in 0..1000u64 {
            let at = (n * 7_919 % 1000) * (3 << 20);
            assert_eq!(window.note(&(at..at + 4096), 4 << 30, LARGEST), None);
        }
    }

    #[test]
    fn overtaking_requests_go_on() {
        let mut window = Window::default();
        let mut most = 0;
        for pair in 0..100u64 {
            for at in [2 * pair + 1, 2 * pair] {
                let read = at * (128 << 10)..(at + 1) * (128 << 10);
                most = window.note(&read, 1 << 30, LARGEST).map_or(most, |ahead| ahead.end.max(most));
            }
        }
        assert!(most > 200 * (128 << 10));
    }

    #[test]
    fn reading_one_place_again_and_again_asks_for_nothing() {
        let mut window = Window::default();
        assert!((0..100).all(|_| window.note(&(0..4096), 1 << 30, LARGEST).is_none()));
    }
}
