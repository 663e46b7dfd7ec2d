//! The gateways and nodes that are connected, and what they have said. No I/O: events go into bounded queues.

use super::{
    node_sessions::NodeSession,
    protocol::{Event, Reach},
};
use crate::domain::{InstanceId, NodeId, PublicKey, Timestamp, Version};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};
use tokio::sync::mpsc;

/// Events that wait for a gateway that does not read; one more, and its stream is closed. It then reconnects, says
/// what it has and gets what it lacks.
const QUEUE: usize = 4096;

/// A node gets a new host certificate no more often than this.
const CERTIFIED_EVERY: Duration = Duration::from_secs(600);

/// How long after its own bound a gateway that is gone is believed to have ended everything.
const MARGIN: Duration = Duration::from_secs(30);

/// No gateway is waited for longer, and so long one of which nothing is known.
const LONGEST_LOSS: Duration = Duration::from_secs(86_400);

/// A gateway whose event stream is open.
#[derive(Debug)]
pub struct Gateway {
    /// Its host key.
    pub host_key: PublicKey,
    /// Since when.
    pub since: Timestamp,
    /// When it last got a host certificate.
    pub certified: Option<Timestamp>,
    /// When that one ends.
    pub certificate_until: Option<Timestamp>,
    /// The version of its program, as it says.
    pub program: Option<String>,
    /// Which process it is, as it says.
    pub instance: Option<InstanceId>,
    /// Up to which version it has ended what had to end, and when it said so.
    pub done: Option<(Version, Timestamp)>,
    events: mpsc::Sender<Event>,
    /// Which stream of this gateway it is: a former one that closes late must not close this one.
    stream: u64,
}

/// What is known of a node since this authority started.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The version that it has in force.
    pub version: Option<Version>,
    /// When it was first heard to have that version.
    pub since: Timestamp,
    /// Why it did not take the last one.
    pub problem: Option<String>,
    /// How many sessions it has ended because of that version.
    pub ended: u32,
    /// When it last said anything.
    pub heard: Timestamp,
    /// From where.
    pub peer: Option<IpAddr>,
    /// How its sshd is reached, as it last said.
    pub reach: Reach,
    /// When it last got a host certificate.
    pub certified: Option<Timestamp>,
    /// When the host certificate that it has ends, as it last said.
    pub host_certificate_until: Option<Timestamp>,
    /// The version of its agent's program, as it last said.
    pub program: Option<String>,
    /// Since when it lacks something, if it does.
    pub behind_since: Option<Timestamp>,
}

/// Who is connected.
#[derive(Debug, Default)]
pub struct Hub {
    gateways: BTreeMap<String, Gateway>,
    nodes: BTreeMap<NodeId, NodeStatus>,
    sessions: BTreeMap<NodeId, Vec<NodeSession>>,
    streams: u64,
    /// After how long without this authority each gateway ends everything that it has open.
    bounds: BTreeMap<String, Duration>,
    /// Gateways that are away and had something open: when that must be over.
    gone: BTreeMap<String, Timestamp>,
}

impl Hub {
    /// A gateway has opened its event stream; a former stream of the same name is closed.
    pub fn connect(
        &mut self,
        name: &str,
        host_key: PublicKey,
        lost_after: Duration,
        now: Timestamp,
    ) -> (u64, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        self.streams += 1;
        self.bounds.insert(name.to_owned(), lost_after.min(LONGEST_LOSS));
        self.gone.remove(name);
        let stream = self.streams;
        // The certificate is the process's, which may be another one now.
        let (certified, certificate_until, program, instance, done) = (None, None, None, None, None);
        let gateway =
            Gateway { host_key, since: now, certified, certificate_until, program, instance, done, events, stream };
        self.gateways.insert(name.to_owned(), gateway);
        (stream, receiver)
    }

    /// The gateways, by name, that need a host certificate now, with their host keys; notes it as given.
    pub fn uncertified(&mut self, after: Duration, now: Timestamp) -> Vec<(String, PublicKey)> {
        let due = |last: Option<Timestamp>| last.is_none_or(|last| now.since(last) >= after);
        let due = self.gateways.iter_mut().filter(|(_, gateway)| due(gateway.certified));
        due.map(|(name, gateway)| {
            gateway.certified = Some(now);
            (name.clone(), gateway.host_key.clone())
        })
        .collect()
    }

    /// A gateway did not get the certificate that was noted as given: it is due again after a while.
    pub fn not_certified(&mut self, name: &str, given: Timestamp) {
        if let Some(gateway) = self.gateways.get_mut(name) {
            gateway.certified = Some(given);
        }
    }

    /// A gateway got a certificate that ends then.
    pub fn has_certificate(&mut self, name: &str, until: Timestamp) {
        if let Some(gateway) = self.gateways.get_mut(name) {
            gateway.certificate_until = Some(until);
        }
    }

    /// A gateway has said what program it is, and which process of it.
    pub fn runs(&mut self, name: &str, program: Option<&str>, instance: Option<InstanceId>) {
        if let Some(gateway) = self.gateways.get_mut(name) {
            gateway.program = program.and_then(version_of);
            gateway.instance = instance;
        }
    }

    /// The name by which a process goes now, if it is connected.
    #[must_use]
    pub fn name_of(&self, instance: &InstanceId) -> Option<&str> {
        let its = self.gateways.iter().filter(|(_, gateway)| gateway.instance.as_ref() == Some(instance));
        its.max_by_key(|(_, gateway)| gateway.stream).map(|(name, _)| name.as_str())
    }

    /// Of the gateways that are said to have something open, those that have been away for so long that it cannot be open
    /// any more: they would have ended it themselves.
    pub fn lost(&mut self, with_sessions: &BTreeSet<String>, now: Timestamp) -> Vec<String> {
        let Self { gateways, bounds, gone, .. } = self;
        bounds.retain(|name, _| gateways.contains_key(name) || with_sessions.contains(name));
        gone.retain(|name, _| with_sessions.contains(name) && !gateways.contains_key(name));
        for name in with_sessions.iter().filter(|name| !gateways.contains_key(*name)) {
            let bound = bounds.get(name).copied().unwrap_or(LONGEST_LOSS);
            gone.entry(name.clone()).or_insert_with(|| now.after(bound + MARGIN));
        }
        gone.iter().filter(|(_, over)| **over <= now).map(|(name, _)| name.clone()).collect()
    }

    /// An event stream has ended. True if it was the gateway's current one.
    pub fn disconnect(&mut self, name: &str, stream: u64) -> bool {
        if self.gateways.get(name).is_some_and(|gateway| gateway.stream == stream) {
            self.gateways.remove(name);
            return true;
        }
        false
    }

    /// Tells one gateway; see [`Hub::broadcast`].
    pub fn tell(&mut self, name: &str, event: Event) {
        let full = self.gateways.get(name).is_some_and(|gateway| gateway.events.try_send(event).is_err());
        if full {
            tracing::warn!(gateway = %name, "the gateway does not take events; its stream is closed");
            self.gateways.remove(name);
        }
    }

    /// Tells every gateway. One that has stopped reading is dropped; it will come back and ask.
    pub fn broadcast(&mut self, event: &Event) {
        self.gateways.retain(|name, gateway| match gateway.events.try_send(event.clone()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(gateway = %name, %error, "the gateway does not take events; its stream is closed");
                false
            }
        });
    }

    /// A gateway has ended what had to end up to a version.
    pub fn marked(&mut self, name: &str, version: Version, now: Timestamp) {
        if let Some(gateway) = self.gateways.get_mut(name)
            && gateway.done.is_none_or(|(before, _)| before < version)
        {
            gateway.done = Some((version, now));
        }
    }

    /// The gateways, by name.
    pub fn gateways(&self) -> impl Iterator<Item = (&String, &Gateway)> {
        self.gateways.iter()
    }

    /// A node has said something.
    pub fn heard(&mut self, node: NodeId, version: Option<Version>, peer: Option<IpAddr>, now: Timestamp) {
        let status = self.nodes.entry(node).or_insert(NodeStatus {
            version,
            since: now,
            problem: None,
            ended: 0,
            heard: now,
            peer,
            reach: Reach::Direct,
            certified: None,
            host_certificate_until: None,
            program: None,
            behind_since: None,
        });
        if status.version != version {
            status.version = version;
            status.since = now;
            status.ended = 0;
        }
        status.heard = now;
        if peer.is_some() {
            status.peer = peer;
        }
    }

    /// A node has said how its sshd is reached.
    pub fn reached(&mut self, node: NodeId, reach: Reach) {
        if let Some(status) = self.nodes.get_mut(&node) {
            status.reach = reach;
        }
    }

    /// A node has said what program its agent is, and until when its host certificate is good.
    pub fn has(&mut self, node: NodeId, program: Option<&str>, host_certificate_until: Option<u64>) {
        if let Some(status) = self.nodes.get_mut(&node) {
            status.program = program.and_then(version_of);
            status.host_certificate_until = host_certificate_until.map(Timestamp::from_secs);
        }
    }

    /// There is something new for nodes, after what they should have had until now. Who lacked something already has
    /// lacked it for longer.
    pub fn published(&mut self, nodes: impl Iterator<Item = NodeId>, before: Option<Version>, now: Timestamp) {
        for node in nodes {
            if let Some(status) = self.nodes.get_mut(&node)
                && (status.behind_since.is_none() || status.version >= before)
            {
                status.behind_since = Some(now);
            }
        }
    }

    /// How a node's sshd is reached.
    #[must_use]
    pub fn reach(&self, node: NodeId) -> Reach {
        self.nodes.get(&node).map(|status| status.reach).unwrap_or_default()
    }

    /// Whether a node may get a host certificate now; notes it as given if it may.
    pub fn may_have_host_certificate(&mut self, node: NodeId, now: Timestamp) -> bool {
        let Some(status) = self.nodes.get_mut(&node) else { return false };
        if status.certified.is_some_and(|last| now.since(last) < CERTIFIED_EVERY) {
            return false;
        }
        status.certified = Some(now);
        true
    }

    /// A node could not take a bundle, or could again.
    pub fn problem(&mut self, node: NodeId, problem: Option<String>) {
        if let Some(status) = self.nodes.get_mut(&node) {
            status.problem = problem;
        }
    }

    /// A node has ended sessions because of the version that it has.
    pub fn ended(&mut self, node: NodeId, sessions: u32) {
        if let Some(status) = self.nodes.get_mut(&node) {
            status.ended = status.ended.saturating_add(sessions);
        }
    }

    /// A node has said what sessions it has.
    pub fn set_sessions(&mut self, node: NodeId, sessions: Vec<NodeSession>, now: Timestamp) {
        if let Some(status) = self.nodes.get_mut(&node) {
            status.heard = now;
        }
        if sessions.is_empty() {
            self.sessions.remove(&node);
        } else {
            self.sessions.insert(node, sessions);
        }
    }

    /// The sessions of all nodes.
    pub fn sessions(&self) -> impl Iterator<Item = (NodeId, &NodeSession)> {
        self.sessions.iter().flat_map(|(node, sessions)| sessions.iter().map(|session| (*node, session)))
    }

    /// A node is no more.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.sessions.remove(&node);
    }

    /// What is known of a node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&NodeStatus> {
        self.nodes.get(&node)
    }
}

/// A program's version, if what was said is one to look at.
fn version_of(said: &str) -> Option<String> {
    let fine = (1..=32).contains(&said.len()) && said.bytes().all(|b| b.is_ascii_graphic());
    fine.then(|| said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    fn key() -> PublicKey {
        const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILM+hvqVBQLyBkxNzuHmXMvo6vRIFqgiUj1mL0BHkPc";
        LINE.parse().unwrap()
    }

    #[test]
    fn what_a_gateway_had_is_over_when_it_would_have_ended_it_itself() {
        let mut hub = Hub::default();
        let with = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (stream, _events) = hub.connect("gw1", key(), Duration::from_secs(300), at(0));
        assert!(hub.lost(&with(&["gw1"]), at(1000)).is_empty(), "it is there");
        hub.disconnect("gw1", stream);
        assert!(hub.lost(&with(&["gw1"]), at(1000)).is_empty());
        assert!(hub.lost(&with(&["gw1"]), at(1329)).is_empty());
        let (stream, _events) = hub.connect("gw1", key(), Duration::from_secs(300), at(1329));
        hub.disconnect("gw1", stream);
        assert!(hub.lost(&with(&["gw1"]), at(1330)).is_empty(), "it has come back meanwhile");
        assert_eq!(hub.lost(&with(&["gw1"]), at(1660)), ["gw1"]);
        assert!(hub.lost(&with(&[]), at(1661)).is_empty());
        assert!(hub.gone.is_empty() && hub.bounds.is_empty(), "nothing is kept of it");
    }

    #[test]
    fn each_process_gets_a_host_certificate_and_another_in_time() {
        let mut hub = Hub::default();
        let half = Duration::from_secs(100);
        let (_, _events) = hub.connect("gw1", key(), half, at(0));
        assert_eq!(hub.uncertified(half, at(0)).len(), 1);
        assert!(hub.uncertified(half, at(99)).is_empty());
        assert_eq!(hub.uncertified(half, at(100)).len(), 1);
        let (_, _events) = hub.connect("gw1", key(), half, at(101));
        assert_eq!(hub.uncertified(half, at(101)).len(), 1, "another process has none");
    }
}
