//! `cosmount doctor`: looks at everything that a mount needs, one by one, and names each fault with its remedy.
//!
//! It takes the words of `cosmount mount` and means the same by them. A check that cannot say anything, because one before it failed, says that
//! it was not tried and why; everything else is looked at, so that one run finds all there is. Nothing is left behind, here or in the bucket.

mod bucket;
mod finding;
mod host;
mod network;

use std::{ffi::OsString, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tracing::Level;

use crate::cli::args::Doctor;
use crate::cli::commands::{mount::settings, secrets};
use crate::cli::{Failure, SYSTEM, USAGE};
use crate::mount::Settings;
use crate::mount::daemon;
use crate::mount::telemetry::{self, Log};
use crate::support::{Clock, Ctx, SystemClock};

use finding::Report;

/// How long each step over the network may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the checks are made with.
struct Patient {
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// The mount point, if one was typed.
    at: bool,
    /// Whether a probe object may be put into the bucket.
    write: bool,
}

impl Patient {
    fn cx(&self) -> Ctx {
        Ctx::new(Arc::clone(&self.clock), self.settings.io_timeout.min(PATIENCE), 0, 0)
    }
}

/// `words` are what this process was started with. Secrets leave its environment first, as for a mount.
pub(in crate::cli) fn run(doctor: &Doctor, words: &[OsString]) -> Result<(), Failure> {
    let usage = |error: anyhow::Error| Failure::new(USAGE, error);
    let settings = settings(&doctor.mount, secrets(words, "doctor")?).map_err(usage)?;
    settings.check().map_err(usage)?;
    if doctor.mount.log_level > Level::INFO {
        telemetry::start(&Log::terminal(doctor.mount.log_level)).map_err(usage)?;
    }
    if !doctor.mount.allow_core {
        daemon::hide_memory();
    }
    let at = doctor.mount.mountpoint != Path::new(Doctor::NOWHERE);
    let patient = Patient { settings, clock: Arc::new(SystemClock), at, write: doctor.write };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("the runtime").map_err(|error| Failure::new(SYSTEM, error))?;
    let mut report = Report::new(doctor.json);
    examine(&runtime, &patient, &mut report);
    runtime.shutdown_timeout(Duration::from_secs(1));
    let faults = report.close(&patient.settings.source);
    if faults == 0 { Ok(()) } else { Err(Failure::told(SYSTEM)) }
}

fn examine(runtime: &Runtime, patient: &Patient, report: &mut Report) {
    runtime.block_on(async {
        let way = network::examine(patient, report).await;
        bucket::examine(patient, report, way).await;
    });
    host::examine(patient, report);
}
