//! rename: one dentry moves; in COS every object beneath is copied and deleted.
//!
//! A file: what is dirty is committed under its old key, the object is copied with everything it carries, pinned to its version, and the old one is deleted.
//! A file that was never committed only changes its target and costs nothing. A directory is claimed *moving*: opens for writing and commits
//! beneath wait, open files are frozen, everything is listed as far as `--rename-limit`, copied many at once, the dentry moves, and the sources
//! are deleted. Until it moves a failure deletes the copies and leaves the tree as it was (V4); after that it rolls forward.
//!
//! COS keeps neither class nor encryption in a copy, nor could it mark one with the rename's token while keeping the metadata. So each copy is sent with
//! everything that it is to carry: as HEAD says it, or without asking where the listing that was made just now shows a version of which the index
//! knows it all (`index.rs`). Should that be another one by the time of the copy, HEAD is asked after all.
//!
//! It runs to its end even if the caller is dropped, and the next mount ends what a crash interrupts (V5, `recover.rs`): the ledger has the rename
//! before the first copy, learns when all copies are there, and forgets it before the reply, because from then on a program may make the old
//! names anew. Without staging there is no ledger: a crash then leaves both names.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{StreamExt, stream};

use crate::data;

use crate::local::{Ledger, Leftover};

use crate::store::{CommitToken, Head, Key, Kind, ListRequest, Listed, Meta, ObjectVersion, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Defect, Error, FileKind, Ino, Names, Posix, Preserve, RenameMode, Result, Vfs,
    keymap::Name,
    lookup::Found,
    meta,
    pages::Pages,
    tree::{By, Facts, Local},
};

/// Copies of one directory rename in flight at once.
const COPIES_AT_ONCE: usize = 128;
/// And batches of its sources that are deleted.
const DELETES_AT_ONCE: usize = 8;
/// How often names are looked up again because they changed while they were being claimed.
const TRIES: usize = 8;

/// A rename whose names are looked up and claimed.
#[derive(Debug)]
struct Move {
    ino: Ino,
    from: (Ino, Name),
    to: (Ino, Name),
    replaced: Option<Ino>,
}

/// An object below a directory that is to move.
#[derive(Debug)]
enum Source {
    /// A listing shows it.
    Listed(Listed),
    /// Only this mount knows it as yet, or it is no key below the directory.
    Known(ObjectVersion),
}

impl Source {
    fn version(&self) -> &ObjectVersion {
        match self {
            Self::Listed(listed) => &listed.version,
            Self::Known(version) => version,
        }
    }
}

/// An object, and everything that its copy is to be given.
#[derive(Debug, Clone)]
struct Original {
    version: ObjectVersion,
    facts: Facts,
    meta: Meta,
}

/// What went wrong behind a rename that has happened. Of the errors that rename(2) may have, it becomes one that says no more than that: upon ESTALE the
/// kernel would ask for the rename again, and EXDEV or ENOENT would let a program do it by other means.
#[derive(Debug)]
struct LeftBehind(Error);

impl From<LeftBehind> for Error {
    fn from(LeftBehind(error): LeftBehind) -> Self {
        match error {
            Self::Denied(_) | Self::NotPermitted(_) | Self::Quota(_) | Self::TimedOut(_) | Self::Io(_) => error,
            other => {
                Self::Io(format!("the directory was renamed, and what is left under its old name could not be deleted: {other}").into())
            }
        }
    }
}

/// One object and what it became.
#[derive(Debug)]
struct Moved {
    old: ObjectVersion,
    facts: Facts,
}

impl Vfs {
    /// Moves a name.
    pub async fn rename(self: &Arc<Self>, cx: &Ctx, from: (Ino, &OsStr), to: (Ino, &OsStr), mode: RenameMode) -> Result<()> {
        self.may_change()?;
        if mode == RenameMode::Exchange {
            return Err(Error::Invalid("COS cannot exchange two names"));
        }
        let (from, to) = ((from.0, Name::parse(from.1)?), (to.0, Name::parse(to.1)?));
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move { vfs.rename_named(&cx, from, to, mode).await }).await
    }

    async fn rename_named(self: &Arc<Self>, cx: &Ctx, from: (Ino, Name), to: (Ino, Name), mode: RenameMode) -> Result<()> {
        for _ in 0..TRIES {
            let ino = self.find_present(cx, from.0, &from.1).await?;
            self.wait_until_left(cx, to.0, &to.1).await?;
            let replaced = match self.find(cx, to.0, &to.1, |_, ino| ino).await? {
                Found::Present(ino) => Some(ino),
                Found::Absent(_) => None,
            };
            if replaced.is_some() && mode == RenameMode::NoReplace {
                return Err(Error::Exists);
            }
            if replaced == Some(ino) {
                return Ok(());
            }
            let kind = self.check_kinds(ino, replaced, to.0)?;
            let mut inos = vec![from.0, to.0];
            inos.extend(replaced);
            let claim = if kind == FileKind::Directory {
                self.claim_moving(cx, &inos, ino).await?
            } else {
                inos.push(ino);
                self.claim(cx, &inos).await?
            };
            {
                let names = self.names.lock();
                let there = names.tree.child(to.0, &to.1);
                if names.tree.child(from.0, &from.1) != Some(ino) || there != replaced || names.tree.is_leaving(to.0, &to.1) {
                    continue;
                }
                if names.tree.is_within(to.0, ino) {
                    return Err(Error::Invalid("a directory cannot move into itself"));
                }
            }
            if let Some(replaced) = replaced {
                claim.mark_going(replaced);
            }
            let plan = Move { ino, from, to, replaced };
            let moved =
                if kind == FileKind::Directory { self.move_directory(cx, &plan).await } else { self.move_file(cx, &plan, mode).await };
            drop(claim);
            return moved;
        }
        Err(Error::Busy("the names change faster than they can be claimed".into()))
    }

    /// What POSIX asks of the two names.
    fn check_kinds(&self, ino: Ino, replaced: Option<Ino>, to: Ino) -> Result<FileKind> {
        let names = self.names.lock();
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        if names.tree.is_within(to, ino) {
            return Err(Error::Invalid("a directory cannot move into itself"));
        }
        let replaced = replaced.and_then(|ino| names.tree.node(ino)).map(super::tree::Node::is_directory);
        match (node.is_directory(), replaced) {
            (true, Some(false)) => Err(Error::NotADirectory),
            (false, Some(true)) => Err(Error::IsADirectory),
            _ => Ok(node.facts.kind),
        }
    }

    async fn move_file(self: &Arc<Self>, cx: &Ctx, plan: &Move, mode: RenameMode) -> Result<()> {
        let ino = plan.ino;
        let to_key = self.new_file_key(plan)?;
        let never_sent = !self.is_unsettled(ino) && {
            let names = self.names.lock();
            let streaming = names.open.get(&ino).is_some_and(|open| open.streaming);
            names.tree.node(ino).is_some_and(|node| node.local == Local::New) && !streaming
        };
        if never_sent && plan.replaced.is_none() {
            let mut names = self.names.lock();
            self.finish_move(&mut names, plan, None);
            return Ok(());
        }
        self.commit_claimed(cx, ino).await?;
        if let Some(replaced) = plan.replaced {
            self.secure(cx, replaced).await?;
        }
        let (origin, is_open) = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?;
            (node.facts.origin.clone().ok_or(Error::Stale)?, names.open.contains_key(&ino))
        };
        let head = self.head_to_carry(cx, ino, &origin.key).await?;
        if is_open && !head.version.same_bytes(&origin) {
            return Err(Error::Stale);
        }
        self.keep_directory(cx, plan.from.0, ino, &origin.key).await?;
        let token = self.token();
        let (from, to) = (origin.key.as_str().to_owned(), to_key.as_str().to_owned());
        let noted = Ledger::note_if(self.ledger.as_ref(), Leftover::Move { from, to, token: token.as_str().to_owned() }).await;
        let moved = self.move_object(cx, plan, mode, &head, &to_key, &token).await;
        if matches!(moved, Err(Error::Stale)) {
            self.is_overtaken(ino);
        }
        // Also after a failure: what a program was told has failed must not happen later.
        if let Some(entry) = noted {
            entry.settled_for_good().await;
        }
        moved
    }

    /// The file's object gets its new key, and the tree learns it.
    async fn move_object(
        self: &Arc<Self>,
        cx: &Ctx,
        plan: &Move,
        mode: RenameMode,
        head: &Head,
        to_key: &Key,
        token: &CommitToken,
    ) -> Result<()> {
        let ino = plan.ino;
        let replaces = self.replaces(plan.replaced);
        let original = self.original(cx, head).await?;
        let copied = match self.copy_with_everything(cx, original.clone(), to_key, &replaces, token).await {
            // Somebody else made it since we looked; a rename replaces what is there.
            Err(Error::Exists) if mode == RenameMode::Replace => {
                let there = self.bucket.head(cx, to_key).await?;
                self.copy_with_everything(cx, original, to_key, &Replaces::Version(there.version), token).await?
            }
            copied => copied?,
        };
        // Handles read the copy from here on: the source is about to go.
        let file = self.names.lock().open.get(&ino).map(|open| Arc::clone(&open.file));
        if let Some(new) = &copied.origin {
            self.data.carry(&self.bucket, &head.version, new, std::slice::from_ref(&(0..new.size)));
            if let Some(file) = &file {
                file.rebase(new.clone());
            }
        }
        if let Err(error) = self.delete(cx, &head.version).await {
            // The source may have gone all the same, and then the copy is all there is.
            let there = match self.bucket.head(cx, &head.version.key).await {
                Ok(now) => Some(now.version.same_bytes(&head.version)),
                Err(error) if error.kind() == Kind::NotFound => None,
                Err(_) => Some(false),
            };
            if let Some(unchanged) = there {
                if let Some(new) = &copied.origin {
                    self.data.carry(&self.bucket, new, &head.version, std::slice::from_ref(&(0..new.size)));
                }
                if let Some(file) = &file {
                    file.rebase(head.version.clone());
                }
                // The old name stays; what was copied goes, unless it replaced something that cannot be had back.
                if plan.replaced.is_none() {
                    let taken_back = match &copied.origin {
                        Some(copy) if unchanged => self.delete(cx, copy).await.is_ok(),
                        _ => false,
                    };
                    if !taken_back {
                        tracing::warn!(key = %to_key, "a rename failed, and its copy stays");
                    }
                }
                return Err(error);
            }
        }
        plan.replaced.into_iter().chain([ino]).for_each(|ino| self.drop_owed(ino));
        let orphan = self.finish_move(&mut self.names.lock(), plan, Some(copied));
        if let Some(orphan) = orphan {
            orphan.orphan();
        }
        Ok(())
    }

    /// The tree learns that the file has moved. Returns the open file that lost its name.
    fn finish_move(&self, names: &mut Names, plan: &Move, copied: Option<Facts>) -> Option<Arc<data::File>> {
        let now = self.clock.now();
        let wall = self.clock.wall();
        let replaced_size = plan.replaced.and_then(|ino| names.tree.node(ino)).map(|node| node.size);
        names.tree.rename(plan.ino, plan.to.0, &plan.to.1, now);
        let orphan = plan.replaced.and_then(|ino| names.orphan(ino));
        if let Some(node) = names.tree.node_mut(plan.ino) {
            if let Some(copied) = copied {
                node.take_copy(&copied);
                node.checked = now;
            }
            node.ctime = wall;
            if self.config.defect == Some(Defect::WrongSizeAfterRenameOver) {
                node.size = replaced_size.unwrap_or(node.size);
            }
        }
        if let Some(node) = plan.replaced.and_then(|ino| names.tree.node_mut(ino)) {
            node.ctime = wall;
        }
        self.note_names_changed(names, plan.from.0);
        self.note_names_changed(names, plan.to.0);
        if self.config.defect == Some(Defect::StaleDentryAfterRename)
            && let Some(facts) = names.tree.node(plan.ino).map(|node| node.facts.clone())
        {
            names.tree.insert(plan.from.0, &plan.from.1, "stale", facts, By::Mount(Local::Clean), now);
        }
        orphan
    }

    async fn move_directory(self: &Arc<Self>, cx: &Ctx, plan: &Move) -> Result<()> {
        let (from, to) = {
            let names = self.names.lock();
            let parent = names.directory_key(&self.keys, plan.to.0)?;
            (names.directory_key(&self.keys, plan.ino)?, format!("{}/", self.keys.child(&parent, &plan.to.1)?))
        };
        self.wait_for_deletes(cx, &to).await?;
        if let Some(replaced) = plan.replaced {
            self.check_empty(cx, replaced).await?;
        }
        self.send_owed_below(cx, plan.ino).await?;
        self.send_all_owed(Some(cx), plan.replaced.into_iter().collect(), true).await?;
        self.wait_for_deletes(cx, &from).await?;
        // Writers beneath wait at the gate until this is over; what they have written goes under the old keys first.
        let mut frozen = Vec::new();
        for (ino, file) in self.open_below(plan.ino) {
            frozen.push(file.freeze(cx).await?);
            if self.has_object(ino) {
                self.commit_claimed(cx, ino).await?;
            }
        }
        let cx = &cx.in_bulk();
        let sources = self.list_all(cx, plan.ino, &from, &to).await?;
        self.keep_directory(cx, plan.from.0, plan.ino, &Key::new(&from)).await?;
        let token = self.token();
        let tree = |copied| Leftover::Tree {
            from: from.clone(),
            to: to.clone(),
            token: token.as_str().to_owned(),
            over: plan.replaced.is_some(),
            copied,
        };
        // If copying fails the entry stays: a copy whose answer was lost may still be there.
        let noted = Ledger::note_if(self.ledger.as_ref(), tree(false)).await;
        let moved = self.copy_all(cx, sources, plan.replaced, &token).await?;
        if let Some(entry) = &noted
            && let Err(error) = entry.becomes(tree(true)).await
        {
            tracing::warn!(%error, "a crash before this rename ends may leave some names old and some new");
        }
        let rebased = {
            let mut names = self.names.lock();
            let marker = plan.replaced.and_then(|ino| names.tree.node(ino)).and_then(|node| node.facts.origin.clone());
            self.finish_move(&mut names, plan, None);
            let rebased = self.finish_below(&mut names, plan.ino, &moved);
            let implicit = !moved.iter().any(|moved| moved.facts.origin.as_ref().is_some_and(|origin| origin.key.as_str() == to));
            if let Some(node) = names.tree.node_mut(plan.ino).filter(|_| implicit) {
                // Without a marker of its own it has that of the empty directory it replaced, if any.
                node.facts.origin = marker;
            }
            rebased
        };
        for moved in &moved {
            if let Some(new) = &moved.facts.origin {
                self.data.carry(&self.bucket, &moved.old, new, std::slice::from_ref(&(0..new.size)));
            }
        }
        for (file, version) in rebased {
            file.rebase(version);
        }
        drop(frozen);
        let deleted = self.delete_sources(cx, &from, &moved).await;
        if let Some(entry) = noted.filter(|_| deleted.is_ok()) {
            entry.settled_for_good().await;
        }
        Ok(deleted?)
    }

    /// Open files below a directory, in the order in which they are frozen.
    fn open_below(&self, directory: Ino) -> Vec<(Ino, Arc<data::File>)> {
        let names = self.names.lock();
        let below = names.open.iter().filter(|(ino, _)| names.tree.is_within(**ino, directory));
        let mut below: Vec<_> = below.map(|(ino, open)| (*ino, Arc::clone(&open.file))).collect();
        below.sort_unstable_by_key(|(ino, _)| *ino);
        below
    }

    /// Whether something of the file is, or may be, in COS under its old key.
    fn has_object(&self, ino: Ino) -> bool {
        let names = self.names.lock();
        let streaming = names.open.get(&ino).is_some_and(|open| open.streaming);
        streaming || names.tree.node(ino).is_some_and(|node| node.local != Local::New)
    }

    /// Every object of a directory with the key it is to have; nothing is changed if there are too many, or a new key would be too long.
    async fn list_all(&self, cx: &Ctx, directory: Ino, from: &str, to: &str) -> Result<Vec<(Source, Key)>> {
        let mut all = Vec::new();
        let old_form = self.names.lock().tree.node(directory).and_then(|node| node.facts.origin.clone());
        if let Some(origin) = old_form.filter(|origin| origin.key.as_str() != from) {
            all.push((Source::Known(origin), Key::new(to)));
        }
        let mut pages = Pages::new(ListRequest { prefix: from.to_owned(), ..ListRequest::default() });
        while let Some(page) = pages.next(cx, &self.bucket).await? {
            cx.progressed();
            if page.hidden > 0 {
                return Err(Error::CrossDevice("keys that are no UTF-8 cannot be moved"));
            }
            for object in page.objects {
                let key = Key::new(format!("{to}{}", &object.version.key.as_str()[from.len()..]));
                if key.as_str().len() > self.bucket.capabilities().longest_key {
                    return Err(Error::NameTooLong);
                }
                all.push((Source::Listed(object), key));
            }
            if all.len() > self.config.rename_limit {
                tracing::warn!(%from, limit = self.config.rename_limit, "more objects than --rename-limit: the program has to copy instead");
                return Err(Error::CrossDevice("more objects than one rename moves; see --rename-limit"));
            }
        }
        // A list may lack what this mount has just written.
        let listed: HashSet<Key> = all.iter().map(|(source, _)| source.version().key.clone()).collect();
        for version in self.origins_below(directory) {
            if let Some(rest) = version.key.as_str().strip_prefix(from)
                && !listed.contains(&version.key)
            {
                let key = Key::new(format!("{to}{rest}"));
                all.push((Source::Known(version), key));
            }
        }
        Ok(all)
    }

    /// The objects that this mount knows of in a directory and below.
    fn origins_below(&self, directory: Ino) -> Vec<ObjectVersion> {
        let names = self.names.lock();
        let below = names.tree.below(directory).into_iter().filter_map(|ino| names.tree.node(ino)?.facts.origin.clone());
        below.collect()
    }

    /// Copies all, or none: after a failure the copies are deleted again.
    async fn copy_all(&self, cx: &Ctx, sources: Vec<(Source, Key)>, replaced: Option<Ino>, token: &CommitToken) -> Result<Vec<Moved>> {
        let failed = AtomicBool::new(false);
        // The marker of an empty directory that is replaced is all that may be there.
        let marker = self.replaces(replaced);
        let copies = stream::iter(sources).map(|(source, key)| {
            let (failed, marker) = (&failed, &marker);
            async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let replaces = match marker {
                    Replaces::Version(version) if version.key == key => marker.clone(),
                    _ => Replaces::Absent,
                };
                let copied = self.copy_source(cx, &source, &key, &replaces, token).await;
                failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                cx.progressed();
                copied
            }
        });
        // All that were begun are waited for: only then is it known what has to be taken back.
        let results: Vec<Result<Option<Moved>>> = copies.buffer_unordered(COPIES_AT_ONCE).collect().await;
        let (mut moved, mut failure) = (Vec::new(), None);
        for result in results {
            match result {
                Ok(copied) => moved.extend(copied),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let Some(error) = failure else { return Ok(moved) };
        // The empty directory that was there keeps its marker, though it is a copy now.
        let stays = |key: &Key| matches!(&marker, Replaces::Version(version) if version.key == *key);
        let copies = moved.iter().filter_map(|moved| moved.facts.origin.clone());
        let copies: Vec<ObjectVersion> = copies.filter(|copy| !stays(&copy.key)).collect();
        for batch in copies.chunks(self.bucket.capabilities().delete_batch) {
            if let Err(error) = self.bucket.delete_many(cx, batch).await {
                tracing::warn!(%error, "a rename failed, and some of its copies stay");
            }
        }
        Err(error)
    }

    /// Copies one object; `None` if somebody else has removed it since it was listed.
    async fn copy_source(&self, cx: &Ctx, source: &Source, to: &Key, replaces: &Replaces, token: &CommitToken) -> Result<Option<Moved>> {
        if let Some(original) = self.indexed(cx, source).await? {
            let old = original.version.clone();
            match self.copy_with_everything(cx, original, to, replaces, token).await {
                // Another version is there by now, or none.
                Err(Error::Stale | Error::NotFound) => {}
                copied => return copied.map(|facts| Some(Moved { old, facts })),
            }
        }
        match self.bucket.head(cx, &source.version().key).await {
            Ok(head) => {
                let original = self.original(cx, &head).await?;
                let facts = self.copy_with_everything(cx, original, to, replaces, token).await?;
                Ok(Some(Moved { old: head.version, facts }))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What a HEAD says of an object that is to be copied.
    async fn original(&self, cx: &Ctx, head: &Head) -> Result<Original> {
        Ok(Original { version: head.version.clone(), facts: self.facts(head), meta: self.preserved(cx, head).await? })
    }

    /// The same of one that need not be asked for.
    async fn indexed(&self, cx: &Ctx, source: &Source) -> Result<Option<Original>> {
        let Source::Listed(listed) = source else { return Ok(None) };
        let Some((facts, mut meta)) = self.find_whole(listed) else { return Ok(None) };
        let Some(version) = facts.origin.clone() else { return Ok(None) };
        if self.config.preserve == Preserve::Full {
            match self.preserve_fully(cx, &version.key, &mut meta).await {
                Err(Error::NotFound) => return Ok(None),
                kept => kept?,
            }
        }
        Ok(Some(Original { version, facts, meta }))
    }

    /// Copies one object under another key, marked with `token`, and says what is there now.
    async fn copy_with_everything(
        &self,
        cx: &Ctx,
        original: Original,
        to: &Key,
        replaces: &Replaces,
        token: &CommitToken,
    ) -> Result<Facts> {
        let Original { version, mut facts, mut meta } = original;
        let directory = to.as_str().ends_with('/');
        if !directory && facts.attributes.mtime.is_none() && self.config.posix != Posix::None {
            // A rename does not change when the bytes were changed, and the copy's own time is that of the rename.
            meta.user.extend(meta::times(facts.modified, self.config.posix));
            facts.attributes.mtime = Some(facts.modified);
        }
        meta.token = Some(token.clone());
        let stored = self.data.copy_object(cx, &self.bucket, &version, to, &meta, replaces).await.map_err(|error| match error {
            // Not ESTALE: the kernel would begin again by itself, and replace what somebody else has written over our copy.
            data::Error::Conflict => Error::Busy(format!("somebody else has written {to} meanwhile").into()),
            error => error.into(),
        })?;
        facts.modified = stored.last_modified.unwrap_or(stored.date);
        facts.origin = Some(stored.version.clone());
        self.index_made(&facts, &meta, &stored, stored.last_modified.is_some());
        Ok(facts)
    }

    /// Inodes below a moved directory are of the copies now. Returns the open files that are to be told.
    fn finish_below(&self, names: &mut Names, directory: Ino, moved: &[Moved]) -> Vec<(Arc<data::File>, ObjectVersion)> {
        let by_key: HashMap<&Key, &Moved> = moved.iter().map(|moved| (&moved.old.key, moved)).collect();
        let mut rebased = Vec::new();
        let mut all = names.tree.below(directory);
        all.push(directory);
        for ino in all {
            let touched = names.tree.advance();
            let Some(node) = names.tree.node_mut(ino) else { continue };
            node.touched = touched;
            let copied = node.facts.origin.as_ref().and_then(|origin| by_key.get(&origin.key)).map(|moved| &moved.facts);
            let Some(copied) = copied else { continue };
            node.take_copy(copied);
            if let Some((open, version)) = names.open.get(&ino).zip(copied.origin.clone()) {
                rebased.push((Arc::clone(&open.file), version));
            }
        }
        rebased
    }

    /// Deletes the sources, each only as the version that was copied. The move has happened: what cannot be deleted stays, and the program is
    /// told so.
    async fn delete_sources(&self, cx: &Ctx, from: &str, moved: &[Moved]) -> std::result::Result<(), LeftBehind> {
        let sources = moved.iter().map(|moved| &moved.old.key).collect();
        let there = self.versions_below(cx, from, &sources).await.map_err(|error| {
            tracing::error!(%error, %from, "a directory was renamed, and its old name could not be listed: what is there stays");
            LeftBehind(error)
        })?;
        let mut failure: Option<Error> = None;
        let mut gone = Vec::with_capacity(moved.len());
        for Moved { old, .. } in moved {
            match there.get(&old.key) {
                Some(now) if !now.same_bytes(old) => {
                    tracing::warn!(key = %old.key, "somebody else rewrote it while its directory was renamed: it stays under its old name, too");
                }
                // A directory's object in the old form is not below it.
                None if !old.key.as_str().starts_with(from) => {
                    if let Err(error) = self.delete(cx, old).await {
                        tracing::error!(key = %old.key, %error, "a directory was renamed, and its old object could not be deleted");
                        failure = failure.or(Some(error));
                    }
                }
                // A list may lack what was written a moment ago.
                Some(_) | None => gone.push(old.clone()),
            }
        }
        let batches = gone.chunks(self.bucket.capabilities().delete_batch);
        let deletes: Vec<_> = batches.map(|batch| self.bucket.delete_many(cx, batch)).collect();
        let mut answers = stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE);
        while let Some(answer) = answers.next().await {
            let refused = match answer {
                Ok(refused) => refused,
                Err(error) => {
                    tracing::error!(%error, "a directory was renamed, and objects under its old name could not be deleted");
                    failure = failure.or(Some(error.into()));
                    continue;
                }
            };
            cx.progressed();
            for (key, error) in refused {
                tracing::error!(%key, %error, "a directory was renamed, and an object under its old name could not be deleted");
                failure = failure.or(Some(error.into()));
            }
        }
        failure.map_or(Ok(()), |error| Err(LeftBehind(error)))
    }

    /// The objects of these keys, which begin with `prefix`, as they are now. What else is there is passed over, and what lies behind the last of
    /// them not listed, so that neither memory nor time is the bucket's to choose.
    async fn versions_below(&self, cx: &Ctx, prefix: &str, keys: &HashSet<&Key>) -> Result<HashMap<Key, ObjectVersion>> {
        let mut all = HashMap::new();
        let last = keys.iter().max();
        let mut pages = Pages::new(ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() });
        while let Some(page) = pages.next(cx, &self.bucket).await? {
            cx.progressed();
            if page.next.as_ref().is_some_and(|next| last.is_none_or(|last| next >= *last)) {
                pages.end();
            }
            let ours = page.objects.into_iter().map(|object| object.version).filter(|version| keys.contains(&version.key));
            all.extend(ours.map(|version| (version.key.clone(), version)));
        }
        Ok(all)
    }

    /// What a copy to the name of `replaced` expects to find.
    fn replaces(&self, replaced: Option<Ino>) -> Replaces {
        let names = self.names.lock();
        let origin = replaced.and_then(|ino| names.tree.node(ino)).and_then(|node| node.facts.origin.clone());
        origin.map_or(Replaces::Absent, Replaces::Version)
    }

    fn new_file_key(&self, plan: &Move) -> Result<Key> {
        let names = self.names.lock();
        self.keys.child(&names.directory_key(&self.keys, plan.to.0)?, &plan.to.1)
    }
}
