//! What a check comes to.

use serde::Serialize;

/// How much it matters, from what needs nothing to what needs somebody now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing is wrong.
    Hint,
    /// It cannot be seen by the one who asks.
    Unseen,
    /// It works, but will not go on working, or not for everybody.
    Warning,
    /// It keeps people out, or lets the wrong ones in.
    Error,
}

impl Severity {
    /// The exit status of a report that has nothing worse.
    pub(crate) fn exit(self) -> u8 {
        match self {
            Self::Ok | Self::Hint => 0,
            Self::Unseen | Self::Warning => 1,
            Self::Error => 2,
        }
    }

    /// As people read it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Hint => "hint",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at, and what was found. The names of the fields and of the checks are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Which check; one can have several findings.
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    /// What was found, and what follows from it.
    pub(crate) finding: String,
    /// What to do about it, if anything is to be done.
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, finding: String, mend: Option<String>) -> Self {
        Self { check, severity, finding, mend }
    }

    pub(super) fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, finding.into(), None)
    }

    pub(super) fn hint(check: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, Severity::Hint, finding.into(), Some(mend.into()))
    }

    pub(super) fn warning(check: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, finding.into(), Some(mend.into()))
    }

    pub(super) fn error(check: &'static str, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, finding.into(), Some(mend.into()))
    }

    pub(super) fn unseen(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(check, Severity::Unseen, finding.into(), Some("run it as root".into()))
    }
}

/// The worst of them.
pub(crate) fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_that_of_the_worst_and_hints_are_harmless() {
        let all = [
            (Finding::ok("a", "x"), 0),
            (Finding::hint("a", "x", "y"), 0),
            (Finding::unseen("a", "x"), 1),
            (Finding::warning("a", "x", "y"), 1),
            (Finding::error("a", "x", "y"), 2),
        ];
        for count in 0..=all.len() {
            let findings: Vec<_> = all[..count].iter().map(|(finding, _)| finding.clone()).collect();
            let exit = count.checked_sub(1).map_or(0, |last| all[last].1);
            assert_eq!(worst(&findings).exit(), exit);
        }
    }
}
