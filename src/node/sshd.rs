//! The node's sshd: our drop-in, whether it is in force, and how it is made to read it again.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use thiserror::Error;

/// How the file that we write for sshd begins: what does not is somebody else's.
pub(super) const WRITTEN: &str = "# Written by 'certgate-node join'";

/// What was found, or what failed. Each says what to do next.
#[derive(Debug, Error)]
pub enum SshdError {
    /// A program cannot be started.
    #[error("cannot run {program}: {why}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        why: io::Error,
    },
    /// sshd does not accept its configuration.
    #[error("sshd does not accept its configuration {}: {message}", .config.display())]
    Invalid {
        /// The main file.
        config: PathBuf,
        /// What sshd says.
        message: String,
    },
    /// sshd accepts the drop-in, but something else is in force.
    #[error(
        "sshd does not use what certgate set: '{directive}' is '{found}' instead of '{expected}'. {}",
        hint(directive)
    )]
    NotInForce {
        /// Which directive.
        directive: String,
        /// What is in force.
        found: String,
        /// What should be.
        expected: String,
    },
    /// sshd refuses by a list already, and can have only one.
    #[error(
        "sshd already has a list of revoked keys, '{0}', and can have only one: certgate's would put it out of force. \
         Join without --revoked-keys (the helper refuses what certgate revokes in any case), or take that one away"
    )]
    Revoking(String),
    /// The list of revoked keys would make sshd refuse everybody.
    #[error("{}: sshd would refuse everybody with this list of revoked keys: {why}", .path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The reload command failed.
    #[error("the reload command '{command}' failed: {message}")]
    Reload {
        /// The command.
        command: String,
        /// What it says.
        message: String,
    },
    /// sshd would refuse to run the helper, or somebody could replace it.
    #[error("{}: {why}; sshd runs only what belongs to root and nobody else can change", .path.display())]
    Helper {
        /// The helper, or a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The helper could not read its table.
    #[error(
        "{}: only its owner and group can look into it, and the helper does not run as root; open it (chmod o+x) or \
         choose another --state-dir",
        .0.display()
    )]
    Closed(PathBuf),
    /// A path that would not survive in sshd's configuration.
    #[error("{}: a path must be absolute, and have no space, quote, '%' or other special character", .0.display())]
    Path(PathBuf),
}

/// A connection that nobody makes: what holds for it beside a user is what holds outside of Match blocks. sshd refuses the
/// question if a block asks for what is missing here.
pub(super) const CONNECTION: &str = "host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22";
/// A login that nobody has.
pub(super) const NOBODY: &str = "certgate-check";

fn hint(directive: &str) -> &'static str {
    match directive {
        "authorizedprincipalscommand" => {
            "Another file sets it first, or AuthorizedKeysCommand stands before it, which makes OpenSSH before 9.4 drop \
             it silently; look for both in sshd_config and its Include files"
        }
        // servconf.c, `sFingerprintHash`.
        "fingerprinthash" => {
            "Of this directive sshd takes the last value that it reads: sshd_config or a file that it includes sets it \
             after the drop-in"
        }
        _ => "Another file sets it first, or sshd_config does not include the drop-in's directory before it",
    }
}

/// The sshd of this machine.
#[derive(Clone, Debug)]
pub struct Sshd {
    /// The program; sshd wants to be called by its whole path.
    pub program: PathBuf,
    /// Its main configuration file.
    pub config: PathBuf,
}

/// What we set.
#[derive(Clone, Debug)]
pub struct DropIn {
    /// The helper.
    pub helper: PathBuf,
    /// As whom it runs.
    pub helper_user: String,
    /// The access table.
    pub table: PathBuf,
    /// The CAs of user certificates.
    pub user_ca: PathBuf,
    /// The host certificate.
    pub host_certificate: PathBuf,
    /// The list of revoked keys, if sshd is to have one.
    pub revoked_keys: Option<PathBuf>,
}

impl DropIn {
    /// Directive and value, as `sshd_config` and `sshd -T` have them.
    pub(super) fn directives(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        let command = format!("{} --table {} %u %s %f %F %i", path(&self.helper), path(&self.table));
        let mut all = vec![
            ("TrustedUserCAKeys", path(&self.user_ca)),
            // A file would be a second way in, beside the helper.
            ("AuthorizedPrincipalsFile", "none".into()),
            ("AuthorizedPrincipalsCommand", command),
            ("AuthorizedPrincipalsCommandUser", self.helper_user.clone()),
            // The helper reads fingerprints of this kind only.
            ("FingerprintHash", "SHA256".into()),
            ("HostCertificate", path(&self.host_certificate)),
        ];
        all.extend(self.revoked_keys.as_deref().map(|list| ("RevokedKeys", path(list))));
        all
    }

    /// The file.
    ///
    /// # Errors
    /// A path or the user has characters that mean something to sshd.
    pub fn text(&self) -> Result<String, SshdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+' | b'@');
        let user = Path::new(&self.helper_user);
        let paths = [&self.helper, &self.table, &self.user_ca, &self.host_certificate];
        for path in paths.into_iter().chain(&self.revoked_keys) {
            if !path.is_absolute() || !path.as_os_str().as_encoded_bytes().iter().all(|b| plain(*b)) {
                return Err(SshdError::Path(path.clone()));
            }
        }
        if self.helper_user.is_empty() || !self.helper_user.bytes().all(|b| plain(b) && b != b'/') {
            return Err(SshdError::Path(user.to_owned()));
        }
        let lines: String = self.directives().iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        Ok(format!("{WRITTEN}; it is written anew when the node joins again.\n{lines}"))
    }
}

impl Sshd {
    /// Whether sshd accepts its configuration as it is.
    ///
    /// # Errors
    /// It does not, or it cannot be run.
    pub fn check(&self) -> Result<(), SshdError> {
        self.run(&["-t"]).map(drop)
    }

    /// Whether sshd has no list of revoked keys yet that this one would put out of force: of the lists that its
    /// configuration names it takes the first only.
    ///
    /// # Errors
    /// It has another one.
    pub fn check_revokes_nothing_but(&self, list: &Path) -> Result<(), SshdError> {
        let effective = self.effective()?;
        let found = effective.lines().find_map(|line| line.strip_prefix("revokedkeys "));
        match found.filter(|found| *found != "none" && Path::new(found) != list) {
            Some(found) => Err(SshdError::Revoking(found.to_owned())),
            None => Ok(()),
        }
    }

    /// Whether everything that the drop-in says is really in force.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_in_force(&self, drop_in: &DropIn) -> Result<(), SshdError> {
        let effective = self.effective()?;
        for (directive, expected) in drop_in.directives() {
            let directive = directive.to_ascii_lowercase();
            let mut values = effective.lines().filter_map(|line| line.split_once(' ')).filter(|l| l.0 == directive);
            // HostCertificate may stand there several times; of the others sshd prints one.
            if !values.clone().any(|(_, value)| value == expected) {
                let found = values.next().map_or("not set", |(_, value)| value).to_owned();
                return Err(SshdError::NotInForce { directive, found, expected });
            }
        }
        Ok(())
    }

    /// What is in force outside of Match blocks, which can set most of it as well: for a login that none of them is about.
    fn effective(&self) -> Result<String, SshdError> {
        let output = self.run(&["-T", "-C", &format!("user={NOBODY},{CONNECTION}")])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, SshdError> {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).arg("-f").arg(&self.config).stdin(Stdio::null()).output();
        let output = output.map_err(|why| SshdError::Run { program: self.program.display().to_string(), why })?;
        if output.status.success() {
            return Ok(output);
        }
        Err(SshdError::Invalid { config: self.config.clone(), message: one_line(&output.stderr) })
    }
}

/// Runs the reload command, without a shell. Nothing to do if it is empty.
///
/// # Errors
/// It cannot be run, or fails.
pub fn reload(words: &[String]) -> Result<(), SshdError> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|why| SshdError::Run { program: program.clone(), why })?;
    if output.status.success() {
        return Ok(());
    }
    let message = format!("{} {}", output.status, one_line(&output.stderr));
    Err(SshdError::Reload { command: words.join(" "), message })
}

/// What a program had to say, in one line without control characters.
fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    text.chars().filter(|c| !c.is_control()).take(1000).collect()
}

/// sshd's own rule (misc.c, `safe_path`): the helper and every directory above it are root's, and nobody else can
/// write to them. Checked here because sshd says so only in its log, when the first user cannot log in.
///
/// # Errors
/// The first of them that is not.
pub fn check_helper(helper: &Path) -> Result<(), SshdError> {
    let wrong = |path: &Path, why: String| SshdError::Helper { path: path.to_owned(), why };
    if !helper.is_absolute() {
        return Err(wrong(helper, "not an absolute path".into()));
    }
    let real = fs::canonicalize(helper).map_err(|error| wrong(helper, error.to_string()))?;
    for path in real.ancestors() {
        let meta = fs::metadata(path).map_err(|error| wrong(path, error.to_string()))?;
        if meta.uid() != 0 {
            return Err(wrong(path, "it does not belong to root".into()));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(wrong(path, "others than root can write to it".into()));
        }
        if path == real && (!meta.is_file() || meta.mode() & 0o111 == 0) {
            return Err(wrong(path, "not an executable file".into()));
        }
    }
    Ok(())
}

/// Whether the helper, which is nobody in particular, can reach what is in this directory.
///
/// # Errors
/// The first directory above that it cannot look into.
pub fn check_reachable(directory: &Path) -> Result<(), SshdError> {
    let closed = |path: &Path| SshdError::Closed(path.to_owned());
    let real = fs::canonicalize(directory).map_err(|_| closed(directory))?;
    let open = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    real.ancestors().find(|path| !open(path)).map_or(Ok(()), |path| Err(closed(path)))
}
