//! `cosmount completions SHELL`: what a shell needs to complete this program's words, from their definition.

use std::io::{self, Write};

use clap_complete::{Shell, generate};

use crate::cli::args::{self, Completions, definition};
use crate::cli::{Failure, SYSTEM};

pub(in crate::cli) fn run(completions: &Completions) -> Result<(), Failure> {
    let shell = match completions.shell {
        args::Shell::Bash => Shell::Bash,
        args::Shell::Zsh => Shell::Zsh,
        args::Shell::Fish => Shell::Fish,
    };
    // Written whole: the generator knows no errors, and a closed pipe is one.
    let mut script = Vec::new();
    generate(shell, &mut definition(), "cosmount", &mut script);
    io::stdout().write_all(&script).map_err(|error| Failure::new(SYSTEM, error))
}
