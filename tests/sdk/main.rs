//! The emulator under code that nobody here wrote: Tencent's Python SDK, coscmd and Node SDK.
//!
//! `scripts/testenv` makes the environments; `COSMOUNT_PY` and `COSMOUNT_NODE_MODULES` name others. Without them these tests fail and say so.

#![cfg(feature = "emulator")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cosmount::emulator::{Account, Action, Config, Op, Rates, Restoring, Rule, Server, Token, Versioning};

const BUCKET: &str = "example-1250000000";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tool of the environment, which must be there.
fn tool(variable: &str, default: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| root().join("target/testenv").join(default), PathBuf::from);
    assert!(path.exists(), "{} is missing: run scripts/testenv, or name another in {variable}", path.display());
    path
}

fn server() -> Server {
    Server::start(Config::with_bucket(BUCKET)).unwrap()
}

/// A server whose restores take three seconds.
fn restoring() -> Server {
    let restoring = Restoring { delay: Duration::from_secs(3), ..Restoring::default() };
    Server::start(Config { restoring, ..Config::with_bucket(BUCKET) }).unwrap()
}

fn run(command: &mut Command, server: &Server) {
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        done.status.success(),
        "{}{}\nlast requests: {:#?}",
        text(&done.stdout),
        text(&done.stderr),
        server.log().iter().rev().take(3).collect::<Vec<_>>()
    );
}

/// Runs one case of the Python SDK.
fn python(case: &str, server: &Server) {
    let dir = tempfile::tempdir().unwrap();
    let script = root().join("tests/sdk/python_sdk.py");
    run(Command::new(tool("COSMOUNT_PY", "venv/bin/python")).arg(script).arg(case).arg(server.endpoint()).arg(dir.path()), server);
}

#[test]
fn python_uploads_a_file_in_parts() {
    let server = server();
    python("upload_file", &server);
    assert_eq!(server.counters().of(Op::UploadPart).requests, 6);
    assert_eq!(server.counters().of(Op::UploadPart).bytes_in, (5 << 20) + 12345);
    assert!(server.uploads(BUCKET).is_empty());
}

#[test]
fn python_lists_in_pages() {
    python("list_objects", &server());
}

#[test]
fn python_copies_objects_and_parts() {
    let server = server();
    python("copy", &server);
    assert_eq!(server.counters().of(Op::CopyPart).requests, 3);
}

#[test]
fn python_deletes_many() {
    let server = server();
    python("delete_objects", &server);
    assert!(server.keys(BUCKET, "").is_empty());
}

#[test]
fn python_gets_ranges_and_conditions() {
    python("get_object", &server());
}

#[test]
fn python_appends() {
    let server = server();
    python("append_object", &server);
    assert_eq!(&server.get(BUCKET, "log").unwrap().body[..], b"hello world");
}

#[test]
fn python_manages_buckets() {
    python("buckets", &server());
}

#[test]
fn python_presigns() {
    python("presigned", &server());
}

#[test]
fn python_tags_and_grants() {
    python("tagging_and_acl", &server());
}

#[test]
fn python_signs_hosts_with_and_without_port() {
    python("hosts", &server());
}

#[test]
fn python_with_wrong_keys_is_refused() {
    let server = server();
    python("wrong_keys", &server);
    assert!(server.keys(BUCKET, "").is_empty());
}

#[test]
fn python_with_a_wrong_clock_is_refused() {
    python("wrong_clocks", &server());
}

#[test]
fn python_with_an_expired_token_is_refused() {
    let temporary = |id: &str, key: &str, token: &str, expires| Account {
        secret_id: id.into(),
        secret_key: key.into(),
        token: Some(Token { value: token.into(), expires }),
    };
    let accounts = vec![
        temporary("AKIDTEMPORARY", "temporarySecretKey", "token/with+chars==", None),
        temporary("AKIDOLD", "oldSecretKey", "old-token", Some(1_700_000_000)),
    ];
    let server = Server::start(Config { accounts, ..Config::with_bucket(BUCKET) }).unwrap();
    python("expired_tokens", &server);
}

#[test]
fn python_repeats_after_faults() {
    let server = server();
    server.faults().add(Rule::on(Op::PutObject, Action::slow_down()).times(1));
    server.faults().add(Rule::on(Op::PutObject, Action::LoseAnswer).skip(1).times(1));
    server.faults().add(Rule::on(Op::GetObject, Action::ResetBefore).times(1));
    python("retries", &server);
    assert_eq!(server.counters().of(Op::PutObject).requests, 3);
    assert_eq!(server.counters().of(Op::GetObject).requests, 2);
}

#[test]
fn python_works_with_versions() {
    let server = server();
    python("versions", &server);
    assert!(server.counters().of(Op::ListVersions).requests > 6);
    assert_eq!(server.counters().of(Op::DeleteBucket).errors, 1, "not empty once, then deleted");
}

#[test]
fn python_restores_from_the_archive() {
    let server = restoring();
    python("restore", &server);
    assert_eq!(server.counters().of(Op::RestoreObject).requests, 5);
}

#[test]
fn python_rides_out_throttling() {
    let server = Server::start(Config { rates: Rates { writes: Some(5), ..Rates::default() }, ..Config::with_bucket(BUCKET) }).unwrap();
    python("throttled", &server);
    assert!(server.counters().of(Op::PutObject).throttled >= 2, "{:?}", server.counters());
    assert!((0..12).all(|n| server.get(BUCKET, format!("k{n}")).is_some()));
}

#[test]
fn coscmd_uploads_lists_downloads_copies_and_deletes() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let script = root().join("tests/sdk/coscmd_run.py");
    run(Command::new(tool("COSMOUNT_PY", "venv/bin/python")).arg(script).arg(server.endpoint()).arg(dir.path()), &server);
    assert!(server.counters().of(Op::UploadPart).requests > 20, "22 MiB went up in parts");
    assert_eq!(server.keys(BUCKET, ""), ["copied/a.txt", "copied/empty", "copied/sub dir/b 文.txt", "copied/sub dir/deep/c+d.bin"]);
}

/// Runs one case of the Node SDK.
fn node(case: &str, server: &Server) {
    let dir = tempfile::tempdir().unwrap();
    let modules = tool("COSMOUNT_NODE_MODULES", "node/node_modules");
    let script = root().join("tests/sdk/node_sdk.js");
    run(Command::new("node").arg(script).arg(case).arg(server.endpoint()).arg(dir.path()).env("NODE_PATH", modules), server);
}

#[test]
fn node_uploads_in_parts_gets_and_lists() {
    let server = server();
    node("objects", &server);
    assert_eq!(server.counters().of(Op::UploadPart).requests, 6);
    assert!(server.uploads(BUCKET).is_empty());
}

#[test]
fn node_works_with_versions() {
    let server = server();
    node("versions", &server);
    assert_eq!(server.versions(BUCKET, "a 文").len(), 0, "all were deleted by their ids");
}

#[test]
fn node_restores_from_the_archive() {
    let server = restoring();
    assert!(server.set_versioning(BUCKET, Versioning::Enabled));
    node("restore", &server);
    assert_eq!(server.counters().of(Op::RestoreObject).requests, 2);
}
