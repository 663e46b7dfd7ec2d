//! A large directory, the same in every run, written through the store's own way.

use super::{Numbers, progress};
use certgate::{
    audit::{Event, Outcome},
    domain::{
        Account, AccountId, AccountKind, AccountState, Actor, CertificateRecord, Cluster, ClusterId, ClusterKind,
        Departure, Fingerprint, Holder, JoinToken, KeyEntry, Limits, Membership, Mutation, Node, NodeCounts, NodeId,
        NodeRole, Org, OrgId, Project, ProjectId, PublicKey, Role, Timestamp, TokenHash, Uid, Volume, VolumeId,
    },
    store::{Change, Ledger, SqliteStore, Store},
};
use futures_util::{StreamExt, stream};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

const ORGS: u64 = 20;
const ACCOUNTS: u64 = 100_000;
const PROJECTS: u64 = 10_000;
/// Of each project, in its one cluster.
const NODES: u64 = 5;
/// Of each account: 30 members for a project, on average.
const MEMBERSHIPS: u64 = 3;
/// Members of the first project, which everybody at a company may be in.
const LARGE: u64 = 5_000;
/// Nodes that were enrolled and removed again, and members who have left.
const GONE: u64 = 5_000;
/// Certificates on record that have run out, and those that have not.
const ENDED: u64 = 190_000;
const LIVE: u64 = 10_000;
/// Changes in one transaction.
const BATCH: usize = 5_000;

/// How large it is, in words.
pub fn description() -> String {
    format!(
        "{ACCOUNTS} accounts with 1.5 keys each (8 of 10 ed25519, 1 ECDSA, 1 RSA 3072), {PROJECTS} projects with one \
         cluster and one volume each, {} nodes, {} memberships (one project has {LARGE} members), {GONE} nodes removed and \
         {GONE} members gone, {} certificates on record, and an audit entry for each of all that",
        PROJECTS * NODES,
        ACCOUNTS * MEMBERSHIPS + LARGE,
        ENDED + LIVE
    )
}

/// Before all of it.
const THEN: Timestamp = Timestamp::from_secs(1_700_000_000);
const BY: Actor = Actor::Operator { uid: 0 };

// Numbers are given out from one series.
fn account_id(n: u64) -> AccountId {
    AccountId(1 + ORGS + n)
}

fn project_id(n: u64) -> ProjectId {
    ProjectId(account_id(ACCOUNTS).0 + n)
}

fn cluster_id(n: u64) -> ClusterId {
    ClusterId(project_id(PROJECTS).0 + n)
}

fn volume_id(n: u64) -> VolumeId {
    VolumeId(cluster_id(PROJECTS).0 + n)
}

fn node_id(n: u64) -> NodeId {
    NodeId(volume_id(PROJECTS).0 + n)
}

fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap()
}

/// Fills the empty store of a state directory. `now`: when the live certificates are live.
pub async fn make(state: &Path, now: Timestamp) {
    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = tokio::task::block_in_place(|| SqliteStore::open(state, commits)).unwrap();
    progress("people");
    write(&store, people()).await;
    progress("places");
    write(&store, places()).await;
    progress("memberships");
    write(&store, memberships()).await;
    progress("certificates");
    certificates(&store, now).await;
    tokio::task::block_in_place(|| drop(store));
}

/// Each change with its audit event.
async fn write(store: &SqliteStore, mutations: impl Iterator<Item = Mutation>) {
    let mut mutations = mutations.peekable();
    while mutations.peek().is_some() {
        let mutations: Vec<Mutation> = mutations.by_ref().take(BATCH).collect();
        let events = mutations.iter().map(|_| event("member.add", String::new())).collect();
        let change = Change { mutations, events, ..Change::default() };
        store.transact(Box::new(|_| Some(change))).await.unwrap();
    }
}

/// As long as they are in an authority that is used.
fn event(action: &str, detail: String) -> Event {
    Event {
        at: THEN,
        actor: Actor::Account {
            id: account_id(0),
            email: "user0@org-0.example".parse().unwrap(),
            kind: Holder::Person,
            key: Fingerprint::from_bytes([7; 32]),
        },
        source: "192.0.2.1".into(),
        connection: Some("0123456789abcdef".into()),
        action: action.into(),
        object: "org-0/project-0 user0@org-0.example".into(),
        outcome: Outcome::Done,
        reason: None,
        certificate: None,
        session: None,
        detail,
    }
}

fn people() -> impl Iterator<Item = Mutation> {
    let mut numbers = Numbers(1);
    let orgs = (0..ORGS).map(|n| {
        let name = format!("org-{n}").parse().unwrap();
        Mutation::OrgCreated(Org { id: OrgId(1 + n), name, created: THEN })
    });
    let accounts = (0..ACCOUNTS).flat_map(move |n| {
        let account = account_id(n);
        let created = Mutation::AccountCreated(Account {
            id: account,
            org: OrgId(1 + n % ORGS),
            email: format!("user{n}@org-{}.example", n % ORGS).parse().unwrap(),
            user: format!("user{n}").parse().unwrap(),
            uid: Uid(200_000 + small(n)),
            state: if n % 100 == 99 { AccountState::Suspended } else { AccountState::Active },
            kind: AccountKind::Person,
            created: THEN,
        });
        let keys: Vec<_> = (0..1 + n % 2).map(|_| KeyEntry { account, key: key(&mut numbers), added: THEN }).collect();
        [created].into_iter().chain(keys.into_iter().map(Mutation::KeyAdded))
    });
    orgs.chain(accounts)
}

/// A key of which nobody has the private half.
fn key(numbers: &mut Numbers) -> PublicKey {
    let fields: Vec<Vec<u8>> = match numbers.below(10) {
        0 => {
            // Positive, and with all of its bits (RFC 4251, 5).
            let mut modulus = numbers.bytes::<385>();
            (modulus[0], modulus[1]) = (0, modulus[1] | 0x80);
            vec![b"ssh-rsa".into(), vec![1, 0, 1], modulus.into()]
        }
        1 => {
            let mut point = numbers.bytes::<65>();
            point[0] = 4;
            vec![b"ecdsa-sha2-nistp256".into(), b"nistp256".into(), point.into()]
        }
        _ => vec![b"ssh-ed25519".into(), numbers.bytes::<32>().into()],
    };
    let mut wire = Vec::new();
    for field in fields {
        wire.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
        wire.extend(field);
    }
    PublicKey::from_wire(&wire).unwrap()
}

/// One of the usual kind.
pub fn ed25519(numbers: &mut Numbers) -> PublicKey {
    loop {
        let key = key(numbers);
        if key.algorithm() == "ssh-ed25519" {
            return key;
        }
    }
}

/// The organization of a project.
fn org_of(project: u64) -> OrgId {
    OrgId(1 + project % ORGS)
}

fn places() -> impl Iterator<Item = Mutation> {
    let projects = (0..PROJECTS).flat_map(|n| {
        let project = project_id(n);
        [
            Mutation::ProjectCreated(Project {
                id: project,
                org: org_of(n),
                name: format!("project-{n}").parse().unwrap(),
                gid: Uid(200_000 + 2 * small(n)),
                admins_gid: Uid(200_001 + 2 * small(n)),
                limits: Limits::default(),
                created: THEN,
            }),
            Mutation::ClusterCreated(Cluster {
                id: cluster_id(n),
                project,
                name: format!("cluster-{n}").parse().unwrap(),
                kind: ClusterKind::Slurm,
                document: std::sync::Arc::default(),
                revision: 1,
                wanted: NodeCounts::default(),
                created: THEN,
            }),
            Mutation::VolumeCreated(Volume {
                id: volume_id(n),
                project,
                name: "data".parse().unwrap(),
                size: "10T".parse().unwrap(),
                mount: "/data".parse().unwrap(),
                created: THEN,
            }),
        ]
    });
    let mut keys = Numbers(2);
    let nodes = (0..PROJECTS * NODES).flat_map(move |n| {
        let (token, node) = node(n, n / NODES, format!("node-{}", n % NODES), &mut keys);
        [token, node]
    });
    let mut keys = Numbers(3);
    let gone = (0..GONE).flat_map(move |n| {
        let (token, node) = node(PROJECTS * NODES + n, n % PROJECTS, "gone".into(), &mut keys);
        [token, node, Mutation::NodeRemoved { node: node_id(PROJECTS * NODES + n), at: THEN }]
    });
    projects.chain(nodes).chain(gone)
}

/// A node, and the token with which it joined.
fn node(n: u64, cluster: u64, name: String, keys: &mut Numbers) -> (Mutation, Mutation) {
    let role = if n.is_multiple_of(NODES) { NodeRole::Login } else { NodeRole::Compute };
    let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + small(n)));
    let token = JoinToken {
        hash: TokenHash::of(&n.to_be_bytes()),
        cluster: cluster_id(cluster),
        node: name.parse().unwrap(),
        role,
        address: None,
        port: 22,
        by: BY,
        expires: THEN,
        used: Some(THEN),
    };
    // What sshd makes.
    let host_key = ed25519(keys);
    let node = Node {
        id: node_id(n),
        cluster: cluster_id(cluster),
        name: name.parse().unwrap(),
        role,
        address,
        port: 22,
        host_key,
        enrolled: THEN,
    };
    (Mutation::TokenCreated(token), Mutation::NodeEnrolled(node))
}

fn memberships() -> impl Iterator<Item = Mutation> {
    let mut numbers = Numbers(4);
    let (mut there, mut led) = (BTreeSet::new(), BTreeSet::new());
    let mut joined = Vec::new();
    let mut join = |project: u64, account: u64| {
        let (project, account) = (project_id(project), account_id(account));
        if there.insert((project, account)) {
            // Whoever comes first is its admin.
            let role = if led.insert(project) { Role::Admin } else { Role::Member };
            joined.push(Mutation::MemberAdded(Membership { project, account, role, since: THEN, by: BY }));
        }
    };
    for n in 0..ACCOUNTS {
        // One in each project of the same number at least, so that every project has an admin.
        join(n % PROJECTS, n);
        for _ in 1..MEMBERSHIPS {
            join(numbers.below(PROJECTS), n);
        }
    }
    for n in 0..LARGE {
        join(0, n * (ACCOUNTS / LARGE) + 1);
    }
    let gone = (0..GONE).flat_map(move |n| {
        let (project, account) = (project_id(n % PROJECTS), account_id(ACCOUNTS - 1 - n));
        let was = Membership { project, account, role: Role::Member, since: THEN, by: BY };
        let departure = Departure { project, account, at: THEN, by: BY, until: None };
        let is_new = !there.contains(&(project, account));
        let both = [Mutation::MemberAdded(was), Mutation::MemberRemoved(departure)];
        both.into_iter().filter(move |_| is_new)
    });
    joined.into_iter().chain(gone)
}

async fn certificates(store: &SqliteStore, now: Timestamp) {
    let issue = |n: u64| {
        let decision = move |ledger: Ledger<'_>| {
            let account = account_id(n % ACCOUNTS);
            let user = &ledger.directory.account(account)?.user;
            let principals = ledger
                .directory
                .projects_of(account)
                .filter_map(|(project, _)| ledger.directory.path_of_project(project))
                .map(|path| format!("{user}@{path}"))
                .collect();
            let key = ledger.directory.keys_of(account).next()?.key.fingerprint();
            let ends = if n < ENDED { THEN } else { Timestamp::from_secs(now.secs() + 3600) };
            let record = CertificateRecord {
                serial: ledger.next_serial,
                account,
                key,
                principals,
                valid_after: THEN,
                valid_before: ends,
                source: "192.0.2.1".into(),
                issued: THEN,
            };
            let detail = format!("serial {} key {key} until {ends} as {}", record.serial, record.principals.join(" "));
            let events = vec![Event { certificate: Some(record.serial), ..event("certificate.issue", detail) }];
            Some(Change { certificate: Some(record), events, ..Change::default() })
        };
        store.transact(Box::new(decision))
    };
    stream::iter(0..ENDED + LIVE)
        .map(issue)
        .buffer_unordered(512)
        .for_each(async |done| {
            done.unwrap();
        })
        .await;
}
