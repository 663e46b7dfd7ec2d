//! The gateway: the SSH server that faces the internet.
//!
//! It holds nothing but its host key. Who somebody is, what a command answers and which node a connection may reach is
//! asked of the authority through [`crate::app::authority::Authority`] and executed here; no decision about accounts,
//! keys, certificates or nodes is made in this module, and nothing of the directory is kept.
//!
//! [`listener`] accepts, with [`doors`], [`penalties`] and [`proxy`], for the threads of [`lanes`]; [`life`] is that of one connection, [`handler`] answers
//! the protocol, [`start`] begins what runs on a session channel, [`auth`] asks who it is, [`command`] runs command lines, [`forward`] and [`inlet`] carry forwards, [`dial`]
//! reaches nodes, [`connection`] ends connections, [`socket`] is what russh has of them, [`registry`] knows what is open,
//! [`events`] follows the authority, [`agents`] serves the nodes, [`tunnel`] those that are reached through their agents.

mod agents;
mod algorithms;
mod auth;
mod channels;
mod command;
mod config;
mod connection;
mod dial;
mod doors;
mod events;
mod forward;
mod handler;
mod hostkey;
mod inlet;
mod lanes;
mod life;
mod limits;
mod line;
mod listener;
mod metrics;
mod monitor;
mod penalties;
mod proxy;
mod registry;
mod socket;
mod start;
mod tunnel;
mod window;

pub use algorithms::{Algorithms, RawAlgorithms};
pub use config::{Config, ConfigError, RawConfig};
pub use hostkey::{HostKeyError, load_or_make_host_key};
pub use lanes::Lanes;
pub use limits::{Limits, OrOff, RawLimits, RawPenalties};
pub use penalties::PenaltySettings;

use crate::{
    app::{
        authority::{Authority, EventStream, Unreachable},
        protocol::{Call, Hello, OpenSession},
    },
    domain::{InstanceId, PublicKey, SessionId, Version},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use doors::Doors;
use forward::ForwardHandle;
use metrics::{Metrics, Now, Totals};
use penalties::{Offence, Penalties};
use registry::Registry;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The stack that each thread needs that carries connections ([`Lanes`]).
///
/// russh parses a certificate inside the authentication packet before any handler sees it, and ssh-key's parser
/// recurses once per nesting level: 138 kB of nesting overflows 2 MB. russh 0.65.1 turns away what nests deeper than 8
/// by counting markers in the packet (`check_cert_nesting`); this stack is the second line, should that count ever be
/// evaded by a packet of 256 kB, the largest. Stacks are reserved, not committed: a thread uses what it touches.
pub const THREAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// How long an authority may take to learn a new name.
const RENAMED_WITHIN: Duration = Duration::from_secs(3);

/// So long before its end a host certificate is shown no more: it began a minute before it was made.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(120);

/// Between two tries to reach the authority.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// The pause before a task that panicked begins anew.
const AFTER_A_FAULT: Duration = Duration::from_millis(200);

/// Where random numbers come from: each call gives 128 fresh bits from the system's generator.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// A gateway; see the module's documentation.
pub struct Gateway<A>(Arc<Shared<A>>);

/// What the tasks of a gateway share.
struct Shared<A> {
    config: Config,
    /// As what the authority knows this gateway; see [`Control`].
    name: ArcSwap<String>,
    /// Which process this is, whatever its name.
    instance: InstanceId,
    /// The name under which it last greeted this gateway.
    greeted: watch::Sender<Arc<String>>,
    host_key: PublicKey,
    private_key: ssh_key::PrivateKey,
    /// What russh is told about new connections, with the plain host key only.
    plain: Arc<russh::server::Config>,
    /// The same with a host certificate, until that runs out.
    certified: ArcSwapOption<(Arc<russh::server::Config>, Instant)>,
    authority: Arc<A>,
    random: Random,
    registry: Mutex<Registry<Arc<ForwardHandle>>>,
    /// A forward was opened that the authority may not know: begin the event stream anew.
    resync: Notify,
    /// Forwards have ended: report them.
    closed: Notify,
    /// When forwards have to end has changed.
    leaving: Notify,
    /// The last mark of the authority.
    seen: Mutex<Option<Version>>,
    agents: agents::Agents,
    /// Whether the event stream is open.
    connected: watch::Sender<bool>,
    doors: Arc<Doors>,
    penalties: Mutex<Penalties>,
    metrics: Metrics,
    turns: listener::Turns,
    lanes: Lanes,
    stop: Stop,
}

/// How a gateway is asked to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Take no new connections; those that are open may end in peace, for as long as the limits say.
    pub drain: CancellationToken,
    /// End everything now.
    pub now: CancellationToken,
}

/// The sockets of a gateway.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For SSH.
    pub ssh: Vec<TcpListener>,
    /// For monitoring.
    pub monitor: Option<TcpListener>,
}

impl<A> Shared<A> {
    fn penalties(&self) -> MutexGuard<'_, Penalties> {
        lock(&self.penalties)
    }

    /// Something bad came from there.
    fn punish(&self, peer: IpAddr, offence: Offence) {
        // A load balancer that speaks for itself asks whether somebody is there, as often as it likes.
        let balanced = self.config.proxy_protocol_from.as_ref().is_some_and(|from| from.contains(peer));
        if balanced || !self.config.penalties.concerns(peer) {
            return;
        }
        let held = self.penalties().punish(&self.config.penalties, peer, offence, Instant::now());
        self.metrics.offence(offence.name());
        if let Some(length) = held {
            tracing::warn!(%peer, action = "penalty", outcome = "refused for a while", offence = offence.name(), secs = length.as_secs());
        }
    }

    /// Shows another host certificate from the next connection on; says what became of it.
    fn certify(&self, line: &str) -> &'static str {
        let Ok(certificate) = ssh_key::Certificate::from_openssh(line) else { return "it cannot be read" };
        // russh would sign with the key that fits, or fail each handshake.
        if certificate.public_key() != self.private_key.public_key().key_data() {
            return "it is for another key";
        }
        if certificate.cert_type() != ssh_key::certificate::CertType::Host {
            return "it is none of a host";
        }
        // It was made just now; by whose clock is not this process's business.
        let lives = Duration::from_secs(certificate.valid_before().saturating_sub(certificate.valid_after()));
        let Some(until) = Instant::now().checked_add(lives.saturating_sub(CERTIFICATE_MARGIN)) else {
            return "it never runs out";
        };
        let config = algorithms::server_config(&self.config, self.private_key.clone(), vec![certificate]);
        self.certified.store(Some(Arc::new((Arc::new(config), until))));
        "shown from now on"
    }

    /// What russh is told about a new connection.
    fn ssh(&self) -> Arc<russh::server::Config> {
        let certified = self.certified.load();
        match certified.as_deref() {
            Some((config, until)) if Instant::now() < *until => config.clone(),
            // An authority that is away renews nothing; the plain key is known as well.
            Some(_) | None => self.plain.clone(),
        }
    }

    /// For the metrics.
    fn now(&self) -> Now {
        let (connections, unauthenticated) = self.doors.count();
        Now {
            connections,
            unauthenticated,
            penalised: self.penalties().refused_addresses(Instant::now()),
            authority: *self.connected.borrow(),
            agents: self.agents.lag(),
        }
    }
}

impl<A: Authority> Shared<A> {
    /// Asks the authority.
    async fn ask<C: Call>(&self, request: C::Request) -> Result<C::Answer, Unreachable> {
        let asked = Instant::now();
        let answer = self.authority.call::<C>(request).await;
        self.metrics.answered(C::PATH, asked.elapsed());
        answer
    }

    fn registry(&self) -> MutexGuard<'_, Registry<Arc<ForwardHandle>>> {
        lock(&self.registry)
    }

    fn name(&self) -> String {
        self.name.load().as_ref().clone()
    }

    /// A name of this process alone.
    fn own_name(&self) -> String {
        // No configured name has a '+'.
        let mark = (self.random)() & u128::from(u32::MAX);
        format!("{}+{mark:08x}", self.config.name)
    }

    /// What opens the event stream, by this name and with this open.
    fn hello(&self, gateway: String, sessions: Vec<OpenSession>) -> Hello {
        Hello {
            gateway,
            instance: Some(self.instance.clone()),
            host_key: self.host_key.clone(),
            sessions,
            lost_after: self.config.limits.authority_lost_after.as_secs(),
            seen: *lock(&self.seen),
            program: Some(env!("CARGO_PKG_VERSION").into()),
        }
    }

    fn new_session(&self) -> SessionId {
        SessionId::from_bits((self.random)())
    }
}

impl<A: Authority> Gateway<A> {
    /// A gateway with this host key that asks this authority.
    ///
    /// # Errors
    /// The host key is of a type that cannot be used.
    pub fn new(
        config: Config,
        host_key: ssh_key::PrivateKey,
        authority: Arc<A>,
        random: Random,
        lanes: Lanes,
        stop: Stop,
    ) -> Result<Self, HostKeyError> {
        let public = PublicKey::from_key_data(host_key.public_key().key_data())
            .map_err(|e| HostKeyError::Unusable(e.to_string()))?;
        let plain = Arc::new(algorithms::server_config(&config, host_key.clone(), vec![]));
        let name = Arc::new(config.name.clone());
        Ok(Self(Arc::new(Shared {
            name: ArcSwap::new(name.clone()),
            instance: InstanceId::from_bits(random()),
            greeted: watch::Sender::new(name),
            config,
            host_key: public,
            private_key: host_key,
            plain,
            certified: ArcSwapOption::empty(),
            authority,
            random,
            registry: Mutex::new(Registry::default()),
            resync: Notify::new(),
            closed: Notify::new(),
            leaving: Notify::new(),
            seen: Mutex::default(),
            agents: agents::Agents::default(),
            connected: watch::Sender::new(false),
            doors: Arc::default(),
            penalties: Mutex::default(),
            metrics: Metrics::new(),
            turns: listener::Turns::default(),
            lanes,
            stop,
        })))
    }

    /// What hands over to another gateway.
    #[must_use]
    pub fn control(&self) -> Control<A> {
        Control(self.0.clone())
    }

    /// Returns when the authority has taken a hello of this gateway: by a name of its own, with nothing open, so that it
    /// takes nobody's place.
    ///
    /// # Errors
    /// It did not within this time; what was the matter last.
    pub async fn reach_authority(&self, within: Duration) -> Result<(), Unreachable> {
        let shared = &self.0;
        let (name, mut problem) = (shared.own_name(), Unreachable("it did not answer in time".into()));
        let trying = async {
            loop {
                let hello = shared.hello(name.clone(), Vec::new());
                // An authority that does not understand a newer gateway's hello refuses it here.
                let taken = async { shared.authority.events(hello).await?.next().await };
                match taken.await {
                    Ok(_) => return,
                    Err(error) => problem = error,
                }
                sleep(TRY_AGAIN).await;
            }
        };
        let reached = timeout(within, trying).await;
        reached.map_err(|_| problem)
    }

    /// Serves until it is asked to stop ([`Stop`]) and every connection has ended; whoever is cut off is told so.
    pub async fn serve(self, listeners: Listeners) {
        let shared = self.0;
        // The authority is followed until the last connection has ended: what drains still obeys.
        let over = CancellationToken::new();
        let events = always("events", || tokio::spawn(events::follow(shared.clone(), over.clone())));
        let closer = always("reports", || tokio::spawn(events::report_closed(shared.clone(), over.clone())));
        let leaving = always("leaving", || tokio::spawn(events::end_overdue(shared.clone(), over.clone())));
        let monitor = async {
            if let Some(listener) = listeners.monitor {
                monitor::serve(shared.clone(), listener, shared.stop.drain.clone()).await;
            }
        };
        let connections = async {
            listener::accept_all(shared.clone(), listeners.ssh).await;
            over.cancel();
        };
        tokio::join!(events, closer, leaving, monitor, connections);
        // Its counters were at the address of monitoring until it drained; what came after is told here.
        let Totals { connections, forwards, ended, up, down } = shared.metrics.totals();
        tracing::info!(
            action = "totals",
            connections,
            forwards,
            ended,
            up,
            down,
            outcome = "every connection of this process has ended"
        );
    }
}

/// A running gateway's way to make room for another one of its name.
///
/// The authority knows gateways by their names: one that says hello takes the place of a former one, and what another
/// process of that name had open is over. Who goes on beside a successor therefore takes another name first.
pub struct Control<A>(Arc<Shared<A>>);

impl<A: Authority> Control<A> {
    /// Whether each of the listening sockets was looked after since this was last asked, and each thread did something.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.0.turns.all()
    }

    /// Takes a name of its own, and returns when the authority knows it by that, or cannot be asked.
    pub async fn step_aside(&self) {
        self.rename(self.0.own_name()).await;
    }

    /// Takes its own name again: nobody has taken over.
    pub async fn step_back(&self) {
        self.rename(self.0.config.name.clone()).await;
    }

    async fn rename(&self, name: String) {
        let name = Arc::new(name);
        let mut greeted = self.0.greeted.subscribe();
        self.0.name.store(name.clone());
        self.0.resync.notify_one();
        // An authority that is away learns it later: then what is open looks closed to it for a moment, in its log only.
        let _ = timeout(RENAMED_WITHIN, greeted.wait_for(|known| *known == name)).await;
    }
}

/// Begins a task anew when it panics, until it returns: without the events, nothing that the authority ends would end.
async fn always(action: &str, begin: impl Fn() -> JoinHandle<()>) {
    while begin().await.is_err() {
        tracing::error!(action, outcome = "a fault in the gateway: beginning anew");
        sleep(AFTER_A_FAULT).await;
    }
}

/// Locks; a panic while it was held leaves data that each user checks for itself, and must not spread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
