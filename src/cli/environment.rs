//! Everything that is read from the environment.

use std::path::PathBuf;

use nix::{sys::stat::fstat, unistd::geteuid};

use crate::store::cos::Fixed;

/// Marks a process that this program started: how, and that its secrets come through standard input.
pub(super) const CHILD: &str = "COSMOUNT_CHILD";

/// The value of a variable that is set to something.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every variable with credentials that is set.
pub(super) fn credentials() -> Vec<(String, String)> {
    Fixed::variables().filter_map(|name| Some((name.to_owned(), variable(name)?))).collect()
}

/// Whether standard error goes to systemd's journal (systemd.exec(5), `$JOURNAL_STREAM`), rather than to whom the parent has redirected it.
pub(super) fn journal_reads_stderr() -> bool {
    let stream = variable("JOURNAL_STREAM");
    let Some((device, inode)) = stream.as_deref().and_then(|text| text.split_once(':')) else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// Where staging directories are unless told otherwise.
pub(super) fn state_directory() -> Option<PathBuf> {
    if geteuid().is_root() {
        return Some("/var/lib/cosmount".into());
    }
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state"))).map(|base| base.join("cosmount"))
}

/// Where running mounts register. All of a user's processes must come to the same answer.
pub(super) fn runtime_directory() -> PathBuf {
    if geteuid().is_root() {
        return "/run/cosmount".into();
    }
    absolute("XDG_RUNTIME_DIR").map_or_else(|| format!("/tmp/cosmount-{}", geteuid()).into(), |base| base.join("cosmount"))
}

/// The defect that the differential tester has asked for, to see that it finds it. Not in a release.
pub(super) fn defect() -> Option<String> {
    variable("COSMOUNT_TEST_DEFECT").filter(|_| cfg!(debug_assertions))
}

fn absolute(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
