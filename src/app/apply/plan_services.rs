//! Service accounts of a project.

use super::{
    fields::{At, List},
    plan::{KeyActions, Planner, Rebinding, Sign},
    read::{DescribedProject, DescribedService},
};
use crate::{
    app::services::{CommandChange, NewService, TermsChange, create_service, delete_service, update_service},
    domain::{Account, Email, ForceCommand, Networks, Project, ProjectPath, ServiceTerms, service_email},
    policy::Action,
};
use std::{collections::BTreeSet, sync::Arc};

/// How they are called where a difference is shown.
const SERVICE: &str = "service account";

const KEYS: KeyActions = KeyActions { kind: SERVICE, add: Action::ServiceKeyAdd, remove: Action::ServiceKeyRemove };

impl Planner<'_> {
    pub(super) fn services(&mut self, described: &DescribedProject, project: &Arc<Project>) {
        let path = &described.path.value;
        let mut listed = BTreeSet::new();
        for service in &described.services {
            let email = match service_email(&service.name.value, path) {
                Ok(email) => email,
                Err(error) => {
                    self.problems.add(service.name.line, error.to_string());
                    continue;
                }
            };
            let known = self.directory.account_with_email(&email).cloned();
            let known = known.filter(|known| self.directory.membership(project.id, known.id).is_some());
            match known.as_ref().and_then(|known| Some((known, known.service()?))) {
                None => self.create_described_service(service, project, path, &email),
                Some((account, terms)) => self.bring_service(service, account, terms),
            }
            listed.insert(email);
        }
        if !self.how.prune {
            return;
        }
        let gone: Vec<Arc<Account>> = self
            .directory
            .members_of(project.id)
            .map(|(account, _)| account)
            .filter(|account| account.service().is_some() && !listed.contains(&account.email))
            .cloned()
            .collect();
        for account in gone {
            let Some(terms) = account.service() else { continue };
            let (by, email) = (self.how.by.clone(), account.email.to_string());
            let deleted = delete_service(&self.directory, (&account, terms), self.how.denied_until, by, self.how.now);
            if self.step(described.line, (Action::ServiceDelete, Sign::Remove), email.clone(), Ok(deleted)).is_some() {
                self.difference.section(Sign::Remove, SERVICE, &email);
            }
        }
    }

    /// A service account that is new, if what is said of it is enough.
    pub(super) fn new_service(&mut self, described: &DescribedService) -> Option<NewService> {
        let DescribedService { line, name, sources, command, max_ttl, user, uid, keys, .. } = described;
        for (said_nothing, field) in [(sources.is_nothing(), "source_address"), (keys.is_nothing(), "keys")] {
            if said_nothing {
                let text = format!("the service account {} is new: it needs `{field}`", name.value);
                self.problems.add(*line, text);
            }
        }
        let sources = self.sources(sources.get())?;
        let At { line, value: List { items, .. } } = keys.get()?;
        let Some(first) = items.first() else {
            let text = format!("the service account {} is new: it needs a key", name.value);
            self.problems.add(*line, text);
            return None;
        };
        Some(NewService {
            name: name.value.clone(),
            sources,
            force_command: command.get().and_then(|command| command.value.0.clone()),
            max_ttl: max_ttl.get().map(|ttl| ttl.value),
            key: first.value.clone(),
            user: user.get().map(|user| user.value.clone()),
            uid: uid.get().map(|uid| uid.value),
        })
    }

    /// One network or address in each text.
    fn sources(&mut self, listed: Option<&At<List<At<Networks>>>>) -> Option<Networks> {
        let At { line, value } = listed?;
        match Networks::new(value.items.iter().flat_map(|networks| networks.value.iter().copied())) {
            Ok(networks) => Some(networks),
            Err(_) if !value.whole => None,
            Err(error) => {
                self.problems.add(*line, error.to_string());
                None
            }
        }
    }

    fn create_described_service(
        &mut self,
        described: &DescribedService,
        project: &Project,
        path: &ProjectPath,
        email: &Email,
    ) {
        let Some(new) = self.new_service(described) else { return };
        let (object, by) = (format!("{path} {}", new.name), self.how.by.clone());
        let chosen =
            [("user", new.user.as_ref().map(ToString::to_string)), ("uid", new.uid.map(|uid| uid.to_string()))];
        let new = NewService { uid: Some(self.uid(new.uid)), ..new };
        let key = new.key.clone();
        let created = create_service(&self.directory, (project, path), new, &self.how.settings, by, self.how.now);
        let step = self.step(described.name.line, (Action::ServiceCreate, Sign::Add), object, created);
        let Some((account, terms)) = step else { return };
        self.difference.section(Sign::Add, SERVICE, email.as_str());
        let mut entries = vec![("project", Some(path.to_string()))];
        entries.extend(chosen);
        entries.push(("source_address", Some(terms.sources.to_string())));
        entries.push(("force_command", terms.force_command.as_ref().map(ToString::to_string)));
        entries.push(("max_ttl", Some(terms.max_ttl.to_string())));
        entries.push(("key", Some(format!("{} {}", key.algorithm(), key.fingerprint()))));
        for (what, value) in entries {
            if let Some(value) = value {
                self.difference.entry(SERVICE, email.as_str(), Sign::Add, what, value);
            }
        }
        // All but the first, which it was made with.
        self.service_keys(described, &account);
        if let Some(state) = described.state.get() {
            self.state(SERVICE, state.line, state.value, &account);
        }
    }

    fn bring_service(&mut self, described: &DescribedService, account: &Arc<Account>, terms: &ServiceTerms) {
        self.numbers_as_described(account, &described.user, &described.uid);
        let change = self.terms_change(described, terms);
        if change != TermsChange::default() {
            let (line, settings) = (described.name.line, &self.how.settings);
            let updated =
                update_service(&self.directory, (account, terms), change.clone(), settings, &[], self.how.now);
            let what = (Action::ServiceUpdate, Sign::Change);
            if let Some((new, _)) = self.step(line, what, account.email.to_string(), updated) {
                self.rebinds(Rebinding { account: account.clone(), change });
                self.show_terms(account, terms, &new);
            }
        }
        self.service_keys(described, account);
        if let Some(state) = described.state.get() {
            self.state(SERVICE, state.line, state.value, account);
        }
    }

    /// What is said of its bounds and is not so.
    fn terms_change(&mut self, described: &DescribedService, terms: &ServiceTerms) -> TermsChange {
        let sources = self.sources(described.sources.get()).filter(|sources| *sources != terms.sources);
        let force_command = match described.command.get().map(|command| &command.value.0) {
            Some(command) if *command != terms.force_command => {
                command.clone().map_or(CommandChange::Lift, CommandChange::Force)
            }
            _ => CommandChange::Keep,
        };
        let max_ttl = described.max_ttl.get().map(|ttl| ttl.value).filter(|ttl| *ttl != terms.max_ttl);
        TermsChange { sources, force_command, max_ttl }
    }

    fn show_terms(&mut self, account: &Account, old: &ServiceTerms, new: &ServiceTerms) {
        let command = |terms: &ServiceTerms| {
            terms.force_command.as_ref().map_or_else(|| "none".to_owned(), ForceCommand::to_string)
        };
        for (what, old, new) in [
            ("source_address", old.sources.to_string(), new.sources.to_string()),
            ("force_command", command(old), command(new)),
            ("max_ttl", old.max_ttl.to_string(), new.max_ttl.to_string()),
        ] {
            if old != new {
                let value = format!("{old} → {new}");
                self.difference.entry(SERVICE, account.email.as_str(), Sign::Change, what, value);
            }
        }
    }

    fn service_keys(&mut self, described: &DescribedService, account: &Account) {
        if let Some(keys) = described.keys.get() {
            self.keys(&KEYS, keys, account);
        }
    }
}
