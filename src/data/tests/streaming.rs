//! Streams: parts that leave while the file is written.

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
