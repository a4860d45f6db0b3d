//! Signs requests the way COS verifies them. Pure, but for the cache of one key.
//!
//! The signature covers the method, the *decoded* path, and exactly the parameters and headers named in two lists, so both sides must agree on
//! one spelling of each: names percent-encoded, then lower-cased (hex digits and all), values percent-encoded with upper-case hex, pairs
//! sorted by name, repeats by value.
//!
//! Two steps of HMAC: the key of a time window comes from the secret, the signature from that key, *written as hex*. The first depends on the
//! window only, so [`Signer`] keeps it for as long as a window is reused. The window begins a minute in the past and moves every ten minutes.
//!
//! Source: COS API, "Request signature" (document 436/7778), read 2026-11; vectors made with the Python and Go SDKs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use sha1::{Digest, Sha1};

use crate::store::cos::Credentials;
use crate::support::Clock;

/// Every byte that is percent-encoded in a value: all but `A-Z a-z 0-9 - _ . ~`.
pub(super) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How long one window is handed out, and how long it is valid.
const STEP: u64 = 600;
const VALID: u64 = 3600;

/// What of a request is signed. Names and values as they are, unencoded.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `GET`, in any case.
    pub method: &'a str,
    /// The decoded path with its leading `/`.
    pub path: &'a str,
    /// Query parameters.
    pub params: &'a [(&'a str, &'a str)],
    /// Headers.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// A time window with its signing key.
pub(super) struct Window {
    credentials: Arc<Credentials>,
    time: String,
    /// What the clock was off by, as far as was known.
    offset: i64,
    key: String,
}

/// Hands out windows, corrected by what the server thinks the time is.
pub(super) struct Signer {
    clock: Arc<dyn Clock>,
    /// Seconds to add to this host's clock.
    offset: AtomicI64,
    window: Mutex<Option<Arc<Window>>>,
}

impl Signer {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, offset: AtomicI64::new(0), window: Mutex::new(None) }
    }

    /// The window to sign with now, for these credentials.
    pub(super) fn window(&self, credentials: &Arc<Credentials>) -> Arc<Window> {
        let offset = self.offset.load(Ordering::Relaxed);
        let now = unix(self.clock.wall()).saturating_add_signed(offset);
        let start = (now / STEP * STEP).saturating_sub(60);
        let mut end = start + VALID;
        if let Some(expiry) = credentials.expires.map(unix) {
            // A window without length is none; COS then says why it refuses, and the clock or the credentials are put right.
            end = end.min(expiry).max(start + 1);
        }
        let time = format!("{start};{end}");
        let mut cached = self.window.lock();
        match &*cached {
            Some(window) if window.time == time && window.offset == offset && Arc::ptr_eq(&window.credentials, credentials) => {
                Arc::clone(window)
            }
            _ => {
                let window = Arc::new(Window { offset, ..Window::new(Arc::clone(credentials), time) });
                *cached = Some(Arc::clone(&window));
                window
            }
        }
    }

    /// A request signed with `window` was refused by a server whose time is `server`. Says whether another signature may succeed: the clock
    /// was off by another amount than was known then. (Whoever else was refused meanwhile may have told already.)
    pub(super) fn correct(&self, server: SystemTime, window: &Window) -> bool {
        let seconds = |time| i64::try_from(unix(time)).unwrap_or(i64::MAX);
        let offset = seconds(server) - seconds(self.clock.wall());
        // Below a minute it is not the clock that the server minded.
        if offset.abs_diff(window.offset) < 60 {
            return false;
        }
        if self.offset.swap(offset, Ordering::Relaxed).abs_diff(offset) >= 60 {
            tracing::warn!(offset, "this host's clock differs from the store's; signing with the store's time");
        }
        true
    }
}

impl Window {
    pub(super) fn new(credentials: Arc<Credentials>, time: String) -> Self {
        let key = hmac(credentials.secret(), &time);
        Self { credentials, time, offset: 0, key }
    }

    pub(super) fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self, request: &Signed<'_>) -> String {
        let fields = self.fields(request);
        fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    fn fields(&self, request: &Signed<'_>) -> [(&'static str, String); 7] {
        let (params, param_names) = canonical(request.params.iter().map(|(name, value)| (*name, value.as_bytes())));
        let (headers, header_names) = canonical(request.headers.iter().map(|(name, value)| (*name, *value)));
        let http = format!("{}\n{}\n{params}\n{headers}\n", request.method.to_ascii_lowercase(), request.path);
        let to_sign = format!("sha1\n{}\n{}\n", self.time, hex(&Sha1::digest(http.as_bytes())));
        [
            ("q-sign-algorithm", "sha1".to_owned()),
            ("q-ak", self.credentials.id().to_owned()),
            ("q-sign-time", self.time.clone()),
            ("q-key-time", self.time.clone()),
            ("q-header-list", header_names),
            ("q-url-param-list", param_names),
            ("q-signature", hmac(self.key.as_bytes(), &to_sign)),
        ]
    }
}

/// The query string of a URL that anybody may use from `start` for `valid`: signature first, then the request's own parameters.
pub fn presigned_query(credentials: &Arc<Credentials>, start: SystemTime, valid: Duration, request: &Signed<'_>) -> String {
    let time = format!("{};{}", unix(start), unix(start + valid));
    let fields = Window::new(Arc::clone(credentials), time).fields(request);
    let own = request.params.iter().map(|(name, value)| (*name, *value));
    let all = fields.iter().map(|(name, value)| (*name, value.as_str())).chain(own);
    all.map(|(name, value)| format!("{name}={}", escaped(value.as_bytes()))).collect::<Vec<_>>().join("&")
}

/// The pairs as they are signed, and the list of their names.
fn canonical<'a>(pairs: impl Iterator<Item = (&'a str, &'a [u8])>) -> (String, String) {
    let mut pairs: Vec<_> = pairs.map(|(name, value)| (escaped(name.as_bytes()).to_ascii_lowercase(), escaped(value))).collect();
    pairs.sort_unstable();
    let joined = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let names = pairs.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(";");
    (joined, names)
}

fn escaped(bytes: &[u8]) -> String {
    percent_encode(bytes, ESCAPED).to_string()
}

fn hmac(key: &[u8], message: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: &str = "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com";
    const TOKEN: &str = "EXAMPLE+Token/with=chars==";

    fn credentials() -> Arc<Credentials> {
        Arc::new(Credentials::new("AKIDEXAMPLE", "exampleSecretKey"))
    }

    /// Signs and compares lists and signature; everything in between is fixed by those.
    fn check(
        (method, path): (&str, &str),
        params: &[(&str, &str)],
        headers: &[(&str, &str)],
        (param_list, header_list, signature): (&str, &str, &str),
    ) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let window = Window::new(credentials(), "1700000000;1700003600".to_owned());
        assert_eq!(window.key, "d72860781489f78cc3b4425b2ad36e31fd6b2963");
        let authorization = window.authorization(&Signed { method, path, params, headers: &headers });
        let expected = format!(
            "q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time=1700000000;1700003600&q-key-time=1700000000;1700003600\
             &q-header-list={header_list}&q-url-param-list={param_list}&q-signature={signature}"
        );
        assert_eq!(authorization, expected);
    }

    #[test]
    fn a_window_ends_with_the_credentials_at_the_latest() {
        let clock: Arc<dyn Clock> = Arc::new(crate::support::SystemClock);
        let signer = Signer::new(Arc::clone(&clock));
        let now = unix(clock.wall());
        for (left, expected) in [(30, now + 30), (1, now + 1), (90_000, now / STEP * STEP - 60 + VALID)] {
            let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(now + left);
            let window = signer.window(&Arc::new(Credentials::new("i", "k").until(Some(expires))));
            let (start, end) = window.time.split_once(';').map(|(a, b)| (a.parse::<u64>().unwrap(), b.parse::<u64>().unwrap())).unwrap();
            // The test may cross into the next step.
            assert!(end == expected || end == expected + STEP && left > VALID, "{left}");
            assert!(start < end);
        }
    }

    #[test]
    fn v1_service_with_only_the_host_signed() {
        let expected = ("", "host", "5397f0f5c2a08a2d028b155a8a055c4a13ddd2e2");
        check(("GET", "/"), &[], &[("Host", "service.cos.myqcloud.com")], expected);
    }

    #[test]
    fn v2_nothing_signed() {
        check(("GET", "/exampleobject"), &[], &[], ("", "", "6eb2e255ffb6eca4be5737dc947b55fa05c47397"));
    }

    #[test]
    fn v3_put_of_a_utf8_key_with_headers() {
        let headers = [
            ("Host", BUCKET),
            ("Content-Type", "text/plain"),
            ("Content-Length", "13"),
            ("Content-MD5", "mQ/fVh815F3k6TAUm8m0eg=="),
            ("x-cos-acl", "private"),
            ("x-cos-grant-read", "uin=\"100000000011\""),
        ];
        let list = "content-length;content-md5;content-type;host;x-cos-acl;x-cos-grant-read";
        check(("PUT", "/exampleobject(腾讯云)"), &[], &headers, ("", list, "f5f4a60611b39e931ddccac0f48ed683a3b159b7"));
    }

    #[test]
    fn v4_list_with_an_empty_value_and_special_characters() {
        let params =
            [("prefix", "photos 2024/a+b&c=d/"), ("delimiter", "/"), ("marker", ""), ("max-keys", "1000"), ("encoding-type", "url")];
        let expected = ("delimiter;encoding-type;marker;max-keys;prefix", "host", "360176540081e793fca9d2303e326a683d4edbc4");
        check(("GET", "/"), &params, &[("Host", BUCKET)], expected);
    }

    #[test]
    fn v5_upload_part_with_a_session_token_and_mixed_case_names() {
        let params = [("partNumber", "7"), ("uploadId", "1585130821cbb7df1d11846c073ad648e8f33b087cec2381df437acdc833cf654b9ecc6361")];
        let headers = [("Host", BUCKET), ("Content-Length", "1048576"), ("x-cos-security-token", TOKEN)];
        let expected = ("partnumber;uploadid", "content-length;host;x-cos-security-token", "2648b72175b3108fcb3597fe80c26ba0158f5938");
        check(("PUT", "/dir/big.bin"), &params, &headers, expected);
    }

    #[test]
    fn v6_conditional_range_of_a_key_full_of_reserved_characters() {
        let path = "/a b/c+d%e&f=g?h#i!'()*~;:@$,[]{}|^\"<>`\\é😀.txt";
        let headers = [("Host", BUCKET), ("Range", "bytes=1048576-2097151"), ("If-Match", "\"ee8de918d05640145b18f70f4c3aa602\"")];
        check(("GET", path), &[], &headers, ("", "host;if-match;range", "7cd75080632abc038fc1dded4f0e1d6be9409e31"));
    }

    #[test]
    fn v7_multi_delete_with_a_parameter_without_value() {
        let headers =
            [("Host", BUCKET), ("Content-Type", "application/xml"), ("Content-MD5", "zUd/xgzNGDrqJMJUOWV2AQ=="), ("Content-Length", "158")];
        let expected = ("delete", "content-length;content-md5;content-type;host", "ecfb36921b57584917d1a3ea15db735baffb4999");
        check(("POST", "/"), &[("delete", "")], &headers, expected);
    }

    #[test]
    fn v8_version_and_response_overrides() {
        let params = [
            ("versionId", "MTg0NDUxNTc1NjIzMTQ1MDAwODg"),
            ("response-content-type", "application/octet-stream"),
            ("response-content-disposition", "attachment; filename*=UTF-8''报告.pdf"),
        ];
        let list = "response-content-disposition;response-content-type;versionid";
        let expected = (list, "host", "63063cd184dc8f55e70b400a9c8af521c213d5d5");
        check(("GET", "/doc/report.pdf"), &params, &[("Host", BUCKET)], expected);
    }

    #[test]
    fn v9_parameter_name_that_needs_encoding() {
        let expected = ("imagemogr2%2fthumbnail%2f200x%2f", "host", "dd37ed0d0020b163ce4e86587cba2818c6e8118c");
        check(("GET", "/sample.png"), &[("imageMogr2/thumbnail/200x/", "")], &[("Host", BUCKET)], expected);
    }

    #[test]
    fn v10_repeated_parameter_and_header() {
        let params = [("tag", "b"), ("tag", "a"), ("tag", "A b")];
        let headers = [("Host", BUCKET), ("x-cos-meta-k", "v2"), ("x-cos-meta-k", "v1")];
        let expected = ("tag;tag;tag", "host;x-cos-meta-k;x-cos-meta-k", "b83b3e9ef94abc2bbbacb14db507f7723e8f61d2");
        check(("GET", "/exampleobject"), &params, &headers, expected);
    }

    #[test]
    fn v11_copy_source_is_encoded_again() {
        let headers = [
            ("Host", BUCKET),
            ("x-cos-copy-source", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/old%20name.txt"),
            ("x-cos-metadata-directive", "Replaced"),
            ("x-cos-meta-mode", "33188"),
            ("x-cos-meta-mtime", "1700000000"),
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", "0"),
        ];
        let list = "content-length;content-type;host;x-cos-copy-source;x-cos-meta-mode;x-cos-meta-mtime;x-cos-metadata-directive";
        check(("PUT", "/new name.txt"), &[], &headers, ("", list, "2b48cd245f98414b1b3d35b3e062f018c9bb0d70"));
    }

    #[test]
    fn v12_media_buckets() {
        let params =
            [("regions", "ap-guangzhou,ap-beijing"), ("bucketNames", "examplebucket-1250000000"), ("pageNumber", "1"), ("pageSize", "10")];
        let expected = ("bucketnames;pagenumber;pagesize;regions", "host", "c168d8ab633150dd45117e0a20176f6bf1db481a");
        check(("GET", "/mediabucket"), &params, &[("Host", "ci.ap-guangzhou.myqcloud.com")], expected);
    }

    #[test]
    fn v13_host_with_a_port() {
        let headers = [("Host", "examplebucket-1250000000.cos.local:9000")];
        check(("GET", "/exampleobject"), &[], &headers, ("", "host", "566deec75574672de4871439bfa2657e7f1c61e9"));
    }

    #[test]
    fn v14_presigned_url_with_the_token_in_the_query() {
        let params = [("response-content-type", "text/plain"), ("x-cos-security-token", TOKEN)];
        let headers = [("Host", BUCKET.as_bytes())];
        let request = Signed { method: "GET", path: "/a b/报告.txt", params: &params, headers: &headers };
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let query = presigned_query(&credentials(), start, Duration::from_secs(3600), &request);
        assert_eq!(
            query,
            "q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time=1700000000%3B1700003600&q-key-time=1700000000%3B1700003600\
             &q-header-list=host&q-url-param-list=response-content-type%3Bx-cos-security-token\
             &q-signature=c34bc5934e0180858df49e819756597ea41a5282\
             &response-content-type=text%2Fplain&x-cos-security-token=EXAMPLE%2BToken%2Fwith%3Dchars%3D%3D"
        );
    }

    #[test]
    fn published_examples_hash_to_the_published_values() {
        let http = "get\n/exampleobject(腾讯云)\nresponse-cache-control=max-age%3D600&response-content-type=application%2Foctet-stream\n\
                    date=Thu%2C%2016%20May%202019%2006%3A55%3A53%20GMT&host=examplebucket-1250000000.cos.ap-beijing.myqcloud.com\n";
        assert_eq!(hex(&Sha1::digest(http.as_bytes())), "54ecfe22f59d3514fdc764b87a32d8133ea611e6");
    }
}
