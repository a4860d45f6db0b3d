//! A connection that can be broken on purpose.
//!
//! hyper owns the socket and closes it politely; a fault wants a reset, or bytes that hyper would never write. Both are asked for through the
//! [`Control`] that the requests of a connection share with its [`Link`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What requests may ask of their connection.
#[derive(Debug, Default)]
pub(super) struct Control {
    aborted: AtomicBool,
    head_due: AtomicBool,
    raw: Mutex<Option<Bytes>>,
}

impl Control {
    /// Resets the connection at its next use.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }

    /// Sends these bytes in place of whatever is written next, then closes.
    pub(super) fn say(&self, raw: Bytes) {
        *self.raw.lock() = Some(raw);
    }

    /// An answer begins with the next write.
    pub(super) fn answers(&self) {
        self.head_due.store(true, Ordering::SeqCst);
    }

    pub(super) fn head_is_due(&self) -> bool {
        self.head_due.load(Ordering::SeqCst)
    }

    pub(super) fn head_is_out(&self) {
        self.head_due.store(false, Ordering::SeqCst);
    }

    fn aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }
}

/// The socket under hyper.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    control: Arc<Control>,
}

impl Link {
    pub(super) fn new(stream: TcpStream, control: Arc<Control>) -> Self {
        Self { stream, control }
    }

    fn check(&self) -> io::Result<()> {
        if self.control.aborted() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }

    /// Sends what a fault said instead; None while nobody said anything.
    fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Error>> {
        let Some(mut raw) = self.control.raw.lock().clone() else { return Poll::Ready(None) };
        while !raw.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &raw)) {
                Ok(written) => raw.advance(written),
                Err(error) => return Poll::Ready(Some(error)),
            }
            *self.control.raw.lock() = Some(raw.clone());
        }
        Poll::Ready(Some(io::ErrorKind::BrokenPipe.into()))
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        match ready!(this.poll_raw(cx)) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        match ready!(this.poll_raw(cx)) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.control.aborted() {
            // With no time to linger, close is a reset.
            drop(self.stream.set_zero_linger());
        }
    }
}
