//! The store's suite: one property per test, each on every store there is.
//!
//! `contract` runs on the simulated bucket and on the COS client against the emulator, both below the whole stack of wrappers. `faults`
//! breaks the emulator's answers, `hostile` makes them lie, `settle` and `limits` need a hand in between that only the simulated bucket has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/liar.rs"]
mod liar;

mod contract;
mod faults;
mod hostile;
mod proxy;
mod settle;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cosmount::{
    emulator::{Config, Op, Server},
    store::{
        Bucket, BucketName, Capabilities, CommitToken, CosConfig, Faults, Key, Meta, ObjectVersion, Payload, Replaces, Service, Stored,
        cos::{Credentials, Endpoints, Fixed, Provider},
        memory::{MemoryBucket, MemoryService},
        open_cos, stack,
    },
    support::{Clock, Ctx, Metrics, SystemClock},
};

const BUCKET: &str = "example-1250000000";

/// A bucket below the whole stack, and the way behind it.
struct Stage {
    service: Arc<dyn Service>,
    bucket: Arc<dyn Bucket>,
    cx: Ctx,
    metrics: Metrics,
    back: Back,
}

enum Back {
    Memory(Arc<MemoryBucket>, Arc<Faults>),
    Cos(Server),
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn context(patience: Duration) -> Ctx {
    Ctx::new(clock(), patience, 1, 1)
}

fn name() -> BucketName {
    BucketName::parse(BUCKET).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text)
}

/// Metadata with a token of its own.
fn meta(token: u8) -> Meta {
    Meta { token: Some(CommitToken::from_bytes([token; 16])), ..Meta::default() }
}

/// Bytes that differ everywhere.
fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(step).collect()
}

fn signed() -> Arc<dyn Provider> {
    Arc::new(Fixed::new(Credentials::new("AKIDEXAMPLE", "exampleSecretKey")))
}

/// The COS client on an emulator.
fn client(server: &Server, credentials: Arc<dyn Provider>, metrics: &Metrics) -> Arc<dyn Service> {
    let endpoints = Endpoints::parse(None, &[server.endpoint()], false).unwrap();
    open_cos(
        CosConfig { endpoints, credentials, ca_file: None, connections: 16, hedging: true, limits: Capabilities::cos() },
        metrics,
        clock(),
    )
    .unwrap()
}

impl Stage {
    async fn memory() -> Self {
        Self::memory_with(Capabilities::cos()).await
    }

    async fn memory_with(capabilities: Capabilities) -> Self {
        let account = MemoryService::new(clock());
        let memory = MemoryBucket::with(name(), capabilities, clock());
        account.add(Arc::clone(&memory));
        let (metrics, faults) = (Metrics::default(), Arc::new(Faults::default()));
        let service = stack(account, 16, &metrics, clock(), Some(Arc::clone(&faults)));
        let cx = context(Duration::from_secs(20));
        let bucket = service.open(&cx, &name()).await.unwrap();
        Self { service, bucket, cx, metrics, back: Back::Memory(memory, faults) }
    }

    async fn cos() -> Self {
        Self::cos_with(Config { strict_signatures: true, ..Config::with_bucket(BUCKET) }, Duration::from_secs(20)).await
    }

    async fn cos_with(config: Config, patience: Duration) -> Self {
        let server = Server::start(config).unwrap();
        let metrics = Metrics::default();
        let service = client(&server, signed(), &metrics);
        let cx = context(patience);
        let bucket = service.open(&cx, &name()).await.unwrap();
        server.clear_log();
        Self { service, bucket, cx, metrics, back: Back::Cos(server) }
    }

    fn server(&self) -> &Server {
        match &self.back {
            Back::Cos(server) => server,
            Back::Memory(..) => panic!("this store has no server"),
        }
    }

    fn memory_bucket(&self) -> &MemoryBucket {
        match &self.back {
            Back::Memory(memory, _) => memory,
            Back::Cos(_) => panic!("this store is not in memory"),
        }
    }

    fn rules(&self) -> &Faults {
        match &self.back {
            Back::Memory(_, faults) => faults,
            Back::Cos(_) => panic!("this store is not in memory"),
        }
    }

    /// How many requests of `op` came to the emulator.
    fn requests(&self, op: Op) -> u64 {
        self.server().counters().of(op).requests
    }

    /// Writes as somebody else.
    fn foreign(&self, key: &Key, bytes: impl Into<Bytes>) {
        match &self.back {
            Back::Memory(memory, _) => drop(memory.put_foreign(key, bytes)),
            Back::Cos(server) => server.put(BUCKET, key.as_str(), bytes, &[]).unwrap(),
        }
    }

    /// An object's bytes, from behind.
    fn peek(&self, key: &Key) -> Option<Bytes> {
        match &self.back {
            Back::Memory(memory, _) => memory.peek(key).map(Bytes::from),
            Back::Cos(server) => server.get(BUCKET, key.as_str()).map(|object| object.body),
        }
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Stored {
        let payload = Payload::from(bytes.into());
        self.bucket.put(&self.cx, &key(name), &meta(1), payload, &Replaces::Anything).await.unwrap()
    }

    async fn read(&self, version: &ObjectVersion) -> cosmount::store::Result<Bytes> {
        self.bucket.get(&self.cx, version, 0..version.size).await?.collect().await
    }
}
