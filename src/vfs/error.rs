//! Why a file-system operation failed. `fuse/errno.rs` gives each variant exactly one errno.

use std::fmt;

use crate::data;

use crate::store;

use crate::support::NoProgress;

/// Why, in words; and the store's refusal, where it was the store.
#[derive(Debug, Clone)]
pub struct Why {
    text: String,
    refusal: Option<store::Error>,
}

/// What the store refused and how, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// Bucket and key; nothing escaped.
    pub target: &'a str,
    /// The store's code.
    pub code: Option<&'a str>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The request's id.
    pub request_id: Option<&'a str>,
    /// How often it was tried.
    pub tries: u32,
}

/// A failed file-system operation.
#[derive(Debug, Clone, thiserror::Error)]
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
    Denied(Why),
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
    /// Nothing but a hole from there on (ENXIO).
    #[error("no data from there on")]
    NoData,
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
    Quota(Why),
    /// Busy: the store says so, or the operation meets another (EBUSY).
    #[error("{0}")]
    Busy(Why),
    /// Nothing moved within `--io-timeout` (ETIMEDOUT).
    #[error("{0}")]
    TimedOut(Why),
    /// Everything else that went wrong below (EIO).
    #[error("{0}")]
    Io(Why),
    /// The mount is being stopped (ENODEV... answered as EIO while draining).
    #[error("the mount is being stopped")]
    Stopping,
}

impl Error {
    /// What the store refused, if it was the store.
    pub fn refusal(&self) -> Option<Refusal<'_>> {
        let (Self::Denied(why) | Self::Quota(why) | Self::Busy(why) | Self::TimedOut(why) | Self::Io(why)) = self else { return None };
        why.refusal.as_ref().map(|error| Refusal {
            target: error.target(),
            code: error.code(),
            status: error.status(),
            request_id: error.request_id(),
            tries: error.tries(),
        })
    }
}

impl Error {
    /// Whether it may go better later without anybody doing anything.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) | Self::Io(_) | Self::Busy(_) | Self::Stopping => true,
            Self::Denied(why) => why.refusal.as_ref().is_some_and(|error| error.kind() == store::Kind::Expired),
            _ => false,
        }
    }
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { text, refusal: None }
    }
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<store::Error> for Why {
    fn from(error: store::Error) -> Self {
        Self { text: error.to_string(), refusal: Some(error) }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<NoProgress> for Error {
    fn from(late: NoProgress) -> Self {
        Self::TimedOut(late.to_string().into())
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        use store::Kind;
        match error.kind() {
            Kind::NotFound => Self::NotFound,
            Kind::Precondition | Kind::Conflict => Self::Stale,
            Kind::Exists => Self::Exists,
            Kind::Denied | Kind::Expired | Kind::Archived => Self::Denied(error.into()),
            Kind::Locked => Self::NotPermitted("the object is under retention"),
            Kind::NotEmpty => Self::NotEmpty,
            Kind::KeyTooLong => Self::NameTooLong,
            Kind::TooLarge => Self::TooLarge,
            Kind::Quota => Self::Quota(error.into()),
            Kind::Unsupported => Self::Unsupported,
            Kind::NoProgress => Self::TimedOut(error.into()),
            Kind::NoSuchBucket
            | Kind::NoSuchUpload
            | Kind::Invalid
            | Kind::Throttled
            | Kind::Unavailable
            | Kind::Corrupt
            | Kind::Source => Self::Io(error.into()),
        }
    }
}

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        match error {
            data::Error::Stale | data::Error::SourceGone | data::Error::Conflict => Self::Stale,
            data::Error::Exists => Self::Exists,
            data::Error::NoRoom => Self::NoSpace,
            data::Error::Archived => Self::Denied(error.to_string().into()),
            data::Error::TooLarge => Self::TooLarge,
            data::Error::Store(error) => error.into(),
            data::Error::Staging(_) | data::Error::Streaming => Self::Io(error.to_string().into()),
            data::Error::NoProgress(error) => error.into(),
        }
    }
}
