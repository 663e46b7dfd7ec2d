//! Points in time and lengths of time, as values: nobody here reads a clock.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time: milliseconds since 1970-01-01 UTC. RFC 3339 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// The last instant that RFC 3339 can write (the end of the year 9999), in milliseconds.
const LAST: u64 = 253_402_300_799_999;

impl Timestamp {
    /// From milliseconds since 1970; later than the year 9999 counts as its end.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(if millis > LAST { LAST } else { millis })
    }

    /// From seconds since 1970, as certificates have it (PROTOCOL.certkeys): a whole second, also the last one that
    /// there is, so that what was read and is written again is the same.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        const LAST_SECOND: u64 = LAST / 1000;
        Self::from_millis(1000 * if secs > LAST_SECOND { LAST_SECOND } else { secs })
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// This much later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This much earlier, but not before 1970.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long from `earlier` to this; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    fn to_date(self) -> OffsetDateTime {
        // In range by construction: no constructor lets a value past LAST.
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// `2026-11-23 12:03 UTC`, for people.
    #[must_use]
    pub fn for_people(self) -> String {
        let date = self.to_date();
        format!(
            "{:04}-{:02}-{:02} {:02}:{:02} UTC",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute()
        )
    }

    /// `2026-11-23 12:03:04 UTC`, for people who compare it with other logs.
    #[must_use]
    pub fn exactly(self) -> String {
        let date = self.to_date();
        format!("{} {:02}:{:02}:{:02} UTC", date.date(), date.hour(), date.minute(), date.second())
    }

    /// As people say it at `now`: `12:03 UTC` on the same day, the whole date otherwise.
    #[must_use]
    pub fn for_people_at(self, now: Self) -> String {
        let (date, today) = (self.to_date(), now.to_date());
        if date.date() == today.date() {
            format!("{:02}:{:02} UTC", date.hour(), date.minute())
        } else {
            self.for_people()
        }
    }

    /// As people say it at `now` of what is near: `in 4 min`, `3 min ago`; the date of what is a day away or more. Whole
    /// units that have passed or are left, never more than there are.
    #[must_use]
    pub fn near(self, now: Self) -> String {
        let (away, ahead) = if self > now { (self.since(now), true) } else { (now.since(self), false) };
        let amount = match away.as_secs() {
            0 => return "now".into(),
            secs @ ..60 => format!("{secs} s"),
            secs @ ..3600 => format!("{} min", secs / 60),
            secs @ ..86_400 => format!("{} h", secs / 3600),
            _ => return self.for_people(),
        };
        if ahead { format!("in {amount}") } else { format!("{amount} ago") }
    }

    /// The time of the day to the second, `12:03:04 UTC`: of what has just happened, where seconds matter.
    #[must_use]
    pub fn to_the_second(self) -> String {
        let date = self.to_date();
        format!("{:02}:{:02}:{:02} UTC", date.hour(), date.minute(), date.second())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Formatting a date in range to RFC 3339 has no error case.
        f.pad(&self.to_date().format(&Rfc3339).unwrap_or_default())
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date =
            OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "not an RFC 3339 time like 2026-01-31T12:00:00Z")?;
        let millis = date.unix_timestamp_nanos() / 1_000_000;
        u64::try_from(millis).map(Self::from_millis).map_err(|_| "a time before 1970")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A length of time as people type it: `90s`, `5m`, `12h`, `2d`. Whole seconds, at least one, at most a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest there is: 365 days, in seconds.
    pub const MAX_SECS: u32 = 365 * 86_400;

    /// From seconds; none if zero or more than a year.
    #[must_use]
    pub const fn from_secs(secs: u32) -> Option<Self> {
        if secs == 0 || secs > Self::MAX_SECS { None } else { Some(Self(secs)) }
    }

    /// In seconds.
    #[must_use]
    pub const fn secs(self) -> u32 {
        self.0
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl FromStr for Ttl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a length of time is written like 90s, 5m, 12h or 2d, and is at most 365d";
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(FORM)?;
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(FORM),
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(FORM);
        }
        let secs = number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor)).ok_or(FORM)?;
        Self::from_secs(secs).ok_or(FORM)
    }
}

/// How long what somebody has open may stay open after they were removed from a project: an hour at most, since a removal
/// has to mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Ttl", into = "Ttl")]
pub struct Grace(Ttl);

impl Grace {
    /// The longest there is, in seconds.
    pub const MAX_SECS: u32 = 3600;

    /// As the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0.duration()
    }
}

impl TryFrom<Ttl> for Grace {
    type Error = &'static str;

    fn try_from(ttl: Ttl) -> Result<Self, Self::Error> {
        if ttl.secs() > Self::MAX_SECS { Err("a grace period is at most 1h") } else { Ok(Self(ttl)) }
    }
}

impl From<Grace> for Ttl {
    fn from(grace: Grace) -> Self {
        grace.0
    }
}

impl FromStr for Grace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Ttl>()?.try_into()
    }
}

impl fmt::Display for Grace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (amount, unit) = match self.0 {
            s if s % 86_400 == 0 => (s / 86_400, "d"),
            s if s % 3600 == 0 => (s / 3600, "h"),
            s if s % 60 == 0 => (s / 60, "m"),
            s => (s, "s"),
        };
        f.pad(&format!("{amount}{unit}"))
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text() {
        for millis in [0, 1, 999, 1_795_435_399_123, LAST, u64::MAX] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn a_time_in_seconds_survives_them() {
        for secs in [0, 1, LAST / 1000, LAST / 1000 + 1, u64::MAX] {
            let time = Timestamp::from_secs(secs);
            assert_eq!((Timestamp::from_secs(time.secs()), time.millis() % 1000), (time, 0));
        }
    }

    #[test]
    fn people_read_times_as_they_say_them() {
        let now = Timestamp::from_secs(1_800_000_000);
        let near = |ahead, secs| {
            let by = Duration::from_secs(secs);
            (if ahead { now.after(by) } else { now.before(by) }).near(now)
        };
        assert_eq!((near(true, 0), near(true, 1), near(false, 59)), ("now".into(), "in 1 s".into(), "59 s ago".into()));
        assert_eq!((near(true, 299), near(false, 3599)), ("in 4 min".into(), "59 min ago".into()));
        assert_eq!((near(true, 7200), near(false, 86_399)), ("in 2 h".into(), "23 h ago".into()));
        assert_eq!(near(false, 86_400), "2027-01-14 08:00 UTC");
        assert_eq!(near(true, 86_400), "2027-01-16 08:00 UTC");
        assert_eq!(now.after(Duration::from_millis(4999)).to_the_second(), "08:00:04 UTC");
    }

    #[test]
    fn a_length_of_time_is_a_number_and_a_unit() {
        assert_eq!("5m".parse::<Ttl>().unwrap().secs(), 300);
        assert_eq!("90s".parse::<Ttl>().unwrap().to_string(), "90s");
        assert_eq!("365d".parse::<Ttl>().unwrap().to_string(), "365d");
        for bad in ["", "m", "5", "0s", "-5m", "+5m", "5 m", "366d", "99999999999d", "5é", "1e3s"] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad:?}");
        }
    }
}
