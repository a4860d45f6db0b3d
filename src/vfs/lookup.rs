//! lookup: what a name means, by what is known and else by what COS says.
//!
//! A name is a file if there is an object of that key, else a directory if there is a key below `name/`; a file wins over a directory of the same
//! name. HEAD and LIST are asked at once. Absent means 404 *and* an empty list (V7), and lets no bytes go.
//!
//! Of those who ask for one name at once only the first asks COS, and the others wait for what the tree is told, unless nothing is to be believed for
//! any time. The answer may be older than a change that this mount made while it was under way: it is then asked for again. What is not committed, or being
//! changed right now, is answered from the tree and never asked for. An object that somebody else replaced while it is open here becomes a new inode: the
//! old one keeps its handles and its bytes and has no name any longer.

use std::{ffi::OsStr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::store::{self, Head, Key, Kind, ListRequest, Operation, Page};

use crate::support::Ctx;

use crate::vfs::{
    Error, FileKind, Ino, Lookup, Names, Posix, Result, Vfs,
    keymap::{LONGEST_KEY, Name, is_unspeakable},
    meta::{Attributes, may_be_directory},
    tree::{By, Facts, Listed, Local, Nameless},
};

/// How often an answer is asked for again because this mount changed the name meanwhile.
const TRIES: usize = 8;
/// The absence that makes a directory be listed.
const MISSES: u32 = 3;

/// What [`Vfs::find`] found.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// The name is there, and this was taken under the lock.
    Present(T),
    /// It is not, and may be taken for absent for so long.
    Absent(Duration),
}

/// What COS said of a name that is there.
#[derive(Debug)]
struct Answer {
    facts: Facts,
    /// The HEAD that said so, if there was one.
    head: Option<Head>,
}

/// COS is being asked for a name. Dropped when the tree knows the answer, or nobody waits for it any more.
struct Asking<'a> {
    vfs: &'a Vfs,
    asked: (Ino, Name),
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.vfs.names.lock().asking.remove(&self.asked);
        self.vfs.released.notify_waiters();
    }
}

impl Vfs {
    /// Finds a name.
    pub async fn lookup(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr) -> Result<Lookup> {
        let name = match Name::parse(name) {
            Ok(name) => name,
            Err(Error::NameTooLong) => return Err(Error::NameTooLong),
            // What COS cannot store is not there; creating it says why.
            Err(_) => return Ok(Lookup::Absent(self.config.negative_ttl)),
        };
        let found = self.find(cx, parent, &name, |names, ino| {
            names.tree.raise(ino);
            self.draft(names, ino)
        });
        match found.await? {
            Found::Present(draft) => {
                self.relieve();
                Ok(Lookup::Found(draft?.entry()))
            }
            Found::Absent(ttl) => {
                self.list_after_misses(cx, parent).await;
                Ok(Lookup::Absent(ttl))
            }
        }
    }

    /// Finds a name and gives its inode to `take` while the lock is held, so that nothing happens to it in between.
    pub(super) async fn find<T>(&self, cx: &Ctx, parent: Ino, name: &Name, take: impl Fn(&mut Names, Ino) -> T) -> Result<Found<T>> {
        let mut waited = self.config.metadata_ttl.is_zero();
        let mut tries = 0;
        while tries < TRIES {
            let ask = {
                let mut names = self.names.lock();
                let now = self.clock.now();
                let directory = names.directory_key(&self.keys, parent)?;
                if let Some(ino) = names.tree.child(parent, name) {
                    if self.is_fresh(&names, ino, now) {
                        return Ok(Found::Present(take(&mut names, ino)));
                    }
                } else if names.tree.is_leaving(parent, name) {
                    // Its object may be there for a moment more.
                    return Ok(Found::Absent(self.config.negative_ttl));
                } else if let Some(left) = names.tree.known_absent(parent, name, now, self.config.negative_ttl) {
                    return Ok(Found::Absent(left));
                }
                let key = match self.keys.child(&directory, name) {
                    Err(Error::BadName(_)) => return Ok(Found::Absent(self.config.negative_ttl)),
                    key => key?,
                };
                let listed = names.tree.listed(parent, name, now, self.config.metadata_ttl).cloned();
                let joins = !waited && names.asking.contains_key(&(parent, name.clone()));
                (!joins).then(|| (key, names.tree.epoch(), listed, self.asking(&mut names, cx, parent, name)))
            };
            let Some((key, epoch, listed, _asking)) = ask else {
                // Once: should that request fail, all who waited for it ask.
                waited = true;
                self.wait_for(cx, |names| names.asking.get(&(parent, name.clone())).cloned()).await?;
                continue;
            };
            let answer = self.ask(cx, (parent, name), &key, listed).await?;
            let mut names = self.names.lock();
            let moved =
                names.directory_key(&self.keys, parent).and_then(|directory| self.keys.child(&directory, name)).ok() != Some(key.clone());
            if moved || names.tree.changed_since(parent, name, epoch) {
                tries += 1;
                continue;
            }
            return Ok(match self.apply(&mut names, parent, name, &key, answer) {
                Some(ino) => Found::Present(take(&mut names, ino)),
                None => Found::Absent(self.config.negative_ttl),
            });
        }
        Err(Error::Busy("the name changes faster than COS answers".into()))
    }

    /// Says that COS is being asked for a name, until dropped.
    fn asking(&self, names: &mut Names, cx: &Ctx, parent: Ino, name: &Name) -> Asking<'_> {
        let asked = (parent, name.clone());
        names.asking.insert(asked.clone(), cx.clone());
        Asking { vfs: self, asked }
    }

    /// As [`Vfs::find`], with an absent name as an error; the inode may be gone again when this returns.
    pub(super) async fn find_present(&self, cx: &Ctx, parent: Ino, name: &Name) -> Result<Ino> {
        match self.find(cx, parent, name, |_, ino| ino).await? {
            Found::Present(ino) => Ok(ino),
            Found::Absent(_) => Err(Error::NotFound),
        }
    }

    /// Whether the tree may answer for `ino` without asking COS.
    pub(super) fn is_fresh(&self, names: &Names, ino: Ino, now: Instant) -> bool {
        let Some(node) = names.tree.node(ino) else { return false };
        node.local != Local::Clean
            || names.claims.holds(ino)
            || names.is_changed(ino)
            || now.saturating_duration_since(node.checked) < self.config.metadata_ttl
    }

    /// Asks COS what `key` is: `None` for nothing at all.
    async fn ask(&self, cx: &Ctx, (parent, name): (Ino, &Name), key: &Key, listed: Option<Listed>) -> Result<Option<Answer>> {
        let marker = Key::new(format!("{}/", key.as_str()));
        if marker.as_str().len() > LONGEST_KEY {
            // Nothing can be below it.
            return self.ask_file(cx, key).await;
        }
        match listed {
            Some(Listed::Object { version, modified }) => {
                if let Some(facts) = self.index.find(&version, modified) {
                    return Ok(Some(Answer { facts, head: None }));
                }
            }
            Some(Listed::Prefix) => return Ok(Some(self.ask_marker(cx, &marker).await?)),
            Some(Listed::Own { .. }) | None => {}
        }
        let request = ListRequest { prefix: marker.as_str().to_owned(), limit: Some(1), ..ListRequest::default() };
        let list = self.bucket.list(cx, &request);
        tokio::pin!(list);
        let mut page: Option<crate::store::Result<Page>> = None;
        let head = {
            let head = async {
                if is_unspeakable(key) {
                    return Err(store::Error::new(Kind::NotFound, Operation::Head.name(), "no request can ask for it").on(key));
                }
                self.bucket.head(cx, key).await
            };
            tokio::pin!(head);
            loop {
                tokio::select! {
                    head = &mut head => break head,
                    answer = &mut list, if page.is_none() => page = Some(answer),
                }
            }
        };
        let head = match head {
            Ok(head) if !may_be_directory(&head) => return Ok(Some(self.answer(head))),
            Ok(head) => Some(head),
            Err(error) if error.kind() == Kind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let page = match page {
            Some(page) => page,
            None => list.await,
        }?;
        // A key that cannot be named keeps its directory there all the same.
        let hidden = page.hidden > 0;
        let first = page.objects.first().map(|object| &object.version.key);
        match (head, first) {
            (Some(head), None) if !hidden => Ok(Some(self.answer(head))),
            (Some(head), _) => Ok(Some(self.directory_answer(head))),
            (None, None) if hidden => Ok(Some(self.implicit_answer())),
            (None, None) => Ok(None),
            (None, Some(first)) => {
                // A list may still show what was in a directory that this mount just removed.
                let gone = self.names.lock().tree.is_gone(parent, name, None, self.clock.now());
                if gone && self.is_absent(cx, first).await? {
                    return Ok(None);
                }
                if *first == marker { self.ask_marker(cx, &marker).await.map(Some) } else { Ok(Some(self.implicit_answer())) }
            }
        }
    }

    /// A file that is there.
    async fn ask_file(&self, cx: &Ctx, key: &Key) -> Result<Option<Answer>> {
        match self.bucket.head(cx, key).await {
            Ok(head) => Ok(Some(self.answer(head))),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A directory that is there, with its marker's attributes if it has one.
    async fn ask_marker(&self, cx: &Ctx, marker: &Key) -> Result<Answer> {
        match self.bucket.head(cx, marker).await {
            Ok(head) => Ok(self.directory_answer(head)),
            Err(error) if error.kind() == Kind::NotFound => Ok(self.implicit_answer()),
            Err(error) => Err(error.into()),
        }
    }

    fn answer(&self, head: Head) -> Answer {
        Answer { facts: self.facts(&head), head: Some(head) }
    }

    fn directory_answer(&self, head: Head) -> Answer {
        let Answer { facts, head } = self.answer(head);
        Answer { facts: Facts { kind: FileKind::Directory, ..facts }, head }
    }

    fn implicit_answer(&self) -> Answer {
        Answer { facts: self.implicit(), head: None }
    }

    /// Whether COS says by HEAD that there is no such object.
    pub(super) async fn is_absent(&self, cx: &Ctx, key: &Key) -> Result<bool> {
        match self.bucket.head(cx, key).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == Kind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the tree what COS said of a name; returns its inode, if it has one.
    fn apply(&self, names: &mut Names, parent: Ino, name: &Name, key: &Key, answer: Option<Answer>) -> Option<Ino> {
        let now = self.clock.now();
        let child = names.tree.child(parent, name);
        // What this mount has changed meanwhile is newer than the answer.
        if let Some(ino) = child
            && self.is_busy(names, ino)
        {
            return Some(ino);
        }
        let Some(Answer { facts, head }) = answer else {
            names.tree.note_absent(parent, name, now);
            return None;
        };
        if let Some(head) = &head {
            self.index_read(&facts, head);
        }
        if let Some(ino) = child {
            if self.is_same_file(names, ino, &facts) {
                names.tree.update(ino, facts, now);
                return Some(ino);
            }
            names.tree.detach(ino, Nameless::Lost);
        }
        let key = if facts.kind == FileKind::Directory { format!("{}/", key.as_str()) } else { key.as_str().to_owned() };
        Some(names.tree.insert(parent, name, &key, facts, By::Cos, now))
    }

    /// Whether `ino` is being changed here, or holds changes that COS does not have.
    fn is_busy(&self, names: &Names, ino: Ino) -> bool {
        names.tree.node(ino).is_some_and(|node| node.local != Local::Clean) || names.claims.holds(ino) || names.is_changed(ino)
    }

    /// Whether the inode can stand for what COS has now: the version its handles read, or nobody has it open.
    pub(super) fn is_same_file(&self, names: &Names, ino: Ino, facts: &Facts) -> bool {
        let Some(node) = names.tree.node(ino) else { return false };
        if node.facts.kind != facts.kind {
            return false;
        }
        // The kernel keeps a link's target with its inode and asks only once (FUSE_CACHE_SYMLINKS), so another target is another inode.
        let unused = facts.kind != FileKind::Symlink && node.opens == 0 && !names.open.contains_key(&ino);
        if facts.kind == FileKind::Directory || unused {
            return true;
        }
        node.facts.origin.as_ref().zip(facts.origin.as_ref()).is_some_and(|(old, new)| old.same_bytes(new))
    }

    /// What a HEAD says of a file.
    pub(super) fn facts(&self, head: &Head) -> Facts {
        let mut attributes = Attributes::of(head);
        let kind = attributes.kind.unwrap_or(FileKind::File);
        if self.config.posix != Posix::Full {
            let mtime = attributes.mtime.filter(|_| self.config.posix == Posix::Mtime);
            attributes = Attributes { mtime, ..Attributes::default() };
        }
        Facts { kind, attributes, origin: Some(head.version.clone()), modified: head.last_modified }
    }

    /// A directory without a marker. It has no times of its own; the mount's start is as good as any, and does not change.
    pub(super) fn implicit(&self) -> Facts {
        let modified = self.names.lock().tree.node(Ino::ROOT).map_or(std::time::UNIX_EPOCH, |root| root.facts.modified);
        Facts { kind: FileKind::Directory, attributes: Attributes::default(), origin: None, modified }
    }

    /// Asks the kernel to give inodes back when there are more than the budget has room for.
    pub(super) fn relieve(&self) {
        const AT_ONCE: usize = 8;
        let oldest = {
            let mut names = self.names.lock();
            if !names.tree.is_full() {
                return;
            }
            names.tree.oldest(AT_ONCE)
        };
        for (parent, name) in oldest {
            self.notify.entry(parent, name.as_os_str());
        }
    }

    /// Lists a directory in which absent names are asked for again and again, as far as that may be worth it: if it ends there, further absences need
    /// no request.
    async fn list_after_misses(&self, cx: &Ctx, parent: Ino) {
        let pages = {
            let names = self.names.lock();
            let missed = names.tree.directory(parent).map_or(0, |directory| directory.misses);
            // Ever more rarely, and ever more of it: what the misses have cost is about what their end may.
            if !missed.is_multiple_of(MISSES) || !(missed / MISSES).is_power_of_two() || self.config.negative_ttl.is_zero() {
                return;
            }
            missed / MISSES
        };
        if let Err(error) = self.list_ahead(cx, parent, pages).await {
            tracing::debug!(%error, "listing ahead of further absent names failed");
        }
    }
}
