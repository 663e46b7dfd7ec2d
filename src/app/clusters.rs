//! Clusters; and certificates as things that can be revoked.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    projects::Going,
    resources::{NewCluster, configure_cluster, create_cluster, scale_cluster},
    session_ends::account_of,
};
use crate::{
    domain::{
        CertificateRecord, ClusterPath, Directory, Document, Mutation, NodeCounts, ProjectPath, Revision, Serial,
        Version,
    },
    policy::{Action, Caller, Denial, Grant, Place, Reason},
    store::Ledger,
};
use std::sync::Arc;

/// Which configuration is in force, and what it would be changed to.
#[derive(Clone, Debug)]
pub struct Reconfiguration {
    /// The revision in force.
    pub revision: u64,
    /// The configuration in force.
    pub current: Arc<Document>,
    /// The other one.
    pub proposed: Document,
}

impl App {
    /// Creates a cluster in a project.
    ///
    /// # Errors
    /// Refused, the name was used before in the organization, a shared login is somebody's own, or not durable.
    pub async fn create_cluster(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        new: NewCluster,
    ) -> Result<ClusterPath, AppError> {
        let answer = ClusterPath { cluster: new.name.clone(), org: path.org.clone() };
        let object = format!("{path} {answer}");
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let detail = format!("{}, wanted: {}", new.kind, new.wanted);
            let mutation = create_cluster(ledger.directory, grant.project()?.0, new, now)?;
            Ok(Decided { detail, ..Decided::one(mutation, ()) })
        };
        self.change(asker, Action::ClusterCreate, Some(&path), object, decide).await?;
        Ok(answer)
    }

    /// What another configuration would change.
    ///
    /// # Errors
    /// The asker may not change it, or the text is no configuration of such a cluster.
    pub async fn preview_configuration(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ClusterPath,
        text: &str,
    ) -> Result<Reconfiguration, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            let cluster = grant.cluster()?;
            let proposed = Document::parse(text, cluster.kind)
                .map_err(|error| Denial::plain(Reason::Invalid, error.to_string()))?;
            configure_cluster(directory, cluster, proposed.clone(), self.now())?;
            Ok(Reconfiguration { revision: cluster.revision, current: cluster.document.clone(), proposed })
        };
        self.preview(asker, Action::ClusterUpdate, path, path.to_string(), look).await
    }

    /// Whether a configuration may be given to a cluster, before there is one.
    ///
    /// # Errors
    /// The asker may not change it.
    pub async fn may_configure(self: &Arc<Self>, asker: &Asker, path: &ClusterPath) -> Result<(), AppError> {
        self.preview(asker, Action::ClusterUpdate, path, path.to_string(), |_, _, _| Ok(())).await
    }

    /// Gives a cluster another configuration, if `revision` is still in force; says which revision it is.
    ///
    /// # Errors
    /// Refused, somebody else has changed it meanwhile, a shared login is somebody's own, or not durable.
    pub async fn configure_cluster(
        self: &Arc<Self>,
        asker: &Asker,
        path: ClusterPath,
        document: Document,
        revision: u64,
    ) -> Result<(u64, Version), AppError> {
        let (place, object) = (Place::from(&path), path.to_string());
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let cluster = grant.cluster()?;
            if cluster.revision != revision {
                let text = format!(
                    "{path} has revision {} of its configuration by now, not {revision}; nothing was changed. Look at \
                     it again: cluster show {path} --config",
                    cluster.revision
                );
                return Err(Denial::plain(Reason::Conflict, text));
            }
            match configure_cluster(ledger.directory, cluster, document, now)? {
                None => Ok(Decided::nothing(format!("unchanged, revision {revision}"), revision)),
                Some(mutation) => {
                    let detail = format!("revision {}", revision + 1);
                    Ok(Decided { detail, ..Decided::one(mutation, revision + 1) })
                }
            }
        };
        self.change(asker, Action::ClusterUpdate, place, object, decide).await
    }

    /// How many nodes a cluster should have, before that is changed.
    ///
    /// # Errors
    /// The asker may not change it.
    pub async fn preview_scaling(self: &Arc<Self>, asker: &Asker, path: &ClusterPath) -> Result<NodeCounts, AppError> {
        let look = |_: &Directory, _: &Caller, grant: &Grant| Ok(grant.cluster()?.wanted);
        self.preview(asker, Action::ClusterScale, path, path.to_string(), look).await
    }

    /// Sets how many nodes a cluster should have, if `from` is still what it should have.
    ///
    /// # Errors
    /// Refused, somebody else has changed it meanwhile, or not durable.
    pub async fn scale_cluster(
        self: &Arc<Self>,
        asker: &Asker,
        path: ClusterPath,
        from: NodeCounts,
        to: NodeCounts,
    ) -> Result<Version, AppError> {
        let (place, object) = (Place::from(&path), path.to_string());
        let decide = move |_: Ledger<'_>, _: &Caller, grant: &Grant, _| {
            let cluster = grant.cluster()?;
            if cluster.wanted != from {
                let text = format!(
                    "somebody else has scaled {path} meanwhile, to {}; nothing was changed. Try again",
                    cluster.wanted
                );
                return Err(Denial::plain(Reason::Conflict, text));
            }
            let detail = format!("from {from} to {to}");
            Ok(match scale_cluster(cluster, to) {
                None => Decided::nothing(detail, ()),
                Some(mutation) => Decided { detail, ..Decided::one(mutation, ()) },
            })
        };
        Ok(self.change(asker, Action::ClusterScale, place, object, decide).await?.1)
    }

    /// What the deletion of a cluster will take with it.
    ///
    /// # Errors
    /// The asker may not delete it, or it is not there.
    pub async fn preview_cluster_deletion(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ClusterPath,
    ) -> Result<Going, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            let cluster = grant.cluster()?.id;
            let sessions = self.sessions_on(directory, None, |node| node.cluster == cluster);
            Ok(Going { nodes: directory.nodes_of(cluster).count(), sessions })
        };
        self.preview(asker, Action::ClusterDelete, path, path.to_string(), look).await
    }

    /// Deletes a cluster with its nodes. Its name stays taken.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn delete_cluster(self: &Arc<Self>, asker: &Asker, path: ClusterPath) -> Result<Version, AppError> {
        let decide = move |_: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let (cluster, by) = (grant.cluster()?.id, caller.actor());
            Ok(Decided::one(Mutation::ClusterDeleted { cluster, at: now, by }, ()))
        };
        Ok(self.change(asker, Action::ClusterDelete, &path, path.to_string(), decide).await?.1)
    }

    /// A configuration that a cluster has or had; the one in force if none is named.
    ///
    /// # Errors
    /// Refused, no such revision, or the store cannot be read.
    pub async fn revision(
        &self,
        asker: &Asker,
        path: &ClusterPath,
        revision: Option<u64>,
    ) -> Result<Revision, AppError> {
        let found = self.view(asker, Action::ClusterShow, path, |_, _, grant| {
            let cluster = grant.cluster()?;
            Ok((cluster.id, revision.unwrap_or(cluster.revision)))
        });
        let (cluster, revision) = found?;
        let unknown = || Denial::plain(Reason::NotFound, format!("{path} has no revision {revision}"));
        Ok(self.store.revision(cluster, revision).await?.ok_or_else(unknown)?)
    }

    /// The certificates that have not ended: one's own, or all as operator; in order of serials.
    ///
    /// # Errors
    /// Refused.
    pub fn live_certificates(&self, asker: &Asker) -> Result<Vec<CertificateRecord>, AppError> {
        let now = self.now();
        let own = self.view(asker, Action::CertificateList, None, |_, caller, _| Ok(account_of(caller)))?;
        let mut records: Vec<_> = lock(&self.live)
            .values()
            .filter(|record| record.valid_before > now && own.is_none_or(|own| own == record.account))
            .cloned()
            .collect();
        records.sort_by_key(|record| record.serial);
        Ok(records)
    }

    /// Revokes a live certificate: one's own, or anybody's as operator. Nobody can revoke, or learn of, another's.
    ///
    /// # Errors
    /// Refused, not live, or not durable.
    pub async fn revoke_certificate(self: &Arc<Self>, asker: &Asker, serial: Serial) -> Result<Version, AppError> {
        let record = self.record_of(Some(serial));
        let decide = move |ledger: Ledger<'_>, caller: &Caller, _: &Grant, now| {
            let unknown =
                || Denial::not_found("live certificate", &serial, format!("certificate {serial} is not live"));
            let own = account_of(caller);
            let record = record
                .filter(|record| record.valid_before > now && own.is_none_or(|own| own == record.account))
                .ok_or_else(unknown)?;
            if ledger.directory.denied_serial(serial).is_some() {
                return Err(Denial::plain(Reason::Conflict, format!("certificate {serial} is revoked already")));
            }
            let denied = Mutation::SerialDenied { serial, account: record.account, until: record.valid_before };
            Ok(Decided::one(denied, ()))
        };
        Ok(self.change(asker, Action::CertificateRevoke, None, serial, decide).await?.1)
    }
}
