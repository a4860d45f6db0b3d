//! Everything that is read from the environment.

use std::path::PathBuf;

use nix::unistd::geteuid;

/// Marks a process that this program started: how, and that its secrets come through standard input.
pub(super) const CHILD: &str = "COSMOUNT_CHILD";

/// Variables with credentials, as the documentation and the tools of Tencent spell them.
const CREDENTIALS: &[&str] = &[
    "COS_SECRET_ID",
    "COS_SECRET_KEY",
    "COS_SESSION_TOKEN",
    "COS_TOKEN",
    "COS_SECRETID",
    "COS_SECRETKEY",
    "COS_SESSIONTOKEN",
    "TENCENTCLOUD_SECRET_ID",
    "TENCENTCLOUD_SECRET_KEY",
    "TENCENTCLOUD_TOKEN",
    "TENCENTCLOUD_SESSION_TOKEN",
    "TENCENTCLOUD_SECRETID",
    "TENCENTCLOUD_SECRETKEY",
    "TENCENTCLOUD_SESSIONTOKEN",
    "COSN_SECRET_ID",
    "COSN_SECRET_KEY",
    "COSACCESSKEYID",
    "COSSECRETACCESSKEY",
    "SECRETID",
    "SECRETKEY",
    "SECRET_ID",
    "SECRET_KEY",
];

/// The value of a variable that is set to something.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every variable with credentials that is set.
pub(super) fn credentials() -> Vec<(String, String)> {
    CREDENTIALS.iter().filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect()
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

fn absolute(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
