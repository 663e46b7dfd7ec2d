//! TOML, taken field by field. What does not fit is noted with its line, and reading goes on, so that all of a file's
//! mistakes are told at once; serde would stop at the first.

use super::problems::Problems;
use std::{fmt::Display, str::FromStr};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Larger files are not read beyond their first mistake in TOML itself: each mistake takes memory, and a large file that is
/// no TOML at all has as many as it has lines.
const MAX_RECOVERED: usize = 1024 * 1024;

/// The most signs in a file that separate something from something else. The parser takes some fifty bytes for each; a
/// directory of 100,000 accounts has four million.
const MAX_SIGNS: usize = 8 * 1024 * 1024;

/// The longest name of a field that is repeated, in characters.
const MAX_REPEATED: usize = 40;

/// Something, and the line in which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// What a field says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said<T> {
    /// It is not there.
    Nothing,
    /// It cannot be understood, which was noted: what follows from that is not told as well.
    Nonsense,
    /// This.
    This(At<T>),
}

impl<T> Said<T> {
    /// What it says, if that can be understood.
    pub(super) fn get(&self) -> Option<&At<T>> {
        match self {
            Self::Nothing | Self::Nonsense => None,
            Self::This(this) => Some(this),
        }
    }

    /// Whether it is not there.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    pub(super) fn map<U>(self, to: impl FnOnce(T) -> U) -> Said<U> {
        match self {
            Self::Nothing => Said::Nothing,
            Self::Nonsense => Said::Nonsense,
            Self::This(At { line, value }) => Said::This(At { line, value: to(value) }),
        }
    }

    fn or_nonsense(this: Option<At<T>>) -> Self {
        this.map_or(Self::Nonsense, Self::This)
    }
}

/// A list in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List<T> {
    /// What could be understood.
    pub(super) items: Vec<T>,
    /// Whether that is all of it.
    pub(super) whole: bool,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct Source {
    /// Where each line ends.
    ends: Vec<usize>,
    pub(super) problems: Problems,
}

impl Source {
    /// Parses a file.
    ///
    /// # Errors
    /// It is no TOML.
    pub(super) fn parse(text: &str) -> Result<(Self, DeTable<'_>), Problems> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        let mut source = Self { ends, problems: Problems::default() };
        let sign = |byte: &u8| matches!(byte, b'=' | b'[' | b']' | b'{' | b'}' | b',' | b'.' | b'"' | b'\'' | b'\n');
        if text.as_bytes().iter().filter(|byte| sign(byte)).count() > MAX_SIGNS {
            source.problems.add(1, "this is too much to be read at once; apply it in parts");
            return Err(source.problems);
        }
        let parsed = if text.len() > MAX_RECOVERED {
            DeTable::parse(text).map_err(|error| vec![error])
        } else {
            match DeTable::parse_recoverable(text) {
                (table, errors) if errors.is_empty() => Ok(table),
                (_, errors) => Err(errors),
            }
        };
        match parsed {
            Ok(table) => Ok((source, table.into_inner())),
            Err(errors) => {
                for error in errors {
                    let line = source.line(error.span().map_or(0, |span| span.start));
                    let what = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
                    source.problems.add(line, format!("not TOML: {what}"));
                }
                Err(source.problems.sorted())
            }
        }
    }

    /// The line of a place in the text.
    fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }

    fn line_of<T>(&self, spanned: &Spanned<T>) -> usize {
        self.line(spanned.span().start)
    }
}

/// A table of which the fields are taken; what nobody has taken is unknown.
#[derive(Debug)]
pub(super) struct Fields<'t, 'i> {
    /// What the table describes, for messages: `an account`.
    what: &'static str,
    /// Where it begins.
    pub(super) line: usize,
    table: &'t DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'t, 'i> Fields<'t, 'i> {
    /// The whole file.
    pub(super) fn of_file(table: &'t DeTable<'i>) -> Self {
        Self { what: "the file", line: 1, table, known: Vec::new() }
    }

    fn take(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.known.push(name);
        self.table.get(name)
    }

    /// A field that has to be there.
    pub(super) fn needed<T>(&self, source: &mut Source, name: &str, said: Said<T>) -> Option<At<T>> {
        match said {
            Said::Nothing => {
                source.problems.add(self.line, format!("{} needs `{name}`", self.what));
                None
            }
            Said::Nonsense => None,
            Said::This(this) => Some(this),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, source: &mut Source, name: &'static str) -> Said<&'t str> {
        let Some(value) = self.take(name) else { return Said::Nothing };
        Said::or_nonsense(text(source, name, value))
    }

    /// A text that stands for something.
    pub(super) fn parsed<T>(&mut self, source: &mut Source, name: &'static str) -> Said<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(value) = self.take(name) else { return Said::Nothing };
        Said::or_nonsense(text(source, name, value).and_then(|text| parse(source, text)))
    }

    /// A number that is not negative.
    pub(super) fn number(&mut self, source: &mut Source, name: &'static str) -> Said<u32> {
        let Some(value) = self.take(name) else { return Said::Nothing };
        let line = source.line_of(value);
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        if number.is_none() {
            source.problems.add(line, format!("`{name}` is a number from 0 to {}", u32::MAX));
        }
        Said::or_nonsense(number.map(|value| At { line, value }))
    }

    /// A list of texts that stand for something.
    pub(super) fn list<T>(&mut self, source: &mut Source, name: &'static str) -> Said<List<At<T>>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(value) = self.take(name) else { return Said::Nothing };
        let line = source.line_of(value);
        let DeValue::Array(texts) = value.get_ref() else {
            source.problems.add(line, format!("`{name}` is a list of texts: [\"…\", \"…\"]"));
            return Said::Nonsense;
        };
        let mut items = Vec::with_capacity(texts.len());
        for item in texts {
            items.extend(text(source, name, item).and_then(|text| parse(source, text)));
        }
        let whole = items.len() == texts.len();
        Said::This(At { line, value: List { items, whole } })
    }

    /// A table with fields.
    pub(super) fn table(&mut self, source: &mut Source, name: &'static str, what: &'static str) -> Said<Self> {
        let Some(value) = self.take(name) else { return Said::Nothing };
        let line = source.line_of(value);
        match value.get_ref() {
            DeValue::Table(table) => Said::This(At { line, value: Self { what, line, table, known: Vec::new() } }),
            _ => {
                source.problems.add(line, format!("`{name}` is a table: {{ … }}"));
                Said::Nonsense
            }
        }
    }

    /// Tables with fields, any number of them.
    pub(super) fn tables(&mut self, source: &mut Source, name: &'static str, what: &'static str) -> Vec<Self> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let mistake = |source: &mut Source, line| {
            source.problems.add(line, format!("`{name}` are tables: [[{name}]] before the fields of each"));
        };
        let DeValue::Array(items) = value.get_ref() else {
            let line = source.line_of(value);
            mistake(source, line);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items {
            let line = source.line_of(item);
            match item.get_ref() {
                DeValue::Table(table) => tables.push(Self { what, line, table, known: Vec::new() }),
                _ => mistake(source, line),
            }
        }
        tables
    }

    /// Every field as a pair of texts that stand for something, in the order of the file.
    pub(super) fn pairs<K, V>(self, source: &mut Source) -> List<(At<K>, At<V>)>
    where
        K: FromStr,
        K::Err: Display,
        V: FromStr,
        V::Err: Display,
    {
        let mut pairs = Vec::with_capacity(self.table.len());
        for (key, value) in self.table {
            let name: &str = key.get_ref();
            let key = parse(source, At { line: source.line_of(key), value: name });
            let value = text(source, "a value", value).and_then(|text| parse(source, text));
            pairs.extend(key.zip(value));
        }
        pairs.sort_by_key(|(key, _)| key.line);
        List { whole: pairs.len() == self.table.len(), items: pairs }
    }

    /// That nothing else is there.
    pub(super) fn done(self, source: &mut Source) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                // Whoever wrote it chose it: no more than so much, and nothing that does something to a terminal.
                let shown: String = name.chars().take(MAX_REPEATED).flat_map(char::escape_debug).collect();
                let line = source.line_of(key);
                source.problems.add(line, format!("{} has no field `{shown}`", self.what));
            }
        }
    }
}

fn text<'t>(source: &mut Source, name: &str, value: &'t Spanned<DeValue<'_>>) -> Option<At<&'t str>> {
    let line = source.line_of(value);
    let text = value.get_ref().as_str();
    if text.is_none() {
        source.problems.add(line, format!("`{name}` is a text in quotes, not of type {}", value.get_ref().type_str()));
    }
    text.map(|value| At { line, value })
}

fn parse<T>(source: &mut Source, text: At<&str>) -> Option<At<T>>
where
    T: FromStr,
    T::Err: Display,
{
    match text.value.parse() {
        Ok(value) => Some(At { line: text.line, value }),
        Err(error) => {
            source.problems.add(text.line, T::Err::to_string(&error));
            None
        }
    }
}
