//! The requests there are, named as COS names them: what errors, counters, limits and faults speak of.

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// The account's buckets.
    ListBuckets,
    /// Is the bucket there, and of what kind.
    HeadBucket,
    /// Makes a bucket.
    CreateBucket,
    /// Removes a bucket.
    DeleteBucket,
    /// The bucket's region.
    Location,
    /// The bucket's versioning state.
    Versioning,
    /// What an object carries.
    Head,
    /// Bytes of an object.
    Get,
    /// A page of keys.
    List,
    /// An object's grants.
    Acl,
    /// An object's tags.
    Tags,
    /// Makes an object of bytes.
    Put,
    /// Makes an object of another.
    Copy,
    /// Removes an object.
    Delete,
    /// Removes many objects.
    DeleteMany,
    /// Opens an upload.
    CreateUpload,
    /// Sends a part.
    UploadPart,
    /// Makes a part of an object's range.
    CopyPart,
    /// Makes an object of parts.
    CompleteUpload,
    /// Drops an upload.
    AbortUpload,
    /// The bucket's open uploads.
    ListUploads,
    /// An open upload's parts.
    ListParts,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 22] = [
        Self::ListBuckets,
        Self::HeadBucket,
        Self::CreateBucket,
        Self::DeleteBucket,
        Self::Location,
        Self::Versioning,
        Self::Head,
        Self::Get,
        Self::List,
        Self::Acl,
        Self::Tags,
        Self::Put,
        Self::Copy,
        Self::Delete,
        Self::DeleteMany,
        Self::CreateUpload,
        Self::UploadPart,
        Self::CopyPart,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::ListUploads,
        Self::ListParts,
    ];

    /// Whether a second run after a lost answer does no harm: it only reads, or only replaces what nobody else can see.
    pub const fn repeats_freely(self) -> bool {
        !matches!(
            self,
            Self::CreateBucket | Self::DeleteBucket | Self::Put | Self::Copy | Self::Delete | Self::DeleteMany | Self::CompleteUpload
        )
    }

    /// Whether the store works on it by itself for as long as it takes, perhaps without a sign of life.
    pub const fn takes_long(self) -> bool {
        matches!(self, Self::Copy | Self::CopyPart | Self::CompleteUpload | Self::DeleteMany)
    }

    /// Whether all it does is to answer with a document, which is of use only as a whole.
    pub const fn is_a_question(self) -> bool {
        matches!(
            self,
            Self::ListBuckets
                | Self::Location
                | Self::Versioning
                | Self::List
                | Self::Acl
                | Self::Tags
                | Self::ListUploads
                | Self::ListParts
        )
    }

    /// Whether it may be asked not to overwrite, so that a conflict may mean that the key exists.
    pub const fn forbids_overwrite(self) -> bool {
        matches!(self, Self::Put | Self::Copy | Self::CompleteUpload)
    }

    /// The name in the COS documentation, as errors show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListBuckets => "GET Service",
            Self::HeadBucket => "HEAD Bucket",
            Self::CreateBucket => "PUT Bucket",
            Self::DeleteBucket => "DELETE Bucket",
            Self::Location => "GET Bucket location",
            Self::Versioning => "GET Bucket versioning",
            Self::Head => "HEAD Object",
            Self::Get => "GET Object",
            Self::List => "GET Bucket",
            Self::Acl => "GET Object acl",
            Self::Tags => "GET Object tagging",
            Self::Put => "PUT Object",
            Self::Copy => "PUT Object - Copy",
            Self::Delete => "DELETE Object",
            Self::DeleteMany => "DELETE Multiple Objects",
            Self::CreateUpload => "Initiate Multipart Upload",
            Self::UploadPart => "Upload Part",
            Self::CopyPart => "Upload Part - Copy",
            Self::CompleteUpload => "Complete Multipart Upload",
            Self::AbortUpload => "Abort Multipart Upload",
            Self::ListUploads => "List Multipart Uploads",
            Self::ListParts => "List Parts",
        }
    }
}
