//! What COS's refusals mean: status and code to [`Kind`], and whether the effect may be there all the same.
//!
//! Status, then code, then nothing: messages are for people. An answer without `x-cos-request-id` did not come from COS, so it proves nothing;
//! a proxy's 404 is no absence.
//!
//! Source: COS API, "Error codes" (document 436/7730), read 2026-11.

use crate::store::{Error, Kind, Operation, xml};

/// Most of an error document that is read.
pub(super) const LONGEST_DOCUMENT: usize = 64 << 10;

/// What an error document says.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
}

impl Document {
    /// Reads what can be read; a gateway's JSON or HTML says nothing.
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut document = Self::default();
        let root = xml::walk(body, |step| match step {
            xml::Step::Close("Code", text) => document.code = Some(text.trim().to_owned()),
            xml::Step::Close("Message", text) => document.message = Some(text.trim().to_owned()),
            _ => {}
        });
        if root.as_deref() == Ok("Error") { document } else { Self::default() }
    }
}

/// An answer that refuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    pub(super) operation: Operation,
    pub(super) status: u16,
    pub(super) request_id: Option<&'a str>,
}

impl Refusal<'_> {
    /// The error it is, not yet named after its object.
    pub(super) fn error(&self, document: Document) -> Error {
        let Self { operation, status, request_id } = *self;
        let code = document.code.as_deref();
        let (kind, done) = match request_id {
            None if operation.repeats_freely() => (Kind::Unavailable, false),
            // Whoever answered may have passed the request on.
            None => (Kind::Unavailable, status >= 500),
            Some(_) => (kind(operation, status, code), may_be_done(status, code)),
        };
        let message = match (document.message, request_id) {
            (Some(message), _) => message,
            (None, None) => "the answer is not from COS: it has no request id".to_owned(),
            (None, Some(_)) => describe(kind).to_owned(),
        };
        let error = Error::new(kind, operation.name(), message).answered(status, document.code, request_id.map(str::to_owned));
        if done && !operation.repeats_freely() { error.unknown() } else { error }
    }
}

/// Refused for a time or a token that can be put right.
pub(super) fn is_about_time(status: u16, document: &Document) -> bool {
    let expired = |text: &Option<String>| text.as_deref().is_some_and(|text| text.contains("Request has expired"));
    status == 403 && (document.code.as_deref() == Some("RequestTimeTooSkewed") || expired(&document.code) || expired(&document.message))
}

/// Refused for a token that has ended.
pub(super) fn is_about_token(document: &Document) -> bool {
    matches!(document.code.as_deref(), Some("ExpiredToken" | "InvalidToken" | "TokenExpired"))
}

/// What a code in a multi-delete's answer means, where no status goes with it.
pub(super) fn kind_of_code(operation: Operation, code: &str) -> Kind {
    let status = match code {
        "AccessDenied" | "AccessForbidden" => 403,
        "SlowDown" | "ServiceUnavailable" => 503,
        "InternalError" => 500,
        "NoSuchKey" | "NoSuchVersion" => 404,
        "ObjectLocked" | "PathConflict" | "UploadConflict" => 409,
        _ => 400,
    };
    kind(operation, status, Some(code))
}

/// The table of refusals that came from COS.
fn kind(operation: Operation, status: u16, code: Option<&str>) -> Kind {
    if let Some(kind) = code.and_then(|code| by_code(operation, code)) {
        return kind;
    }
    match status {
        304 => Kind::Precondition,
        402 => Kind::Quota,
        401 | 403 | 451 => Kind::Denied,
        404 if on_a_bucket(operation) => Kind::NoSuchBucket,
        404 => Kind::NotFound,
        405 | 501 => Kind::Unsupported,
        408 | 500 | 502 | 504.. => Kind::Unavailable,
        409 if operation.forbids_overwrite() => Kind::Exists,
        // Two writers at once: a repeat settles who was last.
        409 => Kind::Unavailable,
        412 | 416 => Kind::Precondition,
        429 | 503 => Kind::Throttled,
        // With origin-pull a miss is a redirect, which we do not follow.
        300..=399 => Kind::Unsupported,
        _ => Kind::Invalid,
    }
}

fn by_code(operation: Operation, code: &str) -> Option<Kind> {
    Some(match code {
        "NoSuchKey" | "NoSuchVersion" | "NoSuchCopySource" => Kind::NotFound,
        "NoSuchBucket" => Kind::NoSuchBucket,
        "NoSuchUpload" => Kind::NoSuchUpload,
        "AccessDenied"
        | "AccessForbidden"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "RequestTimeTooSkewed"
        | "UserNotSourceBucketOwner"
        | "UnavailableForLegalReasons"
        | "DomainAuditFailed"
        | "SsecDecryptHeaderInvalid"
        | "SSEHeaderNotAllowed"
        | "SSEContentNotSupported"
        | "KmsException"
        | "KmsKeyDisabled"
        | "KmsKeyNotExist" => Kind::Denied,
        "ExpiredToken" | "InvalidToken" | "TokenExpired" => Kind::Expired,
        "PreconditionFailed" | "InvalidRange" => Kind::Precondition,
        // 403 says archived; a 409 of that name is some other state of the object.
        "InvalidObjectState" if operation != Operation::Delete && operation != Operation::DeleteMany => Kind::Archived,
        "ObjectLocked" | "BucketLocked" => Kind::Locked,
        "BucketNotEmpty" => Kind::NotEmpty,
        "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" | "FileAlreadyExists" => Kind::Exists,
        "KeyTooLong" => Kind::KeyTooLong,
        "EntityTooLarge" => Kind::TooLarge,
        "PaymentRequired" | "TooManyBuckets" | "AttachmentFull" | "PolicyFull" | "QuotaConflict" | "QuotaOperationConflict" => Kind::Quota,
        "MethodNotAllowed"
        | "NotImplemented"
        | "ActionAccelerateNotSupported"
        | "BucketAccelerateNotEnabled"
        | "NotSupportedStorageClass"
        | "MAZOperationNotSupportOnOAZBucket"
        | "OAZOperationNotSupportOnMAZBucket"
        | "MultiAZFeatureNotSupport"
        | "ObjectNotAppendable"
        | "RestoreNonArchiveObject"
        | "InvalidBucketState"
        | "UploadIdNotSupported" => Kind::Unsupported,
        "SlowDown" => Kind::Throttled,
        "RequestTimeout"
        | "UserNetworkTooSlow"
        | "IncompleteBody"
        | "EntitySizeNotMatch"
        | "PathConflict"
        | "UploadConflict"
        | "InternalError"
        | "ServiceUnavailable"
        | "KmsInternalException"
        | "KmsFreqControl" => Kind::Unavailable,
        "BadDigest" => Kind::Corrupt,
        _ => return None,
    })
}

/// A server error may come after the effect; a refusal for load or for the request itself does not.
fn may_be_done(status: u16, code: Option<&str>) -> bool {
    match code {
        Some("InternalError" | "KmsInternalException") => true,
        Some("SlowDown" | "ServiceUnavailable" | "KmsFreqControl" | "NotImplemented") => false,
        _ => status >= 500 && status != 501 && status != 503,
    }
}

fn on_a_bucket(operation: Operation) -> bool {
    use Operation as O;
    matches!(
        operation,
        O::HeadBucket | O::CreateBucket | O::DeleteBucket | O::Location | O::Versioning | O::List | O::ListUploads | O::DeleteMany
    )
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "there is no such object",
        Kind::NoSuchBucket => "there is no such bucket",
        Kind::NoSuchUpload => "the upload is completed, aborted or expired",
        Kind::Denied => "the credentials may not do this",
        Kind::Expired => "the credentials have expired",
        Kind::Precondition => "the key holds another version",
        Kind::Exists => "the key exists",
        Kind::Throttled => "the store asks for fewer requests",
        Kind::Unavailable => "the store does not work now",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outcome;

    fn refused(operation: Operation, status: u16, code: Option<&str>, request_id: Option<&str>) -> (Kind, Outcome) {
        let document = Document { code: code.map(str::to_owned), message: None };
        let error = Refusal { operation, status, request_id }.error(document);
        (error.kind(), error.outcome())
    }

    #[test]
    fn refusals_of_cos_mean_what_the_table_says() {
        use Kind as K;
        use Operation as O;
        use Outcome::{NotDone, Unknown};
        for (operation, status, code, expected) in [
            (O::Head, 404, None, (K::NotFound, NotDone)),
            (O::Head, 403, None, (K::Denied, NotDone)),
            (O::HeadBucket, 404, None, (K::NoSuchBucket, NotDone)),
            (O::Get, 412, Some("PreconditionFailed"), (K::Precondition, NotDone)),
            (O::Get, 403, Some("InvalidObjectState"), (K::Archived, NotDone)),
            (O::Get, 503, Some("SlowDown"), (K::Throttled, NotDone)),
            (O::Put, 503, Some("SlowDown"), (K::Throttled, NotDone)),
            (O::Put, 500, Some("InternalError"), (K::Unavailable, Unknown)),
            (O::Copy, 200, Some("InternalError"), (K::Unavailable, Unknown)),
            (O::Copy, 200, Some("SlowDown"), (K::Throttled, NotDone)),
            (O::Put, 409, Some("SomethingNew"), (K::Exists, NotDone)),
            (O::Put, 409, Some("PathConflict"), (K::Unavailable, NotDone)),
            (O::Put, 400, Some("BadDigest"), (K::Corrupt, NotDone)),
            (O::Put, 400, Some("RequestTimeout"), (K::Unavailable, NotDone)),
            (O::UploadPart, 500, Some("InternalError"), (K::Unavailable, NotDone)),
            (O::CompleteUpload, 404, Some("NoSuchUpload"), (K::NoSuchUpload, NotDone)),
            (O::Delete, 409, Some("ObjectLocked"), (K::Locked, NotDone)),
            (O::Put, 400, Some("EntityTooLarge"), (K::TooLarge, NotDone)),
            (O::Put, 403, Some("RequestTimeTooSkewed"), (K::Denied, NotDone)),
            (O::Get, 400, Some("ExpiredToken"), (K::Expired, NotDone)),
            (O::DeleteBucket, 409, Some("BucketNotEmpty"), (K::NotEmpty, NotDone)),
            (O::Put, 402, None, (K::Quota, NotDone)),
            (O::Put, 400, Some("NobodyKnows"), (K::Invalid, NotDone)),
            (O::Get, 302, None, (K::Unsupported, NotDone)),
        ] {
            assert_eq!(refused(operation, status, code, Some("id")), expected, "{operation:?} {status} {code:?}");
        }
    }

    #[test]
    fn what_has_no_request_id_proves_nothing() {
        for status in [302, 400, 403, 404, 412, 500, 502] {
            assert_eq!(refused(Operation::Head, status, None, None), (Kind::Unavailable, Outcome::NotDone), "{status}");
        }
        assert_eq!(refused(Operation::Put, 502, None, None), (Kind::Unavailable, Outcome::Unknown));
    }

    #[test]
    fn error_documents_are_read_and_others_ignored() {
        let document = Document::parse(b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code><Message>m</Message></Error>");
        assert_eq!((document.code.as_deref(), document.message.as_deref()), (Some("NoSuchKey"), Some("m")));
        for other in [&b"{\"code\":1}"[..], b"<html><Code>NoSuchKey</Code></html>", b""] {
            assert_eq!(Document::parse(other).code, None);
        }
    }
}
