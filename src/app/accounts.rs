//! Organizations, accounts and their keys.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
};
use crate::{
    domain::{
        Account, AccountId, AccountKind, AccountState, Actor, Directory, Email, Fingerprint, KeyEntry, Mutation, Org,
        OrgId, OrgName, PublicKey, Timestamp, Uid, UserName, Version,
    },
    policy::{Action, Caller, Denial, Reason},
};
use std::{collections::BTreeSet, sync::Arc};

/// What a new account is.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its email.
    pub email: Email,
    /// Its organization.
    pub org: OrgName,
    /// Its POSIX user name.
    pub user: UserName,
    /// Its POSIX user number; the next one if not said.
    pub uid: Option<Uid>,
    /// Its first keys.
    pub keys: Vec<PublicKey>,
}

impl App {
    /// Creates an organization.
    ///
    /// # Errors
    /// Refused, the name was used before, or not durable.
    pub async fn create_org(self: &Arc<Self>, asker: &Asker, name: OrgName) -> Result<(), AppError> {
        let object = name.to_string();
        let decide = move |ledger: crate::store::Ledger<'_>, _: &_, _: &_, now| create_org(ledger.directory, name, now);
        self.change(asker, Action::OrgCreate, None, object, decide).await?;
        Ok(())
    }

    /// Creates an account, with keys if there are any.
    ///
    /// # Errors
    /// Refused, something is taken, or not durable.
    pub async fn create_account(self: &Arc<Self>, asker: &Asker, new: NewAccount) -> Result<Arc<Account>, AppError> {
        let object = new.email.to_string();
        let decide =
            move |ledger: crate::store::Ledger<'_>, _: &_, _: &_, now| create_account(ledger.directory, new, now);
        Ok(self.change(asker, Action::UserCreate, None, object, decide).await?.0)
    }

    /// Suspends an account, or lets it work again.
    ///
    /// # Errors
    /// Refused, so already, or not durable.
    pub async fn set_account_state(
        self: &Arc<Self>,
        asker: &Asker,
        email: Email,
        state: AccountState,
    ) -> Result<Version, AppError> {
        let action = match state {
            AccountState::Suspended => Action::UserSuspend,
            AccountState::Active => Action::UserResume,
        };
        let object = email.to_string();
        let decide = move |ledger: crate::store::Ledger<'_>, caller: &Caller, _: &_, now| {
            let account = account_named(ledger.directory, &email)?;
            set_state(ledger.directory, account, state, caller.actor(), now)
        };
        Ok(self.change(asker, action, None, object, decide).await?.1)
    }

    /// Registers a key: one's own, or for `email` as operator.
    ///
    /// # Errors
    /// Refused, the key is somebody's, or not durable.
    pub async fn add_key(
        self: &Arc<Self>,
        asker: &Asker,
        email: Option<Email>,
        key: PublicKey,
    ) -> Result<Fingerprint, AppError> {
        let object = self.key_of(asker, email.as_ref(), key.fingerprint());
        let decide = move |ledger: crate::store::Ledger<'_>, caller: &Caller, _: &_, now| {
            let account = subject(ledger.directory, caller, email.as_ref())?;
            add_key(ledger.directory, account, key, now)
        };
        Ok(self.change(asker, Action::KeyAdd, None, object, decide).await?.0)
    }

    /// Whether a key is the last one of its account.
    ///
    /// # Errors
    /// The asker may not remove it, or it is not there.
    pub async fn preview_key_removal(
        self: &Arc<Self>,
        asker: &Asker,
        email: Option<&Email>,
        key: Fingerprint,
    ) -> Result<bool, AppError> {
        let look = |directory: &Directory, caller: &Caller, _: &_| {
            let account = owner_of(directory, caller, email, key)?;
            Ok(directory.keys_of(account.id).count() == 1)
        };
        let object = self.key_of(asker, email, key);
        self.preview(asker, Action::KeyRemove, None, object, look).await
    }

    /// Removes a key: one's own, or `email`'s as operator. Certificates on it are refused from then on.
    ///
    /// # Errors
    /// Refused, no such key, or not durable.
    pub async fn remove_key(
        self: &Arc<Self>,
        asker: &Asker,
        email: Option<Email>,
        key: Fingerprint,
    ) -> Result<Version, AppError> {
        let app = self.clone();
        let object = self.key_of(asker, email.as_ref(), key);
        let decide = move |ledger: crate::store::Ledger<'_>, caller: &Caller, _: &_, now: Timestamp| {
            let account = owner_of(ledger.directory, caller, email.as_ref(), key)?;
            let denied_until = app.last_certificate_on(&[key].into(), now);
            Ok(remove_key(account, key, denied_until))
        };
        Ok(self.change(asker, Action::KeyRemove, None, object, decide).await?.1)
    }

    /// A key and whose it is to be or was, as the log has it.
    fn key_of(&self, asker: &Asker, email: Option<&Email>, key: Fingerprint) -> String {
        let whose = match (email, asker) {
            (Some(email), _) => email.to_string(),
            (None, Asker::Account { .. }) => self.actor(&self.directory(), asker).to_string(),
            (None, Asker::Operator { .. }) => return key.to_string(),
        };
        format!("{key} {whose}")
    }

    /// When the last certificate on any of these keys ends: nodes refuse them for so long. Longer than any that can be
    /// issued today, and than those that were when other settings held.
    pub(super) fn last_certificate_on(&self, keys: &BTreeSet<Fingerprint>, now: Timestamp) -> Timestamp {
        let longest = self.site.certificates.max_ttl.max(self.site.certificates.ttl).duration();
        let alive = lock(&self.live).values().filter(|r| keys.contains(&r.key)).map(|r| r.valid_before).max();
        alive.unwrap_or(now).max(now.after(longest))
    }
}

/// An organization.
pub(super) fn create_org(directory: &Directory, name: OrgName, now: Timestamp) -> Result<Decided<()>, Denial> {
    if directory.org_named(&name).is_some() {
        return Err(Denial::plain(Reason::Conflict, format!("there is an organization {name} already")));
    }
    let id = OrgId(directory.counters().id);
    Ok(Decided::one(Mutation::OrgCreated(Org { id, name, created: now }), ()))
}

/// A person's account, with keys if there are any.
pub(super) fn create_account(
    directory: &Directory,
    new: NewAccount,
    now: Timestamp,
) -> Result<Decided<Arc<Account>>, Denial> {
    let unknown = || {
        let text = format!("no such organization: {}; create it first: org create {}", new.org, new.org);
        Denial::plain(Reason::NotFound, text)
    };
    let org = directory.org_named(&new.org).ok_or_else(unknown)?.id;
    check_person(&new.email, &new.user)?;
    if directory.account_with_email(&new.email).is_some() {
        return Err(Denial::plain(Reason::Conflict, format!("there is an account {} already", new.email)));
    }
    if directory.account_with_user(&new.user).is_some() {
        let text = format!("the user name {} is or was somebody's; names are never given out twice", new.user);
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let account = Account {
        id: AccountId(directory.counters().id),
        org,
        email: new.email,
        user: new.user,
        uid: new_uid(directory, new.uid)?,
        state: AccountState::Active,
        kind: AccountKind::Person,
        created: now,
    };
    let mut mutations = vec![Mutation::AccountCreated(account.clone())];
    let mut fingerprints = Vec::new();
    for key in new.keys {
        let fingerprint = check_new_key(directory, &key, account.id, now)?;
        // The same key given twice is one key.
        if !fingerprints.contains(&fingerprint) {
            fingerprints.push(fingerprint);
            mutations.push(Mutation::KeyAdded(KeyEntry { account: account.id, key, added: now }));
        }
    }
    let detail = format!("user {} uid {} keys {fingerprints:?}", account.user, account.uid);
    Ok(Decided { mutations, certificate: None, detail, answer: Arc::new(account) })
}

/// The user number of a new account: the next one, or one that was chosen, so that file systems that know it from
/// elsewhere keep their owners.
pub(super) fn new_uid(directory: &Directory, chosen: Option<Uid>) -> Result<Uid, Denial> {
    let uid = chosen.unwrap_or(directory.counters().uid);
    if directory.uid_taken(uid) {
        return Err(Denial::plain(Reason::Conflict, format!("the user number {uid} is somebody's")));
    }
    in_range("user", uid)
}

/// Whether a number can be given to a user or a group.
pub(super) fn in_range(what: &str, number: Uid) -> Result<Uid, Denial> {
    if number.can_be_given() {
        return Ok(number);
    }
    let text = format!("the {what} number {number} is not between {} and {}", Uid::FIRST, Uid::LAST);
    Err(Denial::plain(Reason::Invalid, text))
}

/// Suspends an account, or lets it work again.
pub(super) fn set_state(
    directory: &Directory,
    account: &Account,
    state: AccountState,
    by: Actor,
    now: Timestamp,
) -> Result<Decided<()>, Denial> {
    if account.state == state {
        return Err(Denial::plain(Reason::Conflict, format!("{} is {state} already", account.email)));
    }
    if directory.retired(account) {
        let text = format!("{} was deleted; a service account that was does not come back", account.email);
        return Err(Denial::plain(Reason::Conflict, text));
    }
    Ok(Decided::one(Mutation::AccountStateSet { account: account.id, state, at: now, by }, ()))
}

/// A key of an account.
pub(super) fn add_key(
    directory: &Directory,
    account: &Account,
    key: PublicKey,
    now: Timestamp,
) -> Result<Decided<Fingerprint>, Denial> {
    if directory.retired(account) {
        let text = format!("{} was deleted; it gets no key any more", account.email);
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let fingerprint = check_new_key(directory, &key, account.id, now)?;
    let detail = key.algorithm();
    let mutation = Mutation::KeyAdded(KeyEntry { account: account.id, key, added: now });
    Ok(Decided { mutations: vec![mutation], certificate: None, detail, answer: fingerprint })
}

/// A key of an account goes.
pub(super) fn remove_key(account: &Account, key: Fingerprint, denied_until: Timestamp) -> Decided<()> {
    Decided::one(Mutation::KeyRemoved { account: account.id, key, denied_until }, ())
}

/// The account that a command is about: one's own, or another's as operator.
pub(super) fn subject<'d>(
    directory: &'d Directory,
    caller: &Caller,
    email: Option<&Email>,
) -> Result<&'d Arc<Account>, Denial> {
    let own = caller.identity().map(|identity| identity.account().id);
    match (own, email) {
        (None, None) => Err(Denial::plain(Reason::Invalid, "name the account: --account EMAIL")),
        (None, Some(email)) => account_named(directory, email),
        (Some(id), email) => {
            let account = directory.account(id).ok_or_else(|| Denial::plain(Reason::NoAccount, "no such account"))?;
            match email {
                Some(other) if *other != account.email => {
                    Err(Denial::plain(Reason::OperatorsOnly, "--account is for operators, on the bastion itself"))
                }
                _ => Ok(account),
            }
        }
    }
}

/// The account that a command is about, if a key is one of its keys.
fn owner_of<'d>(
    directory: &'d Directory,
    caller: &Caller,
    email: Option<&Email>,
    key: Fingerprint,
) -> Result<&'d Arc<Account>, Denial> {
    let account = subject(directory, caller, email)?;
    if directory.key(&key).is_none_or(|entry| entry.account != account.id) {
        return Err(Denial::plain(Reason::NotFound, format!("{key} is not a key of {}", account.email)));
    }
    Ok(account)
}

pub(super) fn account_named<'d>(directory: &'d Directory, email: &Email) -> Result<&'d Arc<Account>, Denial> {
    directory.account_with_email(email).ok_or_else(|| {
        Denial::plain(
            Reason::NoAccount,
            format!("no account has the email {email}; an operator can create it: user create"),
        )
    })
}

/// A person is not named like a robot, so that everybody can tell them apart.
fn check_person(email: &Email, user: &UserName) -> Result<(), Denial> {
    let text = if email.is_service() {
        "emails that end in .service are those of service accounts, which a project's admins make: service create"
    } else if user.is_service() {
        "user names that begin with svc- are those of service accounts, which a project's admins make: service create"
    } else {
        return Ok(());
    };
    Err(Denial::plain(Reason::Invalid, text))
}

pub(super) fn check_new_key(
    directory: &Directory,
    key: &PublicKey,
    account: AccountId,
    now: Timestamp,
) -> Result<Fingerprint, Denial> {
    let fingerprint = key.fingerprint();
    // Whose a key is, or that it is a machine's, is nobody's business who only has its public half.
    let anothers = |operator: String| {
        let user = format!("{fingerprint} cannot be registered here; make a new key: ssh-keygen -t ed25519");
        Denial::told(Reason::Conflict, operator, user)
    };
    if let Some(entry) = directory.key(&fingerprint) {
        return Err(if entry.account == account {
            Denial::plain(Reason::Conflict, format!("{fingerprint} is registered for this account already"))
        } else {
            anothers(format!("{fingerprint} is registered for another account; a key belongs to one account only"))
        });
    }
    // A key that a node had is the node's for ever: it comes in with it once more, to be told that it is one no longer.
    if directory.node_with_key(&fingerprint).is_some() || directory.gone_node_with_key(&fingerprint).is_some() {
        return Err(anothers(format!("{fingerprint} is or was the host key of a node; it cannot be a person's key")));
    }
    // Its certificates may be alive until then: registering it again would bring them back.
    if let Some(until) = directory.denied_key(&fingerprint).filter(|until| *until > now) {
        let text =
            format!("{fingerprint} was removed a short while ago; it can be added again after {}", until.for_people());
        return Err(match directory.owner_of_denied_key(&fingerprint) == Some(account) {
            true => Denial::plain(Reason::Conflict, text),
            false => anothers(text),
        });
    }
    Ok(fingerprint)
}
