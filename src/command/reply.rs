//! What a command answers: data for programs, text for people.

pub(crate) use super::table::table;
use super::text::Text;
use crate::app::protocol::Output;
use serde::Serialize;
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// For `--json`.
    json: Value,
    /// Standard output for people; ends with a newline unless empty.
    text: Text,
    /// Standard error: what happened, what next.
    note: Text,
    /// Exit status.
    exit: u8,
}

impl Reply {
    /// Data, and how it looks.
    pub(crate) fn data(data: &impl Serialize, text: impl Into<Text>) -> Self {
        // The views are plain data, which serializes always; null would be visible in every test.
        Self { json: serde_json::to_value(data).unwrap_or(Value::Null), text: text.into(), ..Self::default() }
    }

    /// That something was done, in a sentence; programs get the same as data.
    pub(crate) fn done(data: &impl Serialize, sentence: impl Into<Text>) -> Self {
        Self::data(data, Text::default()).note(sentence)
    }

    /// Adds a line to standard error.
    pub(crate) fn note(mut self, line: impl Into<Text>) -> Self {
        self.note.push(line);
        self.note.push("\n");
        self
    }

    /// With another exit status.
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// As it is written.
    pub(crate) fn render(self, json: bool) -> Written {
        let stdout = if json { format!("{:#}\n", self.json).into() } else { self.text };
        Written { stdout, stderr: self.note, exit: self.exit }
    }
}

/// What is written, all of it safe for a terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Standard output.
    pub(crate) stdout: Text,
    /// Standard error.
    pub(crate) stderr: Text,
    /// Exit status.
    pub(crate) exit: u8,
}

impl Written {
    /// Why there is nothing else to say.
    pub(crate) fn failure(reason: &str, message: &str, exit: u8, json: bool) -> Self {
        let Output { stdout, stderr, exit } = Output::failure(reason, message, exit, json);
        Self { stdout: stdout.into(), stderr: stderr.into(), exit }
    }
}

impl From<Written> for Output {
    fn from(written: Written) -> Self {
        Self { stdout: written.stdout.into_string(), stderr: written.stderr.into_string(), exit: written.exit }
    }
}

/// Data that is only one fact.
#[derive(Debug, Serialize)]
pub(crate) struct Fact<T: Serialize> {
    pub(crate) version: crate::domain::Version,
    #[serde(flatten)]
    pub(crate) fact: T,
}
