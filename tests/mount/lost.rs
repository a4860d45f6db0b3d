//! Answers that are lost after the effect, through programs: no error, and nothing is done twice.

use std::{
    fs::{self, File},
    io::Write,
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::{Mounted, record};

fn rounds() -> u64 {
    std::env::var("COSMOUNT_LOST").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

/// Every answer to `op` is lost while `work` runs, which must succeed; each such request was made once and no more.
fn with_every_answer_lost(mount: &Mounted, op: Op, rounds: u64, work: impl FnOnce()) {
    mount.server().clear_log();
    let fault = mount.fault([Rule::on(op, Action::LoseAnswer)]);
    work();
    assert_eq!(fault.struck(), rounds, "{op}");
    assert_eq!(mount.counters().of(op).requests, rounds, "{op} is not repeated");
    record(&format!("- {op}: {rounds} answers lost, each request made once, no error"));
}

#[test]
fn lost_answers_are_settled() {
    let mount = Mounted::builder().arg("--part-size=1M").start();
    let rounds = rounds();
    let path = |kind: &str, n: u64| mount.path().join(format!("{kind}{n}"));
    let body = |n: u64, len: usize| vec![(n % 251) as u8 + 1; len];

    with_every_answer_lost(&mount, Op::PutObject, rounds, || {
        (0..rounds).for_each(|n| fs::write(path("small", n), body(n, 1000)).unwrap());
    });
    // close(2) was silent by nature of fs::write: the objects say it.
    (0..rounds).for_each(|n| assert_eq!(mount.object(&format!("small{n}")), body(n, 1000)));

    with_every_answer_lost(&mount, Op::CompleteUpload, rounds, || {
        for n in 0..rounds {
            let mut file = File::create(path("large", n)).unwrap();
            file.write_all(&body(n, (2 << 20) + 5)).unwrap();
            file.sync_all().unwrap();
        }
    });
    (0..rounds).for_each(|n| assert_eq!(mount.object(&format!("large{n}")), body(n, (2 << 20) + 5)));
    assert_eq!(mount.uploads(), 0);

    with_every_answer_lost(&mount, Op::CopyObject, rounds, || {
        (0..rounds).for_each(|n| fs::rename(path("small", n), path("moved", n)).unwrap());
    });
    with_every_answer_lost(&mount, Op::DeleteObject, rounds, || {
        (0..rounds).for_each(|n| fs::remove_file(path("large", n)).unwrap());
    });
    let mut expected: Vec<String> = (0..rounds).map(|n| format!("moved{n}")).collect();
    expected.sort();
    assert_eq!(mount.keys(""), expected);
    (0..rounds).for_each(|n| assert_eq!(mount.object(&format!("moved{n}")), body(n, 1000)));
}
