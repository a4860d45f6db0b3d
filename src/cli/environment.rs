//! Everything that is read from the environment.

use std::path::PathBuf;

use nix::unistd::geteuid;

use crate::store::{Proxies, cos::Fixed};

/// Marks a process that this program started: how, and that its secrets come through standard input.
pub(super) const CHILD: &str = "COSMOUNT_CHILD";

/// The value of a variable that is set to something.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every variable with credentials that is set, those of a proxy included.
pub(super) fn credentials() -> Vec<(String, String)> {
    let secret = |name: &str| variable(name).filter(|value| value.contains('@'));
    let proxies = Proxies::variables().filter_map(|name| Some((name.to_owned(), secret(name)?)));
    Fixed::variables().filter_map(|name| Some((name.to_owned(), variable(name)?))).chain(proxies).collect()
}

/// The proxies that the variables name; those with a password have come with the other secrets.
pub(super) fn proxies(secrets: &[(String, String)]) -> Result<Proxies, String> {
    let secret = |name: &str| secrets.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    Proxies::parse(|name| secret(name).or_else(|| variable(name)))
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
