//! sshd: what it says of itself, and what its configuration files say.

use super::{LIMIT, Places, blind, blocking, network, run, text};
use crate::node::{
    doctor::facts::{Blind, BundleFacts, Directive, DropInFacts, Effective, HostCertificate, Seen, SshdFacts},
    sshd::{CONNECTION, DropIn, NOBODY},
    state_dir::StateDir,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};
use tokio::process::Command;

/// Directives that are looked for in files.
const INTERESTING: &[&str] = &[
    "trustedusercakeys",
    "authorizedprincipalsfile",
    "authorizedprincipalscommand",
    "authorizedprincipalscommanduser",
    "authorizedkeyscommand",
    "fingerprinthash",
    "hostcertificate",
    "revokedkeys",
];

/// So many real logins are asked about.
const LOGINS: usize = 5;
/// So many files are read, and so deep may they be nested (sshd's own limit is 16).
const MAX_FILES: usize = 200;
const MAX_DEPTH: usize = 16;

pub(super) async fn read(
    places: &Places,
    root: bool,
    bundle: Option<&BundleFacts>,
    installed: Option<&HostCertificate>,
) -> SshdFacts {
    let (main, drop_in) = (places.sshd_config.clone(), places.drop_in.clone());
    let files = blocking(move || directives(&main, &drop_in));
    let (version, accepted, effective, directives) =
        tokio::join!(version(&places.sshd), accepted(places, root), effective(places, root, bundle), files);
    let addresses: Vec<String> = effective.as_ref().map_or_else(
        |_| vec!["0.0.0.0:22".to_owned()],
        |all| all.first().map(|login| login.all("listenaddress").map(str::to_owned).collect()).unwrap_or_default(),
    );
    let offered = network::offered(&addresses, installed, root).await;
    SshdFacts { version, accepted, effective, directives, offered }
}

fn lines(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn version(program: &Path) -> Seen<String> {
    // Before 8.9 there is no -V, and the complaint about it has the version too.
    let said = lines(&run(Command::new(program).arg("-V")).await?);
    let found = said.lines().find(|line| line.contains("OpenSSH_")).or_else(|| said.lines().find(|l| !l.is_empty()));
    Ok(found.unwrap_or_default().trim().to_owned())
}

async fn ask(places: &Places, root: bool, arguments: &[&str]) -> Seen<Output> {
    if !root {
        return Err(Blind::Denied("sshd answers root only, for it reads its host keys".into()));
    }
    let output = run(Command::new(&places.sshd).args(arguments).arg("-f").arg(&places.sshd_config)).await?;
    if output.status.success() {
        return Ok(output);
    }
    let said: Vec<&str> = str::from_utf8(&output.stderr).unwrap_or_default().lines().map(str::trim).collect();
    Err(Blind::Failed(said.join("; ")))
}

async fn accepted(places: &Places, root: bool) -> Seen<()> {
    ask(places, root, &["-t"]).await.map(drop)
}

async fn effective(places: &Places, root: bool, bundle: Option<&BundleFacts>) -> Seen<Vec<Effective>> {
    let real = bundle.into_iter().flat_map(|bundle| {
        let own = bundle.logins.iter().map(|(name, _)| name.as_str());
        bundle.shared.iter().map(String::as_str).take(LOGINS).chain(own.take(LOGINS))
    });
    let mut all = vec![];
    let work = async {
        for login in std::iter::once(NOBODY).chain(real) {
            let output = ask(places, root, &["-T", "-C", &format!("user={login},{CONNECTION}")]).await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines = said.lines().filter_map(|line| line.split_once(' '));
            let lines = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            all.push(Effective { login: login.to_owned(), lines });
        }
        Ok(())
    };
    // One that is slow (a Match Group that asks LDAP) makes the next ones slow as well.
    tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(Blind::Failed(format!("sshd gives no answer in {} s", LIMIT.as_secs()))))?;
    Ok(all)
}

/// The drop-in, and what it has to say.
pub(super) fn drop_in(path: &Path, state: Option<&StateDir>) -> Seen<DropInFacts> {
    let text = text(path)?;
    let lines: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let get = |name: &str| lines.iter().find(|line| line.0 == name).map(|line| line.1.as_str());
    let wanted = || {
        let mut words = get("authorizedprincipalscommand")?.split_whitespace();
        let helper = PathBuf::from(words.next().filter(|word| word.starts_with('/'))?);
        let table = PathBuf::from(words.nth(1)?);
        let found = table.parent().map(|directory| StateDir::new(directory, None));
        let state = state.cloned().or(found)?;
        Some(DropIn {
            helper,
            helper_user: get("authorizedprincipalscommanduser")?.to_owned(),
            table: state.table(),
            user_ca: state.user_ca(),
            host_certificate: state.host_certificate(),
            revoked_keys: (state.is_revoking() || get("revokedkeys").is_some()).then(|| state.revoked_keys()),
        })
    };
    let wanted = wanted();
    Ok(DropInFacts { lines, wanted })
}

/// The path without symbolic links, so that one file is one file.
pub(super) fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// What the main file and all that it includes say, in sshd's order.
fn directives(main: &Path, drop_in: &Path) -> Seen<Vec<Directive>> {
    let mut reader = Reader { found: vec![], files: 0, blind: None };
    reader.file(main, 0, false);
    // The drop-in's own business is said of it elsewhere.
    match reader.blind {
        Some((path, why)) if path != *drop_in => Err(why),
        _ => Ok(reader.found),
    }
}

struct Reader {
    found: Vec<Directive>,
    files: usize,
    blind: Option<(PathBuf, Blind)>,
}

impl Reader {
    fn file(&mut self, path: &Path, depth: usize, mut matched: bool) {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            return;
        }
        let text = match text(path) {
            Ok(text) => text,
            Err(why) => {
                self.blind.get_or_insert((path.to_owned(), why));
                return;
            }
        };
        let file = real(path);
        for (index, line) in text.lines().enumerate() {
            let Some((name, value)) = directive(line) else { continue };
            match name.as_str() {
                "match" => matched = !value.trim().eq_ignore_ascii_case("all"),
                "include" => {
                    for included in value.split_whitespace().flat_map(|pattern| expand(pattern.trim_matches('"'))) {
                        self.file(&included, depth + 1, matched);
                    }
                }
                known if INTERESTING.contains(&known) => {
                    self.found.push(Directive { file: file.clone(), line: index + 1, name, value, matched });
                }
                _ => {}
            }
        }
    }
}

/// A line's keyword in small letters, and the rest. sshd lets `=` stand between them.
fn directive(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (name, value) = line.split_at(end);
    let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=');
    Some((name.to_ascii_lowercase(), value.trim_matches('"').to_owned()))
}

/// The files of an Include, in the order of their names. Wildcards stand in the last part of the path only; elsewhere
/// nobody puts them.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new("/etc/ssh").join(pattern);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return vec![];
    };
    if !name.contains(['*', '?', '[']) {
        return if path.exists() { vec![path] } else { vec![] };
    }
    let Ok(entries) = fs::read_dir(directory) else { return vec![] };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|found| !found.starts_with('.') && fits(name.as_bytes(), found.as_bytes()));
    names.sort();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// glob(7), without brackets.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.first(), name.first()) {
        (None, None) => true,
        (Some(b'*'), _) => fits(&pattern[1..], name) || (!name.is_empty() && fits(pattern, &name[1..])),
        (Some(b'?'), Some(_)) => fits(&pattern[1..], &name[1..]),
        (Some(a), Some(b)) => a == b && fits(&pattern[1..], &name[1..]),
        _ => false,
    }
}

/// The file and all directories above it.
pub(super) fn chain(path: &Path) -> Seen<crate::node::doctor::facts::Chain> {
    use std::os::unix::fs::MetadataExt;
    let whole = fs::canonicalize(path).map_err(|error| blind(path, &error))?;
    let step = |path: &Path| {
        let meta = fs::metadata(path).map_err(|error| blind(path, &error))?;
        let (owner, mode, directory) = (meta.uid(), meta.mode() & 0o7777, meta.is_dir());
        Ok(crate::node::doctor::facts::Step { path: path.to_owned(), owner, mode, directory })
    };
    whole.ancestors().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_in_sshds_order_and_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| real(dir.path()).join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/20-b.conf"), "# AuthorizedKeysCommand /no\n  AuthorizedKeysCommand=\"/x y\"\n").unwrap();
        fs::write(at("d/10-a.conf"), "TRUSTEDUSERCAKEYS\t/ca\nPort 22\nMatch User a\nRevokedKeys /r\n").unwrap();
        fs::write(at("d/.hidden.conf"), "RevokedKeys /no\n").unwrap();
        let main = format!("\nInclude {}/*.conf\nHostCertificate /c\n", at("d").display());
        fs::write(at("main"), main).unwrap();
        let found = directives(&at("main"), &at("none")).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|d| {
                (d.file.file_name().unwrap().to_str().unwrap(), d.line, d.name.as_str(), d.value.as_str(), d.matched)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("10-a.conf", 1, "trustedusercakeys", "/ca", false),
                ("10-a.conf", 4, "revokedkeys", "/r", true),
                ("20-b.conf", 2, "authorizedkeyscommand", "/x y", false),
                ("main", 3, "hostcertificate", "/c", false),
            ]
        );
        assert!(matches!(directives(&at("missing"), &at("none")), Err(Blind::Missing(_))));
    }

    #[test]
    fn wildcards_are_those_of_the_shell() {
        for (pattern, name, is) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("1?-*", "10-x", true),
            ("1?-*", "1-x", false),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), is, "{pattern} {name}");
        }
    }
}
