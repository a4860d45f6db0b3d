//! Open files survive the removal or replacement of their object (V6).
//!
//! Before this mount deletes or overwrites an object whose inode is open here, its bytes are secured: what is fully local needs nothing; up to 64 MiB the rest is fetched;
//! else a server-side copy under `PREFIX/.cosmount/open/<mount id>/` becomes the file's base and goes at the last release.

use std::sync::Arc;

use crate::data::{self, File};

use crate::store::{Key, Meta, Replaces, Versioning};

use crate::support::Ctx;

use crate::vfs::{Ino, Result, Vfs, keymap::RESERVED};

/// Up to this size an open file's rest is fetched rather than copied on the server.
const LARGEST_FETCHED: u64 = 64 << 20;

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
        let stored = match self.data.copy_object(cx, &self.bucket, &base, &key, &meta, &Replaces::Anything).await {
            Ok(stored) => stored,
            Err(data::Error::Stale) => return Ok(()),
            Err(data::Error::Store(error)) if error.kind() == crate::store::Kind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.data.carry(&self.bucket, &base, &stored.version, std::slice::from_ref(&(0..base.size)));
        file.rebase(stored.version.clone());
        if let Some(open) = self.names.lock().open.get_mut(&ino) {
            open.helper = Some(stored.version);
        }
        Ok(())
    }
}
