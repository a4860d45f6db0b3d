//! Changes that COS does not have: kept, tried again, listed, and told where no program waits for the answer.
//!
//! What a close or fsync could not send stays with its file as long as this process lives: in staging, where there is none in memory, and of a stream
//! what has left in its open upload. From when nobody can write the file any more it is tried again, soon after an outage, ever more slowly (up to a
//! minute) where COS refuses; only where somebody else's object is in the way a person decides, by `cosmount sync`. Each further close or fsync of a
//! program tries at once, and is told what comes of it.
//!
//! In the log a file is named once, not at each of its repetitions, and an outage that meets ten thousand of them does not fill it: [`MOST`] are named
//! in a [`WINDOW`], and the next that is says how many were left out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{Ctx, Urgency};

use crate::vfs::{
    Error, Ino, Names, OnConflict, Result, Vfs,
    handles::{OpenFile, Refused},
    keymap::Name,
    tree::{Local, Nameless, Place},
};

/// How long a commit that nobody waits for goes on without progress.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between tries of one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same after an outage: the store sees to it that not all ask at once.
const OUTAGE_PAUSE: Duration = Duration::from_secs(4);
/// The first where COS refuses: that is seldom over soon.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// Files that are named within a window.
const MOST: u64 = 20;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

/// A file with changes that COS does not have.
#[derive(Debug, Clone)]
pub struct Unsent {
    /// The inode.
    pub ino: Ino,
    /// Its path below the mount point; where somebody else's object has taken the name, what it was.
    pub path: String,
    /// Somebody else's object has taken the name: the file is here alone.
    pub lost: bool,
    /// Bytes of it in memory.
    pub memory: u64,
    /// Bytes of it in staging.
    pub staged: u64,
    /// Bytes of it that are in COS as parts of an open upload.
    pub uploaded: u64,
    /// When the first of the changes was made.
    pub since: SystemTime,
    /// Why they are not in COS, if that was tried.
    pub reason: Option<Error>,
    /// When it is tried again, if nobody asks for it before.
    pub next: Option<Duration>,
}

impl Unsent {
    /// Its bytes that are not in COS yet, or not as this file.
    pub fn bytes(&self) -> u64 {
        self.memory + self.staged + self.uploaded
    }
}

/// What was told of late.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When the window began, and what came in it.
    window: Mutex<Option<(Instant, u64)>>,
}

impl Told {
    /// Counts a file. If it is to be named: how many before it were not.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        let (since, count, left_out) = match *window {
            Some((since, count)) if now - since < WINDOW => (since, count, 0),
            Some((_, count)) => (now, 0, count.saturating_sub(MOST)),
            None => (now, 0, 0),
        };
        *window = Some((since, count + 1));
        (count < MOST).then_some(left_out)
    }
}

impl Vfs {
    /// Every file with changes that COS does not have, by path.
    pub fn unsent(&self) -> Vec<Unsent> {
        let now = self.clock.now();
        let mut files: Vec<Unsent> = {
            let names = self.names.lock();
            names.uncommitted().into_iter().filter_map(|ino| names.unsent(ino, now)).collect()
        };
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        files
    }

    /// Sends one file's changes now. Where somebody else's object is in the way, it does as `on_conflict` says, by default as the mount does.
    pub async fn send(self: &Arc<Self>, cx: &Ctx, ino: Ino, on_conflict: Option<OnConflict>) -> Result<()> {
        self.commit_or(cx, ino, on_conflict).await?;
        let ended = {
            let mut names = self.names.lock();
            let used =
                names.tree.node(ino).is_some_and(|node| node.opens > 0) || names.open.get(&ino).is_some_and(|open| open.behind.is_some());
            let ended = if used || names.is_unsent(ino) { None } else { self.end_or_commit(&mut names, ino).0 };
            names.tree.settle(ino);
            ended
        };
        self.end(ended);
        Ok(())
    }

    /// Tells of a file whose changes could not be sent.
    pub(super) fn tell_unsent(&self, ino: Ino, error: &Error) {
        let key = self.key_of(ino);
        match self.told.admit(self.clock.now()) {
            Some(0) => tracing::error!(key, ino = ino.0, "not in COS yet: {error}"),
            Some(left_out) => tracing::error!(key, ino = ino.0, left_out, "not in COS yet, as others before it: {error}"),
            None => tracing::debug!(key, ino = ino.0, "not in COS yet: {error}"),
        }
    }

    /// Remembers how a commit went.
    pub(super) fn note_outcome(&self, ino: Ino, error: Option<&Error>) {
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let clean = names.tree.node(ino).is_none_or(|node| node.local == Local::Clean);
        let Some(open) = names.open.get_mut(&ino) else { return };
        open.refused = error.map(|error| Refused { error: error.clone(), next: None });
        if error.is_none() && clean && open.changed.is_none() {
            open.since = None;
        }
    }

    /// After the last handle: the open file ends, unless bytes of it are not committed. Says which task is to commit them behind it.
    pub(super) fn end_or_commit(&self, names: &mut Names, ino: Ino) -> (Option<OpenFile>, Option<u64>) {
        if names.is_unsent(ino) {
            return (None, names.begin_behind(ino));
        }
        // From here on the tree answers for the size.
        if let Some(node) = names.tree.node_mut(ino).filter(|node| node.is_named())
            && let Some(origin) = &node.facts.origin
        {
            node.size = origin.size;
        }
        (names.open.remove(&ino), None)
    }

    /// Commits what the last writer left, again and again until it is done, a new one takes over, or it can never be. `task` tells it from an earlier
    /// one that still sleeps over a file that had the same number and is gone.
    pub(super) async fn commit_behind(self: &Arc<Self>, ino: Ino, mut task: u64) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        while self.names.lock().open.get(&ino).is_some_and(|open| open.behind == Some(task)) {
            let cx = Ctx::background(Arc::clone(&self.clock), PATIENCE).with_urgency(Urgency::WriteOut);
            let failure = self.commit(&cx, ino).await.err();
            match &failure {
                Some(error) if told => tracing::debug!(ino = ino.0, %error, "still not in COS"),
                Some(error) => {
                    self.tell_unsent(ino, error);
                    told = true;
                }
                None if told => tracing::info!(key = self.key_of(ino), ino = ino.0, "in COS now"),
                None => {}
            }
            match &failure {
                Some(Error::TimedOut(_) | Error::Io(_)) => pause = pause.min(OUTAGE_PAUSE),
                Some(_) => pause = pause.max(REFUSED_PAUSE),
                None => {}
            }
            let (ended, next) = self.after_try(ino, task, failure.as_ref(), pause);
            self.end(ended);
            let Some(next) = next else { return };
            task = next;
            if failure.is_some() {
                let stopped = self.stopped.notified();
                tokio::pin!(stopped);
                stopped.as_mut().enable();
                if self.stopping.load(Ordering::Relaxed) {
                    // The drain tries once more.
                    return;
                }
                tokio::select! {
                    () = self.clock.sleep(pause) => {}
                    () = stopped => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// What ends after a try behind a close, and which task is to try again.
    fn after_try(&self, ino: Ino, task: u64, failure: Option<&Error>, pause: Duration) -> (Option<OpenFile>, Option<u64>) {
        // Somebody else's object is there: what was written is kept until a person decides.
        let settled = matches!(failure, None | Some(Error::Stale | Error::Exists));
        let mut names = self.names.lock();
        let opens = names.tree.node(ino).map_or(0, |node| node.opens);
        let Some(open) = names.open.get_mut(&ino).filter(|open| open.behind == Some(task)) else { return (None, None) };
        if !settled && open.writers == 0 {
            if let Some(refused) = &mut open.refused {
                refused.next = Some(self.clock.now() + pause);
            }
            return (None, Some(task));
        }
        open.behind = None;
        let ended = if failure.is_none() && opens == 0 { self.end_or_commit(&mut names, ino) } else { (None, None) };
        names.tree.settle(ino);
        ended
    }
}

impl Names {
    /// Files whose changes are not in COS.
    pub(super) fn uncommitted(&self) -> Vec<Ino> {
        self.open.keys().copied().filter(|ino| self.is_unsent(*ino)).collect()
    }

    fn is_unsent(&self, ino: Ino) -> bool {
        let Some(node) = self.tree.node(ino) else { return false };
        let changed = self.open.get(&ino).is_some_and(|open| open.changed.is_some());
        match node.place {
            Place::Nowhere(Nameless::Removed) => false,
            // Of attributes alone nothing is left to be saved.
            Place::Nowhere(Nameless::Lost) => node.local != Local::Clean,
            Place::Root | Place::In(..) => node.local != Local::Clean || changed,
        }
    }

    /// Why the file's changes are not in COS, in words, if there are any.
    pub(super) fn why_unsent(&self, ino: Ino) -> Option<String> {
        let open = self.open.get(&ino).filter(|_| self.is_unsent(ino))?;
        Some(open.refused.as_ref().map_or_else(|| "not sent yet".to_owned(), |refused| refused.error.to_string()))
    }

    /// The task that is to commit the file's changes, unless there are none or it is being done.
    pub(super) fn begin_behind(&mut self, ino: Ino) -> Option<u64> {
        let task = self.tree.advance();
        let unsent = self.is_unsent(ino);
        let open = self.open.get_mut(&ino).filter(|open| unsent && open.behind.is_none())?;
        open.behind = Some(task);
        Some(task)
    }

    fn unsent(&self, ino: Ino, now: Instant) -> Option<Unsent> {
        let (node, open) = (self.tree.node(ino)?, self.open.get(&ino)?);
        let path = self.tree.path(ino).or_else(|| Some(node.was.as_ref()?.path.clone())).unwrap_or_default();
        let held = open.file.held();
        let next = open.refused.as_ref().and_then(|refused| refused.next);
        Some(Unsent {
            ino,
            path: path.iter().map(Name::as_str).collect::<Vec<_>>().join("/"),
            lost: !node.is_named(),
            memory: held.memory,
            staged: held.staged,
            uploaded: held.uploaded,
            since: open.since.unwrap_or(node.ctime),
            reason: open.refused.as_ref().map(|refused| refused.error.clone()),
            next: next.map(|next| next.saturating_duration_since(now)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{Clock, SystemClock};

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_many_files_names_some() {
        let unsent = Told::default();
        let told = (0..10_000).filter(|_| unsent.admit(Instant::now()).is_some()).count();
        assert_eq!(told as u64, MOST);
        SystemClock.sleep(WINDOW).await;
        assert_eq!(unsent.admit(Instant::now()), Some(10_000 - MOST));
        assert_eq!(unsent.admit(Instant::now()), Some(0));
    }
}
