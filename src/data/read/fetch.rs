//! From ranges of a version to bytes: what the cache has, what is on its way, and requests for the rest.
//!
//! The difficulties
//! 1. *One fetch per sector, however many ask.* Looking claims what is missing in the same step (`cache`). Claims become requests at once, with no
//!    await between, and each request is a task of its own: a reader that goes away takes nothing from those who joined it.
//! 2. *The first byte waits for no block.* A request covers neighbouring claims; each piece of [`PUBLISHED`] bytes is cached and handed to the
//!    waiters as it arrives.
//! 3. *Memory.* A demand request holds the read share until it ends. What is asked for ahead lives, as cached blocks do, in what is idle, takes
//!    at most half of that, and is simply not asked for when there is none.
//! 4. *A fetch that failed for one may succeed for another.* Who joined a flight and sees it fail looks again, once; who claimed it reports.
//!
//! A byte is copied once, from the network's buffer into its block's.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};

use crate::data::{
    Error, Result,
    cache::{BLOCK, BlockKey, Flight, Found, Memory, SECTOR, Tag},
};

use crate::store::{self, Bucket, Kind, ObjectVersion};

use crate::support::{Budget, ByteSize, Counter, Ctx, Metrics, Share, TaskGroup, Urgency};

/// Bytes are published to cache and waiters when so many more have come: what the kernel asks for at once.
const PUBLISHED: u32 = 128 << 10;
/// One request asks for at most so much: enough to hide its round trip, little enough that several run at once.
const LARGEST_REQUEST: u64 = 8 << 20;

/// A version of an object, to be read.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) version: ObjectVersion,
    pub(crate) tag: Tag,
}

impl Origin {
    pub(crate) fn new(bucket: Arc<dyn Bucket>, version: ObjectVersion) -> Arc<Self> {
        let tag = Tag::new(bucket.name(), &version);
        Arc::new(Self { bucket, version, tag })
    }
}

/// The blocks of all versions: in memory, or fetched.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) memory: Memory,
    budget: Budget,
    tasks: Arc<TaskGroup>,
    largest_window: u64,
    largest_request: u64,
    /// Bytes asked for ahead and not yet here.
    ahead: AtomicU64,
    requests: Arc<Counter>,
    fetched: Arc<Counter>,
    cached: Arc<Counter>,
}

/// Counts bytes asked for ahead until they are here.
struct Ahead(Arc<Blocks>, u64);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.ahead.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Claimed flights; those it still has when it is dropped fail.
struct Landing {
    blocks: Arc<Blocks>,
    flights: Vec<Arc<Flight>>,
    error: Error,
}

impl Landing {
    fn fail_with(&mut self, error: Error) {
        self.error = error;
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        for flight in &self.flights {
            self.blocks.memory.landed(flight, &self.error);
        }
    }
}

impl Blocks {
    pub(crate) fn new(budget: Budget, tasks: Arc<TaskGroup>, largest_window: ByteSize, metrics: &Metrics) -> Arc<Self> {
        let largest_request = LARGEST_REQUEST.min(budget.limit() / 16).max(BLOCK);
        Arc::new(Self {
            memory: Memory::new(),
            largest_window: largest_window.bytes().min(budget.limit() / 4),
            largest_request,
            budget,
            tasks,
            ahead: AtomicU64::new(0),
            requests: metrics.counter("read_requests"),
            fetched: metrics.counter("read_fetched_bytes"),
            cached: metrics.counter("read_cached_bytes"),
        })
    }

    /// Most bytes to ask for ahead of one reader.
    pub(crate) fn largest_window(&self) -> u64 {
        self.largest_window
    }

    /// The bytes of `range`, which lies within the version.
    pub(crate) async fn read(self: &Arc<Self>, cx: &Ctx, origin: &Arc<Origin>, range: Range<u64>) -> Result<Vec<Bytes>> {
        let mut patience = 1;
        'look: loop {
            let found = self.look(cx, origin, &range);
            let mut bytes = Vec::with_capacity(found.len());
            for part in found {
                match part {
                    Found::Have(part) => {
                        self.cached.add(part.len() as u64);
                        bytes.push(part);
                    }
                    Found::Claimed(flight, wanted) => bytes.extend(flight.bytes(cx, wanted).await?),
                    Found::Flying(flight, wanted) => match flight.bytes(cx, wanted).await {
                        Ok(part) => bytes.extend(part),
                        // Difficulty 4.
                        Err(Error::NoProgress(late)) if cx.remaining().is_zero() => return Err(late.into()),
                        Err(_) if patience > 0 => {
                            patience -= 1;
                            continue 'look;
                        }
                        Err(error) => return Err(error),
                    },
                }
            }
            return Ok(bytes);
        }
    }

    /// Asks for `range` ahead of need, as far as idle memory goes.
    pub(crate) fn ahead(self: &Arc<Self>, cx: &Ctx, origin: &Arc<Origin>, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            // Requests end at multiples of their size, so that the next window begins with a whole one.
            let stop = range.end.min((at / self.largest_request + 1) * self.largest_request);
            if self.ahead.load(Ordering::Relaxed) + (stop - at) > self.budget.idle() / 2 {
                return;
            }
            let claimed = self.find(origin, &(at..stop)).into_iter().filter_map(|found| match found {
                Found::Claimed(flight, _) => Some(flight),
                _ => None,
            });
            for flights in requests(claimed, self.largest_request) {
                let len = length(&flights);
                self.ahead.fetch_add(len, Ordering::Relaxed);
                self.start(cx.detached(Urgency::Prefetch), origin, flights, Some(Ahead(Arc::clone(self), len)));
            }
            at = stop;
        }
        self.trim();
    }

    /// Adds committed bytes that begin at `at` and follow one another: whole sectors of them, or up to the object's end.
    pub(crate) fn keep(&self, tag: Tag, size: u64, at: u64, bytes: &[Bytes]) {
        let stop = at + bytes.iter().map(|part| part.len() as u64).sum::<u64>();
        let stop = if stop == size { stop } else { stop / SECTOR * SECTOR };
        let mut skip = at.next_multiple_of(SECTOR) - at;
        let mut from = at + skip;
        let mut parts = bytes.iter();
        let mut part: &[u8] = &[];
        while from < stop {
            let end = stop.min((from / BLOCK + 1) * BLOCK);
            // A copy: the buffers belong to the dirty share and are about to leave it.
            let mut block = BytesMut::with_capacity(size_of(end - from));
            while block.len() < size_of(end - from) {
                if part.is_empty() {
                    let Some(next) = parts.next() else { return };
                    part = next;
                }
                let passed = part.len().min(size_of(skip));
                skip -= passed as u64;
                part = &part[passed..];
                let taken = part.len().min(size_of(end - from) - block.len());
                block.extend_from_slice(&part[..taken]);
                part = &part[taken..];
            }
            self.memory.insert(BlockKey { tag, index: from / BLOCK }, in_block(from), block.freeze());
            from = end;
        }
        self.trim();
    }

    /// Lets cached blocks give way to what is reserved.
    pub(crate) fn trim(&self) {
        self.memory.trim(self.budget.idle().saturating_sub(self.ahead.load(Ordering::Relaxed)));
    }

    /// What there is of `range`; what is missing is being fetched when this returns.
    fn look(self: &Arc<Self>, cx: &Ctx, origin: &Arc<Origin>, range: &Range<u64>) -> Vec<Found> {
        let found = self.find(origin, range);
        let claimed = found.iter().filter_map(|found| match found {
            Found::Claimed(flight, _) => Some(Arc::clone(flight)),
            _ => None,
        });
        for flights in requests(claimed, self.largest_request) {
            self.start(cx.clone(), origin, flights, None);
        }
        found
    }

    fn find(&self, origin: &Origin, range: &Range<u64>) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let index = at / BLOCK;
            let start = index * BLOCK;
            let len = (origin.version.size - start).min(BLOCK);
            let stop = range.end.min(start + BLOCK);
            let wanted = in_block(at)..u32::try_from(stop - start).unwrap_or(0);
            found.extend(self.memory.look(BlockKey { tag: origin.tag, index }, wanted, u32::try_from(len).unwrap_or(0)));
            at = stop;
        }
        found
    }

    fn start(self: &Arc<Self>, cx: Ctx, origin: &Arc<Origin>, flights: Vec<Arc<Flight>>, ahead: Option<Ahead>) {
        let given_up = store::Error::new(Kind::Unavailable, "GET Object", "the fetch was given up").on(&origin.version.key);
        let mut landing = Landing { blocks: Arc::clone(self), flights, error: Error::Store(given_up) };
        let (blocks, origin) = (Arc::clone(self), Arc::clone(origin));
        self.tasks.spawn(async move {
            let len = length(&landing.flights);
            let result = async {
                // Difficulty 3.
                let _reserved = match &ahead {
                    None => Some(blocks.budget.reserve(&cx, Share::Read, len).await?),
                    Some(_) => None,
                };
                blocks.trim();
                blocks.fetch(&cx, &origin, &mut landing).await
            };
            if let Err(error) = result.await {
                landing.fail_with(error);
            }
        });
    }

    /// Fetches the flights, which are neighbours, with one request.
    async fn fetch(&self, cx: &Ctx, origin: &Origin, landing: &mut Landing) -> Result<()> {
        let Some(first) = landing.flights.first() else { return Ok(()) };
        let from = first.key.index * BLOCK + u64::from(first.range.start);
        let range = from..from + length(&landing.flights);
        self.requests.add(1);
        // The version may be gone by now: for the reader that is the same as being replaced.
        let gone = |error: store::Error| if error.kind() == Kind::NotFound { Error::Stale } else { error.into() };
        let mut body = origin.bucket.get(cx, &origin.version, range).await.map_err(gone)?;
        let mut rest = Bytes::new();
        while let Some(flight) = landing.flights.first() {
            let len = flight.range.end - flight.range.start;
            let mut buffer = BytesMut::with_capacity(len as usize);
            while flight.upto() < flight.range.end {
                if rest.is_empty() {
                    let Some(next) = body.next().await.transpose().map_err(gone)? else { return Ok(()) };
                    self.fetched.add(next.len() as u64);
                    rest = next;
                }
                let at = flight.upto();
                let border = flight.range.end.min((at / PUBLISHED + 1) * PUBLISHED);
                let missing = (border - at) as usize - buffer.len();
                buffer.extend_from_slice(&rest.split_to(missing.min(rest.len())));
                if buffer.len() == (border - at) as usize {
                    self.memory.arrived(flight, buffer.split().freeze());
                }
            }
            let flight = landing.flights.remove(0);
            self.memory.landed(&flight, &landing.error);
            self.trim();
        }
        Ok(())
    }
}

/// Groups claims, which ascend, into requests for neighbours.
fn requests(claimed: impl Iterator<Item = Arc<Flight>>, most: u64) -> Vec<Vec<Arc<Flight>>> {
    let mut requests: Vec<Vec<Arc<Flight>>> = Vec::new();
    for flight in claimed {
        let start = flight.key.index * BLOCK + u64::from(flight.range.start);
        match requests.last_mut() {
            Some(group) if end(group) == start && length(group) < most => group.push(flight),
            _ => requests.push(vec![flight]),
        }
    }
    requests
}

fn end(flights: &[Arc<Flight>]) -> u64 {
    flights.last().map_or(0, |flight| flight.key.index * BLOCK + u64::from(flight.range.end))
}

fn length(flights: &[Arc<Flight>]) -> u64 {
    flights.iter().map(|flight| u64::from(flight.range.end - flight.range.start)).sum()
}

fn in_block(at: u64) -> u32 {
    u32::try_from(at % BLOCK).unwrap_or(0)
}

fn size_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
