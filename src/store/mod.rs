//! Objects: typed requests to a bucket; signing, retries, XML, limits.
//!
//! [`Service`] and [`Bucket`] are the seam for dialects: small, no default methods, every call takes the context. `cos` is Tencent's dialect,
//! `memory` a simulated one for tests. The stack over a dialect is `retry(limit(meter(dialect)))`: each attempt is signed anew, waits its turn
//! and is counted, so the counted cost is the real cost.
//!
//! Guarantees
//! - S1: a call ends *done*, *not done* or *unknown*; a repeat that could do harm is never made.
//! - S2: bytes handed up are of the version and range asked for, or the call fails.
//! - S3: every wait ends by the context's deadline; every error names operation, key, status, COS code, request id and tries.
//! - S4: no secret in any `Debug`, log or error.
//! - S5: an unknown outcome can be settled: what we made carries our token, what we delete or replace is named by version.

mod access;
mod attempt;
mod capabilities;
mod certificate;
mod checksum;
pub mod cos;
mod error;
mod http;
pub mod memory;
mod operation;
pub mod probe;
mod proxy;
mod types;
mod way;
mod wrap;
mod xml;

use std::{fmt::Debug, ops::Range, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use wrap::{fault, limit, meter, retry};

use crate::support::{Clock, Ctx, Metrics};

pub use access::ACCESS;
pub use capabilities::{Capabilities, Versioning};
pub use error::{Error, Kind, Outcome};
pub use operation::Operation;
pub use proxy::Proxies;
pub use types::{
    Acl, Body, BucketInfo, BucketName, CommitToken, ETag, Grant, Head, Key, ListRequest, Listed, Meta, ObjectVersion, OpenUpload, Page,
    Part, PartNumber, Payload, Replaces, Segment, Source, Sse, Stored, Tags, Upload, UploadId, VersionId,
};
#[cfg(any(test, fuzzing))]
pub(crate) use {certificate::fuzz as fuzz_certificate, proxy::fuzz as fuzz_proxies};

pub(crate) use checksum::combine as combine_crc64;
pub use way::Way;
pub use wrap::fault::{Fault, Faults};

/// What a store call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// The account: its buckets.
#[async_trait]
pub trait Service: Debug + Send + Sync {
    /// All buckets that the credentials may see, paging done.
    async fn buckets(&self, cx: &Ctx) -> Result<Vec<BucketInfo>>;

    /// Connects to a bucket with one signed request, which tells its region, kind and versioning.
    async fn open(&self, cx: &Ctx, name: &BucketName) -> Result<Arc<dyn Bucket>>;

    /// Makes a private bucket.
    async fn create_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()>;

    /// Removes an empty bucket.
    async fn delete_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()>;
}

/// One bucket.
#[async_trait]
pub trait Bucket: Debug + Send + Sync {
    /// The bucket's name.
    fn name(&self) -> &BucketName;

    /// What this bucket and its dialect can do.
    fn capabilities(&self) -> &Capabilities;

    /// Everything an object carries but its bytes. [`Kind::NotFound`] only when the store itself said so (404 with a request id).
    async fn head(&self, cx: &Ctx, key: &Key) -> Result<Head>;

    /// The bytes of exactly this version in `range` (not empty, within `0..size`), as a stream that resumes a cut body by itself.
    /// [`Kind::Precondition`] when the key holds another version now. A read of the whole object is checked against its CRC-64.
    async fn get(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body>;

    /// One page of keys in byte order.
    async fn list(&self, cx: &Ctx, request: &ListRequest) -> Result<Page>;

    /// The object's own grants.
    async fn acl(&self, cx: &Ctx, key: &Key) -> Result<Acl>;

    /// The object's tags; none set is an empty list.
    async fn tags(&self, cx: &Ctx, key: &Key) -> Result<Tags>;

    /// Makes an object whole. `meta` must carry a commit token.
    async fn put(&self, cx: &Ctx, key: &Key, meta: &Meta, payload: Payload, replaces: &Replaces) -> Result<Stored>;

    /// Makes `to` from `source`, pinned to its ETag, with exactly `meta` (nothing is inherited but tags, where `meta.tags` is `None`).
    /// Up to [`Capabilities::largest_copy`]. `to` may be the source's own key.
    async fn copy(&self, cx: &Ctx, source: &ObjectVersion, to: &Key, meta: &Meta, replaces: &Replaces) -> Result<Stored>;

    /// Removes the object. With `expected`, a lost answer is repeated only while HEAD still shows that version.
    async fn delete(&self, cx: &Ctx, key: &Key, expected: Option<&ObjectVersion>) -> Result<()>;

    /// Removes up to [`Capabilities::delete_batch`] objects in one request; returns those that were refused. A lost answer is repeated for those
    /// that HEAD still shows in the version given here; what is newer stays.
    async fn delete_many(&self, cx: &Ctx, versions: &[ObjectVersion]) -> Result<Vec<(Key, Error)>>;

    /// Opens a multipart upload; all metadata is fixed here.
    async fn create_upload(&self, cx: &Ctx, key: &Key, meta: &Meta) -> Result<Upload>;

    /// Sends one part; repeats replace it.
    async fn upload_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, payload: Payload) -> Result<Part>;

    /// Makes one part of a range of `source` (not empty), pinned to its ETag, on the server.
    async fn copy_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, source: &ObjectVersion, range: Range<u64>) -> Result<Part>;

    /// Makes the object from `parts`, which are numbered 1..N in order. An unknown outcome is settled by the token sent at [`Bucket::create_upload`].
    async fn complete_upload(&self, cx: &Ctx, upload: &Upload, parts: &[Part], replaces: &Replaces) -> Result<Stored>;

    /// Drops an upload and its parts; one that is gone already is success.
    async fn abort_upload(&self, cx: &Ctx, upload: &Upload) -> Result<()>;

    /// Open uploads whose key begins with `prefix`, paging done.
    async fn list_uploads(&self, cx: &Ctx, prefix: &str) -> Result<Vec<OpenUpload>>;

    /// The parts an open upload has, paging done.
    async fn list_parts(&self, cx: &Ctx, upload: &Upload) -> Result<Vec<Part>>;
}

/// What a COS account is reached with.
#[derive(Debug)]
pub struct CosConfig {
    /// Where buckets and the account are: [`cos::Endpoints::parse`].
    pub endpoints: cos::Endpoints,
    /// Who signs: [`cos::open_credentials`], or [`cos::Fixed`].
    pub credentials: Arc<dyn cos::Provider>,
    /// A PEM file of authorities trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Most requests in flight, over all buckets.
    pub connections: usize,
    /// Whether what is late is asked for twice.
    pub hedging: bool,
    /// What one request and one upload may have: [`Capabilities::cos`], but for tests with an emulator of other limits.
    pub limits: Capabilities,
}

impl CosConfig {
    /// How many requests are in flight unless said otherwise.
    pub const CONNECTIONS: usize = 64;
}

/// A COS account with everything around it: `retry(limit(meter(cos)))`. Sends nothing yet. Must be called within a tokio runtime if requests
/// are to be made on it.
///
/// # Errors
/// A sentence about the CA file or the TLS set-up.
pub fn open_cos(config: CosConfig, metrics: &Metrics, clock: Arc<dyn Clock>) -> std::result::Result<Arc<dyn Service>, String> {
    let CosConfig { endpoints, credentials, ca_file, connections, hedging, limits } = config;
    let dialect = cos::CosService::new(endpoints, credentials, ca_file.as_deref(), limits, Arc::clone(&clock))?;
    let hedged = hedging.then(|| (metrics.counter("hedged_gets"), metrics.counter("hedged_gets_won")));
    Ok(wrapped(Arc::new(dialect), connections, metrics, retry::Setup { clock, hedged }))
}

/// Any dialect with everything around it, and below it the faults of a test.
pub fn stack(
    dialect: Arc<dyn Service>,
    connections: usize,
    metrics: &Metrics,
    clock: Arc<dyn Clock>,
    faults: Option<Arc<Faults>>,
) -> Arc<dyn Service> {
    let dialect = match faults {
        Some(faults) => Arc::new(fault::Faulty::<dyn Service>::new(dialect, faults)),
        None => dialect,
    };
    wrapped(dialect, connections, metrics, retry::Setup { clock, hedged: None })
}

fn wrapped(dialect: Arc<dyn Service>, connections: usize, metrics: &Metrics, setup: retry::Setup) -> Arc<dyn Service> {
    let metered: Arc<dyn Service> = Arc::new(meter::Meter::<dyn Service>::new(dialect, meter::Counts::new(metrics)));
    let places = limit::Places::new(connections, Arc::clone(&setup.clock));
    let limited: Arc<dyn Service> = Arc::new(limit::Limit::<dyn Service>::new(metered, places));
    Arc::new(retry::Retry::<dyn Service>::new(limited, setup))
}
