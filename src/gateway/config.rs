//! gateway.toml: what is written there, and what it means once checked.

use crate::domain::Ttl;
use serde::Deserialize;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use thiserror::Error;

/// gateway.toml as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// Addresses to listen on, each `ADDRESS:PORT`.
    pub listen: Vec<SocketAddr>,
    /// The authority's socket for gateways.
    pub authority_socket: PathBuf,
    /// The host key; made if it is missing.
    pub host_key: PathBuf,
    /// Distinguishes this gateway from others beside it.
    pub name: String,
    /// Bounds; each has a default.
    #[serde(default)]
    pub limits: RawLimits,
}

/// `[limits]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    /// Connections in all.
    pub connections: Option<usize>,
    /// Connections from one address (IPv6: one /64).
    pub connections_per_address: Option<usize>,
    /// Of these, how many may be unauthenticated.
    pub unauthenticated_per_address: Option<usize>,
    /// From the first byte to authentication.
    pub login_deadline: Option<Ttl>,
    /// Keys and certificates that one connection may offer.
    pub auth_attempts: Option<u32>,
    /// Channels of one connection, of all types.
    pub channels: Option<usize>,
    /// Commands of one connection that run at the same time; more wait.
    pub commands: Option<usize>,
    /// Bytes of a command line.
    pub command_line: Option<usize>,
    /// Bytes kept for a node that does not read, per channel.
    pub channel_buffer: Option<usize>,
    /// How long open connections live without the authority.
    pub authority_lost_after: Option<Ttl>,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Nowhere to listen.
    #[error("listen is empty; name at least one ADDRESS:PORT")]
    NoListener,
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
}

/// What a gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// The authority's socket.
    pub authority_socket: PathBuf,
    /// The host key's file.
    pub host_key: PathBuf,
    /// Its name.
    pub name: String,
    /// Its bounds.
    pub limits: Limits,
}

/// Bounds on what peers can make the gateway do; see [`RawLimits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Unauthenticated connections from one address.
    pub unauthenticated_per_address: usize,
    /// From the first byte to authentication.
    pub login_deadline: Duration,
    /// Keys and certificates offered on one connection.
    pub auth_attempts: u32,
    /// Channels of one connection.
    pub channels: usize,
    /// Commands of one connection at the same time.
    pub commands: usize,
    /// Bytes of a command line.
    pub command_line: usize,
    /// Bytes kept per channel for a node that does not read.
    pub channel_buffer: usize,
    /// How long open connections live without the authority.
    pub authority_lost_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            unauthenticated_per_address: 32,
            login_deadline: Duration::from_secs(60),
            auth_attempts: 20,
            channels: 64,
            commands: 8,
            command_line: 4096,
            channel_buffer: 4 * 1024 * 1024,
            authority_lost_after: Duration::from_secs(300),
        }
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = ConfigError;

    fn try_from(raw: RawLimits) -> Result<Self, ConfigError> {
        let default = Self::default();
        let within = |name, value: Option<usize>, default: usize, min, max| match value {
            None => Ok(default),
            Some(value) if (min..=max).contains(&value) => Ok(value),
            Some(_) => Err(ConfigError::Limit { name, min, max }),
        };
        let attempts = raw.auth_attempts.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(Self {
            connections: within("connections", raw.connections, default.connections, 1, 1_000_000)?,
            connections_per_address: within(
                "connections_per_address",
                raw.connections_per_address,
                default.connections_per_address,
                1,
                1_000_000,
            )?,
            unauthenticated_per_address: within(
                "unauthenticated_per_address",
                raw.unauthenticated_per_address,
                default.unauthenticated_per_address,
                1,
                1_000_000,
            )?,
            login_deadline: raw.login_deadline.map_or(default.login_deadline, Ttl::duration),
            auth_attempts: u32::try_from(within("auth_attempts", attempts, 20, 1, 1000)?).unwrap_or(20),
            channels: within("channels", raw.channels, default.channels, 1, 10_000)?,
            commands: within("commands", raw.commands, default.commands, 1, 1000)?,
            command_line: within("command_line", raw.command_line, default.command_line, 64, 64 * 1024)?,
            channel_buffer: within(
                "channel_buffer",
                raw.channel_buffer,
                default.channel_buffer,
                64 * 1024,
                256 * 1024 * 1024,
            )?,
            authority_lost_after: raw.authority_lost_after.map_or(default.authority_lost_after, Ttl::duration),
        })
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        if raw.listen.is_empty() {
            return Err(ConfigError::NoListener);
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.bytes().all(good) {
            return Err(ConfigError::Name);
        }
        Ok(Self {
            listen: raw.listen,
            authority_socket: raw.authority_socket,
            host_key: raw.host_key,
            name: raw.name,
            limits: raw.limits.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(parse(&GOOD.replace("'127.0.0.1:2222'", "")).is_err());
    }
}
