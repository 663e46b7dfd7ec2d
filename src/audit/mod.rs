//! The audit log as values: events, the hash chain over them, and its verification. No I/O.

use crate::domain::{Actor, Timestamp, Version};
use serde::{Deserialize, Serialize};

/// Something that changed, or let someone in, or kept someone out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When it was decided.
    pub at: Timestamp,
    /// Who asked.
    pub actor: Actor,
    /// From where: an address, or `local`.
    pub source: String,
    /// The gateway connection, if there was one.
    pub connection: Option<String>,
    /// What was asked, such as `member.remove`, `certificate.issue`, `session.open`.
    pub action: String,
    /// On what, such as `acme/ml-training user1@acme.example`.
    pub object: String,
    /// Whether it was done.
    pub outcome: Outcome,
    /// The reason for a refusal, or what else there is to know.
    pub detail: String,
}

/// Whether what was asked was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was.
    Done,
    /// It was not.
    Refused,
}

/// SHA-256 over an entry and, through the one before, everything that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 32]);

/// An event in its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1 for the first, then without a gap.
    pub seq: u64,
    /// The directory's version after the transaction that the event belongs to.
    pub version: Version,
    /// The event.
    pub event: Event,
    /// The hash of the entry before; zeros for the first.
    pub previous: ChainHash,
    /// The hash of this one.
    pub hash: ChainHash,
}
