//! Which gateways have confirmed that they have ended what they should, and which nodes that they refuse whom they should.

use super::core::{App, lock};
use crate::domain::{NodeId, ProjectPath, Timestamp, Version};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What was confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct Receipts {
    /// By gateways, those first that have not.
    pub gateways: Vec<GatewayReceipt>,
    /// By nodes, those first that have not.
    #[serde(rename = "receipts")]
    pub nodes: Vec<Receipt>,
}

impl Receipts {
    /// How many have not confirmed.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.gateways.iter().filter(|receipt| receipt.confirmed.is_none()).count()
            + self.nodes.iter().filter(|receipt| receipt.confirmed.is_none()).count()
    }
}

/// What a gateway has confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct GatewayReceipt {
    /// Its name.
    pub gateway: String,
    /// When it said that what goes through it and had to end has ended.
    pub confirmed: Option<Timestamp>,
    /// Whether it can be told anything now.
    pub connected: bool,
}

/// What a node has confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// `NODE.CLUSTER.ORG`.
    pub node: String,
    /// When the authority heard that the version is in force there.
    pub confirmed: Option<Timestamp>,
    /// How many sessions, whichever way they came, it has ended because of it.
    pub ended: u32,
    /// The version in force there, as it last said.
    pub version: Option<Version>,
    /// When it last said anything, since this authority started.
    pub heard: Option<Timestamp>,
    /// Why it did not take the last bundle.
    pub problem: Option<String>,
}

impl App {
    /// Waits until every gateway, and every node of a project, has confirmed a version, or the time is up; says which have.
    pub async fn wait_for_receipts(
        self: &Arc<Self>,
        project: &ProjectPath,
        version: Version,
        limit: Duration,
    ) -> Receipts {
        let directory = self.directory();
        let nodes: BTreeMap<NodeId, String> = directory
            .project_at(project)
            .into_iter()
            .flat_map(|project| directory.clusters_of(project.id))
            .flat_map(|cluster| directory.nodes_of(cluster.id))
            .filter_map(|node| Some((node.id, directory.path_of_node(node)?.to_string())))
            .collect();
        let deadline = tokio::time::Instant::now() + limit;
        let mut heard = self.heard.subscribe();
        loop {
            heard.borrow_and_update();
            let receipts =
                Receipts { gateways: self.gateway_receipts(version), nodes: self.node_receipts(&nodes, version) };
            if receipts.missing() == 0 {
                return receipts;
            }
            match tokio::time::timeout_at(deadline, heard.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return receipts,
            }
        }
    }

    /// Of those that are connected, and those that are not and were last known to have something open.
    fn gateway_receipts(&self, version: Version) -> Vec<GatewayReceipt> {
        let with_sessions: BTreeSet<String> =
            lock(&self.sessions).iter().map(|session| session.gateway.clone()).collect();
        let hub = lock(&self.hub);
        let connected = hub.gateways().map(|(name, gateway)| {
            let done = gateway.done.filter(|(done, _)| *done >= version);
            (name.clone(), GatewayReceipt { gateway: name.clone(), confirmed: done.map(|(_, at)| at), connected: true })
        });
        let mut all: BTreeMap<String, GatewayReceipt> = connected.collect();
        for gateway in with_sessions {
            let lost = GatewayReceipt { gateway: gateway.clone(), confirmed: None, connected: false };
            all.entry(gateway).or_insert(lost);
        }
        let mut receipts: Vec<_> = all.into_values().collect();
        receipts.sort_by_key(|receipt| receipt.confirmed.is_some());
        receipts
    }

    fn node_receipts(&self, nodes: &BTreeMap<NodeId, String>, version: Version) -> Vec<Receipt> {
        let hub = lock(&self.hub);
        let receipt = |(id, node): (&NodeId, &String)| {
            let status = hub.node(*id);
            let confirmed = status.filter(|status| status.version >= Some(version));
            Receipt {
                node: node.clone(),
                confirmed: confirmed.map(|status| status.since),
                ended: confirmed.map_or(0, |status| status.ended),
                version: status.and_then(|status| status.version),
                heard: status.map(|status| status.heard),
                problem: status.and_then(|status| status.problem.clone()),
            }
        };
        let mut receipts: Vec<_> = nodes.iter().map(receipt).collect();
        receipts.sort_by_key(|receipt| receipt.confirmed.is_some());
        receipts
    }
}
