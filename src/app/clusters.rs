//! Clusters and volumes; and certificates and sessions as things that can be ended.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    protocol::Event,
};
use crate::{
    domain::{
        AccountId, CertificateRecord, Cluster, ClusterId, ClusterKind, ClusterName, ClusterPath, Directory, MountPath,
        Mutation, NodeCounts, ProjectId, ProjectPath, Serial, SessionId, Size, Version, Volume, VolumeId, VolumeName,
    },
    policy::{Action, Caller, Denial, Grant, Reason},
    store::Ledger,
};
use std::sync::Arc;

impl App {
    /// Creates a cluster in a project.
    ///
    /// # Errors
    /// Refused, the name was used before in the organization, or not durable.
    pub async fn create_cluster(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        name: ClusterName,
        kind: ClusterKind,
    ) -> Result<ClusterPath, AppError> {
        let answer = ClusterPath { cluster: name.clone(), org: path.org.clone() };
        let told = answer.clone();
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let project = grant.project()?.0;
            if ledger.directory.cluster_name_taken(project.org, &name) {
                let text = format!("{told} is or was a cluster; names are never given out twice");
                return Err(Denial::plain(Reason::Conflict, text));
            }
            let id = ClusterId(ledger.directory.counters().id);
            let cluster = Cluster {
                id,
                project: project.id,
                name,
                kind,
                document: Arc::default(),
                revision: 1,
                wanted: NodeCounts::default(),
                created: now,
            };
            Ok(Decided::one(Mutation::ClusterCreated(cluster), ()))
        };
        let object = format!("{path} {answer}");
        self.change(asker, Action::ClusterCreate, Some(&path), object, decide).await?;
        Ok(answer)
    }

    /// How many nodes the deletion of a cluster will take with it.
    ///
    /// # Errors
    /// The asker may not delete it, or it is not there.
    pub async fn preview_cluster_deletion(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ClusterPath,
    ) -> Result<usize, AppError> {
        let look =
            |directory: &Directory, _: &Caller, grant: &Grant| Ok(directory.nodes_of(grant.cluster()?.id).count());
        self.preview(asker, Action::ClusterDelete, path, path.to_string(), look).await
    }

    /// Deletes a cluster with its nodes. Its name stays taken.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn delete_cluster(self: &Arc<Self>, asker: &Asker, path: ClusterPath) -> Result<Version, AppError> {
        let decide = move |_: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            Ok(Decided::one(Mutation::ClusterDeleted { cluster: grant.cluster()?.id, at: now }, ()))
        };
        Ok(self.change(asker, Action::ClusterDelete, &path, path.to_string(), decide).await?.1)
    }

    /// Creates a volume in a project.
    ///
    /// # Errors
    /// Refused, the name is taken, or not durable.
    pub async fn create_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        name: VolumeName,
        size: Size,
        mount: MountPath,
    ) -> Result<(), AppError> {
        let object = format!("{path} {name}");
        let at = path.clone();
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let project = grant.project()?.0.id;
            if ledger.directory.volume_named(project, &name).is_some() {
                return Err(Denial::plain(Reason::Conflict, format!("{at} has a volume {name} already")));
            }
            let id = VolumeId(ledger.directory.counters().id);
            Ok(Decided::one(Mutation::VolumeCreated(Volume { id, project, name, size, mount, created: now }), ()))
        };
        self.change(asker, Action::VolumeCreate, Some(&path), object, decide).await?;
        Ok(())
    }

    /// Whether there is a volume that can be deleted.
    ///
    /// # Errors
    /// The asker may not delete it, or it is not there.
    pub async fn preview_volume_deletion(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
        name: &VolumeName,
    ) -> Result<(), AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            volume_named(directory, grant.project()?.0.id, name).map(drop)
        };
        self.preview(asker, Action::VolumeDelete, Some(path), format!("{path} {name}"), look).await
    }

    /// Deletes a volume.
    ///
    /// # Errors
    /// Refused, no such volume, or not durable.
    pub async fn delete_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        name: VolumeName,
    ) -> Result<(), AppError> {
        let object = format!("{path} {name}");
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let volume = volume_named(ledger.directory, grant.project()?.0.id, &name)?.id;
            Ok(Decided::one(Mutation::VolumeDeleted { volume, at: now }, ()))
        };
        self.change(asker, Action::VolumeDelete, Some(&path), object, decide).await?;
        Ok(())
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
        let object = format!("serial {serial}");
        Ok(self.change(asker, Action::CertificateRevoke, None, object, decide).await?.1)
    }

    /// Ends an open session: one's own, or anybody's as operator. It can be opened again.
    ///
    /// # Errors
    /// Refused, or not open.
    pub async fn end_session(self: &Arc<Self>, asker: &Asker, id: SessionId) -> Result<(), AppError> {
        let session = lock(&self.sessions).get(&id).cloned();
        let object = format!("session {id}");
        let told = id.clone();
        let decide = move |_: Ledger<'_>, caller: &Caller, _: &Grant, _| {
            let unknown = || Denial::not_found("open session", &told, format!("session {told} is not open"));
            let own = account_of(caller);
            let session = session.filter(|s| own.is_none_or(|own| own == s.credential.account)).ok_or_else(unknown)?;
            let detail = format!("to {}", session.path);
            Ok(Decided { mutations: vec![], certificate: None, detail, answer: caller.actor() })
        };
        let (by, _) = self.change(asker, Action::SessionEnd, None, object, decide).await?;
        lock(&self.sessions).remove(&id);
        lock(&self.hub).broadcast(&Event::End { session: id, reason: format!("ended by {by}") });
        Ok(())
    }
}

fn volume_named<'d>(
    directory: &'d Directory,
    project: ProjectId,
    name: &VolumeName,
) -> Result<&'d Arc<Volume>, Denial> {
    let unknown = || Denial::not_found("volume", name, format!("no volume {name}"));
    directory.volume_named(project, name).ok_or_else(unknown)
}

fn account_of(caller: &Caller) -> Option<AccountId> {
    caller.identity().map(|identity| identity.account().id)
}
