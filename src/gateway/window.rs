//! The window of a peer's channels: what it may send before it is told to go on.
//!
//! Over a long line a small window is what bounds a transfer; over a short one a large window only costs. OpenSSH's client
//! takes in from its user as much as the window permits before it sends it, and is several times slower when that is more
//! than its processor's cache holds (benches/README.md). So the window is made of how far the peer is away: of
//! the time from the answer that lets it in to its first channel, which clients open at once. The requests before that are
//! no measure: some clients sign without asking first, and a person may have to touch a key.

use std::time::{Duration, Instant};

/// The window that a channel begins with. russh gives it back when bytes arrive, when half of it is used up, but for a
/// forward whose node does not read ([`super::handler`]). russh ends a connection on which twice as much arrives while it
/// changes keys; and an agent sends what all its forwards have through one channel.
pub(super) const WINDOW: u32 = 8 * 1024 * 1024;

/// The least, for a peer nearby.
const LEAST: u32 = 1024 * 1024;

/// So many bytes for each microsecond: 200 MB/s, since half of a window is on its way while the other half is given back.
const PER_MICROSECOND: u128 = 400;

/// How far away a peer is.
#[derive(Debug, Default)]
pub(super) struct Distance {
    answered: Option<Instant>,
    shortest: Option<Duration>,
}

impl Distance {
    /// The peer asks something, and could not have asked it before the last answer.
    pub(super) fn asks(&mut self, now: Instant) {
        if let Some(answered) = self.answered.take() {
            let took = now.saturating_duration_since(answered);
            self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
        }
    }

    /// It is answered now, without delay.
    pub(super) fn answers(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// The window from now on.
    pub(super) fn window(&self) -> u32 {
        let Some(shortest) = self.shortest else { return WINDOW };
        u32::try_from(shortest.as_micros() * PER_MICROSECOND).unwrap_or(WINDOW).clamp(LEAST, WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(distance: &mut Distance, millis: u64) {
        let now = Instant::now();
        distance.answers(now);
        distance.asks(now + Duration::from_millis(millis));
    }

    #[test]
    fn who_is_near_has_a_small_window_and_who_is_far_a_large_one() {
        let mut distance = Distance::default();
        assert_eq!(distance.window(), WINDOW, "nobody knows");
        after(&mut distance, 150);
        assert_eq!(distance.window(), WINDOW);
        after(&mut distance, 10);
        assert_eq!(distance.window(), 4_000_000);
        after(&mut distance, 1);
        assert_eq!(distance.window(), LEAST);
        after(&mut distance, 300);
        assert_eq!(distance.window(), LEAST, "a person thinks; the line is no longer for that");
    }

    #[test]
    fn what_was_not_waited_for_says_nothing() {
        let mut distance = Distance::default();
        distance.asks(Instant::now());
        assert_eq!(distance.window(), WINDOW);
        after(&mut distance, 150);
        // The second of two requests that follow one answer.
        distance.asks(Instant::now());
        assert_eq!(distance.window(), WINDOW);
    }
}
