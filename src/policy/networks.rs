//! Where nodes may be: what a gateway may be made to dial.
//!
//! Project admins name the addresses of their nodes, and anybody in an organization can have a project. Without a bound
//! the gateway would be everybody's way to whatever listens beside it.

use super::denial::{Denial, Reason};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;

/// The networks that nodes may be in; if none is named, everywhere but the bastion itself and its link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct NodeNetworks(Vec<IpNet>);

impl NodeNetworks {
    /// These.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether a node may be at an address.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, address: IpAddr) -> Result<(), Denial> {
        let address = address.to_canonical();
        let allowed = if self.0.is_empty() { elsewhere(address) } else { self.0.iter().any(|n| n.contains(&address)) };
        if allowed {
            return Ok(());
        }
        let operator = format!("no node may be at {address}: see node_networks in authority.toml");
        Err(Denial::told(
            Reason::Invalid,
            operator,
            format!("no node may be at {address}; ask the people who run this bastion"),
        ))
    }
}

fn elsewhere(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bastion_itself_is_no_node_unless_it_is_said_to_be() {
        let check = |networks: &NodeNetworks, address: &str| networks.check(address.parse().unwrap()).is_ok();
        let open = NodeNetworks::default();
        for good in ["10.1.2.3", "192.0.2.1", "2001:db8::1"] {
            assert!(check(&open, good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "::1",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!check(&open, bad), "{bad}");
        }
        let named = NodeNetworks::new(vec!["127.10.0.0/16".parse().unwrap()]);
        assert!(check(&named, "127.10.1.1") && !check(&named, "127.0.0.1") && !check(&named, "10.1.2.3"));
    }
}
