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
    path::{Path, PathBuf},
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
        assert_eq!(
            resolve(&real.join("link/none/at/all")).unwrap(),
            real.join("none/at/all"),
            "staging in the mount is seen through links"
        );
    }
}
