//! Copies of a whole database, as it is at one moment, while others read and write it.

use super::{
    connect,
    files::{damaged, failed},
    rows,
};
use crate::{
    domain::{Serial, Version},
    store::{Snapshot, StoreError},
};
use rusqlite::{Connection, OpenFlags, params};
use rustix::fs::OFlags;
use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What is left free on the disk beside a copy, in bytes: without it the next change could not be made durable.
const SPARE: u64 = 64 << 20;

/// What a copy is called until it has no name any more.
const SNAPSHOT: &str = "sqlite3.snapshot";

/// Writes a copy into a new file: complete and on disk, under its name only then, and for this user alone.
///
/// # Errors
/// The file is there, or cannot be written.
pub(super) fn whole(database: &Path, file: &Path) -> Result<(), StoreError> {
    if file.symlink_metadata().is_ok() {
        return Err(failed(file, "it is there already"));
    }
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = PathBuf::from(unfinished);
    let copied = write(database, &unfinished).and_then(|()| {
        let synced = File::open(&unfinished).and_then(|file| file.sync_all());
        let renamed = synced.and_then(|()| fs::rename(&unfinished, file));
        let dir = file.parent().unwrap_or(Path::new("/"));
        renamed.and_then(|()| File::open(dir)?.sync_all()).map_err(|error| failed(file, error))
    });
    if copied.is_err() {
        // What is half written is of no use, and the disk may be full of it.
        let _ = fs::remove_file(&unfinished);
    }
    copied
}

/// Takes away what a process has left that was killed while it copied. Only with the right to the directory.
pub(super) fn tidy(database: &Path) {
    // What is not there, or cannot be taken away, is in nobody's way.
    let _ = fs::remove_file(database.with_extension(SNAPSHOT));
}

/// A copy without a name, and what it is.
///
/// # Errors
/// There is not enough space, or it cannot be written.
pub(super) fn snapshot(database: &Path) -> Result<Snapshot, StoreError> {
    let path = database.with_extension(SNAPSHOT);
    let snapshot = write(database, &path).and_then(|()| described(&path));
    let _ = fs::remove_file(&path);
    snapshot
}

fn described(path: &Path) -> Result<Snapshot, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let read = |connection: &Connection| {
        let count = |table: &str, what: &str| {
            let sql = format!("SELECT count(*) AS n FROM {table} WHERE {what}");
            connection.query_row(&sql, [], |row| rows::number(row, "n"))
        };
        let (version, next_serial) = connection.query_row("SELECT version, next_serial FROM meta", [], |row| {
            Ok((Version(rows::number(row, "version")?), Serial(rows::number(row, "next_serial")?)))
        })?;
        Ok((version, next_serial, count("accounts", "TRUE")?, count("projects", "deleted_at IS NULL")?))
    };
    let (version, next_serial, accounts, projects) =
        read(&connection).map_err(|error: rusqlite::Error| damaged(path, error.to_string()))?;
    let head = super::load::end(&connection).map_err(|what| damaged(path, what))?;
    drop(connection);
    // After SQLite has closed it: to close it before would take SQLite's locks away.
    let file = File::open(path).map_err(|error| failed(path, error))?;
    Ok(Snapshot { file, version, next_serial, head, accounts, projects })
}

/// Writes a copy, over whatever had this name.
fn write(database: &Path, copy: &Path) -> Result<(), StoreError> {
    let _ = fs::remove_file(copy);
    check_space(database, copy)?;
    let mut options = OpenOptions::new();
    let made = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(copy)
        // The umask may have taken bits away.
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
    made.map_err(|error| failed(copy, error))?;
    // SQLite takes a path as text. It writes into a file that is empty.
    let Some(name) = copy.to_str() else { return Err(failed(copy, "the path is not UTF-8")) };
    let connection = connect(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.execute("VACUUM INTO ?1", params![name]).map_err(|error| failed(copy, error))?;
    Ok(())
}

/// That the disk is not full afterwards.
fn check_space(database: &Path, copy: &Path) -> Result<(), StoreError> {
    let length = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let needed = length(database.to_owned()) + length(database.with_extension("sqlite3-wal"));
    let dir = copy.parent().unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(dir).map_err(|error| failed(dir, error))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed.saturating_add(SPARE) {
        let what = format!(
            "a copy of the database needs {needed} bytes here, and {free} are free; {SPARE} have to be left for what is \
             written meanwhile. Nothing was copied"
        );
        return Err(failed(dir, what));
    }
    Ok(())
}
