//! Hands out temporary credentials that the emulator accepts: as a machine's metadata service, as STS, and as text for files.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use cosmount::emulator::{Account, Config, Server, Token};

use crate::common::BUCKET;

/// How many of the last ones COS accepts.
const ACCEPTED: usize = 8;

/// What was handed out.
#[derive(Debug, Clone)]
pub struct Issued {
    pub id: String,
    pub key: String,
    pub token: Option<String>,
    /// Seconds since 1970.
    pub expires: Option<u64>,
    pub at: Instant,
    /// How long it was good for when it was handed out.
    pub life: Duration,
}

/// Issues credentials. Those of the metadata service and of STS live `life` seconds, of which the last began already.
#[derive(Debug)]
pub struct Issuer {
    server: Arc<Server>,
    life: AtomicU64,
    issued: Mutex<Vec<Issued>>,
    down: AtomicBool,
    /// How often somebody was not answered.
    missed: AtomicU64,
    /// What was asked: the first line and the body of each request.
    asked: Mutex<Vec<String>>,
}

impl Issuer {
    /// With an emulator of its own, which accepts nobody else.
    pub fn new(life: u64) -> Arc<Self> {
        let server = Arc::new(Server::start(Config { accounts: Vec::new(), ..Config::with_bucket(BUCKET) }).unwrap());
        let life = AtomicU64::new(life);
        Arc::new(Self {
            server,
            life,
            issued: Mutex::default(),
            down: AtomicBool::new(false),
            missed: AtomicU64::new(0),
            asked: Mutex::default(),
        })
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub fn issued(&self) -> Vec<Issued> {
        self.issued.lock().unwrap().clone()
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// From now on nobody is answered, or everybody again.
    pub fn down(&self, down: bool) {
        self.down.store(down, SeqCst);
    }

    /// How often somebody was not answered.
    pub fn missed(&self) -> u64 {
        self.missed.load(SeqCst)
    }

    /// New temporary credentials.
    pub fn temporary(&self) -> Issued {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let expires = since.as_secs() + self.life.load(SeqCst);
        self.issue(Some(expires), Duration::from_secs(expires) - since)
    }

    /// New credentials without an end or a token.
    pub fn lasting(&self) -> Issued {
        self.issue(None, Duration::MAX)
    }

    fn issue(&self, expires: Option<u64>, life: Duration) -> Issued {
        let mut issued = self.issued.lock().unwrap();
        let number = issued.len();
        let new = Issued {
            id: format!("AKIDnumber{number}OfTheIssuerOfTests"),
            key: format!("keyNumber{number}WhichNobodyMaySee"),
            token: expires.map(|_| format!("tokenNumber{number}WhichNobodyMaySeeEither")),
            expires,
            at: Instant::now(),
            life,
        };
        issued.push(new.clone());
        let accepted = issued.iter().rev().take(ACCEPTED).map(Issued::account).collect();
        self.server.set_accounts(accepted);
        new
    }

    /// Only these are accepted from now on.
    pub fn accept_only(&self, issued: &Issued) {
        self.server.set_accounts(vec![issued.account()]);
    }

    fn answer(&self, request: &str) -> Option<(u16, String)> {
        if self.down.load(SeqCst) {
            self.missed.fetch_add(1, SeqCst);
            return None;
        }
        self.asked.lock().unwrap().push(request.to_owned());
        let first = request.lines().next().unwrap_or_default();
        Some(match first.split(' ').collect::<Vec<_>>()[..] {
            ["GET", "/latest/meta-data/cam/security-credentials/", _] => (200, "reader\n".to_owned()),
            ["GET", "/latest/meta-data/cam/security-credentials/reader", _] => (200, self.temporary().json()),
            ["POST", "/", _] if request.contains("AssumeRoleWithWebIdentity") => {
                if request.contains("a pod's own token") {
                    let Issued { id, key, token, expires, .. } = self.temporary();
                    let (token, expires) = (token.unwrap(), expires.unwrap());
                    (
                        200,
                        format!(
                            r#"{{"Response":{{"Credentials":{{"Token":"{token}","TmpSecretId":"{id}","TmpSecretKey":"{key}"}},"ExpiredTime":{expires},"RequestId":"r"}}}}"#
                        ),
                    )
                } else {
                    let error = r#"{"Response":{"Error":{"Code":"InvalidParameter.WebIdentityTokenError","Message":"no such token"},"RequestId":"r"}}"#;
                    (200, error.to_owned())
                }
            }
            _ => (404, String::new()),
        })
    }
}

impl Issued {
    fn account(&self) -> Account {
        let token = self.token.clone().map(|value| Token { value, expires: self.expires });
        Account { secret_id: self.id.clone(), secret_key: self.key.clone(), token }
    }

    /// As the metadata service spells it.
    pub fn json(&self) -> String {
        let Self { id, key, token, expires, .. } = self;
        let mut text = format!(r#"{{"TmpSecretId":"{id}","TmpSecretKey":"{key}","Code":"Success""#);
        if let (Some(token), Some(expires)) = (token, expires) {
            write!(text, r#","Token":"{token}","ExpiredTime":{expires}"#).unwrap();
        }
        text + "}"
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_secret(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

/// The issuer's service on a port of its own. Ends with this value.
#[derive(Debug)]
pub struct Service {
    addr: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub fn start(issuer: &Arc<Issuer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, ends, issuer) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)), Arc::clone(issuer));
        let until = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if until.load(SeqCst) {
                    break;
                }
                // Who goes away in the middle of a request is no failure of the service.
                stream.and_then(|stream| serve(&issuer, stream)).ok();
            }
        });
        Self { addr, ends, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
        TcpStream::connect(self.addr).ok();
        self.thread.take().unwrap().join().ok();
    }
}

fn serve(issuer: &Issuer, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        (body.len() >= length.unwrap_or(0)).then_some(text)
    };
    let text = loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..count]);
        if let Some(text) = whole(&request) {
            break text;
        }
    };
    let Some((status, body)) = issuer.answer(&text) else { return Ok(()) };
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
