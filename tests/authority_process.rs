//! The authority as a process: what survives `kill -9`, and what it refuses to start on.
#![allow(clippy::unwrap_used, clippy::panic)]

use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    api::client::{AdminClient, GatewayClient},
    app::{
        authority::{Authority, Console},
        protocol::{
            AdminCommand, Authenticate, AuthenticateAnswer, AuthenticateRequest, CommandAnswer, CommandRequest,
            Credential, Output, Presented, RunCommand,
        },
    },
    audit::{Head, SignedHead, chain},
    domain::{PublicKey, Serial},
    store::{AuditQuery, SqliteStore, Store},
};
use ed25519_dalek::SigningKey;
use ssh_key::{
    Certificate,
    public::{Ed25519PublicKey, KeyData},
};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// A user that is nobody else on a machine.
const GATEWAY_USER: u32 = 64_321;

struct Site {
    dir: tempfile::TempDir,
}

/// A running authority; killed when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let config = format!(
            "state_dir = \"{path}/state\"\nadmin_socket = \"{path}/admin.sock\"\ngateway_socket = \
             \"{path}/gateway.sock\"\ngateway_user = \"{GATEWAY_USER}\"\n[bastion]\nhost = \
             \"bastion.example.com\"\n"
        );
        fs::write(dir.path().join("authority.toml"), config).unwrap();
        Self { dir }
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_certgated"));
        command.arg("authority").arg("--config").arg(self.dir.path().join("authority.toml"));
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    async fn start(&self) -> Running {
        self.up(self.command().stderr(Stdio::null())).await
    }

    /// With its log in a file, from its beginning, at the lowest level that there is.
    async fn start_logging(&self) -> Running {
        let file = fs::File::create(self.dir.path().join("log")).unwrap();
        self.up(self.command().stderr(file).env("CERTGATE_LOG", "error")).await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    async fn up(&self, command: &mut Command) -> Running {
        let mut running = Running(command.spawn().unwrap());
        for _ in 0..600 {
            if self.admin("status").await.is_some() {
                return running;
            }
            assert!(running.0.try_wait().unwrap().is_none(), "the authority has ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the authority did not start");
    }

    /// Starts it where it has to refuse, and returns what it said.
    fn refuses(&self) -> String {
        let output = self.command().output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "it started: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    async fn admin(&self, line: &str) -> Option<Output> {
        let words = line.split('|').flat_map(|quoted| {
            if quoted.starts_with("ssh-") {
                vec![quoted.to_owned()]
            } else {
                quoted.split_whitespace().map(str::to_owned).collect()
            }
        });
        let command = AdminCommand { words: words.collect(), terminal: None, inputs: vec![], context: None };
        match AdminClient::new(self.dir.path().join("admin.sock")).run(&command).await.ok()? {
            CommandAnswer::Output(output) => Some(output),
            CommandAnswer::Input { .. } => panic!("asked for input"),
        }
    }

    async fn operator(&self, line: &str) -> String {
        let output = self.admin(line).await.unwrap();
        assert_eq!(output.exit, 0, "{line}: {}", output.stderr);
        output.stdout
    }

    async fn story(&self) {
        self.operator("org create acme").await;
        self.operator(&format!("user create user1@acme.example --org acme --name user1 --key|{}", key())).await;
        self.operator("project create acme/ml --admin user1@acme.example").await;
    }

    fn client(&self) -> Arc<GatewayClient> {
        Arc::new(GatewayClient::new(self.dir.path().join("gateway.sock")))
    }
}

fn key() -> PublicKey {
    let public = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
    PublicKey::from_key_data(&KeyData::Ed25519(Ed25519PublicKey(public))).unwrap()
}

async fn credential(client: &GatewayClient) -> Credential {
    let request = AuthenticateRequest {
        connection: "c".into(),
        peer: "127.0.0.1".parse().unwrap(),
        presented: Presented::Key(STANDARD.encode(key().to_wire())),
        joining: false,
    };
    match client.call::<Authenticate>(request).await.unwrap() {
        AuthenticateAnswer::Account { credential, .. } => credential,
        other => panic!("{other:?}"),
    }
}

async fn cert(client: &GatewayClient, credential: &Credential) -> Option<Certificate> {
    let request = CommandRequest {
        connection: "c".into(),
        peer: "127.0.0.1".parse().unwrap(),
        credential: credential.clone(),
        line: "cert".into(),
        terminal: None,
        inputs: vec![],
        context: None,
    };
    match client.call::<RunCommand>(request).await.ok()? {
        CommandAnswer::Output(output) => Certificate::from_openssh(output.stdout.trim()).ok(),
        CommandAnswer::Input { .. } => panic!("asked for input"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_that_was_received_has_its_record_after_kill_9() {
    let site = Site::new();
    let mut running = site.start().await;
    site.story().await;
    let received = Arc::new(Mutex::new(Vec::new()));
    let client = site.client();
    let credential = credential(&client).await;
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (client, credential, received) = (client.clone(), credential.clone(), received.clone());
            tokio::spawn(async move {
                while let Some(certificate) = cert(&client, &credential).await {
                    received.lock().unwrap().push(certificate);
                }
            })
        })
        .collect();
    // In the middle of it: some have been received, all callers are asking for more.
    while received.lock().unwrap().len() < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    for caller in callers {
        caller.await.unwrap();
    }
    let received = std::mem::take(&mut *received.lock().unwrap());

    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = tokio::task::block_in_place(|| SqliteStore::open(&site.state(), commits)).unwrap();
    let log = store.audit(AuditQuery::default()).await.unwrap().entries;
    chain::verify(Head::EMPTY, &log).unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for certificate in &received {
        assert!(serials.insert(certificate.serial()), "serial {} was issued twice", certificate.serial());
        let record = store.certificate(Serial(certificate.serial())).await.unwrap().unwrap();
        assert_eq!(record.principals, certificate.valid_principals());
        assert_eq!(record.valid_before.secs(), certificate.valid_before());
        let detail = format!("serial {} ", certificate.serial());
        let logged =
            |e: &certgate::audit::Entry| e.event.action == "certificate.issue" && e.event.detail.starts_with(&detail);
        assert!(log.iter().any(logged), "{detail}");
    }
    drop(store);

    // And it goes on: the same CA, the same directory, a serial that was not used.
    let before = received[0].signature_key().clone();
    let _running = site.start().await;
    let certificate = cert(&site.client(), &credential).await.unwrap();
    assert_eq!(*certificate.signature_key(), before);
    assert!(serials.iter().all(|used| *used < certificate.serial()));
}

/// Stops it as systemd does.
fn stop(mut running: Running) {
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success());
}

/// The entries of the log, and its signed heads.
async fn recorded(site: &Site) -> (Vec<certgate::audit::Entry>, Vec<SignedHead>) {
    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = tokio::task::block_in_place(|| SqliteStore::open(&site.state(), commits)).unwrap();
    let entries = store.audit(AuditQuery::default()).await.unwrap().entries;
    let heads = store.signed_heads(0, 100).await.unwrap();
    tokio::task::block_in_place(|| drop(store));
    (entries, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_in_the_journal_once_and_what_is_stopped_is_signed() {
    let site = Site::new();
    let running = site.start_logging().await;
    site.story().await;
    let client = site.client();
    let credential = credential(&client).await;
    cert(&client, &credential).await.unwrap();
    site.admin("org create acme").await.unwrap();
    stop(running);

    let (entries, heads) = recorded(&site).await;
    let log = site.log();
    assert_eq!(entries.len(), 5);
    for entry in &entries {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!(" seq={} at=", entry.seq))).collect();
        assert_eq!(lines.len(), 1, "entry {} in {log}", entry.seq);
        let event = &entry.event;
        for field in [
            format!("actor=\"{}\"", event.actor.in_full()),
            format!("source=\"{}\"", event.source),
            format!("action=\"{}\"", event.action),
            format!("object=\"{}\"", event.object),
            format!("outcome=\"{}\"", event.outcome.as_str()),
            format!("version={}", entry.version),
            format!("hash={}", entry.hash),
        ] {
            assert!(lines[0].contains(&field), "{field} is not in {}", lines[0]);
        }
    }
    assert!(log.contains("actor=\"operator (uid 0)\"") && log.contains("certificate=1"), "{log}");
    assert!(log.contains(&format!("key={}", key().fingerprint())) && log.contains("reason=\"conflict\""), "{log}");
    // The end is signed, and whoever has the journal has that.
    let last = heads.last().unwrap();
    assert_eq!(last.head, Head::after(entries.last().unwrap()));
    assert!(log.lines().any(|line| line.contains(&format!("head={last}"))), "{log}");

    // The next one goes on from there, says nothing twice, and has nothing to complain about.
    let mut running = site.start_logging().await;
    site.operator("org create second").await;
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    let log = site.log();
    assert!(
        !log.contains("org.create done by operator (uid 0): acme") && !log.contains("did not end cleanly"),
        "{log}"
    );
    // That one was killed: what it has not signed is said and signed by the next one.
    let file = fs::File::create(site.dir.path().join("log")).unwrap();
    stop(site.up(site.command().stderr(file)).await);
    assert!(site.log().contains("the last 1 entries of the audit log were not signed"), "{}", site.log());
    let (entries, heads) = recorded(&site).await;
    assert_eq!(heads.last().unwrap().head, Head::after(entries.last().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_key_is_made_only_where_nothing_was_signed() {
    let site = Site::new();
    drop(site.start().await);
    let keys = || ["user_ca", "host_ca", "bundle_key"].map(|name| fs::read(site.state().join(name)).unwrap());
    let (others, audit_key) = (keys(), site.state().join("audit_key"));
    let first = fs::read(&audit_key).unwrap();
    fs::remove_file(&audit_key).unwrap();
    // As a state directory from before there was one.
    let file = fs::File::create(site.dir.path().join("log")).unwrap();
    let running = site.up(site.command().stderr(file)).await;
    let log = site.log();
    assert!(log.contains("audit_key") && log.contains("backups"), "{log}");
    assert!(fs::read(&audit_key).unwrap() != first);
    assert!(keys() == others, "another key was touched");
    site.operator("org create acme").await;
    stop(running);
    fs::remove_file(&audit_key).unwrap();
    let text = site.refuses();
    assert!(text.contains("audit_key") && text.contains("backup"), "{text}");
    assert!(!audit_key.exists());
}

#[tokio::test]
async fn a_second_authority_names_the_first() {
    let site = Site::new();
    let running = site.start().await;
    let text = site.refuses();
    assert!(text.contains(&format!("process {}", running.0.id())), "{text}");
    // The first one was not disturbed.
    assert!(site.admin("status").await.is_some());
}

#[tokio::test]
async fn a_new_ca_is_never_made_over_an_old_directory() {
    for name in ["user_ca", "host_ca", "bundle_key"] {
        let site = Site::new();
        drop(site.start().await);
        fs::remove_file(site.state().join(name)).unwrap();
        let text = site.refuses();
        assert!(text.contains(name) && text.contains("backup"), "{text}");
        assert!(!site.state().join(name).exists());
    }
    let site = Site::new();
    drop(site.start().await);
    let database = SqliteStore::database(&site.state());
    fs::remove_file(&database).unwrap();
    let text = site.refuses();
    assert!(text.contains("directory.sqlite3") && text.contains("backup"), "{text}");
    assert!(!database.exists());
}

#[tokio::test]
async fn unsafe_and_damaged_files_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let open_to_all = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let site = Site::new();
    drop(site.start().await);
    open_to_all(&site.state().join("user_ca"), 0o644);
    assert!(site.refuses().contains("user_ca"));
    open_to_all(&site.state().join("user_ca"), 0o600);
    open_to_all(&site.state(), 0o755);
    assert!(site.refuses().contains("0700"));
    open_to_all(&site.state(), 0o700);
    fs::write(SqliteStore::database(&site.state()), "not a database").unwrap();
    assert!(site.refuses().contains("directory.sqlite3"));
}

/// Asks over a socket as some user, by a program that is nothing but a client; gives what the program said.
fn ask_as(site: &Site, user: u32, socket: &str, path: &str, body: &str) -> String {
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let curl = Command::new("curl")
        .args(["-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
        .arg(site.dir.path().join(socket))
        .args(["-H", "content-type: application/json", "-d", body])
        .arg(format!("http://localhost{path}"))
        .uid(user)
        .gid(user)
        .output()
        .unwrap();
    String::from_utf8(curl.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_socket_answers_its_own_table_to_its_own_users() {
    use certgate::{
        api::server::ADMIN_CALLS,
        app::protocol::{EVENTS_PATH, GATEWAY_CALLS},
    };
    let site = Site::new();
    let _running = site.start().await;
    let ask =
        |user, socket, path: &str, body: &str| tokio::task::block_in_place(|| ask_as(&site, user, socket, path, body));
    let command = r#"{"words":["status"]}"#;
    assert_eq!(ask(0, "admin.sock", "/v1/command", command), "200");
    // 000 is curl's way of saying that there was no answer.
    for (user, socket) in [(GATEWAY_USER, "admin.sock"), (64_322, "admin.sock"), (64_322, "gateway.sock")] {
        assert_eq!(ask(user, socket, "/v1/command", command), "000", "user {user} on {socket}");
    }
    // The gateway's user is answered at its socket, where an operator's command is no request.
    assert_eq!(ask(GATEWAY_USER, "gateway.sock", "/v1/command", command), "422");
    let closed = r#"{"sessions":[]}"#;
    assert_eq!(ask(GATEWAY_USER, "gateway.sock", "/v1/closed", closed), "200");
    // Each path of a table is there (a request that makes no sense is 422), and no other one.
    for path in GATEWAY_CALLS.iter().chain([&EVENTS_PATH]) {
        assert_eq!(ask(0, "gateway.sock", path, "{}"), "422", "{path}");
        if !ADMIN_CALLS.contains(path) {
            assert_eq!(ask(0, "admin.sock", path, "{}"), "404", "{path}");
        }
    }
    for path in ["/", "/v1", "/v1/health", "/v1/command/", "/v2/command"] {
        assert_eq!(ask(0, "gateway.sock", path, "{}"), "404", "{path}");
    }
    let huge = format!(r#"{{"words":["{}"]}}"#, "x".repeat(100_000));
    assert_eq!(ask(0, "admin.sock", "/v1/command", &huge), "200");
}
