//! The yardstick of `scripts/bench write`: a multipart upload with nothing around it, parts over as many connections as asked for.
//!
//! `bare-client ADDR:PORT BUCKET KEY FILE CONNECTIONS PART-BYTES` sends FILE unsigned and prints how long it took. Each connection has a thread
//! and a buffer of 1 MiB: what is read is written, nothing is summed, nothing is tried again. `scripts/bench` checks in every run that this is not a
//! slow client, against `curl -T` and the Python SDK.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures true time and says so")]

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [host, bucket, key, file, connections, part_size] = words.as_slice() else {
        return Err(Error::other("usage: bare-client ADDR:PORT BUCKET KEY FILE CONNECTIONS PART-BYTES"));
    };
    let number = |text: &String| text.parse::<u64>().map_err(Error::other);
    let (connections, part_size) = (number(connections)?.max(1), number(part_size)?.max(1));
    let file = File::open(file)?;
    let size = file.metadata()?.len();
    let target = format!("/{bucket}/{key}");
    let begun = Instant::now();
    let mut first = Connection::open(host)?;
    let (_, answer) = first.exchange("POST", &format!("{target}?uploads"), 0, |_| Ok(()))?;
    let id = between(&answer, "<UploadId>", "</UploadId>").ok_or_else(|| Error::other("no upload id"))?;
    let parts = size.div_ceil(part_size);
    let (next, etags) = (AtomicU64::new(0), Mutex::new(vec![String::new(); usize::try_from(parts).map_err(Error::other)?]));
    let work = || -> Result<()> {
        let mut connection = Connection::open(host)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= parts {
                return Ok(());
            }
            let (start, end) = (index * part_size, size.min((index + 1) * part_size));
            let part = format!("{target}?partNumber={}&uploadId={id}", index + 1);
            let (etag, _) = connection.exchange("PUT", &part, end - start, |stream| send(&file, stream, start, end, &mut buffer))?;
            if let (Ok(mut etags), Ok(index)) = (etags.lock(), usize::try_from(index)) {
                etags[index] = etag;
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections.min(parts)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(Error::other("a thread panicked"))))
    })?;
    let etags = etags.into_inner().map_err(|_| Error::other("a thread panicked"))?;
    let list: String =
        etags.iter().zip(1..).map(|(etag, number)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")).collect();
    let document = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let length = document.len() as u64;
    first.exchange("POST", &format!("{target}?uploadId={id}"), length, |stream| stream.write_all(document.as_bytes()))?;
    println!("took {:.6}", begun.elapsed().as_secs_f64());
    Ok(())
}

fn send(file: &File, stream: &mut TcpStream, mut at: u64, end: u64, buffer: &mut [u8]) -> Result<()> {
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read_at(&mut buffer[..wanted], at)?;
        if got == 0 {
            return Err(Error::other("the file became shorter"));
        }
        stream.write_all(&buffer[..got])?;
        at += got as u64;
    }
    Ok(())
}

/// A connection that is kept.
struct Connection {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { answers: BufReader::new(stream.try_clone()?), stream, host: host.to_owned() })
    }

    /// One request; the ETag and the body of its answer.
    fn exchange(
        &mut self,
        method: &str,
        target: &str,
        length: u64,
        body: impl FnOnce(&mut TcpStream) -> Result<()>,
    ) -> Result<(String, String)> {
        write!(self.stream, "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", self.host)?;
        body(&mut self.stream)?;
        let status = self.line()?;
        let (mut etag, mut length, mut chunked) = (String::new(), 0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "etag" => value.trim().clone_into(&mut etag),
                "content-length" => length = value.trim().parse().map_err(Error::other)?,
                "transfer-encoding" => chunked = true,
                _ => {}
            }
        }
        let mut answer = Vec::new();
        while chunked {
            length = usize::from_str_radix(&self.line()?, 16).map_err(Error::other)?;
            self.read(length, &mut answer)?;
            self.line()?;
            chunked = length > 0;
            length = 0;
        }
        self.read(length, &mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if status.contains(" 200 ") { Ok((etag, answer)) } else { Err(Error::other(format!("{method} {target}: {status}: {answer}"))) }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self, length: usize, into: &mut Vec<u8>) -> Result<()> {
        let start = into.len();
        into.resize(start + length, 0);
        self.answers.read_exact(&mut into[start..])
    }
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(found, _)| found)
}
