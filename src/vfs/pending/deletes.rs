//! Deletes behind their unlinks.
//!
//! 1. *Together.* The first is sent at once. One that comes within [`QUIET`] of another waits for more, until none comes for so long, for [`LONGEST`],
//!    or until somebody waits for them; then all go in one request. One request is under way at a time.
//! 2. *A new object under the old name* must never be deleted. As long as a delete is pending its name is *leaving*: lookups and listings do not show it, and whoever
//!    gives something this name waits first, until the object is gone and the ledger says so for good. So no key has both a name here and a pending delete.
//! 3. *Somebody else's new object.* COS has no delete that is pinned to a version. A delete that had to wait for [`LOOK_AFTER`], because of an outage, looks first whether the
//!    object still is the one that was removed; what is newer stays.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use futures_util::{StreamExt, stream};
use tokio::time::{Duration, Instant};

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{Error as StoreError, Head, Key, Kind, ObjectVersion};

use crate::support::{Ctx, Urgency};

use crate::vfs::{Ino, Names, Result, Vfs, keymap::Name};

use super::{PAUSE, is_passing, known};

/// A delete that comes so soon after another is one of many.
const QUIET: Duration = Duration::from_millis(25);
/// The longest that one of many waits for more.
const LONGEST: Duration = Duration::from_millis(500);
/// A delete older than this looks before it leaps.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long a request goes on without progress: what comes after looks (3).
const PATIENCE: Duration = Duration::from_secs(15);
/// How far a write's `Date`, which may be all that is known of an object of our own, may be before its Last-Modified.
const SLACK: Duration = Duration::from_secs(2);
/// More than these are not taken: who unlinks waits.
const MOST: usize = 8000;
/// Requests for single objects at once, where many cannot be asked for in one.
const AT_ONCE: usize = 32;

/// Objects whose names were removed.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    waiting: Vec<Leaving>,
    under_way: HashSet<Key>,
    /// While a task deletes: it moves when something was deleted, and with it who waits.
    cx: Option<Ctx>,
    /// When the last request ended.
    last: Option<Instant>,
    /// Somebody waits for them.
    hurried: bool,
    /// COS has refused the last for want of a right: they are sent before the reply until it takes one.
    denied: bool,
    /// The credentials may not delete many at once.
    singly: bool,
}

/// An object whose name was removed.
#[derive(Debug)]
pub(in crate::vfs) struct Delete {
    version: ObjectVersion,
    modified: SystemTime,
    noted: Entry,
}

/// One whose name is leaving.
#[derive(Debug)]
struct Leaving {
    delete: Delete,
    parent: Ino,
    name: Name,
    at: Instant,
}

/// What became of one of a batch.
type Outcome = (Leaving, std::result::Result<(), StoreError>);

impl Deletes {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.waiting.iter().map(|leaving| &leaving.delete.version.key).chain(&self.under_way)
    }

    /// How long the next request still waits for more (1); `None` if it does not.
    fn gathers(&self, most: usize, now: Instant) -> Option<Duration> {
        let (first, newest) = (self.waiting.first()?, self.waiting.last()?);
        let alone = self.waiting.len() == 1 && self.last.is_none_or(|last| first.at > last + QUIET);
        if alone || self.hurried || self.waiting.len() >= most {
            return None;
        }
        let until = (newest.at + QUIET).min(first.at + LONGEST);
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

impl Names {
    /// Keys with a pending delete that begin so.
    pub(in crate::vfs) fn leaving_below(&self, prefix: &str) -> HashSet<Key> {
        self.pending.deletes.keys().filter(|key| key.as_str().starts_with(prefix)).cloned().collect()
    }

    /// The name of a removed object is leaving; says whether a task has to be started for it.
    pub(in crate::vfs) fn delete_behind(&mut self, delete: Delete, parent: Ino, name: &Name, cx: Ctx) -> bool {
        self.tree.set_leaving(parent, name);
        let deletes = &mut self.pending.deletes;
        deletes.waiting.push(Leaving { delete, parent, name: name.clone(), at: cx.clock().now() });
        let idle = deletes.cx.is_none();
        if idle {
            deletes.cx = Some(cx);
        }
        idle
    }
}

impl Vfs {
    /// Notes that `version` is to be deleted, durably. `None` if it has to be deleted before the reply.
    pub(in crate::vfs) async fn promise_delete(
        self: &Arc<Self>,
        cx: &Ctx,
        version: &ObjectVersion,
        modified: SystemTime,
    ) -> Result<Option<Delete>> {
        let Some(ledger) = &self.ledger else { return Ok(None) };
        self.wait_for(cx, |names| names.pending.deletes.cx.clone().filter(|_| names.pending.deletes.len() >= MOST)).await?;
        if self.names.lock().pending.deletes.denied {
            return Ok(None);
        }
        let noted = Ledger::note_if(Some(ledger), Leftover::Delete(known(version, modified))).await;
        Ok(noted.map(|noted| Delete { version: version.clone(), modified, noted }))
    }

    /// What a delete before the reply came to.
    pub(in crate::vfs) fn note_deleted(&self, denied: bool) {
        self.names.lock().pending.deletes.denied = denied;
    }

    /// A context for the task that deletes, and for who waits for it.
    pub(in crate::vfs) fn behind(&self) -> Ctx {
        Ctx::background(Arc::clone(&self.clock), PATIENCE).with_urgency(Urgency::WriteOut)
    }

    /// Waits until the object that last had this name is gone.
    pub(in crate::vfs) async fn wait_until_left(&self, cx: &Ctx, parent: Ino, name: &Name) -> Result<()> {
        self.wait_for_some_deletes(cx, |names| names.tree.is_leaving(parent, name)).await
    }

    /// Waits until nothing is left to be deleted whose key begins so.
    pub(in crate::vfs) async fn wait_for_deletes(&self, cx: &Ctx, prefix: &str) -> Result<()> {
        self.wait_for_some_deletes(cx, |names| names.pending.deletes.keys().any(|key| key.as_str().starts_with(prefix))).await
    }

    async fn wait_for_some_deletes(&self, cx: &Ctx, pending: impl Fn(&Names) -> bool) -> Result<()> {
        self.wait_for(cx, |names| {
            if !pending(names) {
                return None;
            }
            if !std::mem::replace(&mut names.pending.deletes.hurried, true) {
                self.hurry.notify_one();
            }
            names.pending.deletes.cx.clone()
        })
        .await
    }

    /// Deletes what there is to delete, until there is nothing left.
    pub(in crate::vfs) async fn send_deletes(self: Arc<Self>) {
        let most = self.bucket.capabilities().delete_batch;
        loop {
            while let Some(pause) = {
                let names = self.names.lock();
                names.pending.deletes.gathers(most, self.clock.now())
            } {
                tokio::select! {
                    () = self.clock.sleep(pause) => {}
                    () = self.hurry.notified() => {}
                }
            }
            let Some(batch) = self.next_batch(most) else { return };
            let outcomes = self.delete_batch(&self.behind(), batch).await;
            if self.finish_batch(outcomes).await {
                self.clock.sleep(PAUSE).await;
            }
        }
    }

    fn next_batch(&self, most: usize) -> Option<Vec<Leaving>> {
        let mut names = self.names.lock();
        let deletes = &mut names.pending.deletes;
        if deletes.waiting.is_empty() {
            (deletes.cx, deletes.hurried) = (None, false);
            return None;
        }
        let many = deletes.waiting.len().min(most);
        let batch: Vec<Leaving> = deletes.waiting.drain(..many).collect();
        deletes.under_way = batch.iter().map(|leaving| leaving.delete.version.key.clone()).collect();
        Some(batch)
    }

    async fn delete_batch(&self, cx: &Ctx, batch: Vec<Leaving>) -> Vec<Outcome> {
        let now = self.clock.now();
        let (old, young): (Vec<_>, Vec<_>) = batch.into_iter().partition(|leaving| now.saturating_duration_since(leaving.at) > LOOK_AFTER);
        let mut outcomes = Vec::new();
        let mut due = young;
        let looks = stream::iter(old).map(|leaving| async move {
            let there = self.is_still_there(cx, &leaving.delete).await;
            (leaving, there)
        });
        for (leaving, there) in looks.buffered(AT_ONCE).collect::<Vec<_>>().await {
            match there {
                Ok(true) => due.push(leaving),
                Ok(false) => outcomes.push((leaving, Ok(()))),
                Err(error) => outcomes.push((leaving, Err(error))),
            }
        }
        if due.len() > 1 && !self.names.lock().pending.deletes.singly {
            let versions: Vec<ObjectVersion> = due.iter().map(|leaving| leaving.delete.version.clone()).collect();
            match self.bucket.delete_many(cx, &versions).await {
                Ok(refused) => {
                    for leaving in due {
                        let refusal = refused.iter().find(|(key, _)| *key == leaving.delete.version.key);
                        outcomes.push((leaving, refusal.map_or(Ok(()), |(_, error)| Err(error.clone()))));
                    }
                    return outcomes;
                }
                Err(error) if is_passing(error.kind()) => {
                    outcomes.extend(due.into_iter().map(|leaving| (leaving, Err(error.clone()))));
                    return outcomes;
                }
                // To delete many is a right of its own.
                Err(error) => {
                    tracing::debug!(%error, "objects are deleted one by one");
                    self.names.lock().pending.deletes.singly = true;
                }
            }
        }
        let singles = stream::iter(due).map(|leaving| async move {
            let version = &leaving.delete.version;
            let outcome = match self.bucket.delete(cx, &version.key, Some(version)).await {
                Err(error) if error.kind() == Kind::NotFound => Ok(()),
                outcome => outcome,
            };
            (leaving, outcome)
        });
        outcomes.extend(singles.buffered(AT_ONCE).collect::<Vec<_>>().await);
        outcomes
    }

    /// Whether the object that was removed is there still, and nothing newer (3).
    async fn is_still_there(&self, cx: &Ctx, delete: &Delete) -> crate::store::Result<bool> {
        match self.bucket.head(cx, &delete.version.key).await {
            Ok(head) => Ok(is_meant(&head, &delete.version, delete.modified)),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets names go whose objects are gone, and brings those back that COS keeps. Says whether some have to be tried again.
    async fn finish_batch(&self, outcomes: Vec<Outcome>) -> bool {
        let (mut again, mut over, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for (leaving, outcome) in outcomes {
            match outcome {
                Err(error) if is_passing(error.kind()) => {
                    tracing::debug!(key = %leaving.delete.version.key, %error, "removed here and not yet in COS");
                    again.push(leaving);
                }
                outcome => {
                    let Leaving { delete: Delete { version, noted, .. }, parent, name, .. } = leaving;
                    settled.push(noted);
                    over.push((version.key, parent, name, outcome.err()));
                }
            }
        }
        // For good, and before the names can be given again (2).
        if let Some(ledger) = &self.ledger {
            ledger.settle_all(settled).await;
        }
        let (tries_again, mut back) = (!again.is_empty(), Vec::new());
        {
            let mut guard = self.names.lock();
            let names = &mut *guard;
            let now = self.clock.now();
            if let Some(cx) = names.pending.deletes.cx.as_ref().filter(|_| !over.is_empty()) {
                cx.progressed();
            }
            for (key, parent, name, refusal) in over {
                names.tree.set_left(parent, &name, now);
                match refusal {
                    None => names.pending.deletes.denied = false,
                    Some(error) => {
                        names.pending.deletes.denied |= error.kind() == Kind::Denied;
                        names.tree.ask_again(parent, &name);
                        back.push((key, parent, name, error));
                    }
                }
            }
            let deletes = &mut names.pending.deletes;
            deletes.under_way.clear();
            again.append(&mut deletes.waiting);
            deletes.waiting = again;
            deletes.last = Some(now);
        }
        for (key, parent, name, error) in back {
            tracing::error!(%key, "removed here, and COS refuses to delete it; the name is there again: {error}");
            self.note_refused(parent, key.as_str(), "delete", &error.into());
            self.notify.entry(parent, name.as_os_str());
        }
        self.released.notify_waiters();
        tries_again
    }
}

/// Whether `head` shows the object of that version and time, and none that was written since with the same bytes.
fn is_meant(head: &Head, version: &ObjectVersion, modified: SystemTime) -> bool {
    head.version.same_bytes(version) && head.last_modified <= modified + SLACK
}
