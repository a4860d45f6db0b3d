//! Open files survive the removal or replacement of their object (V6), and so do copies of it that are not committed yet.
//!
//! Before this mount deletes or overwrites an object whose inode is open here, or of which a file refers to a range (`copy.rs`), its bytes are secured: what
//! is fully local needs nothing; up to 64 MiB the rest is fetched; else a server-side copy under `PREFIX/.cosmount/open/<mount id>/` becomes the file's base and goes when neither it nor anybody's copy needs it, at the end of the mount,
//! or, after a crash, at the next mount: it is in the ledger before it is made.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};

use crate::data;

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{Key, Kind, Meta, ObjectVersion, Replaces, Versioning};

use crate::support::Ctx;

use crate::vfs::{Ino, Result, Vfs, handles::OpenFile, keymap::RESERVED, pending::settled};

/// Up to this size an open file's rest is fetched rather than copied on the server.
const LARGEST_FETCHED: u64 = 64 << 20;
/// How long a deletion waits without progress.
const PATIENCE: Duration = Duration::from_secs(90);

/// The object that keeps an open file's bytes.
#[derive(Debug)]
pub(super) struct Helper {
    version: ObjectVersion,
    /// Its entry in the ledger.
    noted: Option<Entry>,
}

impl Vfs {
    /// Makes the open file of `ino`, if there is one, and files that refer to its object independent of that. The inode is claimed.
    pub(super) async fn secure(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        let (file, origin) = {
            let names = self.names.lock();
            let Some(node) = names.tree.node(ino) else { return Ok(()) };
            let file = names.open.get(&ino).filter(|_| node.opens > 0).map(|open| Arc::clone(&open.file));
            (file, node.facts.origin.clone())
        };
        if let Some(origin) = origin {
            self.secure_lent(cx, ino, &origin).await?;
        }
        let Some(file) = file else { return Ok(()) };
        let Some(base) = file.base().filter(|_| !file.is_local()) else { return Ok(()) };
        if base.version_id.is_some() && self.bucket.capabilities().versioning == Versioning::Enabled {
            // The version stays readable by its id.
            return Ok(());
        }
        if base.size <= LARGEST_FETCHED {
            match file.localise(cx).await {
                Ok(()) => return Ok(()),
                Err(data::Error::NoRoom) => {}
                // Somebody else was faster: the bytes are gone already, and reads of them will say so.
                Err(data::Error::Stale) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(helper) = self.copy_aside(cx, &format!("{:016x}", ino.0), &base).await? {
            file.rebase(helper.version.clone());
            if let Some(open) = self.names.lock().open.get_mut(&ino) {
                open.helper = Some(helper);
            }
        }
        Ok(())
    }

    /// The same for what files refer to of `version`, the object of `ino`.
    async fn secure_lent(self: &Arc<Self>, cx: &Ctx, ino: Ino, version: &ObjectVersion) -> Result<()> {
        let lent = self.data.lent_bytes(&self.bucket, version);
        if lent == 0 || version.version_id.is_some() && self.bucket.capabilities().versioning == Versioning::Enabled {
            return Ok(());
        }
        if lent <= LARGEST_FETCHED {
            match self.data.secure_lent(cx, &self.bucket, version).await {
                Err(data::Error::NoRoom) => {}
                done => return Ok(done?),
            }
        }
        if let Some(helper) = self.copy_aside(cx, &format!("{:016x}-copied", ino.0), version).await? {
            self.names.lock().helpers.push(helper);
        }
        Ok(())
    }

    /// Copies `base` to a helper object of that name, which those who refer to it refer to from here on. `None`: it is gone already.
    async fn copy_aside(self: &Arc<Self>, cx: &Ctx, name: &str, base: &ObjectVersion) -> Result<Option<Helper>> {
        let key = Key::new(format!("{}{RESERVED}/open/{}/{name}", self.config.prefix, self.config.mount_id));
        let meta = Meta { token: Some(self.token()), ..Meta::default() };
        let noted = Ledger::note_if(self.ledger.as_ref(), Leftover::Helper { key: key.as_str().to_owned() }).await;
        let version = match self.data.copy_object(cx, &self.bucket, base, &key, &meta, &Replaces::Anything).await {
            Ok(stored) => stored.version,
            Err(error) => {
                // Anything else may have made it all the same: the entry stays for the next mount.
                let gone = match &error {
                    data::Error::Stale => true,
                    data::Error::Store(error) => error.kind() == Kind::NotFound,
                    _ => false,
                };
                if !gone {
                    return Err(error.into());
                }
                noted.into_iter().for_each(Entry::settled);
                return Ok(None);
            }
        };
        self.data.carry(&self.bucket, base, &version, std::slice::from_ref(&(0..base.size)));
        Ok(Some(Helper { version, noted }))
    }

    /// Lets go of what only an open file needed, and of helpers that nobody refers to any more.
    pub(super) fn end(self: &Arc<Self>, ended: Option<OpenFile>) {
        let (helper, noted) = ended.map_or((None, Vec::new()), |OpenFile { helper, noted, .. }| (helper, noted));
        settled(noted);
        let helpers: Vec<Helper> = std::mem::take(&mut self.names.lock().helpers).into_iter().chain(helper).collect();
        if helpers.is_empty() {
            return;
        }
        let is_used = |helper: &Helper| self.data.lent_bytes(&self.bucket, &helper.version) > 0;
        let (used, unused): (Vec<Helper>, Vec<Helper>) = helpers.into_iter().partition(is_used);
        self.names.lock().helpers.extend(used);
        for helper in unused {
            let vfs = Arc::clone(self);
            self.tasks.spawn(async move { vfs.remove_helper(helper).await });
        }
    }

    /// Removes all helper objects: nobody reads any more. The last call of a mount.
    pub async fn let_go(&self) {
        let helpers: Vec<Helper> = {
            let mut names = self.names.lock();
            let lent = std::mem::take(&mut names.helpers);
            names.open.values_mut().filter_map(|open| open.helper.take()).chain(lent).collect()
        };
        stream::iter(helpers).for_each_concurrent(REMOVED_AT_ONCE, |helper| self.remove_helper(helper)).await;
        self.data.let_go(&Ctx::background(Arc::clone(&self.clock), PATIENCE)).await;
    }

    async fn remove_helper(&self, Helper { version, noted }: Helper) {
        let cx = Ctx::background(Arc::clone(&self.clock), PATIENCE);
        match self.delete(&cx, &version).await {
            Ok(()) => noted.into_iter().for_each(Entry::settled),
            Err(error) => tracing::warn!(%error, key = %version.key, "a helper object stays behind; the next mount tries again"),
        }
    }
}

/// Helper objects that are removed at once at the end.
const REMOVED_AT_ONCE: usize = 16;
