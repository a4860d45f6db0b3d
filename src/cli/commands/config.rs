//! `cosmount config show`: every option of a mount, its value, and who said so.

use std::{collections::BTreeMap, fmt::Write as _, io, io::Write as _};

use clap::{ArgMatches, parser::ValueSource};
use serde_json::{Map, Value, json};

use crate::cli::args::{Config, ConfigCommand, ConfigShow, definition};
use crate::cli::merge::{Catalogue, Origin, Takes, innermost};
use crate::cli::{Failure, SYSTEM};

pub(in crate::cli) fn run(config: &Config, matches: &ArgMatches, origins: &BTreeMap<String, Origin>) -> Result<(), Failure> {
    let ConfigCommand::Show(show) = &config.command;
    let lines = lines(show, innermost(matches).1, origins);
    let text = if show.json { as_json(show, &lines) } else { as_table(&lines) };
    io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::new(SYSTEM, error))
}

/// An option, as it would be for a mount.
struct Line {
    name: String,
    takes: Takes,
    values: Vec<String>,
    /// `None`: the default.
    origin: Option<Origin>,
}

fn lines(show: &ConfigShow, matches: &ArgMatches, origins: &BTreeMap<String, Origin>) -> Vec<Line> {
    let raw = |id: &str| matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
    let line = |known: &crate::cli::merge::Known| {
        let id = known.id.as_str();
        let values = match (origins.get(&known.name), &show.source) {
            (Some(Origin::Source), Some(source)) => source.region.clone().into_iter().collect(),
            _ if known.takes == Takes::Nothing => vec![matches.get_flag(id).to_string()],
            _ => raw(id),
        };
        let typed = (matches.value_source(id) == Some(ValueSource::CommandLine)).then_some(Origin::Flag);
        Line { name: known.name.clone(), takes: known.takes, values, origin: origins.get(&known.name).cloned().or(typed) }
    };
    Catalogue::of(&definition()).iter().map(line).collect()
}

fn as_table(lines: &[Line]) -> String {
    let value = |line: &Line| if line.values.is_empty() { "-".to_owned() } else { line.values.join(" ") };
    let from = |line: &Line| line.origin.as_ref().map_or_else(|| "default".to_owned(), Origin::to_string);
    let rows: Vec<[String; 3]> = [["option", "value", "from"].map(str::to_owned)]
        .into_iter()
        .chain(lines.iter().map(|line| [line.name.clone(), value(line), from(line)]))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (names, values) = (width(0), width(1).min(40));
    rows.iter().fold(String::new(), |mut text, [name, value, from]| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name:names$}  {value:values$}  {from}");
        text
    })
}

fn as_json(show: &ConfigShow, lines: &[Line]) -> String {
    let value = |line: &Line| match (line.takes, line.values.as_slice()) {
        (Takes::Nothing, values) => json!(values.iter().all(|value| value == "true")),
        (Takes::One, [value]) => json!(value),
        (Takes::One, _) => Value::Null,
        (Takes::Many, values) => json!(values),
    };
    let from = |line: &Line| match &line.origin {
        None => json!({ "layer": "default" }),
        Some(Origin::Flag) => json!({ "layer": "flag" }),
        Some(Origin::Source) => json!({ "layer": "source" }),
        Some(Origin::MountOption(name)) => json!({ "layer": "-o", "name": name }),
        Some(Origin::Variable(name)) => json!({ "layer": "variable", "name": name }),
        Some(Origin::File { path, line }) => json!({ "layer": "file", "file": path, "line": line }),
    };
    let options: Map<String, Value> =
        lines.iter().map(|line| (line.name.clone(), json!({ "value": value(line), "from": from(line) }))).collect();
    let source = show.source.as_ref().map(|source| &source.typed);
    format!("{:#}\n", json!({ "source": source, "options": options }))
}
