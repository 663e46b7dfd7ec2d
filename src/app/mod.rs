//! Use cases: load, decide, commit with the audit event, publish; the session registry; and what the processes say to
//! each other.

pub mod authority;
pub mod protocol;
pub mod token;
