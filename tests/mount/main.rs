//! The whole program, kernel included: a real mount on the emulator, used as programs use it.
#![cfg(feature = "emulator")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub
)]

#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/liar.rs"]
mod liar;

mod conflicts;
mod copies;
mod edits;
mod errors;
mod exclusive;
mod foreign;
mod hedge;
mod hostile;
mod kept;
mod kernel;
mod limits;
mod lost;
mod outage;
mod pending;
mod posix;
mod programs;
mod requests;
mod storms;
mod streaming;
