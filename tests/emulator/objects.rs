//! Objects: what PUT keeps, what GET and HEAD tell, what copies carry.

use cosmount::emulator::Op;

use crate::{BUCKET, Emulator};

#[test]
fn object_keeps_its_headers() {
    let emulator = Emulator::start();
    let headers = [
        ("Content-Type", "text/plain"),
        ("Cache-Control", "no-cache"),
        ("Content-Encoding", "gzip"),
        ("Content-Disposition", "attachment"),
        ("Expires", "never"),
        ("X-Cos-Meta-Mode", "33188"),
        ("x-cos-storage-class", "standard_ia"),
        ("x-cos-server-side-encryption", "AES256"),
        ("x-cos-tagging", "a=1&b=%20"),
    ];
    let put = emulator.call("PUT", "/k", &headers, Some(b"hello world"));
    assert_eq!((put.status, put.header("etag"), put.body.len()), (200, Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""), 0));
    assert_eq!(put.header("x-cos-hash-crc64ecma"), Some("5981764153023615706"));
    assert_eq!(put.header("last-modified"), None);
    let head = emulator.call("HEAD", "/k", &[], None);
    for (name, value) in headers.iter().take(6).chain(&headers[7..8]) {
        assert_eq!(head.header(name), Some(*value));
    }
    assert_eq!(head.header("x-cos-storage-class"), Some("STANDARD_IA"));
    assert_eq!(head.header("content-length"), Some("11"));
    assert_eq!(head.header("x-cos-object-type"), Some("normal"));
    assert_eq!(head.header("server"), Some("tencent-cos"));
    assert!(head.header("x-cos-request-id").is_some() && head.header("date").is_some() && head.header("last-modified").is_some());
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().tags, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), " ".to_owned())]);
}

#[test]
fn keys_are_bytes() {
    let emulator = Emulator::start();
    for key in ["/a//b", "/a/./b", "/a/../b", "/a/b", "/a%2F%2e%2e%2Fc", "/%E7%85%A7+%20%25"] {
        assert_eq!(emulator.put(key, b"x").status, 200, "{key}");
        assert_eq!(emulator.get(key).body, b"x", "{key}");
    }
    assert_eq!(emulator.0.keys(BUCKET, ""), ["a/../b", "a/../c", "a/./b", "a//b", "a/b", "照+ %"]);
    assert_eq!(emulator.put("//a", b"x").code(), (400, "InvalidObjectName".into()));
    assert_eq!(emulator.put("/%FF", b"x").code(), (400, "InvalidObjectName".into()));
    assert_eq!(emulator.put(&format!("/{}", "k".repeat(851)), b"x").code(), (400, "KeyTooLong".into()));
    emulator.0.put(BUCKET, b"\xff", "seeded", &[]).unwrap();
    assert_eq!(emulator.get("/%FF").body, b"seeded");
}

#[test]
fn bodies_are_checked() {
    let emulator = Emulator::start();
    let put = |headers: &[(&str, &str)], body: Option<&[u8]>| emulator.call("PUT", "/k", headers, body).code();
    assert_eq!(put(&[], None), (411, "MissingContentLength".into()));
    assert_eq!(put(&[("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww==")], Some(b"hello world")), (200, String::new()));
    assert_eq!(put(&[("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww==")], Some(b"hello World")), (400, "BadDigest".into()));
    assert_eq!(put(&[("Content-MD5", "short")], Some(b"x")), (400, "InvalidDigest".into()));
    assert_eq!(put(&[], Some(&vec![0; (1 << 20) + 1])), (400, "EntityTooLarge".into()));
    assert_eq!(put(&[("x-cos-meta-a_b", "x")], Some(b"x")), (400, "InvalidArgument".into()));
    assert_eq!(put(&[("x-cos-meta-a", &"x".repeat(2047))], Some(b"x")), (200, String::new()));
    assert_eq!(put(&[("x-cos-meta-a", &"x".repeat(2048))], Some(b"x")), (400, "InvalidArgument".into()));
    assert_eq!(put(&[("x-cos-storage-class", "GOLD")], Some(b"x")), (400, "NotSupportedStorageClass".into()));
    assert_eq!(put(&[("x-cos-acl", "open")], Some(b"x")), (400, "InvalidArgument".into()));
    assert_eq!(put(&[("x-cos-traffic-limit", "1")], Some(b"x")), (400, "InvalidArgument".into()));
    let chunked = emulator.call("PUT", "/c", &[("Transfer-Encoding", "chunked")], None);
    assert_eq!(chunked.code(), (400, "RequestTimeout".into()), "a body that never comes");
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().body, "x");
}

#[test]
fn forbidden_overwrite_is_409() {
    let emulator = Emulator::start();
    let forbid = [("x-cos-forbid-overwrite", "true")];
    assert_eq!(emulator.call("PUT", "/k", &forbid, Some(b"first")).status, 200);
    assert_eq!(emulator.call("PUT", "/k", &forbid, Some(b"second")).code(), (409, "FileAlreadyExists".into()));
    assert_eq!(emulator.put("/k", b"third").status, 200);
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().body, "third");
}

#[test]
fn refusal_spares_a_waiting_client_its_body() {
    let emulator = Emulator::start();
    emulator.put("/k", b"old");
    let headers = [("x-cos-forbid-overwrite", "true"), ("Expect", "100-continue"), ("Content-Length", "1000")];
    let refused = emulator.call("PUT", "/k", &headers, None);
    assert_eq!(refused.code(), (409, "FileAlreadyExists".into()), "without a byte of the body");
    let large = emulator.call("PUT", "/k", &[("Content-Length", "2000000"), ("Expect", "100-continue")], None);
    assert_eq!(large.code(), (400, "EntityTooLarge".into()));
}

#[test]
fn range_tells_of_the_whole_object() {
    let emulator = Emulator::start();
    let put = emulator.put("/k", b"0123456789");
    let get = emulator.call("GET", "/k", &[("Range", "bytes=2-4")], None);
    assert_eq!((get.status, &get.body[..], get.header("content-range")), (206, &b"234"[..], Some("bytes 2-4/10")));
    assert_eq!(get.header("etag"), put.header("etag"));
    assert_eq!(get.header("x-cos-hash-crc64ecma"), put.header("x-cos-hash-crc64ecma"));
    assert_eq!(emulator.call("GET", "/k", &[("Range", "bytes=10-")], None).code(), (416, "InvalidRange".into()));
    emulator.put("/empty", b"");
    assert_eq!(emulator.call("GET", "/empty", &[("Range", "bytes=0-0")], None).status, 416);
    let fresh = emulator.call("GET", "/k", &[("If-None-Match", put.header("etag").unwrap())], None);
    assert_eq!((fresh.status, fresh.body.len(), fresh.header("etag")), (304, 0, put.header("etag")));
    assert_eq!(emulator.call("GET", "/k", &[("If-Match", "\"x\"")], None).code(), (412, "PreconditionFailed".into()));
    assert_eq!(emulator.0.counters().of(Op::GetObject).requests, 5);
    assert_eq!(emulator.0.log().iter().find(|entry| entry.status == 206).unwrap().range.as_deref(), Some("bytes=2-4"));
}

#[test]
fn head_says_absent_without_a_body() {
    let emulator = Emulator::start();
    let head = emulator.call("HEAD", "/missing", &[], None);
    assert_eq!((head.status, head.body.len(), head.broken), (404, 0, false));
    assert!(head.header("x-cos-request-id").is_some() && head.header("x-cos-trace-id").is_some());
    assert_eq!(emulator.call("DELETE", "/missing", &[], None).status, 204);
    let get = emulator.get("/missing");
    assert_eq!(get.code(), (404, "NoSuchKey".into()));
    assert_eq!(get.element("RequestId").as_deref(), get.header("x-cos-request-id"));
}

#[test]
fn copy_inherits_headers_but_no_class_acl_or_encryption() {
    let emulator = Emulator::start();
    let all = [
        ("Content-Type", "text/plain"),
        ("x-cos-meta-k", "v"),
        ("x-cos-storage-class", "STANDARD_IA"),
        ("x-cos-acl", "public-read"),
        ("x-cos-server-side-encryption", "AES256"),
        ("x-cos-tagging", "t=1"),
    ];
    emulator.call("PUT", "/a", &all, Some(b"data"));
    let copied = emulator.call("PUT", "/b", &[("x-cos-copy-source", "b-125.cos.ap-x.myqcloud.com/a")], Some(b""));
    assert_eq!((copied.status, copied.header("transfer-encoding")), (200, Some("chunked")));
    assert_eq!(copied.element("CRC64"), emulator.0.get(BUCKET, "a").unwrap().crc64.map(|crc| crc.to_string()));
    let stored = emulator.0.get(BUCKET, "b").unwrap();
    assert_eq!((stored.header("content-type"), stored.header("x-cos-meta-k")), (Some("text/plain"), Some("v")));
    assert_eq!((stored.header("x-cos-storage-class"), stored.header("x-cos-server-side-encryption"), &stored.acl), (None, None, &None));
    assert_eq!(stored.tags, [("t".to_owned(), "1".to_owned())]);
    for spelling in ["Replaced", "REPLACE"] {
        let headers = [
            ("x-cos-copy-source", "/b-125/a"),
            ("x-cos-metadata-directive", spelling),
            ("x-cos-meta-new", "n"),
            ("x-cos-tagging-directive", spelling),
        ];
        assert_eq!(emulator.call("PUT", "/a", &headers, Some(b"")).status, 200);
        let stored = emulator.0.get(BUCKET, "a").unwrap();
        assert_eq!((stored.header("x-cos-meta-new"), stored.header("x-cos-meta-k"), stored.tags.len()), (Some("n"), None, 0));
        assert_eq!(stored.body, "data");
    }
    let copy = |key: &str, headers: &[(&str, &str)]| emulator.call("PUT", key, headers, Some(b"")).code();
    let source = ("x-cos-copy-source", "/b-125/a");
    assert_eq!(copy("/a", &[source]), (400, "InvalidRequest".into()));
    assert_eq!(copy("/c", &[("x-cos-copy-source", "nonsense")]), (400, "InvalidCopySource".into()));
    assert_eq!(copy("/c", &[("x-cos-copy-source", "/b-125/missing")]), (404, "NoSuchKey".into()));
    assert_eq!(copy("/c", &[source, ("x-cos-copy-source-If-Match", "x")]), (412, "PreconditionFailed".into()));
    assert_eq!(copy("/c", &[source, ("x-cos-copy-source-If-None-Match", "*")]), (412, "PreconditionFailed".into()));
    assert_eq!(copy("/c", &[source, ("x-cos-metadata-directive", "Maybe")]), (400, "InvalidArgument".into()));
    assert!(emulator.0.get(BUCKET, "c").is_none());
}

#[test]
fn customer_key_opens_its_object() {
    let emulator = Emulator::start();
    let key = [
        ("x-cos-server-side-encryption-customer-algorithm", "AES256"),
        ("x-cos-server-side-encryption-customer-key", "MDEyMzQ1Njc4OUFCQ0RFRjAxMjM0NTY3ODlBQkNERUY="),
        ("x-cos-server-side-encryption-customer-key-MD5", "U5L61r7jcwdNvT7frmUG8g=="),
    ];
    let put = emulator.call("PUT", "/k", &key, Some(b"hello world"));
    assert_eq!((put.status, put.header(key[2].0)), (200, Some(key[2].1)));
    assert_ne!(put.header("etag"), Some("\"5eb63bbbe01eeed093cb22bb8f5acdc3\""));
    assert_eq!(emulator.get("/k").code(), (400, "SsecDecryptHeaderInvalid".into()));
    assert_eq!(emulator.call("GET", "/k", &key, None).body, b"hello world");
    assert_eq!(emulator.call("PUT", "/k", &key[..2], Some(b"x")).code(), (400, "InvalidArgument".into()));
}

#[test]
fn multi_delete_wants_its_md5() {
    let emulator = Emulator::start();
    emulator.put("/a", b"x");
    let document = b"<Delete><Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>";
    assert_eq!(emulator.post("/?delete", document).code(), (400, "InvalidRequest".into()));
    let wrong = emulator.call("POST", "/?delete", &[("Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww==")], Some(document));
    assert_eq!(wrong.code(), (400, "BadDigest".into()));
    assert_eq!(emulator.0.keys(BUCKET, ""), ["a"]);
}
