//! What nodes and the authority say to each other, and the gateway passes on.

use super::{ConnectionId, NodeIdentity};
use crate::{
    app::node_sessions::NodeSession,
    bundle::{BundleKey, SignedBundle, SignedCurrent, SignedOrder},
    domain::{NodeId, NodePath, PublicKey, Version},
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How a gateway reaches a node's sshd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It dials the node's address.
    #[default]
    Direct,
    /// Through the connection of the node's agent ([`crate::app::tunnel`]): the node need not take any from outside.
    Tunnel,
}

impl Reach {
    /// Whether it is the usual way, which need not be said.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        *self == Self::Direct
    }
}

/// A join token's secret, from a machine that has proved its host key in the SSH handshake.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The connection.
    pub connection: ConnectionId,
    /// Its other end.
    pub peer: IpAddr,
    /// The host key that the connection has proved.
    pub host_key: PublicKey,
    /// The token's secret, base64 (URL-safe, no padding).
    pub secret: String,
    /// The node that the machine believes to become; must be the token's.
    pub node: NodePath,
}

/// Whether it joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinAnswer {
    /// It is a node now.
    Joined(Box<Joined>),
    /// One line for the one who runs `certgate-node join`.
    Refused {
        /// Why.
        message: String,
    },
}

/// What a new node gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// Its name.
    pub node: NodePath,
    /// Its number.
    pub node_id: NodeId,
    /// Keys whose bundles it takes.
    pub bundle_keys: Vec<BundleKey>,
    /// Its cluster's bundle.
    pub bundle: SignedBundle,
    /// A certificate for the host key it proved, in OpenSSH's one-line format.
    pub host_certificate: String,
}

/// What a node has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeHelloRequest {
    /// The node.
    pub node: NodeIdentity,
    /// Its other end.
    pub peer: IpAddr,
    /// The version installed, if any.
    pub have: Option<Version>,
    /// When its host certificate ends, in seconds since 1970, if it has one.
    pub host_certificate_until: Option<u64>,
    /// How its sshd is reached.
    #[serde(default)]
    pub reach: Reach,
    /// The version of its agent's program, as it says.
    #[serde(default)]
    pub program: Option<String>,
    /// As in [`FromNode::Hello`].
    #[serde(default)]
    pub lingers: bool,
}

/// What a node lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeHelloAnswer {
    /// It is still a node.
    Welcome {
        /// A newer bundle, if there is one.
        bundle: Option<SignedBundle>,
        /// A new host certificate, if the old one has less than half of its life left.
        host_certificate: Option<String>,
        /// The version that has everything, as of now.
        current: Option<SignedCurrent>,
    },
    /// It is a node no more.
    Refused,
}

/// What a node did with a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeReceiptRequest {
    /// The node.
    pub node: NodeIdentity,
    /// The version that is in force there now.
    pub version: Option<Version>,
    /// Why the last one was not taken, if it was not.
    pub problem: Option<String>,
    /// How many sessions the node has ended because of it.
    pub ended: u32,
}

/// What is so for a node now: asked by somebody who looks at the machine, beside its agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLookRequest {
    /// The node.
    pub node: NodeIdentity,
}

/// The authority's word for a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLookAnswer {
    /// The version that has everything, as of now; none for what is a node no more.
    pub current: Option<SignedCurrent>,
}

/// What sessions a node's sshd has, whichever way they came: all of them, each time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSessionsRequest {
    /// The node.
    pub node: NodeIdentity,
    /// Its sessions, no more than [`super::node_sessions::MAX_NODE_SESSIONS`].
    pub sessions: Vec<NodeSession>,
    /// How many it has beside these.
    pub more: u32,
}

/// What a node's agent sends over its SSH channel (subsystem `certgate-node`), one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromNode {
    /// What it has; sent first, and then every [`NODE_HELLO_SECS`] seconds: a lost push costs time, never correctness.
    Hello {
        /// The version installed, if any.
        have: Option<Version>,
        /// When its host certificate ends, in seconds since 1970, if it has one.
        host_certificate_until: Option<u64>,
        /// How its sshd is reached.
        #[serde(default, skip_serializing_if = "Reach::is_direct")]
        reach: Reach,
        /// The version of its program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        program: Option<String>,
        /// Whether it can let those who were removed keep what they have open for a while. Who cannot would not read a bundle
        /// that says so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lingers: bool,
    },
    /// What it did with a bundle.
    Receipt {
        /// The version that is in force now.
        version: Option<Version>,
        /// Why the last one was not taken, if it was not.
        problem: Option<String>,
        /// How many sessions it has ended because of it.
        ended: u32,
    },
    /// What sessions its sshd has; when that changes, and after each hello as long as there are any.
    Sessions {
        /// All of them, as in [`NodeSessionsRequest`].
        sessions: Vec<NodeSession>,
        /// How many it has beside these.
        more: u32,
    },
    /// A token, on a connection that authenticated as `certgate-join`; the only thing it may send.
    Join {
        /// The token's secret.
        secret: String,
        /// The node that the machine believes to become.
        node: NodePath,
    },
}

/// What the gateway sends to a node's agent, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToNode {
    /// Answer to a hello.
    Welcome {
        /// A new host certificate, if it is time.
        host_certificate: Option<String>,
        /// The authority's word that a version is the last one.
        current: Option<SignedCurrent>,
    },
    /// A bundle to install.
    Bundle(SignedBundle),
    /// A session to end.
    End(SignedOrder),
    /// Answer to a join.
    Join(JoinAnswer),
    /// It is a node no more.
    Refused,
    /// The authority could not be asked; try again later.
    Unavailable,
}

/// The longest line that a node may send, in bytes.
pub const MAX_NODE_LINE: usize = 80 * 1024;

/// Seconds between a node's hellos.
pub const NODE_HELLO_SECS: u64 = 30;

/// The login name with which a machine that wants to become a node connects.
pub const JOIN_LOGIN: &str = "certgate-join";
/// The login name with which a node's agent connects; informative, its key decides.
pub const NODE_LOGIN: &str = "certgate-node";
/// The SSH subsystem (RFC 4254, 6.5) that a node's agent asks for.
pub const NODE_SUBSYSTEM: &str = "certgate-node";
/// The SSH subsystem that an agent asks for whose node is reached through it; see [`crate::app::tunnel`].
pub const TUNNEL_SUBSYSTEM: &str = "certgate-tunnel";
/// The subsystem that answers a node with the authority's word, one [`NodeLookAnswer`] in a line, and does nothing else: its
/// agent stays where it is.
pub const LOOK_SUBSYSTEM: &str = "certgate-node-look";
