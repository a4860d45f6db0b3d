//! read, write, flush, fsync, release: from a handle straight to its `File` and back.
//!
//! A read touches the handle's shard and nothing else of this room. A write tells the tree that there is something to commit. close(2) commits what
//! is dirty, but only for a process that wrote through the handle: a forked child that closes its inherited copy publishes nothing. Should a writer's
//! close fail, which nobody looks at where it is that of its end, every further close tries again and is told. An empty file that nobody has written
//! yet is as a rule about to be: a shell opens `> file`, moves the descriptor to its place and closes the first, and programs it starts close theirs.
//! Its close makes it only when neither the closing process nor the opening one has it open still.

use std::{collections::HashSet, future::Future, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::data::{self, At, File};

use crate::local::has_open;

use crate::support::Ctx;

use crate::vfs::{
    Error, Fh, Ino, Owner, Result, Vfs,
    handles::Closing,
    tree::{Local, Node},
};

/// Files committed at once to make room.
const COMMITTED_AT_ONCE: usize = 16;

impl Vfs {
    /// The bytes at `offset`, fewer at the end of the file, as slices in order.
    pub async fn read(self: &Arc<Self>, cx: &Ctx, fh: Fh, offset: u64, size: u32) -> Result<Vec<Bytes>> {
        let handle = self.handles.file(fh)?;
        if !handle.read {
            return Err(Error::BadHandle);
        }
        let range = offset..offset.saturating_add(u64::from(size));
        self.committing(cx, handle.ino, || handle.file.read(cx, &handle.reader, range.clone())).await
    }

    /// Writes; returns how many bytes. `owner` is `None` for pages of a mapping or of the page cache (`from_page_cache`), which land at their own
    /// offset whatever the flags.
    pub async fn write(
        self: &Arc<Self>,
        cx: &Ctx,
        fh: Fh,
        offset: u64,
        bytes: Bytes,
        from_page_cache: bool,
        owner: Option<Owner>,
    ) -> Result<u32> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Err(Error::BadHandle);
        }
        self.may_change()?;
        let len = u32::try_from(bytes.len()).map_err(|_| Error::Invalid("more bytes than a write can have"))?;
        let at = if handle.append && !from_page_cache { At::End } else { At::Offset(offset) };
        self.committing(cx, handle.ino, || handle.file.write(cx, at, bytes.clone())).await?;
        handle.writers.lock().wrote(owner.filter(|_| !from_page_cache));
        // The kernel sees to this for what goes through its page cache, but not for direct writes.
        if self.note_changed(handle.ino) && !from_page_cache && cx.uid != 0 {
            self.change_attributes(cx, handle.ino, drop_privileges).await?;
        }
        Ok(len)
    }

    /// close(2) of one duplicate of the handle.
    pub async fn flush(self: &Arc<Self>, cx: &Ctx, fh: Fh, owner: Owner) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.write {
            return Ok(());
        }
        let closing = handle.writers.lock().close(owner);
        match closing {
            Closing::Others => return Ok(()),
            Closing::Unwritten if handle.file.size() == 0 && self.due(handle.ino)?.is_some() => {
                if has_open(vec![cx.pid, handle.opener], handle.ino.0).await {
                    return Ok(());
                }
            }
            Closing::Unwritten | Closing::Commits => {}
        }
        self.commit(cx, handle.ino).await.inspect_err(|_| handle.writers.lock().failed())
    }

    /// Returns when the file's bytes and attributes are in COS.
    pub async fn fsync(self: &Arc<Self>, cx: &Ctx, fh: Fh) -> Result<()> {
        let handle = self.handles.file(fh)?;
        self.commit(cx, handle.ino).await?;
        let sent = self.send_owed(cx, handle.ino).await;
        // What is told now is not told again.
        let refused = self.tell_refusal(handle.ino);
        sent.and(refused)
    }

    /// The last duplicate of the handle is gone. Never fails; what is still dirty when the last writer has gone is committed behind it.
    pub fn release(self: &Arc<Self>, fh: Fh) {
        let Some(handle) = self.handles.remove_file(fh) else { return };
        let ino = handle.ino;
        let (ended, behind) = {
            let mut names = self.names.lock();
            let mut writers = 0;
            if let Some(open) = names.open.get_mut(&ino) {
                open.writers -= u32::from(handle.write && open.writers > 0);
                writers = open.writers;
            }
            match names.tree.close(ino) {
                0 => self.end_or_commit(&mut names, ino),
                _ if handle.write && writers == 0 => (None, names.begin_behind(ino)),
                _ => (None, None),
            }
        };
        self.end(ended);
        if let Some(task) = behind {
            let vfs = Arc::clone(self);
            self.tasks.spawn(async move { vfs.commit_behind(ino, task).await });
        }
    }

    /// Cuts or extends an open file.
    pub(super) async fn truncate(self: &Arc<Self>, cx: &Ctx, ino: Ino, file: &Arc<File>, size: u64) -> Result<()> {
        self.committing(cx, ino, || file.truncate(cx, size)).await?;
        self.note_changed(ino);
        // Also where the size stays and no byte changes: the new mtime is to be sent.
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let epoch = names.tree.epoch();
        if let Some(open) = names.open.get_mut(&ino) {
            open.changed = Some(epoch);
        }
        Ok(())
    }

    /// Runs a call of the data room; where it needs the file committed first, for bytes that have left or for room, commits and runs it again.
    pub(super) async fn committing<T, F>(self: &Arc<Self>, cx: &Ctx, ino: Ino, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = data::Result<T>>,
    {
        match call().await {
            Ok(value) => Ok(value),
            Err(data::Error::Streaming) => {
                self.commit(cx, ino).await?;
                Ok(call().await?)
            }
            Err(data::Error::NoRoom) => self.making_room(cx, ino, call).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Runs a call that found no room again behind commits that make some: of its own file, then of the others, those with the most first. So
    /// where nothing can be spilled any more, files that a program holds open leave before they are closed.
    async fn making_room<T, F>(self: &Arc<Self>, cx: &Ctx, ino: Ino, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = data::Result<T>>,
    {
        let mut tried = HashSet::new();
        loop {
            let heaviest = self.heaviest(ino, &tried);
            tried.extend(heaviest.iter().copied());
            let commits = stream::iter(heaviest).map(|ino| self.commit(cx, ino)).buffer_unordered(COMMITTED_AT_ONCE);
            let results: Vec<Result<()>> = commits.collect().await;
            if results.iter().all(Result::is_err) {
                if let Some(Err(error)) = results.first() {
                    tracing::warn!(%error, "no room for more changes, and those that are here could not be committed");
                }
                return Err(Error::NoSpace);
            }
            match call().await {
                Err(data::Error::NoRoom) => {}
                done => return Ok(done?),
            }
        }
    }

    /// The files with the most dirty bytes, the one of `first` before all, but for those in `tried`.
    fn heaviest(&self, first: Ino, tried: &HashSet<Ino>) -> Vec<Ino> {
        let mut files: Vec<(bool, u64, Ino)> = {
            let names = self.names.lock();
            let others = names.uncommitted().into_iter().filter(|ino| !tried.contains(ino));
            others.filter_map(|ino| Some((ino == first, names.open.get(&ino)?.file.dirty_bytes(), ino))).collect()
        };
        files.retain(|(_, bytes, _)| *bytes > 0);
        files.sort_unstable_by(|one, other| other.cmp(one));
        files.into_iter().take(COMMITTED_AT_ONCE).map(|(_, _, ino)| ino).collect()
    }

    /// The file's bytes were changed: there is something to commit, and a new mtime. Says whether running the file would lend its owner's or
    /// group's rights.
    pub(super) fn note_changed(&self, ino: Ino) -> bool {
        let now = self.clock.wall();
        let mut guard = self.names.lock();
        let names = &mut *guard;
        let epoch = names.tree.advance();
        if let Some(open) = names.open.get_mut(&ino) {
            open.since.get_or_insert(now);
        }
        let Some(node) = names.tree.node_mut(ino) else { return false };
        node.dirtied = epoch;
        if node.local == Local::Clean {
            node.local = Local::Dirty;
        }
        node.facts.attributes.mtime = Some(now);
        node.times_set = false;
        node.ctime = now;
        lends_rights(node.facts.attributes.mode)
    }

    /// The directory's entries are in COS as they are here: files never committed are, removed ones are deleted, and the directory has its attributes.
    pub async fn fsyncdir(self: &Arc<Self>, cx: &Ctx, fh: Fh) -> Result<()> {
        let directory = self.handles.directory(fh)?.ino;
        let new: Vec<Ino> = {
            let names = self.names.lock();
            let children = names.tree.directory(directory).map(|directory| directory.children.values().copied()).into_iter().flatten();
            children.filter(|ino| names.tree.node(*ino).is_some_and(|node| node.local == Local::New)).collect()
        };
        for ino in new {
            self.commit(cx, ino).await?;
        }
        let sent = self.send_owed(cx, directory).await;
        let prefix = self.names.lock().directory_key(&self.keys, directory)?;
        self.wait_for_deletes(cx, &prefix).await?;
        let refused = self.tell_refusal(directory);
        sent.and(refused)
    }
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
/// Without it setgid means something else.
const GROUP_EXECUTES: u32 = 0o0010;

fn lends_rights(mode: Option<u32>) -> bool {
    mode.is_some_and(|mode| mode & SETUID != 0 || mode & SETGID != 0 && mode & GROUP_EXECUTES != 0)
}

/// Whoever writes into a setuid program must not make its owner run what was written (write(2)); root may.
pub(super) fn drop_privileges(node: &mut Node) -> Result<()> {
    let mode = &mut node.facts.attributes.mode;
    if lends_rights(*mode) {
        let group = if mode.is_some_and(|mode| mode & GROUP_EXECUTES != 0) { SETGID } else { 0 };
        *mode = mode.map(|mode| mode & !(SETUID | group));
    }
    Ok(())
}
