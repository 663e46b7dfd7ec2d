//! The agent's socket to a gateway, which always takes what is written.
//!
//! russh writes and reads in one loop, and does not read while it cannot write. With russh at both ends and much to be sent
//! in both directions, as through a tunnel, each would wait for the other to read: for ever, keepalives included. So at
//! this end nothing waits to be written; what the socket does not take is kept here. It is bounded by the windows of the
//! channels, and by [`MAX_WAITING`] whatever the gateway says they are.

use bytes::{Buf, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than the windows of an agent's channels together.
const MAX_WAITING: usize = 64 * 1024 * 1024;
/// An empty buffer that is larger is given back.
const KEEP: usize = 256 * 1024;

/// See the module.
pub(super) struct Eager<S> {
    stream: S,
    waiting: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Eager<S> {
    /// Around a socket.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, waiting: BytesMut::new() }
    }

    /// Writes as much as the socket takes. Ready when nothing is left.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.waiting) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.waiting.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.waiting.capacity() > KEEP {
            self.waiting = BytesMut::new();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Eager<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Whoever reads sees to it that the rest is written: the same task is woken for both.
        if let Poll::Ready(Err(error)) = self.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Eager<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len().saturating_add(buf.len()) > MAX_WAITING {
            return Poll::Ready(Err(io::Error::other("the gateway does not read")));
        }
        if self.waiting.is_empty() {
            // The usual case, without a copy.
            match Pin::new(&mut self.stream).poll_write(cx, buf) {
                Poll::Pending => {}
                ready @ Poll::Ready(_) => return ready,
            }
        }
        self.waiting.extend_from_slice(buf);
        if let Poll::Ready(Err(error)) = self.drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.drain(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_shutdown(cx),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

    #[tokio::test]
    async fn nothing_waits_to_be_written_and_everything_arrives_in_order() {
        let (near, mut far) = duplex(10);
        // As russh has it: two halves of one stream.
        let (mut reader, mut writer) = split(Eager::new(near));
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        for piece in sent.chunks(7777) {
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
        }
        // It is whoever reads that goes on writing, with nothing to read.
        let (arrived, got) = tokio::join!(
            async {
                let mut all = vec![0; sent.len()];
                far.read_exact(&mut all).await.unwrap();
                far.write_all(b"x").await.unwrap();
                all
            },
            reader.read_u8()
        );
        assert!(arrived == sent);
        assert_eq!(got.unwrap(), b'x');
        let mut rest = vec![];
        writer.write_all(&sent[..1000]).await.unwrap();
        let (_, read) = tokio::join!(writer.shutdown(), far.read_to_end(&mut rest));
        assert_eq!((read.unwrap(), rest.as_slice()), (1000, &sent[..1000]));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (near, _far) = duplex(10);
        let mut eager = Eager::new(near);
        let piece = vec![0; 1024 * 1024];
        let mut count = 0;
        while eager.write_all(&piece).await.is_ok() {
            count += 1;
            assert!(count <= 64);
        }
        assert_eq!(count, 64);
    }
}
