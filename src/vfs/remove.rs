//! unlink and rmdir.
//!
//! With staging the DELETE of an unlink is promised and follows the reply (`pending/deletes.rs`); without, it comes before it. rmdir waits for
//! those beneath it.
//!
//! The inode and its directory are claimed, so no commit is under way when the DELETE is sent and none begins after it (P11). What is open
//! here is secured first. rmdir proves emptiness by a listing, not by what is remembered. The last entry of an implicit directory leaves a marker before it
//! goes, or the directory would go with it.

use std::{ffi::OsStr, sync::Arc};

use crate::data::File;

use crate::store::{Error as StoreError, Key, Kind, ListRequest, Meta, ObjectVersion, Payload, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Error, FileKind, Ino, Names, Result, Vfs,
    claims::Claim,
    keymap::Name,
    meta::{self, DIRECTORY_TYPE},
    pages::Pages,
    pending::Delete,
    tree::{Facts, Listed, Local},
};

/// How often a name is looked up again because it changed while it was being claimed.
const TRIES: usize = 8;
/// Pending deletes that a listing may show besides what it is asked for.
const MOST_GONE: usize = 900;

impl Vfs {
    /// Removes a file's name.
    pub async fn unlink(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<()> {
        self.may_change()?;
        let name = Name::parse(name)?;
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            let (ino, kind, claim) = vfs.claim_name(&cx, parent, &name).await?;
            if kind == FileKind::Directory {
                return Err(Error::IsADirectory);
            }
            claim.mark_going(ino);
            if vfs.is_unsettled(ino) {
                // Committed once more, it is known what there is to delete; what COS refused for good is not there.
                if let Err(error @ (Error::Io(_) | Error::TimedOut(_))) = vfs.commit_claimed(&cx, ino).await {
                    return Err(error);
                }
            }
            vfs.secure(&cx, ino).await?;
            let (key, object) = {
                let names = vfs.names.lock();
                let facts = names.tree.node(ino).map(|node| &node.facts);
                let object = facts.and_then(|facts| facts.origin.clone().map(|origin| (origin, facts.modified)));
                (names.key(&vfs.keys, ino)?, object)
            };
            let mut promised = None;
            if let Some((origin, modified)) = object {
                vfs.keep_directory(&cx, parent, ino, &key).await?;
                promised = vfs.promise_delete(&cx, &origin, modified).await?;
                if promised.is_none() {
                    vfs.delete_now(&cx, &origin).await?;
                }
            }
            vfs.forget_name(parent, &name, ino, promised);
            Ok(())
        })
        .await
    }

    /// Removes an empty directory.
    pub async fn rmdir(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<()> {
        self.may_change()?;
        let name = Name::parse(name)?;
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            let (ino, kind, _claim) = vfs.claim_name(&cx, parent, &name).await?;
            if kind != FileKind::Directory {
                return Err(Error::NotADirectory);
            }
            let prefix = vfs.names.lock().directory_key(&vfs.keys, ino)?;
            vfs.wait_for_deletes(&cx, &prefix).await?;
            let marker = vfs.check_empty(&cx, ino).await?;
            let (key, origin) = {
                let names = vfs.names.lock();
                (names.directory_key(&vfs.keys, ino)?, names.tree.node(ino).and_then(|node| node.facts.origin.clone()))
            };
            vfs.keep_directory(&cx, parent, ino, &Key::new(key)).await?;
            let old_form = origin.filter(|origin| marker.as_ref().is_none_or(|marker| marker.key != origin.key));
            for object in marker.iter().chain(&old_form) {
                vfs.delete(&cx, object).await?;
            }
            vfs.forget_name(parent, &name, ino, None);
            Ok(())
        })
        .await
    }

    /// Finds a name and claims it together with its directory.
    async fn claim_name(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &Name) -> Result<(Ino, FileKind, Claim)> {
        for _ in 0..TRIES {
            let ino = self.find_present(cx, parent, name).await?;
            let claim = self.claim(cx, &[parent, ino]).await?;
            let names = self.names.lock();
            if names.tree.child(parent, name) == Some(ino)
                && let Some(node) = names.tree.node(ino)
            {
                return Ok((ino, node.facts.kind, claim));
            }
            drop(names);
        }
        Err(Error::Busy("the name changes faster than it can be claimed".into()))
    }

    /// Removes an object; that it is gone already is success.
    pub(super) async fn delete(&self, cx: &Ctx, version: &ObjectVersion) -> Result<()> {
        match self.bucket.delete(cx, &version.key, Some(version)).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// As [`Vfs::delete`], before the reply although deletes may be sent behind it: whether they may again.
    async fn delete_now(&self, cx: &Ctx, version: &ObjectVersion) -> Result<()> {
        let deleted = self.delete(cx, version).await;
        match &deleted {
            Ok(()) => self.note_deleted(false),
            Err(Error::Denied(_)) => self.note_deleted(true),
            Err(_) => {}
        }
        deleted
    }

    /// The name is gone: the tree learns it, nothing of the file is committed any more, and what was promised is done.
    fn forget_name(self: &Arc<Self>, parent: Ino, name: &Name, ino: Ino, promised: Option<Delete>) {
        self.drop_owed(ino);
        let (file, begin) = {
            let mut names = self.names.lock();
            let now = self.clock.wall();
            if let Some(node) = names.tree.node_mut(ino) {
                node.ctime = now;
            }
            names.tree.remove(ino, self.clock.now());
            self.note_names_changed(&mut names, parent);
            let begin = promised.is_some_and(|delete| names.delete_behind(delete, parent, name, self.behind()));
            (names.orphan(ino), begin)
        };
        if begin {
            self.tasks.spawn(Arc::clone(self).send_deletes());
        }
        if let Some(file) = file {
            file.orphan();
        }
    }

    /// Fails with [`Error::NotEmpty`] unless COS and this mount agree that nothing is in the directory. Returns its marker, as COS has it now.
    pub(super) async fn check_empty(&self, cx: &Ctx, ino: Ino) -> Result<Option<ObjectVersion>> {
        let directory = {
            let names = self.names.lock();
            if names.tree.below(ino).into_iter().any(|below| names.tree.node(below).is_some_and(|node| node.local == Local::New)) {
                return Err(Error::NotEmpty);
            }
            names.directory_key(&self.keys, ino)?
        };
        let mut marker = None;
        let mut pages = Pages::new(ListRequest { prefix: directory.clone(), delimited: true, ..ListRequest::default() });
        loop {
            let asked = self.clock.now();
            let Some(page) = pages.next(cx, &self.bucket).await? else { return Ok(marker) };
            if page.hidden > 0 {
                return Err(Error::NotEmpty);
            }
            let objects = page.objects.iter().map(|object| (&object.version.key, Some((&object.version, object.last_modified))));
            let listed = objects.chain(page.prefixes.iter().map(|key| (key, None)));
            for (key, object) in listed.filter(|(key, _)| key.as_str() != directory) {
                let component = key.as_str()[directory.len()..].trim_end_matches('/');
                // A list may still show what this mount just removed.
                let gone = self.keys.name_of(component).is_some_and(|name| self.names.lock().tree.is_gone(ino, &name, object, asked));
                if !gone {
                    return Err(Error::NotEmpty);
                }
            }
            marker = marker.or(page.objects.into_iter().map(|object| object.version).find(|version| version.key.as_str() == directory));
        }
    }

    /// Gives an implicit directory a marker if `leaving`, whose key or prefix is `key`, is all that keeps it.
    pub(super) async fn keep_directory(&self, cx: &Ctx, directory: Ino, leaving: Ino, key: &Key) -> Result<()> {
        let (prefix, facts, gone) = {
            let names = self.names.lock();
            let node = names.tree.node(directory).ok_or(Error::Stale)?;
            if directory == Ino::ROOT || node.facts.origin.is_some() {
                return Ok(());
            }
            if self.has_others(&names, directory, leaving) {
                return Ok(());
            }
            let prefix = names.directory_key(&self.keys, directory)?;
            let gone = names.leaving_below(&prefix);
            (prefix, node.facts.clone(), gone)
        };
        // What is about to go keeps nothing; if it were to fill the page, the rest would not be seen.
        if gone.len() > MOST_GONE {
            self.wait_for_deletes(cx, &prefix).await?;
        }
        let limit = u16::try_from(2 + gone.len().min(MOST_GONE)).ok();
        let request = ListRequest { prefix: prefix.clone(), delimited: true, limit, ..ListRequest::default() };
        let page = self.bucket.list(cx, &request).await?;
        let mut keys = page.objects.iter().map(|object| &object.version.key).chain(&page.prefixes);
        if page.hidden > 0 || keys.any(|listed| listed != key && !gone.contains(listed)) {
            return Ok(());
        }
        self.put_marker(cx, directory, &Key::new(&prefix), &facts).await
    }

    /// Whether it was lately seen that the directory has another object than `leaving`.
    fn has_others(&self, names: &Names, directory: Ino, leaving: Ino) -> bool {
        let now = self.clock.now();
        let young = |at| now.saturating_duration_since(at) < self.config.metadata_ttl;
        let Some(entries) = names.tree.directory(directory) else { return false };
        let leaves = |name: &Name| entries.children.get(name) == Some(&leaving);
        let listing = entries.listing.as_ref().filter(|listing| young(listing.at));
        let mut listed = listing.into_iter().flat_map(|listing| &listing.names);
        if listed.any(|(name, listed)| !matches!(listed, Listed::Own { .. }) && !leaves(name)) {
            return true;
        }
        let mut others = entries.children.values().filter(|other| **other != leaving);
        others.any(|other| names.tree.node(*other).is_some_and(|node| node.facts.origin.is_some() && young(node.checked)))
    }

    async fn put_marker(&self, cx: &Ctx, directory: Ino, key: &Key, facts: &Facts) -> Result<()> {
        let mut meta = Meta { content_type: Some(DIRECTORY_TYPE.to_owned()), token: Some(self.token()), ..Meta::default() };
        self.write_attributes(&facts.attributes, FileKind::Directory, &mut meta)?;
        if let Some(mtime) = facts.attributes.mtime {
            meta.user.extend(meta::times(mtime, self.config.posix));
        }
        match self.bucket.put(cx, key, &meta, Payload::default(), &Replaces::Absent).await {
            Ok(stored) => {
                if let Some(node) = self.names.lock().tree.node_mut(directory) {
                    node.facts.origin = Some(stored.version);
                }
                Ok(())
            }
            Err(error) if error.kind() == Kind::Exists => Ok(()),
            Err(error) => Err(StoreError::into(error)),
        }
    }
}

impl Names {
    /// What has lost its name will not be committed: the open file, if there is one, is to be told so. One without handles ends here.
    pub(super) fn orphan(&mut self, ino: Ino) -> Option<Arc<File>> {
        let opens = self.tree.node(ino).map_or(0, |node| node.opens);
        if opens > 0 {
            return self.open.get(&ino).map(|open| Arc::clone(&open.file));
        }
        self.open.remove(&ino).map(|open| open.file)
    }
}
