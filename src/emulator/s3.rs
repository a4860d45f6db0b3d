//! S3's names for COS's headers, so that programs that speak nothing else can be measured beside cosmount.
//!
//! The two protocols differ in signatures and in the prefix of their headers; paths, queries and documents are alike as far as s3fs and rclone
//! use them (lists of the first version). Whoever asks is let in, so this is for benchmarks and off by default.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};

const S3: &str = "x-amz-";
const COS: &str = "x-cos-";

/// A request's headers, as COS calls them; what signs it in S3's way is forgotten.
pub(super) fn incoming(headers: &mut HeaderMap) {
    if headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS")) {
        headers.remove(AUTHORIZATION);
    }
    rename(headers, S3, COS);
}

/// An answer's headers, as S3 calls them.
pub(super) fn outgoing(headers: &mut HeaderMap) {
    rename(headers, COS, S3);
}

fn rename(headers: &mut HeaderMap, from: &str, to: &str) {
    let renamed = |name: &HeaderName| HeaderName::from_bytes(format!("{to}{}", name.as_str().strip_prefix(from)?).as_bytes()).ok();
    let names: Vec<_> = headers.keys().filter_map(|name| Some((name.clone(), renamed(name)?))).collect();
    for (old, new) in names {
        if let Some(value) = headers.remove(old) {
            headers.insert(new, value);
        }
    }
}
