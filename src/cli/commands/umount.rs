//! `cosmount umount`: stops the process behind a mount and waits for its end.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow};

use crate::cli::args::Umount;
use crate::cli::commands::resolve;
use crate::cli::{Failure, SYSTEM, USAGE, environment};
use crate::mount::Mounted;
use crate::mount::daemon::{Served, Status};
use crate::support::{ByteSize, Clock, SystemClock};

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Seconds without news after which that is said.
const QUIET: u64 = 5;

pub(in crate::cli) fn run(umount: &Umount) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let mount_point = resolve(&umount.mountpoint).context("the mount point").map_err(|error| Failure::new(USAGE, error))?;
    let mounted = Mounted::find(&mount_point).context("/proc/self/mountinfo").map_err(system)?;
    let directory = environment::runtime_directory();
    let served = Served::find(&directory, &mount_point, mounted.as_ref().map(Mounted::device)).map_err(system)?;
    match (served, mounted) {
        // Another mount namespace's: what is seen here is a copy of the mount, and the process serves the original.
        (Some(served), Some(copy)) if served.is_elsewhere() => copy.unmount().map_err(system),
        (Some(_), Some(mounted)) if umount.lazy => mounted.unmount().map_err(system),
        (Some(served), mounted) => stop(served, mounted.as_ref(), &mount_point, umount.force).map_err(system),
        (None, Some(mounted)) => {
            let dead = mounted.is_dead();
            mounted.unmount().map_err(system)?;
            let shown = mount_point.display();
            if dead {
                eprintln!("{shown}: the process that served it has died; what close or fsync had not confirmed is lost");
                return Ok(());
            }
            Err(system(anyhow!(
                "{shown}: unmounted, but the process that serves it is not this user's, or has registered elsewhere ({}): it sends what it has \
                 behind this, so let it end (pgrep -a cosmount) before this host goes down",
                directory.display()
            )))
        }
        (None, None) => Err(Failure::new(USAGE, anyhow!("{} is not mounted by cosmount", mount_point.display()))),
    }
}

/// Sends SIGTERM and follows the process to its end.
fn stop(mut served: Served, mounted: Option<&Mounted>, mount_point: &Path, force: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    // One that is being stopped already, by an umount that was given up, would take another signal for haste and lose what it has not sent.
    if !matches!(served.last_status()?, Some(Status::Draining { .. } | Status::Ended { .. })) {
        served.stop()?;
    }
    let (mut told, mut force) = (Told::default(), force);
    while served.is_alive() {
        runtime.block_on(async { SystemClock.sleep(LOOK).await });
        let status = served.last_status()?;
        // The first stop lets it send what it can without waiting; the second ends it.
        if force && matches!(status, Some(Status::Draining { .. })) {
            force = false;
            served.stop()?;
        }
        if let Some(Status::Draining { bytes, files, idle, limit }) = status
            && files > 0
            && told.is_news(bytes, idle)
        {
            let (shown, bytes) = (mount_point.display(), rounded(bytes));
            let waits = if idle < QUIET { String::new() } else { format!(", nothing has moved for {idle} s of {limit} s") };
            eprintln!("{shown}: {bytes} in {files} files to send{waits}");
        }
    }
    if let Some(mounted) = mounted {
        mounted.unmount()?;
    }
    match served.last_status()? {
        Some(Status::Ended { files: 0, noted: 0, .. }) => Ok(()),
        Some(Status::Ended { files: 0, noted, .. }) => Err(anyhow!(
            "{}: unmounted, but {noted} removals and changes of attributes are not in COS: the next mount with the same staging sends them",
            mount_point.display()
        )),
        Some(Status::Ended { files, bytes, which, .. }) => Err(anyhow!(
            "{}: unmounted, but changes of {files} files ({}) are not in COS: no close or fsync has confirmed them, and they are lost: {}{}",
            mount_point.display(),
            rounded(bytes),
            which.join(", "),
            if which.len() < files { ", and more, which the log names" } else { "" }
        )),
        _ => Err(anyhow!("{}: process {} ended without saying how; its log says more", mount_point.display(), served.pid())),
    }
}

/// What was said of a drain.
#[derive(Debug, Default)]
struct Told {
    bytes: Option<u64>,
    idle: u64,
}

impl Told {
    /// Whether there is something to say: bytes have gone, or none for another while.
    fn is_news(&mut self, bytes: u64, idle: u64) -> bool {
        let moved = self.bytes.replace(bytes) != Some(bytes);
        self.idle = self.idle.min(idle);
        let quiet = idle >= self.idle + QUIET;
        if quiet {
            self.idle = idle;
        }
        moved || quiet
    }
}

/// To whole MiB above one, for people.
fn rounded(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{bytes} bytes") } else { ByteSize::mib(bytes.div_ceil(1 << 20)).to_string() }
}
