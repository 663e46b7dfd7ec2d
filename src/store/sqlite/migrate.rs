//! From an older schema to this one. A database is copied before anything in it changes; what changes is one transaction, so
//! that a migration that fails, or is killed, leaves the database as it was.

use super::{
    check, connect, copy,
    files::{self, damaged, failed},
    schema::{OLDEST_SCHEMA, SCHEMA_VERSION},
    set_up_for_writing,
};
use crate::store::StoreError;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::{Path, PathBuf};

/// What leads from each schema to the next, beginning with [`OLDEST_SCHEMA`]. What stands here was released: it is never
/// changed again.
const STEPS: &[&str] = &["
    ALTER TABLE meta ADD COLUMN id_floor INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE meta ADD COLUMN uid_floor INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE meta ADD COLUMN gid_floor INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE audit_start (
        one    INTEGER PRIMARY KEY CHECK (one = 1),
        number INTEGER NOT NULL REFERENCES audit_heads (number)
    ) STRICT;
    DROP TRIGGER audit_is_appended_to;
    CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
    WHEN NEW.seq <> coalesce((SELECT max(seq) FROM audit), (SELECT seq FROM audit_start JOIN audit_heads USING (number)), 0) + 1
    BEGIN
        SELECT RAISE(ABORT, 'the audit log is only appended to');
    END;
    DROP TRIGGER audit_is_not_deleted;
    CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
    WHEN OLD.seq > (SELECT coalesce(max(seq), 0) FROM audit_start JOIN audit_heads USING (number)) BEGIN
        SELECT RAISE(ABORT, 'the audit log is only appended to');
    END;
    DROP TRIGGER audit_heads_are_not_deleted;
    CREATE TRIGGER audit_heads_are_not_deleted BEFORE DELETE ON audit_heads
    WHEN OLD.number >= (SELECT coalesce(max(number), 0) FROM audit_start) BEGIN
        SELECT RAISE(ABORT, 'signed heads are only appended to');
    END;
", "
    ALTER TABLE departures ADD COLUMN until INTEGER;
"];

/// Copies that are kept of one schema: more would be a migration that fails again and again.
const MAX_COPIES: usize = 9;

/// Brings a database to this program's schema, after a copy of it has been made beside it.
///
/// # Errors
/// It is damaged, or the copy or the migration failed: the database is as it was.
pub(super) fn to_current(path: &Path) -> Result<(), StoreError> {
    let reading = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    files::check_ours(path, &reading)?;
    let from = schema_of(&reading).map_err(|error| damaged(path, error.to_string()))?;
    let done = from.saturating_sub(OLDEST_SCHEMA) as usize;
    let Some(steps) = STEPS.get(done..).filter(|steps| !steps.is_empty()) else { return Ok(()) };
    // A copy of what is damaged would be no way back.
    let _ = check::before_use(path, &reading)?;
    drop(reading);
    let kept = free_name(path, from)?;
    copy::whole(path, &kept)?;
    tracing::info!(
        copy = %kept.display(),
        "the database is brought from schema {from} to {SCHEMA_VERSION}; as it was, it is kept in {}",
        kept.display()
    );
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let migrated = set_up_for_writing(&connection).and_then(|()| {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()
    });
    migrated.map_err(|error| failed(path, format!("it could not be brought to schema {SCHEMA_VERSION}: {error}")))
}

fn schema_of(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Where a copy of a database of an older schema goes. A copy that is there is never written over.
fn free_name(path: &Path, schema: u32) -> Result<PathBuf, StoreError> {
    let name = |n: usize| match n {
        0 => path.with_extension(format!("sqlite3.schema-{schema}")),
        n => path.with_extension(format!("sqlite3.schema-{schema}.{n}")),
    };
    (0..MAX_COPIES).map(name).find(|path| path.symlink_metadata().is_err()).ok_or_else(|| {
        let what = format!("there are {MAX_COPIES} copies of schema {schema} already, the first of them");
        failed(&name(0), format!("{what} this one; it was not migrated. Take those away that are of no use any more"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Event,
        domain::{Actor, Timestamp, Version},
        store::{AuditQuery, Change, SqliteStore, Store, samples},
    };
    use rusqlite::params;
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
    };
    use tokio::sync::mpsc::unbounded_channel;

    /// As it was when schema 4 was the newest.
    const SCHEMA_4: &str = include_str!("migrate/schema-4.sql");

    fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(dir, unbounded_channel().0)
    }

    /// A state directory with a database of schema 4, and something in it.
    async fn of_schema_4() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = SqliteStore::database(dir.path());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("BEGIN; {SCHEMA_4}; COMMIT;")).unwrap();
        connection.pragma_update(None, "application_id", super::super::schema::APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 4).unwrap();
        let _: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).unwrap();
        // What a store of this schema writes, one of that schema wrote, but for the columns that it did not have.
        let filled = tempfile::tempdir().unwrap();
        let store = open(filled.path()).unwrap();
        let event = Event::new(Timestamp::from_secs(5), Actor::Authority, "test", "one");
        let change = Change { mutations: samples::people(), events: vec![event], ..Change::default() };
        store.transact(Box::new(|_| Some(change))).await.unwrap();
        drop(store);
        let from = SqliteStore::database(filled.path());
        connection.execute("ATTACH ?1 AS filled", params![from.to_str().unwrap()]).unwrap();
        let tables: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        for table in tables.iter().filter(|table| *table != "meta") {
            let columns = "SELECT group_concat('\"' || name || '\"') FROM main.pragma_table_info(?1)";
            let columns: String = connection.query_row(columns, params![table], |row| row.get(0)).unwrap();
            let copy = format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM filled.{table}");
            connection.execute(&copy, []).unwrap();
        }
        connection.execute("UPDATE meta SET version = 1", []).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        drop(connection);
        dir
    }

    /// What a database is made of: its tables' columns, and the text of everything but what columns were added to.
    fn shape(path: &Path) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let list = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let columns =
            "SELECT t.name || ' ' || c.cid || ' ' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' ||
                       coalesce(c.dflt_value, '-') || ' ' || c.pk
                       FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' ORDER BY t.name, c.cid";
        let texts =
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT IN ('meta', 'departures') ORDER BY name";
        let flat = |text: &String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        list(columns).into_iter().chain(list(texts).iter().map(flat)).collect()
    }

    #[tokio::test]
    async fn a_database_of_an_older_schema_is_copied_and_then_becomes_one_of_this() {
        let dir = of_schema_4().await;
        let path = SqliteStore::database(dir.path());
        let before = shape(&path);
        let store = open(dir.path()).unwrap();
        assert_eq!(store.directory().version(), Version(1));
        assert_eq!(store.directory().accounts().count(), 2);
        assert_eq!(store.audit(AuditQuery::default()).await.unwrap().entries.len(), 1);
        drop(store);
        let fresh = tempfile::tempdir().unwrap();
        drop(open(fresh.path()).unwrap());
        assert_eq!(shape(&path), shape(&SqliteStore::database(fresh.path())));
        // The copy is a whole database of the former schema, which that version of certgate can go on with.
        let copy = path.with_extension("sqlite3.schema-4");
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(shape(&copy), before);
        assert_eq!(schema_of(&Connection::open(&copy).unwrap()).unwrap(), 4);
        // Once is enough.
        drop(open(dir.path()).unwrap());
        assert_eq!(
            dir.path()
                .read_dir()
                .unwrap()
                .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().contains("schema"))
                .count(),
            1
        );
    }

    #[tokio::test]
    async fn a_migration_that_fails_changes_nothing_and_no_copy_is_written_over() {
        let dir = of_schema_4().await;
        let path = SqliteStore::database(dir.path());
        // What the migration makes is there already.
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE audit_start (x)").unwrap();
        drop(connection);
        let before = shape(&path);
        for n in 0..MAX_COPIES {
            let error = open(dir.path()).map(drop).unwrap_err().to_string();
            assert!(
                error.contains(&format!("could not be brought to schema {SCHEMA_VERSION}"))
                    && error.contains("audit_start"),
                "{n}: {error}"
            );
            assert_eq!(shape(&path), before);
            assert_eq!(schema_of(&Connection::open(&path).unwrap()).unwrap(), 4);
        }
        let error = open(dir.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("it was not migrated"), "{error}");
    }

    #[test]
    fn there_is_a_way_from_every_schema_to_this_one() {
        assert_eq!(STEPS.len(), (SCHEMA_VERSION - OLDEST_SCHEMA) as usize);
    }
}
