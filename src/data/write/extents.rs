//! What of a file is not in its base: a map of dirty extents, and the pieces that reads and commits see through it.
//!
//! The difficulties
//! 1. *Old bytes must not come back.* A file cut and extended again shows zeros where it was cut, though the base still has bytes there. The map
//!    remembers how far the base reaches ([`Extents::base_reach`]): it only shrinks until a commit makes a new base.
//! 2. *Writes go on during a commit.* Every extent has the generation it was written in; [`Extents::snapshot`] begins the next one. A commit that
//!    succeeds makes clean what its generation has left in the map, and a cut made meanwhile is remembered by generation, too.
//! 3. *Ranges of other objects.* What a program copies within the bucket is noted as a range of the version it came from, and copied there by the
//!    commit; until then that version has to be there. A version that takes ranges from another unchanged takes them over ([`Extents::carry`]).
//! 4. *What is counted is what is held.* A slice keeps its whole buffer alive, so it keeps the buffer's reservation ([`Held`]). Small leftovers of
//!    large buffers are copied out, small neighbours are joined as the digits of a binary counter, so that a byte is copied at most
//!    [`JOINED`]`.ilog2()` times and tiny writes do not cost a node each.
//!
//! Pure: no I/O, no clock. `S` is a staged file; a staged extent lies there at its own offset. The map's nodes themselves (about 100 bytes an
//! extent) are outside the budget.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::data::{cache::Tag, read::Origin};

use crate::support::{Budget, Reservation, Share};

/// Neighbours up to this length are joined.
const JOINED: usize = 64 << 10;
/// A leftover below this fraction of its buffer is copied out.
const LEFTOVER: u64 = 4;

/// Bytes in memory with the reservation of their buffer, which slices share.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    hold: Arc<Reservation>,
}

impl Held {
    /// `bytes` must be a buffer of its own, not a slice of something larger.
    pub(crate) fn new(bytes: Bytes, hold: Reservation) -> Self {
        Self { bytes, hold: Arc::new(hold) }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn slice(&self, range: Range<u64>) -> Self {
        Self { bytes: self.bytes.slice(index(range.start)..index(range.end)), hold: Arc::clone(&self.hold) }
    }

    /// The same memory, not merely the same bytes.
    fn same(&self, other: &Self) -> bool {
        self.bytes.as_ptr() == other.bytes.as_ptr() && self.bytes.len() == other.bytes.len()
    }

    /// Copies the bytes out of a buffer that is mostly dead (difficulty 4).
    fn compact(&mut self, budget: &Budget) {
        if self.len() * LEFTOVER < self.hold.bytes()
            && let Some(hold) = budget.try_reserve(Share::Dirty, self.len())
        {
            *self = Self::new(Bytes::copy_from_slice(&self.bytes), hold);
        }
    }
}

/// Lengths of what is in memory fit it.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[derive(Debug, Clone)]
enum Place<S> {
    Memory(Held),
    Staged(S),
    /// In this version of another object, from this offset on.
    Elsewhere(Arc<Origin>, u64),
    /// Answered by the store as a part of an upload that is still open, and freed here.
    Sent,
    /// Nowhere: a hole over what was there.
    Hole,
}

#[derive(Debug, Clone)]
struct Extent<S> {
    len: u64,
    generation: u64,
    place: Place<S>,
}

/// Where the bytes of a [`Piece`] are.
#[derive(Debug, Clone)]
pub(crate) enum Where<S> {
    /// Here.
    Memory(Held),
    /// In a staged file, at the piece's own offset.
    Staged(S),
    /// Nowhere: they are zeros.
    Hole,
    /// In the base, at the piece's own offset.
    Base,
    /// In this version of another object, from this offset on.
    Elsewhere(Arc<Origin>, u64),
    /// In an open upload.
    Sent,
}

/// A range of the file whose bytes are in one place.
#[derive(Debug, Clone)]
pub(crate) struct Piece<S> {
    pub(crate) range: Range<u64>,
    pub(crate) place: Where<S>,
}

/// The whole file as it was when a commit began.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot<S> {
    pub(crate) generation: u64,
    pub(crate) size: u64,
    /// In order, without gaps, from 0 to `size`.
    pub(crate) pieces: Vec<Piece<S>>,
}

/// The dirty extents of one file over its base.
#[derive(Debug)]
pub(crate) struct Extents<S> {
    budget: Budget,
    size: u64,
    /// Size of the base; 0 without one.
    base_size: u64,
    /// What no extent covers comes from the base below this, and is a hole from here on. Invariant: at most `base_size` and `size`.
    base_reach: u64,
    /// Nothing of it was ever committed: even empty it is dirty.
    fresh: bool,
    generation: u64,
    /// Smallest size the file was cut to in a generation. Invariant: generations ascend.
    cuts: Vec<(u64, u64)>,
    /// By start. Invariant: no two overlap, none is empty, all end at `size` or before.
    map: BTreeMap<u64, Extent<S>>,
    /// Bytes of `map` in memory.
    memory: u64,
    /// Bytes of `map` in staged files.
    staged: u64,
    /// Bytes of `map` in an open upload.
    sent: u64,
    /// Bytes of `map` that are holes, or in other objects.
    weightless: u64,
}

impl<S: Clone + PartialEq> Extents<S> {
    /// A clean file over a base of that size; `None`: new, and dirty even while it is empty.
    pub(crate) fn new(base_size: Option<u64>, budget: Budget) -> Self {
        let size = base_size.unwrap_or(0);
        Self {
            budget,
            size,
            base_size: size,
            base_reach: size,
            fresh: base_size.is_none(),
            generation: 1,
            cuts: Vec::new(),
            map: BTreeMap::new(),
            memory: 0,
            staged: 0,
            sent: 0,
            weightless: 0,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How far the base shows through.
    pub(crate) fn base_reach(&self) -> u64 {
        self.base_reach
    }

    /// Whether less of the base shows than there is.
    pub(crate) fn was_cut(&self) -> bool {
        self.base_reach < self.base_size
    }

    /// Bytes held in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes in memory and staging.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.memory + self.staged
    }

    /// Bytes in an open upload.
    pub(crate) fn uploaded(&self) -> u64 {
        self.sent
    }

    /// Whether the file differs from its base.
    pub(crate) fn is_dirty(&self) -> bool {
        self.fresh || !self.map.is_empty() || self.size != self.base_size || self.base_reach != self.base_size
    }

    /// Puts `held` at `at`, over whatever was there.
    pub(crate) fn insert(&mut self, at: u64, held: Held) {
        let len = held.len();
        if len == 0 {
            return;
        }
        self.clear(at..at + len);
        self.size = self.size.max(at + len);
        self.place(at, Extent { len, generation: self.generation, place: Place::Memory(held) });
        self.join_around(at..at + len);
    }

    /// Puts what is `from` on in `origin` at `range`, over whatever was there.
    pub(crate) fn refer(&mut self, range: Range<u64>, origin: &Arc<Origin>, from: u64) {
        self.put(range, Place::Elsewhere(Arc::clone(origin), from));
    }

    /// Makes a hole of `range`, over whatever was there.
    pub(crate) fn hole(&mut self, range: Range<u64>) {
        self.put(range, Place::Hole);
    }

    fn put(&mut self, range: Range<u64>, place: Place<S>) {
        if range.is_empty() {
            return;
        }
        self.clear(range.clone());
        self.size = self.size.max(range.end);
        self.place(range.start, Extent { len: range.end - range.start, generation: self.generation, place });
        self.join_around(range);
    }

    /// Puts `held` where the base shows through at `at`, and nowhere else.
    pub(crate) fn fill(&mut self, at: u64, held: &Held) {
        for piece in self.pieces(at..at + held.len()) {
            if matches!(piece.place, Where::Base) {
                self.fill_piece(&piece.range, self.generation, held.slice(piece.range.start - at..piece.range.end - at));
            }
        }
    }

    /// Puts `held` where what is at `at` still comes from the version of `tag`, there from `from` on, and nowhere else.
    pub(crate) fn fill_elsewhere(&mut self, at: u64, held: &Held, tag: Tag, from: u64) {
        for piece in self.pieces(at..at + held.len()) {
            if matches!(&piece.place, Where::Elsewhere(origin, begin) if origin.tag == tag && *begin == from + (piece.range.start - at)) {
                let before = self.map.range(..=piece.range.start).next_back();
                let generation = before.map_or(self.generation, |(_, extent)| extent.generation);
                self.clear(piece.range.clone());
                self.fill_piece(&piece.range, generation, held.slice(piece.range.start - at..piece.range.end - at));
            }
        }
    }

    fn fill_piece(&mut self, range: &Range<u64>, generation: u64, mut slice: Held) {
        slice.compact(&self.budget);
        self.place(range.start, Extent { len: slice.len(), generation, place: Place::Memory(slice) });
    }

    /// Ranges that come from the version of `tag`, and where they begin there.
    pub(crate) fn elsewhere(&self, tag: Tag) -> Vec<(Range<u64>, u64)> {
        let of = |(start, extent): (&u64, &Extent<S>)| match &extent.place {
            Place::Elsewhere(origin, from) if origin.tag == tag => Some((*start..start + extent.len, *from)),
            _ => None,
        };
        self.map.iter().filter_map(of).collect()
    }

    /// The versions that ranges come from.
    pub(crate) fn tags(&self) -> Vec<Tag> {
        let mut tags: Vec<Tag> = Vec::new();
        for extent in self.map.values() {
            if let Place::Elsewhere(origin, _) = &extent.place
                && !tags.contains(&origin.tag)
            {
                tags.push(origin.tag);
            }
        }
        tags
    }

    /// What is taken from the version of `old` in the ranges `clean` of it is taken from `new`, which has the same bytes there.
    pub(crate) fn carry(&mut self, old: Tag, new: &Arc<Origin>, clean: &[Range<u64>]) {
        for (range, from) in self.elsewhere(old) {
            let Some(extent) = self.take(range.start) else { continue };
            let mut at = range.start;
            // What lies between clean ranges stays as it is.
            let inside = clean.iter().map(|clean| {
                let (begin, end) = (clean.start.max(from), clean.end.min(from + extent.len));
                (range.start + (begin.max(from) - from)..range.start + (end.max(from) - from), begin)
            });
            for (part, begin) in inside.filter(|(part, _)| !part.is_empty()) {
                if at < part.start {
                    self.place_part(&extent, range.start, at..part.start);
                }
                at = part.end;
                let place = Place::Elsewhere(Arc::clone(new), begin);
                self.place(part.start, Extent { len: part.end - part.start, generation: extent.generation, place });
            }
            if at < range.end {
                self.place_part(&extent, range.start, at..range.end);
            }
        }
    }

    /// Cuts the file, or extends it with a hole. `old_bytes_show` is a seeded defect: the base shows through the hole.
    pub(crate) fn truncate(&mut self, size: u64, old_bytes_show: bool) {
        if size < self.size {
            self.clear(size..self.size);
            self.base_reach = if old_bytes_show { self.base_reach } else { self.base_reach.min(size) };
            match self.cuts.last_mut() {
                Some((generation, least)) if *generation == self.generation => *least = size.min(*least),
                _ => self.cuts.push((self.generation, size)),
            }
        }
        self.size = size;
    }

    /// What `range`, clipped to the file, is made of: in order, without gaps.
    pub(crate) fn pieces(&self, range: Range<u64>) -> Vec<Piece<S>> {
        let end = range.end.min(self.size);
        let mut at = range.start;
        let mut pieces = Vec::new();
        let before = self.map.range(..at).next_back().filter(|(start, extent)| *start + extent.len > at);
        let start = before.map_or(at, |(start, _)| *start);
        for (&start, extent) in self.map.range(start..end.max(start)) {
            self.uncovered(at..start, &mut pieces);
            at = at.max(start);
            let stop = end.min(start + extent.len);
            let place = match &extent.place {
                Place::Memory(held) => Where::Memory(held.slice(at - start..stop - start)),
                Place::Staged(file) => Where::Staged(file.clone()),
                Place::Elsewhere(origin, from) => Where::Elsewhere(Arc::clone(origin), from + (at - start)),
                Place::Sent => Where::Sent,
                Place::Hole => Where::Hole,
            };
            pieces.push(Piece { range: at..stop, place });
            at = stop;
        }
        self.uncovered(at..end, &mut pieces);
        pieces
    }

    /// The whole file as it is now; what is written from here on belongs to the next commit.
    pub(crate) fn snapshot(&mut self) -> Snapshot<S> {
        let generation = self.generation;
        self.generation += 1;
        Snapshot { generation, size: self.size, pieces: self.pieces(0..self.size) }
    }

    /// The snapshot of `generation` has become the base, `size` bytes long: what it had is clean.
    pub(crate) fn committed(&mut self, generation: u64, size: u64) {
        let clean: Vec<u64> = self.map.iter().filter(|(_, extent)| extent.generation <= generation).map(|(start, _)| *start).collect();
        for start in clean {
            self.take(start);
        }
        self.cuts.retain(|(cut, _)| *cut > generation);
        self.base_size = size;
        self.base_reach = self.cuts.iter().map(|(_, least)| *least).fold(size, u64::min);
        self.fresh = false;
    }

    /// Where the unbroken run of bytes in memory or staging that begins at `from` ends.
    pub(crate) fn covered_to(&self, from: u64) -> u64 {
        let before = self.map.range(..from).next_back().filter(|(start, extent)| *start + extent.len > from);
        let start = before.map_or(from, |(start, _)| *start);
        let mut at = from;
        for (&start, extent) in self.map.range(start..) {
            if start > at || !matches!(extent.place, Place::Memory(_) | Place::Staged(_)) {
                break;
            }
            at = start + extent.len;
        }
        at
    }

    /// The generation that writes belong to now.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether all that is dirty lies behind the whole base: an append, or a file without one.
    pub(crate) fn only_appended(&self) -> bool {
        self.base_reach == self.base_size && self.map.first_key_value().is_none_or(|(start, _)| *start >= self.base_size)
    }

    /// The bytes of `range` are in an open upload, as written up to `generation`: they are freed here.
    pub(crate) fn sent(&mut self, range: Range<u64>, generation: u64) {
        self.clear(range.clone());
        self.place(range.start, Extent { len: range.end - range.start, generation, place: Place::Sent });
        self.join_around(range);
    }

    /// Extents in memory from offset `from` on, about `most` bytes of them, to be written to a staged file.
    pub(crate) fn in_memory(&self, from: u64, most: u64) -> Vec<(u64, Held)> {
        let mut sum = 0;
        let mut found = Vec::new();
        for (&start, extent) in self.map.range(from..) {
            if let Place::Memory(held) = &extent.place {
                found.push((start, held.clone()));
                sum += extent.len;
                if sum >= most {
                    break;
                }
            }
        }
        found
    }

    /// `held`, taken from `at` by [`Extents::in_memory`], is in `file` now. What was overwritten meanwhile stays as it is.
    pub(crate) fn staged(&mut self, at: u64, held: &Held, file: &S) {
        let still = matches!(self.map.get(&at), Some(Extent { place: Place::Memory(now), .. }) if now.same(held));
        if still && let Some(extent) = self.take(at) {
            self.place(at, Extent { place: Place::Staged(file.clone()), ..extent });
            self.join(at);
        }
    }

    /// Hands what is between extents to `pieces`: base up to its reach, then hole.
    fn uncovered(&self, range: Range<u64>, pieces: &mut Vec<Piece<S>>) {
        let reach = self.base_reach.clamp(range.start, range.end.max(range.start));
        if range.start < reach {
            pieces.push(Piece { range: range.start..reach, place: Where::Base });
        }
        if reach < range.end {
            pieces.push(Piece { range: reach..range.end, place: Where::Hole });
        }
    }

    /// Removes what lies in `range`; extents that reach out of it keep what is outside.
    fn clear(&mut self, range: Range<u64>) {
        let before = self.map.range(..range.start).next_back().filter(|(start, extent)| *start + extent.len > range.start);
        let first = before.map_or(range.start, |(start, _)| *start);
        let hit: Vec<u64> = self.map.range(first..range.end).map(|(start, _)| *start).collect();
        for start in hit {
            let Some(extent) = self.take(start) else { continue };
            let end = start + extent.len;
            if start < range.start {
                self.place_part(&extent, start, start..range.start);
            }
            if end > range.end {
                self.place_part(&extent, start, range.end..end);
            }
        }
    }

    /// Puts the part `keep` of `extent`, which began at `start`, back.
    fn place_part(&mut self, extent: &Extent<S>, start: u64, keep: Range<u64>) {
        let place = match &extent.place {
            Place::Memory(held) => {
                let mut slice = held.slice(keep.start - start..keep.end - start);
                slice.compact(&self.budget);
                Place::Memory(slice)
            }
            Place::Elsewhere(origin, from) => Place::Elsewhere(Arc::clone(origin), from + (keep.start - start)),
            other => other.clone(),
        };
        self.place(keep.start, Extent { len: keep.end - keep.start, generation: extent.generation, place });
    }

    /// Joins the extent of `range` with its neighbours as far as that pays.
    fn join_around(&mut self, range: Range<u64>) {
        self.join(range.start);
        if self.map.contains_key(&range.end) {
            self.join(range.end);
        }
    }

    /// Joins the extent at `start` with those before it as far as that pays.
    fn join(&mut self, mut start: u64) {
        while let Some((&before, left)) = self.map.range(..start).next_back()
            && let Some(right) = self.map.get(&start)
            && before + left.len == start
            && let Some(joined) = self.joined(left, right)
        {
            self.take(start);
            self.take(before);
            self.place(before, joined);
            start = before;
        }
    }

    fn joined(&self, left: &Extent<S>, right: &Extent<S>) -> Option<Extent<S>> {
        let len = left.len + right.len;
        let place = match (&left.place, &right.place) {
            (Place::Sent, Place::Sent) => {
                return Some(Extent { len, generation: left.generation.max(right.generation), place: Place::Sent });
            }
            (Place::Staged(a), Place::Staged(b)) if left.generation == right.generation && a == b => Place::Staged(a.clone()),
            (Place::Hole, Place::Hole) if left.generation == right.generation => Place::Hole,
            (Place::Elsewhere(a, from), Place::Elsewhere(b, goes_on))
                if left.generation == right.generation && a.tag == b.tag && from + left.len == *goes_on =>
            {
                Place::Elsewhere(Arc::clone(a), *from)
            }
            (Place::Memory(a), Place::Memory(b))
                if left.generation == right.generation && a.bytes.len().max(b.bytes.len()) <= JOINED && a.len() <= 2 * b.len() =>
            {
                let hold = self.budget.try_reserve(Share::Dirty, len)?;
                let mut bytes = BytesMut::with_capacity(index(len));
                bytes.extend_from_slice(&a.bytes);
                bytes.extend_from_slice(&b.bytes);
                Place::Memory(Held::new(bytes.freeze(), hold))
            }
            _ => return None,
        };
        Some(Extent { len, generation: left.generation, place })
    }

    fn place(&mut self, at: u64, extent: Extent<S>) {
        *self.counter(&extent.place) += extent.len;
        self.map.insert(at, extent);
    }

    fn take(&mut self, at: u64) -> Option<Extent<S>> {
        let extent = self.map.remove(&at)?;
        *self.counter(&extent.place) -= extent.len;
        Some(extent)
    }

    fn counter(&mut self, place: &Place<S>) -> &mut u64 {
        match place {
            Place::Memory(_) => &mut self.memory,
            Place::Staged(_) => &mut self.staged,
            Place::Sent => &mut self.sent,
            Place::Elsewhere(..) | Place::Hole => &mut self.weightless,
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{ETag, Key, ObjectVersion, memory::MemoryBucket};
    use crate::support::ByteSize;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, usize),
        Truncate(u64),
        Spill(u64),
        Begin,
        Succeed,
        Fail,
        /// At an offset, so many bytes of another object from an offset on.
        Refer(u64, u64, u64),
        Hole(u64, u64),
        /// The other object becomes a new version that has these bytes of it.
        Carry(u64, u64),
        /// What is taken of it is fetched.
        Fetch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3000u64, 1..400usize).prop_map(|(at, len)| Step::Write(at, len)),
            2 => (0..3500u64).prop_map(Step::Truncate),
            2 => (0..3000u64).prop_map(Step::Spill),
            1 => Just(Step::Begin),
            1 => Just(Step::Succeed),
            1 => Just(Step::Fail),
            2 => (0..3000u64, 1..900u64, 0..1100u64).prop_map(|(at, len, from)| Step::Refer(at, len, from)),
            2 => (0..3500u64, 1..500u64).prop_map(|(at, len)| Step::Hole(at, len)),
            1 => (0..2000u64, 1..1500u64).prop_map(|(from, len)| Step::Carry(from, len)),
            1 => Just(Step::Fetch),
        ]
    }

    const OTHER: usize = 2000;

    /// An object, and a version of it for which nobody is ever asked.
    fn version(number: usize) -> Arc<Origin> {
        let clock = Arc::new(crate::support::SystemClock);
        let version = ObjectVersion { key: Key::new("other"), etag: ETag::new(&number.to_string()), size: OTHER as u64, version_id: None };
        Origin::new(MemoryBucket::new(clock), version)
    }

    /// The map, what programs see, and stand-ins for base, staging and store.
    struct Model {
        extents: Extents<u8>,
        budget: Budget,
        seen: Vec<u8>,
        base: Vec<u8>,
        staged: Vec<u8>,
        commit: Option<(Snapshot<u8>, Vec<u8>)>,
        next: u8,
        /// The versions of the other object, the newest last.
        others: Vec<(Arc<Origin>, Vec<u8>)>,
    }

    impl Model {
        fn new(base: usize) -> Self {
            let budget = Budget::new(ByteSize::mib(64));
            let base: Vec<u8> = (0..base).map(|at| 100 + (at % 100) as u8).collect();
            let extents = Extents::new(Some(base.len() as u64), budget.clone());
            let others = vec![(version(0), (0..OTHER).map(|at| 200 + (at % 50) as u8).collect())];
            Self { extents, budget, seen: base.clone(), base, staged: vec![0; 8000], commit: None, next: 0, others }
        }

        fn held(&self, bytes: Vec<u8>) -> Held {
            let hold = self.budget.try_reserve(Share::Dirty, bytes.len() as u64).unwrap();
            Held::new(bytes.into(), hold)
        }

        fn bytes_of(&self, pieces: &[Piece<u8>]) -> Vec<u8> {
            let mut all = Vec::new();
            for piece in pieces {
                let range = piece.range.start as usize..piece.range.end as usize;
                match &piece.place {
                    Where::Memory(held) => all.extend_from_slice(&held.bytes),
                    Where::Staged(_) => all.extend_from_slice(&self.staged[range]),
                    Where::Hole => all.resize(all.len() + range.len(), 0),
                    Where::Base => all.extend_from_slice(&self.base[range]),
                    Where::Elsewhere(origin, from) => {
                        let (_, bytes) = self.others.iter().find(|(other, _)| other.tag == origin.tag).unwrap();
                        all.extend_from_slice(&bytes[*from as usize..][..range.len()]);
                    }
                    Where::Sent => panic!("nothing was sent"),
                }
            }
            all
        }

        fn run(&mut self, step: &Step) {
            match *step {
                Step::Write(at, len) => {
                    self.next = self.next % 90 + 1;
                    let bytes = vec![self.next; len];
                    self.seen.resize(self.seen.len().max(at as usize + len), 0);
                    self.seen[at as usize..at as usize + len].copy_from_slice(&bytes);
                    self.extents.insert(at, self.held(bytes));
                }
                Step::Truncate(size) => {
                    self.seen.resize(size as usize, 0);
                    self.extents.truncate(size, false);
                }
                // A commit under way reads its staged bytes: the program proper takes a new file then, the model waits.
                Step::Spill(from) if self.commit.is_none() => {
                    for (at, held) in self.extents.in_memory(from, 700) {
                        self.staged[at as usize..at as usize + held.bytes.len()].copy_from_slice(&held.bytes);
                        self.extents.staged(at, &held, &1);
                    }
                }
                Step::Spill(_) => {}
                Step::Begin if self.commit.is_none() => {
                    let snapshot = self.extents.snapshot();
                    assert_eq!(self.bytes_of(&snapshot.pieces), self.seen, "a snapshot is the file");
                    self.commit = Some((snapshot, self.seen.clone()));
                }
                Step::Begin => {}
                Step::Succeed => {
                    if let Some((snapshot, bytes)) = self.commit.take() {
                        self.base = bytes;
                        self.extents.committed(snapshot.generation, snapshot.size);
                    }
                }
                Step::Fail => self.commit = None,
                Step::Refer(at, len, from) => {
                    let (origin, bytes) = self.others.last().unwrap();
                    self.seen.resize(self.seen.len().max((at + len) as usize), 0);
                    self.seen[at as usize..][..len as usize].copy_from_slice(&bytes[from as usize..][..len as usize]);
                    self.extents.refer(at..at + len, origin, from);
                }
                Step::Hole(at, len) => {
                    self.seen.resize(self.seen.len().max((at + len) as usize), 0);
                    self.seen[at as usize..][..len as usize].fill(0);
                    self.extents.hole(at..at + len);
                }
                Step::Carry(from, len) => {
                    let clean = from..(from + len).min(OTHER as u64);
                    let new = version(self.others.len());
                    let (old, bytes) = self.others.last().unwrap();
                    let mut next = vec![255; OTHER];
                    next[clean.start as usize..clean.end as usize].copy_from_slice(&bytes[clean.start as usize..clean.end as usize]);
                    self.extents.carry(old.tag, &new, std::slice::from_ref(&clean));
                    self.others.push((new, next));
                }
                Step::Fetch => {
                    for (origin, bytes) in self.others.clone() {
                        for (range, from) in self.extents.elsewhere(origin.tag) {
                            let bytes = bytes[from as usize..][..(range.end - range.start) as usize].to_vec();
                            // In two pieces, the second with a start that is not its own.
                            let held = self.held(bytes);
                            let half = held.len() / 2;
                            self.extents.fill_elsewhere(range.start + half, &held.slice(half..held.len()), origin.tag, from + half);
                            self.extents.fill_elsewhere(range.start, &held, origin.tag, from + 1);
                            self.extents.fill_elsewhere(range.start, &held, origin.tag, from);
                        }
                        assert!(self.extents.elsewhere(origin.tag).is_empty());
                    }
                    assert!(self.extents.tags().is_empty());
                }
            }
        }

        fn check(&self) {
            assert_eq!(self.extents.size(), self.seen.len() as u64);
            let pieces = self.extents.pieces(0..u64::MAX);
            let mut at = 0;
            for piece in &pieces {
                assert_eq!(piece.range.start, at);
                assert!(piece.range.end > at, "no empty piece");
                at = piece.range.end;
            }
            assert_eq!(self.bytes_of(&pieces), self.seen);
            if !self.extents.is_dirty() {
                assert_eq!(self.base, self.seen, "what is called clean is in the base");
            }
            if self.commit.is_none() {
                assert!(self.budget.used(Share::Dirty) >= self.extents.memory(), "all that is held is counted");
                assert!(self.extents.memory() > 0 || self.budget.used(Share::Dirty) == 0, "all that is counted is held");
            }
        }
    }

    proptest! {
        #[test]
        fn a_program_sees_what_a_plain_buffer_shows(base in 0..2500usize, steps in prop::collection::vec(step(), 1..60)) {
            let mut model = Model::new(base);
            for step in &steps {
                model.run(step);
                model.check();
            }
        }

        #[test]
        fn any_range_is_the_whole_cut(steps in prop::collection::vec(step(), 1..30), from in 0..3000u64, len in 1..500u64) {
            let mut model = Model::new(1000);
            steps.iter().for_each(|step| model.run(step));
            let seen = model.bytes_of(&model.extents.pieces(from..from + len));
            let end = model.seen.len().min((from + len) as usize);
            prop_assert_eq!(seen, &model.seen[(from as usize).min(end)..end]);
        }
    }

    #[test]
    fn tiny_appends_are_joined() {
        let mut model = Model::new(0);
        for at in 0..20_000u64 {
            model.run(&Step::Write(at * 10, 10));
        }
        model.check();
        assert!(model.extents.map.len() < 30, "{} extents", model.extents.map.len());
        assert!(model.budget.used(Share::Dirty) < 220_000, "200,000 bytes hold {}", model.budget.used(Share::Dirty));
    }

    #[test]
    fn small_leftovers_do_not_hold_large_buffers() {
        let mut model = Model::new(0);
        for at in 0..64u64 {
            model.run(&Step::Write(at << 16, 1 << 16));
            model.run(&Step::Write((at << 16) + 1000, (1 << 16) - 1000));
        }
        model.check();
        for at in 0..64u64 {
            model.run(&Step::Truncate((64 - at) << 16));
        }
        assert!(model.budget.used(Share::Dirty) <= 2 * model.extents.memory() + 1024);
    }

    #[test]
    fn sent_ranges_are_seen_as_such_until_committed() {
        let mut model = Model::new(0);
        for at in 0..8 {
            model.run(&Step::Write(at * 100, 100));
        }
        assert_eq!(model.extents.covered_to(0), 800);
        model.extents.sent(300..600, 1);
        model.extents.sent(0..300, 1);
        assert_eq!((model.extents.covered_to(0), model.extents.covered_to(600)), (0, 800));
        let pieces = model.extents.pieces(0..800);
        assert!(matches!(pieces[0], Piece { range: Range { start: 0, end: 600 }, place: Where::Sent }), "{pieces:?}");
        let snapshot = model.extents.snapshot();
        model.extents.committed(snapshot.generation, 800);
        assert!(!model.extents.is_dirty());
    }
}
