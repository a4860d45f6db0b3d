//! Credentials that a command prints: JSON or `NAME=VALUE` lines, as in a token file.
//!
//! The command runs through `sh -c` in a process group of its own, without standard input and without any variable that could hold a secret. It
//! has [`LIMIT`] to end and [`LONGEST`] bytes to say; then the whole group is killed, also when nobody waits for the answer any more. What it
//! prints is never shown; of what it says on standard error the beginning is, if it fails.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use nix::{
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::pipe,
};

use crate::store::cos::credentials::{Credentials, Fixed, NoCredentials, Pace, Secret, Source, formats};
use crate::support::{Clock, Ctx};

/// How long a command may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// Most bytes on standard output.
const LONGEST: usize = 64 << 10;

/// Bytes on standard error that are kept; the rest is let go.
const KEPT: usize = 1 << 10;

/// How often a command that has closed its output is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A command.
pub(super) struct Command {
    script: String,
    clock: Arc<dyn Clock>,
    limit: Duration,
}

impl Command {
    pub(super) fn new(script: &str, clock: Arc<dyn Clock>) -> Self {
        Self { script: script.to_owned(), clock, limit: LIMIT }
    }

    async fn run(&self) -> Result<Said, String> {
        let script = self.script.clone();
        let start = tokio::task::spawn_blocking(move || Running::start(&script)).await;
        let mut running = start.map_err(|_| "it was given up".to_owned())?.map_err(|error| format!("cannot start it: {error}"))?;
        let (out, err) = running.pipes().map_err(|error| format!("no pipe: {error}"))?;
        let cx = Ctx::background(Arc::clone(&self.clock), self.limit);
        let said = cx.bounded(async {
            let (out, err) = tokio::join!(all_of(out, LONGEST), beginning_of(err));
            let out = out?;
            loop {
                if let Some(status) = running.ended().map_err(|error| format!("cannot wait for it: {error}"))? {
                    return Ok(Said { status, out, err });
                }
                self.clock.sleep(LOOK).await;
            }
        });
        said.await.map_err(|_| format!("it has not ended after {} s and was killed", self.limit.as_secs()))?
    }
}

/// What a command said.
struct Said {
    status: ExitStatus,
    out: Secret,
    err: Vec<u8>,
}

#[async_trait]
impl Source for Command {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        const ORIGIN: &str = "the command";
        let away = |why: String| NoCredentials::away(format!("{ORIGIN}: {why}"));
        let said = self.run().await.map_err(away)?;
        if !said.status.success() {
            let err = formats::shortened(&String::from_utf8_lossy(&said.err));
            let err = if err.is_empty() { "it said nothing".to_owned() } else { format!("it said: {err}") };
            return Err(away(format!("{}; {err}", said.status)));
        }
        let text = std::str::from_utf8(&said.out.0).map_err(|_| away("what it printed is not text".to_owned()))?;
        formats::token(text).map_err(|why| away(format!("what it printed: {why}")))?.from(ORIGIN).checked()
    }

    fn pace(&self) -> Pace {
        Pace::Ends
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command(***)")
    }
}

/// A command's process group. Dropping it kills what is left of it.
struct Running {
    child: Option<Child>,
}

impl Running {
    fn start(script: &str) -> std::io::Result<Self> {
        let mut command = std::process::Command::new("/bin/sh");
        command.arg("-c").arg(script).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in Fixed::variables() {
            command.env_remove(name);
        }
        command.spawn().map(|child| Self { child: Some(child) })
    }

    fn pipes(&mut self) -> std::io::Result<(pipe::Receiver, pipe::Receiver)> {
        let gone = || std::io::Error::other("taken already");
        let child = self.child.as_mut().ok_or_else(gone)?;
        let (out, err) = child.stdout.take().zip(child.stderr.take()).ok_or_else(gone)?;
        Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(out))?, pipe::Receiver::from_owned_fd(OwnedFd::from(err))?))
    }

    /// How it ended, if it has. What it left in the background is killed then: as long as nobody has asked how it ended, its group's number
    /// is not anybody else's.
    fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if waitid(Id::Pid(group_of(child)), flags)? == WaitStatus::StillAlive {
            return Ok(None);
        }
        killpg(group_of(child), Signal::SIGKILL).ok();
        let status = child.wait()?;
        self.child = None;
        Ok(Some(status))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // One that is gone needs no killing.
        killpg(group_of(&child), Signal::SIGKILL).ok();
        // A killed process is gone at once, unless it waits for a disk; its parent must ask, or it stays as a zombie.
        if child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::spawn(move || child.wait());
        }
    }
}

/// A process group has the number of its first process.
fn group_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids are positive i32"))
}

/// Everything up to the end, which must come within `limit` bytes.
async fn all_of(mut pipe: impl AsyncRead + Unpin, limit: usize) -> Result<Secret, String> {
    // Room for all of it at once, so that no copy is left behind when it grows.
    let mut all = Secret(Vec::with_capacity(limit + 1));
    loop {
        let room = limit + 1 - all.0.len();
        if room == 0 {
            return Err(format!("it prints more than {} KiB", limit >> 10));
        }
        match (&mut pipe).take(room as u64).read_buf(&mut all.0).await {
            Ok(0) => return Ok(all),
            Ok(_) => {}
            Err(error) => return Err(format!("cannot read what it prints: {error}")),
        }
    }
}

/// The first bytes. The rest is read too, or the command would wait.
async fn beginning_of(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend(buffer.iter().take(count.min(KEPT - kept.len())));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::SystemClock;

    fn command(script: &str) -> Command {
        Command::new(script, Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn what_a_command_prints_is_taken() {
        let found = command("echo talk >&2; echo '{\"TmpSecretId\":\"AKIDx\",\"TmpSecretKey\":\"k\",\"Token\":\"t\",\"ExpiredTime\":7}'")
            .fetch()
            .await
            .unwrap();
        assert_eq!((found.id(), found.token(), found.origin()), ("AKIDx", Some(&b"t"[..]), "the command"));
        let lines = command("echo COS_SECRET_ID=AKIDx; echo COS_SECRET_KEY=k").fetch().await.unwrap();
        assert!(!lines.is_temporary());
    }

    #[tokio::test]
    async fn one_that_fails_says_why_and_not_what_it_printed() {
        for (script, words) in [
            ("echo hush; printf 'no \\033[1m ticket' >&2; exit 3", r"exit status: 3; it said: no \u{1b}[1m ticket"),
            ("echo hush; kill -9 $$", "signal: 9"),
            ("echo hush", "neither an id nor a key"),
            ("exec head -c 100000 /dev/zero", "more than 64 KiB"),
            ("head -c 300000 /dev/zero >&2; exit 1", "exit status: 1"),
            ("exec /nonexistent/program", "exit status: 127"),
        ] {
            let error = command(script).fetch().await.unwrap_err();
            assert!(error.to_string().contains(words) && !error.to_string().contains("hush"), "{script}: {error}");
            assert!(error.may_pass() && error.to_string().len() < 3000);
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let command = Command { limit: Duration::from_secs(2), ..command(&format!("sleep 1000 & echo $! $$ > {}; wait", pids.display())) };
        let error = command.fetch().await.unwrap_err();
        assert!(error.to_string().contains("after 2 s and was killed") && error.may_pass(), "{error}");
        let pids = std::fs::read_to_string(&pids).unwrap();
        assert_eq!(pids.split_whitespace().count(), 2);
        for pid in pids.split_whitespace() {
            assert!(ends(pid).await, "{pid} lives");
        }
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_ends_with_it() {
        let found = command("sleep 1000 >/dev/null 2>&1 & echo SECRET_ID=$!; echo SECRET_KEY=k").fetch().await.unwrap();
        assert!(ends(found.id()).await);
    }

    async fn ends(pid: &str) -> bool {
        for _ in 0..500 {
            if std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z ")) {
                return true;
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        false
    }
}
