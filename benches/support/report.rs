//! Rows of the table, as `scripts/bench` reads them from standard output: fields separated by tabs.

use std::fmt;

/// What a number has to be.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// So much, or more.
    AtLeast(f64),
    /// So much, or less.
    AtMost(f64),
    /// Nothing: it is there to be compared with.
    None,
}

/// What a number counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    PerSecond,
    Seconds,
    Millis,
    Micros,
    Kilobytes,
    Megabytes,
    Times,
    Count,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerSecond => "/s",
            Self::Seconds => " s",
            Self::Millis => " ms",
            Self::Micros => " µs",
            Self::Kilobytes => " kB",
            Self::Megabytes => " MB",
            Self::Times => " ×",
            Self::Count => "",
        })
    }
}

/// Three digits that count, and no more than what was measured.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => {
            let digits = format!("{value:.0}");
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("?")).collect();
            groups.join(",")
        }
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Prints a row: what was measured, the number, and its mark.
pub fn row(what: &str, value: f64, unit: Unit, mark: Mark) {
    row_beside(what, value, unit, mark, "");
}

/// The same with what others take for it, measured in the same run.
pub fn row_beside(what: &str, value: f64, unit: Unit, mark: Mark, peers: &str) {
    let (wanted, verdict) = match mark {
        Mark::AtLeast(bound) => (format!("≥ {}{unit}", number(bound)), if value >= bound { "met" } else { "missed" }),
        Mark::AtMost(bound) => (format!("≤ {}{unit}", number(bound)), if value <= bound { "met" } else { "missed" }),
        Mark::None => (String::new(), ""),
    };
    println!("row\t{what}\t{}\t{wanted}\t{verdict}\t{peers}", quantity(value, unit));
}

/// A number with its unit.
pub fn quantity(value: f64, unit: Unit) -> String {
    format!("{}{unit}", number(value))
}

/// Prints what has to be known to read the rows.
pub fn note(text: &str) {
    println!("note\t{text}");
}
