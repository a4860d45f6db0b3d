//! What is wrong and what to do about it, as `cosmount mount` and `cosmount doctor` say it: one sentence for each cause, the same from both.

use std::io;

use crate::local::OpenError;
use crate::mount::settings::Source;
use crate::store::{self, Kind, Way};

/// Something that keeps a mount from working, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {remedy}")]
pub struct Fault {
    /// What is wrong.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
    /// Whether this host cannot mount at all, whatever is to be mounted: exit code 2 of mount(8), else 32.
    pub of_host: bool,
}

impl Fault {
    /// A fault of what is to be mounted, or where, or how.
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into(), of_host: false }
    }

    /// A fault of this host.
    pub fn of_host(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { of_host: true, ..Self::new(why, remedy) }
    }
}

/// What a mount does with a bucket, as policies name it.
const ACTIONS: &str =
    "name/cos:HeadBucket, GetBucket, HeadObject, GetObject, PutObject, DeleteObject, DeleteMultipleObjects and those of multipart uploads";

/// What to do about a request that failed.
pub fn for_error(source: &Source, error: &store::Error) -> String {
    if let Some(way) = error.way() {
        return for_way(way).to_owned();
    }
    let bucket = &source.bucket;
    let by_code = match error.code() {
        Some("InvalidAccessKeyId") => {
            "COS knows no such SecretId: check the credentials; one that was deleted or disabled, or that of another cloud, is refused like this"
        }
        Some("SignatureDoesNotMatch") => {
            "the SecretKey is not the one of this SecretId: check the credentials, best by copying both anew; a proxy that rewrites the Host \
             header has the same effect"
        }
        Some("RequestTimeTooSkewed") => {
            "this host's clock is off, and the answer's Date did not help to correct it: set the clock (timedatectl set-ntp true), and look for a proxy \
             that changes Date"
        }
        Some("ArrearsExceeded" | "AccountArrears" | "PaymentRequired" | "UserInArrears") => {
            "the account is in arrears: top it up in the console"
        }
        _ => "",
    };
    if !by_code.is_empty() {
        return by_code.to_owned();
    }
    match error.kind() {
        Kind::NoSuchBucket | Kind::NotFound => {
            format!("check the bucket's name, its APPID ({bucket}) and its region (--region, or the one in --endpoint)")
        }
        Kind::Denied if error.status().is_none() => "give the credentials; `cosmount mount --help` says how".to_owned(),
        Kind::Denied => {
            format!("check the credentials: the signature is right, but their policy does not allow this; they need {ACTIONS} on {bucket}")
        }
        Kind::Expired => "the temporary credentials have ended: get new ones, and set id, key and token together".to_owned(),
        Kind::Unsupported if error.status().is_some_and(|status| (300..400).contains(&status)) => {
            "the bucket is elsewhere: check its region (--region, or the one in --endpoint)".to_owned()
        }
        Kind::Unavailable if error.status().is_some() && error.request_id().is_none() => {
            "whoever answered is not COS: check --endpoint, and for a proxy or a captive portal on the way".to_owned()
        }
        Kind::Unavailable | Kind::NoProgress => "check the network, --endpoint and --region; then try again".to_owned(),
        Kind::Throttled => "COS asks for fewer requests: try again later".to_owned(),
        _ => "the request id helps Tencent's support".to_owned(),
    }
}

/// What to do about the way to COS.
pub fn for_way(way: Way) -> &'static str {
    match way {
        Way::NoAddress => "check the host's name in --endpoint or --region, and this host's DNS (/etc/resolv.conf)",
        Way::Refused => "nothing listens there: check host and port of --endpoint",
        Way::Unreachable => "this host has no route there: check its network, and whether the endpoint is one of a private network",
        Way::Silent => {
            "nobody answers there: check for a firewall between, and whether the endpoint is one of a private network that this host is not in"
        }
        Way::Cut => "the connection was cut: check for a proxy or firewall between, and whether the port speaks http or https",
        Way::Untrusted => {
            "no trusted authority vouches for the endpoint's certificate: give the one that issued it with --ca-file, or install it for the system (ca-certificates)"
        }
        Way::OtherName => "the endpoint's certificate is for another name: use the name it is for in --endpoint",
        Way::CertificateEnded => "the endpoint's certificate has ended: have it renewed, and check this host's clock (date)",
        Way::CertificateEarly => "the endpoint's certificate is not good yet: check this host's clock (date)",
        Way::NotTls => {
            "what listens there speaks no TLS that is safe: check whether --endpoint is to begin with http:// instead, and its port"
        }
    }
}

/// What to do about a bucket that is not where it was looked for, when the account's list has it.
pub fn for_region(region: &str) -> String {
    format!("the bucket is in {region}: mount it with --region {region}, and with an --endpoint of that region, if with any")
}

/// What to do about a staging directory that cannot be used.
pub(super) fn for_staging(error: &OpenError) -> &'static str {
    match error {
        OpenError::InUse { .. } => "name another one with --staging, or unmount that mount",
        OpenError::Unsafe { .. } => {
            "name another one with --staging, or make it a directory of this user that nobody else may write to (chown, chmod 0700)"
        }
        OpenError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => FULL_STAGING,
        OpenError::Io { .. } => "name one that this user may write to with --staging, or do without (--staging none)",
    }
}

/// What to do about a staging directory without room.
pub(super) const FULL_STAGING: &str = "free some of its disk, name another one with --staging, or do without (--staging none)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Error;

    #[test]
    fn every_cause_has_its_own_advice() {
        let source = Source::parse("photos-125").unwrap();
        let error = |kind, status, code: Option<&str>| {
            Error::new(kind, "HEAD Bucket", "m").answered(status, code.map(str::to_owned), Some("id".to_owned()))
        };
        let mut said: Vec<String> = [
            error(Kind::Denied, 403, Some("InvalidAccessKeyId")),
            error(Kind::Denied, 403, Some("SignatureDoesNotMatch")),
            error(Kind::Denied, 403, Some("RequestTimeTooSkewed")),
            error(Kind::Denied, 403, Some("AccessDenied")),
            error(Kind::NoSuchBucket, 404, Some("NoSuchBucket")),
            error(Kind::Expired, 400, Some("ExpiredToken")),
            error(Kind::Unsupported, 301, Some("PermanentRedirect")),
            error(Kind::Throttled, 503, Some("SlowDown")),
            Error::new(Kind::Unavailable, "HEAD Bucket", "m").answered(404, None, None),
            Error::new(Kind::Unavailable, "HEAD Bucket", "m").because(Some(Way::Refused)),
            Error::new(Kind::Unavailable, "HEAD Bucket", "m"),
        ]
        .iter()
        .map(|error| for_error(&source, error))
        .collect();
        let all = said.len();
        said.sort();
        said.dedup();
        assert_eq!(said.len(), all, "{said:?}");
    }
}
