//! Durable things on this host: a directory of files that appear whole, and a journal in it.
//!
//! [`Disk`] is the door to the outside: [`HostDisk`] is a real directory with one owner, [`SimDisk`] a simulated one that loses at a crash
//! what was not synced. Everything above, the [`Journal`] first, is written against the trait and tested against both.

mod disk;
mod host;
mod journal;
mod ledger;
mod sim;

pub use disk::{Disk, DiskFile};
pub use host::{HostDisk, OpenError};
pub use journal::{Damage, Durable, Journal, JournalError, Replay};
pub use ledger::{Entry, Ledger, Leftover};
pub use sim::{Operation, SimDisk};
