//! Counts what is asked of the store: every attempt by operation and how it ended, and bytes both ways.
//!
//! Names are `store_<operation>_<ok|refused|throttled|failed>`, `store_bytes_received` and `store_bytes_sent`. One call is one count; a call that
//! pages by itself (buckets, uploads, parts) or opens a bucket (HEAD and versioning) is counted once whatever it took.

use super::{around_bucket, around_imports, around_service};
use crate::store::Kind;
use crate::support::{Counter, Metrics};

around_imports!();

/// Counts for a service, or one of its buckets.
#[derive(Debug)]
pub(in crate::store) struct Meter<T: ?Sized> {
    inner: Arc<T>,
    counts: Arc<Counts>,
}

/// The counters, taken out of the map once.
#[derive(Debug)]
pub(in crate::store) struct Counts {
    /// By operation, in the order of [`Operation::ALL`], and by ending.
    endings: Vec<[Arc<Counter>; 4]>,
    received: Arc<Counter>,
    sent: Arc<Counter>,
}

/// How an attempt ended: its place in [`Counts::endings`].
#[derive(Debug, Clone, Copy)]
enum Ending {
    Ok,
    Refused,
    Throttled,
    Failed,
}

impl Counts {
    pub(in crate::store) fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            endings: Operation::ALL.iter().map(|operation| names(*operation).map(|name| metrics.counter(name))).collect(),
            received: metrics.counter("store_bytes_received"),
            sent: metrics.counter("store_bytes_sent"),
        })
    }

    fn count(&self, operation: Operation, ending: Ending) {
        // The order of the variants is that of `ALL`; a test holds them together.
        if let Some(endings) = self.endings.get(operation as usize) {
            endings[ending as usize].add(1);
        }
    }
}

fn ending(error: Option<&Error>) -> Ending {
    match error {
        None => Ending::Ok,
        Some(error) if error.kind() == Kind::Throttled => Ending::Throttled,
        Some(error) if matches!(error.kind(), Kind::Unavailable | Kind::Corrupt | Kind::NoProgress | Kind::Source) => Ending::Failed,
        Some(_) => Ending::Refused,
    }
}

impl<T: ?Sized> Meter<T> {
    pub(in crate::store) fn new(inner: Arc<T>, counts: Arc<Counts>) -> Self {
        Self { inner, counts }
    }

    async fn around<R>(&self, _cx: &Ctx, operation: Operation, bytes: u64, request: impl Future<Output = Result<R>>) -> Result<R> {
        let answer = request.await;
        self.counts.count(operation, ending(answer.as_ref().err()));
        if answer.is_ok() {
            self.counts.sent.add(bytes);
        }
        answer
    }

    async fn body(&self, cx: &Ctx, request: impl Future<Output = Result<Body>>) -> Result<Body> {
        let body = self.around(cx, Operation::Get, 0, request).await?;
        let counts = Arc::clone(&self.counts);
        Ok(body.inspect(move |step| match step {
            Ok(bytes) => counts.received.add(bytes.len() as u64),
            Err(error) => counts.count(Operation::Get, ending(Some(error))),
        }))
    }
}

impl Meter<dyn Service> {
    fn wrap(&self, bucket: Arc<dyn Bucket>) -> Arc<dyn Bucket> {
        Arc::new(Meter::<dyn Bucket>::new(bucket, Arc::clone(&self.counts)))
    }
}

around_bucket!(Meter<dyn Bucket>);
around_service!(Meter<dyn Service>);

macro_rules! names {
    ($($variant:ident => $name:literal),* $(,)?) => {
        const fn names(operation: Operation) -> [&'static str; 4] {
            match operation {
                $(Operation::$variant => [
                    concat!("store_", $name, "_ok"),
                    concat!("store_", $name, "_refused"),
                    concat!("store_", $name, "_throttled"),
                    concat!("store_", $name, "_failed"),
                ],)*
            }
        }
    };
}

names! {
    ListBuckets => "list_buckets",
    HeadBucket => "head_bucket",
    CreateBucket => "create_bucket",
    DeleteBucket => "delete_bucket",
    Location => "location",
    Versioning => "versioning",
    Head => "head",
    Get => "get",
    List => "list",
    Acl => "acl",
    Tags => "tags",
    Put => "put",
    Copy => "copy",
    Delete => "delete",
    DeleteMany => "delete_many",
    CreateUpload => "create_upload",
    UploadPart => "upload_part",
    CopyPart => "copy_part",
    CompleteUpload => "complete_upload",
    AbortUpload => "abort_upload",
    ListUploads => "list_uploads",
    ListParts => "list_parts",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_counters() {
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, place, "{operation:?}");
        }
        let metrics = Metrics::default();
        let counts = Counts::new(&metrics);
        counts.count(Operation::Versioning, Ending::Throttled);
        assert_eq!(metrics.snapshot()["store_versioning_throttled"], 1);
        assert_eq!(metrics.snapshot().values().sum::<u64>(), 1);
    }
}
