//! What can be typed: as words, and what it does to the model.
//!
//! A new command is a variant of [`Command`], its words, and an arm of [`Model::run`].

use super::world::{
    Caller, Certificate, LONGEST_CERTIFICATE, Member, Model, Narrow, OPERATOR, Person, Reason, Token, cluster_of,
};
use crate::authority_support::key;
use std::collections::BTreeSet;

/// Texts that are no argument of any command.
pub const BAD: &[&str] = &["", "Bad_Name", "a,b", "a b", "-x", "é", "a\u{1b}[2J", "a\nb", "'", "../x"];

/// The words of each [`Command`].
pub const EVERY: [&str; 20] = [
    "org create",
    "user create",
    "user suspend",
    "user resume",
    "key add",
    "key remove",
    "project create",
    "project delete",
    "member add",
    "member remove",
    "member role",
    "cluster create",
    "cluster delete",
    "volume create",
    "volume delete",
    "node token",
    "node remove",
    "cert",
    "certificate revoke",
    "session end",
];

#[derive(Clone, Debug)]
pub enum Command {
    OrgCreate { org: String },
    UserCreate { email: String, org: String, user: String, keys: Vec<u8> },
    UserSuspend { email: String },
    UserResume { email: String },
    KeyAdd { account: Option<String>, key: u8 },
    KeyRemove { account: Option<String>, key: u8 },
    ProjectCreate { project: String, admin: Option<String> },
    ProjectDelete { project: String },
    MemberAdd { project: String, email: String, role: String },
    MemberRemove { project: String, email: String, force: bool },
    MemberRole { project: String, email: String, role: String, force: bool },
    ClusterCreate { project: String, name: String },
    ClusterDelete { cluster: String },
    VolumeCreate { project: String, name: String },
    VolumeDelete { project: String, name: String },
    NodeToken { node: String, role: String },
    NodeRemove { node: String },
    Cert { project: Option<String>, cluster: Option<String>, key: Option<u8>, ttl: Option<u64> },
    CertificateRevoke { number: usize },
    SessionEnd { number: usize },
}

/// What a command that was done has to show.
#[derive(Clone, Debug, PartialEq)]
pub enum Done {
    /// The directory is another one.
    Changed,
    /// The directory is the same.
    Nothing,
    /// And a token was given.
    Token,
    /// A certificate for this was given.
    Certificate(BTreeSet<String>),
}

impl Command {
    /// As it is typed. `revoke` and `end` count from the first that there ever was.
    pub fn words(&self) -> Vec<String> {
        let fingerprint = |number: &u8| key(*number).fingerprint().to_string();
        let mut words: Vec<String> = Vec::new();
        let mut say = |fixed: &str, given: &[&str]| {
            words.extend(fixed.split_whitespace().map(str::to_owned));
            words.extend(given.iter().map(|&word| word.to_owned()));
        };
        match self {
            Self::OrgCreate { org } => say("org create", &[org]),
            Self::UserCreate { email, org, user, keys } => {
                say("user create", &[email, "--org", org, "--name", user]);
                keys.iter().for_each(|number| say("--key", &[&key(*number).to_string()]));
            }
            Self::UserSuspend { email } => say("user suspend", &[email]),
            Self::UserResume { email } => say("user resume", &[email]),
            Self::KeyAdd { account, .. } => {
                say("key add", &[]);
                account.iter().for_each(|email| say("--account", &[email]));
            }
            Self::KeyRemove { account, key } => {
                say("key remove --yes", &[&fingerprint(key)]);
                account.iter().for_each(|email| say("--account", &[email]));
            }
            Self::ProjectCreate { project, admin } => {
                say("project create", &[project]);
                admin.iter().for_each(|email| say("--admin", &[email]));
            }
            Self::ProjectDelete { project } => say("project delete --yes", &[project]),
            Self::MemberAdd { project, email, role } => say("member add", &[project, email, "--role", role]),
            Self::MemberRemove { project, email, force } => {
                say("member remove --yes", &[project, email]);
                if *force {
                    say("--force", &[])
                }
            }
            Self::MemberRole { project, email, role, force } => {
                say("member role", &[project, email, role]);
                if *force {
                    say("--force", &[])
                }
            }
            Self::ClusterCreate { project, name } => say("cluster create", &[project, name]),
            Self::ClusterDelete { cluster } => say("cluster delete --yes", &[cluster]),
            Self::VolumeCreate { project, name } => say("volume create --size 1T", &[project, name]),
            Self::VolumeDelete { project, name } => say("volume delete --yes", &[project, name]),
            Self::NodeToken { node, role } => say("node token", &[node, "--role", role]),
            Self::NodeRemove { node } => say("node remove --yes", &[node]),
            Self::Cert { project, cluster, key, ttl } => {
                say("cert", &[]);
                project.iter().for_each(|project| say("--project", &[project]));
                cluster.iter().for_each(|cluster| say("--cluster", &[cluster]));
                key.iter().for_each(|number| say("--key", &[&fingerprint(number)]));
                ttl.iter().for_each(|seconds| say("--ttl", &[&format!("{seconds}s")]));
            }
            Self::CertificateRevoke { number } => say("certificate revoke", &[&(number + 1).to_string()]),
            Self::SessionEnd { number } => say("session end", &[&format!("{number:032x}")]),
        }
        words
    }

    /// Which of [`EVERY`] it is.
    pub fn name(&self) -> String {
        let words = self.words();
        let begins = |line: &&&str| line.split(' ').eq(words.iter().take(line.split(' ').count()));
        EVERY.iter().find(begins).unwrap_or_else(|| panic!("{words:?} is missing in EVERY")).to_string()
    }

    /// What it reads.
    pub fn input(&self) -> Option<String> {
        match self {
            Self::KeyAdd { key: number, .. } => Some(key(*number).to_string()),
            _ => None,
        }
    }

    fn is_usage(&self) -> bool {
        let both = matches!(self, Self::Cert { project: Some(_), cluster: Some(_), .. });
        both || self.words().iter().any(|word| BAD.contains(&word.as_str()))
    }
}

impl Model {
    /// Runs a command; what it says no to changes nothing.
    pub fn run(&mut self, caller: Caller<'_>, command: &Command) -> Result<Done, Reason> {
        if command.is_usage() {
            return Err("usage");
        }
        match command {
            Command::OrgCreate { org } => {
                self.is_operator(caller)?;
                if !self.orgs.insert(org.clone()) {
                    return Err("conflict");
                }
            }
            Command::UserCreate { email, org, user, keys } => {
                self.is_operator(caller)?;
                if !self.orgs.contains(org) {
                    return Err("not-found");
                }
                // The name is the beginning of the email here, so that it is taken with it.
                assert!(email.starts_with(user));
                if self.people.contains_key(email) {
                    return Err("conflict");
                }
                keys.iter().try_for_each(|key| self.fresh_key(*key))?;
                self.people.insert(email.clone(), Person { org: org.clone(), suspended: false });
                self.keys.extend(keys.iter().map(|key| (*key, email.clone())));
            }
            Command::UserSuspend { email } => self.suspend(caller, email, true)?,
            Command::UserResume { email } => self.suspend(caller, email, false)?,
            Command::KeyAdd { account, key } => {
                self.may_change(caller)?;
                let owner = self.owner(caller, account.as_deref())?;
                self.fresh_key(*key)?;
                self.keys.insert(*key, owner);
            }
            Command::KeyRemove { account, key } => {
                self.may_change(caller)?;
                let owner = self.owner(caller, account.as_deref())?;
                if self.keys.get(key) != Some(&owner) {
                    return Err("not-found");
                }
                self.remove_key(*key);
            }
            Command::ProjectCreate { project, admin } => self.create_project(caller, project, admin.as_deref())?,
            Command::ProjectDelete { project } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                self.delete_project(project);
            }
            Command::MemberAdd { project, email, role } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                self.has_key(email)?;
                if self.projects[project].contains_key(email) {
                    return Err("conflict");
                }
                let member = Member { admin: role == "admin", by: name(caller) };
                self.add_member(project, email, member);
            }
            Command::MemberRemove { project, email, force } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                if *force {
                    self.is_operator(caller)?;
                }
                if !self.projects[project].contains_key(email) {
                    return Err("not-found");
                }
                if self.last_admin(project, email) && !*force {
                    return Err("conflict");
                }
                self.remove_member(project, email);
            }
            Command::MemberRole { project, email, role, force } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                if *force {
                    self.is_operator(caller)?;
                }
                let admin = role == "admin";
                let is_last = self.last_admin(project, email);
                let member =
                    self.projects.get_mut(project).and_then(|members| members.get_mut(email)).ok_or("not-found")?;
                if member.admin == admin || (is_last && !*force) {
                    return Err("conflict");
                }
                member.admin = admin;
            }
            Command::ClusterCreate { project, name } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                let cluster = format!("{name}.{}", org_of(project));
                self.use_name(&cluster)?;
                self.clusters.insert(cluster, project.clone());
            }
            Command::ClusterDelete { cluster } => {
                self.may_change(caller)?;
                self.is_admin(caller, &self.project_of(caller, cluster)?)?;
                self.delete_cluster(cluster);
            }
            Command::VolumeCreate { project, name } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                if !self.volumes.insert((project.clone(), name.clone())) {
                    return Err("conflict");
                }
            }
            Command::VolumeDelete { project, name } => {
                self.may_change(caller)?;
                self.is_admin(caller, project)?;
                if !self.volumes.remove(&(project.clone(), name.clone())) {
                    return Err("not-found");
                }
            }
            Command::NodeToken { node, role } => {
                self.may_change(caller)?;
                self.is_admin(caller, &self.project_of(caller, cluster_of(node))?)?;
                let expires = self.now + 3600;
                self.tokens.push(Token {
                    node: node.clone(),
                    login: role == "login",
                    expires,
                    used: false,
                    by: caller.map(|connection| (connection.email.clone(), connection.key)),
                });
                return Ok(Done::Token);
            }
            Command::NodeRemove { node } => {
                self.may_change(caller)?;
                self.is_admin(caller, &self.project_of(caller, cluster_of(node))?)?;
                self.nodes.remove(node).ok_or("not-found")?;
            }
            Command::Cert { project, cluster, key, ttl } => {
                let narrow = match (project, cluster) {
                    (Some(project), _) => Narrow::Project(project),
                    (None, Some(cluster)) => Narrow::Cluster(cluster),
                    (None, None) => Narrow::No,
                };
                return self.issue(caller, narrow, *key, ttl.unwrap_or(300)).map(Done::Certificate);
            }
            Command::CertificateRevoke { number } => {
                self.may_change(caller)?;
                let now = self.now;
                let certificate = self.certificates.get_mut(*number).ok_or("not-found")?;
                if certificate.ends <= now || caller.is_some_and(|c| c.email != certificate.email) {
                    return Err("not-found");
                }
                if certificate.revoked {
                    return Err("conflict");
                }
                certificate.revoked = true;
            }
            Command::SessionEnd { number } => {
                self.may_change(caller)?;
                let session = self.sessions.get(number).ok_or("not-found")?;
                if caller.is_some_and(|c| c.email != session.connection.email) {
                    return Err("not-found");
                }
                self.sessions.remove(number);
                return Ok(Done::Nothing);
            }
        }
        Ok(Done::Changed)
    }

    fn suspend(&mut self, caller: Caller<'_>, email: &str, suspended: bool) -> Result<(), Reason> {
        self.is_operator(caller)?;
        let person = self.people.get_mut(email).ok_or("no-account")?;
        if person.suspended == suspended {
            return Err("conflict");
        }
        person.suspended = suspended;
        Ok(())
    }

    fn create_project(&mut self, caller: Caller<'_>, project: &str, admin: Option<&str>) -> Result<(), Reason> {
        self.may_change(caller)?;
        let org = org_of(project);
        let admin = match (caller, admin) {
            (Some(_), Some(_)) => return Err("operators-only"),
            _ if !self.orgs.contains(org) => return Err("not-found"),
            (None, None) => return Err("invalid"),
            (None, Some(email)) => {
                self.has_key(email)?;
                email.to_owned()
            }
            (Some(c), None) if self.people[&c.email].org != org => return Err("not-found"),
            (Some(c), None) => c.email.clone(),
        };
        self.use_name(project)?;
        self.projects.insert(project.to_owned(), [(admin, Member { admin: true, by: name(caller) })].into());
        Ok(())
    }

    fn add_member(&mut self, project: &str, email: &str, member: Member) {
        self.projects.get_mut(project).unwrap().insert(email.to_owned(), member);
        self.removals.remove(&(email.to_owned(), project.to_owned()));
    }

    fn use_name(&mut self, name: &str) -> Result<(), Reason> {
        if self.used.iter().any(|used| used == name) {
            return Err("conflict");
        }
        self.used.push(name.to_owned());
        Ok(())
    }

    fn issue(
        &mut self,
        caller: Caller<'_>,
        narrow: Narrow<'_>,
        key: Option<u8>,
        ttl: u64,
    ) -> Result<BTreeSet<String>, Reason> {
        self.known(caller)?;
        let connection = caller.ok_or("invalid")?;
        let key = key.unwrap_or(connection.key);
        if self.keys.get(&key) != Some(&connection.email) {
            return Err("foreign-key");
        }
        if ttl > LONGEST_CERTIFICATE {
            return Err("invalid");
        }
        let scopes = self.scopes(connection, narrow)?;
        let (email, ends) = (connection.email.clone(), self.now + ttl);
        self.certificates.push(Certificate { email, key, scopes: scopes.clone(), ends, revoked: false });
        Ok(scopes)
    }
}

fn org_of(project: &str) -> &str {
    project.split_once('/').unwrap().0
}

fn name(caller: Caller<'_>) -> String {
    caller.map_or(OPERATOR.to_owned(), |c| c.email.clone())
}
