//! certgate: an SSH certificate authority and access gateway for GPU clusters.
//!
//! Modules are layers; imports only go down (see ARCHITECTURE.md, and `tests/layers.rs`, which enforces it). What decides
//! is whole without the feature `processes`, which has all that talks to the world: SSH, HTTP, SQLite, the nodes' files.

#[cfg(feature = "processes")]
pub mod api;
pub mod app;
#[cfg(feature = "processes")]
pub mod archive;
pub mod audit;
#[cfg(feature = "processes")]
pub mod backup;
pub mod bundle;
pub mod ca;
#[cfg(feature = "processes")]
pub mod cli;
pub mod command;
#[cfg(feature = "processes")]
pub mod daemon;
pub mod domain;
#[cfg(feature = "processes")]
pub mod gateway;
pub mod krl;
#[cfg(feature = "processes")]
pub mod node;
pub mod policy;
#[cfg(feature = "processes")]
pub mod provisioner;
pub mod store;
