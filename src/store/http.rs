//! One HTTP client for every dialect: connections kept, bodies streamed both ways, nothing followed, guessed or unpacked.
//!
//! What goes wrong on the way is told apart here: *not done* if no connection came about, else *may have happened*, if the operation is one
//! where that matters. An attempt on which nothing moves for a bounded time ([`Watch`]) is given up although its caller would wait longer, so
//! that a stalled connection costs seconds and the next attempt takes another one. A body that trickles does not move, either.
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
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::store::{
    Body, Error, Kind, Operation, Payload, Proxies, Result, Segment, Way,
    access::Record,
    attempt::Attempt,
    checksum::Crc64,
    way::{Names, chain},
};
use crate::support::Ctx;

/// Most bytes of a frame of a request body. A frame is what an upload is seen to move by: one every [`SLICE`] is what a slow line must manage.
const FRAME: usize = 64 << 10;

/// Most headers of an answer: 2 KB of user metadata may be a thousand of them.
const HEADERS: usize = 1200;

/// The header that the store puts into every answer.
pub(super) const REQUEST_ID: &str = "x-cos-request-id";

/// Most bytes of all headers. (Until they are parsed, hyper's read buffer bounds them: some 400 KiB a connection.)
const HEADER_BYTES: usize = 64 << 10;

/// Most blanks before a document: one a second is a day of patience.
const BLANKS: usize = 64 << 10;

/// Documents that grow past [`LONG`] wait until fewer than [`LONG_AT_ONCE`] do: a hundred connections must not gather eight megabytes each.
const LONG: usize = 512 << 10;
const LONG_AT_ONCE: usize = 2;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// A system's whole bundle is a quarter of a MiB.
const LONGEST_CA_FILE: u64 = 16 << 20;

/// How long an attempt may stand still at most. (This and those below hold as long as they are no more than a third of the caller's patience.)
const SLICE: Duration = Duration::from_secs(10);
/// How long the first attempt of a call may stand still before its answer.
const FIRST_SLICE: Duration = Duration::from_secs(3);
/// The same where the store may have to look at many keys.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// The same where the store itself works long on it; later attempts may take half of the caller's patience.
const FIRST_LONG: Duration = Duration::from_secs(15);
/// How long the next attempts may take, in halves of the first: one in four long enough for a store that is slow everywhere and would else never be heard,
/// the others short enough for one that is suddenly back.
const HALVES: [u32; 4] = [2, 3, 3, 6];

/// How long the body of an answer may stand still: what it has brought is kept, so another connection costs a round trip.
const BODY_SLICE: Duration = Duration::from_secs(3);

/// For how many times its caller's patience an answer may go on that consists of nothing but blanks.
const BLANK_PATIENCES: u32 = 10;

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
    /// A client that goes to the other side itself, as to a metadata service.
    pub(super) fn direct(ca_file: Option<&Path>) -> std::result::Result<Self, String> {
        Self::through(ca_file, &Proxies::default())
    }

    /// A client that trusts the system's certificates and those in `ca_file`, and goes through `proxies`.
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
            .dns_resolver(Names::resolver())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        if !proxies.is_empty() {
            let proxies = proxies.clone();
            builder = builder.proxy(reqwest::Proxy::custom(move |url| proxies.on_the_way_to(url)));
        }
        if let Some(file) = ca_file {
            let pem = read_authorities(file).map_err(|error| {
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
        let client = builder.build().map_err(|error| format!("cannot set up TLS: {}", chain(&error)))?;
        Ok(Self { client, long: Arc::new(Semaphore::new(LONG_AT_ONCE)) })
    }

    /// Sends a request whose body is `payload`, if it has one, and waits for the head of the answer.
    pub(super) async fn send(&self, watch: &Watch, mut request: reqwest::Request, payload: Option<Payload>) -> Result<Answer> {
        let source = Arc::new(OnceLock::new());
        let watch = &watch.carrying(payload.as_ref().map_or(0, Payload::len));
        if let Some(payload) = payload {
            *request.body_mut() = Some(reqwest::Body::wrap_stream(frames(payload, watch.clone(), Arc::clone(&source))));
        }
        let answer = watch.wait(self.client.execute(request)).await?;
        if let Some(message) = source.get() {
            return Err(watch.error(Kind::Source, message.clone()));
        }
        let response = answer.map_err(|error| {
            let way = Way::of(&error);
            let kind = match () {
                () if error.is_builder() => Kind::Invalid,
                () if is_no_http(&error) => Kind::Corrupt,
                () => Kind::Unavailable,
            };
            let sent = !error.is_builder() && !error.is_connect();
            let failed = watch.error(kind, chain(&error.without_url())).because(way);
            if sent { watch.maybe_done(failed) } else { failed }
        })?;
        watch.moved();
        let size: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > HEADER_BYTES {
            return Err(watch.maybe_done(watch.error(Kind::Corrupt, format!("the answer has {size} bytes of headers"))));
        }
        let given = watch.cx.clock().now();
        let blanks_until = given + watch.cx.patience() * BLANK_PATIENCES;
        let answer = Answer { response, watch: watch.clone(), given, blanks_until, long: Arc::clone(&self.long) };
        watch.record.answered(answer.status(), answer.header(REQUEST_ID));
        Ok(answer)
    }
}

impl Http {
    /// Sends a request to somebody else than a store and returns status and body, at most `longest` bytes. The caller bounds the time.
    pub(super) async fn plain(&self, request: reqwest::Request, longest: usize) -> std::result::Result<(u16, Bytes), String> {
        let told = |error: reqwest::Error| chain(&error.without_url());
        let mut response = self.client.execute(request).await.map_err(told)?;
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
    /// Told of what moves, so that it is not given up for hanging.
    life: Attempt,
    /// What the access log will say of it.
    record: Record,
}

impl Watch {
    pub(super) fn new(cx: &Ctx, operation: Operation, target: &str) -> Self {
        let (first, most) = match operation {
            _ if operation.takes_long() => (FIRST_LONG, cx.patience() / 2),
            Operation::List => (FIRST_LIST, SLICE.min(cx.patience() / 3)),
            _ => (FIRST_SLICE, SLICE.min(cx.patience() / 3)),
        };
        let halves = HALVES[cx.setbacks() as usize % HALVES.len()];
        let slice = (first / 2 * halves).min(most);
        let target: Arc<str> = target.into();
        let life = Attempt::current(cx);
        let record = Record::new(cx, operation, &target, life.number);
        Self { operation, target, cx: cx.clone(), attempt: Self::patience(cx, slice), life, record }
    }

    /// The same for a request with a body of `len` bytes. One that must be sent again from its beginning is not given up so soon.
    fn carrying(&self, len: u64) -> Self {
        let slice = SLICE.min(self.cx.patience() / 3).max(self.attempt.patience());
        if len > FRAME as u64 { Self { attempt: Self::patience(&self.cx, slice), ..self.clone() } } else { self.clone() }
    }

    /// The same for the body of its answer.
    fn receiving(&self) -> Self {
        Self { attempt: Self::patience(&self.cx, BODY_SLICE.min(self.cx.patience() / 3)), ..self.clone() }
    }

    fn patience(cx: &Ctx, slice: Duration) -> Ctx {
        Ctx::new(Arc::clone(cx.clock()), slice, cx.pid, cx.uid)
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
        waited.map_err(|late| {
            self.cx.set_back();
            let stalled = self.error(Kind::Unavailable, format!("the connection stalled: {late}"));
            self.maybe_done(stalled.because(Some(Way::Silent)))
        })
    }

    /// Waits for what a request cannot be made without. Nothing was asked of the store: its health is another matter.
    pub(super) async fn prepare<T>(&self, step: impl Future<Output = T>, lacks: &str) -> Result<T> {
        let waited = self.attempt.bounded(step).await;
        waited.map_err(|late| {
            self.cx.set_back();
            self.error(Kind::Unavailable, format!("{lacks}: {late}"))
        })
    }

    /// Something moved on the connection.
    pub(super) fn moved(&self) {
        self.life.moved();
        self.attempt.progressed();
    }

    /// The store answered.
    pub(super) fn progressed(&self) {
        self.moved();
        self.cx.progressed();
    }

    /// Bytes came that the caller did not have before.
    fn flowed(&self, bytes: u64) {
        self.attempt.moved(bytes);
        self.cx.moved(bytes);
    }
}

/// The head of an answer, with its body to come.
#[derive(Debug)]
pub(super) struct Answer {
    response: reqwest::Response,
    watch: Watch,
    /// When the reader was last given something.
    given: Instant,
    /// Until when blanks count as life.
    blanks_until: Instant,
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

    /// All of the body, at most `limit` bytes. Blanks that keep the connection alive while the store works count as life, but not for ever.
    pub(super) async fn document(mut self, limit: usize) -> Result<Document> {
        let too_long = |watch: &Watch| watch.maybe_done(watch.error(Kind::Corrupt, format!("the answer is longer than {limit} bytes")));
        if self.response.content_length().is_some_and(|told| told > limit as u64) {
            return Err(too_long(&self.watch));
        }
        let mut all = Vec::new();
        let mut place = None;
        let mut blanks = 0;
        while let Some(bytes) = self.chunk(|watch, len| watch.attempt.moved(len)).await? {
            let blank = if all.is_empty() { bytes.iter().take_while(|b| b.is_ascii_whitespace()).count() } else { 0 };
            blanks += blank;
            // A server that thinks for minutes sends a blank now and then. Of a document, only all of it is news: one that is cut behind every
            // head, or goes on for ever, would else be asked for for ever.
            if blank > 0 && self.watch.operation().takes_long() && self.given < self.blanks_until {
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
        let watch = self.watch.receiving();
        let chunks = stream::unfold(Some(Self { watch, ..self }), |answer| async {
            let mut answer = answer?;
            match answer.chunk(Watch::flowed).await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(answer))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Body::new(len, chunks)
    }

    /// The next bytes; `note` is told how many of a success have come.
    async fn chunk(&mut self, note: fn(&Watch, u64)) -> Result<Option<Bytes>> {
        // A reader that was busy elsewhere is no stalled connection.
        let clock = self.watch.cx.clock();
        self.watch.attempt.excuse(clock.now().duration_since(self.given));
        let chunk = self.watch.wait(self.response.chunk()).await?;
        self.given = clock.now();
        let len = chunk.as_ref().ok().and_then(Option::as_ref).map_or(0, |bytes| bytes.len() as u64);
        // Bytes of a refusal, and the end of a body, bring the caller no nearer: repeats of them must not move the deadline for ever.
        if len > 0 && self.response.status().is_success() {
            note(&self.watch, len);
        } else {
            self.watch.attempt.moved(len);
        }
        if let Ok(Some(bytes)) = &chunk {
            self.watch.life.moved();
            self.watch.record.received(bytes.len());
        }
        let cut = |error: reqwest::Error| {
            let way = Way::of(&error).or(Some(Way::Cut));
            self.watch.error(Kind::Unavailable, chain(&error.without_url())).because(way)
        };
        chunk.map_err(|error| self.watch.maybe_done(cut(error)))
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
        self.watch.record.sent(bytes.len());
        if let Some(crc) = &mut self.crc {
            let crc = crc.get_mut();
            crc.update(&bytes);
            if self.sent == self.payload.len() {
                self.payload.note_crc64(crc.value());
            }
        }
        // Of the connection any frame is a sign of life: what is sent again from its beginning is better sent slowly than never.
        self.watch.moved();
        if self.payload.note_sent(self.sent) {
            self.watch.cx.moved(bytes.len() as u64);
        }
        Ok(Some(bytes))
    }
}

fn zeros() -> Bytes {
    static ZEROS: [u8; FRAME] = [0; FRAME];
    Bytes::from_static(&ZEROS)
}

/// All of the file; one that does not end, such as a device, is none.
fn read_authorities(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut pem = Vec::new();
    std::fs::File::open(file)?.take(LONGEST_CA_FILE + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > LONGEST_CA_FILE {
        return Err(std::io::Error::other("it is longer than all authorities together"));
    }
    Ok(pem)
}

fn bad_ca(file: &Path, error: &reqwest::Error) -> String {
    format!("the CA file {} is not PEM: {}: --ca-file must name a file of PEM certificates", file.display(), chain(error))
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
