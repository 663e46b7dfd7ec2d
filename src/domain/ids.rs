//! Identifiers: numbers that are given out once and never again.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// An organization's number in the directory.
    OrgId(u64));
id!(/// An account's number in the directory.
    AccountId(u64));
id!(/// A project's number in the directory.
    ProjectId(u64));
id!(/// A cluster's number in the directory.
    ClusterId(u64));
id!(/// A node's number in the directory.
    NodeId(u64));
id!(/// A volume's number in the directory.
    VolumeId(u64));
id!(/// A certificate's serial number (64 bit, unique over the life of the authority).
    Serial(u64));
id!(/// The directory's version: rises by one with every transaction that changes the directory.
    Version(u64));
id!(/// A POSIX user or group number.
    Uid(u32));

impl Uid {
    /// The first one given out: above what distributions give to people and services and to the first ranges of
    /// subordinate users.
    pub const FIRST: Self = Self(200_000);

    /// The last one given out: systemd keeps what follows for containers.
    pub const LAST: Self = Self(524_287);

    /// Whether it is one that can be given out.
    #[must_use]
    pub fn can_be_given(self) -> bool {
        (Self::FIRST..=Self::LAST).contains(&self)
    }
}

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $wrong:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// From 128 random bits.
            #[must_use]
            pub fn from_bits(bits: u128) -> Self {
                Self(format!("{bits:032x}"))
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                if text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    Ok(Self(text))
                } else {
                    Err($wrong)
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

random_id!(/// One open forward through a gateway; 128 random bits in hexadecimal, chosen by the gateway before it asks, so that
    /// an order to end it can never arrive for a name that the gateway does not know yet.
    SessionId, "a session identifier is 32 hexadecimal digits");
random_id!(/// One process of a gateway, whatever name it goes by; 128 random bits in hexadecimal, chosen when it starts.
    InstanceId, "an instance is 32 hexadecimal digits");
