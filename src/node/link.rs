//! One SSH connection to a gateway, and the lines of JSON on it. The gateway is known by its host key alone; the node
//! is known there by its own. What the lines mean is [`super::agent`]'s and [`super::join`]'s.

use super::{
    eager::Eager,
    files,
    lines::{End, Feed, Lines},
    tunnel,
};
use crate::{
    app::protocol::{FromNode, LOOK_SUBSYSTEM, NODE_LOGIN, NODE_SUBSYSTEM, NodeLookAnswer, TUNNEL_SUBSYSTEM},
    domain::{Fingerprint, PublicKey},
};
use russh::{
    Channel, ChannelMsg, ChannelOpenFailure, ChannelWriteHalf,
    client::{self, ChannelOpenHandle, DisconnectReason, Msg, Session},
    keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use thiserror::Error;
use tokio::{net::TcpStream, task::JoinHandle};

/// From the first packet to the open channel.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// A gateway that is silent for three of them is gone.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// The window of each channel. russh ends a connection on which twice as much arrives while it changes keys: as much as
/// both channels of an agent can have on their way.
const WINDOW: u32 = 8 * 1024 * 1024;
/// Longer than any private key's file.
const MAX_HOST_KEY_BYTES: usize = 64 * 1024;

/// Why there is no connection, or no more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// No TCP connection, or SSH broke down.
    #[error("{gateway}: {why}")]
    Transport {
        /// Which gateway.
        gateway: String,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("{0}: no answer in {secs} s", secs = OPEN_TIMEOUT.as_secs())]
    Timeout(String),
    /// Not one of the gateways that this node was told of.
    #[error(
        "{gateway}: its host key is {found}, which is not one of the gateway's; somebody may be in between, or the \
         gateway has a new key: then join again with a new token"
    )]
    HostKey {
        /// Which gateway.
        gateway: String,
        /// The key that it has shown.
        found: Fingerprint,
    },
    /// The gateway does not know this host key.
    #[error("{0}: the gateway does not accept this node's host key")]
    Refused(String),
    /// The gateway has no such subsystem.
    #[error("{0}: the gateway does not talk to nodes")]
    Subsystem(String),
    /// The gateway ended the connection.
    #[error("{gateway}: the gateway ended the connection: {message}")]
    Ended {
        /// Which gateway.
        gateway: String,
        /// What it said.
        message: String,
    },
    /// A line longer than any that is meant for a node.
    #[error("{0}: the gateway sent too much")]
    TooLong(String),
}

/// The node's host key cannot be used.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// It cannot be read.
    #[error("the host key {0}")]
    File(#[from] files::FileError),
    /// It is not a private key in OpenSSH's format, without a passphrase.
    #[error("the host key {} is not a private key in OpenSSH's format without a passphrase", .0.display())]
    Format(PathBuf),
    /// It is of a kind that is not accepted.
    #[error("the host key {}: {why}", .path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// Why.
        why: crate::domain::KeyError,
    },
}

/// The node's host key: its identity.
#[derive(Clone, Debug)]
pub struct HostKey {
    secret: Arc<PrivateKey>,
    /// The public half.
    pub public: PublicKey,
}

impl HostKey {
    /// Reads it as sshd does.
    ///
    /// # Errors
    /// It is missing, others can write to it, or it is no key that is accepted.
    pub fn load(path: &Path) -> Result<Self, HostKeyError> {
        let bytes = zeroize::Zeroizing::new(files::read(path, MAX_HOST_KEY_BYTES)?);
        let format = |_| HostKeyError::Format(path.to_owned());
        let secret = PrivateKey::from_openssh(&bytes[..]).map_err(format)?;
        if secret.is_encrypted() {
            return Err(HostKeyError::Format(path.to_owned()));
        }
        let public = PublicKey::from_key_data(secret.public_key().key_data())
            .map_err(|why| HostKeyError::Kind { path: path.to_owned(), why })?;
        Ok(Self { secret: Arc::new(secret), public })
    }
}

/// What the handler sees and the one who waits for the connection wants to know.
#[derive(Debug, Default)]
struct Seen {
    wrong_key: Option<Fingerprint>,
    message: Option<String>,
}

struct Handler {
    known: Vec<Fingerprint>,
    seen: Arc<Mutex<Seen>>,
}

fn note(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    // Two fields of plain values: they are whole even if a thread panicked beside them.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl client::Handler for Handler {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        // The gateway is pinned by its key, with or without a certificate around it.
        let found = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => Fingerprint::of(key.key_data()),
            PublicKeyOrCertificate::Certificate(certificate) => Fingerprint::of(certificate.public_key()),
        };
        let known = self.known.contains(&found);
        if !known {
            note(&self.seen).wrong_key = Some(found);
        }
        Ok(known)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let message = info.message.chars().filter(|c| !c.is_control()).take(500).collect();
                note(&self.seen).message = Some(message);
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }

    // A gateway opens nothing here. russh's default is to accept.

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _address: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }
}

/// An open channel to a gateway.
pub struct Link {
    gateway: String,
    // The connection ends with its handle.
    handle: Arc<client::Handle<Handler>>,
    channel: ChannelWriteHalf<Msg>,
    seen: Arc<Mutex<Seen>>,
    feed: Arc<Feed>,
    tunnel: Option<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(tunnel) = &self.tunnel {
            tunnel.abort();
        }
    }
}

impl Link {
    /// Connects to `HOST:PORT`, checks that its host key is one of `known`, proves the node's own, and opens the
    /// channel.
    ///
    /// # Errors
    /// Whatever fails first, or the time is over.
    pub async fn open(gateway: &str, login: &str, key: &HostKey, known: &[Fingerprint]) -> Result<Self, LinkError> {
        tokio::time::timeout(OPEN_TIMEOUT, Self::establish(gateway, login, key, known))
            .await
            .unwrap_or_else(|_| Err(LinkError::Timeout(gateway.to_owned())))
    }

    async fn establish(gateway: &str, login: &str, key: &HostKey, known: &[Fingerprint]) -> Result<Self, LinkError> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let failed = |error: russh::Error| why(gateway, &seen, &error.to_string());
        let mut handle = connect(gateway, known, &seen).await?;
        authenticate(&mut handle, gateway, login, key, &seen).await?;
        let mut lines = Lines::default();
        let channel = match subsystem(&handle, NODE_SUBSYSTEM, &mut lines).await.map_err(failed)? {
            Asked::Granted(channel) => channel,
            Asked::Refused => return Err(LinkError::Subsystem(gateway.to_owned())),
            Asked::Ended => return Err(why(gateway, &seen, "the connection broke")),
        };
        let (reader, channel) = channel.split();
        let feed = Feed::follow(reader, lines);
        Ok(Self { gateway: gateway.to_owned(), handle: Arc::new(handle), channel, seen, feed, tunnel: None })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&self, message: &FromNode) -> Result<(), LinkError> {
        let line = serde_json::to_string(message).map_err(|error| self.broken(&error.to_string()))?;
        let sent = self.channel.data_bytes(format!("{line}\n").into_bytes()).await;
        sent.map_err(|error| self.broken(&error.to_string()))
    }

    /// The next line, without its end. Nothing is lost when the future is dropped and asked for again.
    ///
    /// # Errors
    /// The connection is gone, or the gateway sends more than any bundle has.
    pub async fn receive(&mut self) -> Result<Vec<u8>, LinkError> {
        self.feed.next().await.map_err(|end| match end {
            End::Closed => self.broken("the channel was closed"),
            End::Broken => self.broken("the connection broke"),
            End::TooMuch => LinkError::TooLong(self.gateway.clone()),
        })
    }

    /// Lets the gateway reach sshd through this connection, if it cannot already. Returns at once; what becomes of it is in
    /// the log.
    pub fn tunnel(&mut self, sshd: SocketAddr) {
        if self.tunnel.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (gateway, handle) = (self.gateway.clone(), Arc::downgrade(&self.handle));
        self.tunnel = Some(tokio::spawn(async move {
            let Some(connection) = handle.upgrade() else { return };
            let mut nothing = Lines::default();
            let asked = subsystem(&connection, TUNNEL_SUBSYSTEM, &mut nothing);
            let asked = tokio::time::timeout(OPEN_TIMEOUT, asked).await;
            drop(connection);
            match asked {
                Ok(Ok(Asked::Granted(channel))) => {
                    tracing::info!("sshd at {sshd} is reached by {gateway} through this connection");
                    let why = tunnel::serve(channel, sshd).await;
                    tracing::warn!("{gateway}: the way to sshd has ended: {why}");
                }
                _ => tracing::warn!("{gateway}: it does not take a way to sshd; trying again"),
            }
        }));
    }

    /// Keeps the connection for as long as it carries a way to sshd; none if there is none. Dropped, it ends.
    pub fn retire(mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let tunnel = self.tunnel.take_if(|tunnel| !tunnel.is_finished())?;
        let handle = self.handle.clone();
        let tunnel = AbortOnDrop(tunnel);
        Some(async move {
            let mut tunnel = tunnel;
            // It has ended, in whichever way.
            let _ = (&mut tunnel.0).await;
            drop(handle);
        })
    }

    fn broken(&self, error: &str) -> LinkError {
        why(&self.gateway, &self.seen, error)
    }
}

/// A task that ends with this.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a gateway says to a channel with a subsystem.
enum Asked {
    Granted(Channel<Msg>),
    Refused,
    /// The connection ended meanwhile.
    Ended,
}

async fn subsystem(handle: &client::Handle<Handler>, name: &str, lines: &mut Lines) -> Result<Asked, russh::Error> {
    let mut channel = handle.channel_open_session().await?;
    channel.request_subsystem(true, name).await?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(Asked::Granted(channel)),
            // The gateway may speak before its answer is through.
            Some(ChannelMsg::Data { data }) => lines.push(&data),
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(_) => return Ok(Asked::Refused),
            None => return Ok(Asked::Ended),
        }
    }
}

/// Connects, and checks the gateway's host key.
async fn connect(
    gateway: &str,
    known: &[Fingerprint],
    seen: &Arc<Mutex<Seen>>,
) -> Result<client::Handle<Handler>, LinkError> {
    let handler = Handler { known: known.to_vec(), seen: Arc::clone(seen) };
    let stream = TcpStream::connect(gateway).await.map_err(|error| why(gateway, seen, &error.to_string()))?;
    // Small messages that somebody waits for; without it they only get slower.
    let _ = stream.set_nodelay(true);
    let config = client::Config {
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        window_size: WINDOW,
        ..client::Config::default()
    };
    let connected = client::connect_stream(Arc::new(config), Eager::new(stream), handler).await;
    connected.map_err(|error| why(gateway, seen, &error.to_string()))
}

/// Proves the node's host key.
async fn authenticate(
    handle: &mut client::Handle<Handler>,
    gateway: &str,
    login: &str,
    key: &HostKey,
    seen: &Arc<Mutex<Seen>>,
) -> Result<(), LinkError> {
    let failed = |error: russh::Error| why(gateway, seen, &error.to_string());
    let hash = handle.best_supported_rsa_hash().await.map_err(failed)?.flatten();
    let identity = PrivateKeyWithHashAlg::new(Arc::clone(&key.secret), hash);
    if handle.authenticate_publickey(login, identity).await.map_err(failed)?.success() {
        Ok(())
    } else {
        Err(LinkError::Refused(gateway.to_owned()))
    }
}

/// What a gateway has answered to somebody who only looks.
pub(super) enum Greeting {
    /// It is one of those that are known.
    Right,
    /// It also accepts the node's host key, and has said what the authority says, if that could be asked.
    Welcome(Option<NodeLookAnswer>),
}

/// Whether the gateway at `HOST:PORT` is one of `known`, and, with the node's `key`, whether it accepts that and what the
/// authority says. The agent's own connection is left alone: its channel is not opened, with which this one would take its
/// place.
///
/// # Errors
/// Whatever fails first.
pub(super) async fn greet(gateway: &str, key: Option<&HostKey>, known: &[Fingerprint]) -> Result<Greeting, LinkError> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut handle = connect(gateway, known, &seen).await?;
    let greeting = match key {
        None => Greeting::Right,
        Some(key) => {
            authenticate(&mut handle, gateway, NODE_LOGIN, key, &seen).await?;
            Greeting::Welcome(look(&handle).await)
        }
    };
    // Nobody minds if it does not arrive.
    let _ = handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
    Ok(greeting)
}

/// None if the gateway does not know the question, or cannot ask the authority.
async fn look(handle: &client::Handle<Handler>) -> Option<NodeLookAnswer> {
    let mut lines = Lines::default();
    let Ok(Asked::Granted(mut channel)) = subsystem(handle, LOOK_SUBSYSTEM, &mut lines).await else { return None };
    loop {
        if let Some(line) = lines.next() {
            return serde_json::from_slice(&line).ok();
        }
        if lines.is_too_long() {
            return None;
        }
        match channel.wait().await? {
            ChannelMsg::Data { data } => lines.push(&data),
            ChannelMsg::Eof | ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

/// What is known of the reason, best first.
fn why(gateway: &str, seen: &Mutex<Seen>, error: &str) -> LinkError {
    let (gateway, seen) = (gateway.to_owned(), note(seen));
    if let Some(found) = seen.wrong_key {
        LinkError::HostKey { gateway, found }
    } else if let Some(message) = seen.message.clone() {
        LinkError::Ended { gateway, message }
    } else {
        LinkError::Transport { gateway, why: error.to_owned() }
    }
}
