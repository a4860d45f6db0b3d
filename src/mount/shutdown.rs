//! The life of a mount: start, serve, drain, stop. It always ends.
//!
//! A mount is stopped by a signal (`cosmount umount`, Ctrl-C) or by the kernel (`umount`, an aborted connection). Either way (M2)
//! 1. pages of mapped files that only the kernel has are written to us, as far as there is still a mount;
//! 2. [`Vfs::drain`] refuses changes and commits what is dirty, until nothing moves for `--drain-timeout`; a second signal ends it, and step 1, too;
//! 3. what is left is said, file by file: in the log, to `cosmount umount`, by the exit code;
//! 4. the mount is taken away, by device number, so never somebody else's;
//! 5. the process ends, which closes the connection to the kernel: whoever still waits in it gets ENOTCONN.
//!
//! No step waits without an end: what the kernel or the network does not answer is left behind at its limit.

use std::{cmp::Reverse, io, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use nix::unistd::geteuid;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, Door, Inside};
use crate::data::Data;
use crate::fuse::{self, Serving};
use crate::mount::build::{self, Rooms};
use crate::mount::daemon::{Registration, Status};
use crate::mount::host;
use crate::mount::service_manager::ServiceManager;
use crate::mount::session::{Audience, Mounted, Request, check_mount_point};
use crate::mount::settings::Settings;
use crate::mount::telemetry::Logging;
use crate::support::{Clock, Ctx, Urgency};
use crate::vfs::{Left, Unsent, Vfs};

/// How long the kernel may take to write its pages to us, and how long background tasks to end.
const STEP: Duration = Duration::from_secs(10);
/// How long programs that still have files open keep the session after the drain.
const LAST_REQUESTS: Duration = Duration::from_millis(500);
/// How often the progress of a drain is told, and how often it is logged.
const PROGRESS: Duration = Duration::from_secs(1);
const LOGGED: u64 = 10;
/// How many of the files that are left are told to who asked for the end; the log has more.
const TOLD: usize = 10;
const LOGGED_FILES: usize = 1000;

/// A mount that works.
#[derive(Debug)]
pub struct Running {
    rooms: Rooms,
    settings: Settings,
    mounted: Mounted,
    serving: Serving,
    signals: Signals,
    registration: Option<Registration>,
    /// Questions are answered to the last.
    door: Option<Door>,
    manager: ServiceManager,
}

/// The signals that stop a mount, caught from before it works.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone. A log that is elsewhere is reopened by SIGHUP instead.
    hang_up: Option<Signal>,
}

/// Mounts: when it returns, the kernel has shaken hands and the bucket has answered a signed request (M1).
///
/// # Errors
/// A paragraph for the user. Nothing is left mounted.
pub fn start(settings: Settings, logging: &Logging) -> anyhow::Result<Running> {
    settings.check()?;
    check_mount_point(&settings.mount_point)?;
    host::check()?;
    let mut rooms = build::build(&settings)?;
    if !settings.vfs.read_only {
        let Rooms { runtime, bucket, data, clock, leftovers, .. } = &mut rooms;
        runtime.block_on(leftovers.end_what_is_seen(bucket, data, clock));
    }
    let signals = {
        let _context = rooms.runtime.enter();
        Signals::catch(logging.is_terminal())?
    };
    logging.obey(rooms.runtime.handle())?;
    let request = Request {
        source: settings.source.typed.clone(),
        mount_point: settings.mount_point.clone(),
        read_only: settings.vfs.read_only,
        noexec: settings.noexec,
        audience: settings.audience,
    };
    let (device, mounted) = match request.mount() {
        Ok(mounted) => mounted,
        Err(error) => {
            rooms.abandon();
            return Err(error);
        }
    };
    let served = fuse::serve(
        Arc::clone(&rooms.vfs),
        device,
        if settings.audience == Audience::OwnerAndRoot { fuse::Access::OwnerAndRoot } else { fuse::Access::AsMounted },
        rooms.runtime.handle(),
        Arc::clone(&rooms.clock),
        settings.io_timeout,
        &rooms.notify,
    );
    let serving = match served.context("the kernel refused to talk FUSE") {
        Ok(serving) => serving,
        Err(error) => {
            mounted.unmount()?;
            rooms.abandon();
            return Err(error);
        }
    };
    mounted.raise_readahead();
    mounted.name_helper(&settings.source.typed);
    let registration = match Registration::new(&settings.runtime_directory, &mounted) {
        Ok(registration) => Some(registration),
        Err(error) => {
            tracing::warn!("`cosmount umount` will not find this process, stop it by SIGTERM: {error:#}");
            None
        }
    };
    let door = registration.as_ref().and_then(|registration| open_door(&rooms, registration, settings.io_timeout));
    let leftovers = std::mem::take(&mut rooms.leftovers);
    if !settings.vfs.read_only {
        rooms.tasks.spawn(leftovers.clean_up(Arc::clone(&rooms.bucket), Arc::clone(&rooms.data), Arc::clone(&rooms.clock)));
    }
    tracing::info!("{} is mounted on {}", settings.source, settings.mount_point.display());
    let manager = ServiceManager::at(settings.notify_socket.as_ref());
    manager.ready(&format!("{} on {}", settings.source, settings.mount_point.display()));
    Ok(Running { rooms, settings, mounted, serving, signals, registration, door, manager })
}

/// Lets questions in. A mount works without.
fn open_door(rooms: &Rooms, registration: &Registration, patience: Duration) -> Option<Door> {
    let _context = rooms.runtime.enter();
    let inside = Inside {
        uid: geteuid().as_raw(),
        vfs: Arc::clone(&rooms.vfs),
        budget: rooms.budget.clone(),
        metrics: Arc::clone(&rooms.metrics),
        clock: Arc::clone(&rooms.clock),
        patience,
        errno: fuse::errno_name,
    };
    let door = admin::serve(&registration.socket(), inside, &rooms.tasks);
    door.inspect_err(|error| tracing::warn!(%error, "`cosmount stats` and `cosmount sync` will not reach this mount")).ok()
}

impl Running {
    /// The mount.
    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Serves until the mount is stopped, then drains, unmounts and ends everything. Returns what could not be sent.
    ///
    /// # Errors
    /// The mount could not be taken away.
    pub fn serve(self) -> anyhow::Result<Left> {
        self.until(None)
    }

    /// As [`Running::serve`], but stopped at once.
    ///
    /// # Errors
    /// As there.
    pub fn stop(self) -> anyhow::Result<Left> {
        self.until(Some("asked to"))
    }

    fn until(self, asked: Option<&'static str>) -> anyhow::Result<Left> {
        let Self { rooms, settings, mounted, mut serving, mut signals, registration, door, manager } = self;
        let Rooms { runtime, clock, tasks, staging, ledger, data, notify, vfs, .. } = rooms;
        let stop = Stop {
            clock: &clock,
            data: &data,
            vfs: &vfs,
            mounted: &mounted,
            registration: registration.as_ref(),
            manager: &manager,
            staging: staging.as_ref().map(|disk| disk.path()),
            patience: settings.drain_timeout,
        };
        let (left, unmounted) = runtime.block_on(async {
            let asked = async {
                match asked {
                    Some(why) => why,
                    None => signals.next().await,
                }
            };
            let by_kernel = tokio::select! {
                name = asked => {
                    tracing::info!("stopping: {name}");
                    false
                }
                ended = serving.ended() => {
                    log_end(&ended);
                    true
                }
            };
            manager.stopping();
            stop.say_draining(Duration::ZERO);
            let hurried = !by_kernel && stop.write_back_pages(&mut signals).await;
            let (left, patience) = if hurried { (vfs.left(), Duration::ZERO) } else { stop.drain(&mut signals).await };
            stop.report(left);
            let unmounted = mounted.unmount();
            notify.close();
            if !by_kernel {
                within(&clock, LAST_REQUESTS, serving.ended()).await;
            }
            if left.files == 0 {
                within(&clock, STEP, vfs.let_go()).await;
            }
            drop(door);
            tasks.join(&clock, patience).await;
            if let Some(ledger) = ledger {
                within(&clock, STEP, ledger.end()).await;
            }
            (left, unmounted)
        });
        drop((vfs, data));
        // What a stuck blocking call holds ends with the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Some(disk) = staging.filter(|_| left.files == 0)
            && let Err(error) = disk.retire()
        {
            tracing::debug!(%error, "the staging directory stays");
        }
        unmounted.map(|()| left)
    }
}

/// What stopping needs.
struct Stop<'a> {
    clock: &'a Arc<dyn Clock>,
    data: &'a Data,
    vfs: &'a Arc<Vfs>,
    mounted: &'a Mounted,
    registration: Option<&'a Registration>,
    manager: &'a ServiceManager,
    /// Where bytes went for which memory was short.
    staging: Option<&'a Path>,
    patience: Duration,
}

impl Stop<'_> {
    /// Step 1. Says whether a second signal has cut it short.
    async fn write_back_pages(&self, signals: &mut Signals) -> bool {
        let mounted = self.mounted.clone();
        let written = tokio::task::spawn_blocking(move || mounted.write_back_pages());
        tokio::select! {
            written = within(self.clock, STEP, written) => {
                match written {
                    Some(Ok(Ok(()))) => {}
                    other => tracing::warn!(?other, "pages of mapped files may not have reached this process"),
                }
                false
            }
            name = signals.next() => {
                tracing::warn!("not waiting any longer: {name}");
                // Nothing is taken any more that would not be sent.
                self.vfs.refuse_changes();
                true
            }
        }
    }

    /// Step 2. Also says how long what still runs in the background may take: no time at all after a second signal, or
    /// when it would only try again what has just failed.
    async fn drain(&self, signals: &mut Signals) -> (Left, Duration) {
        let cx = Ctx::new(Arc::clone(self.clock), self.patience, 0, 0).with_urgency(Urgency::WriteOut);
        let draining = self.vfs.drain(&cx);
        tokio::pin!(draining);
        let mut second = 0_u64;
        loop {
            let idle = self.patience.saturating_sub(cx.remaining());
            let (files, bytes) = self.say_draining(idle);
            if second > 0 && second.is_multiple_of(LOGGED) {
                tracing::info!("{files} files with {bytes} bytes are still to be sent; nothing has moved for {} s", idle.as_secs());
            }
            tokio::select! {
                biased;
                left = &mut draining => return (left, if left.files + left.noted == 0 { STEP } else { Duration::ZERO }),
                name = signals.next() => {
                    tracing::warn!("not waiting any longer: {name}");
                    return (self.vfs.left(), Duration::ZERO);
                }
                () = self.clock.sleep(PROGRESS) => second += 1,
            }
        }
    }

    /// Tells how far the drain is, from its first moment on: whoever asks for the end again then knows that it has begun. Returns files and bytes.
    fn say_draining(&self, idle: Duration) -> (usize, u64) {
        let (bytes, files) = (self.data.dirty_bytes(), self.vfs.left().files);
        self.say(&Status::Draining { bytes, files, idle: idle.as_secs(), limit: self.patience.as_secs() });
        self.manager.draining(bytes);
        (files, bytes)
    }

    /// Step 3.
    fn report(&self, left: Left) {
        let mut which = self.vfs.unsent();
        which.sort_by_key(|file| Reverse(file.bytes()));
        which.truncate(LOGGED_FILES);
        let shown = |file: &Unsent| format!("{} ({} bytes)", file.path.escape_debug(), file.bytes());
        self.say(&Status::Ended {
            files: left.files,
            bytes: left.bytes,
            which: which.iter().take(TOLD).map(shown).collect(),
            noted: left.noted,
        });
        if left.noted > 0 {
            let where_to = self.staging.map(|path| format!(" with the staging directory {}", path.display())).unwrap_or_default();
            tracing::error!("{} removals and changes of attributes are not in COS yet: the next mount{where_to} sends them", left.noted);
        }
        if left.files == 0 {
            return;
        }
        for file in &which {
            let reason = file.reason.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            tracing::error!("not in COS: {}{reason}", shown(file));
        }
        let staged = self.staging.map(|path| format!("; what of it had been spilled to {} goes with the next mount", path.display()));
        let (files, bytes) = (left.files, left.bytes);
        tracing::error!("changes of {files} files ({bytes} bytes) are not in COS and end with this process{}", staged.unwrap_or_default());
    }

    fn say(&self, status: &Status) {
        if let Some(Err(error)) = self.registration.map(|registration| registration.say(status)) {
            tracing::debug!(%error, "cannot tell how the end goes");
        }
    }
}

impl Signals {
    fn catch(in_terminal: bool) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: in_terminal.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    /// The next one that comes.
    async fn next(&mut self) -> &'static str {
        let hang_up = &mut self.hang_up;
        let hung_up = async {
            match hang_up {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hung_up => "SIGHUP",
        }
    }
}

/// The result of `work`, unless it takes longer than `limit`.
async fn within<T>(clock: &Arc<dyn Clock>, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// An aborted connection is an ordinary end: FUSE_ABORT_ERROR makes it tell itself apart from an unmount.
fn log_end(ended: &io::Result<()>) {
    match ended {
        Ok(()) => tracing::info!("stopping: unmounted"),
        Err(error) if error.raw_os_error() == Some(nix::libc::ECONNABORTED) => {
            tracing::warn!("stopping: the connection to the kernel was aborted")
        }
        Err(error) => tracing::error!(%error, "stopping: the session failed"),
    }
}
