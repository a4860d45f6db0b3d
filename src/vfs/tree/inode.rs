//! The record behind an inode number.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::{ETag, ObjectVersion};

use crate::vfs::{FileKind, Ino, keymap::Name, meta::Attributes};

use super::listing::Listing;

/// How far a write's `Date`, which may be all that is known of when an object of our own was written, may be before its Last-Modified.
const WRITTEN_SLACK: Duration = Duration::from_secs(2);

/// What COS, or this mount itself, says of a file: known exactly, never guessed from a listing.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Facts {
    /// What it is.
    pub(in crate::vfs) kind: FileKind,
    /// Attributes that the object carries itself.
    pub(in crate::vfs) attributes: Attributes,
    /// Which object it is; `None` for what was never committed and for implicit directories.
    pub(in crate::vfs) origin: Option<ObjectVersion>,
    /// When the object was last written; stands in for an mtime it does not carry.
    pub(in crate::vfs) modified: SystemTime,
}

/// Whether COS has what a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vfs) enum Local {
    /// It has.
    Clean,
    /// Bytes or attributes of an object were changed and not committed. May be said too long, never too short.
    Dirty,
    /// No object was ever made of this file.
    New,
}

/// Through whom a name comes into the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vfs) enum By {
    /// COS said that it is there.
    Cos,
    /// This mount made it just now.
    Mount(Local),
}

/// Why an inode has no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vfs) enum Nameless {
    /// Removed or replaced through this mount.
    Removed,
    /// Somebody else replaced or removed the object: what is written now has no place to go.
    Lost,
}

/// Where an inode stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) enum Place {
    /// The root of the mount.
    Root,
    /// Under this name of that directory.
    In(Ino, Name),
    /// Nowhere: only handles keep it.
    Nowhere(Nameless),
}

/// Where an open file stood when somebody else's object took its name.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Was {
    /// The directory, which may be gone since.
    pub(in crate::vfs) parent: Ino,
    /// Names from the root down to its own.
    pub(in crate::vfs) path: Vec<Name>,
}

/// One inode.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Node {
    /// Where it stands.
    pub(in crate::vfs) place: Place,
    /// Where it stood, if that is [`Nameless::Lost`] and it was open.
    pub(in crate::vfs) was: Option<Box<Was>>,
    /// What is known of it. `facts.origin` is what COS holds under its key, while the bytes of an open file may come from elsewhere.
    pub(in crate::vfs) facts: Facts,
    /// Size in bytes.
    pub(in crate::vfs) size: u64,
    /// Last access, in memory only.
    pub(in crate::vfs) atime: SystemTime,
    /// Last change of the inode, in memory only.
    pub(in crate::vfs) ctime: SystemTime,
    /// Whether a program set the times since the last commit.
    pub(in crate::vfs) times_set: bool,
    /// When this mount last changed a directory's names; in memory only.
    pub(in crate::vfs) names_changed: Option<SystemTime>,
    /// A symbolic link's target, once read.
    pub(in crate::vfs) link: Option<Bytes>,
    /// Whether COS has what a program sees.
    pub(in crate::vfs) local: Local,
    /// When COS last said so.
    pub(in crate::vfs) checked: Instant,
    /// When this mount last put it under its name; listings that are older do not know it.
    pub(in crate::vfs) own: Option<Instant>,
    /// The epoch of this mount's last change to the object or its name.
    pub(in crate::vfs) touched: u64,
    /// The epoch of the last change that is to be committed.
    pub(in crate::vfs) dirtied: u64,
    /// References the kernel holds.
    pub(in crate::vfs) lookups: u64,
    /// Open handles.
    pub(in crate::vfs) opens: u32,
    /// Operations under way that need the record.
    pub(in crate::vfs) pins: u32,
    /// The version whose pages the kernel has.
    pub(in crate::vfs) pages: Option<ETag>,
    /// What a directory has besides.
    pub(in crate::vfs) directory: Option<Box<Directory>>,
}

/// What a directory has besides.
#[derive(Debug, Clone, Default)]
pub(in crate::vfs) struct Directory {
    /// Entries that have an inode.
    pub(in crate::vfs) children: BTreeMap<Name, Ino>,
    /// The whole directory as COS listed it, changed since as this mount changed it.
    pub(in crate::vfs) listing: Option<Listing>,
    /// Names this mount removed lately: listings that are older still show them.
    pub(in crate::vfs) gone: BTreeMap<Name, Gone>,
    /// In the order they went, so that the oldest are dropped first.
    pub(super) gone_order: VecDeque<Name>,
    /// Names COS lately said it does not have.
    pub(in crate::vfs) absent: BTreeMap<Name, Instant>,
    /// Absences asked of COS since the directory was last listed.
    pub(in crate::vfs) misses: u32,
}

/// A name this mount removed.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Gone {
    /// When.
    pub(in crate::vfs) at: Instant,
    /// In which epoch.
    pub(in crate::vfs) epoch: u64,
    /// Which object went, and when that was last written.
    pub(in crate::vfs) object: Option<(ObjectVersion, SystemTime)>,
}

impl Gone {
    /// Whether `listed` was put by somebody else afterwards: it is not the object that went.
    pub(super) fn is_followed_by(&self, (version, modified): (&ObjectVersion, SystemTime)) -> bool {
        self.object.as_ref().is_none_or(|(old, written)| !old.same_bytes(version) || modified > *written + WRITTEN_SLACK)
    }
}

impl Node {
    /// Last change of the bytes.
    pub(in crate::vfs) fn mtime(&self) -> SystemTime {
        self.names_changed.or(self.facts.attributes.mtime).unwrap_or(self.facts.modified)
    }

    /// Whether the inode has a name or is the root.
    pub(in crate::vfs) fn is_named(&self) -> bool {
        !matches!(self.place, Place::Nowhere(_))
    }

    /// Whether it is a directory.
    pub(in crate::vfs) fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// The parent and name, where it has them.
    pub(in crate::vfs) fn dentry(&self) -> Option<(Ino, &Name)> {
        match &self.place {
            Place::In(parent, name) => Some((*parent, name)),
            Place::Root | Place::Nowhere(_) => None,
        }
    }

    /// The object was copied to where the inode is now; attributes that were changed meanwhile stay.
    pub(in crate::vfs) fn take_copy(&mut self, copied: &Facts) {
        let etag = |origin: &Option<ObjectVersion>| origin.as_ref().map(|origin| origin.etag.clone());
        if self.pages.is_some() && self.pages == etag(&self.facts.origin) {
            self.pages = etag(&copied.origin);
        }
        if self.local == Local::Clean {
            self.facts.attributes = copied.attributes.clone();
        }
        self.facts.origin.clone_from(&copied.origin);
        self.facts.modified = copied.modified;
    }

    /// Whether nobody needs the record: what COS knows can be asked again.
    pub(super) fn is_unused(&self) -> bool {
        let childless = self.directory.as_ref().is_none_or(|directory| directory.children.is_empty());
        let kept = self.place != Place::Nowhere(Nameless::Removed) && self.local != Local::Clean;
        self.lookups == 0 && self.opens == 0 && self.pins == 0 && childless && !kept && self.place != Place::Root
    }
}
