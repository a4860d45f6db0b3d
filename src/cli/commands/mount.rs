//! `cosmount mount`: what was typed becomes settings; the process becomes a daemon, or stays in front.
//!
//! Secrets leave the environment before anything else starts: the process that was typed only checks the words and starts the program again
//! without them, in the background or in its own place.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use nix::unistd::{getgid, getuid};

use crate::cli::args::{Consistency, Exclusive, LogFormat, Mount, OnConflict, Posix, Preserve, Unspellable};
use crate::cli::commands::{access, resolve, restart, without_dots};
use crate::cli::{FAILED, Failure, SYSTEM, USAGE, environment};
use crate::mount::advice::Fault;
use crate::mount::daemon::{self, Launched, Parent};
use crate::mount::telemetry::{self, Log, LogTo};
use crate::mount::{self, Access, Audience, DataConfig, Left, Running, Settings, Staging, VfsConfig, check_mount_point};
use crate::support::ByteSize;

/// Values of [`environment::CHILD`].
const BACKGROUND: &str = "background";
const FOREGROUND: &str = "foreground";

/// `words` are what this process was started with: the one that stays is given the same.
pub(in crate::cli) fn run(mount: &Mount, words: &[OsString]) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::new(code(&error), error.context(format!("cannot mount {}", mount.source)));
    let child = environment::variable(environment::CHILD);
    let credentials = match child {
        Some(_) => daemon::receive_secrets().map_err(failed)?,
        None => environment::credentials(),
    };
    let settings = settings(mount, credentials.clone()).map_err(|error| Failure::new(USAGE, error))?;
    settings.check().map_err(|error| Failure::new(USAGE, error))?;
    logs_are_elsewhere(mount, &settings.mount_point).map_err(|error| Failure::new(USAGE, error))?;
    match child.as_deref() {
        Some(BACKGROUND) => background(mount, settings),
        Some(_) => in_front(mount, settings),
        None => {
            // Known before anything is started, so it need not come back through a pipe.
            check_mount_point(&settings.mount_point).map_err(|fault| failed(fault.into()))?;
            if !mount.foreground {
                launch(mount, words, credentials)
            } else if credentials.is_empty() {
                in_front(mount, settings)
            } else {
                let error = daemon::replace(&restart(words, FOREGROUND, credentials));
                Err(failed(anyhow!(error).context("cannot start this program again without the credentials in its environment")))
            }
        }
    }
}

/// A log in the mount itself would be written through the threads that write it: each would wait for the other.
fn logs_are_elsewhere(mount: &Mount, mount_point: &Path) -> anyhow::Result<()> {
    for (option, file) in [("--log-file", &mount.log_file), ("--access-log", &mount.access_log)] {
        if let Some(file) = file
            && resolve(file)?.starts_with(mount_point)
        {
            bail!("the file {} lies in the mount itself: name another one with {option}", file.display());
        }
    }
    Ok(())
}

fn launch(mount: &Mount, words: &[OsString], credentials: Vec<(String, String)>) -> Result<(), Failure> {
    let launched = daemon::launch(&restart(words, BACKGROUND, credentials)).map_err(|error| Failure::new(FAILED, error))?;
    match launched {
        Launched::Ready(pid) => {
            let at = mount.mountpoint.display();
            println!("{} is mounted on {at} by process {pid}; unmount it with: cosmount umount {at}", mount.source);
            Ok(())
        }
        Launched::Failed(code, why) => Err(Failure::new(code, anyhow!("cannot mount {}: {}", mount.source, why.trim_end()))),
    }
}

/// The background process: its parent is told how the mount went, the log everything else.
fn background(mount: &Mount, settings: Settings) -> Result<(), Failure> {
    let parent = Parent::waiting();
    let running = match begin(mount, LogTo::System, settings) {
        Ok(running) => running,
        Err(error) => {
            parent.failed(&format!("{error:#}"));
            return Err(Failure::told(code(&error)));
        }
    };
    let ended = if parent.ready().is_ok() {
        running.serve()
    } else {
        tracing::warn!("nobody waits for this mount any more");
        running.stop()
    };
    end(ended)
}

fn in_front(mount: &Mount, settings: Settings) -> Result<(), Failure> {
    // A unit's standard error is the journal already; told directly, it has levels.
    let log = if environment::journal_reads_stderr() { LogTo::System } else { LogTo::Terminal };
    let running =
        begin(mount, log, settings).map_err(|error| Failure::new(code(&error), error.context(format!("cannot mount {}", mount.source))))?;
    end(running.serve())
}

/// What a mount that failed ends with: it is the host's fault, or that of what was to be mounted.
fn code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Fault>().is_some_and(|fault| fault.of_host) { SYSTEM } else { FAILED }
}

fn begin(mount: &Mount, log: LogTo, settings: Settings) -> anyhow::Result<Running> {
    let absolute = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
    let logging = telemetry::start(&Log {
        to: absolute(&mount.log_file)?.map_or(log, LogTo::File),
        format: match mount.log_format {
            LogFormat::Text => telemetry::LogFormat::Text,
            LogFormat::Json => telemetry::LogFormat::Json,
        },
        level: mount.log_level,
        access: absolute(&mount.access_log)?,
    })?;
    if !mount.allow_core {
        daemon::hide_memory();
    }
    mount::start(settings, &logging)
}

fn end(ended: anyhow::Result<Left>) -> Result<(), Failure> {
    let left = ended.map_err(|error| Failure::new(SYSTEM, error))?;
    match left {
        Left { files: 0, .. } => Ok(()),
        Left { files, bytes } => Err(Failure::new(SYSTEM, anyhow!("changes of {files} files ({bytes} bytes) are not in COS"))),
    }
}

/// What the words mean. Paths become absolute here, since a daemon leaves the directory it was started in.
pub(super) fn settings(mount: &Mount, credentials: Vec<(String, String)>) -> anyhow::Result<Settings> {
    let strict = mount.consistency == Consistency::Strict;
    let metadata_ttl = if strict { Duration::ZERO } else { mount.metadata_ttl };
    let negative_ttl = if strict { Duration::ZERO } else { mount.negative_ttl.unwrap_or(mount.metadata_ttl) };
    let (staging, staging_limit) = staging(mount.staging.as_deref())?;
    let mut settings = Settings {
        source: mount.source.clone(),
        mount_point: resolve(&mount.mountpoint).context("the mount point")?,
        store: Access { connections: mount.connections, hedging: true, ..access(&mount.reach, Some(&mount.source), &credentials)? },
        audience: match (mount.allow_other, mount.allow_root) {
            (true, _) => Audience::Everybody,
            (false, true) => Audience::OwnerAndRoot,
            (false, false) => Audience::Owner,
        },
        noexec: mount.noexec,
        memory_limit: mount.memory_limit,
        io_timeout: mount.io_timeout,
        drain_timeout: mount.drain_timeout,
        staging,
        staging_limit,
        // The limit of staging is filled in when the disk is known.
        data: DataConfig { part_size: mount.part_size, most_parallel_parts: mount.connections, ..DataConfig::default() },
        vfs: VfsConfig {
            prefix: String::new(),
            mount_id: String::new(),
            read_only: mount.read_only,
            uid: mount.uid.unwrap_or_else(|| getuid().as_raw()),
            gid: mount.gid.unwrap_or_else(|| getgid().as_raw()),
            file_mode: mount.file_mode & !mount.umask,
            dir_mode: mount.dir_mode & !mount.umask,
            consistency: match mount.consistency {
                Consistency::Open => mount::Consistency::Open,
                Consistency::Ttl => mount::Consistency::Ttl,
                Consistency::Strict => mount::Consistency::Strict,
            },
            metadata_ttl,
            negative_ttl,
            posix: match mount.posix {
                Posix::Full => mount::Posix::Full,
                Posix::Mtime => mount::Posix::Mtime,
                Posix::None => mount::Posix::None,
            },
            preserve: match mount.preserve {
                Preserve::Headers => mount::Preserve::Headers,
                Preserve::Full => mount::Preserve::Full,
            },
            on_conflict: match mount.on_conflict {
                OnConflict::Fail => mount::OnConflict::Fail,
                OnConflict::KeepBoth => mount::OnConflict::KeepBoth,
                OnConflict::LastWriter => mount::OnConflict::LastWriter,
            },
            exclusive_at_open: strict || mount.exclusive == Exclusive::Open,
            rename_limit: mount.rename_limit,
            direct_io: mount.direct_io,
            escape_unspellable: mount.unspellable == Unspellable::Escape,
            defect: None,
        },
        runtime_directory: environment::runtime_directory(),
        notify_socket: environment::variable("NOTIFY_SOCKET").map(Into::into),
    };
    if let Some(defect) = environment::defect() {
        settings.build_in(&defect)?;
    }
    Ok(settings)
}

/// `none`, `DIR` or `DIR:SIZE`.
pub(super) fn staging(typed: Option<&str>) -> anyhow::Result<(Staging, Option<ByteSize>)> {
    let Some(typed) = typed else {
        let directory =
            environment::state_directory().context("neither HOME nor XDG_STATE_HOME is set: name a directory with --staging")?;
        return Ok((Staging::Below(resolve(&directory)?), None));
    };
    if typed == "none" {
        return Ok((Staging::None, None));
    }
    let (directory, limit) = match typed.rsplit_once(':') {
        Some((directory, size)) => match size.parse() {
            Ok(limit) => (directory, Some(limit)),
            // A colon can be a part of a name.
            Err(_) => (typed, None),
        },
        None => (typed, None),
    };
    // Its links are not followed: a directory for what must survive is named as it is, or refused.
    Ok((Staging::In(without_dots(Path::new(directory))?), limit))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn settings_of(words: &[&str]) -> Settings {
        let words = ["cosmount", "mount", "photos-125", "/mnt", "--staging", "none"].iter().chain(words);
        let Command::Mount(mount) = Arguments::try_parse_from(words).unwrap().command else { panic!("another command") };
        settings(&mount, vec![]).unwrap()
    }

    #[test]
    fn strict_means_no_belief_and_exclusive_at_open() {
        let strict = settings_of(&["--consistency", "strict", "--metadata-ttl", "60s"]).vfs;
        assert_eq!((strict.metadata_ttl, strict.negative_ttl, strict.exclusive_at_open), (Duration::ZERO, Duration::ZERO, true));
        let open = settings_of(&["--metadata-ttl", "7s"]).vfs;
        assert_eq!((open.metadata_ttl, open.negative_ttl, open.exclusive_at_open), (Duration::from_secs(7), Duration::from_secs(7), false));
    }

    #[test]
    fn the_umask_takes_from_both_modes() {
        let config = settings_of(&["--umask", "077"]).vfs;
        assert_eq!((config.file_mode, config.dir_mode), (0o600, 0o700));
    }

    #[test]
    fn staging_with_and_without_a_limit() {
        let at = |path: &str| Staging::In(path.into());
        assert_eq!(staging(Some("/s:10G")).unwrap(), (at("/s"), Some(ByteSize::gib(10))));
        assert_eq!(staging(Some("/s:x")).unwrap(), (at("/s:x"), None));
        assert_eq!(staging(Some("/s")).unwrap(), (at("/s"), None));
        assert_eq!(staging(Some("none")).unwrap(), (Staging::None, None));
    }

    #[test]
    fn too_little_memory_is_refused() {
        let error = settings_of(&["--memory-limit", "31M"]).check().unwrap_err().to_string();
        assert!(error.contains("at least 32M"), "{error}");
        assert!(settings_of(&["--memory-limit", "32M"]).check().is_ok());
    }

    #[test]
    fn a_log_inside_the_mount_is_refused() {
        let of = |words: &[&str]| {
            let words = ["cosmount", "mount", "photos-125", "/mnt"].iter().chain(words);
            let Command::Mount(mount) = Arguments::try_parse_from(words).unwrap().command else { panic!("another command") };
            logs_are_elsewhere(&mount, Path::new("/mnt"))
        };
        assert!(of(&["--log-file", "/mnt/log"]).unwrap_err().to_string().contains("--log-file"));
        assert!(of(&["--access-log", "/tmp/../mnt/a/log"]).unwrap_err().to_string().contains("--access-log"));
        assert!(of(&["--log-file", "/mnt2/log"]).is_ok());
    }

    #[test]
    fn staging_inside_the_mount_is_refused() {
        let inside = Settings { staging: Staging::In("/mnt/s".into()), ..settings_of(&[]) };
        assert!(inside.check().unwrap_err().to_string().contains("in the mount itself"));
    }
}
