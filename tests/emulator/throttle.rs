//! Request rates over the wire: what is above is answered as COS answers it, and counted.

use std::time::{Duration, Instant};

use cosmount::emulator::{Config, Op, Rates, Throttled};

use crate::http::request;
use crate::{BUCKET, Emulator};

fn emulator(rates: Rates) -> Emulator {
    let emulator = Emulator::with(Config { rates, admin: true, ..Config::default() });
    emulator.0.put(BUCKET, "k", "x", &[]).unwrap();
    emulator
}

#[test]
fn above_the_rate_is_slow_down() {
    let emulator = emulator(Rates { reads: Some(3), ..Rates::default() });
    // On a machine that stands still for a second more than three pass; never fewer.
    let mut passed = 0;
    let refused = loop {
        let answer = emulator.get("/k");
        if answer.status != 200 {
            break answer;
        }
        passed += 1;
    };
    assert!(passed >= 3, "{passed}");
    assert_eq!(refused.code(), (503, "SlowDown".into()));
    assert_eq!(refused.element("RequestId").as_deref(), refused.header("x-cos-request-id"));
    assert!(refused.header("x-cos-trace-id").is_some() && refused.header("server") == Some("tencent-cos"));
    let counters = emulator.0.counters();
    assert_eq!((counters.of(Op::GetObject).throttled, counters.total().throttled, counters.total().errors), (1, 1, 1));
    assert_eq!(emulator.0.log().iter().filter(|entry| entry.status == 503).count(), 1);
    assert_eq!(emulator.put("/new", b"x").status, 200, "uploads are counted apart");
    assert_eq!(emulator.get("/").status, 200, "and lists");
    let begun = Instant::now();
    while emulator.get("/k").status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "a second later there is room");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn refused_upload_takes_no_effect_and_keeps_the_connection() {
    let emulator = emulator(Rates { writes: Some(0), reads: Some(0), ..Rates::default() });
    let head = emulator.call("HEAD", "/k", &[], None);
    assert_eq!((head.status, head.body.len()), (503, 0), "HEAD is a download too, and has no body");
    assert_eq!(emulator.put("/new", &[0; 100_000]).code(), (503, "SlowDown".into()));
    assert_eq!(emulator.call("DELETE", "/k", &[], None).code(), (503, "SlowDown".into()));
    assert_eq!(emulator.post("/new?uploads", b"").code(), (503, "SlowDown".into()));
    assert_eq!(emulator.0.keys(BUCKET, ""), ["k"]);
    assert!(emulator.0.uploads(BUCKET).is_empty());
}

#[test]
fn throttled_bucket_gets_less_of_everything() {
    let throttled = Throttled { writes: 0, reads: 0, time: Duration::from_secs(3600) };
    let emulator = emulator(Rates { lists: Some(0), throttled: Some(throttled), ..Rates::default() });
    let all = || [emulator.get("/k").status, emulator.put("/new", b"x").status, emulator.call("DELETE", "/new", &[], None).status];
    assert_eq!(all(), [200, 200, 204], "until a rate is exceeded");
    assert_eq!(emulator.get("/").status, 503);
    assert_eq!(all(), [503, 503, 503]);
    assert_eq!(emulator.get("/?versioning").status, 200, "but what asks for no object");
    emulator.0.set_rates(Rates::default());
    assert_eq!((all(), emulator.get("/").status), ([200, 200, 204], 200), "off");
}

#[test]
fn admin_sets_the_rates() {
    let emulator = emulator(Rates::default());
    let admin = |method, body: &str| request(emulator.0.addr(), method, "/_emulator/rates", &[], Some(body.as_bytes()));
    assert_eq!(admin("GET", "").text(), "{}");
    assert_eq!(admin("PUT", r#"{"lists": 0, "throttled": {"writes": 1, "reads": 1, "for": 1000}}"#).status, 200);
    assert_eq!(emulator.get("/").status, 503);
    assert!(request(emulator.0.addr(), "GET", "/_emulator/counters", &[], None).text().contains(r#""throttled":1"#));
    assert_eq!(admin("PUT", "\"documented\"").status, 200);
    assert!(admin("GET", "").text().contains(r#""requests":30000"#));
    assert_eq!(admin("PUT", r#"{"list": 1}"#).status, 400);
    assert_eq!(admin("PUT", "{}").status, 200);
    assert_eq!(emulator.get("/").status, 200);
}

#[test]
fn service_is_throttled_apart_from_buckets() {
    let emulator = emulator(Rates { service: Some(0), ..Rates::default() });
    let create = |name: &str| request(emulator.0.addr(), "PUT", &format!("/{name}/"), &[], Some(b"")).status;
    assert_eq!((create("one-125"), emulator.get("/k").status), (503, 200));
}
