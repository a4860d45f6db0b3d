//! Copies within the bucket, holes, and what an edit of something large costs.

use super::*;

/// Makes all of `source` what is at `at` in `to`, as `vfs` does.
async fn copy(s: &Setting, source: &Arc<File>, range: Range<u64>, to: &Arc<File>, at: u64) {
    let mut done = range.start;
    while done < range.end {
        let there = at + (done - range.start);
        done += match to.refer(&s.fresh(), there, source, done..range.end).await.unwrap() {
            Referred::Done(bytes) => bytes,
            Referred::Data(bytes) => {
                let bytes = s.read(source, done..done + bytes).await.unwrap();
                s.write(to, there, &bytes).await.unwrap();
                bytes.len() as u64
            }
        };
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_whole_file_is_one_request_and_moves_nothing() {
    for size in [1, 100_000, 40 * MIB] {
        let s = Setting::new();
        let bytes = pattern(1, size);
        let source = s.object("a", bytes.clone());
        let to = s.new_file();
        copy(&s, &source, 0..size, &to, 0).await;
        assert_eq!((to.size(), to.dirty_bytes()), (size, 0));
        let made = to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
        assert_eq!(s.requests(), BTreeMap::from([(Operation::Copy, 1)]));
        assert!(s.peek("b") == bytes);
        let head = s.bucket.peek_head(&Key::new("b")).unwrap();
        assert_eq!(&head.meta, &made.meta, "with the copy's own metadata");
        assert_eq!(head.meta.content_type.as_deref(), Some("text/plain"));
        assert!(s.read(&to, 0..size).await.unwrap() == bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_above_the_limit_of_one_is_made_of_parts() {
    let capabilities = Capabilities { largest_part: 8 * MIB, largest_copy: 8 * MIB, ..Capabilities::cos() };
    let s = Setting::with(64, Config::default(), capabilities, true);
    let bytes = pattern(1, 20 * MIB + 5);
    let source = s.object("a", bytes.clone());
    let to = s.new_file();
    copy(&s, &source, 0..20 * MIB + 5, &to, 0).await;
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    let expected = [(Operation::CreateUpload, 1), (Operation::CopyPart, 3), (Operation::CompleteUpload, 1)];
    assert_eq!(s.requests(), BTreeMap::from(expected));
    assert!(s.peek("b") == bytes);
}

#[tokio::test(start_paused = true)]
async fn ranges_of_several_objects_and_what_is_written_between_come_together() {
    let s = Setting::new();
    let (a, b) = (pattern(1, 20 * MIB), pattern(2, 9 * MIB + 7));
    let (first, second) = (s.object("a", a.clone()), s.object("b", b.clone()));
    let to = s.object("c", pattern(3, 30 * MIB));
    let mut expected = pattern(3, 30 * MIB);
    let mut put = |at: u64, bytes: &[u8]| expected[at as usize..][..bytes.len()].copy_from_slice(bytes);
    copy(&s, &first, 3 * MIB + 1..12 * MIB, &to, 5 * MIB).await;
    put(5 * MIB, &a[3 * MIB as usize + 1..12 * MIB as usize]);
    copy(&s, &second, 77..8 * MIB, &to, 16 * MIB).await;
    put(16 * MIB, &b[77..8 * MIB as usize]);
    // Over the middle of one of them, and over the seam to the base.
    for (at, byte) in [(7 * MIB, 250), (5 * MIB - 3, 251), (24 * MIB - 77, 252)] {
        s.write(&to, at, &[byte; 1000]).await.unwrap();
        put(at, &[byte; 1000]);
    }
    assert!(s.read(&to, 0..u64::MAX).await.unwrap() == expected, "before it is in the bucket");
    s.bucket.reset_counters();
    to.commit(&s.cx, over(&to, "c")).await.unwrap().unwrap();
    assert!(s.peek("c") == expected);
    let sent = s.bucket.bytes_written();
    assert!(sent <= 3 * 1000 + 6 * MIB, "{sent} bytes for three runs and three seams");
    assert!(s.read(&to, 0..u64::MAX).await.unwrap() == expected);
}

#[tokio::test(start_paused = true)]
async fn what_of_the_source_is_not_in_the_bucket_is_copied_as_bytes() {
    let s = Setting::new();
    let mut bytes = pattern(1, 12 * MIB);
    let source = s.object("a", bytes.clone());
    s.write(&source, 5 * MIB, &[9; 5000]).await.unwrap();
    bytes[5 << 20..][..5000].fill(9);
    source.truncate(&s.cx, 14 * MIB).await.unwrap();
    bytes.resize(14 << 20, 0);
    let to = s.new_file();
    copy(&s, &source, 0..14 * MIB, &to, 0).await;
    assert_eq!(to.dirty_bytes(), 5000, "only what was written");
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("b") == bytes);
    assert!(source.is_dirty());
}

#[tokio::test(start_paused = true)]
async fn the_source_is_edited_while_its_copy_waits() {
    for whole in [true, false] {
        let s = Setting::new();
        let bytes = pattern(1, 20 * MIB);
        let source = s.object("a", bytes.clone());
        let to = s.new_file();
        copy(&s, &source, 0..20 * MIB, &to, 0).await;
        if whole {
            source.truncate(&s.cx, 0).await.unwrap();
        }
        s.write(&source, 10 * MIB, b"edited").await.unwrap();
        s.bucket.reset_counters();
        source.commit(&s.cx, over(&source, "a")).await.unwrap().unwrap();
        assert!(s.bucket.bytes_read() <= if whole { 20 * MIB } else { 2 * MIB }, "what stays is referred to where it is now");
        assert!(s.read(&to, 0..u64::MAX).await.unwrap() == bytes);
        to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
        assert!(s.peek("b") == bytes, "{whole}");
        assert!(s.data.room.lent_bytes(cache::Tag::new(s.store().name(), &source.base().unwrap())) == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_source_is_moved_while_its_copy_waits() {
    let s = Setting::new();
    let bytes = pattern(1, 3 * MIB);
    let source = s.object("a", bytes.clone());
    let to = s.new_file();
    copy(&s, &source, 0..3 * MIB, &to, 0).await;
    let old = source.base().unwrap();
    let copied = s.data.copy_object(&s.cx, &s.store(), &old, &Key::new("moved"), &Meta::default(), &Replaces::Absent).await.unwrap();
    s.data.carry(&s.store(), &old, &copied.version, std::slice::from_ref(&(0..old.size)));
    s.bucket.delete_foreign(&Key::new("a"));
    s.bucket.reset_counters();
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Copy, 1)]));
    assert!(s.peek("b") == bytes);
}

#[tokio::test(start_paused = true)]
async fn the_source_is_removed_while_its_copy_waits() {
    let s = Setting::new();
    let bytes = pattern(1, 30 * MIB);
    let source = s.object("a", bytes.clone());
    let to = s.new_file();
    copy(&s, &source, 0..30 * MIB, &to, 0).await;
    let version = source.base().unwrap();
    assert_eq!(s.data.lent_bytes(&s.store(), &version), 30 * MIB);
    s.data.secure_lent(&s.fresh(), &s.store(), &version).await.unwrap();
    s.bucket.delete_foreign(&Key::new("a"));
    assert_eq!(s.data.lent_bytes(&s.store(), &version), 0);
    assert!(s.read(&to, 0..u64::MAX).await.unwrap() == bytes);
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("b") == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_somebody_else_replaces_is_an_error_and_never_wrong_bytes() {
    for size in [100_000, 40 * MIB] {
        for (whole, gone) in [(true, false), (true, true), (false, false), (false, true)] {
            let s = Setting::new();
            let source = s.object("a", pattern(1, size));
            let to = s.new_file();
            copy(&s, &source, 0..size, &to, 0).await;
            if !whole {
                s.write(&to, size, b"more").await.unwrap();
            }
            if gone {
                s.bucket.delete_foreign(&Key::new("a"));
            } else {
                s.bucket.put_foreign(&Key::new("a"), pattern(2, size));
            }
            let error = to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap_err();
            assert!(matches!(error, Error::SourceGone), "{size} {whole} {gone}: {error}");
            assert!(matches!(s.read(&to, 0..100).await, Err(Error::SourceGone)));
            assert!(s.bucket.peek(&Key::new("b")).is_none() && to.is_dirty());
            s.idle().await;
            assert!(s.bucket.open_uploads().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_overwritten_in_part_refers_to_the_rest() {
    let s = Setting::new();
    let mut bytes = pattern(1, 16 * MIB);
    let source = s.object("a", bytes.clone());
    let to = s.new_file();
    copy(&s, &source, 0..16 * MIB, &to, 0).await;
    s.write(&to, 8 * MIB + 5, &[9; 4096]).await.unwrap();
    bytes[(8 << 20) + 5..][..4096].fill(9);
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    assert!(s.peek("b") == bytes);
    assert!(s.bucket.bytes_written() <= MIB && s.bucket.bytes_read() <= MIB + 64 * KIB);
    // And a copy of a copy that is not committed yet is one of its source.
    let (second, third) = (s.new_file(), s.new_file());
    copy(&s, &source, 0..16 * MIB, &second, 0).await;
    copy(&s, &second, 0..16 * MIB, &third, 0).await;
    s.bucket.reset_counters();
    third.commit(&s.cx, target("c", Replaces::Absent)).await.unwrap().unwrap();
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Copy, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_answer_was_lost_is_settled() {
    let s = Setting::new();
    let source = s.object("a", pattern(1, 5 * MIB));
    let to = s.new_file();
    copy(&s, &source, 0..5 * MIB, &to, 0).await;
    s.bucket.fail_next(Operation::Copy, Kind::Unavailable, Effect::LostAfter);
    assert!(to.commit(&s.cx, target("b", Replaces::Absent)).await.is_err());
    to.commit(&s.cx, target("b", Replaces::Absent)).await.unwrap().unwrap();
    assert_eq!(s.bucket.requests(Operation::Copy), 1, "found by its token");
    assert!(!to.is_dirty() && s.peek("b") == pattern(1, 5 * MIB));
}

#[tokio::test(start_paused = true)]
async fn holes_show_zeros_and_are_found_until_they_are_in_the_bucket() {
    let s = Setting::new();
    let mut bytes = pattern(1, 10 * MIB);
    let file = s.object("a", bytes.clone());
    assert_eq!((file.seek(5, false), file.seek(5, true)), (Some(5), Some(10 * MIB)), "an object is data");
    file.punch(&s.cx, 3 * MIB..5 * MIB).await.unwrap();
    bytes[3 << 20..5 << 20].fill(0);
    s.write(&file, 12 * MIB, b"behind").await.unwrap();
    bytes.resize(12 << 20, 0);
    bytes.extend_from_slice(b"behind");
    let seeks = |from| (file.seek(from, false), file.seek(from, true));
    assert_eq!(seeks(0), (Some(0), Some(3 * MIB)));
    assert_eq!(seeks(4 * MIB), (Some(5 * MIB), Some(4 * MIB)));
    assert_eq!(seeks(5 * MIB), (Some(5 * MIB), Some(10 * MIB)));
    assert_eq!(seeks(11 * MIB), (Some(12 * MIB), Some(11 * MIB)));
    assert_eq!(seeks(12 * MIB + 6), (None, None));
    assert_eq!(file.dirty_bytes(), 6, "a hole takes no room");
    s.write(&file, 4 * MIB, &[7; 10]).await.unwrap();
    bytes[4 << 20..][..10].fill(7);
    assert_eq!(seeks(3 * MIB), (Some(4 * MIB), Some(3 * MIB)));
    assert!(s.read(&file, 0..u64::MAX).await.unwrap() == bytes);
    file.commit(&s.cx, over(&file, "a")).await.unwrap().unwrap();
    assert!(s.peek("a") == bytes && s.read(&file, 0..u64::MAX).await.unwrap() == bytes);
    assert_eq!(seeks(3 * MIB), (Some(3 * MIB), Some(12 * MIB + 6)));
}
