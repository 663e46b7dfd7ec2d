//! Accepting connections, within bounds: how many, from where, and how long until they have authenticated.

use super::{
    Limits, Shared,
    connection::{Connection, one_line},
    handler::Handler,
    lock,
};
use crate::app::authority::Authority;
use futures_util::future::join_all;
use russh::{Disconnect, server::run_stream};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a session that has said goodbye may wait for the peer to do the same.
const CLOSING: Duration = Duration::from_secs(3);

/// Refused connections are logged no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Accepts on every listener until `shutdown`, and returns when all connections have ended.
pub(super) async fn accept_all<A: Authority>(
    shared: Arc<Shared<A>>,
    listeners: Vec<TcpListener>,
    shutdown: CancellationToken,
) {
    let doors = Arc::new(Doors::default());
    join_all(listeners.into_iter().map(|listener| accept(&shared, listener, &shutdown, &doors))).await;
    while lock(&doors.0).total > 0 {
        sleep(Duration::from_millis(20)).await;
    }
}

async fn accept<A: Authority>(
    shared: &Arc<Shared<A>>,
    listener: TcpListener,
    shutdown: &CancellationToken,
    doors: &Arc<Doors>,
) {
    let mut complained: Option<Instant> = None;
    let mut turned_away = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others must close first.
                tracing::warn!(action = "accept", outcome = %error);
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let peer = peer.ip().to_canonical();
        let Some(place) = Doors::enter(doors, peer, &shared.config.limits) else {
            turned_away += 1;
            if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
                tracing::warn!(%peer, action = "accept", outcome = "too many connections", turned_away);
                complained = Some(Instant::now());
                turned_away = 0;
            }
            continue;
        };
        // A task of its own: a panic in it ends this connection only.
        tokio::spawn(serve(shared.clone(), stream, peer, place, shutdown.clone()));
    }
}

async fn serve<A: Authority>(
    shared: Arc<Shared<A>>,
    stream: TcpStream,
    peer: IpAddr,
    mut place: Place,
    shutdown: CancellationToken,
) {
    // The low half of 128 random bits.
    let id = format!("{:016x}", (shared.random)() & u128::from(u64::MAX));
    // Both fail only on a socket that is gone already.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let Ok((connection, socket)) = Connection::new(id, peer, stream) else { return };
    let deadline = Instant::now() + shared.config.limits.login_deadline;
    let handler = Handler::new(shared.clone(), connection.clone());
    let started = tokio::select! {
        started = run_stream(shared.ssh.clone(), socket, handler) => started,
        () = tokio::time::sleep_until(deadline) => {
            tracing::info!(connection = %connection.id, %peer, action = "login", outcome = "no SSH banner in time");
            return;
        }
        () = shutdown.cancelled() => return,
    };
    let mut session = match started {
        Ok(session) => session,
        Err(error) => {
            tracing::debug!(connection = %connection.id, %peer, action = "login", outcome = one_line(&error.to_string()));
            return;
        }
    };
    connection.started(session.handle());
    let mut authenticated = false;
    let mut stopping = false;
    let outcome = loop {
        tokio::select! {
            outcome = &mut session => break outcome,
            () = connection.authenticated.cancelled(), if !authenticated => {
                authenticated = true;
                place.authenticated();
            }
            () = tokio::time::sleep_until(deadline), if !authenticated => {
                authenticated = true;
                connection.end(Disconnect::ByApplication, "login took too long");
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.end(Disconnect::ByApplication, "the gateway is being restarted; connect again");
            }
            () = connection.closing() => {
                // russh now waits for the peer to close, without a bound.
                let outcome = timeout(CLOSING, &mut session).await;
                connection.cut();
                break match outcome {
                    Ok(outcome) => outcome,
                    Err(_) => session.await,
                };
            }
        }
    };
    connection.over.cancel();
    match outcome {
        Ok(()) => tracing::info!(connection = %connection.id, %peer, action = "connection", outcome = "closed"),
        // It may quote what the peer has sent, at any length.
        Err(error) => {
            let outcome = one_line(&error.to_string());
            tracing::info!(connection = %connection.id, %peer, action = "connection", outcome);
        }
    }
}

/// Who is in.
#[derive(Default)]
struct Doors(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    total: usize,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Default)]
struct Address {
    connections: usize,
    unauthenticated: usize,
}

/// A connection's place; given back when dropped.
struct Place {
    doors: Arc<Doors>,
    address: IpAddr,
    unauthenticated: bool,
}

impl Doors {
    fn enter(doors: &Arc<Self>, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let address = network(peer);
        let mut counts = lock(&doors.0);
        if counts.total >= limits.connections {
            return None;
        }
        let here = counts.addresses.entry(address).or_default();
        if here.connections >= limits.connections_per_address
            || here.unauthenticated >= limits.unauthenticated_per_address
        {
            // At least one is in, so the entry stays for it.
            return None;
        }
        here.connections += 1;
        here.unauthenticated += 1;
        counts.total += 1;
        drop(counts);
        Some(Place { doors: doors.clone(), address, unauthenticated: true })
    }
}

impl Place {
    fn authenticated(&mut self) {
        if std::mem::replace(&mut self.unauthenticated, false)
            && let Some(here) = lock(&self.doors.0).addresses.get_mut(&self.address)
        {
            here.unauthenticated -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.authenticated();
        let mut counts = lock(&self.doors.0);
        counts.total -= 1;
        if let Some(here) = counts.addresses.get_mut(&self.address) {
            here.connections -= 1;
            if here.connections == 0 {
                counts.addresses.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: whoever has one address of an IPv6 network usually has its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let doors = Arc::new(Doors::default());
        let limits =
            Limits { connections: 4, connections_per_address: 3, unauthenticated_per_address: 2, ..Limits::default() };
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut first = Doors::enter(&doors, a, &limits).unwrap();
        let second = Doors::enter(&doors, a, &limits).unwrap();
        assert!(Doors::enter(&doors, a, &limits).is_none(), "two are unauthenticated");
        first.authenticated();
        let third = Doors::enter(&doors, a, &limits).unwrap();
        drop(second);
        let fourth = Doors::enter(&doors, a, &limits).unwrap();
        drop(fourth);
        let _others = [Doors::enter(&doors, b, &limits).unwrap(), Doors::enter(&doors, b, &limits).unwrap()];
        assert!(Doors::enter(&doors, [192, 0, 2, 3].into(), &limits).is_none(), "four are in");
        drop((first, third));
        assert_eq!(lock(&doors.0).addresses.len(), 1, "addresses that have left are forgotten");
    }

    #[test]
    fn a_64_counts_as_one_address() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1:2:3"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
