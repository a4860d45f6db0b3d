//! One request in work: what it asks, what strikes it, and its body.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::Incoming;
use md5::{Digest as _, Md5};

use super::clock::{self, Pacer};
use super::config::ETags;
use super::content::{Content, Piece};
use super::error::{Failure, Outcome};
use super::fault::{Action, Plan};
use super::link::Control;
use super::log::Record;
use super::meta::text;
use super::target::Target;
use super::versions::VersionId;

/// A request as handlers see it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) plan: Plan,
    pub(super) record: Arc<Record>,
    pub(super) control: Arc<Control>,
    pub(super) pacer: Option<Arc<Pacer>>,
    /// Seconds since 1970 by the server's true clock.
    pub(super) now: u64,
    /// None once it was read.
    pub(super) body: Option<Incoming>,
    pub(super) body_timeout: std::time::Duration,
    pub(super) etags: ETags,
}

/// A request's body, read and summed.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) content: Content,
    /// What these bytes have for an ETag, unless encryption hides it.
    pub(super) etag: String,
    pub(super) crc: u64,
}

/// Bytes of a body are gathered in blocks of this size.
const BLOCK: usize = 1 << 20;
/// Documents are at most this long: a complete of 10,000 parts is a megabyte.
const MAX_DOCUMENT: u64 = 4 << 20;
/// So much of an unwanted body is read away to keep the connection.
const MAX_DRAIN: u64 = 256 << 20;

impl Call {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.target.key
    }

    pub(super) fn bucket(&self) -> Outcome<&str> {
        self.target.bucket()
    }

    /// The version that is named.
    pub(super) fn version(&self) -> Option<VersionId> {
        self.target.query.text("versionId").and_then(|text| VersionId::parse(&text))
    }

    /// The body's length must be told, in advance or in chunks.
    pub(super) fn require_length(&self) -> Outcome<()> {
        if self.headers.contains_key("content-length") || self.headers.contains_key("transfer-encoding") {
            return Ok(());
        }
        Err(Failure::new(411, "MissingContentLength", "You must provide the Content-Length header."))
    }

    /// Reads the body and checks it against `Content-MD5`.
    pub(super) async fn receive(&mut self, limit: u64) -> Outcome<Received> {
        let declared = self.header("content-length").and_then(|length| length.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit) {
            return Err(Failure::too_large(limit));
        }
        let wanted = self.wanted_md5()?;
        let mut md5 = (wanted.is_some() || self.etags == ETags::Md5).then(Md5::new);
        let mut len = 0_u64;
        let mut blocks: Vec<Piece> = Vec::new();
        let mut block = BytesMut::new();
        while let Some(mut data) = self.next_frame(len).await? {
            len += data.len() as u64;
            if len > limit {
                return Err(Failure::too_large(limit).fatal());
            }
            if let Some(md5) = &mut md5 {
                md5.update(&data);
            }
            while !data.is_empty() {
                if block.capacity() == 0 {
                    let left = declared.map_or(BLOCK as u64, |all| all.saturating_sub(len) + data.len() as u64);
                    block.reserve(usize::try_from(left).unwrap_or(BLOCK).clamp(1, BLOCK));
                }
                let taken = data.split_to(data.len().min(block.capacity() - block.len()));
                block.extend_from_slice(&taken);
                if block.len() == block.capacity() {
                    // A gigabyte of zeros is kept once.
                    if let Some(last) = blocks.last().filter(|last| last.bytes() == &*block).cloned() {
                        blocks.push(last);
                        block.clear();
                    } else {
                        blocks.push(Piece::summed(std::mem::take(&mut block).freeze()));
                    }
                }
            }
        }
        blocks.push(Piece::summed(block.freeze()));
        let md5: Option<[u8; 16]> = md5.map(|md5| md5.finalize().into());
        if wanted.is_some() && wanted != md5 {
            return Err(Failure::new(400, "BadDigest", "The Content-MD5 you specified did not match what we received."));
        }
        let content = Content::new(blocks);
        let crc = content.crc();
        Ok(Received { content, etag: self.etags.of(md5.as_ref(), crc), crc })
    }

    /// Reads a document.
    pub(super) async fn document(&mut self) -> Outcome<Bytes> {
        Ok(self.receive(MAX_DOCUMENT).await?.content.to_bytes())
    }

    /// Reads a document that must come with its MD5.
    pub(super) async fn guarded_document(&mut self) -> Outcome<Bytes> {
        if !self.headers.contains_key("content-md5") {
            return Err(Failure::new(400, "InvalidRequest", "Missing required header for this request: Content-MD5"));
        }
        self.document().await
    }

    fn wanted_md5(&self) -> Outcome<Option<[u8; 16]>> {
        let Some(value) = self.headers.get("content-md5") else { return Ok(None) };
        let digest = BASE64.decode(value.as_bytes()).ok().and_then(|digest| digest.try_into().ok());
        digest.map(Some).ok_or_else(|| Failure::new(400, "InvalidDigest", "The Content-MD5 you specified was invalid."))
    }

    /// Reads what nobody wants of the body, so that the client sees the answer and keeps the connection. One that waits for `100 Continue`
    /// has not sent it.
    pub(super) async fn drain(&mut self) {
        if self.headers.contains_key("expect") {
            return;
        }
        let mut read = 0;
        while read < MAX_DRAIN
            && let Ok(Some(data)) = self.next_frame(read).await
        {
            read += data.len() as u64;
        }
    }

    async fn next_frame(&mut self, read: u64) -> Outcome<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        let reset = self.plan.find(|action| if let Action::ResetInRequest { after } = action { Some(*after) } else { None });
        if reset.is_some_and(|after| read >= after) {
            self.control.abort();
            return Err(Failure::new(400, "IncompleteBody", "reset by a fault").fatal());
        }
        loop {
            let frame = match tokio::time::timeout(self.body_timeout, body.frame()).await {
                Err(_) => return Err(Failure::new(400, "RequestTimeout", "Your connection was not used for too long.").fatal()),
                Ok(None) => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    return Err(Failure::new(400, "IncompleteBody", format!("The body ended early: {error}")).fatal());
                }
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if let Some(pacer) = &self.pacer {
                clock::sleep_until(pacer.book(data.len())).await;
            }
            self.record.received(data.len() as u64);
            return Ok(Some(data));
        }
    }
}
