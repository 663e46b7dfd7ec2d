//! One decision, worked out: what it changes, given the state that it saw. Shared by all backends, so that they cannot
//! differ in what a transaction means; how it becomes durable is theirs.

use super::{Change, Commit, Decision, Ledger, Mark, StoreError};
use crate::{
    audit::{Entry, Head, SignedHead, chain},
    domain::{CertificateRecord, Directory, Mutation, Serial, Touched, Version},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

/// What the next decision sees, and what its audit entries follow.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) directory: Arc<Directory>,
    pub(super) next_serial: Serial,
    pub(super) head: Head,
    pub(super) signed: Mark,
    /// What is in the log comes after this one.
    pub(super) start: Mark,
}

/// What a decision changes. Not in force before it is durable.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) mutations: Vec<Mutation>,
    pub(super) certificate: Option<CertificateRecord>,
    pub(super) entries: Vec<Entry>,
    pub(super) signed: Option<SignedHead>,
    pub(super) forget: Option<SignedHead>,
    /// The state after it.
    pub(super) state: State,
    touched: Touched,
}

impl Step {
    /// The directory's version after it.
    pub(super) fn version(&self) -> Version {
        self.state.directory.version()
    }

    /// What to announce, if the directory has changed.
    pub(super) fn into_commit(self) -> Option<Commit> {
        (!self.mutations.is_empty()).then_some(Commit { directory: self.state.directory, touched: self.touched })
    }
}

impl State {
    /// Of an empty store.
    pub(super) fn empty() -> Self {
        let (signed, start) = (Mark::default(), Mark::default());
        Self { directory: Arc::default(), next_serial: Serial(1), head: Head::EMPTY, signed, start }
    }

    /// Runs a decision on this state.
    ///
    /// # Errors
    /// It panicked, or what it says contradicts the directory: nothing is changed.
    pub(super) fn step(&self, decision: Decision) -> Result<Option<Step>, StoreError> {
        let Self { directory, next_serial, head, signed, .. } = self;
        let ledger = Ledger { directory, next_serial: *next_serial, head: *head, signed: *signed };
        // Unwind safety: a decision only sees values that nobody changes in place, and it is gone after this.
        let change = catch_unwind(AssertUnwindSafe(|| decision(ledger)))
            .map_err(|_| StoreError::Failed("the decision failed on a defect in certgate (it panicked)".to_owned()))?;
        change.map_or(Ok(None), |change| self.work_out(change))
    }

    fn work_out(&self, change: Change) -> Result<Option<Step>, StoreError> {
        let Change { mutations, certificate, events, signed, forget } = change;
        let nothing = mutations.is_empty() && certificate.is_none() && events.is_empty();
        if nothing && signed.is_none() && forget.is_none() {
            return Ok(None);
        }
        let forget_mark = forget.map(|head| Mark { number: head.number, seq: head.head.seq });
        if let Some(Mark { number, seq }) = forget_mark
            && (number <= self.start.number
                || seq <= self.start.seq
                || number > self.signed.number
                || seq > self.signed.seq)
        {
            return Err(StoreError::Failed(format!("signed head {number} is not one to begin the audit log with")));
        }
        let mark = signed.map_or(Ok(self.signed), |signed| self.mark(&signed))?;
        let (directory, touched) = self.change_directory(&mutations)?;
        let mut next_serial = self.next_serial;
        if let Some(record) = &certificate {
            if record.serial != self.next_serial {
                let (given, next) = (record.serial, self.next_serial);
                return Err(StoreError::Failed(format!("serial number {given} given out instead of {next}")));
            }
            next_serial = Serial(self.next_serial.0 + 1);
        }
        let mut head = self.head;
        let version = directory.version();
        let entries = events
            .into_iter()
            .map(|event| {
                let entry = chain::append(head, version, event);
                head = Head::after(&entry);
                entry
            })
            .collect();
        let state = Self { directory, next_serial, head, signed: mark, start: forget_mark.unwrap_or(self.start) };
        Ok(Some(Step { mutations, certificate, entries, signed, forget, state, touched }))
    }

    /// A signed head is for the end of the log as the decision saw it, follows the one before, and says something new.
    fn mark(&self, signed: &SignedHead) -> Result<Mark, StoreError> {
        let mark = Mark { number: signed.number, seq: signed.head.seq };
        if signed.head != self.head || mark.number != self.signed.number + 1 || mark.seq <= self.signed.seq {
            return Err(StoreError::Failed(format!("signed head {} does not fit the audit log", signed.number)));
        }
        Ok(mark)
    }

    /// Applies mutations one by one: what each touches is asked of the directory just before it, where what it takes
    /// away is still to be seen.
    fn change_directory(&self, mutations: &[Mutation]) -> Result<(Arc<Directory>, Touched), StoreError> {
        let mut touched = Touched::default();
        if mutations.is_empty() {
            return Ok((Arc::clone(&self.directory), touched));
        }
        let mut directory = (*self.directory).clone();
        for mutation in mutations {
            touched.extend(directory.touched(mutation));
            directory = directory.into_after([mutation]).map_err(|error| StoreError::Failed(error.to_string()))?;
        }
        Ok((Arc::new(directory.at_version(self.directory.version().next())), touched))
    }
}
