//! The role of a CVM instance, from its metadata service.
//!
//! The service is a host of plain HTTP that only the instance reaches: never through a proxy, with a short time-out. Its list of roles has one name
//! (an instance has one role at most), and nothing but that name decides what is asked next.
//!
//! Source: CVM, "Instance metadata" (document 213/4934) and CAM roles of instances, read 2026-11. Tried against a server of the tests only.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::{Method, Url};
use tokio::sync::OnceCell;

use crate::store::{
    cos::{
        Endpoints,
        credentials::{Credentials, NoCredentials, Pace, Source, formats},
        sign::ESCAPED,
    },
    http::Http,
};
use crate::support::{Clock, Ctx};

/// Where the metadata service has the roles.
const PATH: &str = "/latest/meta-data/cam/security-credentials/";

/// How long the metadata service has to answer: it is on the same machine.
const LIMIT: Duration = Duration::from_secs(3);

/// Most bytes of an answer.
const LONGEST: usize = 64 << 10;

/// How services that hand out credentials are asked. Nothing is set up before the first one is.
pub(super) struct Web {
    metadata: String,
    sts: String,
    ca_file: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    http: OnceCell<Http>,
}

impl Web {
    pub(super) fn new(endpoints: &Endpoints, ca_file: Option<&std::path::Path>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let ca_file = ca_file.map(ToOwned::to_owned);
        Arc::new(Self { metadata: endpoints.metadata(), sts: endpoints.sts(), ca_file, clock, http: OnceCell::new() })
    }

    pub(super) fn sts(&self) -> &str {
        &self.sts
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Sends a request and returns status and body.
    pub(super) async fn ask(&self, request: reqwest::Request, limit: Duration) -> Result<(u16, Bytes), String> {
        let ca_file = self.ca_file.as_deref();
        let http = self.http.get_or_try_init(|| async { Http::direct(ca_file) }).await?;
        let cx = Ctx::background(Arc::clone(&self.clock), limit);
        let answer = cx.bounded(http.plain(request, LONGEST)).await;
        answer.map_err(|_| format!("no answer within {} s", limit.as_secs()))?
    }

    async fn metadata(&self, name: &str, limit: Duration) -> Result<(u16, Bytes), String> {
        let url = format!("{}{PATH}{}", self.metadata, utf8_percent_encode(name, ESCAPED));
        let url = Url::parse(&url).map_err(|error| format!("{url} is no URL: {error}"))?;
        self.ask(reqwest::Request::new(Method::GET, url), limit).await
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("metadata", &self.metadata).field("sts", &self.sts).finish_non_exhaustive()
    }
}

/// A role of this machine.
#[derive(Debug)]
pub(super) struct Role {
    web: Arc<Web>,
    name: Option<String>,
    limit: Duration,
}

impl Role {
    /// The role of that name, or the one there is.
    pub(super) fn new(web: Arc<Web>, name: Option<String>) -> Self {
        Self { web, name, limit: LIMIT }
    }

    /// With another time-out of a request.
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    async fn name(&self) -> Result<String, NoCredentials> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let absent = || NoCredentials::absent("the role of this machine: its metadata service knows of none; bind one to the instance");
        let text = match self.web.metadata("", self.limit).await {
            Ok((404, _)) => return Err(absent()),
            other => self.success(other, "its list of roles")?,
        };
        let text = String::from_utf8_lossy(&text);
        let mut names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        let name = names.next().ok_or_else(absent)?;
        if names.next().is_some() {
            tracing::warn!(
                role = formats::shortened(name),
                "this machine has several roles; the first one is used (--credentials role:NAME)"
            );
        }
        Ok(name.to_owned())
    }

    fn success(&self, answer: Result<(u16, Bytes), String>, what: &str) -> Result<Bytes, NoCredentials> {
        let web = &self.web.metadata;
        match answer {
            Ok((200, body)) => Ok(body),
            Ok((status, _)) => Err(NoCredentials::away(format!("the role of this machine: {web} answers {status} for {what}"))),
            Err(why) => Err(NoCredentials::away(format!("the role of this machine: {web}: {why}"))),
        }
    }
}

#[async_trait]
impl Source for Role {
    async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        let name = self.name().await?;
        let shown = formats::shortened(&name);
        let answer = match self.web.metadata(&name, self.limit).await {
            Ok((404, _)) => {
                return Err(NoCredentials::absent(format!("the role of this machine: its metadata service knows no role {shown}")));
            }
            other => self.success(other, &format!("the role {shown}"))?,
        };
        let origin = format!("the role {shown} of this machine");
        // A service that is about to be ready says so with another code than Success.
        formats::json(&answer).map_err(|why| NoCredentials::away(format!("{origin}: {why}")))?.from(origin).checked()
    }

    fn pace(&self) -> Pace {
        Pace::Ends
    }
}
