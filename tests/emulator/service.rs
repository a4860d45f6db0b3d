//! The service: buckets, styles of address, who may do what, TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use cosmount::emulator::{Config, Limits, Server, Tls};

use crate::http::{exchange, request};
use crate::{BUCKET, Emulator};

#[test]
fn both_styles_reach_the_same_object() {
    let emulator = Emulator::start();
    emulator.put("/a/b", b"x");
    for (host, path) in [
        ("b-125.cos.ap-x.myqcloud.com", "/a/b"),
        ("b-125.localhost:1", "/a/b"),
        ("cos.ap-x.myqcloud.com", "/b-125/a/b"),
        ("localhost", "/b-125/a/b"),
    ] {
        let mut stream = TcpStream::connect(emulator.0.addr()).unwrap();
        assert_eq!(exchange(&mut stream, host, "GET", path, &[], None).body, b"x", "{host}{path}");
    }
    let mut stream = TcpStream::connect(emulator.0.addr()).unwrap();
    let proxied = exchange(&mut stream, "b-125.cos.ap-x.myqcloud.com", "GET", "http://b-125.cos.ap-x.myqcloud.com/a/b", &[], None);
    assert_eq!(proxied.body, b"x", "as an HTTP proxy");
}

#[test]
fn unsigned_requests_need_a_public_bucket() {
    let server = Server::start(Config::with_bucket(BUCKET)).unwrap();
    server.put(BUCKET, "private", "x", &[]).unwrap();
    server.put(BUCKET, "public", "x", &[("x-cos-acl", "public-read")]).unwrap();
    let call = |method, path: &str| request(server.addr(), method, &format!("/{BUCKET}{path}"), &[], None);
    assert_eq!(call("GET", "/public").status, 200);
    assert_eq!(call("GET", "/private").code(), (403, "AccessDenied".into()));
    assert_eq!(call("GET", "/").code(), (403, "AccessDenied".into()));
    assert_eq!(call("DELETE", "/public").code(), (403, "AccessDenied".into()));
    assert_eq!(call("HEAD", "/private").status, 403);
}

#[test]
fn buckets_have_names_and_a_limit() {
    let config = Config { limits: Limits { max_buckets: 2, ..Limits::default() }, ..Config::default() };
    let server = Server::start(Config { anonymous: true, ..config }).unwrap();
    let create = |name: &str| request(server.addr(), "PUT", &format!("/{name}"), &[], Some(b"")).code();
    assert_eq!(create("one-125"), (200, String::new()));
    assert_eq!(create("one-125"), (409, "BucketAlreadyOwnedByYou".into()));
    assert_eq!(create("no_good-125"), (400, "InvalidBucketName".into()));
    assert_eq!(create("nameless"), (400, "InvalidBucketName".into()));
    assert_eq!(create(&format!("{}-125", "x".repeat(60))), (400, "BucketNameTooLong".into()));
    assert_eq!(create("two-125"), (200, String::new()));
    assert_eq!(create("three-125"), (400, "TooManyBuckets".into()));
    assert_eq!(request(server.addr(), "HEAD", "/one-125/", &[], None).header("x-cos-bucket-region"), Some("ap-guangzhou"));
    assert_eq!(request(server.addr(), "HEAD", "/none-125/", &[], None).status, 404);
    let location = request(server.addr(), "GET", "/one-125/?location", &[], None);
    assert_eq!(location.element("LocationConstraint").unwrap(), "cos.ap-guangzhou");
    assert_eq!(request(server.addr(), "PUT", "/one-125/?cors", &[], Some(b"")).code(), (501, "NotImplemented".into()));
}

#[test]
fn admin_steers_only_where_allowed() {
    let emulator = Emulator::with(Config { admin: true, ..Config::default() });
    let admin = |method, path: &str, body: &[u8]| request(emulator.0.addr(), method, &format!("/_emulator/{path}"), &[], Some(body));
    let rule = br#"{"op":"GetObject","count":1,"action":{"do":"status","status":503,"code":"SlowDown"}}"#;
    assert_eq!(admin("POST", "faults", rule).text(), r#"{"ids":[1]}"#);
    emulator.put("/k", b"x");
    assert_eq!(emulator.get("/k").code(), (503, "SlowDown".into()));
    assert_eq!(emulator.get("/k").status, 200);
    assert!(admin("GET", "faults", b"").text().contains(r#""struck":1"#));
    assert!(admin("GET", "counters", b"").text().contains(r#""GetObject":{"bytes_in":0,"bytes_out":"#));
    assert!(admin("GET", "log", b"").text().contains(r#""key":"k""#));
    assert_eq!(admin("POST", "faults", br#"{"action":{"do":"dance"}}"#).status, 400);
    assert_eq!(admin("DELETE", "faults", b"").status, 200);
    assert_eq!(admin("DELETE", "counters", b"").status, 200);
    assert_eq!(emulator.0.counters().total().requests, 0, "and admin's own requests are not counted");
    let closed = Emulator::start();
    assert_ne!(request(closed.0.addr(), "GET", "/_emulator/faults", &[], None).status, 200);
}

/// The examples and the names of faults in `docs/emulator.md` are taken.
#[test]
fn documented_json_is_understood() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/emulator.md")).unwrap();
    let examples = |flag: &str| -> Vec<String> {
        page.split(&format!("{flag} '")).skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
    };
    let (faults, rates) = (examples("--fault"), examples("--rates"));
    assert_eq!((faults.len(), rates.len()), (1, 1));
    faults.iter().for_each(|text| assert!(Server::parse_rules(text).is_ok(), "{text}"));
    rates.iter().for_each(|text| assert!(Server::parse_rates(text).is_ok(), "{text}"));
    let table = page.split("| `\"do\"` |").nth(1).unwrap().split("\n\n").next().unwrap();
    let names: Vec<&str> = table.lines().skip(2).flat_map(|line| line.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        // Most need fields; what matters is that the name is one.
        let wrong =
            Server::parse_rules(&format!(r#"{{"action":{{"do":"{name}"}}}}"#)).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!wrong.contains("unknown variant"), "{name}: {wrong}");
    }
}

#[test]
fn tls_speaks_the_same() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let tls = Tls { certificates: made.cert.pem().into_bytes(), key: made.signing_key.serialize_pem().into_bytes() };
    let emulator = Emulator::with(Config { tls: Some(tls), ..Config::default() });
    assert!(emulator.0.endpoint().starts_with("https://127.0.0.1:"));
    emulator.0.put(BUCKET, "k", vec![7; 3_000_000], &[]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let session = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(emulator.0.addr()).unwrap());
    let answer = exchange(&mut stream, "localhost", "GET", "/b-125/k", &[], None);
    assert_eq!((answer.status, answer.body.len(), answer.broken), (200, 3_000_000, false));
    assert!(answer.headers.iter().any(|(name, _)| name == "ETag"), "{:?}", answer.headers);
    assert!(Server::start(Config { tls: Some(Tls { certificates: Vec::new(), key: Vec::new() }), ..Config::default() }).is_err());
}

#[test]
fn stop_ends_open_connections_at_once() {
    let emulator = Emulator::start();
    emulator.0.faults().add(cosmount::emulator::Rule::always(cosmount::emulator::Action::BlackHole));
    let mut stream = TcpStream::connect(emulator.0.addr()).unwrap();
    stream.write_all(b"GET /b-125/k HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    while emulator.0.counters().total().requests == 0 {
        std::thread::yield_now();
    }
    let addr = emulator.0.addr();
    let begun = Instant::now();
    drop(emulator);
    assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    assert!(matches!(stream.read_to_end(&mut rest), Ok(0) | Err(_)));
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn server_starts_and_stops_inside_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let emulator = Emulator::start();
        assert_eq!(emulator.put("/k", b"x").status, 200);
    });
}

#[test]
fn bandwidth_and_latency_are_felt() {
    let emulator = Emulator::start();
    emulator.0.put(BUCKET, "k", vec![0; 400_000], &[]).unwrap();
    let time = || {
        let begun = Instant::now();
        assert_eq!(emulator.get("/k").body.len(), 400_000);
        begun.elapsed().as_millis()
    };
    emulator.0.set_bandwidth(Some(1_000_000));
    let slow = time();
    assert!((380..2000).contains(&slow), "{slow} ms");
    emulator.0.set_bandwidth(None);
    emulator.0.set_latency(std::time::Duration::from_millis(150));
    assert!(time() >= 150);
}
