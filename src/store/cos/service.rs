//! The account: its buckets, and how one is opened.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use reqwest::Method;

use crate::store::{
    Bucket, BucketInfo, BucketName, Capabilities, Error, Kind, Operation, Result, Service, Versioning,
    cos::{CosBucket, Endpoints, Provider, answers, client::Client, endpoint::Endpoint, request::Request},
    http::Http,
};
use crate::support::{Clock, Ctx};

/// Most pages of the account's list: 200 buckets are allowed, a page has 2,000.
const PAGES: usize = 20;

/// A COS account.
#[derive(Debug)]
pub(in crate::store) struct CosService {
    client: Arc<Client>,
    /// What every bucket has in common.
    limits: Capabilities,
}

impl CosService {
    pub(in crate::store) fn new(
        endpoints: Endpoints,
        provider: Arc<dyn Provider>,
        ca_file: Option<&Path>,
        limits: Capabilities,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, String> {
        let http = Http::through(ca_file, endpoints.proxies())?;
        Ok(Self { client: Arc::new(Client::new(endpoints, http, provider, clock)), limits })
    }

    /// Where the bucket is. Without a region or an endpoint the account's list is asked.
    async fn endpoint(&self, cx: &Ctx, operation: Operation, name: &BucketName) -> Result<Endpoint> {
        if let Some(endpoint) = self.client.endpoints.bucket(name, None) {
            return Ok(endpoint);
        }
        let lost = |why: String| Error::new(Kind::NoSuchBucket, operation.name(), why).at(name.as_str());
        let buckets = self.buckets(cx).await?;
        let info = buckets.into_iter().find(|info| info.name == *name);
        let info = info.ok_or_else(|| lost("no region is given, and the account's list does not have the bucket".to_owned()))?;
        let endpoint = self.client.endpoints.bucket(name, Some(&info.region));
        endpoint.ok_or_else(|| lost("no region is given, and none is known".to_owned()))
    }

    /// A HEAD is refused without a word. The same question as a GET has an answer with a document, and that says why.
    async fn explained(&self, cx: &Ctx, endpoint: &Endpoint, name: &BucketName, refused: Error) -> Error {
        let wordless = refused.code().is_none() && refused.request_id().is_some() && !refused.is_renewed();
        if !wordless || matches!(refused.kind(), Kind::Throttled | Kind::Unavailable) {
            return refused;
        }
        let request = Request::new(Operation::List, Method::GET, None).param("max-keys", "1");
        match self.client.send(cx, endpoint, name.as_str(), request, None).await {
            Err(error) if error.code().is_some() => error,
            _ => refused,
        }
    }

    async fn versioning(&self, cx: &Ctx, endpoint: &Endpoint, name: &BucketName) -> Result<Versioning> {
        let request = Request::new(Operation::Versioning, Method::GET, None).param("versioning", "");
        let state = match self.client.send(cx, endpoint, name.as_str(), request, None).await {
            Ok(answer) => self.client.document(answer, answers::versioning).await,
            Err(error) => Err(error),
        };
        match state {
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::Unsupported) && !error.is_renewed() => {
                tracing::warn!(%error, "the versioning state may not be read; taking it that versioning was never on");
                Ok(Versioning::Never)
            }
            state => state,
        }
    }
}

#[async_trait]
impl Service for CosService {
    async fn buckets(&self, cx: &Ctx) -> Result<Vec<BucketInfo>> {
        let operation = Operation::ListBuckets;
        let endpoint = self.client.endpoints.service();
        let mut all: Vec<BucketInfo> = Vec::new();
        let mut marker = String::new();
        for _ in 0..PAGES {
            let mut request = Request::new(operation, Method::GET, None).param("max-keys", "2000");
            if !marker.is_empty() {
                request = request.param("marker", &*marker);
            }
            let answer = self.client.send(cx, &endpoint, "", request, None).await?;
            let (page, next) = self.client.document(answer, answers::buckets).await?;
            all.extend(page);
            match next {
                None => return Ok(all),
                Some(next) if next > marker => marker = next,
                Some(_) => break,
            }
        }
        Err(Error::new(Kind::Corrupt, operation.name(), "the list of buckets does not end"))
    }

    async fn open(&self, cx: &Ctx, name: &BucketName) -> Result<Arc<dyn Bucket>> {
        let endpoint = self.endpoint(cx, Operation::HeadBucket, name).await?;
        let request = Request::new(Operation::HeadBucket, Method::HEAD, None);
        let answer = match self.client.send(cx, &endpoint, name.as_str(), request, None).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.explained(cx, &endpoint, name, error).await),
        };
        let region = answer.header("x-cos-bucket-region").filter(|region| !region.is_empty()).map(str::to_owned);
        if answer.header("x-cos-bucket-arch") == Some("OFS") {
            tracing::warn!(bucket = %name, "the bucket has metadata acceleration, of which nothing is used");
        }
        let versioning = self.versioning(cx, &endpoint, name).await?;
        let capabilities = Capabilities {
            versioning,
            // Without effect where versioning was ever on (COS API, PUT Object, `x-cos-forbid-overwrite`).
            forbid_overwrite: versioning == Versioning::Never,
            region: region.clone(),
            ..self.limits.clone()
        };
        let region = region.or_else(|| self.client.endpoints.region().map(str::to_owned));
        Ok(Arc::new(CosBucket { client: Arc::clone(&self.client), name: name.clone(), endpoint, region, capabilities }))
    }

    async fn create_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
        let operation = Operation::CreateBucket;
        let Some(endpoint) = self.client.endpoints.bucket(name, None) else {
            return Err(Error::new(Kind::Invalid, operation.name(), "a new bucket needs a region").at(name.as_str()));
        };
        let request = Request::new(operation, Method::PUT, None).with("content-length", "0")?.with("x-cos-acl", "private")?;
        self.client.send(cx, &endpoint, name.as_str(), request, None).await.map(drop)
    }

    async fn delete_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
        let operation = Operation::DeleteBucket;
        let endpoint = self.endpoint(cx, operation, name).await?;
        self.client.send(cx, &endpoint, name.as_str(), Request::new(operation, Method::DELETE, None), None).await.map(drop)
    }
}
