//! The tier in memory: sixteen shards, each an LRU of blocks and the flights over them, bounded in bytes by what the budget leaves idle.
//!
//! Looking and claiming are one step under one shard's lock, so a sector has at most one fetch. The bytes of a run are a slice of the buffer they
//! were fetched into; the runs of one buffer lie in one block and go together, or are copied out of it, so what is counted is what is held.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use super::{BLOCK, BlockKey, Flight, SECTOR, Tag};
use crate::data::Error;

const SHARDS: usize = 16;
/// Counted for a block beside its bytes: its entry, its runs, the headers of their buffers.
const OVERHEAD: u64 = 256;
/// A carry looks its blocks up one by one as long as there are not more of them.
const FEW_BLOCKS: u64 = 4096;

/// The block cache.
#[derive(Debug)]
pub(crate) struct Memory {
    shards: [Mutex<Shard>; SHARDS],
    /// Bytes of all blocks with their overhead.
    held: AtomicU64,
    /// The shard to evict from next.
    hand: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    blocks: LruCache<BlockKey, Block>,
    flights: HashMap<BlockKey, Vec<Arc<Flight>>>,
}

/// Invariant: runs ascend and do not overlap; they begin at a sector and end at one or at the object's end.
#[derive(Debug, Default)]
struct Block {
    runs: Vec<(u32, Bytes)>,
}

/// A part of an answer, in order.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here.
    Have(Bytes),
    /// Somebody else fetches it: these offsets of the block.
    Flying(Arc<Flight>, Range<u32>),
    /// The caller must fetch the flight, and wants these offsets of it.
    Claimed(Arc<Flight>, Range<u32>),
}

impl Memory {
    pub(crate) fn new() -> Self {
        let shard = || Mutex::new(Shard { blocks: LruCache::unbounded(), flights: HashMap::new() });
        Self { shards: std::array::from_fn(|_| shard()), held: AtomicU64::new(0), hand: AtomicUsize::new(0) }
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// What there is of `range` (offsets in a block of `len` bytes). What is neither here nor on its way is claimed by whole sectors.
    pub(crate) fn look(&self, key: BlockKey, range: Range<u32>, len: u32) -> Vec<Found> {
        let mut shard = self.shard(key).lock();
        let Shard { blocks, flights } = &mut *shard;
        let runs = blocks.get(&key).map_or(&[][..], |block| &block.runs);
        let flying = flights.get(&key).map_or(&[][..], |flights| flights);
        let mut claimed = Vec::new();
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some((start, bytes)) = runs.iter().find(|(start, bytes)| *start <= at && at < end(*start, bytes)) {
                let stop = range.end.min(end(*start, bytes));
                found.push(Found::Have(bytes.slice((at - start) as usize..(stop - start) as usize)));
                at = stop;
            } else if let Some(flight) = flying.iter().find(|flight| flight.range.contains(&at)) {
                let stop = range.end.min(flight.range.end);
                found.push(Found::Flying(Arc::clone(flight), at..stop));
                at = stop;
            } else {
                let ahead = runs.iter().map(|(start, _)| *start).chain(flying.iter().map(|flight| flight.range.start));
                let next = ahead.filter(|start| *start > at).min().unwrap_or(len);
                let stop = range.end.min(next);
                let flight = Flight::new(key, sector_floor(at)..sector_ceil(stop).min(next));
                claimed.push(Arc::clone(&flight));
                found.push(Found::Claimed(flight, at..stop));
                at = stop;
            }
        }
        if !claimed.is_empty() {
            flights.entry(key).or_default().extend(claimed);
        }
        found
    }

    /// Bytes that continue `flight` have come, in whole sectors: cached, and handed to whoever waits.
    pub(crate) fn arrived(&self, flight: &Flight, bytes: Bytes) {
        self.insert(flight.key, flight.upto(), bytes.clone());
        flight.deliver(bytes);
    }

    /// A flight has ended; if it is not complete, all who wait for it fail.
    pub(crate) fn landed(&self, flight: &Arc<Flight>, error: &Error) {
        flight.fail(error);
        let mut shard = self.shard(flight.key).lock();
        if let Some(flying) = shard.flights.get_mut(&flight.key) {
            flying.retain(|other| !Arc::ptr_eq(other, flight));
            if flying.is_empty() {
                shard.flights.remove(&flight.key);
            }
        }
    }

    /// Adds sectors at `start` of a block: whole ones, or up to the object's end. What is there already stays.
    pub(crate) fn insert(&self, key: BlockKey, start: u32, bytes: Bytes) {
        let mut shard = self.shard(key).lock();
        let before = shard.blocks.get(&key).map_or(0, Block::cost);
        let block = shard.blocks.get_or_insert_mut(key, Block::default);
        block.insert(start, bytes);
        let after = block.cost();
        drop(shard);
        self.count(before, after);
    }

    /// Drops the least recently used blocks until `most` bytes are left.
    pub(crate) fn trim(&self, most: u64) {
        let mut empty = 0;
        while self.held() > most && empty < SHARDS {
            let shard = &self.shards[self.hand.fetch_add(1, Ordering::Relaxed) % SHARDS];
            match shard.lock().blocks.pop_lru() {
                Some((_, block)) => {
                    empty = 0;
                    self.count(block.cost(), 0);
                }
                None => empty += 1,
            }
        }
    }

    /// Moves the sectors of `old` that lie whole in `clean` to `new`, a version of `size` bytes which has the same bytes there (D1b).
    pub(crate) fn carry(&self, old: Tag, new: Tag, size: u64, clean: &[Range<u64>]) {
        let few: u64 = clean.iter().map(|range| range.end.div_ceil(BLOCK) - range.start / BLOCK).sum();
        let mut indexes: Vec<u64> = if few <= FEW_BLOCKS {
            clean.iter().flat_map(|range| range.start / BLOCK..range.end.div_ceil(BLOCK)).collect()
        } else {
            let of =
                |shard: &Mutex<Shard>| shard.lock().blocks.iter().filter(|(key, _)| key.tag == old).map(|(key, _)| key.index).collect();
            self.shards.iter().flat_map(|shard| -> Vec<u64> { of(shard) }).collect()
        };
        indexes.sort_unstable();
        indexes.dedup();
        for index in indexes {
            let taken = self.shard(BlockKey { tag: old, index }).lock().blocks.pop(&BlockKey { tag: old, index });
            let Some(block) = taken else { continue };
            self.count(block.cost(), 0);
            let ends = index * BLOCK..index * BLOCK + block.runs.last().map_or(0, |(start, bytes)| u64::from(end(*start, bytes)));
            let whole = clean.iter().any(|range| range.start <= ends.start && ends.end <= range.end);
            for (start, bytes) in block.runs {
                let at = index * BLOCK + u64::from(start);
                let run = at..at + bytes.len() as u64;
                for range in clean {
                    let from = range.start.max(run.start).next_multiple_of(SECTOR);
                    let to = range.end.min(run.end).min(size);
                    let to = if to == size { to } else { to / SECTOR * SECTOR };
                    if from < to {
                        let slice = bytes.slice(length(from - at)..length(to - at));
                        // A part of a buffer keeps all of it, which nobody would count.
                        let slice = if whole { slice } else { Bytes::copy_from_slice(&slice) };
                        self.insert(BlockKey { tag: new, index }, offset(from), slice);
                    }
                }
            }
        }
    }

    fn shard(&self, key: BlockKey) -> &Mutex<Shard> {
        // The tag is a hash already; neighbouring blocks go to different shards.
        let n = u64::from(key.tag.0[0]).wrapping_add(key.index) % SHARDS as u64;
        &self.shards[length(n)]
    }

    fn count(&self, before: u64, after: u64) {
        if after >= before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Block {
    fn cost(&self) -> u64 {
        if self.runs.is_empty() { 0 } else { OVERHEAD + self.runs.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() }
    }

    fn insert(&mut self, start: u32, bytes: Bytes) {
        let mut at = start;
        let stop = end(start, &bytes);
        while at < stop {
            let place = self.runs.partition_point(|(start, bytes)| end(*start, bytes) <= at);
            match self.runs.get(place) {
                Some((there, present)) if *there <= at => at = end(*there, present),
                next => {
                    let until = next.map_or(stop, |(there, _)| stop.min(*there));
                    self.runs.insert(place, (at, bytes.slice((at - start) as usize..(until - start) as usize)));
                    at = until;
                }
            }
        }
    }
}

fn end(start: u32, bytes: &Bytes) -> u32 {
    start + u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

const SECTOR_U32: u32 = 16 << 10;

fn sector_floor(at: u32) -> u32 {
    at / SECTOR_U32 * SECTOR_U32
}

fn sector_ceil(at: u32) -> u32 {
    at.next_multiple_of(SECTOR_U32)
}

/// The offset of `at` in its block.
fn offset(at: u64) -> u32 {
    u32::try_from(at % BLOCK).unwrap_or(0)
}

fn length(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_in_part_does_not_hold_the_rest() {
        let buffer = Arc::new(vec![7u8; 1 << 20]);
        let memory = Memory::new();
        let (old, new) = (Tag::of([1; 16]), Tag::of([2; 16]));
        struct Owner(Arc<Vec<u8>>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        // As a fetch publishes it: pieces of one buffer.
        let whole = Bytes::from_owner(Owner(Arc::clone(&buffer)));
        for at in (0..BLOCK).step_by(128 << 10) {
            memory.insert(BlockKey { tag: old, index: 0 }, offset(at), whole.slice(length(at)..length(at) + (128 << 10)));
        }
        drop(whole);
        memory.carry(old, new, BLOCK, std::slice::from_ref(&(SECTOR..2 * SECTOR)));
        assert_eq!(memory.held(), SECTOR + OVERHEAD);
        assert_eq!(Arc::strong_count(&buffer), 1, "the buffer is held for a sixty-fourth of it");
        let found = memory.look(BlockKey { tag: new, index: 0 }, SECTOR_U32..2 * SECTOR_U32, 1 << 20);
        assert!(matches!(&found[..], [Found::Have(bytes)] if bytes[..] == [7; 16 << 10]));
        // All of a block goes as it is.
        let whole = Bytes::from_owner(Owner(Arc::clone(&buffer)));
        memory.insert(BlockKey { tag: old, index: 1 }, 0, whole);
        memory.carry(old, new, 2 * BLOCK, std::slice::from_ref(&(0..2 * BLOCK)));
        assert_eq!(Arc::strong_count(&buffer), 2, "nothing is copied where nothing is left out");
    }
}
