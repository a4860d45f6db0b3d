//! Who signs: secrets that show themselves nowhere, and where they come from.
//!
//! A [`Provider`] hands out [`Credentials`] and is told when COS refused them. [`open`] makes one of a description, [`Sources`]: of the one kind
//! that was chosen, or of the usual places in their order, of which the first that has credentials is the one for good (`sources.rs`, `chain.rs`).
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
mod sources;

use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;

pub use environment::Fixed;
#[cfg(any(test, fuzzing))]
pub(in crate::store) use formats::fuzz;
pub use oidc::Identity;
pub use sources::{Choice, Sources, open};

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

#[cfg(test)]
mod tests {
    use super::*;

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
