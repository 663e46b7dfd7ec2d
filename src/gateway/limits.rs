//! `[limits]` and `[penalties]` of gateway.toml: each with a default, each within bounds of its own.

use super::{ConfigError, penalties::PenaltySettings};
use crate::domain::{Networks, Ttl};
use serde::{Deserialize, Deserializer, de};
use std::time::Duration;

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
    /// In all, how many may be unauthenticated; of more, the oldest are ended.
    pub unauthenticated: Option<usize>,
    /// Connections of one account.
    pub connections_per_account: Option<usize>,
    /// Forwards of one account, on all of its connections.
    pub forwards_per_account: Option<usize>,
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
    /// How long a connection may live without a forward, and without anything said on it.
    pub idle_timeout: Option<OrOff>,
    /// The same while it has forwards.
    pub idle_forward_timeout: Option<OrOff>,
    /// Silence after which a peer is asked whether it is there.
    pub keepalive_interval: Option<Ttl>,
    /// Questions without an answer after which it is gone.
    pub keepalive_max: Option<usize>,
    /// How long connections may go on when another gateway has taken over.
    pub drain: Option<Ttl>,
    /// The same when the gateway is to stop.
    pub drain_on_stop: Option<OrOff>,
}

/// `[penalties]` as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPenalties {
    /// Whether at all.
    pub enabled: Option<bool>,
    /// For keys of which none was accepted.
    pub auth_failed: Option<OrOff>,
    /// For leaving without having tried.
    pub no_auth: Option<OrOff>,
    /// For not having authenticated in time.
    pub login_deadline: Option<OrOff>,
    /// For coming while refused.
    pub refused: Option<OrOff>,
    /// An address is refused once so much has gathered.
    pub min: Option<Ttl>,
    /// More does not gather.
    pub max: Option<Ttl>,
    /// Addresses and networks that are never punished.
    pub exempt: Option<Networks>,
}

/// A length of time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrOff(pub Option<Ttl>);

impl OrOff {
    fn duration(self) -> Option<Duration> {
        self.0.map(Ttl::duration)
    }
}

impl<'de> Deserialize<'de> for OrOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = |error| de::Error::custom(format!("{error}; or \"off\""));
        text.parse().map(|time| Self(Some(time))).map_err(wrong)
    }
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
    /// Unauthenticated connections in all.
    pub unauthenticated: usize,
    /// Connections of one account.
    pub connections_per_account: usize,
    /// Forwards of one account.
    pub forwards_per_account: usize,
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
    /// How long a connection may be idle without a forward.
    pub idle_timeout: Option<Duration>,
    /// How long a connection with forwards may be idle.
    pub idle_forward_timeout: Option<Duration>,
    /// Silence after which a peer is asked whether it is there.
    pub keepalive_interval: Duration,
    /// Questions without an answer after which it is gone.
    pub keepalive_max: usize,
    /// How long connections may go on when another gateway has taken over.
    pub drain: Duration,
    /// The same when the gateway is to stop.
    pub drain_on_stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            unauthenticated_per_address: 128,
            unauthenticated: 1024,
            connections_per_account: 256,
            forwards_per_account: 1024,
            login_deadline: Duration::from_secs(60),
            auth_attempts: 20,
            channels: 64,
            commands: 8,
            command_line: 4096,
            channel_buffer: 4 * 1024 * 1024,
            authority_lost_after: Duration::from_secs(300),
            idle_timeout: Some(Duration::from_secs(3600)),
            idle_forward_timeout: None,
            keepalive_interval: Duration::from_secs(15),
            keepalive_max: 3,
            drain: Duration::from_secs(24 * 3600),
            drain_on_stop: Duration::from_secs(5),
        }
    }
}

/// A number that is within its bounds, or its default.
fn within(
    name: &'static str,
    value: Option<usize>,
    default: usize,
    min: usize,
    max: usize,
) -> Result<usize, ConfigError> {
    match value {
        None => Ok(default),
        Some(value) if (min..=max).contains(&value) => Ok(value),
        Some(_) => Err(ConfigError::Limit { name, min, max }),
    }
}

impl TryFrom<RawLimits> for Limits {
    type Error = ConfigError;

    fn try_from(raw: RawLimits) -> Result<Self, ConfigError> {
        const MANY: usize = 1_000_000;
        let d = Self::default();
        let attempts = raw.auth_attempts.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let or = |value: Option<Ttl>, default| value.map_or(default, Ttl::duration);
        let or_off = |value: Option<OrOff>, default| value.map_or(default, OrOff::duration);
        Ok(Self {
            connections: within("connections", raw.connections, d.connections, 1, MANY)?,
            connections_per_address: within(
                "connections_per_address",
                raw.connections_per_address,
                d.connections_per_address,
                1,
                MANY,
            )?,
            unauthenticated_per_address: within(
                "unauthenticated_per_address",
                raw.unauthenticated_per_address,
                d.unauthenticated_per_address,
                1,
                MANY,
            )?,
            unauthenticated: within("unauthenticated", raw.unauthenticated, d.unauthenticated, 1, MANY)?,
            connections_per_account: within(
                "connections_per_account",
                raw.connections_per_account,
                d.connections_per_account,
                1,
                MANY,
            )?,
            forwards_per_account: within(
                "forwards_per_account",
                raw.forwards_per_account,
                d.forwards_per_account,
                1,
                MANY,
            )?,
            login_deadline: or(raw.login_deadline, d.login_deadline),
            auth_attempts: u32::try_from(within("auth_attempts", attempts, 20, 1, 1000)?).unwrap_or(20),
            channels: within("channels", raw.channels, d.channels, 1, 10_000)?,
            commands: within("commands", raw.commands, d.commands, 1, 1000)?,
            command_line: within("command_line", raw.command_line, d.command_line, 64, 64 * 1024)?,
            channel_buffer: within("channel_buffer", raw.channel_buffer, d.channel_buffer, 64 * 1024, 256 << 20)?,
            authority_lost_after: or(raw.authority_lost_after, d.authority_lost_after),
            idle_timeout: or_off(raw.idle_timeout, d.idle_timeout),
            idle_forward_timeout: or_off(raw.idle_forward_timeout, d.idle_forward_timeout),
            keepalive_interval: or(raw.keepalive_interval, d.keepalive_interval),
            keepalive_max: within("keepalive_max", raw.keepalive_max, d.keepalive_max, 1, 100)?,
            drain: or(raw.drain, d.drain),
            drain_on_stop: raw.drain_on_stop.map_or(d.drain_on_stop, |time| time.duration().unwrap_or_default()),
        })
    }
}

impl TryFrom<RawPenalties> for PenaltySettings {
    type Error = ConfigError;

    fn try_from(raw: RawPenalties) -> Result<Self, ConfigError> {
        let d = Self::default();
        // What is off costs nothing.
        let cost = |value: Option<OrOff>, default| value.map_or(default, |time| time.duration().unwrap_or_default());
        let settings = Self {
            enabled: raw.enabled.unwrap_or(d.enabled),
            auth_failed: cost(raw.auth_failed, d.auth_failed),
            no_auth: cost(raw.no_auth, d.no_auth),
            login_deadline: cost(raw.login_deadline, d.login_deadline),
            refused: cost(raw.refused, d.refused),
            min: raw.min.map_or(d.min, Ttl::duration),
            max: raw.max.map_or(d.max, Ttl::duration),
            exempt: raw.exempt,
        };
        // No penalty would ever hold.
        if settings.max < settings.min { Err(ConfigError::Penalties) } else { Ok(settings) }
    }
}
