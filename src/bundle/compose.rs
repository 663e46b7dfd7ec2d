//! The bundle of a cluster, from what the directory says. The same rule as `policy::open`: a member whose account works.

use super::signed::{Bundle, DeniedKey, DeniedSerial, FORMAT, Group, Login};
use crate::domain::{
    AccountId, AccountState, ClusterId, ClusterPath, Directory, Principal, PublicKey, Role, Timestamp, UserName,
    Version,
};
use std::collections::BTreeSet;

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
        denied_serials: Vec::new(),
        denied_keys: Vec::new(),
        user_ca: vec![ca.user.clone()],
        host_ca: vec![ca.host.clone()],
    }
}

/// The bundle of a cluster; none if there is no such cluster (any more).
#[must_use]
pub fn bundle_for(directory: &Directory, cluster: ClusterId, ca: &CaPublicKeys, now: Timestamp) -> Option<Bundle> {
    let cluster = directory.cluster(cluster)?;
    let project = directory.project(cluster.project)?;
    let path = directory.path_of_cluster(cluster)?;
    let mut logins = Vec::new();
    let (mut members, mut admins) = (Vec::<UserName>::new(), Vec::<UserName>::new());
    let mut concerned = BTreeSet::<AccountId>::new();
    for (account, membership) in directory.members_of(project.id) {
        concerned.insert(account.id);
        match account.state {
            AccountState::Active => {}
            AccountState::Suspended => continue,
        }
        let whole = Principal {
            user: account.user.clone(),
            org: path.org.clone(),
            project: project.name.clone(),
            cluster: None,
        };
        let only = Principal { cluster: Some(cluster.name.clone()), ..whole.clone() };
        members.push(account.user.clone());
        match membership.role {
            Role::Member => {}
            Role::Admin => admins.push(account.user.clone()),
        }
        logins.push(Login {
            name: account.user.clone(),
            uid: account.uid,
            role: membership.role,
            principals: vec![whole.to_string(), only.to_string()],
        });
    }
    logins.sort_by(|a, b| a.name.cmp(&b.name));
    members.sort();
    admins.sort();
    // Only those who could still log in otherwise: who is not a member is refused by absence.
    let denied_serials = directory
        .denied_serials()
        .filter(|(_, account, until)| *until > now && concerned.contains(account))
        .map(|(serial, _, until)| DeniedSerial { serial, until })
        .collect();
    let denied_keys = directory
        .denied_keys()
        .filter(|(_, account, until)| *until > now && concerned.contains(account))
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
        shared_logins: Vec::new(),
        denied_serials,
        denied_keys,
        user_ca: vec![ca.user.clone()],
        host_ca: vec![ca.host.clone()],
    })
}
