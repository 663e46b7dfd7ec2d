//! What a new connection costs: handshake, key, one decision by the authority, one forward opened, and all closed again; by
//! the real gateway and authority, beside sshd.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use russh::{Disconnect, kex, keys::load_secret_key};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use support::{
    client::{config, login},
    cpu_seconds,
    disk::place,
    jump::{Jump, Target, Through},
    median, progress,
    report::{Mark, Unit, note, quantity, row, row_beside},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

const ROUNDS: usize = 5;
/// Clients at the same time.
const AT_ONCE: usize = 8;
/// Connections in one round: sshd takes longer.
const OURS: usize = 4_000;
const THEIRS: usize = 160;

fn main() {
    if support::asked_for() {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(bench());
    }
}

async fn bench() {
    let dir = place();
    let mut jump = Jump::start(dir.path()).await;
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = jump.node(node.local_addr().unwrap()).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = node.accept().await.unwrap();
            tokio::spawn(async move { stream.read(&mut [0]).await });
        }
    });
    let jump = Arc::new(jump);

    let mut measured = [Measured::default(), Measured::default()];
    for round in 0..ROUNDS {
        for (through, measured) in Through::BOTH.into_iter().zip(&mut measured) {
            run(&jump, through, &target, kex::CURVE25519, measured).await;
            progress(&format!("round {round}, {through:?}: {measured:?}"));
        }
    }
    let mut quantum = Measured::default();
    for _ in 0..ROUNDS {
        run(&jump, Through::Gateway, &target, kex::MLKEM768X25519_SHA256, &mut quantum).await;
    }

    let [ours, theirs] = measured;
    let per_second = (median(&ours.per_second), median(&theirs.per_second));
    let beside = format!("sshd {}", quantity(median(&theirs.cpu), Unit::Millis));
    row_beside("processor time of a new connection", median(&ours.cpu), Unit::Millis, Mark::AtMost(1.0), &beside);
    row("  of it the gateway's", median(&ours.gateway), Unit::Millis, Mark::None);
    row("  of it the authority's", median(&ours.authority), Unit::Millis, Mark::None);
    row("  with mlkem768x25519", median(&quantum.cpu), Unit::Millis, Mark::None);
    let beside = format!("sshd {}", quantity(per_second.1, Unit::PerSecond));
    row_beside("new connections", per_second.0, Unit::PerSecond, Mark::None, &beside);
    row("  beside sshd", per_second.0 / per_second.1, Unit::Times, Mark::AtLeast(15.0));
    row("  with mlkem768x25519", median(&quantum.per_second), Unit::PerSecond, Mark::None);
    note(&format!(
        "curve25519, an Ed25519 key, {AT_ONCE} clients at once (russh's, in the benchmark's process, on the same machine; its \
         processor time is not counted): medians of {ROUNDS} rounds of {OURS} connections, {THEIRS} to sshd, in turn. Each \
         opens one forward and closes everything. Both of the authority's answers are of the real one, which writes \
         each opened forward into its audit log on disk."
    ));
}

#[derive(Debug, Default)]
struct Measured {
    /// Milliseconds for one connection: of all our processes, or all of sshd's.
    cpu: Vec<f64>,
    gateway: Vec<f64>,
    authority: Vec<f64>,
    per_second: Vec<f64>,
}

async fn run(jump: &Arc<Jump>, through: Through, target: &Target, exchange: kex::Name, measured: &mut Measured) {
    let count = if through == Through::Gateway { OURS } else { THEIRS };
    let (key, config) = (Arc::new(load_secret_key(&jump.key, None).unwrap()), config(exchange));
    let before = (jump.cpu(through), cpu_seconds(jump.authority.pid()));
    let (begun, left) = (Instant::now(), Arc::new(AtomicUsize::new(count)));
    let clients: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (jump, key, config, left) = (jump.clone(), key.clone(), config.clone(), left.clone());
            let (host, port) = target.host(through);
            tokio::spawn(async move {
                let (at, name) = jump.at(through);
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let stream = TcpStream::connect(at).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let handle = login(&config, stream, &name, &key).await;
                    let forward =
                        handle.channel_open_direct_tcpip(host.clone(), port.into(), "127.0.0.1", 1).await.unwrap();
                    forward.close().await.unwrap();
                    handle.disconnect(Disconnect::ByApplication, "", "").await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    // What is still to be written down about the last of them.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = (jump.cpu(through), cpu_seconds(jump.authority.pid()));
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    let (jumping, authority) = ((after.0 - before.0) * 1e3 / count, (after.1 - before.1) * 1e3 / count);
    measured.per_second.push(count / seconds);
    if through == Through::Gateway {
        measured.cpu.push(jumping + authority);
        measured.gateway.push(jumping);
        measured.authority.push(authority);
    } else {
        measured.cpu.push(jumping);
    }
}
