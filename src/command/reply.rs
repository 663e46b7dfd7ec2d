//! What a command answers: data for programs, text for people.

pub(crate) use super::table::table;
use super::text::Text;
use crate::app::protocol::{Base64, Output};
use serde::Serialize;
use serde_json::Value;

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    /// For `--json`.
    json: Value,
    /// Standard output for people; ends with a newline unless empty.
    text: Text,
    /// Standard output for programs that want something else than text.
    binary: Vec<u8>,
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

    /// Data that is not text, and what there is to say about it as JSON.
    pub(crate) fn binary(data: &impl Serialize, bytes: Vec<u8>) -> Self {
        Self { binary: bytes, ..Self::data(data, Text::default()) }
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
        let (stdout, binary) =
            if json { (format!("{:#}\n", self.json).into(), Vec::new()) } else { (self.text, self.binary) };
        Written { stdout, binary, stderr: self.note, exit: self.exit }
    }
}

/// What is written, all of it safe for a terminal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Standard output.
    pub(crate) stdout: Text,
    /// What follows it there, byte by byte.
    pub(crate) binary: Vec<u8>,
    /// Standard error.
    pub(crate) stderr: Text,
    /// Exit status.
    pub(crate) exit: u8,
}

impl Written {
    /// Why there is nothing else to say.
    pub(crate) fn failure(reason: &str, message: &str, exit: u8, json: bool) -> Self {
        let Output { stdout, stderr, exit, .. } = Output::failure(reason, message, exit, json);
        Self { stdout: stdout.into(), binary: Vec::new(), stderr: stderr.into(), exit }
    }
}

impl From<Written> for Output {
    fn from(written: Written) -> Self {
        let Written { stdout, binary, stderr, exit } = written;
        Self { stdout: stdout.into_string(), binary: Base64(binary), stderr: stderr.into_string(), exit }
    }
}

/// Data that is only one fact.
#[derive(Debug, Serialize)]
pub(crate) struct Fact<T: Serialize> {
    pub(crate) version: crate::domain::Version,
    #[serde(flatten)]
    pub(crate) fact: T,
}
