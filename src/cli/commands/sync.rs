//! `cosmount sync`: has a mount send what is not in COS yet, and shows how that goes.

use std::{
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::time::Instant;

use crate::admin::{self, File, Outcome, Progress, Reply, Request};
use crate::cli::args::{OnConflict, Sync};
use crate::cli::commands::{ask, resolve, stats, without_dots};
use crate::cli::{Failure, SYSTEM, USAGE};
use crate::mount::Mounted;
use crate::support::{ByteSize, Clock, SystemClock};

/// Files that are left are named up to here; `cosmount stats` has all.
const NAMED: usize = 20;
/// Columns of the bar.
const BAR: usize = 24;

pub(in crate::cli) fn run(typed: &Sync) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let path = typed.path.as_deref().unwrap_or(Path::new("."));
    let (mount_point, below) = find(path).map_err(|error| Failure::new(USAGE, error))?;
    let on_conflict = typed.on_conflict.map(|asked| match asked {
        OnConflict::Fail => admin::OnConflict::Fail,
        OnConflict::KeepBoth => admin::OnConflict::KeepBoth,
        OnConflict::LastWriter => admin::OnConflict::LastWriter,
    });
    let below = below.to_str().context("a name in COS is UTF-8").map_err(|error| Failure::new(USAGE, error))?.to_owned();
    let bar = Bar::new();
    let mut left = Vec::new();
    for reply in ask(&mount_point, &Request::Sync { below, on_conflict })? {
        match reply.context("the answer of the mount").map_err(system)? {
            Reply::Progress(progress) => bar.show(&progress),
            Reply::File(file) => left.push(file),
            Reply::Done(outcome) => {
                bar.clear();
                return told(&left, outcome).map_err(system);
            }
            Reply::Refused(why) => return Err(system(anyhow!("{}: {why}", mount_point.display()))),
            Reply::Stats(_) | Reply::RefusedChange(_) => {}
        }
    }
    bar.clear();
    Err(system(anyhow!("{}: the mount ended before everything was sent; its log says what is left", mount_point.display())))
}

/// What is left, if anything is.
fn told(left: &[File], outcome: Outcome) -> anyhow::Result<()> {
    let mut text = Vec::new();
    if !left.is_empty() {
        let lines: String = left.iter().take(NAMED).map(stats::line).collect();
        let more = if left.len() > NAMED { "; `cosmount stats` names all of them" } else { "" };
        text.push(format!("{} files are not in COS{more}\n{}", left.len(), lines.trim_end()));
    }
    if outcome.pending > 0 {
        text.push(format!(
            "{} removals and changes of attributes are not in COS; the mount goes on trying, and its log says why",
            outcome.pending
        ));
    }
    if outcome.refused > 0 {
        text.push(format!("COS refused {} removals or changes of attributes; `cosmount stats` names them", outcome.refused));
    }
    if text.is_empty() { Ok(()) } else { Err(anyhow!("{}", text.join("\n"))) }
}

/// The mount that the path is in, and the rest of the path. By its words first: to look at the path itself asks the mount, which may have its
/// reasons to be slow.
fn find(path: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    for path in [without_dots(path)?, resolve(path)?] {
        for above in path.ancestors() {
            if Mounted::find(above)?.is_some() {
                return Ok((above.to_owned(), path.strip_prefix(above)?.to_owned()));
            }
        }
    }
    Err(anyhow!("{} is in no mount of cosmount", path.display()))
}

/// Progress on a terminal; elsewhere nothing is shown.
struct Bar {
    shown: bool,
    began: Instant,
}

impl Bar {
    fn new() -> Self {
        Self { shown: stderr().is_terminal(), began: SystemClock.now() }
    }

    fn show(&self, progress: &Progress) {
        if self.shown {
            let line = line(progress, SystemClock.now() - self.began);
            // Nobody misses a line of it.
            write!(stderr(), "\r{line}\x1b[K").ok();
        }
    }

    fn clear(&self) {
        if self.shown {
            write!(stderr(), "\r\x1b[K").ok();
        }
    }
}

/// Bar, bytes, files, rate and time left.
fn line(progress: &Progress, taken: Duration) -> String {
    let Progress { files, files_done, failed, bytes, bytes_done } = *progress;
    let done = usize::try_from(bytes_done.saturating_mul(BAR as u64) / bytes.max(1)).unwrap_or(BAR).min(BAR);
    let rate = bytes_done.saturating_mul(1000) / u64::try_from(taken.as_millis()).unwrap_or(u64::MAX).max(1);
    let left = (bytes - bytes_done.min(bytes)).checked_div(rate).map_or_else(String::new, |seconds| format!(", {seconds} s left"));
    let failed = if failed > 0 { format!(", {failed} refused") } else { String::new() };
    format!(
        "[{}{}] {} of {}, {files_done} of {files} files{failed}, {}/s{left}",
        "#".repeat(done),
        ".".repeat(BAR - done),
        rounded(bytes_done),
        rounded(bytes),
        rounded(rate),
    )
}

fn rounded(bytes: u64) -> String {
    match bytes {
        0..0x2800 => format!("{bytes} B"),
        0x2800..0xa0_0000 => ByteSize(bytes >> 10 << 10).to_string(),
        _ => ByteSize(bytes >> 20 << 20).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_bytes_files_rate_and_what_is_left_of_the_time() {
        let progress = Progress { files: 4, files_done: 1, failed: 1, bytes: 100 << 20, bytes_done: 50 << 20 };
        assert_eq!(
            line(&progress, Duration::from_secs(5)),
            "[############............] 50M of 100M, 1 of 4 files, 1 refused, 10M/s, 5 s left"
        );
        let begun = Progress { files: 1, ..Progress::default() };
        assert_eq!(line(&begun, Duration::ZERO), "[........................] 0 B of 0 B, 0 of 1 files, 0 B/s");
    }
}
