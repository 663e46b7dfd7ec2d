//! What a forward costs and how fast it is: OpenSSH's `ssh -W` through the gateway, and through sshd, to a node that sends
//! or takes bytes as fast as they go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that meets an error has failed")]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};
use support::{
    client,
    disk::place,
    jump::{Jump, Target, Through},
    median, progress,
    report::{Mark, Unit, note, quantity, row_beside},
};

const ROUNDS: usize = 5;
const GB: f64 = 1e9;
const AES: &str = "aes128-gcm@openssh.com";
const CHACHA: &str = "chacha20-poly1305@openssh.com";
/// Of one transfer on a quick line, of eight at once together, and of one on a long line.
const ONE: u64 = 1024 * 1024 * 1024;
const EIGHT: u64 = 1024 * 1024 * 1024;
const FAR: u64 = 48 * 1024 * 1024;
/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

fn main() {
    if support::asked_for() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = place();
        let mut jump = runtime.block_on(Jump::start(dir.path()));
        let (source, sink) = (Source::start(), Sink::start());
        let from = runtime.block_on(jump.node(source.address));
        let to = runtime.block_on(jump.node(sink.address));
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        bench(&Bench { jump, source, sink, from, to, file });
    }
}

struct Bench {
    jump: Jump,
    source: Source,
    sink: Sink,
    from: Target,
    to: Target,
    /// What is sent up: nothing but a size, so that reading it costs the client as little as can be.
    file: File,
}

/// What one way of jumping was measured at, in a number of rounds.
#[derive(Default)]
struct Measured {
    cpu_per_gb: Vec<f64>,
    megabytes_per_second: Vec<f64>,
}

fn bench(bench: &Bench) {
    // Marks: of sshd's processor time at most, of its throughput at least.
    let scenes = [(AES, Way::Down, 1.3), (AES, Way::Up, 1.1), (CHACHA, Way::Down, 1.3), (CHACHA, Way::Up, 1.1)];
    for (cipher, way, faster) in scenes {
        let name = format!("{}, {}", if cipher == AES { "aes128-gcm" } else { "chacha20" }, word(way));
        if !support::wanted(&name) {
            continue;
        }
        let [ours, theirs] = bench.compare(&name, cipher, way, 1, ONE, false);
        let (cpu, their_cpu) = (median(&ours.cpu_per_gb), median(&theirs.cpu_per_gb));
        let beside = format!("sshd {}", quantity(their_cpu, Unit::Seconds));
        row_beside(&format!("processor time per GB, {name}"), cpu, Unit::Seconds, Mark::None, &beside);
        row_beside("  beside sshd", cpu / their_cpu, Unit::Times, Mark::AtMost(0.6), "");
        rate(&format!("  MB per second, {name}"), &ours, &theirs, faster);
    }
    for way in [Way::Down, Way::Up] {
        let name = format!("8 streams at once, aes128-gcm, {}", word(way));
        if !support::wanted(&name) {
            continue;
        }
        let [ours, theirs] = bench.compare(&name, AES, way, 8, EIGHT, false);
        rate(&format!("MB per second, {name}"), &ours, &theirs, 1.0);
    }
    for way in [Way::Down, Way::Up] {
        let name = format!("150 ms there and back, aes128-gcm, {}", word(way));
        if !support::wanted(&name) {
            continue;
        }
        let [ours, theirs] = bench.compare(&name, AES, way, 1, FAR, true);
        rate(&format!("MB per second, {name}"), &ours, &theirs, 1.0);
    }
    note(&format!(
        "ssh -W to a process that sends or takes bytes, all on this machine: medians of {ROUNDS} transfers of {} MiB (8 streams: \
         together; 150 ms: {} MiB) by each way, in turn. Processor time is that of the gateway's process, or of all of \
         sshd's, without what a connection costs by itself (the mean of 20 that carry nothing); throughput is from the node's accepting \
         to the last byte's arrival. The client takes most of the two, and shares the processor. The 150 ms are those of a relay before the \
         jump host, which keeps everything for 75 ms each way: it shows what SSH's windows allow, and not what TCP's do.",
        ONE >> 20,
        FAR >> 20
    ));
}

fn word(way: Way) -> &'static str {
    match way {
        Way::Down => "down",
        Way::Up => "up",
    }
}

fn rate(what: &str, ours: &Measured, theirs: &Measured, bound: f64) {
    let (own, other) = (median(&ours.megabytes_per_second), median(&theirs.megabytes_per_second));
    row_beside(what, own, Unit::Count, Mark::None, &format!("sshd {}", quantity(other, Unit::Count)));
    row_beside("  beside sshd", own / other, Unit::Times, Mark::AtLeast(bound), "");
}

impl Bench {
    /// Both ways of jumping in turn.
    fn compare(&self, name: &str, cipher: &str, way: Way, streams: u64, bytes: u64, far: bool) -> [Measured; 2] {
        let mut measured = [Measured::default(), Measured::default()];
        let nothing = Through::BOTH.map(|through| {
            let before = self.jump.cpu(through);
            for _ in 0..20 {
                self.transfer(through, self.jump.at(through).0, cipher, way, 1, 0);
            }
            (self.jump.cpu(through) - before) / 20.0
        });
        for round in 0..ROUNDS {
            for (index, through) in Through::BOTH.into_iter().enumerate() {
                let at = self.jump.at(through).0;
                let at = if far { delayed(at) } else { at };
                let before = self.jump.cpu(through);
                let seconds = self.transfer(through, at, cipher, way, streams, bytes);
                #[allow(clippy::cast_precision_loss)]
                let (bytes, streams) = (bytes as f64, streams as f64);
                let cpu = self.jump.cpu(through) - before - nothing[index] * streams;
                progress(&format!(
                    "{name}, round {round}, {through:?}: {:.2} s/GB, {:.0} MB/s",
                    cpu * GB / bytes,
                    bytes / seconds / 1e6
                ));
                measured[index].cpu_per_gb.push(cpu * GB / bytes);
                measured[index].megabytes_per_second.push(bytes / seconds / 1e6);
            }
        }
        measured
    }

    /// The seconds that it took.
    fn transfer(&self, through: Through, at: SocketAddr, cipher: &str, way: Way, streams: u64, bytes: u64) -> f64 {
        let each = bytes / streams;
        self.source.each.store(each, SeqCst);
        self.file.set_len(each).unwrap();
        let target = if way == Way::Down { &self.from } else { &self.to };
        let mut clients: Vec<Child> = (0..streams)
            .map(|_| {
                let mut command = client::ssh(&self.jump, through, at, target, cipher);
                match way {
                    Way::Down => command.stdin(Stdio::null()).stdout(Stdio::piped()),
                    // A description of its own: each has its own position.
                    Way::Up => command.stdin(reopened(&self.file)).stdout(Stdio::null()),
                };
                command.spawn().unwrap()
            })
            .collect();
        match way {
            Way::Down => {
                let begun: Vec<Instant> = (0..streams).map(|_| self.source.begun.recv().unwrap()).collect();
                let readers: Vec<_> =
                    clients.iter_mut().map(|client| client.stdout.take().unwrap()).map(drained).collect();
                for reader in readers {
                    assert_eq!(reader.join().unwrap(), each, "all of it arrives");
                }
                let ended = Instant::now();
                finish(&mut clients);
                (ended - begun[0]).as_secs_f64()
            }
            Way::Up => {
                let taken: Vec<Taken> = (0..streams).map(|_| self.sink.taken.recv().unwrap()).collect();
                assert!(taken.iter().all(|taken| taken.bytes == each), "all of it arrives");
                finish(&mut clients);
                let begun = taken.iter().map(|taken| taken.begun).min().unwrap();
                (taken.iter().map(|taken| taken.ended).max().unwrap() - begun).as_secs_f64()
            }
        }
    }
}

fn finish(clients: &mut [Child]) {
    for client in clients {
        assert!(client.wait().unwrap().success(), "ssh fails");
    }
}

fn reopened(file: &File) -> File {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

/// Takes all there is without looking at it: from a pipe to nowhere, the kernel copies nothing (splice(2)).
fn drained(mut pipe: impl Read + std::os::fd::AsFd + Send + 'static) -> thread::JoinHandle<u64> {
    // Or the client waits for this thread after each 64 kB, whatever comes.
    rustix::pipe::fcntl_setpipe_size(&pipe, 1024 * 1024).unwrap();
    thread::spawn(move || {
        let nowhere = File::options().write(true).open("/dev/null").unwrap();
        let mut total = 0;
        loop {
            let flags = rustix::pipe::SpliceFlags::empty();
            match rustix::pipe::splice(&pipe, None, &nowhere, None, 1024 * 1024, flags) {
                Ok(0) => return total,
                Ok(count) => total += count as u64,
                Err(rustix::io::Errno::INVAL) => {
                    return total + std::io::copy(&mut pipe, &mut std::io::sink()).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
}

/// Sends a number of bytes to whoever connects.
struct Source {
    address: SocketAddr,
    each: Arc<AtomicU64>,
    begun: Receiver<Instant>,
}

impl Source {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let each = Arc::new(AtomicU64::new(0));
        let (told, begun) = channel();
        let wanted = each.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, told, mut left) = (stream.unwrap(), told.clone(), wanted.load(SeqCst));
                thread::spawn(move || {
                    told.send(Instant::now()).unwrap();
                    let block = vec![0x5a; 256 * 1024];
                    while left > 0 {
                        let count = left.min(block.len() as u64);
                        stream.write_all(&block[..usize::try_from(count).unwrap()]).unwrap();
                        left -= count;
                    }
                    stream.shutdown(Shutdown::Write).unwrap();
                    // Until the other side has gone.
                    let _ = stream.read(&mut [0]);
                });
            }
        });
        Self { address, each, begun }
    }
}

struct Taken {
    begun: Instant,
    ended: Instant,
    bytes: u64,
}

/// Takes what comes.
struct Sink {
    address: SocketAddr,
    taken: Receiver<Taken>,
}

impl Sink {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, taken) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, told, begun) = (stream.unwrap(), told.clone(), Instant::now());
                thread::spawn(move || {
                    let mut block = vec![0; 256 * 1024];
                    let mut bytes = 0;
                    loop {
                        match stream.read(&mut block).unwrap() {
                            0 => break,
                            count => bytes += count as u64,
                        }
                    }
                    told.send(Taken { begun, ended: Instant::now(), bytes }).unwrap();
                });
            }
        });
        Self { address, taken }
    }
}

/// A relay for one connection that keeps everything for half of the round trip. Its ends do not fill, as a line's do not.
fn delayed(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(to).unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        one_way(near.try_clone().unwrap(), far.try_clone().unwrap());
        one_way(far, near);
    });
    address
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let (kept, due) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut block = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut block) {
            if kept.send((Instant::now() + ROUND_TRIP / 2, block[..count].to_vec())).is_err() || count == 0 {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
