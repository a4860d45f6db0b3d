//! Multipart uploads: parts, their order and size, what a complete checks.

use crate::http::elements;
use crate::{BUCKET, Emulator};

fn begin(emulator: &Emulator, key: &str) -> String {
    let answer = emulator.call("POST", &format!("{key}?uploads"), &[("Content-Type", "text/x"), ("x-cos-meta-k", "v")], Some(b""));
    assert_eq!(answer.status, 200);
    answer.element("UploadId").unwrap()
}

fn part(emulator: &Emulator, key: &str, id: &str, number: u32, body: &[u8]) -> String {
    let answer = emulator.put(&format!("{key}?partNumber={number}&uploadId={id}"), body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("etag").unwrap().to_owned()
}

fn list(parts: &[(u32, &str)]) -> Vec<u8> {
    let parts: String = parts.iter().map(|(n, etag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>")).collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>").into_bytes()
}

#[test]
fn parts_become_one_object() {
    let emulator = Emulator::start();
    let id = begin(&emulator, "/k");
    let bodies = [vec![1; 1024], vec![2; 2000], vec![3; 10]];
    let late = part(&emulator, "/k", &id, 3, &bodies[2]);
    part(&emulator, "/k", &id, 1, b"replaced below");
    let etags = [part(&emulator, "/k", &id, 1, &bodies[0]), part(&emulator, "/k", &id, 2, &bodies[1]), late];
    assert_eq!(emulator.0.uploads(BUCKET)[0].parts, [(1, 1024), (2, 2000), (3, 10)]);
    assert!(emulator.0.get(BUCKET, "k").is_none());
    let plain = etags[2].trim_matches('"');
    let done = emulator.post(&format!("/k?uploadId={id}"), &list(&[(1, &etags[0]), (2, &etags[1]), (3, plain)]));
    assert_eq!(done.status, 200, "{done:?}");
    let etag = done.element("ETag").unwrap();
    assert!(etag.ends_with("-3\"") && etag.len() == 36, "{etag}");
    let object = emulator.0.get(BUCKET, "k").unwrap();
    assert_eq!(object.body, bodies.concat());
    assert_eq!((object.header("content-type"), object.header("x-cos-meta-k")), (Some("text/x"), Some("v")));
    assert_eq!(done.header("x-cos-hash-crc64ecma"), object.crc64.map(|crc| crc.to_string()).as_deref());
    emulator.put("/same", &bodies.concat());
    assert_eq!(emulator.0.get(BUCKET, "same").unwrap().crc64, object.crc64);
    assert!(emulator.0.uploads(BUCKET).is_empty());
    assert_eq!(emulator.post(&format!("/k?uploadId={id}"), &list(&[(1, &etags[0])])).code(), (404, "NoSuchUpload".into()));
}

#[test]
fn complete_checks_its_list() {
    let emulator = Emulator::start();
    let id = begin(&emulator, "/k");
    let small = part(&emulator, "/k", &id, 1, &[1; 1023]);
    let good = part(&emulator, "/k", &id, 2, &[2; 1024]);
    let third = part(&emulator, "/k", &id, 3, &[3; 5]);
    let complete = |list: &[u8]| emulator.post(&format!("/k?uploadId={id}"), list).code();
    assert_eq!(complete(&list(&[(1, &small), (2, &good)])), (400, "EntityTooSmall".into()));
    let grown = part(&emulator, "/k", &id, 1, &[1; 1024]);
    assert_eq!(complete(&list(&[(1, &small), (2, &good)])), (400, "InvalidPart".into()));
    assert_eq!(complete(&list(&[(2, &good), (1, &grown)])), (400, "InvalidPartOrder".into()));
    assert_eq!(complete(&list(&[(1, &grown), (3, &third)])), (400, "InvalidPart".into()));
    assert_eq!(complete(&list(&[(1, &grown), (2, &good), (3, &good)])), (400, "InvalidPart".into()));
    assert_eq!(complete(&list(&[])), (400, "MalformedXML".into()));
    assert_eq!(complete(b"junk"), (400, "MalformedXML".into()));
    assert!(emulator.0.get(BUCKET, "k").is_none(), "refused completes have no effect");
    assert_eq!(complete(&list(&[(1, &grown), (2, &good)])), (200, String::new()));
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().body.len(), 2048, "part 3 was not named");
}

#[test]
fn part_numbers_and_ids_are_checked() {
    let emulator = Emulator::start();
    let id = begin(&emulator, "/k");
    for number in ["0", "10001", "x", ""] {
        assert_eq!(emulator.put(&format!("/k?partNumber={number}&uploadId={id}"), b"x").code(), (400, "InvalidArgument".into()));
    }
    assert_eq!(emulator.put("/k?partNumber=1&uploadId=none", b"x").code(), (404, "NoSuchUpload".into()));
    assert_eq!(emulator.put(&format!("/other?partNumber=1&uploadId={id}"), b"x").code(), (404, "NoSuchUpload".into()));
    assert_eq!(emulator.call("DELETE", &format!("/k?uploadId={id}"), &[], None).status, 204);
    assert_eq!(emulator.call("DELETE", &format!("/k?uploadId={id}"), &[], None).code(), (404, "NoSuchUpload".into()));
}

#[test]
fn complete_honours_forbid_overwrite() {
    let emulator = Emulator::start();
    let id = begin(&emulator, "/k");
    let etag = part(&emulator, "/k", &id, 1, b"new");
    emulator.put("/k", b"old");
    let path = format!("/k?uploadId={id}");
    let refused = emulator.call("POST", &path, &[("x-cos-forbid-overwrite", "true")], Some(&list(&[(1, &etag)])));
    assert_eq!(refused.code(), (409, "FileAlreadyExists".into()));
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().body, "old");
    assert_eq!(emulator.post(&path, &list(&[(1, &etag)])).status, 200);
}

#[test]
fn parts_are_copied_by_range() {
    let emulator = Emulator::start();
    let source: Vec<u8> = (0..4000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let etag = emulator.put("/src", &source).header("etag").unwrap().to_owned();
    let id = begin(&emulator, "/k");
    let copy = |number: u32, headers: &[(&str, &str)]| {
        let mut all = vec![("x-cos-copy-source", "b-125.cos.ap-x.myqcloud.com/src")];
        all.extend(headers);
        emulator.call("PUT", &format!("/k?partNumber={number}&uploadId={id}"), &all, Some(b""))
    };
    let first = copy(1, &[("x-cos-copy-source-range", "bytes=1000-2999"), ("x-cos-copy-source-If-Match", &etag)]);
    assert_eq!((first.status, first.header("x-cos-hash-crc64ecma")), (200, None));
    assert_eq!(copy(2, &[("x-cos-copy-source-If-Match", "\"other\"")]).code(), (412, "PreconditionFailed".into()));
    assert_eq!(copy(2, &[("x-cos-copy-source-range", "bytes=4000-")]).code(), (416, "InvalidRange".into()));
    let second = part(&emulator, "/k", &id, 2, b"tail");
    assert_eq!(emulator.post(&format!("/k?uploadId={id}"), &list(&[(1, &first.element("ETag").unwrap()), (2, &second)])).status, 200);
    assert_eq!(emulator.0.get(BUCKET, "k").unwrap().body, [&source[1000..3000], b"tail"].concat());
    assert!(emulator.0.get(BUCKET, "k").unwrap().crc64.is_some());
}

#[test]
fn parts_and_uploads_are_listed_in_pages() {
    let emulator = Emulator::start();
    let ids: Vec<String> = ["/a", "/a", "/d/x", "/d/y", "/e"].iter().map(|key| begin(&emulator, key)).collect();
    for number in [5, 1, 3] {
        part(&emulator, "/e", &ids[4], number, b"x");
    }
    let mut numbers = Vec::new();
    let mut marker = "0".to_owned();
    loop {
        let page = emulator.get(&format!("/e?uploadId={}&max-parts=2&part-number-marker={marker}", ids[4]));
        numbers.extend(elements(&page.text(), "PartNumber"));
        match page.element("NextPartNumberMarker") {
            Some(next) => marker = next,
            None => break,
        }
    }
    assert_eq!(numbers, ["1", "3", "5"]);
    let (mut found, mut common, mut marker) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = emulator.get(&format!("/?uploads&delimiter=%2F&max-uploads=1{marker}"));
        found.extend(elements(&page.text(), "Key"));
        common.extend(page.text().split("<CommonPrefixes>").skip(1).flat_map(|part| elements(part, "Prefix")));
        let Some(key) = page.element("NextKeyMarker") else { break };
        let id = page.element("NextUploadIdMarker").map(|id| format!("&upload-id-marker={id}")).unwrap_or_default();
        marker = format!("&key-marker={key}{id}");
    }
    assert_eq!((found, common), (vec!["a".to_owned(), "a".to_owned(), "e".to_owned()], vec!["d/".to_owned()]));
    assert_eq!(elements(&emulator.get("/?uploads&prefix=d%2F").text(), "Key"), ["d/x", "d/y"]);
    assert_eq!(elements(&emulator.get("/?uploads&key-marker=a").text(), "Key"), ["d/x", "d/y", "e"]);
    assert_eq!(emulator.call("DELETE", "/", &[], None).code(), (409, "BucketNotEmpty".into()));
}
