//! What programs cost in requests, and how many of them are in flight: counted by the emulator's log.

use std::{
    fs::{self, File},
    io::Write,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use cosmount::emulator::{Action, Op, Rule};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::common::{Mounted, wait};

/// How many files a test makes: fewer than the full test, unless that is asked for.
fn files(check: usize) -> usize {
    std::env::var("COSMOUNT_FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(check)
}

/// The operations since the log was cleared, in the order they came.
fn operations(mount: &Mounted) -> Vec<Op> {
    mount.server().log().iter().map(|entry| entry.op).collect()
}

/// Does `work` while nothing of `op` is answered, until so many of it have come.
fn with_so_many_in_flight(mount: &Mounted, op: Op, many: u64, work: impl FnOnce() + Send) {
    let hold = mount.fault([Rule::on(op, Action::Hold { answer: false })]);
    std::thread::scope(|scope| {
        scope.spawn(work);
        let came = wait(Duration::from_secs(30), || mount.server().faults().held() >= many);
        let held = mount.server().faults().held();
        drop(hold);
        assert!(came && held == many, "{held} {op} came before one was answered, not {many}");
    });
}

fn write_files(directory: &Path, range: std::ops::Range<usize>) {
    for n in range {
        let mut file = File::create(directory.join(format!("f{n}"))).unwrap();
        file.write_all(&[n as u8; 4096]).unwrap();
    }
}

/// Long TTLs, so that what is counted is not how fast this host is.
const PATIENT: [&str; 2] = ["--metadata-ttl=5m", "--negative-ttl=5m"];

#[test]
fn a_directory_of_own_files_moves_by_128_copies_at_once_and_nothing_else() {
    let mount = Mounted::builder().args(&PATIENT).start();
    let files = files(300);
    fs::create_dir(mount.path().join("old")).unwrap();
    write_files(&mount.path().join("old"), 0..files);
    assert!(!mount.path().join("new").exists());
    mount.server().clear_log();
    with_so_many_in_flight(&mount, Op::CopyObject, 128, || fs::rename(mount.path().join("old"), mount.path().join("new")).unwrap());
    let counters = mount.counters();
    // The directory's marker is one more.
    let pages = (files as u64 + 1).div_ceil(1000);
    assert_eq!(counters.of(Op::CopyObject).requests, files as u64 + 1);
    assert_eq!((counters.of(Op::ListObjects).requests, counters.of(Op::DeleteMany).requests), (2 * pages, pages), "{counters:?}");
    assert_eq!(counters.total().requests, files as u64 + 1 + 3 * pages, "{counters:?}");
    assert_eq!(mount.keys("").len(), files + 1);
    assert!(mount.keys("").iter().all(|key| key.starts_with("new/")));
    assert_eq!(fs::read(mount.path().join("new/f7")).unwrap(), [7; 4096]);
}

/// What the bucket encrypts by itself is not in what was sent, and stays encrypted whatever the bucket says later.
#[test]
fn what_the_bucket_encrypted_is_asked_for_before_it_moves() {
    let mount = Mounted::builder().args(&PATIENT).start();
    fs::create_dir(mount.path().join("old")).unwrap();
    let shown = || Action::Header { name: "x-cos-server-side-encryption".to_owned(), value: "AES256".to_owned() };
    let fault = mount.fault([Rule::on(Op::PutObject, shown()), Rule::on(Op::HeadObject, shown())]);
    write_files(&mount.path().join("old"), 0..1);
    mount.server().clear_log();
    fs::rename(mount.path().join("old"), mount.path().join("new")).unwrap();
    drop(fault);
    let heads = mount.server().log().into_iter().filter(|entry| entry.op == Op::HeadObject && entry.key.starts_with("old/"));
    assert_eq!(heads.map(|entry| entry.key).collect::<Vec<_>>(), ["old/f0"]);
    assert_eq!(mount.headers("new/f0")["x-cos-server-side-encryption"], "AES256");
}

#[test]
fn a_file_moves_by_head_copy_and_delete() {
    let mount = Mounted::new();
    fs::create_dir(mount.path().join("d")).unwrap();
    for name in ["a", "b"] {
        fs::write(mount.path().join("d").join(name), name).unwrap();
        mount.server().clear_log();
        fs::rename(mount.path().join("d").join(name), mount.path().join("d/c")).unwrap();
        assert_eq!(operations(&mount), [Op::HeadObject, Op::CopyObject, Op::DeleteObject], "{name}");
    }
    assert_eq!(mount.object("d/c"), "b");
    assert_eq!(mount.keys("d/"), ["d/", "d/c"]);
}

#[test]
fn files_in_a_directory_that_was_made_or_listed_are_a_put_each() {
    let mount = Mounted::builder().args(&PATIENT).start();
    mount.put("listed/old", b"old", &[]);
    let files = files(200);
    fs::create_dir(mount.path().join("made")).unwrap();
    assert_eq!(fs::read_dir(mount.path().join("listed")).unwrap().count(), 1);
    for directory in ["made", "listed"] {
        mount.server().clear_log();
        write_files(&mount.path().join(directory), 0..files);
        let counters = mount.counters();
        assert_eq!(
            (counters.of(Op::PutObject).requests, counters.total().requests),
            (files as u64, files as u64),
            "{directory}: {counters:?}"
        );
    }
    assert_eq!(mount.keys("").len(), 2 * files + 2);
    // With other names beside them, as archives and editors make them.
    mount.server().clear_log();
    fs::create_dir(mount.path().join("made/sub")).unwrap();
    assert_eq!(operations(&mount), [Op::PutObject], "mkdir");
    fs::write(mount.path().join("made/sub/x"), "").unwrap();
    assert_eq!(operations(&mount)[1..], [Op::PutObject], "a file without a byte");
    mount.server().clear_log();
    fs::remove_file(mount.path().join("made/f1")).unwrap();
    mount.settle("made");
    assert_eq!(operations(&mount).len(), 1, "unlink");
    write_files(&mount.path().join("made"), 1..2);
    assert_eq!(operations(&mount)[1..], [Op::PutObject], "and the name again");
}

#[test]
fn a_close_with_nothing_to_send_is_free() {
    let mount = Mounted::new();
    let path = mount.path().join("file");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    file.sync_all().unwrap();
    mount.server().clear_log();
    for _ in 0..10 {
        drop(file.try_clone().unwrap());
        file.sync_all().unwrap();
    }
    drop(file);
    assert_eq!(operations(&mount), []);
    drop(File::options().write(true).open(&path).unwrap());
    assert_eq!(operations(&mount), [Op::HeadObject], "open asks, close does not");
}

/// A program that hands its output to children: some close it when they are loaded, some when they end.
#[test]
fn a_stream_that_100_children_inherit_is_one_upload() {
    let mount = Mounted::builder().arg("--part-size=1M").start();
    let mut file = File::create(mount.path().join("stream")).unwrap();
    let chunk: Vec<u8> = (0..1 << 20).map(|n| (n % 253) as u8).collect();
    file.write_all(&chunk).unwrap();
    for child in 0..100 {
        let flag = if child % 2 == 0 { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
        fcntl(&file, FcntlArg::F_SETFD(flag)).unwrap();
        assert!(Command::new("/bin/true").stdin(Stdio::null()).status().unwrap().success());
        if child % 25 == 0 {
            file.write_all(&chunk).unwrap();
        }
    }
    assert!(file.as_raw_fd() >= 0);
    assert_eq!(
        (mount.counters().of(Op::CompleteUpload).requests, mount.try_object("stream")),
        (0, None),
        "nobody has published half of it"
    );
    drop(file);
    let counters = mount.counters();
    let of = |op| counters.of(op).requests;
    assert_eq!((of(Op::InitiateUpload), of(Op::UploadPart), of(Op::CompleteUpload), of(Op::PutObject)), (1, 5, 1, 0), "{counters:?}");
    assert_eq!(mount.object("stream"), chunk.repeat(5));
    assert_eq!(mount.uploads(), 0);
}

/// How fast that is `scripts/bench write` says.
#[test]
fn sixteen_writers_wait_for_nothing_but_the_wire() {
    let mount = Mounted::builder().args(&PATIENT).start();
    let directory = mount.path().join("d");
    fs::create_dir(&directory).unwrap();
    with_so_many_in_flight(&mount, Op::PutObject, 16, || {
        std::thread::scope(|scope| {
            for writer in 0..16 {
                let directory = &directory;
                scope.spawn(move || write_files(directory, writer * 4..(writer + 1) * 4));
            }
        });
    });
    assert_eq!(mount.counters().of(Op::PutObject).requests, 1 + 64, "the directory's, and one for each file");
}
