//! TLS: a certificate of the given authority is trusted, any other is refused.

use std::time::Duration;

use cosmount::{
    emulator::{Config, Server, Tls},
    store::{CosConfig, Kind, Service, cos::Endpoints, open_cos},
    support::Metrics,
};

use crate::{BUCKET, clock, context, name, signed};

/// A server with a certificate of its own for `host`, and the file that certifies it.
fn server(host: &str) -> (Server, tempfile::NamedTempFile) {
    let certified = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let tls = Tls { certificates: pem.clone().into_bytes(), key: certified.signing_key.serialize_pem().into_bytes() };
    let server = Server::start(Config { tls: Some(tls), ..Config::with_bucket(BUCKET) }).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    (server, file)
}

fn service(server: &Server, ca: Option<&tempfile::NamedTempFile>) -> Result<std::sync::Arc<dyn Service>, String> {
    let endpoints = Endpoints::parse(None, &[server.endpoint()], false).unwrap();
    let ca_file = ca.map(|file| file.path().to_owned());
    open_cos(CosConfig { endpoints, credentials: signed(), ca_file, connections: 4, hedging: true }, &Metrics::default(), clock())
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
