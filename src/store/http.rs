//! One HTTP client for every dialect: connections kept, bodies streamed both ways, nothing followed, guessed or unpacked.
//!
//! What goes wrong on the way is told apart here: *not done* if no connection came about, else *may have happened*, if the operation is one
//! where that matters. An attempt on which nothing moves for a bounded time ([`Watch`]) is given up although its caller would wait longer, so
//! that a stalled connection costs seconds and the next attempt takes another one.
//!
//! What the other side sends is bounded before it is believed: the number and size of headers, the length of a document, and how many long
//! documents are gathered at once. What is no HTTP at all is *corrupt*, so that it is asked for again a few times, not until the deadline.
//! Redirects are not followed, so nothing signed for one host is ever sent to another.
//!
//! Copies on the way of a body: none here. Answers are slices of hyper's read buffer, requests slices of the payload.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{Body, Error, Kind, Operation, Payload, Proxies, Result, Segment, checksum::Crc64};
use crate::support::Ctx;

/// Most bytes of a frame of a request body.
const FRAME: usize = 256 << 10;

/// Most headers of an answer: 2 KB of user metadata may be a thousand of them.
const HEADERS: usize = 1200;

/// Most bytes of all headers. (Until they are parsed, hyper's read buffer bounds them: some 400 KiB a connection.)
const HEADER_BYTES: usize = 64 << 10;

/// Most blanks before a document: one a second is a day of patience.
const BLANKS: usize = 64 << 10;

/// Documents that grow past [`LONG`] wait until fewer than [`LONG_AT_ONCE`] do: a hundred connections must not gather eight megabytes each.
const LONG: usize = 512 << 10;
const LONG_AT_ONCE: usize = 2;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an attempt may stand still, if the caller's patience is not shorter.
const SLICE: Duration = Duration::from_secs(10);

/// How long an idle connection is kept. COS closes its end after some 30 s.
const IDLE: Duration = Duration::from_secs(25);

/// The client.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    /// A place for each long document.
    long: Arc<Semaphore>,
}

impl Http {
    /// A client that trusts the system's certificates and those in `ca_file`, and goes through `proxies`. (The client of a metadata service is
    /// given none.)
    pub(super) fn through(ca_file: Option<&Path>, proxies: &Proxies) -> std::result::Result<Self, String> {
        // The first to install one wins; it may be a test's.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .http1_max_headers(HEADERS)
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        if !proxies.is_empty() {
            let proxies = proxies.clone();
            builder = builder.proxy(reqwest::Proxy::custom(move |url| proxies.on_the_way_to(url)));
        }
        if let Some(file) = ca_file {
            let pem = std::fs::read(file).map_err(|error| format!("cannot read the CA file {}: {error}", file.display()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad_ca(file, &error))?;
            if certificates.is_empty() {
                return Err(format!("the CA file {} holds no certificate", file.display()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|error| format!("cannot set up TLS: {}", chain(&error)))?;
        Ok(Self { client, long: Arc::new(Semaphore::new(LONG_AT_ONCE)) })
    }

    /// Sends a request whose body is `payload`, if it has one, and waits for the head of the answer.
    pub(super) async fn send(&self, watch: &Watch, mut request: reqwest::Request, payload: Option<Payload>) -> Result<Answer> {
        let source = Arc::new(OnceLock::new());
        if let Some(payload) = payload {
            *request.body_mut() = Some(reqwest::Body::wrap_stream(frames(payload, watch.clone(), Arc::clone(&source))));
        }
        let answer = watch.wait(self.client.execute(request)).await?;
        if let Some(message) = source.get() {
            return Err(watch.error(Kind::Source, message.clone()));
        }
        let response = answer.map_err(|error| {
            let kind = match () {
                () if error.is_builder() => Kind::Invalid,
                () if is_no_http(&error) => Kind::Corrupt,
                () => Kind::Unavailable,
            };
            let sent = !error.is_builder() && !error.is_connect();
            let failed = watch.error(kind, chain(&error.without_url()));
            if sent { watch.maybe_done(failed) } else { failed }
        })?;
        watch.moved();
        let size: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > HEADER_BYTES {
            return Err(watch.maybe_done(watch.error(Kind::Corrupt, format!("the answer has {size} bytes of headers"))));
        }
        Ok(Answer { response, watch: watch.clone(), long: Arc::clone(&self.long) })
    }
}

/// Sees to it that an attempt does not stand still.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    operation: Operation,
    /// What the request is about, for errors.
    target: Arc<str>,
    /// The caller's context: what moves for the first time moves its deadline.
    cx: Ctx,
    /// The attempt's own, shorter patience.
    attempt: Ctx,
}

impl Watch {
    pub(super) fn new(cx: &Ctx, operation: Operation, target: &str) -> Self {
        let slice = if operation.takes_long() { cx.patience() / 2 } else { (cx.patience() / 3).min(SLICE) };
        let attempt = Ctx::new(Arc::clone(cx.clock()), slice, cx.pid, cx.uid);
        Self { operation, target: target.into(), cx: cx.clone(), attempt }
    }

    /// What is attempted.
    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// An error of this attempt.
    pub(super) fn error(&self, kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, self.operation.name(), message).at(&*self.target)
    }

    /// The same error, named after what this attempt is about.
    pub(super) fn located(&self, error: Error) -> Error {
        error.at(&*self.target)
    }

    /// The same error, which says that the effect may be there, if this is an operation that has one.
    pub(super) fn maybe_done(&self, error: Error) -> Error {
        if self.operation.repeats_freely() { error } else { error.unknown() }
    }

    /// Waits for one step of the attempt.
    pub(super) async fn wait<T>(&self, step: impl Future<Output = T>) -> Result<T> {
        let waited = self.attempt.bounded(step).await;
        waited.map_err(|late| self.maybe_done(self.error(Kind::Unavailable, format!("the connection stalled: {late}"))))
    }

    /// Something moved on the connection.
    pub(super) fn moved(&self) {
        self.attempt.progressed();
    }

    /// Something moved that had not moved before.
    pub(super) fn progressed(&self) {
        self.attempt.progressed();
        self.cx.progressed();
    }
}

/// The head of an answer, with its body to come.
#[derive(Debug)]
pub(super) struct Answer {
    response: reqwest::Response,
    watch: Watch,
    long: Arc<Semaphore>,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn headers(&self) -> &reqwest::header::HeaderMap {
        self.response.headers()
    }

    /// A header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The answer's `Date`, if it is one.
    pub(super) fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.header("date")?).ok()
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// All of the body, at most `limit` bytes. Blanks that only keep the connection alive count as life.
    pub(super) async fn document(mut self, limit: usize) -> Result<Document> {
        let too_long = |watch: &Watch| watch.maybe_done(watch.error(Kind::Corrupt, format!("the answer is longer than {limit} bytes")));
        if self.response.content_length().is_some_and(|told| told > limit as u64) {
            return Err(too_long(&self.watch));
        }
        let mut all = Vec::new();
        let mut place = None;
        let mut blanks = 0;
        while let Some(bytes) = self.chunk(Watch::moved).await? {
            let blank = if all.is_empty() { bytes.iter().take_while(|b| b.is_ascii_whitespace()).count() } else { 0 };
            blanks += blank;
            // A server that thinks for minutes sends a blank now and then. Of a document, only all of it is news: one that is cut behind every
            // head, or goes on for ever, would else be asked for for ever.
            if blank > 0 && self.watch.operation().takes_long() {
                self.watch.progressed();
            }
            let bytes = bytes.slice(blank..);
            if all.len() + bytes.len() > limit || blanks > BLANKS {
                return Err(too_long(&self.watch));
            }
            if place.is_none() && all.len() + bytes.len() > LONG {
                place = self.watch.wait(Arc::clone(&self.long).acquire_owned()).await?.ok();
            }
            if all.capacity() - all.len() < bytes.len() {
                // A quarter more, where a vector would take as much again.
                all.reserve_exact(bytes.len().max(all.len() / 4));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(Document { bytes: all.into(), _place: place })
    }

    /// The body as a stream of exactly `len` bytes.
    pub(super) fn body(self, len: u64) -> Body {
        let chunks = stream::unfold(Some(self), |answer| async {
            let mut answer = answer?;
            match answer.chunk(Watch::progressed).await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(answer))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Body::new(len, chunks)
    }

    async fn chunk(&mut self, note: fn(&Watch)) -> Result<Option<Bytes>> {
        // Time begins when somebody waits: a reader that was busy elsewhere is no stalled connection.
        self.watch.moved();
        let chunk = self.watch.wait(self.response.chunk()).await?;
        // Bytes of a refusal, and the end of a body, bring the caller no nearer: repeats of them must not move the deadline for ever.
        match &chunk {
            Ok(Some(bytes)) if !bytes.is_empty() && self.response.status().is_success() => note(&self.watch),
            _ => self.watch.moved(),
        }
        chunk.map_err(|error| self.watch.maybe_done(self.watch.error(Kind::Unavailable, chain(&error.without_url()))))
    }
}

/// An answer's document, which keeps its place while it is read.
#[derive(Debug, Default)]
pub(super) struct Document {
    bytes: Bytes,
    _place: Option<OwnedSemaphorePermit>,
}

impl std::ops::Deref for Document {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A payload as frames of a body; its checksum is computed as it passes, the first time.
fn frames(payload: Payload, watch: Watch, failed: Arc<OnceLock<String>>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let crc = payload.crc64().is_none().then(Crc64::new);
    let start = Frames { payload, watch, failed, crc: crc.map(Mutex::new), segment: 0, at: 0, sent: 0 };
    stream::unfold(Some(start), |state| async {
        let mut state = state?;
        match state.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
            Ok(None) => None,
            Err(error) => {
                let message = error.to_string();
                state.failed.get_or_init(|| message);
                Some((Err(error), None))
            }
        }
    })
}

/// Where a payload's frames have come to.
struct Frames {
    payload: Payload,
    watch: Watch,
    /// Why the source could not be read.
    failed: Arc<OnceLock<String>>,
    /// In a lock only because reqwest wants a body to be `Sync`.
    crc: Option<Mutex<Crc64>>,
    segment: usize,
    at: u64,
    sent: u64,
}

impl Frames {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let bytes = loop {
            let Some(segment) = self.payload.segments().get(self.segment) else { return Ok(None) };
            let len = (FRAME as u64).min(segment.len() - self.at);
            if len == 0 {
                (self.segment, self.at) = (self.segment + 1, 0);
                continue;
            }
            let slice = |bytes: &Bytes| {
                let at = usize::try_from(self.at).expect("an offset in memory");
                bytes.slice(at..at + usize::try_from(len).expect("at most a frame"))
            };
            let bytes = match segment {
                Segment::Bytes(bytes) => slice(bytes),
                Segment::Zeros(_) => zeros().slice(..usize::try_from(len).expect("at most a frame")),
                Segment::Source(source, range) => {
                    let from = range.start + self.at;
                    let bytes = source.read(from..from + len).await?;
                    if bytes.len() as u64 != len {
                        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the source is shorter than it was"));
                    }
                    bytes
                }
            };
            self.at += len;
            break bytes;
        };
        self.sent += bytes.len() as u64;
        if let Some(crc) = &mut self.crc {
            let crc = crc.get_mut();
            crc.update(&bytes);
            if self.sent == self.payload.len() {
                self.payload.note_crc64(crc.value());
            }
        }
        if self.payload.note_sent(self.sent) {
            self.watch.progressed();
        } else {
            self.watch.moved();
        }
        Ok(Some(bytes))
    }
}

fn zeros() -> Bytes {
    static ZEROS: [u8; FRAME] = [0; FRAME];
    Bytes::from_static(&ZEROS)
}

fn bad_ca(file: &Path, error: &reqwest::Error) -> String {
    format!("the CA file {} is not PEM: {}", file.display(), chain(error))
}

/// Whether the other side answered with something that is no HTTP, or more headers than anybody sends.
fn is_no_http(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_parse();
        }
        cause = error.source();
    }
    false
}

/// An error with all its causes: reqwest's own text names none of them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
