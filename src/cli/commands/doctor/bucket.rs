//! The bucket: signature, name, region, and what the credentials may do there.

use std::sync::Arc;

use bytes::Bytes;

use crate::cli::commands::doctor::{Patient, finding::Report};
use crate::mount::advice;
use crate::mount::{self, Account, Settings, Source};
use crate::store::cos::Credentials;
use crate::store::{self, Bucket, CommitToken, Key, Kind, ListRequest, Meta, Payload, Replaces, Segment, Service, probe};
use crate::support::Metrics;

/// Keys that are looked at for one to read.
const PAGE: u16 = 20;
/// What the probe object holds.
const PROBE: &[u8] = b"cosmount doctor";

const CHECKS: [&str; 5] = ["signature", "bucket", "region", "list", "get"];
const WRITES: [&str; 3] = ["put", "upload", "delete"];

/// The account, once there is somebody to sign for it, and who that is.
async fn account(patient: &Patient) -> anyhow::Result<(Arc<dyn Service>, Arc<Credentials>)> {
    let Settings { store, source, .. } = &patient.settings;
    let Account { service, credentials } = mount::account(store, Some(&source.bucket), &Metrics::default(), &patient.clock)?;
    let credentials = patient.cx().bounded(credentials.credentials()).await??;
    Ok((service, credentials))
}

/// Asks the bucket, unless the way there is none.
pub(super) async fn examine(patient: &Patient, report: &mut Report, way: Result<(), String>) {
    if let Err(because) = &way
        && probe::authorities(patient.settings.store.ca_file.as_deref()).is_err()
    {
        report.not_tried("credentials", because);
        return rest(patient, report, &CHECKS, because);
    }
    let service = match account(patient).await {
        Ok((service, credentials)) => {
            let until = credentials.expires.map(|ends| format!(", until {}", httpdate::fmt_http_date(ends)));
            report.good("credentials", format!("from {}{}", credentials.origin().escape_debug(), until.unwrap_or_default()));
            service
        }
        Err(error) => {
            report.bad(
                "credentials",
                format!("{error:#}"),
                "`cosmount credentials check` says which source is used, and --credentials names one",
            );
            return rest(patient, report, &CHECKS, "there are no credentials");
        }
    };
    if let Err(because) = way {
        return rest(patient, report, &CHECKS, &because);
    }
    let source = &patient.settings.source;
    let bucket = match service.open(&patient.cx(), &source.bucket).await {
        Ok(bucket) => {
            report.good("signature", "taken by COS");
            report.good("bucket", format!("{} is there", source.bucket));
            bucket
        }
        Err(error) => return refused(patient, report, &service, &error).await,
    };
    region(patient, report, &*bucket);
    let object = list(patient, report, &*bucket).await;
    get(patient, report, &*bucket, object).await;
    if patient.write {
        write(patient, report, &bucket).await;
    }
}

fn rest(patient: &Patient, report: &mut Report, checks: &[&'static str], because: &str) {
    let writes = if patient.write { &WRITES[..] } else { &[] };
    for check in checks.iter().chain(writes) {
        report.not_tried(check, because);
    }
}

/// The bucket could not be opened: says which of the steps that was.
async fn refused(patient: &Patient, report: &mut Report, service: &Arc<dyn Service>, error: &store::Error) {
    let source = &patient.settings.source;
    let remedy = advice::for_error(source, error);
    match error.kind() {
        Kind::NoSuchBucket => {
            report.not_tried("signature", "COS looks for the bucket first");
            match mount::elsewhere(service, &patient.settings, error, &patient.clock).await {
                Some(region) => {
                    report.good("bucket", format!("{} is there, in another region", source.bucket));
                    report.bad("region", error.to_string(), advice::for_region(&region));
                }
                None => {
                    report.bad("bucket", error.to_string(), remedy);
                    report.not_tried("region", "the bucket was not found");
                }
            }
            rest(patient, report, &CHECKS[3..], "the bucket was not found");
        }
        Kind::Expired => {
            report.bad("signature", error.to_string(), remedy);
            rest(patient, report, &CHECKS[1..], "the credentials have ended");
        }
        Kind::Denied if matches!(error.code(), Some("AccessDenied" | "AccessForbidden") | None) && error.status().is_some() => {
            report.good("signature", "taken by COS");
            report.bad("bucket", error.to_string(), remedy);
            rest(patient, report, &CHECKS[2..], "the bucket may not be asked");
        }
        Kind::Denied => {
            report.bad("signature", error.to_string(), remedy);
            rest(patient, report, &CHECKS[1..], "the signature was refused");
        }
        _ => {
            report.not_tried("signature", "the bucket could not be asked");
            report.bad("bucket", error.to_string(), remedy);
            rest(patient, report, &CHECKS[2..], "the bucket could not be asked");
        }
    }
}

fn region(patient: &Patient, report: &mut Report, bucket: &dyn Bucket) {
    match (&bucket.capabilities().region, &patient.settings.store.region) {
        (Some(there), Some(typed)) if there != typed => {
            let detail = format!("COS says {}, --region says {typed}", there.escape_debug());
            report.doubtful("region", detail, advice::for_region(there));
        }
        (Some(there), _) => report.good("region", there.escape_debug().to_string()),
        (None, Some(typed)) => report.good("region", format!("{typed}, as typed; COS did not say")),
        (None, None) => report.good("region", "COS did not say, and none was typed"),
    }
}

/// Lists, and finds an object that can be read.
async fn list(patient: &Patient, report: &mut Report, bucket: &dyn Bucket) -> Result<store::Listed, String> {
    let source = &patient.settings.source;
    let request = ListRequest { prefix: source.prefix.clone(), delimited: false, after: None, limit: Some(PAGE) };
    match bucket.list(&patient.cx(), &request).await {
        Ok(page) => {
            let more = if page.next.is_some() { " and more" } else { "" };
            report.good("list", format!("{}{more} objects below {source}", page.objects.len()));
            let archived = |object: &store::Listed| object.class.as_deref().is_some_and(|class| class.contains("ARCHIVE"));
            let readable = page.objects.into_iter().find(|object| object.version.size > 0 && !archived(object));
            readable.ok_or_else(|| "no object was found to read; --write makes one".to_owned())
        }
        Err(error) => {
            denied(source, report, "list", &error);
            Err("nothing could be listed".to_owned())
        }
    }
}

async fn get(patient: &Patient, report: &mut Report, bucket: &dyn Bucket, object: Result<store::Listed, String>) {
    let object = match object {
        Ok(object) => object,
        Err(because) => return report.not_tried("get", because),
    };
    let key = &object.version.key;
    let read = async {
        let head = bucket.head(&patient.cx(), key).await?;
        let mut body = bucket.get(&patient.cx(), &head.version, 0..1).await?;
        while let Some(piece) = body.next().await {
            piece?;
        }
        Ok::<_, store::Error>(())
    };
    match read.await {
        Ok(()) => report.good("get", format!("the first byte of {}", key.to_string().escape_debug())),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Precondition) => {
            report.not_tried("get", "somebody else changed the object meanwhile");
        }
        Err(error) => denied(&patient.settings.source, report, "get", &error),
    }
}

/// Puts an object, reads it, opens and drops an upload, deletes the object.
async fn write(patient: &Patient, report: &mut Report, bucket: &Arc<dyn Bucket>) {
    let (source, cx) = (&patient.settings.source, || patient.cx());
    let mut chance = [0; 16];
    patient.clock.chance(&mut chance);
    // Where mounts keep their helper objects: no mount shows it.
    let key = Key::new(format!("{}.cosmount/doctor-{:032x}", source.prefix, u128::from_le_bytes(chance)));
    let meta = Meta { token: Some(CommitToken::from_bytes(chance)), ..Meta::default() };
    let payload = Payload::new(vec![Segment::Bytes(Bytes::from_static(PROBE))]);
    let put = bucket.put(&cx(), &key, &meta, payload, &Replaces::Absent).await;
    match &put {
        Ok(_) => report.good("put", key.to_string()),
        Err(error) => denied(source, report, "put", error),
    }
    match bucket.create_upload(&cx(), &key, &meta).await {
        Ok(upload) => match bucket.abort_upload(&cx(), &upload).await {
            Ok(()) => report.good("upload", "opened and dropped"),
            Err(error) => report.bad("upload", format!("{error}; the upload of {key} stays open"), advice::for_error(source, &error)),
        },
        Err(error) => denied(source, report, "upload", &error),
    }
    // Also after a failed PUT: it may have happened all the same.
    match bucket.delete(&cx(), &key, None).await {
        Ok(()) => report.good("delete", key.to_string()),
        Err(error) if put.is_ok() => {
            report.bad("delete", format!("{error}; the probe {key} stays in the bucket"), advice::for_error(source, &error));
        }
        Err(error) => denied(source, report, "delete", &error),
    }
}

fn denied(source: &Source, report: &mut Report, check: &'static str, error: &store::Error) {
    report.bad(check, error.to_string(), advice::for_error(source, error));
}
