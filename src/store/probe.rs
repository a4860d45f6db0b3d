//! The way to the store, step by step, for `cosmount doctor`: name, connection, TLS, and the other side's clock.
//!
//! A mount takes all of these steps at once, inside the HTTP client. Here each is taken by itself, so that the first that fails can be named. The
//! last word on a certificate has the client ([`ask`]), as it is the one that a mount uses; [`handshake`] only tells what the certificate says.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::store::{
    Kind, Operation, Way,
    cos::Place,
    http::{Http, Watch},
    way::{self, chain},
};
use crate::support::Ctx;

pub use crate::store::certificate::Certificate;

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong with the way, if that much is known.
    pub way: Option<Way>,
    /// In words.
    pub why: String,
}

/// What a TLS connection was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `TLS 1.3`.
    pub version: &'static str,
    /// What the other side shows; `None` if it cannot be read.
    pub certificate: Option<Certificate>,
}

impl Trouble {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { way: Way::of_causes(error), why: chain(error) }
    }

    fn silent(patience: Duration) -> Self {
        Self { way: Some(Way::Silent), why: format!("no answer within {} ms", patience.as_millis()) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.why.escape_debug())
    }
}

/// Whether the HTTP client can be made with these authorities.
///
/// # Errors
/// A sentence about the file.
pub fn authorities(ca_file: Option<&Path>) -> Result<(), String> {
    Http::direct(ca_file).map(drop)
}

/// The addresses of the place's host.
///
/// # Errors
/// It has none, or the resolver does not answer.
pub async fn addresses(cx: &Ctx, place: &Place) -> Result<Vec<SocketAddr>, Trouble> {
    match cx.bounded(way::resolve(place.host(), place.port())).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Trouble::of(&*error)),
        Err(_) => Err(Trouble::silent(cx.patience())),
    }
}

/// The first of the addresses that takes a connection.
///
/// # Errors
/// None does; what the last one said.
pub async fn connect(cx: &Ctx, addresses: &[SocketAddr]) -> Result<SocketAddr, Trouble> {
    let mut last = Trouble::silent(cx.patience());
    for address in addresses {
        match cx.bounded(tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(*address),
            Ok(Err(error)) => last = Trouble::of(&error),
            Err(_) => return Err(Trouble::silent(cx.patience())),
        }
    }
    Err(last)
}

/// Shakes hands with whoever is there and says what was agreed. Trusts everybody, and sends nothing.
///
/// # Errors
/// The other side does not speak TLS.
pub async fn handshake(cx: &Ctx, place: &Place, address: SocketAddr) -> Result<Tls, Trouble> {
    let (host, patience) = (place.host().to_owned(), cx.patience());
    // The handshake is synchronous: there is no other asynchronous TLS here than the HTTP client's own.
    let shaking = tokio::task::spawn_blocking(move || shake(&host, address, patience));
    match cx.bounded(shaking).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => Err(Trouble::of(&error)),
        Err(_) => Err(Trouble::silent(patience)),
    }
}

fn shake(host: &str, address: SocketAddr, patience: Duration) -> Result<Tls, Trouble> {
    let failed = |error: &(dyn std::error::Error + 'static)| Trouble::of(error);
    let provider = Arc::new(ring::default_provider());
    let anyone = Arc::new(Anyone(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| failed(&error))?;
    let config = config.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|error| failed(&error))?;
    let mut stream = std::net::TcpStream::connect_timeout(&address, patience).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience))).map_err(|error| failed(&error))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| failed(&error))?;
    }
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS of a version without a name",
    };
    let certificate = connection.peer_certificates().and_then(|chain| chain.first()).and_then(|first| Certificate::parse(first));
    Ok(Tls { version, certificate })
}

/// Asks for the bucket without a signature, with the client that a mount uses: whether its TLS is content, and what time it is there (to the second).
///
/// # Errors
/// No answer came. Whatever answer comes is one.
pub async fn ask(cx: &Ctx, place: &Place, ca_file: Option<&Path>) -> Result<Option<SystemTime>, Trouble> {
    let plain = |why: String| Trouble { way: None, why };
    let http = Http::direct(ca_file).map_err(plain)?;
    let url = reqwest::Url::parse(place.url()).map_err(|error| plain(error.to_string()))?;
    let request = reqwest::Request::new(reqwest::Method::HEAD, url);
    let answer = http.send(&Watch::new(cx, Operation::HeadBucket, place.url()), request, None).await;
    match answer {
        Ok(answer) => Ok(answer.date()),
        Err(error) if error.kind() == Kind::NoProgress => Err(Trouble::silent(cx.patience())),
        Err(error) => Err(Trouble { way: error.way(), why: error.message().to_owned() }),
    }
}

/// Believes everybody: for a connection over which nothing is sent, to see who is there.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
