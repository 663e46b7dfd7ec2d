//! Use cases: load, decide, commit with the audit event, publish; the session registry; and what the processes say to
//! each other.

mod accounts;
mod audit_log;
pub mod authority;
mod clusters;
mod core;
mod error;
mod explain;
mod gatekeeper;
mod hub;
mod issue;
#[cfg(test)]
mod model_tests;
mod nodes;
mod outside;
mod projects;
pub mod protocol;
mod publish;
mod receipts;
mod revocation;
mod sessions;
pub mod token;
mod view_types;
mod views;

pub use self::core::{App, Asker, Bastion, Site};
pub use accounts::NewAccount;
pub use audit_log::AuditFilter;
pub use error::AppError;
pub use explain::{Explanation, Reacher, Step};
pub use gatekeeper::Stream;
pub use issue::Issued;
pub use nodes::TokenRequest;
pub use outside::{Clock, Entropy, NoEntropy};
pub use receipts::Receipt;
pub use view_types::{
    CertificateView, ClusterView, GatewayView, KeyView, KnownHosts, MemberView, NodeView, ProjectView, SessionView,
    StatusView, UserView, VolumeView, WhoamiView,
};
