//! What stands between a caller and a dialect: `retry(limit(meter(dialect)))`, with faults of tests below the meter. What all calls of a bucket know
//! together (`health`) and second requests for late answers (`hedge`) are part of retrying.
//!
//! Limit, meter and faults do the same thing around every request, so the list of requests is written once, in two macros; each wrapper says in
//! `around` what happens around one, and in `body` what happens to the bytes of a GET. Retrying differs from request to request and is written out.

pub(super) mod fault;
mod health;
mod hedge;
pub(super) mod limit;
pub(super) mod meter;
pub(super) mod retry;

/// Implements [`Bucket`](crate::store::Bucket) for a wrapper with `inner: Arc<dyn Bucket>`, `around` and `body`.
macro_rules! around_bucket {
    ($wrapper:ty) => {
        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl Bucket for $wrapper {
            fn name(&self) -> &BucketName {
                self.inner.name()
            }

            fn capabilities(&self) -> &Capabilities {
                self.inner.capabilities()
            }

            async fn head(&self, cx: &Ctx, key: &Key) -> Result<Head> {
                self.around(cx, Operation::Head, 0, self.inner.head(cx, key)).await
            }

            async fn get(&self, cx: &Ctx, version: &ObjectVersion, range: Range<u64>) -> Result<Body> {
                self.body(cx, self.inner.get(cx, version, range)).await
            }

            async fn list(&self, cx: &Ctx, request: &ListRequest) -> Result<Page> {
                self.around(cx, Operation::List, 0, self.inner.list(cx, request)).await
            }

            async fn acl(&self, cx: &Ctx, key: &Key) -> Result<Acl> {
                self.around(cx, Operation::Acl, 0, self.inner.acl(cx, key)).await
            }

            async fn tags(&self, cx: &Ctx, key: &Key) -> Result<Tags> {
                self.around(cx, Operation::Tags, 0, self.inner.tags(cx, key)).await
            }

            async fn put(&self, cx: &Ctx, key: &Key, meta: &Meta, payload: Payload, replaces: &Replaces) -> Result<Stored> {
                let bytes = payload.len();
                self.around(cx, Operation::Put, bytes, self.inner.put(cx, key, meta, payload, replaces)).await
            }

            async fn copy(&self, cx: &Ctx, source: &ObjectVersion, to: &Key, meta: &Meta, replaces: &Replaces) -> Result<Stored> {
                self.around(cx, Operation::Copy, 0, self.inner.copy(cx, source, to, meta, replaces)).await
            }

            async fn delete(&self, cx: &Ctx, key: &Key, expected: Option<&ObjectVersion>) -> Result<()> {
                self.around(cx, Operation::Delete, 0, self.inner.delete(cx, key, expected)).await
            }

            async fn delete_many(&self, cx: &Ctx, versions: &[ObjectVersion]) -> Result<Vec<(Key, Error)>> {
                self.around(cx, Operation::DeleteMany, 0, self.inner.delete_many(cx, versions)).await
            }

            async fn create_upload(&self, cx: &Ctx, key: &Key, meta: &Meta) -> Result<Upload> {
                self.around(cx, Operation::CreateUpload, 0, self.inner.create_upload(cx, key, meta)).await
            }

            async fn upload_part(&self, cx: &Ctx, upload: &Upload, number: PartNumber, payload: Payload) -> Result<Part> {
                let bytes = payload.len();
                self.around(cx, Operation::UploadPart, bytes, self.inner.upload_part(cx, upload, number, payload)).await
            }

            async fn copy_part(
                &self,
                cx: &Ctx,
                upload: &Upload,
                number: PartNumber,
                source: &ObjectVersion,
                range: Range<u64>,
            ) -> Result<Part> {
                self.around(cx, Operation::CopyPart, 0, self.inner.copy_part(cx, upload, number, source, range)).await
            }

            async fn complete_upload(&self, cx: &Ctx, upload: &Upload, parts: &[Part], replaces: &Replaces) -> Result<Stored> {
                self.around(cx, Operation::CompleteUpload, 0, self.inner.complete_upload(cx, upload, parts, replaces)).await
            }

            async fn abort_upload(&self, cx: &Ctx, upload: &Upload) -> Result<()> {
                self.around(cx, Operation::AbortUpload, 0, self.inner.abort_upload(cx, upload)).await
            }

            async fn list_uploads(&self, cx: &Ctx, prefix: &str) -> Result<Vec<OpenUpload>> {
                self.around(cx, Operation::ListUploads, 0, self.inner.list_uploads(cx, prefix)).await
            }

            async fn list_parts(&self, cx: &Ctx, upload: &Upload) -> Result<Vec<Part>> {
                self.around(cx, Operation::ListParts, 0, self.inner.list_parts(cx, upload)).await
            }
        }
    };
}

/// Implements [`Service`](crate::store::Service) for a wrapper with `inner: Arc<dyn Service>`, `around` and `wrap`.
macro_rules! around_service {
    ($wrapper:ty) => {
        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl Service for $wrapper {
            async fn buckets(&self, cx: &Ctx) -> Result<Vec<BucketInfo>> {
                self.around(cx, Operation::ListBuckets, 0, self.inner.buckets(cx)).await
            }

            async fn open(&self, cx: &Ctx, name: &BucketName) -> Result<Arc<dyn Bucket>> {
                let bucket = self.around(cx, Operation::HeadBucket, 0, self.inner.open(cx, name)).await?;
                Ok(self.wrap(bucket))
            }

            async fn create_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
                self.around(cx, Operation::CreateBucket, 0, self.inner.create_bucket(cx, name)).await
            }

            async fn delete_bucket(&self, cx: &Ctx, name: &BucketName) -> Result<()> {
                self.around(cx, Operation::DeleteBucket, 0, self.inner.delete_bucket(cx, name)).await
            }
        }
    };
}

/// What the macros name.
macro_rules! around_imports {
    () => {
        use std::{ops::Range, sync::Arc};

        use crate::store::{
            Acl, Body, Bucket, BucketInfo, BucketName, Capabilities, Error, Head, Key, ListRequest, Meta, ObjectVersion, OpenUpload,
            Operation, Page, Part, PartNumber, Payload, Replaces, Result, Service, Stored, Tags, Upload,
        };
        use crate::support::Ctx;
    };
}

pub(in crate::store::wrap) use {around_bucket, around_imports, around_service};
