//! Nodes that are reached through their agents: the real gateway and the agent's real connection, with a server in the
//! place of sshd that does as the test says.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod gateway_support;

use certgate::{
    app::protocol::{Event, FromNode, NodeIdentity, Reach},
    domain::{Fingerprint, NodeId, SessionId},
    node::link::{HostKey, Link},
};
use gateway_support::{Running, keygen, start, text, until, wire};
use russh::{
    Channel, ChannelMsg, ChannelOpenFailure,
    client::{self, Handle, Msg},
    keys::PrivateKeyWithHashAlg,
    server,
};
use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

const NODE: &str = "login-0.h100.acme";
/// What goes each way on one of many connections that are busy in both: 6,000 times 64 KiB.
const BOTH: usize = 6000 * 64 * 1024;
const REMOVED: &str = "removed from acme/ml-training at 12:03 UTC by admin1@acme.example";

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// In the place of sshd. What a connection does is its first byte: `e` gives everything back, `s` reads nothing more
/// until the test says so, `f` sends for ever, `b` reads to the end and sends [`BOTH`] bytes, at the same time, as sshd would.
struct Node {
    address: SocketAddr,
    go_on: Arc<Notify>,
    open: Arc<AtomicUsize>,
    flooded: Arc<AtomicUsize>,
}

impl Node {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
        let node = Self {
            address: listener.local_addr().unwrap(),
            go_on: Arc::default(),
            open: Arc::default(),
            flooded: Arc::default(),
        };
        let (go_on, open, flooded) = (node.go_on.clone(), node.open.clone(), node.flooded.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (go_on, open, flooded) = (go_on.clone(), open.clone(), flooded.clone());
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    serve(stream, &go_on, &flooded).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        node
    }
}

async fn serve(mut stream: TcpStream, go_on: &Notify, flooded: &AtomicUsize) {
    let mut buffer = vec![0; 64 * 1024];
    let Ok(kind) = stream.read_u8().await else { return };
    match kind {
        b'f' => {
            while let Ok(count) = stream.write(&buffer).await {
                flooded.fetch_add(count, Ordering::SeqCst);
            }
        }
        b's' => {
            go_on.notified().await;
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        }
        b'b' => {
            let (mut from, mut to) = stream.split();
            let send = async {
                for _ in 0..BOTH / buffer.len() {
                    to.write_all(&buffer).await.unwrap();
                }
                to.shutdown().await.unwrap();
            };
            let read = async {
                let mut buffer = vec![0; 64 * 1024];
                let mut all = 0;
                while let Ok(count) = from.read(&mut buffer).await
                    && count > 0
                {
                    all += count;
                }
                assert_eq!(all, BOTH);
            };
            tokio::join!(send, read);
        }
        _ => {
            while let Ok(count) = stream.read(&mut buffer).await
                && count > 0
                && stream.write_all(&buffer[..count]).await.is_ok()
            {}
        }
    }
}

/// The agent of the node that the authority names; its host key is known there.
async fn agent(gateway: &Running, reach: Reach) -> Link {
    if !gateway.dir.path().join("node").exists() {
        let key = wire(&keygen(gateway.dir.path(), "node", "ed25519"));
        let identity =
            NodeIdentity { node: NodeId(7), key: Fingerprint::from_bytes([2; 32]), path: NODE.parse().unwrap() };
        gateway.fake.nodes.lock().unwrap().insert(key, identity);
    }
    let shown = certgate::gateway::load_or_make_host_key(&gateway.dir.path().join("host"), || [9; 32]).unwrap();
    let known = [Fingerprint::of(shown.public_key().key_data())];
    let key = HostKey::load(&gateway.dir.path().join("node")).unwrap();
    let mut link = Link::open(&gateway.address.to_string(), "certgate-node", &key, &known).await.unwrap();
    let (have, host_certificate_until) = (None, None);
    link.send(&FromNode::Hello { have, host_certificate_until, reach, program: None, lingers: true }).await.unwrap();
    within("the gateway answers the agent", link.receive()).await.unwrap();
    link
}

/// A gateway with a node that can be reached in no other way.
async fn tunnelled() -> (Running, Node, Link) {
    let gateway = start(|limits| limits.channels = 1100).await;
    // Nobody listens there.
    *gateway.fake.target.lock().unwrap() = Some("127.0.0.1:1".parse().unwrap());
    *gateway.fake.reach.lock().unwrap() = Reach::Tunnel;
    let node = Node::start().await;
    let mut link = agent(&gateway, Reach::Tunnel).await;
    link.tunnel(node.address);
    let client = user(&gateway).await;
    echoing(&client).await;
    (gateway, node, link)
}

struct Anyone;

impl client::Handler for Anyone {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &russh::keys::PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

async fn user(gateway: &Running) -> Handle<Anyone> {
    // As OpenSSH's client, this one goes on reading while it cannot write; russh's by itself does not, and would wait for
    // the gateway, which waits for it.
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let (near, mut far) = tokio::io::duplex(512 * 1024 * 1024);
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut socket).await });
    let mut handle = client::connect_stream(Arc::default(), near, Anyone).await.unwrap();
    let key = russh::keys::load_secret_key(gateway.dir.path().join("id"), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(handle.authenticate_publickey("user1", key).await.unwrap().success());
    handle
}

async fn forward(client: &Handle<Anyone>) -> Result<Channel<Msg>, russh::Error> {
    client.channel_open_direct_tcpip(NODE, 22, "127.0.0.1", 1).await
}

/// The same to a node that gives everything back.
async fn echoing(client: &Handle<Anyone>) -> Channel<Msg> {
    let channel = within("the node is reached", async {
        loop {
            match forward(client).await {
                Ok(channel) => return channel,
                // Its agent has not opened the tunnel yet.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    channel.data(&b"e"[..]).await.unwrap();
    channel
}

fn last_opened(gateway: &Running) -> SessionId {
    gateway.fake.opened.lock().unwrap().last().unwrap().clone()
}

fn is_closed(gateway: &Running, session: &SessionId) -> bool {
    gateway.fake.closed.lock().unwrap().iter().any(|closed| closed.session == *session)
}

/// Sends this and gets it back. Both at the same time: russh's client keeps a hundred messages of a channel for whoever
/// reads them, and then stops, window adjustments included.
async fn echo(channel: &mut Channel<Msg>, data: &[u8]) {
    let mut writer = channel.make_writer();
    let read = async {
        let mut back = Vec::new();
        while back.len() < data.len() {
            match channel.wait().await {
                Some(ChannelMsg::Data { data }) => back.extend_from_slice(&data),
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                other => panic!("{other:?} after {} bytes", back.len()),
            }
        }
        back
    };
    let (written, back) = tokio::join!(writer.write_all(data), read);
    written.unwrap();
    assert!(back == data);
}

fn ssh(gateway: &Running) -> tokio::process::Command {
    let key = gateway.dir.path().join("id");
    gateway.ssh(&["-i", key.to_str().unwrap(), "-W", &format!("{NODE}:22"), "127.0.0.1"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_through_its_agent_and_in_no_other_way() {
    let gateway = start(|_| {}).await;
    let node = Node::start().await;
    // It could be dialled, too.
    *gateway.fake.target.lock().unwrap() = Some(node.address);
    *gateway.fake.reach.lock().unwrap() = Reach::Tunnel;
    let refused = within("ssh ends", ssh(&gateway).output()).await.unwrap();
    let said = format!("{NODE} is reached through its agent, which is not connected to this gateway");
    assert!(text(&refused.stderr).contains(&said), "{}", text(&refused.stderr));

    let mut link = agent(&gateway, Reach::Tunnel).await;
    assert!(forward(&user(&gateway).await).await.is_err(), "the agent has not opened its tunnel");
    assert_eq!(node.open.load(Ordering::SeqCst), 0);
    link.tunnel(node.address);
    let client = user(&gateway).await;
    let mut channel = echoing(&client).await;
    within("what was sent comes back", echo(&mut channel, &vec![7; 3_000_000])).await;

    // The end of it is said to the node, with all that was sent before; and the node's to the client.
    let file = gateway.dir.path().join("up");
    let up: Vec<u8> = std::iter::once(b'e').chain((0..7_000_001_u32).map(|n| (n % 251) as u8)).collect();
    std::fs::write(&file, &up).unwrap();
    let mut command = ssh(&gateway);
    let output = within("ssh -W ends", command.stdin(std::fs::File::open(file).unwrap()).output()).await.unwrap();
    assert!(output.stdout == up[1..], "{} bytes of {}: {}", output.stdout.len(), up.len() - 1, text(&output.stderr));

    // Nobody listens there now.
    let elsewhere: SocketAddr = "127.0.0.3:1".parse().unwrap();
    drop(link);
    let mut link = agent(&gateway, Reach::Tunnel).await;
    link.tunnel(elsewhere);
    let key = gateway.dir.path().join("id");
    within("the reason is the node's", async {
        let arguments = ["-i", key.to_str().unwrap(), "-W", &format!("{NODE}:22"), "127.0.0.1"];
        while !text(&gateway.ssh(&arguments).output().await.unwrap().stderr)
            .contains(&format!("{NODE} cannot be reached: its sshd does not take connections"))
        {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_through_one_agent_do_not_stall_each_other_and_a_removal_ends_exactly_one() {
    many(200).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more open files than machines allow by default"]
async fn a_thousand_through_one_agent_do_not_stall_each_other() {
    many(1000).await;
}

/// The keys of the agent's connection change after each gigabyte, with as much on its way as there can be.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "moves several gigabytes"]
async fn gigabytes_pass_both_ways_at_once_while_keys_change() {
    let (gateway, _node, _link) = tunnelled().await;
    let key = gateway.dir.path().join("id");
    let hosts = gateway.dir.path().join("known_hosts");
    let ssh = format!(
        "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={} -p {} -W {NODE}:22 127.0.0.1",
        key.display(),
        hosts.display(),
        gateway.address.port()
    );
    let line = format!("(printf b; head -c {BOTH} /dev/zero) | {ssh} | wc -c");
    let all = (0..8).map(|_| tokio::process::Command::new("bash").args(["-c", &line]).output());
    for output in futures_util::future::join_all(all).await {
        let output = output.unwrap();
        assert_eq!((text(&output.stdout).trim(), &*text(&output.stderr)), (&*BOTH.to_string(), ""));
    }
}

async fn many(count: usize) {
    let (gateway, node, _link) = tunnelled().await;
    // One that sends to a node which does not read.
    let up = user(&gateway).await;
    let sending = forward(&up).await.unwrap();
    let up_session = last_opened(&gateway);
    let sender = tokio::spawn(async move {
        sending.data(&b"s"[..]).await.unwrap();
        // More than all that could be between them: the channels' windows, the gateway's buffer, four sockets.
        let _ = sending.data(&vec![0; 256 * 1024 * 1024][..]).await;
    });
    // One that does not read what its node sends.
    let down = user(&gateway).await;
    let flooded = forward(&down).await.unwrap();
    let down_session = last_opened(&gateway);
    flooded.data(&b"f"[..]).await.unwrap();
    until("the node sends", || node.flooded.load(Ordering::SeqCst) > 2 * 1024 * 1024).await;

    let others = user(&gateway).await;
    let mut channels = vec![];
    for _ in 0..count {
        channels.push(echoing(&others).await);
    }
    let data = vec![7; 200_000];
    for _ in 0..2 {
        let data = &data;
        // russh's client stops while one of its channels is not read: all are, at the same time.
        let all = channels.iter_mut().map(|channel| echo(channel, data));
        within("all others go on", futures_util::future::join_all(all)).await;
    }
    assert!(!sender.is_finished(), "the one is stalled");
    assert!(node.flooded.load(Ordering::SeqCst) < 256 * 1024 * 1024, "the other is");
    assert_eq!(node.open.load(Ordering::SeqCst), count + 2);

    for session in [&up_session, &down_session] {
        gateway.fake.send(Event::End { session: session.clone(), reason: REMOVED.into() });
        until("it has ended", || is_closed(&gateway, session)).await;
    }
    // As the node sees it: what it sends is not taken any more, and what it reads ends.
    node.go_on.notify_one();
    until("both have ended at the node", || node.open.load(Ordering::SeqCst) == count).await;
    for channel in &mut channels {
        within("the others go on", echo(channel, b"e")).await;
    }
    assert_eq!(gateway.fake.closed.lock().unwrap().len(), 3, "with the one that was tried first");
    drop(flooded);
}

#[tokio::test(flavor = "multi_thread")]
async fn forwards_end_with_their_agent_and_say_so_and_its_return_takes_new_ones() {
    let (gateway, node, link) = tunnelled().await;
    let mut command = ssh(&gateway);
    let mut client = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    stdin.write_all(b"ehere").await.unwrap();
    let mut here = [0; 4];
    within("it is open", stdout.read_exact(&mut here)).await.unwrap();
    assert_eq!(&here, b"here");
    drop(link);
    let output = within("ssh ends", client.wait_with_output()).await.unwrap();
    assert!(text(&output.stderr).contains("through its agent, whose connection was lost"), "{}", text(&output.stderr));
    until("nothing is left at the node", || node.open.load(Ordering::SeqCst) == 0).await;

    let mut link = agent(&gateway, Reach::Tunnel).await;
    link.tunnel(node.address);
    let client = user(&gateway).await;
    let mut channel = echoing(&client).await;
    within("it works", echo(&mut channel, b"e")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_a_node_s_agent_opens_a_tunnel() {
    let gateway = start(|_| {}).await;
    let client = user(&gateway).await;
    let mut channel = client.channel_open_session().await.unwrap();
    channel.request_subsystem(true, "certgate-tunnel").await.unwrap();
    let answer = within("the request is answered", channel.wait()).await;
    assert!(matches!(answer, Some(ChannelMsg::Failure)), "{answer:?}");
}

/// A gateway that was taken over: it tries to open what it likes at the agent's end.
#[derive(Clone, Default)]
struct Evil(Arc<Mutex<Vec<String>>>);

impl server::Handler for Evil {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _user: &str,
        _key: russh::server::VerifiedPublicKey<'_>,
    ) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        _channel: Channel<server::Msg>,
        reply: server::ChannelOpenHandle,
        _session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: russh::ChannelId,
        name: &str,
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(id)?;
        let (handle, tried, name) = (session.handle(), self.0.clone(), name.to_owned());
        tokio::spawn(async move {
            let answers = [
                handle.channel_open_forwarded_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await.err(),
                handle.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await.err(),
                handle.channel_open_session().await.err(),
            ];
            let refused = |error: &Option<russh::Error>| {
                matches!(error, Some(russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited)))
            };
            assert!(answers.iter().all(refused), "{answers:?}");
            tried.lock().unwrap().push(name);
        });
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_opens_nothing_at_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let host = russh::keys::load_secret_key(keygen(dir.path(), "host", "ed25519"), None).unwrap();
    let known = [Fingerprint::of(host.public_key().key_data())];
    let config = Arc::new(server::Config { keys: vec![host], ..server::Config::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let evil = Evil::default();
    let handler = evil.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        server::run_stream(config, stream, handler).await.unwrap().await.unwrap();
    });
    let key = HostKey::load(&keygen(dir.path(), "node", "ed25519")).unwrap();
    let mut link = Link::open(&address.to_string(), "certgate-node", &key, &known).await.unwrap();
    until("all is refused without a tunnel", || evil.0.lock().unwrap().len() == 1).await;
    link.tunnel("127.0.0.1:22".parse().unwrap());
    until("and with one", || evil.0.lock().unwrap().len() == 2).await;
    assert_eq!(*evil.0.lock().unwrap(), ["certgate-node", "certgate-tunnel"]);
}
