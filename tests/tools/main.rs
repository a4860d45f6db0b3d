//! Programs that measure and test, on a real mount: fsx and pjdfstest, which others wrote, and `scripts/bench`.
//!
//! `scripts/check` and `scripts/soak` install them in `target/tools`; without them these tests fail and say so. What a run gave is printed, and
//! appended to the file that `COSMOUNT_RESULT` names.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_possible_truncation, clippy::disallowed_methods)]
#![allow(missing_docs, unreachable_pub)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use common::Mounted;

mod bench;
#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../common/mod.rs"]
mod common;

/// A file beside this one.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools").join(name)
}

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    assert!(path.exists(), "{} is missing: scripts/check installs fsx, scripts/soak pjdfstest", path.display());
    path
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn record(result: &str) {
    println!("{result}");
    if let Some(path) = std::env::var_os("COSMOUNT_RESULT") {
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{old}{result}\n")).unwrap();
    }
}

/// One file written, mapped, truncated, copied within and read back at random, compared at every read.
#[test]
fn fsx_reads_what_it_wrote() {
    let operations = setting("COSMOUNT_FSX_OPS", "5000");
    let mount = Mounted::builder().arg("--part-size=1M").arg("--memory-limit=32M").start();
    let artifacts = tempfile::tempdir().unwrap();
    for seed in setting("COSMOUNT_FSX_SEEDS", "1,2,3,4").split(',') {
        let started = Instant::now();
        let mut fsx = Command::new(tool("fsx"));
        fsx.arg("-f").arg(beside("fsx.toml")).args(["-N", &operations, "-S", seed, "-q", "-P"]).arg(artifacts.path());
        let output = fsx.arg(mount.path().join(format!("fsx-{seed}"))).output().unwrap();
        assert!(output.status.success(), "fsx with seed {seed} of {operations} operations:\n{}", text(&output));
        record(&format!("- seed {seed}: {operations} operations in {:.0} s, every byte as expected", started.elapsed().as_secs_f64()));
    }
}

/// What cannot pass, and why; `docs/posix.md` says more. A name that ends in `::` stands for all kinds of files.
const KNOWN: [(&str, &[&str]); 3] = [
    (
        "no hard links",
        &[
            "link::changed_ctime_success::",
            "link::remove_link::",
            "link::share_metadata::",
            "rename::preserve_metadata::",
            "rename::to_multiply_linked::",
            "unlink::unchanged_ctime_failed::",
            "unlink::update_ctime_success::",
        ],
    ),
    ("link count of a directory", &["rename::updates_link_parent"]),
    (
        "a key has 850 bytes, a path of PATH_MAX 4,095",
        &[
            "chmod::enametoolong_path",
            "chown::enametoolong_path",
            "chown::lchown::enametoolong_path",
            "link::enametoolong_path",
            "mkdir::enametoolong_path",
            "mkfifo::enametoolong_path",
            "mknod::enametoolong_path",
            "mknod::privileged::enametoolong_path",
            "open::enametoolong_path",
            "rename::enametoolong_path",
            "rmdir::enametoolong_path",
            "symlink::enametoolong_path",
            "truncate::enametoolong_path",
            "unlink::enametoolong_path",
        ],
    ),
];

#[test]
#[ignore = "scripts/soak pjdfstest runs it: it takes a minute, and root"]
fn pjdfstest_by_group() {
    let mount = Mounted::builder().arg("--allow-other").start();
    // Its other users must come as far as the mount.
    fs::set_permissions(mount.path().parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut pjdfstest = Command::new("timeout");
    pjdfstest.arg("3600").arg(tool("pjdfstest")).arg("-c").arg(beside("pjdfstest.toml")).arg("-p").arg(mount.path());
    let output = pjdfstest.arg("-s").arg(elsewhere.path()).env("NO_COLOR", "1").output().unwrap();
    let output = text(&output);
    assert!(output.contains("\nSummary: "), "pjdfstest did not come to its end:\n{output}");
    let groups = groups(&output);
    assert!(groups.values().map(Group::total).sum::<usize>() > 300, "the output was not understood:\n{output}");
    record(&table(&groups));
    let new: Vec<String> = groups
        .iter()
        .flat_map(|(name, group)| group.failed.iter().map(move |case| format!("{name}::{case}")))
        .filter(|name| reason(name).is_none())
        .collect();
    assert!(new.is_empty(), "not among the known failures: {new:?}\n{output}");
}

/// Why this cannot pass, if that is known.
fn reason(failed: &str) -> Option<&'static str> {
    let is_one = |known: &&str| failed == *known || known.ends_with("::") && failed.starts_with(*known);
    KNOWN.iter().find(|(_, cases)| cases.iter().any(is_one)).map(|(why, _)| *why)
}

#[derive(Debug, Default)]
struct Group {
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Group {
    fn total(&self) -> usize {
        self.passed + self.skipped + self.failed.len()
    }
}

/// Reads `chmod::enoent   ok` and the like.
fn groups(output: &str) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::<String, Group>::new();
    for line in output.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict), None) = (words.next(), words.next(), words.next()) else { continue };
        let Some((group, case)) = name.split_once("::").filter(|_| !line.starts_with(char::is_whitespace)) else { continue };
        let group = groups.entry(group.to_owned()).or_default();
        match verdict {
            "ok" => group.passed += 1,
            "skipped" => group.skipped += 1,
            "FAILED" => group.failed.push(case.to_owned()),
            _ => {}
        }
    }
    groups
}

fn table(groups: &BTreeMap<String, Group>) -> String {
    let mut table = "| group | passed | failed | skipped | why they failed |\n|---|---|---|---|---|\n".to_owned();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, group) in groups {
        passed += group.passed;
        failed += group.failed.len();
        skipped += group.skipped;
        let mut reasons = BTreeMap::<String, usize>::new();
        for case in &group.failed {
            let why = reason(&format!("{name}::{case}")).map_or_else(|| format!("**{case}**"), str::to_owned);
            *reasons.entry(why).or_default() += 1;
        }
        let reasons: Vec<String> = reasons.into_iter().map(|(why, count)| format!("{count}: {why}")).collect();
        writeln!(table, "| {name} | {} | {} | {} | {} |", group.passed, group.failed.len(), group.skipped, reasons.join("; ")).unwrap();
    }
    write!(table, "| **all** | {passed} | {failed} | {skipped} | |").unwrap();
    table
}

#[test]
fn verdicts_are_counted_by_group() {
    let output = "chmod::enoent      ok\nchmod::eperm::dir      FAILED\n\tassertion failed: a == b\nlink::erofs    skipped\n\trequires x::y\nlink::remove_link::fifo  FAILED\n";
    let groups = groups(output);
    let lines = ["| chmod | 1 | 1 | 0 | 1: **eperm::dir** |", "| link | 0 | 1 | 1 | 1: no hard links |", "| **all** | 1 | 2 | 1 | |"];
    let table = table(&groups);
    assert!(lines.iter().all(|line| table.contains(line)), "{table}");
}
