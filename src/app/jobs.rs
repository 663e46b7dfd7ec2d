//! What is asked of the site's machinery, as values: which changes it is asked about, what it is told, and what its
//! answers mean. docs/provisioner.md has the format.
//!
//! Every job says the whole of what is wanted, not what has changed: one that is lost, overtaken or done twice costs time,
//! never correctness.

use super::protocol::provisioner::Outcome;
use crate::domain::{
    Cluster, ClusterId, Directory, Inconsistent, Job, JobAction, Mutation, NodeCounts, Project, ProvisionState,
    Resource, Specification, Timestamp, Volume, VolumeId, one_line,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The format of what the machinery is told.
const FORMAT: u32 = 1;

/// After a first failure it is tried again after so long, and after each further one after twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// The longest between two tries.
const LAST_RETRY: Duration = Duration::from_secs(3600);
/// What is not done yet is asked about again after so long, if the machinery does not say when.
const NOT_YET: u32 = 15;
/// The longest that the machinery may ask not to be asked, in seconds.
const MAX_NOT_YET: u32 = 86_400;

/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 300;

/// What is known of a project.
#[derive(Serialize)]
struct ProjectInput {
    name: String,
    gid: u32,
    admins_gid: u32,
}

#[derive(Serialize)]
struct ClusterInput<'a> {
    id: ClusterId,
    name: &'a str,
    kind: &'static str,
    nodes: NodeCounts,
    revision: u64,
    configuration: &'a Specification,
    document: &'a str,
}

#[derive(Serialize)]
struct VolumeInput<'a> {
    id: VolumeId,
    name: &'a str,
    size: u64,
    mount: &'a str,
}

/// A resource as it is wanted, and what it is called.
#[derive(Clone, Debug)]
struct Description {
    name: String,
    wanted: Value,
}

impl Description {
    fn of(directory: &Directory, resource: Resource) -> Option<Self> {
        match resource {
            Resource::Cluster(id) => Self::of_cluster(directory, directory.cluster(id)?),
            Resource::Volume(id) => Self::of_volume(directory, directory.volume(id)?),
        }
    }

    fn of_cluster(directory: &Directory, cluster: &Cluster) -> Option<Self> {
        let name = directory.path_of_cluster(cluster)?.to_string();
        let input = ClusterInput {
            id: cluster.id,
            name: &name,
            kind: cluster.kind.as_str(),
            nodes: cluster.wanted,
            revision: cluster.revision,
            configuration: cluster.document.specification(),
            document: cluster.document.text(),
        };
        let project = project(directory, directory.project(cluster.project)?)?;
        let wanted = json!({ "version": FORMAT, "wanted": "present", "project": project, "cluster": input });
        Some(Self { name, wanted })
    }

    fn of_volume(directory: &Directory, volume: &Volume) -> Option<Self> {
        let project = project(directory, directory.project(volume.project)?)?;
        let name = format!("{} {}", project.name, volume.name);
        let input = VolumeInput {
            id: volume.id,
            name: volume.name.as_str(),
            size: volume.size.bytes(),
            mount: volume.mount.as_str(),
        };
        let wanted = json!({ "version": FORMAT, "wanted": "present", "project": project, "volume": input });
        Some(Self { name, wanted })
    }

    /// What a former job said.
    fn from_job(job: &Job) -> Option<Self> {
        let mut wanted: Value = serde_json::from_str(&job.input).ok()?;
        let fields = wanted.as_object_mut()?;
        for field in OF_THE_JOB {
            fields.remove(field);
        }
        Some(Self { name: job.name.clone(), wanted })
    }

    /// The same, gone.
    fn gone(mut self) -> Self {
        self.wanted["wanted"] = "absent".into();
        self
    }

    fn job(mut self, id: u64, resource: Resource, action: JobAction, now: Timestamp) -> Job {
        self.wanted["job"] = id.into();
        self.wanted["action"] = action.as_str().into();
        Job {
            id,
            resource,
            action,
            name: self.name,
            input: self.wanted.to_string(),
            queued: now,
            attempts: 0,
            next: now,
            state: ProvisionState::Pending,
        }
    }
}

/// What says nothing about the resource.
const OF_THE_JOB: [&str; 2] = ["job", "action"];

fn project(directory: &Directory, project: &Project) -> Option<ProjectInput> {
    let name = directory.path_of_project(project)?.to_string();
    Some(ProjectInput { name, gid: project.gid.0, admins_gid: project.admins_gid.0 })
}

/// What of the machinery a change is about.
fn asks(directory: &Directory, mutation: &Mutation) -> Vec<(Resource, JobAction)> {
    match mutation {
        Mutation::ClusterCreated(cluster) => vec![(Resource::Cluster(cluster.id), JobAction::Create)],
        Mutation::ClusterConfigured { cluster, .. } => vec![(Resource::Cluster(*cluster), JobAction::Change)],
        Mutation::ClusterScaled { cluster, .. } => vec![(Resource::Cluster(*cluster), JobAction::Scale)],
        Mutation::ClusterDeleted { cluster, .. } => vec![(Resource::Cluster(*cluster), JobAction::Delete)],
        Mutation::VolumeCreated(volume) => vec![(Resource::Volume(volume.id), JobAction::Create)],
        Mutation::VolumeChanged { volume, .. } => vec![(Resource::Volume(*volume), JobAction::Change)],
        Mutation::VolumeDeleted { volume, .. } => vec![(Resource::Volume(*volume), JobAction::Delete)],
        Mutation::ProjectDeleted { project, .. } => {
            let clusters = directory.clusters_of(*project).map(|cluster| Resource::Cluster(cluster.id));
            let volumes = directory.volumes_of(*project).map(|volume| Resource::Volume(volume.id));
            clusters.chain(volumes).map(|resource| (resource, JobAction::Delete)).collect()
        }
        _ => Vec::new(),
    }
}

/// What is to be done when something was to be done already and more is: what is not there yet is still to be created.
fn merge(former: JobAction, new: JobAction) -> JobAction {
    match (former, new) {
        (_, JobAction::Delete) => JobAction::Delete,
        (JobAction::Create, _) => JobAction::Create,
        (JobAction::Change, _) | (_, JobAction::Change) => JobAction::Change,
        (_, new) => new,
    }
}

/// What was last asked about a resource and is not done.
fn unfinished(directory: &Directory, resource: Resource) -> Option<&Arc<Job>> {
    directory.job(resource).filter(|job| job.state != ProvisionState::Ready)
}

/// What the machinery is asked because of changes. In one transaction with them, so that nothing is forgotten.
pub(super) fn jobs_for(
    before: &Directory,
    mutations: &[Mutation],
    now: Timestamp,
) -> Result<Vec<Mutation>, Inconsistent> {
    let mut directory = before.clone();
    let mut asked: BTreeMap<Resource, (JobAction, Option<Description>)> = BTreeMap::new();
    for mutation in mutations {
        for (resource, action) in asks(&directory, mutation) {
            let former = asked.get(&resource).map(|(action, _)| *action);
            let former = former.or_else(|| unfinished(before, resource).map(|job| job.action));
            let action = former.map_or(action, |former| merge(former, action));
            // What goes is described as it was.
            let last = if action == JobAction::Delete { Description::of(&directory, resource) } else { None };
            asked.insert(resource, (action, last));
        }
        directory = directory.into_after([mutation])?;
    }
    let described = asked.into_iter().filter_map(|(resource, (action, last))| {
        let description = match action {
            JobAction::Delete => last?.gone(),
            JobAction::Create | JobAction::Change | JobAction::Scale => Description::of(&directory, resource)?,
        };
        Some((resource, action, description))
    });
    let ids = directory.counters().id..;
    Ok(described
        .zip(ids)
        .map(|((resource, action, what), id)| Mutation::JobSet(what.job(id, resource, action, now)))
        .collect())
}

/// Asks again, from the beginning, about everything of a name that is there or not done.
pub(super) fn asked_again(
    directory: &Directory,
    name: &str,
    resource: Option<Resource>,
    now: Timestamp,
) -> Vec<Mutation> {
    let named = directory.jobs().filter(|job| job.name == name && job.state != ProvisionState::Ready);
    let resources: BTreeSet<Resource> = named.map(|job| job.resource).chain(resource).collect();
    again(directory, resources, now)
}

/// Asks again about what has changed while nobody was asked.
pub(super) fn overdue(directory: &Directory, now: Timestamp) -> Vec<Mutation> {
    let stale = directory.jobs().filter(|job| match Description::of(directory, job.resource) {
        Some(description) => Description::from_job(job).is_none_or(|told| told.wanted != description.wanted),
        None => job.action != JobAction::Delete,
    });
    again(directory, stale.map(|job| job.resource).collect(), now)
}

fn again(directory: &Directory, resources: BTreeSet<Resource>, now: Timestamp) -> Vec<Mutation> {
    let described = resources.into_iter().filter_map(|resource| {
        let former = directory.job(resource);
        match Description::of(directory, resource) {
            Some(description) => {
                let action = match former {
                    None => JobAction::Create,
                    Some(job) if job.state == ProvisionState::Ready => JobAction::Change,
                    Some(job) => job.action,
                };
                Some((resource, action, description))
            }
            None => Some((resource, JobAction::Delete, Description::from_job(former?)?.gone())),
        }
    });
    let ids = directory.counters().id..;
    described
        .zip(ids)
        .map(|((resource, action, what), id)| Mutation::JobSet(what.job(id, resource, action, now)))
        .collect()
}

/// What can be done now, what has waited longest first, and when there will be something else. Nothing is done to a
/// resource twice at a time, and nothing to one as long as another one of its name is not gone.
pub(super) fn due(
    directory: &Directory,
    running: &BTreeSet<Resource>,
    now: Timestamp,
) -> (Vec<Arc<Job>>, Option<Timestamp>) {
    let mut waiting: Vec<_> = directory.jobs().filter(|job| job.state != ProvisionState::Ready).collect();
    waiting.sort_by_key(|job| job.id);
    let mut names = BTreeSet::new();
    waiting.retain(|job| names.insert(job.name.as_str()) && !running.contains(&job.resource));
    let (mut due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|job| job.next <= now);
    due.sort_by_key(|job| (job.next, job.id));
    (due.into_iter().cloned().collect(), later.into_iter().map(|job| job.next).min())
}

/// A job after an answer.
pub(super) fn answered(job: &Job, outcome: &Outcome, now: Timestamp) -> Job {
    let (state, attempts, wait) = match outcome {
        Outcome::Ready => (ProvisionState::Ready, job.attempts, Duration::ZERO),
        // The machinery works; only what fails in a row slows it down.
        Outcome::Pending { retry_after } => {
            let secs = retry_after.unwrap_or(NOT_YET).clamp(1, MAX_NOT_YET);
            (ProvisionState::Pending, 0, Duration::from_secs(secs.into()))
        }
        Outcome::Failed { reason } => {
            let reason = match one_line(reason, MAX_REASON) {
                none if none.is_empty() => "no reason was given".into(),
                reason => reason,
            };
            let attempts = job.attempts.saturating_add(1);
            (ProvisionState::Failed(reason), attempts, backoff(job.id, attempts))
        }
    };
    Job { state, attempts, next: now.after(wait), ..job.clone() }
}

/// Twice as long each time, up to a bound, less up to an eighth: jobs that failed together are not all tried together.
fn backoff(job: u64, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let wait = FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY);
    // Fibonacci hashing (Knuth): numbers that follow each other lie far apart.
    let spread = job.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    wait - wait / 8 * u32::try_from(spread).unwrap_or_default() / 256
}
