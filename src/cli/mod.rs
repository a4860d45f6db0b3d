//! Typed words: flags, environment, help and sub-commands become [`Settings`](crate::mount::Settings).
//!
//! The only room that looks at the environment and that writes to standard output. Exit codes are mount(8)'s: 0 done, 1 wrong usage, 2 the
//! system or changes that could not be sent, 32 the mount failed.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are talked to")]

mod args;
mod commands;
mod config_file;
mod cosfs;
mod environment;
mod helpers;
mod merge;
mod mount_options;

use std::{env, ffi::OsString, process::ExitCode};

use clap::FromArgMatches;

use args::{Arguments, Command, Credentials, definition};
use helpers::Wanted;
use merge::Merged;

/// Wrong usage.
const USAGE: u8 = 1;
/// The system did not do something, or changes are left that are not in COS.
const SYSTEM: u8 = 2;
/// The mount failed.
const FAILED: u8 = 32;

/// Why a command ended badly: what to say and the exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    /// `None` where it has been said already.
    error: Option<anyhow::Error>,
}

impl Failure {
    fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: Some(error.into()) }
    }

    fn told(code: u8) -> Self {
        Self { code, error: None }
    }
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    let mut words = env::args_os();
    let program = words.next().unwrap_or_default();
    let words = match helpers::words(&program, words.collect()) {
        Ok(Wanted::Run(words)) => words,
        Ok(Wanted::Nothing) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cosmount: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            if let Some(error) = error {
                eprintln!("cosmount: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(words: Vec<OsString>) -> Result<(), Failure> {
    // A process that this program started was given the words that came of it.
    let merged = match environment::variable(environment::CHILD) {
        Some(_) => Merged { words, ..Merged::default() },
        None => merge::merge(words, &environment::world()).or_else(refuse)?,
    };
    for notice in &merged.notices {
        eprintln!("cosmount: {notice}");
    }
    let matches = definition().try_get_matches_from([OsString::from("cosmount")].iter().chain(&merged.words));
    let matches = matches.map_err(anyhow::Error::new).or_else(refuse)?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(anyhow::Error::new).or_else(refuse)?;
    match arguments.command {
        Command::Mount(mount) => commands::mount::run(&mount, &merged.words),
        Command::Credentials(Credentials::Check(check)) => commands::credentials::check(&check, &merged.words),
        Command::Doctor(doctor) => commands::doctor::run(&doctor, &merged.words),
        Command::Umount(umount) => commands::umount::run(&umount),
        Command::Stats(stats) => commands::stats::run(&stats),
        Command::Sync(sync) => commands::sync::run(&sync),
        Command::Uploads(uploads) => commands::uploads::run(&uploads, &merged.words),
        Command::Config(config) => commands::config::run(&config, &matches, &merged.origins),
        Command::Completions(completions) => commands::completions::run(&completions),
        Command::Man(man) => commands::man::run(&man),
        #[cfg(feature = "emulator")]
        Command::Demo(demo) => commands::demo::run(&demo),
    }
}

/// Help and version are errors to the parser, which knows where each goes. A closed pipe behind us is nobody's concern.
fn refuse<T>(error: anyhow::Error) -> Result<T, Failure> {
    let Some(typed) = error.downcast_ref::<clap::Error>() else { return Err(Failure::new(USAGE, error)) };
    typed.print().ok();
    Err(Failure::told(if typed.use_stderr() { USAGE } else { 0 }))
}
