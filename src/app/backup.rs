//! Backups: made by the authority itself, of what is durable at one moment, and encrypted before a byte of them leaves it.

use super::{
    core::{App, Asker, Decided, lock},
    error::AppError,
    events::BACKUP_COMPLETE,
};
use crate::{
    audit::Event,
    backup::{BackupError, Manifest, Recipient, write},
    domain::Timestamp,
    policy::{Action, Denial, Reason},
    store::Change,
};
use std::{collections::BTreeMap, fs::File, io::Write, sync::Arc};
use tokio::sync::OwnedSemaphorePermit;
use zeroize::Zeroizing;

/// The most recipients of one backup.
pub const MAX_RECIPIENTS: usize = 20;

/// A backup that is ready to be written. While it is there no other is made.
pub struct Backup {
    app: Arc<App>,
    manifest: Manifest,
    database: File,
    keys: Vec<(&'static str, Zeroizing<String>)>,
    recipients: Vec<Recipient>,
    /// What is recorded when it was written.
    complete: Event,
    _place: OwnedSemaphorePermit,
}

impl App {
    /// Takes a copy of the directory for a backup. Who asked for it, for whom, and whether with the CA keys, is durable
    /// before anything leaves the authority.
    ///
    /// # Errors
    /// Refused, there is no such recipient, another one is being made, there is no space for the copy, or a key cannot be
    /// read.
    pub async fn begin_backup(
        self: &Arc<Self>,
        asker: &Asker,
        to: &[String],
        with_ca_keys: bool,
    ) -> Result<Backup, AppError> {
        let recipients = recipients(to)?;
        let names = recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let keys = if with_ca_keys { "with the CA keys" } else { "without the CA keys" };
        let subject = format!("to {names}");
        let place = self.backing_up.clone().try_acquire_owned();
        let decide = {
            let busy = place.is_err();
            let uid = match asker {
                Asker::Operator { uid } => Some(*uid),
                Asker::Account { .. } => None,
            };
            move |_: crate::store::Ledger<'_>, _: &_, _: &_, _| {
                // Whatever else an operator does can be undone. These keys cannot be taken back: only those get them who can
                // read their files anyway.
                if with_ca_keys && !uid.is_some_and(has_the_keys) {
                    let text = "a backup with the CA keys is for root, and for the user that the authority runs as";
                    return Err(Denial::plain(Reason::OperatorsOnly, text));
                }
                if busy {
                    return Err(Denial::plain(
                        Reason::Conflict,
                        "another backup is being made; try again when it is done",
                    ));
                }
                Ok(Decided::nothing(keys.into(), ()))
            }
        };
        self.change(asker, Action::BackupCreate, None, subject.clone(), decide).await?;
        let place = place.map_err(|_| AppError::Defect("a backup was allowed beside another one"))?;
        let ca = self.ca.clone();
        let private = async move {
            if !with_ca_keys {
                return Ok(Vec::new());
            }
            let reading = tokio::task::spawn_blocking(move || ca.private()).await;
            reading
                .map_err(|_| AppError::Defect("the reading of the keys panicked"))?
                .map_err(|error| AppError::Denied(Denial::plain(Reason::NotSetUp, error.to_string())))
        };
        let private = private.await?;
        let snapshot = self.store.snapshot().await?;
        let now = self.now();
        let directory = self.directory();
        let complete = Event {
            detail: format!("{keys}, of version {}", snapshot.version),
            ..self.event(&directory, asker, BACKUP_COMPLETE, subject.into(), now)
        };
        let manifest = Manifest {
            format: 0,
            program: env!("CARGO_PKG_VERSION").into(),
            created: now,
            bastion: self.site.bastion.host.clone(),
            version: snapshot.version,
            next_serial: snapshot.next_serial,
            audit: snapshot.head,
            accounts: snapshot.accounts,
            projects: snapshot.projects,
            keys: self.ca.by_name(),
            sha256: BTreeMap::new(),
        };
        let (database, app) = (snapshot.file, self.clone());
        Ok(Backup { app, manifest, database, keys: private, recipients, complete, _place: place })
    }

    /// When a backup was last made, as far as the audit log knows.
    #[must_use]
    pub fn last_backup(&self) -> Option<Timestamp> {
        *lock(&self.last_backup)
    }
}

impl Backup {
    /// Writes it, and hands back what there is to record when all of it has arrived. Blocks.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn write(self, out: impl Write) -> Result<Written, BackupError> {
        let Self { app, manifest, database, keys, recipients, complete, _place } = self;
        write(manifest, &keys, database, &app.ca.audit, &recipients, out)?;
        Ok(Written { app, complete, _place })
    }
}

/// A backup that was written.
pub struct Written {
    app: Arc<App>,
    complete: Event,
    _place: OwnedSemaphorePermit,
}

impl Written {
    /// Records that there is a backup.
    ///
    /// # Errors
    /// Not durable.
    pub async fn record(self) -> Result<(), AppError> {
        let Self { app, complete, .. } = self;
        let at = app.now();
        let change = Change { events: vec![Event { at, ..complete }], ..Change::default() };
        app.store.transact(Box::new(|_| Some(change))).await?;
        *lock(&app.last_backup) = Some(at);
        Ok(())
    }
}

fn has_the_keys(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn recipients(to: &[String]) -> Result<Vec<Recipient>, Denial> {
    let invalid = |text: String| Denial::plain(Reason::Invalid, text);
    if to.is_empty() || to.len() > MAX_RECIPIENTS {
        return Err(invalid(format!("a backup is for one recipient at least, and {MAX_RECIPIENTS} at the most")));
    }
    to.iter().map(|text| text.parse().map_err(invalid)).collect()
}
