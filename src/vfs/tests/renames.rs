//! rename of files and directories.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_file_moves_with_everything_it_carries_and_keeps_its_inode() {
    let s = Setting::new();
    let meta = Meta {
        content_type: Some("text/x-odd".into()),
        class: Some("STANDARD_IA".into()),
        user: BTreeMap::from([("color".to_owned(), "red".to_owned()), ("mtime".to_owned(), "1000".to_owned())]),
        ..Meta::default()
    };
    s.bucket.put_foreign_with(&Key::new("a"), "bytes", meta.clone());
    let before = s.find("a").await.unwrap().attr;
    s.mkdir("d").await.unwrap();
    s.rename("a", "d/b").await.unwrap();
    assert_eq!(s.keys(), ["d/", "d/b"]);
    let head = s.bucket.peek_head(&Key::new("d/b")).unwrap();
    assert_eq!(Meta { token: None, acl: None, tags: None, ..head.meta }, meta);
    let after = s.find("d/b").await.unwrap().attr;
    assert_eq!((after.ino, after.size, after.mtime), (before.ino, before.size, before.mtime));
    assert!(matches!(s.find("a").await, Err(Error::NotFound)));
    assert_eq!(s.load("d/b").await.unwrap(), "bytes");
    s.check();
}

#[tokio::test(start_paused = true)]
async fn with_preserve_full_access_list_and_tags_move_too_or_nothing_does() {
    let s = Setting::with(|config| config.preserve = Preserve::Full);
    s.foreign("a", "x");
    let key = Key::new("a");
    let tags = crate::store::Tags(vec![("k".into(), "v".into())]);
    s.bucket.set_acl_and_tags(&key, s.bucket.peek_head(&key).unwrap().meta.acl.unwrap_or_default(), tags.clone());
    s.bucket.fail_next(Operation::Acl, Kind::Denied, Effect::Refused);
    assert!(matches!(s.rename("a", "b").await, Err(Error::NotPermitted(_))));
    assert_eq!(s.keys(), ["a"]);
    s.rename("a", "b").await.unwrap();
    assert_eq!(s.bucket.peek_head(&Key::new("b")).unwrap().meta.tags, Some(tags));
}

#[tokio::test(start_paused = true)]
async fn rename_over_an_open_file_keeps_its_reader() {
    let s = Setting::new();
    s.save("old", "old bytes").await.unwrap();
    let reader = s.open("old", READ).await.unwrap();
    s.save("tmp", "new").await.unwrap();
    s.rename("tmp", "old").await.unwrap();
    assert_eq!(s.read(reader).await.unwrap(), "old bytes");
    assert_eq!(s.load("old").await.unwrap(), "new");
    assert_eq!(s.find("old").await.unwrap().attr.size, 3);
    s.vfs.release(reader);
    s.idle().await;
    assert_eq!(s.keys(), ["old"]);
    s.check();
}

#[tokio::test(start_paused = true)]
async fn handles_follow_a_renamed_file() {
    let s = Setting::new();
    s.save("a", "0123456789").await.unwrap();
    let fh = s.open("a", BOTH).await.unwrap();
    s.write(fh, 0, "AB").await.unwrap();
    s.rename("a", "b").await.unwrap();
    assert_eq!(s.peek("b").as_deref(), Some("AB23456789"), "what was dirty went first");
    assert_eq!(s.read(fh).await.unwrap(), "AB23456789");
    s.write(fh, 9, "Z").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.keys(), ["b"]);
    assert_eq!(s.peek("b").as_deref(), Some("AB2345678Z"));
}

#[tokio::test(start_paused = true)]
async fn a_file_never_committed_is_renamed_without_a_request() {
    let s = Setting::new();
    // Not write-only: that would stream, and may have left.
    let fh = s.create("a", BOTH).await.unwrap();
    s.write(fh, 0, "x").await.unwrap();
    s.find("b").await.unwrap_err();
    s.bucket.reset_counters();
    s.rename("a", "b").await.unwrap();
    assert_eq!(s.bucket.all_requests(), 0);
    s.close(fh).await.unwrap();
    assert_eq!((s.keys(), s.peek("b").as_deref()), (vec!["b".to_owned()], Some("x")));
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_renamed_while_it_is_written() {
    let s = Setting::new();
    let fh = s.create("a", WRITE).await.unwrap();
    let chunk = "0123456789abcdef".repeat(8192);
    for n in 0..8u64 {
        s.write(fh, n * chunk.len() as u64, &chunk).await.unwrap();
    }
    s.idle().await;
    s.rename("a", "b").await.unwrap();
    s.write(fh, 8 * chunk.len() as u64, "end").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!(s.keys(), ["b"]);
    assert_eq!(s.peek("b").unwrap(), format!("{}end", chunk.repeat(8)));
    assert!(s.bucket.open_uploads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn posix_rules_of_kinds() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.mkdir("full").await.unwrap();
    s.save("full/x", "x").await.unwrap();
    s.save("f", "x").await.unwrap();
    assert!(matches!(s.rename("f", "d").await, Err(Error::IsADirectory)));
    assert!(matches!(s.rename("d", "f").await, Err(Error::NotADirectory)));
    assert!(matches!(s.rename("d", "full").await, Err(Error::NotEmpty)));
    assert!(matches!(s.rename("full", "full/inside").await, Err(Error::Invalid(_))));
    assert!(matches!(s.rename("none", "g").await, Err(Error::NotFound)));
    s.rename("f", "f").await.unwrap();
    let rename = |mode| s.vfs.rename(&s.cx, (Ino::ROOT, "f".as_ref()), (Ino::ROOT, "d".as_ref()), mode);
    assert!(matches!(rename(RenameMode::NoReplace).await, Err(Error::Exists)));
    assert!(matches!(rename(RenameMode::Exchange).await, Err(Error::Invalid(_))));
    s.rename("full", "d").await.unwrap();
    assert_eq!(s.keys(), ["d/", "d/x", "f"]);
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_directory_moves_with_all_its_objects_and_open_files() {
    let s = Setting::new();
    for n in 0..150 {
        s.bucket.put_foreign(&Key::new(format!("d/sub/{n:03}")), format!("bytes {n}"));
    }
    s.mkdir("d/empty").await.unwrap();
    let reader = s.open("d/sub/007", READ).await.unwrap();
    let writer = s.open("d/sub/008", BOTH).await.unwrap();
    s.write(writer, 0, "BYTES").await.unwrap();
    let new = s.create("d/new", BOTH).await.unwrap();
    s.write(new, 0, "new").await.unwrap();
    let ino = s.ino("d/sub/007").await;
    s.rename("d", "e").await.unwrap();
    assert_eq!(s.read(reader).await.unwrap(), "bytes 7");
    assert_eq!(s.ino("e/sub/007").await, ino);
    assert_eq!(s.peek("e/sub/008").as_deref(), Some("BYTES 8"));
    s.write(writer, 6, "9").await.unwrap();
    s.close(writer).await.unwrap();
    s.close(new).await.unwrap();
    s.vfs.release(reader);
    assert_eq!(s.peek("e/sub/008").as_deref(), Some("BYTES 9"));
    assert_eq!(s.peek("e/new").as_deref(), Some("new"));
    assert_eq!(s.keys().len(), 152);
    assert!(s.keys().iter().all(|key| key.starts_with("e/")), "{:?}", s.keys());
    assert_eq!(s.list("e").await, ["empty", "new", "sub"]);
    assert!(matches!(s.find("d").await, Err(Error::NotFound)));
    s.check();
}

#[tokio::test(start_paused = true)]
async fn a_failed_copy_takes_all_copies_back() {
    let s = Setting::new();
    for n in 0..20 {
        s.bucket.put_foreign(&Key::new(format!("d/{n:02}")), "x");
    }
    s.bucket.set_latency(Duration::from_millis(1));
    for _ in 0..2 {
        s.bucket.fail_next(Operation::Copy, Kind::Denied, Effect::Refused);
    }
    let before = s.keys();
    assert!(matches!(s.rename("d", "e").await, Err(Error::Denied(_))));
    assert_eq!(s.keys(), before);
    assert_eq!(s.list("").await, ["d"]);
    assert_eq!(s.load("d/03").await.unwrap(), "x");
    s.bucket.clear_faults();
    s.rename("d", "e").await.unwrap();
    assert_eq!(s.list("").await, ["e"]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_delete_of_a_renamed_file_takes_the_copy_back() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    let fh = s.open("a", BOTH).await.unwrap();
    s.bucket.fail_next(Operation::Delete, Kind::Denied, Effect::Refused);
    assert!(matches!(s.rename("a", "b").await, Err(Error::Denied(_))));
    assert_eq!(s.keys(), ["a"]);
    assert_eq!(s.read(fh).await.unwrap(), "x");
    s.write(fh, 0, "y").await.unwrap();
    s.close(fh).await.unwrap();
    assert_eq!((s.keys(), s.peek("a").as_deref()), (vec!["a".to_owned()], Some("y")));
}

#[tokio::test(start_paused = true)]
async fn past_the_limit_nothing_is_copied() {
    let s = Setting::with(|config| config.rename_limit = 5);
    for n in 0..6 {
        s.bucket.put_foreign(&Key::new(format!("d/{n}")), "x");
    }
    assert!(matches!(s.rename("d", "e").await, Err(Error::CrossDevice(_))));
    assert_eq!(s.bucket.requests(Operation::Copy), 0);
    assert_eq!(s.list("").await, ["d"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_during_a_directory_rename_waits_and_goes_to_the_new_key() {
    let s = Setting::new();
    for n in 0..10 {
        s.bucket.put_foreign(&Key::new(format!("d/{n}")), "old");
    }
    let fh = s.open("d/3", BOTH).await.unwrap();
    let held = s.bucket.hold(Operation::Copy);
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let rename =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()), RenameMode::Replace).await });
    s.pass(1).await;
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let write = tokio::spawn(async move {
        vfs.write(&cx, fh, 0, Bytes::from_static(b"NEW"), false, Some(ME)).await.unwrap();
        vfs.flush(&cx, fh, ME).await
    });
    let (vfs, cx, d) = (Arc::clone(&s.vfs), s.cx(), s.ino("d").await);
    let make = tokio::spawn(async move { vfs.mkdir(&cx, d, "made".as_ref(), 0o755).await });
    s.pass(1).await;
    assert!(!write.is_finished() && !make.is_finished());
    drop(held);
    rename.await.unwrap().unwrap();
    write.await.unwrap().unwrap();
    make.await.unwrap().unwrap();
    s.vfs.release(fh);
    assert_eq!(s.peek("e/3").as_deref(), Some("NEW"));
    assert!(s.keys().iter().all(|key| key.starts_with("e/")), "{:?}", s.keys());
    assert!(s.keys().contains(&"e/made/".to_owned()));
    s.check();
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_rewrites_during_a_directory_rename_is_not_deleted() {
    let s = Setting::new();
    for n in 0..3 {
        s.foreign(&format!("d/{n}"), "old");
    }
    s.ino("d").await;
    s.bucket.set_latency_of(Operation::List, Duration::from_secs(10));
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let rename =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()), RenameMode::Replace).await });
    while s.keys().len() < 6 {
        s.cx.clock().sleep(Duration::from_millis(10)).await;
    }
    s.foreign("d/1", "theirs");
    rename.await.unwrap().unwrap();
    assert_eq!(s.keys(), ["d/1", "e/0", "e/1", "e/2"]);
    assert_eq!((s.peek("d/1").as_deref(), s.peek("e/1").as_deref()), (Some("theirs"), Some("old")));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_rename_ends_whole() {
    let s = Setting::new();
    for n in 0..10 {
        s.bucket.put_foreign(&Key::new(format!("d/{n}")), "x");
    }
    s.ino("d").await;
    s.bucket.set_latency(Duration::from_secs(1));
    assert!(tokio::time::timeout(Duration::from_secs(2), s.rename("d", "e")).await.is_err());
    s.idle().await;
    s.bucket.set_latency(Duration::ZERO);
    assert!(s.keys().iter().all(|key| key.starts_with("e/")), "{:?}", s.keys());
    assert_eq!(s.list("").await, ["e"]);
    assert!(!s.vfs.names.lock().claims.holds(Ino::ROOT));
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_may_be_created_anew_under_its_old_name() {
    let s = Setting::new();
    s.save("a", "one").await.unwrap();
    let first = s.ino("a").await;
    s.rename("a", "b").await.unwrap();
    s.save("a", "two").await.unwrap();
    assert_ne!(s.ino("a").await, first);
    assert_eq!((s.load("a").await.unwrap(), s.load("b").await.unwrap()), ("two".to_owned(), "one".to_owned()));
    s.rename("a", "b").await.unwrap();
    assert_eq!((s.keys(), s.load("b").await.unwrap()), (vec!["b".to_owned()], "two".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_built_in_defects_are_there_to_be_found() {
    let s = Setting::with(|config| config.defect = Some(Defect::StaleDentryAfterRename));
    s.save("a", "x").await.unwrap();
    s.rename("a", "b").await.unwrap();
    assert!(s.find("a").await.is_ok());
    let s = Setting::with(|config| config.defect = Some(Defect::WrongSizeAfterRenameOver));
    s.save("a", "x").await.unwrap();
    s.save("b", "longer").await.unwrap();
    s.rename("a", "b").await.unwrap();
    assert_eq!(s.find("b").await.unwrap().attr.size, 6);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lags_leaves_nothing_behind() {
    let s = Setting::new();
    s.foreign("d/old", "old");
    s.bucket.freeze_lists(true);
    s.save("d/new", "new").await.unwrap();
    s.rename("d", "e").await.unwrap();
    assert_eq!(s.keys(), ["e/new", "e/old"], "what this mount wrote is moved, though the list does not show it");
}

#[tokio::test(start_paused = true)]
async fn a_failed_rename_leaves_the_empty_directory_that_it_was_to_replace() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.bucket.put_foreign_with(&Key::new("d/file"), "x", Meta { class: Some("ARCHIVE".into()), ..Meta::default() });
    s.mkdir("e").await.unwrap();
    // The marker is copied; an archived file cannot be.
    assert!(s.rename("d", "e").await.is_err());
    assert!(s.keys().contains(&"e/".to_owned()) && s.peek("d/file").is_some(), "{:?}", s.keys());
}

#[tokio::test(start_paused = true)]
async fn sources_that_cannot_be_deleted_are_an_error() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.save("d/file", "x").await.unwrap();
    s.bucket.fail_next(Operation::DeleteMany, Kind::Denied, Effect::Refused);
    assert!(matches!(s.rename("d", "e").await, Err(Error::Denied(_))));
    assert_eq!((s.peek("d/file"), s.peek("e/file")), (Some("x".to_owned()), Some("x".to_owned())), "nothing is lost by it");
}

impl Setting {
    /// What every object below carries, as HEAD shows it, without the tokens.
    fn carried(&self, below: &str) -> BTreeMap<String, Meta> {
        let keys = self.keys().into_iter().filter_map(|key| key.strip_prefix(below).map(str::to_owned));
        let meta = |rest: &String| self.bucket.peek_head(&Key::new(format!("{below}{rest}"))).unwrap().meta;
        keys.map(|rest| (rest.clone(), Meta { token: None, acl: None, tags: None, ..meta(&rest) })).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_this_mount_wrote_moves_without_a_head() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.mkdir("d/sub").await.unwrap();
    for n in 0..10 {
        s.save(&format!("d/sub/{n}.html"), "x").await.unwrap();
    }
    s.vfs.symlink(&s.cx(), s.ino("d").await, "link".as_ref(), "sub/1.html".as_ref()).await.unwrap();
    let change =
        SetAttr { mode: Some(0o751), mtime: Some(SetTime::To(SystemTime::UNIX_EPOCH + Duration::new(7, 8))), ..SetAttr::default() };
    s.vfs.setattr(&s.cx(), s.ino("d/sub/3.html").await, None, change).await.unwrap();
    let name = "user.color".as_ref();
    s.vfs.setxattr(&s.cx(), s.ino("d/sub/4.html").await, name, b"red", SetXattr::Any).await.unwrap();
    s.find("e").await.unwrap_err();
    let before = s.carried("d/");
    s.bucket.reset_counters();
    s.rename("d", "e").await.unwrap();
    let expected = [(Operation::List, 2), (Operation::Copy, 13), (Operation::DeleteMany, 1)];
    assert_eq!(s.requests(), BTreeMap::from(expected));
    assert_eq!(s.carried("e/"), before);
    assert!(before.values().all(|meta| meta.user.contains_key("mode")), "{before:?}");
    // And once more: what a copy made is known as well.
    s.find("f").await.unwrap_err();
    s.bucket.reset_counters();
    s.rename("e", "f").await.unwrap();
    assert_eq!(s.requests(), BTreeMap::from(expected));
    assert_eq!(s.carried("f/"), before);
    let entry = s.find("f/sub/3.html").await.unwrap();
    assert_eq!((entry.attr.mode, entry.attr.mtime), (0o751, SystemTime::UNIX_EPOCH + Duration::new(7, 8)));
}

#[tokio::test(start_paused = true)]
async fn what_the_index_does_not_know_whole_is_asked_for_and_kept() {
    let s = Setting::new();
    let typed = Meta { content_type: Some("text/plain".into()), ..Meta::default() };
    let user = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
    let asked = [
        ("cache", Meta { cache_control: Some("no-store".into()), ..typed.clone() }),
        ("foreign", Meta { user: user("color"), ..typed.clone() }),
        ("odd", Meta { user: user("owner"), ..typed.clone() }),
        ("sse", Meta { sse: Some(crate::store::Sse::Cos), ..typed.clone() }),
        ("untyped", Meta::default()),
    ];
    let known = [("plain", typed.clone()), ("class", Meta { class: Some("STANDARD_IA".into()), ..typed })];
    for (name, meta) in asked.iter().chain(&known) {
        s.bucket.put_foreign_with(&Key::new(format!("d/{name}")), "x", meta.clone());
    }
    s.foreign("d/unseen", "x");
    // Looked at when they can no longer change without its being seen.
    s.pass(10).await;
    for (name, _) in asked.iter().chain(&known) {
        s.find(&format!("d/{name}")).await.unwrap();
    }
    let before = s.carried("d/");
    s.bucket.reset_counters();
    s.rename("d", "e").await.unwrap();
    assert_eq!(s.bucket.requests(Operation::Copy), 8);
    // HEAD of `e` and `e/` beside those.
    let others = 1;
    assert_eq!(s.bucket.requests(Operation::Head) - others, asked.len() as u64 + 1, "{:?}", s.requests());
    let after = s.carried("e/");
    let without_times = |all: BTreeMap<String, Meta>| -> BTreeMap<String, Meta> {
        let strip = |mut meta: Meta| {
            meta.user.retain(|name, _| !name.contains("mtime"));
            meta
        };
        all.into_iter().map(|(name, meta)| (name, strip(meta))).collect()
    };
    assert_eq!(without_times(after), without_times(before));
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_or_removed_behind_the_listing_is_looked_at_again() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    for name in ["gone", "kept", "replaced"] {
        s.save(&format!("d/{name}"), "old").await.unwrap();
    }
    s.find("e").await.unwrap_err();
    let held = s.bucket.hold(Operation::Copy);
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let rename =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()), RenameMode::Replace).await });
    s.pass(1).await;
    s.bucket.delete_foreign(&Key::new("d/gone"));
    s.bucket.put_foreign_with(&Key::new("d/replaced"), "theirs", Meta { cache_control: Some("no-store".into()), ..Meta::default() });
    drop(held);
    rename.await.unwrap().unwrap();
    assert_eq!(s.keys(), ["e/", "e/kept", "e/replaced"]);
    let theirs = s.bucket.peek_head(&Key::new("e/replaced")).unwrap();
    assert_eq!((s.peek("e/replaced").as_deref(), theirs.meta.cache_control.as_deref()), (Some("theirs"), Some("no-store")));
}

#[tokio::test(start_paused = true)]
async fn with_preserve_full_only_access_lists_and_tags_are_asked_for() {
    let s = Setting::with(|config| config.preserve = Preserve::Full);
    s.mkdir("d").await.unwrap();
    s.save("d/a", "x").await.unwrap();
    let tags = crate::store::Tags(vec![("k".into(), "v".into())]);
    s.bucket.set_acl_and_tags(&Key::new("d/a"), crate::store::Acl::default(), tags.clone());
    s.find("e").await.unwrap_err();
    s.bucket.reset_counters();
    s.rename("d", "e").await.unwrap();
    let of = |operation| s.bucket.requests(operation);
    assert_eq!((of(Operation::Head), of(Operation::Acl), of(Operation::Tags), of(Operation::Copy)), (0, 2, 2, 2));
    assert_eq!(s.bucket.peek_head(&Key::new("e/a")).unwrap().meta.tags, Some(tags));
}

#[tokio::test(start_paused = true)]
async fn behind_a_rename_that_happened_no_errno_asks_for_it_again() {
    // ESTALE makes the kernel call once more, which finds nothing under the old name; EXDEV, ENOENT and EEXIST mean to programs that nothing was done.
    for (operation, skip) in [(Operation::DeleteMany, 0), (Operation::List, 1)] {
        for kind in [
            Kind::Precondition,
            Kind::Conflict,
            Kind::NotFound,
            Kind::Exists,
            Kind::NotEmpty,
            Kind::KeyTooLong,
            Kind::TooLarge,
            Kind::Unsupported,
        ] {
            let s = Setting::new();
            s.mkdir("d").await.unwrap();
            s.save("d/file", "x").await.unwrap();
            s.find("e").await.unwrap_err();
            let held = s.bucket.hold(Operation::Copy);
            let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
            let names = ((Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()));
            let rename = tokio::spawn(async move { vfs.rename(&cx, names.0, names.1, RenameMode::Replace).await });
            s.pass(1).await;
            assert!(skip == 0 || s.bucket.requests(Operation::List) > 0, "the sources are listed by now");
            s.bucket.fail_next(operation, kind, Effect::Refused);
            drop(held);
            let result = rename.await.unwrap();
            assert!(matches!(result, Err(Error::Io(_))), "{operation:?} {kind:?}: {result:?}");
            assert_eq!(s.load("e/file").await.unwrap(), "x", "it has happened");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_went_although_its_delete_failed_leaves_the_copy() {
    let s = Setting::new();
    s.save("a", "x").await.unwrap();
    s.bucket.fail_next(Operation::Delete, Kind::Unavailable, Effect::LostAfter);
    s.rename("a", "b").await.unwrap();
    assert_eq!((s.keys(), s.load("b").await.unwrap()), (vec!["b".to_owned()], "x".to_owned()));
    // Where that cannot be told, nothing is deleted.
    s.bucket.fail_next(Operation::Delete, Kind::Denied, Effect::LostAfter);
    let held = s.bucket.hold(Operation::Delete);
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let rename =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "b".as_ref()), (Ino::ROOT, "c".as_ref()), RenameMode::Replace).await });
    s.pass(1).await;
    s.bucket.fail_next(Operation::Head, Kind::Denied, Effect::Refused);
    drop(held);
    assert!(rename.await.unwrap().is_err());
    assert_eq!(s.keys(), ["c"]);
}
