//! certgate: an SSH certificate authority and access gateway for GPU clusters.
//!
//! Modules are layers; imports only go down (see ARCHITECTURE.md, and `tests/layers.rs`, which enforces it).

pub mod app;
pub mod audit;
pub mod bundle;
pub mod domain;
pub mod gateway;
pub mod store;
