//! What is older than the audit log keeps: written into the archive, read back, and only then taken out of the log. The log
//! then begins after a signed head, which is the last one of the archive, so that the two are one chain.
//!
//! It can be cut short anywhere: a file that is there is used, and a log that is half shortened is shortened on.

use super::{
    core::{App, Retention},
    error::AppError,
};
use crate::{
    archive::{self, ArchiveError, Checked, Writer},
    audit::{Event, Head, SignedHead},
    domain::{Actor, Timestamp},
    store::{Change, StoreError},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{task::spawn_blocking, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3600);

/// What is kept longer than it should be until there is a day of it: or there would be a file for each hour.
const GATHER: Duration = Duration::from_secs(86_400);

/// Entries of one file, at the least that it can be ended at.
const FILE: u64 = 200_000;

/// Entries that leave the log at once, at the least: the decisions that come meanwhile wait for it.
const PIECE: u64 = 2000;

/// Signed heads that are read at once.
const PAGE: usize = 10_000;

/// Why what is old is still in the log.
#[derive(Debug, Error)]
enum Failed {
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A file that is not what it should be. It is left as it is.
    #[error(
        "{path} is not what was to be archived ({what}). It was left as it is, and nothing left the log: move the file away"
    )]
    Differs { path: PathBuf, what: String },
    #[error("{0}")]
    Defect(#[from] AppError),
}

impl App {
    /// Runs until `stop`.
    pub async fn keep_archive(self: Arc<Self>, stop: CancellationToken) {
        let Some(retention) = self.site.upkeep.retention.clone() else { return };
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.archive_old(&retention, self.now()).await,
            }
        }
    }

    /// Archives what is old enough at this time.
    pub async fn archive_old(self: &Arc<Self>, retention: &Retention, now: Timestamp) {
        if let Err(error) = self.try_archive(retention, now).await {
            tracing::error!(%error, "what is old could not be archived; it stays in the audit log, and is tried again in an hour");
        }
    }

    async fn try_archive(self: &Arc<Self>, retention: &Retention, now: Timestamp) -> Result<(), Failed> {
        let Retention { keep, archive } = retention;
        loop {
            let start = self.store.audit_start().await?;
            let from = start.map_or(Head::EMPTY, |start| start.head);
            // What an earlier attempt has archived is not archived again.
            let (dir, next) = (archive.clone(), from.seq + 1);
            let there = blocking(move || archive::holding(&dir, next)).await??;
            let (path, written) = match there {
                Some((path, first, _)) => (path, first != next),
                None => {
                    let due = self.store.signed_head_at(now.before(*keep + GATHER)).await?;
                    if due.is_none_or(|due| due.head.seq <= from.seq) {
                        return Ok(());
                    }
                    let Some(last) = self.store.signed_head_at(now.before(*keep)).await? else { return Ok(()) };
                    (self.write(archive.clone(), start, last).await?, false)
                }
            };
            self.shorten(path, from, written).await?;
        }
    }

    /// Writes a file with what comes after `start`, up to `last` at the most.
    async fn write(&self, dir: PathBuf, start: Option<SignedHead>, last: SignedHead) -> Result<PathBuf, Failed> {
        let key = self.ca.audit_key();
        let mut writer = blocking(move || Writer::new(&dir, &key, start.as_ref())).await??;
        let (mut number, mut seq) = start.map_or((0, 0), |start| (start.number, start.head.seq));
        let enough = seq + FILE;
        'file: loop {
            let heads = self.store.signed_heads(number, PAGE).await?;
            if heads.is_empty() {
                break;
            }
            for head in heads.into_iter().filter(|head| head.number <= last.number) {
                number = head.number;
                writer = blocking(move || writer.signed_head(&head).map(|()| writer)).await??;
                while seq < head.head.seq {
                    let mut entries = self.page_after(seq).await?;
                    entries.retain(|entry| entry.seq <= head.head.seq);
                    let Some(end) = entries.last().map(|entry| entry.seq) else { break };
                    seq = end;
                    let write = move || entries.iter().try_for_each(|entry| writer.entry(entry)).map(|()| writer);
                    writer = blocking(write).await??;
                }
                if seq >= enough || number == last.number {
                    break 'file;
                }
            }
        }
        Ok(blocking(move || writer.finish()).await??)
    }

    /// Reads a file back; if all of it is what the log has, that leaves the log. `recorded`: it was recorded already.
    async fn shorten(self: &Arc<Self>, path: PathBuf, from: Head, mut recorded: bool) -> Result<(), Failed> {
        let (file, key) = (path.clone(), self.ca.audit_key());
        let Checked { header, verdict, at, heads, sha256 } =
            blocking(move || archive::check(&file, Some(&key), Some(from.seq))).await??;
        let differs = |what: &str| Err(Failed::Differs { path: path.clone(), what: what.to_owned() });
        if let Some(problem) = verdict.problems.first() {
            return differs(&problem.to_string());
        }
        if header.after != from && at != Some(from) {
            return differs("the log does not begin where it does");
        }
        // One chain with the log, to its end: after a restoration the log may have gone on otherwise than this file.
        let Some(end) = heads.last() else { return differs("it has no signed head") };
        if self.store.signed_heads(end.number - 1, 1).await?.first() != Some(end) {
            return differs("the log has not the signed head that it ends with; a restored log goes on by itself");
        }
        let durable = path.clone();
        blocking(move || archive::sync(&durable)).await??;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let detail = format!("entries {} to {}, SHA-256 {sha256}", header.after.seq + 1, verdict.end.seq);
        let mut gone = from.seq;
        for (position, head) in heads.iter().enumerate() {
            let last = position + 1 == heads.len();
            if head.head.seq <= gone || !last && head.head.seq < gone + PIECE {
                continue;
            }
            gone = head.head.seq;
            let event = Event::new(self.now(), Actor::Authority, "audit.archive", &name);
            let event = Event { detail: detail.clone(), ..event };
            let events = if recorded { Vec::new() } else { vec![event] };
            recorded = true;
            // The store has this very head itself, or it refuses.
            let change = Change { events, forget: Some(*head), ..Change::default() };
            self.store.transact(Box::new(move |_| Some(change))).await?;
        }
        tracing::info!(file = %path.display(), "{detail} are in the archive, and no longer in the audit log");
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, AppError> {
    spawn_blocking(work).await.map_err(|_| AppError::Defect("the archive panicked"))
}
