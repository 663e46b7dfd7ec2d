//! The site's own machinery: what it is to do is durable with the change that it follows from, what became of it is
//! durable when it is reported. One provisioner at a time asks for it; it is the only one that runs anything.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    jobs::{answered, asked_again, due, jobs_for, overdue},
    protocol::provisioner::{MAX_WAIT_SECS, NextAnswer, NextRequest, Report, Task},
};
use crate::{
    audit::{Event, Outcome as Audited},
    domain::{
        Actor, ClusterPath, Directory, Job, Mutation, ProjectPath, ProvisionState, Resource, Timestamp, VolumeName,
    },
    policy::{Action, Caller, Denial, Grant, Place, Reason},
    store::{Change, Ledger},
};
use std::{sync::Arc, time::Duration};

/// A provisioner that has not asked for so long is gone: several times what one waits between two questions.
const SILENT: Duration = Duration::from_secs(15);

/// The provisioner that was heard last.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    instance: String,
    since: Timestamp,
    heard: Timestamp,
    /// How many of its questions are waiting for an answer.
    asking: u32,
}

impl Connected {
    fn at(&self, now: Timestamp) -> bool {
        self.asking > 0 || now.since(self.heard) < SILENT
    }
}

/// That a question waits for an answer; who hangs up is gone at once.
struct Asking {
    app: Arc<App>,
    instance: String,
    answered: bool,
}

impl Asking {
    fn begin(app: &Arc<App>, instance: &str) -> Option<Self> {
        let now = app.now();
        let mut slot = lock(&app.provisioner);
        match slot.as_mut() {
            Some(connected) if connected.instance == instance => {
                connected.asking += 1;
                connected.heard = now;
            }
            Some(connected) if connected.at(now) => return None,
            _ => {
                tracing::info!("a provisioner is connected");
                *slot = Some(Connected { instance: instance.to_owned(), since: now, heard: now, asking: 1 });
            }
        }
        Some(Self { app: app.clone(), instance: instance.to_owned(), answered: false })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut slot = lock(&self.app.provisioner);
        let Some(connected) = slot.as_mut().filter(|connected| connected.instance == self.instance) else { return };
        connected.asking -= 1;
        connected.heard = self.app.now();
        if !self.answered && connected.asking == 0 {
            tracing::warn!("the provisioner is gone");
            *slot = None;
        }
    }
}

impl App {
    /// Since when a provisioner is connected.
    pub(super) fn provisioner_since(&self) -> Option<Timestamp> {
        let now = self.now();
        lock(&self.provisioner).as_ref().filter(|connected| connected.at(now)).map(|connected| connected.since)
    }

    /// Adds to changes what the site's machinery is asked because of them.
    pub(super) fn ask_machinery(&self, directory: &Directory, mutations: &mut Vec<Mutation>, now: Timestamp) {
        if self.site.provisioner {
            // A contradiction is the store's to find, and to refuse.
            mutations.extend(jobs_for(directory, mutations, now).unwrap_or_default());
        }
    }

    /// Asks again about everything that has changed while nobody was asked: when machinery was configured again.
    pub(super) async fn resume_provisioning(self: &Arc<Self>) -> Result<(), AppError> {
        let now = self.now();
        let decision = move |ledger: Ledger<'_>| {
            let mutations = overdue(ledger.directory, now);
            let events = mutations.iter().filter_map(|mutation| match mutation {
                Mutation::JobSet(job) => Some(event(job, Audited::Done, "asked again: it has changed".into(), now)),
                _ => None,
            });
            let events = events.collect::<Vec<_>>();
            (!mutations.is_empty()).then_some(Change { mutations, events, ..Change::default() })
        };
        self.store.transact(Box::new(decision)).await?;
        Ok(())
    }

    /// What the site's machinery is to do now; waits for something, if the provisioner wants to wait.
    pub async fn next_tasks(self: &Arc<Self>, request: NextRequest) -> NextAnswer {
        let Some(mut asking) = Asking::begin(self, &request.instance) else { return NextAnswer::Another };
        let mut wake = self.asked.subscribe();
        let reports = *wake.borrow_and_update();
        let running = request.running.iter().copied().collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(request.wait_secs.min(MAX_WAIT_SECS).into());
        loop {
            let now = self.now();
            let (mut jobs, next) = due(&self.directory(), &running, now);
            jobs.truncate(request.room.into());
            // After a report what is running is no longer what was said.
            let stale = *wake.borrow_and_update() != reports;
            if !jobs.is_empty() || stale || tokio::time::Instant::now() >= deadline {
                asking.answered = true;
                return NextAnswer::Tasks(jobs.iter().map(|job| task(job)).collect());
            }
            let until = next.filter(|_| request.room > 0).map(|next| tokio::time::Instant::now() + next.since(now));
            let until = until.map_or(deadline, |next| next.min(deadline));
            // Woken, or time is up: looked at again either way.
            let _ = tokio::time::timeout_at(until, wake.changed()).await;
        }
    }

    /// What became of a task. An answer to a former one changes nothing.
    ///
    /// # Errors
    /// It could not be made durable: to be reported again.
    pub async fn report_task(self: &Arc<Self>, report: Report) -> Result<(), AppError> {
        let app = self.clone();
        let decision = move |ledger: Ledger<'_>| {
            let now = app.now();
            let job = ledger.directory.job(report.resource)?;
            if job.id != report.job || job.state == ProvisionState::Ready {
                tracing::info!(job = report.job, name = %job.name, "an answer to a former job was passed over");
                return None;
            }
            let after = answered(job, &report.outcome, now);
            let events = told(&after, now).into_iter().collect();
            Some(Change { mutations: vec![Mutation::JobSet(after)], events, ..Change::default() })
        };
        self.store.transact(Box::new(decision)).await?;
        self.asked.send_modify(|reports| *reports += 1);
        Ok(())
    }

    /// Asks the site's machinery about a cluster again, now. Operators can do that for one that is gone, too.
    ///
    /// # Errors
    /// Refused, there is no machinery, or not durable.
    pub async fn retry_cluster(self: &Arc<Self>, asker: &Asker, path: &ClusterPath) -> Result<(), AppError> {
        let gone = matches!(asker, Asker::Operator { .. }) && self.directory().cluster_at(path).is_none();
        let place = if gone { Place::Nowhere } else { path.into() };
        let find = move |_: Ledger<'_>, grant: &Grant| {
            if gone { Ok(None) } else { Ok(Some(Resource::Cluster(grant.cluster()?.id))) }
        };
        self.retry(asker, Action::ClusterRetry, place, "cluster", path.to_string(), find).await
    }

    /// Asks the site's machinery about a volume again, now. Operators can do that for one that is gone, too.
    ///
    /// # Errors
    /// Refused, there is no machinery, or not durable.
    pub async fn retry_volume(
        self: &Arc<Self>,
        asker: &Asker,
        path: &ProjectPath,
        name: VolumeName,
    ) -> Result<(), AppError> {
        let gone = matches!(asker, Asker::Operator { .. }) && self.directory().project_at(path).is_none();
        let place = if gone { Place::Nowhere } else { Place::Project(path.clone()) };
        let object = format!("{path} {name}");
        let find = move |ledger: Ledger<'_>, grant: &Grant| {
            if gone {
                return Ok(None);
            }
            let volume = ledger.directory.volume_named(grant.project()?.0.id, &name);
            Ok(volume.map(|volume| Resource::Volume(volume.id)))
        };
        self.retry(asker, Action::VolumeRetry, place, "volume", object, find).await
    }

    async fn retry(
        self: &Arc<Self>,
        asker: &Asker,
        action: Action,
        place: Place,
        what: &'static str,
        name: String,
        find: impl FnOnce(Ledger<'_>, &Grant) -> Result<Option<Resource>, Denial> + Send + 'static,
    ) -> Result<(), AppError> {
        let configured = self.site.provisioner;
        let object = name.clone();
        let decide = move |ledger: Ledger<'_>, _: &Caller, grant: &Grant, now| {
            let resource = find(ledger, grant)?;
            let mutations = asked_again(ledger.directory, &name, resource, now);
            if mutations.is_empty() {
                return Err(Denial::not_found(what, &name, format!("no {what} {name}")));
            }
            if !configured {
                let operator =
                    "no provisioner is configured ([provisioner] in authority.toml), so there is nobody to ask";
                let user = "nothing is made by machinery here, so there is nothing to try again";
                return Err(Denial::told(Reason::Conflict, operator, user));
            }
            Ok(Decided { mutations, certificate: None, detail: String::new(), answer: () })
        };
        self.change(asker, action, place, object, decide).await?;
        Ok(())
    }
}

fn task(job: &Job) -> Task {
    let Job { id, resource, action, name, input, .. } = job;
    Task { job: *id, resource: *resource, name: name.clone(), action: *action, input: input.clone() }
}

/// What the audit log gets about an answer. That it is not done yet is none: machinery may say that for days.
fn told(job: &Job, now: Timestamp) -> Option<Event> {
    let action = job.action;
    match &job.state {
        ProvisionState::Pending => None,
        ProvisionState::Ready => {
            tracing::info!(name = %job.name, %action, "the site's machinery has done it");
            Some(event(job, Audited::Done, format!("{action}: ready"), now))
        }
        ProvisionState::Failed(reason) => {
            let (failures, next) = (job.attempts, job.next);
            tracing::warn!(name = %job.name, %action, failures, %next, reason, "the site's machinery has failed");
            let detail = format!("{action}: failed ({failures} in a row, next try {next}): {reason}");
            Some(event(job, Audited::Refused, detail, now))
        }
    }
}

fn event(job: &Job, outcome: Audited, detail: String, now: Timestamp) -> Event {
    let action = match job.resource {
        Resource::Cluster(_) => "cluster.provision",
        Resource::Volume(_) => "volume.provision",
    };
    let reason = (outcome == Audited::Refused).then(|| "failed".to_owned());
    Event { outcome, reason, detail, ..Event::new(now, Actor::Authority, action, job.name.clone()) }
}
