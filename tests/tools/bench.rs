//! `scripts/bench`, as far as it goes in seconds and in debug builds: it counts what was done, and nothing of it stays, Ctrl-C or not.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// A run with all its files, mounts and processes under `scratch`.
fn bench(scratch: &Path, words: &[&str]) -> Command {
    let mut bench = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench"));
    let binaries = Path::new(env!("CARGO_BIN_EXE_cosmount")).parent().unwrap();
    bench.args(["write", "--quick", "--contestants", "cosmount,disk"]).args(words);
    bench.env("COSMOUNT_BENCH_BINARIES", binaries).env("TMPDIR", scratch).stderr(Stdio::piped()).stdout(Stdio::piped());
    bench
}

/// Mounts below a directory, and processes that were started for it.
fn left(scratch: &Path) -> Vec<String> {
    let scratch = scratch.to_str().unwrap();
    let mut left: Vec<String> = mounts(scratch);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let wanted = format!("TMPDIR={scratch}");
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            left.push(format!("process {}", entry.file_name().display()));
        }
    }
    left
}

fn mounts(below: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(below)).map(str::to_owned).collect()
}

fn wait(what: &str, child: &mut Child, mut until: impl FnMut(&mut Child) -> bool) {
    let begun = Instant::now();
    while !until(child) {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("waited for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn bench_counts_what_was_done() {
    let scratch = tempfile::tempdir().unwrap();
    let results = scratch.path().join("results");
    let words = ["--scale", "100", "--workloads", "dd,small-16,edit", "--latencies", "0,10", "--output", results.to_str().unwrap()];
    let output = bench(scratch.path(), &words).output().unwrap();
    assert!(output.status.success(), "{}", super::text(&output));
    let found: Value = serde_json::from_slice(&fs::read(results.join("write.json")).unwrap()).unwrap();
    let rows = found["results"].as_array().unwrap();
    let row = |workload: &str, latency: u64, contestant: &str| {
        let row = rows.iter().find(|row| row["workload"] == workload && row["latency"] == latency && row["contestant"] == contestant);
        row.unwrap_or_else(|| panic!("{workload} at {latency} ms with {contestant} is missing:\n{}", super::text(&output)))
    };
    for (workload, latency) in [("dd", 0), ("dd", 10), ("small-16", 0), ("small-16", 10), ("edit", 0), ("edit", 10)] {
        assert!(row(workload, latency, "cosmount")["median_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{workload}");
    }
    assert!(row("dd", 0, "disk")["median_seconds"].is_f64());
    let size = found["workloads"]["dd"]["size"].as_u64().unwrap();
    assert_eq!(row("dd", 0, "cosmount")["sent"].as_u64(), Some(size));
    assert_eq!(row("small-16", 10, "cosmount")["requests"], serde_json::json!({ "PutObject": 20 }));
    assert!(row("small-16", 10, "cosmount")["median_seconds"].as_f64() >= Some(0.02), "two rounds of 16 at 10 ms");
    let table = fs::read_to_string(results.join("write.md")).unwrap();
    assert!(table.contains("| 20 files of 4 KiB, 16 writers |"), "{table}");
    assert!(fs::read_to_string(results.join("write.svg")).unwrap().ends_with("</svg>\n"));
    assert_eq!(left(scratch.path()), Vec::<String>::new());
}

#[test]
fn bench_leaves_nothing_when_it_is_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let mut child = bench(scratch.path(), &["--scale", "20", "--workloads", "small-1", "--latencies", "50"]).spawn().unwrap();
    wait("the mount", &mut child, |child| {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        !mounts(scratch.path().to_str().unwrap()).is_empty()
    });
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    wait("the end", &mut child, |child| child.try_wait().unwrap().is_some());
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    assert_eq!(left(scratch.path()), Vec::<String>::new());
}
