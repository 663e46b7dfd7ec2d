//! The whole directory through its commands, as they are typed, on an authority in memory: who may what, what is refused
//! in which words, and what it all comes to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers as well")]

#[allow(dead_code, unreachable_pub, reason = "each test target uses its part of it")]
#[path = "../authority_support/mod.rs"]
mod authority_support;
mod concurrency;
mod model;
mod permissions;
