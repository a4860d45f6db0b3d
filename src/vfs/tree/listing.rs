//! A directory as COS listed it.

use std::{collections::BTreeMap, time::SystemTime};

use tokio::time::Instant;

use crate::store::ObjectVersion;

use crate::vfs::keymap::Name;

/// What a listing says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) enum Listed {
    /// Keys begin with `name/`.
    Prefix,
    /// An object.
    Object {
        /// Which.
        version: ObjectVersion,
        /// When it was last written, to the second.
        modified: SystemTime,
    },
    /// Something this mount made since; the tree knows it, or COS has to be asked.
    Own {
        /// Its key ends in `/`.
        directory: bool,
    },
}

impl Listed {
    /// Which object is shown, and when that was last written.
    pub(in crate::vfs) fn object(&self) -> Option<(&ObjectVersion, SystemTime)> {
        match self {
            Self::Object { version, modified } => Some((version, *modified)),
            Self::Prefix | Self::Own { .. } => None,
        }
    }
}

/// Every name of a directory at one time, and what this mount changed since.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Listing {
    /// When the first page was asked for: the age counts from here.
    pub(in crate::vfs) at: Instant,
    /// The names.
    pub(in crate::vfs) names: BTreeMap<Name, Listed>,
}
