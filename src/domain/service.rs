//! What bounds a service account: from where it may be used, for what, and for how long at a time.

use super::{ids::ProjectId, time::Ttl};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};
use thiserror::Error;

/// The most networks of one service account: they all go into each of its certificates.
const MAX_NETWORKS: usize = 16;

/// The longest forced command, in bytes.
const MAX_COMMAND: usize = 1024;

/// Why a text is not a list of networks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NetworksError {
    /// None at all: that would be from everywhere, or from nowhere.
    #[error("at least one network is needed, such as 192.0.2.0/24")]
    Empty,
    /// More than go into a certificate.
    #[error("more than {MAX_NETWORKS} networks")]
    TooMany,
    /// Everywhere is no restriction.
    #[error("{0} is everywhere; name the networks that it is used from")]
    Everywhere(IpNet),
    /// Not an address or network.
    #[error("a network is written like 192.0.2.0/24 or 2001:db8::/32, an address without the part after '/'")]
    Form,
}

/// Networks that somebody may come from: at least one, in order, each once, without host bits, and none is everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<IpNet>", into = "Vec<IpNet>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// From any number of networks.
    ///
    /// # Errors
    /// None, too many, or everywhere.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworksError> {
        let mut networks: Vec<IpNet> = networks.into_iter().map(|network| network.trunc()).collect();
        networks.sort_unstable();
        networks.dedup();
        match networks.as_slice() {
            [] => Err(NetworksError::Empty),
            all if all.len() > MAX_NETWORKS => Err(NetworksError::TooMany),
            all => match all.iter().find(|network| network.prefix_len() == 0) {
                Some(everywhere) => Err(NetworksError::Everywhere(*everywhere)),
                None => Ok(Self(networks)),
            },
        }
    }

    /// Whether an address is in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &IpNet> {
        self.0.iter()
    }
}

impl TryFrom<Vec<IpNet>> for Networks {
    type Error = NetworksError;

    fn try_from(networks: Vec<IpNet>) -> Result<Self, NetworksError> {
        Self::new(networks)
    }
}

impl From<Networks> for Vec<IpNet> {
    fn from(networks: Networks) -> Self {
        networks.0
    }
}

/// As in the critical option `source-address`: separated by commas (PROTOCOL.certkeys).
impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, network) in self.0.iter().enumerate() {
            write!(f, "{}{network}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Addresses and networks, separated by commas.
impl FromStr for Networks {
    type Err = NetworksError;

    fn from_str(text: &str) -> Result<Self, NetworksError> {
        let network = |part: &str| match part.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => part.parse::<IpNet>().map_err(|_| NetworksError::Form),
        };
        Self::new(text.split(',').map(network).collect::<Result<Vec<_>, _>>()?)
    }
}

/// The one command that a session with a certificate runs, whatever was asked for (`force-command`, PROTOCOL.certkeys).
/// The login's shell on the node runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ForceCommand(String);

impl ForceCommand {
    /// As the shell gets it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ForceCommand {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err("a forced command is not empty");
        }
        if text.len() > MAX_COMMAND {
            return Err("a forced command is at most 1024 bytes");
        }
        // It is shown to people and written to logs.
        if text.chars().any(char::is_control) {
            return Err("a forced command is one line of plain text");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ForceCommand {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ForceCommand> for String {
    fn from(command: ForceCommand) -> Self {
        command.0
    }
}

impl fmt::Display for ForceCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What bounds a service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTerms {
    /// The project that owns it, and the only one that it can be in.
    pub project: ProjectId,
    /// From where it may be used.
    pub sources: Networks,
    /// What its sessions run, if they may not run anything else.
    pub force_command: Option<ForceCommand>,
    /// The longest that one of its certificates lives.
    pub max_ttl: Ttl,
}

/// Whether an account is a person's or a robot's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountKind {
    /// A person's.
    Person,
    /// For automation.
    Service(Box<ServiceTerms>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_some_and_not_everywhere() {
        let parse = |text: &str| text.parse::<Networks>();
        assert_eq!(parse("2001:db8::1,192.0.2.7/24,192.0.2.0/24").unwrap().to_string(), "192.0.2.0/24,2001:db8::1/128");
        assert!(parse("192.0.2.0/24").unwrap().contains("::ffff:192.0.2.9".parse().unwrap()));
        assert!(!parse("192.0.2.0/24").unwrap().contains("198.51.100.1".parse().unwrap()));
        assert_eq!(parse(""), Err(NetworksError::Form));
        assert_eq!(Networks::new([]), Err(NetworksError::Empty));
        assert!(matches!(parse("0.0.0.0/0"), Err(NetworksError::Everywhere(_))));
        assert!(matches!(parse("192.0.2.1,::/0"), Err(NetworksError::Everywhere(_))));
        assert_eq!(parse("192.0.2.0/33"), Err(NetworksError::Form));
        assert_eq!(parse("*"), Err(NetworksError::Form));
        let many: Vec<_> = (0..17).map(|n| format!("192.0.2.{n}")).collect();
        assert_eq!(parse(&many.join(",")), Err(NetworksError::TooMany));
    }

    #[test]
    fn a_forced_command_is_one_line() {
        assert!("rsync --server -vlogDtpre.iLsfxC . /data".parse::<ForceCommand>().is_ok());
        for bad in ["", "  ", "a\nb", "a\u{1b}[2J", "a\0"] {
            assert!(bad.parse::<ForceCommand>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(1025).parse::<ForceCommand>().is_err());
    }
}
