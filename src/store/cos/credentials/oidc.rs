//! The identity of a TKE pod: its token is exchanged at STS for temporary keys.
//!
//! The token's file is a symbolic link that others in the pod may read (Kubernetes writes it so and exchanges it every hour), so the rules of
//! credential files do not apply to it. It is read anew for each exchange.
//!
//! Source: STS API, AssumeRoleWithWebIdentity (document 1312/73070), read 2026-11. Tried against a server of the tests only.

use std::{fs::File, io::Read, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde_json::json;

use crate::store::cos::credentials::{Credentials, NoCredentials, Pace, Secret, Source, files, formats, role::Web};

/// How long STS has to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// How long the keys are to last, in seconds.
const LIFE: u32 = 7200;

/// What a pod is told by its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    region: String,
    provider: String,
    token_file: PathBuf,
    role: String,
}

impl Identity {
    /// From the variables `TKE_*`.
    ///
    /// # Errors
    /// Which one is missing.
    pub(super) fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).ok_or_else(|| format!("{name} is not set"));
        Ok(Self {
            role: set("TKE_ROLE_ARN")?,
            provider: set("TKE_PROVIDER_ID")?,
            region: set("TKE_REGION")?,
            token_file: set("TKE_WEB_IDENTITY_TOKEN_FILE")?.into(),
        })
    }
}

/// The keys that an identity is given.
#[derive(Debug)]
pub(super) struct Oidc {
    identity: Result<Identity, String>,
    web: Arc<Web>,
}

impl Oidc {
    pub(super) fn new(identity: Result<Identity, String>, web: Arc<Web>) -> Self {
        Self { identity, web }
    }

    async fn exchange(&self, identity: &Identity) -> Result<Credentials, NoCredentials> {
        let origin = format!("the identity of this pod, role {}", formats::shortened(&identity.role));
        let wrong = |why: String| NoCredentials::wrong(format!("{origin}: {why}"));
        let away = |why: String| NoCredentials::away(format!("{origin}: {why}"));
        let file = identity.token_file.clone();
        let token = tokio::task::spawn_blocking(move || read(&file)).await.map_err(|_| away("reading its token was given up".into()))?;
        // A file that is being exchanged is back in a moment.
        let token = token.map_err(|error| away(format!("cannot read its token: {error}")))?;
        let token = std::str::from_utf8(&token.0).map_err(|_| wrong("its token is not text".into()))?.trim();
        let request = self.request(identity, token).map_err(wrong)?;
        let (status, body) = self.web.ask(request, LIMIT).await.map_err(|why| away(format!("{}: {why}", self.web.sts())))?;
        if status != 200 {
            return Err(away(format!("{} answers {status}", self.web.sts())));
        }
        formats::json(&body).map_err(|why| away(format!("STS: {why}")))?.from(origin.clone()).checked()
    }

    fn request(&self, identity: &Identity, token: &str) -> Result<reqwest::Request, String> {
        let url = Url::parse(&format!("{}/", self.web.sts())).map_err(|error| format!("{} is no URL: {error}", self.web.sts()))?;
        let mut request = reqwest::Request::new(Method::POST, url);
        let now = self.web.clock().wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let region = HeaderValue::from_str(&identity.region).map_err(|_| "TKE_REGION is no region".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("SKIP"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("x-tc-action"), HeaderValue::from_static("AssumeRoleWithWebIdentity"));
        headers.insert(HeaderName::from_static("x-tc-version"), HeaderValue::from_static("2018-08-13"));
        headers.insert(HeaderName::from_static("x-tc-region"), region);
        headers.insert(HeaderName::from_static("x-tc-timestamp"), HeaderValue::from(now));
        let body = json!({
            "ProviderId": identity.provider,
            "WebIdentityToken": token,
            "RoleArn": identity.role,
            "RoleSessionName": "cosmount",
            "DurationSeconds": LIFE,
        });
        *request.body_mut() = Some(body.to_string().into());
        Ok(request)
    }
}

#[async_trait]
impl Source for Oidc {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        match &self.identity {
            Ok(identity) => self.exchange(identity).await,
            Err(missing) => Err(NoCredentials::absent(format!("the identity of a TKE pod: {missing}"))),
        }
    }

    fn pace(&self) -> Pace {
        Pace::Ends
    }
}

fn read(path: &PathBuf) -> std::io::Result<Secret> {
    let mut bytes = Secret(Vec::with_capacity(4096));
    let file = File::open(path).map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    file.take(files::LONGEST).read_to_end(&mut bytes.0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_variable_is_named() {
        let some = |names: &'static [&str]| Identity::from_environment(move |name| names.contains(&name).then(|| "x".to_owned()));
        assert_eq!(some(&[]).unwrap_err(), "TKE_ROLE_ARN is not set");
        assert_eq!(some(&["TKE_ROLE_ARN", "TKE_PROVIDER_ID", "TKE_REGION"]).unwrap_err(), "TKE_WEB_IDENTITY_TOKEN_FILE is not set");
        assert!(some(&["TKE_ROLE_ARN", "TKE_PROVIDER_ID", "TKE_REGION", "TKE_WEB_IDENTITY_TOKEN_FILE"]).is_ok());
    }
}
