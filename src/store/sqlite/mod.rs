//! The store in SQLite: one file, one writer thread, one reader thread. No call here blocks an async thread.
//!
//! Write-ahead log with `synchronous=FULL`: a commit is on disk when it returns. What stands in which table is
//! `schema.sql`'s matter, what a file must be like to be opened `files`'.
//!
//! Nothing else in the process may open and close the database file: that would end SQLite's locks on it.

mod audit;
mod check;
mod copy;
mod files;
mod load;
mod migrate;
mod restore;
mod rows;
mod schema;
mod write;
mod writer;

use super::{AuditPage, AuditQuery, Commits, Decision, Snapshot, Space, Store, StoreError, step::State};
use crate::{
    audit::{Head, SignedHead},
    domain::{CertificateRecord, ClusterId, Directory, Revision, Serial, Timestamp, Version},
};
use arc_swap::ArcSwap;
use check::{Later, Left};
use files::Lock;
use futures_util::future::{BoxFuture, FutureExt};
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig, params};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use writer::{Job, Writer};

pub use restore::Moved;

/// Decisions and queries that may wait; whoever comes then waits to be let in.
const QUEUE: usize = 1024;
/// How long SQLite waits for another process that reads the file, such as an operator's `sqlite3`.
const BUSY: Duration = Duration::from_secs(5);
/// How large a write-ahead log may stay after a burst, in bytes.
const WAL_LIMIT: i64 = 64 << 20;
/// Pages of the write-ahead log after which it is brought into the database, which whoever commits then waits for. Most
/// commits write the same few pages again, of which only the last is brought over: four times SQLite's own number.
const CHECKPOINT: i64 = 4000;
/// What the writer keeps of the database in memory, in KiB (below zero, as SQLite has it): all that a large transaction
/// changes, which would be written out early, and read again, otherwise.
const WRITER_CACHE_KIB: i64 = -16_384;
/// Prepared statements that are kept: more than there are in `write`.
const STATEMENTS: usize = 64;

type Query = Box<dyn FnOnce(&Connection) + Send>;

/// A directory's state in SQLite. Dropping it finishes what was accepted (and so may wait for the disk), then lets go of
/// the state directory.
pub struct SqliteStore {
    path: PathBuf,
    directory: Arc<ArcSwap<Directory>>,
    end: watch::Receiver<Head>,
    // In this order they end: what would keep the writer from leaving one tidy file, the writer's work, the readers', and
    // only then the lock.
    _check: Option<Later>,
    writer: Worker<Job>,
    reader: Worker<Query>,
    _lock: Lock,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("version", &self.directory.load().version()).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// The database's file in a state directory.
    #[must_use]
    pub fn database(dir: &Path) -> PathBuf {
        dir.join(files::DATABASE)
    }

    /// Opens the store in a state directory, which must exist; makes an empty one if there is none. Blocks: call it
    /// before, or outside of, the async threads.
    ///
    /// # Errors
    /// Another process has the directory; a file can be read by others; the database is damaged, not ours, or of a newer
    /// schema. In none of these cases is anything changed. A database of an older schema is copied, then migrated; if
    /// either fails, it is as it was.
    pub fn open(dir: &Path, commits: Commits) -> Result<Self, StoreError> {
        files::check_directory(dir)?;
        let lock = Lock::acquire(dir)?;
        let path = files::prepare(dir, &lock)?;
        copy::tidy(&path);
        migrate::to_current(&path)?;
        let (left, state) = Self::look(&path)?;
        Self::start(&path, lock, state, commits, left)
    }

    /// Looks at the database through connections that cannot write, before one that can is opened. It is checked and read
    /// at the same time; what was read counts only if it is whole.
    fn look(path: &Path) -> Result<(Left, State), StoreError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        files::check_ours(path, &connection)?;
        thread::scope(|scope| {
            let checking = scope.spawn(|| check::before_use(path, &connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?));
            let state = load::load(&connection).map_err(|what| files::damaged(path, what));
            let checked =
                checking.join().map_err(|_| StoreError::Failed("the check of the database panicked".into()))?;
            Ok((checked?, state?))
        })
    }

    fn start(path: &Path, lock: Lock, state: State, commits: Commits, left: Left) -> Result<Self, StoreError> {
        let directory = Arc::new(ArcSwap::new(Arc::clone(&state.directory)));
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mode: String = connection
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(|error| files::damaged(path, error.to_string()))?;
        if mode != "wal" {
            return Err(files::damaged(path, format!("it is in journal mode {mode} instead of wal")));
        }
        set_up_for_writing(&connection).map_err(|error| files::damaged(path, error.to_string()))?;
        let published = Arc::clone(&directory);
        let (end, seen) = watch::channel(state.head);
        let writer = Writer { connection, state, published, end, commits };
        let reading = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let writer = Worker::spawn("store-writer", move |jobs| writer.run(jobs))?;
        let reader = Worker::spawn("store-reader", move |mut queries: mpsc::Receiver<Query>| {
            while let Some(query) = queries.blocking_recv() {
                query(&reading);
            }
        })?;
        let check = match left {
            Left::Nothing => None,
            Left::Log => Some(Later::start(path)?),
        };
        Ok(Self { path: path.to_owned(), directory, end: seen, _check: check, writer, reader, _lock: lock })
    }

    /// Runs a query on the reader thread.
    fn read<T: Send + 'static, E: Into<StoreError> + Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StoreError>> {
        async move {
            let (answer, answered) = oneshot::channel();
            let query: Query = Box::new(move |connection| {
                // Whoever has stopped waiting does not want to know.
                let _ = answer.send(query(connection));
            });
            self.reader.send(query).await?;
            answered.await.map_err(|_| StoreError::Closed)?.map_err(Into::into)
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    fn transact(&self, decision: Decision) -> BoxFuture<'_, Result<Option<Version>, StoreError>> {
        async move {
            let (answer, answered) = oneshot::channel();
            self.writer.send(Job { decision, answer }).await?;
            answered.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn certificate(&self, serial: Serial) -> BoxFuture<'_, Result<Option<CertificateRecord>, StoreError>> {
        self.read(move |connection| {
            // A number beyond SQLite's range was never given out.
            let Ok(serial) = i64::try_from(serial.0) else { return Ok(None) };
            connection
                .prepare_cached("SELECT * FROM certificates WHERE serial = ?1")?
                .query_row(params![serial], rows::certificate)
                .optional()
        })
    }

    fn live_certificates(&self, now: Timestamp) -> BoxFuture<'_, Result<Vec<CertificateRecord>, StoreError>> {
        self.read(move |connection| {
            // In range: a timestamp ends with the year 9999.
            let now = i64::try_from(now.millis()).unwrap_or(i64::MAX);
            connection
                .prepare_cached("SELECT * FROM certificates WHERE valid_before > ?1 ORDER BY serial")?
                .query_map(params![now], rows::certificate)?
                .collect()
        })
    }

    fn revision(&self, cluster: ClusterId, revision: u64) -> BoxFuture<'_, Result<Option<Revision>, StoreError>> {
        self.read(move |connection| {
            let (Ok(cluster), Ok(revision)) = (i64::try_from(cluster.0), i64::try_from(revision)) else {
                return Ok(None);
            };
            connection
                .prepare_cached("SELECT * FROM documents WHERE cluster = ?1 AND revision = ?2")?
                .query_row(params![cluster, revision], rows::revision)
                .optional()
        })
    }

    fn audit(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>> {
        audit::search(self, query).boxed()
    }

    fn audit_end(&self) -> watch::Receiver<Head> {
        self.end.clone()
    }

    fn signed_heads(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<SignedHead>, StoreError>> {
        self.read(move |connection| audit::signed_heads(connection, after, limit))
    }

    fn last_signed_head(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        self.read(audit::last_signed_head)
    }

    fn space(&self) -> Option<Space> {
        let found = rustix::fs::statvfs(self.path.parent()?).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn signed_head_at(&self, time: Timestamp) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        self.read(move |connection| audit::signed_head_at(connection, time))
    }

    fn audit_start(&self) -> BoxFuture<'_, Result<Option<SignedHead>, StoreError>> {
        self.read(audit::start)
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        async move {
            // A connection of its own, on a thread of its own: it takes as long as the database is large, and nobody
            // waits for it.
            let database = self.path.clone();
            let copying = tokio::task::spawn_blocking(move || copy::snapshot(&database));
            copying.await.map_err(|_| StoreError::Failed("the copying panicked".into()))?
        }
        .boxed()
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    // No mutex: a connection belongs to one thread. No URI: a path is a path.
    Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .and_then(|connection| configure(&connection).map(|()| connection))
        .map_err(|error| files::damaged(path, error.to_string()))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Against a file that somebody has prepared: no functions or writes from inside its schema.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_LIMIT, |_| Ok(()))
}

fn set_up_for_writing(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT, |_| Ok(()))
}

/// A thread that works through a queue, and is waited for when this is dropped.
struct Worker<T> {
    /// Present until it is dropped.
    queue: Option<mpsc::Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    fn spawn(name: &str, work: impl FnOnce(mpsc::Receiver<T>) + Send + 'static) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(waiting))
            .map_err(|error| StoreError::Failed(format!("no thread for {name}: {error}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    async fn send(&self, item: T) -> Result<(), StoreError> {
        match &self.queue {
            Some(queue) => queue.send(item).await.map_err(|_| StoreError::Closed),
            None => Err(StoreError::Closed),
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
