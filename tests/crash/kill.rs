//! Programs that write, edit, copy, rename and remove, and a mount that is killed under them: at random instants, and inside every kind of request,
//! before and after COS did it. This host then loses its staging, too. Nothing that close(2), fsync(2) or rename(2) confirmed is missing or
//! different, and every object is an old or a new version, whole (P1, P2, P8).
//!
//! A program tells [`Truth`] what the bucket *may* hold before it does something, and what it *does* hold once that is confirmed. A name that was
//! removed may come back: unlink(2) confirms no bytes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use bytes::Bytes;
use cosmount::emulator::{Action, Op, Rule};

use crate::common::{Mounted, record, wait};

const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// The kinds of requests that change something.
const KINDS: [Op; 8] =
    [Op::PutObject, Op::InitiateUpload, Op::UploadPart, Op::CompleteUpload, Op::CopyPart, Op::CopyObject, Op::DeleteObject, Op::DeleteMany];

/// When the mount is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// When so many requests have come.
    After(u64),
    /// While a request is with COS that is not done, or is done and not answered; so many of its kind are let pass before.
    Inside { op: Op, done: bool, skip: u64 },
}

/// What each name in the bucket may be: all that is possible at this moment, `None` for no object.
#[derive(Debug, Default)]
struct Truth {
    names: BTreeMap<String, Vec<Option<Bytes>>>,
    /// Bytes that one of two names must have.
    moving: Vec<(Bytes, [String; 2])>,
}

impl Truth {
    fn may_be(&mut self, name: &str, state: Option<Bytes>) {
        self.names.entry(name.to_owned()).or_insert_with(|| vec![None]).push(state);
    }

    fn is(&mut self, name: &str, body: &Bytes) {
        self.names.insert(name.to_owned(), vec![Some(body.clone())]);
    }

    /// What a name has; only asked when nothing is under way there.
    fn now(&self, name: &str) -> Option<Bytes> {
        self.names.get(name)?.last()?.clone()
    }

    /// Compares with the bucket; what is found is then the truth.
    fn check(&mut self, mount: &Mounted, when: &str) {
        for (body, names) in self.moving.drain(..) {
            let kept = names.iter().any(|name| mount.try_object(name).is_some_and(|found| found == body));
            assert!(kept, "{when}: what was renamed has neither name: {names:?}");
        }
        for (name, states) in &mut self.names {
            let found = mount.try_object(name);
            let lengths = |states: &[Option<Bytes>]| states.iter().map(|state| state.as_ref().map(Bytes::len)).collect::<Vec<_>>();
            assert!(states.contains(&found), "{when}: {name} has {:?} bytes, not as one of {:?}", lengths(&[found]), lengths(states));
            *states = vec![found];
        }
        self.names.retain(|_, states| states[0].is_some());
        let unknown: Vec<String> = mount.keys("").into_iter().filter(|key| !key.ends_with('/') && !self.names.contains_key(key)).collect();
        assert!(unknown.is_empty(), "{when}: nobody wrote {unknown:?}");
    }
}

/// Where programs work, and what is known of it.
#[derive(Debug)]
struct Scene {
    root: PathBuf,
    truth: Mutex<Truth>,
    /// Makes every body and every directory another.
    serial: AtomicU64,
    killed: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Confirm {
    Close,
    Fsync,
}

impl Scene {
    fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::SeqCst)
    }

    /// Bytes that nobody else writes, of about this length.
    fn body(&self, len: usize) -> Bytes {
        let serial = self.serial();
        let len = len as u64 + serial * 7919 % (len as u64 / 2 + 1);
        let mut body = serial.to_le_bytes().to_vec();
        body.extend((0..len).map(|n| (n.wrapping_mul(serial | 1) >> 3) as u8));
        body.into()
    }

    fn may_be(&self, name: &str, state: Option<Bytes>) {
        self.truth.lock().unwrap().may_be(name, state);
    }

    fn is(&self, name: &str, body: &Bytes) {
        self.truth.lock().unwrap().is(name, body);
    }

    fn now(&self, name: &str) -> Option<Bytes> {
        self.truth.lock().unwrap().now(name)
    }

    fn write(&self, name: &str, body: &Bytes, confirm: Confirm) -> io::Result<()> {
        self.may_be(name, Some(body.clone()));
        let mut file = File::create(self.root.join(name))?;
        body.chunks(100_000).try_for_each(|piece| file.write_all(piece))?;
        self.confirm(name, body, file, confirm)
    }

    fn confirm(&self, name: &str, body: &Bytes, file: File, confirm: Confirm) -> io::Result<()> {
        match confirm {
            Confirm::Fsync => file.sync_all()?,
            Confirm::Close => nix::unistd::close(file)?,
        }
        self.is(name, body);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let body = self.now(from).unwrap();
        let names = [from.to_owned(), to.to_owned()];
        self.may_be(from, None);
        self.may_be(to, Some(body.clone()));
        self.truth.lock().unwrap().moving.push((body.clone(), names));
        fs::rename(self.root.join(from), self.root.join(to))?;
        self.moved(from, to, &body);
        Ok(())
    }

    fn moved(&self, from: &str, to: &str, body: &Bytes) {
        self.is(to, body);
        self.truth.lock().unwrap().names.insert(from.to_owned(), vec![Some(body.clone()), None]);
        self.truth.lock().unwrap().moving.retain(|(_, names)| names[0] != from);
    }
}

/// What a program does over and over.
type Turn = fn(&Scene) -> io::Result<()>;

const PROGRAMS: [(&str, Turn); 9] = [
    ("small, closed", |scene| scene.write("small", &scene.body(3000), Confirm::Close)),
    ("small, synced", |scene| scene.write("small-synced", &scene.body(20_000), Confirm::Fsync)),
    ("large, closed", |scene| scene.write("large", &scene.body(3 * MIB), Confirm::Close)),
    ("large, synced", |scene| scene.write("large-synced", &scene.body(2 * MIB), Confirm::Fsync)),
    ("edited", |scene| edit(scene, "edited", Confirm::Close)),
    ("edited, synced", |scene| edit(scene, "edited-synced", Confirm::Fsync)),
    ("renamed", rename_file),
    ("directories", rename_and_remove_directory),
    ("copied", copy),
];

/// Some bytes in the middle, and some more at the end.
fn edit(scene: &Scene, name: &str, confirm: Confirm) -> io::Result<()> {
    let Some(old) = scene.now(name).filter(|old| old.len() < 5 * MIB) else {
        return scene.write(name, &scene.body(3 * MIB), confirm);
    };
    let (middle, end) = (scene.body(4000), scene.body(10_000));
    let mut new = old.to_vec();
    new[3 * MIB / 2..][..middle.len()].copy_from_slice(&middle);
    new.extend_from_slice(&end);
    let new = Bytes::from(new);
    scene.may_be(name, Some(new.clone()));
    let file = File::options().read(true).write(true).open(scene.root.join(name))?;
    file.write_all_at(&middle, 3 * MIB as u64 / 2)?;
    file.write_all_at(&end, old.len() as u64)?;
    scene.confirm(name, &new, file, confirm)
}

/// To and fro, over what is there.
fn rename_file(scene: &Scene) -> io::Result<()> {
    scene.write("here", &scene.body(5000), Confirm::Close)?;
    scene.rename("here", "there")?;
    scene.rename("there", "elsewhere")
}

fn rename_and_remove_directory(scene: &Scene) -> io::Result<()> {
    let serial = scene.serial();
    let (from, to) = (format!("from-{serial}"), format!("to-{serial}"));
    let names: Vec<[String; 2]> = (0..5).map(|n| [format!("{from}/f{n}"), format!("{to}/f{n}")]).collect();
    fs::create_dir(scene.root.join(&from))?;
    names.iter().try_for_each(|[name, _]| scene.write(name, &scene.body(500), Confirm::Close))?;
    for [old, new] in &names {
        let body = scene.now(old).unwrap();
        let mut truth = scene.truth.lock().unwrap();
        truth.may_be(old, None);
        truth.may_be(new, Some(body.clone()));
        truth.moving.push((body, [old.clone(), new.clone()]));
    }
    fs::rename(scene.root.join(&from), scene.root.join(&to))?;
    for [old, new] in &names {
        let body = scene.now(new).unwrap();
        scene.moved(old, new, &body);
    }
    names.iter().for_each(|[_, new]| scene.may_be(new, None));
    fs::remove_dir_all(scene.root.join(&to))
}

/// By cp(1): on the server where the mount can.
fn copy(scene: &Scene) -> io::Result<()> {
    let body = scene.body(3 * MIB / 2);
    scene.write("source", &body, Confirm::Close)?;
    scene.may_be("copied", Some(body.clone()));
    let paths = ["source", "copied"].map(|name| scene.root.join(name));
    let done = Command::new("cp").args(paths).stdin(Stdio::null()).output()?;
    if !done.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    scene.is("copied", &body);
    Ok(())
}

/// Kills a mount at each of these moments, and looks what is left.
fn kill_at(moments: &[Moment]) {
    let mut mount = Mounted::builder().arg("--part-size=1M").arg("--memory-limit=64M").start();
    let confirmed: [AtomicU64; PROGRAMS.len()] = Default::default();
    let mut truth = Truth::default();
    let mut serial = 1;
    for (round, moment) in moments.iter().enumerate() {
        // By descriptor: under its path lies an ordinary directory once the mount is gone.
        let opened = File::open(mount.path()).unwrap();
        let root = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()));
        let scene = Scene { root, truth: Mutex::new(truth), serial: AtomicU64::new(serial), killed: AtomicBool::new(false) };
        let rule = match *moment {
            Moment::Inside { op, done, skip } => {
                Some(mount.server().faults().add(Rule::on(op, Action::Hold { answer: done }).skip(skip).times(1)))
            }
            Moment::After(_) => None,
        };
        mount.server().clear_log();
        thread::scope(|scope| {
            for ((name, turn), confirmed) in PROGRAMS.iter().zip(&confirmed) {
                let scene = &scene;
                scope.spawn(move || {
                    loop {
                        match turn(scene) {
                            Ok(()) => confirmed.fetch_add(1, Ordering::SeqCst),
                            Err(_) if scene.killed.load(Ordering::SeqCst) => return,
                            Err(error) => panic!("{name}: {error}, and nothing was killed"),
                        };
                    }
                });
            }
            let come = wait(SOON, || match moment {
                Moment::After(requests) => mount.server().counters().total().requests >= *requests,
                Moment::Inside { .. } => mount.server().faults().held() > 0,
            });
            scene.killed.store(true, Ordering::SeqCst);
            mount.kill();
            assert!(come, "round {round}: {moment:?} has not come: {}", mount.log());
        });
        drop(opened);
        if let Some(rule) = rule {
            mount.server().faults().remove(rule);
        }
        assert!(wait(SOON, || mount.server().serving() == 0), "what was on its way is done, or never will be");
        fs::remove_dir_all(mount.staging()).unwrap();
        serial = scene.serial.into_inner();
        truth = scene.truth.into_inner().unwrap();
        truth.check(&mount, &format!("round {round}, killed {moment:?}"));
        mount.start_again();
        truth.check(&mount, &format!("round {round}, mounted after {moment:?}"));
        for (name, states) in &truth.names {
            let read = fs::read(mount.path().join(name)).unwrap();
            assert!(states[0].as_ref().is_some_and(|body| *body == read), "round {round}: {name} is read as it is");
        }
    }
    let confirmed: Vec<String> =
        PROGRAMS.iter().zip(confirmed).map(|((name, _), count)| format!("{name} {}", count.into_inner())).collect();
    record(&format!("    turns confirmed: {}", confirmed.join(", ")));
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn killed_at_random_instants_it_loses_nothing_that_was_confirmed() {
    let (kills, seed) = (number("COSMOUNT_KILLS", 6), number("COSMOUNT_KILL_SEED", 1));
    let mut random = seed;
    let moments: Vec<Moment> = (0..kills)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Moment::After(1 + (random >> 33) % 250)
        })
        .collect();
    println!("seed {seed}: {moments:?}");
    kill_at(&moments);
    record(&format!("- {kills} kills at random instants (seed {seed}): nothing confirmed was lost, every object whole"));
}

#[test]
fn killed_inside_each_kind_of_request_it_loses_nothing_that_was_confirmed() {
    let times = number("COSMOUNT_KILLS", 0).div_ceil(20).max(1);
    let kinds = KINDS.iter().flat_map(|op| [false, true].map(|done| (*op, done)));
    let moments: Vec<Moment> = kinds.flat_map(|(op, done)| (0..times).map(move |n| Moment::Inside { op, done, skip: n })).collect();
    kill_at(&moments);
    record(&format!("- {times} kills before and {times} after COS did it, in each of {} kinds of requests: the same", KINDS.len()));
}
