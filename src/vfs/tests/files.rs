//! Bytes and attributes of files: create, write, close, fsync, truncate, chmod.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_before_and_after_close_and_by_another_mount() {
    let s = Setting::new();
    let fh = s.create("a", BOTH).await.unwrap();
    s.write(fh, 0, "hello").await.unwrap();
    assert_eq!(s.read(fh).await.unwrap(), "hello");
    assert_eq!(s.find("a").await.unwrap().attr.size, 5);
    assert_eq!(s.peek("a"), None, "nothing is sent before close");
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("hello"));
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    assert_eq!(other.load("a").await.unwrap(), "hello");
    let (ours, theirs) = (s.find("a").await.unwrap().attr, other.find("a").await.unwrap().attr);
    assert_eq!((ours.ino, ours.mode, ours.uid, ours.mtime), (theirs.ino, theirs.mode, theirs.uid, theirs.mtime));
    assert_eq!((theirs.mode, theirs.uid, theirs.gid), (0o640, 1000, 100));
}

#[tokio::test(start_paused = true)]
async fn a_small_file_costs_one_put_and_a_clean_close_nothing() {
    let s = Setting::new();
    s.find("a").await.unwrap_err();
    s.bucket.reset_counters();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Put, 1)]));
    let fh = s.open("a", BOTH).await.unwrap();
    s.bucket.reset_counters();
    s.close(fh).await.unwrap();
    assert_eq!(s.bucket.all_requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_file_is_made_by_its_close() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_failed_close_says_so_and_the_next_fsync_succeeds() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "kept").await.unwrap();
    s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
    assert!(matches!(s.flush(fh).await, Err(Error::Denied(_))));
    let reason = s.vfs.getxattr(&s.cx(), s.ino("a").await, "user.cos.dirty".as_ref()).await.unwrap();
    assert!(String::from_utf8_lossy(&reason).contains("PUT Object"), "{reason:?}");
    s.vfs.fsync(&s.cx(), fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("kept"));
    s.vfs.release(fh);
    let clean = s.vfs.getxattr(&s.cx(), s.ino("a").await, "user.cos.dirty".as_ref()).await;
    assert!(matches!(clean, Err(Error::NoAttribute)), "{clean:?}");
}

#[tokio::test(start_paused = true)]
async fn what_close_could_not_send_is_sent_behind_it() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "kept").await.unwrap();
    for _ in 0..3 {
        s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
    }
    s.close(fh).await.unwrap_err();
    assert_eq!(s.peek("a"), None);
    assert_eq!(s.load("a").await.unwrap(), "kept", "what is not in COS yet is still read");
    s.idle().await;
    assert_eq!(s.peek("a").as_deref(), Some("kept"));
    assert!(s.vfs.names.lock().open.is_empty(), "the open file ends with its bytes");
}

#[tokio::test(start_paused = true)]
async fn a_mapped_page_written_after_the_last_flush_is_committed_behind() {
    let s = Setting::new();
    s.save("a", "aaaa").await.unwrap();
    let fh = s.open("a", BOTH).await.unwrap();
    s.flush(fh).await.unwrap();
    s.vfs.write(&s.cx(), fh, 1, Bytes::from_static(b"b"), true, None).await.unwrap();
    s.vfs.release(fh);
    s.idle().await;
    assert_eq!(s.peek("a").as_deref(), Some("abaa"));
}

#[tokio::test(start_paused = true)]
async fn the_close_of_a_forked_child_publishes_nothing() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "half").await.unwrap();
    s.vfs.flush(&s.cx(), fh, Owner(2)).await.unwrap();
    assert_eq!(s.peek("a"), None);
    s.vfs.write(&s.cx(), fh, 4, Bytes::from_static(b"+"), true, None).await.unwrap();
    s.vfs.flush(&s.cx(), fh, Owner(2)).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("half+"), "the page cache does not say who wrote: every flush commits");
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_writers_of_a_handle_commits_at_its_close() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.vfs.write(&s.cx(), fh, 0, Bytes::from_static(b"one"), false, Some(Owner(1))).await.unwrap();
    s.vfs.write(&s.cx(), fh, 3, Bytes::from_static(b"two"), false, Some(Owner(2))).await.unwrap();
    s.vfs.flush(&s.cx(), fh, Owner(3)).await.unwrap();
    assert_eq!(s.peek("a"), None, "it wrote nothing");
    s.vfs.flush(&s.cx(), fh, Owner(1)).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("onetwo"), "its close has returned 0");
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_nobody_looked_at_fails_for_the_next_one_too() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.vfs.write(&s.cx(), fh, 0, Bytes::from_static(b"of a child"), false, Some(Owner(2))).await.unwrap();
    for owner in [2, 1, 1] {
        s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
        assert!(s.vfs.flush(&s.cx(), fh, Owner(owner)).await.is_err(), "process {owner}");
    }
    s.vfs.flush(&s.cx(), fh, Owner(1)).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("of a child"));
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn handles_share_bytes_and_size() {
    let s = Setting::new();
    s.save("a", "0123456789").await.unwrap();
    let (one, two) = (s.open("a", BOTH).await.unwrap(), s.open("a", BOTH).await.unwrap());
    s.write(one, 8, "xyz").await.unwrap();
    assert_eq!(s.read(two).await.unwrap(), "01234567xyz");
    let ino = s.ino("a").await;
    let cut = SetAttr { size: Some(3), ..SetAttr::default() };
    assert_eq!(s.vfs.setattr(&s.cx(), ino, Some(two), cut).await.unwrap().attr.size, 3);
    assert_eq!(s.read(one).await.unwrap(), "012");
    s.close(one).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("012"));
    s.close(two).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn append_lands_at_the_end_whatever_the_offset() {
    let s = Setting::new();
    s.save("a", "one").await.unwrap();
    let fh = s.open("a", APPEND).await.unwrap();
    s.write(fh, 0, "two").await.unwrap();
    s.write(fh, 0, "three").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("onetwothree"));
}

#[tokio::test(start_paused = true)]
async fn truncate_without_a_handle_is_in_cos_when_it_returns() {
    let s = Setting::new();
    s.save("a", "0123456789").await.unwrap();
    let ino = s.ino("a").await;
    for (size, expected) in [(4, "0123"), (6, "0123\0\0"), (0, "")] {
        let entry = s.vfs.setattr(&s.cx(), ino, None, SetAttr { size: Some(size), ..SetAttr::default() }).await.unwrap();
        assert_eq!(entry.attr.size, size);
        assert_eq!(s.peek("a").as_deref(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn truncating_an_empty_file_at_open_sets_its_time_everywhere() {
    let s = Setting::new();
    s.save("a", "").await.unwrap();
    let past = SetAttr { mtime: Some(SetTime::To(SystemTime::UNIX_EPOCH)), ..SetAttr::default() };
    s.vfs.setattr(&s.cx(), s.ino("a").await, None, past).await.unwrap();
    let fh = s.open("a", TRUNCATE).await.unwrap();
    s.close(fh).await.unwrap();
    let shown = s.find("a").await.unwrap().attr.mtime;
    assert_ne!(shown, SystemTime::UNIX_EPOCH);
    assert_eq!(Setting::over(Arc::clone(&s.bucket), |_| {}).find("a").await.unwrap().attr.mtime, shown);
}

#[tokio::test(start_paused = true)]
async fn rewriting_with_truncation_replaces_the_object_whole() {
    let s = Setting::new();
    s.save("a", "a long first text").await.unwrap();
    s.save("a", "short").await.unwrap();
    assert_eq!(s.load("a").await.unwrap(), "short");
    assert_eq!(s.find("a").await.unwrap().attr.size, 5);
}

#[tokio::test(start_paused = true)]
async fn chmod_of_a_clean_object_is_one_self_copy_and_keeps_everything_else() {
    let s = Setting::new();
    let meta = Meta {
        content_type: Some("text/x-odd".into()),
        cache_control: Some("no-cache".into()),
        class: Some("STANDARD_IA".into()),
        user: BTreeMap::from([("color".to_owned(), "red".to_owned())]),
        ..Meta::default()
    };
    s.bucket.put_foreign_with(&Key::new("a"), "bytes", meta.clone());
    let before = s.find("a").await.unwrap().attr;
    s.bucket.reset_counters();
    let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let after = s.vfs.setattr(&s.cx(), before.ino, None, change).await.unwrap().attr;
    assert_eq!((after.mode, after.mtime, after.size), (0o600, before.mtime, 5));
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 1), (Operation::Copy, 1)]));
    let head = s.bucket.peek_head(&Key::new("a")).unwrap();
    assert_eq!(head.meta.user.get("mode").map(String::as_str), Some("33152"));
    assert_eq!(head.meta.user.get("color").map(String::as_str), Some("red"));
    assert_eq!((head.meta.content_type, head.meta.cache_control, head.meta.class), (meta.content_type, meta.cache_control, meta.class));
}

#[tokio::test(start_paused = true)]
async fn chmod_of_a_file_being_written_goes_with_its_commit() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 5);
    let change = SetAttr { mode: Some(0o400), mtime: Some(SetTime::To(time)), ..SetAttr::default() };
    s.bucket.reset_counters();
    s.vfs.setattr(&s.cx(), s.ino("a").await, Some(fh), change).await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Put, 1)]));
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    let attr = other.find("a").await.unwrap().attr;
    assert_eq!((attr.mode, attr.mtime), (0o400, time));
}

#[tokio::test(start_paused = true)]
async fn chmod_of_an_unchanged_file_open_for_writing_is_sent_by_close() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    let fh = s.open("a", BOTH).await.unwrap();
    let before = s.find("a").await.unwrap().attr;
    s.vfs.setattr(&s.cx(), before.ino, None, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    s.close(fh).await.unwrap();
    s.idle().await;
    let other = Setting::over(Arc::clone(&s.bucket), |_| {}).find("a").await.unwrap().attr;
    assert_eq!((other.mode, other.mtime, s.find("a").await.unwrap().attr.mode), (0o600, before.mtime, 0o600));
    assert!(s.vfs.names.lock().open.is_empty());
}

#[tokio::test(start_paused = true)]
async fn chmod_of_a_stream_that_has_begun_is_sent_with_its_end() {
    let s = Setting::new();
    let fh = s.create("big", WRITE).await.unwrap();
    let chunk = "0123456789abcdef".repeat(8192);
    for n in 0..8u64 {
        s.write(fh, n * chunk.len() as u64, &chunk).await.unwrap();
    }
    s.idle().await;
    assert_eq!(s.bucket.open_uploads().len(), 1);
    s.vfs.setattr(&s.cx(), s.ino("big").await, Some(fh), SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(Setting::over(Arc::clone(&s.bucket), |_| {}).find("big").await.unwrap().attr.mode, 0o600);
    assert_eq!(s.load("big").await.unwrap(), chunk.repeat(8));
}

#[tokio::test(start_paused = true)]
async fn an_edit_keeps_headers_class_and_foreign_metadata() {
    let s = Setting::new();
    let meta = Meta {
        content_type: Some("text/x-odd".into()),
        content_language: Some("de".into()),
        class: Some("STANDARD_IA".into()),
        user: BTreeMap::from([("color".to_owned(), "red".to_owned())]),
        ..Meta::default()
    };
    s.bucket.put_foreign_with(&Key::new("a"), "old bytes", meta.clone());
    let fh = s.open("a", BOTH).await.unwrap();
    s.write(fh, 0, "new").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("new bytes"));
    let head = s.bucket.peek_head(&Key::new("a")).unwrap();
    assert_eq!(head.meta.user.get("color").map(String::as_str), Some("red"));
    assert!(!head.meta.user.contains_key("mode"), "nobody asked for a mode");
    assert_eq!(
        (head.meta.content_type, head.meta.content_language, head.meta.class),
        (meta.content_type, meta.content_language, meta.class)
    );
}

#[tokio::test(start_paused = true)]
async fn extended_attributes_are_kept_and_the_virtual_ones_are_not_listed() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    let ino = s.ino("a").await;
    let cx = s.cx();
    s.vfs.setxattr(&cx, ino, "user.note".as_ref(), b"\0\xff", SetXattr::Any).await.unwrap();
    assert!(matches!(s.vfs.setxattr(&cx, ino, "user.note".as_ref(), b"", SetXattr::Create).await, Err(Error::Exists)));
    assert!(matches!(s.vfs.setxattr(&cx, ino, "user.none".as_ref(), b"", SetXattr::Replace).await, Err(Error::NoAttribute)));
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    let theirs = other.ino("a").await;
    assert_eq!(other.vfs.getxattr(&cx, theirs, "user.note".as_ref()).await.unwrap(), &b"\0\xff"[..]);
    assert_eq!(other.vfs.listxattr(&cx, theirs).await.unwrap(), ["user.note"]);
    assert_eq!(other.vfs.getxattr(&cx, theirs, "user.cos.key".as_ref()).await.unwrap(), "a");
    s.vfs.removexattr(&cx, ino, "user.note".as_ref()).await.unwrap();
    assert!(matches!(s.vfs.getxattr(&cx, ino, "user.note".as_ref()).await, Err(Error::NoAttribute)));
    s.bucket.reset_counters();
    assert!(matches!(s.vfs.getxattr(&cx, ino, "security.capability".as_ref()).await, Err(Error::Unsupported)));
    assert_eq!(s.bucket.all_requests(), 0);
    let big = vec![b'x'; 2000];
    assert!(matches!(s.vfs.setxattr(&cx, ino, "user.big".as_ref(), &big, SetXattr::Any).await, Err(Error::AttributesFull)));
}

#[tokio::test(start_paused = true)]
async fn a_long_file_streams_and_reads_back() {
    let s = Setting::new();
    let fh = s.create("big", WRITE).await.unwrap();
    let chunk = "0123456789abcdef".repeat(8192);
    for n in 0..20u64 {
        s.write(fh, n * chunk.len() as u64, &chunk).await.unwrap();
    }
    s.idle().await;
    assert!(s.bucket.requests(Operation::UploadPart) > 0, "parts leave while the file is being written");
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("big").unwrap(), chunk.repeat(20));
    let shown = s.find("big").await.unwrap().attr;
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    assert_eq!(other.find("big").await.unwrap().attr.mtime, shown.mtime, "the mtime is the same everywhere");
}

#[tokio::test(start_paused = true)]
async fn a_read_of_what_has_left_commits_the_stream_first() {
    let s = Setting::new();
    let fh = s.create("big", WRITE).await.unwrap();
    let chunk = "0123456789abcdef".repeat(8192);
    for n in 0..8u64 {
        s.write(fh, n * chunk.len() as u64, &chunk).await.unwrap();
    }
    s.idle().await;
    let reader = s.open("big", READ).await.unwrap();
    assert_eq!(s.read(reader).await.unwrap(), chunk.repeat(8));
    s.write(fh, 0, "X").await.unwrap();
    s.close(fh).await.unwrap();
    assert!(s.read(reader).await.unwrap().starts_with("X123"));
    s.vfs.release(reader);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_close_still_commits_whole() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    s.bucket.set_latency(Duration::from_secs(2));
    assert!(tokio::time::timeout(Duration::from_millis(10), s.flush(fh)).await.is_err());
    s.vfs.release(fh);
    s.idle().await;
    assert_eq!(s.peek("a").as_deref(), Some("x"));
    assert!(s.vfs.names.lock().open.is_empty());
    assert_eq!(s.bucket.requests(Operation::Put), 1);
}

#[tokio::test(start_paused = true)]
async fn modes_of_handles_are_kept_to() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    let reader = s.open("a", READ).await.unwrap();
    assert!(matches!(s.write(reader, 0, "y").await, Err(Error::BadHandle)));
    let writer = s.open("a", WRITE).await.unwrap();
    assert!(matches!(s.read(writer).await, Err(Error::BadHandle)));
    s.vfs.release(reader);
    assert!(matches!(s.read(reader).await, Err(Error::BadHandle)));
    s.vfs.release(writer);
    s.mkdir("d").await.unwrap();
    assert!(matches!(s.open("d", READ).await, Err(Error::IsADirectory)));
}

#[tokio::test(start_paused = true)]
async fn pages_are_kept_while_the_version_is_the_one_they_are_of() {
    let s = Setting::new();
    s.foreign("a", "one");
    let ino = s.ino("a").await;
    let open = || async { s.vfs.open(&s.cx(), ino, READ).await.unwrap() };
    let first = open().await;
    assert!(!first.keep_cache && first.no_flush && !first.direct_io);
    s.vfs.release(first.fh);
    let second = open().await;
    assert!(second.keep_cache);
    s.vfs.release(second.fh);
    s.foreign("a", "two");
    let third = open().await;
    assert!(!third.keep_cache, "these are another version's pages");
    s.vfs.release(third.fh);
    let writer = s.vfs.open(&s.cx(), ino, BOTH).await.unwrap();
    s.write(writer.fh, 0, "T").await.unwrap();
    s.close(writer.fh).await.unwrap();
    assert!(open().await.keep_cache, "the kernel's pages are what was written");
    assert!(s.vfs.open(&s.cx(), ino, WRITE).await.unwrap().direct_io);
}

#[tokio::test(start_paused = true)]
async fn a_read_only_mount_changes_nothing() {
    let s = Setting::with(|config| config.read_only = true);
    s.foreign("d/a", "x");
    assert_eq!(s.load("d/a").await.unwrap(), "x");
    let ino = s.ino("d/a").await;
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert!(matches!(s.vfs.setattr(&s.cx(), ino, None, mode).await, Err(Error::ReadOnly)));
    assert!(matches!(s.open("d/a", WRITE).await, Err(Error::ReadOnly)));
    assert!(matches!(s.create("b", WRITE).await, Err(Error::ReadOnly)));
    assert!(matches!(s.mkdir("e").await, Err(Error::ReadOnly)));
    assert!(matches!(s.unlink("d/a").await, Err(Error::ReadOnly)));
    assert!(matches!(s.rename("d/a", "b").await, Err(Error::ReadOnly)));
    assert_eq!(s.keys(), ["d/a"]);
}

#[tokio::test(start_paused = true)]
async fn drain_commits_what_is_open_and_refuses_new_changes() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    assert_eq!(s.vfs.drain(&s.cx()).await, Left { files: 0, bytes: 0 });
    assert_eq!(s.peek("a").as_deref(), Some("x"));
    assert!(matches!(s.write(fh, 1, "y").await, Err(Error::Stopping)));
}

#[tokio::test(start_paused = true)]
async fn drain_says_what_could_not_be_sent() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "abc").await.unwrap();
    s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
    assert_eq!(s.vfs.drain(&s.cx()).await, Left { files: 1, bytes: 3 });
}

#[tokio::test(start_paused = true)]
async fn a_write_by_another_user_takes_setuid_away() {
    for (before, uid, after) in
        [(0o6777, 1000, 0o777), (0o4755, 1000, 0o755), (0o6766, 1000, 0o2766), (0o6777, 0, 0o6777), (0o2666, 1000, 0o2666)]
    {
        let s = Setting::new();
        s.foreign("a", "old");
        let ino = s.ino("a").await;
        s.vfs.setattr(&s.cx(), ino, None, SetAttr { mode: Some(before), ..SetAttr::default() }).await.unwrap();
        let fh = s.vfs.open(&s.cx(), ino, WRITE).await.unwrap().fh;
        let mut cx = s.cx();
        cx.uid = uid;
        s.vfs.write(&cx, fh, 0, Bytes::from_static(b"new"), false, Some(Owner(7))).await.unwrap();
        assert_eq!(s.find("a").await.unwrap().attr.mode, after, "{before:o} {uid}");
        s.vfs.flush(&cx, fh, Owner(7)).await.unwrap();
        s.vfs.release(fh);
        let elsewhere = Setting::over(Arc::clone(&s.bucket), |_| {}).find("a").await.unwrap().attr;
        assert_eq!((elsewhere.mode, s.peek("a").as_deref()), (after, Some("new")));
    }
}
