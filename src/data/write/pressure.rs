//! Memory for dirty bytes: who waits, who is spilled, and when a writer is told that there is no room.
//!
//! The difficulties
//! 1. *Nobody waits for what will not come.* A writer waits only while something that frees memory is really under way: a spill, a commit, a part
//!    of a stream. Each holds a [`Working`]; when the last has ended and the share is still full, the writer gets [`Error::NoRoom`].
//! 2. *Nobody waits in a ring.* Spills and commits take nothing from the dirty share, and writers hold nothing they need.
//!    Before that, streams that cannot be spilled send what they have, be it less than a part.
//! 3. *Whom to spill.* The file with the most bytes in memory, whatever its pattern; then the next, down to half of the share, so that one
//!    spiller run makes room for many writes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use super::{Content, Held, Room, State};
use crate::data::{Error, Result};

use crate::support::{Ctx, Reservation, Share};

/// Written to staging between two looks at the file.
const BATCH: u64 = 4 << 20;

/// Counts what may free memory.
#[derive(Debug)]
pub(super) struct Relief {
    working: AtomicUsize,
    ended: Notify,
    /// Grows whenever something has ended that may have left more to spill.
    changes: AtomicU64,
    /// The changes at which a spiller found nothing to spill, or no place for it: the next would fare no better.
    fruitless_at: AtomicU64,
    /// That there is no place was said, and none has been found since.
    told: AtomicBool,
}

/// While it lives, writers have something to wait for.
#[derive(Debug)]
pub(super) struct Working {
    relief: Arc<Relief>,
    spills: bool,
}

impl Relief {
    pub(super) fn new() -> Arc<Self> {
        let (changes, fruitless_at) = (AtomicU64::new(1), AtomicU64::new(0));
        Arc::new(Self { working: AtomicUsize::new(0), ended: Notify::new(), changes, fruitless_at, told: AtomicBool::new(false) })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Working {
        self.start(false)
    }

    fn start(self: &Arc<Self>, spills: bool) -> Working {
        self.working.fetch_add(1, Ordering::SeqCst);
        Working { relief: Arc::clone(self), spills }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.spills {
            self.relief.changes.fetch_add(1, Ordering::SeqCst);
        }
        self.relief.working.fetch_sub(1, Ordering::SeqCst);
        self.relief.ended.notify_waiters();
    }
}

/// A run of the spiller; another may begin when it is dropped.
struct Run(Arc<Room>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.spilling.store(false, Ordering::SeqCst);
    }
}

/// A spill of one file.
struct Spill<'a>(&'a Content);

impl Drop for Spill<'_> {
    fn drop(&mut self) {
        self.0.state.lock().spilling = false;
    }
}

impl Room {
    /// Takes memory for dirty bytes, waiting while it is being freed.
    pub(crate) async fn reserve(self: &Arc<Self>, cx: &Ctx, bytes: u64) -> Result<Reservation> {
        let mut last_resort = true;
        loop {
            let ended = self.relief.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if let Some(reservation) = self.budget.try_reserve(Share::Dirty, bytes) {
                self.press(false);
                self.blocks.trim();
                return Ok(reservation);
            }
            self.press(false);
            if self.relief.working.load(Ordering::SeqCst) == 0 {
                // The last of it may have ended just before it was looked at, and left something to spill.
                if let Some(reservation) = self.budget.try_reserve(Share::Dirty, bytes) {
                    return Ok(reservation);
                }
                let spills = std::mem::take(&mut last_resort) && self.press(true);
                if !spills && !self.hurry(cx) {
                    return Err(Error::NoRoom);
                }
            }
            tokio::select! {
                reservation = self.budget.reserve(cx, Share::Dirty, bytes) => {
                    self.blocks.trim();
                    return Ok(reservation?);
                }
                () = &mut ended => {}
            }
        }
    }

    /// Has every stream send what it has, where nothing can be spilled. Returns whether any does.
    fn hurry(self: &Arc<Self>, cx: &Ctx) -> bool {
        self.all().iter().for_each(|content| content.hurry(cx));
        self.relief.working.load(Ordering::SeqCst) > 0
    }

    /// Starts the spiller if the share is filling up, there is somewhere to spill to, and there may be something to spill (or `anyway`).
    /// Returns whether it did.
    fn press(self: &Arc<Self>, anyway: bool) -> bool {
        let share = self.budget.share(Share::Dirty);
        let full = anyway || self.budget.used(Share::Dirty) > share / 4 * 3;
        let may_help = || {
            self.staging.as_ref().is_some_and(|staging| staging.has_room())
                && (anyway || self.relief.changes.load(Ordering::SeqCst) != self.relief.fruitless_at.load(Ordering::SeqCst))
        };
        if !full || !may_help() || self.spilling.swap(true, Ordering::SeqCst) {
            return false;
        }
        let (run, working, room) = (Run(Arc::clone(self)), self.relief.start(true), Arc::clone(self));
        self.tasks.spawn(async move {
            // Dropped from right to left: who is woken by the first must be able to start the next run.
            let (_working, _run) = (working, run);
            let changes = room.relief.changes.load(Ordering::SeqCst);
            let (low, relief) = (share / 2, &room.relief);
            match room.spill_down_to(low).await {
                Ok(0) if room.budget.used(Share::Dirty) > low => relief.fruitless_at.store(changes, Ordering::SeqCst),
                Ok(_) => relief.told.store(false, Ordering::SeqCst),
                Err(error) => {
                    // Or those who wait would start one run after the other.
                    relief.fruitless_at.store(changes, Ordering::SeqCst);
                    if !relief.told.swap(true, Ordering::SeqCst) {
                        tracing::warn!(%error, "dirty bytes cannot be staged");
                    }
                }
            }
        });
        true
    }

    /// Spills the heaviest files until `low` is left in memory or nothing more can be spilled; returns how many bytes it was.
    pub(super) async fn spill_down_to(&self, low: u64) -> Result<u64> {
        let mut all = 0;
        loop {
            let weigh = |content: Arc<Content>| {
                let bytes = content.state.lock().spillable();
                (bytes, content)
            };
            let mut files: Vec<_> = self.all().into_iter().map(weigh).filter(|(bytes, _)| *bytes > 0).collect();
            files.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
            let before = all;
            for (_, content) in files {
                let used = self.budget.used(Share::Dirty);
                if used <= low {
                    return Ok(all);
                }
                all += content.spill(used - low).await?;
            }
            if all == before {
                return Ok(all);
            }
        }
    }
}

impl State {
    /// Bytes that a spill would free now: not what a commit or a part on its way holds anyway.
    fn spillable(&self) -> u64 {
        if self.running.is_some() || self.spilling || !self.stream.is_still() { 0 } else { self.extents.memory() }
    }
}

impl Content {
    /// Moves about `most` bytes from memory to staging; returns how many. Must run in a task of its own: dropping it in the middle would let
    /// its last write land whenever the disk likes.
    pub(super) async fn spill(&self, most: u64) -> Result<u64> {
        let Some(staging) = &self.room.staging else { return Err(Error::NoRoom) };
        {
            let mut state = self.state.lock();
            if state.spilling {
                return Ok(0);
            }
            state.spilling = true;
        }
        let _spill = Spill(self);
        let mut done = 0;
        while done < most {
            let (batch, file) = {
                let state = self.state.lock();
                (state.extents.in_memory(0, BATCH.min(most - done)), state.stage.clone())
            };
            if batch.is_empty() {
                break;
            }
            // A commit that begins takes its stage away and may read it: what is left of this batch lies elsewhere in that file, the next
            // batch goes to a new one.
            let file = match file {
                Some(file) => file,
                None => {
                    let file = staging.create().await?;
                    self.state.lock().stage = Some(Arc::clone(&file));
                    file
                }
            };
            for (at, held) in batch {
                done += self.move_to(&file, at, held).await?;
            }
        }
        self.room.spilled.add(done);
        Ok(done)
    }

    async fn move_to(&self, file: &Arc<super::StagedFile>, at: u64, held: Held) -> Result<u64> {
        file.write(at, held.bytes.clone()).await?;
        let bytes = held.bytes.len() as u64;
        self.state.lock().extents.staged(at, &held, file);
        Ok(bytes)
    }
}
