//! `certgate-node leave`: undoes what `join` and the agent have done. sshd first: as long as it names what is there,
//! what is there stays. With `--for-now` the machine can be a node again, by `certgate-node resume`: that is what becomes of
//! it between the removal of a package and its next installation.

use super::{
    accounts::{self, RecordError},
    config::{ConfigError, NodeConfig},
    files::{self, FileError, Mode},
    sshd::{self, Sshd, SshdError},
    state_dir::StateDir,
};
use crate::domain::NodePath;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use thiserror::Error;

/// Longer than any drop-in that `join` writes.
const MAX_DROP_IN_BYTES: usize = 64 * 1024;

/// The agent's unit.
const UNIT: &str = "certgate-node.service";

/// Why the machine is still a node, or still has something of one.
#[derive(Debug, Error)]
pub enum LeaveError {
    /// The files are root's.
    #[error("leave has to run as root: it removes sshd's configuration for certgate")]
    NotRoot,
    /// The machine is no node.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Somebody else's file.
    #[error("{}: not written by certgate-node join; remove it yourself if it should go, then run leave again", .0.display())]
    Foreign(PathBuf),
    /// sshd would not start without the drop-in. Everything is as it was.
    #[error("{0}; nothing was changed")]
    Sshd(#[from] SshdError),
    /// A file stays.
    #[error("{0}; run leave again when that is mended")]
    File(#[from] FileError),
    /// A record stays.
    #[error("{0}; run leave again when that is mended")]
    Record(#[from] RecordError),
    /// sshd would refuse everybody. Everything is as it was.
    #[error("sshd's list of revoked keys cannot be made: {0}; nothing was changed")]
    List(String),
}

/// Where things are on this machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// node.toml.
    pub config: PathBuf,
    /// sshd and its main configuration.
    pub sshd: Sshd,
    /// The file that `join` has written for it.
    pub drop_in: PathBuf,
    /// The accounts that the agent has made stay.
    pub keep_accounts: bool,
    /// The node may be resumed: who it is and what it knows stays.
    pub for_now: bool,
}

/// Undoes all of it. `say` gets a line for every step.
///
/// # Errors
/// What stays, and what to do next. Another call goes on from there.
pub fn leave(places: &Places, say: impl Fn(&str)) -> Result<NodePath, LeaveError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LeaveError::NotRoot);
    }
    let config = NodeConfig::load(&places.config)?;
    let state = StateDir::of(&config);
    let removed = remove_drop_in(places, &state)?;
    if removed {
        say(&format!("removed {}; sshd accepts its configuration without it", places.drop_in.display()));
    }
    let list = state.revoked_keys();
    let listed = list.symlink_metadata().is_ok();
    // Once more if the list of revoked keys stayed the last time: whether sshd still reads it is not known.
    let reloaded = if removed || listed { reload(&config.reload, &say) } else { true };
    stop_agent(places.for_now, &say);
    if places.keep_accounts {
        say("the accounts stay, as wanted");
    } else {
        let count = accounts::remove_all(&config.userdb.directory)?;
        if count > 0 {
            say(&format!("removed {count} accounts; home directories stay"));
        }
    }
    if places.for_now {
        say(&format!("{} is no node until 'certgate-node resume'; open sessions go on", config.node));
        return Ok(config.node);
    }
    let keep = if listed && !reloaded { Some(&*list) } else { None };
    state.remove(keep)?;
    // Last: without it nobody knows what else there was.
    files::remove(&places.config)?;
    say(&format!("removed {} and what was kept in {}", places.config.display(), config.state_dir.display()));
    if keep.is_some() {
        let list = list.display();
        say(&format!(
            "{list} stays, for sshd refuses everybody without it until it is reloaded: reload it, then remove it"
        ));
    }
    say(&format!("open sessions go on. Tell the authority: node remove {}", config.node));
    Ok(config.node)
}

/// Whether sshd is known to have read its configuration again.
fn reload(words: &[String], say: &impl Fn(&str)) -> bool {
    match sshd::reload(words) {
        Ok(()) if words.is_empty() => say("sshd was not reloaded, as wanted: reload it yourself"),
        Ok(()) => {
            say(&format!("reloaded sshd: {}", words.join(" ")));
            return true;
        }
        // It goes on asking the helper, which lets nobody in without its table.
        Err(error) => {
            say(&format!("sshd was NOT reloaded: {error}. Reload it: until then nobody gets in by certificate"))
        }
    }
    false
}

/// Makes the machine the node again that it was before `leave --for-now`: sshd asks the helper. False if there is nothing to
/// resume. The agent makes the accounts again.
///
/// # Errors
/// The machine is no node, or sshd does not take it; then nothing was changed.
pub fn resume(places: &Places, say: impl Fn(&str)) -> Result<bool, LeaveError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LeaveError::NotRoot);
    }
    let config = NodeConfig::load(&places.config)?;
    let state = StateDir::of(&config);
    let content = match files::read(&state.drop_in(), MAX_DROP_IN_BYTES) {
        Ok(content) => content,
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    // One that has been written meanwhile is newer.
    if places.drop_in.symlink_metadata().is_err() {
        if String::from_utf8_lossy(&content).lines().any(|line| line.starts_with("RevokedKeys ")) {
            // Without it sshd would refuse everybody.
            state.stand_in(&config.cluster()).map_err(|error| LeaveError::List(error.to_string()))?;
        }
        files::replace(&places.drop_in, &content, Mode::Public)?;
        if let Err(error) = places.sshd.check() {
            files::remove(&places.drop_in)?;
            return Err(error.into());
        }
        say(&format!("wrote {}; sshd accepts it", places.drop_in.display()));
        reload(&config.reload, &say);
    }
    files::remove(&state.drop_in())?;
    say(&format!("{} is a node again; now start the agent", config.node));
    Ok(true)
}

/// False if there is none.
fn remove_drop_in(places: &Places, state: &StateDir) -> Result<bool, LeaveError> {
    let content = match files::read(&places.drop_in, MAX_DROP_IN_BYTES) {
        Ok(content) => content,
        Err(error) if error.is_missing() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if !content.starts_with(sshd::WRITTEN.as_bytes()) {
        return Err(LeaveError::Foreign(places.drop_in.clone()));
    }
    if places.for_now {
        files::replace(&state.drop_in(), &content, Mode::Private)?;
    }
    files::remove(&places.drop_in)?;
    if let Err(error) = places.sshd.check() {
        files::replace(&places.drop_in, &content, Mode::Public)?;
        return Err(error.into());
    }
    Ok(true)
}

/// Where systemd runs it. It would go on writing what is being removed.
fn stop_agent(for_now: bool, say: &impl Fn(&str)) {
    let systemctl = |words: &[&str]| {
        let mut command = Command::new("systemctl");
        let output = command.args(words).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !Path::new("/run/systemd/system").is_dir() || !systemctl(&["cat", UNIT]) {
        return say("if the agent (certgate-node run) runs here, end it now");
    }
    if for_now {
        // Whether it is started with the machine is for whoever resumes.
        if !systemctl(&["stop", UNIT]) {
            say(&format!("{UNIT} was NOT stopped: systemctl stop {UNIT}"));
        }
    } else if systemctl(&["disable", "--now", UNIT]) {
        say(&format!("stopped and disabled {UNIT}"));
    } else {
        say(&format!("{UNIT} was NOT stopped: systemctl disable --now {UNIT}"));
    }
}

impl StateDir {
    /// Removes what join and the agent have put there, but for one of the files if that is to stay, and the directory if
    /// nothing is in it then.
    ///
    /// # Errors
    /// A file stays.
    pub fn remove(&self, keep: Option<&Path>) -> Result<(), FileError> {
        if !self.path().is_dir() {
            return Ok(());
        }
        for path in self.all().iter().filter(|path| keep != Some(path)) {
            files::remove(path)?;
        }
        match fs::remove_dir(self.path()) {
            // systemd's StateDirectory may be a mount point, and others may have put something there.
            Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
                Err(FileError { path: self.path().to_owned(), why: error })
            }
            _ => Ok(()),
        }
    }
}
