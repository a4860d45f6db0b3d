//! The operations, and how a seed chooses them.
//!
//! Names, handles and sizes come from small sets, so that operations meet: a rename finds an open file, a write an old hole. Each operation is
//! whole in itself (names and slots, never "the file opened above"), so any part of a list can be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One operation and the process that does it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub process: usize,
    #[serde(flatten)]
    pub action: Action,
}

/// What the worker is told; the field names are its parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[rustfmt::skip]
pub enum Action {
    Open { slot: u32, path: String, flags: String, mode: u32 },
    Close { slot: u32 },
    Dup { slot: u32, to: u32 },
    Write { slot: u32, length: u64, tag: u64 },
    Pwrite { slot: u32, at: u64, length: u64, tag: u64 },
    Read { slot: u32, length: u64 },
    Pread { slot: u32, at: u64, length: u64 },
    Seek { slot: u32, at: i64, end: bool },
    Ftruncate { slot: u32, size: u64 },
    Fsync { slot: u32, data: bool },
    Fstat { slot: u32 },
    Futimens { slot: u32, mtime: u64 },
    Copy { slot: u32, at: u64, to: u32, to_at: u64, length: u64 },
    Fallocate { slot: u32, how: String, at: u64, length: u64 },
    Holes { slot: u32 },
    ForkWrite { slot: u32, length: u64, tag: u64 },
    ForkClose { slot: u32 },
    Map { slot: u32, map: u32, at: u64, length: u64, write: bool },
    Unmap { map: u32 },
    MapWrite { map: u32, at: u64, length: u64, tag: u64 },
    MapRead { map: u32, at: u64, length: u64 },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { path: String, to: String, noreplace: bool },
    Symlink { path: String, target: String },
    Readlink { path: String },
    Truncate { path: String, size: u64 },
    Chmod { path: String, mode: u32 },
    Chown { path: String, uid: u32, gid: u32 },
    Utimens { path: String, mtime: u64, follow: bool },
    Stat { path: String, follow: bool },
    SyncDir { path: String },
    SetXattr { path: String, name: String, value: String, flags: String },
    GetXattr { path: String, name: String },
    RemoveXattr { path: String, name: String },
    List { path: String },
    ListDuring { path: String, first: u32, create: Vec<String>, remove: Vec<String> },
    Fill { path: String, names: Vec<String> },
    ListRace { path: String, create: Vec<String>, remove: Vec<String> },
    WriteRace { path: String, at: u64, pages: u64, tag: u64 },
    /// The tester's own: all handles closed, the mount remounted.
    Remount,
    /// The tester's own: both whole trees compared.
    Compare,
}

impl Action {
    /// Whether its answer, or what it sets, has to do with times or holes, so that mapped pages must be written back before.
    pub fn needs_settled_pages(&self) -> bool {
        let times = matches!(self, Self::Utimens { .. } | Self::Futimens { .. } | Self::Stat { .. } | Self::Fstat { .. } | Self::Compare);
        times || matches!(self, Self::Holes { .. })
    }
}

/// What may be asked for beyond the common ground of all file systems.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    pub xattrs: bool,
    pub chown: bool,
}

/// Numbers from a seed: SplitMix64, where any seed gives a good sequence.
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// What exists, as far as choosing well needs it.
#[derive(Debug, Default)]
pub struct Known {
    pub files: Vec<String>,
    pub directories: Vec<String>,
    pub links: Vec<String>,
}

/// Chooses operations. It follows which slots are in use, so that most choices do something.
#[derive(Debug)]
pub struct Generator {
    chance: Chance,
    abilities: Abilities,
    count: u64,
    handles: Vec<(usize, u32)>,
    maps: Vec<(usize, u32)>,
    /// A handle that is being written sequentially for a while, as `cp` does.
    streaming: Option<(usize, u32, u32)>,
}

pub const PROCESSES: usize = 2;
const SLOTS: u64 = 6;
/// Names that sort unlike the keys made of them (`a-` stands before `a/`), need escaping, or are close to each other.
const COMPONENTS: &[&str] = &["a", "a-", "b.txt", "ü ö%2F", "d"];
/// How names begin of which there are many.
const MANY: &str = "many-";
const XATTRS: &[&str] = &["user.alpha", "user.beta x"];

impl Generator {
    pub fn new(seed: u64, abilities: Abilities) -> Self {
        Self { chance: Chance(seed), abilities, count: 0, handles: Vec::new(), maps: Vec::new(), streaming: None }
    }

    pub fn next(&mut self, known: &Known) -> Step {
        self.count += 1;
        if self.count.is_multiple_of(64) {
            return Step { process: 0, action: Action::Compare };
        }
        if self.chance.one_in(400) {
            return Step { process: 0, action: Action::Remount };
        }
        if let Some((process, slot, left)) = self.streaming {
            self.streaming = (left > 0).then_some((process, slot, left.saturating_sub(1)));
            if !self.chance.one_in(3) {
                let (length, tag) = (self.length(), self.count);
                return Step { process, action: Action::Write { slot, length, tag } };
            }
        }
        match self.chance.below(100) {
            0..10 => self.open(known),
            10..53 if !self.handles.is_empty() => self.on_handle(),
            53..65 if !self.maps.is_empty() => self.on_mapping(),
            _ => Step { process: self.process(), action: self.on_name(known) },
        }
    }

    /// Follows what an operation did.
    pub fn note(&mut self, step: &Step, succeeded: bool) {
        let process = step.process;
        match &step.action {
            Action::Open { slot, flags, .. } if succeeded => {
                self.handles.retain(|handle| *handle != (process, *slot));
                self.handles.push((process, *slot));
                if flags.starts_with('w') && self.chance.one_in(4) {
                    self.streaming = Some((process, *slot, 12));
                }
            }
            Action::Dup { to, .. } if succeeded => {
                self.handles.retain(|handle| *handle != (process, *to));
                self.handles.push((process, *to));
            }
            Action::Close { slot } | Action::Open { slot, .. } => self.handles.retain(|handle| *handle != (process, *slot)),
            Action::Map { map, .. } if succeeded => {
                self.maps.retain(|mapping| *mapping != (process, *map));
                self.maps.push((process, *map));
            }
            Action::Unmap { map } | Action::Map { map, .. } => self.maps.retain(|mapping| *mapping != (process, *map)),
            Action::Remount => {
                self.handles.clear();
                self.maps.clear();
                self.streaming = None;
            }
            _ => {}
        }
    }

    fn process(&mut self) -> usize {
        usize::try_from(self.chance.below(PROCESSES as u64)).unwrap()
    }

    fn slot(&mut self) -> u32 {
        u32::try_from(self.chance.below(SLOTS)).unwrap()
    }

    fn open(&mut self, known: &Known) -> Step {
        let mut access = *self.chance.pick(&["r", "w", "w", "rw", "rw", "rw"]);
        let extra = *self.chance.pick(&["", " creat", " creat", " creat excl", " creat trunc", " trunc", " append", " creat append"]);
        if extra.contains("trunc") && access == "r" {
            // POSIX leaves that undefined.
            access = "rw";
        }
        let path = if extra.contains("excl") || self.chance.one_in(4) { self.any_path() } else { self.old_path(&known.files) };
        let mode = *self.chance.pick(&[0o644, 0o600, 0o666, 0o755]);
        Step { process: self.process(), action: Action::Open { slot: self.slot(), path, flags: format!("{access}{extra}"), mode } }
    }

    fn on_handle(&mut self) -> Step {
        let (process, slot) = *self.chance.pick(&self.handles);
        let tag = self.count;
        let action = match self.chance.below(100) {
            0..12 => Action::Write { slot, length: self.length(), tag },
            12..30 => Action::Pwrite { slot, at: self.offset(), length: self.length(), tag },
            30..37 => Action::Read { slot, length: self.length() },
            37..56 => Action::Pread { slot, at: self.offset(), length: self.length() },
            56..59 => Action::Seek { slot, at: i64::try_from(self.offset()).unwrap(), end: false },
            59..61 => Action::Seek { slot, at: 0, end: true },
            61..67 => Action::Ftruncate { slot, size: self.offset() },
            67..71 => Action::Fsync { slot, data: self.chance.one_in(2) },
            71..75 => Action::Fstat { slot },
            75..77 => Action::Futimens { slot, mtime: self.time() },
            77..79 => Action::Dup { slot, to: self.slot() },
            79..81 => Action::ForkWrite { slot, length: self.length(), tag },
            81..82 => Action::ForkClose { slot },
            82..88 => {
                // Mappings begin at a page, and mostly at the first.
                let at = if self.chance.one_in(3) { self.offset() / 4096 * 4096 } else { 0 };
                Action::Map { slot, map: self.slot(), at, length: 1 + 4 * self.length(), write: !self.chance.one_in(4) }
            }
            88..91 => {
                let to = self.handles.iter().filter(|handle| handle.0 == process).map(|handle| handle.1).collect::<Vec<_>>();
                let to = *self.chance.pick(&to);
                Action::Copy { slot, at: self.offset(), to, to_at: self.offset(), length: self.length() }
            }
            91..94 => {
                let how = (*self.chance.pick(&["punch", "punch", "zero", "zero keep", "keep"])).to_owned();
                Action::Fallocate { slot, how, at: self.offset(), length: self.length() }
            }
            94..95 => Action::Holes { slot },
            _ => Action::Close { slot },
        };
        Step { process, action }
    }

    fn on_mapping(&mut self) -> Step {
        let (process, map) = *self.chance.pick(&self.maps);
        let at = self.offset() / 4;
        let action = match self.chance.below(10) {
            0..5 => Action::MapWrite { map, at, length: self.length(), tag: self.count },
            5..9 => Action::MapRead { map, at, length: self.length() },
            _ => Action::Unmap { map },
        };
        Step { process, action }
    }

    fn on_name(&mut self, known: &Known) -> Action {
        let everything = || [&known.files[..], &known.directories, &known.links].concat();
        match self.chance.below(100) {
            0..10 => Action::Mkdir { path: self.any_path(), mode: *self.chance.pick(&[0o755, 0o700]) },
            10..14 => Action::Rmdir { path: self.old_path(&known.directories) },
            14..24 => Action::Unlink { path: self.any_of(&known.files) },
            24..26 => Action::Unlink { path: self.old_path(&known.links) },
            26..42 => {
                let from = if self.chance.one_in(3) { known.directories.clone() } else { everything() };
                let path = self.old_path(&from);
                let to = if self.chance.one_in(2) { self.any_path() } else { self.old_path(&everything()) };
                Action::Rename { path, to, noreplace: self.chance.one_in(5) }
            }
            42..46 => {
                let target = *self.chance.pick(&["a", "../a", "b.txt", "d/a", "nowhere/at all", "ü ö%2F", "a-"]);
                Action::Symlink { path: self.any_path(), target: target.to_owned() }
            }
            46..49 => Action::Readlink { path: self.old_path(&known.links) },
            49..54 => Action::Truncate { path: self.old_path(&known.files), size: self.offset() },
            54..58 => Action::Chmod { path: self.old_path(&everything()), mode: *self.chance.pick(&[0o644, 0o600, 0o755, 0o711, 0o444]) },
            58..60 if self.abilities.chown => {
                let ids = *self.chance.pick(&[(0, 0), (1000, 1000), (12, 34)]);
                Action::Chown { path: self.old_path(&everything()), uid: ids.0, gid: ids.1 }
            }
            60..65 => Action::Utimens { path: self.old_path(&everything()), mtime: self.time(), follow: !self.chance.one_in(4) },
            65..75 => Action::Stat { path: self.old_path(&everything()), follow: self.chance.one_in(2) },
            75..77 => Action::SyncDir { path: self.old_path(&known.directories) },
            77..81 if self.abilities.xattrs => self.on_xattr(known),
            81..90 if known.files.len() > 150 => Action::Unlink { path: self.any_of(&known.files) },
            81..90 => Action::List { path: self.directory(known) },
            // Now and then more names than the kernel asks for at once, and than a page of the bucket has.
            90..98 if known.files.len() < 60 && self.chance.one_in(2) => self.fill(known),
            90..98 => {
                let path = self.listed_directory(known);
                // Before, among and behind the other names.
                let place = *self.chance.pick(&["0", "c", "~"]);
                let mut create: Vec<_> = (0..self.chance.below(4)).map(|n| format!("{place}-{}-{n}", self.count)).collect();
                if self.chance.one_in(3) {
                    create.push(self.component());
                }
                let remove = if self.chance.one_in(3) { vec![self.component()] } else { Vec::new() };
                if self.chance.one_in(4) {
                    return Action::ListRace { path, create, remove };
                }
                Action::ListDuring { path, first: u32::try_from(self.chance.below(3)).unwrap(), create, remove }
            }
            98 => {
                // Tags are of one operation each; this one needs a range of them.
                let (at, pages, tag) = (self.offset(), 2 + self.chance.below(20), 1_000_000 + 100 * self.count);
                Action::WriteRace { path: self.old_path(&known.files), at, pages, tag }
            }
            _ => Action::Stat { path: self.any_path(), follow: false },
        }
    }

    fn fill(&mut self, known: &Known) -> Action {
        let names = (0..60).map(|n| format!("{MANY}{}-{n:02}", self.count)).collect();
        Action::Fill { path: self.directory(known), names }
    }

    /// A directory worth listing slowly: mostly one that was filled, if there is one.
    fn listed_directory(&mut self, known: &Known) -> String {
        let mut many =
            known.files.iter().map(|file| file.rsplit_once('/').unwrap_or((".", file))).filter(|(_, name)| name.starts_with(MANY));
        match many.next() {
            Some((directory, _)) if !self.chance.one_in(3) => directory.to_owned(),
            _ => self.directory(known),
        }
    }

    fn on_xattr(&mut self, known: &Known) -> Action {
        let path = self.old_path(&known.files);
        let name = (*self.chance.pick(XATTRS)).to_owned();
        let value = (*self.chance.pick(&["", "plain", "line\nbreak", "grün", " spaces "])).to_owned();
        match self.chance.below(4) {
            0 | 1 => Action::SetXattr { path, name, value, flags: (*self.chance.pick(&["", "create", "replace"])).to_owned() },
            2 => Action::GetXattr { path, name },
            _ => Action::RemoveXattr { path, name },
        }
    }

    fn component(&mut self) -> String {
        (*self.chance.pick(COMPONENTS)).to_owned()
    }

    /// Any name one to three deep, there or not.
    fn any_path(&mut self) -> String {
        let depth = *self.chance.pick(&[1, 1, 1, 2, 2, 3]);
        (0..depth).map(|_| self.component()).collect::<Vec<_>>().join("/")
    }

    fn old_path(&mut self, from: &[String]) -> String {
        // Mostly one of the few names that operations meet at, not of those that fill directories.
        let few: Vec<_> = from.iter().filter(|path| COMPONENTS.contains(&path.rsplit('/').next().unwrap())).cloned().collect();
        if few.is_empty() || self.chance.one_in(5) { self.any_of(from) } else { self.any_of(&few) }
    }

    fn any_of(&mut self, from: &[String]) -> String {
        if from.is_empty() || self.chance.one_in(12) { self.any_path() } else { self.chance.pick(from).clone() }
    }

    fn directory(&mut self, known: &Known) -> String {
        if self.chance.one_in(3) { ".".to_owned() } else { self.old_path(&known.directories) }
    }

    /// An offset or size: mostly small, often at or beside a boundary of pages, sectors or blocks.
    fn offset(&mut self) -> u64 {
        match self.chance.below(20) {
            0..3 => 0,
            3..8 => self.chance.below(300),
            8..13 => self.chance.below(40_000),
            13..18 => self.boundary(),
            18 => self.chance.below(300_000),
            _ => self.chance.below(4 << 20),
        }
    }

    fn length(&mut self) -> u64 {
        match self.chance.below(20) {
            0 => 0,
            1..8 => 1 + self.chance.below(100),
            8..14 => 1 + self.chance.below(10_000),
            14..18 => self.boundary().min(200_000),
            18 => 1 + self.chance.below(200_000),
            _ => 1 + self.chance.below(3 << 19),
        }
    }

    fn boundary(&mut self) -> u64 {
        let unit = *self.chance.pick(&[4096, 4096, 16_384, 65_536, 1 << 20]);
        (unit * (1 + self.chance.below(3)) + self.chance.below(3)).saturating_sub(1)
    }

    /// A time in 2001 to 2014, with nanoseconds: never mistaken for now.
    fn time(&mut self) -> u64 {
        (1_000_000_000 + self.chance.below(400_000_000)) * 1_000_000_000 + self.chance.below(1_000_000_000)
    }
}

/// How often each operation came up, for the record of a run.
pub fn census(steps: &[Step]) -> String {
    let mut counts = BTreeMap::new();
    for step in steps {
        let op = serde_json::to_value(&step.action).unwrap()["op"].as_str().unwrap().to_owned();
        *counts.entry(op).or_insert(0) += 1;
    }
    counts.iter().map(|(op, count)| format!("{op} {count}")).collect::<Vec<_>>().join(", ")
}
