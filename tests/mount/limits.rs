//! Memory, staging and the network at their limits: what moves over the wire, and that nothing waits for what never comes.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use cosmount::emulator::Op;

use crate::common::{Mounted, refuse_writes};

const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest of many calls.
#[derive(Default)]
struct Longest(Duration);

impl Longest {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        self.0 = self.0.max(start.elapsed());
        result
    }

    fn check(&self) {
        assert!(self.0 < IO_TIMEOUT + Duration::from_secs(5), "a call took {:?}", self.0);
    }
}

#[test]
fn four_kib_into_one_gib_sends_at_most_two_parts() {
    let mount = Mounted::new();
    let size = 1u64 << 30;
    mount.put_pattern("large", size);
    let file = File::options().read(true).write(true).open(mount.path().join("large")).unwrap();
    mount.server().clear_log();
    file.write_all_at(&[b'!'; 4096], size / 2 + 12_345).unwrap();
    drop(file);
    let counters = mount.counters();
    assert!(counters.of(Op::UploadPart).requests <= 2, "{counters:?}");
    assert!(counters.total().bytes_in <= 4 << 20, "{counters:?}");
    assert!(counters.total().bytes_out <= 4 << 20, "the edges are read, no more: {counters:?}");
    assert_eq!(counters.of(Op::PutObject).requests, 0);
    let body = mount.object("large");
    let at = (size / 2 + 12_345) as usize;
    assert_eq!(body.len() as u64, size);
    assert!(body[at..at + 4096].iter().all(|byte| *byte == b'!'));
    assert_eq!(body[at - 1], mount.pattern_at(at as u64 - 1));
    assert_eq!(body[at + 4096], mount.pattern_at(at as u64 + 4096));
}

/// Writes 4 KiB pieces all over `size` bytes, each piece once.
fn write_randomly(file: &File, size: u64, longest: &mut Longest) {
    let pieces = size / 4096;
    for n in 0..pieces {
        // An odd multiplier visits every piece of a power of two once.
        let piece = n.wrapping_mul(2_654_435_761) % pieces;
        let byte = (piece % 251) as u8;
        longest.time(|| file.write_all_at(&[byte; 4096], piece * 4096)).unwrap();
    }
}

#[test]
fn a_random_writer_of_eight_times_the_limit_keeps_to_it() {
    let size = 512u64 << 20;
    let mount = Mounted::builder().arg("--memory-limit=64M").arg(format!("--io-timeout={}s", IO_TIMEOUT.as_secs())).start();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(mount.path().join("random")).unwrap();
    let mut longest = Longest::default();
    write_randomly(&file, size, &mut longest);
    longest.time(|| file.sync_all()).unwrap();
    drop(file);
    longest.check();
    assert!(mount.peak_memory() < 128 << 20, "peak {} MiB", mount.peak_memory() >> 20);
    let body = mount.object("random");
    assert_eq!(body.len() as u64, size);
    for piece in (0..size / 4096).step_by(17) {
        let at = (piece * 4096) as usize;
        assert!(body[at..at + 4096].iter().all(|byte| *byte == (piece % 251) as u8), "piece {piece}");
    }
}

#[test]
fn five_thousand_files_held_open_dirty_keep_to_the_limit() {
    let mount = Mounted::builder().arg("--memory-limit=64M").arg(format!("--io-timeout={}s", IO_TIMEOUT.as_secs())).start();
    let mut longest = Longest::default();
    let body = |n: usize| vec![(n % 251) as u8; 16_384];
    let files: Vec<File> = (0..5000)
        .map(|n| {
            let file = longest.time(|| File::create(mount.path().join(format!("f{n}")))).unwrap();
            longest.time(|| file.write_all_at(&body(n), 0)).unwrap();
            file
        })
        .collect();
    for file in files {
        longest.time(|| drop(file));
    }
    longest.check();
    assert!(mount.peak_memory() < 128 << 20, "peak {} MiB", mount.peak_memory() >> 20);
    for n in (0..5000).step_by(13) {
        assert_eq!(&mount.object(&format!("f{n}"))[..], &body(n)[..], "f{n}");
    }
}

#[test]
fn without_staging_files_held_open_dirty_are_committed_before_there_is_no_room() {
    let mount = Mounted::builder().without_staging().arg("--memory-limit=64M").start();
    let body = |n: usize| vec![(n % 251) as u8; 16_384];
    let files: Vec<File> = (0..5000)
        .map(|n| {
            let file = File::create(mount.path().join(format!("f{n}"))).unwrap();
            file.write_all_at(&body(n), 0).unwrap_or_else(|error| panic!("f{n}: {error}"));
            file
        })
        .collect();
    assert!(mount.counters().of(Op::PutObject).requests > 2000, "only some fit");
    drop(files);
    for n in (0..5000).step_by(13) {
        assert_eq!(&mount.object(&format!("f{n}"))[..], &body(n)[..], "f{n}");
    }
}

#[test]
fn a_bucket_that_refuses_every_put_makes_nobody_wait() {
    let mount = Mounted::builder().arg("--memory-limit=64M").arg(format!("--io-timeout={}s", IO_TIMEOUT.as_secs())).start();
    let fault = mount.fault(refuse_writes(403, "AccessDenied"));
    let mut longest = Longest::default();
    let random = File::options().read(true).write(true).create(true).truncate(true).open(mount.path().join("random")).unwrap();
    write_randomly(&random, 128 << 20, &mut longest);
    assert!(longest.time(|| random.sync_all()).is_err(), "fsync says that COS refused");
    let files: Vec<File> = (0..5000)
        .map(|n| {
            let file = longest.time(|| File::create(mount.path().join(format!("f{n}")))).unwrap();
            longest.time(|| file.write_all_at(&[n as u8; 4096], 0)).unwrap();
            file
        })
        .collect();
    assert!(longest.time(|| files[7].sync_all()).is_err());
    let mut back = [0; 4096];
    files[9].sync_all().unwrap_err();
    File::open(mount.path().join("f9")).unwrap().read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, [9; 4096], "refused bytes are kept and read");
    longest.check();
    assert!(mount.peak_memory() < 128 << 20, "peak {} MiB", mount.peak_memory() >> 20);

    drop(fault);
    for (n, file) in files.iter().enumerate().step_by(500) {
        longest.time(|| file.sync_all()).unwrap();
        assert_eq!(&mount.object(&format!("f{n}"))[..], &[n as u8; 4096][..], "it arrives when COS takes it");
    }
    longest.time(|| random.sync_all()).unwrap();
    drop((files, random));
    longest.check();
    assert_eq!(fs::metadata(mount.path().join("random")).unwrap().len(), 128 << 20);
}
