//! The real authority as a process of its own, on a state directory of its own, and what is asked of it.

use base64::{Engine, engine::general_purpose::STANDARD};
use certgate::{
    api::client::{AdminClient, GatewayClient},
    app::{
        authority::{Authority as _, Console},
        protocol::{
            AdminCommand, Authenticate, AuthenticateAnswer, AuthenticateRequest, Call, CommandAnswer, CommandRequest,
            Credential, Output, Presented, RunCommand,
        },
    },
    domain::PublicKey,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A running authority, ended with this.
pub struct Authority {
    child: Child,
    /// From exec to the first answer at the socket.
    pub started_in: Duration,
    /// Sockets have short paths; they need no disk.
    sockets: TempDir,
}

impl Authority {
    /// Starts one on a state directory, and waits until its socket answers.
    pub fn start(state: &Path) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let at = sockets.path().display();
        let config = format!(
            "state_dir = \"{}\"\nadmin_socket = \"{at}/admin.sock\"\ngateway_socket = \"{at}/gateway.sock\"\n\
             node_networks = [\"10.0.0.0/8\", \"127.0.0.0/8\"]\n\
             [bastion]\nhost = \"bastion.example.com\"\n",
            state.display()
        );
        fs::write(sockets.path().join("authority.toml"), config).unwrap();
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_certgated"))
            .args(["authority", "--config"])
            .arg(sockets.path().join("authority.toml"))
            // What it logs for each request goes where journald would take it: elsewhere.
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(sockets.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        while !healthy(&sockets.path().join("admin.sock")) {
            if child.try_wait().unwrap().is_some() {
                panic!("the authority has ended: {}", fs::read_to_string(sockets.path().join("log")).unwrap());
            }
            assert!(begun.elapsed() < Duration::from_secs(600), "the authority does not start");
            sleep(Duration::from_millis(1));
        }
        Self { child, started_in: begun.elapsed(), sockets }
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a gateway asks.
    pub fn gateway(&self) -> GatewayClient {
        GatewayClient::new(self.path("gateway.sock"))
    }

    /// Runs an operator's command, which must succeed.
    pub async fn operator(&self, words: &[&str]) -> String {
        self.operator_with(words, Vec::new()).await
    }

    /// The same with what it will ask for.
    pub async fn operator_with(&self, words: &[&str], inputs: Vec<String>) -> String {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let command = AdminCommand { words, terminal: None, inputs, context: None };
        succeeded(AdminClient::new(self.path("admin.sock")).run(&command).await.unwrap()).stdout
    }

    /// One of its sockets.
    pub fn path(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the socket answers.
fn healthy(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

fn succeeded(answer: CommandAnswer) -> Output {
    match answer {
        CommandAnswer::Output(output) if output.exit == 0 => output,
        other => panic!("it should have succeeded: {other:?}"),
    }
}

/// Where people come from.
pub const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// As whom a connection with a key is authenticated.
pub async fn authenticate(gateway: &GatewayClient, key: &PublicKey) -> Credential {
    let presented = Presented::Key(STANDARD.encode(key.to_wire()));
    let request = AuthenticateRequest { connection: "bench".into(), peer: PEER, presented, joining: false };
    match gateway.call::<Authenticate>(request).await.unwrap() {
        AuthenticateAnswer::Account { credential, .. } => credential,
        other => panic!("not an account: {other:?}"),
    }
}

/// Runs an account's command as a gateway hands it over; it must succeed.
pub async fn run(gateway: &GatewayClient, credential: &Credential, line: &str) -> Output {
    succeeded(gateway.call::<RunCommand>(command(credential, line)).await.unwrap())
}

fn command(credential: &Credential, line: &str) -> CommandRequest {
    CommandRequest {
        connection: "0123456789abcdef".into(),
        peer: PEER,
        credential: credential.clone(),
        line: line.to_owned(),
        terminal: None,
        inputs: Vec::new(),
        context: None,
    }
}

/// Asks one thing again and again, on a connection of its own, with a request that was made beforehand: what it costs to
/// ask should not be taken for the authority's.
pub struct Caller {
    connection: BufReader<UnixStream>,
    request: Vec<u8>,
}

impl Caller {
    /// For an account's command, as a gateway hands it over.
    pub fn new(authority: &Authority, credential: &Credential, line: &str) -> Self {
        let body = serde_json::to_vec(&command(credential, line)).unwrap();
        let mut request = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            RunCommand::PATH,
            body.len()
        )
        .into_bytes();
        request.extend(body);
        let connection = UnixStream::connect(authority.path("gateway.sock")).unwrap();
        Self { connection: BufReader::new(connection), request }
    }

    /// The answer; it must succeed.
    pub fn ask(&mut self) -> Output {
        self.connection.get_mut().write_all(&self.request).unwrap();
        let (mut length, mut line) = (None, String::new());
        for number in 0.. {
            line.clear();
            self.connection.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                None if number == 0 => assert!(line.starts_with("HTTP/1.1 200 "), "{line}"),
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok(),
                Some(_) => {}
            }
        }
        let mut body = vec![0; length.unwrap()];
        self.connection.read_exact(&mut body).unwrap();
        succeeded(serde_json::from_slice(&body).unwrap())
    }
}
