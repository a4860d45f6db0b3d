//! Answers that are lost after the effect, through programs: no error, nothing is done twice, and nothing newer of somebody else is harmed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::Duration,
};

use cosmount::emulator::{Action, Op, Rule};
use nix::errno::Errno;

use crate::common::{Mounted, record, wait};

/// How many answers of each kind are lost.
fn rounds() -> u64 {
    std::env::var("COSMOUNT_LOST").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

fn body(n: u64, len: usize) -> Vec<u8> {
    vec![(n % 251) as u8 + 1; len]
}

/// More than two parts of a mount whose parts have 1 MiB.
const LARGE: usize = (2 << 20) + 5;

/// Every answer to `op` is lost while `work` runs, which must succeed; each such request was made once and no more.
fn with_every_answer_lost(mount: &Mounted, op: Op, rounds: u64, work: impl FnOnce()) {
    mount.server().clear_log();
    let fault = mount.fault([Rule::on(op, Action::LoseAnswer)]);
    work();
    assert_eq!(fault.struck(), rounds, "{op}");
    assert_eq!(mount.counters().of(op).requests, rounds, "{op} is not repeated");
    record(&format!("- {op}: {rounds} answers lost, each request made once, no error"));
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A removal may follow its reply, with others; who syncs the directory waits for it.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    File::open(path.parent().unwrap())?.sync_all()
}

fn write_three(directory: &Path, n: u64) -> io::Result<()> {
    fs::create_dir(directory)?;
    (0..3).try_for_each(|file| fs::write(directory.join(format!("f{file}")), body(n + file, 500)))
}

#[test]
fn lost_answers_are_settled() {
    let mount = Mounted::builder().arg("--part-size=1M").start();
    let rounds = rounds();
    let path = |kind: &str, n: u64| mount.path().join(format!("{kind}{n}"));

    with_every_answer_lost(&mount, Op::PutObject, rounds, || {
        (0..rounds).for_each(|n| fs::write(path("small", n), body(n, 1000)).unwrap());
    });
    // close(2) was silent by nature of fs::write: the objects say it.
    (0..rounds).for_each(|n| assert_eq!(mount.object(&format!("small{n}")), body(n, 1000)));

    with_every_answer_lost(&mount, Op::CompleteUpload, rounds, || {
        for n in 0..rounds {
            let mut file = File::create(path("large", n)).unwrap();
            file.write_all(&body(n, LARGE)).unwrap();
            file.sync_all().unwrap();
        }
    });
    (0..rounds).for_each(|n| assert_eq!(mount.object(&format!("large{n}")), body(n, LARGE)));

    // A part has a number, so the same copy may be made again.
    for n in 0..rounds {
        let fault = mount.fault([Rule::on(Op::CopyPart, Action::LoseAnswer).times(1)]);
        append(&path("large", n), b"the end").unwrap();
        assert_eq!(fault.struck(), 1);
        assert_eq!(mount.object(&format!("large{n}")), [&body(n, LARGE)[..], b"the end"].concat());
    }
    record(&format!("- {}: {rounds} answers lost, every object right, no error", Op::CopyPart));
    assert_eq!(mount.uploads(), 0);

    with_every_answer_lost(&mount, Op::CopyObject, rounds, || {
        (0..rounds).for_each(|n| fs::rename(path("small", n), path("moved", n)).unwrap());
    });
    with_every_answer_lost(&mount, Op::DeleteObject, rounds, || {
        (0..rounds).for_each(|n| remove(&path("large", n)).unwrap());
    });
    (0..rounds).for_each(|n| write_three(&path("from", n), n).unwrap());
    with_every_answer_lost(&mount, Op::DeleteMany, rounds, || {
        (0..rounds).for_each(|n| fs::rename(path("from", n), path("to", n)).unwrap());
    });

    let mut expected: Vec<String> = (0..rounds).map(|n| format!("moved{n}")).collect();
    expected.extend((0..rounds).flat_map(|n| ["", "f0", "f1", "f2"].map(|file| format!("to{n}/{file}"))));
    expected.sort();
    assert_eq!(mount.keys(""), expected);
    for n in 0..rounds {
        assert_eq!(mount.object(&format!("moved{n}")), body(n, 1000));
        (0..3).for_each(|file| assert_eq!(mount.object(&format!("to{n}/f{file}")), body(n + file, 500)));
    }
}

/// What a program does that comes to one kind of request, and whose key somebody else writes meanwhile.
struct Hand {
    op: Op,
    theirs: &'static str,
    prepare: fn(&Path, u64) -> io::Result<()>,
    work: fn(&Path, u64) -> io::Result<()>,
    /// What the program is to hear, where its bytes have no place now.
    errno: Option<Errno>,
}

const HANDS: [Hand; 6] = [
    Hand {
        op: Op::PutObject,
        theirs: "put",
        prepare: |path, n| fs::write(path.join("put"), body(n, 100)),
        work: |path, n| {
            let file = File::options().write(true).open(path.join("put"))?;
            file.write_all_at(&body(n + 1, 50), 10)?;
            file.sync_all()
        },
        errno: Some(Errno::ESTALE),
    },
    Hand {
        op: Op::CompleteUpload,
        theirs: "complete",
        prepare: |path, n| fs::write(path.join("complete"), body(n, 100)),
        work: |path, n| {
            let mut file = File::create(path.join("complete"))?;
            file.write_all(&body(n + 1, LARGE))?;
            file.sync_all()
        },
        errno: Some(Errno::ESTALE),
    },
    Hand {
        op: Op::CopyPart,
        theirs: "part",
        prepare: |path, n| fs::write(path.join("part"), body(n, LARGE)),
        work: |path, _| append(&path.join("part"), b"the end"),
        errno: Some(Errno::ESTALE),
    },
    Hand {
        op: Op::CopyObject,
        theirs: "to",
        prepare: |path, n| fs::write(path.join("from"), body(n, 100)),
        work: |path, _| fs::rename(path.join("from"), path.join("to")),
        errno: Some(Errno::EBUSY),
    },
    Hand {
        op: Op::DeleteObject,
        theirs: "gone",
        prepare: |path, n| fs::write(path.join("gone"), body(n, 100)),
        work: |path, _| remove(&path.join("gone")),
        errno: None,
    },
    Hand {
        op: Op::DeleteMany,
        theirs: "from/f1",
        prepare: |path, n| write_three(&path.join("from"), n),
        work: |path, _| fs::rename(path.join("from"), path.join("to")),
        errno: None,
    },
];

#[test]
fn what_somebody_else_writes_while_an_answer_is_lost_stays() {
    let mount = Mounted::builder().arg("--part-size=1M").start();
    for Hand { op, theirs, prepare, work, errno } in HANDS {
        for n in 0..rounds() {
            // The request, or only its answer, is lost after somebody else has written.
            for (answer, loss) in [(true, Action::LoseAnswer), (false, Action::ResetBefore)] {
                let name = format!("{op}-{n}-{answer}");
                let path = mount.path().join(&name);
                fs::create_dir(&path).unwrap();
                prepare(&path, n).unwrap();
                let hold = mount.fault([Rule::on(op, Action::Hold { answer }).times(1)]);
                let loss = mount.fault([Rule::on(op, loss).times(1)]);
                let newer = format!("somebody else's {n}");
                let key = format!("{name}/{theirs}");
                let worked = thread::scope(|scope| {
                    let working = scope.spawn(|| work(&path, n));
                    assert!(wait(Duration::from_secs(20), || mount.server().faults().held() > 0), "{name}: no such request");
                    mount.put(&key, newer.as_bytes(), &[]);
                    drop(hold);
                    working.join().unwrap()
                });
                assert_eq!(loss.struck(), 1);
                assert_eq!(mount.object(&key), newer, "{name}: {worked:?}");
                assert_eq!(worked.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw), errno, "{name}");
                match op {
                    Op::CopyObject => assert_eq!(mount.object(&format!("{name}/from")), body(n, 100), "not moved, not lost"),
                    Op::DeleteMany => assert_eq!(mount.keys(&format!("{name}/to/")).len(), 4, "all moved"),
                    _ => {}
                }
            }
        }
        record(&format!("- {op}: {} times lost before and after it was done while somebody else wrote: theirs stayed", rounds()));
    }
}
