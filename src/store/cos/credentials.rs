//! Who signs: secrets that show themselves nowhere, and where they come from.
//!
//! A [`Provider`] hands out [`Credentials`] and is told when COS refused them as expired. The only one here takes what the environment held;
//! files, instance roles and STS are other providers.

use std::{fmt, sync::Arc, time::SystemTime};

use async_trait::async_trait;

/// A secret id with its key and, where they are temporary, a session token.
pub struct Credentials {
    id: String,
    secret: Secret,
    token: Option<Secret>,
    /// When they end, where that is known: signatures do not outlive it.
    pub expires: Option<SystemTime>,
}

impl Credentials {
    /// Lasting credentials.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { id: id.into(), secret: Secret::new(secret.into()), token: None, expires: None }
    }

    /// Temporary credentials.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret::new(token.into()));
        self
    }

    /// The secret id. Not a secret, but not for logs either.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret.0
    }

    pub(super) fn token(&self) -> Option<&[u8]> {
        self.token.as_ref().map(|token| &*token.0)
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
#[error("{0}")]
pub struct NoCredentials(pub String);

/// Where credentials come from.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// The credentials to sign with now. Called for every request: what it returns is kept by the provider until it changes.
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials>;

    /// COS refused `refused`, perhaps as expired: get others, unless that has happened since. Says whether there are others now. Calls that
    /// come together must fetch once; and since a 403 may be a mere denial, what was fetched a moment ago need not be fetched again.
    async fn refresh(&self, refused: &Arc<Credentials>) -> Result<bool, NoCredentials>;
}

/// Credentials that stay what they are.
#[derive(Debug)]
pub struct Fixed(Arc<Credentials>);

impl Fixed {
    /// A provider of exactly these.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(credentials))
    }

    /// Takes the first complete pair of the spellings below; `lookup` answers what a variable holds. An empty variable is one not set.
    ///
    /// # Errors
    /// A sentence that names the variables, or the half that is missing.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, NoCredentials> {
        let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned());
        let mut half = None;
        for (id_name, secret_name, token_names) in SPELLINGS {
            match (set(id_name), set(secret_name)) {
                (Some(id), Some(secret)) => {
                    let mut credentials = Credentials::new(id, secret);
                    if let Some(token) = token_names.iter().find_map(|name| set(name)) {
                        credentials = credentials.with_token(token);
                    }
                    return Ok(Self::new(credentials));
                }
                (Some(_), None) => half = half.or(Some((id_name, secret_name))),
                (None, Some(_)) => half = half.or(Some((secret_name, id_name))),
                (None, None) => {}
            }
        }
        Err(NoCredentials(match half {
            Some((there, missing)) => format!("{there} is set, but {missing} is not"),
            None => {
                "no credentials in the environment: set COS_SECRET_ID and COS_SECRET_KEY (and COS_SESSION_TOKEN for temporary ones)".into()
            }
        }))
    }

    /// Every variable that [`Fixed::from_environment`] may look at: what must not stay in a process's environment.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        SPELLINGS.iter().flat_map(|(id, secret, tokens)| [*id, *secret].into_iter().chain(tokens.iter().copied()))
    }
}

#[async_trait]
impl Provider for Fixed {
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials> {
        Ok(Arc::clone(&self.0))
    }

    async fn refresh(&self, _refused: &Arc<Credentials>) -> Result<bool, NoCredentials> {
        Ok(false)
    }
}

/// Id, key and token as the documentation and the tools of Tencent spell them, the most particular to COS first.
const SPELLINGS: &[(&str, &str, &[&str])] = &[
    ("COS_SECRET_ID", "COS_SECRET_KEY", &["COS_SESSION_TOKEN", "COS_TOKEN"]),
    ("COS_SECRETID", "COS_SECRETKEY", &["COS_SESSIONTOKEN", "COS_SESSION_TOKEN"]),
    ("TENCENTCLOUD_SECRET_ID", "TENCENTCLOUD_SECRET_KEY", &["TENCENTCLOUD_TOKEN", "TENCENTCLOUD_SESSION_TOKEN"]),
    ("TENCENTCLOUD_SECRETID", "TENCENTCLOUD_SECRETKEY", &["TENCENTCLOUD_SESSIONTOKEN"]),
    ("COSN_SECRET_ID", "COSN_SECRET_KEY", &[]),
    ("COSACCESSKEYID", "COSSECRETACCESSKEY", &[]),
    ("SECRETID", "SECRETKEY", &[]),
    ("SECRET_ID", "SECRET_KEY", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Arc<Credentials>, NoCredentials> {
        let lookup = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned());
        Fixed::from_environment(lookup).map(|fixed| fixed.0)
    }

    #[test]
    fn every_spelling_is_understood() {
        for (id, secret, tokens) in SPELLINGS {
            let found = from(&[(id, "an id"), (secret, "a key")]).unwrap();
            assert_eq!((found.id(), found.secret(), found.token()), ("an id", &b"a key"[..], None), "{id}");
            for token in *tokens {
                let found = from(&[(id, "an id"), (secret, "a key"), (token, "a token")]).unwrap();
                assert_eq!(found.token(), Some(&b"a token"[..]), "{token}");
            }
        }
    }

    #[test]
    fn a_token_of_another_spelling_is_not_mixed_in() {
        let found = from(&[("SECRETID", "i"), ("SECRETKEY", "k"), ("TENCENTCLOUD_TOKEN", "t")]).unwrap();
        assert_eq!(found.token(), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            from(&[("COS_SECRET_ID", "i"), ("COS_SECRET_KEY", " ")]).unwrap_err().0,
            "COS_SECRET_ID is set, but COS_SECRET_KEY is not"
        );
        assert!(from(&[]).unwrap_err().0.contains("COS_SECRET_KEY"));
    }

    #[test]
    fn nothing_shows_a_secret() {
        let credentials = Credentials::new("AKIDsecret", "topsecret").with_token("tokensecret");
        let shown = format!("{credentials:?} {:?}", Fixed::new(Credentials::new("AKIDsecret", "topsecret")));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
