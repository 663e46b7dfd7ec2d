//! Reading the audit log: the end of it, parts of it, all of it for another system, and whether it is whole.

use super::{
    core::{App, Asker},
    error::AppError,
};
use crate::{
    audit::{
        ChainError, Entry, Head,
        chain::{verify, verify_to},
    },
    domain::Timestamp,
    policy::Action,
    store::AuditQuery,
};
use std::collections::VecDeque;

/// Entries that are read from the store at once.
const PAGE: usize = 10_000;

/// Which entries are wanted; what is not set does not filter.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// By whom (an email, a node's name) or from which address.
    pub who: Option<String>,
    /// Which actions: `member.remove`, or `member` for all of them.
    pub what: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl AuditFilter {
    fn wants(&self, entry: &Entry) -> bool {
        let event = &entry.event;
        let by = |who: &String| event.actor.to_string() == *who || event.source == *who;
        let about = |what: &String| {
            event.action.strip_prefix(what.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.who.as_ref().is_none_or(by)
            && self.what.as_ref().is_none_or(about)
            && self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at < until)
    }
}

impl App {
    /// The last `limit` entries that a filter wants, in order.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn audit(&self, asker: &Asker, filter: &AuditFilter, limit: usize) -> Result<Vec<Entry>, AppError> {
        self.view(asker, Action::AuditList, None, |_, _, _| Ok(()))?;
        let (mut found, mut after) = (VecDeque::new(), 0);
        loop {
            let page = self.store.audit(AuditQuery { after, limit: PAGE, latest: false }).await?;
            let last = page.len() < PAGE;
            after = page.last().map_or(after, |entry| entry.seq);
            for entry in page.into_iter().filter(|entry| filter.wants(entry)) {
                if found.len() == limit {
                    found.pop_front();
                }
                found.push_back(entry);
            }
            if last {
                return Ok(found.into());
            }
        }
    }

    /// Entries after a number, in order, for a system that collects them.
    ///
    /// # Errors
    /// Refused, or the store cannot be read.
    pub async fn export_audit(&self, asker: &Asker, after: u64, limit: usize) -> Result<Vec<Entry>, AppError> {
        self.view(asker, Action::AuditList, None, |_, _, _| Ok(()))?;
        Ok(self.store.audit(AuditQuery { after, limit, latest: false }).await?)
    }

    /// Reads the whole audit log and checks its chain, and that it contains a head that was saved earlier; returns
    /// where it ends.
    ///
    /// # Errors
    /// Refused, or the store cannot be read. The inner error names the first entry that does not fit.
    pub async fn verify_audit(&self, asker: &Asker, saved: Option<Head>) -> Result<Result<Head, ChainError>, AppError> {
        self.view(asker, Action::AuditVerify, None, |_, _, _| Ok(()))?;
        let mut head = Head::EMPTY;
        loop {
            let page = self.store.audit(AuditQuery { after: head.seq, limit: PAGE, latest: false }).await?;
            let last = page.len() < PAGE;
            // The saved head counts in the page that has it, and at the end, where it must have been seen.
            let due = saved.filter(|saved| last || page.last().is_some_and(|entry| entry.seq >= saved.seq));
            let checked = match due.filter(|saved| saved.seq >= head.seq) {
                Some(saved) => verify_to(head, &page, saved),
                None => verify(head, &page),
            };
            head = match checked {
                Ok(head) => head,
                Err(error) => return Ok(Err(error)),
            };
            if last {
                return Ok(Ok(head));
            }
        }
    }
}
