//! The configuration file: options by their names, and tables of options for one source.
//!
//! ```toml
//! region = "ap-guangzhou"
//! metadata_ttl = "60s"
//!
//! ["cos://photos-1250000000/2026/"]
//! read_only = true
//! ```
//!
//! A table counts for what it names and everything below; the longest name counts most, and more than what stands outside of tables. Every line
//! is checked, whatever is mounted.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    ops::Range,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use nix::unistd::geteuid;
use toml_edit::{Document, Item, Table, Value};

use crate::cli::merge::{Given, Origin};
use crate::mount::Source;

/// More is no configuration.
const MOST: u64 = 1 << 20;

/// A table, or what stands outside of them.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) given: Vec<Given>,
    /// Whether it is for the source that is mounted.
    pub(super) counts: bool,
}

/// What the file says, the most particular to `source` first. A file that was not `named` need not be there.
///
/// # Errors
/// A sentence with the line.
pub(super) fn read(path: &Path, source: Option<&Source>, named: bool) -> anyhow::Result<Vec<Section>> {
    let Some(text) = trusted(path, named).with_context(|| format!("the configuration file {}", path.display()))? else {
        return Ok(Vec::new());
    };
    let file = Text { path, text: &text };
    let document = Document::parse(text.as_str()).map_err(|error| {
        let line = file.line(error.span());
        anyhow!("in {}, line {line}: {}", path.display(), error.message().trim_end())
    })?;
    let mut general = Vec::new();
    let mut tables: Vec<(usize, Section)> = Vec::new();
    for (name, item) in document.as_table() {
        match item {
            Item::Table(table) => {
                let given = file.table(table)?;
                let line = file.line(table.span());
                let of = Source::parse(name).map_err(|why| anyhow!("in {}, line {line}: {why}", path.display()))?;
                let counts = source.is_some_and(|source| source.bucket == of.bucket && source.prefix.starts_with(&of.prefix));
                tables.push((of.prefix.len(), Section { given, counts }));
            }
            item => file.option(name, item, &mut general)?,
        }
    }
    tables.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    Ok(tables.into_iter().map(|(_, section)| section).chain([Section { given: general, counts: true }]).collect())
}

/// What is in it, if it may be believed: somebody else's file could name any file for the log.
fn trusted(path: &Path, named: bool) -> anyhow::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if !named && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let found = file.metadata()?;
    if found.is_file() && found.mode() & 0o002 != 0 {
        bail!("everybody may write to it: chmod o-w {}", path.display());
    }
    // It can name a command that is run: for root nobody else may have a hand in it, whoever named it.
    let root = geteuid().is_root();
    if (root || !named) && found.uid() != 0 && found.uid() != geteuid().as_raw() {
        let remedy = if root { "give it to root (chown root)" } else { "name it with --config if that is meant" };
        bail!("it belongs to user {}, and neither to root nor to the user that mounts: {remedy}", found.uid());
    }
    if root && found.is_file() && found.mode() & 0o020 != 0 && found.gid() != 0 {
        bail!("its group, {}, may write to it: chmod g-w {}", found.gid(), path.display());
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len())? > MOST {
        bail!("it is longer than a configuration can be");
    }
    Ok(Some(text))
}

struct Text<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Text<'_> {
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        1 + before.matches('\n').count()
    }

    fn table(&self, table: &Table) -> anyhow::Result<Vec<Given>> {
        let mut given = Vec::new();
        for (name, item) in table {
            self.option(name, item, &mut given)?;
        }
        Ok(given)
    }

    fn option(&self, name: &str, item: &Item, given: &mut Vec<Given>) -> anyhow::Result<()> {
        let line = self.line(item.span());
        let place = || format!("in {}, line {line}", self.path.display());
        if name == "config" {
            bail!("{}: a configuration file cannot name another", place());
        }
        let Some(value) = item.as_value() else {
            bail!("{}: {name:?} is no option but a table; only a source can be one, as in [\"cos://photos-1250000000\"]", place());
        };
        let values: Vec<&Value> = value.as_array().map_or_else(|| vec![value], |array| array.iter().collect());
        for value in values {
            let text = match value {
                Value::String(text) => text.value().clone(),
                // As written: 0o022 is octal to the option, too.
                Value::Integer(_) | Value::Float(_) => {
                    value.span().and_then(|span| self.text.get(span)).unwrap_or_default().replace('_', "")
                }
                Value::Boolean(on) => on.value().to_string(),
                _ => bail!("{}: {name} is neither text, a number, true nor false", place()),
            };
            let origin = Origin::File { path: PathBuf::from(self.path), line };
            given.push(Given { name: name.to_owned(), value: Some(text), origin });
        }
        Ok(())
    }
}
