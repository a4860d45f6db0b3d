//! `cos-emulator`: the emulator as a program, for SDKs, scripts and the curious.
//!
//! Prints its endpoint as the first line of its output and runs until SIGINT or SIGTERM.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use cosmount::emulator::{Account, Config, ETags, Limits, Rates, Restoring, Server, Tls, Token};
use tokio::signal::unix::{SignalKind, signal};

/// A Tencent COS server on this host, for tests
///
/// Without credentials it accepts AKIDEXAMPLE with exampleSecretKey, the pair of the published examples.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Listen here; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Keep everything in this directory, so that it survives a restart
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Create this bucket where it is missing; may be repeated
    #[arg(long, value_name = "NAME[:REGION]")]
    bucket: Vec<String>,
    /// Accept the keys in this file: lines of SecretId, SecretKey and, for temporary keys, a token and its expiry in unix seconds
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Take this region for buckets created by requests
    #[arg(long, value_name = "REGION", default_value = "ap-guangzhou")]
    region: String,
    /// Take this host name for the service (path style); may be repeated
    #[arg(long, value_name = "HOST")]
    service_host: Vec<String>,
    /// Delay every answer by so many milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    latency: u64,
    /// Share so many bytes a second among all connections, each way
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<u64>,
    /// Answer 503 SlowDown above these request rates: "documented" for COS's own, or JSON like {"requests": 100, "lists": 10}
    #[arg(long, value_name = "JSON")]
    rates: Option<String>,
    /// Take so many milliseconds to restore an archived object
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2000)]
    restore_delay: u64,
    /// Let each day that a restored object stays readable last so many milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 86_400_000)]
    restore_day: u64,
    /// Speak TLS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Put a fault rule, or a list of rules, in force; may be repeated
    #[arg(long, value_name = "JSON")]
    fault: Vec<String>,
    /// Answer faults, log and counters under /_emulator/
    #[arg(long)]
    admin: bool,
    /// Let requests without a signature do everything
    #[arg(long)]
    anonymous: bool,
    /// Refuse signatures that leave out the host or a parameter
    #[arg(long)]
    strict: bool,
    /// Benchmarks only: take x-amz- headers for x-cos- ones, answer with them, and let every request do everything
    #[arg(long)]
    s3: bool,
    /// Make ETags of PUTs and parts from this sum of their bytes; crc64 is cheaper, and no MD5 as with SSE-KMS
    #[arg(long, value_name = "SUM", value_parser = ["md5", "crc64"], default_value = "md5")]
    etag: String,
    /// Accept smaller parts than 1 MiB
    #[arg(long, value_name = "BYTES")]
    min_part: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let server = Server::start(config(args)?).context("cannot start the emulator")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", server.endpoint()).and_then(|()| out.flush()).context("cannot print the endpoint")?;
    drop(out);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    drop(server);
    Ok(())
}

/// What was typed, as the emulator needs it.
fn config(args: Args) -> anyhow::Result<Config> {
    let bucket = |text: &String| match text.split_once(':') {
        Some((name, region)) => (name.to_owned(), region.to_owned()),
        None => (text.clone(), args.region.clone()),
    };
    let mut faults = Vec::new();
    for text in &args.fault {
        faults.extend(Server::parse_rules(text).with_context(|| format!("--fault {text}"))?);
    }
    let accounts = match &args.credentials {
        Some(path) => accounts(&read(path)?)?,
        None => vec![Account::example()],
    };
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificates), Some(key)) => Some(Tls { certificates: read(certificates)?.into_bytes(), key: read(key)?.into_bytes() }),
        _ => None,
    };
    let rates = match args.rates.as_deref() {
        None => Rates::default(),
        Some("documented") => Rates::documented(),
        Some(text) => Server::parse_rates(text).with_context(|| format!("--rates {text}"))?,
    };
    let limits = Limits::default();
    Ok(Config {
        listen: args.listen,
        buckets: args.bucket.iter().map(bucket).collect(),
        data: args.data,
        accounts,
        region: args.region,
        service_hosts: args.service_host,
        limits: Limits { min_part: args.min_part.unwrap_or(limits.min_part), ..limits },
        anonymous: args.anonymous,
        strict_signatures: args.strict,
        latency: Duration::from_millis(args.latency),
        bandwidth: args.bandwidth,
        rates,
        restoring: Restoring { delay: Duration::from_millis(args.restore_delay), day: Duration::from_millis(args.restore_day) },
        tls,
        etags: if args.etag == "crc64" { ETags::Crc64 } else { ETags::Md5 },
        s3: args.s3,
        admin: args.admin,
        faults,
        ..Config::default()
    })
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Lines of two to four words; `#` begins a comment.
fn accounts(text: &str) -> anyhow::Result<Vec<Account>> {
    let mut accounts = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (secret_id, secret_key, rest) = match words.as_slice() {
            [id, key, rest @ ..] if rest.len() <= 2 => ((*id).to_owned(), (*key).to_owned(), rest),
            _ => bail!("the credentials file has a line that is not SecretId SecretKey [token [expiry]]"),
        };
        let expires = rest.get(1).map(|text| text.parse()).transpose().context("an expiry is not a number of seconds")?;
        accounts.push(Account { secret_id, secret_key, token: rest.first().map(|value| Token { value: (*value).to_owned(), expires }) });
    }
    Ok(accounts)
}
