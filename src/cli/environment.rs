//! Everything that is read from the environment.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf, absolute as absolute_path},
};

use nix::{sys::stat::fstat, unistd::geteuid};

use crate::cli::merge::{PREFIX, World};
use crate::store::{
    Proxies,
    cos::{Choice, Fixed, Sources},
};

/// Marks a process that this program started: how, and that its secrets come through standard input.
pub(super) const CHILD: &str = "COSMOUNT_CHILD";

/// The value of a variable that is set to something.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What is said outside the command line: variables, and the files that are read unless another is named.
pub(super) fn world() -> World {
    let ours = |name: &str| name == CHILD || name.starts_with("COSMOUNT_TEST_");
    let is_option = |(name, value): &(String, String)| name.starts_with(PREFIX) && !ours(name) && !value.is_empty();
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let variables = std::env::vars_os().filter_map(text).filter(is_option).collect();
    let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config"))).map(|base| base.join("cosmount.toml"));
    let for_root = geteuid().is_root().then(|| PathBuf::from("/etc/cosmount.toml"));
    World { variables, files: own.into_iter().chain(for_root).collect() }
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

/// Where credentials may come from: `secrets` are the variables with them and their values, which the environment may no longer have.
///
/// # Errors
/// The directory that a relative path begins in is gone.
pub(super) fn sources(choice: Option<&Choice>, profile: Option<&str>, secrets: &[(String, String)]) -> io::Result<Sources> {
    let lookup = |name: &str| {
        let secret = secrets.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        secret.or_else(|| variable(name))
    };
    let home = absolute("HOME");
    let at_home = |name: &str| home.as_deref().map(|home| home.join(name));
    let mut choice = choice.cloned();
    if let Some(path) = choice.as_mut().and_then(Choice::path_mut) {
        // Behind the colon of an option no shell expands a tilde.
        *path = match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => absolute_path(&*path)?,
        };
    }
    let named = absolute("COS_CREDENTIAL_FILE");
    Ok(Sources {
        choice,
        profile: profile.map(str::to_owned),
        passwd: named.into_iter().chain(at_home(".passwd-cosfs")).chain([Path::new("/etc/passwd-cosfs").to_owned()]).collect(),
        coscli: at_home(".cos.yaml"),
        coscmd: at_home(".cos.conf"),
        ..Sources::from_environment(lookup)
    })
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
