//! The agent's decisions, without a socket, a file or a clock: events in, actions out. [`super::run`] performs them.
//!
//! Level-triggered: on every connection, and then again and again, the agent says what it has, and gets what it lacks.
//! A push that was lost, or an installation that failed, is made good by the next hello.

use super::{freshness::Freshness, host_cert};
use crate::{
    app::{
        node_sessions::{MAX_NODE_SESSIONS, NodeSession},
        protocol::{FromNode, NODE_HELLO_SECS, Reach, ToNode},
    },
    bundle::{Bundle, BundleKey, Order, SignedBundle, SignedCurrent, SignedOrder},
    domain::{ClusterPath, NodePath, PublicKey, Timestamp, Ttl, Version},
};
use std::time::Duration;

/// After so many hellos without any answer a gateway counts as gone.
const MAX_UNANSWERED: u32 = 3;
/// The first wait after a failure; doubled with every round through the gateways.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// What the agent knows when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// The node.
    pub node: NodePath,
    /// Its host key.
    pub host_key: PublicKey,
    /// Keys whose bundles are taken.
    pub trusted: Vec<BundleKey>,
    /// How many gateways there are; at least one.
    pub gateways: usize,
    /// The bundle in force, if its files are whole.
    pub bundle: Option<Installed>,
    /// The lowest version that may be installed.
    pub floor: Option<Version>,
    /// When the host certificate ends, in seconds since 1970, if there is one.
    pub host_certificate_until: Option<u64>,
    /// How long the table is believed that is not confirmed; for ever if not set.
    pub max_age: Option<Ttl>,
    /// When the authority last confirmed the table, if there is one.
    pub confirmed: Option<Timestamp>,
    /// How gateways reach the node's sshd.
    pub reach: Reach,
}

/// What the agent remembers of the bundle in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: Version,
    /// When it was made.
    pub issued: Timestamp,
    /// The CAs of host certificates.
    pub host_ca: Vec<PublicKey>,
}

impl From<&Bundle> for Installed {
    fn from(bundle: &Bundle) -> Self {
        Self { version: bundle.version, issued: bundle.issued, host_ca: bundle.host_ca.clone() }
    }
}

/// What happens to the agent.
#[derive(Clone, Debug)]
pub enum Event {
    /// The gateway that was to be dialled has been reached, is the right one, and has opened the channel.
    Connected,
    /// A line from it, without its end.
    Line(Vec<u8>, Timestamp),
    /// The connection has ended or could not be made.
    Ended {
        /// Why, for the log.
        why: String,
        /// Random: spreads the nodes that lost one gateway in the same moment.
        jitter: u16,
    },
    /// [`NODE_HELLO_SECS`] have passed since the last time, or since it was connected.
    Tick,
    /// Time to look how old the access table is, whatever becomes of connections.
    Look(Timestamp),
    /// What became of [`Action::Install`], and how many sessions ended because of it.
    Installed(Result<Installed, String>, u32),
    /// What sessions sshd has now.
    Sessions(Vec<NodeSession>),
    /// What became of [`Action::InstallHostCertificate`].
    HostCertificateInstalled(Result<u64, String>),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Dial this gateway after a while; answer with [`Event::Connected`] or [`Event::Ended`].
    Connect {
        /// Its place in the list.
        gateway: usize,
        /// The wait.
        after: Duration,
    },
    /// Say this to the gateway.
    Send(FromNode),
    /// Install this; answer with [`Event::Installed`].
    Install(Box<(Bundle, SignedBundle)>),
    /// The table was not out of date at this time: let the helper know.
    Confirm(Timestamp),
    /// End this session, if it is open.
    EndSession(Order),
    /// Install this and let sshd read it; answer with [`Event::HostCertificateInstalled`].
    InstallHostCertificate {
        /// The certificate.
        line: String,
        /// When it ends.
        until: u64,
    },
    /// Let the gateway reach sshd through the connection, if it cannot already.
    OpenTunnel,
    /// Drop the connection; answer with [`Event::Ended`].
    Disconnect(String),
    /// For the log.
    Log(Level, String),
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Info,
    /// Will mend itself.
    Warning,
    /// Somebody has to look.
    Error,
}

/// See the module.
#[derive(Debug)]
pub struct Agent {
    node: NodePath,
    cluster: ClusterPath,
    host_key: PublicKey,
    trusted: Vec<BundleKey>,
    gateways: usize,
    installed: Option<Installed>,
    floor: Option<Version>,
    host_certificate_until: Option<u64>,
    freshness: Freshness,
    reach: Reach,
    sessions: Vec<NodeSession>,
    /// The gateway that is dialled or connected.
    gateway: usize,
    connected: bool,
    failures: u32,
    unanswered: u32,
}

impl Agent {
    /// The agent and what it does first.
    #[must_use]
    pub fn new(start: Start) -> (Self, Vec<Action>) {
        let cluster = ClusterPath { cluster: start.node.cluster.clone(), org: start.node.org.clone() };
        let agent = Self {
            node: start.node,
            cluster,
            host_key: start.host_key,
            trusted: start.trusted,
            gateways: start.gateways.max(1),
            installed: start.bundle,
            floor: start.floor,
            host_certificate_until: start.host_certificate_until,
            freshness: Freshness::new(start.max_age, start.confirmed),
            reach: start.reach,
            sessions: vec![],
            gateway: 0,
            connected: false,
            failures: 0,
            unanswered: 0,
        };
        (agent, vec![Action::Connect { gateway: 0, after: Duration::ZERO }])
    }

    /// The version in force.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.installed.as_ref().map(|installed| installed.version)
    }

    /// Takes an event.
    #[must_use]
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Connected => {
                self.connected = true;
                self.unanswered = 0;
                vec![Action::Log(Level::Info, "connected to a gateway".into()), self.hello(), self.report()]
            }
            Event::Line(line, now) if self.connected => self.line(&line, now),
            Event::Tick if self.connected => self.tick(),
            Event::Line(..) | Event::Tick => vec![],
            Event::Look(now) => {
                let told = self.freshness.watch(now);
                told.map(|(level, text)| Action::Log(level, text)).into_iter().collect()
            }
            Event::Sessions(sessions) => {
                self.sessions = sessions;
                if self.connected { vec![self.report()] } else { vec![] }
            }
            Event::Ended { why, jitter } => self.ended(&why, jitter),
            Event::Installed(result, ended) => self.bundle_installed(result, ended),
            Event::HostCertificateInstalled(result) => self.host_certificate_installed(result),
        }
    }

    fn hello(&mut self) -> Action {
        self.unanswered += 1;
        let host_certificate_until = self.host_certificate_until;
        let (have, reach) = (self.version(), self.reach);
        let program = Some(env!("CARGO_PKG_VERSION").into());
        Action::Send(FromNode::Hello { have, host_certificate_until, reach, program, lingers: true })
    }

    fn tick(&mut self) -> Vec<Action> {
        if self.unanswered >= MAX_UNANSWERED {
            let secs = u64::from(MAX_UNANSWERED) * NODE_HELLO_SECS;
            return vec![Action::Disconnect(format!("the gateway has not answered for {secs} s"))];
        }
        let mut actions = vec![self.hello()];
        // An authority that was restarted meanwhile knows of none.
        if !self.sessions.is_empty() {
            actions.push(self.report());
        }
        actions
    }

    /// The sessions that there are, the newest of them if there are too many.
    fn report(&self) -> Action {
        let mut sessions = self.sessions.clone();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.since, session.process)));
        let more = u32::try_from(sessions.len().saturating_sub(MAX_NODE_SESSIONS)).unwrap_or(u32::MAX);
        sessions.truncate(MAX_NODE_SESSIONS);
        Action::Send(FromNode::Sessions { sessions, more })
    }

    fn ended(&mut self, why: &str, jitter: u16) -> Vec<Action> {
        self.connected = false;
        let rounds = self.failures / u32::try_from(self.gateways).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.gateway = (self.gateway + 1) % self.gateways;
        let longest = FIRST_WAIT.saturating_mul(1 << rounds.min(16)).min(LAST_WAIT);
        // Between half of it and all of it.
        let after = longest / 2 + longest / 2 * u32::from(jitter) / u32::from(u16::MAX);
        let text = format!("{why}; the next gateway is tried in {:.1} s", after.as_secs_f32());
        vec![Action::Log(Level::Warning, text), Action::Connect { gateway: self.gateway, after }]
    }

    fn line(&mut self, line: &[u8], now: Timestamp) -> Vec<Action> {
        self.unanswered = 0;
        match serde_json::from_slice(line) {
            Ok(ToNode::Welcome { host_certificate, current }) => {
                self.failures = 0;
                let confirmed = current.map_or_else(Vec::new, |current| self.current(&current, now));
                let certified = host_certificate.map_or_else(Vec::new, |line| self.host_certificate(line, now));
                // Now that the gateway knows whose connection it is.
                let tunnel = if self.reach == Reach::Tunnel { vec![Action::OpenTunnel] } else { vec![] };
                [tunnel, confirmed, certified].concat()
            }
            Ok(ToNode::Bundle(signed)) => self.bundle(signed),
            Ok(ToNode::End(signed)) => self.end(&signed),
            // The last table stays: whether a machine may still be used is not for the gateway alone to say.
            Ok(ToNode::Refused) => {
                self.failures = self.failures.max(u32::try_from(self.gateways).unwrap_or(u32::MAX).saturating_mul(6));
                vec![
                    Action::Log(Level::Error, "the authority says that this machine is not a node any more".into()),
                    Action::Disconnect("refused as a node; join again with a new token if it should be one".into()),
                ]
            }
            Ok(ToNode::Unavailable) => {
                vec![Action::Log(Level::Warning, "the gateway cannot reach the authority; trying again".into())]
            }
            Ok(ToNode::Join(_)) | Err(_) => {
                vec![Action::Disconnect("the gateway sent something that is not understood".into())]
            }
        }
    }

    fn bundle(&mut self, signed: SignedBundle) -> Vec<Action> {
        let floor = self.floor.max(self.version());
        match signed.open(&self.trusted, &self.cluster, floor) {
            Ok(bundle) => vec![Action::Install(Box::new((bundle, signed)))],
            Err(error) => self.refused(&error.to_string()),
        }
    }

    /// The authority says that a version is the last one. If it is ours, the table is as fresh as that.
    fn current(&mut self, signed: &SignedCurrent, now: Timestamp) -> Vec<Action> {
        match signed.open(&self.trusted, &self.cluster) {
            // Otherwise a newer version is on its way.
            Ok(current) if self.version() >= Some(current.version) => {
                self.freshness.confirm(current.at, now).map(Action::Confirm).into_iter().collect()
            }
            Ok(_) => vec![],
            Err(error) => vec![Action::Log(Level::Error, format!("the word of the authority: {error}"))],
        }
    }

    /// The authority wants a session to end. Not the gateway: it could end what does not go through it.
    fn end(&self, signed: &SignedOrder) -> Vec<Action> {
        match signed.open(&self.trusted, &self.node) {
            Ok(Some(order)) => vec![Action::EndSession(order)],
            Ok(None) => vec![Action::Log(Level::Error, "an order to end a session is for another node".into())],
            Err(error) => vec![Action::Log(Level::Error, format!("an order to end a session was refused: {error}"))],
        }
    }

    fn refused(&self, problem: &str) -> Vec<Action> {
        let text = format!("bundle refused: {problem}; what was in force stays");
        vec![Action::Log(Level::Error, text), self.receipt(Some(problem.to_owned()), 0)]
    }

    fn receipt(&self, problem: Option<String>, ended: u32) -> Action {
        Action::Send(FromNode::Receipt { version: self.version(), problem, ended })
    }

    fn bundle_installed(&mut self, result: Result<Installed, String>, ended: u32) -> Vec<Action> {
        match result {
            Ok(installed) => {
                let text = format!("bundle version {} is in force", installed.version);
                self.floor = self.floor.max(Some(installed.version));
                self.freshness.installed(installed.issued);
                self.installed = Some(installed);
                vec![Action::Log(Level::Info, text), self.receipt(None, ended)]
            }
            Err(problem) => self.refused(&problem),
        }
    }

    fn host_certificate(&self, line: String, now: Timestamp) -> Vec<Action> {
        let cas = self.installed.as_ref().map_or(&[][..], |installed| &installed.host_ca);
        match host_cert::check(&line, &self.host_key, &self.node, cas, now) {
            Ok(until) => vec![Action::InstallHostCertificate { line, until }],
            Err(error) => vec![Action::Log(Level::Error, format!("{error}; the old one stays"))],
        }
    }

    fn host_certificate_installed(&mut self, result: Result<u64, String>) -> Vec<Action> {
        match result {
            Ok(until) => {
                self.host_certificate_until = Some(until);
                vec![Action::Log(Level::Info, "the host certificate has been renewed".into())]
            }
            Err(error) => vec![Action::Log(Level::Error, format!("the host certificate was not renewed: {error}"))],
        }
    }
}
