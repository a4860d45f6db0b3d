//! Why the bytes of a file could not be had, taken or committed.

use crate::store;
use crate::support::NoProgress;

/// A failed call of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base was replaced or removed by somebody else, and a range of it is needed that is not cached.
    #[error("the object was changed by somebody else while it was open")]
    Stale,
    /// A range was copied from an object that somebody else has replaced or removed since, before the copy was committed: its bytes are nowhere.
    #[error("an object was changed by somebody else before what was copied of it was in COS")]
    SourceGone,
    /// Somebody else replaced what this commit was to replace; the dirty bytes are kept.
    #[error("the object was changed by somebody else since it was opened; the changes made here are kept")]
    Conflict,
    /// The object was to be new and somebody else made it first; the dirty bytes are kept.
    #[error("somebody else made an object of that name first")]
    Exists,
    /// Neither memory nor staging takes more dirty bytes.
    #[error("memory and staging are full of bytes that could not be committed yet")]
    NoRoom,
    /// The bytes asked for have left as parts of a stream and cannot be had back before it is committed: commit, then ask again.
    #[error("these bytes are on their way to COS; the stream is committed before they are read or changed")]
    Streaming,
    /// The object is archived and not restored.
    #[error("the object is archived and not restored")]
    Archived,
    /// Beyond what a COS object can hold.
    #[error("larger than an object can be")]
    TooLarge,
    /// The store said no or could not be reached.
    #[error(transparent)]
    Store(store::Error),
    /// This host's disk failed.
    #[error("staging: {0}")]
    Staging(#[from] std::io::Error),
    /// Nothing moved within the caller's patience.
    #[error(transparent)]
    NoProgress(#[from] NoProgress),
}

impl Error {
    /// The same error once more: a fetch or commit that failed tells everybody who waited for it.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Stale => Self::Stale,
            Self::SourceGone => Self::SourceGone,
            Self::Conflict => Self::Conflict,
            Self::Exists => Self::Exists,
            Self::NoRoom => Self::NoRoom,
            Self::Streaming => Self::Streaming,
            Self::Archived => Self::Archived,
            Self::TooLarge => Self::TooLarge,
            Self::Store(error) => Self::Store(error.clone()),
            Self::Staging(error) => Self::Staging(std::io::Error::new(error.kind(), error.to_string())),
            Self::NoProgress(late) => Self::NoProgress(*late),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error.kind() {
            store::Kind::Precondition => Self::Stale,
            store::Kind::Conflict => Self::Conflict,
            store::Kind::Exists => Self::Exists,
            store::Kind::Archived => Self::Archived,
            store::Kind::TooLarge => Self::TooLarge,
            _ => Self::Store(error),
        }
    }
}
