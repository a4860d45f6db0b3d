//! Cleans up behind mounts of the same source that died.
//!
//! A dead mount leaves two kinds of things: on this host files of overflow that nobody will read, and in the bucket what its ledger names. They are
//! found in this mount's own staging directory, which may have been a dead one's, and in those beside it whose owner is gone: they are
//! adopted, which is to take their lock, so that of several new mounts one cleans up. Renames are ended, and promised deletes and attributes done, before programs can use the mount,
//! everything else behind it. What fails is said, stays in the ledger, and is tried again by the next mount. A read-only mount cleans up nothing.

use std::{io, path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};

use crate::data::Data;
use crate::local::{Disk, Entry, HostDisk, Ledger, Leftover};
use crate::store::Bucket;
use crate::support::{Clock, Ctx};
use crate::vfs;

/// What files of overflow are called.
const SPILL: &str = "spill-";
/// How long a request behind the mount waits without progress.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long the start of the mount waits, without progress, for a rename to be ended.
const STARTING: Duration = Duration::from_secs(20);
/// Things cleaned up at once.
const AT_ONCE: usize = 8;
/// Deletes and attributes done at once: the start waits for them.
const PROMISES: usize = 32;

/// What is to be cleaned up.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    entries: Vec<(Entry, Leftover)>,
    /// Files of overflow, by directory.
    spills: Vec<(Arc<HostDisk>, Vec<String>)>,
    /// Directories to be removed, with their ledgers.
    adopted: Vec<(Arc<HostDisk>, Arc<Ledger>)>,
}

/// The files of overflow in a directory that has just been opened: all of a dead mount.
pub(super) async fn stale_spills(disk: &HostDisk) -> io::Result<Vec<String>> {
    let mut names = disk.list().await?;
    names.retain(|name| name.starts_with(SPILL));
    Ok(names)
}

impl Leftovers {
    /// What was found in this mount's own directory.
    pub(super) fn new(entries: Vec<(Entry, Leftover)>, disk: Arc<HostDisk>, spills: Vec<String>) -> Self {
        Self { entries, spills: vec![(disk, spills)], adopted: Vec::new() }
    }

    /// Adds what is found below `parent` in directories of this name, a hyphen and a number, that belong to nobody.
    pub(super) async fn adopt(&mut self, parent: &Path, name: &str, identity: &str) {
        let found = HostDisk::adoptable(parent).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for what dead mounts left in {}", parent.display());
            Vec::new()
        });
        let of_this_source = |path: &&std::path::PathBuf| {
            let number = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name)?.strip_prefix('-'));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        for path in found.iter().filter(of_this_source) {
            // Somebody else may have been faster.
            let Ok(disk) = HostDisk::open(path) else { continue };
            let opened = async {
                let spills = stale_spills(&disk).await?;
                Ok::<_, anyhow::Error>((spills, Ledger::open(Arc::<HostDisk>::clone(&disk), identity).await?))
            };
            match opened.await {
                Ok((spills, (ledger, entries))) => {
                    self.entries.extend(entries);
                    self.spills.push((Arc::clone(&disk), spills));
                    self.adopted.push((disk, ledger));
                }
                Err(error) => tracing::warn!("what a dead mount left in {} cannot be read: {error:#}", path.display()),
            }
        }
    }

    /// Ends renames, so that no program sees both names, and does what programs were told is done.
    pub(super) async fn end_what_is_seen(&mut self, bucket: &Arc<dyn Bucket>, data: &Data, clock: &Arc<dyn Clock>) {
        let (mut renames, mut promises, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, leftover) in std::mem::take(&mut self.entries) {
            match leftover {
                Leftover::Move { .. } | Leftover::Tree { .. } => renames.push((entry, leftover)),
                Leftover::Delete(_) | Leftover::Attributes { .. } => promises.push((entry, leftover)),
                Leftover::Upload { .. } | Leftover::Helper { .. } => others.push((entry, leftover)),
            }
        }
        self.entries = others;
        for (entry, leftover) in renames {
            clean_up(&Ctx::new(Arc::clone(clock), STARTING, 0, 0), bucket, data, entry, &leftover).await;
        }
        // One deadline for all: without a network the mount does not wait for each.
        let cx = &Ctx::new(Arc::clone(clock), STARTING, 0, 0);
        let promises = stream::iter(promises);
        promises.for_each_concurrent(PROMISES, |(entry, leftover)| async move { clean_up(cx, bucket, data, entry, &leftover).await }).await;
    }

    /// Cleans up everything else.
    pub(super) async fn clean_up(self, bucket: Arc<dyn Bucket>, data: Arc<Data>, clock: Arc<dyn Clock>) {
        let Self { entries, spills, adopted } = self;
        for (disk, names) in spills {
            for name in names {
                if let Err(error) = disk.remove(&name).await {
                    tracing::warn!(%error, name, "a dead mount's file in {} stays", disk.path().display());
                }
            }
        }
        let (bucket, data, clock) = (&bucket, &data, &clock);
        stream::iter(entries)
            .for_each_concurrent(AT_ONCE, |(entry, leftover)| async move {
                clean_up(&Ctx::background(Arc::clone(clock), PATIENCE), bucket, data, entry, &leftover).await;
            })
            .await;
        for (disk, ledger) in adopted {
            ledger.end().await;
            if let Err(error) = disk.retire() {
                tracing::debug!(%error, "{} stays", disk.path().display());
            }
        }
    }
}

async fn clean_up(cx: &Ctx, bucket: &Arc<dyn Bucket>, data: &Data, entry: Entry, leftover: &Leftover) {
    match vfs::recover(cx, bucket, data, leftover).await {
        Ok(()) => {
            cx.progressed();
            tracing::info!(?leftover, "cleaned up behind a mount that died");
            entry.settled_for_good().await;
        }
        Err(error) => tracing::error!(%error, ?leftover, "cannot clean up behind a mount that died; the next mount tries again"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data;
    use crate::store::{CommitToken, Key, Meta, memory::MemoryBucket};
    use crate::support::{Budget, ByteSize, Metrics, SystemClock, TaskGroup};

    #[tokio::test]
    async fn directories_of_dead_mounts_of_the_same_source_are_adopted() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let memory = MemoryBucket::new(Arc::clone(&clock));
        let bucket: Arc<dyn Bucket> = Arc::<MemoryBucket>::clone(&memory);
        let parent = tempfile::tempdir().unwrap();
        let directory = |name: &str| parent.path().join(name);
        let cx = Ctx::background(Arc::clone(&clock), PATIENCE);
        let mut living = Vec::new();
        for (name, lives) in [("a-0", false), ("a-1", true), ("a-2", false), ("b-0", false)] {
            let disk = HostDisk::open(&directory(name)).unwrap();
            let (ledger, _) = Ledger::open(Arc::<HostDisk>::clone(&disk), &name[..1]).await.unwrap();
            let meta = Meta { token: Some(CommitToken::from_bytes([1; 16])), ..Meta::default() };
            let upload = bucket.create_upload(&cx, &Key::new(name), &meta).await.unwrap();
            let noted = ledger.note(Leftover::Upload { key: name.to_owned(), id: upload.id.0.to_string() }).await.unwrap();
            disk.create(&format!("{SPILL}1")).await.unwrap();
            if lives {
                living.push((noted, ledger, disk));
            }
        }

        let mut leftovers = Leftovers::default();
        leftovers.adopt(parent.path(), "a", "a").await;
        let tasks = Arc::new(TaskGroup::new(tokio::runtime::Handle::current()));
        let budget = Budget::new(ByteSize::mib(64));
        let data = Data::new(data::Config::default(), budget, None, None, Arc::clone(&clock), tasks, &Metrics::default());
        leftovers.clean_up(Arc::clone(&bucket), data, clock).await;
        let mut open: Vec<_> = memory.open_uploads().into_iter().map(|upload| upload.key.as_str().to_owned()).collect();
        open.sort();
        assert_eq!(open, ["a-1", "b-0"], "the living one's and the other source's stay");
        let mut left: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a-1", "b-0"]);
        assert!(directory("b-0").join(format!("{SPILL}1")).exists());
    }
}
