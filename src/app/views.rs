//! Looking: one snapshot, shaped for people and programs.

use super::{
    account_views::{certificate_view, departed, keys, state, terms_view},
    accounts::subject,
    certificates::State,
    cluster_views::requests,
    core::{App, Asker, lock},
    error::AppError,
    health::{Bounds, problems},
    nodes::{node_named, tokens_that_work},
    view_types::{
        CaView, CertificateView, GatewayView, KeyView, KnownHosts, MemberView, NodeDetails, NodeView, ProjectView,
        ProvisionerView, SessionView, StatusView, UserView, WhoamiView,
    },
};
use crate::{
    bundle::CaPublicKeys,
    domain::{ClusterPath, Directory, Email, Node, NodePath, ProjectPath, PublicKey},
    policy::{Action, Caller, is_told},
};
use std::sync::Arc;

impl App {
    /// Who the asker is.
    ///
    /// # Errors
    /// Refused.
    pub fn whoami(&self, asker: &Asker) -> Result<Option<WhoamiView>, AppError> {
        self.view(asker, Action::Whoami, None, |directory, caller, _| {
            let now = self.now();
            let left = |account| {
                let told = directory.departures_of(account).filter(|departure| is_told(departure.at, now));
                told.filter_map(|departure| departed(directory, departure)).collect()
            };
            Ok(caller.identity().map(|identity| WhoamiView {
                email: identity.account().email.clone(),
                kind: identity.account().kind.holder(),
                service: identity.account().service().map(|terms| terms_view(directory, terms)),
                user: identity.account().user.clone(),
                uid: identity.account().uid.0,
                key: identity.key(),
                certificate: identity.certificate(),
                projects: projects(directory, caller),
                clusters: self.cluster_views(directory, caller),
                removed_from: left(identity.account().id),
            }))
        })
    }

    /// The asker's projects; all of them for an operator.
    ///
    /// # Errors
    /// Refused.
    pub fn projects(&self, asker: &Asker) -> Result<Vec<ProjectView>, AppError> {
        self.view(asker, Action::ProjectList, None, |directory, caller, _| Ok(projects(directory, caller)))
    }

    /// One project.
    ///
    /// # Errors
    /// Refused.
    pub fn project(&self, asker: &Asker, path: &ProjectPath) -> Result<ProjectView, AppError> {
        self.view(asker, Action::ProjectShow, Some(path), |directory, caller, grant| {
            let (project, path) = grant.project()?;
            Ok(project_view(directory, caller, project, path.clone()))
        })
    }

    /// The members of a project.
    ///
    /// # Errors
    /// Refused.
    pub fn members(&self, asker: &Asker, path: &ProjectPath) -> Result<Vec<MemberView>, AppError> {
        self.view(asker, Action::MemberList, Some(path), |directory, _, grant| {
            let members = directory.members_of(grant.project()?.0.id);
            Ok(members
                .map(|(account, membership)| MemberView {
                    email: account.email.clone(),
                    kind: account.kind.holder(),
                    user: account.user.clone(),
                    role: membership.role.to_string(),
                    state: account.state.to_string(),
                    since: membership.since,
                    by: membership.by.to_string(),
                })
                .collect())
        })
    }

    /// The nodes of a cluster.
    ///
    /// # Errors
    /// Refused.
    pub fn nodes(&self, asker: &Asker, path: &ClusterPath) -> Result<Vec<NodeView>, AppError> {
        self.view(asker, Action::NodeList, path, |directory, _, grant| {
            Ok(self.node_views(directory, directory.nodes_of(grant.cluster()?.id)))
        })
    }

    /// One node.
    ///
    /// # Errors
    /// Refused, or there is none.
    pub fn node(&self, asker: &Asker, path: &NodePath) -> Result<NodeDetails, AppError> {
        self.view(asker, Action::NodeShow, &path.cluster_path(), |directory, _, grant| {
            let node = node_named(directory, path)?;
            Ok(NodeDetails {
                view: self.node_view(directory, node),
                project: grant.project()?.1.clone(),
                enrolled: node.enrolled,
                sessions: self.sessions_on(directory, None, |there| there.id == node.id),
            })
        })
    }

    /// Those first that somebody should look after; each part as it came.
    fn node_views<'n>(&self, directory: &Directory, nodes: impl Iterator<Item = &'n Arc<Node>>) -> Vec<NodeView> {
        let now = self.now();
        let mut views: Vec<_> = nodes.map(|node| self.node_view(directory, node)).collect();
        views.sort_by_key(|view| !view.is_behind_or_silent(now));
        views
    }

    fn node_view(&self, directory: &Directory, node: &Node) -> NodeView {
        let status = lock(&self.hub).node(node.id).cloned();
        let wanted = lock(&self.published).get(&node.cluster).copied();
        let lacks = status.as_ref().filter(|status| wanted.is_some() && status.version < wanted);
        NodeView {
            node: directory.path_of_node(node).map(|path| path.to_string()).unwrap_or_default(),
            role: node.role.to_string(),
            address: std::net::SocketAddr::new(node.address, node.port).to_string(),
            reach: status.as_ref().map(|status| status.reach).unwrap_or_default(),
            host_key: node.host_key.fingerprint(),
            version: status.as_ref().and_then(|status| status.version),
            wanted,
            heard: status.as_ref().map(|status| status.heard),
            // One that came without it has lacked it since then at least.
            behind_since: lacks.map(|status| status.behind_since.unwrap_or(status.since)),
            host_certificate_until: status.as_ref().and_then(|status| status.host_certificate_until),
            program: status.as_ref().and_then(|status| status.program.clone()),
            problem: status.and_then(|status| status.problem),
        }
    }

    /// The keys of an account: the asker's own, or `email`'s for an operator.
    ///
    /// # Errors
    /// Refused.
    pub fn keys(&self, asker: &Asker, email: Option<&Email>) -> Result<Vec<KeyView>, AppError> {
        self.view(asker, Action::KeyList, None, |directory, caller, _| {
            let account = subject(directory, caller, email)?;
            let current = caller.identity().map(crate::policy::Identity::key);
            Ok(keys(directory, account.id, current))
        })
    }

    /// The live certificates: one's own, or all as operator.
    ///
    /// # Errors
    /// Refused.
    pub fn certificates(&self, asker: &Asker) -> Result<Vec<CertificateView>, AppError> {
        let directory = self.directory();
        let views =
            self.live_certificates(asker)?.into_iter().map(|record| certificate_view(&directory, record, self.now()));
        Ok(views.collect())
    }

    /// The open sessions, through gateways and past them: one's own, or all as operator; the oldest first.
    ///
    /// # Errors
    /// Refused.
    pub fn sessions(&self, asker: &Asker) -> Result<Vec<SessionView>, AppError> {
        self.view(asker, Action::SessionList, None, |directory, caller, _| {
            let own = caller.identity().map(|identity| identity.account().id);
            Ok(self.all_sessions(directory, own, true))
        })
    }

    /// Every organization.
    ///
    /// # Errors
    /// Refused.
    pub fn orgs(&self, asker: &Asker) -> Result<Vec<Arc<crate::domain::Org>>, AppError> {
        self.view(asker, Action::OrgList, None, |directory, _, _| Ok(directory.orgs().cloned().collect()))
    }

    /// Every account.
    ///
    /// # Errors
    /// Refused.
    pub fn users(&self, asker: &Asker) -> Result<Vec<UserView>, AppError> {
        self.view(asker, Action::UserList, None, |directory, _, _| {
            let users = directory.accounts().map(|account| UserView {
                email: account.email.clone(),
                kind: account.kind.holder(),
                org: directory.org(account.org).map(|org| org.name.to_string()).unwrap_or_default(),
                user: account.user.clone(),
                uid: account.uid.0,
                state: state(directory, account),
                keys: directory.keys_of(account.id).count(),
                projects: directory.projects_of(account.id).count(),
            });
            Ok(users.collect())
        })
    }

    /// The public halves of the CA keys.
    ///
    /// # Errors
    /// Refused.
    pub fn ca_keys(&self, asker: &Asker) -> Result<CaView, AppError> {
        self.view(asker, Action::CaShow, None, |_, _, _| {
            let CaPublicKeys { user, host } = self.ca.public();
            Ok(CaView { user, host, audit: self.ca.audit_key() })
        })
    }

    /// How the authority is.
    ///
    /// # Errors
    /// Refused.
    pub fn status(&self, asker: &Asker) -> Result<StatusView, AppError> {
        let now = self.now();
        self.view(asker, Action::Status, None, |directory, _, _| {
            let nodes = directory.clusters().flat_map(|cluster| directory.nodes_of(cluster.id));
            let mut nodes = self.node_views(directory, nodes);
            nodes.sort_by_key(|node| (!node.is_behind_or_silent(now), node.node.clone()));
            let gateways = lock(&self.hub)
                .gateways()
                .map(|(name, gateway)| GatewayView {
                    gateway: name.clone(),
                    host_key: gateway.host_key.fingerprint(),
                    since: gateway.since,
                    program: gateway.program.clone(),
                    certificate_until: gateway.certificate_until,
                })
                .collect();
            let mut status = StatusView {
                problems: Vec::new(),
                program: env!("CARGO_PKG_VERSION").into(),
                started: self.started,
                version: directory.version(),
                accounts: directory.accounts().count(),
                projects: directory.projects().count(),
                sessions: lock(&self.sessions).iter().count(),
                certificates: lock(&self.live)
                    .values()
                    .filter(|record| State::of(directory, record, now) == State::Live)
                    .count(),
                gateways,
                provisioner: self.site.provisioner.then(|| ProvisionerView { connected: self.provisioner_since() }),
                requests: requests(directory),
                disk: self.store.space(),
                last_backup: *lock(&self.last_backup),
                tokens: tokens_that_work(directory, directory.clusters(), now),
                nodes,
            };
            let host_ttl = self.site.certificates.host_ttl.duration();
            status.problems = problems(
                &status,
                &Bounds { host_ttl, backup: self.site.upkeep.backup_every, ..Bounds::default() },
                now,
            );
            Ok(status)
        })
    }

    /// What a client has to know.
    ///
    /// # Errors
    /// Refused.
    pub fn known_hosts(&self, asker: &Asker) -> Result<KnownHosts, AppError> {
        self.view(asker, Action::Config, None, |directory, caller, _| {
            let identity = caller.identity();
            // One that drains beside its successor has the same.
            let mut gateways: Vec<PublicKey> = Vec::new();
            for (_, gateway) in lock(&self.hub).gateways() {
                if !gateways.contains(&gateway.host_key) {
                    gateways.push(gateway.host_key.clone());
                }
            }
            Ok(KnownHosts {
                bastion: self.site.bastion.clone(),
                gateways,
                host_ca: self.ca.host.public_key().clone(),
                clusters: cluster_paths(directory, caller),
                account: identity.map(|identity| identity.account().clone()),
                key: identity.and_then(|identity| directory.key(&identity.key())).map(|entry| entry.key.clone()),
            })
        })
    }
}

pub(super) fn projects(directory: &Directory, caller: &Caller) -> Vec<ProjectView> {
    let visible: Vec<_> = match caller.identity() {
        None => directory.projects().collect(),
        Some(identity) => directory.projects_of(identity.account().id).map(|(project, _)| project).collect(),
    };
    let views = visible
        .into_iter()
        .filter_map(|project| Some(project_view(directory, caller, project, directory.path_of_project(project)?)));
    views.collect()
}

pub(super) fn project_view(
    directory: &Directory,
    caller: &Caller,
    project: &crate::domain::Project,
    path: ProjectPath,
) -> ProjectView {
    ProjectView {
        project: path,
        role: role(directory, caller, project.id),
        members: directory.members_of(project.id).count(),
        services: directory.members_of(project.id).filter(|(account, _)| account.service().is_some()).count(),
        clusters: directory.clusters_of(project.id).count(),
        volumes: directory.volumes_of(project.id).count(),
        limits: project.limits.clone(),
        created: project.created,
    }
}

pub(super) fn role(directory: &Directory, caller: &Caller, project: crate::domain::ProjectId) -> Option<String> {
    let account = caller.identity()?.account().id;
    directory.membership(project, account).map(|membership| membership.role.to_string())
}

/// The clusters of the asker's projects.
fn cluster_paths(directory: &Directory, caller: &Caller) -> Vec<ClusterPath> {
    let projects = projects(directory, caller).into_iter();
    let projects = projects.filter_map(|view| Some(directory.project_at(&view.project)?.id));
    projects.flat_map(|id| directory.clusters_of(id)).filter_map(|cluster| directory.path_of_cluster(cluster)).collect()
}
