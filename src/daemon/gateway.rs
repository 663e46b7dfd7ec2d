//! The gateway's process: its sockets, its signals, and the process that takes over from it.

use super::{
    outside::SystemEntropy,
    read_config, ready,
    takeover::{MAX_SOCKETS, Predecessor, REACH_WITHIN, Start, Successor, Use, line, orphan},
    watch,
};
use crate::{
    api::client::GatewayClient,
    app::Entropy,
    gateway::{Config, Control, Gateway, Lanes, Listeners, RawConfig, Stop, THREAD_STACK_BYTES, load_or_make_host_key},
};
use sd_notify::NotifyState;
use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
};

/// Threads that carry connections, at most: what drains has as many, and all of them count for the unit's TasksMax.
const MAX_THREADS: usize = 16;

/// How long the end of what has not ended by itself may take.
const ENDING: Duration = Duration::from_secs(30);

/// The flag by which a process knows that another one hands over to it.
pub(super) const TAKE_OVER: &str = "--take-over";

/// Runs a gateway until it is asked to stop, or another has taken over and its last connection has ended.
///
/// # Errors
/// A setting is out of range, the host key is unsafe, an address cannot be listened on.
pub fn run_gateway(path: &Path, take_over: bool, as_orphan: bool) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let arguments = vec!["gateway".into(), "--config".into(), path.into(), TAKE_OVER.into()];
    if as_orphan {
        return orphan(&Start { program, arguments }).map_err(Into::into);
    }
    let config = Config::try_from(read_config::<RawConfig>(path)?)?;
    // What carries connections has threads of its own (`Lanes`).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(config, Start { program, arguments }, take_over))
}

async fn run(config: Config, start: Start, take_over: bool) -> Result<(), Box<dyn Error>> {
    // Before anything that takes time: who is told to reload while it starts must not die of it.
    let signals = Signals::new()?;
    let (predecessor, inherited) = if take_over {
        let (predecessor, sockets) = Predecessor::take().map_err(|error| format!("{TAKE_OVER}: {error}"))?;
        (Some(predecessor), sockets)
    } else {
        (None, activated()?)
    };
    let mut seed = [0; 32];
    SystemEntropy.fill(&mut seed)?;
    let host_key = load_or_make_host_key(&config.host_key, || seed)?;
    let authority = Arc::new(GatewayClient::new(config.authority_socket.clone()));
    let sockets = sockets(&config, inherited)?;
    let copies = copies(&sockets)?;
    let listeners = listeners(sockets)?;
    let (stop, drain_on_stop) = (Stop::default(), config.limits.drain_on_stop);
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS);
    let lanes = Lanes::start(threads, THREAD_STACK_BYTES)?;
    let gateway = Gateway::new(config, host_key, authority, Arc::new(random), lanes, stop.clone())?;
    let control = gateway.control();
    let mut relieved = None;
    if let Some(mut predecessor) = predecessor {
        let reached = tokio::select! {
            reached = gateway.reach_authority(REACH_WITHIN) => reached,
            () = predecessor.gone() => return Err("taking over: it is not wanted any more".into()),
        };
        if let Err(error) = reached {
            predecessor.unreachable();
            return Err(format!("not taking over: {error}").into());
        }
        // Beside this thread, on which the trial's connection to the authority is still to be closed.
        let prepared = spawn_blocking(move || predecessor.prepared().map(|()| predecessor)).await?;
        relieved = Some(prepared.map_err(|error| format!("taking over: {error}"))?);
    }
    let mut serving = tokio::spawn(gateway.serve(listeners));
    match relieved {
        // It drains from here on. If it is gone, there is nobody to drain. To systemd the service is ready already, and
        // whoever is not its main process yet is not listened to.
        Some(mut predecessor) => {
            let _ = predecessor.serving();
        }
        None => ready(),
    }
    let (control, watched) = (Arc::new(control), stop.drain.clone());
    let accepting = control.clone();
    watch(take_over, watched, move || std::future::ready(accepting.is_accepting()));
    let asked = signals.follow(control, (stop, drain_on_stop), start, copies);
    tokio::select! {
        ended = &mut serving => ended?,
        () = asked => serving.await?,
    }
    tracing::info!("the gateway has stopped");
    Ok(())
}

/// What systemd has opened for us (sd_listen_fds(3)).
fn activated() -> io::Result<Vec<(Use, TcpListener)>> {
    let mut given = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        if let Some(socket) = given.take_tcp_listener(index)? {
            sockets.push((Use::Activated, socket));
        }
    }
    Ok(sockets)
}

/// The sockets that the configuration asks for: those that are open already, and new ones. What systemd has opened is used
/// whatever the configuration says.
fn sockets(config: &Config, inherited: Vec<(Use, TcpListener)>) -> Result<Vec<(Use, TcpListener)>, Box<dyn Error>> {
    let (mut sockets, mut others): (Vec<_>, Vec<_>) = inherited.into_iter().partition(|(of, _)| *of == Use::Activated);
    let activated = !sockets.is_empty();
    // Where systemd listens already, nobody else can.
    let open: Vec<SocketAddr> = sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect();
    let wanted = config.listen.iter().filter(|address| !open.contains(address)).map(|address| (Use::Ssh, *address));
    for (of, address) in wanted.chain(config.monitor.map(|address| (Use::Monitor, address))) {
        let same = |(its, socket): &(Use, TcpListener)| *its == of && socket.local_addr().is_ok_and(|at| at == address);
        let socket = match others.iter().position(same) {
            Some(index) => others.swap_remove(index).1,
            None => bind(address).map_err(|error| format!("{address}: {error}"))?,
        };
        tracing::info!(address = %socket.local_addr()?, r#for = ?of, "listening");
        sockets.push((of, socket));
    }
    if !sockets.iter().any(|(of, _)| *of != Use::Monitor) {
        return Err("nowhere to listen: name at least one ADDRESS:PORT in listen, or let systemd listen".into());
    }
    if activated {
        tracing::info!(sockets = open.len(), "listening on what systemd has opened");
    }
    if sockets.len() > MAX_SOCKETS {
        return Err(format!("more than {MAX_SOCKETS} addresses to listen on").into());
    }
    Ok(sockets)
}

/// As tokio binds, but that an IPv6 address is one: `[::]` beside `0.0.0.0` needs it.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, 1024)?;
    Ok(TcpListener::from(socket))
}

/// What is handed over, should it come to that.
fn copies(sockets: &[(Use, TcpListener)]) -> io::Result<Vec<(Use, OwnedFd)>> {
    sockets.iter().map(|(of, socket)| Ok((*of, socket.as_fd().try_clone_to_owned()?))).collect()
}

fn listeners(sockets: Vec<(Use, TcpListener)>) -> io::Result<Listeners> {
    let mut listeners = Listeners::default();
    for (of, socket) in sockets {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpListener::from_std(socket)?;
        match of {
            Use::Ssh | Use::Activated => listeners.ssh.push(socket),
            Use::Monitor => listeners.monitor = Some(socket),
        }
    }
    Ok(listeners)
}

/// What the process is asked by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Does what they ask, until there is nothing more to ask for.
    async fn follow(
        mut self,
        control: Arc<Control<GatewayClient>>,
        (stop, drain_on_stop): (Stop, Duration),
        start: Start,
        sockets: Vec<(Use, OwnedFd)>,
    ) {
        let mut sockets = Some(sockets);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => {
                    let Some(mine) = sockets.take() else {
                        tracing::info!(action = "hand over", outcome = "this process has handed over already");
                        continue;
                    };
                    tokio::select! {
                        left = hand_over(&control, &start, mine) => sockets = left,
                        _ = self.terminate.recv() => break,
                        _ = self.interrupt.recv() => break,
                    }
                    if sockets.is_none() {
                        stop.drain.cancel();
                    }
                }
            }
        }
        // As long as it takes, and what systemd gives everybody for the rest.
        let wanted = u32::try_from((drain_on_stop + ENDING).as_micros()).unwrap_or(u32::MAX);
        let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(wanted)]);
        stop.drain.cancel();
        // Or whoever connects would wait for an answer.
        drop(sockets);
        tokio::select! {
            () = tokio::time::sleep(drain_on_stop) => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        stop.now.cancel();
    }
}

/// Starts another process and hands over to it. Gives the sockets back if that fails: then nothing has changed.
async fn hand_over(
    control: &Control<GatewayClient>,
    start: &Start,
    sockets: Vec<(Use, OwnedFd)>,
) -> Option<Vec<(Use, OwnedFd)>> {
    tracing::info!(action = "hand over", outcome = "starting the process that takes over");
    let how = start.clone();
    // Dropped when this process is to stop meanwhile: then the other one ends as well, wherever it is by then.
    let (ends, _hang_up) = match line() {
        Ok(line) => line,
        Err(error) => {
            tracing::error!(action = "hand over", outcome = "this process goes on", %error);
            return Some(sockets);
        }
    };
    let started = spawn_blocking(move || (Successor::start(&how, &sockets, ends), sockets)).await;
    let (successor, sockets) = match started {
        Ok((Ok(successor), sockets)) => (successor, sockets),
        Ok((Err(error), sockets)) => {
            tracing::error!(action = "hand over", outcome = "this process goes on", %error);
            return Some(sockets);
        }
        // The task cannot panic, and nobody ends it.
        Err(_) => return None,
    };
    tracing::info!(action = "hand over", outcome = "the other process is prepared", pid = successor.pid());
    control.step_aside().await;
    let began = spawn_blocking(move || successor.go()).await;
    match began {
        Ok(Ok(successor)) => {
            let pid = successor.pid();
            successor.leave_in_charge();
            tracing::info!(action = "hand over", outcome = "another process has taken over", pid);
            // Only who is the main process may say who is. The watchdog hears from that one next.
            let _ = sd_notify::notify(&[NotifyState::MainPid(pid), NotifyState::Watchdog]);
            None
        }
        Ok(Err(error)) => {
            tracing::error!(action = "hand over", outcome = "this process goes on", %error);
            control.step_back().await;
            Some(sockets)
        }
        Err(_) => None,
    }
}

/// 128 bits from the kernel. It fails only where a kernel has no random numbers at all; a predictable name for a
/// session is then worse than none.
#[allow(clippy::panic)]
fn random() -> u128 {
    let mut bytes = [0; 16];
    match SystemEntropy.fill(&mut bytes) {
        Ok(()) => u128::from_ne_bytes(bytes),
        Err(error) => panic!("{error}"),
    }
}
