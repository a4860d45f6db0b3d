//! What ordinary programs cost where deletes and attributes follow their reply, and that what follows is done.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    thread,
    time::{Duration, SystemTime},
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::{Mounted, refuse_writes, sh, wait};

const SOON: Duration = Duration::from_secs(20);

/// Requests of these kinds since the log was cleared.
fn counted<const N: usize>(mount: &Mounted, ops: [Op; N]) -> [u64; N] {
    ops.map(|op| mount.counters().of(op).requests)
}

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 5)
}

#[test]
fn rm_r_of_2000_files_is_a_handful_of_multi_deletes() {
    let mount = Mounted::new();
    const DIRECTORIES: u64 = 5;
    for n in 0..2000 {
        mount.put(&format!("tree/d{}/f{n}", n % DIRECTORIES), b"x", &[]);
    }
    for d in 0..DIRECTORIES {
        mount.put(&format!("tree/d{d}/"), b"", &[]);
    }
    mount.put("tree/", b"", &[]);
    mount.put("beside", b"", &[]);
    // At the speed of a real link; what is told of a fresh mount holds for names that it has not looked at.
    sh(mount.path(), "find tree -type f | wc -l");
    mount.server().clear_log();
    sh(mount.path(), "rm -r tree");
    assert_eq!(mount.keys(""), ["beside"]);
    let [many, single] = counted(&mount, [Op::DeleteMany, Op::DeleteObject]);
    assert!(many <= 6 * DIRECTORIES, "{many} multi-deletes");
    assert!(single <= 3 * DIRECTORIES, "{single} deletes: a marker each, the first of each, and a straggler");
    assert!(!mount.path().join("tree").exists());
}

#[test]
fn a_removed_name_made_anew_at_once_is_what_it_was_made() {
    let mount = Mounted::new();
    let _slow = mount.fault([Op::DeleteObject, Op::DeleteMany].map(|op| Rule::on(op, Action::Delay { delay: Duration::from_millis(150) })));
    thread::scope(|scope| {
        for worker in 0..4 {
            let path = mount.path().join(format!("f{worker}"));
            scope.spawn(move || {
                for round in 0..8 {
                    fs::write(&path, format!("{worker} {round}")).unwrap();
                    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{worker} {round}"));
                    if round < 7 {
                        fs::remove_file(&path).unwrap();
                        assert!(!path.exists());
                    }
                }
            });
        }
    });
    thread::sleep(Duration::from_millis(500));
    for worker in 0..4 {
        assert_eq!(mount.object(&format!("f{worker}")), format!("{worker} 7"));
    }
    sh(mount.path(), "rm f0 && mkdir f0 && rmdir f0 && ln -s f1 f0 && mv f2 f0 && test \"$(cat f0)\" = '2 7' && ! test -e f2");
    assert_eq!(mount.object("f0"), "2 7");
}

#[test]
fn a_removal_is_seen_here_at_once_and_elsewhere_soon() {
    let mount = Mounted::new();
    let slow = mount.fault([Rule::on(Op::DeleteObject, Action::Delay { delay: Duration::from_secs(1) })]);
    fs::write(mount.path().join("a"), b"x").unwrap();
    fs::remove_file(mount.path().join("a")).unwrap();
    assert_eq!((mount.keys("").len(), fs::read_dir(mount.path()).unwrap().count(), mount.path().join("a").exists()), (1, 0, false));
    // fsync of the directory is what a program asks for that needs it to be in COS.
    File::open(mount.path()).unwrap().sync_all().unwrap();
    assert!(mount.keys("").is_empty());
    drop(slow);
}

#[test]
fn the_end_of_a_mount_waits_for_what_follows() {
    let mut mount = Mounted::new();
    mount.put("theirs", b"x", &[]);
    for n in 0..50 {
        fs::write(mount.path().join(format!("f{n}")), b"x").unwrap();
    }
    let slow = |op| Rule::on(op, Action::Delay { delay: Duration::from_secs(1) });
    mount.fault([Op::DeleteObject, Op::DeleteMany, Op::CopyObject].map(slow)).keep();
    sh(mount.path(), "rm f*; chmod 600 theirs");
    mount.unmount();
    assert_eq!(mount.keys(""), ["theirs"]);
    assert_eq!(mount.headers("theirs")["x-cos-meta-mode"], "33152");
    assert!(!mount.staging().exists(), "nothing is owed");
}

#[test]
fn without_the_right_to_delete_the_name_comes_back_and_rm_says_so_from_the_second_on() {
    let mount = Mounted::new();
    for name in ["a", "b"] {
        fs::write(mount.path().join(name), b"x").unwrap();
    }
    let refused = mount.fault([Op::DeleteObject, Op::DeleteMany].map(|op| Rule::on(op, Action::status(403, "AccessDenied"))));
    fs::remove_file(mount.path().join("a")).unwrap();
    assert!(wait(SOON, || mount.path().join("a").exists()), "{}", mount.log());
    assert!(mount.log().contains("refuses to delete it"), "{}", mount.log());
    let error = fs::remove_file(mount.path().join("b")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EACCES));
    drop(refused);
    sh(mount.path(), "rm a b");
    assert!(mount.keys_when(|keys| keys.is_empty()).is_empty());
}

#[test]
fn chmod_chown_and_utimens_by_path_are_one_copy() {
    let mount = Mounted::new();
    mount.put("a", b"bytes", &[("x-cos-meta-color", "red"), ("cache-control", "no-cache")]);
    let path = mount.path().join("a");
    fs::metadata(&path).unwrap();
    mount.server().clear_log();
    sh(mount.path(), "chmod 640 a && touch -c -d @1500000000.000000005 a && chown 0:12 a && setfattr -n user.k -v v a");
    let seen = fs::metadata(&path).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.gid(), seen.modified().unwrap()), (0o640, 12, moment()));
    assert!(wait(SOON, || mount.counters().of(Op::CopyObject).requests > 0));
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(counted(&mount, [Op::CopyObject, Op::PutObject, Op::HeadObject]), [1, 0, 1]);
    let headers = mount.headers("a");
    assert_eq!((headers["x-cos-meta-mode"].as_str(), headers["x-cos-meta-gid"].as_str()), ("33184", "12"));
    assert_eq!((headers["x-cos-meta-color"].as_str(), headers["cache-control"].as_str()), ("red", "no-cache"));
    assert_eq!(mount.object("a"), "bytes");
}

#[test]
fn without_staging_attributes_and_deletes_are_in_cos_before_the_reply() {
    let mount = Mounted::builder().without_staging().start();
    mount.put("a", b"bytes", &[]);
    fs::set_permissions(mount.path().join("a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(mount.headers("a")["x-cos-meta-mode"], "33152");
    fs::remove_file(mount.path().join("a")).unwrap();
    assert!(mount.keys("").is_empty());
    let refused = mount
        .fault(refuse_writes(403, "AccessDenied").into_iter().chain([Rule::on(Op::DeleteObject, Action::status(403, "AccessDenied"))]));
    mount.put("b", b"bytes", &[]);
    assert_eq!(fs::remove_file(mount.path().join("b")).unwrap_err().raw_os_error(), Some(nix::libc::EACCES));
    drop(refused);
}

/// A tree of small files in directories that have no objects of their own elsewhere.
fn source(files: u32) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    for n in 0..files {
        let path = source.path().join(format!("f{n}"));
        fs::write(&path, format!("file {n}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        chown(&path, Some(0), Some(n)).unwrap();
        File::options().append(true).open(&path).unwrap().set_modified(moment()).unwrap();
    }
    source
}

#[test]
fn programs_that_set_attributes_cost_what_they_must() {
    const FILES: u64 = 60;
    let source = source(FILES as u32);
    let from = source.path().display();
    let extract = format!("tar -C {from} -cf - . | tar -C t -xpf - --no-overwrite-dir");
    // A program, its script, and the PUTs, copies, deletes a file of it costs.
    let programs = [
        ("cp -p", format!("cp -p {from}/* t/"), [1, 0, 0]),
        ("tar x", extract, [1, 0, 0]),
        ("rsync -a", format!("rsync -a {from}/ t/"), [1, 1, 1]),
    ];
    for (program, script, [puts, copies, deletes]) in programs {
        let mount = Mounted::new();
        sh(mount.path(), "mkdir t; ls t; sleep 0.1");
        mount.server().clear_log();
        sh(mount.path(), &script);
        // Whatever follows has followed.
        File::open(mount.path().join("t")).unwrap().sync_all().unwrap();
        thread::sleep(Duration::from_millis(1500));
        let [put, copied, deleted, many, heads] =
            counted(&mount, [Op::PutObject, Op::CopyObject, Op::DeleteObject, Op::DeleteMany, Op::HeadObject]);
        println!("{program}: {put} PUT, {copied} copies, {deleted} DELETE, {many} multi-deletes, {heads} HEAD for {FILES} files");
        assert_eq!(put, puts * FILES, "{program}: PUT");
        let of_files = mount.server().log().iter().filter(|entry| entry.op == Op::CopyObject && entry.key != "t/").count();
        assert_eq!(of_files as u64, copies * FILES, "{program}: copies; the directory's own attributes are one or two more");
        assert!(copied <= copies * FILES + 8, "{program}: {copied} copies");
        assert!(deleted + many <= deletes * FILES, "{program}: {deleted} + {many} deletes");
        for n in 0..FILES {
            let headers = mount.headers(&format!("t/f{n}"));
            let kept = ["mode", "gid", "mtime"].map(|name| headers[&format!("x-cos-meta-{name}")].clone());
            assert_eq!(kept, ["33184".to_owned(), n.to_string(), "1500000000".to_owned()], "{program}: f{n}");
        }
        let mount = mount.remounted();
        sh(mount.path(), &format!("diff -r {from} t"));
    }
}
