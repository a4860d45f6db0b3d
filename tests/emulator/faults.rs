//! Faults: each does what it says, and leaves the effect it says.

use std::time::{Duration, Instant};

use cosmount::emulator::{Account, Action, Config, Op, Rule, Server, Token};

use crate::http::{Answer, elements};
use crate::{BUCKET, Emulator};

const BODY: &[u8] = b"0123456789";

/// An emulator with one object, under one fault that strikes once.
fn struck(op: Op, action: Action) -> Emulator {
    let emulator = Emulator::start();
    emulator.0.put(BUCKET, "k", BODY, &[]).unwrap();
    emulator.0.faults().add(Rule::on(op, action).times(1));
    emulator
}

/// The object under a fault of GET, and that it is well afterwards.
fn get(action: Action) -> Answer {
    let emulator = struck(Op::GetObject, action);
    let answer = emulator.get("/k");
    let after = emulator.get("/k");
    assert_eq!((after.status, &after.body[..], after.broken), (200, BODY, false));
    answer
}

#[test]
fn status_answers_look_like_cos_or_not() {
    let slow = get(Action::slow_down());
    assert_eq!(slow.code(), (503, "SlowDown".into()));
    assert!(slow.header("x-cos-request-id").is_some());
    let gateway = get(Action::gateway(502));
    assert_eq!((gateway.status, gateway.header("x-cos-request-id"), gateway.header("server")), (502, None, None));
    assert!(gateway.text().contains("<html>"));
    let moved = get(Action::redirect("http://127.0.0.1:1/"));
    assert_eq!((moved.status, moved.header("location"), moved.header("x-cos-request-id")), (302, Some("http://127.0.0.1:1/"), None));
    let emulator = struck(Op::HeadObject, Action::status(403, "AccessDenied"));
    let head = emulator.call("HEAD", "/k", &[], None);
    assert_eq!((head.status, head.body.len()), (403, 0));
    let emulator = struck(Op::PutObject, Action::slow_down());
    assert_eq!(emulator.put("/new", &vec![0; 1 << 20]).code(), (503, "SlowDown".into()));
    assert!(emulator.0.get(BUCKET, "new").is_none());
}

#[test]
fn connections_are_reset_where_asked() {
    let before = get(Action::ResetBefore);
    assert!(before.broken && before.status == 0, "{before:?}");
    let middle = get(Action::ResetInResponse { after: 4 });
    assert!(middle.broken, "{middle:?}");
    assert_eq!((middle.status, &middle.body[..]), (200, &BODY[..4]));
    let emulator = struck(Op::PutObject, Action::ResetInRequest { after: 1 << 16 });
    let put = emulator.put("/new", &vec![0; 1 << 20]);
    assert!(put.broken && put.status == 0, "{put:?}");
    assert!(emulator.0.get(BUCKET, "new").is_none());
    let log = emulator.0.log();
    let entry = log.last().unwrap();
    assert!(entry.status == 0 && entry.bytes_in >= 1 << 16 && entry.bytes_in < 1 << 20, "{entry:?}");
}

#[test]
fn a_request_is_held_before_or_after_its_effect() {
    for answer in [false, true] {
        let emulator = struck(Op::DeleteObject, Action::Hold { answer });
        let rule = emulator.0.faults().list()[0].id;
        std::thread::scope(|scope| {
            let held = scope.spawn(|| emulator.call("DELETE", "/k", &[], None));
            while emulator.0.faults().held() == 0 {
                std::thread::yield_now();
            }
            assert_eq!(emulator.0.get(BUCKET, "k").is_none(), answer);
            emulator.0.put(BUCKET, "k", &b"in between"[..], &[]).unwrap();
            emulator.0.faults().remove(rule);
            assert_eq!(held.join().unwrap().status, 204);
        });
        assert_eq!((emulator.0.get(BUCKET, "k").is_some(), emulator.0.faults().held()), (answer, 0));
    }
}

#[test]
fn lost_answer_leaves_its_effect() {
    for (op, method, path, body) in [
        (Op::PutObject, "PUT", "/new", Some(&b"x"[..])),
        (Op::DeleteObject, "DELETE", "/k", None),
        (Op::AppendObject, "POST", "/log?append&position=0", Some(b"x")),
    ] {
        let emulator = struck(op, Action::LoseAnswer);
        let lost = emulator.call(method, path, &[], body);
        assert!(lost.broken && lost.status == 0, "{lost:?}");
        let there =
            [emulator.0.get(BUCKET, "new").is_some(), emulator.0.get(BUCKET, "k").is_none(), emulator.0.get(BUCKET, "log").is_some()];
        assert_eq!(there.iter().filter(|there| **there).count(), 1, "{op}");
    }
    let emulator = struck(Op::CompleteUpload, Action::LoseAnswer);
    emulator.0.faults().add(Rule::on(Op::CopyObject, Action::LoseAnswer));
    let id = emulator.post("/whole?uploads", b"").element("UploadId").unwrap();
    let etag = emulator.put(&format!("/whole?partNumber=1&uploadId={id}"), b"x").header("etag").unwrap().to_owned();
    let list = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>");
    let complete = || emulator.post(&format!("/whole?uploadId={id}"), list.as_bytes());
    assert_eq!(complete().status, 0);
    assert!(emulator.0.get(BUCKET, "whole").is_some());
    assert_eq!(complete().code(), (404, "NoSuchUpload".into()));
    assert_eq!(emulator.call("PUT", "/copied", &[("x-cos-copy-source", "/b-125/k")], Some(b"")).status, 0);
    assert!(emulator.0.get(BUCKET, "copied").is_some());
}

#[test]
fn bodies_are_cut_and_corrupted() {
    let cut = get(Action::TruncateBody { keep: 3, honest: false });
    assert_eq!((cut.header("content-length"), &cut.body[..], cut.broken), (Some("10"), &BODY[..3], true));
    let short = get(Action::TruncateBody { keep: 3, honest: true });
    assert_eq!((short.header("content-length"), &short.body[..], short.broken), (Some("3"), &BODY[..3], false));
    assert_eq!(get(Action::CorruptBody { at: 2 }).body, b"0133456789");
    assert_eq!(get(Action::CorruptBody { at: 99 }).body, b"0123456788");
}

#[test]
fn headers_lie_where_asked() {
    let emulator = Emulator::start();
    emulator.0.put(BUCKET, "k", BODY, &[]).unwrap();
    let truth = emulator.get("/k");
    let crc = get(Action::WrongCrc);
    assert!(crc.header("x-cos-hash-crc64ecma").is_some() && crc.header("x-cos-hash-crc64ecma") != truth.header("x-cos-hash-crc64ecma"));
    assert_eq!(get(Action::NoCrc).header("x-cos-hash-crc64ecma"), None);
    let etag = get(Action::WrongETag);
    assert!(etag.header("etag").is_some() && etag.header("etag") != truth.header("etag"));
    for (action, status, range) in [(Action::WrongRange, 206, Some("bytes 3-5/10")), (Action::IgnoreRange, 200, None)] {
        emulator.0.faults().add(Rule::on(Op::GetObject, action).times(1));
        let answer = emulator.call("GET", "/k", &[("Range", "bytes=2-4")], None);
        assert_eq!((answer.status, answer.header("content-range")), (status, range));
    }
    let hostile = get(Action::Header { name: "x-cos-meta-a".into(), value: "\u{80}\u{ff}".into() });
    assert!(hostile.headers.iter().any(|(name, value)| name == "x-cos-meta-a" && value == b"\x80\xff"), "{hostile:?}");
    let endless = get(Action::Header { name: "content-length".into(), value: "1099511627776".into() });
    assert!(endless.broken && endless.header("content-length") == Some("1099511627776"), "{endless:?}");
    let raw = get(Action::Raw { bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: \x00\r\n\r\n!".to_vec() });
    assert_eq!(raw.body, b"!");
    assert!(raw.headers.iter().any(|(name, value)| name == "X" && value == b"\x00"));
}

#[test]
fn errors_come_with_200_and_without_effect() {
    let emulator = struck(Op::CopyObject, Action::ErrorIn200 { code: "InternalError".into() });
    let copy = || emulator.call("PUT", "/new", &[("x-cos-copy-source", "/b-125/k")], Some(b""));
    assert_eq!(copy().code(), (200, "InternalError".into()));
    assert!(emulator.0.get(BUCKET, "new").is_none());
    assert_eq!(copy().element("Code"), None);
    assert!(emulator.0.get(BUCKET, "new").is_some());
}

#[test]
fn complete_answers_early_with_blanks() {
    let emulator = Emulator::start();
    let id = emulator.post("/k?uploads", b"").element("UploadId").unwrap();
    let etag = emulator.put(&format!("/k?partNumber=1&uploadId={id}"), b"x").header("etag").unwrap().to_owned();
    let list = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>");
    let early = |error| Action::EarlyOk { blanks: 3, interval: Duration::from_millis(20), error };
    emulator.0.faults().add(Rule::on(Op::CompleteUpload, early(Some("InternalError".to_owned()))).times(1));
    emulator.0.faults().add(Rule::on(Op::CompleteUpload, early(None)).skip(1).times(1));
    let path = format!("/k?uploadId={id}");
    let failed = emulator.post(&path, list.as_bytes());
    assert!(failed.text().starts_with("   <?xml"), "{}", failed.text());
    assert_eq!((failed.code(), failed.header("transfer-encoding")), ((200, "InternalError".into()), Some("chunked")));
    assert!(emulator.0.get(BUCKET, "k").is_none());
    let begun = Instant::now();
    let done = emulator.post(&path, list.as_bytes());
    assert!(begun.elapsed() >= Duration::from_millis(60));
    assert!(done.text().starts_with("   <?xml") && done.element("ETag").is_some(), "{}", done.text());
    assert_eq!(done.header("x-cos-hash-crc64ecma"), None);
}

#[test]
fn answers_are_slow_late_or_never() {
    let begun = Instant::now();
    get(Action::SlowBody { bytes_per_second: 50 });
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    let emulator = struck(Op::PutObject, Action::SlowRequest { bytes_per_second: 500_000 });
    let begun = Instant::now();
    assert_eq!(emulator.put("/new", &[0; 100_000]).status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    let begun = Instant::now();
    get(Action::Delay { delay: Duration::from_millis(100) });
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let emulator = struck(Op::GetObject, Action::BlackHole);
    let mut stream = std::net::TcpStream::connect(emulator.0.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let hole = crate::http::exchange(&mut stream, "localhost", "GET", "/b-125/k", &[], None);
    assert!(hole.broken && hole.status == 0 && hole.body.is_empty());
    assert_eq!(emulator.get("/k").body, BODY);
}

#[test]
fn stale_listing_shows_the_past() {
    let emulator = Emulator::start();
    emulator.put("/old", b"x");
    emulator.put("/changed", b"x");
    let id = emulator.0.faults().add(Rule::on(Op::ListObjects, Action::StaleList { age: Duration::from_secs(60) }));
    emulator.put("/new", b"x");
    emulator.put("/changed", b"longer");
    emulator.call("DELETE", "/old", &[], None);
    let text = emulator.get("/").text();
    assert_eq!(
        (elements(&text, "Key"), elements(&text, "Size")),
        (vec!["changed".to_owned(), "old".to_owned()], vec!["1".to_owned(), "1".to_owned()])
    );
    assert_eq!(emulator.call("HEAD", "/old", &[], None).status, 404, "only listings are stale");
    assert!(emulator.0.faults().remove(id));
    assert_eq!(elements(&emulator.get("/").text(), "Key"), ["changed", "new"]);
    emulator.0.faults().add(Rule::on(Op::ListObjects, Action::StaleList { age: Duration::from_millis(1) }));
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(elements(&emulator.get("/").text(), "Key"), ["changed", "new"], "older than a millisecond is visible");
}

#[test]
fn clock_is_off_where_asked() {
    let off = get(Action::ClockSkew { seconds: 86_400 });
    let date = httpdate::parse_http_date(off.header("date").unwrap()).unwrap();
    let ahead = date.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((86_000..86_401).contains(&ahead.as_secs()), "{ahead:?}");
}

/// A presigned URL of 2023 (vector V14), on a server whose clock is there.
#[test]
fn token_expires_where_asked() {
    const HOST: &str = "examplebucket-1250000000.cos.ap-guangzhou.myqcloud.com";
    const URL: &str = "/a%20b/%E6%8A%A5%E5%91%8A.txt?q-sign-algorithm=sha1&q-ak=AKIDEXAMPLE&q-sign-time=1700000000%3B1700003600\
        &q-key-time=1700000000%3B1700003600&q-header-list=host&q-url-param-list=response-content-type%3Bx-cos-security-token\
        &q-signature=c34bc5934e0180858df49e819756597ea41a5282&response-content-type=text%2Fplain\
        &x-cos-security-token=EXAMPLE%2BToken%2Fwith%3Dchars%3D%3D";
    let token = Token { value: "EXAMPLE+Token/with=chars==".into(), expires: Some(1_700_001_000) };
    let accounts = vec![Account { token: Some(token), ..Account::example() }];
    let server = Server::start(Config { accounts, ..Config::with_bucket("examplebucket-1250000000") }).unwrap();
    server.put("examplebucket-1250000000", "a b/报告.txt", "report", &[]).unwrap();
    let get = || {
        let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
        crate::http::exchange(&mut stream, HOST, "GET", URL, &[], None)
    };
    let now = i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let clock = |moment: i64| {
        server.faults().clear();
        server.faults().add(Rule::always(Action::ClockSkew { seconds: moment - now }));
    };
    clock(1_700_000_500);
    let answer = get();
    assert_eq!((answer.status, &answer.body[..], answer.header("content-type")), (200, &b"report"[..], Some("text/plain")));
    server.faults().add(Rule::on(Op::GetObject, Action::ExpireToken).times(1));
    assert_eq!(get().code(), (400, "ExpiredToken".into()));
    assert_eq!(get().status, 200, "once");
    clock(1_700_001_100);
    assert_eq!(get().code(), (400, "ExpiredToken".into()), "by its own date");
    clock(1_699_999_000);
    assert_eq!(get().code(), (403, "RequestTimeTooSkewed".into()));
}

#[test]
fn concurrent_writers_conflict() {
    let always = struck(Op::PutObject, Action::PathConflict { concurrent_only: false });
    assert_eq!(always.put("/k", b"x").code(), (409, "PathConflict".into()));
    let emulator = Emulator::start();
    emulator.0.faults().add(Rule::on(Op::PutObject, Action::PathConflict { concurrent_only: true }));
    assert_eq!(emulator.put("/k", b"x").status, 200, "alone");
    emulator.0.set_bandwidth(Some(200_000));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| emulator.put("/k", &vec![0; 100_000]));
        while emulator.0.counters().of(Op::PutObject).bytes_in < 1000 {
            std::thread::yield_now();
        }
        assert_eq!(emulator.put("/other", b"x").status, 200, "another key");
        assert_eq!(emulator.put("/k", b"x").code(), (409, "PathConflict".into()));
        assert_eq!(first.join().unwrap().status, 200);
    });
}

#[test]
fn rules_choose_their_requests() {
    let emulator = Emulator::start();
    emulator.0.faults().add(Rule::on(Op::PutObject, Action::slow_down()).prefix("a/").contains("x").skip(1).times(2));
    let statuses: Vec<u16> =
        ["/b/x", "/a/y", "/a/x1", "/a/x2", "/a/x3", "/a/x4"].iter().map(|path| emulator.put(path, b"").status).collect();
    assert_eq!(statuses, [200, 200, 200, 503, 503, 200]);
    assert_eq!(emulator.0.counters().of(Op::PutObject).errors, 2);
}
