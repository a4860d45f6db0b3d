//! The way to the endpoint: name, connection, TLS, clock.

use std::time::{Duration, SystemTime};

use crate::cli::commands::doctor::{Patient, finding::Report};
use crate::mount::advice;
use crate::store::cos::{Endpoints, Place};
use crate::store::probe::{self, Certificate, Trouble};

/// A clock that is off by less is as good as right: `Date` counts in seconds, and takes some to come.
const NOTHING: Duration = Duration::from_secs(60);
/// Certificates that end sooner are worth a word.
const SOON: Duration = Duration::from_secs(14 * 86_400);

const CHECKS: [&str; 4] = ["DNS", "TCP", "TLS", "clock"];

/// Goes the way. The answer says why nothing that lies behind it can be tried.
pub(super) async fn examine(patient: &Patient, report: &mut Report) -> Result<(), String> {
    let access = &patient.settings.store;
    let endpoints = Endpoints::parse(access.region.as_deref(), &access.endpoints, access.path_style);
    let place = match endpoints {
        Ok(endpoints) => endpoints.place(&patient.settings.source.bucket),
        Err(why) => return Err(rest(report, &CHECKS, &format!("the endpoint is not one: {why}"))),
    };
    let addresses = match probe::addresses(&patient.cx(), &place).await {
        Ok(addresses) => addresses,
        Err(trouble) => {
            bad(report, "DNS", &trouble);
            return Err(rest(report, &CHECKS[1..], &format!("{} has no address", place.host())));
        }
    };
    let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    report.good("DNS", format!("{} is {}", place.host(), shown.join(", ")));
    let address = match probe::connect(&patient.cx(), &addresses).await {
        Ok(address) => address,
        Err(trouble) => {
            bad(report, "TCP", &trouble);
            return Err(rest(report, &CHECKS[2..], &format!("no connection to {}:{} came about", place.host(), place.port())));
        }
    };
    report.good("TCP", format!("{address} takes connections"));
    if let Err(why) = probe::authorities(access.ca_file.as_deref()) {
        report.bad("TLS", why, "name a readable file of PEM certificates with --ca-file, or leave it out");
        return Err(rest(report, &CHECKS[3..], "of the CA file"));
    }
    // Asked before anything is said of TLS: the client that a mount uses has the last word on the certificate.
    let asked = probe::ask(&patient.cx(), &place, access.ca_file.as_deref()).await;
    let what_is_there = if place.is_tls() {
        match probe::handshake(&patient.cx(), &place, address).await {
            Ok(tls) => Some(tls),
            Err(trouble) => {
                bad(report, "TLS", &trouble);
                return Err(rest(report, &CHECKS[3..], "the other side speaks no TLS"));
            }
        }
    } else {
        None
    };
    let (version, certificate) = what_is_there.map_or((None, None), |tls| (Some(tls.version), tls.certificate));
    let seen = certificate.as_ref().map(show).unwrap_or_default();
    let date = match (asked, version) {
        (Ok(date), Some(version)) => {
            tls(patient, report, &format!("{version}{seen}"), certificate.as_ref());
            date
        }
        (Ok(date), None) => {
            report.doubtful(
                "TLS",
                format!("not used: {} is http", place.url()),
                "use an endpoint of https, unless the network is your own",
            );
            date
        }
        (Err(trouble), Some(version)) if trouble.way.is_some_and(crate::store::Way::is_settled) => {
            let remedy = trouble.way.map_or("", advice::for_way);
            report.bad("TLS", format!("{trouble} ({version}{seen})"), remedy);
            return Err(rest(report, &CHECKS[3..], "the endpoint's certificate is not one to trust"));
        }
        (Err(trouble), version) => {
            match version {
                Some(version) => report.good("TLS", format!("{version}{seen}")),
                None => report.good("TLS", "not used"),
            }
            bad(report, "clock", &trouble);
            return Err("the endpoint does not answer".to_owned());
        }
    };
    clock(patient, report, &place, date);
    Ok(())
}

fn bad(report: &mut Report, check: &'static str, trouble: &Trouble) {
    let remedy = trouble.way.map_or("check the network and --endpoint", advice::for_way);
    report.bad(check, trouble.to_string(), remedy);
}

/// What comes behind a step that failed is not tried.
fn rest(report: &mut Report, checks: &[&'static str], because: &str) -> String {
    for check in checks {
        report.not_tried(check, because);
    }
    because.to_owned()
}

fn show(certificate: &Certificate) -> String {
    let Certificate { names, ends, .. } = certificate;
    let mut shown = names.iter().take(4).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    if names.len() > 4 {
        shown += ", …";
    }
    format!(", certificate for {shown} until {}", httpdate::fmt_http_date(*ends))
}

fn tls(patient: &Patient, report: &mut Report, seen: &str, certificate: Option<&Certificate>) {
    let soon = patient.clock.wall() + SOON;
    if certificate.is_some_and(|certificate| certificate.ends < soon) {
        report.doubtful("TLS", seen, "have the endpoint's certificate renewed: it ends soon");
    } else {
        report.good("TLS", seen);
    }
}

fn clock(patient: &Patient, report: &mut Report, place: &Place, date: Option<SystemTime>) {
    let Some(there) = date else {
        let remedy = "look for a proxy between that takes Date out; a clock that is off cannot be corrected then";
        return report.doubtful("clock", format!("the answer of {} has no Date", place.host()), remedy);
    };
    let here = patient.clock.wall();
    let (off, word) = match there.duration_since(here) {
        Ok(behind) => (behind, "behind"),
        Err(error) => (error.duration(), "ahead of"),
    };
    if off < NOTHING {
        report.good("clock", "as the endpoint's");
    } else {
        let detail =
            format!("this host's clock is {} s {word} the endpoint's; signatures are corrected by it, file times are not", off.as_secs());
        report.doubtful("clock", detail, "set the clock: timedatectl set-ntp true");
    }
}
