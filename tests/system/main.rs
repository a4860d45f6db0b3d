//! The mount as a part of the system: mount(8), /etc/fstab, umount(8), users, systemd.
//!
//! Each test installs the program with `scripts/install` into a mount namespace of its own, where `/etc` and `/sbin` are overlays in memory: nothing
//! of this machine changes, and what is mounted there goes with the namespace. Needs root; without it each test says that it was skipped.

#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use cosmount::emulator::{Config, Server};

const BUCKET: &str = "example-1250000000";

/// A namespace with cosmount installed, beside an emulator with a bucket.
struct Machine {
    server: Server,
    directory: tempfile::TempDir,
}

/// What every script begins with.
const INSTALL: &str = r#"
mount -t tmpfs tmpfs "$T/layers"
for dir in /usr/sbin /etc; do
    upper=$T/layers/$dir/upper work=$T/layers/$dir/work
    mkdir -p "$upper" "$work"
    mount -t overlay overlay -o "lowerdir=$dir,upperdir=$upper,workdir=$work" "$dir"
done
"$INSTALL" --prefix "$T/local" --binary "$PROGRAM" >/dev/null
PATH=$T/local/bin:$PATH
# Other users have the device here, as udev gives it on a desktop or a server.
mknod -m 666 "$T/layers/fuse" c 10 229
mount --bind "$T/layers/fuse" /dev/fuse
printf '%s:AKIDEXAMPLE:exampleSecretKey\n' "$BUCKET" "missing-1250000000" >/etc/passwd-cosfs
chmod 600 /etc/passwd-cosfs
O=region=ap-guangzhou,endpoint=$ENDPOINT,staging=$T/staging
not() { if "$@"; then echo "should have failed: $*" >&2; return 1; fi; }
as() { user=$1; shift; XDG_RUNTIME_DIR=$T/run-$user XDG_STATE_HOME=$T/state-$user HOME=$T/home-$user COS_SECRET_ID=AKIDEXAMPLE COS_SECRET_KEY=exampleSecretKey setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
user() { echo "u$1:x:$1:$1::/nonexistent:/bin/sh" >>/etc/passwd; for kind in run state home mnt; do install -d -m 700 -o "$1" -g "$1" "$T/$kind-$1"; done; }
# Every process of ours has ended within some seconds of the unmount, or the script fails.
ended() { for _ in $(seq 100); do pgrep -f "^cosmount mount .*$T" >/dev/null || return 0; sleep 0.1; done; pgrep -af "$T"; return 1; }
"#;

impl Machine {
    /// `None`, and a line that says so, where this user may not.
    fn new(config: Config) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root may make a mount namespace");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("cosmount-test-").tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["mnt", "layers"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Some(Self { server: Server::start(config).unwrap(), directory })
    }

    fn path(&self) -> PathBuf {
        fs::canonicalize(self.directory.path()).unwrap()
    }

    /// Runs a script; it must succeed, and is shown line by line if it does not.
    fn run(&self, script: &str) -> String {
        let output = self.output(script);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
        out.into_owned()
    }

    fn output(&self, script: &str) -> Output {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "timeout", "120", "sh", "-eux"])
            .env("T", self.path())
            .env("INSTALL", Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install"))
            .env("PROGRAM", env!("CARGO_BIN_EXE_cosmount"))
            .env("ENDPOINT", self.server.endpoint())
            .env("BUCKET", BUCKET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{INSTALL}\n{script}").as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What the bucket has under `key`.
    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.server.get(BUCKET, key).map(|object| object.body.to_vec())
    }
}

fn bucket() -> Config {
    Config::with_bucket(BUCKET)
}

#[test]
fn mount_and_umount_by_type() {
    let Some(machine) = Machine::new(bucket()) else { return };
    machine.run(
        r#"
        for type in cosmount fuse.cosmount; do
            mount -t $type "$BUCKET" "$T/mnt" -o "$O"
            findmnt -n -o FSTYPE,SOURCE,OPTIONS "$T/mnt" | grep "^fuse.cosmount *$BUCKET .*nosuid,nodev"
            echo "by $type" >"$T/mnt/$type"
            umount "$T/mnt"
            not mountpoint -q "$T/mnt"
            ended
        done
        mount -t cosmount -r "cos://$BUCKET/" "$T/mnt" -o "$O"
        not touch "$T/mnt/refused" 2>"$T/err"
        grep -q 'Read-only file system' "$T/err"
        umount "$T/mnt"
        ended"#,
    );
    assert_eq!(machine.object("cosmount").unwrap(), b"by cosmount\n");
    assert_eq!(machine.object("fuse.cosmount").unwrap(), b"by fuse.cosmount\n");
    assert_eq!(machine.object("refused"), None);
}

#[test]
fn a_line_of_fstab_is_mounted_once_and_unmounted() {
    let Some(machine) = Machine::new(bucket()) else { return };
    machine.run(
        r#"
        echo "cos://$BUCKET/data/ $T/mnt cosmount _netdev,nofail,x-systemd.automount,$O,metadata_ttl=1s 0 0" >/etc/fstab
        mount -a
        mount -a
        [ "$(grep -c "$T/mnt" /proc/self/mountinfo)" = 1 ]
        echo listed >"$T/mnt/f"
        umount "$T/mnt"
        ended
        mount "$T/mnt"
        grep listed "$T/mnt/f"
        umount "$T/mnt"
        ended"#,
    );
    assert_eq!(machine.object("data/f").unwrap(), b"listed\n");
}

#[test]
fn autofs_mounts_what_is_entered() {
    let Some(machine) = Machine::new(bucket()) else { return };
    if Command::new("automount").arg("--version").output().is_err() {
        eprintln!("skipped: there is no automount (Debian: autofs)");
        return;
    }
    machine.run(
        r#"
        echo "$T/auto $T/layers/map" >/etc/auto.master
        echo "data -fstype=cosmount,$(echo "$O" | sed 's/:/\\:/g') :$BUCKET" >"$T/layers/map"
        # Not in the shell's process group: whom automount takes for itself, it mounts nothing for.
        setsid timeout -k 5 60 automount --foreground --pid-file "$T/layers/pid" --timeout 60 /etc/auto.master >"$T/automount" 2>&1 &
        for _ in $(seq 100); do if mountpoint -q "$T/auto"; then break; fi; sleep 0.1; done
        echo entered >"$T/auto/data/f" || { cat "$T/automount"; exit 1; }
        umount "$T/auto/data"
        ended
        kill $!
        wait || true"#,
    );
    assert_eq!(machine.object("f").unwrap(), b"entered\n");
}

#[test]
fn a_mount_that_fails_fails_mount_and_boots_with_nofail() {
    let Some(machine) = Machine::new(bucket()) else { return };
    machine.run(
        r#"
        status=0; mount -t cosmount missing-1250000000 "$T/mnt" -o "$O" 2>"$T/err" || status=$?
        [ $status = 32 ]
        grep 'missing-1250000000.*NoSuchBucket' "$T/err"
        status=0; mount -t cosmount "$BUCKET" "$T/mnt" -o "$O,metadata_tll=1s" 2>"$T/err" || status=$?
        [ $status = 1 ]
        grep 'metadata[-_]ttl' "$T/err"
        not mountpoint -q "$T/mnt"
        ended"#,
    );
}

#[test]
fn a_user_mounts_for_himself_alone() {
    let Some(machine) = Machine::new(bucket()) else { return };
    machine.run(
        r#"
        user 4001; user 4002
        as 4001 cosmount "$BUCKET" "$T/mnt-4001" --region ap-guangzhou --endpoint "$ENDPOINT"
        chmod 755 "$T"
        as 4001 sh -c 'echo mine >"$T/mnt-4001/f"; [ "$(stat -c %u:%g "$T/mnt-4001/f")" = 4001:4001 ]'
        findmnt -n -o OPTIONS "$T/mnt-4001" | grep 'nosuid,nodev'
        chmod 711 "$T"
        # Nobody else comes in: neither a user nor root.
        not as 4002 ls "$T/mnt-4001" 2>"$T/err"
        not cat "$T/mnt-4001/f" 2>>"$T/err"
        [ "$(grep -c 'Permission denied' "$T/err")" = 2 ]
        as 4001 cosmount umount "$T/mnt-4001"
        ended"#,
    );
    assert_eq!(machine.object("f").unwrap(), b"mine\n");
}

#[test]
fn other_users_come_in_as_far_as_permission_bits_allow() {
    let Some(machine) = Machine::new(bucket()) else { return };
    machine.run(
        r#"
        user 4001; user 4002
        chmod 755 "$T" "$T/mnt-4001"
        try() { as 4001 cosmount mount "$BUCKET" "$T/mnt-4001" --region ap-guangzhou --endpoint "$ENDPOINT" "$@"; }
        : >/etc/fuse.conf
        status=0; try --allow-other 2>"$T/err" || status=$?
        [ $status = 2 ]
        grep user_allow_other "$T/err"
        echo user_allow_other >/etc/fuse.conf
        try --allow-other
        as 4001 sh -c 'cd "$T/mnt-4001"; echo all >open; echo me >closed; chmod 600 closed; mkdir locked; chmod 700 locked'
        as 4002 grep all "$T/mnt-4001/open"
        not as 4002 cat "$T/mnt-4001/closed" 2>"$T/err"
        not as 4002 ls "$T/mnt-4001/locked" 2>>"$T/err"
        not as 4002 touch "$T/mnt-4001/new" 2>>"$T/err"
        not as 4002 rm -f "$T/mnt-4001/open" 2>>"$T/err"
        [ "$(grep -c 'Permission denied' "$T/err")" = 4 ]
        as 4001 cosmount umount "$T/mnt-4001"
        try --allow-root
        grep all "$T/mnt-4001/open"
        not as 4002 cat "$T/mnt-4001/open" 2>"$T/err"
        grep 'Permission denied' "$T/err"
        as 4001 cosmount umount "$T/mnt-4001"
        ended"#,
    );
}

#[test]
fn umount_returns_when_everything_is_in_the_bucket() {
    let Some(machine) = Machine::new(Config { latency: Duration::from_millis(300), ..bucket() }) else { return };
    machine.run(
        r#"
        mount -t cosmount "$BUCKET" "$T/mnt" -o "$O"
        # Dirty pages of a mapping and of open files are sent by the unmount.
        exec 9>"$T/mnt/slow"
        head -c 3000000 /dev/zero >&9
        umount "$T/mnt"
        not mountpoint -q "$T/mnt"
        ended"#,
    );
    assert_eq!(machine.object("slow").unwrap().len(), 3_000_000);
}

#[test]
fn systemd_is_told_when_the_mount_works_and_when_it_stops() {
    let Some(machine) = Machine::new(bucket()) else { return };
    let socket = UnixDatagram::bind(machine.path().join("notify")).unwrap();
    machine.run(
        r#"
        NOTIFY_SOCKET=$T/notify cosmount mount --foreground "$BUCKET" "$T/mnt" -o "$O" 2>"$T/log" &
        for _ in $(seq 200); do if mountpoint -q "$T/mnt"; then break; fi; sleep 0.05; done
        echo x >"$T/mnt/f"
        cosmount umount "$T/mnt"
        wait"#,
    );
    socket.set_nonblocking(true).unwrap();
    let mut told = Vec::new();
    let mut text = [0; 1000];
    while let Ok(length) = socket.recv(&mut text) {
        told.push(String::from_utf8_lossy(&text[..length]).into_owned());
    }
    assert!(told[0].starts_with(&format!("READY=1\nSTATUS=cos://{BUCKET}/ on ")), "{told:?}");
    assert!(told.iter().any(|told| told.starts_with("STOPPING=1")), "{told:?}");
}

#[test]
fn the_unit_is_one_systemd_understands() {
    let Some(machine) = Machine::new(bucket()) else { return };
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    machine.run(r#"systemd-analyze verify --man=no /etc/systemd/system/cosmount@photos.service 2>&1 | (not grep -i 'cosmount@')"#);
}

/// No mount, so neither root nor a namespace: into a directory of the test's own.
#[test]
fn what_is_installed_is_everybodys_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_cosmount"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install");
    // The binary's path is relative to where it is typed.
    let line = format!("umask 077; '{}' --binary ./cosmount", script.display());
    let done = Command::new("sh").args(["-c", &line]).current_dir(program.parent().unwrap()).env("DESTDIR", dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let private = Command::new("find").arg(dir.path()).args(["-mindepth", "1", "!", "-perm", "-o+r"]).output().unwrap();
    assert_eq!(String::from_utf8(private.stdout).unwrap(), "");
}
