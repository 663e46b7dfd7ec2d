//! Names that people choose, checked once at the edge.
//!
//! The alphabet is the one that may reach a certificate, a POSIX account or a host name: `[a-z][a-z0-9-]*`, and also
//! `.` and `_` in user names. No value of these types can carry a comma, a slash, a quote or a control character, so
//! nothing downstream has to escape them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};
use thiserror::Error;

/// Why a text is not a name. The text itself is not repeated: it may hold terminal escapes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text has no character.
    #[error("{what} is empty")]
    Empty {
        /// What the text should have named.
        what: &'static str,
    },
    /// The text is longer than `limit` bytes.
    #[error("{what} is longer than {limit} characters")]
    TooLong {
        /// What the text should have named.
        what: &'static str,
        /// The longest that is allowed, in bytes.
        limit: usize,
    },
    /// The text has a character outside the alphabet.
    #[error("{what} must be {alphabet}")]
    Alphabet {
        /// What the text should have named.
        what: &'static str,
        /// The alphabet, in words.
        alphabet: &'static str,
    },
    /// The name belongs to the system on every machine.
    #[error("the {what} is reserved by operating systems; choose another")]
    Reserved {
        /// What the text should have named.
        what: &'static str,
    },
    /// The text has not as many parts as it should.
    #[error("{what} is written {form}")]
    Form {
        /// What the text should have named.
        what: &'static str,
        /// How it is written.
        form: &'static str,
    },
}

const PLAIN: &str = "lower-case letters, digits and '-', beginning with a letter and not ending in '-'";
const USER: &str =
    "lower-case letters, digits, '-', '_' and '.', beginning with a letter and ending in a letter or digit";

fn check(text: &str, what: &'static str, limit: usize, user: bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, limit });
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (user && matches!(b, b'.' | b'_'));
    let bytes = text.as_bytes();
    let ends = bytes.last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if bytes[0].is_ascii_lowercase() && ends && bytes.iter().all(|b| inner(*b)) {
        Ok(())
    } else {
        Err(NameError::Alphabet { what, alphabet: if user { USER } else { PLAIN } })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:literal, user: $user:literal, reserved: $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $what, $limit, $user)?;
                let reserved: &[&str] = $reserved;
                if reserved.contains(&text) {
                    return Err(NameError::Reserved { what: $what });
                }
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// Accounts and groups that operating systems and Slurm bring along, and groups that are root in disguise.
/// A directory that could name one of them could hand it out (OS Login CVE-2020-8907).
const SYSTEM_NAMES: &[&str] = &[
    "root",
    "daemon",
    "bin",
    "sys",
    "sync",
    "games",
    "man",
    "lp",
    "mail",
    "news",
    "uucp",
    "proxy",
    "backup",
    "list",
    "irc",
    "gnats",
    "nobody",
    "nogroup",
    "adm",
    "tty",
    "disk",
    "kmem",
    "dialout",
    "fax",
    "voice",
    "cdrom",
    "floppy",
    "tape",
    "sudo",
    "audio",
    "dip",
    "operator",
    "src",
    "shadow",
    "utmp",
    "video",
    "sasl",
    "plugdev",
    "staff",
    "users",
    "wheel",
    "docker",
    "lxd",
    "libvirt",
    "kvm",
    "render",
    "input",
    "sgx",
    "crontab",
    "ssh",
    "sshd",
    "messagebus",
    "polkitd",
    "munge",
    "slurm",
    "systemd-journal",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
    "systemd-coredump",
    "admin",
    "google-sudoers",
    "netdev",
    "certgate",
    "certgate-authority",
    "certgate-gateway",
    "certgate-node",
    "certgate-join",
];

name!(/// An organization's name; the last part of its nodes' names.
    OrgName, "organization name", 32, user: false, reserved: &[]);
name!(/// A project's name; on its nodes a POSIX group, so `NAME-admins` has to fit 32 characters as well.
    ProjectName, "project name", 24, user: false, reserved: SYSTEM_NAMES);
name!(/// A cluster's name, unique in its organization.
    ClusterName, "cluster name", 63, user: false, reserved: &[]);
name!(/// A node's name, unique in its cluster.
    NodeName, "node name", 63, user: false, reserved: &[]);
name!(/// A volume's name, unique in its project.
    VolumeName, "volume name", 63, user: false, reserved: &[]);
name!(/// A POSIX user name, unique in the directory.
    UserName, "user name", 31, user: true, reserved: SYSTEM_NAMES);

name!(/// What a service account is called in its project; `svc-NAME-NUMBER` has to fit a user name.
    ServiceName, "service account name", 20, user: false, reserved: &[]);

/// An email address, in lower case: what an account is called by people. Printable ASCII without quotes, so that it
/// can stand in a message, a log line and a terminal as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(Arc<str>);

impl Email {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const WHAT: &str = "email address";
        if text.is_empty() {
            return Err(NameError::Empty { what: WHAT });
        }
        // RFC 5321, 4.5.3.1: a path of 256 octets, less the angle brackets.
        if text.len() > 254 {
            return Err(NameError::TooLong { what: WHAT, limit: 254 });
        }
        let form = NameError::Form { what: WHAT, form: "NAME@DOMAIN, in letters, digits and . _ + - only" };
        let Some((local, domain)) = text.split_once('@') else { return Err(form) };
        let local_ok = local.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'));
        let domain_ok = domain.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        // A leading '-' would be an option on a command line.
        if local.is_empty() || local.len() > 64 || local.starts_with(['-', '.']) || !local_ok || !domain_ok {
            return Err(form);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl TryFrom<String> for Email {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Email> for String {
    fn from(email: Email) -> String {
        email.0.as_ref().to_owned()
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! path {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),+ }, $what:literal, $separator:literal, $form:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            $(
                /// This part of the path.
                pub $field: $type,
            )+
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let mut parts = text.split($separator);
                let form = || NameError::Form { what: $what, form: $form };
                let path = Self { $($field: parts.next().ok_or_else(form)?.parse()?,)+ };
                if parts.next().is_some() { Err(form()) } else { Ok(path) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(path: $name) -> String {
                path.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let parts = [$(self.$field.as_str()),+];
                f.pad(&parts.join(concat!($separator)))
            }
        }
    };
}

path!(/// A project as people write it: `ORG/PROJECT`.
    ProjectPath { org: OrgName, project: ProjectName }, "a project", '/', "ORG/PROJECT");
path!(/// A cluster as host names have it: `CLUSTER.ORG`.
    ClusterPath { cluster: ClusterName, org: OrgName }, "a cluster", '.', "CLUSTER.ORG");
path!(/// A node as host names have it: `NODE.CLUSTER.ORG`.
    NodePath { node: NodeName, cluster: ClusterName, org: OrgName }, "a node", '.', "NODE.CLUSTER.ORG");

impl NodePath {
    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster_path(&self) -> ClusterPath {
        ClusterPath { cluster: self.cluster.clone(), org: self.org.clone() }
    }
}

/// What a connection can be opened to: one node, or 'a login node of that cluster'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `NODE.CLUSTER.ORG`.
    Node(NodePath),
    /// `CLUSTER.ORG`.
    Cluster(ClusterPath),
}

impl FromStr for Target {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split('.').count() {
            3 => text.parse().map(Self::Node),
            2 => text.parse().map(Self::Cluster),
            _ => Err(NameError::Form { what: "a destination", form: "NODE.CLUSTER.ORG or CLUSTER.ORG" }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(path) => path.fmt(f),
            Self::Cluster(path) => path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet() {
        for good in ["a", "acme", "h100-cluster-1", "x2"] {
            assert!(good.parse::<OrgName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a,b", "a/b", "a b", "a\n", "é", "a\u{1b}[0m"] {
            assert!(bad.parse::<OrgName>().is_err(), "{bad:?}");
        }
        assert!("user.name_2".parse::<UserName>().is_ok());
        for bad in ["user.", ".user", "user,root", "user@x", "root", "docker", "sudo"] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn project_names_leave_room_for_the_admin_group() {
        assert!("p".repeat(24).parse::<ProjectName>().is_ok());
        assert!("p".repeat(25).parse::<ProjectName>().is_err());
    }

    #[test]
    fn emails_hold_nothing_that_a_terminal_or_shell_would_act_on() {
        assert_eq!("User1@Acme.Example".parse::<Email>().unwrap().as_str(), "user1@acme.example");
        for bad in
            ["", "user1", "@x", "a@", "a@b@c", "a b@c", "a\n@c", "\u{1b}[2J@c", "\"a\"@c", "-a@c", "a@-c", "a@c..d"]
        {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_have_exactly_their_parts() {
        assert_eq!("acme/ml".parse::<ProjectPath>().unwrap().to_string(), "acme/ml");
        assert!("acme".parse::<ProjectPath>().is_err());
        assert!("acme/ml/x".parse::<ProjectPath>().is_err());
        assert!(matches!("login-0.h100.acme".parse(), Ok(Target::Node(_))));
        assert!(matches!("h100.acme".parse(), Ok(Target::Cluster(_))));
        assert!("acme".parse::<Target>().is_err());
        assert!("a.b.c.d".parse::<Target>().is_err());
    }
}
