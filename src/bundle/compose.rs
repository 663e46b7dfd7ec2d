//! The bundle of a cluster, from what the directory says. The same rule as `policy::open`: a member whose account works.

use super::signed::{Bundle, DeniedKey, DeniedSerial, FORMAT, Group, Leaving, Login, SharedLogin};
use crate::domain::{
    Account, AccountId, AccountState, Cluster, ClusterId, ClusterPath, Directory, Membership, Principal, ProjectName,
    PublicKey, Role, SharedLoginName, Timestamp, UserName, Version,
};
use std::{collections::BTreeSet, time::Duration};

/// How long a certificate or key stays denied after it could have been used for the last time: sessions that it has opened
/// may be open still, on nodes that hear of it late.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The most people that all shared logins of a cluster together can be open to. Each brings two principals to every node,
/// and a bundle that grew too large for its nodes would keep removals from them.
const MAX_SHARERS: usize = 50_000;

/// The public halves of the CA keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaPublicKeys {
    /// Signs user certificates.
    pub user: PublicKey,
    /// Signs host certificates.
    pub host: PublicKey,
}

/// The bundle that lets nobody in: for a node that was removed, or whose cluster was.
#[must_use]
pub fn farewell(cluster: ClusterPath, version: Version, ca: &CaPublicKeys, now: Timestamp) -> Bundle {
    Bundle {
        format: FORMAT,
        cluster,
        version,
        issued: now,
        logins: Vec::new(),
        groups: Vec::new(),
        shared_logins: Vec::new(),
        leaving: Vec::new(),
        denied_serials: Vec::new(),
        denied_keys: Vec::new(),
        user_ca: vec![ca.user.clone()],
        host_ca: vec![ca.host.clone()],
    }
}

/// A shared login of a cluster's configuration, and whether nodes take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedLoginStatus {
    /// Its name.
    pub name: SharedLoginName,
    /// The role that it takes.
    pub role: Role,
    /// Who may use it; nobody if it is not in force.
    pub sharers: Vec<UserName>,
    /// Why nobody may, if it is not in force.
    pub problem: Option<&'static str>,
}

/// The shared logins that a cluster's configuration names. Robots use none: each has a login of its own, and its forced
/// command is meant for that one.
#[must_use]
pub fn shared_logins(directory: &Directory, cluster: &Cluster) -> Vec<SharedLoginStatus> {
    let mut room = MAX_SHARERS;
    let wanted = cluster.document.specification().shared_logins.iter();
    let logins = wanted.map(|(name, role)| {
        let none = |problem| SharedLoginStatus {
            name: name.clone(),
            role: *role,
            sharers: Vec::new(),
            problem: Some(problem),
        };
        if directory.account_with_user(name.as_user()).is_some() {
            return none("it is an account's own login now");
        }
        let members = directory.members_of(cluster.project);
        let members = members.filter(|(account, membership)| may_share(account, membership, *role));
        let mut sharers: Vec<UserName> = members.map(|(account, _)| account.user.clone()).collect();
        let Some(left) = room.checked_sub(sharers.len()) else { return none("it would be open to too many") };
        room = left;
        sharers.sort();
        SharedLoginStatus { name: name.clone(), role: *role, sharers, problem: None }
    });
    logins.collect()
}

fn may_share(account: &Account, membership: &Membership, role: Role) -> bool {
    account.state == AccountState::Active && account.service().is_none() && membership.role >= role
}

/// With which principals somebody's own login may be used on the nodes of a cluster; none if there is no such cluster.
#[must_use]
pub fn principals_on(directory: &Directory, user: &UserName, cluster: ClusterId) -> Vec<String> {
    let found = directory.cluster(cluster).and_then(|cluster| {
        Some(principals_of(user, &directory.path_of_cluster(cluster)?, &directory.project(cluster.project)?.name))
    });
    found.unwrap_or_default()
}

fn principals_of(user: &UserName, cluster: &ClusterPath, project: &ProjectName) -> Vec<String> {
    let whole = Principal { user: user.clone(), org: cluster.org.clone(), project: project.clone(), cluster: None };
    let only = Principal { cluster: Some(cluster.cluster.clone()), ..whole.clone() };
    vec![whole.to_string(), only.to_string()]
}

/// The bundle of a cluster; none if there is no such cluster (any more).
#[must_use]
pub fn bundle_for(directory: &Directory, cluster: ClusterId, ca: &CaPublicKeys, now: Timestamp) -> Option<Bundle> {
    let cluster = directory.cluster(cluster)?;
    let project = directory.project(cluster.project)?;
    let path = directory.path_of_cluster(cluster)?;
    let principals = |user: &UserName| principals_of(user, &path, &project.name);
    let mut logins = Vec::new();
    let (mut members, mut admins) = (Vec::<UserName>::new(), Vec::<UserName>::new());
    let mut concerned = BTreeSet::<AccountId>::new();
    for (account, membership) in directory.members_of(project.id) {
        concerned.insert(account.id);
        match account.state {
            AccountState::Active => {}
            AccountState::Suspended => continue,
        }
        members.push(account.user.clone());
        match membership.role {
            Role::Member => {}
            Role::Admin => admins.push(account.user.clone()),
        }
        logins.push(Login {
            name: account.user.clone(),
            uid: account.uid,
            role: membership.role,
            principals: principals(&account.user),
        });
    }
    logins.sort_by(|a, b| a.name.cmp(&b.name));
    members.sort();
    admins.sort();
    let shared_logins = shared_logins(directory, cluster).into_iter().filter(|login| login.problem.is_none());
    let shared_logins = shared_logins.map(|login| SharedLogin {
        name: login.name.to_string(),
        principals: login.sharers.iter().flat_map(&principals).collect(),
    });
    let shared_logins = shared_logins.collect();
    let mut leaving = Vec::new();
    for (account, until) in directory.lingering(project.id, now) {
        // What is revoked meanwhile ends at once.
        concerned.insert(account.id);
        leaving.push(Leaving { name: account.user.clone(), uid: account.uid, until });
    }
    leaving.sort_by(|a, b| a.name.cmp(&b.name));
    // Only those who could still log in otherwise, or have something open: who is not a member is refused by absence.
    let denied_serials = directory
        .denied_serials()
        .filter(|(_, account, until)| until.after(KEPT) > now && concerned.contains(account))
        .map(|(serial, _, until)| DeniedSerial { serial, until })
        .collect();
    let denied_keys = directory
        .denied_keys()
        .filter(|(_, account, until)| until.after(KEPT) > now && concerned.contains(account))
        .map(|(key, _, until)| DeniedKey { key, until })
        .collect();
    Some(Bundle {
        format: FORMAT,
        cluster: path,
        version: directory.version(),
        issued: now,
        logins,
        groups: vec![
            Group { name: project.name.to_string(), gid: project.gid, members },
            Group { name: format!("{}-admins", project.name), gid: project.admins_gid, members: admins },
        ],
        shared_logins,
        leaving,
        denied_serials,
        denied_keys,
        user_ca: vec![ca.user.clone()],
        host_ca: vec![ca.host.clone()],
    })
}
