//! A file that describes organizations, accounts, projects, members, clusters and volumes, and how a directory is brought
//! to what it says; and the other way around. docs/apply.md has the format.

mod difference;
mod fields;
mod plan;
mod plan_projects;
mod plan_resources;
mod plan_services;
mod problems;
mod read;
mod write;

pub use difference::{Difference, Entry, Section};
pub use plan::{Circumstances, Plan, Sign, Step, plan};
pub use problems::{Problem, Problems};
pub use read::Described;
pub use write::{Extent, write};

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    events::gone_with,
    services::update_service,
};
use crate::{
    audit::Event,
    domain::{Directory, Mutation, Timestamp, Version},
    policy::{Action, Denial, Reason},
    store::Change,
};
use plan::Rebinding;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// What a file of descriptions is called in the audit log.
const OBJECT: &str = "directory";

/// What came of applying a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All of it was done; this is the directory's version now.
    Done(Version),
    /// Nothing was done: the directory is another by now, and a plan for it would differ, or was not made.
    Overtaken,
}

impl App {
    /// Whether the asker may apply files at all: asked before a large one is sent.
    ///
    /// # Errors
    /// Refused.
    pub async fn may_apply(self: &Arc<Self>, asker: &Asker) -> Result<(), AppError> {
        self.preview(asker, Action::Apply, None, OBJECT.into(), |_, _, _| Ok(())).await
    }

    /// Reads a file, beside the async threads.
    ///
    /// # Errors
    /// It is no TOML: the inner one. The thread failed: the outer one.
    pub async fn read_described(text: String) -> Result<Result<Arc<Described>, Problems>, AppError> {
        let read = tokio::task::spawn_blocking(move || Described::read(&text).map(Arc::new)).await;
        read.map_err(|_| AppError::Defect("a file could not be read"))
    }

    /// Plans how to bring the directory to what a file describes, beside the async threads.
    ///
    /// # Errors
    /// What is wrong with the file: the inner one. The asker may not: the outer one.
    pub async fn plan_apply(
        self: &Arc<Self>,
        asker: &Asker,
        file: &Arc<Described>,
        prune: bool,
    ) -> Result<Result<Plan, Problems>, AppError> {
        let by = self.view(asker, Action::Apply, None, |_, caller, _| Ok(caller.actor()))?;
        let (app, file) = (self.clone(), file.clone());
        let planned = tokio::task::spawn_blocking(move || {
            let directory = app.directory();
            plan(&directory, &file, &app.circumstances(by, prune))
        });
        planned.await.map_err(|_| AppError::Defect("a file could not be planned"))
    }

    fn circumstances(&self, by: crate::domain::Actor, prune: bool) -> Circumstances {
        let now = self.now();
        let denied_until = self.last_certificate_on(&BTreeSet::new(), now);
        Circumstances { by, now, denied_until, settings: self.site.certificates.clone(), prune }
    }

    /// Puts it on record that a file was refused.
    ///
    /// # Errors
    /// It could not be made durable.
    pub async fn refuse_apply(self: &Arc<Self>, asker: &Asker, problems: &Problems) -> Result<(), AppError> {
        let first = problems.told().first().map(ToString::to_string).unwrap_or_default();
        let text = format!("{} mistakes; {first}", problems.count());
        let denial = Denial::plain(Reason::Invalid, text);
        Ok(self.record_refusal(asker, Action::Apply, OBJECT.to_owned().into(), &denial).await?)
    }

    /// How many open sessions end when a plan is applied: decided by the function that will end them.
    pub async fn sessions_ended_by(self: &Arc<Self>, plan: &Plan) -> usize {
        let (app, after) = (self.clone(), plan.after.clone());
        let counted = tokio::task::spawn_blocking(move || {
            let (now, directory) = (app.now(), app.directory());
            let sessions: Vec<_> = lock(&app.sessions).iter().cloned().collect();
            // What stays for a while only is going to end.
            let stays = |directory: &Directory, session: &super::sessions::Session| {
                matches!(app.stays(directory, session, now), Ok(None))
            };
            sessions.iter().filter(|session| stays(&directory, session) && !stays(&after, session)).count()
        });
        counted.await.unwrap_or_default()
    }

    /// Applies a plan as one transaction, if the directory is still the one that it was made for. On the writer that is
    /// one comparison.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn apply(self: &Arc<Self>, asker: &Asker, plan: Plan) -> Result<Applied, AppError> {
        self.commit(asker, move |directory: &Directory| (directory.version() == plan.from).then_some(plan)).await
    }

    /// Applies a file on the writer itself: for a directory that changes faster than a plan is made. `agreed` is what the
    /// difference has to be, if somebody has said yes to that one.
    ///
    /// # Errors
    /// Refused, or not durable.
    pub async fn apply_at_once(
        self: &Arc<Self>,
        asker: &Asker,
        file: &Arc<Described>,
        prune: bool,
        agreed: Option<Difference>,
    ) -> Result<Applied, AppError> {
        let by = self.view(asker, Action::Apply, None, |_, caller, _| Ok(caller.actor()))?;
        let (app, file) = (self.clone(), file.clone());
        self.commit(asker, move |directory: &Directory| {
            let plan = plan(directory, &file, &app.circumstances(by, prune)).ok()?;
            agreed.is_none_or(|agreed| agreed == plan.difference).then_some(plan)
        })
        .await
    }

    async fn commit(
        self: &Arc<Self>,
        asker: &Asker,
        choose: impl FnOnce(&Directory) -> Option<Plan> + Send + 'static,
    ) -> Result<Applied, AppError> {
        self.view(asker, Action::Apply, None, |_, _, _| Ok(()))?;
        let (app, asker) = (self.clone(), asker.clone());
        let chosen = Arc::new(Mutex::new(false));
        let was_chosen = chosen.clone();
        let decision = move |ledger: crate::store::Ledger<'_>| {
            let plan = choose(ledger.directory)?;
            *lock(&was_chosen) = true;
            Some(app.applied(ledger.directory, &asker, plan))
        };
        let version = self.store.transact(Box::new(decision)).await?;
        let done = *lock(&chosen);
        Ok(if done { Applied::Done(version.unwrap_or_else(|| self.directory().version())) } else { Applied::Overtaken })
    }

    /// The transaction: every change, with an event for the file and one for each change as its command would have made it.
    fn applied(&self, directory: &Directory, asker: &Asker, plan: Plan) -> Change {
        let now = self.now();
        let event = |action: Action, object: String, detail| {
            let event = self.event(directory, asker, action.as_str(), object.into(), now);
            Event { detail, ..event }
        };
        let [added, changed, removed] = plan.counts();
        let detail = format!("{added} added, {changed} changed, {removed} removed");
        let mut events = vec![event(Action::Apply, OBJECT.into(), detail)];
        let mut mutations = Vec::new();
        for step in plan.steps {
            let step = self.decided_now(directory, step, now);
            let with = format!("with {}", step.object);
            events.push(event(step.action, step.object, step.detail));
            let also = gone_with(directory, &step.mutations).into_iter();
            events.extend(also.map(|(action, object)| event(action, object, with.clone())));
            mutations.extend(step.mutations);
        }
        self.deny_removed_keys(&mut mutations, now);
        self.ask_machinery(directory, &mut mutations, now);
        Change { mutations, events, ..Change::default() }
    }

    /// Which certificates of a service account say more than its new bounds, and since when it is bound to a command, is
    /// decided now, on the writer, as for the command: certificates may have been issued since it was planned.
    fn decided_now(&self, directory: &Directory, step: Step, now: Timestamp) -> Step {
        let Some(Rebinding { account, change }) = &step.rebinding else { return step };
        let Some(former) = account.service() else { return step };
        let live = self.live_of(account.id, now);
        let settings = &self.site.certificates;
        match update_service(directory, (account, former), change.clone(), settings, &live, now) {
            Ok(Decided { mutations, detail, .. }) => Step { mutations, detail, ..step },
            // It was decided on this directory before.
            Err(_) => step,
        }
    }

    /// Certificates may have been issued since it was planned until when removed keys are denied: that is decided now, on
    /// the writer, as for the command.
    fn deny_removed_keys(&self, mutations: &mut [Mutation], now: Timestamp) {
        let removed = |mutation: &Mutation| match mutation {
            Mutation::KeyRemoved { key, .. } => Some(*key),
            _ => None,
        };
        let keys: BTreeSet<_> = mutations.iter().filter_map(removed).collect();
        if keys.is_empty() {
            return;
        }
        let until = self.last_certificate_on(&keys, now);
        for mutation in mutations {
            if let Mutation::KeyRemoved { denied_until, .. } = mutation {
                *denied_until = until;
            }
        }
    }

    /// Describes the directory, or a part of it, beside the async threads.
    ///
    /// # Errors
    /// Refused, or there is no such organization or project.
    pub async fn dump(self: &Arc<Self>, asker: &Asker, extent: Extent) -> Result<String, AppError> {
        self.view(asker, Action::Dump, None, |_, _, _| Ok(()))?;
        let directory = self.directory();
        let written = tokio::task::spawn_blocking(move || {
            write(&directory, &extent).ok_or_else(|| match extent {
                Extent::Org(name) => format!("there is no organization {name}"),
                Extent::Project(path) => format!("there is no project {path}"),
                Extent::All => String::new(),
            })
        });
        let written = written.await.map_err(|_| AppError::Defect("the directory could not be described"))?;
        written.map_err(|text| Denial::plain(Reason::NotFound, text).into())
    }
}
