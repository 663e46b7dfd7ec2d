//! What is refused again and again is recorded a few times, and then how often it was: whoever has proved a key can have
//! themselves refused as fast as they can connect, and must not be able to fill the disk with it. No I/O.

use crate::{
    audit::Event,
    domain::{Fingerprint, Timestamp},
};
use std::{collections::HashMap, time::Duration};

/// So many of the same are recorded; the next ones are counted.
const RECORDED: u64 = 8;

/// For so long after the first one.
const COUNTED_FOR: Duration = Duration::from_secs(600);

/// More sorts than this are not told apart by where they come from: somebody may have a key, and any number of addresses.
const MAX_KINDS: usize = 256;

/// What is the same: by whom, what, why, from where.
type Kind = (Fingerprint, String, Option<String>, String);

/// What has been recorded, and what has happened since.
#[derive(Debug, Default)]
pub(super) struct Repeats(HashMap<Kind, Repeat>);

#[derive(Debug)]
struct Repeat {
    since: Timestamp,
    recorded: u64,
    more: u64,
    last: Event,
}

impl Repeats {
    /// Takes an event, and gives it back if it is to be recorded. One without a key is never the same as another. The keys are of people and nodes that are or were
    /// known, so there are no more of them than the directory has.
    pub(super) fn take(&mut self, event: Event) -> Option<Event> {
        let Some(key) = event.actor.key() else { return Some(event) };
        let source = if self.0.len() < MAX_KINDS { event.source.clone() } else { String::new() };
        let kind = (key, event.action.clone(), event.reason.clone(), source);
        let new = || Repeat { since: event.at, recorded: 0, more: 0, last: event.clone() };
        let repeat = self.0.entry(kind).or_insert_with(new);
        if repeat.recorded < RECORDED {
            repeat.recorded += 1;
            return Some(event);
        }
        repeat.more += 1;
        repeat.last = event;
        None
    }

    /// What was counted long enough, each as one event that says how often.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<Event> {
        self.count(|repeat| now.since(repeat.since) >= COUNTED_FOR || repeat.since > now)
    }

    /// Everything that was counted.
    pub(super) fn all(&mut self) -> Vec<Event> {
        self.count(|_| true)
    }

    fn count(&mut self, mut is_due: impl FnMut(&Repeat) -> bool) -> Vec<Event> {
        let due = self.0.extract_if(|_, repeat| is_due(repeat));
        let counted = due.filter(|(_, repeat)| repeat.more > 0).map(|(_, Repeat { since, more, last, .. })| {
            let detail = format!("{more} more since {}, the last: {}", since.for_people(), last.detail);
            Event { detail, ..last }
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Actor;

    fn event(key: u8, secs: u64) -> Event {
        let actor = Actor::Stranger { key: Fingerprint::from_bytes([key; 32]) };
        Event {
            reason: Some("suspended".into()),
            detail: format!("at {secs}"),
            ..Event::new(Timestamp::from_secs(secs), actor, "authenticate", "key")
        }
    }

    #[test]
    fn the_first_are_recorded_and_the_rest_is_a_number() {
        let mut repeats = Repeats::default();
        for secs in 0..RECORDED {
            assert_eq!(repeats.take(event(1, secs)), Some(event(1, secs)));
        }
        for secs in 1..=1000 {
            assert_eq!(repeats.take(event(1, secs % 600)), None);
        }
        // Somebody else, something else and something for another reason or from elsewhere are not the same.
        for other in [
            event(2, 1),
            Event { action: "node.hello".into(), ..event(1, 1) },
            Event { reason: None, ..event(1, 1) },
            Event { source: "192.0.2.7".into(), ..event(1, 1) },
        ] {
            assert_eq!(repeats.take(other.clone()), Some(other));
        }
        assert_eq!(repeats.due(Timestamp::from_secs(599)), []);
        let due = repeats.due(Timestamp::from_secs(700));
        assert_eq!(due.len(), 1, "what was not repeated needs no number: {due:?}");
        assert_eq!(due[0].detail, "1000 more since 1970-01-01 00:00 UTC, the last: at 400");
        assert_eq!(repeats.take(event(1, 700)), Some(event(1, 700)));
        assert_eq!(repeats.all(), []);
    }

    #[test]
    fn whoever_comes_from_everywhere_is_a_number_too() {
        let mut repeats = Repeats::default();
        let from = |n: u64| Event { source: format!("2001:db8::{n:x}"), ..event(1, 0) };
        let recorded = (0..100_000).filter(|n| repeats.take(from(*n)).is_some()).count();
        assert_eq!(recorded, MAX_KINDS + usize::try_from(RECORDED).unwrap());
        assert_eq!(repeats.all().len(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hold_a_number_back() {
        let mut repeats = Repeats::default();
        for _ in 0..=RECORDED {
            repeats.take(event(1, 5000));
        }
        assert_eq!(repeats.due(Timestamp::from_secs(10)).len(), 1);
    }
}
