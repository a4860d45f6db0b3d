//! How many parts of streams are in flight: as many as bring more bandwidth, fewer when the store asks for fewer.
//!
//! One pace for all files of a mount, because they share the wire. It is found by trying: a *round* is as many answers as parts may be in flight.
//! If parts had to wait in a round, twice as many may go in the next; if the round after that brought a tenth more bytes a second, it is tried
//! again, else the number before is the right one for a while. Rounds in which the writer or the memory was the limit say nothing. Parts that
//! the store told to slow down halve the number, once a second at most.
//!
//! A file that has nothing in flight may always send one part: its answer is what makes the file look for its next. Memory bounds
//! the number, too, but not here: a part in flight is dirty bytes.
//!
//! Below this, `store/wrap/limit.rs` bounds the requests of all kinds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// What more parts must bring, in hundredths of what fewer brought.
const WORTH: u64 = 110;

/// Rounds until more parts are tried again.
const REST: u32 = 32;

/// Throttled parts within this time after one are the same event.
const ONE_EVENT: Duration = Duration::from_secs(1);

/// The pace of a mount's streams.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    allowed: AtomicUsize,
    in_flight: AtomicUsize,
    /// A part had to wait in this round.
    held_back: AtomicBool,
    rounds: Mutex<Rounds>,
}

#[derive(Debug)]
struct Rounds {
    begun: Option<Instant>,
    answers: usize,
    bytes: u64,
    /// Answers in this round are to parts of the one before.
    settling: bool,
    /// How many were allowed before the last opening, and the bytes a second they brought.
    before: Option<(usize, u64)>,
    rest: u32,
    lowered: Option<Instant>,
}

/// A part's right to be in flight.
#[derive(Debug)]
pub(super) struct Lane(Arc<Pace>);

impl Pace {
    /// A pace that begins with `first` parts and never has more than `most`.
    pub(super) fn new(first: usize, most: usize) -> Arc<Self> {
        let most = most.max(1);
        let rounds = Rounds { begun: None, answers: 0, bytes: 0, settling: false, before: None, rest: 0, lowered: None };
        Arc::new(Self {
            most,
            allowed: AtomicUsize::new(first.clamp(1, most)),
            in_flight: AtomicUsize::new(0),
            held_back: AtomicBool::new(false),
            rounds: Mutex::new(rounds),
        })
    }

    /// How many parts may be in flight now.
    pub(super) fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    /// The right to send one more part, for a file that has `of_file` in flight.
    pub(super) fn lane(self: &Arc<Self>, of_file: usize) -> Option<Lane> {
        let allowed = self.allowed();
        let fits = |now| (of_file == 0 || now < allowed).then_some(now + 1);
        let taken = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if taken.is_err() {
            self.held_back.store(true, Ordering::Relaxed);
        }
        taken.is_ok().then(|| Lane(Arc::clone(self)))
    }

    fn answered(&self, now: Instant, bytes: u64, throttled: bool) {
        let mut rounds = self.rounds.lock();
        if throttled {
            if rounds.lowered.is_none_or(|at| now.duration_since(at) >= ONE_EVENT) {
                rounds.lowered = Some(now);
                self.settle(&mut rounds, self.allowed() / 2);
                self.next_round(&mut rounds, now);
            }
            return;
        }
        let Some(begun) = rounds.begun else { return self.next_round(&mut rounds, now) };
        rounds.answers += 1;
        rounds.bytes += bytes;
        if rounds.answers < self.allowed() {
            return;
        }
        if self.held_back.load(Ordering::Relaxed) && !rounds.settling {
            let millis = u64::try_from(now.duration_since(begun).as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = rounds.bytes.saturating_mul(1000) / millis;
            self.judge(&mut rounds, rate);
        } else {
            rounds.settling = false;
        }
        self.next_round(&mut rounds, now);
    }

    /// A round was measured: more, or back.
    fn judge(&self, rounds: &mut Rounds, rate: u64) {
        let allowed = self.allowed();
        match rounds.before {
            _ if rounds.rest > 0 => rounds.rest -= 1,
            Some((fewer, brought)) if rate < brought / 100 * WORTH => self.settle(rounds, fewer),
            _ if allowed < self.most => {
                (rounds.before, rounds.settling) = (Some((allowed, rate)), true);
                self.allowed.store((allowed * 2).min(self.most), Ordering::Relaxed);
            }
            _ => rounds.before = None,
        }
    }

    /// This is the right number for now.
    fn settle(&self, rounds: &mut Rounds, allowed: usize) {
        self.allowed.store(allowed.max(1), Ordering::Relaxed);
        (rounds.before, rounds.rest, rounds.settling) = (None, REST, true);
    }

    fn next_round(&self, rounds: &mut Rounds, now: Instant) {
        (rounds.begun, rounds.answers, rounds.bytes) = (Some(now), 0, 0);
        self.held_back.store(false, Ordering::Relaxed);
    }
}

impl Lane {
    /// The part that had it was answered. `throttled`: the store had told it to slow down.
    pub(super) fn answered(self, now: Instant, bytes: u64, throttled: bool) {
        self.0.answered(now, bytes, throttled);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: u64 = 8 << 20;

    /// Sends parts that are always there over a wire that gives each lane `lane` bytes a second and all of them `wire`.
    struct Wire {
        pace: Arc<Pace>,
        now: Instant,
        lane: u64,
        wire: u64,
    }

    impl Wire {
        fn round(&mut self, throttled: bool) {
            let mut lanes = Vec::new();
            while let Some(lane) = self.pace.lane(lanes.len()) {
                lanes.push(lane);
            }
            let rate = (self.lane * lanes.len() as u64).min(self.wire);
            for lane in lanes {
                self.now += Duration::from_micros(PART * 1_000_000 / rate);
                lane.answered(self.now, PART, throttled);
            }
        }

        fn rounds(&mut self, rounds: usize) -> usize {
            (0..rounds).for_each(|_| self.round(false));
            self.pace.allowed()
        }
    }

    fn wire(lane: u64, wire: u64) -> Wire {
        Wire { pace: Pace::new(4, 64), now: Instant::now(), lane: lane << 20, wire: wire << 20 }
    }

    #[test]
    fn a_wire_that_takes_more_is_filled_and_no_further() {
        // 100 MiB/s a lane.
        assert_eq!(wire(100, 400).rounds(20), 4);
        assert!((8..=16).contains(&wire(100, 900).rounds(20)));
        assert_eq!(wire(100, 100_000).rounds(40), 64, "--connections");
    }

    #[test]
    fn a_wire_that_becomes_wider_is_noticed() {
        let mut wire = wire(100, 400);
        assert_eq!(wire.rounds(20), 4);
        wire.wire *= 4;
        assert!(wire.rounds(100) >= 16);
    }

    #[test]
    fn throttling_halves_once_a_second_and_more_is_tried_later() {
        let mut wire = wire(100, 1600);
        let open = wire.rounds(40);
        assert!(open >= 16);
        wire.round(true);
        assert_eq!(wire.pace.allowed(), open / 2, "all of a round are one event");
        wire.now += ONE_EVENT;
        wire.round(true);
        assert_eq!(wire.pace.allowed(), open / 4);
        assert_eq!(wire.rounds(10), open / 4);
        assert!(wire.rounds(100) >= open / 2);
    }

    #[test]
    fn a_writer_that_is_slower_than_the_wire_opens_nothing() {
        let pace = Pace::new(4, 64);
        let mut now = Instant::now();
        for _ in 0..100 {
            let lanes: Vec<_> = (0..3).filter_map(|n| pace.lane(n)).collect();
            for lane in lanes {
                now += Duration::from_millis(10);
                lane.answered(now, PART, false);
            }
        }
        assert_eq!(pace.allowed(), 4);
    }

    #[test]
    fn each_file_may_send_one_part() {
        let pace = Pace::new(1, 1);
        let first = pace.lane(0).unwrap();
        assert!(pace.lane(1).is_none());
        let second = pace.lane(0).unwrap();
        drop((first, second));
        assert_eq!(pace.in_flight.load(Ordering::Relaxed), 0);
    }
}
