//! What somebody should look after. Decided from what `status` shows, and from nothing else, in this one place: what is
//! shown and what monitoring is told cannot differ.

use super::{
    cluster_views::NODE_SILENT,
    view_types::{NodeView, StatusView},
};
use crate::{domain::Timestamp, store::Space};
use serde::Serialize;
use std::time::Duration;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work, or does not hold, now.
    Critical,
    /// Something will not, if nobody does anything.
    Warning,
    /// Good to know; nobody has to do anything.
    Notice,
}

/// Something that somebody should look after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What is so, in a sentence.
    pub what: String,
    /// What to do next.
    pub next: String,
}

/// What is still all right.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Free space of the state directory, in bytes.
    pub free: u64,
    /// The same: with less, certificates and changes are about to be refused.
    pub free_at_least: u64,
    /// How long a node may be without the last access list: a push takes a second, what was lost comes with a hello.
    pub lag: Duration,
    /// How long the host certificate of a node lives.
    pub host_ttl: Duration,
    /// How long a join token works when somebody should be told that it is not used.
    pub token: Duration,
    /// How old the last backup may be, if that matters.
    pub backup: Option<Duration>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            free: 512 << 20,
            free_at_least: 64 << 20,
            lag: Duration::from_secs(60),
            host_ttl: Duration::from_secs(30 * 86_400),
            token: Duration::from_secs(600),
            backup: None,
        }
    }
}

/// How long a gateway's host certificate lives at most.
const GATEWAY_LIFE: Duration = Duration::from_secs(86_400);

/// How long everything may take to find each other again after a start.
const SETTLING: Duration = NODE_SILENT;

/// So many are named; of the rest it is said how many they are.
const NAMED: usize = 5;

/// All there is to look after, what matters most first. `status` without problems is what they are decided from.
#[must_use]
pub fn problems(status: &StatusView, bounds: &Bounds, now: Timestamp) -> Vec<Problem> {
    let mut found = gateways(status, bounds, now);
    found.extend(disk(status.disk, bounds));
    // Without a gateway nobody hears a node, which says nothing about the nodes.
    if !status.gateways.is_empty() {
        found.extend(nodes(status, bounds, now));
    }
    found.extend(host_certificates(&status.nodes, bounds, now));
    found.extend(machinery(status));
    found.extend(backup(status.last_backup, bounds, now));
    found.extend(tokens(status, bounds, now));
    found.extend(versions(status));
    found.sort_by_key(|problem| problem.severity);
    found
}

fn problem(severity: Severity, what: impl Into<String>, next: impl Into<String>) -> Problem {
    Problem { severity, what: what.into(), next: next.into() }
}

fn gateways(status: &StatusView, bounds: &Bounds, now: Timestamp) -> Vec<Problem> {
    if status.gateways.is_empty() {
        let what = "No gateway is connected, so nobody can connect";
        return vec![problem(Severity::Critical, what, "on the bastion: systemctl status certgate-gateway")];
    }
    let soon = bounds.host_ttl.min(GATEWAY_LIFE) / 4;
    let late = status.gateways.iter().filter(|gateway| match gateway.certificate_until {
        Some(until) => until.since(now) < soon,
        None => now.since(gateway.since) > SETTLING,
    });
    let next = "see why in the authority's log (journalctl -u certgate-authority); people who know the host key by its \
                certificate are asked about it otherwise";
    let late = late.map(|gateway| {
        let until = match gateway.certificate_until {
            Some(until) => format!("was not renewed, and ends {}", until.near(now)),
            None => "could not be made".into(),
        };
        problem(Severity::Warning, format!("The host certificate of the gateway {} {until}", gateway.gateway), next)
    });
    late.collect()
}

fn disk(disk: Option<Space>, bounds: &Bounds) -> Option<Problem> {
    let Space { free, .. } = disk?;
    if free >= bounds.free {
        return None;
    }
    let (severity, then) = if free < bounds.free_at_least {
        (Severity::Critical, "certificates and changes are refused as soon as it is full")
    } else {
        (Severity::Warning, "when it is full, certificates and changes are refused")
    };
    let what = format!("The state directory has {} left: {then}", mebibytes(free));
    Some(problem(severity, what, "make room on that file system, or put state_dir on a larger one"))
}

/// In the unit that the bounds are in.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn nodes(status: &StatusView, bounds: &Bounds, now: Timestamp) -> Vec<Problem> {
    let settled = now.since(status.started) > SETTLING;
    let silent = |node: &NodeView| node.heard.map_or(settled, |heard| now.since(heard) > NODE_SILENT);
    let refuses = |node: &NodeView| !silent(node) && node.problem.is_some();
    let behind = |node: &NodeView| {
        !silent(node) && !refuses(node) && node.behind_since.is_some_and(|since| now.since(since) > bounds.lag)
    };
    let list = |which: &dyn Fn(&NodeView) -> bool| {
        let names: Vec<_> = status.nodes.iter().filter(|node| which(node)).map(|node| node.node.as_str()).collect();
        (!names.is_empty()).then(|| named(&names))
    };
    let doctor = "on the node: certgate-node doctor";
    let mut found = Vec::new();
    if let Some(names) = list(&refuses) {
        let what = format!("The last access list was not taken, so removals do not hold there: {names}");
        found.push(problem(Severity::Critical, what, format!("'certgate node show NODE' says why; {doctor}")));
    }
    if let Some(names) = list(&behind) {
        let what = format!("Without the last access list for more than {} s: {names}", bounds.lag.as_secs());
        found.push(problem(Severity::Warning, what, doctor));
    }
    if let Some(names) = list(&silent) {
        let what = format!("Not heard for more than {} s: {names}", NODE_SILENT.as_secs());
        let next = "on the node: systemctl status certgate-node, certgate-node doctor; one that is gone for good: \
                    certgate node remove NODE";
        found.push(problem(Severity::Warning, what, next));
    }
    found
}

fn host_certificates(nodes: &[NodeView], bounds: &Bounds, now: Timestamp) -> Vec<Problem> {
    let next = "on the node: certgate-node doctor; its agent asks for another one with every word to the authority";
    let list = |which: &dyn Fn(Timestamp) -> bool| {
        let late = nodes.iter().filter(|node| node.host_certificate_until.is_some_and(which));
        let names: Vec<_> = late.map(|node| node.node.as_str()).collect();
        (!names.is_empty()).then(|| named(&names))
    };
    let ended = list(&|until| until <= now)
        .map(|names| problem(Severity::Critical, format!("The host certificate has ended: {names}"), next));
    let late = list(&|until| until > now && until.since(now) < bounds.host_ttl / 4).map(|names| {
        let what = format!("The host certificate was not renewed in time, and will end: {names}");
        problem(Severity::Warning, what, next)
    });
    ended.into_iter().chain(late).collect()
}

fn machinery(status: &StatusView) -> Vec<Problem> {
    let mut found = Vec::new();
    let waiting = status.requests.len();
    match &status.provisioner {
        Some(provisioner) if provisioner.connected.is_none() => found.push(problem(
            Severity::Warning,
            "No provisioner is connected: what is asked of the site's machinery waits",
            "on the bastion: systemctl status certgate-provisioner",
        )),
        None if waiting > 0 => found.push(problem(
            Severity::Warning,
            "No provisioner is configured, so that what was asked of the site's machinery before waits",
            "[provisioner] in authority.toml",
        )),
        _ => {}
    }
    let failed: Vec<_> =
        status.requests.iter().filter(|request| request.state.state == "failed").map(|it| it.name.as_str()).collect();
    if !failed.is_empty() {
        let what = format!("The site's machinery has failed at: {}", named(&failed));
        found.push(problem(Severity::Warning, what, "the reasons stand below; it is tried again by itself"));
    }
    found
}

fn backup(last: Option<Timestamp>, bounds: &Bounds, now: Timestamp) -> Option<Problem> {
    let bound = bounds.backup?;
    let what = match last {
        None => "There is no backup yet".into(),
        Some(last) if now.since(last) > bound => format!("The last backup is of {}", last.for_people()),
        Some(_) => return None,
    };
    Some(problem(Severity::Warning, what, "certgate backup --help"))
}

fn tokens(status: &StatusView, bounds: &Bounds, now: Timestamp) -> Option<Problem> {
    let soon = status.tokens.iter().filter(|token| token.expires.since(now) < bounds.token);
    let names: Vec<_> = soon.map(|token| token.node.as_str()).collect();
    let next = "certgate node token NODE makes another one";
    (!names.is_empty()).then(|| {
        let what = format!("Join tokens that nobody has used are about to end: {}", named(&names));
        problem(Severity::Notice, what, next)
    })
}

/// An authority is to be upgraded first, then gateways, then nodes; nothing has to be at once.
fn versions(status: &StatusView) -> Vec<Problem> {
    let other = |program: &Option<String>| program.as_ref().is_some_and(|program| *program != status.program);
    // One that drains beside its successor has a name with a '+', and ends by itself.
    let gateways = status.gateways.iter().filter(|gateway| other(&gateway.program) && !gateway.gateway.contains('+'));
    let gateways: Vec<_> = gateways.map(|gateway| gateway.gateway.as_str()).collect();
    let nodes: Vec<_> = status.nodes.iter().filter(|node| other(&node.program)).map(|it| it.node.as_str()).collect();
    let mut found = Vec::new();
    if !gateways.is_empty() {
        let what = format!("Gateways of another version than this authority: {}", named(&gateways));
        found.push(problem(Severity::Notice, what, "on the bastion: systemctl reload certgate-gateway"));
    }
    if !nodes.is_empty() {
        let what = format!("Agents of another version than this authority: {}", named(&nodes));
        found.push(problem(Severity::Notice, what, "upgrade certgate-node there when it suits"));
    }
    found
}

/// Some of many names.
fn named(names: &[&str]) -> String {
    match names.get(NAMED..) {
        None | Some([]) => names.join(", "),
        Some(more) => format!("{}, and {} more", names.get(..NAMED).unwrap_or_default().join(", "), more.len()),
    }
}
