//! Two whole trees, compared: names, kinds, modes, owners, sizes, link targets, times that were set, contents.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::ops::Known;

/// A time before this was set by a program (`worker.py` has the same).
const LONG_AGO: i64 = 1_500_000_000;

/// The first few differences between what is below `a` and below `b`, or nothing.
pub fn difference(a: &Path, b: &Path) -> Option<String> {
    let mut found = Vec::new();
    compare(a, b, Path::new(""), &mut found);
    let more = found.len().saturating_sub(5);
    found.truncate(5);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    (!found.is_empty()).then(|| found.join("\n    "))
}

/// What is below a directory, for choosing operations.
pub fn known(root: &Path) -> Known {
    let mut known = Known::default();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in names(&root.join(&folder)).unwrap_or_default() {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match root.join(&path).symlink_metadata() {
                Ok(meta) if meta.is_dir() => {
                    known.directories.push(path.clone());
                    folders.push(path);
                }
                Ok(meta) if meta.is_symlink() => known.links.push(path),
                Ok(_) => known.files.push(path),
                Err(_) => {}
            }
        }
    }
    // The order of a directory is the file system's; the choice must be the seed's.
    known.files.sort();
    known.directories.sort();
    known.links.sort();
    known
}

/// The names in a directory.
pub fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn compare(a: &Path, b: &Path, below: &Path, found: &mut Vec<String>) {
    let (in_a, in_b) = match (names(&a.join(below)), names(&b.join(below))) {
        (Ok(in_a), Ok(in_b)) => (in_a, in_b),
        (in_a, in_b) => return found.push(format!("{}/: listed as {in_a:?} and {in_b:?}", below.display())),
    };
    for name in in_a.symmetric_difference(&in_b) {
        let side = if in_a.contains(name) { "first" } else { "second" };
        found.push(format!("{}: listed on the {side} side only", below.join(name).display()));
    }
    for name in in_a.intersection(&in_b) {
        let path = below.join(name);
        let (a_path, b_path) = (a.join(&path), b.join(&path));
        let (meta, other) = match (a_path.symlink_metadata(), b_path.symlink_metadata()) {
            (Ok(meta), Ok(other)) => (meta, other),
            (meta, other) => {
                found.push(format!("{}: stat gives {:?} and {:?}", path.display(), meta.err(), other.err()));
                continue;
            }
        };
        if attributes(&meta) != attributes(&other) {
            found.push(format!("{}: {} and {}", path.display(), attributes(&meta), attributes(&other)));
        }
        if meta.is_dir() && other.is_dir() {
            compare(a, b, &path, found);
        } else if meta.is_symlink() {
            let (target, other) = (fs::read_link(&a_path), fs::read_link(&b_path));
            if target.as_ref().ok() != other.as_ref().ok() {
                found.push(format!("{}: points to {target:?} and {other:?}", path.display()));
            }
        } else if meta.is_file() {
            found.extend(contents(&a_path, &b_path).map(|what| format!("{}: {what}", path.display())));
        }
    }
}

fn attributes(meta: &Metadata) -> String {
    let kind = if meta.is_dir() {
        return format!("directory, mode {:o}, owner {}:{}", meta.mode() & 0o7777, meta.uid(), meta.gid());
    } else if meta.is_symlink() {
        "link"
    } else {
        "file"
    };
    let time = if meta.mtime() < LONG_AGO { format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()) } else { "now".to_owned() };
    let (mode, size, links) = (meta.mode() & 0o7777, meta.len(), meta.nlink());
    format!("{kind}, mode {mode:o}, owner {}:{}, {size} bytes, {links} links, changed {time}", meta.uid(), meta.gid())
}

fn contents(a: &Path, b: &Path) -> Option<String> {
    let (a, b) = match (fs::read(a), fs::read(b)) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) => return Some(format!("reading gives {:?} and {:?}", a.err(), b.err())),
    };
    if a == b {
        return None;
    }
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let differing = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    let piece = |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.min(bytes.len())..(at + 32).min(bytes.len())]).into_owned();
    Some(format!("{differing} bytes differ, the first at {at}: {:?} and {:?} ({} and {} bytes)", piece(&a), piece(&b), a.len(), b.len()))
}
