//! Builds one signed request.
//!
//! The path is percent-encoded here and must arrive as it is: `a/./b` and `a/b` are two keys, but every URL library makes them one. So the `/`
//! beside a `.` or `..` component is sent as `%2F`, which COS decodes and no library touches, and what was built is compared with what the
//! library made of it. (Two keys cannot be spelled in any way, `.` and `..` themselves: in the path of a virtual-hosted bucket nothing stands
//! beside them.) COS routes on the first parameter, so a subresource comes first.

use percent_encoding::{AsciiSet, percent_encode, utf8_percent_encode};
use reqwest::{
    Method, Url,
    header::{HeaderName, HeaderValue},
};

use crate::store::{
    Error, Key, Kind, Operation, Result,
    cos::{
        endpoint::Endpoint,
        sign::{ESCAPED, Signed, Window},
    },
};

/// What is percent-encoded in a path: as in a value, but `/` stays.
const IN_PATH: &AsciiSet = &ESCAPED.remove(b'/');

/// A request before it is signed.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) key: Option<&'a Key>,
    params: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl<'a> Request<'a> {
    pub(super) fn new(operation: Operation, method: Method, key: Option<&'a Key>) -> Self {
        Self { operation, method, key, params: Vec::new(), headers: Vec::new() }
    }

    /// Adds a parameter. The first one decides what the request is.
    #[must_use]
    pub(super) fn param(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.params.push((name, value.into()));
        self
    }

    /// Adds a header, which is signed.
    pub(super) fn header(&mut self, name: &str, value: &str) -> Result<()> {
        let bad = |what: String| Error::new(Kind::Invalid, self.operation.name(), what);
        // Any bytes but controls: what a foreign writer stored as UTF-8 goes back as UTF-8.
        let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad(format!("{name} cannot have the value {value:?}")))?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(format!("{name:?} cannot be the name of a header")))?;
        self.headers.push((name, value));
        Ok(())
    }

    /// The same, in a chain, for names and values known to be good.
    pub(super) fn with(mut self, name: &str, value: &str) -> Result<Self> {
        self.header(name, value)?;
        Ok(self)
    }

    /// The request as it is sent to `endpoint`. Nobody's credentials leave it unsigned.
    pub(super) fn signed(mut self, endpoint: &Endpoint, window: &Window) -> Result<reqwest::Request> {
        if let Some(token) = window.credentials().token() {
            let mut value = HeaderValue::from_bytes(token).map_err(|_| {
                Error::new(Kind::Denied, self.operation.name(), "the session token is not one: it holds control characters")
            })?;
            value.set_sensitive(true);
            self.headers.push((HeaderName::from_static("x-cos-security-token"), value));
        }
        let url = self.url(endpoint)?;
        let authorization = match window.credentials().is_anonymous() {
            true => None,
            false => Some(self.authorization(endpoint, window)?),
        };
        let mut request = reqwest::Request::new(self.method, url);
        let all = request.headers_mut();
        all.reserve(self.headers.len() + 1);
        if let Some(value) = authorization {
            all.insert(reqwest::header::AUTHORIZATION, value);
        }
        for (name, value) in self.headers {
            all.append(name, value);
        }
        Ok(request)
    }

    fn authorization(&self, endpoint: &Endpoint, window: &Window) -> Result<HeaderValue> {
        let path = format!("{}/{}", endpoint.root, self.key.map_or("", Key::as_str));
        let params: Vec<_> = self.params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        headers.push(("host", endpoint.authority.as_bytes()));
        let signed = Signed { method: self.method.as_str(), path: &path, params: &params, headers: &headers };
        let mut value = HeaderValue::from_str(&window.authorization(&signed))
            .map_err(|_| Error::new(Kind::Denied, self.operation.name(), "the secret id is not one: it holds control characters"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn url(&self, endpoint: &Endpoint) -> Result<Url> {
        let refuse = |why: &str| {
            let error = Error::new(Kind::Invalid, self.operation.name(), why);
            match self.key {
                Some(key) => error.on(key),
                None => error,
            }
        };
        if self.key.is_some_and(|key| key.as_str().is_empty() || key.as_str().starts_with(['/', '\\'])) {
            return Err(refuse("no object can have this key"));
        }
        let path = format!("{}/{}", endpoint.root, self.key.map(path_of).unwrap_or_default());
        let query = self.params.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)));
        let query = query.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let url = Url::parse(&format!("{endpoint}{path}{mark}{query}")).map_err(|error| refuse(&format!("no URL: {error}")))?;
        if url.path() != path || url.query().unwrap_or_default() != query {
            return Err(refuse("this key cannot be spelled in a URL"));
        }
        Ok(url)
    }
}

/// A key in a path. No component of the result is `.` or `..`, so nothing resolves it.
pub(super) fn path_of(key: &Key) -> String {
    let mut path = String::with_capacity(key.as_str().len() + 16);
    let mut after_dots = false;
    for (index, component) in key.as_str().split('/').enumerate() {
        let dots = matches!(component, "." | "..");
        if index > 0 {
            // A `.` or `..` at the end has no `/` behind it, so the one before is hidden; that does for all the others, too.
            path.push_str(if dots || after_dots { "%2F" } else { "/" });
        }
        path.extend(percent_encode(component.as_bytes(), IN_PATH));
        after_dots = dots;
    }
    path
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{
        BucketName,
        cos::{Credentials, endpoint::Endpoints},
    };

    fn request(key: &str) -> Result<reqwest::Request> {
        signed_by(Credentials::new("id", "secret").with_token("t"), key)
    }

    fn signed_by(credentials: Credentials, key: &str) -> Result<reqwest::Request> {
        let endpoint = Endpoints::parse(None, &["http://cos.local:9000"], false).unwrap();
        let endpoint = endpoint.bucket(&BucketName::parse("b-125").unwrap(), None).unwrap();
        let key = Key::new(key);
        let window = Window::new(Arc::new(credentials), "1;2".to_owned());
        Request::new(Operation::Get, Method::GET, Some(&key))
            .param("versionId", "a b")
            .with("range", "bytes=0-1")?
            .signed(&endpoint, &window)
    }

    #[test]
    fn keys_arrive_as_they_are() {
        for key in [
            "a",
            "a b/报告.txt",
            "a//b",
            "a/./b",
            "a/../b",
            "./a",
            "../a",
            "a/..",
            "a/.",
            "a/./../.",
            "...",
            "a/.../b",
            "%2e%2e/a",
            "a?b#c",
            "a+b%20",
            "\u{1}\t",
            "a\\..\\b",
            "x/%2E%2E/y",
            ".a",
            "a/.b",
            "a/",
            "|^`{}\"<>",
        ] {
            let request = request(key).unwrap();
            let path = request.url().path();
            let decoded = percent_encoding::percent_decode_str(path.strip_prefix('/').unwrap()).decode_utf8().unwrap();
            assert_eq!(decoded, key, "{path}");
            assert_eq!(request.url().query(), Some("versionId=a%20b"));
        }
    }

    #[test]
    fn what_no_url_can_spell_is_refused_before_it_is_a_listing() {
        for key in [".", "..", "", "/a", "\\a"] {
            assert_eq!(request(key).unwrap_err().kind(), Kind::Invalid, "{key:?}");
        }
    }

    #[test]
    fn secrets_show_in_no_debug() {
        let request = request("a").unwrap();
        assert!(request.headers()["authorization"].to_str().unwrap().contains("q-header-list=host;range;x-cos-security-token"));
        let shown = format!("{request:?}");
        assert!(!shown.contains("q-signature") && !shown.contains("secret\""), "{shown}");
    }

    #[test]
    fn nobody_signs_nothing() {
        let request = signed_by(Credentials::anonymous(), "a").unwrap();
        assert!(!request.headers().contains_key("authorization") && request.headers().contains_key("range"));
    }

    #[test]
    fn headers_that_would_split_a_request_are_refused() {
        let mut request = Request::new(Operation::Put, Method::PUT, None);
        assert!(request.header("x-cos-meta-a", "b\r\nx-cos-acl: public-read").is_err());
        assert!(request.header("x-cos-meta-a b", "c").is_err());
        assert!(request.header("x-cos-meta-a", "grün").is_ok());
    }
}
