//! What the gateway counts, in the format of Prometheus (OpenMetrics 1.0). Names and labels are part of the product:
//! config/grafana-dashboard.json and config/prometheus-alerts.yml use them, and a test holds them together.
//!
//! No label holds what a stranger chooses: their values come from the program, and the names of projects from permits.

use crate::domain::ProjectPath;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};

/// What a counter tells apart by one word.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $field:ident }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name {
            $field: &'static str,
        }
    };
}

label!(OfOutcome { outcome });
label!(OfBound { bound });
label!(OfDirection { direction });
label!(OfState { state });
label!(OfOffence { offence });
label!(
    /// A path of the authority's API.
    OfCall { call }
);
label!(
    /// How many of the bundles that were relayed to it an agent has not confirmed.
    OfLag { behind }
);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLogin {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDecision {
    question: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProject {
    project: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVersion {
    version: &'static str,
}

/// A bound that somebody has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bound {
    Connections,
    ConnectionsPerAddress,
    UnauthenticatedPerAddress,
    Unauthenticated,
    ConnectionsPerAccount,
    ForwardsPerAccount,
    Penalty,
    ProxyHeader,
    LoginDeadline,
    AuthAttempts,
    KeySize,
    Channels,
    ChannelsInALife,
    ChannelBuffer,
    CommandLine,
    Input,
    AgentInput,
    HostName,
    Idle,
}

impl Bound {
    const ALL: [Self; 19] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::UnauthenticatedPerAddress,
        Self::Unauthenticated,
        Self::ConnectionsPerAccount,
        Self::ForwardsPerAccount,
        Self::Penalty,
        Self::ProxyHeader,
        Self::LoginDeadline,
        Self::AuthAttempts,
        Self::KeySize,
        Self::Channels,
        Self::ChannelsInALife,
        Self::ChannelBuffer,
        Self::CommandLine,
        Self::Input,
        Self::AgentInput,
        Self::HostName,
        Self::Idle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::UnauthenticatedPerAddress => "unauthenticated_per_address",
            Self::Unauthenticated => "unauthenticated",
            Self::ConnectionsPerAccount => "connections_per_account",
            Self::ForwardsPerAccount => "forwards_per_account",
            Self::Penalty => "penalty",
            Self::ProxyHeader => "proxy_header",
            Self::LoginDeadline => "login_deadline",
            Self::AuthAttempts => "auth_attempts",
            Self::KeySize => "key_size",
            Self::Channels => "channels",
            Self::ChannelsInALife => "channels_in_a_life",
            Self::ChannelBuffer => "channel_buffer",
            Self::CommandLine => "command_line",
            Self::Input => "input",
            Self::AgentInput => "agent_input",
            Self::HostName => "host_name",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known at the moment of asking, and not counted along.
#[derive(Clone, Debug, Default)]
pub(super) struct Now {
    pub(super) connections: usize,
    pub(super) unauthenticated: usize,
    pub(super) penalised: usize,
    pub(super) authority: bool,
    /// Agents with 0, 1, 2 and more bundles that they have not confirmed.
    pub(super) agents: [usize; 4],
}

const LAGS: [&str; 4] = ["0", "1", "2", "3+"];

/// What a process has done in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// Connections that have authenticated.
    pub(super) connections: u64,
    /// Forwards that were opened.
    pub(super) forwards: u64,
    /// Of these, those that the authority has ended.
    pub(super) ended: u64,
    /// Bytes from clients to nodes.
    pub(super) up: u64,
    /// Bytes from nodes to clients.
    pub(super) down: u64,
}

/// The counters.
pub(super) struct Metrics {
    registry: Registry,
    handshakes: Family<OfOutcome, Counter>,
    logins: Family<OfLogin, Counter>,
    decisions: Family<OfDecision, Counter>,
    sessions: Family<OfProject, Gauge>,
    refused: Family<OfBound, Counter>,
    penalties: Family<OfOffence, Counter>,
    answers: Family<OfCall, Histogram>,
    ended: Histogram,
    /// As many as `ended` has seen, which does not tell.
    ordered: Counter,
    /// Forwards that were opened.
    opened: Counter,
    commands: Family<OfOutcome, Counter>,
    connections: Family<OfState, Gauge>,
    penalised: Gauge,
    authority: Gauge,
    agents: Family<OfLag, Gauge>,
    /// Bytes from clients to nodes.
    pub(super) up: Counter,
    /// Bytes from nodes to clients.
    pub(super) down: Counter,
}

/// From half a millisecond to 16 s.
fn seconds() -> Histogram {
    Histogram::new((0..16).map(|n| 0.0005 * f64::from(1_u32 << n)))
}

impl Metrics {
    pub(super) fn new() -> Self {
        let bytes: Family<OfDirection, Counter> = Family::default();
        let info: Family<OfVersion, Gauge> = Family::default();
        let mut metrics = Self {
            registry: Registry::with_prefix("certgate_gateway"),
            handshakes: Family::default(),
            logins: Family::default(),
            decisions: Family::default(),
            sessions: Family::default(),
            refused: Family::default(),
            penalties: Family::default(),
            answers: Family::new_with_constructor(seconds),
            ended: seconds(),
            ordered: Counter::default(),
            opened: Counter::default(),
            commands: Family::default(),
            connections: Family::default(),
            penalised: Gauge::default(),
            authority: Gauge::default(),
            agents: Family::default(),
            up: bytes.get_or_create_owned(&OfDirection { direction: "up" }),
            down: bytes.get_or_create_owned(&OfDirection { direction: "down" }),
        };
        info.get_or_create(&OfVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        // A bound that nobody has met yet is 0, not missing: rates and alerts work from the first event on.
        for bound in Bound::ALL {
            metrics.refused.get_or_create(&OfBound { bound: bound.name() }).inc_by(0);
        }
        metrics.register(bytes, info);
        metrics
    }

    fn register(&mut self, bytes: Family<OfDirection, Counter>, info: Family<OfVersion, Gauge>) {
        let r = &mut self.registry;
        r.register("build_info", "The version that runs", info);
        r.register("handshakes", "SSH handshakes, by how they ended", self.handshakes.clone());
        r.register("logins", "Authentications, by method and outcome", self.logins.clone());
        r.register("decisions", "Answers of the authority, by question and reason", self.decisions.clone());
        r.register("commands", "Commands, by exit status", self.commands.clone());
        r.register("open_sessions", "Open forwards, by project", self.sessions.clone());
        r.register_with_unit("forwarded", "What forwards have carried", Unit::Bytes, bytes);
        r.register("refused", "What was refused or ended because a bound was met, by bound", self.refused.clone());
        r.register("offences", "What addresses were punished for", self.penalties.clone());
        r.register("penalised_addresses", "Addresses that are refused now", self.penalised.clone());
        r.register_with_unit(
            "authority_answer",
            "How long the authority took to answer, by call",
            Unit::Seconds,
            self.answers.clone(),
        );
        r.register_with_unit(
            "removal_to_disconnect",
            "From the arrival of the authority's order to the end of the forward",
            Unit::Seconds,
            self.ended.clone(),
        );
        r.register("connections", "Connections, by whether they have authenticated", self.connections.clone());
        r.register("authority_up", "Whether the authority's event stream is open", self.authority.clone());
        r.register("agents", "Agents of nodes, by how many bundles they have not confirmed", self.agents.clone());
    }

    /// A handshake has ended.
    pub(super) fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// Somebody has authenticated, or not.
    pub(super) fn login(&self, method: &'static str, outcome: &'static str) {
        self.logins.get_or_create(&OfLogin { method, outcome }).inc();
    }

    /// The authority has decided.
    pub(super) fn decision(&self, question: &'static str, reason: &str) {
        // Reasons are the authority's own words, a few dozen; what is no such word is not one of its.
        let word = reason.len() <= 40 && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        let reason = if word { reason.to_owned() } else { "other".to_owned() };
        self.decisions.get_or_create(&OfDecision { question, reason }).inc();
    }

    /// A command has ended.
    pub(super) fn command(&self, exit: u8) {
        let outcome = match exit {
            0 => "done",
            1 => "refused",
            2 => "usage",
            _ => "interrupted",
        };
        self.commands.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// A bound was met.
    pub(super) fn refused(&self, bound: Bound) {
        self.refused.get_or_create(&OfBound { bound: bound.name() }).inc();
    }

    /// An address was punished.
    pub(super) fn offence(&self, offence: &'static str) {
        self.penalties.get_or_create(&OfOffence { offence }).inc();
    }

    /// The authority has answered, or the time it was waited for is over.
    pub(super) fn answered(&self, call: &'static str, after: Duration) {
        self.answers.get_or_create(&OfCall { call }).observe(after.as_secs_f64());
    }

    /// A forward that was ordered to end has ended.
    pub(super) fn ended(&self, after: Duration) {
        self.ended.observe(after.as_secs_f64());
        self.ordered.inc();
    }

    /// A forward is open until what is returned is dropped.
    pub(super) fn session(&self, project: &ProjectPath) -> OpenSession {
        let project = OfProject { project: project.to_string() };
        self.sessions.get_or_create(&project).inc();
        self.opened.inc();
        OpenSession { sessions: self.sessions.clone(), project }
    }

    /// What there is to say of a process whose counters nobody can ask for any more.
    pub(super) fn totals(&self) -> Totals {
        let of_outcome = OfOutcome { outcome: "authenticated" };
        Totals {
            connections: self.handshakes.get_or_create(&of_outcome).get(),
            forwards: self.opened.get(),
            ended: self.ordered.get(),
            up: self.up.get(),
            down: self.down.get(),
        }
    }

    /// Everything, as it is now.
    pub(super) fn text(&self, now: &Now) -> String {
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let authenticated = now.connections.saturating_sub(now.unauthenticated);
        for (state, count) in [("unauthenticated", now.unauthenticated), ("authenticated", authenticated)] {
            set(&self.connections.get_or_create(&OfState { state }), count);
        }
        for (behind, count) in LAGS.into_iter().zip(now.agents) {
            set(&self.agents.get_or_create(&OfLag { behind }), count);
        }
        set(&self.penalised, now.penalised);
        set(&self.authority, now.authority.into());
        let mut text = String::new();
        // It fails only where a String cannot be written to.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// An open forward, as it is counted.
pub(super) struct OpenSession {
    sessions: Family<OfProject, Gauge>,
    project: OfProject,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        // At 0 it stays: one line for each project whose nodes somebody has used.
        self.sessions.get_or_create(&self.project).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::new();
        let project: ProjectPath = "acme/ml-training".parse().unwrap();
        let first = metrics.session(&project);
        drop(metrics.session(&project));
        metrics.refused(Bound::Channels);
        metrics.decision("open", "not-found");
        metrics.decision("open", "what\"ever");
        metrics.ended(Duration::from_millis(3));
        metrics.up.inc_by(7);
        let text = metrics.text(&Now { connections: 3, unauthenticated: 1, agents: [4, 0, 0, 1], ..Now::default() });
        for line in [
            "certgate_gateway_open_sessions{project=\"acme/ml-training\"} 1",
            "certgate_gateway_refused_total{bound=\"channels\"} 1",
            "certgate_gateway_refused_total{bound=\"penalty\"} 0",
            "certgate_gateway_decisions_total{question=\"open\",reason=\"not-found\"} 1",
            "certgate_gateway_decisions_total{question=\"open\",reason=\"other\"} 1",
            "certgate_gateway_removal_to_disconnect_seconds_count 1",
            "certgate_gateway_forwarded_bytes_total{direction=\"up\"} 7",
            "certgate_gateway_connections{state=\"authenticated\"} 2",
            "certgate_gateway_agents{behind=\"3+\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        metrics.handshake("authenticated");
        let totals = Totals { connections: 1, forwards: 2, ended: 1, up: 7, down: 0 };
        assert_eq!(metrics.totals(), totals);
        drop(first);
        assert!(metrics.text(&Now::default()).contains("open_sessions{project=\"acme/ml-training\"} 0"));
    }

    #[test]
    fn the_dashboard_and_the_alerts_use_metrics_that_there_are() {
        let metrics = Metrics::new();
        metrics.handshake("failed");
        metrics.login("key", "accepted");
        metrics.decision("open", "permitted");
        metrics.command(0);
        metrics.offence("no-auth");
        metrics.answered("/v1/open", Duration::ZERO);
        drop(metrics.session(&"acme/ml-training".parse().unwrap()));
        let text = metrics.text(&Now::default());
        let told: std::collections::BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        let mut used = std::collections::BTreeSet::new();
        for file in ["config/grafana-dashboard.json", "config/prometheus-alerts.yml"] {
            let text = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            for (start, _) in text.match_indices("certgate_gateway_") {
                let name = text[start..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
                assert!(told.contains(name), "{file}: {name} is none of {told:?}");
                used.insert(name.to_owned());
            }
        }
        // What nobody looks at need not be counted.
        let base = |name: &str| name.trim_end_matches("_count").trim_end_matches("_sum").to_owned();
        for name in told {
            let seen = [name.to_owned(), format!("{}_bucket", base(name))].iter().any(|name| used.contains(name));
            assert!(seen, "{name} is in no panel and no alert");
        }
    }
}
