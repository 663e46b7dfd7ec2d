//! The authority's event stream: followed, begun anew when it breaks or falls silent, and what is done with each event, now or
//! when its time has come.

use super::{Shared, forward::ForwardHandle, lock, registry::End};
use crate::{
    app::{
        authority::{Authority, EventStream},
        protocol::{Closed, ClosedRequest, Event, Marked, PING_SECS},
    },
    domain::{Grace, SessionId},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Silence for so long means that the stream is dead.
const SILENCE: Duration = Duration::from_secs(3 * PING_SECS);

/// The first and the longest wait before the stream is begun anew.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Reports of ended forwards in one call.
const REPORTS: usize = 1024;

/// What those are told whose connections ended because nobody could confirm them any more.
const LOST: &str = "the gateway has lost the access service, which must confirm open connections; connect again later";

/// Follows the event stream until `shutdown`.
pub(super) async fn follow<A: Authority>(shared: Arc<Shared<A>>, shutdown: CancellationToken) {
    let work = async {
        let mut heard = Instant::now();
        let mut wait = BACKOFF.0;
        loop {
            let before = heard;
            let problem = stream(&shared, &mut heard).await;
            shared.connected.send_replace(false);
            tracing::warn!(action = "events", outcome = %problem);
            wait = if heard > before { BACKOFF.0 } else { (wait * 2).min(BACKOFF.1) };
            let pause = jittered(wait, (shared.random)());
            tokio::select! {
                () = sleep(pause) => {}
                () = lost(&shared, heard) => heard = Instant::now(),
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Between half of it and all of it, so that gateways do not come back in step.
fn jittered(wait: Duration, random: u128) -> Duration {
    let share = u32::try_from(random & 0xff).unwrap_or(0);
    wait / 2 + wait * share / 512
}

/// Waits until the authority has been silent for too long, and then ends everything that is open.
async fn lost<A: Authority>(shared: &Shared<A>, heard: Instant) {
    sleep_until(heard + shared.config.limits.authority_lost_after).await;
    let ended = shared.registry().end_all(LOST);
    tracing::warn!(action = "events", outcome = "the authority is lost", ended = ended.len());
    for handle in ended {
        handle.end_with_connection(LOST);
    }
}

/// One stream from its hello to its end; returns why it ended.
async fn stream<A: Authority>(shared: &Arc<Shared<A>>, heard: &mut Instant) -> String {
    let name = shared.name();
    let open = shared.registry().hello();
    let hello = shared.hello(name.clone(), open);
    let opened = tokio::select! {
        opened = timeout(SILENCE, shared.authority.events(hello)) => opened,
        () = lost(shared, *heard) => {
            *heard = Instant::now();
            return "the authority does not answer".into();
        }
    };
    let mut events = match opened {
        Ok(Ok(events)) => events,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "the authority does not answer".into(),
    };
    loop {
        tokio::select! {
            event = timeout(SILENCE, events.next()) => match event {
                Ok(Ok(event)) => {
                    *heard = Instant::now();
                    shared.connected.send_replace(true);
                    if event == Event::Ready {
                        shared.greeted.send_replace(Arc::new(name.clone()));
                    }
                    act(shared, event);
                }
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the event stream fell silent".into(),
            },
            () = shared.resync.notified() => return "what the authority knows of this gateway has changed: beginning anew".into(),
            () = lost(shared, *heard) => {
                *heard = Instant::now();
                return "the event stream fell silent".into();
            }
        }
    }
}

/// Does what an event says. Never waits.
fn act<A: Authority>(shared: &Arc<Shared<A>>, event: Event) {
    match event {
        Event::Ready => tracing::info!(action = "events", outcome = "the authority is there"),
        Event::Ping => {}
        Event::End { session, reason } => end(shared, &session, &reason),
        Event::Leave { session, left, warning, reason } => {
            // The authority's clock is not this machine's: it says how long, not when. Longer than there are grace periods is a
            // mistake.
            let left = Duration::from_millis(left).min(Duration::from_secs(Grace::MAX_SECS.into()));
            let handle = shared.registry().leave(&session, Instant::now() + left, reason);
            shared.leaving.notify_one();
            if let Some(handle) = handle {
                let (connection, secs) = (&handle.connection, left.as_secs());
                tracing::info!(connection = %connection.id, peer = %connection.peer, %session, action = "leave", secs, outcome = warning);
                connection.warn(&warning);
            }
        }
        Event::Stay { session } => {
            tracing::info!(%session, action = "stay", outcome = "it need not end");
            shared.registry().stay(&session);
        }
        Event::Mark { version } => {
            *lock(&shared.seen) = Some(version);
            shared.registry().mark(version);
            shared.closed.notify_one();
        }
        Event::Bundle { cluster, version, bundle, lingering } => {
            let agents = shared.agents.relay(&cluster, version, bundle, lingering);
            tracing::info!(%cluster, %version, action = "bundle", outcome = "relayed", agents);
        }
        Event::HostCertificate { certificate } => {
            let outcome = shared.certify(&certificate);
            tracing::info!(action = "host certificate", outcome);
        }
        Event::EndOnNode { node, order } => {
            let outcome = if shared.agents.order(node, order) { "relayed" } else { "the node is not here" };
            tracing::info!(%node, action = "end on node", outcome);
        }
        Event::NodeGone { node } => {
            tracing::info!(%node, action = "node", outcome = "removed");
            shared.agents.gone(node);
        }
    }
}

/// Ends a forward by order.
fn end<A: Authority>(shared: &Shared<A>, session: &SessionId, reason: &str) {
    let end = shared.registry().end(session, reason);
    match end {
        End::Unknown => tracing::debug!(%session, action = "end", outcome = "not open"),
        End::Forward(handle) => {
            log_end(&handle, &session.to_string(), reason);
            handle.ordered();
            handle.end(reason);
        }
        End::Connection(handle) => {
            log_end(&handle, &session.to_string(), reason);
            handle.ordered();
            handle.end_with_connection(reason);
        }
    }
}

/// Until `shutdown`, ends the forwards that may stay only for a while when that is over. The authority ends them as well, if
/// it is there.
pub(super) async fn end_overdue<A: Authority>(shared: Arc<Shared<A>>, shutdown: CancellationToken) {
    loop {
        let next = shared.registry().next_leave();
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            // There may be another one that is sooner.
            () = shared.leaving.notified() => {}
            () = due => {}
        }
        let overdue = shared.registry().overdue(Instant::now());
        for (session, reason) in overdue {
            end(&shared, &session, &reason);
        }
    }
}

fn log_end(handle: &ForwardHandle, session: &str, reason: &str) {
    tracing::info!(connection = %handle.connection.id, peer = %handle.connection.peer, session, action = "end", outcome = reason);
}

/// Reports ended forwards until `shutdown`, gathered into few calls. What cannot be reported is tried again; an
/// authority that was restarted learns it from the hello as well.
pub(super) async fn report_closed<A: Authority>(shared: Arc<Shared<A>>, shutdown: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = shutdown.cancelled() => true,
            () = shared.closed.notified() => false,
        };
        let mut wait = BACKOFF.0;
        loop {
            let (mut sessions, mark) = shared.registry().take_closed();
            if sessions.is_empty() && mark.is_none() {
                break;
            }
            let later = sessions.split_off(sessions.len().min(REPORTS));
            let again = sessions.clone();
            let done = mark.map(|version| Marked { gateway: shared.name(), version });
            let reported = shared.ask::<Closed>(ClosedRequest { sessions, done }).await;
            shared.registry().put_back_closed(later);
            if reported.is_err() {
                shared.registry().put_back_closed(again);
                if let Some(version) = mark {
                    shared.registry().mark(version);
                }
                if stopping {
                    break;
                }
                tokio::select! {
                    () = sleep(wait) => wait = (wait * 2).min(BACKOFF.1),
                    () = shutdown.cancelled() => break,
                }
            }
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds() {
        for random in [0, 1, 127, 255, u128::MAX] {
            let pause = jittered(BACKOFF.1, random);
            assert!(pause >= BACKOFF.1 / 2 && pause <= BACKOFF.1);
        }
    }
}
