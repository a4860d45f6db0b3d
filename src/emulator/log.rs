//! Which requests came and what they cost, so that tests can count them.
//!
//! A request is in the log from the moment its target is known, with status 0 until it is answered; bytes are counted as they are handed to
//! the connection, so a client that has received an answer finds all of it counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::clock;
use super::op::Op;

/// One request as the log remembers it.
#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    /// `x-cos-request-id` of its answer.
    pub request_id: String,
    /// The HTTP method.
    pub method: String,
    /// The operation.
    pub op: Op,
    /// The bucket, empty for the service.
    pub bucket: String,
    /// The key, empty for the bucket.
    pub key: String,
    /// The query as it was sent, without signature and token.
    pub query: String,
    /// The header `Range` or the copy's range.
    pub range: Option<String>,
    /// Who signed: the secret id as sent, empty for nobody.
    pub signer: String,
    /// The whole `Authorization`'s signature, so that tests see requests signed anew.
    pub signature: String,
    /// The status, 0 while unanswered or if it never was.
    pub status: u16,
    /// Bytes of the request's body read.
    pub bytes_in: u64,
    /// Bytes of the answer's body sent.
    pub bytes_out: u64,
    /// When it came, since the server's start.
    pub at: Duration,
    /// Until its answer was complete or given up; zero before.
    pub elapsed: Duration,
}

impl LogEntry {
    /// Of a request that no log keeps.
    pub(super) fn unlogged(op: Op) -> Self {
        Self {
            request_id: String::new(),
            method: String::new(),
            op,
            bucket: String::new(),
            key: String::new(),
            query: String::new(),
            range: None,
            signer: String::new(),
            signature: String::new(),
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            at: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }
}

/// Sums of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Requests that came.
    pub requests: u64,
    /// Answers of 400 and above, and requests without an answer.
    pub errors: u64,
    /// Those of them that were above a request rate.
    pub throttled: u64,
    /// Bytes of requests' bodies.
    pub bytes_in: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
}

/// Sums by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Counters(BTreeMap<Op, Count>);

impl Counters {
    /// The sums of one operation.
    pub fn of(&self, op: Op) -> Count {
        self.0.get(&op).copied().unwrap_or_default()
    }

    /// The sums of all operations.
    pub fn total(&self) -> Count {
        self.0.values().fold(Count::default(), |sum, one| Count {
            requests: sum.requests + one.requests,
            errors: sum.errors + one.errors,
            throttled: sum.throttled + one.throttled,
            bytes_in: sum.bytes_in + one.bytes_in,
            bytes_out: sum.bytes_out + one.bytes_out,
        })
    }

    /// The operations that came, with their sums.
    pub fn iter(&self) -> impl Iterator<Item = (Op, Count)> {
        self.0.iter().map(|(op, count)| (*op, *count))
    }
}

/// The log: a bounded ring of requests, and sums that outlive it.
#[derive(Debug)]
pub(super) struct Log {
    start: Instant,
    limit: usize,
    entries: Mutex<VecDeque<Arc<Record>>>,
    counters: Arc<Mutex<Counters>>,
}

impl Log {
    pub(super) fn new(limit: usize) -> Self {
        Self { start: clock::instant(), limit, entries: Mutex::default(), counters: Arc::default() }
    }

    /// Notes a request.
    pub(super) fn begin(&self, mut fixed: LogEntry) -> Arc<Record> {
        let begun = clock::instant();
        fixed.at = begun - self.start;
        self.counters.lock().0.entry(fixed.op).or_default().requests += 1;
        let record = Arc::new(Record {
            fixed,
            begun,
            status: AtomicU16::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            elapsed: AtomicU64::new(0),
            counters: Arc::clone(&self.counters),
        });
        let mut entries = self.entries.lock();
        if entries.len() >= self.limit {
            entries.pop_front();
        }
        if self.limit > 0 {
            entries.push_back(Arc::clone(&record));
        }
        record
    }

    pub(super) fn entries(&self) -> Vec<LogEntry> {
        self.entries.lock().iter().map(|record| record.entry()).collect()
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters.lock().clone()
    }

    pub(super) fn clear(&self) {
        self.entries.lock().clear();
        self.counters.lock().0.clear();
    }
}

/// A request being answered.
#[derive(Debug)]
pub(super) struct Record {
    fixed: LogEntry,
    begun: Instant,
    status: AtomicU16,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    elapsed: AtomicU64,
    counters: Arc<Mutex<Counters>>,
}

impl Record {
    pub(super) fn request_id(&self) -> &str {
        &self.fixed.request_id
    }

    pub(super) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        self.counters.lock().0.entry(self.fixed.op).or_default().bytes_in += bytes;
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.counters.lock().0.entry(self.fixed.op).or_default().bytes_out += bytes;
    }

    /// The status that goes out, 0 for none.
    pub(super) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
        if status == 0 || status >= 400 {
            self.counters.lock().0.entry(self.fixed.op).or_default().errors += 1;
        }
    }

    /// The request was above a request rate.
    pub(super) fn throttled(&self) {
        self.counters.lock().0.entry(self.fixed.op).or_default().throttled += 1;
    }

    /// The answer is complete or given up.
    pub(super) fn ended(&self) {
        let elapsed = u64::try_from((clock::instant() - self.begun).as_micros()).unwrap_or(u64::MAX);
        self.elapsed.store(elapsed, Ordering::Relaxed);
    }

    fn entry(&self) -> LogEntry {
        LogEntry {
            status: self.status.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            elapsed: Duration::from_micros(self.elapsed.load(Ordering::Relaxed)),
            ..self.fixed.clone()
        }
    }
}
