//! A crash between a reply and the request that was to follow it: the next mount makes it good before programs can use it, and touches nothing newer.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::{Duration, SystemTime},
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::Mounted;

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000)
}

#[test]
fn removals_are_finished_by_the_next_mount_and_newer_objects_stay() {
    let mut mount = Mounted::new();
    for n in 0..40 {
        fs::write(mount.path().join(format!("f{n}")), format!("bytes of {n}")).unwrap();
    }
    let hole = [Op::DeleteObject, Op::DeleteMany].map(|op| mount.server().faults().add(Rule::on(op, Action::BlackHole)));
    for n in 0..30 {
        fs::remove_file(mount.path().join(format!("f{n}"))).unwrap();
    }
    assert_eq!((mount.keys("").len(), fs::read_dir(mount.path()).unwrap().count()), (40, 10));
    mount.kill();
    assert!(hole.into_iter().all(|rule| mount.server().faults().remove(rule)));
    // Others did not know that they were removed.
    mount.put("f1", b"newer", &[]);
    mount.delete("f2");
    mount.start_again();
    let mut left: Vec<String> = (30..40).map(|n| format!("f{n}")).chain(["f1".to_owned()]).collect();
    left.sort();
    assert_eq!(mount.keys(""), left, "at once: {}", mount.log());
    assert_eq!(mount.object("f1"), "newer");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 11);
    mount.unmount();
    assert!(!mount.staging().exists(), "nothing is owed any more");
}

#[test]
fn a_name_made_anew_with_the_same_bytes_survives_a_crash() {
    for round in 0..10 {
        let mut mount = Mounted::new();
        let path = mount.path().join("lock");
        // All within a second: neither bytes nor time tell the objects apart.
        for _ in 0..round % 3 + 1 {
            fs::write(&path, b"").unwrap();
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, b"").unwrap();
        mount.kill();
        mount.start_again();
        assert_eq!(mount.keys(""), ["lock"], "{}", mount.log());
    }
}

#[test]
fn attributes_are_given_by_the_next_mount_unless_the_object_was_replaced() {
    let mut mount = Mounted::new();
    for name in ["a", "b"] {
        fs::write(mount.path().join(name), b"bytes").unwrap();
    }
    let hole = mount.server().faults().add(Rule::on(Op::CopyObject, Action::BlackHole));
    for name in ["a", "b"] {
        fs::set_permissions(mount.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        File::open(mount.path().join(name)).unwrap().set_modified(moment()).unwrap();
    }
    mount.kill();
    mount.server().faults().remove(hole);
    mount.put("b", b"newer", &[]);
    mount.start_again();
    let (a, b) = (fs::metadata(mount.path().join("a")).unwrap(), fs::metadata(mount.path().join("b")).unwrap());
    assert_eq!((a.mode() & 0o7777, a.modified().unwrap()), (0o600, moment()));
    assert_ne!((b.mode() & 0o7777, b.modified().unwrap()), (0o600, moment()));
    assert_eq!((mount.object("a"), mount.object("b")), ("bytes".into(), "newer".into()));
    assert_eq!(mount.headers("a")["x-cos-meta-mode"], "33152");
}

#[test]
fn an_unmount_during_an_outage_leaves_removals_to_the_next_mount() {
    let mut mount = Mounted::builder().args(&["--drain-timeout=2s"]).start();
    fs::write(mount.path().join("a"), b"x").unwrap();
    let outage = mount.server().faults().add(Rule::on(Op::DeleteObject, Action::status(503, "ServiceUnavailable")));
    fs::remove_file(mount.path().join("a")).unwrap();
    let status = mount.terminate();
    assert_eq!(status.code(), Some(2), "{}", mount.log());
    assert!(mount.log().contains("1 removals and changes of attributes are not in COS yet"), "{}", mount.log());
    mount.server().faults().remove(outage);
    mount.start_again();
    assert!(mount.keys("").is_empty(), "{}", mount.log());
}
