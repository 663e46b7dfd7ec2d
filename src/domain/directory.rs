//! The directory: an immutable value with its indexes.
//!
//! Every decision reads one of these from beginning to end; a change makes a new one that shares what has not changed
//! (persistent maps), so that a hundred thousand accounts cost no copy.

use super::{
    ids::{AccountId, ClusterId, NodeId, OrgId, ProjectId, Serial, Uid, Version, VolumeId},
    keys::Fingerprint,
    model::{Account, Cluster, Departure, JoinToken, KeyEntry, Membership, Node, Org, Project, TokenHash, Volume},
    mutation::{Mutation, Touched},
    names::{
        ClusterName, ClusterPath, Email, NodeName, NodePath, OrgName, ProjectName, ProjectPath, UserName, VolumeName,
    },
    time::Timestamp,
};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;
use thiserror::Error;

/// A change that contradicts the directory. Decisions never make one, so it means a damaged store or a defect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the change contradicts the directory: {0}")]
pub struct Inconsistent(pub &'static str);

/// The first user and group number given out: above what distributions give to people and services and to the first
/// ranges of subordinate users, below what systemd keeps for containers (524288).
const FIRST_UID: u32 = 200_000;

/// What is given out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Identifier of the next organization, account, project, cluster, node or volume.
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
    keys: OrdMap<Fingerprint, Arc<KeyEntry>>,
    account_keys: OrdSet<(AccountId, Fingerprint)>,
    projects: OrdMap<ProjectId, Arc<Project>>,
    project_names: OrdMap<(OrgId, ProjectName), ProjectId>,
    clusters: OrdMap<ClusterId, Arc<Cluster>>,
    cluster_names: OrdMap<(OrgId, ClusterName), ClusterId>,
    project_clusters: OrdSet<(ProjectId, ClusterId)>,
    volumes: OrdMap<VolumeId, Arc<Volume>>,
    project_volumes: OrdMap<(ProjectId, VolumeName), VolumeId>,
    nodes: OrdMap<NodeId, Arc<Node>>,
    cluster_nodes: OrdSet<(ClusterId, NodeId)>,
    node_names: OrdMap<(ClusterId, NodeName), NodeId>,
    node_keys: OrdMap<Fingerprint, NodeId>,
    tokens: OrdMap<TokenHash, Arc<JoinToken>>,
    members: OrdMap<(ProjectId, AccountId), Arc<Membership>>,
    account_projects: OrdSet<(AccountId, ProjectId)>,
    departures: OrdMap<(AccountId, ProjectId), Arc<Departure>>,
    denied_serials: OrdMap<Serial, (AccountId, Timestamp)>,
    denied_keys: OrdMap<Fingerprint, (AccountId, Timestamp)>,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            version: Version(0),
            counters: Counters { id: 1, uid: Uid(FIRST_UID), gid: Uid(FIRST_UID) },
            orgs: OrdMap::new(),
            org_names: OrdMap::new(),
            accounts: OrdMap::new(),
            emails: OrdMap::new(),
            users: OrdMap::new(),
            keys: OrdMap::new(),
            account_keys: OrdSet::new(),
            projects: OrdMap::new(),
            project_names: OrdMap::new(),
            clusters: OrdMap::new(),
            cluster_names: OrdMap::new(),
            project_clusters: OrdSet::new(),
            volumes: OrdMap::new(),
            project_volumes: OrdMap::new(),
            nodes: OrdMap::new(),
            cluster_nodes: OrdSet::new(),
            node_names: OrdMap::new(),
            node_keys: OrdMap::new(),
            tokens: OrdMap::new(),
            members: OrdMap::new(),
            account_projects: OrdSet::new(),
            departures: OrdMap::new(),
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

    /// An account by POSIX user name.
    #[must_use]
    pub fn account_with_user(&self, user: &UserName) -> Option<&Arc<Account>> {
        self.accounts.get(self.users.get(user)?)
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

    /// Whether a project of this name is or was in the organization.
    #[must_use]
    pub fn project_name_taken(&self, org: OrgId, name: &ProjectName) -> bool {
        self.project_names.contains_key(&(org, name.clone()))
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

    /// A join token.
    #[must_use]
    pub fn token(&self, hash: &TokenHash) -> Option<&Arc<JoinToken>> {
        self.tokens.get(hash)
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

    /// All removed keys: fingerprint, whose, until when.
    pub fn denied_keys(&self) -> impl Iterator<Item = (Fingerprint, AccountId, Timestamp)> {
        self.denied_keys.iter().map(|(key, (account, until))| (*key, *account, *until))
    }
}

/// Changing, by making another.
impl Directory {
    /// The directory after one transaction.
    ///
    /// # Errors
    /// A change contradicts the directory; nothing of the transaction is applied.
    pub fn after<'a>(&self, mutations: impl IntoIterator<Item = &'a Mutation>) -> Result<Self, Inconsistent> {
        let mut next = self.clone();
        for mutation in mutations {
            next.apply(mutation)?;
        }
        next.version = self.version.next();
        Ok(next)
    }

    /// The same directory at another version: for a store that has read one back.
    #[must_use]
    pub fn at_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// What has to be looked at again when this change is made to this directory.
    #[must_use]
    pub fn touched(&self, mutation: &Mutation) -> Touched {
        let mut touched = Touched::default();
        match mutation {
            Mutation::OrgCreated(_)
            | Mutation::AccountCreated(_)
            | Mutation::KeyAdded(_)
            | Mutation::ProjectCreated(_)
            | Mutation::VolumeCreated(_)
            | Mutation::VolumeDeleted { .. }
            | Mutation::TokenCreated(_)
            | Mutation::TokenUsed { .. } => {}
            Mutation::AccountStateSet { account, .. }
            | Mutation::KeyRemoved { account, .. }
            | Mutation::SerialDenied { account, .. } => {
                touched.accounts.insert(*account);
                touched.clusters.extend(
                    self.projects_of(*account).flat_map(|(project, _)| self.clusters_of(project.id)).map(|c| c.id),
                );
            }
            Mutation::ProjectDeleted { project, .. } => {
                self.touch_project(*project, &mut touched);
                for cluster in self.clusters_of(*project) {
                    touched.nodes.extend(self.nodes_of(cluster.id).map(|node| node.id));
                }
            }
            Mutation::ClusterCreated(cluster) => {
                touched.clusters.insert(cluster.id);
            }
            Mutation::ClusterDeleted { cluster, .. } => {
                if let Some(cluster) = self.cluster(*cluster) {
                    touched.accounts.extend(self.members_of(cluster.project).map(|(account, _)| account.id));
                }
                touched.clusters.insert(*cluster);
                touched.nodes.extend(self.nodes_of(*cluster).map(|node| node.id));
            }
            Mutation::NodeEnrolled(node) => {
                let former = self.node_names.get(&(node.cluster, node.name.clone()));
                if let Some(former) = former {
                    self.touch_node(*former, &mut touched);
                }
            }
            Mutation::NodeRemoved { node, .. } => self.touch_node(*node, &mut touched),
            Mutation::MemberAdded(Membership { project, account, .. })
            | Mutation::MemberRemoved(Departure { project, account, .. })
            | Mutation::RoleSet { project, account, .. } => {
                touched.accounts.insert(*account);
                touched.clusters.extend(self.clusters_of(*project).map(|cluster| cluster.id));
            }
        }
        touched
    }

    fn touch_project(&self, project: ProjectId, touched: &mut Touched) {
        touched.accounts.extend(self.members_of(project).map(|(account, _)| account.id));
        touched.clusters.extend(self.clusters_of(project).map(|cluster| cluster.id));
    }

    fn touch_node(&self, node: NodeId, touched: &mut Touched) {
        touched.nodes.insert(node);
        let project = self.node(node).and_then(|node| self.cluster(node.cluster)).map(|cluster| cluster.project);
        if let Some(project) = project {
            touched.accounts.extend(self.members_of(project).map(|(account, _)| account.id));
        }
    }

    fn apply(&mut self, mutation: &Mutation) -> Result<(), Inconsistent> {
        match mutation {
            Mutation::OrgCreated(org) => self.add_org(org),
            Mutation::AccountCreated(account) => self.add_account(account),
            Mutation::AccountStateSet { account, state, .. } => {
                let slot = self.accounts.get_mut(account).ok_or(Inconsistent("no such account"))?;
                Arc::make_mut(slot).state = *state;
                Ok(())
            }
            Mutation::KeyAdded(entry) => self.add_key(entry),
            Mutation::KeyRemoved { account, key, denied_until } => {
                self.keys.remove(key).ok_or(Inconsistent("no such key"))?;
                self.account_keys.remove(&(*account, *key));
                self.denied_keys.insert(*key, (*account, *denied_until));
                Ok(())
            }
            Mutation::ProjectCreated(project) => self.add_project(project),
            Mutation::ProjectDeleted { project, .. } => self.delete_project(*project),
            Mutation::ClusterCreated(cluster) => self.add_cluster(cluster),
            Mutation::ClusterDeleted { cluster, .. } => self.delete_cluster(*cluster),
            Mutation::VolumeCreated(volume) => self.add_volume(volume),
            Mutation::VolumeDeleted { volume, .. } => {
                let volume = self.volumes.remove(volume).ok_or(Inconsistent("no such volume"))?;
                self.project_volumes.remove(&(volume.project, volume.name.clone()));
                Ok(())
            }
            Mutation::TokenCreated(token) => {
                fresh(self.tokens.insert(token.hash, Arc::new(token.clone())), "token exists")
            }
            Mutation::TokenUsed { hash, at } => {
                let slot = self.tokens.get_mut(hash).ok_or(Inconsistent("no such token"))?;
                Arc::make_mut(slot).used = Some(*at);
                Ok(())
            }
            Mutation::NodeEnrolled(node) => self.add_node(node),
            Mutation::NodeRemoved { node, .. } => self.remove_node(*node),
            Mutation::MemberAdded(membership) => self.add_member(membership),
            Mutation::MemberRemoved(departure) => {
                let at = (departure.account, departure.project);
                self.members
                    .remove(&(departure.project, departure.account))
                    .ok_or(Inconsistent("no such membership"))?;
                self.account_projects.remove(&at);
                self.departures.insert(at, Arc::new(departure.clone()));
                Ok(())
            }
            Mutation::RoleSet { project, account, role } => {
                let slot = self.members.get_mut(&(*project, *account)).ok_or(Inconsistent("no such membership"))?;
                Arc::make_mut(slot).role = *role;
                Ok(())
            }
            Mutation::SerialDenied { serial, account, until } => {
                self.denied_serials.insert(*serial, (*account, *until));
                Ok(())
            }
        }
    }

    fn count(&mut self, id: u64) {
        self.counters.id = self.counters.id.max(id + 1);
    }

    fn add_org(&mut self, org: &Org) -> Result<(), Inconsistent> {
        self.count(org.id.0);
        fresh(self.org_names.insert(org.name.clone(), org.id), "organization name taken")?;
        fresh(self.orgs.insert(org.id, Arc::new(org.clone())), "organization number taken")
    }

    fn add_account(&mut self, account: &Account) -> Result<(), Inconsistent> {
        self.count(account.id.0);
        self.counters.uid = self.counters.uid.max(Uid(account.uid.0 + 1));
        if !self.orgs.contains_key(&account.org) {
            return Err(Inconsistent("no such organization"));
        }
        fresh(self.emails.insert(account.email.clone(), account.id), "email taken")?;
        fresh(self.users.insert(account.user.clone(), account.id), "user name taken")?;
        fresh(self.accounts.insert(account.id, Arc::new(account.clone())), "account number taken")
    }

    fn add_key(&mut self, entry: &KeyEntry) -> Result<(), Inconsistent> {
        if !self.accounts.contains_key(&entry.account) {
            return Err(Inconsistent("no such account"));
        }
        let fingerprint = entry.key.fingerprint();
        self.denied_keys.remove(&fingerprint);
        self.account_keys.insert((entry.account, fingerprint));
        fresh(self.keys.insert(fingerprint, Arc::new(entry.clone())), "key taken")
    }

    fn add_project(&mut self, project: &Project) -> Result<(), Inconsistent> {
        self.count(project.id.0);
        self.counters.gid = self.counters.gid.max(Uid(project.gid.0.max(project.admins_gid.0) + 1));
        if !self.orgs.contains_key(&project.org) {
            return Err(Inconsistent("no such organization"));
        }
        fresh(self.project_names.insert((project.org, project.name.clone()), project.id), "project name taken")?;
        fresh(self.projects.insert(project.id, Arc::new(project.clone())), "project number taken")
    }

    fn delete_project(&mut self, project: ProjectId) -> Result<(), Inconsistent> {
        let clusters: Vec<ClusterId> = self.clusters_of(project).map(|cluster| cluster.id).collect();
        for cluster in clusters {
            self.delete_cluster(cluster)?;
        }
        let volumes: Vec<Arc<Volume>> = self.volumes_of(project).cloned().collect();
        for volume in volumes {
            self.volumes.remove(&volume.id);
            self.project_volumes.remove(&(project, volume.name.clone()));
        }
        let members: Vec<AccountId> = self.members_of(project).map(|(account, _)| account.id).collect();
        for account in members {
            self.members.remove(&(project, account));
            self.account_projects.remove(&(account, project));
        }
        self.projects.remove(&project).map(drop).ok_or(Inconsistent("no such project"))
    }

    fn add_cluster(&mut self, cluster: &Cluster) -> Result<(), Inconsistent> {
        self.count(cluster.id.0);
        let org = self.projects.get(&cluster.project).ok_or(Inconsistent("no such project"))?.org;
        self.project_clusters.insert((cluster.project, cluster.id));
        fresh(self.cluster_names.insert((org, cluster.name.clone()), cluster.id), "cluster name taken")?;
        fresh(self.clusters.insert(cluster.id, Arc::new(cluster.clone())), "cluster number taken")
    }

    fn delete_cluster(&mut self, cluster: ClusterId) -> Result<(), Inconsistent> {
        let nodes: Vec<NodeId> = self.nodes_of(cluster).map(|node| node.id).collect();
        for node in nodes {
            self.remove_node(node)?;
        }
        let cluster = self.clusters.remove(&cluster).ok_or(Inconsistent("no such cluster"))?;
        self.project_clusters.remove(&(cluster.project, cluster.id));
        Ok(())
    }

    fn add_volume(&mut self, volume: &Volume) -> Result<(), Inconsistent> {
        self.count(volume.id.0);
        if !self.projects.contains_key(&volume.project) {
            return Err(Inconsistent("no such project"));
        }
        fresh(self.project_volumes.insert((volume.project, volume.name.clone()), volume.id), "volume name taken")?;
        fresh(self.volumes.insert(volume.id, Arc::new(volume.clone())), "volume number taken")
    }

    fn add_node(&mut self, node: &Node) -> Result<(), Inconsistent> {
        self.count(node.id.0);
        if !self.clusters.contains_key(&node.cluster) {
            return Err(Inconsistent("no such cluster"));
        }
        let former = self.node_names.get(&(node.cluster, node.name.clone())).copied();
        if let Some(former) = former {
            self.remove_node(former)?;
        }
        self.cluster_nodes.insert((node.cluster, node.id));
        self.node_names.insert((node.cluster, node.name.clone()), node.id);
        fresh(self.node_keys.insert(node.host_key.fingerprint(), node.id), "host key taken")?;
        fresh(self.nodes.insert(node.id, Arc::new(node.clone())), "node number taken")
    }

    fn remove_node(&mut self, node: NodeId) -> Result<(), Inconsistent> {
        let node = self.nodes.remove(&node).ok_or(Inconsistent("no such node"))?;
        self.cluster_nodes.remove(&(node.cluster, node.id));
        self.node_names.remove(&(node.cluster, node.name.clone()));
        self.node_keys.remove(&node.host_key.fingerprint());
        Ok(())
    }

    fn add_member(&mut self, membership: &Membership) -> Result<(), Inconsistent> {
        let (project, account) = (membership.project, membership.account);
        if !self.projects.contains_key(&project) || !self.accounts.contains_key(&account) {
            return Err(Inconsistent("no such project or account"));
        }
        self.account_projects.insert((account, project));
        self.departures.remove(&(account, project));
        fresh(self.members.insert((project, account), Arc::new(membership.clone())), "member already")
    }
}

fn fresh<T>(former: Option<T>, what: &'static str) -> Result<(), Inconsistent> {
    match former {
        None => Ok(()),
        Some(_) => Err(Inconsistent(what)),
    }
}
