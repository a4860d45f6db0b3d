//! Changes that COS does not have: how often they are tried, and what becomes of them.

use super::*;

fn refuse(s: &Setting, times: usize) {
    (0..times).for_each(|_| s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused));
}

#[tokio::test(start_paused = true)]
async fn refused_bytes_are_tried_ever_more_slowly_and_arrive() {
    let s = Setting::new();
    refuse(&s, 1000);
    s.save("a", "kept").await.unwrap_err();
    s.pass(600).await;
    let tries = s.bucket.requests(Operation::Put);
    assert!((10..20).contains(&tries), "{tries} in ten minutes");
    let unsent = s.vfs.unsent();
    let [file] = &unsent[..] else { panic!("{unsent:?}") };
    assert_eq!((&*file.path, file.bytes(), file.lost), ("a", 4, false));
    assert!(matches!(file.reason, Some(Error::Denied(_))), "{:?}", file.reason);
    assert!(file.next.is_some_and(|next| next <= Duration::from_secs(60)), "{:?}", file.next);
    s.bucket.clear_faults();
    s.pass(61).await;
    assert_eq!(s.peek("a").as_deref(), Some("kept"));
    assert!(s.vfs.unsent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_that_were_removed_leave_nobody_who_tries_their_successors() {
    let s = Setting::new();
    refuse(&s, 5000);
    for _ in 0..100 {
        s.save("a", "kept").await.unwrap_err();
        s.unlink("a").await.unwrap();
    }
    s.save("a", "kept").await.unwrap_err();
    s.bucket.reset_counters();
    s.pass(120).await;
    assert!(s.bucket.requests(Operation::Put) < 10, "{} requests for one file", s.bucket.requests(Operation::Put));
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_stops_tries_once_more_and_nobody_sleeps_on() {
    let s = Setting::new();
    refuse(&s, 2);
    s.save("a", "kept").await.unwrap_err();
    s.pass(1).await;
    s.bucket.clear_faults();
    let left = s.vfs.drain(&s.cx()).await;
    assert_eq!((left.files, s.peek("a").as_deref()), (0, Some("kept")));
    let before = Instant::now();
    s.idle().await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_file_is_saved_where_its_directory_is_now() {
    let s = Setting::new();
    s.foreign("d/f", "base");
    let fh = s.open("d/f", BOTH).await.unwrap();
    s.foreign("d/f", "theirs");
    s.pass(6).await;
    assert_eq!(s.load("d/f").await.unwrap(), "theirs");
    s.rename("d", "e").await.unwrap();
    s.write(fh, 0, "OURS").await.unwrap();
    assert!(matches!(s.close(fh).await, Err(Error::Stale)));
    s.idle().await;
    let unsent = s.vfs.unsent();
    assert!(unsent.len() == 1 && unsent[0].lost && unsent[0].next.is_none(), "{unsent:?}");
    assert!(matches!(s.vfs.send(&s.cx(), unsent[0].ino, None).await, Err(Error::Stale)));
    s.vfs.send(&s.cx(), unsent[0].ino, Some(OnConflict::KeepBoth)).await.unwrap();
    let keys = s.keys();
    let beside = keys.iter().find(|key| key.starts_with("e/f.conflict-host-1-")).unwrap_or_else(|| panic!("{keys:?}"));
    assert_eq!((s.peek(beside).as_deref(), s.peek("e/f").as_deref()), (Some("OURS"), Some("theirs")));
    assert!(s.vfs.unsent().is_empty() && s.vfs.names.lock().open.is_empty());
    assert_eq!(s.load(beside).await.unwrap(), "OURS");
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_lost_file_takes_its_name_back_only_when_nobody_reads_the_other() {
    let s = Setting::new();
    s.foreign("f", "base");
    let fh = s.open("f", BOTH).await.unwrap();
    s.foreign("f", "theirs");
    s.pass(6).await;
    let reader = s.open("f", READ).await.unwrap();
    s.write(fh, 0, "OURS").await.unwrap();
    s.close(fh).await.unwrap_err();
    s.idle().await;
    let ino = s.vfs.unsent()[0].ino;
    let take = || async { s.vfs.send(&s.cx(), ino, Some(OnConflict::LastWriter)).await };
    assert!(matches!(take().await, Err(Error::Stale)));
    assert_eq!(s.read(reader).await.unwrap(), "theirs");
    s.vfs.release(reader);
    take().await.unwrap();
    assert_eq!(s.peek("f").as_deref(), Some("OURS"));
    assert_eq!(s.load("f").await.unwrap(), "OURS");
    s.check();
}
