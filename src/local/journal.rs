//! An append-only log: what a mount must know after a crash.
//!
//! Records are opaque bytes; the journal keeps their order and says what of them survived. What is not trivial:
//! 1. *Group commit.* [`Journal::append`] queues at the call and is durable when its future ends. While one fdatasync runs, all that arrive
//!    wait for the next one together. The queue is worked off by a task, so a dropped caller leaves no half-written state.
//! 2. *A crash.* Only the last batch can be torn, because a batch is written when the one before is durable. Each frame says where its batch
//!    begins; what follows a hole in the last batch is dropped, so replay yields a prefix that has every acknowledged record.
//! 3. *Bit rot.* A hole before the last batch was durable once. It is reported ([`Replay::damaged`]), and the records behind it are found by
//!    their mark and kept: one flipped bit costs one record.
//! 4. *A failed write* may leave frames behind the end. Their numbers are not used again, and numbers must rise, so they cannot come back
//!    behind later records. After a failed sync nothing is known of the file; only [`Journal::compact`], a new file, heals that.
//! 5. *Compaction* takes its place in the queue at the call, so a caller that changes its state and appends under one lock, and takes its
//!    snapshot and calls `compact` under the same lock, loses nothing.
//!
//! The first two frames hold the identity of whose journal this is; another's is not replayed. Guarantee L1 of the architecture.

use std::{
    fs::File,
    future::Future,
    io::{self, Read},
    ops::Range,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::oneshot};

use super::disk::{Disk, DiskFile};
use crate::support::TaskGroup;

mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use frame::{Frame, MAX_RECORD, encode, scan};

/// An open journal. Appends and compactions may come from many tasks at once.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    /// The one task that works off the queue, while there is something in it.
    writer: TaskGroup,
}

/// What a journal held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The records, oldest first.
    pub records: Vec<Bytes>,
    /// Bytes dropped at the end: what was being written at a crash, acknowledged to nobody.
    pub torn: u64,
    /// What was durable and cannot be read any more. Reported at every replay until the journal is compacted.
    pub damaged: Vec<Damage>,
}

/// A damaged place: one record, or neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// How many of the replayed records come before it.
    pub after: usize,
    /// Where it is in the file.
    pub span: Range<u64>,
}

/// Why a journal cannot be opened or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// It belongs to another bucket, endpoint or prefix.
    #[error("the journal {name} belongs to {found:?}, not to {expected:?}")]
    Foreign {
        /// The journal's file.
        name: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// It does not say whose it is, so nothing in it can be used.
    #[error("the journal {0} is damaged at its beginning, or was not written by cosmount: move it away to mount without it")]
    Unreadable(String),
    /// A record of this many bytes is refused.
    #[error("a journal record of {0} bytes is too long")]
    TooLong(usize),
    /// The disk refused. The record may or may not be replayed.
    #[error("cannot write the journal: {0}")]
    Io(Arc<io::Error>),
    /// The task that writes is gone: the runtime is shutting down.
    #[error("the journal is closed")]
    Closed,
}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Becomes ready when what it stands for is durable, or cannot be made so. To drop it changes nothing.
#[derive(Debug)]
#[must_use = "nothing is durable before this future ends"]
pub struct Durable(oneshot::Receiver<Result<(), JournalError>>);

impl Future for Durable {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(JournalError::Closed)))
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The file's size, for who decides when to compact.
    size: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    items: Vec<Item>,
    /// The open log, unless the writer has it.
    log: Option<Log>,
}

#[derive(Debug)]
struct Item {
    work: Work,
    done: oneshot::Sender<Result<(), JournalError>>,
}

#[derive(Debug)]
enum Work {
    Append(Vec<u8>),
    Compact(Vec<Vec<u8>>),
}

impl Journal {
    /// Opens the journal `name`, or begins it. `identity` says whose it is. A torn tail is cut off before this returns. Must be called within
    /// a tokio runtime, whose tasks then write.
    ///
    /// # Errors
    /// [`JournalError::Foreign`] and [`JournalError::Unreadable`] leave the file as it is.
    pub async fn open(disk: Arc<dyn Disk>, name: &str, identity: &str) -> Result<(Self, Replay), JournalError> {
        let file = match disk.open(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.replace(name, head(identity)?.into()).await?;
                disk.open(name).await?
            }
            file => file?,
        };
        let size = file.len().await?;
        if size > LONGEST {
            // Not ours: it is not even read.
            return Err(JournalError::Unreadable(name.to_owned()));
        }
        let bytes = file.read_at(0..size).await?;
        let (replay, end, next) = replay(&bytes, name, identity)?;
        if end < size {
            file.set_len(end).await?;
            file.sync().await?;
        }
        let mut log = Log { disk, name: name.to_owned(), identity: identity.to_owned(), file, end, next, broken: None };
        if end < size && !replay.damaged.is_empty() {
            // What was torn proved that the damage is older than the last batch (2). Without it the next replay would take the one for the other.
            let live: Vec<_> = replay.records.iter().map(|record| record.to_vec()).collect();
            log.rewrite(&live).await?;
        }
        let end = log.end;
        let shared = Shared { queue: Mutex::new(Queue { items: Vec::new(), log: Some(log) }), size: AtomicU64::new(end) };
        Ok((Self { shared: Arc::new(shared), writer: TaskGroup::new(Handle::current()) }, replay))
    }

    /// The records of the journal at `path` as they are now, also while it is somebody's; none if there is no such file.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn peek(path: &Path, identity: &str) -> Result<Vec<Bytes>, JournalError> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(LONGEST).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        Ok(replay(&bytes.into(), &path.to_string_lossy(), identity)?.0.records)
    }

    /// Queues `record` behind everything queued before. Durable when the future ends well.
    pub fn append(&self, record: Vec<u8>) -> Durable {
        self.enqueue(Work::Append(record))
    }

    /// Replaces everything queued or written before this call by `live`, in a new file that appears whole. If that fails, the old records
    /// stay.
    pub fn compact(&self, live: Vec<Vec<u8>>) -> Durable {
        self.enqueue(Work::Compact(live))
    }

    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        self.shared.size.load(Ordering::Relaxed)
    }

    fn enqueue(&self, work: Work) -> Durable {
        let (done, durable) = oneshot::channel();
        let longest = match &work {
            Work::Append(record) => record.len(),
            Work::Compact(live) => live.iter().map(Vec::len).max().unwrap_or(0),
        };
        if longest > MAX_RECORD {
            // The receiver is in hand, so there is nobody else to tell.
            drop(done.send(Err(JournalError::TooLong(longest))));
            return Durable(durable);
        }
        let mut queue = self.shared.queue.lock();
        queue.items.push(Item { work, done });
        if let Some(log) = queue.log.take() {
            drop(queue);
            self.writer.spawn(write(Writing { shared: Arc::clone(&self.shared), log: Some(log) }));
        }
        Durable(durable)
    }
}

/// Works off the queue until it is empty, then puts the log back.
async fn write(mut writing: Writing) {
    while let Some((items, log)) = writing.next() {
        log.process(items).await;
        let size = log.end;
        writing.shared.size.store(size, Ordering::Relaxed);
    }
}

/// Has the log while the writer runs. If the writer is dropped before it has put the log back, nobody waits for it in vain.
#[derive(Debug)]
struct Writing {
    shared: Arc<Shared>,
    log: Option<Log>,
}

impl Writing {
    fn next(&mut self) -> Option<(Vec<Item>, &mut Log)> {
        let mut queue = self.shared.queue.lock();
        if queue.items.is_empty() {
            queue.log = self.log.take();
            return None;
        }
        Some((std::mem::take(&mut queue.items), self.log.as_mut()?))
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.log.is_some() {
            self.shared.queue.lock().items.clear();
        }
    }
}

/// The file behind the journal.
#[derive(Debug)]
struct Log {
    disk: Arc<dyn Disk>,
    name: String,
    identity: String,
    file: Arc<dyn DiskFile>,
    /// Where the next batch begins. Invariant: everything before it is durable.
    end: u64,
    /// The next frame's number. Invariant: greater than any ever written to this file.
    next: u64,
    /// Set by a failed sync.
    broken: Option<JournalError>,
}

impl Log {
    async fn process(&mut self, mut items: Vec<Item>) {
        // The last compaction stands for everything before it, if it succeeds.
        while let Some((at, live)) = items.iter().enumerate().rev().find_map(|(at, item)| Some((at, item.work.live()?))) {
            let outcome = self.rewrite(live).await;
            if outcome.is_ok() {
                items.drain(..=at).for_each(|item| item.finish(Ok(())));
                break;
            }
            items.remove(at).finish(outcome);
        }
        if !items.is_empty() {
            let outcome = self.write(&items).await;
            items.into_iter().for_each(|item| item.finish(outcome.clone()));
        }
    }

    async fn write(&mut self, items: &[Item]) -> Result<(), JournalError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let mut batch = Vec::new();
        for item in items {
            if let Work::Append(record) = &item.work {
                encode(&mut batch, self.next, self.end, record);
                self.next += 1;
            }
        }
        let size = batch.len() as u64;
        if let Err(error) = self.file.write_at(self.end, batch.into()).await {
            // Not needed for a correct replay (4), only so that less of what failed comes back.
            drop(self.file.set_len(self.end).await);
            return Err(error.into());
        }
        if let Err(error) = self.file.sync().await {
            let error = JournalError::from(error);
            self.broken = Some(error.clone());
            return Err(error);
        }
        self.end += size;
        Ok(())
    }

    async fn rewrite(&mut self, live: &[Vec<u8>]) -> Result<(), JournalError> {
        let mut bytes = head(&self.identity)?;
        let mut next = HEADS;
        for record in live {
            // Each a batch of its own: all of them are durable before anything is appended.
            let at = bytes.len() as u64;
            encode(&mut bytes, next, at, record);
            next += 1;
        }
        let end = bytes.len() as u64;
        self.disk.replace(&self.name, bytes.into()).await?;
        // The old file has no name any more: without the new one nothing written would be found again.
        match self.disk.open(&self.name).await {
            Ok(file) => self.file = file,
            Err(error) => {
                let error = JournalError::from(error);
                self.broken = Some(error.clone());
                return Err(error);
            }
        }
        (self.end, self.next, self.broken) = (end, next, None);
        Ok(())
    }
}

impl Work {
    fn live(&self) -> Option<&[Vec<u8>]> {
        match self {
            Self::Compact(live) => Some(live),
            Self::Append(_) => None,
        }
    }
}

impl Item {
    fn finish(self, outcome: Result<(), JournalError>) {
        // Who has dropped the future does not want to know.
        drop(self.done.send(outcome));
    }
}

/// A journal is compacted long before it is this long.
const LONGEST: u64 = 256 << 20;

/// How often the identity is written, so that one damaged place cannot make the journal nobody's.
const HEADS: u64 = 2;

/// Precedes the identity; another layout of the file gets another number.
const FORMAT: &[u8] = b"cosmount journal 1\n";

fn head(identity: &str) -> Result<Vec<u8>, JournalError> {
    let record = [FORMAT, identity.as_bytes()].concat();
    if record.len() > MAX_RECORD {
        return Err(JournalError::TooLong(record.len()));
    }
    let mut bytes = Vec::new();
    for number in 0..HEADS {
        let at = bytes.len() as u64;
        encode(&mut bytes, number, at, &record);
    }
    Ok(bytes)
}

/// What `bytes` say: the records, where the next one goes, and its number.
fn replay(bytes: &Bytes, name: &str, identity: &str) -> Result<(Replay, u64, u64), JournalError> {
    let frames = scan(bytes).ok_or_else(|| JournalError::Unreadable(name.to_owned()))?;
    let heads = frames.iter().take_while(|frame| frame.number < HEADS).count();
    let found = frames.first().filter(|_| heads > 0).and_then(|frame| bytes.get(frame.record.clone())?.strip_prefix(FORMAT));
    let found = found.ok_or_else(|| JournalError::Unreadable(name.to_owned()))?;
    if found != identity.as_bytes() {
        let found = String::from_utf8_lossy(found).into_owned();
        return Err(JournalError::Foreign { name: name.to_owned(), found, expected: identity.to_owned() });
    }
    // Everything before the last batch was durable when that was written (2).
    let last_batch = frames.last().map_or(0, |frame| frame.batch);
    let mut replay = Replay::default();
    let mut end = 0;
    let mut next = HEADS;
    for (at, frame) in frames.iter().enumerate() {
        let Frame { span, record, number, .. } = frame;
        if span.start > end {
            if end >= last_batch {
                break;
            }
            replay.damaged.push(Damage { after: replay.records.len(), span: end..span.start });
        }
        if at >= heads {
            replay.records.push(bytes.slice(record.clone()));
        }
        end = span.end;
        next = next.max(number + 1);
    }
    if end == 0 {
        // Cut there, it would be nobody's.
        return Err(JournalError::Unreadable(name.to_owned()));
    }
    replay.torn = bytes.len() as u64 - end;
    Ok((replay, end, next))
}
