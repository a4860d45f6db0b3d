//! Archived objects: what may not be read, and how it is asked for.
//!
//! An object of class ARCHIVE or DEEP_ARCHIVE is *frozen*. A restore makes it *ongoing* for as long as the emulator was told
//! ([`Restoring::delay`], the same for all tiers), then readable for the days that were asked for, then frozen again. Nothing runs in the
//! background: the stage follows from the clock and from what was asked last.
//!
//! Source: COS API, POST Object restore (document 436/12633), HEAD Object (436/7745), read 2026-11. That a restore of a readable object
//! answers 200 and only moves its end is inferred.

use std::ops::Bound;

use hyper::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::call::Call;
use super::clock;
use super::config::Restoring;
use super::error::{Failure, Outcome};
use super::meta::insert_text;
use super::objects::http_date;
use super::server::Core;
use super::state::{Object, Store};
use super::versions::Version;
use super::xml::{self, Element};

/// A restore that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restore {
    /// Seconds since 1970.
    asked: u64,
    tier: String,
    /// Milliseconds since 1970, from when it may be read until when.
    ready: u64,
    expires: u64,
}

/// What may be done with an object now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage<'a> {
    /// Of a class that is never archived.
    Plain,
    Frozen,
    Ongoing(&'a Restore),
    Restored(&'a Restore),
}

impl Object {
    fn stage(&self, now: u64) -> Stage<'_> {
        if !matches!(self.meta.class.as_str(), "ARCHIVE" | "DEEP_ARCHIVE") {
            return Stage::Plain;
        }
        match &self.restore {
            Some(restore) if now < restore.ready => Stage::Ongoing(restore),
            Some(restore) if now < restore.expires => Stage::Restored(restore),
            _ => Stage::Frozen,
        }
    }

    /// Refuses to read what is archived.
    pub(super) fn check_readable(&self) -> Outcome<()> {
        match self.stage(clock::unix_millis()) {
            Stage::Plain | Stage::Restored(_) => Ok(()),
            Stage::Frozen | Stage::Ongoing(_) => {
                let failure = Failure::new(403, "InvalidObjectState", "The operation is not valid for the object's storage class.");
                Err(failure.with_header("x-cos-storage-class", &self.meta.class))
            }
        }
    }

    /// The headers of HEAD and GET that tell how far a restore is.
    pub(super) fn describe_restore(&self, out: &mut HeaderMap) {
        match self.stage(clock::unix_millis()) {
            Stage::Plain | Stage::Frozen => {}
            Stage::Ongoing(restore) => {
                insert_text(out, "x-cos-restore", "ongoing-request=\"true\"");
                let status = format!("tier=\"{}\"; request-date=\"{}\"", restore.tier.to_ascii_lowercase(), http_date(restore.asked));
                insert_text(out, "x-cos-restore-status", &status);
            }
            Stage::Restored(restore) => {
                let until = http_date(restore.expires / 1000);
                insert_text(out, "x-cos-restore", &format!("ongoing-request=\"false\", expiry-date=\"{until}\""));
            }
        }
    }

    /// What a listing tells of a restore.
    pub(super) fn restore_status(&self) -> Option<&'static str> {
        match self.stage(clock::unix_millis()) {
            Stage::Plain | Stage::Frozen => None,
            Stage::Ongoing(_) => Some("ONGOING"),
            Stage::Restored(_) => Some("DONE"),
        }
    }
}

impl Core {
    pub(super) async fn restore_object(&self, call: &mut Call) -> Outcome<Answer> {
        // The documentation wants Content-MD5 here; the Python SDK sends none, and COS takes it.
        let wanted = Wanted::of(&xml::parse(&call.document().await?, "RestoreRequest")?)?;
        let Restoring { delay, day } = self.config.restoring;
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let lasts = u64::try_from(day.as_millis()).unwrap_or(u64::MAX).saturating_mul(wanted.days);
        let mut status = StatusCode::ACCEPTED;
        let found = self.store.update(call.bucket()?, call.key(), call.version(), |object| {
            let now = clock::unix_millis();
            let restore = match object.stage(now) {
                Stage::Plain => return Err(Failure::new(405, "RestoreNonArchiveObject", "The object is not archived.")),
                Stage::Ongoing(_) => return Err(Failure::new(409, "RestoreAlreadyInProgress", "The object is being restored.")),
                Stage::Restored(before) => {
                    status = StatusCode::OK;
                    Restore { expires: now.saturating_add(lasts), ..before.clone() }
                }
                Stage::Frozen => {
                    if object.meta.class == "DEEP_ARCHIVE" && wanted.tier == "Expedited" {
                        return Err(Failure::invalid_argument("DEEP_ARCHIVE has no Expedited tier."));
                    }
                    let ready = now.saturating_add(delay);
                    Restore { asked: call.now, tier: wanted.tier.clone(), ready, expires: ready.saturating_add(lasts) }
                }
            };
            Ok(Object { restore: Some(restore), ..object.clone() })
        })?;
        Ok(Answer::new(status).version(found.version.as_deref()))
    }
}

impl Store {
    /// Ends every restore that is under way, as if its time had passed.
    pub(super) fn finish_restores(&self, bucket: &str) -> Outcome<()> {
        let now = clock::unix_millis();
        let ongoing = self.bucket(bucket, |bucket| {
            let keys = std::iter::successors(bucket.next_key(Bound::Unbounded), |key| bucket.next_key(Bound::Excluded(key)));
            let one = |version: Version| match version {
                Version::Object(object) if matches!(object.stage(now), Stage::Ongoing(_)) => Some(object.stamp.named()),
                _ => None,
            };
            Ok(keys.flat_map(|key| bucket.stack(key).filter_map(one).map(|id| (key.to_vec(), id))).collect::<Vec<_>>())
        })?;
        for (key, id) in ongoing {
            self.update(bucket, &key, Some(id), |object| {
                let early = |restore: &Restore| restore.ready.saturating_sub(now);
                let done = |restore: &Restore| Restore { ready: now, expires: restore.expires - early(restore), ..restore.clone() };
                Ok(Object { restore: object.restore.as_ref().map(done), ..object.clone() })
            })?;
        }
        Ok(())
    }
}

/// A `<RestoreRequest>`.
struct Wanted {
    days: u64,
    tier: String,
}

impl Wanted {
    fn of(tree: &Element) -> Outcome<Self> {
        let days = tree.text_of("Days").ok_or_else(|| Failure::malformed_xml("Days is missing."))?.trim();
        let days = days.parse().ok().filter(|days| (1..=365).contains(days));
        let days = days.ok_or_else(|| Failure::invalid_argument("Days are 1 to 365."))?;
        let tier = tree.child("CASJobParameters").and_then(|job| job.text_of("Tier")).map_or("Standard", str::trim);
        if !["Expedited", "Standard", "Bulk"].contains(&tier) {
            return Err(Failure::malformed_xml(format!("The tier {tier} is unknown.")));
        }
        Ok(Self { days, tier: tier.to_owned() })
    }
}
