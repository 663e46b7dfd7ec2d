//! `certgate-node join`: makes this machine a node. Everything that can be wrong here is looked for before the token
//! is used, for a token is good for one time; and when sshd does not take the result, all files are as they were.

use super::{
    accounts::{Accounts, NSSWITCH, UserRecords},
    config::{CONFIG_MODE, ConfigError, MaxAge, NodeConfig},
    files::{self, FileError, Mode},
    host_cert::{self, HostCertError},
    link::{HostKey, HostKeyError, Link, LinkError},
    sessions::OnRemoval,
    sshd::{self, DropIn, Sshd, SshdError},
    state_dir::{InstallError, MAX_SIGNED_BYTES, StateDir},
};
use crate::{
    app::{
        protocol::{FromNode, JOIN_LOGIN, JoinAnswer, Joined, Reach, ToNode},
        token::TokenText,
    },
    bundle::{Bundle, BundleError, table::MAX_TABLE_BYTES},
    domain::{ClusterPath, Timestamp},
};
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;

/// How long the authority may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the machine is not a node.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The files belong to root, and so does the host key.
    #[error("join has to run as root: it reads the host key and writes sshd's configuration")]
    NotRoot,
    /// The token is not one.
    #[error("{0}")]
    Token(&'static str),
    /// The token names no gateway.
    #[error("the token names no gateway, or no host key of one; get a new one with 'node token'")]
    NoGateway,
    /// The host key cannot be used.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// sshd is not as it must be. Nothing was changed.
    #[error("{0}")]
    Sshd(#[from] SshdError),
    /// No gateway could be reached, or none is the right one.
    #[error("no gateway could be asked; the token is still good. {}", all(.0))]
    Links(Vec<LinkError>),
    /// The connection broke after the token had been sent.
    #[error("{0}; whether the token was used is not known: if a second try is refused, get a new token")]
    Answer(LinkError),
    /// No answer.
    #[error(
        "no answer in {} s; whether the token was used is not known: if a second try is refused, get a new token",
        ANSWER_TIMEOUT.as_secs()
    )]
    Timeout,
    /// The authority cannot be reached by the gateway.
    #[error("the gateway cannot reach the authority; try again later, the token is still good")]
    Unavailable,
    /// The authority does not take it.
    #[error("refused: {0}")]
    Refused(String),
    /// An answer that makes no sense.
    #[error("the gateway's answer is not understood")]
    Protocol,
    /// Welcome as another node than the token said.
    #[error("the token is for another node than the one that the authority named")]
    Node,
    /// The bundle is not acceptable.
    #[error("{0}; nothing was changed on this machine")]
    Bundle(#[from] BundleError),
    /// The host certificate is not acceptable.
    #[error("{0}; nothing was changed on this machine")]
    HostCertificate(#[from] HostCertError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bundle could not be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// node.toml could not be made.
    #[error("node.toml cannot be written: {0}")]
    Config(#[from] toml::ser::Error),
    /// node.toml cannot be read back.
    #[error(transparent)]
    ReadBack(#[from] ConfigError),
    /// It went wrong after files had been written; they are as they were.
    #[error(
        "{0}. All files are as they were before, and sshd was not reloaded; the token is used up, so the next try \
         needs a new one"
    )]
    Undone(Box<JoinError>),
    /// It went wrong, and the way back failed too.
    #[error("{why}. Putting back what was there before failed as well: {and}")]
    Stuck {
        /// What went wrong.
        why: Box<JoinError>,
        /// Why the way back failed.
        and: FileError,
    },
}

fn all(errors: &[LinkError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Where things are on this machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// node.toml.
    pub config: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The host private key.
    pub host_key: PathBuf,
    /// sshd and its main configuration.
    pub sshd: Sshd,
    /// The file that is written for it.
    pub drop_in: PathBuf,
    /// The helper.
    pub helper: PathBuf,
    /// As whom it runs.
    pub helper_user: String,
    /// Whether sshd is to refuse what is revoked by itself as well.
    pub revoked_keys: bool,
    /// How gateways reach sshd.
    pub reach: Reach,
    /// Where the agent finds sshd.
    pub sshd_address: SocketAddr,
    /// Who makes accounts; what fits the machine if nobody has said.
    pub accounts: Option<Accounts>,
    /// Commands that make sshd read its configuration again: the first that works is kept. None: nobody wants it.
    pub reload: Vec<Vec<String>>,
}

/// Makes this machine the node that the token names. `say` gets a line for every step.
///
/// # Errors
/// What went wrong, what that means, and what to do next.
pub async fn join(text: &str, places: &Places, now: fn() -> Timestamp, say: impl Fn(&str)) -> Result<(), JoinError> {
    let token: TokenText = text.parse().map_err(JoinError::Token)?;
    if token.gateways.is_empty() || token.host_keys.is_empty() {
        return Err(JoinError::NoGateway);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(JoinError::NotRoot);
    }
    let state = StateDir::new(&places.state_dir, MaxAge::default().0).revoking(places.revoked_keys);
    let drop_in = places.drop_in(&state);
    let drop_in_text = drop_in.text()?;
    sshd::check_helper(&places.helper)?;
    places.sshd.check()?;
    if let Some(list) = &drop_in.revoked_keys {
        places.sshd.check_revokes_nothing_but(list)?;
    }
    let key = HostKey::load(&places.host_key)?;
    files::make_directory(&places.state_dir)?;
    sshd::check_reachable(&places.state_dir)?;
    for file in [&places.config, &places.drop_in] {
        files::make_directory(file.parent().unwrap_or(Path::new("/")))?;
    }

    say(&format!("joining as {} with the host key {}", token.node, key.public.fingerprint()));
    let joined = exchange(&token, &key, &say).await?;
    if joined.node != token.node {
        return Err(JoinError::Node);
    }
    let cluster = ClusterPath { cluster: token.node.cluster.clone(), org: token.node.org.clone() };
    // No floor: a machine may join another cluster, or the same one after a restored backup, and a token says so.
    let bundle = joined.bundle.open(&joined.bundle_keys, &cluster, None)?;
    host_cert::check(&joined.host_certificate, &key.public, &token.node, &bundle.host_ca, now())?;
    say(&format!("the bundle is genuine: version {}, {} logins", bundle.version, bundle.logins.len()));

    let accounts = accounts(places, &say);
    let mut undo = Undo::default();
    let written = write(places, &state, &token, &joined, (&bundle, accounts), &drop_in_text, &mut undo)
        .and_then(|()| Ok(places.sshd.check()?))
        .and_then(|()| Ok(places.sshd.check_in_force(&drop_in)?));
    if let Err(why) = written {
        let why = Box::new(why);
        return Err(match undo.run() {
            Ok(()) => JoinError::Undone(why),
            Err(and) => JoinError::Stuck { why, and },
        });
    }
    say(&format!("wrote {} and {}; sshd accepts them", places.config.display(), places.drop_in.display()));
    reload(places, &say);
    say(&format!("{} is a node; now start (or restart) the agent: certgate-node run", token.node));
    Ok(())
}

impl Places {
    fn drop_in(&self, state: &StateDir) -> DropIn {
        DropIn {
            helper: self.helper.clone(),
            helper_user: self.helper_user.clone(),
            table: state.table(),
            user_ca: state.user_ca(),
            host_certificate: state.host_certificate(),
            revoked_keys: self.revoked_keys.then(|| state.revoked_keys()),
        }
    }
}

/// Who makes accounts here.
fn accounts(places: &Places, say: &impl Fn(&str)) -> Accounts {
    let (accounts, why) = match places.accounts {
        Some(accounts) => (accounts, "as wanted".to_owned()),
        // Without one there are files only.
        None => Accounts::fitting(&std::fs::read_to_string(NSSWITCH).unwrap_or_default()),
    };
    say(&match accounts {
        Accounts::Userdb => format!("the agent will make the accounts of those who may log in: {why}"),
        Accounts::None => format!("accounts are this machine's own business: {why}"),
    });
    accounts
}

/// Asks the first gateway that can be reached. Once the token has been sent there is no second one.
async fn exchange(token: &TokenText, key: &HostKey, say: &impl Fn(&str)) -> Result<Joined, JoinError> {
    let mut errors = vec![];
    for gateway in &token.gateways {
        say(&format!("connecting to {gateway}"));
        let mut link = match Link::open(gateway, JOIN_LOGIN, key, &token.host_keys).await {
            Ok(link) => link,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let message = FromNode::Join { secret: token.secret.clone(), node: token.node.clone() };
        link.send(&message).await.map_err(JoinError::Answer)?;
        let line = tokio::time::timeout(ANSWER_TIMEOUT, link.receive()).await;
        let line = line.map_err(|_| JoinError::Timeout)?.map_err(JoinError::Answer)?;
        return match serde_json::from_slice(&line) {
            Ok(ToNode::Join(JoinAnswer::Joined(joined))) => Ok(*joined),
            Ok(ToNode::Join(JoinAnswer::Refused { message })) => {
                Err(JoinError::Refused(message.chars().filter(|c| !c.is_control()).collect()))
            }
            Ok(ToNode::Unavailable) => Err(JoinError::Unavailable),
            _ => Err(JoinError::Protocol),
        };
    }
    Err(JoinError::Links(errors))
}

fn write(
    places: &Places,
    state: &StateDir,
    token: &TokenText,
    joined: &Joined,
    (bundle, accounts): (&Bundle, Accounts),
    drop_in: &str,
    undo: &mut Undo,
) -> Result<(), JoinError> {
    let config = NodeConfig {
        node: token.node.clone(),
        gateways: token.gateways.clone(),
        gateway_host_keys: token.host_keys.clone(),
        bundle_keys: joined.bundle_keys.clone(),
        state_dir: places.state_dir.clone(),
        host_key: places.host_key.clone(),
        reload: places.reload.first().cloned().unwrap_or_default(),
        max_age: MaxAge::default(),
        on_removal: OnRemoval::default(),
        revoked_keys: places.revoked_keys,
        helper_user: places.helper_user.clone(),
        reach: places.reach,
        sshd_address: places.sshd_address,
        accounts,
        userdb: UserRecords::default(),
    };
    for (path, mode) in [
        (state.bundle(), Mode::Private),
        (state.user_ca(), Mode::Public),
        (state.revoked_keys(), Mode::Public),
        (state.table(), Mode::Public),
        (state.host_certificate(), Mode::Public),
        (places.config.clone(), CONFIG_MODE),
        (places.drop_in.clone(), Mode::Public),
    ] {
        undo.remember(path, mode)?;
    }
    state.install(bundle, &joined.bundle)?;
    state.install_host_certificate(&joined.host_certificate)?;
    if accounts == Accounts::Userdb {
        // The agent's unit lets it write there, but not make it.
        files::make_directory(&config.userdb.directory)?;
    }
    files::replace(&places.config, config.to_toml()?.as_bytes(), CONFIG_MODE)?;
    NodeConfig::load(&places.config)?;
    if places.revoked_keys {
        state.check_revoked_keys(bundle)?;
    }
    files::replace(&places.drop_in, drop_in.as_bytes(), Mode::Public)?;
    Ok(())
}

/// Tries the commands in turn and keeps the one that works for the agent. The node has joined whatever comes of it.
fn reload(places: &Places, say: &impl Fn(&str)) {
    let mut errors = vec![];
    for words in &places.reload {
        match sshd::reload(words) {
            Ok(()) => {
                if places.reload.first() != Some(words) {
                    let kept = keep_reload(&places.config, words);
                    kept.unwrap_or_else(|error| say(&format!("the reload command was not kept: {error}")));
                }
                return say(&format!("reloaded sshd: {}", words.join(" ")));
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() {
        say("sshd was not reloaded, as wanted: reload it yourself");
    } else {
        let errors = errors.join("; ");
        say(&format!("sshd was NOT reloaded: {errors}. Reload it, and set 'reload' in {}", places.config.display()));
    }
}

fn keep_reload(path: &Path, words: &[String]) -> Result<(), JoinError> {
    let mut config = NodeConfig::load(path)?;
    config.reload = words.to_vec();
    Ok(files::replace(path, config.to_toml()?.as_bytes(), CONFIG_MODE)?)
}

/// What was there before.
#[derive(Default)]
struct Undo(Vec<(PathBuf, Mode, Option<Vec<u8>>)>);

impl Undo {
    fn remember(&mut self, path: PathBuf, mode: Mode) -> Result<(), FileError> {
        let limit = MAX_SIGNED_BYTES.max(MAX_TABLE_BYTES);
        let content = match files::read(&path, limit) {
            Ok(content) => Some(content),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        self.0.push((path, mode, content));
        Ok(())
    }

    fn run(self) -> Result<(), FileError> {
        // sshd's file first: it must not name what is not there any more.
        for (path, mode, content) in self.0.into_iter().rev() {
            match content {
                Some(content) => files::replace(&path, &content, mode)?,
                None => files::remove(&path)?,
            }
        }
        Ok(())
    }
}

/// The words of a reload command as an operator gives it.
///
/// # Errors
/// A quote is left open, or there is no word.
pub fn reload_words(text: &str) -> io::Result<Vec<String>> {
    let words = shell_words::split(text).map_err(io::Error::other)?;
    if words.is_empty() { Err(io::Error::other("no command; use --no-reload for none")) } else { Ok(words) }
}
