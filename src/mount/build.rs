//! Builds the rooms, from the lowest up, and hands each what it needs.

use std::{
    collections::HashSet,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context;
use nix::{sys::statvfs::statvfs, unistd::gethostname};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::data::{self, Data};
use crate::fuse::KernelNotify;
use crate::local::{Disk, HostDisk, Ledger, Leftover, OpenError};
use crate::mount::advice::{self, Fault};
use crate::mount::leftovers::{Leftovers, stale_spills};
use crate::mount::settings::{Access, Settings, Source, Staging};
use crate::store::cos::{Endpoints, NoCredentials, Provider, open_credentials};
use crate::store::{self, Bucket, BucketName, CosConfig, Kind, ListRequest, Service, Versioning, Way};
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
    pub(super) budget: Budget,
    pub(super) metrics: Arc<Metrics>,
}

/// Builds the rooms. One signed request goes to the bucket, so that wrong credentials, names and networks are known before anything is mounted.
///
/// # Errors
/// A paragraph for the user.
pub(super) fn build(settings: &Settings) -> anyhow::Result<Rooms> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::default());
    let runtime = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("cosmount").enable_all().build()?;
    let tasks = Arc::new(TaskGroup::new(runtime.handle().clone()));
    // First, because a directory that another mount has is known at once, and a slow network is not.
    let staging = open_staging(settings)?;
    let opened = runtime.block_on(async {
        let bucket = connect(settings, &clock, &metrics).await?;
        Ok((bucket, open_ledgers(settings, staging.as_ref()).await?))
    });
    let (bucket, (ledger, leftovers)) = opened.inspect_err(|_: &anyhow::Error| retire(staging.as_ref()))?;
    let budget = Budget::new(settings.memory_limit);
    let notify = KernelNotify::new();
    let context = runtime.enter();
    let (prefix, mount_id) = (settings.source.prefix.clone(), mount_id(&*clock));
    let zeros = Some(vfs::zeros_prefix(&prefix, &mount_id));
    let data = Data::new(
        data::Config { staging_limit: staging_limit(settings, staging.as_deref())?, zeros, ..settings.data.clone() },
        budget.clone(),
        staging.clone().map(|disk| disk as Arc<dyn Disk>),
        ledger.clone(),
        Arc::clone(&clock),
        Arc::clone(&tasks),
        &metrics,
    );
    let vfs = Vfs::new(
        vfs::Config { prefix, mount_id, ..settings.vfs.clone() },
        Arc::clone(&bucket),
        Arc::clone(&data),
        ledger.clone(),
        Arc::new(notify.clone()),
        budget.clone(),
        Arc::clone(&clock),
        Arc::clone(&tasks),
        &metrics,
    );
    drop(context);
    Ok(Rooms { runtime, clock, tasks, staging, ledger, leftovers, bucket, data, notify, vfs, budget, metrics })
}

impl Rooms {
    /// For a mount that fails after all: leaves nothing of this one behind, and what others left as it was.
    pub(super) fn abandon(self) {
        let Self { runtime, staging, ledger, leftovers, vfs, data, .. } = self;
        drop((leftovers, vfs, data));
        if let Some(ledger) = ledger {
            runtime.block_on(ledger.end());
        }
        runtime.shutdown_timeout(Duration::from_secs(1));
        retire(staging.as_ref());
    }
}

/// An empty directory is nothing to leave behind; one that stays harms nobody.
fn retire(staging: Option<&Arc<HostDisk>>) {
    if let Some(Err(error)) = staging.map(|disk| disk.retire()) {
        tracing::debug!(%error, "the staging directory stays");
    }
}

/// The bucket, after it has answered: it is there, and what is to be mounted may be listed.
async fn connect(settings: &Settings, clock: &Arc<dyn Clock>, metrics: &Metrics) -> anyhow::Result<Arc<dyn Bucket>> {
    let source = &settings.source;
    let Account { service, credentials } = account(&settings.store, Some(&source.bucket), metrics, clock)?;
    // A request would wait for whoever has them; a person is told.
    credentials.credentials().await.map_err(|why| no_credentials(&why))?;
    let patience = settings.io_timeout.min(STARTING);
    let look = |patience| {
        let (cx, service) = (Ctx::new(Arc::clone(clock), patience, 0, 0), Arc::clone(&service));
        async move {
            let bucket = service.open(&cx, &source.bucket).await?;
            // Names are looked up in listings: without this right nothing would work, and each program would say so in its own way.
            bucket.list(&cx, &ListRequest { prefix: source.prefix.clone(), delimited: true, after: None, limit: Some(1) }).await?;
            Ok(bucket)
        }
    };
    // A network that is just coming up is waited for, a certificate that is not the right one is not.
    let bucket = match look(patience.min(GLANCE)).await {
        Err(error) if is_worth_waiting(&error) && patience > GLANCE => look(patience - GLANCE).await,
        looked => looked,
    };
    let bucket = match bucket {
        Ok(bucket) => bucket,
        Err(error) => return Err(cannot_open(source, &error, elsewhere(&service, settings, &error, clock).await)),
    };
    if bucket.capabilities().versioning != Versioning::Never {
        tracing::warn!(
            "{} has or had versioning: COS then ignores forbid-overwrite, so a file created here and elsewhere at the same moment is replaced",
            source.bucket
        );
    }
    Ok(bucket)
}

/// How long the first answer may take: a person waits for it.
const STARTING: Duration = Duration::from_secs(30);
/// After so long without an answer is looked whether waiting makes sense.
const GLANCE: Duration = Duration::from_secs(3);

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
    let config = CosConfig {
        endpoints: endpoints.through(access.proxies.clone()),
        credentials: Arc::clone(&credentials),
        ca_file: access.ca_file.clone(),
        connections: access.connections,
        hedging: access.hedging,
        limits: access.limits.clone(),
    };
    let service = store::open_cos(config, metrics, Arc::clone(clock)).map_err(anyhow::Error::msg)?;
    Ok(Account { service, credentials })
}

/// What a person is told without credentials.
fn no_credentials(why: &NoCredentials) -> anyhow::Error {
    let remedy = "`cosmount credentials check` says which source is used, and --credentials names one (docs/credentials.md)";
    Fault::new(format!("no credentials: {why}"), remedy).into()
}

fn is_worth_waiting(error: &store::Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Throttled | Kind::NoProgress | Kind::Corrupt)
        && !error.way().is_some_and(Way::is_settled)
}

/// The region that the account's list has the bucket in, if it was not found and that is another than the one it was looked for in.
pub async fn elsewhere(service: &Arc<dyn Service>, settings: &Settings, error: &store::Error, clock: &Arc<dyn Clock>) -> Option<String> {
    let looked = settings.store.region.as_deref()?;
    let moved = error.status().is_some_and(|status| (300..400).contains(&status));
    if error.kind() != Kind::NoSuchBucket && !moved {
        return None;
    }
    let cx = Ctx::new(Arc::clone(clock), GLANCE.min(settings.io_timeout), 0, 0);
    let buckets = service.buckets(&cx).await.ok()?;
    let found = buckets.into_iter().find(|info| info.name == settings.source.bucket)?;
    (found.region != looked).then_some(found.region)
}

/// The paragraph a person gets whose bucket cannot be opened.
fn cannot_open(source: &Source, error: &store::Error, elsewhere: Option<String>) -> anyhow::Error {
    let remedy = elsewhere.map_or_else(|| advice::for_error(source, error), |region| advice::for_region(&region));
    Fault::new(error.to_string(), remedy).into()
}

/// Opens the staging directory. Without an option each mount has one of its own, named by what it mounts, so that the next mount of the same
/// finds what a dead one left.
pub(super) fn open_staging(settings: &Settings) -> anyhow::Result<Option<Arc<HostDisk>>> {
    match &settings.staging {
        Staging::None => {
            tracing::warn!(
                "no staging: what cannot be sent stays in memory, and what a crash leaves in the bucket (open uploads, objects of open files, half of a rename) stays there"
            );
            Ok(None)
        }
        Staging::In(path) => open_disk(path).map(Some).map_err(bad_staging),
        Staging::Below(parent) => {
            let name = staging_name(&settings.source, &settings.store);
            for sibling in 0..MOST_SIBLINGS {
                match open_disk(&parent.join(format!("{name}-{sibling}"))) {
                    Err(OpenError::InUse { .. }) => {}
                    other => return other.map(Some).map_err(bad_staging),
                }
            }
            Err(Fault::new(
                format!("{MOST_SIBLINGS} mounts of {} by this user are running", settings.source),
                "unmount some, or name a directory with --staging",
            )
            .into())
        }
    }
}

fn bad_staging(error: OpenError) -> anyhow::Error {
    Fault::new(format!("the staging directory cannot be used: {error}"), advice::for_staging(&error)).into()
}

/// Below this much room on its disk nothing can be staged, and not even the ledger be kept.
const LEAST_ROOM: ByteSize = ByteSize::mib(1);

/// Opens a directory that has room.
fn open_disk(path: &Path) -> Result<Arc<HostDisk>, OpenError> {
    if room(path).is_ok_and(|room| room < LEAST_ROOM) {
        return Err(OpenError::Io { path: path.to_owned(), source: io::ErrorKind::StorageFull.into() });
    }
    HostDisk::open(path)
}

/// What may still be written there, or where it would be made.
pub(super) fn room(path: &Path) -> nix::Result<ByteSize> {
    let disk = statvfs(path.ancestors().find(|path| path.exists()).unwrap_or(path))?;
    Ok(ByteSize(disk.blocks_available().saturating_mul(disk.fragment_size())))
}

/// Opens the ledger of this mount, and those of dead mounts of the same source in directories beside it.
async fn open_ledgers(settings: &Settings, staging: Option<&Arc<HostDisk>>) -> anyhow::Result<(Option<Arc<Ledger>>, Leftovers)> {
    let Some(disk) = staging else { return Ok((None, Leftovers::default())) };
    let identity = identity(&settings.source, &settings.store);
    let context = || format!("the staging directory {}; --staging names another one", disk.path().display());
    let spills = stale_spills(disk).await.with_context(context)?;
    let (ledger, entries) = Ledger::open(Arc::<HostDisk>::clone(disk), &identity).await.with_context(context)?;
    let mut leftovers = Leftovers::new(entries, Arc::clone(disk), spills);
    if let Staging::Below(parent) = &settings.staging {
        let name = staging_name(&settings.source, &settings.store);
        leftovers.adopt(parent, &name, &identity).await;
    }
    Ok((Some(ledger), leftovers))
}

/// Keys and ids of the uploads that mounts of this source on this host have noted as theirs, living ones and dead ones.
///
/// # Errors
/// A ledger is there and cannot be read.
pub fn noted_uploads(source: &Source, access: &Access, staging: &Staging) -> anyhow::Result<HashSet<(String, String)>> {
    let directories = match staging {
        Staging::None => Vec::new(),
        Staging::In(path) => vec![path.clone()],
        Staging::Below(parent) => {
            let name = staging_name(source, access);
            (0..MOST_SIBLINGS).map(|sibling| parent.join(format!("{name}-{sibling}"))).collect()
        }
    };
    let identity = identity(source, access);
    let mut noted = HashSet::new();
    for directory in directories {
        let entries = Ledger::peek(&directory, &identity).with_context(|| format!("the ledger in {}", directory.display()))?;
        noted.extend(entries.into_iter().filter_map(|entry| match entry {
            Leftover::Upload { key, id } => Some((key, id)),
            _ => None,
        }));
    }
    Ok(noted)
}

/// What makes two mounts mounts of the same source: only then may one clean up behind the other.
fn identity(source: &Source, store: &Access) -> String {
    let region = store.region.as_deref().unwrap_or_default();
    // Who hands out credentials does not change what is mounted.
    let other = |endpoint: &&String| !endpoint.starts_with("metadata=") && !endpoint.starts_with("sts=");
    let endpoints = store.endpoints.iter().filter(other).map(String::as_str).collect::<Vec<_>>();
    format!("{}\n{}\n{region}\n{}", source.bucket, source.prefix, endpoints.join("\n"))
}

/// A hash, never a name from outside: it becomes a part of a path.
fn staging_name(source: &Source, store: &Access) -> String {
    Sha256::digest(identity(source, store)).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn staging_limit(settings: &Settings, disk: Option<&HostDisk>) -> anyhow::Result<ByteSize> {
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
