//! From a directory and what a file describes to the changes that bring the one to the other.
//!
//! Every change is decided by the function that decides the command for it, on a directory in which all changes before it
//! are made already. So a file can do nothing that commands cannot, and no rule is written down twice.

use super::{
    difference::Difference,
    fields::{At, List, Said},
    problems::Problems,
    read::{Described, DescribedAccount},
};
use crate::{
    app::{
        accounts::{NewAccount, add_key, check_new_key, create_account, create_org, remove_key, set_state},
        core::Decided,
        services::TermsChange,
    },
    domain::{
        Account, AccountState, Actor, Directory, Email, Fingerprint, Mutation, OrgName, PublicKey, Timestamp, Uid,
        UserName, Version,
    },
    policy::{Action, CertificateSettings, Denial},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Whether something comes, goes or becomes something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// It comes.
    Add,
    /// It becomes something else.
    Change,
    /// It goes.
    Remove,
}

/// Under which circumstances it is planned.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Who applies it.
    pub by: Actor,
    /// When.
    pub now: Timestamp,
    /// Until when keys that are removed now are refused.
    pub denied_until: Timestamp,
    /// The site's rules for certificates, which bound those of service accounts.
    pub settings: CertificateSettings,
    /// Service accounts, clusters and volumes of described projects go if they are not described.
    pub prune: bool,
}

/// Other bounds of a service account: which of its certificates say more is seen when it is done.
#[derive(Clone, Debug)]
pub(super) struct Rebinding {
    pub(super) account: Arc<Account>,
    pub(super) change: TermsChange,
}

/// Which commands change the keys of an account of some kind.
pub(super) struct KeyActions {
    /// The kind, where a difference is shown.
    pub(super) kind: &'static str,
    pub(super) add: Action,
    pub(super) remove: Action,
}

/// How an account is called where a difference is shown.
const ACCOUNT: &str = "account";

const KEYS: KeyActions = KeyActions { kind: ACCOUNT, add: Action::KeyAdd, remove: Action::KeyRemove };

/// One change, as a command would make it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the command is.
    pub action: Action,
    /// Whether something comes, goes or becomes something else.
    pub sign: Sign,
    /// On what, as in the audit log.
    pub object: String,
    /// As in the audit log.
    pub detail: String,
    /// What it changes.
    pub mutations: Vec<Mutation>,
    /// What has to be decided once more when it is done.
    pub(super) rebinding: Option<Rebinding>,
}

/// All changes, in an order in which each is allowed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The directory that it begins with.
    pub from: Version,
    /// The changes.
    pub steps: Vec<Step>,
    /// For people.
    pub difference: Difference,
    /// The directory that it ends with.
    pub after: Directory,
}

impl Plan {
    /// How many things come, become something else, and go.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        [Sign::Add, Sign::Change, Sign::Remove].map(|sign| self.steps.iter().filter(|step| step.sign == sign).count())
    }
}

/// Plans how to bring a directory to what a file describes.
///
/// # Errors
/// All that is wrong with the file, as it stands and with this directory.
pub fn plan(directory: &Directory, file: &Described, how: &Circumstances) -> Result<Plan, Problems> {
    let mut planner = Planner {
        from: directory,
        directory: directory.clone(),
        how,
        steps: Vec::new(),
        difference: Difference::default(),
        problems: file.problems.clone(),
        failed_accounts: BTreeSet::new(),
        uids: Numbers::beside(file.uids()),
        gids: Numbers::beside(file.gids()),
    };
    for org in &file.orgs {
        planner.org(org);
    }
    for account in &file.accounts {
        planner.account(account);
    }
    for project in &file.projects {
        planner.project(project);
    }
    let Planner { directory: after, steps, difference, problems, .. } = planner;
    if problems.is_empty() {
        Ok(Plan { from: directory.version(), steps, difference, after })
    } else {
        Err(problems.sorted())
    }
}

pub(super) struct Planner<'a> {
    from: &'a Directory,
    /// As it is after all steps so far.
    pub(super) directory: Directory,
    pub(super) how: &'a Circumstances,
    steps: Vec<Step>,
    pub(super) difference: Difference,
    pub(super) problems: Problems,
    /// Accounts that are described but could not be planned: that they are not there is not told again.
    failed_accounts: BTreeSet<Email>,
    uids: Numbers,
    gids: Numbers,
}

/// Numbers for those to whom the file gives none: never one that it gives to somebody, whoever comes first.
struct Numbers {
    described: BTreeSet<Uid>,
    /// All before this one were given out, or are described.
    next: Uid,
}

impl Numbers {
    fn beside(described: impl Iterator<Item = Uid>) -> Self {
        Self { described: described.collect(), next: Uid::FIRST }
    }

    /// The next one, not before `from`.
    fn next(&mut self, from: Uid) -> Uid {
        let mut number = self.next.max(from);
        // Beyond the last one there is none to be found, which is said when it is to be given out.
        while number <= Uid::LAST && self.described.contains(&number) {
            number = Uid(number.0 + 1);
        }
        self.next = Uid(number.0 + 1);
        number
    }
}

impl Planner<'_> {
    /// Makes a change that was decided; a decision that says no is a mistake in that line.
    pub(super) fn step<T>(
        &mut self,
        line: usize,
        (action, sign): (Action, Sign),
        object: String,
        decided: Result<Decided<T>, Denial>,
    ) -> Option<T> {
        let Decided { mutations, detail, answer, .. } = match decided {
            Ok(decided) => decided,
            Err(denial) => {
                self.problems.add(line, denial.operator);
                return None;
            }
        };
        match std::mem::take(&mut self.directory).into_after(&mutations) {
            Ok(next) => self.directory = next,
            // Decisions never make one. What was taken apart is made again from the beginning.
            Err(inconsistent) => {
                self.problems.add(line, format!("certgate made a mistake: {inconsistent}. Please report it"));
                let before = self.steps.iter().flat_map(|step| &step.mutations);
                self.directory = self.from.after(before).unwrap_or_default();
                return None;
            }
        }
        self.steps.push(Step { action, sign, object, detail, mutations, rebinding: None });
        Some(answer)
    }

    /// The last step has to be decided once more when it is done.
    pub(super) fn rebinds(&mut self, rebinding: Rebinding) {
        if let Some(step) = self.steps.last_mut() {
            step.rebinding = Some(rebinding);
        }
    }

    /// The user number of a new account: the one that is described, or the next one.
    pub(super) fn uid(&mut self, described: Option<Uid>) -> Uid {
        described.unwrap_or_else(|| self.uids.next(self.directory.counters().uid))
    }

    /// The group numbers of a new project.
    pub(super) fn gids(&mut self, gid: Option<Uid>, admins_gid: Option<Uid>) -> [Uid; 2] {
        let next = self.directory.counters().gid;
        [gid, admins_gid].map(|described| described.unwrap_or_else(|| self.gids.next(next)))
    }

    pub(super) fn has_failed(&self, account: &Email) -> bool {
        self.failed_accounts.contains(account)
    }

    fn org(&mut self, At { line, value: name }: &At<OrgName>) {
        if self.directory.org_named(name).is_some() {
            return;
        }
        let decided = create_org(&self.directory, name.clone(), self.how.now);
        if self.step(*line, (Action::OrgCreate, Sign::Add), name.to_string(), decided).is_some() {
            self.difference.section(Sign::Add, "organization", name.as_str());
        }
    }

    fn account(&mut self, described: &DescribedAccount) {
        let email = &described.email.value;
        let known = self.directory.account_with_email(email).cloned();
        let account = match &known {
            None => self.new_account(described),
            Some(account) => self.account_as_described(described, account).then(|| account.clone()),
        };
        let Some(account) = account else {
            self.failed_accounts.insert(email.clone());
            return;
        };
        if let Some(keys) = described.keys.get().filter(|_| known.is_some()) {
            self.keys(&KEYS, keys, &account);
        }
        if let Some(At { line, value: state }) = described.state.get() {
            self.state(ACCOUNT, *line, *state, &account);
        }
    }

    fn new_account(&mut self, described: &DescribedAccount) -> Option<Arc<Account>> {
        let DescribedAccount { line, email, org, user, uid, keys, .. } = described;
        if org.is_nothing() || user.is_nothing() {
            self.problems.add(*line, format!("{} is new: its account needs `org` and `user`", email.value));
        }
        let (org, user) = (org.get()?, user.get()?);
        let uid = uid.get();
        let keys: Vec<_> = keys.get().into_iter().flat_map(|keys| &keys.value.items).collect();
        // The number that the account will have: a key can be nobody's yet.
        let id = crate::domain::AccountId(self.directory.counters().id);
        let mut good = true;
        for key in &keys {
            if let Err(denial) = check_new_key(&self.directory, &key.value, id, self.how.now) {
                self.problems.add(key.line, denial.operator);
                good = false;
            }
        }
        let (org_is_there, user_is_free) =
            (self.directory.org_named(&org.value).is_some(), self.directory.account_with_user(&user.value).is_none());
        let line = match uid {
            _ if !org_is_there => org.line,
            _ if !user_is_free => user.line,
            uid => uid.map_or(*line, |uid| uid.line),
        };
        if !good {
            return None;
        }
        let new = NewAccount {
            email: email.value.clone(),
            org: org.value.clone(),
            user: user.value.clone(),
            uid: Some(self.uid(uid.map(|uid| uid.value))),
            keys: keys.iter().map(|key| key.value.clone()).collect(),
        };
        let decided = create_account(&self.directory, new, self.how.now);
        let account = self.step(line, (Action::UserCreate, Sign::Add), email.value.to_string(), decided)?;
        self.difference.section(Sign::Add, ACCOUNT, email.value.as_str());
        let mut entry = |what, value| self.difference.entry(ACCOUNT, email.value.as_str(), Sign::Add, what, value);
        entry("org", org.value.to_string());
        entry("user", user.value.to_string());
        if let Some(uid) = uid {
            entry("uid", uid.value.to_string());
        }
        for key in keys {
            entry("key", format!("{} {}", key.value.algorithm(), key.value.fingerprint()));
        }
        Some(account)
    }

    /// Whether what can never be changed is as it is.
    fn account_as_described(&mut self, described: &DescribedAccount, account: &Account) -> bool {
        let before = self.problems.count();
        let email = &account.email;
        if account.service().is_some() {
            let text = format!("{email} is a service account, which is described in its project");
            self.problems.add(described.email.line, text);
        }
        let org = self.directory.org(account.org).map(|org| org.name.clone());
        if let Some(described) = described.org.get().filter(|described| Some(&described.value) != org.as_ref()) {
            let org = org.map(|org| org.to_string()).unwrap_or_default();
            self.problems.add(described.line, format!("{email} belongs to {org}, which cannot be changed"));
        }
        self.numbers_as_described(account, &described.user, &described.uid);
        self.problems.count() == before
    }

    pub(super) fn numbers_as_described(&mut self, account: &Account, user: &Said<UserName>, uid: &Said<Uid>) {
        let email = &account.email;
        if let Some(user) = user.get().filter(|user| user.value != account.user) {
            let text = format!("the user name of {email} is {}, which cannot be changed", account.user);
            self.problems.add(user.line, text);
        }
        if let Some(uid) = uid.get().filter(|uid| uid.value != account.uid) {
            let text = format!("the user number of {email} is {}, which cannot be changed", account.uid);
            self.problems.add(uid.line, text);
        }
    }

    /// The keys of an account are exactly those that are listed.
    pub(super) fn keys(&mut self, actions: &KeyActions, keys: &At<List<At<PublicKey>>>, account: &Account) {
        let At { line, value: list } = keys;
        let name = account.email.as_str();
        let listed: BTreeMap<Fingerprint, _> = list.items.iter().map(|key| (key.value.fingerprint(), key)).collect();
        let present: BTreeSet<Fingerprint> =
            self.directory.keys_of(account.id).map(|entry| entry.key.fingerprint()).collect();
        for (fingerprint, key) in listed.iter().filter(|(fingerprint, _)| !present.contains(fingerprint)) {
            let decided = add_key(&self.directory, account, key.value.clone(), self.how.now);
            let object = format!("{fingerprint} {name}");
            if self.step(key.line, (actions.add, Sign::Add), object, decided).is_some() {
                let value = format!("{} {fingerprint}", key.value.algorithm());
                self.difference.entry(actions.kind, name, Sign::Add, "key", value);
            }
        }
        if !list.whole {
            return;
        }
        for fingerprint in present.iter().filter(|fingerprint| !listed.contains_key(fingerprint)) {
            let algorithm = self.directory.key(fingerprint).map(|entry| entry.key.algorithm()).unwrap_or_default();
            let decided = Ok(remove_key(account, *fingerprint, self.how.denied_until));
            let object = format!("{fingerprint} {name}");
            if self.step(*line, (actions.remove, Sign::Remove), object, decided).is_some() {
                self.difference.entry(actions.kind, name, Sign::Remove, "key", format!("{algorithm} {fingerprint}"));
            }
        }
    }

    pub(super) fn state(&mut self, kind: &'static str, line: usize, state: AccountState, account: &Account) {
        if account.state == state {
            return;
        }
        let action = match state {
            AccountState::Suspended => Action::UserSuspend,
            AccountState::Active => Action::UserResume,
        };
        let decided = set_state(&self.directory, account, state, self.how.by.clone(), self.how.now);
        if self.step(line, (action, Sign::Change), account.email.to_string(), decided).is_some() {
            let value = format!("{} → {state}", account.state);
            self.difference.entry(kind, account.email.as_str(), Sign::Change, "state", value);
        }
    }
}
