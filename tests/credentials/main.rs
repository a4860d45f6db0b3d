//! Where credentials come from, how they are exchanged under way, and that no secret is seen anywhere: the program on the emulator, with services
//! that hand out credentials as Tencent's do (`issuer.rs`).
#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, clippy::disallowed_methods, missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/mod.rs"]
mod common;

mod check;
mod issuer;
mod rotation;
mod secrets;
