//! This host: what mounts, where, and where changes are staged.

use std::os::unix::fs::MetadataExt;

use nix::unistd::geteuid;

use crate::cli::commands::doctor::{Patient, finding::Report};
use crate::mount::advice::Fault;
use crate::mount::{check_mount_point, host};

/// Looks at everything; nothing here depends on the other.
pub(super) fn examine(patient: &Patient, report: &mut Report) {
    let settings = &patient.settings;
    tell(report, "/dev/fuse", host::open_device().map(|_| "there".to_owned()));
    match host::helper() {
        Ok(version) => report.good("fusermount3", version),
        Err(_) if geteuid().is_root() => report.good("fusermount3", "not there, and root needs none"),
        Err(fault) => report.fault("fusermount3", &fault),
    }
    tell(report, "user_allow_other", host::others(settings.audience));
    if patient.at {
        let point = &settings.mount_point;
        tell(
            report,
            "mount point",
            check_mount_point(point).and_then(|()| owned(patient)).map(|()| format!("{} is a directory", point.display())),
        );
    } else {
        report.not_tried("mount point", "none was named");
    }
    match host::look_at_staging(settings) {
        Ok(found) => report.good("staging", found),
        Err(error) => match error.downcast_ref::<Fault>() {
            Some(fault) => report.fault("staging", fault),
            None => report.bad("staging", format!("{error:#}"), "name another directory with --staging"),
        },
    }
    report.good("kernel", host::kernel());
}

/// `fusermount3` mounts only on what belongs to its user.
fn owned(patient: &Patient) -> Result<(), Fault> {
    let point = &patient.settings.mount_point;
    let found = point.metadata().map_err(|error| Fault::new(format!("{}: {error}", point.display()), "name another directory"))?;
    if geteuid().is_root() || found.uid() == geteuid().as_raw() {
        return Ok(());
    }
    let why = format!("{} belongs to user {}, and another user than root mounts only on what is its own", point.display(), found.uid());
    Err(Fault::new(why, "name a directory of this user's, or have it given to it (chown)"))
}

fn tell(report: &mut Report, check: &'static str, found: Result<String, Fault>) {
    match found {
        Ok(detail) => report.good(check, detail),
        Err(fault) => report.fault(check, &fault),
    }
}
