//! This host: durable things in a directory of files that appear whole, with a journal in it; and what its processes have open.
//!
//! [`Disk`] is the door to the outside: [`HostDisk`] is a real directory with one owner, [`SimDisk`] a simulated one that loses at a crash
//! what was not synced. Everything above, the [`Journal`] first, is written against the trait and tested against both.

mod disk;
mod host;
mod journal;
mod ledger;
mod process;
mod sim;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    pub(crate) use super::journal::fuzzing::journal;
    pub(crate) use super::ledger::fuzz as ledger;
}

pub use disk::{Disk, DiskFile};
pub use host::{HostDisk, OpenError};
pub use journal::{Damage, Durable, Journal, JournalError, Replay};
pub use ledger::{Entry, Known, Ledger, Leftover};
pub use process::has_open;
pub use sim::{Operation, SimDisk};
