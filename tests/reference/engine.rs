//! Runs operations on both sides, compares after each, and shrinks what differs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    ops::{Abilities, Action, Generator, Step, census},
    side::Side,
    tree,
};

/// What is tested against a local directory.
pub trait World {
    /// A new, empty directory of it, independent of all before.
    fn fresh(&mut self) -> PathBuf;

    /// Unmounts and mounts again; nothing is open. The directory is found under the same path.
    fn remount(&mut self) {}

    /// A defect that the workers themselves are to have.
    fn broken_worker(&self) -> Option<&str> {
        None
    }
}

/// A sequence that makes the sides differ, as short as it was possible to make it.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    /// How many operations it took at first.
    pub found_after: usize,
    pub steps: Vec<Step>,
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {} differs after {} operations; here are {} of them:", self.seed, self.found_after, self.steps.len())?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:4}  {}", serde_json::to_string(step).unwrap())?;
        }
        write!(f, "    {}", self.what)
    }
}

/// Runs `count` operations of `seed`. Prints what was run.
///
/// # Errors
/// The sides differed; the failure is shrunk.
pub fn run(world: &mut dyn World, seed: u64, count: usize) -> Result<(), Box<Failure>> {
    let mut pair = Pair::new(world);
    search(world, &mut pair, seed, count).map_err(|failure| {
        let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("reference-{seed}"));
        fs::write(&list, failure.to_string()).unwrap();
        println!("seed {seed}: a difference after {} operations, listed in {}; shrinking them", failure.found_after, list.display());
        shrink(world, &mut pair, failure)
    })
}

/// The first difference within `count` operations of `seed`, as it was found.
pub fn find(world: &mut dyn World, seed: u64, count: usize) -> Option<Failure> {
    let mut pair = Pair::new(world);
    search(world, &mut pair, seed, count).err()
}

fn search(world: &mut dyn World, pair: &mut Pair, seed: u64, count: usize) -> Result<(), Failure> {
    let started = Instant::now();
    let mut generator = Generator::new(seed, pair.abilities());
    let mut steps = Vec::new();
    while steps.len() < count {
        steps.push(if steps.len() + 1 == count {
            Step { process: 0, action: Action::Compare }
        } else {
            generator.next(&tree::known(&pair.reference.root))
        });
        let step = &steps[steps.len() - 1];
        match pair.apply(world, step) {
            Ok(succeeded) => generator.note(step, succeeded),
            Err(what) => return Err(Failure { seed, found_after: steps.len(), steps, what }),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    crate::record(&format!("- seed {seed}: {count} operations in {seconds:.0} s without a difference"));
    println!("    {}", census(&steps));
    Ok(())
}

/// Runs a written list of operations, one JSON object a line, as a failure prints them.
///
/// # Errors
/// The sides differed.
pub fn replay(world: &mut dyn World, list: &str) -> Result<(), Box<Failure>> {
    let objects = list.lines().filter_map(|line| line.find("{\"process\"").map(|at| &line[at..]));
    let steps: Vec<Step> = objects.map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut pair = Pair::new(world);
    match pair.replay(world, &steps) {
        Some((at, what)) => Err(Box::new(Failure { seed: 0, found_after: at + 1, steps: steps[..=at].to_vec(), what })),
        None => Ok(()),
    }
}

/// Takes away pieces of the list, large ones first, as long as something still differs.
fn shrink(world: &mut dyn World, pair: &mut Pair, mut failure: Failure) -> Box<Failure> {
    let limit = Instant::now() + Duration::from_secs(crate::number("COSMOUNT_REFERENCE_SHRINK_SECONDS", 120));
    let mut piece = failure.steps.len().div_ceil(2);
    loop {
        let before = failure.steps.len();
        let mut at = 0;
        while at < failure.steps.len() && Instant::now() < limit {
            let mut shorter = failure.steps.clone();
            shorter.drain(at..(at + piece).min(shorter.len()));
            match pair.replay(world, &shorter) {
                Some((last, what)) => {
                    shorter.truncate(last + 1);
                    (failure.steps, failure.what) = (shorter, what);
                }
                None => at += piece,
            }
        }
        if Instant::now() >= limit || (piece == 1 && failure.steps.len() == before) {
            break;
        }
        piece = (piece / 2).max(1);
    }
    Box::new(failure)
}

/// Both sides.
struct Pair {
    tested: Side,
    reference: Side,
    /// Holds the reference's directories.
    directory: tempfile::TempDir,
    started: usize,
    /// Whether mapped pages may be waiting to be written back.
    unsettled: bool,
}

impl Pair {
    fn new(world: &mut dyn World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tested = Side::new(world.broken_worker());
        let mut pair = Self { tested, reference: Side::new(None), directory, started: 0, unsettled: false };
        pair.start(world);
        pair
    }

    fn start(&mut self, world: &mut dyn World) {
        self.started += 1;
        let reference = self.directory.path().join(self.started.to_string());
        fs::create_dir(&reference).unwrap();
        self.reference.start(&reference);
        self.tested.start(&world.fresh());
        self.unsettled = false;
    }

    /// What both can do. A local file system without xattrs is no reference for them.
    fn abilities(&mut self) -> Abilities {
        let file = self.directory.path().join("ability");
        fs::write(&file, "").unwrap();
        let set = json!({ "op": "set_xattr", "path": file, "name": "user.alpha", "value": "x", "flags": "" });
        Abilities { xattrs: self.reference.tell(0, &set)["err"].is_null(), chown: nix::unistd::Uid::effective().is_root() }
    }

    /// The position and kind of the first difference, if there is one.
    fn replay(&mut self, world: &mut dyn World, steps: &[Step]) -> Option<(usize, String)> {
        self.start(world);
        steps.iter().enumerate().find_map(|(at, step)| Some((at, self.apply(world, step).err()?)))
    }

    /// Does one operation on both sides; says whether it succeeded, or how the sides differ.
    fn apply(&mut self, world: &mut dyn World, step: &Step) -> Result<bool, String> {
        if self.unsettled && step.action.needs_settled_pages() {
            self.both(|side| json!(side.tell_all(&json!({ "op": "settle" }))))?;
            self.unsettled = false;
        }
        if self.truncates_to_the_same_size(step) {
            return Ok(false);
        }
        match &step.action {
            Action::Compare => match tree::difference(&self.tested.root, &self.reference.root) {
                None => Ok(true),
                Some(what) => Err(format!("the trees differ (tested, reference):\n    {what}")),
            },
            Action::Remount => {
                self.both(|side| json!(side.tell_all(&json!({ "op": "reset" }))))?;
                world.remount();
                Ok(true)
            }
            action => {
                self.unsettled |= matches!(action, Action::MapWrite { .. });
                let mut operation = serde_json::to_value(action).unwrap();
                if let Action::ListDuring { path, .. } | Action::ListRace { path, .. } = action {
                    operation["before"] = json!(tree::names(&self.reference.root.join(path)).unwrap_or_default());
                }
                let answer = self.both(|side| side.tell(step.process, &operation))?;
                Ok(answer["err"].is_null())
            }
        }
    }

    /// Whether that changes the times of a file is the file system's choice (POSIX: "if the size changed"; ext4: always).
    fn truncates_to_the_same_size(&mut self, step: &Step) -> bool {
        match &step.action {
            Action::Truncate { path, size } => fs::metadata(self.reference.root.join(path)).is_ok_and(|meta| meta.len() == *size),
            Action::Ftruncate { slot, size } => {
                self.reference.tell(step.process, &json!({ "op": "fstat", "slot": slot }))["ok"]["size"] == json!(size)
            }
            _ => false,
        }
    }

    fn both(&mut self, mut work: impl FnMut(&mut Side) -> Value) -> Result<Value, String> {
        let reference = work(&mut self.reference);
        let tested = work(&mut self.tested);
        if tested == reference {
            return Ok(tested);
        }
        Err(format!("tested:    {tested}\n    reference: {reference}"))
    }
}

/// Any directory: one of the local file system, against which the tester tests itself, or one that somebody else has mounted.
#[derive(Debug)]
pub struct DirectoryWorld {
    directory: tempfile::TempDir,
    count: usize,
    defect: Option<String>,
}

impl DirectoryWorld {
    /// A temporary directory, whose processes have a defect.
    pub fn local(defect: Option<&str>) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), count: 0, defect: defect.map(str::to_owned) }
    }

    /// A directory made in this one.
    pub fn within(parent: &Path) -> Self {
        Self { directory: tempfile::tempdir_in(parent).unwrap(), count: 0, defect: None }
    }
}

impl World for DirectoryWorld {
    fn fresh(&mut self) -> PathBuf {
        self.count += 1;
        let path = self.directory.path().join(self.count.to_string());
        fs::create_dir(&path).unwrap();
        path
    }

    fn broken_worker(&self) -> Option<&str> {
        self.defect.as_deref()
    }
}
