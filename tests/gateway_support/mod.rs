//! A gateway on a free port with an authority in the same process that answers as the test says, and OpenSSH's `ssh`.

use certgate::{
    app::{
        authority::{Authority, EventStream, Unreachable},
        protocol::*,
    },
    bundle::SignedBundle,
    domain::{AccountId, Fingerprint, NodeId, SessionId, Timestamp},
    gateway::{
        Algorithms, Config, Control, Gateway, Lanes, Limits, Listeners, PenaltySettings, Stop, THREAD_STACK_BYTES,
    },
};
use serde::de::DeserializeOwned;
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

/// An authority that the test steers.
#[derive(Default)]
pub struct Fake {
    /// Keys and certificates (wire format, base64) of the one account.
    pub known: Mutex<HashSet<String>>,
    pub presented: Mutex<Vec<Presented>>,
    pub commands: Mutex<Vec<CommandRequest>>,
    /// Where each forward goes; none: refused.
    pub target: Mutex<Option<SocketAddr>>,
    /// Where forwards to a cluster go, in this order, those left out that could not be reached.
    pub login_nodes: Mutex<Vec<SocketAddr>>,
    /// How the node is reached.
    pub reach: Mutex<Reach>,
    pub opened: Mutex<Vec<SessionId>>,
    /// The whole requests.
    pub openings: Mutex<Vec<OpenRequest>>,
    pub closed: Mutex<Vec<ClosedSession>>,
    pub hellos: Mutex<Vec<Hello>>,
    pub down: Mutex<bool>,
    /// Held while set: `Open` is answered after a notification.
    pub hold_open: Mutex<Option<Arc<Notify>>>,
    /// The same for commands.
    pub hold_command: Mutex<Option<Arc<Notify>>>,
    pub events: Mutex<Option<mpsc::UnboundedSender<Event>>>,
    pub asked_to_open: AtomicUsize,
    /// The nodes, by host key (wire format, base64).
    pub nodes: Mutex<HashMap<String, NodeIdentity>>,
    pub joins: Mutex<Vec<JoinRequest>>,
    pub receipts: Mutex<Vec<NodeReceiptRequest>>,
    /// What a node that says hello gets.
    pub bundle: Mutex<Option<SignedBundle>>,
    /// The next command panics; the next event does.
    pub panic_in_command: AtomicBool,
    pub panic_in_events: Arc<AtomicBool>,
}

impl Fake {
    pub fn send(&self, event: Event) {
        self.events.lock().unwrap().as_ref().expect("the gateway follows the events").send(event).unwrap();
    }

    fn answer(&self, path: &str, request: &serde_json::Value) -> serde_json::Value {
        fn read<T: DeserializeOwned>(value: &serde_json::Value) -> T {
            serde_json::from_value(value.clone()).unwrap()
        }
        fn write<T: serde::Serialize>(value: T) -> serde_json::Value {
            serde_json::to_value(value).unwrap()
        }
        match path {
            "/v1/authenticate" => {
                let request: AuthenticateRequest = read(request);
                self.presented.lock().unwrap().push(request.presented.clone());
                let (Presented::Key(wire) | Presented::Certificate(wire)) = &request.presented;
                write(if request.joining {
                    AuthenticateAnswer::Joining
                } else if let Some(node) = self.nodes.lock().unwrap().get(wire) {
                    AuthenticateAnswer::Node(node.clone())
                } else if self.known.lock().unwrap().contains(wire) {
                    AuthenticateAnswer::Account {
                        credential: Credential {
                            account: AccountId(1),
                            key: Fingerprint::from_bytes([1; 32]),
                            certificate: None,
                        },
                        user: "user1".into(),
                    }
                } else {
                    AuthenticateAnswer::Refused
                })
            }
            "/v1/command" => {
                assert!(!self.panic_in_command.swap(false, Ordering::SeqCst), "as the test wants it");
                let request: CommandRequest = read(request);
                self.commands.lock().unwrap().push(request.clone());
                let output = |stdout: String| {
                    CommandAnswer::Output(Output_ { stdout, stderr: "a word\n".into(), exit: 3, ..Output_::default() })
                };
                let input = |prompt: &str, read, context: Option<&str>| CommandAnswer::Input {
                    prompt: prompt.into(),
                    read,
                    limit: 64,
                    context: context.map(str::to_owned),
                };
                let given: Vec<&str> = request.inputs.iter().map(String::as_str).collect();
                write(match (&*request.line, &*given) {
                    ("ask", []) => input("sure? ", Read::Line, None),
                    ("ask", [answer]) => output(format!("got {answer}\n")),
                    ("twice", []) => input("", Read::All, None),
                    ("twice", [_]) => input("sure? ", Read::Line, Some("what was shown")),
                    ("twice", given) => output(format!("got {given:?} for {:?}\n", request.context)),
                    ("ask for ever", _) => input("more? ", Read::Line, None),
                    ("file", _) => input("", Read::File("/etc/hostname".into()), None),
                    (line, _) => output(format!("line <{line}>\n")),
                })
            }
            "/v1/open" => {
                let request: OpenRequest = read(request);
                self.opened.lock().unwrap().push(request.session.clone());
                self.openings.lock().unwrap().push(request.clone());
                let nodes = self.login_nodes.lock().unwrap().clone();
                if !nodes.is_empty() {
                    let number = request.tried.len();
                    return write(match nodes.get(number) {
                        None => OpenAnswer::Refused { message: "none is left".into(), reason: "no-node".into() },
                        Some(target) => OpenAnswer::Permit(DialPermit {
                            session: request.session,
                            node: format!("login-{number}.h100.acme").parse().unwrap(),
                            node_id: NodeId(7 + number as u64),
                            project: "acme/ml-training".parse().unwrap(),
                            since: Timestamp::from_secs(1_800_000_000),
                            address: target.ip(),
                            port: target.port(),
                            reach: Reach::Direct,
                        }),
                    });
                }
                write(match *self.target.lock().unwrap() {
                    None => OpenAnswer::Refused {
                        message: "removed from acme/ml-training at 12:03 UTC".into(),
                        reason: "removed".into(),
                    },
                    Some(target) => OpenAnswer::Permit(DialPermit {
                        session: request.session,
                        node: "login-0.h100.acme".parse().unwrap(),
                        node_id: NodeId(7),
                        project: "acme/ml-training".parse().unwrap(),
                        since: Timestamp::from_secs(1_800_000_000),
                        address: target.ip(),
                        port: target.port(),
                        reach: *self.reach.lock().unwrap(),
                    }),
                })
            }
            "/v1/closed" => {
                let request: ClosedRequest = read(request);
                self.closed.lock().unwrap().extend(request.sessions);
                write(Done {})
            }
            "/v1/node/join" => {
                self.joins.lock().unwrap().push(read(request));
                write(JoinAnswer::Refused { message: "no such token".into() })
            }
            "/v1/node/hello" => {
                let bundle = self.bundle.lock().unwrap().clone();
                write(NodeHelloAnswer::Welcome { bundle, host_certificate: None, current: None })
            }
            "/v1/node/receipt" => {
                self.receipts.lock().unwrap().push(read(request));
                write(Done {})
            }
            other => panic!("not asked here: {other}"),
        }
    }
}

type Output_ = certgate::app::protocol::Output;

impl Authority for Fake {
    type Events = Stream;

    async fn call<C: Call>(&self, request: C::Request) -> Result<C::Answer, Unreachable> {
        if *self.down.lock().unwrap() {
            return Err(Unreachable("down".into()));
        }
        let answer = self.answer(C::PATH, &serde_json::to_value(request).unwrap());
        if C::PATH == "/v1/open" {
            self.asked_to_open.fetch_add(1, Ordering::SeqCst);
            let hold = self.hold_open.lock().unwrap().clone();
            if let Some(hold) = hold {
                hold.notified().await;
            }
        }
        if C::PATH == "/v1/command" {
            let hold = self.hold_command.lock().unwrap().clone();
            if let Some(hold) = hold {
                hold.notified().await;
            }
        }
        Ok(serde_json::from_value(answer).unwrap())
    }

    async fn events(&self, hello: Hello) -> Result<Stream, Unreachable> {
        if *self.down.lock().unwrap() {
            return Err(Unreachable("down".into()));
        }
        self.hellos.lock().unwrap().push(hello);
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Event::Ready).unwrap();
        *self.events.lock().unwrap() = Some(sender);
        Ok(Stream(receiver, self.panic_in_events.clone()))
    }
}

pub struct Stream(mpsc::UnboundedReceiver<Event>, Arc<AtomicBool>);

impl EventStream for Stream {
    async fn next(&mut self) -> Result<Event, Unreachable> {
        let event = self.0.recv().await;
        assert!(!self.1.swap(false, Ordering::SeqCst), "as the test wants it");
        event.ok_or_else(|| Unreachable("the stream ended".into()))
    }
}

/// A gateway that is serving.
pub struct Running {
    pub fake: Arc<Fake>,
    pub address: SocketAddr,
    pub dir: TempDir,
    /// Where monitoring asks.
    pub monitor: SocketAddr,
    pub stop: Stop,
    pub control: Control<Fake>,
    /// Ends with the gateway.
    pub served: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.now.cancel();
        self.stop.drain.cancel();
    }
}

/// Starts one; `id` (ed25519) in its directory is the key of the one account.
pub async fn start(change: impl FnOnce(&mut Limits)) -> Running {
    start_with(|config| change(&mut config.limits)).await
}

/// The same, with more to change. Nobody is punished unless that is changed: all peers have one address.
pub async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    let key = keygen(dir.path(), "id", "ed25519");
    fake.known.lock().unwrap().insert(wire(&key));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let monitor_address = monitor.local_addr().unwrap();
    let mut config = Config {
        listen: vec![address],
        monitor: Some(monitor_address),
        authority_socket: "/nonexistent".into(),
        host_key: dir.path().join("host"),
        name: "gw1".into(),
        proxy_protocol_from: None,
        limits: Limits::default(),
        penalties: PenaltySettings { enabled: false, ..PenaltySettings::default() },
        algorithms: Algorithms::default(),
    };
    change(&mut config);
    let host_key = certgate::gateway::load_or_make_host_key(&config.host_key, || [9; 32]).unwrap();
    let known_hosts = format!("* {}\n", host_key.public_key().to_openssh().unwrap());
    std::fs::write(dir.path().join("known_hosts"), known_hosts).unwrap();
    let counter = AtomicU64::new(1);
    let random = Arc::new(move || u128::from(counter.fetch_add(1, Ordering::SeqCst)));
    let stop = Stop::default();
    let gateway = Gateway::new(
        config,
        host_key,
        fake.clone(),
        random,
        Lanes::start(2, THREAD_STACK_BYTES).unwrap(),
        stop.clone(),
    )
    .unwrap();
    let control = gateway.control();
    let served = tokio::spawn(gateway.serve(Listeners { ssh: vec![listener], monitor: Some(monitor) }));
    let running = Running { fake, address, dir, monitor: monitor_address, stop, control, served };
    until("the gateway follows the events", || running.fake.events.lock().unwrap().is_some()).await;
    running
}

/// Makes a key pair; returns the private file.
pub fn keygen(dir: &Path, name: &str, kind: &str) -> PathBuf {
    let path = dir.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", kind, "-f"]).arg(&path).status().unwrap();
    assert!(made.success());
    path
}

/// The second field of the public file.
pub fn wire(private: &Path) -> String {
    let text = std::fs::read_to_string(format!("{}.pub", private.display())).unwrap();
    text.split(' ').nth(1).unwrap().trim().to_owned()
}

impl Running {
    /// `ssh` to the gateway, away from the machine's own configuration.
    pub fn ssh(&self, arguments: &[&str]) -> tokio::process::Command {
        self.ssh_at(self.address.port(), arguments)
    }

    /// The same at another port.
    pub fn ssh_at(&self, port: u16, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ssh");
        let hosts = format!("UserKnownHostsFile={}", self.dir.path().join("known_hosts").display());
        command.args(["-F", "/dev/null", "-o", &hosts, "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]);
        command.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-p", &port.to_string()]);
        command.env_remove("SSH_AUTH_SOCK").env_remove("DISPLAY");
        command.args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same with the account's key, to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let key = self.dir.path().join("id");
        let arguments = [&["-i", key.to_str().unwrap()], arguments].concat();
        let output = self.ssh(&arguments).output();
        tokio::time::timeout(Duration::from_secs(30), output).await.expect("ssh ends").unwrap()
    }
}

/// Waits for a condition, generously.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
