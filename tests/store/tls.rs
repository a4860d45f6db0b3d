//! TLS: a certificate of the given authority is trusted, any other is refused, and so is TLS before 1.2 (P42).

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use cosmount::{
    emulator::{Config, Server, Tls},
    store::{Capabilities, CosConfig, Kind, Service, cos::Endpoints, open_cos},
    support::Metrics,
};

use crate::{BUCKET, clock, context, name, signed};

/// A server with a certificate of its own for `host`, and the file that certifies it.
fn server(host: &str) -> (Server, tempfile::NamedTempFile) {
    server_until(host, 2100)
}

/// The same, with a certificate that ends with this year's beginning.
fn server_until(host: &str, year: i32) -> (Server, tempfile::NamedTempFile) {
    let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = parameters.self_signed(&key).unwrap().pem();
    let tls = Tls { certificates: pem.clone().into_bytes(), key: key.serialize_pem().into_bytes() };
    let server = Server::start(Config { tls: Some(tls), ..Config::with_bucket(BUCKET) }).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    (server, file)
}

fn service(server: &Server, ca: Option<&tempfile::NamedTempFile>) -> Result<std::sync::Arc<dyn Service>, String> {
    let endpoints = Endpoints::parse(None, &[server.endpoint()], false).unwrap();
    let ca_file = ca.map(|file| file.path().to_owned());
    open_cos(
        CosConfig { endpoints, credentials: signed(), ca_file, connections: 4, hedging: true, limits: Capabilities::cos() },
        &Metrics::default(),
        clock(),
    )
}

#[tokio::test]
async fn a_given_authority_is_trusted() {
    let (server, file) = server("127.0.0.1");
    let bucket = service(&server, Some(&file)).unwrap().open(&context(Duration::from_secs(5)), &name()).await.unwrap();
    assert_eq!(bucket.name(), &name());
}

#[tokio::test]
async fn no_other_is() {
    for (host, known) in [("127.0.0.1", false), ("elsewhere.example", true)] {
        let (server, file) = server(host);
        let service = service(&server, known.then_some(&file)).unwrap();
        let error = service.open(&context(Duration::from_secs(1)), &name()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("certificate"), "{error}");
        assert_eq!(server.log().len(), 0);
    }
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_is_refused_at_once() {
    let (server, _) = server("127.0.0.1");
    let empty = tempfile::NamedTempFile::new().unwrap();
    assert!(service(&server, Some(&empty)).unwrap_err().contains("no certificate"));
}

#[tokio::test]
async fn an_expired_one_is_refused() {
    let (server, file) = server_until("127.0.0.1", 2020);
    let error = service(&server, Some(&file)).unwrap().open(&context(Duration::from_secs(1)), &name()).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
    assert_eq!(server.log().len(), 0);
}

/// What a server that knows only an old TLS answers to the hello, by RFC 4346: a ServerHello of that version.
fn old_server_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    // No session, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, no compression.
    body.extend([0, 0xc0, 0x13, 0]);
    let mut hello = vec![2, 0, 0, u8::try_from(body.len()).unwrap()];
    hello.extend(body);
    let mut record = vec![22, 3, minor, 0, u8::try_from(hello.len()).unwrap()];
    record.extend(hello);
    record
}

/// Answers one hello and returns all that the client sent.
fn old_server(listener: &TcpListener, minor: u8) -> Vec<u8> {
    let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut hello).unwrap();
    stream.write_all(&old_server_hello(minor)).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    [&head[..], &hello, &rest].concat()
}

#[tokio::test]
async fn tls_before_1_2_is_refused() {
    for minor in [1, 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let said = thread::spawn(move || old_server(&listener, minor));
        let endpoints = Endpoints::parse(None, &[endpoint], false).unwrap();
        let config =
            CosConfig { endpoints, credentials: signed(), ca_file: None, connections: 4, hedging: false, limits: Capabilities::cos() };
        let service = open_cos(config, &Metrics::default(), clock()).unwrap();
        let error = service.open(&context(Duration::from_millis(500)), &name()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let said = said.join().unwrap();
        // The client offers 1.3 and 1.2 and nothing else (extension 43), and answers with a fatal alert `protocol_version` in plain text.
        assert!(said.windows(9).any(|window| window == [0, 43, 0, 5, 4, 3, 4, 3, 3]), "the hello offers other versions");
        assert_eq!(&said[said.len() - 2..], [2, 70], "TLS 1.{}: no alert", minor - 1);
        assert!(!said.windows(11).any(|window| window == b"q-signature"));
    }
}
