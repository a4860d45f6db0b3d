//! Secrets, tokens and signatures are searched for where others could find them.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::common::{Builder, Mounted, refuse_writes};
use crate::issuer::{Issued, Issuer, Service, write_secret};

/// Everything that nobody may see.
fn secrets(issuer: &Issuer, others: &[&str]) -> Vec<String> {
    let issued = issuer.issued();
    let mut all: Vec<String> = issued.iter().flat_map(|Issued { key, token, .. }| [Some(key.clone()), token.clone()]).flatten().collect();
    all.extend(issuer.server().log().into_iter().map(|entry| entry.signature).filter(|signature| !signature.is_empty()));
    all.extend(others.iter().map(|other| (*other).to_owned()));
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_below(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            // A socket holds nothing.
            _ => {}
        }
    }
    found
}

/// Lets whoever is started from here leave a core, if it wants to.
fn permit_cores() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    assert!(hard > 0, "a core could not be left in any case");
    setrlimit(Resource::RLIMIT_CORE, hard, hard).unwrap();
}

/// A mount that tells all it has to tell.
fn talkative(issuer: &Issuer, access_log: &Path) -> Builder {
    let builder = Mounted::builder().arg("--log-level").arg("trace").arg("--access-log").arg(access_log.display().to_string());
    builder.on(Arc::clone(issuer.server()))
}

/// Reads, writes, fails to write, and looks everywhere.
fn search(mut mount: Mounted, issuer: &Issuer, access_log: &Path, others: &[&str]) {
    let at = mount.path();
    fs::write(at.join("written"), vec![7; 3 << 20]).unwrap();
    assert_eq!(fs::read(at.join("written")).unwrap().len(), 3 << 20);
    fs::rename(at.join("written"), at.join("renamed")).unwrap();
    {
        let _refused = mount.fault(refuse_writes(403, "SignatureDoesNotMatch"));
        let mut file = File::create(at.join("refused")).unwrap();
        file.write_all(b"x").unwrap();
        assert!(file.sync_all().is_err());
    }
    let found = fs::metadata(at.join("none")).unwrap_err();
    assert_eq!(found.kind(), std::io::ErrorKind::NotFound);
    let pid = mount.pid();
    let mut places = vec![("the log".to_owned(), mount.log().into_bytes()), ("the access log".to_owned(), fs::read(access_log).unwrap())];
    assert!(contains(&places[1].1, "refused"), "the access log has the requests");
    for name in ["cmdline", "environ", "maps", "status", "stat", "comm"] {
        places.push((name.to_owned(), fs::read(format!("/proc/{pid}/{name}")).unwrap()));
    }
    let staging = files_below(&mount.staging());
    assert!(!staging.is_empty());
    places.extend(staging.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())));
    let runtime = Path::new(if nix::unistd::geteuid().is_root() { "/run/cosmount" } else { "/nonexistent" });
    let mine = files_below(runtime).into_iter().filter(|path| path.display().to_string().contains(&format!("/{pid}.")));
    places.extend(mine.map(|path| (path.display().to_string(), fs::read(&path).unwrap())));
    let secrets = secrets(issuer, others);
    assert!(secrets.len() > 10, "signatures were seen: {}", secrets.len());
    for (place, bytes) in &places {
        for secret in &secrets {
            assert!(!contains(bytes, secret), "{place} has {secret}");
        }
        assert!(!contains(bytes, "q-signature="), "{place} has a signature");
    }
    assert!(mount.log().contains("DEBUG refused"), "the log is one that tells much");
    // A crash leaves no core: the bytes of this process go nowhere.
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGABRT).unwrap();
    let status = mount.ended();
    assert!(status.signal() == Some(6) && !status.core_dumped(), "{status:?}");
    nix::mount::umount2(&at, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn keys_of_the_environment_are_seen_nowhere() {
    permit_cores();
    let issuer = Issuer::new(3600);
    let own = issuer.temporary();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access");
    let mount = talkative(&issuer, &log)
        .env("COS_SECRET_ID", &own.id)
        .env("COS_SECRET_KEY", &own.key)
        .env("COS_SESSION_TOKEN", own.token.as_deref().unwrap())
        .env("TENCENTCLOUD_SECRET_KEY", "aSecondSecretThatIsNotUsed")
        .start();
    search(mount, &issuer, &log, &["aSecondSecretThatIsNotUsed"]);
}

#[test]
fn keys_of_a_role_are_seen_nowhere() {
    permit_cores();
    let issuer = Issuer::new(3);
    let service = Service::start(&issuer);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access");
    let mount =
        talkative(&issuer, &log).arg("--credentials").arg("role").arg("--endpoint").arg(format!("metadata={}", service.url())).start();
    search(mount, &issuer, &log, &["exampleSecretKey"]);
}

#[test]
fn keys_of_a_file_and_of_a_command_are_seen_nowhere() {
    permit_cores();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    for kind in ["passwd:", "command:cat "] {
        let issuer = Issuer::new(3600);
        let own = issuer.lasting();
        let text = if kind == "passwd:" { format!("{}:{}\n", own.id, own.key) } else { issuer.temporary().json() };
        write_secret(&path, &text);
        let log = dir.path().join(format!("access-{}", own.id));
        let mount = talkative(&issuer, &log).arg("--credentials").arg(format!("{kind}{}", path.display())).start();
        search(mount, &issuer, &log, &[]);
        fs::remove_file(log).unwrap();
    }
}
