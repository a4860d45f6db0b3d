//! `cosmount credentials check`, of every kind of source.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use cosmount::emulator::{Action, Op, Rule};
use serde_json::Value;

use crate::common::BUCKET;
use crate::issuer::{Issuer, Service, write_secret};

/// The command, with a home of its own and no credentials from anywhere but what is added.
fn check(home: &Path, issuer: &Issuer, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cosmount"));
    command.args(["credentials", "check", "--json", "--region", "ap-guangzhou", "--endpoint", &issuer.server().endpoint()]);
    command.args(words).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    // No machine of Tencent's, unless the test has one.
    if !words.iter().any(|word| word.starts_with("metadata=")) {
        command.args(["--endpoint", "metadata=http://127.0.0.1:9"]);
    }
    command
}

fn told(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_kind_is_found_and_named() {
    let issuer = Issuer::new(3600);
    let service = Service::start(&issuer);
    let (metadata, sts) = (format!("metadata={}", service.url()), format!("sts={}", service.url()));
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let own = issuer.lasting();
    write_secret(&at(".cos.conf"), &format!("[common]\nsecret_id = {}\nsecret_key = {}\n[work]\nanonymous = True\n", own.id, own.key));
    write_secret(
        &at(".cos.yaml"),
        &format!("cos:\n  base:\n    secretid: {}\n    secretkey: {}\nrole:\n  base:\n    mode: CvmRole\n", own.id, own.key),
    );
    write_secret(&at(".passwd-cosfs"), &format!("other-125:AKIDother:x\n{BUCKET}:{}:{}\n", own.id, own.key));
    write_secret(&at("token"), &issuer.temporary().json());
    fs::write(at("identity"), "a pod's own token\n").unwrap();
    let pod = [
        ("TKE_REGION", "ap-guangzhou"),
        ("TKE_PROVIDER_ID", "cls-1"),
        ("TKE_ROLE_ARN", "qcs::cam::uin/1:roleName/r"),
        ("TKE_WEB_IDENTITY_TOKEN_FILE", at("identity").to_str().unwrap()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let file = format!("file:{}", at("token").display());
    for (words, source, temporary) in [
        (&["--credentials", "coscmd"][..], ".cos.conf, section common", false),
        (&["--credentials", "coscmd:~/.cos.conf"], ".cos.conf, section common", false),
        (&["--credentials", "coscli"], ".cos.yaml, section cos", false),
        (&["--credentials", "coscli", "--profile", "role", "--endpoint", &metadata], "the role reader of this machine", true),
        (&["--credentials", "passwd"], ".passwd-cosfs", false),
        (&["--credentials", &file], "token", true),
        (&["--credentials", "role", "--endpoint", &metadata], "the role reader of this machine", true),
        (&["--credentials", "role:reader", "--endpoint", &metadata], "the role reader of this machine", true),
        (&["--credentials", "oidc", "--endpoint", &sts], "the identity of this pod", true),
        (&["--credentials", "command:cat ~/token"], "the command", true),
    ] {
        let words = [words, &[BUCKET]].concat();
        let output = check(home.path(), &issuer, &words).envs(pod.clone()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        let found = told(&output);
        assert!(found["source"].as_str().unwrap().contains(source), "{words:?}: {found}");
        assert_eq!((found["temporary"].as_bool(), found["expires"].is_null()), (Some(temporary), !temporary), "{words:?}");
        assert!(found["id"].as_str().unwrap().starts_with("AKID…"), "{found}");
        let text = format!("{found}{}", said(&output));
        assert!(issuer.issued().iter().all(|issued| !text.contains(&issued.id) && !text.contains(&issued.key)), "{text}");
    }
    let asked = issuer.asked().join("\n");
    assert!(asked.contains("x-tc-action: AssumeRoleWithWebIdentity") && asked.contains("authorization: SKIP"), "{asked}");
}

#[test]
fn the_usual_places_have_their_order() {
    let issuer = Issuer::new(3600);
    let service = Service::start(&issuer);
    let metadata = format!("metadata={}", service.url());
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let source = |environment: &[(&str, &str)]| {
        let output = check(home.path(), &issuer, &["--endpoint", &metadata]).envs(environment.iter().copied()).output().unwrap();
        told(&output)["source"].as_str().unwrap().to_owned()
    };
    // From the last place to the first.
    assert_eq!(source(&[]), "the role reader of this machine");
    write_secret(&at(".cos.conf"), "[common]\nsecret_id = AKIDx\nsecret_key = k\n");
    assert!(source(&[]).contains(".cos.conf"));
    write_secret(&at(".cos.yaml"), "cos:\n  base:\n    secretid: AKIDx\n    secretkey: k\n");
    assert!(source(&[]).contains(".cos.yaml"));
    write_secret(&at(".passwd-cosfs"), "AKIDx:k\n");
    assert!(source(&[]).contains(".passwd-cosfs"));
    write_secret(&at("named"), "AKIDx:k\n");
    assert!(source(&[("COS_CREDENTIAL_FILE", at("named").to_str().unwrap())]).contains("named"));
    assert_eq!(source(&[("SECRETID", "AKIDx"), ("SECRETKEY", "k")]), "the environment, SECRETID");
}

#[test]
fn where_nothing_is_found_each_place_is_told() {
    let issuer = Issuer::new(3600);
    let home = tempfile::tempdir().unwrap();
    let output = check(home.path(), &issuer, &[]).env("COS_SECRET_ID", "AKIDx").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let places = [
        "COS_SECRET_ID is set, but COS_SECRET_KEY is not",
        ".passwd-cosfs: not there",
        "/etc/passwd-cosfs: not there",
        ".cos.yaml: not there",
        ".cos.conf: not there",
        "TKE_ROLE_ARN is not set",
        "the role of this machine: http://127.0.0.1:9",
    ];
    let mut rest = &*said(&output);
    for place in places {
        rest = rest.split_once(place).unwrap_or_else(|| panic!("{place:?} in its turn: {}", said(&output))).1;
    }
}

#[test]
fn a_file_that_others_may_read_ends_the_search() {
    let issuer = Issuer::new(3600);
    let home = tempfile::tempdir().unwrap();
    let (open, behind) = (home.path().join(".cos.yaml"), home.path().join(".cos.conf"));
    fs::write(&open, "cos:\n  base:\n    secretid: AKIDx\n    secretkey: hush\n").unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    write_secret(&behind, "[common]\nsecret_id = AKIDx\nsecret_key = k\n");
    let output = check(home.path(), &issuer, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = said(&output);
    assert!(said.contains("0644") && said.contains("chmod 600") && !said.contains("hush"), "{said}");
    let named = check(home.path(), &issuer, &["--credentials", "coscmd"]).output().unwrap();
    assert!(named.status.success(), "{named:?}");
}

#[test]
fn what_may_be_done_is_tried_and_refusals_are_named() {
    let issuer = Issuer::new(3600);
    let home = tempfile::tempdir().unwrap();
    let own = issuer.lasting();
    let source = format!("cos://{BUCKET}/some/prefix/");
    let run = |words: &[&str]| {
        let words = [&[&*source], words].concat();
        check(home.path(), &issuer, &words).env("COS_SECRET_ID", &own.id).env("COS_SECRET_KEY", &own.key).output().unwrap()
    };
    let rights = |output: &Output| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        told(output)["rights"].as_array().unwrap().iter().map(|right| (text(&right["operation"]), text(&right["outcome"]))).collect()
    };
    let all = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "allowed".to_owned())).collect::<Vec<_>>();
    let output = run(&[]);
    assert_eq!(rights(&output), all(&["HEAD Bucket", "GET Bucket", "HEAD Object", "GET Object"]));
    assert!(told(&output)["not_tried"].to_string().contains("--write"));
    assert_eq!(issuer.server().keys(BUCKET, ""), [""; 0]);
    issuer.server().clear_log();
    let output = run(&["--write"]);
    assert!(output.status.success());
    assert_eq!(rights(&output), all(&["HEAD Bucket", "GET Bucket", "HEAD Object", "GET Object", "PUT Object", "DELETE Object"]));
    assert_eq!(issuer.server().keys(BUCKET, ""), [""; 0], "the probe is gone");
    let log = issuer.server().log();
    let put = log.iter().find(|entry| entry.op == Op::PutObject).unwrap();
    assert!(put.key.starts_with("some/prefix/.cosmount/check-"), "{}", put.key);
    issuer.server().faults().add(Rule::on(Op::PutObject, Action::status(403, "AccessDenied")));
    issuer.server().faults().add(Rule::on(Op::ListObjects, Action::status(403, "AccessDenied")));
    let output = run(&["--write"]);
    assert_eq!(output.status.code(), Some(2));
    let found = told(&output);
    for index in [1, 4] {
        let right = &found["rights"][index];
        assert_eq!(
            (right["outcome"].as_str(), right["code"].as_str(), right["status"].as_u64()),
            (Some("refused"), Some("AccessDenied"), Some(403))
        );
        assert!(!right["request_id"].as_str().unwrap().is_empty());
    }
    let mut wrong = check(home.path(), &issuer, &[&source]);
    let output = wrong.env("COS_SECRET_ID", &own.id).env("COS_SECRET_KEY", "wrong").output().unwrap();
    assert_eq!(rights(&output), [("HEAD Bucket".to_owned(), "refused".to_owned())]);
    let mut people = Command::new(env!("CARGO_BIN_EXE_cosmount"));
    people.args(["credentials", "check", &source, "--endpoint", &issuer.server().endpoint(), "--region", "ap-guangzhou"]);
    let output = people.env("COS_SECRET_ID", &own.id).env("COS_SECRET_KEY", &own.key).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["the environment, COS_SECRET_ID", "AKID…ests", "HEAD Bucket    allowed", "GET Bucket     refused: ", "not tried"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn unsigned_requests_reach_what_everybody_may_read() {
    let issuer = Issuer::new(3600);
    let home = tempfile::tempdir().unwrap();
    let server = Arc::clone(issuer.server());
    let output = check(home.path(), &issuer, &[BUCKET, "--credentials", "anonymous"]).output().unwrap();
    let found = told(&output);
    assert_eq!((found["anonymous"].as_bool(), found["id"].is_null()), (Some(true), true));
    assert_eq!(found["rights"][0]["outcome"], "refused");
    assert!(server.log().iter().all(|entry| entry.signer.is_empty()));
}
