//! Where requests go: a base URL for the account, one for each bucket.
//!
//! Without options a bucket is at `https://BUCKET.cos.REGION.myqcloud.com`, the account at `https://service.cos.myqcloud.com`. An endpoint given by
//! the user replaces the part behind `BUCKET.`; its scheme and port are kept. The bucket goes into the path instead where a host name cannot
//! carry it: an IP address, `localhost`, or `--path-style`.
//!
//! Source: COS API, "Regions and access domain names" (document 436/6224), read 2026-11.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::store::{BucketName, Proxies};

/// Where buckets and the account are.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    region: Option<String>,
    general: Option<Base>,
    regions: BTreeMap<String, Base>,
    service: Option<Base>,
    metadata: Option<Base>,
    sts: Option<Base>,
    path_style: bool,
    proxies: Proxies,
}

/// Scheme and authority of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    scheme: &'static str,
    host: String,
    port: Option<u16>,
}

/// Where one bucket is, or the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    scheme: &'static str,
    /// The `Host` header, port included where it is not the scheme's own.
    pub(super) authority: String,
    /// `/BUCKET` with path style, else empty.
    pub(super) root: String,
}

impl Endpoints {
    /// From what the user typed: a region, and any number of `URL`, `REGION=URL`, `service=URL`, `metadata=URL` and `sts=URL`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with which of them.
    pub fn parse(region: Option<&str>, endpoints: &[impl AsRef<str>], path_style: bool) -> Result<Self, String> {
        let mut all = Self { path_style, ..Self::default() };
        if let Some(region) = region {
            all.region = Some(label(region)?.to_owned());
        }
        for endpoint in endpoints.iter().map(AsRef::as_ref) {
            match endpoint.split_once('=') {
                Some(("service", url)) => all.service = Some(Base::parse(url)?),
                Some(("metadata", url)) => all.metadata = Some(Base::parse(url)?),
                Some(("sts", url)) => all.sts = Some(Base::parse(url)?),
                Some((region, url)) => {
                    all.regions.insert(label(region)?.to_owned(), Base::parse(url)?);
                    all.region.get_or_insert_with(|| region.to_owned());
                }
                None => all.general = Some(Base::parse(endpoint)?),
            }
        }
        Ok(all)
    }

    /// The same places, by way of these proxies.
    #[must_use]
    pub fn through(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The region buckets are in unless said otherwise.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Where a machine asks about itself, as the beginning of a URL.
    pub(super) fn metadata(&self) -> String {
        self.metadata.as_ref().map_or_else(|| "http://metadata.tencentyun.com".to_owned(), |base| base.clone().endpoint().to_string())
    }

    /// Where identities are exchanged for credentials, as the beginning of a URL.
    pub(super) fn sts(&self) -> String {
        self.sts.as_ref().map_or_else(|| "https://sts.tencentcloudapi.com".to_owned(), |base| base.clone().endpoint().to_string())
    }

    /// Where `bucket` is, in `region` or else the one given; `None` if neither a region nor an endpoint is known.
    pub(super) fn bucket(&self, bucket: &BucketName, region: Option<&str>) -> Option<Endpoint> {
        let region = region.or(self.region());
        let given = region.and_then(|region| self.regions.get(region)).or(self.general.as_ref());
        let base = match (given, region) {
            (Some(base), _) => base.clone(),
            (None, Some(region)) => Base { scheme: "https", host: format!("cos.{region}.myqcloud.com"), port: None },
            (None, None) => return None,
        };
        let named = format!("{bucket}.");
        if self.path_style || base.cannot_carry_a_bucket() {
            Some(Endpoint { root: format!("/{bucket}"), ..base.endpoint() })
        } else if base.host.starts_with(&named) {
            Some(base.endpoint())
        } else {
            Some(Base { host: named + &base.host, ..base }.endpoint())
        }
    }

    /// Where requests about `bucket` go, or, if neither its region nor an endpoint is known, those about the account.
    pub fn place(&self, bucket: &BucketName) -> Place {
        let endpoint = self.bucket(bucket, None).unwrap_or_else(|| self.service());
        let url = format!("{endpoint}{}", endpoint.root);
        let base = Base::parse(&endpoint.to_string()).expect("an endpoint is made of what was parsed");
        Place { base, url }
    }

    /// Where the account is. An endpoint that the user gave for buckets is asked, too: it is not Tencent's.
    pub(super) fn service(&self) -> Endpoint {
        let base = self.service.as_ref().or(self.general.as_ref());
        let standard = || Base { scheme: "https", host: "service.cos.myqcloud.com".to_owned(), port: None };
        base.cloned().unwrap_or_else(standard).endpoint()
    }
}

/// Where requests about a bucket go, for who wants to look there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    base: Base,
    url: String,
}

impl Place {
    /// The host, an address without brackets.
    pub fn host(&self) -> &str {
        self.base.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.base.port.unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Whether TLS is spoken there.
    pub fn is_tls(&self) -> bool {
        self.base.scheme == "https"
    }

    /// Scheme, authority and, with path style, the bucket.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Base {
    fn parse(url: &str) -> Result<Self, String> {
        if url.contains('@') {
            // What stands before it may be a secret: it is not said again.
            return Err("an endpoint has no user and no password before its host: put secrets where docs/credentials.md says; write https://HOST or http://HOST:PORT".to_owned());
        }
        let refuse = |why: &str| format!("{url:?} is not an endpoint: {why}; write https://HOST or http://HOST:PORT");
        let (scheme, rest) = url.split_once("://").ok_or_else(|| refuse("no scheme"))?;
        let (scheme, own_port) = match scheme {
            "https" => ("https", 443),
            "http" => ("http", 80),
            _ => return Err(refuse("the scheme is neither https nor http")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let after_address = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest[after_address..].rfind(':') {
            Some(colon) => {
                let colon = after_address + colon;
                (&rest[..colon], Some(rest[colon + 1..].parse().map_err(|_| refuse("the port is not a number"))?))
            }
            None => (rest, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(refuse("the host is not a host name"));
        }
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port: port.filter(|port| *port != own_port) })
    }

    fn cannot_carry_a_bucket(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok()
    }

    fn endpoint(&self) -> Endpoint {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        Endpoint { scheme: self.scheme, authority: format!("{}{port}", self.host), root: String::new() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// A region is opaque, but must fit into a host name.
fn label(region: &str) -> Result<&str, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || !region.chars().all(plain) {
        return Err(format!("{region:?} is not a region: expected something like ap-guangzhou"));
    }
    Ok(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(region: Option<&str>, endpoints: &[&str], path_style: bool) -> Option<String> {
        let name = BucketName::parse("b-125").unwrap();
        let found = Endpoints::parse(region, endpoints, path_style).unwrap().bucket(&name, None)?;
        Some(format!("{found}{}", found.root))
    }

    #[test]
    fn buckets_are_where_the_options_say() {
        for (region, endpoints, path_style, expected) in [
            (Some("ap-beijing"), &[][..], false, Some("https://b-125.cos.ap-beijing.myqcloud.com")),
            (Some("ap-beijing"), &[], true, Some("https://cos.ap-beijing.myqcloud.com/b-125")),
            (None, &[], false, None),
            (None, &["http://127.0.0.1:9000"], false, Some("http://127.0.0.1:9000/b-125")),
            (None, &["http://[::1]:9000/"], false, Some("http://[::1]:9000/b-125")),
            (None, &["https://cos.local:443"], false, Some("https://b-125.cos.local")),
            (None, &["http://b-125.cos.local:8080"], false, Some("http://b-125.cos.local:8080")),
            (None, &["http://localhost"], false, Some("http://localhost/b-125")),
            (Some("ap-x"), &["ap-y=https://y.example", "ap-x=https://x.example"], false, Some("https://b-125.x.example")),
        ] {
            assert_eq!(bucket(region, endpoints, path_style).as_deref(), expected, "{region:?} {endpoints:?}");
        }
    }

    #[test]
    fn the_account_is_at_the_standard_host_or_the_given_one() {
        let at = |endpoints: &[&str]| Endpoints::parse(None, endpoints, false).unwrap().service().to_string();
        assert_eq!(at(&[]), "https://service.cos.myqcloud.com");
        assert_eq!(at(&["http://127.0.0.1:1"]), "http://127.0.0.1:1");
        assert_eq!(at(&["http://127.0.0.1:1", "service=http://127.0.0.1:2"]), "http://127.0.0.1:2");
    }

    #[test]
    fn who_hands_out_credentials_is_nobodys_region() {
        let all = Endpoints::parse(None, &["metadata=http://127.0.0.1:3", "sts=https://sts.local"], false).unwrap();
        assert_eq!((all.metadata(), all.sts(), all.region()), ("http://127.0.0.1:3".to_owned(), "https://sts.local".to_owned(), None));
        let usual = Endpoints::default();
        assert_eq!(usual.metadata(), "http://metadata.tencentyun.com");
        assert_eq!(usual.sts(), "https://sts.tencentcloudapi.com");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_a_reason() {
        for bad in ["cos.local", "ftp://cos.local", "http://", "http://a:b", "http://user@host", "http://host/path", "Region=http://h"] {
            assert!(Endpoints::parse(None, &[bad], false).is_err(), "{bad}");
        }
        for bad in ["http://AKID:verysecret@host", "AKID:verysecret@host", "ap-x=https://AKID:verysecret@host:1"] {
            let why = Endpoints::parse(None, &[bad], false).unwrap_err();
            assert!(!why.contains("verysecret"), "{why}");
        }
        assert!(Endpoints::parse(Some("ap beijing"), &[] as &[&str], false).is_err());
    }
}
