//! The room as a whole, over a simulated bucket and the real data room, in virtual time.

mod files;
mod foreign;
mod kept;
mod listing;
mod names;
mod races;
mod renames;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::*;
use crate::{
    data,
    store::{
        BucketName, Capabilities, Key, Kind, Meta, Operation,
        memory::{Effect, MemoryBucket},
    },
    support::{ByteSize, SystemClock},
};

const READ: OpenFlags = OpenFlags { read: true, write: false, append: false, truncate: false, exclusive: false };
const WRITE: OpenFlags = OpenFlags { read: false, write: true, append: false, truncate: false, exclusive: false };
const BOTH: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false, exclusive: false };
const TRUNCATE: OpenFlags = OpenFlags { read: false, write: true, append: false, truncate: true, exclusive: false };
const APPEND: OpenFlags = OpenFlags { read: false, write: true, append: true, truncate: false, exclusive: false };
const EXCLUSIVE: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false, exclusive: true };
const ME: Owner = Owner(1);

/// What the kernel was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(Ino, String)>>);

impl Notify for Told {
    fn entry(&self, parent: Ino, name: &OsStr) {
        self.0.lock().push((parent, name.to_string_lossy().into_owned()));
    }

    fn inode(&self, _ino: Ino) {}
}

/// The time of day goes with virtual time, for all mounts alike.
#[derive(Debug)]
struct VirtualClock;

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        static START: OnceLock<(std::time::Instant, SystemTime)> = OnceLock::new();
        let now = Instant::now().into_std();
        let (start, wall) = START.get_or_init(|| (now, SystemClock.wall()));
        *wall + now.saturating_duration_since(*start)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        SystemClock.sleep(duration)
    }

    fn chance(&self, bytes: &mut [u8]) {
        SystemClock.chance(bytes);
    }
}

/// A mount without a kernel.
struct Setting {
    bucket: Arc<MemoryBucket>,
    vfs: Arc<Vfs>,
    told: Arc<Told>,
    tasks: Arc<TaskGroup>,
    cx: Ctx,
}

fn config() -> Config {
    Config {
        prefix: String::new(),
        mount_id: "host-1".to_owned(),
        read_only: false,
        uid: 1000,
        gid: 100,
        file_mode: 0o644,
        dir_mode: 0o755,
        consistency: Consistency::Open,
        metadata_ttl: Duration::from_secs(5),
        negative_ttl: Duration::from_secs(5),
        posix: Posix::Full,
        preserve: Preserve::Headers,
        on_conflict: OnConflict::Fail,
        exclusive_at_open: false,
        rename_limit: 10_000,
        direct_io: false,
        escape_unspellable: true,
        defect: None,
    }
}

impl Setting {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock);
        let capabilities = Capabilities { smallest_part: 64 << 10, ..Capabilities::cos() };
        let bucket = MemoryBucket::with(BucketName::parse("vfs-1250000000").unwrap(), capabilities, clock);
        Self::over(bucket, change)
    }

    /// Another mount of the same bucket.
    fn over(bucket: Arc<MemoryBucket>, change: impl FnOnce(&mut Config)) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(VirtualClock);
        let budget = Budget::new(ByteSize::mib(64));
        let tasks = Arc::new(TaskGroup::new(Handle::current()));
        let metrics = Metrics::default();
        let room = data::Config { part_size: ByteSize::kib(256), ..data::Config::default() };
        let data = Data::new(room, budget.clone(), None, None, Arc::clone(&clock), Arc::clone(&tasks), &metrics);
        let told = Arc::new(Told::default());
        let mut settings = config();
        change(&mut settings);
        let notify: Arc<dyn Notify> = Arc::clone(&told) as _;
        let dyn_bucket: Arc<dyn Bucket> = Arc::clone(&bucket) as _;
        let vfs = Vfs::new(settings, dyn_bucket, data, None, notify, budget, Arc::clone(&clock), Arc::clone(&tasks), &metrics);
        let cx = Ctx::new(clock, Duration::from_secs(90), 1, 1000);
        Self { bucket, vfs, told, tasks, cx }
    }

    fn cx(&self) -> Ctx {
        self.cx.detached(crate::support::Urgency::Demand)
    }

    fn foreign(&self, key: &str, bytes: &'static str) {
        self.bucket.put_foreign(&Key::new(key), bytes);
    }

    fn peek(&self, key: &str) -> Option<String> {
        self.bucket.peek(&Key::new(key)).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn keys(&self) -> Vec<String> {
        self.bucket.keys().iter().map(ToString::to_string).collect()
    }

    /// The inode at a path, each step looked up as the kernel does.
    async fn find(&self, path: &str) -> Result<Entry> {
        let mut entry = self.vfs.getattr(&self.cx(), Ino::ROOT, None).await?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match self.vfs.lookup(&self.cx(), entry.attr.ino, part.as_ref()).await? {
                Lookup::Found(found) => entry = found,
                Lookup::Absent(_) => return Err(Error::NotFound),
            }
        }
        Ok(entry)
    }

    async fn ino(&self, path: &str) -> Ino {
        self.find(path).await.unwrap().attr.ino
    }

    /// The directory's inode and the last name.
    async fn split<'a>(&self, path: &'a str) -> (Ino, &'a OsStr) {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.ino(directory).await, name.as_ref())
    }

    async fn open(&self, path: &str, flags: OpenFlags) -> Result<Fh> {
        let ino = self.find(path).await?.attr.ino;
        Ok(self.vfs.open(&self.cx(), ino, flags).await?.fh)
    }

    async fn create(&self, path: &str, flags: OpenFlags) -> Result<Fh> {
        let (parent, name) = self.split(path).await;
        Ok(self.vfs.create(&self.cx(), parent, name, 0o640, flags).await?.1.fh)
    }

    async fn write(&self, fh: Fh, offset: u64, bytes: &str) -> Result<u32> {
        self.vfs.write(&self.cx(), fh, offset, Bytes::copy_from_slice(bytes.as_bytes()), false, Some(ME)).await
    }

    async fn read(&self, fh: Fh) -> Result<String> {
        let pieces = self.vfs.read(&self.cx(), fh, 0, 1 << 20).await?;
        Ok(String::from_utf8(pieces.concat()).unwrap())
    }

    async fn flush(&self, fh: Fh) -> Result<()> {
        self.vfs.flush(&self.cx(), fh, ME).await
    }

    async fn close(&self, fh: Fh) -> Result<()> {
        let flushed = self.flush(fh).await;
        self.vfs.release(fh);
        flushed
    }

    /// As a shell's `printf TEXT > PATH`.
    async fn save(&self, path: &str, text: &str) -> Result<()> {
        let fh = match self.open(path, TRUNCATE).await {
            Err(Error::NotFound) => self.create(path, WRITE).await?,
            opened => opened?,
        };
        self.write(fh, 0, text).await?;
        self.close(fh).await
    }

    async fn load(&self, path: &str) -> Result<String> {
        let fh = self.open(path, READ).await?;
        let text = self.read(fh).await;
        self.vfs.release(fh);
        text
    }

    async fn mkdir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.split(path).await;
        self.vfs.mkdir(&self.cx(), parent, name, 0o750).await.map(drop)
    }

    async fn unlink(&self, path: &str) -> Result<()> {
        let (parent, name) = self.split(path).await;
        self.vfs.unlink(&self.cx(), parent, name).await
    }

    async fn rmdir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.split(path).await;
        self.vfs.rmdir(&self.cx(), parent, name).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.split(from).await, self.split(to).await);
        self.vfs.rename(&self.cx(), from, to, RenameMode::Replace).await
    }

    async fn list(&self, path: &str) -> Vec<String> {
        self.entries(path, usize::MAX, false).await.into_iter().map(|entry| entry.name).collect()
    }

    /// Everything an open directory has, with `.` and `..`.
    async fn read_to_end(&self, fh: Fh) -> Vec<Seen> {
        let mut all: Vec<Seen> = Vec::new();
        loop {
            let mut sink = Sink { room: usize::MAX, seen: Vec::new() };
            self.vfs.readdir(&self.cx(), fh, all.last().map_or(0, |entry| entry.next), false, &mut sink).await.unwrap();
            if sink.seen.is_empty() {
                return all;
            }
            all.append(&mut sink.seen);
        }
    }

    /// Everything in a directory, `at_once` entries a request, without `.` and `..`.
    async fn entries(&self, path: &str, at_once: usize, plus: bool) -> Vec<Seen> {
        let ino = self.ino(path).await;
        let fh = self.vfs.opendir(&self.cx(), ino).await.unwrap();
        let mut all: Vec<Seen> = Vec::new();
        loop {
            let mut sink = Sink { room: at_once, seen: Vec::new() };
            let offset = all.last().map_or(0, |entry| entry.next);
            self.vfs.readdir(&self.cx(), fh, offset, plus, &mut sink).await.unwrap();
            if sink.seen.is_empty() {
                break;
            }
            all.append(&mut sink.seen);
        }
        self.vfs.releasedir(fh);
        all.into_iter().filter(|entry| entry.name != "." && entry.name != "..").collect()
    }

    /// Waits until no task runs.
    async fn idle(&self) {
        while !self.tasks.is_empty() {
            self.cx.clock().sleep(Duration::from_millis(1)).await;
        }
    }

    async fn pass(&self, seconds: u64) {
        self.cx.clock().sleep(Duration::from_secs(seconds)).await;
    }

    fn requests(&self) -> BTreeMap<Operation, u64> {
        Operation::ALL.into_iter().map(|operation| (operation, self.bucket.requests(operation))).filter(|(_, n)| *n > 0).collect()
    }

    fn check(&self) {
        self.vfs.names.lock().tree.check_invariants();
    }
}

/// A directory entry as it was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    ino: Ino,
    kind: Option<FileKind>,
    next: u64,
    entry: Option<Entry>,
}

/// A reply that takes so many entries.
struct Sink {
    room: usize,
    seen: Vec<Seen>,
}

impl DirSink for Sink {
    fn push(&mut self, entry: &DirEntry<'_>) -> Pushed {
        if self.seen.len() == self.room {
            return Pushed::Full;
        }
        let DirEntry { name, ino, kind, next, entry } = *entry;
        self.seen.push(Seen { name: name.to_str().unwrap().to_owned(), ino, kind, next, entry });
        Pushed::Taken
    }
}
