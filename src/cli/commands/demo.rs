//! `cosmount demo`.
use crate::cli::Failure;
use crate::cli::args::Demo;

pub(in crate::cli) fn run(_demo: &Demo) -> Result<(), Failure> {
    Ok(())
}
