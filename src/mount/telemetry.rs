//! Where log lines go: the terminal, a file, or the system's log.

use std::{
    fs::OpenOptions,
    io,
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::PathBuf,
    sync::Mutex,
};

use anyhow::Context;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    fmt::{self, MakeWriter},
};

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error, with the time of day.
    Terminal,
    /// The end of this file, made 0600 if it is not there.
    File(PathBuf),
    /// `/dev/log`, where there is one.
    Syslog,
}

/// Starts logging, once per process. Below `level`, libraries are heard from `warn` on.
///
/// # Errors
/// The file cannot be opened.
pub fn start(to: &LogTo, level: Level) -> anyhow::Result<()> {
    let level = level.as_str().to_ascii_lowercase();
    // rustls and hyper log through `tracing`, too, where their features say so; their debug lines would hold headers.
    let filter = EnvFilter::try_new(format!("warn,cosmount={level}")).context("the log level")?;
    let lines = fmt::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    let started = match to {
        LogTo::Terminal => lines.with_writer(|| Plain(io::stderr())).try_init(),
        LogTo::File(path) => {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            let file = file.with_context(|| format!("cannot open the log file {}", path.display()))?;
            lines.with_writer(Mutex::new(Plain(file))).try_init()
        }
        LogTo::Syslog => lines.without_time().with_level(false).with_writer(Syslog::connect()).try_init(),
    };
    // A second start in one process (a demo inside a test) keeps the first.
    started.ok();
    Ok(())
}

/// Lines as they are, but for control characters: a key or a server's answer must neither forge a line nor speak to a terminal.
struct Plain<W>(W);

impl<W: io::Write> io::Write for Plain<W> {
    /// The subscriber writes each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut plain = plain(line);
        plain.push(b'\n');
        self.0.write_all(&plain)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One line without its end, control characters escaped.
fn plain(line: &[u8]) -> Vec<u8> {
    let line = String::from_utf8_lossy(line.trim_ascii_end());
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain.into_bytes()
}

/// The system's log, RFC 3164 over `/dev/log`. Lines are lost while nobody listens there: a mount must not wait for a log.
#[derive(Debug)]
struct Syslog {
    socket: Option<UnixDatagram>,
    pid: u32,
}

/// One line on its way.
struct Line<'a> {
    log: &'a Syslog,
    priority: u8,
}

/// The facility `daemon`.
const FACILITY: u8 = 3 << 3;

impl Syslog {
    fn connect() -> Self {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect("/dev/log")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self { socket: socket.ok(), pid: std::process::id() }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { log: self, priority: FACILITY | 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        let severity = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Line { log: self, priority: FACILITY | severity }
    }
}

impl io::Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(socket) = &self.log.socket {
            let mut message = format!("<{}>cosmount[{}]: ", self.priority, self.log.pid).into_bytes();
            message.extend_from_slice(&plain(line));
            socket.send(&message).ok();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_line_is_one_datagram_with_its_priority() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let log = Syslog { socket: Some(ours), pid: 7 };
        Line { log: &log, priority: FACILITY | 4 }.write_all(b"no such bucket\n").unwrap();
        let mut bytes = [0; 100];
        let length = theirs.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"<28>cosmount[7]: no such bucket");
    }

    #[test]
    fn a_key_forges_no_line_and_no_escape_sequence() {
        let mut file = Vec::new();
        Plain(&mut file).write_all("key=a\nERROR all is lost \u{1b}[2J\u{9b}\u{fc}\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(file).unwrap(), "key=a\\nERROR all is lost \\u{1b}[2J\\u{9b}\u{fc}\n");
    }

    #[test]
    fn nobody_listening_is_no_error() {
        let log = Syslog { socket: None, pid: 7 };
        assert_eq!(log.make_writer().write(b"x").unwrap(), 1);
    }
}
