//! cosmount: a Tencent COS bucket as a directory.
//!
//! Three nouns carry the design: names live in [`vfs`], bytes live in [`data`], objects live in [`store`]. A request runs straight down from
//! [`fuse`] through them and straight back. `docs/architecture.md` has the rooms, their faces and their guarantees; `tests/layers.rs`
//! holds the table of what may import what.

pub mod admin;
pub mod cli;
pub mod data;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod fuse;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod local;
pub mod mount;
pub mod store;
pub mod support;
pub mod vfs;
