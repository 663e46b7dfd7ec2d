//! Whether SQLite finds a database whole. A small one is checked before it is used. A large one is large for its audit log;
//! before it is used everything else is checked, because that log is of any length, nothing is decided by it, and nobody
//! should have to wait for it when an authority starts. It is checked while the authority works, and 'audit verify' finds
//! what was altered in it as ever.

use super::{connect, files};
use crate::store::StoreError;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use std::{
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

/// Up to this size, in bytes, a database is checked whole at once: a fraction of a second.
const AT_ONCE: u64 = 64 << 20;

/// The table that is large because it grows with everything that is done, and decides nothing. The record of certificates
/// grows too, but says which ones live and may have to be revoked.
const LOG: &str = "audit";

/// Whether there is something left to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Left {
    /// No.
    Nothing,
    /// The audit log.
    Log,
}

/// Checks a database before it is used: the whole of it, or all but the audit log.
///
/// # Errors
/// It is not whole.
pub(super) fn before_use(path: &Path, connection: &Connection) -> Result<Left, StoreError> {
    let broken = |error: rusqlite::Error| files::damaged(path, error.to_string());
    let check = |what: &str| match quick_check(connection, what).map_err(broken)? {
        None => Ok(()),
        Some(verdict) => Err(files::damaged(path, verdict)),
    };
    if path.metadata().map_err(|error| files::failed(path, error))?.len() <= AT_ONCE {
        check("1")?;
        return Ok(Left::Nothing);
    }
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").map_err(broken)?;
    let tables = statement.query_map([], |row| row.get(0)).map_err(broken)?;
    for table in tables {
        let table: String = table.map_err(broken)?;
        if table != LOG {
            check(&format!("'{}'", table.replace('\'', "''")))?;
        }
    }
    Ok(Left::Log)
}

/// SQLite's check of every page and row (<https://www.sqlite.org/pragma.html#pragma_quick_check>), of one table with its
/// indexes or of everything, up to a number of findings; what it found.
fn quick_check(connection: &Connection, what: &str) -> rusqlite::Result<Option<String>> {
    let verdict: String = connection.query_row(&format!("PRAGMA quick_check({what})"), [], |row| row.get(0))?;
    // SQLite's verdict has several lines; ours has one.
    Ok((verdict != "ok").then(|| verdict.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// The check of a database that is in use. It ends with this.
pub(super) struct Later {
    stop: InterruptHandle,
    /// Present until it is dropped.
    thread: Option<JoinHandle<()>>,
}

impl Later {
    /// Checks everything, beside whatever else is done. If it is not whole, the journal says so and the authority goes on:
    /// all that it decides by is whole, and what cannot be recorded is refused.
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let (stop, path) = (connection.get_interrupt_handle(), path.to_owned());
        let thread = thread::Builder::new()
            .name("store-check".to_owned())
            .spawn(move || {
                let what = match quick_check(&connection, "1") {
                    Ok(None) => return,
                    Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => return,
                    Ok(Some(verdict)) => verdict,
                    Err(error) => error.to_string(),
                };
                tracing::error!("{}", files::damaged(&path, what));
            })
            .map_err(|error| StoreError::Failed(format!("no thread for store-check: {error}")))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // More than once: whoever has not begun is not interrupted.
        while !thread.is_finished() {
            self.stop.interrupt();
            thread::sleep(Duration::from_millis(1));
        }
        // A panic of the thread was reported when it happened.
        let _ = thread.join();
    }
}
