//! Files with credentials.
//!
//! A file is believed only if nobody else could have written or read it: a regular file, of this user's or root's, without any permission for
//! group and others. (COSFS's rule; as there, `/etc/passwd-cosfs` may be read by its group.) What is checked is what was opened, not what the name
//! leads to a moment later, and a symbolic link is not followed. The whole of it is read each time it is asked for, which is at most once a second:
//! it is small, and a time stamp may miss a change.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use nix::{errno::Errno, fcntl::OFlag, unistd::geteuid};

use crate::store::cos::credentials::{
    Credentials, NoCredentials, Pace, Secret, Source, formats,
    role::{Role, Web},
};

/// Most of a file that is read.
pub(super) const LONGEST: u64 = 64 << 10;

/// The one file that its group may read.
const ETC: &str = "/etc/passwd-cosfs";

/// What is in a file.
#[derive(Debug, Clone)]
pub(super) enum Format {
    /// coscmd's.
    Coscmd { section: Option<String> },
    /// coscli's, which may say that the machine's role is to be taken.
    Coscli { section: Option<String>, web: Arc<Web> },
    /// COSFS's.
    Passwd { bucket: Option<String> },
    /// JSON or lines.
    Token,
}

/// A file with credentials.
#[derive(Debug)]
pub(super) struct CredentialFile {
    path: PathBuf,
    format: Format,
}

impl CredentialFile {
    pub(super) fn new(path: &Path, format: Format) -> Self {
        Self { path: path.to_owned(), format }
    }

    async fn parse(&self, text: &str) -> Result<Credentials, NoCredentials> {
        let shown = shown(&self.path);
        let wrong = |why: String| NoCredentials::wrong(format!("{shown}: {why}"));
        let absent = |why: String| NoCredentials::absent(format!("{shown}: {why}"));
        let none = |section: &str| absent(format!("it has no section {section:?} with keys"));
        Ok(match &self.format {
            Format::Token => formats::token(text).map_err(wrong)?.from(shown),
            Format::Passwd { bucket } => {
                let found = formats::passwd(text, bucket.as_deref()).map_err(wrong)?;
                let missing = || absent(format!("it has no line for {} and none for all", bucket.as_deref().unwrap_or("any bucket")));
                found.ok_or_else(missing)?.from(shown)
            }
            Format::Coscmd { section } => {
                let section = section.as_deref().unwrap_or("common");
                formats::coscmd(text, section).map_err(wrong)?.ok_or_else(|| none(section))?.from(format!("{shown}, section {section}"))
            }
            Format::Coscli { section, web } => {
                let section = section.as_deref().unwrap_or("cos");
                match formats::coscli(text, section).map_err(wrong)? {
                    formats::Coscli::Keys(found) => found.from(format!("{shown}, section {section}")),
                    formats::Coscli::Nothing => return Err(none(section)),
                    formats::Coscli::Obfuscated => {
                        let how = "set `disableencryption: \"true\"` there and enter the keys again";
                        return Err(absent(format!("its keys are encrypted in coscli's own way, which is not read here; {how}")));
                    }
                    formats::Coscli::Role(name) => Role::new(Arc::clone(web), name).fetch().await?,
                }
            }
        })
    }
}

#[async_trait]
impl Source for CredentialFile {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let bytes = read.map_err(|_| NoCredentials::away(format!("{}: reading it was given up", shown(&self.path))))??;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| NoCredentials::wrong(format!("{}: it is not text", shown(&self.path))))?;
        self.parse(text).await?.checked()
    }

    fn pace(&self) -> Pace {
        Pace::Any
    }
}

/// The bytes of a file that nobody else can have written or read.
fn read(path: &Path) -> Result<Secret, NoCredentials> {
    let shown = shown(path);
    // A pipe that nobody writes to would block.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => NoCredentials::absent(format!("{shown}: not there")),
        // Somebody else's, such as the host's for root.
        io::ErrorKind::PermissionDenied => NoCredentials::absent(format!("{shown}: this user may not read it")),
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            NoCredentials::wrong(format!("{shown} is a symbolic link, which could be made to lead elsewhere: name the file itself"))
        }
        _ => NoCredentials::wrong(format!("cannot open {shown}: {error}")),
    })?;
    let found = check(path, &file).and_then(|()| contents(&file).map_err(|error| format!("cannot read {shown}: {error}")));
    found.map_err(NoCredentials::wrong)
}

/// Whether the open file is one to be believed.
fn check(path: &Path, file: &File) -> Result<(), String> {
    let shown = shown(path);
    let found = file.metadata().map_err(|error| format!("cannot look at {shown}: {error}"))?;
    if !found.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    let me = geteuid().as_raw();
    if found.uid() != me && found.uid() != 0 {
        return Err(format!("{shown} belongs to user {}, and must belong to user {me} or to root: chown {me} {shown}", found.uid()));
    }
    let (allowed, right) = if path == Path::new(ETC) { (0o640, "640") } else { (0o600, "600") };
    let mode = found.mode() & 0o777;
    // Execution is no danger, but COSFS refuses it, and one rule is better than two.
    if mode & !allowed != 0 {
        return Err(format!("{shown} has mode {mode:04o}, and nobody but its owner may have a right to it: chmod {right} {shown}"));
    }
    Ok(())
}

fn contents(file: &File) -> io::Result<Secret> {
    let mut bytes = Secret(Vec::with_capacity(4096));
    file.take(LONGEST + 1).read_to_end(&mut bytes.0)?;
    if bytes.0.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {} KiB", LONGEST >> 10)));
    }
    Ok(bytes)
}

/// A path that no message is spoilt by.
fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn write(path: &Path, mode: u32) {
        fs::write(path, "AKIDx:hush\n").unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_others_may_use_is_refused_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets");
        for mode in [0o600, 0o400] {
            write(&path, mode);
            assert_eq!(read(&path).unwrap().0, b"AKIDx:hush\n");
        }
        for mode in [0o644, 0o640, 0o660, 0o602, 0o601, 0o700] {
            write(&path, mode);
            let error = read(&path).err().unwrap().to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn only_regular_files_of_ours_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        write(&file, 0o600);
        symlink(&file, &link).unwrap();
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(read(&link).err().unwrap().to_string().contains("symbolic link"));
        assert!(read(&pipe).err().unwrap().to_string().contains("not a regular file"));
        assert!(read(dir.path()).err().unwrap().to_string().contains("not a regular file"));
        assert_eq!(read(&dir.path().join("none")).err().unwrap().absence, crate::store::cos::credentials::Absence::NotThere);
        if geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(4242), None).unwrap();
            assert!(read(&file).err().unwrap().to_string().contains("belongs to user 4242"));
        }
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        write(&path, 0o600);
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(read(&path).err().unwrap().to_string().contains("longer than 64 KiB"));
    }

    #[tokio::test]
    async fn each_format_names_its_file_and_section() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("conf");
        fs::write(&path, "[work]\nsecret_id = AKIDx\nsecret_key = hush\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let of = |section: Option<&str>| CredentialFile::new(&path, Format::Coscmd { section: section.map(str::to_owned) });
        let found = of(Some("work")).fetch().await.unwrap();
        assert_eq!((found.id(), found.origin()), ("AKIDx", &*format!("{}, section work", path.display())));
        let missing = of(None).fetch().await.unwrap_err();
        assert!(missing.to_string().contains("no section \"common\""), "{missing}");
    }
}
