//! Runs an operation: polled once on the FUSE thread, on the runtime if that was not enough.
//!
//! What is in memory is answered where it was asked (about 0.1 µs); a task for everything would cost a thread change on each. That one poll is
//! sound because 1. the runtime's context is entered, or timers and sockets would panic; 2. the future is boxed before it is polled, so that it
//! can move on; 3. operations do no disk and no network I/O in a poll; 4. a panic is caught, or it would take the event loop with it. The task
//! polls again at once, so the first poll's waker may do nothing.
//!
//! F1: every request is answered once. A panic is EIO; a task dropped by a runtime that ends drops fuser's reply object, which answers EIO by
//! itself. And no operation outlasts its caller's patience: operations end by their context, but one that does not is dropped here, a little
//! later, and answered ETIMEDOUT, because the kernel cannot take a request back from us (fuser 0.18 refuses FUSE_INTERRUPT).

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::support::{Clock, Ctx, NoProgress};
use crate::vfs::{Error, Result};

/// How much longer than the operation itself we wait, so that its own, better error is the answer.
const GRACE: Duration = Duration::from_secs(2);

/// Where operations run and how long they may take.
#[derive(Debug)]
pub(super) struct Dispatch {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    /// How long a program waits while nothing moves.
    patience: Duration,
}

/// What is logged of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// As the kernel names it, in lower case.
    pub(super) operation: &'static str,
    /// The inode it is about, or the directory.
    pub(super) ino: u64,
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Dispatch {
    pub(super) fn new(runtime: Handle, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Self { runtime, clock, patience }
    }

    /// Runs `work` with a context of its own and hands its result to `answer`.
    pub(super) fn run<R, T, F>(
        &self,
        request: Request,
        reply: R,
        work: impl FnOnce(Ctx) -> F,
        answer: impl FnOnce(R, Result<T>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let _runtime = self.runtime.enter();
        let mut cx = Ctx::new(Arc::clone(&self.clock), self.patience, request.pid, request.uid);
        cx.gid = Some(request.gid);
        // The outer net: a panic while the future is made or the answer is encoded. The reply object is dropped with it and answers EIO.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut work: Pin<Box<dyn Future<Output = Result<T>> + Send>> = Box::pin(work(cx.clone()));
            let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
            match polled {
                Ok(Poll::Ready(result)) => answer(reply, result),
                Ok(Poll::Pending) => drop(self.runtime.spawn(later(request, cx, reply, work, answer))),
                Err(panic) => answer(reply, Err(panicked(&*panic))),
            }
        }));
        if let Err(panic) = ended {
            lost(request, &*panic);
        }
    }
}

/// The rest of an operation that was not ready at once.
async fn later<R, T>(
    request: Request,
    cx: Ctx,
    reply: R,
    work: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    answer: impl FnOnce(R, Result<T>) + Send,
) {
    let result = match patiently(&cx, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(stuck) => Err(stuck.into()),
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| answer(reply, result))) {
        lost(request, &*panic);
    }
}

/// As [`Ctx::bounded`], but [`GRACE`] later.
async fn patiently<T>(cx: &Ctx, work: impl Future<Output = T>) -> std::result::Result<T, NoProgress> {
    let mut work = std::pin::pin!(work);
    loop {
        let left = (cx.deadline() + GRACE).saturating_duration_since(cx.clock().now());
        if left.is_zero() {
            return Err(NoProgress(cx.patience()));
        }
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = cx.clock().sleep(left) => {}
        }
    }
}

/// What an operation that panicked ends with; whoever answers it logs it.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let said = said.unwrap_or_else(|| "no message".to_owned());
    Error::Io(format!("the operation panicked, which is a defect of this program: {said}").into())
}

/// The answer panicked, so nobody has logged it.
fn lost(request: Request, panic: &(dyn Any + Send)) {
    tracing::error!(operation = request.operation, ino = request.ino, "no answer: {}", panicked(panic));
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::fuse::errno::errno;
    use crate::support::SystemClock;

    /// Stands for fuser's reply objects: tells what was answered, and when it is dropped without an answer, that.
    struct Reply(Option<mpsc::UnboundedSender<Answered>>);

    #[derive(Debug, PartialEq, Eq)]
    enum Answered {
        With(std::result::Result<u32, i32>),
        ByDropping,
    }

    impl Drop for Reply {
        fn drop(&mut self) {
            if let Some(tell) = self.0.take() {
                tell.send(Answered::ByDropping).unwrap();
            }
        }
    }

    fn answer(mut reply: Reply, result: Result<u32>) {
        let result = result.map_err(|error| errno(&error).code());
        reply.0.take().unwrap().send(Answered::With(result)).unwrap();
    }

    fn fixture() -> (Dispatch, Request, mpsc::UnboundedReceiver<Answered>, Reply) {
        let dispatch = Dispatch::new(Handle::current(), Arc::new(SystemClock), Duration::from_secs(90));
        let (tell, told) = mpsc::unbounded_channel();
        (dispatch, Request { operation: "test", ino: 1, pid: 2, uid: 3, gid: 4 }, told, Reply(Some(tell)))
    }

    const EIO: Answered = Answered::With(Err(nix::libc::EIO));

    #[tokio::test]
    async fn what_is_ready_is_answered_before_run_returns() {
        let (dispatch, request, mut told, reply) = fixture();
        dispatch.run(request, reply, |cx| async move { Ok(cx.pid + cx.uid) }, answer);
        assert_eq!(told.try_recv(), Ok(Answered::With(Ok(5))));
    }

    #[tokio::test]
    async fn what_waits_is_answered_later_and_once() {
        let (dispatch, request, mut told, reply) = fixture();
        let (go, wait) = oneshot::channel();
        dispatch.run(request, reply, |_| async move { wait.await.map_err(|_| Error::BadHandle) }, answer);
        assert!(told.try_recv().is_err());
        go.send(7).unwrap();
        assert_eq!(told.recv().await, Some(Answered::With(Ok(7))));
        assert_eq!(told.recv().await, None, "nothing more");
    }

    #[tokio::test]
    async fn a_panic_is_eio_on_either_thread() {
        let (dispatch, request, mut told, reply) = fixture();
        dispatch.run(request, reply, |_| async move { panic!("at once") }, answer);
        assert_eq!(told.try_recv(), Ok(EIO));
        let (dispatch, request, mut told, reply) = fixture();
        let late = |_| async move {
            tokio::task::yield_now().await;
            panic!("later {}", 1)
        };
        dispatch.run(request, reply, late, answer);
        assert_eq!(told.recv().await, Some(EIO));
    }

    #[tokio::test]
    async fn a_panic_in_the_answer_drops_the_reply() {
        let (dispatch, request, mut told, reply) = fixture();
        let bad = |_: Reply, _: Result<u32>| panic!("encoding");
        dispatch.run(request, reply, |_| async { Ok(1) }, bad);
        assert_eq!(told.try_recv(), Ok(Answered::ByDropping));
    }

    #[tokio::test]
    async fn a_dropped_task_drops_the_reply() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (mut dispatch, request, mut told, reply) = fixture();
        dispatch.runtime = runtime.handle().clone();
        dispatch.run(request, reply, |_| std::future::pending(), answer);
        runtime.shutdown_background();
        assert_eq!(told.recv().await, Some(Answered::ByDropping));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_outlasts_the_patience_of_its_caller() {
        let (dispatch, request, mut told, reply) = fixture();
        let start = dispatch.clock.now();
        dispatch.run(request, reply, |_| std::future::pending(), answer);
        assert_eq!(told.recv().await, Some(Answered::With(Err(nix::libc::ETIMEDOUT))));
        assert_eq!(dispatch.clock.now() - start, Duration::from_secs(90) + GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_moves_may_take_long() {
        let (dispatch, request, mut told, reply) = fixture();
        let slow = |cx: Ctx| async move {
            for _ in 0..10 {
                cx.clock().sleep(Duration::from_secs(80)).await;
                cx.progressed();
            }
            Ok(1)
        };
        dispatch.run(request, reply, slow, answer);
        assert_eq!(told.recv().await, Some(Answered::With(Ok(1))));
    }
}
