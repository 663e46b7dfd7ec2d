//! The model: what certgate should do, in the simplest words there are. Names are texts, everything is looked for from one
//! end to the other, and no code is shared with certgate itself.

use std::collections::{BTreeMap, BTreeSet};

/// Why not: the words of `--json`.
pub type Reason = &'static str;

const MONTH: u64 = 31 * 86_400;
pub const LONGEST_CERTIFICATE: u64 = 3600;

pub const OPERATOR: &str = "an operator";

/// An account.
#[derive(Clone, Debug)]
pub struct Person {
    pub org: String,
    pub suspended: bool,
}

/// A connection as it was authenticated.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    pub email: String,
    pub key: u8,
    /// By its place in [`Model::certificates`].
    pub certificate: Option<usize>,
}

/// Who asks: nobody's connection is the operator's.
pub type Caller<'a> = Option<&'a Connection>;

#[derive(Clone, Debug)]
pub struct Member {
    pub admin: bool,
    pub by: String,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub node: String,
    pub login: bool,
    pub expires: u64,
    pub used: bool,
    /// Who asked for it with which key, if not an operator.
    pub by: Option<(String, u8)>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub key: u8,
    pub login: bool,
    /// Which of all nodes ever it is.
    pub number: usize,
}

#[derive(Clone, Debug)]
pub struct Certificate {
    pub email: String,
    pub key: u8,
    /// `ORG/PROJECT`, or `ORG/PROJECT/CLUSTER`.
    pub scopes: BTreeSet<String>,
    pub ends: u64,
    pub revoked: bool,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub connection: Connection,
    pub node: String,
    pub number: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub now: u64,
    pub orgs: BTreeSet<String>,
    pub people: BTreeMap<String, Person>,
    /// Whose each key is.
    pub keys: BTreeMap<u8, String>,
    /// Until when a removed key cannot come back.
    pub banned: BTreeMap<u8, u64>,
    /// Who is in each project that there is.
    pub projects: BTreeMap<String, BTreeMap<String, Member>>,
    /// When somebody was removed from a project.
    pub removals: BTreeMap<(String, String), u64>,
    /// The project of each cluster.
    pub clusters: BTreeMap<String, String>,
    /// The project of each that was deleted, and when it was.
    pub gone_clusters: BTreeMap<String, (String, u64)>,
    /// Projects and clusters that are or were, the oldest first.
    pub used: Vec<String>,
    /// The project and the name of each volume.
    pub volumes: BTreeSet<(String, String)>,
    pub tokens: Vec<Token>,
    pub nodes: BTreeMap<String, Node>,
    pub nodes_ever: usize,
    /// Keys that a node has or had: they are nobody's.
    pub host_keys: BTreeSet<u8>,
    pub certificates: Vec<Certificate>,
    pub sessions: BTreeMap<usize, Session>,
}

/// `CLUSTER.ORG` of `NODE.CLUSTER.ORG`.
pub fn cluster_of(node: &str) -> &str {
    node.split_once('.').unwrap().1
}

/// Looking.
impl Model {
    /// Whether a connection is still somebody's.
    pub fn known(&self, caller: Caller<'_>) -> Result<(), Reason> {
        let Some(Connection { email, key, certificate }) = caller else { return Ok(()) };
        match self.keys.get(key) {
            None => return Err("unknown-key"),
            Some(owner) if owner != email => return Err("foreign-key"),
            Some(_) => {}
        }
        if self.people[email].suspended {
            return Err("suspended");
        }
        match certificate.map(|number| &self.certificates[number]) {
            Some(certificate) if certificate.revoked => Err("certificate-revoked"),
            Some(certificate) if self.now >= certificate.ends => Err("certificate-validity"),
            _ => Ok(()),
        }
    }

    pub fn is_operator(&self, caller: Caller<'_>) -> Result<(), Reason> {
        self.known(caller)?;
        if caller.is_some() { Err("operators-only") } else { Ok(()) }
    }

    /// Who came with a certificate changes nothing.
    pub fn may_change(&self, caller: Caller<'_>) -> Result<(), Reason> {
        self.known(caller)?;
        if caller.is_some_and(|c| c.certificate.is_some()) { Err("out-of-scope") } else { Ok(()) }
    }

    /// Why somebody who is not in a project is not.
    fn stranger(&self, email: &str, project: &str) -> Reason {
        match self.removals.get(&(email.to_owned(), project.to_owned())) {
            Some(at) if self.now - at < MONTH => "removed",
            _ => "not-found",
        }
    }

    pub fn in_project(&self, caller: Caller<'_>, project: &str) -> Result<(), Reason> {
        let members = self.projects.get(project);
        match caller {
            None => members.map(|_| ()).ok_or("not-found"),
            Some(c) if members.is_some_and(|members| members.contains_key(&c.email)) => Ok(()),
            Some(c) => Err(self.stranger(&c.email, project)),
        }
    }

    pub fn is_admin(&self, caller: Caller<'_>, project: &str) -> Result<(), Reason> {
        self.in_project(caller, project)?;
        match caller {
            Some(c) if !self.projects[project][&c.email].admin => Err("not-admin"),
            _ => Ok(()),
        }
    }

    /// The project of a cluster. Who was in the project of one that is gone is told so, for a month.
    pub fn project_of(&self, caller: Caller<'_>, cluster: &str) -> Result<String, Reason> {
        if let Some(project) = self.clusters.get(cluster) {
            return Ok(project.clone());
        }
        let (Some(c), Some((project, at))) = (caller, self.gone_clusters.get(cluster)) else {
            return Err("not-found");
        };
        let known = self.now - at < MONTH;
        Err(match self.in_project(caller, project) {
            Ok(()) if known => "removed",
            Ok(()) => "not-found",
            Err(_) => self.stranger(&c.email, project),
        })
    }

    /// The projects that somebody sees.
    pub fn visible(&self, caller: Caller<'_>) -> Vec<&String> {
        let sees = |project: &&String| caller.is_none_or(|c| self.projects[*project].contains_key(&c.email));
        self.projects.keys().filter(sees).collect()
    }

    pub fn last_admin(&self, project: &str, email: &str) -> bool {
        let members = &self.projects[project];
        let acts = |email: &str| !self.people[email].suspended && self.keys.values().any(|owner| owner == email);
        let other = members.iter().any(|(other, member)| other != email && member.admin && acts(other));
        !other && members.get(email).is_some_and(|member| member.admin)
    }

    /// Whether a certificate, if a connection came with one, is for this cluster.
    fn in_scope(&self, connection: &Connection, project: &str, cluster: &str) -> bool {
        let Some(number) = connection.certificate else { return true };
        let scopes = &self.certificates[number].scopes;
        let name = cluster.split_once('.').unwrap().0;
        scopes.contains(project) || scopes.contains(&format!("{project}/{name}"))
    }

    /// Whether a connection may open a node, or a login node of a cluster; the node's name.
    pub fn opens(&self, connection: &Connection, target: &str) -> Result<String, Reason> {
        self.known(Some(connection))?;
        let whole_cluster = target.matches('.').count() == 1;
        let cluster = if whole_cluster { target } else { cluster_of(target) };
        let project = self.project_of(Some(connection), cluster)?;
        self.in_project(Some(connection), &project)?;
        let node = if whole_cluster {
            self.login_node(connection, cluster).ok_or("no-node")?
        } else {
            self.nodes.contains_key(target).then(|| target.to_owned()).ok_or("not-found")?
        };
        if self.in_scope(connection, &project, cluster) { Ok(node) } else { Err("out-of-scope") }
    }

    /// One that they are on already, otherwise the least used; the oldest of those.
    fn login_node(&self, connection: &Connection, cluster: &str) -> Option<String> {
        let on = |node: &str| self.sessions.values().filter(|session| session.node == node).count();
        let is_on = |node: &str| {
            self.sessions.values().any(|session| session.node == node && session.connection.email == connection.email)
        };
        let login = self.nodes.iter().filter(|(name, node)| cluster_of(name) == cluster && node.login);
        login.min_by_key(|(name, node)| (!is_on(name), on(name), node.number)).map(|(name, _)| name.clone())
    }

    /// What has become of a certificate that has not run out.
    pub fn standing(&self, certificate: &Certificate) -> &'static str {
        let email = &certificate.email;
        let is_in = |project: &str| self.projects.get(project).is_some_and(|members| members.contains_key(email));
        // ORG/PROJECT, or ORG/PROJECT/CLUSTER.
        let still = |scope: &String| is_in(&scope.split('/').take(2).collect::<Vec<_>>().join("/"));
        let works = self.keys.get(&certificate.key) == Some(email) && !self.people[email].suspended;
        match certificate.revoked {
            true => "revoked",
            false if works && certificate.scopes.iter().any(still) => "live",
            false => "refused",
        }
    }

    /// Whether somebody would get into a node with the best of their keys.
    pub fn reaches(&self, email: &str, node: &str) -> bool {
        let keys = self.keys.iter().filter(|(_, owner)| *owner == email).map(|(key, _)| *key);
        keys.map(|key| Connection { email: email.to_owned(), key, certificate: None })
            .any(|connection| self.opens(&connection, node).is_ok())
    }
}

/// Changing.
impl Model {
    /// Sessions end with what they rest on: all but the certificate's lifetime.
    pub fn end_sessions(&mut self) {
        let holds = |session: &Session| {
            let c = &session.connection;
            let revoked = c.certificate.is_some_and(|number| self.certificates[number].revoked);
            let by_key = Connection { certificate: None, ..c.clone() };
            let same = self.nodes.get(&session.node).is_some_and(|node| node.number == session.number);
            !revoked && same && self.opens(&by_key, &session.node).is_ok()
        };
        let over: Vec<usize> = self.sessions.iter().filter(|(_, s)| !holds(s)).map(|(number, _)| *number).collect();
        for number in over {
            self.sessions.remove(&number);
        }
    }

    /// Whether a key can be registered.
    pub fn fresh_key(&self, key: u8) -> Result<(), Reason> {
        let banned = self.banned.get(&key).is_some_and(|until| *until > self.now);
        let taken = self.keys.contains_key(&key) || self.host_keys.contains(&key);
        if taken || banned { Err("conflict") } else { Ok(()) }
    }

    /// Whose keys a command is about.
    pub fn owner(&self, caller: Caller<'_>, account: Option<&str>) -> Result<String, Reason> {
        match (caller, account) {
            (None, None) => Err("invalid"),
            (None, Some(email)) if self.people.contains_key(email) => Ok(email.to_owned()),
            (None, Some(_)) => Err("no-account"),
            (Some(c), Some(email)) if email != c.email => Err("operators-only"),
            (Some(c), _) => Ok(c.email.clone()),
        }
    }

    pub fn remove_key(&mut self, key: u8) {
        self.keys.remove(&key);
        let alive = self.certificates.iter().filter(|c| c.key == key).map(|c| c.ends).max().unwrap_or(0);
        self.banned.insert(key, alive.max(self.now + LONGEST_CERTIFICATE));
    }

    /// Somebody who can be added to a project.
    pub fn has_key(&self, email: &str) -> Result<(), Reason> {
        if !self.people.contains_key(email) {
            return Err("no-account");
        }
        if self.keys.values().any(|owner| owner == email) { Ok(()) } else { Err("invalid") }
    }

    pub fn delete_cluster(&mut self, cluster: &str) {
        let project = self.clusters.remove(cluster).unwrap();
        self.gone_clusters.insert(cluster.to_owned(), (project, self.now));
        self.nodes.retain(|node, _| cluster_of(node) != cluster);
    }

    pub fn delete_project(&mut self, project: &str) {
        for email in self.projects.remove(project).unwrap().into_keys() {
            self.removals.insert((email, project.to_owned()), self.now);
        }
        let clusters: Vec<String> =
            self.clusters.iter().filter(|(_, of)| *of == project).map(|(cluster, _)| cluster.clone()).collect();
        for cluster in clusters {
            self.delete_cluster(&cluster);
        }
        self.volumes.retain(|(of, _)| of != project);
    }

    pub fn remove_member(&mut self, project: &str, email: &str) {
        self.projects.get_mut(project).unwrap().remove(email);
        self.removals.insert((email.to_owned(), project.to_owned()), self.now);
    }

    /// What a certificate for a connection says.
    pub fn scopes(&self, connection: &Connection, narrow: Narrow<'_>) -> Result<BTreeSet<String>, Reason> {
        let wanted: BTreeSet<String> = match narrow {
            Narrow::No => self.visible(Some(connection)).into_iter().cloned().collect(),
            Narrow::Project(project) => {
                self.in_project(Some(connection), project)?;
                [project.to_owned()].into()
            }
            Narrow::Cluster(cluster) => {
                let project = self.project_of(Some(connection), cluster)?;
                self.in_project(Some(connection), &project)?;
                [format!("{project}/{}", cluster.split_once('.').unwrap().0)].into()
            }
        };
        if wanted.is_empty() {
            return Err(self.in_none(&connection.email));
        }
        let Some(number) = connection.certificate else { return Ok(wanted) };
        let held = &self.certificates[number].scopes;
        let covered = |scope: &String| held.iter().any(|held| scope == held || scope.starts_with(&format!("{held}/")));
        let granted: BTreeSet<String> = wanted.into_iter().filter(covered).collect();
        if granted.is_empty() { Err("out-of-scope") } else { Ok(granted) }
    }

    /// Who is in no project is told of the last one that they were removed from.
    fn in_none(&self, email: &str) -> Reason {
        let theirs = self.removals.iter().filter(|((who, _), _)| who == email);
        // Of those at the same time, the youngest project.
        let age = |project| self.used.iter().position(|used| used == project);
        let last = theirs.max_by_key(|((_, project), at)| (**at, age(project)));
        match last {
            Some(((_, project), _)) => self.stranger(email, project),
            _ => "not-found",
        }
    }
}

/// What a certificate is asked to be for.
#[derive(Clone, Copy, Debug)]
pub enum Narrow<'a> {
    No,
    Project(&'a str),
    Cluster(&'a str),
}
