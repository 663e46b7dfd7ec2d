//! The agent is killed again and again while it installs one bundle after the other: what helper and sshd read is whole at
//! every moment, nothing that was confirmed is lost, and the next start goes on from there.

// A test that meets an error has failed; clippy knows that of test functions, but not of what they call.
#![allow(clippy::unwrap_used, clippy::panic)]

mod node_support;

use certgate::{
    app::protocol::{FromNode, Reach},
    bundle::{Bundle, BundleKey, DeniedSerial, FORMAT, Login, SignedBundle, compile, table::Table},
    domain::{Role, Serial, Timestamp, Uid, Version},
    krl::Krl,
    node::{
        accounts::{Accounts, UserRecords},
        config::{MaxAge, NodeConfig},
        sessions::OnRemoval,
        state_dir::StateDir,
    },
};
use node_support::{GATEWAY, HOST, NODE, Relay, USER_CA, authority, public, serve, ssh_key, write_key};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant},
};

/// How often it is killed.
const KILLS: u64 = 80;

/// Of each version another one, so that nothing of two versions fits together.
fn bundle(version: u64) -> Bundle {
    let until = Timestamp::from_secs(1_795_100_000);
    let login = |number: u64| Login {
        name: format!("user{number}").parse().unwrap(),
        uid: Uid(12_345),
        role: Role::Member,
        principals: vec![format!("user{number}@acme/v{version}")],
    };
    Bundle {
        format: FORMAT,
        cluster: "h100.acme".parse().unwrap(),
        version: Version(version),
        issued: Timestamp::from_secs(1_795_000_000),
        logins: (0..100 + version % 50).map(login).collect(),
        groups: vec![],
        shared_logins: vec![],
        leaving: vec![],
        denied_serials: (1..50 + version % 7)
            .map(|n| DeniedSerial { serial: Serial(1_000 + version * n), until })
            .collect(),
        denied_keys: vec![],
        user_ca: vec![public(&ssh_key(USER_CA))],
        host_ca: vec![],
    }
}

fn signed(version: u64) -> SignedBundle {
    SignedBundle::sign(&bundle(version), &authority()).unwrap()
}

struct Node {
    dir: tempfile::TempDir,
    state: StateDir,
}

impl Node {
    fn new(gateway: u16) -> Self {
        // On a disk, where there is one: that is where an installation takes time.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("state");
        fs::create_dir(&path).unwrap();
        write_key(&dir.path().join("host_key"), &ssh_key(HOST));
        let config = NodeConfig {
            node: NODE.parse().unwrap(),
            gateways: vec![format!("127.0.0.1:{gateway}")],
            gateway_host_keys: vec![public(&ssh_key(GATEWAY)).fingerprint()],
            bundle_keys: vec![BundleKey::from(&authority())],
            state_dir: path,
            host_key: dir.path().join("host_key"),
            reload: vec![],
            max_age: MaxAge(None),
            on_removal: OnRemoval::Disconnect,
            revoked_keys: true,
            helper_user: "nobody".into(),
            reach: Reach::Direct,
            sshd_address: "127.0.0.1:22".parse().unwrap(),
            accounts: Accounts::None,
            userdb: UserRecords::default(),
        };
        fs::write(dir.path().join("node.toml"), config.to_toml().unwrap()).unwrap();
        Self { dir, state: StateDir::of(&config) }
    }

    fn start(&self) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgate-node"));
        command.args(["run", "--config"]).arg(self.dir.path().join("node.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// What lies there, each file by itself: all whole. The versions of table, bundle and list.
    fn look(&self) -> [u64; 3] {
        let table = fs::read(self.state.table()).unwrap();
        let in_table = Table::open(&table).unwrap().version();
        assert!(table == compile(&bundle(in_table)).unwrap(), "the table is not that of version {in_table}");
        let stored: SignedBundle = serde_json::from_slice(&fs::read(self.state.bundle()).unwrap()).unwrap();
        let cluster = "h100.acme".parse().unwrap();
        let opened = stored.open(&[BundleKey::from(&authority())], &cluster, None).unwrap();
        assert!(opened == bundle(opened.version.0));
        let list = Krl::parse(&fs::read(self.state.revoked_keys()).unwrap()).unwrap();
        self.state.check_revoked_keys(&bundle(list.version)).unwrap();
        let answered = helper(&self.state.table());
        assert_eq!(answered, format!("user1@acme/v{in_table}\n"));
        [in_table, opened.version.0, list.version]
    }

    fn begun(&self) -> bool {
        let names = fs::read_dir(self.dir.path().join("state")).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().ends_with(".new"))
    }
}

/// What the helper says of somebody whom every version lets in.
fn helper(table: &Path) -> String {
    let (key, ca) = (public(&ssh_key(HOST)).fingerprint(), public(&ssh_key(USER_CA)).fingerprint());
    let words = ["user1".into(), "1".into(), key.to_string(), ca.to_string(), "user1".into()];
    let output =
        Command::new(env!("CARGO_BIN_EXE_certgate-principals")).arg("--table").arg(table).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_agent_that_is_killed_anywhere_leaves_what_was_sent_and_goes_on_from_there() {
    assert!(rustix::process::geteuid().is_root(), "the helper believes root's files only: run the tests as root");
    let relay = Relay { bundle: signed(1), version: 1, receipts: vec![], agents: vec![], endless: Some(signed) };
    let relay = Arc::new(Mutex::new(relay));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let node = Node::new(runtime.block_on(serve(Arc::clone(&relay))));
    let confirmed = || {
        let relay = relay.lock().unwrap();
        let versions = relay.receipts.iter().map(|receipt| match receipt {
            FromNode::Receipt { version, problem: None, .. } => version.map_or(0, |version| version.0),
            other => panic!("{other:?}"),
        });
        (versions.max().unwrap_or(0), relay.version)
    };
    let (mut before, mut caught, mut torn) = (0, 0, 0);
    for kill in 0..KILLS {
        let mut agent = node.start();
        let begun = Instant::now();
        // It goes on, from wherever it was left.
        while confirmed().0 <= before {
            assert!(
                agent.try_wait().unwrap().is_none(),
                "{}",
                fs::read_to_string(node.dir.path().join("log")).unwrap()
            );
            assert!(begun.elapsed() < Duration::from_secs(60), "kill {kill}: nothing after version {before}");
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_micros(kill * 7919 % 10_000));
        // SIGKILL.
        agent.kill().unwrap();
        agent.wait().unwrap();
        let (least, sent) = confirmed();
        let [table, bundle, list] = node.look();
        assert!(
            least <= table && table <= list && list <= bundle && bundle <= sent,
            "{least} {table} {list} {bundle} {sent}"
        );
        caught += u32::from(node.begun());
        torn += u32::from(table != bundle);
        before = table;
    }
    // Otherwise it was never in the middle of anything.
    assert!(caught > 0 || torn > 0, "of {KILLS} kills none came while a bundle was installed");
    // What was left half done is not there any more when it has run once.
    let mut agent = node.start();
    let begun = Instant::now();
    while confirmed().0 <= before + 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing after version {before}");
        sleep(Duration::from_millis(10));
    }
    relay.lock().unwrap().endless = None;
    while confirmed().0 < confirmed().1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the last version is not confirmed");
        sleep(Duration::from_millis(10));
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    let (last, _) = confirmed();
    assert_eq!((node.look(), node.begun()), ([last; 3], false));
}
