//! Why a file-system operation failed. `fuse/errno.rs` gives each variant exactly one errno.

use crate::data;

use crate::store;

use crate::support::NoProgress;

/// A failed file-system operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such name (ENOENT).
    #[error("no such file or directory")]
    NotFound,
    /// The name exists (EEXIST).
    #[error("the name exists already")]
    Exists,
    /// Not a directory (ENOTDIR).
    #[error("not a directory")]
    NotADirectory,
    /// A directory where a file was expected (EISDIR).
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries (ENOTEMPTY).
    #[error("directory not empty")]
    NotEmpty,
    /// The name or its key is longer than names or keys can be (ENAMETOOLONG).
    #[error("the name, or the key made of it, is too long: COS keys end at 850 bytes, names at 255")]
    NameTooLong,
    /// The name cannot be a part of a key (EINVAL).
    #[error("COS cannot store this name: {0}")]
    BadName(&'static str),
    /// An argument makes no sense: a directory moved into itself, a negative offset (EINVAL).
    #[error("{0}")]
    Invalid(&'static str),
    /// The handle is not open for this (EBADF).
    #[error("the file is not open for this")]
    BadHandle,
    /// Not possible here by its nature: hard links, device nodes, attributes that `--posix` does not keep (EPERM).
    #[error("{0}")]
    NotPermitted(&'static str),
    /// The mount is read-only (EROFS).
    #[error("mounted read-only")]
    ReadOnly,
    /// The credentials may not do this, or the object is archived (EACCES).
    #[error("{0}")]
    Denied(String),
    /// More than can be done as one rename; the program copies instead (EXDEV).
    #[error("{0}")]
    CrossDevice(&'static str),
    /// The operation is not there (EOPNOTSUPP).
    #[error("not supported")]
    Unsupported,
    /// No such extended attribute (ENODATA).
    #[error("no such attribute")]
    NoAttribute,
    /// The attributes together are larger than an object's metadata can be (ENOSPC).
    #[error("the attributes together are larger than the 2 KB that COS keeps with an object")]
    AttributesFull,
    /// The caller's buffer is too small (ERANGE).
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The inode's object was replaced or removed by somebody else (ESTALE).
    #[error("the file was replaced or removed by somebody else")]
    Stale,
    /// Beyond what an object can hold (EFBIG).
    #[error("larger than a COS object can be")]
    TooLarge,
    /// Memory and staging are full (ENOSPC).
    #[error("memory and staging are full of changes that could not be sent yet")]
    NoSpace,
    /// A quota of the account is used up (EDQUOT).
    #[error("{0}")]
    Quota(String),
    /// Busy: the store says so, or the operation meets another (EBUSY).
    #[error("{0}")]
    Busy(String),
    /// Nothing moved within `--io-timeout` (ETIMEDOUT).
    #[error("{0}")]
    TimedOut(String),
    /// Everything else that went wrong below (EIO).
    #[error("{0}")]
    Io(String),
    /// The mount is being stopped (ENODEV... answered as EIO while draining).
    #[error("the mount is being stopped")]
    Stopping,
}

impl From<NoProgress> for Error {
    fn from(late: NoProgress) -> Self {
        Self::TimedOut(late.to_string())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        use store::Kind;
        match error.kind() {
            Kind::NotFound => Self::NotFound,
            Kind::Precondition | Kind::Conflict => Self::Stale,
            Kind::Exists => Self::Exists,
            Kind::Denied | Kind::Expired | Kind::Archived => Self::Denied(error.to_string()),
            Kind::Locked => Self::NotPermitted("the object is under retention"),
            Kind::NotEmpty => Self::NotEmpty,
            Kind::KeyTooLong => Self::NameTooLong,
            Kind::TooLarge => Self::TooLarge,
            Kind::Quota => Self::Quota(error.to_string()),
            Kind::Unsupported => Self::Unsupported,
            Kind::NoProgress => Self::TimedOut(error.to_string()),
            Kind::NoSuchBucket
            | Kind::NoSuchUpload
            | Kind::Invalid
            | Kind::Throttled
            | Kind::Unavailable
            | Kind::Corrupt
            | Kind::Source => Self::Io(error.to_string()),
        }
    }
}

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        match error {
            data::Error::Stale | data::Error::Conflict => Self::Stale,
            data::Error::Exists => Self::Exists,
            data::Error::NoRoom => Self::NoSpace,
            data::Error::Archived => Self::Denied(error.to_string()),
            data::Error::TooLarge => Self::TooLarge,
            data::Error::Store(error) => error.into(),
            data::Error::Staging(_) | data::Error::Streaming => Self::Io(error.to_string()),
            data::Error::NoProgress(error) => error.into(),
        }
    }
}
