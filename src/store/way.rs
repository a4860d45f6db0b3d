//! What was wrong with the way to the store, where no answer came: told by the types of an error's causes, never by their text.
//!
//! Nobody repeats or refuses a request because of it; it is what the advice to a person depends on. Two of the causes have no public type:
//! names are therefore resolved here ([`Names`]), with an error of our own, and the HTTP client says itself that a connection did not come about in
//! time.

use std::{error::Error as StdError, io, net::SocketAddr, sync::Arc};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::CertificateError;

/// What was wrong with the way to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// The host's name has no address, or nobody could be asked for it.
    NoAddress,
    /// Nothing listens there.
    Refused,
    /// The network knows no way there.
    Unreachable,
    /// Nobody answers: a firewall that drops, a wrong address, a server that hangs.
    Silent,
    /// The connection was cut.
    Cut,
    /// No authority that is trusted vouches for the certificate.
    Untrusted,
    /// The certificate is for another name.
    OtherName,
    /// The certificate has ended.
    CertificateEnded,
    /// The certificate does not begin before a later time.
    CertificateEarly,
    /// The other side speaks no TLS, or none that is safe.
    NotTls,
}

impl Way {
    /// Whether waiting changes nothing: somebody has to change a setting or a certificate first.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Untrusted | Self::OtherName | Self::CertificateEnded | Self::CertificateEarly | Self::NotTls)
    }

    /// What the HTTP client's error says of the way.
    pub(super) fn of(error: &reqwest::Error) -> Option<Self> {
        if error.is_timeout() {
            return Some(Self::Silent);
        }
        Self::of_causes(error)
    }

    /// The first cause that says something.
    pub(super) fn of_causes(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<NoAddress>() {
                return Some(Self::NoAddress);
            }
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(error));
            }
            let Some(io) = error.downcast_ref::<io::Error>() else {
                next = error.source();
                continue;
            };
            // An I/O error's source is its content's source, so the content itself must be looked at, too.
            match io.get_ref() {
                Some(inner) => next = Some(inner),
                None => return Self::of_io(io.kind()),
            }
        }
        None
    }

    fn of_io(kind: io::ErrorKind) -> Option<Self> {
        use io::ErrorKind as K;
        Some(match kind {
            K::ConnectionRefused => Self::Refused,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::AddrNotAvailable => Self::Unreachable,
            K::TimedOut | K::WouldBlock => Self::Silent,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => Self::Cut,
            _ => return None,
        })
    }

    fn of_tls(error: &rustls::Error) -> Self {
        use CertificateError as C;
        match error {
            rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => Self::CertificateEnded,
            rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => Self::CertificateEarly,
            rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => Self::OtherName,
            rustls::Error::InvalidCertificate(_) => Self::Untrusted,
            _ => Self::NotTls,
        }
    }
}

/// A name that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("{host:?} has no address: {why}")]
struct NoAddress {
    host: String,
    why: io::Error,
}

/// The system's resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names;

impl Names {
    /// For the HTTP client.
    pub(super) fn resolver() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client puts in the port.
            let found = resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The addresses of a host, at least one.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Box<dyn StdError + Send + Sync>> {
    let none = |why| NoAddress { host: host.to_owned(), why };
    let found: Vec<_> = tokio::net::lookup_host((host, port)).await.map_err(none)?.collect();
    if found.is_empty() {
        return Err(none(io::Error::new(io::ErrorKind::NotFound, "the answer is empty")).into());
    }
    Ok(found)
}

/// An error with all its causes: most texts name none of them.
pub(super) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_however_deep() {
        let inside = |error: rustls::Error| io::Error::other(io::Error::other(error));
        let certificate = |error| inside(rustls::Error::InvalidCertificate(error));
        for (error, expected) in [
            (io::Error::from(io::ErrorKind::ConnectionRefused), Some(Way::Refused)),
            (io::Error::other(io::Error::from_raw_os_error(nix::libc::ECONNREFUSED)), Some(Way::Refused)),
            (certificate(CertificateError::UnknownIssuer), Some(Way::Untrusted)),
            (certificate(CertificateError::Expired), Some(Way::CertificateEnded)),
            (certificate(CertificateError::NotValidForName), Some(Way::OtherName)),
            (inside(rustls::Error::DecryptError), Some(Way::NotTls)),
            (io::Error::other(NoAddress { host: "h".to_owned(), why: io::Error::other("no") }), Some(Way::NoAddress)),
            (io::Error::other("words"), None),
        ] {
            assert_eq!(Way::of_causes(&error), expected, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_is_no_address() {
        let error = resolve("cos.invalid", 443).await.unwrap_err();
        assert_eq!(Way::of_causes(&*error), Some(Way::NoAddress));
    }
}
