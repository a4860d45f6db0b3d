//! Names: lookup, mkdir, symlink, unlink, rmdir, the last handle.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_file_wins_over_a_directory_of_its_name() {
    let s = Setting::new();
    s.foreign("x", "file");
    s.foreign("x/inner", "hidden");
    s.foreign("x-", "between");
    assert_eq!(s.find("x").await.unwrap().attr.kind, FileKind::File);
    assert_eq!(s.list("").await, ["x", "x-"]);
}

#[tokio::test(start_paused = true)]
async fn directories_are_markers_or_prefixes() {
    let s = Setting::new();
    s.foreign("implicit/a", "x");
    let meta = Meta { user: BTreeMap::from([("mode".to_owned(), "16832".to_owned())]), ..Meta::default() };
    s.bucket.put_foreign_with(&Key::new("marked/"), "", meta.clone());
    s.bucket.put_foreign_with(&Key::new("old"), "", meta);
    assert_eq!(s.find("implicit").await.unwrap().attr.mode, 0o755);
    let marked = s.find("marked").await.unwrap().attr;
    assert_eq!((marked.kind, marked.mode), (FileKind::Directory, 0o700));
    assert_eq!(s.find("old").await.unwrap().attr.kind, FileKind::Directory);
    assert!(matches!(s.find("none").await, Err(Error::NotFound)));
    s.rmdir("old").await.unwrap();
    assert_eq!(s.keys(), ["implicit/a", "marked/"]);
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_is_remembered_for_its_time_only() {
    let s = Setting::new();
    assert!(matches!(s.vfs.lookup(&s.cx(), Ino::ROOT, "a".as_ref()).await.unwrap(), Lookup::Absent(ttl) if ttl == Duration::from_secs(5)));
    s.bucket.reset_counters();
    s.find("a").await.unwrap_err();
    assert_eq!(s.bucket.all_requests(), 0);
    s.foreign("a", "x");
    s.pass(5).await;
    s.find("a").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn misses_list_a_directory_so_that_further_ones_are_free() {
    let s = Setting::new();
    s.foreign("d/there", "x");
    let d = s.ino("d").await;
    for name in ["a", "b", "c"] {
        assert!(matches!(s.vfs.lookup(&s.cx(), d, name.as_ref()).await.unwrap(), Lookup::Absent(_)));
    }
    s.bucket.reset_counters();
    for name in ["d", "e", "f", "g"] {
        assert!(matches!(s.vfs.lookup(&s.cx(), d, name.as_ref()).await.unwrap(), Lookup::Absent(_)));
    }
    assert_eq!(s.bucket.all_requests(), 0);
    assert!(matches!(s.vfs.lookup(&s.cx(), d, "there".as_ref()).await.unwrap(), Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_many_pages_is_listed_once_its_misses_have_cost_as_much() {
    let s = Setting::new();
    for n in 0..2500 {
        s.foreign(&format!("d/{n:04}"), "");
    }
    let d = s.ino("d").await;
    s.bucket.reset_counters();
    for n in 0..100 {
        assert!(matches!(s.vfs.lookup(&s.cx(), d, format!("new{n}").as_ref()).await.unwrap(), Lookup::Absent(_)));
    }
    // Pages after the third, sixth and twelfth miss: one, two and all three.
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 12), (Operation::List, 12 + 1 + 2 + 3)]));
    assert!(matches!(s.vfs.lookup(&s.cx(), d, "2499".as_ref()).await.unwrap(), Lookup::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_one_name_at_once_asks_together() {
    async fn together(s: &Setting, name: &'static str) -> Vec<Result<Lookup>> {
        s.bucket.set_latency(Duration::from_millis(50));
        s.bucket.reset_counters();
        let lookups = (0..20).map(|_| async { s.vfs.lookup(&s.cx(), Ino::ROOT, name.as_ref()).await });
        let found = futures_util::future::join_all(lookups).await;
        s.bucket.set_latency(Duration::ZERO);
        found
    }
    let s = Setting::new();
    s.foreign("a", "x");
    assert!(together(&s, "a").await.iter().all(|found| matches!(found, Ok(Lookup::Found(_)))));
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 1), (Operation::List, 1)]));
    assert!(together(&s, "b").await.iter().all(|found| matches!(found, Ok(Lookup::Absent(_)))));
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 1), (Operation::List, 1)]));

    // Nobody inherits a failure, nor waits for one that has gone.
    s.foreign("c", "x");
    s.bucket.fail_next(Operation::Head, Kind::Unavailable, Effect::Refused);
    let found = together(&s, "c").await;
    assert_eq!(found.iter().filter(|found| found.is_err()).count(), 1);
    s.foreign("e", "x");
    s.bucket.set_latency(Duration::from_secs(10));
    let (first, second) = (s.cx(), s.cx());
    let given_up = tokio::time::timeout(Duration::from_secs(1), s.vfs.lookup(&first, Ino::ROOT, "e".as_ref()));
    let (given_up, found) = tokio::join!(given_up, async {
        s.pass(0).await;
        let start = Instant::now();
        (s.vfs.lookup(&second, Ino::ROOT, "e".as_ref()).await, start.elapsed())
    });
    assert!(given_up.is_err() && matches!(found.0, Ok(Lookup::Found(_))));
    assert!(found.1 < Duration::from_secs(12), "{:?}", found.1);

    let strict = Setting::over(Arc::clone(&s.bucket), |config| config.metadata_ttl = Duration::ZERO);
    together(&strict, "a").await;
    assert_eq!(strict.bucket.requests(Operation::Head), 20, "where nothing is believed for any time, everybody asks");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_never_taken_for_absence() {
    let s = Setting::new();
    s.foreign("a", "x");
    s.bucket.fail_next(Operation::Head, Kind::Unavailable, Effect::Refused);
    assert!(matches!(s.find("a").await, Err(Error::Io(_))));
    s.bucket.fail_next(Operation::List, Kind::Unavailable, Effect::Refused);
    assert!(matches!(s.find("b").await, Err(Error::Io(_))), "404 alone does not say that there is no directory");
    s.find("a").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn mkdir_and_symlink_are_in_cos_when_they_return() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    assert_eq!(s.keys(), ["d/"]);
    let (parent, name) = s.split("d/link").await;
    let entry = s.vfs.symlink(&s.cx(), parent, name, "../some where".as_ref()).await.unwrap();
    assert_eq!((entry.attr.kind, entry.attr.size), (FileKind::Symlink, 13));
    assert_eq!(s.peek("d/link").as_deref(), Some("../some where"));
    assert!(matches!(s.mkdir("d").await, Err(Error::Exists)));
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    assert_eq!(other.find("d").await.unwrap().attr.mode, 0o750);
    let link = other.find("d/link").await.unwrap().attr;
    assert_eq!(link.kind, FileKind::Symlink);
    assert_eq!(other.vfs.readlink(&other.cx(), link.ino).await.unwrap(), "../some where");
}

#[tokio::test(start_paused = true)]
async fn mkdir_over_somebody_elses_directory_is_refused() {
    let s = Setting::new();
    s.find("d").await.unwrap_err();
    s.foreign("d/", "");
    assert!(matches!(s.mkdir("d").await, Err(Error::Exists)), "absence was only believed");
}

#[tokio::test(start_paused = true)]
async fn names_that_cos_cannot_hold_are_refused_before_anything_changes() {
    let s = Setting::new();
    assert!(matches!(s.mkdir(".cosmount").await, Err(Error::BadName(_))));
    assert!(matches!(s.mkdir(&"x".repeat(256)).await, Err(Error::NameTooLong)));
    assert!(matches!(s.create("a\u{1b}", WRITE).await, Err(Error::BadName(_))));
    s.find(".cosmount").await.unwrap_err();
    let mut path = String::new();
    for _ in 0..4 {
        path = format!("{path}/{}", "y".repeat(200));
        s.mkdir(path.trim_start_matches('/')).await.unwrap();
    }
    let long = format!("{}/{}", path.trim_start_matches('/'), "z".repeat(200));
    let before = s.keys();
    assert!(matches!(s.create(&long, WRITE).await, Err(Error::NameTooLong)));
    assert!(matches!(s.mkdir(&long).await, Err(Error::NameTooLong)));
    assert_eq!(s.keys(), before);
}

#[tokio::test(start_paused = true)]
async fn exclusive_creation_fails_where_the_name_is_and_at_close_where_it_came() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    assert!(matches!(s.create("a", EXCLUSIVE).await, Err(Error::Exists)));
    let fh = s.create("b", EXCLUSIVE).await.unwrap();
    s.foreign("b", "theirs");
    s.write(fh, 0, "ours").await.unwrap();
    assert!(matches!(s.flush(fh).await, Err(Error::Exists)));
    assert_eq!(s.peek("b").as_deref(), Some("theirs"));
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn exclusive_at_open_decides_at_open_and_leaves_nothing_behind() {
    let s = Setting::with(|config| config.exclusive_at_open = true);
    let fh = s.create("a", EXCLUSIVE).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some(""));
    s.write(fh, 0, "x").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("x"));
    s.find("b").await.unwrap_err();
    s.foreign("b", "theirs");
    assert!(matches!(s.create("b", EXCLUSIVE).await, Err(Error::Exists)));
    s.idle().await;
    assert_eq!(s.peek("b").as_deref(), Some("theirs"));
    s.pass(5).await;
    assert_eq!(s.load("b").await.unwrap(), "theirs");
    s.check();
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_open_file_stays_readable_and_writable_and_leaves_nothing() {
    let s = Setting::new();
    s.save("a", "bytes").await.unwrap();
    let fh = s.open("a", BOTH).await.unwrap();
    let ino = s.ino("a").await;
    s.unlink("a").await.unwrap();
    assert_eq!(s.keys(), Vec::<String>::new());
    assert!(matches!(s.find("a").await, Err(Error::NotFound)));
    assert_eq!(s.read(fh).await.unwrap(), "bytes");
    s.write(fh, 0, "BY").await.unwrap();
    assert_eq!(s.read(fh).await.unwrap(), "BYtes");
    let attr = s.vfs.getattr(&s.cx(), ino, Some(fh)).await.unwrap().attr;
    assert_eq!((attr.nlink, attr.size), (0, 5));
    s.vfs.fsync(&s.cx(), fh).await.unwrap();
    s.close(fh).await.unwrap();
    s.idle().await;
    assert_eq!(s.keys(), Vec::<String>::new());
    assert!(s.vfs.names.lock().open.is_empty());
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_large_open_file_is_put_aside_and_its_helper_goes_with_the_last_handle() {
    let s = Setting::new();
    let bytes = Bytes::from(vec![7u8; 65 << 20]);
    s.bucket.put_foreign(&Key::new("a"), bytes);
    let fh = s.open("a", READ).await.unwrap();
    s.unlink("a").await.unwrap();
    let keys = s.keys();
    assert!(keys.len() == 1 && keys[0].starts_with(".cosmount/open/host-1/"), "{keys:?}");
    assert_eq!(s.list("").await, Vec::<String>::new(), "helpers are hidden");
    assert_eq!(s.vfs.read(&s.cx(), fh, 64 << 20, 4096).await.unwrap().concat(), vec![7u8; 4096]);
    s.vfs.release(fh);
    s.idle().await;
    assert_eq!(s.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_does_not_come_back_with_a_commit_under_way() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    let held = s.bucket.hold(Operation::Put);
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let close = tokio::spawn(async move { vfs.flush(&cx, fh, ME).await });
    s.pass(1).await;
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let unlink = tokio::spawn(async move { vfs.unlink(&cx, Ino::ROOT, "a".as_ref()).await });
    s.pass(1).await;
    drop(held);
    close.await.unwrap().unwrap();
    unlink.await.unwrap().unwrap();
    s.write(fh, 1, "y").await.unwrap();
    s.close(fh).await.unwrap();
    s.idle().await;
    assert_eq!(s.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_file_never_committed_is_removed_without_a_request() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    s.bucket.reset_counters();
    s.unlink("a").await.unwrap();
    s.close(fh).await.unwrap();
    s.idle().await;
    assert_eq!(s.bucket.all_requests(), 0);
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "again").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("again"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_unlink_leaves_the_file() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    s.bucket.fail_next(Operation::Delete, Kind::Denied, Effect::Refused);
    assert!(matches!(s.unlink("a").await, Err(Error::Denied(_))));
    assert_eq!(s.load("a").await.unwrap(), "x");
    s.unlink("a").await.unwrap();
    assert!(matches!(s.unlink("a").await, Err(Error::NotFound)));
}

#[tokio::test(start_paused = true)]
async fn rmdir_asks_cos_and_keeps_to_posix() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.foreign("d/theirs", "x");
    assert!(matches!(s.rmdir("d").await, Err(Error::NotEmpty)), "somebody else's file counts though nobody looked");
    s.bucket.delete_foreign(&Key::new("d/theirs"));
    let fh = s.create("d/ours", WRITE).await.unwrap();
    assert!(matches!(s.rmdir("d").await, Err(Error::NotEmpty)), "so does one that COS does not know");
    s.unlink("d/ours").await.unwrap();
    s.close(fh).await.unwrap();
    s.rmdir("d").await.unwrap();
    assert_eq!(s.keys(), Vec::<String>::new());
    s.save("f", "x").await.unwrap();
    assert!(matches!(s.rmdir("f").await, Err(Error::NotADirectory)));
    s.mkdir("d").await.unwrap();
    assert!(matches!(s.unlink("d").await, Err(Error::IsADirectory)));
    s.check();
}

#[tokio::test(start_paused = true)]
async fn lists_that_lag_neither_keep_nor_bring_back_what_was_removed() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.save("d/a", "x").await.unwrap();
    s.bucket.freeze_lists(true);
    s.unlink("d/a").await.unwrap();
    assert_eq!(s.list("d").await, Vec::<String>::new());
    s.rmdir("d").await.unwrap();
    assert!(matches!(s.find("d").await, Err(Error::NotFound)));
    s.pass(6).await;
    assert!(matches!(s.find("d").await, Err(Error::NotFound)));
    assert_eq!(s.list("").await, Vec::<String>::new());
    s.save("new", "x").await.unwrap();
    assert_eq!(s.list("").await, ["new"], "what the list does not show yet is there");
}

#[tokio::test(start_paused = true)]
async fn the_last_entry_of_an_implicit_directory_leaves_a_marker() {
    let s = Setting::new();
    s.foreign("d/a", "x");
    s.foreign("d/b", "x");
    s.unlink("d/a").await.unwrap();
    assert_eq!(s.keys(), ["d/b"]);
    s.unlink("d/b").await.unwrap();
    assert_eq!(s.keys(), ["d/"]);
    s.foreign("e/f/g", "x");
    s.rename("e/f", "moved").await.unwrap();
    assert_eq!(s.keys(), ["d/", "e/", "moved/g"]);
}

#[tokio::test(start_paused = true)]
async fn chmod_of_an_implicit_directory_gives_it_a_marker() {
    let s = Setting::new();
    s.foreign("d/a", "x");
    let ino = s.ino("d").await;
    let change = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    s.vfs.setattr(&s.cx(), ino, None, change).await.unwrap();
    assert_eq!(s.keys(), ["d/", "d/a"]);
    assert_eq!(Setting::over(Arc::clone(&s.bucket), |_| {}).find("d").await.unwrap().attr.mode, 0o700);
}

#[tokio::test(start_paused = true)]
async fn a_new_entry_gets_the_callers_group_or_the_directorys() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    let ino = s.ino("d").await;
    let mut cx = s.cx();
    cx.gid = Some(7);
    let (file, opened) = s.vfs.create(&cx, ino, "a".as_ref(), 0o600, WRITE).await.unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 7));
    s.close(opened.fh).await.unwrap();
    let change = SetAttr { mode: Some(0o2755), gid: Some(42), ..SetAttr::default() };
    s.vfs.setattr(&s.cx(), ino, None, change).await.unwrap();
    let inner = s.vfs.mkdir(&cx, ino, "e".as_ref(), 0o755).await.unwrap();
    assert_eq!((inner.attr.gid, inner.attr.mode), (42, 0o2755));
}

#[tokio::test(start_paused = true)]
async fn mknod_makes_files_pipes_sockets_and_devices() {
    let s = Setting::new();
    s.vfs.mknod(&s.cx(), Ino::ROOT, "a".as_ref(), 0o100_644, 0).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some(""));
    for (name, bits, rdev) in [("p", 0o010_000, 0), ("s", 0o140_000, 0), ("c", 0o020_000, 259), ("b", 0o060_000, 2049)] {
        let entry = s.vfs.mknod(&s.cx(), Ino::ROOT, name.as_ref(), bits | 0o644, rdev).await.unwrap();
        assert_eq!((entry.attr.kind, entry.attr.mode, entry.attr.rdev), (FileKind::Special(bits), 0o644, rdev));
        assert_eq!(s.peek(name).as_deref(), Some(""));
        assert!(matches!(s.vfs.mknod(&s.cx(), Ino::ROOT, name.as_ref(), bits | 0o644, rdev).await, Err(Error::Exists)));
        let elsewhere = Setting::over(Arc::clone(&s.bucket), |_| {}).find(name).await.unwrap().attr;
        assert_eq!((elsewhere.kind, elsewhere.mode, elsewhere.rdev), (FileKind::Special(bits), 0o644, rdev));
    }
}

#[tokio::test(start_paused = true)]
async fn fsync_of_a_directory_sends_what_is_new_in_it() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    let dir = s.vfs.opendir(&s.cx(), Ino::ROOT).await.unwrap();
    s.vfs.fsyncdir(&s.cx(), dir).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("x"));
    s.vfs.releasedir(dir);
    s.close(fh).await.unwrap();
}
