//! One HTTP client for every dialect: connections kept, bodies streamed both ways, nothing followed, guessed or unpacked.
//!
//! What goes wrong on the way is told apart here: *not done* if no connection came about, else *may have happened*, if the operation is one
//! where that matters. An attempt on which nothing moves for a bounded time ([`Watch`]) is given up although its caller would wait longer, so
//! that a stalled connection costs seconds and the next attempt takes another one.
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

use crate::store::{
    Body, Error, Kind, Operation, Payload, Result, Segment, Way,
    access::Record,
    checksum::Crc64,
    way::{Names, chain},
};
use crate::support::Ctx;

/// Most bytes of a frame of a request body.
const FRAME: usize = 256 << 10;

/// Most headers of an answer: 2 KB of user metadata may be a thousand of them. (Their size is bounded by hyper's read buffer, some 400 KiB.)
const HEADERS: usize = 1200;

/// The header that the store puts into every answer.
pub(super) const REQUEST_ID: &str = "x-cos-request-id";

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an attempt may stand still, if the caller's patience is not shorter.
const SLICE: Duration = Duration::from_secs(10);

/// How long an idle connection is kept. COS closes its end after some 30 s.
const IDLE: Duration = Duration::from_secs(25);

/// The client.
#[derive(Debug, Clone)]
pub(super) struct Http(reqwest::Client);

impl Http {
    /// A client that trusts the system's certificates and those in `ca_file`.
    pub(super) fn new(ca_file: Option<&Path>) -> std::result::Result<Self, String> {
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
            .dns_resolver(Names::resolver())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        if let Some(file) = ca_file {
            let pem = std::fs::read(file).map_err(|error| {
                format!(
                    "cannot read the CA file {}: {error}: --ca-file must name a file of PEM certificates that this user may read",
                    file.display()
                )
            })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| bad_ca(file, &error))?;
            if certificates.is_empty() {
                return Err(format!("the CA file {} holds no certificate: --ca-file must name a file of PEM certificates", file.display()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map(Self).map_err(|error| format!("cannot set up TLS: {}", chain(&error)))
    }

    /// Sends a request whose body is `payload`, if it has one, and waits for the head of the answer.
    pub(super) async fn send(&self, watch: &Watch, mut request: reqwest::Request, payload: Option<Payload>) -> Result<Answer> {
        let source = Arc::new(OnceLock::new());
        if let Some(payload) = payload {
            *request.body_mut() = Some(reqwest::Body::wrap_stream(frames(payload, watch.clone(), Arc::clone(&source))));
        }
        let answer = watch.wait(self.0.execute(request)).await?;
        if let Some(message) = source.get() {
            return Err(watch.error(Kind::Source, message.clone()));
        }
        let response = answer.map_err(|error| {
            let way = Way::of(&error);
            let kind = if error.is_builder() { Kind::Invalid } else { Kind::Unavailable };
            let sent = !error.is_builder() && !error.is_connect();
            let failed = watch.error(kind, chain(&error.without_url())).because(way);
            if sent { watch.maybe_done(failed) } else { failed }
        })?;
        watch.moved();
        let answer = Answer { response, watch: watch.clone() };
        watch.record.answered(answer.status(), answer.header(REQUEST_ID));
        Ok(answer)
    }
}

impl Http {
    /// Sends a request to somebody else than a store and returns status and body, at most `longest` bytes. The caller bounds the time.
    pub(super) async fn plain(&self, request: reqwest::Request, longest: usize) -> std::result::Result<(u16, Bytes), String> {
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut response = self.0.execute(request).await.map_err(told)?;
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(told)? {
            if body.len() + bytes.len() > longest {
                return Err(format!("the answer is longer than {longest} bytes"));
            }
            body.extend_from_slice(&bytes);
        }
        Ok((response.status().as_u16(), body.into()))
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
    /// What the access log will say of it.
    record: Record,
}

impl Watch {
    pub(super) fn new(cx: &Ctx, operation: Operation, target: &str) -> Self {
        let slice = if operation.takes_long() { cx.patience() / 2 } else { (cx.patience() / 3).min(SLICE) };
        let attempt = Ctx::new(Arc::clone(cx.clock()), slice, cx.pid, cx.uid);
        let target: Arc<str> = target.into();
        let record = Record::new(cx, operation, &target);
        Self { operation, target, cx: cx.clone(), attempt, record }
    }

    /// What is attempted.
    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// An error of this attempt.
    pub(super) fn error(&self, kind: Kind, message: impl Into<String>) -> Error {
        let message = message.into();
        self.record.failed(&message);
        Error::new(kind, self.operation.name(), message).at(&*self.target)
    }

    /// For the access log.
    pub(super) fn record(&self) -> &Record {
        &self.record
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
        let stalled = |late| self.error(Kind::Unavailable, format!("the connection stalled: {late}")).because(Some(Way::Silent));
        waited.map_err(|late| self.maybe_done(stalled(late)))
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
    pub(super) async fn document(mut self, limit: usize) -> Result<Bytes> {
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            // A server that thinks for minutes sends a blank now and then.
            let bytes = if all.is_empty() { bytes.slice(bytes.iter().take_while(|b| b.is_ascii_whitespace()).count()..) } else { bytes };
            if all.len() + bytes.len() > limit {
                let error = self.watch.error(Kind::Corrupt, format!("the answer is longer than {limit} bytes"));
                return Err(self.watch.maybe_done(error));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.into())
    }

    /// The body as a stream of exactly `len` bytes.
    pub(super) fn body(self, len: u64) -> Body {
        let chunks = stream::unfold(Some(self), |answer| async {
            let mut answer = answer?;
            match answer.chunk().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(answer))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Body::new(len, chunks)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        // Time begins when somebody waits: a reader that was busy elsewhere is no stalled connection.
        self.watch.moved();
        let chunk = self.watch.wait(self.response.chunk()).await?;
        // Bytes of a refusal, and the end of a body, bring the caller no nearer: repeats of them must not move the deadline for ever.
        match &chunk {
            Ok(Some(bytes)) if !bytes.is_empty() && self.response.status().is_success() => self.watch.progressed(),
            _ => self.watch.moved(),
        }
        if let Ok(Some(bytes)) = &chunk {
            self.watch.record.received(bytes.len());
        }
        let cut = |error: reqwest::Error| {
            let way = Way::of(&error).or(Some(Way::Cut));
            self.watch.error(Kind::Unavailable, chain(&error.without_url())).because(way)
        };
        chunk.map_err(|error| self.watch.maybe_done(cut(error)))
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
        self.watch.record.sent(bytes.len());
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
    format!("the CA file {} is not PEM: {}: --ca-file must name a file of PEM certificates", file.display(), chain(error))
}
