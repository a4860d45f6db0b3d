//! What an object carries beside its bytes: headers, class, encryption, ACL and tags, read from a request and given back in answers.
//!
//! Source: COS API, PUT Object (document 436/7749) and common headers, read 2026-11.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use md5::{Digest as _, Md5};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::config::Limits;
use super::error::{Failure, Outcome};

/// Everything about an object but its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Content headers and `x-cos-meta-*`, names in lower case, values as Latin-1 so that each byte survives.
    pub(super) headers: Vec<(String, String)>,
    /// In upper case; `STANDARD` is not shown in headers.
    pub(super) class: String,
    pub(super) encryption: Encryption,
    /// None inherits the bucket's.
    pub(super) acl: Option<Acl>,
    pub(super) tags: Vec<(String, String)>,
}

/// Server-side encryption, which the emulator only remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Encryption {
    #[default]
    None,
    Cos,
    Kms(Option<String>),
    /// The MD5 of the customer's key.
    Customer(String),
}

impl Encryption {
    /// The ETag is then not the MD5 of the bytes.
    pub(super) fn hides_md5(&self) -> bool {
        matches!(self, Self::Kms(_) | Self::Customer(_))
    }
}

const CLASSES: &[&str] = &[
    "STANDARD",
    "STANDARD_IA",
    "INTELLIGENT_TIERING",
    "ARCHIVE",
    "DEEP_ARCHIVE",
    "MAZ_STANDARD",
    "MAZ_STANDARD_IA",
    "MAZ_INTELLIGENT_TIERING",
];
const CONTENT_HEADERS: &[&str] =
    &["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];
const USER_PREFIX: &str = "x-cos-meta-";
const ENCRYPTION: &str = "x-cos-server-side-encryption";
const KMS_KEY: &str = "x-cos-server-side-encryption-cos-kms-key-id";
const CUSTOMER_ALGORITHM: &str = "x-cos-server-side-encryption-customer-algorithm";
const CUSTOMER_KEY: &str = "x-cos-server-side-encryption-customer-key";
const CUSTOMER_MD5: &str = "x-cos-server-side-encryption-customer-key-md5";

impl Meta {
    /// What a PUT, append, initiate or copy gives its object.
    pub(super) fn from_request(headers: &HeaderMap, limits: &Limits) -> Outcome<Self> {
        let mut meta = Self { class: "STANDARD".to_owned(), ..Self::default() };
        meta.take_headers(headers, limits)?;
        meta.take_properties(headers)?;
        meta.take_tags(headers)?;
        Ok(meta)
    }

    /// Content headers and user metadata, within their limit.
    pub(super) fn take_headers(&mut self, headers: &HeaderMap, limits: &Limits) -> Outcome<()> {
        let mut user_bytes = 0;
        self.headers.clear();
        for name in headers.keys() {
            let user = name.as_str().strip_prefix(USER_PREFIX);
            if user.is_none() && !CONTENT_HEADERS.contains(&name.as_str()) {
                continue;
            }
            let values: Vec<String> = headers.get_all(name).iter().map(to_latin1).collect();
            let value = values.join(",");
            if let Some(suffix) = user {
                if suffix.is_empty() || suffix.contains('_') {
                    return Err(Failure::invalid_argument(format!(
                        "{name} is not allowed: a suffix is needed and may not contain an underscore."
                    )));
                }
                user_bytes += suffix.len() + value.chars().count();
            }
            self.headers.push((name.as_str().to_owned(), value));
        }
        if user_bytes > limits.max_metadata {
            return Err(Failure::invalid_argument(format!("The user metadata are {user_bytes} bytes, more than {}.", limits.max_metadata)));
        }
        Ok(())
    }

    /// Class, ACL and encryption: what a copy never inherits.
    pub(super) fn take_properties(&mut self, headers: &HeaderMap) -> Outcome<()> {
        self.class = text(headers, "x-cos-storage-class").unwrap_or("STANDARD").to_ascii_uppercase();
        if !CLASSES.contains(&self.class.as_str()) {
            return Err(Failure::new(400, "NotSupportedStorageClass", format!("The storage class {} is unknown.", self.class)));
        }
        self.acl = Acl::of_object(headers)?;
        self.encryption = encryption(headers)?;
        traffic_limit(text(headers, "x-cos-traffic-limit"))?;
        Ok(())
    }

    /// Fits the class to the bucket: one of several zones has classes of its own, and its default is one of them.
    pub(super) fn settle_class(&mut self, multi_az: bool) -> Outcome<()> {
        if multi_az && self.class == "STANDARD" {
            self.class = "MAZ_STANDARD".to_owned();
        }
        if self.class.starts_with("MAZ_") == multi_az {
            return Ok(());
        }
        Err(Failure::new(400, "NotSupportedStorageClass", format!("The storage class {} does not fit the bucket.", self.class)))
    }

    /// The tier of a class that has tiers. Nothing here grows old enough for another.
    pub(super) fn tier(&self) -> Option<&'static str> {
        self.class.ends_with("INTELLIGENT_TIERING").then_some("FREQUENT")
    }

    /// The tags of `x-cos-tagging`.
    pub(super) fn take_tags(&mut self, headers: &HeaderMap) -> Outcome<()> {
        let pairs = text(headers, "x-cos-tagging").unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let tags = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(key, value)| (decode(key), decode(value))).collect();
        self.tags = check_tags(tags, 10)?;
        Ok(())
    }

    /// The headers of HEAD and GET.
    pub(super) fn describe(&self, out: &mut HeaderMap) {
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), from_latin1(value)) {
                out.insert(name, value);
            }
        }
        if self.class != "STANDARD" {
            insert_text(out, "x-cos-storage-class", &self.class);
        }
        if let Some(tier) = self.tier() {
            insert_text(out, "x-cos-storage-tier", tier);
        }
        self.describe_encryption(out);
    }

    /// The headers that echo the encryption.
    pub(super) fn describe_encryption(&self, out: &mut HeaderMap) {
        match &self.encryption {
            Encryption::None => {}
            Encryption::Cos => {
                out.insert(ENCRYPTION, HeaderValue::from_static("AES256"));
            }
            Encryption::Kms(key) => {
                out.insert(ENCRYPTION, HeaderValue::from_static("cos/kms"));
                if let Some(key) = key.as_deref().and_then(|key| HeaderValue::from_str(key).ok()) {
                    out.insert(KMS_KEY, key);
                }
            }
            Encryption::Customer(md5) => {
                out.insert(CUSTOMER_ALGORITHM, HeaderValue::from_static("AES256"));
                if let Ok(md5) = HeaderValue::from_str(md5) {
                    out.insert(CUSTOMER_MD5, md5);
                }
            }
        }
    }

    /// Refuses to read an object under a customer's key without that key. `prefix` is `x-cos-` or `x-cos-copy-source-`.
    pub(super) fn check_customer_key(&self, headers: &HeaderMap, prefix: &str) -> Outcome<()> {
        let Encryption::Customer(md5) = &self.encryption else { return Ok(()) };
        let name = CUSTOMER_MD5.replacen("x-cos-", prefix, 1);
        if text(headers, &name) == Some(md5.as_str()) {
            return Ok(());
        }
        Err(Failure::new(400, "SsecDecryptHeaderInvalid", "The customer's key is missing or another one."))
    }
}

fn encryption(headers: &HeaderMap) -> Outcome<Encryption> {
    if let Some(algorithm) = text(headers, CUSTOMER_ALGORITHM) {
        let key = text(headers, CUSTOMER_KEY).and_then(|key| BASE64.decode(key).ok()).filter(|key| key.len() == 32);
        let md5 = key.map(|key| BASE64.encode(Md5::digest(key)));
        let sent = text(headers, CUSTOMER_MD5);
        return match md5 {
            Some(md5) if algorithm == "AES256" && sent == Some(md5.as_str()) => Ok(Encryption::Customer(md5)),
            _ => Err(Failure::invalid_argument("The headers of the customer's key do not fit each other.")),
        };
    }
    match text(headers, ENCRYPTION) {
        None => Ok(Encryption::None),
        Some("AES256") => Ok(Encryption::Cos),
        Some("cos/kms") => Ok(Encryption::Kms(text(headers, KMS_KEY).map(str::to_owned))),
        Some(other) => Err(Failure::invalid_argument(format!("The encryption {other} is unknown."))),
    }
}

/// Bytes a second of `x-cos-traffic-limit`, which is in bits.
pub(super) fn traffic_limit(value: Option<&str>) -> Outcome<Option<u64>> {
    let Some(value) = value else { return Ok(None) };
    match value.parse::<u64>() {
        Ok(bits) if (819_200..=838_860_800).contains(&bits) => Ok(Some(bits / 8)),
        _ => Err(Failure::invalid_argument(format!("The traffic limit {value} is out of bounds."))),
    }
}

/// Tags within the limits of COS.
pub(super) fn check_tags(tags: Vec<(String, String)>, most: usize) -> Outcome<Vec<(String, String)>> {
    let fits = |(key, value): &(String, String)| (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
    let mut keys: Vec<&str> = tags.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    let repeated = keys.windows(2).any(|pair| pair[0] == pair[1]);
    if tags.len() > most || repeated || !tags.iter().all(fits) {
        return Err(Failure::new(400, "InvalidTag", format!("At most {most} tags, keys of 1 to 128 characters, values of up to 256.")));
    }
    Ok(tags)
}

/// Adds a header, if its value can be one.
pub(super) fn insert_text(out: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        out.insert(name, value);
    }
}

/// A header that is plain text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn to_latin1(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// A map of headers given by name and Latin-1 value.
pub(super) fn header_map(pairs: &[(&str, &str)]) -> Outcome<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let invalid = || Failure::invalid_argument(format!("{name}: {value} is no header."));
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        headers.append(name, from_latin1(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

pub(super) fn from_latin1(text: &str) -> Result<HeaderValue, hyper::http::Error> {
    let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect();
    Ok(HeaderValue::from_bytes(&bytes)?)
}
