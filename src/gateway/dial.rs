//! The way to a node's sshd that a permit names: dialled, or a stream through the node's agent.

use super::{Shared, agents::Agents};
use crate::app::{
    authority::Authority,
    protocol::{DialPermit, Reach},
    tunnel::{Stream, Tunnel},
};
use bytes::{Bytes, BytesMut};
use rustix::net::Shutdown;
use std::{io::ErrorKind, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// How long the agent of a node that is reached through it may be away.
const AGENT_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks.
const AGAIN: Duration = Duration::from_millis(50);

/// How much is read from a node at once.
const READ: usize = 64 * 1024;

/// A connection to a node's sshd.
pub(super) enum Dialled {
    /// Of the gateway's own.
    Tcp(Arc<TcpStream>),
    /// Through the agent.
    Tunnel(Arc<Stream>),
}

/// What reads from a node.
pub(super) enum NodeReader {
    Tcp(Arc<TcpStream>, BytesMut),
    Tunnel(Arc<Stream>),
}

/// What writes to a node.
pub(super) enum NodeWriter {
    Tcp(Arc<TcpStream>),
    Tunnel(Arc<Stream>),
}

/// Goes where a permit says.
///
/// # Errors
/// Why not, for the one who wants to go there.
pub(super) async fn dial<A: Authority>(
    shared: &Shared<A>,
    permit: &DialPermit,
    within: Duration,
) -> Result<Dialled, String> {
    timeout(within, way(&shared.agents, permit)).await.unwrap_or_else(|_| Err(unreachable(permit, "no answer")))
}

async fn way(agents: &Agents, permit: &DialPermit) -> Result<Dialled, String> {
    let tunnel = match permit.reach {
        Reach::Direct => agents.tunnel(permit.node_id),
        Reach::Tunnel => awaited(agents, permit).await,
    };
    if let Some(tunnel) = tunnel {
        let stream = tunnel.open().await.map_err(|why| unreachable(permit, &why.to_string()))?;
        return Ok(Dialled::Tunnel(Arc::new(stream)));
    }
    if permit.reach == Reach::Tunnel {
        return Err(format!("{} is reached through its agent, which is not connected to this gateway", permit.node));
    }
    let node = TcpStream::connect((permit.address, permit.port)).await;
    let node = node.map_err(|error| unreachable(permit, &error.kind().to_string()))?;
    // It fails only on a socket that is gone already.
    let _ = node.set_nodelay(true);
    Ok(Dialled::Tcp(Arc::new(node)))
}

/// An agent may be on its way here, from a gateway that has just handed over.
async fn awaited(agents: &Agents, permit: &DialPermit) -> Option<Tunnel> {
    let give_up = Instant::now() + AGENT_WITHIN;
    loop {
        let tunnel = agents.tunnel(permit.node_id);
        if tunnel.is_some() || Instant::now() >= give_up {
            return tunnel;
        }
        sleep(AGAIN).await;
    }
}

fn unreachable(permit: &DialPermit, why: &str) -> String {
    format!("{} cannot be reached: {why}", permit.node)
}

impl Dialled {
    /// Its two directions. Both are to be dropped to close it.
    pub(super) fn split(self) -> (NodeReader, NodeWriter) {
        match self {
            Self::Tcp(stream) => (NodeReader::Tcp(stream.clone(), BytesMut::new()), NodeWriter::Tcp(stream)),
            Self::Tunnel(stream) => (NodeReader::Tunnel(stream.clone()), NodeWriter::Tunnel(stream)),
        }
    }

    /// The socket, if it is one.
    pub(super) fn socket(&self) -> Option<Arc<TcpStream>> {
        match self {
            Self::Tcp(socket) => Some(socket.clone()),
            Self::Tunnel(_) => None,
        }
    }

    /// The stream, if it is one.
    pub(super) fn stream(&self) -> Option<Arc<Stream>> {
        match self {
            Self::Tcp(_) => None,
            Self::Tunnel(stream) => Some(stream.clone()),
        }
    }
}

impl NodeReader {
    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Tunnel(stream) => stream.read().await,
            Self::Tcp(reader, buffer) => loop {
                // An idle forward holds no buffer.
                reader.readable().await.ok()?;
                buffer.reserve(READ);
                match reader.try_read_buf(buffer) {
                    Ok(0) => return None,
                    Ok(_) => return Some(buffer.split().freeze()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => *buffer = BytesMut::new(),
                    Err(_) => return None,
                }
            },
        }
    }
}

impl NodeWriter {
    /// Writes all of it, as the node takes it. False: the node takes no more.
    pub(super) async fn write(&mut self, data: Bytes) -> bool {
        match self {
            Self::Tcp(writer) => written(writer, &data).await.is_ok(),
            Self::Tunnel(stream) => stream.write(data).await.is_ok(),
        }
    }

    /// End of file, not the end: the node may go on sending.
    pub(super) async fn end(&mut self) {
        match self {
            // It fails when the node has closed.
            Self::Tcp(writer) => drop(rustix::net::shutdown(&*writer, Shutdown::Write)),
            Self::Tunnel(stream) => stream.end(),
        }
    }
}

async fn written(writer: &TcpStream, mut data: &[u8]) -> std::io::Result<()> {
    while !data.is_empty() {
        writer.writable().await?;
        match writer.try_write(data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => data = &data[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
