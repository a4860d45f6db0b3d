//! Copies within the mount are made by the bucket: what they cost by the emulator's log, and what becomes of them when their source goes.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use cosmount::emulator::{Count, Op};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    unistd::Whence,
};

use crate::common::{Mounted, sh};

/// Files of the copied tree; `scripts/soak edit` copies 1,000.
fn files() -> usize {
    std::env::var("COSMOUNT_COPIED_FILES").map_or(100, |files| files.parse().unwrap())
}

/// No byte of a file went up, and none came down.
fn assert_nothing_moved(mount: &Mounted) {
    let counters = mount.counters();
    for op in [Op::PutObject, Op::UploadPart, Op::AppendObject] {
        assert_eq!(counters.of(op).bytes_in, 0, "{op}");
    }
    assert_eq!(counters.of(Op::GetObject), Count::default());
}

/// Copies a range as the standard library does: with copy_file_range(2).
fn copy_all(mut from: &File, at: u64, mut to: &File, there: u64, len: u64) {
    from.seek(SeekFrom::Start(at)).unwrap();
    to.seek(SeekFrom::Start(there)).unwrap();
    assert_eq!(io::copy(&mut from.take(len), &mut to).unwrap(), len);
}

/// Whether these are the first bytes of what [`Mounted::put_pattern`] makes.
fn is_pattern(mount: &Mounted, bytes: &[u8]) -> bool {
    let block = pattern(mount, 1 << 20);
    bytes.chunks(block.len()).all(|chunk| chunk == &block[..chunk.len()])
}

/// The first bytes of what [`Mounted::put_pattern`] makes.
fn pattern(mount: &Mounted, len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..1 << 20).map(|at| mount.pattern_at(at)).collect();
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    bytes
}

fn check_pattern(mount: &Mounted, name: &str, size: u64) {
    let file = File::open(mount.path().join(name)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    for at in [0, 12_345_678, size / 2 - 7, size - 1000] {
        let mut bytes = [0; 1000];
        file.read_exact_at(&mut bytes, at).unwrap();
        assert!(bytes.iter().zip(at..).all(|(byte, at)| *byte == mount.pattern_at(at)), "{name} at {at}");
    }
}

#[test]
fn cp_of_3_gib_is_one_request_and_moves_no_byte() {
    let mount = Mounted::new();
    mount.put_pattern("large", 3 << 30);
    for (n, cp) in ["cp", "cp --reflink=auto", "cp -p"].into_iter().enumerate() {
        mount.server().clear_log();
        sh(mount.path(), &format!("{cp} large copy{n}"));
        assert_nothing_moved(&mount);
        assert_eq!(mount.counters().of(Op::CopyObject).requests, 1, "{:?}", mount.counters());
        check_pattern(&mount, &format!("copy{n}"), 3 << 30);
    }
}

#[test]
fn cp_above_what_one_copy_takes_is_made_of_part_copies() {
    let mount = Mounted::new();
    mount.put_pattern("large", (11 << 30) + 5);
    mount.server().clear_log();
    sh(mount.path(), "cp large copy");
    assert_nothing_moved(&mount);
    assert_eq!(mount.counters().of(Op::CopyPart).requests, 3);
    check_pattern(&mount, "copy", (11 << 30) + 5);
}

#[test]
fn cp_of_a_tree_is_one_copy_a_file() {
    let mount = Mounted::new();
    for n in 0..files() {
        mount.put(&format!("from/d{}/f{n}", n % 7), &vec![n as u8; 1 + n * 7919 % 50_000], &[]);
    }
    mount.server().clear_log();
    sh(mount.path(), "cp -r from to");
    assert_nothing_moved(&mount);
    assert_eq!(mount.counters().of(Op::CopyObject).requests, files() as u64);
    for n in 0..files() {
        assert!(mount.object(&format!("to/d{}/f{n}", n % 7)) == vec![n as u8; 1 + n * 7919 % 50_000]);
    }
}

#[test]
fn cp_archive_costs_nothing_more_and_keeps_what_it_names() {
    let mount = Mounted::new();
    sh(mount.path(), "echo text > f; chmod 640 f; touch -d '2020-02-02 02:02:02.123456789' f");
    mount.server().clear_log();
    sh(mount.path(), "cp -a f g");
    assert_eq!(mount.counters().of(Op::CopyObject).requests, 1);
    assert_nothing_moved(&mount);
    let mount = mount.remounted();
    assert_eq!(sh(mount.path(), "stat -c '%a %Y' f; cat g; stat -c '%a %Y' g"), "640 1580608922\ntext\n640 1580608922\n");
}

#[test]
fn ranges_are_copied_on_the_server_and_short_ones_by_hand() {
    let mount = Mounted::new();
    mount.put_pattern("a", 100 << 20);
    let from = File::open(mount.path().join("a")).unwrap();
    let to = File::options().read(true).write(true).create_new(true).open(mount.path().join("b")).unwrap();
    mount.server().clear_log();
    copy_all(&from, 777, &to, 0, 64 << 20);
    copy_all(&from, 5, &to, 64 << 20, 1000);
    to.write_all_at(b"by hand", 32 << 20).unwrap();
    let bytes = pattern(&mount, (64 << 20) + 777);
    let mut expected = bytes[777..].to_vec();
    expected.extend_from_slice(&bytes[5..1005]);
    expected[32 << 20..][..7].copy_from_slice(b"by hand");
    for at in [0, (32 << 20) - 3, (64 << 20) - 10] {
        let mut there = [0; 20];
        to.read_exact_at(&mut there, at).unwrap();
        assert_eq!(there, expected[at as usize..][..20], "before it is in the bucket, at {at}");
    }
    to.sync_all().unwrap();
    let counters = mount.counters();
    assert_eq!(counters.of(Op::CopyPart).requests, 2);
    assert!(counters.of(Op::UploadPart).bytes_in <= 2 << 20, "{counters:?}");
    assert!(mount.object("b") == expected);
}

#[test]
fn a_source_with_changes_is_copied_as_it_is_seen() {
    let mount = Mounted::new();
    mount.put_pattern("a", 20 << 20);
    let from = File::options().read(true).write(true).open(mount.path().join("a")).unwrap();
    from.write_all_at(b"new", 10 << 20).unwrap();
    from.set_len(25 << 20).unwrap();
    fs::copy(mount.path().join("a"), mount.path().join("b")).unwrap();
    let mut expected = pattern(&mount, 20 << 20);
    expected[10 << 20..][..3].copy_from_slice(b"new");
    expected.resize(25 << 20, 0);
    assert!(mount.object("b") == expected);
    // And through a mapping that nobody has synced, in one file.
    let script = "import mmap, os\nf = open('a', 'r+b'); m = mmap.mmap(f.fileno(), 1 << 20); m[100:104] = b'mmap'\n\
                  g = open('c', 'wb'); print(os.copy_file_range(f.fileno(), g.fileno(), 1 << 20, 0))";
    assert_eq!(sh(mount.path(), &format!("python3 - <<'EOF'\n{script}\nEOF")), "1048576\n");
    assert_eq!(&mount.object("c")[100..104], b"mmap");
    copy_all(&File::open(mount.path().join("a")).unwrap(), 0, &from, 15 << 20, 4 << 20);
    from.sync_all().unwrap();
    expected[100..104].copy_from_slice(b"mmap");
    expected.copy_within(0..4 << 20, 15 << 20);
    assert!(mount.object("a") == expected);
}

/// A copy of `size` bytes, `b`, waits in an open file while `change` happens to its source, `a`. No process may be started meanwhile: its end would close the
/// copy, too, and that sends it.
fn while_a_copy_waits(size: u64, change: impl FnOnce(&Mounted)) -> io::Result<()> {
    let mut mount = Mounted::new();
    mount.put_pattern("a", size);
    fs::write(mount.path().join("c"), "x").unwrap();
    let to = File::create(mount.path().join("b")).unwrap();
    copy_all(&File::open(mount.path().join("a")).unwrap(), 0, &to, 0, size);
    mount.server().clear_log();
    change(&mount);
    assert!(mount.try_object("b").is_none(), "it did not wait");
    to.sync_all()?;
    drop(to);
    let object = mount.object("b");
    assert!(object.len() as u64 == size && is_pattern(&mount, &object), "{size}");
    // Helper objects go with the last who needed them: the mount's end is the latest.
    mount.unmount();
    assert!(mount.keys(".cosmount/").is_empty(), "{:?}", mount.keys(""));
    Ok(())
}

#[test]
fn a_copy_survives_what_this_mount_does_to_its_source() {
    let changes: [fn(&Path); 7] = [
        |root| fs::remove_file(root.join("a")).unwrap(),
        |root| fs::rename(root.join("a"), root.join("d")).unwrap(),
        |root| fs::rename(root.join("c"), root.join("a")).unwrap(),
        |root| fs::write(root.join("a"), "new").unwrap(),
        |root| File::options().append(true).open(root.join("a")).unwrap().write_all(b"more").unwrap(),
        |root| fs::set_permissions(root.join("a"), Permissions::from_mode(0o600)).unwrap(),
        |root| {
            fs::create_dir(root.join("d")).unwrap();
            fs::rename(root.join("a"), root.join("d/a")).unwrap();
            fs::rename(root.join("d"), root.join("e")).unwrap();
            fs::remove_dir_all(root.join("e")).unwrap();
        },
    ];
    for size in [100_000, 20 << 20] {
        for change in changes {
            while_a_copy_waits(size, |mount| change(&mount.path())).unwrap();
        }
    }
}

#[test]
fn a_large_source_that_goes_is_put_aside_on_the_server() {
    let changes: [fn(&Path); 2] =
        [|root| fs::remove_file(root.join("a")).unwrap(), |root| fs::rename(root.join("c"), root.join("a")).unwrap()];
    for change in changes {
        while_a_copy_waits(100 << 20, |mount| {
            change(&mount.path());
            assert_eq!(mount.keys(".cosmount/open/").len(), 1);
            assert_nothing_moved(mount);
        })
        .unwrap();
    }
}

#[test]
fn a_source_that_another_host_replaces_or_removes_is_stale_at_close_and_never_wrong_bytes() {
    for size in [100_000, 20 << 20] {
        for removed in [true, false] {
            let change = |mount: &Mounted| if removed { mount.delete("a") } else { mount.put("a", &vec![7; size as usize], &[]) };
            let error = while_a_copy_waits(size, change).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::ESTALE as i32), "{size} {removed}");
        }
    }
}

#[test]
fn fallocate_reserves_extends_punches_and_zeroes() {
    let mount = Mounted::new();
    let file = File::options().read(true).write(true).create_new(true).open(mount.path().join("f")).unwrap();
    let mut model: Vec<u8> = (0..3_000_000).map(|n: u32| (n % 251) as u8 + 1).collect();
    file.write_all_at(&model, 0).unwrap();
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
    for committed in [false, true] {
        if committed {
            file.sync_all().unwrap();
            assert!(mount.object("f") == model);
        }
        fallocate(&file, FallocateFlags::empty(), 0, 1000).unwrap();
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 1 << 40).unwrap();
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
        let end = model.len();
        fallocate(&file, punch, 12_345, 1_000_000).unwrap();
        model[12_345..1_012_345].fill(0);
        fallocate(&file, punch, end as i64 - 10, 1_000_000).unwrap();
        model[end - 10..].fill(0);
        fallocate(&file, zero | FallocateFlags::FALLOC_FL_KEEP_SIZE, end as i64 - 500, 5000).unwrap();
        model[end - 500..].fill(0);
        fallocate(&file, zero, end as i64 - 1000, 5000).unwrap();
        model.resize(end + 4000, 0);
        model[end - 1000..].fill(0);
        fallocate(&file, FallocateFlags::empty(), end as i64 + 3000, 9000).unwrap();
        model.resize(end + 12_000, 0);
        for (at, len) in [(5, 100), (500_000, 3), (end as i64 + 11_000, 1000)] {
            file.write_all_at(&vec![7; len], at as u64).unwrap();
            model[at as usize..at as usize + len].fill(7);
        }
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
        assert!(fs::read(mount.path().join("f")).unwrap() == model, "{committed}");
    }
    for flags in [FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, FallocateFlags::FALLOC_FL_INSERT_RANGE] {
        assert_eq!(fallocate(&file, flags, 0, 4096), Err(Errno::EOPNOTSUPP));
    }
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 1 << 46), Err(Errno::EFBIG));
    nix::fcntl::posix_fallocate(&file, 0, 5_000_000).unwrap();
    model.resize(5_000_000, 0);
    drop(file);
    assert!(mount.object("f") == model);
    let mount = mount.remounted();
    assert!(fs::read(mount.path().join("f")).unwrap() == model);
}

#[test]
fn holes_are_found_until_they_are_in_the_bucket() {
    let mount = Mounted::new();
    let file = File::options().read(true).write(true).create_new(true).open(mount.path().join("f")).unwrap();
    file.write_all_at(b"data", 2 << 20).unwrap();
    file.set_len(8 << 20).unwrap();
    let seek = |at, whence| nix::unistd::lseek(&file, at, whence);
    assert_eq!((seek(0, Whence::SeekData), seek(0, Whence::SeekHole)), (Ok(2 << 20), Ok(0)));
    assert_eq!((seek(2 << 20, Whence::SeekHole), seek(3 << 20, Whence::SeekData)), (Ok((2 << 20) + 4), Err(Errno::ENXIO)));
    assert_eq!((seek(8 << 20, Whence::SeekHole), seek(8 << 20, Whence::SeekData)), (Err(Errno::ENXIO), Err(Errno::ENXIO)));
    // cp(1) finds them, too.
    sh(mount.path(), "cp --sparse=always f g; cmp f g");
    file.sync_all().unwrap();
    assert_eq!((seek(5, Whence::SeekData), seek(5, Whence::SeekHole)), (Ok(5), Ok(8 << 20)), "COS stores zeros");
    assert_eq!(seek(8 << 20, Whence::SeekData), Err(Errno::ENXIO));
}
