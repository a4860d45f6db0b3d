//! Credentials that stay what they are: those of variables, and those that a program was given.

use std::sync::Arc;

use async_trait::async_trait;

use crate::store::cos::credentials::{Credentials, NoCredentials, Pace, Provider, Refused, Source};

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

/// Takes the first complete pair of [`SPELLINGS`]; `lookup` answers what a variable holds. An empty variable is one not set.
///
/// # Errors
/// A sentence that names the variables, or the half that is missing.
pub(super) fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Credentials, NoCredentials> {
    let set = |name: &str| lookup(name).filter(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned());
    let mut half = None;
    for (id_name, secret_name, token_names) in SPELLINGS {
        match (set(id_name), set(secret_name)) {
            (Some(id), Some(secret)) => {
                let mut credentials = Credentials::new(id, secret).from(format!("the environment, {id_name}"));
                if let Some(token) = token_names.iter().find_map(|name| set(name)) {
                    credentials = credentials.with_token(token);
                }
                return credentials.checked();
            }
            (Some(_), None) => half = half.or(Some((id_name, secret_name))),
            (None, Some(_)) => half = half.or(Some((secret_name, id_name))),
            (None, None) => {}
        }
    }
    Err(NoCredentials::absent(match half {
        Some((there, missing)) => format!("the environment: {there} is set, but {missing} is not"),
        None => "the environment: COS_SECRET_ID and COS_SECRET_KEY (and COS_SESSION_TOKEN for temporary ones) are not set".into(),
    }))
}

/// What was read once.
#[derive(Debug)]
pub(super) struct Held(Result<Arc<Credentials>, NoCredentials>);

impl Held {
    pub(super) fn new(held: Result<Arc<Credentials>, NoCredentials>) -> Self {
        Self(held)
    }
}

#[async_trait]
impl Source for Held {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        self.0.as_ref().map(|held| held.copy()).map_err(Clone::clone)
    }

    fn pace(&self) -> Pace {
        Pace::Never
    }
}

/// A provider of credentials that a program has.
#[derive(Debug)]
pub struct Fixed(Arc<Credentials>);

impl Fixed {
    /// A provider of exactly these.
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(credentials))
    }

    /// Every variable with a secret that may be looked at: what must not stay in a process's environment.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        SPELLINGS.iter().flat_map(|(id, secret, tokens)| [*id, *secret].into_iter().chain(tokens.iter().copied()))
    }
}

#[async_trait]
impl Provider for Fixed {
    async fn credentials(&self) -> Result<Arc<Credentials>, NoCredentials> {
        Ok(Arc::clone(&self.0))
    }

    async fn refresh(&self, _refused: &Arc<Credentials>, _how: Refused) -> Result<bool, NoCredentials> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Credentials, NoCredentials> {
        read(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned()))
    }

    #[test]
    fn every_spelling_is_understood() {
        for (id, secret, tokens) in SPELLINGS {
            let found = from(&[(id, "an-id"), (secret, "a-key")]).unwrap();
            assert_eq!((found.id(), found.secret(), found.token()), ("an-id", &b"a-key"[..], None), "{id}");
            for token in *tokens {
                let found = from(&[(id, "an-id"), (secret, "a-key"), (token, "a-token")]).unwrap();
                assert_eq!(found.token(), Some(&b"a-token"[..]), "{token}");
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
        let half = from(&[("COS_SECRET_ID", "i"), ("COS_SECRET_KEY", " ")]).unwrap_err().to_string();
        assert_eq!(half, "the environment: COS_SECRET_ID is set, but COS_SECRET_KEY is not");
        assert!(from(&[]).unwrap_err().to_string().contains("COS_SECRET_KEY"));
    }
}
