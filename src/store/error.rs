//! The one error of the store: what kind, whether it may have happened all the same, and what a support engineer asks first.

use std::fmt;

use crate::store::{Key, Way};

/// Why a store call failed. A variant exists because somebody acts differently on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The store said that the object, version or copy source is not there.
    NotFound,
    /// There is no such bucket.
    NoSuchBucket,
    /// The upload was aborted, completed or has expired.
    NoSuchUpload,
    /// The credentials may not do this.
    Denied,
    /// The credentials have expired and could not be refreshed.
    Expired,
    /// The key holds another version than the one named (412).
    Precondition,
    /// The key exists and was to be absent.
    Exists,
    /// Somebody else wrote the key between our attempts: neither our token nor the version we replaced.
    Conflict,
    /// The object is archived and not restored.
    Archived,
    /// The object is under retention.
    Locked,
    /// The bucket is not empty.
    NotEmpty,
    /// The key is longer than the store takes.
    KeyTooLong,
    /// More bytes than the store takes, in one request or at all.
    TooLarge,
    /// A quota of the account or of its money is used up.
    Quota,
    /// The request is one this bucket or dialect does not know.
    Unsupported,
    /// The store called the request malformed: our fault.
    Invalid,
    /// The store asks for fewer requests.
    Throttled,
    /// The store or the way to it does not work now: 5xx, connect, TLS, DNS, a cut connection.
    Unavailable,
    /// The answer was not what was asked for: wrong range, length, checksum, document.
    Corrupt,
    /// Nothing moved for as long as the caller was ready to wait.
    NoProgress,
    /// The payload's source (a staged file) could not be read.
    Source,
}

/// Whether the effect of a failed call may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The store refused, or the request never reached it.
    NotDone,
    /// The answer was lost and could not be settled.
    Unknown,
}

/// A failed store call.
#[derive(Debug, Clone)]
pub struct Error(Box<Detail>);

#[derive(Debug, Clone)]
struct Detail {
    kind: Kind,
    outcome: Outcome,
    operation: &'static str,
    /// Bucket and key, as a person would write them.
    target: String,
    status: Option<u16>,
    code: Option<String>,
    message: String,
    request_id: Option<String>,
    way: Option<Way>,
    tries: u32,
    renewed: bool,
}

impl Error {
    /// An error of `kind` from `operation` (named as COS names it: `GET Object`) with a sentence about it.
    pub fn new(kind: Kind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Detail {
            kind,
            outcome: Outcome::NotDone,
            operation,
            target: String::new(),
            status: None,
            code: None,
            message: message.into(),
            request_id: None,
            way: None,
            tries: 1,
            renewed: false,
        }))
    }

    /// Names the object it happened to.
    #[must_use]
    pub fn on(mut self, key: &Key) -> Self {
        self.0.target = key.to_string();
        self
    }

    /// Names what it happened to, where that is no object.
    #[must_use]
    pub fn at(mut self, target: impl Into<String>) -> Self {
        self.0.target = target.into();
        self
    }

    /// Names what it happened to, unless that is named already.
    #[must_use]
    pub(super) fn or_at(mut self, target: &str) -> Self {
        if self.0.target.is_empty() {
            target.clone_into(&mut self.0.target);
        }
        self
    }

    /// Adds what the answer said.
    #[must_use]
    pub fn answered(mut self, status: u16, code: Option<String>, request_id: Option<String>) -> Self {
        self.0.status = Some(status);
        self.0.code = code;
        self.0.request_id = request_id;
        self
    }

    /// Adds what was wrong with the way, where no answer came.
    #[must_use]
    pub fn because(mut self, way: Option<Way>) -> Self {
        self.0.way = way;
        self
    }

    /// Says that the effect may be there all the same.
    #[must_use]
    pub fn unknown(mut self) -> Self {
        self.0.outcome = Outcome::Unknown;
        self
    }

    /// Says how often it was tried.
    #[must_use]
    pub fn after(mut self, tries: u32) -> Self {
        self.0.tries = tries;
        self
    }

    /// Says that what it was refused for has been put right since: the clock's offset, the credentials.
    #[must_use]
    pub fn renewed(mut self) -> Self {
        self.0.renewed = true;
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the effect may be there.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// What was attempted, as COS names it.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Bucket and key, as a person would write them; nothing escaped.
    pub fn target(&self) -> &str {
        &self.0.target
    }

    /// What was said of it, as a sentence; nothing escaped.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was wrong with the way, if no answer came and that much is known.
    pub fn way(&self) -> Option<Way> {
        self.0.way
    }

    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The store's own code, such as `AccessDenied`.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The request's id, as the store's support wants it.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Whether the same request, signed anew, may succeed at once.
    pub fn is_renewed(&self) -> bool {
        self.0.renewed
    }

    /// How often it was tried.
    pub fn tries(&self) -> u32 {
        self.0.tries
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { operation, target, status, code, message, request_id, tries, outcome, .. } = &*self.0;
        write!(f, "{operation}")?;
        if !target.is_empty() {
            write!(f, " of {}", Shown(target))?;
        }
        write!(f, ": ")?;
        match (code, status) {
            (Some(code), Some(status)) => write!(f, "{} ({status}), ", Shown(code))?,
            (None, Some(status)) => write!(f, "HTTP {status}, ")?,
            _ => {}
        }
        write!(f, "{}", Shown(message.trim_end_matches('.')))?;
        if let Some(id) = request_id {
            write!(f, ", request {}", Shown(id))?;
        }
        if *tries > 1 {
            write!(f, ", {tries} tries")?;
        }
        if *outcome == Outcome::Unknown {
            write!(f, "; it may have happened all the same")?;
        }
        Ok(())
    }
}

/// Text from outside in a sentence for a person: on one line, speaking to no terminal, and not without an end.
struct Shown<'a>(&'a str);

impl Shown<'_> {
    /// A key has 850 bytes; what is longer is a server's prose.
    const MOST: usize = 900;
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars().take(Self::MOST) {
            // Backslashes stay single and quotes bare: this is read, not parsed.
            if matches!(c, '\\' | '"' | '\'') { write!(f, "{c}")? } else { write!(f, "{}", c.escape_debug())? }
        }
        if self.0.chars().nth(Self::MOST).is_some() { write!(f, "…") } else { Ok(()) }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_stay_on_their_line() {
        let prose = format!("no\n\u{1b}[2J\u{202e}{}", "x".repeat(5000));
        let error = Error::new(Kind::Denied, "GET Object", prose).at("cos://b/it's \"a\\b\"").answered(
            403,
            Some("Access\rDenied".to_owned()),
            Some("id\n".to_owned()),
        );
        let shown = error.to_string();
        assert!(shown.starts_with("GET Object of cos://b/it's \"a\\b\": Access\\rDenied (403), no\\n\\u{1b}[2J\\u{202e}xxx"), "{shown}");
        assert!(shown.len() < 1200 && shown.ends_with("…, request id\\n"), "{shown}");
    }
}
