//! gateway.toml: what is written there, and what it means once checked.

use super::{
    algorithms::{Algorithms, RawAlgorithms},
    limits::{Limits, RawLimits, RawPenalties},
    penalties::PenaltySettings,
};
use crate::domain::Networks;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf};
use thiserror::Error;

/// gateway.toml as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Addresses to listen on, each `ADDRESS:PORT`. May be left out when systemd listens (socket activation).
    #[serde(default)]
    pub listen: Vec<SocketAddr>,
    /// Where monitoring and load balancers ask, over HTTP; nowhere if it is left out.
    pub monitor: Option<SocketAddr>,
    /// The authority's socket for gateways.
    pub authority_socket: PathBuf,
    /// The host key; made if it is missing.
    pub host_key: PathBuf,
    /// Distinguishes this gateway from others beside it.
    pub name: String,
    /// Load balancers: connections from there begin with a PROXY header, which is believed.
    pub proxy_protocol_from: Option<Networks>,
    /// Bounds; each has a default.
    #[serde(default)]
    pub limits: RawLimits,
    /// Penalties for addresses that behave badly.
    #[serde(default)]
    pub penalties: RawPenalties,
    /// What is spoken, within what is safe.
    #[serde(default)]
    pub algorithms: RawAlgorithms,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Not a usable name.
    #[error("name must be 1 to 64 letters, digits, '-', '_' or '.'")]
    Name,
    /// A bound out of range.
    #[error("limits.{name} must be from {min} to {max}")]
    Limit {
        /// Which.
        name: &'static str,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Less can gather than is needed.
    #[error("penalties.max must not be less than penalties.min; to have none, say enabled = false")]
    Penalties,
    /// An algorithm that is not offered.
    #[error("algorithms.{list}: {found:?} is not offered; there are: {known}")]
    Algorithm {
        /// In which list.
        list: &'static str,
        /// What was asked for.
        found: String,
        /// What there is.
        known: String,
    },
    /// None at all.
    #[error("algorithms.{list} is empty; leave it out for the default: {known}")]
    NoAlgorithm {
        /// Which list.
        list: &'static str,
        /// What there is.
        known: String,
    },
}

/// What a gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens, beside what systemd has opened for it.
    pub listen: Vec<SocketAddr>,
    /// Where monitoring asks.
    pub monitor: Option<SocketAddr>,
    /// The authority's socket.
    pub authority_socket: PathBuf,
    /// The host key's file.
    pub host_key: PathBuf,
    /// Its name.
    pub name: String,
    /// Whose PROXY headers are believed, and needed.
    pub proxy_protocol_from: Option<Networks>,
    /// Its bounds.
    pub limits: Limits,
    /// How it punishes.
    pub penalties: PenaltySettings,
    /// What it speaks.
    pub algorithms: Algorithms,
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.bytes().all(good) {
            return Err(ConfigError::Name);
        }
        Ok(Self {
            listen: raw.listen,
            monitor: raw.monitor,
            authority_socket: raw.authority_socket,
            host_key: raw.host_key,
            name: raw.name,
            proxy_protocol_from: raw.proxy_protocol_from,
            limits: raw.limits.try_into()?,
            penalties: raw.penalties.try_into()?,
            algorithms: raw.algorithms.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const GOOD: &str =
        "listen = ['127.0.0.1:2222']\nauthority_socket = '/run/gateway.sock'\nhost_key = '/k'\nname = 'gw1'\n";

    fn parse(text: &str) -> Result<Config, String> {
        let raw: RawConfig = toml::from_str(text).map_err(|e| e.to_string())?;
        Config::try_from(raw).map_err(|e| e.to_string())
    }

    #[test]
    fn bounds_have_defaults_and_are_checked() {
        assert_eq!(parse(GOOD).unwrap().limits, Limits::default());
        let config = parse(&format!("{GOOD}[limits]\nchannels = 7\nlogin_deadline = '5s'")).unwrap();
        assert_eq!((config.limits.channels, config.limits.login_deadline), (7, Duration::from_secs(5)));
        assert!(parse(&format!("{GOOD}[limits]\nchannels = 0")).unwrap_err().contains("limits.channels"));
        assert!(parse(&format!("{GOOD}[limits]\nchanels = 7")).unwrap_err().contains("unknown field"));
        assert!(parse(&GOOD.replace("gw1", "a b")).is_err());
        let idle = |value: &str| parse(&format!("{GOOD}[limits]\nidle_timeout = '{value}'"));
        assert_eq!(idle("off").unwrap().limits.idle_timeout, None);
        assert_eq!(idle("5m").unwrap().limits.idle_timeout, Some(Duration::from_secs(300)));
        assert!(idle("never").unwrap_err().contains("or \"off\""));
    }

    #[test]
    fn penalties_have_defaults_and_networks_that_are_not_everywhere() {
        assert_eq!(parse(GOOD).unwrap().penalties, PenaltySettings::default());
        let config = parse(&format!("{GOOD}[penalties]\nno_auth = 'off'\nexempt = ['192.0.2.1']")).unwrap();
        assert_eq!(config.penalties.no_auth, Duration::ZERO);
        assert!(!config.penalties.concerns("192.0.2.1".parse().unwrap()));
        assert!(config.penalties.concerns("192.0.2.2".parse().unwrap()));
        assert!(parse(&format!("{GOOD}[penalties]\nexempt = ['0.0.0.0/0']")).is_err());
        assert!(parse(&format!("{GOOD}[penalties]\nmax = '10s'")).unwrap_err().contains("must not be less"));
        assert!(parse(&format!("{GOOD}proxy_protocol_from = ['0.0.0.0/0']")).is_err());
    }

    #[test]
    fn only_what_is_safe_can_be_chosen() {
        let choose = |list: &str| parse(&format!("{GOOD}[algorithms]\n{list}"));
        choose("ciphers = ['aes256-gcm@openssh.com']\nkex = ['mlkem768x25519-sha256']").unwrap();
        for bad in ["ciphers = ['aes256-cbc']", "kex = ['diffie-hellman-group14-sha1']", "macs = ['hmac-sha1']"] {
            assert!(choose(bad).unwrap_err().contains("is not offered; there are: "), "{bad}");
        }
        assert!(choose("ciphers = []").unwrap_err().contains("is empty"));
    }
}
