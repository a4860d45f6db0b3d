use futures_util::{FutureExt, future::join_all};
use proptest::prelude::*;

use super::*;
use crate::local::{HostDisk, Operation, SimDisk};

const WHOSE: &str = "cos.example/b-125/data/";

fn record(number: usize) -> Vec<u8> {
    format!("{number}:{}", "x".repeat(number * 7 % 90)).into_bytes()
}

fn records(range: Range<usize>) -> Vec<Bytes> {
    range.map(|number| record(number).into()).collect()
}

async fn open(disk: &SimDisk) -> (Journal, Replay) {
    Journal::open(Arc::new(disk.clone()), "journal", WHOSE).await.unwrap()
}

/// A file of `count` records, each its own batch.
async fn written(count: usize) -> (SimDisk, Bytes) {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk).await;
    for number in 0..count {
        journal.append(record(number)).await.unwrap();
    }
    let bytes = disk.bytes("journal").unwrap();
    assert_eq!(bytes.len() as u64, journal.size());
    (disk, bytes.into())
}

#[tokio::test]
async fn what_was_appended_is_replayed_on_a_real_disk() {
    let directory = tempfile::tempdir().unwrap();
    let open = || async {
        let disk = HostDisk::open(directory.path()).unwrap();
        Journal::open(disk, "journal", WHOSE).await.unwrap()
    };
    let (journal, replay) = open().await;
    assert_eq!(replay, Replay::default());
    for number in 0..10 {
        journal.append(record(number)).await.unwrap();
    }
    drop(journal);
    let (journal, replay) = open().await;
    assert_eq!(replay, Replay { records: records(0..10), ..Replay::default() });
    journal.compact(vec![record(8), record(9)]).await.unwrap();
    journal.append(record(10)).await.unwrap();
    drop(journal);
    assert_eq!(open().await.1.records, records(8..11));
}

#[tokio::test]
async fn appends_of_one_moment_share_a_sync() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk).await;
    let outcomes = join_all((0..1000).map(|number| journal.append(record(number)))).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert!(disk.syncs() <= 2, "{}", disk.syncs());
    assert_eq!(open(&disk).await.1.records, records(0..1000));
}

#[tokio::test]
async fn another_identity_is_refused_and_nothing_changed() {
    let (disk, bytes) = written(3).await;
    for other in ["", "cos.example/b-125/", "cos.example/b-125/data/x/"] {
        let refused = Journal::open(Arc::new(disk.clone()), "journal", other).await.unwrap_err();
        assert!(matches!(refused, JournalError::Foreign { ref found, .. } if found == WHOSE), "{refused}");
    }
    assert_eq!(disk.bytes("journal").unwrap(), bytes);
}

#[tokio::test]
async fn what_is_no_journal_is_refused_and_nothing_changed() {
    for planted in [&b""[..], b"{}", &[0; 4096], &[0xF5; 300]] {
        let disk = SimDisk::new();
        disk.plant("journal", planted.to_vec());
        let refused = Journal::open(Arc::new(disk.clone()), "journal", WHOSE).await.unwrap_err();
        assert!(matches!(refused, JournalError::Unreadable(_)), "{refused}");
        assert_eq!(disk.bytes("journal").unwrap(), planted);
    }
}

/// Guarantee L1 for every length the file can have been cut to.
#[tokio::test]
async fn every_prefix_replays_its_whole_records() {
    let (_, bytes) = written(200).await;
    let ends: Vec<u64> = scan(&bytes).unwrap().iter().map(|frame| frame.span.end).collect();
    for cut in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut as u64).count();
        let outcome = replay(&bytes.slice(..cut), "journal", WHOSE);
        if whole == 0 {
            assert!(matches!(outcome, Err(JournalError::Unreadable(_))), "{cut}");
            continue;
        }
        let (replay, end, next) = outcome.unwrap();
        let count = whole.saturating_sub(2);
        assert_eq!((replay.records, replay.damaged), (records(0..count), vec![]), "{cut}");
        assert_eq!((end, replay.torn, next), (ends[whole - 1], cut as u64 - end, count as u64 + 2), "{cut}");
    }
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_the_journal_goes_on() {
    let (_, bytes) = written(5).await;
    for lost in 1..40 {
        let disk = SimDisk::new();
        disk.plant("journal", bytes[..bytes.len() - lost].to_vec());
        let (journal, replay) = open(&disk).await;
        assert!(replay.torn > 0 && replay.records.len() < 5);
        journal.append(record(7)).await.unwrap();
        let again = open(&disk).await.1;
        assert_eq!(again.records, [replay.records, records(7..8)].concat());
        assert_eq!((again.torn, again.damaged), (0, vec![]));
    }
}

/// P14: one flipped bit costs the record it is in, and is reported.
#[tokio::test]
async fn a_flipped_bit_costs_one_record() {
    let (_, bytes) = written(20).await;
    let frames = scan(&bytes).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (replay, ..) = replay(&flipped.into(), "journal", WHOSE).unwrap();
        let hit = frames.iter().position(|frame| frame.span.contains(&(bit as u64 / 8))).unwrap();
        let mut expected = records(0..20);
        if hit >= 2 {
            expected.remove(hit - 2);
        }
        assert_eq!(replay.records, expected, "bit {bit}");
        if hit == frames.len() - 1 {
            assert!(replay.torn > 0 && replay.damaged.is_empty(), "bit {bit}");
        } else {
            assert_eq!(replay.damaged, [Damage { after: hit.saturating_sub(2), span: frames[hit].span.clone() }], "bit {bit}");
        }
    }
}

/// A torn tail proves that a hole before it was durable. Cut off, it must not take what lies between with it at the replay after that.
#[tokio::test]
async fn a_torn_tail_behind_damage_costs_nothing_later() {
    let mut bytes = head(WHOSE).unwrap();
    let batches: Vec<u64> = (0..2)
        .map(|batch| {
            let at = bytes.len() as u64;
            for number in 0..3 {
                encode(&mut bytes, 2 + batch * 3 + number, at, &record(usize::try_from(batch * 3 + number).unwrap()));
            }
            at
        })
        .collect();
    for batch in batches {
        bytes[usize::try_from(batch).unwrap()] ^= 1;
    }
    let disk = SimDisk::new();
    disk.plant("journal", bytes);
    // The first batch was durable and has lost its first record; the second was torn at its first, and none of it was acknowledged.
    let first = open(&disk).await.1;
    assert_eq!(first.records, records(1..3));
    assert!(first.torn > 0 && first.damaged.len() == 1);
    for _ in 0..2 {
        assert_eq!(open(&disk).await.1.records, records(1..3));
    }
}

#[tokio::test]
async fn a_journal_that_only_looks_like_one_is_refused_in_time() {
    // (Without the bound this test runs for hours.) Marks everywhere, each with a length that reaches far: to sum up all of them is to sum up everything a million times.
    let mut bytes = head(WHOSE).unwrap();
    let mut claim = Vec::new();
    encode(&mut claim, 2, 0, &[0; 100]);
    claim[4..8].copy_from_slice(&u32::try_from(MAX_RECORD).unwrap().to_le_bytes());
    claim.truncate(28);
    while bytes.len() < 24 << 20 {
        bytes.extend_from_slice(&claim);
    }
    let refused = replay(&bytes.into(), "journal", WHOSE).unwrap_err();
    assert!(matches!(refused, JournalError::Unreadable(_)), "{refused}");
}

#[tokio::test]
async fn damage_is_reported_until_compaction_and_costs_nothing_appended_later() {
    let (_, bytes) = written(6).await;
    let mut damaged = bytes.to_vec();
    let frames = scan(&bytes).unwrap();
    damaged[frames[4].record.start] ^= 1;
    let disk = SimDisk::new();
    disk.plant("journal", damaged);
    let left = [records(0..2), records(3..6)].concat();
    let (journal, first) = open(&disk).await;
    assert_eq!(first.records, left);
    journal.append(record(6)).await.unwrap();
    let (journal, second) = open(&disk).await;
    assert_eq!((second.records, &second.damaged), ([left, records(6..7)].concat(), &first.damaged));
    journal.compact(vec![record(1)]).await.unwrap();
    assert_eq!(open(&disk).await.1, Replay { records: records(1..2), ..Replay::default() });
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let (disk, bytes) = written(5).await;
    let (journal, _) = open(&disk).await;
    disk.limit(Some(bytes.len() as u64 + 3));
    let refused = journal.append(record(5)).await.unwrap_err();
    assert!(matches!(&refused, JournalError::Io(error) if error.kind() == io::ErrorKind::StorageFull), "{refused}");
    assert!(journal.compact(vec![record(0); 100]).await.is_err());
    disk.limit(None);
    journal.append(record(6)).await.unwrap();
    assert_eq!(open(&disk).await.1.records, [records(0..5), records(6..7)].concat());
}

#[tokio::test]
async fn what_a_failed_write_left_does_not_come_back_behind_later_records() {
    let (disk, _) = written(2).await;
    let (journal, _) = open(&disk).await;
    let end = journal.size();
    // The first and the second of three fit, and the journal cannot cut them off again.
    disk.limit(Some(end + 80));
    disk.fail(Operation::Resize);
    let refused = join_all([b"first", b"other", b"third"].map(|record| journal.append(record.to_vec()))).await;
    assert!(refused.iter().all(Result::is_err));
    disk.heal();
    assert_eq!(disk.bytes("journal").unwrap().len() as u64, end + 80);
    disk.limit(None);
    journal.append(b"later".to_vec()).await.unwrap();
    assert_eq!(open(&disk).await.1.records, [records(0..2), vec![Bytes::from_static(b"later")]].concat());
}

#[tokio::test]
async fn after_a_failed_sync_only_a_new_file_is_trusted() {
    let (disk, _) = written(2).await;
    let (journal, _) = open(&disk).await;
    disk.fail(Operation::Sync);
    journal.append(record(2)).await.unwrap_err();
    disk.heal();
    journal.append(record(3)).await.unwrap_err();
    journal.compact(vec![record(0), record(1)]).await.unwrap();
    journal.append(record(4)).await.unwrap();
    disk.crash();
    assert_eq!(open(&disk).await.1.records, [records(0..2), records(4..5)].concat());
}

#[tokio::test]
async fn compaction_stands_for_what_was_queued_before_it_and_for_nothing_after() {
    let (disk, _) = written(4).await;
    let (journal, _) = open(&disk).await;
    let before = journal.append(record(4));
    let compaction = journal.compact(vec![record(3), record(4)]);
    let after = journal.append(record(5));
    after.await.unwrap();
    compaction.await.unwrap();
    before.await.unwrap();
    assert_eq!(open(&disk).await.1.records, records(3..6));
}

#[tokio::test]
async fn a_dropped_caller_harms_nobody() {
    let disk = SimDisk::new();
    let (journal, _) = open(&disk).await;
    for number in 0..50 {
        drop(journal.append(record(number)).now_or_never());
    }
    journal.append(record(50)).await.unwrap();
    assert_eq!(open(&disk).await.1.records, records(0..51));
}

#[derive(Debug, Clone)]
enum Step {
    /// So many at once, all awaited.
    Append(usize),
    /// Keeps the newest of what is live.
    Compact(usize),
    /// An append while the disk is full.
    Full,
    /// So many at once, then so many turns of the writer, then a power failure.
    Crash { queued: usize, turns: usize, seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..6usize).prop_map(Step::Append),
        1 => (0..5usize).prop_map(Step::Compact),
        1 => Just(Step::Full),
        3 => (0..6usize, 0..8usize, any::<u64>()).prop_map(|(queued, turns, seed)| Step::Crash { queued, turns, seed }),
    ]
}

/// What the journal must hold, and what it may hold besides.
#[derive(Default)]
struct Model {
    next: usize,
    acknowledged: Vec<Bytes>,
    failed: Vec<Bytes>,
}

impl Model {
    /// Appends records of several sectors, so that a crash can tear a batch in the middle.
    fn queue(&mut self, journal: &Journal, count: usize) -> Vec<(Bytes, Durable)> {
        let first = self.next;
        self.next += count;
        let record = |number: usize| Bytes::from(format!("{number}:{}", "y".repeat(number * 397 % 1500)));
        (first..self.next).map(|number| (record(number), journal.append(record(number).to_vec()))).collect()
    }

    async fn run(mut self, steps: Vec<Step>) {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk).await;
        for step in steps {
            match step {
                Step::Append(count) => {
                    for (record, durable) in self.queue(&journal, count) {
                        durable.await.unwrap();
                        self.acknowledged.push(record);
                    }
                }
                Step::Compact(keep) => {
                    self.acknowledged.drain(..self.acknowledged.len().saturating_sub(keep));
                    journal.compact(self.acknowledged.iter().map(|record| record.to_vec()).collect()).await.unwrap();
                    self.failed.clear();
                }
                Step::Full => {
                    disk.limit(Some(journal.size()));
                    for (record, durable) in self.queue(&journal, 2) {
                        durable.await.unwrap_err();
                        self.failed.push(record);
                    }
                    disk.limit(None);
                }
                Step::Crash { queued, turns, seed } => {
                    let mut flying = self.queue(&journal, queued);
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    disk.crash_torn(seed);
                    drop(journal);
                    flying.retain_mut(|(record, durable)| {
                        let acknowledged = matches!(durable.now_or_never(), Some(Ok(())));
                        self.acknowledged.extend(acknowledged.then(|| record.clone()));
                        !acknowledged
                    });
                    let replay;
                    (journal, replay) = open(&disk).await;
                    assert_eq!(replay.damaged, []);
                    self.acknowledged = self.check(replay.records, flying.into_iter().map(|(record, _)| record).collect());
                }
            }
        }
    }

    /// Every acknowledged record in order, then a prefix of those in flight; of those that failed, any. Answers what is durable from now on.
    fn check(&self, replayed: Vec<Bytes>, flying: Vec<Bytes>) -> Vec<Bytes> {
        let known: Vec<Bytes> = replayed.into_iter().filter(|record| !self.failed.contains(record)).collect();
        assert!(known.starts_with(&self.acknowledged), "{known:?} lacks one of {:?}", self.acknowledged);
        assert!(flying.starts_with(&known[self.acknowledged.len()..]), "{known:?} is no prefix");
        known
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_moment_leaves_a_prefix_with_all_that_was_acknowledged(steps in prop::collection::vec(step(), 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Model::default().run(steps));
    }

    #[test]
    fn any_bytes_at_all_are_refused_or_replayed(noise in prop::collection::vec(any::<u8>(), 0..200), at in 0..2000usize) {
        let mut bytes = head(WHOSE).unwrap();
        for number in 2..20 {
            let batch = bytes.len() as u64;
            encode(&mut bytes, number, batch, &record(usize::try_from(number).unwrap()));
        }
        let at = at.min(bytes.len());
        let end = (at + noise.len()).min(bytes.len());
        bytes.splice(at..end, noise);
        let expected: Vec<Bytes> = records(2..20);
        if let Ok((replay, end, _)) = replay(&bytes.clone().into(), "journal", WHOSE) {
            prop_assert!(end <= bytes.len() as u64);
            prop_assert!(replay.records.iter().all(|record| expected.contains(record)));
        }
    }
}
