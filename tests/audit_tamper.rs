//! Somebody has the state directory and changes the audit log in it: every column of entries at the beginning, in the
//! middle and at the end, whole entries, the order, the end, all of it, and the signed heads. Each is found and named, by
//! `audit verify` or already when the authority refuses to start.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
mod authority_support;

use authority_support::World;
use certgate::{
    app::Asker,
    app::protocol::{ClosedRequest, ClosedSession, CommandAnswer},
    audit::{Entry, Head, SignedHead, chain},
    store::{AuditQuery, SqliteStore, Store},
};
use ed25519_dalek::SigningKey;
use rusqlite::Connection;
use std::{fs, path::Path};
use tempfile::TempDir;

const NODE: &str = "login-0.h100.acme";

/// A state directory as the authority leaves it after a while, and what an operator has kept of it elsewhere.
struct Kept {
    dir: TempDir,
    entries: Vec<Entry>,
    /// The signed heads, as the journal has them.
    heads: Vec<SignedHead>,
    /// The end of the log, as `audit verify` has printed it, with two entries behind the last signed head.
    end: Head,
}

/// Events of every kind: as operator and as account, done and refused, with and without certificate and session.
async fn kept() -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let world = World::on_disk(dir.path()).await.unwrap();
    world.tell().await;
    world.settle().await;
    let stream = world.gateway(vec![]);
    world.node(NODE, 50).await;
    world.user(2, "cert").await;
    let session = world.open(2, 1, NODE).await.unwrap();
    assert!(world.open(3, 2, NODE).await.is_err());
    world.user(3, "member add acme/ml user2@acme.example").await;
    world.settle().await;
    world.app.closed(ClosedRequest { sessions: vec![ClosedSession { session, up: 1, down: 2 }], done: None }).await;
    world.user(2, "certificate revoke 1").await;
    world.operator("member remove acme/ml user1@acme.example --yes").await;
    drop(stream);
    world.close().await;

    // Two more entries that no signed head is behind: the process was killed.
    let (commits, _committed) = tokio::sync::mpsc::unbounded_channel();
    let store = SqliteStore::open(dir.path(), commits).unwrap();
    let events = vec![event("org.create"), event("org.create")];
    let change = certgate::store::Change { events, ..Default::default() };
    store.transact(Box::new(|_| Some(change))).await.unwrap();
    let entries = store.audit(AuditQuery::default()).await.unwrap().entries;
    let heads = store.signed_heads(0, 100).await.unwrap();
    drop(store);
    let end = Head::after(entries.last().unwrap());
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert_eq!(heads[2].head.seq + 2, end.seq);
    Kept { dir, entries, heads, end }
}

fn event(action: &str) -> certgate::audit::Event {
    let at = certgate::domain::Timestamp::from_secs(1_800_000_000);
    certgate::audit::Event::new(at, certgate::domain::Actor::Operator { uid: 0 }, action, "acme")
}

/// The database, open to whoever does not care for its triggers and checks.
fn unguarded(dir: &Path) -> Connection {
    let connection = Connection::open(SqliteStore::database(dir)).unwrap();
    let triggers: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'audit%'")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(triggers.len(), 6, "{triggers:?}");
    for trigger in triggers {
        connection.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
    }
    connection.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
    connection
}

impl Kept {
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.dir.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        copy
    }

    /// What is said of a copy in which something was done, given a head that was kept elsewhere or none.
    async fn said(&self, head: Option<String>, tamper: impl FnOnce(&Connection)) -> String {
        let copy = self.copy();
        tamper(&unguarded(copy.path()));
        let world = match World::on_disk(copy.path()).await {
            Ok(world) => world,
            Err(error) => return error.to_string(),
        };
        let said = verify(&world, head).await;
        world.close().await;
        said
    }

    async fn finds(&self, tamper: &str, expected: &str) {
        let said = self.said(None, |connection| connection.execute_batch(tamper).unwrap()).await;
        assert!(said.contains(expected), "{tamper}\nwas not found: {expected:?} is not in\n{said}");
    }

    /// The same, done to a running authority, and found twice: it names the first that does not fit, and would not be
    /// started again.
    async fn finds_running(&self, tamper: &str, expected: &str) {
        let copy = self.copy();
        let world = World::on_disk(copy.path()).await.unwrap();
        unguarded(copy.path()).execute_batch(tamper).unwrap();
        let said = verify(&world, None).await;
        assert!(said.contains(expected), "{tamper}\nwas not found: {expected:?} is not in\n{said}");
        world.close().await;
        let refused = World::on_disk(copy.path()).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("audit entry"), "{refused}");
    }
}

/// What `audit verify` says; empty if all is well.
async fn verify(world: &World, head: Option<String>) -> String {
    let line = format!("audit verify {}", head.map(|head| format!("--head {head}")).unwrap_or_default());
    match world.answer(&Asker::Operator { uid: 0 }, &line, None, None).await {
        CommandAnswer::Output(output) if output.exit == 0 => String::new(),
        CommandAnswer::Output(output) => output.stderr,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_untouched_log_is_whole_with_each_head_that_was_kept() {
    let kept = kept().await;
    assert_eq!(kept.said(None, |_| ()).await, "");
    for head in
        [kept.end.to_string(), kept.heads[0].head.to_string(), kept.heads[0].to_string(), kept.heads[2].to_string()]
    {
        assert_eq!(kept.said(Some(head), |_| ()).await, "");
    }
}

#[tokio::test]
async fn every_column_of_an_entry_counts() {
    let kept = kept().await;
    let last = kept.end.seq;
    let columns: Vec<String> = {
        let connection = Connection::open(SqliteStore::database(kept.dir.path())).unwrap();
        let statement = connection.prepare("SELECT * FROM audit").unwrap();
        statement.column_names().map(str::to_owned).collect()
    };
    let toggled = |column: &str, value: &str| format!("CASE WHEN {column} IS NULL THEN {value} ELSE NULL END");
    for column in columns.iter().filter(|column| *column != "seq") {
        let others: Vec<String> = match column.as_str() {
            "version" => vec!["version + 1".into(), "-1".into()],
            "at" => vec!["at + 1".into(), "-1".into(), "9223372036854775807".into()],
            // The last one means the same, and would not be found by whoever looks for this actor.
            "actor" => vec![r#"'{"operator":{"uid":77}}'"#.into(), "'x'".into(), "replace(actor, ':', ': ')".into()],
            "source" | "action" | "object" | "detail" => vec![format!("{column} || ' '"), "CAST(x'80' AS TEXT)".into()],
            "outcome" => vec!["CASE outcome WHEN 'done' THEN 'refused' ELSE 'done' END".into()],
            "connection" | "reason" => vec![toggled(column, "''")],
            "certificate" => vec![toggled(column, "1"), "coalesce(certificate, 0) + 1".into()],
            "session" => vec![toggled(column, "'00000000000000000000000000000000'"), "'x'".into()],
            "previous" | "hash" => vec![format!("x'{}'", "a5".repeat(32))],
            other => panic!("nobody has thought of what happens to the column {other}"),
        };
        for seq in [1, last / 2, last] {
            for other in &others {
                let tamper = format!("UPDATE audit SET {column} = {other} WHERE seq = {seq}");
                kept.finds(&tamper, &format!("audit entry {seq} ")).await;
            }
        }
    }
}

#[tokio::test]
async fn entries_that_are_gone_new_or_elsewhere_are_named() {
    let kept = kept().await;
    let last = kept.end.seq;
    for seq in [1, last / 2] {
        let expected = format!("audit entry {seq} is missing: entry {} stands in its place", seq + 1);
        kept.finds(&format!("DELETE FROM audit WHERE seq = {seq}"), &expected).await;
    }
    kept.finds("DELETE FROM audit WHERE seq BETWEEN 3 AND 7", "audit entry 3 is missing: entry 8 stands").await;
    kept.finds("DELETE FROM audit", "the audit log was cut off").await;

    // In between, and what came after moved up; as one of those that are there, and as one that is not.
    let insert = |seq: u64, detail: &str| {
        format!(
            "UPDATE audit SET seq = -seq - 1 WHERE seq > {seq}; UPDATE audit SET seq = -seq WHERE seq < 0;
             INSERT INTO audit SELECT {} + 1, version, at, actor, source, connection, action, object, outcome, reason,
             {detail}, certificate, session, previous, hash FROM audit WHERE seq = {seq};",
            seq
        )
    };
    for seq in [1, last / 2] {
        kept.finds_running(&insert(seq, "detail"), &format!("audit entry {} was altered", seq + 1)).await;
        kept.finds_running(&insert(seq, "'forged'"), &format!("audit entry {} was altered", seq + 1)).await;
    }
    kept.finds(&insert(last, "'forged'"), &format!("audit entry {} was altered", last + 1)).await;
    let before_the_first = "INSERT INTO audit SELECT 0, version, at, actor, source, \
                    connection, action, object, outcome, reason, detail, certificate, session, previous, hash FROM audit \
                    WHERE seq = 1";
    kept.finds_running(before_the_first, "no entry has the number 0").await;

    for (a, b) in [(1, 2), (last / 2, last / 2 + 1), (1, last - 1)] {
        let swap = format!(
            "UPDATE audit SET seq = {a} + 1000 WHERE seq = {a}; UPDATE audit SET seq = {a} WHERE seq = {b};
             UPDATE audit SET seq = {b} WHERE seq = {a} + 1000"
        );
        kept.finds(&swap, &format!("audit entry {a} was altered")).await;
    }
    // Without a gap left behind.
    let close_up = "DELETE FROM audit WHERE seq = 5; UPDATE audit SET seq = -seq + 1 WHERE seq > 5;
                    UPDATE audit SET seq = -seq WHERE seq < 0";
    kept.finds_running(close_up, "audit entry 5 was altered").await;
}

/// Makes everything from an entry on anew, so that the chain holds, as whoever has this program's source can.
fn rewrite(connection: &Connection, entries: &[Entry], from: usize) {
    let mut head = from.checked_sub(1).map_or(Head::EMPTY, |before| Head::after(&entries[before]));
    for entry in &entries[from..] {
        let event = certgate::audit::Event { detail: "nothing to see here".into(), ..entry.event.clone() };
        let forged = chain::append(head, entry.version, event);
        let sql = "UPDATE audit SET detail = ?2, previous = ?3, hash = ?4 WHERE seq = ?1";
        let changed = connection.execute(
            sql,
            rusqlite::params![forged.seq.cast_signed(), forged.event.detail, forged.previous.0, forged.hash.0],
        );
        assert_eq!(changed.unwrap(), 1);
        head = Head::after(&forged);
    }
}

#[tokio::test]
async fn a_log_that_was_made_anew_is_not_the_one_that_was_signed() {
    let kept = kept().await;
    let signed = kept.heads[2].head.seq;
    for from in [0, 5, usize::try_from(signed).unwrap() - 1] {
        let said = kept.said(None, |connection| rewrite(connection, &kept.entries, from)).await;
        assert!(said.contains(&format!("the audit log was rewritten: entry {signed} is not the one")), "{said}");
    }
    // Without the signed heads behind: the log holds by itself, but not against what was kept elsewhere.
    let forge = |connection: &Connection| {
        rewrite(connection, &kept.entries, 12);
        connection.execute_batch("DELETE FROM audit_heads WHERE seq > 12").unwrap();
    };
    assert_eq!(kept.said(None, forge).await, "");
    for head in [kept.end.to_string(), kept.heads[2].head.to_string(), kept.heads[2].to_string()] {
        let said = kept.said(Some(head.clone()), forge).await;
        assert!(said.contains("the audit log was rewritten"), "{head}: {said}");
    }
    // With heads signed by another key in their place.
    let said = kept
        .said(None, |connection| {
            forge(connection);
            let hash: [u8; 32] = connection
                .query_row("SELECT hash FROM audit WHERE seq = ?1", [signed.cast_signed()], |r| r.get(0))
                .unwrap();
            let head = Head { seq: signed, hash: certgate::audit::ChainHash(hash) };
            let count: i64 = connection.query_row("SELECT count(*) FROM audit_heads", [], |row| row.get(0)).unwrap();
            let number = u64::try_from(count).unwrap() + 1;
            let forged = SignedHead::sign(number, head, kept.heads[2].at, &SigningKey::from_bytes(&[66; 32]));
            put(connection, &forged);
        })
        .await;
    assert!(said.contains("was altered: its signature does not fit"), "{said}");
}

fn put(connection: &Connection, signed: &SignedHead) {
    let sql = "INSERT INTO audit_heads (number, seq, hash, at, signature) VALUES (?1, ?2, ?3, ?4, ?5)";
    let SignedHead { number, head, at, signature } = signed;
    let params = rusqlite::params![
        number.cast_signed(),
        head.seq.cast_signed(),
        head.hash.0,
        at.millis().cast_signed(),
        signature
    ];
    connection.execute(sql, params).unwrap();
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_missed_by_whoever_saw_it() {
    let kept = kept().await;
    let (last, signed) = (kept.end.seq, kept.heads[2].head.seq);
    let cut = |from: u64| format!("DELETE FROM audit WHERE seq > {from}");
    // The signed heads that are stored reach further than the log.
    for from in [signed - 1, 5, 1] {
        kept.finds(
            &cut(from),
            &format!("it ends with entry {from}, and signed head 3 says that it had entry {signed}"),
        )
        .await;
    }
    // Behind the last of them only somebody who kept the end knows.
    for from in [signed, last - 1] {
        let said = async |head| kept.said(head, |connection| connection.execute_batch(&cut(from)).unwrap()).await;
        assert_eq!(said(None).await, "");
        let expected = format!("it ends with entry {from}, and the head that was given says that it had entry {last}");
        assert!(said(Some(kept.end.to_string())).await.contains(&expected), "cut after {from}");
    }
    // With the signed heads that would tell.
    let with_heads = format!("DELETE FROM audit WHERE seq > {0}; DELETE FROM audit_heads WHERE seq > {0}", signed - 1);
    let said = async |head| kept.said(head, |connection| connection.execute_batch(&with_heads).unwrap()).await;
    assert_eq!(said(None).await, "");
    assert!(said(Some(kept.heads[2].to_string())).await.contains("the audit log was cut off"));
}

#[tokio::test]
async fn whatever_is_done_to_signed_heads_is_named() {
    let kept = kept().await;
    for number in 1..=3 {
        for other in [
            "seq = seq + 100".to_owned(),
            "seq = 1000".into(),
            "at = at + 1".into(),
            format!("hash = x'{}'", "a5".repeat(32)),
            format!("signature = x'{}'", "a5".repeat(64)),
        ] {
            let tamper = format!("UPDATE audit_heads SET {other} WHERE number = {number}");
            let said = kept.said(None, |connection| connection.execute_batch(&tamper).unwrap()).await;
            assert!(said.contains(&format!("signed head {number} ")), "{tamper}: {said}");
        }
    }
    kept.finds("UPDATE audit_heads SET number = 7 WHERE number = 3", "signed head 3 is missing: 7 stands").await;
    kept.finds("DELETE FROM audit_heads WHERE number = 1", "signed head 1 is missing: 2 stands").await;
    kept.finds("DELETE FROM audit_heads WHERE number = 2", "signed head 2 is missing: 3 stands").await;
    let swap = "UPDATE audit_heads SET number = 9 WHERE number = 1; UPDATE audit_heads SET number = 1 WHERE number = 2;
                UPDATE audit_heads SET number = 2 WHERE number = 9";
    kept.finds(swap, "signed head 1 was altered").await;
    // The last ones leave no gap, and the verification itself signs the end anew: whoever has one of them knows.
    for (tamper, expected) in [
        ("DELETE FROM audit_heads WHERE number = 3", "signed head 3 is not the one that was given"),
        ("DELETE FROM audit_heads", "signed heads were cut off: the last one is 1, and one of number 3 was given"),
    ] {
        let said = async |head| kept.said(head, |connection| connection.execute_batch(tamper).unwrap()).await;
        assert_eq!(said(None).await, "", "{tamper}");
        assert!(said(Some(kept.heads[2].to_string())).await.contains(expected), "{tamper}");
    }
    // One that was never signed by this authority is no witness.
    let foreign = SignedHead::sign(1, kept.end, kept.heads[0].at, &SigningKey::from_bytes(&[66; 32]));
    let said = kept.said(Some(foreign.to_string()), |_| ()).await;
    assert!(said.contains("not signed by this authority's audit key"), "{said}");
}

#[tokio::test]
async fn a_running_authority_notices_as_well() {
    let kept = kept().await;
    let world = World::on_disk(kept.dir.path()).await.unwrap();
    assert_eq!(verify(&world, None).await, "");
    let connection = unguarded(kept.dir.path());
    // It remembers where the log ended, even if no signed head does.
    connection.execute_batch("DELETE FROM audit_heads; DELETE FROM audit WHERE seq > 9").unwrap();
    let said = verify(&world, None).await;
    let end = kept.end.seq;
    assert!(
        said.contains(&format!("it ends with entry 9, and the running authority says that it had entry {end}")),
        "{said}"
    );
    world.close().await;
}

#[tokio::test]
async fn the_triggers_stop_mistakes() {
    let kept = kept().await;
    let connection = Connection::open(SqliteStore::database(kept.dir.path())).unwrap();
    for mistake in [
        "UPDATE audit SET detail = ''",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 3",
        "INSERT INTO audit SELECT seq + 1000, version, at, actor, source, connection, action, object, outcome, reason, \
         detail, certificate, session, previous, hash FROM audit WHERE seq = 3",
        "UPDATE audit_heads SET at = 0",
        "DELETE FROM audit_heads",
        "INSERT OR REPLACE INTO audit_heads SELECT * FROM audit_heads WHERE number = 1",
        "INSERT INTO audit_heads SELECT number + 7, seq + 1, hash, at, signature FROM audit_heads WHERE number = 3",
    ] {
        let error = connection.execute_batch(mistake).unwrap_err().to_string();
        assert!(error.contains("only appended to"), "{mistake}: {error}");
    }
}
