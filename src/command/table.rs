//! Tables: as wide as they are where nobody sits, so that `awk` can read them; never wider than a screen.
//!
//! A word is not broken as long as it fits: names are there to be copied. Where a table would have to, each row becomes a
//! record of its own, one field a line. comfy-table does the arranging. It is given plain text with a control character
//! between the cells, which no cell can contain, so that the colours can be put around the cells afterwards.

use super::text::{Screen, Text, Tone, visible};
use comfy_table::{ColumnConstraint, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle, Width};

/// Between cells (ASCII's unit separator) and rows (its record separator).
const CELL: char = '\u{1f}';
const ROW: char = '\u{1e}';

/// Spaces between columns, the cell separator being one of them.
const GAP: u16 = 2;

/// The most that stands before the values of a record, the gap included; longer names stand above their values.
const LABELS: u16 = 24;

/// One cell: what it says, and what that means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    words: String,
    tone: Tone,
}

impl Cell {
    /// In a tone.
    pub(crate) fn new(tone: Tone, words: impl AsRef<str>) -> Self {
        Self { words: visible(words.as_ref(), false).into_owned(), tone }
    }

    /// The longest word.
    fn longest(&self) -> u16 {
        let words = self.words.split(' ').map(columns);
        words.max().unwrap_or_default()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(words: T) -> Self {
        Self::new(Tone::Plain, words)
    }
}

/// How many columns of a screen some text takes.
fn columns(text: &str) -> u16 {
    u16::try_from(unicode_width::UnicodeWidthStr::width(text)).unwrap_or(u16::MAX)
}

/// A table, or a sentence if there is nothing to show.
pub(crate) fn table<C: Into<Cell>>(headers: &[&str], rows: Vec<Vec<C>>, screen: Screen, empty: &str) -> Text {
    if rows.is_empty() {
        return Text::from(format!("{empty}\n"));
    }
    let header = headers.iter().map(|name| Cell::new(Tone::Heading, name)).collect();
    let rows = rows.into_iter().map(|row| row.into_iter().map(Into::into).collect());
    let rows: Vec<Vec<Cell>> = std::iter::once(header).chain(rows).collect();
    let narrowest: Vec<u16> = (0..headers.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(Cell::longest).max().unwrap_or_default())
        .collect();
    match screen.columns {
        Some(width) if needed(&narrowest) > width => records(&rows, width, screen),
        _ => arranged(&rows, &narrowest, screen.columns, screen),
    }
}

/// Names with what there is to say of each, indented.
pub(crate) fn list(entries: &[(String, String)], screen: Screen) -> Text {
    let rows: Vec<Vec<Cell>> =
        entries.iter().map(|(name, about)| vec![format!("  {name}").into(), about.into()]).collect();
    let widest = |column: usize, width: fn(&Cell) -> u16| {
        rows.iter().filter_map(|row| row.get(column)).map(width).max().unwrap_or_default()
    };
    let narrowest = [widest(0, |name| columns(&name.words)), widest(1, Cell::longest)];
    if screen.columns.is_some_and(|width| needed(&narrowest) > width) {
        let stacked = entries.iter().map(|(name, about)| format!("  {name}\n      {about}\n"));
        return stacked.collect::<String>().into();
    }
    arranged(&rows, &narrowest, screen.columns, screen)
}

/// How wide columns are together.
fn needed(widths: &[u16]) -> u16 {
    let gaps = GAP.saturating_mul(u16::try_from(widths.len()).unwrap_or(u16::MAX).saturating_sub(1));
    widths.iter().fold(gaps, |sum, width| sum.saturating_add(*width))
}

/// Rows one below the other, each column at least as wide as said.
fn arranged(rows: &[Vec<Cell>], narrowest: &[u16], width: Option<u16>, screen: Screen) -> Text {
    let style = TableStyle::new()
        .content_lines(ContentLineStyle::none().junction(CELL))
        .row_separator(LineStyle::none().fill(ROW).junction(ROW));
    let mut table = Table::new();
    table.load_style(style);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for row in rows {
        table.add_row(row.iter().map(|cell| cell.words.as_str()).collect::<Vec<_>>());
    }
    let last = narrowest.len().saturating_sub(1);
    for (index, least) in narrowest.iter().enumerate() {
        let Some(column) = table.column_mut(index) else { continue };
        let gap = if index == last { 0 } else { GAP - 1 };
        column.set_padding((0, gap));
        // A constraint counts the padding too.
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(least.saturating_add(gap).max(1))));
    }
    let mut text = Text::default();
    let mut row = rows.iter();
    let mut cells = row.next();
    for line in table.lines() {
        if line.starts_with(ROW) {
            cells = row.next();
            continue;
        }
        let parts: Vec<&str> = line.split(CELL).collect();
        // Nothing is padded after the last word of a line.
        let filled = parts.iter().rposition(|part| !part.trim_end().is_empty()).map_or(0, |last| last + 1);
        for (index, part) in parts.iter().take(filled).enumerate() {
            let tone = cells.and_then(|cells| cells.get(index)).map(|cell| cell.tone).unwrap_or_default();
            let words = part.trim_end();
            text.push_toned(tone, words, screen);
            if index + 1 < filled {
                text.push(" ".repeat(part.len() - words.len() + 1));
            }
        }
        text.push("\n");
    }
    text
}

/// Each row as a record: the names of the columns beside the values, or above them if the screen is very narrow.
fn records(rows: &[Vec<Cell>], width: u16, screen: Screen) -> Text {
    let Some((names, rows)) = rows.split_first() else { return Text::default() };
    let labels = names.iter().map(|name| columns(&name.words)).max().unwrap_or_default();
    let values = width.saturating_sub(labels + GAP);
    let longest = rows.iter().flatten().map(Cell::longest).max().unwrap_or_default();
    let beside = labels + GAP <= LABELS && longest <= values;
    let mut text = Text::default();
    for row in rows {
        if !text.is_empty() {
            text.push("\n");
        }
        // What is empty need not be said.
        let fields: Vec<_> = names.iter().zip(row).filter(|(_, value)| !value.words.is_empty()).collect();
        if beside {
            let pairs: Vec<_> = fields.into_iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
            text.push(arranged(&pairs, &[labels, longest], Some(width), screen));
            continue;
        }
        for (name, value) in fields {
            text.push(arranged(&[vec![name.clone()]], &[0], Some(width), screen));
            let indented = arranged(&[vec![Cell::default(), value.clone()]], &[0, 0], Some(width), screen);
            text.push(indented);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::text::tests::COLOURED, *};
    use crate::{app::protocol::Terminal, command::text::tests::without_colours};
    use proptest::prelude::*;

    fn screen(columns: u16) -> Screen {
        Screen::of(Some(Terminal { columns, colours: false }))
    }

    fn nodes(screen: Screen) -> String {
        let rows = vec![
            vec!["login-0.h100-cluster-1.acme", "login", "192.0.2.7:22", "version 12"],
            vec!["compute-0.h100-cluster-1.acme", "compute", "192.0.2.8:22", "last heard 5 min ago, version 11 of 12"],
        ];
        table(&["NODE", "ROLE", "ADDRESS", "STATE"], rows, screen, "None.").into_string()
    }

    #[test]
    fn where_nobody_sits_a_row_is_a_line_and_two_spaces_separate_the_cells() {
        assert_eq!(
            nodes(Screen::default()),
            "\
NODE                           ROLE     ADDRESS       STATE
login-0.h100-cluster-1.acme    login    192.0.2.7:22  version 12
compute-0.h100-cluster-1.acme  compute  192.0.2.8:22  last heard 5 min ago, version 11 of 12
"
        );
        let row = vec![vec!["", "two\nlines", ""], vec!["x", "", "y"]];
        assert_eq!(
            table(&["A", "B", ""], row, Screen::default(), "").into_string(),
            "A  B\n   two\\u000alines\nx                  y\n"
        );
        assert_eq!(table(&["A"], Vec::<Vec<String>>::new(), Screen::default(), "None.").into_string(), "None.\n");
    }

    #[test]
    fn a_screen_that_is_narrower_gets_lines_that_are_broken_between_words() {
        assert_eq!(
            nodes(screen(80)),
            "\
NODE                           ROLE     ADDRESS       STATE
login-0.h100-cluster-1.acme    login    192.0.2.7:22  version 12
compute-0.h100-cluster-1.acme  compute  192.0.2.8:22  last heard 5 min ago,
                                                      version 11 of 12
"
        );
    }

    #[test]
    fn a_screen_that_is_too_narrow_for_the_words_gets_records() {
        assert_eq!(
            nodes(screen(50)),
            "\
NODE     login-0.h100-cluster-1.acme
ROLE     login
ADDRESS  192.0.2.7:22
STATE    version 12

NODE     compute-0.h100-cluster-1.acme
ROLE     compute
ADDRESS  192.0.2.8:22
STATE    last heard 5 min ago, version 11 of 12
"
        );
        assert_eq!(
            nodes(screen(20)).lines().take(9).collect::<Vec<_>>().join("\n"),
            "\
NODE
   login-0.h100-clus
   ter-1.acme
ROLE
   login
ADDRESS
   192.0.2.7:22
STATE
   version 12"
        );
    }

    #[test]
    fn the_colours_are_around_the_words_and_change_nothing_else() {
        let rows = || {
            vec![vec![Cell::new(Tone::Good, "up to date"), "x".into()], vec![Cell::new(Tone::Bad, "no"), "y".into()]]
        };
        let plain = table(&["STATE", "NAME"], rows(), Screen::default(), "").into_string();
        let coloured = table(&["STATE", "NAME"], rows(), COLOURED, "").into_string();
        assert_eq!(without_colours(&coloured), plain);
        assert!(coloured.contains("\u{1b}[32mup to date\u{1b}[0m  x\n"), "{coloured:?}");
        assert!(coloured.starts_with("\u{1b}[1mSTATE\u{1b}[0m       \u{1b}[1mNAME\u{1b}[0m\n"), "{coloured:?}");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen_and_no_cell_takes_it_over(
            rows in prop::collection::vec(prop::collection::vec("[a-z .漢\u{301}\u{1f}\u{1e}\u{1b}\n]{0,40}", 5), 1..6),
            width in 20u16..130,
            toned in any::<bool>(),
        ) {
            let tone = if toned { Tone::Bad } else { Tone::Plain };
            let rows: Vec<Vec<Cell>> =
                rows.into_iter().map(|row| row.iter().map(|words| Cell::new(tone, words)).collect()).collect();
            let screen = Screen::of(Some(Terminal { columns: width, colours: toned }));
            let text = table(&["FIRST", "SECOND", "A THIRD ONE", "", "FIFTH"], rows, screen, "").into_string();
            let plain = without_colours(&text);
            for line in plain.lines() {
                prop_assert!(columns(line) <= width, "{} columns, {width} there are: {line:?}", columns(line));
                prop_assert!(!line.contains(char::is_control), "{line:?}");
            }
        }

        #[test]
        fn where_nobody_sits_every_row_is_one_line_with_all_that_it_says(
            rows in prop::collection::vec(prop::collection::vec("[a-z]{1,9}( [a-z]{1,9}){0,9}", 3), 1..6),
        ) {
            let text = table(&["FIRST", "SECOND", "THIRD"], rows.clone(), Screen::default(), "").into_string();
            let read: Vec<Vec<String>> = text
                .lines()
                .skip(1)
                .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect())
                .collect();
            prop_assert_eq!(read, rows);
        }
    }
}
