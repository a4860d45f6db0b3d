//! Which sources of credentials there are to choose from, and the order of the usual places.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::store::{
    BucketName,
    cos::{
        Endpoints,
        credentials::{
            Credentials, Identity, NoCredentials, Provider, Source,
            chain::Chain,
            command::Command,
            environment, files,
            oidc::Oidc,
            refresh::Refreshing,
            role::{Role, Web},
        },
    },
};
use crate::support::Clock;

/// One kind of source: `KIND[:ARG]`.
#[derive(Clone, PartialEq, Eq)]
pub enum Choice {
    /// `env`.
    Environment,
    /// `coscmd[:FILE]`: coscmd's INI file.
    Coscmd(Option<PathBuf>),
    /// `coscli[:FILE]`: coscli's YAML file.
    Coscli(Option<PathBuf>),
    /// `passwd[:FILE]`: COSFS's password file.
    Passwd(Option<PathBuf>),
    /// `file:FILE`: a token file.
    File(PathBuf),
    /// `role[:NAME]`: the role of a CVM instance.
    Role(Option<String>),
    /// `oidc`: the identity of a TKE pod.
    Oidc,
    /// `command:CMD`: what a command prints.
    Command(String),
    /// `anonymous`: unsigned requests.
    Anonymous,
}

impl Choice {
    /// Reads `KIND[:ARG]`.
    ///
    /// # Errors
    /// A sentence that names the kinds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, argument) = text.split_once(':').map_or((text, None), |(kind, argument)| (kind, Some(argument)));
        if argument == Some("") {
            return Err(format!("nothing follows the colon of {kind:?}"));
        }
        let path = |argument: Option<&str>| argument.map(PathBuf::from);
        let alone = |choice: Self| match argument {
            None => Ok(choice),
            Some(_) => Err(format!("{kind} has no argument")),
        };
        match kind {
            "env" => alone(Self::Environment),
            "coscmd" => Ok(Self::Coscmd(path(argument))),
            "coscli" => Ok(Self::Coscli(path(argument))),
            "passwd" => Ok(Self::Passwd(path(argument))),
            "file" => path(argument).map(Self::File).ok_or_else(|| "file needs one: file:FILE".to_owned()),
            "role" => Ok(Self::Role(argument.map(str::to_owned))),
            "oidc" => alone(Self::Oidc),
            "command" => argument.map(|command| Self::Command(command.to_owned())).ok_or_else(|| "command needs one: command:CMD".into()),
            "anonymous" => alone(Self::Anonymous),
            // What was typed may be a secret that was taken for a kind of source; it is not repeated.
            _ => Err("no such kind of source: use env, coscmd[:FILE], coscli[:FILE], passwd[:FILE], file:FILE, role[:NAME], oidc, \
                      command:CMD or anonymous; a secret itself is never an option"
                .to_owned()),
        }
    }

    /// The file it names.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Coscmd(path) | Self::Coscli(path) | Self::Passwd(path) => path.as_mut(),
            Self::File(path) => Some(path),
            _ => None,
        }
    }
}

/// A command can be long and say much; it is not shown.
impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "env",
            Self::Coscmd(_) => "coscmd",
            Self::Coscli(_) => "coscli",
            Self::Passwd(_) => "passwd",
            Self::File(_) => "file",
            Self::Role(_) => "role",
            Self::Oidc => "oidc",
            Self::Command(_) => "command",
            Self::Anonymous => "anonymous",
        })
    }
}

/// Where credentials may come from on this host: what the environment says, typed. Files are absolute paths.
#[derive(Debug, Clone)]
pub struct Sources {
    /// One kind; without, the usual places in their order.
    pub choice: Option<Choice>,
    /// Which section of coscmd's and coscli's files, instead of `common` and `cos`.
    pub profile: Option<String>,
    /// What the variables hold, or what is missing.
    pub environment: Result<Arc<Credentials>, NoCredentials>,
    /// COSFS's password files, the first one first.
    pub passwd: Vec<PathBuf>,
    /// coscli's file.
    pub coscli: Option<PathBuf>,
    /// coscmd's file.
    pub coscmd: Option<PathBuf>,
    /// The identity of a TKE pod, or the variable that is missing.
    pub identity: Result<Identity, String>,
}

impl Sources {
    /// What `lookup` says: a variable's value. The rest is empty.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            choice: None,
            profile: None,
            environment: environment::read(&lookup).map(Arc::new),
            passwd: Vec::new(),
            coscli: None,
            coscmd: None,
            identity: Identity::from_environment(&lookup),
        }
    }
}

/// A provider of what `sources` describes, for requests to `bucket`. Asks nobody yet. Must be called within a tokio runtime.
///
/// # Errors
/// What was chosen cannot be: no file is known, or a variable is missing.
pub fn open(
    sources: &Sources,
    bucket: Option<&BucketName>,
    endpoints: &Endpoints,
    ca_file: Option<&Path>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Provider>, NoCredentials> {
    let web = Web::new(endpoints, ca_file, Arc::clone(clock));
    let makes = Makes { sources, bucket, web: &web, clock };
    let all = match &sources.choice {
        None => makes.usual(),
        Some(choice) => makes.chosen(choice)?,
    };
    Ok(Arc::new(Refreshing::new(Box::new(Chain::new(all, sources.choice.is_some())), Arc::clone(clock))))
}

/// How long a role is looked for that nobody asked for.
const PROBE: Duration = Duration::from_secs(1);

/// Makes sources.
struct Makes<'a> {
    sources: &'a Sources,
    bucket: Option<&'a BucketName>,
    web: &'a Arc<Web>,
    clock: &'a Arc<dyn Clock>,
}

impl Makes<'_> {
    /// The order that is documented: what is particular to a command before what is to a user, a host, a machine.
    fn usual(&self) -> Vec<Box<dyn Source>> {
        let mut all = vec![self.environment()];
        all.extend(self.sources.passwd.iter().map(|path| self.passwd(path)));
        all.extend(self.sources.coscli.as_deref().map(|path| self.coscli(path)));
        all.extend(self.sources.coscmd.as_deref().map(|path| self.coscmd(path)));
        all.push(self.oidc());
        all.push(Box::new(Role::new(Arc::clone(self.web), None).within(PROBE)));
        all
    }

    fn chosen(&self, choice: &Choice) -> Result<Vec<Box<dyn Source>>, NoCredentials> {
        let homeless = |what: &str| NoCredentials::wrong(format!("HOME is not set, so name {what}'s file: {what}:FILE"));
        let named = |given: &Option<PathBuf>, usual: &Option<PathBuf>, what: &str| {
            given.as_ref().or(usual.as_ref()).cloned().ok_or_else(|| homeless(what))
        };
        Ok(match choice {
            Choice::Environment => vec![self.environment()],
            Choice::Coscmd(file) => vec![self.coscmd(&named(file, &self.sources.coscmd, "coscmd")?)],
            Choice::Coscli(file) => vec![self.coscli(&named(file, &self.sources.coscli, "coscli")?)],
            Choice::Passwd(Some(file)) => vec![self.passwd(file)],
            Choice::Passwd(None) => self.sources.passwd.iter().map(|path| self.passwd(path)).collect(),
            Choice::File(file) => vec![self.file(file, files::Format::Token)],
            Choice::Role(name) => vec![Box::new(Role::new(Arc::clone(self.web), name.clone()))],
            Choice::Oidc => vec![self.oidc()],
            Choice::Command(command) => vec![Box::new(Command::new(command, Arc::clone(self.clock)))],
            Choice::Anonymous => {
                vec![Box::new(environment::Held::new(Ok(Arc::new(Credentials::anonymous().from("none: requests are not signed")))))]
            }
        })
    }

    fn environment(&self) -> Box<dyn Source> {
        Box::new(environment::Held::new(self.sources.environment.clone()))
    }

    fn passwd(&self, path: &Path) -> Box<dyn Source> {
        self.file(path, files::Format::Passwd { bucket: self.bucket.map(|bucket| bucket.as_str().to_owned()) })
    }

    fn coscli(&self, path: &Path) -> Box<dyn Source> {
        self.file(path, files::Format::Coscli { section: self.sources.profile.clone(), web: Arc::clone(self.web) })
    }

    fn coscmd(&self, path: &Path) -> Box<dyn Source> {
        self.file(path, files::Format::Coscmd { section: self.sources.profile.clone() })
    }

    fn file(&self, path: &Path, format: files::Format) -> Box<dyn Source> {
        Box::new(files::CredentialFile::new(path, format))
    }

    fn oidc(&self) -> Box<dyn Source> {
        Box::new(Oidc::new(self.sources.identity.clone(), Arc::clone(self.web)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_their_arguments() {
        for (text, choice) in [
            ("env", Choice::Environment),
            ("coscmd", Choice::Coscmd(None)),
            ("coscmd:/a:b", Choice::Coscmd(Some("/a:b".into()))),
            ("coscli:x", Choice::Coscli(Some("x".into()))),
            ("passwd", Choice::Passwd(None)),
            ("file:/t", Choice::File("/t".into())),
            ("role", Choice::Role(None)),
            ("role:reader", Choice::Role(Some("reader".into()))),
            ("oidc", Choice::Oidc),
            ("command:a b: c", Choice::Command("a b: c".into())),
            ("anonymous", Choice::Anonymous),
        ] {
            assert_eq!(Choice::parse(text), Ok(choice), "{text}");
        }
        for bad in ["", "file", "command", "role:", "env:x", "anonymous:x", "AKIDsecret:topsecret"] {
            let error = Choice::parse(bad).unwrap_err();
            assert!(!error.contains("secret:") && !error.contains("AKID"), "{error}");
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let sources = Sources {
            choice: Some(Choice::Command("print topsecret".into())),
            ..Sources::from_environment(|name| {
                ["COS_SECRET_ID", "COS_SECRET_KEY"].contains(&name).then(|| format!("topsecret of {name}").replace(' ', "-"))
            })
        };
        assert!(sources.environment.is_ok());
        let shown = format!("{sources:?} {:?}", Credentials::new("topsecret", "topsecret").with_token("topsecret"));
        assert!(!shown.contains("topsecret"), "{shown}");
    }
}
