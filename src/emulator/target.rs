//! What a request is about: bucket, key and operation, from its `Host`, path and query.
//!
//! 1. The path is percent-decoded once, `%2F` included, and its dot segments stay: keys are byte strings, not paths.
//! 2. `Host` decides the style. An address, `localhost`, a service host and a name without dots mean path style; otherwise everything
//!    before `.cos.`, or before the first dot, is the bucket.
//! 3. The operation is chosen by the *first* query parameter that is the request's own, as COS does.
//!
//! Source: COS API, request overview (document 436/7728) and the SDKs' URLs, read 2026-11.

use std::net::IpAddr;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode;

use super::error::{Failure, Outcome};
use super::op::Op;

/// Bucket, key and operation of a request.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) op: Op,
    /// None for requests to the service.
    pub(super) bucket: Option<String>,
    /// Empty for requests to a bucket.
    pub(super) key: Vec<u8>,
    /// The whole decoded path, which is what is signed.
    pub(super) path: Vec<u8>,
    pub(super) query: Query,
    /// The region a service host names, as in `cos.<Region>.…`.
    pub(super) region: Option<String>,
}

impl Target {
    pub(super) fn parse(parts: &Parts, service_hosts: &[String]) -> Outcome<Self> {
        let path: Vec<u8> = percent_decode(parts.uri.path().as_bytes()).collect();
        let query = Query::parse(parts.uri.query().unwrap_or(""));
        let host = host_of(parts);
        let (bucket, key, region) = match bucket_of_host(&host, service_hosts) {
            Style::Host(bucket) => (Some(bucket), path.get(1..).unwrap_or_default().to_vec(), None),
            Style::Path(region) => {
                let mut halves = path.get(1..).unwrap_or_default().splitn(2, |b| *b == b'/');
                let bucket = String::from_utf8_lossy(halves.next().unwrap_or_default()).to_ascii_lowercase();
                let key = halves.next().unwrap_or_default().to_vec();
                ((!bucket.is_empty()).then_some(bucket), key, region)
            }
        };
        let op = operation(&parts.method, bucket.is_some(), !key.is_empty(), &query, &parts.headers);
        Ok(Self { op, bucket, key, path, query, region })
    }

    /// The bucket, which every operation but the list of buckets has.
    pub(super) fn bucket(&self) -> Outcome<&str> {
        self.bucket.as_deref().ok_or_else(|| Failure::new(400, "InvalidURI", "The request names no bucket."))
    }
}

/// Decoded query parameters in the order they came.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, Vec<u8>)>);

impl Query {
    /// Decodes a query, where `+` is a blank: the Python SDK writes them so.
    pub(super) fn parse(raw: &str) -> Self {
        let decode = |text: &str| -> Vec<u8> { percent_decode(text.replace('+', " ").as_bytes()).collect() };
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (String::from_utf8_lossy(&decode(name)).into_owned(), decode(value))
        };
        Self(raw.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The value of a parameter, its name compared without regard to case: pages of the documentation disagree on it.
    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// The value as text; what is not UTF-8 becomes U+FFFD.
    pub(super) fn text(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        self.bytes(name).map(String::from_utf8_lossy)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// A number, or the default where it is absent or empty.
    pub(super) fn number(&self, name: &str, default: u64) -> Outcome<u64> {
        match self.text(name).as_deref() {
            None | Some("") => Ok(default),
            Some(text) => text.parse().map_err(|_| Failure::invalid_argument(format!("{name} is not a number: {text}"))),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The first parameter that belongs to the request itself, neither to its signature nor to its answer.
    fn subresource(&self) -> &str {
        let own = |name: &&str| {
            let name = name.to_ascii_lowercase();
            !(name.starts_with("q-") || name == "sign" || name.starts_with("x-cos-") || name.starts_with("response-"))
        };
        self.iter().map(|(name, _)| name).find(own).unwrap_or("")
    }
}

enum Style {
    Host(String),
    Path(Option<String>),
}

/// The `Host` header, or the authority of an absolute URI, in lower case.
fn host_of(parts: &Parts) -> String {
    let header = parts.headers.get(hyper::header::HOST).and_then(|value| value.to_str().ok());
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    header.or(authority).unwrap_or("").to_ascii_lowercase()
}

/// A host without its port; `[::1]:80` keeps its brackets.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bucket_of_host(host: &str, service_hosts: &[String]) -> Style {
    let name = without_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if address || name == "localhost" || !name.contains('.') || service_hosts.iter().any(|h| h == name || h == host) {
        return Style::Path(None);
    }
    if name.starts_with("service.cos.") {
        return Style::Path(None);
    }
    if let Some(rest) = name.strip_prefix("cos.") {
        return Style::Path(rest.split('.').next().map(str::to_owned));
    }
    let end = name.find(".cos.").or_else(|| name.find('.')).unwrap_or(name.len());
    Style::Host(name[..end].to_owned())
}

/// Bucket and key that a copy source names: `<bucket>.cos.<region>.…/<key>`, `/<bucket>/<key>` or, for an address, `<host>/<bucket>/<key>`.
pub(super) fn copy_source(value: &str, service_hosts: &[String]) -> Outcome<(String, Vec<u8>, Option<String>)> {
    let invalid = || Failure::new(400, "InvalidCopySource", format!("The copy source cannot be understood: {value}"));
    let (place, version) = match value.split_once('?') {
        Some((place, query)) => (place, Query::parse(query).text("versionId").map(std::borrow::Cow::into_owned)),
        None => (value, None),
    };
    let place = place.trim_start_matches("http://").trim_start_matches("https://");
    let (host, rest) = match place.strip_prefix('/') {
        Some(rest) => ("", rest),
        None => place.split_once('/').ok_or_else(invalid)?,
    };
    let (bucket, key) = match bucket_of_host(&host.to_ascii_lowercase(), service_hosts) {
        Style::Host(bucket) => (bucket, rest),
        // `<bucket>/<key>`, which other stores use, has no dot in its first part either.
        Style::Path(_) if !host.is_empty() && without_port(host) == host && !host.contains(['.', '[']) && host != "localhost" => {
            (host.to_owned(), rest)
        }
        Style::Path(_) => rest.split_once('/').map(|(bucket, key)| (bucket.to_owned(), key)).ok_or_else(invalid)?,
    };
    let key: Vec<u8> = percent_decode(key.as_bytes()).collect();
    if bucket.is_empty() || key.is_empty() {
        return Err(invalid());
    }
    Ok((bucket, key, version))
}

fn operation(method: &Method, bucket: bool, key: bool, query: &Query, headers: &HeaderMap) -> Op {
    let subresource = query.subresource().to_ascii_lowercase();
    let copies = headers.contains_key("x-cos-copy-source");
    if *method == Method::OPTIONS {
        return Op::Options;
    }
    if !bucket {
        return if *method == Method::GET { Op::ListBuckets } else { Op::Other };
    }
    if !key {
        return match (method.as_str(), subresource.as_str()) {
            ("GET", "uploads") => Op::ListUploads,
            ("GET", "versions") => Op::ListVersions,
            ("POST", "delete") => Op::DeleteMany,
            ("GET", name) if CONFIGS.contains(&name) => Op::GetBucketConfig,
            ("PUT", name) if CONFIGS.contains(&name) => Op::PutBucketConfig,
            ("DELETE", name) if CONFIGS.contains(&name) => Op::DeleteBucketConfig,
            (_, name) if SUBRESOURCES.contains(&name) => Op::Other,
            ("GET", _) => Op::ListObjects,
            ("HEAD", _) => Op::HeadBucket,
            ("PUT", _) => Op::CreateBucket,
            ("DELETE", _) => Op::DeleteBucket,
            _ => Op::Other,
        };
    }
    match (method.as_str(), subresource.as_str()) {
        ("GET", "acl") => Op::GetObjectAcl,
        ("PUT", "acl") => Op::PutObjectAcl,
        ("GET", "tagging") => Op::GetObjectTagging,
        ("PUT", "tagging") => Op::PutObjectTagging,
        ("DELETE", "tagging") => Op::DeleteObjectTagging,
        ("POST", "uploads") => Op::InitiateUpload,
        ("POST", "append") => Op::AppendObject,
        ("POST", "restore") => Op::RestoreObject,
        ("PUT", "partnumber" | "uploadid") if copies => Op::CopyPart,
        ("PUT", "partnumber" | "uploadid") => Op::UploadPart,
        ("POST", "uploadid") => Op::CompleteUpload,
        ("DELETE", "uploadid") => Op::AbortUpload,
        ("GET", "uploadid") => Op::ListParts,
        (_, name) if SUBRESOURCES.contains(&name) => Op::Other,
        ("GET", _) => Op::GetObject,
        ("HEAD", _) => Op::HeadObject,
        ("PUT", _) if copies => Op::CopyObject,
        ("PUT", _) => Op::PutObject,
        ("DELETE", _) => Op::DeleteObject,
        _ => Op::Other,
    }
}

/// Bucket settings that the emulator keeps or has an answer for.
const CONFIGS: &[&str] = &["location", "versioning", "acl", "tagging", "lifecycle", "accelerate"];

/// Names that mean something else than an object or a listing.
const SUBRESOURCES: &[&str] = &[
    "acl",
    "uploads",
    "policy",
    "cors",
    "delete",
    "versions",
    "location",
    "referer",
    "lifecycle",
    "versioning",
    "notification",
    "replication",
    "website",
    "logging",
    "tagging",
    "accelerate",
    "domain",
    "inventory",
    "origin",
    "object-lock",
    "live",
    "encryption",
    "intelligenttiering",
    "symlink",
    "restore",
    "select",
    "rename",
    "append",
    "session",
    "retention",
    "legal-hold",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: &str, host: &str, uri: &str) -> Target {
        let request = hyper::Request::builder().method(method).uri(uri).header("host", host).body(()).unwrap();
        Target::parse(&request.into_parts().0, &["store.example:80".into()]).unwrap()
    }

    #[test]
    fn host_decides_the_style() {
        for (host, uri, bucket, key) in [
            ("b-125.cos.ap-x.myqcloud.com", "/a/b", Some("b-125"), "a/b"),
            ("b-125.cos.ap-x.myqcloud.com:8080", "/", Some("b-125"), ""),
            ("b-125.localhost:80", "/a", Some("b-125"), "a"),
            ("127.0.0.1:80", "/b-125/a/b", Some("b-125"), "a/b"),
            ("[::1]:80", "/b-125/", Some("b-125"), ""),
            ("localhost", "/b-125", Some("b-125"), ""),
            ("127.0.0.1", "/", None, ""),
            ("service.cos.myqcloud.com", "/", None, ""),
            ("cos.ap-x.myqcloud.com", "/b-125/k", Some("b-125"), "k"),
            ("store.example:80", "/b-125/k", Some("b-125"), "k"),
        ] {
            let found = target("GET", host, uri);
            assert_eq!((found.bucket.as_deref(), &found.key[..]), (bucket, key.as_bytes()), "{host}{uri}");
        }
        assert_eq!(target("GET", "cos.ap-x.myqcloud.com", "/").region.as_deref(), Some("ap-x"));
    }

    #[test]
    fn path_is_decoded_once_and_not_resolved() {
        assert_eq!(target("GET", "b.x", "/a%2F..%2Fb%252F/./c").key, b"a/../b%2F/./c");
        assert_eq!(target("GET", "b.x", "/%ff+").key, b"\xff+");
    }

    #[test]
    fn first_own_parameter_decides() {
        assert_eq!(target("POST", "b.x", "/k?uploads").op, Op::InitiateUpload);
        assert_eq!(target("GET", "b.x", "/?uploads=&prefix=a").op, Op::ListUploads);
        assert_eq!(target("GET", "b.x", "/?prefix=a&uploads=").op, Op::ListObjects);
        assert_eq!(target("PUT", "b.x", "/k?q-ak=1&sign=x&partNumber=1&uploadId=2").op, Op::UploadPart);
        assert_eq!(target("GET", "b.x", "/k?response-content-type=x&x-cos-security-token=y").op, Op::GetObject);
        assert_eq!(target("GET", "b.x", "/?versions").op, Op::ListVersions);
        assert_eq!(target("DELETE", "b.x", "/k?versionId=x").op, Op::DeleteObject);
        assert_eq!(target("POST", "b.x", "/k?restore&versionId=x").op, Op::RestoreObject);
        assert_eq!(target("GET", "b.x", "/?policy").op, Op::Other);
        assert_eq!(target("GET", "b.x", "/acl?acl").op, Op::GetObjectAcl);
    }

    #[test]
    fn copy_source_has_three_forms() {
        let source = |text: &str| copy_source(text, &[]).map(|(bucket, key, _)| (bucket, String::from_utf8(key).unwrap())).ok();
        let wanted = Some(("b-125".to_owned(), "a b/c".to_owned()));
        assert_eq!(source("b-125.cos.ap-x.myqcloud.com/a%20b/c"), wanted);
        assert_eq!(source("b-125.localhost:4000/a%20b/c?versionId=1"), wanted);
        assert_eq!(source("/b-125/a%20b/c"), wanted);
        assert_eq!(source("127.0.0.1:80/b-125/a%20b/c"), wanted);
        assert_eq!(source("b-125/a%20b/c"), wanted);
        for bad in ["", "/", "/b", "/b/", "b.cos.x"] {
            assert_eq!(source(bad), None, "{bad}");
        }
    }
}
