//! What becomes of the audit log once it is durable: each entry goes to the journal, and now and then where it ends is
//! signed. One task does both, from what is on disk, so that it does not matter who appended, and nobody waits for it.

use super::{
    core::{AUDIT_BACKLOG, App, lock},
    error::AppError,
};
use crate::{
    audit::{Entry, Event, SignedHead},
    domain::Timestamp,
    store::{AuditQuery, Change, Ledger, StoreError},
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Where every entry goes; `daemon` lets this through whatever level is asked for.
pub const TARGET: &str = "certgate::audit";

/// Entries that are read at once.
const PAGE: usize = 1000;

/// A head is signed when there are so many entries after the last one.
const SIGN_AFTER_ENTRIES: u64 = 1000;

/// A head is signed when there is something new and the last one is so old.
const SIGN_AFTER: Duration = Duration::from_secs(300);

/// Where much is decided, what is durable is read at most so often, and so many entries at once: on a machine with few
/// cores each reading takes time from the next decision. What comes alone is read at once.
const PACE: Duration = Duration::from_millis(10);

/// How often it is looked at the clock.
const TICK: Duration = Duration::from_secs(15);

/// The last signed head, as far as the next one depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed {
    /// Its entry.
    pub(super) seq: u64,
    /// When it was signed, or was last tried.
    pub(super) at: Timestamp,
}

impl App {
    /// Keeps the journal and the signed heads until `stop`; then once more, so that what was written last is in both.
    pub async fn keep_audit(self: Arc<Self>, stop: CancellationToken) {
        let mut end = self.store.audit_end();
        let mut logged = self.logged_until;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What a former authority has left unsigned is signed at once, and said: it may have ended without doing so, or
        // somebody may have appended to its log.
        let unsigned = self.logged_until.saturating_sub(lock(&self.signed).seq);
        if unsigned > 0 {
            tracing::warn!(
                entries = unsigned,
                "the last {unsigned} entries of the audit log were not signed by the authority that was running before; \
                 it did not end cleanly"
            );
        }
        let mut first = true;
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                changed = end.changed() => changed.is_err(),
                _ = ticks.tick() => {
                    let repeated = lock(&self.repeats).due(self.now());
                    for event in repeated {
                        self.note(event).await;
                    }
                    false
                }
            };
            if stopping {
                let counted = lock(&self.repeats).all();
                for event in counted {
                    self.note(event).await;
                }
                // Everybody who was noting something has given their place back.
                let _ = self.backlog.acquire_many(AUDIT_BACKLOG).await;
            } else {
                pace.tick().await;
            }
            // Page by page: also while the journal does not keep up with what is decided, a head is signed when it is due.
            loop {
                let behind = self.log_page(&mut logged).await;
                if std::mem::take(&mut first) || self.head_is_due() {
                    // What went wrong has been said; it is tried again after a while.
                    let _ = self.sign_head().await;
                }
                if !behind {
                    break;
                }
            }
            if stopping {
                let _ = self.sign_head().await;
                return;
            }
        }
    }

    /// Logs entries after a number, which becomes the last one's; says whether there are more.
    async fn log_page(&self, logged: &mut u64) -> bool {
        let page = match self.store.audit(AuditQuery { after: *logged, limit: PAGE, ..AuditQuery::default() }).await {
            Ok(page) => page.entries,
            Err(error) => {
                tracing::error!(%error, "what was recorded could not be read for the journal");
                // An entry that somebody has spoilt must not keep the next ones out of the journal for good.
                let StoreError::Entry { seq, .. } = error else { return false };
                *logged = seq.max(*logged + 1);
                // One that is found wherever the reading begins must not be read for ever.
                return *logged < self.store.audit_end().borrow().seq;
            }
        };
        let Some(last) = page.last() else { return false };
        *logged = last.seq;
        // A journal that does not keep up must not hold up an async thread.
        let _ = tokio::task::spawn_blocking(move || page.iter().for_each(log)).await;
        *logged < self.store.audit_end().borrow().seq
    }

    fn head_is_due(&self) -> bool {
        let (end, signed) = (self.store.audit_end().borrow().seq, *lock(&self.signed));
        let new = end.saturating_sub(signed.seq);
        let now = self.now();
        let old = now.since(signed.at) >= SIGN_AFTER || signed.at > now;
        new > 0 && old || new >= SIGN_AFTER_ENTRIES
    }

    /// Signs where the audit log ends, unless that is signed already. Durable, and in the journal, when this returns.
    ///
    /// # Errors
    /// It could not be made durable.
    pub(super) async fn sign_head(self: &Arc<Self>) -> Result<Option<SignedHead>, AppError> {
        let (app, slot) = (self.clone(), Arc::new(Mutex::new(None)));
        let filled = slot.clone();
        let decision = move |ledger: Ledger<'_>| {
            if ledger.head.seq <= ledger.signed.seq {
                return None;
            }
            let signed = SignedHead::sign(ledger.signed.number + 1, ledger.head, app.now(), &app.ca.audit);
            *lock(&filled) = Some(signed);
            Some(Change { signed: Some(signed), ..Change::default() })
        };
        let written = self.store.transact(Box::new(decision)).await;
        let made = lock(&slot).take();
        if let Err(error) = written {
            lock(&self.signed).at = self.now();
            tracing::error!(%error, "the audit log's end could not be signed");
            return Err(error.into());
        }
        if let Some(signed) = made {
            let mut last = lock(&self.signed);
            *last = Signed { seq: last.seq.max(signed.head.seq), at: signed.at };
            drop(last);
            tracing::info!(
                target: TARGET,
                action = "audit.head",
                number = signed.number,
                seq = signed.head.seq,
                hash = %signed.head.hash,
                head = %signed,
                "signed head {} of the audit log, after entry {}: {signed}",
                signed.number,
                signed.head.seq,
            );
        }
        Ok(made)
    }
}

/// Logs an entry.
fn log(entry: &Entry) {
    let Entry { seq, version, event, hash, .. } = entry;
    tracing::info!(
        target: TARGET,
        seq,
        at = %event.at,
        actor = event.actor.in_full(),
        key = event.actor.key().map(display),
        source = event.source,
        connection = event.connection,
        action = event.action,
        object = event.object,
        outcome = event.outcome.as_str(),
        reason = event.reason,
        detail = event.detail,
        version = version.0,
        certificate = event.certificate.map(|serial| serial.0),
        session = event.session.as_ref().map(display),
        hash = %hash,
        "{} {} by {}: {}",
        event.action,
        event.outcome.as_str(),
        event.actor.in_full(),
        event.object,
    );
}

/// Logs an event that happened and is not in the audit log.
pub(super) fn lost(event: &Event, error: &StoreError) {
    tracing::error!(
        target: TARGET,
        %error,
        at = %event.at,
        actor = event.actor.in_full(),
        key = event.actor.key().map(display),
        source = event.source,
        connection = event.connection,
        action = event.action,
        object = event.object,
        outcome = event.outcome.as_str(),
        reason = event.reason,
        detail = event.detail,
        certificate = event.certificate.map(|serial| serial.0),
        session = event.session.as_ref().map(display),
        "an audit event could not be made durable",
    );
}
