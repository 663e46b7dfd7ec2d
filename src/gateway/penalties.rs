//! Penalties for addresses whose connections have behaved badly, after OpenSSH's PerSourcePenalties (sshd_config(5)): each
//! offence adds time during which the address is refused, time passes, and nothing is left. No clock and no socket in it.

use super::doors::network;
use crate::domain::Networks;
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};
use tokio::time::Instant;

/// Addresses that are remembered. One more, and the one whose penalty ends first is forgotten.
const MAX_ADDRESSES: usize = 64 * 1024;

/// What a connection did that no well-meaning peer does often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    /// It presented keys or certificates, and none was accepted.
    AuthFailed,
    /// It ended without having tried to authenticate.
    NoAuth,
    /// It did not authenticate in time.
    LoginDeadline,
    /// It came while its address was refused.
    Refused,
}

impl Offence {
    /// For logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AuthFailed => "auth-failed",
            Self::NoAuth => "no-auth",
            Self::LoginDeadline => "login-deadline",
            Self::Refused => "refused",
        }
    }
}

/// How offences are punished; durations as in gateway.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PenaltySettings {
    /// Whether at all.
    pub enabled: bool,
    /// For keys of which none was accepted.
    pub auth_failed: Duration,
    /// For leaving without having tried.
    pub no_auth: Duration,
    /// For not having authenticated in time.
    pub login_deadline: Duration,
    /// For coming while refused.
    pub refused: Duration,
    /// An address is refused once so much has gathered.
    pub min: Duration,
    /// More does not gather.
    pub max: Duration,
    /// Addresses that are never punished.
    pub exempt: Option<Networks>,
}

impl Default for PenaltySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            auth_failed: Duration::from_secs(5),
            no_auth: Duration::from_secs(1),
            login_deadline: Duration::from_secs(10),
            refused: Duration::from_secs(1),
            min: Duration::from_secs(15),
            max: Duration::from_secs(600),
            exempt: None,
        }
    }
}

impl PenaltySettings {
    fn of(&self, offence: Offence) -> Duration {
        match offence {
            Offence::AuthFailed => self.auth_failed,
            Offence::NoAuth => self.no_auth,
            Offence::LoginDeadline => self.login_deadline,
            Offence::Refused => self.refused,
        }
    }

    /// Whether an address can be punished.
    pub(super) fn concerns(&self, peer: IpAddr) -> bool {
        self.enabled && !self.exempt.as_ref().is_some_and(|exempt| exempt.contains(peer))
    }
}

/// What has gathered for one address.
#[derive(Clone, Copy, Debug)]
struct Penalty {
    until: Instant,
    /// It has reached the minimum, and holds until it ends.
    holds: bool,
}

/// The penalties of all addresses.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    by_address: HashMap<IpAddr, Penalty>,
    by_end: BTreeSet<(Instant, IpAddr)>,
}

impl Penalties {
    /// Adds what an offence costs. Returns the penalty's length if it begins to hold with this one.
    pub(super) fn punish(
        &mut self,
        settings: &PenaltySettings,
        peer: IpAddr,
        offence: Offence,
        now: Instant,
    ) -> Option<Duration> {
        let cost = settings.of(offence);
        if cost.is_zero() || !settings.concerns(peer) {
            return None;
        }
        self.forget(now);
        let address = network(peer);
        let before = self.by_address.remove(&address);
        if let Some(before) = before {
            self.by_end.remove(&(before.until, address));
        }
        while self.by_end.len() >= MAX_ADDRESSES {
            let Some((_, soonest)) = self.by_end.pop_first() else { break };
            self.by_address.remove(&soonest);
        }
        let until = (before.map_or(now, |penalty| penalty.until) + cost).min(now + settings.max);
        let held = before.is_some_and(|penalty| penalty.holds);
        let holds = held || until.duration_since(now) >= settings.min;
        self.by_address.insert(address, Penalty { until, holds });
        self.by_end.insert((until, address));
        (holds && !held).then(|| until.duration_since(now))
    }

    /// Whether an address is refused now.
    pub(super) fn refuses(&mut self, settings: &PenaltySettings, peer: IpAddr, now: Instant) -> bool {
        self.forget(now);
        settings.concerns(peer) && self.by_address.get(&network(peer)).is_some_and(|penalty| penalty.holds)
    }

    /// How many addresses are refused now.
    pub(super) fn refused_addresses(&mut self, now: Instant) -> usize {
        self.forget(now);
        self.by_address.values().filter(|penalty| penalty.holds).count()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((until, address)) = self.by_end.first().copied()
            && until <= now
        {
            self.by_end.pop_first();
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn penalties_gather_hold_and_are_forgotten() {
        let (settings, start) = (PenaltySettings::default(), Instant::now());
        let mut penalties = Penalties::default();
        let mut fail = |at: u64| penalties.punish(&settings, A, Offence::AuthFailed, start + secs(at));
        assert_eq!((fail(0), fail(0)), (None, None), "10 s are less than the minimum");
        assert_eq!(fail(0), Some(secs(15)), "15 s hold");
        assert_eq!(fail(1), None, "said once");
        assert!(penalties.refuses(&settings, A, start + secs(19)), "it holds below the minimum too, until it ends");
        assert!(!penalties.refuses(&settings, A, start + secs(20)));
        assert!(penalties.by_address.is_empty() && penalties.by_end.is_empty(), "nothing is left");
        assert_eq!(penalties.punish(&settings, A, Offence::AuthFailed, start + secs(20)), None, "it begins anew");
    }

    #[test]
    fn what_passes_before_the_minimum_is_reached_does_not_count() {
        let (settings, start) = (PenaltySettings::default(), Instant::now());
        let mut penalties = Penalties::default();
        for at in 0..20 {
            // One failed login each 6 s: somebody with the wrong key, not a guesser.
            assert_eq!(penalties.punish(&settings, A, Offence::AuthFailed, start + secs(at * 6)), None);
        }
    }

    #[test]
    fn penalties_end_at_their_maximum() {
        let (settings, start) = (PenaltySettings::default(), Instant::now());
        let mut penalties = Penalties::default();
        for _ in 0..10_000 {
            penalties.punish(&settings, A, Offence::Refused, start);
        }
        assert!(penalties.refuses(&settings, A, start + settings.max - secs(1)));
        assert!(!penalties.refuses(&settings, A, start + settings.max));
    }

    #[test]
    fn the_exempt_are_never_punished_and_a_64_is_one_address() {
        let exempt = Some("192.0.2.0/24".parse().unwrap());
        let settings = PenaltySettings { exempt, ..PenaltySettings::default() };
        let mut penalties = Penalties::default();
        let now = Instant::now();
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        for _ in 0..10 {
            penalties.punish(&settings, A, Offence::AuthFailed, now);
            penalties.punish(&settings, one, Offence::AuthFailed, now);
        }
        assert!(!penalties.refuses(&settings, A, now));
        assert!(penalties.refuses(&settings, other, now));
        assert_eq!(penalties.refused_addresses(now), 1);
        let off = PenaltySettings { enabled: false, ..settings };
        assert!(!penalties.refuses(&off, other, now));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_longest_penalties_stay() {
        let (settings, now) = (PenaltySettings::default(), Instant::now());
        let mut penalties = Penalties::default();
        for _ in 0..4 {
            penalties.punish(&settings, A, Offence::AuthFailed, now);
        }
        for n in 0..u32::try_from(MAX_ADDRESSES + 10).unwrap() {
            penalties.punish(&settings, IpAddr::V4((0x0a00_0000 + n).into()), Offence::NoAuth, now);
        }
        assert_eq!((penalties.by_address.len(), penalties.by_end.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
        assert!(penalties.refuses(&settings, A, now));
    }
}
