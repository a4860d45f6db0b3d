//! Where log lines go and what they look like: the terminal, a file, or the system's log; text or JSON; and the access log beside them.
//!
//! 1. *One line each.* Whatever is logged, keys and answers of a server included, control characters are escaped last of all (`plain`), so that nothing
//!    forges a line or speaks to a terminal.
//! 2. *Live.* [`Logging`] reopens files on SIGHUP, for logrotate, and changes the level on SIGUSR2: `debug`, `trace`, `info` and again.
//! 3. *A log is never waited for.* Lines are lost while the system's log does not take them, and a file that cannot be opened anew is kept.
//!
//! The access log gets the events of [`ACCESS`] and nothing else, and the log all the others.

use std::{
    fmt::{self as std_fmt, Write as _},
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::Targets,
    fmt::{
        self, FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::store::ACCESS;

/// What is logged, where and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Where lines go.
    pub to: LogTo,
    /// What they look like.
    pub format: LogFormat,
    /// From which level on.
    pub level: Level,
    /// A file for one line per request to COS.
    pub access: Option<PathBuf>,
}

impl Log {
    /// Text on the terminal.
    pub fn terminal(level: Level) -> Self {
        Self { to: LogTo::Terminal, format: LogFormat::Text, level, access: None }
    }
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error, with the time of day.
    Terminal,
    /// The end of this file, made 0600 if it is not there.
    File(PathBuf),
    /// The journal, or else `/dev/log`, where there is one.
    System,
}

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of this process, to be changed while it runs.
#[derive(Debug, Clone, Default)]
pub struct Logging {
    files: Vec<Arc<LogFile>>,
    level: Option<Arc<LiveLevel>>,
    to_terminal: bool,
}

#[derive(Debug)]
struct LiveLevel {
    filter: reload::Handle<EnvFilter, Registry>,
    now: Mutex<Level>,
}

/// Starts logging, once per process. Below `level`, libraries are heard from `warn` on.
///
/// # Errors
/// A file cannot be opened.
pub fn start(log: &Log) -> anyhow::Result<Logging> {
    let mut files = Vec::new();
    let mut file = |path: &Path, what| -> anyhow::Result<Arc<LogFile>> {
        let file = Arc::new(LogFile::open(path).with_context(|| {
            format!("cannot open the {what} {}: name a file that this user may write to, in a directory that is there", path.display())
        })?);
        files.push(Arc::clone(&file));
        Ok(file)
    };
    let drain = match &log.to {
        LogTo::Terminal => Drain::Terminal,
        LogTo::File(path) => Drain::File(file(path, "log file")?),
        LogTo::System => Drain::System(Arc::new(SystemLog::connect())),
    };
    let access = log.access.as_deref().map(|path| file(path, "access log")).transpose()?;
    let (filter, handle) = reload::Layer::new(filter(log.level)?);
    let mut layers = vec![layer(drain, log.format).with_filter(filter).boxed()];
    if let Some(file) = access {
        layers.push(layer(Drain::File(file), log.format).with_filter(Targets::new().with_target(ACCESS, Level::INFO)).boxed());
    }
    // A second start in one process (a demo inside a test) keeps the first.
    if tracing_subscriber::registry().with(layers).try_init().is_err() {
        return Ok(Logging::default());
    }
    let level = LiveLevel { filter: handle, now: Mutex::new(log.level) };
    Ok(Logging { files, level: Some(Arc::new(level)), to_terminal: log.to == LogTo::Terminal })
}

fn filter(level: Level) -> anyhow::Result<EnvFilter> {
    let level = level.as_str().to_ascii_lowercase();
    // rustls and hyper log through `tracing`, too, where their features say so; their debug lines would hold headers.
    EnvFilter::try_new(format!("warn,{ACCESS}=off,cosmount={level}")).context("the log level")
}

/// The lines as they go into `drain`.
fn layer<S>(drain: Drain, format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let named = matches!(drain, Drain::System(_));
    let lines = fmt::layer().with_target(false).with_ansi(false).with_writer(Out { drain, format });
    match format {
        LogFormat::Json => lines.event_format(Json).boxed(),
        // The system's log has time and level itself.
        LogFormat::Text if named => lines.without_time().with_level(false).boxed(),
        LogFormat::Text => lines.boxed(),
    }
}

impl Logging {
    /// Whether SIGHUP is for this process's terminal, and not for its log.
    pub fn is_terminal(&self) -> bool {
        self.to_terminal
    }

    /// Obeys SIGHUP and SIGUSR2 from now on, as long as the runtime lives.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub fn obey(&self, runtime: &Handle) -> io::Result<()> {
        let _context = runtime.enter();
        let mut louder = signal(SignalKind::user_defined2())?;
        let mut reopen = signal(SignalKind::hangup())?;
        let logging = self.clone();
        runtime.spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = louder.recv() => logging.next_level(),
                    Some(()) = reopen.recv() => logging.reopen(),
                    else => return,
                }
            }
        });
        Ok(())
    }

    /// Opens the files anew, by their names.
    fn reopen(&self) {
        for file in &self.files {
            match file.reopen() {
                Ok(()) => tracing::info!(path = %file.path.display(), "the log begins here, after SIGHUP"),
                Err(error) => {
                    tracing::warn!(path = %file.path.display(), %error, "the log file cannot be opened anew; the old one is kept")
                }
            }
        }
    }

    /// `info`, `debug`, `trace` and again.
    fn next_level(&self) {
        let Some(live) = &self.level else { return };
        let mut now = live.now.lock();
        let next = match *now {
            Level::DEBUG => Level::TRACE,
            Level::INFO => Level::DEBUG,
            _ => Level::INFO,
        };
        let changed = filter(next).and_then(|filter| live.filter.reload(filter).map_err(anyhow::Error::new));
        match changed {
            Ok(()) => *now = next,
            Err(error) => tracing::warn!("the log level cannot be changed: {error:#}"),
        }
        drop(now);
        tracing::warn!(level = %next, "the log level has changed, after SIGUSR2");
    }
}

/// A file at whose end lines are put.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Mutex::new(Self::append_to(path)?) })
    }

    fn append_to(path: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    fn reopen(&self) -> io::Result<()> {
        let file = Self::append_to(&self.path)?;
        *self.file.lock() = file;
        Ok(())
    }
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Drain {
    Terminal,
    File(Arc<LogFile>),
    System(Arc<SystemLog>),
}

/// A drain, and how characters are escaped on the way into it.
#[derive(Debug, Clone)]
struct Out {
    drain: Drain,
    format: LogFormat,
}

/// One line on its way.
struct Line<'a> {
    out: &'a Out,
    severity: u8,
}

impl<'a> MakeWriter<'a> for Out {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { out: self, severity: 6 }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        let severity = match *meta.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Line { out: self, severity }
    }
}

impl io::Write for Line<'_> {
    /// The subscriber writes each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut plain = plain(line, self.out.format);
        if let Drain::System(log) = &self.out.drain {
            log.send(self.severity, &plain);
            return Ok(line.len());
        }
        plain.push(b'\n');
        match &self.out.drain {
            Drain::Terminal => io::stderr().write_all(&plain)?,
            Drain::File(file) => file.file.lock().write_all(&plain)?,
            Drain::System(_) => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One line without its end; what controls a terminal or turns text around is escaped, in the way of the format.
fn plain(line: &[u8], format: LogFormat) -> Vec<u8> {
    let line = String::from_utf8_lossy(line.trim_ascii_end());
    let mut plain = String::with_capacity(line.len());
    for c in line.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match format {
            _ if !c.is_control() && !turns => plain.push(c),
            LogFormat::Text => plain.extend(c.escape_default()),
            // Inside a JSON string, where all of these are; none is beyond 16 bits.
            LogFormat::Json => drop(write!(plain, "\\u{:04x}", u32::from(c))),
        }
    }
    plain.into_bytes()
}

/// One JSON object a line: `time`, `level`, `message` and the event's fields.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> std_fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields(serde_json::Map::new());
        event.record(&mut fields);
        fields.0.insert("time".to_owned(), time.into());
        fields.0.insert("level".to_owned(), event.metadata().level().as_str().to_ascii_lowercase().into());
        writeln!(writer, "{}", serde_json::Value::Object(fields.0))
    }
}

/// The fields of an event as JSON values.
struct Fields(serde_json::Map<String, serde_json::Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<serde_json::Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std_fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

/// The system's log: systemd's journal in its own protocol, else RFC 3164 over `/dev/log`.
#[derive(Debug)]
struct SystemLog {
    socket: Option<UnixDatagram>,
    /// Where it listens.
    at: PathBuf,
    journal: bool,
    pid: u32,
}

/// The facility `daemon`.
const FACILITY: u8 = 3 << 3;

/// Where the journal listens (systemd, "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

impl SystemLog {
    fn connect() -> Self {
        let connect = |path: &str| {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_nonblocking(true)?;
            io::Result::Ok(socket)
        };
        let (socket, at, journal) = match connect(JOURNAL) {
            Ok(socket) => (Some(socket), JOURNAL, true),
            Err(_) => (connect(SYSLOG).ok(), SYSLOG, false),
        };
        Self { socket, at: at.into(), journal, pid: std::process::id() }
    }

    /// Lines are lost while nobody listens there, or nobody reads: a mount must not wait for a log.
    fn send(&self, severity: u8, line: &[u8]) {
        let Some(socket) = &self.socket else { return };
        let mut message = if self.journal {
            format!("PRIORITY={severity}\nSYSLOG_IDENTIFIER=cosmount\nMESSAGE=").into_bytes()
        } else {
            format!("<{}>cosmount[{}]: ", FACILITY | severity, self.pid).into_bytes()
        };
        message.extend_from_slice(line);
        if self.journal {
            message.push(b'\n');
        }
        let sent = socket.send(&message);
        // A log that was started anew listens at the same place with another socket.
        if sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) && socket.connect(&self.at).is_ok() {
            socket.send(&message).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn system(journal: bool) -> (Out, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let log = SystemLog { socket: Some(ours), at: PathBuf::new(), journal, pid: 7 };
        (Out { drain: Drain::System(Arc::new(log)), format: LogFormat::Text }, theirs)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_is_one_datagram_with_its_priority() {
        let (out, theirs) = system(false);
        Line { out: &out, severity: 4 }.write_all(b"no such bucket\n").unwrap();
        assert_eq!(received(&theirs), "<28>cosmount[7]: no such bucket");
        let (out, theirs) = system(true);
        Line { out: &out, severity: 3 }.write_all(b"key=a\nPRIORITY=0\n").unwrap();
        assert_eq!(received(&theirs), "PRIORITY=3\nSYSLOG_IDENTIFIER=cosmount\nMESSAGE=key=a\\nPRIORITY=0\n", "no field is forged");
    }

    #[test]
    fn a_key_forges_no_line_and_no_escape_sequence() {
        let hostile = "key=a\nERROR all is lost \u{1b}[2J\u{9b}\u{202e}\u{fc}\n";
        let text = String::from_utf8(plain(hostile.as_bytes(), LogFormat::Text)).unwrap();
        assert_eq!(text, "key=a\\nERROR all is lost \\u{1b}[2J\\u{9b}\\u{202e}\u{fc}");
        let value = serde_json::json!({ "key": hostile });
        let line = plain(value.to_string().as_bytes(), LogFormat::Json);
        assert!(!String::from_utf8(line.clone()).unwrap().contains(|c: char| c.is_control() || c == '\u{202e}'));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&line).unwrap(), value, "and it is read back as it was");
    }

    #[test]
    fn a_log_that_was_started_anew_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("log");
        let first = UnixDatagram::bind(&at).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&at).unwrap();
        let log = SystemLog { socket: Some(socket), at: at.clone(), journal: false, pid: 7 };
        log.send(6, b"one");
        assert_eq!(received(&first), "<30>cosmount[7]: one");
        drop(first);
        log.send(6, b"lost");
        std::fs::remove_file(&at).unwrap();
        let second = UnixDatagram::bind(&at).unwrap();
        log.send(6, b"two");
        assert_eq!(received(&second), "<30>cosmount[7]: two");
    }

    #[test]
    fn nobody_listening_is_no_error() {
        let log = SystemLog { socket: None, at: PathBuf::new(), journal: false, pid: 7 };
        let out = Out { drain: Drain::System(Arc::new(log)), format: LogFormat::Text };
        assert_eq!(out.make_writer().write(b"x").unwrap(), 1);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        let file = Arc::new(LogFile::open(&path).unwrap());
        let out = Out { drain: Drain::File(Arc::clone(&file)), format: LogFormat::Text };
        out.make_writer().write_all(b"first\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        out.make_writer().write_all(b"second\n").unwrap();
        file.reopen().unwrap();
        out.make_writer().write_all(b"third\n").unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "first\nsecond\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "third\n");
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(file.reopen().is_err());
        out.make_writer().write_all(b"kept\n").unwrap();
    }
}
