//! Request rates as COS limits them: what is above is answered 503 `SlowDown`.
//!
//! Rates hold for any one second: a request is admitted if fewer than the rate were admitted in the second before it. What is refused does
//! not count. A bucket that exceeds a rate of its own is *throttled* for a while, with lower rates for operations on single objects and lists.
//!
//! Source: COS documentation, specifications and limits (document 436/14518), read 2026-11. How long a bucket stays throttled, and that one
//! rate covers its uploads, deletes and lists together, is not documented.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::clock;
use super::error::{Failure, Outcome};
use super::fault::millis;
use super::op::Op;

/// Requests a second that are admitted; None is any number, which is the default of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// To one bucket, whatever they ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<usize>,
    /// Uploads, copies and deletes in one bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes: Option<usize>,
    /// GET and HEAD of objects in one bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<usize>,
    /// Lists of objects, versions and uploads in one bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lists: Option<usize>,
    /// Restores in one bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restores: Option<usize>,
    /// Buckets listed, created and deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<usize>,
    /// What is left to a bucket that exceeded one of its rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Throttled>,
}

/// The rates of a throttled bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttled {
    /// Uploads, copies, deletes and lists together.
    pub writes: usize,
    /// GET and HEAD of objects.
    pub reads: usize,
    /// How long, from the request that exceeded a rate. In JSON: milliseconds.
    #[serde(rename = "for", with = "millis")]
    pub time: Duration,
}

impl Rates {
    /// What COS documents for a public region of mainland China.
    pub fn documented() -> Self {
        Self {
            requests: Some(30_000),
            lists: Some(1000),
            restores: Some(100),
            service: Some(50),
            throttled: Some(Throttled { writes: 50, reads: 1000, time: Duration::from_secs(10) }),
            ..Self::default()
        }
    }
}

/// The rates in force, and what was admitted in the last second.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    on: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rates: Rates,
    service: Window,
    buckets: HashMap<String, Traffic>,
}

/// What one bucket admitted.
#[derive(Debug, Default)]
struct Traffic {
    all: Window,
    writes: Window,
    reads: Window,
    lists: Window,
    restores: Window,
    throttled_until: Option<Instant>,
}

impl Throttle {
    pub(super) fn new(rates: Rates) -> Self {
        let throttle = Self::default();
        throttle.set(rates);
        throttle
    }

    /// Puts rates in force; what was admitted before is forgotten.
    pub(super) fn set(&self, rates: Rates) {
        let on = rates != Rates::default();
        *self.inner.lock() = Inner { rates, ..Inner::default() };
        self.on.store(on, Ordering::SeqCst);
    }

    pub(super) fn rates(&self) -> Rates {
        self.inner.lock().rates.clone()
    }

    /// Counts a request, or refuses it.
    pub(super) fn admit(&self, op: Op, bucket: &str) -> Outcome<()> {
        if !self.on.load(Ordering::SeqCst) || self.inner.lock().admit(Kind::of(op), bucket, clock::instant()) {
            return Ok(());
        }
        Err(Failure::new(503, "SlowDown", "Please reduce your request rate."))
    }
}

/// What counts with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Write,
    Read,
    List,
    Restore,
    Other,
}

impl Kind {
    fn of(op: Op) -> Self {
        match op {
            Op::ListBuckets | Op::CreateBucket | Op::DeleteBucket => Self::Service,
            Op::PutObject
            | Op::CopyObject
            | Op::AppendObject
            | Op::DeleteObject
            | Op::DeleteMany
            | Op::InitiateUpload
            | Op::UploadPart
            | Op::CopyPart
            | Op::CompleteUpload
            | Op::AbortUpload => Self::Write,
            Op::GetObject | Op::HeadObject => Self::Read,
            Op::ListObjects | Op::ListVersions | Op::ListUploads => Self::List,
            Op::RestoreObject => Self::Restore,
            _ => Self::Other,
        }
    }
}

impl Inner {
    fn admit(&mut self, kind: Kind, bucket: &str, now: Instant) -> bool {
        let Self { rates, service, buckets } = self;
        if kind == Kind::Service {
            let admitted = service.has_room(rates.service, now);
            service.note(admitted, now);
            return admitted;
        }
        if !buckets.contains_key(bucket) {
            buckets.insert(bucket.to_owned(), Traffic::default());
        }
        let Some(traffic) = buckets.get_mut(bucket) else { return true };
        let own_room = match kind {
            Kind::Write => traffic.writes.has_room(rates.writes, now),
            Kind::Read => traffic.reads.has_room(rates.reads, now),
            Kind::List => traffic.lists.has_room(rates.lists, now),
            Kind::Restore => traffic.restores.has_room(rates.restores, now),
            Kind::Service | Kind::Other => true,
        };
        let within = own_room && traffic.all.has_room(rates.requests, now);
        if !within && let Some(throttled) = rates.throttled {
            traffic.throttled_until = Some(now + throttled.time);
        }
        let admitted = within && traffic.lower_rate_admits(kind, rates.throttled, now);
        traffic.all.note(admitted, now);
        match kind {
            Kind::Write => traffic.writes.note(admitted, now),
            Kind::Read => traffic.reads.note(admitted, now),
            Kind::List => traffic.lists.note(admitted, now),
            Kind::Restore => traffic.restores.note(admitted, now),
            Kind::Service | Kind::Other => {}
        }
        admitted
    }
}

impl Traffic {
    fn lower_rate_admits(&mut self, kind: Kind, lower: Option<Throttled>, now: Instant) -> bool {
        let (Some(lower), Some(until)) = (lower, self.throttled_until) else { return true };
        match kind {
            _ if now >= until => true,
            Kind::Write | Kind::List => self.writes.count(now) + self.lists.count(now) < lower.writes,
            Kind::Read => self.reads.has_room(Some(lower.reads), now),
            Kind::Service | Kind::Restore | Kind::Other => true,
        }
    }
}

/// When requests were admitted, no longer than a second ago.
#[derive(Debug, Default)]
struct Window(VecDeque<Instant>);

impl Window {
    fn count(&mut self, now: Instant) -> usize {
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) >= SECOND) {
            self.0.pop_front();
        }
        self.0.len()
    }

    fn has_room(&mut self, rate: Option<usize>, now: Instant) -> bool {
        rate.is_none_or(|rate| self.count(now) < rate)
    }

    fn note(&mut self, admitted: bool, now: Instant) {
        if admitted {
            self.count(now);
            self.0.push_back(now);
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many requests, evenly spread over the milliseconds from `begin` to `end`, are admitted.
    fn admitted(inner: &mut Inner, start: Instant, kind: Kind, (begin, end): (u64, u64), count: u32) -> usize {
        let step = Duration::from_millis(end - begin) / count;
        let at = |n| start + Duration::from_millis(begin) + step * n;
        (0..count).filter(|n| inner.admit(kind, "b", at(*n))).count()
    }

    fn inner(rates: Rates) -> (Inner, Instant) {
        (Inner { rates, ..Inner::default() }, clock::instant())
    }

    #[test]
    fn rate_holds_in_any_second() {
        let (mut inner, start) = inner(Rates { reads: Some(100), ..Rates::default() });
        let mut passed = Vec::new();
        for millisecond in 0..5000 {
            let now = start + Duration::from_millis(millisecond);
            if inner.admit(Kind::Read, "b", now) {
                passed.push(millisecond);
            }
        }
        assert_eq!(passed.len(), 500);
        assert!(passed.windows(101).all(|hundred| hundred[100] - hundred[0] >= 1000));
        assert!(inner.admit(Kind::Write, "b", start) && inner.admit(Kind::Read, "other", start), "kinds and buckets are apart");
    }

    #[test]
    fn throttled_bucket_has_lower_rates_for_a_while() {
        let throttled = Throttled { writes: 5, reads: 10, time: Duration::from_secs(3) };
        let (mut inner, start) = inner(Rates { requests: Some(100), throttled: Some(throttled), ..Rates::default() });
        assert_eq!(admitted(&mut inner, start, Kind::Write, (0, 900), 90), 90, "below the rate nothing is throttled");
        assert_eq!(admitted(&mut inner, start, Kind::Write, (900, 1000), 50), 10, "above it the rest is refused");
        // The last of those was refused just before 1,000 ms.
        assert_eq!(admitted(&mut inner, start, Kind::Write, (2000, 3900), 190), 10);
        assert_eq!(admitted(&mut inner, start, Kind::List, (3000, 3900), 90), 0, "lists share it with writes");
        assert_eq!(admitted(&mut inner, start, Kind::Read, (3000, 3900), 40), 10);
        assert_eq!(admitted(&mut inner, start, Kind::Write, (5000, 5900), 90), 90, "and then it is over");
    }

    #[test]
    fn service_has_a_rate_of_its_own() {
        let (mut inner, start) = inner(Rates { service: Some(2), ..Rates::documented() });
        assert_eq!(admitted(&mut inner, start, Kind::Service, (0, 100), 10), 2);
        assert_eq!(admitted(&mut inner, start, Kind::Restore, (0, 900), 150), 100);
        assert_eq!(admitted(&mut inner, start, Kind::Other, (0, 900), 500), 500);
    }

    #[test]
    fn rates_are_json() {
        let rates = Rates::documented();
        let text = serde_json::to_string(&rates).unwrap();
        assert!(text.contains(r#""throttled":{"writes":50,"reads":1000,"for":10000}"#), "{text}");
        assert_eq!(serde_json::from_str::<Rates>(&text).unwrap(), rates);
        assert_eq!(serde_json::from_str::<Rates>("{}").unwrap(), Rates::default());
        assert!(serde_json::from_str::<Rates>(r#"{"read":1}"#).is_err());
    }
}
