//! Somebody else changes the bucket underneath.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_open_sees_what_another_mount_closed() {
    let s = Setting::new();
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    for n in 0..5 {
        let text = format!("turn {n}");
        s.save("a", &text).await.unwrap();
        assert_eq!(other.open_and_read("a").await, text);
        let text = format!("answer {n}, longer");
        other.save("a", &text).await.unwrap();
        assert_eq!(s.open_and_read("a").await, text);
    }
}

impl Setting {
    /// As the kernel does: ESTALE from open is looked up again once.
    async fn open_and_read(&self, path: &str) -> String {
        match self.load(path).await {
            Err(Error::Stale) => self.load(path).await.unwrap(),
            read => read.unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_ttl_an_open_within_it_asks_nothing() {
    let s = Setting::with(|config| config.consistency = Consistency::Ttl);
    s.foreign("a", "one");
    let ino = s.ino("a").await;
    s.bucket.reset_counters();
    let opened = s.vfs.open(&s.cx(), ino, READ).await.unwrap();
    assert_eq!(s.bucket.all_requests(), 0);
    s.vfs.release(opened.fh);
    s.foreign("a", "two!");
    s.pass(6).await;
    assert_eq!(s.load("a").await.unwrap(), "two!");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_under_an_open_handle_is_a_new_inode_after_one_estale() {
    let s = Setting::new();
    s.foreign("a", "one");
    let ino = s.ino("a").await;
    let old = s.vfs.open(&s.cx(), ino, READ).await.unwrap().fh;
    assert_eq!(s.read(old).await.unwrap(), "one");
    s.foreign("a", "two!");
    assert!(matches!(s.vfs.open(&s.cx(), ino, READ).await, Err(Error::Stale)));
    let found = s.ino("a").await;
    assert_ne!(found, ino);
    let new = s.vfs.open(&s.cx(), found, READ).await.unwrap().fh;
    assert_eq!((s.read(old).await.unwrap(), s.read(new).await.unwrap()), ("one".to_owned(), "two!".to_owned()));
    s.vfs.release(old);
    s.vfs.release(new);
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_finds_a_new_version_leaves_the_old_handle_its_own() {
    let s = Setting::new();
    s.foreign("a", "one");
    let fh = s.open("a", READ).await.unwrap();
    s.foreign("a", "two!");
    s.pass(6).await;
    assert_eq!(s.find("a").await.unwrap().attr.size, 4);
    assert!(matches!(s.read(fh).await, Err(Error::Stale)), "never bytes of another version");
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn a_vanished_object_is_stale_and_then_absent() {
    let s = Setting::new();
    s.foreign("a", "one");
    let ino = s.ino("a").await;
    s.bucket.delete_foreign(&Key::new("a"));
    assert!(matches!(s.vfs.open(&s.cx(), ino, READ).await, Err(Error::Stale)));
    assert!(matches!(s.find("a").await, Err(Error::NotFound)));
    s.foreign("b", "one");
    let ino = s.ino("b").await;
    s.bucket.delete_foreign(&Key::new("b"));
    s.pass(6).await;
    assert!(matches!(s.vfs.getattr(&s.cx(), ino, None).await, Err(Error::Stale)));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_fails_and_keeps_both_sides() {
    let s = Setting::new();
    s.foreign("a", "base");
    let fh = s.open("a", BOTH).await.unwrap();
    s.write(fh, 0, "OURS").await.unwrap();
    s.foreign("a", "theirs");
    assert!(matches!(s.flush(fh).await, Err(Error::Stale)));
    assert_eq!(s.peek("a").as_deref(), Some("theirs"));
    assert_eq!(s.read(fh).await.unwrap(), "OURS");
    assert!(matches!(s.vfs.fsync(&s.cx(), fh).await, Err(Error::Stale)));
    s.vfs.release(fh);
    s.idle().await;
    assert_eq!(s.peek("a").as_deref(), Some("theirs"));
}

#[tokio::test(start_paused = true)]
async fn a_belief_of_absence_never_overwrites() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "ours").await.unwrap();
    s.foreign("a", "theirs");
    assert!(matches!(s.flush(fh).await, Err(Error::Stale)));
    assert_eq!(s.peek("a").as_deref(), Some("theirs"));
    s.vfs.release(fh);
}

#[tokio::test(start_paused = true)]
async fn the_last_writer_wins_where_that_is_asked_for() {
    let s = Setting::with(|config| config.on_conflict = OnConflict::LastWriter);
    s.foreign("a", "base");
    let fh = s.open("a", BOTH).await.unwrap();
    s.write(fh, 0, "OURS").await.unwrap();
    s.foreign("a", "theirs");
    s.close(fh).await.unwrap();
    assert_eq!(s.peek("a").as_deref(), Some("OURS"));
}

#[tokio::test(start_paused = true)]
async fn keep_both_puts_ours_beside_theirs() {
    let s = Setting::with(|config| config.on_conflict = OnConflict::KeepBoth);
    s.foreign("a", "base");
    let fh = s.open("a", BOTH).await.unwrap();
    s.write(fh, 0, "OURS").await.unwrap();
    s.foreign("a", "theirs");
    s.close(fh).await.unwrap();
    let keys = s.keys();
    assert!(keys.len() == 2 && keys[1].starts_with("a.conflict-host-1-"), "{keys:?}");
    assert_eq!((s.peek("a").as_deref(), s.peek(&keys[1]).as_deref()), (Some("theirs"), Some("OURS")));
    assert_eq!(*s.told.0.lock(), [(Ino::ROOT, "a".to_owned())], "the kernel is told that the old name means something else");
    assert_eq!(s.load("a").await.unwrap(), "theirs");
    assert_eq!(s.load(&keys[1]).await.unwrap(), "OURS");
}

#[tokio::test(start_paused = true)]
async fn rename_replaces_what_somebody_else_just_made() {
    let s = Setting::new();
    s.save("a", "ours").await.unwrap();
    s.find("b").await.unwrap_err();
    s.foreign("b", "theirs");
    s.rename("a", "b").await.unwrap();
    assert_eq!((s.keys(), s.peek("b").as_deref()), (vec!["b".to_owned()], Some("ours")));
    s.find("c").await.unwrap_err();
    s.foreign("c", "theirs");
    let rename = s.vfs.rename(&s.cx, (Ino::ROOT, "b".as_ref()), (Ino::ROOT, "c".as_ref()), RenameMode::NoReplace);
    assert!(matches!(rename.await, Err(Error::Exists)));
    assert_eq!(s.peek("c").as_deref(), Some("theirs"));
}

#[tokio::test(start_paused = true)]
async fn attributes_follow_another_mount_within_the_ttl() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    let ino = other.ino("a").await;
    other.vfs.setattr(&other.cx(), ino, None, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o640);
    s.pass(5).await;
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o600);
}

#[tokio::test(start_paused = true)]
async fn an_answer_overtaken_by_an_own_change_is_not_believed() {
    let s = Setting::new();
    s.save("a", "one").await.unwrap();
    s.pass(6).await;
    let held = s.bucket.hold(Operation::Head);
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let lookup = tokio::spawn(async move { vfs.lookup(&cx, Ino::ROOT, "a".as_ref()).await });
    s.pass(1).await;
    // The lookup stands before COS; the removal needs no HEAD.
    let ino = s.vfs.names.lock().tree.child(Ino::ROOT, &keymap::Name::parse("a".as_ref()).unwrap()).unwrap();
    s.vfs.names.lock().tree.node_mut(ino).unwrap().checked = s.cx.clock().now();
    s.vfs.unlink(&s.cx(), Ino::ROOT, "a".as_ref()).await.unwrap();
    drop(held);
    assert!(matches!(lookup.await.unwrap().unwrap(), Lookup::Absent(_)));
}

#[tokio::test(start_paused = true)]
async fn a_name_removed_here_and_made_again_elsewhere_shows() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    for name in ["d/a", "d/b", "d/same"] {
        s.save(name, "mine").await.unwrap();
        s.unlink(name).await.unwrap();
    }
    s.foreign("d/a", "theirs");
    assert_eq!(s.list("d").await, Vec::<String>::new(), "for as long as a listing is believed");
    s.pass(6).await;
    // The same bytes at another time are another object, too.
    s.foreign("d/same", "mine");
    assert_eq!(s.list("d").await, ["a", "same"]);
    assert_eq!(s.load("d/a").await.unwrap(), "theirs");
    assert!(matches!(s.rmdir("d").await, Err(Error::NotEmpty)));
}

/// Both have the entity tag of the bytes and the second of the change: nothing in a listing tells them apart.
#[tokio::test(start_paused = true)]
async fn two_changes_of_attributes_in_one_second_are_told_apart() {
    let s = Setting::new();
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    s.foreign("a", "x");
    let chmod = async |mode| {
        let change = SetAttr { mode: Some(mode), ..SetAttr::default() };
        other.vfs.setattr(&other.cx(), other.ino("a").await, None, change).await.unwrap();
    };
    chmod(0o600).await;
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o600);
    chmod(0o640).await;
    for expected in [false, true] {
        s.pass(6).await;
        let seen = s.entries("", 10, true).await.pop().unwrap();
        assert_eq!(seen.entry.map(|entry| entry.attr.mode), expected.then_some(0o640));
        assert_eq!(s.find("a").await.unwrap().attr.mode, 0o640);
    }
}
