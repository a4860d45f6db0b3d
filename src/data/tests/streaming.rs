//! Streams: parts that leave while the file is written.

use super::*;

use crate::store::{memory::MemoryService, stack};

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
        for _ in 0..100 {
            s.bucket.fail_next(Operation::UploadPart, Kind::Denied, Effect::Refused);
        }
        pour(&s, &file, 20 * MIB, &bytes[20 << 20..]).await;
        s.idle().await;
        for _ in 0..2 {
            file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap_err();
        }
        s.bucket.clear_faults();
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

/// COS with a thousandth of its limits: parts of 1 KiB to 5 MiB, ten of them.
fn thousandth(limit: u64) -> Setting {
    let config = Config { part_size: ByteSize::mib(1), ..Config::default() };
    Setting::with(limit, config, Capabilities::cos().thousandth(), true)
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_past_the_last_part_number() {
    let s = thousandth(8);
    s.bucket.set_latency(Duration::from_millis(10));
    let file = streaming(&s, "a");
    let bytes = pattern(1, 45 * MIB);
    pour(&s, &file, 0, &bytes).await;
    let continued = s.bucket.requests(Operation::CompleteUpload);
    assert!(continued >= 3, "{:?}", s.requests());
    let made = file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("a") == bytes);
    let head = s.bucket.peek_head(&Key::new("a")).unwrap();
    assert_eq!((file.base().as_ref(), &made.stored.version), (Some(&head.version), &head.version));
    assert_eq!((&made.meta, head.meta.content_type.as_deref()), (&head.meta, Some("text/plain")));
    assert!(made.meta.token.is_some(), "{:?}", made.meta);
    assert_eq!((s.bucket.bytes_written(), s.counter("spilled_bytes")), (45 * MIB, 0), "what is there is copied by the store");
    assert!(s.bucket.requests(Operation::CopyPart) >= continued);
    s.idle().await;
    assert!(s.bucket.open_uploads().is_empty());
    assert_eq!((s.budget.used(Share::Dirty), file.is_dirty()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn attributes_set_between_continuations_are_those_of_the_object() {
    let s = thousandth(8);
    let file = streaming(&s, "a");
    let bytes = pattern(1, 40 * MIB);
    pour(&s, &file, 0, &bytes[..20 << 20]).await;
    let late =
        || Target { times_set: true, meta: Meta { content_type: Some("a/b".into()), ..Meta::default() }, ..target("a", Replaces::Absent) };
    file.stream_to(Some(late()));
    pour(&s, &file, 20 * MIB, &bytes[20 << 20..]).await;
    let made = file.commit(&s.cx, late()).await.unwrap().unwrap();
    let head = s.bucket.peek_head(&Key::new("a")).unwrap();
    assert_eq!((head.meta.content_type.as_deref(), head.meta.user["mtime"].as_str()), (Some("a/b"), "1"));
    assert_eq!((head.version, head.meta), (made.stored.version, made.meta));
    assert!(s.peek("a") == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_continuation_that_fails_is_made_good_by_the_commit() {
    for (operation, effect) in [
        (Operation::CompleteUpload, Effect::Refused),
        (Operation::CompleteUpload, Effect::LostBefore),
        (Operation::CompleteUpload, Effect::LostAfter),
        (Operation::CreateUpload, Effect::Refused),
        (Operation::CopyPart, Effect::Refused),
        (Operation::UploadPart, Effect::Refused),
    ] {
        let config = Config { part_size: ByteSize::kib(256), ..Config::default() };
        let s = Setting::with(8, config, Capabilities { smallest_part: 64 * KIB, most_parts: 40, ..Capabilities::cos() }, true);
        let file = streaming(&s, "a");
        let bytes = pattern(1, 20 * MIB);
        // The first upload has been opened, the next steps fail.
        pour(&s, &file, 0, &bytes[..3 << 20]).await;
        s.bucket.fail_next(operation, Kind::Unavailable, effect);
        pour(&s, &file, 3 * MIB, &bytes[3 << 20..]).await;
        s.idle().await;
        assert_eq!(s.bucket.faults_left(), 0, "{operation:?}");
        file.commit(&s.fresh(), over(&file, "a")).await.unwrap().unwrap();
        assert!(s.peek("a") == bytes, "{operation:?} {effect:?}");
        s.idle().await;
        assert!(s.bucket.open_uploads().is_empty(), "{operation:?} {effect:?}");
        assert_eq!((s.budget.used(Share::Dirty), file.is_dirty()), (0, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_cut_while_it_is_continued() {
    for size in [0, 3 * MIB, 7 * MIB] {
        let s = thousandth(32);
        let file = streaming(&s, "a");
        let mut bytes = pattern(1, 8 * MIB);
        let hold = s.bucket.hold(Operation::CompleteUpload);
        pour(&s, &file, 0, &bytes).await;
        while s.bucket.requests(Operation::CompleteUpload) == 0 {
            s.cx.clock().sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(file.truncate(&s.fresh(), size).await, Err(Error::Streaming)), "its bytes are on their way");
        drop(hold);
        // As the caller does that is told so.
        file.commit(&s.fresh(), over(&file, "a")).await.unwrap();
        file.truncate(&s.fresh(), size).await.unwrap();
        pour(&s, &file, size, &bytes[..2 << 20]).await;
        file.commit(&s.fresh(), over(&file, "a")).await.unwrap().unwrap();
        let head: Vec<u8> = bytes[..2 << 20].to_vec();
        bytes.truncate(size as usize);
        assert!(s.peek("a") == [bytes, head].concat(), "{size}");
    }
}

/// How long 64 MiB take, of a stream whose requests take 50 ms each.
async fn seconds_at(parallel_parts: usize, most_parallel_parts: usize) -> Duration {
    let config = Config { part_size: ByteSize::mib(1), parallel_parts, most_parallel_parts, ..Config::default() };
    let s = Setting::with(256, config, Capabilities::cos(), true);
    s.bucket.set_latency(Duration::from_millis(50));
    let file = streaming(&s, "a");
    let start = s.cx.clock().now();
    pour(&s, &file, 0, &pattern(1, 64 * MIB)).await;
    file.commit(&s.cx, target("a", Replaces::Absent)).await.unwrap().unwrap();
    s.cx.clock().now() - start
}

#[tokio::test(start_paused = true)]
async fn more_parts_are_in_flight_where_that_brings_more() {
    // Opening, 64 parts, completing, asking for the time.
    assert!(seconds_at(4, 4).await >= Duration::from_millis(50 * 19));
    assert!(seconds_at(4, 64).await <= Duration::from_millis(50 * 12), "{:?}", seconds_at(4, 64).await);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_stream_waits_for_no_part_before_it() {
    let s = Setting::new();
    let file = streaming(&s, "a");
    pour(&s, &file, 0, &pattern(1, 9 * MIB)).await;
    s.idle().await;
    s.bucket.set_latency_of(Operation::UploadPart, Duration::from_secs(10));
    // A full part leaves, a short one is left for the commit.
    pour(&s, &file, 9 * MIB, &pattern(2, 8 * MIB)).await;
    let start = s.cx.clock().now();
    file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.cx.clock().now() - start < Duration::from_secs(11), "{:?}", s.cx.clock().now() - start);
    assert!(s.peek("a") == [pattern(1, 9 * MIB), pattern(2, 8 * MIB)].concat());
    assert_eq!((s.budget.used(Share::Dirty), file.is_dirty()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_runs_out_of_patience_leaves_a_stream_that_the_next_one_ends() {
    let s = Setting::new();
    let file = streaming(&s, "a");
    pour(&s, &file, 0, &pattern(1, 9 * MIB)).await;
    s.idle().await;
    let hold = s.bucket.hold(Operation::UploadPart);
    pour(&s, &file, 9 * MIB, &pattern(2, 8 * MIB)).await;
    let late = file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap_err();
    assert!(matches!(late, Error::NoProgress(_)), "{late:?}");
    // Behind a last part that was too short to have any behind it.
    s.write(&file, 17 * MIB, b"more").await.unwrap();
    drop(hold);
    file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("a") == [pattern(1, 9 * MIB), pattern(2, 8 * MIB), b"more".to_vec()].concat());
    assert_eq!((s.budget.used(Share::Dirty), file.is_dirty()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_slows_the_writer_and_takes_no_more_memory() {
    let s = Setting::new();
    s.bucket.set_latency_of(Operation::UploadPart, Duration::from_secs(2));
    let share = s.budget.share(Share::Dirty);
    let file = streaming(&s, "a");
    let bytes = pattern(1, 200 * MIB);
    let start = s.cx.clock().now();
    for (part, n) in bytes.chunks(1 << 20).zip(0..) {
        s.write(&file, n * MIB, part).await.unwrap();
        assert!(s.budget.used(Share::Dirty) <= share);
    }
    assert!(s.cx.clock().now() - start > Duration::from_secs(5), "the writer waited");
    file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap().unwrap();
    assert_eq!((s.bucket.bytes_written(), s.counter("spilled_bytes")), (200 * MIB, 0), "nothing goes twice, nothing over the disk");
    assert!(s.peek("a") == bytes);
}

#[tokio::test(start_paused = true)]
async fn throttled_parts_are_fewer_in_flight() {
    let s = Setting::new();
    let service = MemoryService::new(Arc::clone(s.cx.clock()));
    service.add(Arc::clone(&s.bucket));
    let stacked = stack(service, 64, &s.metrics, Arc::clone(s.cx.clock()), None);
    let file = s.data.open(stacked.open(&s.cx, s.bucket.name()).await.unwrap(), None);
    file.stream_to(Some(target("a", Replaces::Absent)));
    assert_eq!(s.data.room.parts_at_once(), 8);
    let bytes = pattern(1, 40 * MIB);
    pour(&s, &file, 0, &bytes[..20 << 20]).await;
    for _ in 0..2 {
        s.bucket.fail_next(Operation::UploadPart, Kind::Throttled, Effect::Refused);
    }
    pour(&s, &file, 20 * MIB, &bytes[20 << 20..]).await;
    s.idle().await;
    assert_eq!(s.data.room.parts_at_once(), 4);
    file.commit(&s.fresh(), target("a", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("a") == bytes);
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
