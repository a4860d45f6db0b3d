//! What the access log says of each request, a line each.
//!
//! The line is an event of the target [`ACCESS`], so nothing is counted or written unless somebody listens to that target. It is sent when the last
//! part of the attempt is gone: the body of a GET has been read to its end, or nobody wants it any more. Never in it: signatures, tokens, headers.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::Operation;
use crate::support::Ctx;

/// The target of the access log's events.
pub const ACCESS: &str = "access";

/// One request on its way; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Record(Option<Arc<Line>>);

#[derive(Debug)]
struct Line {
    cx: Ctx,
    operation: Operation,
    target: Arc<str>,
    attempt: u32,
    start: Instant,
    seen: Mutex<Seen>,
}

/// What is known of a request so far.
#[derive(Debug, Default)]
struct Seen {
    status: Option<u16>,
    request_id: Option<String>,
    /// COS's code, or why there was no answer or no end of it.
    trouble: Option<String>,
    sent: u64,
    received: u64,
}

impl Record {
    /// A request that begins now, of the attempt of that number.
    pub(super) fn new(cx: &Ctx, operation: Operation, target: &Arc<str>, attempt: u32) -> Self {
        Self(tracing::enabled!(target: ACCESS, tracing::Level::INFO).then(|| {
            let start = cx.clock().now();
            Arc::new(Line { cx: cx.clone(), operation, target: Arc::clone(target), attempt, start, seen: Mutex::default() })
        }))
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        if let Some(line) = &self.0 {
            note(&mut line.seen.lock());
        }
    }

    /// The head of the answer is here.
    pub(super) fn answered(&self, status: u16, request_id: Option<&str>) {
        self.note(|seen| (seen.status, seen.request_id) = (Some(status), request_id.map(str::to_owned)));
    }

    /// The answer's document says why not.
    pub(super) fn refused(&self, code: Option<&str>) {
        self.note(|seen| seen.trouble = code.map(str::to_owned));
    }

    /// Something went wrong on the way.
    pub(super) fn failed(&self, why: &str) {
        self.note(|seen| {
            seen.trouble.get_or_insert_with(|| why.to_owned());
        });
    }

    /// Bytes of the request's body have left.
    pub(super) fn sent(&self, bytes: usize) {
        self.note(|seen| seen.sent += bytes as u64);
    }

    /// Bytes of the answer's body have come.
    pub(super) fn received(&self, bytes: usize) {
        self.note(|seen| seen.received += bytes as u64);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Seen { status, request_id, trouble, sent, received } = self.seen.get_mut();
        let took = self.cx.clock().now() - self.start;
        // A caller that has its answer from elsewhere drops a request on its way.
        let code = trouble.as_deref().unwrap_or(if status.is_some() { "-" } else { "given up" });
        tracing::info!(
            target: ACCESS,
            operation = self.operation.name(),
            key = &*self.target,
            status = status.unwrap_or(0),
            code,
            request = request_id.as_deref().unwrap_or("-"),
            sent,
            received,
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            tries = self.attempt,
        );
    }
}
