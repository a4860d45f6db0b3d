//! getattr and setattr.
//!
//! Attributes are given out only when they are known exactly: from a HEAD, from the index, or because this mount made them. The size of an open
//! file is its `File`'s. Changes of mode, owner and times of a file that has uncommitted changes, or is open for writing, join its next
//! commit; on a clean object they are one self-copy before the reply, which keeps everything else the object carries (D7). atime and ctime live
//! in memory.

use std::{sync::Arc, time::SystemTime};

use crate::data::File;

use crate::store::{Kind, Meta, ObjectVersion, Payload, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Attr, Entry, Error, Fh, FileKind, Ino, Names, OpenFlags, Posix, Preserve, Result, SetAttr, SetTime, Vfs,
    lookup::Found,
    meta::{Attributes, DIRECTORY_TYPE},
    open::ReleaseOnDrop,
    pending::{Carries, settled},
    tree::{Facts, Local, Node, Place},
};

/// What a directory shows as its size, as on a local disk: some programs take 0 for something special.
const DIRECTORY_SIZE: u64 = 4096;

/// An answer made under the lock, but for the size, which an open file's own locks guard.
#[derive(Debug)]
pub(super) struct Draft {
    entry: Entry,
    file: Option<Arc<File>>,
}

impl Draft {
    /// The answer. Not to be called under the lock of the names.
    pub(super) fn entry(self) -> Entry {
        let mut entry = self.entry;
        if let Some(file) = self.file {
            entry.attr.size = file.size();
        }
        entry
    }
}

impl Vfs {
    /// Attributes, and how long they may be believed.
    pub async fn getattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, _fh: Option<Fh>) -> Result<Entry> {
        let (dentry, draft) = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?;
            let now = self.clock.now();
            // An open file is what its handles read; whether its name still means it is for lookup to find out.
            let known = node.opens > 0 && !node.is_directory() || !node.is_named() || self.is_fresh(&names, ino, now);
            let dentry = node.dentry().filter(|_| !known).map(|(parent, name)| (parent, name.clone()));
            (dentry, self.draft(&names, ino)?)
        };
        let Some((parent, name)) = dentry else { return Ok(draft.entry()) };
        let found = self.find(cx, parent, &name, |names, found| if found == ino { self.draft(names, ino) } else { Err(Error::Stale) });
        match found.await? {
            Found::Present(draft) => Ok(draft?.entry()),
            Found::Absent(_) => Err(Error::Stale),
        }
    }

    /// Changes attributes.
    pub async fn setattr(self: &Arc<Self>, cx: &Ctx, ino: Ino, fh: Option<Fh>, change: SetAttr) -> Result<Entry> {
        self.may_change()?;
        self.check_kept(&change)?;
        if let Some(size) = change.size {
            self.resize(cx, ino, fh, size).await?;
        }
        if change.atime.is_some() {
            let at = self.time(change.atime);
            let mut names = self.names.lock();
            if let (Some(node), Some(at)) = (names.tree.node_mut(ino), at) {
                node.atime = at;
            }
        }
        let (mtime, now) = (self.time(change.mtime), self.clock.wall());
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() || mtime.is_some() {
            self.change_attributes(cx, ino, move |node| {
                let attributes = &mut node.facts.attributes;
                attributes.mode = change.mode.map(|mode| mode & 0o7777).or(attributes.mode);
                attributes.uid = change.uid.or(attributes.uid);
                attributes.gid = change.gid.or(attributes.gid);
                if mtime.is_some() {
                    attributes.mtime = mtime;
                    node.names_changed = None;
                    node.times_set = true;
                }
                node.ctime = now;
                Ok(())
            })
            .await?;
        }
        let draft = self.draft(&self.names.lock(), ino)?;
        Ok(draft.entry())
    }

    /// Makes the answer for `ino`; its [`Draft::entry`] is taken after the lock.
    pub(super) fn draft(&self, names: &Names, ino: Ino) -> Result<Draft> {
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        let left = self.config.metadata_ttl.saturating_sub(self.clock.now().saturating_duration_since(node.checked));
        let ttl = match node.place {
            Place::Root => self.config.metadata_ttl,
            _ if node.local != Local::Clean => self.config.metadata_ttl,
            _ => left,
        };
        let file = names.open.get(&ino).map(|open| Arc::clone(&open.file));
        Ok(Draft { entry: Entry { attr: self.attr(ino, node), ttl }, file })
    }

    fn attr(&self, ino: Ino, node: &Node) -> Attr {
        let attributes = &node.facts.attributes;
        let mode = match node.facts.kind {
            FileKind::Directory => self.config.dir_mode,
            FileKind::Symlink => 0o777,
            FileKind::File | FileKind::Special(_) => self.config.file_mode,
        };
        Attr {
            ino,
            kind: node.facts.kind,
            nlink: u32::from(node.is_named()),
            mode: attributes.mode.unwrap_or(mode),
            uid: attributes.uid.unwrap_or(self.config.uid),
            gid: attributes.gid.unwrap_or(self.config.gid),
            rdev: attributes.rdev.unwrap_or_default(),
            size: if node.is_directory() { DIRECTORY_SIZE } else { node.size },
            atime: node.atime,
            mtime: node.mtime(),
            ctime: node.ctime,
        }
    }

    /// Refuses what `--posix` does not keep, before anything changes.
    fn check_kept(&self, change: &SetAttr) -> Result<()> {
        let owner = change.mode.is_some() || change.uid.is_some() || change.gid.is_some();
        match self.config.posix {
            Posix::Full => Ok(()),
            Posix::Mtime if owner => Err(Error::NotPermitted("--posix mtime keeps neither modes nor owners")),
            Posix::None if owner || change.mtime.is_some() => Err(Error::NotPermitted("--posix none keeps no attributes")),
            Posix::Mtime | Posix::None => Ok(()),
        }
    }

    fn time(&self, time: Option<SetTime>) -> Option<SystemTime> {
        time.map(|time| match time {
            SetTime::Now => self.clock.wall(),
            SetTime::To(time) => time,
        })
    }

    /// Cuts or extends a file: through its handle, sent by the next commit; without one, sent before this returns.
    async fn resize(self: &Arc<Self>, cx: &Ctx, ino: Ino, fh: Option<Fh>, size: u64) -> Result<()> {
        if let Some(fh) = fh {
            let handle = self.handles.file(fh)?;
            if !handle.write {
                return Err(Error::BadHandle);
            }
            return self.truncate(cx, ino, &handle.file, size).await;
        }
        let flags = OpenFlags { read: false, write: true, append: false, truncate: false, exclusive: false };
        let opened = self.open(cx, ino, flags).await?;
        // Released however this ends; what could not be committed now is committed behind it.
        let _release = ReleaseOnDrop::new(self, opened.fh);
        let handle = self.handles.file(opened.fh)?;
        self.truncate(cx, ino, &handle.file, size).await?;
        let only = self.names.lock().tree.node(ino).is_some_and(|node| node.opens == 1);
        // With other handles open their close sends it.
        if only { self.commit(cx, ino).await } else { Ok(()) }
    }

    /// Changes what an inode carries, here and in COS: with the next commit where there will be one, else by a self-copy now.
    pub(super) async fn change_attributes(
        self: &Arc<Self>,
        cx: &Ctx,
        ino: Ino,
        change: impl Fn(&mut Node) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            vfs.wait_until_still(&cx, ino).await?;
            if vfs.join_commit(ino, &change)? {
                vfs.restart_stream(ino)?;
                return Ok(());
            }
            let claim = vfs.claim(&cx, &[ino]).await?;
            // A commit may have become due while this waited.
            if vfs.join_commit(ino, &change)? {
                return Ok(());
            }
            if vfs.promise_attributes(&cx, ino, &change).await? {
                drop(claim);
                // A writer may have come meanwhile.
                vfs.names.lock().owe_with_commit(ino);
                return Ok(());
            }
            vfs.send_attributes(&cx, ino, change).await
        })
        .await
    }

    /// Applies the change to a file that will be committed anyway; `false` if it will not.
    fn join_commit(&self, ino: Ino, change: &impl Fn(&mut Node) -> Result<()>) -> Result<bool> {
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        let nameless = !node.is_named();
        let due = node.local != Local::Clean || names.open.get(&ino).is_some_and(|open| open.writers > 0);
        if ino != Ino::ROOT && !nameless && !due {
            return Ok(false);
        }
        let epoch = names.tree.advance();
        let node = names.tree.node_mut(ino).ok_or(Error::Stale)?;
        let before = node.facts.attributes.clone();
        let fits = change(node).and_then(|()| {
            let mut carried = names.open.get(&ino).and_then(|open| open.meta.as_deref().cloned()).unwrap_or_default();
            node.facts.attributes.write(node.facts.kind, self.config.posix, self.bucket.capabilities(), &mut carried)
        });
        if let Err(error) = fits {
            node.facts.attributes = before;
            return Err(error);
        }
        if let Some(open) = names.open.get_mut(&ino).filter(|_| !nameless) {
            node.dirtied = epoch;
            open.changed = Some(epoch);
        }
        Ok(true)
    }

    /// Gives a clean object other attributes: a self-copy, pinned to its version. The inode is claimed.
    pub(super) async fn send_attributes(self: &Arc<Self>, cx: &Ctx, ino: Ino, change: impl Fn(&mut Node) -> Result<()>) -> Result<()> {
        let (key, mut node, epoch, file, changed, owed, known) = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?.clone();
            let file = names.open.get(&ino).map(|open| Arc::clone(&open.file));
            let changed = names.open.get(&ino).is_some_and(|open| open.changed.is_some());
            let (owed, known) = (names.pending.owes(ino), names.carries(ino, self.clock.now()));
            (names.key(&self.keys, ino)?, node, names.tree.epoch(), file, changed || owed, owed, known)
        };
        let carries = match known {
            Some(Carries { head, meta, .. }) => Some((head, Some(meta))),
            None => match self.bucket.head(cx, &key).await {
                Ok(head) => Some((head, None)),
                Err(error) if error.kind() == Kind::NotFound && node.is_directory() && !owed => None,
                Err(error) if error.kind() == Kind::NotFound => return Err(Error::Stale),
                Err(error) => return Err(error.into()),
            },
        };
        let (head, carried) = carries.map_or((None, None), |(head, carried)| (Some(head), carried));
        let replaced = |old: &ObjectVersion, new: &ObjectVersion| !old.same_bytes(new);
        match (&node.facts.origin, &head) {
            (Some(old), Some(head)) if replaced(old, &head.version) && (file.is_some() || owed) => return Err(Error::Stale),
            // Nobody reads the old version: the change is made to what is there now, and to what was changed here and not sent.
            (_, Some(head)) => {
                let facts = self.facts(head);
                let attributes = if changed { node.facts.attributes.clone() } else { facts.attributes };
                node.facts = Facts { kind: node.facts.kind, attributes, ..facts };
            }
            (_, None) => {}
        }
        let (mtime, names_changed) = (node.mtime(), node.names_changed);
        change(&mut node)?;
        let names_set = node.names_changed;
        let carried = match (carried, &head) {
            (Some(carried), _) => carried,
            (None, Some(head)) => self.preserved(cx, head).await?,
            (None, None) => Meta { content_type: Some(DIRECTORY_TYPE.to_owned()), ..Meta::default() },
        };
        let mut meta = self.meta_of(&node, mtime, carried)?;
        meta.token = Some(self.token());
        let stored = match &head {
            Some(head) => {
                let replaces = Replaces::Version(head.version.clone());
                self.data.copy_object(cx, &self.bucket, &head.version, &key, &meta, &replaces).await?
            }
            None => self.bucket.put(cx, &key, &meta, Payload::default(), &Replaces::Absent).await?,
        };
        if let Some(head) = &head {
            self.data.carry(&self.bucket, &head.version, &stored.version, std::slice::from_ref(&(0..head.version.size)));
        }
        if let Some(file) = &file {
            file.rebase(stored.version.clone());
        }
        let mut facts = node.facts;
        facts.attributes.mtime = facts.attributes.mtime.or((self.config.posix != Posix::None).then_some(mtime));
        facts.origin = Some(stored.version.clone());
        facts.modified = stored.last_modified.unwrap_or(stored.date);
        self.index_made(&facts, &meta, &stored, stored.last_modified.is_some());
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let touched = names.tree.advance();
        let now = self.clock.now();
        names.note_attributes_taken();
        let mut later = false;
        if let Some(open) = names.open.get_mut(&ino) {
            open.meta = Some(Arc::new(meta));
            open.changed = open.changed.filter(|changed| *changed > epoch);
            later = open.changed.is_some();
        }
        let noted = if later { Vec::new() } else { names.no_longer_owed(ino) };
        if let Some(node) = names.tree.node_mut(ino) {
            let etag = Some(stored.version.etag);
            if node.pages.is_some() && node.pages == node.facts.origin.as_ref().map(|origin| origin.etag.clone()) {
                node.pages = etag;
            }
            // What changed during the copy is newer and goes with the next commit.
            if node.dirtied > epoch {
                facts.attributes = node.facts.attributes.clone();
            } else {
                node.times_set = false;
            }
            node.facts = facts;
            // A name that came or went during the copy is newer than the time that was set.
            if node.names_changed == names_changed {
                node.names_changed = names_set;
            }
            node.ctime = self.clock.wall();
            node.touched = touched;
            node.checked = now;
        }
        drop(guard);
        settled(noted);
        Ok(())
    }

    /// Puts attributes into the metadata of a new object.
    pub(super) fn write_attributes(&self, attributes: &Attributes, kind: FileKind, meta: &mut Meta) -> Result<()> {
        attributes.write(kind, self.config.posix, self.bucket.capabilities(), meta)
    }

    /// Everything the successor of an object is to be given; EPERM where that cannot be known.
    pub(super) async fn preserved(&self, cx: &Ctx, head: &crate::store::Head) -> Result<Meta> {
        if head.meta.sse == Some(crate::store::Sse::Customer) {
            return Err(Error::Denied("the object is encrypted with a key that this mount does not have".into()));
        }
        let mut meta = head.meta.clone();
        meta.token = None;
        if self.config.preserve == Preserve::Full {
            self.preserve_fully(cx, &head.version.key, &mut meta).await?;
        }
        Ok(meta)
    }

    /// Adds what HEAD does not show.
    pub(super) async fn preserve_fully(&self, cx: &Ctx, key: &crate::store::Key, meta: &mut Meta) -> Result<()> {
        let refused = |error: crate::store::Error| match error.kind() {
            Kind::Denied => Error::NotPermitted("--preserve full: the object's ACL or tags may not be read, so they could not be kept"),
            _ => error.into(),
        };
        let (acl, tags) = tokio::join!(self.bucket.acl(cx, key), self.bucket.tags(cx, key));
        meta.acl = Some(acl.map_err(refused)?);
        meta.tags = Some(tags.map_err(refused)?);
        Ok(())
    }

    /// Notes that a directory's names changed.
    pub(super) fn note_names_changed(&self, names: &mut Names, directory: Ino) {
        let now = self.clock.wall();
        if let Some(node) = names.tree.node_mut(directory) {
            node.names_changed = Some(now);
            node.ctime = now;
        }
    }
}
