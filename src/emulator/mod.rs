//! An independent COS server for tests and the demo.
//!
//! It speaks the COS protocol as documented: signatures, path and virtual-hosted style, objects, listings, multipart uploads, copies,
//! appends, versions, archived objects, tags and ACLs, with COS's limits and error codes; it throttles where it is told to ([`Rates`]), and
//! it fails on request, in every way a test may want ([`Rule`], [`Action`]).
//! It shares no code with `store`, so that one reading of the documents checks the other.
//!
//! [`Server::start`] returns when the server listens; it runs on threads of its own, so callers need no runtime, and dropping it ends it with
//! all its connections.
//!
//! ```
//! use cosmount::emulator::{Action, Config, Op, Rule, Server};
//!
//! let server = Server::start(Config::with_bucket("example-1250000000"))?;
//! server.put("example-1250000000", "dir/a.txt", "hello", &[("content-type", "text/plain")])?;
//! server.faults().add(Rule::on(Op::GetObject, Action::slow_down()).times(1));
//! assert_eq!(server.keys("example-1250000000", "dir/"), ["dir/a.txt"]);
//! # std::io::Result::Ok(())
//! ```
//!
//! Not here: CORS, symlink objects, object lock, metadata-accelerated buckets; those are answered 501, CORS as if none were configured.
//! `docs/emulator.md` has the whole list.

mod acl;
mod admin;
mod answer;
mod archive;
mod auth;
mod buckets;
mod call;
mod casing;
mod clock;
mod conditions;
mod config;
mod content;
mod copy;
mod disk;
mod error;
mod face;
mod fault;
mod link;
mod list;
mod list_versions;
mod log;
mod meta;
mod multipart;
mod objects;
mod op;
mod s3;
mod server;
mod state;
mod target;
mod throttle;
mod versions;
mod xml;

pub use config::{Account, Config, ETags, Limits, Restoring, Tls, Token};
pub use face::{Server, StoredObject, StoredUpload, StoredVersion};
pub use fault::{Action, Faults, Rule, RuleState};
pub use log::{Count, Counters, LogEntry};
pub use op::Op;
pub use throttle::{Rates, Throttled};
pub use versions::Versioning;
