//! Mounting and unmounting, our own.
//!
//! fuser could do both, but 0.18 unmounts once more after somebody else has unmounted, and so takes away what lies below or was mounted since.
//! Here the mount is made by mount(2) for root and by `fusermount3` for everybody else, and [`Mounted`] knows which one is ours by its device
//! number, asked of `/proc/self/mountinfo`: nothing is ever unmounted that is not it. Looking there touches no file system, so it never hangs on
//! a dead one.

use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{SFlag, stat},
    unistd::{getegid, geteuid},
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::mount::advice::Fault;
use crate::mount::host::{self, HELPER};

/// The file system type that `mount` and `/proc` show.
pub const TYPE: &str = "fuse.cosmount";

/// Where umount(8) looks for what unmounts this type.
const UMOUNT_HELPER: &str = "/sbin/umount.fuse.cosmount";

/// How long a program of the system may take.
const PROGRAM: Duration = Duration::from_secs(10);

/// Readahead of the mount in KiB: 128 is what the kernel gives, 1024 read 60 % more a second (measured).
const READ_AHEAD: &str = "1024";

/// Who may use the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The user that mounts.
    Owner,
    /// And root.
    OwnerAndRoot,
    /// Everybody, by the permissions of the files.
    Everybody,
}

/// What is mounted where and how.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// What `mount` shows as the source.
    pub(super) source: String,
    /// An absolute path.
    pub(super) mount_point: PathBuf,
    /// Writes are refused by the kernel.
    pub(super) read_only: bool,
    /// No program is run from it.
    pub(super) noexec: bool,
    /// Who may use it.
    pub(super) audience: Audience,
}

/// A mount of ours. Dropping it does not unmount.
#[derive(Debug, Clone)]
pub struct Mounted {
    mount_point: PathBuf,
    device: String,
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountEntry {
    /// `major:minor` of the file system.
    device: String,
    /// Where it is.
    mount_point: PathBuf,
    /// Its type.
    kind: String,
    /// What it was mounted from.
    source: String,
}

/// Says whether a mount can be made at `path` (absolute).
///
/// # Errors
/// It is missing, no directory, a mount of ours, or one whose daemon is dead.
pub fn check_mount_point(path: &Path) -> Result<(), Fault> {
    let shown = path.display();
    let ours = || Mounted::find(path).ok().flatten().is_some();
    // stat(2), not the statx(2) of the standard library: that would wait for the automount that this may be.
    match stat(path).map_err(io::Error::from) {
        Ok(_) if ours() => Err(Fault::new(
            format!("{shown} is a mount of cosmount already"),
            format!("unmount it first (cosmount umount {shown}), or name another directory"),
        )),
        Ok(found) if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => Ok(()),
        Ok(_) => Err(Fault::new(format!("{shown} is not a directory"), "name one: a mount needs a directory to be on")),
        Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => Err(Fault::new(
            format!("{shown} is a mount whose process has died (\"{error}\")"),
            format!("run `cosmount umount {shown}` first"),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Fault::new(format!("{shown} does not exist"), format!("make the directory first (mkdir -p {shown})")))
        }
        Err(error) => {
            Err(Fault::new(format!("cannot look at the mount point {shown} ({error})"), "name a directory that this user may enter"))
        }
    }
}

impl Request {
    /// Mounts. The kernel's first request waits in the descriptor from then on, and everybody who looks at the mount waits for its answer.
    ///
    /// # Errors
    /// No `/dev/fuse`, no right to mount, no `fusermount3`.
    pub(super) fn mount(&self) -> anyhow::Result<(OwnedFd, Mounted)> {
        let device = if geteuid().is_root() { self.mount_as_root()? } else { self.mount_by_helper()? };
        let Some(entry) = topmost(&self.mount_point)?.filter(|entry| entry.kind == TYPE) else {
            bail!("{} was mounted, but /proc/self/mountinfo does not show it", self.mount_point.display());
        };
        Ok((device, Mounted { mount_point: self.mount_point.clone(), device: entry.device }))
    }

    fn mount_as_root(&self) -> anyhow::Result<OwnedFd> {
        let device = host::open_device()?;
        let mode = stat(&self.mount_point)?.st_mode;
        let mut options =
            format!("fd={},rootmode={mode:o},user_id={},group_id={},default_permissions", device.as_raw_fd(), geteuid(), getegid());
        if self.audience != Audience::Owner {
            options.push_str(",allow_other");
        }
        let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        flags.set(MsFlags::MS_RDONLY, self.read_only);
        flags.set(MsFlags::MS_NOEXEC, self.noexec);
        let mounted = mount(Some(self.source.as_str()), &self.mount_point, Some(TYPE), flags, Some(options.as_str()));
        mounted.map_err(|errno| {
            let why = format!("mount(2) of {} on {} failed ({})", self.source, self.mount_point.display(), errno.desc());
            match errno {
                Errno::EPERM => Fault::of_host(why, "give the container the right to mount (--cap-add SYS_ADMIN), or mount outside of it"),
                Errno::ENODEV => Fault::of_host(why, "load the kernel's module (modprobe fuse)"),
                _ => Fault::new(why, "look into the kernel's log (dmesg)"),
            }
        })?;
        Ok(device.into())
    }

    /// `fusermount3` is setuid root: it mounts and sends the descriptor over a socket, which it finds by its number in `_FUSE_COMMFD`. The socket
    /// is given to it as its standard input, because a descriptor of another number would need an unsafe step between fork and exec.
    fn mount_by_helper(&self) -> anyhow::Result<OwnedFd> {
        let (socket, theirs) = UnixStream::pair()?;
        let (rights, subtype) = (if self.read_only { ",ro" } else { "" }, TYPE.trim_start_matches("fuse."));
        let programs = if self.noexec { ",noexec" } else { "" };
        let others = if self.audience == Audience::Owner { "" } else { ",allow_other" };
        let options =
            format!("fsname={},subtype={subtype},default_permissions,nodev,nosuid{rights}{programs}{others}", in_a_list(&self.source));
        let helper = Command::new(HELPER)
            .args(["-o", &options, "--"])
            .arg(&self.mount_point)
            .env("_FUSE_COMMFD", "0")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(host::no_helper)?;
        // Our copy of its end went with the Command, so the socket ends when the helper does.
        let received = receive_descriptor(&socket);
        let output = helper.wait_with_output()?;
        match received {
            Ok(Some(device)) if output.status.success() => Ok(device),
            received => {
                drop(received);
                let said = String::from_utf8_lossy(&output.stderr);
                let why = format!("{HELPER} could not mount on {} ({})", self.mount_point.display(), said.trim().escape_debug());
                Err(match () {
                    () if said.contains("user_allow_other") => Fault { why, ..host::others_refused() },
                    () if said.contains("failed to open /dev/fuse") || said.contains("device not found") => Fault::of_host(
                        why,
                        "load the kernel's module (modprobe fuse), or give the container the device (--device /dev/fuse)",
                    ),
                    () if said.contains("Operation not permitted") => {
                        Fault::of_host(why, format!("{HELPER} must be setuid root and allowed to mount, which a container may forbid"))
                    }
                    () => Fault::new(why, "name an empty directory of this user's own"),
                }
                .into())
            }
        }
    }
}

/// As `fusermount3` reads a value in its list of options: a comma or a backslash in it stands behind a backslash.
fn in_a_list(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// The descriptor that the other side sends with one byte, if it sends one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

impl Mounted {
    /// The mount at `path`, if its topmost is one of this program.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn find(path: &Path) -> io::Result<Option<Self>> {
        let entry = topmost(path)?.filter(|entry| entry.kind == TYPE);
        Ok(entry.map(|MountEntry { device, mount_point, .. }| Self { mount_point, device }))
    }

    #[cfg(test)]
    pub(super) fn pretend(mount_point: &Path, device: &str) -> Self {
        Self { mount_point: mount_point.to_owned(), device: device.to_owned() }
    }

    /// Where it is, or was.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// `major:minor` of its file system.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether the process behind it is gone, so that nothing of it is still on its way.
    pub fn is_dead(&self) -> bool {
        matches!(stat(&self.mount_point), Err(Errno::ENOTCONN))
    }

    /// Whether it is still there and nothing is mounted on top of it.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn is_there(&self) -> io::Result<bool> {
        Ok(topmost(&self.mount_point)?.is_some_and(|entry| entry.device == self.device && entry.kind == TYPE))
    }

    /// Asks for larger readahead. Only root may; the kernel's own is not wrong, only slower.
    pub fn raise_readahead(&self) {
        let path = format!("/sys/class/bdi/{}/read_ahead_kb", self.device);
        if let Err(error) = fs::write(&path, READ_AHEAD) {
            tracing::debug!(path, %error, "readahead stays as the kernel has it");
        }
    }

    /// Tells umount(8) that this mount has a helper, which waits for what is to be sent. It looks for one only where libmount's table of user
    /// space options names it (measured, util-linux 2.38: for FUSE it asks statfs(2) else, which knows no subtype), and the table is libmount's own:
    /// so mount(8) is asked to write the line, all but the mount itself.
    pub(super) fn name_helper(&self, source: &str) {
        if !geteuid().is_root() || !Path::new(UMOUNT_HELPER).exists() {
            return;
        }
        let options = format!("uhelper={TYPE}");
        run_fake("mount", &["-t", TYPE, "-o", &options, "--", source], &self.mount_point);
    }

    /// Takes the line away that [`Mounted::name_helper`] had written.
    fn forget_helper(&self) {
        if geteuid().is_root() && Path::new(UMOUNT_HELPER).exists() {
            run_fake("umount", &["--"], &self.mount_point);
        }
    }

    /// Takes the mount away at once; who still uses it keeps it until done. Nothing happens if it is gone already or something else lies on top.
    ///
    /// # Errors
    /// The system or the helper refused.
    pub fn unmount(&self) -> anyhow::Result<()> {
        if !self.is_there()? {
            return Ok(());
        }
        let shown = self.mount_point.display();
        if geteuid().is_root() {
            self.forget_helper();
            return umount2(&self.mount_point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .with_context(|| format!("cannot unmount {shown}"));
        }
        let mut helper = Command::new(HELPER);
        helper.args(["-u", "-z", "--"]).arg(&self.mount_point);
        let output = output_within(helper, PROGRAM).map_err(host::no_helper)?;
        if !output.status.success() {
            bail!("{HELPER} could not unmount {shown}: {}", String::from_utf8_lossy(&output.stderr).trim().escape_debug());
        }
        Ok(())
    }

    /// Has the kernel write its dirty pages to us (mapped files that nobody has closed yet). Waits for our own threads: never called on one.
    ///
    /// # Errors
    /// The mount cannot be opened, or a page was refused.
    pub fn write_back_pages(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(File::open(&self.mount_point)?)?)
    }
}

/// Runs mount(8) or umount(8) for its books alone: no system call, no helper.
fn run_fake(program: &str, words: &[&str], mount_point: &Path) {
    let mut command = Command::new(program);
    command.args(["--fake", "--internal-only"]).args(words).arg(mount_point);
    match output_within(command, PROGRAM) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            tracing::debug!(program, said = %String::from_utf8_lossy(&output.stderr).trim().escape_debug(), "libmount's table stays as it is")
        }
        Err(error) => tracing::debug!(program, %error, "libmount's table stays as it is"),
    }
}

/// Runs a program that has no reason to take long. One that does all the same (somebody holds libmount's lock) is left to itself: no stop waits for
/// it.
fn output_within(mut command: Command, limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let (tell, told) = mpsc::channel();
    // Whoever listened may have gone on.
    thread::spawn(move || tell.send(child.wait_with_output()).ok());
    told.recv_timeout(limit).unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end after {} s", limit.as_secs()))))
}

/// The mount that a look at `path` would find: the last of those that are listed there.
fn topmost(path: &Path) -> io::Result<Option<MountEntry>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse_line).rfind(|entry| entry.mount_point == path))
}

/// `36 35 98:0 /root /mount/point options [optional ...] - type source options` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let mount_point = unescape(fields.nth(1)?);
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(behind.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(behind.next()?)).into_owned();
    Some(MountEntry { device, mount_point: PathBuf::from(std::ffi::OsStr::from_bytes(&mount_point)), kind, source })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.first_chunk::<3>().filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            out.push(byte);
            rest = &behind[3..];
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_list_ends_where_it_should() {
        assert_eq!(in_a_list(r"cos://b-125/a,allow_other/b\"), r"cos://b-125/a\,allow_other/b\\");
    }

    #[test]
    fn mountinfo_lines_are_read() {
        let line = br"98 28 0:57 / /mnt/a\040b\134c rw,nosuid shared:3 master:1 - fuse.cosmount cosmount#b-125 rw,user_id=0";
        let entry = parse_line(line).unwrap();
        assert_eq!((entry.device.as_str(), entry.kind.as_str(), entry.source.as_str()), ("0:57", TYPE, "cosmount#b-125"));
        assert_eq!(entry.mount_point, Path::new(r"/mnt/a b\c"));
        assert_eq!(parse_line(b"98 28 0:57 / /plain rw - tmpfs tmpfs rw").unwrap().kind, "tmpfs");
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"98 28 0:57"), None);
    }

    #[test]
    fn mount_points_that_cannot_be_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(check_mount_point(dir.path()).is_ok());
        assert!(check_mount_point(&file).unwrap_err().to_string().contains("not a directory"));
        assert!(check_mount_point(&dir.path().join("none")).unwrap_err().to_string().contains("mkdir -p"));
    }

    #[test]
    fn a_descriptor_comes_through_a_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = fs::File::open("/dev/null").unwrap();
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&[sent.as_raw_fd()])];
        let byte = [io::IoSlice::new(b"x")];
        nix::sys::socket::sendmsg::<()>(theirs.as_raw_fd(), &byte, &rights, nix::sys::socket::MsgFlags::empty(), None).unwrap();
        let received = receive_descriptor(&ours).unwrap().unwrap();
        assert!(fs::read_link(format!("/proc/self/fd/{}", received.as_raw_fd())).unwrap().ends_with("null"));
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none(), "an end without a descriptor is none");
    }

    #[test]
    fn a_program_that_hangs_is_not_waited_for() {
        let mut sleep = Command::new("sleep");
        sleep.arg("5");
        let late = output_within(sleep, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert!(output_within(Command::new("true"), PROGRAM).unwrap().status.success());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let gone = Mounted { mount_point: PathBuf::from("/proc"), device: "0:9999".to_owned() };
        assert!(!gone.is_there().unwrap());
        gone.unmount().unwrap();
        assert!(Mounted::find(Path::new("/proc")).unwrap().is_none());
    }
}
