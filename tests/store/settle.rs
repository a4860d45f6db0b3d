//! Unknown outcomes, with somebody else's hand in between: on the simulated bucket, where the moment can be chosen.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use cosmount::{
    store::{
        Capabilities, Fault, Faults, Kind, Operation, Outcome, PartNumber, Payload, Replaces,
        memory::{Effect, MemoryBucket, MemoryService},
        stack,
    },
    support::{Clock, Ctx, Metrics},
};

use crate::{Stage, key, meta, noise};

/// Waits until so many requests of a kind have come.
async fn came(memory: &MemoryBucket, operation: Operation, count: u64) {
    while memory.requests(operation) < count {
        // Virtual time stands still while a task is ready, so this must be a sleep.
        crate::clock().sleep(Duration::from_millis(1)).await;
    }
}

/// A put of `a` whose first answer is lost, and what `between` does before it is looked for.
async fn lost_put(
    stage: &Stage,
    replaces: Replaces,
    fault: Fault,
    between: impl FnOnce(&MemoryBucket),
) -> cosmount::store::Result<cosmount::store::Stored> {
    let memory = stage.memory_bucket();
    memory.reset_counters();
    stage.rules().add(Operation::Put, 1, fault);
    let hold = memory.hold(Operation::Head);
    let (target, fresh) = (key("a"), meta(7));
    let put = stage.bucket.put(&stage.cx, &target, &fresh, Payload::from(noise(100)), &replaces);
    let hand = async {
        came(memory, Operation::Head, 1).await;
        between(memory);
        drop(hold);
    };
    tokio::join!(put, hand).0
}

#[tokio::test(start_paused = true)]
async fn a_write_of_somebody_else_between_is_a_conflict_and_stays() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let stage = Stage::memory().await;
        let base = stage.put("a", "base").await.version;
        let put = lost_put(&stage, Replaces::Version(base), fault, |memory| drop(memory.put_foreign(&key("a"), "theirs"))).await;
        assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(stage.peek(&key("a")).unwrap(), "theirs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_of_somebody_else_between_is_seen() {
    let stage = Stage::memory().await;
    let put = lost_put(&stage, Replaces::Absent, Fault::LoseRequest, |memory| drop(memory.put_foreign(&key("a"), "theirs"))).await;
    assert_eq!(put.unwrap_err().kind(), Kind::Exists);
    assert_eq!(stage.peek(&key("a")).unwrap(), "theirs");
}

#[tokio::test(start_paused = true)]
async fn a_delete_of_somebody_else_between_is_a_conflict() {
    let stage = Stage::memory().await;
    let base = stage.put("a", "base").await.version;
    let put = lost_put(&stage, Replaces::Version(base), Fault::LoseRequest, |memory| memory.delete_foreign(&key("a"))).await;
    assert_eq!(put.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(stage.peek(&key("a")), None);
}

#[tokio::test(start_paused = true)]
async fn equal_bytes_of_somebody_else_are_not_taken_for_ours() {
    let stage = Stage::memory().await;
    let put = lost_put(&stage, Replaces::Absent, Fault::LoseRequest, |memory| drop(memory.put_foreign(&key("a"), noise(100)))).await;
    assert_eq!(put.unwrap_err().kind(), Kind::Exists, "same ETag, size and checksum, another token");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_finds_its_own_first_attempt() {
    // The answer is lost, then the first look is, and only then is it found: one PUT in all.
    let stage = Stage::memory().await;
    stage.rules().add(Operation::Head, 1, Fault::Refuse(Kind::Unavailable));
    let stored = lost_put(&stage, Replaces::Absent, Fault::LoseAnswer, |_| {}).await.unwrap();
    assert_eq!(stored.version.size, 100);
    assert_eq!(stage.memory_bucket().requests(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn without_forbid_overwrite_a_lost_create_is_settled_all_the_same() {
    let stage = Stage::memory_with(Capabilities { forbid_overwrite: false, ..Capabilities::cos() }).await;
    lost_put(&stage, Replaces::Absent, Fault::LoseAnswer, |_| {}).await.unwrap();
    assert_eq!(stage.memory_bucket().requests(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn a_newer_object_is_not_deleted_by_a_repeat() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let stage = Stage::memory().await;
        let old = stage.put("a", "old").await.version;
        let memory = stage.memory_bucket();
        memory.reset_counters();
        stage.rules().add(Operation::Delete, 1, fault);
        let hold = memory.hold(Operation::Head);
        let target = key("a");
        let delete = stage.bucket.delete(&stage.cx, &target, Some(&old));
        let hand = async {
            came(memory, Operation::Head, 1).await;
            memory.put_foreign(&target, "new");
            drop(hold);
        };
        tokio::join!(delete, hand).0.unwrap();
        assert_eq!(stage.peek(&target).unwrap(), "new");
    }
}

#[tokio::test(start_paused = true)]
async fn a_complete_that_was_done_and_overwritten_is_a_conflict() {
    let stage = Stage::memory().await;
    let memory = stage.memory_bucket();
    let upload = stage.bucket.create_upload(&stage.cx, &key("a"), &meta(7)).await.unwrap();
    let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), noise(100).into()).await.unwrap();
    memory.fail_next(Operation::CompleteUpload, Kind::Unavailable, Effect::LostAfter);
    let hold = memory.hold(Operation::Head);
    let parts = [part];
    let complete = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent);
    let hand = async {
        came(memory, Operation::Head, 1).await;
        memory.put_foreign(&key("a"), "theirs");
        drop(hold);
    };
    assert_eq!(tokio::join!(complete, hand).0.unwrap_err().kind(), Kind::Exists);
    assert_eq!((stage.peek(&key("a")).unwrap().as_ref(), memory.requests(Operation::CompleteUpload)), (&b"theirs"[..], 1));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_cannot_be_settled_stays_unknown() {
    let stage = Stage::memory().await;
    let memory = stage.memory_bucket();
    memory.fail_next(Operation::Put, Kind::Unavailable, Effect::LostAfter);
    let _hold = memory.hold(Operation::Head);
    let error = stage.bucket.put(&stage.cx, &key("a"), &meta(7), noise(10).into(), &Replaces::Absent).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
    assert!(error.to_string().contains("it may have happened"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_turn_was_not_made() {
    let stage = Stage::memory().await;
    let memory = stage.memory_bucket();
    let hold = memory.hold(Operation::List);
    let request = cosmount::store::ListRequest::default();
    // All 16 places are taken by lists that do not return, with more patience than the put.
    let patient = crate::context(Duration::from_secs(1000));
    let lists = futures_util::future::join_all((0..16).map(|_| stage.bucket.list(&patient, &request)));
    let put = async {
        came(memory, Operation::List, 16).await;
        let error = stage.bucket.put(&stage.cx, &key("a"), &meta(7), noise(10).into(), &Replaces::Absent).await.unwrap_err();
        drop(hold);
        error
    };
    let (_, error) = tokio::join!(lists, put);
    assert_eq!((error.kind(), error.outcome()), (Kind::NoProgress, Outcome::NotDone), "{error}");
    assert_eq!(memory.requests(Operation::Put), 0);
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_refusals_ends_at_the_deadline() {
    let stage = Stage::memory().await;
    for _ in 0..10_000 {
        stage.memory_bucket().fail_next(Operation::Head, Kind::Throttled, Effect::Refused);
    }
    let start = stage.cx.clock().now();
    let error = stage.bucket.head(&stage.cx, &key("a")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Throttled);
    let waited = stage.cx.clock().now() - start;
    assert!(waited <= Duration::from_secs(20), "{waited:?}");
    assert!((5..200).contains(&error.tries()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_again_and_again_arrive() {
    let stage = Stage::memory().await;
    let version = stage.put("a", noise(3 << 20)).await.version;
    for cut in [0, 1, 300_000, 262_144, 0, 0, 5, 1 << 20] {
        stage.memory_bucket().cut_next_body(cut);
    }
    assert_eq!(stage.read(&version).await.unwrap(), noise(3 << 20));
    assert_eq!(stage.memory_bucket().bytes_read(), 3 << 20, "no byte twice");
    stage.rules().add(Operation::Get, 1, Fault::CutBody(100_000));
    assert_eq!(stage.read(&version).await.unwrap(), noise(3 << 20));
}

#[tokio::test(start_paused = true)]
async fn what_is_made_while_a_lost_multi_delete_is_looked_for_stays() {
    let clock: Arc<dyn Clock> = Arc::new(Virtual(tokio::time::Instant::now()));
    let memory = MemoryBucket::with(crate::name(), Capabilities::cos(), Arc::clone(&clock));
    let account = MemoryService::new(Arc::clone(&clock));
    account.add(Arc::clone(&memory));
    let faults = Arc::new(Faults::default());
    let service = stack(account, 16, &Metrics::default(), Arc::clone(&clock), Some(Arc::clone(&faults)));
    let cx = Ctx::new(Arc::clone(&clock), Duration::from_secs(60), 1, 1);
    let bucket = service.open(&cx, &crate::name()).await.unwrap();
    let old =
        bucket.put(&cx, &key("a"), &meta(1), Payload::from(bytes::Bytes::from_static(b"same")), &Replaces::Absent).await.unwrap().version;
    clock.sleep(Duration::from_secs(3600)).await;
    let cx = Ctx::new(clock, Duration::from_secs(60), 1, 1);
    faults.add(Operation::DeleteMany, 1, Fault::LoseAnswer);
    let hold = memory.hold(Operation::Head);
    let gone = [old];
    let delete = bucket.delete_many(&cx, &gone);
    let hand = async {
        came(&memory, Operation::Head, 1).await;
        crate::clock().sleep(Duration::from_secs(5)).await;
        memory.put_foreign(&key("a"), "same");
        // The store cannot be asked for a while.
        crate::clock().sleep(Duration::from_secs(15)).await;
        drop(hold);
    };
    let refused = tokio::join!(delete, hand).0.unwrap();
    assert_eq!(memory.peek(&key("a")).unwrap(), b"same");
    assert!(refused.is_empty(), "{refused:?}");
}

/// A clock whose time of day goes with the virtual time.
#[derive(Debug)]
struct Virtual(tokio::time::Instant);

impl Clock for Virtual {
    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        crate::clock().sleep(duration)
    }

    fn chance(&self, bytes: &mut [u8]) {
        crate::clock().chance(bytes);
    }
}
