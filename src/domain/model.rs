//! What the directory holds: organizations, accounts, projects, clusters, nodes, volumes, and who is in what.

use super::{
    document::Document,
    ids::{AccountId, ClusterId, NodeId, OrgId, ProjectId, Serial, Uid, VolumeId},
    keys::{Fingerprint, PublicKey},
    names::{ClusterName, Email, NodeName, OrgName, ProjectName, UserName, VolumeName},
    resources::{MountPath, NodeCounts, Size},
    service::{AccountKind, Holder, ServiceTerms},
    time::{Grace, Timestamp, Ttl},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// Implements `Display`, `FromStr` and serde for a closed set of words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{} is one of: {}", $what, [$($word),+].join(", "))),
                }
            }
        }
    };
}

pub(super) use words;

words!(/// What an account may do in a project.
Role, "a role" {
    /// Reaches the nodes.
    Member = "member",
    /// Also changes the project, and who is in it.
    Admin = "admin",
});
words!(/// Whether an account works.
AccountState, "a state" {
    /// It does.
    Active = "active",
    /// Nothing is issued and nothing is opened, as if it were in no project.
    Suspended = "suspended",
});
words!(/// What runs on a cluster.
ClusterKind, "a kind of cluster" {
    /// Slurm.
    Slurm = "slurm",
    /// Kubernetes.
    Kubernetes = "kubernetes",
});
words!(/// What a node is for.
NodeRole, "a node's role" {
    /// Where people log in.
    Login = "login",
    /// Where jobs run.
    Compute = "compute",
    /// Where the cluster is run from.
    Controller = "controller",
});

words!(/// What a session may do if its certificate says so: an extension of OpenSSH's user certificates (PROTOCOL.certkeys).
Extension, "an extension" {
    /// `permit-pty`.
    Pty = "pty",
    /// `permit-port-forwarding`.
    PortForwarding = "port-forwarding",
    /// `permit-agent-forwarding`.
    AgentForwarding = "agent-forwarding",
    /// `permit-X11-forwarding`.
    X11Forwarding = "x11-forwarding",
    /// `permit-user-rc`.
    UserRc = "user-rc",
});

/// What a project allows less than its site. It never allows more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The longest that a certificate for it lives.
    pub max_ttl: Option<Ttl>,
    /// What no certificate for it allows.
    pub forbidden: BTreeSet<Extension>,
    /// The longest that a session through a gateway lasts.
    pub max_session: Option<Ttl>,
    /// How long what a person has open may stay open after an admin has removed them; not at all if none.
    pub grace: Option<Grace>,
}

/// `certificates of 2m at most, without pty, user-rc`.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_ttl {
            Some(ttl) => write!(f, "certificates of {ttl} at most")?,
            None => f.write_str("certificates as long as the site's")?,
        }
        let forbidden: Vec<&str> = self.forbidden.iter().map(|extension| extension.as_str()).collect();
        if !forbidden.is_empty() {
            write!(f, ", without {}", forbidden.join(", "))?;
        }
        if let Some(longest) = self.max_session {
            write!(f, ", sessions of {longest} at most")?;
        }
        match self.grace {
            Some(grace) => write!(f, ", {grace} of grace for what is open when somebody is removed"),
            None => Ok(()),
        }
    }
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// An operator on the bastion, by the user number of the process at the other end of the socket.
    Operator {
        /// The process's effective user number.
        uid: u32,
    },
    /// An account, by the key that authenticated.
    Account {
        /// The account.
        id: AccountId,
        /// Its email at that time.
        email: Email,
        /// Whether it is a person's or a robot's.
        kind: Holder,
        /// The key that authenticated.
        key: Fingerprint,
    },
    /// A node, by its host key.
    Node {
        /// `NODE.CLUSTER.ORG` at that time.
        name: String,
        /// Its host key.
        key: Fingerprint,
    },
    /// Somebody who has proved a key that nobody knows.
    Stranger {
        /// That key.
        key: Fingerprint,
    },
    /// certgate itself.
    Authority,
}

impl Actor {
    /// The key that was proved, if one was.
    #[must_use]
    pub fn key(&self) -> Option<Fingerprint> {
        match self {
            Self::Account { key, .. } | Self::Node { key, .. } | Self::Stranger { key } => Some(*key),
            Self::Operator { .. } | Self::Authority => None,
        }
    }

    /// For operators and the journal, who may know which operator it was. `Display` is for everybody.
    #[must_use]
    pub fn in_full(&self) -> String {
        match self {
            Self::Operator { uid } => format!("operator (uid {uid})"),
            Self::Stranger { .. } => "stranger".into(),
            Self::Account { .. } | Self::Node { .. } | Self::Authority => self.to_string(),
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { .. } => f.pad("an operator"),
            Self::Account { email, .. } => f.pad(email.as_str()),
            Self::Node { name, .. } => f.pad(name),
            Self::Stranger { .. } => f.pad("a stranger"),
            Self::Authority => f.pad("certgate"),
        }
    }
}

/// A company's top-level account. Being in it grants access to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Org {
    /// Its number.
    pub id: OrgId,
    /// Its name.
    pub name: OrgName,
    /// Since when.
    pub created: Timestamp,
}

/// One person or one robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// The organization that it belongs to, which grants nothing.
    pub org: OrgId,
    /// What people call it.
    pub email: Email,
    /// Its POSIX user name on every node.
    pub user: UserName,
    /// Its POSIX user number on every node.
    pub uid: Uid,
    /// Whether it works.
    pub state: AccountState,
    /// Whether it is a person's or a robot's.
    pub kind: AccountKind,
    /// Since when.
    pub created: Timestamp,
}

impl Account {
    /// It, as whoever does something by a key.
    #[must_use]
    pub fn actor(&self, key: Fingerprint) -> Actor {
        Actor::Account { id: self.id, email: self.email.clone(), kind: self.kind.holder(), key }
    }

    /// What bounds it, if it is a service account.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceTerms> {
        match &self.kind {
            AccountKind::Person => None,
            AccountKind::Service(terms) => Some(terms),
        }
    }
}

/// A key registered for an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// Whose it is. A key belongs to one account only.
    pub account: AccountId,
    /// The key.
    pub key: PublicKey,
    /// Since when.
    pub added: Timestamp,
}

/// The one boundary of collaboration and of access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Its number.
    pub id: ProjectId,
    /// The organization that it belongs to.
    pub org: OrgId,
    /// Its name, and its POSIX group's on the nodes.
    pub name: ProjectName,
    /// The group's number.
    pub gid: Uid,
    /// The number of the group `NAME-admins`.
    pub admins_gid: Uid,
    /// What it allows less than the site.
    pub limits: Limits,
    /// Since when.
    pub created: Timestamp,
}

/// A cluster; inherits its project's access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its number.
    pub id: ClusterId,
    /// The project that it belongs to.
    pub project: ProjectId,
    /// Its name, unique in the organization.
    pub name: ClusterName,
    /// What runs on it.
    pub kind: ClusterKind,
    /// Its configuration.
    pub document: Arc<Document>,
    /// Which configuration that is: 1 for the first.
    pub revision: u64,
    /// How many nodes it should have.
    pub wanted: NodeCounts,
    /// Since when.
    pub created: Timestamp,
}

/// A volume; inherits its project's access list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its number.
    pub id: VolumeId,
    /// The project that it belongs to.
    pub project: ProjectId,
    /// Its name, unique in the project.
    pub name: VolumeName,
    /// How large it is.
    pub size: Size,
    /// Where nodes mount it.
    pub mount: MountPath,
    /// Since when.
    pub created: Timestamp,
}

/// A machine of a cluster that has proved its host key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its name, unique in the cluster.
    pub name: NodeName,
    /// What it is for.
    pub role: NodeRole,
    /// Where the gateway dials it.
    pub address: IpAddr,
    /// The port of its sshd there.
    pub port: u16,
    /// Its identity: the host key that it proved when it joined.
    pub host_key: PublicKey,
    /// Since when.
    pub enrolled: Timestamp,
}

/// An account in a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The project.
    pub project: ProjectId,
    /// The account.
    pub account: AccountId,
    /// What it may do there.
    pub role: Role,
    /// Since when.
    pub since: Timestamp,
    /// By whose decision.
    pub by: Actor,
}

/// That an account was removed from a project: kept so that it can be told when and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// The project.
    pub project: ProjectId,
    /// The account.
    pub account: AccountId,
    /// When.
    pub at: Timestamp,
    /// By whose decision.
    pub by: Actor,
    /// Until when what was open then may stay open, if the project has a grace period and it was not said otherwise. See
    /// [`super::Directory::lingers`].
    pub until: Option<Timestamp>,
}

/// That a project or a cluster was deleted: kept so that those who were in it can be told when and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The project, or the cluster's.
    pub project: ProjectId,
    /// When.
    pub at: Timestamp,
    /// By whose decision.
    pub by: Actor,
}

/// SHA-256 of a join token's secret: the secret itself is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Of a secret. It has 256 random bits, so a plain hash is enough.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

/// What lets one node join once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Hash of the secret.
    pub hash: TokenHash,
    /// The cluster that the node will belong to.
    pub cluster: ClusterId,
    /// The name that the node will have.
    pub node: NodeName,
    /// What the node will be for.
    pub role: NodeRole,
    /// Where the gateway will dial it; if not set, the address that it joins from.
    pub address: Option<IpAddr>,
    /// The port of its sshd there.
    pub port: u16,
    /// Who has asked for it: if that is an account, it works for as long as they could ask for another
    /// with the same key.
    pub by: Actor,
    /// When it stops working.
    pub expires: Timestamp,
    /// When it was used, if it was.
    pub used: Option<Timestamp>,
}

/// What is known of an issued certificate; durable before the certificate leaves the authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Its serial number.
    pub serial: Serial,
    /// Whose it is.
    pub account: AccountId,
    /// The key that it certifies.
    pub key: Fingerprint,
    /// Its principals, as text.
    pub principals: Vec<String>,
    /// Valid from (inclusive).
    pub valid_after: Timestamp,
    /// Valid until (exclusive).
    pub valid_before: Timestamp,
    /// From where it was asked for.
    pub source: String,
    /// When it was decided.
    pub issued: Timestamp,
}
