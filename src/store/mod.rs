//! What is durable: the directory, the records of certificates, the audit log. A trait, its SQLite implementation,
//! and one in memory; one contract test suite runs against both.
//!
//! A transaction is a decision: a closure that sees the latest state, on the one writer, and says what changes. Two
//! decisions can so never be made on the same state, and no lock is held while anybody waits.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod contract_audit;
pub mod memory;
#[cfg(test)]
mod random;
#[cfg(test)]
mod samples;
#[cfg(feature = "processes")]
pub mod sqlite;
mod step;

pub use memory::MemoryStore;
#[cfg(feature = "processes")]
pub use sqlite::SqliteStore;

use crate::{
    audit::{Entry, Event, Filter, Head, SignedHead},
    domain::{CertificateRecord, ClusterId, Directory, Mutation, Revision, Serial, Timestamp, Touched, Version},
};
use futures_util::future::BoxFuture;
use serde::Serialize;
use std::{path::PathBuf, sync::Arc};
use thiserror::Error;
use tokio::sync::watch;

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
    /// An entry of the audit log is not one.
    #[error("audit entry {seq} cannot be read: {what}")]
    Entry {
        /// Its number.
        seq: u64,
        /// What is wrong with it.
        what: String,
    },
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
    /// Where the audit log ends.
    pub head: Head,
    /// The last signed head.
    pub signed: Mark,
}

/// A signed head without its signature: what the next one has to follow. All zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub number: u64,
    /// Its entry.
    pub seq: u64,
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
    /// [`Ledger::head`], signed, with the number after [`Ledger::signed`].
    pub signed: Option<SignedHead>,
    /// What comes up to the entry of this signed head, which must be one of the log, leaves the log; the head stays.
    pub forget: Option<SignedHead>,
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

/// Which audit entries are wanted. The default: all, from the first.
#[derive(Clone, Debug)]
pub struct AuditQuery {
    /// Only entries after this number.
    pub after: u64,
    /// Only entries before this number.
    pub before: u64,
    /// No more than so many.
    pub limit: usize,
    /// Begin at the end: the latest ones. What is answered is in the order of numbers all the same.
    pub latest: bool,
    /// Only entries that it wants.
    pub filter: Filter,
    /// Look at about so many entries and no more. Entries that an index leads to cost nothing.
    pub scan: u64,
}

impl Default for AuditQuery {
    fn default() -> Self {
        let filter = Filter::default();
        Self { after: 0, before: u64::MAX, limit: usize::MAX, latest: false, filter, scan: u64::MAX }
    }
}

/// Audit entries that were wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// In the order of their numbers.
    pub entries: Vec<Entry>,
    /// Where to go on: there may be more after this number, or before it if the latest were asked for. None if all of
    /// what was asked for has been looked at.
    pub more: Option<u64>,
}

/// What is left on the file system that a store is on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// So much can still be written by anybody.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// A copy of all that was durable at one moment, and what it is.
#[derive(Debug)]
pub struct Snapshot {
    /// The copy, to be read from its beginning. It has no name any more, and is gone when it is closed.
    pub file: std::fs::File,
    /// The directory's version.
    pub version: Version,
    /// The serial number of the next certificate.
    pub next_serial: Serial,
    /// Where the audit log ends.
    pub head: Head,
    /// How many accounts there are.
    pub accounts: u64,
    /// How many projects there are.
    pub projects: u64,
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
    fn live_certificates(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<CertificateRecord>, StoreError>>;

    /// A configuration that a cluster has or had; none if there was no such revision.
    fn revision(&self, cluster: ClusterId, revision: u64) -> BoxFuture<'_, Result<Option<Revision>, StoreError>>;

    /// Audit entries in order.
    fn audit(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>>;

    /// Where the audit log ends. Changes after a transaction that appended to it has become durable.
    fn audit_end(&self) -> watch::Receiver<Head>;

    /// Signed heads after a number, in order.
    fn signed_heads(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<SignedHead>, StoreError>>;

    /// The last signed head.
    fn last_signed_head(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>>;

    /// What is left where it is kept; none if that is no file system, or does not say.
    fn space(&self) -> Option<Space> {
        None
    }

    /// The last head that was not signed after a time.
    fn signed_head_at(&self, time: Timestamp) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>>;

    /// The signed head after whose entry the log begins; none: it begins with its first entry.
    fn audit_start(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>>;

    /// All that is durable now, whole and consistent, as a database of its own; whatever else goes on.
    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>>;
}
