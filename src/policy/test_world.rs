//! A small directory for the tests of decisions: two organizations, three projects, and people with one key each.

use super::{Caller, Identity, Origin, Scope, identify};
use crate::domain::*;
use ed25519_dalek::SigningKey;
use ssh_key::public::{Ed25519PublicKey, KeyData};

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

pub(crate) struct World {
    pub(crate) directory: Directory,
}

/// A key that is different for every number.
pub(crate) fn key(number: u8) -> PublicKey {
    let public = SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes();
    PublicKey::from_key_data(&KeyData::Ed25519(Ed25519PublicKey(public))).unwrap()
}

/// From where everybody comes.
pub(crate) fn peer() -> Origin {
    Origin::Peer("192.0.2.1".parse().unwrap())
}

impl World {
    /// `admin1` is admin and `user1` member of `acme/ml` (cluster `h100`), `admin2` is admin of `acme/research` (cluster
    /// `b200`), `admin3` of `other/lab` (cluster `a100`); `user2` is in nothing. Each has the key of their number.
    pub(crate) fn new() -> Self {
        let mut world = Self { directory: Directory::default() };
        for (id, name) in [(1, "acme"), (2, "other")] {
            world.apply(Mutation::OrgCreated(Org { id: OrgId(id), name: name.parse().unwrap(), created: NOW }));
        }
        for (id, org, user) in
            [(11, 1, "admin1"), (12, 1, "user1"), (13, 1, "admin2"), (14, 2, "admin3"), (15, 1, "user2")]
        {
            world.apply(Mutation::AccountCreated(Account {
                id: AccountId(id),
                org: OrgId(org),
                email: format!("{user}@acme.example").parse().unwrap(),
                user: user.parse().unwrap(),
                uid: Uid(200_000 + u32::try_from(id).unwrap()),
                state: AccountState::Active,
                kind: AccountKind::Person,
                created: NOW,
            }));
            let number = u8::try_from(id).unwrap();
            world.apply(Mutation::KeyAdded(KeyEntry { account: AccountId(id), key: key(number), added: NOW }));
        }
        for (id, org, name, cluster, admin) in
            [(21, 1, "ml", "h100", 11), (22, 1, "research", "b200", 13), (23, 2, "lab", "a100", 14)]
        {
            let gid = 200_000 + 2 * u32::try_from(id).unwrap();
            world.apply(Mutation::ProjectCreated(Project {
                id: ProjectId(id),
                org: OrgId(org),
                name: name.parse().unwrap(),
                gid: Uid(gid),
                admins_gid: Uid(gid + 1),
                limits: Limits::default(),
                created: NOW,
            }));
            world.apply(Mutation::ClusterCreated(Cluster {
                id: ClusterId(id + 10),
                project: ProjectId(id),
                name: cluster.parse().unwrap(),
                kind: ClusterKind::Slurm,
                document: std::sync::Arc::default(),
                revision: 1,
                wanted: NodeCounts::default(),
                created: NOW,
            }));
            for (offset, node, role) in [(20, "login-0", NodeRole::Login), (30, "compute-0", NodeRole::Compute)] {
                world.apply(Mutation::NodeEnrolled(Node {
                    id: NodeId(id + offset),
                    cluster: ClusterId(id + 10),
                    name: node.parse().unwrap(),
                    role,
                    address: "192.0.2.7".parse().unwrap(),
                    port: 2222,
                    host_key: key(u8::try_from(id + offset).unwrap()),
                    enrolled: NOW,
                }));
            }
            world.add(id, admin, Role::Admin);
        }
        world.add(21, 12, Role::Member);
        world
    }

    pub(crate) fn apply(&mut self, mutation: Mutation) {
        self.directory = self.directory.after([&mutation]).unwrap();
    }

    pub(crate) fn add(&mut self, project: u64, account: u64, role: Role) {
        let by = Actor::Operator { uid: 0 };
        let (project, account) = (ProjectId(project), AccountId(account));
        self.apply(Mutation::MemberAdded(Membership { project, account, role, since: NOW, by }));
    }

    pub(crate) fn remove(&mut self, project: u64, account: u64, by: &str) {
        let (id, email, kind) = (AccountId(11), by.parse().unwrap(), Holder::Person);
        let by = Actor::Account { id, email, kind, key: key(11).fingerprint() };
        self.apply(Mutation::MemberRemoved(Departure {
            project: ProjectId(project),
            account: AccountId(account),
            at: NOW,
            by,
            until: None,
        }));
    }

    /// `ci@ml.acme.service`, user `svc-ci`, key 16: a service account of `acme/ml`, used from 192.0.2.0/24.
    pub(crate) fn with_service(force_command: Option<&str>) -> Self {
        let mut world = Self::new();
        let terms = ServiceTerms {
            project: ProjectId(21),
            sources: "192.0.2.0/24".parse().unwrap(),
            force_command: force_command.map(|command| command.parse().unwrap()),
            command_since: NOW,
            max_ttl: "10m".parse().unwrap(),
        };
        world.apply(Mutation::AccountCreated(Account {
            id: AccountId(16),
            org: OrgId(1),
            email: "ci@ml.acme.service".parse().unwrap(),
            user: "svc-ci".parse().unwrap(),
            uid: Uid(200_016),
            state: AccountState::Active,
            kind: AccountKind::Service(Box::new(terms)),
            created: NOW,
        }));
        world.apply(Mutation::KeyAdded(KeyEntry { account: AccountId(16), key: key(16), added: NOW }));
        world.add(21, 16, Role::Member);
        world
    }

    pub(crate) fn id(&self, user: &str) -> AccountId {
        self.directory.account_with_user(&user.parse().unwrap()).unwrap().id
    }

    /// Somebody who connected with their key.
    pub(crate) fn identity(&self, user: &str) -> Identity {
        let id = self.id(user);
        let identity =
            identify(&self.directory, id, key(u8::try_from(id.0).unwrap()).fingerprint(), None, peer(), NOW).unwrap();
        assert_eq!(*identity.scope(), Scope::Account);
        identity
    }

    /// Somebody who connected with a certificate.
    pub(crate) fn identity_with_certificate(&self, user: &str, principal: &str) -> Identity {
        let account = self.id(user);
        let key = key(u8::try_from(account.0).unwrap()).fingerprint();
        let record = CertificateRecord {
            serial: Serial(7),
            account,
            key,
            principals: vec![principal.into()],
            valid_after: NOW,
            valid_before: NOW.after(std::time::Duration::from_secs(300)),
            source: String::new(),
            issued: NOW,
        };
        identify(&self.directory, account, key, Some((Serial(7), Some(&record))), peer(), NOW).unwrap()
    }

    pub(crate) fn caller(&self, user: &str) -> Caller {
        Caller::Account(self.identity(user))
    }
}
