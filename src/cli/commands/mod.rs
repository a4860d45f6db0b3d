//! One file per sub-command.

pub(super) mod completions;
pub(super) mod config;
pub(super) mod credentials;
#[cfg(feature = "emulator")]
pub(super) mod demo;
#[cfg(feature = "emulator")]
mod demo_files;
pub(super) mod doctor;
pub(super) mod man;
pub(super) mod mount;
pub(super) mod umount;

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The path as `/proc/self/mountinfo` shows it: absolute and without symbolic links. Names at its end that cannot be looked at stay as they are:
/// what is not there yet, or a dead mount.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(resolved) = fs::canonicalize(path) {
        return Ok(resolved);
    }
    let path = std::path::absolute(path)?;
    let known = path.ancestors().skip(1).find_map(|above| Some((fs::canonicalize(above).ok()?, path.strip_prefix(above).ok()?)));
    Ok(known.map_or_else(|| path.clone(), |(above, rest)| above.join(rest)))
}

/// The path, absolute and without `.` and `..`, by its words alone.
fn without_dots(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in std::path::absolute(path)?.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_go_by_words_alone() {
        for (path, plain) in [("/a/../b", "/b"), ("/a/./b/..", "/a"), ("/../a", "/a"), ("/a//b/", "/a/b")] {
            assert_eq!(without_dots(Path::new(path)).unwrap(), Path::new(plain));
        }
    }

    #[test]
    fn links_are_followed_and_what_is_missing_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), real);
        assert_eq!(resolve(&real.join("link/none")).unwrap(), real.join("none"));
        assert_eq!(
            resolve(&real.join("link/none/at/all")).unwrap(),
            real.join("none/at/all"),
            "staging in the mount is seen through links"
        );
    }
}
