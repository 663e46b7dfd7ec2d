//! The sessions of nodes' sshds, as the nodes say: also those that came past the gateway. A node says only what its own
//! are; a node that lies, lies about itself.

use super::{
    account_views::owner,
    core::{App, lock},
    nodes::current,
    protocol::NodeSessionsRequest,
    sessions::Session,
    view_types::SessionView,
};
use crate::domain::{
    AccountId, Directory, Fingerprint, Holder, Node, NodeId, NodePath, Serial, SessionId, Timestamp, UserName,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The most sessions that are heard of from one node: what fits into a line of its.
pub const MAX_NODE_SESSIONS: usize = 256;

/// A login on a node, in the alphabet that such names have: nothing in it has to be escaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LoginName(String);

impl TryFrom<String> for LoginName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        // As long as Linux has them.
        let good = (1..=32).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['-', '.']);
        if good { Ok(Self(text)) } else { Err("not the name of a login") }
    }
}

impl From<LoginName> for String {
    fn from(name: LoginName) -> Self {
        name.0
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A session of a node's sshd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSession {
    /// The process number of its privileged sshd there.
    pub process: u32,
    /// When that has started, in clock ticks since the machine did: number and start together are one process only.
    pub start: u64,
    /// The login.
    pub login: LoginName,
    /// The certificate that it came with; not known of sessions that the node has found by itself.
    pub certificate: Option<SessionCertificate>,
    /// Since when, by the node's clock.
    pub since: Timestamp,
}

/// With what a session has come, as sshd told the node's helper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCertificate {
    /// Its key ID: the user name of the account.
    pub owner: UserName,
    /// Its serial number.
    pub serial: Serial,
    /// The key that it certifies.
    pub key: Fingerprint,
}

impl NodeSession {
    /// Whose it is: the certificate's owner; without one, of the user that the login is.
    fn account(&self, directory: &Directory) -> Option<AccountId> {
        let by_login = || self.login.0.parse().ok();
        let user = self.certificate.as_ref().map(|certificate| certificate.owner.clone()).or_else(by_login)?;
        directory.account_with_user(&user).map(|account| account.id)
    }

    /// Whether it is the one with this process, by number and start.
    pub(super) fn is(&self, process: (u32, u64)) -> bool {
        (self.process, self.start) == process
    }

    /// Whether it is shown to an account as its own. A node says whose sessions it has; to somebody who is not in its
    /// project it must not show that it exists.
    pub(super) fn is_shown_to(&self, account: AccountId, node: NodeId, directory: &Directory) -> bool {
        let cluster = directory.node(node).and_then(|node| directory.cluster(node.cluster));
        self.account(directory) == Some(account)
            && cluster.is_some_and(|cluster| directory.membership(cluster.project, account).is_some())
    }
}

/// What a session is called, in `session list` and `session end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionName {
    /// A forward through a gateway.
    Forward(SessionId),
    /// One that only its node knows of: `NODE.CLUSTER.ORG:PROCESS.START`.
    OnNode {
        /// The node.
        node: NodePath,
        /// As in [`NodeSession`].
        process: u32,
        /// As in [`NodeSession`].
        start: u64,
    },
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(id) => fmt::Display::fmt(id, f),
            Self::OnNode { node, process, start } => f.pad(&format!("{node}:{process}.{start}")),
        }
    }
}

impl FromStr for SessionName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let on_node = || {
            let (node, rest) = text.split_once(':')?;
            let (process, start) = rest.split_once('.')?;
            let digits = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit());
            if !digits(process) || !digits(start) {
                return None;
            }
            Some(Self::OnNode { node: node.parse().ok()?, process: process.parse().ok()?, start: start.parse().ok()? })
        };
        let forward = || SessionId::try_from(text.to_owned()).ok().map(Self::Forward);
        on_node().or_else(forward).ok_or("not the name of a session; 'session list' shows them")
    }
}

/// A session as a node says, with the node and whose it is, if that is known.
type OnNode = (NodeId, Option<AccountId>, NodeSession);

impl App {
    /// A node says what sessions it has.
    pub fn node_sessions(&self, request: NodeSessionsRequest) {
        let Some(node) = current(&self.directory(), &request.node).map(|node| node.id) else { return };
        let NodeSessionsRequest { mut sessions, more, .. } = request;
        sessions.truncate(MAX_NODE_SESSIONS);
        if more > 0 {
            tracing::debug!(node = %request.node.path, more, "a node has more sessions than are shown");
        }
        lock(&self.hub).set_sessions(node, sessions, self.now());
        // Somebody may wait for the end of one.
        self.heard.send_modify(|count| *count += 1);
    }

    /// How many sessions somebody, or everybody, has on some nodes, through gateways and past them.
    pub(super) fn sessions_on(
        &self,
        directory: &Directory,
        of: Option<AccountId>,
        is_one: impl Fn(&Node) -> bool,
    ) -> usize {
        let there = |session: &SessionView| {
            let path = session.node.parse().ok();
            path.and_then(|path| directory.node_at(&path)).is_some_and(|node| is_one(node))
        };
        self.all_sessions(directory, of, false).iter().filter(|session| there(session)).count()
    }

    /// What is open, through gateways and on nodes, each session once; the oldest first. Of one account, which may see it
    /// `for_itself` or be looked at, or of all.
    pub(super) fn all_sessions(
        &self,
        directory: &Directory,
        of: Option<AccountId>,
        for_itself: bool,
    ) -> Vec<SessionView> {
        let through: Vec<Session> = {
            let sessions = lock(&self.sessions);
            sessions.iter().filter(|session| of.is_none_or(|of| of == session.credential.account)).cloned().collect()
        };
        let shown = |node: NodeId, session: &NodeSession| match of {
            None => true,
            Some(of) if for_itself => session.is_shown_to(of, node, directory),
            Some(of) => session.account(directory) == Some(of),
        };
        let on_nodes: Vec<OnNode> = {
            let hub = lock(&self.hub);
            let shown = hub.sessions().filter(|(node, session)| shown(*node, session));
            shown.map(|(node, session)| (node, session.account(directory), session.clone())).collect()
        };
        let mut views = join(directory, through, on_nodes);
        views.sort_by(|a, b| (a.since, &a.node, &a.session).cmp(&(b.since, &b.node, &b.session)));
        views
    }
}

/// Puts what gateways and nodes say of the same session into one. A connection through a gateway is the node's session of
/// the same account whose certificate it came with, or, if it came with the plain key, one whose certificate is on that
/// key: of several, the one that began at about the same time.
fn join(directory: &Directory, mut through: Vec<Session>, mut on_nodes: Vec<OnNode>) -> Vec<SessionView> {
    through.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    on_nodes.sort_by_key(|(node, _, session)| (session.since, *node, session.process));
    let mut views = Vec::new();
    for session in through {
        let credential = &session.credential;
        let fits = |found: &SessionCertificate| match credential.certificate {
            Some(serial) => found.serial == serial,
            None => found.key == credential.key,
        };
        let candidates = on_nodes.iter().enumerate().filter(|(_, (node, account, there))| {
            *node == session.node
                && *account == Some(credential.account)
                && there.certificate.as_ref().is_some_and(fits)
        });
        let apart = |there: &NodeSession| there.since.millis().abs_diff(session.since.millis());
        let place = candidates.min_by_key(|(_, (_, _, there))| apart(there)).map(|(place, _)| place);
        let there = place.map(|place| on_nodes.remove(place).2);
        let (account, kind) = owner(directory, credential.account);
        let view = SessionView {
            session: session.id.to_string(),
            account,
            kind,
            node: session.path.to_string(),
            login: there.as_ref().map(|there| there.login.to_string()),
            peer: Some(session.peer),
            gateway: Some(session.gateway.clone()),
            since: session.since,
            until: session.leaves,
            certificate: there
                .as_ref()
                .and_then(|s| s.certificate.as_ref())
                .map(|c| c.serial)
                .or(credential.certificate),
            process: there.map(|there| there.process),
        };
        views.push(view);
    }
    for (node, account, session) in on_nodes {
        let path = directory.node(node).and_then(|node| directory.path_of_node(node));
        let Some(path) = path else { continue };
        // Of a shared login it may not be known.
        let (account, kind) = account.map_or((String::new(), Holder::Person), |account| owner(directory, account));
        let name = SessionName::OnNode { node: path.clone(), process: session.process, start: session.start };
        let view = SessionView {
            session: name.to_string(),
            account,
            kind,
            node: path.to_string(),
            login: Some(session.login.to_string()),
            peer: None,
            gateway: None,
            since: session.since,
            until: None,
            certificate: session.certificate.map(|certificate| certificate.serial),
            process: Some(session.process),
        };
        views.push(view);
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::protocol::FromNode;

    #[test]
    fn as_many_sessions_as_are_heard_of_fit_into_a_line() {
        let session = NodeSession {
            process: 4_194_304,
            start: u64::MAX,
            login: "a".repeat(32).try_into().unwrap(),
            certificate: Some(SessionCertificate {
                owner: "a".repeat(31).parse().unwrap(),
                serial: Serial(u64::MAX),
                key: Fingerprint::from_bytes([0xff; 32]),
            }),
            since: Timestamp::from_millis(u64::MAX),
        };
        let message = FromNode::Sessions { sessions: vec![session; MAX_NODE_SESSIONS], more: u32::MAX };
        let line = serde_json::to_vec(&message).unwrap();
        assert!(line.len() < crate::app::protocol::MAX_NODE_LINE, "{}", line.len());
    }

    #[test]
    fn a_session_has_one_name() {
        let forward = "00112233445566778899aabbccddeeff";
        let on_node = "login-0.h100.acme:4242.98765";
        for name in [forward, on_node] {
            assert_eq!(name.parse::<SessionName>().unwrap().to_string(), name);
        }
        let node = "login-0.h100.acme".parse().unwrap();
        assert_eq!(on_node.parse(), Ok(SessionName::OnNode { node, process: 4242, start: 98_765 }));
        for bad in [
            "",
            "4242",
            "login-0.h100.acme",
            "login-0.h100.acme:4242",
            "login-0.h100.acme:+1.2",
            "h100.acme:1.2",
            "a:b:1.2",
        ] {
            assert!(bad.parse::<SessionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_has_no_character_that_would_have_to_be_escaped() {
        for good in ["ubuntu", "_x", "a.b-c_d", "0"] {
            assert!(LoginName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "-a", ".a", "a\n", "a/b", "\u{1b}[2J", &"a".repeat(33)] {
            assert!(LoginName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
