//! Which nodes have confirmed that they refuse whom they should.

use super::core::{App, lock};
use crate::domain::{NodeId, ProjectPath, Timestamp, Version};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    /// Waits until every node of a project has confirmed a version, or the time is up; says which have, those first that
    /// have not.
    pub async fn wait_for_receipts(
        self: &Arc<Self>,
        project: &ProjectPath,
        version: Version,
        limit: Duration,
    ) -> Vec<Receipt> {
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
            let receipts = self.receipts(&nodes, version);
            if receipts.iter().all(|receipt| receipt.confirmed.is_some()) {
                return receipts;
            }
            match tokio::time::timeout_at(deadline, heard.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return receipts,
            }
        }
    }

    fn receipts(&self, nodes: &BTreeMap<NodeId, String>, version: Version) -> Vec<Receipt> {
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
