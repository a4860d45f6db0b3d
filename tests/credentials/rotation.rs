//! Credentials that end, are exchanged, or cannot be had for a while, under programs that read and write: no call fails.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use cosmount::emulator::Op;

use crate::common::{Mounted, wait};
use crate::issuer::{Issuer, Service, write_secret};

/// Readers and writers on a mount, until they are told to end.
struct Programs {
    ends: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Programs {
    fn start(mount: &Mounted) -> Self {
        mount.put_pattern("large", 64 << 20);
        let (ends, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for program in [read_anew, read_large, write_small, write_large] {
            let (at, ends, calls) = (mount.path(), Arc::clone(&ends), Arc::clone(&calls));
            threads.push(std::thread::spawn(move || {
                let mut round = 0;
                while !ends.load(SeqCst) {
                    program(&at, round).unwrap_or_else(|error| panic!("round {round}: {error}"));
                    calls.fetch_add(1, SeqCst);
                    round += 1;
                }
            }));
        }
        Self { ends, calls, threads }
    }

    fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    fn run(&self, time: Duration) {
        std::thread::sleep(time);
        assert!(self.threads.iter().all(|thread| !thread.is_finished()), "a program failed");
    }

    fn end(self) {
        self.ends.store(true, SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Each time a new object, which no cache has.
fn read_anew(at: &Path, round: u64) -> std::io::Result<()> {
    let path = at.join(format!("small-{}", round.saturating_sub(1)));
    match fs::read(&path) {
        Ok(_) => Ok(()),
        // Its writer is behind.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => fs::metadata(at.join("large")).map(drop),
        Err(error) => Err(error),
    }
}

fn read_large(at: &Path, round: u64) -> std::io::Result<()> {
    let file = File::open(at.join("large"))?;
    let mut block = vec![0; 128 << 10];
    file.read_exact_at(&mut block, round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (63 << 20))?;
    let mut start = [0; 16];
    (&file).read_exact(&mut start)
}

fn write_small(at: &Path, round: u64) -> std::io::Result<()> {
    fs::write(at.join(format!("small-{}", round % 50)), round.to_string())
}

fn write_large(at: &Path, round: u64) -> std::io::Result<()> {
    let mut file = File::create(at.join("uploaded"))?;
    for _ in 0..20 {
        file.write_all(&vec![round as u8; 1 << 20])?;
    }
    file.sync_all()
}

fn with_role(service: &Service, extra: &[&str]) -> crate::common::Builder {
    let builder = Mounted::builder().arg("--credentials").arg("role").arg("--endpoint").arg(format!("metadata={}", service.url()));
    extra.iter().fold(builder, |builder, arg| builder.arg(*arg))
}

/// How many requests were refused since the log was cleared.
fn refusals(issuer: &Issuer) -> usize {
    issuer.server().log().iter().filter(|entry| matches!(entry.status, 400 | 403)).count()
}

/// A line for the log of a soak.
fn note(summary: &str) {
    if let Some(path) = std::env::var_os("COSMOUNT_RESULT") {
        writeln!(File::options().create(true).append(true).open(path).unwrap(), "- {summary}").unwrap();
    }
}

/// `COSMOUNT_TOKENS=LIFE:SECONDS` for another life of tokens and another time.
#[test]
fn tokens_that_end_every_few_seconds_fail_no_call() {
    let asked = std::env::var("COSMOUNT_TOKENS").unwrap_or_else(|_| "2:8".to_owned());
    let (life, time) = asked.split_once(':').map(|(life, time)| (life.parse().unwrap(), time.parse().unwrap())).unwrap();
    let issuer = Issuer::new(life);
    let service = Service::start(&issuer);
    let mut mount = with_role(&service, &[]).on(Arc::clone(issuer.server())).start();
    issuer.server().clear_log();
    let programs = Programs::start(&mount);
    programs.run(Duration::from_secs(time));
    let calls = programs.calls();
    programs.end();
    mount.unmount();
    let issued = issuer.issued();
    let requests = issuer.server().log().len();
    let summary = format!(
        "{calls} calls and {requests} requests in {time} s with tokens of {life} s: no call failed, {} tokens, {} requests refused and made once more",
        issued.len(),
        refusals(&issuer)
    );
    note(&summary);
    assert!(issued.len() as u64 >= time / life, "{summary}");
    // One refresh an expiry: each token was used for most of its life before the next one was asked for.
    for pair in issued.windows(2) {
        let used = pair[1].at - pair[0].at;
        assert!(used >= pair[0].life.mul_f64(0.7), "{used:?} of {:?}: {summary}", pair[0].life);
    }
    // Each token signed something, and nothing was asked twice for one.
    let log = issuer.server().log();
    let unused = issued.iter().filter(|issued| !log.iter().any(|entry| entry.signer == issued.id)).count();
    assert!(unused <= 2, "{unused} tokens were never used: {summary}");
}

#[test]
fn a_rotated_file_is_picked_up_without_an_error() {
    let issuer = Issuer::new(3600);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    write_secret(&path, &issuer.lasting().json());
    let mut mount = Mounted::builder().arg("--credentials").arg(format!("file:{}", path.display())).on(Arc::clone(issuer.server())).start();
    let programs = Programs::start(&mount);
    for round in 0..6 {
        programs.run(Duration::from_millis(600));
        let new = if round % 2 == 0 { issuer.temporary() } else { issuer.lasting() };
        match round {
            // Changed in place: it is half there for a moment.
            2 => {
                let mut file = File::options().write(true).truncate(true).open(&path).unwrap();
                let (first, second) = (&new.json()[..20], &new.json()[20..]);
                file.write_all(first.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(1200));
                file.write_all(second.as_bytes()).unwrap();
            }
            // Lines instead of JSON.
            3 => write_secret(&path, &format!("COS_SECRET_ID={}\nCOS_SECRET_KEY={}\n", new.id, new.key)),
            _ => write_secret(&path, &new.json()),
        }
        // The old ones are worth nothing from this moment.
        issuer.accept_only(&new);
        issuer.server().clear_log();
        let used = || issuer.server().log().iter().any(|entry| entry.signer == new.id && entry.status == 200);
        assert!(wait(Duration::from_secs(10), used), "round {round}");
    }
    programs.end();
    mount.unmount();
}

/// `COSMOUNT_OUTAGE=LIFE` for another life of the role's credentials, which is about how long the role is away, too.
#[test]
fn a_role_that_cannot_be_had_for_a_while_is_not_missed() {
    let life = std::env::var("COSMOUNT_OUTAGE").map_or(8, |life| life.parse().unwrap());
    let issuer = Issuer::new(life);
    let service = Service::start(&issuer);
    let mut mount = with_role(&service, &[]).on(Arc::clone(issuer.server())).start();
    let programs = Programs::start(&mount);
    let first = issuer.issued()[0].clone();
    issuer.server().clear_log();
    issuer.down(true);
    // While the old ones are valid nothing is refused, and nothing waits.
    programs.run((first.at + first.life - Duration::from_millis(300)).saturating_duration_since(Instant::now()));
    assert_eq!((refusals(&issuer), issuer.issued().len()), (0, 1));
    assert!(issuer.missed() > 0, "others were asked for ahead of the end");
    let before = programs.calls();
    // Past their end calls wait, and go on when it is back.
    programs.run(Duration::from_millis(1500));
    issuer.down(false);
    let back = Instant::now();
    issuer.server().clear_log();
    let used = || issuer.server().log().iter().any(|entry| entry.op == Op::GetObject && matches!(entry.status, 200 | 206));
    assert!(wait(Duration::from_secs(20), used));
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
    note(&format!(
        "The metadata service away for {} s, from the first moment of credentials of {life} s to past their end: asked {} times in vain, \
         {before} calls while they were valid, no call failed, back at work {} ms after its return.",
        (back - first.at).as_secs(),
        issuer.missed(),
        back.elapsed().as_millis()
    ));
    programs.end();
    mount.unmount();
}

/// `COSMOUNT_HANG=1` waits until the command is killed, and longer than its last credentials live.
#[test]
fn a_command_that_hangs_holds_nobody_up() {
    let issuer = Issuer::new(4);
    let service = Service::start(&issuer);
    let dir = tempfile::tempdir().unwrap();
    let (hang, pids) = (dir.path().join("hang"), dir.path().join("pids"));
    let script = format!(
        "if [ -e {} ]; then echo $$ >> {}; sleep 1000; fi; exec python3 -c 'import urllib.request; \
         print(urllib.request.urlopen(\"{}/latest/meta-data/cam/security-credentials/reader\").read().decode())'",
        hang.display(),
        pids.display(),
        service.url()
    );
    let mut mount = Mounted::builder().arg("--credentials").arg(format!("command:{script}")).on(Arc::clone(issuer.server())).start();
    let programs = Programs::start(&mount);
    fs::write(&hang, "").unwrap();
    assert!(wait(Duration::from_secs(20), || pids.exists()), "the command is asked again");
    let last = issuer.issued().last().unwrap().clone();
    let before = programs.calls();
    programs.run((last.at + last.life).saturating_duration_since(Instant::now()));
    assert!(programs.calls() > before, "calls went on while it hung");
    fs::remove_file(&hang).unwrap();
    if std::env::var_os("COSMOUNT_HANG").is_some() {
        // It is killed after 30 s; calls that wait for it go on then.
        let known = issuer.issued().len();
        assert!(wait(Duration::from_secs(60), || issuer.issued().len() > known));
        let before = programs.calls();
        programs.run(Duration::from_secs(3));
        assert!(programs.calls() > before);
        note("A command that hung was killed after 30 s, past the end of its last credentials: no call failed.");
        programs.end();
    } else {
        // Its group is killed: to who asked it looks as if it had failed.
        let group = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL).unwrap();
        programs.run(Duration::from_secs(2));
        programs.end();
    }
    mount.unmount();
    let dead = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    assert!(fs::read_to_string(&pids).unwrap().lines().all(dead));
}
