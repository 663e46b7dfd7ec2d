//! The socket as russh sees it.
//!
//! russh reads a packet in two steps, its length and the rest: here both, and what else has come, come with one call to the
//! kernel. It writes and reads in one loop, and does not read while it cannot write. With a peer that does the same, and
//! much to be sent in both directions, each would wait for the other to read: for ever, keepalives included. So nothing
//! waits to be written while there is something to be read; what the socket does not take is kept here, and whoever
//! produces waits until it is little ([`Backlog`]). And it tells when russh begins to close it, because russh then waits for
//! the peer without a bound.

use bytes::{Buf, BytesMut};
use std::{
    io::{self, IoSliceMut},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::coop,
};
use tokio_util::sync::CancellationToken;

/// What is read beyond what was asked for: a little, or from a peer that sends more than can be read at once.
const AHEAD: usize = 4 * 1024;
const FAR_AHEAD: usize = 64 * 1024;

/// So much is little: it may be more while more is produced only for what has been read.
const LITTLE: usize = 256 * 1024;

/// The answers to what a peer sends are not many, if it reads any of them.
const MAX_WAITING: usize = 16 * 1024 * 1024;

/// What russh has written and the peer's socket has not taken.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: AtomicUsize,
    less: Notify,
}

impl Backlog {
    fn set(&self, bytes: usize) {
        self.bytes.store(bytes, Relaxed);
        if bytes <= LITTLE {
            self.less.notify_waiters();
        }
    }

    /// Waits until it is little.
    pub(super) async fn little(&self) {
        while self.bytes.load(Relaxed) > LITTLE {
            let mut less = pin!(self.less.notified());
            // From here on it is not missed.
            less.as_mut().enable();
            if self.bytes.load(Relaxed) > LITTLE {
                less.await;
            }
        }
    }
}

/// See the module.
pub(super) struct Socket {
    stream: TcpStream,
    closing: CancellationToken,
    ahead: Ahead,
    waiting: BytesMut,
    backlog: Arc<Backlog>,
}

/// What was read beyond what was asked for. An idle connection holds none; one that waits for something else holds on to it.
#[derive(Default)]
struct Ahead {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Ahead {
    /// The last read filled it.
    fn was_full(&self) -> bool {
        self.to == self.bytes.len()
    }
}

impl Socket {
    pub(super) fn new(stream: TcpStream, closing: CancellationToken, backlog: Arc<Backlog>) -> Self {
        Self { stream, closing, ahead: Ahead::default(), waiting: BytesMut::new(), backlog }
    }

    /// Writes what is kept, as the socket takes it. Ready when nothing is left.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.waiting.len();
        let outcome = loop {
            if self.waiting.is_empty() {
                self.waiting = BytesMut::new();
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.waiting) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.waiting.advance(count),
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if self.waiting.len() < before {
            self.backlog.set(self.waiting.len());
        }
        outcome
    }

    /// Whether the peer waits for something to be read. The same task is woken for both.
    fn has_input(&self, cx: &mut Context<'_>) -> bool {
        self.ahead.from < self.ahead.to || self.stream.poll_read_ready(cx).is_ready()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        // Whoever reads sees to it that the rest is written.
        if !socket.waiting.is_empty()
            && let Poll::Ready(Err(error)) = socket.drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        let ahead = &mut socket.ahead;
        if let Some(bytes) = ahead.bytes.get(ahead.from..ahead.to).filter(|bytes| !bytes.is_empty()) {
            // The socket counts what is read from it; a turn must not last for all that a peer can send.
            let turn = ready!(coop::poll_proceed(cx));
            turn.made_progress();
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..count]);
            ahead.from += count;
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(socket.stream.poll_read_ready(cx))?;
            let wanted = buf.initialize_unfilled();
            let length = wanted.len();
            if ahead.bytes.is_empty() {
                ahead.bytes = vec![0; AHEAD];
            } else if ahead.was_full() {
                ahead.bytes.resize(FAR_AHEAD, 0);
            }
            match socket.stream.try_read_vectored(&mut [IoSliceMut::new(wanted), IoSliceMut::new(&mut ahead.bytes)]) {
                Ok(count) => {
                    buf.advance(count.min(length));
                    (ahead.from, ahead.to) = (0, count.saturating_sub(length));
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *ahead = Ahead::default(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if socket.drain(cx)?.is_ready()
            // The usual case, without a copy.
            && let written @ Poll::Ready(_) = Pin::new(&mut socket.stream).poll_write(cx, buf)
        {
            return written;
        }
        if !socket.has_input(cx) {
            return Poll::Pending;
        }
        if socket.waiting.len().saturating_add(buf.len()) > MAX_WAITING {
            return Poll::Ready(Err(io::Error::other("the peer does not read")));
        }
        socket.waiting.extend_from_slice(buf);
        socket.backlog.set(socket.waiting.len());
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().drain(cx) {
            Poll::Pending => Poll::Ready(Ok(())),
            ready @ Poll::Ready(_) => ready,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.closing.cancel();
        ready!(socket.drain(cx))?;
        Pin::new(&mut socket.stream).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nobody waits for what is never written.
        self.backlog.set(0);
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, split},
        net::TcpListener,
        task::yield_now,
    };

    async fn pair() -> (Socket, TcpStream, Arc<Backlog>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let backlog = Arc::new(Backlog::default());
        let socket = Socket::new(near.unwrap(), CancellationToken::new(), backlog.clone());
        (socket, far.unwrap().0, backlog)
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_not_lost() {
        let (mut socket, mut far, _) = pair().await;
        let sent = bytes(300_000);
        let mut got = vec![0; sent.len()];
        let (read, written) = tokio::join!(
            async {
                // As russh reads: a little, and the rest.
                for packet in got.chunks_mut(33_000) {
                    let (length, rest) = packet.split_at_mut(4);
                    socket.read_exact(length).await?;
                    socket.read_exact(rest).await?;
                }
                io::Result::Ok(())
            },
            far.write_all(&sent)
        );
        read.unwrap();
        written.unwrap();
        assert!(got == sent);
        drop(far);
        assert_eq!(socket.read(&mut got).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn nothing_waits_to_be_written_while_there_is_something_to_be_read() {
        let (socket, mut far, backlog) = pair().await;
        let (mut reader, mut writer) = split(socket);
        let sent = bytes(8 * 1024 * 1024);
        far.write_all(b"x").await.unwrap();
        // The other side reads nothing.
        for piece in sent.chunks(100_000) {
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
        }
        let mut waits = tokio::spawn(async move { backlog.little().await });
        yield_now().await;
        assert!(!waits.is_finished(), "whoever produces waits");
        // It is whoever reads that goes on writing.
        let (got, arrived) = tokio::join!(
            async {
                assert_eq!(reader.read_u8().await.unwrap(), b'x');
                reader.read_u8().await.unwrap()
            },
            async {
                let mut all = vec![0; sent.len()];
                far.read_exact(&mut all).await.unwrap();
                far.write_all(b"y").await.unwrap();
                all
            }
        );
        assert_eq!(got, b'y');
        assert!(arrived == sent);
        (&mut waits).await.unwrap();
    }

    #[tokio::test]
    async fn whoever_reads_ahead_lets_others_have_their_turn() {
        let (mut socket, mut far, _) = pair().await;
        far.write_all(&bytes(4 * AHEAD)).await.unwrap();
        // What follows is there already, and nobody waits for the socket.
        socket.read_u8().await.unwrap();
        let others = tokio::spawn(async {});
        let mut count = 0;
        while !others.is_finished() {
            socket.read_u8().await.unwrap();
            count += 1;
            assert!(count < AHEAD, "all that was read ahead was taken in one turn");
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (mut socket, mut far, _) = pair().await;
        far.write_all(b"x").await.unwrap();
        let piece = vec![0; 1024 * 1024];
        let mut count = 0;
        while socket.write_all(&piece).await.is_ok() {
            count += 1;
            assert!(count < 64);
        }
        assert!(count >= 16);
    }
}
