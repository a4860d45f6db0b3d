//! `cosmount man`: the manual, from the same definition as the help.

use std::{
    fs,
    io::{self, Write},
};

use anyhow::{Context, anyhow};

use crate::cli::args::{Man, definition};
use crate::cli::{Failure, SYSTEM, USAGE};

pub(in crate::cli) fn run(man: &Man) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let mut program = definition();
    program.build();
    if let Some(directory) = &man.into {
        let written = fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(program, directory));
        return written.with_context(|| format!("the manual in {}", directory.display())).map_err(system);
    }
    let mut command = &program;
    for name in &man.command {
        let known = command.find_subcommand(name);
        command = known.ok_or_else(|| Failure::new(USAGE, anyhow!("there is no command {name:?} to write a manual of")))?;
    }
    let mut page = Vec::new();
    let written = clap_mangen::Man::new(command.clone()).render(&mut page);
    written.and_then(|()| io::stdout().write_all(&page)).context("the manual").map_err(system)
}
