//! What a mount needs of this host: `/dev/fuse` or `fusermount3`, `/etc/fuse.conf`, a directory for staging; asked before anything is mounted, and by
//! `cosmount doctor` one by one. Looking leaves nothing behind.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{errno::Errno, unistd::geteuid};

use crate::local::HostDisk;
use crate::mount::advice::Fault;
use crate::mount::build::{open_staging, room, staging_limit};
use crate::mount::session::Audience;
use crate::mount::settings::{Settings, Staging};
use crate::support::ByteSize;

/// The device of the kernel's side.
pub(super) const DEVICE: &str = "/dev/fuse";
/// The program that mounts for users other than root.
pub(super) const HELPER: &str = "fusermount3";
/// Its settings.
const FUSE_CONF: &str = "/etc/fuse.conf";

/// Says whether this host can mount at all, before anybody is asked over the network.
///
/// # Errors
/// What keeps it from that.
pub(super) fn check() -> Result<(), Fault> {
    if !geteuid().is_root() {
        helper()?;
    }
    // The helper opens it with the rights of its caller.
    open_device().map(drop)
}

/// Opens `/dev/fuse`.
///
/// # Errors
/// It is not there, has no driver, or may not be opened.
pub fn open_device() -> Result<File, Fault> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| {
        let module = "load the kernel's module (modprobe fuse)";
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => {
                Fault::of_host(format!("there is no {DEVICE}"), format!("{module}, or give the container the device (--device {DEVICE})"))
            }
            Some(Errno::EACCES | Errno::EPERM) => Fault::of_host(
                format!("{DEVICE} may not be opened ({error})"),
                format!("let this user read and write it (chmod 0666 {DEVICE}), or give the container the device (--device {DEVICE})"),
            ),
            _ => Fault::of_host(format!("{DEVICE} cannot be opened ({error})"), module),
        }
    })
}

/// What `fusermount3` says of its version.
///
/// # Errors
/// It is not there.
pub fn helper() -> Result<String, Fault> {
    let output = Command::new(HELPER).arg("-V").stdin(Stdio::null()).stderr(Stdio::null()).output().map_err(no_helper)?;
    Ok(String::from_utf8_lossy(output.stdout.trim_ascii()).escape_debug().to_string())
}

pub(super) fn no_helper(error: io::Error) -> Fault {
    let why = match error.kind() {
        io::ErrorKind::NotFound => format!("mounting as another user than root needs {HELPER}, which is not in PATH"),
        _ => format!("mounting as another user than root needs {HELPER}, which cannot be run ({error})"),
    };
    Fault::of_host(why, "install it (package fuse3), or mount as root")
}

/// Whether this user may let others in.
///
/// # Errors
/// `audience` is not only the user, and `/etc/fuse.conf` does not allow that.
pub fn others(audience: Audience) -> Result<String, Fault> {
    if geteuid().is_root() {
        return Ok("root needs none".to_owned());
    }
    let allowed = fs::read_to_string(FUSE_CONF).unwrap_or_default().lines().any(|line| line.trim() == "user_allow_other");
    match (allowed, audience) {
        (true, _) => Ok(format!("set in {FUSE_CONF}")),
        (false, Audience::Owner) => Ok(format!("not set in {FUSE_CONF}, and not needed without --allow-other or --allow-root")),
        (false, _) => Err(others_refused()),
    }
}

pub(super) fn others_refused() -> Fault {
    Fault::of_host(
        format!("user_allow_other is not set in {FUSE_CONF}"),
        format!(
            "add the line user_allow_other to {FUSE_CONF}, which --allow-other and --allow-root of another user than root need, or mount without"
        ),
    )
}

/// Opens the staging directory as a mount would, says where it is and how much room it has, and leaves it as it was.
///
/// # Errors
/// A mount could not use it.
pub fn look_at_staging(settings: &Settings) -> anyhow::Result<String> {
    let (Staging::Below(path) | Staging::In(path)) = &settings.staging else { return Ok("none, as asked".to_owned()) };
    let made: Vec<PathBuf> = path.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    let lock = path.join(HostDisk::LOCK);
    let locked_before = lock.exists();
    let opened = open_staging(settings);
    let found = opened.and_then(|disk| {
        let limit = staging_limit(settings, disk.as_deref())?;
        Ok((disk, room(path)?, limit))
    });
    if let Ok((Some(disk), ..)) = &found {
        if disk.path() != path || made.first() == Some(path) {
            drop(disk.retire());
        } else if !locked_before {
            // The directory is the user's; the lock, which is held, was made here.
            drop(fs::remove_file(&lock));
        }
    }
    let (disk, room, limit) = match found {
        Ok(found) => found,
        Err(error) => {
            remove(&made);
            return Err(error);
        }
    };
    drop(disk);
    remove(&made);
    let rounded = |size: ByteSize| ByteSize::mib(size.0 >> 20);
    Ok(format!("{}: ours alone, {} free, at most {} of it used", path.display(), rounded(room), rounded(limit)))
}

/// Removes directories that were made only to look, those below first; none that has something in it.
fn remove(made: &[PathBuf]) {
    for path in made {
        drop(fs::remove_dir(path));
    }
}

/// What of the kernel matters for speed: facts, no faults.
pub fn kernel() -> String {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown release".to_owned());
    let uring = match read("/sys/module/fuse/parameters/enable_uring").as_deref() {
        Some("Y" | "1") => "on",
        Some(_) => "off",
        None => "not there",
    };
    let passthrough = if is_at_least(&release, (6, 9)) { "there" } else { "not there (Linux 6.9 has it)" };
    format!("Linux {release}; FUSE over io_uring {uring}, passthrough {passthrough}; neither is needed")
}

fn is_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= least,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(is_at_least("6.12.3-1-amd64", (6, 9)) && is_at_least("7.0", (6, 9)) && is_at_least("6.9", (6, 9)));
        assert!(!is_at_least("6.8.12", (6, 9)) && !is_at_least("5.10.0", (6, 9)) && !is_at_least("", (6, 9)));
    }
}
