//! Forwards (`direct-tcpip`, RFC 4254, 7.2): asked of the authority at each opening, dialled where its permit says, and
//! carried with bounded buffers in both directions.
//!
//! Towards the node, what the client sent waits in the channel's [`Inlet`]. Towards the client, nothing more is read
//! from the node until the client's window has taken what was read before.

use super::{
    Shared,
    channels::Served,
    connection::{Connection, one_line},
    dial::{Dialled, NodeReader, NodeWriter, dial},
    doors::{Doors, ForwardPlace},
    inlet::{Direct, Inlet, Moved},
    registry::{End, Opened, Owner},
};
use crate::{
    app::{
        authority::Authority,
        protocol::{Credential, DialPermit, Open, OpenAnswer, OpenRequest},
        tunnel::Stream,
    },
    domain::{AccountId, NodeId, SessionId, Target},
    policy::Reason,
};
use russh::{
    Channel, ChannelOpenFailure, ChannelWriteHalf, Disconnect,
    server::{ChannelOpenHandle, Msg},
};
use std::{
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long what a client sent before it closed may take to reach the node.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// How long a node may take to accept; and one of several, where another can be tried.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
const DIAL_ONE_OF_SEVERAL: Duration = Duration::from_secs(6);

/// Login nodes that are tried for one forward, but for the last.
const MAX_TRIED: usize = 7;

/// What ends a forward through an agent that has gone.
const AGENT_LOST: &str = "the node is reached through its agent, whose connection was lost; connect again";

/// The longest host name that is passed on.
pub(super) const MAX_HOST: usize = 255;

/// What ends a forward.
pub(super) struct ForwardHandle {
    pub(super) connection: Arc<Connection>,
    /// Cancelled: stop at once, move nothing more.
    pub(super) abort: CancellationToken,
    reason: OnceLock<String>,
    ordered: OnceLock<Instant>,
}

impl ForwardHandle {
    /// For a forward on this connection.
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let abort = connection.forwards.child_token();
        Self { connection, abort, reason: OnceLock::new(), ordered: OnceLock::new() }
    }

    /// Ends it.
    pub(super) fn end(&self, reason: &str) {
        self.because(reason);
        self.abort.cancel();
    }

    /// The authority wants its end: from here on it is measured.
    pub(super) fn ordered(&self) {
        // The first order counts.
        let _ = self.ordered.set(Instant::now());
    }

    /// Ends it together with its connection. The connection comes first: see [`Connection::ending`].
    pub(super) fn end_with_connection(&self, reason: &str) {
        self.because(reason);
        self.connection.end(Disconnect::ByApplication, reason);
    }

    fn because(&self, reason: &str) {
        // The first reason stands.
        let _ = self.reason.set(one_line(reason));
    }

    fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_else(|| "ended with its connection".into())
    }
}

/// A place for one more forward of an account, on whichever of its connections; or what its client is told.
pub(super) fn place<A>(
    shared: &Shared<A>,
    connection: &Connection,
    account: AccountId,
) -> Result<ForwardPlace, ChannelOpenFailure> {
    let limits = &shared.config.limits;
    Doors::forward(&shared.doors, account, limits).map_err(|bound| {
        shared.metrics.refused(bound);
        let Connection { id, peer, .. } = connection;
        // Not louder: the metric tells of it, and whoever is refused can ask often.
        tracing::debug!(connection = %id, %peer, action = "forward", outcome = "refused", %bound);
        let reason =
            format!("{} forwards of this account are open; close some, then try again", limits.forwards_per_account);
        ChannelOpenFailure::Other { code: ChannelOpenFailure::ResourceShortage.code(), reason }
    })
}

/// A forward that a client wants.
pub(super) struct Forward<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) handle: Arc<ForwardHandle>,
    pub(super) credential: Credential,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) port: u32,
    pub(super) inlet: Arc<Inlet>,
    /// Cancelled when a node does not take what the client sends, while other channels wait.
    pub(super) overflow: CancellationToken,
}

/// Removes a forward from the registry when its task ends, however it ends.
struct Registered<A: Authority> {
    shared: Arc<Shared<A>>,
    session: SessionId,
    up: Moved,
    down: AtomicU64,
    /// The authority may believe that it is open.
    report: bool,
}

impl<A: Authority> Drop for Registered<A> {
    fn drop(&mut self) {
        if self.report {
            let (up, down) = (self.up.here.load(Relaxed), self.down.load(Relaxed));
            self.shared.registry().closed(self.session.clone(), up, down);
            self.shared.closed.notify_one();
        } else {
            self.shared.registry().refused(&self.session);
        }
    }
}

impl<A: Authority> Forward<A> {
    /// Registers it, and returns what serves it. Registering comes before anything is awaited.
    pub(super) fn register(
        self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        held: (Served, ForwardPlace),
    ) -> impl Future<Output = ()> + Send {
        let session = self.shared.new_session();
        let Connection { id, peer, .. } = &*self.handle.connection;
        let owner = Owner { connection: id.clone(), peer: *peer, credential: self.credential.clone() };
        self.shared.registry().pending(session.clone(), owner, self.handle.clone());
        let registered = Registered {
            shared: self.shared.clone(),
            session,
            up: Moved { here: Arc::default(), all: self.shared.metrics.up.clone() },
            down: AtomicU64::new(0),
            report: true,
        };
        self.serve(channel, reply, held, registered)
    }

    /// What is `held` is given back when it ends: its channel, and its place among those of its account.
    async fn serve(
        self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        held: (Served, ForwardPlace),
        session: Registered<A>,
    ) {
        let _held = held;
        // Dropped before its place is given back: who waits for the last place wants it to be reported.
        let mut session = session;
        let (node, permit) = match self.open(&mut session).await {
            Ok(opened) => opened,
            Err(refusal) => {
                self.log("-", refusal.description(), &session);
                reply.reject(refusal).await;
                return;
            }
        };
        let name = permit.node.to_string();
        self.log(&name, "opened", &session);
        let counted = self.shared.metrics.session(&permit.project);
        let (_, write) = channel.split();
        reply.accept().await;
        let outcome = self.carry(node, &write, &session).await;
        self.inlet.abandon();
        drop(counted);
        if let Some(ordered) = self.handle.ordered.get() {
            self.shared.metrics.ended(ordered.elapsed());
        }
        self.log(&name, &outcome, &session);
        // Before the client is told: a session loop that is stuck must not keep the forward in the registry.
        drop(session);
        if self.handle.connection.ending() {
            return;
        }
        tokio::select! {
            () = self.handle.connection.over.cancelled() => {}
            () = self.inlet.closed.cancelled() => {}
            // It fails when the peer is gone.
            _ = write.close() => {}
        }
    }

    fn log(&self, node: &str, outcome: &str, session: &Registered<A>) {
        let Connection { id, peer, .. } = &*self.handle.connection;
        let (up, down) = (session.up.here.load(Relaxed), session.down.load(Relaxed));
        tracing::info!(
            connection = %id, %peer, user = %self.user, action = "forward", node, session = %session.session, up, down,
            outcome
        );
    }

    async fn open(&self, session: &mut Registered<A>) -> Result<(Dialled, DialPermit), ChannelOpenFailure> {
        tokio::select! {
            biased;
            () = self.handle.abort.cancelled() => Err(prohibited(&self.handle.reason())),
            () = self.handle.connection.over.cancelled() => Err(prohibited("the connection ended")),
            opened = self.ask_and_dial(session) => opened,
        }
    }

    /// Asks, and goes there. A login node of a cluster that cannot be reached is passed over for another one.
    async fn ask_and_dial(&self, session: &mut Registered<A>) -> Result<(Dialled, DialPermit), ChannelOpenFailure> {
        let several = matches!(self.host.parse(), Ok(Target::Cluster(_)));
        let within = if several { DIAL_ONE_OF_SEVERAL } else { DIAL_WITHIN };
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        loop {
            let permit = match self.ask(session, &tried).await {
                Ok(permit) => permit,
                Err(Refusal { reason, .. }) if reason == Reason::NoNode.as_str() && !failures.is_empty() => {
                    let text = format!("no login node of {} can be reached: {}", self.host, failures.join("; "));
                    return Err(failed(&text));
                }
                Err(refusal) => return Err(prohibited(&refusal.message)),
            };
            let opened = self.shared.registry().opened(&session.session, permit.node_id, permit.since);
            match opened {
                Opened::Ended(reason) => return Err(prohibited(&reason)),
                Opened::Go { resync: true } => self.shared.resync.notify_one(),
                Opened::Go { resync: false } => {}
            }
            match dial(&self.shared, &permit, within).await {
                Ok(node) => return Ok((node, permit)),
                Err(why) if several && tried.len() < MAX_TRIED => {
                    self.log(&permit.node.to_string(), &why, session);
                    self.shared.registry().asks_again(&session.session);
                    tried.push(permit.node_id);
                    failures.push(why);
                }
                Err(why) => {
                    failures.push(why);
                    return Err(failed(&failures.join("; ")));
                }
            }
        }
    }

    /// Whether it may be opened, and where it goes.
    async fn ask(&self, session: &mut Registered<A>, tried: &[NodeId]) -> Result<DialPermit, Refusal> {
        let request = OpenRequest {
            gateway: self.shared.name(),
            instance: Some(self.shared.instance.clone()),
            connection: self.handle.connection.id.clone(),
            peer: self.handle.connection.peer,
            credential: self.credential.clone(),
            session: session.session.clone(),
            host: self.host.clone(),
            port: self.port,
            tried: tried.to_vec(),
        };
        let refused = |message: &str, reason: String| Refusal { message: message.to_owned(), reason };
        match self.shared.ask::<Open>(request).await {
            Err(_) => Err(refused(super::auth::AWAY, String::new())),
            Ok(OpenAnswer::Refused { message, reason }) => {
                self.shared.metrics.decision("open", &reason);
                // What it permitted before and could not be reached is closed, whoever else says so.
                session.report = !tried.is_empty();
                Err(refused(&message, reason))
            }
            Ok(OpenAnswer::Permit(permit)) if permit.session == session.session => {
                self.shared.metrics.decision("open", "permitted");
                Ok(permit)
            }
            Ok(OpenAnswer::Permit(_)) => Err(refused("the access service answered another question", String::new())),
        }
    }

    /// The node's agent is gone: whoever has nothing else open on the connection is told so as its end.
    fn lose(&self, session: &Registered<A>) {
        let end = self.shared.registry().end(&session.session, AGENT_LOST);
        match end {
            End::Unknown | End::Forward(_) => {}
            End::Connection(handle) => handle.end_with_connection(AGENT_LOST),
        }
    }

    /// Copies both ways until both have ended, or the client has closed, or it is aborted. Returns what to log. The
    /// node's socket closes when this returns.
    async fn carry(&self, node: Dialled, write: &ChannelWriteHalf<Msg>, session: &Registered<A>) -> String {
        let stream = node.stream();
        if let Some(node) = node.socket() {
            self.inlet.connect(Direct { node, moved: session.up.clone() });
        }
        let (from_node, to_node) = node.split();
        let mut up = pin!(upwards(&self.inlet, to_node, &session.up));
        let mut down = pin!(downwards(from_node, write, session, &self.handle.connection));
        let (mut up_done, mut down_done, mut closed) = (false, false, false);
        let mut give_up = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = self.handle.abort.cancelled() => return self.handle.reason(),
                () = lost(stream.as_deref()) => {
                    self.lose(session);
                    return AGENT_LOST.into();
                }
                () = self.overflow.cancelled() => return "the node does not read; closed so that others can go on".into(),
                () = self.inlet.closed.cancelled(), if !closed => {
                    closed = true;
                    give_up = Instant::now() + DRAIN_WITHIN;
                }
                () = sleep_until(give_up), if closed => return "closed; the node did not take the rest".into(),
                () = &mut up, if !up_done => up_done = true,
                () = &mut down, if !down_done && !closed => down_done = true,
            }
            if up_done && (down_done || closed) {
                // What was sent last is on its way to the node.
                stream.iter().for_each(|stream| stream.finish());
                return "closed".into();
            }
        }
    }
}

/// Resolves when a node's agent, through which a forward goes, is gone; never if it does not go through one.
async fn lost(stream: Option<&Stream>) {
    match stream {
        Some(stream) => stream.lost().await,
        None => std::future::pending().await,
    }
}

async fn upwards(inlet: &Inlet, mut node: NodeWriter, moved: &Moved) {
    while let Some(data) = inlet.next().await {
        let length = data.len();
        if !node.write(data).await {
            // The node is gone for this direction; the other may still hold its last words.
            inlet.abandon();
            return;
        }
        moved.add(length);
    }
    node.end().await;
}

async fn downwards<A: Authority>(
    mut node: NodeReader,
    write: &ChannelWriteHalf<Msg>,
    session: &Registered<A>,
    connection: &Connection,
) {
    while let Some(data) = node.next().await {
        let length = u64::try_from(data.len()).unwrap_or(0);
        connection.backlog.little().await;
        if write.data_bytes(data).await.is_err() {
            return;
        }
        session.down.fetch_add(length, Relaxed);
        session.shared.metrics.down.inc_by(length);
        connection.says();
    }
    // It fails when the peer is gone.
    let _ = write.eof().await;
}

/// A no of the authority.
struct Refusal {
    /// For the one who asked.
    message: String,
    /// In one word; none if the authority could not be asked.
    reason: String,
}

fn failed(why: &str) -> ChannelOpenFailure {
    ChannelOpenFailure::Other { code: ChannelOpenFailure::ConnectFailed.code(), reason: one_line(why) }
}

fn prohibited(message: &str) -> ChannelOpenFailure {
    ChannelOpenFailure::Other { code: ChannelOpenFailure::AdministrativelyProhibited.code(), reason: one_line(message) }
}
