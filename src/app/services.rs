//! Service accounts: made for a project, bounded, given keys, deleted.
//!
//! What is decided is in functions over the directory that return changes, so that whatever else changes it can use them.

use super::{
    accounts::{add_key, check_new_key, new_uid},
    core::{App, Asker, Decided, lock},
    error::AppError,
};
use crate::{
    domain::{
        Account, AccountId, AccountKind, AccountState, Actor, CertificateRecord, Departure, Directory, Email,
        Fingerprint, ForceCommand, KeyEntry, Membership, Mutation, NameError, Networks, Project, ProjectPath,
        PublicKey, Role, ServiceName, ServiceTerms, Timestamp, Ttl, Uid, UserName, Version, service_email,
        service_user,
    },
    policy::{Action, Caller, CertificateSettings, Denial, Grant, Reason, gateway_addresses},
    store::Ledger,
};
use std::{collections::BTreeSet, sync::Arc};

/// What a new service account is.
#[derive(Clone, Debug)]
pub struct NewService {
    /// What it is called in its project.
    pub name: ServiceName,
    /// From where it may be used.
    pub sources: Networks,
    /// What its sessions run, if nothing else.
    pub force_command: Option<ForceCommand>,
    /// The longest that one of its certificates lives; as long as the site lets them if not said.
    pub max_ttl: Option<Ttl>,
    /// Its first key.
    pub key: PublicKey,
    /// Its POSIX user name; the first of those that it can have if not said.
    pub user: Option<UserName>,
    /// Its POSIX user number; the next one if not said.
    pub uid: Option<Uid>,
}

/// What becomes of the command that a service account is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CommandChange {
    /// Nothing.
    #[default]
    Keep,
    /// It is bound to none.
    Lift,
    /// It is bound to this one.
    Force(ForceCommand),
}

/// What is to be different about the bounds of a service account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermsChange {
    /// From where it may be used.
    pub sources: Option<Networks>,
    /// What its sessions run.
    pub force_command: CommandChange,
    /// The longest that one of its certificates lives.
    pub max_ttl: Option<Ttl>,
}

/// A service account that was bounded differently.
#[derive(Clone, Debug)]
pub struct Rebound {
    /// Its bounds now.
    pub terms: ServiceTerms,
    /// The certificates that said more, and were revoked; when the last of them would have ended.
    pub revoked: Vec<CertificateRecord>,
    /// The directory's version with this.
    pub version: Version,
}

impl App {
    /// Creates a service account, as a member of its project.
    ///
    /// # Errors
    /// Refused, the site is not set up for them, a name that was given out before, a key of somebody's, or not durable.
    pub async fn create_service(
        self: &Arc<Self>,
        asker: &Asker,
        path: ProjectPath,
        new: NewService,
    ) -> Result<(Account, ServiceTerms), AppError> {
        let object = format!("{path} {}", new.name);
        let settings = self.site.certificates.clone();
        let decide = move |ledger: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let (project, path) = grant.project()?;
            create_service(ledger.directory, (project, path), new, &settings, caller.actor(), now)
        };
        Ok(self.change(asker, Action::ServiceCreate, Some(&path), object, decide).await?.0)
    }

    /// Bounds a service account differently. What was issued and opened under wider bounds is taken back.
    ///
    /// # Errors
    /// Refused, no such account, nothing different, or not durable.
    pub async fn update_service(
        self: &Arc<Self>,
        asker: &Asker,
        email: Email,
        change: TermsChange,
    ) -> Result<Rebound, AppError> {
        let object = email.to_string();
        let (app, settings) = (self.clone(), self.site.certificates.clone());
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let live = app.live_of(grant.service()?.0.id, now);
            update_service(ledger.directory, grant.service()?, change, &settings, &live, now)
        };
        let ((terms, revoked), version) = self.change(asker, Action::ServiceUpdate, &email, object, decide).await?;
        Ok(Rebound { terms, revoked, version })
    }

    /// Deletes a service account, for good: its names stay taken, its keys are refused.
    ///
    /// # Errors
    /// Refused, no such account, or not durable.
    pub async fn delete_service(self: &Arc<Self>, asker: &Asker, email: Email) -> Result<Version, AppError> {
        let object = email.to_string();
        let app = self.clone();
        let decide = move |ledger: Ledger<'_>, caller: &Caller, grant: &Grant, now| {
            let account = grant.service()?.0;
            let denied_until = app.last_certificate_on(&keys_of(ledger.directory, account), now);
            Ok(delete_service(ledger.directory, grant.service()?, denied_until, caller.actor(), now))
        };
        Ok(self.change(asker, Action::ServiceDelete, &email, object, decide).await?.1)
    }

    /// Registers a key for a service account: a new one beside the old one, so that one can take the other's place
    /// without a gap.
    ///
    /// # Errors
    /// Refused, no such account, the key is somebody's, or not durable.
    pub async fn add_service_key(
        self: &Arc<Self>,
        asker: &Asker,
        email: Email,
        key: PublicKey,
    ) -> Result<Fingerprint, AppError> {
        let object = format!("{} {email}", key.fingerprint());
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            add_key(ledger.directory, grant.service()?.0, key, now)
        };
        Ok(self.change(asker, Action::ServiceKeyAdd, &email, object, decide).await?.0)
    }

    /// Removes a key of a service account. Certificates on it are refused from then on.
    ///
    /// # Errors
    /// Refused, no such account or key, or not durable.
    pub async fn remove_service_key(
        self: &Arc<Self>,
        asker: &Asker,
        email: Email,
        key: Fingerprint,
    ) -> Result<Version, AppError> {
        let app = self.clone();
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let account = robots_key(ledger.directory, grant, &key)?;
            let denied_until = app.last_certificate_on(&[key].into(), now);
            Ok(Decided::one(Mutation::KeyRemoved { account: account.id, key, denied_until }, ()))
        };
        let object = format!("{key} {email}");
        Ok(self.change(asker, Action::ServiceKeyRemove, &email, object, decide).await?.1)
    }

    /// Whether a key is the last one of a service account.
    ///
    /// # Errors
    /// The asker may not remove it, or it is not there.
    pub async fn preview_service_key_removal(
        self: &Arc<Self>,
        asker: &Asker,
        email: &Email,
        key: Fingerprint,
    ) -> Result<bool, AppError> {
        let look = |directory: &Directory, _: &Caller, grant: &Grant| {
            Ok(directory.keys_of(robots_key(directory, grant, &key)?.id).count() == 1)
        };
        self.preview(asker, Action::ServiceKeyRemove, email, format!("{key} {email}"), look).await
    }

    /// How many open sessions the deletion of a service account will end.
    ///
    /// # Errors
    /// The asker may not delete it, or there is no such account.
    pub async fn preview_service_deletion(self: &Arc<Self>, asker: &Asker, email: &Email) -> Result<usize, AppError> {
        let look = |_: &Directory, _: &Caller, grant: &Grant| {
            let account = grant.service()?.0.id;
            Ok(lock(&self.sessions).iter().filter(|session| session.credential.account == account).count())
        };
        self.preview(asker, Action::ServiceDelete, email, email.to_string(), look).await
    }

    /// The certificates of an account that have not ended.
    pub(super) fn live_of(&self, account: AccountId, now: Timestamp) -> Vec<CertificateRecord> {
        let live = lock(&self.live);
        live.values().filter(|record| record.account == account && record.valid_before > now).cloned().collect()
    }
}

/// The service account, if a key is one of its keys.
fn robots_key<'g>(directory: &Directory, grant: &'g Grant, key: &Fingerprint) -> Result<&'g Arc<Account>, Denial> {
    let account = grant.service()?.0;
    if directory.key(key).is_none_or(|entry| entry.account != account.id) {
        return Err(Denial::plain(Reason::NotFound, format!("{key} is not a key of {}", account.email)));
    }
    Ok(account)
}

/// A service account, with its first key, as a member of its project.
pub(super) fn create_service(
    directory: &Directory,
    (project, path): (&Project, &ProjectPath),
    new: NewService,
    settings: &CertificateSettings,
    by: Actor,
    now: Timestamp,
) -> Result<Decided<(Account, ServiceTerms)>, Denial> {
    gateway_addresses(settings)?;
    let unfit = |error: NameError| Denial::plain(Reason::Invalid, error.to_string());
    let email = service_email(&new.name, path).map_err(unfit)?;
    if directory.account_with_email(&email).is_some() {
        let text = format!("{email} is or was a service account; names are never given out twice");
        return Err(Denial::plain(Reason::Conflict, text));
    }
    let terms = ServiceTerms {
        project: project.id,
        sources: new.sources,
        force_command: new.force_command,
        command_since: now,
        max_ttl: capped(new.max_ttl, settings)?.unwrap_or(settings.max_ttl),
    };
    let account = Account {
        id: AccountId(directory.counters().id),
        org: project.org,
        email,
        user: new_user(directory, &new.name, new.user)?,
        uid: new_uid(directory, new.uid)?,
        state: AccountState::Active,
        kind: AccountKind::Service(Box::new(terms.clone())),
        created: now,
    };
    let fingerprint = check_new_key(directory, &new.key, account.id, now)?;
    let (project, role) = (project.id, Role::Member);
    let detail = format!("{} user {} uid {} key {fingerprint} {terms}", account.email, account.user, account.uid);
    let mutations = vec![
        Mutation::AccountCreated(account.clone()),
        Mutation::KeyAdded(KeyEntry { account: account.id, key: new.key, added: now }),
        Mutation::MemberAdded(Membership { project, account: account.id, role, since: now, by }),
    ];
    Ok(Decided { mutations, certificate: None, detail, answer: (account, terms) })
}

/// One that was chosen, or the first that is free.
fn new_user(directory: &Directory, name: &ServiceName, chosen: Option<UserName>) -> Result<UserName, Denial> {
    let Some(user) = chosen else { return free_user(directory, name) };
    if directory.account_with_user(&user).is_some() {
        let text = format!("the user name {user} is or was somebody's; names are never given out twice");
        return Err(Denial::plain(Reason::Conflict, text));
    }
    if !user.is_service() {
        let text = format!("the user name of a service account begins with svc-; {user} does not");
        return Err(Denial::plain(Reason::Invalid, text));
    }
    Ok(user)
}

/// `svc-NAME`, or with the first number that nobody has or had.
fn free_user(directory: &Directory, name: &ServiceName) -> Result<UserName, Denial> {
    let taken = |_| Denial::plain(Reason::Conflict, format!("no user name is left for {name}; choose another name"));
    let mut again = 0;
    loop {
        let user = service_user(name, again).map_err(taken)?;
        if directory.account_with_user(&user).is_none() {
            return Ok(user);
        }
        again += 1;
    }
}

/// A cap beyond the site's would promise what no certificate keeps.
fn capped(max_ttl: Option<Ttl>, settings: &CertificateSettings) -> Result<Option<Ttl>, Denial> {
    match max_ttl {
        Some(ttl) if ttl > settings.max_ttl => {
            let text = format!("certificates live {0} at most here; ask for {0} or less, not {ttl}", settings.max_ttl);
            Err(Denial::plain(Reason::Invalid, text))
        }
        other => Ok(other),
    }
}

/// Other bounds of a service account, and the end of the certificates among those alive that say more.
pub(super) fn update_service(
    directory: &Directory,
    (account, former): (&Arc<Account>, &ServiceTerms),
    change: TermsChange,
    settings: &CertificateSettings,
    live: &[CertificateRecord],
    now: Timestamp,
) -> Result<Decided<(ServiceTerms, Vec<CertificateRecord>)>, Denial> {
    let mut terms = former.clone();
    match change.force_command {
        CommandChange::Keep => {}
        CommandChange::Lift => terms.force_command = None,
        CommandChange::Force(command) => terms.force_command = Some(command),
    }
    if terms.force_command != former.force_command {
        terms.command_since = now;
    }
    if let Some(sources) = change.sources {
        terms.sources = sources;
    }
    if let Some(ttl) = capped(change.max_ttl, settings)? {
        terms.max_ttl = ttl;
    }
    if terms == *former {
        return Err(Denial::plain(Reason::Conflict, "it is bounded so already; nothing was changed"));
    }
    let denied = |record: &CertificateRecord| directory.denied_serial(record.serial).is_some();
    let says_more = outgrown(former, &terms, now);
    let revoked: Vec<_> = live.iter().filter(|record| !denied(record) && says_more(record)).cloned().collect();
    let mut mutations = vec![Mutation::ServiceTermsSet { account: account.id, terms: Box::new(terms.clone()) }];
    mutations.extend(revoked.iter().map(|record| Mutation::SerialDenied {
        serial: record.serial,
        account: account.id,
        until: record.valid_before,
    }));
    let detail = format!("{terms}; was {former}; certificates revoked {}", revoked.len());
    Ok(Decided { mutations, certificate: None, detail, answer: (terms, revoked) })
}

/// Which certificates say more than new bounds let them. What was issued under narrower ones may stay.
fn outgrown(
    former: &ServiceTerms,
    terms: &ServiceTerms,
    now: Timestamp,
) -> impl Fn(&CertificateRecord) -> bool + use<> {
    let covered = former.sources.iter().all(|old| terms.sources.iter().any(|new| new.contains(old)));
    let bound = terms.force_command.is_some() && terms.force_command != former.force_command;
    let last = now.after(terms.max_ttl.duration());
    move |record| !covered || bound || record.valid_before > last
}

/// The end of a service account, for good.
pub(super) fn delete_service(
    directory: &Directory,
    (account, terms): (&Arc<Account>, &ServiceTerms),
    denied_until: Timestamp,
    by: Actor,
    now: Timestamp,
) -> Decided<()> {
    let mut mutations = retired(directory, account, denied_until, &by, now);
    let departure = Departure { project: terms.project, account: account.id, at: now, by, until: None };
    mutations.push(Mutation::MemberRemoved(departure));
    Decided { mutations, certificate: None, detail: String::new(), answer: () }
}

/// The end of the service accounts of a project that is about to be deleted.
pub(super) fn retired_with_project(
    directory: &Directory,
    project: &Project,
    denied_until: Timestamp,
    by: &Actor,
    now: Timestamp,
) -> Vec<Mutation> {
    services_of(directory, project).flat_map(|account| retired(directory, account, denied_until, by, now)).collect()
}

/// All but the end of the membership, by which it is retired: keys are refused, and what is not there cannot work again.
fn retired(
    directory: &Directory,
    account: &Account,
    denied_until: Timestamp,
    by: &Actor,
    now: Timestamp,
) -> Vec<Mutation> {
    let removed = |key| Mutation::KeyRemoved { account: account.id, key, denied_until };
    let mut mutations: Vec<Mutation> = keys_of(directory, account).into_iter().map(removed).collect();
    match account.state {
        AccountState::Suspended => {}
        AccountState::Active => {
            let (account, state, by) = (account.id, AccountState::Suspended, by.clone());
            mutations.push(Mutation::AccountStateSet { account, state, at: now, by });
        }
    }
    mutations
}

fn services_of<'d>(directory: &'d Directory, project: &Project) -> impl Iterator<Item = &'d Arc<Account>> {
    directory.members_of(project.id).map(|(account, _)| account).filter(|account| account.service().is_some())
}

/// The keys of all service accounts of a project.
pub(super) fn keys_of_services(directory: &Directory, project: &Project) -> BTreeSet<Fingerprint> {
    services_of(directory, project).flat_map(|account| keys_of(directory, account)).collect()
}

fn keys_of(directory: &Directory, account: &Account) -> BTreeSet<Fingerprint> {
    directory.keys_of(account.id).map(|entry| entry.key.fingerprint()).collect()
}
