//! The composition root: builds everything from [`Settings`], owns start, drain and stop.
//!
//! Guarantees: M1 (a mount reports success only after the kernel's handshake and one signed request), M2 (stopping refuses new work, drains
//! within its limit, says what is left, unmounts; the process always ends).

pub mod advice;
mod build;
pub mod daemon;
pub mod host;
#[cfg(test)]
mod kernel_tests;
mod leftovers;
mod service_manager;
mod session;
mod settings;
mod shutdown;
pub mod telemetry;

// What the rooms' settings are made of, for those who fill them and may not import the rooms.
pub use crate::data::Config as DataConfig;
pub use crate::vfs::{Config as VfsConfig, Consistency, Left, OnConflict, Posix, Preserve};

pub use build::{Account, account, elsewhere, noted_uploads};
pub use session::{Audience, Mounted, TYPE, check_mount_point};
pub use settings::{Access, Settings, Source, Staging};
pub use shutdown::{Running, start};
