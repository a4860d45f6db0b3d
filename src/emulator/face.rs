//! The emulator from inside the process: start, stop, and a look behind the wire.

use std::io;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use super::acl::Acl;
use super::admin::{parse_rates, parse_rules};
use super::auth::hex;
use super::buckets::check_name;
use super::clock;
use super::config::{Account, Config, Tls};
use super::content::Content;
use super::disk::Disk;
use super::error::{Failure, Outcome};
use super::fault::{Faults, Rule};
use super::log::{Counters, LogEntry};
use super::meta::{Meta, header_map, to_latin1};
use super::server::{Core, LinkSpeed, accept_while};
use super::state::{BucketConfig, Object, Store};
use super::throttle::Rates;
use super::versions::{Version, Versioning};

/// A running emulator. Dropping it stops it and resets its connections.
#[derive(Debug)]
pub struct Server {
    core: Arc<Core>,
    addr: SocketAddr,
    secure: bool,
    reachable: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// An object as the emulator holds it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Its bytes.
    pub body: Bytes,
    /// Content headers, user metadata, class and encryption, as HEAD shows them; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without quotes.
    pub etag: String,
    /// CRC-64 of its bytes.
    pub crc64: Option<u64>,
    /// Seconds since 1970.
    pub last_modified: u64,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// Its `<AccessControlPolicy>`; None inherits the bucket's.
    pub acl: Option<String>,
}

impl StoredObject {
    /// One of its headers.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A version of an object, or a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// Its id, `null` if it was made while no versions were kept.
    pub id: String,
    /// Its bytes; None for a delete marker.
    pub body: Option<Bytes>,
}

/// An unfinished upload as the emulator holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUpload {
    /// The key it will have.
    pub key: String,
    /// Its id.
    pub id: String,
    /// Part numbers and their sizes.
    pub parts: Vec<(u32, u64)>,
}

impl Server {
    /// Starts an emulator and returns when it listens.
    ///
    /// # Errors
    /// The address is taken, the data directory cannot be read, the certificate is none, or a bucket's name is not allowed.
    pub fn start(config: Config) -> io::Result<Self> {
        let faults = Arc::new(Faults::default());
        for rule in &config.faults {
            faults.add(rule.clone());
        }
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let disk = config.data.as_deref().map(Disk::open).transpose()?;
        let store = Store::open(disk, Arc::clone(&faults))?;
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let core = Arc::new(Core::new(config, store, faults));
        let (stop, stopped) = oneshot::channel();
        let (reachable, is_reachable) = watch::channel(true);
        let mut server = Self { core, addr, secure: tls.is_some(), reachable, stop: Some(stop), thread: None };
        for (name, region) in &server.core.config.buckets {
            if !server.core.store.all(|buckets| buckets.contains_key(name)) {
                server.create_bucket(name, region)?;
            }
        }
        let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).thread_name("emulator").enable_all().build()?;
        let core = Arc::clone(&server.core);
        // The runtime lives and dies on a thread of its own, since a caller may be inside another one.
        server.thread = Some(std::thread::Builder::new().name("emulator".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::select! {
                    () = accept_while(is_reachable, core, listener, tls) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?);
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.addr)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its fault rules.
    pub fn faults(&self) -> &Faults {
        &self.core.faults
    }

    /// Reads fault rules from JSON: one, or a list.
    ///
    /// # Errors
    /// The text is no rule; the message says why.
    pub fn parse_rules(text: &str) -> io::Result<Vec<Rule>> {
        parse_rules(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Reads request rates from JSON; the string `"documented"` means COS's own.
    ///
    /// # Errors
    /// The text is none; the message says why.
    pub fn parse_rates(text: &str) -> io::Result<Rates> {
        parse_rates(text.as_bytes()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Sums by operation since the start or the last [`Server::clear_log`].
    pub fn counters(&self) -> Counters {
        self.core.log.counters()
    }

    /// The requests that came, oldest first; as many as the log remembers.
    pub fn log(&self) -> Vec<LogEntry> {
        self.core.log.entries()
    }

    /// How many requests are being worked on: once a client is dead and this is 0, nothing of it takes effect any more.
    pub fn serving(&self) -> u64 {
        self.core.serving.load(Ordering::SeqCst)
    }

    /// Forgets log and counters.
    pub fn clear_log(&self) {
        self.core.log.clear();
    }

    /// Replaces whose signatures are accepted.
    pub fn set_accounts(&self, accounts: Vec<Account>) {
        *self.core.accounts.write() = accounts;
    }

    /// Whether the server can be reached: if not, its connections end and new ones are refused, as while it is started anew. It forgets nothing.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.send_replace(reachable);
    }

    /// How long every answer takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.core.link.write().latency = latency;
    }

    /// Bytes a second, each way, from now on; None is as fast as it goes.
    pub fn set_bandwidth(&self, bandwidth: Option<u64>) {
        let mut link = self.core.link.write();
        *link = LinkSpeed::new(link.latency, bandwidth);
    }

    /// Puts request rates in force; the default is none.
    pub fn set_rates(&self, rates: Rates) {
        self.core.throttle.set(rates);
    }

    /// Creates a bucket.
    ///
    /// # Errors
    /// The name is taken or not allowed.
    pub fn create_bucket(&self, name: &str, region: &str) -> io::Result<()> {
        check_name(name).map_err(|f| refused(&f))?;
        let config = BucketConfig { region: region.to_owned(), created: clock::unix_now(), ..BucketConfig::default() };
        self.core.store.create_bucket(name, config, self.core.config.limits.max_buckets).map_err(|f| refused(&f))
    }

    /// Puts an object with the headers of a PUT, as somebody else would; any bytes may be its key.
    ///
    /// # Errors
    /// The bucket is missing, or COS would refuse a header.
    pub fn put(&self, bucket: &str, key: impl AsRef<[u8]>, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> io::Result<()> {
        let body = body.into();
        let etag = hex(&<md5::Md5 as md5::Digest>::digest(&body));
        self.place(bucket, key.as_ref(), Content::from(body), etag, headers).map_err(|f| refused(&f))
    }

    /// Puts an object of `len` bytes that repeats `block`; a terabyte costs a few megabytes.
    ///
    /// # Errors
    /// As [`Server::put`].
    pub fn put_repeated(&self, bucket: &str, key: impl AsRef<[u8]>, block: impl Into<Bytes>, len: u64) -> io::Result<()> {
        let etag = format!("{}-1", self.core.random_hex());
        self.place(bucket, key.as_ref(), Content::repeated(&block.into(), len), etag, &[]).map_err(|f| refused(&f))
    }

    fn place(&self, bucket: &str, key: &[u8], content: Content, etag: String, headers: &[(&str, &str)]) -> Outcome<()> {
        let mut meta = Meta::from_request(&header_map(headers)?, &self.core.config.limits)?;
        meta.settle_class(self.core.store.bucket(bucket, |bucket| Ok(bucket.config.multi_az))?)?;
        let files = self.core.store.stage(&content)?;
        let crc = Some(content.crc());
        let object = Object { content, etag, crc, modified: clock::unix_now(), meta, files, ..Object::default() };
        self.core.store.put(bucket, key, object, |_| Ok(())).map(drop)
    }

    /// An object; None if the bucket or the key is missing.
    pub fn get(&self, bucket: &str, key: impl AsRef<[u8]>) -> Option<StoredObject> {
        let object = self.core.store.object(bucket, key.as_ref(), None).ok()?;
        let mut headers = hyper::HeaderMap::new();
        object.meta.describe(&mut headers);
        object.describe_restore(&mut headers);
        Some(StoredObject {
            body: object.content.to_bytes(),
            headers: headers.iter().map(|(name, value)| (name.as_str().to_owned(), to_latin1(value))).collect(),
            etag: object.etag.clone(),
            crc64: object.crc,
            last_modified: object.modified,
            tags: object.meta.tags.clone(),
            acl: object.meta.acl.as_ref().map(Acl::document),
        })
    }

    /// Changes when an object was last modified, for tests of old ones; false if it is missing.
    pub fn set_last_modified(&self, bucket: &str, key: impl AsRef<[u8]>, seconds: u64) -> bool {
        self.core.store.update(bucket, key.as_ref(), None, |before| Ok(Object { modified: seconds, ..before.clone() })).is_ok()
    }

    /// Removes an object, as somebody else would: where versions are kept it stays under a delete marker. False if it was not there.
    pub fn delete(&self, bucket: &str, key: impl AsRef<[u8]>) -> bool {
        self.core.store.delete(bucket, key.as_ref(), None).is_ok_and(|deleted| deleted.existed)
    }

    /// Enables or suspends a bucket's versioning; false if the bucket is missing, or if that would be its end.
    pub fn set_versioning(&self, bucket: &str, versioning: Versioning) -> bool {
        versioning != Versioning::Never && self.core.store.configure(bucket, |config| config.versioning = versioning).is_ok()
    }

    /// Ends every restore of an archived object that is under way, as if its time had passed; false if the bucket is missing.
    pub fn finish_restores(&self, bucket: &str) -> bool {
        self.core.store.finish_restores(bucket).is_ok()
    }

    /// The versions and delete markers of a key, newest first.
    pub fn versions(&self, bucket: &str, key: impl AsRef<[u8]>) -> Vec<StoredVersion> {
        let one = |version: Version| StoredVersion {
            id: version.stamp().id(),
            body: match version {
                Version::Object(object) => Some(object.content.to_bytes()),
                Version::Marker(_) => None,
            },
        };
        self.core.store.bucket(bucket, |bucket| Ok(bucket.stack(key.as_ref()).map(one).collect())).unwrap_or_default()
    }

    /// The keys that begin so, in order; what is not UTF-8 is shown with U+FFFD.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let keys = self.core.store.bucket(bucket, |bucket| {
            let keys = bucket.objects.range::<[u8], _>((Bound::Included(prefix.as_bytes()), Bound::Unbounded)).map(|(key, _)| key);
            Ok(keys.take_while(|key| key.starts_with(prefix.as_bytes())).map(|key| String::from_utf8_lossy(key).into_owned()).collect())
        });
        keys.unwrap_or_default()
    }

    /// The unfinished uploads.
    pub fn uploads(&self, bucket: &str) -> Vec<StoredUpload> {
        let uploads = self.core.store.bucket(bucket, |bucket| {
            let one = |((key, id), upload): (&(Vec<u8>, String), &super::state::Upload)| StoredUpload {
                key: String::from_utf8_lossy(key).into_owned(),
                id: id.clone(),
                parts: upload.parts.iter().map(|(number, part)| (*number, part.content.len())).collect(),
            };
            Ok(bucket.uploads.iter().map(one).collect())
        });
        uploads.unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the emulator's thread has been printed already.
            drop(thread.join());
        }
    }
}

fn refused(failure: &Failure) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {}", failure.code, failure.message))
}

fn acceptor(tls: &Tls) -> io::Result<TlsAcceptor> {
    let invalid =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, format!("the certificate or its key: {error}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&tls.certificates).collect();
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|e| invalid(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(&e))?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(|e| invalid(&e))?, key)
        .map_err(|e| invalid(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
