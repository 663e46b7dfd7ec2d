//! Accounts of a cluster's people on a node: user and group records as drop-in files, which nss-systemd resolves. Nothing
//! edits /etc/passwd, and nothing that the machine has from elsewhere is touched.
//!
//! What should be there follows from the bundle alone ([`plan`]); what is there is read back, so that a crash at any
//! point, or somebody's hand, is made good by the next pass.

pub mod elsewhere;
mod homes;
mod plan;
mod record;
mod settings;

pub use homes::{HomeError, make_home};
pub use settings::{Accounts, UserRecords};

use super::files::{self, Mode};
use crate::bundle::Bundle;
use elsewhere::Elsewhere;
use plan::Style;
use record::{Entry, Records};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::sync::watch;

/// The longest record that is read. Ours have some 250 bytes.
const MAX_RECORD_BYTES: usize = 64 * 1024;

/// After this time all is looked at again: a source of accounts answers again, or a hand has been at it.
const AGAIN: Duration = Duration::from_secs(600);

/// Says what sources of users and groups there are.
pub const NSSWITCH: &str = "/etc/nsswitch.conf";

/// Asks them.
const GETENT: &str = "/usr/bin/getent";

/// The records could not be brought to what the bundle says.
#[derive(Debug, Error)]
#[error("{}: {why}", .path.display())]
pub struct RecordError {
    /// Where.
    pub path: std::path::PathBuf,
    /// Why.
    pub why: io::Error,
}

impl RecordError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |why| Self { path: path.to_owned(), why }
    }
}

/// What lies in the directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Records of ours.
    records: Records,
    /// Every file and link that is ours, as it is: to be compared with what it should be.
    entries: BTreeMap<String, Entry>,
    /// Names in the directory that are not ours.
    foreign: BTreeSet<String>,
}

/// Keeps the accounts as the last bundle says, until the sender is gone. Beside everything else: sources of accounts
/// that do not answer must not hold up a removal.
pub async fn keep(settings: UserRecords, mut bundles: watch::Receiver<Option<Arc<Bundle>>>) {
    let mut said = BTreeSet::new();
    loop {
        let bundle = bundles.borrow_and_update().clone();
        if let Some(bundle) = bundle {
            let skipped = match bring(&settings, &bundle).await {
                Ok(skipped) => skipped,
                Err(error) => vec![format!("accounts are not as they should be: {error}")],
            };
            let skipped: BTreeSet<String> = skipped.into_iter().collect();
            skipped.difference(&said).for_each(|line| tracing::warn!("{line}"));
            said = skipped;
        }
        if let Ok(Err(_)) = tokio::time::timeout(AGAIN, bundles.changed()).await {
            return;
        }
    }
}

/// Brings the records to what a bundle says. A line for each user and group that is left out, and why.
///
/// # Errors
/// The directory cannot be read or written; what was done stays, and is right.
pub async fn bring(settings: &UserRecords, bundle: &Arc<Bundle>) -> Result<Vec<String>, RecordError> {
    let directory = settings.directory.clone();
    let found = blocking(move || read(&directory)).await?;
    let nsswitch = fs::read_to_string(NSSWITCH).unwrap_or_default();
    let asked = |ours: Vec<(String, u32)>, theirs: Vec<(String, u32)>| -> Vec<(String, u32)> {
        ours.into_iter().chain(theirs).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let users = asked(
        found.records.users.iter().map(|(name, user)| (name.clone(), user.uid)).collect(),
        bundle.logins.iter().map(|login| (login.name.to_string(), login.uid.0)).collect(),
    );
    let groups = asked(
        found.records.groups.iter().map(|(name, group)| (name.clone(), group.gid)).collect(),
        bundle.groups.iter().map(|group| (group.name.clone(), group.gid.0)).collect(),
    );
    let mut elsewhere = Elsewhere::ask(Path::new(GETENT), &nsswitch, &users, &groups, &found.records).await;
    for name in &found.foreign {
        // Not yet seen by nss-systemd, or not understood by it: not ours all the same.
        let user = name.strip_suffix(".user");
        let (names, name) = match (user, name.strip_suffix(".group")) {
            (Some(name), _) => (&mut elsewhere.users, name),
            (None, Some(name)) => (&mut elsewhere.groups, name),
            (None, None) => continue,
        };
        names.add(name, name.parse().unwrap_or(u32::MAX), "userdb");
    }
    let (settings, bundle) = (settings.clone(), Arc::clone(bundle));
    blocking(move || {
        let style = Style { homes: settings.homes.display().to_string(), shell: settings.shell.clone() };
        let (wanted, mut skipped) = plan::plan(&bundle, &found.records, &elsewhere, &style);
        write(&settings.directory, &found.entries, &wanted.entries())?;
        let people = wanted.users.iter().filter(|_| settings.make_homes);
        for (name, uid, gid) in people.filter_map(|(name, user)| Some((name, user.uid, user.gid?))) {
            if let Err(error) = make_home(&settings, name, uid, gid) {
                skipped.push(format!("no home directory for {name}: {error}"));
            }
        }
        Ok(skipped)
    })
    .await
}

/// Removes all records that are ours: for a machine that is no node any more.
///
/// # Errors
/// One stays.
pub fn remove_all(directory: &Path) -> Result<usize, RecordError> {
    let found = read(directory)?;
    let count = found.records.users.len();
    write(directory, &found.entries, &BTreeMap::new())?;
    Ok(count)
}

fn read(directory: &Path) -> Result<Found, RecordError> {
    let names = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(RecordError::at(directory)(error)),
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect::<BTreeSet<_>>(),
    };
    let mut found = Found::default();
    let mut contents = BTreeMap::new();
    for name in &names {
        if let Ok(bytes) = files::read(&directory.join(name), MAX_RECORD_BYTES)
            && let Ok(text) = String::from_utf8(bytes)
        {
            found.records.take(name, &text);
            contents.insert(name.clone(), text);
        }
    }
    names.iter().for_each(|name| found.records.take_membership(name));
    // What ours would be called, and is one: links that lead to our files, files with our records.
    let ours = found.records.entries();
    let there = names.clone();
    for name in names {
        let entry = match (contents.remove(&name), fs::read_link(directory.join(&name))) {
            (Some(content), _) if name.ends_with(".user-privileged") => Some(Entry::Private(content)),
            (Some(content), _) => Some(Entry::File(content)),
            (None, Ok(target)) => Some(Entry::Link(String::from_utf8_lossy(target.as_os_str().as_bytes()).into())),
            (None, Err(_)) => None,
        };
        let mine = |entry: &Entry| match entry {
            Entry::File(_) | Entry::Private(_) => ours.contains_key(&name) || private_of_ours(&name, &found.records),
            // Also one that a former number has left.
            Entry::Link(target) => ours.contains_key(target) || private_of_ours(target, &found.records),
        };
        match entry.filter(mine) {
            Some(entry) => drop(found.entries.insert(name, entry)),
            // What a crash or a hand has left without its record is nobody's, and may be written over.
            None if record_of(directory, &name).is_some_and(|record| !there.contains(&record)) => {}
            None => drop(found.foreign.insert(name)),
        }
    }
    Ok(found)
}

/// The record that a link or a private part belongs to.
fn record_of(directory: &Path, name: &str) -> Option<String> {
    let name = match fs::read_link(directory.join(name)) {
        Ok(target) => target.to_str()?.to_owned(),
        Err(_) => name.to_owned(),
    };
    Some(name.strip_suffix("-privileged").map_or(name.clone(), str::to_owned))
}

/// Of one that was locked before its private part went.
fn private_of_ours(name: &str, records: &Records) -> bool {
    name.strip_suffix(".user-privileged").is_some_and(|name| records.users.contains_key(name))
}

/// What goes goes first, so that nobody has for a moment what they should not have.
fn write(
    directory: &Path,
    present: &BTreeMap<String, Entry>,
    wanted: &BTreeMap<String, Entry>,
) -> Result<(), RecordError> {
    write_until(usize::MAX, directory, present, wanted)
}

/// Neither a link to one nor a membership.
fn is_record(name: &str, entries: &BTreeMap<String, Entry>) -> bool {
    matches!(entries.get(name), Some(Entry::File(_))) && !name.ends_with(".membership")
}

/// As far as `steps` files: tests end it early.
fn write_until(
    steps: usize,
    directory: &Path,
    present: &BTreeMap<String, Entry>,
    wanted: &BTreeMap<String, Entry>,
) -> Result<(), RecordError> {
    if present == wanted {
        return Ok(());
    }
    let mut left = steps;
    files::make_directory(directory).map_err(|error| RecordError { path: error.path, why: error.why })?;
    let gone = present.keys().filter(|name| !wanted.contains_key(*name));
    // A record last: as long as it is there, what belongs to it is known to be ours.
    let (records, rest): (Vec<_>, Vec<_>) = gone.partition(|name| is_record(name, present));
    for name in rest.into_iter().chain(records).take(steps) {
        left -= 1;
        let path = directory.join(name);
        fs::remove_file(&path).map_err(RecordError::at(&path))?;
    }
    // And first, for the same reason.
    let changed = wanted.iter().filter(|(name, entry)| present.get(*name) != Some(entry));
    let (records, rest): (Vec<_>, Vec<_>) = changed.partition(|(name, _)| is_record(name, wanted));
    for (name, entry) in records.into_iter().chain(rest).take(left) {
        let path = directory.join(name);
        put(&path, entry).map_err(RecordError::at(&path))?;
    }
    Ok(())
}

fn put(path: &Path, entry: &Entry) -> io::Result<()> {
    match entry {
        Entry::File(content) => files::replace(path, content.as_bytes(), Mode::Public).map_err(|error| error.why),
        Entry::Private(content) => files::replace(path, content.as_bytes(), Mode::Private).map_err(|error| error.why),
        Entry::Link(target) => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let temporary = path.with_file_name(format!(".{name}.new"));
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(target, &temporary)?;
            fs::rename(&temporary, path)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
) -> Result<T, RecordError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RecordError::at(Path::new("/"))(io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Group, User};
    use std::os::unix::fs::PermissionsExt;

    fn records(locked: bool) -> Records {
        let gid = Some(200_000).filter(|_| !locked);
        let user = User { uid: 200_001, gid, home: "/home/user1".into(), shell: "/bin/sh".into() };
        let members = if locked { BTreeSet::new() } else { ["user1".to_owned()].into() };
        Records {
            users: [("user1".to_owned(), user)].into(),
            groups: [("ml".to_owned(), Group { gid: 200_000, members })].into(),
        }
    }

    fn bring_to(directory: &Path, wanted: &Records) {
        let found = read(directory).unwrap();
        write(directory, &found.entries, &wanted.entries()).unwrap();
    }

    #[test]
    fn the_directory_is_brought_to_what_should_be_from_whatever_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("userdb");
        for wanted in [records(false), records(true), records(false), Records::default()] {
            bring_to(&directory, &wanted);
            let found = read(&directory).unwrap();
            assert_eq!((&found.records, &found.entries), (&wanted, &wanted.entries()));
            assert_eq!(found.foreign, BTreeSet::new());
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        bring_to(&directory, &records(false));
        let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("user1.user"), mode("user1.user-privileged")), (0o644, 0o600));
    }

    #[test]
    fn a_crash_or_a_hand_between_any_two_files_is_made_good() {
        let whole = records(false).entries();
        for missing in whole.keys() {
            let dir = tempfile::tempdir().unwrap();
            bring_to(dir.path(), &records(false));
            fs::remove_file(dir.path().join(missing)).unwrap();
            bring_to(dir.path(), &records(false));
            assert_eq!(read(dir.path()).unwrap().entries, whole, "{missing}");
        }
        // At any point of making them, and of taking them away.
        let steps = |from: &Records, to: &Records| {
            for crash in 0..16 {
                let dir = tempfile::tempdir().unwrap();
                bring_to(dir.path(), from);
                let found = read(dir.path()).unwrap();
                write_until(crash, dir.path(), &found.entries, &to.entries()).unwrap();
                let halfway = read(dir.path()).unwrap();
                assert_eq!(halfway.foreign, BTreeSet::new(), "{crash}");
                bring_to(dir.path(), to);
                assert_eq!(read(dir.path()).unwrap().entries, to.entries(), "{crash}");
            }
        };
        steps(&Records::default(), &records(false));
        steps(&records(false), &records(true));
        steps(&records(false), &Records::default());
    }

    #[test]
    fn what_is_not_ours_in_the_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other.user"), "{\"userName\": \"other\", \"uid\": 300000}").unwrap();
        std::os::unix::fs::symlink("other.user", dir.path().join("300000.user")).unwrap();
        bring_to(dir.path(), &records(false));
        bring_to(dir.path(), &Records::default());
        let left = read(dir.path()).unwrap();
        assert_eq!(left.foreign, ["300000.user".to_owned(), "other.user".to_owned()].into());
    }
}
