//! Other tools and the mount on one bucket: what each wrote, the other reads, and nothing is lost that nobody asked to change.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use crate::common::{Mounted, sdk, sh, wait};

#[test]
fn what_the_mount_wrote_the_python_sdk_reads() {
    let mount = Mounted::new();
    for (name, size) in [("empty.txt", 0), ("small.html", 1000), ("large.bin", 20 << 20)] {
        let body: Vec<u8> = (0..size as u32).map(|n| (n.wrapping_mul(31) >> 3) as u8).collect();
        fs::write(mount.path().join(name), &body).unwrap();
        let read = sdk(&mount, &["get", name]);
        assert_eq!(read["size"], size as u64);
        assert_eq!(read["crc64_of_body"], read["x-cos-hash-crc64ecma"], "{name}");
        assert_eq!(read["sha256"], sdk_sha256(&body), "{name}");
        let kind = match name.rsplit_once('.').unwrap().1 {
            "txt" => "text/plain",
            "html" => "text/html",
            _ => "application/octet-stream",
        };
        assert_eq!(read["content-type"], kind, "{name}");
    }
}

#[test]
fn what_the_python_sdk_wrote_the_mount_reads() {
    let mount = Mounted::new();
    for (name, size) in [("dir/one.txt", 1000u32), ("dir/sub/large.bin", 20 << 20)] {
        let body: Vec<u8> = (0..size).map(|n| (n.wrapping_mul(37) >> 4) as u8).collect();
        let source = tempfile::NamedTempFile::new().unwrap();
        fs::write(source.path(), &body).unwrap();
        sdk(&mount, &["upload", name, source.path().to_str().unwrap()]);
        assert_eq!(fs::read(mount.path().join(name)).unwrap(), body);
    }
    assert_eq!(sh(mount.path(), "find . -type f | sort").lines().collect::<Vec<_>>(), ["./dir/one.txt", "./dir/sub/large.bin"]);
}

fn sdk_sha256(body: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_tree_with_cosfs_headers_shows_its_modes_owners_times_and_links() {
    let mount = Mounted::new();
    let time = "1600000000";
    mount.put(
        "d/",
        b"",
        &[
            ("x-cos-meta-mode", "16832"),
            ("x-cos-meta-uid", "1001"),
            ("x-cos-meta-gid", "1002"),
            ("x-cos-meta-mtime", time),
            ("content-type", "application/x-directory"),
        ],
    );
    mount.put(
        "d/file",
        b"body",
        &[("x-cos-meta-mode", "33188"), ("x-cos-meta-uid", "1003"), ("x-cos-meta-gid", "1004"), ("x-cos-meta-mtime", time)],
    );
    mount.put("d/script", b"#!/bin/sh\n", &[("x-cos-meta-mode", "33261"), ("x-cos-meta-mtime", time)]);
    mount.put("d/link", b"../target", &[("x-cos-meta-mode", "41471"), ("x-cos-meta-mtime", time)]);
    let stat = |name: &str| fs::symlink_metadata(mount.path().join(name)).unwrap();
    let (dir, file, script) = (stat("d"), stat("d/file"), stat("d/script"));
    assert_eq!((dir.mode(), dir.uid(), dir.gid(), dir.mtime()), (0o40700, 1001, 1002, 1_600_000_000));
    assert_eq!((file.mode(), file.uid(), file.gid(), file.mtime(), file.size()), (0o100_644, 1003, 1004, 1_600_000_000, 4));
    assert_eq!(script.mode(), 0o100_755);
    assert_eq!(fs::read_link(mount.path().join("d/link")).unwrap(), Path::new("../target"));
    let listing = sh(mount.path(), "ls -l d");
    assert!(listing.contains("link -> ../target"), "{listing}");
    // And the other way: what we make, COSFS understands.
    fs::write(mount.path().join("ours"), b"x").unwrap();
    fs::set_permissions(mount.path().join("ours"), fs::Permissions::from_mode(0o640)).unwrap();
    mount.settle("ours");
    let ours = mount.headers("ours");
    assert_eq!(ours["x-cos-meta-mode"], (0o100_640).to_string());
    assert!(ours["x-cos-meta-mtime"].bytes().all(|byte| byte.is_ascii_digit()), "{ours:?}");
}

/// Every header of HEAD Object that a client can give an object.
const RICH: [(&str, &str); 11] = [
    ("content-type", "text/x-rich; charset=utf-8"),
    ("cache-control", "max-age=60"),
    ("content-disposition", "attachment; filename=\"r.txt\""),
    ("content-encoding", "identity"),
    ("content-language", "de"),
    ("expires", "Wed, 21 Oct 2037 07:28:00 GMT"),
    ("x-cos-storage-class", "STANDARD_IA"),
    ("x-cos-server-side-encryption", "AES256"),
    ("x-cos-meta-colour", "red%20green"),
    ("x-cos-meta-mode", "33188"),
    ("x-cos-meta-mtime", "1600000000"),
];

/// What differs between two HEADs, but what every new object has of its own.
fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let own = ["etag", "last-modified", "date", "x-cos-request-id", "x-cos-meta-cosmount-commit"];
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| !own.contains(&name.as_str()) && before.get(*name) != after.get(*name)).cloned().collect()
}

#[test]
fn an_object_keeps_every_header_through_edit_rename_and_chmod() {
    let mount = Mounted::new();
    for (name, size) in [("small", 10usize), ("large", 20 << 20)] {
        mount.put(name, &vec![b'x'; size], &RICH);
        let before = mount.headers(name);

        let file = File::options().write(true).open(mount.path().join(name)).unwrap();
        file.write_all_at(b"YY", 3).unwrap();
        drop(file);
        let edited = mount.headers(name);
        let diff = changed(&before, &edited);
        assert!(
            diff.iter().all(|name| ["x-cos-hash-crc64ecma", "x-cos-meta-mtime", "x-cos-meta-cosmount-mtime"].contains(&name.as_str())),
            "{name}: {diff:?}"
        );

        let moved = format!("{name}.moved");
        fs::rename(mount.path().join(name), mount.path().join(&moved)).unwrap();
        assert_eq!(changed(&edited, &mount.headers(&moved)), Vec::<String>::new(), "{name}");

        fs::set_permissions(mount.path().join(&moved), fs::Permissions::from_mode(0o600)).unwrap();
        mount.settle(&moved);
        let after = mount.headers(&moved);
        assert_eq!(changed(&edited, &after), ["x-cos-meta-mode"], "{name}");
        assert_eq!(after["x-cos-meta-mode"], (0o100_600).to_string());
        let mut expected = vec![b'x'; size];
        expected[3..5].copy_from_slice(b"YY");
        assert_eq!(&mount.object(&moved)[..], &expected[..]);
    }
}

#[test]
fn preserve_full_keeps_acl_and_tags_too() {
    let mount = Mounted::builder().arg("--preserve=full").start();
    mount.put("object", b"0123456789", &RICH);
    sdk(&mount, &["set-acl-and-tags", "object"]);
    let before = (sdk(&mount, &["acl", "object"]), sdk(&mount, &["tags", "object"]));
    let file = File::options().write(true).open(mount.path().join("object")).unwrap();
    file.write_all_at(b"X", 5).unwrap();
    drop(file);
    fs::rename(mount.path().join("object"), mount.path().join("moved")).unwrap();
    fs::set_permissions(mount.path().join("moved"), fs::Permissions::from_mode(0o600)).unwrap();
    mount.settle("moved");
    assert_eq!(&mount.object("moved")[..], b"01234X6789");
    assert_eq!((sdk(&mount, &["acl", "moved"]), sdk(&mount, &["tags", "moved"])), before);
}

#[test]
fn another_writers_version_is_seen_at_the_next_open() {
    let mount = Mounted::new();
    mount.put("shared", b"version one", &[]);
    let mut old = File::open(mount.path().join("shared")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "version one");
    mount.put("shared", b"version two!", &[]);
    assert_eq!(fs::read(mount.path().join("shared")).unwrap(), b"version two!");
    // The old handle reads its own version or ESTALE, never a mixture.
    old.seek(SeekFrom::Start(0)).unwrap();
    text.clear();
    match old.read_to_string(&mut text) {
        Ok(_) => assert_eq!(text, "version one"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc_estale()), "{error}"),
    }
    mount.put("fresh", b"new", &[]);
    assert_eq!(fs::read(mount.path().join("fresh")).unwrap(), b"new");
    mount.delete("shared");
    assert!(wait(Duration::from_secs(15), || File::open(mount.path().join("shared")).is_err()));
}

const fn libc_estale() -> i32 {
    116
}

#[test]
fn somebody_elses_change_under_an_edit_is_a_conflict_and_loses_nothing() {
    let mount = Mounted::new();
    mount.put("doc", b"the base text", &[]);
    let mut file = File::options().read(true).write(true).open(mount.path().join("doc")).unwrap();
    let mut base = [0; 13];
    file.read_exact_at(&mut base, 0).unwrap();
    file.write_all(b"MINE").unwrap();
    mount.put("doc", b"somebody else's text", &[]);
    let error = file.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc_estale()), "{error}");
    assert_eq!(&mount.object("doc")[..], b"somebody else's text", "the other's object is untouched");
    file.read_exact_at(&mut base, 0).unwrap();
    assert_eq!(&base, b"MINEbase text", "the bytes are kept");
}

#[test]
fn a_name_made_elsewhere_first_is_not_overwritten() {
    let mount = Mounted::new();
    let mut file = File::options().write(true).create_new(true).open(mount.path().join("once")).unwrap();
    file.write_all(b"mine").unwrap();
    mount.put("once", b"theirs", &[]);
    let error = file.sync_all().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    assert_eq!(&mount.object("once")[..], b"theirs");
}

#[test]
fn implicit_directories_and_odd_keys_are_shown() {
    let mount = Mounted::new();
    for key in ["a/b/c.txt", "x//y", "dots/../up", "caf\u{e9} \u{1F600}/f+%20&.txt", "both", "both/below"] {
        mount.put(key, key.as_bytes(), &[]);
    }
    assert_eq!(fs::read(mount.path().join("a/b/c.txt")).unwrap(), b"a/b/c.txt");
    assert_eq!(fs::read(mount.path().join("x/@cos:/y")).unwrap(), b"x//y");
    assert_eq!(fs::read(mount.path().join("dots/@cos:%2E%2E/up")).unwrap(), b"dots/../up");
    assert_eq!(fs::read(mount.path().join("caf\u{e9} \u{1F600}/f+%20&.txt")).unwrap(), "caf\u{e9} \u{1F600}/f+%20&.txt".as_bytes());
    assert!(mount.path().join("both").is_file(), "a file wins over a prefix of its name");
    let names: Vec<_> = sh(mount.path(), "ls -A").lines().map(str::to_owned).collect();
    assert_eq!(names, ["a", "both", "caf\u{e9} \u{1F600}", "dots", "x"]);
    assert!(fs::metadata(mount.path().join("a")).unwrap().modified().unwrap() <= SystemTime::now());
    // The last entry of an implicit directory leaves it behind, empty.
    fs::remove_file(mount.path().join("a/b/c.txt")).unwrap();
    mount.settle("a/b");
    assert!(mount.path().join("a/b").is_dir());
    assert_eq!(mount.keys("a/"), ["a/b/"]);
}
