//! Decisions, as pure functions over values: who somebody is, what they may open, what a certificate for them says,
//! which commands they may give. No I/O, no clock, no async.
//!
//! A yes is a permit with private fields that only this module can make, and that carries what was resolved; a no is
//! a [`Denial`] with its reason in two voices. `ca` signs only a permit, a gateway dials only what a permit names.

mod bounds;
mod certificate;
mod denial;
mod identity;
mod issue;
mod networks;
mod open;
mod permission;
mod revoked;

pub use bounds::{CertificateSettings, Extensions, gateway_addresses};
pub use certificate::{MAX_CERTIFICATE_BYTES, check_certificate, parse_certificate};
pub use denial::{Denial, Reason, is_told};
pub use identity::{Identity, Origin, Scope, identify, recognize};
pub use issue::{HostPermit, IssuePermit, IssueRequest, Narrowing, issue, issue_gateway, issue_host};
pub use networks::NodeNetworks;
pub use open::{Lingering, OpenPermit, OpenTarget, Stay, open, overtime, stays, still_open};
pub use permission::{Action, Caller, Grant, NEEDS, Need, Place, authorize};
pub use revoked::{Revoked, is_accepted, revoked};

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod permission_tests;
#[cfg(test)]
pub(crate) mod test_world;
