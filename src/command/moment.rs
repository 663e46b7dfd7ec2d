//! Points in time as people type them on a command line.

use crate::domain::{Timestamp, Ttl};
use std::str::FromStr;

/// What was typed; what it means depends on when it was for lengths of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago: `2h`.
    Ago(Ttl),
    /// This one.
    At(Timestamp),
}

impl Moment {
    pub(crate) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(length) => now.before(length.duration()),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a time is written like 2h or 3d (ago), 2026-11-25, '2026-11-25 12:00' or 2026-11-25T12:00:00Z; \
                            without a zone it is UTC";
        if let Ok(length) = text.parse() {
            return Ok(Self::Ago(length));
        }
        let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00"));
        let whole = match time.len() {
            // HH:MM, HH:MM:SS; the rest has a zone.
            5 => format!("{date}T{time}:00Z"),
            8 if !time.ends_with(['Z', 'z']) => format!("{date}T{time}Z"),
            _ => format!("{date}T{time}"),
        };
        whole.parse().map(Self::At).map_err(|_| FORM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_type_them() {
        let now: Timestamp = "2026-11-25T12:30:00Z".parse().unwrap();
        for (typed, meant) in [
            ("2h", "2026-11-25T10:30:00Z"),
            ("3d", "2026-11-22T12:30:00Z"),
            ("2026-11-25", "2026-11-25T00:00:00Z"),
            ("2026-11-25 12:00", "2026-11-25T12:00:00Z"),
            ("2026-11-25T12:00", "2026-11-25T12:00:00Z"),
            ("2026-11-25 12:00:07", "2026-11-25T12:00:07Z"),
            ("2026-11-25T12:00:07Z", "2026-11-25T12:00:07Z"),
            ("2026-11-25T12:00:07.5Z", "2026-11-25T12:00:07.5Z"),
            ("2026-11-25T13:00:07+01:00", "2026-11-25T12:00:07Z"),
        ] {
            let moment: Moment = typed.parse().unwrap_or_else(|e| panic!("{typed}: {e}"));
            assert_eq!(moment.at(now), meant.parse().unwrap(), "{typed}");
        }
        for bad in [
            "",
            "yesterday",
            "12:00",
            "2026-11",
            "2026-13-01",
            "2026-11-25 25:00",
            "2026-11-25 12",
            "-2h",
            "1969-01-01",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }
}
