//! What would be changed, for people to look at.

use super::plan::Sign;
use std::{collections::HashMap, sync::Arc};

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it comes, goes or becomes something else.
    pub sign: Sign,
    /// What: `member`, `key`.
    pub what: &'static str,
    /// Which, or how.
    pub value: String,
    /// The texts of a document before and after.
    pub texts: Option<(Arc<str>, Arc<str>)>,
}

/// One organization, account, project, cluster or volume, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Whether it comes, goes or becomes something else.
    pub sign: Sign,
    /// What it is: `account`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is changed about it.
    pub entries: Vec<Entry>,
}

/// All of it, what belongs to one thing together, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    sections: Vec<Section>,
    places: HashMap<(&'static str, String), usize>,
}

impl PartialEq for Difference {
    fn eq(&self, other: &Self) -> bool {
        self.sections == other.sections
    }
}

impl Difference {
    /// In the order of the file.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// A thing comes or goes.
    pub(super) fn section(&mut self, sign: Sign, kind: &'static str, name: &str) {
        let place = self.place(sign, kind, name);
        self.sections[place].sign = sign;
    }

    /// Something about a thing.
    pub(super) fn entry(&mut self, kind: &'static str, name: &str, sign: Sign, what: &'static str, value: String) {
        let place = self.place(Sign::Change, kind, name);
        self.sections[place].entries.push(Entry { sign, what, value, texts: None });
    }

    /// A document of a thing.
    pub(super) fn document(&mut self, kind: &'static str, name: &str, before: Arc<str>, after: Arc<str>) {
        let place = self.place(Sign::Change, kind, name);
        let sign = if before.is_empty() { Sign::Add } else { Sign::Change };
        let entry = Entry { sign, what: "configuration", value: String::new(), texts: Some((before, after)) };
        self.sections[place].entries.push(entry);
    }

    fn place(&mut self, sign: Sign, kind: &'static str, name: &str) -> usize {
        let Self { sections, places } = self;
        *places.entry((kind, name.to_owned())).or_insert_with(|| {
            sections.push(Section { sign, kind, name: name.to_owned(), entries: Vec::new() });
            sections.len() - 1
        })
    }
}
