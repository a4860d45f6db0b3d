//! Answers that lie: bounded, and never believed.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use cosmount::{
    emulator::{Action, Config, Op, Rule},
    store::{
        Bucket, Capabilities, CosConfig, ETag, Kind, ListRequest, ObjectVersion, Part, PartNumber, Payload, Replaces, cos::Endpoints,
        open_cos,
    },
    support::Metrics,
};

use crate::{
    BUCKET, Stage, clock, context, key,
    liar::{self, Asked, Liar},
    name, signed,
};

/// A bucket on a server that lies.
async fn bucket_at(liar: &Liar) -> Arc<dyn Bucket> {
    let endpoints = Endpoints::parse(None, &[liar.endpoint()], false).unwrap();
    let config = CosConfig { endpoints, credentials: signed(), ca_file: None, connections: 8, hedging: false, limits: Capabilities::cos() };
    let service = open_cos(config, &Metrics::default(), clock()).unwrap();
    service.open(&context(Duration::from_secs(10)), &name()).await.unwrap()
}

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

/// Patience is long here: what is no answer must be an error because of what it is, not because time is up.
#[tokio::test]
async fn what_is_no_answer_is_an_error_at_once() {
    let mebibytes = |count: usize, stream: &mut std::net::TcpStream| {
        let line = format!("x-filler: {}\r\n", "y".repeat(4000));
        (0..count * 256).try_for_each(|_| stream.write_all(line.as_bytes()))
    };
    type Lie = Box<dyn Fn(&mut std::net::TcpStream) -> std::io::Result<()> + Send + Sync>;
    let lies: Vec<(&str, Lie)> = vec![
        ("64 MiB of headers", Box::new(move |stream| stream.write_all(b"HTTP/1.1 200 OK\r\n").and_then(|()| mebibytes(64, stream)))),
        (
            "100 KiB of headers",
            Box::new(|stream| {
                let line = format!("x-filler: {}\r\n", "y".repeat(4000));
                stream.write_all(&liar::head("200 OK", &format!("{}Content-Length: 5\r\n", line.repeat(25))))
            }),
        ),
        ("5,000 headers", Box::new(|stream| stream.write_all(&liar::head("200 OK", &"x: y\r\n".repeat(5000))))),
        ("one endless line", Box::new(|stream| (0..64).try_for_each(|_| stream.write_all(&[b'x'; 1 << 20])))),
        ("a negative length", Box::new(|stream| stream.write_all(&liar::head("200 OK", "Content-Length: -5\r\n")))),
        ("two lengths", Box::new(|stream| stream.write_all(&liar::head("200 OK", "Content-Length: 5\r\nContent-Length: 6\r\n")))),
        (
            "a size past the greatest",
            Box::new(|stream| {
                let fine = "ETag: e\r\nLast-Modified: Wed, 28 Oct 2020 20:30:00 GMT\r\n";
                stream.write_all(&liar::head("200 OK", &format!("{fine}Content-Length: 9223372036854775808\r\n")))
            }),
        ),
    ];
    for (what, lie) in lies {
        let liar = Liar::cos(move |asked, stream| asked.target.ends_with("/object").then(|| lie(stream)));
        let bucket = bucket_at(&liar).await;
        let start = Instant::now();
        let error = bucket.head(&context(Duration::from_secs(60)), &key("object")).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5), "{what} took {:?}", start.elapsed());
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unavailable), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_length_of_a_tebibyte_reserves_nothing() {
    let huge = 1u64 << 40;
    let liar = Liar::cos(move |asked, stream| {
        let tail = format!("ETag: \"e\"\r\nLast-Modified: Wed, 28 Oct 2020 20:30:00 GMT\r\nContent-Length: {huge}\r\n");
        match asked.method.as_str() {
            "HEAD" if asked.target.ends_with("/object") => Some(stream.write_all(&liar::head("200 OK", &tail))),
            "GET" if asked.target.ends_with("/object") => Some(
                stream.write_all(&liar::head("206 Partial Content", &format!("Content-Range: bytes 0-99/{huge}\r\n{tail}"))).and(stop()),
            ),
            "GET" if asked.is_list() => Some(stream.write_all(&liar::head("200 OK", &tail)).and(stop())),
            "PUT" => Some(stream.write_all(&liar::head("403 Forbidden", &tail)).and(stop())),
            _ => None,
        }
    });
    let bucket = bucket_at(&liar).await;
    let cx = context(Duration::from_secs(60));
    let start = Instant::now();
    let head = bucket.head(&cx, &key("object")).await.unwrap();
    assert_eq!(head.version.size, huge, "an object may be as large as that, and costs nothing");
    assert_eq!(bucket.get(&cx, &head.version, 0..100).await.map(drop).unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(bucket.list(&cx, &ListRequest::default()).await.unwrap_err().kind(), Kind::Corrupt);
    let refused = bucket.put(&cx, &key("new"), &crate::meta(1), Payload::from(crate::noise(10)), &Replaces::Anything).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "a document that cannot be read explains nothing, the status does: {refused}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Ends the connection.
fn stop() -> std::io::Result<()> {
    Err(std::io::ErrorKind::ConnectionAborted.into())
}

#[tokio::test]
async fn lists_that_do_not_end_are_cut_off() {
    let page =
        |asked: &Asked, kind: &str| {
            let marker = asked.param("key-marker").unwrap_or("0").parse::<u64>().unwrap() + 1;
            match kind {
            "uploads" => format!(
                "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>{marker:09}</NextKeyMarker>\
                 <NextUploadIdMarker>u</NextUploadIdMarker></ListMultipartUploadsResult>"
            ),
            _ => "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>4000000000</NextPartNumberMarker></ListPartsResult>"
                .to_owned(),
        }
        };
    let liar = Liar::cos(move |asked, stream| match asked.method.as_str() {
        "GET" if asked.target.contains("?uploads") => Some(liar::document(stream, &page(asked, "uploads"))),
        "GET" if asked.target.contains("uploadId=") => Some(liar::document(stream, &page(asked, "parts"))),
        "POST" => Some(liar::document(stream, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")),
        _ => None,
    });
    let bucket = bucket_at(&liar).await;
    let cx = context(Duration::from_secs(60));
    assert_eq!(bucket.list_uploads(&cx, "").await.unwrap_err().kind(), Kind::Corrupt);
    let upload = bucket.create_upload(&cx, &key("a"), &crate::meta(1)).await.unwrap();
    assert_eq!(bucket.list_parts(&cx, &upload).await.unwrap_err().kind(), Kind::Corrupt);
}

/// Nothing signed for one host is ever sent to another (rule 10).
#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Liar::start(|_, stream| stream.write_all(&liar::head("200 OK", "Content-Length: 0\r\n")));
    let location = format!("{}/{BUCKET}/object", elsewhere.endpoint());
    let stage = Stage::cos_with(Config::with_bucket(BUCKET), Duration::from_secs(20)).await;
    for status in [301, 302, 303, 307, 308] {
        // What is not from COS is asked for again until the deadline.
        for (from_cos, patience) in [(true, Duration::from_secs(20)), (false, Duration::from_millis(200))] {
            let headers = vec![("Location".to_owned(), location.clone())];
            let action = Action::Status { status, code: "TemporaryRedirect".to_owned(), request_id: from_cos, headers };
            let id = stage.server().faults().add(Rule::always(action));
            let version = ObjectVersion { key: key("object"), etag: ETag::new("e"), size: 5, version_id: None };
            let cx = context(patience);
            assert!(stage.bucket.head(&cx, &key("object")).await.is_err());
            assert!(stage.bucket.get(&cx, &version, 0..5).await.is_err());
            assert!(stage.bucket.list(&cx, &ListRequest::default()).await.is_err());
            let payload = Payload::from(crate::noise(10));
            assert!(stage.bucket.put(&cx, &key("object"), &crate::meta(1), payload, &Replaces::Anything).await.is_err());
            assert!(stage.bucket.delete(&cx, &key("object"), None).await.is_err());
            assert!(stage.server().faults().struck(id) >= if from_cos { 5 } else { 1 });
            stage.server().faults().remove(id);
        }
    }
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
}

/// An answer that begins well and is cut off, again and again, is no progress: the call ends by its deadline.
#[tokio::test]
async fn a_page_that_never_comes_whole_ends_by_the_deadline() {
    let liar = Liar::cos(|asked, stream| {
        let begun =
            || stream.write_all(&liar::head("200 OK", "Content-Length: 1000\r\n")).and_then(|()| stream.write_all(b"<ListBucketResult>"));
        asked.is_list().then(begun).map(|begun| begun.and(stop()))
    });
    let bucket = bucket_at(&liar).await;
    let start = Instant::now();
    bucket.list(&context(Duration::from_secs(1)), &ListRequest::default()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
