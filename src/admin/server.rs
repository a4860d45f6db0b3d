//! The side that answers.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use futures_util::{
    FutureExt, StreamExt,
    stream::{self, FuturesUnordered},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{File, Memory, OnConflict, Outcome, Progress, Reason, RefusedChange, Reply, Request, Stats};

use crate::support::{Budget, Clock, Ctx, Metrics, Share, TaskGroup, Urgency};

use crate::vfs::{self, Ino, PendingCounts, Unsent, Vfs};

/// Connections that are answered at once; others wait.
const MOST_AT_ONCE: usize = 16;
/// No question is longer: a path, escaped.
const LONGEST_QUESTION: u64 = 64 << 10;
/// In this time a question must have come, and each line of its answer been taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the progress of a sync is told.
const PROGRESS: Duration = Duration::from_millis(250);
/// Files that a sync sends at once.
const SENT_AT_ONCE: usize = 16;

/// What is asked about.
#[derive(Debug)]
pub struct Inside {
    /// The mount's user, who may ask; root may, too.
    pub uid: u32,
    /// Its files.
    pub vfs: Arc<Vfs>,
    /// Its memory.
    pub budget: Budget,
    /// What was asked of COS.
    pub metrics: Arc<Metrics>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// How long a file that is sent goes on without progress.
    pub patience: Duration,
    /// What a program sees of an error.
    pub errno: fn(&vfs::Error) -> String,
}

/// While it lives, questions are answered.
#[derive(Debug)]
pub struct Door {
    _open: oneshot::Sender<()>,
}

/// Answers questions that come through a new socket at `path`, until the door is dropped. Must be called within a tokio runtime.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, inside: Inside, tasks: &TaskGroup) -> io::Result<Door> {
    // Of a process that had our number and died.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let (open, closed) = oneshot::channel();
    tasks.spawn(answer_all(listener, Arc::new(inside), closed));
    Ok(Door { _open: open })
}

async fn answer_all(listener: UnixListener, inside: Arc<Inside>, mut closed: oneshot::Receiver<()>) {
    let mut talks = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = &mut closed => return,
            accepted = listener.accept(), if talks.len() < MOST_AT_ONCE => match accepted {
                Ok((stream, _)) => talks.push(talk(&inside, stream)),
                Err(error) => {
                    tracing::debug!(%error, "a question was not accepted");
                    // Out of descriptors, as a rule.
                    inside.clock.sleep(PROGRESS).await;
                }
            },
            Some(talked) = talks.next(), if !talks.is_empty() => {
                if let Err(error) = talked {
                    tracing::debug!(%error, "a question could not be answered");
                }
            }
        }
    }
}

/// One connection: a question and its answer.
async fn talk(inside: &Inside, stream: UnixStream) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, write) = stream.into_split();
    let mut answer = Answer { inside, write };
    if uid != inside.uid && uid != 0 {
        return answer.say(&Reply::Refused("this mount answers the user who mounted it, and root".to_owned())).await;
    }
    let mut line = String::new();
    let mut question = BufReader::new(read.take(LONGEST_QUESTION));
    inside.within(question.read_line(&mut line)).await?;
    match serde_json::from_str(&line) {
        Ok(Request::Stats) => answer.stats().await,
        Ok(Request::Sync { below, on_conflict }) => answer.sync(&below, on_conflict).await,
        Err(error) => answer.say(&Reply::Refused(format!("this mount does not understand the question: {error}"))).await,
    }
}

impl Inside {
    /// What takes longer than it may is an error.
    async fn within<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            done = work => done,
            () = self.clock.sleep(PATIENCE) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn file(&self, unsent: Unsent) -> File {
        let reason = unsent.reason.as_ref().map(|error| {
            let refusal = error.refusal();
            Reason {
                errno: (self.errno)(error),
                text: error.to_string(),
                code: refusal.and_then(|refusal| refusal.code).map(str::to_owned),
                status: refusal.and_then(|refusal| refusal.status),
                request_id: refusal.and_then(|refusal| refusal.request_id).map(str::to_owned),
            }
        });
        File {
            bytes: unsent.bytes(),
            lost: unsent.lost,
            memory: unsent.memory,
            staged: unsent.staged,
            uploaded: unsent.uploaded,
            since: unsent.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            reason,
            next_try: unsent.next.map(|next| next.as_secs()),
            path: unsent.path,
        }
    }

    fn memory(&self) -> Memory {
        let used = |share| self.budget.used(share);
        Memory {
            limit: self.budget.limit(),
            reading: used(Share::Read),
            committing: used(Share::Commit),
            names: used(Share::Names),
            dirty: used(Share::Dirty),
            dirty_limit: self.budget.share(Share::Dirty),
            idle: self.budget.idle(),
        }
    }
}

/// An answer under way.
struct Answer<'a> {
    inside: &'a Inside,
    write: tokio::net::unix::OwnedWriteHalf,
}

impl Answer<'_> {
    async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        let line = serde_json::to_string(reply)? + "\n";
        self.inside.within(self.write.write_all(line.as_bytes())).await
    }

    async fn stats(&mut self) -> io::Result<()> {
        let (mut files, mut bytes) = (0, 0);
        for unsent in self.inside.vfs.unsent() {
            files += 1;
            bytes += unsent.bytes();
            self.say(&Reply::File(self.inside.file(unsent))).await?;
        }
        let counters = self.inside.metrics.snapshot().into_iter().filter(|(_, value)| *value > 0);
        let counters = counters.map(|(name, value)| (name.to_owned(), value)).collect();
        let vfs::PendingCounts { deletes: removals, attributes, .. } = self.inside.vfs.pending();
        for vfs::Refused { key, what, why } in self.inside.vfs.refused() {
            self.say(&Reply::RefusedChange(RefusedChange { key, what: what.to_owned(), text: why })).await?;
        }
        self.say(&Reply::Stats(Stats { files, bytes, removals, attributes, memory: self.inside.memory(), counters })).await
    }

    /// Sends what is below a path. Who asked may go: what has begun goes on without them.
    async fn sync(&mut self, below: &str, on_conflict: Option<OnConflict>) -> io::Result<()> {
        let Inside { vfs, clock, patience, metrics, .. } = self.inside;
        let there = || vfs.unsent().into_iter().filter(|unsent| Path::new(&unsent.path).starts_with(below));
        let all: Vec<Unsent> = there().collect();
        let PendingCounts { deletes, attributes, refused } = vfs.pending();
        let pending = usize::from(deletes + attributes > 0);
        let mut progress = Progress { files: all.len() + pending, bytes: all.iter().map(Unsent::bytes).sum(), ..Progress::default() };
        let sent = metrics.counter("store_bytes_sent");
        let (before, mut arrived) = (sent.value(), 0);
        let send = |unsent: Unsent| {
            let cx = Ctx::background(Arc::clone(clock), *patience).with_urgency(Urgency::WriteOut);
            async move { (unsent.bytes(), vfs.send(&cx, unsent.ino, on_conflict.map(Into::into)).await) }.boxed()
        };
        // Removals and attributes, all together, count as one file.
        let cx = Ctx::background(Arc::clone(clock), *patience).with_urgency(Urgency::WriteOut);
        let unsettled = AtomicBool::new(false);
        let unsent = &unsettled;
        let settle = async move {
            let settled = vfs.settle(&cx, Ino::ROOT).await;
            unsent.store(settled.is_err(), Ordering::Relaxed);
            (0, settled)
        };
        let settle = settle.boxed();
        let sends: Vec<_> = all.into_iter().map(send).chain([settle].into_iter().take(pending)).collect();
        let mut sending = stream::iter(sends).buffer_unordered(SENT_AT_ONCE);
        loop {
            // Others may write meanwhile: what left is no more than what there was.
            progress.bytes_done = (sent.value() - before).min(progress.bytes).max(arrived);
            self.say(&Reply::Progress(progress)).await?;
            let tick = clock.sleep(PROGRESS);
            tokio::pin!(tick);
            let over = loop {
                tokio::select! {
                    done = sending.next() => match done {
                        None => break true,
                        Some((bytes, Ok(()))) => (arrived, progress.files_done) = (arrived + bytes, progress.files_done + 1),
                        Some((_, Err(_))) => (progress.failed, progress.files_done) = (progress.failed + 1, progress.files_done + 1),
                    },
                    () = &mut tick => break false,
                }
            };
            if over {
                break;
            }
        }
        drop(sending);
        for unsent in there() {
            self.say(&Reply::File(self.inside.file(unsent))).await?;
        }
        let now = vfs.pending();
        // What programs have removed since is none of this.
        let pending = if unsettled.into_inner() { now.deletes + now.attributes } else { 0 };
        self.say(&Reply::Done(Outcome { pending, refused: now.refused - refused })).await
    }
}
