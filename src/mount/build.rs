//! Builds the rooms, from the lowest up, and hands each what it needs.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use nix::{sys::statvfs::statvfs, unistd::gethostname};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::data::{self, Data};
use crate::fuse::KernelNotify;
use crate::local::{Disk, HostDisk, Ledger, OpenError};
use crate::mount::leftovers::{Leftovers, stale_spills};
use crate::mount::settings::{Access, Settings, Source, Staging};
use crate::store::cos::{Endpoints, NoCredentials, Provider, open_credentials};
use crate::store::{self, Bucket, BucketName, CosConfig, Kind, Service, Versioning};
use crate::support::{Budget, ByteSize, Clock, Ctx, Metrics, SystemClock, TaskGroup};
use crate::vfs::{self, Vfs};

/// Threads of the runtime. Network and encryption fill two cores; more gained nothing (measured).
const WORKERS: usize = 2;
/// Staging may take this part of its disk unless told otherwise.
const STAGING_SHARE: u64 = 10;
/// Mounts of one bucket by one user on one host, each with a staging directory of its own.
const MOST_SIBLINGS: u32 = 256;

/// All rooms of one mount, running and not yet mounted.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) runtime: Runtime,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Arc<TaskGroup>,
    pub(super) staging: Option<Arc<HostDisk>>,
    pub(super) ledger: Option<Arc<Ledger>>,
    /// What earlier mounts of the same source left.
    pub(super) leftovers: Leftovers,
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) data: Arc<Data>,
    pub(super) notify: KernelNotify,
    pub(super) vfs: Arc<Vfs>,
}

/// Builds the rooms. One signed request goes to the bucket, so that wrong credentials, names and networks are known before anything is mounted.
///
/// # Errors
/// A paragraph for the user.
pub(super) fn build(settings: &Settings) -> anyhow::Result<Rooms> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::default();
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("cosmount").enable_all().build()?;
    let tasks = Arc::new(TaskGroup::new(runtime.handle().clone()));
    // First, because a directory that another mount has is known at once, and a slow network is not.
    let staging = open_staging(settings)?;
    let bucket = match connect(settings, &runtime, &clock, &metrics) {
        Ok(bucket) => bucket,
        Err(error) => {
            // An empty directory is nothing to leave behind; one that stays harms nobody.
            drop(staging.map(|disk| disk.retire()));
            return Err(error);
        }
    };
    let (ledger, leftovers) = runtime.block_on(open_ledgers(settings, staging.as_ref()))?;
    let budget = Budget::new(settings.memory_limit);
    let notify = KernelNotify::new();
    let context = runtime.enter();
    let data = Data::new(
        data::Config { staging_limit: staging_limit(settings, staging.as_deref())?, ..settings.data.clone() },
        budget.clone(),
        staging.clone().map(|disk| disk as Arc<dyn Disk>),
        ledger.clone(),
        Arc::clone(&clock),
        Arc::clone(&tasks),
        &metrics,
    );
    let vfs = Vfs::new(
        vfs::Config { prefix: settings.source.prefix.clone(), mount_id: mount_id(&*clock), ..settings.vfs.clone() },
        Arc::clone(&bucket),
        Arc::clone(&data),
        ledger.clone(),
        Arc::new(notify.clone()),
        budget,
        Arc::clone(&clock),
        Arc::clone(&tasks),
        &metrics,
    );
    drop(context);
    Ok(Rooms { runtime, clock, tasks, staging, ledger, leftovers, bucket, data, notify, vfs })
}

/// The bucket, after one signed request.
fn connect(settings: &Settings, runtime: &Runtime, clock: &Arc<dyn Clock>, metrics: &Metrics) -> anyhow::Result<Arc<dyn Bucket>> {
    let _context = runtime.enter();
    let source = &settings.source;
    let Account { service, credentials } = account(&settings.store, Some(&source.bucket), metrics, clock)?;
    // A request would wait for whoever has them; a person is told.
    runtime.block_on(credentials.credentials()).map_err(|why| no_credentials(&why))?;
    let cx = Ctx::new(Arc::clone(clock), settings.io_timeout.min(STARTING), 0, 0);
    let bucket = runtime.block_on(service.open(&cx, &source.bucket)).map_err(|error| cannot_open(source, error))?;
    if bucket.capabilities().versioning != Versioning::Never {
        tracing::warn!(
            "{} has or had versioning: COS then ignores forbid-overwrite, so a file created here and elsewhere at the same moment is replaced",
            source.bucket
        );
    }
    Ok(bucket)
}

/// How long the first request may take: a person waits for it.
const STARTING: Duration = Duration::from_secs(30);

/// An account, and who signs for it.
#[derive(Debug)]
pub struct Account {
    /// Its buckets.
    pub service: Arc<dyn Service>,
    /// Who signs.
    pub credentials: Arc<dyn Provider>,
}

/// The account, as `access` reaches it, for work on `bucket`. Sends nothing yet. Must be called within a tokio runtime.
///
/// # Errors
/// A sentence about an endpoint, the credentials that were chosen, the CA file or TLS.
pub fn account(access: &Access, bucket: Option<&BucketName>, metrics: &Metrics, clock: &Arc<dyn Clock>) -> anyhow::Result<Account> {
    let endpoints = Endpoints::parse(access.region.as_deref(), &access.endpoints, access.path_style).map_err(anyhow::Error::msg)?;
    let credentials = open_credentials(&access.credentials, bucket, &endpoints, access.ca_file.as_deref(), clock)?;
    let config =
        CosConfig { endpoints, credentials: Arc::clone(&credentials), ca_file: access.ca_file.clone(), connections: access.connections };
    let service = store::open_cos(config, metrics, Arc::clone(clock)).map_err(anyhow::Error::msg)?;
    Ok(Account { service, credentials })
}

/// The paragraph a person gets without credentials.
fn no_credentials(why: &NoCredentials) -> anyhow::Error {
    let advice = "`cosmount credentials check` says which source is used, and --credentials names one (docs/credentials.md)";
    anyhow::anyhow!("no credentials: {why}: {advice}")
}

/// The paragraph a person gets whose bucket cannot be opened.
fn cannot_open(source: &Source, error: store::Error) -> anyhow::Error {
    let advice = match error.kind() {
        Kind::NoSuchBucket | Kind::NotFound => "check the bucket's name, its APPID and its region (--region)",
        Kind::Denied => {
            "check the credentials: they need HeadBucket, GetBucket, GetObject, HeadObject, PutObject and DeleteObject on this bucket"
        }
        Kind::Expired => "the temporary credentials have expired: get new ones (`cosmount credentials check` says where they are from)",
        Kind::Unavailable | Kind::NoProgress => "check the network, --endpoint and --region; behind a private endpoint also --ca-file",
        Kind::Throttled => "COS asks for fewer requests: try again later",
        _ => "the request id helps Tencent's support",
    };
    anyhow::anyhow!("cannot open {source}: {error}: {advice}")
}

/// Opens the staging directory. Without an option each mount has one of its own, named by what it mounts, so that the next mount of the same
/// finds what a dead one left.
fn open_staging(settings: &Settings) -> anyhow::Result<Option<Arc<HostDisk>>> {
    match &settings.staging {
        Staging::None => {
            tracing::warn!(
                "no staging: what cannot be sent stays in memory, and what a crash leaves in the bucket (open uploads, objects of open files, half of a rename) stays there"
            );
            Ok(None)
        }
        Staging::In(path) => Ok(Some(HostDisk::open(path)?)),
        Staging::Below(parent) => {
            let name = staging_name(settings);
            for sibling in 0..MOST_SIBLINGS {
                match HostDisk::open(&parent.join(format!("{name}-{sibling}"))) {
                    Err(OpenError::InUse { .. }) => {}
                    other => return Ok(Some(other.context("the staging directory; --staging names another one")?)),
                }
            }
            bail!("{MOST_SIBLINGS} mounts of {} by this user are running; name a directory with --staging", settings.source)
        }
    }
}

/// Opens the ledger of this mount, and those of dead mounts of the same source in directories beside it.
async fn open_ledgers(settings: &Settings, staging: Option<&Arc<HostDisk>>) -> anyhow::Result<(Option<Arc<Ledger>>, Leftovers)> {
    let Some(disk) = staging else { return Ok((None, Leftovers::default())) };
    let identity = identity(settings);
    let context = || format!("the staging directory {}; --staging names another one", disk.path().display());
    let spills = stale_spills(disk).await.with_context(context)?;
    let (ledger, entries) = Ledger::open(Arc::<HostDisk>::clone(disk), &identity).await.with_context(context)?;
    let mut leftovers = Leftovers::new(entries, Arc::clone(disk), spills);
    if let Staging::Below(parent) = &settings.staging {
        let name = staging_name(settings);
        leftovers.adopt(parent, &name, &identity).await;
    }
    Ok((Some(ledger), leftovers))
}

/// What makes two mounts mounts of the same source: only then may one clean up behind the other.
fn identity(settings: &Settings) -> String {
    let Settings { source, store, .. } = settings;
    let region = store.region.as_deref().unwrap_or_default();
    // Who hands out credentials does not change what is mounted.
    let other = |endpoint: &&String| !endpoint.starts_with("metadata=") && !endpoint.starts_with("sts=");
    let endpoints = store.endpoints.iter().filter(other).map(String::as_str).collect::<Vec<_>>();
    format!("{}\n{}\n{region}\n{}", source.bucket, source.prefix, endpoints.join("\n"))
}

/// A hash, never a name from outside: it becomes a part of a path.
fn staging_name(settings: &Settings) -> String {
    Sha256::digest(identity(settings)).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

fn staging_limit(settings: &Settings, disk: Option<&HostDisk>) -> anyhow::Result<ByteSize> {
    if let Some(limit) = settings.staging_limit {
        return Ok(limit);
    }
    disk.map_or(Ok(ByteSize(0)), |disk| tenth_of(disk.path()))
}

fn tenth_of(path: &Path) -> anyhow::Result<ByteSize> {
    let disk = statvfs(path)?;
    Ok(ByteSize(disk.blocks().saturating_mul(disk.fragment_size()) / STAGING_SHARE))
}

/// Host, start and process: unique among mounts of a bucket, and of some use to who finds it in a helper object's name.
fn mount_id(clock: &dyn Clock) -> String {
    let host = gethostname().unwrap_or_default();
    let host: String = host.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let start = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{host}-{start}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_id_is_a_plain_word() {
        let id = mount_id(&SystemClock);
        assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{id}");
        assert!(id.ends_with(&std::process::id().to_string()));
    }
}
