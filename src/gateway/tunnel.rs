//! The tunnels of agents whose nodes are reached through them: an SSH channel (a subsystem) that the agent has opened, and
//! on it a stream for each forward ([`crate::app::tunnel`]).
//!
//! The agent asks for it and the gateway opens the streams; what an agent could open towards the gateway is refused, here
//! and by [`super::handler`].

use super::{Shared, channels::Served, connection::Connection, inlet::Inlet};
use crate::{
    app::{
        authority::Authority,
        tunnel::{Incoming, Outgoing, Tunnel, tunnel},
    },
    domain::NodeId,
};
use russh::{ChannelWriteHalf, server::Msg};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// Bytes that may wait for the task that takes them apart, which waits for nothing itself.
pub(super) const BUFFER: usize = 1024 * 1024;

/// How often it is looked whether a tunnel is still needed, when another gateway has taken over.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The channel of a tunnel.
pub(super) struct TunnelChannel<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) connection: Arc<Connection>,
    pub(super) node: NodeId,
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) inlet: Arc<Inlet>,
}

/// Serves a tunnel until either side ends it.
pub(super) async fn serve<A: Authority>(way: TunnelChannel<A>, _served: Served) {
    let TunnelChannel { shared, connection, node, channel, inlet } = way;
    let (tunnel, incoming, outgoing) = tunnel(0);
    let outcome = if shared.agents.attach(node, &connection, &tunnel) {
        tracing::info!(connection = %connection.id, peer = %connection.peer, %node, action = "tunnel", outcome = "open");
        tokio::select! {
            () = connection.over.cancelled() => "connection ended".to_owned(),
            outcome = read(&inlet, incoming) => outcome,
            outcome = write(&connection, &channel, outgoing) => outcome,
            () = drained(&shared, &tunnel) => "another gateway has taken over".to_owned(),
        }
    } else {
        "it is not on the connection of the node's agent".to_owned()
    };
    shared.agents.detach(node, &connection);
    tracing::info!(connection = %connection.id, peer = %connection.peer, %node, action = "tunnel", outcome);
    inlet.abandon();
    tokio::select! {
        () = connection.over.cancelled() => {}
        () = inlet.closed.cancelled() => {}
        // It fails when the peer is gone.
        _ = channel.close() => {}
    }
}

/// Resolves when this gateway has handed over, and nothing goes through the tunnel any more.
async fn drained<A>(shared: &Shared<A>, tunnel: &Tunnel) {
    shared.stop.drain.cancelled().await;
    loop {
        // First: the agent is on its way to the other gateway, and somebody may open a last forward here.
        sleep(LOOK_EVERY).await;
        if tunnel.streams() == 0 {
            return;
        }
    }
}

/// Its end, in whichever way, ends every stream.
async fn read(inlet: &Inlet, mut incoming: Incoming) -> String {
    while let Some(data) = inlet.next().await {
        match incoming.take(data) {
            // Nothing is opened towards the gateway: a tunnel of limit 0 has refused it.
            Ok(none) => drop(none),
            Err(fault) => return fault.to_string(),
        }
    }
    "closed".into()
}

async fn write(connection: &Connection, channel: &ChannelWriteHalf<Msg>, mut outgoing: Outgoing) -> String {
    while let Some(mut frame) = outgoing.next().await {
        connection.backlog.little().await;
        if channel.data_bytes(std::mem::take(&mut frame.bytes)).await.is_err() {
            break;
        }
    }
    "closed".into()
}
