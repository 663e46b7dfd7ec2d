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
use crate::domain::{AccountId, Directory, Fingerprint, Holder, NodeId, ProjectPath, Serial, Timestamp, UserName};
use serde::{Deserialize, Serialize};
use std::fmt;

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
        lock(&self.hub).set_sessions(node, sessions);
    }

    /// How many sessions somebody has on the nodes of a project, through gateways and past them.
    pub(super) fn sessions_in_project(
        &self,
        directory: &Directory,
        account: AccountId,
        project: &ProjectPath,
    ) -> usize {
        let is_there = |node: &str| {
            let node = node.parse().ok().and_then(|path| directory.node_at(&path));
            let found = node.and_then(|node| directory.project(directory.cluster(node.cluster)?.project));
            found.and_then(|found| directory.path_of_project(found)).as_ref() == Some(project)
        };
        let all = self.all_sessions(directory, Some(account), false);
        let direct = all.iter().filter(|session| session.session.is_none() && is_there(&session.node)).count();
        let sessions = lock(&self.sessions);
        let through = sessions.iter().filter(|s| s.credential.account == account && s.project == *project).count();
        through + direct
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
        // A node says whose sessions it has. To somebody who is not in its project it must not show that it exists.
        let belongs = |node: NodeId, account| {
            let cluster = directory.node(node).and_then(|node| directory.cluster(node.cluster));
            cluster.is_some_and(|cluster| directory.membership(cluster.project, account).is_some())
        };
        let shown = |node: NodeId, account: Option<AccountId>| {
            of.is_none_or(|of| account == Some(of) && (!for_itself || belongs(node, of)))
        };
        let on_nodes: Vec<OnNode> = {
            let hub = lock(&self.hub);
            let all = hub.sessions().map(|(node, session)| (node, session.account(directory), session.clone()));
            all.filter(|(node, account, _)| shown(*node, *account)).collect()
        };
        let mut views = join(directory, through, on_nodes);
        views.sort_by(|a, b| (a.since, &a.node, &a.session).cmp(&(b.since, &b.node, &b.session)));
        views
    }
}

/// Puts what gateways and nodes say of the same session into one. A connection through a gateway is the node's session of
/// the same account whose certificate it came with, or, if it came with the plain key, one whose certificate is on that
/// key; the oldest with the oldest.
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
        let place = on_nodes.iter().position(|(node, account, there)| {
            *node == session.node
                && *account == Some(credential.account)
                && there.certificate.as_ref().is_some_and(fits)
        });
        let there = place.map(|place| on_nodes.remove(place).2);
        let (account, kind) = owner(directory, credential.account);
        let view = SessionView {
            session: Some(session.id.to_string()),
            account,
            kind,
            node: session.path.to_string(),
            login: there.as_ref().map(|there| there.login.to_string()),
            peer: Some(session.peer),
            gateway: Some(session.gateway.clone()),
            since: session.since,
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
        let view = SessionView {
            session: None,
            account,
            kind,
            node: path.to_string(),
            login: Some(session.login.to_string()),
            peer: None,
            gateway: None,
            since: session.since,
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
    fn a_login_has_no_character_that_would_have_to_be_escaped() {
        for good in ["ubuntu", "_x", "a.b-c_d", "0"] {
            assert!(LoginName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "-a", ".a", "a\n", "a/b", "\u{1b}[2J", &"a".repeat(33)] {
            assert!(LoginName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
