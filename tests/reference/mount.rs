//! The mount as the tested side: with small parts and pages, so that what takes gigabytes and thousands of names elsewhere happens here.

use std::{fs, path::PathBuf};

use crate::{
    common::{Builder, Mounted},
    engine::World,
};

#[derive(Debug)]
pub struct MountWorld {
    how: Builder,
    mounted: Mounted,
    count: usize,
}

impl MountWorld {
    /// A mount, with one of the defects it can be started with.
    pub fn new(defect: Option<&str>) -> Self {
        let how = Mounted::builder().arg("--part-size=1M").arg("--memory-limit=64M").arg("--io-timeout=30s");
        let how = how.emulator(|config| config.limits.max_page = 10);
        let how = defect.into_iter().fold(how, |how, defect| how.env("COSMOUNT_TEST_DEFECT", defect));
        Self { mounted: how.clone().start(), how, count: 0 }
    }
}

impl World for MountWorld {
    fn fresh(&mut self) -> PathBuf {
        self.count += 1;
        let name = format!("run-{}", self.count);
        if fs::create_dir(self.mounted.path().join(&name)).is_err() {
            // The last run has broken it for good; the next shall not fail for that.
            self.mounted = self.how.clone().start();
            fs::create_dir(self.mounted.path().join(&name)).unwrap();
        }
        self.mounted.path().join(name)
    }

    fn remount(&mut self) {
        self.mounted.remount();
    }
}
