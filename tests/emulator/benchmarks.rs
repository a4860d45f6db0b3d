//! What benchmarks switch on: other sums in ETags, and the headers of S3.

use cosmount::emulator::{Config, ETags};

use super::Emulator;

const TEXT: &[u8] = b"123456789";
const MD5: &str = "\"25f9e794323b453885f5181f1b624d0b\"";
/// 11051210869376104954, the published CRC-64 of the same text.
const CRC: &str = "\"995dc9bbdf1939fa\"";

#[test]
fn etags_are_made_from_the_sum_that_was_chosen() {
    for (etags, wanted) in [(ETags::Md5, MD5), (ETags::Crc64, CRC)] {
        let emulator = Emulator::with(Config { etags, ..Config::default() });
        assert_eq!(emulator.put("/a", TEXT).header("etag"), Some(wanted));
        let copied = emulator.call("PUT", "/b", &[("x-cos-copy-source", "/b-125/a")], Some(b""));
        assert_eq!(copied.element("ETag").as_deref(), Some(wanted), "a copy of the bytes has their ETag");
        let id = emulator.post("/c?uploads", b"").element("UploadId").unwrap();
        assert_eq!(emulator.put(&format!("/c?partNumber=1&uploadId={id}"), TEXT).header("etag"), Some(wanted));
        let part = emulator.call("PUT", &format!("/c?partNumber=1&uploadId={id}"), &[("x-cos-copy-source", "/b-125/a")], Some(b""));
        assert_eq!(part.element("ETag").as_deref(), Some(wanted));
        // Who sends an MD5 has it checked all the same.
        let bad = emulator.call("PUT", "/d", &[("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg==")], Some(TEXT));
        assert_eq!(bad.code(), (400, "BadDigest".to_owned()));
    }
}

#[test]
fn s3_headers_are_taken_only_where_it_was_asked_for() {
    let headers = [("x-amz-meta-mode", "33188"), ("Authorization", "AWS4-HMAC-SHA256 Credential=x")];
    let emulator = Emulator::start();
    assert_eq!(emulator.call("PUT", "/a", &headers, Some(TEXT)).status, 403, "a signature of another protocol is none");
    assert_eq!(emulator.call("PUT", "/a", &headers[..1], Some(TEXT)).status, 200);
    assert_eq!(emulator.call("HEAD", "/a", &[], None).header("x-cos-meta-mode"), None);

    let emulator = Emulator::with(Config { s3: true, ..Config::default() });
    assert_eq!(emulator.call("PUT", "/a", &headers, Some(TEXT)).status, 200);
    let copied = emulator.call("PUT", "/b", &[("x-amz-copy-source", "/b-125/a"), ("x-amz-metadata-directive", "COPY")], Some(b""));
    assert_eq!(copied.status, 200);
    let head = emulator.call("HEAD", "/b", &[], None);
    assert_eq!(head.header("x-amz-meta-mode"), Some("33188"));
    assert!(head.header("x-amz-request-id").is_some() && head.header("x-cos-request-id").is_none());
}
