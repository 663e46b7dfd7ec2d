//! How a change travels: every commit is looked at once, in order. Sessions whose permit no longer holds are ended,
//! the bundles of the clusters concerned are made anew, nodes that are no more are sent away.

use super::{
    core::{App, lock},
    protocol::Event,
    sessions::Session,
};
use crate::{
    bundle::{Bundle, SignedBundle, bundle_for},
    domain::{ClusterId, Directory, Timestamp, Version},
    policy::Denial,
    store::Commit,
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The bundle of a cluster at one version, for agents of both kinds.
pub(super) struct Bundles {
    /// For every agent: who was removed loses at once what they have open.
    pub(super) plain: SignedBundle,
    /// For those that can let people keep it for a while, if there is somebody.
    pub(super) lingering: Option<SignedBundle>,
}

impl Bundles {
    /// The one for an agent.
    pub(super) fn for_agent(self, lingers: bool) -> SignedBundle {
        let Self { plain, lingering } = self;
        lingering.filter(|_| lingers).unwrap_or(plain)
    }
}

impl App {
    /// Runs until the store is closed, or until `stop` when everything was seen to. Commits that have gathered are taken
    /// together: what counts is the latest directory, and everything that any of them touched.
    pub async fn publish(self: Arc<Self>, mut commits: mpsc::UnboundedReceiver<Commit>, stop: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                next = commits.recv() => next,
                () = stop.cancelled() => None,
            };
            let Some(Commit { mut directory, mut touched }) = next else { return };
            while let Ok(next) = commits.try_recv() {
                directory = next.directory;
                touched.extend(next.touched);
            }
            // There may be something for the site's machinery to do.
            self.asked.send_modify(|_| ());
            let (now, version) = (self.now(), directory.version());
            lock(&self.concerned).extend(touched.accounts.iter().map(|account| (*account, version)));
            let concerned = lock(&self.sessions).concerned(&touched.accounts, &touched.nodes);
            let ended = self.end_those_that_may_not_stay(&directory, concerned, now);
            for node in touched.nodes.iter().filter(|node| directory.node(**node).is_none()) {
                let mut hub = lock(&self.hub);
                hub.forget(*node);
                hub.broadcast(&Event::NodeGone { node: *node });
            }
            // Before what takes longer: it is about what was ended, and somebody may wait for it.
            lock(&self.hub).broadcast(&Event::Mark { version });
            for cluster in touched.clusters {
                self.publish_bundle(&directory, cluster).await;
            }
            // Last: what is written down about it must not delay it.
            for (session, denial) in ended {
                self.note(self.ended(&session, &denial, now)).await;
            }
        }
    }

    /// Ends those sessions whose permit does not hold any more, and returns them with the reason.
    pub(super) fn end_those_that_may_not_stay(
        &self,
        directory: &Directory,
        sessions: Vec<Session>,
        now: Timestamp,
    ) -> Vec<(Session, Denial)> {
        let mut ended = Vec::new();
        for session in sessions {
            match self.stays(directory, &session, now) {
                Ok(lingering) => self.leave(&session, lingering, now),
                Err(denial) => {
                    let event = Event::End { session: session.id.clone(), reason: denial.user.clone() };
                    lock(&self.hub).broadcast(&event);
                    lock(&self.sessions).remove(&session.id);
                    ended.push((session, denial));
                }
            }
        }
        ended
    }

    async fn publish_bundle(&self, directory: &Arc<Directory>, cluster: ClusterId) {
        let Some(path) = directory.cluster(cluster).and_then(|cluster| directory.path_of_cluster(cluster)) else {
            return;
        };
        // Before it is made: if it cannot be, nodes are behind and are shown so, and each of their hellos tries again.
        let version = directory.version();
        let before = lock(&self.published).insert(cluster, version);
        lock(&self.hub).published(directory.nodes_of(cluster).map(|node| node.id), before, self.now());
        match self.bundles(directory, cluster).await {
            Some(Bundles { plain: bundle, lingering }) => {
                lock(&self.hub).broadcast(&Event::Bundle { cluster: path, version, bundle, lingering });
            }
            None => tracing::error!(cluster = %path, "the bundle could not be made; nodes keep the last one"),
        }
    }

    /// Sends a gateway the bundles that were published since it last listened.
    pub(super) async fn publish_again(&self, gateway: &str, seen: Option<Version>) {
        let Some(seen) = seen else { return };
        let missed: Vec<ClusterId> = lock(&self.published)
            .iter()
            .filter(|(_, version)| **version >= seen)
            .map(|(cluster, _)| *cluster)
            .collect();
        let directory = self.directory();
        for cluster in missed {
            let path = directory.cluster(cluster).and_then(|cluster| directory.path_of_cluster(cluster));
            if let (Some(path), Some(bundles)) = (path, self.bundles(&directory, cluster).await) {
                let (version, Bundles { plain: bundle, lingering }) = (directory.version(), bundles);
                lock(&self.hub).tell(gateway, Event::Bundle { cluster: path, version, bundle, lingering });
            }
        }
    }

    /// The signed bundle of a cluster. Made beside the async threads: 100,000 logins take a while to encode.
    pub(super) async fn bundles(&self, directory: &Arc<Directory>, cluster: ClusterId) -> Option<Bundles> {
        let (directory, ca, now) = (directory.clone(), self.ca.clone(), self.now());
        let version = directory.version();
        let made = tokio::task::spawn_blocking(move || {
            let bundle = bundle_for(&directory, cluster, &ca.public(), now)?;
            let sign = |bundle: &Bundle| {
                let signed = SignedBundle::sign(bundle, &ca.bundle);
                let failed =
                    |error| tracing::error!(cluster = %bundle.cluster, %error, "the bundle could not be signed");
                signed.map_err(failed).ok()
            };
            if bundle.leaving.is_empty() {
                return Some(Bundles { plain: sign(&bundle)?, lingering: None });
            }
            let lingering = sign(&bundle)?;
            let plain = sign(&Bundle { leaving: Vec::new(), ..bundle })?;
            Some(Bundles { plain, lingering: Some(lingering) })
        });
        let signed = made.await.ok().flatten()?;
        // Whoever has this version has everything up to it.
        lock(&self.published).entry(cluster).or_insert(version);
        Some(signed)
    }
}
