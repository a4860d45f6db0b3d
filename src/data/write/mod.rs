//! The write path: what a file has that its base has not, how that leaves, and what happens when memory is short.
//!
//! [`Content`] is one file's bytes, [`Room`] what all files of a mount share. Extents take what is written; `stream` sends full parts of a file
//! while it is still being written, as many at once as `pace` finds best; `commit` makes the rest the object by `plan` and `upload`; `pressure` spills to `staging`;
//! `lent` knows what files refer to of other objects, `zeros` keeps what long holes are copied from.
//!
//! Two async locks per file: its gate (in `file.rs`) and [`Content::commits`]. Everything else is in [`State`] under a short lock. What is dropped
//! under it (the last extent of a staged file, an upload given up) takes the short locks of staging, of the buffer pool and of the task group, which take none.
//!
//! Outside the budget are the nodes of the extent maps: about 100 bytes an extent, 25 MiB for each GiB that was written in random pieces of 4 KiB.

mod commit;
mod extents;
mod lent;
mod pace;
mod plan;
mod pressure;
mod staging;
mod stream;
mod upload;
mod zeros;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::data::{
    Committed, Config, Defect, Error, Result,
    cache::Tag,
    read::{Blocks, Origin},
};

use crate::local::{Disk, Ledger};

use crate::store::{Bucket, CommitToken, Meta, ObjectVersion};

use crate::support::{Budget, Clock, Counter, Ctx, Metrics, Share, TaskGroup};

use commit::Unsettled;
use extents::Extents;
use lent::Lent;
use pace::Pace;
use plan::Limits;
use pressure::Relief;
use staging::Staging;
use stream::Stream;
use zeros::Zeros;

pub(crate) use commit::copy_object;
pub(crate) use extents::{Held, Piece, Where};
pub use lent::Referred;
pub(crate) use staging::StagedFile;

/// What holes are shown as.
pub(crate) static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// What the files of a mount share.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) config: Config,
    pub(crate) budget: Budget,
    pub(crate) blocks: Arc<Blocks>,
    clock: Arc<dyn Clock>,
    tasks: Arc<TaskGroup>,
    staging: Option<Arc<Staging>>,
    /// Where uploads are noted that a crash would leave open.
    ledger: Option<Arc<Ledger>>,
    relief: Arc<Relief>,
    pace: Arc<Pace>,
    /// A spiller runs.
    spilling: AtomicBool,
    /// All files alive, by number.
    files: Mutex<HashMap<u64, Weak<Content>>>,
    next_file: AtomicU64,
    lent: Lent,
    /// Objects of zeros, the largest last. Held while one is made.
    zeros: tokio::sync::Mutex<Vec<Zeros>>,
    commits: Arc<Counter>,
    spilled: Arc<Counter>,
}

/// The bytes of one file.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) room: Arc<Room>,
    pub(crate) bucket: Arc<dyn Bucket>,
    number: u64,
    /// One commit at a time; also held by whoever waits for one to end.
    commits: Arc<tokio::sync::Mutex<()>>,
    /// A part of the stream was answered, or its upload opened, or either failed.
    settled: Notify,
    pub(crate) state: Mutex<State>,
}

/// What the short lock guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) extents: Extents<Arc<StagedFile>>,
    /// Where bytes come from that no extent covers. `None` while nothing was ever committed.
    pub(crate) origin: Option<Arc<Origin>>,
    pub(crate) orphan: bool,
    stream: Stream,
    /// Where the next spill goes.
    stage: Option<Arc<StagedFile>>,
    /// A spill of this file is under way.
    spilling: bool,
    /// The commit that runs: its context moves while it makes progress.
    running: Option<Ctx>,
    /// Commits begun so far.
    begun: u64,
    /// The last commit that ended, if it failed, and its number.
    failure: Option<(u64, Error)>,
    /// Versions of other objects that `Lent` knows it to refer to.
    refers: Vec<Tag>,
    /// A last request whose outcome is not known.
    unsettled: Option<Unsettled>,
    /// Tokens of writes that failed and may be there all the same: not somebody else's.
    ours: Vec<CommitToken>,
    /// What has become the base without a caller of commit being told: the next one is.
    untold: Option<Committed>,
}

impl Room {
    pub(crate) fn new(
        config: Config,
        budget: Budget,
        staging: Option<Arc<dyn Disk>>,
        ledger: Option<Arc<Ledger>>,
        clock: Arc<dyn Clock>,
        tasks: Arc<TaskGroup>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let staging = staging.map(|disk| Staging::new(disk, config.staging_limit, Arc::clone(&clock), Arc::clone(&tasks)));
        let pace = Pace::new(config.parallel_parts, config.most_parallel_parts);
        Arc::new(Self {
            blocks: Blocks::new(budget.clone(), Arc::clone(&tasks), config.largest_window, metrics),
            config,
            budget,
            clock,
            tasks,
            staging,
            ledger,
            relief: Relief::new(),
            pace,
            spilling: AtomicBool::new(false),
            files: Mutex::default(),
            next_file: AtomicU64::new(0),
            lent: Lent::default(),
            zeros: tokio::sync::Mutex::default(),
            commits: metrics.counter("commits"),
            spilled: metrics.counter("spilled_bytes"),
        })
    }

    pub(crate) fn open(self: &Arc<Self>, bucket: Arc<dyn Bucket>, base: Option<ObjectVersion>) -> Arc<Content> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        let extents = Extents::new(base.as_ref().map(|base| base.size), self.budget.clone());
        let state = State {
            extents,
            origin: base.map(|base| Origin::new(Arc::clone(&bucket), base)),
            orphan: false,
            stream: Stream::default(),
            stage: None,
            spilling: false,
            running: None,
            begun: 0,
            failure: None,
            refers: Vec::new(),
            unsettled: None,
            ours: Vec::new(),
            untold: None,
        };
        let content = Arc::new(Content {
            room: Arc::clone(self),
            bucket,
            number,
            commits: Arc::default(),
            settled: Notify::new(),
            state: Mutex::new(state),
        });
        self.files.lock().insert(number, Arc::downgrade(&content));
        content
    }

    /// How many parts are best in flight, as far as is known.
    pub(crate) fn parts_at_once(&self) -> usize {
        self.pace.allowed()
    }

    /// Bytes of all files in memory and staging.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.all().iter().map(|content| content.state.lock().extents.dirty_bytes()).sum()
    }

    /// Bytes that memory and staging could take together.
    pub(crate) fn could_take(&self) -> u64 {
        let memory = self.budget.share(Share::Dirty).saturating_sub(self.budget.used(Share::Dirty));
        memory + self.staging.as_ref().map_or(0, |staging| staging.left())
    }

    pub(crate) fn has_defect(&self, defect: Defect) -> bool {
        self.config.defect == Some(defect)
    }

    /// A mark for a write, unlike all others.
    pub(crate) fn token(&self) -> CommitToken {
        let mut chance = [0; 16];
        self.clock.chance(&mut chance);
        CommitToken::from_bytes(chance)
    }

    /// `meta` with a token of its own.
    pub(crate) fn marked(&self, meta: &Meta) -> Meta {
        Meta { token: Some(self.token()), ..meta.clone() }
    }

    /// See [`crate::data::Data::carry`].
    pub(crate) fn carry(&self, bucket: &Arc<dyn Bucket>, old: &ObjectVersion, new: &ObjectVersion, clean: &[Range<u64>]) {
        let (old, new) = (Tag::new(bucket.name(), old), Origin::new(Arc::clone(bucket), new.clone()));
        self.blocks.memory.carry(old, new.tag, new.version.size, clean);
        self.carry_lent(old, &new, clean);
    }

    fn all(&self) -> Vec<Arc<Content>> {
        self.files.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Content {
    /// Whether a commit would send anything.
    pub(crate) fn is_dirty(&self) -> bool {
        self.state.lock().is_dirty()
    }

    fn limits(&self) -> Limits {
        // What is streamed must be held until it is answered: a quarter of the dirty share at most.
        let quarter = self.room.budget.share(Share::Dirty) / 4;
        Limits::new(self.bucket.capabilities(), self.room.config.part_size.bytes().min(quarter))
    }

    /// The same bytes are under another key or version now.
    pub(crate) fn rebase(&self, version: ObjectVersion) {
        let origin = Origin::new(Arc::clone(&self.bucket), version);
        self.state.lock().origin = Some(origin);
    }

    /// Waits until no commit is under way.
    pub(crate) async fn quiet(&self, cx: &Ctx) -> Result<()> {
        self.turn(cx).await.map(drop)
    }
}

impl State {
    fn is_dirty(&self) -> bool {
        // What may have been sent may differ from the base as it is known, and so from what is here.
        !self.orphan && (self.extents.is_dirty() || self.untold.is_some() || self.unsettled.is_some())
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.room.files.lock().remove(&self.number);
        self.room.lent.given_back(&self.state.get_mut().refers, self.number);
    }
}
