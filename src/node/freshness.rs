//! How old the access table is, for the agent: when the authority's word makes it younger, and when the operator is told
//! that it grows too old. The helper decides by the same time, which is that of the table's file.

use super::agent::Level;
use crate::domain::{Timestamp, Ttl};
use std::time::Duration;

/// How often a table is confirmed while it may be believed.
const CONFIRMATIONS: u32 = 96;

/// What has been said of the table's age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    /// Nothing, or that all is well again.
    #[default]
    Fresh,
    /// Half of its time is over.
    Ageing,
    /// Nobody is let in.
    Stale,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    max_age: Option<Ttl>,
    confirmed: Option<Timestamp>,
    said: Said,
}

impl Freshness {
    /// Of a table that was last confirmed at this time, if there is one.
    pub(super) fn new(max_age: Option<Ttl>, confirmed: Option<Timestamp>) -> Self {
        Self { max_age, confirmed, said: Said::Fresh }
    }

    /// There is a new table, made at this time. It is not older than the one before: `StateDir::install`.
    pub(super) fn installed(&mut self, issued: Timestamp) {
        self.confirmed = self.confirmed.max(Some(issued));
    }

    /// The authority has confirmed the table in force, `at` a time by its clock. Returns the time to write down, if that is
    /// worth a write to the disk: nobody needs it to the second. It never makes a table older, for a gateway could have
    /// kept the word; but a time that has not come yet, from when a clock was wrong, is none.
    #[must_use]
    pub(super) fn confirm(&mut self, at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let (max_age, at) = (self.max_age?, at.min(now));
        let last = self.confirmed.filter(|last| *last <= now);
        if last.is_some_and(|last| at.since(last) < max_age.duration() / CONFIRMATIONS) {
            return None;
        }
        self.confirmed = Some(at);
        Some(at)
    }

    /// What the operator is to be told now: once when half of the time is over, once when all of it is, and when the table
    /// is believed again.
    #[must_use]
    pub(super) fn watch(&mut self, now: Timestamp) -> Option<(Level, String)> {
        let (max_age, confirmed) = (self.max_age?, self.confirmed?);
        // As the helper has it: in whole seconds, and a time that is too far ahead is as bad as one long ago.
        let age = Duration::from_secs(now.secs().abs_diff(confirmed.secs()));
        let state = match age {
            age if age > max_age.duration() => Said::Stale,
            age if age > max_age.duration() / 2 => Said::Ageing,
            _ => Said::Fresh,
        };
        let before = std::mem::replace(&mut self.said, state);
        let at = confirmed.for_people_at(now);
        match state {
            Said::Fresh if before > Said::Fresh => {
                Some((Level::Info, "the authority has confirmed the access table; it is believed as before".into()))
            }
            Said::Ageing if before < state => Some((
                Level::Warning,
                format!(
                    "the authority has last confirmed the access table at {at}: if it does not within {max_age} \
                     (max_age) of that, nobody is let in by certificate"
                ),
            )),
            Said::Stale if before < state => Some((
                Level::Error,
                format!(
                    "nobody is let in by certificate any more: the authority has last confirmed the access table at \
                     {at}, which is not within {max_age} (max_age) of now; see why no gateway is reached or why its \
                     bundles are refused, and look at the clock"
                ),
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_secs(1_795_000_000);

    fn later(secs: u64) -> Timestamp {
        START.after(Duration::from_secs(secs))
    }

    #[test]
    fn an_operator_is_told_once_that_a_table_ages_once_that_it_is_too_old_and_when_it_is_not_any_more() {
        let mut freshness = Freshness::new(Ttl::from_secs(86_400), Some(START));
        let mut watch = |confirm: Option<u64>, secs| {
            if let Some(at) = confirm {
                assert!(freshness.confirm(later(at), later(secs)).is_some());
            }
            freshness.watch(later(secs)).map(|(level, text)| (level, text.contains("nobody is let in")))
        };
        assert_eq!(watch(None, 43_200), None);
        assert_eq!(watch(None, 43_201), Some((Level::Warning, true)));
        assert_eq!(watch(None, 86_400), None, "still believed, as the helper has it");
        assert_eq!(watch(None, 86_401), Some((Level::Error, true)));
        assert_eq!(watch(None, 400_000), None, "once");
        assert_eq!(watch(Some(400_000), 400_001), Some((Level::Info, false)));
        assert_eq!(watch(None, 400_002), None);
        // Asleep for long: not both at once.
        assert_eq!(watch(None, 900_000), Some((Level::Error, true)));
        // Confirmed by a word that is old itself.
        assert_eq!(watch(Some(850_000), 900_001), None);
        assert_eq!(watch(Some(900_001), 900_002), Some((Level::Info, false)));
        // A clock that is set back makes it a time that has not come.
        assert_eq!(watch(None, 0), Some((Level::Error, true)));
    }

    #[test]
    fn a_word_that_was_kept_makes_nothing_older_and_a_wrong_clock_is_made_good() {
        let mut freshness = Freshness::new(Ttl::from_secs(9600), Some(later(5000)));
        assert_eq!(freshness.confirm(START, later(5001)), None, "older than what is known");
        assert_eq!(freshness.confirm(later(5099), later(5099)), None, "not worth a write");
        assert_eq!(freshness.confirm(later(5100), later(5100)), Some(later(5100)));
        freshness.installed(later(6000));
        assert_eq!(freshness.confirm(later(5500), later(6001)), None);
        // Our clock is behind the authority's.
        assert_eq!(freshness.confirm(later(9000), later(7000)), Some(later(7000)));
        // It was ahead, and has been set right: the time that is on disk has not come.
        assert_eq!(freshness.confirm(later(200), later(201)), Some(later(200)));
        // Turned off, nothing is written and nothing said.
        let mut off = Freshness::new(None, Some(START));
        assert_eq!((off.confirm(later(9), later(9)), off.watch(later(1_000_000))), (None, None));
        let mut none = Freshness::new(Ttl::from_secs(9600), None);
        assert_eq!(none.watch(later(1_000_000)), None, "there is no table");
    }
}
