//! `setup`: what can be said about a new bastion on the command line. It is done by the operator's program itself.

use crate::domain::{Email, OrgName, UserName};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// Set up this machine as a bastion: configuration, CA, services, and the first account (operators)
///
/// Asks for what is not given, if somebody sits at a terminal, and shows what it will do before it does it. If a step fails,
/// the same command goes on from there. Exit status: 0 the bastion is ready; 1 something has to be done first, or has failed.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(
    after_help = "setup\nsetup --host bastion.acme.example --org acme --email admin1@acme.example --user admin1 --key KEY.pub --yes\nsetup --restored --yes"
)]
pub struct Setup {
    /// The name or address by which people and nodes reach this machine
    #[arg(long, value_name = "NAME", value_parser = host)]
    pub host: Option<String>,
    /// The port at which they do; 22 if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Where the gateway listens, if not at that port of every address of this machine (may be given several times)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// Networks that nodes may be in, separated by commas; if not given, everywhere but this machine and its link
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    pub node_networks: Vec<IpNet>,
    /// The first organization
    #[arg(long, value_name = "NAME")]
    pub org: Option<OrgName>,
    /// The first user's email
    #[arg(long)]
    pub email: Option<Email>,
    /// The first user's POSIX user name on every node; what stands before the @ if not given
    #[arg(long, value_name = "NAME")]
    pub user: Option<UserName>,
    /// The first user's public key: the file, or the line that stands in it
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// The state directory was restored from a backup: organizations and accounts are in there
    #[arg(long, conflicts_with_all = ["org", "email", "user", "key"])]
    pub restored: bool,
    /// Start nothing, and say what to start: for images, and where there is no systemd
    #[arg(long)]
    pub no_start: bool,
    /// Without asking
    #[arg(long)]
    pub yes: bool,
}

/// A host name, or an address, as `ssh` takes it.
///
/// # Errors
/// It is neither.
pub fn host(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label)) {
        return Ok(text.to_owned());
    }
    Err("a host name is made of lower-case letters, digits, '-' and '.'; an IP address will do as well".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_ssh_and_certificates_can_name() {
        for good in ["bastion", "bastion.acme.example", "b-1.acme.example", "192.0.2.7", "2001:db8::7"] {
            assert_eq!(host(good).as_deref(), Ok(good));
        }
        for bad in
            ["", "bastion.", "-bastion", "Bastion", "a b", "a\"b", "a/b", "user@bastion", "bastion:22", "ä.example"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
