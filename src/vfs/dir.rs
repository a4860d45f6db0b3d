//! opendir, readdir, releasedir.
//!
//! Entries come in the order of their keys (a directory sorts as `name/`), a page of the listing at a time, so that ten million names never live in
//! memory. What only this mount knows is merged into the page whose keys it lies between: files never committed, names made lately; names removed
//! lately are left out. Since a name's place in the order does not change, an entry that exists throughout appears exactly once, whatever else comes
//! and goes.
//!
//! 1. Offsets: 0 is the beginning, 1 is behind `.`, 2 behind `..` (both given out here), and so on by position in the listing as this handle saw
//!    it. The kernel asks again for what did not fit into the program's buffer, so a handle keeps what it gave out last, name by name, and gives out the
//!    same again: pages are only appended to it, never made anew, and what is created behind the place it stands at does not appear. Only seekdir(3) goes
//!    back further, to where this handle keeps no more than where each page began: from there it lists again and counts.
//! 2. A file `x` and keys below `x/`: the file wins and the directory is hidden. Between the two lie only keys that begin with `x`, so a stack of the files
//!    whose names the current key begins with is all that has to be remembered.
//! 3. An entry carries attributes only if they are known exactly; taking such an entry raises its inode's lookup count. The others go out by name.
//!
//! A directory read to its end is kept as a whole, within the budget: names it lacks are then absent without a request.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::OsStr,
    sync::Arc,
};

use tokio::time::Instant;

use crate::store::{Key, ListRequest};

use crate::support::Ctx;

use crate::vfs::{
    Defect, DirEntry, DirSink, Error, Fh, FileKind, Ino, Names, Posix, Pushed, Result, Vfs,
    attr::Draft,
    create::LONGEST_LINK,
    keymap::{Name, is_unspeakable},
    meta::Attributes,
    pages::{FRUITLESS, endless},
    tree::{By, Facts, Listed, Local},
};

/// Position of the first entry behind `.` and `..`.
const FIRST: u64 = 2;
/// Entries kept behind the place a handle stands at: more than one answer to the kernel has.
const LOOK_BACK: usize = 4096;

/// Beginnings of pages that a handle remembers.
const CHECKPOINTS: usize = 1024;

/// One open directory.
#[derive(Debug)]
pub(super) struct DirectoryHandle {
    pub(super) ino: Ino,
    /// One readdir of a handle at a time, as the kernel asks anyway; held while a page is fetched.
    state: tokio::sync::Mutex<State>,
}

/// Where a directory handle stands.
#[derive(Debug)]
struct State {
    /// What was given out last and what comes next, and the position of its first entry. Invariant: an entry keeps its position.
    window: VecDeque<Item>,
    first: u64,
    /// Behind the window.
    next: Next,
    /// Where each page began, by position.
    checkpoints: Vec<(u64, Cursor)>,
    /// The names so far, while the listing has gone on without a break and is not too long; and when it began.
    whole: Option<(Instant, BTreeMap<Name, Listed>)>,
}

#[derive(Debug, Clone)]
enum Next {
    Page(Cursor),
    End,
}

/// Where a page begins, relative to the directory, which may be renamed meanwhile.
#[derive(Debug, Clone, Default)]
struct Cursor {
    after: Option<String>,
    /// Files whose names the last key began with (2).
    files: Vec<String>,
}

#[derive(Debug, Clone)]
struct Item {
    name: Name,
    listed: Listed,
    /// When the page it is from was asked for.
    asked: Instant,
}

impl State {
    fn new() -> Self {
        Self { window: VecDeque::new(), first: FIRST, next: Next::Page(Cursor::default()), checkpoints: Vec::new(), whole: None }
    }

    /// The position behind the window.
    fn end(&self) -> u64 {
        self.first + self.window.len() as u64
    }

    /// Lets go of what lies far behind `at`.
    fn trim(&mut self, at: u64) {
        let behind = usize::try_from(at.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.window.len());
        let old = behind.saturating_sub(LOOK_BACK);
        self.window.drain(..old);
        self.first += old as u64;
    }

    /// Back to the page that `at` lies in, which is listed again.
    fn go_back(&mut self, at: u64) {
        let page = self.checkpoints.iter().rposition(|(first, _)| *first <= at).unwrap_or(0);
        let (first, cursor) = self.checkpoints.get(page).cloned().unwrap_or((FIRST, Cursor::default()));
        self.checkpoints.truncate(page + 1);
        *self = Self { first, next: Next::Page(cursor), checkpoints: std::mem::take(&mut self.checkpoints), ..Self::new() };
    }
}

impl Vfs {
    /// Opens a directory.
    pub async fn opendir(self: &Arc<Self>, _cx: &Ctx, ino: Ino) -> Result<Fh> {
        let mut names = self.names.lock();
        if !names.tree.node(ino).ok_or(Error::Stale)?.is_directory() {
            return Err(Error::NotADirectory);
        }
        names.tree.open(ino);
        drop(names);
        Ok(self.handles.add_directory(DirectoryHandle { ino, state: tokio::sync::Mutex::new(State::new()) }))
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: Fh) {
        if let Some(handle) = self.handles.remove_directory(fh) {
            self.names.lock().tree.close(handle.ino);
        }
    }

    /// Entries behind `offset` (0: the beginning; `.` and `..` included), until the sink is full or the directory ends. With `plus`, entries
    /// carry attributes where they are known.
    pub async fn readdir(self: &Arc<Self>, cx: &Ctx, fh: Fh, offset: u64, plus: bool, sink: &mut dyn DirSink) -> Result<()> {
        let handle = self.handles.directory(fh)?;
        let mut state = handle.state.lock().await;
        let mut at = offset;
        if at == 0 {
            *state = State::new();
        }
        while at < FIRST {
            let (name, ino) = if at == 0 { (".", handle.ino) } else { ("..", self.parent(handle.ino)) };
            let entry = DirEntry { name: OsStr::new(name), ino, kind: Some(FileKind::Directory), next: at + 1, entry: None };
            if sink.push(&entry) == Pushed::Full {
                return Ok(());
            }
            at += 1;
        }
        // What an error follows never reaches the kernel, and the references it was given with are never given back: so behind the first entry
        // nothing is waited for, and what goes wrong there is for the next call to say.
        let mut given = false;
        let mut fruitless = 0;
        loop {
            if at < state.first {
                state.go_back(at);
            }
            let Some(item) = usize::try_from(at - state.first).ok().and_then(|index| state.window.get(index)).cloned() else {
                let (Next::Page(cursor), false) = (state.next.clone(), given) else { return Ok(()) };
                // Pages of which nothing can be shown count as empty ones: this call cannot be interrupted.
                fruitless += 1;
                if fruitless > FRUITLESS {
                    return Err(endless("a directory").into());
                }
                self.next_page(cx, handle.ino, &mut state, at, cursor).await?;
                continue;
            };
            match self.offer(handle.ino, &item, at + 1, plus, sink) {
                Ok(Some(Pushed::Full)) => {
                    self.relieve();
                    return Ok(());
                }
                Ok(Some(Pushed::Taken)) => given = true,
                Ok(None) => {}
                Err(_) if given => return Ok(()),
                Err(error) => return Err(error),
            }
            at += 1;
        }
    }

    fn parent(&self, ino: Ino) -> Ino {
        self.names.lock().tree.node(ino).and_then(|node| node.dentry().map(|(parent, _)| parent)).unwrap_or(Ino::ROOT)
    }

    /// Offers one entry, with its attributes where they are known; `None` if it has gone meanwhile.
    fn offer(&self, directory: Ino, item: &Item, next: u64, plus: bool, sink: &mut dyn DirSink) -> Result<Option<Pushed>> {
        let (shown, kind, draft) = {
            let mut names = self.names.lock();
            if names.tree.is_gone(directory, &item.name, item.listed.object(), item.asked) {
                return Ok(None);
            }
            self.take_listed(&mut names, directory, item, plus);
            let child = names.tree.child(directory, &item.name);
            let key = self.keys.child(&names.directory_key(&self.keys, directory)?, &item.name)?;
            let node = child.and_then(|ino| names.tree.node(ino).map(|node| (ino, node.facts.kind)));
            let kind = node.map(|(_, kind)| kind).or(match &item.listed {
                Listed::Prefix | Listed::Own { directory: true } => Some(FileKind::Directory),
                // A symbolic link's body is never longer.
                Listed::Object { version, .. } if version.size > LONGEST_LINK => Some(FileKind::File),
                Listed::Object { .. } | Listed::Own { directory: false } => None,
            });
            let marker = if kind == Some(FileKind::Directory) { "/" } else { "" };
            let shown = child.unwrap_or_else(|| names.tree.number(&format!("{key}{marker}"), 0));
            let known = child.filter(|ino| plus && self.is_fresh(&names, *ino, self.clock.now()));
            let draft: Option<Draft> = known.map(|ino| self.draft(&names, ino)).transpose()?;
            if let Some(ino) = known {
                names.tree.raise(ino);
            }
            (shown, kind, draft)
        };
        let entry = draft.map(Draft::entry);
        let pushed = sink.push(&DirEntry { name: item.name.as_os_str(), ino: shown, kind, next, entry });
        if pushed == Pushed::Full && entry.is_some() {
            self.forget(shown, 1);
        }
        Ok(Some(pushed))
    }

    /// Lets the tree learn what a listing says exactly: of objects that the index knows, or of all where no attributes are kept.
    fn take_listed(&self, names: &mut Names, directory: Ino, item: &Item, insert: bool) {
        let Listed::Object { version, modified } = &item.listed else { return };
        let child = names.tree.child(directory, &item.name);
        let settled = child.is_none_or(|ino| {
            let changed = names.is_changed(ino);
            let node = names.tree.node(ino);
            let own = node.is_some_and(|node| node.local != Local::Clean);
            // What this mount did itself is newer than any listing, until that is asked for afterwards.
            let newer = node.is_some_and(|node| node.facts.origin.as_ref().is_none_or(|origin| !origin.same_bytes(version)));
            !own && !changed && !names.claims.holds(ino) && !newer
        });
        if !settled || child.is_none() && (!insert || names.tree.is_full()) {
            return;
        }
        let plain =
            || Facts { kind: FileKind::File, attributes: Attributes::default(), origin: Some(version.clone()), modified: *modified };
        let known = if self.config.posix == Posix::None { Some(plain()) } else { self.index.find(version, *modified) };
        let Some(facts) = known else { return };
        let now = self.clock.now();
        match child {
            Some(ino) if self.is_same_file(names, ino, &facts) => names.tree.update(ino, facts, now),
            Some(_) => {}
            None if facts.kind != FileKind::Directory => {
                names.tree.insert(directory, &item.name, version.key.as_str(), facts, By::Cos, now);
            }
            None => {}
        }
    }

    /// Appends the page that begins at `cursor` to the window of a handle that stands at `at`.
    async fn next_page(&self, cx: &Ctx, directory: Ino, state: &mut State, at: u64, cursor: Cursor) -> Result<()> {
        let beginning = cursor.after.is_none();
        if beginning && let Some(all) = self.fresh_listing(directory)? {
            *state = State { window: all.into(), next: Next::End, ..State::new() };
            return Ok(());
        }
        let asked = self.clock.now();
        if beginning {
            state.whole = Some((asked, BTreeMap::new()));
        }
        let (page, next) = self.fetch(cx, directory, &cursor, asked).await?;
        let first = state.end();
        if state.checkpoints.last().is_none_or(|(last, _)| *last < first) {
            state.checkpoints.push((first, cursor));
            if state.checkpoints.len() > CHECKPOINTS {
                // Every other one will do: to go back then lists two pages where it listed one.
                let mut index = 0;
                state.checkpoints.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
        }
        let most = self.names.lock().tree.most_listed();
        if let Some((_, names)) = &mut state.whole {
            names.extend(page.iter().map(|item| (item.name.clone(), item.listed.clone())));
        }
        state.whole = state.whole.take().filter(|(_, names)| names.len() <= most);
        if let Next::End = next
            && let Some((asked, names)) = state.whole.take()
        {
            self.keep_listing(directory, asked, names);
        }
        state.trim(at);
        state.window.extend(page);
        state.next = next;
        Ok(())
    }

    /// The directory as it is remembered, if that is young enough: in the order in which COS would list it.
    fn fresh_listing(&self, directory: Ino) -> Result<Option<Vec<Item>>> {
        let names = self.names.lock();
        let Some(listing) = names.tree.directory(directory).and_then(|directory| directory.listing.as_ref()) else { return Ok(None) };
        if self.clock.now().saturating_duration_since(listing.at) >= self.config.metadata_ttl {
            return Ok(None);
        }
        let prefix = names.directory_key(&self.keys, directory)?;
        let mut items = BTreeMap::new();
        for (name, listed) in &listing.names {
            let marker = matches!(listed, Listed::Prefix | Listed::Own { directory: true });
            let relative = self.relative(&prefix, name, marker)?;
            items.insert(relative, Item { name: name.clone(), listed: listed.clone(), asked: listing.at });
        }
        Ok(Some(items.into_values().collect()))
    }

    /// Where `name` stands in the order of its directory, whose keys begin with `prefix`.
    fn relative(&self, prefix: &str, name: &Name, directory: bool) -> Result<String> {
        let key = self.keys.child(prefix, name)?;
        let slash = if directory { "/" } else { "" };
        Ok(format!("{}{slash}", &key.as_str()[prefix.len()..]))
    }

    pub(super) fn keep_listing(&self, directory: Ino, asked: Instant, names: BTreeMap<Name, Listed>) {
        // Seeded defect: the differential tester must find that a listing is believed to know what was made since it was asked for.
        let lost = self.config.defect == Some(Defect::EntryCreatedDuringListingLost);
        let at = if lost { self.clock.now() } else { asked };
        self.names.lock().tree.set_listing(directory, at, names, !lost);
    }

    /// Lists a directory, so that its absences are known, if so many pages hold it.
    pub(super) async fn list_ahead(&self, cx: &Ctx, directory: Ino, pages: u32) -> Result<()> {
        let asked = self.clock.now();
        let most = self.names.lock().tree.most_listed();
        let (mut cursor, mut names) = (Cursor::default(), BTreeMap::new());
        for _ in 0..pages {
            let (page, next) = self.fetch(cx, directory, &cursor, asked).await?;
            names.extend(page.into_iter().map(|item| (item.name, item.listed)));
            match next {
                Next::End => {
                    self.keep_listing(directory, asked, names);
                    break;
                }
                Next::Page(_) if names.len() > most => break,
                Next::Page(next) => cursor = next,
            }
        }
        Ok(())
    }

    /// One page of a directory, with what only this mount knows.
    async fn fetch(&self, cx: &Ctx, directory: Ino, cursor: &Cursor, asked: Instant) -> Result<(Vec<Item>, Next)> {
        let mut prefix = self.names.lock().directory_key(&self.keys, directory)?;
        let page = loop {
            let after = cursor.after.as_ref().map(|after| Key::new(format!("{prefix}{after}")));
            let request = ListRequest { prefix: prefix.clone(), delimited: true, after, limit: None };
            let page = self.bucket.list(cx, &request).await?;
            let now = self.names.lock().directory_key(&self.keys, directory)?;
            if now == prefix {
                break page;
            }
            // Renamed meanwhile: what is left under the old name is not the directory.
            prefix = now;
        };
        let next = page.next.as_ref().map(|next| next.as_str().strip_prefix(&prefix).unwrap_or_default().to_owned());

        // By key relative to the directory, a directory's ending in `/`; the marker of the directory itself is no entry.
        let mut entries: BTreeMap<String, Item> = BTreeMap::new();
        let objects = page
            .objects
            .into_iter()
            .map(|object| (object.version.key.clone(), Listed::Object { version: object.version, modified: object.last_modified }));
        for (key, listed) in objects.chain(page.prefixes.into_iter().map(|key| (key, Listed::Prefix))) {
            let Some(relative) = key.as_str().strip_prefix(&prefix).filter(|relative| !relative.is_empty()) else { continue };
            let component = if listed == Listed::Prefix { relative.strip_suffix('/').unwrap_or(relative) } else { relative };
            if is_unspeakable(&key) {
                continue;
            }
            // A key that is as long as COS allows leaves no room for what a name may need.
            if let Some(name) = self.keys.name_of(component).filter(|name| self.keys.child(&prefix, name).is_ok()) {
                entries.insert(relative.to_owned(), Item { name, listed, asked });
            }
        }
        self.merge_own(directory, &prefix, asked, (cursor.after.as_deref(), next.as_deref()), &mut entries)?;

        let mut files = cursor.files.clone();
        let mut items = Vec::with_capacity(entries.len());
        for (relative, item) in entries {
            files.retain(|file| relative.starts_with(file.as_str()));
            match relative.strip_suffix('/') {
                Some(stem) if files.iter().any(|file| file == stem) => continue,
                Some(_) => {}
                None => files.push(relative),
            }
            items.push(item);
        }
        let next = next.map_or(Next::End, |after| Next::Page(Cursor { after: Some(after), files }));
        Ok((items, next))
    }

    /// Adds what this mount made, and takes out what it removed, between two keys of the listing.
    fn merge_own(
        &self,
        directory: Ino,
        prefix: &str,
        asked: Instant,
        (after, upto): (Option<&str>, Option<&str>),
        entries: &mut BTreeMap<String, Item>,
    ) -> Result<()> {
        let names = self.names.lock();
        let mut own = HashMap::new();
        for (name, ino) in names.tree.own_children(directory, asked) {
            let is_directory = names.tree.directory(ino).is_some();
            let relative = self.relative(prefix, &name, is_directory)?;
            own.insert(name, (relative, is_directory));
        }
        // A file in place of a directory, or the other way round, is where its own key is, and only there.
        entries.retain(|relative, item| {
            !names.tree.is_gone(directory, &item.name, item.listed.object(), asked)
                && own.get(&item.name).is_none_or(|(own, _)| own == relative)
        });
        for (name, (relative, directory)) in own {
            let here = after.is_none_or(|after| relative.as_str() > after) && upto.is_none_or(|upto| relative.as_str() <= upto);
            if here {
                entries.entry(relative).or_insert(Item { name, listed: Listed::Own { directory }, asked });
            }
        }
        Ok(())
    }
}
