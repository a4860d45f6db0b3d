//! Texts that are kept beside the tests: `tests/cli/snapshots/`.
//!
//! After a wanted change: `COSMOUNT_TEST_SNAPSHOTS=update cargo nextest run --test cli`, then read the difference in git.

use std::{env, fs, path::PathBuf};

/// Compares a text with the one kept under this name.
pub(crate) fn assert_same(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(name);
    if env::var("COSMOUNT_TEST_SNAPSHOTS").is_ok_and(|what| what == "update") {
        fs::write(&path, text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let (mut is, mut was) = (text.lines(), kept.lines());
    let changed = (1..).map(|line| (line, was.next(), is.next())).find(|(_, was, is)| was != is || is.is_none());
    if let Some((line, was, is)) = changed.filter(|_| text != kept) {
        panic!("{} differs in line {line}:\n  was {was:?}\n  is  {is:?}\nIf that is right, see tests/cli/snapshot.rs", path.display());
    }
}
