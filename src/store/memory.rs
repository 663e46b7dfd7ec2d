//! A store that forgets everything when it is dropped: for tests, and to keep the trait honest.

use super::{AuditPage, AuditQuery, Commits, Decision, Snapshot, Store, StoreError, step::State};
use crate::{
    audit::{Entry, Head, SignedHead},
    domain::{CertificateRecord, ClusterId, Directory, Document, Mutation, Revision, Serial, Timestamp, Version},
};
use futures_util::future::{BoxFuture, FutureExt, ready};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// A store in memory. The lock is never held across an await, and no decision waits for anything but a decision.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    certificates: BTreeMap<Serial, CertificateRecord>,
    /// Every configuration of each cluster, the first one first.
    revisions: BTreeMap<ClusterId, Vec<Revision>>,
    log: Vec<Entry>,
    signed: Vec<SignedHead>,
    start: Option<SignedHead>,
    end: watch::Sender<Head>,
    commits: Commits,
}

impl Inner {
    fn keep_revision(&mut self, mutation: &Mutation) {
        let mut keep = |cluster: ClusterId, document: &Document, at| {
            let revisions = self.revisions.entry(cluster).or_default();
            let revision = revisions.len() as u64 + 1;
            revisions.push(Revision { revision, document: document.text().to_owned(), at });
        };
        match mutation {
            Mutation::ClusterCreated(cluster) => keep(cluster.id, &cluster.document, cluster.created),
            Mutation::ClusterConfigured { cluster, document, at } => keep(*cluster, document, *at),
            _ => {}
        }
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(commits: Commits) -> Self {
        let inner = Inner {
            state: State::empty(),
            certificates: BTreeMap::new(),
            revisions: BTreeMap::new(),
            log: Vec::new(),
            signed: Vec::new(),
            start: None,
            end: watch::Sender::new(Head::EMPTY),
            commits,
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Another store with the same contents; neither sees what the other changes from then on.
    #[must_use]
    pub fn fork(&self, commits: Commits) -> Self {
        let Inner { state, certificates, revisions, log, signed, start, end, .. } = &*self.inner();
        let inner = Inner {
            state: state.clone(),
            certificates: certificates.clone(),
            revisions: revisions.clone(),
            log: log.clone(),
            signed: signed.clone(),
            start: *start,
            end: watch::Sender::new(*end.borrow()),
            commits,
        };
        Self { inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Decisions' panics are caught inside, and what is changed is changed after the last thing that can fail.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, decision: Decision) -> Result<Option<Version>, StoreError> {
        let mut inner = self.inner();
        let Some(mut step) = inner.state.step(decision)? else { return Ok(None) };
        let version = step.version();
        if let Some(start) = step.forget {
            if !inner.signed.contains(&start) {
                return Err(StoreError::Failed("that signed head is not one of the log".into()));
            }
            inner.start = Some(start);
            inner.log.retain(|entry| entry.seq > start.head.seq);
            inner.signed.retain(|head| head.number >= start.number);
        }
        inner.state = step.state.clone();
        inner.log.append(&mut step.entries);
        inner.signed.extend(step.signed);
        let head = inner.state.head;
        inner.end.send_if_modified(|end| std::mem::replace(end, head) != head);
        for mutation in &step.mutations {
            inner.keep_revision(mutation);
        }
        if let Some(record) = step.certificate.take() {
            inner.certificates.insert(record.serial, record);
        }
        if let Some(commit) = step.into_commit() {
            // Nobody listening is not a failure of the change.
            let _ = inner.commits.send(commit);
        }
        Ok(Some(version))
    }
}

impl Store for MemoryStore {
    fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.inner().state.directory)
    }

    fn transact(&self, decision: Decision) -> BoxFuture<'_, Result<Option<Version>, StoreError>> {
        async move { self.run(decision) }.boxed()
    }

    fn certificate(&self, serial: Serial) -> BoxFuture<'_, Result<Option<CertificateRecord>, StoreError>> {
        ready(Ok(self.inner().certificates.get(&serial).cloned())).boxed()
    }

    fn live_certificates(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<CertificateRecord>, StoreError>> {
        let inner = self.inner();
        ready(Ok(inner.certificates.values().filter(|record| record.valid_before > now).cloned().collect())).boxed()
    }

    fn revision(&self, cluster: ClusterId, revision: u64) -> BoxFuture<'_, Result<Option<Revision>, StoreError>> {
        let inner = self.inner();
        let revisions = inner.revisions.get(&cluster);
        ready(Ok(revisions.and_then(|all| all.iter().find(|r| r.revision == revision)).cloned())).boxed()
    }

    fn audit(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>> {
        ready(Ok(page(&self.inner().log, &query))).boxed()
    }

    fn audit_end(&self) -> watch::Receiver<Head> {
        self.inner().end.subscribe()
    }

    fn signed_heads(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<SignedHead>, StoreError>> {
        let inner = self.inner();
        ready(Ok(inner.signed.iter().filter(|signed| signed.number > after).take(limit).copied().collect())).boxed()
    }

    fn last_signed_head(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        ready(Ok(self.inner().signed.last().copied())).boxed()
    }

    fn signed_head_at(&self, time: Timestamp) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        ready(Ok(self.inner().signed.iter().rfind(|signed| signed.at <= time).copied())).boxed()
    }

    fn audit_start(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        ready(Ok(self.inner().start)).boxed()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        ready(Err(StoreError::Failed("nothing is durable here".into()))).boxed()
    }
}

fn page(log: &[Entry], query: &AuditQuery) -> AuditPage {
    let (first, last) = (log.partition_point(|e| e.seq <= query.after), log.partition_point(|e| e.seq < query.before));
    let range = log.get(first..last).unwrap_or_default();
    let mut page = AuditPage::default();
    let order: Box<dyn Iterator<Item = &Entry>> =
        if query.latest { Box::new(range.iter().rev()) } else { Box::new(range.iter()) };
    for (looked, entry) in (0..).zip(order) {
        if page.entries.len() >= query.limit || looked >= query.scan {
            // The one before, in this order, was the last that was looked at.
            page.more = Some(if query.latest { entry.seq + 1 } else { entry.seq - 1 });
            break;
        }
        if query.filter.wants(&entry.event) {
            page.entries.push(entry.clone());
        }
    }
    if query.latest {
        page.entries.reverse();
    }
    page
}
