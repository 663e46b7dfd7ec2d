//! Accepting connections: from whom, how many, and whose they are when a load balancer passes them on. What happens on one
//! is [`super::life`]'s.

use super::{
    Shared,
    doors::{Doors, Place},
    life, lock,
    metrics::Bound,
    penalties::Offence,
    proxy,
};
use crate::app::authority::Authority;
use futures_util::future::join_all;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, interval, sleep, sleep_until},
};

/// Refused connections are logged no more often than this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Each listening socket is looked after at least so often, also when nobody comes.
const TURN: Duration = Duration::from_secs(1);

/// Which of the listening sockets were looked after, and which of the threads that carry connections did something: what the
/// watchdog is told follows from it.
#[derive(Default)]
pub(super) struct Turns(Mutex<Vec<bool>>);

impl Turns {
    fn begin(&self, count: usize) {
        *lock(&self.0) = vec![false; count];
    }

    fn took(&self, index: usize) {
        lock(&self.0).iter_mut().skip(index).take(1).for_each(|took| *took = true);
    }

    /// Whether all of them were since the last call.
    pub(super) fn all(&self) -> bool {
        let mut turns = lock(&self.0);
        let all = !turns.is_empty() && turns.iter().all(|took| *took);
        turns.fill(false);
        all
    }
}

/// A line before the version string (RFC 4253, 4.2): what sshd says to those whom it refuses for a while.
const NOT_NOW: &[u8] = b"Not allowed at this time\r\n";

/// Accepts on every listener until the gateway drains, and returns when all connections have ended: by themselves, when
/// the time for that is over, or when the gateway stops.
pub(super) async fn accept_all<A: Authority>(shared: Arc<Shared<A>>, listeners: Vec<TcpListener>) {
    let sockets = listeners.len();
    shared.turns.begin(sockets + shared.lanes.count());
    shared.lanes.each(|number| turn_by_turn(shared.clone(), sockets + number));
    let accepting = listeners.into_iter().enumerate().map(|(index, listener)| accept(&shared, index, listener));
    join_all(accepting).await;
    if !shared.stop.now.is_cancelled() {
        let (connections, _) = shared.doors.count();
        tracing::info!(action = "drain", outcome = "no new connections are taken", connections);
    }
    let give_up = Instant::now() + shared.config.limits.drain;
    loop {
        let (connections, _) = shared.doors.count();
        // A forward whose connection is gone may still have something for its node, unless all is to end now.
        if shared.doors.is_empty() || connections == 0 && shared.stop.now.is_cancelled() {
            return;
        }
        if Instant::now() >= give_up && !shared.stop.now.is_cancelled() {
            tracing::warn!(action = "drain", outcome = "the time to end in peace is over", connections);
            shared.stop.now.cancel();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Tells that a thread is not stuck.
async fn turn_by_turn<A: Authority>(shared: Arc<Shared<A>>, index: usize) {
    let mut turn = interval(TURN);
    loop {
        tokio::select! {
            () = shared.stop.drain.cancelled() => return,
            _ = turn.tick() => shared.turns.took(index),
        }
    }
}

async fn accept<A: Authority>(shared: &Arc<Shared<A>>, index: usize, listener: TcpListener) {
    let mut complaints = Complaints::default();
    let mut turn = interval(TURN);
    loop {
        let accepted = tokio::select! {
            () = shared.stop.drain.cancelled() => return,
            _ = turn.tick() => {
                shared.turns.took(index);
                continue;
            }
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
        let balanced = shared.config.proxy_protocol_from.as_ref().is_some_and(|from| from.contains(peer));
        let place = match Doors::enter(&shared.doors, &shared.config.limits) {
            Ok(place) if balanced => Some(place),
            Ok(place) => {
                admit(shared, place, peer).map_err(|bound| turn_away(&stream, bound, peer, &mut complaints)).ok()
            }
            Err(bound) => {
                shared.metrics.refused(bound);
                turn_away(&stream, bound, peer, &mut complaints);
                None
            }
        };
        let Some(place) = place else { continue };
        let its = shared.clone();
        if balanced {
            shared.lanes.carry(stream, move |stream| passed_on(its, stream, peer, place));
        } else {
            shared.lanes.carry(stream, move |stream| life::serve(its, stream, peer, place));
        }
    }
}

/// Whether a connection from there may begin.
fn admit<A>(shared: &Shared<A>, mut place: Place, peer: IpAddr) -> Result<Place, Bound> {
    let now = Instant::now();
    let settings = &shared.config.penalties;
    if shared.penalties().refuses(settings, peer, now) {
        shared.punish(peer, Offence::Refused);
        shared.metrics.refused(Bound::Penalty);
        return Err(Bound::Penalty);
    }
    place.from(peer, &shared.config.limits).inspect_err(|bound| shared.metrics.refused(*bound))?;
    Ok(place)
}

/// Tells the one who is refused as much as fits into the socket at once, and the log now and then.
fn turn_away(stream: &TcpStream, bound: Bound, peer: IpAddr, complaints: &mut Complaints) {
    say_no(stream);
    complaints.refused(bound, peer);
}

/// What fits into the socket at once. Not tokio's way, which knows nothing yet of a socket that was just accepted.
fn say_no(stream: &TcpStream) {
    use rustix::net::{SendFlags, send};
    let _ = send(stream, NOT_NOW, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// A connection that a load balancer passes on.
async fn passed_on<A: Authority>(shared: Arc<Shared<A>>, mut stream: TcpStream, balancer: IpAddr, place: Place) {
    let header = tokio::select! {
        header = proxy::read(&mut stream, proxy::WITHIN) => header,
        () = shared.stop.now.cancelled() => return,
        () = sleep_until(Instant::now() + shared.config.limits.login_deadline) => return,
    };
    let peer = match header {
        // It speaks for itself, as for a health check, and is what it is: the load balancer.
        Ok(source) => source.unwrap_or(balancer),
        // Load balancers look whether a port is open.
        Err(proxy::ProxyError::Ended) => return,
        Err(error) => {
            shared.metrics.refused(Bound::ProxyHeader);
            // Not louder: the metric tells of it, and whoever can speak for a load balancer can do so often.
            tracing::debug!(peer = %balancer, action = "accept", outcome = %error);
            return;
        }
    };
    match admit(&shared, place, peer) {
        Ok(place) => life::serve(shared, stream, peer, place).await,
        Err(bound) => {
            say_no(&stream);
            tracing::debug!(%peer, %balancer, action = "accept", outcome = "refused", %bound);
        }
    }
}

/// What is refused at the door, summed up: whoever comes too often must not fill the log.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    refused: u64,
}

impl Complaints {
    fn refused(&mut self, bound: Bound, peer: IpAddr) {
        self.refused += 1;
        if self.last.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            tracing::warn!(%peer, action = "accept", outcome = "refused", %bound, refused = self.refused);
            self.last = Some(Instant::now());
            self.refused = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_takes_no_turn_is_noticed() {
        let turns = Turns::default();
        assert!(!turns.all(), "nobody has begun");
        turns.begin(3);
        turns.took(0);
        turns.took(2);
        assert!(!turns.all());
        (0..3).for_each(|index| turns.took(index));
        assert!(turns.all());
        assert!(!turns.all(), "each time anew");
    }
}
