//! Tencent COS: the dialect. Every request, signed, sent once, and its answer checked against what was asked.
//!
//! Nothing is repeated here; that is `wrap/retry.rs`. What comes back is what was asked for or an error: status, range, length, ETag and, where
//! the whole of something passed through, CRC-64; a listing's pages advance; a 200 that carries an error document is an error.
//!
//! Source: COS API reference (document 436/7751 and its chapters), read 2026-11. Tried against the emulator only.

mod answers;
mod client;
mod credentials;
mod endpoint;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod meta;
mod request;
mod service;
mod sign;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use md5::{Digest as _, Md5};
use percent_encoding::utf8_percent_encode;
use reqwest::Method;

use crate::store::{
    Acl, Body, Bucket, BucketName, Capabilities, ETag, Error, Head, Key, Kind, ListRequest, Meta, ObjectVersion, OpenUpload, Operation,
    Page, Part, PartNumber, Payload, Replaces, Result, Stored, Tags, Upload, VersionId, checksum::combine, http::Answer, xml,
};
use crate::support::Ctx;

use answers::Read;
use client::Client;
use endpoint::Endpoint;
use request::{Request, path_of};

pub use credentials::{Choice, Credentials, Fixed, Identity, NoCredentials, Provider, Refused, Sources, open as open_credentials};
pub use endpoint::{Endpoints, Place};
pub(super) use service::CosService;
pub use sign::{Signed, presigned_query};

/// Most bytes of an answer that is a document: a full page of the longest keys, every byte percent-encoded, is some 3 MB.
const LONGEST_ANSWER: usize = 8 << 20;

/// Most pages of a list of uploads, of 1,000 each.
const UPLOAD_PAGES: usize = 100;

/// One COS bucket.
#[derive(Debug)]
struct CosBucket {
    client: Arc<Client>,
    name: BucketName,
    endpoint: Endpoint,
    region: Option<String>,
    capabilities: Capabilities,
}

impl CosBucket {
    async fn send(&self, cx: &Ctx, request: Request<'_>, payload: Option<Payload>) -> Result<Answer> {
        self.client.send(cx, &self.endpoint, self.name.as_str(), request, payload).await
    }

    /// Sends, reads the answer's document and makes of it what `read` does.
    async fn ask<T>(&self, cx: &Ctx, request: Request<'_>, payload: Option<Payload>, read: impl FnOnce(&[u8]) -> Read<T>) -> Result<T> {
        let answer = self.send(cx, request, payload).await?;
        self.client.document(answer, read).await
    }

    /// Where a copy comes from, as COS names it in a header.
    fn copy_source(&self, source: &ObjectVersion) -> String {
        let bucket = &self.name;
        let path = path_of(&source.key);
        let version = source.version_id.as_ref().map(|VersionId(id)| format!("?versionId={}", utf8_percent_encode(id, sign::ESCAPED)));
        let host = match &self.region {
            Some(region) => format!("{bucket}.cos.{region}.myqcloud.com"),
            // The form COSFS uses; it needs no region.
            None => format!("/{bucket}"),
        };
        format!("{host}/{path}{}", version.unwrap_or_default())
    }

    fn forbid_overwrite(&self, request: &mut Request<'_>, replaces: &Replaces) -> Result<()> {
        if *replaces == Replaces::Absent && self.capabilities.forbid_overwrite {
            request.header("x-cos-forbid-overwrite", "true")?;
        }
        Ok(())
    }

    fn stored(&self, answer: &Answer, key: &Key, etag: ETag, size: u64) -> Stored {
        Stored {
            version: ObjectVersion { key: key.clone(), etag, size, version_id: meta::version_id(answer.headers()) },
            crc64: meta::crc64(answer.headers()),
            last_modified: None,
            sse: meta::sse(answer.headers()),
            date: answer.date().unwrap_or_else(|| self.client.clock.wall()),
        }
    }

    /// Checks the answer to bytes that were sent: an ETag, and their checksum.
    fn received(&self, answer: &Answer, payload: &Payload) -> Result<(ETag, u64)> {
        let watch = answer.watch();
        let corrupt = |what: &str| watch.error(Kind::Corrupt, what);
        let etag = meta::etag(answer.headers()).ok_or_else(|| watch.maybe_done(corrupt("the answer has no ETag")))?;
        let sent = match payload.crc64() {
            Some(crc64) => crc64,
            None if payload.is_empty() => 0,
            None => return Err(watch.maybe_done(corrupt("the answer came before all bytes were sent"))),
        };
        match meta::crc64(answer.headers()) {
            // Not "unknown": the object is there, with wrong bytes, and has to be sent again.
            Some(stored) if stored != sent => Err(corrupt("the store's checksum is not that of the bytes sent")),
            _ => Ok((etag, sent)),
        }
    }
}

#[async_trait]
impl Bucket for CosBucket {
    fn name(&self) -> &BucketName {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn head(&self, cx: &Ctx, key: &Key) -> Result<Head> {
        let answer = self.send(cx, Request::new(Operation::Head, Method::HEAD, Some(key)), None).await?;
        meta::head(key, answer.headers(), self.client.clock.wall())
    }

    async fn get(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body> {
        let operation = Operation::Get;
        if range.start >= range.end || range.end > version.size {
            return Err(Error::new(Kind::Invalid, operation.name(), format!("there is no range {range:?} in it")).on(&version.key));
        }
        let (first, last, size) = (range.start, range.end - 1, version.size);
        let mut request = Request::new(operation, Method::GET, Some(&version.key))
            .with("range", &format!("bytes={first}-{last}"))?
            .with("if-match", &version.etag.quoted())?;
        if let Some(VersionId(id)) = &version.version_id {
            request = request.param("versionId", &**id);
        }
        let answer = self.send(cx, request, None).await?;
        let len = range.end - range.start;
        let bad = if answer.status() != 206 {
            Some(format!("a range was answered with {}", answer.status()))
        } else if answer.header("content-range") != Some(&format!("bytes {first}-{last}/{size}")) {
            Some(format!("the answer has the range {:?}, not {first}-{last} of {size}", answer.header("content-range")))
        } else if answer.header("content-length").is_some_and(|told| told.parse() != Ok(len)) {
            Some(format!("the answer has {:?} bytes, not {len}", answer.header("content-length")))
        } else if meta::etag(answer.headers()).as_ref() != Some(&version.etag) {
            Some(format!("the answer is of the version {:?}, not {:?}", answer.header("etag"), version.etag))
        } else {
            None
        };
        if let Some(bad) = bad {
            return Err(answer.watch().error(Kind::Corrupt, bad));
        }
        // Of a part of the object, the checksum is still that of the whole.
        let crc64 = meta::crc64(answer.headers()).filter(|_| len == size);
        let body = answer.body(len);
        Ok(match crc64 {
            Some(crc64) => body.checked(crc64),
            None => body,
        })
    }

    async fn list(&self, cx: &Ctx, asked: &ListRequest) -> Result<Page> {
        let mut request = Request::new(Operation::List, Method::GET, None).param("prefix", &*asked.prefix).param("encoding-type", "url");
        if asked.delimited {
            request = request.param("delimiter", "/");
        }
        if let Some(after) = &asked.after {
            request = request.param("marker", after.as_str());
        }
        request = request.param("max-keys", asked.limit.unwrap_or(1000).clamp(1, 1000).to_string());
        self.ask(cx, request, None, |document| answers::page(document, asked)).await
    }

    async fn acl(&self, cx: &Ctx, key: &Key) -> Result<Acl> {
        self.ask(cx, Request::new(Operation::Acl, Method::GET, Some(key)).param("acl", ""), None, answers::acl).await
    }

    async fn tags(&self, cx: &Ctx, key: &Key) -> Result<Tags> {
        let request = Request::new(Operation::Tags, Method::GET, Some(key)).param("tagging", "");
        match self.ask(cx, request, None, answers::tags).await {
            Err(error) if error.code() == Some("NoSuchTagSet") => Ok(Tags::default()),
            tags => tags,
        }
    }

    async fn put(&self, cx: &Ctx, key: &Key, meta: &Meta, payload: Payload, replaces: &Replaces) -> Result<Stored> {
        at_most(self.capabilities.largest_put, payload.len(), Operation::Put, key)?;
        let mut request = Request::new(Operation::Put, Method::PUT, Some(key)).with("content-length", &payload.len().to_string())?;
        meta::send(meta, &mut request)?;
        self.forbid_overwrite(&mut request, replaces)?;
        let answer = self.send(cx, request, Some(payload.clone())).await?;
        let (etag, _) = self.received(&answer, &payload)?;
        Ok(self.stored(&answer, key, etag, payload.len()))
    }

    async fn copy(&self, cx: &Ctx, source: &ObjectVersion, to: &Key, meta: &Meta, replaces: &Replaces) -> Result<Stored> {
        at_most(self.capabilities.largest_copy, source.size, Operation::Copy, to)?;
        let mut request = Request::new(Operation::Copy, Method::PUT, Some(to))
            .with("content-length", "0")?
            .with("x-cos-copy-source", &self.copy_source(source))?
            .with("x-cos-copy-source-if-match", &source.etag.quoted())?
            .with("x-cos-metadata-directive", "Replaced")?;
        meta::send(meta, &mut request)?;
        self.forbid_overwrite(&mut request, replaces)?;
        let answer = self.send(cx, request, None).await?;
        let (headers, date) = (answer.headers().clone(), answer.date());
        let copied = self.client.document(answer, |document| answers::made(document, "CopyObjectResult")).await?;
        Ok(Stored {
            version: ObjectVersion {
                key: to.clone(),
                etag: copied.etag.unwrap_or_else(|| source.etag.clone()),
                size: source.size,
                version_id: meta::version_id(&headers),
            },
            crc64: copied.crc64.or_else(|| meta::crc64(&headers)),
            last_modified: copied.last_modified,
            sse: meta::sse(&headers),
            date: date.unwrap_or_else(|| self.client.clock.wall()),
        })
    }

    async fn delete(&self, cx: &Ctx, key: &Key, _expected: Option<&ObjectVersion>) -> Result<()> {
        match self.send(cx, Request::new(Operation::Delete, Method::DELETE, Some(key)), None).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn delete_many(&self, cx: &Ctx, versions: &[ObjectVersion]) -> Result<Vec<(Key, Error)>> {
        let operation = Operation::DeleteMany;
        if versions.is_empty() || versions.len() > self.capabilities.delete_batch {
            let why = format!("{} keys; from 1 to {} can be", versions.len(), self.capabilities.delete_batch);
            return Err(Error::new(Kind::Invalid, operation.name(), why).at(self.name.as_str()));
        }
        let mut refused = Vec::new();
        let mut list = String::from("<Delete><Quiet>true</Quiet>");
        let mut listed = false;
        for ObjectVersion { key, .. } in versions {
            match xml::escape(key.as_str()) {
                // COS leaves such keys in place without a word.
                _ if key.as_str().starts_with('/') => {
                    refused.push((key.clone(), Error::new(Kind::Invalid, operation.name(), "no object can have this key").on(key)));
                }
                Some(text) => {
                    list = list + "<Object><Key>" + &text + "</Key></Object>";
                    listed = true;
                }
                // XML cannot express the key, a path can.
                None => refused.extend(self.delete(cx, key, None).await.err().map(|error| (key.clone(), error))),
            }
        }
        if !listed {
            return Ok(refused);
        }
        list.push_str("</Delete>");
        let request = Request::new(operation, Method::POST, None)
            .param("delete", "")
            .with("content-type", "application/xml")?
            .with("content-length", &list.len().to_string())?
            .with("content-md5", &BASE64.encode(Md5::digest(&list)))?;
        let answered = self.ask(cx, request, Some(Bytes::from(list).into()), answers::refused_deletes).await?;
        for (key, document) in answered {
            let key = Key::new(key);
            let code = document.code.unwrap_or_default();
            let kind = error::kind_of_code(operation, &code);
            if kind == Kind::NotFound {
                continue;
            }
            let message = document.message.unwrap_or_else(|| "refused".to_owned());
            refused.push((key.clone(), Error::new(kind, operation.name(), message).on(&key).answered(200, Some(code), None)));
        }
        Ok(refused)
    }

    async fn create_upload(&self, cx: &Ctx, key: &Key, meta: &Meta) -> Result<Upload> {
        let mut request =
            Request::new(Operation::CreateUpload, Method::POST, Some(key)).param("uploads", "").with("content-length", "0")?;
        meta::send(meta, &mut request)?;
        let id = self.ask(cx, request, None, answers::upload_id).await?;
        Ok(Upload { key: key.clone(), id, token: meta.token.clone() })
    }

    async fn upload_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, payload: Payload) -> Result<Part> {
        at_most(self.capabilities.largest_part, payload.len(), Operation::UploadPart, &upload.key)?;
        let request = part_of(Operation::UploadPart, upload, number).with("content-length", &payload.len().to_string())?;
        let answer = self.send(cx, request, Some(payload.clone())).await?;
        let (etag, crc64) = self.received(&answer, &payload)?;
        Ok(Part { number, etag, size: payload.len(), crc64: Some(crc64) })
    }

    async fn copy_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, source: &ObjectVersion, range: Range<u64>) -> Result<Part> {
        if range.start >= range.end || range.end > source.size {
            return Err(Error::new(Kind::Invalid, Operation::CopyPart.name(), format!("there is no range {range:?} in it")).on(&source.key));
        }
        at_most(self.capabilities.largest_part, range.end - range.start, Operation::CopyPart, &upload.key)?;
        let request = part_of(Operation::CopyPart, upload, number)
            .with("content-length", "0")?
            .with("x-cos-copy-source", &self.copy_source(source))?
            .with("x-cos-copy-source-if-match", &source.etag.quoted())?
            .with("x-cos-copy-source-range", &format!("bytes={}-{}", range.start, range.end - 1))?;
        let answer = self.send(cx, request, None).await?;
        let header = meta::crc64(answer.headers());
        let made = self.client.document(answer, |document| answers::made(document, "CopyPartResult")).await?;
        let etag = made.etag.unwrap_or_else(|| source.etag.clone());
        Ok(Part { number, etag, size: range.end - range.start, crc64: made.crc64.or(header) })
    }

    async fn complete_upload(&self, cx: &Ctx, upload: &Upload, parts: &[Part], replaces: &Replaces) -> Result<Stored> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, part) in (1..).zip(parts) {
            if part.number != PartNumber(number) {
                let why = format!("part {} stands where {number} should", part.number.0);
                return Err(Error::new(Kind::Invalid, Operation::CompleteUpload.name(), why).on(&upload.key));
            }
            let etag = xml::escape(part.etag.as_str()).unwrap_or_default();
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>"));
        }
        list.push_str("</CompleteMultipartUpload>");
        let mut request = Request::new(Operation::CompleteUpload, Method::POST, Some(&upload.key))
            .param("uploadId", &*upload.id.0)
            .with("content-type", "application/xml")?
            .with("content-length", &list.len().to_string())?;
        self.forbid_overwrite(&mut request, replaces)?;
        let answer = self.send(cx, request, Some(Bytes::from(list).into())).await?;
        let (headers, date, watch) = (answer.headers().clone(), answer.date(), answer.watch().clone());
        let made = self.client.document(answer, |document| answers::made(document, "CompleteMultipartUploadResult")).await?;
        let (size, expected) = whole(parts);
        let crc64 = meta::crc64(&headers).or(made.crc64);
        if let (Some(stored), Some(expected)) = (crc64, expected)
            && stored != expected
        {
            return Err(watch.error(Kind::Corrupt, "the store's checksum of the object is not that of its parts").unknown());
        }
        Ok(Stored {
            version: ObjectVersion {
                key: upload.key.clone(),
                etag: made.etag.unwrap_or_else(|| ETag::new("")),
                size,
                version_id: meta::version_id(&headers),
            },
            crc64,
            last_modified: made.last_modified,
            sse: meta::sse(&headers),
            date: date.unwrap_or_else(|| self.client.clock.wall()),
        })
    }

    async fn abort_upload(&self, cx: &Ctx, upload: &Upload) -> Result<()> {
        let request = Request::new(Operation::AbortUpload, Method::DELETE, Some(&upload.key)).param("uploadId", &*upload.id.0);
        match self.send(cx, request, None).await {
            Err(error) if error.kind() == Kind::NoSuchUpload => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn list_uploads(&self, cx: &Ctx, prefix: &str) -> Result<Vec<OpenUpload>> {
        let mut all = Vec::new();
        let mut after = None::<answers::UploadMarker>;
        for _ in 0..UPLOAD_PAGES {
            let mut request = Request::new(Operation::ListUploads, Method::GET, None)
                .param("uploads", "")
                .param("prefix", prefix)
                .param("encoding-type", "url")
                .param("max-uploads", "1000");
            if let Some((key, id)) = &after {
                request = request.param("key-marker", &**key);
                if !id.is_empty() {
                    request = request.param("upload-id-marker", &**id);
                }
            }
            let (page, next) = self.ask(cx, request, None, |document| answers::uploads(document, after.as_ref())).await?;
            all.extend(page);
            if next.is_none() {
                return Ok(all);
            }
            after = next;
        }
        Err(Error::new(Kind::Corrupt, Operation::ListUploads.name(), "the list of uploads does not end").at(self.name.as_str()))
    }

    async fn list_parts(&self, cx: &Ctx, upload: &Upload) -> Result<Vec<Part>> {
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let request = Request::new(Operation::ListParts, Method::GET, Some(&upload.key))
                .param("uploadId", &*upload.id.0)
                .param("max-parts", "1000")
                .param("part-number-marker", after.to_string());
            let (page, next) = self.ask(cx, request, None, |document| answers::parts(document, after)).await?;
            all.extend(page);
            match next {
                Some(next) => after = next,
                None => return Ok(all),
            }
        }
    }
}

/// Refuses what COS would refuse after five gigabytes.
fn at_most(limit: u64, bytes: u64, operation: Operation, key: &Key) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    Err(Error::new(Kind::TooLarge, operation.name(), format!("{bytes} bytes, of which one request takes {limit}")).on(key))
}

fn part_of(operation: Operation, upload: &Upload, number: PartNumber) -> Request<'_> {
    Request::new(operation, Method::PUT, Some(&upload.key)).param("partNumber", number.0.to_string()).param("uploadId", &*upload.id.0)
}

/// The size of the object that `parts` make, and its checksum, if every part's is known.
fn whole(parts: &[Part]) -> (u64, Option<u64>) {
    parts.iter().fold((0, Some(0)), |(size, crc64), part| {
        (size.saturating_add(part.size), crc64.zip(part.crc64).map(|(so_far, next)| combine(so_far, next, part.size)))
    })
}
