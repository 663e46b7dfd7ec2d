//! The gateway: the SSH server that faces the internet.
//!
//! It holds nothing but its host key. Who somebody is, what a command answers and which node a connection may reach is
//! asked of the authority through [`crate::app::authority::Authority`] and executed here; no decision about accounts,
//! keys, certificates or nodes is made in this module, and nothing of the directory is kept.
//!
//! [`listener`] accepts and bounds, [`handler`] answers the protocol, [`auth`] asks who it is, [`command`] runs command
//! lines, [`forward`] and [`inlet`] carry forwards, [`dial`] reaches nodes, [`connection`] ends connections, [`registry`]
//! knows what is open, [`events`] follows the authority, [`agents`] serves the nodes, [`tunnel`] those that are reached
//! through their agents.

mod agents;
mod algorithms;
mod auth;
mod channels;
mod command;
mod config;
mod connection;
mod dial;
mod events;
mod forward;
mod handler;
mod hostkey;
mod inlet;
mod line;
mod listener;
mod registry;
mod tunnel;

pub use config::{Config, ConfigError, Limits, RawConfig, RawLimits};
pub use hostkey::{HostKeyError, load_or_make_host_key};

use crate::{
    app::authority::Authority,
    domain::{PublicKey, SessionId},
};
use forward::ForwardHandle;
use registry::Registry;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// The stack that each of the runtime's threads needs (`thread_stack_size`).
///
/// russh parses a certificate inside the authentication packet before any handler sees it, and ssh-key's parser
/// recurses once per nesting level: 138 kB of nesting overflows 2 MB. russh 0.65.1 turns away what nests deeper than 8
/// by counting markers in the packet (`check_cert_nesting`); this stack is the second line, should that count ever be
/// evaded by a packet of 256 kB, the largest. Stacks are reserved, not committed: a thread uses what it touches.
pub const THREAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// The pause before a task that panicked begins anew.
const AFTER_A_FAULT: Duration = Duration::from_millis(200);

/// Where random numbers come from: each call gives 128 fresh bits from the system's generator.
pub type Random = Arc<dyn Fn() -> u128 + Send + Sync>;

/// A gateway; see the module's documentation.
pub struct Gateway<A>(Arc<Shared<A>>);

/// What the tasks of a gateway share.
struct Shared<A> {
    config: Config,
    host_key: PublicKey,
    ssh: Arc<russh::server::Config>,
    authority: Arc<A>,
    random: Random,
    registry: Mutex<Registry<Arc<ForwardHandle>>>,
    /// A forward was opened that the authority may not know: begin the event stream anew.
    resync: Notify,
    /// Forwards have ended: report them.
    closed: Notify,
    agents: agents::Agents,
    /// Whether the event stream is open.
    connected: watch::Sender<bool>,
}

impl<A: Authority> Shared<A> {
    fn registry(&self) -> MutexGuard<'_, Registry<Arc<ForwardHandle>>> {
        lock(&self.registry)
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
    ) -> Result<Self, HostKeyError> {
        let public = PublicKey::from_key_data(host_key.public_key().key_data())
            .map_err(|e| HostKeyError::Unusable(e.to_string()))?;
        let ssh = Arc::new(algorithms::server_config(&config, host_key));
        Ok(Self(Arc::new(Shared {
            config,
            host_key: public,
            ssh,
            authority,
            random,
            registry: Mutex::new(Registry::default()),
            resync: Notify::new(),
            closed: Notify::new(),
            agents: agents::Agents::default(),
            connected: watch::Sender::new(false),
        })))
    }

    /// Serves until `shutdown`; then ends every connection, saying so to each, and returns.
    pub async fn serve(self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let shared = self.0;
        let events = always("events", || tokio::spawn(events::follow(shared.clone(), shutdown.clone())));
        let closer = always("reports", || tokio::spawn(events::report_closed(shared.clone(), shutdown.clone())));
        tokio::join!(events, closer, listener::accept_all(shared.clone(), listeners, shutdown.clone()));
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
