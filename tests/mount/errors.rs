//! Failures that reach the program: at close and fsync, with the right errno, and nothing lost by them.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::fs::{FileExt, symlink},
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::{Mounted, refuse_writes, sh, wait};

#[test]
fn close_returns_the_uploads_error_and_the_bytes_arrive_later() {
    let mount = Mounted::new();
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    let out = sh(
        mount.path(),
        "python3 -c \"\nimport os\nfd = os.open('f', os.O_CREAT | os.O_WRONLY)\nos.write(fd, b'kept')\ntry:\n  os.close(fd)\n  print('closed')\nexcept OSError as e:\n  print(e.errno)\n\"",
    );
    assert_eq!(out.trim(), "13", "EACCES");
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"kept", "this mount reads what it could not send");
    drop(fault);
    assert!(
        wait(std::time::Duration::from_secs(60), || mount.try_object("f").is_some_and(|body| &body[..] == b"kept")),
        "it is tried again"
    );
}

#[test]
fn fsync_fails_until_cos_takes_the_bytes() {
    let mount = Mounted::new();
    let file = File::create(mount.path().join("f")).unwrap();
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(file.sync_all().unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.sync_all().unwrap_err().kind(), ErrorKind::PermissionDenied, "and again until it is resolved");
    drop(fault);
    file.sync_all().unwrap();
    assert_eq!(&mount.object("f")[..], b"bytes");
}

#[test]
fn a_lost_answer_is_settled_without_an_error_or_a_second_object() {
    let mount = Mounted::new();
    let faults = mount
        .fault([Op::PutObject, Op::CompleteUpload, Op::CopyObject, Op::DeleteObject].map(|op| Rule::on(op, Action::LoseAnswer).times(1)));
    fs::write(mount.path().join("small"), b"small").unwrap();
    fs::write(mount.path().join("large"), vec![1; 20 << 20]).unwrap();
    fs::rename(mount.path().join("small"), mount.path().join("moved")).unwrap();
    fs::remove_file(mount.path().join("large")).unwrap();
    mount.settle("");
    assert_eq!(&mount.object("moved")[..], b"small");
    assert_eq!(mount.keys(""), ["moved"]);
    assert_eq!(mount.uploads(), 0);
    assert_eq!(faults.struck(), 4);
}

#[test]
fn a_storm_of_503_costs_time_only() {
    let mount = Mounted::new();
    fs::write(mount.path().join("f"), vec![7; 100_000]).unwrap();
    let mount = mount.remounted();
    mount.fault([Rule::always(Action::slow_down()).times(12)]).keep();
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), vec![7; 100_000]);
    mount.fault([Rule::always(Action::status(503, "ServiceUnavailable")).times(6)]).keep();
    fs::write(mount.path().join("g"), b"x").unwrap();
    assert_eq!(&mount.object("g")[..], b"x");
}

#[test]
fn only_cos_itself_says_that_a_file_is_absent() {
    let mount = Mounted::new();
    mount.put("f", b"there", &[]);
    let fault = mount.fault([Rule::always(Action::gateway(404)).times(2)]);
    let read = fs::read(mount.path().join("f"));
    assert!(read.is_ok() || read.as_ref().unwrap_err().kind() != ErrorKind::NotFound, "{read:?}");
    drop(fault);
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"there");
}

#[test]
fn errno_is_what_posix_says() {
    let mount = Mounted::new();
    let path = |name: &str| mount.path().join(name);
    fs::create_dir(path("d")).unwrap();
    fs::write(path("d/f"), b"x").unwrap();
    fs::write(path("f"), b"x").unwrap();
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(fs::remove_dir(path("d"))), 39, "ENOTEMPTY");
    assert_eq!(errno(fs::remove_dir(path("f"))), 20, "ENOTDIR");
    assert_eq!(errno(fs::remove_file(path("d"))), 21, "EISDIR");
    assert_eq!(errno(fs::remove_file(path("nothing"))), 2, "ENOENT");
    assert_eq!(errno(fs::create_dir(path("d"))), 17, "EEXIST");
    assert_eq!(errno(File::create(path("f/below")).map(drop)), 20, "ENOTDIR");
    assert_eq!(errno(fs::rename(path("d"), path("d/below"))), 22, "EINVAL");
    assert_eq!(errno(fs::rename(path("d"), path("f"))), 20, "ENOTDIR");
    assert_eq!(errno(fs::rename(path("f"), path("d"))), 21, "EISDIR");
    assert_eq!(errno(fs::hard_link(path("f"), path("hard"))), 1, "EPERM: COS has no hard links");
    assert_eq!(errno(File::create(path(&"n".repeat(256))).map(drop)), 36, "ENAMETOOLONG");
    assert_eq!(errno(symlink("x", path("f"))), 17, "EEXIST");
    assert_eq!(errno(fs::read_dir(path("f")).map(drop)), 20, "ENOTDIR");
    assert_eq!(errno(fs::create_dir(path(".cosmount"))), 22, "EINVAL: reserved");
    let deep = format!("{}/x", vec!["d".repeat(200); 5].join("/"));
    assert_eq!(errno(fs::create_dir_all(path(&deep))), 36, "ENAMETOOLONG: a key ends at 850 bytes");
    let mut file = File::open(path("f")).unwrap();
    assert_eq!(errno(file.write_all(b"x")), 9, "EBADF");
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let mount = Mounted::new();
    fs::write(mount.path().join("f"), b"x").unwrap();
    let mount = mount.remounted_with(&["--read-only"]);
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"x");
    for result in [
        fs::write(mount.path().join("f"), b"y"),
        fs::remove_file(mount.path().join("f")),
        fs::create_dir(mount.path().join("d")),
        fs::rename(mount.path().join("f"), mount.path().join("g")),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(30), "EROFS");
    }
}
