//! `cosmount credentials check`: which credentials are used, when they end, and what they may do on a bucket.
//!
//! Tried is what is harmless: the bucket's head, one name of a listing, head and first byte of an object that nobody has. That there is no such
//! object is an answer to somebody who may read; who may not is refused before. Writing is tried only when asked for, on an object that mounts do
//! not show, and what was not tried is said. Secrets are never shown, and leave the environment first, as for a mount.

use std::{ffi::OsString, sync::Arc, time::Duration};

use anyhow::Context;
use serde::Serialize;

use crate::cli::args::CheckCredentials;
use crate::cli::commands::{access, secrets};
use crate::cli::{Failure, SYSTEM, USAGE};
use crate::mount::daemon;
use crate::mount::{Access, Account, Source, account};
use crate::store::{
    Bucket, CommitToken, ETag, Error, Key, Kind, ListRequest, Meta, ObjectVersion, Payload, Replaces, Result as Stored, cos::Credentials,
};
use crate::support::{Clock, Ctx, Metrics, SystemClock};

/// How long one request may take: a person waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is never tried, since it leaves something behind or needs an object that is there.
const UNTRIED: [&str; 4] = ["PUT Object - Copy", "multipart uploads", "DELETE Multiple Objects", "GET and PUT Object acl and tagging"];

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    source: String,
    /// The ends of the secret id.
    id: Option<String>,
    anonymous: bool,
    temporary: bool,
    /// In seconds since 1970.
    expires: Option<u64>,
    bucket: Option<String>,
    rights: Vec<Right>,
    not_tried: Vec<&'static str>,
}

/// Whether one operation is permitted.
#[derive(Debug, Serialize)]
struct Right {
    operation: &'static str,
    outcome: Outcome,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    /// The whole error, unless it is allowed.
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Allowed,
    Refused,
    /// Neither: no answer, or one about something else.
    Unknown,
}

/// `words` are what this process was started with.
pub(in crate::cli) fn check(typed: &CheckCredentials, words: &[OsString]) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let secrets = secrets(words, "check")?;
    daemon::hide_memory();
    let access = access(&typed.reach, typed.source.as_ref(), &secrets).map_err(|error| Failure::new(USAGE, error))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|error| system(error.into()))?;
    let report = runtime.block_on(look(&access, typed.source.as_ref(), typed.write)).map_err(system)?;
    if typed.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|error| system(error.into()))?);
    } else {
        print!("{}", told(&report));
    }
    if report.rights.iter().all(|right| right.outcome == Outcome::Allowed) { Ok(()) } else { Err(Failure::told(SYSTEM)) }
}

async fn look(access: &Access, source: Option<&Source>, write: bool) -> anyhow::Result<Report> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Account { service, credentials } = account(access, source.map(|source| &source.bucket), &Metrics::default(), &clock)?;
    let found = credentials.credentials().await.context("no credentials")?;
    let mut report = Report::new(&found);
    let Some(source) = source else { return Ok(report) };
    report.bucket = Some(source.to_string());
    let cx = || Ctx::new(Arc::clone(&clock), PATIENCE, 0, 0);
    let bucket = match service.open(&cx(), &source.bucket).await {
        Ok(bucket) => {
            report.rights.push(Right::of("HEAD Bucket", None));
            bucket
        }
        Err(error) => {
            report.rights.push(Right::of("HEAD Bucket", Some(&error)));
            report.not_tried.splice(0..0, ["GET Bucket", "HEAD Object", "GET Object", "PUT Object", "DELETE Object"]);
            return Ok(report);
        }
    };
    let listing = ListRequest { prefix: source.prefix.clone(), delimited: true, after: None, limit: Some(1) };
    report.rights.push(Right::from("GET Bucket", bucket.list(&cx(), &listing).await));
    let mut chance = [0; 16];
    clock.chance(&mut chance);
    let token = CommitToken::from_bytes(chance);
    let probe = Key::new(format!("{}.cosmount/check-{}", source.prefix, token.as_str()));
    report.rights.push(Right::of_absent("HEAD Object", bucket.head(&cx(), &probe).await));
    let nobodys = ObjectVersion { key: probe.clone(), etag: ETag::new("none"), size: 1, version_id: None };
    report.rights.push(Right::of_absent("GET Object", bucket.get(&cx(), &nobodys, 0..1).await));
    if write {
        try_to_write(&mut report, &*bucket, &cx, &probe, token).await;
    } else {
        report.not_tried.splice(0..0, ["PUT Object", "DELETE Object (--write tries both on a probe object)"]);
    }
    Ok(report)
}

async fn try_to_write(report: &mut Report, bucket: &dyn Bucket, cx: &impl Fn() -> Ctx, probe: &Key, token: CommitToken) {
    let meta = Meta { token: Some(token), ..Meta::default() };
    let put = bucket.put(&cx(), probe, &meta, Payload::from(bytes::Bytes::from_static(b"probe")), &Replaces::Absent).await;
    let stored = put.as_ref().ok().map(|stored| stored.version.clone());
    report.rights.push(Right::from("PUT Object", put));
    // Deleting what is not there is a success, and refused to who may not: it is tried in any case.
    report.rights.push(Right::from("DELETE Object", bucket.delete(&cx(), probe, stored.as_ref()).await));
}

impl Report {
    fn new(found: &Credentials) -> Self {
        let expires = found.expires.and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
        Self {
            source: found.origin().to_owned(),
            id: ends_of(found.id()),
            anonymous: found.is_anonymous(),
            temporary: found.is_temporary(),
            expires: expires.map(|since| since.as_secs()),
            bucket: None,
            rights: Vec::new(),
            not_tried: UNTRIED.to_vec(),
        }
    }
}

impl Right {
    fn of(operation: &'static str, error: Option<&Error>) -> Self {
        let outcome = match error.map(Error::kind) {
            None => Outcome::Allowed,
            Some(Kind::Denied | Kind::Expired) => Outcome::Refused,
            Some(_) => Outcome::Unknown,
        };
        Self {
            operation,
            outcome,
            status: error.and_then(Error::status),
            code: error.and_then(Error::code).map(str::to_owned),
            request_id: error.and_then(Error::request_id).map(str::to_owned),
            error: error.map(ToString::to_string),
        }
    }

    fn from<T>(operation: &'static str, result: Stored<T>) -> Self {
        Self::of(operation, result.err().as_ref())
    }

    /// Of an object that nobody has: that it is not there is told only to who may read.
    fn of_absent<T>(operation: &'static str, result: Stored<T>) -> Self {
        Self::of(operation, result.err().filter(|error| error.kind() != Kind::NotFound).as_ref())
    }
}

/// What a person is told.
fn told(report: &Report) -> String {
    use std::fmt::Write as _;
    let mut text = format!("credentials  {}\n", report.source);
    if let Some(id) = &report.id {
        // Writing to a String cannot fail, here and below.
        writeln!(text, "id           {id}").ok();
    }
    let expires = report.expires.map(|seconds| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let end = match (expires, report.temporary, report.anonymous) {
        (_, _, true) => "never: requests are not signed".to_owned(),
        (Some(time), ..) => match time.duration_since(SystemClock.wall()) {
            Ok(left) => format!("{} (in {} min {} s)", httpdate::fmt_http_date(time), left.as_secs() / 60, left.as_secs() % 60),
            Err(_) => format!("{}: they have ended, if this host's clock is right", httpdate::fmt_http_date(time)),
        },
        (None, true, _) => "not known: they are temporary, and nobody said when they end".to_owned(),
        (None, false, _) => "never".to_owned(),
    };
    writeln!(text, "end          {end}").ok();
    let Some(bucket) = &report.bucket else { return text };
    writeln!(text, "bucket       {bucket}").ok();
    for Right { operation, outcome, error, .. } in &report.rights {
        let word = match outcome {
            Outcome::Allowed => "allowed".to_owned(),
            Outcome::Refused => format!("refused: {}", error.as_deref().unwrap_or_default()),
            Outcome::Unknown => format!("not known: {}", error.as_deref().unwrap_or_default()),
        };
        writeln!(text, "  {operation:<14} {word}").ok();
    }
    writeln!(text, "not tried    {}", report.not_tried.join(", ")).ok();
    text
}

/// Enough of an id to tell one from another, of which nothing follows for the rest.
fn ends_of(id: &str) -> Option<String> {
    let ends = id.get(..4).zip(id.get(id.len().checked_sub(4)?..));
    // Of a short one too little would be hidden.
    ends.filter(|_| id.len() >= 16).map(|(first, last)| format!("{first}…{last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_id_the_ends_are_shown_and_of_a_short_one_nothing() {
        assert_eq!(ends_of("AKIDz8krbsJ5yKBZQpn74WFkmLPx3gnPhESA").as_deref(), Some("AKID…hESA"));
        assert_eq!(ends_of("AKIDEXAMPLE"), None);
        assert_eq!(ends_of(""), None);
        assert_eq!(ends_of("ééééééééééé"), Some("éé…éé".to_owned()));
        assert_eq!(ends_of("aéééééééééé"), None);
    }

    #[test]
    fn an_absent_object_is_an_answer_to_who_may_read() {
        let error = |kind| Err::<(), _>(Error::new(kind, "GET Object", "x").answered(403, Some("AccessDenied".into()), Some("id".into())));
        assert_eq!(Right::of_absent("GET Object", error(Kind::NotFound)).outcome, Outcome::Allowed);
        let refused = Right::of_absent("GET Object", error(Kind::Denied));
        assert_eq!(
            (refused.outcome, refused.code.as_deref(), refused.request_id.as_deref()),
            (Outcome::Refused, Some("AccessDenied"), Some("id"))
        );
        assert_eq!(Right::from("PUT Object", error(Kind::Unavailable)).outcome, Outcome::Unknown);
    }
}
