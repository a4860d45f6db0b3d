//! Inodes and dentries: plain data, no I/O, never waits.
//!
//! The async part of the room asks the store and then tells the tree, so the lock around it is short. An inode knows its parent and name; keys are
//! made by walking up. Whoever asks COS notes the [`Tree::epoch`] before; if this mount changed the name or the object since
//! ([`Tree::changed_since`]), the answer may be older than the change and is asked for again.
//!
//! Guarantees: an inode number means one file as long as the kernel knows it or it is open (V1); every inode but the root has at most one
//! parent and name, no cycles (V2); beyond its capacity it holds only what is referenced, open or not committed.

mod inode;
mod listing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::store::ObjectVersion;

use crate::vfs::{FileKind, Ino, keymap::Name};

pub(super) use inode::{By, Directory, Facts, Local, Nameless, Node, Place, Was};
pub(super) use listing::{Listed, Listing};

/// How long a listing may lag behind what this mount did itself.
pub(super) const OVERLAY: Duration = Duration::from_secs(30);
/// Names kept as removed, or as absent, in one directory.
const MOST_GONE: usize = 10_000;
const MOST_ABSENT: usize = 256;
/// About what a node with its name, key and edges takes, in bytes.
const NODE_SIZE: u64 = 768;
/// About what a name of a listing takes, in bytes.
const LISTED_SIZE: u64 = 256;

/// All inodes of a mount.
#[derive(Debug)]
pub(super) struct Tree {
    /// Tells mounts of different buckets apart in inode numbers.
    seed: u64,
    /// Nodes and listed names beyond these give way.
    capacity: usize,
    most_listed: usize,
    nodes: HashMap<Ino, Node>,
    /// Counts this mount's own changes of names and objects.
    epoch: u64,
    /// Nodes that were unused once, oldest first; looked at again before they are dropped.
    unused: VecDeque<Ino>,
    /// All nodes, turned like a wheel when the kernel is to give some back.
    wheel: VecDeque<Ino>,
    /// Directories with a listing, oldest first, and how many names these hold.
    listed: VecDeque<Ino>,
    names_listed: usize,
}

impl Tree {
    /// A tree with nothing but a root, which may take about `memory` bytes. `seed` is the bucket's.
    pub(super) fn new(seed: &str, memory: u64, root: Facts, now: Instant) -> Self {
        let mut tree = Self {
            seed: hash(0, seed),
            capacity: usize::try_from(memory * 3 / 4 / NODE_SIZE).unwrap_or(usize::MAX).max(64),
            most_listed: usize::try_from(memory / 4 / LISTED_SIZE).unwrap_or(usize::MAX).max(64),
            nodes: HashMap::new(),
            epoch: 0,
            unused: VecDeque::new(),
            wheel: VecDeque::new(),
            listed: VecDeque::new(),
            names_listed: 0,
        };
        tree.nodes.insert(Ino::ROOT, Node::new(Place::Root, root, Local::Clean, now));
        tree
    }

    /// The number of this mount's last change of names or objects.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts one more change.
    pub(super) fn advance(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch
    }

    /// The record of `ino`.
    pub(super) fn node(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    /// The record of `ino`, to be changed in all but its place and its counts.
    pub(super) fn node_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    /// What `ino` has as a directory.
    pub(super) fn directory(&self, ino: Ino) -> Option<&Directory> {
        self.nodes.get(&ino)?.directory.as_deref()
    }

    fn directory_mut(&mut self, ino: Ino) -> Option<&mut Directory> {
        self.nodes.get_mut(&ino)?.directory.as_deref_mut()
    }

    /// The inode under `name`.
    pub(super) fn child(&self, parent: Ino, name: &Name) -> Option<Ino> {
        self.directory(parent)?.children.get(name).copied()
    }

    /// The names from the root down to `ino`; `None` if it, or a directory above it, has no name any longer.
    pub(super) fn path(&self, ino: Ino) -> Option<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = ino;
        loop {
            match &self.nodes.get(&at)?.place {
                Place::Root => break,
                Place::In(parent, name) => {
                    path.push(name.clone());
                    at = *parent;
                }
                Place::Nowhere(_) => return None,
            }
        }
        path.reverse();
        Some(path)
    }

    /// Whether `ino` is `above` or lies below it.
    pub(super) fn is_within(&self, ino: Ino, above: Ino) -> bool {
        let mut at = ino;
        loop {
            if at == above {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.place) {
                Some(Place::In(parent, _)) => at = *parent,
                _ => return false,
            }
        }
    }

    /// Every inode below `ino`, itself not included.
    pub(super) fn below(&self, ino: Ino) -> Vec<Ino> {
        let mut all = Vec::new();
        let mut open = vec![ino];
        while let Some(directory) = open.pop().and_then(|ino| self.directory(ino)) {
            for child in directory.children.values() {
                all.push(*child);
                open.push(*child);
            }
            while open.last().is_some_and(|ino| self.directory(*ino).is_none()) {
                open.pop();
            }
        }
        all
    }

    /// Whether this mount changed the name, or the object under it, since `epoch`.
    pub(super) fn changed_since(&self, parent: Ino, name: &Name, epoch: u64) -> bool {
        let Some(directory) = self.directory(parent) else { return false };
        let child = directory.children.get(name).and_then(|ino| self.nodes.get(ino));
        child.is_some_and(|node| node.touched > epoch) || directory.gone.get(name).is_some_and(|gone| gone.epoch > epoch)
    }

    /// For how long COS's word that `name` is absent may still be believed.
    pub(super) fn known_absent(&self, parent: Ino, name: &Name, now: Instant, ttl: Duration) -> Option<Duration> {
        let directory = self.directory(parent)?;
        if directory.children.contains_key(name) {
            return None;
        }
        let asked = directory.absent.get(name).copied();
        let said = match &directory.listing {
            Some(listing) if listing.names.contains_key(name) => asked.filter(|asked| *asked >= listing.at),
            Some(listing) => asked.max(Some(listing.at)),
            None => asked,
        }?;
        ttl.checked_sub(now.saturating_duration_since(said)).filter(|left| !left.is_zero())
    }

    /// What a listing younger than `ttl` says of `name`.
    pub(super) fn listed(&self, parent: Ino, name: &Name, now: Instant, ttl: Duration) -> Option<&Listed> {
        let listing = self.directory(parent)?.listing.as_ref()?;
        (now.saturating_duration_since(listing.at) < ttl).then(|| listing.names.get(name)).flatten()
    }

    /// Notes that COS does not have `name`. What the tree had there is lost; returns its number.
    pub(super) fn note_absent(&mut self, parent: Ino, name: &Name, now: Instant) -> Option<Ino> {
        let old = self.child(parent, name);
        if let Some(old) = old {
            self.detach(old, Nameless::Lost);
        }
        if let Some(directory) = self.directory_mut(parent) {
            if directory.absent.len() >= MOST_ABSENT {
                directory.absent.pop_first();
            }
            directory.absent.insert(name.clone(), now);
            directory.misses += 1;
        }
        if let Some(listing) = self.directory_mut(parent).and_then(|directory| directory.listing.as_mut())
            && listing.names.remove(name).is_some()
        {
            self.names_listed -= 1;
        }
        old
    }

    /// Puts a new inode under `name`; one that was there loses its name. `key` gives the number. Who needs the inode raises, opens or pins it before the lock is given up.
    pub(super) fn insert(&mut self, parent: Ino, name: &Name, key: &str, facts: Facts, by: By, now: Instant) -> Ino {
        let (local, own) = match by {
            By::Cos => (Local::Clean, false),
            By::Mount(local) => (local, true),
        };
        // Pinned, because it may be empty and unused once the old entry has gone.
        self.pin(parent);
        if let Some(old) = self.child(parent, name) {
            self.detach(old, if own { Nameless::Removed } else { Nameless::Lost });
        }
        let ino = (0..).map(|salt| self.number(key, salt)).find(|ino| !self.nodes.contains_key(ino)).unwrap_or(Ino(u64::MAX));
        let mut node = Node::new(Place::In(parent, name.clone()), facts, local, now);
        if own {
            node.touched = self.advance();
            node.own = Some(now);
        }
        self.nodes.insert(ino, node);
        self.wheel.push_back(ino);
        self.unused.push_back(ino);
        self.link(parent, name, ino, own);
        self.unpin(parent);
        ino
    }

    /// Takes what COS says of an inode whose file is the same, or that nobody has open.
    pub(super) fn update(&mut self, ino: Ino, facts: Facts, now: Instant) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let same = match (&node.facts.origin, &facts.origin) {
            (Some(old), Some(new)) => old.same_bytes(new),
            (old, new) => old.is_none() == new.is_none(),
        };
        if !same {
            node.link = None;
        }
        if !same || node.facts.attributes != facts.attributes {
            node.ctime = facts.modified.max(facts.attributes.mtime.unwrap_or(facts.modified));
        }
        node.size = facts.origin.as_ref().map_or(0, |origin| origin.size);
        node.facts = facts;
        node.checked = now;
    }

    /// This mount removed the name: listings may show it for a while, and are not believed.
    pub(super) fn remove(&mut self, ino: Ino, now: Instant) {
        if let Some((parent, name)) = self.nodes.get(&ino).and_then(Node::dentry).map(|(parent, name)| (parent, name.clone())) {
            self.unlink(ino, parent, &name, now);
            self.detach(ino, Nameless::Removed);
        }
    }

    /// This mount moved the name. What was at the destination has lost its own.
    pub(super) fn rename(&mut self, ino: Ino, parent: Ino, name: &Name, now: Instant) {
        let Some((old_parent, old_name)) = self.nodes.get(&ino).and_then(Node::dentry).map(|(parent, name)| (parent, name.clone())) else {
            return;
        };
        self.pin(parent);
        if let Some(replaced) = self.child(parent, name)
            && replaced != ino
        {
            self.detach(replaced, Nameless::Removed);
        }
        self.unlink(ino, old_parent, &old_name, now);
        if let Some(directory) = self.directory_mut(old_parent) {
            directory.children.remove(&old_name);
        }
        let epoch = self.advance();
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = Place::In(parent, name.clone());
            node.own = Some(now);
            node.touched = epoch;
        }
        self.link(parent, name, ino, true);
        self.unpin(parent);
        self.settle(old_parent);
    }

    /// Nothing is known of `name` any longer: COS has to be asked.
    pub(super) fn ask_again(&mut self, parent: Ino, name: &Name) {
        self.drop_listing(parent);
        if let Some(directory) = self.directory_mut(parent) {
            directory.gone.remove(name);
            directory.absent.remove(name);
        }
    }

    /// An inode that somebody else's object has taken its name from gets this one. What was there loses it.
    pub(super) fn adopt(&mut self, ino: Ino, parent: Ino, name: &Name, now: Instant) {
        let lost = self.nodes.get(&ino).is_some_and(|node| node.place == Place::Nowhere(Nameless::Lost));
        if !lost || self.directory(parent).is_none() {
            return;
        }
        self.pin(parent);
        if let Some(replaced) = self.child(parent, name) {
            self.detach(replaced, Nameless::Lost);
        }
        let epoch = self.advance();
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = Place::In(parent, name.clone());
            node.was = None;
            node.own = Some(now);
            node.touched = epoch;
        }
        self.link(parent, name, ino, true);
        self.unpin(parent);
    }

    /// The inode keeps its handles and loses its name.
    pub(super) fn detach(&mut self, ino: Ino, why: Nameless) {
        let Some((parent, name)) = self.nodes.get(&ino).and_then(Node::dentry).map(|(parent, name)| (parent, name.clone())) else { return };
        let open = self.nodes.get(&ino).is_some_and(|node| node.opens > 0);
        let was = if why == Nameless::Lost && open { self.path(ino).map(|path| Box::new(Was { parent, path })) } else { None };
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.remove(&name);
        }
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.place = Place::Nowhere(why);
            node.was = was;
        }
        self.settle(ino);
        self.settle(parent);
    }

    /// Edges and listing learn that `name` is there.
    fn link(&mut self, parent: Ino, name: &Name, ino: Ino, own: bool) {
        let listed = Listed::Own { directory: self.directory(ino).is_some() };
        let Some(directory) = self.directory_mut(parent) else { return };
        directory.children.insert(name.clone(), ino);
        directory.absent.remove(name);
        if own {
            directory.gone.remove(name);
        }
        if let Some(listing) = directory.listing.as_mut()
            && (own || !listing.names.contains_key(name))
            && listing.names.insert(name.clone(), listed).is_none()
        {
            self.names_listed += 1;
        }
    }

    /// Listing and overlay learn that this mount took `name` away, which was `ino`.
    fn unlink(&mut self, ino: Ino, parent: Ino, name: &Name, now: Instant) {
        let epoch = self.advance();
        let facts = self.nodes.get(&ino).map(|node| &node.facts);
        let object = facts.and_then(|facts| facts.origin.clone().map(|origin| (origin, facts.modified)));
        let Some(directory) = self.directory_mut(parent) else { return };
        if directory.gone.insert(name.clone(), inode::Gone { at: now, epoch, object }).is_none() {
            directory.gone_order.push_back(name.clone());
        }
        directory.absent.insert(name.clone(), now);
        if directory.absent.len() > MOST_ABSENT {
            directory.absent.pop_first();
        }
        while let Some(oldest) = directory.gone_order.front() {
            let old = directory.gone.get(oldest).is_none_or(|gone| now.saturating_duration_since(gone.at) > OVERLAY);
            if !old && directory.gone_order.len() <= MOST_GONE {
                break;
            }
            directory.gone.remove(oldest);
            directory.gone_order.pop_front();
        }
        if let Some(listing) = directory.listing.as_mut()
            && listing.names.remove(name).is_some()
        {
            self.names_listed -= 1;
        }
    }

    /// Whether a listing that was asked for at `asked` shows `name`, as this `object` or as a directory, although this mount removed it.
    pub(super) fn is_gone(&self, parent: Ino, name: &Name, object: Option<(&ObjectVersion, SystemTime)>, asked: Instant) -> bool {
        let Some(directory) = self.directory(parent).filter(|directory| !directory.children.contains_key(name)) else { return false };
        directory.gone.get(name).is_some_and(|gone| {
            let made_again = asked > gone.at && object.is_some_and(|object| gone.is_followed_by(object));
            !made_again && asked.saturating_duration_since(gone.at) < OVERLAY
        })
    }

    /// Entries that a listing asked for at `asked` may lack: what was never committed, and what this mount made lately.
    pub(super) fn own_children(&self, parent: Ino, asked: Instant) -> Vec<(Name, Ino)> {
        let Some(directory) = self.directory(parent) else { return Vec::new() };
        let own = |ino: &Ino| {
            self.nodes
                .get(ino)
                .is_some_and(|node| node.local == Local::New || node.own.is_some_and(|at| asked.saturating_duration_since(at) < OVERLAY))
        };
        directory.children.iter().filter(|(_, ino)| own(ino)).map(|(name, ino)| (name.clone(), *ino)).collect()
    }

    /// Takes a whole listing whose first page was asked for at `at`. What this mount changed since is put right.
    pub(super) fn set_listing(&mut self, ino: Ino, at: Instant, mut names: BTreeMap<Name, Listed>, keep_own: bool) {
        if keep_own {
            for (name, child) in self.own_children(ino, at) {
                let directory = self.directory(child).is_some();
                names.entry(name).or_insert(Listed::Own { directory });
            }
        }
        names.retain(|name, listed| !self.is_gone(ino, name, listed.object(), at));
        self.drop_listing(ino);
        let count = names.len();
        if count > self.most_listed {
            return;
        }
        let Some(directory) = self.directory_mut(ino) else { return };
        directory.misses = 0;
        directory.listing = Some(Listing { at, names });
        self.names_listed += count;
        self.listed.push_back(ino);
        while self.names_listed > self.most_listed
            && let Some(oldest) = self.listed.pop_front()
        {
            self.drop_listing(oldest);
        }
    }

    /// How many names a listing may have to be kept.
    pub(super) fn most_listed(&self) -> usize {
        self.most_listed
    }

    /// Forgets the listing of `ino`.
    pub(super) fn drop_listing(&mut self, ino: Ino) {
        if let Some(listing) = self.directory_mut(ino).and_then(|directory| directory.listing.take()) {
            self.names_listed -= listing.names.len();
            self.listed.retain(|listed| *listed != ino);
        }
    }

    /// The kernel is given a reference.
    pub(super) fn raise(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups += 1;
        }
    }

    /// The kernel gives `count` references back.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.settle(ino);
    }

    /// A handle is opened.
    pub(super) fn open(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.opens += 1;
        }
    }

    /// A handle is closed; returns how many are left.
    pub(super) fn close(&mut self, ino: Ino) -> u32 {
        let left = self.nodes.get_mut(&ino).map_or(0, |node| {
            node.opens = node.opens.saturating_sub(1);
            node.opens
        });
        self.settle(ino);
        left
    }

    /// Keeps the record while an operation needs it.
    pub(super) fn pin(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins += 1;
        }
    }

    /// The operation is over.
    pub(super) fn unpin(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins = node.pins.saturating_sub(1);
        }
        self.settle(ino);
    }

    /// Whether there are more nodes than the budget gives room for.
    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() > self.capacity
    }

    /// Names of up to `count` inodes that the kernel may be asked to give back: unopened, with nothing below.
    pub(super) fn oldest(&mut self, count: usize) -> Vec<(Ino, Name)> {
        let mut found = Vec::new();
        for _ in 0..self.wheel.len().min(count * 8) {
            let Some(ino) = self.wheel.pop_front() else { break };
            let Some(node) = self.nodes.get(&ino) else { continue };
            self.wheel.push_back(ino);
            let idle = node.opens == 0 && node.pins == 0 && node.local == Local::Clean;
            if idle
                && node.directory.as_ref().is_none_or(|directory| directory.children.is_empty())
                && let Some((parent, name)) = node.dentry()
            {
                found.push((parent, name.clone()));
                if found.len() == count {
                    break;
                }
            }
        }
        found
    }

    /// The number an entry without an inode is shown with, and the first choice for its inode.
    pub(super) fn number(&self, key: &str, salt: u64) -> Ino {
        let number = hash(self.seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)), key);
        // 0 is no inode and 1 is the root.
        Ino(if number < 2 { number + 2 } else { number })
    }

    /// Looks whether `ino` is of use still: what has no name goes at once, what has one when there are too many.
    pub(super) fn settle(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else { return };
        if !node.is_unused() {
            return;
        }
        if node.is_named() {
            self.unused.push_back(ino);
            self.evict();
        } else {
            self.drop_node(ino);
        }
    }

    /// Drops the oldest unused nodes while there are too many.
    fn evict(&mut self) {
        while self.nodes.len() > self.capacity
            && let Some(ino) = self.unused.pop_front()
        {
            if self.nodes.get(&ino).is_some_and(Node::is_unused) {
                self.drop_node(ino);
            }
        }
        // Both queues hold numbers of nodes that are gone or in use again; they are swept before they outgrow the nodes.
        if self.unused.len() > 2 * self.nodes.len() + 1024 {
            let mut seen = std::collections::HashSet::new();
            self.unused.retain(|ino| self.nodes.get(ino).is_some_and(Node::is_unused) && seen.insert(*ino));
        }
        if self.wheel.len() > 2 * self.nodes.len() + 1024 {
            let mut seen = std::collections::HashSet::new();
            self.wheel.retain(|ino| self.nodes.contains_key(ino) && seen.insert(*ino));
        }
    }

    fn drop_node(&mut self, ino: Ino) {
        self.drop_listing(ino);
        let Some(node) = self.nodes.remove(&ino) else { return };
        let Some((parent, name)) = node.dentry() else { return };
        if let Some(directory) = self.directory_mut(parent) {
            directory.children.remove(name);
        }
        let Some(node) = self.nodes.get(&parent) else { return };
        if node.is_unused() {
            if node.is_named() { self.unused.push_back(parent) } else { self.drop_node(parent) }
        }
    }

    /// Checks V2 and the counts.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let mut names = 0;
        for (ino, node) in &self.nodes {
            assert!(ino.0 != 0 && (*ino == Ino::ROOT) == (node.place == Place::Root));
            if let Some((parent, name)) = node.dentry() {
                assert_eq!(self.child(parent, name), Some(*ino), "an inode is where it says it is");
            }
            let mut at = node;
            let mut steps = 0;
            while let Some((parent, _)) = at.dentry() {
                at = &self.nodes[&parent];
                steps += 1;
                assert!(steps <= self.nodes.len(), "no cycles");
            }
            assert!(node.is_named() || !node.is_unused(), "what has no name and no use is dropped");
            if let Some(directory) = &node.directory {
                for (name, child) in &directory.children {
                    assert_eq!(self.nodes[child].dentry(), Some((*ino, name)), "edges lead to nodes that know them");
                }
                names += directory.listing.as_ref().map_or(0, |listing| listing.names.len());
            }
        }
        assert_eq!(names, self.names_listed);
        if self.nodes.len() > self.capacity {
            let unused = self.nodes.values().filter(|node| node.is_unused()).count();
            assert_eq!(unused, 0, "past the capacity nothing unused is kept");
        }
    }
}

impl Node {
    fn new(place: Place, facts: Facts, local: Local, now: Instant) -> Self {
        let mtime: SystemTime = facts.attributes.mtime.unwrap_or(facts.modified);
        Self {
            place,
            was: None,
            size: facts.origin.as_ref().map_or(0, |origin: &ObjectVersion| origin.size),
            atime: mtime,
            ctime: mtime.max(facts.modified),
            times_set: false,
            names_changed: None,
            link: None,
            local,
            checked: now,
            own: None,
            touched: 0,
            dirtied: 0,
            lookups: 0,
            opens: 0,
            pins: 0,
            pages: None,
            directory: (facts.kind == FileKind::Directory).then(Box::default),
            facts,
        }
    }
}

/// A 64-bit hash that is the same on every host and in every release (FNV-1a with the finalizer of MurmurHash3), because programs keep inode numbers.
fn hash(seed: u64, text: &str) -> u64 {
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
