//! An authority with a hundred thousand accounts: how long it takes to start, to remove somebody and to decide, and how
//! much memory it has. The real process, on a database on a real disk.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use certgate::{
    api::client::{Events, GatewayClient},
    app::{
        authority::{Authority as _, EventStream},
        protocol::{Credential, Event, Hello, Open, OpenAnswer, OpenRequest},
    },
    domain::{
        AccountState, ClusterPath, Directory, Email, Fingerprint, NodePath, ProjectId, ProjectPath, PublicKey, Role,
        Serial, SessionId, Timestamp,
    },
    policy::{CertificateSettings, Identity, IssueRequest, OpenTarget, Origin, identify, issue, open},
    store::{SqliteStore, Store},
};
use std::{
    collections::HashMap,
    fs::File,
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use support::{
    Numbers, ROUNDS,
    authority::{Authority, PEER, run},
    disk::place,
    median, memory, micros, peak_memory, progress, quantile,
    report::{Mark, Unit, note, row},
    timed, world,
};

/// Decisions of each kind, each round.
const DECISIONS: usize = 20_000;
/// Removals from projects of the usual size, and from the large one.
const REMOVALS: usize = 200;
const LARGE_REMOVALS: usize = 40;
/// Forwards that are open meanwhile.
const SESSIONS: usize = 1_000;
/// The name of the gateway that is connected meanwhile.
const GATEWAY: &str = "gateway-1";

fn main() {
    if support::asked_for() {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

// Where benchmarks end time begins: nothing here is decided by it.
#[allow(clippy::disallowed_methods)]
fn now() -> Timestamp {
    Timestamp::from_secs(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs())
}

async fn bench() {
    let dir = place();
    let state = dir.path().join("state");
    // It makes its keys; the directory comes into its empty database.
    Authority::start(&state).stop();
    let (making, ()) = timed(|| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(world::make(&state, now())))
    });
    let size = SqliteStore::database(&state).metadata().unwrap().len();
    progress(&format!("made in {making:.0} s, {} MB", size / 1_000_000));

    let (warm, cold) = starts(&state);
    let (loading, directory) = load(&state);
    progress(&format!("read into this process in {loading:.2} s"));
    let decisions = decisions(&directory);

    let authority = Authority::start(&state);
    let at_first = memory(authority.pid());
    let gateway = Arc::new(authority.gateway());
    let hello = Hello {
        gateway: GATEWAY.into(),
        instance: None,
        host_key: host_key(),
        sessions: Vec::new(),
        lost_after: 300,
        seen: None,
        program: None,
    };
    let mut events = gateway.events(hello).await.unwrap();
    let removals = removals(&gateway, &mut events, &directory).await;
    let lists = lists(&authority, &gateway).await;
    let at_last = memory(authority.pid());
    let peak = peak_memory(authority.pid());
    authority.stop();

    row("start, from exec to the first answer", median(&warm), Unit::Seconds, Mark::AtMost(2.0));
    row("  after the page cache has lost the database", median(&cold), Unit::Seconds, Mark::None);
    row("memory when it has started, PSS", at_first.1, Unit::Megabytes, Mark::AtMost(500.0));
    row("  after the removals and lists below, PSS", at_last.1, Unit::Megabytes, Mark::AtMost(500.0));
    row("  the most meanwhile, RSS", peak, Unit::Megabytes, Mark::None);
    for (what, times) in
        [("may this connection open that node", &decisions.0), ("what does a certificate say", &decisions.1)]
    {
        row(&format!("one decision: {what}"), median(times), Unit::Micros, Mark::AtMost(20.0));
    }
    for (what, measured) in [("a project of 30", &removals.0), ("the project of 5,000", &removals.1)] {
        row(&format!("removal from {what}, to the answer"), median(&measured.answer), Unit::Millis, Mark::AtMost(20.0));
        row("  99 of 100", quantile(&measured.answer, 0.99), Unit::Millis, Mark::None);
        row("  to the end of the session", median(&measured.ended), Unit::Millis, Mark::AtMost(20.0));
        row("  to the new bundle, signed", median(&measured.bundle), Unit::Millis, Mark::AtMost(20.0));
        row("  99 of 100", quantile(&measured.bundle, 0.99), Unit::Millis, Mark::None);
    }
    for (what, millis) in &lists.commands {
        row(&format!("operator: {what}"), *millis, Unit::Millis, Mark::None);
    }
    row("one open at the socket, nothing else asked, median", median(&lists.quiet), Unit::Micros, Mark::None);
    row("  99 of 100", quantile(&lists.quiet, 0.99), Unit::Micros, Mark::None);
    row("  while an operator lists all users, median", median(&lists.busy), Unit::Micros, Mark::None);
    row("  99 of 100", quantile(&lists.busy, 0.99), Unit::Micros, Mark::None);
    note(&format!("The directory: {}; {} MB of SQLite.", world::description(), size / 1_000_000));
    note(&format!(
        "Starts: medians of {ROUNDS}. Decisions: medians of {ROUNDS} rounds of {DECISIONS}, of accounts and nodes in random \
         order, each with the identity looked up anew. Removals: {REMOVALS} and {LARGE_REMOVALS}, asked for by a project \
         admin at the gateway socket, with {SESSIONS} forwards open; the removed one has one of them."
    ));
}

/// From exec to the first answer, in seconds: with the database in the page cache, and without.
fn starts(state: &Path) -> (Vec<f64>, Vec<f64>) {
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        warm.push(start(state));
        forget(&SqliteStore::database(state));
        cold.push(start(state));
        progress(&format!("start {round} of {ROUNDS}: {:.2} s, cold {:.2} s", warm[round - 1], cold[round - 1]));
    }
    (warm, cold)
}

fn start(state: &Path) -> f64 {
    let authority = Authority::start(state);
    let seconds = authority.started_in.as_secs_f64();
    authority.stop();
    seconds
}

/// Asks the kernel to drop a file from its page cache.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// The directory, in this process.
fn load(state: &Path) -> (f64, Arc<Directory>) {
    tokio::task::block_in_place(|| {
        let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
        let (seconds, store) = timed(|| SqliteStore::open(state, commits).unwrap());
        (seconds, store.directory())
    })
}

/// What a decision costs, in µs: one number for each round and kind.
fn decisions(directory: &Directory) -> (Vec<f64>, Vec<f64>) {
    let mut people = members(directory);
    let settings = CertificateSettings::default();
    let (mut opening, mut issuing) = (Vec::new(), Vec::new());
    let mut numbers = Numbers(3);
    for round in 1..=ROUNDS {
        let asked: Vec<_> = (0..DECISIONS)
            .map(|_| {
                let at = usize::try_from(numbers.below(people.len() as u64)).unwrap();
                people.swap_remove(at)
            })
            .collect();
        let (seconds, ()) = timed(|| {
            for person in &asked {
                let identity = who(directory, person, round);
                let target = OpenTarget { host: &person.node, port: 22 };
                let _ = black_box(open(directory, &identity, target, &|_| Some(0), now_of(round)).unwrap());
            }
        });
        opening.push(seconds / DECISIONS as f64 * 1e6);
        let request = IssueRequest::default();
        let (seconds, ()) = timed(|| {
            for (n, person) in asked.iter().enumerate() {
                let identity = who(directory, person, round);
                let serial = Serial(1 + n as u64);
                let _ = black_box(issue(directory, &identity, &request, &settings, serial, now_of(round)).unwrap());
            }
        });
        issuing.push(seconds / DECISIONS as f64 * 1e6);
        people.extend(asked);
    }
    (opening, issuing)
}

fn who(directory: &Directory, person: &Person, round: usize) -> Identity {
    let Credential { account, key, .. } = person.credential;
    identify(directory, account, key, None, Origin::Peer(PEER), now_of(round)).unwrap()
}

fn now_of(round: usize) -> Timestamp {
    Timestamp::from_secs(1_795_000_000 + round as u64)
}

/// Somebody in a project, and a node of it.
#[derive(Clone, Debug)]
struct Person {
    credential: Credential,
    email: Email,
    project: ProjectId,
    path: ProjectPath,
    role: Role,
    cluster: ClusterPath,
    node: String,
}

/// Everybody who can open something, for each project that they are in.
fn members(directory: &Directory) -> Vec<Person> {
    let mut numbers = Numbers(4);
    let mut found = Vec::new();
    for project in directory.projects() {
        let cluster = directory.clusters_of(project.id).next().unwrap();
        let nodes: Vec<NodePath> =
            directory.nodes_of(cluster.id).map(|node| directory.path_of_node(node).unwrap()).collect();
        for (account, membership) in directory.members_of(project.id) {
            if account.state != AccountState::Active {
                continue;
            }
            let key: Fingerprint = directory.keys_of(account.id).next().unwrap().key.fingerprint();
            let node = &nodes[usize::try_from(numbers.below(nodes.len() as u64)).unwrap()];
            found.push(Person {
                credential: Credential { account: account.id, key, certificate: None },
                email: account.email.clone(),
                project: project.id,
                path: directory.path_of_project(project).unwrap(),
                role: membership.role,
                cluster: directory.path_of_cluster(cluster).unwrap(),
                node: node.to_string(),
            });
        }
    }
    found
}

/// How long after the request, in ms.
#[derive(Debug, Default)]
struct Removed {
    answer: Vec<f64>,
    ended: Vec<f64>,
    bundle: Vec<f64>,
}

/// Removes people who have something open, from usual projects and from the large one.
async fn removals(gateway: &Arc<GatewayClient>, events: &mut Events, directory: &Directory) -> (Removed, Removed) {
    let (far, near) = (removable(directory, false), removable(directory, true));
    // Everybody's sessions are open at once.
    let victims: Vec<&(Person, Credential)> =
        far.iter().take(REMOVALS).chain(near.iter().take(LARGE_REMOVALS)).collect();
    let others = far.iter().skip(REMOVALS).take(SESSIONS - victims.len());
    for (number, (person, _)) in victims.iter().copied().chain(others).enumerate() {
        let answer = ask_to_open(gateway, person, SessionId::from_bits(number as u128)).await;
        assert!(matches!(answer, OpenAnswer::Permit(_)), "{answer:?}");
    }
    let (mut usual, mut large) = (Removed::default(), Removed::default());
    for (number, (person, admin)) in victims.into_iter().enumerate() {
        let measured = if number < REMOVALS { &mut usual } else { &mut large };
        remove(gateway, events, person, admin, &SessionId::from_bits(number as u128), measured).await;
    }
    (usual, large)
}

/// Members who can be removed, each with an admin of the project who can do it; nobody twice.
fn removable(directory: &Directory, from_the_large: bool) -> Vec<(Person, Credential)> {
    let large = directory.projects().max_by_key(|project| directory.members_of(project.id).count()).unwrap().id;
    let (admins, mut found): (Vec<_>, Vec<_>) = members(directory)
        .into_iter()
        .filter(|person| (person.project == large) == from_the_large)
        .partition(|person| person.role == Role::Admin);
    let admins: HashMap<ProjectId, Credential> =
        admins.into_iter().map(|person| (person.project, person.credential)).collect();
    if !from_the_large {
        // Of different projects, one after the other.
        found.dedup_by_key(|person| person.project);
    }
    found.into_iter().filter_map(|person| Some((person.clone(), admins.get(&person.project)?.clone()))).collect()
}

async fn ask_to_open(gateway: &GatewayClient, person: &Person, session: SessionId) -> OpenAnswer {
    let request = OpenRequest {
        gateway: GATEWAY.into(),
        instance: None,
        connection: "0123456789abcdef".into(),
        peer: PEER,
        credential: person.credential.clone(),
        session,
        host: person.node.clone(),
        port: 22,
        tried: vec![],
    };
    gateway.call::<Open>(request).await.unwrap()
}

async fn remove(
    gateway: &Arc<GatewayClient>,
    events: &mut Events,
    person: &Person,
    admin: &Credential,
    open: &SessionId,
    measured: &mut Removed,
) {
    let line = format!("member remove {} {} --yes", person.path, person.email);
    let begun = Instant::now();
    let millis = move || micros(begun.elapsed()) / 1e3;
    let asking = tokio::spawn({
        let (gateway, admin) = (gateway.clone(), admin.clone());
        async move {
            run(&gateway, &admin, &line).await;
            millis()
        }
    });
    let (mut ended, mut bundled) = (None, None);
    while ended.is_none() || bundled.is_none() {
        match tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap() {
            Event::End { session, .. } if session == *open => ended = Some(millis()),
            Event::Bundle { cluster, .. } if cluster == person.cluster => bundled = Some(millis()),
            Event::Ready | Event::Ping | Event::Mark { .. } | Event::HostCertificate { .. } => {}
            other => panic!("not expected: {other:?}"),
        }
    }
    measured.answer.push(asking.await.unwrap());
    measured.ended.extend(ended);
    measured.bundle.extend(bundled);
}

fn host_key() -> PublicKey {
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk8sJwgtvJwSAGHSLkJL7gTrZgcoLYZQ+9yCxGwBZ1R".parse().unwrap()
}

/// What operators wait for, and who waits for them.
struct Lists {
    commands: Vec<(&'static str, f64)>,
    quiet: Vec<f64>,
    busy: Vec<f64>,
}

async fn lists(authority: &Authority, gateway: &GatewayClient) -> Lists {
    let mut commands = Vec::new();
    for line in ["status", "user list", "user list --json", "project list", "cluster list", "node list cluster-7.org-7"]
    {
        let words: Vec<&str> = line.split(' ').collect();
        let mut costs = Vec::new();
        for _ in 0..3 {
            let begun = Instant::now();
            authority.operator(&words).await;
            costs.push(micros(begun.elapsed()) / 1e3);
        }
        commands.push((line, median(&costs)));
        progress(&format!("{line}: {:.1} ms", median(&costs)));
    }
    let quiet = opens(gateway, None).await;
    let done = Arc::new(AtomicBool::new(false));
    let listing = async {
        authority.operator(&["user", "list"]).await;
        done.store(true, Ordering::Relaxed);
    };
    let (busy, ()) = tokio::join!(opens(gateway, Some(&done)), listing);
    Lists { commands, quiet, busy }
}

/// How long opens take, in µs: a thousand, or as many as there are until something else is done.
async fn opens(gateway: &GatewayClient, until: Option<&AtomicBool>) -> Vec<f64> {
    let nobody = Credential {
        account: certgate::domain::AccountId(1),
        key: Fingerprint::from_bytes([0; 32]),
        certificate: None,
    };
    let mut costs = Vec::new();
    while until.map_or(costs.len() < 1000, |done| !done.load(Ordering::Relaxed)) {
        let request = OpenRequest {
            gateway: GATEWAY.into(),
            instance: None,
            connection: "0123456789abcdef".into(),
            peer: PEER,
            credential: nobody.clone(),
            session: SessionId::from_bits(costs.len() as u128),
            host: "node-0.cluster-7.org-7".into(),
            port: 22,
            tried: vec![],
        };
        let begun = Instant::now();
        let answer = gateway.call::<Open>(request).await.unwrap();
        costs.push(micros(begun.elapsed()));
        assert!(matches!(answer, OpenAnswer::Refused { .. }));
    }
    costs
}
