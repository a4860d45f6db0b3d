//! What COS refused: the program's errno, and what becomes of the bytes. Counts are small here; `scripts/soak storms` has them in full.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        fs::FileExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use cosmount::emulator::{Action, Op, Rule};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::close,
};
use serde_json::Value;

use crate::common::{Mounted, record, refuse_writes, wait};

fn cosmount(words: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cosmount")).args(words).arg(path).env("COSMOUNT_CONFIG", "/dev/null").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What `cosmount stats` says in JSON.
fn stats(mount: &Mounted) -> Value {
    let output = cosmount(&["stats", "--json"], &mount.path());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The files that are listed, by path.
pub(super) fn listed(mount: &Mounted) -> Vec<Value> {
    stats(mount)["unsent"]["list"].as_array().unwrap().clone()
}

fn sync(words: &[&str], path: &Path) -> (i32, String) {
    let output = cosmount(&[&["sync"], words].concat(), path);
    (output.status.code().unwrap(), said(&output))
}

/// The value of `user.cos.dirty`, or why there is none.
fn dirty(path: &Path) -> Result<String, i32> {
    let script =
        "import os, sys\ntry:\n  print(os.getxattr(sys.argv[1], 'user.cos.dirty').decode())\nexcept OSError as e:\n  print(e.errno)";
    let output = Command::new("python3").args(["-c", script]).arg(path).output().unwrap();
    let text = said(&output).trim().to_owned();
    text.parse().map_or(Ok(text), Err)
}

/// What a command writes to a terminal.
fn in_terminal(command: &str) -> String {
    said(&Command::new("script").args(["-qec", command, "/dev/null"]).stdin(std::process::Stdio::null()).output().unwrap())
}

fn write_and_close(path: &Path, body: &[u8]) -> Result<(), Errno> {
    let mut file = File::options().write(true).create(true).truncate(true).open(path).unwrap();
    file.write_all(body).unwrap();
    close(file)
}

#[test]
fn what_follows_its_reply_is_told_until_cos_has_it_and_when_cos_refuses_it() {
    let mount = Mounted::new();
    for name in ["gone", "stays"] {
        fs::write(mount.path().join(name), "x").unwrap();
    }
    let hold = mount.fault([Rule::on(Op::DeleteObject, Action::Hold { answer: false })]);
    fs::remove_file(mount.path().join("gone")).unwrap();
    let told = stats(&mount);
    assert_eq!((&told["unsent"]["files"], &told["unsent"]["removals"]), (&Value::from(0), &Value::from(1)), "{told}");
    let text = said(&cosmount(&["stats"], &mount.path()));
    assert!(text.contains("on their way: 1 removals"), "{text}");
    drop(hold);
    mount.settle("");
    let text = said(&cosmount(&["stats"], &mount.path()));
    assert!(text.starts_with("everything is in COS"), "{text}");

    let denied = mount.fault([Rule::on(Op::DeleteObject, Action::status(403, "AccessDenied"))]);
    fs::remove_file(mount.path().join("stays")).unwrap();
    assert!(wait(Duration::from_secs(10), || stats(&mount)["refused"].as_array().is_some_and(|refused| refused.len() == 1)));
    drop(denied);
    let refused = &stats(&mount)["refused"][0];
    assert_eq!((refused["key"].as_str(), refused["what"].as_str()), (Some("stays"), Some("delete")), "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("AccessDenied"), "{refused}");
    assert!(mount.path().join("stays").exists(), "the name is there again");
    let directory = File::open(mount.path()).unwrap();
    assert_eq!(directory.sync_all().unwrap_err().raw_os_error(), Some(Errno::EACCES as i32), "the next fsync says so, once");
    directory.sync_all().unwrap();
}

#[test]
fn what_close_refused_is_kept_listed_and_saved_by_sync() {
    let mount = Mounted::new();
    fs::create_dir(mount.path().join("d")).unwrap();
    let (path, other) = (mount.path().join("d/f"), mount.path().join("other"));
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    assert_eq!(write_and_close(&path, b"refused bytes"), Err(Errno::EACCES));
    assert_eq!(write_and_close(&other, b"too"), Err(Errno::EACCES));

    assert_eq!(fs::read(&path).unwrap(), b"refused bytes", "it reads as it was written");
    let reason = dirty(&path).unwrap();
    assert!(reason.contains("AccessDenied") && reason.contains("d/f"), "{reason}");
    let files = listed(&mount);
    assert_eq!(files.len(), 2, "{files:?}");
    let file = &files[0];
    assert_eq!((file["path"].as_str(), file["bytes"].as_u64(), file["staged"].as_u64()), (Some("d/f"), Some(13), Some(13)), "{file}");
    let refused = &file["reason"];
    assert_eq!((refused["errno"].as_str(), refused["code"].as_str()), (Some("EACCES"), Some("AccessDenied")), "{refused}");
    assert!(refused["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{refused}");
    assert!(file["next_try"].as_u64().is_some_and(|seconds| seconds <= 60), "{file}");
    let text = said(&cosmount(&["stats"], &mount.path()));
    assert!(text.contains("not in COS: 2 files, 16 bytes") && text.contains("13 in staging") && text.contains("EACCES"), "{text}");
    assert!(text.contains("  put refused"), "requests are counted: {text}");

    let (code, left) = sync(&[], &mount.path());
    assert!(code == 2 && left.contains("2 files are not in COS") && left.contains("AccessDenied"), "{code} {left}");
    let again = File::options().write(true).open(&path).unwrap();
    assert_eq!(again.sync_all().unwrap_err().raw_os_error(), Some(Errno::EACCES as i32), "the next fsync says so again");
    drop((again, fault));
    let shown = in_terminal(&format!("{} sync {}", env!("CARGO_BIN_EXE_cosmount"), path.display()));
    assert!(shown.contains("\r[") && shown.contains("of 1 files"), "a bar on a terminal: {shown:?}");
    assert_eq!(sync(&[], &path), (0, String::new()), "and nothing elsewhere");
    assert_eq!(&mount.object("d/f")[..], b"refused bytes");
    assert_eq!(dirty(&path), Err(Errno::ENODATA as i32));
    // Without a path it is the mount that the working directory is in.
    let output = Command::new(env!("CARGO_BIN_EXE_cosmount")).arg("sync").current_dir(mount.path().join("d")).output().unwrap();
    assert!(output.status.success() || mount.try_object("other").is_some(), "{}", said(&output));
    assert_eq!(sync(&[], &mount.path()).0, 0);
    assert_eq!(&mount.object("other")[..], b"too");
    let stats = stats(&mount);
    assert_eq!(stats["unsent"]["files"], 0, "{stats}");
    assert!(stats["memory"]["limit"].as_u64() == Some(128 << 20) && stats["counters"]["store_put_ok"].as_u64() > Some(0), "{stats}");
}

#[test]
fn each_refusal_has_its_errno() {
    let mount = Mounted::builder().arg("--io-timeout=3s").start();
    for (name, status, code, errnos) in [
        ("quota", 402, "PaymentRequired", &[Errno::EDQUOT][..]),
        ("denied", 403, "AccessDenied", &[Errno::EACCES]),
        ("down", 503, "ServiceUnavailable", &[Errno::EIO, Errno::ETIMEDOUT]),
    ] {
        let fault = mount.fault(refuse_writes(status, code));
        let refused = write_and_close(&mount.path().join(name), b"x").unwrap_err();
        assert!(errnos.contains(&refused), "{name}: {refused}");
        let file = listed(&mount).into_iter().find(|file| file["path"] == name).unwrap();
        assert_eq!(file["reason"]["errno"], format!("{refused:?}"), "{file}");
        drop(fault);
    }
    assert_eq!(sync(&[], &mount.path()).0, 0);
    assert_eq!(mount.keys(""), ["denied", "down", "quota"]);
}

#[test]
fn without_staging_refused_bytes_stay_in_memory() {
    let mount = Mounted::builder().without_staging().start();
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    assert_eq!(write_and_close(&mount.path().join("f"), &[7; 100_000]), Err(Errno::EACCES));
    let file = &listed(&mount)[0];
    assert_eq!((file["memory"].as_u64(), file["staged"].as_u64()), (Some(100_000), Some(0)), "{file}");
    drop(fault);
    assert_eq!(sync(&[], &mount.path()).0, 0);
    assert_eq!(&mount.object("f")[..], &[7; 100_000][..]);
}

#[test]
fn what_has_left_of_a_refused_stream_stays_as_an_open_upload() {
    let mount = Mounted::new();
    let fault = mount.fault([Rule::on(Op::CompleteUpload, Action::status(403, "AccessDenied"))]);
    let body: Vec<u8> = (0..20_u32 << 20).map(|n| (n >> 7) as u8).collect();
    assert_eq!(write_and_close(&mount.path().join("f"), &body), Err(Errno::EACCES));
    let file = &listed(&mount)[0];
    assert_eq!(file["bytes"].as_u64(), Some(20 << 20), "{file}");
    assert!(file["uploaded"].as_u64() >= Some(16 << 20), "{file}");
    // The ledger knows that upload for ours, also from another process.
    let uploads = |words: &[&str]| uploads(&mount, words);
    let ours = uploads(&["--json", "--sizes"]);
    assert_eq!((ours[0]["key"].as_str(), ours[0]["ours"].as_bool()), (Some("f"), Some(true)), "{ours}");
    assert!(ours[0]["bytes"].as_u64() >= Some(16 << 20), "{ours}");
    assert!(uploads(&["--json", "--abort-older-than", "0"])[0]["aborted"] == false, "a mount's own is aborted by its id alone");
    drop(fault);
    mount.server().clear_log();
    assert_eq!(sync(&[], &mount.path()).0, 0);
    assert_eq!(mount.object("f"), body);
    assert_eq!(mount.uploads(), 0);
    assert!(mount.counters().total().bytes_in < 8 << 20, "what had left does not leave again");
}

/// What `cosmount uploads --json` lists of the mount's bucket.
fn uploads(mount: &Mounted, words: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_cosmount"))
        .args(["uploads", crate::common::BUCKET, "--region", "ap-guangzhou", "--endpoint", &mount.server().endpoint(), "--staging"])
        .arg(mount.staging())
        .args(words)
        .envs([("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey"), ("COSMOUNT_CONFIG", "/dev/null")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn uploads_of_others_are_listed_and_those_named_are_aborted() {
    let mut mount = Mounted::builder().without_staging().start();
    // A mount without a ledger that dies in the middle of uploads leaves what nobody owns.
    let files: Vec<File> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let mut file = File::create(mount.path().join(name)).unwrap();
            file.write_all(&vec![1; 9 << 20]).unwrap();
            file
        })
        .collect();
    assert!(wait(Duration::from_secs(20), || mount.uploads() == 3));
    mount.kill();
    drop(files);
    let found = uploads(&mount, &["--json"]);
    assert_eq!(found.as_array().unwrap().len(), 3, "{found}");
    assert!(found.as_array().unwrap().iter().all(|line| line["ours"] == false && line["age"].as_u64() < Some(3600)), "{found}");
    let id = found[1]["id"].as_str().unwrap();
    let aborted = uploads(&mount, &["--json", "--abort", id]);
    assert_eq!((aborted[0]["aborted"].as_bool(), aborted[1]["aborted"].as_bool()), (Some(false), Some(true)));
    assert_eq!(mount.uploads(), 2);
    uploads(&mount, &["--abort-older-than", "1d"]);
    assert_eq!(mount.uploads(), 2, "none is that old");
    thread::sleep(Duration::from_millis(1100));
    uploads(&mount, &["--abort-older-than", "0"]);
    assert_eq!(mount.uploads(), 0);
}

#[test]
fn a_reader_does_not_keep_refused_bytes_from_being_tried_again() {
    let mount = Mounted::new();
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    assert_eq!(write_and_close(&mount.path().join("f"), b"x"), Err(Errno::EACCES));
    let reader = File::open(mount.path().join("f")).unwrap();
    drop(fault);
    assert!(wait(Duration::from_secs(30), || mount.try_object("f").is_some()));
    drop(reader);
}

#[test]
fn a_conflict_is_kept_until_a_person_decides() {
    let mount = Mounted::new();
    for (name, policy, ours, theirs) in [("beside", "keep-both", false, true), ("over", "last-writer", true, false)] {
        mount.put(name, b"base", &[]);
        let mut file = File::options().read(true).write(true).open(mount.path().join(name)).unwrap();
        file.write_all(b"OURS").unwrap();
        mount.put(name, b"theirs", &[]);
        assert_eq!(close(file), Err(Errno::ESTALE));
        let listed = &listed(&mount)[0];
        assert_eq!((listed["path"].as_str(), listed["reason"]["errno"].as_str()), (Some(name), Some("ESTALE")), "{listed}");
        assert!(listed["next_try"].is_null(), "nobody tries again unasked: {listed}");
        assert_eq!(sync(&[], &mount.path()).0, 2, "as the mount says: fail");
        assert_eq!(sync(&["--on-conflict", policy], &mount.path()).0, 0);
        assert_eq!(&mount.object(name)[..] == b"OURS", ours, "{policy}");
        assert_eq!(&mount.object(name)[..] == b"theirs", theirs, "{policy}");
        let copies = mount.keys(&format!("{name}.conflict-"));
        assert_eq!(copies.len(), usize::from(theirs), "{copies:?}");
        assert!(copies.iter().all(|copy| &mount.object(copy)[..] == b"OURS"));
    }
}

/// A file that is open for writing and whose name somebody else's object has taken, noticed before anything was written.
fn lost(mount: &Mounted, name: &str) -> File {
    mount.put(name, b"base", &[]);
    let file = File::options().read(true).write(true).open(mount.path().join(name)).unwrap();
    mount.put(name, b"theirs", &[]);
    assert_eq!(fs::read(mount.path().join(name)).unwrap(), b"theirs");
    file
}

#[test]
fn what_is_written_to_a_file_that_lost_its_name_is_kept_too() {
    let mount = Mounted::new();
    let file = lost(&mount, "f");
    file.write_all_at(b"OURS", 0).unwrap();
    assert_eq!(close(file), Err(Errno::ESTALE));
    let listed = &listed(&mount)[0];
    assert_eq!((listed["path"].as_str(), listed["lost"].as_bool(), listed["bytes"].as_u64()), (Some("f"), Some(true), Some(4)), "{listed}");
    assert_eq!(sync(&[], &mount.path()).0, 2);
    assert_eq!(sync(&["--on-conflict", "keep-both"], &mount.path()).0, 0);
    assert_eq!(&mount.object("f")[..], b"theirs");
    let copies = mount.keys("f.conflict-");
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(fs::read(mount.path().join(&copies[0])).unwrap(), b"OURS");
    assert_eq!(stats(&mount)["unsent"]["files"], 0);
}

#[test]
fn a_file_that_lost_its_name_goes_where_the_policy_says() {
    let mount = Mounted::builder().arg("--on-conflict=keep-both").start();
    let file = lost(&mount, "f");
    file.write_all_at(b"OURS", 0).unwrap();
    assert_eq!(close(file), Ok(()));
    assert_eq!(&mount.object("f")[..], b"theirs");
    assert_eq!(&mount.object(&mount.keys("f.conflict-")[0])[..], b"OURS");

    let mount = Mounted::builder().arg("--on-conflict=last-writer").start();
    let file = lost(&mount, "f");
    file.write_all_at(b"OURS", 0).unwrap();
    assert_eq!(close(file), Ok(()));
    assert_eq!(&mount.object("f")[..], b"OURS");
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"OURS");
}

#[test]
fn of_a_stream_that_met_another_object_both_are_kept() {
    let mount = Mounted::builder().arg("--on-conflict=keep-both").start();
    let mut file = File::create(mount.path().join("f")).unwrap();
    let body = vec![5; 20 << 20];
    file.write_all(&body).unwrap();
    mount.put("f", b"theirs", &[("x-cos-meta-colour", "red")]);
    assert_eq!(close(file), Ok(()));
    let copies = mount.keys("f.conflict-");
    assert_eq!(copies.len(), 1, "{copies:?}");
    let (ours, theirs) = (mount.object("f"), mount.object(&copies[0]));
    assert!(ours == body && &theirs[..] == b"theirs", "{} and {} bytes", ours.len(), theirs.len());
    assert_eq!(mount.headers(&copies[0])["x-cos-meta-colour"], "red");
    assert_eq!(fs::read(mount.path().join(&copies[0])).unwrap(), b"theirs");
}

#[test]
fn questions_end_in_an_answer_or_an_error_and_hold_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    for words in [&["stats"][..], &["sync"]] {
        let output = cosmount(words, directory.path());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("mount"), "{}", said(&output));
    }
    let mut mount = Mounted::new();
    let socket = socket(&mount);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&socket).unwrap().permissions()) & 0o777, 0o600);
    let mut odd = UnixStream::connect(&socket).unwrap();
    odd.write_all(b"{\"format\": \"c:\"}\n").unwrap();
    let mut answer = String::new();
    odd.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("refused") && answer.contains("does not understand"), "{answer}");
    if nix::unistd::geteuid().is_root() {
        let nobody = |words: &[&str]| {
            let output = Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words).output().unwrap();
            (output.status.code(), said(&output))
        };
        let (code, said) = nobody(&[env!("CARGO_BIN_EXE_cosmount"), "stats", mount.path().to_str().unwrap()]);
        assert!(code == Some(2) && said.contains("not this user's"), "{said}");
    }
    // More than are served at once, who say nothing and stay.
    let silent: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let start = Instant::now();
    fs::write(mount.path().join("f"), b"x").unwrap();
    mount.unmount();
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    drop(silent);
    assert!(!socket.exists());

    // A mount that lives and does not listen.
    mount.start_again();
    let socket = crate::kept::socket(&mount);
    fs::remove_file(&socket).unwrap();
    let output = cosmount(&["stats"], &mount.path());
    assert!(output.status.code() == Some(2) && said(&output).contains("does not listen"), "{}", said(&output));
    // Something else listens there, and hangs up.
    let listener = UnixListener::bind(&socket).unwrap();
    let hang_up = thread::spawn(move || drop(listener.accept().unwrap()));
    let output = cosmount(&["stats"], &mount.path());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    hang_up.join().unwrap();
}

/// Where the mount listens, once it does.
fn socket(mount: &Mounted) -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|base| PathBuf::from(base).join("cosmount"));
    let own = own.unwrap_or_else(|| format!("/tmp/cosmount-{}", nix::unistd::geteuid()).into());
    let directory = if nix::unistd::geteuid().is_root() { "/run/cosmount".into() } else { own };
    let begins = format!("{}.", mount.pid());
    let find = || {
        let paths = fs::read_dir(&directory).into_iter().flatten().map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&begins) && name.ends_with(".sock")
        };
        paths.into_iter().find(is_it)
    };
    assert!(wait(Duration::from_secs(10), || find().is_some()));
    find().unwrap()
}

/// What a writer did: the file, the bytes that were taken, and what its last call said.
struct Written {
    name: String,
    body: Vec<u8>,
    outcome: Result<(), i32>,
}

fn write_until(mount: &Path, writer: usize, over: &AtomicBool) -> Vec<Written> {
    let mut written = Vec::new();
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("w{writer}-{n}");
        let size = [10, 100_000, 9 << 20][n % 3];
        let body: Vec<u8> = (0..size).map(|at: usize| (at / 512 + n + writer) as u8).collect();
        let mut file = File::create(mount.join(&name)).unwrap();
        let (mut taken, mut outcome) = (0, Ok(()));
        while taken < size {
            match file.write(&body[taken..]) {
                Ok(bytes) => taken += bytes,
                Err(error) => {
                    outcome = Err(error.raw_os_error().unwrap());
                    break;
                }
            }
        }
        let closed = close(file).map_err(|errno| errno as i32);
        written.push(Written { name, body: body[..taken].to_vec(), outcome: outcome.and(closed) });
    }
    written
}

/// Must show: under a storm every file arrives, or is kept and listed, and the program saw success or the right errno.
#[test]
fn a_storm_of_refusals_loses_nothing() {
    let seconds = std::env::var("COSMOUNT_STORM").map_or(3, |seconds| seconds.parse::<u64>().unwrap());
    for (status, code, errnos) in [
        (503, "ServiceUnavailable", &[Errno::EIO, Errno::ETIMEDOUT, Errno::ENOSPC][..]),
        (403, "AccessDenied", &[Errno::EACCES, Errno::ENOSPC]),
    ] {
        let mount = Mounted::builder().arg(format!("--io-timeout={}s", (seconds / 2).clamp(2, 20))).start();
        let over = AtomicBool::new(false);
        let (root, over) = (mount.path(), &over);
        let written: Vec<Written> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    scope.spawn({
                        let root = root.clone();
                        move || write_until(&root, writer, over)
                    })
                })
                .collect();
            assert!(wait(Duration::from_secs(20), || mount.keys("").len() >= 4), "some are written before");
            let fault = mount.fault(refuse_writes(status, code));
            thread::sleep(Duration::from_secs(seconds));
            // While it lasts: what is not there is listed.
            let listed: Vec<String> = listed(&mount).iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect();
            assert!(!listed.is_empty(), "{status}: nothing is kept");
            over.store(true, Ordering::SeqCst);
            let written: Vec<Written> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
            let listed: Vec<String> = crate::kept::listed(&mount).iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect();
            for Written { name, body, outcome } in &written {
                match outcome {
                    Ok(()) => assert_eq!(mount.object(name), *body, "{name}: close said that it is there"),
                    Err(errno) => {
                        assert!(errnos.iter().any(|allowed| *allowed as i32 == *errno), "{name}: errno {errno} for {status}");
                        let arrived = mount.try_object(name).is_some_and(|object| object == *body);
                        assert!(arrived || listed.contains(name), "{name} is neither there nor listed");
                    }
                }
            }
            drop(fault);
            written
        });
        let refused = written.iter().filter(|file| file.outcome.is_err()).count();
        assert!(refused > 0 && refused < written.len(), "{refused} of {} were refused", written.len());
        let start = Instant::now();
        let (left, said) = sync(&[], &mount.path());
        assert_eq!(left, 0, "{said}");
        for Written { name, body, .. } in &written {
            assert!(mount.object(name) == *body, "{name}");
        }
        record(&format!(
            "- {seconds} s of {status} under 4 writers: of {} files {refused} were refused, with the right errno, kept and listed; `cosmount sync` sent them in {:.1} s after it",
            written.len(),
            start.elapsed().as_secs_f64()
        ));
    }
}

/// A file system of its own in memory, gone when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(mib: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(&*format!("size={mib}m"))).unwrap();
        Self(directory)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

const PIECE: u64 = 4096;

/// The byte that the piece `n` of the `round`th writing has.
fn fill(round: u64, n: u64) -> u8 {
    ((n * 7 + round) % 251) as u8
}

/// Must show: random writes into a staging that is too small are slow or ENOSPC; the bucket has old or new versions, whole; no remount is needed.
#[test]
fn a_full_staging_is_enospc_or_slow_and_never_a_wrong_object() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a tmpfs is root's to mount");
        return;
    }
    let mib = std::env::var("COSMOUNT_RANDOM_MIB").map_or(32, |mib| mib.parse::<u64>().unwrap());
    let tmpfs = Tmpfs::new((mib / 16).max(4));
    let (size, pieces) = (mib << 20, (mib << 20) / PIECE);
    let staging = tmpfs.0.path().join("staging");
    // The limit is beyond what there is: it is the disk that is full.
    let mount = Mounted::builder().staging(format!("{}:10G", staging.display())).args(&["--memory-limit=32M", "--io-timeout=10s"]).start();
    mount.put_pattern("old", size);
    let old = mount.object("old");
    let order = |n: u64| n.wrapping_mul(2_654_435_761) % pieces;

    // Nothing may leave: the writer is told when there is no room, and nothing changes in the bucket.
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    let file = File::options().read(true).write(true).open(mount.path().join("old")).unwrap();
    let mut longest = Duration::ZERO;
    let mut refused = None;
    for n in 0..pieces {
        let start = Instant::now();
        let done = file.write_all_at(&[fill(1, order(n)); PIECE as usize], order(n) * PIECE);
        longest = longest.max(start.elapsed());
        if let Err(error) = done {
            assert_eq!(error.raw_os_error(), Some(Errno::ENOSPC as i32), "{error}");
            refused = Some(n);
            break;
        }
    }
    let refused = refused.expect("more was taken than there is room for");
    assert!(mount.object("old") == old, "the object is untouched");
    assert_eq!(stats(&mount)["unsent"]["files"], 1);
    drop(fault);

    // Room is made by what leaves; every version that appears is a whole one.
    let mut versions = 0;
    let mut last = old.clone();
    for n in refused..pieces {
        file.write_all_at(&[fill(1, order(n)); PIECE as usize], order(n) * PIECE).unwrap();
        if n % (pieces / 16) == 0 {
            let now = mount.object("old");
            versions += u32::from(now != last);
            check_version(&now, &old, pieces, size);
            last = now;
        }
    }
    close(file).unwrap();
    let done = mount.object("old");
    check_version(&done, &old, pieces, size);
    assert!((0..pieces).all(|n| done[(n * PIECE) as usize] == fill(1, n)), "all of it is there");
    fs::write(mount.path().join("new"), vec![3; 1 << 20]).unwrap();
    assert_eq!(&mount.object("new")[..], &vec![3; 1 << 20][..]);
    assert!(longest < Duration::from_secs(15), "{longest:?}");
    record(&format!(
        "- {mib} MiB of random 4 KiB writes over a staging of {} MiB: ENOSPC after {} MiB while COS refused, the longest call {longest:.1?}; then, without a remount, all of it arrived, the object whole in each of {versions} versions seen on the way",
        (mib / 16).max(4),
        (refused * PIECE) >> 20,
    ));
}

/// Each piece is the old one or the new one, whole.
fn check_version(now: &[u8], old: &[u8], pieces: u64, size: u64) {
    assert_eq!(now.len() as u64, size);
    for n in 0..pieces {
        let range = (n * PIECE) as usize..((n + 1) * PIECE) as usize;
        let piece = &now[range.clone()];
        assert!(*piece == old[range] || *piece == [fill(1, n); PIECE as usize], "piece {n} is neither");
    }
}
