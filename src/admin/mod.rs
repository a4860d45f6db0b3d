//! The second door to a mount: a socket on which its user asks how it is and has changes sent.
//!
//! One line of JSON asks ([`Request`]), lines of JSON answer ([`Reply`]), and the connection ends. The socket lies beside the mount's registration, in a
//! directory that is its user's alone, is 0600, and besides looks who is there: the mount's user or root. No more than a few are served at once, a
//! question has a length and every line a time in which it must have been taken, so that nobody who asks can hold up the mount or its end.
//!
//! Nothing here runs on a thread of the kernel's requests, and nothing waits for one: questions are calls of [`crate::vfs::Vfs`] like any other.

mod client;
mod messages;
mod server;

pub use client::Client;
pub use messages::{File, Memory, OnConflict, Outcome, Progress, Reason, RefusedChange, Reply, Request, Stats};
pub use server::{Door, Inside, serve};
