//! A server that answers whatever it is told to, in place of COS: for what the emulator, which is honest at heart, cannot say.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// Path and query, or what a proxy is asked for.
    pub target: String,
    /// All header lines, as they came.
    pub headers: String,
}

impl Asked {
    /// A parameter of the query, percent-encoding and all.
    pub fn param(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether this asks for a page of keys.
    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.param("max-keys").is_some() && !self.target.contains("uploads")
    }
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl Liar {
    /// Starts one that lets `answer` write to the connection; an error closes it.
    pub fn start(answer: impl Fn(&Asked, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (told, over, answer) = (Arc::clone(&seen), Arc::clone(&ended), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (told, answer) = (Arc::clone(&told), Arc::clone(&answer));
                let Ok(stream) = stream else { return };
                thread::spawn(move || serve(stream, &told, &*answer));
            }
        });
        Self { address, seen, ended }
    }

    /// As COS, for a bucket that is there and empty, but for what `lie` answers.
    pub fn cos(lie: impl Fn(&Asked, &mut TcpStream) -> Option<std::io::Result<()>> + Send + Sync + 'static) -> Self {
        Self::start(move |asked, stream| {
            if let Some(told) = lie(asked, stream) {
                return told;
            }
            let bucket_only = asked.target.split('?').next().unwrap_or_default().trim_matches('/').split('/').count() == 1;
            match asked.method.as_str() {
                "HEAD" if bucket_only => stream.write_all(&head("200 OK", "x-cos-bucket-region: ap-guangzhou\r\nContent-Length: 0\r\n")),
                "GET" if asked.target.contains("?versioning") => document(stream, "<VersioningConfiguration/>"),
                "GET" if asked.is_list() => document(stream, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"),
                _ => stream.write_all(&head("404 Not Found", "Content-Length: 0\r\n")),
            }
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// The head of an answer that claims to be from COS.
pub fn head(status: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nServer: tencent-cos\r\nx-cos-request-id: NWxpYXI=\r\n{headers}\r\n").into_bytes()
}

/// A whole document.
pub fn document(stream: &mut TcpStream, body: &str) -> std::io::Result<()> {
    let mut answer = head("200 OK", &format!("Content-Type: application/xml\r\nContent-Length: {}\r\n", body.len()));
    answer.extend_from_slice(body.as_bytes());
    stream.write_all(&answer)
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked, &mut TcpStream) -> std::io::Result<()>) {
    stream.set_nodelay(true).ok();
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok();
    stream.set_write_timeout(Some(Duration::from_secs(30))).ok();
    let Ok(reading) = stream.try_clone() else { return };
    let (mut reading, mut stream) = (BufReader::new(reading), stream);
    loop {
        let mut asked = Asked::default();
        let mut line = String::new();
        if !matches!(reading.read_line(&mut line), Ok(1..)) {
            return;
        }
        let mut words = line.split(' ');
        asked.method = words.next().unwrap_or_default().to_owned();
        asked.target = words.next().unwrap_or_default().to_owned();
        let mut body = 0;
        loop {
            let mut line = String::new();
            if !matches!(reading.read_line(&mut line), Ok(1..)) {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                body = length.trim().parse().unwrap_or(0);
            }
            asked.headers.push_str(&line);
        }
        if std::io::copy(&mut (&mut reading).take(body), &mut std::io::sink()).is_err() {
            return;
        }
        seen.lock().unwrap().push(asked.clone());
        if answer(&asked, &mut stream).is_err() {
            return;
        }
    }
}
