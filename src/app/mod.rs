//! Use cases: load, decide, commit with the audit event, publish; the session registry; and what the processes say to
//! each other.

mod account_views;
mod accounts;
pub mod apply;
mod audit_log;
pub mod authority;
#[cfg(feature = "processes")]
mod backup;
mod certificates;
mod cluster_views;
mod clusters;
mod core;
mod error;
mod events;
mod explain;
mod gatekeeper;
mod health;
#[cfg(test)]
mod health_tests;
mod hub;
mod issue;
mod jobs;
pub mod journal;
#[cfg(test)]
mod model_tests;
pub mod node_sessions;
mod nodes;
mod outside;
mod projects;
pub mod protocol;
mod provision;
mod publish;
mod receipts;
mod repeats;
mod resources;
#[cfg(feature = "processes")]
mod retention;
mod revocation;
mod services;
mod session_ends;
mod sessions;
pub mod token;
pub mod tunnel;
mod upkeep;
mod view_types;
mod views;
mod volumes;
pub mod waiting;

pub use self::core::{App, Asker, Bastion, Retention, Site, Upkeep};
pub use accounts::NewAccount;
pub use audit_log::{Audited, SavedHead};
#[cfg(feature = "processes")]
pub use backup::{Backup, MAX_RECIPIENTS};
pub use certificates::{CertificateDetail, CertificateSession, Match, State as CertificateState};
pub use cluster_views::{
    ClusterDetails, ClusterNodes, ClusterView, NODE_SILENT, NodeCount, RequestView, SharedLoginView, StateView,
    VolumeDetails, VolumeView,
};
pub use clusters::Reconfiguration;
pub use error::AppError;
pub use events::recorded_actions;
pub use explain::{Explanation, Reacher, Step};
pub use gatekeeper::Stream;
pub use health::{Bounds, Problem, Severity, problems};
pub use issue::Issued;
pub use nodes::{TokenRequest, TokenView};
pub use outside::{Clock, Entropy, NoEntropy};
pub use projects::{Going, LimitsChange, Removal, RemoveHow};
pub use receipts::{GatewayReceipt, Receipt, Receipts};
pub use resources::{NewCluster, NewVolume};
pub use services::{CommandChange, NewService, Rebound, TermsChange};
pub use view_types::{
    AccountView, CaView, CertificateView, DepartureView, GatewayView, KeyView, KnownHosts, MemberView, MembershipView,
    NodeDetails, NodeView, ProjectView, ProvisionerView, ServiceView, SessionView, StatusView, TermsView, UserView,
    WhoamiView,
};
