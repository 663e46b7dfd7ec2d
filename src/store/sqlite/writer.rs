//! The writer: one thread that owns the writing connection, takes whatever decisions are waiting and makes them durable
//! in one transaction (group commit). Nothing is in force, announced or answered before the commit is on disk.

use super::write::{self, WriteError};
use crate::{
    audit::Head,
    domain::{Directory, Version},
    store::{
        Commits, Decision, StoreError,
        step::{State, Step},
    },
};
use arc_swap::ArcSwap;
use rusqlite::Connection;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// The most decisions in one transaction: enough to share the cost of a sync, few enough that the first is not kept
/// waiting by the last.
const MAX_BATCH: usize = 256;

/// A decision, and where its caller waits.
pub(super) struct Job {
    pub(super) decision: Decision,
    pub(super) answer: oneshot::Sender<Result<Option<Version>, StoreError>>,
}

/// What the thread owns.
pub(super) struct Writer {
    pub(super) connection: Connection,
    /// The latest durable state.
    pub(super) state: State,
    /// Where its directory is visible.
    pub(super) published: Arc<ArcSwap<Directory>>,
    /// Where the end of its audit log is visible.
    pub(super) end: watch::Sender<Head>,
    pub(super) commits: Commits,
}

/// What became of one decision, before it is known whether the transaction is durable.
type Outcome = Result<Option<Step>, StoreError>;

impl Writer {
    /// Works until nobody can ask any more, and finishes what was accepted.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while jobs.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
            self.transaction(batch.drain(..));
        }
        // Only to leave one tidy file: what is in the write-ahead log is durable as well.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn transaction(&mut self, jobs: impl Iterator<Item = Job>) {
        let (decisions, answers): (Vec<_>, Vec<_>) = jobs.map(|job| (job.decision, job.answer)).unzip();
        match self.write(decisions) {
            Ok(outcomes) => self.publish(outcomes, answers),
            Err(error) => {
                if !self.connection.is_autocommit() {
                    // If even this fails the next BEGIN does too, and nothing is ever said to be durable.
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                // Everyone's: even a decision to change nothing may rest on a change that is now not made.
                for answer in answers {
                    // Whoever has stopped waiting does not want to know.
                    let _ = answer.send(Err(StoreError::Failed(error.to_string())));
                }
            }
        }
    }

    /// Runs all decisions, each on the state that those before it have left, and commits.
    fn write(&self, decisions: Vec<Decision>) -> Result<Vec<Outcome>, WriteError> {
        let mut state = self.state.clone();
        let mut outcomes = Vec::with_capacity(decisions.len());
        for decision in decisions {
            let outcome = match state.step(decision) {
                Ok(Some(step)) => self.write_step(step)?,
                other => other,
            };
            if let Ok(Some(step)) = &outcome {
                state = step.state.clone();
            }
            outcomes.push(outcome);
        }
        if !self.connection.is_autocommit() {
            write::meta(&self.connection, &state)?;
            self.connection.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(outcomes)
    }

    /// Writes one step. If it alone is at fault, it is taken back and the others go on.
    fn write_step(&self, step: Step) -> Result<Outcome, WriteError> {
        if self.connection.is_autocommit() {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        }
        self.connection.prepare_cached("SAVEPOINT step")?.execute([])?;
        let outcome = match write::step(&self.connection, &step) {
            Ok(()) => Ok(Some(step)),
            // Some failures end the whole transaction (https://www.sqlite.org/lang_transaction.html, 3).
            Err(error) if error.is_of_this_step_alone() && !self.connection.is_autocommit() => {
                self.connection.prepare_cached("ROLLBACK TO step")?.execute([])?;
                Err(StoreError::Failed(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        self.connection.prepare_cached("RELEASE step")?.execute([])?;
        Ok(outcome)
    }

    /// What was written is durable now: makes it visible, announces it, and answers, in this order.
    fn publish(&mut self, outcomes: Vec<Outcome>, answers: Vec<oneshot::Sender<Result<Option<Version>, StoreError>>>) {
        if let Some(step) = outcomes.iter().rev().find_map(|outcome| outcome.as_ref().ok().and_then(Option::as_ref)) {
            self.state = step.state.clone();
        }
        self.published.store(Arc::clone(&self.state.directory));
        let head = self.state.head;
        self.end.send_if_modified(|end| std::mem::replace(end, head) != head);
        let mut results = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            results.push(outcome.map(|step| {
                step.map(|step| {
                    let version = step.version();
                    if let Some(commit) = step.into_commit() {
                        // Nobody listening is not a failure of the change.
                        let _ = self.commits.send(commit);
                    }
                    version
                })
            }));
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever has stopped waiting does not want to know.
            let _ = answer.send(result);
        }
    }
}
