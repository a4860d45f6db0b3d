//! `cosmount demo`: a bucket in this process, mounted until Ctrl-C. No account, no network, nothing left behind.

use std::{
    env,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Parser;
use tracing::Level;

use crate::cli::args::{Arguments, Command, Demo};
use crate::cli::commands::{demo_files, mount::settings};
use crate::cli::{FAILED, Failure, SYSTEM};
use crate::emulator::{Config, Server};
use crate::mount::telemetry::{self, Log, Logging};
use crate::mount::{self, Running};
use crate::support::{Clock, SystemClock};

const BUCKET: &str = "demo-1250000000";
const REGION: &str = "ap-guangzhou";
/// The pair the emulator accepts, that of the published examples.
const CREDENTIALS: [(&str, &str); 2] = [("COS_SECRET_ID", "AKIDEXAMPLE"), ("COS_SECRET_KEY", "exampleSecretKey")];

pub(in crate::cli) fn run(demo: &Demo) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| Failure::new(FAILED, error.context("the demo could not be set up"));
    let logging = telemetry::start(&Log::terminal(Level::WARN)).map_err(failed)?;
    // Dropped in reverse: the server stops first, then the directories go.
    let mount_point = Directory::for_mount(demo.dir.as_deref()).context("the mount point").map_err(failed)?;
    let staging = Directory::fresh("staging", Goes::WithContents).context("a temporary directory").map_err(failed)?;
    let server = Server::start(Config::with_bucket(BUCKET)).context("the built-in server").map_err(failed)?;
    let files = demo_files::fill(&server, BUCKET).context("the files of the bucket").map_err(failed)?;
    let running = start(&server, &mount_point.path, &staging.path, &logging).map_err(failed)?;
    invite(&mount_point.path, files);
    let left = running.serve().map_err(|error| Failure::new(SYSTEM, error))?;
    println!(
        "\nUnmounted; the bucket and its {files} files are gone{}.",
        if left.files == 0 && left.noted == 0 { "" } else { ", with changes that were never sent" }
    );
    Ok(())
}

/// Through the words that a user would type, so that every default is the real one.
fn start(server: &Server, mount_point: &Path, staging: &Path, logging: &Logging) -> anyhow::Result<Running> {
    let source = format!("cos://{BUCKET}/");
    let endpoint = server.endpoint();
    let words = ["cosmount", "mount", &source, ".", "--region", REGION, "--endpoint", &endpoint, "--staging", "none"];
    let Command::Mount(mut typed) = Arguments::try_parse_from(words)?.command else { anyhow::bail!("the words of a mount are no mount") };
    mount_point.clone_into(&mut typed.mountpoint);
    typed.staging = Some(staging.to_str().context("the name of the temporary directory is not UTF-8")?.to_owned());
    let credentials = CREDENTIALS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    mount::start(settings(&typed, credentials)?, logging)
}

fn invite(mount_point: &Path, files: usize) {
    let at = mount_point.display();
    println!(
        "A bucket with {files} files is mounted on {at}. Five things to try in another terminal:

  ls -lR {at}/photos | head                    every object has size, time and mode
  grep -rc ERROR {at}/logs | sort -t: -k2 -n   read a directory of logs
  make -C {at}/src && {at}/src/hello           compile and run a program in the bucket
  tail -c 16 {at}/large/1GiB.bin | xxd         the end of 1 GiB: only what is read is fetched
  sed -i s/draft/final/ {at}/docs/plan.md && mv {at}/docs {at}/papers && cat {at}/papers/plan.md

Ctrl-C here unmounts and removes everything."
    );
}

/// A directory that is removed with this value.
struct Directory {
    path: PathBuf,
    goes: Goes,
}

#[derive(PartialEq, Eq)]
enum Goes {
    /// It was there before.
    Never,
    /// A mount point: should the mount still be there, removing fails, and that is right.
    WhenEmpty,
    WithContents,
}

impl Directory {
    /// The one named, or a new one.
    fn for_mount(named: Option<&Path>) -> io::Result<Self> {
        let Some(path) = named else { return Self::fresh("demo", Goes::WhenEmpty) };
        let goes = if path.exists() { Goes::Never } else { Goes::WhenEmpty };
        if goes == Goes::WhenEmpty {
            fs::create_dir(path)?;
        }
        Ok(Self { path: fs::canonicalize(path)?, goes })
    }

    fn fresh(purpose: &str, goes: Goes) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("cosmount-{purpose}-{:08x}", SystemClock.below(1 << 32)));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path: fs::canonicalize(path)?, goes })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed stays; there is nobody left to tell.
        match self.goes {
            Goes::Never => {}
            Goes::WhenEmpty => drop(fs::remove_dir(&self.path)),
            Goes::WithContents => drop(fs::remove_dir_all(&self.path)),
        }
    }
}
