//! The room as a whole, over a simulated bucket and a simulated disk, in virtual time.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::*;

use crate::local::SimDisk;

use crate::store::{
    BucketName, Capabilities, Kind, Operation,
    memory::{Effect, MemoryBucket},
};

use crate::support::{Share, SystemClock};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

struct Setting {
    bucket: Arc<MemoryBucket>,
    data: Arc<Data>,
    budget: Budget,
    disk: Arc<SimDisk>,
    tasks: Arc<TaskGroup>,
    metrics: Metrics,
    cx: Ctx,
}

impl Setting {
    fn new() -> Self {
        Self::with(64, Config::default(), Capabilities::cos(), true)
    }

    fn with(limit: u64, config: Config, capabilities: Capabilities, staging: bool) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let bucket = MemoryBucket::with(BucketName::parse("data-1250000000").unwrap(), capabilities, Arc::clone(&clock));
        let budget = Budget::new(ByteSize::mib(limit));
        let disk = Arc::new(SimDisk::new());
        let tasks = Arc::new(TaskGroup::new(Handle::current()));
        let metrics = Metrics::default();
        let staging = staging.then(|| Arc::clone(&disk) as Arc<dyn Disk>);
        let data = Data::new(config, budget.clone(), staging, None, Arc::clone(&clock), Arc::clone(&tasks), &metrics);
        let cx = Ctx::new(clock, Duration::from_secs(90), 1, 1);
        Self { bucket, data, budget, disk, tasks, metrics, cx }
    }

    fn store(&self) -> Arc<dyn Bucket> {
        Arc::clone(&self.bucket) as Arc<dyn Bucket>
    }

    fn new_file(&self) -> Arc<File> {
        self.data.open(self.store(), None)
    }

    /// An object of somebody else's, opened.
    fn object(&self, key: &str, bytes: impl Into<Bytes>) -> Arc<File> {
        let version = self.bucket.put_foreign(&Key::new(key), bytes);
        self.data.open(self.store(), Some(version))
    }

    fn peek(&self, key: &str) -> Vec<u8> {
        self.bucket.peek(&Key::new(key)).unwrap()
    }

    async fn read(&self, file: &Arc<File>, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(file.read(&self.fresh(), &file.reader(), range).await?.concat())
    }

    async fn write(&self, file: &Arc<File>, at: u64, bytes: &[u8]) -> Result<Written> {
        file.write(&self.fresh(), At::Offset(at), Bytes::copy_from_slice(bytes)).await
    }

    fn fresh(&self) -> Ctx {
        self.cx.detached(crate::support::Urgency::Demand)
    }

    fn requests(&self) -> BTreeMap<Operation, u64> {
        Operation::ALL.into_iter().map(|operation| (operation, self.bucket.requests(operation))).filter(|(_, n)| *n > 0).collect()
    }

    fn counter(&self, name: &'static str) -> u64 {
        self.metrics.counter(name).value()
    }

    /// Waits until no task of the room runs.
    async fn idle(&self) {
        while !self.tasks.is_empty() {
            self.cx.clock().sleep(Duration::from_millis(1)).await;
        }
    }
}

fn target(key: &str, replaces: Replaces) -> Target {
    Target {
        key: Key::new(key),
        replaces,
        meta: Meta { content_type: Some("text/plain".into()), ..Meta::default() },
        times: vec![("mtime".into(), "1".into())],
        times_set: false,
    }
}

fn over(file: &File, key: &str) -> Target {
    target(key, file.base().map_or(Replaces::Absent, Replaces::Version))
}

/// Bytes that tell where they come from.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let period: Vec<u8> = (0..251 * 7).map(|at| ((at / 7 + seed * 31) % 251) as u8 + 1).collect();
    let mut bytes = period.repeat(len as usize / period.len() + 1);
    bytes.truncate(len as usize);
    bytes
}

mod reading {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_not_asked_again_and_a_random_read_takes_only_its_sectors() {
        let s = Setting::new();
        let bytes = pattern(1, 5 * MIB + 100);
        let file = s.object("a", bytes.clone());
        for _ in 0..3 {
            assert_eq!(s.read(&file, 2 * MIB + 5..2 * MIB + 4101).await.unwrap(), bytes[2 * 1024 * 1024 + 5..][..4096]);
        }
        assert_eq!((s.bucket.requests(Operation::Get), s.bucket.bytes_read()), (1, 16 * KIB));
        assert_eq!(s.read(&file, 5 * MIB..6 * MIB).await.unwrap(), bytes[5 * 1024 * 1024..]);
        assert_eq!(s.bucket.bytes_read(), 16 * KIB + 100);
        assert_eq!(s.read(&file, 0..u64::MAX).await.unwrap(), bytes);
        assert_eq!(s.read(&file, 9 * MIB..10 * MIB).await.unwrap(), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn many_readers_of_one_sector_make_one_request_and_one_who_leaves_takes_nothing_along() {
        let s = Setting::new();
        let bytes = pattern(2, MIB);
        let file = s.object("a", bytes.clone());
        s.bucket.set_latency(Duration::from_secs(1));
        let leaves = tokio::time::timeout(Duration::from_millis(10), s.read(&file, 0..100));
        assert!(leaves.await.is_err());
        let readers = (0..50).map(|n| s.read(&file, n..n + 100));
        let all = futures_util::future::join_all(readers).await;
        assert!(all.into_iter().zip(0..).all(|(read, n)| read.unwrap() == bytes[n..n + 100]));
        assert_eq!(s.bucket.requests(Operation::Get), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sequential_reader_is_read_ahead_in_large_requests() {
        let s = Setting::with(128, Config::default(), Capabilities::cos(), false);
        let bytes = pattern(3, 100 * MIB);
        let file = s.object("a", bytes.clone());
        s.bucket.set_latency(Duration::from_millis(50));
        let (reader, start) = (file.reader(), s.cx.clock().now());
        for at in (0..100 * MIB).step_by(128 << 10) {
            let read = file.read(&s.fresh(), &reader, at..at + 128 * KIB).await.unwrap().concat();
            assert_eq!(read, bytes[at as usize..][..128 << 10]);
        }
        assert_eq!(s.bucket.bytes_read(), 100 * MIB, "nothing is fetched twice");
        assert!(s.bucket.requests(Operation::Get) < 60, "{:?}", s.requests());
        assert!(s.cx.clock().now() - start < Duration::from_secs(2), "{:?}", s.cx.clock().now() - start);
        s.idle().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_are_there_before_the_rest() {
        let s = Setting::new();
        let file = s.object("a", pattern(4, 4 * MIB));
        s.bucket.stall_next_body(300 * KIB);
        let all = {
            let (file, cx, reader) = (Arc::clone(&file), s.fresh(), file.reader());
            tokio::spawn(async move { file.read(&cx, &reader, 0..MIB).await })
        };
        tokio::task::yield_now().await;
        assert_eq!(s.read(&file, 0..100 * KIB).await.unwrap(), pattern(4, 100 * KIB));
        assert!(matches!(all.await.unwrap(), Err(Error::Store(_) | Error::NoProgress(_))));
        assert_eq!(s.read(&file, 0..MIB).await.unwrap(), pattern(4, MIB), "a failed fetch is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_object_is_stale_but_for_what_is_cached() {
        let s = Setting::new();
        let file = s.object("a", pattern(5, 2 * MIB));
        s.read(&file, 0..16 * KIB).await.unwrap();
        s.bucket.put_foreign(&Key::new("a"), "other");
        assert_eq!(s.read(&file, 0..16 * KIB).await.unwrap(), pattern(5, 16 * KIB));
        assert!(matches!(s.read(&file, MIB..MIB + 1).await, Err(Error::Stale)));
        s.bucket.delete_foreign(&Key::new("a"));
        assert!(matches!(s.read(&file, MIB..MIB + 1).await, Err(Error::Stale)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_gives_way_to_what_is_reserved() {
        let s = Setting::with(32, Config::default(), Capabilities::cos(), false);
        let file = s.object("a", pattern(6, 64 * MIB));
        for at in 0..64 {
            s.read(&file, at * MIB..(at + 1) * MIB).await.unwrap();
        }
        s.idle().await;
        let held = s.data.room.blocks.memory.held();
        assert!(held > 20 * MIB && held <= 32 * MIB, "{held}");
        let dirty = s.new_file();
        for at in 0..15 {
            s.write(&dirty, at * MIB, &pattern(7, MIB)).await.unwrap();
        }
        assert!(s.data.room.blocks.memory.held() <= 17 * MIB);
    }
}

mod committing {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_small_file_is_one_put_and_an_unchanged_one_nothing() {
        let s = Setting::new();
        let file = s.new_file();
        assert!(file.is_dirty(), "even empty it is not in the bucket yet");
        s.write(&file, 0, b"hello").await.unwrap();
        let made = file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!((s.peek("a"), made.stored.version.size), (b"hello".to_vec(), 5));
        assert_eq!(file.base(), Some(made.stored.version));
        let head = s.bucket.peek_head(&Key::new("a")).unwrap();
        assert_eq!((head.meta.user.get("mtime").unwrap().as_str(), &head.meta), ("1", &made.meta));
        assert!(file.commit(&s.cx, over(&file, "a")).await.unwrap().is_none());
        assert_eq!(s.requests(), BTreeMap::from([(Operation::Put, 1)]));
        assert_eq!(s.read(&file, 0..100).await.unwrap(), b"hello");
        assert_eq!(s.bucket.requests(Operation::Get), 0, "what was written is cached");
        assert_eq!(s.budget.used(Share::Dirty), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_file_is_one_put() {
        let s = Setting::new();
        let file = s.new_file();
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.peek("a"), b"");
        assert!(!file.is_dirty());
    }

    #[tokio::test(start_paused = true)]
    async fn four_kilobytes_in_the_middle_of_a_large_object_send_one_small_part_and_keep_the_cache() {
        let s = Setting::with(256, Config::default(), Capabilities::cos(), false);
        let mut bytes = pattern(1, 128 * MIB);
        let file = s.object("a", bytes.clone());
        s.read(&file, 0..4 * MIB).await.unwrap();
        s.bucket.reset_counters();
        let at = 77 * MIB + 12_345;
        s.write(&file, at, &[9; 4096]).await.unwrap();
        bytes[at as usize..][..4096].fill(9);
        let version = file.base().unwrap();
        file.commit(&s.cx, target("a", Replaces::Version(version))).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
        let expected = [
            (Operation::Head, 1),
            (Operation::CreateUpload, 1),
            (Operation::UploadPart, 1),
            (Operation::CopyPart, 2),
            (Operation::CompleteUpload, 1),
        ];
        let mut requests = s.requests();
        requests.remove(&Operation::Get);
        assert_eq!(requests, BTreeMap::from(expected));
        assert!(s.bucket.bytes_written() <= MIB && s.bucket.bytes_read() <= MIB + 64 * KIB);
        s.bucket.reset_counters();
        assert!(s.read(&file, 0..4 * MIB).await.unwrap() == bytes[..4 << 20]);
        assert_eq!(s.bucket.requests(Operation::Get), 0, "clean blocks were carried");
    }

    #[tokio::test(start_paused = true)]
    async fn a_truncated_file_never_shows_old_bytes() {
        let s = Setting::new();
        let file = s.object("a", vec![7; 100_000]);
        file.truncate(&s.cx, 10).await.unwrap();
        file.truncate(&s.cx, 50_000).await.unwrap();
        let mut expected = vec![0; 50_000];
        expected[..10].fill(7);
        assert_eq!(s.read(&file, 0..u64::MAX).await.unwrap(), expected);
        file.commit(&s.cx, over(&file, "a")).await.unwrap().unwrap();
        assert_eq!(s.peek("a"), expected);
        assert_eq!(s.read(&file, 0..u64::MAX).await.unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_elses_write_is_a_conflict_and_nothing_is_lost() {
        let s = Setting::new();
        let file = s.object("a", "old");
        s.write(&file, 0, b"new").await.unwrap();
        s.bucket.put_foreign(&Key::new("a"), "theirs");
        assert!(matches!(file.commit(&s.cx, over(&file, "a")).await, Err(Error::Conflict)));
        s.bucket.delete_foreign(&Key::new("a"));
        assert!(matches!(file.commit(&s.cx, over(&file, "a")).await, Err(Error::Conflict)));
        assert!(file.is_dirty());
        file.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.peek("b"), b"new");
        let other = s.new_file();
        assert!(matches!(other.commit(&s.cx, target("b", Replaces::Absent)).await, Err(Error::Exists)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_edit_whose_base_is_gone_is_a_conflict() {
        let s = Setting::new();
        let file = s.object("a", pattern(1, 32 * MIB));
        s.write(&file, 0, b"new").await.unwrap();
        s.bucket.put_foreign(&Key::new("a"), "theirs");
        assert!(matches!(file.commit(&s.cx, over(&file, "a")).await, Err(Error::Conflict)));
        s.idle().await;
        assert!(s.bucket.open_uploads().is_empty(), "a failed upload is aborted");
        assert_eq!(s.peek("a"), b"theirs");
    }

    #[tokio::test(start_paused = true)]
    async fn an_edit_whose_base_was_deleted_is_a_conflict_whatever_its_size() {
        for size in [MIB, 32 * MIB] {
            let s = Setting::new();
            let file = s.object("a", pattern(1, size));
            s.write(&file, size - 3, b"new").await.unwrap();
            s.bucket.delete_foreign(&Key::new("a"));
            let error = file.commit(&s.cx, over(&file, "a")).await.unwrap_err();
            assert!(matches!(error, Error::Conflict), "{size}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_write_can_be_made_to_fail_a_new_file_looks_first() {
        let capabilities = Capabilities { forbid_overwrite: false, versioning: crate::store::Versioning::Enabled, ..Capabilities::cos() };
        let s = Setting::with(64, Config::default(), capabilities, true);
        s.bucket.put_foreign(&Key::new("a"), "theirs");
        for size in [3, 20 * MIB] {
            let file = s.new_file();
            for (part, at) in pattern(1, size).chunks(1 << 20).zip((0..).step_by(1 << 20)) {
                s.write(&file, at, part).await.unwrap();
            }
            assert!(matches!(file.commit(&s.cx, target("a", Replaces::Absent)).await, Err(Error::Exists)));
            file.commit(&s.cx, target("b", Replaces::Anything)).await.unwrap().unwrap();
            assert!(s.peek("a") == b"theirs" && s.peek("b") == pattern(1, size));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_own_attempt_that_lands_late_is_nobody_elses() {
        let s = Setting::new();
        let file = s.new_file();
        let bytes = pattern(1, 20 * MIB);
        for (part, at) in bytes.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
            s.write(&file, at, part).await.unwrap();
        }
        let hold = s.bucket.hold(Operation::UploadPart);
        let commit = tokio::spawn({
            let (file, cx) = (Arc::clone(&file), s.fresh());
            async move { file.commit(&cx, target("a", Replaces::Absent)).await }
        });
        s.cx.clock().sleep(Duration::from_secs(1)).await;
        let token = s.bucket.open_uploads().remove(0).token;
        s.bucket.fail_next(Operation::CompleteUpload, Kind::Unavailable, Effect::LostBefore);
        drop(hold);
        commit.await.unwrap().unwrap_err();
        // The next commit looks for it, finds nothing, and only then does it land.
        let hold = s.bucket.hold(Operation::UploadPart);
        let commit = tokio::spawn({
            let (file, cx) = (Arc::clone(&file), s.fresh());
            async move { file.commit(&cx, target("a", Replaces::Absent)).await }
        });
        s.cx.clock().sleep(Duration::from_secs(1)).await;
        s.bucket.put_foreign_with(&Key::new("a"), bytes.clone(), Meta { token, ..Meta::default() });
        drop(hold);
        let made = commit.await.unwrap().unwrap();
        assert_eq!(Some(made.unwrap().stored.version), file.base());
        assert!(s.peek("a") == bytes && !file.is_dirty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_reads_its_base_waits_for_no_place_while_it_holds_one() {
        for (size, len) in [(MIB, 10), (32 * MIB, 10), (32 * MIB, 4 * MIB)] {
            let s = Setting::new();
            let account = crate::store::memory::MemoryService::new(Arc::clone(s.cx.clock()));
            account.add(Arc::clone(&s.bucket));
            let service = crate::store::stack(account, 1, &s.metrics, Arc::clone(s.cx.clock()), None);
            let bucket = service.open(&s.cx, s.bucket.name()).await.unwrap();
            let mut bytes = pattern(1, size);
            let file = s.data.open(bucket, Some(s.bucket.put_foreign(&Key::new("a"), bytes.clone())));
            let at = size / 2 + 12_345;
            for at in [at, at + len + 500_000] {
                for at in (at..at + len).step_by(1 << 20) {
                    s.write(&file, at, &pattern(9, len.min(MIB))).await.unwrap();
                    bytes[at as usize..][..len.min(MIB) as usize].copy_from_slice(&pattern(9, len.min(MIB)));
                }
                if size == MIB {
                    break;
                }
            }
            let start = s.cx.clock().now();
            file.commit(&s.fresh(), over(&file, "a")).await.unwrap().unwrap();
            assert!(s.peek("a") == bytes);
            assert!(s.cx.clock().now() - start < Duration::from_secs(1), "{:?}", s.cx.clock().now() - start);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn flushes_during_a_commit_share_the_next_one() {
        let s = Setting::new();
        let file = s.new_file();
        s.write(&file, 0, b"one").await.unwrap();
        s.bucket.set_latency(Duration::from_secs(1));
        let first = tokio::spawn({
            let (file, cx) = (Arc::clone(&file), s.fresh());
            async move { file.commit(&cx, target("a", Replaces::Absent)).await }
        });
        s.cx.clock().sleep(Duration::from_millis(500)).await;
        s.write(&file, 3, b"two").await.unwrap();
        // They name the version as their callers know it; by the time it is their turn vfs would have looked again.
        let more = (0..10).map(|_| file.commit(&s.cx, target("a", Replaces::Anything)));
        let more = futures_util::future::join_all(more).await;
        assert_eq!(first.await.unwrap().unwrap().unwrap().stored.version.size, 3);
        assert_eq!(more.iter().filter(|made| made.as_ref().unwrap().is_some()).count(), 1);
        assert_eq!((s.peek("a"), s.bucket.requests(Operation::Put)), (b"onetwo".to_vec(), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_commit_answers_all_who_wait_for_it_and_its_bytes_are_staged() {
        let s = Setting::new();
        let file = s.new_file();
        s.write(&file, 0, &pattern(1, MIB)).await.unwrap();
        s.bucket.set_latency(Duration::from_secs(1));
        for _ in 0..2 {
            s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
        }
        let all = (0..10).map(|_| file.commit(&s.cx, target("a", Replaces::Absent)));
        let all = futures_util::future::join_all(all).await;
        assert!(all.iter().all(|made| matches!(made, Err(Error::Store(error)) if error.kind() == Kind::Denied)));
        assert_eq!(s.bucket.requests(Operation::Put), 1, "all arrived before it began");
        assert_eq!((s.budget.used(Share::Dirty), s.data.dirty_bytes()), (0, MIB));
        assert_eq!(s.read(&file, 0..MIB).await.unwrap(), pattern(1, MIB));
        s.bucket.clear_faults();
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.peek("a"), pattern(1, MIB));
        s.idle().await;
        assert!(s.disk.list().await.unwrap().is_empty(), "staging is empty again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_settled_by_the_next_commit() {
        for size in [3, 20 * MIB] {
            for effect in [Effect::LostAfter, Effect::LostBefore] {
                let s = Setting::new();
                let file = s.new_file();
                let mut bytes = pattern(1, size);
                for (part, at) in bytes.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
                    s.write(&file, at, part).await.unwrap();
                }
                for operation in [Operation::Put, Operation::CompleteUpload] {
                    s.bucket.fail_next(operation, Kind::Unavailable, effect);
                }
                file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap_err();
                s.write(&file, 1, b"x").await.unwrap();
                bytes[1] = b'x';
                s.bucket.clear_faults();
                let made = file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
                assert!(s.peek("a") == bytes);
                assert_eq!(Some(made.stored.version), file.base());
                s.idle().await;
                assert!(s.bucket.open_uploads().is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_whose_caller_left_ends_all_the_same() {
        let s = Setting::new();
        let file = s.new_file();
        s.write(&file, 0, b"bytes").await.unwrap();
        s.bucket.set_latency(Duration::from_secs(1));
        let commit = file.commit(&s.cx, target("a", Replaces::Absent));
        assert!(tokio::time::timeout(Duration::from_millis(10), commit).await.is_err());
        file.quiet(&s.cx).await.unwrap();
        assert_eq!(s.peek("a"), b"bytes");
        // Nobody was told: the next call is, and sends nothing.
        let made = file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!((Some(made.stored.version), s.bucket.requests(Operation::Put), file.is_dirty()), (file.base(), 1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_committed_for_a_caller_who_left_is_told_to_the_next() {
        let s = Setting::new();
        let file = s.object("a", "old");
        let old = file.base().unwrap();
        s.write(&file, 0, b"new").await.unwrap();
        s.bucket.set_latency(Duration::from_secs(1));
        let commit = file.commit(&s.cx, target("a", Replaces::Version(old.clone())));
        assert!(tokio::time::timeout(Duration::from_millis(10), commit).await.is_err());
        file.quiet(&s.cx).await.unwrap();
        s.write(&file, 0, b"N").await.unwrap();
        let made = file.commit(&s.fresh(), target("a", Replaces::Version(old))).await.unwrap().unwrap();
        assert_eq!((s.peek("a"), Some(made.stored.version)), (b"New".to_vec(), file.base()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_sees_one_version_while_the_object_is_replaced() {
        let s = Setting::with(32, Config::default(), Capabilities::cos(), false);
        let mut bytes = pattern(1, 20 * MIB);
        let file = s.object("a", bytes.clone());
        s.bucket.set_latency(Duration::from_millis(300));
        for round in 0..5u8 {
            s.write(&file, 0, &[round; 10]).await.unwrap();
            bytes[..10].fill(round);
            let commit = tokio::spawn({
                let (file, cx, target) = (Arc::clone(&file), s.fresh(), over(&file, "a"));
                async move { file.commit(&cx, target).await }
            });
            while !commit.is_finished() {
                s.data.room.blocks.memory.trim(0);
                let at = 10 * MIB + u64::from(round) * MIB;
                assert!(s.read(&file, at..at + 100).await.unwrap() == bytes[at as usize..][..100]);
                s.cx.clock().sleep(Duration::from_millis(70)).await;
            }
            commit.await.unwrap().unwrap().unwrap();
            assert!(s.peek("a") == bytes);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_file_takes_no_writes_but_commits() {
        let s = Setting::new();
        let file = s.new_file();
        s.write(&file, 0, b"one").await.unwrap();
        let frozen = file.freeze(&s.cx).await.unwrap();
        let write = s.write(&file, 0, b"two");
        assert!(tokio::time::timeout(Duration::from_secs(1), write).await.is_err());
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        drop(frozen);
        s.write(&file, 0, b"two").await.unwrap();
        assert_eq!(s.peek("a"), b"one");
    }

    #[tokio::test(start_paused = true)]
    async fn appends_land_one_behind_the_other() {
        let s = Setting::new();
        let file = s.object("a", "start");
        for n in 0..10u8 {
            let written = file.write(&s.cx, At::End, Bytes::from(vec![n; 3])).await.unwrap();
            assert_eq!(written, Written { offset: 5 + 3 * u64::from(n), size: 8 + 3 * u64::from(n) });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_orphan_keeps_its_bytes_and_leaves_nothing() {
        let s = Setting::new();
        let file = s.object("a", pattern(1, 3 * MIB));
        s.write(&file, 5, b"mine").await.unwrap();
        file.localise(&s.cx).await.unwrap();
        assert!(file.is_local());
        file.orphan();
        s.bucket.delete_foreign(&Key::new("a"));
        s.data.room.blocks.memory.trim(0);
        let mut expected = pattern(1, 3 * MIB);
        expected[5..9].copy_from_slice(b"mine");
        assert!(s.read(&file, 0..3 * MIB).await.unwrap() == expected);
        s.write(&file, 0, b"more").await.unwrap();
        assert!(!file.is_dirty() && file.commit(&s.cx, target("a", Replaces::Anything)).await.unwrap().is_none());
        assert!(s.bucket.keys().is_empty());
        drop(file);
        s.idle().await;
        assert_eq!(s.budget.used(Share::Dirty), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_above_the_limit_is_made_of_parts() {
        let capabilities = Capabilities { largest_copy: 4 * MIB, largest_part: 6 * MIB, ..Capabilities::cos() };
        let s = Setting::with(64, Config::default(), capabilities, false);
        let source = s.bucket.put_foreign(&Key::new("a"), pattern(1, 21 * MIB));
        let to = Key::new("b");
        s.data.copy_object(&s.cx, &s.store(), &source, &to, &Meta::default(), &Replaces::Absent).await.unwrap();
        assert!(s.peek("b") == pattern(1, 21 * MIB));
        assert!(s.bucket.requests(Operation::CopyPart) >= 4 && s.bucket.requests(Operation::Copy) == 0);
        let small = s.bucket.put_foreign(&Key::new("c"), "x");
        s.data.copy_object(&s.cx, &s.store(), &small, &Key::new("d"), &Meta::default(), &Replaces::Absent).await.unwrap();
        assert_eq!((s.peek("d"), s.bucket.requests(Operation::Copy)), (b"x".to_vec(), 1));
    }
}

mod streaming {
    use super::*;

    /// Writes `bytes` in pieces of 100,000 from `from` on.
    async fn pour(s: &Setting, file: &Arc<File>, from: u64, bytes: &[u8]) {
        for (part, n) in bytes.chunks(100_000).zip(0..) {
            s.write(file, from + n * 100_000, part).await.unwrap();
        }
    }

    fn streaming(s: &Setting, key: &str) -> Arc<File> {
        let file = s.new_file();
        file.stream_to(Some(target(key, Replaces::Absent)));
        file
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_file_leaves_while_it_is_written_in_little_memory() {
        let s = Setting::with(64, Config::default(), Capabilities::cos(), true);
        s.bucket.set_latency(Duration::from_millis(100));
        let file = streaming(&s, "a");
        let bytes = pattern(1, 100 * MIB);
        pour(&s, &file, 0, &bytes).await;
        assert!(s.bucket.bytes_written() >= 64 * MIB, "most of it has left: {}", s.bucket.bytes_written());
        assert!(s.budget.used(Share::Dirty) <= 32 * MIB);
        let made = file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
        assert_eq!(made.last_modified, Some(s.bucket.peek_head(&Key::new("a")).unwrap().last_modified));
        assert!(made.meta.user.is_empty(), "times that nobody set are not sent");
        assert_eq!(s.bucket.bytes_written(), 100 * MIB, "nothing is sent twice");
        assert_eq!((s.counter("spilled_bytes"), s.budget.used(Share::Dirty), file.is_dirty()), (0, 0, false));
        s.idle().await;
        assert!(s.bucket.open_uploads().is_empty());
        assert_eq!(s.read(&file, 50 * MIB..50 * MIB + 10).await.unwrap(), bytes[50 << 20..][..10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_of_one_part_is_one_put() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        pour(&s, &file, 0, &pattern(1, 8 * MIB)).await;
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.requests(), BTreeMap::from([(Operation::Put, 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_left_asks_for_a_commit_and_then_gathers() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        let mut bytes = pattern(1, 30 * MIB);
        pour(&s, &file, 0, &bytes).await;
        s.idle().await;
        assert!(matches!(s.write(&file, 5, b"x").await, Err(Error::Streaming)));
        assert!(matches!(s.read(&file, 0..10).await, Err(Error::Streaming)));
        assert!(matches!(file.truncate(&s.cx, 100).await, Err(Error::Streaming)));
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        s.write(&file, 5, b"x").await.unwrap();
        bytes[5] = b'x';
        file.truncate(&s.cx, 20 * MIB).await.unwrap();
        bytes.truncate(20 << 20);
        assert!(s.read(&file, 0..u64::MAX).await.unwrap() == bytes);
        file.commit(&s.cx, over(&file, "a")).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn times_set_while_it_streams_are_one_self_copy() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        let bytes = pattern(1, 30 * MIB);
        pour(&s, &file, 0, &bytes).await;
        let made = file.commit(&s.cx, Target { times_set: true, ..target("a", Replaces::Absent) }).await.unwrap().unwrap();
        let head = s.bucket.peek_head(&Key::new("a")).unwrap();
        assert_eq!((s.bucket.requests(Operation::Copy), head.meta.user["mtime"].as_str()), (1, "1"));
        assert_eq!((Some(head.version), head.meta), (file.base(), made.meta));
        assert!(s.read(&file, 0..u64::MAX).await.unwrap() == bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_is_sent_by_the_commit() {
        for staging in [true, false] {
            let s = Setting::with(64, Config::default(), Capabilities::cos(), staging);
            let file = streaming(&s, "a");
            let bytes = pattern(1, 30 * MIB);
            pour(&s, &file, 0, &bytes[..20 << 20]).await;
            s.idle().await;
            for _ in 0..3 {
                s.bucket.fail_next(Operation::UploadPart, Kind::Denied, Effect::Refused);
            }
            pour(&s, &file, 20 * MIB, &bytes[20 << 20..]).await;
            s.idle().await;
            for _ in 0..2 {
                file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap_err();
            }
            // More behind what a failed commit has sent already.
            s.write(&file, 30 * MIB, b"more").await.unwrap();
            file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
            assert!(s.peek("a") == [&bytes[..], b"more"].concat());
            assert_eq!(s.budget.used(Share::Dirty), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_cannot_be_opened_leaves_a_gathering_file() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        s.bucket.fail_next(Operation::CreateUpload, Kind::Unavailable, Effect::Refused);
        let bytes = pattern(1, 50 * MIB);
        pour(&s, &file, 0, &bytes).await;
        assert!(s.counter("spilled_bytes") > 0);
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn a_complete_that_fails_is_tried_again_with_what_came_since() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        let bytes = pattern(1, 20 * MIB + 5);
        pour(&s, &file, 0, &bytes).await;
        for (kind, effect) in [(Kind::Denied, Effect::Refused), (Kind::Unavailable, Effect::LostBefore)] {
            s.bucket.fail_next(Operation::CompleteUpload, kind, effect);
            file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap_err();
        }
        pour(&s, &file, 20 * MIB + 5, &bytes[..3 << 20]).await;
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("a") == [&bytes[..], &bytes[..3 << 20]].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_is_gone_is_an_error_until_the_file_is_emptied() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        pour(&s, &file, 0, &pattern(1, 30 * MIB)).await;
        s.idle().await;
        let upload = s.bucket.open_uploads().remove(0);
        s.bucket.abort_upload(&s.cx, &upload).await.unwrap();
        for _ in 0..2 {
            let error = file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap_err();
            assert!(matches!(error, Error::Store(error) if error.kind() == Kind::NoSuchUpload));
        }
        file.truncate(&s.cx, 0).await.unwrap();
        s.write(&file, 0, b"anew").await.unwrap();
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.peek("a"), b"anew");
    }

    #[tokio::test(start_paused = true)]
    async fn an_emptied_dropped_or_orphaned_stream_is_aborted() {
        for way in 0..3 {
            let s = Setting::new();
            let file = streaming(&s, "a");
            pour(&s, &file, 0, &pattern(1, 30 * MIB)).await;
            match way {
                0 => file.truncate(&s.cx, 0).await.unwrap(),
                1 => drop(file),
                _ => file.orphan(),
            }
            s.idle().await;
            assert!(s.bucket.open_uploads().is_empty());
            assert_eq!(s.bucket.requests(Operation::AbortUpload), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_orphan_becomes_quiet_though_its_upload_is_just_being_opened() {
        let s = Setting::new();
        s.bucket.set_latency_of(Operation::CreateUpload, Duration::from_secs(1));
        let file = streaming(&s, "a");
        pour(&s, &file, 0, &pattern(1, 10 * MIB)).await;
        let commit = tokio::spawn({
            let (file, cx) = (Arc::clone(&file), s.fresh());
            async move { file.commit(&cx, target("a", Replaces::Absent)).await }
        });
        s.cx.clock().sleep(Duration::from_millis(500)).await;
        file.orphan();
        let start = s.cx.clock().now();
        file.quiet(&s.fresh()).await.unwrap();
        assert!(s.cx.clock().now() - start < Duration::from_secs(2), "{:?}", s.cx.clock().now() - start);
        assert!(commit.await.unwrap().unwrap().is_none());
        s.idle().await;
        assert!(s.bucket.keys().is_empty() && s.bucket.open_uploads().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_past_the_last_part_number() {
        let config = Config { part_size: ByteSize::mib(1), ..Config::default() };
        let capabilities = Capabilities { most_parts: 20, largest_part: 16 * MIB, ..Capabilities::cos() };
        let s = Setting::with(64, config, capabilities, true);
        let file = streaming(&s, "a");
        let bytes = pattern(1, 60 * MIB);
        pour(&s, &file, 0, &bytes).await;
        assert!(s.bucket.requests(Operation::CompleteUpload) >= 2, "{:?}", s.requests());
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
        s.idle().await;
        assert!(s.bucket.open_uploads().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn holes_and_late_writes_into_them() {
        let s = Setting::new();
        let file = streaming(&s, "a");
        let mut bytes = pattern(1, 12 * MIB);
        pour(&s, &file, 0, &bytes).await;
        s.write(&file, 40 * MIB, b"end").await.unwrap();
        s.write(&file, 20 * MIB, b"middle").await.unwrap();
        bytes.resize(40 << 20, 0);
        bytes[20 << 20..][..6].copy_from_slice(b"middle");
        bytes.extend_from_slice(b"end");
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes);
    }
}

mod pressure {
    use super::*;

    /// Every PUT and every initiate is refused, for as long as anybody asks.
    fn refuse_everything(s: &Setting) {
        for _ in 0..20_000 {
            s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
            s.bucket.fail_next(Operation::CreateUpload, Kind::Denied, Effect::Refused);
        }
    }

    fn check(s: &Setting, longest: Duration) {
        assert!(longest <= Duration::from_secs(90), "{longest:?}");
        assert!(s.budget.used(Share::Dirty) <= s.budget.share(Share::Dirty));
        assert!(s.data.room.blocks.memory.held() <= s.budget.idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_random_writer_over_eight_times_the_memory() {
        for refused in [false, true] {
            let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
            if refused {
                refuse_everything(&s);
            }
            let size = 64 * MIB;
            let file = s.new_file();
            file.truncate(&s.cx, size).await.unwrap();
            let mut expected = vec![0; size as usize];
            let mut longest = Duration::ZERO;
            for n in 0..20_000u64 {
                let at = n * 7_919 % (size / 4096) * 4096;
                let start = s.cx.clock().now();
                s.write(&file, at, &[n as u8; 4096]).await.unwrap();
                longest = longest.max(s.cx.clock().now() - start);
                expected[at as usize..][..4096].fill(n as u8);
                assert!(s.budget.used(Share::Dirty) <= s.budget.share(Share::Dirty));
                if n % 5000 == 4999 {
                    assert_eq!(file.commit(&s.fresh(), target("a", Replaces::Anything)).await.is_err(), refused);
                }
            }
            check(&s, longest);
            assert!(s.counter("spilled_bytes") > 16 * MIB);
            for at in (0..size).step_by(1 << 20) {
                assert!(s.read(&file, at..at + MIB).await.unwrap() == expected[at as usize..][..1 << 20]);
            }
            s.bucket.clear_faults();
            file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
            assert!(s.peek("a") == expected);
            drop(file);
            s.idle().await;
            assert_eq!(s.disk.list().await.unwrap(), Vec::<String>::new());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_of_dirty_files() {
        for refused in [false, true] {
            let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
            if refused {
                refuse_everything(&s);
            }
            let (mut files, mut longest) = (Vec::new(), Duration::ZERO);
            for n in 0..3000u64 {
                let start = s.cx.clock().now();
                let file = s.new_file();
                s.write(&file, 0, &pattern(n, 4096 + n % 12_288)).await.unwrap();
                longest = longest.max(s.cx.clock().now() - start);
                files.push(file);
            }
            check(&s, longest);
            for (file, n) in files.iter().zip(0..) {
                let key = format!("{n}");
                assert_eq!(file.commit(&s.fresh(), target(&key, Replaces::Absent)).await.is_err(), refused);
                assert!(s.read(file, 0..u64::MAX).await.unwrap() == pattern(n, 4096 + n % 12_288));
            }
            s.bucket.clear_faults();
            for (file, n) in files.iter().zip(0..) {
                file.commit(&s.fresh(), target(&format!("{n}"), Replaces::Absent)).await.unwrap();
            }
            s.idle().await;
            assert_eq!((s.bucket.keys().len(), s.budget.used(Share::Dirty)), (3000, 0));
            assert_eq!(s.disk.list().await.unwrap(), Vec::<String>::new());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_the_writer_is_told_at_once_and_loses_nothing() {
        for staging in [false, true] {
            let config = Config { staging_limit: ByteSize::mib(4), ..Config::default() };
            let s = Setting::with(16, config, Capabilities::cos(), staging);
            let file = s.new_file();
            let start = s.cx.clock().now();
            let mut taken = 0;
            let error = loop {
                match s.write(&file, taken, &pattern(taken, 64 * KIB)).await {
                    Ok(_) => taken += 64 * KIB,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::NoRoom), "{error}");
            assert!(taken >= 8 * MIB && s.cx.clock().now() - start < Duration::from_secs(5));
            for at in (0..taken).step_by(64 << 10) {
                assert!(s.read(&file, at..at + 64 * KIB).await.unwrap() == pattern(at, 64 * KIB));
            }
            file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
            s.idle().await;
            s.write(&file, taken, b"there is room again").await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_no_room_and_heals() {
        let s = Setting::with(16, Config::default(), Capabilities::cos(), true);
        s.disk.limit(Some(MIB));
        let file = s.new_file();
        let mut taken = 0;
        while s.write(&file, taken, &pattern(taken, 64 * KIB)).await.is_ok() {
            taken += 64 * KIB;
        }
        s.disk.limit(None);
        s.cx.clock().sleep(Duration::from_secs(2)).await;
        s.write(&file, taken, &pattern(taken, 64 * KIB)).await.unwrap();
        file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
        let expected: Vec<u8> = (0..=taken).step_by(64 << 10).flat_map(|at| pattern(at, 64 * KIB)).collect();
        assert!(s.peek("a") == expected);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_fill_memory_with_short_parts_send_them() {
        let s = Setting::with(32, Config::default(), Capabilities::cos(), false);
        let files: Vec<_> = (0..24u64).map(|_| s.new_file()).collect();
        for (file, n) in files.iter().zip(0..) {
            file.stream_to(Some(target(&format!("{n}"), Replaces::Absent)));
            for at in (0..MIB + 256 * KIB).step_by(128 << 10) {
                s.write(file, at, &pattern(n + at, 128 * KIB)).await.unwrap();
            }
        }
        for (file, n) in files.iter().zip(0..) {
            file.commit(&s.fresh(), target(&format!("{n}"), Replaces::Absent)).await.unwrap();
            let expected: Vec<u8> = (0..MIB + 256 * KIB).step_by(128 << 10).flat_map(|at| pattern(n + at, 128 * KIB)).collect();
            assert!(s.peek(&format!("{n}")) == expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_at_once_with_staging() {
        many_streams_at_once(true).await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_streams_at_once_without_staging() {
        many_streams_at_once(false).await;
    }

    async fn many_streams_at_once(staging: bool) {
        let s = Setting::with(32, Config::default(), Capabilities::cos(), staging);
        s.bucket.set_latency(Duration::from_millis(50));
        let writers = (0..12u64).map(|n| {
            let s = &s;
            async move {
                let key = format!("{n}");
                let file = s.new_file();
                file.stream_to(Some(target(&key, Replaces::Absent)));
                for at in (0..10 * MIB).step_by(128 << 10) {
                    s.write(&file, at, &pattern(n + at, 128 * KIB)).await.unwrap();
                }
                file.commit(&s.fresh(), target(&key, Replaces::Absent)).await.unwrap().unwrap();
                let expected: Vec<u8> = (0..10 * MIB).step_by(128 << 10).flat_map(|at| pattern(n + at, 128 * KIB)).collect();
                assert!(s.peek(&key) == expected, "file {n}");
            }
        });
        futures_util::future::join_all(writers).await;
        check(&s, Duration::ZERO);
    }
}

/// The switches of the differential tester do what they say.
mod defects {
    use super::*;

    async fn with(defect: Option<Defect>) -> (Vec<u8>, Vec<u8>) {
        let s = Setting::with(64, Config { defect, ..Config::default() }, Capabilities::cos(), false);
        let file = s.object("a", vec![7; 100]);
        file.truncate(&s.cx, 50).await.unwrap();
        file.write(&s.cx, At::End, Bytes::from_static(b"append")).await.unwrap();
        file.truncate(&s.cx, 70).await.unwrap();
        let seen = s.read(&file, 0..100).await.unwrap();
        file.commit(&s.cx, over(&file, "a")).await.unwrap();
        (seen, s.peek("a"))
    }

    #[tokio::test(start_paused = true)]
    async fn each_shows() {
        let right = [&[7; 50][..], b"append", &[0; 14]].concat();
        assert_eq!(with(None).await, (right.clone(), right.clone()));
        let (seen, _) = with(Some(Defect::OldBytesInHole)).await;
        assert_eq!(seen, [&[7; 50][..], b"append", &[7; 14]].concat());
        let (seen, _) = with(Some(Defect::AppendLostAfterTruncate)).await;
        assert_eq!(seen, [&[7; 50][..], &[0; 20]].concat());
        let (seen, made) = with(Some(Defect::LastExtentDroppedAtFlush)).await;
        assert_eq!((seen, made), (right, [&[7; 50][..], &[0; 20]].concat()));
    }
}

mod together {
    use super::*;

    /// Four threads, each with its own stripe of one file, write, read back and commit at once.
    #[test]
    fn writers_readers_and_commits_at_once() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config { part_size: ByteSize::mib(1), ..Config::default() };
            let s = Arc::new(Setting::with(16, config, Capabilities::cos(), true));
            let file = s.object("a", vec![0; 8 << 20]);
            let stripes = (0..4u64).map(|stripe| {
                let (s, file) = (Arc::clone(&s), Arc::clone(&file));
                tokio::spawn(async move {
                    let mut expected = vec![0; 2 << 20];
                    for n in 0..300u64 {
                        let at = n * 7_919 * 31 % (2 * MIB - 20_000);
                        let bytes = vec![(n % 250) as u8 + 1; 1 + (n * 131 % 19_000) as usize];
                        expected[at as usize..][..bytes.len()].copy_from_slice(&bytes);
                        s.write(&file, stripe * 2 * MIB + at, &bytes).await.unwrap();
                        let from = n * 104_729 % (2 * MIB - 5000);
                        let read = s.read(&file, stripe * 2 * MIB + from..stripe * 2 * MIB + from + 5000).await.unwrap();
                        assert!(read == expected[from as usize..][..5000], "stripe {stripe}, write {n}");
                        if n % 20 == stripe * 5 {
                            file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
                        }
                        if n % 50 == 0 {
                            s.data.room.blocks.memory.trim(0);
                        }
                    }
                    expected
                })
            });
            let mut expected = Vec::new();
            for stripe in futures_util::future::join_all(stripes).await {
                expected.extend(stripe.unwrap());
            }
            file.commit(&s.fresh(), target("a", Replaces::Anything)).await.unwrap();
            assert!(s.peek("a") == expected);
            assert_eq!(s.budget.used(Share::Dirty), 0);
        });
    }
}
