//! A database from a backup, made fit to go on. What was given out between the backup and now is not in it, and must never be
//! given out again: so all numbers move on, far beyond what can have been given out meanwhile.

use super::{SqliteStore, connect, files};
use crate::{
    audit::Event,
    domain::{Counters, Mutation, Serial, Timestamp, Uid, Version},
    store::{Change, Store, StoreError},
};
use rusqlite::{OpenFlags, params};
use std::path::Path;
use tokio::sync::mpsc::unbounded_channel;

/// Serial numbers that are passed over for each millisecond since 1970: more than an authority gives out in one
/// (benches/results). So what is restored later leaps further: also of two authorities from the same backup, one after the
/// other, the second gives out nothing that the first has. The same goes for versions, and for identifiers.
const SERIALS: u64 = 16;
const VERSIONS: u64 = 1;
const IDS: u64 = 1;
/// User and group numbers, of which there are not so many: these, and one for each minute since the backup, but no more than
/// half of those that are left.
const NUMBERS: u32 = 1_000;

/// What the numbers are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The directory's version.
    pub version: Version,
    /// The serial number of the next certificate.
    pub next_serial: Serial,
    /// What is given out next.
    pub counters: Counters,
    /// Join tokens that do not work any more: nobody knows which of them were used meanwhile.
    pub tokens: usize,
}

impl SqliteStore {
    /// Moves all numbers of a database on that comes from a backup, takes its join tokens back, and records `event`. Only
    /// once: each time they move on. Reads and writes files as it is polled: for a program that does nothing else.
    ///
    /// # Errors
    /// Another process has the directory; the database is damaged, not ours, or of a newer schema; it cannot be written.
    pub async fn move_on(dir: &Path, event: Event, created: Timestamp, now: Timestamp) -> Result<Moved, StoreError> {
        use_write_ahead_log(&Self::database(dir))?;
        let store = Self::open(dir, unbounded_channel().0)?;
        let Counters { id, uid, gid } = store.directory().counters();
        let minutes = u32::try_from(now.since(created).as_secs() / 60).unwrap_or(u32::MAX);
        let beyond = |next| beyond(next, minutes);
        let leap = now.millis();
        let floor = Counters { id: id.saturating_add(IDS * leap), uid: beyond(uid), gid: beyond(gid) };
        drop(store);
        {
            let _lock = files::Lock::acquire(dir)?;
            let path = Self::database(dir);
            let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            let moved = connection.execute(
                "UPDATE meta SET version = version + ?1, next_serial = next_serial + ?2, id_floor = ?3, uid_floor = ?4,
                 gid_floor = ?5",
                params![
                    (VERSIONS * leap).cast_signed(),
                    (SERIALS * leap).cast_signed(),
                    floor.id.cast_signed(),
                    floor.uid.0,
                    floor.gid.0
                ],
            );
            moved.map_err(|error| files::failed(&path, error))?;
        }
        let store = Self::open(dir, unbounded_channel().0)?;
        let (tell, told) = std::sync::mpsc::channel();
        let decision = move |ledger: crate::store::Ledger<'_>| {
            let clusters = ledger.directory.clusters().map(|cluster| cluster.id);
            let tokens = clusters.flat_map(|cluster| ledger.directory.tokens_of(cluster));
            let live = tokens.filter(|token| token.used.is_none() && token.expires > now);
            let mutations: Vec<_> = live.map(|token| Mutation::TokenUsed { hash: token.hash, at: now }).collect();
            // Nobody waits for the answer if this function is not there any more.
            let _ = tell.send((mutations.len(), ledger.next_serial));
            Some(Change { mutations, events: vec![event], ..Change::default() })
        };
        store.transact(Box::new(decision)).await?;
        let (tokens, next_serial) = told.recv().unwrap_or((0, Serial(0)));
        let directory = store.directory();
        Ok(Moved { version: directory.version(), next_serial, counters: directory.counters(), tokens })
    }
}

fn beyond(next: Uid, minutes: u32) -> Uid {
    let left = Uid::LAST.0.saturating_sub(next.0);
    Uid(next.0 + NUMBERS.saturating_add(minutes).min(left / 2))
}

/// A copy that SQLite has made has none.
fn use_write_ahead_log(path: &Path) -> Result<(), StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
    match mode.map_err(|error| files::damaged(path, error.to_string()))?.as_str() {
        "wal" => Ok(()),
        mode => {
            Err(files::failed(path, format!("the file system does not allow a write-ahead log (journal mode {mode})")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Entry,
        domain::{AccountId, Actor, JoinToken, TokenHash},
        store::{AuditQuery, Decision, samples},
    };

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

    fn open(dir: &Path) -> SqliteStore {
        SqliteStore::open(dir, unbounded_channel().0).unwrap()
    }

    fn event(action: &str) -> Event {
        Event::new(NOW, Actor::Operator { uid: 0 }, action, "x")
    }

    async fn log(store: &SqliteStore) -> Vec<Entry> {
        store.audit(AuditQuery::default()).await.unwrap().entries
    }

    fn token(n: u8, expires: Timestamp) -> Mutation {
        let node = "login-0".parse().unwrap();
        let (by, role) = (samples::OPERATOR, crate::domain::NodeRole::Login);
        let hash = TokenHash([n; 32]);
        Mutation::TokenCreated(JoinToken {
            hash,
            cluster: samples::CLUSTER,
            node,
            role,
            address: None,
            port: 22,
            by,
            expires,
            used: None,
        })
    }

    #[tokio::test]
    async fn nothing_that_was_given_out_after_the_backup_is_given_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let later = Timestamp::from_secs(1_795_000_900);
        let tokens = [token(1, later), token(2, NOW)];
        let mutations = samples::people().into_iter().chain(samples::places()).chain(tokens).collect();
        let change = Change { mutations, events: vec![event("one")], ..Change::default() };
        store.transact(Box::new(|_| Some(change))).await.unwrap();
        let snapshot = store.snapshot().await.unwrap();
        let before = (*store.directory()).clone();
        assert_eq!((snapshot.version, snapshot.accounts, snapshot.projects), (Version(1), 2, 1));
        assert_eq!(snapshot.head, *store.audit_end().borrow());
        assert_eq!(dir.path().read_dir().unwrap().count(), 4, "the database, its two logs and the lock");
        // What comes after the backup.
        let decision: Decision = Box::new(move |ledger| {
            let id = ledger.directory.counters().id;
            let certificate = Some(samples::certificate(ledger.next_serial, AccountId(2), later));
            let mutations = vec![samples::org(id, "later"), samples::account(id + 1)];
            Some(Change { mutations, certificate, events: vec![event("two")], ..Change::default() })
        });
        store.transact(decision).await.unwrap();
        let (after, serial) = ((*store.directory()).clone(), Serial(1));
        assert!(store.certificate(serial).await.unwrap().is_some());

        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut { snapshot.file }, &mut content).unwrap();
        // From the same backup, at this time.
        let restore = async |now| {
            let restored = tempfile::tempdir().unwrap();
            let path = SqliteStore::database(restored.path());
            std::fs::write(&path, &content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let moved = SqliteStore::move_on(restored.path(), event("backup.restore"), NOW, now).await.unwrap();
            (restored, moved)
        };
        let (restored, moved) = restore(NOW).await;
        let store = open(restored.path());
        let directory = store.directory();
        assert_eq!(directory.accounts().collect::<Vec<_>>(), before.accounts().collect::<Vec<_>>());
        assert!(directory.version() > after.version() && moved.next_serial > serial);
        let (new, old) = (directory.counters(), after.counters());
        assert!(new.id > old.id && new.uid > old.uid && new.gid >= old.gid, "{new:?} {old:?}");
        assert_eq!((moved.version, moved.counters, moved.tokens), (directory.version(), new, 1));
        // The token that could still have been used is used up.
        assert!(directory.tokens_of(samples::CLUSTER).all(|token| token.used.is_some() || token.expires <= NOW));
        let actions: Vec<String> = log(&store).await.into_iter().map(|entry| entry.event.action).collect();
        assert_eq!(actions, ["one", "backup.restore"]);
        drop(store);
        // A second one, from the same backup an hour later, gives out nothing that the first one can have given out.
        let hour = std::time::Duration::from_secs(3600);
        let (_second, again) = restore(NOW.after(hour)).await;
        assert!(again.next_serial.0 - moved.next_serial.0 > 3_000 * 10_000, "{again:?}");
        assert!(again.version.0 - moved.version.0 > 3_000 * 1_000, "{again:?}");
        let (first, second) = (new, again.counters);
        assert!(second.id - first.id > 3_000 * 1_000, "{second:?}");
        assert!(second.uid.0 - first.uid.0 == 60 && second.gid.0 - first.gid.0 == 60, "{second:?}");
    }

    #[test]
    fn numbers_that_run_out_are_not_used_up_at_once() {
        assert_eq!(beyond(Uid::FIRST, 7), Uid(Uid::FIRST.0 + NUMBERS + 7));
        assert_eq!(beyond(Uid(Uid::LAST.0 - 100), 0), Uid(Uid::LAST.0 - 50));
        assert_eq!(beyond(Uid(Uid::LAST.0 + 1), u32::MAX), Uid(Uid::LAST.0 + 1));
    }
}
