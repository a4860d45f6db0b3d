//! Second requests for what is late: what they gain and what they cost, with and without them in one run.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use cosmount::emulator::{Action, Config, Op, Rule};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::common::{BUCKET, Mounted, record};

const SECTOR: u64 = 16 << 10;
const SIZE: u64 = 1 << 30;
const READERS: u64 = 8;

/// What a run gave.
struct Ran {
    /// The time that one read in a thousand exceeds.
    tail: Duration,
    requests: u64,
}

/// Reads `reads` sectors, each once and none in order, while one answer in a hundred comes two seconds late.
fn run(hedging: bool, reads: u64) -> Ran {
    let config = Config { latency: Duration::from_millis(5), ..Config::with_bucket(BUCKET) };
    let mut how = Mounted::builder().emulator(config).arg("--metadata-ttl=1h").arg("--consistency=ttl");
    if !hedging {
        how = how.env("COSMOUNT_TEST_DEFECT", "no-hedging");
    }
    let mount = how.start();
    mount.put_pattern("large", SIZE);
    let file = File::open(mount.path().join("large")).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).unwrap();
    let read = |number: u64| {
        let at = number.wrapping_mul(2_654_435_761) % (SIZE / SECTOR) * SECTOR;
        let mut buffer = [0; 4096];
        let start = Instant::now();
        file.read_exact_at(&mut buffer, at).unwrap();
        let took = start.elapsed();
        assert_eq!(buffer[17], mount.pattern_at(at + 17));
        took
    };
    let in_parallel = |numbers: std::ops::Range<u64>| -> Vec<Duration> {
        let share = |reader: u64| numbers.clone().filter(move |number| number % READERS == reader).map(read).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|reader| scope.spawn(move || share(reader))).collect();
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
        })
    };
    // What late is must be known first, and the allowance saved up.
    in_parallel(0..600);
    mount.server().clear_log();
    let _slow = mount.fault([Rule::on(Op::GetObject, Action::Delay { delay: Duration::from_secs(2) }).chance(0.01)]);
    let mut times = in_parallel(600..600 + reads);
    times.sort_unstable();
    Ran { tail: times[times.len() - 1 - times.len() / 1000], requests: mount.counters().of(Op::GetObject).requests }
}

#[test]
fn late_reads_are_asked_for_twice() {
    let reads = std::env::var("COSMOUNT_HEDGE_READS").ok().and_then(|reads| reads.parse().ok()).unwrap_or(1500);
    let (without, with) = (run(false, reads), run(true, reads));
    let more = with.requests as f64 / without.requests as f64 - 1.0;
    let line = format!(
        "- {reads} reads of 4 KiB, one answer in a hundred 2 s late: p99.9 {:?} without second requests, {:?} with; {:.2} % more requests",
        without.tail,
        with.tail,
        more * 100.0
    );
    println!("{line}");
    record(&line);
    assert_eq!(without.requests, reads, "each read is one request");
    assert!(with.requests > reads, "some were asked for twice");
    assert!(without.tail >= Duration::from_secs(2));
    assert!(with.tail * 2 <= without.tail, "{line}");
    assert!(more <= 0.02, "{line}");
}
