//! The commands as a user types them: background and front, errors and exit codes, the end of a mount, and that secrets stay secret.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

mod logs;
mod misconfigured;
mod snapshot;
mod words;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use cosmount::emulator::{Action, Config, Op, Rule, Server};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

const BUCKET: &str = "example-1250000000";
const SECRETS: [(&str, &str); 2] = [("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey")];

/// A server, a mount point and the words that mount it.
struct Stage {
    server: Server,
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { server: Server::start(Config::with_bucket(BUCKET)).unwrap(), dir }
    }

    fn at(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join("mnt")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn mount(&self, extra: &[&str]) -> Command {
        let mut command = cosmount(&["mount", BUCKET]);
        command.arg(self.at()).args(["--region", "ap-guangzhou", "--endpoint", &self.server.endpoint()]);
        command.arg("--staging").arg(self.dir.path().join("staging"));
        command.arg("--log-file").arg(self.dir.path().join("log")).args(extra).envs(SECRETS);
        if !extra.contains(&"--log-level") {
            command.args(["--log-level", "trace"]);
        }
        command
    }

    fn umount(&self) -> Output {
        cosmount(&["umount"]).arg(self.at()).output().unwrap()
    }

    fn is_mounted(&self) -> bool {
        fs::read_to_string("/proc/self/mounts").unwrap().contains(self.at().to_str().unwrap())
    }

    /// The process that serves it, as the mount command said.
    fn mount_and_pid(&self, extra: &[&str]) -> Pid {
        let output = self.mount(extra).output().unwrap();
        assert!(output.status.success(), "{output:?} {}", self.log());
        let said = String::from_utf8(output.stdout).unwrap();
        Pid::from_raw(said.split("by process ").nth(1).unwrap().split(';').next().unwrap().parse().unwrap())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_mounted() {
            self.umount();
        }
    }
}

fn cosmount(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cosmount"));
    // Neither the width of a terminal nor what the user of this host has configured is a part of any test.
    command.args(words).stdin(Stdio::null()).env("COLUMNS", "100").env("COSMOUNT_CONFIG", "/dev/null");
    for (name, _) in SECRETS {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn is_running(pid: Pid) -> bool {
    // A zombie of a test without an init has ended, too.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_background_mount_works_when_the_command_returns_and_ends_with_umount() {
    let stage = Stage::new();
    stage.server.put(BUCKET, "hello", "world", &[]).unwrap();
    let pid = stage.mount_and_pid(&[]);
    assert_eq!(fs::read(stage.at().join("hello")).unwrap(), b"world");
    fs::write(stage.at().join("new"), "bytes").unwrap();
    let umount = stage.umount();
    assert!(umount.status.success(), "{umount:?} {}", stage.log());
    assert!(!stage.is_mounted() && !is_running(pid));
    assert_eq!(stage.server.get(BUCKET, "new").unwrap().body, "bytes");
    let second = stage.umount();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("is not mounted by cosmount"));
}

#[test]
fn no_secret_is_in_argv_environment_or_log() {
    let stage = Stage::new();
    let pid = stage.mount_and_pid(&[]);
    fs::write(stage.at().join("file"), "bytes").unwrap();
    for file in ["environ", "cmdline"] {
        let shown = text(&fs::read(format!("/proc/{pid}/{file}")).unwrap());
        assert!(!shown.contains("exampleSecretKey") && !shown.contains("AKIDEXAMPLE"), "{file}: {shown}");
    }
    assert!(!stage.log().contains("exampleSecretKey"), "{}", stage.log());
    assert!(!stage.log().contains("q-signature=") || stage.log().contains("q-signature=***"), "{}", stage.log());
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert!(stage.umount().status.success());
}

#[test]
fn a_mount_in_front_hides_its_secrets_and_ends_with_ctrl_c() {
    let stage = Stage::new();
    let mut child = stage.mount(&["-f"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the mount", || stage.is_mounted() && fs::read_dir(stage.at()).is_ok());
    assert!(!text(&fs::read(format!("/proc/{}/environ", child.id())).unwrap()).contains("exampleSecretKey"));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!stage.is_mounted());
}

#[test]
fn what_cannot_be_mounted_is_explained() {
    let stage = Stage::new();
    let fails = |command: &mut Command, code: i32, words: &[&str]| {
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert!(!stage.is_mounted());
    };
    fails(stage.mount(&[]).env("COS_SECRET_KEY", "wrong"), 32, &["cos://example-1250000000/", "403", "request", "check the credentials"]);
    fails(stage.mount(&["-f"]).env("COS_SECRET_KEY", "wrong"), 32, &["cos://example-1250000000/"]);
    fails(stage.mount(&[]).env_remove("COS_SECRET_ID").env_remove("COS_SECRET_KEY"), 32, &["COS_SECRET_ID"]);
    fails(stage.mount(&["--memory-limit", "16M"]).stdin(Stdio::null()), 1, &["at least 32M"]);
    fails(stage.mount(&["--no-such"]).stdin(Stdio::null()), 1, &["--no-such"]);
    fails(stage.mount(&["--ca-file", "/nonexistent.pem"]).stdin(Stdio::null()), 32, &["/nonexistent.pem"]);
    let mut other = cosmount(&["mount", "absent-1250000000"]);
    other.arg(stage.at()).args(["--staging", "none", "--endpoint", &stage.server.endpoint(), "--region", "ap-guangzhou"]).envs(SECRETS);
    fails(&mut other, 32, &["404", "NoSuchBucket", "absent-1250000000", "--region"]);
    let mut nowhere = cosmount(&["mount", BUCKET, "/nonexistent/directory"]);
    fails(nowhere.envs(SECRETS), 32, &["does not exist", "mkdir -p"]);
    let mut file = cosmount(&["mount", BUCKET, "/etc/passwd"]);
    fails(file.envs(SECRETS), 32, &["is not a directory"]);
}

#[test]
fn a_second_mount_with_the_same_staging_is_refused() {
    let stage = Stage::new();
    stage.mount_and_pid(&[]);
    let other = stage.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut second = cosmount(&["mount", BUCKET]);
    second.arg(&other).args(["--region", "ap-guangzhou", "--endpoint", &stage.server.endpoint(), "--staging"]);
    let start = Instant::now();
    let output = second.arg(stage.dir.path().join("staging")).envs(SECRETS).output().unwrap();
    assert_eq!(output.status.code(), Some(32));
    assert!(text(&output.stderr).contains("in use by process"), "{}", text(&output.stderr));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(stage.umount().status.success());
}

#[test]
fn the_mount_of_a_killed_process_is_recognised_and_cleared() {
    let stage = Stage::new();
    let pid = stage.mount_and_pid(&[]);
    kill(pid, Signal::SIGKILL).unwrap();
    eventually("its end", || !is_running(pid));
    let again = stage.mount(&[]).output().unwrap();
    assert_eq!(again.status.code(), Some(32));
    assert!(text(&again.stderr).contains("cosmount umount"), "{}", text(&again.stderr));
    let umount = stage.umount();
    assert!(umount.status.success() && text(&umount.stderr).contains("has died"), "{umount:?}");
    assert!(!stage.is_mounted());
    stage.mount_and_pid(&[]);
    assert!(stage.umount().status.success());
}

#[test]
fn a_plain_umount_ends_the_process_after_everything_is_sent() {
    let stage = Stage::new();
    let pid = stage.mount_and_pid(&[]);
    fs::write(stage.at().join("file"), "bytes").unwrap();
    nix::mount::umount(&stage.at()).unwrap();
    eventually("its end", || !is_running(pid));
    assert_eq!(stage.server.get(BUCKET, "file").unwrap().body, "bytes");
}

#[test]
fn umount_says_what_could_not_be_sent() {
    let stage = Stage::new();
    stage.mount_and_pid(&["--io-timeout", "3s", "--drain-timeout", "3s"]);
    stage.server.faults().add(Rule::on(Op::PutObject, Action::status(403, "AccessDenied")));
    let mut file = File::create(stage.at().join("file")).unwrap();
    file.write_all(b"never sent").unwrap();
    assert!(file.sync_all().is_err());
    drop(file);
    let umount = stage.umount();
    assert_eq!(umount.status.code(), Some(2), "{umount:?}");
    assert!(text(&umount.stderr).contains("1 file") && text(&umount.stderr).contains("not in COS"), "{}", text(&umount.stderr));
    assert!(!stage.is_mounted());
}

#[test]
fn a_second_signal_ends_a_drain_that_waits() {
    let stage = Stage::new();
    let pid = stage.mount_and_pid(&["--io-timeout", "60s"]);
    let rule = stage.server.faults().add(Rule::on(Op::PutObject, Action::BlackHole));
    let path = stage.at().join("file");
    let writer = std::thread::spawn(move || {
        let mut file = File::create(path).unwrap();
        file.write_all(b"stuck").unwrap();
        file.sync_all()
    });
    eventually("the PUT", || stage.server.faults().struck(rule) > 0);
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("the drain", || stage.log().contains("stopping: SIGTERM"));
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("its end", || !is_running(pid));
    assert!(!stage.is_mounted());
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn the_demo_mounts_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("demo");
    let out = File::create(dir.path().join("out")).unwrap();
    let mut child = cosmount(&["demo"]).arg(&at).stdout(out).spawn().unwrap();
    eventually("the demo", || fs::read_to_string(dir.path().join("out")).unwrap().contains("Ctrl-C"));
    assert!(fs::read_to_string(at.join("README.txt")).unwrap().contains("bucket"));
    assert_eq!(fs::read_dir(at.join("photos/2026")).unwrap().count(), 12);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() && status.signal().is_none());
    assert!(!at.exists(), "the directory it made is gone");
    assert!(!Path::new(&format!("/run/cosmount/{pid}")).exists());
}
