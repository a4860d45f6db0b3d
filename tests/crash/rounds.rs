//! Rounds of writing and killing: what was acknowledged is in the bucket though this host loses everything (P1, P2, P8).
//!
//! Each writer makes one version of its file after the other, and says when it begins one and when close(2) or fsync(2) has confirmed it. After the
//! kill the staging directory is removed. The object must be one of those versions, whole, and none from before the last confirmed one.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::common::{Mounted, wait};

const ROUNDS: u64 = 40;

/// What a writer does to confirm a version.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Confirm {
    Close,
    Fsync,
}

/// One file and its writer.
#[derive(Debug)]
struct Writer {
    name: String,
    /// Bytes of a version, about.
    size: u64,
    confirm: Confirm,
    begun: AtomicU64,
    confirmed: AtomicU64,
}

impl Writer {
    /// The bytes of a version: its number at the beginning, then a pattern of its own.
    fn body(&self, version: u64) -> Vec<u8> {
        let size = self.size + version * 7919 % (self.size / 2 + 1);
        let mut body = version.to_le_bytes().to_vec();
        body.extend((0..size).map(|n| (n.wrapping_mul(version | 1) >> 3) as u8));
        body
    }

    /// Writes versions until the mount is gone.
    fn run(&self, root: &Path) -> std::io::Result<()> {
        loop {
            let version = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let mut file = File::create(root.join(&self.name))?;
            for piece in self.body(version).chunks(100_000) {
                file.write_all(piece)?;
            }
            if self.confirm == Confirm::Fsync {
                file.sync_all()?;
            } else {
                nix::unistd::close(file)?;
            }
            self.confirmed.store(version, Ordering::SeqCst);
        }
    }

    fn check(&self, mount: &Mounted) {
        let (confirmed, begun) = (self.confirmed.load(Ordering::SeqCst), self.begun.load(Ordering::SeqCst));
        let Some(body) = mount.try_object(&self.name) else {
            assert_eq!(confirmed, 0, "{} is not there", self.name);
            return;
        };
        let version = u64::from_le_bytes(body[..8].try_into().unwrap());
        assert!((confirmed..=begun).contains(&version), "{}: version {version}, not {confirmed} to {begun}", self.name);
        assert!(body == self.body(version), "{}: version {version} is not whole", self.name);
    }
}

#[test]
fn forty_crashes_lose_nothing_that_was_confirmed() {
    let mut mount = Mounted::builder().arg("--part-size=1M").arg("--memory-limit=64M").start();
    let writer = |name: &str, size, confirm| {
        Arc::new(Writer { name: name.to_owned(), size, confirm, begun: AtomicU64::new(0), confirmed: AtomicU64::new(0) })
    };
    let writers = [
        writer("small", 3_000, Confirm::Close),
        writer("small-synced", 20_000, Confirm::Fsync),
        writer("large", 3 << 20, Confirm::Close),
        writer("large-synced", 2 << 20, Confirm::Fsync),
    ];
    let confirmed = || writers.iter().map(|writer| writer.confirmed.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for round in 0..ROUNDS {
        let before = confirmed();
        // By descriptor: under its path lies an ordinary directory once the mount is gone.
        let opened = File::open(mount.path()).unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        let running: Vec<JoinHandle<()>> = writers
            .iter()
            .map(|writer| {
                let (writer, root) = (Arc::clone(writer), root.clone());
                thread::spawn(move || drop(writer.run(&root).unwrap_err()))
            })
            .collect();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // A round without a confirmation proves nothing; of the large files every fourth waits for one.
        let enough = || {
            let more = confirmed().iter().zip(&before).filter(|(now, before)| now > before).count();
            more >= if round % 4 == 0 { writers.len() } else { 2 }
        };
        assert!(wait(Duration::from_secs(60), enough), "round {round}: {before:?} to {:?}, {}", confirmed(), mount.log());
        thread::sleep(Duration::from_millis(random >> 56));
        mount.kill();
        running.into_iter().for_each(|writer| writer.join().unwrap());
        drop(opened);
        fs::remove_dir_all(mount.staging()).unwrap();
        writers.iter().for_each(|writer| writer.check(&mount));
        mount.start_again();
        writers.iter().for_each(|writer| writer.check(&mount));
    }
    assert_eq!(mount.keys("").len(), writers.len(), "{:?}", mount.keys(""));
    assert!(mount.keys(".cosmount").is_empty());
}
