//! Reading the audit log: the end of it, parts of it, all of it for another system, and whether it is whole.

use super::{
    core::{App, Asker},
    error::AppError,
};
use crate::{
    audit::{Entry, Filter, Head, SignedHead, Verdict, Verifier, Witness},
    policy::Action,
    store::{AuditPage, AuditQuery, StoreError},
};
use ed25519_dalek::VerifyingKey;
use std::sync::Arc;

/// Entries, and signed heads, that are read from the store at once.
const PAGE: usize = 10_000;

/// Entries that a search looks at before it says how far it has come: a second or two.
const SCAN: u64 = 2_000_000;

/// A head that somebody has kept.
#[derive(Clone, Copy, Debug)]
pub enum SavedHead {
    /// Only what the log ended with.
    Plain(Head),
    /// With this authority's signature.
    Signed(SignedHead),
}

/// Entries that were found.
#[derive(Clone, Debug)]
pub struct Audited {
    /// In order.
    pub entries: Vec<Entry>,
    /// The search ended before it had found all, at this entry: it can be gone on with from there.
    pub more: Option<u64>,
}

impl From<AuditPage> for Audited {
    fn from(AuditPage { entries, more }: AuditPage) -> Self {
        Self { entries, more }
    }
}

impl App {
    /// The last `limit` entries before a number that a filter wants.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn audit(&self, asker: &Asker, filter: Filter, before: u64, limit: usize) -> Result<Audited, AppError> {
        self.view(asker, Action::AuditList, None, |_, _, _| Ok(()))?;
        let query = AuditQuery { before, limit, latest: true, filter, scan: SCAN, ..AuditQuery::default() };
        Ok(self.store.audit(query).await?.into())
    }

    /// Entries after a number that a filter wants, in order, for a system that collects them.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn export_audit(
        &self,
        asker: &Asker,
        filter: Filter,
        after: u64,
        limit: usize,
    ) -> Result<Audited, AppError> {
        self.view(asker, Action::AuditList, None, |_, _, _| Ok(()))?;
        let query = AuditQuery { after, limit, filter, scan: SCAN, ..AuditQuery::default() };
        Ok(self.store.audit(query).await?.into())
    }

    /// The last signed head, and the key that signed it.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn audit_head(&self, asker: &Asker) -> Result<(Option<SignedHead>, VerifyingKey), AppError> {
        self.view(asker, Action::AuditList, None, |_, _, _| Ok(()))?;
        Ok((self.store.last_signed_head().await?, self.ca.audit.verifying_key()))
    }

    /// Signs where the audit log ends; then reads all of it and checks its chain, its signed heads, that it ends where
    /// this authority remembers, and that it contains a head that was saved earlier.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn verify_audit(self: &Arc<Self>, asker: &Asker, saved: Option<SavedHead>) -> Result<Verdict, AppError> {
        self.view(asker, Action::AuditVerify, None, |_, _, _| Ok(()))?;
        // If this fails, for instance because the disk is full, that has been said, and there is the more to verify.
        let _ = self.sign_head().await;
        let mut verifier = Verifier::new(self.ca.audit.verifying_key());
        let start = self.store.audit_start().await?;
        if let Some(start) = &start {
            verifier.begin_after(start);
        }
        match saved {
            Some(SavedHead::Plain(head)) => verifier.expect(head, Witness::Saved),
            Some(SavedHead::Signed(signed)) => verifier.expect_signed(&signed),
            None => {}
        }
        verifier.expect(*self.store.audit_end().borrow(), Witness::Authority);
        self.read_through(verifier, start.map_or(0, |start| start.number)).await
    }

    /// Gives everything to a verifier, a page at a time: one is read while the one before it is hashed.
    async fn read_through(&self, mut verifier: Verifier, heads_after: u64) -> Result<Verdict, AppError> {
        let mut heads = Heads { after: heads_after, more: true };
        let mut page = self.page_after(verifier.at().seq).await;
        loop {
            let (entries, spoilt) = match page {
                Ok(entries) => (entries, None),
                Err(StoreError::Entry { seq, what }) => (self.before(verifier.at(), seq).await?, Some((seq, what))),
                Err(error) => return Err(error.into()),
            };
            let last = entries.last().map(|entry| entry.seq);
            // Every signed head up to the end of the page, before it is gone through; all that are left at the end.
            while heads.more && last.is_none_or(|last| verifier.covered() <= last) {
                heads.next(self, &mut verifier).await?;
            }
            let hashing = tokio::task::spawn_blocking(move || {
                entries.iter().for_each(|entry| verifier.entry(entry));
                verifier
            });
            let (next, hashed) = match (last, &spoilt) {
                (Some(last), None) => {
                    let (next, hashed) = tokio::join!(self.page_after(last), hashing);
                    (Some(next), hashed)
                }
                _ => (None, hashing.await),
            };
            verifier = hashed.map_err(|_| AppError::Defect("the verification panicked"))?;
            if let Some((seq, what)) = spoilt {
                verifier.unreadable(seq, what);
            }
            match next {
                Some(next) => page = next,
                None => return Ok(verifier.end()),
            }
        }
    }

    pub(super) async fn page_after(&self, after: u64) -> Result<Vec<Entry>, StoreError> {
        let query = AuditQuery { after, limit: PAGE, ..AuditQuery::default() };
        Ok(self.store.audit(query).await?.entries)
    }

    /// What can be read before an entry that cannot.
    async fn before(&self, from: Head, spoilt: u64) -> Result<Vec<Entry>, StoreError> {
        let query = AuditQuery { after: from.seq, before: spoilt, ..AuditQuery::default() };
        Ok(self.store.audit(query).await?.entries)
    }
}

/// Where the reading of the signed heads is.
struct Heads {
    after: u64,
    more: bool,
}

impl Heads {
    async fn next(&mut self, app: &App, verifier: &mut Verifier) -> Result<(), AppError> {
        let page = app.store.signed_heads(self.after, PAGE).await?;
        self.more = page.len() == PAGE;
        self.after = page.last().map_or(self.after, |signed| signed.number);
        page.iter().for_each(|signed| verifier.signed_head(signed));
        Ok(())
    }
}
