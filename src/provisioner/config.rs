//! `[provisioner]` of authority.toml: what is written there, and what it means once checked.

use crate::domain::Ttl;
use serde::Deserialize;
use std::{path::PathBuf, time::Duration};
use thiserror::Error;

/// `[provisioner]` as it is written. The authority reads it too, for the socket; which program is run it never says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// The site's program.
    pub executable: PathBuf,
    /// The authority's socket for the provisioner.
    pub socket: PathBuf,
    /// The user that the provisioner runs as, by name or number.
    #[serde(default)]
    pub user: Option<String>,
    /// The longest that a call may take.
    #[serde(default)]
    pub timeout: Option<Ttl>,
    /// How many calls there may be at the same time.
    #[serde(default)]
    pub parallel: Option<u16>,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A program that would be looked for, or found somewhere else from another directory.
    #[error("provisioner.executable must be an absolute path")]
    Relative,
    /// Too long: what hangs would not be noticed.
    #[error("provisioner.timeout must be at most 1d")]
    Timeout,
    /// Out of range.
    #[error("provisioner.parallel must be from 1 to {MAX_PARALLEL}")]
    Parallel,
}

/// The most calls at the same time.
const MAX_PARALLEL: u16 = 64;
/// The longest that a call may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(86_400);

/// What a provisioner is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The site's program.
    pub executable: PathBuf,
    /// The authority's socket.
    pub socket: PathBuf,
    /// The longest that a call may take.
    pub timeout: Duration,
    /// How many calls there may be at the same time.
    pub parallel: u16,
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let RawConfig { executable, socket, user: _, timeout, parallel } = raw;
        let timeout = timeout.map_or(Duration::from_secs(600), Ttl::duration);
        let parallel = parallel.unwrap_or(4);
        if !executable.is_absolute() {
            return Err(ConfigError::Relative);
        }
        if timeout > MAX_TIMEOUT {
            return Err(ConfigError::Timeout);
        }
        if !(1..=MAX_PARALLEL).contains(&parallel) {
            return Err(ConfigError::Parallel);
        }
        Ok(Self { executable, socket, timeout, parallel })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default_and_what_is_out_of_range_is_refused() {
        let read = |more: &str| {
            let text = format!("socket = \"/run/p.sock\"\n{more}\n");
            Config::try_from(toml::from_str::<RawConfig>(&text).unwrap())
        };
        let plain = read("executable = \"/opt/hook\"").unwrap();
        assert_eq!((plain.timeout, plain.parallel), (Duration::from_secs(600), 4));
        assert_eq!(read("executable = \"hook\""), Err(ConfigError::Relative));
        assert_eq!(read("executable = \"/h\"\ntimeout = \"2d\""), Err(ConfigError::Timeout));
        for parallel in ["0", "65"] {
            assert_eq!(read(&format!("executable = \"/h\"\nparallel = {parallel}")), Err(ConfigError::Parallel));
        }
    }
}
