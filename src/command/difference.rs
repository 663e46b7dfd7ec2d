//! What a file would change, as people look at it: signs as `diff` has them, what belongs to one thing together, removals
//! once more at the end.

use super::text::{Screen, Text, Tone};
use crate::app::apply::{Entry, Plan, Section, Sign};
use similar::{ChangeTag, TextDiff};

/// The most lines that are shown before a question; more would only scroll by.
const MAX_LINES: usize = 1000;

/// The lines around each change of a configuration that are shown.
const AROUND: usize = 3;

const fn mark(sign: Sign) -> (&'static str, Tone) {
    match sign {
        Sign::Add => ("+", Tone::Good),
        Sign::Change => ("~", Tone::Warn),
        Sign::Remove => ("-", Tone::Bad),
    }
}

/// All of it, in the colours of the screen.
pub(super) fn text(plan: &Plan, screen: Screen) -> Text {
    let mut text = Text::default();
    for (tone, line) in lines(plan) {
        text.push(Text::toned(tone, &line, screen));
        text.push("\n");
    }
    text
}

/// All of it, without colours.
pub(super) fn plain(plan: &Plan) -> String {
    lines(plan).into_iter().map(|(_, line)| line + "\n").collect()
}

/// Its beginning and its end, if it is too long for a person.
pub(super) fn abridged(plain: &str) -> String {
    let lines: Vec<&str> = plain.lines().collect();
    let Some(left_out) = lines.len().checked_sub(MAX_LINES).filter(|n| *n > 0) else { return plain.to_owned() };
    let (first, last) = (&lines[..MAX_LINES / 2], &lines[MAX_LINES / 2 + left_out..]);
    format!("{}\n… {left_out} more lines; --dry-run shows them\n{}\n", first.join("\n"), last.join("\n"))
}

fn lines(plan: &Plan) -> Vec<(Tone, String)> {
    let mut lines = Vec::new();
    for section in plan.difference.sections() {
        let (sign, tone) = mark(section.sign);
        lines.push((tone, format!("{sign} {} {}", section.kind, section.name)));
        let width = section.entries.iter().map(|entry| entry.what.len()).max().unwrap_or_default();
        for entry in &section.entries {
            let (sign, tone) = mark(entry.sign);
            lines.push((tone, format!("    {sign} {:width$}  {}", entry.what, entry.value).trim_end().to_owned()));
            configuration(entry, &mut lines);
        }
    }
    let removed: Vec<String> = plan.difference.sections().iter().flat_map(removals).collect();
    if !removed.is_empty() {
        lines.push((Tone::Plain, String::new()));
        lines.push((Tone::Heading, "Removed:".into()));
        lines.extend(removed.into_iter().map(|line| (Tone::Bad, format!("    - {line}"))));
    }
    let [added, changed, removed] = plan.counts();
    lines.push((Tone::Plain, String::new()));
    lines.push((Tone::Plain, format!("{added} to add, {changed} to change, {removed} to remove")));
    lines
}

/// As `diff -u` shows it.
fn configuration(entry: &Entry, lines: &mut Vec<(Tone, String)>) {
    let Some((before, after)) = &entry.texts else { return };
    let diff = TextDiff::from_lines(&**before, &**after);
    let mut first = true;
    for group in diff.grouped_ops(AROUND) {
        if !first {
            lines.push((Tone::Plain, "          …".into()));
        }
        first = false;
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let (sign, tone) = match change.tag() {
                ChangeTag::Delete => ("-", Tone::Bad),
                ChangeTag::Insert => ("+", Tone::Good),
                ChangeTag::Equal => (" ", Tone::Plain),
            };
            let line = change.value().trim_end_matches('\n').replace('\t', "    ");
            lines.push((tone, format!("        {sign} {line}").trim_end().to_owned()));
        }
    }
}

fn removals(section: &Section) -> Vec<String> {
    let Section { sign, kind, name, entries } = section;
    if *sign == Sign::Remove {
        return vec![format!("{kind} {name}")];
    }
    let gone = entries.iter().filter(|entry| entry.sign == Sign::Remove);
    gone.map(|entry| format!("{} {} of {kind} {name}", entry.what, entry.value)).collect()
}
