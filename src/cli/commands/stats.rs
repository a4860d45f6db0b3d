//! `cosmount stats`: asks a mount what of it is not in COS and why, what its memory is used for, and what it asked of COS.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, anyhow};
use serde_json::json;

use crate::admin::{File, RefusedChange, Reply, Request, Stats};
use crate::cli::args;
use crate::cli::commands::{ask, resolve};
use crate::cli::{Failure, SYSTEM, USAGE};
use crate::support::{Clock, SystemClock};

pub(in crate::cli) fn run(typed: &args::Stats) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let mount_point = resolve(&typed.mountpoint).context("the mount point").map_err(|error| Failure::new(USAGE, error))?;
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for reply in ask(&mount_point, &Request::Stats)? {
        match reply.context("the answer of the mount").map_err(system)? {
            Reply::File(file) => files.push(file),
            Reply::RefusedChange(change) => refused.push(change),
            Reply::Stats(stats) => {
                print!("{}", if typed.json { as_json(&mount_point, &files, &refused, &stats) } else { told(&files, &refused, &stats) });
                return Ok(());
            }
            Reply::Refused(why) => return Err(system(anyhow!("{}: {why}", mount_point.display()))),
            Reply::Progress(_) | Reply::Done(_) => {}
        }
    }
    Err(system(anyhow!("{}: the mount ended before it had answered", mount_point.display())))
}

fn as_json(mount_point: &Path, files: &[File], refused: &[RefusedChange], stats: &Stats) -> String {
    let Stats { files: count, bytes, removals, attributes, memory, counters } = stats;
    let unsent = json!({ "files": count, "bytes": bytes, "list": files, "removals": removals, "attributes": attributes });
    let all = json!({ "mount_point": mount_point, "unsent": unsent, "refused": refused, "memory": memory, "counters": counters });
    format!("{all:#}\n")
}

fn told(files: &[File], refused: &[RefusedChange], stats: &Stats) -> String {
    let mut text = match (stats.files, stats.removals, stats.attributes) {
        (0, 0, 0) => "everything is in COS\n".to_owned(),
        (count, 0, 0) => format!("not in COS: {count} files, {} bytes\n", stats.bytes),
        (count, removals, attributes) => {
            format!(
                "not in COS: {count} files, {} bytes; on their way: {removals} removals, attributes of {attributes} objects\n",
                stats.bytes
            )
        }
    };
    for file in files {
        text += &line(file);
    }
    for RefusedChange { key, what, text: why } in refused {
        text += &format!("refused after it was answered: {what} of {}: {}\n", key.escape_debug(), why.escape_debug());
    }
    let memory = &stats.memory;
    let mib = |bytes: u64| format!("{:.1}M", bytes as f64 / f64::from(1 << 20));
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "memory: {} of {} for changes; {} on its way to programs, {} in commits, {} for names, {} for cached blocks; {} in all",
        mib(memory.dirty),
        mib(memory.dirty_limit),
        mib(memory.reading),
        mib(memory.committing),
        mib(memory.names),
        mib(memory.idle),
        mib(memory.limit),
    );
    let (requests, others): (Vec<_>, Vec<_>) = stats.counters.iter().partition(|(name, _)| name.starts_with("store_"));
    for (title, counters) in [("asked of COS", requests), ("counted here", others)] {
        let _ = writeln!(text, "{title}:");
        for (name, value) in counters {
            let _ = writeln!(text, "  {:<36} {value}", name.trim_start_matches("store_").replace('_', " "));
        }
    }
    text
}

/// What a person is told of a file that is not in COS.
pub(super) fn line(file: &File) -> String {
    let places = [(file.memory, "in memory"), (file.staged, "in staging"), (file.uploaded, "in an open upload")];
    let places: Vec<_> = places.iter().filter(|(bytes, _)| *bytes > 0).map(|(bytes, place)| format!("{bytes} {place}")).collect();
    let kept = if places.is_empty() { "no bytes".to_owned() } else { places.join(", ") };
    let age = SystemClock.wall().duration_since(UNIX_EPOCH + Duration::from_secs(file.since)).unwrap_or_default().as_secs();
    let lost = if file.lost { " (the name is somebody else's now)" } else { "" };
    let mut text = format!("  {}{lost}: {kept}, for {age} s\n", file.path.escape_debug());
    if let Some(reason) = &file.reason {
        let next = match (file.next_try, &*reason.errno) {
            (Some(seconds), _) => format!("next try in {seconds} s"),
            (None, "ESTALE" | "EEXIST") => "kept until `cosmount sync --on-conflict keep-both` or last-writer".to_owned(),
            (None, _) => "tried again when it is closed".to_owned(),
        };
        let _ = writeln!(text, "    {}: {}; {next}", reason.errno, reason.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Reason;

    #[test]
    fn a_file_is_told_with_where_it_is_and_why() {
        let reason = Reason { errno: "EACCES".into(), text: "PUT Object: 403".into(), code: None, status: Some(403), request_id: None };
        let file = File {
            path: "a\nb".to_owned(),
            lost: false,
            bytes: 7,
            memory: 3,
            staged: 4,
            uploaded: 0,
            since: u64::MAX >> 8,
            reason: Some(reason.clone()),
            next_try: Some(5),
        };
        assert_eq!(line(&file), "  a\\nb: 3 in memory, 4 in staging, for 0 s\n    EACCES: PUT Object: 403; next try in 5 s\n");
        let stale = Reason { errno: "ESTALE".into(), ..reason };
        let lost = line(&File { lost: true, reason: Some(stale), next_try: None, ..file });
        assert!(lost.contains("somebody else's") && lost.contains("cosmount sync --on-conflict"), "{lost}");
    }
}
