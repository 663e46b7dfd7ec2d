//! The nodes' agents: JSON lines over an SSH channel, and bundles relayed to the agents of a cluster.
//!
//! Answers and bundles go out through a task of their own: an agent that does not read delays only itself, and of
//! bundles that it has not taken only the latest is kept.

use super::{Shared, auth::Identity, channels::Served, connection::Connection, inlet::Inlet, lock};
use crate::{
    app::{
        authority::Authority,
        protocol::{
            FromNode, Join, JoinAnswer, JoinRequest, MAX_NODE_LINE as MAX_LINE, NodeHello, NodeHelloAnswer,
            NodeHelloRequest, NodeIdentity, NodeLook, NodeLookRequest, NodeReceipt, NodeReceiptRequest, NodeSessions,
            NodeSessionsRequest, ToNode,
        },
        tunnel::Tunnel,
    },
    bundle::{SignedBundle, SignedOrder},
    domain::{ClusterPath, NodeId, PublicKey, Version},
};
use bytes::Bytes;
use russh::{ChannelWriteHalf, Disconnect, server::Msg};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

/// Answers that may wait for an agent to read them.
const ANSWERS: usize = 8;

/// Orders that may wait for an agent to read them; whoever gives one is told if it had no effect.
const ORDERS: usize = 64;

/// Unconfirmed bundles that are counted for one agent: from there on it is simply far behind.
const UNCONFIRMED: usize = 3;

/// Within this time agents are sent to the gateway that has taken over.
const SEND_AWAY_WITHIN: Duration = Duration::from_secs(2);

/// How long a machine that has joined may take to read the answer and close.
const FAREWELL: Duration = Duration::from_secs(5);

/// The agents that are connected: one for each node, the newest.
#[derive(Default)]
pub(super) struct Agents(Mutex<HashMap<NodeId, Arc<Outbox>>>);

/// What one agent is to get.
struct Outbox {
    connection: Arc<Connection>,
    cluster: ClusterPath,
    bundle: Mutex<Option<Bytes>>,
    /// Versions that were relayed and that it has not confirmed, at most [`UNCONFIRMED`].
    unconfirmed: Mutex<Vec<Version>>,
    orders: Mutex<Vec<Bytes>>,
    wake: Notify,
    /// The way to the node's sshd, if its agent has opened one.
    tunnel: Mutex<Option<Tunnel>>,
    /// The agent listens no more; its tunnel may live on.
    left: AtomicBool,
    /// What it has said of itself, once it has: whether it can let people keep something open for a while.
    lingers: OnceLock<bool>,
}

impl Outbox {
    fn listens(&self) -> bool {
        !self.left.load(Relaxed)
    }

    /// Whether something can be reached through the agent's connection.
    fn carries(&self) -> bool {
        lock(&self.tunnel).as_ref().is_some_and(Tunnel::is_open)
    }

    fn relayed(&self, version: Version) {
        let mut unconfirmed = lock(&self.unconfirmed);
        if unconfirmed.len() < UNCONFIRMED && unconfirmed.last() != Some(&version) {
            unconfirmed.push(version);
        } else if let Some(last) = unconfirmed.last_mut() {
            *last = version;
        }
    }

    fn confirmed(&self, version: Option<Version>) {
        lock(&self.unconfirmed).retain(|relayed| Some(*relayed) > version);
    }

    /// What is to be sent now, removals first.
    fn take(&self) -> Vec<Bytes> {
        let bundle = lock(&self.bundle).take();
        bundle.into_iter().chain(std::mem::take(&mut *lock(&self.orders))).collect()
    }
}

impl Agents {
    fn enter(&self, node: NodeId, outbox: &Arc<Outbox>) {
        let before = lock(&self.0).insert(node, outbox.clone());
        if let Some(before) = before.filter(|b| b.connection.id != outbox.connection.id) {
            before.connection.end(Disconnect::ByApplication, "another connection of this node has taken over");
        }
    }

    fn leave(&self, node: NodeId, outbox: &Arc<Outbox>) {
        outbox.left.store(true, Relaxed);
        let mut agents = lock(&self.0);
        if agents.get(&node).is_some_and(|current| Arc::ptr_eq(current, outbox)) && !outbox.carries() {
            agents.remove(&node);
        }
    }

    /// The tunnel of an agent has ended.
    pub(super) fn detach(&self, node: NodeId, connection: &Connection) {
        let mut agents = lock(&self.0);
        let over = |outbox: &Arc<Outbox>| outbox.connection.id == connection.id && outbox.left.load(Relaxed);
        if agents.get(&node).is_some_and(over) {
            agents.remove(&node);
        }
    }

    /// Relays a bundle to every agent of the cluster, and returns to how many: `lingering` instead, if there is one, to those
    /// that can read it. Who has not said that yet gets what it lacks when it says it.
    pub(super) fn relay(
        &self,
        cluster: &ClusterPath,
        version: Version,
        bundle: SignedBundle,
        lingering: Option<SignedBundle>,
    ) -> usize {
        let Some(plain) = line(&ToNode::Bundle(bundle)) else { return 0 };
        let lingering = lingering.and_then(|bundle| line(&ToNode::Bundle(bundle)));
        let mut count = 0;
        for outbox in lock(&self.0).values().filter(|outbox| outbox.cluster == *cluster && outbox.listens()) {
            let line = match (&lingering, outbox.lingers.get()) {
                (None, _) | (Some(_), Some(false)) => &plain,
                (Some(lingering), Some(true)) => lingering,
                (Some(_), None) => continue,
            };
            *lock(&outbox.bundle) = Some(line.clone());
            outbox.relayed(version);
            outbox.wake.notify_one();
            count += 1;
        }
        count
    }

    /// How many agents have 0, 1, 2 and more bundles that they have not confirmed.
    pub(super) fn lag(&self) -> [usize; UNCONFIRMED + 1] {
        let mut agents = [0; UNCONFIRMED + 1];
        for outbox in lock(&self.0).values().filter(|outbox| outbox.listens()) {
            agents[lock(&outbox.unconfirmed).len().min(UNCONFIRMED)] += 1;
        }
        agents
    }

    /// Relays an order to a node's agent. False if that is not connected here, or does not read.
    pub(super) fn order(&self, node: NodeId, order: SignedOrder) -> bool {
        let Some(line) = line(&ToNode::End(order)) else { return false };
        let Some(outbox) = lock(&self.0).get(&node).filter(|outbox| outbox.listens()).cloned() else { return false };
        let mut orders = lock(&outbox.orders);
        if orders.len() >= ORDERS {
            return false;
        }
        orders.push(line);
        outbox.wake.notify_one();
        true
    }

    /// The agent of a node has opened a tunnel on its connection. False if that is not the connection of the node's agent. A
    /// newer tunnel takes the place of an older one, whose streams go on until it ends.
    pub(super) fn attach(&self, node: NodeId, connection: &Connection, tunnel: &Tunnel) -> bool {
        let Some(outbox) = lock(&self.0).get(&node).cloned() else { return false };
        let same = outbox.connection.id == connection.id;
        if same {
            *lock(&outbox.tunnel) = Some(tunnel.clone());
        }
        same
    }

    /// The tunnel to a node, if its agent is here and has opened one.
    pub(super) fn tunnel(&self, node: NodeId) -> Option<Tunnel> {
        let outbox = lock(&self.0).get(&node).cloned()?;
        let tunnel = lock(&outbox.tunnel).clone();
        tunnel.filter(Tunnel::is_open)
    }

    /// This is a node no more.
    pub(super) fn gone(&self, node: NodeId) {
        if let Some(outbox) = lock(&self.0).remove(&node) {
            outbox.connection.end(Disconnect::ByApplication, "this node was removed");
        }
    }
}

/// The channel of an agent.
pub(super) struct Agent<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) connection: Arc<Connection>,
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) inlet: Arc<Inlet>,
}

/// Serves an agent until either side ends it.
pub(super) async fn serve<A: Authority>(agent: Agent<A>, identity: Identity, _served: Served) {
    let Agent { shared, connection, channel, inlet } = agent;
    let joining = matches!(identity, Identity::Joining(_));
    let lines = Lines { inlet: &inlet, rest: Vec::new() };
    let work = async {
        match identity {
            Identity::Joining(key) => join(&shared, &connection, &channel, lines, key).await,
            Identity::Node(node) => follow(&shared, &connection, &channel, lines, node).await,
            Identity::Account { .. } => "not an agent",
        }
    };
    let outcome = tokio::select! {
        () = connection.over.cancelled() => "connection ended",
        outcome = work => outcome,
    };
    tracing::info!(connection = %connection.id, peer = %connection.peer, action = "agent", outcome);
    tokio::select! {
        () = connection.over.cancelled() => {}
        () = inlet.closed.cancelled() => {}
        () = async {
            // Each fails when the peer is gone.
            let _ = channel.eof().await;
            let _ = channel.exit_status(0).await;
            let _ = channel.close().await;
        } => {}
    }
    if joining {
        // It has no other business here. A machine that has read its answer closes by itself.
        tokio::select! {
            () = connection.over.cancelled() => {}
            () = sleep(FAREWELL) => {}
        }
        connection.end(Disconnect::ByApplication, "one token for one connection");
    }
}

/// Answers a node with the authority's word, and leaves its agent alone.
pub(super) async fn look<A: Authority>(agent: Agent<A>, node: NodeIdentity, _served: Served) {
    let Agent { shared, connection, channel, inlet } = agent;
    let work = async {
        let Ok(answer) = shared.ask::<NodeLook>(NodeLookRequest { node }).await else { return 1 };
        let Ok(mut line) = serde_json::to_vec(&answer) else { return 1 };
        line.push(b'\n');
        u32::from(channel.data_bytes(line).await.is_err())
    };
    let exit = tokio::select! {
        () = connection.over.cancelled() => return,
        () = inlet.closed.cancelled() => return,
        exit = work => exit,
    };
    tracing::info!(connection = %connection.id, peer = %connection.peer, action = "look", outcome = exit);
    // Each fails when the peer is gone.
    let _ = channel.eof().await;
    let _ = channel.exit_status(exit).await;
    let _ = channel.close().await;
}

/// A machine may send its token, once.
async fn join<A: Authority>(
    shared: &Shared<A>,
    connection: &Connection,
    channel: &ChannelWriteHalf<Msg>,
    mut lines: Lines<'_>,
    host_key: PublicKey,
) -> &'static str {
    let Ok(Some(FromNode::Join { secret, node })) = lines.next().await else { return "no token came" };
    let request = JoinRequest { connection: connection.id.clone(), peer: connection.peer, host_key, secret, node };
    let (answer, outcome) = match shared.ask::<Join>(request).await {
        Ok(answer @ JoinAnswer::Joined(_)) => {
            connection.excuse();
            (ToNode::Join(answer), "joined")
        }
        Ok(answer @ JoinAnswer::Refused { .. }) => (ToNode::Join(answer), "join refused"),
        Err(_) => (ToNode::Unavailable, "join: the authority cannot be reached"),
    };
    let Some(line) = line(&answer) else { return "the answer cannot be encoded" };
    if channel.data_bytes(line).await.is_ok() { outcome } else { "the answer could not be sent" }
}

/// A node says what it has and gets what it lacks.
async fn follow<A: Authority>(
    shared: &Shared<A>,
    connection: &Arc<Connection>,
    channel: &ChannelWriteHalf<Msg>,
    lines: Lines<'_>,
    node: NodeIdentity,
) -> &'static str {
    let outbox = Arc::new(Outbox {
        connection: connection.clone(),
        cluster: ClusterPath { cluster: node.path.cluster.clone(), org: node.path.org.clone() },
        bundle: Mutex::new(None),
        unconfirmed: Mutex::default(),
        orders: Mutex::new(Vec::new()),
        wake: Notify::new(),
        tunnel: Mutex::new(None),
        left: AtomicBool::new(false),
        lingers: OnceLock::new(),
    });
    let number = node.node;
    shared.agents.enter(number, &outbox);
    let _entered = Entered { agents: &shared.agents, node: number, outbox: outbox.clone() };
    let (answers, queue) = mpsc::channel(ANSWERS);
    tokio::select! {
        outcome = read(shared, connection, lines, node, answers, &outbox) => outcome,
        outcome = write(channel, &outbox, queue) => outcome,
        () = drained(shared) => "another gateway has taken over",
    }
}

/// Resolves some time after this gateway has handed over, so that not all agents go to the other one at once.
async fn drained<A>(shared: &Shared<A>) {
    shared.stop.drain.cancelled().await;
    let share = u32::try_from((shared.random)() & 0xff).unwrap_or(0);
    sleep(SEND_AWAY_WITHIN * share / 0xff).await;
}

/// Leaves when dropped.
struct Entered<'a> {
    agents: &'a Agents,
    node: NodeId,
    outbox: Arc<Outbox>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.agents.leave(self.node, &self.outbox);
    }
}

async fn read<A: Authority>(
    shared: &Shared<A>,
    connection: &Arc<Connection>,
    mut lines: Lines<'_>,
    node: NodeIdentity,
    answers: mpsc::Sender<Bytes>,
    outbox: &Outbox,
) -> &'static str {
    loop {
        let messages = match lines.next().await {
            Ok(Some(FromNode::Hello { have, host_certificate_until, reach, program, lingers })) => {
                outbox.confirmed(have);
                // A process does not learn it later.
                let lingers = *outbox.lingers.get_or_init(|| lingers);
                let (asking, peer) = (node.clone(), connection.peer);
                let request =
                    NodeHelloRequest { node: asking, peer, have, host_certificate_until, reach, program, lingers };
                match shared.ask::<NodeHello>(request).await {
                    Err(_) => vec![ToNode::Unavailable],
                    Ok(NodeHelloAnswer::Refused) => {
                        shared.agents.gone(node.node);
                        return "a node no more";
                    }
                    Ok(NodeHelloAnswer::Welcome { bundle, host_certificate, current }) => {
                        let welcome = ToNode::Welcome { host_certificate, current };
                        std::iter::once(welcome).chain(bundle.map(ToNode::Bundle)).collect()
                    }
                }
            }
            Ok(Some(FromNode::Receipt { version, problem, ended })) => {
                outbox.confirmed(version);
                let request = NodeReceiptRequest { node: node.clone(), version, problem, ended };
                // A receipt that is lost is made good by the next hello.
                if let Err(error) = shared.ask::<NodeReceipt>(request).await {
                    tracing::debug!(connection = %connection.id, action = "receipt", outcome = %error);
                }
                vec![]
            }
            Ok(Some(FromNode::Sessions { sessions, more })) => {
                let request = NodeSessionsRequest { node: node.clone(), sessions, more };
                // All of them are said again soon.
                if let Err(error) = shared.ask::<NodeSessions>(request).await {
                    tracing::debug!(connection = %connection.id, action = "sessions", outcome = %error);
                }
                vec![]
            }
            Ok(Some(FromNode::Join { .. })) => return "a node cannot join again",
            Ok(None) => return "closed",
            Err(problem) => return problem,
        };
        for message in messages {
            let Some(line) = line(&message) else { return "an answer cannot be encoded" };
            if answers.send(line).await.is_err() {
                return "closed";
            }
        }
    }
}

async fn write(channel: &ChannelWriteHalf<Msg>, outbox: &Outbox, mut answers: mpsc::Receiver<Bytes>) -> &'static str {
    loop {
        let lines: Vec<Bytes> = tokio::select! {
            // None: the other half has stopped, and ends this one.
            answer = answers.recv() => answer.into_iter().collect(),
            () = outbox.wake.notified() => outbox.take(),
        };
        for line in lines {
            if channel.data_bytes(line).await.is_err() {
                return "closed";
            }
        }
    }
}

fn line(message: &ToNode) -> Option<Bytes> {
    let mut line = serde_json::to_vec(message).ok()?;
    line.push(b'\n');
    Some(line.into())
}

/// The lines of an agent, each parsed.
struct Lines<'a> {
    inlet: &'a Inlet,
    rest: Vec<u8>,
}

impl Lines<'_> {
    async fn next(&mut self) -> Result<Option<FromNode>, &'static str> {
        let mut searched = 0;
        loop {
            let found = self.rest.get(searched..).and_then(|new| new.iter().position(|byte| *byte == b'\n'));
            if let Some(end) = found {
                let line: Vec<u8> = self.rest.drain(..=searched + end).collect();
                if line.len() > MAX_LINE {
                    return Err("a line is too long");
                }
                return serde_json::from_slice(&line).map(Some).map_err(|_| "a line cannot be read");
            }
            searched = self.rest.len();
            if searched > MAX_LINE {
                return Err("a line is too long");
            }
            match self.inlet.next().await {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded() {
        let inlet = Inlet::new(1024 * 1024);
        let mut lines = Lines { inlet: &inlet, rest: Vec::new() };
        inlet.push(b"{\"hello\":{\"have\":null,\"host_certificate_until\":null}}\n{\"receipt\"");
        assert!(matches!(lines.next().await, Ok(Some(FromNode::Hello { have: None, .. }))));
        inlet.push(b":{\"version\":3,\"problem\":null,\"ended\":0}}\nnonsense\n");
        assert!(matches!(lines.next().await, Ok(Some(FromNode::Receipt { .. }))));
        assert!(lines.next().await.is_err());
        inlet.push(&[b'x'; MAX_LINE + 1]);
        assert_eq!(lines.next().await, Err("a line is too long"), "though its end has not come");
    }
}
