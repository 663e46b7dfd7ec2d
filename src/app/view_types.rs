//! What can be looked at, as values. The field names are those of `--json`, stable.

use super::{
    certificates::State as CertificateState,
    cluster_views::{ClusterView, NODE_SILENT, RequestView},
    core::Bastion,
    health::Problem,
    nodes::TokenView,
    protocol::Reach,
};
use crate::{
    domain::{
        Account, ClusterPath, Email, Fingerprint, ForceCommand, Holder, Limits, Networks, ProjectPath, PublicKey,
        Serial, Timestamp, Ttl, UserName, Version,
    },
    store::Space,
};
use serde::Serialize;
use std::{net::IpAddr, sync::Arc};

/// Who one is.
#[derive(Clone, Debug, Serialize)]
pub struct WhoamiView {
    /// The account.
    pub email: Email,
    /// `person` or `service`.
    pub kind: Holder,
    /// What bounds it, if it is a service account.
    pub service: Option<TermsView>,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its POSIX user number.
    pub uid: u32,
    /// The key that authenticated.
    pub key: Fingerprint,
    /// The certificate that authenticated, if one did.
    pub certificate: Option<Serial>,
    /// The projects that it is in.
    pub projects: Vec<ProjectView>,
    /// Every cluster of those.
    pub clusters: Vec<ClusterView>,
    /// The projects that it was removed from lately.
    pub removed_from: Vec<DepartureView>,
}

/// A project.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectView {
    /// `ORG/PROJECT`.
    pub project: ProjectPath,
    /// The asker's role in it.
    pub role: Option<String>,
    /// How many are in it, service accounts included.
    pub members: usize,
    /// How many of them are service accounts.
    pub services: usize,
    /// How many clusters it has.
    pub clusters: usize,
    /// How many volumes it has.
    pub volumes: usize,
    /// What it allows less than the site.
    #[serde(flatten)]
    pub limits: Limits,
    /// Since when.
    pub created: Timestamp,
}

/// A member of a project.
#[derive(Clone, Debug, Serialize)]
pub struct MemberView {
    /// The account.
    pub email: Email,
    /// `person` or `service`.
    pub kind: Holder,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its role.
    pub role: String,
    /// `active` or `suspended`.
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// By whose decision.
    pub by: String,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// `NODE.CLUSTER.ORG`.
    pub node: String,
    /// What it is for.
    pub role: String,
    /// Where the gateway dials it.
    pub address: String,
    /// How gateways reach it, as it last said: they dial it, or it has a tunnel for them.
    pub reach: Reach,
    /// Its host key.
    pub host_key: Fingerprint,
    /// The version in force there, as it last said.
    pub version: Option<Version>,
    /// The version that it should have.
    pub wanted: Option<Version>,
    /// When it last said anything, since this authority started.
    pub heard: Option<Timestamp>,
    /// Why it did not take the last bundle.
    pub problem: Option<String>,
    /// Since when it lacks something, if it does.
    pub behind_since: Option<Timestamp>,
    /// When its host certificate ends, as it last said.
    pub host_certificate_until: Option<Timestamp>,
    /// The version of its agent's program, as it last said.
    pub program: Option<String>,
}

/// All about a node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeDetails {
    /// What the list says.
    #[serde(flatten)]
    pub view: NodeView,
    /// Its project.
    pub project: ProjectPath,
    /// Since when it is one.
    pub enrolled: Timestamp,
    /// How many open sessions are known, through gateways and past them.
    pub sessions: usize,
}

impl NodeView {
    /// Whether it does not have what it should have, or may not be there to get it.
    #[must_use]
    pub fn is_behind_or_silent(&self, now: Timestamp) -> bool {
        let silent = self.heard.is_none_or(|heard| now.since(heard) > NODE_SILENT);
        silent || self.problem.is_some() || self.version.is_none() || self.version < self.wanted
    }
}

/// A key.
#[derive(Clone, Debug, Serialize)]
pub struct KeyView {
    /// Its algorithm.
    pub algorithm: String,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Since when.
    pub added: Timestamp,
    /// Whether it is the one that authenticated.
    pub current: bool,
}

/// The public halves of the authority's keys.
#[derive(Clone, Debug, Serialize)]
pub struct CaView {
    /// Signs user certificates.
    pub user: PublicKey,
    /// Signs host certificates.
    pub host: PublicKey,
    /// Signs where the audit log ends.
    pub audit: PublicKey,
}

/// A live certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateView {
    /// Its serial number.
    pub serial: Serial,
    /// Whose it is.
    pub account: String,
    /// `person` or `service`.
    pub kind: Holder,
    /// The key that it certifies.
    pub key: Fingerprint,
    /// Its principals.
    pub principals: Vec<String>,
    /// From where it was asked for.
    pub source: String,
    /// When it ends.
    pub until: Timestamp,
    /// Whether it is good, and if not, why.
    pub state: CertificateState,
}

/// A session: a forward through a gateway, or a session of a node's sshd, or both.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// Its name, for 'session end'.
    pub session: String,
    /// Whose it is.
    pub account: String,
    /// `person` or `service`.
    pub kind: Holder,
    /// Where it goes.
    pub node: String,
    /// The login there; none until the node has said so.
    pub login: Option<String>,
    /// From where, if it goes through a gateway.
    pub peer: Option<IpAddr>,
    /// The gateway that it goes through; none if it came past them.
    pub gateway: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// Until when, if whose it is was removed from the project and has a while.
    pub until: Option<Timestamp>,
    /// The certificate that it came with to the node, or else to the gateway.
    pub certificate: Option<Serial>,
    /// The number of its privileged sshd's process on the node, if the node has said so.
    pub process: Option<u32>,
}

/// An account.
#[derive(Clone, Debug, Serialize)]
pub struct UserView {
    /// Its email.
    pub email: Email,
    /// `person` or `service`.
    pub kind: Holder,
    /// Its organization.
    pub org: String,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its POSIX user number.
    pub uid: u32,
    /// `active` or `suspended`; `deleted` of a service account.
    pub state: String,
    /// How many keys it has.
    pub keys: usize,
    /// How many projects it is in.
    pub projects: usize,
}

/// What bounds a service account.
#[derive(Clone, Debug, Serialize)]
pub struct TermsView {
    /// The project that owns it, if it was not deleted.
    pub project: Option<ProjectPath>,
    /// From where it may be used.
    pub sources: Networks,
    /// What its sessions run, if nothing else.
    pub force_command: Option<ForceCommand>,
    /// The longest that one of its certificates lives.
    pub max_ttl: Ttl,
}

/// A service account, as its project sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    /// Its email.
    pub email: Email,
    /// `service`.
    pub kind: Holder,
    /// The project that owns it.
    pub project: ProjectPath,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its POSIX user number.
    pub uid: u32,
    /// `active` or `suspended`.
    pub state: String,
    /// From where it may be used.
    pub sources: Networks,
    /// What its sessions run, if nothing else.
    pub force_command: Option<ForceCommand>,
    /// The longest that one of its certificates lives.
    pub max_ttl: Ttl,
    /// Its keys.
    pub keys: Vec<KeyView>,
    /// How many of its certificates have not ended.
    pub certificates: usize,
    /// How many forwards it has open.
    pub sessions: usize,
    /// Since when.
    pub created: Timestamp,
    /// By whose decision.
    pub by: String,
}

/// That an account is in a project.
#[derive(Clone, Debug, Serialize)]
pub struct MembershipView {
    /// The project.
    pub project: ProjectPath,
    /// Its role there.
    pub role: String,
    /// Since when.
    pub since: Timestamp,
    /// By whose decision.
    pub by: String,
}

/// That an account was removed from a project.
#[derive(Clone, Debug, Serialize)]
pub struct DepartureView {
    /// The project.
    pub project: ProjectPath,
    /// When.
    pub at: Timestamp,
    /// By whose decision.
    pub by: String,
    /// Whether it was the project that was deleted.
    pub deleted: bool,
}

/// Everything about an account.
#[derive(Clone, Debug, Serialize)]
pub struct AccountView {
    /// Its email.
    pub email: Email,
    /// `person` or `service`.
    pub kind: Holder,
    /// Its organization.
    pub org: String,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its POSIX user number.
    pub uid: u32,
    /// `active` or `suspended`; `deleted` of a service account.
    pub state: String,
    /// Since when.
    pub created: Timestamp,
    /// What bounds it, if it is a service account.
    pub service: Option<TermsView>,
    /// Its keys.
    pub keys: Vec<KeyView>,
    /// The projects that it is in.
    pub projects: Vec<MembershipView>,
    /// The projects that it was removed from and has not come back to.
    pub removed_from: Vec<DepartureView>,
    /// Its certificates that have not ended.
    pub certificates: Vec<CertificateView>,
    /// What it has open.
    pub sessions: Vec<SessionView>,
}

/// A gateway.
#[derive(Clone, Debug, Serialize)]
pub struct GatewayView {
    /// Its name.
    pub gateway: String,
    /// Its host key.
    pub host_key: Fingerprint,
    /// Since when its event stream is open.
    pub since: Timestamp,
    /// The version of its program, as it says.
    pub program: Option<String>,
    /// When the host certificate that it was given ends.
    pub certificate_until: Option<Timestamp>,
}

/// The site's own machinery.
#[derive(Clone, Debug, Serialize)]
pub struct ProvisionerView {
    /// Since when a provisioner is connected, if one is.
    pub connected: Option<Timestamp>,
}

/// How the authority is.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// What somebody should look after, what matters most first.
    pub problems: Vec<Problem>,
    /// The program's version.
    pub program: String,
    /// Since when it runs.
    pub started: Timestamp,
    /// The directory's version.
    pub version: Version,
    /// Accounts in the directory.
    pub accounts: usize,
    /// Projects in the directory.
    pub projects: usize,
    /// Forwards that are open.
    pub sessions: usize,
    /// Certificates that have not ended.
    pub certificates: usize,
    /// What is left where the directory is kept, if that is a file system that says so.
    pub disk: Option<Space>,
    /// When the last backup was made.
    pub last_backup: Option<Timestamp>,
    /// The gateways that are connected.
    pub gateways: Vec<GatewayView>,
    /// The provisioner, if one is configured.
    pub provisioner: Option<ProvisionerView>,
    /// What the site's machinery has still to do, what has waited longest first.
    pub requests: Vec<RequestView>,
    /// The join tokens that nobody has used and somebody still can, those that end first first.
    pub tokens: Vec<TokenView>,
    /// Every node, those that are behind or silent first.
    pub nodes: Vec<NodeView>,
}

/// What a client has to know to be asked nothing about host keys.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    /// The bastion.
    pub bastion: Bastion,
    /// Host keys of the gateways that are connected.
    pub gateways: Vec<PublicKey>,
    /// The CA of host certificates.
    pub host_ca: PublicKey,
    /// The clusters that it is for.
    pub clusters: Vec<ClusterPath>,
    /// The account that it is for; none for an operator, who gets all clusters.
    pub account: Option<Arc<Account>>,
    /// The key that the account authenticated with.
    pub key: Option<PublicKey>,
}
