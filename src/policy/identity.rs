//! Who somebody is: from the key that signed the handshake to an account that works, now.

use super::denial::{Denial, Reason};
use crate::domain::{
    Account, AccountId, AccountState, CertificateRecord, Directory, Fingerprint, Principal, Serial, Timestamp,
};
use std::{net::IpAddr, sync::Arc};

/// From where somebody comes.
///
/// Not an optional address: that a request has none could be a mistake, and a service account would be let in by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The other end of the connection, as the gateway sees it.
    Peer(IpAddr),
    /// Nobody is connected: the question is what would be, from a place that fits. Only explanations ask that.
    Unstated,
}

/// An account that works, with the key that proved it. Only this module makes one, and it is good for one decision:
/// it holds what the directory said at that moment.
#[derive(Clone, Debug)]
#[must_use]
pub struct Identity {
    account: Arc<Account>,
    key: Fingerprint,
    certificate: Option<Serial>,
    scope: Scope,
}

/// What an identity may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that the account may: it authenticated with its key.
    Account,
    /// Only what a certificate says: it authenticated with one that was asked for with less.
    Principals(Vec<Principal>),
}

impl Identity {
    /// The account.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The key that signed the handshake.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        self.key
    }

    /// The certificate that was presented, if one was.
    #[must_use]
    pub fn certificate(&self) -> Option<Serial> {
        self.certificate
    }

    /// What it may be used for.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// Whose key this is. A suspended account is recognized too, so that it can be told; [`identify`] is what refuses it.
///
/// # Errors
/// Nobody's.
pub fn recognize(directory: &Directory, key: &Fingerprint) -> Result<AccountId, Denial> {
    match directory.key(key) {
        Some(entry) => Ok(entry.account),
        None => {
            Err(Denial::told(Reason::UnknownKey, format!("key {key} is registered for nobody"), "permission denied"))
        }
    }
}

/// The account behind a connection, looked up anew: nothing is believed from when it authenticated.
///
/// # Errors
/// The account is gone or suspended, or a service account that is not used from there; the key is no longer its own; the
/// certificate was revoked, has run out or is not the one on record.
pub fn identify(
    directory: &Directory,
    account: AccountId,
    key: Fingerprint,
    certificate: Option<(Serial, Option<&CertificateRecord>)>,
    origin: Origin,
    now: Timestamp,
) -> Result<Identity, Denial> {
    let entry = directory.key(&key).ok_or_else(|| {
        Denial::told(
            Reason::UnknownKey,
            format!("key {key} is no longer registered"),
            "this key was removed from your account; connect with another one",
        )
    })?;
    if entry.account != account {
        let operator = format!("key {key} belongs to account {}, not to account {account}", entry.account);
        return Err(Denial::told(Reason::ForeignKey, operator, "permission denied"));
    }
    let account = directory
        .account(account)
        .ok_or_else(|| Denial::told(Reason::NoAccount, format!("no account {account}"), "permission denied"))?;
    // Before everything else: who has taken a robot's key elsewhere learns nothing of its account.
    check_source(account, origin)?;
    match account.state {
        AccountState::Active => {}
        AccountState::Suspended => return Err(Denial::suspended(&account.email)),
    }
    let scope = match certificate {
        None => Scope::Account,
        Some((serial, record)) => {
            Scope::Principals(principals_on_record(directory, account, key, serial, record, now)?)
        }
    };
    Ok(Identity { account: account.clone(), key, certificate: certificate.map(|(serial, _)| serial), scope })
}

fn check_source(account: &Account, origin: Origin) -> Result<(), Denial> {
    match (account.service(), origin) {
        (None, _) | (Some(_), Origin::Unstated) => Ok(()),
        (Some(terms), Origin::Peer(peer)) if terms.sources.contains(peer) => Ok(()),
        (Some(terms), Origin::Peer(peer)) => {
            let peer = peer.to_canonical();
            Err(Denial::told(
                Reason::Source,
                format!("{} was used from {peer}; it is for {}", account.email, terms.sources),
                format!(
                    "this service account is used from certain networks only, and you come from {peer}; an admin of its \
                     project can change that: service update"
                ),
            ))
        }
    }
}

fn principals_on_record(
    directory: &Directory,
    account: &Account,
    key: Fingerprint,
    serial: Serial,
    record: Option<&CertificateRecord>,
    now: Timestamp,
) -> Result<Vec<Principal>, Denial> {
    if directory.denied_serial(serial).is_some() {
        return Err(Denial::told(
            Reason::CertificateRevoked,
            format!("certificate {serial} is revoked"),
            "your certificate was revoked; get a new one",
        ));
    }
    let off_record = || {
        Denial::told(
            Reason::CertificateRecord,
            format!("certificate {serial} is not on record as issued to {} for key {key}", account.email),
            "permission denied",
        )
    };
    let record = record
        .filter(|record| record.serial == serial && record.account == account.id && record.key == key)
        .ok_or_else(off_record)?;
    if now >= record.valid_before {
        return Err(Denial::told(
            Reason::CertificateValidity,
            format!("certificate {serial} ended at {}", record.valid_before),
            "your certificate has run out; get a new one",
        ));
    }
    record.principals.iter().map(|principal| principal.parse().map_err(|_| off_record())).collect()
}
