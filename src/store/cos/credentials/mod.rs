//! Who signs: secrets that show themselves nowhere, and where they come from.
//!
//! A [`Provider`] hands out [`Credentials`] and is told when COS refused them. [`open`] makes one of a description, [`Sources`]: of the one kind
//! that was chosen, or of the usual places in their order, of which the first that has credentials is the one for good (`chain.rs`).
//!
//! | file | where from | changes |
//! |---|---|---|
//! | `environment.rs` | variables, which `cli` has read | never |
//! | `files.rs` (`formats.rs`: what is in them) | `~/.cos.conf`, `~/.cos.yaml`, COSFS's password files, a token file | looked at again each second |
//! | `role.rs` | the metadata service of a CVM instance | before they end |
//! | `oidc.rs` | STS, for the identity of a TKE pod | before they end |
//! | `command.rs` | what a command prints | before they end |
//!
//! Each of these is a [`Source`]: it can be asked, and knows nothing of time. When it is asked, how often, by whom and what happens meanwhile is in
//! one place, `refresh.rs`.
//!
//! No file, variable or answer is ever quoted in an error: what a person is told names the place and what is missing there.

mod chain;
mod command;
mod environment;
mod files;
mod formats;
mod oidc;
mod refresh;
mod role;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use crate::store::{BucketName, cos::Endpoints};
use crate::support::Clock;

use chain::Chain;
use role::Web;

pub use environment::Fixed;
pub use oidc::Identity;

/// A secret id with its key and, where they are temporary, a session token.
pub struct Credentials {
    id: String,
    secret: Secret,
    token: Option<Secret>,
    origin: String,
    anonymous: bool,
    /// When they end, where that is known: signatures do not outlive it.
    pub expires: Option<SystemTime>,
}

impl Credentials {
    /// Lasting credentials.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        let secret = Secret::new(secret.into());
        Self { id: id.into(), secret, token: None, origin: String::new(), anonymous: false, expires: None }
    }

    /// Nobody's: requests with these are not signed.
    pub fn anonymous() -> Self {
        Self { anonymous: true, ..Self::new("", "") }
    }

    /// Temporary credentials.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret::new(token.into()));
        self
    }

    /// Says where they are from, in words for a person.
    #[must_use]
    pub fn from(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }

    /// Says when they end.
    #[must_use]
    pub fn until(mut self, expires: Option<SystemTime>) -> Self {
        self.expires = expires;
        self
    }

    /// The secret id. Not a secret, but not for logs either.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where they are from, in words for a person; empty if nobody said.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether requests go unsigned.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// Whether they come with a session token.
    pub fn is_temporary(&self) -> bool {
        self.token.is_some()
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret.0
    }

    pub(super) fn token(&self) -> Option<&[u8]> {
        self.token.as_ref().map(|token| &*token.0)
    }

    fn copy(&self) -> Self {
        let copy = |secret: &Secret| Secret(secret.0.clone());
        Self {
            id: self.id.clone(),
            secret: copy(&self.secret),
            token: self.token.as_ref().map(copy),
            origin: self.origin.clone(),
            anonymous: self.anonymous,
            expires: self.expires,
        }
    }

    /// Whether a signature with the one is a signature with the other.
    fn same(&self, other: &Self) -> bool {
        (&self.id, self.secret(), self.token(), self.anonymous) == (&other.id, other.secret(), other.token(), other.anonymous)
            && self.expires == other.expires
    }

    /// Refuses what could not be sent in a header.
    fn checked(self) -> Result<Self, NoCredentials> {
        let plain = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
        let good = plain(self.id.as_bytes()) && plain(self.secret()) && self.token().is_none_or(plain);
        let whole = self.anonymous || !(self.id.is_empty() || self.secret().is_empty());
        if good && whole {
            Ok(self)
        } else if !whole {
            Err(NoCredentials::wrong(format!("{}: id or key is empty", self.origin)))
        } else {
            Err(NoCredentials::wrong(format!("{}: id, key or token holds a blank or another character that none has", self.origin)))
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// Bytes that are overwritten when they go.
struct Secret(Vec<u8>);

impl Secret {
    fn new(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // The bytes count as looked at, so the compiler may not leave the fill out.
        std::hint::black_box(&self.0);
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NoCredentials {
    why: String,
    absence: Absence,
}

/// What their absence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Nobody put any there: the next place is looked at.
    NotThere,
    /// They are there and cannot be used. Whoever put them there meant them, so no other place is looked at.
    Wrong,
    /// Whoever has them does not answer now.
    Away,
}

impl NoCredentials {
    fn absent(why: impl Into<String>) -> Self {
        Self { why: why.into(), absence: Absence::NotThere }
    }

    fn wrong(why: impl Into<String>) -> Self {
        Self { why: why.into(), absence: Absence::Wrong }
    }

    fn away(why: impl Into<String>) -> Self {
        Self { why: why.into(), absence: Absence::Away }
    }

    /// Whether it may pass by itself.
    pub fn may_pass(&self) -> bool {
        self.absence == Absence::Away
    }
}

/// How COS refused credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It said that they have ended.
    Ended,
    /// It said no. That may be about them, or about what was asked for.
    Denied,
}

/// Where credentials come from.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// The credentials to sign with now. Called for every request: what it returns is kept by the provider until it changes.
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials>;

    /// COS refused `refused`: get others, unless that has happened since. Says whether there are others now. Calls that come together must
    /// fetch once; and since a denial may be a mere denial, what was fetched a moment ago need not be fetched again.
    async fn refresh(&self, refused: &Arc<Credentials>, how: Refused) -> Result<bool, NoCredentials>;
}

/// Somebody who can be asked for credentials.
#[async_trait]
trait Source: fmt::Debug + Send + Sync {
    /// The credentials there are now. Ends by itself within [`command::LIMIT`] at most.
    async fn fetch(&self) -> Result<Credentials, NoCredentials>;

    /// How its answers change. Asked after a fetch.
    fn pace(&self) -> Pace;
}

/// How a source's answers change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Not at all.
    Never,
    /// At any time, and to look costs nothing.
    Any,
    /// By their end, and to ask costs a request or a process.
    Ends,
}

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
    Ok(Arc::new(refresh::Refreshing::new(Box::new(Chain::new(all, sources.choice.is_some())), Arc::clone(clock))))
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
        all.push(Box::new(role::Role::new(Arc::clone(self.web), None).within(PROBE)));
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
            Choice::Role(name) => vec![Box::new(role::Role::new(Arc::clone(self.web), name.clone()))],
            Choice::Oidc => vec![self.oidc()],
            Choice::Command(command) => vec![Box::new(command::Command::new(command, Arc::clone(self.clock)))],
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
        Box::new(oidc::Oidc::new(self.sources.identity.clone(), Arc::clone(self.web)))
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

    #[test]
    fn what_no_header_takes_is_refused_without_being_shown() {
        assert!(Credentials::new("id", "key").with_token("t").checked().is_ok());
        assert!(Credentials::anonymous().checked().is_ok());
        for bad in [Credentials::new("id", "top secret"), Credentials::new("", "k"), Credentials::new("i", "k").with_token("to\nken")] {
            let error = bad.from("the file x").checked().unwrap_err().to_string();
            assert!(error.starts_with("the file x: ") && !error.contains("top") && !error.contains("ken\n"), "{error}");
        }
    }
}
