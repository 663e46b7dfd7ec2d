//! The way to this node's sshd for gateways, where `reach` is `"tunnel"`: the agent asks the gateway for a channel, and
//! connects each stream that the gateway opens on it ([`crate::app::tunnel`]) to sshd.
//!
//! The gateway names no address: where sshd is stands in node.toml. And the agent dials from the address that it dials,
//! which only this machine's own addresses can be, so it is nobody's way to other machines, whatever stands there.

use crate::app::tunnel::{Incoming, Outgoing, Refusal, Stream, tunnel};
use bytes::{Bytes, BytesMut};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, client::Msg};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::timeout,
};

/// Connections to sshd at the same time.
pub const MAX_STREAMS: usize = 4096;
/// How long sshd may take to accept.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// How long sshd may take for what was sent before the gateway closed.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// How much is read from sshd at once.
const READ: usize = 32 * 1024;

/// Serves a tunnel until either side ends it; returns why it ended. Dropped, it ends every stream.
pub(super) async fn serve(channel: Channel<Msg>, sshd: SocketAddr) -> String {
    let (reader, writer) = channel.split();
    let (_tunnel, incoming, outgoing) = tunnel(MAX_STREAMS);
    tokio::select! {
        outcome = read(reader, incoming, sshd) => outcome,
        outcome = write(writer, outgoing) => outcome,
    }
}

/// Takes what arrives. Waits for nothing else: what is not taken from a channel stops the whole connection.
async fn read(mut channel: ChannelReadHalf, mut incoming: Incoming, sshd: SocketAddr) -> String {
    // With this, all of them end.
    let mut streams = JoinSet::new();
    loop {
        let data = match channel.wait().await {
            Some(ChannelMsg::Data { data }) => data,
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => return "the gateway has closed it".into(),
            Some(_) => continue,
        };
        let opened = match incoming.take(data) {
            Ok(opened) => opened,
            Err(fault) => return fault.to_string(),
        };
        for stream in opened {
            while streams.try_join_next().is_some() {}
            // Also those count that the gateway has closed and sshd has not.
            if streams.len() < MAX_STREAMS {
                streams.spawn(connect(stream, sshd));
            } else {
                stream.refuse(Refusal::TooMany);
            }
        }
    }
}

async fn write(channel: ChannelWriteHalf<Msg>, mut outgoing: Outgoing) -> String {
    while let Some(mut frame) = outgoing.next().await {
        if channel.data_bytes(std::mem::take(&mut frame.bytes)).await.is_err() {
            break;
        }
    }
    "the connection ended".into()
}

/// Dials one of this machine's own addresses, from that address.
pub(super) async fn dial(sshd: SocketAddr) -> io::Result<TcpStream> {
    let socket = if sshd.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Fails for an address that is not this machine's.
    socket.bind(SocketAddr::new(sshd.ip(), 0))?;
    let stream = socket.connect(sshd).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect(stream: Stream, sshd: SocketAddr) {
    let dialled = tokio::select! {
        () = stream.aborted() => return,
        dialled = timeout(DIAL_WITHIN, dial(sshd)) => dialled,
    };
    match dialled {
        Ok(Ok(socket)) => {
            stream.accept();
            carry(stream, socket).await;
        }
        Ok(Err(error)) => {
            tracing::warn!(%sshd, "the gateway wants to reach sshd, which does not take the connection: {error}");
            stream.refuse(Refusal::NotListening);
        }
        Err(_) => {
            tracing::warn!(%sshd, "the gateway wants to reach sshd, which does not answer");
            stream.refuse(Refusal::Timeout);
        }
    }
}

async fn carry(stream: Stream, socket: TcpStream) {
    let (from, to) = socket.into_split();
    let stream = Arc::new(stream);
    let both = async { tokio::join!(upwards(&stream, to), downwards(&stream, from)) };
    tokio::select! {
        () = stream.aborted() => {}
        _ = both => stream.finish(),
    }
}

/// To sshd.
async fn upwards(stream: &Stream, mut sshd: OwnedWriteHalf) {
    let all = async {
        while let Some(data) = stream.read().await {
            if sshd.write_all(&data).await.is_err() {
                // It has closed; its last words are the other direction's business.
                return;
            }
        }
        // It fails when sshd has closed.
        let _ = sshd.shutdown().await;
    };
    let late = async {
        stream.closed().await;
        tokio::time::sleep(DRAIN_WITHIN).await;
    };
    tokio::select! {
        () = all => {}
        () = late => {}
    }
}

/// From sshd, until the gateway has closed.
async fn downwards(stream: &Stream, sshd: OwnedReadHalf) {
    let all = async {
        let mut buffer = BytesMut::new();
        loop {
            // An idle connection holds no buffer.
            if sshd.readable().await.is_err() {
                break;
            }
            buffer.reserve(READ);
            match sshd.try_read_buf(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {
                    let data: Bytes = buffer.split().freeze();
                    if stream.write(data).await.is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
                Err(_) => break,
            }
        }
        stream.end();
    };
    tokio::select! {
        () = all => {}
        () = stream.closed() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_dialled_but_this_machines_own_addresses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let stream = dial(listener.local_addr().unwrap()).await.unwrap();
        // What sshd, and the source-address of certificates, take it for.
        assert_eq!(stream.local_addr().unwrap().ip(), stream.peer_addr().unwrap().ip());
        for other in ["192.0.2.1:22", "[2001:db8::1]:22"] {
            let error = dial(other.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{other}: refused before anything is sent");
        }
    }
}
