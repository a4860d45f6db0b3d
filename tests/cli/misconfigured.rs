//! A table of misconfigurations. Of each: `cosmount mount` fails with the right code and one paragraph that names the fault and the remedy, `cosmount
//! doctor` names it too, and neither leaves anything behind.
//!
//! Faults of the host are made in a mount namespace of the command's own (unshare), or as another user (setpriv): these cases need root, as the mounts
//! of all tests here do.

use std::{
    fs::{self, File, Permissions},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cosmount::emulator::{Account, Action, Config, Op, Rule, Server, Tls, Token};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{BUCKET, SECRETS, cosmount, eventually, text};

/// Who owns nothing here.
const NOBODY: u32 = 65534;

/// What a mount is tried with: a server, a directory of its own, and words.
struct Scene {
    server: Server,
    dir: tempfile::TempDir,
    source: String,
    at: PathBuf,
    staging: PathBuf,
    endpoint: String,
    words: Vec<String>,
    secrets: Vec<(&'static str, String)>,
    /// What runs the program: `unshare …`, `setpriv …`.
    by: Vec<String>,
    path: Option<PathBuf>,
    /// Kept until the end.
    held: Vec<Box<dyn std::any::Any>>,
}

/// What was there before a command: only what is new is left behind by it.
struct Before {
    files: Vec<PathBuf>,
    mounts: Vec<String>,
    objects: Vec<String>,
}

/// What is expected of both commands.
struct Expected {
    /// Of `cosmount mount`.
    code: i32,
    /// What its paragraph says: the fault and the remedy.
    says: &'static [&'static str],
    /// The check of `cosmount doctor` that fails, and what it says; `None` where the words are no mount's.
    doctor: Option<(&'static str, &'static [&'static str])>,
}

fn failed(says: &'static [&'static str], check: &'static str, doctor: &'static [&'static str]) -> Expected {
    Expected { code: 32, says, doctor: Some((check, doctor)) }
}

fn usage(says: &'static [&'static str]) -> Expected {
    Expected { code: 1, says, doctor: None }
}

impl Scene {
    fn new() -> Self {
        Self::with(Config::with_bucket(BUCKET))
    }

    fn with(config: Config) -> Self {
        let server = Server::start(config).unwrap();
        let dir = tempfile::Builder::new().prefix("cosmount-misconfigured-").tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let (at, staging) = (root.join("mnt"), root.join("staging"));
        fs::create_dir(&at).unwrap();
        let endpoint = server.endpoint();
        let secrets = SECRETS.map(|(name, value)| (name, value.to_owned())).to_vec();
        Self {
            server,
            dir,
            source: BUCKET.to_owned(),
            at,
            staging,
            endpoint,
            words: ["--region", "ap-guangzhou", "--io-timeout", "2s"].map(str::to_owned).to_vec(),
            secrets,
            by: Vec::new(),
            path: None,
            held: Vec::new(),
        }
    }

    /// A server with a certificate for `host` that is good until `until`, and the file that certifies it.
    fn with_tls(host: &str, until: i32) -> (Self, PathBuf) {
        let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let tls = Tls { certificates: pem.clone().into_bytes(), key: key.serialize_pem().into_bytes() };
        let scene = Self::with(Config { tls: Some(tls), ..Config::with_bucket(BUCKET) });
        let file = scene.file("ca.pem", &pem);
        (scene, file)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn root(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap()
    }

    fn words(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    fn secret(mut self, name: &'static str, value: &str) -> Self {
        self.secrets.retain(|(known, _)| *known != name);
        self.secrets.push((name, value.to_owned()));
        self
    }

    fn fault(self, ops: &[Op], action: Action) -> Self {
        for op in ops {
            self.server.faults().add(Rule::on(*op, action.clone()));
        }
        self
    }

    /// Runs the program as a user who may enter, owns the mount point, and may use a /dev/fuse of the program's own namespace.
    fn by_nobody(mut self) -> Self {
        fs::set_permissions(self.dir.path(), Permissions::from_mode(0o755)).unwrap();
        chown(&self.at, Some(NOBODY), Some(NOBODY)).unwrap();
        let own = self.root().join("own");
        fs::create_dir(&own).unwrap();
        chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
        self.staging = own.join("staging");
        let device = self.root().join("fuse");
        let script = format!("mknod -m 0666 {0} c 10 229 && mount --bind {0} /dev/fuse && rm {0}", device.display());
        self.in_a_namespace_with(&script, &format!("setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"))
    }

    /// Runs the program in a mount namespace in which this was done first, and through `by`.
    fn in_a_namespace_with(mut self, script: &str, by: &str) -> Self {
        let path = which("env");
        self.by = ["unshare", "-m", "sh", "-ec", &format!("{script}; exec {by} {path} ${{OWN_PATH:+PATH=$OWN_PATH}} \"$@\""), "sh"]
            .map(str::to_owned)
            .to_vec();
        self
    }

    fn command(&self, name: &str, extra: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_cosmount");
        let mut command = match self.by.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg(name).arg(&self.source).arg(&self.at);
        if !self.endpoint.is_empty() {
            command.args(["--endpoint", &self.endpoint]);
        }
        if !self.words.iter().any(|word| word == "--staging") {
            command.arg("--staging").arg(&self.staging);
        }
        command.args(&self.words).args(extra).stdin(Stdio::null());
        for (name, _) in SECRETS {
            command.env_remove(name);
        }
        command.envs(self.secrets.iter().map(|(name, value)| (name, value)));
        if let Some(path) = &self.path {
            // Only for the program: what runs it is found before.
            command.env("OWN_PATH", path);
        }
        command
    }

    /// Everything below the directory, links not followed, and nothing that is mounted there.
    fn files(&self) -> Vec<PathBuf> {
        let found = Command::new("find").arg(self.root()).args(["-xdev", "-mindepth", "1"]).output().unwrap();
        let mut files: Vec<_> = text(&found.stdout).lines().map(PathBuf::from).collect();
        files.sort();
        files
    }

    fn check(&self, expected: &Expected) {
        let before = Before { files: self.files(), mounts: self.mounts(), objects: self.server.keys(BUCKET, "") };
        let output = self.command("mount", &[]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected.code), "{said}{}", text(&output.stdout));
        if expected.code != 1 {
            assert_eq!(said.trim_end().lines().count(), 1, "one paragraph: {said}");
        }
        for word in expected.says {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        self.nothing_is_left("mount", &before);

        let output = self.command("doctor", &["--write"]).output().unwrap();
        let said = text(&output.stdout);
        match expected.doctor {
            None => assert_eq!(output.status.code(), Some(1), "{said}{}", text(&output.stderr)),
            Some((check, words)) => {
                assert_eq!(output.status.code(), Some(2), "{said}{}", text(&output.stderr));
                let line = said.lines().find(|line| line.starts_with("FAIL ") && line[6..].starts_with(check));
                let line = line.unwrap_or_else(|| panic!("{check} did not fail: {said}"));
                assert!(line.contains("; remedy: "), "{line}");
                for word in words {
                    assert!(line.contains(word), "{word:?} is not in: {line}");
                }
                assert_eq!(said.lines().filter(|line| line.starts_with("FAIL ")).count(), 1, "and nothing else is accused: {said}");
            }
        }
        assert!(!said.contains("exampleSecretKey"), "{said}");
        self.nothing_is_left("doctor", &before);
    }

    fn mounts(&self) -> Vec<String> {
        let root = self.root();
        let all = fs::read_to_string("/proc/self/mounts").unwrap();
        all.lines().filter(|line| line.contains(root.to_str().unwrap())).map(str::to_owned).collect()
    }

    fn nothing_is_left(&self, after: &str, before: &Before) {
        assert_eq!(self.mounts(), before.mounts, "mounts after {after}");
        assert_eq!(self.files(), before.files, "files after {after}");
        assert_eq!(self.server.keys(BUCKET, ""), before.objects, "objects after {after}");
        assert!(self.server.uploads(BUCKET).is_empty(), "uploads after {after}");
        let root = self.root();
        let root = root.to_str().unwrap();
        eventually("the end of all processes", || {
            let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
            // A mount that this test made on purpose is known by its own option.
            !processes.map(|words| text(&words)).any(|words| words.contains(root) && !words.contains("--log-file"))
        });
    }
}

// The bucket.

#[test]
fn wrong_bucket() {
    let mut scene = Scene::new();
    scene.source = "absent-1250000000".to_owned();
    scene.check(&failed(
        &["GET Bucket of cos://absent-1250000000: NoSuchBucket (404)", "request ", "bucket's name", "--region"],
        "bucket",
        &["NoSuchBucket (404)", "request ", "bucket's name"],
    ));
}

#[test]
fn wrong_region() {
    let scene = Scene::with(Config { buckets: vec![(BUCKET.to_owned(), "ap-beijing".to_owned())], ..Config::default() });
    let scene = scene.fault(&[Op::HeadBucket, Op::ListObjects], Action::status(404, "NoSuchBucket"));
    scene.check(&failed(
        &["NoSuchBucket (404)", "request ", "the bucket is in ap-beijing", "--region ap-beijing"],
        "region",
        &["NoSuchBucket (404)", "--region ap-beijing"],
    ));
}

#[test]
fn a_redirect_to_another_region_is_not_followed_and_said() {
    let scene = Scene::new().fault(&[Op::HeadBucket, Op::ListObjects], Action::status(301, "PermanentRedirect"));
    scene.check(&failed(&["PermanentRedirect (301)", "the bucket is elsewhere", "--region"], "bucket", &["301", "--region"]));
}

// The credentials.

#[test]
fn wrong_key_id() {
    let scene = Scene::new().secret("COS_SECRET_ID", "AKIDWRONG");
    scene.check(&failed(
        &["InvalidAccessKeyId (403)", "request ", "no such SecretId"],
        "signature",
        &["InvalidAccessKeyId", "no such SecretId"],
    ));
}

#[test]
fn wrong_secret() {
    let scene = Scene::new().secret("COS_SECRET_KEY", "wrong");
    scene.check(&failed(
        &["SignatureDoesNotMatch (403)", "request ", "SecretKey is not the one"],
        "signature",
        &["SignatureDoesNotMatch", "SecretKey is not the one"],
    ));
}

#[test]
fn no_credentials() {
    let mut scene = Scene::new();
    scene.secrets.clear();
    scene.check(&failed(&["COS_SECRET_ID"], "credentials", &["COS_SECRET_ID"]));
}

#[test]
fn half_of_the_credentials() {
    let mut scene = Scene::new();
    scene.secrets.pop();
    scene.check(&failed(&["COS_SECRET_ID", "COS_SECRET_KEY"], "credentials", &["COS_SECRET_KEY"]));
}

#[test]
fn expired_token() {
    let token = Token { value: "a-token".to_owned(), expires: Some(1) };
    let account = Account { token: Some(token), ..Account::example() };
    let scene = Scene::with(Config { accounts: vec![account], ..Config::with_bucket(BUCKET) }).secret("COS_SESSION_TOKEN", "a-token");
    scene.check(&failed(&["ExpiredToken (400)", "request ", "have ended: get new ones"], "signature", &["ExpiredToken", "get new ones"]));
}

#[test]
fn no_permission_at_all() {
    let scene = Scene::new().fault(&[Op::HeadBucket, Op::ListObjects], Action::status(403, "AccessDenied"));
    scene.check(&failed(
        &["AccessDenied (403)", "request ", "policy does not allow", "HeadBucket"],
        "bucket",
        &["AccessDenied", "policy does not allow"],
    ));
}

#[test]
fn no_permission_to_list() {
    let scene = Scene::new().fault(&[Op::ListObjects], Action::status(403, "AccessDenied"));
    scene.check(&failed(
        &["GET Bucket", "AccessDenied (403)", "request ", "policy does not allow"],
        "list",
        &["GET Bucket", "AccessDenied", "policy does not allow"],
    ));
}

#[test]
fn a_clock_that_cannot_be_corrected() {
    let scene = Scene::new().fault(&[Op::HeadBucket, Op::ListObjects], Action::status(403, "RequestTimeTooSkewed"));
    scene.check(&failed(
        &["RequestTimeTooSkewed (403)", "request ", "clock is off", "timedatectl"],
        "signature",
        &["RequestTimeTooSkewed", "timedatectl"],
    ));
}

#[test]
fn a_credential_file_that_everybody_may_read() {
    let mut scene = Scene::new();
    scene.secrets.clear();
    let file = scene.file("passwd", "example-1250000000:AKIDEXAMPLE:exampleSecretKey\n");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let scene = scene.words(&["--credentials", &format!("passwd:{}", file.display())]);
    scene.check(&failed(&["passwd", "0644", "chmod"], "credentials", &["passwd", "0644", "chmod"]));
}

#[test]
fn a_credential_file_that_is_not_there() {
    let mut scene = Scene::new();
    scene.secrets.clear();
    let file = scene.root().join("none").join("passwd");
    let scene = scene.words(&["--credentials", &format!("passwd:{}", file.display())]);
    scene.check(&failed(&["none/passwd", "credentials"], "credentials", &["none/passwd"]));
}

#[test]
fn a_credential_file_that_cannot_be_read() {
    let mut scene = Scene::new();
    scene.secrets.clear();
    let file = scene.file("passwd", "example-1250000000:AKIDEXAMPLE:exampleSecretKey\n");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let scene = scene.by_nobody().words(&["--credentials", &format!("passwd:{}", file.display())]);
    scene.check(&failed(&["passwd", "credentials"], "credentials", &["passwd"]));
}

// The way.

#[test]
fn nothing_listens() {
    let mut scene = Scene::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scene.endpoint = format!("http://{free}");
    scene.check(&failed(&["HEAD Bucket", "refused", "nothing listens there", "--endpoint"], "TCP", &["refused", "--endpoint"]));
}

#[test]
fn no_such_host() {
    let mut scene = Scene::new();
    scene.endpoint = "http://cos.invalid".to_owned();
    scene.check(&failed(&["cos.invalid", "no address", "DNS"], "DNS", &["cos.invalid", "no address", "/etc/resolv.conf"]));
}

#[test]
fn a_black_hole() {
    let mut scene = Scene::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    scene.endpoint = format!("http://{}", silent.local_addr().unwrap());
    scene.held.push(Box::new(silent));
    scene.check(&failed(&["HEAD Bucket", "stalled", "nobody answers", "firewall"], "clock", &["nobody answers", "firewall"]));
}

#[test]
fn somebody_else_answers() {
    let scene = Scene::new();
    scene.server.faults().add(Rule::always(Action::gateway(404)));
    scene.check(&failed(&["HTTP 404", "not from COS", "proxy", "--endpoint"], "bucket", &["HTTP 404", "not from COS", "proxy"]));
}

#[test]
fn an_authority_that_is_not_trusted() {
    let (scene, _) = Scene::with_tls("127.0.0.1", 2090);
    scene.check(&failed(&["certificate", "no trusted authority", "--ca-file"], "TLS", &["TLS 1.3", "127.0.0.1", "2090", "--ca-file"]));
}

#[test]
fn a_certificate_for_another_name() {
    let (scene, ca) = Scene::with_tls("elsewhere.example", 2090);
    let scene = scene.words(&["--ca-file", ca.to_str().unwrap()]);
    scene.check(&failed(&["certificate", "another name", "--endpoint"], "TLS", &["elsewhere.example", "another name"]));
}

#[test]
fn a_certificate_that_has_ended() {
    let (scene, ca) = Scene::with_tls("127.0.0.1", 2021);
    let scene = scene.words(&["--ca-file", ca.to_str().unwrap()]);
    scene.check(&failed(&["certificate", "has ended", "renewed"], "TLS", &["Jan 2021", "has ended"]));
}

#[test]
fn no_tls_where_https_was_asked() {
    let mut scene = Scene::new();
    scene.endpoint = scene.endpoint.replace("http:", "https:");
    scene.check(&failed(&["speaks no TLS", "http://"], "TLS", &["speaks no TLS", "http://"]));
}

#[test]
fn no_ca_file() {
    let scene = Scene::new().words(&["--ca-file", "/nonexistent.pem"]);
    scene.check(&failed(&["/nonexistent.pem", "No such file", "--ca-file must"], "TLS", &["/nonexistent.pem", "--ca-file"]));
}

#[test]
fn a_ca_file_that_is_none() {
    let scene = Scene::new();
    let file = scene.file("ca.pem", "not a certificate");
    let scene = scene.words(&["--ca-file", file.to_str().unwrap()]);
    scene.check(&failed(&["ca.pem", "PEM"], "TLS", &["ca.pem", "PEM"]));
}

#[test]
fn a_ca_file_without_end() {
    let scene = Scene::new();
    let file = scene.file("ca.pem", "");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(17 << 20).unwrap();
    let scene = scene.words(&["--ca-file", file.to_str().unwrap()]);
    scene.check(&failed(&["ca.pem", "longer than all authorities"], "TLS", &["ca.pem", "longer than all authorities"]));
}

// This host.

#[test]
fn no_dev_fuse() {
    // The program needs a /dev/null, and its way into the namespace a place for it.
    let scene = Scene::new();
    let null = scene.file("null", "");
    let script =
        format!("mount --bind /dev/null {0} && mount -t tmpfs none /dev && touch /dev/null && mount --bind {0} /dev/null", null.display());
    let scene = scene.in_a_namespace_with(&script, "");
    scene.check(&Expected {
        code: 2,
        says: &["there is no /dev/fuse", "modprobe fuse"],
        doctor: Some(("/dev/fuse", &["there is no /dev/fuse", "modprobe fuse"])),
    });
}

#[test]
fn a_dev_fuse_without_a_driver() {
    let scene = Scene::new().in_a_namespace_with("mount --bind /etc/hostname /dev/fuse && mount -o remount,ro,bind /dev/fuse", "");
    scene.check(&Expected {
        code: 2,
        says: &["/dev/fuse cannot be opened", "modprobe fuse"],
        doctor: Some(("/dev/fuse", &["/dev/fuse cannot be opened", "modprobe fuse"])),
    });
}

#[test]
fn a_dev_fuse_that_the_user_may_not_open() {
    let mut scene = Scene::new().by_nobody();
    scene.by[4] = scene.by[4].replace("-m 0666", "-m 0600");
    scene.check(&Expected {
        code: 2,
        says: &["/dev/fuse may not be opened", "chmod 0666"],
        doctor: Some(("/dev/fuse", &["/dev/fuse may not be opened", "chmod 0666"])),
    });
}

#[test]
fn no_fusermount3() {
    let mut scene = Scene::new().by_nobody();
    scene.path = Some("/nonexistent".into());
    scene.check(&Expected {
        code: 2,
        says: &["fusermount3", "not in PATH", "package fuse3"],
        doctor: Some(("fusermount3", &["not in PATH", "package fuse3"])),
    });
}

#[test]
fn no_user_allow_other() {
    let scene = Scene::new();
    let conf = scene.file("fuse.conf", "#user_allow_other\n");
    fs::set_permissions(&conf, Permissions::from_mode(0o644)).unwrap();
    let mut scene = scene.by_nobody().words(&["--allow-other"]);
    scene.by[4] = format!("mount --bind {} /etc/fuse.conf && {}", conf.display(), scene.by[4]);
    scene.check(&Expected {
        code: 2,
        says: &["user_allow_other", "/etc/fuse.conf", "add the line"],
        doctor: Some(("user_allow_other", &["/etc/fuse.conf", "add the line"])),
    });
}

fn which(program: &str) -> String {
    text(&Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().stdout).trim().to_owned()
}

// The mount point.

#[test]
fn no_mount_point() {
    let mut scene = Scene::new();
    scene.at = scene.root().join("none");
    scene.check(&failed(&["does not exist", "mkdir -p"], "mount point", &["does not exist", "mkdir -p"]));
}

#[test]
fn a_mount_point_that_is_a_file() {
    let mut scene = Scene::new();
    scene.at = scene.file("file", "");
    scene.check(&failed(&["is not a directory", "name one"], "mount point", &["is not a directory", "name one"]));
}

#[test]
fn a_mount_point_of_another_user() {
    let scene = Scene::new().by_nobody();
    chown(&scene.at, Some(0), Some(0)).unwrap();
    scene.check(&failed(&["fusermount3 could not mount", "user's own"], "mount point", &["belongs to user 0", "chown"]));
}

#[test]
fn a_stale_mount_point() {
    let scene = Scene::new();
    let mut first = cosmount(&["mount", BUCKET]);
    first.arg(&scene.at).args(["-f", "--region", "ap-guangzhou", "--endpoint", &scene.endpoint, "--staging", "none"]).envs(SECRETS);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let at = scene.at.clone();
    eventually("the mount", || fs::read_to_string("/proc/self/mounts").unwrap().contains(at.to_str().unwrap()));
    first.kill().unwrap();
    first.wait().unwrap();
    let unmount = Unmount(at);
    scene.check(&failed(&["process has died", "cosmount umount"], "mount point", &["process has died", "cosmount umount"]));
    // Before the directory goes.
    drop(unmount);
}

#[test]
fn a_mount_point_that_is_ours_already() {
    let scene = Scene::new();
    let mut first = cosmount(&["mount", BUCKET]);
    first.arg(&scene.at).args(["--region", "ap-guangzhou", "--endpoint", &scene.endpoint, "--staging", "none"]).envs(SECRETS);
    assert!(first.args(["--log-file", "/dev/null"]).output().unwrap().status.success());
    let at = scene.at.clone();
    scene.check(&failed(&["a mount of cosmount already", "unmount it first"], "mount point", &["already", "unmount it first"]));
    assert!(cosmount(&["umount"]).arg(at).output().unwrap().status.success());
}

/// Takes away what is mounted there.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

// The staging directory.

fn staging_with(make: impl FnOnce(&Path)) -> Scene {
    let scene = Scene::new();
    make(&scene.staging);
    scene
}

#[test]
fn staging_of_another_user() {
    let scene = staging_with(|staging| {
        fs::create_dir(staging).unwrap();
        chown(staging, Some(NOBODY), None).unwrap();
    });
    scene.check(&failed(&["belongs to user 65534", "--staging", "chown"], "staging", &["belongs to user 65534", "chown"]));
}

#[test]
fn staging_that_others_may_write_to() {
    let scene = staging_with(|staging| {
        fs::create_dir(staging).unwrap();
        fs::set_permissions(staging, Permissions::from_mode(0o777)).unwrap();
    });
    scene.check(&failed(&["others may write", "0777", "chmod 0700"], "staging", &["others may write", "chmod 0700"]));
}

#[test]
fn staging_through_a_link_that_leads_nowhere() {
    let scene = staging_with(|staging| symlink("/nonexistent/staging", staging).unwrap());
    scene.check(&failed(&["staging", "--staging"], "staging", &["--staging"]));
}

#[test]
fn staging_that_is_in_use() {
    let scene = staging_with(|staging| {
        fs::create_dir(staging).unwrap();
        fs::set_permissions(staging, Permissions::from_mode(0o700)).unwrap();
    });
    let lock = File::create(scene.staging.join(".lock")).unwrap();
    fs::write(scene.staging.join(".lock"), "4711").unwrap();
    let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    scene.check(&failed(&["in use by process 4711", "--staging"], "staging", &["in use by process 4711", "--staging"]));
    drop(lock);
}

#[test]
fn staging_on_a_full_disk() {
    let scene = staging_with(|staging| {
        fs::create_dir(staging).unwrap();
        mount(Some("none"), staging, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0700")).unwrap();
        fs::write(staging.join("full"), vec![0; 1 << 20]).unwrap();
    });
    let unmount = Unmount(scene.staging.clone());
    scene.check(&failed(&["no storage space", "free some", "--staging"], "staging", &["no storage space", "free some"]));
    drop(unmount);
}

#[test]
fn staging_that_cannot_be_written() {
    let mut scene = Scene::new().by_nobody();
    scene.staging = scene.root().join("roots");
    scene.check(&failed(&["Permission denied", "--staging"], "staging", &["Permission denied", "--staging"]));
}

// Words.

#[test]
fn too_little_memory() {
    Scene::new().words(&["--memory-limit", "16M"]).check(&usage(&["16M is too little", "at least 32M"]));
}

#[test]
fn an_unknown_flag() {
    Scene::new().words(&["--read-onyl"]).check(&usage(&["--read-onyl", "--read-only"]));
}

#[test]
fn an_endpoint_that_is_none() {
    let mut scene = Scene::new();
    scene.endpoint = "cos.example".to_owned();
    scene.check(&usage(&["not an endpoint", "write https://HOST"]));
}

#[test]
fn a_source_that_is_none() {
    let mut scene = Scene::new();
    scene.source = "s3://photos".to_owned();
    scene.check(&usage(&["not on COS", "cos://BUCKET-APPID"]));
}

#[test]
fn staging_inside_the_mount() {
    let mut scene = Scene::new();
    scene.staging = scene.at.join("staging");
    scene.check(&usage(&["lies in the mount itself", "--staging"]));
}

// What lets a mount begin.

#[test]
fn a_clock_that_is_off_is_corrected_and_named() {
    for seconds in [3600, -3600] {
        let scene = Scene::new();
        scene.server.faults().add(Rule::always(Action::ClockSkew { seconds }));
        let doctor = scene.command("doctor", &["--write"]).output().unwrap();
        let said = text(&doctor.stdout);
        assert!(doctor.status.success(), "{said}");
        let line = said.lines().find(|line| line.starts_with("warn  clock")).unwrap_or_else(|| panic!("{said}"));
        let word = if seconds > 0 { "behind" } else { "ahead of" };
        assert!(line.contains(word) && (line.contains("3600 s") || line.contains("3599 s") || line.contains("3601 s")), "{line}");
        assert!(line.contains("timedatectl"), "{line}");
        let log = scene.root().join("log");
        let mounted = scene.command("mount", &["--log-file", log.to_str().unwrap()]).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        fs::write(scene.at.join("file"), "bytes").unwrap();
        assert!(cosmount(&["umount"]).arg(&scene.at).output().unwrap().status.success());
        assert_eq!(scene.server.keys(BUCKET, ""), ["file"]);
        assert_eq!(fs::read_to_string(log).unwrap().matches("clock differs").count(), 1, "said once");
    }
}

#[test]
fn rights_that_only_a_read_or_a_write_needs_are_named_by_the_doctor() {
    let scene = Scene::new();
    scene.server.put(BUCKET, "object", "bytes", &[]).unwrap();
    let scene = scene.fault(&[Op::GetObject, Op::PutObject, Op::InitiateUpload], Action::status(403, "AccessDenied"));
    let output = scene.command("doctor", &["--write"]).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for check in ["get", "put", "upload"] {
        let line = said.lines().find(|line| line.starts_with(&format!("FAIL  {check} "))).unwrap_or_else(|| panic!("{check}: {said}"));
        assert!(line.contains("AccessDenied (403)") && line.contains("policy does not allow"), "{line}");
    }
    assert!(said.contains("\nok    list ") && said.contains("\nok    delete "), "{said}");
    assert_eq!(scene.server.keys(BUCKET, ""), ["object"]);
}

#[test]
fn a_healthy_mount_is_found_healthy_in_text_and_json() {
    let scene = Scene::new();
    scene.server.put(BUCKET, "object", "bytes", &[]).unwrap();
    let files = scene.files();
    let text_form = scene.command("doctor", &["--write"]).output().unwrap();
    assert!(text_form.status.success(), "{}", text(&text_form.stdout));
    assert!(!text(&text_form.stdout).contains("FAIL"), "{}", text(&text_form.stdout));
    let json = scene.command("doctor", &["--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["faults"], 0, "{report}");
    let checks: Vec<_> = report["checks"].as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    let expected = [
        "DNS",
        "TCP",
        "TLS",
        "clock",
        "credentials",
        "signature",
        "bucket",
        "region",
        "list",
        "get",
        "/dev/fuse",
        "fusermount3",
        "user_allow_other",
        "mount point",
        "staging",
        "kernel",
    ];
    assert_eq!(checks, expected);
    assert_eq!(scene.files(), files);
    assert_eq!(scene.server.keys(BUCKET, ""), ["object"]);
}
