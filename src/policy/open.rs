//! Which node a connection may open.

use super::{
    denial::{Denial, Reason},
    identity::{Identity, Scope},
};
use crate::domain::{
    Account, Cluster, ClusterPath, Directory, Node, NodeId, NodePath, NodeRole, Project, ProjectId, ProjectPath,
    ServiceTerms, Target, Timestamp, Ttl,
};
use std::{net::IpAddr, sync::Arc};

/// The port that names are reached at: a node's own port is the directory's business.
const SSH_PORT: u32 = 22;

/// What is asked for in a `direct-tcpip` channel open (RFC 4254, 7.2).
#[derive(Clone, Copy, Debug)]
pub struct OpenTarget<'a> {
    /// The host, as it was sent.
    pub host: &'a str,
    /// The port.
    pub port: u32,
}

/// That a connection may open one node, at one address. Only [`open`] makes one.
#[derive(Clone, Debug)]
#[must_use]
pub struct OpenPermit {
    node: Arc<Node>,
    path: NodePath,
    project: ProjectPath,
}

impl OpenPermit {
    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node.id
    }

    /// The node's name.
    #[must_use]
    pub fn path(&self) -> &NodePath {
        &self.path
    }

    /// The project that the access comes from.
    #[must_use]
    pub fn project(&self) -> &ProjectPath {
        &self.project
    }

    /// Where to dial.
    #[must_use]
    pub fn address(&self) -> (IpAddr, u16) {
        (self.node.address, self.node.port)
    }
}

/// Whether somebody may open what they name. `prefer` ranks the login nodes of a cluster that was named alone: the
/// highest is taken, the first among equals; those without a rank are not.
///
/// # Errors
/// It is not there, or not theirs (which look alike), or not an SSH port, or not in the certificate in hand.
pub fn open(
    directory: &Directory,
    identity: &Identity,
    target: OpenTarget<'_>,
    prefer: &dyn Fn(NodeId) -> Option<u64>,
    now: Timestamp,
) -> Result<OpenPermit, Denial> {
    decide(directory, identity, target, prefer, &|_| false, now)
}

/// [`open`], also for whoever is not in the project but passes for somebody who is.
fn decide(
    directory: &Directory,
    identity: &Identity,
    target: OpenTarget<'_>,
    prefer: &dyn Fn(NodeId) -> Option<u64>,
    passes: &dyn Fn(ProjectId) -> bool,
    now: Timestamp,
) -> Result<OpenPermit, Denial> {
    let unknown = |operator: String| {
        // The name is repeated to the one who sent it only if it is one.
        match target.host.parse::<Target>() {
            Ok(name) => Denial::not_found("node", &name, operator),
            Err(e) => Denial::told(Reason::NotFound, operator, format!("no such node: {e}")),
        }
    };
    let name = target.host.parse::<Target>().map_err(|e| unknown(format!("not a node's name: {e}")))?;
    let find = |at: &ClusterPath| {
        let stranger = || unknown(format!("no cluster {at}"));
        let gone = || Denial::no_cluster(directory, identity.account().id, at, now, stranger());
        directory.cluster_at(at).ok_or_else(gone)
    };
    let (cluster, node) = match &name {
        Target::Node(path) => (find(&path.cluster_path())?, directory.node_at(path)),
        Target::Cluster(path) => {
            let cluster = find(path)?;
            (cluster, login_node(directory, cluster, prefer))
        }
    };
    let project = member_project(directory, identity, cluster, passes, now, || {
        unknown(format!("{} is not in the project of {name}", identity.account().email))
    })?;
    let node = node.ok_or_else(|| match &name {
        Target::Node(path) => unknown(format!("no node {path}")),
        Target::Cluster(path) if directory.nodes_of(cluster.id).any(|node| node.role == NodeRole::Login) => {
            Denial::plain(Reason::NoNode, format!("no login node of {path} can be reached; try again later"))
        }
        Target::Cluster(path) => Denial::plain(
            Reason::NoNode,
            format!("{path} has no login node yet; name a node, or ask an admin to enrol one"),
        ),
    })?;
    let path = directory.path_of_node(node).ok_or_else(|| unknown("the node has no path".into()))?;
    check_scope(identity, &project, &path)?;
    if target.port != SSH_PORT && target.port != u32::from(node.port) {
        let text = format!("port {} of {path} cannot be reached; only its SSH port (22) can", target.port);
        return Err(Denial::plain(Reason::WrongPort, text));
    }
    Ok(OpenPermit { node: node.clone(), path, project })
}

/// Whether what was opened at `since` may be open: the same decision again, for the node that was opened then, and had
/// the name `path`.
///
/// # Errors
/// As [`open`]; and what a service account opened before it was bound to the command that it runs now may run another.
pub fn still_open(
    directory: &Directory,
    identity: &Identity,
    node: NodeId,
    path: &NodePath,
    since: Timestamp,
    now: Timestamp,
) -> Result<OpenPermit, Denial> {
    again(directory, identity, (node, path, since), &|_| false, now)
}

/// What becomes of what is open.
#[derive(Clone, Debug)]
#[must_use]
pub enum Stay {
    /// It may be open.
    Permitted(OpenPermit),
    /// Whose it is was removed from the project, which gives those who have something open a while.
    Lingers(Lingering),
}

/// What may stay open for a while though it could not be opened any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lingering {
    /// Until when.
    pub until: Timestamp,
    /// One line for whose it is: that, and why.
    pub warning: String,
    /// What it will have ended for, then.
    pub reason: String,
}

/// Whether what was opened at `since` may stay open: because it may be open ([`still_open`]), or because whose it is was
/// removed from the project since then and has a grace period. Nothing else has one: what ends for another reason (a
/// suspension, a key or a certificate that is believed no more, a node that is none, the longest that sessions last) ends
/// within it as well.
///
/// # Errors
/// As [`still_open`].
pub fn stays(
    directory: &Directory,
    identity: &Identity,
    node: NodeId,
    path: &NodePath,
    since: Timestamp,
    now: Timestamp,
) -> Result<Stay, Denial> {
    let account = identity.account();
    let passes = |project: ProjectId| lingers(directory, account, project, since, now).is_some();
    let permit = again(directory, identity, (node, path, since), &passes, now)?;
    let Some(project) = directory.cluster(permit.node.cluster).map(|cluster| cluster.project) else {
        return Ok(Stay::Permitted(permit));
    };
    let departure = directory.departure(account.id, project);
    Ok(match (lingers(directory, account, project, since, now), departure) {
        (Some(until), Some(departure)) => {
            let reason = Denial::removed(&permit.project, departure.at, &departure.by, now).user;
            let warning = format!("{reason}; what you have open there ends at {}", until.for_people_at(now));
            Stay::Lingers(Lingering { until, warning, reason })
        }
        _ => Stay::Permitted(permit),
    })
}

/// Until when what somebody opened at `since` in a project that they have left may stay: only what was open when they left.
fn lingers(
    directory: &Directory,
    account: &Account,
    project: ProjectId,
    since: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let was_open = directory.departure(account.id, project).is_some_and(|departure| since < departure.at);
    directory.lingers(account.id, project, now).filter(|_| was_open)
}

fn again(
    directory: &Directory,
    identity: &Identity,
    (node, path, since): (NodeId, &NodePath, Timestamp),
    passes: &dyn Fn(ProjectId) -> bool,
    now: Timestamp,
) -> Result<OpenPermit, Denial> {
    let bound = |terms: &&ServiceTerms| terms.force_command.is_some() && terms.command_since > since;
    if let Some(terms) = identity.account().service().filter(bound) {
        return Err(Denial::told(
            Reason::ServiceAccount,
            format!("{} is bound to another command since {}", identity.account().email, terms.command_since),
            "what this service account runs was changed; connect again",
        ));
    }
    let path = directory.node(node).and_then(|node| directory.path_of_node(node)).ok_or_else(|| {
        let removed = "the node was removed from its cluster";
        let removed = Denial::told(Reason::NotFound, format!("the node {path} was removed"), removed);
        Denial::no_cluster(directory, identity.account().id, &path.cluster_path(), now, removed)
    })?;
    let host = path.to_string();
    let permit = decide(directory, identity, OpenTarget { host: &host, port: SSH_PORT }, &|_| Some(0), passes, now)?;
    match overtime(directory, node, since, now) {
        None => Ok(permit),
        Some(longest) => Err(Denial::told(
            Reason::SessionTime,
            format!("sessions of {} last {longest} at most", permit.project),
            format!("sessions of {} last {longest} at most; connect again", permit.project),
        )),
    }
}

/// The longest that a session to a node may last, if one that began at `since` has lasted as long as that.
#[must_use]
pub fn overtime(directory: &Directory, node: NodeId, since: Timestamp, now: Timestamp) -> Option<Ttl> {
    let cluster = directory.cluster(directory.node(node)?.cluster)?;
    let longest = directory.project(cluster.project)?.limits.max_session?;
    (now.since(since) >= longest.duration()).then_some(longest)
}

fn login_node<'d>(
    directory: &'d Directory,
    cluster: &Cluster,
    prefer: &dyn Fn(NodeId) -> Option<u64>,
) -> Option<&'d Arc<Node>> {
    // `max_by_key` takes the last among equals; reversed, that is the first.
    let nodes: Vec<_> = directory.nodes_of(cluster.id).filter(|node| node.role == NodeRole::Login).collect();
    let ranked = nodes.into_iter().rev().filter_map(|node| prefer(node.id).map(|rank| (rank, node)));
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, node)| node)
}

fn member_project(
    directory: &Directory,
    identity: &Identity,
    cluster: &Cluster,
    passes: &dyn Fn(ProjectId) -> bool,
    now: Timestamp,
    unknown: impl Fn() -> Denial,
) -> Result<ProjectPath, Denial> {
    let project: &Arc<Project> = directory.project(cluster.project).ok_or_else(&unknown)?;
    if directory.membership(project.id, identity.account().id).is_none() && !passes(project.id) {
        return Err(Denial::not_in_project(directory, identity.account().id, project.id, now, unknown()));
    }
    directory.path_of_project(project).ok_or_else(unknown)
}

/// A certificate that was asked for with less gives less, here as on the node.
fn check_scope(identity: &Identity, project: &ProjectPath, node: &NodePath) -> Result<(), Denial> {
    let covered = match identity.scope() {
        Scope::Account => true,
        Scope::Principals(principals) => principals.iter().any(|principal| {
            principal.org == project.org
                && principal.project == project.project
                && principal.cluster.as_ref().is_none_or(|cluster| *cluster == node.cluster)
        }),
    };
    if covered {
        Ok(())
    } else {
        Err(Denial::plain(Reason::OutOfScope, format!("the certificate that you connected with is not for {node}")))
    }
}
