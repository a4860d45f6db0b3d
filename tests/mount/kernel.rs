//! What the kernel remembers, and what makes it forget: absences, and names told to it while they are in use.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use cosmount::emulator::Op;

use crate::common::{Mounted, wait};

#[test]
fn absences_are_believed_as_long_as_said_and_no_longer() {
    let mount = Mounted::builder().arg("--negative-ttl=2s").start();
    let path = mount.path().join("later");
    assert!(!path.exists());
    mount.server().clear_log();
    for _ in 0..20 {
        assert!(!path.exists());
    }
    let asked = mount.counters().of(Op::HeadObject).requests;
    assert!(asked <= 1, "{asked} requests for one absence");
    mount.put("later", b"here", &[]);
    assert!(wait(Duration::from_secs(10), || path.exists()), "the absence ends");
    assert_eq!(fs::read(&path).unwrap(), b"here");
}

/// Every change elsewhere makes the mount tell the kernel, while three readers hold directory and pages.
#[test]
fn changes_told_under_load_neither_hang_nor_mix_versions() {
    const FILES: usize = 60;
    let mount = Mounted::builder().arg("--metadata-ttl=0").arg("--io-timeout=30s").start();
    let put = |n: usize, round: usize| mount.put(&format!("dir/f{n}"), vec![b'a' + (round % 26) as u8; 20_000 + n].as_slice(), &[]);
    (0..FILES).for_each(|n| put(n, 0));
    let (stop, path) = (AtomicBool::new(false), mount.path().join("dir"));
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (stop, path) = (&stop, &path);
            scope.spawn(move || {
                let mut n = worker * 17;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 1) % FILES;
                    match fs::read(path.join(format!("f{n}"))) {
                        Ok(bytes) => {
                            assert_eq!(bytes.len(), 20_000 + n);
                            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two versions in one read of f{n}");
                        }
                        // Replaced between open and read.
                        Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::ESTALE), "{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(fs::read_dir(&path).unwrap().count(), FILES);
            }
        });
        for round in 1..8 {
            (0..FILES).for_each(|n| put(n, round));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(wait(Duration::from_secs(10), || fs::read(path.join("f7")).is_ok_and(|bytes| bytes[0] == b'h')), "the last version is seen");
}
