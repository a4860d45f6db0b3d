//! With staging: deletes and attributes follow their reply, many as one, survive a crash, and touch nothing newer.

use super::*;
use crate::local::{self, SimDisk};

/// A mount with a ledger, and its disk.
struct Noted {
    s: Setting,
    disk: Arc<SimDisk>,
}

impl std::ops::Deref for Noted {
    type Target = Setting;

    fn deref(&self) -> &Setting {
        &self.s
    }
}

impl Noted {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let disk = Arc::new(SimDisk::new());
        let (ledger, _) = Ledger::open(Arc::<SimDisk>::clone(&disk), "here").await.unwrap();
        Self { s: Setting::build(Setting::new().bucket, Some(ledger), change), disk }
    }

    /// The power fails: what was on its way ends with the process.
    async fn kill(&self) {
        self.disk.crash();
        self.s.tasks.join(self.s.cx.clock(), Duration::ZERO).await;
    }

    /// What the next mount after a crash does before programs can use it. Returns what had been left.
    async fn recovered(self) -> (Setting, Vec<local::Leftover>) {
        let bucket = Arc::clone(&self.s.bucket);
        self.kill().await;
        let (_ledger, left) = Ledger::open(Arc::<SimDisk>::clone(&self.disk), "here").await.unwrap();
        let next = Setting::over(bucket, |_| {});
        let mut leftovers = Vec::new();
        for (entry, leftover) in left {
            recover(&next.cx(), &next.vfs.bucket, &next.vfs.data, &leftover).await.unwrap();
            entry.settled();
            leftovers.push(leftover);
        }
        (next, leftovers)
    }

    async fn set(&self, path: &str, change: SetAttr) -> Result<Attr> {
        let ino = self.ino(path).await;
        Ok(self.vfs.setattr(&self.cx(), ino, None, change).await?.attr)
    }

    fn header(&self, key: &str, name: &str) -> Option<String> {
        self.bucket.peek_head(&Key::new(key)).unwrap().meta.user.get(name).cloned()
    }
}

fn mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

#[tokio::test(start_paused = true)]
async fn an_unlink_is_answered_before_its_delete_and_the_name_is_gone() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.save("b", "x").await.unwrap();
    s.bucket.reset_counters();
    let held = s.bucket.hold(Operation::Delete);
    s.unlink("a").await.unwrap();
    assert_eq!((s.keys(), s.list("").await), (vec!["a".to_owned(), "b".to_owned()], vec!["b".to_owned()]));
    // Longer than anything is believed.
    s.pass(60).await;
    assert!(matches!(s.find("a").await, Err(Error::NotFound)));
    assert_eq!(s.list("").await, ["b"], "though COS lists it");
    assert_eq!(s.vfs.pending().deletes, 1);
    drop(held);
    s.idle().await;
    assert_eq!((s.keys(), s.vfs.pending().deletes), (vec!["b".to_owned()], 0));
    assert_eq!(s.list("").await, ["b"]);
    s.bucket.reset_counters();
    s.unlink("b").await.unwrap();
    s.idle().await;
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Delete, 1)]));
    s.check();
}

#[tokio::test(start_paused = true)]
async fn two_thousand_removals_are_a_handful_of_requests() {
    let s = Noted::new().await;
    s.mkdir("d").await.unwrap();
    for n in 0..2000 {
        s.save(&format!("d/f{n}"), "x").await.unwrap();
    }
    s.bucket.reset_counters();
    s.bucket.set_latency(Duration::from_millis(10));
    assert_eq!(s.list("d").await.len(), 2000);
    for n in 0..2000 {
        s.unlink(&format!("d/f{n}")).await.unwrap();
        // What the kernel and the disk take.
        s.cx.clock().sleep(Duration::from_micros(300)).await;
    }
    s.rmdir("d").await.unwrap();
    assert!(s.keys().is_empty());
    let requests = s.requests();
    assert!(requests[&Operation::DeleteMany] <= 6, "{requests:?}");
    assert!(requests.get(&Operation::Delete).is_none_or(|n| *n <= 2), "the first, and the marker: {requests:?}");
    assert!(requests[&Operation::List] <= 4 && !requests.contains_key(&Operation::Head), "two pages, one proof: {requests:?}");
}

#[tokio::test(start_paused = true)]
async fn what_takes_a_removed_name_waits_for_the_delete_and_is_never_deleted() {
    for how in ["create", "mkdir", "symlink", "rename", "rename of a new file", "exclusive"] {
        let s = Noted::with(|config| config.exclusive_at_open = how == "exclusive").await;
        s.save("a", "old").await.unwrap();
        s.save("b", "new").await.unwrap();
        s.bucket.set_latency_of(Operation::Delete, Duration::from_secs(3));
        s.unlink("a").await.unwrap();
        match how {
            "create" => s.save("a", "new").await.unwrap(),
            "mkdir" => s.mkdir("a").await.unwrap(),
            "symlink" => s.vfs.symlink(&s.cx(), Ino::ROOT, "a".as_ref(), "new".as_ref()).await.map(drop).unwrap(),
            "rename" => s.rename("b", "a").await.unwrap(),
            "exclusive" => {
                let fh = s.create("a", EXCLUSIVE).await.unwrap();
                s.write(fh, 0, "new").await.unwrap();
                s.close(fh).await.unwrap();
            }
            _ => {
                let fh = s.create("c", WRITE).await.unwrap();
                s.rename("c", "a").await.unwrap();
                s.write(fh, 0, "new").await.unwrap();
                s.close(fh).await.unwrap();
            }
        }
        s.pass(60).await;
        s.idle().await;
        if how == "mkdir" {
            assert!(s.keys().contains(&"a/".to_owned()) && !s.keys().contains(&"a".to_owned()), "{how}");
        } else {
            assert_eq!(s.peek("a").as_deref(), Some("new"), "{how}");
        }
        assert!(s.find("a").await.is_ok(), "{how}");
        let (next, left) = s.recovered().await;
        assert_eq!(left, [], "{how}: nothing is promised any more");
        assert!(next.find("a").await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_renamed_without_what_was_removed_from_it_or_from_its_new_place() {
    let s = Noted::new().await;
    for path in ["d", "e"] {
        s.mkdir(path).await.unwrap();
    }
    for path in ["d/a", "d/kept", "e/kept"] {
        s.save(path, path).await.unwrap();
    }
    s.set("d/kept", mode(0o600)).await.unwrap();
    let held = s.bucket.hold(Operation::Delete);
    let hold_many = s.bucket.hold(Operation::DeleteMany);
    s.unlink("e/kept").await.unwrap();
    s.unlink("d/a").await.unwrap();
    let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
    let renaming =
        tokio::spawn(async move { vfs.rename(&cx, (Ino::ROOT, "d".as_ref()), (Ino::ROOT, "e".as_ref()), RenameMode::Replace).await });
    s.pass(1).await;
    drop((held, hold_many));
    renaming.await.unwrap().unwrap();
    s.idle().await;
    assert_eq!(s.keys(), ["e/", "e/kept"]);
    assert_eq!((s.peek("e/kept").as_deref(), s.header("e/kept", "mode").as_deref()), (Some("d/kept"), Some("33152")));
}

#[tokio::test(start_paused = true)]
async fn rmdir_fsync_of_the_directory_and_the_end_wait_for_deletes() {
    for how in ["rmdir", "fsyncdir", "drain", "settle"] {
        let s = Noted::new().await;
        s.mkdir("d").await.unwrap();
        s.save("d/a", "x").await.unwrap();
        let fh = s.vfs.opendir(&s.cx(), s.ino("d").await).await.unwrap();
        s.bucket.set_latency_of(Operation::Delete, Duration::from_secs(5));
        s.unlink("d/a").await.unwrap();
        assert!(s.peek("d/a").is_some());
        match how {
            "rmdir" => s.rmdir("d").await.unwrap(),
            "fsyncdir" => s.vfs.fsyncdir(&s.cx(), fh).await.unwrap(),
            "settle" => s.vfs.settle(&s.cx(), Ino::ROOT).await.unwrap(),
            _ => assert_eq!(s.vfs.drain(&s.cx()).await, Left { files: 0, bytes: 0, noted: 0 }),
        }
        assert!(s.peek("d/a").is_none(), "{how}");
        s.vfs.releasedir(fh);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_files_of_an_implicit_directory_leave_a_marker_though_their_deletes_are_pending() {
    let s = Noted::new().await;
    for n in 0..5 {
        s.foreign(&format!("d/f{n}"), "x");
    }
    let _held = s.bucket.hold(Operation::Delete);
    let _many = s.bucket.hold(Operation::DeleteMany);
    for n in 0..5 {
        assert!(!s.keys().contains(&"d/".to_owned()));
        s.unlink(&format!("d/f{n}")).await.unwrap();
    }
    assert!(s.keys().contains(&"d/".to_owned()), "{:?}", s.keys());
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_delete_is_made_good_and_nothing_newer_is_deleted() {
    for newer in [None, Some("newer"), Some("same bytes")] {
        let s = Noted::new().await;
        s.save("a", "same bytes").await.unwrap();
        let held = s.bucket.hold(Operation::Delete);
        s.unlink("a").await.unwrap();
        s.pass(10).await;
        if let Some(newer) = newer {
            s.foreign("a", newer);
        }
        s.kill().await;
        drop(held);
        let (next, left) = s.recovered().await;
        assert_eq!(left.len(), 1);
        assert_eq!(next.peek("a").as_deref(), newer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_had_to_wait_spares_what_somebody_else_made_meanwhile() {
    for (newer, many) in [("newer", false), ("x", false), ("newer", true)] {
        let s = Noted::new().await;
        for key in ["a", "b", "c"] {
            s.save(key, "x").await.unwrap();
        }
        // An outage.
        for _ in 0..2 {
            s.bucket.fail_next(Operation::Delete, Kind::Unavailable, Effect::Refused);
            s.bucket.fail_next(Operation::DeleteMany, Kind::Unavailable, Effect::Refused);
        }
        s.unlink("a").await.unwrap();
        if many {
            s.unlink("b").await.unwrap();
            s.unlink("c").await.unwrap();
        }
        s.pass(3).await;
        s.foreign("a", newer);
        s.pass(30).await;
        s.bucket.clear_faults();
        s.idle().await;
        assert_eq!(s.peek("a").as_deref(), Some(newer));
        assert_eq!(s.keys().len(), if many { 1 } else { 3 });
        assert_eq!(s.load("a").await.unwrap(), newer, "and it is found here, too");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_delete_gives_the_name_back_and_the_next_unlink_says_so_itself() {
    let s = Noted::new().await;
    for key in ["a", "b"] {
        s.save(key, "x").await.unwrap();
    }
    s.bucket.fail_next(Operation::Delete, Kind::Denied, Effect::Refused);
    s.unlink("a").await.unwrap();
    s.idle().await;
    assert_eq!(s.load("a").await.unwrap(), "x");
    assert_eq!(s.list("").await, ["a", "b"]);
    assert_eq!(s.told.0.lock().as_slice(), [(Ino::ROOT, "a".to_owned())], "the kernel believes it gone");
    let refused = s.vfs.refused();
    assert_eq!((refused.len(), refused[0].key.as_str(), refused[0].what), (1, "a", "delete"));
    let root = s.vfs.opendir(&s.cx(), Ino::ROOT).await.unwrap();
    assert!(matches!(s.vfs.fsyncdir(&s.cx(), root).await, Err(Error::Denied(_))), "the next fsync says so");
    s.vfs.fsyncdir(&s.cx(), root).await.unwrap();
    s.bucket.reset_counters();
    s.pass(300).await;
    assert_eq!(s.bucket.all_requests(), 0, "no storm");

    s.bucket.fail_next(Operation::Delete, Kind::Denied, Effect::Refused);
    assert!(matches!(s.unlink("a").await, Err(Error::Denied(_))), "EACCES from the second on");
    s.unlink("a").await.unwrap();
    assert!(s.peek("a").is_none(), "deleted before the reply");
    let _held = s.bucket.hold(Operation::Delete);
    s.unlink("b").await.unwrap();
    assert!(s.peek("b").is_some(), "and behind it again from then on");
}

#[tokio::test(start_paused = true)]
async fn a_locked_object_among_many_comes_back_alone() {
    let s = Noted::new().await;
    let keys: Vec<String> = (0..20).map(|n| format!("f{n:02}")).collect();
    for key in &keys {
        s.save(key, "x").await.unwrap();
    }
    s.bucket.lock(&Key::new("f07"));
    for key in &keys {
        s.unlink(key).await.unwrap();
    }
    s.idle().await;
    assert_eq!((s.keys(), s.list("").await), (vec!["f07".to_owned()], vec!["f07".to_owned()]));
    assert_eq!(s.vfs.pending(), PendingCounts { deletes: 0, attributes: 0, refused: 1 });
}

#[tokio::test(start_paused = true)]
async fn where_many_may_not_be_deleted_at_once_they_are_one_by_one() {
    let s = Noted::new().await;
    for n in 0..20 {
        s.save(&format!("f{n}"), "x").await.unwrap();
    }
    s.bucket.fail_next(Operation::DeleteMany, Kind::Denied, Effect::Refused);
    for n in 0..20 {
        s.unlink(&format!("f{n}")).await.unwrap();
    }
    s.idle().await;
    assert!(s.keys().is_empty());
    assert_eq!(s.vfs.pending().refused, 0);
}

#[tokio::test(start_paused = true)]
async fn an_unlinked_open_file_is_read_to_its_end() {
    let s = Noted::new().await;
    s.save("a", "bytes").await.unwrap();
    let fh = s.open("a", READ).await.unwrap();
    s.unlink("a").await.unwrap();
    s.idle().await;
    assert!(s.keys().is_empty());
    assert_eq!(s.read(fh).await.unwrap(), "bytes");
}

#[tokio::test(start_paused = true)]
async fn chmod_chown_and_utimens_together_are_one_copy() {
    let s = Noted::new().await;
    s.foreign("a", "bytes");
    let ino = s.ino("a").await;
    s.bucket.reset_counters();
    s.set("a", mode(0o600)).await.unwrap();
    s.set("a", SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() }).await.unwrap();
    s.set("a", SetAttr { mtime: Some(SetTime::To(moment())), ..SetAttr::default() }).await.unwrap();
    s.vfs.setxattr(&s.cx(), ino, "user.x".as_ref(), b"y", SetXattr::Any).await.unwrap();
    assert_eq!(s.bucket.requests(Operation::Copy), 0);
    let shown = s.vfs.getattr(&s.cx(), ino, None).await.unwrap().attr;
    assert_eq!((shown.mode, shown.uid, shown.gid, shown.mtime), (0o600, 7, 8, moment()));
    s.pass(1).await;
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 1), (Operation::Copy, 1)]));
    assert_eq!(s.vfs.pending(), PendingCounts::default());
    s.pass(60).await;
    for mount in [&s.s, &Setting::over(Arc::clone(&s.bucket), |_| {})] {
        let attr = mount.find("a").await.unwrap().attr;
        assert_eq!((attr.mode, attr.uid, attr.gid, attr.mtime), (0o600, 7, 8, moment()));
        assert_eq!(&mount.vfs.getxattr(&mount.cx(), ino, "user.x".as_ref()).await.unwrap()[..], b"y");
    }
    assert_eq!(s.load("a").await.unwrap(), "bytes");
    s.check();
}

#[tokio::test(start_paused = true)]
async fn an_old_listing_does_not_bring_old_attributes_back() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.set("a", mode(0o600)).await.unwrap();
    let held = s.bucket.hold(Operation::Copy);
    s.pass(30).await;
    let seen = s.entries("", usize::MAX, true).await;
    assert_eq!(seen[0].entry.unwrap().attr.mode, 0o600);
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o600);
    let fh = s.open("a", READ).await.unwrap();
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o600, "nor does the HEAD of an open");
    s.vfs.release(fh);
    drop(held);
    s.pass(30).await;
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o600);
    assert_eq!(s.header("a", "mode").as_deref(), Some("33152"));
}

#[tokio::test(start_paused = true)]
async fn rsync_costs_a_put_a_head_a_copy_and_a_delete() {
    let s = Noted::new().await;
    s.list("").await;
    s.bucket.reset_counters();
    s.save(".f.tmp", "bytes").await.unwrap();
    s.set(".f.tmp", SetAttr { uid: Some(7), ..SetAttr::default() }).await.unwrap();
    s.set(".f.tmp", SetAttr { mtime: Some(SetTime::To(moment())), ..SetAttr::default() }).await.unwrap();
    s.set(".f.tmp", mode(0o640)).await.unwrap();
    s.rename(".f.tmp", "f").await.unwrap();
    s.pass(30).await;
    let expected = [Operation::Put, Operation::Head, Operation::Copy, Operation::Delete].map(|operation| (operation, 1));
    assert_eq!(s.requests(), BTreeMap::from(expected));
    for mount in [&s.s, &Setting::over(Arc::clone(&s.bucket), |_| {})] {
        let attr = mount.find("f").await.unwrap().attr;
        assert_eq!((attr.mode, attr.uid, attr.mtime), (0o640, 7, moment()));
    }
    assert_eq!(s.vfs.pending(), PendingCounts::default());
}

#[tokio::test(start_paused = true)]
async fn attributes_join_the_commit_of_a_writer_who_comes_later() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.set("a", mode(0o600)).await.unwrap();
    s.bucket.reset_counters();
    let fh = s.open("a", WRITE).await.unwrap();
    s.pass(5).await;
    assert_eq!(s.vfs.pending().attributes, 0);
    s.write(fh, 0, "y").await.unwrap();
    s.close(fh).await.unwrap();
    s.pass(5).await;
    assert_eq!((s.bucket.requests(Operation::Copy), s.bucket.requests(Operation::Put)), (0, 1));
    assert_eq!(s.header("a", "mode").as_deref(), Some("33152"));
    let (_, left) = s.recovered().await;
    assert_eq!(left, []);
}

#[tokio::test(start_paused = true)]
async fn attributes_of_a_writer_that_never_closes_survive_a_crash() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.set("a", mode(0o600)).await.unwrap();
    s.open("a", WRITE).await.unwrap();
    s.pass(5).await;
    let (next, left) = s.recovered().await;
    assert_eq!(left.len(), 1);
    assert_eq!(next.find("a").await.unwrap().attr.mode, 0o600);
}

#[tokio::test(start_paused = true)]
async fn an_unlink_drops_attributes_and_an_fsync_sends_them() {
    let s = Noted::new().await;
    for key in ["a", "b"] {
        s.save(key, "x").await.unwrap();
        s.set(key, mode(0o600)).await.unwrap();
    }
    let fh = s.open("b", READ).await.unwrap();
    s.bucket.reset_counters();
    s.unlink("a").await.unwrap();
    s.vfs.fsync(&s.cx(), fh).await.unwrap();
    assert_eq!(s.header("b", "mode").as_deref(), Some("33152"));
    assert_eq!(s.bucket.requests(Operation::Copy), 1);
    s.pass(10).await;
    assert_eq!((s.bucket.requests(Operation::Copy), s.vfs.pending()), (1, PendingCounts::default()));
    assert_eq!(s.read(fh).await.unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_copy_is_made_good_unless_the_object_was_replaced() {
    for newer in [None, Some("newer"), Some("x")] {
        let s = Noted::new().await;
        s.save("a", "x").await.unwrap();
        s.set("a", mode(0o600)).await.unwrap();
        s.set("a", SetAttr { mtime: Some(SetTime::To(moment())), ..SetAttr::default() }).await.unwrap();
        let held = s.bucket.hold(Operation::Copy);
        s.pass(10).await;
        if let Some(newer) = newer {
            s.foreign("a", newer);
        }
        s.kill().await;
        drop(held);
        let (next, left) = s.recovered().await;
        assert_eq!(left.len(), 1);
        let attr = next.find("a").await.unwrap().attr;
        assert_eq!((attr.mode == 0o600, attr.mtime == moment()), (newer.is_none(), newer.is_none()), "{newer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_attributes_are_taken_back_and_the_next_are_refused_to_the_program() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.bucket.fail_next(Operation::Copy, Kind::Denied, Effect::Refused);
    assert_eq!(s.set("a", mode(0o600)).await.unwrap().mode, 0o600);
    s.pass(5).await;
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o640);
    assert_eq!((s.vfs.refused()[0].key.as_str(), s.vfs.refused()[0].what), ("cos://vfs-1250000000/a", "attributes"));
    let fh = s.open("a", READ).await.unwrap();
    assert!(matches!(s.vfs.fsync(&s.cx(), fh).await, Err(Error::Denied(_))), "the next fsync says so");
    s.vfs.fsync(&s.cx(), fh).await.unwrap();
    s.vfs.release(fh);
    s.bucket.fail_next(Operation::Copy, Kind::Denied, Effect::Refused);
    assert!(matches!(s.set("a", mode(0o600)).await, Err(Error::Denied(_))));
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o640);
    s.set("a", mode(0o600)).await.unwrap();
    assert_eq!(s.header("a", "mode").as_deref(), Some("33152"), "sent before the reply");
    s.set("a", mode(0o644)).await.unwrap();
    assert_eq!(s.header("a", "mode").as_deref(), Some("33152"), "behind it again");
}

#[tokio::test(start_paused = true)]
async fn an_outage_delays_attributes_and_a_newer_object_does_not_get_them() {
    for newer in [false, true] {
        let s = Noted::new().await;
        s.save("a", "x").await.unwrap();
        (0..3).for_each(|_| s.bucket.fail_next(Operation::Copy, Kind::Unavailable, Effect::Refused));
        s.set("a", mode(0o600)).await.unwrap();
        s.pass(8).await;
        assert_eq!((s.vfs.pending().attributes, s.find("a").await.unwrap().attr.mode), (1, 0o600));
        if newer {
            s.foreign("a", "newer");
        }
        s.pass(60).await;
        assert_eq!(s.vfs.pending(), PendingCounts::default());
        assert_eq!(s.find("a").await.unwrap().attr.mode, if newer { 0o644 } else { 0o600 });
        assert_eq!(s.header("a", "mode").is_some(), !newer);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_said_before_anything_changes() {
    let s = Noted::with(|config| config.preserve = Preserve::Full).await;
    s.save("a", "x").await.unwrap();
    s.bucket.fail_next(Operation::Acl, Kind::Denied, Effect::Refused);
    assert!(matches!(s.set("a", mode(0o600)).await, Err(Error::NotPermitted(_))));
    let ino = s.ino("a").await;
    let big = vec![b'x'; 1700];
    assert!(matches!(s.vfs.setxattr(&s.cx(), ino, "user.x".as_ref(), &big, SetXattr::Any).await, Err(Error::AttributesFull)));
    assert_eq!(s.find("a").await.unwrap().attr.mode, 0o640);
    s.pass(5).await;
    assert_eq!(s.bucket.requests(Operation::Copy), 0);
    assert_eq!(s.vfs.pending(), PendingCounts::default());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_mount_says_what_the_next_has_to_send() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.save("b", "x").await.unwrap();
    s.set("a", mode(0o600)).await.unwrap();
    (0..20).for_each(|_| s.bucket.fail_next(Operation::Delete, Kind::Unavailable, Effect::Refused));
    (0..20).for_each(|_| s.bucket.fail_next(Operation::Copy, Kind::Unavailable, Effect::Refused));
    s.unlink("b").await.unwrap();
    let cx = Ctx::new(Arc::clone(s.cx.clock()), Duration::from_secs(10), 0, 0);
    assert_eq!(s.vfs.drain(&cx).await, Left { files: 0, bytes: 0, noted: 2 });
    s.bucket.clear_faults();
    let (next, left) = s.recovered().await;
    assert_eq!(left.len(), 2);
    assert_eq!((next.find("a").await.unwrap().attr.mode, next.peek("b")), (0o600, None));
}

#[tokio::test(start_paused = true)]
async fn a_directory_gets_its_times_by_one_copy_and_an_implicit_one_a_marker_at_once() {
    let s = Noted::new().await;
    s.mkdir("d").await.unwrap();
    s.foreign("i/x", "x");
    s.bucket.reset_counters();
    let times = SetAttr { mtime: Some(SetTime::To(moment())), ..SetAttr::default() };
    s.set("d", times).await.unwrap();
    s.set("d", mode(0o700)).await.unwrap();
    s.pass(2).await;
    assert_eq!(s.requests(), BTreeMap::from([(Operation::Head, 1), (Operation::Copy, 1)]));
    s.set("i", times).await.unwrap();
    assert!(s.keys().contains(&"i/".to_owned()));
    let other = Setting::over(Arc::clone(&s.bucket), |_| {});
    assert_eq!((other.find("d").await.unwrap().attr.mtime, other.find("i").await.unwrap().attr.mtime), (moment(), moment()));
}

#[tokio::test(start_paused = true)]
async fn two_writers_who_open_at_once_both_know_of_attributes_that_are_owed() {
    let s = Noted::new().await;
    s.save("a", "x").await.unwrap();
    s.set("a", mode(0o711)).await.unwrap();
    let ino = s.ino("a").await;
    let held = s.bucket.hold(Operation::Head);
    let open = || {
        let (vfs, cx) = (Arc::clone(&s.vfs), s.cx());
        async move { vfs.open(&cx, ino, WRITE).await.unwrap().fh }
    };
    // The first who is answered makes them part of his commit; the second has asked before, and COS told him the old ones.
    let release = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(held);
    };
    let (one, other, ()) = tokio::join!(open(), open(), release);
    s.write(one, 0, "y").await.unwrap();
    s.close(one).await.unwrap();
    s.close(other).await.unwrap();
    s.idle().await;
    assert_eq!(s.find("a").await.unwrap().attr.mode & 0o7777, 0o711);
    assert_eq!(s.header("a", "mode"), Some((0o100_711).to_string()));
}
