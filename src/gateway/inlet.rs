//! What a peer has sent on one channel and nobody has taken yet: a bounded buffer between russh's session loop, which
//! must not wait, and the task that takes. While there is nothing in it, what comes for a node goes straight to its socket.

use super::lock;
use bytes::{Bytes, BytesMut};
use prometheus_client::metrics::counter::Counter;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpStream, sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

/// The most that is taken at once.
const TAKE: usize = 128 * 1024;

/// How long a node may take nothing, until its forward is no longer held back by not reading the socket of the connection
/// whose only one it is. The node may be waiting to be read itself, and so may a peer that does not read while it cannot
/// write: that would be for ever. From then on it is held back by its window.
const STALLED: Duration = Duration::from_millis(500);

/// The window of such a forward ([`super::handler`]): none, but that russh asks again only when something has arrived.
pub(super) const TRICKLE: u32 = 2;

/// Between two trickles. russh neither writes nor looks at its timers meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// What may still come on such a forward: half of a window before that, the window that is given back then, and as much in
/// trickles as takes hours to come.
pub(super) const ON_ITS_WAY: usize = 13 * 1024 * 1024;

/// What has become of what was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is in.
    Taken,
    /// It is in, and now there is as much as there should be.
    High,
    /// It is not in: there is no place left.
    Full,
}

/// A bounded buffer of bytes with an end.
pub(super) struct Inlet {
    capacity: usize,
    /// Beyond the capacity: for what is on its way, and cannot be called back.
    reserve: usize,
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
    /// The peer has closed the channel, or is gone: what is buffered is all there will be.
    pub(super) closed: CancellationToken,
}

/// The socket of a node, and where it is counted what goes to it.
pub(super) struct Direct {
    pub(super) node: Arc<TcpStream>,
    pub(super) moved: Moved,
}

/// Counts what goes up.
#[derive(Clone)]
pub(super) struct Moved {
    pub(super) here: Arc<AtomicU64>,
    pub(super) all: Counter,
}

impl Moved {
    /// So many more.
    pub(super) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.here.fetch_add(bytes, Relaxed);
        self.all.inc_by(bytes);
    }
}

#[derive(Default)]
struct State {
    bytes: BytesMut,
    /// What was taken last may not have been written yet.
    taken: bool,
    /// How often something was taken.
    takes: u64,
    /// Nothing was taken for long, while it was high.
    stalled: bool,
    direct: Option<Direct>,
    ended: bool,
    abandoned: bool,
}

impl Inlet {
    /// An empty one; it is full when it holds `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Self {
        Self::with_reserve(capacity, 0)
    }

    /// The same with a reserve: it is high when it holds `capacity` bytes, and full when it holds `reserve` more.
    pub(super) fn with_reserve(capacity: usize, reserve: usize) -> Self {
        Self {
            capacity,
            reserve,
            state: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Adds bytes. May exceed what it can hold by one packet, so that nothing is cut in two.
    pub(super) fn push(&self, data: &[u8]) -> Pushed {
        let mut state = lock(&self.state);
        if state.abandoned || state.ended {
            return Pushed::Taken;
        }
        let rest = state.straight(data);
        if rest.is_empty() {
            return Pushed::Taken;
        }
        if state.bytes.len() >= self.capacity + self.reserve {
            return Pushed::Full;
        }
        state.bytes.extend_from_slice(rest);
        let high = state.bytes.len() >= self.capacity;
        drop(state);
        self.filled.notify_one();
        if high { Pushed::High } else { Pushed::Taken }
    }

    /// Whether it holds as much as it should.
    pub(super) fn is_high(&self) -> bool {
        let state = lock(&self.state);
        !state.abandoned && !state.ended && state.bytes.len() >= self.capacity
    }

    /// What comes from now on may go to a node directly, when nothing that came before it waits.
    pub(super) fn connect(&self, direct: Direct) {
        let mut state = lock(&self.state);
        if !state.abandoned {
            state.direct = Some(direct);
        }
    }

    /// Waits until it holds less than it should.
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

    /// Whether nothing was ever taken for so long that it is no use to wait for it.
    pub(super) fn is_stalled(&self) -> bool {
        lock(&self.state).stalled
    }

    /// Waits until it holds less than it should; or, once and for all, until nothing was taken for so long.
    async fn room_or_stalled(&self, patience: Duration) {
        loop {
            let before = lock(&self.state).takes;
            if timeout(patience, self.room()).await.is_ok() {
                return;
            }
            let mut state = lock(&self.state);
            if state.takes == before {
                state.stalled = true;
                return;
            }
        }
    }

    /// Waits, after a packet of so many bytes, for a node that does not take them; if that is of use.
    pub(super) async fn patience(&self, length: usize) {
        if !self.is_stalled() {
            self.room_or_stalled(STALLED).await;
        } else if length <= TRICKLE as usize {
            // It fails when the time is over, which is as good.
            let _ = timeout(PAUSE, self.room()).await;
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
        state.direct = None;
        drop(state);
        self.emptied.notify_one();
    }

    /// The next bytes; none at the end. Whoever asks has done with those before.
    pub(super) async fn next(&self) -> Option<Bytes> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = lock(&self.state);
                state.taken = !state.bytes.is_empty();
                if state.taken {
                    state.takes += 1;
                    let length = state.bytes.len().min(TAKE);
                    let taken = state.bytes.split_to(length).freeze();
                    if state.bytes.is_empty() {
                        // What was large once is given back when it is written.
                        state.bytes = BytesMut::new();
                    }
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

impl State {
    /// Writes to the node what it takes at once, if nothing waits before it, and returns the rest.
    fn straight<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        let Some(direct) = self.direct.as_ref().filter(|_| self.bytes.is_empty() && !self.taken) else { return data };
        // Whoever takes the rest meets the error.
        let count = direct.node.try_write(data).unwrap_or(0);
        direct.moved.add(count);
        &data[count..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_bounded_and_loses_nothing() {
        let inlet = Inlet::with_reserve(10, 5);
        assert_eq!(inlet.push(b"12345678"), Pushed::Taken);
        assert_eq!(inlet.push(b"9012"), Pushed::High);
        assert!(inlet.is_high());
        assert_eq!(inlet.push(b"345678"), Pushed::High, "one packet may exceed the bound");
        assert_eq!(inlet.push(b"x"), Pushed::Full);
        assert_eq!(inlet.next().await.unwrap(), &b"123456789012345678"[..]);
        inlet.room().await;
        assert_eq!(inlet.push(b"tail"), Pushed::Taken);
        inlet.close();
        assert_eq!(inlet.next().await.unwrap(), &b"tail"[..], "what came before the close is delivered");
        assert_eq!(inlet.next().await, None);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_nobody_takes_any_more() {
        let inlet = Inlet::new(1);
        assert_eq!(inlet.push(b"full"), Pushed::High);
        assert_eq!(inlet.push(b"x"), Pushed::Full);
        inlet.abandon();
        inlet.room().await;
        assert_eq!(inlet.push(b"dropped"), Pushed::Taken);
        assert_eq!(inlet.next().await, None);
    }

    #[tokio::test]
    async fn what_goes_straight_to_the_node_never_overtakes() {
        use tokio::{io::AsyncReadExt, net::TcpListener};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (node, mut far) = (Arc::new(near.unwrap()), far.unwrap().0);
        let (inlet, moved) = (Inlet::new(1024), Moved { here: Arc::default(), all: Counter::default() });
        let push = |bytes| assert_eq!(inlet.push(bytes), Pushed::Taken);
        push(b"one ");
        inlet.connect(Direct { node: node.clone(), moved: moved.clone() });
        // It waits behind what waits.
        push(b"two ");
        let first = inlet.next().await.unwrap();
        // It waits behind what is being written.
        push(b"three ");
        node.try_write(&first).unwrap();
        let second = inlet.next().await.unwrap();
        assert_eq!((&first[..], &second[..]), (&b"one two "[..], &b"three "[..]));
        node.try_write(&second).unwrap();
        assert!(timeout(Duration::ZERO, inlet.next()).await.is_err(), "all is written");
        push(b"four");
        assert_eq!((moved.here.load(Relaxed), moved.all.get()), (4, 4), "it has gone already");
        inlet.abandon();
        drop(node);
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one two three four", "and nobody holds the socket of one that is abandoned");
    }
}
