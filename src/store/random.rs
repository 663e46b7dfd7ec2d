//! Random histories: what is read back from SQLite is exactly the directory that the changes had made in memory, and
//! both backends accept and refuse the same.

use super::{Change, MemoryStore, SqliteStore, Store, samples};
use crate::domain::{
    Account, AccountId, AccountKind, AccountState, Actor, Cluster, ClusterId, ClusterKind, Departure, Directory,
    Document, Extension, Job, JobAction, JoinToken, KeyEntry, Limits, Membership, Mutation, Networks, Node, NodeCounts,
    NodeId, NodeRole, Org, OrgId, Project, ProjectId, ProvisionState, Resource, Role, Serial, ServiceTerms, Size,
    Timestamp, TokenHash, Ttl, Uid, Volume, VolumeId,
};
use futures_util::future::join_all;
use proptest::prelude::*;
use std::sync::Arc;
use tokio::sync::mpsc::unbounded_channel;

/// What kind of change, and three numbers to choose with.
type Choice = (u8, u8, u8, u8);

fn pick<T>(from: impl Iterator<Item = T>, n: u8) -> Option<T> {
    let mut all: Vec<T> = from.collect();
    if all.is_empty() { None } else { Some(all.swap_remove(usize::from(n) % all.len())) }
}

fn at(n: u8) -> Timestamp {
    Timestamp::from_millis(1_795_000_000_123 + u64::from(n))
}

fn by(directory: &Directory, n: u8) -> Actor {
    match pick(directory.accounts(), n) {
        Some(account) if n.is_multiple_of(2) => account.actor(samples::key(n).fingerprint()),
        _ => Actor::Operator { uid: u32::from(n) },
    }
}

fn org(directory: &Directory, n: u8) -> Option<OrgId> {
    pick(directory.orgs(), n).map(|org| org.id)
}

fn account(directory: &Directory, n: u8) -> Option<AccountId> {
    pick(directory.accounts(), n).map(|account| account.id)
}

fn project(directory: &Directory, n: u8) -> Option<ProjectId> {
    pick(directory.projects(), n).map(|project| project.id)
}

fn cluster(directory: &Directory, n: u8) -> Option<ClusterId> {
    pick(directory.clusters(), n).map(|cluster| cluster.id)
}

fn terms(project: ProjectId, n: u8) -> ServiceTerms {
    ServiceTerms {
        project,
        sources: Networks::new([std::net::IpAddr::from([192, 0, 2, n]).into()]).unwrap(),
        force_command: n.is_multiple_of(2).then(|| "sync 'all'".parse().unwrap()),
        command_since: at(n),
        max_ttl: Ttl::from_secs(u32::from(n) + 1).unwrap(),
    }
}

fn limits(n: u8) -> Limits {
    let extension = [Extension::Pty, Extension::X11Forwarding, Extension::UserRc][usize::from(n % 3)];
    let forbidden = if n.is_multiple_of(2) { [extension].into() } else { [].into() };
    let grace = Ttl::from_secs(u32::from(n % 5)).and_then(|ttl| ttl.try_into().ok());
    let max_session = Ttl::from_secs(u32::from(n % 3));
    Limits { max_ttl: Ttl::from_secs(u32::from(n) * 60), forbidden, max_session, grace }
}

/// Fits every kind of cluster.
fn document(n: u8) -> Arc<Document> {
    Arc::new(Document::parse(&format!("# é\ndescription = \"cluster {n}\"\n"), ClusterKind::Slurm).unwrap())
}

/// A new job, or what became of one.
fn job(directory: &Directory, a: u8, b: u8, c: u8) -> Option<Job> {
    let resource = match cluster(directory, a) {
        Some(cluster) if b.is_multiple_of(2) => Resource::Cluster(cluster),
        _ => Resource::Volume(VolumeId(u64::from(a))),
    };
    let id = match directory.job(resource) {
        Some(job) if !c.is_multiple_of(3) => job.id,
        _ => directory.counters().id,
    };
    Some(Job {
        id,
        resource,
        action: [JobAction::Create, JobAction::Change, JobAction::Scale, JobAction::Delete][usize::from(b % 4)],
        name: format!("h{a}.acme"),
        input: "{}".into(),
        queued: at(b),
        attempts: u32::from(c),
        next: at(c),
        state: match c % 3 {
            0 => ProvisionState::Pending,
            1 => ProvisionState::Ready,
            _ => ProvisionState::Failed(format!("reason {b}")),
        },
    })
}

/// A change that may fit the directory, if there is one of that kind. Names come from few, so that they clash and come
/// back.
fn mutation(directory: &Directory, (kind, a, b, c): Choice) -> Option<Mutation> {
    let next = directory.counters();
    let small = |prefix: &str| format!("{prefix}{}", c % 4);
    Some(match kind % 26 {
        0 => Mutation::OrgCreated(Org { id: OrgId(next.id), name: small("org").parse().ok()?, created: at(b) }),
        1 | 2 => Mutation::AccountCreated(Account {
            id: AccountId(next.id),
            org: org(directory, a)?,
            email: format!("user{c}@acme.example").parse().ok()?,
            user: format!("user{c}").parse().ok()?,
            uid: next.uid,
            state: AccountState::Active,
            kind: match project(directory, a) {
                Some(project) if b.is_multiple_of(3) => AccountKind::Service(Box::new(terms(project, b))),
                _ => AccountKind::Person,
            },
            created: at(b),
        }),
        3 => Mutation::KeyAdded(KeyEntry { account: account(directory, a)?, key: samples::key(c % 8), added: at(b) }),
        4 => {
            let key = pick(directory.accounts().flat_map(|account| directory.keys_of(account.id)), a)?;
            Mutation::KeyRemoved { account: key.account, key: key.key.fingerprint(), denied_until: at(b) }
        }
        5 => Mutation::AccountStateSet {
            account: account(directory, a)?,
            state: if c.is_multiple_of(2) { AccountState::Active } else { AccountState::Suspended },
            at: at(b),
            by: by(directory, b),
        },
        6 | 7 => Mutation::ProjectCreated(Project {
            id: ProjectId(next.id),
            org: org(directory, a)?,
            name: small("project").parse().ok()?,
            gid: next.gid,
            admins_gid: Uid(next.gid.0 + 1),
            limits: limits(a),
            created: at(b),
        }),
        8 if a < 64 => Mutation::ProjectDeleted { project: project(directory, a)?, at: at(b), by: by(directory, c) },
        8 | 9 => Mutation::ClusterCreated(Cluster {
            id: ClusterId(next.id),
            project: project(directory, a)?,
            name: small("cluster").parse().ok()?,
            kind: if b.is_multiple_of(2) { ClusterKind::Slurm } else { ClusterKind::Kubernetes },
            document: document(b),
            revision: 1 + u64::from(a % 3),
            wanted: NodeCounts { login: u32::from(b), ..NodeCounts::default() },
            created: at(b),
        }),
        10 => Mutation::ClusterDeleted { cluster: cluster(directory, a)?, at: at(b), by: by(directory, c) },
        11 => Mutation::VolumeCreated(Volume {
            id: VolumeId(next.id),
            project: project(directory, a)?,
            name: small("volume").parse().ok()?,
            size: Size::from_bytes((1 << 20) + u64::from(b))?,
            mount: format!("/mnt/{c}").parse().ok()?,
            created: at(b),
        }),
        12 => {
            let project = project(directory, a)?;
            Mutation::VolumeDeleted { volume: pick(directory.volumes_of(project), b)?.id, at: at(c) }
        }
        13 => Mutation::TokenCreated(JoinToken {
            hash: TokenHash([c % 8; 32]),
            cluster: cluster(directory, a)?,
            node: small("node").parse().ok()?,
            role: NodeRole::Compute,
            address: b.is_multiple_of(2).then(|| [192, 0, 2, b].into()),
            port: u16::from(c),
            by: Actor::Operator { uid: u32::from(b) },
            expires: at(b),
            used: None,
        }),
        14 => Mutation::TokenUsed { hash: directory.token(&TokenHash([c % 8; 32]))?.hash, at: at(b) },
        15 => Mutation::NodeEnrolled(Node {
            id: NodeId(next.id),
            cluster: cluster(directory, a)?,
            name: small("node").parse().ok()?,
            role: NodeRole::Login,
            address: [192, 0, 2, b].into(),
            port: 22,
            host_key: samples::key(b % 8),
            enrolled: at(b),
        }),
        16 => {
            let cluster = cluster(directory, a)?;
            Mutation::NodeRemoved { node: pick(directory.nodes_of(cluster), b)?.id, at: at(c) }
        }
        17 => Mutation::MemberAdded(Membership {
            project: project(directory, a)?,
            account: account(directory, b)?,
            role: Role::Member,
            since: at(c),
            by: by(directory, c),
        }),
        18 => {
            let project = project(directory, a)?;
            let account = pick(directory.members_of(project), b)?.0.id;
            let role = Role::Admin;
            match c % 3 {
                0 => Mutation::RoleSet { project, account, role },
                _ => {
                    let until = (b % 2 == 0).then(|| at(b));
                    Mutation::MemberRemoved(Departure { project, account, at: at(c), by: by(directory, c), until })
                }
            }
        }
        19 => {
            let account = account(directory, a)?;
            let project = directory.account(account)?.service()?.project;
            Mutation::ServiceTermsSet { account, terms: Box::new(terms(project, c)) }
        }
        20 => Mutation::ClusterConfigured { cluster: cluster(directory, a)?, document: document(b), at: at(c) },
        21 => {
            let wanted = NodeCounts { compute: u32::from(b), controller: u32::from(c), login: 0 };
            Mutation::ClusterScaled { cluster: cluster(directory, a)?, wanted }
        }
        24 => Mutation::ProjectLimited { project: project(directory, a)?, limits: limits(b) },
        23 => {
            let volume = pick(directory.volumes_of(project(directory, a)?), b)?.id;
            let size = Size::from_bytes((1 << 20) + u64::from(c))?;
            Mutation::VolumeChanged { volume, size, mount: format!("/mnt/changed{c}").parse().ok()? }
        }
        22 => Mutation::JobSet(job(directory, a, b, c)?),
        _ => Mutation::SerialDenied { serial: Serial(u64::from(c % 4)), account: account(directory, a)?, until: at(b) },
    })
}

/// Transactions of a few changes each, and what the directory is after those that fit it.
fn history(choices: &[Vec<Choice>]) -> Vec<Vec<Mutation>> {
    let mut durable = Directory::default();
    let mut transactions = Vec::new();
    for choices in choices {
        let mut working = durable.clone();
        let mut mutations = Vec::new();
        let mut all_fit = true;
        for choice in choices {
            let Some(mutation) = mutation(&working, *choice) else { continue };
            match working.after([&mutation]) {
                Ok(next) => working = next,
                Err(_) => all_fit = false,
            }
            mutations.push(mutation);
        }
        if all_fit && !mutations.is_empty() {
            durable = working;
        }
        transactions.push(mutations);
    }
    transactions
}

async fn play(store: &impl Store, transactions: &[Vec<Mutation>]) -> Vec<bool> {
    let results = join_all(transactions.iter().map(|mutations| {
        let mutations = mutations.clone();
        store.transact(Box::new(move |_| Some(Change { mutations, ..Change::default() })))
    }));
    results.await.iter().map(Result::is_ok).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_back_is_what_was_decided(
        choices in prop::collection::vec(prop::collection::vec(any::<Choice>(), 1..4), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let transactions = history(&choices);
        let (commits, _announced) = unbounded_channel();
        let memory = MemoryStore::new(commits.clone());
        let expected = runtime.block_on(play(&memory, &transactions));

        let dir = tempfile::tempdir().unwrap();
        let sqlite = SqliteStore::open(dir.path(), commits.clone()).unwrap();
        let accepted = runtime.block_on(play(&sqlite, &transactions));
        prop_assert_eq!(accepted, expected);
        prop_assert_eq!(&*sqlite.directory(), &*memory.directory());
        drop(sqlite);

        let sqlite = SqliteStore::open(dir.path(), commits).unwrap();
        prop_assert_eq!(&*sqlite.directory(), &*memory.directory());
    }
}

#[test]
fn random_histories_reach_every_kind_of_change() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let choices = prop::collection::vec(prop::collection::vec(any::<Choice>(), 1..4), 80);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let tree = choices.new_tree(&mut runner).unwrap();
        let mut directory = Directory::default();
        for mutations in history(&tree.current()) {
            if let Ok(next) = directory.after(&mutations) {
                directory = next;
                let name = |mutation: &Mutation| format!("{mutation:?}").split(['(', ' ']).next().map(str::to_owned);
                kinds.extend(mutations.iter().filter_map(name));
            }
        }
    }
    assert_eq!(kinds.len(), 25, "{kinds:?}");
}
