//! A whole site for one test: a bastion, a laptop and nodes, as `scripts/machine` makes them out of namespaces. Every
//! program runs at its real path, port and account there; of the host nothing is touched. All sites are alike, and none
//! sees another: each has a network of its own, in which only 127.0.0.0/8 exists.

// Each test target uses its own part of this.
#![allow(dead_code)]
// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Where all of a site but its nodes is.
pub const BASTION: &str = "bastion";
/// The machine on which admin1 and user1 have their accounts.
pub const LAPTOP: &str = "laptop";
/// The bastion's name, as people type it.
pub const HOST: &str = "bastion.example.com";
/// The node that most tests have.
pub const NODE: &str = "login-0.h100-cluster-1.acme";
/// Its address.
pub const NODE_ADDRESS: &str = "127.10.1.1";
/// The project of its cluster.
pub const PROJECT: &str = "acme/ml-training";
/// What somebody who was removed is told.
pub const REMOVED: &str = "removed from acme/ml-training at ";

/// Where machines have the clients that nobody here wrote, once [`install_clients`] was called.
pub const CLIENTS: &str = "/usr/local/lib/clients";

/// The same directory on the host.
static INSTALLED: OnceLock<PathBuf> = OnceLock::new();

/// Installs the clients that `scripts/clients` lists: the machines made afterwards have them.
pub fn install_clients(options: &[&str]) {
    let target = Path::new(env!("CARGO_BIN_EXE_certgated")).ancestors().nth(2).unwrap();
    let dir = target.join("clients");
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/clients"));
    let output = script.args(options).arg(&dir).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    INSTALLED.set(dir).unwrap();
}

/// How long anything is waited for. Generous: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "waited {} s in vain: {what}", PATIENCE.as_secs());
        sleep(Duration::from_millis(100));
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    line: String,
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// It succeeded; what it printed on standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "it should have succeeded: {self:#?}");
        self.stdout
    }

    /// It failed, and all that it said contains this.
    #[track_caller]
    pub fn refused(self, word: &str) -> Self {
        assert_ne!(self.status, Some(0), "it should have been refused: {self:#?}");
        assert!(self.said().contains(word), "{word:?} is not in what it said: {self:#?}");
        self
    }

    /// All that it said.
    pub fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command that runs in the background, and is ended with this.
pub struct Running {
    child: Child,
    output: PathBuf,
    /// What it reads.
    pub stdin: Option<ChildStdin>,
}

impl Running {
    /// What it has printed so far.
    pub fn said(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has printed this.
    pub fn says(&self, word: &str) {
        eventually(&format!("{word:?} in the output of a command in the background"), || self.said().contains(word));
    }

    /// Waits for its end.
    pub fn ends(&mut self) {
        let output = self.output.clone();
        eventually(&format!("the end of the command that writes {}", output.display()), || self.ended());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Err: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machines of one test. Everything in them ends with this.
pub struct Site {
    dir: TempDir,
    keepers: Vec<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        for keeper in &mut self.keepers {
            // With the first process of a machine, everything in it ends. Err: it has ended already.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
    }
}

impl Site {
    /// A bastion that is not set up, and a laptop on which admin1 has an account and a key.
    pub fn bare() -> Self {
        let mut site = Self::nowhere();
        site.raise(BASTION);
        for (user, uid) in [("certgate-authority", "60901"), ("certgate-gateway", "60902")] {
            site.machine(&["account", BASTION, user, uid]);
        }
        site.raise(LAPTOP);
        site.machine(&["account", LAPTOP, "admin1", "1000"]);
        let keygen = "mkdir -m 0700 .ssh && ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519";
        site.run(LAPTOP, "admin1", keygen).ok();
        site
    }

    /// Starts an sshd on the bastion itself.
    pub fn bastions_own_sshd(&self) {
        self.machine(&["sshd", BASTION, "0.0.0.0"]);
    }

    /// A bastion with an authority and a gateway, a laptop with accounts for admin1 and user1, who are registered, and
    /// a project with a cluster, of which admin1 is the admin.
    pub fn start() -> Self {
        let mut site = Self::nowhere();
        site.raise(BASTION);
        site.machine(&["bastion", BASTION]);
        site.start_authority();
        site.start_gateway();
        site.raise(LAPTOP);
        site.operator("org create acme").ok();
        for (user, uid, kind) in [("admin1", "1000", "ecdsa"), ("user1", "1001", "ed25519")] {
            site.machine(&["account", LAPTOP, user, uid]);
            let keygen = format!("mkdir -m 0700 .ssh && ssh-keygen -q -t {kind} -N '' -f .ssh/id_{kind}");
            site.run(LAPTOP, user, &keygen).ok();
            let key = site.run(LAPTOP, user, &format!("cat .ssh/id_{kind}.pub")).ok();
            let key = key.trim();
            site.operator(&format!("user create {user}@acme.example --org acme --name {user} --key '{key}'")).ok();
        }
        site.operator(&format!("project create {PROJECT} --admin admin1@acme.example")).ok();
        site.operator(&format!("cluster create {PROJECT} h100-cluster-1 --kind slurm")).ok();
        let known = site.operator("config known-hosts").ok();
        for user in ["admin1", "user1"] {
            site.run_with(LAPTOP, user, "cat >.ssh/known_hosts", &known).ok();
        }
        site
    }

    /// Without a machine.
    fn nowhere() -> Self {
        assert!(rustix::process::geteuid().is_root(), "machines are made of namespaces, which needs root");
        let namespaces = "--net --mount --uts --pid --fork --propagation private mount -t tmpfs none /mnt";
        let tried = Command::new("unshare").args(namespaces.split(' ')).output().unwrap();
        assert!(
            tried.status.success(),
            "cannot make namespaces here (a container must be privileged): {}",
            String::from_utf8_lossy(&tried.stderr)
        );
        Self { dir: tempfile::tempdir().unwrap(), keepers: vec![] }
    }

    /// The same with a node, user1 as a member, and her laptop configured.
    pub fn with_user1_at_work() -> Self {
        let mut site = Self::start();
        site.enrol(NODE, NODE_ADDRESS);
        site.add_user1();
        site.configure_user1();
        site
    }

    /// Starts the authority, and waits for it.
    pub fn start_authority(&self) {
        let config = "/etc/certgate/authority.toml";
        self.machine(&["service", BASTION, "certgate", "authority", "certgated", "authority", "--config", config]);
        eventually("an authority that answers", || self.operator("ca show").status == Some(0));
    }

    /// Starts the gateway, and waits until it is connected to the authority.
    pub fn start_gateway(&self) {
        let config = "/etc/certgate/gateway.toml";
        self.machine(&["service", BASTION, "certgate-gateway", "gateway", "certgated", "gateway", "--config", config]);
        self.gateway_is_connected();
    }

    /// Waits until the authority hears the gateway.
    pub fn gateway_is_connected(&self) {
        eventually("a gateway that is connected", || {
            self.operator("status --json")
                .stdout
                .parse::<Value>()
                .is_ok_and(|status| status["gateways"].as_array().is_some_and(|gateways| !gateways.is_empty()))
        });
    }

    /// Sends a daemon a signal.
    pub fn signal(&self, machine: &str, daemon: &str, signal: &str) {
        self.machine(&["signal", machine, daemon, signal]);
    }

    /// Makes a machine with an sshd, and nobody on it but root.
    pub fn bare_server(&mut self, name: &str, address: &str) {
        self.raise(name);
        self.machine(&["sshd", name, address]);
    }

    /// Makes a machine with an sshd that could become a node.
    pub fn server(&mut self, name: &str, address: &str) {
        self.raise(name);
        let users = self.operator_json("user list --json");
        for user in ["admin1", "user1"] {
            let account = users.as_array().unwrap().iter().find(|account| account["user"] == user).unwrap();
            self.machine(&["account", name, user, &account["uid"].to_string()]);
        }
        self.machine(&["sshd", name, address]);
    }

    /// Makes an account on a machine, as an administrator would.
    pub fn make_account(&self, machine: &str, user: &str, uid: &str) {
        self.machine(&["account", machine, user, uid]);
    }

    /// A token for a node.
    pub fn token(&self, node: &str, address: &str, more: &str) -> String {
        let line = format!("node token {node} --role login --address {address} {more}");
        self.operator(&line).ok().trim().to_owned()
    }

    /// Lets a machine join with a token.
    pub fn join(&self, machine: &str, token: &str) -> Ran {
        let helper = "--helper /usr/local/lib/certgate/certgate-principals";
        let line = format!("certgate-node join --reload /usr/local/sbin/reload-sshd {helper} {token}");
        self.run(machine, "root", &line)
    }

    /// Makes an account on a machine, as an administrator or LDAP would.
    pub fn account(&self, machine: &str, user: &str, uid: &str) {
        self.machine(&["account", machine, user, uid]);
    }

    /// Starts the agent of a node.
    pub fn start_agent(&self, node: &str) {
        self.machine(&["service", node, "root", "agent", "certgate-node", "run"]);
    }

    /// Makes a machine a node, and waits until it has what is in force.
    pub fn enrol(&mut self, node: &str, address: &str) {
        self.server(node, address);
        let token = self.token(node, address, "");
        self.join(node, &token).ok();
        self.start_agent(node);
        self.in_force(node);
    }

    /// Waits until a node has confirmed what is in force.
    pub fn in_force(&self, node: &str) {
        eventually(&format!("{node} has confirmed what is in force"), || {
            // Its exit status says whether all is well, which is what is waited for.
            let Ok(status) = self.operator("status --json").stdout.parse::<Value>() else { return false };
            status["nodes"].as_array().unwrap().iter().any(|entry| {
                let version = |field: &str| entry[field].as_u64();
                entry["node"] == node && version("version").is_some() && version("version") >= version("wanted")
            })
        });
    }

    /// admin1 adds user1 to the project.
    pub fn add_user1(&self) {
        self.admin1(&format!("ssh {HOST} member add {PROJECT} user1@acme.example")).ok();
        self.in_force(NODE);
    }

    /// user1 installs the configuration that she is given.
    pub fn configure_user1(&self) {
        let line = format!("ssh {HOST} config >.ssh/certgate.conf && echo 'Include certgate.conf' >>.ssh/config");
        self.user1(&line).ok();
    }

    /// A command line of user1's on her laptop.
    pub fn user1(&self, line: &str) -> Ran {
        self.run(LAPTOP, "user1", line)
    }

    /// A command line of admin1's.
    pub fn admin1(&self, line: &str) -> Ran {
        self.run(LAPTOP, "admin1", line)
    }

    /// The operator's `certgate …` on the bastion.
    pub fn operator(&self, words: &str) -> Ran {
        self.run(BASTION, "root", &format!("certgate {words}"))
    }

    /// The same, for its data.
    pub fn operator_json(&self, words: &str) -> Value {
        self.operator(words).ok().parse().unwrap()
    }

    /// What user1 does past the gateway, with a certificate in `kept.pub`: dials the sshd of a node.
    pub fn user1_dials(&self, address: &str) -> Ran {
        self.user1(&format!(
            "ssh -F none -i .ssh/id_ed25519 -o CertificateFile=kept.pub -o IdentitiesOnly=yes -o BatchMode=yes \
             -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR user1@{address} hostname"
        ))
    }

    /// What was refused and is on record: `REASON: DETAIL` of these actions, oldest first.
    pub fn refusals(&self, action: &str) -> Vec<String> {
        let log = self.operator_json("audit list --limit 10000 --json");
        let entries = log["entries"].as_array().unwrap();
        let mut refused: Vec<_> = entries
            .iter()
            .filter(|entry| entry["event"]["action"] == action && entry["event"]["outcome"] == "refused")
            .map(|entry| {
                let said = |field: &str| entry["event"][field].as_str().unwrap();
                (entry["seq"].as_u64().unwrap(), format!("{}: {}", said("reason"), said("detail")))
            })
            .collect();
        refused.sort();
        refused.into_iter().map(|(_, said)| said).collect()
    }

    /// The log of a daemon.
    pub fn log(&self, machine: &str, daemon: &str) -> String {
        fs::read_to_string(self.path(machine).join("log").join(format!("{daemon}.log"))).unwrap_or_default()
    }

    /// Runs a command line on a machine.
    pub fn run(&self, machine: &str, user: &str, line: &str) -> Ran {
        self.run_with(machine, user, line, "")
    }

    /// Runs a command line on a machine, with this on its standard input.
    pub fn run_with(&self, machine: &str, user: &str, line: &str, input: &str) -> Ran {
        // So that what hangs fails, and says where.
        let words = ["timeout", "--kill-after=5", "120", "bash", "-c", line];
        let mut child = self.command("run", machine, user).args(words).spawn().unwrap();
        // Err: it does not read, which is its right.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ran {
            line: format!("{user}@{machine}: {line}"),
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Begins a command line of user1's. Its output goes to a file of this name.
    pub fn begin(&self, name: &str, line: &str) -> Running {
        self.begin_as("user1", name, line)
    }

    /// The same, of somebody else's on the laptop.
    pub fn begin_as(&self, user: &str, name: &str, line: &str) -> Running {
        let output = self.dir.path().join(name);
        let file = fs::File::create(&output).unwrap();
        let mut command = self.command("run", LAPTOP, user);
        command.args(["bash", "-c", line]).stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        Running { child, output, stdin }
    }

    fn path(&self, machine: &str) -> PathBuf {
        self.dir.path().join(machine)
    }

    fn script() -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/machine"));
        command.env("CERTGATE_BIN", Path::new(env!("CARGO_BIN_EXE_certgated")).parent().unwrap());
        if let Some(clients) = INSTALLED.get() {
            command.env("CERTGATE_CLIENTS", clients);
        }
        command
    }

    fn command(&self, verb: &str, machine: &str, user: &str) -> Command {
        let mut command = Self::script();
        command.arg(verb).arg(self.path(machine)).arg(user);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `machine VERB DIR …`, which has to succeed.
    #[track_caller]
    fn machine(&self, words: &[&str]) {
        let output = Self::script()
            .arg(words[0])
            .arg(self.path(words[1]))
            .args(&words[2..])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "machine {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes a machine, on the bastion's network if that exists.
    fn raise(&mut self, name: &str) {
        // Whatever becomes of this process, its machines do not outlive it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        let script = Self::script();
        command.arg(script.get_program());
        for (name, value) in script.get_envs() {
            command.env(name, value.unwrap());
        }
        command.arg("up").arg(self.path(name)).arg(name);
        if name != BASTION {
            command.arg(self.path(BASTION));
        }
        self.keepers.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let ready = self.path(name).join("ready");
        eventually(&format!("the machine {name} is up"), || ready.exists());
    }

    /// For whoever looks at a failure.
    #[allow(clippy::print_stderr)] // the test runner's business
    fn show_logs(&self) {
        let Ok(machines) = fs::read_dir(self.dir.path()) else { return };
        for machine in machines.flatten() {
            let Ok(logs) = fs::read_dir(machine.path().join("log")) else { continue };
            for log in logs.flatten() {
                let text = fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {} {}\n{end}", machine.file_name().display(), log.file_name().display());
            }
        }
    }
}
