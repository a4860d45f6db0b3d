//! What an edit of something large costs: the bytes that changed, and copies on the server.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use cosmount::emulator::Op;

use crate::common::{Mounted, record, sh};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Size of the object that is read whole; `scripts/soak edit` reads 1 GiB.
fn cached() -> u64 {
    std::env::var("COSMOUNT_CACHED_MIB").map_or(64, |mib| mib.parse().unwrap()) * MIB
}

/// Parts and bytes that went up since the log was cleared.
fn sent(mount: &Mounted) -> (u64, u64) {
    let counters = mount.counters();
    let parts = counters.of(Op::UploadPart);
    (parts.requests + counters.of(Op::PutObject).requests, parts.bytes_in + counters.of(Op::PutObject).bytes_in)
}

#[test]
fn four_kib_into_ten_gib_and_an_append_cost_a_part_and_less_than_a_second() {
    let mount = Mounted::new();
    mount.put_pattern("large", 10 * GIB);
    mount.server().set_latency(Duration::from_millis(10));
    let mut size = 10 * GIB;
    let (mut edit, mut append) = (Duration::MAX, Duration::MAX);
    // On a machine that does other things, too, the best of a few.
    for n in 0..5 {
        mount.server().clear_log();
        let started = Instant::now();
        let file = File::options().write(true).open(mount.path().join("large")).unwrap();
        file.write_all_at(&[7; 4096], 3 * GIB + n * GIB + 12_345).unwrap();
        file.sync_all().unwrap();
        drop(file);
        edit = edit.min(started.elapsed());
        let (parts, bytes) = sent(&mount);
        assert!(parts <= 2 && bytes <= MIB, "{parts} parts, {bytes} bytes");

        mount.server().clear_log();
        let started = Instant::now();
        fs::OpenOptions::new()
            .append(true)
            .open(mount.path().join("large"))
            .and_then(|mut file| {
                std::io::Write::write_all(&mut file, &[8; MIB as usize])?;
                file.sync_all()
            })
            .unwrap();
        append = append.min(started.elapsed());
        size += MIB;
        let (parts, bytes) = sent(&mount);
        assert!(parts <= 1 && bytes <= MIB, "{parts} parts, {bytes} bytes");
        if edit.max(append) < Duration::from_secs(1) {
            break;
        }
    }
    mount.server().set_latency(Duration::ZERO);
    record(&format!(
        "- 10 GiB, 10 ms: 4 KiB in the middle in {} ms, 1 MiB at the end in {} ms, one part each",
        edit.as_millis(),
        append.as_millis()
    ));
    assert!(edit.max(append) < Duration::from_secs(1), "an edit takes {edit:?}, an append {append:?}");
    let file = File::open(mount.path().join("large")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    for (at, byte) in [
        (3 * GIB + 12_344, mount.pattern_at(3 * GIB + 12_344)),
        (3 * GIB + 12_345, 7),
        (3 * GIB + 12_345 + 4095, 7),
        (3 * GIB + 12_345 + 4096, mount.pattern_at(3 * GIB + 12_345 + 4096)),
        (9 * GIB + 99, mount.pattern_at(9 * GIB + 99)),
        (10 * GIB, 8),
        (size - 1, 8),
    ] {
        let mut there = [0];
        file.read_exact_at(&mut there, at).unwrap();
        assert_eq!(there[0], byte, "at {at}");
    }
}

#[test]
fn what_did_not_change_stays_cached_under_the_new_version() {
    // Direct reads: what the kernel's pages have is not asked of the mount at all.
    let mount = Mounted::builder().args(&["--memory-limit=2G", "--direct-io"]).start();
    let size = cached();
    mount.put_pattern("f", size);
    let read = || {
        let sum = sh(mount.path(), "dd if=f bs=1M status=none | cksum | cut -d' ' -f2");
        assert_eq!(sum.trim(), size.to_string());
    };
    read();
    mount.server().clear_log();
    let file = File::options().write(true).open(mount.path().join("f")).unwrap();
    file.write_all_at(&[7; 4096], size / 2 + 12_345).unwrap();
    drop(file);
    read();
    let (parts, bytes) = sent(&mount);
    let fetched = mount.counters().of(Op::GetObject).bytes_out;
    record(&format!("- {} MiB cached, 4 KiB written, all read again: {bytes} bytes up in {parts} part, {fetched} bytes down", size / MIB));
    assert!(parts == 1 && bytes <= MIB && fetched <= 2 * MIB, "{parts} parts, {bytes} bytes up, {fetched} down");
}

#[test]
fn edits_of_any_kind_above_5_gib_cost_their_runs() {
    let mount = Mounted::new();
    let size = 6 * GIB + 321;
    mount.put_pattern("f", size);
    mount.server().clear_log();
    // Two handles and a mapping, at edges that belong to nobody: a part's, a block's, the file's.
    let script = format!(
        "import mmap, os\na, b = open('f', 'r+b', 0), open('f', 'r+b', 0)\n\
         def put(f, at, what): f.seek(at); f.write(what)\n\
         put(a, 0, b'first'); put(b, {five} - 3, b'middle'); put(a, {five} + 7, b'behind')\n\
         m = mmap.mmap(b.fileno(), 1 << 20, offset=2 << 30); m[5:11] = b'mapped'; m.flush(); m.close()\n\
         put(b, {size} - 4, b'last and more'); put(a, 3 << 30, bytes(3000)); put(b, (3 << 30) + 600000, b'near')\n\
         os.truncate('f', {size} + 1000); os.fsync(a.fileno()); a.close(); b.close()",
        five = 5 * GIB
    );
    sh(mount.path(), &format!("python3 - <<'EOF'\n{script}\nEOF"));
    let (parts, bytes) = sent(&mount);
    // first; mapped; zeros and near; middle and behind; last and the hole behind it.
    assert!(bytes <= 5 * (MIB + 8192), "{parts} parts, {bytes} bytes");
    let mount = mount.remounted();
    let file = File::open(mount.path().join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size + 1000);
    let changed: [(u64, &[u8]); 8] = [
        (0, b"first"),
        (2 * GIB + 5, b"mapped"),
        (3 * GIB, &[0; 3000]),
        (3 * GIB + 600_000, b"near"),
        (5 * GIB - 3, b"middle"),
        (5 * GIB + 7, b"behind"),
        (size - 4, b"last and more"),
        (size + 9, &[0; 991]),
    ];
    for (at, what) in changed {
        let from = at.saturating_sub(2000);
        let mut bytes = vec![0; ((size + 1000).min(at + what.len() as u64 + 2000) - from) as usize];
        file.read_exact_at(&mut bytes, from).unwrap();
        for (byte, at) in bytes.into_iter().zip(from..) {
            let written = changed.iter().find(|(start, what)| (*start..start + what.len() as u64).contains(&at));
            let expected = written.map_or_else(|| mount.pattern_at(at), |(start, what)| what[(at - start) as usize]);
            assert_eq!(byte, expected, "at {at}");
        }
    }
}

#[test]
fn a_long_hole_is_copied_from_an_object_of_zeros_that_goes_with_the_mount() {
    let mut mount = Mounted::new();
    sh(mount.path(), "truncate -s 300M f; echo end >> f; truncate -s 200M g");
    let (_, bytes) = sent(&mount);
    assert!(bytes <= 8 * MIB + MIB + 4, "{bytes} bytes");
    assert_eq!(mount.keys(".cosmount/").len(), 1);
    let object = mount.object("f");
    assert_eq!((object.len() as u64, &object[300 * MIB as usize..]), (300 * MIB + 4, &b"end\n"[..]));
    let zeros = vec![0; MIB as usize];
    assert!(object[..300 * MIB as usize].chunks(zeros.len()).all(|chunk| chunk == zeros));
    let object = mount.object("g");
    assert!(object.chunks(zeros.len()).all(|chunk| chunk == zeros) && object.len() as u64 == 200 * MIB);
    // Somebody tidies up: the next hole has a new one.
    mount.delete(&mount.keys(".cosmount/")[0]);
    sh(mount.path(), "truncate -s 100M h");
    assert!(mount.object("h").len() as u64 == 100 * MIB);
    mount.unmount();
    assert_eq!(mount.keys(""), ["f", "g", "h"]);
}

#[test]
fn a_hole_in_a_large_object_and_cuts_of_it_move_little() {
    let mount = Mounted::new();
    mount.put_pattern("f", 6 * GIB);
    mount.server().clear_log();
    sh(mount.path(), "fallocate -p -o 1000000000 -l 3000000 f; truncate -s 5G f; truncate -s 5000000000 f");
    let (_, bytes) = sent(&mount);
    assert!(bytes <= 3_000_000 + 3 * MIB, "{bytes} bytes");
    let file = File::open(mount.path().join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5_000_000_000);
    let mut bytes = vec![0; 3_002_000];
    file.read_exact_at(&mut bytes, 999_999_000).unwrap();
    let hole = 1_000_000_000..1_003_000_000;
    assert!(bytes.into_iter().zip(999_999_000..).all(|(byte, at)| byte == if hole.contains(&at) { 0 } else { mount.pattern_at(at) }));
}
