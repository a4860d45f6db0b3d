//! The mount as the tested side: with small parts and pages, so that what takes gigabytes and thousands of names elsewhere happens here.
//!
//! Of three seeds one runs with what is known kept for the usual time, one for as long as a few operations take, one for next to none; of four one
//! a slower COS; of four one with the smallest memory limit there is.

use std::{fs, path::PathBuf, time::Duration};

use cosmount::emulator::{Config, Limits, Rule};

use crate::{
    common::{BUCKET, Mounted},
    engine::World,
};

#[derive(Debug)]
pub struct MountWorld {
    seed: u64,
    defect: Option<String>,
    mounted: Mounted,
    count: usize,
}

/// What became of a mixed fault script.
#[derive(Debug)]
pub struct Struck {
    pub requests: u64,
    pub faults: u64,
    /// Rules that struck at least once.
    pub rules: usize,
}

impl MountWorld {
    /// A mount, with one of the defects it can be started with.
    pub fn new(seed: u64, defect: Option<&str>) -> Self {
        Self { mounted: start(seed, defect), seed, defect: defect.map(str::to_owned), count: 0 }
    }

    /// A mount whose requests meet these faults from now on.
    pub fn under(seed: u64, rules: Vec<Rule>) -> Self {
        let world = Self::new(seed, None);
        world.mounted.server().clear_log();
        world.mounted.fault(rules).keep();
        world
    }

    /// What the faults did.
    pub fn struck(&self) -> Struck {
        let rules = self.mounted.server().faults().list();
        Struck {
            requests: self.mounted.counters().total().requests,
            faults: rules.iter().map(|rule| rule.struck).sum(),
            rules: rules.iter().filter(|rule| rule.struck > 0).count(),
        }
    }
}

fn start(seed: u64, defect: Option<&str>) -> Mounted {
    let limits = Limits { max_page: 10, ..Limits::default() };
    let latency = Duration::from_millis(u64::from(seed.is_multiple_of(4)));
    let ttl = ["5s", "250ms", "20ms"][(seed % 3) as usize];
    let how = Mounted::builder().emulator(Config { limits, latency, ..Config::with_bucket(BUCKET) });
    let memory = if seed % 4 == 3 { "32M" } else { "64M" };
    let how =
        how.arg("--part-size=1M").arg(format!("--memory-limit={memory}")).arg("--io-timeout=30s").arg(format!("--metadata-ttl={ttl}"));
    defect.into_iter().fold(how, |how, defect| how.env("COSMOUNT_TEST_DEFECT", defect)).start()
}

impl World for MountWorld {
    fn fresh(&mut self) -> PathBuf {
        self.count += 1;
        let name = format!("run-{}", self.count);
        if fs::create_dir(self.mounted.path().join(&name)).is_err() {
            // The last run has broken it for good; the next shall not fail for that.
            self.mounted = start(self.seed, self.defect.as_deref());
            fs::create_dir(self.mounted.path().join(&name)).unwrap();
        }
        self.mounted.path().join(name)
    }

    fn remount(&mut self) {
        self.mounted.unmount();
        self.mounted.start_again();
    }
}
