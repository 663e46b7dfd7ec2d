//! Which forwards are open, and what an order to end one means: a state machine without a socket in it.
//!
//! A forward is registered before the authority is asked, so an order to end it always finds it: an order that comes
//! before the answer makes the answer void.

use crate::{
    app::protocol::{ClosedSession, ConnectionId, Credential, OpenSession},
    domain::{NodeId, SessionId, Timestamp, Version},
};
use std::{collections::HashMap, net::IpAddr};
use tokio::time::Instant;

/// Reports of ended forwards that are kept while the authority is away. It learns the rest from the next hello, which
/// does not name them.
const MAX_CLOSED: usize = 16 * 1024;

/// The forwards of all connections; `H` is what ends one.
pub(super) struct Registry<H> {
    sessions: HashMap<SessionId, Entry<H>>,
    closed: Vec<ClosedSession>,
    /// Up to where the authority has named what had to end, if it was not told that that is done.
    mark: Option<Version>,
    hellos: u64,
}

struct Entry<H> {
    owner: Owner,
    handle: H,
    state: State,
    leaves: Option<Leaves>,
}

/// That a forward is going to end, whether or not the authority will be there then.
struct Leaves {
    at: Instant,
    reason: String,
}

enum State {
    /// The authority was asked after so many hellos.
    Pending { asked: u64 },
    /// It is open, or being dialled.
    Open { node: NodeId, since: Timestamp },
    /// It was ended; its task has not noticed yet.
    Ended { reason: String },
}

/// On whose behalf a forward is opened.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// The connection.
    pub(super) connection: ConnectionId,
    /// Its other end.
    pub(super) peer: IpAddr,
    /// As whom it was authenticated.
    pub(super) credential: Credential,
}

/// What became of a forward that the authority permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Open it.
    Go {
        /// A hello went out without it since the authority was asked: send another, or an authority that was
        /// restarted in between would never end it.
        resync: bool,
    },
    /// It was ended before the answer came.
    Ended(String),
}

/// What an order to end a forward means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End<H> {
    /// No such forward (any more).
    Unknown,
    /// End the forward; others are open on its connection.
    Forward(H),
    /// End the forward and its connection: nothing else is open there.
    Connection(H),
}

impl<H> Default for Registry<H> {
    fn default() -> Self {
        Self { sessions: HashMap::new(), closed: Vec::new(), mark: None, hellos: 0 }
    }
}

impl<H: Clone> Registry<H> {
    /// A forward for which the authority is about to be asked.
    pub(super) fn pending(&mut self, session: SessionId, owner: Owner, handle: H) {
        let state = State::Pending { asked: self.hellos };
        self.sessions.insert(session, Entry { owner, handle, state, leaves: None });
    }

    /// The authority permits it, and says when.
    pub(super) fn opened(&mut self, session: &SessionId, node: NodeId, since: Timestamp) -> Opened {
        let hellos = self.hellos;
        let Some(entry) = self.sessions.get_mut(session) else { return Opened::Ended("the connection ended".into()) };
        match &entry.state {
            State::Ended { reason } => Opened::Ended(reason.clone()),
            State::Open { .. } => Opened::Go { resync: false },
            State::Pending { asked } => {
                let resync = *asked != hellos;
                entry.state = State::Open { node, since };
                Opened::Go { resync }
            }
        }
    }

    /// What was permitted could not be reached, and the authority is about to be asked again.
    pub(super) fn asks_again(&mut self, session: &SessionId) {
        let hellos = self.hellos;
        if let Some(entry) = self.sessions.get_mut(session)
            && matches!(entry.state, State::Open { .. })
        {
            entry.state = State::Pending { asked: hellos };
        }
    }

    /// The authority refused it.
    pub(super) fn refused(&mut self, session: &SessionId) {
        self.sessions.remove(session);
    }

    /// It has ended, having moved so many bytes.
    pub(super) fn closed(&mut self, session: SessionId, up: u64, down: u64) {
        if self.sessions.remove(&session).is_some() && self.closed.len() < MAX_CLOSED {
            self.closed.push(ClosedSession { session, up, down });
        }
    }

    /// The authority ends it.
    pub(super) fn end(&mut self, session: &SessionId, reason: &str) -> End<H> {
        let Some(entry) = self.sessions.get_mut(session) else { return End::Unknown };
        if matches!(entry.state, State::Ended { .. }) {
            return End::Unknown;
        }
        entry.state = State::Ended { reason: reason.to_owned() };
        let (handle, connection) = (entry.handle.clone(), entry.owner.connection.clone());
        let others = self
            .sessions
            .values()
            .any(|other| other.owner.connection == connection && !matches!(other.state, State::Ended { .. }));
        if others { End::Forward(handle) } else { End::Connection(handle) }
    }

    /// It may stay until then. Returns what ends it, if it is there.
    pub(super) fn leave(&mut self, session: &SessionId, at: Instant, reason: String) -> Option<H> {
        let entry = self.sessions.get_mut(session)?;
        entry.leaves = Some(Leaves { at, reason });
        Some(entry.handle.clone())
    }

    /// It may stay after all.
    pub(super) fn stay(&mut self, session: &SessionId) {
        if let Some(entry) = self.sessions.get_mut(session) {
            entry.leaves = None;
        }
    }

    /// When the next of those that are going to end has to.
    pub(super) fn next_leave(&self) -> Option<Instant> {
        let live = self.sessions.values().filter(|entry| !matches!(entry.state, State::Ended { .. }));
        live.filter_map(|entry| entry.leaves.as_ref()).map(|leaves| leaves.at).min()
    }

    /// Those that have to end now, and why: to be ended like by an order.
    pub(super) fn overdue(&self, now: Instant) -> Vec<(SessionId, String)> {
        let live = self.sessions.iter().filter(|(_, entry)| !matches!(entry.state, State::Ended { .. }));
        let due = live.filter_map(|(session, entry)| Some((session, entry.leaves.as_ref()?)));
        let due = due.filter(|(_, leaves)| leaves.at <= now);
        due.map(|(session, leaves)| (session.clone(), leaves.reason.clone())).collect()
    }

    /// Ends everything.
    pub(super) fn end_all(&mut self, reason: &str) -> Vec<H> {
        let live = self.sessions.values_mut().filter(|entry| !matches!(entry.state, State::Ended { .. }));
        live.map(|entry| {
            entry.state = State::Ended { reason: reason.to_owned() };
            entry.handle.clone()
        })
        .collect()
    }

    /// What is open, for a hello.
    pub(super) fn hello(&mut self) -> Vec<OpenSession> {
        self.hellos += 1;
        let open = self.sessions.iter().filter_map(|(session, entry)| match entry.state {
            State::Open { node, since } => Some(OpenSession {
                session: session.clone(),
                connection: entry.owner.connection.clone(),
                peer: entry.owner.peer,
                credential: entry.owner.credential.clone(),
                node_id: node,
                since,
                leaves: entry.leaves.is_some(),
            }),
            State::Pending { .. } | State::Ended { .. } => None,
        });
        open.collect()
    }

    /// All that had to end up to this version was named.
    pub(super) fn mark(&mut self, version: Version) {
        self.mark = self.mark.max(Some(version));
    }

    /// The ended forwards that have not been reported, and the last mark, if that has not.
    pub(super) fn take_closed(&mut self) -> (Vec<ClosedSession>, Option<Version>) {
        (std::mem::take(&mut self.closed), self.mark.take())
    }

    /// They could not be reported.
    pub(super) fn put_back_closed(&mut self, mut sessions: Vec<ClosedSession>) {
        sessions.append(&mut self.closed);
        sessions.truncate(MAX_CLOSED);
        self.closed = sessions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountId, Fingerprint};

    const SINCE: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn owner(connection: &str) -> Owner {
        Owner {
            connection: connection.into(),
            peer: [127, 0, 0, 1].into(),
            credential: Credential { account: AccountId(1), key: Fingerprint::from_bytes([1; 32]), certificate: None },
        }
    }

    fn id(n: u128) -> SessionId {
        SessionId::from_bits(n)
    }

    fn open(registry: &mut Registry<u8>, n: u8, connection: &str) {
        registry.pending(id(n.into()), owner(connection), n);
        assert_eq!(registry.opened(&id(n.into()), NodeId(1), SINCE), Opened::Go { resync: false });
    }

    #[test]
    fn an_order_to_end_that_overtakes_the_permit_voids_it() {
        let mut registry = Registry::default();
        registry.pending(id(1), owner("a"), 1);
        assert_eq!(registry.end(&id(1), "removed"), End::Connection(1));
        assert_eq!(registry.opened(&id(1), NodeId(1), SINCE), Opened::Ended("removed".into()));
        assert!(registry.hello().is_empty(), "it was never open");
    }

    #[test]
    fn the_connection_ends_with_its_last_forward() {
        let mut registry = Registry::default();
        open(&mut registry, 1, "a");
        open(&mut registry, 2, "a");
        open(&mut registry, 3, "b");
        assert_eq!(registry.end(&id(1), "removed"), End::Forward(1));
        assert_eq!(registry.end(&id(1), "removed"), End::Unknown, "once is enough");
        assert_eq!(registry.end(&id(2), "removed"), End::Connection(2));
        assert_eq!(registry.hello().len(), 1);
        assert_eq!(registry.end_all("lost"), [3]);
        assert_eq!(registry.end(&id(9), "x"), End::Unknown);
    }

    #[test]
    fn what_may_stay_for_a_while_is_due_then_unless_it_may_stay_after_all() {
        let mut registry = Registry::default();
        let now = Instant::now();
        let after = |secs| now + std::time::Duration::from_secs(secs);
        for n in 1..=3 {
            open(&mut registry, n, "a");
        }
        assert_eq!(registry.next_leave(), None);
        assert_eq!(registry.leave(&id(9), now, "removed".into()), None, "it is not there");
        for (n, secs) in [(1, 20), (2, 10), (3, 10)] {
            assert_eq!(registry.leave(&id(n.into()), after(secs), "removed".into()), Some(n));
        }
        assert_eq!(registry.next_leave(), Some(after(10)));
        assert!(registry.hello().iter().all(|session| session.leaves));
        registry.stay(&id(3));
        assert!(registry.overdue(after(9)).is_empty());
        assert_eq!(registry.overdue(after(10)), [(id(2), "removed".to_owned())]);
        // Sooner now, which the last order says.
        registry.leave(&id(1), after(10), "removed".into());
        assert_eq!(registry.overdue(after(10)).len(), 2);
        for n in [1, 2] {
            assert_eq!(registry.end(&id(n), "removed"), End::Forward(if n == 1 { 1 } else { 2 }));
        }
        assert_eq!(registry.next_leave(), None, "what was ended is waited for no more");
    }

    #[test]
    fn a_forward_that_a_hello_has_missed_is_told_in_another() {
        let mut registry = Registry::default();
        registry.pending(id(1), owner("a"), 1);
        assert!(registry.hello().is_empty());
        assert_eq!(registry.opened(&id(1), NodeId(1), SINCE), Opened::Go { resync: true });
        let told = registry.hello();
        assert_eq!((told.len(), told[0].since), (1, SINCE));
    }

    #[test]
    fn a_forward_for_which_is_asked_again_is_open_where_it_was_permitted_last() {
        let mut registry = Registry::default();
        open(&mut registry, 1, "a");
        registry.asks_again(&id(1));
        assert!(registry.hello().is_empty(), "it is nowhere now");
        assert_eq!(
            registry.opened(&id(1), NodeId(2), SINCE),
            Opened::Go { resync: true },
            "a hello went out without it"
        );
        assert_eq!(registry.hello()[0].node_id, NodeId(2));
        registry.end(&id(1), "removed");
        registry.asks_again(&id(1));
        assert_eq!(registry.opened(&id(1), NodeId(3), SINCE), Opened::Ended("removed".into()));
    }

    #[test]
    fn what_ended_is_reported_once_and_again_only_if_that_failed() {
        let mut registry = Registry::default();
        open(&mut registry, 1, "a");
        registry.pending(id(2), owner("a"), 2);
        registry.refused(&id(2));
        registry.closed(id(1), 10, 20);
        registry.closed(id(1), 10, 20);
        registry.mark(Version(7));
        registry.mark(Version(6));
        let (closed, mark) = registry.take_closed();
        assert_eq!((closed.len(), mark), (1, Some(Version(7))));
        registry.put_back_closed(closed);
        assert_eq!(registry.take_closed().0.len(), 1);
        assert_eq!(registry.take_closed(), (vec![], None));
    }
}
