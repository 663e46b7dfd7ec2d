//! certgate: an SSH certificate authority and access gateway for GPU clusters.
//!
//! Modules are layers; imports only go down (see ARCHITECTURE.md, and `tests/layers.rs`, which enforces it).

pub mod api;
pub mod app;
pub mod audit;
pub mod bundle;
pub mod ca;
pub mod cli;
pub mod command;
pub mod daemon;
pub mod domain;
pub mod gateway;
pub mod krl;
pub mod node;
pub mod policy;
pub mod provisioner;
pub mod store;
