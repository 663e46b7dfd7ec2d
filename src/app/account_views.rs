//! Looking at accounts: service accounts as their project sees them, and everything about one account for operators.

use super::{
    certificates::State,
    core::{App, Asker, lock},
    error::AppError,
    view_types::{AccountView, CertificateView, DepartureView, KeyView, MembershipView, ServiceView, TermsView},
};
use crate::{
    domain::{
        Account, AccountId, CertificateRecord, Departure, Directory, Email, Fingerprint, Holder, KeyEntry, ProjectPath,
        ServiceTerms, Timestamp,
    },
    policy::{Action, Denial, Reason},
};
use std::collections::HashMap;

impl App {
    /// The service accounts of a project.
    ///
    /// # Errors
    /// Refused.
    pub fn services(&self, asker: &Asker, path: &ProjectPath) -> Result<Vec<ServiceView>, AppError> {
        self.view(asker, Action::ServiceList, Some(path), |directory, _, grant| {
            let members = directory.members_of(grant.project()?.0.id);
            let in_use = self.in_use(directory);
            Ok(members.filter_map(|(account, _)| service_view(directory, account, path, &in_use)).collect())
        })
    }

    /// One service account.
    ///
    /// # Errors
    /// Refused, or the asker cannot know of one.
    pub fn service(&self, asker: &Asker, email: &Email) -> Result<ServiceView, AppError> {
        self.view(asker, Action::ServiceShow, email, |directory, _, grant| {
            let (account, path) = (grant.service()?.0, grant.project()?.1);
            let unknown = || Denial::not_found("service account", email, format!("{email} is none"));
            service_view(directory, account, path, &self.in_use(directory)).ok_or_else(unknown)
        })
    }

    /// What every account has in use, each list looked through once.
    fn in_use(&self, directory: &Directory) -> InUse {
        let (mut in_use, now) = (InUse::default(), self.now());
        let is_live = |record: &&CertificateRecord| State::of(directory, record, now) == State::Live;
        for record in lock(&self.live).values().filter(is_live) {
            *in_use.certificates.entry(record.account).or_default() += 1;
        }
        for session in lock(&self.sessions).iter() {
            *in_use.sessions.entry(session.credential.account).or_default() += 1;
        }
        in_use
    }

    /// Everything about an account.
    ///
    /// # Errors
    /// Refused, or no such account.
    pub fn account(&self, asker: &Asker, email: &Email) -> Result<AccountView, AppError> {
        self.view(asker, Action::UserShow, None, |directory, _, _| {
            let unknown = || Denial::plain(Reason::NoAccount, format!("no account has the email {email}"));
            let account = directory.account_with_email(email).ok_or_else(unknown)?;
            let projects = directory.projects_of(account.id).filter_map(|(project, membership)| {
                Some(MembershipView {
                    project: directory.path_of_project(project)?,
                    role: membership.role.to_string(),
                    since: membership.since,
                    by: membership.by.to_string(),
                })
            });
            let left = directory.departures_of(account.id).filter_map(|departure| departed(directory, departure));
            let mut live = self.live_of(account.id, self.now());
            live.sort_by_key(|record| record.serial);
            Ok(AccountView {
                email: account.email.clone(),
                kind: account.kind.holder(),
                org: directory.org(account.org).map(|org| org.name.to_string()).unwrap_or_default(),
                user: account.user.clone(),
                uid: account.uid.0,
                state: state(directory, account),
                created: account.created,
                service: account.service().map(|terms| terms_view(directory, terms)),
                keys: keys(directory, account.id, None),
                projects: projects.collect(),
                removed_from: left.collect(),
                certificates: live.into_iter().map(|record| certificate_view(directory, record, self.now())).collect(),
                sessions: self.all_sessions(directory, Some(account.id), false),
            })
        })
    }
}

/// How many live certificates and open sessions accounts have.
#[derive(Default)]
struct InUse {
    certificates: HashMap<AccountId, usize>,
    sessions: HashMap<AccountId, usize>,
}

fn service_view(
    directory: &Directory,
    account: &Account,
    project: &ProjectPath,
    in_use: &InUse,
) -> Option<ServiceView> {
    let terms = account.service()?;
    let membership = directory.membership(terms.project, account.id)?;
    Some(ServiceView {
        email: account.email.clone(),
        kind: account.kind.holder(),
        project: project.clone(),
        user: account.user.clone(),
        uid: account.uid.0,
        state: state(directory, account),
        sources: terms.sources.clone(),
        force_command: terms.force_command.clone(),
        max_ttl: terms.max_ttl,
        keys: keys(directory, account.id, None),
        certificates: in_use.certificates.get(&account.id).copied().unwrap_or_default(),
        sessions: in_use.sessions.get(&account.id).copied().unwrap_or_default(),
        created: account.created,
        by: membership.by.to_string(),
    })
}

pub(super) fn departed(directory: &Directory, departure: &Departure) -> Option<DepartureView> {
    let gone = directory.gone_project(departure.project);
    let deleted = gone.as_ref().is_some_and(|(_, deletion)| deletion.at == departure.at);
    let project = match gone {
        Some((path, _)) => path,
        None => directory.path_of_project(directory.project(departure.project)?)?,
    };
    Some(DepartureView { project, at: departure.at, by: departure.by.to_string(), deleted })
}

/// `active`, `suspended`, or of a service account `deleted`.
pub(super) fn state(directory: &Directory, account: &Account) -> String {
    if directory.retired(account) { "deleted".into() } else { account.state.to_string() }
}

pub(super) fn terms_view(directory: &Directory, terms: &ServiceTerms) -> TermsView {
    TermsView {
        project: directory.project(terms.project).and_then(|project| directory.path_of_project(project)),
        sources: terms.sources.clone(),
        force_command: terms.force_command.clone(),
        max_ttl: terms.max_ttl,
    }
}

pub(super) fn keys(directory: &Directory, account: AccountId, current: Option<Fingerprint>) -> Vec<KeyView> {
    let view = |entry: &std::sync::Arc<KeyEntry>| KeyView {
        algorithm: entry.key.algorithm(),
        fingerprint: entry.key.fingerprint(),
        added: entry.added,
        current: current == Some(entry.key.fingerprint()),
    };
    directory.keys_of(account).map(view).collect()
}

/// Whose something is, and what that is.
pub(super) fn owner(directory: &Directory, account: AccountId) -> (String, Holder) {
    match directory.account(account) {
        Some(account) => (account.email.to_string(), account.kind.holder()),
        // Accounts are never taken out of the directory.
        None => (String::new(), Holder::Person),
    }
}

pub(super) fn certificate_view(directory: &Directory, record: CertificateRecord, now: Timestamp) -> CertificateView {
    let (account, kind) = owner(directory, record.account);
    CertificateView {
        state: State::of(directory, &record, now),
        serial: record.serial,
        account,
        kind,
        key: record.key,
        principals: record.principals,
        source: record.source,
        until: record.valid_before,
    }
}
