//! The server: accepts connections, and takes each request from its target through faults and signature to its handler and back.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::{Answer, Body, Length};
use super::auth::{self, Rules, Signed};
use super::call::Call;
use super::casing::Cased;
use super::clock::{self, Pacer};
use super::config::{Account, Config};
use super::error::{Failure, Outcome};
use super::fault::{Action, Counted, Faults, Plan};
use super::link::{Control, Link};
use super::log::{Log, LogEntry, Record};
use super::meta::text;
use super::multipart::hex_of;
use super::objects::http_date;
use super::op::Op;
use super::s3;
use super::state::Store;
use super::target::Target;
use super::throttle::Throttle;
use super::xml::Writer;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) faults: Arc<Faults>,
    pub(super) log: Log,
    pub(super) accounts: RwLock<Vec<Account>>,
    pub(super) link: RwLock<LinkSpeed>,
    pub(super) throttle: Throttle,
    serial: AtomicU64,
    /// How many requests are being worked on.
    pub(super) serving: AtomicU64,
    /// Objects being written at this moment, by bucket and key.
    writing: Mutex<HashMap<(String, Vec<u8>), u32>>,
}

/// How fast the simulated link is.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkSpeed {
    pub(super) latency: Duration,
    pub(super) up: Option<Arc<Pacer>>,
    pub(super) down: Option<Arc<Pacer>>,
}

impl LinkSpeed {
    pub(super) fn new(latency: Duration, bandwidth: Option<u64>) -> Self {
        let pacer = || bandwidth.map(|rate| Arc::new(Pacer::new(rate)));
        Self { latency, up: pacer(), down: pacer() }
    }
}

/// What becomes of a request that is not answered.
type Served = Result<Response<Body>, io::Error>;

impl Core {
    pub(super) fn new(config: Config, store: Store, faults: Arc<Faults>) -> Self {
        Self {
            log: Log::new(config.log_entries),
            accounts: RwLock::new(config.accounts.clone()),
            link: RwLock::new(LinkSpeed::new(config.latency, config.bandwidth)),
            throttle: Throttle::new(config.rates.clone()),
            serial: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            writing: Mutex::default(),
            config,
            store,
            faults,
        }
    }

    /// 32 hex digits that were never given before.
    pub(super) fn random_hex(&self) -> String {
        let mut bytes = [0; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // Unique is enough.
            let serial = self.serial.fetch_add(1, Ordering::Relaxed);
            return hex_of(u128::from(clock::unix_now()) << 64 | u128::from(serial));
        }
        hex_of(u128::from_be_bytes(bytes))
    }

    /// Base64 of `<time>_<random>_<serial>_<serial>`, all hexadecimal, as COS's own look.
    fn request_id(&self) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let random = self.random_hex();
        STANDARD_NO_PAD.encode(format!("{:08x}_{}_{:04x}_{:x}", clock::unix_now(), &random[..8], serial & 0xffff, serial >> 16))
    }

    /// Serves one connection to its end.
    pub(super) async fn connection(self: Arc<Self>, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // Small answers must not wait for more.
        drop(stream.set_nodelay(true));
        let control = Arc::new(Control::default());
        let link = Link::new(stream, Arc::clone(&control));
        match tls {
            None => self.http(link, control).await,
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(link).await {
                    self.http(stream, control).await;
                }
            }
        }
    }

    async fn http(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send, control: Arc<Control>) {
        let stream = Cased::new(stream, Arc::clone(&control));
        let service = service_fn(move |request| Arc::clone(&self).serve(request, Arc::clone(&control)));
        let mut http = http1::Builder::new();
        // No timer, so no idle connection is closed: when that happens is for a fault to say.
        http.max_buf_size(1 << 20).half_close(false);
        // An error here is the client's way of leaving, or a fault's.
        drop(http.serve_connection(TokioIo::new(stream), service).await);
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>, control: Arc<Control>) -> Served {
        let _serving = Counted::begin(&self.serving);
        let (mut parts, body) = request.into_parts();
        if self.config.s3 {
            s3::incoming(&mut parts.headers);
        }
        if self.config.admin && parts.uri.path().starts_with("/_emulator/") {
            return self.admin(&parts, body, control).await;
        }
        let target = Target::parse(&parts, &self.config.service_hosts);
        let failed = target.as_ref().err().cloned();
        let target = target.unwrap_or_else(|_| Target::unknown());
        let plan = self.faults.take(target.op, &target.key);
        let record = self.log.begin(self.entry(&parts.method, &parts.headers, &target));
        let link = self.link.read().clone();
        let slow = plan.find(|action| if let Action::SlowRequest { bytes_per_second } = action { Some(*bytes_per_second) } else { None });
        let mut call = Call {
            target,
            headers: parts.headers,
            plan,
            record,
            control,
            pacer: slow.map(|rate| Arc::new(Pacer::new(rate))).or_else(|| link.up.clone()),
            now: clock::unix_now(),
            body: Some(body),
            body_timeout: self.config.limits.body_timeout,
            etags: self.config.etags,
        };
        if !link.latency.is_zero() {
            clock::sleep(link.latency).await;
        }
        if let Some(answered) = self.before(&mut call, link.down.clone()).await {
            return answered;
        }
        let skew = call.plan.find(|action| if let Action::ClockSkew { seconds } = action { Some(*seconds) } else { None });
        let clock = call.now.saturating_add_signed(skew.unwrap_or(0));
        let outcome = match failed {
            Some(failure) => Err(failure),
            None => match self.admit(&call) {
                Err(refused) => Err(refused),
                Ok(()) => self.authorised(&mut call, &parts.method, clock).await,
            },
        };
        let hold = Action::Hold { answer: true };
        if call.plan.has(&hold) {
            self.faults.hold(call.target.op, &call.target.key, &hold).await;
        }
        if call.plan.has(&Action::LoseAnswer) {
            return reset(&call);
        }
        let fatal = outcome.as_ref().is_err_and(|failure| failure.fatal);
        if fatal && call.plan.find(|action| matches!(action, Action::ResetInRequest { .. }).then_some(())).is_some() {
            return reset(&call);
        }
        let expects = call.headers.contains_key("expect");
        if call.body.is_some() && !fatal {
            call.drain().await;
        }
        let mut answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => self.error(&call, &failure, parts.method == Method::HEAD),
        };
        answer = self.common(answer, &call.record, clock);
        if fatal || (expects && call.body.is_some()) {
            answer = answer.header("connection", "close");
        }
        Ok(answer.finish(&call.plan, link.down, Arc::clone(&call.record), Arc::clone(&call.control)))
    }

    fn entry(&self, method: &Method, headers: &HeaderMap, target: &Target) -> LogEntry {
        let authorization =
            text(headers, "authorization").map(str::to_owned).or_else(|| target.query.text("sign").map(|text| text.into_owned()));
        let field = |name: &str| {
            let in_header = authorization.as_deref().and_then(|text| {
                text.split('&').filter_map(|field| field.split_once('=')).find(|(n, _)| *n == name).map(|(_, value)| value.to_owned())
            });
            in_header.or_else(|| target.query.text(name).map(|text| text.into_owned())).unwrap_or_default()
        };
        let shown = target.query.iter().filter(|(name, _)| !name.starts_with("q-") && *name != "sign" && *name != "x-cos-security-token");
        let query: Vec<String> = shown.map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value))).collect();
        LogEntry {
            request_id: self.request_id(),
            method: method.to_string(),
            bucket: target.bucket.clone().unwrap_or_default(),
            key: String::from_utf8_lossy(&target.key).into_owned(),
            query: query.join("&"),
            range: text(headers, "range").or_else(|| text(headers, "x-cos-copy-source-range")).map(str::to_owned),
            signer: field("q-ak"),
            signature: field("q-signature"),
            ..LogEntry::unlogged(target.op)
        }
    }

    /// The faults that strike before an operation; Some if they answer in its place.
    async fn before(&self, call: &mut Call, pacer: Option<Arc<Pacer>>) -> Option<Served> {
        for action in call.plan.0.clone() {
            let failure = match action {
                Action::Delay { delay } => {
                    clock::sleep(delay).await;
                    continue;
                }
                Action::Hold { answer: false } => {
                    self.faults.hold(call.target.op, &call.target.key, &action).await;
                    continue;
                }
                Action::BlackHole => std::future::pending().await,
                Action::ResetBefore => return Some(reset(call)),
                Action::Raw { bytes } => {
                    call.drain().await;
                    call.control.say(Bytes::from(bytes));
                    call.record.answered(0);
                    return Some(Ok(Answer::ok().finish(&Plan::default(), None, Arc::clone(&call.record), Arc::clone(&call.control))));
                }
                Action::Status { status, code, request_id: true, headers } => {
                    with_headers(Failure::new(status, code, "A fault of the emulator."), &headers)
                }
                Action::Status { status, headers, .. } => {
                    call.drain().await;
                    let failure = with_headers(Failure::new(status, "", ""), &headers);
                    let mut answer = Answer::new(failure.status).header(CONTENT_TYPE, "text/html");
                    answer.headers.extend(failure.headers);
                    answer.body.push_back(Bytes::from(format!("<html><h1>{}</h1></html>", failure.status)));
                    return Some(Ok(answer.finish(&call.plan, pacer, Arc::clone(&call.record), Arc::clone(&call.control))));
                }
                Action::PathConflict { concurrent_only } if !concurrent_only || self.is_written(call) => Failure::path_conflict(),
                Action::ErrorIn200 { code } => Failure { status: StatusCode::OK, ..Failure::new(200, code, "A fault of the emulator.") },
                Action::EarlyOk { error: Some(code), .. } => {
                    Failure { status: StatusCode::OK, ..Failure::new(200, code, "A fault of the emulator.") }
                }
                _ => continue,
            };
            call.drain().await;
            let answer = self.error(call, &failure, call.target.op == Op::HeadObject || call.target.op == Op::HeadBucket);
            let answer = self.common(answer, &call.record, call.now);
            return Some(Ok(answer.finish(&call.plan, pacer, Arc::clone(&call.record), Arc::clone(&call.control))));
        }
        None
    }

    /// Counts a request against the rates.
    fn admit(&self, call: &Call) -> Outcome<()> {
        self.throttle.admit(call.target.op, call.target.bucket.as_deref().unwrap_or_default()).inspect_err(|_| call.record.throttled())
    }

    fn is_written(&self, call: &Call) -> bool {
        let Some(bucket) = call.target.bucket.clone() else { return false };
        call.target.op.writes_object() && self.writing.lock().contains_key(&(bucket, call.target.key.clone()))
    }

    /// Checks who asks and does what is asked.
    async fn authorised(&self, call: &mut Call, method: &Method, now: u64) -> Outcome<Answer> {
        let method = method.as_str().to_ascii_lowercase();
        let signed = Signed { method: &method, path: &call.target.path, query: &call.target.query, headers: &call.headers };
        let rules = Rules { now, strict: self.config.strict_signatures, tokens_expired: call.plan.has(&Action::ExpireToken) };
        let accounts = self.accounts.read().clone();
        if auth::verify(&accounts, signed, rules)?.is_none() && !self.config.anonymous && !self.config.s3 {
            self.check_anonymous(call)?;
        }
        let _writing = call.target.op.writes_object().then(|| Writing::begin(self, call));
        self.dispatch(call).await
    }

    /// Without a signature only what an ACL gives to everybody is allowed.
    fn check_anonymous(&self, call: &Call) -> Outcome<()> {
        let denied = || Failure::access_denied("Access Denied.");
        let op = call.target.op;
        let allowed = self.store.bucket(call.bucket().map_err(|_| denied())?, |bucket| {
            let object = bucket.find(call.key(), call.version()).ok();
            let own = object.as_ref().and_then(|object| object.meta.acl.as_ref());
            let reads = own.map_or(bucket.config.acl.public_read(), super::acl::Acl::public_read);
            Ok((op.reads() && reads) || (op.public_write() && bucket.config.acl.public_write()))
        })?;
        if allowed { Ok(()) } else { Err(denied()) }
    }

    async fn dispatch(&self, call: &mut Call) -> Outcome<Answer> {
        let setting = || call.target.query.iter().next().map(|(name, _)| name.to_ascii_lowercase()).unwrap_or_default();
        match call.target.op {
            Op::ListBuckets => self.list_buckets(call),
            Op::HeadBucket => self.head_bucket(call),
            Op::CreateBucket => self.create_bucket(call).await,
            Op::DeleteBucket => self.delete_bucket(call),
            Op::GetBucketConfig => self.get_bucket_config(call, &setting()),
            Op::PutBucketConfig => {
                let name = setting();
                self.put_bucket_config(call, &name).await
            }
            Op::DeleteBucketConfig => self.delete_bucket_config(call, &setting()),
            Op::ListObjects => self.list_objects(call),
            Op::ListVersions => self.list_versions(call),
            Op::ListUploads => self.list_uploads(call),
            Op::DeleteMany => self.delete_many(call).await,
            Op::HeadObject => self.head_object(call),
            Op::GetObject => self.get_object(call),
            Op::PutObject => self.put_object(call).await,
            Op::CopyObject => self.copy_object(call),
            Op::AppendObject => self.append_object(call).await,
            Op::DeleteObject => self.delete_object(call),
            Op::GetObjectAcl => self.get_object_acl(call),
            Op::PutObjectAcl => self.put_object_acl(call).await,
            Op::GetObjectTagging => self.get_object_tags(call),
            Op::PutObjectTagging => self.put_object_tags(call).await,
            Op::DeleteObjectTagging => self.delete_object_tags(call),
            Op::RestoreObject => self.restore_object(call).await,
            Op::InitiateUpload => self.initiate_upload(call),
            Op::UploadPart => self.upload_part(call).await,
            Op::CopyPart => self.copy_part(call),
            Op::CompleteUpload => self.complete_upload(call).await,
            Op::AbortUpload => self.abort_upload(call),
            Op::ListParts => self.list_parts(call),
            Op::Options => Err(Failure::access_denied("No CORS rule is configured.")),
            Op::Other => Err(Failure::not_implemented("this operation")),
        }
    }

    /// The document of a failure; HEAD has none.
    fn error(&self, call: &Call, failure: &Failure, head: bool) -> Answer {
        let trace = STANDARD_NO_PAD.encode(self.random_hex());
        let mut answer = Answer::new(failure.status);
        if head {
            answer.length = Length::None;
        } else {
            let resource = format!("{}{}", call.header("host").unwrap_or_default(), String::from_utf8_lossy(&call.target.path));
            let document = Writer::new("Error")
                .text("Code", &failure.code)
                .text("Message", &failure.message)
                .text("Resource", &resource)
                .text("RequestId", call.record.request_id())
                .text("TraceId", &trace);
            answer.body.push_back(document.finish().into());
            answer = answer.header(CONTENT_TYPE, "application/xml");
        }
        answer.headers.extend(failure.headers.iter().cloned());
        answer.header("x-cos-trace-id", &trace)
    }

    /// What every answer carries.
    fn common(&self, answer: Answer, record: &Record, clock: u64) -> Answer {
        let mut answer =
            answer.header("x-cos-request-id", record.request_id()).header(SERVER, "tencent-cos").header(DATE, &http_date(clock));
        if self.config.s3 {
            s3::outgoing(&mut answer.headers);
        }
        answer
    }
}

fn with_headers(mut failure: Failure, headers: &[(String, String)]) -> Failure {
    let pair = |(name, value): &(String, String)| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?));
    failure.headers.extend(headers.iter().filter_map(pair));
    failure
}

/// Ends the connection with a reset in place of an answer.
fn reset(call: &Call) -> Served {
    call.record.answered(0);
    call.record.ended();
    call.control.abort();
    Err(io::ErrorKind::ConnectionReset.into())
}

impl Target {
    /// Of a request that could not be understood.
    fn unknown() -> Self {
        Self { op: Op::Other, bucket: None, key: Vec::new(), path: Vec::new(), query: super::target::Query::default(), region: None }
    }
}

/// A write in progress, for the fault that wants two at once.
struct Writing<'a> {
    core: &'a Core,
    at: (String, Vec<u8>),
}

impl<'a> Writing<'a> {
    fn begin(core: &'a Core, call: &Call) -> Self {
        let at = (call.target.bucket.clone().unwrap_or_default(), call.target.key.clone());
        *core.writing.lock().entry(at.clone()).or_insert(0) += 1;
        Self { core, at }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut writing = self.core.writing.lock();
        if let Some(count) = writing.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                writing.remove(&self.at);
            }
        }
    }
}

/// Accepts connections for ever.
pub(super) async fn accept(core: Arc<Core>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    // Dropped with this future, which ends all of them.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(Arc::clone(&core).connection(stream, tls.clone()))),
            // Out of descriptors: some connection will end.
            Err(_) => clock::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Accepts connections while the server is to be reachable. When it is not, its connections end and new ones are refused.
pub(super) async fn accept_while(
    mut reachable: watch::Receiver<bool>,
    core: Arc<Core>,
    mut listener: TcpListener,
    tls: Option<TlsAcceptor>,
) {
    loop {
        let Ok(addr) = listener.local_addr() else { return };
        tokio::select! {
            () = accept(Arc::clone(&core), listener, tls.clone()) => {}
            _ = reachable.wait_for(|reachable| !reachable) => {}
        }
        // Bound and not listening: refused, and nobody else takes the port meanwhile.
        let bind = || {
            let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.set_reuseaddr(true)?;
            socket.bind(addr)?;
            io::Result::Ok(socket)
        };
        let mut bound = bind();
        if reachable.wait_for(|reachable| *reachable).await.is_err() {
            return;
        }
        // A connection that is just ending can still have the port.
        let again = loop {
            match bound.and_then(|socket| socket.listen(1024)) {
                Ok(again) => break again,
                Err(_) => {
                    clock::sleep(Duration::from_millis(10)).await;
                    bound = bind();
                }
            }
        };
        listener = again;
    }
}
