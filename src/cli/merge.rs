//! One meaning for an option wherever it is said: flag > `-o` > variable > file > default.
//!
//! Which options there are says the definition of `cosmount mount` ([`Catalogue`]): one that is added to it works in all forms. Only `config`, which
//! says where the file is, and `region`, which a source can say too, are known by name here. What the layers below the flags say is turned into
//! words of the command line, `--name=value`, and put before the typed ones; the whole is then parsed once. So a value means the same
//! everywhere, and what is wrong with it is said in the same words, with the place where it was said in front ([`Origin::place`]).
//!
//! 1. The highest layer that names an option has it, alone: repeatable ones are not gathered from several.
//! 2. An option of a lower layer that excludes one of a higher is left out; two of one layer are an error.
//! 3. Another command that has options of a mount (`doctor`, `config show`) gets just those.
//! 4. Secrets are no options: their names are refused in every form, and their values never repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    ffi::OsString,
    fmt,
    path::PathBuf,
};

use anyhow::{anyhow, bail};
use clap::{ArgAction, ArgMatches, Id, error::ContextKind, error::ContextValue, error::ErrorKind, parser::ValueSource};

use crate::cli::args::definition;
use crate::cli::{config_file, mount_options};
use crate::mount::Source;

/// What can be said outside the words that were typed.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Variables that begin with [`PREFIX`] and are not this program's own.
    pub(super) variables: Vec<(String, String)>,
    /// Files that are read unless another is named; the first counts most.
    pub(super) files: Vec<PathBuf>,
}

/// How variables begin that are options.
pub(super) const PREFIX: &str = "COSMOUNT_";

/// The words that are to be parsed, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Behind the program's name.
    pub(super) words: Vec<OsString>,
    /// Who said an option, by its long name; nobody for those not in it.
    pub(super) origins: BTreeMap<String, Origin>,
    /// What the user should know.
    pub(super) notices: Vec<String>,
}

/// Where an option was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// On the command line.
    Flag,
    /// In the source that is mounted.
    Source,
    /// Behind `-o`, under this name.
    MountOption(String),
    /// In this variable.
    Variable(String),
    /// In a file.
    File { path: PathBuf, line: usize },
}

impl Origin {
    /// For the beginning of an error.
    fn place(&self) -> String {
        match self {
            Self::Flag | Self::Source => "on the command line".to_owned(),
            Self::MountOption(name) => format!("in -o {name}"),
            Self::Variable(name) => format!("in the variable {name}"),
            Self::File { path, line } => format!("in {}, line {line}", path.display()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Source => f.write_str("source"),
            Self::MountOption(name) => write!(f, "-o {name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// What a layer says of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// In any spelling.
    pub(super) name: String,
    /// Of a switch, `None` is true.
    pub(super) value: Option<String>,
    pub(super) origin: Origin,
}

/// The options of a mount.
#[derive(Debug)]
pub(super) struct Catalogue(Vec<Known>);

/// One of them.
#[derive(Debug)]
pub(super) struct Known {
    /// The long name.
    pub(super) name: String,
    /// What the parser calls it.
    pub(super) id: Id,
    pub(super) takes: Takes,
    /// Long names it does not go together with.
    excludes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// A switch.
    Nothing,
    One,
    Many,
}

impl Catalogue {
    /// From the definition of the whole program.
    pub(super) fn of(definition: &clap::Command) -> Self {
        let Some(mount) = definition.find_subcommand("mount") else { return Self(Vec::new()) };
        let named = |arg: &clap::Arg| arg.get_long().map(str::to_owned);
        let known = |arg: &clap::Arg| {
            let takes = match arg.get_action() {
                ArgAction::Append => Takes::Many,
                action if action.takes_values() => Takes::One,
                _ => Takes::Nothing,
            };
            let excludes = mount.get_arg_conflicts_with(arg).into_iter().filter_map(named).collect();
            Some(Known { name: named(arg)?, id: arg.get_id().clone(), takes, excludes })
        };
        Self(mount.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(known).filter(|known| known.name != "help").collect())
    }

    /// Every option.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.0.iter()
    }

    /// The option of this name, spelled with `_` or `-`.
    pub(super) fn find(&self, name: &str) -> Option<&Known> {
        let name = name.replace('_', "-");
        self.0.iter().find(|known| known.name == name)
    }
}

/// Puts everything that is said into the words.
///
/// # Errors
/// A [`clap::Error`] for what was typed, a sentence for everything else.
pub(super) fn merge(words: Vec<OsString>, world: &World) -> anyhow::Result<Merged> {
    let definition = definition();
    let catalogue = Catalogue::of(&definition);
    let (words, switched_off) = spelled_switches(with_command(words, &definition), &catalogue);
    let program = OsString::from("cosmount");
    let matches = definition.clone().try_get_matches_from([&program].into_iter().chain(&words)).map_err(refused)?;
    let (path, matches) = innermost(&matches);
    let command = path.iter().try_fold(&definition, |command, name| command.find_subcommand(name));
    let ids: BTreeSet<&Id> = command.into_iter().flat_map(clap::Command::get_arguments).map(clap::Arg::get_id).collect();
    let mut all = Layers {
        catalogue: &catalogue,
        has: |known: &Known| ids.contains(&known.id),
        in_force: BTreeMap::new(),
        words: vec![],
        origins: BTreeMap::new(),
    };
    if !catalogue.iter().any(|known| ids.contains(&known.id)) {
        return Ok(Merged { words, ..Merged::default() });
    }
    all.typed(matches, &switched_off);
    let sloppy = matches.try_get_one::<bool>("sloppy").ok().flatten().is_some_and(|sloppy| *sloppy);
    let mut notices = Vec::new();

    let lists: Vec<String> = matches.try_get_many("options").ok().flatten().into_iter().flatten().cloned().collect();
    let mount_point = matches.try_get_one::<PathBuf>("mountpoint").ok().flatten();
    let mut options = mount_options::read(&lists, &catalogue, &mount_point.map(|path| path.to_string_lossy()).unwrap_or_default())?;
    notices.append(&mut options.notices);
    if sloppy {
        options.given.retain(|given| {
            let known = catalogue.find(&given.name).is_some() || is_secret(&given.name);
            known || {
                notices.push(format!("-o {} is unknown and left out", given.name));
                false
            }
        });
    }
    let said = all.check(options.given)?;
    all.add(said);

    let source = matches.try_get_one::<Source>("source").ok().flatten();
    if let Some(Source { region: Some(region), typed, .. }) = source {
        // Whoever says otherwise of this mount is wrong; lower layers speak of all.
        if let Some(other) = all.value::<String>(matches, "region").filter(|other| other != region) {
            bail!("the region {other} contradicts the source {typed}");
        }
        all.take("region", Origin::Source, std::slice::from_ref(region));
    }

    let mut variables = Vec::new();
    for (name, value) in &world.variables {
        let option = name.trim_start_matches(PREFIX).to_ascii_lowercase();
        if catalogue.find(&option).is_some() || is_secret(&option) {
            variables.push(Given { name: option, value: Some(value.clone()), origin: Origin::Variable(name.clone()) });
        } else {
            let meant = nearest(&option, catalogue.iter().map(|known| &*known.name));
            let meant = meant.map(|name| format!("; {PREFIX}{} is", name.replace('-', "_").to_ascii_uppercase())).unwrap_or_default();
            notices.push(format!("the variable {name} is no option{meant}"));
        }
    }
    let said = all.check(variables)?;
    all.add(said);

    let named = all.value::<PathBuf>(matches, "config");
    let files = named.as_ref().map_or(&*world.files, std::slice::from_ref);
    for file in files {
        for section in config_file::read(file, source, named.is_some())? {
            let said = all.check(section.given)?;
            if section.counts {
                all.add(said);
            }
        }
    }

    let Layers { words: below, origins, .. } = all;
    let mut words = words;
    words.splice(path.len()..path.len(), below);
    Ok(Merged { words, origins, notices })
}

/// The layers so far, the highest first.
struct Layers<'a, F> {
    catalogue: &'a Catalogue,
    /// Whether the command has this option.
    has: F,
    /// Options that a layer has named; `false` for a switch that is off.
    in_force: BTreeMap<String, bool>,
    words: Vec<OsString>,
    origins: BTreeMap<String, Origin>,
}

impl<'a, F: Fn(&Known) -> bool> Layers<'a, F> {
    fn typed(&mut self, matches: &ArgMatches, switched_off: &[String]) {
        let typed = |known: &&Known| (self.has)(known) && matches.value_source(known.id.as_str()) == Some(ValueSource::CommandLine);
        let names = self.catalogue.iter().filter(typed).map(|known| (known.name.clone(), true));
        let all: Vec<_> = names.chain(switched_off.iter().map(|name| (name.clone(), false))).collect();
        self.origins.extend(all.iter().map(|(name, _)| (name.clone(), Origin::Flag)));
        self.in_force.extend(all);
    }

    /// What one layer says, an entry for each option. All of it is checked, used or not: a mistake is found before it matters.
    fn check(&self, given: Vec<Given>) -> anyhow::Result<Vec<Said<'a>>> {
        let mut said: Vec<Said<'a>> = Vec::new();
        for given in given {
            let Some(known) = self.catalogue.find(&given.name) else { return Err(unknown(&given, self.catalogue)) };
            let values = values(known, &given)?;
            match said.iter_mut().find(|(other, ..)| other.name == known.name) {
                Some((_, _, all)) if known.takes == Takes::Many => all.extend(values),
                Some(entry) => *entry = (known, given.origin, values),
                None => said.push((known, given.origin, values)),
            }
        }
        for (at, (known, origin, values)) in said.iter().enumerate() {
            let excluded = said[..at].iter().find(|(other, _, theirs)| excludes(known, other) && on(known, values) && on(other, theirs));
            if let Some((other, ..)) = excluded {
                bail!("{}: {} does not go together with {}", origin.place(), known.name, other.name);
            }
        }
        Ok(said)
    }

    /// Adds what one layer says.
    fn add(&mut self, mut said: Vec<Said<'a>>) {
        let in_force = self.in_force.iter().filter(|(_, on)| **on);
        let higher: Vec<&Known> = in_force.filter_map(|(name, _)| self.catalogue.find(name)).collect();
        said.retain(|(known, _, values)| !(on(known, values) && higher.iter().any(|other| excludes(known, other))));
        for (known, origin, values) in said {
            self.take(&known.name, origin, &values);
        }
    }

    fn take(&mut self, name: &str, origin: Origin, values: &[String]) {
        let Some(known) = self.catalogue.find(name).filter(|known| (self.has)(known)) else { return };
        if self.in_force.contains_key(name) {
            return;
        }
        let switch = known.takes == Takes::Nothing;
        let off = !on(known, values);
        self.in_force.insert(name.to_owned(), !off);
        match origin {
            // It is a fact of the source and not to be said twice.
            Origin::Source => {}
            _ if off => {}
            _ if switch => self.words.push(format!("--{name}").into()),
            _ => self.words.extend(values.iter().map(|value| OsString::from(format!("--{name}={value}")))),
        }
        self.origins.insert(name.to_owned(), origin);
    }

    /// The value that an option which takes one has by now.
    fn value<T: From<String> + Clone + Send + Sync + 'static>(&self, matches: &ArgMatches, name: &str) -> Option<T> {
        let word = format!("--{name}=");
        let below = self.words.iter().find_map(|said| said.to_str()?.strip_prefix(&word));
        below.map(|value| value.to_owned().into()).or_else(|| matches.try_get_one(name).ok().flatten().cloned())
    }
}

/// An option, who named it, and its values.
type Said<'a> = (&'a Known, Origin, Vec<String>);

fn on(known: &Known, values: &[String]) -> bool {
    known.takes != Takes::Nothing || values.iter().any(|value| value == "true")
}

fn excludes(one: &Known, other: &Known) -> bool {
    one.excludes.contains(&other.name) || other.excludes.contains(&one.name)
}

/// The values as words have them, each known to be one.
fn values(known: &Known, given: &Given) -> anyhow::Result<Vec<String>> {
    let place = given.origin.place();
    let Some(value) = given.value.as_deref() else {
        if known.takes != Takes::Nothing {
            bail!("{place}: {0} needs a value, as in {0}=VALUE", given.name);
        }
        return Ok(vec!["true".to_owned()]);
    };
    if known.takes == Takes::Nothing {
        let on = switch(value).ok_or_else(|| anyhow!("{place}: {} is {value:?}; write true or false", given.name))?;
        return Ok(vec![on.to_string()]);
    }
    let values: Vec<String> = match &given.origin {
        Origin::Variable(_) if known.takes == Takes::Many => value.split_whitespace().map(str::to_owned).collect(),
        _ => vec![value.to_owned()],
    };
    for value in &values {
        let words = ["cosmount", "mount", &format!("--{}={value}", known.name), "cos://b-1", "/"];
        definition().try_get_matches_from(words).map_err(|error| anyhow!("{place}: {}", essence(&error)))?;
    }
    Ok(values)
}

/// The two values of a switch in their usual spellings.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// What the parser says, without its advice about the command line.
fn essence(error: &clap::Error) -> String {
    if let Some(said) = of_credentials(error) {
        return said;
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("; ").trim_start_matches("error: ").to_owned()
}

fn unknown(given: &Given, catalogue: &Catalogue) -> anyhow::Error {
    if is_secret(&given.name) {
        return anyhow!("{}: {}", given.origin.place(), no_secrets(&given.name));
    }
    let options = catalogue.iter().map(|known| known.name.replace('-', "_"));
    let (place, nearest) = match &given.origin {
        Origin::MountOption(_) => {
            let all: Vec<String> = options.chain(mount_options::words().map(str::to_owned)).collect();
            ("behind -o".to_owned(), nearest(&given.name, all.iter().map(String::as_str)).map(str::to_owned))
        }
        origin => {
            let all: Vec<String> = options.collect();
            (origin.place(), nearest(&given.name, all.iter().map(String::as_str)).map(str::to_owned))
        }
    };
    let advice = nearest.map(|name| format!("; {name} is one")).unwrap_or_default();
    anyhow!("{place}: {:?} is no option{advice}; cosmount mount --help has them all", given.name)
}

/// The candidate most like it, if one is, by the measure that the parser of the command line has.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.replace('-', "_");
    let likeness = |candidate: &str| strsim::jaro(&name, &candidate.replace('-', "_"));
    candidates
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(like, _)| *like > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// Names under which people put secrets into options of other programs.
pub(super) fn is_secret(name: &str) -> bool {
    let bare: String = name.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    ["secretid", "secretkey", "accesskey", "accesskeyid", "secretaccesskey", "ak", "sk"].contains(&bare.trim_start_matches("cos"))
        || ["secret", "password", "passwd", "token", "sessiontoken", "securitytoken"].contains(&bare.as_str())
}

/// Why not, and what instead.
fn no_secrets(name: &str) -> String {
    format!(
        "{name:?} is no option, because options are seen by everybody on this host: put secrets into the environment (COS_SECRET_ID, \
         COS_SECRET_KEY, COS_SESSION_TOKEN), or into a file that --credentials names"
    )
}

/// What is wrong with the value of `--credentials`, which the parser would repeat: it may be a secret that somebody took for what belongs there.
fn of_credentials(error: &clap::Error) -> Option<String> {
    let (Some(ContextValue::String(option)), Some(why)) = (error.get(ContextKind::InvalidArg), error.source()) else { return None };
    option.starts_with("--credentials ").then(|| format!("--credentials: {why}"))
}

/// An error about what was typed.
fn refused(error: clap::Error) -> anyhow::Error {
    if let Some(said) = of_credentials(&error) {
        return anyhow!("{said}");
    }
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg)
        && is_secret(word)
    {
        return anyhow!("{}", no_secrets(word));
    }
    anyhow::Error::new(error)
}

/// `cosmount SOURCE MOUNTPOINT` is `cosmount mount SOURCE MOUNTPOINT`, and so is what begins with an option of a mount.
fn with_command(mut words: Vec<OsString>, definition: &clap::Command) -> Vec<OsString> {
    let Some(first) = words.first().map(|word| word.to_string_lossy().into_owned()) else { return words };
    let commands = || definition.get_subcommands().map(clap::Command::get_name).chain(["help"]);
    let of_the_program = ["-h", "--help", "-V", "--version"].contains(&first.as_str()) || commands().any(|name| name == first);
    let for_a_mount = first.starts_with('-') || first.contains("://") || Source::parse(&first).is_ok();
    // Two words of which the first is no command, nor anything like one: a source that is not written as it should be.
    let as_for_a_mount = || words.len() > 1 && nearest(&first, commands()).is_none();
    if !of_the_program && (for_a_mount || as_for_a_mount()) {
        words.insert(0, "mount".into());
    }
    words
}

/// `--read-only=false` is the one way for a flag to say no to a layer below. Returns the words without such, and the switches that are off.
fn spelled_switches(words: Vec<OsString>, catalogue: &Catalogue) -> (Vec<OsString>, Vec<String>) {
    let (mut left, mut off, mut plain) = (Vec::new(), Vec::new(), false);
    for word in words {
        plain |= word == "--";
        let spelled = word.to_str().filter(|_| !plain).and_then(|word| word.strip_prefix("--")?.split_once('='));
        let spelled = spelled.and_then(|(name, value)| Some((catalogue.find(name)?, switch(value)?)));
        match spelled.filter(|(known, _)| known.takes == Takes::Nothing).map(|(known, on)| (known.name.clone(), on)) {
            Some((name, true)) => left.push(format!("--{name}").into()),
            Some((name, false)) => off.push(name),
            None => left.push(word),
        }
    }
    (left, off)
}

/// The command that was typed, by its names, and what was typed for it.
pub(super) fn innermost(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut path, mut matches) = (Vec::new(), matches);
    while let Some((name, inner)) = matches.subcommand() {
        path.push(name);
        matches = inner;
    }
    (path, matches)
}

#[cfg(test)]
mod tests;
