//! The registry of what is open through gateways: who, where, since when, and an index from the account, so that a
//! removal looks at the sessions it may concern and at no others. No I/O.

use super::protocol::{ConnectionId, Credential};
use crate::domain::{AccountId, InstanceId, NodeId, NodePath, SessionId, Timestamp};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

/// One open forward.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The gateway that it goes through.
    pub gateway: String,
    /// Which process of it, if that says.
    pub instance: Option<InstanceId>,
    /// Its connection.
    pub connection: ConnectionId,
    /// The connection's other end.
    pub peer: IpAddr,
    /// As whom the connection was authenticated.
    pub credential: Credential,
    /// Where it goes.
    pub node: NodeId,
    /// Where it goes, by name.
    pub path: NodePath,
    /// Since when.
    pub since: Timestamp,
    /// Until when, if whose it is was removed from the project and its gateway was told so.
    pub leaves: Option<Timestamp>,
}

/// Open forwards by name, account and node.
#[derive(Debug, Default)]
pub struct Sessions {
    all: HashMap<SessionId, Session>,
    by_account: BTreeSet<(AccountId, SessionId)>,
    by_node: BTreeSet<(NodeId, SessionId)>,
}

impl Sessions {
    /// Notes an open forward; one of the same name is replaced.
    pub fn insert(&mut self, session: Session) {
        self.remove(&session.id);
        self.by_account.insert((session.credential.account, session.id.clone()));
        self.by_node.insert((session.node, session.id.clone()));
        self.all.insert(session.id.clone(), session);
    }

    /// Notes until when one may stay open. True if that was not known.
    pub fn leave(&mut self, id: &SessionId, until: Option<Timestamp>) -> bool {
        let Some(session) = self.all.get_mut(id) else { return false };
        std::mem::replace(&mut session.leaves, until) != until
    }

    /// Forgets one.
    pub fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let session = self.all.remove(id)?;
        self.by_account.remove(&(session.credential.account, id.clone()));
        self.by_node.remove(&(session.node, id.clone()));
        Some(session)
    }

    /// A process goes by this name now, with all that it has open.
    pub fn rename(&mut self, instance: &InstanceId, gateway: &str) {
        for session in self.all.values_mut().filter(|session| session.instance.as_ref() == Some(instance)) {
            gateway.clone_into(&mut session.gateway);
        }
    }

    /// Forgets those of a gateway that other processes of it had opened, and gives them back: two that live never have one
    /// name.
    pub fn remove_former(&mut self, gateway: &str, instance: &InstanceId) -> Vec<Session> {
        let former = |session: &&Session| {
            session.gateway == gateway && session.instance.as_ref().is_some_and(|its| its != instance)
        };
        let ids: Vec<SessionId> = self.all.values().filter(former).map(|session| session.id.clone()).collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Forgets those of a gateway that are not younger than `until`, and gives them back.
    pub fn remove_gateway(&mut self, gateway: &str, until: Timestamp) -> Vec<Session> {
        let its = self.all.values().filter(|session| session.gateway == gateway && session.since <= until);
        let ids: Vec<SessionId> = its.map(|session| session.id.clone()).collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Those of some accounts and to some nodes.
    #[must_use]
    pub fn concerned(&self, accounts: &BTreeSet<AccountId>, nodes: &BTreeSet<NodeId>) -> Vec<Session> {
        let zero = SessionId::from_bits(0);
        let of_accounts = accounts.iter().flat_map(|account| {
            self.by_account.range((*account, zero.clone())..).take_while(move |(a, _)| a == account).map(|(_, id)| id)
        });
        let to_nodes = nodes.iter().flat_map(|node| {
            self.by_node.range((*node, zero.clone())..).take_while(move |(n, _)| n == node).map(|(_, id)| id)
        });
        let ids: BTreeSet<&SessionId> = of_accounts.chain(to_nodes).collect();
        ids.into_iter().filter_map(|id| self.all.get(id).cloned()).collect()
    }

    /// How many go to a node.
    #[must_use]
    pub fn count_to(&self, node: NodeId) -> usize {
        self.by_node.range((node, SessionId::from_bits(0))..).take_while(|(n, _)| *n == node).count()
    }

    /// Whether an account has one to a node, beside this one.
    #[must_use]
    pub fn has_other(&self, account: AccountId, node: NodeId, this: &SessionId) -> bool {
        self.by_account
            .range((account, SessionId::from_bits(0))..)
            .take_while(|(a, _)| *a == account)
            .any(|(_, id)| id != this && self.all.get(id).is_some_and(|session| session.node == node))
    }

    /// One by name.
    #[must_use]
    pub fn get(&self, id: &SessionId) -> Option<&Session> {
        self.all.get(id)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Fingerprint;

    fn session(bits: u128, account: u64, node: u64) -> Session {
        Session {
            id: SessionId::from_bits(bits),
            gateway: "gw1".into(),
            instance: None,
            connection: "c".into(),
            peer: "127.0.0.1".parse().unwrap(),
            credential: Credential {
                account: AccountId(account),
                key: Fingerprint::from_bytes([0; 32]),
                certificate: None,
            },
            node: NodeId(node),
            path: "login-0.h100.acme".parse().unwrap(),
            since: Timestamp::from_secs(0),
            leaves: None,
        }
    }

    #[test]
    fn a_removal_looks_at_those_it_concerns_and_no_others() {
        let mut sessions = Sessions::default();
        for (bits, account, node) in [(1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 3, 3)] {
            sessions.insert(session(bits, account, node));
        }
        let ids = |found: Vec<Session>| found.into_iter().map(|s| s.id).collect::<Vec<_>>();
        let of = |bits: &[u128]| bits.iter().map(|b| SessionId::from_bits(*b)).collect::<Vec<_>>();
        assert_eq!(ids(sessions.concerned(&[AccountId(1)].into(), &BTreeSet::new())), of(&[1, 2]));
        assert_eq!(ids(sessions.concerned(&BTreeSet::new(), &[NodeId(1)].into())), of(&[1, 3]));
        assert_eq!(ids(sessions.concerned(&[AccountId(1)].into(), &[NodeId(1)].into())), of(&[1, 2, 3]));
        assert!(sessions.has_other(AccountId(1), NodeId(2), &SessionId::from_bits(9)));
        assert!(!sessions.has_other(AccountId(1), NodeId(2), &SessionId::from_bits(2)), "not this one");
        sessions.remove(&SessionId::from_bits(2));
        assert!(!sessions.has_other(AccountId(1), NodeId(2), &SessionId::from_bits(9)));
        assert_eq!(sessions.count_to(NodeId(1)), 2);
        let mut young = session(5, 1, 1);
        young.since = Timestamp::from_secs(100);
        sessions.insert(young);
        assert_eq!(sessions.remove_gateway("gw1", Timestamp::from_secs(99)).len(), 3);
        assert_eq!(sessions.remove_gateway("gw2", Timestamp::from_secs(100)).len(), 0);
        assert_eq!(sessions.remove_gateway("gw1", Timestamp::from_secs(100)).len(), 1);
        assert_eq!(sessions.iter().count(), 0);
    }
}
