//! Nodes: tokens, joining, what they have, leaving.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    events::refused,
    protocol::{
        JoinAnswer, JoinRequest, Joined, NodeHelloAnswer, NodeHelloRequest, NodeIdentity, NodeLookAnswer,
        NodeLookRequest, NodeReceiptRequest,
    },
    token::TokenText,
};
use crate::{
    audit::Event,
    bundle::{Current, SignedBundle, SignedCurrent, farewell},
    domain::{
        AccountId, AccountState, Actor, Cluster, ClusterId, ClusterPath, Directory, Fingerprint, JoinToken, Mutation,
        Node, NodeId, NodePath, NodeRole, ProjectId, Role, Timestamp, TokenHash, Ttl, Version,
    },
    policy::{Action, Caller, Denial, Grant, NodeNetworks, Reason},
    store::{Change, Ledger},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a new node will be.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// Its name.
    pub node: NodePath,
    /// What it is for.
    pub role: NodeRole,
    /// Where the gateway dials it; if not set, the address that it joins from.
    pub address: Option<IpAddr>,
    /// The port of its sshd there.
    pub port: u16,
    /// How long the token works.
    pub ttl: Ttl,
}

/// A token with which a machine can still join. The secret is known to nobody but whoever asked for it.
#[derive(Clone, Debug, Serialize)]
pub struct TokenView {
    /// `NODE.CLUSTER.ORG`.
    pub node: String,
    /// What the node will be for.
    pub role: String,
    /// Where the gateway will dial it; if not set, the address that it joins from.
    pub address: Option<IpAddr>,
    /// The port of its sshd there.
    pub port: u16,
    /// Who has asked for it.
    pub by: String,
    /// When it stops working.
    pub expires: Timestamp,
}

/// How long a token can work at most.
const MAX_TOKEN_TTL: Duration = Duration::from_secs(7 * 86_400);

impl App {
    /// Makes a token that lets one machine join as one node, once.
    ///
    /// # Errors
    /// Refused, not durable, or no gateway is known that the machine could be sent to.
    pub async fn create_token(self: &Arc<Self>, asker: &Asker, request: TokenRequest) -> Result<TokenText, AppError> {
        let at = cluster_of(&request.node);
        let host_keys: Vec<_> = lock(&self.hub).gateways().map(|(_, gateway)| gateway.host_key.fingerprint()).collect();
        let secret = self.random()?;
        let text = TokenText {
            gateways: vec![join_host_port(&self.site.bastion.host, self.site.bastion.port)],
            host_keys,
            node: request.node.clone(),
            secret: URL_SAFE_NO_PAD.encode(secret),
        };
        let object = request.node.to_string();
        let (app, to_nobody) = (self.clone(), text.host_keys.is_empty());
        let decide = move |_: Ledger<'_>, caller: &Caller, grant: &Grant, now: Timestamp| {
            let cluster = grant.cluster()?.id;
            if request.ttl.duration() > MAX_TOKEN_TTL {
                let text = format!("a token works for {} days at most", MAX_TOKEN_TTL.as_secs() / 86_400);
                return Err(Denial::plain(Reason::Invalid, text));
            }
            if let Some(address) = request.address {
                app.site.node_networks.check(address)?;
            }
            app.no_bastion(
                [request.node.to_string(), cluster_of(&request.node).to_string()].iter().map(String::as_str),
            )?;
            // Whatever else listens on a machine is none of a project's business.
            if request.port != 22 && !grant.operator() {
                let text =
                    "a node's sshd listens on port 22; another port can be named by operators, on the bastion itself";
                return Err(Denial::plain(Reason::OperatorsOnly, text));
            }
            if to_nobody {
                return Err(Denial::plain(
                    Reason::Conflict,
                    "no gateway is connected, so the token could not say whom the node may trust; start one and try \
                     again",
                ));
            }
            let token = JoinToken {
                hash: TokenHash::of(&secret),
                cluster,
                node: request.node.node,
                role: request.role,
                address: request.address,
                port: request.port,
                by: caller.actor(),
                expires: now.after(request.ttl.duration()),
                used: None,
            };
            let at = token.address.map_or_else(|| "where it joins from".into(), |address| address.to_string());
            let detail = format!("{} at {at} port {}, until {}", token.role, token.port, token.expires);
            Ok(Decided { detail, ..Decided::one(Mutation::TokenCreated(token), ()) })
        };
        self.change(asker, Action::NodeToken, &at, object, decide).await?;
        Ok(text)
    }

    /// The tokens of a cluster with which a machine can still join, those that end first first.
    ///
    /// # Errors
    /// Refused.
    pub fn tokens(&self, asker: &Asker, path: &ClusterPath) -> Result<Vec<TokenView>, AppError> {
        let now = self.now();
        self.view(asker, Action::NodeTokens, path, |directory, _, grant| {
            Ok(tokens_that_work(directory, std::iter::once(grant.cluster()?), now))
        })
    }

    /// Takes back every token for a node that could still be used; how many those were.
    ///
    /// # Errors
    /// Refused, there is none, or not durable.
    pub async fn revoke_tokens(self: &Arc<Self>, asker: &Asker, path: NodePath) -> Result<usize, AppError> {
        let (at, object) = (cluster_of(&path), path.to_string());
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let live = ledger.directory.tokens_of(grant.cluster()?.id);
            let live = live.filter(|token| token.node == path.node && works(ledger.directory, token, now).is_ok());
            let mutations: Vec<Mutation> =
                live.map(|token| Mutation::TokenUsed { hash: token.hash, at: now }).collect();
            let count = mutations.len();
            if count == 0 {
                let text = format!(
                    "no token for {path} could be used; 'node tokens {}' shows those that can",
                    cluster_of(&path)
                );
                return Err(Denial::plain(Reason::NotFound, text));
            }
            Ok(Decided { mutations, certificate: None, detail: String::new(), answer: count })
        };
        Ok(self.change(asker, Action::NodeTokenRevoke, &at, object, decide).await?.0)
    }

    /// A machine that has proved a host key uses a token.
    pub async fn join(self: &Arc<Self>, request: JoinRequest) -> JoinAnswer {
        match self.try_join(&request).await {
            Ok(joined) => JoinAnswer::Joined(Box::new(joined)),
            Err(error) => {
                // What is on record is in the journal too.
                if matches!(error.reason(), None | Some(Reason::UnknownToken)) {
                    tracing::warn!(connection = %request.connection, peer = %request.peer, node = %request.node, "join refused: {error}");
                }
                JoinAnswer::Refused { message: error.for_user() }
            }
        }
    }

    async fn try_join(self: &Arc<Self>, request: &JoinRequest) -> Result<Joined, AppError> {
        let slot = Arc::new(Mutex::new(None));
        let (app, asked, filled) = (self.clone(), request.clone(), slot.clone());
        let decision = move |ledger: Ledger<'_>| {
            let now = app.now();
            let decided = decide_join(ledger.directory, &asked, &app.site.node_networks, now);
            // Whoever tries tokens that do not exist must not be able to fill the disk with it.
            if decided.as_ref().is_err_and(|denial| denial.reason == Reason::UnknownToken) {
                *lock(&filled) = Some(decided);
                return None;
            }
            let key = asked.host_key.fingerprint();
            let event = |actor| Event {
                source: asked.peer.to_string(),
                connection: Some(asked.connection.clone()),
                ..Event::new(now, actor, "node.join", asked.node.to_string())
            };
            let (event, mutations) = match &decided {
                Ok((hash, node)) => {
                    let by = ledger.directory.token(hash).map(|token| token.by.to_string()).unwrap_or_default();
                    let (role, address, port) = (node.role, node.address, node.port);
                    let detail = format!("{role} at {address} port {port}, with the token that {by} asked for");
                    let used = Mutation::TokenUsed { hash: *hash, at: now };
                    let joined = event(Actor::Node { name: asked.node.to_string(), key });
                    (Event { detail, ..joined }, vec![used, Mutation::NodeEnrolled(node.clone())])
                }
                Err(denial) => (refused(event(Actor::Stranger { key }), denial), vec![]),
            };
            *lock(&filled) = Some(decided);
            Some(Change { mutations, events: vec![event], ..Change::default() })
        };
        self.store.transact(Box::new(decision)).await?;
        let (_, node) = lock(&slot).take().ok_or(AppError::Defect("a decision was not made"))??;
        let host_certificate = self.host_certificate(&node).await?;
        let directory = self.directory();
        let bundles = self.bundles(&directory, node.cluster).await;
        // Nobody has anything open on a machine that was no node.
        let bundle = bundles.ok_or(AppError::Defect("no bundle could be made"))?.plain;
        Ok(Joined {
            node: request.node.clone(),
            node_id: node.id,
            bundle_keys: vec![self.ca.bundle_key()],
            bundle,
            host_certificate,
        })
    }

    /// A node says what it has, and gets what it lacks.
    ///
    /// # Errors
    /// A host certificate could not be made; the node asks again.
    pub async fn node_hello(self: &Arc<Self>, request: NodeHelloRequest) -> Result<NodeHelloAnswer, AppError> {
        let directory = self.directory();
        let now = self.now();
        let Some(node) = current(&directory, &request.node) else {
            let answer = self.goodbye_to(&directory, &request, now);
            if answer == NodeHelloAnswer::Refused {
                self.note_stranger(&directory, &request, now).await;
            }
            return Ok(answer);
        };
        {
            let mut hub = lock(&self.hub);
            hub.heard(node.id, request.have, Some(request.peer), now);
            hub.reached(node.id, request.reach);
            hub.has(node.id, request.program.as_deref(), request.host_certificate_until);
        }
        self.heard.send_modify(|count| *count += 1);
        // The version counts every change anywhere; what matters is the last one that touched this cluster.
        let touched = lock(&self.published).get(&node.cluster).copied();
        let bundle = match (request.have, touched) {
            (Some(have), Some(touched)) if have >= touched => None,
            _ => self.bundles(&directory, node.cluster).await.map(|bundles| bundles.for_agent(request.lingers)),
        };
        let half = Duration::from_secs(u64::from(self.site.certificates.host_ttl.secs()) / 2);
        let due = request.host_certificate_until.is_none_or(|until| Timestamp::from_secs(until) < now.after(half));
        // A node that says again and again that it has none must not get one each time: each is an audit event.
        let due = due && lock(&self.hub).may_have_host_certificate(node.id, now);
        let host_certificate = if due { Some(self.host_certificate(node).await?) } else { None };
        let current = self.current(&directory, node.cluster, now);
        Ok(NodeHelloAnswer::Welcome { bundle, host_certificate, current })
    }

    /// The word that the last version that touched a cluster is the last one there. A change that is durable but not
    /// published yet, which takes a moment, is not in it.
    fn current(&self, directory: &Directory, cluster: ClusterId, now: Timestamp) -> Option<SignedCurrent> {
        let version = lock(&self.published).get(&cluster).copied()?;
        let cluster = directory.cluster(cluster).and_then(|cluster| directory.path_of_cluster(cluster))?;
        SignedCurrent::sign(&Current { cluster, version, at: now }, &self.ca.bundle).ok()
    }

    /// A node that was removed gets, until it has one, the list that lets nobody in.
    fn goodbye_to(&self, directory: &Directory, request: &NodeHelloRequest, now: Timestamp) -> NodeHelloAnswer {
        let gone = directory.gone_node_with_key(&request.node.key).filter(|(node, _)| *node == request.node.node);
        let Some((node, path)) = gone else { return NodeHelloAnswer::Refused };
        let version = *lock(&self.farewells).entry(node).or_insert(directory.version());
        if request.have >= Some(version) {
            return NodeHelloAnswer::Refused;
        }
        let bundle =
            SignedBundle::sign(&farewell(cluster_of(path), version, &self.ca.public(), now), &self.ca.bundle).ok();
        NodeHelloAnswer::Welcome { bundle, host_certificate: None, current: None }
    }

    /// A machine that is a node no more wants to go on being one. One that never was is not worth a record: anybody who
    /// has taken over a gateway could name any number of them.
    async fn note_stranger(self: &Arc<Self>, directory: &Directory, request: &NodeHelloRequest, now: Timestamp) {
        let Some((_, path)) = directory.gone_node_with_key(&request.node.key) else {
            tracing::info!(peer = %request.peer, key = %request.node.key, "a hello of a node that is none was refused");
            return;
        };
        let actor = Actor::Node { name: path.to_string(), key: request.node.key };
        let event =
            Event { source: request.peer.to_string(), ..Event::new(now, actor, "node.hello", path.to_string()) };
        self.note_repeated(refused(event, &Denial::plain(Reason::NotFound, "the node was removed"))).await;
    }

    /// What is so for a node now. It is not the node that has been heard by that, but somebody who looks at it.
    pub async fn node_look(self: &Arc<Self>, request: NodeLookRequest) -> NodeLookAnswer {
        let directory = self.directory();
        let Some(node) = current(&directory, &request.node) else { return NodeLookAnswer { current: None } };
        if !lock(&self.published).contains_key(&node.cluster) {
            // As for the first hello since the authority was started.
            self.bundles(&directory, node.cluster).await;
        }
        NodeLookAnswer { current: self.current(&directory, node.cluster, self.now()) }
    }

    /// A node has installed a bundle, or could not.
    pub fn node_receipt(&self, request: NodeReceiptRequest) {
        let directory = self.directory();
        let Some(node) = current(&directory, &request.node) else { return };
        if let Some(problem) = &request.problem {
            // Quoted: it comes from a machine that may be anybody's by now.
            let problem: String = problem.chars().take(500).collect();
            tracing::warn!(node = %request.node.path, ?problem, "a node did not take its bundle");
        }
        let mut hub = lock(&self.hub);
        hub.heard(node.id, request.version, None, self.now());
        hub.problem(node.id, request.problem);
        hub.ended(node.id, request.ended);
        drop(hub);
        self.heard.send_modify(|count| *count += 1);
    }

    /// How many sessions the removal of a node will end.
    ///
    /// # Errors
    /// The asker may not remove it, or it is not there.
    pub async fn preview_node_removal(self: &Arc<Self>, asker: &Asker, path: &NodePath) -> Result<usize, AppError> {
        let look = |directory: &Directory, _: &Caller, _: &Grant| {
            let node = node_named(directory, path)?.id;
            Ok(self.sessions_on(directory, None, |there| there.id == node))
        };
        self.preview(asker, Action::NodeRemove, &cluster_of(path), path.to_string(), look).await
    }

    /// Removes a node: nothing is opened to it any more, its agent is sent away.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn remove_node(self: &Arc<Self>, asker: &Asker, path: NodePath) -> Result<Version, AppError> {
        let (at, object) = (cluster_of(&path), path.to_string());
        let decide = move |ledger: Ledger<'_>, _: &Caller, _: &Grant, now| {
            let node = node_named(ledger.directory, &path)?.id;
            Ok(Decided::one(Mutation::NodeRemoved { node, at: now }, ()))
        };
        Ok(self.change(asker, Action::NodeRemove, &at, object, decide).await?.1)
    }

    pub(super) fn node_event(
        &self,
        directory: &Directory,
        node: &Node,
        action: &str,
        decided: &Result<crate::policy::HostPermit, Denial>,
        now: Timestamp,
    ) -> Event {
        let name = directory.path_of_node(node).map(|path| path.to_string()).unwrap_or_default();
        let actor = Actor::Node { name: name.clone(), key: node.host_key.fingerprint() };
        let event = Event { source: node.address.to_string(), ..Event::new(now, actor, action, name) };
        match decided {
            Ok(permit) => Event { detail: permit.to_string(), ..event },
            Err(denial) => refused(event, denial),
        }
    }
}

/// The tokens of clusters with which a machine can still join, those that end first first.
pub(super) fn tokens_that_work<'d>(
    directory: &Directory,
    clusters: impl Iterator<Item = &'d Arc<Cluster>>,
    now: Timestamp,
) -> Vec<TokenView> {
    let tokens = clusters.flat_map(|cluster| directory.tokens_of(cluster.id));
    let mut tokens: Vec<TokenView> = tokens
        .filter_map(|token| {
            let cluster = works(directory, token, now).ok()?;
            Some(TokenView {
                node: format!("{}.{cluster}", token.node),
                role: token.role.to_string(),
                address: token.address,
                port: token.port,
                by: token.by.to_string(),
                expires: token.expires,
            })
        })
        .collect();
    tokens.sort_by(|a, b| (a.expires, &a.node).cmp(&(b.expires, &b.node)));
    tokens
}

pub(super) fn cluster_of(node: &NodePath) -> ClusterPath {
    node.cluster_path()
}

pub(super) fn node_named<'d>(directory: &'d Directory, path: &NodePath) -> Result<&'d Arc<Node>, Denial> {
    directory.node_at(path).ok_or_else(|| Denial::not_found("node", path, format!("no node {path}")))
}

/// The node, if it is one still, and with that key.
pub(super) fn current<'d>(directory: &'d Directory, identity: &NodeIdentity) -> Option<&'d Arc<Node>> {
    directory.node(identity.node).filter(|node| node.host_key.fingerprint() == identity.key)
}

/// Whether somebody who comes with this key is an admin of the project.
fn administers(directory: &Directory, account: AccountId, key: &Fingerprint, project: ProjectId) -> bool {
    let active = directory.account(account).is_some_and(|account| account.state == AccountState::Active);
    let theirs = directory.key(key).is_some_and(|entry| entry.account == account);
    let admin = directory.membership(project, account).is_some_and(|membership| membership.role == Role::Admin);
    active && theirs && admin
}

/// Whether a token can be used, and for a node of which cluster; or why not.
fn works(directory: &Directory, token: &JoinToken, now: Timestamp) -> Result<ClusterPath, String> {
    if let Some(used) = token.used {
        return Err(format!("the token was used, or taken back, at {used}"));
    }
    if now >= token.expires {
        return Err(format!("the token expired at {}", token.expires));
    }
    let cluster = directory.cluster(token.cluster).ok_or("the token's cluster was deleted")?;
    let path = directory.path_of_cluster(cluster).ok_or("the token's cluster has no path")?;
    // What somebody has asked for while they could must not outlive that: it puts a machine where people log in.
    match &token.by {
        Actor::Account { id, email, key, .. } if !administers(directory, *id, key, cluster.project) => {
            Err(format!("{email}, who asked for the token with the key {key}, could not ask for it any more"))
        }
        _ => Ok(path),
    }
}

fn decide_join(
    directory: &Directory,
    request: &JoinRequest,
    networks: &NodeNetworks,
    now: Timestamp,
) -> Result<(TokenHash, Node), Denial> {
    // One answer for every way in which a token can be wrong: whoever tries tokens learns nothing from it.
    let refusal = |reason, why: String| {
        Denial::told(
            reason,
            why,
            "the token is not valid: it may have been used or have expired, or be for another node; ask for a new one \
             (node token)",
        )
    };
    let unknown = || refusal(Reason::UnknownToken, "an unknown token".into());
    let refuse = |why: String| refusal(Reason::Token, why);
    let secret = URL_SAFE_NO_PAD.decode(&request.secret).map_err(|_| unknown())?;
    let hash = TokenHash::of(&secret);
    let token = directory.token(&hash).ok_or_else(unknown)?;
    let path = works(directory, token, now).map_err(refuse)?;
    let meant = NodePath { node: token.node.clone(), cluster: path.cluster, org: path.org };
    if meant != request.node {
        return Err(refuse(format!("the token is for {meant}, it was used for {}", request.node)));
    }
    let fingerprint = request.host_key.fingerprint();
    // Whoever could mint a token could otherwise put another machine in the place of one that people trust.
    if directory.node_at(&meant).is_some_and(|live| live.host_key != request.host_key) {
        let text =
            format!("there is a node {meant} already, with another host key; remove it first: node remove {meant}");
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let taken = "this host key is registered already; every machine needs a host key of its own (ssh-keygen -A after \
                 removing the copied ones)";
    if let Some(other) = directory
        .node_with_key(&fingerprint)
        .filter(|other| directory.node_at(&meant).is_none_or(|same_name| same_name.id != other.id))
    {
        return Err(Denial::told(
            Reason::Conflict,
            format!("{fingerprint} is the host key of node {}", other.id),
            taken,
        ));
    }
    if directory.key(&fingerprint).is_some() {
        return Err(Denial::told(Reason::Conflict, format!("{fingerprint} is an account's key"), taken));
    }
    let address = token.address.unwrap_or(request.peer);
    networks.check(address)?;
    let node = Node {
        id: NodeId(directory.counters().id),
        cluster: token.cluster,
        name: token.node.clone(),
        role: token.role,
        address,
        port: token.port,
        host_key: request.host_key.clone(),
        enrolled: now,
    };
    Ok((hash, node))
}

/// `HOST:PORT`, with brackets around an IPv6 address.
fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
