//! The directory: an immutable value with its indexes.
//!
//! Every decision reads one of these from beginning to end; a change makes a new one that shares what has not changed
//! (persistent maps), so that a hundred thousand accounts cost no copy.

use super::{
    ids::{AccountId, ClusterId, NodeId, OrgId, ProjectId, Serial, Uid, Version, VolumeId},
    keys::Fingerprint,
    model::{
        Account, Cluster, Deletion, Departure, JoinToken, KeyEntry, Membership, Node, Org, Project, TokenHash, Volume,
    },
    names::{
        ClusterName, ClusterPath, Email, NodeName, NodePath, OrgName, ProjectName, ProjectPath, UserName, VolumeName,
    },
    resources::{Job, Resource},
    service::ServiceTerms,
    time::Timestamp,
};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;
use thiserror::Error;

mod change;
mod grace;

/// A change that contradicts the directory. Decisions never make one, so it means a damaged store or a defect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the change contradicts the directory: {0}")]
pub struct Inconsistent(pub &'static str);

/// What is given out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Identifier of the next organization, account, project, cluster, node, volume or job.
    pub id: u64,
    /// User number of the next account.
    pub uid: Uid,
    /// Group number of the next group.
    pub gid: Uid,
}

/// Organizations, accounts, keys, projects, clusters, nodes, volumes, memberships, and what is denied.
#[derive(Clone, Debug, PartialEq)]
pub struct Directory {
    version: Version,
    counters: Counters,
    orgs: OrdMap<OrgId, Arc<Org>>,
    org_names: OrdMap<OrgName, OrgId>,
    accounts: OrdMap<AccountId, Arc<Account>>,
    emails: OrdMap<Email, AccountId>,
    users: OrdMap<UserName, AccountId>,
    uids: OrdSet<Uid>,
    keys: OrdMap<Fingerprint, Arc<KeyEntry>>,
    account_keys: OrdSet<(AccountId, Fingerprint)>,
    projects: OrdMap<ProjectId, Arc<Project>>,
    project_names: OrdMap<(OrgId, ProjectName), ProjectId>,
    gids: OrdSet<Uid>,
    gone_projects: OrdMap<ProjectId, (Arc<Project>, Arc<Deletion>)>,
    gone_clusters: OrdMap<ClusterId, Arc<Deletion>>,
    clusters: OrdMap<ClusterId, Arc<Cluster>>,
    cluster_names: OrdMap<(OrgId, ClusterName), ClusterId>,
    project_clusters: OrdSet<(ProjectId, ClusterId)>,
    volumes: OrdMap<VolumeId, Arc<Volume>>,
    project_volumes: OrdMap<(ProjectId, VolumeName), VolumeId>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    cluster_nodes: OrdSet<(ClusterId, NodeId)>,
    node_names: OrdMap<(ClusterId, NodeName), NodeId>,
    node_keys: OrdMap<Fingerprint, NodeId>,
    gone_nodes: OrdMap<Fingerprint, (NodeId, NodePath)>,
    tokens: OrdMap<TokenHash, Arc<JoinToken>>,
    jobs: OrdMap<Resource, Arc<Job>>,
    members: OrdMap<(ProjectId, AccountId), Arc<Membership>>,
    account_projects: OrdSet<(AccountId, ProjectId)>,
    departures: OrdMap<(AccountId, ProjectId), Arc<Departure>>,
    /// Departures with a grace period, also those whose is over.
    graces: OrdSet<(ProjectId, AccountId)>,
    denied_serials: OrdMap<Serial, (AccountId, Timestamp)>,
    denied_keys: OrdMap<Fingerprint, (AccountId, Timestamp)>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            version: Version(0),
            counters: Counters { id: 1, uid: Uid::FIRST, gid: Uid::FIRST },
            orgs: OrdMap::new(),
            org_names: OrdMap::new(),
            accounts: OrdMap::new(),
            emails: OrdMap::new(),
            users: OrdMap::new(),
            uids: OrdSet::new(),
            keys: OrdMap::new(),
            account_keys: OrdSet::new(),
            projects: OrdMap::new(),
            project_names: OrdMap::new(),
            gids: OrdSet::new(),
            gone_projects: OrdMap::new(),
            gone_clusters: OrdMap::new(),
            clusters: OrdMap::new(),
            cluster_names: OrdMap::new(),
            project_clusters: OrdSet::new(),
            volumes: OrdMap::new(),
            project_volumes: OrdMap::new(),
            nodes: OrdMap::new(),
            cluster_nodes: OrdSet::new(),
            node_names: OrdMap::new(),
            node_keys: OrdMap::new(),
            gone_nodes: OrdMap::new(),
            tokens: OrdMap::new(),
            jobs: OrdMap::new(),
            members: OrdMap::new(),
            account_projects: OrdSet::new(),
            departures: OrdMap::new(),
            graces: OrdSet::new(),
            denied_serials: OrdMap::new(),
            denied_keys: OrdMap::new(),
        }
    }
}

/// Reading.
impl Directory {
    /// The version: rises by one with every transaction that changes the directory.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What is given out next.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The same, which gives out nothing below these.
    #[must_use]
    pub fn counting_from(mut self, floor: Counters) -> Self {
        let Counters { id, uid, gid } = self.counters;
        self.counters = Counters { id: id.max(floor.id), uid: uid.max(floor.uid), gid: gid.max(floor.gid) };
        self
    }

    /// All organizations.
    pub fn orgs(&self) -> impl Iterator<Item = &Arc<Org>> {
        self.orgs.values()
    }

    /// An organization by number.
    #[must_use]
    pub fn org(&self, id: OrgId) -> Option<&Arc<Org>> {
        self.orgs.get(&id)
    }

    /// An organization by name.
    #[must_use]
    pub fn org_named(&self, name: &OrgName) -> Option<&Arc<Org>> {
        self.orgs.get(self.org_names.get(name)?)
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// An account by number.
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.accounts.get(&id)
    }

    /// An account by email.
    #[must_use]
    pub fn account_with_email(&self, email: &Email) -> Option<&Arc<Account>> {
        self.accounts.get(self.emails.get(email)?)
    }

    /// A service account by email, if it was not deleted.
    #[must_use]
    pub fn service_account(&self, email: &Email) -> Option<(&Arc<Account>, &ServiceTerms)> {
        let account = self.account_with_email(email).filter(|account| !self.retired(account))?;
        Some((account, account.service()?))
    }

    /// Whether this is a service account that was deleted: it is in the project that owns it as long as it lives.
    #[must_use]
    pub fn retired(&self, account: &Account) -> bool {
        account.service().is_some_and(|terms| self.membership(terms.project, account.id).is_none())
    }

    /// An account by POSIX user name.
    #[must_use]
    pub fn account_with_user(&self, user: &UserName) -> Option<&Arc<Account>> {
        self.accounts.get(self.users.get(user)?)
    }

    /// Whether a user number is somebody's.
    #[must_use]
    pub fn uid_taken(&self, uid: Uid) -> bool {
        self.uids.contains(&uid)
    }

    /// A registered key.
    #[must_use]
    pub fn key(&self, key: &Fingerprint) -> Option<&Arc<KeyEntry>> {
        self.keys.get(key)
    }

    /// The keys of an account, by fingerprint.
    pub fn keys_of(&self, account: AccountId) -> impl Iterator<Item = &Arc<KeyEntry>> {
        let first = Fingerprint::from_bytes([0; 32]);
        self.account_keys
            .range((account, first)..)
            .take_while(move |(a, _)| *a == account)
            .filter_map(|(_, key)| self.keys.get(key))
    }

    /// All projects.
    pub fn projects(&self) -> impl Iterator<Item = &Arc<Project>> {
        self.projects.values()
    }

    /// A project by number.
    #[must_use]
    pub fn project(&self, id: ProjectId) -> Option<&Arc<Project>> {
        self.projects.get(&id)
    }

    /// A project by path.
    #[must_use]
    pub fn project_at(&self, path: &ProjectPath) -> Option<&Arc<Project>> {
        let org = self.org_names.get(&path.org)?;
        self.projects.get(self.project_names.get(&(*org, path.project.clone()))?)
    }

    /// A project that was deleted, by number: its name, and when and by whom.
    #[must_use]
    pub fn gone_project(&self, id: ProjectId) -> Option<(ProjectPath, &Deletion)> {
        let (project, deletion) = self.gone_projects.get(&id)?;
        Some((self.path_of_project(project)?, deletion))
    }

    /// A project that was deleted, by path.
    #[must_use]
    pub fn gone_project_at(&self, path: &ProjectPath) -> Option<ProjectId> {
        let org = self.org_names.get(&path.org)?;
        let id = self.project_names.get(&(*org, path.project.clone()))?;
        self.gone_projects.contains_key(id).then_some(*id)
    }

    /// When and by whom the cluster of that path was deleted, if it was.
    #[must_use]
    pub fn gone_cluster_at(&self, path: &ClusterPath) -> Option<&Deletion> {
        let org = self.org_names.get(&path.org)?;
        self.gone_clusters.get(self.cluster_names.get(&(*org, path.cluster.clone()))?).map(Arc::as_ref)
    }

    /// Whether a project of this name is or was in the organization.
    #[must_use]
    pub fn project_name_taken(&self, org: OrgId, name: &ProjectName) -> bool {
        self.project_names.contains_key(&(org, name.clone()))
    }

    /// Whether a group number is or was a project's.
    #[must_use]
    pub fn gid_taken(&self, gid: Uid) -> bool {
        self.gids.contains(&gid)
    }

    /// A project's path.
    #[must_use]
    pub fn path_of_project(&self, project: &Project) -> Option<ProjectPath> {
        Some(ProjectPath { org: self.org(project.org)?.name.clone(), project: project.name.clone() })
    }

    /// The projects that an account is in, with its membership.
    pub fn projects_of(&self, account: AccountId) -> impl Iterator<Item = (&Arc<Project>, &Arc<Membership>)> {
        self.account_projects.range((account, ProjectId(0))..).take_while(move |(a, _)| *a == account).filter_map(
            |(account, project)| Some((self.projects.get(project)?, self.members.get(&(*project, *account))?)),
        )
    }

    /// An account's membership in a project.
    #[must_use]
    pub fn membership(&self, project: ProjectId, account: AccountId) -> Option<&Arc<Membership>> {
        self.members.get(&(project, account))
    }

    /// The members of a project.
    pub fn members_of(&self, project: ProjectId) -> impl Iterator<Item = (&Arc<Account>, &Arc<Membership>)> {
        self.members
            .range((project, AccountId(0))..)
            .take_while(move |((p, _), _)| *p == project)
            .filter_map(|((_, account), membership)| Some((self.accounts.get(account)?, membership)))
    }

    /// That an account was removed from a project, if it was and has not come back.
    #[must_use]
    pub fn departure(&self, account: AccountId, project: ProjectId) -> Option<&Arc<Departure>> {
        self.departures.get(&(account, project))
    }

    /// The projects that an account was removed from and has not come back to.
    pub fn departures_of(&self, account: AccountId) -> impl Iterator<Item = &Arc<Departure>> {
        self.departures
            .range((account, ProjectId(0))..)
            .take_while(move |((a, _), _)| *a == account)
            .map(|(_, departure)| departure)
    }

    /// All clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// A cluster by number.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(&id)
    }

    /// A cluster by path.
    #[must_use]
    pub fn cluster_at(&self, path: &ClusterPath) -> Option<&Arc<Cluster>> {
        let org = self.org_names.get(&path.org)?;
        self.clusters.get(self.cluster_names.get(&(*org, path.cluster.clone()))?)
    }

    /// Whether a cluster of this name is or was in the organization.
    #[must_use]
    pub fn cluster_name_taken(&self, org: OrgId, name: &ClusterName) -> bool {
        self.cluster_names.contains_key(&(org, name.clone()))
    }

    /// The clusters of a project.
    pub fn clusters_of(&self, project: ProjectId) -> impl Iterator<Item = &Arc<Cluster>> {
        self.project_clusters
            .range((project, ClusterId(0))..)
            .take_while(move |(p, _)| *p == project)
            .filter_map(|(_, cluster)| self.clusters.get(cluster))
    }

    /// A cluster's path.
    #[must_use]
    pub fn path_of_cluster(&self, cluster: &Cluster) -> Option<ClusterPath> {
        let org = self.org(self.project(cluster.project)?.org)?;
        Some(ClusterPath { cluster: cluster.name.clone(), org: org.name.clone() })
    }

    /// A volume by number.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.get(&id)
    }

    /// A volume of a project by name.
    #[must_use]
    pub fn volume_named(&self, project: ProjectId, name: &VolumeName) -> Option<&Arc<Volume>> {
        self.volumes.get(self.project_volumes.get(&(project, name.clone()))?)
    }

    /// The volumes of a project.
    pub fn volumes_of(&self, project: ProjectId) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.values().filter(move |volume| volume.project == project)
    }

    /// A node by number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// A node by path.
    #[must_use]
    pub fn node_at(&self, path: &NodePath) -> Option<&Arc<Node>> {
        let cluster = self.cluster_at(&ClusterPath { cluster: path.cluster.clone(), org: path.org.clone() })?;
        self.nodes.get(self.node_names.get(&(cluster.id, path.node.clone()))?)
    }

    /// A node by its host key.
    #[must_use]
    pub fn node_with_key(&self, key: &Fingerprint) -> Option<&Arc<Node>> {
        self.nodes.get(self.node_keys.get(key)?)
    }

    /// The node that had this host key and was removed: it has to be told that nobody may log in there any more.
    #[must_use]
    pub fn gone_node_with_key(&self, key: &Fingerprint) -> Option<(NodeId, &NodePath)> {
        self.gone_nodes.get(key).map(|(node, path)| (*node, path))
    }

    /// The nodes of a cluster, by number.
    pub fn nodes_of(&self, cluster: ClusterId) -> impl Iterator<Item = &Arc<Node>> {
        self.cluster_nodes
            .range((cluster, NodeId(0))..)
            .take_while(move |(c, _)| *c == cluster)
            .filter_map(|(_, node)| self.nodes.get(node))
    }

    /// A node's path.
    #[must_use]
    pub fn path_of_node(&self, node: &Node) -> Option<NodePath> {
        let ClusterPath { cluster, org } = self.path_of_cluster(self.cluster(node.cluster)?)?;
        Some(NodePath { node: node.name.clone(), cluster, org })
    }

    /// What the site's machinery was last asked about a resource, if it ever was.
    #[must_use]
    pub fn job(&self, resource: Resource) -> Option<&Arc<Job>> {
        self.jobs.get(&resource)
    }

    /// What the site's machinery was last asked about each resource, those that are gone included.
    pub fn jobs(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values()
    }

    /// A join token.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<&Arc<JoinToken>> {
        self.tokens.get(hash)
    }

    /// The join tokens for a cluster, those that work no more included, in no order.
    pub fn tokens_of(&self, cluster: ClusterId) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.tokens.values().filter(move |token| token.cluster == cluster)
    }

    /// Whether a certificate was revoked, and when it would have ended.
    #[must_use]
    pub fn denied_serial(&self, serial: Serial) -> Option<Timestamp> {
        self.denied_serials.get(&serial).map(|(_, until)| *until)
    }

    /// All revoked certificates: serial, whose, until when.
    pub fn denied_serials(&self) -> impl Iterator<Item = (Serial, AccountId, Timestamp)> {
        self.denied_serials.iter().map(|(serial, (account, until))| (*serial, *account, *until))
    }

    /// Whether a key was removed, and when the last certificate on it ends.
    #[must_use]
    pub fn denied_key(&self, key: &Fingerprint) -> Option<Timestamp> {
        self.denied_keys.get(key).map(|(_, until)| *until)
    }

    /// Whose a removed key was.
    #[must_use]
    pub fn owner_of_denied_key(&self, key: &Fingerprint) -> Option<AccountId> {
        self.denied_keys.get(key).map(|(account, _)| *account)
    }

    /// All removed keys: fingerprint, whose, until when.
    pub fn denied_keys(&self) -> impl Iterator<Item = (Fingerprint, AccountId, Timestamp)> {
        self.denied_keys.iter().map(|(key, (account, until))| (*key, *account, *until))
    }
}
