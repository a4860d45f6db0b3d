//! Logs of a running mount: one line for each failure, levels and files that change while it runs, the access log.

use std::{fs, path::Path};

use cosmount::emulator::{Action, Op, Rule};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::{BUCKET, Stage, eventually};

/// As a JSON object each.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn failures(path: &Path) -> Vec<Value> {
    lines(path).into_iter().filter(|line| line["level"] == "warn" || line["level"] == "error").collect()
}

#[test]
fn a_failed_operation_is_one_line_with_all_that_support_asks() {
    let stage = Stage::new();
    let name = "line\nERROR \u{9b}31m\u{202e}key";
    let key = format!("dir/{name}");
    let key = key.as_str();
    stage.server.put(BUCKET, key, "bytes", &[]).unwrap();
    stage.mount_and_pid(&["--log-format", "json", "--log-level", "info"]);
    let rule = stage.server.faults().add(Rule::on(Op::GetObject, Action::status(403, "AccessDenied")));
    let read = fs::read(stage.at().join(key));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(13));
    stage.server.faults().remove(rule);
    let text = stage.log();
    assert!(!text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    let failures = failures(&stage.dir.path().join("log"));
    assert_eq!(failures.len(), 1, "said once: {failures:?}");
    let line = &failures[0];
    let request = stage.server.log().into_iter().find(|entry| entry.op == Op::GetObject).unwrap().request_id;
    for (field, expected) in [
        ("operation", "read".into()),
        ("key", format!("cos://{BUCKET}/{key}").into()),
        ("errno", "EACCES".into()),
        ("code", "AccessDenied".into()),
        ("status", 403.into()),
        ("request", Value::from(request)),
        ("tries", 1.into()),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    // What programs ask every day is no failure.
    assert!(fs::read(stage.at().join("absent")).is_err() && fs::create_dir(stage.at().join("dir")).is_err());
    assert!(fs::remove_dir(stage.at().join("dir")).is_err());
    assert_eq!(self::failures(&stage.dir.path().join("log")).len(), 1);
    assert!(stage.umount().status.success());
}

#[test]
fn a_refused_write_is_one_line_for_each_call_that_said_so() {
    use std::os::unix::fs::FileExt;
    let stage = Stage::new();
    stage.mount_and_pid(&["--log-format", "json", "--log-level", "info"]);
    let rule = stage.server.faults().add(Rule::on(Op::PutObject, Action::status(403, "AccessDenied")));
    let file = fs::File::create(stage.at().join("new")).unwrap();
    file.write_all_at(b"bytes", 0).unwrap();
    assert!(file.sync_all().is_err());
    let failures = failures(&stage.dir.path().join("log"));
    assert_eq!(failures.len(), 1, "said once: {failures:?}");
    assert_eq!((&failures[0]["operation"], &failures[0]["key"]), (&"fsync".into(), &format!("cos://{BUCKET}/new").into()));
    stage.server.faults().remove(rule);
    file.sync_all().unwrap();
    drop(file);
    assert!(stage.umount().status.success());
}

#[test]
fn what_a_close_could_not_send_is_told_once_however_often_it_is_tried() {
    let stage = Stage::new();
    stage.mount_and_pid(&["--log-format", "json", "--log-level", "info"]);
    let rule = stage.server.faults().add(Rule::on(Op::PutObject, Action::status(403, "AccessDenied")));
    fs::write(stage.at().join("new"), "bytes").unwrap();
    eventually("three attempts", || stage.server.faults().struck(rule) >= 3);
    let operations = |level: &str| -> Vec<_> {
        let of_level = |line: &Value| line["level"] == level;
        lines(&stage.dir.path().join("log")).into_iter().filter(of_level).map(|line| line["key"].clone()).collect()
    };
    let key = Value::from(format!("cos://{BUCKET}/new"));
    assert_eq!(operations("warn"), std::slice::from_ref(&key), "the close");
    assert_eq!(operations("error"), std::slice::from_ref(&key), "and that it is tried again");
    stage.server.faults().remove(rule);
    eventually("its arrival", || operations("info").contains(&key));
    assert!(stage.umount().status.success());
}

#[test]
fn a_storm_of_failures_does_not_flood_the_log() {
    let stage = Stage::new();
    for n in 0..40 {
        stage.server.put(BUCKET, format!("f{n}"), "bytes", &[]).unwrap();
    }
    stage.mount_and_pid(&["--log-level", "info"]);
    stage.server.faults().add(Rule::on(Op::GetObject, Action::status(403, "AccessDenied")));
    for n in 0..40 {
        assert!(fs::read(stage.at().join(format!("f{n}"))).is_err());
    }
    assert!(stage.umount().status.success());
    let log = stage.log();
    assert_eq!(log.matches("errno=\"EACCES\" code=\"AccessDenied\" status=403").count(), 5, "{log}");
    assert!(log.contains("left_out=35"), "{log}");
}

#[test]
fn the_level_changes_live_and_files_are_reopened() {
    let stage = Stage::new();
    let (log, access) = (stage.dir.path().join("log"), stage.dir.path().join("access"));
    let pid = stage.mount_and_pid(&["--log-level", "info", "--access-log", access.to_str().unwrap()]);
    let debug = |name: &str| {
        fs::metadata(stage.at().join(name)).unwrap_err();
        stage.log().lines().any(|line| line.contains(" DEBUG ") || line.contains(" TRACE "))
    };
    assert!(!debug("a"));
    for level in ["DEBUG", "TRACE", "INFO"] {
        kill(pid, Signal::SIGUSR2).unwrap();
        eventually("the new level", || stage.log().contains(&format!("level={level}")));
        if level == "DEBUG" {
            stage.server.faults().add(Rule::on(Op::HeadObject, Action::status(503, "SlowDown")).times(1));
            assert!(debug("b"), "{}", stage.log());
        }
    }
    let (old_log, old_access) = (stage.dir.path().join("log.1"), stage.dir.path().join("access.1"));
    fs::rename(&log, &old_log).unwrap();
    fs::rename(&access, &old_access).unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    eventually("new files", || log.exists() && access.exists() && stage.log().contains("after SIGHUP"));
    fs::write(stage.at().join("after"), "bytes").unwrap();
    assert!(fs::read_to_string(&access).unwrap().contains("/after\""), "the mount lives, and logs into the new file");
    assert!(!fs::read_to_string(&old_access).unwrap().contains("/after\""));
    assert!(stage.umount().status.success());
    assert!(stage.log().contains("stopping"));
}

#[test]
fn the_access_log_has_one_line_per_request_and_no_secret() {
    let stage = Stage::new();
    stage.server.put(BUCKET, "object", vec![7; 100_000], &[]).unwrap();
    let access = stage.dir.path().join("access");
    stage.mount_and_pid(&["--log-format", "json", "--access-log", access.to_str().unwrap()]);
    stage.server.faults().add(Rule::on(Op::GetObject, Action::slow_down()).times(1));
    assert_eq!(fs::read(stage.at().join("object")).unwrap().len(), 100_000);
    fs::write(stage.at().join("new"), "bytes").unwrap();
    assert!(fs::read(stage.at().join("absent")).is_err());
    assert!(stage.umount().status.success());
    let (logged, seen) = (lines(&access), stage.server.log());
    // A look at the listing is dropped when the object itself has been found, perhaps before it was sent.
    let is_given_up = |line: &Value| line["code"] == "given up" && line["status"] == 0;
    let given_up = logged.iter().filter(|line| is_given_up(line)).count();
    assert!((logged.len() - given_up..=logged.len()).contains(&seen.len()), "each request once: {} seen, {logged:?}", seen.len());
    for line in &logged {
        let given_up = is_given_up(line);
        let answered = |id: &str| seen.iter().filter(|entry| entry.request_id == id).count() == 1;
        assert!(given_up || answered(line["request"].as_str().unwrap()), "{line}");
    }
    let gets: Vec<_> = logged.iter().filter(|line| line["operation"] == "GET Object").collect();
    let first = gets.iter().find(|line| line["status"] == 503).unwrap();
    assert_eq!((&first["code"], &first["tries"]), (&"SlowDown".into(), &1.into()));
    let received: u64 = gets.iter().filter(|line| line["status"] != 503).map(|line| line["received"].as_u64().unwrap()).sum();
    assert_eq!(received, 100_000);
    assert!(gets.iter().any(|line| line["tries"] == 2), "{gets:?}");
    let put = logged.iter().find(|line| line["operation"] == "PUT Object").unwrap();
    assert_eq!((&put["sent"], &put["key"]), (&5.into(), &format!("cos://{BUCKET}/new").into()));
    assert!(put["ms"].is_u64() && put["time"].is_string());
    let text = fs::read_to_string(&access).unwrap();
    for secret in ["exampleSecretKey", "AKIDEXAMPLE", "q-signature", "authorization"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(!stage.log().contains(&put["request"].as_str().unwrap().to_owned()), "and the log itself has none of it");
}
