//! Makes what a program sees of a file the object in COS, and tells the tree.
//!
//! One commit of a file at a time: the inode is claimed, and whoever waited for the claim finds nothing left to do. The key is made by walking up when the
//! commit begins, what the object carries is what its predecessor carried (D7) with the attributes of the tree, and what it replaces is what the
//! tree believes to be there: nothing (sent with forbid-overwrite), or the version that was opened. A failed commit leaves the file dirty (`unsent.rs`).
//!
//! A commit runs to its end even if the call that asked for it is dropped.

use std::sync::Arc;

use crate::data::{self, Committed, File, Target};

use crate::store::{Kind, Meta, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Error, Ino, Names, OnConflict, Posix, Preserve, Result, Vfs,
    handles::OpenFile,
    keymap::Name,
    meta,
    tree::{Local, Nameless, Node, Place},
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

/// Where a file is, or was before somebody else's object took its name.
struct Spot {
    parent: Ino,
    /// What the keys in its directory begin with.
    directory: String,
    name: Name,
}

impl Vfs {
    /// Commits the file if there is anything to commit.
    pub(super) async fn commit(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        self.commit_or(cx, ino, None).await
    }

    /// As [`Vfs::commit`], but where somebody else's object is in the way, it does as `asked` says, if anything was asked for.
    pub(super) async fn commit_or(self: &Arc<Self>, cx: &Ctx, ino: Ino, asked: Option<OnConflict>) -> Result<()> {
        if !self.is_lost(ino) && self.due(ino)?.is_none() {
            return Ok(());
        }
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            let _claim = vfs.claim(&cx, &[ino]).await?;
            vfs.try_commit(&cx, ino, asked).await
        })
        .await
    }

    /// As [`Vfs::commit`], for who has claimed the inode.
    pub(super) async fn commit_claimed(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        self.try_commit(cx, ino, None).await
    }

    async fn try_commit(self: &Arc<Self>, cx: &Ctx, ino: Ino, asked: Option<OnConflict>) -> Result<()> {
        let tried = if self.is_lost(ino) { self.commit_lost(cx, ino, asked).await } else { self.commit_named(cx, ino, asked).await };
        self.note_outcome(ino, tried.as_ref().err());
        tried
    }

    async fn commit_named(self: &Arc<Self>, cx: &Ctx, ino: Ino, asked: Option<OnConflict>) -> Result<()> {
        let Some(Due { file, mut target, epoch, exclusive, ask }) = self.due(ino)? else { return Ok(()) };
        if ask {
            self.complete_meta(cx, ino, &mut target).await?;
        }
        if let Some(open) = self.names.lock().open.get_mut(&ino) {
            open.attempted = true;
        }
        let committed = match file.commit(cx, target.clone()).await {
            Err(data::Error::Exists) if exclusive && asked.is_none() => return Err(Error::Exists),
            Err(error @ (data::Error::Exists | data::Error::Conflict)) => {
                self.settle_conflict(cx, ino, &file, &target, asked, error).await?
            }
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

    /// Saves what was written to a file whose name somebody else's object has taken before: that is a conflict, too.
    async fn commit_lost(self: &Arc<Self>, cx: &Ctx, ino: Ino, asked: Option<OnConflict>) -> Result<()> {
        let (file, target, spot, epoch) = {
            let names = self.names.lock();
            let (Some(node), Some(open)) = (names.tree.node(ino), names.open.get(&ino)) else { return Ok(()) };
            if node.local == Local::Clean {
                return Ok(());
            }
            let spot = self.spot(&names, ino)?;
            let target = Target {
                key: self.keys.child(&spot.directory, &spot.name)?,
                replaces: Replaces::Anything,
                meta: self.carried(node, open, &spot.name)?,
                times: meta::times(node.mtime(), self.config.posix),
                times_set: node.times_set,
            };
            (Arc::clone(&open.file), target, spot, names.tree.epoch())
        };
        let done = match asked.unwrap_or(self.config.on_conflict) {
            OnConflict::Fail => return Err(Error::Stale),
            OnConflict::LastWriter => self.take_name(cx, ino, &spot, &file, target).await?,
            OnConflict::KeepBoth => self.keep_both(cx, ino, &file, &target).await?,
        };
        if let Some(done) = done {
            self.note_committed(ino, &file, epoch, done);
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
        let Some((_, name)) = node.dentry() else { return Ok(None) };
        let meta = self.carried(node, open, name)?;
        let replaces = node.facts.origin.clone().map_or(Replaces::Absent, Replaces::Version);
        let times = meta::times(node.mtime(), self.config.posix);
        Ok(Some(Target { key, replaces, meta, times, times_set: node.times_set }))
    }

    /// Everything that the object is to carry, as far as it is known.
    fn carried(&self, node: &Node, open: &OpenFile, name: &Name) -> Result<Meta> {
        let mut meta = match &open.meta {
            Some(meta) => Meta::clone(meta),
            None => Meta { content_type: Some(meta::content_type(name.as_str())), ..Meta::default() },
        };
        meta.token = None;
        self.write_attributes(&node.facts.attributes, node.facts.kind, &mut meta)?;
        Ok(meta)
    }

    /// Whether something the predecessor carries has to be asked for before the commit.
    pub(super) fn lacks_meta(&self, open: &OpenFile, target: &Target) -> bool {
        let replaces = matches!(target.replaces, Replaces::Version(_));
        replaces && (open.meta.is_none() || self.config.preserve == Preserve::Full && target.meta.acl.is_none())
    }

    /// Asks for what the predecessor carries, before anything changes.
    async fn complete_meta(&self, cx: &Ctx, ino: Ino, target: &mut Target) -> Result<()> {
        let head = match self.bucket.head(cx, &target.key).await {
            Ok(head) => head,
            // The commit finds that out, too, and does as the policy says.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
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
        asked: Option<OnConflict>,
        error: data::Error,
    ) -> Result<Option<Committed>> {
        match asked.unwrap_or(self.config.on_conflict) {
            OnConflict::Fail => {
                tracing::warn!(key = %target.key, %error, "the object was changed by somebody else; what was written here is kept and not sent");
                Err(Error::Stale)
            }
            OnConflict::LastWriter => {
                self.keep_base(cx, file).await;
                Ok(file.commit(cx, Target { replaces: Replaces::Anything, ..target.clone() }).await?)
            }
            OnConflict::KeepBoth => self.keep_both(cx, ino, file, target).await,
        }
    }

    /// Puts what was written here beside somebody else's object, and the inode with it. Parts of a stream that have left can become no other object
    /// than the one they were sent for: then it is the other's that goes beside, as a copy on the server, and ours takes the name.
    async fn keep_both(self: &Arc<Self>, cx: &Ctx, ino: Ino, file: &Arc<File>, target: &Target) -> Result<Option<Committed>> {
        let (spot, beside, key) = {
            let names = self.names.lock();
            let spot = self.spot(&names, ino)?;
            let beside = self.beside(&names, &spot.name)?;
            let key = self.keys.child(&spot.directory, &beside)?;
            (spot, beside, key)
        };
        tracing::warn!(key = %target.key, copy = %key, "the object was changed by somebody else; both are kept");
        self.keep_base(cx, file).await;
        match file.commit(cx, Target { key: key.clone(), replaces: Replaces::Absent, ..target.clone() }).await {
            Err(data::Error::Streaming) => {
                let replaces = match self.bucket.head(cx, &target.key).await {
                    Ok(theirs) => {
                        let meta = self.preserved(cx, &theirs).await?;
                        self.data.copy_object(cx, &self.bucket, &theirs.version, &key, &meta, &Replaces::Absent).await?;
                        self.names.lock().tree.ask_again(spot.parent, &beside);
                        Replaces::Version(theirs.version)
                    }
                    Err(error) if error.kind() == Kind::NotFound => Replaces::Absent,
                    Err(error) => return Err(error.into()),
                };
                let target = Target { replaces, ..target.clone() };
                if self.is_lost(ino) { self.take_name(cx, ino, &spot, file, target).await } else { Ok(file.commit(cx, target).await?) }
            }
            made => {
                let done = made?;
                let mut names = self.names.lock();
                if names.tree.node(ino).is_some_and(Node::is_named) {
                    names.tree.rename(ino, spot.parent, &beside, self.clock.now());
                    // The old name is there, as somebody else's, and the kernel still takes it for this inode.
                    names.tree.ask_again(spot.parent, &spot.name);
                    self.notify.entry(spot.parent, spot.name.as_os_str());
                } else {
                    names.tree.adopt(ino, spot.parent, &beside, self.clock.now());
                }
                Ok(done)
            }
        }
    }

    /// Gives a lost file its name back, over somebody else's object. Refused while that is in use here: its readers keep what they read (V6).
    async fn take_name(self: &Arc<Self>, cx: &Ctx, ino: Ino, spot: &Spot, file: &Arc<File>, target: Target) -> Result<Option<Committed>> {
        let in_use = {
            let names = self.names.lock();
            let other = names.tree.child(spot.parent, &spot.name);
            other.is_some_and(|other| names.open.contains_key(&other) || names.claims.holds(other))
        };
        if in_use {
            return Err(Error::Stale);
        }
        self.keep_base(cx, file).await;
        let done = file.commit(cx, target).await?;
        self.names.lock().tree.adopt(ino, spot.parent, &spot.name, self.clock.now());
        self.notify.entry(spot.parent, spot.name.as_os_str());
        Ok(done)
    }

    /// Whether somebody else's object has taken the file's name.
    pub(super) fn is_lost(&self, ino: Ino) -> bool {
        self.names.lock().tree.node(ino).is_some_and(|node| node.place == Place::Nowhere(Nameless::Lost))
    }

    /// Where the file is, or was.
    fn spot(&self, names: &Names, ino: Ino) -> Result<Spot> {
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        let (parent, path) = match (node.dentry(), &node.was) {
            (Some((parent, name)), _) => (parent, vec![name.clone()]),
            (None, Some(was)) => (was.parent, was.path.clone()),
            (None, None) => return Err(Error::Stale),
        };
        let Some((name, above)) = path.split_last() else { return Err(Error::Stale) };
        let directory = match names.directory_key(&self.keys, parent) {
            Ok(directory) => directory,
            // Nobody needed the directory any longer.
            Err(_) if node.was.is_some() => self.keys.directory(above.iter())?,
            Err(error) => return Err(error),
        };
        Ok(Spot { parent, directory, name: name.clone() })
    }

    /// COS can copy nothing from a version that is gone, but what of it was read here can be sent. What was not is missed by the commit.
    async fn keep_base(&self, cx: &Ctx, file: &Arc<File>) {
        if let Err(error) = file.localise(cx).await {
            tracing::debug!(%error, "not all of the old version is here");
        }
    }

    /// The name for a copy beside a conflict: `name.conflict-HOST-TIME`, cut to what a name may have.
    fn beside(&self, names: &Names, name: &Name) -> Result<Name> {
        let suffix = format!(".conflict-{}-{:x}", self.config.mount_id, names.tree.epoch());
        let most = 255usize.saturating_sub(suffix.len());
        let stem = name.as_str();
        let cut = (0..=most.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
        Name::parse(format!("{}{suffix}", &stem[..cut]).as_ref())
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
        if let Some(open) = names.open.get_mut(&ino) {
            open.changed = open.changed.filter(|changed| *changed > epoch);
        }
    }
}
