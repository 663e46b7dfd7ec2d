//! The audit log as values: events, the hash chain over them, its signed heads, its verification, and which of its
//! entries somebody wants to see. No I/O. docs/audit.md is written for those who check a log without this code.

pub mod chain;
mod filter;
mod head;
mod verify;

pub use chain::{ChainError, Head, Witness};
pub use filter::{Filter, What, Who};
pub use head::SignedHead;
pub use verify::{Verdict, Verifier};

use crate::domain::{Actor, Serial, SessionId, Timestamp, Version};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Something that changed, or let someone in, or kept someone out. The order of the fields is that of the hashed bytes.
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
    /// One word why it was refused, or why a session was ended.
    pub reason: Option<String>,
    /// What else there is to know.
    pub detail: String,
    /// The certificate that it is about, or else the one that the connection came with.
    pub certificate: Option<Serial>,
    /// The session that it is about.
    pub session: Option<SessionId>,
}

impl Event {
    /// Something that happened on this machine; what else is known of it is filled in.
    #[must_use]
    pub fn new(at: Timestamp, actor: Actor, action: impl Into<String>, object: impl Into<String>) -> Self {
        Self {
            at,
            actor,
            source: LOCAL.into(),
            connection: None,
            action: action.into(),
            object: object.into(),
            outcome: Outcome::Done,
            reason: None,
            detail: String::new(),
            certificate: None,
            session: None,
        }
    }
}

/// The source of what did not come over a network.
pub const LOCAL: &str = "local";

/// Whether what was asked was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was.
    Done,
    /// It was not.
    Refused,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

impl FromStr for Outcome {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "done" => Ok(Self::Done),
            "refused" => Ok(Self::Refused),
            _ => Err("an outcome is one of: done, refused"),
        }
    }
}

/// SHA-256 over an entry and, through the one before, everything that came before it. Written as 64 lower-case
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChainHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a hash is written as 64 lower-case hexadecimal digits";
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(FORM),
        };
        if text.len() != 64 {
            return Err(FORM);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

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
