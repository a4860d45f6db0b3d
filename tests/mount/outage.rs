//! Outages: a black hole, refusals, resets, throttling, bodies that trickle, a restart; each under readers and writers.
//!
//! No system call goes `--io-timeout` without progress, nothing that is cached waits at all, few requests are made, all is well again five seconds after
//! the return, and stopping ends in the middle of it. Each test takes seconds, with a short `--io-timeout`; `COSMOUNT_OUTAGE_SECONDS=60` makes
//! them what `scripts/soak outage` runs, with the default one.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Error, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cosmount::emulator::{Action, Config, Rule};
use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    sys::signal::{Signal, kill},
    sys::statvfs::statvfs,
    unistd::Pid,
};

use crate::common::{BUCKET, Mounted, wait};

/// How much longer than `--io-timeout` a call may be: this program's own margin of two seconds, and a busy machine.
const MARGIN: Duration = Duration::from_millis(2500);
/// How soon after the return everything must work.
const HEALED: Duration = Duration::from_secs(5);
/// How long something that asks nobody may take on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(900);

/// What can happen to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    BlackHole,
    Refused,
    Reset,
    Throttled,
    Trickle,
    Restart,
}

/// How long things take in this run.
struct Scale {
    timeout: Duration,
    before: Duration,
    outage: Duration,
}

impl Scale {
    fn new() -> Self {
        let seconds = std::env::var("COSMOUNT_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        match seconds {
            Some(seconds) => {
                Self { timeout: Duration::from_secs(90), before: Duration::from_secs(10), outage: Duration::from_secs(seconds) }
            }
            None => Self { timeout: Duration::from_secs(3), before: Duration::from_secs(1), outage: Duration::from_secs(7) },
        }
    }

    fn is_long(&self) -> bool {
        self.outage >= Duration::from_secs(30)
    }
}

impl Outage {
    fn begin(self, mount: &Mounted) {
        let rules = match self {
            Self::BlackHole => vec![Rule::always(Action::BlackHole)],
            Self::Reset => vec![Rule::always(Action::ResetBefore)],
            Self::Throttled => vec![Rule::always(Action::slow_down())],
            Self::Trickle => {
                [Action::SlowBody { bytes_per_second: 1024 }, Action::SlowRequest { bytes_per_second: 1024 }].map(Rule::always).into()
            }
            Self::Refused | Self::Restart => {
                mount.server().set_reachable(false);
                vec![]
            }
        };
        mount.fault(rules).keep();
    }

    fn end(self, mount: &Mounted) {
        mount.server().faults().clear();
        mount.server().set_reachable(true);
    }

    /// A restart is short, the others last.
    fn lasts(self, scale: &Scale) -> Duration {
        if self == Self::Restart { scale.outage.min(Duration::from_secs(2)) } else { scale.outage }
    }
}

/// What one worker saw.
#[derive(Debug, Default)]
struct Seen {
    longest: Duration,
    at: &'static str,
    calls: u64,
    failed: u64,
    /// When its first work after the return was done.
    healed: Option<Instant>,
}

/// What all workers share.
#[derive(Debug)]
struct Load {
    root: PathBuf,
    stop: AtomicBool,
    returned: Mutex<Option<Instant>>,
    /// Workers that have done something well since.
    healed: AtomicUsize,
    number: AtomicU64,
}

impl Load {
    fn new(root: PathBuf) -> Arc<Self> {
        let (healed, number) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Self { root, stop: AtomicBool::new(false), returned: Mutex::new(None), healed, number })
    }
}

impl Load {
    /// Repeats `work`, which makes one system call after the other through [`Worker::call`], until told to stop.
    fn start(
        self: &Arc<Self>,
        name: &'static str,
        mut work: impl FnMut(&Self, &mut Worker<'_>) -> Result<(), Error> + Send + 'static,
    ) -> Running {
        let load = Arc::clone(self);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !load.stop.load(Ordering::SeqCst) {
                let mut worker = Worker { seen: &mut seen };
                let done = work(&load, &mut worker);
                seen.calls += 1;
                match done {
                    Ok(()) if seen.healed.is_none() && load.returned.lock().unwrap().is_some() => {
                        seen.healed = Some(Instant::now());
                        load.healed.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(()) => {}
                    Err(_) => seen.failed += 1,
                }
            }
            seen
        });
        Running { name, thread }
    }

    /// A number that no other work has had.
    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::SeqCst)
    }
}

struct Running {
    name: &'static str,
    thread: JoinHandle<Seen>,
}

struct Worker<'a> {
    seen: &'a mut Seen,
}

impl Worker<'_> {
    fn call<T>(&mut self, what: &'static str, call: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = call();
        let took = start.elapsed();
        if took > self.seen.longest {
            (self.seen.longest, self.seen.at) = (took, what);
        }
        result
    }
}

const CACHED: u64 = 4 << 20;
const LARGE: u64 = 1 << 30;

/// Reads of what is cached, by a descriptor whose pages the kernel is told to forget, so that each read asks this program.
fn cached_reader(file: Arc<File>) -> impl FnMut(&Load, &mut Worker<'_>) -> Result<(), Error> {
    let mut at = 0;
    move |_, worker| {
        at = (at + (192 << 10)) % CACHED;
        posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        let mut buffer = [0; 64 << 10];
        worker.call("pread of cached bytes", || file.read_exact_at(&mut buffer, at))?;
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }
}

/// stat, readdir and df of what is known.
fn look_around(known: &Path, worker: &mut Worker<'_>) -> Result<(), Error> {
    worker.call("stat of a known name", || fs::metadata(known.join("f3")))?;
    let names = worker.call("readdir of a known directory", || fs::read_dir(known).map(Iterator::count))?;
    assert_eq!(names, 20, "a directory that is known stays whole");
    worker.call("df", || statvfs(known))?;
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}

/// Reads of what is not cached, each at a place of its own.
fn reader(load: &Load, worker: &mut Worker<'_>) -> Result<(), Error> {
    let file = worker.call("open", || File::open(load.root.join("large")))?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    for _ in 0..8 {
        let place = load.next().wrapping_mul(2_654_435_761) % (LARGE >> 14);
        let mut buffer = [0; 4096];
        worker.call("pread", || file.read_exact_at(&mut buffer, place << 14))?;
    }
    Ok(())
}

/// Writes small files.
fn writer(load: &Load, worker: &mut Worker<'_>) -> Result<(), Error> {
    let path = load.root.join(format!("out/w{}", load.next()));
    let mut file = worker.call("create", || File::create(&path))?;
    worker.call("write", || file.write_all(&[7; 20_000]))?;
    // Closing tells what fsync tells.
    let synced = worker.call("fsync", || file.sync_all());
    worker.call("close", || drop(file));
    synced
}

/// Writes files of several parts.
fn streamer(load: &Load, worker: &mut Worker<'_>) -> Result<(), Error> {
    let path = load.root.join(format!("out/s{}", load.next()));
    let mut file = worker.call("create", || File::create(&path))?;
    for _ in 0..12 {
        worker.call("write", || file.write_all(&[9; 512 << 10]))?;
    }
    let synced = worker.call("fsync", || file.sync_all());
    worker.call("close", || drop(file));
    synced
}

/// A mount with something to look at: `cached` and `known/` are known, `large` and the rest are not.
fn mount(scale: &Scale, more: &[&str]) -> Mounted {
    let config = Config { latency: Duration::from_millis(2), ..Config::with_bucket(BUCKET) };
    let mut how = Mounted::builder().emulator(config).arg("--metadata-ttl=1h").arg("--part-size=1M");
    if !scale.is_long() {
        how = how.arg(format!("--io-timeout={}s", scale.timeout.as_secs()));
    }
    let mount = more.iter().fold(how, |how, arg| how.arg(*arg)).start();
    mount.put_pattern("large", LARGE);
    mount.put_pattern("cached", CACHED);
    for n in 0..20 {
        mount.put(&format!("known/f{n}"), b"known", &[]);
    }
    mount.put("out/first", b"", &[]);
    mount
}

/// No thread of ours or of the mount is left where no signal reaches it. (For a moment anybody may be there.)
fn nobody_is_stuck(mount: &Mounted) {
    let uninterruptible = || -> BTreeSet<PathBuf> {
        let of = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| task.path());
        let state = |task: &PathBuf| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
        };
        of(mount.pid()).chain(of(std::process::id())).filter(state).collect()
    };
    let mut stuck = uninterruptible();
    let nobody = wait(Duration::from_secs(3), || {
        stuck = &stuck & &uninterruptible();
        stuck.is_empty()
    });
    assert!(nobody, "uninterruptible: {stuck:?}");
}

fn survives(outage: Outage) {
    let scale = Scale::new();
    let mount = mount(&scale, &[]);
    let known = mount.path().join("known");
    let cached = Arc::new(File::open(mount.path().join("cached")).unwrap());
    std::io::copy(&mut cached.try_clone().unwrap(), &mut std::io::sink()).unwrap();
    fs::read_dir(&known).unwrap().for_each(|entry| assert!(fs::metadata(entry.unwrap().path()).is_ok()));
    fs::metadata(mount.path().join("out")).unwrap();

    let load = Load::new(mount.path());
    let mut workers = vec![load.start("cached", cached_reader(cached)), load.start("known", move |_, worker| look_around(&known, worker))];
    workers.extend((0..3).map(|_| load.start("reader", reader)));
    workers.extend((0..2).map(|_| load.start("writer", writer)));
    workers.push(load.start("streamer", streamer));

    std::thread::sleep(scale.before / 2);
    let before = mount.counters().total().requests;
    std::thread::sleep(scale.before);
    let normal = (mount.counters().total().requests - before) as f64 / scale.before.as_secs_f64();

    outage.begin(&mount);
    let lasts = outage.lasts(&scale);
    // What was in flight when it began is not the storm.
    std::thread::sleep(lasts / 5);
    let before = mount.counters().total().requests;
    std::thread::sleep(lasts / 5 * 4);
    let during = (mount.counters().total().requests - before) as f64 / (lasts / 5 * 4).as_secs_f64();
    outage.end(&mount);
    let returned = Instant::now();
    *load.returned.lock().unwrap() = Some(returned);
    wait(HEALED, || load.healed.load(Ordering::SeqCst) == workers.len());
    load.stop.store(true, Ordering::SeqCst);
    nobody_is_stuck(&mount);

    let (mut slowest, mut slowest_healed) = (Duration::ZERO, Duration::ZERO);
    for Running { name, thread } in workers {
        let seen = thread.join().unwrap();
        println!("{outage:?} {name}: {seen:?}");
        match name {
            "cached" | "known" => {
                assert_eq!(seen.failed, 0, "{name} {seen:?}");
                assert!(seen.longest < AT_ONCE, "{name} paused: {seen:?}");
                assert!(seen.calls > 100, "{seen:?}");
            }
            _ => assert!(seen.longest < scale.timeout + MARGIN, "{name}: {seen:?}"),
        }
        assert!(seen.failed == 0 || lasts > scale.timeout, "what is shorter than the deadline is ridden out: {name} {seen:?}");
        let healed = seen.healed.map(|at| at.duration_since(returned));
        assert!(healed.is_some_and(|healed| healed <= HEALED), "{name} is not well {healed:?} after the return");
        (slowest, slowest_healed) = (slowest.max(seen.longest), slowest_healed.max(healed.unwrap_or_default()));
    }
    println!("{outage:?}: {normal:.0} requests a second before, {during:.1} during the outage; longest call {slowest:?}");
    if outage != Outage::Restart {
        assert!(during <= normal / 10.0, "{during} of {normal} requests a second");
    }
    crate::common::record(&format!(
        "- {outage:?} for {} s: {normal:.0} requests/s before, {during:.1} during; longest call {:.1} s; all well {:.1} s after the return",
        lasts.as_secs(),
        slowest.as_secs_f64(),
        slowest_healed.as_secs_f64()
    ));
    let mut mount = mount;
    mount.unmount();
}

/// Stopped in the middle, with something to send and programs that wait.
fn can_be_stopped(outage: Outage) {
    let scale = Scale::new();
    let mut mount = mount(&Scale { timeout: Duration::from_secs(20), ..scale }, &["--drain-timeout=2s"]);
    let mut dirty = File::create(mount.path().join("out/unsent file")).unwrap();
    dirty.write_all(&[1; 30_000]).unwrap();
    let large = File::open(mount.path().join("large")).unwrap();
    outage.begin(&mount);
    if outage == Outage::Trickle {
        // What trickles moves a little: nothing at all would be an easier case.
        dirty.write_all(&vec![1; 8 << 20]).unwrap();
    }
    let waiting = {
        let root = mount.path();
        [
            std::thread::spawn(move || large.read_exact_at(&mut [0; 4096], LARGE / 2).is_err()),
            std::thread::spawn(move || File::open(root.join("out/first")).and_then(|mut file| file.read(&mut [0; 1])).is_err()),
        ]
    };
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let status = mount.terminate();
    let took = start.elapsed();
    println!("{outage:?}: stopped after {took:?} with {status}");
    assert!(took < Duration::from_secs(2) + 2 * MARGIN, "{outage:?}: {took:?}: {}", mount.log());
    if outage != Outage::Trickle {
        assert_eq!(status.code(), Some(2), "{}", mount.log());
        let log = mount.log();
        assert!(log.contains("not in COS: out/unsent file (30000 bytes)") && log.contains("changes of 1 files"), "{log}");
    }
    for thread in waiting {
        thread.join().unwrap();
    }
    drop(dirty);
    outage.end(&mount);
}

macro_rules! each_outage {
    ($($name:ident => $outage:ident),* $(,)?) => {
        mod is_survived {
            $(#[test] fn $name() { super::survives(super::Outage::$outage); })*
        }
        mod does_not_keep_a_mount_from_stopping {
            $(#[test] fn $name() { super::can_be_stopped(super::Outage::$outage); })*
        }
    };
}

each_outage! {
    a_black_hole => BlackHole,
    refusal => Refused,
    reset => Reset,
    throttling => Throttled,
    a_trickle => Trickle,
    a_restart => Restart,
}

#[test]
fn a_second_signal_ends_the_draining() {
    let mut mount = mount(&Scale { timeout: Duration::from_secs(60), ..Scale::new() }, &["--drain-timeout=10m"]);
    let mut dirty = File::create(mount.path().join("unsent")).unwrap();
    dirty.write_all(&[1; 1000]).unwrap();
    Outage::BlackHole.begin(&mount);
    let pid = Pid::from_raw(mount.pid().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(wait(Duration::from_secs(5), || mount.log().contains("stopping")));
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let status = mount.terminate();
    assert!(start.elapsed() < MARGIN, "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(2), "{}", mount.log());
    assert!(mount.log().contains("not in COS: unsent (1000 bytes)"), "{}", mount.log());
}

#[test]
fn an_umount_that_is_repeated_hurries_nothing() {
    let mut mount = mount(&Scale { timeout: Duration::from_secs(60), ..Scale::new() }, &["--drain-timeout=10m"]);
    let mut dirty = File::create(mount.path().join("unsent")).unwrap();
    dirty.write_all(&[1; 1000]).unwrap();
    Outage::Refused.begin(&mount);
    let umount = |root: &Path| Command::new(env!("CARGO_BIN_EXE_cosmount")).arg("umount").arg(root).spawn().unwrap();
    let mut first = umount(&mount.path());
    assert!(wait(Duration::from_secs(5), || mount.log().contains("stopping")));
    std::thread::sleep(Duration::from_millis(500));
    first.kill().unwrap();
    first.wait().unwrap();
    let mut second = umount(&mount.path());
    std::thread::sleep(Duration::from_secs(1));
    assert!(second.try_wait().unwrap().is_none(), "it gave up what was not sent: {}", mount.log());
    Outage::Refused.end(&mount);
    assert!(second.wait().unwrap().success(), "{}", mount.log());
    assert_eq!(mount.ended().code(), Some(0), "{}", mount.log());
}

#[test]
fn umount_says_what_it_waits_for_and_what_is_left() {
    let mut mount = mount(&Scale { timeout: Duration::from_secs(60), ..Scale::new() }, &["--drain-timeout=7s"]);
    let mut dirty = File::create(mount.path().join("out/unsent")).unwrap();
    dirty.write_all(&[1; 1000]).unwrap();
    Outage::Refused.begin(&mount);
    let done = Command::new(env!("CARGO_BIN_EXE_cosmount")).arg("umount").arg(mount.path()).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success(), "{said}");
    for part in [
        "1000 bytes in 1 files to send",
        ", nothing has moved for 5 s of 7 s",
        "of 1 files (1000 bytes) are not in COS",
        "out/unsent (1000 bytes)",
    ] {
        assert!(said.contains(part), "{part:?} is missing in {said:?}");
    }
    assert_eq!(mount.ended().code(), Some(2), "{}", mount.log());
}
