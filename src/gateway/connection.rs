//! One connection from outside the protocol: its name, its socket, and how it is ended for certain.
//!
//! russh's own `Handle::disconnect` is a message to the session loop, which does not read it while the peer's socket is
//! full or a key exchange hangs. What holds is `shutdown(2)` on the socket: every read and write of the loop then
//! fails, whatever the peer does. The message is sent before, for those who read.

use super::{
    channels::Channels,
    doors::Place,
    lock,
    socket::{Backlog, Socket},
};
use crate::app::protocol::ConnectionId;
use russh::{Disconnect, server::Handle};
use rustix::net::Shutdown;
use std::{
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the disconnect message may take to leave before the socket is shut down.
const GRACE: Duration = Duration::from_millis(50);

/// A connection.
pub(super) struct Connection {
    /// 16 hexadecimal digits.
    pub(super) id: ConnectionId,
    /// Its other end.
    pub(super) peer: IpAddr,
    /// Cancelled when the connection ends by order: forwards stop at once, with nothing more moved.
    pub(super) forwards: CancellationToken,
    /// Cancelled when it is over: whoever waits on its behalf stops waiting.
    pub(super) over: CancellationToken,
    /// Cancelled at authentication, unless it is that of a machine that joins: the login deadline goes on for it.
    pub(super) authenticated: CancellationToken,
    /// What is open on it.
    pub(super) channels: Arc<Channels>,
    /// What waits to be written to it.
    pub(super) backlog: Arc<Backlog>,
    /// Its place among the others, until it is over.
    pub(super) place: Mutex<Option<Place>>,
    /// Cancelled when the session loop has begun to close.
    closing: CancellationToken,
    socket: OwnedFd,
    handle: OnceLock<Handle>,
    ending: AtomicBool,
    tried: AtomicBool,
    excused: AtomicBool,
    /// What is to be said with the next command, on standard error.
    remark: Mutex<Option<String>>,
    /// The last warning.
    warning: watch::Sender<String>,
    since: Instant,
    /// When something was last said on it, in milliseconds after `since`.
    said: AtomicU64,
}

impl Connection {
    /// For an accepted socket; the returned stream is what russh gets.
    pub(super) fn new(
        id: ConnectionId,
        peer: IpAddr,
        stream: TcpStream,
        place: Place,
    ) -> io::Result<(Arc<Self>, Socket)> {
        use std::os::fd::AsFd;
        let socket = stream.as_fd().try_clone_to_owned()?;
        let connection = Arc::new(Self {
            id,
            peer,
            forwards: CancellationToken::new(),
            over: CancellationToken::new(),
            authenticated: CancellationToken::new(),
            channels: Arc::default(),
            backlog: Arc::default(),
            place: Mutex::new(Some(place)),
            closing: CancellationToken::new(),
            socket,
            handle: OnceLock::new(),
            ending: AtomicBool::new(false),
            tried: AtomicBool::new(false),
            excused: AtomicBool::new(false),
            remark: Mutex::new(None),
            warning: watch::Sender::default(),
            since: Instant::now(),
            said: AtomicU64::new(0),
        });
        let socket = Socket::new(stream, connection.closing.clone(), connection.backlog.clone());
        Ok((connection, socket))
    }

    /// The session runs.
    pub(super) fn started(&self, handle: Handle) {
        // Set once, by the task that started the session.
        let _ = self.handle.set(handle);
    }

    /// A key or a certificate was presented.
    pub(super) fn tries(&self) {
        self.tried.store(true, Ordering::Relaxed);
    }

    /// Whether one was.
    pub(super) fn has_tried(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    /// That nobody was let in is not the peer's fault.
    pub(super) fn excuse(&self) {
        self.excused.store(true, Ordering::Relaxed);
    }

    /// Whether it is not the peer's fault.
    pub(super) fn excused(&self) -> bool {
        self.excused.load(Ordering::Relaxed)
    }

    /// Something to be said with the next command, since there is no other place for it.
    pub(super) fn remark(&self, text: &str) {
        *lock(&self.remark) = Some(text.to_owned());
    }

    /// Something to be said now, by each command that runs. If none does, with the next one. What somebody has on a node is
    /// encrypted to the node: there is no place in it.
    pub(super) fn warn(&self, text: &str) {
        let text = one_line(text);
        // Not once for each of many forwards.
        let new = self.warning.send_if_modified(|warned| std::mem::replace(warned, text.clone()) != text);
        if new && self.warning.receiver_count() == 0 {
            self.remark(&text);
        }
    }

    /// The warnings from now on.
    pub(super) fn warnings(&self) -> watch::Receiver<String> {
        self.warning.subscribe()
    }

    /// What is to be said, once.
    pub(super) fn take_remark(&self) -> Option<String> {
        lock(&self.remark).take()
    }

    /// Something was said: it is not idle.
    pub(super) fn says(&self) {
        let after = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.said.store(after, Ordering::Relaxed);
    }

    /// How long ago something was last said.
    pub(super) fn quiet(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.said.load(Ordering::Relaxed)))
    }

    /// Resolves when the session loop has begun to close.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Ends the connection for certain: forwards now, then the message if the peer takes it at once, then the socket.
    pub(super) fn end(self: &Arc<Self>, code: Disconnect, reason: &str) {
        // Before the forwards are told, who ask it: see `ending`.
        let again = self.ending.swap(true, Ordering::Relaxed);
        self.forwards.cancel();
        if again {
            return;
        }
        tracing::info!(connection = %self.id, peer = %self.peer, action = "disconnect", outcome = reason);
        let (connection, reason) = (self.clone(), one_line(reason));
        tokio::spawn(async move {
            if let Some(handle) = connection.handle.get() {
                let farewell = async {
                    let sent = handle.disconnect(code, reason, String::new()).await;
                    if sent.is_ok() {
                        connection.over.cancelled().await;
                    }
                };
                let _ = timeout(GRACE, farewell).await;
            }
            connection.cut();
        });
    }

    /// The connection has been told to end. A channel of it is no longer closed by itself: `ssh -W` leaves when its only
    /// channel closes, and would not read the message that says why.
    pub(super) fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Shuts the socket down. Nothing the peer does or leaves undone can prevent it.
    pub(super) fn cut(&self) {
        self.forwards.cancel();
        self.over.cancel();
        // It fails only when the peer has closed already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// Text of others on its way into one line: of somebody's terminal, or of the log.
pub(super) fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1024).collect()
}
