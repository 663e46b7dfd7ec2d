//! Audit events: how they are made, and how they reach the log when no change goes with them.

use super::{
    core::{App, Asker, lock},
    journal,
};
use crate::{
    audit::{Event, Outcome},
    domain::{Actor, ClusterId, Directory, Mutation, Serial, SessionId, Timestamp},
    policy::{Action, Denial, NEEDS},
    store::{Change, Ledger, StoreError},
};
use std::sync::Arc;

/// What an event is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    text: String,
    certificate: Option<Serial>,
    session: Option<SessionId>,
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Self { text, certificate: None, session: None }
    }
}

impl From<Serial> for Subject {
    fn from(serial: Serial) -> Self {
        Self { text: format!("serial {serial}"), certificate: Some(serial), session: None }
    }
}

impl From<SessionId> for Subject {
    fn from(id: SessionId) -> Self {
        Self { text: format!("session {id}"), certificate: None, session: Some(id) }
    }
}

/// With the reason why it was not done.
pub(super) fn refused(event: Event, denial: &Denial) -> Event {
    let (reason, detail) = (Some(denial.reason.to_string()), denial.operator.clone());
    Event { outcome: Outcome::Refused, reason, detail, ..event }
}

/// That a backup was written to its end.
pub(super) const BACKUP_COMPLETE: &str = "backup.complete";

/// What the log has beside commands.
const BESIDE_COMMANDS: [&str; 11] = [
    "audit.archive",
    "authenticate",
    BACKUP_COMPLETE,
    "backup.restore",
    "cluster.provision",
    "host-certificate.issue",
    "node.hello",
    "node.join",
    "session.close",
    "session.open",
    "volume.provision",
];

/// Every action that an entry of the log can have.
pub fn recorded_actions() -> impl Iterator<Item = &'static str> {
    NEEDS.iter().map(|(action, _)| action.as_str()).chain(BESIDE_COMMANDS)
}

/// What goes together with a project or a cluster, as its own command would have it in the log, so that it is found there.
pub(super) fn gone_with(directory: &Directory, mutations: &[Mutation]) -> Vec<(Action, String)> {
    let mut gone = Vec::new();
    for mutation in mutations {
        match mutation {
            Mutation::ClusterDeleted { cluster, .. } => nodes_of(directory, *cluster, &mut gone),
            Mutation::ProjectDeleted { project, .. } => {
                let Some(path) = directory.project(*project).and_then(|project| directory.path_of_project(project))
                else {
                    continue;
                };
                for cluster in directory.clusters_of(*project) {
                    nodes_of(directory, cluster.id, &mut gone);
                    let name = directory.path_of_cluster(cluster);
                    gone.extend(name.map(|name| (Action::ClusterDelete, name.to_string())));
                }
                let volumes = directory.volumes_of(*project);
                gone.extend(volumes.map(|volume| (Action::VolumeDelete, format!("{path} {}", volume.name))));
                let services = directory.members_of(*project).filter(|(account, _)| account.service().is_some());
                gone.extend(services.map(|(account, _)| (Action::ServiceDelete, account.email.to_string())));
            }
            _ => {}
        }
    }
    gone
}

fn nodes_of(directory: &Directory, cluster: ClusterId, gone: &mut Vec<(Action, String)>) {
    let names = directory.nodes_of(cluster).filter_map(|node| directory.path_of_node(node));
    gone.extend(names.map(|name| (Action::NodeRemove, name.to_string())));
}

impl App {
    /// What somebody asks, before it is decided.
    pub(super) fn event(
        &self,
        directory: &Directory,
        asker: &Asker,
        action: &str,
        subject: Subject,
        now: Timestamp,
    ) -> Event {
        Event {
            source: asker.source(),
            connection: asker.connection(),
            certificate: subject.certificate.or(asker.certificate()),
            session: subject.session,
            ..Event::new(now, self.actor(directory, asker), action, subject.text)
        }
    }

    /// As the audit log has the asker, also when it is refused.
    pub(super) fn actor(&self, directory: &Directory, asker: &Asker) -> Actor {
        match asker {
            Asker::Operator { uid } => Actor::Operator { uid: *uid },
            Asker::Account { credential, .. } => match directory.account(credential.account) {
                Some(account) => account.actor(credential.key),
                None => Actor::Stranger { key: credential.key },
            },
        }
    }

    /// Puts a refusal on record that was decided before the writer was asked.
    pub(super) async fn record_refusal(
        self: &Arc<Self>,
        asker: &Asker,
        action: Action,
        subject: Subject,
        denial: &Denial,
    ) -> Result<(), StoreError> {
        let (app, asker, denial) = (self.clone(), asker.clone(), denial.clone());
        let decision = move |ledger: Ledger<'_>| {
            let event = app.event(ledger.directory, &asker, action.as_str(), subject, app.now());
            Some(Change { events: vec![refused(event, &denial)], ..Change::default() })
        };
        self.store.transact(Box::new(decision)).await.map(drop)
    }

    /// Appends to the audit log without letting anybody wait, unless thousands are waiting already. For decisions that
    /// must still be possible when the disk is full.
    pub(super) async fn note(self: &Arc<Self>, event: Event) {
        let Ok(place) = self.backlog.clone().acquire_owned().await else { return };
        let store = self.store.clone();
        tokio::spawn(async move {
            let _place = place;
            let lost = event.clone();
            let change = Change { events: vec![event], ..Change::default() };
            if let Err(error) = store.transact(Box::new(move |_| Some(change))).await {
                journal::lost(&lost, &error);
            }
        });
    }

    /// Like [`App::note`], for what somebody can make happen again and again at no cost: the first is recorded, and then
    /// how often it was.
    pub(super) async fn note_repeated(self: &Arc<Self>, event: Event) {
        let recorded = lock(&self.repeats).take(event);
        if let Some(event) = recorded {
            self.note(event).await;
        }
    }
}
