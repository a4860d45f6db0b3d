//! The room table of `docs/architecture.md` §1, held: who may import whom, and which crate is named where.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each room and what it may import.
const ROOMS: &[(&str, &[&str])] = &[
    ("support", &[]),
    ("local", &["support"]),
    ("store", &["support"]),
    ("data", &["store", "local", "support"]),
    ("vfs", &["data", "store", "local", "support"]),
    ("fuse", &["vfs", "support"]),
    ("admin", &["vfs", "support"]),
    ("mount", &["fuse", "admin", "vfs", "data", "store", "local", "support"]),
    ("cli", &["mount", "admin", "store", "emulator", "support"]),
    ("emulator", &["support"]),
    ("main", &["cli"]),
    ("bin", &["emulator", "support"]),
    // Not a room: the names of what is fuzzed, built for tests only.
    ("fuzzing", &["mount", "vfs", "store", "local", "support"]),
];

/// What is named in some rooms only: crates, and the variables of the environment.
const NAMED: &[(&str, &[&str])] = &[
    ("fuser::", &["fuse", "mount"]),
    ("clap::", &["cli", "bin"]),
    ("reqwest::", &["store"]),
    ("quick_xml::", &["store", "emulator"]),
    ("hyper::", &["store", "emulator"]),
    ("env::var", &["cli", "bin"]),
];

/// Below these folders none of these siblings is named.
const INSIDE: &[(&str, &[&str])] = &[
    ("data/cache/", &["read", "write", "file"]),
    ("data/read/", &["write", "file"]),
    ("data/write/", &["file"]),
    ("store/cos/", &["wrap"]),
    ("store/wrap/", &["cos"]),
    ("vfs/tree/", &["handles", "io", "open", "lookup", "attr", "dir", "create", "remove", "rename", "aside"]),
];

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in sources(&root) {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        found.extend(violations(path, &fs::read_to_string(&file).unwrap()));
    }
    assert!(found.is_empty(), "the rooms of docs/architecture.md §1 are broken:\n{}", found.join("\n"));
}

#[test]
fn what_the_table_forbids_is_found() {
    for (path, line) in [
        ("data/file.rs", "use crate::vfs::Ino;"),
        ("store/mod.rs", "use crate::{support::Ctx, data::File};"),
        ("vfs/io.rs", "fn reply(reply: fuser::ReplyData) {}"),
        ("mount/build.rs", "let home = env::var(\"HOME\");"),
        ("data/cache/memory.rs", "use super::super::read::Reader;"),
        ("data/cache/disk.rs", "use crate::data::write::Plan;"),
        ("vfs/tree/mod.rs", "pub(super) async fn lookup() {}"),
        ("vfs/tree/mod.rs", "use crate::vfs::rename::Plan;"),
        ("newroom/mod.rs", ""),
    ] {
        assert_eq!(violations(path, line).len(), 1, "{path}: {line}");
    }
    let allowed =
        "use crate::support::Ctx; // not crate::vfs\n/// see crate::cli\n#[cfg(test)]\nmod tests {\n    use crate::vfs::Vfs;\n}\n";
    assert_eq!(violations("store/mod.rs", allowed), [] as [String; 0]);
}

fn violations(path: &str, text: &str) -> Vec<String> {
    let room = path.split(['/', '.']).next().unwrap();
    // The crate's own root declares the rooms; test modules stand at the end of a file, or in one of their own.
    if room == "lib" || path.ends_with("tests.rs") || path.contains("/tests/") {
        return Vec::new();
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{path}: {room} is no room of the table")];
    };
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let line = line.split("//").next().unwrap();
        let mut refuse = |why: String| found.push(format!("{path}:{}: {why}", number + 1));
        for prefix in ["crate::", "cosmount::"] {
            for import in after(line, prefix) {
                if import.starts_with('{') {
                    refuse("one room per `use`".to_owned());
                } else if word(import) != room && !allowed.contains(&word(import)) {
                    refuse(format!("{room} may not import {}", word(import)));
                }
            }
        }
        for (name, rooms) in NAMED {
            if !rooms.contains(&room) && after(line, name).next().is_some() {
                refuse(format!("{name} is named only in {}", rooms.join(" and ")));
            }
        }
        // The tree is plain data: its lock can never be held while something is waited for.
        if path.starts_with("vfs/tree/") && ["async ", ".await", "Bucket", "crate::data"].iter().any(|word| line.contains(word)) {
            refuse("the tree waits for nothing".to_owned());
        }
        for (_, siblings) in INSIDE.iter().filter(|(folder, _)| path.starts_with(folder)) {
            let face = format!("crate::{room}::");
            for sibling in after(line, &face).chain(after(line, "super::super::")).map(word).filter(|name| siblings.contains(name)) {
                refuse(format!("may not know its sibling {sibling}"));
            }
        }
    }
    found
}

/// What follows each `path` in the line.
fn after<'a>(line: &'a str, path: &str) -> impl Iterator<Item = &'a str> {
    line.match_indices(path)
        .map(|(at, found)| (&line[..at], &line[at + found.len()..]))
        .filter(|(before, _)| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(|(_, rest)| rest)
        .collect::<Vec<_>>()
        .into_iter()
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
