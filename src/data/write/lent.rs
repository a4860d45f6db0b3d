//! Ranges that are copied on the server: who refers to which version of another object and has not committed that yet.
//!
//! A copy within the mount moves no byte through this host. The destination's extents refer to the version that the source had ([`Content::refer`]); reads go
//! there, and the commit copies from there, pinned to its ETag.
//!
//! The difficulties
//! 1. *The version goes while somebody refers to it.* Where this mount makes a new version that has the same bytes (a rename, a self-copy, an edit elsewhere in
//!    the object), references move along ([`Room::carry`]). Where it overwrites or removes bytes, they are fetched before ([`Room::secure_lent`]); what
//!    is too much for that the caller puts aside on the server. Where somebody else replaces it, reads and the commit fail
//!    with [`Error::SourceGone`]: the bytes are nowhere any more, and wrong ones are never taken.
//! 2. *The reference is made while the source is being committed.* It is made under the source's turn, so that a commit comes wholly before or after it; a
//!    caller that removes objects keeps itself out by a claim.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{Content, Held, Room, Where};
use crate::data::{Error, Result, cache::Tag, read::Origin};

use crate::support::{Ctx, Share};

/// Bytes of a reference that are fetched at once.
const STEP: u64 = 1 << 20;

/// Versions that are referred to, and by whom.
#[derive(Debug, Default)]
pub(super) struct Lent {
    /// Files by number.
    borrowers: Mutex<HashMap<Tag, HashMap<u64, Weak<Content>>>>,
}

/// What became of a range that was to be referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referred {
    /// So many bytes at its beginning are.
    Done(u64),
    /// So many bytes at its beginning are here and nowhere else, or too few: they are read and written.
    Data(u64),
}

impl Lent {
    fn note(&self, tag: Tag, borrower: &Arc<Content>) {
        self.borrowers.lock().entry(tag).or_default().insert(borrower.number, Arc::downgrade(borrower));
    }

    fn of(&self, tag: Tag) -> Vec<Arc<Content>> {
        self.borrowers.lock().get(&tag).map_or_else(Vec::new, |files| files.values().filter_map(Weak::upgrade).collect())
    }

    /// The file of that number refers to none of these any more.
    pub(super) fn given_back(&self, tags: &[Tag], number: u64) {
        let mut borrowers = self.borrowers.lock();
        for tag in tags {
            if let Some(files) = borrowers.get_mut(tag) {
                files.remove(&number);
                if files.is_empty() {
                    borrowers.remove(tag);
                }
            }
        }
    }
}

impl Content {
    /// Makes what is at `at` here the bytes of `source` in `range`, as far as one step goes, without reading them.
    pub(crate) async fn refer(self: &Arc<Self>, cx: &Ctx, at: u64, source: &Arc<Self>, range: Range<u64>) -> Result<Referred> {
        // Difficulty 2.
        let _turn = source.turn(cx).await?;
        let (pieces, origin, size) = {
            let state = source.state.lock();
            (state.extents.pieces(range.clone()), state.origin.clone(), state.extents.size())
        };
        let whole = range.start == 0 && range.end == size;
        let smallest = self.bucket.capabilities().smallest_part;
        let from = |piece: &super::Piece<_>| match &piece.place {
            Where::Base if whole || piece.range.end - piece.range.start >= smallest => {
                origin.clone().map(|origin| (origin, piece.range.start))
            }
            Where::Elsewhere(origin, from) if whole || piece.range.end - piece.range.start >= smallest => Some((Arc::clone(origin), *from)),
            _ => None,
        };
        let Some(first) = pieces.first() else { return Ok(Referred::Data(0)) };
        let len = first.range.end - first.range.start;
        let mut state = self.state.lock();
        if let Some((origin, from)) = from(first) {
            state.check_unsent(at)?;
            state.extents.refer(at..at + len, &origin, from);
            drop(state);
            self.note_reference(origin.tag);
            return Ok(Referred::Done(len));
        }
        if matches!(first.place, Where::Hole) {
            state.check_unsent(at)?;
            state.extents.hole(at..at + len);
            return Ok(Referred::Done(len));
        }
        let data = pieces.iter().take_while(|piece| from(piece).is_none() && !matches!(piece.place, Where::Hole));
        Ok(Referred::Data(data.last().map_or(0, |last| last.range.end - range.start)))
    }

    /// Whether the file refers to other versions than these by now, if need be when those that replace them are done.
    pub(crate) async fn refers_elsewhere(&self, cx: &Ctx, tags: &[Tag]) -> Result<bool> {
        for file in self.room.all().into_iter().filter(|file| file.number != self.number) {
            let lends = file.state.lock().origin.as_ref().is_some_and(|origin| tags.contains(&origin.tag));
            if lends {
                file.catch_up(cx).await?;
            }
        }
        let now = self.state.lock().extents.tags();
        Ok(tags.iter().any(|tag| !now.contains(tag)))
    }

    /// Fetches what of `range`, taken from `origin` beginning there at `from`, is still taken from there.
    async fn fetch_lent(self: &Arc<Self>, cx: &Ctx, origin: &Arc<Origin>, range: Range<u64>, from: u64) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + STEP);
            let begin = from + (at - range.start);
            let bytes = self.room.blocks.read(cx, origin, begin..begin + (end - at)).await?;
            // Nobody may be waited for who waits for a commit to free memory: this may be one.
            let hold = match self.room.budget.try_reserve(Share::Dirty, end - at) {
                Some(hold) => hold,
                None => {
                    self.room.spill_down_to(self.room.budget.share(Share::Dirty) / 2).await?;
                    self.room.budget.try_reserve(Share::Dirty, end - at).ok_or(Error::NoRoom)?
                }
            };
            // A buffer of its own: slices of the cache would be counted twice.
            let held = Held::new(bytes.concat().into(), hold);
            self.state.lock().extents.fill_elsewhere(at, &held, origin.tag, begin);
            cx.progressed();
            at = end;
        }
        Ok(())
    }

    fn note_reference(self: &Arc<Self>, tag: Tag) {
        let mut state = self.state.lock();
        if !state.refers.contains(&tag) {
            state.refers.push(tag);
        }
        drop(state);
        self.room.lent.note(tag, self);
    }

    /// Forgets references that are none any more.
    pub(super) fn give_back(&self) {
        let gone = {
            let mut state = self.state.lock();
            if state.refers.is_empty() {
                return;
            }
            let still = state.extents.tags();
            let (refers, gone): (Vec<Tag>, Vec<Tag>) = state.refers.iter().partition(|tag| still.contains(tag));
            state.refers = refers;
            gone
        };
        self.room.lent.given_back(&gone, self.number);
    }
}

impl Room {
    /// References to the version `old` in the ranges `clean` of it are to `new` from here on (difficulty 1).
    pub(super) fn carry_lent(&self, old: Tag, new: &Arc<Origin>, clean: &[Range<u64>]) {
        for borrower in self.lent.of(old) {
            borrower.state.lock().extents.carry(old, new, clean);
            borrower.note_reference(new.tag);
            borrower.give_back();
        }
    }

    /// Whether no file refers to anything.
    #[cfg(test)]
    pub(crate) fn has_lent_nothing(&self) -> bool {
        self.lent.borrowers.lock().is_empty()
    }

    /// Bytes of `tag` that files refer to.
    pub(crate) fn lent_bytes(&self, tag: Tag) -> u64 {
        let of = |borrower: Arc<Content>| -> u64 {
            borrower.state.lock().extents.elsewhere(tag).iter().map(|(range, _)| range.end - range.start).sum()
        };
        self.lent.of(tag).into_iter().map(of).sum()
    }

    /// `origin` is about to be overwritten or removed, but for the ranges `kept`: what else of it files refer to is fetched for them. Must run in a task of its
    /// own, as spills do.
    pub(crate) async fn secure_lent(&self, cx: &Ctx, origin: &Arc<Origin>, kept: &[Range<u64>]) -> Result<()> {
        for borrower in self.lent.of(origin.tag) {
            let lent = borrower.state.lock().extents.elsewhere(origin.tag);
            for (range, from) in lent {
                for part in without(from..from + (range.end - range.start), kept) {
                    let at = range.start + (part.start - from);
                    match borrower.fetch_lent(cx, origin, at..at + (part.end - part.start), part.start).await {
                        // Somebody else was faster: the bytes are gone already, and whoever needs them is told.
                        Err(Error::Stale) => {}
                        done => done?,
                    }
                }
            }
            borrower.give_back();
        }
        Ok(())
    }
}

/// The parts of `range` that lie in none of `kept`, which ascend.
fn without(range: Range<u64>, kept: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    for kept in kept.iter().filter(|kept| kept.start < range.end && range.start < kept.end) {
        if at < kept.start {
            parts.push(at..kept.start);
        }
        at = at.max(kept.end);
    }
    if at < range.end {
        parts.push(at..range.end);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_left_out() {
        assert_eq!(without(10..20, &[]), [10..20]);
        assert_eq!(without(10..20, &[0..5, 8..12, 15..16, 19..40]), [12..15, 16..19]);
        assert!(without(10..20, std::slice::from_ref(&(0..20))).is_empty());
    }
}
