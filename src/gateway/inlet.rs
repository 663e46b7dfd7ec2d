//! What a peer has sent on one channel and nobody has taken yet: a bounded buffer between russh's session loop, which
//! must not wait, and the task that takes.

use super::lock;
use bytes::{Bytes, BytesMut};
use std::sync::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The most that is taken at once.
const TAKE: usize = 128 * 1024;

/// A bounded buffer of bytes with an end.
pub(super) struct Inlet {
    capacity: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
    /// The peer has closed the channel, or is gone: what is buffered is all there will be.
    pub(super) closed: CancellationToken,
}

#[derive(Default)]
struct State {
    bytes: BytesMut,
    ended: bool,
    abandoned: bool,
}

impl Inlet {
    /// An empty one; it is full when it holds `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Adds bytes, and is false if it was full. May exceed the capacity by one packet, so that nothing is cut in two.
    pub(super) fn push(&self, data: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.abandoned || state.ended {
            return true;
        }
        if state.bytes.len() >= self.capacity {
            return false;
        }
        state.bytes.extend_from_slice(data);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Waits until it is not full.
    pub(super) async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let state = lock(&self.state);
                if state.abandoned || state.ended || state.bytes.len() < self.capacity {
                    return;
                }
            }
            emptied.await;
        }
    }

    /// No more will come.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.filled.notify_one();
        self.emptied.notify_one();
    }

    /// The peer has closed the channel.
    pub(super) fn close(&self) {
        self.end();
        self.closed.cancel();
    }

    /// Nobody takes any more: what comes is dropped.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.abandoned = true;
        state.bytes = BytesMut::new();
        drop(state);
        self.emptied.notify_one();
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = lock(&self.state);
                if !state.bytes.is_empty() {
                    let length = state.bytes.len().min(TAKE);
                    let taken = state.bytes.split_to(length).freeze();
                    drop(state);
                    self.emptied.notify_one();
                    return Some(taken);
                }
                if state.ended || state.abandoned {
                    return None;
                }
            }
            filled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_bounded_and_loses_nothing() {
        let inlet = Inlet::new(10);
        assert!(inlet.push(b"12345678"));
        assert!(inlet.push(b"9012"), "one packet may exceed the bound");
        assert!(!inlet.push(b"x"), "then it is full");
        assert_eq!(inlet.next().await.unwrap(), &b"123456789012"[..]);
        inlet.room().await;
        assert!(inlet.push(b"tail"));
        inlet.close();
        assert_eq!(inlet.next().await.unwrap(), &b"tail"[..], "what came before the close is delivered");
        assert_eq!(inlet.next().await, None);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_nobody_takes_any_more() {
        let inlet = Inlet::new(1);
        assert!(inlet.push(b"full"));
        inlet.abandon();
        inlet.room().await;
        assert!(inlet.push(b"dropped"));
        assert_eq!(inlet.next().await, None);
    }
}
