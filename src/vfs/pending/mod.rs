//! What programs were told is done and COS does not have yet: deletes, and attributes of objects that are otherwise clean.
//!
//! With staging an unlink, a chmod, a chown, a utimens is noted in the ledger, durably, and answered; the requests go behind it, many as one: deletes that come close
//! together as one multi-delete, all changes of one object's attributes as one copy of it onto itself. Whatever needs them to be in COS waits
//! for them: fsync, the rename of a directory, rmdir, the end of the mount ([`Vfs::settle`]). What a crash interrupts the next mount finishes
//! (`recover.rs`), if the object still is the one that was meant. Without staging, or once the ledger cannot be written, everything is sent before the
//! reply.
//!
//! What COS refuses for good (403, retention) is said once and counted, and the program's view goes back to what COS has: the name is there again, the old attributes
//! are. From then on the next of its kind is sent before its reply, until one succeeds: so a mount without the right answers EACCES from the
//! second on. The next fsync of the file, or of the directory, is told, too. What fails for want of a network or a service is tried again until it is done.

mod attributes;
mod deletes;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::local::{Entry, Known};

use crate::store::{Kind, ObjectVersion};

use crate::support::Ctx;

use crate::vfs::{Error, Ino, Result, Vfs};

pub(super) use attributes::Carries;
use attributes::Owed;
pub(super) use deletes::Delete;
use deletes::Deletes;

/// How long background work waits without progress.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between tries of what fails for want of a network or a service.
const PAUSE: Duration = Duration::from_secs(4);
/// Refusals that are remembered, the latest.
const REMEMBERED: usize = 1000;

/// Everything that is answered and not sent. Guarded by the lock of the names.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deletes: Deletes,
    /// Attributes by inode, which is pinned.
    owed: HashMap<Ino, Owed>,
    /// A task sends attributes.
    owing: bool,
    /// COS has refused the last attributes: they are sent before the reply until it takes some.
    attributes_denied: bool,
    refused: VecDeque<Refused>,
    /// Refusals that the next fsync tells: of attributes by inode, of deletes by directory.
    untold: HashMap<Ino, Error>,
    /// Refusals ever.
    refusals: u64,
}

/// How much is answered and not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PendingCounts {
    /// Objects still to be deleted.
    pub deletes: usize,
    /// Objects still to be given attributes.
    pub attributes: usize,
    /// What COS has refused for good since the mount began.
    pub refused: u64,
}

/// A change that was answered and that COS then refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The object's key.
    pub key: String,
    /// What was to be done: `delete` or `attributes`.
    pub what: &'static str,
    /// What COS said.
    pub why: String,
}

impl Pending {
    /// Whether attributes of `ino` are still to be sent.
    pub(super) fn owes(&self, ino: Ino) -> bool {
        self.owed.contains_key(&ino)
    }

    pub(super) fn counts(&self) -> PendingCounts {
        PendingCounts { deletes: self.deletes.len(), attributes: self.owed.len(), refused: self.refusals }
    }

    fn refuse(&mut self, at: Ino, refused: Refused, error: Error) {
        if self.untold.len() < REMEMBERED {
            self.untold.entry(at).or_insert(error);
        }
        self.refusals += 1;
        if self.refused.len() == REMEMBERED {
            self.refused.pop_front();
        }
        self.refused.push_back(refused);
    }
}

impl Vfs {
    /// How much is answered and not sent.
    pub fn pending(&self) -> PendingCounts {
        self.names.lock().pending.counts()
    }

    /// What COS refused for good after it was answered, the latest last.
    pub fn refused(&self) -> Vec<Refused> {
        self.names.lock().pending.refused.iter().cloned().collect()
    }

    /// Sends what is pending of `ino`, and of everything below it if it is a directory; returns when COS has it. No inode may be claimed by the caller.
    ///
    /// # Errors
    /// The first thing that could not be sent. It stays pending unless COS refused it for good.
    pub async fn settle(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        let owing = self.names.lock().owing_below(ino);
        let sent = self.send_all_owed(Some(cx), owing, false).await;
        let directory = {
            let names = self.names.lock();
            names.tree.node(ino).filter(|node| node.is_directory()).and_then(|_| names.directory_key(&self.keys, ino).ok())
        };
        if let Some(prefix) = directory {
            self.wait_for_deletes(cx, &prefix).await?;
        }
        sent
    }

    /// What COS has refused behind its reply since the last fsync of the inode; told once.
    pub(super) fn tell_refusal(&self, ino: Ino) -> Result<()> {
        self.names.lock().pending.untold.remove(&ino).map_or(Ok(()), Err)
    }

    fn note_refused(&self, at: Ino, key: &str, what: &'static str, error: &Error) {
        let refused = Refused { key: key.to_owned(), what, why: error.to_string() };
        self.names.lock().pending.refuse(at, refused, error.clone());
    }
}

/// `version` as the ledger names it.
fn known(version: &ObjectVersion, modified: SystemTime) -> Known {
    let modified = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Known { key: version.key.as_str().to_owned(), etag: version.etag.as_str().to_owned(), size: version.size, modified }
}

/// Whether it may go better later without anybody doing anything.
fn is_passing(kind: Kind) -> bool {
    matches!(kind, Kind::Throttled | Kind::Unavailable | Kind::NoProgress | Kind::Corrupt | Kind::Expired)
}

/// Takes notes back whose things are done or given up; a crash may bring one back, which does no harm.
pub(super) fn settled(noted: Vec<Entry>) {
    noted.into_iter().for_each(Entry::settled);
}
