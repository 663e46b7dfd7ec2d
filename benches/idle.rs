//! A thousand connections with one forward open on each: what they cost in memory, idle and with readers that have stalled;
//! and how long it takes until nothing moves any more, when a tenth of them lose their permit. The real gateway and
//! authority; sshd's memory beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use futures_util::{StreamExt, stream};
use russh::{
    Channel,
    client::{Handle, Msg},
    kex,
    keys::{PrivateKey, load_secret_key},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use support::{
    client::{Anyone, config, login},
    disk::place,
    jump::{Jump, Target, Through},
    median, memory, micros, progress, quantile,
    report::{Mark, Unit, note, quantity, row, row_beside},
    sshd::keygen,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};

const CONNECTIONS: usize = 1_000;
/// To sshd, which has processes for each.
const FEW: usize = 50;
/// Removals, each of somebody who has a tenth of the connections.
const REMOVALS: usize = 5;
/// Of each so many, one does not read.
const STALLED_OF: usize = 10;

fn main() {
    if support::asked_for() {
        // Everything on this machine has descriptors for all of them.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

async fn bench() {
    let dir = place();
    let mut jump = Jump::start(dir.path()).await;
    let node = Node::start().await;
    let target = jump.node(node.address).await;
    let mut people = vec![("user0".to_owned(), jump.key.clone())];
    for number in 1..=REMOVALS {
        let (name, key) = (format!("user{number}"), keygen(dir.path(), &format!("id{number}")));
        jump.member(&name, &std::fs::read_to_string(key.with_extension("pub")).unwrap()).await;
        people.push((name, key));
    }

    let sshd_each = sshd_memory(&jump, &node, &target).await;

    progress(&format!("{CONNECTIONS} connections ..."));
    let before = memory(jump.gateway.pid()).1;
    let keys: Vec<Arc<PrivateKey>> =
        people.iter().map(|(_, key)| Arc::new(load_secret_key(key, None).unwrap())).collect();
    // A tenth is that of each who is removed later, and the rest is user0's.
    let tenth = CONNECTIONS / 10;
    let whose = |number: usize| if number / tenth < REMOVALS { 1 + number / tenth } else { 0 };
    let clients: Vec<Client> = stream::iter(0..CONNECTIONS)
        .map(|number| Client::open(&jump, Through::Gateway, &target, &keys[whose(number)], number))
        .buffered(8)
        .collect()
        .await;
    node.until(CONNECTIONS + FEW).await;
    let idle = settled(jump.gateway.pid()).await;
    progress(&format!("idle: {before} MB before, {idle} MB with all"));

    for client in clients.iter().step_by(STALLED_OF) {
        client.stalled.store(true, SeqCst);
    }
    node.send(|number| number < CONNECTIONS && number.is_multiple_of(STALLED_OF));
    let stalled = settled(jump.gateway.pid()).await;
    progress(&format!("stalled: {stalled} MB"));

    let (mut ends, mut stalled_ends) = (Vec::new(), Vec::new());
    let mut ended = FEW;
    for (index, (name, _)) in people.iter().enumerate().skip(1) {
        let begun = Instant::now();
        let email = format!("{name}@acme.example");
        jump.authority.operator(&["member", "remove", "acme/bench", &email, "--yes"]).await;
        ended += tenth;
        node.ended(ended).await;
        for number in 0..CONNECTIONS {
            if whose(number) == index {
                let millis = micros(node.end_of(number).unwrap() - begun) / 1e3;
                ends.push(millis);
                if number.is_multiple_of(STALLED_OF) {
                    stalled_ends.push(millis);
                }
            }
        }
        progress(&format!("removal {index}: the last after {:.1} ms", ends.iter().copied().fold(0.0, f64::max)));
    }
    // The others have not ended, and do not.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.count_ended(), ended, "somebody else's forward has ended");
    drop(clients);

    #[allow(clippy::cast_precision_loss)]
    let each = |megabytes: f64| (megabytes - before) * 1e3 / CONNECTIONS as f64;
    let beside = format!("sshd {}", quantity(sshd_each * 1e3, Unit::Kilobytes));
    row_beside("memory of an idle connection with a forward", each(idle), Unit::Kilobytes, Mark::AtMost(80.0), &beside);
    row("  with a stalled reader on every tenth", each(stalled), Unit::Kilobytes, Mark::None);
    row("  beside idle", each(stalled) / each(idle), Unit::Times, Mark::AtMost(2.0));
    row("  the gateway's process before any", before, Unit::Megabytes, Mark::None);
    row("removal to the last byte of an open forward", median(&ends), Unit::Millis, Mark::None);
    row("  99 of 100", quantile(&ends, 0.99), Unit::Millis, Mark::AtMost(50.0));
    row("  those with a stalled reader", median(&stalled_ends), Unit::Millis, Mark::None);
    row("  the last of all", quantile(&ends, 1.0), Unit::Millis, Mark::None);
    note(&format!(
        "{CONNECTIONS} connections with one open forward each (PSS of the gateway's process, less what it was before, by their \
         number; of sshd's processes for {FEW}). Then one in {STALLED_OF} no longer reads, while its node sends without end. \
         Removal: {REMOVALS} members one after the other, each with {tenth} of the connections, {} of them stalled; from before the \
         command to the end of each connection at the node. All of theirs ended, and nobody else's.",
        tenth / STALLED_OF
    ));
}

/// In MB, for each connection.
async fn sshd_memory(jump: &Jump, node: &Node, target: &Target) -> f64 {
    let key = Arc::new(load_secret_key(&jump.key, None).unwrap());
    let mut clients = Vec::new();
    for number in 0..FEW {
        clients.push(Client::open(jump, Through::Sshd, target, &key, CONNECTIONS + number).await);
    }
    node.until(FEW).await;
    let total: f64 = jump.sshd.sessions().into_iter().map(|pid| memory(pid).1).sum();
    drop(clients);
    node.ended(FEW).await;
    #[allow(clippy::cast_precision_loss)]
    let few = FEW as f64;
    total / few
}

/// The memory of a process, when it no longer changes.
async fn settled(pid: u32) -> f64 {
    let mut last = f64::MAX;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = memory(pid).1;
        if (now - last).abs() < 0.2 {
            return now;
        }
        last = now;
    }
    last
}

/// A connection with a forward; it can be told to read nothing more.
struct Client {
    stalled: Arc<AtomicBool>,
    _handle: Handle<Anyone>,
    _channel: Channel<Msg>,
}

impl Client {
    async fn open(jump: &Jump, through: Through, target: &Target, key: &Arc<PrivateKey>, number: usize) -> Self {
        let (at, name) = jump.at(through);
        let stalled = Arc::new(AtomicBool::new(false));
        let stream = Gate { stream: TcpStream::connect(at).await.unwrap(), stalled: stalled.clone() };
        let handle = login(&config(kex::CURVE25519), stream, &name, key).await;
        let (host, port) = target.host(through);
        let channel = handle.channel_open_direct_tcpip(host, port.into(), "127.0.0.1", 1).await.unwrap();
        // Which one it is.
        channel.data(&u32::try_from(number).unwrap().to_be_bytes()[..]).await.unwrap();
        Self { stalled, _handle: handle, _channel: channel }
    }
}

/// A socket that is not read while its reader is stalled.
struct Gate {
    stream: TcpStream,
    stalled: Arc<AtomicBool>,
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.stalled.load(SeqCst) {
            // For ever: nobody who has stalled here goes on.
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where all forwards go.
struct Node {
    address: std::net::SocketAddr,
    state: Arc<Mutex<Vec<Seen>>>,
}

struct Seen {
    number: usize,
    writer: Option<tokio::net::tcp::OwnedWriteHalf>,
    ended: Option<Instant>,
}

impl Node {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(Vec::new()));
        let all = state.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let all = all.clone();
                tokio::spawn(async move {
                    let (mut reader, writer) = stream.into_split();
                    let Ok(number) = reader.read_u32().await else { return };
                    let number = number as usize;
                    all.lock().unwrap().push(Seen { number, writer: Some(writer), ended: None });
                    // Nothing more is sent; its end may be one of either kind.
                    let _ = reader.read(&mut [0]).await;
                    let now = Instant::now();
                    let mut all = all.lock().unwrap();
                    let seen = all.iter_mut().find(|seen| seen.number == number).unwrap();
                    (seen.ended, seen.writer) = (Some(now), None);
                });
            }
        });
        Self { address, state }
    }

    /// Waits until so many have come.
    async fn until(&self, count: usize) {
        eventually(|| self.state.lock().unwrap().len() == count, "forwards do not come").await;
    }

    /// Waits until so many have ended.
    async fn ended(&self, count: usize) {
        eventually(|| self.count_ended() >= count, "forwards do not end").await;
    }

    fn count_ended(&self) -> usize {
        self.state.lock().unwrap().iter().filter(|seen| seen.ended.is_some()).count()
    }

    fn end_of(&self, number: usize) -> Option<Instant> {
        self.state.lock().unwrap().iter().find(|seen| seen.number == number).and_then(|seen| seen.ended)
    }

    /// Sends without end to some.
    fn send(&self, to: impl Fn(usize) -> bool) {
        for seen in self.state.lock().unwrap().iter_mut().filter(|seen| to(seen.number)) {
            let mut writer = seen.writer.take().unwrap();
            tokio::spawn(async move {
                let block = vec![0x5a; 64 * 1024];
                while writer.write_all(&block).await.is_ok() {}
            });
        }
    }
}

async fn eventually(is: impl Fn() -> bool, else_: &str) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{else_}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
