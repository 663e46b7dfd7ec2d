//! The files of a state directory: who may read them, who has them, and whether the database is ours (`check`: whether it
//! is whole). What is wrong is said and left as it is: nothing here repairs or replaces a database.

use super::schema::{APPLICATION_ID, OLDEST_SCHEMA, SCHEMA, SCHEMA_VERSION};
use crate::store::StoreError;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{FlockOperation, OFlags, flock};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The database's file name. SQLite keeps `-wal` and `-shm` beside it, with its mode.
pub(super) const DATABASE: &str = "directory.sqlite3";
/// Under this name a new database is made; it has its real name only when it is complete.
const UNFINISHED: &str = "directory.sqlite3.new";
const LOCK: &str = "lock";

const RESTORE: &str =
    "Restore the last backup of the state directory, or keep a copy of the file and look at it with sqlite3.";
const WRONG_DIRECTORY: &str = "Check that state_dir is certgate's own directory.";

pub(super) fn failed(path: &Path, error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("{}: {error}", path.display()))
}

pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), what: what.into(), next: RESTORE }
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Never through a symbolic link, and never waiting for the other end of a pipe.
    options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    options
}

/// That the directory is one, and that nobody else can put files into it.
pub(super) fn check_directory(dir: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(dir).map_err(|error| failed(dir, error))?;
    let refuse = |what: &str, next| Err(StoreError::Damaged { path: dir.to_owned(), what: what.into(), next });
    if !metadata.is_dir() {
        return refuse("not a directory", WRONG_DIRECTORY);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user", "Run the authority as the directory's owner, or chown it.");
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse("others may write to it", "Look at who did, then: chmod 700 on the directory.");
    }
    Ok(())
}

/// That a file that was opened is a regular one, ours, and closed to everybody else.
fn check_private(path: &Path, file: &File) -> Result<(), StoreError> {
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    let refuse = |what: &str, next| Err(StoreError::Damaged { path: path.to_owned(), what: what.into(), next });
    if !metadata.is_file() {
        return refuse("not a regular file", WRONG_DIRECTORY);
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refuse("belongs to another user", "Run the authority as the file's owner, or chown it.");
    }
    if metadata.mode() & 0o077 != 0 {
        return refuse("others may read or write it", "Look at who did, then: chmod 600 on the file.");
    }
    Ok(())
}

/// The right to use a state directory, held until it is dropped or the process is gone.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    pub(super) fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK);
        let mut file = open_options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Held { holder: holder(&mut file), path }),
            Err(error) => return Err(failed(&path, error)),
        }
        // The flock is the lock; the number is only there to be told to others. So it need not be on disk.
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| failed(&path, error))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: whoever removed it could remove another's. What fails here only leaves an old number.
        let _ = self.file.set_len(0);
        // Closing is not enough: a process that another thread is just starting has a copy of the descriptor until its
        // exec, and the lock would be held for so long.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// The process number in a lock file that somebody else holds.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    let pid = text.trim();
    let is_number = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    if read.is_ok() && is_number { pid.to_owned() } else { "unknown".to_owned() }
}

/// The database's path, after it has been made if there was none, and looked at without SQLite.
///
/// The lock is asked for to show that it is held. No file of the database is open when this returns: closing one later
/// would take SQLite's own locks away (POSIX record locks end with the first `close`).
pub(super) fn prepare(dir: &Path, _lock: &Lock) -> Result<PathBuf, StoreError> {
    let path = dir.join(DATABASE);
    match open_options().read(true).open(&path) {
        Ok(mut file) => {
            check_private(&path, &file)?;
            check_header(&path, &mut file)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => create(dir, &path)?,
        Err(error) => return Err(failed(&path, error)),
    }
    for suffix in ["-wal", "-shm"] {
        let path = dir.join(format!("{DATABASE}{suffix}"));
        match open_options().read(true).open(&path) {
            Ok(file) => check_private(&path, &file)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, error)),
        }
    }
    Ok(path)
}

/// That the file is an SQLite database (<https://www.sqlite.org/fileformat.html>, 1.3), ours, of a schema that we know.
fn check_header(path: &Path, file: &mut File) -> Result<(), StoreError> {
    let mut header = [0; 100];
    match file.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(damaged(path, "the file is empty or cut off"));
        }
        Err(error) => return Err(failed(path, error)),
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(damaged(path, "this is not a database, or its beginning was overwritten"));
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    check_version(path, number(68), number(60))?;
    let page = match u64::from(u16::from_be_bytes([header[16], header[17]])) {
        1 => 65536,
        page => page.max(1),
    };
    check_length(path, file, page, number(28).into())
}

/// That no page is missing, nor a part of one: SQLite takes what is missing at the end of the last page for zeros. While
/// there is a write-ahead log the missing pages may be in there, and SQLite is the one to say.
fn check_length(path: &Path, file: &File, page: u64, pages: u64) -> Result<(), StoreError> {
    let wal = path.with_file_name(format!("{DATABASE}-wal"));
    if fs::metadata(wal).is_ok_and(|wal| wal.len() > 0) {
        return Ok(());
    }
    let length = file.metadata().map_err(|error| failed(path, error))?.len();
    if length % page == 0 && length >= pages * page {
        return Ok(());
    }
    Err(damaged(path, format!("the file is cut off: {length} bytes instead of {}", pages * page)))
}

/// The two numbers that say whose a database is and which schema it has.
fn check_version(path: &Path, application_id: u32, schema: u32) -> Result<(), StoreError> {
    let refuse = |what: String, next| Err(StoreError::Damaged { path: path.to_owned(), what, next });
    if application_id != APPLICATION_ID {
        return refuse("this is a database of another application".into(), WRONG_DIRECTORY);
    }
    if schema > SCHEMA_VERSION {
        let what = format!("written by a newer certgate (schema {schema}; this one knows {SCHEMA_VERSION})");
        return refuse(what, "Run that newer version, or restore a backup from before the upgrade.");
    }
    if schema < OLDEST_SCHEMA {
        let what = format!("written before the first release (schema {schema}), from which there is no upgrade");
        return refuse(what, "Begin again with an empty state directory.");
    }
    Ok(())
}

/// Makes an empty database: complete and on disk under another name, then renamed. So a database under its real name has
/// never been half made, and an empty one is known to be damaged.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let unfinished = dir.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&unfinished, error)),
    }
    make(&unfinished).map_err(|error| failed(&unfinished, error))?;
    let renamed = fs::rename(&unfinished, path).and_then(|()| File::open(dir)?.sync_all());
    renamed.map_err(|error| failed(path, error))
}

fn make(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let file = open_options().write(true).create_new(true).open(path)?;
    // The umask may have taken bits away.
    file.set_permissions(Permissions::from_mode(0o600))?;
    drop(file);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch(&format!("BEGIN; {SCHEMA}; COMMIT;"))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(format!("the file system does not allow a write-ahead log (journal mode {mode})").into());
    }
    connection.close().map_err(|(_, error)| error)?;
    Ok(io::Result::<()>::from(File::open(path)?.sync_all())?)
}

/// That SQLite, too, finds the database ours.
pub(super) fn check_ours(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let broken = |error: rusqlite::Error| damaged(path, error.to_string());
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(broken);
    // Again, because a write-ahead log that SQLite has now read may say otherwise than the file's beginning.
    check_version(path, pragma("application_id")?.cast_unsigned(), pragma("user_version")?.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process that was forked has until its exec: it made whoever opened the directory again right after closing it
    /// believe, once in hundreds of runs, that another authority had it.
    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::acquire(dir.path()).unwrap();
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::acquire(dir.path()), Err(StoreError::Held { .. })));
        drop(lock);
        assert!(Lock::acquire(dir.path()).is_ok());
    }
}
