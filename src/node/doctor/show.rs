//! How a report looks: a table for people, worst first; JSON for programs, in the order of the checks.

use super::{
    facts::Facts,
    finding::{Finding, Severity, worst},
};
use crate::{
    app::protocol::Terminal,
    command::{
        table::{Cell, table},
        text::{Screen, Text, Tone, count},
    },
};

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Ok => Tone::Good,
        Severity::Hint => Tone::Plain,
        Severity::Unseen | Severity::Warning => Tone::Warn,
        Severity::Error => Tone::Bad,
    }
}

/// For people. What is to be done stands below what was found.
pub(super) fn for_people(findings: &[Finding], terminal: Option<Terminal>) -> String {
    let screen = Screen::of(terminal);
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut rows: Vec<Vec<Cell>> = vec![];
    for finding in sorted {
        let state = Cell::new(tone(finding.severity), finding.severity.word());
        rows.push(vec![state, finding.check.into(), finding.finding.as_str().into()]);
        if let Some(mend) = &finding.mend {
            rows.push(vec![Cell::default(), Cell::default(), format!("to do: {mend}").into()]);
        }
    }
    let mut text = table(&["STATE", "CHECK", "FINDING"], rows, screen, "Nothing was looked at.");
    text.push("\n");
    text.push(Text::toned(tone(worst(findings)), &summary(findings), screen));
    text.push("\n");
    text.into_string()
}

fn summary(findings: &[Finding]) -> String {
    let number = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let said =
        [(number(Severity::Error), "error"), (number(Severity::Warning), "warning"), (number(Severity::Hint), "hint")];
    let mut parts: Vec<String> =
        said.iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(*number, what)).collect();
    let unseen = number(Severity::Unseen);
    if unseen > 0 {
        parts.push(format!("{unseen} not seen"));
    }
    match worst(findings) {
        Severity::Ok => "All is well.".into(),
        Severity::Hint => format!("All is well; {}.", parts.join(", ")),
        _ => format!("{}.", parts.join(", ")),
    }
}

/// For programs.
pub(super) fn for_programs(facts: &Facts, findings: &[Finding]) -> String {
    let worst = worst(findings);
    let report = serde_json::json!({
        "node": facts.node().map(ToString::to_string),
        "at": facts.now,
        "severity": worst,
        "exit": worst.exit(),
        "findings": findings,
    });
    format!("{report:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_on_top_with_what_to_do_and_the_sum_below() {
        let findings = [
            Finding::ok("config", "this is a.b.c"),
            Finding::hint("nsswitch", "nss-systemd is missing", "add it"),
            Finding::error("agent", "it does not run", "start it"),
            Finding::unseen("bundle", "only root can read it"),
        ];
        assert_eq!(
            for_people(&findings, None),
            "\
STATE   CHECK     FINDING
error   agent     it does not run
                  to do: start it
unseen  bundle    only root can read it
                  to do: run it as root
hint    nsswitch  nss-systemd is missing
                  to do: add it
ok      config    this is a.b.c

1 error, 1 hint, 1 not seen.
"
        );
        assert!(for_people(&findings[..1], None).ends_with("\nAll is well.\n"));
        assert!(for_people(&findings[..2], None).ends_with("\nAll is well; 1 hint.\n"));
        let coloured = for_people(&findings, Some(Terminal { columns: 80, colours: true }));
        assert!(coloured.contains("\u{1b}[1m\u{1b}[31merror"), "{coloured:?}");
    }
}
