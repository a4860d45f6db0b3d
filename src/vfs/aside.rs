//! Open files survive the removal or replacement of their object (V6).
//!
//! Before this mount deletes or overwrites an object whose inode is open here, its bytes are secured: what is fully local needs nothing; up to 64 MiB the rest is fetched;
//! else a server-side copy under `PREFIX/.cosmount/open/<mount id>/` becomes the file's base and goes at the last release, at the end of the mount,
//! or, after a crash, at the next mount: it is in the ledger before it is made.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};

use crate::data::{self, File};

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{Key, Kind, Meta, ObjectVersion, Replaces, Versioning};

use crate::support::Ctx;

use crate::vfs::{Ino, Result, Vfs, handles::OpenFile, keymap::RESERVED};

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
    /// Makes the open file of `ino`, if there is one, independent of its object. The inode is claimed.
    pub(super) async fn secure(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        let file = {
            let names = self.names.lock();
            let opens = names.tree.node(ino).map_or(0, |node| node.opens);
            names.open.get(&ino).filter(|_| opens > 0).map(|open| Arc::clone(&open.file))
        };
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
        self.copy_aside(cx, ino, &file).await
    }

    async fn copy_aside(self: &Arc<Self>, cx: &Ctx, ino: Ino, file: &Arc<File>) -> Result<()> {
        let Some(base) = file.base() else { return Ok(()) };
        let key = Key::new(format!("{}{RESERVED}/open/{}/{:016x}", self.config.prefix, self.config.mount_id, ino.0));
        let meta = Meta { token: Some(self.token()), ..Meta::default() };
        let noted = Ledger::note_if(self.ledger.as_ref(), Leftover::Helper { key: key.as_str().to_owned() }).await;
        let version = match self.data.copy_object(cx, &self.bucket, &base, &key, &meta, &Replaces::Anything).await {
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
                return Ok(());
            }
        };
        self.data.carry(&self.bucket, &base, &version, std::slice::from_ref(&(0..base.size)));
        file.rebase(version.clone());
        if let Some(open) = self.names.lock().open.get_mut(&ino) {
            open.helper = Some(Helper { version, noted });
        }
        Ok(())
    }

    /// Lets go of what only an open file needed.
    pub(super) fn end(self: &Arc<Self>, ended: Option<OpenFile>) {
        let Some(OpenFile { helper, noted, .. }) = ended else { return };
        noted.into_iter().for_each(Entry::settled);
        let Some(helper) = helper else { return };
        let vfs = Arc::clone(self);
        self.tasks.spawn(async move { vfs.remove_helper(helper).await });
    }

    /// Removes all helper objects: nobody reads any more. The last call of a mount.
    pub async fn let_go(&self) {
        let helpers: Vec<Helper> = self.names.lock().open.values_mut().filter_map(|open| open.helper.take()).collect();
        stream::iter(helpers).for_each_concurrent(REMOVED_AT_ONCE, |helper| self.remove_helper(helper)).await;
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
