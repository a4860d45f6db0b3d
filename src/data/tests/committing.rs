//! Commits: one PUT or parts, conflicts, lost answers, callers who leave.

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
