//! Five hundred nodes' agents at one gateway: from a removal to the refusal at each node, and to every receipt. The real
//! authority and gateway, and the agents' own parts over real SSH connections.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use certgate::{
    app::{
        authority::Authority as _,
        protocol::{Join, JoinAnswer, JoinRequest, Joined, NODE_LOGIN, Reach},
        token::TokenText,
    },
    bundle::table::Table,
    domain::{ClusterPath, Fingerprint, Timestamp},
    node::{
        agent::{Action, Agent, Event, Installed, Start},
        helper::{Question, answer},
        link::{HostKey, Link},
        state_dir::StateDir,
    },
};
use ssh_key::{LineEnding, PrivateKey, private::Ed25519Keypair};
use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use support::{
    Numbers,
    authority::{Authority, PEER},
    cpu_seconds,
    disk::place,
    gateway::Gateway,
    median, memory, micros, progress, quantile,
    report::{Mark, Unit, note, row},
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Agents that are connected.
const AGENTS: usize = 500;

/// One project with one cluster.
struct Scene {
    cluster: &'static str,
    /// Of the project, when the removals begin.
    members: usize,
    /// So many of the agents do all of a node's work. The others verify and confirm, but install nothing: that is what five
    /// hundred machines have five hundred processors for, and here all of it would be done by the one that authority and
    /// gateway are on.
    whole: usize,
    /// Removals of each kind.
    removals: usize,
    /// Whether the promise is made for it.
    marked: bool,
}

const SCENES: [Scene; 3] = [
    Scene { cluster: "usual", members: 100, whole: AGENTS, removals: 40, marked: true },
    Scene { cluster: "spread", members: 100, whole: 20, removals: 40, marked: false },
    Scene { cluster: "large", members: 1_000, whole: AGENTS, removals: 10, marked: false },
];

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

/// What the agents are watched for: the login that must be refused, since when.
type Victim = Arc<Mutex<Option<(String, Instant)>>>;

async fn bench() {
    let dir = place();
    let authority = Authority::start(&dir.path().join("state"));
    let gateway = Gateway::start(&authority, dir.path()).await;
    people(&authority).await;

    let mut rows = Vec::new();
    for scene in &SCENES {
        // The nodes' own files. Each node has a disk of its own, which five hundred on one machine have not.
        let nodes = tempfile::tempdir_in("/dev/shm").unwrap();
        let victim = Victim::default();
        let (told, mut refusals) = unbounded_channel();
        progress(&format!("{AGENTS} nodes join {} ...", scene.cluster));
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            let node = Node::join(&authority, nodes.path(), scene, number).await;
            agents.push(tokio::spawn(node.run(gateway.address.to_string(), victim.clone(), told.clone())));
        }
        settled(&authority, scene.cluster).await;
        let memory = memory(gateway.pid()).1;
        let measured = removals(&authority, &gateway, &victim, &mut refusals, scene).await;
        rows.push((scene, memory, measured));
        for agent in agents {
            assert!(!agent.is_finished(), "an agent has ended");
            agent.abort();
        }
    }
    for (scene, memory, measured) in &rows {
        let Measured { refused, receipts, answer, cpu } = measured;
        let Scene { members, whole, .. } = scene;
        let bound = if scene.marked { Mark::AtMost(500.0) } else { Mark::None };
        let what = format!("removal to refusal at the node, {members} members, {whole} of {AGENTS} install");
        row(&what, median(refused), Unit::Millis, Mark::None);
        row("  99 of 100", quantile(refused, 0.99), Unit::Millis, bound);
        row("  the last of all", quantile(refused, 1.0), Unit::Millis, Mark::None);
        row("  to every receipt", median(receipts), Unit::Millis, Mark::None);
        row("  to every receipt, 99 of 100", quantile(receipts, 0.99), Unit::Millis, bound);
        row("  to the answer, without waiting for receipts", median(answer), Unit::Millis, Mark::None);
        row("  processor time of authority and gateway", median(cpu), Unit::Millis, Mark::None);
        row("  memory of the gateway, agents connected, PSS", *memory, Unit::Megabytes, Mark::None);
    }
    note(&format!(
        "{AGENTS} agents on one gateway; 40, 40 and 10 removals with and as many without --wait, one after the other, by an \
         operator. Refusal: the helper's own decision on the table that the agent has just put in place. All agents share \
         the machine's cores with authority, gateway and benchmark, where nodes have their own: so a second time with few \
         that install what they get, while the others verify and confirm it. The nodes' files lie in memory, and nodes have \
         no sessions to look for."
    ));
}

/// Everybody is in the largest project, and some in the others.
async fn people(authority: &Authority) {
    progress("making accounts ...");
    let mut numbers = Numbers(5);
    authority.operator(&["org", "create", "acme"]).await;
    for number in 0..SCENES[2].members {
        let key = public_key(&key(&mut numbers));
        let (email, name) = (format!("{0}@acme.example", name(number)), name(number));
        authority.operator(&["user", "create", &email, "--org", "acme", "--name", &name, "--key", &key]).await;
    }
    for Scene { cluster, members, .. } in &SCENES {
        let project = format!("acme/{cluster}");
        authority.operator(&["project", "create", &project, "--admin", &format!("{}@acme.example", name(0))]).await;
        authority.operator(&["cluster", "create", &project, cluster, "--kind", "slurm"]).await;
        for number in 1..*members {
            authority.operator(&["member", "add", &project, &format!("{}@acme.example", name(number))]).await;
        }
    }
}

fn name(number: usize) -> String {
    format!("user{number}")
}

fn key(numbers: &mut Numbers) -> PrivateKey {
    PrivateKey::from(Ed25519Keypair::from_seed(&numbers.bytes::<32>()))
}

fn public_key(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

/// Waits until every node has what there is.
async fn settled(authority: &Authority, cluster: &str) {
    let begun = Instant::now();
    loop {
        let list = authority.operator(&["node", "list", &format!("{cluster}.acme"), "--json"]).await;
        let nodes: serde_json::Value = serde_json::from_str(&list).unwrap();
        let nodes = nodes.as_array().unwrap();
        assert_eq!(nodes.len(), AGENTS);
        // A node that has joined since has a later version than the last one that had to be sent.
        if nodes.iter().all(|node| node["version"].as_u64() >= node["wanted"].as_u64() && node["heard"].is_string()) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", nodes[0]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// In ms.
#[derive(Debug, Default)]
struct Measured {
    refused: Vec<f64>,
    receipts: Vec<f64>,
    answer: Vec<f64>,
    cpu: Vec<f64>,
}

async fn removals(
    authority: &Authority,
    gateway: &Gateway,
    victim: &Victim,
    refusals: &mut tokio::sync::mpsc::UnboundedReceiver<f64>,
    scene: &Scene,
) -> Measured {
    let Scene { cluster, members, removals: count, whole, .. } = *scene;
    let mut measured = Measured::default();
    let spent = || cpu_seconds(authority.pid()) + cpu_seconds(gateway.pid());
    for number in 0..2 * count {
        let who = name(members - 1 - number);
        let (project, email) = (format!("acme/{cluster}"), format!("{who}@acme.example"));
        let mut words = vec!["member", "remove", &project, &email, "--yes"];
        let wait = number % 2 == 0;
        if wait {
            words.push("--wait");
        }
        let (before, begun) = (spent(), Instant::now());
        *victim.lock().unwrap() = Some((who.clone(), begun));
        let said = authority.operator(&words).await;
        let millis = micros(begun.elapsed()) / 1e3;
        if wait {
            assert!(said.matches("login-").count() >= AGENTS, "{said}");
        }
        if wait { &mut measured.receipts } else { &mut measured.answer }.push(millis);
        for _ in 0..whole {
            let refused = tokio::time::timeout(Duration::from_secs(30), refusals.recv()).await.unwrap().unwrap();
            measured.refused.push(refused);
        }
        settled(authority, cluster).await;
        measured.cpu.push((spent() - before) * 1e3);
        if number % 20 == 0 {
            progress(&format!("removal {number} of {} from {cluster}: {millis:.0} ms", 2 * count));
        }
    }
    measured
}

/// A node, with what it was told when it joined.
struct Node {
    joined: Joined,
    key: HostKey,
    state: StateDir,
    gateways: Vec<Fingerprint>,
    /// It installs what it gets.
    whole: bool,
}

impl Node {
    async fn join(authority: &Authority, dir: &Path, scene: &Scene, number: usize) -> Self {
        let cluster = scene.cluster;
        let name = format!("login-{number}.{cluster}.acme");
        let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        let text = authority.operator(&["node", "token", &name, "--address", &address]).await;
        let token: TokenText = text.trim().parse().unwrap();
        let own = dir.join(number.to_string());
        fs::create_dir(&own).unwrap();
        let before = SCENES.iter().take_while(|other| other.cluster != cluster).count() * AGENTS;
        let mut numbers = Numbers(1_000_000 + (before + number) as u64);
        let file = own.join("host_key");
        fs::write(&file, key(&mut numbers).to_openssh(LineEnding::LF).unwrap()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let key = HostKey::load(&file).unwrap();
        let request = JoinRequest {
            connection: "bench".into(),
            peer: PEER,
            host_key: key.public.clone(),
            secret: token.secret.clone(),
            node: token.node.clone(),
        };
        let JoinAnswer::Joined(joined) = authority.gateway().call::<Join>(request).await.unwrap() else {
            panic!("{name} may not join")
        };
        Self {
            joined: *joined,
            key,
            state: StateDir::new(&own, None),
            gateways: token.host_keys,
            whole: number < scene.whole,
        }
    }

    /// What `certgate-node run` does, without sessions, accounts and sshd.
    async fn run(self, gateway: String, victim: Victim, told: UnboundedSender<f64>) {
        let cluster = ClusterPath { cluster: self.joined.node.cluster.clone(), org: self.joined.node.org.clone() };
        let bundle = self.joined.bundle.open(&self.joined.bundle_keys, &cluster, None).unwrap();
        self.state.install(&bundle, &self.joined.bundle).unwrap();
        let (mut agent, first) = Agent::new(Start {
            node: self.joined.node.clone(),
            host_key: self.key.public.clone(),
            trusted: self.joined.bundle_keys.clone(),
            gateways: 1,
            bundle: Some(Installed::from(&bundle)),
            floor: Some(bundle.version),
            host_certificate_until: None,
            max_age: None,
            confirmed: None,
            reach: Reach::Direct,
        });
        let ca = bundle.user_ca[0].fingerprint().to_string();
        let (mut todo, mut link, mut seen) = (VecDeque::from(first), None, None);
        loop {
            while let Some(action) = todo.pop_front() {
                let event = match action {
                    Action::Connect { .. } => {
                        link = Some(Link::open(&gateway, NODE_LOGIN, &self.key, &self.gateways).await.unwrap());
                        Event::Connected
                    }
                    Action::Send(message) => {
                        link.as_ref().unwrap().send(&message).await.unwrap();
                        continue;
                    }
                    Action::Install(parts) => {
                        let (bundle, signed) = *parts;
                        if self.whole {
                            self.state.install(&bundle, &signed).unwrap();
                            self.look(&ca, &victim, &mut seen, &told);
                        }
                        Event::Installed(Ok(Installed::from(&bundle)), 0)
                    }
                    Action::InstallHostCertificate { line, until } => {
                        self.state.install_host_certificate(&line).unwrap();
                        Event::HostCertificateInstalled(Ok(until))
                    }
                    Action::Confirm(at) => {
                        self.state.confirm(at).unwrap();
                        continue;
                    }
                    Action::Log(..) => continue,
                    Action::EndSession(_) | Action::Disconnect(_) | Action::OpenTunnel => {
                        panic!("not expected: {action:?}")
                    }
                };
                todo.extend(agent.handle(event));
            }
            let line = link.as_mut().unwrap().receive().await.unwrap();
            todo.extend(agent.handle(Event::Line(line, now())));
        }
    }

    /// Whether the one who is removed would be refused now, as the helper decides.
    fn look(&self, ca: &str, victim: &Victim, seen: &mut Option<String>, told: &UnboundedSender<f64>) {
        let Some((login, since)) = victim.lock().unwrap().clone() else { return };
        if seen.as_ref() == Some(&login) {
            return;
        }
        let bytes = fs::read(self.state.table()).unwrap();
        let key = Fingerprint::from_bytes([1; 32]).to_string();
        let may = |login: &str| {
            let (login, serial, key, ca) = (login.as_bytes(), &b"1"[..], key.as_bytes(), ca.as_bytes());
            let question = Question { login, serial, key, ca, key_id: login };
            !answer(&Table::open(&bytes).unwrap(), &question).unwrap().is_empty()
        };
        assert!(may("user0"), "nobody at all may log in");
        if !may(&login) {
            let _ = told.send(micros(since.elapsed()) / 1e3);
            *seen = Some(login);
        }
    }
}
