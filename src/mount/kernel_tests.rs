//! What the kernel does, on real mounts of a file system that only writes down what it is asked: the facts the architecture builds on, and the
//! mounting and unmounting itself. Skipped, aloud, where mounting is not possible.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{mount::umount, unistd::geteuid};
use tempfile::TempDir;

use crate::fuse::probe::{self, Seen};
use crate::fuse::{KernelNotify, Serving};
use crate::mount::session::{Audience, Mounted, Request, check_mount_point};
use crate::vfs::Notify;

const LONG: Duration = Duration::from_secs(3600);

/// A mounted probe, unmounted when it goes.
struct Probe {
    seen: Arc<Seen>,
    mounted: Mounted,
    serving: Serving,
    notify: KernelNotify,
    path: PathBuf,
    _dir: TempDir,
}

impl Probe {
    fn mount(seen: Arc<Seen>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        Self::mount_at(seen, path, dir)
    }

    fn mount_at(seen: Arc<Seen>, path: PathBuf, dir: TempDir) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !geteuid().is_root() {
            eprintln!("SKIPPED: no /dev/fuse, or not root");
            return None;
        }
        let request = Request {
            source: "cosmount#probe-125".to_owned(),
            mount_point: path.clone(),
            read_only: false,
            noexec: false,
            audience: Audience::Owner,
        };
        let (device, mounted) = request.mount().unwrap();
        let notify = KernelNotify::new();
        let serving = probe::serve(&seen, device, &notify).unwrap();
        mounted.raise_readahead();
        Some(Self { seen, mounted, serving, notify, path, _dir: dir })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn ended(&mut self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ended = async { tokio::time::timeout(Duration::from_secs(20), self.serving.ended()).await };
        runtime.block_on(ended).expect("the session ends")
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.notify.close();
        self.mounted.unmount().unwrap();
    }
}

/// Waits for a condition, not for a time.
fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "another process, the kernel, is waited for")]
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}

#[test]
fn the_mount_is_what_it_says_and_goes_when_told() {
    let Some(mut probe) = Probe::mount(Seen::new(LONG)) else { return };
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(probe.path.to_str().unwrap())).unwrap();
    for word in [r"cosmount\043probe-125", "fuse.cosmount", "nosuid", "nodev", "default_permissions", "user_id=0"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    let readahead = fs::read_to_string(format!("/sys/class/bdi/{}/read_ahead_kb", probe.mounted.device())).unwrap();
    assert_eq!(readahead.trim(), "1024");
    probe.mounted.unmount().unwrap();
    probe.ended().unwrap();
    assert!(!probe.mounted.is_there().unwrap());
    probe.mounted.unmount().unwrap();
}

#[test]
fn an_unmount_by_others_takes_away_ours_and_nothing_below() {
    let below = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(below.path()).unwrap();
    let Some(first) = Probe::mount_at(Seen::new(LONG), path.clone(), below) else { return };
    let Some(mut second) = Probe::mount_at(Seen::new(LONG), path.clone(), tempfile::tempdir().unwrap()) else { return };
    assert!(!first.mounted.is_there().unwrap(), "something lies on top");
    umount(&path).unwrap();
    second.ended().unwrap();
    second.mounted.unmount().unwrap();
    assert!(first.mounted.is_there().unwrap(), "the one below is still there");
}

#[test]
fn a_dead_mount_is_recognised_and_can_be_taken_away() {
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    let path = probe.path.clone();
    // Aborting is what remains when the process dies.
    let own = tempfile::tempdir().unwrap();
    nix::mount::mount(Some("fusectl"), own.path(), Some("fusectl"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    let minor = probe.mounted.device().split(':').nth(1).unwrap().to_owned();
    let aborted = fs::write(own.path().join(minor).join("abort"), "1");
    umount(own.path()).unwrap();
    aborted.unwrap();
    let mut probe = probe;
    let error = probe.ended().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ECONNABORTED), "FUSE_ABORT_ERROR tells an abort from an unmount");
    let refused = check_mount_point(&path).unwrap_err().to_string();
    assert!(refused.contains("cosmount umount"), "{refused}");
    assert!(Mounted::find(&path).unwrap().is_some(), "found without touching it");
    probe.mounted.unmount().unwrap();
    check_mount_point(&path).unwrap();
}

#[test]
fn a_page_written_after_the_last_flush_arrives_before_release() {
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    probe.seen.add("mapped", &[b'.'; 8192]);
    let script = "
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.open(sys.argv[1], os.O_RDWR)
at = libc.mmap(None, 8192, 3, 1, fd, 0)
assert at != ctypes.c_void_p(-1).value, ctypes.get_errno()
os.close(fd)
ctypes.memmove(at + 4096, b'late', 4)
if sys.argv[2] == 'unmap':
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    assert libc.munmap(at, 8192) == 0
else:
    os._exit(0)
";
    for how in ["unmap", "exit"] {
        probe.seen.take_log();
        let status = Command::new("python3").args(["-c", script]).arg(probe.file("mapped")).arg(how).status().unwrap();
        assert!(status.success());
        let log = Arc::clone(&probe.seen);
        let asked = std::cell::RefCell::new(Vec::new());
        eventually("a release", || {
            asked.borrow_mut().extend(log.take_log());
            asked.borrow().iter().any(|what| what == "release")
        });
        let asked: Vec<_> = asked.into_inner().into_iter().filter(|what| !what.starts_with("lookup")).collect();
        assert_eq!(asked, ["open truncate false", "flush", "write cached true owner false", "release"], "{how}");
        assert_eq!(&probe.seen.bytes("mapped")[4096..4100], b"late");
    }
}

#[test]
fn absences_are_remembered_and_can_be_taken_back() {
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    for _ in 0..3 {
        assert!(!probe.file("later").exists());
    }
    assert_eq!(probe.seen.take_log(), ["lookup later"], "asked once");
    probe.seen.add("later", b"here");
    assert!(!probe.file("later").exists(), "still believed");
    probe.notify.entry(crate::vfs::Ino::ROOT, "later".as_ref());
    eventually("the notification", || probe.file("later").exists());
    // A name that was believed absent can be created: the kernel asks or trusts, but the file is there afterwards.
    assert!(!probe.file("made").exists());
    fs::write(probe.file("made"), b"x").unwrap();
    assert!(probe.file("made").exists());
}

#[test]
fn absences_of_no_duration_are_asked_again() {
    let Some(probe) = Probe::mount(Seen::new(Duration::ZERO)) else { return };
    for _ in 0..2 {
        assert!(!probe.file("none").exists());
    }
    assert_eq!(probe.seen.take_log(), ["lookup none", "lookup none"]);
}

#[test]
fn negotiated_flags_work() {
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    probe.seen.add("file", b"old bytes");
    probe.seen.add("link", b"file");
    // ATOMIC_O_TRUNC: one OPEN, no SETATTR before it.
    File::options().write(true).truncate(true).open(probe.file("file")).unwrap().write_all(b"new").unwrap();
    let log = probe.seen.take_log();
    assert!(log.contains(&"open truncate true".to_owned()) && !log.iter().any(|what| what.starts_with("setattr")), "{log:?}");
    // CACHE_SYMLINKS: one READLINK.
    for _ in 0..3 {
        assert_eq!(fs::read_link(probe.file("link")).unwrap(), Path::new("file"));
    }
    assert_eq!(probe.seen.take_log().iter().filter(|what| *what == "readlink").count(), 1);
}

#[test]
fn listings_with_and_without_attributes_are_complete() {
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    let names: Vec<_> = (0..3000).map(|n| format!("{n:05}-{}", "x".repeat(n % 60))).collect();
    for name in &names {
        probe.seen.add(name, b"");
    }
    for _ in 0..3 {
        let mut listed: Vec<_> =
            fs::read_dir(&probe.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        listed.sort();
        assert_eq!(listed, names);
        // Metadata makes the kernel choose READDIRPLUS the next time; half of the entries are then known without a LOOKUP.
        for entry in fs::read_dir(&probe.path).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().is_file());
        }
    }
    let looked_up = probe.seen.take_log().iter().filter(|what| what.starts_with("lookup")).count();
    assert!(looked_up <= 3000, "{looked_up} lookups for three walks");
}

#[test]
fn evicting_under_load_ends_and_every_reference_comes_back() {
    const FILES: usize = 300;
    let Some(probe) = Probe::mount(Seen::new(LONG)) else { return };
    for n in 0..FILES {
        probe.seen.add(&format!("f{n}"), format!("content {n}").as_bytes());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (stop, probe) = (&stop, &probe);
            scope.spawn(move || {
                let mut n = worker * 97;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 1) % FILES;
                    let mut text = String::new();
                    File::open(probe.file(&format!("f{n}"))).unwrap().read_to_string(&mut text).unwrap();
                    assert_eq!(text, format!("content {n}"));
                }
            });
        }
        for _ in 0..20 {
            for n in 0..FILES {
                probe.notify.entry(crate::vfs::Ino::ROOT, format!("f{n}").as_ref());
                probe.notify.inode(crate::vfs::Ino(2 + n as u64));
            }
            eventually("the queue is written", || probe.notify.is_idle());
        }
        stop.store(true, Ordering::Relaxed);
    });
    // With nobody using them, a notification for each name brings every inode back.
    for n in 0..FILES {
        probe.notify.entry(crate::vfs::Ino::ROOT, format!("f{n}").as_ref());
    }
    eventually("all are forgotten", || probe.seen.known() == 0);
}
