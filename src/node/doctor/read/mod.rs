//! Reads the machine. Nothing is changed, and nothing waits for longer than [`LIMIT`]: what hangs is itself a finding.

mod certificate;
mod machine;
mod network;
mod sshd;
mod state;

use super::facts::{Accounts, Answer, Blind, Facts, Role, Seen};
use crate::{
    domain::{Timestamp, Ttl},
    node::{
        accounts::Accounts as Setting,
        config::{ConfigError, NodeConfig},
        state_dir::StateDir,
    },
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// How long one thing may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) config: PathBuf,
    pub(crate) sshd: PathBuf,
    pub(crate) sshd_config: PathBuf,
    pub(crate) drop_in: PathBuf,
    pub(crate) role: Option<Role>,
}

/// Everything that [`super::judge`] wants to know.
pub(crate) async fn gather(places: &Places, clock: fn() -> Timestamp) -> Facts {
    let root = rustix::process::geteuid().is_root();
    let config = load(&places.config, root);
    let of_config = config.as_ref().ok().map(StateDir::of);
    let path = places.drop_in.clone();
    let drop_in = blocking(move || sshd::drop_in(&path, of_config.as_ref())).await;
    let wanted = drop_in.as_ref().ok().and_then(|drop_in| drop_in.wanted.clone());

    let (known, said) = (config.clone(), wanted.clone());
    let paths = wanted.as_ref().map(|said| [said.helper.clone(), said.table.clone(), said.user_ca.clone()]);
    let read = blocking(move || Ok(state::read(known.as_ref(), said.as_ref(), root)));
    let (read, mut machine) = tokio::join!(read, machine::read(paths));
    let mut state = read.unwrap_or_else(|why| state::unknown(&why));
    machine.accounts = machine::accounts(state.bundle.as_ref()).await;
    let (sshd, gateways, tunnel, answers) = tokio::join!(
        sshd::read(places, root, state.bundle.as_ref().ok(), state.host_certificate.as_ref().ok()),
        network::gateways(config.as_ref().ok(), root, clock),
        network::tunnel(config.as_ref().ok()),
        state::ask_helper(wanted.as_ref(), root),
    );
    state.helper_answers = answers;
    let plain = sshd.effective.as_ref().ok().and_then(|all| all.first());
    if let Some(file) = plain.and_then(|login| login.set("revokedkeys")).map(PathBuf::from) {
        let read = file.clone();
        state.revoked = Some((file, blocking(move || state::revoked(&read)).await));
    }
    let words = gateways.iter().filter_map(|(_, answer)| match answer {
        Ok(Answer::Welcome(word)) => word.as_ref(),
        _ => None,
    });
    // Of several the latest: a gateway can only hold back what is newer.
    let word = words.max_by_key(|word| (word.current.version, word.current.at));
    let now = clock();
    Facts {
        now,
        authority: word.map(|word| word.current.at.after(now.since(word.heard))),
        latest: word.map(|word| word.current.version),
        max_age: config.as_ref().ok().and_then(|config| config.max_age.0).map(Ttl::duration),
        role: places.role,
        accounts: match config.as_ref().map(|config| config.accounts) {
            Ok(Setting::Userdb) => Accounts::Ours,
            Ok(Setting::None) => Accounts::Site,
            Err(_) => Accounts::Unknown,
        },
        config_path: places.config.clone(),
        sshd_config: places.sshd_config.clone(),
        drop_in_path: sshd::real(&places.drop_in),
        config,
        drop_in,
        sshd,
        state,
        machine,
        gateways,
        tunnel,
    }
}

fn load(path: &Path, root: bool) -> Seen<NodeConfig> {
    NodeConfig::load(path).map_err(|error| match &error {
        ConfigError::File(file) if file.is_missing() => Blind::Missing(format!("there is no {}", path.display())),
        _ if !root => Blind::Denied(format!("only root can read {}", path.display())),
        _ => Blind::Failed(error.to_string()),
    })
}

/// Why a file cannot be used.
fn blind(path: &Path, error: &io::Error) -> Blind {
    let text = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => Blind::Denied(text),
        io::ErrorKind::NotFound => Blind::Missing(text),
        _ => Blind::Failed(text),
    }
}

/// A file's bytes. Who may have written them is looked at elsewhere.
fn bytes(path: &Path, limit: usize) -> Seen<Vec<u8>> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        file.take(limit as u64 + 1).read_to_end(&mut content)
    });
    read.map_err(|error| blind(path, &error))?;
    if content.len() > limit { Err(Blind::Failed(format!("{}: too long", path.display()))) } else { Ok(content) }
}

/// A small file of text.
fn text(path: &Path) -> Seen<String> {
    bytes(path, 1024 * 1024).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What may block (a file system that does not answer), off the threads that others need.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Seen<T> + Send + 'static) -> Seen<T> {
    match tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Blind::Failed(error.to_string())),
        Err(_) => Err(Blind::Failed(format!("no answer in {} s", LIMIT.as_secs()))),
    }
}

/// Runs a program to its end.
async fn run(command: &mut Command) -> Seen<Output> {
    let program = Path::new(command.as_std().get_program()).to_owned();
    let command = command.stdin(Stdio::null()).env_remove("LC_ALL").env("LC_MESSAGES", "C").kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(blind(&program, &error)),
        Err(_) => Err(Blind::Failed(format!("{} gives no answer in {} s", program.display(), LIMIT.as_secs()))),
    }
}
