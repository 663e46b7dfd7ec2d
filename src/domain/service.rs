//! What bounds a service account: from where it may be used, for what, and for how long at a time.

use super::{
    ids::ProjectId,
    model::words,
    names::{Email, NameError, ProjectPath, ServiceName, UserName},
    time::{Timestamp, Ttl},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};
use thiserror::Error;

/// The most networks of one service account: they all go into each of its certificates.
const MAX_NETWORKS: usize = 16;

/// The shortest network, in bits of its mask. A few of two or three bits are everywhere in other words.
const MIN_PREFIX: u8 = 8;

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
    /// Everywhere, or next to it, is no restriction.
    #[error("{0} is as good as everywhere; name the networks that it is used from, none larger than a /{MIN_PREFIX}")]
    Everywhere(IpNet),
    /// Who comes over IPv4 is known by the IPv4 address.
    #[error("{0} is an IPv4 network in IPv6 notation; write it as IPv4")]
    Mapped(IpNet),
    /// Not an address or network.
    #[error("a network is written like 192.0.2.0/24 or 2001:db8::/32, an address without the part after '/'")]
    Form,
}

/// Networks that somebody may come from: at least one, in order, each once, without host bits, and none is everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<IpNet>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// From any number of networks.
    ///
    /// # Errors
    /// None, too many, as good as everywhere, or IPv4 written as IPv6.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Result<Self, NetworksError> {
        let mut networks: Vec<IpNet> = networks.into_iter().map(|network| network.trunc()).collect();
        networks.sort_unstable();
        networks.dedup();
        if networks.is_empty() {
            return Err(NetworksError::Empty);
        }
        if networks.len() > MAX_NETWORKS {
            return Err(NetworksError::TooMany);
        }
        for network in &networks {
            if network.prefix_len() < MIN_PREFIX {
                return Err(NetworksError::Everywhere(*network));
            }
            if matches!(network.network(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
                return Err(NetworksError::Mapped(*network));
            }
        }
        Ok(Self(networks))
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

/// An address, or a network.
fn parse_network(text: &str) -> Result<IpNet, NetworksError> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().map_err(|_| NetworksError::Form),
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = NetworksError;

    fn try_from(networks: Vec<String>) -> Result<Self, NetworksError> {
        Self::new(networks.iter().map(|text| parse_network(text)).collect::<Result<Vec<_>, _>>()?)
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
        Self::new(text.split(',').map(parse_network).collect::<Result<Vec<_>, _>>()?)
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
        // It is shown to people and written to logs: nothing that a terminal acts on, or that looks like something else.
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err("a forced command is one line of printable ASCII");
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
    /// Since when that is so. What was opened before may run something else, and does not stay open.
    pub command_since: Timestamp,
    /// The longest that one of its certificates lives.
    pub max_ttl: Ttl,
}

/// In words, for people and logs.
impl fmt::Display for ServiceTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {}, certificates of {} at most", self.sources, self.max_ttl)?;
        match &self.force_command {
            Some(command) => write!(f, ", runs only: {command}"),
            None => Ok(()),
        }
    }
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

impl AccountKind {
    /// Without the terms.
    #[must_use]
    pub const fn holder(&self) -> Holder {
        match self {
            Self::Person => Holder::Person,
            Self::Service(_) => Holder::Service,
        }
    }
}

words!(/// Who is behind an account.
Holder, "a kind of account" {
    /// A person.
    Person = "person",
    /// Automation.
    Service = "service",
});

/// What the emails of service accounts end in, and nobody else's.
const SERVICE_DOMAIN: &str = ".service";

/// What the user names of service accounts begin with, and nobody else's.
const SERVICE_USER: &str = "svc-";

/// `NAME@PROJECT.ORG.service`: an email in form only; nothing can be sent there.
///
/// # Errors
/// None that can happen: every name fits.
pub fn service_email(name: &ServiceName, project: &ProjectPath) -> Result<Email, NameError> {
    format!("{name}@{}.{}{SERVICE_DOMAIN}", project.project, project.org).parse()
}

/// The user name that a service account gets, or the `again`th that it might get if others have those before.
///
/// # Errors
/// It does not fit any more.
pub fn service_user(name: &ServiceName, again: u32) -> Result<UserName, NameError> {
    match again {
        0 => format!("{SERVICE_USER}{name}").parse(),
        again => format!("{SERVICE_USER}{name}-{}", u64::from(again) + 1).parse(),
    }
}

impl Email {
    /// Whether only a service account can have it.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.as_str().ends_with(SERVICE_DOMAIN)
    }
}

impl UserName {
    /// Whether only a service account can have it.
    #[must_use]
    pub fn is_service(&self) -> bool {
        self.as_str().starts_with(SERVICE_USER)
    }
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
        for everywhere in ["0.0.0.0/0", "192.0.2.1,::/0", "0.0.0.0/1,128.0.0.0/1", "2000::/3", "64.0.0.0/7"] {
            assert!(matches!(parse(everywhere), Err(NetworksError::Everywhere(_))), "{everywhere}");
        }
        assert!(parse("10.0.0.0/8,fd00::/8").is_ok());
        // Such a one would never fit anybody.
        assert!(matches!(parse("::ffff:192.0.2.0/120"), Err(NetworksError::Mapped(_))));
        assert_eq!(parse("192.0.2.0/33"), Err(NetworksError::Form));
        assert_eq!(parse("*"), Err(NetworksError::Form));
        let many: Vec<_> = (0..17).map(|n| format!("192.0.2.{n}")).collect();
        assert_eq!(parse(&many.join(",")), Err(NetworksError::TooMany));
        let stored = serde_json::to_string(&parse("192.0.2.7,2001:db8::/32").unwrap()).unwrap();
        assert_eq!(stored, r#"["192.0.2.7/32","2001:db8::/32"]"#);
        assert_eq!(serde_json::from_str::<Networks>(&stored).unwrap(), parse("2001:db8::/32,192.0.2.7").unwrap());
        assert!(serde_json::from_str::<Networks>(r#"["192.0.2.7"]"#).is_ok());
        assert!(serde_json::from_str::<Networks>("[]").is_err());
    }

    #[test]
    fn a_service_account_is_known_by_its_names() {
        let name: ServiceName = "a2345678901234567890".parse().unwrap();
        let project = "acme/ml-training".parse().unwrap();
        let email = service_email(&name, &project).unwrap();
        assert_eq!(email.as_str(), "a2345678901234567890@ml-training.acme.service");
        assert!(email.is_service() && !"user1@service.example".parse::<Email>().unwrap().is_service());
        // Upper case is no way around it.
        assert!("X@ML.ACME.SERVICE".parse::<Email>().unwrap().is_service());
        assert_eq!(service_user(&name, 0).unwrap().as_str(), "svc-a2345678901234567890");
        assert_eq!(service_user(&name, 1).unwrap().as_str(), "svc-a2345678901234567890-2");
        assert!(service_user(&name, 99_998).is_ok() && service_user(&name, u32::MAX).is_err());
        assert!(service_user(&name, 7).unwrap().is_service() && !"svc".parse::<UserName>().unwrap().is_service());
        assert!("a23456789012345678901".parse::<ServiceName>().is_err());
    }

    #[test]
    fn a_forced_command_is_one_line() {
        assert!("rsync --server -vlogDtpre.iLsfxC . /data".parse::<ForceCommand>().is_ok());
        for bad in ["", "  ", "a\nb", "a\u{1b}[2J", "a\0", "a\u{202e}b", "é"] {
            assert!(bad.parse::<ForceCommand>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(1025).parse::<ForceCommand>().is_err());
    }
}
