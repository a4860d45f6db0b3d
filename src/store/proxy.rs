//! Which proxy a request goes through, as the environment's variables say it.
//!
//! `HTTPS_PROXY` is for https, `HTTP_PROXY` for http, `ALL_PROXY` for what these leave out; each in capitals or not. `NO_PROXY` lists what is
//! reached without one, by commas: a host with all below it, an address, a network (`10.0.0.0/8`), or `*`; a port behind a colon limits an entry to it.
//! This host itself and the metadata services of clouds are never reached through a proxy, whatever the variables say: their answers are about
//! this machine, and a proxy would see credentials. (The client of the metadata service is not given any proxies to begin with.)

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use reqwest::Url;

/// Proxies by scheme, and who is reached without.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<Url>,
    http: Option<Url>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    what: What,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Everything,
    /// This host and those below it.
    Host(String),
    /// Addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
}

/// The variables, the more particular ones first.
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Where Tencent's machines ask about themselves.
const METADATA: &str = "tencentyun.com";

impl Proxies {
    /// The variables that [`Proxies::parse`] asks for. Their values may hold a password.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"].into_iter()
    }

    /// From the variables that `value` knows.
    ///
    /// # Errors
    /// A sentence that names the variable, and not its value, which may hold a password.
    pub fn parse(value: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let given = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, value(name).filter(|text| !text.is_empty())?)));
        let proxy = |names: &[&'static str]| given(names).map(|(name, text)| proxy(name, &text)).transpose();
        let exceptions = given(&EXCEPTIONS).map(|(_, list)| list).unwrap_or_default();
        let exceptions = exceptions.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).map(Exception::parse).collect();
        Ok(Self { https: proxy(&HTTPS)?, http: proxy(&HTTP)?, exceptions })
    }

    /// Whether everything is reached without a proxy.
    pub(super) fn is_empty(&self) -> bool {
        self.https.is_none() && self.http.is_none()
    }

    /// The proxy on the way to `url`.
    pub(super) fn on_the_way_to(&self, url: &Url) -> Option<Url> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_ref()?;
        let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let address = host.parse::<IpAddr>().ok();
        let port = url.port_or_known_default();
        let direct = is_our_own(host, address) || self.exceptions.iter().any(|exception| exception.covers(host, address, port));
        (!direct).then(|| proxy.clone())
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |url: &Option<Url>| url.as_ref().and_then(|url| url.host_str().map(str::to_owned));
        f.debug_struct("Proxies").field("https", &bare(&self.https)).field("http", &bare(&self.http)).finish_non_exhaustive()
    }
}

impl Exception {
    fn parse(entry: &str) -> Self {
        let plain = entry.trim_start_matches('[');
        // `::1` has colons that are no port's, `[::1]:80` one that is.
        let (host, port) = match plain.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (plain, None),
            },
            _ => (plain, None),
        };
        let host = host.trim_end_matches(']');
        let what = match host.split_once('/') {
            _ if host == "*" => What::Everything,
            Some((network, bits)) => match (network.parse::<IpAddr>(), bits.parse::<u8>()) {
                (Ok(network), Ok(bits)) => What::Network(network, bits),
                _ => What::Host(host.to_ascii_lowercase()),
            },
            None => match host.parse::<IpAddr>() {
                Ok(address) => What::Network(address, u8::MAX),
                Err(_) => What::Host(host.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase()),
            },
        };
        Self { what, port }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        match &self.what {
            What::Everything => true,
            What::Host(name) => is_below(host, name),
            What::Network(network, bits) => address.is_some_and(|address| shares(address, *network, *bits)),
        }
    }
}

/// Whether the first `bits` of two addresses are the same.
fn shares(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differ = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(one.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.to_bits() ^ other.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(bits).min(if one.is_ipv4() { 32 } else { 128 })
}

fn is_below(host: &str, name: &str) -> bool {
    let host = host.to_ascii_lowercase();
    !name.is_empty() && host.strip_suffix(name).is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

/// This host, or what tells it about itself.
fn is_our_own(host: &str, address: Option<IpAddr>) -> bool {
    match address {
        Some(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local() || address == Ipv4Addr::UNSPECIFIED,
        Some(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => is_our_own(host, Some(IpAddr::V4(mapped))),
            None => address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local(),
        },
        None => is_below(host, "localhost") || is_below(host, METADATA) && host.to_ascii_lowercase().starts_with("metadata."),
    }
}

fn proxy(variable: &str, text: &str) -> Result<Url, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&whole).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    url.ok_or_else(|| format!("the variable {variable} holds no proxy that can be used: write http://HOST:PORT"))
}

/// Any text as the way to somewhere: this host is never reached through a proxy.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(proxies: &Proxies, url: &str) {
    if let Ok(url) = Url::parse(url) {
        let through = proxies.on_the_way_to(&url);
        assert!(through.is_none() || url.host_str().is_none_or(|host| host != "127.0.0.1" && host != "localhost"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        Proxies::parse(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    fn way(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.on_the_way_to(&Url::parse(url).unwrap()).map(|url| url.to_string())
    }

    #[test]
    fn each_scheme_has_its_variable_and_all_stands_in() {
        let both = proxies(&[("HTTPS_PROXY", "http://s:1"), ("http_proxy", "h:2"), ("ALL_PROXY", "http://a:3")]).unwrap();
        assert_eq!(way(&both, "https://b.cos.x/").as_deref(), Some("http://s:1/"));
        assert_eq!(way(&both, "http://b.cos.x/").as_deref(), Some("http://h:2/"));
        let all = proxies(&[("all_proxy", "http://a:3")]).unwrap();
        assert_eq!(way(&all, "https://b.cos.x/").as_deref(), Some("http://a:3/"));
        assert!(proxies(&[("HTTPS_PROXY", "")]).unwrap().is_empty());
    }

    #[test]
    fn this_host_and_the_metadata_service_are_never_proxied() {
        let all = proxies(&[("ALL_PROXY", "http://a:3")]).unwrap();
        for url in [
            "http://127.0.0.1:9000/",
            "http://127.9.9.9/",
            "http://localhost/",
            "http://x.LOCALHOST./",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://169.254.0.23/",
            "http://metadata.tencentyun.com/latest",
        ] {
            assert_eq!(way(&all, url), None, "{url}");
        }
        for url in ["http://localhost.example/", "http://metadata.tencentyun.com.example/", "http://128.0.0.1/"] {
            assert!(way(&all, url).is_some(), "{url}");
        }
    }

    #[test]
    fn exceptions_are_hosts_networks_and_ports() {
        let with = |list: &str| proxies(&[("ALL_PROXY", "http://a:3"), ("NO_PROXY", list)]).unwrap();
        for (list, url, direct) in [
            ("myqcloud.com", "https://b.cos.ap-x.myqcloud.com/", true),
            (".myqcloud.com", "https://b.cos.ap-x.MyQcloud.com/", true),
            ("*.myqcloud.com", "https://cos.myqcloud.com/", true),
            ("qcloud.com", "https://b.cos.ap-x.myqcloud.com/", false),
            ("a.b, 10.0.0.0/8", "http://10.200.1.1/", true),
            ("10.0.0.0/8", "http://11.0.0.1/", false),
            ("10.0.0.1", "http://10.0.0.1/", true),
            ("10.0.0.1", "http://10.0.0.2/", false),
            ("fd00::/8", "http://[fd12::1]/", true),
            ("[fd00::1]:80", "http://[fd00::1]/", true),
            ("fd00::1", "http://[fd00::1]:8080/", true),
            ("host.x:8080", "http://host.x/", false),
            ("host.x:8080", "http://host.x:8080/", true),
            ("*", "https://any.where/", true),
            ("10.0.0.0/99", "http://10.0.0.0/", true),
            ("", "https://any.where/", false),
        ] {
            assert_eq!(way(&with(list), url).is_none(), direct, "{list:?} {url}");
        }
    }

    #[test]
    fn a_password_is_told_to_nobody() {
        let secret = proxies(&[("HTTPS_PROXY", "http://me:hush@p:1")]).unwrap();
        assert!(!format!("{secret:?}").contains("hush"));
        let refused = proxies(&[("HTTPS_PROXY", "socks5://me:hush@p:1")]).unwrap_err();
        assert!(refused.contains("HTTPS_PROXY") && !refused.contains("hush"), "{refused}");
    }
}
