//! The changes a directory can undergo: facts that were decided, ready to be made durable and applied.

use super::{
    document::Document,
    ids::{AccountId, ClusterId, NodeId, ProjectId, Serial, VolumeId},
    keys::Fingerprint,
    model::{
        Account, AccountState, Actor, Cluster, Departure, JoinToken, KeyEntry, Limits, Membership, Node, Org, Project,
        Role, TokenHash, Volume,
    },
    resources::{Job, MountPath, NodeCounts, Size},
    service::ServiceTerms,
    time::Timestamp,
};
use std::{collections::BTreeSet, sync::Arc};

/// One change. Deleted things keep their names and numbers taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// An organization exists.
    OrgCreated(Org),
    /// An account exists.
    AccountCreated(Account),
    /// An account works, or no longer.
    AccountStateSet {
        /// The account.
        account: AccountId,
        /// The new state.
        state: AccountState,
        /// When.
        at: Timestamp,
        /// By whom.
        by: Actor,
    },
    /// A service account is bounded differently.
    ServiceTermsSet {
        /// The account.
        account: AccountId,
        /// Its new bounds; the project stays.
        terms: Box<ServiceTerms>,
    },
    /// A key is registered.
    KeyAdded(KeyEntry),
    /// A key is no longer registered; until `denied_until` certificates on it may be alive, and nodes refuse it.
    KeyRemoved {
        /// Whose it was.
        account: AccountId,
        /// The key.
        key: Fingerprint,
        /// When the last certificate on it ends.
        denied_until: Timestamp,
    },
    /// A project exists.
    ProjectCreated(Project),
    /// A project allows more or less.
    ProjectLimited {
        /// The project.
        project: ProjectId,
        /// All of its limits.
        limits: Limits,
    },
    /// A project is gone, with its clusters, nodes, volumes and memberships; who was in it has departed by that.
    ProjectDeleted {
        /// The project.
        project: ProjectId,
        /// When.
        at: Timestamp,
        /// By whom.
        by: Actor,
    },
    /// A cluster exists.
    ClusterCreated(Cluster),
    /// A cluster has another configuration: the next revision.
    ClusterConfigured {
        /// The cluster.
        cluster: ClusterId,
        /// The configuration.
        document: Arc<Document>,
        /// When.
        at: Timestamp,
    },
    /// Another number of nodes is wanted.
    ClusterScaled {
        /// The cluster.
        cluster: ClusterId,
        /// How many.
        wanted: NodeCounts,
    },
    /// A cluster is gone, with its nodes.
    ClusterDeleted {
        /// The cluster.
        cluster: ClusterId,
        /// When.
        at: Timestamp,
        /// By whom.
        by: Actor,
    },
    /// A volume exists.
    VolumeCreated(Volume),
    /// A volume has another size or place.
    VolumeChanged {
        /// The volume.
        volume: VolumeId,
        /// How large it is.
        size: Size,
        /// Where nodes mount it.
        mount: MountPath,
    },
    /// A volume is gone.
    VolumeDeleted {
        /// The volume.
        volume: VolumeId,
        /// When.
        at: Timestamp,
    },
    /// Something is asked of the site's machinery, or has become of what was; what it was asked before about the same
    /// resource is overtaken.
    JobSet(Job),
    /// A join token can be used.
    TokenCreated(JoinToken),
    /// A join token was used and works no more.
    TokenUsed {
        /// Which.
        hash: TokenHash,
        /// When.
        at: Timestamp,
    },
    /// A node has joined. If one of that name had joined before, it is this one now.
    NodeEnrolled(Node),
    /// A node is gone.
    NodeRemoved {
        /// The node.
        node: NodeId,
        /// When.
        at: Timestamp,
    },
    /// An account is in a project.
    MemberAdded(Membership),
    /// An account is no longer in a project.
    MemberRemoved(Departure),
    /// A member has another role.
    RoleSet {
        /// The project.
        project: ProjectId,
        /// The account.
        account: AccountId,
        /// The new role.
        role: Role,
    },
    /// A certificate is revoked; nodes refuse its serial until it would have ended.
    SerialDenied {
        /// The certificate's serial number.
        serial: Serial,
        /// Whose it was.
        account: AccountId,
        /// When it would have ended.
        until: Timestamp,
    },
}

/// Whom and what a change may have taken something from, or given something to: what has to be looked at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Accounts whose sessions may no longer hold.
    pub accounts: BTreeSet<AccountId>,
    /// Clusters whose bundles say something else now.
    pub clusters: BTreeSet<ClusterId>,
    /// Nodes that are no longer, or have another key.
    pub nodes: BTreeSet<NodeId>,
}

impl Touched {
    /// Adds what another change touched.
    pub fn extend(&mut self, other: Self) {
        self.accounts.extend(other.accounts);
        self.clusters.extend(other.clusters);
        self.nodes.extend(other.nodes);
    }

    /// Whether nothing was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.clusters.is_empty() && self.nodes.is_empty()
    }
}
