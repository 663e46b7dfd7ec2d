//! What a command answers: data for programs, text for people.

use crate::app::protocol::Output;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// For `--json`.
    json: Value,
    /// Standard output for people; ends with a newline unless empty.
    text: String,
    /// Standard error: what happened, what next.
    note: String,
    /// Exit status.
    exit: u8,
}

impl Reply {
    /// Data, and how it looks.
    pub(crate) fn data(data: &impl Serialize, text: impl Into<String>) -> Self {
        // The views are plain data, which serializes always; null would be visible in every test.
        Self { json: serde_json::to_value(data).unwrap_or(Value::Null), text: text.into(), ..Self::default() }
    }

    /// That something was done, in a sentence; programs get the same as data.
    pub(crate) fn done(data: &impl Serialize, sentence: impl Into<String>) -> Self {
        Self::data(data, String::new()).note(sentence)
    }

    /// Adds a line to standard error.
    pub(crate) fn note(mut self, line: impl Into<String>) -> Self {
        self.note.push_str(&line.into());
        self.note.push('\n');
        self
    }

    /// With another exit status.
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// As it is written.
    pub(crate) fn render(self, json: bool) -> Output {
        let stdout = if json { format!("{:#}\n", self.json) } else { self.text };
        Output { stdout, stderr: self.note, exit: self.exit }
    }
}

/// A table that fits the width, or a sentence if there is nothing to show.
pub(crate) fn table(headers: &[&str], rows: Vec<Vec<String>>, width: Option<u16>, empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headers.to_vec());
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// Data that is only one fact.
#[derive(Debug, Serialize)]
pub(crate) struct Fact<T: Serialize> {
    pub(crate) version: crate::domain::Version,
    #[serde(flatten)]
    pub(crate) fact: T,
}
