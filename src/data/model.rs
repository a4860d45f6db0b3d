//! Random operations on a file, with failing requests in between, against a plain buffer; and on another, of which ranges are copied.
//!
//! The limits are scaled down (parts of 4 KiB, a budget of 256 KiB), so that a few dozen steps stream, spill, edit, fail and settle. Nothing that
//! was acknowledged may be missing, nothing may show that was not written, and once the store works everything becomes the object.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

use crate::local::SimDisk;

use crate::store::{
    BucketName, Capabilities, Kind, Operation,
    memory::{Effect, MemoryBucket},
};

use crate::support::{Share, SystemClock};

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize),
    Append(usize),
    Pour(usize),
    Truncate(u64),
    Read(u64, u64),
    Commit,
    /// At an offset, so many bytes of the other file from an offset on.
    Copy(u64, u64, u64),
    CopyAll,
    EditOther(u64, usize),
    CutOther(u64),
    CommitOther,
    Punch(u64, u64),
    Fail(Operation, Kind, Effect),
    Stream(bool),
    Forget,
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        Just(Operation::Put),
        Just(Operation::UploadPart),
        Just(Operation::CreateUpload),
        Just(Operation::CopyPart),
        Just(Operation::CompleteUpload),
        Just(Operation::Head),
        Just(Operation::Copy),
        Just(Operation::Get),
    ];
    let effect = prop_oneof![Just(Effect::Refused), Just(Effect::LostBefore), Just(Effect::LostAfter)];
    prop_oneof![
        5 => (0..150_000u64, 1..20_000usize).prop_map(|(at, len)| Step::Write(at, len)),
        3 => (1..9000usize).prop_map(Step::Append),
        3 => (1..90_000usize).prop_map(Step::Pour),
        2 => prop_oneof![Just(0), 0..200_000u64].prop_map(Step::Truncate),
        4 => (0..200_000u64, 1..60_000u64).prop_map(|(at, len)| Step::Read(at, len)),
        3 => Just(Step::Commit),
        3 => (0..100_000u64, 1..60_000u64, 0..80_000u64).prop_map(|(at, len, from)| Step::Copy(at, len, from)),
        1 => Just(Step::CopyAll),
        1 => (0..90_000u64, 1..9000usize).prop_map(|(at, len)| Step::EditOther(at, len)),
        1 => (0..90_000u64).prop_map(Step::CutOther),
        2 => Just(Step::CommitOther),
        1 => (0..150_000u64, 1..40_000u64).prop_map(|(at, len)| Step::Punch(at, len)),
        2 => (operation, effect).prop_map(|(operation, effect)| Step::Fail(operation, Kind::Unavailable, effect)),
        2 => any::<bool>().prop_map(Step::Stream),
        1 => Just(Step::Forget),
        2 => Just(Step::Rest),
    ]
}

struct Model {
    bucket: Arc<MemoryBucket>,
    data: Arc<Data>,
    tasks: Arc<TaskGroup>,
    budget: Budget,
    disk: Arc<SimDisk>,
    file: Arc<File>,
    reader: Reader,
    clock: Arc<dyn Clock>,
    bytes: Vec<u8>,
    /// What the caller believes to be in the bucket.
    known: Option<ObjectVersion>,
    other: Arc<File>,
    other_bytes: Vec<u8>,
    mark: u8,
}

impl Model {
    fn new(base: Option<usize>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let capabilities = Capabilities { smallest_part: 4 << 10, largest_part: 64 << 10, most_parts: 40, ..Capabilities::cos() };
        let bucket = MemoryBucket::with(BucketName::parse("model-1250000000").unwrap(), capabilities, Arc::clone(&clock));
        bucket.set_latency(Duration::from_millis(20));
        let budget = Budget::new(ByteSize::kib(256));
        let tasks = Arc::new(TaskGroup::new(tokio::runtime::Handle::current()));
        let disk = Arc::new(SimDisk::new());
        let config = Config { part_size: ByteSize::kib(16), parallel_parts: 2, ..Config::default() };
        let staging: Option<Arc<dyn Disk>> = Some(Arc::clone(&disk) as Arc<dyn Disk>);
        let data = Data::new(config, budget.clone(), staging, None, Arc::clone(&clock), Arc::clone(&tasks), &Metrics::default());
        let bytes: Vec<u8> = (0..base.unwrap_or(0)).map(|at| 100 + (at / 11 % 100) as u8).collect();
        let known = base.map(|_| bucket.put_foreign(&Key::new("a"), bytes.clone()));
        let file = data.open(Arc::clone(&bucket) as Arc<dyn Bucket>, known.clone());
        let reader = file.reader();
        let other_bytes: Vec<u8> = (0..70_000).map(|at| 200 + (at / 13 % 50) as u8).collect();
        let version = bucket.put_foreign(&Key::new("b"), other_bytes.clone());
        let other = data.open(Arc::clone(&bucket) as Arc<dyn Bucket>, Some(version));
        Self { other, other_bytes, bucket, data, tasks, budget, disk, file, reader, clock, bytes, known, mark: 0 }
    }

    fn cx(&self) -> Ctx {
        Ctx::new(Arc::clone(&self.clock), Duration::from_secs(90), 1, 1)
    }

    fn target(&self) -> Target {
        Target {
            key: Key::new("a"),
            replaces: self.known.clone().map_or(Replaces::Absent, Replaces::Version),
            meta: Meta::default(),
            times: vec![("mtime".into(), self.mark.to_string())],
            times_set: self.mark.is_multiple_of(2),
        }
    }

    async fn commit(&mut self) -> Result<()> {
        if let Some(made) = self.file.commit(&self.cx(), self.target()).await? {
            assert_eq!(self.bucket.peek_head(&Key::new("a")).unwrap().version, made.stored.version);
            assert!(self.bucket.peek(&Key::new("a")).unwrap() == self.bytes, "what was committed is not what was written");
            self.known = Some(made.stored.version);
        }
        Ok(())
    }

    async fn commit_other(&mut self) -> Result<()> {
        let target = Target { key: Key::new("b"), replaces: Replaces::Version(self.other.base().unwrap()), ..self.target() };
        if self.other.commit(&self.cx(), target).await?.is_some() {
            assert!(self.bucket.peek(&Key::new("b")).unwrap() == self.other_bytes, "what was committed is not what was written");
        }
        Ok(())
    }

    /// As `vfs` copies.
    async fn copy(&mut self, mut at: u64, range: Range<u64>) {
        let mut from = range.start;
        let end = range.end.min(self.other_bytes.len() as u64);
        while from < end {
            let referred = match self.file.refer(&self.cx(), at, &self.other, from..end).await {
                Err(Error::Streaming) => {
                    self.commit_surely().await;
                    continue;
                }
                referred => referred.unwrap(),
            };
            let bytes = match referred {
                Referred::Done(bytes) => {
                    let (start, end) = (at as usize, (at + bytes) as usize);
                    self.bytes.resize(self.bytes.len().max(end), 0);
                    self.bytes[start..end].copy_from_slice(&self.other_bytes[from as usize..][..bytes as usize]);
                    bytes
                }
                Referred::Data(bytes) => {
                    let copied = Bytes::copy_from_slice(&self.other_bytes[from as usize..][..bytes as usize]);
                    self.write(At::Offset(at), copied).await;
                    bytes
                }
            };
            (at, from) = (at + bytes, from + bytes);
        }
    }

    /// As `vfs` does when bytes are on their way.
    async fn commit_surely(&mut self) {
        if self.commit().await.is_err() {
            self.bucket.clear_faults();
            self.commit().await.unwrap();
        }
    }

    async fn write(&mut self, at: At, bytes: Bytes) {
        loop {
            match self.file.write(&self.cx(), at, bytes.clone()).await {
                Ok(written) => {
                    let (start, end) = (written.offset as usize, written.offset as usize + bytes.len());
                    assert!(at != At::End || start == self.bytes.len());
                    self.bytes.resize(self.bytes.len().max(end), 0);
                    self.bytes[start..end].copy_from_slice(&bytes);
                    assert_eq!(written.size, self.bytes.len() as u64);
                    return;
                }
                Err(Error::Streaming) => self.commit_surely().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn next(&mut self, len: usize) -> Bytes {
        self.mark = self.mark % 90 + 1;
        Bytes::from(vec![self.mark; len])
    }

    async fn read(&mut self, range: Range<u64>) {
        let mut patience = 3;
        let read = loop {
            match self.file.read(&self.cx(), &self.reader, range.clone()).await {
                Ok(read) => break read.concat(),
                Err(Error::Streaming) => self.commit_surely().await,
                Err(Error::Store(_)) if patience > 0 => {
                    patience -= 1;
                    self.bucket.clear_faults();
                }
                Err(error) => panic!("{error}"),
            }
        };
        let end = self.bytes.len().min(range.end as usize);
        assert!(read == self.bytes[(range.start as usize).min(end)..end], "{range:?} is not what was written");
    }

    async fn run(&mut self, step: &Step) {
        match *step {
            Step::Write(at, len) => {
                let bytes = self.next(len);
                self.write(At::Offset(at), bytes).await;
            }
            Step::Append(len) => {
                let bytes = self.next(len);
                self.write(At::End, bytes).await;
            }
            Step::Pour(len) => {
                for part in vec![0; len].chunks(3000) {
                    let bytes = self.next(part.len());
                    self.write(At::Offset(self.bytes.len() as u64), bytes).await;
                }
            }
            Step::Truncate(size) => loop {
                match self.file.truncate(&self.cx(), size).await {
                    Ok(()) => {
                        self.bytes.resize(size as usize, 0);
                        break;
                    }
                    Err(Error::Streaming) => self.commit_surely().await,
                    Err(error) => panic!("{error}"),
                }
            },
            Step::Read(at, len) => self.read(at..at + len).await,
            Step::Copy(at, len, from) => self.copy(at, from..from + len).await,
            Step::CopyAll => self.copy(0, 0..u64::MAX).await,
            Step::EditOther(at, len) => {
                let bytes = self.next(len);
                self.other.write(&self.cx(), At::Offset(at), bytes.clone()).await.unwrap();
                let end = at as usize + len;
                self.other_bytes.resize(self.other_bytes.len().max(end), 0);
                self.other_bytes[at as usize..end].copy_from_slice(&bytes);
            }
            Step::CutOther(size) => {
                self.other.truncate(&self.cx(), size).await.unwrap();
                self.other_bytes.resize(size as usize, 0);
            }
            Step::CommitOther => drop(self.commit_other().await),
            Step::Punch(at, len) => {
                while let Err(error) = self.file.punch(&self.cx(), at..at + len).await {
                    assert!(matches!(error, Error::Streaming), "{error}");
                    self.commit_surely().await;
                }
                let end = (at + len) as usize;
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[at as usize..end].fill(0);
            }
            Step::Commit => {
                // A failure is expected where one was asked for.
                drop(self.commit().await);
            }
            // An upload whose id was never heard of is nobody's: the journal and `cosmount uploads` know it.
            Step::Fail(Operation::CreateUpload, kind, _) => self.bucket.fail_next(Operation::CreateUpload, kind, Effect::Refused),
            Step::Fail(operation, kind, effect) => self.bucket.fail_next(operation, kind, effect),
            Step::Stream(on) => self.file.stream_to(on.then(|| self.target())),
            Step::Forget => self.data.room.blocks.memory.trim(0),
            Step::Rest => self.clock.sleep(Duration::from_millis(150)).await,
        }
        assert_eq!(self.file.size(), self.bytes.len() as u64);
        assert!(self.budget.used(Share::Dirty) <= self.budget.share(Share::Dirty));
    }

    async fn finish(mut self) {
        self.bucket.clear_faults();
        if self.mark.is_multiple_of(3) {
            self.commit_other().await.unwrap();
        }
        self.commit_surely().await;
        self.commit_other().await.unwrap();
        assert!(self.bucket.peek(&Key::new("a")).unwrap() == self.bytes, "the object is not what was written");
        assert!(self.bucket.peek(&Key::new("b")).unwrap() == self.other_bytes, "the other object is not what was written");
        self.read(0..u64::MAX).await;
        assert_eq!((self.file.is_dirty(), self.data.dirty_bytes(), self.file.base()), (false, 0, self.known.clone()));
        drop((self.file, self.other));
        while !self.tasks.is_empty() {
            self.clock.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!((self.budget.used(Share::Dirty), self.budget.used(Share::Read), self.budget.used(Share::Commit)), (0, 0, 0));
        assert!(self.data.room.has_lent_nothing(), "a file that is gone still refers to another");
        assert!(self.bucket.open_uploads().is_empty(), "an upload was left open");
        assert!(self.disk.list().await.unwrap().is_empty(), "a staged file was left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 3000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_is_invented(
        base in prop::option::of(0..150_000usize),
        streams in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(base);
            if streams {
                model.run(&Step::Stream(true)).await;
            }
            for step in &steps {
                model.run(step).await;
            }
            model.finish().await;
        });
    }
}
