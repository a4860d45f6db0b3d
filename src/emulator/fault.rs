//! Faults as rules on requests: "the third UploadPart: reset after 1 MiB".
//!
//! A [`Rule`] says which requests it means (operation, key), which of those it skips, how many it strikes, and what happens to them: an
//! [`Action`]. Rules are tried in the order they were added; all that strike a request act on it together, so a slow answer may be truncated
//! too. Chance is drawn from a fixed seed: the same requests in the same order meet the same faults.
//!
//! Actions fall into what happens *before* the operation (delays, resets, canned answers: no effect took place), what changes the *terms*
//! it runs under (clock, tokens, old listings), and what happens to its *answer* afterwards (the effect took place).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::op::Op;

/// Which requests meet a fault, and which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only this operation; None means every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// Only keys that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Only keys that contain this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Let so many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Strike so many, then no more; None means always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Strike with this probability.
    #[serde(default = "certain")]
    pub probability: f64,
    /// What happens.
    pub action: Action,
}

fn certain() -> f64 {
    1.0
}

impl Rule {
    /// Strikes every request of one operation.
    pub fn on(op: Op, action: Action) -> Self {
        Self { op: Some(op), ..Self::always(action) }
    }

    /// Strikes every request.
    pub fn always(action: Action) -> Self {
        Self { op: None, prefix: None, contains: None, skip: 0, count: None, probability: 1.0, action }
    }

    /// Only keys that begin so.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        Self { prefix: Some(prefix.to_owned()), ..self }
    }

    /// Only keys that contain this.
    #[must_use]
    pub fn contains(self, part: &str) -> Self {
        Self { contains: Some(part.to_owned()), ..self }
    }

    /// Lets so many matching requests pass first.
    #[must_use]
    pub fn skip(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Strikes so many, then no more.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// Strikes with this probability, 0 to 1.
    #[must_use]
    pub fn chance(self, probability: f64) -> Self {
        Self { probability, ..self }
    }

    fn matches(&self, op: Op, key: &str) -> bool {
        self.op.is_none_or(|wanted| wanted == op)
            && self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
            && self.contains.as_deref().is_none_or(|part| key.contains(part))
    }
}

/// What happens to a request. In JSON: `{"do": "slow-body", "bytes_per_second": 1024}`, durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum Action {
    // Before the operation; nothing takes effect.
    /// An error answer, after the request's body was read.
    Status {
        /// The status, 302 and 304 included.
        status: u16,
        /// The COS code in the document.
        code: String,
        /// Leave false to answer as a gateway that is not COS: no `x-cos-request-id`, an HTML body.
        #[serde(default = "yes")]
        request_id: bool,
        /// More headers, such as `Location`.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// The connection is reset before the request's body is read.
    ResetBefore,
    /// The connection is reset after so many bytes of the request's body.
    ResetInRequest {
        /// Bytes read before.
        after: u64,
    },
    /// Nothing is ever answered; the connection stays open.
    BlackHole,
    /// The operation begins later.
    Delay {
        /// How much later.
        #[serde(with = "millis")]
        delay: Duration,
    },
    /// The operation begins when the rule has ended; with `answer` it takes effect at once and its answer waits. What happens meanwhile is up to
    /// who set the rule: a time that is a condition, where [`Action::Delay`] is a guess.
    Hold {
        /// Hold the answer, not the operation.
        #[serde(default)]
        answer: bool,
    },
    /// 409 `PathConflict`.
    PathConflict {
        /// Only if another request is writing the same object at that moment.
        #[serde(default)]
        concurrent_only: bool,
    },
    /// 200 with an `<Error>` document: copies and completes do that. Nothing takes effect.
    ErrorIn200 {
        /// The COS code in the document.
        code: String,
    },
    /// These bytes, in hexadecimal, and the end of the connection: a status line, headers or chunks that no server sends.
    Raw {
        /// The bytes.
        #[serde(with = "hex_bytes")]
        bytes: Vec<u8>,
    },

    // The terms of the operation.
    /// The server's clock is off by so many seconds, in its `Date` and when it judges a signature.
    ClockSkew {
        /// Positive: the server is ahead.
        seconds: i64,
    },
    /// A session token counts as expired.
    ExpireToken,
    /// Listings show the bucket as it was, but not older than the rule.
    StaleList {
        /// How long ago.
        #[serde(with = "millis")]
        age: Duration,
    },

    /// The request's body is read slowly.
    SlowRequest {
        /// How slowly.
        bytes_per_second: u64,
    },

    // The answer; the operation took effect.
    /// The connection is reset in place of the answer.
    LoseAnswer,
    /// The connection is reset after so many bytes of the answer's body.
    ResetInResponse {
        /// Bytes sent before.
        after: u64,
    },
    /// The body ends too early.
    TruncateBody {
        /// Bytes sent.
        keep: u64,
        /// `Content-Length` says so too, and nothing looks wrong but the number.
        #[serde(default)]
        honest: bool,
    },
    /// One byte of the body is flipped.
    CorruptBody {
        /// Which; the last one if the body is shorter.
        at: u64,
    },
    /// `x-cos-hash-crc64ecma` is wrong.
    WrongCrc,
    /// `x-cos-hash-crc64ecma` is missing.
    NoCrc,
    /// `ETag` is another object's.
    WrongETag,
    /// `Content-Range` names a range one byte further.
    WrongRange,
    /// A ranged GET is answered 200 with the whole object.
    IgnoreRange,
    /// The body flows slowly.
    SlowBody {
        /// How slowly.
        bytes_per_second: u64,
    },
    /// 200 at once, then blanks, then the document: long completes do that.
    EarlyOk {
        /// How many blanks.
        blanks: u32,
        /// How long after each.
        #[serde(with = "millis")]
        interval: Duration,
        /// End in an `<Error>` of this code, and take no effect.
        #[serde(default)]
        error: Option<String>,
    },
    /// This text is the answer's body: XML that no server should send.
    Body {
        /// The body.
        text: String,
    },
    /// One header more or another value, as bytes of Latin-1 (CR and LF need [`Action::Raw`]).
    Header {
        /// Its name.
        name: String,
        /// Its value; each character is one byte.
        value: String,
    },
}

fn yes() -> bool {
    true
}

impl Action {
    /// An error answer of COS.
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status { status, code: code.to_owned(), request_id: true, headers: Vec::new() }
    }

    /// 503 `SlowDown`.
    pub fn slow_down() -> Self {
        Self::status(503, "SlowDown")
    }

    /// An error answer of something that is not COS.
    pub fn gateway(status: u16) -> Self {
        Self::Status { status, code: String::new(), request_id: false, headers: Vec::new() }
    }

    /// A redirect of something that is not COS.
    pub fn redirect(location: &str) -> Self {
        Self::Status { status: 302, code: String::new(), request_id: false, headers: vec![("Location".to_owned(), location.to_owned())] }
    }
}

/// The rules in force. Shared by the server and whoever steers it.
#[derive(Debug, Default)]
pub struct Faults {
    armed: Mutex<Armed>,
    any: AtomicBool,
    /// Buckets remember their past while a rule may ask for it.
    pub(super) stale: AtomicBool,
    next_id: AtomicU64,
    held: AtomicU64,
}

#[derive(Debug, Default)]
struct Armed {
    rules: Vec<Live>,
    draws: u64,
}

#[derive(Debug)]
struct Live {
    id: u64,
    rule: Rule,
    seen: u64,
    struck: u64,
}

/// A rule in force and what it has done.
#[derive(Clone, Debug, Serialize)]
pub struct RuleState {
    /// What [`Faults::add`] answered.
    pub id: u64,
    /// How many requests it struck.
    pub struck: u64,
    /// The rule.
    pub rule: Rule,
}

impl Faults {
    /// Puts a rule in force and returns its number.
    pub fn add(&self, rule: Rule) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        if matches!(rule.action, Action::StaleList { .. }) {
            self.stale.store(true, Ordering::SeqCst);
        }
        self.armed.lock().rules.push(Live { id, rule, seen: 0, struck: 0 });
        self.any.store(true, Ordering::SeqCst);
        id
    }

    /// Ends one rule; false if it is not in force.
    pub fn remove(&self, id: u64) -> bool {
        let mut armed = self.armed.lock();
        let before = armed.rules.len();
        armed.rules.retain(|live| live.id != id);
        armed.rules.len() < before
    }

    /// Ends all rules.
    pub fn clear(&self) {
        self.armed.lock().rules.clear();
        self.any.store(false, Ordering::SeqCst);
        self.stale.store(false, Ordering::SeqCst);
    }

    /// How many requests a rule struck; 0 for one that is not in force.
    pub fn struck(&self, id: u64) -> u64 {
        self.armed.lock().rules.iter().find(|live| live.id == id).map_or(0, |live| live.struck)
    }

    /// How many requests are held at this moment by [`Action::Hold`].
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// Waits while a rule holds such requests.
    pub(super) async fn hold(&self, op: Op, key: &[u8], held: &Action) {
        let key = String::from_utf8_lossy(key);
        let _counted = Counted::begin(&self.held);
        while self.armed.lock().rules.iter().any(|live| live.rule.action == *held && live.rule.matches(op, &key)) {
            super::clock::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The rules in force.
    pub fn list(&self) -> Vec<RuleState> {
        let armed = self.armed.lock();
        armed.rules.iter().map(|live| RuleState { id: live.id, struck: live.struck, rule: live.rule.clone() }).collect()
    }

    /// What strikes a request.
    pub(super) fn take(&self, op: Op, key: &[u8]) -> Plan {
        if !self.any.load(Ordering::SeqCst) {
            return Plan::default();
        }
        let key = String::from_utf8_lossy(key);
        let mut actions = Vec::new();
        let mut armed = self.armed.lock();
        let Armed { rules, draws } = &mut *armed;
        for live in rules.iter_mut().filter(|live| live.rule.matches(op, &key)) {
            live.seen += 1;
            let due = live.seen > live.rule.skip && live.rule.count.is_none_or(|count| live.struck < count);
            if due && (live.rule.probability >= 1.0 || draw(draws) < live.rule.probability) {
                live.struck += 1;
                actions.push(live.rule.action.clone());
            }
        }
        Plan(actions)
    }
}

/// One more, for as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(super) fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A number from 0 to 1 by SplitMix64, seeded with nothing but how often it was asked.
fn draw(draws: &mut u64) -> f64 {
    *draws = draws.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *draws;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// What strikes one request.
#[derive(Debug, Default, Clone)]
pub(super) struct Plan(pub(super) Vec<Action>);

impl Plan {
    /// The first action that `pick` recognises.
    pub(super) fn find<T>(&self, pick: impl FnMut(&Action) -> Option<T>) -> Option<T> {
        self.0.iter().find_map(pick)
    }

    /// The headers to add or replace.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(|action| if let Action::Header { name, value } = action { Some((name.as_str(), value.as_str())) } else { None })
    }

    pub(super) fn has(&self, action: &Action) -> bool {
        self.0.contains(action)
    }
}

/// Durations in JSON are whole milliseconds.
pub(super) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::emulator) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(in crate::emulator) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Bytes in JSON are hexadecimal.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::super::auth::hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pair = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        (0..text.len()).step_by(2).map(|at| pair(at).ok_or_else(|| D::Error::custom("hexadecimal digits in pairs, please"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_skips_then_strikes_so_often() {
        let faults = Faults::default();
        let id = faults.add(Rule::on(Op::GetObject, Action::WrongCrc).prefix("a/").skip(2).times(2));
        let struck = |op, key: &str| !faults.take(op, key.as_bytes()).0.is_empty();
        assert!(!struck(Op::HeadObject, "a/x"));
        assert!(!struck(Op::GetObject, "b/a/x"));
        let course: Vec<bool> = (0..6).map(|_| struck(Op::GetObject, "a/x")).collect();
        assert_eq!(course, [false, false, true, true, false, false]);
        assert_eq!(faults.struck(id), 2);
        faults.clear();
        assert!(faults.list().is_empty());
    }

    #[test]
    fn chance_is_near_its_probability_and_repeats() {
        let course = || {
            let faults = Faults::default();
            faults.add(Rule::always(Action::WrongCrc).chance(0.1));
            (0..10_000).map(|_| !faults.take(Op::GetObject, b"k").0.is_empty()).collect::<Vec<_>>()
        };
        let first = course();
        assert_eq!(first, course());
        let struck = first.iter().filter(|struck| **struck).count();
        assert!((850..1150).contains(&struck), "{struck}");
    }

    #[test]
    fn rules_are_json() {
        let text = r#"{"op":"GetObject","contains":"x","skip":1,"count":3,"probability":0.5,"action":{"do":"delay","delay":250}}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.action, Action::Delay { delay: Duration::from_millis(250) });
        let actions = [
            Action::slow_down(),
            Action::redirect("http://127.0.0.1/"),
            Action::EarlyOk { blanks: 3, interval: Duration::from_millis(5), error: Some("InternalError".into()) },
            Action::Raw { bytes: b"HTTP/1.1 200 OK\r\nX: \xff\r\n".to_vec() },
        ];
        for action in actions {
            let text = serde_json::to_string(&Rule::always(action.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&text).unwrap().action, action, "{text}");
        }
        assert!(serde_json::from_str::<Rule>(r#"{"action":{"do":"nothing"}}"#).is_err());
        assert!(serde_json::from_str::<Rule>(r#"{"opp":"GetObject","action":{"do":"wrong-crc"}}"#).is_err());
    }
}
