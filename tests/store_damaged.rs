//! A database that is damaged, not ours, newer, or open to others: refused by name, with advice, and left as it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers as well")]

use certgate::{
    audit::{Event, Outcome},
    domain::{Actor, Mutation, Org, OrgId, Timestamp},
    store::{Change, SqliteStore, Store, StoreError},
};
use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

const PAGE: usize = 4096;

fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
    let (commits, _) = unbounded_channel();
    SqliteStore::open(dir, commits)
}

/// A state directory with a small database, closed.
fn state() -> (TempDir, PathBuf) {
    state_with(Vec::new())
}

/// The same with these in its audit log.
fn state_with(events: Vec<Event>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mutations = (1..200)
        .map(|id| {
            let name = format!("org-{id}").parse().unwrap();
            Mutation::OrgCreated(Org { id: OrgId(id), name, created: Timestamp::from_secs(id) })
        })
        .collect();
    let change = Change { mutations, events, ..Change::default() };
    runtime.block_on(store.transact(Box::new(|_| Some(change)))).unwrap();
    drop(store);
    let path = dir.path().join("directory.sqlite3");
    (dir, path)
}

/// That opening fails with a message that has `what`, and leaves the file alone.
#[track_caller]
fn refused(dir: &Path, path: &Path, what: &str) {
    let before = fs::read(path).unwrap();
    let changed = fs::metadata(path).unwrap().modified().unwrap();
    let error = open(dir).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "{text}");
    assert!(text.contains(what) && text.contains("Nothing was changed. "), "{text}");
    assert!(!text.contains('\n') && !text.ends_with("changed. "), "{text}");
    assert!(fs::read(path).unwrap() == before, "the file was changed");
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), changed);
}

#[test]
fn an_emptied_or_cut_off_database_is_refused() {
    let (dir, path) = state();
    let whole = fs::read(&path).unwrap();
    for length in [0, 1, 99] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(dir.path(), &path, "empty or cut off");
    }
    for length in [100, PAGE, whole.len() / 2, whole.len() - PAGE, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(dir.path(), &path, "the file is cut off");
    }
    fs::write(&path, &whole).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn garbage_is_refused() {
    let (dir, path) = state();
    fs::write(&path, vec![0xa5; 10 * PAGE]).unwrap();
    refused(dir.path(), &path, "not a database");
}

#[test]
fn any_overwritten_page_is_noticed() {
    let (dir, path) = state();
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / PAGE;
    assert!(pages > 20);
    for page in 0..pages {
        for garbage in [0xa5, 0xff] {
            let mut bytes = whole.clone();
            bytes[page * PAGE..(page + 1) * PAGE].fill(garbage);
            fs::write(&path, bytes).unwrap();
            refused(dir.path(), &path, "");
        }
    }
}

#[test]
fn a_row_that_no_certgate_writes_is_refused() {
    let (dir, path) = state();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE orgs SET name = 'Not A Name' WHERE id = 7", []).unwrap();
    drop(connection);
    refused(dir.path(), &path, "column name: organization name must be");
}

#[test]
fn a_missing_table_is_refused() {
    let (dir, path) = state();
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE denied_serials").unwrap();
    refused(dir.path(), &path, "denied_serials");
}

#[test]
fn a_database_of_another_application_is_refused() {
    let (dir, path) = state();
    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE bookmarks (url TEXT)").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    refused(dir.path(), &path, "another application");
}

#[test]
fn another_schema_is_refused() {
    let (dir, path) = state();
    let set = |version: u32| {
        rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", version).unwrap();
    };
    set(7);
    refused(dir.path(), &path, "newer certgate (schema 7; this one knows 6)");
    set(3);
    refused(dir.path(), &path, "before the first release (schema 3)");
}

#[test]
fn a_database_that_others_can_read_is_refused() {
    let (dir, path) = state();
    for mode in [0o640, 0o604, 0o620, 0o602, 0o660] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        refused(dir.path(), &path, "others may read or write it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let (dir, path) = state();
    for mode in [0o770, 0o777, 0o1777] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let text = open(dir.path()).map(drop).unwrap_err().to_string();
        assert!(text.contains("others may write to it"), "{text}");
    }
    assert!(path.exists());
}

#[test]
fn what_is_not_a_file_is_refused() {
    let (dir, path) = state();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(open(dir.path()).is_err(), "a symbolic link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(open(dir.path()).is_err(), "a directory");
    assert!(open(&dir.path().join("nowhere")).is_err(), "no state directory");
}

/// What the log says, for the check that nobody waits for.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A state directory whose audit log alone is larger than what is checked before a start.
fn large_state() -> (TempDir, PathBuf) {
    let event = Event {
        at: Timestamp::from_secs(1),
        actor: Actor::Authority,
        source: "local".into(),
        connection: None,
        action: "test".into(),
        object: String::new(),
        outcome: Outcome::Done,
        reason: None,
        certificate: None,
        session: None,
        detail: "x".repeat(1 << 20),
    };
    state_with(vec![event; 80])
}

#[test]
fn of_a_large_database_all_but_the_audit_log_is_checked_at_once() {
    let (dir, path) = large_state();
    open(dir.path()).unwrap();
    let whole = fs::read(&path).unwrap();
    // Its table, and the index over its names.
    let pages = whole.chunks(PAGE).enumerate().filter(|(_, page)| page.windows(7).any(|text| text == b"org-150"));
    let pages: Vec<usize> = pages.map(|(number, _)| number).collect();
    assert_eq!(pages.len(), 2);
    for page in pages {
        let mut bytes = whole.clone();
        bytes[page * PAGE..(page + 1) * PAGE].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        refused(dir.path(), &path, "");
    }
    // And the first page of everything else: the record of certificates says which ones live.
    fs::write(&path, &whole).unwrap();
    let connection = rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT name, rootpage FROM sqlite_schema WHERE tbl_name != 'audit' AND rootpage > 1";
    let mut statement = connection.prepare(sql).unwrap();
    let roots = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, u32>(1)? as usize))).unwrap();
    let roots: Vec<(String, usize)> = roots.map(Result::unwrap).collect();
    drop(statement);
    drop(connection);
    assert!(roots.iter().any(|(name, _)| name == "certificates"), "{roots:?}");
    for (name, page) in roots {
        let mut bytes = whole.clone();
        bytes[(page - 1) * PAGE..page * PAGE].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        assert!(open(dir.path()).is_err(), "{name}");
    }
}

#[test]
fn of_a_large_database_the_audit_log_is_checked_while_it_works() {
    let log = Log::default();
    let writer = log.clone();
    // For the whole process: the check has a thread of its own.
    tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || writer.clone()).init();
    let (dir, path) = large_state();
    let mut bytes = fs::read(&path).unwrap();
    let page = bytes.len() / PAGE / 2;
    bytes[page * PAGE..(page + 1) * PAGE].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path()).unwrap();
    for _ in 0..6000 {
        if log.text().contains(&format!("ERROR {}: ", path.display())) {
            // It still ends when it is asked to.
            drop(store);
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nothing was said: {}", log.text());
}
