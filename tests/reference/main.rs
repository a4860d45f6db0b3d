//! The differential tester: random operations on a mount and on a local directory, compared after each.
//!
//! Results, errno, and whole trees agree, with several processes, several handles per file, mappings, removals and renames
//! while open, and remounts in between. A difference is shrunk to a short list of operations and printed with its seed.
//!
//! `COSMOUNT_REFERENCE_OPS` and `COSMOUNT_REFERENCE_SEEDS` (1,2,3) say how much is run: worlds of 20,000 operations, the first of seed 3, the next of
//! seed 103 and so on; `COSMOUNT_REFERENCE_FROM=N` leaves out the first N of each. `COSMOUNT_REFERENCE_REPLAY=FILE` runs a printed list again; `COSMOUNT_REFERENCE_DIRECTORY` names a directory that is mounted already, on a real bucket for one.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_possible_truncation, clippy::disallowed_methods)]
#![allow(missing_docs, unreachable_pub)]

#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/mod.rs"]
mod common;
mod engine;
mod faults;
mod mount;
mod ops;
mod side;
mod tree;

use engine::{DirectoryWorld, World, find, replay, run};
use mount::MountWorld;

/// The defects a mount can be started with, and how many operations may pass before each is found.
const DEFECTS: &[(&str, usize)] = &[
    ("append-lost-after-truncate", 4000),
    ("stale-dentry-after-rename", 1000),
    ("old-bytes-in-hole", 2000),
    ("last-extent-dropped-at-flush", 2000),
    ("wrong-size-after-rename-over", 2000),
    ("entry-created-during-listing-lost", 2000),
];

/// How many operations one mount sees; then comes a new one.
const WORLD: u64 = 20_000;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn seeds() -> Vec<u64> {
    let seeds = std::env::var("COSMOUNT_REFERENCE_SEEDS").unwrap_or_else(|_| "1,2,3,4".to_owned());
    seeds.split(',').map(|seed| seed.trim().parse().expect("COSMOUNT_REFERENCE_SEEDS is a list of numbers")).collect()
}

/// Prints what a run gave, and appends it to the file that `COSMOUNT_RESULT` names.
fn record(result: &str) {
    println!("{result}");
    if let Some(path) = std::env::var_os("COSMOUNT_RESULT") {
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{old}{result}\n")).unwrap();
    }
}

/// Two directories of one file system differ in nothing: what the tester reports is never its own.
#[test]
fn two_local_directories_agree() {
    for seed in [1, 2] {
        if let Err(failure) = run(&mut DirectoryWorld::local(None), seed, 1500) {
            panic!("{failure}");
        }
    }
}

/// The tester finds each kind of defect within its budget.
#[test]
fn each_imitated_defect_is_found() {
    for (defect, budget) in DEFECTS {
        let failure = find(&mut DirectoryWorld::local(Some(defect)), 7, *budget).expect(defect);
        println!("{defect}: {} operations: {}", failure.found_after, failure.what);
    }
}

/// And makes of it what a person can read.
#[test]
fn a_difference_is_shrunk_to_a_few_operations() {
    let failure = run(&mut DirectoryWorld::local(Some("wrong-size-after-rename-over")), 7, 2000).expect_err("it is found");
    assert!(failure.steps.len() <= 10, "{failure}");
    replay(&mut DirectoryWorld::local(None), &failure.to_string()).expect("without the defect nothing differs");
    replay(&mut DirectoryWorld::local(Some("wrong-size-after-rename-over")), &failure.to_string()).expect_err("the list is enough");
}

/// P23, P24.
#[test]
fn the_mount_agrees_with_a_local_directory() {
    let world = |seed| -> Box<dyn World> {
        match std::env::var_os("COSMOUNT_REFERENCE_DIRECTORY") {
            Some(directory) => Box::new(DirectoryWorld::within(directory.as_ref())),
            None => Box::new(MountWorld::new(seed, None)),
        }
    };
    if let Some(list) = std::env::var_os("COSMOUNT_REFERENCE_REPLAY") {
        let list = std::fs::read_to_string(list).unwrap();
        return replay(&mut *world(seeds()[0]), &list).unwrap_or_else(|failure| panic!("{failure}"));
    }
    let count = number("COSMOUNT_REFERENCE_OPS", 5000);
    for seed in seeds() {
        // A seed goes on with another, and every one of them can be run by itself.
        for (n, begun) in (0..count).step_by(WORLD as usize).enumerate().skip(number("COSMOUNT_REFERENCE_FROM", 0) as usize) {
            let seed = seed + 100 * n as u64;
            if let Err(failure) = run(&mut *world(seed), seed, WORLD.min(count - begun) as usize) {
                panic!("{failure}");
            }
        }
    }
}

/// P26: one request in ten meets a fault, and nothing can be seen of it but time.
#[test]
fn the_mount_agrees_with_a_local_directory_under_mixed_faults() {
    let count = usize::try_from(number("COSMOUNT_FAULT_OPS", 100)).unwrap();
    let rules = faults::script();
    assert_eq!(rules.len(), 32);
    for seed in [1, 2] {
        let mut world = MountWorld::under(seed, rules.clone());
        if let Err(failure) = run(&mut world, seed, count) {
            panic!("{failure}");
        }
        let struck = world.struck();
        let share = struck.faults as f64 / struck.requests as f64;
        record(&format!("    {} requests, {} faults of {} kinds ({:.1} %)", struck.requests, struck.faults, struck.rules, share * 100.0));
        assert!((0.08..0.13).contains(&share) || struck.requests < 1000, "{struck:?}");
        assert!(struck.rules >= 31 || count < 5000, "{struck:?}");
    }
}

/// What this tester would miss is not tested by it: a mount with each defect built in is told from a local directory.
#[test]
fn each_seeded_defect_of_the_mount_is_found() {
    for (defect, budget) in DEFECTS {
        let found = (1..=*budget as u64 / 500).find_map(|seed| find(&mut MountWorld::new(seed, Some(defect)), seed, 500));
        let failure = found.unwrap_or_else(|| panic!("{defect} was not found in {budget} operations"));
        let without = find(&mut MountWorld::new(failure.seed, None), failure.seed, failure.found_after);
        assert!(without.is_none(), "what was found is not {defect}: {}", failure.what);
        record(&format!("- {defect}: found after {} operations of seed {}", failure.found_after, failure.seed));
        println!("    {}", failure.what);
    }
}
