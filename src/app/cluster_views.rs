//! Looking at clusters and volumes: what they should be, what they are, and what has become of it.

use super::{
    core::{App, Asker, lock},
    error::AppError,
    hub::Hub,
    protocol::NODE_HELLO_SECS,
    resources::volume_named,
    view_types::ProjectView,
    views::projects,
};
use crate::{
    bundle::shared_logins,
    domain::{
        Cluster, ClusterPath, Directory, Gpus, MountPath, Node, NodeRole, ProjectPath, ProvisionState, Resource, Role,
        SharedLoginName, Size, Timestamp, Volume, VolumeName,
    },
    policy::{Action, Caller},
};
use serde::Serialize;
use std::time::Duration;

/// A node that has missed three hellos in a row is not connected.
pub const NODE_SILENT: Duration = Duration::from_secs(3 * NODE_HELLO_SECS);

/// How many nodes: of one role, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeCount {
    /// How many there should be.
    pub wanted: u64,
    /// How many have joined.
    pub enrolled: u64,
    /// From how many of these something was heard lately.
    pub connected: u64,
}

/// How many nodes a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterNodes {
    /// Login nodes.
    pub login: NodeCount,
    /// Compute nodes.
    pub compute: NodeCount,
    /// Controllers.
    pub controller: NodeCount,
}

impl ClusterNodes {
    /// For each role.
    #[must_use]
    pub fn by_role(&self) -> [(NodeRole, NodeCount); 3] {
        [(NodeRole::Login, self.login), (NodeRole::Compute, self.compute), (NodeRole::Controller, self.controller)]
    }

    /// Of all roles.
    #[must_use]
    pub fn all(&self) -> NodeCount {
        let mut all = NodeCount::default();
        for (_, count) in self.by_role() {
            all.wanted += count.wanted;
            all.enrolled += count.enrolled;
            all.connected += count.connected;
        }
        all
    }

    fn of_mut(&mut self, role: NodeRole) -> &mut NodeCount {
        match role {
            NodeRole::Login => &mut self.login,
            NodeRole::Compute => &mut self.compute,
            NodeRole::Controller => &mut self.controller,
        }
    }
}

/// What has become of what the site's machinery was asked, and of what it was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateView {
    /// `ready`, `pending` or `failed`.
    pub state: &'static str,
    /// Why, if it failed.
    pub reason: Option<String>,
}

impl StateView {
    fn of(directory: &Directory, resource: Resource) -> Self {
        match directory.job(resource).map(|job| &job.state) {
            // Nobody was ever asked: it is as the directory says.
            None | Some(ProvisionState::Ready) => Self { state: "ready", reason: None },
            Some(ProvisionState::Pending) => Self { state: "pending", reason: None },
            Some(ProvisionState::Failed(reason)) => Self { state: "failed", reason: Some(reason.clone()) },
        }
    }
}

/// `ready`, `pending`, `failed: REASON`.
impl std::fmt::Display for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            None => f.pad(self.state),
            Some(reason) => f.pad(&format!("{}: {reason}", self.state)),
        }
    }
}

/// A cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterView {
    /// `CLUSTER.ORG`.
    pub cluster: ClusterPath,
    /// Its project.
    pub project: ProjectPath,
    /// What runs on it.
    pub kind: String,
    /// What has become of it.
    #[serde(flatten)]
    pub state: StateView,
    /// The asker's role in its project.
    pub role: Option<String>,
    /// How many nodes it has.
    pub nodes: ClusterNodes,
}

/// A request to the site's machinery that it has not fulfilled.
#[derive(Clone, Debug, Serialize)]
pub struct RequestView {
    /// `CLUSTER.ORG`, or `ORG/PROJECT VOLUME`.
    pub name: String,
    /// `create`, `change`, `scale` or `delete`.
    pub action: String,
    /// What has become of it.
    #[serde(flatten)]
    pub state: StateView,
    /// Since when.
    pub since: Timestamp,
    /// How often it has failed in a row.
    pub failures: u32,
    /// When it is tried (again).
    pub next: Timestamp,
}

/// A login that people share.
#[derive(Clone, Debug, Serialize)]
pub struct SharedLoginView {
    /// Its name.
    pub login: SharedLoginName,
    /// The role that it takes.
    pub role: Role,
    /// How many may use it.
    pub users: usize,
    /// Why it is not in force, if it is not.
    pub problem: Option<&'static str>,
}

/// All about a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterDetails {
    /// What the list says.
    #[serde(flatten)]
    pub view: ClusterView,
    /// Since when.
    pub created: Timestamp,
    /// What the site's machinery has still to do.
    pub request: Option<RequestView>,
    /// What is in a compute node.
    pub gpus: Option<Gpus>,
    /// The logins that people share.
    pub shared_logins: Vec<SharedLoginView>,
    /// Which configuration is in force.
    pub revision: u64,
    /// The configuration.
    pub document: String,
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeView {
    /// Its name.
    pub volume: VolumeName,
    /// Its project.
    pub project: ProjectPath,
    /// How large it is, in bytes.
    pub size: Size,
    /// Where nodes mount it.
    pub mount: MountPath,
    /// What has become of it.
    #[serde(flatten)]
    pub state: StateView,
    /// Since when.
    pub created: Timestamp,
}

/// All about a volume.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeDetails {
    /// What the list says.
    #[serde(flatten)]
    pub view: VolumeView,
    /// What the site's machinery has still to do.
    pub request: Option<RequestView>,
}

impl App {
    /// The clusters of all the asker's projects; all of them for an operator.
    ///
    /// # Errors
    /// Refused.
    pub fn clusters(&self, asker: &Asker) -> Result<Vec<ClusterView>, AppError> {
        self.view(asker, Action::ClusterList, None, |directory, caller, _| Ok(self.cluster_views(directory, caller)))
    }

    pub(super) fn cluster_views(&self, directory: &Directory, caller: &Caller) -> Vec<ClusterView> {
        let (hub, now) = (lock(&self.hub), self.now());
        let views = projects(directory, caller).into_iter().filter_map(|project| {
            let id = directory.project_at(&project.project)?.id;
            let clusters = directory.clusters_of(id).filter_map(|c| view(directory, &hub, &project, c, now));
            Some(clusters.collect::<Vec<_>>())
        });
        views.flatten().collect()
    }

    /// All about a cluster.
    ///
    /// # Errors
    /// Refused.
    pub fn cluster(&self, asker: &Asker, path: &ClusterPath) -> Result<ClusterDetails, AppError> {
        self.view(asker, Action::ClusterShow, path, |directory, caller, grant| {
            let (cluster, (id, project)) = (grant.cluster()?, grant.project()?);
            let nodes = nodes(directory, &lock(&self.hub), cluster, self.now());
            let logins = shared_logins(directory, cluster).into_iter().map(|login| SharedLoginView {
                login: login.name,
                role: login.role,
                users: login.sharers.len(),
                problem: login.problem,
            });
            let resource = Resource::Cluster(cluster.id);
            Ok(ClusterDetails {
                view: ClusterView {
                    cluster: path.clone(),
                    project: project.clone(),
                    kind: cluster.kind.to_string(),
                    state: StateView::of(directory, resource),
                    role: super::views::role(directory, caller, id.id),
                    nodes,
                },
                created: cluster.created,
                request: request(directory, resource),
                gpus: cluster.document.specification().gpus.clone(),
                shared_logins: logins.collect(),
                revision: cluster.revision,
                document: cluster.document.text().to_owned(),
            })
        })
    }

    /// The volumes of all the asker's projects; all of them for an operator.
    ///
    /// # Errors
    /// Refused.
    pub fn volumes(&self, asker: &Asker) -> Result<Vec<VolumeView>, AppError> {
        self.view(asker, Action::VolumeList, None, |directory, caller, _| {
            let views = projects(directory, caller).into_iter().filter_map(|project| {
                let id = directory.project_at(&project.project)?.id;
                let volumes = directory.volumes_of(id).map(|volume| volume_view(directory, &project.project, volume));
                Some(volumes.collect::<Vec<_>>())
            });
            Ok(views.flatten().collect())
        })
    }

    /// All about a volume.
    ///
    /// # Errors
    /// Refused, or no such volume.
    pub fn volume(&self, asker: &Asker, path: &ProjectPath, name: &VolumeName) -> Result<VolumeDetails, AppError> {
        self.view(asker, Action::VolumeShow, Some(path), |directory, _, grant| {
            let (project, path) = grant.project()?;
            let volume = volume_named(directory, project, name)?;
            let request = request(directory, Resource::Volume(volume.id));
            Ok(VolumeDetails { view: volume_view(directory, path, volume), request })
        })
    }
}

/// What the site's machinery has still to do about a resource.
fn request(directory: &Directory, resource: Resource) -> Option<RequestView> {
    let job = directory.job(resource).filter(|job| job.state != ProvisionState::Ready)?;
    Some(RequestView {
        name: job.name.clone(),
        action: job.action.to_string(),
        state: StateView::of(directory, resource),
        since: job.queued,
        failures: job.attempts,
        next: job.next,
    })
}

/// All that the site's machinery has still to do, for what is gone as well; what has waited longest first.
pub(super) fn requests(directory: &Directory) -> Vec<RequestView> {
    let mut requests: Vec<_> = directory.jobs().filter_map(|job| request(directory, job.resource)).collect();
    requests.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    requests
}

fn view(
    directory: &Directory,
    hub: &Hub,
    project: &ProjectView,
    cluster: &Cluster,
    now: Timestamp,
) -> Option<ClusterView> {
    Some(ClusterView {
        cluster: directory.path_of_cluster(cluster)?,
        project: project.project.clone(),
        kind: cluster.kind.to_string(),
        state: StateView::of(directory, Resource::Cluster(cluster.id)),
        role: project.role.clone(),
        nodes: nodes(directory, hub, cluster, now),
    })
}

fn nodes(directory: &Directory, hub: &Hub, cluster: &Cluster, now: Timestamp) -> ClusterNodes {
    let heard = |node: &Node| hub.node(node.id).is_some_and(|status| now.since(status.heard) <= NODE_SILENT);
    let mut counts = ClusterNodes::default();
    for role in [NodeRole::Login, NodeRole::Compute, NodeRole::Controller] {
        counts.of_mut(role).wanted = cluster.wanted.of(role).into();
    }
    for node in directory.nodes_of(cluster.id) {
        let count = counts.of_mut(node.role);
        count.enrolled += 1;
        count.connected += u64::from(heard(node));
    }
    counts
}

fn volume_view(directory: &Directory, project: &ProjectPath, volume: &Volume) -> VolumeView {
    VolumeView {
        volume: volume.name.clone(),
        project: project.clone(),
        size: volume.size,
        mount: volume.mount.clone(),
        state: StateView::of(directory, Resource::Volume(volume.id)),
        created: volume.created,
    }
}
