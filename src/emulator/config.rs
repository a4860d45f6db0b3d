//! What an emulator is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::auth::hex;
use super::fault::Rule;
use super::throttle::Rates;

/// Everything a [`Server`](super::Server) is started with; the default is an empty service in memory on a free port of the loopback.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Keep everything in this directory, so that it survives restarts; None keeps it in memory only.
    pub data: Option<PathBuf>,
    /// Whose signatures are accepted. All accounts own everything.
    pub accounts: Vec<Account>,
    /// Buckets to create at start where they are missing: name and region.
    pub buckets: Vec<(String, String)>,
    /// The region of buckets created over the wire.
    pub region: String,
    /// Host names, with or without port, that mean path style and the service.
    pub service_hosts: Vec<String>,
    /// What COS limits; smaller for tests.
    pub limits: Limits,
    /// Let requests without a signature do everything, for tools that cannot sign.
    pub anonymous: bool,
    /// Refuse signatures that leave out `host` or a parameter.
    pub strict_signatures: bool,
    /// How long every answer takes at least.
    pub latency: Duration,
    /// Bytes a second, each way, that all connections share.
    pub bandwidth: Option<u64>,
    /// What is above these is answered 503 `SlowDown`.
    pub rates: Rates,
    /// How archived objects are restored.
    pub restoring: Restoring,
    /// Speak TLS.
    pub tls: Option<Tls>,
    /// What the ETag of an object or part says that came in one request.
    pub etags: ETags,
    /// Take S3's names for COS's headers, and answer with them; signatures are then neither wanted nor checked. For comparing cosmount with
    /// programs that speak nothing else.
    pub s3: bool,
    /// Answer under `/_emulator/`.
    pub admin: bool,
    /// Faults from the start.
    pub faults: Vec<Rule>,
    /// How many requests the log remembers.
    pub log_entries: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: None,
            accounts: vec![Account::example()],
            buckets: Vec::new(),
            region: "ap-guangzhou".to_owned(),
            service_hosts: Vec::new(),
            limits: Limits::default(),
            anonymous: false,
            strict_signatures: false,
            latency: Duration::ZERO,
            bandwidth: None,
            rates: Rates::default(),
            restoring: Restoring::default(),
            tls: None,
            etags: ETags::default(),
            s3: false,
            admin: false,
            faults: Vec::new(),
            log_entries: 100_000,
        }
    }
}

impl Config {
    /// The default with one bucket.
    pub fn with_bucket(name: &str) -> Self {
        let config = Self::default();
        Self { buckets: vec![(name.to_owned(), config.region.clone())], ..config }
    }
}

/// A key pair that may sign requests.
#[derive(Clone)]
pub struct Account {
    /// The public half.
    pub secret_id: String,
    /// The secret half.
    pub secret_key: String,
    /// Temporary keys come with a token that every request must carry.
    pub token: Option<Token>,
}

impl Account {
    /// `AKIDEXAMPLE` and `exampleSecretKey`, the pair of the published examples.
    pub fn example() -> Self {
        Self { secret_id: "AKIDEXAMPLE".to_owned(), secret_key: "exampleSecretKey".to_owned(), token: None }
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("secret_id", &self.secret_id).field("temporary", &self.token.is_some()).finish_non_exhaustive()
    }
}

/// The session token of temporary keys.
#[derive(Clone)]
pub struct Token {
    /// What `x-cos-security-token` must say.
    pub value: String,
    /// Seconds since 1970 from when it is refused; None never.
    pub expires: Option<u64>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificates: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// What the ETag of an object or part says that came in one request. No client may count on the first: objects encrypted by SSE-KMS or SSE-C have
/// other ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ETags {
    /// Its MD5, as COS has it.
    #[default]
    Md5,
    /// Its CRC-64, which costs a tenth: a benchmark with MD5 measures the emulator.
    Crc64,
}

impl ETags {
    /// The ETag of bytes with these sums.
    pub(super) fn of(self, md5: Option<&[u8; 16]>, crc: u64) -> String {
        match (self, md5) {
            (Self::Md5, Some(md5)) => hex(md5),
            _ => format!("{crc:016x}"),
        }
    }

    /// Whether an ETag is made from the bytes, so that their copy has the same.
    pub(super) fn says_bytes(etag: &str) -> bool {
        matches!(etag.len(), 16 | 32)
    }
}

/// How archived objects are restored: COS takes minutes to days, and the copy lasts for days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoring {
    /// From the request until the object can be read, whatever its tier.
    pub delay: Duration,
    /// How long each day lasts for which the object can then be read.
    pub day: Duration,
}

impl Default for Restoring {
    fn default() -> Self {
        Self { delay: Duration::from_secs(2), day: Duration::from_secs(86_400) }
    }
}

/// What COS limits (COS API, specifications and limits, document 436/14518, read 2026-11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest part that is not the last.
    pub min_part: u64,
    /// The largest PUT, part, copy and part copy, and the largest appendable object.
    pub max_put: u64,
    /// Parts are numbered from 1 to this.
    pub max_parts: u32,
    /// Buckets of the account.
    pub max_buckets: usize,
    /// Bytes in a key.
    pub max_key: usize,
    /// Bytes in all `x-cos-meta-` headers of an object: suffixes and values.
    pub max_metadata: usize,
    /// Entries in a page of a listing.
    pub max_page: usize,
    /// Keys in one multi-delete.
    pub max_delete: usize,
    /// How long to wait for the next bytes of a request's body.
    pub body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_part: 1 << 20,
            max_put: 5 << 30,
            max_parts: 10_000,
            max_buckets: 200,
            max_key: 850,
            max_metadata: 2048,
            max_page: 1000,
            max_delete: 1000,
            body_timeout: Duration::from_secs(60),
        }
    }
}
