//! Answers that lie: bounded, and never believed.

use std::time::Duration;

use cosmount::{
    emulator::{Action, Config, Op, Rule},
    store::{Kind, ListRequest, Part, PartNumber, Replaces},
};

use crate::{BUCKET, Stage, key};

async fn list(text: String) -> cosmount::store::Error {
    let stage = Stage::cos_with(Config::with_bucket(BUCKET), Duration::from_secs(5)).await;
    stage.server().faults().add(Rule::on(Op::ListObjects, Action::Body { text }));
    let request = ListRequest { prefix: "p/".to_owned(), delimited: true, after: Some(key("p/m")), limit: None };
    stage.bucket.list(&stage.cx, &request).await.unwrap_err()
}

#[tokio::test]
async fn a_listing_that_is_none_is_corrupt() {
    let entry = |key: &str| {
        format!("<Contents><Key>{key}</Key><LastModified>2020-01-01T00:00:00Z</LastModified><ETag>e</ETag><Size>1</Size></Contents>")
    };
    let page = |body: String| format!("<ListBucketResult>{body}</ListBucketResult>");
    for text in [
        String::new(),
        "<html>hello</html>".to_owned(),
        "<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult>&b;</ListBucketResult>".to_owned(),
        "<a>".repeat(100_000),
        page("<Contents/>".repeat(300_000)),
        page(entry("q/x")),
        page(entry("p/a")),
        page(entry("p/x") + &entry("p/x")),
        page("<IsTruncated>true</IsTruncated><NextMarker>p/m</NextMarker>".to_owned()),
        page(entry("p/x").replace("<Size>1", "<Size>99999999999999999999")),
    ] {
        let shown = text.chars().take(80).collect::<String>();
        assert_eq!(list(text).await.kind(), Kind::Corrupt, "{shown}");
    }
}

#[tokio::test]
async fn a_document_without_end_is_cut_off() {
    assert_eq!(list(format!("<ListBucketResult>{}", "x".repeat(9 << 20))).await.kind(), Kind::Corrupt);
}

#[tokio::test]
async fn an_answer_that_no_server_sends_is_an_error_in_time() {
    let head = "HTTP/1.1 200 OK\r\n";
    for text in [
        "hello".to_owned(),
        format!("{head}Content-Length: -5\r\n\r\n"),
        format!("{head}x: {}\r\n\r\n", "y".repeat(8 << 20)),
        head.to_owned() + &"x: y\r\n".repeat(5000) + "\r\n",
        format!("{head}Content-Length: 1099511627776\r\nx-cos-request-id: i\r\nETag: e\r\n\r\n"),
    ] {
        let stage = Stage::cos_with(Config::with_bucket(BUCKET), Duration::from_secs(1)).await;
        stage.foreign(&key("a"), "x");
        stage.server().faults().add(Rule::on(Op::HeadObject, Action::Raw { bytes: text.clone().into_bytes() }));
        let error = stage.bucket.head(&stage.cx, &key("a")).await.unwrap_err();
        let shown = text.chars().take(40).collect::<String>();
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Corrupt | Kind::NoProgress), "{shown}: {error}");
    }
}

#[tokio::test]
async fn a_head_that_names_no_version_is_corrupt() {
    for name in ["ETag", "Last-Modified"] {
        let stage = Stage::cos_with(Config::with_bucket(BUCKET), Duration::from_secs(5)).await;
        stage.foreign(&key("a"), "x");
        stage.server().faults().add(Rule::on(Op::HeadObject, Action::Header { name: name.to_owned(), value: String::new() }));
        assert_eq!(stage.bucket.head(&stage.cx, &key("a")).await.unwrap_err().kind(), Kind::Corrupt, "{name}");
    }
}

#[tokio::test]
async fn a_whole_of_another_size_than_its_parts_is_corrupt() {
    // Without every part's checksum (a part copy tells none) the size is what there is to check.
    let stage = Stage::cos().await;
    let upload = stage.bucket.create_upload(&stage.cx, &key("a"), &crate::meta(1)).await.unwrap();
    let part = stage.bucket.upload_part(&stage.cx, &upload, PartNumber(1), crate::noise(100).into()).await.unwrap();
    let parts = [Part { size: 200, crc64: None, ..part }];
    let error = stage.bucket.complete_upload(&stage.cx, &upload, &parts, &Replaces::Absent).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}
