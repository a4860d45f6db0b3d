//! Crashes: the program is killed at bad moments, and what was acknowledged is in the bucket, and nothing else of ours.
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

mod ends;
mod kill;
mod leftovers;
mod pending;
mod renames;
