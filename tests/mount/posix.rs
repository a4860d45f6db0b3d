//! What the kernel asks beyond reading and writing: flags, fallbacks and limits that programs count on, each with the errno that POSIX or Linux
//! names for it. `docs/posix.md` says how far this goes.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cosmount::emulator::Op;
use nix::{
    errno::Errno,
    fcntl::{OFlag, RenameFlags},
    sys::stat::{Mode, SFlag},
};

use crate::common::{Mounted, sh, wait};

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_raw(result.unwrap_err().raw_os_error().unwrap())
}

/// setfattr(1) without a shell between; the error's text.
fn set_xattr(path: &Path, name: &str, value: &str) -> Result<(), String> {
    let done = std::process::Command::new("setfattr").args(["-n", name, "-v", value]).arg(path).env("LC_ALL", "C").output().unwrap();
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

#[test]
fn renames_that_a_bucket_cannot_do_are_invalid_and_change_nothing() {
    let mount = Mounted::new();
    let at = |name: &str| mount.path().join(name);
    fs::write(at("a"), "A").unwrap();
    fs::write(at("b"), "B").unwrap();
    let rename = |from: &str, to: &str, flags| nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &at(from), nix::fcntl::AT_FDCWD, &at(to), flags);
    assert_eq!(rename("a", "b", RenameFlags::RENAME_EXCHANGE), Err(Errno::EINVAL));
    assert_eq!(rename("a", "c", RenameFlags::RENAME_WHITEOUT), Err(Errno::EINVAL));
    assert_eq!(rename("a", "b", RenameFlags::RENAME_NOREPLACE), Err(Errno::EEXIST));
    assert_eq!((fs::read(at("a")).unwrap(), fs::read(at("b")).unwrap()), (b"A".to_vec(), b"B".to_vec()));
    rename("a", "c", RenameFlags::RENAME_NOREPLACE).unwrap();
    assert_eq!(fs::read(at("c")).unwrap(), b"A");
}

#[test]
fn what_is_not_there_is_said_so_that_programs_go_on() {
    let mount = Mounted::new();
    let at = |name: &str| mount.path().join(name);
    let nameless = File::options().write(true).custom_flags(OFlag::O_TMPFILE.bits()).open(mount.path());
    assert_eq!(errno(nameless), Errno::EOPNOTSUPP);
    fs::write(at("f"), "x").unwrap();
    assert_eq!(errno(fs::hard_link(at("f"), at("link"))), Errno::EPERM);
    assert_eq!(fs::metadata(at("f")).unwrap().nlink(), 1);
    // FS_IOC_GETFLAGS of lsattr(1), by way of Python: there is no ioctl without `unsafe` here.
    let script = "import fcntl, sys\nfor p in sys.argv[1:]:\n  try: fcntl.ioctl(__import__('os').open(p, 0), 0x80086601, bytes(8)); print('?')\n  except OSError as e: print(e.errno)";
    let told = sh(mount.path(), &format!("python3 - f . <<'EOF'\n{script}\nEOF"));
    assert_eq!(told, "25\n25\n", "ENOTTY for a file and a directory");
    // tail -f, lsof and flock(1) work by the kernel alone.
    sh(mount.path(), "flock f true; timeout 1 tail -n 1 -f f || [ $? = 124 ]");
}

#[test]
fn df_shows_a_large_and_empty_file_system() {
    let mount = Mounted::new();
    let stat = nix::sys::statvfs::statvfs(&mount.path()).unwrap();
    assert_eq!((stat.name_max(), stat.blocks_free(), stat.blocks_available()), (255, stat.blocks(), stat.blocks()));
    assert!(stat.files_free() > 1 << 20);
    let shown = sh(mount.path(), "df --output=size,used,avail,pcent . | tail -n 1; df -i . >/dev/null; df -h . >/dev/null");
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(words[0].parse::<u64>().unwrap() >= 1 << 40, "{shown}");
    assert_eq!((words[1], words[2], words[3]), ("0", words[0], "0%"));
}

#[test]
fn extended_attributes_keep_to_linux_rules_and_the_buckets_room() {
    let mount = Mounted::new();
    let path = mount.path().join("f");
    fs::write(&path, "x").unwrap();
    set_xattr(&path, "user.one", "eins").unwrap();
    set_xattr(&path, "user.empty", "").unwrap();
    // getfattr and Python probe with size 0 first; a buffer that is too small is ERANGE.
    let script = r#"
import os, ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def get(name, room):
    buffer = ctypes.create_string_buffer(room) if room else None
    n = libc.getxattr(b"f", name, buffer, room)
    return n if n >= 0 else errno.errorcode[ctypes.get_errno()]
def names(room):
    n = libc.listxattr(b"f", ctypes.create_string_buffer(room) if room else None, room)
    return n if n >= 0 else errno.errorcode[ctypes.get_errno()]
print(get(b"user.one", 0), get(b"user.one", 3), get(b"user.one", 4), get(b"user.empty", 0), get(b"user.none", 0), get(b"user.none", 9))
print(names(0), names(5), names(20), sorted(os.listxattr("f")))
"#;
    let told = sh(mount.path(), &format!("python3 - <<'EOF'{script}EOF"));
    assert_eq!(told, "4 ERANGE 4 0 ENODATA ENODATA\n20 ERANGE 20 ['user.empty', 'user.one']\n");
    let refused = |name: &str, value: &str| set_xattr(&path, name, value).unwrap_err();
    assert!(refused("user.big", &"x".repeat(3000)).contains("No space left"), "more than COS keeps with an object");
    assert!(refused("user.huge", &"x".repeat(70_000)).contains("Argument list too long"), "more than Linux allows");
    assert!(refused(&format!("user.{}", "n".repeat(300)), "x").contains("out of range"));
    assert!(refused("security.x", "x").contains("not supported"));
    assert!(refused("trusted.x", "x").contains("not supported"));
    assert_eq!(sh(mount.path(), "getfattr --only-values -n user.one f"), "eins", "a refused attribute changes nothing");
    sh(mount.path(), "setfattr -x user.one f; ! getfattr -n user.one f 2>/dev/null");
}

#[test]
fn a_directory_removed_while_open_is_empty_and_takes_nothing() {
    let mount = Mounted::new();
    let script = r#"
import os
os.mkdir("dir")
fd = os.open("dir", os.O_RDONLY | os.O_DIRECTORY)
os.rmdir("dir")
print(os.listdir(fd), os.fstat(fd).st_nlink)
try: os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
except OSError as e: print(e.strerror)
try: os.mkdir("x", dir_fd=fd)
except OSError as e: print(e.strerror)
os.mkdir("dir")
open("dir/y", "w").close()
print(os.listdir(fd), os.listdir("dir"))
"#;
    let told = sh(mount.path(), &format!("python3 - <<'EOF'{script}EOF"));
    assert_eq!(told, "[] 0\nNo such file or directory\nNo such file or directory\n[] ['y']\n");
    assert_eq!(mount.keys("dir/"), ["dir/", "dir/y"], "the name means another directory now");
}

#[test]
fn a_directory_of_10000_is_read_whole_from_any_place() {
    const FILES: usize = 10_000;
    let mount = Mounted::new();
    let expected: BTreeSet<OsString> = (0..FILES).map(|n| OsString::from(format!("f{n:05}"))).collect();
    for name in &expected {
        mount.put(&format!("dir/{}", name.to_str().unwrap()), b"x", &[]);
    }
    mount.server().clear_log();
    let read = || fs::read_dir(mount.path().join("dir")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let first = read();
    assert_eq!(first.len(), FILES, "each once");
    assert_eq!(first.into_iter().collect::<BTreeSet<_>>(), expected);
    let lists = mount.counters().of(Op::ListObjects).requests;
    assert!(lists <= 12, "{lists} listings for 10,000 names");
    assert_eq!(read().len(), FILES);
    // Python's scandir never seeks, so the C library's telldir and seekdir are called from here.
    let script = r#"
import ctypes
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir64.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
directory = ctypes.c_void_p(libc.opendir(b"dir"))
def rest():
    names = []
    while entry := libc.readdir64(directory):
        names.append(ctypes.string_at(entry + 19))
    return names
[libc.readdir64(directory) for _ in range(4000)]
place = libc.telldir(directory)
tail = rest()
libc.seekdir(directory, ctypes.c_long(place))
again = rest()
libc.rewinddir(directory)
print(len(tail), tail == again, len(rest()))
"#;
    assert_eq!(sh(mount.path(), &format!("python3 - <<'EOF'{script}EOF")), format!("{} True {}\n", FILES + 2 - 4000, FILES + 2));
}

#[test]
fn any_name_without_a_slash_comes_back_as_it_was() {
    let mount = Mounted::new();
    let names: BTreeSet<OsString> = [
        "line\nbreak",
        "tab\t",
        "quotes'\"`",
        "back\\slash",
        "$HOME",
        " ",
        " lead",
        "trail ",
        "%41",
        "%",
        "+plus+",
        "a&b=c?d#e",
        "<xml>&amp;",
        "..a",
        ".hidden",
        "-rf",
        "*?[",
        "\u{1}\u{7f}",
        "\u{fc}",
        "\u{1f980}",
        "e\u{301}",
        "a:b",
        "|;",
    ]
    .iter()
    .map(|name| OsString::from(*name))
    .chain([OsString::from("n".repeat(255)), OsString::from("\u{1f980}".repeat(63))])
    .collect();
    for name in &names {
        fs::write(mount.path().join(name), name.as_bytes()).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    }
    let mount = mount.remounted();
    let shown: BTreeSet<OsString> = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(shown, names);
    for name in &names {
        assert_eq!(OsStr::from_bytes(&fs::read(mount.path().join(name)).unwrap()), name);
        fs::rename(mount.path().join(name), mount.path().join("moved")).unwrap();
        fs::rename(mount.path().join("moved"), mount.path().join(name)).unwrap();
    }
    assert_eq!(errno(fs::write(mount.path().join("n".repeat(256)), "")), Errno::ENAMETOOLONG);
    for name in &names {
        fs::remove_file(mount.path().join(name)).unwrap();
    }
    mount.settle("");
    assert_eq!(mount.keys(""), Vec::<String>::new());
}

#[test]
fn a_sparse_file_past_four_gib_is_held_without_its_holes() {
    let mount = Mounted::builder().arg("--memory-limit=64M").start();
    let file = File::options().read(true).write(true).create_new(true).open(mount.path().join("sparse")).unwrap();
    let (end, at) = (5u64 << 30, (4u64 << 30) + 12_345);
    file.set_len(end).unwrap();
    file.write_all_at(b"here", at).unwrap();
    let mut read = [9; 8];
    file.read_exact_at(&mut read, at - 2).unwrap();
    assert_eq!(&read, b"\0\0here\0\0");
    file.read_exact_at(&mut read, end - 8).unwrap();
    assert_eq!(read, [0; 8]);
    assert_eq!(file.read_at(&mut read, end).unwrap(), 0);
    assert_eq!(file.metadata().unwrap().len(), end);
    // What is sent includes the holes, because an object has none: cut before, so that this test is short.
    mount.server().clear_log();
    file.set_len(8 << 20).unwrap();
    drop(file);
    let sent = mount.counters().total().bytes_in;
    assert!(sent < 9 << 20, "{sent} bytes sent of 8 MiB");
    let body = mount.object("sparse");
    assert!(body.len() == 8 << 20 && body.iter().all(|byte| *byte == 0));
}

#[test]
fn times_from_the_first_second_to_the_last_are_kept() {
    let mount = Mounted::new();
    let path = mount.path().join("f");
    fs::write(&path, "x").unwrap();
    // The kernel itself drops the nanoseconds of the first and the last second.
    let places = [(i64::MIN, 0), (i64::MIN + 1, 7), (-2, 750_000_000), (-1, 999_999_999), (0, 1), (1 << 40, 5), (i64::MAX, 0)];
    for (seconds, nanos) in places {
        let base = Duration::from_secs(seconds.unsigned_abs());
        let base = if seconds < 0 { UNIX_EPOCH.checked_sub(base) } else { UNIX_EPOCH.checked_add(base) };
        let time: SystemTime = base.unwrap() + Duration::from_nanos(nanos);
        for _ in 0..3 {
            File::open(&path).unwrap().set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
        }
        let shown = fs::metadata(&path).unwrap();
        assert_eq!((shown.mtime(), shown.mtime_nsec()), (seconds, nanos as i64));
        assert_eq!((shown.atime(), shown.atime_nsec()), (seconds, nanos as i64));
    }
}

#[test]
fn pipes_sockets_and_devices_are_names_in_the_bucket() {
    let mount = Mounted::new();
    let at = |name: &str| mount.path().join(name);
    nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
    assert_eq!(sh(mount.path(), "(echo through > pipe) & cat pipe; wait"), "through\n");
    let listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let client = std::os::unix::net::UnixStream::connect(at("socket")).unwrap();
    drop((listener, client));
    // The mount is nodev: a device node can be stored and restored, not used.
    nix::sys::stat::mknod(&at("null"), SFlag::S_IFCHR, Mode::S_IRUSR, nix::sys::stat::makedev(1, 3)).unwrap();
    assert_eq!(errno(File::open(at("null"))), Errno::EACCES);
    fs::set_permissions(at("pipe"), fs::Permissions::from_mode(0o600)).unwrap();
    // 0o010600: as COSFS stores a named pipe.
    wait(Duration::from_secs(20), || mount.headers("pipe")["x-cos-meta-mode"] == "4480");
    assert_eq!((mount.object("pipe").len(), mount.headers("pipe")["x-cos-meta-mode"].as_str()), (0, "4480"));

    let mount = mount.remounted();
    let kind = |name: &str| fs::symlink_metadata(mount.path().join(name)).unwrap();
    assert!(kind("pipe").file_type().is_fifo() && kind("socket").file_type().is_socket());
    assert_eq!(kind("pipe").mode() & 0o7777, 0o600);
    assert!(kind("null").file_type().is_char_device());
    assert_eq!(kind("null").rdev(), nix::sys::stat::makedev(1, 3));
    fs::rename(mount.path().join("pipe"), mount.path().join("moved")).unwrap();
    assert!(kind("moved").file_type().is_fifo());
    sh(mount.path(), "cp -a null copy; [ $(stat -c %t:%T copy) = 1:3 ]; rm moved socket null copy");
    mount.settle("");
    assert_eq!(mount.keys(""), Vec::<String>::new());
}
