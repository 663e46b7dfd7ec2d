//! What is decided about clusters and volumes: from a directory to the changes that it takes, and nothing else, so that
//! a command and a file that describes many of them decide alike.

use crate::{
    domain::{
        Cluster, ClusterId, ClusterKind, ClusterName, Directory, Document, MountPath, Mutation, NodeCounts, Project,
        Size, Specification, Timestamp, Volume, VolumeId, VolumeName,
    },
    policy::{Denial, Reason},
};
use std::sync::Arc;

/// A cluster to be.
#[derive(Clone, Debug)]
pub struct NewCluster {
    /// Its name, unique in the organization.
    pub name: ClusterName,
    /// What runs on it.
    pub kind: ClusterKind,
    /// Its configuration.
    pub document: Document,
    /// How many nodes it should have.
    pub wanted: NodeCounts,
}

/// A volume to be.
#[derive(Clone, Debug)]
pub struct NewVolume {
    /// Its name, unique in the project.
    pub name: VolumeName,
    /// How large it is.
    pub size: Size,
    /// Where nodes mount it.
    pub mount: MountPath,
}

/// A volume by its name.
///
/// # Errors
/// There is none in the project.
pub(super) fn volume_named<'d>(
    directory: &'d Directory,
    project: &Project,
    name: &VolumeName,
) -> Result<&'d Arc<Volume>, Denial> {
    let unknown = || Denial::not_found("volume", name, format!("no volume {name}"));
    directory.volume_named(project.id, name).ok_or_else(unknown)
}

/// A new cluster in a project.
///
/// # Errors
/// The name was used before in the organization, or a shared login is somebody's own.
pub(super) fn create_cluster(
    directory: &Directory,
    project: &Project,
    new: NewCluster,
    now: Timestamp,
) -> Result<Mutation, Denial> {
    let NewCluster { name, kind, document, wanted } = new;
    if directory.cluster_name_taken(project.org, &name) {
        let org = directory.org(project.org).map(|org| org.name.to_string()).unwrap_or_default();
        let text = format!("{name}.{org} is or was a cluster; names are never given out twice");
        return Err(Denial::plain(Reason::Conflict, text));
    }
    check_shared_logins(directory, document.specification(), &Specification::default())?;
    Ok(Mutation::ClusterCreated(Cluster {
        id: ClusterId(directory.counters().id),
        project: project.id,
        name,
        kind,
        document: Arc::new(document),
        revision: 1,
        wanted,
        created: now,
    }))
}

/// Another configuration of a cluster; none if it is the one in force.
///
/// # Errors
/// A shared login is somebody's own.
pub(super) fn configure_cluster(
    directory: &Directory,
    cluster: &Cluster,
    document: Document,
    now: Timestamp,
) -> Result<Option<Mutation>, Denial> {
    if document.text() == cluster.document.text() {
        return Ok(None);
    }
    check_shared_logins(directory, document.specification(), cluster.document.specification())?;
    Ok(Some(Mutation::ClusterConfigured { cluster: cluster.id, document: Arc::new(document), at: now }))
}

/// Another number of nodes of a cluster; none if it is the one that is wanted.
pub(super) fn scale_cluster(cluster: &Cluster, wanted: NodeCounts) -> Option<Mutation> {
    (cluster.wanted != wanted).then_some(Mutation::ClusterScaled { cluster: cluster.id, wanted })
}

/// A new volume in a project.
///
/// # Errors
/// The project has one of that name, or one that is mounted there.
pub(super) fn create_volume(
    directory: &Directory,
    project: &Project,
    new: NewVolume,
    now: Timestamp,
) -> Result<Mutation, Denial> {
    let NewVolume { name, size, mount } = new;
    let path = || directory.path_of_project(project).map(|path| path.to_string()).unwrap_or_default();
    if directory.volume_named(project.id, &name).is_some() {
        return Err(Denial::plain(Reason::Conflict, format!("{} has a volume {name} already", path())));
    }
    is_free(directory, project, &mount)?;
    let id = VolumeId(directory.counters().id);
    Ok(Mutation::VolumeCreated(Volume { id, project: project.id, name, size, mount, created: now }))
}

/// Another size or place of a volume; none if it is so already.
///
/// # Errors
/// Another volume of the project is mounted there.
pub(super) fn change_volume(
    directory: &Directory,
    project: &Project,
    volume: &Volume,
    size: Size,
    mount: MountPath,
) -> Result<Option<Mutation>, Denial> {
    if (volume.size, &volume.mount) == (size, &mount) {
        return Ok(None);
    }
    if volume.mount != mount {
        is_free(directory, project, &mount)?;
    }
    Ok(Some(Mutation::VolumeChanged { volume: volume.id, size, mount }))
}

/// Whether no volume of a project is mounted at a place.
fn is_free(directory: &Directory, project: &Project, mount: &MountPath) -> Result<(), Denial> {
    let Some(other) = directory.volumes_of(project.id).find(|volume| volume.mount == *mount) else { return Ok(()) };
    let path = directory.path_of_project(project).map(|path| path.to_string()).unwrap_or_default();
    let text = format!("the volume {} of {path} is mounted at {mount} already", other.name);
    Err(Denial::plain(Reason::Conflict, text))
}

/// Accounts come first: an account's own login is nobody else's. A shared login that has become one since it was
/// configured is not in force, and does not stand in the way of other changes.
fn check_shared_logins(directory: &Directory, new: &Specification, old: &Specification) -> Result<(), Denial> {
    let added = new.shared_logins.keys().filter(|name| !old.shared_logins.contains_key(name));
    match added.into_iter().find(|name| directory.account_with_user(name.as_user()).is_some()) {
        None => Ok(()),
        Some(name) => {
            let text = format!("the login {name} is taken; choose another name for the shared login");
            Err(Denial::plain(Reason::Conflict, text))
        }
    }
}
