//! A site to play on: a bastion, nodes and laptops, each a machine of its own (`scripts/machine`), with the real
//! binaries, ssh and sshd. Everything ends with the [`Site`].

use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What `certgate-node join` has to be told on these machines.
const JOIN: &str = "certgate-node join --reload /usr/local/sbin/reload-sshd \
                    --helper /usr/local/lib/certgate/certgate-principals";

/// Far longer than anything here takes; reached only by what will never happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a command did.
pub struct Outcome {
    pub line: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// As a person would have seen it.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{}\n{}{}(exit status {})\n", self.line, self.stdout, self.stderr, self.status)
    }
}

impl Outcome {
    /// Insists on success; gives what was printed, without the last line's end.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.status, 0, "{self:#?}");
        self.stdout.trim_end()
    }

    /// Insists on an exit status and on a text in what was written to standard error.
    #[track_caller]
    pub fn refused(&self, status: i32, text: &str) {
        assert_eq!(self.status, status, "{self:#?}");
        assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
    }
}

/// A process that runs beside the test; it ends with this value.
pub struct Background {
    child: RefCell<Child>,
    output: PathBuf,
}

impl Background {
    pub fn is_running(&self) -> bool {
        self.child.borrow_mut().try_wait().unwrap().is_none()
    }

    /// What it has written so far, standard error among it.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) {
        use std::io::Write;
        writeln!(self.child.borrow().stdin.as_ref().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything that one test plays on.
pub struct Site {
    // Before the directory, which they use.
    machines: RefCell<BTreeMap<String, Background>>,
    nodes: Cell<u8>,
    outputs: Cell<u32>,
    dir: TempDir,
}

impl Site {
    /// A bastion with an authority and a gateway.
    pub fn new() -> Self {
        let site = Self {
            machines: RefCell::default(),
            nodes: Cell::new(0),
            outputs: Cell::new(0),
            dir: tempfile::Builder::new().prefix("certgate-e2e-").tempdir_in("/tmp").unwrap(),
        };
        site.raise("bastion", None);
        site.machine(&["bastion", site.path("bastion").to_str().unwrap()]);
        site.start_authority();
        site.start_gateway();
        site
    }

    /// The site of the story: user1 and user2 are members of acme/ml-training, user2 of acme/research too, and admin1
    /// administers both. With these nodes.
    pub fn acme(nodes: &[&str]) -> Self {
        let site = Self::new();
        site.operator("org create acme").ok();
        for (user, key) in [("admin1", "rsa -b 3072"), ("user1", "ed25519"), ("user2", "ecdsa")] {
            site.user(user, key);
        }
        for line in [
            "project create acme/ml-training --admin admin1@acme.example",
            "cluster create acme/ml-training h100-cluster-1 --kind slurm",
            "cluster create acme/ml-training h100-cluster-2 --kind slurm",
            "volume create acme/ml-training training-data",
            "project create acme/research --admin admin1@acme.example",
            "cluster create acme/research b200-cluster --kind slurm",
        ] {
            site.operator(line).ok();
        }
        for node in nodes {
            site.node(node);
        }
        for (user, project) in [("user1", "ml-training"), ("user2", "ml-training"), ("user2", "research")] {
            let line = format!("ssh bastion.example.com member add acme/{project} {user}@acme.example");
            site.run("admin1", &line).ok();
        }
        for user in ["admin1", "user1", "user2"] {
            site.configure(user);
        }
        site.nodes_up_to_date();
        site
    }

    fn path(&self, machine: &str) -> PathBuf {
        self.dir.path().join(machine)
    }

    /// Where a machine's log files are.
    pub fn logs(&self, machine: &str) -> PathBuf {
        self.path(machine).join("log")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/machine")]);
        command.args(words).stdin(Stdio::null());
        command.env("CERTGATE_BIN", Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap());
        command
    }

    #[track_caller]
    fn machine(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "machine {words:?}: {output:?} (does this run as root?)");
        String::from_utf8(output.stdout).unwrap()
    }

    fn spawn(&self, mut command: Command) -> Background {
        self.outputs.set(self.outputs.get() + 1);
        let output = self.dir.path().join(format!("output-{}", self.outputs.get()));
        let file = File::create(&output).unwrap();
        command.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).stderr(file);
        Background { child: RefCell::new(command.spawn().unwrap()), output }
    }

    fn raise(&self, machine: &str, network: Option<&str>) {
        let path = self.path(machine);
        let network = network.map(|machine| self.path(machine));
        let mut words = vec!["up", path.to_str().unwrap(), machine];
        words.extend(network.as_ref().map(|path| path.to_str().unwrap()));
        let keeper = self.spawn(self.command(&words));
        eventually(&format!("{machine} is up"), || {
            let why = fs::read_to_string(self.logs(machine).join("machine.log")).unwrap_or_default();
            assert!(keeper.is_running(), "{machine} did not come up (does this run as root?): {why}");
            path.join("ready").exists()
        });
        self.machines.borrow_mut().insert(machine.to_owned(), keeper);
    }

    fn service(&self, machine: &str, user: &str, name: &str, command: &[&str]) {
        let path = self.path(machine);
        let words = [&["service", path.to_str().unwrap(), user, name], command].concat();
        self.machine(&words);
    }

    /// Ends a daemon.
    pub fn signal(&self, machine: &str, name: &str, signal: &str) {
        self.machine(&["signal", self.path(machine).to_str().unwrap(), name, signal]);
    }

    pub fn start_authority(&self) {
        let socket = "test -S /run/certgate/admin.sock && certgate user list";
        let config = ["certgated", "authority", "--config", "/etc/certgate/authority.toml"];
        self.service("bastion", "certgate", "authority", &config);
        eventually("the authority answers", || self.run_at("bastion", "root", socket).status == 0);
    }

    pub fn start_gateway(&self) {
        let config = ["certgated", "gateway", "--config", "/etc/certgate/gateway.toml"];
        self.service("bastion", "certgate-gateway", "gateway", &config);
        self.gateway_connected();
    }

    /// Waits until the gateway has found the authority; `status` fails until then.
    pub fn gateway_connected(&self) {
        eventually("the gateway is connected", || self.operator("status").status == 0);
    }

    /// A laptop with a key, and an account with that key.
    pub fn user(&self, user: &str, key: &str) {
        self.raise(user, Some("bastion"));
        self.machine(&["account", self.path(user).to_str().unwrap(), user, "1000"]);
        let kind = key.split(' ').next().unwrap();
        let make = format!("mkdir -m 0700 .ssh && ssh-keygen -q -t {key} -N '' -f .ssh/id_{kind}");
        self.run(user, &make).ok();
        let known_hosts = self.operator("config known-hosts").ok().to_owned();
        self.run(user, &format!("echo '{known_hosts}' >.ssh/known_hosts && cp .ssh/id_{kind}.pub key.pub")).ok();
        let public = self.run(user, "cat key.pub").ok().to_owned();
        let create = format!("user create {user}@acme.example --org acme --name {user} --key '{public}'");
        self.operator(&create).ok();
    }

    /// The user does what `ssh bastion.example.com` says.
    pub fn configure(&self, user: &str) {
        let line = "ssh bastion.example.com config >.ssh/certgate.conf && echo 'Include certgate.conf' >.ssh/config";
        self.run(user, line).ok();
    }

    /// A machine with sshd that is a node; gives its address. Its accounts are those of the directory.
    pub fn node(&self, node: &str) -> String {
        self.raise(node, Some("bastion"));
        self.nodes.set(self.nodes.get() + 1);
        let address = format!("127.10.1.{}", self.nodes.get());
        let path = self.path(node);
        for account in self.json("user list").as_array().unwrap() {
            let (user, uid) = (account["user"].as_str().unwrap(), account["uid"].to_string());
            self.machine(&["account", path.to_str().unwrap(), user, &uid]);
        }
        self.machine(&["sshd", path.to_str().unwrap(), &address]);
        let token = self.token(node, &address);
        self.run_at(node, "root", &format!("{JOIN} {token}")).ok();
        self.service(node, "root", "agent", &["certgate-node", "run"]);
        address
    }

    pub fn token(&self, node: &str, address: &str) -> String {
        self.operator(&format!("node token {node} --address {address}")).ok().to_owned()
    }

    /// Tries to join with a token once more.
    pub fn join_again(&self, node: &str, token: &str) -> Outcome {
        self.run_at(node, "root", &format!("{JOIN} {token}"))
    }

    /// Waits until every node has confirmed what it should have.
    pub fn nodes_up_to_date(&self) {
        eventually("every node has confirmed its bundle", || {
            let status = self.json("status");
            let number = |value: &Value| value.as_u64();
            let fresh = |node: &Value| number(&node["version"]) >= number(&node["wanted"]);
            status["nodes"].as_array().unwrap().iter().all(fresh)
        });
    }

    /// Runs a shell's command line on a machine.
    pub fn run_at(&self, machine: &str, user: &str, line: &str) -> Outcome {
        let output =
            self.command(&["run", self.path(machine).to_str().unwrap(), user, "bash", "-c", line]).output().unwrap();
        Outcome {
            line: format!("{user}@{machine}$ {line}"),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command line on a user's own laptop.
    pub fn run(&self, user: &str, line: &str) -> Outcome {
        self.run_at(user, user, line)
    }

    /// Begins a command line on a user's own laptop.
    pub fn begin(&self, user: &str, line: &str) -> Background {
        self.spawn(self.command(&["run", self.path(user).to_str().unwrap(), user, "bash", "-c", line]))
    }

    /// Runs `certgate` as the operator.
    pub fn operator(&self, words: &str) -> Outcome {
        self.run_at("bastion", "root", &format!("certgate {words}"))
    }

    /// What `certgate` tells programs.
    pub fn json(&self, words: &str) -> Value {
        // `status` fails while no gateway is connected, but tells all the same.
        serde_json::from_str(&self.operator(&format!("{words} --json")).stdout).unwrap()
    }

    /// Dials a node's sshd past the gateway, as somebody could who is inside the network, with the certificate in
    /// `kept.pub`.
    pub fn dial(&self, user: &str, login: &str, address: &str) -> Outcome {
        let line = format!(
            "ssh -F none -i $(ls .ssh/id_* | grep -v pub) -o CertificateFile=kept.pub -o IdentitiesOnly=yes \
             -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null {login}@{address} hostname"
        );
        self.run(user, &line)
    }
}
