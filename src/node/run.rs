//! `certgate-node run`: performs what [`super::agent`] decides.

use super::{
    accounts::{self, Accounts},
    agent::{Action, Agent, Event, Installed, Level, Start},
    config::NodeConfig,
    files::FileError,
    host_cert,
    link::{HostKey, HostKeyError, Link, LinkError},
    sessions::{Sessions, Settings, access::Access},
    sshd,
    state_dir::StateDir,
};
use crate::{
    app::protocol::{NODE_HELLO_SECS, NODE_LOGIN},
    bundle::{Bundle, SignedBundle},
    domain::Timestamp,
};
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{sync::watch, task::JoinSet};

/// Connections that go on for what they carry. Upgrades follow each other more slowly than that.
const MAX_RETIRED: usize = 8;

/// How often an agent that nobody watches says that it is alive.
const UNWATCHED: Duration = Duration::from_secs(24 * 3600);

/// The agent cannot start.
#[derive(Debug, Error)]
pub enum RunError {
    /// No identity.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// The helper cannot tell of logins.
    #[error(transparent)]
    Sessions(#[from] FileError),
}

/// Reads the clock.
pub type Clock = fn() -> Timestamp;

/// How the agent is watched: in its loop it calls `tell` this often.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// How often; never if not set.
    pub every: Option<Duration>,
    /// Tells whoever watches that the agent is alive.
    pub tell: fn(),
}

/// Runs until `stop` is ready. `ready` is called once, when logins can be decided: at once with the last table, or
/// when a gateway has been reached.
///
/// # Errors
/// The node's host key cannot be used.
pub async fn run(
    config: NodeConfig,
    clock: Clock,
    ready: impl FnOnce(),
    watch: Watch,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let (mut edge, mut todo) = Edge::start(config, clock)?;
    let mut ready = Some(ready);
    let mut timer = tokio::time::interval(Duration::from_secs(NODE_HELLO_SECS));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer.reset();
    // Not reset by whoever connects and hangs up.
    let mut age = tokio::time::interval(Duration::from_secs(NODE_HELLO_SECS));
    age.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(stop);
    // Far off where nobody watches.
    let mut watched = tokio::time::interval(watch.every.unwrap_or(UNWATCHED));
    watched.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some(action) = todo.pop_front() {
            if let Some(event) = edge.perform(action).await {
                todo.extend(edge.agent.handle(event));
            }
        }
        if edge.agent.version().is_some() || edge.link.is_some() {
            ready.take().into_iter().for_each(|ready| ready());
        }
        let event = tokio::select! {
            () = &mut stop => return Ok(()),
            _ = watched.tick() => {
                (watch.tell)();
                continue;
            }
            _ = timer.tick() => Event::Tick,
            _ = age.tick() => Event::Look(clock()),
            event = next_event(&mut edge.link, &mut edge.dialling, clock) => event,
            sessions = edge.sessions.changed() => Event::Sessions(sessions),
        };
        match &event {
            Event::Connected => timer.reset(),
            Event::Ended { .. } => edge.retire(),
            _ => {}
        }
        todo.extend(edge.agent.handle(event));
    }
}

type Dialling = Pin<Box<dyn Future<Output = Result<Link, LinkError>>>>;

struct Edge {
    agent: Agent,
    config: NodeConfig,
    key: HostKey,
    state: StateDir,
    sessions: Sessions,
    link: Option<Link>,
    dialling: Option<Dialling>,
    /// Connections to gateways that have handed over, which still carry streams.
    retired: JoinSet<()>,
    /// Who follows is told of each bundle that is in force.
    bundles: watch::Sender<Option<Arc<Bundle>>>,
    clock: Clock,
}

impl Edge {
    fn start(config: NodeConfig, clock: Clock) -> Result<(Self, VecDeque<Action>), RunError> {
        let key = HostKey::load(&config.host_key)?;
        let state = StateDir::of(&config);
        let found = state.load(&config.bundle_keys, &config.cluster());
        match &found.bundle {
            Ok(bundle) if found.repaired => {
                tracing::warn!(
                    version = bundle.version.0,
                    "the access table was not what the bundle and the configuration say; made again"
                );
            }
            Ok(bundle) => tracing::info!(version = bundle.version.0, "running with the last bundle"),
            Err(error) => tracing::error!("no bundle to begin with: {error}"),
        }
        if found.bundle.is_err() {
            stand_in(&state, &config);
        }
        let certificate = state.read_host_certificate();
        let until = certificate.and_then(|line| host_cert::ends(&line, key.public.fingerprint()));
        let (agent, first) = Agent::new(Start {
            node: config.node.clone(),
            host_key: key.public.clone(),
            trusted: config.bundle_keys.clone(),
            gateways: config.gateways.len(),
            bundle: found.bundle.as_ref().ok().map(Installed::from),
            floor: found.floor,
            host_certificate_until: until.filter(|until| *until > clock().secs()),
            max_age: config.max_age.0,
            confirmed: state.confirmed(),
            reach: config.reach,
        });
        let sessions = Sessions::start(
            Settings {
                file: state.sessions(),
                socket: state.socket(),
                helper: config.helper_user.clone(),
                on_removal: config.on_removal,
            },
            found.bundle.as_ref().ok().map(|bundle| Access::of(bundle, clock(), Instant::now())),
            clock(),
        )?;
        let (bundles, following) = watch::channel(found.bundle.ok().map(Arc::new));
        match config.accounts {
            // Ends with the sender.
            Accounts::Userdb => drop(tokio::spawn(accounts::keep(config.userdb.clone(), following))),
            Accounts::None => {}
        }
        Ok((
            Self {
                agent,
                config,
                key,
                state,
                sessions,
                link: None,
                dialling: None,
                retired: JoinSet::new(),
                bundles,
                clock,
            },
            first.into(),
        ))
    }

    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Connect { gateway, after } => {
                self.dial(gateway, after);
                None
            }
            Action::Send(message) => {
                // A connection that is gone says so to the one who reads from it.
                let sent = match &self.link {
                    Some(link) => link.send(&message).await,
                    None => Ok(()),
                };
                sent.err().map(|error| self.ended(&error.to_string()))
            }
            Action::Install(parts) => Some(self.install(*parts).await),
            Action::EndSession(order) => {
                self.sessions.end(order);
                None
            }
            Action::Confirm(at) => {
                if let Err(error) = self.state.confirm(at) {
                    tracing::error!("the access table cannot be confirmed, and will not be believed for ever: {error}");
                }
                None
            }
            Action::InstallHostCertificate { line, until } => {
                let (state, reload) = (self.state.clone(), self.config.reload.clone());
                let work = move || {
                    state.install_host_certificate(&line).map_err(|error| error.to_string())?;
                    sshd::reload(&reload).map(|()| until).map_err(|error| error.to_string())
                };
                Some(Event::HostCertificateInstalled(blocking(work).await))
            }
            Action::OpenTunnel => {
                if let Some(link) = &mut self.link {
                    link.tunnel(self.config.sshd_address);
                }
                None
            }
            Action::Disconnect(why) => Some(self.ended(&why)),
            Action::Log(Level::Info, text) => {
                tracing::info!("{text}");
                None
            }
            Action::Log(Level::Warning, text) => {
                tracing::warn!("{text}");
                None
            }
            Action::Log(Level::Error, text) => {
                tracing::error!("{text}");
                None
            }
        }
    }

    async fn install(&self, (bundle, signed): (Bundle, SignedBundle)) -> Event {
        let access = Arc::new(Access::of(&bundle, (self.clock)(), Instant::now()));
        self.sessions.prepare(&access).await;
        let state = self.state.clone();
        let work = move || state.install(&bundle, &signed).map(|()| bundle).map_err(|error| error.to_string());
        let bundle = blocking(work).await;
        let result = bundle.as_ref().map(Installed::from).map_err(Clone::clone);
        let ended = match bundle {
            Ok(bundle) => {
                self.bundles.send_replace(Some(Arc::new(bundle)));
                self.sessions.enforce(&access).await
            }
            Err(_) => {
                self.sessions.abandon();
                0
            }
        };
        Event::Installed(result, u32::try_from(ended).unwrap_or(u32::MAX))
    }

    fn dial(&mut self, gateway: usize, after: Duration) {
        let Some(address) = self.config.gateways.get(gateway).cloned() else { return };
        let (key, known) = (self.key.clone(), self.config.gateway_host_keys.clone());
        self.dialling = Some(Box::pin(async move {
            tokio::time::sleep(after).await;
            Link::open(&address, NODE_LOGIN, &key, &known).await
        }));
    }

    /// The connection is of no more use; what it carries may end in peace, if the gateway has only closed the channel.
    fn retire(&mut self) {
        while self.retired.try_join_next().is_some() {}
        if let Some(rest) = self.link.take().and_then(Link::retire)
            && self.retired.len() < MAX_RETIRED
        {
            self.retired.spawn(rest);
        }
    }

    fn ended(&mut self, why: &str) -> Event {
        self.link = None;
        ended(why)
    }
}

/// sshd must not be without its list of revoked keys, also where there is nothing to make it from.
fn stand_in(state: &StateDir, config: &NodeConfig) {
    match state.stand_in(&config.cluster()) {
        Ok(false) => {}
        Ok(true) => tracing::error!(
            "sshd's list of revoked keys was missing or damaged: until a bundle comes it has an empty one"
        ),
        Err(error) => {
            tracing::error!("sshd's list of revoked keys is missing or damaged, and it refuses everybody: {error}")
        }
    }
}

fn ended(why: &str) -> Event {
    let mut random = [0; 2];
    // Without it the wait is only not spread.
    let _ = getrandom::fill(&mut random);
    Event::Ended { why: why.to_owned(), jitter: u16::from_le_bytes(random) }
}

/// Waits for the connection that is being made, or for a line on the one there is; forever if there is neither.
async fn next_event(link: &mut Option<Link>, dialling: &mut Option<Dialling>, clock: Clock) -> Event {
    if let Some(future) = dialling {
        let result = future.await;
        *dialling = None;
        return match result {
            Ok(open) => {
                *link = Some(open);
                Event::Connected
            }
            Err(error) => ended(&error.to_string()),
        };
    }
    match link {
        Some(open) => match open.receive().await {
            Ok(line) => Event::Line(line, clock()),
            Err(error) => ended(&error.to_string()),
        },
        None => std::future::pending().await,
    }
}

/// Off the thread that answers the gateway's keepalives.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}
