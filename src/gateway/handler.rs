//! What the SSH protocol asks, answered: every request gets an answer, most of them no.
//!
//! Nothing here waits for the authority once somebody has authenticated: what takes long runs in a task of its own, so
//! that the session loop goes on serving the other channels.

use super::{
    Shared, algorithms,
    auth::{AWAY, Identity, authenticate, patiently_connected},
    channels::{Entry, Served, WhenFull},
    connection::Connection,
    forward::{Forward, ForwardHandle, MAX_HOST, place},
    inlet::{Inlet, ON_ITS_WAY, Pushed, TRICKLE},
    lock,
    metrics::Bound,
    window::{Distance, WINDOW},
};
use crate::{
    app::{
        authority::Authority,
        protocol::{JOIN_LOGIN, LOOK_SUBSYSTEM, MAX_INPUT, MAX_NODE_LINE, NODE_SUBSYSTEM, Presented, TUNNEL_SUBSYSTEM},
    },
    domain::{MAX_KEY_BYTES, PublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use russh::{
    Channel, ChannelId, ChannelOpenFailure, Disconnect, Error, Pty,
    server::{Auth, ChannelOpenHandle, Handler as SshHandler, Msg, PublicKeyOffer, Session, VerifiedPublicKey},
};
use ssh_key::Certificate;
use std::{sync::Arc, time::Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Channels of one connection over its whole life. russh 0.65.1 keeps about 4 kB for each channel that the server
/// closed first until the connection ends, so their number is bounded as well.
const CHANNELS_IN_A_LIFE: u32 = 16 * 1024;

/// Channels of a connection that has not become anybody's.
const CHANNELS_OF_NOBODY: usize = 4;

/// Why `-R` does nothing here. A global request is answered with yes or no; the words come with the first command.
const NO_LISTENING: &str = "-R was refused: the gateway listens for nobody. Ask the node for it: ssh -R ... NODE";

/// One connection's answers.
pub(super) struct Handler<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) connection: Arc<Connection>,
    attempts: u32,
    /// Set by the one authentication that succeeded, which is the last one.
    pub(super) identity: Option<Identity>,
    opened: u32,
    /// A token may have been sent: the one that a connection may send.
    pub(super) join_started: bool,
    pub(super) commands: Arc<Semaphore>,
    distance: Distance,
}

impl<A: Authority> Handler<A> {
    /// For a connection that has just been accepted.
    pub(super) fn new(shared: Arc<Shared<A>>, connection: Arc<Connection>) -> Self {
        let commands = Arc::new(Semaphore::new(shared.config.limits.commands));
        Self {
            shared,
            connection,
            attempts: 0,
            identity: None,
            opened: 0,
            join_started: false,
            commands,
            distance: Distance::default(),
        }
    }

    /// Counts what russh does not: offers that were answered 'yes, sign'. False when there were too many.
    fn attempt(&mut self) -> bool {
        self.attempts += 1;
        if self.attempts > self.shared.config.limits.auth_attempts {
            self.shared.metrics.refused(Bound::AuthAttempts);
            self.connection.end(Disconnect::NoMoreAuthMethodsAvailable, "Too many authentication attempts");
            return false;
        }
        true
    }

    async fn presented(&mut self, user: &str, presented: Presented, key: Option<PublicKey>) -> Auth {
        self.identity = None;
        let (kind, joining) = (kind(&presented), user == JOIN_LOGIN);
        let Connection { id, peer, .. } = &*self.connection;
        let log = |outcome| self.shared.metrics.login(kind, outcome);
        match authenticate(&self.shared, &self.connection, presented, key, joining).await {
            Ok(Some(identity)) => {
                if let Err(bound) = self.enter(&identity) {
                    log("refused");
                    tracing::warn!(connection = %id, %peer, user = %identity.name(), action = "login", with = kind, outcome = "refused", %bound);
                    self.shared.metrics.refused(bound);
                    let limit = self.shared.config.limits.connections_per_account;
                    let reason = format!("{limit} connections of this account are open; close some, then try again");
                    self.connection.end(Disconnect::TooManyConnections, &reason);
                    // As nobody, and only to hear why: whose last key is refused leaves without reading on.
                    return Auth::Accept;
                }
                log("accepted");
                tracing::info!(connection = %id, %peer, user = %identity.name(), action = "login", with = kind, outcome = "accepted");
                self.identity = Some(identity);
                Auth::Accept
            }
            Ok(None) => {
                log("refused");
                tracing::info!(connection = %id, %peer, action = "login", with = kind, outcome = "refused");
                Auth::reject()
            }
            Err(error) => {
                log("unavailable");
                self.connection.excuse();
                tracing::warn!(connection = %id, %peer, action = "login", with = kind, outcome = %error);
                self.connection.end(Disconnect::ServiceNotAvailable, AWAY);
                Auth::reject()
            }
        }
    }

    /// Counts a connection among those of its account. Any key at all may join: until it has, it is nobody, and neither its
    /// place nor its time is longer than that.
    fn enter(&self, identity: &Identity) -> Result<(), Bound> {
        let account = match identity {
            Identity::Account { credential, .. } => Some(credential.account),
            Identity::Node(_) => None,
            Identity::Joining(_) => return Ok(()),
        };
        let mut place = lock(&self.connection.place);
        place.as_mut().map_or(Ok(()), |place| place.authenticated(account, &self.shared.config.limits))
    }

    /// Whether one more channel may be opened; if not, why.
    fn may_open(&mut self) -> Result<(), ChannelOpenFailure> {
        self.distance.asks(Instant::now());
        self.opened += 1;
        let shortage = |bound, reason: &str| {
            self.shared.metrics.refused(bound);
            Err(ChannelOpenFailure::Other {
                code: ChannelOpenFailure::ResourceShortage.code(),
                reason: reason.to_owned(),
            })
        };
        // Whoever is nobody yet has one thing to say, and room for one line on each of a few channels.
        let nobody = matches!(self.identity, None | Some(Identity::Joining(_)));
        if nobody && self.connection.channels.count() >= CHANNELS_OF_NOBODY {
            return shortage(Bound::Channels, "one token for one connection");
        }
        if self.opened > CHANNELS_IN_A_LIFE {
            return shortage(Bound::ChannelsInALife, "this connection has opened too many channels; make a new one");
        }
        if self.connection.channels.count() >= self.shared.config.limits.channels {
            return shortage(Bound::Channels, "too many channels are open on this connection");
        }
        Ok(())
    }

    pub(super) fn served(&self, id: ChannelId) -> Served {
        Served { channels: self.connection.channels.clone(), id }
    }
}

fn kind(presented: &Presented) -> &'static str {
    match presented {
        Presented::Key(_) => "key",
        Presented::Certificate(_) => "certificate",
    }
}

fn answer(session: &mut Session, channel: ChannelId, yes: bool) -> Result<(), Error> {
    if yes { session.channel_success(channel) } else { session.channel_failure(channel) }
}

fn prohibited() -> ChannelOpenFailure {
    ChannelOpenFailure::AdministrativelyProhibited
}

impl<A> Drop for Handler<A> {
    fn drop(&mut self) {
        // The session loop has ended, however it did: what waits for it must not.
        self.connection.over.cancel();
        self.connection.channels.close_all();
    }
}

impl<A: Authority> SshHandler for Handler<A> {
    type Error = Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Error> {
        self.attempt();
        self.shared.metrics.login("none", "refused");
        Ok(Auth::reject())
    }

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Error> {
        // Nothing is remembered and nobody is asked: an offer proves nothing (Go CVE-2024-45337), and the answer
        // would tell which keys are registered.
        self.connection.tries();
        let small = offer.public_key.to_bytes().is_ok_and(|blob| blob.len() <= MAX_KEY_BYTES);
        if !small {
            self.shared.metrics.refused(Bound::KeySize);
        }
        if !self.attempt() || !small || algorithms::refused(offer.algorithm) {
            return Ok(Auth::reject());
        }
        Ok(Auth::Accept)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        self.identity = None;
        let Ok(blob) = key.public_key.to_bytes() else { return Ok(Auth::reject()) };
        self.connection.tries();
        if blob.len() > MAX_KEY_BYTES || algorithms::refused(key.algorithm) {
            return Ok(Auth::reject());
        }
        let plain = PublicKey::from_key_data(key.public_key.key_data()).ok();
        Ok(self.presented(user, Presented::Key(STANDARD.encode(blob)), plain).await)
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Error> {
        self.identity = None;
        let Ok(blob) = certificate.to_bytes() else { return Ok(Auth::reject()) };
        self.connection.tries();
        // The algorithm of the peer's own signature was seen by `auth_publickey_offered`; here it is the CA's.
        if blob.len() > MAX_KEY_BYTES || algorithms::refused(&certificate.signature().algorithm()) {
            return Ok(Auth::reject());
        }
        Ok(self.presented(user, Presented::Certificate(STANDARD.encode(blob)), None).await)
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, Error> {
        // The only text that OpenSSH shows before it gives up: a refusal of the last key makes it leave before it
        // reads anything else.
        let here = patiently_connected(&self.shared, &self.connection).await;
        Ok((!here).then(|| format!("{AWAY}\r\n")))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Error> {
        self.distance.answers(Instant::now());
        self.connection.says();
        if !matches!(self.identity, Some(Identity::Joining(_))) {
            self.connection.authenticated.cancel();
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        if let Err(refusal) = self.may_open() {
            reply.reject(refusal).await;
            return Ok(());
        }
        let id = channel.id();
        let (_, write) = channel.split();
        let room = match &self.identity {
            Some(Identity::Account { .. } | Identity::Node(_)) => MAX_INPUT,
            Some(Identity::Joining(_)) | None => MAX_NODE_LINE,
        };
        let entry = Entry {
            inlet: Arc::new(Inlet::new(room)),
            when_full: WhenFull::Drop,
            waiting: Some(write),
            terminal: Arc::default(),
        };
        self.connection.channels.insert(id, entry);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        let Some(Identity::Account { credential, user }) = self.identity.clone() else {
            reply.reject(prohibited()).await;
            return Ok(());
        };
        let place = match self.may_open().and_then(|()| place(&self.shared, &self.connection, credential.account)) {
            Ok(place) => place,
            Err(refusal) => {
                reply.reject(refusal).await;
                return Ok(());
            }
        };
        if host.len() > MAX_HOST {
            self.shared.metrics.refused(Bound::HostName);
            reply.reject(prohibited()).await;
            return Ok(());
        }
        let (id, overflow) = (channel.id(), CancellationToken::new());
        let inlet = Arc::new(Inlet::with_reserve(self.shared.config.limits.channel_buffer, ON_ITS_WAY));
        let entry = Entry {
            inlet: inlet.clone(),
            when_full: WhenFull::Forward(overflow.clone()),
            waiting: None,
            terminal: Arc::default(),
        };
        self.connection.channels.insert(id, entry);
        let forward = Forward {
            shared: self.shared.clone(),
            handle: Arc::new(ForwardHandle::new(self.connection.clone())),
            credential,
            user,
            host: host.to_owned(),
            port,
            inlet,
            overflow,
        };
        tokio::spawn(forward.register(channel, reply, (self.served(id), place)));
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        reply.reject(prohibited()).await;
        Ok(())
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host: &str,
        _port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        reply.reject(prohibited()).await;
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Error> {
        reply.reject(prohibited()).await;
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), Error> {
        self.connection.says();
        loop {
            let pushed = self.connection.channels.with(id, |entry| match entry.inlet.push(data) {
                Pushed::Taken => None,
                pushed => Some((pushed, entry.inlet.clone(), entry.when_full.clone())),
            });
            let Some(Some((pushed, inlet, when_full))) = pushed else { return Ok(()) };
            match (when_full, pushed) {
                (WhenFull::Forward(overflow), pushed)
                    if pushed == Pushed::Full || self.connection.channels.count() > 1 =>
                {
                    self.shared.metrics.refused(Bound::ChannelBuffer);
                    overflow.cancel();
                    return Ok(());
                }
                // The only channel: reading less from the socket stalls nobody else.
                (WhenFull::Forward(_), _) => {
                    return tokio::select! {
                        () = self.connection.over.cancelled() => Err(Error::Disconnect),
                        () = inlet.patience(data.len()) => Ok(()),
                    };
                }
                (_, Pushed::Taken | Pushed::High) => return Ok(()),
                (WhenFull::Drop, Pushed::Full) => {
                    self.shared.metrics.refused(Bound::Input);
                    return Ok(());
                }
                (WhenFull::EndConnection, Pushed::Full) => {
                    self.shared.metrics.refused(Bound::AgentInput);
                    self.connection.end(Disconnect::ProtocolError, "too much was sent without waiting");
                    return Ok(());
                }
                (WhenFull::Wait, Pushed::Full) => tokio::select! {
                    () = self.connection.over.cancelled() => return Err(Error::Disconnect),
                    () = inlet.room() => {}
                },
            }
        }
    }

    /// russh gives a window back when it is half used up, whatever becomes of what has arrived. It asks here up to what it
    /// is to be filled the next time, which is the only way to give back less.
    fn adjust_window(&mut self, id: ChannelId, _current: u32) -> u32 {
        let channels = &self.connection.channels;
        let high = channels.with(id, |entry| {
            matches!(entry.when_full, WhenFull::Forward(_)) && entry.inlet.is_stalled() && entry.inlet.is_high()
        });
        if high == Some(true) && channels.count() == 1 {
            return TRICKLE;
        }
        // An agent's one channel carries what all have that go through it.
        if matches!(self.identity, Some(Identity::Account { .. })) { self.distance.window() } else { WINDOW }
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Error> {
        self.connection.channels.with(id, |entry| entry.inlet.end());
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), Error> {
        self.connection.channels.close(id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Error> {
        let account = matches!(self.identity, Some(Identity::Account { .. }));
        let set = account && self.connection.channels.with(id, |e| waiting_terminal(e, term, columns)).unwrap_or(false);
        answer(session, id, set)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        session: &mut Session,
    ) -> Result<(), Error> {
        let set = self.connection.channels.with(id, |entry| {
            let terminal = entry.terminal.get().is_some();
            if terminal {
                entry.terminal.resize(columns);
            }
            terminal
        });
        answer(session, id, set.unwrap_or(false))
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), Error> {
        answer(session, id, self.start_command(id, b""))
    }

    async fn exec_request(&mut self, id: ChannelId, line: &[u8], session: &mut Session) -> Result<(), Error> {
        answer(session, id, self.start_command(id, line))
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), Error> {
        let started = match name {
            NODE_SUBSYSTEM => self.start_agent(id),
            TUNNEL_SUBSYSTEM => self.start_tunnel(id),
            LOOK_SUBSYSTEM => self.start_look(id),
            _ => false,
        };
        answer(session, id, started)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Error> {
        session.channel_failure(id)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Error> {
        session.channel_failure(id)
    }

    // Agent forwarding, tcpip-forward, streamlocal-forward and their cancellation: russh answers no by itself when the
    // handler says no, which is its default. Written out, because a default can change.

    async fn agent_request(&mut self, _id: ChannelId, _session: &mut Session) -> Result<bool, Error> {
        Ok(false)
    }

    async fn tcpip_forward(&mut self, _address: &str, _port: &mut u32, _session: &mut Session) -> Result<bool, Error> {
        self.connection.remark(NO_LISTENING);
        Ok(false)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        _address: &str,
        _port: u32,
        _session: &mut Session,
    ) -> Result<bool, Error> {
        Ok(false)
    }

    async fn streamlocal_forward(&mut self, _socket: &str, _session: &mut Session) -> Result<bool, Error> {
        self.connection.remark(NO_LISTENING);
        Ok(false)
    }

    async fn cancel_streamlocal_forward(&mut self, _socket: &str, _session: &mut Session) -> Result<bool, Error> {
        Ok(false)
    }
}

/// A terminal is asked for before anything is started on the channel.
fn waiting_terminal(entry: &mut Entry, term: &str, columns: u32) -> bool {
    let waiting = entry.waiting.is_some();
    if waiting {
        entry.terminal.ask(term, columns);
    }
    waiting
}
