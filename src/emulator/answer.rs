//! Answers on their way out: what a handler made, bent by the faults that struck the request, as a body hyper can send.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IntoHeaderName};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::time::Sleep;

use super::clock::{self, Pacer};
use super::fault::{Action, Plan};
use super::link::Control;
use super::log::Record;
use super::meta::from_latin1;

/// What a handler answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: VecDeque<Bytes>,
    /// `Content-Length`, where it is not that of the body (HEAD); chunks go without.
    pub(super) length: Length,
    /// Bytes a second that the client asked for.
    pub(super) limit: Option<u64>,
}

/// How the length of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    OfBody,
    Told(u64),
    Chunked,
    /// A status without a body.
    None,
}

/// The CRC header.
pub(super) const CRC: HeaderName = HeaderName::from_static("x-cos-hash-crc64ecma");

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: VecDeque::new(), length: Length::OfBody, limit: None }
    }

    pub(super) fn ok() -> Self {
        Self::new(StatusCode::OK)
    }

    pub(super) fn no_content() -> Self {
        Self { length: Length::None, ..Self::new(StatusCode::NO_CONTENT) }
    }

    /// 200 with a document.
    pub(super) fn xml(document: String) -> Self {
        let mut answer = Self::ok().header(CONTENT_TYPE, "application/xml");
        answer.body.push_back(document.into());
        answer
    }

    /// A header, which must be printable.
    pub(super) fn header(mut self, name: impl IntoHeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The ETag in quotes.
    pub(super) fn etag(self, etag: &str) -> Self {
        self.header(ETAG, &format!("\"{etag}\""))
    }

    /// The CRC, if there is one.
    pub(super) fn crc(self, crc: Option<u64>) -> Self {
        match crc {
            Some(crc) => self.header(CRC, &crc.to_string()),
            None => self,
        }
    }

    /// The version id, where versioning was ever enabled.
    pub(super) fn version(self, id: Option<&str>) -> Self {
        match id {
            Some(id) => self.header("x-cos-version-id", id),
            None => self,
        }
    }

    /// Applies the faults that change an answer and makes it hyper's.
    pub(super) fn finish(mut self, plan: &Plan, pacer: Option<Arc<Pacer>>, record: Arc<Record>, control: Arc<Control>) -> Response<Body> {
        let mut pieces: VecDeque<Piece> = VecDeque::new();
        let mut pacers: Vec<Arc<Pacer>> = pacer.into_iter().collect();
        pacers.extend(self.limit.map(|rate| Arc::new(Pacer::new(rate))));
        let mut cut = None;
        for action in &plan.0 {
            match action {
                Action::WrongCrc => self.change(&CRC, |crc| (crc.parse::<u64>().unwrap_or(0) ^ 1).to_string()),
                Action::NoCrc => {
                    self.headers.remove(CRC);
                }
                Action::WrongETag => self.change(&ETAG, |_| "\"00000000000000000000000000000bad\"".to_owned()),
                Action::WrongRange => self.change(&CONTENT_RANGE, next_range),
                Action::Body { text } => self.body = VecDeque::from([Bytes::from(text.clone())]),
                Action::CorruptBody { at } => corrupt(&mut self.body, *at),
                Action::SlowBody { bytes_per_second } => pacers.push(Arc::new(Pacer::new(*bytes_per_second))),
                Action::EarlyOk { blanks, interval, .. } => {
                    self.length = Length::Chunked;
                    self.headers.remove(CRC);
                    for _ in 0..*blanks {
                        pieces.extend([Piece::Data(Bytes::from_static(b" ")), Piece::Wait(*interval)]);
                    }
                }
                Action::TruncateBody { keep, honest } => {
                    if !honest && self.length == Length::OfBody {
                        self.length = Length::Told(total(&self.body));
                    }
                    keep_first(&mut self.body, *keep);
                    cut = Some(Piece::Wait(FLUSH));
                }
                Action::ResetInResponse { after } => {
                    if self.length == Length::OfBody {
                        self.length = Length::Told(total(&self.body).max(1));
                    }
                    keep_first(&mut self.body, *after);
                    cut = Some(Piece::Reset);
                }
                _ => {}
            }
        }
        match self.length {
            Length::OfBody => {
                self.headers.insert(CONTENT_LENGTH, total(&self.body).into());
            }
            Length::Told(length) => {
                self.headers.insert(CONTENT_LENGTH, length.into());
            }
            Length::Chunked | Length::None => {}
        }
        // Last, so that a length may be a lie.
        for (name, value) in plan.headers() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), from_latin1(value)) {
                self.headers.insert(name, value);
            }
        }
        pieces.extend(self.body.into_iter().map(Piece::Data));
        match cut {
            Some(Piece::Reset) => pieces.extend([Piece::Wait(FLUSH), Piece::Reset]),
            Some(piece) => pieces.push_back(piece),
            None => {}
        }
        record.answered(self.status.as_u16());
        control.answers();
        let body = Body { pieces, pacers, wait: None, ready: None, record, control };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// Changes a header that is there.
    fn change(&mut self, name: &HeaderName, change: impl FnOnce(&str) -> String) {
        let old = self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(value) = old.and_then(|old| HeaderValue::from_str(&change(&old)).ok()) {
            self.headers.insert(name, value);
        }
    }
}

/// What is before a cut must have left the process before the cut: hyper sends when a body lets it wait.
const FLUSH: Duration = Duration::from_millis(20);

fn total(body: &VecDeque<Bytes>) -> u64 {
    body.iter().map(|piece| piece.len() as u64).sum()
}

fn keep_first(body: &mut VecDeque<Bytes>, mut keep: u64) {
    body.retain_mut(|piece| {
        piece.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        keep -= piece.len() as u64;
        !piece.is_empty()
    });
}

fn corrupt(body: &mut VecDeque<Bytes>, at: u64) {
    let mut at = at.min(total(body).saturating_sub(1));
    for piece in body {
        if let Ok(index) = usize::try_from(at)
            && index < piece.len()
        {
            let mut bytes = piece.to_vec();
            bytes[index] ^= 0x01;
            *piece = bytes.into();
            return;
        }
        at -= piece.len() as u64;
    }
}

/// `bytes 0-9/10` becomes `bytes 1-10/10`.
fn next_range(range: &str) -> String {
    let moved = || -> Option<String> {
        let (first, rest) = range.strip_prefix("bytes ")?.split_once('-')?;
        let (last, size) = rest.split_once('/')?;
        Some(format!("bytes {}-{}/{size}", first.parse::<u64>().ok()? + 1, last.parse::<u64>().ok()? + 1))
    };
    moved().unwrap_or_default()
}

/// What a body does next.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Wait(Duration),
    Reset,
}

/// A body: pieces, some of which are waits; counted as they go.
#[derive(Debug)]
pub(super) struct Body {
    pieces: VecDeque<Piece>,
    pacers: Vec<Arc<Pacer>>,
    wait: Option<Pin<Box<Sleep>>>,
    /// What goes out when the wait is over.
    ready: Option<Bytes>,
    record: Arc<Record>,
    control: Arc<Control>,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(cx));
                this.wait = None;
            }
            if let Some(bytes) = this.ready.take() {
                this.record.sent(bytes.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match this.pieces.pop_front() {
                None => return Poll::Ready(None),
                Some(Piece::Data(mut bytes)) => {
                    if let Some(size) = this.pacers.iter().map(|pacer| pacer.piece()).min() {
                        let rest = bytes.split_off(size.min(bytes.len()));
                        if !rest.is_empty() {
                            this.pieces.push_front(Piece::Data(rest));
                        }
                        let until = this.pacers.iter().map(|pacer| pacer.book(bytes.len())).max();
                        this.wait = until.map(|until| Box::pin(clock::sleep_until(until)));
                    }
                    this.ready = Some(bytes);
                }
                Some(Piece::Wait(time)) => this.wait = Some(Box::pin(clock::sleep(time))),
                Some(Piece::Reset) => {
                    this.control.abort();
                    return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::ConnectionReset))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.ready.is_none()
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.record.ended();
    }
}
