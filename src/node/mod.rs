//! What runs on a node: the helper that sshd asks on every login, the agent that keeps the helper's table as the
//! authority says, and the commands that make a machine a node and undo it.
//!
//! Nothing here decides who may do what: it verifies what the authority signed, and installs it. The helper stands
//! alone; it uses nothing of the other modules, so that nothing of them can slow a login down or fail it.

pub mod accounts;
pub mod agent;
pub mod cli;
pub mod config;
mod doctor;
mod eager;
pub mod files;
mod freshness;
pub mod helper;
pub mod host_cert;
pub mod join;
pub mod leave;
mod lines;
pub mod link;
pub mod run;
pub mod sessions;
pub mod sshd;
pub mod state_dir;
mod tunnel;
