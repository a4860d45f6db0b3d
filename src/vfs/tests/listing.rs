//! readdir.

use super::*;
use crate::vfs::tree::By;

#[tokio::test(start_paused = true)]
async fn every_entry_appears_once_over_many_pages_and_small_replies() {
    let s = Setting::new();
    for n in 0..2500 {
        s.bucket.put_foreign(&Key::new(format!("d/{n:05}")), "x");
        if n % 10 == 0 {
            s.bucket.put_foreign(&Key::new(format!("d/{n:05}-dir/inner")), "x");
        }
    }
    for (at_once, plus) in [(usize::MAX, false), (7, true), (1000, false)] {
        let entries = s.entries("d", at_once, plus).await;
        let names: Vec<_> = entries.iter().map(|entry| entry.name.clone()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((names.len(), sorted.len()), (2750, 2750));
        assert!(entries.iter().all(|entry| entry.ino.0 > 1));
        assert!(entries.windows(2).all(|pair| pair[0].next < pair[1].next));
    }
}

#[tokio::test(start_paused = true)]
async fn dots_come_first() {
    let s = Setting::new();
    s.mkdir("d").await.unwrap();
    s.mkdir("d/e").await.unwrap();
    let (d, e) = (s.ino("d").await, s.ino("d/e").await);
    let fh = s.vfs.opendir(&s.cx(), e).await.unwrap();
    let mut sink = Sink { room: 10, seen: Vec::new() };
    s.vfs.readdir(&s.cx(), fh, 0, true, &mut sink).await.unwrap();
    let seen: Vec<_> = sink.seen.iter().map(|entry| (entry.name.as_str(), entry.ino, entry.next)).collect();
    assert_eq!(seen, [(".", e, 1), ("..", d, 2)]);
    s.vfs.releasedir(fh);
    assert!(matches!(s.vfs.readdir(&s.cx(), fh, 0, true, &mut sink).await, Err(Error::BadHandle)));
}

#[tokio::test(start_paused = true)]
async fn entries_made_and_removed_meanwhile_do_not_disturb_the_others() {
    let s = Setting::new();
    for n in 0..1500 {
        s.bucket.put_foreign(&Key::new(format!("d/{n:04}")), "x");
    }
    let ino = s.ino("d").await;
    let fh = s.vfs.opendir(&s.cx(), ino).await.unwrap();
    let mut names = Vec::new();
    let mut offset = 0;
    let mut round = 0;
    loop {
        let mut sink = Sink { room: 100, seen: Vec::new() };
        s.vfs.readdir(&s.cx(), fh, offset, true, &mut sink).await.unwrap();
        let Some(last) = sink.seen.last() else { break };
        offset = last.next;
        names.extend(sink.seen.into_iter().map(|entry| entry.name).filter(|name| !name.starts_with('.')));
        s.unlink(&format!("d/{:04}", round * 7 + 1)).await.unwrap();
        s.save(&format!("d/{:04}-new", round * 97), "y").await.unwrap();
        round += 1;
    }
    s.vfs.releasedir(fh);
    let removed = |n: &u32| n % 7 == 1 && n / 7 < round;
    let stayed: Vec<_> = (0..1500).filter(|n| !removed(n)).map(|n| format!("{n:04}")).collect();
    for name in stayed {
        assert_eq!(names.iter().filter(|seen| **seen == name).count(), 1, "{name}");
    }
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

/// As a program with a small buffer: the kernel asks for more than fits, and again from behind what did.
#[tokio::test(start_paused = true)]
async fn names_made_behind_the_place_do_not_move_what_is_asked_for_again() {
    for pages in [true, false] {
        let s = Setting::with(|config| config.metadata_ttl = Duration::from_secs(if pages { 0 } else { 5 }));
        for n in 0..1200 {
            s.foreign(&format!("d/{n:04}"), "x");
        }
        if !pages {
            s.list("d").await;
        }
        let ino = s.ino("d").await;
        let fh = s.vfs.opendir(&s.cx(), ino).await.unwrap();
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let mut sink = Sink { room: 50, seen: Vec::new() };
            s.vfs.readdir(&s.cx(), fh, offset, true, &mut sink).await.unwrap();
            sink.seen.truncate(7);
            let Some(last) = sink.seen.last() else { break };
            offset = last.next;
            names.extend(sink.seen.iter().map(|entry| entry.name.clone()));
            s.save(&format!("d/0000-{:05}", names.len()), "y").await.unwrap();
        }
        s.vfs.releasedir(fh);
        names.retain(|name| !name.starts_with('.') && !name.contains('-'));
        assert_eq!(names, (0..1200).map(|n| format!("{n:04}")).collect::<Vec<_>>(), "pages: {pages}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_directory_has_the_order_of_the_bucket() {
    let s = Setting::new();
    for key in ["d/a-", "d/a/x", "d/b/x", "d/b"] {
        s.foreign(key, "x");
    }
    s.mkdir("d/c").await.unwrap();
    s.save("d/c.txt", "x").await.unwrap();
    let listed = s.list("d").await;
    s.bucket.reset_counters();
    assert_eq!((listed, s.bucket.requests(Operation::List)), (s.list("d").await, 0));
    assert_eq!(s.list("d").await, ["a-", "a", "b", "c.txt", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_offset_is_found_again() {
    let s = Setting::new();
    for n in 0..2500 {
        s.bucket.put_foreign(&Key::new(format!("d/{n:04}")), "x");
    }
    let ino = s.ino("d").await;
    let fh = s.vfs.opendir(&s.cx(), ino).await.unwrap();
    let all = s.read_to_end(fh).await;
    for at in [2400usize, 1700, 999, 3] {
        let mut sink = Sink { room: 3, seen: Vec::new() };
        s.vfs.readdir(&s.cx(), fh, all[at].next, false, &mut sink).await.unwrap();
        assert_eq!(sink.seen, all[at + 1..at + 4]);
    }
    s.foreign("d/0000-new", "x");
    s.pass(6).await;
    assert_eq!(s.read_to_end(fh).await.len(), all.len() + 1, "rewinddir sees what is new");
    s.vfs.releasedir(fh);
}

#[tokio::test(start_paused = true)]
async fn what_only_this_mount_knows_is_listed() {
    let s = Setting::new();
    s.foreign("m", "x");
    let fh = s.create("a", WRITE).await.unwrap();
    s.write(fh, 0, "abc").await.unwrap();
    s.mkdir("z").await.unwrap();
    let entries = s.entries("", 10, true).await;
    let seen: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.kind, entry.entry.map(|entry| entry.attr.size))).collect();
    assert_eq!(seen, [("a", Some(FileKind::File), Some(3)), ("m", None, None), ("z", Some(FileKind::Directory), Some(4096))]);
    s.close(fh).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attributes_are_given_only_where_they_are_known_exactly() {
    let s = Setting::new();
    s.foreign("small", "x");
    s.bucket.put_foreign(&Key::new("large"), vec![0; 5000]);
    s.foreign("dir/x", "x");
    let kinds: Vec<_> = s.entries("", 10, true).await.into_iter().map(|entry| (entry.name, entry.kind, entry.entry.is_some())).collect();
    let expected = [("dir", Some(FileKind::Directory)), ("large", Some(FileKind::File)), ("small", None)];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind, false)));
    // Once asked for, not in the second of their change, they are known of exactly these objects, however old the names are.
    s.pass(3).await;
    s.find("small").await.unwrap();
    s.find("large").await.unwrap();
    s.pass(60).await;
    s.bucket.reset_counters();
    let known: Vec<_> = s.entries("", 10, true).await.into_iter().map(|entry| (entry.name, entry.entry.is_some())).collect();
    assert_eq!(known, [("dir".to_owned(), false), ("large".to_owned(), true), ("small".to_owned(), true)]);
    assert_eq!(s.requests(), BTreeMap::from([(Operation::List, 1)]));
    s.foreign("small", "changed");
    s.pass(60).await;
    let small = s.entries("", 10, true).await.pop().unwrap();
    assert!(small.entry.is_none(), "another version is another object");
}

#[tokio::test(start_paused = true)]
async fn without_posix_attributes_the_listing_says_it_all() {
    let s = Setting::with(|config| config.posix = Posix::None);
    s.foreign("a", "abc");
    let entries = s.entries("", 10, true).await;
    let attr = entries[0].entry.unwrap().attr;
    assert_eq!((attr.size, attr.mode, attr.kind), (3, 0o644, FileKind::File));
    let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    assert!(matches!(s.vfs.setattr(&s.cx(), attr.ino, None, change).await, Err(Error::NotPermitted(_))));
}

#[tokio::test(start_paused = true)]
async fn a_directory_read_to_its_end_needs_no_request_for_a_while() {
    let s = Setting::new();
    s.foreign("d/a", "x");
    s.list("d").await;
    s.bucket.reset_counters();
    let d = s.ino("d").await;
    assert!(matches!(s.vfs.lookup(&s.cx(), d, "none".as_ref()).await.unwrap(), Lookup::Absent(_)));
    assert_eq!(s.list("d").await, ["a"]);
    s.save("d/b", "y").await.unwrap();
    assert_eq!(s.list("d").await, ["a", "b"], "own changes are in it");
    s.unlink("d/b").await.unwrap();
    assert_eq!(s.list("d").await, ["a"]);
    assert_eq!(s.bucket.requests(Operation::List), 0);
    s.pass(6).await;
    s.foreign("d/c", "z");
    assert_eq!(s.list("d").await, ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_created_while_its_directory_is_listed_is_found() {
    for defect in [None, Some(Defect::EntryCreatedDuringListingLost)] {
        let s = Setting::with(|config| config.defect = defect);
        s.foreign("d/a", "x");
        let d = s.ino("d").await;
        let made = {
            let asked = s.cx.clock().now();
            s.save("d/made", "y").await.unwrap();
            // The page was asked for before the creation and arrives behind it.
            let names = BTreeMap::from([(keymap::Name::parse("a".as_ref()).unwrap(), tree::Listed::Prefix)]);
            s.vfs.keep_listing(d, asked, names);
            s.list("d").await.contains(&"made".to_owned())
        };
        assert_eq!(made, defect.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_no_names_are_shown_escaped_and_can_be_opened() {
    let s = Setting::new();
    s.foreign("d//x", "x");
    s.foreign("d/..", "dots");
    let mut names = s.list("d").await;
    names.sort();
    assert_eq!(names, ["@cos:", "@cos:%2E%2E"]);
    assert_eq!(s.load("d/@cos:%2E%2E").await.unwrap(), "dots");
    assert_eq!(s.load("d/@cos:/x").await.unwrap(), "x");
    let hide = Setting::over(Arc::clone(&s.bucket), |config| config.escape_unspellable = false);
    assert_eq!(hide.list("d").await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn below_a_prefix_nothing_else_is_seen() {
    let s = Setting::with(|config| config.prefix = "data/".to_owned());
    s.foreign("data/a", "x");
    s.foreign("other", "x");
    s.foreign("data/", "");
    assert_eq!(s.list("").await, ["a"]);
    s.save("b", "y").await.unwrap();
    assert!(s.keys().contains(&"data/b".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_tree_too_large_for_its_share_gives_names_only_and_asks_for_inodes_back() {
    let s = Setting::new();
    let held: Vec<Ino> = {
        let mut names = s.vfs.names.lock();
        let now = s.cx.clock().now();
        let mut held = Vec::new();
        while !names.tree.is_full() {
            let text = format!("f{}", held.len());
            let facts = Facts { kind: FileKind::File, attributes: Attributes::default(), origin: None, modified: SystemTime::UNIX_EPOCH };
            let ino = names.tree.insert(Ino::ROOT, &keymap::Name::parse(text.as_ref()).unwrap(), &text, facts, By::Cos, now);
            names.tree.raise(ino);
            held.push(ino);
        }
        held
    };
    s.foreign("d/a", "x");
    s.find("d/a").await.unwrap();
    assert!(!s.told.0.lock().is_empty());
    s.vfs.forget(held[0], 1);
    s.check();
}
