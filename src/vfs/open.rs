//! open: which version a handle reads, and what the kernel is told of it.
//!
//! Every open asks COS what is there now (`--consistency` says when not); a file with changes of our own is not asked about. If nobody else has
//! the file open, the inode takes a new version, and its pages go. Otherwise the old inode loses its name and open answers ESTALE once: the
//! kernel looks the name up again and opens what it finds (measured, kernel 6.18). So old bytes never stand under a new version.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::data::File;

use crate::store::{Head, Key, Kind, Meta, ObjectVersion, Sse};

use crate::support::Ctx;

use crate::vfs::{
    Consistency, Error, Fh, FileKind, Ino, Names, OpenFlags, Opened, Result, Vfs,
    handles::{FileHandle, OpenFile, Writers},
    tree::{Local, Nameless},
};

/// How often an answer is asked for again because this mount changed the file meanwhile.
const TRIES: usize = 8;

impl Vfs {
    /// Opens a file.
    pub async fn open(self: &Arc<Self>, cx: &Ctx, ino: Ino, flags: OpenFlags) -> Result<Opened> {
        if flags.write || flags.truncate {
            self.may_change()?;
            self.wait_until_still(cx, ino).await?;
        }
        for _ in 0..TRIES {
            self.wait_while_going(cx, ino).await?;
            let (key, origin, epoch) = {
                let names = self.names.lock();
                let node = names.tree.node(ino).ok_or(Error::Stale)?;
                match node.facts.kind {
                    FileKind::File => {}
                    FileKind::Directory => return Err(Error::IsADirectory),
                    FileKind::Symlink => return Err(Error::Invalid("a symbolic link is followed, not opened")),
                    FileKind::Special(_) => return Err(Error::NotPermitted("device nodes, sockets and pipes are not opened here")),
                }
                // Also where changes are kept that have lost their name: it stands for somebody else's object now.
                if !node.is_named() && node.opens == 0 {
                    return Err(Error::Stale);
                }
                let key = if self.must_ask(&names, ino, flags) { Some(names.key(&self.keys, ino)?) } else { None };
                (key, node.facts.origin.clone(), names.tree.epoch())
            };
            let head = match &key {
                Some(key) => Some(self.head_for_open(cx, ino, key, flags).await?),
                None => None,
            };
            let base = head.as_ref().map(|head| head.version.clone()).or(origin);
            let spare = self.data.open(Arc::clone(&self.bucket), base.clone());
            let attached = {
                let mut names = self.names.lock();
                let node = names.tree.node(ino).ok_or(Error::Stale)?;
                let raced = node.touched > epoch || names.claims.is_going(ino) || key.is_some() && names.key(&self.keys, ino).ok() != key;
                if raced {
                    continue;
                }
                if names.pending.owes(ino)
                    && head.as_ref().zip(origin_of(&names, ino)).is_some_and(|(head, origin)| !head.version.same_bytes(origin))
                {
                    drop(names);
                    self.is_overtaken(ino);
                    continue;
                }
                let meta = self.take_version(&mut names, ino, head)?;
                let node = names.tree.node(ino).ok_or(Error::Stale)?;
                if !names.open.contains_key(&ino) && node.facts.origin != base {
                    continue;
                }
                self.attach(&mut names, ino, &spare, meta, flags)
            };
            return self.finish_open(cx, ino, flags, attached).await;
        }
        Err(Error::Busy("the file changes faster than COS answers".into()))
    }

    /// Whether the open has to ask what COS has.
    fn must_ask(&self, names: &Names, ino: Ino, flags: OpenFlags) -> bool {
        let Some(node) = names.tree.node(ino) else { return false };
        let open = names.open.get(&ino);
        let ours =
            !node.is_named() || node.local != Local::Clean || names.claims.holds(ino) || open.is_some_and(|open| open.changed.is_some());
        // A writer needs to know everything the object carries, so that its successor can be given it.
        let unknown = flags.write && open.is_none_or(|open| open.meta.is_none());
        let revalidate = self.config.consistency != Consistency::Ttl || !self.is_fresh(names, ino, self.clock.now());
        if ours { node.is_named() && unknown && node.local != Local::New } else { unknown || revalidate }
    }

    async fn head_for_open(&self, cx: &Ctx, ino: Ino, key: &Key, flags: OpenFlags) -> Result<Head> {
        let head = match self.bucket.head(cx, key).await {
            Ok(head) => head,
            Err(error) if error.kind() == Kind::NotFound => {
                let mut names = self.names.lock();
                let clean = names.tree.node(ino).is_some_and(|node| node.local == Local::Clean) && !names.claims.holds(ino);
                if clean && names.key(&self.keys, ino).is_ok_and(|now| now == *key) {
                    names.tree.detach(ino, Nameless::Lost);
                }
                return Err(Error::Stale);
            }
            Err(error) => return Err(error.into()),
        };
        if head.archived && !flags.truncate {
            return Err(Error::Denied(format!("{key} is archived: restore it first").into()));
        }
        if head.meta.sse == Some(Sse::Customer) {
            return Err(Error::Denied(format!("{key} is encrypted with a key that this mount does not have").into()));
        }
        Ok(head)
    }

    /// Takes what COS has now for the inode, or takes its name away. Returns what the object carries.
    fn take_version(&self, names: &mut Names, ino: Ino, head: Option<Head>) -> Result<Option<Arc<Meta>>> {
        let Some(head) = head else { return Ok(None) };
        let node = names.tree.node(ino).ok_or(Error::Stale)?;
        let ours = !node.is_named() || node.local != Local::Clean || names.claims.holds(ino) || names.is_changed(ino);
        let same = node.facts.origin.as_ref().is_some_and(|origin| origin.same_bytes(&head.version));
        let facts = self.facts(&head);
        if !ours {
            if !self.is_same_file(names, ino, &facts) {
                names.tree.detach(ino, Nameless::Lost);
                return Err(Error::Stale);
            }
            self.index_read(&facts, &head);
            names.tree.update(ino, facts, self.clock.now());
        } else if !same {
            // Changed by somebody else under changes of ours: the commit will find out.
            return Ok(None);
        }
        Ok(Some(Arc::new(Meta { token: None, ..head.meta })))
    }

    /// Makes a handle, and the open file if there is none yet.
    pub(super) fn attach(&self, names: &mut Names, ino: Ino, spare: &Arc<File>, meta: Option<Arc<Meta>>, flags: OpenFlags) -> Attached {
        let open = names.open.entry(ino).or_insert_with(|| OpenFile {
            file: Arc::clone(spare),
            meta: None,
            writers: 0,
            changed: None,
            exclusive: false,
            streaming: false,
            helper: None,
            attempted: false,
            noted: Vec::new(),
            behind: None,
            since: None,
            refused: None,
        });
        if meta.is_some() {
            open.meta = meta;
        }
        open.writers += u32::from(flags.write);
        let was_streaming = std::mem::take(&mut open.streaming);
        let direct_io = self.config.direct_io || flags.append || flags.write && !flags.read;
        names.tree.open(ino);
        let etag = names.tree.node(ino).and_then(|node| node.facts.origin.as_ref().map(|origin| origin.etag.clone()));
        let mut keep_cache = false;
        let mut only = false;
        if let Some(node) = names.tree.node_mut(ino) {
            keep_cache = node.pages.is_some() && (node.pages == etag || node.local != Local::Clean);
            only = node.opens == 1;
            if !direct_io {
                node.pages = etag;
            }
        }
        let file = Arc::clone(&open.file);
        names.owe_with_commit(ino);
        Attached { file, direct_io, keep_cache, was_streaming, only }
    }

    /// The part of an open that needs no lock: the handle, truncation, streaming.
    pub(super) async fn finish_open(self: &Arc<Self>, cx: &Ctx, ino: Ino, flags: OpenFlags, attached: Attached) -> Result<Opened> {
        let Attached { file, direct_io, keep_cache, was_streaming, only } = attached;
        if was_streaming {
            // With a second handle the bytes may be read or rewritten: they are gathered from now on.
            file.stream_to(None);
        }
        let fh = self.handles.add_file(FileHandle {
            ino,
            reader: file.reader(),
            file: Arc::clone(&file),
            read: flags.read,
            write: flags.write,
            append: flags.append,
            opener: cx.pid,
            writers: Mutex::new(Writers::default()),
        });
        let release = ReleaseOnDrop::new(self, fh);
        if flags.truncate {
            self.truncate(cx, ino, &file, 0).await?;
        }
        if only && flags.write && !flags.read && file.size() == 0 {
            self.start_stream(ino)?;
        }
        release.keep();
        Ok(Opened { fh, direct_io, keep_cache, no_flush: !flags.write })
    }

    /// Lets the bytes of a file that is written from its start leave while they are being written.
    fn start_stream(&self, ino: Ino) -> Result<()> {
        let (file, target) = {
            let mut names = self.names.lock();
            let Some(target) = self.target(&names, ino)? else { return Ok(()) };
            let Some(open) = names.open.get_mut(&ino) else { return Ok(()) };
            // What only a request would tell has to be known when an upload begins.
            if self.lacks_meta(open, &target) {
                return Ok(());
            }
            open.streaming = true;
            (Arc::clone(&open.file), target)
        };
        file.stream_to(Some(target));
        Ok(())
    }

    /// As [`Vfs::start_stream`] where the file streams already, because its attributes changed.
    pub(super) fn restart_stream(&self, ino: Ino) -> Result<()> {
        let streams = self.names.lock().open.get(&ino).is_some_and(|open| open.streaming);
        if streams { self.start_stream(ino) } else { Ok(()) }
    }
}

fn origin_of(names: &Names, ino: Ino) -> Option<&ObjectVersion> {
    names.tree.node(ino)?.facts.origin.as_ref()
}

/// A handle's part of the open file, taken under the lock.
#[derive(Debug)]
pub(super) struct Attached {
    file: Arc<File>,
    direct_io: bool,
    keep_cache: bool,
    was_streaming: bool,
    /// Whether it is the inode's only handle.
    only: bool,
}

/// Releases a handle when dropped, unless it was kept.
#[derive(Debug)]
#[must_use = "dropping it releases the handle"]
pub(super) struct ReleaseOnDrop {
    handle: Option<(Arc<Vfs>, Fh)>,
}

impl ReleaseOnDrop {
    /// Guards `fh`.
    pub(super) fn new(vfs: &Arc<Vfs>, fh: Fh) -> Self {
        Self { handle: Some((Arc::clone(vfs), fh)) }
    }

    /// The handle is the program's now.
    pub(super) fn keep(mut self) {
        self.handle = None;
    }
}

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        if let Some((vfs, fh)) = self.handle.take() {
            vfs.release(fh);
        }
    }
}
