//! What a killed mount leaves in the bucket and on this host, the next mount of the same source removes.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    sync::mpsc,
    thread,
    time::Duration,
};

use cosmount::emulator::{Action, Op, Rule};

use crate::common::{BUCKET, Mounted, wait};

fn open(mount: &Mounted, key: &str) -> usize {
    mount.server().uploads(BUCKET).iter().filter(|upload| upload.key == key).count()
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn an_upload_of_a_killed_mount_is_aborted_and_nobody_elses() {
    let mut mount = Mounted::builder().arg("--part-size=1M").start();
    let other = mount.second();
    mount.put("old", b"the old object", &[]);
    let slow = Action::SlowRequest { bytes_per_second: 512 << 10 };
    mount.server().faults().add(Rule::on(Op::UploadPart, slow).prefix("old"));
    let (go_on, told) = mpsc::channel::<()>();
    let path = other.path().join("other");
    let living = thread::spawn(move || {
        let mut file = File::create(path)?;
        file.write_all(&[7; 24 << 20])?;
        told.recv().unwrap();
        file.sync_all()
    });
    let path = mount.path().join("old");
    let killed = thread::spawn(move || {
        let mut file = File::create(path)?;
        file.write_all(&[7; 24 << 20])?;
        file.sync_all()
    });
    let with_parts = |key: &str| mount.server().uploads(BUCKET).iter().any(|upload| upload.key == key && !upload.parts.is_empty());
    assert!(wait(SOON, || with_parts("old") && with_parts("other")), "parts arrive");
    mount.kill();
    assert!(killed.join().unwrap().is_err());
    assert_eq!(&mount.object("old")[..], b"the old object");
    assert_eq!(open(&mount, "old"), 1);

    mount.start_again();
    assert!(wait(SOON, || open(&mount, "old") == 0), "the upload stays open: {}", mount.log());
    assert_eq!(open(&mount, "other"), 1, "the other mount's upload is left alone");
    go_on.send(()).unwrap();
    assert_eq!(&mount.object("old")[..], b"the old object");
    living.join().unwrap().unwrap();
    assert_eq!(other.object("other").len(), 24 << 20);
    mount.unmount();
    assert!(!mount.staging().exists(), "what has nothing left to remember leaves nothing");
}

#[test]
fn an_object_set_aside_by_a_killed_mount_is_deleted() {
    let mut mount = Mounted::new();
    mount.put_pattern("large", 80 << 20);
    let file = File::open(mount.path().join("large")).unwrap();
    fs::remove_file(mount.path().join("large")).unwrap();
    // The delete follows the reply.
    let keys = mount.keys_when(|keys| keys.len() == 1);
    assert!(keys.len() == 1 && keys[0].starts_with(".cosmount/open/"));
    let mut byte = [0];
    file.read_exact_at(&mut byte, 70 << 20).unwrap();
    assert_eq!(byte[0], mount.pattern_at(70 << 20));
    mount.kill();
    drop(file);
    assert_eq!(mount.keys("").len(), 1);

    mount.start_again();
    assert!(mount.keys_when(|keys| keys.is_empty()).is_empty(), "{}", mount.log());
}

#[test]
fn an_object_set_aside_goes_with_the_mount_though_the_file_is_still_open() {
    let mut mount = Mounted::new();
    mount.put_pattern("large", 80 << 20);
    let file = File::open(mount.path().join("large")).unwrap();
    fs::remove_file(mount.path().join("large")).unwrap();
    assert_eq!(mount.keys_when(|keys| keys.len() == 1).len(), 1);
    mount.unmount();
    assert!(mount.keys("").is_empty());
    assert!(!mount.staging().exists());
    drop(file);
}

#[test]
fn overflow_of_a_killed_mount_does_not_fill_the_disk() {
    let mut mount = Mounted::builder().arg("--memory-limit=64M").start();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(mount.path().join("f")).unwrap();
    // Backwards, so that it is not streamed.
    (0..96u64).rev().for_each(|n| file.write_all_at(&[n as u8; 1 << 20], n << 20).unwrap());
    let spilled = |mount: &Mounted| -> u64 {
        let Ok(files) = fs::read_dir(mount.staging()) else { return 0 };
        files
            .map(|file| file.unwrap())
            .filter(|file| file.file_name().to_str().unwrap().starts_with("spill-"))
            .map(|file| file.metadata().unwrap().blocks())
            .sum()
    };
    assert!(spilled(&mount) > 0);
    mount.kill();
    drop(file);
    assert!(spilled(&mount) > 0);
    mount.start_again();
    assert!(wait(SOON, || spilled(&mount) == 0), "{}", mount.log());
}
