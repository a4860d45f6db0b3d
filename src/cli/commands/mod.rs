//! One file per sub-command.

#[cfg(feature = "emulator")]
pub(super) mod demo;
#[cfg(feature = "emulator")]
mod demo_files;
pub(super) mod mount;
pub(super) mod umount;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The path as `/proc/self/mountinfo` shows it: absolute and without symbolic links. The last name is not looked at when that fails: a dead
/// mount cannot be, and has a path all the same.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    if let Ok(resolved) = fs::canonicalize(path) {
        return Ok(resolved);
    }
    let path = std::path::absolute(path)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).unwrap_or_else(|_| parent.to_owned()).join(name)),
        _ => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_what_is_missing_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), real);
        assert_eq!(resolve(&real.join("link/none")).unwrap(), real.join("none"));
    }
}
