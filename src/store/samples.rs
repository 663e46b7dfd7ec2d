//! Small values for the tests of stores.

use crate::{
    audit::Event,
    domain::{
        Account, AccountId, AccountKind, AccountState, Actor, CertificateRecord, Cluster, ClusterId, ClusterKind,
        Departure, Document, Fingerprint, KeyEntry, Limits, Membership, Mutation, Node, NodeCounts, NodeId, NodeRole,
        Org, OrgId, Project, ProjectId, PublicKey, Role, Serial, Timestamp, Uid,
    },
};

/// Before everything that the samples say.
pub(crate) const EARLY: Timestamp = Timestamp::from_secs(1);
/// After everything that the samples say.
pub(crate) const LATE: Timestamp = Timestamp::from_secs(4_000_000_000);
/// The cluster of [`places`].
pub(crate) const CLUSTER: ClusterId = ClusterId(11);
const PROJECT: ProjectId = ProjectId(10);
const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);
pub(crate) const OPERATOR: Actor = Actor::Operator { uid: 0 };

/// An ed25519 key that nobody has the private half of.
pub(crate) fn key(n: u8) -> PublicKey {
    let mut wire = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
    wire.extend([n; 32]);
    PublicKey::from_wire(&wire).unwrap()
}

pub(crate) fn event(action: &str) -> Event {
    Event::new(NOW, OPERATOR, action, "acme")
}

pub(crate) fn certificate(serial: Serial, account: AccountId, valid_before: Timestamp) -> CertificateRecord {
    CertificateRecord {
        serial,
        account,
        key: Fingerprint::from_bytes([9; 32]),
        principals: vec!["user2@acme/ml-training".into(), "user2@acme/research".into()],
        valid_after: EARLY,
        valid_before,
        source: "192.0.2.7".into(),
        issued: NOW,
    }
}

pub(crate) fn org(id: u64, name: &str) -> Mutation {
    Mutation::OrgCreated(Org { id: OrgId(id), name: name.parse().unwrap(), created: NOW })
}

pub(crate) fn account(id: u64) -> Mutation {
    Mutation::AccountCreated(Account {
        id: AccountId(id),
        org: OrgId(1),
        email: format!("user{id}@acme.example").parse().unwrap(),
        user: format!("user{id}").parse().unwrap(),
        uid: Uid(200_000 + u32::try_from(id).unwrap()),
        state: AccountState::Active,
        kind: AccountKind::Person,
        created: NOW,
    })
}

/// Organization 1 `acme`; accounts 2 and 3, each with a key.
pub(crate) fn people() -> Vec<Mutation> {
    let with_key = |id: u8| Mutation::KeyAdded(KeyEntry { account: AccountId(id.into()), key: key(id), added: NOW });
    vec![org(1, "acme"), account(2), account(3), with_key(2), with_key(3)]
}

/// A project with one cluster; account 2 is a member, account 3 its admin.
pub(crate) fn places() -> Vec<Mutation> {
    let joined = |account, role| {
        let account = AccountId(account);
        Mutation::MemberAdded(Membership { project: PROJECT, account, role, since: NOW, by: OPERATOR })
    };
    vec![
        Mutation::ProjectCreated(Project {
            id: PROJECT,
            org: OrgId(1),
            name: "ml-training".parse().unwrap(),
            gid: Uid(200_000),
            admins_gid: Uid(200_001),
            limits: Limits::default(),
            created: NOW,
        }),
        Mutation::ClusterCreated(Cluster {
            id: CLUSTER,
            project: PROJECT,
            name: "h100-cluster-1".parse().unwrap(),
            kind: ClusterKind::Slurm,
            document: std::sync::Arc::default(),
            revision: 1,
            wanted: NodeCounts::default(),
            created: NOW,
        }),
        joined(2, Role::Member),
        joined(3, Role::Admin),
    ]
}

/// A node of [`CLUSTER`].
pub(crate) fn enrolled(id: u64, name: &str, host_key: u8) -> Mutation {
    Mutation::NodeEnrolled(Node {
        id: NodeId(id),
        cluster: CLUSTER,
        name: name.parse().unwrap(),
        role: NodeRole::Login,
        address: "2001:db8::1".parse().unwrap(),
        port: 22,
        host_key: key(host_key),
        enrolled: NOW,
    })
}

/// A configuration of [`CLUSTER`], since so many seconds.
pub(crate) fn configured(text: &str, at: u64) -> Mutation {
    let document = std::sync::Arc::new(Document::parse(text, ClusterKind::Slurm).unwrap());
    Mutation::ClusterConfigured { cluster: CLUSTER, document, at: Timestamp::from_secs(at) }
}

pub(crate) fn left(account: AccountId) -> Mutation {
    Mutation::MemberRemoved(Departure { project: PROJECT, account, at: NOW, by: OPERATOR, until: None })
}

pub(crate) fn role(account: AccountId, role: Role) -> Mutation {
    Mutation::RoleSet { project: PROJECT, account, role }
}

pub(crate) fn project_deleted() -> Mutation {
    Mutation::ProjectDeleted { project: PROJECT, at: NOW, by: OPERATOR }
}
