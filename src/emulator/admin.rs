//! The emulator's own endpoint, under `/_emulator/`, without signatures and only where it was asked for.
//!
//! ```text
//! GET    /_emulator/faults         rules in force and how often each struck
//! POST   /_emulator/faults         a rule, or a list of rules; answers their numbers
//! DELETE /_emulator/faults         all rules, or with ?id=N one
//! GET    /_emulator/log            the requests that came, oldest first
//! GET    /_emulator/counters       sums by operation
//! DELETE /_emulator/log, /_emulator/counters   forgets both
//! PUT    /_emulator/link           {"latency": milliseconds, "bandwidth": bytes a second or null}
//! GET    /_emulator/rates          request rates in force
//! PUT    /_emulator/rates          {"requests": a second, "lists": a second, …}; {} for none, "documented" for COS's own
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde::Deserialize;

use super::answer::{Answer, Body};
use super::fault::{Plan, Rule};
use super::link::Control;
use super::log::{Log, LogEntry};
use super::op::Op;
use super::server::{Core, LinkSpeed};
use super::target::Query;
use super::throttle::Rates;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Speed {
    #[serde(default)]
    latency: u64,
    #[serde(default)]
    bandwidth: Option<u64>,
}

/// Reads a rule or a list of rules.
pub(super) fn parse_rules(text: &[u8]) -> serde_json::Result<Vec<Rule>> {
    // One by one, since an untagged enum would hide what is wrong.
    let value: serde_json::Value = serde_json::from_slice(text)?;
    if value.is_array() { serde_json::from_value(value) } else { Ok(vec![serde_json::from_value(value)?]) }
}

/// Reads request rates, or the word for COS's own.
pub(super) fn parse_rates(text: &[u8]) -> serde_json::Result<Rates> {
    match serde_json::from_slice(text)? {
        serde_json::Value::String(word) if word == "documented" => Ok(Rates::documented()),
        rates => serde_json::from_value(rates),
    }
}

impl Core {
    pub(super) async fn admin(&self, parts: &Parts, body: Incoming, control: Arc<Control>) -> Result<Response<Body>, io::Error> {
        let body = Limited::new(body, 1 << 20).collect().await.map(|all| all.to_bytes()).unwrap_or_default();
        let (status, text) = match self.administer(parts, &body) {
            Ok(value) => (StatusCode::OK, value.to_string()),
            Err((status, message)) => (status, serde_json::json!({ "error": message }).to_string()),
        };
        let mut answer = Answer::new(status).header(CONTENT_TYPE, "application/json");
        answer.body.push_back(Bytes::from(text));
        // Not in the log: a log of its own that is thrown away.
        let record = Log::new(0).begin(LogEntry::unlogged(Op::Other));
        Ok(answer.finish(&Plan::default(), None, record, control))
    }

    fn administer(&self, parts: &Parts, body: &[u8]) -> Result<serde_json::Value, (StatusCode, String)> {
        let bad = |error: serde_json::Error| (StatusCode::BAD_REQUEST, error.to_string());
        let what = parts.uri.path().trim_start_matches("/_emulator/");
        match (parts.method.as_str(), what) {
            ("GET", "faults") => serde_json::to_value(self.faults.list()).map_err(bad),
            ("POST", "faults") => {
                let ids: Vec<u64> = parse_rules(body).map_err(bad)?.into_iter().map(|rule| self.faults.add(rule)).collect();
                Ok(serde_json::json!({ "ids": ids }))
            }
            ("DELETE", "faults") => {
                match Query::parse(parts.uri.query().unwrap_or("")).number("id", 0) {
                    Ok(0) => self.faults.clear(),
                    Ok(id) if self.faults.remove(id) => {}
                    _ => return Err((StatusCode::NOT_FOUND, "no such rule".to_owned())),
                }
                Ok(serde_json::json!({}))
            }
            ("GET", "log") => serde_json::to_value(self.log.entries()).map_err(bad),
            ("GET", "counters") => serde_json::to_value(self.log.counters()).map_err(bad),
            ("DELETE", "log" | "counters") => {
                self.log.clear();
                Ok(serde_json::json!({}))
            }
            ("PUT", "link") => {
                let speed: Speed = serde_json::from_slice(body).map_err(bad)?;
                *self.link.write() = LinkSpeed::new(Duration::from_millis(speed.latency), speed.bandwidth);
                Ok(serde_json::json!({}))
            }
            ("GET", "rates") => serde_json::to_value(self.throttle.rates()).map_err(bad),
            ("PUT", "rates") => {
                self.throttle.set(parse_rates(body).map_err(bad)?);
                Ok(serde_json::json!({}))
            }
            _ => Err((StatusCode::NOT_FOUND, "nothing here".to_owned())),
        }
    }
}
