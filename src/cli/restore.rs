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
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufRead, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

/// Where everything is made, within the state directory.
pub const UNFINISHED: &str = "restore.unfinished";

/// Where the authority's configuration is, without which its service is not started.
const CONFIGURATION: &str = "/etc/certgate/authority.toml";

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
        if let Some(owner) = owner {
            become_owner(owner)?;
        }
        let place = Place::make(&order.into)?;
        opened.extract(&place.unfinished)?;
        let uid = rustix::process::getuid().as_raw();
        let detail =
            format!("of version {}, made {} by certgate {}", manifest.version, manifest.created, manifest.program);
        let event = Event::new(now, Actor::Operator { uid }, "backup.restore", &manifest.bastion);
        let event = Event { detail, ..event };
        let moved = runtime.block_on(SqliteStore::move_on(&place.unfinished, event, manifest.created, now));
        let moved = moved.map_err(|error| ("failed", error.to_string()))?;
        place.finish()?;
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

fn stderr(error: io::Error) -> Problem {
    ("failed", format!("standard error: {error}"))
}

fn confirm(order: &RestoreOrder, terminal: Option<Terminal>, json: bool, shown: &str) -> Result<(), Problem> {
    let mut error = io::stderr();
    if order.yes {
        // Whoever says yes beforehand is shown it all the same.
        return if json { Ok(()) } else { error.write_all(shown.as_bytes()).map_err(stderr) };
    }
    if terminal.is_none() || json {
        return Err(("unconfirmed", "this needs a yes: look at it with --dry-run, then add --yes".into()));
    }
    let asked = write!(error, "{shown}\nRestore it into {}? [y/N] ", order.into.display());
    asked.and_then(|()| error.flush()).map_err(stderr)?;
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

    /// Gives everything its name; the database comes last, without which no authority starts.
    fn finish(self) -> Result<(), Problem> {
        let mut named = Vec::new();
        let mut finish = || {
            let mut names = Vec::new();
            for entry in self.unfinished.read_dir()? {
                names.push(entry?.file_name());
            }
            names.sort_by_key(|name| name == DATABASE);
            for name in &names {
                let (from, to) = (self.unfinished.join(name), self.dir.join(name));
                // Over nothing, whatever has come there meanwhile.
                renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE)?;
                named.push(to);
                File::open(&self.dir)?.sync_all()?;
            }
            Ok(())
        };
        let finished = finish().map_err(|error: io::Error| ("failed", format!("{}: {error}", self.dir.display())));
        if finished.is_err() {
            for path in &named {
                let _ = fs::remove_file(path);
            }
        }
        finished
    }
}

/// Becomes the state directory's owner for what is left to do. What root does by path in a directory of somebody else, they
/// could turn to something else.
fn become_owner((uid, gid): (u32, u32)) -> Result<(), Problem> {
    if !rustix::process::geteuid().is_root() || uid == 0 {
        return Ok(());
    }
    let become_them = || {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setegid(gid.into())?;
        nix::unistd::seteuid(uid.into())
    };
    become_them().map_err(|error| ("failed", format!("it could not go on as user {uid}: {error}")))
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
         Certificates that were revoked since work again, until they end. Heads of the audit log that were kept since then, after \
         entry {}, are of a log that is lost.\n\
         Next: {}\n",
        manifest.created.for_people(),
        manifest.created.for_people().trim_end_matches(" UTC"),
        manifest.audit.seq,
        if Path::new(CONFIGURATION).exists() {
            "systemctl start certgate-authority"
        } else {
            "certgate setup --restored, since this machine has no configuration yet"
        },
    ));
    text
}
