//! A COS that refuses, and a staging that fills: every file arrives by itself once it can, the program has heard the truth, and nothing wrong is in the
//! bucket. No remount is needed.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount as mount_fs, umount2},
};

use crate::{
    common::{Mounted, record, refuse_writes, wait},
    kept::listed,
};

const MIB: usize = 1 << 20;

/// How long a storm lasts.
fn seconds() -> u64 {
    std::env::var("COSMOUNT_STORM").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(2)
}

/// What a program wrote, and what close(2) said.
struct Written {
    name: String,
    body: Vec<u8>,
    closed: Result<(), Errno>,
}

fn body(writer: usize, n: usize) -> Vec<u8> {
    let len = if n.is_multiple_of(5) { 2 * MIB + n } else { 1000 + n * 7919 % 50_000 };
    (0..len).map(|at| (at.wrapping_mul(2 * n + 1).wrapping_add(writer) >> 2) as u8).collect()
}

/// Four programs write file after file while COS refuses and a little before and after; `height` looks at it in the worst of the storm. Returns what
/// became of each file.
fn through(mount: &Mounted, status: u16, code: &str, height: impl FnOnce()) -> Vec<Written> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let over = &over;
                scope.spawn(move || {
                    let mut written = Vec::new();
                    while !over.load(Ordering::SeqCst) {
                        let (name, body) = (format!("w{writer}-{}", written.len()), body(writer, written.len()));
                        let mut file = File::create(mount.path().join(&name)).unwrap();
                        let sent = body.chunks(100_000).try_for_each(|piece| file.write_all(piece));
                        let closed = nix::unistd::close(file);
                        assert!(sent.is_ok() || closed.is_err(), "{name}: {sent:?}");
                        written.push(Written { name, body, closed });
                        // Refusals are quick; files are not to be without number.
                        thread::sleep(Duration::from_millis(20));
                    }
                    written
                })
            })
            .collect();
        assert!(wait(Duration::from_secs(20), || mount.keys("").len() >= 8), "some are written before");
        let storm = mount.fault(refuse_writes(status, code));
        let start = Instant::now();
        assert!(wait(Duration::from_secs(120), || start.elapsed().as_secs() >= seconds() && storm.struck() >= 8));
        height();
        drop(storm);
        let there = mount.keys("").len();
        assert!(wait(Duration::from_secs(60), || mount.keys("").len() > there + 4), "it works again");
        over.store(true, Ordering::SeqCst);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

/// Every file arrives whole, whatever close said; what close refused may take until the mount tries again.
fn all_arrive(mount: &mut Mounted, written: &[Written]) {
    for Written { name, body, closed } in written {
        let there = || mount.try_object(name).is_some_and(|object| object == *body);
        assert!(there() || closed.is_err() && wait(Duration::from_secs(90), there), "{name}: {closed:?}");
        assert!(fs::read(mount.path().join(name)).unwrap() == *body, "{name} is read as it was written");
    }
    assert_eq!(mount.keys("").len(), written.len());
    mount.unmount();
}

#[test]
fn a_storm_of_503_is_waited_out_by_every_program() {
    let mut mount = Mounted::builder().arg("--part-size=1M").start();
    let written = through(&mount, 503, "SlowDown", || {});
    let failed: Vec<_> = written.iter().filter(|file| file.closed.is_err()).map(|file| (&file.name, file.closed)).collect();
    assert!(failed.is_empty(), "it ends before --io-timeout: {failed:?}");
    all_arrive(&mut mount, &written);
    record(&format!("- 503 for {} s: {} files, every close succeeded, every object whole", seconds(), written.len()));
}

#[test]
fn a_storm_of_403_is_told_at_close_and_every_file_arrives_after_it() {
    let mut mount = Mounted::builder().arg("--part-size=1M").start();
    let written = through(&mount, 403, "AccessDenied", || {
        let refused = || listed(&mount).iter().filter(|file| file["reason"]["errno"] == "EACCES").count();
        assert!(wait(Duration::from_secs(20), || refused() >= 4), "what is kept is listed: {:?}", listed(&mount));
    });
    let refused: Vec<Errno> = written.iter().filter_map(|file| file.closed.err()).collect();
    assert!(!refused.is_empty() && refused.iter().all(|errno| *errno == Errno::EACCES), "{refused:?}");
    all_arrive(&mut mount, &written);
    record(&format!(
        "- 403 for {} s: {} files, {} refused with EACCES at close and listed, all of them in COS afterwards",
        seconds(),
        written.len(),
        refused.len()
    ));
}

/// A file system in memory, of so many bytes; only root can have one.
struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(path: &'a Path, bytes: usize) -> Self {
        mount_fs(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={bytes},mode=700").as_str())).unwrap();
        Self(path)
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_staging_that_is_too_small_is_slow_or_enospc_and_never_wrong() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: only root can mount a tmpfs");
        return;
    }
    let size = std::env::var("COSMOUNT_RANDOM_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(64) * MIB;
    let room = (size / 4).min(64 * MIB);
    let mut mount = Mounted::builder().arg("--memory-limit=64M").start();
    mount.unmount();
    let staging = mount.staging();
    fs::create_dir(&staging).unwrap();
    let tmpfs = Tmpfs::mount(&staging, room);
    mount.start_again();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(mount.path().join("random")).unwrap();
    // What the file is to hold, by 4 KiB.
    let mut model = vec![0u8; size / 4096];
    let mut random = 1u64;
    let mut write_some = |count: usize, mark: u8| -> Result<(), Errno> {
        for _ in 0..count {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let page = (random >> 33) as usize % model.len();
            file.write_all_at(&[mark; 4096], page as u64 * 4096).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))?;
            model[page] = mark;
        }
        Ok(())
    };
    // COS takes what does not fit, as slowly as it must.
    write_some(size / 4096, 1).unwrap();
    let refusing = mount.fault(refuse_writes(403, "AccessDenied"));
    let full = write_some(3 * size / 4096, 2);
    assert_eq!(full, Err(Errno::ENOSPC), "no room, here nor there");
    drop(refusing);
    write_some(size / 4096 / 4, 3).unwrap();
    file.sync_all().unwrap();
    let object = mount.object("random");
    assert_eq!(object.len(), (1 + model.iter().rposition(|mark| *mark != 0).unwrap()) * 4096);
    let wrong = object.chunks(4096).zip(&model).position(|(page, mark)| page.iter().any(|byte| byte != mark));
    assert_eq!(wrong, None, "of {} pages", model.len());
    drop(file);
    mount.unmount();
    drop(tmpfs);
    record(&format!(
        "- staging of 64 MiB on a tmpfs, {} MiB of random writes, twice: ENOSPC while COS refused, every page right after it",
        size / MIB
    ));
}
