//! What gateways and operators say to the authority, and it to them: one set of types for both ends.
//!
//! JSON over HTTP/1.1 on a Unix socket. A compromised gateway can send anything here, so every request names what it
//! acts on and the authority checks it again; nothing in a request is believed but the identity of the connection
//! that the gateway vouches for, and the threat model says what follows from that.

mod node;

pub use node::*;

use crate::{
    bundle::{SignedBundle, SignedOrder},
    domain::{
        AccountId, ClusterPath, Fingerprint, InstanceId, NodeId, NodePath, ProjectPath, PublicKey, Serial, SessionId,
        Timestamp, Version,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A path of the gateway's or the provisioner's API and what is exchanged there.
pub trait Call {
    /// `POST` goes there.
    const PATH: &'static str;
    /// What is asked.
    type Request: Serialize + serde::de::DeserializeOwned + Send + Sync + 'static;
    /// What is answered.
    type Answer: Serialize + serde::de::DeserializeOwned + Send + 'static;
}

macro_rules! calls {
    (
        $(#[$table_doc:meta])* $table:ident;
        $($(#[$doc:meta])* $name:ident: $path:literal, $request:ty => $answer:ty;)+
    ) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Call for $name {
                const PATH: &'static str = $path;
                type Request = $request;
                type Answer = $answer;
            }
        )+

        $(#[$table_doc])*
        pub const $table: &[&str] = &[$($path),+];
    };
}

pub mod provisioner;

calls! {
    /// Every path of the gateway's socket that answers once; [`EVENTS_PATH`] is the one that streams.
    GATEWAY_CALLS;
    /// Who is this?
    Authenticate: "/v1/authenticate", AuthenticateRequest => AuthenticateAnswer;
    /// Run the command that an account typed.
    RunCommand: "/v1/command", CommandRequest => CommandAnswer;
    /// May this connection open that node?
    Open: "/v1/open", OpenRequest => OpenAnswer;
    /// These forwards have ended, and what had to end has.
    Closed: "/v1/closed", ClosedRequest => Done;
    /// A machine wants to become a node.
    Join: "/v1/node/join", JoinRequest => JoinAnswer;
    /// A node says what it has.
    NodeHello: "/v1/node/hello", NodeHelloRequest => NodeHelloAnswer;
    /// What is so for a node now?
    NodeLook: "/v1/node/look", NodeLookRequest => NodeLookAnswer;
    /// A node has installed a bundle, or could not.
    NodeReceipt: "/v1/node/receipt", NodeReceiptRequest => Done;
    /// What sessions a node's sshd has.
    NodeSessions: "/v1/node/sessions", NodeSessionsRequest => Done;
}

/// `POST` [`Hello`] there; the answer is one [`Event`] a line until either side closes.
pub const EVENTS_PATH: &str = "/v1/events";

/// The empty answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// A connection to a gateway: ties its log lines to the authority's and to the audit log. 16 hexadecimal digits.
pub type ConnectionId = String;

/// What a connection has proved to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presented {
    /// A plain public key, in the wire format of RFC 4253, base64.
    Key(String),
    /// An OpenSSH certificate, in its wire format, base64.
    Certificate(String),
}

/// Asked after the signature was verified, never on an offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthenticateRequest {
    /// The connection.
    pub connection: ConnectionId,
    /// Its other end.
    pub peer: IpAddr,
    /// What it has proved to hold.
    pub presented: Presented,
    /// The login name was `certgate-join`: a machine that wants to become a node, whose key nobody knows yet.
    pub joining: bool,
}

/// Who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticateAnswer {
    /// An account. The gateway hands the credential back with every request for this connection.
    Account {
        /// What every later request names.
        credential: Credential,
        /// For log lines.
        user: String,
    },
    /// A node, by its host key.
    Node(NodeIdentity),
    /// A machine that may try a join token, and nothing else.
    Joining,
    /// Nobody. The gateway tells the peer nothing.
    Refused,
}

/// As whom a connection was authenticated. The authority looks it up anew on every request: an account that was
/// suspended, a key that was removed or a certificate that was revoked in the meantime is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The account.
    pub account: AccountId,
    /// The key that signed the handshake: the one that `cert` certifies.
    pub key: Fingerprint,
    /// The certificate that was presented with it, if one was: it may allow less than the key does.
    pub certificate: Option<Serial>,
}

/// A node as it authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    /// Its number.
    pub node: NodeId,
    /// Its host key.
    pub key: Fingerprint,
    /// Its name.
    pub path: NodePath,
}

/// A command line, as `ssh BASTION WORDS…` sent it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// The connection.
    pub connection: ConnectionId,
    /// Its other end.
    pub peer: IpAddr,
    /// As whom it was authenticated.
    pub credential: Credential,
    /// The command line; empty for a shell request.
    pub line: String,
    /// The terminal, if one was asked for.
    pub terminal: Option<Terminal>,
    /// What the peer typed or sent each time that [`CommandAnswer::Input`] asked for it, in order: at most
    /// [`MAX_INPUTS`], together at most [`MAX_INPUT`] bytes.
    pub inputs: Vec<String>,
    /// From the last [`CommandAnswer::Input`].
    pub context: Option<String>,
}

/// A backup, for an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Who can read it: public keys of age.
    pub to: Vec<String>,
    /// Whether the private keys are in it too.
    pub with_ca_keys: bool,
}

/// Why there is no backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// A command of an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminCommand {
    /// Its words.
    pub words: Vec<String>,
    /// The terminal, if there is one.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// What was typed or read each time that [`CommandAnswer::Input`] asked for it, in order: at most [`MAX_INPUTS`],
    /// together at most [`MAX_LOCAL_INPUT`] bytes.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// From the last [`CommandAnswer::Input`].
    #[serde(default)]
    pub context: Option<String>,
}

/// How often a command may ask for input.
pub const MAX_INPUTS: usize = 8;

/// The most that a command is given through a gateway, all inputs together, in bytes.
pub const MAX_INPUT: usize = 256 * 1024;

/// The most that a command is given at the admin socket, all inputs together, in bytes: a whole directory as a file, and
/// answers.
pub const MAX_LOCAL_INPUT: usize = 33 * 1024 * 1024;

/// What is known of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terminal {
    /// Its width in characters, at least 1.
    pub columns: u16,
    /// Whether it shows colours.
    #[serde(default)]
    pub colours: bool,
}

impl Terminal {
    /// Whether a terminal of this type (`TERM`) shows colours.
    #[must_use]
    pub fn type_has_colours(term: &str) -> bool {
        !matches!(term, "" | "dumb" | "unknown")
    }
}

/// What the gateway does with a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandAnswer {
    /// It ran, or was refused: what to write, and the exit status.
    Output(Output),
    /// It needs input: write the prompt to standard error, read, and ask again with everything that was read so far.
    Input {
        /// May be empty.
        prompt: String,
        /// What to read.
        read: Read,
        /// No more than so many bytes.
        limit: u32,
        /// To be sent back as it is with the next question: what the prompt showed, so that a yes counts only for that.
        context: Option<String>,
    },
}

/// What a command needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    /// One line, from a terminal; where there is none, all of standard input.
    Line,
    /// All of standard input.
    All,
    /// A file. Only the operator's own program reads one, and only if its name is one of the words that it has sent.
    File(String),
}

/// Bytes, as base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Base64(pub Vec<u8>);

impl Base64 {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<String> for Base64 {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        STANDARD.encode(bytes.0)
    }
}

/// What a command wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// What follows it there and is not text.
    #[serde(default, skip_serializing_if = "Base64::is_empty")]
    pub binary: Base64,
    /// Standard error.
    pub stderr: String,
    /// 0, or 1 (refused or failed), or 2 (usage).
    pub exit: u8,
}

impl Output {
    /// Why there is nothing else to say: in words on standard error and, for a program that asked for JSON, as
    /// `{"error": {"reason": …, "message": …}}` on standard output too. So that one always holds JSON then, and what ssh
    /// itself says on standard error is in nobody's way.
    #[must_use]
    pub fn failure(reason: &str, message: &str, exit: u8, json: bool) -> Self {
        let error = || serde_json::json!({ "error": { "reason": reason, "message": message } });
        let stdout = if json { format!("{:#}\n", error()) } else { String::new() };
        Self { stdout, stderr: format!("{message}\n"), exit, ..Self::default() }
    }
}

/// Whether JSON is asked for, also by words that nobody can understand.
pub fn wants_json<'a>(words: impl IntoIterator<Item = &'a str>) -> bool {
    words.into_iter().take_while(|word| *word != "--").any(|word| word == "--json")
}

/// A `direct-tcpip` channel (RFC 4254, 7.2) that the peer wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// The gateway's name, as in [`Hello`].
    pub gateway: String,
    /// Which process it is, as in [`Hello`]. Its name may become another one while this travels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The connection.
    pub connection: ConnectionId,
    /// Its other end.
    pub peer: IpAddr,
    /// As whom it was authenticated.
    pub credential: Credential,
    /// The name that the gateway has given this forward.
    pub session: SessionId,
    /// The host that was asked for, as it was sent, at most 255 bytes.
    pub host: String,
    /// The port that was asked for.
    pub port: u32,
    /// Login nodes of the cluster that was asked for which could not be reached just now: another one, if there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<NodeId>,
}

/// Whether it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenAnswer {
    /// Dial exactly this.
    Permit(DialPermit),
    /// Tell the peer this, and nothing else.
    Refused {
        /// One line for the peer.
        message: String,
        /// The reason in one word, for metrics.
        #[serde(default)]
        reason: String,
    },
}

/// Where one forward goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialPermit {
    /// The forward.
    pub session: SessionId,
    /// The node, for log lines.
    pub node: NodePath,
    /// The node's number.
    pub node_id: NodeId,
    /// The project that the access comes from.
    pub project: ProjectPath,
    /// When it was permitted, by the authority's clock: comes back in a [`Hello`].
    pub since: Timestamp,
    /// The address to dial.
    pub address: IpAddr,
    /// The port to dial.
    pub port: u16,
    /// How the node says that it is reached. If through its agent, nothing is dialled.
    #[serde(default)]
    pub reach: Reach,
}

/// Forwards that have ended, and what the gateway has done of what it was told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedRequest {
    /// Each with what it moved.
    pub sessions: Vec<ClosedSession>,
    /// That everything before an [`Event::Mark`] was done, if there was one.
    #[serde(default)]
    pub done: Option<Marked>,
}

/// That a gateway has done what it was told up to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marked {
    /// Its name, as in [`Hello`].
    pub gateway: String,
    /// The version of the mark.
    pub version: Version,
}

/// A forward that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClosedSession {
    /// Which.
    pub session: SessionId,
    /// Bytes from the client to the node.
    pub up: u64,
    /// Bytes from the node to the client.
    pub down: u64,
}

/// How a gateway begins its event stream: what it has, so that it gets what it lacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// A name that distinguishes it from others beside it.
    pub gateway: String,
    /// Which process it is: what another one of this name had open has ended with that. An older gateway does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Its host key.
    pub host_key: PublicKey,
    /// The forwards that are open, so that an authority that was restarted knows them again.
    pub sessions: Vec<OpenSession>,
    /// After so many seconds without the authority it ends them all: then they are over, also if nobody says so.
    #[serde(default = "lost_after")]
    pub lost_after: u64,
    /// The last mark that this process has seen, none if this is its first stream: what was published since, it may have
    /// missed between two streams.
    #[serde(default)]
    pub seen: Option<Version>,
    /// The version of its program.
    #[serde(default)]
    pub program: Option<String>,
}

/// Of a gateway that does not say.
const fn lost_after() -> u64 {
    300
}

/// A forward that is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    /// Which.
    pub session: SessionId,
    /// Its connection.
    pub connection: ConnectionId,
    /// The connection's other end.
    pub peer: IpAddr,
    /// As whom the connection was authenticated.
    pub credential: Credential,
    /// Where it goes.
    pub node_id: NodeId,
    /// When it was permitted, as the authority said then.
    pub since: Timestamp,
    /// Whether it is going to end by [`Event::Leave`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

/// What the authority tells a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The stream is open; the sessions of [`Hello`] are known again. Sent first.
    Ready,
    /// Nothing has happened; sent every [`PING_SECS`] seconds so that a silent peer is noticed.
    Ping,
    /// End this forward now; if nothing else is open on its connection, end the connection with the reason.
    End {
        /// Which.
        session: SessionId,
        /// One line for the one who used it.
        reason: String,
    },
    /// End this forward in so many milliseconds, in the same way, and warn the one who uses it, where that can be done: they
    /// were removed from the project, which gives those who have something open a while.
    Leave {
        /// Which.
        session: SessionId,
        /// How long it may stay.
        left: u64,
        /// One line for the one who uses it, now.
        warning: String,
        /// One line for the one who used it, then.
        reason: String,
    },
    /// It need not end: [`Event::Leave`] is taken back.
    Stay {
        /// Which.
        session: SessionId,
    },
    /// All that had to end because of the directory's changes up to this version was named before. To be confirmed with
    /// [`ClosedRequest::done`].
    Mark {
        /// The version.
        version: Version,
    },
    /// Pass this on to every agent of the cluster.
    Bundle {
        /// The cluster.
        cluster: ClusterPath,
        /// Its version.
        version: Version,
        /// What the agents get.
        bundle: SignedBundle,
        /// What those get instead that can keep something open for a while, if there is something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lingering: Option<SignedBundle>,
    },
    /// Pass this on to the agent of a node.
    EndOnNode {
        /// Which.
        node: NodeId,
        /// What it gets.
        order: SignedOrder,
    },
    /// A host certificate for the gateway's host key, in place of the one that it has.
    HostCertificate {
        /// In the format of a public key file.
        certificate: String,
    },
    /// This is a node no more: end its agent's connection.
    NodeGone {
        /// Which.
        node: NodeId,
    },
}

/// Seconds between pings on the event stream; a gateway that has heard nothing for three of them reconnects.
pub const PING_SECS: u64 = 5;
