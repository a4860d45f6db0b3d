//! create, mknod, mkdir, symlink, readlink.
//!
//! A new file is an inode and nothing else: its first commit sends it, with forbid-overwrite, because that it was absent is only believed. With
//! `--exclusive open` O_EXCL is decided at once, by an empty object. A directory's marker and a symbolic link are sent before the reply.

use std::{ffi::OsStr, sync::Arc};

use bytes::Bytes;

use crate::store::{Key, Meta, Replaces};

use crate::support::Ctx;

use crate::vfs::{
    Entry, Error, Fh, FileKind, Ino, Names, OpenFlags, Opened, Posix, Result, Vfs,
    attr::Draft,
    claims::Claim,
    keymap::{LONGEST_KEY, Name, is_refused, is_unspeakable},
    lookup::Found,
    meta::{self, Attributes, DIRECTORY_TYPE, PLAIN_TYPE},
    open::ReleaseOnDrop,
    tree::{By, Facts, Local, Nameless},
};

/// The most a symbolic link's target may have (PATH_MAX of Linux, less the NUL).
pub(super) const LONGEST_LINK: u64 = 4095;
const SETGID: u32 = 0o2000;
const TYPE_BITS: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const CHARACTERS: u32 = 0o020_000;
const BLOCKS: u32 = 0o060_000;

impl Vfs {
    /// Creates a file, or opens it if it is there and `flags` do not exclude that. `mode` has the umask applied.
    pub async fn create(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32, flags: OpenFlags) -> Result<(Entry, Opened)> {
        self.may_change()?;
        let name = Name::parse(name)?;
        let claim = self.claim(cx, &[parent]).await?;
        self.wait_until_left(cx, parent, &name).await?;
        let found = self.find(cx, parent, &name, |names, ino| {
            names.tree.raise(ino);
            ino
        });
        if let Found::Present(ino) = found.await? {
            drop(claim);
            let forget = ForgetOnDrop::new(self, ino);
            if flags.exclusive {
                return Err(Error::Exists);
            }
            let opened = self.open(cx, ino, flags).await?;
            let draft = self.draft(&self.names.lock(), ino);
            forget.keep();
            return Ok((draft?.entry(), opened));
        }
        let spare = self.data.open(Arc::clone(&self.bucket), None);
        let (ino, attached) = {
            let mut names = self.names.lock();
            let key = self.new_key(&names, parent, &name)?;
            if is_unspeakable(&key) {
                return Err(Error::BadName("`.` and `..` in the root of a bucket are keys that no request can name"));
            }
            let facts = self.new_facts(&names, cx, parent, FileKind::File, mode);
            self.write_attributes(&facts.attributes, FileKind::File, &mut Meta::default())?;
            let ino = names.tree.insert(parent, &name, key.as_str(), facts, By::Mount(Local::New), self.clock.now());
            self.note_names_changed(&mut names, parent);
            names.tree.raise(ino);
            let attached = self.attach(&mut names, ino, &spare, None, flags);
            if let Some(open) = names.open.get_mut(&ino) {
                open.exclusive = flags.exclusive;
            }
            (ino, attached)
        };
        drop(claim);
        let forget = ForgetOnDrop::new(self, ino);
        let opened = self.finish_open(cx, ino, flags, attached).await?;
        if flags.exclusive && self.config.exclusive_at_open {
            self.commit_or_take_back(cx, ino, opened.fh).await?;
        }
        let draft = self.draft(&self.names.lock(), ino);
        forget.keep();
        Ok((draft?.entry(), opened))
    }

    /// Makes a regular file without opening it, or a pipe, a socket or a device node. `mode` has the umask applied and holds the type bits.
    pub async fn mknod(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32, rdev: u32) -> Result<Entry> {
        let kind = mode & TYPE_BITS;
        if !matches!(kind, 0 | REGULAR) {
            // An empty object whose mode says what it is, as COSFS keeps it; what it does is the kernel's.
            if self.config.posix != Posix::Full {
                return Err(Error::NotPermitted("a pipe, socket or device is kept as an attribute, and --posix keeps none"));
            }
            let rdev = matches!(kind, CHARACTERS | BLOCKS).then_some(rdev);
            let made = Made { kind: FileKind::Special(kind), mode, rdev, content_type: PLAIN_TYPE, body: Bytes::new() };
            return self.make(cx, parent, name, made).await;
        }
        let flags = OpenFlags { read: false, write: true, append: false, truncate: false, exclusive: true };
        let (entry, opened) = self.create(cx, parent, name, mode, flags).await?;
        let forget = ForgetOnDrop::new(self, entry.attr.ino);
        self.commit_or_take_back(cx, entry.attr.ino, opened.fh).await?;
        self.release(opened.fh);
        forget.keep();
        Ok(entry)
    }

    /// Makes a directory. `mode` has the umask applied.
    pub async fn mkdir(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, mode: u32) -> Result<Entry> {
        let made = Made { kind: FileKind::Directory, mode, rdev: None, content_type: DIRECTORY_TYPE, body: Bytes::new() };
        self.make(cx, parent, name, made).await
    }

    /// Makes a symbolic link.
    pub async fn symlink(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        let body = Bytes::copy_from_slice(target.as_encoded_bytes());
        if body.is_empty() {
            return Err(Error::NotFound);
        }
        if body.len() as u64 > LONGEST_LINK {
            return Err(Error::NameTooLong);
        }
        if self.config.posix != Posix::Full {
            return Err(Error::NotPermitted("a symbolic link is kept as an attribute, and --posix keeps none"));
        }
        self.make(cx, parent, name, Made { kind: FileKind::Symlink, mode: 0o777, rdev: None, content_type: PLAIN_TYPE, body }).await
    }

    /// A symbolic link's target.
    pub async fn readlink(self: &Arc<Self>, cx: &Ctx, ino: Ino) -> Result<Bytes> {
        let origin = {
            let names = self.names.lock();
            let node = names.tree.node(ino).ok_or(Error::Stale)?;
            if node.facts.kind != FileKind::Symlink {
                return Err(Error::Invalid("not a symbolic link"));
            }
            if let Some(link) = &node.link {
                return Ok(link.clone());
            }
            node.facts.origin.clone().ok_or(Error::Stale)?
        };
        if origin.size == 0 || origin.size > LONGEST_LINK {
            return Err(Error::Io(
                format!("{}: a symbolic link's target has 1 to {LONGEST_LINK} bytes, not {}", origin.key, origin.size).into(),
            ));
        }
        let target = self.bucket.get(cx, &origin, 0..origin.size).await?.collect().await?;
        let mut names = self.names.lock();
        if let Some(node) = names.tree.node_mut(ino)
            && node.facts.origin.as_ref() == Some(&origin)
        {
            node.link = Some(target.clone());
        }
        Ok(target)
    }

    /// Makes an object that is there, whole, before the reply.
    async fn make(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &OsStr, made: Made) -> Result<Entry> {
        self.may_change()?;
        let name = Name::parse(name)?;
        let (vfs, cx) = (Arc::clone(self), cx.clone());
        let (draft, forget) = self
            .whole(async move {
                let claim = vfs.claim(&cx, &[parent]).await?;
                vfs.wait_until_left(&cx, parent, &name).await?;
                if let Found::Present(()) = vfs.find(&cx, parent, &name, |_, _| ()).await? {
                    return Err(Error::Exists);
                }
                let (ino, draft) = vfs.make_claimed(&cx, parent, &name, made, &claim).await?;
                // If nobody waits for it any more, the reference goes with this.
                Ok((draft, ForgetOnDrop::new(&vfs, ino)))
            })
            .await?;
        forget.keep();
        Ok(draft.entry())
    }

    async fn make_claimed(self: &Arc<Self>, cx: &Ctx, parent: Ino, name: &Name, made: Made, _claim: &Claim) -> Result<(Ino, Draft)> {
        let (key, mut facts) = {
            let names = self.names.lock();
            let key = self.new_key(&names, parent, name)?;
            (key, self.new_facts(&names, cx, parent, made.kind, made.mode))
        };
        facts.attributes.rdev = made.rdev;
        let key = if made.kind == FileKind::Directory { Key::new(format!("{key}/")) } else { key };
        if key.as_str().len() > LONGEST_KEY {
            return Err(Error::NameTooLong);
        }
        let mut meta = Meta { content_type: Some(made.content_type.to_owned()), ..Meta::default() };
        self.write_attributes(&facts.attributes, made.kind, &mut meta)?;
        meta.user.extend(meta::times(facts.modified, self.config.posix));
        meta.token = Some(self.token());
        facts.attributes.mtime = (self.config.posix != Posix::None).then_some(facts.modified);
        let stored = self.bucket.put(cx, &key, &meta, made.body.clone().into(), &Replaces::Absent).await;
        let stored: crate::store::Stored = stored.inspect_err(|_| {
            // What is there now was put by somebody else, or by us and the answer lost: COS is asked at the next lookup.
            self.names.lock().tree.drop_listing(parent);
        })?;
        facts.origin = Some(stored.version.clone());
        facts.modified = stored.last_modified.unwrap_or(stored.date);
        self.index_made(&facts, &meta, &stored, stored.last_modified.is_some());
        let mut names = self.names.lock();
        let now = self.clock.now();
        let ino = names.tree.insert(parent, name, key.as_str(), facts, By::Mount(Local::Clean), now);
        if made.kind == FileKind::Directory {
            // Nothing is in it: the marker was not there before.
            names.tree.set_listing(ino, now, std::collections::BTreeMap::new(), true);
        } else if let Some(node) = names.tree.node_mut(ino) {
            node.link = Some(made.body);
        }
        self.note_names_changed(&mut names, parent);
        names.tree.raise(ino);
        Ok((ino, self.draft(&names, ino)?))
    }

    /// The key of a new name, if its directory is there still.
    fn new_key(&self, names: &Names, parent: Ino, name: &Name) -> Result<Key> {
        let key = self.keys.child(&names.directory_key(&self.keys, parent)?, name)?;
        if is_refused(&key) { Err(Error::BadName("COS keys cannot hold the control characters 0x18 to 0x1B")) } else { Ok(key) }
    }

    /// What something new has of attributes: the caller's owner, the group as the directory says.
    fn new_facts(&self, names: &Names, cx: &Ctx, parent: Ino, kind: FileKind, mode: u32) -> Facts {
        let now = self.clock.wall();
        let mut attributes = Attributes::default();
        if self.config.posix == Posix::Full {
            let directory = names.tree.node(parent).map(|node| &node.facts.attributes);
            let inherits = directory.is_some_and(|attributes| attributes.mode.is_some_and(|mode| mode & SETGID != 0));
            let group = directory.and_then(|attributes| attributes.gid).filter(|_| inherits);
            let mode = mode & 0o7777;
            attributes.mode = Some(if inherits && kind == FileKind::Directory { mode | SETGID } else { mode });
            attributes.uid = Some(cx.uid);
            attributes.gid = Some(group.or(cx.gid).unwrap_or(self.config.gid));
        }
        if self.config.posix != Posix::None {
            attributes.mtime = Some(now);
        }
        Facts { kind, attributes, origin: None, modified: now }
    }

    /// Sends a new, empty file; if that fails, it was never there.
    async fn commit_or_take_back(self: &Arc<Self>, cx: &Ctx, ino: Ino, fh: Fh) -> Result<()> {
        let release = ReleaseOnDrop::new(self, fh);
        let committed = self.commit(cx, ino).await;
        if committed.is_err() {
            let mut names = self.names.lock();
            let dentry = names.tree.node(ino).and_then(|node| node.dentry().map(|(parent, name)| (parent, name.clone())));
            names.tree.detach(ino, Nameless::Removed);
            if let Some((parent, name)) = dentry {
                // What is under the name now, if anything, is somebody else's.
                names.tree.ask_again(parent, &name);
            }
        } else {
            release.keep();
        }
        committed
    }
}

/// What [`Vfs::make`] makes.
#[derive(Debug)]
struct Made {
    kind: FileKind,
    mode: u32,
    rdev: Option<u32>,
    content_type: &'static str,
    body: Bytes,
}

/// Takes a reference back that the kernel will not be told of.
#[must_use = "dropping it takes the reference back"]
struct ForgetOnDrop {
    vfs: Arc<Vfs>,
    ino: Ino,
    kept: bool,
}

impl ForgetOnDrop {
    fn new(vfs: &Arc<Vfs>, ino: Ino) -> Self {
        Self { vfs: Arc::clone(vfs), ino, kept: false }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for ForgetOnDrop {
    fn drop(&mut self) {
        if !self.kept {
            self.vfs.forget(self.ino, 1);
        }
    }
}
