//! Counters by name, shared by all rooms: what `stats` shows and tests assert.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters of one mount.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: RwLock<BTreeMap<&'static str, Arc<Counter>>>,
}

impl Metrics {
    /// The counter of that name, made at its first use. Keep the `Arc` on hot paths.
    pub fn counter(&self, name: &'static str) -> Arc<Counter> {
        if let Some(counter) = self.counters.read().get(name) {
            return Arc::clone(counter);
        }
        Arc::clone(self.counters.write().entry(name).or_default())
    }

    /// Every counter with its value, in name order.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.counters.read().iter().map(|(name, counter)| (*name, counter.value())).collect()
    }
}
