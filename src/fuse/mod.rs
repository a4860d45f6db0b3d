//! The front door: kernel requests become [`Vfs`] calls, results become replies, errors become errno.
//!
//! Transport only: this room decides nothing and holds no file-system state. What the kernel protocol and fuser 0.18 make difficult:
//! 1. a FUSE thread must never wait: `dispatch` polls each operation once and moves what is not ready to the runtime (F3);
//! 2. every request needs exactly one reply, also after a panic, a dropped task or a black hole below (`dispatch`, F1);
//! 3. directory entries without attributes cannot be said through fuser: `dirents` encodes them and writes them itself;
//! 4. a notification may wait for a request that waits for us: `notify` has a queue and a thread of its own (F4).
//!
//! fuser logs through the `log` crate under the target `fuser`; this program installs no bridge for it, so the two lines that a directory
//! reply of ours costs (`fuser::reply`: its own late answer is refused, see `dirents`) are not written.

mod again;
mod convert;
mod dirents;
mod dispatch;
mod errno;
mod failures;
mod notify;
mod ops;
#[cfg(test)]
pub(crate) mod probe;
mod reply;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use fuser::{Session, SessionACL};
use tokio::{runtime::Handle, sync::oneshot};

use crate::support::Clock;
use crate::vfs::Vfs;

pub use errno::errno_name;
pub use notify::KernelNotify;

/// Threads that read requests. A second one keeps small requests moving while the first copies a large one; more gained nothing (measured).
const EVENT_LOOPS: usize = 2;

/// Who may use the mount. The kernel itself refuses everybody but the owner unless `allow_other` is among the mount's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whom the mount options let in.
    AsMounted,
    /// The kernel lets everybody in (`allow_other`); all but root and the owner are refused here.
    OwnerAndRoot,
}

/// A session that answers the kernel.
#[derive(Debug)]
pub struct Serving {
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Serving {
    /// Completes when the kernel has ended the session: unmounted from outside, or the connection aborted.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("the threads that read from the kernel are gone")))
    }
}

/// Shakes hands with the kernel over `device`, an open and mounted `/dev/fuse`, and answers requests on threads of its own from then on.
/// When it returns, the mount works. Nothing here unmounts.
///
/// # Errors
/// The kernel's answer to the handshake, or no thread could be started.
pub fn serve(
    vfs: Arc<Vfs>,
    device: OwnedFd,
    access: Access,
    runtime: &Handle,
    clock: Arc<dyn Clock>,
    patience: Duration,
    notify: &KernelNotify,
) -> io::Result<Serving> {
    let own = File::from(device.as_fd().try_clone_to_owned()?);
    let failures = failures::Failures::new(runtime.clone(), Arc::clone(&clock));
    let front = ops::Front::new(vfs, dispatch::Dispatch::new(runtime.clone(), clock, patience), failures, own);
    serve_with(front, device, access, notify)
}

/// As [`serve`], for any file system: the tests of the kernel's own behaviour bring their own.
fn serve_with(front: impl fuser::Filesystem, device: OwnedFd, access: Access, notify: &KernelNotify) -> io::Result<Serving> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(EVENT_LOOPS);
    let acl = match access {
        Access::AsMounted => SessionACL::All,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
    };
    let session = Session::from_fd(front, device, acl, config)?;
    notify.attach(session.notifier())?;
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("fuse-session".to_owned()).spawn(move || {
        let result = session.run();
        // Nobody listens any more when the program is already on its way out.
        tell.send(result).ok();
    })?;
    Ok(Serving { ended })
}
