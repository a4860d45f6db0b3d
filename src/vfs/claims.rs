//! Claims: which inodes an operation is changing, so that no other changes them between its requests.
//!
//! Everything that makes, replaces or removes an object claims the inode; everything that changes a directory's names claims the directory; the
//! rename of a directory claims it *moving*, which keeps out claims anywhere below it and waits for those already there. All claims of an
//! operation are taken at once or none is, and one that waits for a moving mark holds nothing: so no two operations wait for each other. The kernel holds
//! its own locks for most of this; commits and background work have only these.
//!
//! An inode whose object is about to be deleted or replaced is claimed *going*: an open waits until that is over, or it would read an object that
//! nobody secured for it (V6).
//!
//! A claim ends with its guard, also when the operation is dropped or panics. Who waits for an operation that moves moves with it: a wait ends
//! when nothing has moved for the patience of the one that waits.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::support::{Ctx, NoProgress};

use crate::vfs::{Ino, Names, Result, Vfs};

/// Least time between two looks at the operation that is waited for.
const SHORTEST_WATCH: Duration = Duration::from_millis(10);

/// Who holds what.
#[derive(Debug, Default)]
pub(super) struct Claims {
    held: HashMap<Ino, Held>,
}

#[derive(Debug)]
struct Held {
    cx: Ctx,
    moving: bool,
    going: bool,
}

/// Claimed inodes, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping a claim gives it back at once"]
pub(super) struct Claim {
    vfs: Arc<Vfs>,
    inos: Vec<Ino>,
}

impl Claims {
    /// Whether an operation is changing `ino`.
    pub(super) fn holds(&self, ino: Ino) -> bool {
        self.held.contains_key(&ino)
    }

    /// Whether the object of `ino` is about to be deleted or replaced.
    pub(super) fn is_going(&self, ino: Ino) -> bool {
        self.held.get(&ino).is_some_and(|held| held.going)
    }
}

impl Claim {
    /// The object of `ino`, which is claimed, is about to go.
    pub(super) fn mark_going(&self, ino: Ino) {
        if let Some(held) = self.vfs.names.lock().claims.held.get_mut(&ino) {
            held.going = true;
        }
    }
}

impl Names {
    /// The claim that keeps out one on `ino`, if any.
    fn blocker(&self, ino: Ino) -> Option<&Held> {
        if let Some(held) = self.claims.held.get(&ino) {
            return Some(held);
        }
        self.mover(ino)
    }

    /// The rename that is moving `ino` or a directory above it.
    fn mover(&self, ino: Ino) -> Option<&Held> {
        let mut movers = self.claims.held.iter().filter(|(_, held)| held.moving);
        movers.find(|(above, _)| self.tree.is_within(ino, **above)).map(|(_, held)| held)
    }

    /// A claim of somebody else below a directory that is to be moved.
    fn claimed_below(&self, ino: Ino, own: &[Ino]) -> Option<&Held> {
        let mut others = self.claims.held.iter().filter(|(other, _)| **other != ino && !own.contains(other));
        others.find(|(other, _)| self.tree.is_within(**other, ino)).map(|(_, held)| held)
    }
}

impl Vfs {
    /// Claims all of `inos`, waiting until none of them is claimed or being moved. What the caller knew of them before may have changed.
    pub(super) async fn claim(self: &Arc<Self>, cx: &Ctx, inos: &[Ino]) -> Result<Claim> {
        self.wait_for(cx, |names| names.claim(cx, inos, None)).await?;
        Ok(Claim { vfs: Arc::clone(self), inos: distinct(inos) })
    }

    /// As [`Vfs::claim`], and `moving` with everything below it; returns when nothing below is claimed by others.
    pub(super) async fn claim_moving(self: &Arc<Self>, cx: &Ctx, inos: &[Ino], moving: Ino) -> Result<Claim> {
        self.wait_for(cx, |names| names.claim(cx, inos, Some(moving))).await?;
        // From here on the guard takes it back.
        let claim = Claim { vfs: Arc::clone(self), inos: distinct(&[inos, &[moving]].concat()) };
        self.wait_for(cx, |names| names.claimed_below(moving, inos).map(|held| held.cx.clone())).await?;
        Ok(claim)
    }

    /// Waits until neither `ino` nor a directory above it is being moved.
    pub(super) async fn wait_until_still(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        self.wait_for(cx, |names| names.mover(ino).map(|held| held.cx.clone())).await
    }

    /// Waits while the object of `ino` is about to go.
    pub(super) async fn wait_while_going(&self, cx: &Ctx, ino: Ino) -> Result<()> {
        self.wait_for(cx, |names| names.claims.held.get(&ino).filter(|held| held.going).map(|held| held.cx.clone())).await
    }

    /// Tries until `attempt` names nobody to wait for.
    pub(super) async fn wait_for(&self, cx: &Ctx, mut attempt: impl FnMut(&mut Names) -> Option<Ctx>) -> Result<()> {
        loop {
            // Registered before the attempt, so that a release in between is not missed.
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            let Some(blocker) = attempt(&mut self.names.lock()) else { return Ok(()) };
            let left = cx.remaining();
            if left.is_zero() {
                return Err(NoProgress(cx.patience()).into());
            }
            tokio::select! {
                () = released => {}
                // Nothing is released while one blocker holds on, so its progress is looked at in between.
                () = self.clock.sleep((left / 2).max(SHORTEST_WATCH)) => {}
            }
            cx.follow(&blocker);
        }
    }
}

impl Names {
    /// Takes the claims, or says whom to wait for.
    fn claim(&mut self, cx: &Ctx, inos: &[Ino], moving: Option<Ino>) -> Option<Ctx> {
        if let Some(held) = inos.iter().chain(&moving).find_map(|ino| self.blocker(*ino)) {
            return Some(held.cx.clone());
        }
        for ino in inos.iter().chain(&moving) {
            if self.claims.held.insert(*ino, Held { cx: cx.clone(), moving: moving == Some(*ino), going: false }).is_none() {
                self.tree.pin(*ino);
            }
        }
        None
    }
}

fn distinct(inos: &[Ino]) -> Vec<Ino> {
    let mut inos = inos.to_vec();
    inos.sort_unstable();
    inos.dedup();
    inos
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut names = self.vfs.names.lock();
        for ino in &self.inos {
            names.claims.held.remove(ino);
            names.tree.unpin(*ino);
        }
        drop(names);
        self.vfs.released.notify_waiters();
    }
}
