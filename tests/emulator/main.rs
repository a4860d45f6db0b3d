//! The emulator over the wire: the rules of COS that clients depend on, the faults, the disk, TLS.
//!
//! Requests here are unsigned, which the emulator allows on request; signatures have their own tests beside the code, and the official SDKs
//! in `tests/sdk`.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, unreachable_pub)]

mod archive;
mod benchmarks;
mod disk;
mod faults;
mod http;
mod lists;
mod multipart;
mod objects;
mod service;
mod throttle;
mod versions;

use std::time::Duration;

use cosmount::emulator::{Config, Limits, Server};
use http::{Answer, request};

const BUCKET: &str = "b-125";

/// An emulator with small limits.
struct Emulator(Server);

impl Emulator {
    fn start() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let limits = Limits { min_part: 1024, max_put: 1 << 20, body_timeout: Duration::from_millis(500), ..config.limits };
        let buckets = vec![(BUCKET.to_owned(), "ap-x".to_owned())];
        Self(Server::start(Config { anonymous: true, buckets, limits, ..config }).unwrap())
    }

    fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
        request(self.0.addr(), method, &format!("/{BUCKET}{path}"), headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], None)
    }

    fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.call("PUT", path, &[], Some(body))
    }

    fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.call("POST", path, &[], Some(body))
    }
}
