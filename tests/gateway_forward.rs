//! Forwards, and the end of them: nothing a peer does or leaves undone keeps a forward open that was ended.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::{app::protocol::Event, domain::SessionId};
use gateway_support::{Running, start, text, until};
use russh::{ChannelMsg, client, keys::PrivateKeyWithHashAlg};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const REASON: &str = "removed from acme/ml-training at 12:03 UTC by admin1@acme.example";

const WARNING: &str =
    "removed from acme/ml-training at 12:03 UTC by admin1@acme.example; what you have open there ends at 12:13 UTC";

/// A node that gives its connections to the test.
async fn node(gateway: &Running) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    *gateway.fake.target.lock().unwrap() = Some(listener.local_addr().unwrap());
    listener
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// The node's side of a connection has ended, whether by FIN or by RST.
async fn ended(node: &mut TcpStream) {
    let mut buffer = vec![0; 65536];
    within("the node's connection ends", async { while node.read(&mut buffer).await.is_ok_and(|n| n > 0) {} }).await;
}

struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// A connection by russh's client through a relay, which can be told to stop reading from the gateway.
async fn client(gateway: &Running) -> (client::Handle<Anyone>, Arc<AtomicBool>) {
    client_with_window(gateway, 64 * 1024 * 1024).await
}

async fn client_with_window(gateway: &Running, window_size: u32) -> (client::Handle<Anyone>, Arc<AtomicBool>) {
    let stalled = Arc::new(AtomicBool::new(false));
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to, stop) = (relay.local_addr().unwrap(), gateway.address, stalled.clone());
    tokio::spawn(async move { carry(relay, to, stop).await });
    let config = Arc::new(client::Config { window_size, ..client::Config::default() });
    let mut handle = client::connect(config, address, Anyone).await.unwrap();
    let key = russh::keys::load_secret_key(gateway.dir.path().join("id"), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(handle.authenticate_publickey("user1", key).await.unwrap().success());
    (handle, stalled)
}

async fn carry(relay: TcpListener, to: SocketAddr, stalled: Arc<AtomicBool>) {
    let (client, _) = relay.accept().await.unwrap();
    let gateway = TcpStream::connect(to).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) =
        (client.into_split(), gateway.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_gateway).await });
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while stalled.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match from_gateway.read(&mut buffer).await {
            Ok(n) if n > 0 && to_client.write_all(&buffer[..n]).await.is_ok() => {}
            _ => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_pass_both_ways_with_their_tails() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let (up, down) = (bytes(7_000_001), bytes(9_000_003));
    let expected = Sha256::digest(&up);
    let back = down.clone();
    let served = tokio::spawn(async move {
        let (mut node, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        node.read_to_end(&mut all).await.unwrap();
        // The answer begins after the client's end of file: half-close works both ways.
        node.write_all(&back).await.unwrap();
        Sha256::digest(&all)
    });
    let file = gateway.dir.path().join("up");
    std::fs::write(&file, &up).unwrap();
    let key = gateway.dir.path().join("id");
    let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-W", "login-0.h100.acme:22", "127.0.0.1"]);
    let output = within("ssh -W ends", ssh.stdin(std::fs::File::open(file).unwrap()).output()).await.unwrap();
    assert_eq!(served.await.unwrap(), expected);
    assert!(output.stdout == down, "{} of {} bytes; {}", output.stdout.len(), down.len(), text(&output.stderr));
    until("it is reported", || {
        let closed = gateway.fake.closed.lock().unwrap();
        closed.len() == 1 && (closed[0].up, closed[0].down) == (7_000_001, 9_000_003)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_why() {
    let gateway = start(|_| {}).await;
    let output = gateway.run(&["-W", "login-0.h100.acme:22", "127.0.0.1"]).await;
    assert!(text(&output.stderr).contains("removed from acme/ml-training at 12:03 UTC"), "{}", text(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_is_told_why_its_connection_ends() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let key = gateway.dir.path().join("id");
    let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-W", "login-0.h100.acme:22", "127.0.0.1"]);
    let ssh = ssh.stdin(Stdio::piped()).spawn().unwrap();
    let (mut node, _) = within("the node is dialled", listener.accept()).await.unwrap();
    let session = gateway.fake.opened.lock().unwrap()[0].clone();
    gateway.fake.send(Event::End { session, reason: REASON.into() });
    ended(&mut node).await;
    let output = within("ssh ends", ssh.wait_with_output()).await.unwrap();
    assert!(text(&output.stderr).contains(REASON), "{}", text(&output.stderr));
}

/// `ssh -W` leaves when its channel closes, and would miss the reason.
#[tokio::test(flavor = "multi_thread")]
async fn the_channel_of_a_connection_that_ends_is_not_closed_before_the_reason_is_sent() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    // More than once: what is looked for was a race.
    for round in 0..20 {
        let (client, _) = client(&gateway).await;
        let mut channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
        let (mut node, _) = within("the node is dialled", listener.accept()).await.unwrap();
        let session = gateway.fake.opened.lock().unwrap()[round].clone();
        gateway.fake.send(Event::End { session, reason: REASON.into() });
        ended(&mut node).await;
        let last = within("the connection ends", channel.wait()).await;
        assert!(last.is_none(), "round {round}: {last:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_stopped_reading_is_ended_all_the_same() {
    stalled_client_is_ended(|gateway, session| gateway.fake.send(Event::End { session, reason: REASON.into() })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_stopped_reading_is_ended_when_its_time_is_over_though_the_authority_is_away() {
    stalled_client_is_ended(|gateway, session| {
        gateway.fake.send(leave(session, 100));
        leave_alone(gateway);
    })
    .await;
}

/// It may stay for so many milliseconds.
fn leave(session: SessionId, left: u64) -> Event {
    Event::Leave { session, left, warning: WARNING.into(), reason: REASON.into() }
}

/// The authority is gone for good, once it has said what it had to say.
fn leave_alone(gateway: &Running) {
    *gateway.fake.down.lock().unwrap() = true;
    *gateway.fake.events.lock().unwrap() = None;
}

async fn goes_on(channel: &russh::Channel<client::Msg>, node: &mut TcpStream) {
    channel.data(&b"on"[..]).await.unwrap();
    let mut two = [0; 2];
    within("it goes on", node.read_exact(&mut two)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_stay_for_a_while_stays_so_long_and_ends_by_itself() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let key = gateway.dir.path().join("id");
    let mut ssh = gateway.ssh(&["-i", key.to_str().unwrap(), "-W", "login-0.h100.acme:22", "127.0.0.1"]);
    let mut ssh = ssh.stdin(Stdio::piped()).spawn().unwrap();
    let (mut hers, _) = within("the node is dialled", listener.accept()).await.unwrap();
    let (client, _) = client(&gateway).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
        let (node, _) = within("the node is dialled", listener.accept()).await.unwrap();
        open.push((channel, node));
    }
    let sessions = gateway.fake.opened.lock().unwrap().clone();
    for session in &sessions {
        gateway.fake.send(leave(session.clone(), 3_600_000));
    }
    let hello_says = |expected: &'static [bool]| {
        *gateway.fake.events.lock().unwrap() = None;
        let (count, fake) = (gateway.fake.hellos.lock().unwrap().len(), &gateway.fake);
        let (sessions, expected) = (sessions.clone(), expected.to_vec());
        async move {
            until("another hello", || fake.hellos.lock().unwrap().len() > count).await;
            let told = fake.hellos.lock().unwrap().last().unwrap().sessions.clone();
            let leaves = |id: &SessionId| told.iter().find(|session| session.session == *id).unwrap().leaves;
            assert_eq!(sessions.iter().map(leaves).collect::<Vec<_>>(), expected);
        }
    };
    hello_says(&[true, true, true]).await;
    // One of them may stay after all; the others have less time than they had.
    gateway.fake.send(Event::Stay { session: sessions[1].clone() });
    for (channel, node) in &mut open {
        goes_on(channel, node).await;
    }
    hello_says(&[true, false, true]).await;
    for session in [&sessions[0], &sessions[2]] {
        gateway.fake.send(leave(session.clone(), 100));
    }
    leave_alone(&gateway);
    let (_, mut second) = open.pop().unwrap();
    ended(&mut hers).await;
    ended(&mut second).await;
    let (channel, mut node) = open.pop().unwrap();
    goes_on(&channel, &mut node).await;
    let status = within("ssh ends", ssh.wait()).await.unwrap();
    let mut said = String::new();
    ssh.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
    assert!(!status.success() && said.contains(REASON), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_stay_for_a_while_is_warned_at_the_terminal_of_a_command_or_with_the_next_one() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let open = async || {
        let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
        (channel, within("the node is dialled", listener.accept()).await.unwrap())
    };
    let _open = [open().await, open().await];
    let sessions = gateway.fake.opened.lock().unwrap().clone();
    let mut command = client.channel_open_session().await.unwrap();
    command.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await.unwrap();
    command.exec(true, "ask").await.unwrap();
    let said = async |command: &mut russh::Channel<client::Msg>, until: &str| {
        let mut said = String::new();
        within(until, async {
            while !said.ends_with(until) {
                match command.wait().await.unwrap() {
                    ChannelMsg::ExtendedData { data, ext: 1 } => said.push_str(&text(&data)),
                    ChannelMsg::Data { data } => said.push_str(&text(&data)),
                    _ => {}
                }
            }
        })
        .await;
        said
    };
    assert!(said(&mut command, "sure? ").await.ends_with("sure? "));
    for session in &sessions {
        gateway.fake.send(leave(session.clone(), 3_600_000));
    }
    // Once, though two forwards are concerned, and on a line of its own; the question can still be answered.
    assert_eq!(said(&mut command, &format!("{WARNING}\r\n")).await, format!("\r\n{WARNING}\r\n"));
    command.data(&b"yes\r"[..]).await.unwrap();
    let rest = said(&mut command, "a word\r\n").await;
    assert!(rest.contains("got yes") && !rest.contains(WARNING), "{rest:?}");
    // Where no command runs, the next one says it.
    let other = format!("{WARNING} at another time");
    let (session, reason) = (sessions[0].clone(), REASON.to_owned());
    gateway.fake.send(Event::Leave { session, left: 3_600_000, warning: other.clone(), reason });
    gateway.fake.send(Event::End { session: sessions[1].clone(), reason: REASON.into() });
    until("what was sent is seen to", || gateway.fake.closed.lock().unwrap().len() == 1).await;
    let mut next = client.channel_open_session().await.unwrap();
    next.exec(true, "x").await.unwrap();
    let all = said(&mut next, "a word\n").await;
    assert_eq!(all.matches(&format!("{other}\n")).count(), 1, "{all:?}");
}

async fn stalled_client_is_ended(order: impl FnOnce(&Running, SessionId)) {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let (client, stalled) = client(&gateway).await;
    let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (node, _) = listener.accept().await.unwrap();
    stalled.store(true, Ordering::SeqCst);
    let (mut from_gateway, mut to_gateway) = node.into_split();
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        let chunk = vec![7; 65536];
        while to_gateway.write_all(&chunk).await.is_ok() {
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
    });
    // Full: the window, the gateway's socket buffers, everything up to the node.
    let mut before = 0;
    within("the path is full", async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = written.load(Ordering::SeqCst);
            if now > 0 && now == before {
                return;
            }
            before = now;
        }
    })
    .await;
    let session = gateway.fake.opened.lock().unwrap()[0].clone();
    order(&gateway, session);
    let mut rest = Vec::new();
    // FIN or RST: either way it is over.
    let _ = within("the node's connection ends", from_gateway.read_to_end(&mut rest)).await;
    if !*gateway.fake.down.lock().unwrap() {
        until("it is reported", || gateway.fake.closed.lock().unwrap().len() == 1).await;
    }
    // It reads again, and finds that the connection has ended. A channel that is not taken from would stop it.
    drop(channel);
    stalled.store(false, Ordering::SeqCst);
    within("the client's connection ends", async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_read_stalls_only_itself_and_is_ended_all_the_same() {
    let gateway = start(|limits| limits.channel_buffer = 64 * 1024).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let stuck = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (stuck_node, _) = listener.accept().await.unwrap();
    let mut other = client.channel_open_direct_tcpip("login-1.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut other_node, _) = listener.accept().await.unwrap();
    let flood = tokio::spawn(async move {
        let chunk = vec![7; 65536];
        while stuck.data(&chunk[..]).await.is_ok() {}
    });
    // The stuck one overflows and is closed; the other goes on, both ways.
    until("the stuck forward is closed", || gateway.fake.closed.lock().unwrap().len() == 1).await;
    other.data(&b"ping"[..]).await.unwrap();
    let mut four = [0; 4];
    within("the other goes on", other_node.read_exact(&mut four)).await.unwrap();
    other_node.write_all(b"pong").await.unwrap();
    let answer = within("the other goes on", async {
        loop {
            match other.wait().await.unwrap() {
                ChannelMsg::Data { data } => return data,
                _ => continue,
            }
        }
    })
    .await;
    assert_eq!((&four[..], &answer[..]), (&b"ping"[..], &b"pong"[..]));
    flood.abort();
    drop(stuck_node);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_forward_to_a_node_that_does_not_read_is_ended_all_the_same() {
    let gateway = start(|limits| limits.channel_buffer = 64 * 1024).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut node, _) = listener.accept().await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    tokio::spawn(async move {
        let chunk = vec![7; 65536];
        while channel.data(&chunk[..]).await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut before = 0;
    within("the path is full", async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = sent.load(Ordering::SeqCst);
            if now > 0 && now == before {
                return;
            }
            before = now;
        }
    })
    .await;
    assert!(gateway.fake.closed.lock().unwrap().is_empty(), "alone, it only waits");
    let session = gateway.fake.opened.lock().unwrap()[0].clone();
    gateway.fake.send(Event::End { session, reason: REASON.into() });
    until("it is reported", || gateway.fake.closed.lock().unwrap().len() == 1).await;
    ended(&mut node).await;
    within("the client's connection ends", async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_forward_that_was_ended_ends_while_another_is_open() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let _first = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut first_node, _) = listener.accept().await.unwrap();
    let second = client.channel_open_direct_tcpip("login-1.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut second_node, _) = listener.accept().await.unwrap();
    let session = gateway.fake.opened.lock().unwrap()[0].clone();
    gateway.fake.send(Event::End { session, reason: REASON.into() });
    ended(&mut first_node).await;
    second.data(&b"on"[..]).await.unwrap();
    let mut two = [0; 2];
    within("the other goes on", second_node.read_exact(&mut two)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_before_the_answer_opens_nothing() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let hold = Arc::new(tokio::sync::Notify::new());
    *gateway.fake.hold_open.lock().unwrap() = Some(hold.clone());
    let (client, _) = client(&gateway).await;
    let opening = tokio::spawn(async move {
        let opened = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await;
        opened.map(drop)
    });
    until("the authority is asked", || gateway.fake.asked_to_open.load(Ordering::SeqCst) == 1).await;
    let session = gateway.fake.opened.lock().unwrap()[0].clone();
    gateway.fake.send(Event::End { session, reason: REASON.into() });
    until("the permit is void", || gateway.fake.closed.lock().unwrap().len() == 1).await;
    hold.notify_one();
    assert!(within("the opening fails", opening).await.unwrap().is_err());
    assert!(tokio::time::timeout(Duration::from_millis(300), listener.accept()).await.is_err(), "nothing was dialled");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_authority_what_is_open_ends_after_the_bound() {
    let gateway = start(|limits| limits.authority_lost_after = Duration::from_millis(800)).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let _channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut node, _) = listener.accept().await.unwrap();
    *gateway.fake.down.lock().unwrap() = true;
    *gateway.fake.events.lock().unwrap() = None;
    ended(&mut node).await;
    within("the client's connection ends", async {
        while !client.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_event_stream_begins_with_what_is_open() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let (client, _) = client(&gateway).await;
    let _channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let _node = listener.accept().await.unwrap();
    *gateway.fake.events.lock().unwrap() = None;
    until("the gateway is back", || gateway.fake.hellos.lock().unwrap().len() == 2).await;
    assert_eq!(gateway.fake.hellos.lock().unwrap()[1].sessions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_node_that_cannot_be_reached_is_passed_over_and_named_if_none_can() {
    let gateway = start(|_| {}).await;
    // Nobody listens there any more.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    *gateway.fake.login_nodes.lock().unwrap() = vec![closed, closed, listener.local_addr().unwrap()];
    let (client, _) = client(&gateway).await;
    let channel = client.channel_open_direct_tcpip("h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut reached, _) = within("the third", listener.accept()).await.unwrap();
    channel.data(&b"on"[..]).await.unwrap();
    let mut two = [0; 2];
    within("data", reached.read_exact(&mut two)).await.unwrap();
    let asked = gateway.fake.opened.lock().unwrap().clone();
    assert!(asked.len() == 3 && asked.iter().all(|session| *session == asked[0]), "one session: {asked:?}");
    // What it has open is the third.
    gateway.fake.hellos.lock().unwrap().clear();
    *gateway.fake.events.lock().unwrap() = None;
    until("another hello", || !gateway.fake.hellos.lock().unwrap().is_empty()).await;
    let told: Vec<u64> = gateway.fake.hellos.lock().unwrap()[0].sessions.iter().map(|open| open.node_id.0).collect();
    assert_eq!(told, [9]);

    *gateway.fake.login_nodes.lock().unwrap() = vec![closed, closed];
    let output = gateway.run(&["-W", "h100.acme:22", "127.0.0.1"]).await;
    let said = text(&output.stderr);
    assert!(
        said.contains("no login node of h100.acme can be reached: login-0.h100.acme cannot be reached: "),
        "{said}"
    );
    assert!(said.contains("; login-1.h100.acme cannot be reached: "), "{said}");
    // A node that was named is that one or none.
    let output = gateway.run(&["-W", "login-0.h100.acme:22", "127.0.0.1"]).await;
    let said = text(&output.stderr);
    assert!(said.contains("login-0.h100.acme cannot be reached") && !said.contains("login-1"), "{said}");
}

/// How many connections, and forwards on each.
const MANY: (usize, usize) = (20, 50);

/// Of a connection's forwards, how many lose their permit, the first ones first: all of one connection, some of five.
const DOOMED: [usize; 6] = [50, 10, 10, 10, 10, 10];

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_forwards_a_hundred_lose_their_permit_and_end_stalled_or_not_and_no_other() {
    let (connections, each) = MANY;
    let doomed = |connection: usize| DOOMED.get(connection).copied().unwrap_or(0);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
    let gateway = start(|limits| limits.channels = 100).await;
    let listener = node(&gateway).await;
    let mut open = Vec::new();
    for _ in 0..connections {
        let (client, stalled) = client(&gateway).await;
        let mut forwards = Vec::new();
        for _ in 0..each {
            let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
            let (node, _) = within("the node", listener.accept()).await.unwrap();
            forwards.push((channel, node));
        }
        open.push((client, stalled, forwards));
    }
    let sessions = gateway.fake.opened.lock().unwrap().clone();
    assert_eq!(sessions.len(), connections * each);
    // The first connection, which has nothing else, and the second, which keeps most of what it has, read nothing, and the
    // nodes of what ends there write all that they can.
    for (connection, (_, stalled, forwards)) in open.iter_mut().enumerate().take(2) {
        stalled.store(true, Ordering::SeqCst);
        for (_, node) in &mut forwards[..doomed(connection)] {
            let full = vec![7; 1 << 20];
            let _ = tokio::time::timeout(Duration::from_millis(20), node.write_all(&full)).await;
        }
    }
    let of = |connection: usize| &sessions[connection * each..][..doomed(connection)];
    let ending: Vec<SessionId> = (0..connections).flat_map(of).cloned().collect();
    assert_eq!(ending.len(), 100);
    for session in &ending {
        gateway.fake.send(Event::End { session: session.clone(), reason: REASON.into() });
    }
    for (connection, (_, _, forwards)) in open.iter_mut().enumerate() {
        for (_, node) in &mut forwards[..doomed(connection)] {
            ended(node).await;
        }
    }
    open[1].1.store(false, Ordering::SeqCst);
    for (connection, (client, _, forwards)) in open.iter_mut().enumerate() {
        for (channel, node) in &mut forwards[doomed(connection)..] {
            assert!(!client.is_closed(), "connection {connection} has others open");
            channel.data(&b"on"[..]).await.unwrap();
            let mut two = [0; 2];
            within("the others go on", node.read_exact(&mut two)).await.unwrap();
            assert_eq!(&two, b"on");
            node.write_all(b"and back").await.unwrap();
            let back = within("both ways", channel.wait()).await;
            assert!(matches!(&back, Some(ChannelMsg::Data { data }) if &data[..] == b"and back"), "{back:?}");
        }
    }
    until("these are reported", || gateway.fake.closed.lock().unwrap().len() >= 100).await;
    let reported: Vec<SessionId> = gateway.fake.closed.lock().unwrap().iter().map(|c| c.session.clone()).collect();
    assert!(reported.len() == 100 && reported.iter().all(|session| ending.contains(session)), "{reported:?}");
}

/// russh's client does not read while it cannot write, and neither does this node: between them, nothing may wait for
/// something else to be read first. It hangs where the gateway waits for the node, or for the client, before it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_do_not_read_while_they_cannot_write_do_not_wait_for_each_other() {
    const TOTAL: usize = 48 * 1024 * 1024;
    let gateway = start(|limits| limits.channel_buffer = 64 * 1024).await;
    let listener = node(&gateway).await;
    tokio::spawn(async move {
        let (mut node, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = node.read(&mut buffer).await
            && count > 0
            && node.write_all(&buffer[..count]).await.is_ok()
        {}
    });
    let (client, _) = client_with_window(&gateway, 1024 * 1024).await;
    let channel = client.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1).await.unwrap();
    let (mut read, write) = channel.split();
    let sent = bytes(TOTAL);
    let expected = Sha256::digest(&sent);
    let sending = tokio::spawn(async move {
        write.data(&sent[..]).await.unwrap();
        write.eof().await.unwrap();
    });
    let (mut got, mut count) = (Sha256::new(), 0);
    let reading = async {
        while let Some(message) = read.wait().await {
            if let ChannelMsg::Data { data } = message {
                got.update(&data);
                count += data.len();
            }
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert!(all.is_ok(), "stuck after {count} of {TOTAL} bytes");
    sending.await.unwrap();
    assert_eq!((count, got.finalize()), (TOTAL, expected));
}

/// The window that a peer is given last, of 16 MB that it sends; what it asks arrives after `away`, until its channel is open.
async fn last_window(gateway: &Running, listener: &TcpListener, away: Duration) -> u32 {
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to, far) = (relay.local_addr().unwrap(), gateway.address, Arc::new(AtomicBool::new(true)));
    let is_far = far.clone();
    tokio::spawn(async move {
        let (client, _) = relay.accept().await.unwrap();
        let (mut from_gateway, mut to_gateway) = TcpStream::connect(to).await.unwrap().into_split();
        let (mut from_client, mut to_client) = client.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_gateway, &mut to_client).await });
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = from_client.read(&mut buffer).await
            && count > 0
        {
            if is_far.load(Ordering::SeqCst) {
                tokio::time::sleep(away).await;
            }
            if to_gateway.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut handle = client::connect(Arc::default(), address, Anyone).await.unwrap();
    let key = russh::keys::load_secret_key(gateway.dir.path().join("id"), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(handle.authenticate_publickey("user1", key).await.unwrap().success());
    let opening = handle.channel_open_direct_tcpip("login-0.h100.acme", 22, "127.0.0.1", 1);
    let (channel, node) = tokio::join!(opening, listener.accept());
    far.store(false, Ordering::SeqCst);
    let (mut node, _) = node.unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut node, &mut tokio::io::sink()).await });
    let (mut read, write) = channel.unwrap().split();
    tokio::spawn(async move {
        write.data(&vec![0; 16 * 1024 * 1024][..]).await.unwrap();
        write.eof().await.unwrap();
    });
    let mut last = 0;
    while let Some(message) = within("the node takes all", read.wait()).await {
        if let ChannelMsg::WindowAdjusted { new_size } = message {
            last = new_size;
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_near_may_send_little_at_once_and_who_is_far_away_much() {
    let gateway = start(|_| {}).await;
    let listener = node(&gateway).await;
    let much = last_window(&gateway, &listener, Duration::from_millis(100)).await;
    assert!(much > 4 * 1024 * 1024, "{much}");
    // A machine that is busy may let a peer look far away, but not each time.
    for _ in 0..50 {
        let little = last_window(&gateway, &listener, Duration::ZERO).await;
        if little > 0 && little <= 1024 * 1024 {
            return;
        }
    }
    panic!("nobody is ever near");
}
