//! Makes what a program sees of a file the object in COS, and tells the tree.
//!
//! One commit of a file at a time: the inode is claimed, and whoever waited for the claim finds nothing left to do. The key is made by walking up when the
//! commit begins, what the object carries is what its predecessor carried (D7) with the attributes of the tree, and what it replaces is what the
//! tree believes to be there: nothing (sent with forbid-overwrite), or the version that was opened. A failed commit leaves the file dirty.
//!
//! A commit runs to its end even if the call that asked for it is dropped.

use std::sync::Arc;

use crate::data::{self, Committed, File, Target};

use crate::store::{Key, Meta, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Error, Ino, Names, OnConflict, Posix, Preserve, Result, Vfs,
    handles::OpenFile,
    keymap::Name,
    meta,
    pending::settled,
    tree::{Local, Nameless, Place},
};

/// A commit that is due.
pub(super) struct Due {
    file: Arc<File>,
    target: Target,
    /// What was changed later is not part of it.
    epoch: u64,
    exclusive: bool,
    /// Something the predecessor carries is not known yet.
    ask: bool,
}

impl Vfs {
    /// Commits the file if there is anything to commit.
    pub(super) async fn commit(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        if self.due(ino)?.is_none() {
            return Ok(());
        }
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            let _claim = vfs.claim(&cx, &[ino]).await?;
            vfs.commit_claimed(&cx, ino).await
        })
        .await
    }

    /// As [`Vfs::commit`], for who has claimed the inode.
    pub(super) async fn commit_claimed(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        self.names.lock().owe_with_this_commit(ino);
        let Some(Due { file, mut target, epoch, exclusive, ask }) = self.due(ino)? else { return Ok(()) };
        if ask {
            self.complete_meta(cx, ino, &mut target).await?;
        }
        if let Some(open) = self.names.lock().open.get_mut(&ino) {
            open.attempted = true;
        }
        let committed = match file.commit(cx, target.clone()).await {
            Err(data::Error::Exists) if exclusive => return Err(Error::Exists),
            Err(error @ (data::Error::Exists | data::Error::Conflict)) => self.settle_conflict(cx, ino, &file, &target, error).await?,
            other => other?,
        };
        let wanted = &target.meta;
        let late = match &committed {
            // Attributes that changed after an upload was opened could not go with it.
            Some(done) => wanted.user.iter().any(|(name, value)| done.meta.user.get(name) != Some(value)),
            None => true,
        };
        if let Some(done) = committed {
            self.note_committed(ino, &file, epoch, done);
        }
        if late && self.names.lock().open.get(&ino).is_some_and(|open| open.changed.is_some()) {
            self.send_attributes(cx, ino, |_| Ok(())).await?;
        }
        self.note_clean(ino, &file, epoch);
        Ok(())
    }

    /// Whether COS may have an object of a file that counts as never sent, because the answer to its making was lost.
    pub(super) fn is_unsettled(&self, ino: Ino) -> bool {
        let names = self.names.lock();
        let new = names.tree.node(ino).is_some_and(|node| node.local == Local::New);
        new && names.open.get(&ino).is_some_and(|open| open.attempted)
    }

    pub(super) fn due(&self, ino: Ino) -> Result<Option<Due>> {
        let names = self.names.lock();
        let Some(node) = names.tree.node(ino) else { return Ok(None) };
        let Some(open) = names.open.get(&ino) else { return Ok(None) };
        if node.local == Local::Clean && open.changed.is_none() {
            return Ok(None);
        }
        let epoch = names.tree.epoch();
        let Some(target) = self.target(&names, ino)? else { return Ok(None) };
        let ask = self.lacks_meta(open, &target);
        Ok(Some(Due { file: Arc::clone(&open.file), target, epoch, exclusive: open.exclusive, ask }))
    }

    /// What the file is to become; `None` if its name was removed.
    pub(super) fn target(&self, names: &Names, ino: Ino) -> Result<Option<Target>> {
        let (Some(node), Some(open)) = (names.tree.node(ino), names.open.get(&ino)) else { return Ok(None) };
        match &node.place {
            Place::Nowhere(Nameless::Removed) => return Ok(None),
            Place::Nowhere(Nameless::Lost) => return Err(Error::Stale),
            Place::Root | Place::In(..) => {}
        }
        let key = names.key(&self.keys, ino)?;
        let content_type = || node.dentry().map(|(_, name)| meta::content_type(name.as_str()));
        let mut meta = match &open.meta {
            Some(meta) => Meta::clone(meta),
            None => Meta { content_type: content_type(), ..Meta::default() },
        };
        meta.token = None;
        self.write_attributes(&node.facts.attributes, node.facts.kind, &mut meta)?;
        let replaces = node.facts.origin.clone().map_or(Replaces::Absent, Replaces::Version);
        let times = meta::times(node.mtime(), self.config.posix);
        Ok(Some(Target { key, replaces, meta, times, times_set: node.times_set }))
    }

    /// Whether something the predecessor carries has to be asked for before the commit.
    pub(super) fn lacks_meta(&self, open: &OpenFile, target: &Target) -> bool {
        let replaces = matches!(target.replaces, Replaces::Version(_));
        replaces && (open.meta.is_none() || self.config.preserve == Preserve::Full && target.meta.acl.is_none())
    }

    /// Asks for what the predecessor carries, before anything changes.
    async fn complete_meta(&self, cx: &Ctx, ino: Ino, target: &mut Target) -> Result<()> {
        let head = self.bucket.head(cx, &target.key).await.map_err(|error| match Error::from(error) {
            Error::NotFound => Error::Stale,
            error => error,
        })?;
        let mut meta = self.preserved(cx, &head).await?;
        if let Some(open) = self.names.lock().open.get_mut(&ino) {
            open.meta = Some(Arc::new(meta.clone()));
        }
        let attributes = self.names.lock().tree.node(ino).map(|node| (node.facts.attributes.clone(), node.facts.kind));
        if let Some((attributes, kind)) = attributes {
            self.write_attributes(&attributes, kind, &mut meta)?;
        }
        target.meta = meta;
        Ok(())
    }

    /// Somebody else's object is where the file was to go.
    async fn settle_conflict(
        self: &Arc<Self>,
        cx: &Ctx,
        ino: Ino,
        file: &Arc<File>,
        target: &Target,
        error: data::Error,
    ) -> Result<Option<Committed>> {
        match self.config.on_conflict {
            OnConflict::Fail => {
                tracing::warn!(key = %target.key, %error, "the object was changed by somebody else; what was written here is kept and not sent");
                Err(Error::Stale)
            }
            OnConflict::LastWriter => {
                self.keep_base(cx, file).await;
                Ok(file.commit(cx, Target { replaces: Replaces::Anything, ..target.clone() }).await?)
            }
            OnConflict::KeepBoth => {
                let Some((parent, beside, key)) = self.beside(ino)? else { return Err(Error::Stale) };
                self.keep_base(cx, file).await;
                tracing::warn!(key = %target.key, copy = %key, "the object was changed by somebody else; what was written here goes beside it");
                let done = file.commit(cx, Target { key, replaces: Replaces::Absent, ..target.clone() }).await?;
                let old = {
                    let mut names = self.names.lock();
                    let old = names.tree.node(ino).and_then(|node| node.dentry().map(|(_, name)| name.clone()));
                    names.tree.rename(ino, parent, &beside, self.clock.now());
                    // The old name is there, as somebody else's.
                    if let Some(old) = &old {
                        names.tree.ask_again(parent, old);
                    }
                    old
                };
                // The kernel still takes the old name for this inode.
                if let Some(old) = old {
                    self.notify.entry(parent, old.as_os_str());
                }
                Ok(done)
            }
        }
    }

    /// COS can copy nothing from a version that is gone, but what of it was read here can be sent. What was not is missed by the commit.
    async fn keep_base(&self, cx: &Ctx, file: &Arc<File>) {
        if let Err(error) = file.localise(cx).await {
            tracing::debug!(%error, "not all of the old version is here");
        }
    }

    /// The name for a copy beside a conflict: `name.conflict-HOST-TIME`, cut to what a name may have.
    fn beside(&self, ino: Ino) -> Result<Option<(Ino, Name, Key)>> {
        let names = self.names.lock();
        let Some((parent, name)) = names.tree.node(ino).and_then(|node| node.dentry()) else { return Ok(None) };
        let suffix = format!(".conflict-{}-{:x}", self.config.mount_id, names.tree.epoch());
        let most = 255usize.saturating_sub(suffix.len());
        let stem = name.as_str();
        let cut = (0..=most.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
        let beside = Name::parse(format!("{}{suffix}", &stem[..cut]).as_ref())?;
        let key = self.keys.child(&names.directory_key(&self.keys, parent)?, &beside)?;
        Ok(Some((parent, beside, key)))
    }

    /// The tree learns what the object is now.
    fn note_committed(&self, ino: Ino, file: &Arc<File>, epoch: u64, done: Committed) {
        // Asked before the lock: what is written from here on raises `dirtied`, too.
        let dirty = file.is_dirty();
        let version = done.stored.version.clone();
        let last_modified = done.last_modified.or(done.stored.last_modified);
        let meta = Arc::new(Meta { token: None, ..done.meta });
        let facts = {
            let mut guard = self.names.lock();
            let names = &mut *guard;
            let touched = names.tree.advance();
            let now = self.clock.now();
            let Some(node) = names.tree.node_mut(ino) else { return };
            let later = node.dirtied > epoch;
            let was_new = node.facts.origin.is_none();
            let old = node.facts.origin.replace(version.clone());
            node.facts.modified = last_modified.unwrap_or(done.stored.date);
            if !later {
                // A stream that was given no times shows its Last-Modified, here as everywhere.
                if done.last_modified.is_some() || self.config.posix == Posix::None {
                    node.facts.attributes.mtime = None;
                }
                node.times_set = false;
            }
            node.local = if dirty || later { Local::Dirty } else { Local::Clean };
            if was_new {
                node.own = Some(now);
            }
            if was_new || node.pages.is_none() || node.pages == old.map(|old| old.etag) {
                // The kernel's pages are what was written through them.
                node.pages = Some(version.etag.clone());
            }
            node.size = version.size;
            node.touched = touched;
            node.checked = now;
            let facts = node.facts.clone();
            if let Some(open) = names.open.get_mut(&ino) {
                open.meta = Some(Arc::clone(&meta));
                open.exclusive = false;
                open.streaming = false;
            }
            facts
        };
        self.index_made(&facts, &meta, &done.stored, last_modified.is_some());
    }

    /// Nothing from before `epoch` is left to be committed.
    fn note_clean(&self, ino: Ino, file: &Arc<File>, epoch: u64) {
        let dirty = file.is_dirty();
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let Some(node) = names.tree.node_mut(ino) else { return };
        if !dirty && node.dirtied <= epoch && node.facts.origin.is_some() {
            node.local = Local::Clean;
        }
        let Some(open) = names.open.get_mut(&ino) else { return };
        open.changed = open.changed.filter(|changed| *changed > epoch);
        let noted = if open.changed.is_none() { std::mem::take(&mut open.noted) } else { Vec::new() };
        drop(guard);
        settled(noted);
    }
}
