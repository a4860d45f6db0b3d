//! The room as a whole, over a simulated bucket and a simulated disk, in virtual time.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::*;

use crate::local::SimDisk;

use crate::store::{
    BucketName, Capabilities, Kind, Operation,
    memory::{Effect, MemoryBucket},
};

use crate::support::{Share, SystemClock};

mod committing;
mod copying;
mod defects;
mod pressure;
mod reading;
mod streaming;
mod together;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

struct Setting {
    bucket: Arc<MemoryBucket>,
    data: Arc<Data>,
    budget: Budget,
    disk: Arc<SimDisk>,
    tasks: Arc<TaskGroup>,
    metrics: Metrics,
    cx: Ctx,
}

impl Setting {
    fn new() -> Self {
        Self::with(64, Config::default(), Capabilities::cos(), true)
    }

    fn with(limit: u64, config: Config, capabilities: Capabilities, staging: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let bucket = MemoryBucket::with(BucketName::parse("data-1250000000").unwrap(), capabilities, Arc::clone(&clock));
        let budget = Budget::new(ByteSize::mib(limit));
        let disk = Arc::new(SimDisk::new());
        let tasks = Arc::new(TaskGroup::new(Handle::current()));
        let metrics = Metrics::default();
        let staging = staging.then(|| Arc::clone(&disk) as Arc<dyn Disk>);
        let data = Data::new(config, budget.clone(), staging, None, Arc::clone(&clock), Arc::clone(&tasks), &metrics);
        let cx = Ctx::new(clock, Duration::from_secs(90), 1, 1);
        Self { bucket, data, budget, disk, tasks, metrics, cx }
    }

    fn store(&self) -> Arc<dyn Bucket> {
        Arc::clone(&self.bucket) as Arc<dyn Bucket>
    }

    fn new_file(&self) -> Arc<File> {
        self.data.open(self.store(), None)
    }

    /// An object of somebody else's, opened.
    fn object(&self, key: &str, bytes: impl Into<Bytes>) -> Arc<File> {
        let version = self.bucket.put_foreign(&Key::new(key), bytes);
        self.data.open(self.store(), Some(version))
    }

    fn peek(&self, key: &str) -> Vec<u8> {
        self.bucket.peek(&Key::new(key)).unwrap()
    }

    async fn read(&self, file: &Arc<File>, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(file.read(&self.fresh(), &file.reader(), range).await?.concat())
    }

    async fn write(&self, file: &Arc<File>, at: u64, bytes: &[u8]) -> Result<Written> {
        file.write(&self.fresh(), At::Offset(at), Bytes::copy_from_slice(bytes)).await
    }

    fn fresh(&self) -> Ctx {
        self.cx.detached(crate::support::Urgency::Demand)
    }

    fn requests(&self) -> BTreeMap<Operation, u64> {
        Operation::ALL.into_iter().map(|operation| (operation, self.bucket.requests(operation))).filter(|(_, n)| *n > 0).collect()
    }

    fn counter(&self, name: &'static str) -> u64 {
        self.metrics.counter(name).value()
    }

    /// Waits until no task of the room runs.
    async fn idle(&self) {
        while !self.tasks.is_empty() {
            self.cx.clock().sleep(Duration::from_millis(1)).await;
        }
    }
}

fn target(key: &str, replaces: Replaces) -> Target {
    Target {
        key: Key::new(key),
        replaces,
        meta: Meta { content_type: Some("text/plain".into()), ..Meta::default() },
        times: vec![("mtime".into(), "1".into())],
        times_set: false,
    }
}

fn over(file: &File, key: &str) -> Target {
    target(key, file.base().map_or(Replaces::Absent, Replaces::Version))
}

/// Bytes that tell where they come from.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let period: Vec<u8> = (0..251 * 7).map(|at| ((at / 7 + seed * 31) % 251) as u8 + 1).collect();
    let mut bytes = period.repeat(len as usize / period.len() + 1);
    bytes.truncate(len as usize);
    bytes
}
