//! Attributes behind their chmod, chown, utimens, setxattr.
//!
//! 1. *The first change* of a clean object asks HEAD what it carries, so that whatever forbids the copy (what `--preserve` names cannot be read, 2 KB are not
//!    enough, archived, a customer's key) is the program's answer, before anything changes. Further changes within [`DELAY`] cost nothing but their
//!    note. The copy that sends them all is made with what that HEAD said, pinned to the version it saw.
//! 2. *Who else touches the object* takes them along or drops them, under its claim: an open for writing makes them part of the file's next commit, a
//!    rename gives them to its copy ([`Vfs::head_to_carry`]), an unlink drops them. While they are owed the tree answers for the inode; COS, which has
//!    the old ones, is not asked, and no listing brings them back.
//! 3. *Somebody else's newer version* is not given them: they were meant for another. That is said in the log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::local::{Entry, Ledger, Leftover};

use crate::store::{Head, Key, Kind, Meta};

use crate::support::{Ctx, Urgency};

use crate::vfs::{
    Error, FileKind, Ino, Names, Preserve, Result, Vfs,
    meta::{self, Attributes},
    tree::{Facts, Local, Node},
};

use super::{PATIENCE, PAUSE, known, settled};

/// How long changes are gathered.
const DELAY: Duration = Duration::from_millis(700);
/// How long a HEAD is good for.
const YOUNG: Duration = Duration::from_secs(5);
/// Copies at once.
const AT_ONCE: usize = 16;

/// Attributes that the tree has and the object has not.
#[derive(Debug)]
pub(super) struct Owed {
    carries: Carries,
    /// What the object has instead.
    before: Attributes,
    names_changed: Option<SystemTime>,
    due: Instant,
    noted: Entry,
    /// It was said that they cannot be sent now.
    told: bool,
}

/// What an object is and has.
#[derive(Debug, Clone)]
pub(in crate::vfs) struct Carries {
    pub(in crate::vfs) head: Head,
    /// Everything its successor is to be given.
    pub(in crate::vfs) meta: Meta,
    asked: Instant,
}

impl Names {
    /// Whether the inode has attributes that COS has not.
    pub(in crate::vfs) fn is_changed(&self, ino: Ino) -> bool {
        self.pending.owes(ino) || self.open.get(&ino).is_some_and(|open| open.changed.is_some())
    }

    /// What is known of an object whose attributes are owed.
    pub(in crate::vfs) fn carries(&self, ino: Ino, now: Instant) -> Option<Carries> {
        let carries = self.pending.owed.get(&ino).map(|owed| &owed.carries)?;
        (now.saturating_duration_since(carries.asked) < YOUNG).then(|| carries.clone())
    }

    /// What is owed goes with the next commit of a file that is open for writing, unless it is on its way already.
    pub(in crate::vfs) fn owe_with_commit(&mut self, ino: Ino) {
        if !self.claims.holds(ino) {
            self.owe_with_this_commit(ino);
        }
    }

    /// The same for who has claimed the inode.
    pub(in crate::vfs) fn owe_with_this_commit(&mut self, ino: Ino) {
        let Self { tree, open, pending, .. } = self;
        let Some(open) = open.get_mut(&ino).filter(|open| open.writers > 0) else { return };
        let Some(owed) = pending.owed.remove(&ino) else { return };
        let epoch = tree.advance();
        if let Some(node) = tree.node_mut(ino) {
            node.dirtied = epoch;
        }
        open.changed = Some(epoch);
        open.noted.push(owed.noted);
        tree.unpin(ino);
    }

    /// Nothing is owed any more. The entry is to be settled outside the lock.
    pub(in crate::vfs) fn no_longer_owed(&mut self, ino: Ino) -> Vec<Entry> {
        let mut noted: Vec<Entry> = self.open.get_mut(&ino).map(|open| std::mem::take(&mut open.noted)).unwrap_or_default();
        if let Some(owed) = self.pending.owed.remove(&ino) {
            noted.push(owed.noted);
            self.tree.unpin(ino);
        }
        noted
    }
}

impl Vfs {
    /// Changes a clean object here, and notes, durably, that it is to be sent. `false` if it has to be sent before the reply. The inode is claimed.
    pub(in crate::vfs) async fn promise_attributes(
        self: &Arc<Self>,
        cx: &Ctx,
        ino: Ino,
        change: &impl Fn(&mut Node) -> Result<()>,
    ) -> Result<bool> {
        let Some(ledger) = &self.ledger else { return Ok(false) };
        let Some(carries) = self.what_it_carries(cx, ino).await? else { return Ok(false) };
        // Tried on a copy: nothing changes before it is noted.
        let (before, leftover) = {
            let mut names = self.names.lock();
            let owes = names.pending.owes(ino);
            let node = names.tree.node_mut(ino).ok_or(Error::Stale)?;
            if !owes {
                node.facts = Facts { kind: node.facts.kind, ..self.facts(&carries.head) };
                node.size = carries.head.version.size;
            }
            let before = node.clone();
            let mut node = before.clone();
            change(&mut node)?;
            let meta = self.meta_of(&node, before.mtime(), carries.meta.clone())?;
            let object = known(&carries.head.version, carries.head.last_modified);
            (before, Leftover::Attributes { object, user: meta.user, full: self.config.preserve == Preserve::Full })
        };
        // Taken out meanwhile; the claim answers for it.
        let owed = self.names.lock().pending.owed.remove(&ino);
        let (owed, is_noted) = match owed {
            Some(owed) => {
                let noted = owed.noted.becomes(leftover).await;
                let noted = noted.inspect_err(|error| tracing::warn!(%error, "attributes cannot be noted: they are sent before the reply"));
                (owed, noted.is_ok())
            }
            None => {
                let Some(noted) = Ledger::note_if(Some(ledger), leftover).await else { return Ok(false) };
                let Node { facts: Facts { attributes, .. }, names_changed, .. } = before;
                self.names.lock().tree.pin(ino);
                (Owed { carries, before: attributes, names_changed, due: self.clock.now() + DELAY, noted, told: false }, true)
            }
        };
        let begin = {
            let mut guard = self.names.lock();
            let names = &mut *guard;
            names.pending.owed.insert(ino, owed);
            if !is_noted {
                return Ok(false);
            }
            let touched = names.tree.advance();
            let node = names.tree.node_mut(ino).ok_or(Error::Stale)?;
            change(node)?;
            node.touched = touched;
            !std::mem::replace(&mut names.pending.owing, true)
        };
        if begin {
            self.tasks.spawn(Arc::clone(self).send_when_due());
        }
        Ok(true)
    }

    /// What the object of a clean inode carries, by HEAD unless that is known; `None` if its attributes have to be sent before the reply.
    async fn what_it_carries(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Option<Carries>> {
        let (key, origin, kind, is_open) = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?;
            let open = names.open.get(&ino);
            let unsent = node.local != Local::Clean || open.is_some_and(|open| open.changed.is_some());
            let Some(origin) = node.facts.origin.clone().filter(|_| !unsent && !names.pending.attributes_denied) else { return Ok(None) };
            if let Some(carries) = names.carries(ino, self.clock.now()) {
                return Ok(Some(carries));
            }
            (names.key(&self.keys, ino)?, origin, node.facts.kind, open.is_some())
        };
        let head = match self.bucket.head(cx, &key).await {
            Ok(head) => head,
            Err(error) if error.kind() == Kind::NotFound => return if kind == FileKind::Directory { Ok(None) } else { Err(Error::Stale) },
            Err(error) => return Err(error.into()),
        };
        if !head.version.same_bytes(&origin) {
            if is_open {
                return Err(Error::Stale);
            }
            self.is_overtaken(ino);
        }
        if head.archived {
            return Err(Error::Denied(format!("{key} is archived: restore it first").into()));
        }
        let meta = self.preserved(cx, &head).await?;
        let carries = Carries { head, meta, asked: self.clock.now() };
        if let Some(owed) = self.names.lock().pending.owed.get_mut(&ino) {
            owed.carries = carries.clone();
        }
        Ok(Some(carries))
    }

    /// What the object of `node` is to be given: its attributes, and what it carries besides. Without times of its own it would show those of the copy.
    pub(in crate::vfs) fn meta_of(&self, node: &Node, mtime: SystemTime, mut carried: Meta) -> Result<Meta> {
        self.write_attributes(&node.facts.attributes, node.facts.kind, &mut carried)?;
        carried.user.extend(meta::times(node.facts.attributes.mtime.unwrap_or(mtime), self.config.posix));
        Ok(carried)
    }

    /// What the copy of an object under another name is to carry: what it has, and what it is owed. The inode is claimed; when the copy stands,
    /// [`Vfs::drop_owed`] says so.
    pub(in crate::vfs) async fn head_to_carry(&self, cx: &Ctx, ino: Ino, key: &Key) -> Result<Head> {
        let known = self.names.lock().carries(ino, self.clock.now());
        let mut head = match known {
            Some(Carries { head, .. }) => head,
            None => self.bucket.head(cx, key).await?,
        };
        let meant = {
            let names = self.names.lock();
            let owed = names.pending.owed.get(&ino).zip(names.tree.node(ino));
            match owed {
                Some((owed, node)) if owed.carries.head.version.same_bytes(&head.version) => {
                    head.meta = self.meta_of(node, node.mtime(), head.meta)?;
                    true
                }
                Some(_) => false,
                None => true,
            }
        };
        if !meant {
            self.is_overtaken(ino);
        }
        Ok(head)
    }

    /// The object has its attributes, or is gone: nothing is owed any more.
    pub(in crate::vfs) fn drop_owed(&self, ino: Ino) {
        let noted = self.names.lock().no_longer_owed(ino);
        settled(noted);
    }

    /// Somebody else has replaced the object (3).
    pub(in crate::vfs) fn is_overtaken(&self, ino: Ino) {
        if self.names.lock().pending.owes(ino) {
            tracing::warn!(
                key = self.key_of(ino),
                "replaced by somebody else: attributes that were set here before are not given to the new object"
            );
            self.take_back(ino);
        }
    }

    /// The inode shows again what the object has, and COS is asked at the next look.
    fn take_back(&self, ino: Ino) {
        let noted = {
            let mut guard = self.names.lock();
            let names = &mut *guard;
            if let (Some(owed), Some(node)) = (names.pending.owed.get(&ino), names.tree.node_mut(ino)) {
                node.facts.attributes = owed.before.clone();
                node.names_changed = owed.names_changed;
                let now = self.clock.now();
                node.checked = now.checked_sub(self.config.metadata_ttl).unwrap_or(now);
            }
            names.no_longer_owed(ino)
        };
        settled(noted);
        self.notify.inode(ino);
    }

    /// Sends what is owed when it is due, until nothing is.
    async fn send_when_due(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let (due, next) = {
                let mut names = self.names.lock();
                let Some(next) = names.pending.owed.values().map(|owed| owed.due).min() else {
                    names.pending.owing = false;
                    return;
                };
                let due = names.pending.owed.iter().filter(|(_, owed)| owed.due <= now);
                (due.map(|(ino, _)| *ino).collect::<Vec<_>>(), next)
            };
            if due.is_empty() {
                self.clock.sleep(next.saturating_duration_since(now)).await;
                continue;
            }
            // Each failure is told where it happens.
            drop(self.send_all_owed(None, due, false).await);
        }
    }

    /// Sends what these owe, for a caller or for nobody. Under a claim above them they are not claimed. Returns the first failure.
    pub(in crate::vfs) async fn send_all_owed(self: &Arc<Self>, cx: Option<&Ctx>, inos: Vec<Ino>, claimed: bool) -> Result<()> {
        let send = |ino| async move {
            let background = || Ctx::background(Arc::clone(&self.clock), PATIENCE).with_urgency(Urgency::WriteOut);
            let cx = cx.cloned().unwrap_or_else(background);
            if claimed { self.send_owed_claimed(&cx, ino).await } else { self.send_owed(&cx, ino).await }
        };
        let results: Vec<Result<()>> = stream::iter(inos).map(send).buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// Attributes that are owed below a directory, which the caller is moving, are sent.
    pub(in crate::vfs) async fn send_owed_below(self: &Arc<Self>, cx: &Ctx, directory: Ino) -> Result<()> {
        let owing = self.names.lock().owing_below(directory);
        self.send_all_owed(Some(cx), owing, true).await
    }

    /// Sends what the inode is owed now.
    pub(in crate::vfs) async fn send_owed(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        if !self.names.lock().pending.owes(ino) {
            return Ok(());
        }
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        self.whole(async move {
            let claim = vfs.claim(&cx, &[ino]).await.inspect_err(|_| _ = vfs.owe_later(ino))?;
            let sent = vfs.send_owed_claimed(&cx, ino).await;
            drop(claim);
            // A writer came meanwhile: if it failed, his commit tries again.
            vfs.names.lock().owe_with_commit(ino);
            sent
        })
        .await
    }

    async fn send_owed_claimed(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<()> {
        let named = {
            let names = self.names.lock();
            if !names.pending.owes(ino) {
                return Ok(());
            }
            names.tree.node(ino).is_some_and(Node::is_named)
        };
        if !named {
            self.drop_owed(ino);
            return Ok(());
        }
        let sent = self.send_attributes(cx, ino, |_| Ok(())).await;
        match &sent {
            Ok(()) => {}
            Err(Error::Stale | Error::NotFound) => self.is_overtaken(ino),
            Err(error) if error.may_pass() => {
                if self.owe_later(ino) {
                    self.tell_unsent(ino, error);
                }
            }
            Err(error) => {
                let key = self.key_of(ino).unwrap_or_default();
                tracing::error!(%key, "attributes were set here, and COS refuses them; the old ones are there again: {error}");
                self.names.lock().pending.attributes_denied |= matches!(error, Error::Denied(_));
                self.note_refused(ino, &key, "attributes", error);
                self.take_back(ino);
            }
        }
        sent
    }

    /// Tries again after a while. Says whether that was not told yet.
    fn owe_later(&self, ino: Ino) -> bool {
        let mut names = self.names.lock();
        let due = self.clock.now() + PAUSE;
        names.pending.owed.get_mut(&ino).is_some_and(|owed| {
            owed.due = due;
            !std::mem::replace(&mut owed.told, true)
        })
    }
}

impl Names {
    /// COS took attributes: they may be sent behind the reply again.
    pub(in crate::vfs) fn note_attributes_taken(&mut self) {
        self.pending.attributes_denied = false;
    }

    /// Inodes at and below `ino` whose attributes are owed.
    pub(in crate::vfs) fn owing_below(&self, ino: Ino) -> Vec<Ino> {
        self.pending.owed.keys().copied().filter(|owing| self.tree.is_within(*owing, ino)).collect()
    }
}
