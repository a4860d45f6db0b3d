//! What the emulator refuses, with the codes of the COS error table.
//!
//! Source: COS API, error codes (document 436/7730), read 2026-11.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

/// An answer that is an `<Error>` document.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
    /// Headers that belong to this failure, such as the class of an archived object.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The connection cannot be used any more: part of the body was not read.
    pub(super) fatal: bool,
}

/// What a handler answers.
pub(super) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Any failure. A status that does not exist becomes 500.
    pub(super) fn new(status: u16, code: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code: code.into(), message: message.into(), headers: Vec::new(), fatal: false }
    }

    /// The same with one header more.
    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// The same, after which the connection is closed.
    pub(super) fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    pub(super) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "InvalidArgument", message)
    }

    pub(super) fn access_denied(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(403, "AccessDenied", message)
    }

    pub(super) fn malformed_xml(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "MalformedXML", message)
    }

    pub(super) fn no_such_key() -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    pub(super) fn no_such_version() -> Self {
        Self::new(404, "NoSuchVersion", "The specified version does not exist.")
    }

    /// A version that is a delete marker was to be read.
    pub(super) fn marker() -> Self {
        Self::new(405, "MethodNotAllowed", "The specified version is a delete marker.")
    }

    pub(super) fn no_such_bucket() -> Self {
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist.")
    }

    pub(super) fn no_such_upload() -> Self {
        Self::new(404, "NoSuchUpload", "The specified multipart upload does not exist.")
    }

    pub(super) fn no_such_tags() -> Self {
        Self::new(404, "NoSuchTagSet", "The TagSet does not exist.")
    }

    pub(super) fn precondition(header: &'static str) -> Self {
        Self::new(412, "PreconditionFailed", format!("The pre-condition {header} did not hold."))
    }

    pub(super) fn already_exists() -> Self {
        Self::new(409, "FileAlreadyExists", "The object exists and x-cos-forbid-overwrite was set.")
    }

    pub(super) fn path_conflict() -> Self {
        Self::new(409, "PathConflict", "Another request is writing this object.")
    }

    pub(super) fn too_large(limit: u64) -> Self {
        Self::new(400, "EntityTooLarge", format!("The body exceeds {limit} bytes."))
    }

    pub(super) fn not_implemented(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("The emulator does not do {what}."))
    }

    pub(super) fn internal(error: &std::io::Error) -> Self {
        Self::new(500, "InternalError", format!("The emulator's disk: {error}"))
    }
}
