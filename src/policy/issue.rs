//! What a certificate says: decided here, signed by `ca`.

use super::{
    bounds::{Bounds, CertificateSettings},
    denial::{Denial, Reason},
    identity::{Identity, Scope},
};
use crate::domain::{
    AccountId, ClusterPath, Directory, Fingerprint, ForceCommand, Node, NodeRole, Principal, Principals,
    PrincipalsError, ProjectPath, PublicKey, Serial, Timestamp, Ttl, UserName,
};
use std::time::Duration;

/// How far the past reaches: a node's clock may be so much behind.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What a caller may say about the certificate it wants. No option, no extension, no principal.
#[derive(Clone, Debug, Default)]
pub struct IssueRequest {
    /// Less than every project.
    pub narrow: Option<Narrowing>,
    /// For how long.
    pub ttl: Option<Ttl>,
    /// Another key of the account than the one that authenticated.
    pub key: Option<Fingerprint>,
}

/// Less than every project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Narrowing {
    /// These projects.
    Projects(Vec<ProjectPath>),
    /// One cluster.
    Cluster(ClusterPath),
}

/// Everything that a user certificate will say. Only [`issue`] makes one, only `ca` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct IssuePermit {
    pub(crate) account: AccountId,
    pub(crate) user: UserName,
    pub(crate) key: PublicKey,
    pub(crate) serial: Serial,
    pub(crate) principals: Principals,
    /// Seconds since 1970, inclusive.
    pub(crate) valid_after: u64,
    /// Seconds since 1970, exclusive.
    pub(crate) valid_before: u64,
    pub(crate) force_command: Option<ForceCommand>,
    pub(crate) source_address: Option<String>,
    pub(crate) extensions: Vec<&'static str>,
}

/// Decides what a certificate for this caller says.
///
/// # Errors
/// A key that is not the account's, a TTL past the cap, a project or cluster that is not theirs, no project at all, more
/// than a certificate holds, or a service account at a site that is not set up for them.
pub fn issue(
    directory: &Directory,
    identity: &Identity,
    request: &IssueRequest,
    settings: &CertificateSettings,
    serial: Serial,
    now: Timestamp,
) -> Result<IssuePermit, Denial> {
    let account = identity.account();
    let wanted = request.key.unwrap_or_else(|| identity.key());
    let entry = directory.key(&wanted).filter(|entry| entry.account == account.id).ok_or_else(|| {
        Denial::told(
            Reason::ForeignKey,
            format!("key {wanted} is not registered for {}", account.email),
            format!("{wanted} is not a key of your account; 'key list' shows yours"),
        )
    })?;
    let bounds = Bounds::of(account, settings)?;
    // What nobody gets is refused as that, whatever it is for.
    bounds.ttl(request.ttl)?;
    let principals = principals(directory, identity, request.narrow.as_ref(), now)?;
    let projects = principals.iter().filter_map(|principal| {
        let path = ProjectPath { org: principal.org.clone(), project: principal.project.clone() };
        let limits = &directory.project_at(&path)?.limits;
        Some((path, limits))
    });
    let bounds = bounds.within(projects);
    let ttl = bounds.ttl(request.ttl)?;
    Ok(IssuePermit {
        account: account.id,
        user: account.user.clone(),
        key: entry.key.clone(),
        serial,
        principals,
        valid_after: now.before(CLOCK_SKEW).secs(),
        valid_before: now.secs() + u64::from(ttl.secs()),
        extensions: bounds.extensions(),
        force_command: bounds.force_command,
        source_address: bounds.source_address,
    })
}

fn principals(
    directory: &Directory,
    identity: &Identity,
    narrow: Option<&Narrowing>,
    now: Timestamp,
) -> Result<Principals, Denial> {
    let account = identity.account();
    let principal = |path: ProjectPath, cluster| Principal {
        user: account.user.clone(),
        org: path.org,
        project: path.project,
        cluster,
    };
    let wanted: Vec<Principal> = match narrow {
        None => directory
            .projects_of(account.id)
            .filter_map(|(project, _)| directory.path_of_project(project))
            .map(|path| principal(path, None))
            .collect(),
        Some(Narrowing::Projects(paths)) => {
            let mut wanted = Vec::new();
            for path in paths {
                let unknown = || Denial::not_found("project", path, format!("{} is not in {path}", account.email));
                let gone = || directory.gone_project_at(path);
                let gone = || match gone() {
                    Some(project) => Denial::not_in_project(directory, account.id, project, now, unknown()),
                    None => unknown(),
                };
                let project = directory.project_at(path).ok_or_else(gone)?;
                member(directory, identity, project.id, now, unknown)?;
                wanted.push(principal(path.clone(), None));
            }
            wanted
        }
        Some(Narrowing::Cluster(path)) => {
            let unknown = || Denial::not_found("cluster", path, format!("{} cannot reach {path}", account.email));
            let gone = || Denial::no_cluster(directory, account.id, path, now, unknown());
            let cluster = directory.cluster_at(path).ok_or_else(gone)?;
            member(directory, identity, cluster.project, now, unknown)?;
            let project = directory.project(cluster.project).and_then(|project| directory.path_of_project(project));
            vec![principal(project.ok_or_else(unknown)?, Some(cluster.name.clone()))]
        }
    };
    // Who came with a certificate gets no more than that certificate has.
    let wanted = match identity.scope() {
        Scope::Account => wanted,
        Scope::Principals(held) => {
            let some = !wanted.is_empty();
            let covered = wanted.into_iter().filter(|wanted| held.iter().any(|held| covers(held, wanted)));
            let covered: Vec<Principal> = covered.collect();
            if some && covered.is_empty() {
                return Err(Denial::plain(
                    Reason::OutOfScope,
                    "the certificate that you connected with is for less than that; connect with your key (ssh -o \
                     CertificateFile=none -i KEYFILE …)",
                ));
            }
            covered
        }
    };
    Principals::new(wanted).map_err(|error| match error {
        PrincipalsError::Empty => no_project(directory, identity, now),
        PrincipalsError::TooMany => Denial::plain(
            Reason::Invalid,
            "you are in more projects than one certificate can name (256); name those you need: cert --project ORG/PROJECT",
        ),
    })
}

fn member(
    directory: &Directory,
    identity: &Identity,
    project: crate::domain::ProjectId,
    now: Timestamp,
    unknown: impl Fn() -> Denial,
) -> Result<(), Denial> {
    match directory.membership(project, identity.account().id) {
        Some(_) => Ok(()),
        None => Err(Denial::not_in_project(directory, identity.account().id, project, now, unknown())),
    }
}

fn covers(held: &Principal, wanted: &Principal) -> bool {
    held.org == wanted.org
        && held.project == wanted.project
        && (held.cluster.is_none() || held.cluster == wanted.cluster)
}

/// Who is in no project is told of the last one that they were removed from.
fn no_project(directory: &Directory, identity: &Identity, now: Timestamp) -> Denial {
    let nothing = Denial::plain(
        Reason::NotFound,
        "you are in no project, so there is nothing that a certificate could be for; ask a project's admin to add you",
    );
    match directory.departures_of(identity.account().id).max_by_key(|departure| departure.at) {
        Some(last) => Denial::not_in_project(directory, identity.account().id, last.project, now, nothing),
        None => nothing,
    }
}

/// Everything that a node's host certificate will say. Only [`issue_host`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct HostPermit {
    pub(crate) key: PublicKey,
    pub(crate) serial: Serial,
    pub(crate) key_id: String,
    /// Host names, in order, each once.
    pub(crate) names: Vec<String>,
    /// Seconds since 1970, inclusive.
    pub(crate) valid_after: u64,
    /// Seconds since 1970, exclusive.
    pub(crate) valid_before: u64,
}

impl HostPermit {
    /// When it ends.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        Timestamp::from_secs(self.valid_before)
    }

    /// The host names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

/// For the audit log.
impl std::fmt::Display for HostPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "for {} until {}", self.names.join(" "), Timestamp::from_secs(self.valid_before))
    }
}

/// Decides what the host certificate of a node says: its own name, and its cluster's if people log in there.
///
/// # Errors
/// The node is no more.
pub fn issue_host(
    directory: &Directory,
    node: &Node,
    settings: &CertificateSettings,
    serial: Serial,
    now: Timestamp,
) -> Result<HostPermit, Denial> {
    let gone = || Denial::plain(Reason::NotFound, "the node was removed from its cluster");
    let current = directory.node(node.id).filter(|current| current.host_key == node.host_key).ok_or_else(gone)?;
    let path = directory.path_of_node(current).ok_or_else(gone)?;
    let mut names = vec![path.to_string()];
    if current.role == NodeRole::Login {
        names.push(ClusterPath { cluster: path.cluster.clone(), org: path.org.clone() }.to_string());
    }
    names.sort();
    Ok(HostPermit {
        key: current.host_key.clone(),
        serial,
        key_id: path.to_string(),
        names,
        valid_after: now.before(CLOCK_SKEW).secs(),
        valid_before: now.secs() + u64::from(settings.host_ttl.secs()),
    })
}

/// How long a gateway's host certificate lives at most: a gateway that was taken over could have one made for a key of its
/// own.
const GATEWAY_TTL: u64 = 86_400;

/// Decides what the host certificate of a gateway says: the names by which people know the bastion.
pub fn issue_gateway(
    gateway: &str,
    host_key: &PublicKey,
    mut names: Vec<String>,
    settings: &CertificateSettings,
    now: Timestamp,
) -> HostPermit {
    names.sort();
    names.dedup();
    HostPermit {
        key: host_key.clone(),
        serial: Serial(0),
        key_id: format!("gateway {gateway}"),
        names,
        valid_after: now.before(CLOCK_SKEW).secs(),
        valid_before: now.secs() + u64::from(settings.host_ttl.secs()).min(GATEWAY_TTL),
    }
}
