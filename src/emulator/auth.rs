//! Checks signatures, in the header, in the query (`q-*`) and in the query's `sign`.
//!
//! The server computes exactly what the request's two lists name, from the values it received; what they leave out is not protected and
//! accepted, unless strict signatures are on. The `Host` counts with and without its port, since the official SDKs disagree on it.
//! The order of the checks is ours: identity, token, time, signature.
//!
//! Source: COS API, request signature (document 436/7778), read 2026-11.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sha1::{Digest as _, Sha1};

use super::config::Account;
use super::error::{Failure, Outcome};
use super::target::{Query, without_port};

/// How far a signature may begin in the future.
const MAX_SKEW: u64 = 15 * 60;

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    /// In lower case.
    pub(super) method: &'a str,
    /// Decoded.
    pub(super) path: &'a [u8],
    pub(super) query: &'a Query,
    pub(super) headers: &'a HeaderMap,
}

/// How strict to be, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Seconds since 1970.
    pub(super) now: u64,
    /// `host` and every parameter must be signed.
    pub(super) strict: bool,
    /// Every token counts as expired.
    pub(super) tokens_expired: bool,
}

/// Who asks: an account's number, or nobody for a request without any signature.
pub(super) fn verify(accounts: &[Account], request: Signed<'_>, rules: Rules) -> Outcome<Option<usize>> {
    let Some(claim) = Claim::find(request)? else { return Ok(None) };
    let unknown = || Failure::new(403, "InvalidAccessKeyId", "The access key id does not exist.");
    let index = accounts.iter().position(|account| account.secret_id == claim.id).ok_or_else(unknown)?;
    let account = &accounts[index];
    check_token(account, request, rules)?;
    claim.check_time(rules.now)?;
    if rules.strict {
        claim.check_complete(request)?;
    }
    claim.check_signature(request, &account.secret_key)?;
    Ok(Some(index))
}

fn check_token(account: &Account, request: Signed<'_>, rules: Rules) -> Outcome<()> {
    let header = request.headers.get("x-cos-security-token").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let sent = header.or_else(|| request.query.text("x-cos-security-token")).filter(|token| !token.is_empty());
    let Some(token) = &account.token else {
        return if sent.is_none() { Ok(()) } else { Err(Failure::access_denied("These keys have no token.")) };
    };
    let sent = sent.ok_or_else(|| Failure::access_denied("These keys need their token."))?;
    if sent != token.value {
        return Err(Failure::access_denied("The token does not belong to these keys."));
    }
    if rules.tokens_expired || token.expires.is_some_and(|expires| expires <= rules.now) {
        return Err(Failure::new(400, "ExpiredToken", "The token has expired."));
    }
    Ok(())
}

/// The fields of an `Authorization`, wherever they were found.
#[derive(Debug)]
struct Claim {
    id: String,
    sign_time: String,
    key_time: String,
    headers: Vec<String>,
    parameters: Vec<String>,
    signature: String,
}

impl Claim {
    fn find(request: Signed<'_>) -> Outcome<Option<Self>> {
        let header = request.headers.get("authorization").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(text) = header.filter(|text| !text.is_empty()) {
            return Self::from_fields(text.split('&').filter_map(|field| field.split_once('='))).map(Some);
        }
        if let Some(text) = request.query.text("sign") {
            return Self::from_fields(text.split('&').filter_map(|field| field.split_once('='))).map(Some);
        }
        if request.query.has("q-signature") || request.query.has("q-ak") {
            let fields: Vec<(&str, String)> =
                request.query.iter().map(|(name, value)| (name, String::from_utf8_lossy(value).into_owned())).collect();
            return Self::from_fields(fields.iter().map(|(name, value)| (*name, value.as_str()))).map(Some);
        }
        Ok(None)
    }

    fn from_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Outcome<Self> {
        let field = |name: &str| -> Outcome<String> {
            let found = fields.clone().find(|(n, _)| n.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned()).ok_or_else(|| Failure::access_denied(format!("The signature lacks {name}.")))
        };
        let list = |name: &str| -> Outcome<Vec<String>> {
            let text = field(name)?;
            Ok(text.split(';').filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect())
        };
        let algorithm = field("q-sign-algorithm")?;
        if algorithm != "sha1" {
            return Err(Failure::access_denied(format!("The signature algorithm {algorithm} is unknown.")));
        }
        Ok(Self {
            id: field("q-ak")?,
            sign_time: field("q-sign-time")?,
            key_time: field("q-key-time")?,
            headers: list("q-header-list")?,
            parameters: list("q-url-param-list")?,
            signature: field("q-signature")?,
        })
    }

    fn check_time(&self, now: u64) -> Outcome<()> {
        for text in [&self.key_time, &self.sign_time] {
            let window = text.split_once(';').and_then(|(start, end)| Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?)));
            let Some((start, end)) = window else {
                return Err(Failure::access_denied(format!("{text} is no time window.")));
            };
            if now.saturating_add(MAX_SKEW) < start {
                return Err(Failure::new(
                    403,
                    "RequestTimeTooSkewed",
                    "The difference between the request time and the server's time is too large.",
                ));
            }
            if now > end {
                return Err(Failure::access_denied("Request has expired"));
            }
        }
        Ok(())
    }

    fn check_complete(&self, request: Signed<'_>) -> Outcome<()> {
        if !self.headers.iter().any(|name| name == "host") {
            return Err(Failure::access_denied("The header host must be signed and is absent from the list."));
        }
        let own = |name: &str| !name.starts_with("q-") && name != "sign";
        match request.query.iter().map(|(name, _)| encode_name(name.as_bytes())).find(|name| own(name) && !self.parameters.contains(name)) {
            Some(name) => Err(Failure::access_denied(format!("The parameter {name} must be signed and is absent from the list."))),
            None => Ok(()),
        }
    }

    fn check_signature(&self, request: Signed<'_>, secret: &str) -> Outcome<()> {
        let host = request.headers.get("host").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default();
        let full = self.string_to_sign(request, &host);
        let tries = [full.clone(), self.string_to_sign(request, without_port(&host))];
        if tries.iter().any(|text| self.sign(text, secret) == self.signature) {
            return Ok(());
        }
        let http = String::from_utf8_lossy(&self.http_string(request, &host)).into_owned();
        Err(Failure::new(
            403,
            "SignatureDoesNotMatch",
            format!("The signature does not match. The server's HttpString is {http:?} and its StringToSign is {full:?}."),
        ))
    }

    fn sign(&self, string_to_sign: &str, secret: &str) -> String {
        let key = hmac_hex(secret.as_bytes(), self.key_time.as_bytes());
        hmac_hex(key.as_bytes(), string_to_sign.as_bytes())
    }

    fn string_to_sign(&self, request: Signed<'_>, host: &str) -> String {
        let digest = hex(&Sha1::digest(self.http_string(request, host)));
        format!("sha1\n{}\n{digest}\n", self.sign_time)
    }

    /// Bytes, since a key need not be UTF-8.
    fn http_string(&self, request: Signed<'_>, host: &str) -> Vec<u8> {
        let names: BTreeSet<&str> = self.headers.iter().map(String::as_str).collect();
        let mut headers = Vec::new();
        for name in names {
            if name == "host" {
                headers.push((name.to_owned(), encode(host.as_bytes())));
                continue;
            }
            // Names in the list are encoded; no header's name needs it, but a client may have done so.
            let plain = percent_decode_str(name).decode_utf8_lossy();
            headers.extend(request.headers.get_all(&*plain).iter().map(|value| (name.to_owned(), encode(value.as_bytes()))));
        }
        let listed: BTreeSet<&str> = self.parameters.iter().map(String::as_str).collect();
        let encoded = request.query.iter().map(|(name, value)| (encode_name(name.as_bytes()), encode(value)));
        let parameters = encoded.filter(|(name, _)| listed.contains(name.as_str())).collect();
        [request.method.as_bytes(), request.path, join(parameters).as_bytes(), join(headers).as_bytes(), b""].join(&b'\n')
    }
}

/// Pairs sorted by name, then value, as `name=value&…`.
fn join(mut pairs: Vec<(String, String)>) -> String {
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// Everything but `A-Z a-z 0-9 - _ . ~`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn encode(value: &[u8]) -> String {
    percent_encode(value, ESCAPED).to_string()
}

fn encode_name(name: &[u8]) -> String {
    encode(name).to_ascii_lowercase()
}

fn hmac_hex(key: &[u8], message: &[u8]) -> String {
    // HMAC takes keys of any length.
    Hmac::<Sha1>::new_from_slice(key).map_or_else(|_| String::new(), |mac| hex(&mac.chain_update(message).finalize().into_bytes()))
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
