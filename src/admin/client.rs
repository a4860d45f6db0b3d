//! The side that asks: one question, its answers line by line.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{Reply, Request};

/// How long the mount may be silent. It says something every second at least.
const SILENCE: Duration = Duration::from_secs(30);
/// No line of an answer is longer: a path, escaped, and a reason.
const LONGEST_LINE: u64 = 256 << 10;

/// An answer that is being read.
#[derive(Debug)]
pub struct Client {
    answer: BufReader<UnixStream>,
}

impl Client {
    /// Asks the mount whose socket this is.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not ask.
    pub fn ask(socket: &Path, request: &Request) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
        Ok(Self { answer: BufReader::new(stream) })
    }
}

impl Iterator for Client {
    type Item = io::Result<Reply>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.answer.by_ref().take(LONGEST_LINE).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).map_err(io::Error::from)),
            Err(error) => Some(Err(error)),
        }
    }
}
