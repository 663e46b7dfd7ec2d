//! Names, identifiers, keys, time, and the directory as an immutable value with its indexes.
//!
//! Nothing here does I/O, reads a clock or decides anything: a decision belongs to [`crate::policy`].

mod directory;
mod document;
mod ids;
mod keys;
mod model;
mod mutation;
mod names;
mod principal;
mod resources;
mod service;
mod text;
mod time;

pub use directory::{Counters, Directory, Inconsistent};
pub use document::{
    Document, DocumentError, Gpus, Kubernetes, MAX_DOCUMENT, Partition, Revision, SharedLoginName, Slurm, Specification,
};
pub use ids::{AccountId, ClusterId, InstanceId, NodeId, OrgId, ProjectId, Serial, SessionId, Uid, Version, VolumeId};
pub use keys::{Fingerprint, KeyError, MAX_KEY_BYTES, PublicKey};
pub use model::{
    Account, AccountState, Actor, CertificateRecord, Cluster, ClusterKind, Deletion, Departure, Extension, JoinToken,
    KeyEntry, Limits, Membership, Node, NodeRole, Org, Project, Role, TokenHash, Volume,
};
pub use mutation::{Mutation, Touched};
pub use names::{
    ClusterName, ClusterPath, Email, NameError, NodeName, NodePath, OrgName, ProjectName, ProjectPath, ServiceName,
    Target, UserName, VolumeName,
};
pub use principal::{MAX_PRINCIPALS, Principal, Principals, PrincipalsError};
pub use resources::{Job, JobAction, MAX_WANTED, MountPath, NodeCounts, ProvisionState, Resource, Size};
pub use service::{
    AccountKind, ForceCommand, Holder, Networks, NetworksError, ServiceTerms, service_email, service_user,
};
pub use text::{is_unseen, one_line};
pub use time::{Grace, Timestamp, Ttl};
