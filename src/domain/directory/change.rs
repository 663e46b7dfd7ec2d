//! Changing the directory, by making another: what a change touches, and what it does to each index.

use super::{Directory, Inconsistent};
use crate::domain::{
    ids::{AccountId, ClusterId, NodeId, ProjectId, Uid, Version},
    model::{Account, Actor, Cluster, Deletion, Departure, KeyEntry, Membership, Node, Org, Project, Role, Volume},
    mutation::{Mutation, Touched},
    resources::Job,
    service::{AccountKind, ServiceTerms},
    time::Timestamp,
};
use std::sync::Arc;

/// Changing, by making another.
impl Directory {
    /// The directory after one transaction.
    ///
    /// # Errors
    /// A change contradicts the directory; nothing of the transaction is applied.
    pub fn after<'a>(&self, mutations: impl IntoIterator<Item = &'a Mutation>) -> Result<Self, Inconsistent> {
        self.clone().into_after(mutations)
    }

    /// The same for whoever needs the former one no more: what nobody else holds is changed in place, which is some ten
    /// times as fast.
    ///
    /// # Errors
    /// A change contradicts the directory.
    pub fn into_after<'a>(mut self, mutations: impl IntoIterator<Item = &'a Mutation>) -> Result<Self, Inconsistent> {
        for mutation in mutations {
            self.apply(mutation)?;
        }
        self.version = self.version.next();
        Ok(self)
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
            // Its name may be that of a shared login, which is one no more.
            Mutation::AccountCreated(account) => {
                let shares = |cluster: &&Arc<Cluster>| {
                    cluster.document.specification().shared_logins.keys().any(|name| *name.as_user() == account.user)
                };
                touched.clusters.extend(self.clusters.values().filter(shares).map(|cluster| cluster.id));
            }
            Mutation::OrgCreated(_)
            | Mutation::KeyAdded(_)
            | Mutation::ProjectCreated(_)
            | Mutation::VolumeCreated(_)
            | Mutation::VolumeChanged { .. }
            | Mutation::VolumeDeleted { .. }
            | Mutation::ClusterScaled { .. }
            | Mutation::JobSet(_)
            | Mutation::TokenCreated(_)
            | Mutation::TokenUsed { .. } => {}
            // Certificates live so short that those that say more are not taken back; but a grace period may be over now.
            Mutation::ProjectLimited { project, limits } => {
                let former = self.project(*project).and_then(|project| project.limits.grace);
                if limits.grace < former {
                    self.touch_graces(*project, &mut touched);
                }
            }
            Mutation::AccountStateSet { account, .. }
            | Mutation::ServiceTermsSet { account, .. }
            | Mutation::KeyRemoved { account, .. }
            | Mutation::SerialDenied { account, .. } => {
                touched.accounts.insert(*account);
                let left = self.departures_of(*account).filter(|departure| departure.until.is_some());
                let projects = self.projects_of(*account).map(|(project, _)| project.id);
                let projects = projects.chain(left.map(|departure| departure.project));
                touched.clusters.extend(projects.flat_map(|project| self.clusters_of(project)).map(|c| c.id));
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
            Mutation::ClusterConfigured { cluster, .. } => {
                touched.clusters.insert(*cluster);
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
            Mutation::ServiceTermsSet { account, terms } => self.set_terms(*account, terms),
            Mutation::KeyAdded(entry) => self.add_key(entry),
            Mutation::KeyRemoved { account, key, denied_until } => {
                self.keys.remove(key).ok_or(Inconsistent("no such key"))?;
                self.account_keys.remove(&(*account, *key));
                self.denied_keys.insert(*key, (*account, *denied_until));
                Ok(())
            }
            Mutation::ProjectCreated(project) => self.add_project(project),
            Mutation::ProjectLimited { project, limits } => {
                let slot = self.projects.get_mut(project).ok_or(Inconsistent("no such project"))?;
                Arc::make_mut(slot).limits = limits.clone();
                Ok(())
            }
            Mutation::ProjectDeleted { project, at, by } => {
                self.delete_project(&Deletion { project: *project, at: *at, by: by.clone() })
            }
            Mutation::ClusterCreated(cluster) => self.add_cluster(cluster),
            Mutation::ClusterConfigured { cluster, document, .. } => {
                let cluster = Arc::make_mut(self.clusters.get_mut(cluster).ok_or(Inconsistent("no such cluster"))?);
                cluster.document = Arc::clone(document);
                cluster.revision += 1;
                Ok(())
            }
            Mutation::ClusterScaled { cluster, wanted } => {
                let slot = self.clusters.get_mut(cluster).ok_or(Inconsistent("no such cluster"))?;
                Arc::make_mut(slot).wanted = *wanted;
                Ok(())
            }
            Mutation::ClusterDeleted { cluster, at, by } => self.delete_cluster(*cluster, *at, by),
            Mutation::VolumeCreated(volume) => self.add_volume(volume),
            Mutation::VolumeChanged { volume, size, mount } => {
                let volume = Arc::make_mut(self.volumes.get_mut(volume).ok_or(Inconsistent("no such volume"))?);
                (volume.size, volume.mount) = (*size, mount.clone());
                Ok(())
            }
            Mutation::VolumeDeleted { volume, .. } => {
                let volume = self.volumes.remove(volume).ok_or(Inconsistent("no such volume"))?;
                self.project_volumes.remove(&(volume.project, volume.name.clone()));
                Ok(())
            }
            Mutation::JobSet(job) => self.set_job(job),
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
                self.depart(departure.clone());
                Ok(())
            }
            Mutation::RoleSet { project, account, role } => {
                self.fits_terms(*project, *account, *role)?;
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
        fresh(self.uids.insert(account.uid), "user number taken")?;
        fresh(self.accounts.insert(account.id, Arc::new(account.clone())), "account number taken")
    }

    fn set_terms(&mut self, account: AccountId, terms: &ServiceTerms) -> Result<(), Inconsistent> {
        let account = Arc::make_mut(self.accounts.get_mut(&account).ok_or(Inconsistent("no such account"))?);
        match &mut account.kind {
            AccountKind::Service(former) if former.project == terms.project => {
                **former = terms.clone();
                Ok(())
            }
            AccountKind::Service(_) => Err(Inconsistent("a service account of another project")),
            AccountKind::Person => Err(Inconsistent("not a service account")),
        }
    }

    /// A service account is a member of the project that owns it, and nothing else anywhere: what follows from its
    /// memberships (principals, nodes, bundles) so needs no rule of its own.
    fn fits_terms(&self, project: ProjectId, account: AccountId, role: Role) -> Result<(), Inconsistent> {
        match self.accounts.get(&account).and_then(|account| account.service()) {
            Some(terms) if terms.project != project => Err(Inconsistent("a service account of another project")),
            Some(_) if role != Role::Member => Err(Inconsistent("a service account is a member")),
            _ => Ok(()),
        }
    }

    /// A job outlives its resource: what is gone from the directory may still have to be taken down.
    fn set_job(&mut self, job: &Job) -> Result<(), Inconsistent> {
        self.count(job.id);
        if self.jobs.get(&job.resource).is_some_and(|former| former.id > job.id) {
            return Err(Inconsistent("a later job is there"));
        }
        self.jobs.insert(job.resource, Arc::new(job.clone()));
        Ok(())
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
        fresh(self.gids.insert(project.gid), "group number taken")?;
        fresh(self.gids.insert(project.admins_gid), "group number taken")?;
        fresh(self.projects.insert(project.id, Arc::new(project.clone())), "project number taken")
    }

    fn delete_project(&mut self, deletion: &Deletion) -> Result<(), Inconsistent> {
        let Deletion { project, at, ref by } = *deletion;
        let clusters: Vec<ClusterId> = self.clusters_of(project).map(|cluster| cluster.id).collect();
        for cluster in clusters {
            self.delete_cluster(cluster, at, by)?;
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
            self.depart(Departure { project, account, at, by: by.clone(), until: None });
        }
        let gone = self.projects.remove(&project).ok_or(Inconsistent("no such project"))?;
        self.gone_projects.insert(project, (gone, Arc::new(deletion.clone())));
        Ok(())
    }

    fn add_cluster(&mut self, cluster: &Cluster) -> Result<(), Inconsistent> {
        self.count(cluster.id.0);
        let org = self.projects.get(&cluster.project).ok_or(Inconsistent("no such project"))?.org;
        self.project_clusters.insert((cluster.project, cluster.id));
        fresh(self.cluster_names.insert((org, cluster.name.clone()), cluster.id), "cluster name taken")?;
        fresh(self.clusters.insert(cluster.id, Arc::new(cluster.clone())), "cluster number taken")
    }

    fn delete_cluster(&mut self, cluster: ClusterId, at: Timestamp, by: &Actor) -> Result<(), Inconsistent> {
        let nodes: Vec<NodeId> = self.nodes_of(cluster).map(|node| node.id).collect();
        for node in nodes {
            self.remove_node(node)?;
        }
        let cluster = self.clusters.remove(&cluster).ok_or(Inconsistent("no such cluster"))?;
        self.project_clusters.remove(&(cluster.project, cluster.id));
        let deletion = Deletion { project: cluster.project, at, by: by.clone() };
        self.gone_clusters.insert(cluster.id, Arc::new(deletion));
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
        self.gone_nodes.remove(&node.host_key.fingerprint());
        fresh(self.node_keys.insert(node.host_key.fingerprint(), node.id), "host key taken")?;
        fresh(self.nodes.insert(node.id, Arc::new(node.clone())), "node number taken")
    }

    fn remove_node(&mut self, node: NodeId) -> Result<(), Inconsistent> {
        let node = self.nodes.remove(&node).ok_or(Inconsistent("no such node"))?;
        let path = self.path_of_node(&node).ok_or(Inconsistent("a node without a cluster"))?;
        self.gone_nodes.insert(node.host_key.fingerprint(), (node.id, path));
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
        self.fits_terms(project, account, membership.role)?;
        self.account_projects.insert((account, project));
        self.departures.remove(&(account, project));
        self.graces.remove(&(project, account));
        fresh(self.members.insert((project, account), Arc::new(membership.clone())), "member already")
    }
}

fn fresh<T>(former: Option<T>, what: &'static str) -> Result<(), Inconsistent> {
    match former {
        None => Ok(()),
        Some(_) => Err(Inconsistent(what)),
    }
}
