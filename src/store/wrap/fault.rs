//! Faults for tests, below the meter: rules on the n-th request of an operation. No mount has them.

use parking_lot::Mutex;

use super::{around_bucket, around_imports, around_service};
use crate::store::Kind;

around_imports!();

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is refused: nothing happened, and the caller knows.
    Refuse(Kind),
    /// The request is lost: nothing happened, but the caller cannot know.
    LoseRequest,
    /// The answer is lost: it happened, but the caller cannot know.
    LoseAnswer,
    /// The body ends after so many bytes.
    CutBody(u64),
    /// The body has a wrong byte there.
    SpoilBody(u64),
}

/// Rules, shared by everything that one stack opens.
#[derive(Debug, Default)]
pub struct Faults {
    /// Operation, how many of its requests still pass, what then happens.
    rules: Mutex<Vec<(Operation, u64, Fault)>>,
}

impl Faults {
    /// The `nth` request of `operation` from now on, counted from 1, meets `fault`.
    pub fn add(&self, operation: Operation, nth: u64, fault: Fault) {
        self.rules.lock().push((operation, nth, fault));
    }

    /// How many rules have not been met.
    pub fn left(&self) -> usize {
        self.rules.lock().len()
    }

    fn meet(&self, operation: Operation) -> Option<Fault> {
        let mut rules = self.rules.lock();
        let mut met = None;
        rules.retain_mut(|(of, left, fault)| {
            if *of != operation || met.is_some() {
                return true;
            }
            *left = left.saturating_sub(1);
            if *left == 0 {
                met = Some(*fault);
            }
            *left > 0
        });
        met
    }
}

/// Makes the requests of a service, or of one of its buckets, fail.
#[derive(Debug)]
pub(in crate::store) struct Faulty<T: ?Sized> {
    inner: Arc<T>,
    faults: Arc<Faults>,
}

impl<T: ?Sized> Faulty<T> {
    pub(in crate::store) fn new(inner: Arc<T>, faults: Arc<Faults>) -> Self {
        Self { inner, faults }
    }

    async fn around<R>(&self, _cx: &Ctx, operation: Operation, _bytes: u64, request: impl Future<Output = Result<R>>) -> Result<R> {
        meet(self.faults.meet(operation), operation, request).await
    }

    async fn body(&self, _cx: &Ctx, request: impl Future<Output = Result<Body>>) -> Result<Body> {
        let fault = self.faults.meet(Operation::Get);
        let body = meet(fault, Operation::Get, request).await?;
        Ok(match fault {
            Some(Fault::CutBody(at)) => body.spoiled(at, None),
            Some(Fault::SpoilBody(at)) => body.spoiled(at, Some(0xff)),
            _ => body,
        })
    }
}

/// A request under a fault.
async fn meet<R>(fault: Option<Fault>, operation: Operation, request: impl Future<Output = Result<R>>) -> Result<R> {
    let lost = || {
        let error = Error::new(Kind::Unavailable, operation.name(), "a fault was asked for");
        Err(if operation.repeats_freely() { error } else { error.unknown() })
    };
    match fault {
        Some(Fault::Refuse(kind)) => Err(Error::new(kind, operation.name(), "a fault was asked for")),
        Some(Fault::LoseRequest) => lost(),
        Some(Fault::LoseAnswer) => {
            request.await?;
            lost()
        }
        Some(Fault::CutBody(_) | Fault::SpoilBody(_)) | None => request.await,
    }
}

impl Faulty<dyn Service> {
    fn wrap(&self, bucket: Arc<dyn Bucket>) -> Arc<dyn Bucket> {
        Arc::new(Faulty::<dyn Bucket>::new(bucket, Arc::clone(&self.faults)))
    }
}

around_bucket!(Faulty<dyn Bucket>);
around_service!(Faulty<dyn Service>);
