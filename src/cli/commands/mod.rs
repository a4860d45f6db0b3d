//! One file per sub-command.

pub(super) mod completions;
pub(super) mod config;
pub(super) mod credentials;
#[cfg(feature = "emulator")]
pub(super) mod demo;
#[cfg(feature = "emulator")]
mod demo_files;
pub(super) mod doctor;
pub(super) mod man;
pub(super) mod mount;
pub(super) mod stats;
pub(super) mod sync;
pub(super) mod umount;
pub(super) mod uploads;

use std::{
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use anyhow::anyhow;

use crate::admin::{Client, Request};
use crate::cli::args::Reach;
use crate::cli::{Failure, SYSTEM, USAGE, environment};
use crate::mount::daemon::{self, Restart, Served};
use crate::mount::{Access, Mounted, Source};
use crate::store::{Capabilities, CosConfig};

/// How the account is reached. `secrets` are the variables with credentials and their values.
fn access(reach: &Reach, source: Option<&Source>, secrets: &[(String, String)]) -> anyhow::Result<Access> {
    Ok(Access {
        region: reach.region.as_ref().or(source.and_then(|source| source.region.as_ref())).cloned(),
        endpoints: reach.endpoint.clone(),
        path_style: reach.path_style,
        ca_file: reach.ca_file.as_deref().map(std::path::absolute).transpose()?,
        connections: CosConfig::CONNECTIONS,
        proxies: environment::proxies(secrets).map_err(anyhow::Error::msg)?,
        hedging: false,
        limits: Capabilities::cos(),
        credentials: environment::sources(reach.credentials.as_ref(), reach.profile.as_deref(), secrets)?,
    })
}

/// This program again with the same words and without secrets in its environment.
fn restart(words: &[OsString], as_what: &'static str, secrets: Vec<(String, String)>) -> Restart {
    let remove = secrets.iter().map(|(name, _)| name.clone()).collect();
    Restart { arguments: words.to_vec(), secrets, remove, mark: (environment::CHILD, as_what) }
}

/// The variables with credentials, for a command that needs no other process. While they are in the environment it is started anew without them.
fn secrets(words: &[OsString], as_what: &'static str) -> Result<Vec<(String, String)>, Failure> {
    if environment::variable(environment::CHILD).is_some() {
        return daemon::receive_secrets().map_err(|error| Failure::new(USAGE, error));
    }
    let secrets = environment::credentials();
    if secrets.is_empty() {
        return Ok(secrets);
    }
    let error = anyhow!(daemon::replace(&restart(words, as_what, secrets)));
    Err(Failure::new(SYSTEM, error.context("cannot start this program again without the credentials in its environment")))
}

/// Asks the mount at `mount_point`.
fn ask(mount_point: &Path, request: &Request) -> Result<Client, Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let shown = mount_point.display();
    let mounted = Mounted::find(mount_point).map_err(|error| system(error.into()))?;
    let Some(mounted) = mounted else { return Err(Failure::new(USAGE, anyhow!("{shown} is not mounted by cosmount"))) };
    let directory = environment::runtime_directory();
    let Some(served) = Served::find(&directory, mount_point, Some(mounted.device())).map_err(system)? else {
        let why = if mounted.is_dead() {
            "the process that served it has died; `cosmount umount` clears the mount point".to_owned()
        } else {
            format!("the process that serves it is not this user's, or has registered elsewhere ({})", directory.display())
        };
        return Err(system(anyhow!("{shown}: {why}")));
    };
    Client::ask(&served.socket(), request).map_err(|error| {
        let (pid, socket) = (served.pid(), served.socket());
        system(match error.kind() {
            io::ErrorKind::PermissionDenied => anyhow!("{shown}: only the user who mounted it, and root, may ask process {pid}"),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow!("{shown}: process {pid} does not listen at {} (any more): its log says why", socket.display())
            }
            _ => anyhow!("{shown}: process {pid} cannot be asked at {}: {error}", socket.display()),
        })
    })
}

/// The path as `/proc/self/mountinfo` shows it: absolute and without symbolic links. Names at its end that cannot be looked at stay as they are:
/// what is not there yet, or a dead mount.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(resolved) = fs::canonicalize(path) {
        return Ok(resolved);
    }
    let path = std::path::absolute(path)?;
    let known = path.ancestors().skip(1).find_map(|above| Some((fs::canonicalize(above).ok()?, path.strip_prefix(above).ok()?)));
    Ok(known.map_or_else(|| path.clone(), |(above, rest)| above.join(rest)))
}

/// The path, absolute and without `.` and `..`, by its words alone.
fn without_dots(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_go_by_words_alone() {
        for (path, plain) in [("/a/../b", "/b"), ("/a/./b/..", "/a"), ("/../a", "/a"), ("/a//b/", "/a/b")] {
            assert_eq!(without_dots(Path::new(path)).unwrap(), Path::new(plain));
        }
    }

    #[test]
    fn links_are_followed_and_what_is_missing_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), real);
        assert_eq!(resolve(&real.join("link/none")).unwrap(), real.join("none"));
        assert_eq!(
            resolve(&real.join("link/none/at/all")).unwrap(),
            real.join("none/at/all"),
            "staging in the mount is seen through links"
        );
    }
}
