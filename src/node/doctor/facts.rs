//! What was read of the machine, as plain values: [`super::judge`] needs nothing else, so that every trap can be made up.

use crate::{
    bundle::Current,
    domain::{Fingerprint, NodePath, PublicKey, Timestamp, Version},
    node::{config::NodeConfig, sshd::DropIn},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blind {
    /// Whoever asks may not see it.
    Denied(String),
    /// It is not there.
    Missing(String),
    /// It is there and cannot be used, or did not answer.
    Failed(String),
}

impl Blind {
    /// Why, for a person.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Denied(why) | Self::Missing(why) | Self::Failed(why) => why,
        }
    }
}

/// Something, or why it is not known.
pub(crate) type Seen<T> = Result<T, Blind>;

/// What a machine of a Slurm cluster is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// People log in here, and submit jobs.
    Login,
    /// Jobs run here.
    Compute,
}

/// Who makes the POSIX accounts of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accounts {
    /// certgate: user records that nss-systemd reads.
    Ours,
    /// The site.
    Site,
    /// Its configuration cannot be read.
    Unknown,
}

/// One directive of sshd's configuration files, where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    /// In small letters.
    pub(crate) name: String,
    pub(crate) value: String,
    /// It stands in a Match block, and is for some logins only.
    pub(crate) matched: bool,
}

/// What `sshd -T -C user=LOGIN` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effective {
    pub(crate) login: String,
    /// Directive in small letters, and value.
    pub(crate) lines: Vec<(String, String)>,
}

impl Effective {
    pub(crate) fn all<'a>(&'a self, directive: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |line| line.0 == directive).map(|line| line.1.as_str())
    }

    pub(crate) fn get(&self, directive: &str) -> Option<&str> {
        self.lines.iter().find(|line| line.0 == directive).map(|line| line.1.as_str())
    }

    /// Its value, if it has one that is not `none`.
    pub(crate) fn set(&self, directive: &str) -> Option<&str> {
        self.get(directive).filter(|value| *value != "none")
    }
}

/// A host certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostCertificate {
    /// The key that it certifies.
    pub(crate) key: PublicKey,
    /// In OpenSSH's one-line format, without a comment.
    pub(crate) line: String,
    /// Seconds since 1970.
    pub(crate) from: u64,
    /// Seconds since 1970.
    pub(crate) until: u64,
}

/// What the machine's sshd shows to whoever connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// Where it was asked.
    pub(crate) address: String,
    /// The host certificate for the node's key; none if it has only plain keys.
    pub(crate) certificate: Option<HostCertificate>,
}

#[derive(Clone, Debug)]
pub(crate) struct SshdFacts {
    /// What `sshd -V` prints.
    pub(crate) version: Seen<String>,
    /// `sshd -t`.
    pub(crate) accepted: Seen<()>,
    /// `sshd -T`, for a login that nobody has, and for some that people have.
    pub(crate) effective: Seen<Vec<Effective>>,
    /// All directives that are of interest, in the order in which sshd reads them.
    pub(crate) directives: Seen<Vec<Directive>>,
    pub(crate) offered: Seen<Offered>,
}

/// The drop-in that `join` wrote, as it is now.
#[derive(Clone, Debug)]
pub(crate) struct DropInFacts {
    /// Directive in small letters, and value.
    pub(crate) lines: Vec<(String, String)>,
    /// What it has to say, if the helper and its user are still to be found in it.
    pub(crate) wanted: Option<DropIn>,
}

/// A file or directory, and all directories above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) path: PathBuf,
    pub(crate) owner: u32,
    /// The permission bits.
    pub(crate) mode: u32,
    pub(crate) directory: bool,
}

/// From the file itself up to `/`.
pub(crate) type Chain = Vec<Step>;

/// The signed bundle on this machine.
#[derive(Clone, Debug)]
pub(crate) struct BundleFacts {
    pub(crate) version: Version,
    pub(crate) issued: Timestamp,
    /// Whether it lets anybody in.
    pub(crate) lets_in: bool,
    /// Some of the logins, with their numbers.
    pub(crate) logins: Vec<(String, u32)>,
    /// Some of the logins that people share.
    pub(crate) shared: Vec<String>,
    /// Whether sshd's file of CAs has exactly the bundle's.
    pub(crate) same_user_ca: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct StateFacts {
    pub(crate) bundle: Seen<BundleFacts>,
    /// The version of the access table.
    pub(crate) table: Seen<Version>,
    pub(crate) table_chain: Seen<Chain>,
    /// When the authority last said that the table is up to date, if that is known.
    pub(crate) confirmed: Option<Timestamp>,
    pub(crate) host_certificate: Seen<HostCertificate>,
    /// The fingerprint of the node's host key.
    pub(crate) host_key: Seen<PublicKey>,
    pub(crate) helper_chain: Seen<Chain>,
    /// The helper answers a question, as the user as whom sshd runs it.
    pub(crate) helper_answers: Seen<()>,
    /// The file that `RevokedKeys` names, if it names one.
    pub(crate) revoked: Option<(PathBuf, Seen<Revoked>)>,
}

/// A file of revoked keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// A revocation list, or public keys as text.
    Fine,
    /// A revocation list that is cut off or damaged.
    Damaged,
    /// A revocation list that carries a signature.
    Signed,
}

/// SELinux, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selinux {
    pub(crate) enforcing: bool,
    pub(crate) helper: Option<String>,
    pub(crate) table: Option<String>,
    pub(crate) user_ca: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct MachineFacts {
    /// nsswitch.conf.
    pub(crate) nsswitch: Seen<String>,
    /// The lines of sshd's PAM stack, with what they include.
    pub(crate) pam: Seen<Vec<String>>,
    pub(crate) selinux: Option<Selinux>,
    /// Whether slurmd runs.
    pub(crate) slurmd: bool,
    /// The processes that are agents, or why they cannot be seen.
    pub(crate) agents: Seen<Vec<u32>>,
    /// The numbers that this machine has for the logins of [`BundleFacts::logins`], if it knows them.
    pub(crate) accounts: Seen<Vec<(String, Option<u32>)>>,
    /// Whether the kernel believes that its clock is kept by somebody.
    pub(crate) synchronized: Option<bool>,
}

/// What the authority has said, and when that was heard, by this machine's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) current: Current,
    pub(crate) heard: Timestamp,
}

/// What a gateway had to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is the right one, and accepts this node's host key (one that was removed is accepted until it has heard of it). With
    /// what the authority has said through it, if anything.
    Welcome(Option<Word>),
    /// It is the right one. Whether it accepts this node could not be asked.
    Right,
    /// It is the right one, and does not accept this node's host key.
    Refused,
    /// It has another host key.
    Stranger(Fingerprint),
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) now: Timestamp,
    /// What the authority's clock said at `now`, if a gateway could ask it.
    pub(crate) authority: Option<Timestamp>,
    /// The version that this node should have, if a gateway could ask for it.
    pub(crate) latest: Option<Version>,
    /// How long the access table is believed without the authority's word, if there is a bound.
    pub(crate) max_age: Option<Duration>,
    pub(crate) role: Option<Role>,
    pub(crate) accounts: Accounts,
    /// node.toml, sshd_config and the drop-in.
    pub(crate) config_path: PathBuf,
    pub(crate) sshd_config: PathBuf,
    pub(crate) drop_in_path: PathBuf,
    pub(crate) config: Seen<NodeConfig>,
    pub(crate) drop_in: Seen<DropInFacts>,
    pub(crate) sshd: SshdFacts,
    pub(crate) state: StateFacts,
    pub(crate) machine: MachineFacts,
    /// Each gateway of node.toml.
    pub(crate) gateways: Vec<(String, Seen<Answer>)>,
    /// Where the agent finds sshd for gateways, and whether it does; none if they dial it themselves.
    pub(crate) tunnel: Option<(SocketAddr, Seen<()>)>,
}

impl Facts {
    /// The node's name, if it is known.
    pub(crate) fn node(&self) -> Option<&NodePath> {
        self.config.as_ref().ok().map(|config| &config.node)
    }

    /// `sshd -T` for a login that nobody has.
    pub(crate) fn plain(&self) -> Option<&Effective> {
        self.sshd.effective.as_ref().ok().and_then(|all| all.first())
    }
}
