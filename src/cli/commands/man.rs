//! `cosmount man`: the manual, from the same definition as the help.
//!
//! cosmount(1) has what a mount takes and where that can be said, so that it is enough by itself; each command has a page of its own besides.

use std::{
    fs,
    io::{self, Write},
};

use anyhow::{Context, anyhow};
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::args::{Man, definition};
use crate::cli::{Failure, SYSTEM, USAGE};

/// Sections that no definition has: a title, and its entries.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "FILES",
        &[
            ("~/.config/cosmount.toml", "options, and tables of options by source; $XDG_CONFIG_HOME/cosmount.toml if that variable is set"),
            ("/etc/cosmount.toml", "the same, for root; counts less"),
            ("/var/lib/cosmount, ~/.local/state/cosmount", "where changes go for which memory is short"),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("COSMOUNT_OPTION", "an option by its name in capitals, as in COSMOUNT_METADATA_TTL=60s"),
            ("COS_SECRET_ID, COS_SECRET_KEY, COS_SESSION_TOKEN", "credentials; the other usual spellings are understood too"),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "done; the mount works, or everything is in COS"),
            ("1", "wrong usage"),
            ("2", "the system refused something, or changes are left that are not in COS"),
            ("32", "the mount failed"),
        ],
    ),
];

pub(in crate::cli) fn run(man: &Man) -> Result<(), Failure> {
    let system = |error: anyhow::Error| Failure::new(SYSTEM, error);
    let mut program = definition();
    program.build();
    if let Some(directory) = &man.into {
        let pages = || {
            fs::create_dir_all(directory)?;
            clap_mangen::generate_to(program.clone(), directory)?;
            fs::write(directory.join("cosmount.1"), of_all(&program)?)
        };
        return pages().with_context(|| format!("the manual in {}", directory.display())).map_err(system);
    }
    let mut command = &program;
    for name in &man.command {
        let known = command.find_subcommand(name);
        command = known.ok_or_else(|| Failure::new(USAGE, anyhow!("there is no command {name:?} to write a manual of")))?;
    }
    let page = if man.command.is_empty() { of_all(&program) } else { of_command(command) };
    page.and_then(|page| io::stdout().write_all(&page)).context("the manual").map_err(system)
}

fn of_command(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

fn of_all(program: &clap::Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let whole = clap_mangen::Man::new(program.clone());
    whole.render_title(&mut page)?;
    whole.render_name_section(&mut page)?;
    whole.render_synopsis_section(&mut page)?;
    if let Some(mount) = program.find_subcommand("mount") {
        let mount = clap_mangen::Man::new(mount.clone());
        mount.render_description_section(&mut page)?;
        mount.render_options_section(&mut page)?;
    }
    whole.render_subcommands_section(&mut page)?;
    for (title, entries) in SECTIONS {
        let mut section = Roff::new();
        section.control("SH", [*title]);
        for (name, what) in *entries {
            section.control("TP", []).text([bold(*name)]).text([roman(*what)]);
        }
        section.to_writer(&mut page)?;
    }
    whole.render_version_section(&mut page)?;
    Ok(page)
}
