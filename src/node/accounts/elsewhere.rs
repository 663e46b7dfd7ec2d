//! What a machine has of users and groups from elsewhere: its own files, LDAP, whatever nsswitch.conf(5) names. Asked
//! with getent(1), since only the C library can load those sources, and each source alone: the first one that knows a
//! name hides the others.

use super::record::Records;
use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt, process::Command};

/// How many names and numbers one getent is asked about.
const AT_ONCE: usize = 200;

/// How long one getent may take: an LDAP server that does not answer must not hold up anything for long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest answer to one question, in bytes: groups come with their members.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// The source that reads our own records, among others.
const OURS: &str = "systemd";

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Users.
    pub users: Names,
    /// Groups.
    pub groups: Names,
}

/// Names and numbers that are taken.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// With the source that has it.
    names: BTreeMap<String, String>,
    /// With the name and the source that has it.
    numbers: BTreeMap<u32, (String, String)>,
    /// Why it is not known what is taken.
    unknown: Option<String>,
}

impl Names {
    /// Takes up one.
    pub fn add(&mut self, name: &str, number: u32, source: &str) {
        self.names.entry(name.to_owned()).or_insert_with(|| source.to_owned());
        self.numbers.entry(number).or_insert_with(|| (name.to_owned(), source.to_owned()));
    }

    /// Why a user or group of this name and number cannot be ours. `here` is whether it is already.
    #[must_use]
    pub fn problem(&self, name: &str, number: u32, here: bool) -> Option<String> {
        if let Some(source) = self.names.get(name) {
            return Some(format!("'{source}' has a group or user of that name"));
        }
        if let Some((other, source)) = self.numbers.get(&number) {
            return Some(format!("'{source}' has that number, as {other}"));
        }
        self.unknown.clone().filter(|_| !here)
    }
}

/// Users or groups.
#[derive(Clone, Copy)]
enum Database {
    Passwd,
    Group,
}

impl Database {
    fn name(self) -> &'static str {
        match self {
            Self::Passwd => "passwd",
            Self::Group => "group",
        }
    }
}

impl Elsewhere {
    /// Nothing could be found out.
    #[must_use]
    pub fn unknown(why: &str) -> Self {
        let names = Names { unknown: Some(why.to_owned()), ..Names::default() };
        Self { users: names.clone(), groups: names }
    }

    /// Asks about these users and groups, each a name and a number.
    pub async fn ask(
        getent: &Path,
        nsswitch: &str,
        users: &[(String, u32)],
        groups: &[(String, u32)],
        ours: &Records,
    ) -> Self {
        let our_users = |name: &str| ours.users.contains_key(name);
        let our_groups = |name: &str| ours.groups.contains_key(name);
        Self {
            users: names(getent, nsswitch, Database::Passwd, users, &our_users).await,
            groups: names(getent, nsswitch, Database::Group, groups, &our_groups).await,
        }
    }
}

/// The sources of a database. Without a word about it there is `files` (nsswitch.conf(5)).
#[must_use]
pub fn sources(nsswitch: &str, database: &str) -> Vec<String> {
    let lines = nsswitch.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.filter_map(|line| line.trim().split_once(':')).find(|(name, _)| name.trim() == database);
    let Some((_, words)) = words else { return vec!["files".into()] };
    // `[NOTFOUND=return]` and its like may have spaces in them.
    let mut inside = false;
    let mut sources = vec![];
    for word in words.split_whitespace() {
        inside |= word.starts_with('[');
        if !inside && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            sources.push(word.to_owned());
        }
        inside &= !word.ends_with(']');
    }
    sources
}

async fn names(
    getent: &Path,
    nsswitch: &str,
    database: Database,
    asked: &[(String, u32)],
    ours: &(dyn Fn(&str) -> bool + Sync),
) -> Names {
    let mut names = Names::default();
    for source in sources(nsswitch, database.name()) {
        for part in asked.chunks(AT_ONCE / 2) {
            let answer = match getent_says(getent, database, &source, part).await {
                Ok(answer) => answer,
                Err(why) => {
                    names.unknown = Some(format!("getent does not say whether '{source}' has it: {why}"));
                    continue;
                }
            };
            for (name, number) in answer.lines().filter_map(entry) {
                // Our own records are found as well; where one of ours is, the directory itself says whose it is.
                if source != OURS || !ours(name) {
                    names.add(name, number, &source);
                }
            }
        }
    }
    names
}

/// Name and number of a line of passwd(5) or group(5).
fn entry(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
    Some((name, number.parse().ok()?))
}

async fn getent_says(
    getent: &Path,
    database: Database,
    source: &str,
    asked: &[(String, u32)],
) -> Result<String, String> {
    let keys = asked.iter().flat_map(|(name, number)| [name.clone(), number.to_string()]);
    let mut child = Command::new(getent)
        .args(["-s", source, database.name(), "--"])
        .args(keys)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{}: {error}", getent.display()))?;
    let stdout = child.stdout.take().ok_or("no output")?;
    let work = async {
        let mut text = Vec::new();
        stdout.take(MAX_ANSWER + 1).read_to_end(&mut text).await.map_err(|error| error.to_string())?;
        if text.len() as u64 > MAX_ANSWER {
            return Err("it says more than can be read".to_owned());
        }
        // What is no UTF-8 is no name of ours, but may stand on a line with a number of ours.
        let text = String::from_utf8_lossy(&text).into_owned();
        match child.wait().await.map_err(|error| error.to_string())?.code() {
            // 2: some of the keys are not there.
            Some(0 | 2) => Ok(text),
            _ => Err("it failed".to_owned()),
        }
    };
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn sources_are_read_as_glibc_reads_them() {
        let text = "# passwd: nis\npasswd:  files [NOTFOUND=return] systemd sss # more\ngroup:\tcompat [!SUCCESS = \
                    continue] ldap\n";
        assert_eq!(sources(text, "passwd"), ["files", "systemd", "sss"]);
        assert_eq!(sources(text, "group"), ["compat", "ldap"]);
        assert_eq!(sources(text, "shadow"), ["files"]);
    }

    #[tokio::test]
    async fn the_machine_s_own_files_are_asked_and_only_about_what_is_asked() {
        let root = [("root".to_owned(), 200_001), ("nobody-at-all".to_owned(), 200_002), ("x".to_owned(), 1)];
        let getent = Path::new("/usr/bin/getent");
        let ours = Records::default();
        let Elsewhere { users, groups } =
            Elsewhere::ask(getent, "passwd: files\ngroup: files\n", &root, &root[..1], &ours).await;
        assert_eq!(users.problem("root", 200_001, false).unwrap(), "'files' has a group or user of that name");
        assert_eq!(users.problem("nobody-at-all", 200_002, false), None);
        assert!(users.problem("x", 1, false).unwrap().starts_with("'files' has that number, as "));
        assert!(groups.problem("root", 200_001, false).is_some());
    }

    #[tokio::test]
    async fn a_source_that_cannot_be_asked_is_unknown_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let getent = dir.path().join("getent");
        fs::write(&getent, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&getent, fs::Permissions::from_mode(0o755)).unwrap();
        for program in [getent.as_path(), Path::new("/nowhere/getent")] {
            let asked = [("user1".to_owned(), 200_001)];
            let names = Elsewhere::ask(program, "", &asked, &asked, &Records::default()).await;
            assert!(names.users.problem("user1", 200_001, false).unwrap().contains("does not say"));
            assert_eq!(names.users.problem("user1", 200_001, true), None);
        }
    }
}
