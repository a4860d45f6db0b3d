//! `cosmount uploads`: multipart uploads below a source that nobody has completed, and the end of those that are named.
//!
//! COS does not say whose an upload is. Those that mounts of this host have in their ledgers are marked as theirs: a living mount needs them, and the next
//! one aborts a dead one's. All others may be anybody's who is still at work, so only what is named is aborted, by its id or by an age.

use std::{
    collections::HashSet,
    ffi::OsString,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::cli::args::Uploads;
use crate::cli::commands::{access, mount::staging, secrets};
use crate::cli::{Failure, SYSTEM, USAGE};
use crate::mount::{Account, Staging, account, daemon, noted_uploads};
use crate::store::{Bucket, OpenUpload, Upload};
use crate::support::{Clock, Ctx, Metrics, SystemClock};

/// How long each request may take: a person waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests at once.
const AT_ONCE: usize = 16;

/// One line of the list.
#[derive(Debug, Serialize)]
struct Line {
    key: String,
    id: String,
    /// As COS writes it.
    initiated: String,
    /// In seconds, if that could be read.
    age: Option<u64>,
    /// Of a mount of this host.
    ours: bool,
    /// Its parts together, if they were asked for.
    bytes: Option<u64>,
    aborted: bool,
}

pub(in crate::cli) fn run(typed: &Uploads, words: &[OsString]) -> Result<(), Failure> {
    let (system, usage) = (|error| Failure::new(SYSTEM, error), |error| Failure::new(USAGE, error));
    let secrets = secrets(words, "uploads")?;
    daemon::hide_memory();
    let access = access(&typed.reach, Some(&typed.source), &secrets).map_err(usage)?;
    let staging = match staging(typed.staging.as_deref()) {
        Ok((staging, _)) => staging,
        // Nowhere to look by default is no mistake.
        Err(_) if typed.staging.is_none() => Staging::None,
        Err(error) => return Err(usage(error)),
    };
    let ours = noted_uploads(&typed.source, &access, &staging).map_err(system)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("the runtime").map_err(system)?;
    let lines = runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let Account { service, .. } = account(&access, Some(&typed.source.bucket), &Metrics::default(), &clock)?;
        let bucket = service.open(&Ctx::new(Arc::clone(&clock), PATIENCE, 0, 0), &typed.source.bucket).await?;
        work(typed, &clock, &*bucket, &ours).await
    });
    let lines = lines.map_err(system)?;
    if typed.json {
        println!("{}", serde_json::to_string_pretty(&lines).map_err(|error| system(error.into()))?);
    } else {
        lines.iter().for_each(|line| println!("{}", told(line)));
    }
    Ok(())
}

async fn work(typed: &Uploads, clock: &Arc<dyn Clock>, bucket: &dyn Bucket, ours: &HashSet<(String, String)>) -> anyhow::Result<Vec<Line>> {
    let cx = || Ctx::new(Arc::clone(clock), PATIENCE, 0, 0);
    let found = bucket.list_uploads(&cx(), &typed.source.prefix).await?;
    if let Some(id) = typed.abort.iter().find(|id| found.iter().all(|upload| *upload.id.0 != ***id)) {
        bail!("no upload below {} has the id {id}; nothing was aborted", typed.source);
    }
    let now = clock.wall();
    let line = |upload: OpenUpload| {
        let OpenUpload { key, id, initiated } = upload;
        let age = age(&initiated, now);
        let ours = ours.contains(&(key.as_str().to_owned(), id.0.to_string()));
        let old = age.zip(typed.abort_older_than).is_some_and(|(age, limit)| age > limit) && !ours;
        let aborted = old || typed.abort.iter().any(|named| **named == *id.0);
        let upload = Upload { key, id, token: None };
        async move {
            let parts = if typed.sizes { Some(bucket.list_parts(&cx(), &upload).await?) } else { None };
            if aborted {
                bucket.abort_upload(&cx(), &upload).await?;
            }
            Ok::<_, anyhow::Error>(Line {
                key: upload.key.as_str().to_owned(),
                id: upload.id.0.to_string(),
                initiated,
                age: age.map(|age| age.as_secs()),
                ours,
                bytes: parts.map(|parts| parts.iter().map(|part| part.size).sum()),
                aborted,
            })
        }
    };
    stream::iter(found).map(line).buffered(AT_ONCE).try_collect().await
}

/// `2026-11-20T16:00:00.000Z`, with or without fractions of a second.
fn age(initiated: &str, now: SystemTime) -> Option<Duration> {
    let (date, time) = initiated.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let time = time.split_once('.').map_or(time, |(seconds, _)| seconds);
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 by a year that begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second);
    // By another clock than ours it may be in the future.
    Some(now.duration_since(at).unwrap_or_default())
}

fn told(line: &Line) -> String {
    let age = match line.age {
        None => line.initiated.clone(),
        Some(age) if age >= 2 * 86_400 => format!("{} d", age / 86_400),
        Some(age) if age >= 2 * 3600 => format!("{} h", age / 3600),
        Some(age) if age >= 120 => format!("{} min", age / 60),
        Some(age) => format!("{age} s"),
    };
    let bytes = line.bytes.map(|bytes| format!("  {bytes} bytes")).unwrap_or_default();
    let ours = if line.ours { "  (of a mount of this host)" } else { "" };
    let aborted = if line.aborted { "  aborted" } else { "" };
    format!("{}  {}  {age}{bytes}{ours}{aborted}", line.id, line.key.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_those_of_the_calendar() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let since = |initiated: &str, seconds| age(initiated, at(seconds)).map(|age| age.as_secs());
        assert_eq!(since("1970-01-01T00:00:00Z", 5), Some(5));
        assert_eq!(since("2026-11-20T16:44:03.000Z", 1_795_193_043 + 60), Some(60));
        assert_eq!(since("2024-02-29T23:59:59.5Z", 1_709_251_199), Some(0), "a leap day");
        assert_eq!(since("2099-01-01T00:00:00Z", 0), Some(0), "another clock");
        for odd in ["", "yesterday", "2024-13-01T00:00:00Z", "2024-01-01 00:00:00", "2024-01-01T00:00Z", "2024-01-01T-1:00:00Z"] {
            assert_eq!(age(odd, at(0)), None, "{odd}");
        }
    }

    #[test]
    fn a_line_has_id_key_age_and_whose_it_is() {
        let line = Line {
            key: "a b".to_owned(),
            id: "1f".to_owned(),
            initiated: "?".to_owned(),
            age: Some(9 * 86_400),
            ours: true,
            bytes: Some(5),
            aborted: false,
        };
        assert_eq!(told(&line), "1f  a b  9 d  5 bytes  (of a mount of this host)");
        assert_eq!(told(&Line { age: None, ours: false, bytes: None, aborted: true, ..line }), "1f  a b  ?  aborted");
    }
}
