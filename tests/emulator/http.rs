//! A few lines of HTTP over a socket: what a test wants to see of a broken answer, no client library shows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer, as much of it as came.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// The answer ended before its length or last chunk, or with a reset.
    pub broken: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first element of that name.
    pub fn element(&self, name: &str) -> Option<String> {
        elements(&self.text(), name).into_iter().next()
    }

    /// Status and COS code.
    pub fn code(&self) -> (u16, String) {
        (self.status, self.element("Code").unwrap_or_default())
    }
}

/// The texts of all elements of that name, entities of quotes undone.
pub fn elements(document: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let parts = document.split(&open).skip(1).filter_map(|rest| rest.split_once(&close));
    parts.map(|(text, _)| text.replace("&quot;", "\"").replace("&amp;", "&")).collect()
}

/// One request on a connection of its own. `body` None sends no Content-Length.
pub fn request(addr: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    exchange(&mut stream, &addr.to_string(), method, target, headers, body)
}

/// One request on a given stream, which is then closed by the server.
pub fn exchange(
    stream: &mut (impl Read + Write),
    host: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    // A server that resets in the middle of a body is what some tests ask for.
    let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.unwrap_or_default()));
    let mut raw = Vec::new();
    let read = stream.read_to_end(&mut raw);
    parse(&raw, method == "HEAD", sent.is_err() || read.is_err())
}

fn parse(raw: &[u8], head_only: bool, failed: bool) -> Answer {
    let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer { broken: true, body: raw.to_vec(), ..Answer::default() };
    };
    let mut lines = raw[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status = String::from_utf8_lossy(lines.next().unwrap()).split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':').unwrap();
        (String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].trim_ascii().to_vec())
    };
    let mut answer = Answer { status, headers: lines.map(header).collect(), body: raw[end + 4..].to_vec(), broken: failed };
    if answer.header("transfer-encoding") == Some("chunked") {
        let (body, whole) = unchunk(&answer.body);
        answer.body = body;
        answer.broken |= !whole;
    } else if let Some(length) = answer.header("content-length").filter(|_| !head_only) {
        answer.broken |= length.parse::<usize>().unwrap() != answer.body.len();
    }
    answer
}

fn unchunk(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = raw.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&raw[..end]), 16).unwrap();
        raw = &raw[end + 2..];
        if size == 0 {
            return (body, true);
        }
        if raw.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&raw[..size]);
        raw = &raw[size + 2..];
    }
    (body, false)
}
