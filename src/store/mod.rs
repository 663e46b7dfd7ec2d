//! What is durable: the directory, the records of certificates, the audit log. A trait, its SQLite implementation,
//! and one in memory; one contract test suite runs against both.
//!
//! A transaction is a decision: a closure that sees the latest state, on the one writer, and says what changes. Two
//! decisions can so never be made on the same state, and no lock is held while anybody waits.

#[cfg(test)]
mod contract;
pub mod memory;
#[cfg(test)]
mod random;
#[cfg(test)]
mod samples;
pub mod sqlite;
mod step;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

use crate::{
    audit::{Entry, Event},
    domain::{CertificateRecord, ClusterId, Directory, Mutation, Revision, Serial, Touched, Version},
};
use futures_util::future::BoxFuture;
use std::{path::PathBuf, sync::Arc};
use thiserror::Error;

/// Why the store cannot be opened or a transaction was not made durable. The operator's voice: what, where, what next.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has the state directory.
    #[error("{path} is in use by process {holder}; only one authority may run on a state directory")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id, or `unknown`.
        holder: String,
    },
    /// The file is damaged, or not ours, or of a newer schema.
    #[error("{path}: {what}. Nothing was changed. {next}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        next: &'static str,
    },
    /// Writing failed, for instance because the disk is full. Nothing of the transaction is in force.
    #[error("the change could not be made durable and was not made: {0}")]
    Failed(String),
    /// A query failed.
    #[error("the database could not be read: {0}")]
    Unreadable(String),
    /// The writer has stopped.
    #[error("the store has been closed")]
    Closed,
}

/// What a decision sees.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    /// The directory after every transaction before this one.
    pub directory: &'a Directory,
    /// The serial number that the next certificate gets.
    pub next_serial: Serial,
}

/// What a decision says.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Changes to the directory; if there is any, its version rises by one.
    pub mutations: Vec<Mutation>,
    /// The record of a certificate; its serial must be [`Ledger::next_serial`].
    pub certificate: Option<CertificateRecord>,
    /// What the audit log gets. A refusal has events and nothing else.
    pub events: Vec<Event>,
}

/// A decision: no change at all if it returns none. Runs on the writer and must not block.
pub type Decision = Box<dyn FnOnce(Ledger<'_>) -> Option<Change> + Send>;

/// A transaction that changed the directory, as it is announced after it has become durable.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The directory after it.
    pub directory: Arc<Directory>,
    /// What has to be looked at again.
    pub touched: Touched,
}

/// Where commits are announced, in order, each after it is durable and visible in [`Store::directory`].
pub type Commits = tokio::sync::mpsc::UnboundedSender<Commit>;

/// Which audit entries are wanted.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only entries after this number.
    pub after: u64,
    /// No more than so many, the latest of them if `latest` is set.
    pub limit: usize,
    /// Begin at the end of the log.
    pub latest: bool,
}

/// What is durable.
pub trait Store: Send + Sync + 'static {
    /// The latest durable directory. Never blocks.
    fn directory(&self) -> Arc<Directory>;

    /// Runs a decision on the writer, in order with all others, and makes what it says durable. When this returns
    /// `Ok(Some(version))` the change is on disk (fsync) and visible; `Ok(None)`: the decision changed nothing.
    fn transact(&self, decision: Decision) -> BoxFuture<'_, Result<Option<Version>, StoreError>>;

    /// The record of a certificate.
    fn certificate(&self, serial: Serial) -> BoxFuture<'_, Result<Option<CertificateRecord>, StoreError>>;

    /// The records of certificates that end after `now`, by serial.
    fn live_certificates(
        &self,
        now: crate::domain::Timestamp,
    ) -> BoxFuture<'_, Result<Vec<CertificateRecord>, StoreError>>;

    /// A configuration that a cluster has or had; none if there was no such revision.
    fn revision(&self, cluster: ClusterId, revision: u64) -> BoxFuture<'_, Result<Option<Revision>, StoreError>>;

    /// Audit entries in order.
    fn audit(&self, query: AuditQuery) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;
}
