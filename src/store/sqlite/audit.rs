//! The audit log's tables: how an entry and a signed head are written and read, and how the entries that somebody wants
//! are found without reading all of them.

use super::{SqliteStore, write};
use crate::{
    audit::{ChainHash, Entry, Event, Filter, Head, Outcome, SignedHead, Who},
    domain::{Actor, Serial, SessionId, Timestamp, Version},
    store::{AuditPage, AuditQuery, StoreError},
};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter, types::Value};
use std::{fmt::Display, ops::Range, sync::Arc};

/// In this order an entry is written and read: by position, because a long log is read for its verification.
macro_rules! columns {
    () => {
        "seq, version, at, actor, source, connection, action, object, outcome, reason, detail, certificate, session, \
         previous, hash"
    };
}

/// Numbers of entries that are looked through at once, at first and at the most: the first answer comes soon, a long
/// search takes few turns, and other queries have theirs in between.
const WINDOW: u64 = 1024;
const MAX_WINDOW: u64 = 131_072;

pub(super) fn write_entry(connection: &Connection, entry: &Entry) -> write::Written {
    let event = &entry.event;
    write::run_one(
        connection,
        "audit",
        concat!(
            "INSERT INTO audit (",
            columns!(),
            ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)"
        ),
        params![
            write::int(entry.seq)?,
            write::int(entry.version.0)?,
            write::time(event.at)?,
            write::json(&event.actor),
            event.source,
            event.connection,
            event.action,
            event.object,
            event.outcome.as_str(),
            event.reason,
            event.detail,
            event.certificate.map(serial),
            event.session.as_ref().map(ToString::to_string),
            entry.previous.0,
            entry.hash.0
        ],
    )
}

pub(super) fn write_head(connection: &Connection, signed: &SignedHead) -> write::Written {
    write::run_one(
        connection,
        "signed head",
        "INSERT INTO audit_heads (number, seq, hash, at, signature) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            write::int(signed.number)?,
            write::int(signed.head.seq)?,
            signed.head.hash.0,
            write::time(signed.at)?,
            signed.signature
        ],
    )
}

/// Lets the log begin after the entry of a signed head.
pub(super) fn begin_after(connection: &Connection, start: SignedHead) -> write::Written {
    let (number, seq) = (write::int(start.number)?, write::int(start.head.seq)?);
    write::run_one(
        connection,
        "the head that the log is to begin with",
        "INSERT INTO audit_start (one, number) SELECT 1, number FROM audit_heads
         WHERE number = ?1 AND seq = ?2 AND hash = ?3 AND signature = ?4
         ON CONFLICT (one) DO UPDATE SET number = excluded.number",
        params![number, seq, start.head.hash.0, start.signature],
    )?;
    write::run(connection, "DELETE FROM audit WHERE seq <= ?1", params![seq])?;
    write::run(connection, "DELETE FROM audit_heads WHERE number < ?1", params![number])?;
    Ok(())
}

/// All 64 bits: a serial that somebody only claims to have must not be one that cannot be written down.
fn serial(serial: Serial) -> i64 {
    serial.0.cast_signed()
}

/// What a column holds is not what it should be.
fn bad(column: &str, what: impl Display) -> String {
    format!("column {column}: {what}")
}

fn read_entry(row: &Row<'_>) -> Result<Entry, StoreError> {
    let seq = row.get::<_, i64>(0).map_or(0, i64::cast_unsigned);
    entry(row, seq).map_err(|what| StoreError::Entry { seq, what })
}

fn entry(row: &Row<'_>, seq: u64) -> Result<Entry, String> {
    let sql = |error: rusqlite::Error| error.to_string();
    let text = |at: usize| row.get::<_, String>(at).map_err(sql);
    let optional = |at: usize| row.get::<_, Option<String>>(at).map_err(sql);
    let number = |at: usize, column: &str| {
        u64::try_from(row.get::<_, i64>(at).map_err(sql)?).map_err(|_| bad(column, "a negative number"))
    };
    let at = number(2, "at")?;
    let actor = text(3)?;
    let session = optional(12)?.map(SessionId::try_from).transpose();
    let entry = Entry {
        seq,
        version: Version(number(1, "version")?),
        event: Event {
            at: Timestamp::from_millis(at),
            actor: serde_json::from_str::<Actor>(&actor).map_err(|error| bad("actor", error))?,
            source: text(4)?,
            connection: optional(5)?,
            action: text(6)?,
            object: text(7)?,
            outcome: text(8)?.parse::<Outcome>().map_err(|error| bad("outcome", error))?,
            reason: optional(9)?,
            detail: text(10)?,
            certificate: row.get::<_, Option<i64>>(11).map_err(sql)?.map(|serial| Serial(serial.cast_unsigned())),
            session: session.map_err(|error| bad("session", error))?,
        },
        previous: ChainHash(row.get(13).map_err(sql)?),
        hash: ChainHash(row.get(14).map_err(sql)?),
    };
    // What would be written again differently was not written here: the hash is over the value, the search over the text.
    if entry.event.at.millis() != at {
        return Err(bad("at", "not a time"));
    }
    if write::json(&entry.event.actor) != actor {
        return Err(bad("actor", "not as it was written"));
    }
    Ok(entry)
}

fn read_head(row: &Row<'_>) -> rusqlite::Result<SignedHead> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
    Ok(SignedHead {
        number: number(0)?,
        head: Head { seq: number(1)?, hash: ChainHash(row.get(2)?) },
        at: Timestamp::from_millis(number(3)?),
        signature: row.get(4)?,
    })
}

/// That no entry stands before the first, where nobody would look for it.
pub(super) fn check_beginning(connection: &Connection) -> Result<(), StoreError> {
    let first: Option<i64> =
        connection.prepare_cached("SELECT min(seq) FROM audit")?.query_row([], |row| row.get(0))?;
    match first.filter(|first| *first < 1) {
        Some(first) => Err(StoreError::Entry { seq: 0, what: format!("no entry has the number {first}") }),
        None => Ok(()),
    }
}

pub(super) fn last_entry(connection: &Connection) -> Result<Option<Entry>, StoreError> {
    connection
        .prepare_cached(concat!("SELECT ", columns!(), " FROM audit ORDER BY seq DESC LIMIT 1"))?
        .query_and_then([], read_entry)?
        .next()
        .transpose()
}

/// The hash of an entry.
pub(super) fn hash_of(connection: &Connection, seq: u64) -> rusqlite::Result<Option<ChainHash>> {
    connection
        .prepare_cached("SELECT hash FROM audit WHERE seq = ?1")?
        .query_row(params![seq.cast_signed()], |row| row.get(0).map(ChainHash))
        .optional()
}

pub(super) fn signed_heads(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Vec<SignedHead>> {
    connection
        .prepare_cached(
            "SELECT number, seq, hash, at, signature FROM audit_heads WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?
        .query_map(params![clamp(after), i64::try_from(limit).unwrap_or(i64::MAX)], read_head)?
        .collect()
}

pub(super) fn signed_head_at(connection: &Connection, time: Timestamp) -> rusqlite::Result<Option<SignedHead>> {
    connection
        .prepare_cached(
            "SELECT number, seq, hash, at, signature FROM audit_heads WHERE at <= ?1 ORDER BY number DESC LIMIT 1",
        )?
        .query_row(params![clamp(time.millis())], read_head)
        .optional()
}

pub(super) fn start(connection: &Connection) -> rusqlite::Result<Option<SignedHead>> {
    connection
        .prepare_cached("SELECT number, seq, hash, at, signature FROM audit_start JOIN audit_heads USING (number)")?
        .query_row([], read_head)
        .optional()
}

pub(super) fn last_signed_head(connection: &Connection) -> rusqlite::Result<Option<SignedHead>> {
    connection
        .prepare_cached("SELECT number, seq, hash, at, signature FROM audit_heads ORDER BY number DESC LIMIT 1")?
        .query_row([], read_head)
        .optional()
}

/// Numbers beyond SQLite's range are beyond every entry.
fn clamp(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A filter as SQL.
struct Search {
    /// `INDEXED BY …`, or that the table itself is gone through.
    way: &'static str,
    /// Beside the range of numbers.
    conditions: String,
    values: Vec<Value>,
    /// An index leads to what is wanted and to little else: how far there is to go does not matter.
    direct: bool,
    /// That is so little that one turn is enough.
    narrow: bool,
}

impl Search {
    fn new(connection: &Connection, filter: &Filter) -> rusqlite::Result<Self> {
        let narrow = filter.certificate.is_some() || filter.session.is_some();
        let by_action =
            filter.what.is_some() && filter.who.is_none() && filter.on.is_none() && filter.outcome.is_none();
        let (conditions, values) = (String::new(), Vec::new());
        let mut search = Self { way: "NOT INDEXED", conditions, values, direct: narrow || by_action, narrow };
        if let Some(what) = &filter.what {
            let actions = actions(connection, what.as_str())?.into_iter().filter(|action| what.is(action));
            search.any_of("action", actions.map(Value::from).collect());
            search.way = "INDEXED BY audit_by_action";
        }
        if let Some(certificate) = filter.certificate {
            search.and("certificate = ?", serial(certificate));
            search.way = "INDEXED BY audit_by_certificate";
        }
        if let Some(session) = &filter.session {
            search.and("session = ?", session.to_string());
            search.way = "INDEXED BY audit_by_session";
        }
        if let Some(since) = filter.since {
            search.and("at >= ?", clamp(since.millis()));
        }
        if let Some(until) = filter.until {
            search.and("at < ?", clamp(until.millis()));
        }
        if let Some(outcome) = filter.outcome {
            search.and("outcome = ?", outcome.as_str().to_owned());
        }
        if let Some(on) = &filter.on {
            search.and("instr(' ' || object || ' ', ?) > 0", format!(" {on} "));
        }
        if let Some(who) = &filter.who {
            search.who(who);
        }
        Ok(search)
    }

    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        self.conditions.push_str(" AND ");
        self.conditions.push_str(condition);
        self.values.push(value.into());
    }

    fn any_of(&mut self, column: &str, values: Vec<Value>) {
        let places = vec!["?"; values.len()].join(", ");
        self.conditions.push_str(&format!(" AND {column} IN ({places})"));
        self.values.extend(values);
    }

    /// An actor is JSON without white space, in which no quote within a string stands without a backslash before it: a
    /// name between quotes is found where it is a field, and nowhere else.
    fn who(&mut self, who: &Who) {
        match who {
            Who::Uid(uid) => self.and("actor = ?", write::json(&Actor::Operator { uid: *uid })),
            Who::Authority => self.and("actor = ?", write::json(&Actor::Authority)),
            Who::Operators => self.and("instr(actor, ?) = 1", r#"{"operator":"#.to_owned()),
            Who::Key(key) => self.and("instr(actor, ?) > 0", format!(r#""key":"{key}""#)),
            Who::Source(source) => self.and("source = ?", source.clone()),
            Who::Name(name) => {
                let name = serde_json::Value::from(name.as_str());
                self.and("(instr(actor, ?) > 0", format!(r#""email":{name}"#));
                self.conditions.push_str(" OR instr(actor, ?) > 0)");
                self.values.push(format!(r#""name":{name}"#).into());
            }
        }
    }

    fn find(
        &self,
        connection: &Connection,
        range: &Range<u64>,
        limit: usize,
        latest: bool,
    ) -> Result<Vec<Entry>, StoreError> {
        let (columns, order) = (columns!(), if latest { "DESC" } else { "ASC" });
        let sql = format!(
            "SELECT {columns} FROM audit {} WHERE seq >= ? AND seq < ?{} ORDER BY seq {order} LIMIT ?",
            self.way, self.conditions
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = [clamp(range.start).into(), clamp(range.end).into()].into_iter();
        let values = values.chain(self.values.iter().cloned()).chain([limit.into()]);
        connection.prepare_cached(&sql)?.query_and_then(params_from_iter(values), read_entry)?.collect()
    }
}

/// The actions that begin with a text and were ever recorded, found by as many steps as there are.
fn actions(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE found (action) AS (
                 SELECT min(action) FROM audit WHERE action >= ?1
                 UNION ALL
                 SELECT (SELECT min(audit.action) FROM audit WHERE audit.action > found.action)
                 FROM found WHERE substr(found.action, 1, length(?1)) = ?1
             )
             SELECT action FROM found WHERE substr(action, 1, length(?1)) = ?1",
        )?
        .query_map(params![prefix], |row| row.get(0))?
        .collect()
}

/// The numbers among which everything is that is asked for.
fn range(connection: &Connection, query: &AuditQuery, search: &Search) -> rusqlite::Result<Range<u64>> {
    // Each by itself: only so has SQLite no more to do than to look at one end of the table.
    let (first, end): (Option<i64>, Option<i64>) = connection
        .prepare_cached("SELECT (SELECT min(seq) FROM audit), (SELECT max(seq) FROM audit)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let end = end.map_or(1, |end| end.cast_unsigned().saturating_add(1)).min(query.before);
    let start = first.map_or(1, i64::cast_unsigned).max(query.after.saturating_add(1));
    let Filter { since, until, .. } = query.filter;
    if search.narrow || (since.is_none() && until.is_none()) {
        return Ok(start..end);
    }
    // Times do not rise strictly with the numbers: events wait for different lengths of time, and a clock may be set back.
    let (since, until) = (since.map_or(0, Timestamp::millis), until.map_or(u64::MAX, Timestamp::millis));
    let (first, last): (Option<i64>, Option<i64>) = connection
        .prepare_cached("SELECT min(seq), max(seq) FROM audit INDEXED BY audit_by_time WHERE at >= ?1 AND at < ?2")?
        .query_row(params![clamp(since), clamp(until)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(0..0) };
    Ok(start.max(first.cast_unsigned())..end.min(last.cast_unsigned().saturating_add(1)))
}

/// Goes through the log, from one end of what was asked for to the other, in windows that grow.
pub(super) async fn search(store: &SqliteStore, query: AuditQuery) -> Result<AuditPage, StoreError> {
    let AuditQuery { limit, latest, scan, .. } = query;
    let plan = move |connection: &Connection| -> Result<_, StoreError> {
        check_beginning(connection)?;
        let search = Search::new(connection, &query.filter)?;
        let range = range(connection, &query, &search)?;
        Ok((Arc::new(search), range))
    };
    let (search, mut range) = store.read(plan).await?;
    let mut window = if search.narrow { u64::MAX } else { WINDOW };
    let mut budget = if search.direct { u64::MAX } else { scan };
    let mut page = AuditPage::default();
    while !range.is_empty() {
        let left = limit - page.entries.len();
        if left == 0 || budget == 0 {
            page.more = Some(if latest { range.end } else { range.start - 1 });
            break;
        }
        let size = window.min(budget).min(range.end - range.start);
        let piece = if latest { range.end - size..range.end } else { range.start..range.start + size };
        let (searching, at) = (search.clone(), piece.clone());
        let found = store.read(move |connection| searching.find(connection, &at, left, latest)).await?;
        // What comes after the last one that was allowed was not looked at.
        let full = found.last().filter(|_| found.len() == left).map(|entry| entry.seq);
        if latest {
            range.end = full.unwrap_or(piece.start);
        } else {
            range.start = full.map_or(piece.end, |seq| seq + 1);
        }
        page.entries.extend(found);
        (window, budget) = (window.saturating_mul(2).min(MAX_WINDOW), budget - size);
    }
    if latest {
        page.entries.reverse();
    }
    Ok(page)
}
