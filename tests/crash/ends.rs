//! The end of a mount that still has something to send.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, umount2};

use crate::common::{BUCKET, Mounted, refuse_writes};

const MIB: u64 = 1 << 20;

/// A file held open with this many dirty MiB, written backwards so that nothing leaves before it must.
fn dirty(mount: &Mounted, mib: u64) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(mount.path().join("dirty")).unwrap();
    (0..mib).rev().for_each(|n| file.write_all_at(&[n as u8; MIB as usize], n * MIB).unwrap());
    file
}

fn check(mount: &Mounted, mib: u64) {
    let body = mount.object("dirty");
    assert_eq!(body.len() as u64, mib * MIB);
    assert!(body.chunks(MIB as usize).zip(0..).all(|(chunk, n)| chunk.iter().all(|byte| *byte == n as u8)));
}

#[test]
fn sigterm_returns_when_all_is_sent() {
    let mut mount = Mounted::new();
    let file = dirty(&mount, 64);
    assert!(mount.try_object("dirty").is_none_or(|body| body.is_empty()));
    mount.server().set_bandwidth(Some(24 * MIB));
    let start = Instant::now();
    mount.unmount();
    assert!(start.elapsed() > Duration::from_secs(1), "the server is slow");
    check(&mount, 64);
    drop(file);
}

#[test]
fn a_mount_that_cannot_send_ends_in_time_and_says_so() {
    let mut mount = Mounted::builder().arg("--drain-timeout=5s").start();
    let file = dirty(&mount, 64);
    mount.fault(refuse_writes(403, "AccessDenied")).keep();
    let start = Instant::now();
    let status = mount.terminate();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(2), "{status} {}", mount.log());
    assert!(mount.log().contains("1 files") && mount.log().contains("not in COS"), "{}", mount.log());
    drop(file);
}

#[test]
fn a_detached_mount_ends_when_its_last_file_is_closed_and_sent() {
    let mut mount = Mounted::new();
    let file = dirty(&mount, 8);
    umount2(&mount.path(), MntFlags::MNT_DETACH).unwrap();
    // Who has a file open keeps the mount.
    file.write_all_at(&[9; MIB as usize], 9 * MIB).unwrap();
    file.write_all_at(&[8; MIB as usize], 8 * MIB).unwrap();
    drop(file);
    let status = mount.ended();
    assert!(status.success(), "{status} {}", mount.log());
    check(&mount, 10);
    assert!(!mount.staging().exists());
}

#[test]
fn a_second_mount_on_the_same_staging_is_refused_at_once() {
    let mount = Mounted::new();
    let other = tempfile::tempdir().unwrap();
    // A slow network makes no difference.
    mount.server().set_latency(Duration::from_secs(3));
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_cosmount"))
        .args(["mount", BUCKET])
        .arg(other.path())
        .args(["-f", "--region", "ap-guangzhou", "--endpoint", &mount.server().endpoint(), "--staging"])
        .arg(mount.staging())
        .envs([("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = start.elapsed();
    mount.server().set_latency(Duration::ZERO);
    assert_eq!(output.status.code(), Some(32), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("in use by process {}", mount.pid())), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    fs::write(mount.path().join("f"), b"the first one works on").unwrap();
}
