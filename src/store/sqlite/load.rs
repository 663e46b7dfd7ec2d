//! Reading a database back: its rows become the mutations that lead to them, and the directory applies these as it
//! applied the first ones, with all of its checks, beside the thread that reads. What was deleted is made and deleted
//! again, so that names and numbers stay taken.

use super::{audit, rows};
use crate::{
    audit::{ChainError, Head, SignedHead, Witness, chain},
    domain::{
        AccountId, Actor, ClusterId, Counters, Directory, Inconsistent, Membership, Mutation, ProjectId, Role, Serial,
        Timestamp, Uid, Version,
    },
    store::{Mark, step::State},
};
use rusqlite::{Connection, Row};
use std::{
    mem,
    sync::{Arc, mpsc},
    thread,
};
use thiserror::Error;

/// What the database holds.
///
/// # Errors
/// It cannot be read, or contradicts itself: in words.
pub(super) fn load(connection: &Connection) -> Result<State, String> {
    let (directory, next_serial) = read(connection).map_err(|error| error.to_string())?;
    let start = audit::start(connection).map_err(|error| error.to_string())?;
    let head = head(connection, start)?;
    let signed = signed(connection, head, start)?;
    let start = start.map_or_else(Mark::default, |start| Mark { number: start.number, seq: start.head.seq });
    Ok(State { directory: Arc::new(directory), next_serial, head, signed, start })
}

/// Where the log of a database ends, as far as a copy of it is to be described.
pub(super) fn end(connection: &Connection) -> Result<Head, String> {
    head(connection, audit::start(connection).map_err(|error| error.to_string())?)
}

/// The end of the audit log. All of it is checked on demand (`audit verify`), not at each start; the last entry is,
/// because the next one builds on it.
fn head(connection: &Connection, start: Option<SignedHead>) -> Result<Head, String> {
    audit::check_beginning(connection).map_err(|error| error.to_string())?;
    let last = audit::last_entry(connection).map_err(|error| error.to_string())?;
    let Some(last) = last else { return Ok(start.map_or(Head::EMPTY, |start| start.head)) };
    let before = Head { seq: last.seq.saturating_sub(1), hash: last.previous };
    chain::follow(before, &last).map_err(|error| error.to_string())
}

/// The last signed head, which the log must reach and contain: appending to one that was cut off would hide it.
fn signed(connection: &Connection, end: Head, start: Option<SignedHead>) -> Result<Mark, String> {
    let Some(last) = audit::last_signed_head(connection).map_err(|error| error.to_string())? else {
        return Ok(Mark::default());
    };
    let (seq, witness) = (last.head.seq, Witness::Signed(last.number));
    if seq > end.seq {
        return Err(ChainError::CutOff { end: end.seq, saved: seq, witness }.to_string());
    }
    let hash = audit::hash_of(connection, seq).map_err(|error| error.to_string())?;
    // The entry of the head that the log begins after is in the archive.
    if hash != Some(last.head.hash) && start != Some(last) {
        return Err(ChainError::Rewritten { seq, witness }.to_string());
    }
    Ok(Mark { number: last.number, seq })
}

/// Why a database cannot be read back.
#[derive(Debug, Error)]
enum LoadError {
    /// SQLite, or a column that holds something else than it should.
    #[error("{0}")]
    Row(#[from] rusqlite::Error),
    /// Rows that contradict each other.
    #[error("{0}")]
    Inconsistent(#[from] Inconsistent),
    /// What applies the rows has ended before the last one.
    #[error("it could not be read to its end, on a defect in certgate")]
    Stopped,
    /// A number that would be given out again.
    #[error("serial number {given} was given out, and {next} would be next")]
    Serial { given: Serial, next: Serial },
}

fn read(connection: &Connection) -> Result<(Directory, Serial), LoadError> {
    let (version, next_serial, floor) = connection.query_row("SELECT * FROM meta", [], |row| {
        let floor = Counters {
            id: rows::number(row, "id_floor")?,
            uid: Uid(row.get("uid_floor")?),
            gid: Uid(row.get("gid_floor")?),
        };
        Ok((Version(rows::number(row, "version")?), Serial(rows::number(row, "next_serial")?), floor))
    })?;
    let given = connection.query_row("SELECT coalesce(max(serial), 0) AS given FROM certificates", [], |row| {
        Ok(Serial(rows::number(row, "given")?))
    })?;
    if given >= next_serial {
        return Err(LoadError::Serial { given, next: next_serial });
    }
    // One thread reads and parses, another applies: with a hundred thousand accounts each has as much to do.
    let (chunks, waiting) = mpsc::sync_channel::<Vec<Mutation>>(CHUNKS);
    let directory = thread::scope(|scope| {
        let applying = scope.spawn(move || {
            // Nobody else has it yet, so it changes in place.
            waiting.iter().try_fold(Directory::default(), |directory, chunk| directory.into_after(&chunk))
        });
        let read = replay(Replay { connection, chunk: Vec::with_capacity(CHUNK), chunks });
        // First, since a contradiction ends the reading as well.
        let directory = applying.join().map_err(|_| LoadError::Stopped)??;
        read.map(|()| directory)
    })?;
    Ok((directory.counting_from(floor).at_version(version), next_serial))
}

/// Mutations that are passed on at once, and how many times that may wait.
const CHUNK: usize = 1024;
const CHUNKS: usize = 8;

struct Replay<'a> {
    connection: &'a Connection,
    chunk: Vec<Mutation>,
    chunks: mpsc::SyncSender<Vec<Mutation>>,
}

fn replay(mut replay: Replay<'_>) -> Result<(), LoadError> {
    people(&mut replay)?;
    places(&mut replay)?;
    belonging(&mut replay)?;
    deletions(&mut replay)?;
    replay.pass_on()
}

impl Replay<'_> {
    /// Has that applied which each row of a query stands for.
    fn each<const N: usize>(
        &mut self,
        query: &str,
        mutations: impl Fn(&Row<'_>) -> rusqlite::Result<[Mutation; N]>,
    ) -> Result<(), LoadError> {
        let mut statement = self.connection.prepare(query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            self.chunk.extend(mutations(row)?);
            if self.chunk.len() >= CHUNK {
                self.pass_on()?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) -> Result<(), LoadError> {
        let chunk = mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.chunks.send(chunk).map_err(|_| LoadError::Stopped)
    }
}

fn people(replay: &mut Replay<'_>) -> Result<(), LoadError> {
    replay.each("SELECT * FROM orgs ORDER BY id", |row| Ok([Mutation::OrgCreated(rows::org(row)?)]))?;
    replay.each("SELECT * FROM accounts ORDER BY id", |row| Ok([Mutation::AccountCreated(rows::account(row)?)]))?;
    replay.each("SELECT * FROM keys", |row| Ok([Mutation::KeyAdded(rows::key_entry(row)?)]))?;
    replay.each("SELECT * FROM denied_keys", |row| {
        let entry = rows::key_entry(row)?;
        let (account, key, denied_until) = (entry.account, entry.key.fingerprint(), rows::time(row, "until")?);
        Ok([Mutation::KeyAdded(entry), Mutation::KeyRemoved { account, key, denied_until }])
    })?;
    replay.each("SELECT * FROM denied_serials", |row| {
        let (serial, account) = (Serial(rows::number(row, "serial")?), AccountId(rows::number(row, "account")?));
        Ok([Mutation::SerialDenied { serial, account, until: rows::time(row, "until")? }])
    })
}

fn places(replay: &mut Replay<'_>) -> Result<(), LoadError> {
    replay.each("SELECT * FROM projects ORDER BY id", |row| Ok([Mutation::ProjectCreated(rows::project(row)?)]))?;
    replay.each(
        "SELECT * FROM clusters NATURAL JOIN (SELECT cluster AS id, revision, document FROM documents)",
        |row| Ok([Mutation::ClusterCreated(rows::cluster(row)?)]),
    )?;
    // Names of volumes and nodes, and host keys, may be given again after a deletion. The deleted ones come first, each
    // gone before the next appears, so that none can stand in the way of another.
    replay.each("SELECT * FROM volumes WHERE deleted_at IS NOT NULL ORDER BY id", |row| {
        let volume = rows::volume(row)?;
        let gone = Mutation::VolumeDeleted { volume: volume.id, at: rows::time(row, "deleted_at")? };
        Ok([Mutation::VolumeCreated(volume), gone])
    })?;
    replay.each("SELECT * FROM volumes WHERE deleted_at IS NULL ORDER BY id", |row| {
        Ok([Mutation::VolumeCreated(rows::volume(row)?)])
    })?;
    replay.each("SELECT * FROM nodes WHERE deleted_at IS NOT NULL ORDER BY id", |row| {
        let node = rows::node(row)?;
        let gone = Mutation::NodeRemoved { node: node.id, at: rows::time(row, "deleted_at")? };
        Ok([Mutation::NodeEnrolled(node), gone])
    })?;
    replay.each("SELECT * FROM nodes WHERE deleted_at IS NULL ORDER BY id", |row| {
        Ok([Mutation::NodeEnrolled(rows::node(row)?)])
    })?;
    replay.each("SELECT * FROM tokens", |row| Ok([Mutation::TokenCreated(rows::token(row)?)]))?;
    replay.each("SELECT * FROM jobs", |row| Ok([Mutation::JobSet(rows::job(row)?)]))
}

fn belonging(replay: &mut Replay<'_>) -> Result<(), LoadError> {
    replay.each("SELECT * FROM departures", |row| {
        let departure = rows::departure(row)?;
        // Whoever left has been there; as what, and since when, is the audit log's to know.
        let (project, account) = (departure.project, departure.account);
        let (role, since, by) = (Role::Member, departure.at, Actor::Authority);
        let was = Membership { project, account, role, since, by };
        Ok([Mutation::MemberAdded(was), Mutation::MemberRemoved(departure)])
    })?;
    replay.each("SELECT * FROM memberships", |row| Ok([Mutation::MemberAdded(rows::membership(row)?)]))
}

fn deletions(replay: &mut Replay<'_>) -> Result<(), LoadError> {
    let at = |row: &Row<'_>| -> rusqlite::Result<Timestamp> { rows::time(row, "deleted_at") };
    replay.each("SELECT id, deleted_at, deleted_by FROM clusters WHERE deleted_at IS NOT NULL", |row| {
        let by = rows::json(row, "deleted_by")?;
        Ok([Mutation::ClusterDeleted { cluster: ClusterId(rows::number(row, "id")?), at: at(row)?, by }])
    })?;
    replay.each("SELECT id, deleted_at, deleted_by FROM projects WHERE deleted_at IS NOT NULL", |row| {
        let by = rows::json(row, "deleted_by")?;
        Ok([Mutation::ProjectDeleted { project: ProjectId(rows::number(row, "id")?), at: at(row)?, by }])
    })
}
