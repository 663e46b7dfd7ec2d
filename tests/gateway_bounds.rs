//! What bounds the gateway keeps towards those who behave badly or not at all: penalties, connections of an account,
//! silence, load balancers; and what it tells monitoring of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::app::protocol::Event;
use gateway_support::{Running, keygen, start, start_with, text, until};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Output,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    process::{Child, ChildStdin, ChildStdout},
    sync::Notify,
    time::{sleep, timeout},
};

/// What comes back for a GET: status line and body.
async fn get(address: SocketAddr, path: &'static str) -> (String, String) {
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The value of a metric, labels included in its name.
async fn metric(gateway: &Running, name: &str) -> f64 {
    let (status, text) = get(gateway.monitor, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

/// What a connection from `from` is told first, having sent `first`.
async fn greeted(gateway: &Running, from: Ipv4Addr, first: &'static [u8]) -> String {
    let address = gateway.address;
    let told = tokio::task::spawn_blocking(move || {
        let mut stream = connect_from(from, address);
        stream.write_all(first).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut told = [0; 64];
        // Reset: it was refused with something of ours unread.
        let count = stream.read(&mut told).unwrap_or(0);
        String::from_utf8_lossy(&told[..count]).into_owned()
    });
    told.await.unwrap()
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    connect(&socket, &to).unwrap();
    TcpStream::from(socket)
}

/// A node that says back what it hears.
async fn echo(gateway: &Running) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    *gateway.fake.target.lock().unwrap() = Some(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
}

/// `ssh -W` to a node.
struct Forward {
    ssh: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Forward {
    fn open(gateway: &Running) -> Self {
        let key = gateway.dir.path().join("id");
        let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-W", "login-0.h100.acme:22", "127.0.0.1"]);
        let mut ssh = ssh.stdin(std::process::Stdio::piped()).spawn().unwrap();
        Self { to: ssh.stdin.take().unwrap(), from: ssh.stdout.take().unwrap(), ssh }
    }

    async fn says(&mut self, word: &[u8]) {
        let mut heard = vec![0; word.len()];
        self.to.write_all(word).await.unwrap();
        timeout(Duration::from_secs(30), self.from.read_exact(&mut heard)).await.expect("an echo").unwrap();
        assert_eq!(heard, word);
    }

    /// What ssh says at its end.
    async fn end(mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.ssh.stderr.take().unwrap();
        timeout(Duration::from_secs(30), stderr.read_to_string(&mut said)).await.expect("ssh ends").unwrap();
        said
    }
}

/// `ssh` with these keys of the directory.
async fn with_keys(gateway: &Running, keys: &[&str], more: &[&str]) -> Output {
    let keys: Vec<String> = keys.iter().map(|key| gateway.dir.path().join(key).display().to_string()).collect();
    let keys = keys.iter().flat_map(|key| ["-i", key.as_str()]);
    let arguments: Vec<&str> = keys.chain(more.iter().copied()).chain(["127.0.0.1", "whoami"]).collect();
    timeout(Duration::from_secs(30), gateway.ssh(&arguments).output()).await.expect("ssh ends").unwrap()
}

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 71);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 72);

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fails_again_and_again_is_refused_and_others_are_not() {
    let gateway = start_with(|config| {
        config.penalties.enabled = true;
        config.penalties.exempt = Some("127.0.0.1,127.0.0.73".parse().unwrap());
        // The probes below are none.
        config.penalties.no_auth = Duration::ZERO;
    })
    .await;
    keygen(gateway.dir.path(), "stranger", "ed25519");
    // 5 s each, of which a part has passed when the fourth comes: more than 15 s.
    for _ in 0..4 {
        let refused = with_keys(&gateway, &["stranger"], &["-b", "127.0.0.71"]).await;
        assert!(text(&refused.stderr).contains("Permission denied"), "{}", text(&refused.stderr));
    }
    // It is judged when its connection has ended, which is a moment after ssh has.
    let mut told = String::new();
    for _ in 0..200 {
        told = greeted(&gateway, ONE, b"SSH-2.0-x\r\n").await;
        if !told.starts_with("SSH-2.0") {
            break;
        }
    }
    assert_eq!(told, "Not allowed at this time\r\n");
    assert!(greeted(&gateway, OTHER, b"SSH-2.0-x\r\n").await.starts_with("SSH-2.0-certgate"));
    for _ in 0..10 {
        let refused = with_keys(&gateway, &["stranger"], &["-b", "127.0.0.73"]).await;
        assert!(text(&refused.stderr).contains("Permission denied"), "the exempt are never punished");
    }
    assert_eq!(metric(&gateway, "certgate_gateway_penalised_addresses").await, 1.0);
    assert!(metric(&gateway, "certgate_gateway_refused_total{bound=\"penalty\"}").await >= 1.0);
    // Two attempts of OpenSSH each, of which one is `none`.
    assert!(metric(&gateway, "certgate_gateway_logins_total{method=\"key\",outcome=\"refused\"}").await >= 14.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_in_is_not_punished_for_keys_that_did_not_fit() {
    let gateway = start_with(|config| config.penalties.enabled = true).await;
    keygen(gateway.dir.path(), "stranger", "ed25519");
    for _ in 0..6 {
        let output = with_keys(&gateway, &["stranger", "id"], &[]).await;
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    }
    assert_eq!(metric(&gateway, "certgate_gateway_penalised_addresses").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_only_so_many_connections() {
    let gateway = start(|limits| limits.connections_per_account = 1).await;
    echo(&gateway).await;
    let mut first = Forward::open(&gateway);
    first.says(b"in").await;
    let second = gateway.run(&["127.0.0.1", "whoami"]).await;
    let said = text(&second.stderr);
    assert!(said.contains("1 connections of this account are open; close some, then try again"), "{said}");
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"connections_per_account\"}").await, 1.0);
    drop(first);
    let mut code = None;
    for _ in 0..100 {
        code = gateway.run(&["127.0.0.1", "whoami"]).await.status.code();
        if code == Some(3) {
            break;
        }
    }
    assert_eq!(code, Some(3), "the place is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_only_so_many_forwards_on_all_of_its_connections() {
    let gateway = start(|limits| limits.forwards_per_account = 2).await;
    echo(&gateway).await;
    let (mut first, mut second) = (Forward::open(&gateway), Forward::open(&gateway));
    first.says(b"in").await;
    second.says(b"in").await;
    let third = gateway.run(&["-W", "login-0.h100.acme:22", "127.0.0.1"]).await;
    let said = text(&third.stderr);
    assert!(said.contains("2 forwards of this account are open; close some, then try again"), "{said}");
    assert_eq!(gateway.fake.opened.lock().unwrap().len(), 2, "the authority is not asked");
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"forwards_per_account\"}").await, 1.0);
    assert_eq!(gateway.run(&["127.0.0.1", "whoami"]).await.status.code(), Some(3), "commands are none");
    drop(first);
    until("one has ended", || !gateway.fake.closed.lock().unwrap().is_empty()).await;
    let mut said = String::new();
    for _ in 0..100 {
        let mut again = Forward::open(&gateway);
        if again.to.write_all(b"in").await.is_ok()
            && timeout(Duration::from_secs(30), again.from.read_exact(&mut [0; 2])).await.unwrap().is_ok()
        {
            second.says(b"still in").await;
            return;
        }
        said = again.end().await;
    }
    panic!("the place is not given back: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_connection_unless_it_carries_a_forward() {
    let gateway = start(|limits| limits.idle_timeout = Some(Duration::from_millis(500))).await;
    echo(&gateway).await;
    let mut forward = Forward::open(&gateway);
    let master = gateway.run(&["-N", "127.0.0.1"]).await;
    let said = text(&master.stderr);
    assert!(said.contains("nothing was said for 0 s; connect again"), "{said}");
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"idle\"}").await, 1.0);
    forward.says(b"still here").await;
    assert_eq!(metric(&gateway, "certgate_gateway_open_sessions{project=\"acme/ml-training\"}").await, 1.0);

    // With a limit of its own it ends as well.
    let gateway = start(|limits| limits.idle_forward_timeout = Some(Duration::from_millis(500))).await;
    echo(&gateway).await;
    let said = {
        let mut forward = Forward::open(&gateway);
        forward.says(b"first").await;
        forward.end().await
    };
    assert!(said.contains("nothing was said"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_runs_is_not_idle() {
    let gateway = start(|limits| limits.idle_timeout = Some(Duration::from_millis(500))).await;
    let hold = Arc::new(Notify::new());
    *gateway.fake.hold_command.lock().unwrap() = Some(hold.clone());
    let answer = async {
        until("the authority is asked", || !gateway.fake.commands.lock().unwrap().is_empty()).await;
        // `--wait` waits for nodes.
        sleep(Duration::from_secs(2)).await;
        hold.notify_one();
    };
    let (output, ()) = tokio::join!(gateway.run(&["127.0.0.1", "status", "--wait"]), answer);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"idle\"}").await, 0.0);
}

/// It looks whether somebody is there, and says who it speaks for or that it speaks for itself. Punished, it would take
/// everybody along who comes through it.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_never_punished_but_those_are_who_come_through_it() {
    let gateway = start_with(|config| {
        config.proxy_protocol_from = Some("127.0.0.71".parse().unwrap());
        config.penalties.enabled = true;
        // Once is enough.
        config.penalties.no_auth = Duration::from_secs(60);
    })
    .await;
    const ITSELF: &[u8] = b"PROXY UNKNOWN\r\nSSH-2.0-x\r\n";
    const SOMEBODY: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 22\r\nSSH-2.0-x\r\n";
    for _ in 0..10 {
        assert!(greeted(&gateway, ONE, ITSELF).await.starts_with("SSH-2.0-certgate"));
    }
    assert!(greeted(&gateway, ONE, SOMEBODY).await.starts_with("SSH-2.0-certgate"));
    // It is judged when its connection has ended.
    let mut told = String::new();
    for _ in 0..200 {
        told = greeted(&gateway, ONE, SOMEBODY).await;
        if told.starts_with("Not allowed") {
            break;
        }
    }
    assert_eq!(told, "Not allowed at this time\r\n");
    assert!(greeted(&gateway, ONE, ITSELF).await.starts_with("SSH-2.0-certgate"));
    assert_eq!(metric(&gateway, "certgate_gateway_penalised_addresses").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_is_believed_from_those_who_are_listed_and_needed_from_them() {
    let gateway = start_with(|config| {
        config.proxy_protocol_from = Some("127.0.0.71".parse().unwrap());
        config.penalties.enabled = true;
        config.limits.unauthenticated_per_address = 2;
    })
    .await;
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 22\r\nSSH-2.0-x\r\n";
    assert!(greeted(&gateway, ONE, HEADER).await.starts_with("SSH-2.0-certgate"));
    // From somebody else it is no version string: that is the end, where SSH would wait for more.
    let address = gateway.address;
    let ended = tokio::task::spawn_blocking(move || {
        let mut stream = connect_from(OTHER, address);
        stream.write_all(HEADER).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Reset, with something of ours unread, or closed; not a time that is over.
        let ended = stream.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        ended.map_or_else(|kind| kind == std::io::ErrorKind::ConnectionReset, |_| true)
    });
    assert!(ended.await.unwrap(), "it was believed, or is waited for");
    assert_eq!(greeted(&gateway, ONE, b"SSH-2.0-x\r\n").await, "", "without a header");
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"proxy_header\"}").await, 1.0);

    // Who is refused is the one whose connection it is, not the load balancer.
    let hold = |count: usize| {
        let address = gateway.address;
        (0..count)
            .map(move |_| {
                let mut stream = connect_from(ONE, address);
                stream.write_all(HEADER).unwrap();
                stream
            })
            .collect::<Vec<_>>()
    };
    let held = hold(2);
    let mut told = String::new();
    for _ in 0..100 {
        told = greeted(&gateway, ONE, HEADER).await;
        if told.starts_with("Not allowed") {
            break;
        }
    }
    assert_eq!(told, "Not allowed at this time\r\n");
    const ANOTHER: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 22\r\nSSH-2.0-x\r\n";
    assert!(greeted(&gateway, ONE, ANOTHER).await.starts_with("SSH-2.0-certgate"));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_the_header_is_the_one_that_the_authority_hears() {
    let gateway = start_with(|config| config.proxy_protocol_from = Some("127.0.0.71".parse().unwrap())).await;
    // A load balancer of our own: it says whose connection it is, then copies.
    let balancer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (balancer.local_addr().unwrap().port(), gateway.address);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = balancer.accept().await {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((ONE, 0).into()).unwrap();
            let mut server = socket.connect(to).await.unwrap();
            server.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 22\r\n").await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let output = {
        let key = gateway.dir.path().join("id");
        let mut ssh = gateway.ssh_at(port, &["-i", key.to_str().unwrap(), "127.0.0.1", "whoami"]);
        ssh.output().await.unwrap()
    };
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let heard: Vec<String> =
        gateway.fake.commands.lock().unwrap().iter().map(|request| request.peer.to_string()).collect();
    assert_eq!(heard, ["192.0.2.7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_hears_what_is_up_and_what_happened() {
    let gateway = start(|_| {}).await;
    assert_eq!(get(gateway.monitor, "/health").await, ("HTTP/1.1 200 OK".into(), "running\n".into()));
    until("the event stream is open", || gateway.fake.events.lock().unwrap().is_some()).await;
    gateway.fake.send(Event::Ready);
    let mut ready = String::new();
    for _ in 0..100 {
        ready = get(gateway.monitor, "/ready").await.1;
        if ready == "ready\n" {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ready, "ready\n");
    assert_eq!(get(gateway.monitor, "/else").await.0, "HTTP/1.1 404 Not Found");
    gateway.run(&["127.0.0.1", "whoami"]).await;
    assert_eq!(metric(&gateway, "certgate_gateway_authority_up").await, 1.0);
    assert_eq!(metric(&gateway, "certgate_gateway_logins_total{method=\"key\",outcome=\"accepted\"}").await, 1.0);
    let answers = "certgate_gateway_authority_answer_seconds_count{call=\"/v1/command\"}";
    assert_eq!(metric(&gateway, answers).await, 1.0);
    let refused = gateway.run(&["-W", "login-0.h100.acme:22", "127.0.0.1"]).await;
    assert!(!refused.status.success());
    let decided = "certgate_gateway_decisions_total{question=\"open\",reason=\"removed\"}";
    assert_eq!(metric(&gateway, decided).await, 1.0);
    *gateway.fake.down.lock().unwrap() = true;
    *gateway.fake.events.lock().unwrap() = None;
    let mut told = (String::new(), String::new());
    for _ in 0..100 {
        told = get(gateway.monitor, "/ready").await;
        if told.0.contains("503") {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told, ("HTTP/1.1 503 Service Unavailable".into(), "the authority cannot be reached\n".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_takes_nobody_and_ends_when_the_last_forward_has() {
    let mut gateway = start(|_| {}).await;
    echo(&gateway).await;
    let mut forward = Forward::open(&gateway);
    forward.says(b"before").await;
    let mut doomed = Forward::open(&gateway);
    doomed.says(b"before").await;
    gateway.stop.drain.cancel();
    until("nobody listens", || TcpStream::connect(gateway.address).is_err()).await;
    forward.says(b"meanwhile").await;
    // It still obeys.
    let session = gateway.fake.opened.lock().unwrap()[1].clone();
    gateway.fake.send(Event::End { session, reason: "removed from acme/ml-training".into() });
    let said = doomed.end().await;
    assert!(said.contains("removed from acme/ml-training"), "{said}");
    forward.says(b"after").await;
    assert!(!gateway.served.is_finished());
    drop(forward);
    timeout(Duration::from_secs(20), &mut gateway.served).await.unwrap().unwrap();
}

/// A client of russh's that has not authenticated.
async fn client(gateway: &Running) -> russh::client::Handle<Anyone> {
    let config = Arc::new(russh::client::Config::default());
    russh::client::connect(config, gateway.address, Anyone).await.unwrap()
}

struct Anyone;

impl russh::client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

fn key(path: &std::path::Path) -> russh::keys::PrivateKeyWithHashAlg {
    russh::keys::PrivateKeyWithHashAlg::new(Arc::new(russh::keys::load_secret_key(path, None).unwrap()), None)
}

/// A passphrase takes its time, and so does a touch. What drains asks for the login, and then for something to be opened.
#[tokio::test(flavor = "multi_thread")]
async fn who_logs_in_slowly_while_the_gateway_drains_is_not_sent_away_as_silent() {
    let gateway = start(|_| {}).await;
    let mut client = client(&gateway).await;
    gateway.stop.drain.cancel();
    // Longer than a connection with nothing open may be silent then.
    sleep(Duration::from_secs(8)).await;
    assert!(client.authenticate_publickey("user1", key(&gateway.dir.path().join("id"))).await.unwrap().success());
    // Silence is counted from the login on.
    sleep(Duration::from_secs(2)).await;
    let mut channel = client.channel_open_session().await.unwrap();
    channel.exec(true, "whoami").await.unwrap();
    let exit = async {
        while let Some(message) = channel.wait().await {
            if let russh::ChannelMsg::ExitStatus { exit_status } = message {
                return Some(exit_status);
            }
        }
        None
    };
    assert_eq!(timeout(Duration::from_secs(30), exit).await.unwrap(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_has_an_end() {
    let mut gateway = start(|limits| limits.drain = Duration::from_millis(300)).await;
    echo(&gateway).await;
    let mut forward = Forward::open(&gateway);
    forward.says(b"before").await;
    gateway.stop.drain.cancel();
    let said = forward.end().await;
    assert!(said.contains("the gateway is being restarted; connect again"), "{said}");
    timeout(Duration::from_secs(20), &mut gateway.served).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_to_the_gateway_itself_is_refused_with_a_word() {
    let gateway = start(|_| {}).await;
    let output = gateway.run(&["-R", "0:localhost:9", "127.0.0.1", "whoami"]).await;
    let said = text(&output.stderr);
    assert!(said.contains("-R was refused: the gateway listens for nobody"), "{said}");
    assert_eq!(output.status.code(), Some(3), "the command runs");
    let output = gateway.run(&["127.0.0.1", "whoami"]).await;
    assert!(!text(&output.stderr).contains("-R was refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_who_have_not_authenticated_the_oldest_make_room_for_those_who_do() {
    let gateway = start(|limits| limits.unauthenticated = 3).await;
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from(ONE, gateway.address);
        stream.write_all(b"SSH-2.0-x\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It is in when it is spoken to.
        let mut told = [0; 16];
        stream.read_exact(&mut told).unwrap();
        silent.push(stream);
    }
    let output = gateway.run(&["127.0.0.1", "whoami"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let mut first = silent.remove(0);
    let ended = tokio::task::spawn_blocking(move || first.read_to_end(&mut Vec::new()).is_ok());
    assert!(ended.await.unwrap(), "the oldest has made room");
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"unauthenticated\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_nobody_yet_has_few_channels() {
    let gateway = start(|_| {}).await;
    let mut client = client(&gateway).await;
    let key = key(&keygen(gateway.dir.path(), "anybody", "ed25519"));
    assert!(client.authenticate_publickey("certgate-join", key).await.unwrap().success());
    for _ in 0..4 {
        client.channel_open_session().await.unwrap();
    }
    assert!(client.channel_open_session().await.is_err());
    assert_eq!(metric(&gateway, "certgate_gateway_refused_total{bound=\"channels\"}").await, 1.0);
}
