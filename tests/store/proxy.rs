//! Proxies of the environment: used where they are meant, and never for this host.

use std::{io::Write, sync::Arc, time::Duration};

use cosmount::{
    emulator::{Config, Server},
    store::{Capabilities, CosConfig, Proxies, Service, cos::Endpoints, open_cos},
    support::Metrics,
};

use crate::{
    BUCKET, clock, context,
    liar::{self, Liar},
    name, signed,
};

/// A service at `endpoint`, reached as these variables say.
fn service(endpoint: &str, variables: &[(&str, &str)]) -> Arc<dyn Service> {
    let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let endpoints = Endpoints::parse(None, &[endpoint], false).unwrap().through(Proxies::parse(value).unwrap());
    open_cos(
        CosConfig { endpoints, credentials: signed(), ca_file: None, connections: 4, hedging: false, limits: Capabilities::cos() },
        &Metrics::default(),
        clock(),
    )
    .unwrap()
}

/// A proxy that answers as the bucket would, and lets nobody through to another host.
fn proxy() -> Liar {
    Liar::start(|asked, stream| match asked.method.as_str() {
        "CONNECT" => stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        "HEAD" => stream.write_all(&liar::head("200 OK", "Content-Length: 0\r\n")),
        _ => liar::document(stream, "<VersioningConfiguration/>"),
    })
}

#[tokio::test]
async fn a_plain_request_goes_to_the_proxy_whole() {
    let proxy = proxy();
    let variables = [("HTTP_PROXY", &*format!("http://me:hush@{}", proxy.address()))];
    service("http://cos.example", &variables).open(&context(Duration::from_secs(5)), &name()).await.unwrap();
    let seen = &proxy.seen()[0];
    assert_eq!(seen.target, format!("http://{BUCKET}.cos.example/"));
    assert!(seen.headers.to_lowercase().contains("proxy-authorization: basic "), "{}", seen.headers);
}

#[tokio::test]
async fn a_proxy_sees_no_more_of_https_than_the_host() {
    let proxy = proxy();
    let url = format!("http://me:hush@{}", proxy.address());
    let error = service("https://cos.example", &[("https_proxy", &url)]).open(&context(Duration::from_secs(1)), &name()).await.unwrap_err();
    assert!(!error.to_string().contains("hush"), "{error}");
    for seen in proxy.seen() {
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("CONNECT", &*format!("{BUCKET}.cos.example:443")));
        assert!(!seen.headers.contains("q-signature"), "{}", seen.headers);
    }
    assert!(!proxy.seen().is_empty());
}

#[tokio::test]
async fn this_host_and_exceptions_are_reached_without_one() {
    let (proxy, server) = (proxy(), Server::start(Config::with_bucket(BUCKET)).unwrap());
    let url = proxy.endpoint();
    let all = [("ALL_PROXY", &*url), ("HTTP_PROXY", &*url), ("HTTPS_PROXY", &*url)];
    service(&server.endpoint(), &all).open(&context(Duration::from_secs(5)), &name()).await.unwrap();
    // An exception is not even resolved by the proxy; that the name does not exist is the proof that it was looked up here.
    let except = [("ALL_PROXY", &*url), ("NO_PROXY", "other.example,.invalid")];
    service("http://cos.invalid", &except).open(&context(Duration::from_secs(1)), &name()).await.unwrap_err();
    assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    service("http://cos.invalid", &all).open(&context(Duration::from_secs(5)), &name()).await.unwrap();
    assert!(!proxy.seen().is_empty());
}
