//! The tree against a model: random operations, the same answers, and its invariants after each.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    store::{ETag, Key},
    support::{Clock as _, SystemClock},
    vfs::meta::Attributes,
};

const TTL: Duration = Duration::from_secs(5);

fn name(text: &str) -> Name {
    Name::parse(text.as_ref()).unwrap()
}

fn facts(kind: FileKind, key: &str) -> Facts {
    let origin = ObjectVersion { key: Key::new(key), etag: ETag::new("e"), size: 3, version_id: None };
    Facts { kind, attributes: Attributes::default(), origin: Some(origin), modified: SystemTime::UNIX_EPOCH }
}

fn tree(memory: u64) -> (Tree, Instant) {
    let now = SystemClock.now();
    (Tree::new("bucket", memory, facts(FileKind::Directory, "/"), now), now)
}

#[derive(Debug, Clone)]
enum Op {
    Insert { parent: usize, name: u8, directory: bool, own: bool },
    Remove { node: usize },
    Lose { node: usize },
    Rename { node: usize, parent: usize, name: u8 },
    Raise { node: usize },
    Forget { node: usize },
    Open { node: usize },
    Close { node: usize },
    Dirty { node: usize, dirty: bool },
    List { node: usize },
    Absent { parent: usize, name: u8 },
}

fn ops() -> impl Strategy<Value = Op> {
    let node = 0usize..64;
    let letter = 0u8..6;
    prop_oneof![
        6 => (node.clone(), letter.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(parent, name, directory, own)| Op::Insert { parent, name, directory, own }),
        2 => node.clone().prop_map(|node| Op::Remove { node }),
        1 => node.clone().prop_map(|node| Op::Lose { node }),
        3 => (node.clone(), node.clone(), letter.clone()).prop_map(|(node, parent, name)| Op::Rename { node, parent, name }),
        2 => node.clone().prop_map(|node| Op::Raise { node }),
        2 => node.clone().prop_map(|node| Op::Forget { node }),
        1 => node.clone().prop_map(|node| Op::Open { node }),
        1 => node.clone().prop_map(|node| Op::Close { node }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, dirty)| Op::Dirty { node, dirty }),
        1 => node.clone().prop_map(|node| Op::List { node }),
        1 => (node, letter).prop_map(|(parent, name)| Op::Absent { parent, name }),
    ]
}

/// What a tree is, said as simply as can be: edges, kinds, references.
#[derive(Debug, Default)]
struct Model {
    edges: BTreeMap<(Ino, String), Ino>,
    directories: BTreeMap<Ino, bool>,
    references: BTreeMap<Ino, (u64, u32, bool)>,
}

impl Model {
    fn inside(&self, mut ino: Ino, above: Ino) -> bool {
        loop {
            if ino == above {
                return true;
            }
            match self.edges.iter().find(|(_, child)| **child == ino) {
                Some(((parent, _), _)) => ino = *parent,
                None => return false,
            }
        }
    }

    fn unname(&mut self, ino: Ino) {
        self.edges.retain(|_, child| *child != ino);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_model_after_any_operations(ops in proptest::collection::vec(ops(), 1..160)) {
        // Room enough that nothing clean is dropped: the model knows no eviction.
        let (mut tree, now) = tree(64 << 20);
        let mut model = Model::default();
        model.directories.insert(Ino::ROOT, true);
        let mut known = vec![Ino::ROOT];
        for op in ops {
            let pick = |index: usize| known[index % known.len()];
            match op {
                Op::Insert { parent, name: letter, directory, own } => {
                    let parent = pick(parent);
                    let text = char::from(b'a' + letter).to_string();
                    if tree.directory(parent).is_none() {
                        continue;
                    }
                    let kind = if directory { FileKind::Directory } else { FileKind::File };
                    let ino = tree.insert(parent, &name(&text), &text, facts(kind, &text), if own { By::Mount(Local::Clean) } else { By::Cos }, now);
                    if let Some(old) = model.edges.insert((parent, text), ino) {
                        model.references.entry(old).or_default();
                    }
                    model.directories.insert(ino, directory);
                    model.references.insert(ino, (0, 0, false));
                    known.push(ino);
                }
                Op::Remove { node } | Op::Lose { node } if pick(node) != Ino::ROOT => {
                    let ino = pick(node);
                    if matches!(op, Op::Remove { .. }) { tree.remove(ino, now) } else { tree.detach(ino, Nameless::Lost) }
                    model.unname(ino);
                }
                Op::Rename { node, parent, name: letter } => {
                    let (ino, parent) = (pick(node), pick(parent));
                    let named = model.edges.values().any(|child| *child == ino);
                    if !named || tree.directory(parent).is_none() || model.inside(parent, ino) {
                        continue;
                    }
                    let text = char::from(b'a' + letter).to_string();
                    tree.rename(ino, parent, &name(&text), now);
                    model.unname(ino);
                    model.edges.insert((parent, text), ino);
                }
                Op::Raise { node } => {
                    let ino = pick(node);
                    tree.raise(ino);
                    if let Some(references) = model.references.get_mut(&ino) { references.0 += 1 }
                }
                Op::Forget { node } => {
                    let ino = pick(node);
                    tree.forget(ino, 1);
                    if let Some(references) = model.references.get_mut(&ino) { references.0 = references.0.saturating_sub(1) }
                }
                Op::Open { node } => {
                    let ino = pick(node);
                    tree.open(ino);
                    if let Some(references) = model.references.get_mut(&ino) { references.1 += 1 }
                }
                Op::Close { node } => {
                    let ino = pick(node);
                    let left = tree.close(ino);
                    if let Some(references) = model.references.get_mut(&ino) {
                        references.1 = references.1.saturating_sub(1);
                        prop_assert_eq!(left, references.1);
                    }
                }
                Op::Dirty { node, dirty } => {
                    let ino = pick(node);
                    if let Some(node) = tree.node_mut(ino) { node.local = if dirty { Local::Dirty } else { Local::Clean } }
                    // As a commit does when it lets go of its claim.
                    tree.settle(ino);
                }
                Op::List { node } => {
                    let ino = pick(node);
                    let names = BTreeMap::from([(name("a"), Listed::Prefix), (name("z"), Listed::Prefix)]);
                    tree.set_listing(ino, now, names, true);
                }
                Op::Absent { parent, name: letter } => {
                    let parent = pick(parent);
                    let text = char::from(b'a' + letter).to_string();
                    tree.note_absent(parent, &name(&text), now);
                    if tree.directory(parent).is_some() { model.edges.remove(&(parent, text)); }
                }
                Op::Remove { .. } | Op::Lose { .. } => {}
            }
            tree.check_invariants();
            // A directory that was removed goes with its last entry.
            model.edges.retain(|(parent, _), _| tree.node(*parent).is_some());
            for ((parent, text), ino) in &model.edges {
                prop_assert_eq!(tree.child(*parent, &name(text)), Some(*ino));
                prop_assert_eq!(tree.directory(*ino).is_some(), model.directories[ino]);
                // A name that is there is never said to be absent, whatever was listed.
                prop_assert_eq!(tree.known_absent(*parent, &name(text), now, TTL), None);
                prop_assert!(!tree.is_gone(*parent, &name(text), None, now));
            }
            known.retain(|ino| tree.node(*ino).is_some());
            model.references.retain(|ino, _| tree.node(*ino).is_some());
            for (ino, (lookups, opens, _)) in &model.references {
                let node = tree.node(*ino).unwrap();
                prop_assert_eq!((node.lookups, node.opens), (*lookups, *opens));
                let named = model.edges.values().any(|child| child == ino);
                prop_assert_eq!(node.is_named(), named);
            }
        }
    }
}

#[test]
fn numbers_are_stable_and_an_alive_one_is_never_given_again() {
    let (mut tree, now) = tree(1 << 20);
    let first = tree.insert(Ino::ROOT, &name("a"), "a", facts(FileKind::File, "a"), By::Mount(Local::Clean), now);
    assert_eq!(first, tree.number("a", 0));
    tree.raise(first);
    tree.rename(first, Ino::ROOT, &name("b"), now);
    let second = tree.insert(Ino::ROOT, &name("a"), "a", facts(FileKind::File, "a"), By::Mount(Local::Clean), now);
    assert_eq!(second, tree.number("a", 1), "the number is taken, so the next salt is");
    assert_ne!(tree.number("a", 0), Tree::new("other", 0, facts(FileKind::Directory, "/"), now).number("a", 0));
}

#[test]
fn what_nobody_needs_gives_way_and_what_is_needed_stays() {
    let (mut tree, now) = tree(0);
    let held = tree.insert(Ino::ROOT, &name("held"), "held", facts(FileKind::File, "held"), By::Cos, now);
    tree.raise(held);
    let new = tree.insert(Ino::ROOT, &name("new"), "new", facts(FileKind::File, "new"), By::Mount(Local::New), now);
    let mut last = held;
    for n in 0..500 {
        let text = format!("f{n}");
        last = tree.insert(Ino::ROOT, &name(&text), &text, facts(FileKind::File, &text), By::Cos, now);
        tree.settle(last);
        tree.check_invariants();
    }
    assert!(tree.nodes.len() <= tree.capacity, "bounded");
    assert!(tree.node(held).is_some() && tree.node(new).is_some() && tree.node(last).is_some());
    assert!(tree.unused.len() <= 2 * tree.nodes.len() + 1025 && tree.wheel.len() <= 2 * tree.nodes.len() + 1025);
}

#[test]
fn the_kernel_is_asked_for_unopened_inodes_in_turn() {
    let (mut tree, now) = tree(0);
    for n in 0..100 {
        let text = format!("f{n}");
        let ino = tree.insert(Ino::ROOT, &name(&text), &text, facts(FileKind::File, &text), By::Cos, now);
        tree.raise(ino);
        if n == 0 {
            tree.open(ino);
        }
    }
    assert!(tree.is_full());
    let first: Vec<_> = tree.oldest(3).into_iter().map(|(_, name)| name).collect();
    assert_eq!(first, [name("f1"), name("f2"), name("f3")], "an open one is not asked for");
    assert_eq!(tree.oldest(1)[0].1, name("f4"));
}

#[test]
fn a_listing_knows_what_this_mount_did_since() {
    let (mut tree, now) = tree(1 << 20);
    let old = tree.insert(Ino::ROOT, &name("old"), "old", facts(FileKind::File, "old"), By::Cos, now);
    // Asked for before the removal and the creation, arrived after them.
    let asked = now;
    let later = now + Duration::from_millis(5);
    tree.remove(old, later);
    tree.insert(Ino::ROOT, &name("made"), "made", facts(FileKind::File, "made"), By::Mount(Local::Clean), later);
    tree.set_listing(Ino::ROOT, asked, BTreeMap::from([(name("old"), Listed::Prefix)]), true);
    let listing = &tree.directory(Ino::ROOT).unwrap().listing.as_ref().unwrap().names;
    assert_eq!(listing.keys().collect::<Vec<_>>(), [&name("made")]);
    assert!(tree.known_absent(Ino::ROOT, &name("old"), later, TTL).is_some());
    assert!(tree.known_absent(Ino::ROOT, &name("never"), later, TTL).is_some());
    assert_eq!(tree.known_absent(Ino::ROOT, &name("never"), later + TTL, TTL), None, "absences age");
    tree.check_invariants();
}

#[test]
fn an_answer_from_before_a_change_is_known_to_be_old() {
    let (mut tree, now) = tree(1 << 20);
    let epoch = tree.epoch();
    assert!(!tree.changed_since(Ino::ROOT, &name("a"), epoch));
    let ino = tree.insert(Ino::ROOT, &name("a"), "a", facts(FileKind::File, "a"), By::Mount(Local::Clean), now);
    assert!(tree.changed_since(Ino::ROOT, &name("a"), epoch));
    let epoch = tree.epoch();
    tree.rename(ino, Ino::ROOT, &name("b"), now);
    assert!(tree.changed_since(Ino::ROOT, &name("a"), epoch) && tree.changed_since(Ino::ROOT, &name("b"), epoch));
}
