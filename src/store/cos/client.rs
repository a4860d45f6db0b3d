//! Sends one signed request and judges its answer: a success from COS, or an error that says what it was.
//!
//! Two refusals are put right here and then reported as *renewed*, so that the same request is made once more by whoever repeats requests: a
//! clock that is off is corrected by the server's `Date`, credentials that have ended or were exchanged are replaced by the provider. A HEAD is
//! refused without a word, and COS is not consistent about the words for a token, so the answer's `Date` and the mere 403 are what tells; the
//! provider knows how often it is worth asking.

use std::sync::Arc;

use crate::store::{
    Error, Key, Kind, Operation, Payload, Result,
    cos::{
        LONGEST_ANSWER,
        answers::{Bad, Read},
        credentials::{Provider, Refused},
        endpoint::{Endpoint, Endpoints},
        error::{Document, LONGEST_DOCUMENT, Refusal, is_about_time, is_about_token},
        request::Request,
        sign::{Signer, Window},
    },
    http::{Answer, Http, REQUEST_ID, Watch},
};
use crate::support::{Clock, Ctx};

/// What all buckets of an account share.
pub(super) struct Client {
    pub(super) endpoints: Endpoints,
    pub(super) clock: Arc<dyn Clock>,
    http: Http,
    provider: Arc<dyn Provider>,
    signer: Signer,
}

impl Client {
    pub(super) fn new(endpoints: Endpoints, http: Http, provider: Arc<dyn Provider>, clock: Arc<dyn Clock>) -> Self {
        Self { endpoints, http, provider, signer: Signer::new(Arc::clone(&clock)), clock }
    }

    /// Sends `request` about `target` and returns the answer if it is a success.
    pub(super) async fn send(
        &self,
        cx: &Ctx,
        endpoint: &Endpoint,
        target: &str,
        request: Request<'_>,
        payload: Option<Payload>,
    ) -> Result<Answer> {
        let operation = request.operation;
        let watch = Watch::new(cx, operation, &target_of(target, request.key));
        let credentials = watch.prepare(self.provider.credentials(), "no credentials, their source has not answered").await?;
        let credentials = credentials.map_err(|why| {
            // Nothing was sent. Whoever has the credentials may be back in a moment.
            watch.error(if why.may_pass() { Kind::Unavailable } else { Kind::Denied }, format!("no credentials: {why}"))
        })?;
        let window = self.signer.window(&credentials);
        let request = request.signed(endpoint, &window)?;
        let payload = payload.filter(|payload| !payload.is_empty());
        let answer = self.http.send(&watch, request, payload).await?;
        let status = answer.status();
        if !(200..300).contains(&status) {
            return Err(self.refused(operation, &window, answer).await);
        }
        if answer.header(REQUEST_ID).is_none() {
            let error = watch.error(Kind::Unavailable, "the answer is not from COS: it has no request id").answered(status, None, None);
            return Err(watch.maybe_done(error));
        }
        // Of a GET only bytes count, and of a document all of it: a connection that is cut behind every head would else be tried for ever.
        if operation == Operation::Get || operation.is_a_question() {
            watch.moved()
        } else {
            watch.progressed()
        }
        Ok(answer)
    }

    /// Reads an answer's document. An error document under a success is the error it tells.
    pub(super) async fn document<T>(&self, answer: Answer, read: impl FnOnce(&[u8]) -> Read<T>) -> Result<T> {
        let (status, watch) = (answer.status(), answer.watch().clone());
        let request_id = answer.header(REQUEST_ID).map(str::to_owned);
        let document = answer.document(LONGEST_ANSWER).await?;
        read(&document).map_err(|bad| match bad {
            Bad::Error(document) => {
                watch.located(Refusal { operation: watch.operation(), status, request_id: request_id.as_deref() }.error(document))
            }
            Bad::Corrupt(why) => watch.maybe_done(watch.error(Kind::Corrupt, why).answered(status, None, request_id)),
        })
    }

    async fn refused(&self, operation: Operation, window: &Window, answer: Answer) -> Error {
        let status = answer.status();
        let request_id = answer.header(REQUEST_ID).map(str::to_owned);
        let date = answer.date();
        let watch = answer.watch().clone();
        // A body that cannot be read explains nothing; the status is an answer all the same.
        let body = answer.document(LONGEST_DOCUMENT).await.unwrap_or_default();
        let document = Document::parse(&body);
        watch.record().refused(document.code.as_deref());
        let wordless = matches!(operation, Operation::Head | Operation::HeadBucket);
        let temporary = window.credentials().is_temporary();
        let untimely = is_about_time(status, &document) || (wordless && status == 403);
        // At the very end of a signature's window COS may call it late rather than the token.
        let over = status == 403 && window.credentials().expires.is_some_and(|end| end <= self.clock.wall());
        let ended = over || is_about_token(&document) || (temporary && wordless && status == 400);
        tracing::debug!(operation = operation.name(), status, code = ?document.code, request_id = ?request_id, "refused");
        let error = watch.located(Refusal { operation, status, request_id: request_id.as_deref() }.error(document));
        if request_id.is_none() {
            return error;
        }
        if untimely && date.is_some_and(|date| self.signer.correct(date, window)) {
            return error.renewed();
        }
        let how = match error.kind() {
            _ if ended => Refused::Ended,
            // Keys may have been exchanged, too.
            Kind::Denied if status == 403 => Refused::Denied,
            _ => return error,
        };
        let (why, may_pass) = match watch.wait(self.provider.refresh(window.credentials(), how)).await {
            Ok(Ok(true)) => return error.renewed(),
            Ok(Ok(false)) => return error,
            Ok(Err(why)) => (why.to_string(), why.may_pass()),
            Err(_) => ("whoever has them takes his time".to_owned(), true),
        };
        if how == Refused::Ended && may_pass {
            let message = format!("the credentials have expired and cannot be replaced now: {why}");
            return watch.error(Kind::Unavailable, message).answered(status, None, request_id);
        }
        tracing::warn!(%why, "refused credentials could not be replaced");
        error
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// What an error calls a bucket's object.
fn target_of(bucket: &str, key: Option<&Key>) -> String {
    match key {
        Some(key) => format!("cos://{bucket}/{key}"),
        None if bucket.is_empty() => "the account".to_owned(),
        None => format!("cos://{bucket}"),
    }
}
