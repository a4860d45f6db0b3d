//! Somebody else writes the object between open and close: each policy of `--on-conflict` does what it says, and loses nothing it does not say. The
//! window that COS leaves open is shown, too (`docs/semantics.md`, section 2).

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    thread,
    time::Duration,
};

use cosmount::emulator::{Action, Op, Rule};
use nix::errno::Errno;

use crate::common::{Mounted, record, wait};

const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// How a file comes to differ from its object; the kinds differ in the requests of their commit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    /// A PUT.
    Small,
    /// Part copies, a part and a complete.
    Edit,
    /// An upload that began before close.
    Stream,
    /// A PUT with forbid-overwrite.
    New,
}

const CHANGES: [Change; 4] = [Change::Small, Change::Edit, Change::Stream, Change::New];

fn rounds() -> usize {
    std::env::var("COSMOUNT_CONFLICTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(CHANGES.len())
}

fn pattern(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31).wrapping_add(n) >> 3) as u8).collect()
}

fn mount(policy: &str) -> Mounted {
    // What the other client makes is there at once: this is not about lookups.
    Mounted::builder().arg("--part-size=1M").arg("--negative-ttl=0s").arg(format!("--on-conflict={policy}")).start()
}

/// Puts the object that `change` begins with, opens it and changes it; returns the file and what it has now.
fn changed(mount: &Mounted, name: &str, change: Change, n: usize) -> (File, Vec<u8>) {
    let path = mount.path().join(name);
    let edit = |base: Vec<u8>, at: usize| {
        mount.put(name, &base, &[]);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // As editors do. What nobody has read here is gone with the object.
        file.read_exact_at(&mut vec![0; base.len()], 0).unwrap();
        let mut ours = base;
        ours[at..at + 700].copy_from_slice(&pattern(n + 7, 700));
        file.write_all_at(&ours[at..at + 700], at as u64).unwrap();
        (file, ours)
    };
    let fresh = |len: usize| {
        let mut file = File::create(&path).unwrap();
        let ours = pattern(n, len);
        ours.chunks(MIB / 4).for_each(|piece| file.write_all(piece).unwrap());
        (file, ours)
    };
    match change {
        Change::Small => edit(pattern(n, 5000), 1000),
        Change::Edit => edit(pattern(n, 3 * MIB), 5 * MIB / 4),
        Change::Stream => {
            mount.put(name, b"old", &[]);
            fresh(3 * MIB + n)
        }
        Change::New => fresh(2000 + n),
    }
}

/// Somebody else writes the object between open and close; `check` looks at name, ours, theirs and what close said.
fn between_open_and_close(mount: &Mounted, check: impl Fn(&str, &[u8], &[u8], Result<(), Errno>)) {
    for n in 0..rounds() {
        let change = CHANGES[n % CHANGES.len()];
        let name = format!("{change:?}-{n}");
        let (file, ours) = changed(mount, &name, change, n);
        let theirs = pattern(n + 3, 10 + n % 4 * 2000);
        mount.put(&name, &theirs, &[]);
        check(&name, &ours, &theirs, nix::unistd::close(file));
    }
}

#[test]
fn on_conflict_fail_says_so_and_keeps_both() {
    let mut mount = mount("fail");
    between_open_and_close(&mount, |name, ours, theirs, closed| {
        assert_eq!(closed, Err(Errno::ESTALE), "{name}");
        assert_eq!(mount.object(name), theirs, "{name}");
        assert_eq!(mount.keys(name), [name]);
        assert_eq!(fs::read(mount.path().join(name)).unwrap(), ours, "{name}: what was written is kept here");
        let again = File::open(mount.path().join(name)).unwrap().sync_all();
        assert_eq!(again.unwrap_err().raw_os_error(), Some(Errno::ESTALE as i32), "{name}: it is not forgotten");
        assert_eq!(mount.object(name), theirs, "{name}");
    });
    record(&format!("- fail: {} rounds, ESTALE at close, theirs in COS, ours kept here", rounds()));
    // It says that it has what COS has not.
    assert_eq!(mount.terminate().code(), Some(2), "{}", mount.log());
}

#[test]
fn on_conflict_keep_both_has_both_whole() {
    let mount = mount("keep-both");
    between_open_and_close(&mount, |name, ours, theirs, closed| {
        assert_eq!(closed, Ok(()), "{name}");
        assert_eq!(mount.object(name), theirs, "{name}");
        let keys = mount.keys(name);
        assert!(keys.len() == 2 && keys[1].starts_with(&format!("{name}.conflict-")), "{keys:?}");
        assert_eq!(mount.object(&keys[1]), ours, "{name}");
        assert_eq!(fs::read(mount.path().join(&keys[1])).unwrap(), ours, "{name}");
        assert!(wait(SOON, || fs::read(mount.path().join(name)).is_ok_and(|read| read == theirs)), "{name} is theirs here, too");
    });
    record(&format!("- keep-both: {} rounds, both objects whole, ours beside theirs", rounds()));
}

#[test]
fn on_conflict_last_writer_is_the_last_writer() {
    let mount = mount("last-writer");
    between_open_and_close(&mount, |name, ours, _, closed| {
        assert_eq!(closed, Ok(()), "{name}");
        assert_eq!(mount.object(name), ours, "{name}");
        assert_eq!(mount.keys(name), [name]);
        assert_eq!(fs::read(mount.path().join(name)).unwrap(), ours, "{name}");
    });
    record(&format!("- last-writer: {} rounds, ours in COS", rounds()));
}

#[test]
fn an_edit_of_what_was_never_read_is_stale_by_every_policy_and_harms_nobody() {
    for policy in ["fail", "keep-both", "last-writer"] {
        let mount = mount(policy);
        for (name, size) in [("small", 5000), ("large", 3 * MIB)] {
            mount.put(name, &pattern(1, size), &[]);
            let file = File::options().write(true).open(mount.path().join(name)).unwrap();
            file.write_all_at(b"ours", 1000).unwrap();
            mount.put(name, b"theirs", &[]);
            assert_eq!(nix::unistd::close(file), Err(Errno::ESTALE), "{policy}: {name}");
            assert_eq!((&mount.object(name)[..], mount.keys(name)), (&b"theirs"[..], vec![name.to_owned()]), "{policy}");
        }
    }
}

/// Somebody else writes `name` when the last request of `work` has come to COS and is not done.
fn in_the_window<T: Send>(mount: &Mounted, op: Op, name: &str, theirs: &[u8], work: impl FnOnce() -> T + Send) -> T {
    let hold = mount.fault([Rule::on(op, Action::Hold { answer: false })]);
    thread::scope(|scope| {
        let working = scope.spawn(work);
        assert!(wait(SOON, || mount.server().faults().held() > 0), "{op} has not come");
        mount.put(name, theirs, &[]);
        drop(hold);
        working.join().unwrap()
    })
}

#[test]
fn in_the_window_between_head_and_commit_the_other_write_is_lost() {
    let mount = mount("fail");
    for (n, (change, op)) in
        [(Change::Small, Op::PutObject), (Change::Edit, Op::CompleteUpload), (Change::Stream, Op::CompleteUpload)].into_iter().enumerate()
    {
        let name = format!("{change:?}");
        let (file, ours) = changed(&mount, &name, change, n);
        let closed = in_the_window(&mount, op, &name, b"theirs", || nix::unistd::close(file));
        assert_eq!((closed, mount.object(&name)), (Ok(()), ours.into()), "{name}: COS has no comparison to ask for");
        // It is as narrow as can be: HEAD was the last that went before.
        let log = mount.server().log();
        let last = log.iter().rposition(|entry| entry.op == op && entry.key == name).unwrap();
        assert_eq!((log[last - 1].op, &log[last - 1].key), (Op::HeadObject, &name));
    }
}

#[test]
fn there_is_no_window_where_cos_compares() {
    let mount = mount("fail");
    // Forbid-overwrite.
    let (file, _) = changed(&mount, "new", Change::New, 1);
    let closed = in_the_window(&mount, Op::PutObject, "new", b"theirs", || nix::unistd::close(file));
    assert_eq!((closed, &mount.object("new")[..]), (Err(Errno::ESTALE), &b"theirs"[..]));
    // A copy that names the version it is of.
    let chmod = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o600));
    mount.put("mode", b"old", &[]);
    drop(in_the_window(&mount, Op::CopyObject, "mode", b"theirs", || chmod(&mount.path().join("mode"))));
    assert_eq!(&mount.object("mode")[..], b"theirs");
    mount.put("from", b"old", &[]);
    drop(in_the_window(&mount, Op::CopyObject, "from", b"theirs", || fs::rename(mount.path().join("from"), mount.path().join("to"))));
    let bodies: Vec<_> = ["from", "to"].iter().filter_map(|key| mount.try_object(key)).collect();
    assert_eq!(bodies, ["theirs"], "under either name, whole");
}

#[test]
fn unlink_deletes_what_is_there_when_it_arrives() {
    let mount = mount("fail");
    mount.put("name", b"old", &[]);
    in_the_window(&mount, Op::DeleteObject, "name", b"theirs", || {
        fs::remove_file(mount.path().join("name")).unwrap();
        File::open(mount.path()).unwrap().sync_all().unwrap();
    });
    assert_eq!(mount.try_object("name"), None);
}
