//! The fourteen published-form vectors, and the rules around them.

use super::super::config::Token;
use super::*;

/// The middle of the vectors' window.
const NOW: u64 = 1_700_000_100;

fn account() -> Account {
    Account { secret_id: "AKIDEXAMPLE".into(), secret_key: "exampleSecretKey".into(), token: None }
}

fn with_token(expires: Option<u64>) -> Account {
    Account { token: Some(Token { value: "EXAMPLE+Token/with=chars==".into(), expires }), ..account() }
}

fn rules(now: u64) -> Rules {
    Rules { now, strict: false, tokens_expired: false }
}

fn authorization(parameters: &str, headers: &str, signature: &str) -> String {
    let time = "1700000000;1700003600";
    format!(
        "q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time={time}&q-key-time={time}&q-header-list={headers}\
         &q-url-param-list={parameters}&q-signature={signature}"
    )
}

/// Verifies a request as the server would receive it.
fn check(accounts: &[Account], method: &str, url: &str, headers: &[(&str, &str)], rules: Rules) -> Outcome<Option<usize>> {
    let uri: hyper::Uri = url.parse().unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    if !map.contains_key("host") {
        map.insert("host", uri.authority().unwrap().as_str().parse().unwrap());
    }
    let path: Vec<u8> = percent_encoding::percent_decode_str(uri.path()).collect();
    let query = Query::parse(uri.query().unwrap_or(""));
    verify(accounts, Signed { method: &method.to_ascii_lowercase(), path: &path, query: &query, headers: &map }, rules)
}

/// method, URL, headers, UrlParamList, HeaderList, signature; V1 to V13 of the signature vectors.
type Vector = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str, &'static str, &'static str);

const VECTORS: &[Vector] = &[
    (
        "GET",
        "https://service.cos.myqcloud.com/",
        &[("Host", "service.cos.myqcloud.com")],
        "",
        "host",
        "5397f0f5c2a08a2d028b155a8a055c4a13ddd2e2",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/exampleobject",
        &[],
        "",
        "",
        "6eb2e255ffb6eca4be5737dc947b55fa05c47397",
    ),
    (
        "PUT",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/exampleobject%28%E8%85%BE%E8%AE%AF%E4%BA%91%29",
        &[
            ("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ("Content-Type", "text/plain"),
            ("Content-Length", "13"),
            ("Content-MD5", "mQ/fVh815F3k6TAUm8m0eg=="),
            ("x-cos-acl", "private"),
            ("x-cos-grant-read", "uin=\"100000000011\""),
        ],
        "",
        "content-length;content-md5;content-type;host;x-cos-acl;x-cos-grant-read",
        "f5f4a60611b39e931ddccac0f48ed683a3b159b7",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/?prefix=photos%202024%2Fa%2Bb%26c%3Dd%2F&delimiter=%2F&marker=&max-keys=1000&encoding-type=url",
        &[("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com")],
        "delimiter;encoding-type;marker;max-keys;prefix",
        "host",
        "360176540081e793fca9d2303e326a683d4edbc4",
    ),
    (
        "PUT",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/dir/big.bin?partNumber=7&uploadId=1585130821cbb7df1d11846c073ad648e8f33b087cec2381df437acdc833cf654b9ecc6361",
        &[
            ("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ("Content-Length", "1048576"),
            ("x-cos-security-token", "EXAMPLE+Token/with=chars=="),
        ],
        "partnumber;uploadid",
        "content-length;host;x-cos-security-token",
        "2648b72175b3108fcb3597fe80c26ba0158f5938",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/a%20b/c%2Bd%25e%26f%3Dg%3Fh%23i%21%27%28%29%2A~%3B%3A%40%24%2C%5B%5D%7B%7D%7C%5E%22%3C%3E%60%5C%C3%A9%F0%9F%98%80.txt",
        &[
            ("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ("Range", "bytes=1048576-2097151"),
            ("If-Match", "\"ee8de918d05640145b18f70f4c3aa602\""),
        ],
        "",
        "host;if-match;range",
        "7cd75080632abc038fc1dded4f0e1d6be9409e31",
    ),
    (
        "POST",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/?delete=",
        &[
            ("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ("Content-Type", "application/xml"),
            ("Content-MD5", "zUd/xgzNGDrqJMJUOWV2AQ=="),
            ("Content-Length", "158"),
        ],
        "delete",
        "content-length;content-md5;content-type;host",
        "ecfb36921b57584917d1a3ea15db735baffb4999",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/doc/report.pdf?versionId=MTg0NDUxNTc1NjIzMTQ1MDAwODg&response-content-type=application%2Foctet-stream&response-content-disposition=attachment%3B%20filename%2A%3DUTF-8%27%27%E6%8A%A5%E5%91%8A.pdf",
        &[("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com")],
        "response-content-disposition;response-content-type;versionid",
        "host",
        "63063cd184dc8f55e70b400a9c8af521c213d5d5",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/sample.png?imageMogr2%2Fthumbnail%2F200x%2F=",
        &[("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com")],
        "imagemogr2%2fthumbnail%2f200x%2f",
        "host",
        "dd37ed0d0020b163ce4e86587cba2818c6e8118c",
    ),
    (
        "GET",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/exampleobject?tag=b&tag=a&tag=A%20b",
        &[("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"), ("x-cos-meta-k", "v2"), ("x-cos-meta-k", "v1")],
        "tag;tag;tag",
        "host;x-cos-meta-k;x-cos-meta-k",
        "b83b3e9ef94abc2bbbacb14db507f7723e8f61d2",
    ),
    (
        "PUT",
        "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/new%20name.txt",
        &[
            ("Host", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com"),
            ("x-cos-copy-source", "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/old%20name.txt"),
            ("x-cos-metadata-directive", "Replaced"),
            ("x-cos-meta-mode", "33188"),
            ("x-cos-meta-mtime", "1700000000"),
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", "0"),
        ],
        "",
        "content-length;content-type;host;x-cos-copy-source;x-cos-meta-mode;x-cos-meta-mtime;x-cos-metadata-directive",
        "2b48cd245f98414b1b3d35b3e062f018c9bb0d70",
    ),
    (
        "GET",
        "https://ci.ap-guangzhou.myqcloud.com/mediabucket?regions=ap-guangzhou%2Cap-beijing&bucketNames=examplebucket-1250000000&pageNumber=1&pageSize=10",
        &[("Host", "ci.ap-guangzhou.myqcloud.com")],
        "bucketnames;pagenumber;pagesize;regions",
        "host",
        "c168d8ab633150dd45117e0a20176f6bf1db481a",
    ),
    (
        "GET",
        "http://examplebucket-1250000000.cos.local:9000/exampleobject",
        &[("Host", "examplebucket-1250000000.cos.local:9000")],
        "",
        "host",
        "566deec75574672de4871439bfa2657e7f1c61e9",
    ),
    // V13 as the Python SDK signs it: without the port.
    (
        "GET",
        "http://examplebucket-1250000000.cos.local:9000/exampleobject",
        &[("Host", "examplebucket-1250000000.cos.local:9000")],
        "",
        "host",
        "b78d020f26dbd9145e284799d8bb761d8290f0f6",
    ),
];

/// V14: a presigned URL with the token in its query.
const PRESIGNED: &str = "https://examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com/a%20b/%E6%8A%A5%E5%91%8A.txt\
    ?q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time=1700000000%3B1700003600&q-key-time=1700000000%3B1700003600&q-header-list=host\
    &q-url-param-list=response-content-type%3Bx-cos-security-token&q-signature=c34bc5934e0180858df49e819756597ea41a5282\
    &response-content-type=text%2Fplain&x-cos-security-token=EXAMPLE%2BToken%2Fwith%3Dchars%3D%3D";

fn code(outcome: Outcome<Option<usize>>) -> (u16, String) {
    let failure = outcome.unwrap_err();
    (failure.status.as_u16(), failure.code.into_owned())
}

#[test]
fn vectors_verify_in_header_and_in_sign_parameter() {
    for (index, (method, url, headers, parameters, names, signature)) in VECTORS.iter().enumerate() {
        let token = headers.iter().any(|(name, _)| *name == "x-cos-security-token");
        let account = if token { with_token(None) } else { account() };
        let text = authorization(parameters, names, signature);
        let mut all = headers.to_vec();
        all.push(("Authorization", &text));
        let accounts = [account];
        assert_eq!(check(&accounts, method, url, &all, rules(NOW)).unwrap(), Some(0), "vector {}", index + 1);
        let separator = if url.contains('?') { '&' } else { '?' };
        let signed_url = format!("{url}{separator}sign={}", encode(text.as_bytes()));
        assert_eq!(check(&accounts, method, &signed_url, headers, rules(NOW)).unwrap(), Some(0), "vector {} in sign=", index + 1);
    }
}

#[test]
fn vectors_fail_when_anything_signed_changes() {
    for (method, url, headers, parameters, names, signature) in VECTORS.iter().filter(|vector| !vector.4.contains("token")) {
        let text = authorization(parameters, names, signature);
        let mut all = headers.to_vec();
        all.push(("Authorization", &text));
        let other = url.replacen("/", "/x", 3);
        let longer = format!("{}x", url.split('?').next().unwrap());
        for (method, url) in [("DELETE", *url), (*method, longer.as_str()), (*method, other.as_str())] {
            if let Ok(uri) = url.parse::<hyper::Uri>()
                && uri.authority().is_some()
            {
                assert_eq!(
                    code(check(&[account()], method, url, &all, rules(NOW))),
                    (403, "SignatureDoesNotMatch".into()),
                    "{method} {url}"
                );
            }
        }
        let wrong = Account { secret_key: "other".into(), ..account() };
        assert_eq!(code(check(&[wrong], method, url, &all, rules(NOW))), (403, "SignatureDoesNotMatch".into()));
    }
}

#[test]
fn presigned_url_verifies_and_protects_its_parameters() {
    assert_eq!(check(&[with_token(None)], "GET", PRESIGNED, &[], rules(NOW)).unwrap(), Some(0));
    assert_eq!(check(&[with_token(Some(NOW + 1))], "GET", PRESIGNED, &[], Rules { strict: true, ..rules(NOW) }).unwrap(), Some(0));
    let changed = PRESIGNED.replace("text%2Fplain", "text%2Fhtml");
    assert_eq!(code(check(&[with_token(None)], "GET", &changed, &[], rules(NOW))), (403, "SignatureDoesNotMatch".into()));
}

#[test]
fn tokens_expire_and_belong_to_their_keys() {
    let expired = (400, "ExpiredToken".to_owned());
    let denied = (403, "AccessDenied".to_owned());
    assert_eq!(code(check(&[with_token(Some(NOW))], "GET", PRESIGNED, &[], rules(NOW))), expired);
    assert_eq!(code(check(&[with_token(None)], "GET", PRESIGNED, &[], Rules { tokens_expired: true, ..rules(NOW) })), expired);
    let other = Account { token: Some(Token { value: "other".into(), expires: None }), ..account() };
    assert_eq!(code(check(&[other], "GET", PRESIGNED, &[], rules(NOW))), denied);
    assert_eq!(code(check(&[account()], "GET", PRESIGNED, &[], rules(NOW))), denied);
    let (method, url, headers, parameters, names, signature) = VECTORS[0];
    let text = authorization(parameters, names, signature);
    let mut all = headers.to_vec();
    all.push(("Authorization", &text));
    assert_eq!(code(check(&[with_token(None)], method, url, &all, rules(NOW))), denied);
}

#[test]
fn time_window_is_kept() {
    let at = |now| {
        let (method, url, headers, parameters, names, signature) = VECTORS[0];
        let text = authorization(parameters, names, signature);
        let mut all = headers.to_vec();
        all.push(("Authorization", &text));
        check(&[account()], method, url, &all, rules(now))
    };
    assert!(at(1_700_000_000 - 900).is_ok());
    assert!(at(1_700_003_600).is_ok());
    assert_eq!(code(at(1_700_000_000 - 901)), (403, "RequestTimeTooSkewed".into()));
    let late = at(1_700_003_601).unwrap_err();
    assert_eq!((late.code.as_ref(), late.message.as_ref()), ("AccessDenied", "Request has expired"));
}

#[test]
fn claims_are_complete_or_absent() {
    let url = VECTORS[0].1;
    assert_eq!(check(&[account()], "GET", url, &[], rules(NOW)).unwrap(), None);
    let text = authorization("", "host", VECTORS[0].5);
    let unknown = text.replace("AKIDEXAMPLE", "AKIDOTHER");
    assert_eq!(code(check(&[account()], "GET", url, &[("authorization", &unknown)], rules(NOW))), (403, "InvalidAccessKeyId".into()));
    for bad in ["nonsense", "q-ak=AKIDEXAMPLE", &text.replace("sha1", "md5"), &text.replace("1700000000;", "")] {
        assert_eq!(code(check(&[account()], "GET", url, &[("authorization", bad)], rules(NOW))), (403, "AccessDenied".into()), "{bad}");
    }
}

#[test]
fn strict_rules_want_host_and_parameters_signed() {
    let strict = Rules { strict: true, ..rules(NOW) };
    for (index, fits) in [(0, true), (1, false), (3, true)] {
        let (method, url, headers, parameters, names, signature) = VECTORS[index];
        let text = authorization(parameters, names, signature);
        let mut all = headers.to_vec();
        all.push(("Authorization", &text));
        assert_eq!(check(&[account()], method, url, &all, strict).is_ok(), fits);
        let more = format!("{url}{}versionId=1", if url.contains('?') { '&' } else { '?' });
        assert!(check(&[account()], method, &more, &all, rules(NOW)).is_ok(), "an unsigned parameter is accepted");
        assert!(check(&[account()], method, &more, &all, strict).is_err(), "but not by strict rules");
    }
}
