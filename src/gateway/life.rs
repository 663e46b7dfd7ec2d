//! The life of one connection: its handshake, until when it has to authenticate, how long it may be silent, and its end.

use super::{
    Limits, Shared,
    connection::{Connection, one_line},
    doors::Place,
    handler::Handler,
    lock,
    metrics::Bound,
    penalties::Offence,
};
use crate::app::authority::Authority;
use russh::{Disconnect, server::run_stream};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How long a session that has said goodbye may wait for the peer to do the same.
const CLOSING: Duration = Duration::from_secs(3);

/// While the gateway drains, connections without a channel end after so long: whoever comes back to one makes a new one,
/// at the gateway that has taken over.
const NOTHING_OPEN: Duration = Duration::from_secs(5);

/// How a handshake is counted that led somewhere.
const AUTHENTICATED: &str = "authenticated";

/// From an accepted socket to the end.
pub(super) async fn serve<A: Authority>(shared: Arc<Shared<A>>, stream: TcpStream, peer: IpAddr, place: Place) {
    // The low half of 128 random bits.
    let id = format!("{:016x}", (shared.random)() & u128::from(u64::MAX));
    // Both fail only on a socket that is gone already.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
    let Ok((connection, socket)) = Connection::new(id, peer, stream, place) else { return };
    let ended = run(&shared, &connection, socket).await;
    // Not with the connection, which tasks of its forwards may hold a little longer.
    drop(lock(&connection.place).take());
    if ended.handshake != AUTHENTICATED {
        shared.metrics.handshake(ended.handshake);
    }
    if let Some(offence) = ended.offence {
        shared.punish(peer, offence);
    }
    tracing::info!(connection = %connection.id, %peer, action = "connection", outcome = ended.outcome);
}

/// How a connection has ended.
struct Ended {
    handshake: &'static str,
    offence: Option<Offence>,
    outcome: String,
}

async fn run<A: Authority>(
    shared: &Arc<Shared<A>>,
    connection: &Arc<Connection>,
    socket: super::socket::Socket,
) -> Ended {
    let deadline = Instant::now() + shared.config.limits.login_deadline;
    let handler = Handler::new(shared.clone(), connection.clone());
    let evicted = lock(&connection.place).as_ref().map(|place| place.evicted.clone()).unwrap_or_default();
    let early = |handshake, offence, outcome: &str| Ended { handshake, offence, outcome: one_line(outcome) };
    let started = tokio::select! {
        started = run_stream(shared.ssh(), socket, handler) => started,
        () = sleep_until(deadline) => {
            shared.metrics.refused(Bound::LoginDeadline);
            return early("timeout", Some(Offence::LoginDeadline), "no SSH version came in time");
        }
        () = shared.stop.now.cancelled() => return early("stopped", None, "the gateway stops"),
        () = evicted.cancelled() => {
            shared.metrics.refused(Bound::Unauthenticated);
            return early("evicted", Some(Offence::NoAuth), "too many are logging in");
        }
    };
    let mut session = match started {
        Ok(session) => session,
        Err(error) => return early("failed", Some(Offence::NoAuth), &format!("no SSH version came: {error}")),
    };
    connection.started(session.handle());
    let mut login = Login { deadline, authenticated: false, late: false };
    let mut stopping = false;
    let outcome = loop {
        tokio::select! {
            outcome = &mut session => break outcome,
            () = login.step(connection) => {
                if login.late {
                    shared.metrics.refused(Bound::LoginDeadline);
                } else {
                    shared.metrics.handshake(AUTHENTICATED);
                }
            }
            () = shared.stop.now.cancelled(), if !stopping => {
                stopping = true;
                connection.end(Disconnect::ByApplication, "the gateway is being restarted; connect again");
            }
            () = evicted.cancelled(), if !login.authenticated && !connection.ending() => {
                shared.metrics.refused(Bound::Unauthenticated);
                connection.end(Disconnect::TooManyConnections, "too many are logging in; try again");
            }
            reason = too_quiet(shared, connection), if login.authenticated && !connection.ending() => {
                connection.end(Disconnect::ByApplication, &reason);
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
    let (handshake, offence) = login.judge(connection, stopping);
    // It may quote what the peer has sent, at any length.
    let outcome = outcome.map_or_else(|error| one_line(&error.to_string()), |()| "closed".to_owned());
    Ended { handshake, offence, outcome }
}

/// From the handshake to the authentication, or the deadline.
struct Login {
    deadline: Instant,
    authenticated: bool,
    late: bool,
}

impl Login {
    /// Waits for what comes next: never, once it is decided.
    async fn step(&mut self, connection: &Arc<Connection>) {
        if self.authenticated || self.late {
            return std::future::pending().await;
        }
        tokio::select! {
            () = connection.authenticated.cancelled() => self.authenticated = true,
            () = sleep_until(self.deadline) => {
                self.late = true;
                connection.end(Disconnect::ByApplication, "login took too long");
            }
        }
    }

    fn judge(&self, connection: &Connection, stopping: bool) -> (&'static str, Option<Offence>) {
        if self.authenticated || connection.authenticated.is_cancelled() {
            return (AUTHENTICATED, None);
        }
        if connection.excused() || stopping {
            return ("unauthenticated", None);
        }
        let offence = if self.late {
            Offence::LoginDeadline
        } else if connection.has_tried() {
            Offence::AuthFailed
        } else {
            Offence::NoAuth
        };
        (if self.late { "timeout" } else { "unauthenticated" }, Some(offence))
    }
}

/// Resolves when a connection has been silent for too long, with the reason; or when the gateway drains and nothing is
/// open on it.
async fn too_quiet<A: Authority>(shared: &Shared<A>, connection: &Connection) -> String {
    tokio::select! {
        reason = idle(shared, connection) => reason,
        () = async {
            shared.stop.drain.cancelled().await;
            while connection.channels.count() > 0 || connection.quiet() < NOTHING_OPEN {
                sleep(Duration::from_secs(1)).await;
            }
        } => "another gateway has taken over; connect again".into(),
    }
}

async fn idle<A>(shared: &Shared<A>, connection: &Connection) -> String {
    loop {
        let changed = connection.channels.changed.notified();
        let Some((allowed, left)) = allowance(&shared.config.limits, connection) else {
            changed.await;
            continue;
        };
        if left.is_zero() {
            shared.metrics.refused(Bound::Idle);
            return format!("nothing was said for {} s; connect again", allowed.as_secs());
        }
        tokio::select! {
            () = sleep(left) => {}
            () = changed => {}
        }
    }
}

/// How long a connection may be silent as it is now, and how much of that is left; none: for ever.
fn allowance(limits: &Limits, connection: &Connection) -> Option<(Duration, Duration)> {
    // An agent is asked whether it is there, and has nothing to say for days.
    let allowed = match connection.channels.kinds() {
        // Nor has a command that runs: its answer will come.
        kinds if kinds.agent || kinds.command => None,
        kinds if kinds.forward => limits.idle_forward_timeout,
        _ => limits.idle_timeout,
    }?;
    Some((allowed, allowed.saturating_sub(connection.quiet())))
}
