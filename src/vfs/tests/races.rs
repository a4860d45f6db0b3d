//! Two at once: what one operation must not do to another, and what a failed or abandoned one must not leave.

use super::*;

impl Setting {
    fn lookups(&self, ino: Ino) -> u64 {
        self.vfs.names.lock().tree.node(ino).map_or(0, |node| node.lookups)
    }

    fn child(&self, name: &str) -> Option<Ino> {
        self.vfs.names.lock().tree.child(Ino::ROOT, &keymap::Name::parse(name.as_ref()).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_opened_while_it_is_being_removed_is_gone_and_never_half_there() {
    for replace in [false, true] {
        let s = Setting::with(|config| config.consistency = Consistency::Ttl);
        s.foreign("a", "one");
        s.foreign("b", "other");
        let ino = s.ino("a").await;
        s.ino("b").await;
        let held = s.bucket.hold(Operation::Delete);
        let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
        let removal = tokio::spawn(async move {
            if replace {
                vfs.rename(&cx, (Ino::ROOT, "b".as_ref()), (Ino::ROOT, "a".as_ref()), RenameMode::Replace).await
            } else {
                vfs.unlink(&cx, Ino::ROOT, "a".as_ref()).await
            }
        });
        s.pass(1).await;
        // The DELETE is on its way, and the removal saw nobody who has the file open.
        let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
        let open = tokio::spawn(async move { vfs.open(&cx, ino, READ).await });
        s.pass(1).await;
        drop(held);
        removal.await.unwrap().unwrap();
        match open.await.unwrap() {
            Err(Error::Stale) => {}
            Ok(opened) => assert_eq!(s.read(opened.fh).await.unwrap(), "one", "what was opened here is kept"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_page_takes_no_entries_with_it() {
    let s = Setting::new();
    let keys: Vec<_> = (0..1100).map(|n| format!("f{n:04}")).collect();
    for key in &keys {
        s.foreign(key, "x");
    }
    let ino = s.ino("f0000").await;
    assert_eq!(s.lookups(ino), 1);
    let fh = s.vfs.opendir(&s.cx(), Ino::ROOT).await.unwrap();
    s.bucket.set_latency_of(Operation::List, Duration::from_secs(1));
    let (mut seen, mut failures) = (Vec::new(), 0);
    for turn in 0..4 {
        let mut sink = Sink { room: 5000, seen: Vec::new() };
        let offset = seen.last().map_or(0, |entry: &Seen| entry.next);
        let cx = s.cx();
        let reading = s.vfs.readdir(&cx, fh, offset, true, &mut sink);
        let failing = async {
            // The first page is there, the second is asked for.
            s.cx.clock().sleep(Duration::from_millis(1500)).await;
            if turn == 0 {
                s.bucket.fail_next(Operation::List, Kind::Denied, Effect::Refused);
            }
        };
        match tokio::join!(reading, failing).0 {
            Err(_) => failures += 1,
            Ok(()) => seen.extend(sink.seen),
        }
    }
    assert_eq!((failures, seen.len()), (1, 1102));
    assert_eq!(s.lookups(ino), 2, "one from lookup, one from the listing");
}

#[tokio::test(start_paused = true)]
async fn the_longest_key_hides_nothing_else_and_can_be_read() {
    let s = Setting::new();
    let directory = format!("{0}/{0}/{0}/", "d".repeat(200));
    let longest = format!("{directory}{}", "f".repeat(850 - directory.len()));
    s.foreign(&longest, "long");
    s.foreign(&format!("{directory}x"), "x");
    assert_eq!(s.list(directory.trim_end_matches('/')).await.len(), 2);
    assert_eq!(s.load(&longest).await.unwrap(), "long");
    assert!(matches!(s.mkdir(&format!("{directory}{}", "e".repeat(850 - directory.len()))).await, Err(Error::NameTooLong)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_operation_that_moves_waits_as_long_as_it_does() {
    let s = Setting::new();
    for n in 0..300 {
        s.foreign(&format!("d/{n}"), "x");
    }
    let (d, file) = (s.ino("d").await, s.ino("d/7").await);
    s.bucket.set_latency_of(Operation::Copy, Duration::from_secs(40));
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let rename =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()), RenameMode::Replace).await });
    s.pass(1).await;
    let cx = s.cx();
    // As the dispatcher does: nothing outlasts the patience of its caller.
    let opened = cx.bounded(s.vfs.open(&cx, file, WRITE)).await.expect("the rename moves, and so does who waits for it").unwrap();
    rename.await.unwrap().unwrap();
    s.vfs.release(opened.fh);
    assert_eq!(s.ino("e").await, d);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_could_not_be_made_is_not_listed() {
    let s = Setting::new();
    assert!(s.list("").await.is_empty());
    s.bucket.fail_next(Operation::Put, Kind::Denied, Effect::Refused);
    s.vfs.mknod(&s.cx(), Ino::ROOT, "a".as_ref(), 0o100_644, 0).await.unwrap_err();
    s.idle().await;
    assert!(s.list("").await.is_empty());
    assert!(s.keys().is_empty());
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_directory_whose_maker_was_given_up_holds_no_reference() {
    let s = Setting::new();
    s.bucket.set_latency_of(Operation::Put, Duration::from_secs(10));
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let making = tokio::spawn(async move { vfs.mkdir(&cx, Ino::ROOT, "d".as_ref(), 0o755).await });
    s.pass(1).await;
    making.abort();
    s.idle().await;
    assert_eq!(s.keys(), ["d/"]);
    assert_eq!(s.lookups(s.child("d").unwrap()), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_making_was_never_settled_goes_with_its_name() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    s.bucket.fail_next(Operation::Put, Kind::Unavailable, Effect::LostAfter);
    for _ in 0..3 {
        s.bucket.fail_next(Operation::Head, Kind::Unavailable, Effect::Refused);
    }
    s.flush(fh).await.unwrap_err();
    s.bucket.clear_faults();
    assert_eq!(s.keys(), ["a"]);
    s.unlink("a").await.unwrap();
    s.vfs.release(fh);
    s.idle().await;
    assert!(s.keys().is_empty(), "removed is removed");
}

#[tokio::test(start_paused = true)]
async fn a_file_made_below_a_directory_keeps_everything_above_it() {
    let s = Setting::new();
    s.foreign("d/e/x", "x");
    s.ino("d/e").await;
    let fh = s.create("d/e/new", WRITE).await.unwrap();
    s.bucket.delete_foreign(&Key::new("d/e/x"));
    assert!(matches!(s.rmdir("d").await, Err(Error::NotEmpty)));
    s.close(fh).await.unwrap();
    assert_eq!(s.keys(), ["d/e/new"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_file_counts_as_left_until_it_is_sent_even_if_it_is_empty() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    assert_eq!(s.vfs.left().files, 1);
    s.close(fh).await.unwrap();
    assert_eq!(s.vfs.left(), Left { files: 0, bytes: 0, noted: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_symbolic_link_that_somebody_else_changed_is_another_inode() {
    // The kernel keeps a link's target with the inode, and drops it only when the size changes.
    let s = Setting::new();
    let link = |target: &'static str| {
        let meta = Meta { user: BTreeMap::from([("mode".to_owned(), "41471".to_owned())]), ..Meta::default() };
        s.bucket.put_foreign_with(&Key::new("current"), target, meta);
    };
    link("release-1");
    let old = s.ino("current").await;
    link("release-2");
    s.pass(6).await;
    let new = s.ino("current").await;
    assert_ne!(new, old);
    assert_eq!(s.vfs.readlink(&s.cx(), new).await.unwrap(), "release-2");
}

#[tokio::test(start_paused = true)]
async fn attributes_that_no_program_can_ask_for_are_not_listed() {
    let s = Setting::new();
    let header = "%7B%22user.ok%22%3A%22eA%3D%3D%22%2C%22security.selinux%22%3A%22eA%3D%3D%22%2C%22user.%5Cu0000b%22%3A%22eA%3D%3D%22%7D";
    let meta = Meta { user: BTreeMap::from([("xattr".to_owned(), header.to_owned())]), ..Meta::default() };
    s.bucket.put_foreign_with(&Key::new("a"), "x", meta);
    let ino = s.ino("a").await;
    assert_eq!(s.vfs.listxattr(&s.cx(), ino).await.unwrap(), ["user.ok"]);
}
