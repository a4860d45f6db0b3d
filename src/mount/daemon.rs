//! Background processes without fork(2): the program starts itself again.
//!
//! 1. *Who waits for whom.* The process that was typed ([`launch`]) starts the same program with the same words and waits until it says that the
//!    mount works or why not ([`Parent`]). Standard input and output of the child are the two pipes; both end when one of them dies.
//! 2. *Secrets.* Variables with secrets are not in the child's environment, where every process of the same user could read them for ever; their
//!    values travel through the pipe. A mount in front replaces itself in the same way ([`replace`]).
//! 3. *Finding it again.* A mount registers itself ([`Registration`]) in a directory of its user's: one file per process, locked while the
//!    process lives, so a recycled process id fools nobody. `cosmount umount` finds the process there, and reads there how its end went.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, PipeReader, Read, Seek, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use nix::{
    fcntl::{Flock, FlockArg, OFlag},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
    },
    unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, geteuid, setsid},
};
use serde::{Deserialize, Serialize};

use crate::mount::session::Mounted;

/// The program as it is to be started again.
#[derive(Clone)]
pub struct Restart {
    /// The words behind the program's name.
    pub arguments: Vec<OsString>,
    /// Values for the new process, by variable name. Never shown.
    pub secrets: Vec<(String, String)>,
    /// Variables that the new process must not have.
    pub remove: Vec<String>,
    /// A variable that tells the new process what it is.
    pub mark: (&'static str, &'static str),
}

impl std::fmt::Debug for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restart").field("arguments", &self.arguments).field("mark", &self.mark).finish_non_exhaustive()
    }
}

impl Restart {
    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cosmount").args(&self.arguments).env(self.mark.0, self.mark.1);
        for name in &self.remove {
            command.env_remove(name);
        }
        // A pipe takes 64 KiB before it makes anybody wait, and secrets are short: nobody needs to read yet.
        let secrets = serde_json::to_string(&self.secrets)?;
        if secrets.len() > PIPE {
            return Err(io::Error::other(format!("the variables with credentials hold more than {} KiB", PIPE >> 10)));
        }
        let (read, mut write) = io::pipe()?;
        write.write_all(secrets.as_bytes())?;
        command.stdin(OwnedFd::from(read));
        Ok(command)
    }
}

/// What a pipe takes without a reader (pipe(7)).
const PIPE: usize = 64 << 10;

/// How a background process that was launched began.
#[derive(Debug)]
pub enum Launched {
    /// It mounted; its process id.
    Ready(u32),
    /// It ended: exit code and what it had to say.
    Failed(u8, String),
}

/// What the child says when the mount works.
const READY: &str = "ready";

/// Starts the program again in the background and waits until it has mounted or failed.
///
/// # Errors
/// It could not be started.
pub fn launch(program: &Restart) -> anyhow::Result<Launched> {
    let (status, theirs) = io::pipe()?;
    let mut child = {
        let mut command = program.command()?;
        command.stdout(OwnedFd::from(theirs));
        command.spawn().context("cannot start this program again in the background")?
    };
    let (first, rest) = read_status(status)?;
    if first == READY {
        return Ok(Launched::Ready(child.id()));
    }
    let ended = child.wait()?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(match (code, ended.signal()) {
        (_, Some(signal)) => Launched::Failed(32, format!("the background process was ended by signal {signal} before it had mounted")),
        (code, None) if first.is_empty() => Launched::Failed(code.unwrap_or(32), "the background process ended without a word".to_owned()),
        (code, None) => Launched::Failed(code.unwrap_or(32), first + &rest),
    })
}

/// The first line, without its end, and everything behind it unless the first line says all.
fn read_status(status: PipeReader) -> io::Result<(String, String)> {
    let mut reader = BufReader::new(status);
    let (mut first, mut rest) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    if first.trim_end() == READY {
        return Ok((READY.to_owned(), rest));
    }
    reader.read_to_string(&mut rest)?;
    Ok((first, rest))
}

/// Becomes the program anew, without secrets in the environment. Returns only if that failed.
///
/// # Errors
/// The system's.
pub fn replace(program: &Restart) -> io::Error {
    match program.command() {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    }
}

/// The secrets a [`Restart`] sent; standard input is empty from then on.
///
/// # Errors
/// Nothing was sent: somebody set the mark by hand.
pub fn receive_secrets() -> anyhow::Result<Vec<(String, String)>> {
    let mut text = String::new();
    io::stdin().lock().take(1 << 20).read_to_string(&mut text)?;
    dup2_stdin(null()?)?;
    serde_json::from_str(&text).context("this process was to be given secrets by the one that started it, and was not")
}

/// The process that waits for this one to have mounted.
#[derive(Debug)]
pub struct Parent(());

impl Parent {
    /// For a process that was [`launch`]ed. It stays in its parent's process group until it has mounted: by the group autofs knows whom it must
    /// let through to the mount point that it keeps everybody else waiting for.
    pub fn waiting() -> Self {
        Self(())
    }

    /// The mount works. From now on this process is alone, and has no terminal.
    ///
    /// # Errors
    /// Nobody waits any more: the user has given up, and so should we.
    pub fn ready(self) -> io::Result<()> {
        // Fails only for the leader of a group, and then there is no terminal to leave.
        setsid().ok();
        writeln!(io::stdout(), "{READY}")?;
        let null = null()?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(chdir("/")?)
    }

    /// The mount failed, and this is why.
    pub fn failed(self, why: &str) {
        // Nobody left to tell is no further error.
        write!(io::stdout(), "{why}").and_then(|()| io::stdout().flush()).ok();
    }
}

fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

/// No other process of this user may look into this one, and no core file holds its memory.
pub fn hide_memory() {
    if let Err(error) = prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0)) {
        tracing::warn!(%error, "other processes of this user may read this one's memory");
    }
    prctl::set_name(c"cosmount").ok();
}

/// What a mount tells about itself, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The first line.
    Mounted {
        /// The process that serves it.
        pid: i32,
        /// Where it is.
        mount_point: PathBuf,
        /// Its device number.
        device: String,
    },
    /// It is being stopped; so many dirty bytes are to be sent.
    Draining {
        /// Dirty bytes in memory and staging.
        bytes: u64,
        /// Files they belong to.
        #[serde(default)]
        files: usize,
        /// Seconds since anything moved.
        #[serde(default)]
        idle: u64,
        /// Seconds of that after which it gives up.
        #[serde(default)]
        limit: u64,
    },
    /// It has stopped, and this is not in COS.
    Ended {
        /// Files with changes.
        files: usize,
        /// Their dirty bytes.
        bytes: u64,
        /// Some of them, each with its bytes, as a person would write it.
        #[serde(default)]
        which: Vec<String>,
        /// Removals and changes of attributes that the next mount sends.
        #[serde(default)]
        noted: usize,
    },
}

/// This mount's file in the runtime directory; removed when dropped.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    file: Flock<File>,
}

impl Registration {
    /// Registers this process as the one that serves `mounted`.
    ///
    /// # Errors
    /// The directory cannot be made, or is not ours alone.
    pub fn new(directory: &Path, mounted: &Mounted) -> anyhow::Result<Self> {
        own_directory(directory)?;
        let path = directory.join(format!("{}.{}", std::process::id(), mounted.device().replace(':', "-")));
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Waits for nobody but those who look at it for a moment.
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        file.set_len(0)?;
        let pid = i32::try_from(std::process::id())?;
        let registration = Self { path, file };
        registration.say(&Status::Mounted { pid, mount_point: mounted.mount_point().to_owned(), device: mounted.device().to_owned() })?;
        Ok(registration)
    }

    /// Where questions to this mount are to be asked.
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.path)
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn say(&self, status: &Status) -> io::Result<()> {
        let line = serde_json::to_string(status)? + "\n";
        (&*self.file).write_all(line.as_bytes())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        fs::remove_file(self.socket()).ok();
        fs::remove_file(&self.path).ok();
    }
}

/// A mount's process, seen from another.
#[derive(Debug)]
pub struct Served {
    pid: Pid,
    file: File,
    path: PathBuf,
}

impl Served {
    /// The living process that serves the mount at `mount_point`: that of `device`, or, where no mount is left, any that has not ended yet.
    /// Files that dead ones left are removed.
    ///
    /// # Errors
    /// The directory is there and cannot be read, or is not ours alone.
    pub fn find(directory: &Path, mount_point: &Path, device: Option<&str>) -> anyhow::Result<Option<Self>> {
        if !directory.exists() {
            return Ok(None);
        }
        own_directory(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let Ok(file) = OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(&path) else { continue };
            if !is_locked(&file) {
                // An empty one is about to be locked.
                if file.metadata()?.len() > 0 {
                    fs::remove_file(socket_of(&path)).ok();
                    fs::remove_file(&path).ok();
                }
                continue;
            }
            let mut first = String::new();
            BufReader::new(&file).read_line(&mut first)?;
            let Ok(Status::Mounted { pid, mount_point: at, device: number }) = serde_json::from_str(&first) else { continue };
            // Another mount at the same place lies below this one: it is not the one that was meant.
            if at == mount_point && device.is_none_or(|device| device == number) {
                return Ok(Some(Self { pid: Pid::from_raw(pid), file, path }));
            }
        }
        Ok(None)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Where it answers questions.
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.path)
    }

    /// Asks it to stop. A second time: to stop at once.
    ///
    /// # Errors
    /// It is somebody else's.
    pub fn stop(&self) -> anyhow::Result<()> {
        kill(self.pid, Signal::SIGTERM).with_context(|| format!("cannot stop process {}", self.pid))
    }

    /// Whether it serves a mount of another mount namespace than this process's. Unknown (another user's) counts as no.
    pub fn is_elsewhere(&self) -> bool {
        let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
        namespace(&self.pid.to_string()).zip(namespace("self")).is_some_and(|(theirs, ours)| theirs != ours)
    }

    /// Whether it still lives.
    pub fn is_alive(&self) -> bool {
        is_locked(&self.file)
    }

    /// The last thing it said.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn last_status(&mut self) -> io::Result<Option<Status>> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        Ok(text.lines().rev().find_map(|line| serde_json::from_str(line).ok()))
    }
}

/// The socket beside a registration.
fn socket_of(registration: &Path) -> PathBuf {
    let mut path = registration.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Whether a living process holds it. The lock is tried on another open file, or this one's own would be taken for somebody else's.
fn is_locked(file: &File) -> bool {
    file.try_clone().is_ok_and(|file| match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(lock) => {
            lock.unlock().ok();
            false
        }
        Err(_) => true,
    })
}

/// Makes the directory 0700 if it is not there. One that somebody else could have put things into is refused.
fn own_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("cannot make the directory {}", path.display()))?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        bail!("{} cannot be trusted: it must be a directory of this user that nobody else can write to", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(dir: &Path) -> Mounted {
        Mounted::pretend(dir, "0:4242")
    }

    #[test]
    fn a_registered_mount_is_found_while_its_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, at) = (dir.path().join("run"), Path::new("/mnt/x"));
        assert!(Served::find(&runtime, at, None).unwrap().is_none());
        let registration = Registration::new(&runtime, &mounted(at)).unwrap();
        let mut served = Served::find(&runtime, at, Some("0:4242")).unwrap().unwrap();
        assert_eq!(served.pid(), i32::try_from(std::process::id()).unwrap());
        assert!(Served::find(&runtime, Path::new("/mnt/y"), None).unwrap().is_none());
        assert!(Served::find(&runtime, at, Some("0:4243")).unwrap().is_none(), "a mount on top of it is another");
        assert!(Served::find(&runtime, at, None).unwrap().is_some(), "unmounted, and still sending");
        registration.say(&Status::Draining { bytes: 5, files: 1, idle: 0, limit: 600 }).unwrap();
        registration.say(&Status::Ended { files: 1, bytes: 2, which: vec!["a (2)".to_owned()], noted: 0 }).unwrap();
        assert!(served.is_alive());
        drop(registration);
        assert!(!served.is_alive());
        assert_eq!(
            served.last_status().unwrap(),
            Some(Status::Ended { files: 1, bytes: 2, which: vec!["a (2)".to_owned()], noted: 0 }),
            "what it said outlives it"
        );
    }

    #[test]
    fn what_a_dead_process_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let registration = Registration::new(dir.path(), &mounted(Path::new("/mnt/x"))).unwrap();
        let path = registration.path.clone();
        let Registration { file, .. } = &registration;
        let text = fs::read(&path).unwrap();
        file.sync_all().unwrap();
        drop(registration);
        fs::write(&path, text).unwrap();
        assert!(Served::find(dir.path(), Path::new("/mnt/x"), None).unwrap().is_none());
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Registration::new(dir.path(), &mounted(Path::new("/mnt/x"))).unwrap_err();
        assert!(error.to_string().contains("cannot be trusted"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let restart = Restart { arguments: vec![], secrets: vec![("K".into(), "hush".into())], remove: vec![], mark: ("M", "1") };
        assert!(!format!("{restart:?}").contains("hush"));
    }

    #[test]
    fn secrets_that_no_pipe_takes_are_refused_and_hold_nobody_up() {
        let secrets = vec![("COS_SESSION_TOKEN".to_owned(), "x".repeat(PIPE))];
        let restart = Restart { arguments: vec![], secrets, remove: vec![], mark: ("M", "1") };
        assert!(restart.command().unwrap_err().to_string().contains("64 KiB"));
    }

    #[test]
    fn the_status_of_a_child_is_read_to_its_end_unless_it_is_ready() {
        let (status, mut theirs) = io::pipe().unwrap();
        writeln!(theirs, "{READY}").unwrap();
        assert_eq!(read_status(status).unwrap().0, READY, "the pipe is still open at the other end");
        let (status, mut theirs) = io::pipe().unwrap();
        write!(theirs, "no such bucket\nmore").unwrap();
        drop(theirs);
        assert_eq!(read_status(status).unwrap(), ("no such bucket\n".to_owned(), "more".to_owned()));
    }
}
