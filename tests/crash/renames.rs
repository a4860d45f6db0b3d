//! A rename that a crash interrupts: at every moment the bytes have a name, and after the next mount exactly one.

use std::{
    fs,
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::{Mounted, wait};

const SOON: Duration = Duration::from_secs(20);
const FILES: usize = 40;

fn rename(mount: &Mounted, from: &str, to: &str) -> JoinHandle<std::io::Result<()>> {
    let (from, to) = (mount.path().join(from), mount.path().join(to));
    thread::spawn(move || fs::rename(from, to))
}

fn delay(op: Op) -> Rule {
    Rule::on(op, Action::Delay { delay: Duration::from_secs(2) })
}

/// Kills the mount in the middle of `rename`, when a request of this kind has come, and waits until the server has done it or not.
fn kill_at(mount: &mut Mounted, rule: Rule, rename: impl Fn(&Mounted) -> JoinHandle<std::io::Result<()>>, reset: bool) {
    let action = if reset { Action::BlackHole } else { rule.action.clone() };
    let rule = mount.server().faults().add(Rule { action, ..rule });
    let renaming = rename(mount);
    assert!(wait(SOON, || mount.server().faults().struck(rule) > 0), "no such request: {}", mount.log());
    mount.kill();
    renaming.join().unwrap().unwrap_err();
    mount.server().faults().remove(rule);
}

#[test]
fn a_file_has_one_name_after_a_crash_in_its_copy() {
    for reset in [true, false] {
        let mut mount = Mounted::new();
        fs::write(mount.path().join("a"), b"bytes").unwrap();
        fs::write(mount.path().join("b"), b"replaced").unwrap();
        kill_at(&mut mount, delay(Op::CopyObject), |mount| rename(mount, "a", "b"), reset);
        if !reset {
            // The request had arrived: it is done though nobody waits for it.
            wait(Duration::from_secs(4), || mount.object("b") == "bytes");
        }
        assert_eq!(&mount.object("a")[..], b"bytes");
        let copied = mount.object("b") == "bytes";
        mount.start_again();
        if copied {
            assert_eq!(mount.keys(""), ["b"], "the rename went forward: {}", mount.log());
        } else {
            assert_eq!(mount.keys(""), ["a", "b"]);
            assert_eq!(&mount.object("b")[..], b"replaced");
        }
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), mount.keys("").len());
    }
}

#[test]
fn a_file_has_its_new_name_after_a_crash_before_its_delete() {
    let mut mount = Mounted::new();
    fs::write(mount.path().join("a"), b"bytes").unwrap();
    kill_at(&mut mount, delay(Op::DeleteObject), |mount| rename(mount, "a", "b"), true);
    assert_eq!(mount.keys(""), ["a", "b"]);
    mount.start_again();
    assert_eq!(mount.keys(""), ["b"], "{}", mount.log());
    assert_eq!(fs::read(mount.path().join("b")).unwrap(), b"bytes");
    assert!(!mount.path().join("a").exists());
}

#[test]
fn a_name_that_was_made_anew_after_a_rename_survives_a_crash() {
    let mut mount = Mounted::new();
    let at = |mount: &Mounted, name: &str| -> PathBuf { mount.path().join(name) };
    // Empty files have the same bytes, and all of it happens within a second.
    fs::write(at(&mount, "log"), b"").unwrap();
    fs::create_dir(at(&mount, "d")).unwrap();
    fs::write(at(&mount, "d/f"), b"").unwrap();
    fs::rename(at(&mount, "log"), at(&mount, "log.1")).unwrap();
    fs::rename(at(&mount, "d"), at(&mount, "d.1")).unwrap();
    fs::write(at(&mount, "log"), b"").unwrap();
    fs::create_dir(at(&mount, "d")).unwrap();
    fs::write(at(&mount, "d/f"), b"").unwrap();
    mount.kill();
    mount.start_again();
    assert_eq!(mount.keys(""), ["d.1/", "d.1/f", "d/", "d/f", "log", "log.1"]);
}

fn tree(mount: &Mounted) {
    fs::create_dir(mount.path().join("from")).unwrap();
    for n in 0..FILES {
        fs::write(mount.path().join(format!("from/f{n}")), format!("bytes of {n}")).unwrap();
    }
}

/// How many files are whole below `directory`.
fn whole(mount: &Mounted, directory: &str) -> usize {
    (0..FILES).filter(|n| mount.try_object(&format!("{directory}/f{n}")).is_some_and(|body| body == format!("bytes of {n}"))).count()
}

#[test]
fn a_directory_keeps_its_name_after_a_crash_among_its_copies() {
    let mut mount = Mounted::new();
    tree(&mount);
    kill_at(&mut mount, delay(Op::CopyObject).skip(FILES as u64 / 2), |mount| rename(mount, "from", "to"), true);
    assert_eq!(whole(&mount, "from"), FILES, "never neither");
    assert!((1..FILES).contains(&whole(&mount, "to")));
    // Somebody else's file among the copies.
    mount.put("to/other", b"not ours", &[]);
    mount.start_again();
    assert_eq!(whole(&mount, "from"), FILES);
    assert_eq!(mount.keys("to/"), ["to/other"], "{}", mount.log());
}

#[test]
fn a_directory_has_its_new_name_after_a_crash_among_its_deletes() {
    let mut mount = Mounted::new();
    tree(&mount);
    kill_at(&mut mount, delay(Op::DeleteMany), |mount| rename(mount, "from", "to"), true);
    assert_eq!((whole(&mount, "from"), whole(&mount, "to")), (FILES, FILES));
    // Half of them were deleted, and one was written anew by somebody else.
    (0..FILES).step_by(2).for_each(|n| mount.delete(&format!("from/f{n}")));
    mount.put("from/f1", b"newer", &[]);
    mount.start_again();
    assert_eq!(whole(&mount, "to"), FILES);
    assert_eq!(mount.keys("from/"), ["from/f1"], "{}", mount.log());
    assert_eq!(fs::read_dir(mount.path().join("to")).unwrap().count(), FILES);
}
