//! `certgate restore`: an authority's state directory from a backup. It needs no authority, and none may run on that directory;
//! nothing is under its name before all of it is there, checked, and moved on.

use super::Problem;
use crate::{
    app::protocol::{Output, Terminal},
    audit::Event,
    backup::{self, BackupError, DATABASE, Manifest},
    command::RestoreOrder,
    domain::{Actor, Fingerprint, Timestamp},
    store::{SqliteStore, sqlite::Moved},
};
use serde_json::json;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufRead, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, chown},
    path::{Path, PathBuf},
};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

/// Where everything is made, within the state directory.
const UNFINISHED: &str = "restore.unfinished";

/// The longest file with a secret key, in bytes.
const MAX_IDENTITY: u64 = 64 * 1024;

/// Why there is no authority from a backup.
enum Stop {
    Problem(Problem),
    /// What it is was all that was wanted.
    Shown(Output),
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        Self::Problem(("backup", error.to_string()))
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Restores.
pub(super) fn run(
    runtime: &Runtime,
    order: &RestoreOrder,
    terminal: Option<Terminal>,
    json: bool,
    now: Timestamp,
) -> Result<Output, Problem> {
    let failed = |path: &Path, error: io::Error| ("failed", format!("{}: {error}", path.display()));
    let mut identity = Zeroizing::new(String::new());
    let reading = File::open(&order.identity).and_then(|file| file.take(MAX_IDENTITY).read_to_string(&mut identity));
    reading.map_err(|error| failed(&order.identity, error))?;
    let file = File::open(&order.file).map_err(|error| failed(&order.file, error))?;
    let restored = backup::open(file, &identity, |opened| {
        let signed_by = opened.signed_by.fingerprint();
        if let Some(key) = order.audit_key.filter(|key| *key != signed_by) {
            let text = format!("the backup is signed by {signed_by}, and not by {key}: it is not of this authority");
            return Err(Stop::Problem(("foreign", text)));
        }
        let manifest = opened.manifest.clone();
        let shown = shown(&manifest, signed_by, order, now);
        if order.dry_run {
            let stdout = if json { data(&manifest, signed_by, None) } else { shown };
            return Err(Stop::Shown(Output { stdout, ..Output::default() }));
        }
        let owner = empty(&order.into)?;
        confirm(order, terminal, json, &shown)?;
        let place = Place::make(&order.into)?;
        opened.extract(&place.unfinished)?;
        let uid = rustix::process::getuid().as_raw();
        let detail =
            format!("of version {}, made {} by certgate {}", manifest.version, manifest.created, manifest.program);
        let event = Event::new(now, Actor::Operator { uid }, "backup.restore", &manifest.bastion);
        let moved = runtime.block_on(SqliteStore::move_on(&place.unfinished, Event { detail, ..event }, now));
        let moved = moved.map_err(|error| ("failed", error.to_string()))?;
        place.finish(owner)?;
        Ok((manifest, signed_by, moved))
    });
    match restored {
        Ok((manifest, signed_by, moved)) => {
            let stdout = if json { data(&manifest, signed_by, Some(&moved)) } else { String::new() };
            Ok(Output { stdout, stderr: done(&manifest, &moved, order), ..Output::default() })
        }
        Err(Stop::Shown(output)) => Ok(output),
        Err(Stop::Problem((reason, text))) => Err((reason, format!("{text}\nNothing was restored"))),
    }
}

/// Whose the state directory is, if it is there. It must be empty: two authorities in one would be none.
fn empty(dir: &Path) -> Result<Option<(u32, u32)>, Problem> {
    let failed = |error: io::Error| ("failed", format!("{}: {error}", dir.display()));
    let metadata = match dir.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut entries = dir.read_dir().map_err(failed)?;
    // What a restoration has left that was cut short; it is made anew.
    if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != UNFINISHED)) {
        let text = format!(
            "{} is not empty. A backup is never restored over anything: if this authority is lost, move what is there away, \
             and restore then",
            dir.display()
        );
        return Err(("conflict", text));
    }
    Ok(Some((metadata.uid(), metadata.gid())))
}

fn confirm(order: &RestoreOrder, terminal: Option<Terminal>, json: bool, shown: &str) -> Result<(), Problem> {
    if order.yes {
        return Ok(());
    }
    if terminal.is_none() || json {
        return Err(("unconfirmed", "this needs a yes: look at it with --dry-run, then add --yes".into()));
    }
    let mut error = io::stderr();
    let asked = write!(error, "{shown}\nRestore it into {}? [y/N] ", order.into.display());
    asked.and_then(|()| error.flush()).map_err(|error| ("failed", format!("standard error: {error}")))?;
    let mut answer = String::new();
    let read = io::stdin().lock().take(64).read_line(&mut answer);
    read.map_err(|error| ("failed", format!("standard input: {error}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" | "Yes" | "YES" => Ok(()),
        _ => Err(("unconfirmed", "not confirmed".into())),
    }
}

/// The state directory, while it is being made.
struct Place {
    dir: PathBuf,
    unfinished: PathBuf,
}

impl Place {
    fn make(dir: &Path) -> Result<Self, Problem> {
        let place = Self { dir: dir.to_owned(), unfinished: dir.join(UNFINISHED) };
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        let _ = fs::remove_dir_all(&place.unfinished);
        let made = make(dir).and_then(|()| DirBuilder::new().mode(0o700).create(&place.unfinished));
        made.map_err(|error| ("failed", format!("{}: {error}", place.unfinished.display())))?;
        Ok(place)
    }

    /// Gives everything its name and its owner; the database comes last, without which no authority starts.
    fn finish(self, owner: Option<(u32, u32)>) -> Result<(), Problem> {
        let finish = || {
            let mut paths = Vec::new();
            for entry in self.unfinished.read_dir()? {
                paths.push(entry?.path());
            }
            paths.sort_by_key(|path| path.ends_with(DATABASE));
            for path in &paths {
                if let Some((uid, gid)) = owner.filter(|_| rustix::process::geteuid().is_root()) {
                    chown(path, Some(uid), Some(gid))?;
                }
                fs::rename(path, self.dir.join(path.file_name().unwrap_or_default()))?;
                File::open(&self.dir)?.sync_all()?;
            }
            Ok(())
        };
        finish().map_err(|error: io::Error| ("failed", format!("{}: {error}", self.dir.display())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.unfinished);
    }
}

fn shown(manifest: &Manifest, signed_by: Fingerprint, order: &RestoreOrder, now: Timestamp) -> String {
    let Manifest { program, created, bastion, version, audit, accounts, projects, .. } = manifest;
    let keys = if manifest.with_keys() { "in it" } else { "not in it" };
    let checked = if order.audit_key.is_some() {
        "the key that was given"
    } else {
        "compare it with what 'ca show' printed once"
    };
    format!(
        "BACKUP       of {bastion}, made {}, {}, by certgate {program}\n\
         DIRECTORY    version {version}, {accounts} accounts, {projects} projects\n\
         AUDIT LOG    up to entry {}\n\
         CA KEYS      {keys}\n\
         SIGNED BY    {signed_by} ({checked})\n",
        created.for_people(),
        created.near(now),
        audit.seq,
    )
}

fn data(manifest: &Manifest, signed_by: Fingerprint, moved: Option<&Moved>) -> String {
    let moved = moved.map(|moved| {
        json!({ "version": moved.version, "next_serial": moved.next_serial, "next_uid": moved.counters.uid,
            "next_gid": moved.counters.gid, "tokens_revoked": moved.tokens })
    });
    let data =
        json!({ "backup": manifest, "signed_by": signed_by, "with_ca_keys": manifest.with_keys(), "restored": moved });
    format!("{data:#}\n")
}

/// What was done, and what is left to do.
fn done(manifest: &Manifest, moved: &Moved, order: &RestoreOrder) -> String {
    let dir = order.into.display();
    let mut text = format!(
        "restored into {dir}: version {}; certificates go on with serial {}, user numbers with {}\n",
        moved.version, moved.next_serial, moved.counters.uid.0
    );
    if moved.tokens > 0 {
        text.push_str(&format!(
            "{} join tokens work no more: ask for new ones ('certgate node token')\n",
            moved.tokens
        ));
    }
    if !manifest.with_keys() {
        let names = manifest.keys.keys().cloned().collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "The CA keys were not in it: put {names} into {dir}, mode 0600, with the directory's owner, before the authority \
             starts\n"
        ));
    }
    text.push_str(&format!(
        "What was changed after {} is not in it: whoever was removed or suspended since is back, and so are keys that were \
         removed. Look at the journal or wherever the audit log is collected, and do it again, before the gateways start:\n\
         journalctl TARGET=certgate::audit --since '{}'\n\
         Next: systemctl start certgate-authority\n",
        manifest.created.for_people(),
        manifest.created.for_people().trim_end_matches(" UTC"),
    ));
    text
}
