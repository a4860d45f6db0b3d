//! A mount for tests: the emulator in this process, the program as a child, a directory between them.
//!
//! Every [`Mounted`] has an emulator, a bucket, a mount point and a staging directory of its own, and leaves none of them behind. The program
//! runs in front, so that its end is this test's to see; what it said is printed when a test fails.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cosmount::emulator::{Action, Config, Counters, Op, Rule, Server};
use nix::{sys::signal::Signal, unistd::Pid};

/// The bucket of every test.
pub const BUCKET: &str = "example-1250000000";
const PATTERN: u32 = 1 << 20;

/// What a mount of a test is started with.
#[derive(Debug, Default)]
pub struct Builder {
    args: Vec<String>,
    environment: Vec<(String, String)>,
    config: Option<Config>,
    server: Option<Arc<Server>>,
    prefix: String,
    without_staging: bool,
    staging: Option<String>,
    under: Vec<String>,
}

/// A running mount. Dropping it unmounts and stops everything.
#[derive(Debug)]
pub struct Mounted {
    server: Arc<Server>,
    directory: Arc<tempfile::TempDir>,
    prefix: String,
    environment: Vec<(String, String)>,
    args: Vec<String>,
    without_staging: bool,
    staging: Option<String>,
    under: Vec<String>,
    child: Option<Child>,
}

impl Builder {
    /// Adds a flag.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds flags.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Adds a variable to the program's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the emulator like this.
    pub fn emulator(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Uses this emulator, which has the bucket.
    pub fn on(mut self, server: Arc<Server>) -> Self {
        self.server = Some(server);
        self
    }

    /// Mounts what is below this prefix (ending in `/`).
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Mounts with `--staging none`.
    pub fn without_staging(mut self) -> Self {
        self.without_staging = true;
        self
    }

    /// Mounts with this `--staging`.
    pub fn staging(mut self, words: impl Into<String>) -> Self {
        self.staging = Some(words.into());
        self
    }

    /// Runs the program by this command, which must not stand between it and its parent: `strace -D …`.
    pub fn under(mut self, command: &[&str]) -> Self {
        self.under = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts the emulator and mounts.
    pub fn start(self) -> Mounted {
        let fresh = || Arc::new(Server::start(self.config.unwrap_or_else(|| Config::with_bucket(BUCKET))).unwrap());
        let server = self.server.unwrap_or_else(fresh);
        let directory = Arc::new(tempfile::Builder::new().prefix("cosmount-test-").tempdir().unwrap());
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let Self { prefix, environment, args, without_staging, staging, under, .. } = self;
        let mut mounted = Mounted { server, directory, prefix, environment, args, without_staging, staging, under, child: None };
        mounted.mount();
        mounted
    }
}

impl Mounted {
    /// A mount with default options.
    pub fn new() -> Self {
        Builder::default().start()
    }

    /// A mount with other options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A second mount of the same bucket, with default options.
    pub fn second(&self) -> Self {
        self.second_with(&[])
    }

    /// A second mount of the same bucket, with these flags.
    pub fn second_with(&self, args: &[&str]) -> Self {
        let directory = Arc::new(tempfile::Builder::new().prefix("cosmount-test-").tempdir().unwrap());
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let mut mounted = Self {
            server: Arc::clone(&self.server),
            directory,
            prefix: self.prefix.clone(),
            environment: Vec::new(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            without_staging: false,
            staging: None,
            under: Vec::new(),
            child: None,
        };
        mounted.mount();
        mounted
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let program = env!("CARGO_BIN_EXE_cosmount");
        let mut words = self.under.iter().map(String::as_str).chain([program]);
        Command::new(words.next().unwrap())
            .args(words)
            .arg("mount")
            .arg(format!("cos://{BUCKET}/{}", self.prefix))
            .arg(self.path())
            .args(["-f", "--region", "ap-guangzhou", "--endpoint", &self.server.endpoint()])
            .arg("--staging")
            .arg(match &self.staging {
                Some(words) => PathBuf::from(words),
                None if self.without_staging => PathBuf::from("none"),
                None => self.staging(),
            })
            .args(&self.args)
            .envs([("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey"), ("COSMOUNT_CONFIG", "/dev/null")])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn mount(&mut self) {
        let child = self.spawn();
        let child = self.child.insert(child);
        let start = Instant::now();
        let path = fs::canonicalize(self.directory.path()).unwrap().join("mnt");
        while !is_mounted(&path) {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the mount ended with {status}: {}", fs::read_to_string(self.directory.path().join("log")).unwrap());
            }
            assert!(start.elapsed() < Duration::from_secs(30), "not mounted after 30 s");
            pause();
        }
    }

    /// Unmounts, waits for the program's good end, and mounts again.
    pub fn remounted(self) -> Self {
        let args = self.args.clone();
        self.remounted_with(&args)
    }

    /// As [`Mounted::remounted`], with these flags.
    pub fn remounted_with(mut self, args: &[impl AsRef<str>]) -> Self {
        self.unmount();
        self.args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        self.mount();
        self
    }

    /// Unmounts and waits for the program's good end.
    pub fn unmount(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "the mount ended with {status}: {}", self.log());
        assert!(!is_mounted(&self.path()), "still mounted");
    }

    /// Unmounts and waits for the program's end, good or not.
    pub fn terminate(&mut self) -> ExitStatus {
        signal(self.child.as_ref().unwrap(), Signal::SIGTERM);
        self.ended()
    }

    /// Waits for the end of a program that has a reason to end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > Duration::from_secs(120) {
                self.child = Some(child);
                panic!("the mount has not ended after 120 s: {}", self.log());
            }
            pause();
        }
    }

    /// Ends the program as a power cut would, and clears the mount point.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        detach(&self.path());
    }

    /// Mounts again after [`Mounted::kill`] or [`Mounted::unmount`].
    pub fn start_again(&mut self) {
        self.mount();
    }

    /// Mounts where that is to fail; returns how the program ended, and all that it ever said.
    pub fn try_again(&mut self) -> (ExitStatus, String) {
        self.child = Some(self.spawn());
        (self.ended(), self.log())
    }

    /// The mount point.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The staging directory, if there is one.
    pub fn staging(&self) -> PathBuf {
        self.directory.path().join("staging")
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What the program said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where what the program says is written.
    pub fn log_file(&self) -> PathBuf {
        self.log_path()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The emulator.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// An object's bytes, as the bucket has them.
    pub fn object(&self, key: &str) -> Bytes {
        self.try_object(key).unwrap_or_else(|| panic!("no object {key:?} among {:?}", self.keys("")))
    }

    /// An object's bytes, if it is there.
    pub fn try_object(&self, key: &str) -> Option<Bytes> {
        self.server.get(BUCKET, key).map(|object| object.body)
    }

    /// An object's headers by lower-case name, as HEAD shows them.
    pub fn headers(&self, key: &str) -> BTreeMap<String, String> {
        let object = self.server.get(BUCKET, key).unwrap_or_else(|| panic!("no object {key:?}"));
        object.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
    }

    /// The keys that begin so.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.server.keys(BUCKET, prefix)
    }

    /// All keys, once `condition` holds for them (at most 20 s).
    pub fn keys_when(&self, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        wait(Duration::from_secs(20), || condition(&self.keys("")));
        self.keys("")
    }

    /// Another writer's PUT.
    pub fn put(&self, key: &str, body: &[u8], headers: &[(&str, &str)]) {
        self.server.put(BUCKET, key, Bytes::copy_from_slice(body), headers).unwrap();
    }

    /// Another writer's large object of a known pattern.
    pub fn put_pattern(&self, key: &str, size: u64) {
        let block: Vec<u8> = (0..PATTERN).map(|n| (n.wrapping_mul(2_654_435_761) >> 16) as u8).collect();
        self.server.put_repeated(BUCKET, key, block, size).unwrap();
    }

    /// The byte at `offset` of what [`Mounted::put_pattern`] makes.
    pub fn pattern_at(&self, offset: u64) -> u8 {
        (((offset % u64::from(PATTERN)) as u32).wrapping_mul(2_654_435_761) >> 16) as u8
    }

    /// Another writer's DELETE.
    pub fn delete(&self, key: &str) {
        assert!(self.server.delete(BUCKET, key));
    }

    /// How many uploads are open.
    pub fn uploads(&self) -> usize {
        self.server.uploads(BUCKET).len()
    }

    /// Requests and bytes since the last [`Server::clear_log`].
    pub fn counters(&self) -> Counters {
        self.server.counters()
    }

    /// Adds a fault that ends when the guard is dropped.
    pub fn fault(&self, rules: impl IntoIterator<Item = Rule>) -> FaultGuard<'_> {
        FaultGuard { server: &self.server, ids: rules.into_iter().map(|rule| self.server.faults().add(rule)).collect() }
    }

    /// The most memory the program has held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            signal(child, Signal::SIGTERM);
            let ended = wait(Duration::from_secs(if std::thread::panicking() { 5 } else { 60 }), || child.try_wait().unwrap().is_some());
            if !ended {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            if is_mounted(&self.directory.path().join("mnt")) {
                detach(&self.directory.path().join("mnt"));
            }
            assert!(ended || std::thread::panicking(), "the mount did not end after SIGTERM: {}", self.log());
        }
        if std::thread::panicking() {
            eprintln!("--- the mount said:\n{}---", self.log());
        }
    }
}

/// A fault in force.
#[derive(Debug)]
pub struct FaultGuard<'a> {
    server: &'a Server,
    ids: Vec<u64>,
}

impl FaultGuard<'_> {
    /// Leaves the rules in force.
    pub fn keep(mut self) {
        self.ids.clear();
    }

    /// How often they struck.
    pub fn struck(&self) -> u64 {
        self.ids.iter().map(|id| self.server.faults().struck(*id)).sum()
    }
}

impl Drop for FaultGuard<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            self.server.faults().remove(*id);
        }
    }
}

/// Rules that refuse every kind of write with this status and code.
pub fn refuse_writes(status: u16, code: &str) -> Vec<Rule> {
    [Op::PutObject, Op::InitiateUpload, Op::UploadPart, Op::CompleteUpload]
        .into_iter()
        .map(|op| Rule::on(op, Action::status(status, code)))
        .collect()
}

/// Runs a shell script in `directory`; it must succeed. Returns what it printed.
pub fn sh(directory: impl AsRef<Path>, script: &str) -> String {
    let done = Command::new("timeout")
        .args(["300", "bash", "-ec", script])
        .current_dir(directory)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{script}\n{}: {}{}", done.status, text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// Calls the official Python SDK on the mount's bucket; `tests/mount/sdk.py` has the commands.
pub fn sdk(mount: &Mounted, words: &[&str]) -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = std::env::var_os("COSMOUNT_PY").map_or_else(|| root.join("target/testenv/venv/bin/python"), PathBuf::from);
    assert!(python.exists(), "{} is missing: run scripts/testenv, or name another in COSMOUNT_PY", python.display());
    let done =
        Command::new(python).arg(root.join("tests/mount/sdk.py")).args([&mount.server().endpoint(), BUCKET]).args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Makes a tree of `files` files: sizes, modes, times and names of many kinds, with symlinks and empty directories.
pub fn write_tree(root: &Path, files: usize) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for n in 0..files {
        let directory = root.join(format!("d{}", n % 17));
        fs::create_dir_all(&directory).unwrap();
        let name = match n % 5 {
            3 => format!("name with spaces {n}.txt"),
            4 => format!("\u{fc}n\u{ef}code-{n}.html"),
            _ => format!("f{n}"),
        };
        let path = directory.join(name);
        let size = match n % 100 {
            0 => 300_000,
            50 => 0,
            _ => n * 7919 % 9000,
        };
        fs::write(&path, (0..size).map(|i| ((i * 31 + n) % 251) as u8).collect::<Vec<u8>>()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode([0o644, 0o600, 0o755, 0o444][n % 4])).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::new(1_500_000_000 + n as u64 * 1000, (n as u32 * 1_234_567) % 1_000_000_000);
        File::options().read(true).open(&path).unwrap().set_modified(time).unwrap();
        if n % 40 == 0 {
            symlink(format!("../d1/f{n}"), directory.join(format!("link{n}"))).unwrap();
            fs::create_dir_all(directory.join(format!("empty{n}"))).unwrap();
        }
    }
}

/// Appends what a long test gave to the file that `COSMOUNT_RESULT` names.
pub fn record(result: &str) {
    use std::io::Write;
    if let Some(path) = std::env::var_os("COSMOUNT_RESULT") {
        writeln!(File::options().create(true).append(true).open(path).unwrap(), "{result}").unwrap();
    }
}

/// A running CRC-64 of what passes.
pub fn checksum() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz)
}

/// Waits until `condition` holds, at most `limit`; says whether it did.
pub fn wait(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        pause();
    }
    true
}

fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

fn signal(child: &Child, signal: Signal) {
    // It may have ended by itself.
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into().unwrap()), signal).ok();
}

fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str() && line.contains(" - fuse"))
}

fn detach(path: &Path) {
    nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).unwrap();
}
