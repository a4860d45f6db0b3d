//! Durable things on this host: a journal, files that appear whole.

/// A flat directory of files on this host.
pub trait Disk: std::fmt::Debug + Send + Sync {}
