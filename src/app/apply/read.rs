//! What a file says, checked as far as that goes without a directory: every name and number is one, and nothing is said
//! twice.

use super::{
    fields::{At, Fields, List, Said, Source},
    problems::Problems,
};
use crate::domain::{
    AccountState, ClusterKind, ClusterName, Email, Extension, Fingerprint, ForceCommand, Grace, MAX_WANTED, MountPath,
    Networks, NodeCounts, OrgName, ProjectPath, PublicKey, Role, ServiceName, Size, Ttl, Uid, UserName, VolumeName,
};
use std::{collections::BTreeMap, str::FromStr};

/// The format that this is. A file may say it; another one is refused.
pub(super) const FORMAT: u32 = 1;

/// What a file describes, with the lines where it does.
#[derive(Debug, Default)]
pub struct Described {
    pub(super) orgs: Vec<At<OrgName>>,
    pub(super) accounts: Vec<DescribedAccount>,
    pub(super) projects: Vec<DescribedProject>,
    /// What is wrong with it. Whoever looks at the directory finds more, and then all of it is told.
    pub(super) problems: Problems,
}

/// An account. What is missing stays as it is.
#[derive(Debug)]
pub(super) struct DescribedAccount {
    pub(super) line: usize,
    pub(super) email: At<Email>,
    pub(super) org: Said<OrgName>,
    pub(super) user: Said<UserName>,
    pub(super) uid: Said<Uid>,
    pub(super) state: Said<AccountState>,
    pub(super) keys: Said<List<At<PublicKey>>>,
}

/// A project. What is missing stays as it is.
#[derive(Debug)]
pub(super) struct DescribedProject {
    pub(super) line: usize,
    pub(super) path: At<ProjectPath>,
    pub(super) gid: Said<Uid>,
    pub(super) admins_gid: Said<Uid>,
    pub(super) max_ttl: Said<MaxTtl<Ttl>>,
    pub(super) max_session: Said<MaxTtl<Ttl>>,
    pub(super) grace: Said<MaxTtl<Grace>>,
    /// All of them, if given.
    pub(super) forbidden: Said<List<At<Extension>>>,
    /// All of them, if given.
    pub(super) members: Said<List<(At<Email>, At<Role>)>>,
    pub(super) services: Vec<DescribedService>,
    pub(super) clusters: Vec<DescribedCluster>,
    pub(super) volumes: Vec<DescribedVolume>,
}

/// A service account of a project. What is missing stays as it is.
#[derive(Debug)]
pub(super) struct DescribedService {
    pub(super) line: usize,
    pub(super) name: At<ServiceName>,
    pub(super) user: Said<UserName>,
    pub(super) uid: Said<Uid>,
    pub(super) state: Said<AccountState>,
    pub(super) sources: Said<List<At<Networks>>>,
    pub(super) command: Said<Command>,
    pub(super) max_ttl: Said<Ttl>,
    pub(super) keys: Said<List<At<PublicKey>>>,
}

/// A cap; none if it is empty, so that it can be said that there is none.
#[derive(Debug)]
pub(super) struct MaxTtl<T>(pub(super) Option<T>);

impl<T: FromStr> FromStr for MaxTtl<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|length| Self(Some(length))) }
    }
}

/// A forced command; none if it is empty, so that it can be said that there is none.
#[derive(Debug)]
pub(super) struct Command(pub(super) Option<ForceCommand>);

impl FromStr for Command {
    type Err = <ForceCommand as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|command| Self(Some(command))) }
    }
}

/// A cluster. What is missing stays as it is.
#[derive(Debug)]
pub(super) struct DescribedCluster {
    pub(super) line: usize,
    pub(super) name: At<ClusterName>,
    pub(super) kind: Said<ClusterKind>,
    pub(super) nodes: Said<NodeCounts>,
    pub(super) configuration: Said<String>,
}

/// A volume. What is missing stays as it is.
#[derive(Debug)]
pub(super) struct DescribedVolume {
    pub(super) line: usize,
    pub(super) name: At<VolumeName>,
    pub(super) size: Said<Size>,
    pub(super) mount: Said<MountPath>,
}

impl Described {
    /// Reads a file.
    ///
    /// # Errors
    /// It is no TOML. What else is wrong is told together with what a directory says to it: by [`super::plan`].
    pub fn read(text: &str) -> Result<Self, Problems> {
        let (mut source, table) = Source::parse(text)?;
        let mut described = Self::default();
        let mut file = Fields::of_file(&table);
        let format = file.number(&mut source, "format");
        if let Some(format) = format.get().filter(|format| format.value != FORMAT) {
            source.problems.add(format.line, format!("this certgate reads format {FORMAT}"));
        }
        for mut fields in file.tables(&mut source, "organizations", "an organization") {
            let name = fields.parsed(&mut source, "name");
            described.orgs.extend(fields.needed(&mut source, "name", name));
            fields.done(&mut source);
        }
        for fields in file.tables(&mut source, "accounts", "an account") {
            described.accounts.extend(account(fields, &mut source));
        }
        for fields in file.tables(&mut source, "projects", "a project") {
            described.projects.extend(project(fields, &mut source));
        }
        file.done(&mut source);
        described.nothing_twice(&mut source.problems);
        described.problems = source.problems;
        Ok(described)
    }

    /// The user numbers that it gives to somebody.
    pub(super) fn uids(&self) -> impl Iterator<Item = Uid> {
        let services = self.projects.iter().flat_map(|project| &project.services).map(|service| &service.uid);
        self.accounts.iter().map(|account| &account.uid).chain(services).filter_map(Said::get).map(|uid| uid.value)
    }

    /// The group numbers that it gives to a project.
    pub(super) fn gids(&self) -> impl Iterator<Item = Uid> {
        let gids = self.projects.iter().flat_map(|project| [&project.gid, &project.admins_gid]);
        gids.filter_map(Said::get).map(|gid| gid.value)
    }

    /// Whatever can be said once is said once.
    fn nothing_twice(&self, problems: &mut Problems) {
        let mut orgs = Once::default();
        for org in &self.orgs {
            orgs.see(problems, &org.value, org.line, || format!("the organization {}", org.value));
        }
        let mut emails = Once::default();
        for DescribedAccount { email, .. } in &self.accounts {
            emails.see(problems, &email.value, email.line, || format!("the account {}", email.value));
        }
        let (mut users, mut uids) = (Once::default(), Once::default());
        let services = self.projects.iter().flat_map(|project| &project.services);
        let names = self.accounts.iter().map(|account| (&account.user, &account.uid));
        for (user, uid) in names.chain(services.map(|service| (&service.user, &service.uid))) {
            if let Some(user) = user.get() {
                users.see(problems, &user.value, user.line, || format!("the user name {}", user.value));
            }
            if let Some(uid) = uid.get() {
                uids.see(problems, &uid.value, uid.line, || format!("the user number {}", uid.value));
            }
        }
        self.no_key_twice(problems);
        let (mut paths, mut gids, mut clusters) = (Once::default(), Once::default(), Once::default());
        for project in &self.projects {
            let DescribedProject { path, gid, admins_gid, .. } = project;
            paths.see(problems, &path.value, path.line, || format!("the project {}", path.value));
            for gid in gid.get().into_iter().chain(admins_gid.get()) {
                gids.see(problems, &gid.value, gid.line, || format!("the group number {}", gid.value));
            }
            for cluster in &project.clusters {
                let name = &cluster.name;
                let told = || format!("the cluster {}.{}", name.value, path.value.org);
                clusters.see(problems, &(&path.value.org, &name.value), name.line, told);
            }
            let mut services = Once::default();
            for DescribedService { name, .. } in &project.services {
                services.see(problems, &name.value, name.line, || format!("the service account {}", name.value));
            }
            let mut members = Once::default();
            for (email, _) in project.members.get().into_iter().flat_map(|members| &members.value.items) {
                // The same in TOML's eyes it cannot be; but case does not matter here.
                members.see(problems, &email.value, email.line, || format!("{} in {}", email.value, path.value));
            }
            let (mut volumes, mut mounts) = (Once::default(), Once::default());
            for DescribedVolume { name, mount, .. } in &project.volumes {
                volumes.see(problems, &name.value, name.line, || format!("the volume {}", name.value));
                if let Some(mount) = mount.get() {
                    mounts.see(problems, &mount.value, mount.line, || {
                        format!("a volume of this project at {}", mount.value)
                    });
                }
            }
        }
    }

    fn no_key_twice(&self, problems: &mut Problems) {
        let mut seen: BTreeMap<Fingerprint, (usize, usize)> = BTreeMap::new();
        let services = self.projects.iter().flat_map(|project| &project.services);
        let lists = self.accounts.iter().map(|account| &account.keys).chain(services.map(|service| &service.keys));
        for (n, keys) in lists.enumerate() {
            for key in keys.get().into_iter().flat_map(|keys| &keys.value.items) {
                let fingerprint = key.value.fingerprint();
                match seen.get(&fingerprint) {
                    None => drop(seen.insert(fingerprint, (n, key.line))),
                    Some((other, line)) if *other == n => {
                        problems.add(key.line, format!("{fingerprint} is there twice, first in line {line}"));
                    }
                    Some((_, line)) => {
                        let text = format!(
                            "{fingerprint} is another account's, in line {line}; a key belongs to one account only"
                        );
                        problems.add(key.line, text);
                    }
                }
            }
        }
    }
}

/// What has been said, and where.
#[derive(Debug)]
struct Once<K>(BTreeMap<K, usize>);

impl<K> Default for Once<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Once<K> {
    fn see(&mut self, problems: &mut Problems, key: &K, line: usize, told: impl FnOnce() -> String) {
        match self.0.get(key) {
            None => drop(self.0.insert(key.clone(), line)),
            Some(first) => problems.add(line, format!("{} is there twice, first in line {first}", told())),
        }
    }
}

fn uid(fields: &mut Fields<'_, '_>, source: &mut Source, name: &'static str) -> Said<Uid> {
    fields.number(source, name).map(Uid)
}

fn account(mut fields: Fields<'_, '_>, source: &mut Source) -> Option<DescribedAccount> {
    let line = fields.line;
    let email = fields.parsed(source, "email");
    let email = fields.needed(source, "email", email);
    let org = fields.parsed(source, "org");
    let user = fields.parsed(source, "user");
    let uid = uid(&mut fields, source, "uid");
    let state = fields.parsed(source, "state");
    let keys = fields.list(source, "keys");
    fields.done(source);
    Some(DescribedAccount { line, email: email?, org, user, uid, state, keys })
}

fn project(mut fields: Fields<'_, '_>, source: &mut Source) -> Option<DescribedProject> {
    let line = fields.line;
    let path = fields.parsed(source, "name");
    let path = fields.needed(source, "name", path);
    let gid = uid(&mut fields, source, "gid");
    let admins_gid = uid(&mut fields, source, "admins_gid");
    let max_ttl = fields.parsed(source, "max_ttl");
    let max_session = fields.parsed(source, "max_session");
    let grace = fields.parsed(source, "grace");
    let forbidden = fields.list(source, "forbidden");
    let members = fields.table(source, "members", "the list of members").map(|members| members.pairs(source));
    let services = fields.tables(source, "services", "a service account");
    let services: Vec<_> = services.into_iter().filter_map(|fields| service(fields, source)).collect();
    let clusters = fields.tables(source, "clusters", "a cluster");
    let clusters: Vec<_> = clusters.into_iter().filter_map(|fields| cluster(fields, source)).collect();
    let volumes = fields.tables(source, "volumes", "a volume");
    let volumes: Vec<_> = volumes.into_iter().filter_map(|fields| volume(fields, source)).collect();
    fields.done(source);
    let path = path?;
    Some(DescribedProject {
        line,
        path,
        gid,
        admins_gid,
        max_ttl,
        max_session,
        grace,
        forbidden,
        members,
        services,
        clusters,
        volumes,
    })
}

fn service(mut fields: Fields<'_, '_>, source: &mut Source) -> Option<DescribedService> {
    let line = fields.line;
    let name = fields.parsed(source, "name");
    let name = fields.needed(source, "name", name);
    let user = fields.parsed(source, "user");
    let uid = uid(&mut fields, source, "uid");
    let state = fields.parsed(source, "state");
    let sources = fields.list(source, "source_address");
    let command = fields.parsed(source, "force_command");
    let max_ttl = fields.parsed(source, "max_ttl");
    let keys = fields.list(source, "keys");
    fields.done(source);
    Some(DescribedService { line, name: name?, user, uid, state, sources, command, max_ttl, keys })
}

fn cluster(mut fields: Fields<'_, '_>, source: &mut Source) -> Option<DescribedCluster> {
    let line = fields.line;
    let name = fields.parsed(source, "name");
    let name = fields.needed(source, "name", name);
    let kind = fields.parsed(source, "kind");
    let nodes = fields.table(source, "nodes", "the numbers of nodes").map(|fields| node_counts(fields, source));
    let configuration = fields.text(source, "configuration").map(str::to_owned);
    fields.done(source);
    Some(DescribedCluster { line, name: name?, kind, nodes, configuration })
}

fn node_counts(mut fields: Fields<'_, '_>, source: &mut Source) -> NodeCounts {
    let mut count = |name| {
        let number = fields.number(source, name);
        let Some(At { line, value }) = number.get() else { return 0 };
        if *value > MAX_WANTED {
            source.problems.add(*line, format!("`{name}` is at most {MAX_WANTED}"));
        }
        *value
    };
    let (login, compute, controller) = (count("login"), count("compute"), count("controller"));
    fields.done(source);
    NodeCounts { login, compute, controller }
}

fn volume(mut fields: Fields<'_, '_>, source: &mut Source) -> Option<DescribedVolume> {
    let line = fields.line;
    let name = fields.parsed(source, "name");
    let name = fields.needed(source, "name", name);
    let size = fields.parsed(source, "size");
    let mount = fields.parsed(source, "mount");
    fields.done(source);
    Some(DescribedVolume { line, name: name?, size, mount })
}
