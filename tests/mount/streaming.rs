//! Streams through the kernel: of more parts than an upload may have, and over a wire slower than the writer.

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use cosmount::emulator::{Config, Limits, Op};

use crate::common::{BUCKET, Mounted, wait};

/// A MiB that no other is like.
fn block(n: usize) -> Vec<u8> {
    (0..1usize << 20).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(n * 7919) >> 11) as u8).collect()
}

fn assert_blocks(mount: &Mounted, key: &str, blocks: usize) {
    let object = mount.object(key);
    assert_eq!(object.len(), blocks << 20);
    for n in 0..blocks {
        assert!(object[n << 20..][..1 << 20] == block(n), "block {n}");
    }
}

/// Everything that COS bounds by bytes or number of parts is a thousandth here: parts of 1 KiB to 5 MiB, ten of them.
#[test]
fn a_stream_with_limits_of_a_thousandth_goes_through_three_continuations() {
    let limits = Limits { min_part: (1 << 20) / 1000, max_put: (5 << 30) / 1000, max_parts: 10, ..Limits::default() };
    let mount = Mounted::builder()
        .emulator(Config { limits, ..Config::with_bucket(BUCKET) })
        .env("COSMOUNT_TEST_DEFECT", "limits-by-thousand")
        .args(&["--part-size=1M", "--memory-limit=32M"])
        .start();
    let mut file = File::create(mount.path().join("long")).unwrap();
    let sent = || mount.counters().of(Op::UploadPart).bytes_in >> 20;
    for n in 0..40 {
        file.write_all(&block(n)).unwrap();
        // Not faster than it leaves: all that memory holds would go with one continuation.
        assert!(wait(Duration::from_secs(60), || sent() + 4 >= n as u64), "{:?}", mount.counters());
        if n == 20 {
            file.set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
        }
    }
    let continued = mount.counters().of(Op::CompleteUpload).requests;
    assert!(continued >= 3, "{:?}", mount.counters());
    file.sync_all().unwrap();
    let counters = mount.counters();
    assert!(counters.of(Op::CopyPart).requests >= continued, "each begins with copies of what is there: {counters:?}");
    assert_eq!(counters.of(Op::UploadPart).bytes_in, 40 << 20, "no byte is sent twice");
    assert_blocks(&mount, "long", 40);
    assert!(mount.headers("long").contains_key("x-cos-meta-cosmount-commit"));
    // What follows is an append to what has just been made.
    file.write_all(&block(40)).unwrap();
    drop(file);
    assert_blocks(&mount, "long", 41);
    assert_eq!(mount.uploads(), 0);
    let metadata = std::fs::metadata(mount.path().join("long")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (41 << 20, 0o640));
    assert_eq!(mount.remounted().path().join("long").metadata().unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_wire_slower_than_the_writer_slows_it_and_takes_no_memory() {
    let wire = 64 << 20;
    let mount = Mounted::builder()
        .emulator(Config { bandwidth: Some(wire), ..Config::with_bucket(BUCKET) })
        .without_staging()
        .arg("--memory-limit=32M")
        .start();
    let start = Instant::now();
    let mut file = File::create(mount.path().join("slow")).unwrap();
    for n in 0..160 {
        file.write_all(&block(n)).unwrap();
    }
    // All but what memory holds has left.
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
    file.sync_all().unwrap();
    drop(file);
    let counters = mount.counters();
    assert!(counters.of(Op::UploadPart).bytes_in <= 160 << 20, "{counters:?}");
    assert!(mount.peak_memory() <= (32 + 64) << 20, "peak {} MiB", mount.peak_memory() >> 20);
    assert_blocks(&mount, "slow", 160);
}
