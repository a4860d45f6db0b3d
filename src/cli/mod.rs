//! Typed words: flags, environment, help and sub-commands become [`Settings`](crate::mount::Settings).
//!
//! The only room that looks at the environment and that writes to standard output. Exit codes are mount(8)'s: 0 done, 1 wrong usage, 2 the
//! system or changes that could not be sent, 32 the mount failed.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where people are talked to")]

mod args;
mod commands;
mod environment;
mod helpers;

use std::{env, ffi::OsString, process::ExitCode};

use clap::Parser;

use args::{Arguments, Command};
use helpers::Wanted;

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
    let arguments = match Arguments::try_parse_from([OsString::from("cosmount")].iter().chain(&words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap, which knows where each goes. A closed pipe behind us is nobody's concern.
            error.print().ok();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = match arguments.command {
        Command::Mount(mount) => commands::mount::run(&mount, &words),
        Command::Umount(umount) => commands::umount::run(&umount),
        #[cfg(feature = "emulator")]
        Command::Demo(demo) => commands::demo::run(&demo),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, error }) => {
            if let Some(error) = error {
                eprintln!("cosmount: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}
