//! What an sshd without our helper has to be told: which certificates and keys it must refuse though they look good.
//! The helper says who may log in; a revocation list can only say who may not, so everyone who was removed since their
//! certificate was issued has to be on it.

use crate::domain::{
    Account, AccountState, CertificateRecord, Cluster, Directory, Fingerprint, Principal, Serial, Timestamp,
};
use std::collections::BTreeSet;

/// What is revoked at a point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Certificates by serial number.
    pub serials: BTreeSet<Serial>,
    /// Keys, and with them all certificates on them.
    pub keys: BTreeSet<Fingerprint>,
}

/// What has to be refused: everywhere, or on the nodes of one cluster. `live` are the records of certificates that have
/// not run out.
#[must_use]
pub fn revoked<'a>(
    directory: &Directory,
    live: impl IntoIterator<Item = &'a CertificateRecord>,
    cluster: Option<&Cluster>,
    now: Timestamp,
) -> Revoked {
    let denied = directory.denied_serials().filter(|(_, _, until)| *until > now).map(|(serial, _, _)| serial);
    let keys = directory.denied_keys().filter(|(_, _, until)| *until > now).map(|(key, _, _)| key);
    let lapsed = live
        .into_iter()
        .filter(|record| record.valid_before > now && !holds(directory, record, cluster))
        .map(|record| record.serial);
    Revoked { serials: denied.chain(lapsed).collect(), keys: keys.collect() }
}

/// Whether a certificate would be accepted anywhere, apart from having run out: it is not revoked, and something that it says
/// still holds.
#[must_use]
pub fn is_accepted(directory: &Directory, record: &CertificateRecord) -> bool {
    directory.denied_serial(record.serial).is_none() && holds(directory, record, None)
}

/// Whether anything that a certificate says still holds. The same rule as for opening a node: a member whose account
/// works, by a key of that account.
fn holds(directory: &Directory, record: &CertificateRecord, cluster: Option<&Cluster>) -> bool {
    let works = |account: &Account| match account.state {
        AccountState::Active => true,
        AccountState::Suspended => false,
    };
    let owns = directory.key(&record.key).is_some_and(|entry| entry.account == record.account);
    let Some(account) = directory.account(record.account).filter(|account| owns && works(account)) else {
        return false;
    };
    record.principals.iter().any(|principal| {
        principal.parse::<Principal>().is_ok_and(|principal| names_a_place(directory, account, &principal, cluster))
    })
}

fn names_a_place(directory: &Directory, account: &Account, principal: &Principal, cluster: Option<&Cluster>) -> bool {
    let path = crate::domain::ProjectPath { org: principal.org.clone(), project: principal.project.clone() };
    let Some(project) = directory.project_at(&path) else { return false };
    let here = |cluster: &Cluster| {
        cluster.project == project.id && principal.cluster.as_ref().is_none_or(|name| *name == cluster.name)
    };
    principal.user == account.user && directory.membership(project.id, account.id).is_some() && cluster.is_none_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::*,
        policy::test_world::{NOW, World, key},
    };
    use std::time::Duration;

    fn record(serial: u64, account: u64, principals: &[&str]) -> CertificateRecord {
        CertificateRecord {
            serial: Serial(serial),
            account: AccountId(account),
            key: key(u8::try_from(account).unwrap()).fingerprint(),
            principals: principals.iter().map(|p| (*p).to_owned()).collect(),
            valid_after: NOW,
            valid_before: NOW.after(Duration::from_secs(300)),
            source: String::new(),
            issued: NOW,
        }
    }

    fn serials(world: &World, records: &[CertificateRecord], cluster: Option<&str>) -> Vec<u64> {
        let cluster = cluster.map(|path| world.directory.cluster_at(&path.parse().unwrap()).unwrap());
        let revoked = revoked(&world.directory, records, cluster.map(|cluster| &**cluster), NOW);
        revoked.serials.into_iter().map(|serial| serial.0).collect()
    }

    #[test]
    fn whoever_lost_access_since_it_was_issued_is_on_the_list() {
        let mut world = World::new();
        world.add(22, 12, Role::Member);
        let records = [
            record(1, 11, &["admin1@acme/ml"]),
            record(2, 12, &["user1@acme/ml", "user1@acme/research"]),
            record(3, 12, &["user1@acme/ml/h100"]),
        ];
        assert!(serials(&world, &records, None).is_empty());
        assert_eq!(serials(&world, &records, Some("h100.acme")), [0_u64; 0]);
        // Certificates that were never for a cluster are of no use there, and may be on its list.
        assert_eq!(serials(&world, &records, Some("b200.acme")), [1, 3]);

        world.remove(21, 12, "admin1@acme.example");
        assert_eq!(serials(&world, &records, None), [3], "2 is still good for acme/research");
        assert_eq!(serials(&world, &records, Some("h100.acme")), [2, 3]);
        assert_eq!(serials(&world, &records, Some("b200.acme")), [1, 3]);
    }

    #[test]
    fn suspensions_removed_keys_and_revocations_are_on_every_list() {
        let records = [record(1, 11, &["admin1@acme/ml"]), record(2, 12, &["user1@acme/ml"])];
        let until = NOW.after(Duration::from_secs(300));
        let mut world = World::new();
        let by = Actor::Operator { uid: 0 };
        let state = AccountState::Suspended;
        world.apply(Mutation::AccountStateSet { account: AccountId(12), state, at: NOW, by });
        assert_eq!(serials(&world, &records, None), [2]);

        let mut world = World::new();
        world.apply(Mutation::SerialDenied { serial: Serial(1), account: AccountId(11), until });
        world.apply(Mutation::SerialDenied { serial: Serial(9), account: AccountId(11), until: NOW });
        assert_eq!(serials(&world, &records, Some("h100.acme")), [1], "what has run out needs no mention");

        let mut world = World::new();
        let key = key(12).fingerprint();
        world.apply(Mutation::KeyRemoved { account: AccountId(12), key, denied_until: until });
        let revoked = revoked(&world.directory, &records, None, NOW);
        assert_eq!(revoked, Revoked { serials: [Serial(2)].into(), keys: [key].into() });
    }
}
