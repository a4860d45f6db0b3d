//! An independent COS server for tests and the demo.
//!
//! It speaks the COS protocol as documented: signatures, path and virtual-hosted style, objects, listings, multipart uploads, copies,
//! appends, tags and ACLs, with COS's limits and error codes; and it fails on request, in every way a test may want ([`Rule`], [`Action`]).
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
//! Not here: versions, archive and restore, CORS, symlink objects, metadata-accelerated buckets; those are answered 501.

mod acl;
mod admin;
mod answer;
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
mod log;
mod meta;
mod multipart;
mod objects;
mod op;
mod server;
mod state;
mod target;
mod xml;

pub use config::{Account, Config, Limits, Tls, Token};
pub use face::{Server, StoredObject, StoredUpload};
pub use fault::{Action, Faults, Rule, RuleState};
pub use log::{Count, Counters, LogEntry};
pub use op::Op;
