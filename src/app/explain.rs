//! Why somebody can get into a node, or why not, and who can: told by the decision code itself, walked step by step.

use super::{
    account_views::state,
    certificates::State,
    cluster_views::NODE_SILENT,
    core::{App, Asker, lock},
    error::AppError,
    hub::NodeStatus,
    nodes::cluster_of,
};
use crate::{
    bundle::principals_on,
    domain::{
        Account, AccountId, AccountState, CertificateRecord, Directory, Email, Holder, Networks, Node, NodeId,
        NodePath, Target, Timestamp,
    },
    policy::{Action, Denial, OpenTarget, Origin, Reason, identify, is_told, open},
};
use serde::Serialize;
use std::sync::Arc;

/// One step of an explanation.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was looked at.
    pub step: &'static str,
    /// Whether it speaks for access; none if it is told but decides nothing.
    pub holds: Option<bool>,
    /// What was found.
    pub found: String,
}

/// An explanation.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Whose access.
    pub account: Email,
    /// To what.
    pub node: String,
    /// Whether a connection through a gateway would be opened now.
    pub access: bool,
    /// What decided, in the operator's voice.
    pub decided_by: String,
    /// The walk.
    pub steps: Vec<Step>,
}

/// Somebody who can get in.
#[derive(Clone, Debug, Serialize)]
pub struct Reacher {
    /// The account.
    pub email: Email,
    /// `person` or `service`.
    pub kind: Holder,
    /// From where, if not from everywhere.
    pub sources: Option<Networks>,
    /// The login on the nodes.
    pub user: String,
    /// The role in the project.
    pub role: String,
    /// Since when.
    pub since: Timestamp,
    /// By whose decision.
    pub by: String,
}

/// The step that is about what the node itself knows.
const VIEW: &str = "node's view";

impl App {
    /// Explains somebody's access to a node. Everybody may ask about themselves; about others, the project's admins.
    ///
    /// # Errors
    /// Refused, or the asker cannot know of such a node.
    pub fn explain(&self, asker: &Asker, email: &Email, path: &NodePath) -> Result<Explanation, AppError> {
        let own = self.view(asker, Action::ExplainOwn, None, |_, caller, _| {
            Ok(caller.identity().is_some_and(|identity| identity.account().email == *email))
        })?;
        if !own {
            self.view(asker, Action::Explain, &cluster_of(path), |_, _, _| Ok(()))?;
        }
        let (directory, now) = (self.directory(), self.now());
        let verdict = verdict(&directory, email, &path.to_string(), now);
        // About oneself one is told what a connection would be told, and no more.
        let voice = |denial: &Denial| if own { denial.user.clone() } else { denial.operator.clone() };
        let decided_by = match &verdict {
            Ok(_) => match directory.account_with_email(email).and_then(|account| account.service()) {
                Some(terms) => format!("every step holds, for a connection from {}", terms.sources),
                None => "every step holds".to_owned(),
            },
            Err(denial) => voice(denial),
        };
        // Who is not in the project is told nothing of its nodes, not even whether they are there.
        let at = cluster_of(path);
        let project = directory.cluster_at(&at).map(|cluster| cluster.project);
        let subject = directory.account_with_email(email);
        let member = project.zip(subject).is_some_and(|(p, a)| directory.membership(p, a.id).is_some());
        let known = member
            || project
                .zip(subject)
                .is_some_and(|(p, a)| directory.departure(a.id, p).is_some_and(|departure| is_told(departure.at, now)));
        let operator = matches!(asker, Asker::Operator { .. });
        if !own && !operator && !known {
            // A project's admin learns nothing about people who have nothing to do with it.
            let found = format!("{email} is not in the project of {path}");
            let steps = vec![Step { step: "membership", holds: Some(false), found: found.clone() }];
            return Ok(Explanation {
                account: email.clone(),
                node: path.to_string(),
                access: false,
                decided_by: found,
                steps,
            });
        }
        let hidden = own && !member;
        let steps = self.steps(&directory, email, path, hidden, now);
        let unsure = steps.iter().find(|step| step.step == VIEW && step.holds.is_none());
        let decided_by = match unsure.filter(|_| verdict.is_ok()) {
            Some(step) => {
                format!("{decided_by}, at a gateway; whether {path} lets {email} in is not known: {}", step.found)
            }
            None => decided_by,
        };
        Ok(Explanation { account: email.clone(), node: path.to_string(), access: verdict.is_ok(), decided_by, steps })
    }

    /// The walk, in the order of the decision. It ends where there is nothing further to look at.
    fn steps(&self, directory: &Directory, email: &Email, path: &NodePath, hidden: bool, now: Timestamp) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |step, holds, found: String| steps.push(Step { step, holds, found });
        let Some(account) = directory.account_with_email(email) else {
            step("account", Some(false), format!("no account has the email {email}"));
            return steps;
        };
        let kind = match account.kind.holder() {
            Holder::Person => "",
            Holder::Service => ", a service account",
        };
        let found = format!("{email}{kind} (user {}), {}", account.user, state(directory, account));
        step("account", Some(account.state == AccountState::Active), found);
        let keys = directory.keys_of(account.id).count();
        step("key", Some(keys > 0), format!("{keys} registered"));
        if let Some(terms) = account.service() {
            // Nobody is connected, so this neither holds nor not; it is what a connection will be held against.
            step("source", None, format!("only from {}", terms.sources));
            if let Some(command) = &terms.force_command {
                step("command", None, format!("on nodes it runs only: {command}"));
            }
        }
        let at = cluster_of(path);
        let Some((cluster, project)) =
            directory.cluster_at(&at).and_then(|cluster| Some((cluster, directory.project(cluster.project)?)))
        else {
            let (what, name) = if hidden { ("node", path.to_string()) } else { ("cluster", at.to_string()) };
            step(what, Some(false), format!("no such {what}: {name}"));
            return steps;
        };
        let name = directory.path_of_project(project).map(|path| path.to_string()).unwrap_or_default();
        match (directory.membership(project.id, account.id), directory.departure(account.id, project.id)) {
            (Some(m), _) => {
                let found = format!("{} of {name} since {} by {}", m.role, m.since.for_people(), m.by);
                step("membership", Some(true), found);
            }
            // The removed are told when and by whom, for a while; of the nodes, nothing.
            (None, Some(gone)) if !hidden || is_told(gone.at, now) => {
                let found = format!("removed from {name} at {} by {}", gone.at.for_people_at(now), gone.by);
                step("membership", Some(false), found);
            }
            (None, _) if hidden => step("node", Some(false), format!("no such node: {path}")),
            (None, _) => step("membership", Some(false), format!("not in {name}")),
        }
        if hidden {
            return steps;
        }
        step("cluster", Some(true), format!("{at}, {}, of {name}", cluster.kind));
        let Some(node) = directory.node_at(path) else {
            step("node", Some(false), format!("no such node: {path}"));
            return steps;
        };
        step("node", Some(true), format!("{path}, {} at {} port {}", node.role, node.address, node.port));
        let (holds, found) = self.view_of_node(account.id, node, now);
        step(VIEW, holds, found);
        let (holds, found) = self.certificate_in_hand(directory, account, node, now);
        step("certificate", holds, found);
        steps
    }

    /// Whether the node has confirmed a list in which the account is as it is now. It does not decide whether a gateway opens
    /// a connection: a node that is behind answers by the list that it has, and what that says of somebody about whom
    /// something has changed since is not known here.
    fn view_of_node(&self, account: AccountId, node: &Node, now: Timestamp) -> (Option<bool>, String) {
        let status = lock(&self.hub).node(node.id).cloned();
        let wanted = lock(&self.published).get(&node.cluster).copied();
        let Some(NodeStatus { version: Some(have), heard, problem, .. }) = status else {
            return (None, "not heard of since the authority started; it answers by the list that it has".into());
        };
        let at = heard.near(now);
        let silent = if now.since(heard) > NODE_SILENT { ", silent since" } else { "" };
        let problem = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
        match wanted {
            Some(wanted) if have < wanted => {
                let changed = lock(&self.concerned).get(&account).copied().unwrap_or(self.started_at);
                let (holds, what) = match have >= changed {
                    true => (Some(true), "nothing has changed about this account since"),
                    false => (None, "it answers by the list that it has, which may say something else of this account"),
                };
                (holds, format!("behind: version {have} of {wanted}{problem}, last heard {at}{silent}; {what}"))
            }
            _ => (Some(true), format!("up to date, version {have}{problem}, last heard {at}{silent}")),
        }
    }

    /// A live certificate is not needed to be let in: the next one is fetched. It is told because it may be in use; and
    /// only if it is good for this node, for what somebody has in other projects is not this one's business.
    fn certificate_in_hand(
        &self,
        directory: &Directory,
        account: &Account,
        node: &Node,
        now: Timestamp,
    ) -> (Option<bool>, String) {
        let accepted = principals_on(directory, &account.user, node.cluster);
        let good = |record: &&CertificateRecord| {
            record.account == account.id
                && State::of(directory, record, now) == State::Live
                && record.principals.iter().any(|principal| accepted.contains(principal))
        };
        let live = lock(&self.live);
        match live.values().filter(good).max_by_key(|record| record.valid_before) {
            Some(record) => (Some(true), format!("serial {}, ends {}", record.serial, record.valid_before.near(now))),
            None => (None, "none live for this node; a connection that is let in fetches one".into()),
        }
    }

    /// Who can get into a node, or into any node of a cluster.
    ///
    /// # Errors
    /// Refused, or the asker cannot know of such a node.
    pub fn reach(&self, asker: &Asker, target: &Target) -> Result<Vec<Reacher>, AppError> {
        let at = match target {
            Target::Node(path) => cluster_of(path),
            Target::Cluster(path) => path.clone(),
        };
        let now = self.now();
        self.view(asker, Action::Reach, &at, |directory, _, grant| {
            let hosts: Vec<String> = match target {
                Target::Node(path) => {
                    let unknown = || Denial::not_found("node", path, format!("no node {path}"));
                    directory.node_at(path).ok_or_else(unknown)?;
                    vec![path.to_string()]
                }
                Target::Cluster(path) => directory
                    .cluster_at(path)
                    .into_iter()
                    .flat_map(|cluster| directory.nodes_of(cluster.id))
                    .filter_map(|node| directory.path_of_node(node))
                    .map(|path| path.to_string())
                    .collect(),
            };
            let project = grant.project()?.0.id;
            let reachers = directory
                .members_of(project)
                .filter(|(account, _)| hosts.iter().any(|host| verdict(directory, &account.email, host, now).is_ok()))
                .map(|(account, membership)| Reacher {
                    email: account.email.clone(),
                    kind: account.kind.holder(),
                    sources: account.service().map(|terms| terms.sources.clone()),
                    user: account.user.to_string(),
                    role: membership.role.to_string(),
                    since: membership.since,
                    by: membership.by.to_string(),
                });
            Ok(reachers.collect())
        })
    }
}

/// The decision that a gateway would get for any of an account's keys.
fn verdict(directory: &Directory, email: &Email, host: &str, now: Timestamp) -> Result<NodeId, Denial> {
    let account: &Arc<Account> = directory
        .account_with_email(email)
        .ok_or_else(|| Denial::plain(Reason::NoAccount, format!("no account has the email {email}")))?;
    let entry = directory
        .keys_of(account.id)
        .next()
        .ok_or_else(|| Denial::plain(Reason::UnknownKey, format!("{email} has no key registered")))?;
    let identity = identify(directory, account.id, entry.key.fingerprint(), None, Origin::Unstated, now)?;
    open(directory, &identity, OpenTarget { host, port: 22 }, &|_| Some(0), now).map(|permit| permit.node())
}
