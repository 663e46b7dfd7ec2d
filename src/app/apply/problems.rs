//! What is wrong with a file: all of it, each with its line, within a bound.

use std::fmt;

/// The most that is told; of the rest only how much there is.
const MAX_TOLD: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// In which line, from 1.
    pub line: usize,
    /// What; one line that repeats nothing of the file but names that are known to be harmless.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// Something is wrong in a line.
    pub(super) fn add(&mut self, line: usize, text: impl Into<String>) {
        if self.found.len() < MAX_TOLD {
            self.found.push(Problem { line, text: text.into() });
        } else {
            self.more += 1;
        }
    }

    /// How many there are: so that it can be seen whether one was added.
    pub(super) fn count(&self) -> usize {
        self.found.len() + self.more
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// In the order of the file.
    pub(super) fn sorted(mut self) -> Self {
        self.found.sort();
        self.found.dedup();
        self
    }

    /// Those that are told.
    #[must_use]
    pub fn told(&self) -> &[Problem] {
        &self.found
    }
}

/// A line for each, and how many there are.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.found {
            writeln!(f, "{problem}")?;
        }
        match (self.found.len(), self.more) {
            (1, 0) => f.write_str("1 mistake; nothing was changed"),
            (told, 0) => write!(f, "{told} mistakes; nothing was changed"),
            (told, more) => write!(f, "{} mistakes, of which these are {told}; nothing was changed", told + more),
        }
    }
}
