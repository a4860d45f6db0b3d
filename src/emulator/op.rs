//! The operations of COS by name: what the log, the counters and the fault rules call a request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One COS operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the variants are the names of the operations")]
pub enum Op {
    ListBuckets,
    HeadBucket,
    CreateBucket,
    DeleteBucket,
    GetBucketConfig,
    PutBucketConfig,
    DeleteBucketConfig,
    ListObjects,
    ListVersions,
    ListUploads,
    DeleteMany,
    HeadObject,
    GetObject,
    PutObject,
    CopyObject,
    AppendObject,
    DeleteObject,
    GetObjectAcl,
    PutObjectAcl,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    RestoreObject,
    InitiateUpload,
    UploadPart,
    CopyPart,
    CompleteUpload,
    AbortUpload,
    ListParts,
    Options,
    /// What the emulator does not do; answered 501.
    Other,
}

impl Op {
    /// Changes an object's bytes or existence.
    pub(super) fn writes_object(self) -> bool {
        matches!(self, Self::PutObject | Self::CopyObject | Self::AppendObject | Self::DeleteObject | Self::CompleteUpload)
    }

    /// Only reads, so that a public-read bucket allows it to anyone.
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::HeadBucket | Self::ListObjects | Self::HeadObject | Self::GetObject | Self::Options)
    }

    /// What public-read-write adds.
    pub(super) fn public_write(self) -> bool {
        self.writes_object()
            || matches!(self, Self::DeleteMany | Self::InitiateUpload | Self::UploadPart | Self::CopyPart | Self::AbortUpload)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
