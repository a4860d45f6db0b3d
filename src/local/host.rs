//! A real directory with one owner.
//!
//! The directory holds what must survive us, in a place where other users may have left things. So it is ours or it is refused:
//! 1. made 0700; one that exists must belong to us and be writable by us alone. No part of its path may be a symbolic link: the path is walked
//!    part by part with O_NOFOLLOW, so there is no moment at which one could be planted;
//! 2. opened once, and every name is resolved from that descriptor with O_NOFOLLOW: moving the directory or planting a link changes nothing;
//! 3. owned through flock(2) on `.lock`, which the kernel releases however we die. A second owner fails at once, and is told the pid of the
//!    first. [`HostDisk::adoptable`] finds the directories whose owner is gone.
//!
//! Every operation runs on tokio's blocking pool.

use std::{
    fs::File,
    io::{self, Read, Write},
    ops::Range,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, FallocateFlags, Flock, FlockArg, OFlag, fallocate, open, openat, renameat},
    sys::{
        stat::{Mode, SFlag, fstat, fstatat, mkdirat},
        statvfs::fstatvfs,
    },
    unistd::{Uid, UnlinkatFlags, unlinkat},
};
use tokio::task::spawn_blocking;

use super::disk::{Disk, DiskFile, check_name, length};

/// A directory of this host, held by this process until it is dropped.
#[derive(Debug)]
pub struct HostDisk {
    path: PathBuf,
    directory: Arc<File>,
    /// Tells the temporary files of concurrent replacements apart.
    replacements: AtomicU64,
    /// Held, never read.
    _lock: Flock<File>,
}

/// Why a directory cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by process {pid}, and a directory is one mount's", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The owner's process id, `?` while it is still starting.
        pid: String,
    },
    /// Somebody else could have put things there.
    #[error("{} cannot be trusted: {why}", .path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("cannot open the directory {}: {source}", .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

const TEMPORARY: &str = ".new";
/// (A pipe is opened without waiting for its other end, and then refused.)
const FILE: OFlag = OFlag::O_RDWR.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

const LOCK: &str = HostDisk::LOCK;

impl HostDisk {
    /// The file in it that its owner has locked.
    pub const LOCK: &str = ".lock";

    /// Makes the directory if it is not there, checks that it is ours alone, and takes its lock. Blocks briefly: called at start.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if its owner lives; it is not waited for.
    pub fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        let io_error = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
        let directory = open_directory(path, Missing::Made)?;
        let lock = Self::lock(path, &directory)?;
        let disk = Self { path: path.to_owned(), directory: Arc::new(directory), replacements: AtomicU64::new(0), _lock: lock };
        disk.drop_temporaries().map_err(io_error)?;
        Ok(Arc::new(disk))
    }

    /// The directories directly below `parent` that an owner has left behind: ours, once locked, locked no more. To adopt one is to
    /// [`open`](Self::open) it, which fails for all but the first who tries. No `parent` at all is an empty answer.
    ///
    /// # Errors
    /// `parent` cannot be read; what cannot be read below it is left out.
    pub fn adoptable(parent: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let Ok(directory) = open_directory(&path, Missing::Refused) else { continue };
            let Ok(lock) = openat(&directory, LOCK, FILE, Mode::empty()) else { continue };
            if Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock).is_ok() {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory if no file is left in it, and says whether it did. Nobody must use this disk afterwards.
    ///
    /// # Errors
    /// The system refused for another reason than a file that is left.
    pub fn retire(&self) -> io::Result<bool> {
        if names(&self.directory)?.iter().any(|name| name != LOCK) {
            return Ok(false);
        }
        // Who has opened the lock file before this looks after locking whether it still has its name (`lock`), and starts over.
        unlinkat(&*self.directory, LOCK, UnlinkatFlags::NoRemoveDir)?;
        match std::fs::remove_dir(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lock(path: &Path, directory: &File) -> Result<Flock<File>, OpenError> {
        let io_error = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
        loop {
            let file = openat(directory, LOCK, FILE | OFlag::O_CREAT, Mode::from_bits_truncate(0o600));
            let file = ours(file.map_err(|errno| io_error(errno.into()))?).map_err(io_error)?;
            let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, Errno::EAGAIN)) => {
                    let mut pid = String::new();
                    file.take(20).read_to_string(&mut pid).map_err(io_error)?;
                    let pid = if pid.is_empty() { "?".to_owned() } else { pid };
                    return Err(OpenError::InUse { path: path.to_owned(), pid });
                }
                Err((_, errno)) => return Err(io_error(errno.into())),
            };
            let named = fstatat(directory, LOCK, AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| stat.st_ino);
            let locked = lock.metadata().map_err(io_error)?.ino();
            if named == Ok(locked) {
                lock.set_len(0).and_then(|()| lock.write_all(std::process::id().to_string().as_bytes())).map_err(io_error)?;
                return Ok(lock);
            }
        }
    }

    /// Removes what a crash has left of replacements that did not happen.
    fn drop_temporaries(&self) -> io::Result<()> {
        for name in names(&self.directory)? {
            if name.starts_with('.') && name.ends_with(TEMPORARY) {
                unlinkat(&*self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        Ok(())
    }

    async fn file(&self, name: &str, flags: OFlag) -> io::Result<Arc<dyn DiskFile>> {
        check_name(name)?;
        let (directory, name) = (Arc::clone(&self.directory), name.to_owned());
        blocking(move || {
            let file = ours(openat(&*directory, name.as_str(), flags, Mode::from_bits_truncate(0o600))?)?;
            let named = AtomicBool::new(!flags.contains(OFlag::O_CREAT));
            Ok(Arc::new(HostFile(Arc::new(Inner { file, directory, named }))) as Arc<dyn DiskFile>)
        })
        .await
    }
}

#[async_trait]
impl Disk for HostDisk {
    async fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(name, FILE | OFlag::O_CREAT | OFlag::O_EXCL).await
    }

    async fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.file(name, FILE).await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let (directory, name) = (Arc::clone(&self.directory), name.to_owned());
        blocking(move || Ok(unlinkat(&*directory, name.as_str(), UnlinkatFlags::NoRemoveDir)?)).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        let directory = Arc::clone(&self.directory);
        blocking(move || {
            let mut names = names(&directory)?;
            names.retain(|name| check_name(name).is_ok());
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn free_space(&self) -> io::Result<u64> {
        let directory = Arc::clone(&self.directory);
        blocking(move || {
            let space = fstatvfs(&*directory)?;
            Ok(space.blocks_available().saturating_mul(space.fragment_size()))
        })
        .await
    }

    async fn replace(&self, name: &str, bytes: Bytes) -> io::Result<()> {
        check_name(name)?;
        let temporary = format!(".{name}.{}{TEMPORARY}", self.replacements.fetch_add(1, Ordering::Relaxed));
        let (directory, name) = (Arc::clone(&self.directory), name.to_owned());
        blocking(move || {
            let exclusive = FILE | OFlag::O_CREAT | OFlag::O_EXCL;
            let mut file = File::from(openat(&*directory, temporary.as_str(), exclusive, Mode::from_bits_truncate(0o600))?);
            let replaced = file
                .write_all(&bytes)
                .and_then(|()| file.sync_all())
                .and_then(|()| Ok(renameat(&*directory, temporary.as_str(), &*directory, name.as_str())?));
            if replaced.is_err() {
                // The first error is the one to tell; a temporary file that stays is dropped at the next open.
                let _ = unlinkat(&*directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            }
            replaced?;
            directory.sync_all()
        })
        .await
    }
}

/// A cheap handle, so that each operation can take the file to the blocking pool.
#[derive(Debug)]
struct HostFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    directory: Arc<File>,
    /// Whether the directory entry is durable.
    named: AtomicBool,
}

#[async_trait]
impl DiskFile for HostFile {
    async fn write_at(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.file.write_all_at(&bytes, offset)).await
    }

    async fn read_at(&self, range: Range<u64>) -> io::Result<Bytes> {
        let length = length(&range)?;
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let mut bytes = vec![0; length];
            inner.file.read_exact_at(&mut bytes, range.start)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    async fn sync(&self) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            inner.file.sync_data()?;
            if !inner.named.load(Ordering::Acquire) {
                inner.directory.sync_all()?;
                inner.named.store(true, Ordering::Release);
            }
            Ok(())
        })
        .await
    }

    async fn len(&self) -> io::Result<u64> {
        let inner = Arc::clone(&self.0);
        blocking(move || Ok(inner.file.metadata()?.len())).await
    }

    async fn set_len(&self, size: u64) -> io::Result<()> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.file.set_len(size)).await
    }

    async fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let length = i64::try_from(range.end.saturating_sub(range.start)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let offset = i64::try_from(range.start).map_err(|_| io::ErrorKind::InvalidInput)?;
        if length == 0 {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        blocking(move || match fallocate(&inner.file, flags, offset, length) {
            // The space is not given back; nothing depends on it.
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
        .await
    }
}

/// What becomes of directories on the way that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Made,
    Refused,
}

/// Opens a directory without following a link anywhere on the way, and checks that it is ours alone.
fn open_directory(path: &Path, missing: Missing) -> Result<File, OpenError> {
    let refuse = |why: String| OpenError::Unsafe { path: path.to_owned(), why };
    let io_error = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
    let absolute = std::path::absolute(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    let on_the_way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = open(Path::new("/"), on_the_way, Mode::empty()).map_err(io_error)?;
    let mut so_far = PathBuf::from("/");
    for part in absolute.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::ParentDir => return Err(refuse("it has a .. in it".to_owned())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
        };
        so_far.push(name);
        let next = match openat(&directory, name, on_the_way, Mode::empty()) {
            Err(Errno::ENOENT) if missing == Missing::Made => {
                match mkdirat(&directory, name, Mode::from_bits_truncate(0o700)) {
                    // Somebody else may have been faster; what that is shows when it is opened.
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(io_error(errno)),
                }
                openat(&directory, name, on_the_way, Mode::empty())
            }
            next => next,
        };
        directory = next.map_err(|errno| match errno {
            Errno::ENOTDIR | Errno::ELOOP => {
                let real = std::fs::canonicalize(path).map(|real| format!("; if {} is meant, name that", real.display()));
                refuse(format!("{} is a symbolic link or no directory{}", so_far.display(), real.unwrap_or_default()))
            }
            errno => io_error(errno),
        })?;
    }
    // The same directory once more, to be read and synced: what was opened so far is only a place.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = File::from(openat(&directory, ".", flags, Mode::empty()).map_err(io_error)?);
    let stat = fstat(&directory).map_err(io_error)?;
    if stat.st_uid != Uid::effective().as_raw() {
        return Err(refuse(format!("it belongs to user {}", stat.st_uid)));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refuse(format!("others may write to it (mode {:04o})", stat.st_mode & 0o7777)));
    }
    Ok(directory)
}

/// A regular file of this user's, and no second name of one that lies elsewhere.
fn ours(file: OwnedFd) -> io::Result<File> {
    let stat = fstat(&file)?;
    let regular = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
    if !regular || stat.st_uid != Uid::effective().as_raw() || stat.st_nlink > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file of our own: something was put in its place"));
    }
    Ok(File::from(file))
}

/// The names in an open directory, wherever it is by now.
fn names(directory: &File) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    // A name that is not UTF-8 is none of ours.
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use futures_util::FutureExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn directory_and_files_are_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state/mount-1");
        let disk = HostDisk::open(&path).unwrap();
        disk.create("staged").await.unwrap();
        disk.replace("journal", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(mode(&path), 0o700);
        for name in ["staged", "journal", LOCK] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert_eq!(disk.list().await.unwrap(), ["journal", "staged"]);
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mount");
        let first = HostDisk::open(&path).unwrap();
        let refused = HostDisk::open(&path).unwrap_err();
        assert!(matches!(&refused, OpenError::InUse { pid, .. } if *pid == std::process::id().to_string()), "{refused}");
        assert_eq!(HostDisk::adoptable(parent.path()).unwrap(), [] as [PathBuf; 0]);
        drop(first);
        assert_eq!(HostDisk::adoptable(parent.path()).unwrap(), std::slice::from_ref(&path));
        HostDisk::open(&path).unwrap();
    }

    #[test]
    fn only_what_an_owner_left_is_adoptable() {
        let parent = tempfile::tempdir().unwrap();
        drop(HostDisk::open(&parent.path().join("left")).unwrap());
        let _held = HostDisk::open(&parent.path().join("held")).unwrap();
        std::fs::create_dir(parent.path().join("never-ours")).unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        symlink(parent.path().join("left"), parent.path().join("link")).unwrap();
        assert_eq!(HostDisk::adoptable(parent.path()).unwrap(), [parent.path().join("left")]);
        assert_eq!(HostDisk::adoptable(&parent.path().join("absent")).unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn a_link_anywhere_on_the_way_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().canonicalize().unwrap();
        std::fs::create_dir_all(parent.join("victim/below")).unwrap();
        symlink(parent.join("victim"), parent.join("link")).unwrap();
        symlink("nowhere", parent.join("dangling")).unwrap();
        std::fs::write(parent.join("file"), "").unwrap();
        for path in
            ["link", "link/below", "link/below/deeper", "link/new/deeper", "dangling", "dangling/a", "file", "file/a", "victim/../b"]
        {
            let refused = HostDisk::open(&parent.join(path)).unwrap_err();
            assert!(matches!(refused, OpenError::Unsafe { .. }), "{path}: {refused}");
        }
        let told = HostDisk::open(&parent.join("link/below")).unwrap_err().to_string();
        assert!(told.contains(parent.join("victim/below").to_str().unwrap()), "{told}");
        assert_eq!(std::fs::read_dir(parent.join("victim")).unwrap().count(), 1, "nothing was made behind the link");
        assert!(std::fs::read_dir(parent.join("victim/below")).unwrap().next().is_none());
        assert!(!parent.join("nowhere").exists());
    }

    #[tokio::test]
    async fn a_pipe_in_place_of_a_file_is_no_trap() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mount");
        let disk = HostDisk::open(&path).unwrap();
        nix::unistd::mkfifo(&path.join("ledger"), Mode::from_bits_truncate(0o600)).unwrap();
        std::fs::create_dir(path.join("spill")).unwrap();
        for name in ["ledger", "spill"] {
            let opened = tokio::time::timeout(std::time::Duration::from_secs(5), disk.open(name)).await.expect("no open waits");
            assert!(opened.is_err(), "{name}");
        }
        drop(disk);
        std::fs::remove_file(path.join(LOCK)).unwrap();
        nix::unistd::mkfifo(&path.join(LOCK), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(HostDisk::open(&path).is_err());
    }

    #[test]
    fn a_link_or_a_directory_of_others_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let real = parent.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = parent.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(matches!(HostDisk::open(&link), Err(OpenError::Unsafe { .. })));
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(matches!(HostDisk::open(&real), Err(OpenError::Unsafe { .. })));
        if Uid::effective().is_root() {
            std::fs::set_permissions(&real, PermissionsExt::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&real, Some(65_534), None).unwrap();
            assert!(matches!(HostDisk::open(&real), Err(OpenError::Unsafe { .. })));
        }
    }

    #[tokio::test]
    async fn a_planted_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let victim = parent.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = parent.path().join("mount");
        let disk = HostDisk::open(&path).unwrap();
        symlink(&victim, path.join("staged")).unwrap();
        assert!(disk.open("staged").await.is_err());
        assert_eq!(disk.create("staged").await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        disk.replace("staged", Bytes::from_static(b"ours")).await.unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(path.join("staged")).unwrap(), b"ours");
        assert!(disk.open("../victim").await.is_err());

        drop(disk);
        std::fs::remove_file(path.join(LOCK)).unwrap();
        symlink(&victim, path.join(LOCK)).unwrap();
        assert!(HostDisk::open(&path).is_err());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn what_a_crash_left_of_a_replacement_is_dropped() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mount");
        drop(HostDisk::open(&path).unwrap());
        std::fs::write(path.join(".journal.0.new"), "half").unwrap();
        let disk = HostDisk::open(&path).unwrap();
        disk.replace("journal", Bytes::from_static(b"whole")).await.unwrap();
        let mut left = names(&disk.directory).unwrap();
        left.sort();
        assert_eq!(left, [LOCK, "journal"]);
    }

    /// Rule 3 of the face: with the only blocking thread busy, nothing that touches the disk gets anywhere.
    #[test]
    fn the_first_poll_does_not_touch_the_disk() {
        let parent = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let disk = HostDisk::open(parent.path()).unwrap();
            let file = disk.create("a").await.unwrap();
            let (release, wait) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || wait.recv());
            assert!(disk.open("a").now_or_never().is_none());
            assert!(disk.create("b").now_or_never().is_none());
            assert!(disk.list().now_or_never().is_none());
            assert!(disk.free_space().now_or_never().is_none());
            assert!(disk.replace("c", Bytes::new()).now_or_never().is_none());
            assert!(disk.remove("a").now_or_never().is_none());
            assert!(file.write_at(0, Bytes::from_static(b"x")).now_or_never().is_none());
            assert!(file.read_at(0..0).now_or_never().is_none());
            assert!(file.sync().now_or_never().is_none());
            assert!(file.len().now_or_never().is_none());
            assert!(file.set_len(0).now_or_never().is_none());
            assert!(file.punch(0..1).now_or_never().is_none());
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
        });
    }

    #[tokio::test]
    async fn an_empty_directory_retires_and_a_full_one_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mount");
        let disk = HostDisk::open(&path).unwrap();
        disk.create("staged").await.unwrap();
        assert!(!disk.retire().unwrap());
        disk.remove("staged").await.unwrap();
        assert!(disk.retire().unwrap());
        assert!(!path.exists());
    }
}
