//! Writes header names as COS does: `Content-Type`, `ETag`, but `x-cos-request-id`.
//!
//! Names are the same in any case, yet the Python SDK hands them out in a plain dictionary, so its users depend on COS's spelling. hyper
//! writes all of them in lower case, or all of them capitalised. The names of an answer's head are therefore respelt on their way to the
//! socket, where no byte moves.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::Control;

/// A stream whose answers' heads are respelt.
#[derive(Debug)]
pub(super) struct Cased<S> {
    stream: S,
    control: Arc<Control>,
}

impl<S> Cased<S> {
    pub(super) fn new(stream: S, control: Arc<Control>) -> Self {
        Self { stream, control }
    }

    /// The head at the beginning of what is about to be written, respelt; None if there is none.
    fn head(&self, buf: &[u8]) -> Option<Vec<u8>> {
        if !self.control.head_is_due() || !buf.starts_with(b"HTTP/1.1 ") || buf.starts_with(b"HTTP/1.1 100") {
            return None;
        }
        let end = buf.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        Some(respell(&buf[..end]))
    }

    /// Once a part of a head is out, the head is no longer due: what is left of it, if the socket took only a part, keeps its spelling.
    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        if matches!(result, Poll::Ready(Ok(_))) {
            self.control.head_is_out();
        }
    }
}

fn respell(head: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.len());
    for (index, line) in head.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let name = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        if index == 0 || line.starts_with(b"x-") {
            out.extend_from_slice(line);
        } else if line.starts_with(b"etag:") {
            out.extend_from_slice(b"ETag");
            out.extend_from_slice(&line[name..]);
        } else {
            let mut capital = true;
            for byte in &line[..name] {
                out.push(if capital { byte.to_ascii_uppercase() } else { *byte });
                capital = *byte == b'-';
            }
            out.extend_from_slice(&line[name..]);
        }
    }
    out
}

impl<S: AsyncRead + Unpin> AsyncRead for Cased<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cased<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let first = bufs.first().map_or(&[][..], |buf| &**buf);
        let Some(head) = this.head(first) else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        };
        let rest = [IoSlice::new(&head), IoSlice::new(&first[head.len()..])];
        let all: Vec<IoSlice<'_>> = rest.into_iter().chain(bufs.iter().skip(1).map(|buf| IoSlice::new(buf))).collect();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, &all);
        this.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_cos_spells_them() {
        let head = b"HTTP/1.1 200 OK: fine\r\ncontent-type: a/b-c\r\netag: \"x\"\r\nx-cos-request-id: y\r\nlast-modified: z\r\n\r\n";
        let wanted = "HTTP/1.1 200 OK: fine\r\nContent-Type: a/b-c\r\nETag: \"x\"\r\nx-cos-request-id: y\r\nLast-Modified: z\r\n\r\n";
        assert_eq!(String::from_utf8(respell(head)).unwrap(), wanted);
    }
}
